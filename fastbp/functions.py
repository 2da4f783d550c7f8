"""Activations and losses with their derivatives, each formula once, as plain scalar functions.

Both numba targets compile these functions and so does plain Python. Constants take the type of the
argument (`type(z)(1)`), so that float32 stays float32. A backward function takes δ behind the
activation and its value h = f(z), and returns δ in front of it: δ f′(z).
"""

from math import exp, log, tanh


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
    # Written so that NaN passes through.
    zero = type(z)(0)
    return zero if z < zero else z


def relu_backward(delta, h):
    zero = type(h)(0)
    return delta if h > zero else zero


def exponential(z):
    return exp(z)


def exponential_backward(delta, h):
    return delta * h


# Name -> (forward, backward); the position is the code that the kernels switch on.
HIDDEN_ACTIVATIONS = {
    "identity": (identity, identity_backward),
    "logistic": (logistic, logistic_backward),
    "tanh": (hyperbolic_tangent, hyperbolic_tangent_backward),
    "relu": (relu, relu_backward),
}
# The hidden ones come first, so that they have one code in either place.
OUTPUT_ACTIVATIONS = (*HIDDEN_ACTIVATIONS, "softmax", "exp")
LOSSES = ("log_loss", "squared_error", "poisson")


def clip_probability(probability, eps):
    """Keep a probability in [eps, 1 − eps] (eps: the dtype's), and NaN as it is."""
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


def half_squared_error(target, output):
    """½ (t − o)²."""
    return (target - output) * (target - output) * type(output)(0.5)


def half_poisson_deviance(target, output):
    """Half the Poisson deviance, t log(t / o) − t + o."""
    zero = type(output)(0)
    entropy = zero if target == zero else target * log(target / output)
    return entropy - target + output


def output_error(target, output):
    """δ behind the output activation for ½ (t − o)²; and in front of it, where loss and activation
    belong together: cross-entropy with logistic or softmax, Poisson deviance with exp.
    """
    return output - target
