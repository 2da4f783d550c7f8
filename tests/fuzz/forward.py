"""The network in plain NumPy, with a bound on the rounding errors of any other order of sums."""

import numpy as np
import scipy.sparse
from scipy.special import erfc, expit

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848
FUNCTIONS = {
    "identity": lambda z: z,
    "logistic": expit,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: 0.5 * z * erfc(-z / np.sqrt(2)),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "selu": lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
    "softplus": lambda z: np.logaddexp(0, z),
    "silu": lambda z: z * expit(z),
    "mish": lambda z: z * np.tanh(np.logaddexp(0, z)),
    "exp": np.exp,
}
# The largest slope, where it is not 1.
STEEPEST = {"gelu": 1.13, "selu": 1.76, "silu": 1.1, "mish": 1.09}
SLACK = 64  # roundings of an activation, and what a bound leaves out


def dense(X):
    """X as an array of float64."""
    X = X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)
    return X.astype(np.float64)


def outputs_of(X, coefs, intercepts, activations, scale=1.0):
    """Compute a network's outputs, and how far rounding may take others from them.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features)
    coefs, intercepts : lists of array
    activations : tuple of str
        After each weight matrix one.
    scale : float
        By which X is multiplied.

    Returns
    -------
    outputs, bound : ndarray of shape (n_samples, n_outputs)
    """
    coefs = [np.asarray(array) for array in coefs]
    intercepts = [np.asarray(array) for array in intercepts]
    is_single = all(array.dtype == np.float32 for array in (*coefs, *intercepts))
    limits = np.finfo(np.float32 if is_single else np.float64)
    eps, tiny = limits.eps, limits.tiny  # smaller numbers may count as 0
    with np.errstate(all="ignore"):
        values = dense(X) * scale
        bound = 4 * eps * np.abs(values) + tiny
        for weights, bias, name in zip(coefs, intercepts, activations, strict=True):
            weights, bias = weights.astype(np.float64), bias.astype(np.float64)
            size = np.abs(values) @ np.abs(weights) + np.abs(bias)
            bound = bound @ np.abs(weights) + eps * (len(weights) + SLACK) * size
            bound += tiny * (1 + np.abs(values).sum(axis=1, keepdims=True))
            values = values @ weights + bias
            values, bound = _activate(name, values, bound, eps)
    return values, bound + SLACK * tiny


def _activate(name, values, bound, eps):
    """Apply an activation to values and to their bound."""
    if name == "softmax":
        shifted = np.exp(values - values.max(axis=1, keepdims=True))
        values = shifted / shifted.sum(axis=1, keepdims=True)
        return values, np.minimum(1, 2 * bound.max(axis=1, keepdims=True) + SLACK * eps)
    if name == "exp":
        # Rounding may also be what makes the largest outputs overflow.
        after = np.exp(values)
        return after, np.exp(values + bound) - after + SLACK * eps * after
    after = FUNCTIONS[name](values)
    bound = STEEPEST.get(name, 1.0) * bound + SLACK * eps * np.abs(after)
    return after, np.minimum(bound, 2.0) if name in ("logistic", "tanh") else bound


def agree(found, expected, bound):
    """Whether outputs are the expected ones, as far as these are finite."""
    with np.errstate(all="ignore"):
        good = np.abs(found - expected) <= bound
    return bool((good | ~np.isfinite(expected) | ~np.isfinite(bound)).all())
