"""The gradient of one tile of weights, inputs times δ summed over a batch, and that of its biases.

In float32 a sum of very many rows loses digits, and beyond 2²⁴ rows it may stand still. Long
batches are therefore summed in blocks of rows, and the blocks in float64. Listed rows have the
blocks of all rows, and results the same bits; sparse ones have blocks of entries, for most columns
have only a few.
"""

import numpy as np

from fastbp.cpu.kernels.compilation import inlined, kernel, phase
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.operands import (
    NEVER,
    columns_of_inputs,
    deltas_to_sum,
    panel_start,
    steps_of,
)
from fastbp.cpu.kernels.products import (
    Left,
    clear_padding,
    multiply,
    multiply_line,
    multiply_lines,
    multiply_listed,
)
from fastbp.cpu.kernels.register_tiles import narrow_row, wide_row
from fastbp.cpu.kernels.shares import smaller
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ZERO, section
from fastbp.cpu.kernels.vectors import whole_size
from fastbp.cpu.kernels.zeros import column_tile, first_step
from fastbp.cpu.records import BLOCK_ROWS, LANES, N_OUTPUTS, WIDTH


@kernel
def is_long(workspace, count):
    """Whether so many numbers are summed in blocks; never in float64, which has no totals."""
    return workspace.totals.size > 0 and count > BLOCK_ROWS


@kernel
def add_block(totals, sums, is_first, is_last):
    """Add the sums of a block to the totals; the last one's are replaced by the totals."""
    if is_first:
        for j in range(whole_size(sums)):
            totals[j] = sums[j]
    elif is_last:
        for j in range(whole_size(sums)):
            sums[j] = totals[j] + np.float64(sums[j])
    else:
        for j in range(whole_size(sums)):
            totals[j] += np.float64(sums[j])


@kernel
def end_of_block(numbers, first, last, bound):
    """The first position from `first` to `last`, in ascending numbers, that is not below a bound.

    At most one block of them is looked at.
    """
    size = smaller(last - first, BLOCK_ROWS)
    while size > 1:  # without branches, which could not be predicted
        half = size >> 1
        first += half * np.int64(numbers[first + half - 1] < bound)
        size -= half
    return first + np.int64(size == 1 and numbers[first] < bound)


@inlined
def sum_some_units(memory, workspace, array, layer, panel, row, rows):
    """Compute the sums of one panel of an array over some rows, as a product with ones."""
    width = layer[WIDTH]
    start = panel_start(memory, layer, panel) + row * width
    ones = Left(workspace.one, ZERO, ZERO, ZERO, ZERO, rows, NEVER)
    if width > layer[LANES]:
        wide_row(workspace.tile, ZERO, width, ones, array, start, workspace.zeros, ZERO, rows)
    else:
        narrow_row(workspace.tile, ZERO, width, ones, array, start, workspace.zeros, ZERO, rows)


@phase
def sum_many_units(memory, workspace, array, layer, panel, depth):
    """Compute the sums of one panel of an array over a long batch, block by block."""
    width = layer[WIDTH]
    sums, totals = section(workspace.tile, ZERO, width), section(workspace.totals, ZERO, width)
    for row in range(0, depth, BLOCK_ROWS):
        rows = smaller(BLOCK_ROWS, depth - row)
        sum_some_units(memory, workspace, array, layer, panel, row, rows)
        add_block(totals, sums, row == 0, row + rows == depth)


@inlined
def sum_units(memory, workspace, array, layer, panel, depth):
    """Compute the sums of one panel over the batch: of deltas, Σ δ, the bias's gradient."""
    if is_long(workspace, depth):
        sum_many_units(memory, workspace, array, layer, panel, depth)
    else:
        sum_some_units(memory, workspace, array, layer, panel, ZERO, depth)


@inlined
def sum_some_rows(memory, workspace, index, panel, column, row, rows):
    """Compute a tile's sum over some rows of dense inputs."""
    layer = layer_of(memory.layers, index)
    right, start = deltas_to_sum(memory, layer, panel, row)
    left = columns_of_inputs(memory, workspace, index, column, row, rows)
    multiply(
        workspace.tile, ZERO, layer, panel, left, right, start, steps_of(right, rows),
        workspace.zeros, ZERO,
    )  # fmt: skip


@kernel
def sum_listed_rows(memory, workspace, panel, column, first_step, n_steps):
    """Compute a tile's sum over those rows of the first layer's inputs that are listed."""
    layer = layer_of(memory.layers, ZERO)
    right, start = deltas_to_sum(memory, layer, panel, ZERO)
    left = columns_of_inputs(memory, workspace, ZERO, column, ZERO, n_steps)
    multiply_listed(
        workspace.tile, ZERO, layer, panel, left, right, start,
        workspace.steps.numbers, first_step, n_steps, workspace.zeros, ZERO,
    )  # fmt: skip


@phase
def sum_many_rows(memory, workspace, index, panel, column, depth):
    """Compute a tile's sum over all rows of a long batch, or over those listed, block by block."""
    steps = workspace.steps
    skips_zeros = index == 0 and steps.counts.size > 0
    step, last_step = ZERO, ZERO
    if skips_zeros:
        tile = column_tile(steps, column)
        step = first_step(steps, tile)
        last_step = step + steps.counts[tile]
    size = TILE_ROWS * layer_of(memory.layers, index)[WIDTH]
    sums, totals = section(workspace.tile, ZERO, size), section(workspace.totals, ZERO, size)
    for row in range(0, depth, BLOCK_ROWS):
        rows = smaller(BLOCK_ROWS, depth - row)
        if skips_zeros:
            deltas, _ = deltas_to_sum(memory, layer_of(memory.layers, index), panel, row)
            bound = steps_of(deltas, row + rows)
            stop = end_of_block(steps.numbers, step, last_step, bound)
            sum_listed_rows(memory, workspace, panel, column, step, stop - step)
            step = stop
        else:
            sum_some_rows(memory, workspace, index, panel, column, row, rows)
        add_block(totals, sums, row == 0, row + rows == depth)


@inlined
def sum_rows(memory, workspace, index, panel, column, depth):
    """Compute a tile's sum over dense inputs, or over those of them that are listed."""
    steps = workspace.steps
    if is_long(workspace, depth):
        sum_many_rows(memory, workspace, index, panel, column, depth)
    elif index == 0 and steps.counts.size > 0:
        tile = column_tile(steps, column)
        first = first_step(steps, tile)
        sum_listed_rows(memory, workspace, panel, column, first, steps.counts[tile])
    else:
        sum_some_rows(memory, workspace, index, panel, column, ZERO, depth)


@kernel
def sum_long_line(totals, sums, is_wide, lines, first, last, right, right_start, zeros):
    """Compute one row of a tile over the entries of a column that has more than a block of them."""
    entry = first
    while entry < last:
        stop = smaller(entry + BLOCK_ROWS, last)
        multiply_line(
            sums, ZERO, is_wide, lines, entry, stop, right, right_start, sums.size, zeros, ZERO
        )
        add_block(totals, sums, entry == first, stop == last)
        entry = stop


@phase
def sum_long_lines(workspace, layer, panel, lines, line, right, right_start):
    """Compute a tile's sum over entries, of which a column has more than a block."""
    width = layer[WIDTH]
    is_wide = layer[N_OUTPUTS] - panel * width > layer[LANES]
    totals = section(workspace.totals, ZERO, width)
    for i in range(TILE_ROWS):
        first, last = lines.starts[line + i], lines.starts[line + i + 1]
        sums = section(workspace.tile, i * width, width)
        if last - first > BLOCK_ROWS:
            sum_long_line(
                totals, sums, is_wide, lines, first, last, right, right_start, workspace.zeros
            )
        else:
            multiply_line(
                sums, ZERO, is_wide, lines, first, last, right, right_start, width,
                workspace.zeros, ZERO,
            )  # fmt: skip


@inlined
def sum_entries(memory, workspace, lines, index, panel, column):
    """Compute a tile's sum over the entries of its columns."""
    layer, starts = layer_of(memory.layers, index), lines.starts
    right = panel_start(memory, layer, panel)
    if is_long(workspace, starts[column + TILE_ROWS] - starts[column]):
        sum_long_lines(workspace, layer, panel, lines, column, memory.deltas, right)
    else:
        multiply_lines(
            workspace.tile, ZERO, layer, panel, lines, column, memory.deltas, right,
            workspace.zeros, ZERO,
        )  # fmt: skip


@kernel
def tile_gradient(memory, workspace, entries, index, panel, column, depth):
    """Compute the weight gradient of one tile: inputs from `column` on, times one panel's δ."""
    if entries is None:
        sum_rows(memory, workspace, index, panel, column, depth)
    else:
        sum_entries(memory, workspace, entries.columns, index, panel, column)
    clear_padding(workspace.tile, layer_of(memory.layers, index), panel)
