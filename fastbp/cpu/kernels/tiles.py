"""The fused steps of one layer: forward, backward, and gradient with update.

Every step computes its output tile by tile, and no sum is split among threads: results do not
depend on their number.
"""

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.formulas import activate, activate_backward, update_weights
from fastbp.cpu.kernels.gradients import sum_deltas, tile_gradient
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.operands import CACHED_NUMBERS, panel_start, rows_of_inputs, rows_of_panels
from fastbp.cpu.kernels.products import clear_padding, multiply, multiply_lines, multiply_listed
from fastbp.cpu.kernels.shares import smaller, tile_at
from fastbp.cpu.kernels.simd import TILE_ROWS, prefetch_tile, transpose_square
from fastbp.cpu.kernels.spans import ONE, ZERO, section
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
from fastbp.schedules import PENALTY, SHRINKAGE


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
