"""The estimators' parameters: what each may be, what it means, and how it reads in a docstring.

`MLPClassifier` and `MLPRegressor` share all of it but their `loss`.
"""

from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import (
    Hidden,
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
)

from fastbp.activations import ACTIVATIONS, ALIASES, HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastbp.devices import DEVICES, TENSOR_CORE_PRECISIONS
from fastbp.losses import LOSSES
from fastbp.optimizers import STOCHASTIC_SOLVERS
from fastbp.schedules import SCHEDULES

LARGEST_LAYER = 2**31 - 1
# What a regressor's outputs may be. Softmax outputs are not free of each other.
OUTPUT_CHOICES = {
    "auto",
    *(name for name in OUTPUT_ACTIVATIONS if ACTIVATIONS[name].forward is not None),
    *(alias for alias, name in ALIASES.items() if name in OUTPUT_ACTIVATIONS),
}

CONSTRAINTS = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    # "softmax" passes here to get a better answer from `hidden_activations`.
    "activation": [
        StrOptions({*HIDDEN_ACTIVATIONS, *ALIASES}),
        Hidden(StrOptions({"softmax"})),
        tuple,
        list,
    ],
    "solver": [StrOptions({"lbfgs", *STOCHASTIC_SOLVERS})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({*SCHEDULES}), callable],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "precision": [StrOptions({"auto", "float32", "float64", *TENSOR_CORE_PRECISIONS})],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "input_scale": [Interval(Real, 0, None, closed="neither")],
    "device": [StrOptions({*DEVICES})],
    "callback": [callable, None],
}


def hidden_sizes(hidden_layer_sizes):
    """Read `hidden_layer_sizes`: one number, or one a hidden layer.

    Returns
    -------
    sizes : tuple of int

    Raises
    ------
    ValueError
        Where an entry is not a whole number from 1 to `LARGEST_LAYER`.
    """
    sizes = np.atleast_1d(np.asarray(hidden_layer_sizes, dtype=object))
    if sizes.ndim != 1 or not all(
        isinstance(size, Integral) and 0 < size <= LARGEST_LAYER for size in sizes
    ):
        raise ValueError(
            "hidden_layer_sizes must be > 0, whole numbers up to 2**31 - 1, one for each hidden "
            f"layer; got {hidden_layer_sizes!r}. () makes a network without hidden layers."
        )
    return tuple(int(size) for size in sizes)


def hidden_activations(activation, n_hidden):
    """Read `activation`: one name for all hidden layers, or one for each.

    Returns
    -------
    names : tuple of str
        Keys of `fastbp.activations.HIDDEN_ACTIVATIONS`, as many as hidden layers.

    Raises
    ------
    InvalidParameterError
        A ValueError: a name that is not known, "softmax", or not as many names as hidden layers.
    """
    names = (activation,) * n_hidden if isinstance(activation, str) else tuple(activation)
    if activation == "softmax" or "softmax" in names:
        raise InvalidParameterError(
            f"activation={activation!r}: softmax belongs to the output layer, which gets it by "
            "itself in multiclass classification. Choose the hidden layers' activation among "
            f"{sorted(HIDDEN_ACTIVATIONS)}."
        )
    known = sorted([*HIDDEN_ACTIVATIONS, *ALIASES])  # a list, because names may be unhashable
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidParameterError(
            f"activation={activation!r}: {unknown[0]!r} is not known. Choose among {known}."
        )
    if len(names) != n_hidden:
        raise InvalidParameterError(
            f"activation={activation!r} has {len(names)} names, but hidden_layer_sizes makes "
            f"{n_hidden} hidden layer(s). Give one name for each, or a single string for all."
        )
    return tuple(ALIASES.get(name, name) for name in names)


def default_activation(activation):
    """The hidden activation that initial weights go by where there is no hidden layer."""
    name = activation if isinstance(activation, str) else ""
    return ALIASES.get(name, name if name in HIDDEN_ACTIVATIONS else "relu")


def output_activation(out_activation, loss):
    """Read a regressor's `out_activation`, whose "auto" depends on the loss.

    Returns
    -------
    name : str
        One of `fastbp.activations.OUTPUT_ACTIVATIONS`.

    Raises
    ------
    InvalidParameterError
        A ValueError: a choice that does not go with the loss.
    """
    record = next(each for each in LOSSES if each.name == loss)
    default = record.outputs[0] if record.outputs else "identity"
    name = default if out_activation == "auto" else ALIASES.get(out_activation, out_activation)
    if not record.goes_with(name):
        raise InvalidParameterError(
            f"out_activation={out_activation!r} does not go with loss={loss!r}. Use "
            f"out_activation='auto' or {default!r}, or loss='squared_error'."
        )
    return name


PARAMETERS = """\
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units in each hidden layer; () for none.
    activation : {'identity', 'logistic', 'sigmoid', 'tanh', 'relu'} or tuple, default='relu'
        What the hidden layers apply: z, 1/(1 + exp(-z)) under either name, tanh z, or max(0, z).
        A tuple gives each hidden layer its own.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        Gradient descent by mini-batches, plain ('sgd') or adaptive ('adam', Kingma and Ba 2015);
        or the quasi-Newton method L-BFGS-B on all rows at once, good for small data.
    alpha : float, default=0.0001
        L2 penalty on the weights, not the biases: alpha / 2 times their squared norm, divided by
        the batch's total sample weight, is added to the batch's loss.
    batch_size : int or 'auto', default='auto'
        Rows in a mini-batch; 'auto' is min(200, n_samples). The last batch may be smaller.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Schedule of 'sgd': stay at `learning_rate_init`; divide it after every epoch by
        (t + 1) ** `power_t`, t being the rows seen; or divide it by 5 whenever training would
        stop, and stop at 1e-6.
    learning_rate_init : float, default=0.001
        Step size of 'sgd' and 'adam'.
    power_t : float, default=0.5
        Exponent of 'invscaling'.
    max_iter : int, default=200
        Most epochs, or iterations of 'lbfgs', in a call of `fit`.
    shuffle : bool, default=True
        Take the rows in a new order every epoch.
    random_state : int, RandomState instance or None, default=None
        Source of the initial weights, the held-out rows and the orders; an int repeats a run.
    tol : float, default=1e-4
        Smallest change of the loss or the score that counts as an improvement; the gradient
        tolerance of 'lbfgs'.
    verbose : bool or int, default=False
        Print a line per epoch.
    warm_start : bool, default=False
        Let `fit` go on from the present weights. The layers must be the same. The optimizer
        starts anew, the rows held out for early stopping stay the same.
    momentum : float, default=0.9
        Momentum of 'sgd', from 0 to 1.
    nesterovs_momentum : bool, default=True
        Use Nesterov's form of it.
    early_stopping : bool, default=False
        Hold rows out, score them every epoch, stop by the score and restore the weights that
        scored best. 'lbfgs' does not use it.
    validation_fraction : float, default=0.1
        Share of the rows held out for it.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay of the moment estimates of 'adam'.
    epsilon : float, default=1e-8
        Added to the root of the second moment in 'adam'.
    n_iter_no_change : int or inf, default=10
        Training stops after more than so many epochs in a row without an improvement.
    max_fun : int, default=15000
        Most evaluations of the loss by 'lbfgs'.
"""

EXTRAS = """\
    precision : {'auto', 'float32', 'float64', 'tf32', 'bfloat16'}, default='auto'
        Type of the arithmetic and the weights; 'auto' is float32 where X is or on a GPU, else
        float64. A model that goes on training keeps its own. 'tf32' and 'bfloat16' are those of a
        GPU's tensor cores, for products; weights and predictions are float32 then.
    n_threads : int or None, default=None
        Threads at most, fewer where they go faster; None for the cores available. It does not
        change results.
    input_scale : float, default=1.0
        Multiplies X in `fit` and in predictions, row by row: 1/255 trains from bytes.
    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where to compute: 'cuda' is an NVIDIA GPU, 'auto' one if it can be used, else the CPU, and
        says which if `verbose`. A fitted model computes where the attribute says at that time.
    callback : callable or None, default=None
        Called after every epoch with a `fastbp.training.EpochReport`; training stops where it
        returns something true.
"""

ATTRIBUTES = """\
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weight matrices, first layer first. They may be changed or replaced: predictions and
        further training use what is there.
    intercepts_ : list of ndarray of shape (fan_out,)
        Biases.
    loss_ : float
        Loss of the last epoch.
    loss_curve_ : list of float
        Loss of every epoch (of every iteration of 'lbfgs'), weighted by sample weight.
    best_loss_ : float or None
        The smallest; None with early stopping.
    validation_scores_ : list of float or None
        {score} of the held-out rows after every epoch; None without early stopping.
    best_validation_score_ : float or None
        The best of them, that of the weights kept; after a warm start, on the present rows.
    n_iter_ : int
        Epochs of the last call.
    t_ : int
        Rows trained on, counted again every epoch.
    n_layers_, n_outputs_ : int
        Layers, input and output included; output units.
    out_activation_ : str
        What the output layer applies.
    n_features_in_ : int
        Features of X.
    feature_names_in_ : ndarray of str
        Their names, where X had names that are strings.
"""

NOTES = """\
    With the same `random_state` and float64 data, training follows scikit-learn's to rounding. It
    differs, on purpose, where scikit-learn 1.9 is at odds with its documentation or with its user:

    - A loss that becomes NaN or infinite ends training at once, by `NonFiniteLossError` or, with
      early stopping, by a warning and the best weights. A call that fails changes nothing.
    - With `warm_start`, training after convergence starts to count epochs without improvement
      anew; other layers, activations or losses than before raise; early stopping judges the
      weights it starts from on the rows held out before, and never overwrites the best ones.
    - The rows held out in multiclass classification are in proportion to the classes.
    - A batch whose sample weights are all zero is skipped; `loss_curve_` is weighted by them;
      negative weights, or none in the training or validation rows, raise.
    - float32 X makes float32 models with every solver and whatever the type of y. Outputs have
      the dtype of the weights, and raise where X is beyond it.
    - `partial_fit` follows parameters changed between its calls, and with `warm_start` takes a
      batch without some of the classes.
    - 'lbfgs' has no `partial_fit`; it keeps a `loss_curve_` and prints it if `verbose`.
    - `predict_log_proba` comes from the logits and is never -inf.
    - A pickle holds the weights once, and the state of the optimizer only after `partial_fit`.
    - Training makes new arrays and never changes those of `coefs_` and `intercepts_` in place.
      Those assigned must be numbers in the shapes of the layers.
    - Labels may be bytes; scikit-learn's metrics and splitters refuse them.
    - Invalid sparse matrices raise, and so does y < 0 with the Poisson loss.
"""


def docstring(summary, *, parameters, attributes, examples):
    """Compose an estimator's docstring."""
    sections = {
        "Parameters": parameters,
        "Attributes": attributes,
        "Notes": NOTES,
        "Examples": examples,
    }
    parts = [summary]
    for title, text in sections.items():
        parts.append(f"    {title}\n    {'-' * len(title)}\n{text}")
    return "\n".join(parts)
