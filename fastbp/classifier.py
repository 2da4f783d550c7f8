"""The public classifier: how labels become targets, and outputs labels.

The rest is in `fastbp.base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.special import expit, log_expit, log_softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from fastbp import parameters as params
from fastbp.base import BaseMLP, checks_parameters, keeps_hints, takes_batches
from fastbp.labels import Labels, as_text, pack_bytes, sorted_classes
from fastbp.late import imported
from fastbp.losses import find_loss, names_for
from fastbp.model import LabelViews

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal, Self

    from numpy.typing import ArrayLike

    from fastbp.hints import (
        Array,
        ArrayLikeOrSparse,
        FloatArray,
        LayerSizes,
        Path,
        RandomSource,
        Schedule,
        Scoring,
    )
    from fastbp.progress import EpochReport


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
        - 'gelu': z Phi(z), with the exact normal distribution function Phi [1]_.

        A sequence gives each hidden layer its own.

    solver : {'lbfgs', 'sgd', 'adam', 'adamw'}, default='adam'
        How the weights are optimised:

        - 'sgd': stochastic gradient descent, with momentum;
        - 'adam': the adaptive method of Kingma and Ba [2]_;
        - 'adamw': Adam with decoupled weight decay [3]_, see `weight_decay`;
        - 'lbfgs': the quasi-Newton method L-BFGS-B, which uses all rows in every step and suits
          small data.

    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (not the biases), for every solver. To the loss of
        a batch it adds alpha / 2 times the squared norm of the weights, divided by the total
        sample weight of the batch.

    batch_size : int or 'auto', default='auto'
        Number of rows in a mini-batch; 'auto' is min(200, n_samples). The last batch of an epoch
        may be smaller. Not used by 'lbfgs'.

    learning_rate : {'constant', 'invscaling', 'adaptive'} or callable, default='constant'
        Schedule of the learning rate. The named ones apply to 'sgd' and 'adamw':

        - 'constant' keeps `learning_rate_init`;
        - 'invscaling' makes it learning_rate_init / (t + 1) ** power_t after each epoch, where t
          is the number of rows trained on;
        - 'adaptive' divides the current rate by 5 whenever training would stop for lack of
          improvement, until it is at most 1e-6.

        A callable ``f(progress)`` applies to every solver but 'lbfgs'. It is called once an epoch
        with the progress of each of its updates, an array of shape (n_updates,): 0 at the start
        of training, 1 after `max_iter` epochs. It returns the factors by which
        `learning_rate_init` is multiplied, an array of the same shape or one number for all.
        Training that ends after `max_iter` epochs then does not warn; `tol` may end it earlier,
        unless `n_iter_no_change` is inf. A call of `partial_fit` counts as an epoch, also after
        `fit`; from `max_iter` epochs on the progress stays 1.

    learning_rate_init : float, default=0.001
        Initial learning rate of 'sgd', 'adam' and 'adamw'.

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
        Exponential decay rate of the first moment in 'adam' and 'adamw'.

    beta_2 : float, default=0.999
        Exponential decay rate of the second moment in 'adam' and 'adamw'.

    epsilon : float, default=1e-8
        Added to the root of the second moment, for numerical stability: in 'adam' before the
        correction of its bias, as in scikit-learn, in 'adamw' after it, as in PyTorch.

    n_iter_no_change : int or inf, default=10
        Training stops after more than this number of consecutive epochs without an improvement.

    max_fun : int, default=15000
        Maximum number of evaluations of the loss by 'lbfgs'.

    loss : {'log_loss', 'squared_error'}, default='log_loss'
        Loss to minimise: the cross-entropy; or half the squared error of logistic output units, one
        for each class or label, as in many textbooks.

    weight_decay : float, default=0.01
        Decoupled decay of the weights (not the biases) in 'adamw': each update also subtracts
        learning rate * weight_decay * weight [3]_. Not used by the other solvers. The penalty
        `alpha` stays in force: 0 switches it off.

    precision : {'auto', 'float32', 'float64', 'tf32', 'bfloat16'}, default='auto'
        Type of the arithmetic and of the weights. 'auto' is float32 where X is float32 or on a GPU,
        otherwise float64; training that continues keeps the type of the weights. 'tf32' and
        'bfloat16' use the tensor cores of a GPU for matrix products; weights and predictions are
        float32 then.

    n_threads : int or None, default=None
        Maximum number of threads; None for the available cores. Fewer are used where that is
        faster. Results do not depend on it.

    input_scale : float, default=1.0
        Factor by which X is multiplied, in training and in prediction, batch by batch. With 1/255
        a model trains from bytes without a float copy of X.

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

    checkpoint : str, path-like or None, default=None
        File in which `fit` keeps its state, from which ``fit(X, y, resume=True)`` goes on after a
        crash. Each state replaces the last one in one step; the last stays after the end of
        training. A file that exists is overwritten, unless `resume` is given. Not used by
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
    }
    _numeric_targets = False
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
        weight_decay: float = 0.01,
        precision: Literal["auto", "float32", "float64", "tf32", "bfloat16"] = "auto",
        n_threads: int | None = None,
        input_scale: float = 1.0,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        callback: Callable[[EpochReport], object] | None = None,
        scoring: Scoring = None,
        checkpoint: Path | None = None,
        checkpoint_every: int = 1,
    ) -> None:
        self._set_parameters(locals())

    @keeps_hints(available_if(takes_batches))
    @checks_parameters
    @keeps_hints(_fit_context(prefer_skip_nested_validation=True))
    def partial_fit(
        self,
        X: ArrayLikeOrSparse,
        y: ArrayLikeOrSparse,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on the given rows, from the present weights.

        The optimizer continues from its last state, also from that of `fit`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
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
            with `early_stopping`.
        """
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _encode(self, y, dtype, model, incremental, classes):
        y = pack_bytes(y)
        labels = None if model is None else model.labels
        if incremental:
            labels = self._take_classes(classes, labels, y)
        elif labels is None:
            labels = Labels.of(y)
        else:
            present, known = Labels.of(y).classes, labels.classes
            if not np.array_equal(present, np.sort(known)):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {known}, `y` has {present}"
                )
        return labels.encode(y, dtype), labels, labels.n_outputs

    def _take_classes(self, classes, labels, y):
        """The labels of a `partial_fit`: known ones, or in the first call those it lists."""
        if classes is None:
            if labels is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return labels
        classes = sorted_classes(classes)
        if labels is None:
            return Labels.of(y, classes)
        if not np.array_equal(np.sort(labels.classes), classes):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{labels.classes!r}"
            )
        return labels

    def _output_activation(self, labels):
        is_exclusive = labels.kind == "multiclass" and find_loss(self.loss, "softmax")
        return "softmax" if is_exclusive else "logistic"

    def _score_outputs(self, outputs, labels, targets, sample_weight):
        return labels.accuracy(outputs, targets, sample_weight)

    def predict(self, X: ArrayLikeOrSparse) -> Array:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,), or label indicators of shape (n_samples, n_labels)
            Sparse where the indicators given to `fit` were sparse.
        """
        model = self._fitted()
        return model.labels.decode(self._outputs(model, X))

    def score(
        self, X: ArrayLikeOrSparse, y: ArrayLikeOrSparse, sample_weight: ArrayLike | None = None
    ) -> float:
        """Compute the accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            With label indicators, a row counts where all its labels are right.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        accuracy : float
        """
        predicted = self.predict(X)
        if predicted.dtype.kind == "S":  # which scikit-learn's metrics refuse
            y, predicted = as_text(pack_bytes(np.asarray(y))), as_text(predicted)
        metrics = imported("sklearn.metrics")
        return metrics.accuracy_score(y, predicted, sample_weight=sample_weight)

    def predict_proba(self, X: ArrayLikeOrSparse) -> FloatArray:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

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
            logits = self._outputs(model, X, activation="identity")
            probabilities = expit(np.hstack([-logits, logits]))
        elif kind == "multiclass" and activation == "logistic":
            # Shares of the outputs, which may all be as good as 0.
            logits = self._outputs(model, X, activation="identity")
            probabilities = np.exp(log_softmax(log_expit(logits), axis=1))
        else:
            probabilities = self._outputs(model, X)
        return np.maximum(probabilities, np.finfo(probabilities.dtype).tiny, out=probabilities)

    def predict_log_proba(self, X: ArrayLikeOrSparse) -> FloatArray:
        """Predict the logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

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
