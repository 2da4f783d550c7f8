"""The public classifier: how labels become targets, and outputs labels.

The rest is in `fastbp.base`.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.special import expit, log_expit, log_softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if

from fastbp import parameters as params
from fastbp.base import BaseMLP, checks_parameters, keeps_hints, takes_batches
from fastbp.data import is_source
from fastbp.labels import as_text, pack_bytes, plain_accuracy
from fastbp.late import imported
from fastbp.losses import find_loss, names_for
from fastbp.model import LabelViews
from fastbp.supervision import Supervision, labels_of, loss_coefficients, weigh_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal, Self

    from numpy.typing import ArrayLike

    from fastbp.hints import (
        Array,
        ArrayLikeOrSparse,
        ClassWeight,
        FloatArray,
        LayerSizes,
        Path,
        RandomSource,
        Schedule,
        Scoring,
    )
    from fastbp.progress import EpochReport
    from fastbp.sources import Source


class MLPClassifier(LabelViews, ClassifierMixin, BaseMLP):
    """Multilayer perceptron for classification, with scikit-learn's interface.

    Two classes make one logistic output unit, more classes softmax outputs, and label indicators
    one logistic unit for each label. The parameters up to `max_fun` are scikit-learn's, position
    for position; those after it are fastbp's own, keyword-only, and neutral by default.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Number of units in each hidden layer; an int for one hidden layer, () for none.

    activation : str or sequence of str, default='relu'
        Activation of the hidden layers, f(z):

        - 'identity': z;
        - 'logistic', or its other name 'sigmoid': 1 / (1 + exp(-z));
        - 'tanh': tanh(z);
        - 'relu': max(0, z);
        - 'gelu': z Phi(z), with the exact normal distribution function Phi [1]_;
        - 'leaky_relu': z above 0, 0.01 z below [4]_;
        - 'elu': z above 0, exp(z) - 1 below [5]_;
        - 'selu': 1.0507 z above 0, 1.7581 (exp(z) - 1) below [6]_;
        - 'softplus': log(1 + exp(z)) [7]_;
        - 'silu', or its other name 'swish': z / (1 + exp(-z)) [1]_;
        - 'mish': z tanh(log(1 + exp(z))) [8]_.

        Those that scikit-learn lacks are as in PyTorch. A sequence gives each hidden layer its own.
        Initial weights are drawn between plus and minus sqrt(6 / (fan_in + fan_out)), with
        'logistic' sqrt(2 / (fan_in + fan_out)).

    solver : {'lbfgs', 'sgd', 'adam', 'adamw', 'nadam', 'rmsprop', 'lion'}, default='adam'
        How the weights are optimised:

        - 'sgd': stochastic gradient descent, with momentum;
        - 'adam': the adaptive method of Kingma and Ba [2]_;
        - 'adamw': Adam with decoupled weight decay [3]_, see `weight_decay`;
        - 'nadam': Adam with Nesterov's momentum [9]_, as in PyTorch (its `momentum_decay` is 0.004,
          and its decay of weights is `alpha`);
        - 'rmsprop': steps divided by the root of the average squared gradient [10]_, as in PyTorch,
          whose smoothing constant is `beta_2` here (there 0.99). It has no momentum;
        - 'lion': steps of one size, by the sign of an averaged gradient [11]_, with `weight_decay`.
          Usual are beta_2=0.99, and against 'adamw' a third to a tenth of `learning_rate_init` and
          three to ten times `weight_decay`;
        - 'lbfgs': the quasi-Newton method L-BFGS-B, which uses all rows in every step and suits
          small data.

    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (not the biases), for every solver. To the loss of
        a batch it adds alpha / 2 times the squared norm of the weights, divided by the total
        sample weight of the batch.

    batch_size : int or 'auto', default='auto'
        Number of rows in a mini-batch; 'auto' is min(200, n_samples). The last batch of an epoch
        may be smaller. Not used by 'lbfgs'.

    learning_rate : {'constant', 'invscaling', 'adaptive', 'cosine', 'log_cosine', \
            'flat_cosine', 'one_cycle', 'linear', 'exponential'} or callable, default='constant'
        Schedule of the learning rate. Three go by what has happened; 'adam' does not follow the
        second and the third, as in scikit-learn:

        - 'constant' keeps `learning_rate_init`;
        - 'invscaling' makes it learning_rate_init / (t + 1) ** power_t after each epoch, where t
          is the number of rows trained on;
        - 'adaptive' divides the current rate by 5 whenever training would stop for lack of
          improvement, until it is at most 1e-6.

        The others are plans for `max_iter` epochs. They change the rate with every update, and of
        every solver but 'lbfgs':

        - 'cosine' brings it from `learning_rate_init` to 0 by half a cosine [12]_;
        - 'log_cosine' brings it from 0 up to `learning_rate_init` and back, four times, each
          time twice as long as the time before [19]_;
        - 'flat_cosine' keeps it for half of the training, then brings it to 0 by half a cosine;
        - 'linear' brings it to 0 in a straight line;
        - 'exponential' brings it to a hundredth, by the same factor in equal times;
        - 'one_cycle' brings it from a 25th of `learning_rate_init` up to that in the first three
          tenths of training, then down to a 250,000th, by half cosines [13]_. These are the
          defaults of PyTorch's OneCycleLR, whose momentum cycles, too: here it does not;
        - a callable ``f(progress)`` returns the factors by which `learning_rate_init` is
          multiplied, an array of the same shape as `progress` or one number for all. It is called
          once an epoch with the progress of each of its updates, an array of shape (n_updates,): 0
          at the start of training, 1 after `max_iter` epochs.

        A plan is trained to its end: a loss that no longer improves does not end it, as the rate is
        still to come down, and reaching `max_iter` is no reason to warn. With `early_stopping` the
        score may end it, and the best weights are restored. A call of `partial_fit` counts as an
        epoch, also after `fit`; from `max_iter` epochs on the progress stays 1. `warmup` goes with
        all of them.

    learning_rate_init : float, default=0.001
        Initial learning rate of all solvers but 'lbfgs'; the highest one with
        learning_rate='one_cycle' or a `warmup`.

    power_t : float, default=0.5
        Exponent of the 'invscaling' schedule.

    max_iter : int, default=200
        Maximum number of epochs, or of iterations of 'lbfgs', in a call of `fit`.

    shuffle : bool, default=True
        Whether to shuffle the rows before each epoch. Not used by 'lbfgs'.

    random_state : int, RandomState instance or None, default=None
        Source of the initial weights, of the rows held out for early stopping, and of the order of
        the rows. An int makes results reproducible across calls.

    tol : float, default=1e-4
        Smallest change of the loss (or of the validation score) that counts as an improvement; the
        tolerance of the gradient with 'lbfgs'.

    verbose : bool, int or 'progress', default=False
        Whether to print a line for each epoch. 'progress' shows one line that changes, with the
        loss, the validation score, the rows in a second and the time left: by tqdm or rich, if one
        of them is installed. Where the output is no terminal, it prints at most a line every ten
        seconds. `partial_fit` shows none.

    warm_start : bool, default=False
        Whether `fit` continues from the present weights. The layers must be the same as before.
        The optimizer starts anew; the rows held out for early stopping stay the same.

    momentum : float, default=0.9
        Momentum of 'sgd', from 0 to 1.

    nesterovs_momentum : bool, default=True
        Whether 'sgd' uses Nesterov's form of momentum.

    early_stopping : bool, default=False
        Whether to hold out rows, score the model on them after each epoch, stop when the score no
        longer improves, and restore the weights with the best score. Not used by 'lbfgs'.

    validation_fraction : float, default=0.1
        Fraction of the rows held out for early stopping.

    beta_1 : float, default=0.9
        Exponential decay rate of the first moment in 'adam', 'adamw' and 'nadam'; in 'lion' the
        share of the average in the gradient whose sign counts.

    beta_2 : float, default=0.999
        Exponential decay rate of the second moment in 'adam', 'adamw', 'nadam' and 'rmsprop', and
        of the average in 'lion'.

    epsilon : float, default=1e-8
        Added to the root of the second moment, for numerical stability: in 'adam' before the
        correction of its bias, as in scikit-learn, in 'adamw' and 'nadam' after it, as in PyTorch,
        and in 'rmsprop', which corrects nothing.

    n_iter_no_change : int or inf, default=10
        Training stops after more than this number of consecutive epochs without an improvement.

    max_fun : int, default=15000
        Maximum number of evaluations of the loss by 'lbfgs'.

    loss : {'log_loss', 'squared_error', 'focal'}, default='log_loss'
        Loss to minimise:

        - 'log_loss': the cross-entropy;
        - 'squared_error': half the squared error of logistic output units, one for each class or
          label, as in many textbooks;
        - 'focal': the cross-entropy of every row, output by output, times (1 - p) ** focal_gamma, p
          being the probability of what is true: rows that are right already count less [17]_.

    focal_gamma : float, default=2.0
        How much less 'focal' counts rows that are right; with 0 it is the log loss.

    label_smoothing : float, default=0.0
        Share of every target that is spread over all classes, from 0 to below 1 [18]_. For K > 2
        classes a row's targets become 1 - label_smoothing + label_smoothing / K for its class and
        label_smoothing / K for the others. With two classes, and for each label of indicators, 1
        and 0 become 1 - label_smoothing / 2 and label_smoothing / 2: the same as with two softmax
        units. The loss that is reported is that of the smoothed targets, as in PyTorch; scores are
        not smoothed. It goes with every loss.

    weight_decay : float, default=0.01
        Decoupled decay of the weights (not the biases) in 'adamw' and 'lion': each update also
        subtracts learning rate * weight_decay * weight [3]_. Not used by the other solvers. The
        penalty `alpha` stays in force: 0 switches it off.

    weight_decay_schedule : str or callable, default='constant'
        How `weight_decay` changes over the training, beside the learning rate: one of the plans of
        `learning_rate` ('cosine', 'log_cosine', 'flat_cosine', 'one_cycle', 'linear',
        'exponential'), or a callable like there, whose factors multiply it.

    warmup : float, default=0.0
        Share of the training, `max_iter` epochs, in which the learning rate rises from 0 in a
        straight line, below 1: it multiplies whatever `learning_rate` says, update by update, with
        every solver but 'lbfgs'. Lack of improvement counts from its end on.

    drop_last : bool, default=False
        Whether an epoch leaves out the rows that do not fill its last batch: others in each epoch,
        as long as it shuffles. Not used by 'lbfgs'.

    precision : {'auto', 'float32', 'float64', 'tf32', 'bfloat16'}, default='auto'
        Type of the arithmetic and of the weights. 'auto' is float32 where X is float32 or on a GPU,
        otherwise float64; training that continues keeps the type of the weights. 'bfloat16' trains
        with matrix products of numbers rounded to 8 bits, on the CPU (about 1.7 times as fast as
        float32 where it has AVX512-BF16, and slower than float32 elsewhere) or the tensor cores of
        a GPU, 'tf32' with products of 11 bits on those. Sums, weights, updates and predictions are
        float32 then. 'lbfgs' refuses both. A CPU with AMX makes the products by that, once a small
        one has been found equal to NumPy's: this code is compiled, and tested in emulation, but no
        such CPU has run it yet.

    dropout : float or sequence of float, default=0.0
        Probability with which each output of a hidden layer is left out of an update, from 0 to 1
        exclusive; a sequence gives each hidden layer its own. What stays is divided by the
        probability to stay, so that predictions and scores, which leave out nothing, need no
        factor [14]_. What is left out depends on `random_state`, and neither on `n_threads` nor on
        the device. 'lbfgs' refuses it.

    input_dropout : float, default=0.0
        The same for the features of X.

    dropout_schedule : str or callable, default='constant'
        How the probabilities of `dropout` and `input_dropout` change over the training: 'cosine',
        'log_cosine', 'flat_cosine', 'one_cycle', 'linear', 'exponential', or a callable, whose
        factors multiply them. Factors above 1 count as 1.

    max_grad_norm : float or None, default=None
        Largest Euclidean norm of an update's gradient, of all weights and biases together; a larger
        one is scaled down [15]_, as by PyTorch's `clip_grad_norm_`. The gradient is that of the
        loss with its penalty `alpha`. 'lbfgs' refuses it.

    ema_decay : float or None, default=None
        Decay of an exponential moving average of the weights over the updates [16]_: after the
        first update it is the weights, then ema_decay * average + (1 - ema_decay) * weights. Scores
        and predictions use the average, and it is what `coefs_` holds; training goes on from the
        weights themselves. Typical is 0.99 to 0.9999. 'lbfgs' refuses it.

    learning_rate_factors : dict or None, default=None
        Factors of the learning rate for some kinds of parameters, by name: 'intercepts', 'scales'
        (of a `scaling_layer`), 'slopes' (of a `parametric_activation`) and 'embedding' (of a
        `numerical_embedding`). Those that are not in it have 1. `weight_decay` is multiplied by the
        factor, too. 'lbfgs' refuses it.

    parametrization : {'standard', 'neural_tangent'}, default='standard'
        'neural_tangent' trains as if a layer computed z = x W / sqrt(fan_in) + b from weights W of
        the order of 1 [20]_: `coefs_` are W / sqrt(fan_in), whose gradients and learning rates are
        divided by sqrt(fan_in). The one output unit of two classes moves as the difference of
        two units. 'lbfgs' refuses it.

    initialization : {'glorot', 'normal', 'data_driven'}, default='glorot'
        How the initial weights are drawn:

        - 'glorot': uniformly, as scikit-learn does; see `activation`;
        - 'normal': weights from N(0, 1 / fan_in), intercepts from N(0, 1), and zeros in the output
          layer [19]_;
        - 'data_driven': weights from a normal distribution, scaled so that every unit's z has the
          variance 1 on the rows of X (up to 4,096 of them); minus the intercept is a random mean
          of five rows' z [19]_.

    scaling_layer : bool, default=False
        Whether every input has a trainable factor, from 1 on, before the first layer [19]_. With a
        learning rate of its own ('scales' in `learning_rate_factors`) it soon mutes what does
        not help. After training `coefs_` contain the factors, and `feature_scales_` tells them.

    parametric_activation : bool, default=False
        Whether every hidden unit has a trainable slope a, from 1 on: its output is
        z + a (f(z) - z), with the activation f [19]_. They are in `activation_slopes_`.

    numerical_embedding : {'pbld', None}, default=None
        'pbld' feeds the first layer, for every numerical feature x, three more numbers beside x:
        V cos(2 pi w x + b) + c, with 16 trainable frequencies w and phases b a feature, and V and c
        trainable, too [21]_ [19]_. Scale the features to the order of 1 before. X must be dense.
        The first of `coefs_` has the rows of these numbers, feature by feature, before those of the
        features. The parameters are in `embedding_`.

    embedded_features : int or None, default=None
        Number of features that are numerical, the first ones of X; None for all. The others go to
        the first layer as they are. Not used without `numerical_embedding`.

    n_threads : int or None, default=None
        Maximum number of threads; None for the available cores, of which there are never fewer
        than threads. Fewer are used where that is faster. Results do not depend on it.

    input_scale : float, default=1.0
        Factor by which X is multiplied, in training and in prediction, batch by batch. With 1/255
        a model trains from bytes without a float copy of X.

    class_weight : dict, 'balanced', list or None, default=None
        Weights of the classes, by which the rows' sample weights are multiplied:

        - a dict {class: weight}; classes that are not in it have the weight 1;
        - 'balanced': the total weight / (number of classes * weight of the class), as in
          scikit-learn's LogisticRegression. `partial_fit` does not take it;
        - for label indicators a list with a dict {0: weight, 1: weight}, or 'balanced', for each
          label, or 'balanced' for all. As in scikit-learn's `compute_sample_weight` a row's weight
          is the product over its labels.

        With early stopping the held-out rows are scored with these weights, as in scikit-learn's
        HistGradientBoostingClassifier. `score` does not use them.

    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where to compute. 'cuda' is an NVIDIA GPU; 'auto' is a GPU if one can be used, otherwise the
        CPU, and says which if `verbose`. A fitted model computes on the device that the attribute
        names at the time of the call.

    callback : callable or None, default=None
        Called after each epoch with a `fastbp.training.EpochReport`, whose ``stop()`` ends
        training and whose ``predict(X)`` uses the weights of that epoch. What it returns does not
        count. scikit-learn's own callbacks are for `set_callbacks`.

    scoring : str, callable, list, tuple, dict or None, default=None
        How the model is scored on validation rows, those held out for early stopping or those that
        `fit` is given as `X_val` and `y_val`; more is better. Not used where there are none.

        - None: the accuracy;
        - 'loss': minus the loss of these rows, without the penalty;
        - the name of one of scikit-learn's scorers, such as 'roc_auc'
          or 'average_precision';
        - a function ``scorer(estimator, X, y)``, which is also given `sample_weight` if there are
          weights and it takes them; `estimator` has the weights of the epoch;
        - several of these in a list, a tuple or a dict from names: the first decides, and all are
          kept in `validation_metrics_`.

    ties : {'first', 'last'}, default='first'
        Which of several epochs with the same best score keeps its weights under early stopping. The
        first is scikit-learn's choice; the last has often trained further where the score is the
        accuracy of few rows.

    checkpoint : str, path-like or None, default=None
        File in which `fit` keeps its state, from which ``fit(X, y, resume=True)`` goes on after a
        crash. Each state replaces the last one in one step; the last stays after the end of
        training. A file that exists is overwritten, unless `resume` is given. Rows may come from a
        source; docs/saving.md says how a fit knows that they are the same. Not used by
        `partial_fit`; 'lbfgs' and `fit_many` refuse it.

    checkpoint_every : int, default=1
        Number of epochs from one writing of `checkpoint` to the next.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the probabilities.

    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weight matrices, one for each layer after the input. They may be changed or replaced:
        predictions and further training use what is there.

    intercepts_ : list of ndarray of shape (fan_out,)
        Bias vectors.

    loss_ : float
        Loss of the last epoch.

    loss_curve_ : list of float
        Loss of every epoch (or iteration of 'lbfgs'), weighted by sample weight.

    best_loss_ : float or None
        Smallest loss; None with early stopping.

    validation_scores_ : list of float or None
        Score of the validation rows after each epoch: accuracy, or the first that `scoring` names;
        None where there are no such rows.

    validation_loss_curve_ : list of float or None
        Loss of the validation rows after each epoch, without the penalty, weighted by sample
        weight; None where there are no such rows.

    validation_metrics_ : dict of str to list of float, or None
        All scores by name, where `scoring` names several; otherwise None.

    best_validation_score_ : float or None
        Best score, which the kept weights have; None without early stopping. After a warm start it
        refers to the present rows.

    best_iter_ : int
        The epoch of the last call, counted from 1, that had the best score and so the weights that
        are kept; without early stopping the one that had the smallest loss. 0 if none was better
        than what a warm start began with.

    n_iter_ : int
        Number of epochs (or iterations of 'lbfgs') in the last call.

    t_ : int
        Number of rows trained on, counted again in every epoch.

    n_layers_ : int
        Number of layers, input and output included.

    n_outputs_ : int
        Number of output units.

    out_activation_ : str
        Activation of the output layer.

    feature_scales_ : ndarray of shape (n_inputs,)
        Factors of the first layer's inputs that a `scaling_layer` has found; `coefs_` contain them.

    activation_slopes_ : list of ndarray of shape (n_units,)
        Slopes of each hidden layer's units, with a `parametric_activation`.

    embedding_ : list of ndarray
        Frequencies and phases, of shape (n_embedded, 16), weights (n_embedded, 16, 3) and biases
        (n_embedded, 3) of a `numerical_embedding`.

    n_features_in_ : int
        Number of features of X.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had names that are all strings.

    See Also
    --------
    MLPRegressor : The same network for regression.
    fit_many : Fit many estimators side by side.

    Notes
    -----
    With the same `random_state`, parameters and float64 data, training follows scikit-learn's to
    rounding. The differences are deliberate; docs/differences.md lists every one with its test. In
    short:

    - A loss that becomes NaN or infinite ends training at once, and a call that fails changes
      nothing.
    - A warm start trains again after convergence, keeps the best weights and the held-out rows
      apart, and raises where the network is another one.
    - No probability is 0, and `predict_log_proba` never -inf.
    - float32 X makes float32 models, with every solver and whatever the type of y.
    - `loss_curve_` is weighted by sample weight; a batch without weight is skipped.
    - 'lbfgs' has no `partial_fit`; a pickle holds the weights once.

    References
    ----------
    .. [1] Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, arXiv:1606.08415.
    .. [2] Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980.
    .. [3] Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
       arXiv:1711.05101.
    .. [4] Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models",
       ICML 2013.
    .. [5] Clevert, Unterthiner and Hochreiter, "Fast and Accurate Deep Network Learning by
       Exponential Linear Units (ELUs)", ICLR 2016, arXiv:1511.07289.
    .. [6] Klambauer, Unterthiner, Mayr and Hochreiter, "Self-Normalizing Neural Networks",
       NeurIPS 2017, arXiv:1706.02515.
    .. [7] Dugas, Bengio, Bélisle, Nadeau and Garcia, "Incorporating Second-Order Functional
       Knowledge for Better Option Pricing", NeurIPS 2000.
    .. [8] Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020,
       arXiv:1908.08681.
    .. [9] Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop.
    .. [10] Tieleman and Hinton, "Lecture 6.5: rmsprop", COURSERA: Neural Networks for Machine
       Learning, 2012.
    .. [11] Chen and others, "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023,
       arXiv:2302.06675.
    .. [12] Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
       ICLR 2017, arXiv:1608.03983.
    .. [13] Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large
       Learning Rates", 2019, arXiv:1708.07120.
    .. [14] Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
       JMLR 15, 2014.
    .. [15] Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
       ICML 2013, arXiv:1211.5063.
    .. [16] Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM
       Journal on Control and Optimization 30, 1992.
    .. [17] Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", ICCV 2017,
       arXiv:1708.02002.
    .. [18] Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for
       Computer Vision", CVPR 2016, arXiv:1512.00567.
    .. [19] Holzmüller, Grinsztajn and Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
       Boosted Trees on Tabular Data", NeurIPS 2024, arXiv:2407.04491.
    .. [20] Jacot, Gabriel and Hongler, "Neural Tangent Kernel: Convergence and Generalization in
       Neural Networks", NeurIPS 2018, arXiv:1806.07572.
    .. [21] Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular Deep
       Learning", NeurIPS 2022, arXiv:2203.05556.

    Examples
    --------
    >>> from fastbp import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier((10,), solver="lbfgs", random_state=0).fit(X, y)
    >>> classifier.predict(X[:3])
    array([0, 0, 0])
    >>> classifier.predict_proba(X[:3]).shape
    (3, 3)
    >>> classifier.score(X, y) > 0.95
    True
    """

    _parameter_constraints: ClassVar = {
        **params.CONSTRAINTS,
        "loss": [StrOptions({*names_for("classification")})],
        "focal_gamma": [Interval(Real, 0, None, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }
    _numeric_targets = False
    _encoding = ("loss",)  # the parameters that `_encode` depends on
    if TYPE_CHECKING:
        focal_gamma: float
        label_smoothing: float
        class_weight: ClassWeight
    _average_outputs = False

    def __init__(
        self,
        hidden_layer_sizes: LayerSizes = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: RandomSource = None,
        tol: float = 1e-4,
        verbose: bool | int | Literal["progress"] = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: str = "log_loss",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        weight_decay: float = 0.01,
        weight_decay_schedule: Schedule = "constant",
        warmup: float = 0.0,
        drop_last: bool = False,
        precision: Literal["auto", "float32", "float64", "tf32", "bfloat16"] = "auto",
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        dropout_schedule: Schedule = "constant",
        max_grad_norm: float | None = None,
        ema_decay: float | None = None,
        learning_rate_factors: dict[str, float] | None = None,
        parametrization: Literal["standard", "neural_tangent"] = "standard",
        initialization: str = "glorot",
        scaling_layer: bool = False,
        parametric_activation: bool = False,
        numerical_embedding: Literal["pbld"] | None = None,
        embedded_features: int | None = None,
        n_threads: int | None = None,
        input_scale: float = 1.0,
        class_weight: ClassWeight = None,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        callback: Callable[[EpochReport], object] | None = None,
        scoring: Scoring = None,
        ties: Literal["first", "last"] = "first",
        checkpoint: Path | None = None,
        checkpoint_every: int = 1,
    ) -> None:
        self._set_parameters(locals())

    @keeps_hints(available_if(takes_batches))
    @checks_parameters
    @keeps_hints(_fit_context(prefer_skip_nested_validation=True))
    def partial_fit(
        self,
        X: ArrayLikeOrSparse | Source,
        y: ArrayLikeOrSparse | None = None,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on the given rows, from the present weights.

        The optimizer continues from its last state, also from that of `fit`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or source
            A source of `fastbp.sources` has its own y and sample weights, and is read once.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels or label indicators; they need not contain every class.
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever occur; needed in the first call only.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If `classes` is missing in the first call or differs later, if y has other labels, or
            with `early_stopping` or ``class_weight="balanced"``.
        """
        given = self.class_weight if isinstance(self.class_weight, list) else [self.class_weight]
        if any(isinstance(each, str) for each in given):
            raise ValueError(
                f"class_weight={self.class_weight!r} is not supported for partial_fit, which sees "
                "one batch of rows at a time. Compute the weights from all labels by "
                "sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, "
                "y=y), and give them as a dict."
            )
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _encode(self, y, dtype, model, incremental, classes):
        y = pack_bytes(y)
        labels = labels_of(y, None if model is None else model.labels, incremental, classes)
        return labels.encode(y, dtype), labels, labels.n_outputs

    def _supervise(self, targets, labels, sample_weight, dtype, units=None):
        if self.class_weight is not None:
            sample_weight = weigh_classes(self.class_weight, labels, targets, sample_weight)
        coefficients = loss_coefficients(self, labels.n_outputs)
        return Supervision(
            targets, sample_weight, labels.n_outputs, coefficients, float(self.label_smoothing)
        )

    def _output_activation(self, labels):
        is_exclusive = labels.kind == "multiclass" and find_loss(self.loss, "softmax")
        return "softmax" if is_exclusive else "logistic"

    def _score_outputs(self, outputs, labels, targets, sample_weight):
        return labels.accuracy(outputs, targets, sample_weight)

    def predict(self, X: ArrayLikeOrSparse | Source) -> Array:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or source

        Returns
        -------
        y : ndarray of shape (n_samples,), or label indicators of shape (n_samples, n_labels)
            Sparse where the indicators given to `fit` were sparse.
        """
        model = self._fitted()
        return self._decoded(model, X, model.labels.decode)

    def score(
        self,
        X: ArrayLikeOrSparse | Source,
        y: ArrayLikeOrSparse | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Compute the accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or source
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            With label indicators, a row counts where all its labels are right.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        accuracy : float
        """
        if is_source(X):
            y, sample_weight = X.targets(y, sample_weight)
        predicted = self.predict(X)
        accuracy = None if sample_weight is not None else plain_accuracy(y, predicted)
        if accuracy is not None:
            return accuracy
        if predicted.dtype.kind == "S":  # which scikit-learn's metrics refuse
            y, predicted = as_text(pack_bytes(np.asarray(y))), as_text(predicted)
        metrics = imported("sklearn.metrics")
        return metrics.accuracy_score(y, predicted, sample_weight=sample_weight)

    def predict_proba(self, X: ArrayLikeOrSparse | Source) -> FloatArray:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or source

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Rows sum to 1, except for label indicators, where each
            label has its own probability. None is 0: the smallest is the dtype's smallest normal
            number.
        """
        model = self._fitted()
        kind, activation = model.labels.kind, model.network.output_activation
        if kind == "binary":
            probabilities = self._decoded(model, X, _of_two, "identity")
        elif kind == "multiclass" and activation == "logistic":
            probabilities = self._decoded(model, X, _shares, "identity")
        else:
            probabilities = self._decoded(model, X, lambda outputs: outputs)
        return np.maximum(probabilities, np.finfo(probabilities.dtype).tiny, out=probabilities)

    def predict_log_proba(self, X: ArrayLikeOrSparse | Source) -> FloatArray:
        """Predict the logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or source

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            Finite, as no probability is 0.
        """
        return np.log(self.predict_proba(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _of_two(logits):
    """The probabilities of both classes."""
    return expit(np.hstack([-logits, logits]))


def _shares(logits):
    """Shares of the outputs, which may all be as good as 0."""
    return np.exp(log_softmax(log_expit(logits), axis=1))
