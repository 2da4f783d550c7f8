"""Memory for sparse rows: see `fastbp.cpu.kernels.sparse`."""

import numpy as np

from fastbp.cpu.code import TILE_ROWS
from fastbp.cpu.layout import aligned_zeros, round_up
from fastbp.cpu.packing import address_of
from fastbp.cpu.records import DTYPE_CODES, Entries, Lines, SparseSource

# From this density on, a batch is faster when made dense.
DENSE_ENOUGH = 0.2


def density_of(X):
    """The share of a CSR matrix's elements to compute with: those stored, or all if many are."""
    density = X.nnz / max(1, X.shape[0] * X.shape[1])
    return density if density < DENSE_ENOUGH else 1.0


def most_entries(matrix, order, rows):
    """The most entries that `rows` consecutive rows of `order` have."""
    ends = np.zeros(len(order) + 1, np.int64)
    np.cumsum(np.diff(matrix.indptr)[order], out=ends[1:])
    rows = min(rows, len(order))
    return int((ends[rows:] - ends[: len(ends) - rows]).max())


def make_entries(matrix, rows, n_entries, dtype, learns=True):
    """Allocate the entries of a batch: at most `rows` rows of a CSR matrix and `n_entries`.

    The caller keeps the matrix alive while kernels read it.
    """

    def make_lines(n_starts, n_entries):
        starts, indices = aligned_zeros(n_starts, np.int64), aligned_zeros(n_entries, np.int64)
        return Lines(starts, indices, aligned_zeros(n_entries, dtype))

    n_columns = round_up(matrix.shape[1], TILE_ROWS)
    return Entries(
        _source_of(matrix),
        make_lines(round_up(rows, TILE_ROWS) + 1, n_entries),
        make_lines(n_columns + 2, n_entries) if learns else make_lines(0, 0),
    )


def _source_of(matrix):
    return SparseSource(
        address_of(matrix.data), DTYPE_CODES[matrix.dtype], matrix.dtype.itemsize,
        address_of(matrix.indices), address_of(matrix.indptr),
        int(matrix.indices.dtype.itemsize == 8),
    )  # fmt: skip
