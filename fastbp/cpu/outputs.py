"""The output layer: activation, loss and δ of a few vectors of samples at once.

Their numbers are transposed, unit by unit instead of sample by sample: so every formula and every
sum over the units runs over vectors.
"""

from typing import NamedTuple

import numpy as np

from fastbp import functions
from fastbp.cpu.compilation import kernel, phase
from fastbp.cpu.elementary import compile_formula
from fastbp.cpu.gather import Source, gather_row
from fastbp.cpu.layout import LANES, N_OUTPUTS, WIDTH, last_layer_of
from fastbp.cpu.simd import transpose_square
from fastbp.cpu.spans import by_reference, load_number, section
from fastbp.cpu.tiles import (
    LOGISTIC,
    ZERO,
    activate,
    activate_backward,
    larger,
    panel_start,
    smaller,
)

SOFTMAX, EXPONENTIAL = (functions.OUTPUT_ACTIVATIONS.index(name) for name in ("softmax", "exp"))
LOG_LOSS, SQUARED_ERROR, POISSON = (
    functions.LOSSES.index(name) for name in ("log_loss", "squared_error", "poisson")
)

exponential = compile_formula(functions.exponential)
exponential_backward = compile_formula(functions.exponential_backward)
# The losses call each other by name, so they are compiled in the order of their definition.
clip_probability = compile_formula(functions.clip_probability)
cross_entropy = compile_formula(functions.cross_entropy, clip_probability=clip_probability)
binary_cross_entropy = compile_formula(
    functions.binary_cross_entropy,
    clip_probability=clip_probability,
    cross_entropy=cross_entropy,
)
half_squared_error = compile_formula(functions.half_squared_error)
half_poisson_deviance = compile_formula(functions.half_poisson_deviance)
output_error = compile_formula(functions.output_error)


@by_reference
class Objective(NamedTuple):
    """What the outputs are compared with, and how."""

    output_activation: int
    loss: int
    loss_scale: float  # factor of every row's loss, not of its δ
    eps: float  # probabilities are kept this far from 0 and 1
    targets: Source
    target_is_class: int  # whether a target is a class index (int64) or a row of numbers
    sample_weight: int  # address of float64 weights, or 0


@kernel
def square_start(memory, layer, row, unit):
    """Where the square of samples from `row` on and units from `unit` on starts."""
    panel = unit // layer[WIDTH]
    return panel_start(memory, layer, panel) + (row - panel) * layer[WIDTH] + unit


@phase
def collect_outputs(memory, workspace, activation, row, count):
    """Outputs of `count` samples (whole vectors) from `row` on, to `workspace.outputs`."""
    layer = last_layer_of(memory.layers)
    lanes, width = layer[LANES], layer[WIDTH]
    for unit in range(0, layer[N_OUTPUTS], lanes):
        start = square_start(memory, layer, row, unit)
        for sample in range(0, count, lanes):
            transpose_square(
                workspace.outputs, unit * count + sample, count,
                memory.activations, start + sample * width, width,
            )  # fmt: skip
    outputs = section(workspace.outputs, ZERO, layer[N_OUTPUTS] * count)
    activate_outputs(activation, outputs, section(workspace.samples, ZERO, count))


@kernel
def activate_outputs(activation, outputs, samples):
    """Turn logits into outputs in place, unit by unit; `samples` is working space for each."""
    if activation == SOFTMAX:
        softmax(outputs, samples)
    elif activation == EXPONENTIAL:
        for j in range(outputs.size):
            outputs[j] = exponential(outputs[j])
    else:
        activate(activation, outputs)


@kernel
def spread_deltas(memory, deltas, row, count):
    """Put the δ of `count` samples into the panels, from `row` on."""
    layer = last_layer_of(memory.layers)
    lanes, width = layer[LANES], layer[WIDTH]
    for unit in range(0, layer[N_OUTPUTS], lanes):
        start = square_start(memory, layer, row, unit)
        for sample in range(0, count, lanes):
            transpose_square(
                memory.deltas, start + sample * width, width,
                deltas, unit * count + sample, count,
            )  # fmt: skip


@kernel
def sum_of_units(total, values):
    """Sum over the units, sample by sample."""
    for j in range(total.size):
        total[j] = 0
    for start in range(0, values.size, total.size):
        part = section(values, start, total.size)
        for j in range(total.size):
            total[j] += part[j]


@kernel
def softmax(outputs, samples):
    """Softmax in place, shifted by each sample's largest logit so that nothing overflows."""
    count = samples.size
    for j in range(count):
        samples[j] = outputs[j]
    for start in range(count, outputs.size, count):
        logits = section(outputs, start, count)
        for j in range(count):
            samples[j] = logits[j] if logits[j] > samples[j] else samples[j]
    for start in range(0, outputs.size, count):
        logits = section(outputs, start, count)
        for j in range(count):
            logits[j] = exponential(logits[j] - samples[j])
    sum_of_units(samples, outputs)
    for start in range(0, outputs.size, count):
        values = section(outputs, start, count)
        for j in range(count):
            values[j] /= samples[j]


@kernel
def compute_losses(objective, losses, targets, outputs):
    """Every output's share of its sample's loss."""
    eps = type(outputs[0])(objective.eps)
    if objective.loss == SQUARED_ERROR:
        for j in range(outputs.size):
            losses[j] = half_squared_error(targets[j], outputs[j])
    elif objective.loss == POISSON:
        for j in range(outputs.size):
            losses[j] = half_poisson_deviance(targets[j], outputs[j])
    elif objective.output_activation == LOGISTIC:
        for j in range(outputs.size):
            losses[j] = binary_cross_entropy(targets[j], outputs[j], eps)
    else:
        for j in range(outputs.size):
            losses[j] = cross_entropy(targets[j], outputs[j], eps)


@kernel
def replace_by_deltas(objective, targets, outputs):
    """Replace targets by the δ of their outputs in front of the output activation."""
    for j in range(outputs.size):
        targets[j] = output_error(targets[j], outputs[j])
    if objective.loss != SQUARED_ERROR:
        return
    if objective.output_activation == EXPONENTIAL:
        for j in range(outputs.size):
            targets[j] = exponential_backward(targets[j], outputs[j])
    else:
        activate_backward(objective.output_activation, targets, outputs)


@kernel
def read_targets(objective, workspace, targets, count, order):
    """Fill `targets`, unit by unit, for the samples in the rows `order` of the data."""
    one = type(targets[0])(1)
    if objective.target_is_class:
        for j in range(targets.size):
            targets[j] = 0
        for sample in range(order.size):
            label = load_number(objective.targets.address, order[sample], np.int64)
            targets[label * count + sample] = one
    else:
        row = workspace.row
        for sample in range(order.size):
            gather_row(row, objective.targets, order[sample], one)
            for unit in range(row.size):
                targets[unit * count + sample] = row[unit]


@kernel
def weight_of(objective, index):
    """The weight of the sample in row `index` of the data."""
    if objective.sample_weight == 0:
        return 1.0
    return load_number(objective.sample_weight, index, np.float64)


@phase
def output_deltas(memory, workspace, objective, order, batch_weight, first, last):
    """Loss and δ of the output layer for the rows from `first` to `last` of a batch.

    `order` holds the batch's rows of the data. `first` is a multiple of a vector's lanes.
    """
    lanes = workspace.lanes
    for row in range(first, last, workspace.samples.size):
        rows = smaller(workspace.samples.size, last - row)
        count = (rows + lanes - 1) // lanes * lanes
        n_samples = larger(smaller(rows, order.size - row), ZERO)  # none where all are padding
        samples = section(order, row, n_samples)
        collect_outputs(memory, workspace, objective.output_activation, row, count)
        some_deltas(memory, workspace, objective, samples, batch_weight, row, count)
        spread_deltas(memory, workspace.targets, row, count)


@kernel
def some_deltas(memory, workspace, objective, order, batch_weight, row, count):
    """Losses of the samples from `row` on, and their δ in place of their targets, unit by unit."""
    n_values = last_layer_of(memory.layers)[N_OUTPUTS] * count
    outputs = section(workspace.outputs, ZERO, n_values)
    targets = section(workspace.targets, ZERO, n_values)
    losses = section(workspace.losses, ZERO, n_values)
    samples = section(workspace.samples, ZERO, count)
    read_targets(objective, workspace, targets, count, order)
    compute_losses(objective, losses, targets, outputs)
    sum_of_units(samples, losses)
    for j in range(order.size):
        weight = weight_of(objective, order[j])
        memory.row_losses[row + j] = samples[j] * weight * objective.loss_scale
        samples[j] = weight / batch_weight
    replace_by_deltas(objective, targets, outputs)
    for start in range(0, n_values, count):
        deltas = section(targets, start, count)
        for j in range(count):
            deltas[j] *= samples[j]
    n_padding = smaller(workspace.targets.size - n_values, count * workspace.lanes)
    padding = section(workspace.targets, n_values, n_padding)
    for j in range(padding.size):
        padding[j] = 0
