"""Quantiles of weighted numbers."""

import numpy as np


def weighted_quantiles(values, fractions, sample_weight):
    """Quantiles by linear interpolation, as `numpy.quantile` computes them of repeated numbers.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Finite numbers.
    fractions : sequence of float
        From 0 to 1.
    sample_weight : ndarray of shape (n,)
        Positive. Whole numbers count: a number of weight 3 stands for three. Others are brought to
        a mean of 1 before, so that only their proportions matter.

    Returns
    -------
    quantiles : ndarray of shape (n_fractions,)

    Examples
    --------
    >>> values = np.array([1.0, 2.0, 4.0])
    >>> weighted_quantiles(values, [0.25, 0.5, 0.75], np.array([2.0, 1.0, 3.0])).tolist()
    [1.25, 3.0, 4.0]
    >>> np.quantile([1, 1, 2, 4, 4, 4], [0.25, 0.5, 0.75]).tolist()
    [1.25, 3.0, 4.0]
    """
    counts = np.asarray(sample_weight, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    repeats = np.array_equal(counts, np.rint(counts))
    if not repeats:
        counts = counts / counts.mean()
    ends = np.cumsum(counts)
    places = np.asarray(fractions) * (ends[-1] - 1)
    if not repeats:  # each number stands in the middle of its share
        return np.interp(places, ends - (counts + 1) / 2, values)
    whole = np.floor(places)
    low, high = (
        values[np.minimum(np.searchsorted(ends, place, side="right"), len(ends) - 1)]
        for place in (whole, whole + 1)
    )
    return low + (high - low) * (places - whole)
