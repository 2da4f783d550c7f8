"""The fused steps of one layer: forward, backward, and gradient with update.

Every step computes its output tile by tile, and no sum is split among threads: results do not
depend on their number.
"""

from typing import NamedTuple

import numpy as np

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.formulas import activate, activate_backward, update_weights
from fastbp.cpu.kernels.gradients import sum_deltas, tile_gradient
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.masks import drop_outputs, drops, multiply_by
from fastbp.cpu.kernels.operands import CACHED_NUMBERS, panel_start, rows_of_inputs, rows_of_panels
from fastbp.cpu.kernels.products import clear_padding, multiply, multiply_lines, multiply_listed
from fastbp.cpu.kernels.shares import smaller, tile_at
from fastbp.cpu.kernels.simd import TILE_ROWS, prefetch_tile, transpose_square
from fastbp.cpu.kernels.spans import ONE, ZERO, section
from fastbp.cpu.kernels.vectors import whole_size
from fastbp.cpu.kernels.zeros import first_step
from fastbp.cpu.records import (
    ACTIVATION,
    BIAS_ROW,
    FIRST_BLOCK,
    INPUT_WIDTH,
    LANES,
    N_INPUTS,
    N_OUTPUTS,
    N_PANELS,
    WEIGHTS,
    WIDTH,
)
from fastbp.schedules import AVERAGING, PENALTY, SHRINKAGE


@phase
def forward_layer(memory, workspace, entries, index, update, tiles):
    """Compute the outputs of one layer, with bias and activation while a tile is in cache.

    `entries` are the layer's inputs where they are sparse, else None; `update` is the number of the
    update, for dropout.
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
                tile = row // TILE_ROWS
                multiply_listed(
                    memory.activations, out, layer, panel, left, memory.weights, weights,
                    workspace.steps.numbers, first_step(workspace.steps, tile),
                    workspace.steps.counts[tile], memory.weights, bias,
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
        if drops(memory.masks, index + 1):
            drop_outputs(memory, workspace, index, panel, row, values, kept, update)


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
        if drops(memory.masks, index):
            multiply_by(deltas, errors)  # by the f′ that was kept
        else:
            activate_backward(below[ACTIVATION], deltas, errors, values)


@kernel
def square_norm(values):
    """Σ v²."""
    total = type(values[0])(0)
    for j in range(values.size):
        total += values[j] * values[j]
    return total


@kernel
def square_norm_in_float64(values):
    """Σ v², which cannot overflow for float32."""
    total = 0.0
    for j in range(values.size):
        total += np.float64(values[j]) * np.float64(values[j])
    return total


@kernel
def prefetch_state(memory, start):
    """Prefetch the weights and moments of an update while its gradient is computed."""
    prefetch_tile(memory.weights, start)
    prefetch_tile(memory.first_moment, start)
    if memory.second_moment.size > 0:
        prefetch_tile(memory.second_moment, start)


COMPUTED = -1.0  # in the place of a factor: the gradient has not been kept


class Block(NamedTuple):
    """A block of a weight panel, whose parameters are updated at once."""

    start: int  # of its weights
    size: int
    column: int  # the first of its inputs
    is_bias: bool


@kernel
def block_at(layer, tiles, item):
    """Block number `item` of a layer's tiles, and its panel."""
    panel, row = tile_at(tiles, item)
    width, is_bias = layer[WIDTH], row >= layer[N_INPUTS]
    # The last tile's surplus rows are padding, which must stay zero.
    n_rows = ONE if is_bias else smaller(TILE_ROWS, layer[N_INPUTS] - row)
    row = layer[BIAS_ROW] if is_bias else row
    start = layer[WEIGHTS] + (panel * (layer[BIAS_ROW] + 1) + row) * width
    return panel, Block(start, n_rows * width, row, is_bias)


@kernel
def update_block(memory, gradient, block, rule, step, penalty):
    """Update a block by its gradient and, if there is one, the average of its parameters."""
    weights = section(memory.weights, block.start, block.size)
    first_moment = section(memory.first_moment, block.start, block.size)
    # Empty if the rule has one moment, and not used then.
    second_moment = section(memory.second_moment, block.start, block.size)
    shrinkage = 0.0 if block.is_bias else step[SHRINKAGE]
    update_weights(rule, weights, gradient, first_moment, second_moment, step, penalty, shrinkage)
    if memory.average.size > 0:
        average = section(memory.average, block.start, block.size)
        share = type(weights[0])(step[AVERAGING])
        for j in range(whole_size(average)):
            average[j] += share * (weights[j] - average[j])


@kernel
def keep_gradient(memory, gradient, block, number, penalty):
    """Keep a block's gradient, with the penalty's, until the norm of all is known."""
    kept = section(memory.gradient, block.start, block.size)
    weights = section(memory.weights, block.start, block.size)
    factor = type(weights[0])(penalty)
    for j in range(whole_size(kept)):
        kept[j] = gradient[j] + factor * weights[j]
    memory.gradient_norms[number] = square_norm_in_float64(kept)


@kernel
def compute_gradient(memory, workspace, entries, index, panel, block, depth):
    """Compute the gradient of a block's parameters, in `workspace.tile`."""
    if block.is_bias:
        sum_deltas(memory, workspace, layer_of(memory.layers, index), panel, depth)
    else:
        tile_gradient(memory, workspace, entries, index, panel, block.column, depth)


@kernel
def take_kept(memory, gradient, block, factor):
    """Take a block's gradient that was kept, times a factor."""
    kept = section(memory.gradient, block.start, block.size)
    factor = type(gradient[0])(factor)
    for j in range(whole_size(gradient)):
        gradient[j] = factor * kept[j]


@phase
def update_layer(memory, workspace, entries, index, depth, rule, step, factor, tiles):
    """Compute the gradient of one layer's weights and update them, tile by tile.

    Where the gradient's norm is bounded it is kept first, and taken times `factor` in a second
    call; in all others `factor` is COMPUTED. `entries` are the layer's inputs where they are
    sparse, else None; `depth` is the number of rows in the batch; `step` is a row of the step
    table.
    """
    layer, is_far = layer_of(memory.layers, index), memory.weights.size > CACHED_NUMBERS
    for item in range(tiles.first, tiles.last):
        panel, block = block_at(layer, tiles, item)
        penalty, number = 0.0 if block.is_bias else step[PENALTY], layer[FIRST_BLOCK] + item
        gradient = section(workspace.tile, ZERO, block.size)
        if is_far:
            prefetch_state(memory, block.start)
        if factor != COMPUTED:  # NaN, too
            take_kept(memory, gradient, block, factor)
            update_block(memory, gradient, block, rule, step, 0.0)
            continue
        compute_gradient(memory, workspace, entries, index, panel, block, depth)
        if penalty > 0:
            weights = section(memory.weights, block.start, block.size)
            memory.square_norms[number] = square_norm(weights)
        if memory.gradient.size > 0:
            keep_gradient(memory, gradient, block, number, penalty)
        else:
            update_block(memory, gradient, block, rule, step, penalty)
