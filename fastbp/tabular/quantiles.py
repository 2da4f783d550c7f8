"""Quantiles of weighted rows."""

import numpy as np


def weighted_quantiles(X, fractions, sample_weight=None):
    """Quantiles of each column, by linear interpolation as in `numpy.quantile`.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns)
        Finite numbers.
    fractions : sequence of float of shape (n_fractions,)
        From 0 to 1.
    sample_weight : ndarray of shape (n_rows,) or None, default=None
        Positive. Whole numbers count rows: a row of weight 3 stands for three. Others are
        brought to a mean of 1 before, so that only their proportions matter.

    Returns
    -------
    quantiles : ndarray of shape (n_fractions, n_columns)

    Examples
    --------
    >>> X = np.array([[1.0], [2.0], [4.0]])
    >>> weighted_quantiles(X, [0.25, 0.5], np.array([3.0, 1.0, 1.0])).ravel().tolist()
    [1.0, 1.0]
    >>> weighted_quantiles(X.repeat([3, 1, 1], axis=0), [0.25, 0.5]).ravel().tolist()
    [1.0, 1.0]
    """
    if sample_weight is None:
        return np.quantile(X, fractions, axis=0)
    counts = np.asarray(sample_weight, dtype=np.float64)
    if not np.array_equal(counts, np.rint(counts)):
        counts = counts / counts.mean()
    places = np.asarray(fractions) * max(counts.sum() - 1, 0.0)
    whole, part = np.floor(places), places - np.floor(places)
    found = np.empty((len(places), X.shape[1]), np.result_type(X, np.float64))
    for column, values in enumerate(X.T):
        order = np.argsort(values, kind="stable")
        ends = np.cumsum(counts[order])
        low, high = (
            values[order[np.minimum(np.searchsorted(ends, place, side="right"), len(ends) - 1)]]
            for place in (whole, whole + 1)
        )
        found[:, column] = low + (high - low) * part
    return found
