"""The kernel that trains: batches of rows, forward, backward and the updates."""

import math

import numpy as np

from fastbp.cpu.kernels.amx import begin_squares, end_squares
from fastbp.cpu.kernels.barrier import barrier, is_aborted
from fastbp.cpu.kernels.batches import forward, gather_batch
from fastbp.cpu.kernels.compilation import Exported, kernel, phase
from fastbp.cpu.kernels.embeddings import embedding_gradient
from fastbp.cpu.kernels.gather import prefetch_row
from fastbp.cpu.kernels.layers import layer_of, n_layers_of
from fastbp.cpu.kernels.masks import draw_of
from fastbp.cpu.kernels.outputs import losses_and_deltas
from fastbp.cpu.kernels.pairs import pair_all_deltas, pair_all_weights
from fastbp.cpu.kernels.scales import update_scales
from fastbp.cpu.kernels.shares import Tiles, all_rows, round_to_tile, share, smaller, some_rows
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ONE, ZERO, section
from fastbp.cpu.kernels.sparse import sort_by_column
from fastbp.cpu.kernels.tiles import (
    COMPUTED,
    EXTRAS,
    Block,
    backward_layer,
    group_step,
    update_by_kept,
    update_layer,
    use_gradient,
)
from fastbp.cpu.records import (
    ABORTED,
    BLOCKS,
    EMBEDDING_SIZE,
    FIRST_BLOCK,
    LOSS,
    N_INPUTS,
    STOPPED,
    TOTAL_WEIGHT,
    UPDATES,
    WEIGHTS,
    WIDTH,
)
from fastbp.embedding import NUMBERS
from fastbp.parameter_groups import N_FACTORS
from fastbp.schedules import PENALTY, ROWS, TABLE_WIDTH, WEIGHT


@kernel
def prefetch_rows(source, objective, order, first, count):
    """Prefetch the rows of the next batch while this one is computed.

    They are scattered over memory: each would be a cache miss of its own.
    """
    for sample in range(first, smaller(first + count, order.size)):
        if source is not None:
            prefetch_row(source, order[sample])
        prefetch_row(objective.targets, order[sample])


@kernel
def share_samples(rows, lanes, rank, size):
    """The range of a batch's rows for one thread, in whole tiles and vectors."""
    block = TILE_ROWS if lanes < TILE_ROWS else lanes
    first, last = share((rows + block - 1) // block, rank, size)
    return smaller(first * block, rows), smaller(last * block, rows)


@kernel
def sum_in_order(values):
    """The sum of numbers one by one, whatever the number of threads that wrote them."""
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@phase
def update_embedding(memory, workspace, depth, call, step, factor, rank):
    """Update a thread's share of the embedded features: see `update_layer`."""
    layer = layer_of(memory.layers, ZERO)
    group = call.factors.size // N_FACTORS - 1
    own = group_step(workspace, call.factors, step, group, ZERO)
    first, last = share(memory.n_embedded, rank, call.size)
    for feature in range(first, last):
        start = layer[WEIGHTS] + feature * EMBEDDING_SIZE
        block = Block(start, EMBEDDING_SIZE, ZERO, EXTRAS)
        gradient = section(workspace.tile, ZERO, EMBEDDING_SIZE)
        if factor != COMPUTED:  # NaN, too
            update_by_kept(memory, gradient, block, factor, call.rule, own)
        else:
            embedding_gradient(memory, workspace, feature, depth)
            number = layer[FIRST_BLOCK] + feature
            use_gradient(memory, gradient, block, number, call.rule, own)


@kernel
def update(memory, workspace, entries, index, depth, call, step, factor, rank):
    """Compute the gradient of one layer's parameters, and update them: see `update_layer`."""
    if index == 0 and memory.n_embedded > 0:
        update_embedding(memory, workspace, depth, call, step, factor, rank)
        return
    layer = layer_of(memory.layers, index)
    tiles = all_rows(layer, layer[BLOCKS], rank, call.size)
    if entries is None or index > 0 or workspace.inputs.size > 0 or factor != COMPUTED:
        update_layer(memory, workspace, None, index, depth, call, step, factor, tiles)
    else:
        sort_by_column(entries)
        update_layer(memory, workspace, entries, index, depth, call, step, factor, tiles)


@kernel
def tiles_below(memory, index, blocks, rank, size):
    """A thread's share of the tiles whose δ comes from layer `index`.

    Of a layer that embeds features only the panels of numbers have parameters behind them.
    """
    below = layer_of(memory.layers, index - 1)
    if index > 1 or memory.n_embedded == 0:
        return all_rows(below, blocks, rank, size)
    width = below[WIDTH]
    n_panels = (NUMBERS * memory.n_embedded + width - 1) // width
    first, last = share(n_panels * blocks, rank, size)
    return Tiles(first, last, blocks, ZERO)


@kernel
def clipping_factor(memory, max_grad_norm):
    """What the gradient is multiplied by for its norm to be within its bound, at most 1.

    With the 10⁻⁶ of PyTorch's `clip_grad_norm_`.
    """
    factor = max_grad_norm / (math.sqrt(sum_in_order(memory.gradient_norms)) + 1e-6)
    return 1.0 if factor > 1.0 else factor  # NaN stays


@kernel
def forward_all(memory, workspace, call, step, order, passed, rank):
    """Compute all layers' outputs, the losses and the output layer's δ; return barriers passed.

    In hidden layers the threads share out the units, so that each reads only its own weights; in
    the output layer they share out the samples, which needs no barrier between its steps, and so
    they do where features are embedded.
    """
    layers, rows, entries = memory.layers, round_to_tile(order.size), workspace.entries
    output, blocks, size = n_layers_of(layers) - 1, rows // TILE_ROWS, call.size
    draw = draw_of(step)
    first, last = share_samples(rows, workspace.lanes, rank, size)
    for index in range(output):
        tiles = all_rows(layer_of(layers, index), blocks, rank, size)
        if index == 0 and memory.n_embedded > 0:
            tiles = some_rows(layer_of(layers, index), first, last)
        forward(memory, workspace, entries, index, draw, tiles)
        passed = barrier(memory.control, passed, size)
    tiles = some_rows(layer_of(layers, output), first, last)
    forward(memory, workspace, entries, output, draw, tiles)
    losses_and_deltas(memory, workspace, call.objective, order, step[WEIGHT], first, last)
    if memory.pairs is not None:
        pair_all_deltas(memory, memory.pairs, output, tiles, order.size)
    if output > 0:
        below = some_rows(layer_of(layers, output - 1), first, last)
        backward_layer(memory, workspace, output, order.size, below)
    return barrier(memory.control, passed, size)


@kernel
def clip_and_update(memory, workspace, call, step, order, passed, rank):
    """Update all parameters by the gradients that were kept; return the barriers passed."""
    factor = clipping_factor(memory, call.max_grad_norm)
    for index in range(n_layers_of(memory.layers) - 1, -1, -1):
        update(memory, workspace, workspace.entries, index, order.size, call, step, factor, rank)
    if memory.scaling.weights.size > 0:
        passed = barrier(memory.control, passed, call.size)
        update_scales(memory, workspace, call, step, factor, rank)
    return passed


@kernel
def run_batch(memory, workspace, call, step, order, passed, rank):
    """Train on one gathered batch: forward, backward, and the update by a row of the step table.

    Returns the number of barriers passed, and the summed loss of the batch (on rank 0).
    """
    layers, entries, size = memory.layers, workspace.entries, call.size
    output, blocks = n_layers_of(layers) - 1, round_to_tile(order.size) // TILE_ROWS
    passed = forward_all(memory, workspace, call, step, order, passed, rank)
    if memory.control[ABORTED]:
        return passed, 0.0  # before anything is updated
    loss = sum_in_order(section(memory.row_losses, ZERO, order.size)) if rank == 0 else 0.0
    for index in range(output, -1, -1):
        if 0 < index < output:
            tiles = tiles_below(memory, index, blocks, rank, size)
            backward_layer(memory, workspace, index, order.size, tiles)
            passed = barrier(memory.control, passed, size)
        # Right away, while the layer's weights, inputs and δ are in the caches.
        update(memory, workspace, entries, index, order.size, call, step, COMPUTED, rank)
    if memory.scaling.weights.size > 0:
        passed = barrier(memory.control, passed, size)
        update_scales(memory, workspace, call, step, COMPUTED, rank)
    if memory.gradient.size > 0:
        passed = barrier(memory.control, passed, size)
        if memory.control[ABORTED]:
            return passed, 0.0
        passed = clip_and_update(memory, workspace, call, step, order, passed, rank)
    return passed, loss


@kernel
def pair_weights_first(memory, workspace, pairs, rank, size):
    """Pair a thread's share of all weights that are multiplied as pairs."""
    if pairs is not None:
        is_sparse = workspace.inputs.size == 0
        first = ONE if memory.n_embedded > 0 or is_sparse else ZERO
        pair_all_weights(memory, pairs, first, rank, size)


@Exported
def train(call, memory, workspace, rank):
    """Train on the batches of `order`, one per row of `steps`: this thread's part of the work.

    Rank 0 adds to `result` the batches' losses times their weights, the weights, and the number of
    updates. A batch without weight is skipped; one whose loss is not finite is the last.
    """
    steps, order, result, size = call.steps, call.order, call.result, call.size
    n_inputs, entries = layer_of(memory.layers, ZERO)[N_INPUTS], workspace.entries
    passed, start = np.int64(0), np.int64(0)
    begin_squares(workspace.amx)
    if call.makes_pairs:
        pair_weights_first(memory, workspace, memory.pairs, rank, size)
        passed = barrier(memory.control, passed, size)
    for index in range(steps.size // TABLE_WIDTH):
        step = section(steps, index * TABLE_WIDTH, TABLE_WIDTH)
        batch = section(order, start, np.int64(step[ROWS]))
        start += batch.size
        if step[WEIGHT] == 0:
            continue
        gather_batch(
            workspace, memory.masks, draw_of(step), entries, call.source, batch, n_inputs,
            call.input_scale,
        )  # fmt: skip
        prefetch_rows(call.source, call.objective, order, start, batch.size)
        passed, loss = run_batch(memory, workspace, call, step, batch, passed, rank)
        if memory.control[ABORTED]:
            break
        if rank == 0 and not math.isfinite(loss):
            memory.control[STOPPED] = 1
        passed = barrier(memory.control, passed, size)
        if is_aborted(memory.control):  # some may have left the batch: the caller takes it back
            break
        if rank == 0:
            # The other ranks go on, but write to these norms only after the next barriers.
            penalty = sum_in_order(memory.square_norms) if step[PENALTY] > 0 else 0.0
            result[LOSS] += loss + 0.5 * call.alpha * penalty
            result[TOTAL_WEIGHT] += step[WEIGHT]
            result[UPDATES] += 1
        if memory.control[STOPPED]:
            break
    end_squares(workspace.amx)
