"""Losses: one record each, with its value and its derivative as plain scalar functions.

As in `fastbp.activations`, every target compiles these functions and builds its switches from the
records. All take (target, output) or (target, output, eps), `eps` being the dtype's; those of a
loss with a coefficient take (target, output, eps, coefficient).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, log, tanh

from fastbp.activations import ACTIVATIONS


@dataclass(frozen=True)
class Coefficient:
    """A number in a loss's formulas, which may differ between the outputs.

    Parameters
    ----------
    parameter : str
        The estimators' parameter that it comes from.
    highest : float, default=inf
        It is from 0 to this, and finite.
    is_relative : bool, default=False
        Whether the parameter counts in standard deviations of y.
    """

    parameter: str
    highest: float = inf
    is_relative: bool = False


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
        (target, output) -> ∂L/∂output; with `joins_activation` ∂L/∂z, z being the logit. Of softmax
        without it, ∂L/∂(ln output), from which engines make ∂L/∂z of the whole row.
    tasks : tuple of {"classification", "regression"}
        Which estimators offer it.
    outputs : tuple of str, default=()
        The output activations that it goes with, the default first; none for all but softmax.
    joins_activation : bool, default=False
        Whether f′ of the output activation is part of `error` already.
    takes_negative, takes_zero : bool, default=True
        Whether targets may be negative, and whether they may be 0.
    is_averaged : bool, default=True
        Whether regressors report its mean over the outputs, as scikit-learn does with the squared
        error, instead of the sum.
    coefficient : Coefficient or None, default=None
        A number that `share` and `error` take as their last argument.
    """

    name: str
    share: Callable
    error: Callable
    tasks: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    joins_activation: bool = False
    takes_negative: bool = True
    takes_zero: bool = True
    is_averaged: bool = True
    coefficient: Coefficient | None = None

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


# ---- focal loss ---------------------------------------------------------------------------------
# Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002. The probability
# of a hard row may be 0, and of an easy one 1: both are clipped where a logarithm is taken, and a
# derivative by z, or by ln p, has no quotient that could overflow.


def focus(probability, gamma):
    """(1 − p)^γ, p being clipped."""
    return exp(gamma * log(type(probability)(1) - probability))


def focal(target, probability, eps, gamma):
    """One class's share, −t (1 − p)^γ log p."""
    clipped = clip_probability(probability, eps)
    return -target * (focus(clipped, gamma) * log(clipped))


def focal_error(target, probability, eps, gamma):
    """∂/∂(ln p): −t (1 − p)^γ (1 − γ p log(p) / (1 − p))."""
    one = type(probability)(1)
    clipped = clip_probability(probability, eps)
    turn = gamma * clipped * log(clipped) / (one - clipped)
    return -target * (focus(clipped, gamma) * (one - turn))


def binary_focal(target, probability, eps, gamma):
    """Of one logistic unit, −t (1 − p)^γ log p − (1 − t) p^γ log(1 − p)."""
    one = type(probability)(1)
    clipped = clip_probability(probability, eps)
    return focal(target, clipped, eps, gamma) + focal(one - target, one - clipped, eps, gamma)


def binary_focal_error(target, probability, eps, gamma):
    """∂/∂z: −t (1 − p)^γ (1 − p − γ p log p) + (1 − t) p^γ (p − γ (1 − p) log(1 − p))."""
    one = type(probability)(1)
    p = clip_probability(probability, eps)
    q = one - p
    log_p, log_q = log(p), log(q)
    positive = exp(gamma * log_q) * (one - probability - gamma * p * log_p)
    negative = exp(gamma * log_p) * (probability - gamma * q * log_q)
    return (one - target) * negative - target * positive


# ---- losses of a difference ---------------------------------------------------------------------
# All have the derivative 0 where target and output are equal, as PyTorch's; NaN passes.


def sign(number):
    """−1, 0 or 1."""
    zero, one = type(number)(0), type(number)(1)
    return one if number > zero else (-one if number < zero else number)


def absolute_difference(target, output, eps):
    """|o − t|."""
    return abs(output - target)


def sign_of_difference(target, output):
    return sign(output - target)


def huber(target, output, eps, delta):
    """½ (o − t)² where |o − t| ≤ δ, and δ (|o − t| − ½ δ) beyond: Huber (1964)."""
    half = type(output)(0.5)
    distance = abs(output - target)
    if distance > delta:
        return delta * (distance - half * delta)
    return half * (distance * distance)


def huber_error(target, output, eps, delta):
    difference = output - target
    if difference > delta:
        return delta
    return -delta if difference < -delta else difference


LOG_2 = log(2.0)


def log_cosh(target, output, eps):
    """log cosh(o − t); for small differences as a series, which nothing cancels in."""
    real = type(output)
    distance = abs(output - target)
    square = distance * distance
    if distance < real(0.125):
        series = real(17 / 2520) - square * real(31 / 14175)
        series = real(1 / 12) - square * (real(1 / 45) - square * series)
        return square * (real(0.5) - square * series)
    return distance + log(real(1) + exp(real(-2) * distance)) - real(LOG_2)


def log_cosh_error(target, output):
    return tanh(output - target)


def pinball(target, output, eps, quantile):
    """q (t − o) where t ≥ o, and (1 − q) (o − t) elsewhere: Koenker and Bassett (1978)."""
    difference = target - output
    if difference < type(output)(0):
        return (quantile - type(output)(1)) * difference
    return quantile * difference


def pinball_error(target, output, eps, quantile):
    zero, one = type(output)(0), type(output)(1)
    difference = output - target
    if difference > zero:
        return one - quantile
    return -quantile if difference < zero else difference


def half_gamma_deviance(target, output, eps):
    """Half the gamma deviance, t / o − 1 − log(t / o)."""
    ratio = target / output
    return ratio - type(output)(1) - log(ratio)


def half_gamma_error(target, output):
    """∂/∂z, o being exp z: 1 − t / o."""
    return type(output)(1) - target / output


# ---- records ------------------------------------------------------------------------------------

FOCAL_GAMMA, HUBER_DELTA = Coefficient("focal_gamma"), Coefficient("huber_delta", is_relative=True)
QUANTILE = Coefficient("quantile", highest=1.0)
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
    Loss(
        "focal", focal, focal_error, ("classification",), ("softmax",), coefficient=FOCAL_GAMMA
    ),
    Loss(
        "focal", binary_focal, binary_focal_error, ("classification",), ("logistic",), True,
        coefficient=FOCAL_GAMMA,
    ),
    Loss("absolute_error", absolute_difference, sign_of_difference, ("regression",)),
    Loss("huber", huber, huber_error, ("regression",), coefficient=HUBER_DELTA),
    Loss("log_cosh", log_cosh, log_cosh_error, ("regression",)),
    Loss("quantile", pinball, pinball_error, ("regression",), coefficient=QUANTILE),
    Loss(
        "gamma", half_gamma_deviance, half_gamma_error, ("regression",), ("exp",), True,
        takes_negative=False, takes_zero=False, is_averaged=False,
    ),
)  # fmt: skip


def names_for(task):
    """The losses that one kind of estimator offers, "classification" or "regression".

    Examples
    --------
    >>> names_for("regression")
    ('squared_error', 'poisson', 'absolute_error', 'huber', 'log_cosh', 'quantile', 'gamma')
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


def coefficient_of(name):
    """The coefficient of a loss, or None."""
    return next(loss.coefficient for loss in LOSSES if loss.name == name)


def code_of(loss):
    """The integer by which kernels know a loss."""
    return LOSSES.index(loss)
