"""Losses of outputs in plain NumPy, from the records: what validation needs beside the engines.

A record's formula is a scalar function with branches. Here it runs on whole arrays, once for each
way through its branches that some numbers take.
"""

import math
from functools import cache
from types import BuiltinFunctionType

import numpy as np

from fastbp.losses import find_loss
from fastbp.switches import bind

# What a formula calls by the names of the module math.
_ON_ARRAYS = {
    name: getattr(np, name)
    for name, function in vars(math).items()
    if isinstance(function, BuiltinFunctionType) and isinstance(getattr(np, name, None), np.ufunc)
}


class _Diverged(Exception):  # noqa: N818, it is no error
    """Some numbers take one branch of a formula, and others the other one."""

    def __init__(self, mask):
        self.mask = mask


class _Lanes(np.ndarray):
    """Numbers for a scalar formula: its constants are made by their type, `type(x)(1)`."""

    def __new__(cls, numbers):
        return np.asarray(numbers, np.float64).view(cls)

    def __bool__(self):
        mask = self.view(np.ndarray)
        count = np.count_nonzero(mask)
        if 0 < count < mask.size:
            raise _Diverged(mask)
        return bool(count)


@cache
def _on_arrays(formula):
    """A formula that calls NumPy's functions, and so do the formulas that it calls."""
    return bind(formula, _ON_ARRAYS, _on_arrays)


def evaluate(formula, *arguments):
    """Apply a scalar formula to arrays, in float64.

    Parameters
    ----------
    formula : function
        Of numbers, such as a loss's `share`.
    *arguments : array-like
        Vectors of one length, the first of them one, or numbers.

    Returns
    -------
    values : ndarray of shape (n,), dtype float64

    Examples
    --------
    >>> from math import sqrt
    >>> def root_or_zero(x, floor):
    ...     return sqrt(x) if x > floor else type(x)(0)
    >>> evaluate(root_or_zero, [4.0, -1.0, 9.0], 5.0)
    array([0., 0., 3.])
    """
    formula, lanes = _on_arrays(formula), [_Lanes(argument) for argument in arguments]
    values = np.empty(len(lanes[0]))
    parts = [slice(None)]
    with np.errstate(all="ignore"):  # as in the kernels
        while parts:
            part = parts.pop()
            try:
                values[part] = formula(*(each[part] if each.ndim else each for each in lanes))
            except _Diverged as diverged:
                places = np.arange(len(values))[part]
                parts += [places[diverged.mask], places[~diverged.mask]]
    return values


def row_losses(network, targets, outputs):
    """The loss of each row as training counts it, without the penalty.

    Parameters
    ----------
    network : fastbp.network.Network
    targets : ndarray
        As in `fastbp.data.Data`.
    outputs : ndarray of shape (n_rows, n_outputs), dtype of the network's parameters
        Whose eps keeps probabilities from 0 and 1.

    Returns
    -------
    losses : ndarray of shape (n_rows,), dtype float64

    Examples
    --------
    >>> from fastbp.network import Network
    >>> network = Network((4, 3), (), "softmax", "log_loss")
    >>> row_losses(network, np.array([2]), np.array([[0.25, 0.25, 0.5]])).round(4)
    array([0.6931])
    """
    loss = find_loss(network.loss, network.output_activation)
    n_rows, n_outputs = outputs.shape
    given, smoothing = network.loss_coefficients, network.label_smoothing
    eps = float(np.finfo(outputs.dtype).eps)
    if targets.ndim == 1 and network.output_activation == "softmax" and not smoothing:
        # The other classes have no share.
        return evaluate(
            loss.share, np.ones(n_rows), outputs[np.arange(n_rows), targets], eps, *given[:1]
        )
    wanted = np.eye(n_outputs)[targets] if targets.ndim == 1 else np.asarray(targets, np.float64)
    if smoothing:
        wanted = (1 - smoothing) * wanted + smoothing / (n_outputs if targets.ndim == 1 else 2)
    coefficients = [np.tile(given, n_rows)] if given else []
    shares = evaluate(loss.share, wanted.ravel(), outputs.ravel(), eps, *coefficients)
    shares = np.where(np.isnan(wanted), 0.0, shares.reshape(wanted.shape))  # missing targets
    return shares.mean(axis=1) if network.average_outputs else shares.sum(axis=1)
