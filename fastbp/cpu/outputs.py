"""The output layer, sample by sample: activation, loss and δ."""

from typing import NamedTuple

import numpy as np

from fastbp import functions
from fastbp.cpu.compilation import kernel
from fastbp.cpu.elementary import compile_formula
from fastbp.cpu.gather import Source, gather_row
from fastbp.cpu.layout import N_OUTPUTS, WIDTH
from fastbp.cpu.simd import load_number
from fastbp.cpu.tiles import (
    LOGISTIC,
    ZERO,
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
def copy_logits(row, memory, layer, sample):
    """Collect one sample's logits from the panels."""
    width = layer[WIDTH]
    start = panel_start(memory, layer, ZERO) + sample * width
    for first in range(0, row.size, width):
        part = row[first : first + width]
        logits = memory.activations[start : start + part.size]
        for j in range(part.size):
            part[j] = logits[j]
        start += memory.capacity * width


@kernel
def softmax(row):
    """Softmax in place, shifted by the largest logit so that nothing overflows."""
    largest = row[0]
    for j in range(row.size):
        largest = row[j] if row[j] > largest else largest
    total = type(largest)(0)
    for j in range(row.size):
        row[j] = exponential(row[j] - largest)
    for j in range(row.size):
        total += row[j]
    for j in range(row.size):
        row[j] /= total


@kernel
def activate_outputs(activation, row):
    """Turn logits into outputs in place."""
    if activation == SOFTMAX:
        softmax(row)
    elif activation == EXPONENTIAL:
        for j in range(row.size):
            row[j] = exponential(row[j])
    else:
        activate(activation, row)


@kernel
def row_loss(objective, target, row):
    """The loss of one sample's outputs, summed over them."""
    eps = type(row[0])(objective.eps)
    total = 0.0
    if objective.loss == SQUARED_ERROR:
        for j in range(row.size):
            total += half_squared_error(target[j], row[j])
    elif objective.loss == POISSON:
        for j in range(row.size):
            total += half_poisson_deviance(target[j], row[j])
    elif objective.output_activation == LOGISTIC:
        for j in range(row.size):
            total += binary_cross_entropy(target[j], row[j], eps)
    else:
        for j in range(row.size):
            total += cross_entropy(target[j], row[j], eps)
    return total * objective.loss_scale


@kernel
def row_delta(objective, target, row):
    """Replace one sample's targets by the δ of its outputs in front of the output activation."""
    for j in range(row.size):
        target[j] = output_error(target[j], row[j])
    if objective.loss != SQUARED_ERROR:
        return
    if objective.output_activation == EXPONENTIAL:
        for j in range(row.size):
            target[j] = exponential_backward(target[j], row[j])
    else:
        activate_backward(objective.output_activation, target, row)


@kernel
def read_target(objective, target, buffer, index):
    """Fill `target` for the sample in row `index` of the data."""
    if objective.target_is_class:
        for j in range(target.size):
            target[j] = 0
        target[load_number(objective.targets.address, index, np.int64)] = 1
    else:
        gather_row(target, buffer, objective.targets, index, type(target[0])(1))


@kernel
def weight_of(objective, index):
    """The weight of the sample in row `index` of the data."""
    if objective.sample_weight == 0:
        return 1.0
    return load_number(objective.sample_weight, index, np.float64)


@kernel
def output_deltas(memory, workspace, objective, order, batch_weight, rank, size):
    """Loss and δ of the output layer for one batch; δ over the batch's weight.

    `order` holds the batch's rows of the data.
    """
    layer = memory.layers[-1]
    width, n_outputs = layer[WIDTH], layer[N_OUTPUTS]
    row, target = workspace.row[:n_outputs], workspace.target[:n_outputs]
    first, last = share(order.size, rank, size)
    for sample in range(first, last):
        copy_logits(row, memory, layer, sample)
        activate_outputs(objective.output_activation, row)
        read_target(objective, target, workspace.buffer, order[sample])
        weight = weight_of(objective, order[sample])
        memory.row_losses[sample] = weight * row_loss(objective, target, row)
        row_delta(objective, target, row)
        scale = type(row[0])(weight / batch_weight)
        start = panel_start(memory, layer, ZERO) + sample * width
        for unit in range(0, n_outputs, width):
            deltas = memory.deltas[start : start + smaller(width, n_outputs - unit)]
            for j in range(deltas.size):
                deltas[j] = target[unit + j] * scale
            start += memory.capacity * width
