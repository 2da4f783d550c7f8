"""Sparse rows: only their entries are read, for a batch's outputs and for its gradient.

What is not stored is zero, and is left out whatever its weight. Results are the same as those of
the dense matrix to the bit, unless weights are infinite (zero times infinity is NaN), or sums are
made in blocks (`fastbp.cpu.gradients`), which are others here.
"""

from typing import NamedTuple

import numpy as np

from fastbp.cpu.compilation import kernel, phase
from fastbp.cpu.gather import CODES, read_row
from fastbp.cpu.layout import aligned_zeros, round_up
from fastbp.cpu.simd import TILE_ROWS
from fastbp.cpu.spans import by_reference, load_number, section

# From this density on, a batch is faster when made dense.
DENSE_ENOUGH = 0.2


class SparseSource(NamedTuple):
    """Addresses and dtypes of a CSR matrix's arrays, all integers."""

    values: int
    code: int
    itemsize: int
    columns: int
    row_starts: int
    is_wide: int  # whether columns and row starts have 64 bits


class Lines(NamedTuple):
    """Entries by rows or by columns (lines): those of line i go from starts[i] to starts[i + 1]."""

    starts: np.ndarray  # int64; surplus lines, up to whole tiles, are empty
    indices: np.ndarray  # the entries' columns, or rows, int64
    values: np.ndarray  # real


@by_reference
class Entries(NamedTuple):
    """A batch of a sparse matrix's rows, in the memory of one thread."""

    source: SparseSource
    rows: Lines
    columns: Lines


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
        matrix.data.ctypes.data, CODES[matrix.dtype], matrix.dtype.itemsize,
        matrix.indices.ctypes.data, matrix.indptr.ctypes.data,
        int(matrix.indices.dtype.itemsize == 8),
    )  # fmt: skip


@kernel
def _read_index(address, position, is_wide):
    if is_wide:
        return load_number(address, position, np.int64)
    return np.int64(load_number(address, position, np.int32))


@phase
def gather_entries(entries, order, scale):
    """Copy the entries of the rows in `order` to `entries.rows`, times `scale`."""
    source, rows = entries.source, entries.rows
    scale = type(rows.values[0])(scale)
    first = np.int64(0)
    for sample in range(order.size):
        start = _read_index(source.row_starts, order[sample], source.is_wide)
        stop = _read_index(source.row_starts, order[sample] + 1, source.is_wide)
        values = section(rows.values, first, stop - start)
        address = source.values + start * source.itemsize
        read_row(values, address, source.itemsize, source.code, scale)
        columns = section(rows.indices, first, stop - start)
        for k in range(columns.size):
            columns[k] = _read_index(source.columns, start + k, source.is_wide)
        rows.starts[sample] = first
        first += stop - start
    for sample in range(order.size, rows.starts.size):
        rows.starts[sample] = first


@kernel
def spread_entries(values, rows, row):
    """Write one row of the batch to `values`, dense."""
    for j in range(values.size):
        values[j] = 0
    for k in range(rows.starts[row], rows.starts[row + 1]):
        values[rows.indices[k]] += rows.values[k]


@phase
def sort_by_column(entries):
    """Sort the batch's entries into `entries.columns`, by column and then by row."""
    rows, columns = entries.rows, entries.columns
    starts = columns.starts
    for j in range(starts.size):
        starts[j] = 0
    for k in range(rows.starts[rows.starts.size - 1]):
        starts[rows.indices[k] + 2] += 1
    for j in range(2, starts.size):
        starts[j] += starts[j - 1]
    # Now column j starts at starts[j + 1], which moves on to its end, where column j + 1 starts.
    for row in range(rows.starts.size - 1):
        for k in range(rows.starts[row], rows.starts[row + 1]):
            column = rows.indices[k]
            at = starts[column + 1]
            starts[column + 1] = at + 1
            columns.indices[at] = row
            columns.values[at] = rows.values[k]


@kernel
def add_entries(values, rows, weights):
    """Add to `values` the first row's entries, each times its row of a weight matrix."""
    for k in range(rows.starts[1]):
        row = section(weights, rows.indices[k] * values.size, values.size)
        value = rows.values[k]
        for j in range(values.size):
            values[j] += value * row[j]
