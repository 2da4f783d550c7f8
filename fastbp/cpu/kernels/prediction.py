"""The kernels that predict: many rows in batches, or a few straight from the flat parameters."""

import numpy as np

from fastbp.cpu.kernels.batches import forward, gather_batch
from fastbp.cpu.kernels.compilation import Exported, kernel
from fastbp.cpu.kernels.flat_layers import are_far, fetch_weights, forward_flat, sum_line
from fastbp.cpu.kernels.formulas import activate
from fastbp.cpu.kernels.gather import gather_row
from fastbp.cpu.kernels.layers import last_layer_of, layer_of, n_layers_of
from fastbp.cpu.kernels.masks import Draw
from fastbp.cpu.kernels.outputs import activate_samples, collect_outputs
from fastbp.cpu.kernels.shares import share, smaller, some_rows
from fastbp.cpu.kernels.spans import ZERO, section
from fastbp.cpu.kernels.sparse import gather_entries
from fastbp.cpu.records import (
    ACTIVATION,
    FINITE_INPUTS,
    FINITE_OUTPUTS,
    LANES,
    N_INPUTS,
    N_OUTPUTS,
    TILE_VECTORS,
)


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


@Exported
def predict(call, memory, workspace, rank):
    """Write the outputs of the rows in `order` to `out`, this thread's part of them.

    `memory.activations` belongs to this thread alone. Returns whether all inputs were finite, and
    all outputs, as bits.
    """
    order, out = call.order, call.out
    n_layers, lanes = n_layers_of(memory.layers), workspace.lanes
    bits, draw = FINITE_INPUTS | FINITE_OUTPUTS, Draw(ZERO, 1.0)
    n_inputs, entries = layer_of(memory.layers, ZERO)[N_INPUTS], workspace.entries
    n_outputs, parameters = last_layer_of(memory.layers)[N_OUTPUTS], call.parameters
    first, last = share(order.size, rank, call.size)
    for start in range(first, last, call.batch_size):
        batch = section(order, start, smaller(call.batch_size, last - start))
        gather_batch(
            workspace, memory.masks, draw, entries, call.source, batch, n_inputs, call.input_scale
        )
        finite, flat = inputs_are_finite(workspace, entries, batch.size), ZERO
        for index in range(n_layers):
            layer = layer_of(memory.layers, index)
            if parameters.size > 0:
                forward_flat(memory, workspace, entries, parameters, index, flat, draw, batch.size)
                flat += (layer[N_INPUTS] + 1) * layer[N_OUTPUTS]
            else:
                forward(memory, workspace, entries, index, draw, some_rows(layer, ZERO, batch.size))
        for row in range(0, batch.size, workspace.samples.size):
            samples = smaller(workspace.samples.size, batch.size - row)
            count = (samples + lanes - 1) // lanes * lanes
            collect_outputs(memory, workspace, call.activation, row, count)
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
def gather_sample(inputs, source, entries, order, sample, scale):
    """Convert one row to inputs; sparse ones are there. Return whether it is finite."""
    if entries is not None:
        return True
    if source is not None:
        gather_row(inputs, source, order[sample], scale)
    return are_finite(inputs)


@kernel
def gather_few(entries, order, scale):
    """Copy the entries of rows, if they are sparse; return whether they are finite."""
    if entries is not None:
        gather_entries(entries, order, scale)
        return are_finite(section(entries.rows.values, ZERO, entries.rows.starts[order.size]))
    return True


@kernel
def add_first_inputs(values, inputs, parameters, layers, entries, sample):
    """Compute the first layer's z of a sample, from inputs or entries; biases are in `values`."""
    n_inputs, n_outputs = layer_of(layers, ZERO)[N_INPUTS], values.size
    if entries is None:
        inputs, size = section(inputs, ZERO, n_inputs), n_inputs * n_outputs
        add_inputs(values, inputs, section(parameters, ZERO, size))
    else:
        if sample + 1 < entries.rows.starts.size - 1 and are_far(layer_of(layers, ZERO)):
            fetch_weights(parameters, ZERO, n_outputs, entries.rows, sample + 1)
        width = TILE_VECTORS * layer_of(layers, ZERO)[LANES]
        sum_line(
            values, ZERO, width, width, entries.rows, sample, parameters, ZERO, n_outputs,
            n_inputs * n_outputs,
        )  # fmt: skip


@kernel
def outputs_of_row(inputs, outputs, parameters, layers, entries, sample):
    """Pass one sample through all layers, with the weights of the flat vector.

    Returns whether the logits are in `outputs`; they are in `inputs` after an even number of
    layers. Sums run in the same order as in the tiles, and have the same bits.
    """
    start = np.int64(0)
    for index in range(n_layers_of(layers)):
        n_inputs, n_outputs = layer_of(layers, index)[N_INPUTS], layer_of(layers, index)[N_OUTPUTS]
        bias = start + n_inputs * n_outputs
        values = section(outputs, ZERO, n_outputs)
        for j in range(n_outputs):
            values[j] = parameters[bias + j]
        if index == 0:
            add_first_inputs(values, inputs, parameters, layers, entries, sample)
        else:
            weights = section(parameters, start, bias - start)
            add_inputs(values, section(inputs, ZERO, n_inputs), weights)
        lanes = layer_of(layers, index)[LANES]
        values = section(outputs, ZERO, (n_outputs + lanes - 1) // lanes * lanes)
        activate(layer_of(layers, index)[ACTIVATION], values, inputs)  # scratch by now
        inputs, outputs = outputs, inputs
        start = bias + n_outputs
    return n_layers_of(layers) % 2 == 1


@kernel
def predict_group(call, order, out):
    """Write the outputs of not more rows than a vector has lanes; return whether all are finite."""
    parameters, layers, entries = call.parameters, call.layers, call.entries
    working, widest = call.working, call.widest
    lanes, n_outputs = layer_of(layers, ZERO)[LANES], last_layer_of(layers)[N_OUTPUTS]
    first, second = section(working, ZERO, widest), section(working, widest, widest)
    outputs = section(working, 2 * widest, n_outputs * lanes)
    inputs = section(first, ZERO, layer_of(layers, ZERO)[N_INPUTS])
    scale = type(working[0])(call.input_scale)
    finite = gather_few(entries, order, scale)
    for sample in range(order.size):
        finite &= gather_sample(inputs, call.source, entries, order, sample, scale)
        swapped = outputs_of_row(first, second, parameters, layers, entries, sample)
        row = second if swapped else first
        for unit in range(n_outputs):
            outputs[unit * lanes + sample] = row[unit]
    activate_samples(call.activation, outputs, lanes, outputs)  # output layers keep no f′
    for sample in range(order.size):
        for unit in range(n_outputs):
            out[sample * n_outputs + unit] = outputs[unit * lanes + sample]
    return finite


@Exported
def predict_few(call):
    """Write the outputs of the rows in `order` to `out`, one row after the other.

    Straight from the flat parameters: to prepare tiles takes longer than a little work does.
    Returns whether all inputs were finite, and all outputs, as bits.
    """
    order, lanes = call.order, layer_of(call.layers, ZERO)[LANES]
    n_outputs, finite = last_layer_of(call.layers)[N_OUTPUTS], True
    for start in range(0, order.size, lanes):
        count = smaller(lanes, order.size - start)
        out = section(call.out, start * n_outputs, count * n_outputs)
        finite &= predict_group(call, section(order, start, count), out)
    return finite_bits(finite, call.out)
