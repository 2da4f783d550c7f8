"""The fused steps of one layer: forward, backward, and gradient with update.

Every step computes its output tile by tile, and no sum is split among threads: results do not
depend on their number.
"""

from typing import NamedTuple

import numpy as np

from fastbp.cpu.kernels.barrier import is_aborted
from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.formulas import activate, activate_backward, update_weights
from fastbp.cpu.kernels.gradients import sum_units
from fastbp.cpu.kernels.layer_products import (
    compute_tile_gradient,
    forward_tile,
    multiply_deltas,
)
from fastbp.cpu.kernels.layers import (
    first_dense_of,
    layer_of,
    n_layers_of,
    weight_panel,
    weights_of,
)
from fastbp.cpu.kernels.masks import drop_outputs, drops, multiply_by
from fastbp.cpu.kernels.operands import CACHED_NUMBERS, panel_start
from fastbp.cpu.kernels.pairs import (
    pair_deltas,
    pair_outputs,
    pair_weights,
    transpose_panel_of_pairs,
)
from fastbp.cpu.kernels.products import multiply_lines
from fastbp.cpu.kernels.shares import smaller, tile_at
from fastbp.cpu.kernels.simd import TILE_ROWS, prefetch_tile, transpose_square
from fastbp.cpu.kernels.spans import ONE, ZERO, section
from fastbp.cpu.kernels.vectors import whole_size
from fastbp.cpu.records import (
    ACTIVATION,
    BIAS_ROW,
    FIRST_BLOCK,
    GROUP,
    INPUT_WIDTH,
    LANES,
    N_INPUTS,
    N_PANELS,
    SLOPES_ROW,
    WIDTH,
)
from fastbp.parameter_groups import (
    DECAY_FACTOR,
    GRADIENT_FACTOR,
    N_EXTRA_GROUPS,
    N_FACTORS,
    RATE_FACTOR,
)
from fastbp.schedules import AVERAGING, GRADIENT, PENALTY, RATE, SHRINKAGE, TABLE_WIDTH


@phase
def forward_layer(memory, workspace, entries, index, draw, tiles):
    """Compute the outputs of one layer, with bias and activation while a tile is in cache.

    `entries` are the layer's inputs where they are sparse, else None; `draw` is for dropout.
    """
    layer, width = layer_of(memory.layers, index), layer_of(memory.layers, index)[WIDTH]
    is_hidden = index < n_layers_of(memory.layers) - 1
    for item in range(tiles.first, tiles.last):
        if is_aborted(memory.control):
            return
        panel, row = tile_at(tiles, item)
        out = panel_start(memory, layer, panel) + row * width
        if entries is None:
            forward_tile(memory, workspace, workspace.amx, index, panel, row, tiles, item)
        else:
            start = weight_panel(layer, panel)
            multiply_lines(
                memory.activations, out, layer, panel, entries.rows, row,
                weights_of(memory, index), start, memory.weights, start + layer[BIAS_ROW] * width,
            )  # fmt: skip
        values = section(memory.activations, out, TILE_ROWS * width)
        kept = workspace.tile  # scratch, where there is no backward pass
        if memory.deltas.size > 0:
            kept = section(memory.deltas, out, TILE_ROWS * width)
        if layer[SLOPES_ROW] > 0:
            bend(memory, workspace, layer, panel, out, values, kept)
        else:
            activate(layer[ACTIVATION], values, kept)
        if drops(memory.masks, index + 1):
            drop_outputs(memory, workspace, index, panel, row, values, kept, draw)
        if is_hidden:
            pair_outputs(memory, workspace.amx, memory.pairs, out, width, row)


@phase
def bend(memory, workspace, layer, panel, out, values, kept):
    """Turn z into z + a (f(z) − z) in a tile of units with slopes a, and keep 1 + a (f′(z) − 1).

    f(z) − z is kept, too: it is what the slopes' gradients need.
    """
    width, one = layer[WIDTH], type(values[0])(1)
    slopes = section(memory.weights, weight_panel(layer, panel) + layer[SLOPES_ROW] * width, width)
    bent, ones = workspace.bent, section(workspace.factors, ZERO, values.size)
    if memory.bends.size > 0:
        bent = section(memory.bends, out, values.size)
    for j in range(whole_size(values)):
        bent[j], ones[j] = values[j], one
    activate(layer[ACTIVATION], values, kept)
    activate_backward(layer[ACTIVATION], kept, ones, values)
    for start in range(0, values.size, width):
        outputs, derivatives = section(values, start, width), section(kept, start, width)
        inputs = section(bent, start, width)
        for j in range(whole_size(slopes)):
            z = inputs[j]
            inputs[j] = outputs[j] - z
            outputs[j] = z + slopes[j] * (outputs[j] - z)
            derivatives[j] = one + slopes[j] * (derivatives[j] - one)


@kernel
def transpose_panel(memory, transposed, index, panel):
    """Transpose the rows of layer `index`'s weights that belong to one panel of its inputs."""
    layer, is_far = layer_of(memory.layers, index), memory.weights.size > CACHED_NUMBERS
    lanes, width, input_width = layer[LANES], layer[WIDTH], layer[INPUT_WIDTH]
    weights = weights_of(memory, index)
    for output_panel in range(layer[N_PANELS]):
        source = weight_panel(layer, output_panel) + panel * input_width * width
        if is_far:  # no hardware prefetcher can predict where the next piece is
            following = weight_panel(layer, output_panel + 1) + panel * input_width * width
            for row in range(0, input_width, TILE_ROWS):
                prefetch_tile(weights, following + row * width)
        for column in range(0, width, lanes):
            out = (output_panel * width + column) * input_width
            for row in range(0, input_width, lanes):
                transpose_square(
                    transposed, out + row, input_width,
                    weights, source + row * width + column, width,
                )  # fmt: skip


@kernel
def transpose(memory, workspace, pairs, index, panel):
    """Transpose one panel of inputs of layer `index`, in the memory of a thread."""
    if pairs is None:
        transpose_panel(memory, workspace.transposed, index, panel)
    else:
        transpose_panel_of_pairs(memory, pairs.transposed, index, panel)


@phase
def backward_layer(memory, workspace, index, n_rows, tiles):
    """Compute δ of the layer below `index`, whose tiles are given: δ Wᵀ ⊙ f′.

    `n_rows` is the number of rows in the batch.
    """
    below = layer_of(memory.layers, index - 1)
    width = below[WIDTH]
    transposed_panel = -1
    for item in range(tiles.first, tiles.last):
        if is_aborted(memory.control):
            return
        panel, row = tile_at(tiles, item)
        if panel != transposed_panel:
            transpose(memory, workspace, workspace.pairs, index, panel)
            transposed_panel = panel
        out = panel_start(memory, below, panel) + row * width
        multiply_deltas(memory, workspace, workspace.amx, index, panel, row, tiles, item)
        errors = section(workspace.tile, ZERO, TILE_ROWS * width)
        deltas = section(memory.deltas, out, TILE_ROWS * width)
        values = section(memory.activations, out, TILE_ROWS * width)
        if below[SLOPES_ROW] > 0:
            multiply_by(section(memory.bends, out, TILE_ROWS * width), errors)
        if below[SLOPES_ROW] > 0 or drops(memory.masks, index):
            multiply_by(deltas, errors)  # by the f′ that was kept
        else:
            activate_backward(below[ACTIVATION], deltas, errors, values)
        pair_deltas(memory, memory.pairs, out, width, n_rows - row)


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
WEIGHTS_OF_TILE, BIASES, SLOPES, EXTRAS = range(4)  # kinds of blocks


class Block(NamedTuple):
    """Parameters that are updated at once: of a weight panel a tile, the biases or the slopes."""

    start: int  # of them
    size: int
    column: int  # the first of its inputs
    kind: int


@kernel
def block_at(layer, tiles, item):
    """Block number `item` of a layer's tiles, and its panel."""
    panel, row = tile_at(tiles, item)
    width, start = layer[WIDTH], weight_panel(layer, panel)
    if row < layer[N_INPUTS]:
        # The last tile's surplus rows are padding, which must stay zero.
        size = smaller(TILE_ROWS, layer[N_INPUTS] - row) * width
        return panel, Block(start + row * width, size, row, WEIGHTS_OF_TILE)
    if row < layer[N_INPUTS] + TILE_ROWS:
        return panel, Block(start + layer[BIAS_ROW] * width, width, row, BIASES)
    return panel, Block(start + layer[SLOPES_ROW] * width, width, row, SLOPES)


@kernel
def group_step(workspace, factors, step, group, place):
    """A row of the step table as a group of parameters takes it; `place` is where it is kept."""
    if factors.size == 0:
        return step
    own = section(workspace.group_steps, place * TABLE_WIDTH, TABLE_WIDTH)
    for column in range(TABLE_WIDTH):
        own[column] = step[column]
    own[GRADIENT] *= factors[group * N_FACTORS + GRADIENT_FACTOR]
    own[RATE] *= factors[group * N_FACTORS + RATE_FACTOR]
    own[SHRINKAGE] *= factors[group * N_FACTORS + DECAY_FACTOR]
    own[PENALTY] *= factors[group * N_FACTORS + GRADIENT_FACTOR]  # a part of the gradient
    return own


@kernel
def update_block(memory, gradient, block, rule, step):
    """Update a block by its gradient and, if there is one, the average of its parameters."""
    weights = section(memory.weights, block.start, block.size)
    first_moment = section(memory.first_moment, block.start, block.size)
    # Empty if the rule has one moment, and not used then.
    second_moment = section(memory.second_moment, block.start, block.size)
    penalty = step[PENALTY] if block.kind == WEIGHTS_OF_TILE else 0.0
    shrinkage = 0.0 if block.kind == BIASES else step[SHRINKAGE]
    if memory.gradient.size > 0:
        penalty = 0.0  # the gradient has it
    update_weights(rule, weights, gradient, first_moment, second_moment, step, penalty, shrinkage)
    if memory.average.size > 0:
        average = section(memory.average, block.start, block.size)
        share = type(weights[0])(step[AVERAGING])
        for j in range(whole_size(average)):
            average[j] += share * (weights[j] - average[j])


@kernel
def keep_gradient(memory, gradient, block, number, step):
    """Keep a block's gradient, with the penalty's, until the norm of all is known."""
    kept = section(memory.gradient, block.start, block.size)
    weights = section(memory.weights, block.start, block.size)
    factor = type(weights[0])(step[PENALTY] if block.kind == WEIGHTS_OF_TILE else 0.0)
    for j in range(whole_size(kept)):
        kept[j] = gradient[j] + factor * weights[j]
    memory.gradient_norms[number] = square_norm_in_float64(kept)


@kernel
def use_gradient(memory, gradient, block, number, rule, step):
    """Update a block by the gradient just computed, or keep that until the norm of all is known."""
    if step[GRADIENT] != 1.0:
        factor = type(gradient[0])(step[GRADIENT])
        for j in range(whole_size(gradient)):
            gradient[j] *= factor
    if memory.gradient.size > 0:
        keep_gradient(memory, gradient, block, number, step)
    else:
        update_block(memory, gradient, block, rule, step)


@kernel
def update_by_kept(memory, gradient, block, factor, rule, step):
    """Update a block by its gradient that was kept, times a factor."""
    kept = section(memory.gradient, block.start, block.size)
    factor = type(gradient[0])(factor)
    for j in range(whole_size(gradient)):
        gradient[j] = factor * kept[j]
    update_block(memory, gradient, block, rule, step)


@kernel
def compute_gradient(memory, workspace, entries, index, panel, block, depth, begins):
    """Compute the gradient of a block's parameters, in `workspace.tile`.

    `begins` says whether it is the first of a thread's share.
    """
    layer = layer_of(memory.layers, index)
    if block.kind == WEIGHTS_OF_TILE:
        compute_tile_gradient(
            memory, workspace, workspace.amx, entries, index, panel, block.column, depth, begins
        )
    elif block.kind == BIASES:
        sum_units(memory, workspace, memory.deltas, layer, panel, depth)
    else:
        sum_units(memory, workspace, memory.bends, layer, panel, depth)


@kernel
def take_scales(memory, layer, panel, block, gradient):
    """Go back from the gradient of weights times scales to that of the weights, and the scales'.

    With w s in the place of w: ∂L/∂w = s ∂L/∂(ws), and ∂L/∂s = Σ w ∂L/∂(ws).
    """
    width, scaling = layer[WIDTH], memory.scaling
    for row in range(block.size // width):
        column = block.column + row
        weights = section(memory.weights, block.start + row * width, width)
        gradients, total = section(gradient, row * width, width), type(gradient[0])(0)
        scale = memory.weights[scaling.start + column]
        for j in range(whole_size(weights)):
            total += weights[j] * gradients[j]
        for j in range(whole_size(weights)):
            gradients[j] *= scale
        scaling.sums[panel * layer[BIAS_ROW] + column] = total


@phase
def update_layer(memory, workspace, entries, index, depth, call, step, factor, tiles):
    """Compute the gradient of one layer's weights and update them, tile by tile.

    Where the gradient's norm is bounded it is kept first, and taken times `factor` in a second
    call; in all others `factor` is COMPUTED. `entries` are the layer's inputs where they are
    sparse, else None; `depth` is the number of rows in the batch; `step` is a row of the step
    table.
    """
    layer, is_far = layer_of(memory.layers, index), memory.weights.size > CACHED_NUMBERS
    rule, factors, group = call.rule, call.factors, layer[GROUP]
    takes_scales = memory.scaling.sums.size > 0 and index == first_dense_of(memory)
    of_weights = group_step(workspace, factors, step, group, ZERO)
    of_biases = group_step(workspace, factors, step, group + 1, ONE)
    slopes_group = factors.size // N_FACTORS - N_EXTRA_GROUPS
    of_slopes = group_step(workspace, factors, step, slopes_group, ONE + ONE)
    for item in range(tiles.first, tiles.last):
        if is_aborted(memory.control):
            return
        panel, block = block_at(layer, tiles, item)
        number = layer[FIRST_BLOCK] + item
        gradient = section(workspace.tile, ZERO, block.size)
        own = of_weights
        if block.kind != WEIGHTS_OF_TILE:
            own = of_biases if block.kind == BIASES else of_slopes
        if is_far:
            prefetch_state(memory, block.start)
        if factor != COMPUTED:  # NaN, too
            update_by_kept(memory, gradient, block, factor, rule, own)
            if block.kind == WEIGHTS_OF_TILE and not takes_scales:
                pair_weights(memory, memory.pairs, index, panel, block.column)
            continue
        begins = item == tiles.first
        compute_gradient(memory, workspace, entries, index, panel, block, depth, begins)
        if step[PENALTY] > 0 and block.kind == WEIGHTS_OF_TILE:
            weights = section(memory.weights, block.start, block.size)
            memory.square_norms[number] = square_norm(weights)
        if takes_scales and block.kind == WEIGHTS_OF_TILE:
            take_scales(memory, layer, panel, block, gradient)
        use_gradient(memory, gradient, block, number, rule, own)
        # Where weights contain scales, they follow these.
        if block.kind == WEIGHTS_OF_TILE and not takes_scales and memory.gradient.size == 0:
            pair_weights(memory, memory.pairs, index, panel, block.column)
