"""The fused steps of one layer: forward, backward, and gradient with update.

Every step computes its output tile by tile, and no sum is split among threads: results do not
depend on their number.
"""

import numpy as np

from fastbp.cpu.compilation import kernel, phase
from fastbp.cpu.formulas import activate, activate_backward, update_weights
from fastbp.cpu.layout import (
    ACTIVATION,
    BIAS_ROW,
    FIRST_BLOCK,
    INPUT_WIDTH,
    LANES,
    N_INPUTS,
    N_OUTPUTS,
    N_PANELS,
    UNITS,
    WEIGHTS,
    WIDTH,
    layer_of,
)
from fastbp.cpu.products import Left, multiply, multiply_lines, multiply_listed
from fastbp.cpu.register_tiles import narrow_row, wide_row
from fastbp.cpu.shares import smaller, tile_at
from fastbp.cpu.simd import TILE_ROWS, prefetch_tile, transpose_square
from fastbp.cpu.spans import ONE, ZERO, section
from fastbp.cpu.vectors import spread, store_vector
from fastbp.cpu.zeros import column_tile
from fastbp.schedules import PENALTY, SHRINKAGE

# More weights, or activations of a layer, than this have been evicted from the L2 cache by the time
# they are read again.
CACHED_NUMBERS = 2**18
NEVER = np.int64(2**62)  # as `last_fetch`: no panels are prefetched


@kernel
def panel_start(memory, layer, panel):
    """Where one panel of a layer's activations, or of its deltas, starts."""
    return (layer[UNITS] + panel * layer[WIDTH]) * memory.capacity


@kernel
def rows_of_panels(memory, array, layer, row):
    """Left operand: a layer's activations or deltas from `row` on, summed over the units."""
    width = layer[WIDTH]
    start = panel_start(memory, layer, ZERO) + row * width
    stride = memory.capacity * width
    last_fetch = 2 * width if layer[N_PANELS] * stride > CACHED_NUMBERS else NEVER
    return Left(array, start, width, ONE, stride, width, last_fetch)


@kernel
def rows_of_inputs(memory, workspace, index, row):
    """Left operand: the inputs of layer `index` from `row` on, summed over the inputs."""
    layer = layer_of(memory.layers, index)
    if index == 0:
        stride, length = workspace.input_stride, layer[N_INPUTS]
        return Left(workspace.inputs, row * stride, stride, ONE, ZERO, length, NEVER)
    return rows_of_panels(memory, memory.activations, layer_of(memory.layers, index - 1), row)


@kernel
def columns_of_inputs(memory, workspace, index, column, depth):
    """Left operand: the inputs of layer `index` from `column` on, summed over the batch."""
    layer = layer_of(memory.layers, index)
    if index == 0:
        return Left(workspace.inputs, column, ONE, workspace.input_stride, ZERO, depth, NEVER)
    width = layer[INPUT_WIDTH]
    panel = column // width
    start = panel_start(memory, layer_of(memory.layers, index - 1), panel) + column - panel * width
    return Left(memory.activations, start, ONE, width, ZERO, depth, NEVER)


@phase
def forward_layer(memory, workspace, entries, index, tiles):
    """Compute the outputs of one layer, with bias and activation while a tile is in cache.

    `entries` are the layer's inputs where they are sparse, else None.
    """
    layer = layer_of(memory.layers, index)
    width, bias_row, depth = layer[WIDTH], layer[BIAS_ROW], layer[N_INPUTS]
    for item in range(tiles.first, tiles.last):
        panel, row = tile_at(tiles, item)
        weights = layer[WEIGHTS] + panel * (bias_row + 1) * width
        out = panel_start(memory, layer, panel) + row * width
        bias = weights + bias_row * width
        if entries is None:
            left = rows_of_inputs(memory, workspace, index, row)
            if index == 0 and workspace.steps.counts.size > 0:
                multiply_listed(
                    memory.activations, out, layer, panel, left, memory.weights, weights,
                    workspace.steps, row // TILE_ROWS, memory.weights, bias,
                )  # fmt: skip
            else:
                multiply(
                    memory.activations, out, layer, panel, left, memory.weights, weights, depth,
                    memory.weights, bias,
                )  # fmt: skip
        else:
            multiply_lines(
                memory.activations, out, layer, panel, entries.rows, row, memory.weights, weights,
                memory.weights, bias,
            )  # fmt: skip
        values = section(memory.activations, out, TILE_ROWS * width)
        kept = workspace.tile  # scratch, where there is no backward pass
        if memory.deltas.size > 0:
            kept = section(memory.deltas, out, TILE_ROWS * width)
        activate(layer[ACTIVATION], values, kept)


@kernel
def clear_padding(tile, layer, panel):
    """Zero the padding of a tile whose panel is one vector wide: the product does not write it."""
    width, lanes = layer[WIDTH], layer[LANES]
    if layer[N_OUTPUTS] - panel * width <= lanes < width:
        for row in range(TILE_ROWS):
            store_vector(tile, row * width + lanes, spread(tile, 0))


@kernel
def transpose_panel(memory, transposed, index, panel):
    """Transpose the rows of layer `index`'s weights that belong to one panel of its inputs."""
    layer, is_far = layer_of(memory.layers, index), memory.weights.size > CACHED_NUMBERS
    lanes, width, input_width = layer[LANES], layer[WIDTH], layer[INPUT_WIDTH]
    rows = layer[BIAS_ROW] + 1
    for output_panel in range(layer[N_PANELS]):
        source = layer[WEIGHTS] + (output_panel * rows + panel * input_width) * width
        if is_far:  # no hardware prefetcher can predict where the next piece is
            for row in range(0, input_width, TILE_ROWS):
                prefetch_tile(memory.weights, source + (rows + row) * width)
        for column in range(0, width, lanes):
            out = (output_panel * width + column) * input_width
            for row in range(0, input_width, lanes):
                transpose_square(
                    transposed, out + row, input_width,
                    memory.weights, source + row * width + column, width,
                )  # fmt: skip


@phase
def backward_layer(memory, workspace, index, tiles):
    """Compute δ of the layer below `index`, whose tiles are given: δ Wᵀ ⊙ f′."""
    layer, below = layer_of(memory.layers, index), layer_of(memory.layers, index - 1)
    width, depth = below[WIDTH], layer[N_OUTPUTS]
    transposed_panel = -1
    for item in range(tiles.first, tiles.last):
        panel, row = tile_at(tiles, item)
        if panel != transposed_panel:
            transpose_panel(memory, workspace.transposed, index, panel)
            transposed_panel = panel
        out = panel_start(memory, below, panel) + row * width
        left = rows_of_panels(memory, memory.deltas, layer, row)
        multiply(
            workspace.tile, ZERO, below, panel, left, workspace.transposed, ZERO, depth,
            workspace.zeros, ZERO,
        )  # fmt: skip
        clear_padding(workspace.tile, below, panel)
        errors = section(workspace.tile, ZERO, TILE_ROWS * width)
        deltas = section(memory.deltas, out, TILE_ROWS * width)
        values = section(memory.activations, out, TILE_ROWS * width)
        activate_backward(below[ACTIVATION], deltas, errors, values)


@kernel
def square_norm(values):
    """Σ v²."""
    total = type(values[0])(0)
    for j in range(values.size):
        total += values[j] * values[j]
    return total


@kernel
def prefetch_state(memory, start):
    """Prefetch the weights and moments of an update while its gradient is computed."""
    prefetch_tile(memory.weights, start)
    prefetch_tile(memory.first_moment, start)
    if memory.second_moment.size > 0:
        prefetch_tile(memory.second_moment, start)


@kernel
def sum_deltas(memory, workspace, layer, panel, depth):
    """Compute the bias gradient of one panel, Σ δ over the batch, as a product with ones."""
    start, width = panel_start(memory, layer, panel), layer[WIDTH]
    ones = Left(workspace.one, ZERO, ZERO, ZERO, ZERO, depth, NEVER)
    if width > layer[LANES]:
        wide_row(
            workspace.tile, ZERO, width, ones, memory.deltas, start, workspace.zeros, ZERO, depth
        )
    else:
        narrow_row(
            workspace.tile, ZERO, width, ones, memory.deltas, start, workspace.zeros, ZERO, depth
        )


@kernel
def tile_gradient(memory, workspace, entries, index, panel, column, depth):
    """Compute the weight gradient of one tile: inputs from `column` on, times one panel's δ."""
    layer = layer_of(memory.layers, index)
    right = panel_start(memory, layer, panel)
    if entries is None:
        left = columns_of_inputs(memory, workspace, index, column, depth)
        if index == 0 and workspace.steps.counts.size > 0:
            multiply_listed(
                workspace.tile, ZERO, layer, panel, left, memory.deltas, right, workspace.steps,
                column_tile(workspace.steps, column), workspace.zeros, ZERO,
            )  # fmt: skip
        else:
            multiply(
                workspace.tile, ZERO, layer, panel, left, memory.deltas, right, depth,
                workspace.zeros, ZERO,
            )  # fmt: skip
    else:
        multiply_lines(
            workspace.tile, ZERO, layer, panel, entries.columns, column, memory.deltas, right,
            workspace.zeros, ZERO,
        )  # fmt: skip
    clear_padding(workspace.tile, layer, panel)


@phase
def update_layer(memory, workspace, entries, index, depth, rule, step, tiles):
    """Compute the gradient of one layer's weights and update them, tile by tile.

    `entries` are the layer's inputs where they are sparse, else None; `depth` is the number of rows
    in the batch; `step` is a row of the step table.
    """
    layer, is_far = layer_of(memory.layers, index), memory.weights.size > CACHED_NUMBERS
    width = layer[WIDTH]
    for item in range(tiles.first, tiles.last):
        panel, row = tile_at(tiles, item)
        is_bias = row >= layer[N_INPUTS]
        # The last tile's surplus rows are padding, which must stay zero.
        n_rows = smaller(TILE_ROWS, layer[N_INPUTS] - row)
        penalty, shrinkage = step[PENALTY], step[SHRINKAGE]
        if is_bias:
            row, n_rows, penalty, shrinkage = layer[BIAS_ROW], ONE, 0.0, 0.0
        start = layer[WEIGHTS] + (panel * (layer[BIAS_ROW] + 1) + row) * width
        if is_far:
            prefetch_state(memory, start)
        if is_bias:
            sum_deltas(memory, workspace, layer, panel, depth)
        else:
            tile_gradient(memory, workspace, entries, index, panel, row, depth)
        weights = section(memory.weights, start, n_rows * width)
        if penalty > 0:
            memory.square_norms[layer[FIRST_BLOCK] + item] = square_norm(weights)
        gradient = section(workspace.tile, ZERO, weights.size)
        first_moment = section(memory.first_moment, start, weights.size)
        # Empty if the rule has one moment, and not used then.
        second_moment = section(memory.second_moment, start, weights.size)
        update_weights(
            rule, weights, gradient, first_moment, second_moment, step, penalty, shrinkage
        )
