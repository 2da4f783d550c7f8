"""Losses: one record each, with its value and its derivative as plain scalar functions.

As in `fastbp.activations`, every target compiles these functions and builds its switches from the
records. All take (target, output) or (target, output, eps), `eps` being the dtype's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

from fastbp.activations import ACTIVATIONS


@dataclass(frozen=True)
class Loss:
    """What is minimised, for one kind of outputs.

    Parameters
    ----------
    name : str
        What users call it; several records may share it, each for other outputs.
    share : callable
        (target, output, eps) -> one output's share of its row's loss.
    error : callable
        (target, output) -> ∂L/∂output; with `joins_activation` ∂L/∂z, z being the logit.
    tasks : tuple of {"classification", "regression"}
        Which estimators offer it.
    outputs : tuple of str, default=()
        The output activations that it goes with, the default first; none for all but softmax.
    joins_activation : bool, default=False
        Whether f′ of the output activation is part of `error` already.
    takes_negative : bool, default=True
        Whether targets may be negative.
    is_averaged : bool, default=True
        Whether regressors report its mean over the outputs, as scikit-learn does with the squared
        error, instead of the sum.
    """

    name: str
    share: Callable
    error: Callable
    tasks: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    joins_activation: bool = False
    takes_negative: bool = True
    is_averaged: bool = True

    def goes_with(self, output_activation):
        """Whether it can be taken of such outputs."""
        if self.outputs:
            return output_activation in self.outputs
        return ACTIVATIONS[output_activation].forward is not None


def clip_probability(probability, eps):
    """Keep a probability in [eps, 1 − eps], and NaN as it is."""
    one = type(probability)(1)
    if probability < eps:
        return eps
    return one - eps if probability > one - eps else probability


def cross_entropy(target, probability, eps):
    """One class's share of the cross-entropy, −t log p."""
    zero = type(probability)(0)
    return zero if target == zero else -target * log(clip_probability(probability, eps))


def binary_cross_entropy(target, probability, eps):
    """Cross-entropy of one logistic unit, −t log p − (1 − t) log(1 − p)."""
    one = type(probability)(1)
    probability = clip_probability(probability, eps)
    return cross_entropy(target, probability, eps) + cross_entropy(
        one - target, one - probability, eps
    )


def half_squared_error(target, output, eps):
    """½ (t − o)²."""
    return (target - output) * (target - output) * type(output)(0.5)


def half_poisson_deviance(target, output, eps):
    """Half the Poisson deviance, t log(t / o) − t + o."""
    zero = type(output)(0)
    entropy = zero if target == zero else target * log(target / output)
    return entropy - target + output


def output_error(target, output):
    """o − t: ∂/∂o of the squared error; ∂/∂z of the others, for f′ cancels there."""
    return output - target


# The kernels switch on a record's position. One class of several, and softmax, go together.
CROSS_ENTROPY = Loss(
    "log_loss", cross_entropy, output_error, ("classification",), ("softmax",), True
)
LOSSES = (
    CROSS_ENTROPY,
    Loss("log_loss", binary_cross_entropy, output_error, ("classification",), ("logistic",), True),
    Loss("squared_error", half_squared_error, output_error, ("classification", "regression")),
    Loss(
        "poisson", half_poisson_deviance, output_error, ("regression",), ("exp",), True,
        takes_negative=False, is_averaged=False,
    ),
)  # fmt: skip


def names_for(task):
    """The losses that one kind of estimator offers, "classification" or "regression".

    Examples
    --------
    >>> names_for("regression")
    ('squared_error', 'poisson')
    """
    return tuple(dict.fromkeys(loss.name for loss in LOSSES if task in loss.tasks))


def is_averaged(name):
    """Whether a regressor reports the mean of a loss over its outputs."""
    return any(loss.is_averaged for loss in LOSSES if loss.name == name)


def find_loss(name, output_activation):
    """The record of a loss for outputs of this activation.

    Returns
    -------
    loss : Loss or None
        None where the two do not go together.
    """
    return next(
        (loss for loss in LOSSES if loss.name == name and loss.goes_with(output_activation)), None
    )


def code_of(loss):
    """The integer by which kernels know a loss."""
    return LOSSES.index(loss)
