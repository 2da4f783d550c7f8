"""The output layer: activation, loss and δ of a few vectors of samples at once.

Their numbers are transposed, unit by unit instead of sample by sample, so that every formula and
every sum over the units runs on vectors of samples.
"""

import numpy as np

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.elementary import exp
from fastbp.cpu.kernels.formulas import (
    IDENTITY,
    SOFTMAX,
    activate,
    activate_backward,
    compute_errors,
    compute_losses,
    cross_entropy,
)
from fastbp.cpu.kernels.gather import gather_row
from fastbp.cpu.kernels.layers import last_layer_of
from fastbp.cpu.kernels.operands import panel_start
from fastbp.cpu.kernels.shares import larger, smaller
from fastbp.cpu.kernels.simd import transpose_square
from fastbp.cpu.kernels.spans import ZERO, load_number, section
from fastbp.cpu.kernels.vectors import (
    load_vector,
    spread,
    store_vector,
    vector_size,
    where_equal,
    where_greater,
    whole_size,
)
from fastbp.cpu.records import LANES, N_OUTPUTS, WIDTH


@kernel
def square_start(memory, layer, row, unit):
    """Index in the activations at which a square from this row and unit on starts."""
    panel = unit // layer[WIDTH]
    return panel_start(memory, layer, panel) + (row - panel) * layer[WIDTH] + unit


@phase
def collect_outputs(memory, workspace, activation, row, count):
    """Write the outputs of `count` samples (whole vectors) from `row` on to `workspace.outputs`."""
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
    activate_samples(activation, outputs, count, workspace.errors)


@kernel
def activate_samples(activation, outputs, count, scratch):
    """Turn the logits of `count` samples, stored unit by unit, into outputs in place."""
    if activation == SOFTMAX:
        softmax(outputs, count)
    else:
        activate(activation, outputs, scratch)


@kernel
def spread_deltas(memory, deltas, row, count):
    """Copy the δ of `count` samples to the panels, from `row` on."""
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
def softmax(outputs, count):
    """Softmax in place, shifted by each sample's largest logit so that nothing overflows."""
    for sample in range(0, count, vector_size(outputs)):
        largest = load_vector(outputs, sample)
        for at in range(sample + count, outputs.size, count):
            logits = load_vector(outputs, at)
            largest = where_greater(logits, largest, logits, largest)
        total = spread(outputs, 0)
        for at in range(sample, outputs.size, count):
            value = exp(load_vector(outputs, at) - largest)
            store_vector(outputs, at, value)
            total = total + value
        for at in range(sample, outputs.size, count):
            store_vector(outputs, at, load_vector(outputs, at) / total)


@kernel
def read_labels(objective, labels, order):
    """Fill `labels` with the class indices of the rows `order` of the data, as real numbers."""
    for sample in range(order.size):
        label = load_number(objective.targets.address, order[sample], np.int64)
        labels[sample] = type(labels[0])(label)


@kernel
def read_targets(objective, workspace, targets, count, order):
    """Fill `targets`, unit by unit, with those of the rows `order` of the data, smoothed."""
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
    if objective.kept != 1:
        kept, shared = type(one)(objective.kept), type(one)(objective.shared)
        for j in range(targets.size):
            targets[j] = kept * targets[j] + shared


@kernel
def leave_out_missing(losses, errors, targets):
    """Set losses and errors to 0 where the target is missing, which is NaN."""
    zero = type(targets[0])(0)
    for j in range(whole_size(targets)):
        is_there = targets[j] == targets[j]
        losses[j] = losses[j] if is_there else zero
        errors[j] = errors[j] if is_there else zero


@kernel
def softmax_backward(deltas, errors, outputs, count):
    """δ of softmax from s = ∂L/∂(ln p), `errors`: δ = s − p Σs."""
    for sample in range(0, count, vector_size(outputs)):
        total = spread(outputs, 0)
        for at in range(sample, outputs.size, count):
            total = total + load_vector(errors, at)
        for at in range(sample, outputs.size, count):
            product = load_vector(outputs, at) * total
            store_vector(deltas, at, load_vector(errors, at) - product)


@kernel
def weight_of(objective, index):
    """The sample weight of row `index` of the data."""
    if objective.sample_weight == 0:
        return 1.0
    return load_number(objective.sample_weight, index, np.float64)


@kernel
def read_shares(objective, shares, order, batch_weight):
    """Fill `shares` with each sample's weight divided by the batch's."""
    if objective.sample_weight == 0:
        for j in range(shares.size):
            shares[j] = 1 / batch_weight
    else:
        for j in range(order.size):
            shares[j] = weight_of(objective, order[j]) / batch_weight


@kernel
def weigh_losses(objective, row_losses, losses, order):
    """Fill `row_losses` with the samples' losses times their weights and the objective's scale."""
    for j in range(row_losses.size):
        row_losses[j] = losses[j] * objective.loss_scale
    if objective.sample_weight != 0:
        for j in range(row_losses.size):
            row_losses[j] *= weight_of(objective, order[j])


@phase
def losses_and_deltas(memory, workspace, objective, order, batch_weight, first, last):
    """Compute loss and δ of the output layer for the rows from `first` to `last` of a batch.

    `order` holds the indices of the batch's rows. `first` is a multiple of a vector's lanes.
    """
    lanes = workspace.lanes
    for row in range(first, last, workspace.samples.size):
        rows = smaller(workspace.samples.size, last - row)
        count = (rows + lanes - 1) // lanes * lanes
        n_samples = larger(smaller(rows, order.size - row), ZERO)  # none where all are padding
        samples = section(order, row, n_samples)
        losses = section(workspace.losses, ZERO, count)
        shares = section(workspace.samples, ZERO, count)
        read_shares(objective, shares, samples, batch_weight)
        n_values = last_layer_of(memory.layers)[N_OUTPUTS] * count
        targets = section(workspace.targets, ZERO, n_values)
        outputs = section(workspace.outputs, ZERO, n_values)
        if objective.has_classes:  # well before vectors of these single stores are loaded
            read_labels(objective, targets, samples)
        collect_outputs(memory, workspace, objective.output_activation, row, count)
        if objective.has_classes and objective.kept == 1:
            deltas_of_classes(objective, losses, targets, outputs, shares)
        elif objective.has_classes:
            deltas_of_smoothed(objective, losses, targets, outputs, shares)
        else:
            deltas_of_numbers(objective, workspace, samples, targets, outputs, shares)
        weigh_losses(objective, section(memory.row_losses, row, n_samples), losses, samples)
        n_padding = smaller(workspace.targets.size - n_values, count * lanes)
        padding = section(workspace.targets, n_values, n_padding)
        for j in range(padding.size):
            padding[j] = 0
        spread_deltas(memory, workspace.targets, row, count)


@kernel
def deltas_of_classes(objective, losses, targets, outputs, shares):
    """Compute losses and δ of softmax; δ replaces the class indices at the start of `targets`."""
    count, eps = shares.size, type(outputs[0])(objective.eps)
    one = type(eps)(1)
    for sample in range(0, count, vector_size(outputs)):
        label, share = load_vector(targets, sample), load_vector(shares, sample)
        picked = number = spread(outputs, 0)
        for at in range(sample, outputs.size, count):
            output = load_vector(outputs, at)
            error = where_equal(label, number, output - one, output)
            store_vector(targets, at, error * share)
            picked = where_equal(label, number, output, picked)
            number = number + one
        store_vector(losses, sample, picked)
    for j in range(count):
        losses[j] = cross_entropy(one, losses[j], eps)


@kernel
def deltas_of_smoothed(objective, losses, targets, outputs, shares):
    """The same with smoothed labels; the loss is the sum of all outputs' −t log p.

    −log p takes the place of the outputs.
    """
    count, eps = shares.size, type(outputs[0])(objective.eps)
    one, low = type(eps)(1), type(eps)(objective.shared)
    high = type(eps)(objective.kept) + low
    for sample in range(0, count, vector_size(outputs)):
        label, share = load_vector(targets, sample), load_vector(shares, sample)
        number = spread(outputs, 0)
        for at in range(sample, outputs.size, count):
            output = load_vector(outputs, at)
            error = where_equal(label, number, output - high, output - low)
            store_vector(targets, at, error * share)
            number = number + one
        store_vector(losses, sample, label)  # which δ have taken the place of
    for j in range(whole_size(outputs)):
        outputs[j] = cross_entropy(one, outputs[j], eps)
    for sample in range(0, count, vector_size(outputs)):
        label = load_vector(losses, sample)
        loss = number = spread(outputs, 0)
        for at in range(sample, outputs.size, count):
            entropy = load_vector(outputs, at)
            loss = loss + where_equal(label, number, entropy * high, entropy * low)
            number = number + one
        store_vector(losses, sample, loss)


@phase
def deltas_of_numbers(objective, workspace, order, targets, outputs, shares):
    """Compute losses and δ of any outputs for the rows `order` of the data; δ goes to `targets`."""
    count, losses, eps = shares.size, workspace.losses, type(outputs[0])(objective.eps)
    errors = section(workspace.errors, ZERO, outputs.size)
    read_targets(objective, workspace, targets, count, order)
    compute_losses(objective.loss, losses, targets, outputs, objective.coefficients, eps)
    compute_errors(objective.loss, errors, targets, outputs, objective.coefficients, eps)
    leave_out_missing(losses, errors, targets)
    activation = IDENTITY if objective.joins_activation else objective.output_activation
    if activation == SOFTMAX:
        softmax_backward(targets, errors, outputs, count)
    else:
        activate_backward(activation, targets, errors, outputs)
    for sample in range(0, count, vector_size(outputs)):
        share, loss = load_vector(shares, sample), spread(outputs, 0)
        for at in range(sample, outputs.size, count):
            store_vector(targets, at, load_vector(targets, at) * share)
            loss = loss + load_vector(losses, at)
        store_vector(losses, sample, loss)
