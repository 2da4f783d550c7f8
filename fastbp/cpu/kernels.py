"""The kernels that Python calls: batches of training, and prediction of many rows or a few."""

import math
from typing import NamedTuple

import numpy as np

from fastbp.cpu.compilation import cached_kernel, kernel, phase
from fastbp.cpu.formulas import activate
from fastbp.cpu.gather import gather_row, prefetch_row
from fastbp.cpu.layout import (
    ACTIVATION,
    BLOCKS,
    LANES,
    N_INPUTS,
    N_OUTPUTS,
    last_layer_of,
    layer_of,
    n_layers_of,
)
from fastbp.cpu.outputs import activate_samples, collect_outputs, losses_and_deltas
from fastbp.cpu.shares import all_rows, round_to_tile, share, smaller, some_rows
from fastbp.cpu.simd import TILE_ROWS
from fastbp.cpu.spans import ONE, ZERO, by_reference, section, span_of
from fastbp.cpu.sparse import add_entries, gather_entries, sort_by_column, spread_entries
from fastbp.cpu.team import ABORTED, STOPPED, barrier
from fastbp.cpu.tiles import backward_layer, forward_layer, update_layer
from fastbp.cpu.zeros import find_steps
from fastbp.schedules import PENALTY, ROWS, TABLE_WIDTH, WEIGHT

# Elements of the result array.
LOSS, TOTAL_WEIGHT, UPDATES, RESULT_SIZE = range(4)
# Bits of what a prediction returns: whether all inputs, and all outputs, were finite.
FINITE_INPUTS, FINITE_OUTPUTS = 1, 2
FINITENESS = (False, False), (True, False), (False, True), (True, True)  # by those bits


@by_reference
class Plan(NamedTuple):
    """What stays the same in all batches of training."""

    rule: int
    alpha: float  # of the penalty in the loss
    input_scale: float


@by_reference
class PredictionPlan(NamedTuple):
    """What stays the same in all batches of a prediction."""

    batch_size: int
    activation: int  # of the output layer
    input_scale: float


# `source` describes dense rows, and `entries` sparse ones. The other is None, and numba drops the
# branches for it. Sparse rows that are almost dense are gathered into `workspace.inputs`, too.


@phase
def gather_batch(workspace, entries, source, order, n_inputs, scale):
    """Convert the rows of a batch into this thread's inputs."""
    if entries is not None:
        gather_entries(entries, order, scale)
        if workspace.inputs.size == 0:
            return
    skips_zeros, stride = workspace.steps.counts.size > 0, workspace.input_stride
    scale = type(workspace.inputs[0])(scale)
    for sample in range(order.size):
        row = section(workspace.inputs, sample * stride, n_inputs)
        if source is not None:
            gather_row(row, source, order[sample], scale)
        if entries is not None:
            spread_entries(row, entries.rows, sample)
        # While the rows of a tile are in the L1 cache.
        if skips_zeros and (sample % TILE_ROWS == TILE_ROWS - 1 or sample == order.size - 1):
            tile = sample // TILE_ROWS
            find_steps(workspace.steps, workspace.inputs, stride, tile, order.size)


@kernel
def are_finite(values):
    """Whether no number is infinite or NaN, either of which times zero is NaN."""
    total = type(values[0])(0)
    for j in range(values.size):
        total += values[j] * type(total)(0)
    return total == 0


@kernel
def inputs_are_finite(workspace, entries, rows):
    """Whether all numbers of the first `rows` gathered rows are finite."""
    if entries is None:
        return are_finite(section(workspace.inputs, ZERO, rows * workspace.input_stride))
    return are_finite(section(entries.rows.values, ZERO, entries.rows.starts[rows]))


@kernel
def finite_bits(inputs_were_finite, outputs):
    """What a prediction returns, from whether its inputs were finite, and its outputs."""
    bits = FINITE_INPUTS if inputs_were_finite else 0
    return bits | FINITE_OUTPUTS if are_finite(outputs) else bits


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


@kernel
def forward(memory, workspace, entries, index, tiles):
    """Compute the outputs of one layer."""
    if entries is None or index > 0 or workspace.inputs.size > 0:
        forward_layer(memory, workspace, None, index, tiles)
    else:
        forward_layer(memory, workspace, entries, index, tiles)


@kernel
def update(memory, workspace, entries, index, depth, rule, step, tiles):
    """Compute the gradient of one layer's weights, and update them."""
    if entries is None or index > 0 or workspace.inputs.size > 0:
        update_layer(memory, workspace, None, index, depth, rule, step, tiles)
    else:
        sort_by_column(entries)
        update_layer(memory, workspace, entries, index, depth, rule, step, tiles)


@kernel
def run_batch(memory, workspace, objective, plan, step, order, passed, rank, size):
    """Train on one gathered batch: forward, backward, and the update by a row of the step table.

    In hidden layers the threads share out the units, so that each reads only its own weights; in
    the output layer they share out the samples, which needs no barrier between its steps.

    Returns the number of barriers passed, and the summed loss of the batch (on rank 0).
    """
    layers, rows, entries = memory.layers, round_to_tile(order.size), workspace.entries
    output, blocks = n_layers_of(layers) - 1, rows // TILE_ROWS
    for index in range(output):
        forward(
            memory, workspace, entries, index, all_rows(layer_of(layers, index), blocks, rank, size)
        )
        passed = barrier(memory.control, passed, size)
    first, last = share_samples(rows, workspace.lanes, rank, size)
    forward(memory, workspace, entries, output, some_rows(layer_of(layers, output), first, last))
    losses_and_deltas(memory, workspace, objective, order, step[WEIGHT], first, last)
    if output > 0:
        backward_layer(
            memory, workspace, output, some_rows(layer_of(layers, output - 1), first, last)
        )
    passed = barrier(memory.control, passed, size)
    if memory.control[ABORTED]:
        return passed, 0.0  # before anything is updated
    loss = sum_in_order(section(memory.row_losses, ZERO, order.size)) if rank == 0 else 0.0
    for index in range(output, -1, -1):
        if 0 < index < output:
            below = all_rows(layer_of(layers, index - 1), blocks, rank, size)
            backward_layer(memory, workspace, index, below)
            passed = barrier(memory.control, passed, size)
        # Right away, while the layer's weights, inputs and δ are in the caches.
        tiles = all_rows(layer_of(layers, index), layer_of(layers, index)[BLOCKS], rank, size)
        update(memory, workspace, entries, index, order.size, plan.rule, step, tiles)
    return passed, loss


@cached_kernel
def train(memory, workspace, source, objective, plan, steps, order, result, rank, size):
    """Train on the batches of `order`, one per row of `steps`: this thread's part of the work.

    Rank 0 adds to `result` the batches' losses times their weights, the weights, and the number of
    updates. A batch without weight is skipped; one whose loss is not finite is the last.
    """
    steps, order, result = span_of(steps), span_of(order), span_of(result)
    n_inputs, entries = layer_of(memory.layers, ZERO)[N_INPUTS], workspace.entries
    passed, start = np.int64(0), np.int64(0)
    for index in range(steps.size // TABLE_WIDTH):
        step = section(steps, index * TABLE_WIDTH, TABLE_WIDTH)
        batch = section(order, start, np.int64(step[ROWS]))
        start += batch.size
        if step[WEIGHT] == 0:
            continue
        gather_batch(workspace, entries, source, batch, n_inputs, plan.input_scale)
        prefetch_rows(source, objective, order, start, batch.size)
        passed, loss = run_batch(
            memory, workspace, objective, plan, step, batch, passed, rank, size
        )
        if memory.control[ABORTED]:
            break
        if rank == 0 and not math.isfinite(loss):
            memory.control[STOPPED] = 1
        passed = barrier(memory.control, passed, size)
        if rank == 0:
            # The other ranks go on, but write to these norms only after the next barriers.
            penalty = sum_in_order(memory.square_norms) if step[PENALTY] > 0 else 0.0
            result[LOSS] += loss + 0.5 * plan.alpha * penalty
            result[TOTAL_WEIGHT] += step[WEIGHT]
            result[UPDATES] += 1
        if memory.control[STOPPED]:
            break


@cached_kernel
def predict(memory, workspace, source, plan, order, out, rank, size):
    """Write the outputs of the rows in `order` to `out`, this thread's part of them.

    `memory.activations` belongs to this thread alone. Returns whether all inputs were finite, and
    all outputs, as bits.
    """
    order, out = span_of(order), span_of(out)
    n_layers, lanes = n_layers_of(memory.layers), workspace.lanes
    bits = FINITE_INPUTS | FINITE_OUTPUTS
    n_inputs, entries = layer_of(memory.layers, ZERO)[N_INPUTS], workspace.entries
    n_outputs = last_layer_of(memory.layers)[N_OUTPUTS]
    first, last = share(order.size, rank, size)
    for start in range(first, last, plan.batch_size):
        batch = section(order, start, smaller(plan.batch_size, last - start))
        gather_batch(workspace, entries, source, batch, n_inputs, plan.input_scale)
        finite = inputs_are_finite(workspace, entries, batch.size)
        for index in range(n_layers):
            tiles = some_rows(layer_of(memory.layers, index), ZERO, batch.size)
            forward(memory, workspace, entries, index, tiles)
        for row in range(0, batch.size, workspace.samples.size):
            samples = smaller(workspace.samples.size, batch.size - row)
            count = (samples + lanes - 1) // lanes * lanes
            collect_outputs(memory, workspace, plan.activation, row, count)
            for sample in range(samples):
                values = section(out, (start + row + sample) * n_outputs, n_outputs)
                for unit in range(n_outputs):
                    values[unit] = workspace.outputs[unit * count + sample]
        # While they are in the caches.
        outputs = section(out, start * n_outputs, batch.size * n_outputs)
        bits &= finite_bits(finite, outputs)
    return bits


@kernel
def add_inputs(values, inputs, weights):
    """Add to `values` every row of a weight matrix, times its input."""
    for k in range(inputs.size):
        row = section(weights, k * values.size, values.size)
        value = inputs[k]
        for j in range(values.size):
            values[j] += value * row[j]


@kernel
def outputs_of_row(inputs, outputs, parameters, layers, entries):
    """Pass one sample through all layers, with the weights of the flat vector.

    Returns whether the logits are in `outputs`; they are in `inputs` after an even number of
    layers. Sums run in the same order as in the tiles, and have the same bits.
    """
    start = np.int64(0)
    for index in range(n_layers_of(layers)):
        n_inputs, n_outputs = layer_of(layers, index)[N_INPUTS], layer_of(layers, index)[N_OUTPUTS]
        bias = start + n_inputs * n_outputs
        values = section(outputs, ZERO, n_outputs)
        weights = section(parameters, start, bias - start)
        for j in range(n_outputs):
            values[j] = parameters[bias + j]
        if entries is None or index > 0:
            add_inputs(values, section(inputs, ZERO, n_inputs), weights)
        else:
            add_entries(values, entries.rows, weights)
        lanes = layer_of(layers, index)[LANES]
        values = section(outputs, ZERO, (n_outputs + lanes - 1) // lanes * lanes)
        activate(layer_of(layers, index)[ACTIVATION], values, inputs)  # scratch by now
        inputs, outputs = outputs, inputs
        start = bias + n_outputs
    return n_layers_of(layers) % 2 == 1


@cached_kernel
def predict_few(
    parameters, layers, source, entries, scale, activation, order, out, working, widest
):
    """Write the outputs of the rows in `order`, not more than a vector's lanes, to `out`.

    Straight from the flat parameters: to pack them for the tiles takes longer than a few rows.
    `working` has room for two rows of the widest layer, in whole vectors, and for `lanes` samples'
    outputs; `entries` for any of the rows if they are sparse, else it is None. Returns whether all
    inputs were finite, and all outputs, as bits.
    """
    parameters, layers = span_of(parameters), span_of(layers)
    order, out, working = span_of(order), span_of(out), span_of(working)
    lanes, n_outputs = layer_of(layers, ZERO)[LANES], last_layer_of(layers)[N_OUTPUTS]
    first, second = section(working, ZERO, widest), section(working, widest, widest)
    outputs = section(working, 2 * widest, n_outputs * lanes)
    inputs = section(first, ZERO, layer_of(layers, ZERO)[N_INPUTS])
    scale, finite = type(working[0])(scale), True
    for sample in range(order.size):
        if entries is not None:
            gather_entries(entries, section(order, sample, ONE), scale)
            finite &= are_finite(section(entries.rows.values, ZERO, entries.rows.starts[1]))
        if source is not None:
            gather_row(inputs, source, order[sample], scale)
            finite &= are_finite(inputs)
        swapped = outputs_of_row(first, second, parameters, layers, entries)
        row = second if swapped else first
        for unit in range(n_outputs):
            out[sample * n_outputs + unit] = row[unit]
    for sample in range(order.size):
        for unit in range(n_outputs):
            outputs[unit * lanes + sample] = out[sample * n_outputs + unit]
    activate_samples(activation, outputs, lanes, outputs)  # output layers keep no f′
    for sample in range(order.size):
        for unit in range(n_outputs):
            out[sample * n_outputs + unit] = outputs[unit * lanes + sample]
    return finite_bits(finite, out)
