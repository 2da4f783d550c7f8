"""Activations: one record each, with its formula and its derivative as plain scalar functions.

Every target (the CPU's kernels, a GPU's, plain Python) compiles these functions, and builds its
switches from the records: a new activation is one more record here, and nothing else.

Formulas use `math`'s functions by their bare names. Constants take the type of the argument
(`type(z)(1)`), so that float32 stays float32, and comparisons are written so that NaN passes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc, exp, expm1, log1p, pi, sqrt, tanh


@dataclass(frozen=True)
class Activation:
    """An activation f and how to go back through it.

    Parameters
    ----------
    name : str
        What users call it.
    forward : callable or None
        z -> f(z). None for softmax, which takes a whole row.
    backward : callable or None
        (delta, kept) -> delta f′(z), where delta is ∂L/∂f(z) and `kept` is what `needs` says. An
        engine may also keep f′(z) = backward(1, z) and multiply by it.
    needs : {"output", "pre_activation"}, default="output"
        Whether `backward` takes f(z) or z.
    is_hidden, is_output : bool, default=True
        Whether hidden layers, and whether the output layer, may apply it. The output layer keeps
        no pre-activations.
    glorot_factor : float, default=6.0
        Of the bound of initial weights, √(factor / (fan_in + fan_out)): Glorot and Bengio (2010).
    aliases : tuple of str, default=()
        Other names that users may give.
    """

    name: str
    forward: Callable | None
    backward: Callable | None
    needs: str = "output"
    is_hidden: bool = True
    is_output: bool = True
    glorot_factor: float = 6.0
    aliases: tuple[str, ...] = ()

    @property
    def is_identity(self):
        """Whether there is nothing to compute."""
        return self.forward is identity


def identity(z):
    return z


def identity_backward(delta, h):
    return delta


def logistic(z):
    one = type(z)(1)
    return one / (one + exp(-z))


def logistic_backward(delta, h):
    return delta * (h * (type(h)(1) - h))


def hyperbolic_tangent(z):
    return tanh(z)


def hyperbolic_tangent_backward(delta, h):
    return delta * (type(h)(1) - h * h)


def relu(z):
    zero = type(z)(0)
    return zero if z < zero else z


def relu_backward(delta, h):
    zero = type(h)(0)
    return delta if h > zero else zero


def exponential(z):
    return exp(z)


def exponential_backward(delta, h):
    return delta * h


ROOT_HALF, NORMAL_DENSITY = sqrt(0.5), 1 / sqrt(2 * pi)


def gelu(z):
    """z Φ(z), Φ the normal distribution: Hendrycks and Gimpel (2016), exact."""
    real = type(z)
    return z * (real(0.5) * erfc(-z * real(ROOT_HALF)))


def gelu_backward(delta, z):
    """Φ(z) + z φ(z), φ the normal density, times delta."""
    real = type(z)
    x = -z * real(ROOT_HALF)
    return delta * (real(0.5) * erfc(x) + z * (real(NORMAL_DENSITY) * exp(-x * x)))


LEAKY_SLOPE = 0.01  # PyTorch's


def leaky_relu(z):
    """z above 0 and z / 100 below: Maas, Hannun and Ng (2013)."""
    real = type(z)
    return z if z > real(0) else z * real(LEAKY_SLOPE)


def leaky_relu_backward(delta, h):
    real = type(h)
    return delta if h > real(0) else delta * real(LEAKY_SLOPE)


def elu(z):
    """z above 0 and eᶻ − 1 below: Clevert, Unterthiner and Hochreiter (2016), with α = 1."""
    return z if z > type(z)(0) else expm1(z)


def elu_backward(delta, h):
    real = type(h)
    return delta if h > real(0) else delta * (h + real(1))


# With these, layers keep mean 0 and variance 1.
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def selu(z):
    """λz above 0 and λα(eᶻ − 1) below: Klambauer and others (2017)."""
    real = type(z)
    return z * real(SELU_SCALE) if z > real(0) else expm1(z) * real(SELU_SCALE * SELU_ALPHA)


def selu_backward(delta, h):
    real = type(h)
    rest = h + real(SELU_SCALE * SELU_ALPHA)
    return delta * (real(SELU_SCALE) if h > real(0) else rest)


def softplus(z):
    """log(1 + eᶻ): Dugas and others (2001), without PyTorch's shortcut z above 20."""
    zero = type(z)(0)
    return (zero if z < zero else z) + log1p(exp(-z if z > zero else z))


def softplus_backward(delta, h):
    """The logistic function of z, 1 − e⁻ʰ, times delta."""
    return delta * -expm1(-h)


# What follows goes through e to the power of −|z| or of a bounded z: nothing overflows, and there
# is no ∞ · 0 far from zero.


def silu(z):
    """z times the logistic function: Hendrycks and Gimpel (2016), also known as swish."""
    zero, one = type(z)(0), type(z)(1)
    tail = exp(-z if z > zero else z)
    return z * ((one if z > zero else tail) / (one + tail))


def silu_backward(delta, z):
    """σ + z σ(1 − σ), σ the logistic function, times delta."""
    zero, one = type(z)(0), type(z)(1)
    tail = exp(-z if z > zero else z)
    rest = one / (one + tail)
    return delta * ((one if z > zero else tail) * rest + (z * tail) * (rest * rest))


MISH_BOUND = 20.0  # from here on f is z, and f′ is 1, to rounding


def mish(z):
    """z tanh(log(1 + eᶻ)): Misra (2020); the tangent is n / (n + 2), with n = eᶻ (eᶻ + 2)."""
    two, bound = type(z)(2), type(z)(MISH_BOUND)
    e = exp(bound if z > bound else z)
    n = e * (e + two)
    return z if z > bound else z * (n / (n + two))  # kernels may compute z * n first


def mish_backward(delta, z):
    """The tangent T, plus z (1 − T²) times the logistic function, times delta."""
    one, two, bound = type(z)(1), type(z)(2), type(z)(MISH_BOUND)
    bounded = bound if z > bound else z
    e = exp(bounded)
    n = e * (e + two)
    rest = one / (n + two)
    return delta * (rest * (n + (bounded * (type(z)(4) * e * (one + e))) * rest))


# The kernels switch on a record's position.
ACTIVATIONS = {
    record.name: record
    for record in (
        Activation("identity", identity, identity_backward),
        Activation(
            "logistic", logistic, logistic_backward, glorot_factor=2.0, aliases=("sigmoid",)
        ),
        Activation("tanh", hyperbolic_tangent, hyperbolic_tangent_backward),
        Activation("relu", relu, relu_backward),
        Activation("softmax", None, None, is_hidden=False),
        Activation("exp", exponential, exponential_backward, is_hidden=False),
        Activation("gelu", gelu, gelu_backward, needs="pre_activation", is_output=False),
        Activation("leaky_relu", leaky_relu, leaky_relu_backward),
        Activation("elu", elu, elu_backward),
        Activation("selu", selu, selu_backward),
        Activation("softplus", softplus, softplus_backward),
        Activation(
            "silu", silu, silu_backward, needs="pre_activation", is_output=False, aliases=("swish",)
        ),
        Activation("mish", mish, mish_backward, needs="pre_activation", is_output=False),
    )
}
ALIASES = {alias: record.name for record in ACTIVATIONS.values() for alias in record.aliases}
HIDDEN_ACTIVATIONS = tuple(name for name, record in ACTIVATIONS.items() if record.is_hidden)
OUTPUT_ACTIVATIONS = tuple(name for name, record in ACTIVATIONS.items() if record.is_output)


def code_of(name):
    """The integer by which kernels know an activation.

    Examples
    --------
    >>> code_of("identity")
    0
    """
    return list(ACTIVATIONS).index(name)
