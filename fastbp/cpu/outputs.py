"""The output layer, a vector of samples at once: activation, loss and δ."""

from typing import NamedTuple

import numpy as np

from fastbp import functions
from fastbp.cpu.compilation import kernel
from fastbp.cpu.elementary import compile_formula
from fastbp.cpu.gather import Source, gather_row
from fastbp.cpu.layout import LANES, N_OUTPUTS, WIDTH
from fastbp.cpu.simd import load_number, transpose_square
from fastbp.cpu.tiles import (
    LOGISTIC,
    activate,
    activate_backward,
    panel_start,
    share,
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


@kernel
def collect_outputs(memory, workspace, activation, row):
    """Outputs of a vector of samples from `row` on, unit by unit, into `workspace.outputs`."""
    layer = memory.layers[-1]
    lanes, n_outputs = layer[LANES], layer[N_OUTPUTS]
    outputs = workspace.outputs[: n_outputs * lanes]
    for unit in range(0, n_outputs, lanes):
        start = square_start(memory, layer, row, unit)
        transpose_square(
            workspace.outputs, unit * lanes, lanes, memory.activations, start, layer[WIDTH]
        )
    if activation == SOFTMAX:
        softmax(outputs, workspace.samples)
    elif activation == EXPONENTIAL:
        for j in range(outputs.size):
            outputs[j] = exponential(outputs[j])
    else:
        activate(activation, outputs)


@kernel
def spread_deltas(memory, workspace, row):
    """Put the δ of a vector of samples into the panels, from `row` on; the padding gets zeros."""
    layer = memory.layers[-1]
    lanes, width = layer[LANES], layer[WIDTH]
    for unit in range(0, layer[N_OUTPUTS], lanes):
        start = square_start(memory, layer, row, unit)
        transpose_square(memory.deltas, start, width, workspace.targets, unit * lanes, lanes)


@kernel
def softmax(outputs, working):
    """Softmax in place, shifted by each sample's largest logit so that nothing overflows."""
    lanes = working.size
    for j in range(lanes):
        working[j] = outputs[j]
    for start in range(lanes, outputs.size, lanes):
        logits = outputs[start : start + lanes]
        for j in range(lanes):
            working[j] = logits[j] if logits[j] > working[j] else working[j]
    for start in range(0, outputs.size, lanes):
        logits = outputs[start : start + lanes]
        for j in range(lanes):
            logits[j] -= working[j]
    for j in range(outputs.size):
        outputs[j] = exponential(outputs[j])
    for j in range(lanes):
        working[j] = 0
    for start in range(0, outputs.size, lanes):
        values = outputs[start : start + lanes]
        for j in range(lanes):
            working[j] += values[j]
    for start in range(0, outputs.size, lanes):
        values = outputs[start : start + lanes]
        for j in range(lanes):
            values[j] /= working[j]


@kernel
def add_losses(objective, losses, targets, outputs):
    """Add one unit's share to the losses of its samples."""
    eps = type(outputs[0])(objective.eps)
    if objective.loss == SQUARED_ERROR:
        for j in range(losses.size):
            losses[j] += half_squared_error(targets[j], outputs[j])
    elif objective.loss == POISSON:
        for j in range(losses.size):
            losses[j] += half_poisson_deviance(targets[j], outputs[j])
    elif objective.output_activation == LOGISTIC:
        for j in range(losses.size):
            losses[j] += binary_cross_entropy(targets[j], outputs[j], eps)
    else:
        for j in range(losses.size):
            losses[j] += cross_entropy(targets[j], outputs[j], eps)


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
def read_targets(objective, workspace, targets, order):
    """Fill `targets`, unit by unit, for the samples in the rows `order` of the data."""
    lanes, one = workspace.samples.size, type(targets[0])(1)
    if objective.target_is_class:
        for j in range(targets.size):
            targets[j] = 0
        for sample in range(order.size):
            label = load_number(objective.targets.address, order[sample], np.int64)
            targets[label * lanes + sample] = one
    else:
        row = workspace.row
        for sample in range(order.size):
            gather_row(row, workspace.buffer, objective.targets, order[sample], one)
            for unit in range(row.size):
                targets[unit * lanes + sample] = row[unit]


@kernel
def weight_of(objective, index):
    """The weight of the sample in row `index` of the data."""
    if objective.sample_weight == 0:
        return 1.0
    return load_number(objective.sample_weight, index, np.float64)


@kernel
def output_deltas(memory, workspace, objective, order, batch_weight, rank, size):
    """Loss and δ of the output layer for one batch; δ over the batch's weight.

    `order` holds the batch's rows of the data. As many samples as a vector has lanes are worked on
    at once, unit by unit.
    """
    lanes = workspace.samples.size
    n_values = memory.layers[-1, N_OUTPUTS] * lanes
    outputs, targets = workspace.outputs[:n_values], workspace.targets[:n_values]
    first, last = share((order.size + lanes - 1) // lanes, rank, size)
    for row in range(first * lanes, last * lanes, lanes):
        samples = order[row : smaller(row + lanes, order.size)]
        collect_outputs(memory, workspace, objective.output_activation, row)
        read_targets(objective, workspace, targets, samples)
        losses, scales = memory.row_losses[row : row + lanes], workspace.samples
        for j in range(lanes):
            losses[j] = 0
        for start in range(0, outputs.size, lanes):
            stop = start + lanes
            add_losses(objective, losses, targets[start:stop], outputs[start:stop])
        for j in range(samples.size):
            weight = weight_of(objective, samples[j])
            losses[j] *= weight * objective.loss_scale
            scales[j] = weight / batch_weight
        replace_by_deltas(objective, targets, outputs)
        for start in range(0, outputs.size, lanes):
            deltas = targets[start : start + lanes]
            for j in range(lanes):
                deltas[j] *= scales[j]
        spread_deltas(memory, workspace, row)
