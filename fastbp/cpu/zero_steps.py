"""Memory for the steps that tiles skip, and whether it pays: see `fastbp.cpu.kernels.zeros`."""

from functools import lru_cache

import numpy as np
from scipy.sparse import issparse

from fastbp.cpu.code import TILE_ROWS
from fastbp.cpu.layout import aligned_zeros, round_up
from fastbp.cpu.records import Steps

# Looking at a number takes as long as this many multiply-adds.
LOOK_WORK = 16
FEWEST_FEATURES, MOST_SAMPLES = 32, 64


def make_steps(rows, n_features, learns=True):
    """Allocate the steps of a batch of at most `rows` rows; those of columns if it `learns`."""
    rows, columns = round_up(rows, TILE_ROWS), round_up(n_features, TILE_ROWS)
    tiles = rows // TILE_ROWS + (columns // TILE_ROWS if learns else 0)
    numbers = rows // TILE_ROWS * columns + (columns // TILE_ROWS * rows if learns else 0)
    return Steps(aligned_zeros(tiles, np.int64), aligned_zeros(numbers, np.int32), rows, columns)


def no_steps():
    """The steps of a tile that skips none."""
    return Steps(np.zeros(0, np.int64), np.zeros(0, np.int32), 0, 0)


@lru_cache(maxsize=16)
def _spread(n_rows, n_samples):
    """Places of some rows that are spread evenly over all."""
    return np.linspace(0, n_rows - 1, n_samples).astype(np.int64)


def pays_to_skip_zeros(X, order, units, passes):
    """Whether skipping steps saves more than finding them costs, estimated from a few rows.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    order : ndarray of shape (n_rows,)
        The rows to be used.
    units : float
        Of the first layer, for each thread.
    passes : int
        Products with the rows: one for outputs, another for the gradient.
    """
    n_rows = min(MOST_SAMPLES, len(order) // 16) // TILE_ROWS * TILE_ROWS
    if n_rows == 0 or X.shape[1] < FEWEST_FEATURES or passes * units <= LOOK_WORK:
        return False
    samples = X[order[_spread(len(order), n_rows)]]
    samples = samples.toarray() if issparse(samples) else samples
    occupied = (samples.reshape(-1, TILE_ROWS, X.shape[1]) != 0).any(axis=1)
    share = np.count_nonzero(occupied) / occupied.size
    return bool((1 - share) * passes * units > LOOK_WORK)
