"""Sparse rows: only their entries are read, for a batch's outputs and for its gradient.

What is not stored is zero, and is left out whatever its weight. Results are the same as those of
the dense matrix to the bit, unless weights are infinite (zero times infinity is NaN), or sums are
made in blocks (`fastbp.cpu.kernels.gradients`), which are others here.
"""

import numpy as np

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.gather import read_row
from fastbp.cpu.kernels.spans import load_number, section


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
