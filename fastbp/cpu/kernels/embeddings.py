"""Embedded features (`fastbp.embedding`): the layer before the dense ones, forward and backward.

A feature is computed for many rows at once, so that loops over rows are vectorised. Cosines are of
parts of a turn, of which whole turns are taken away without rounding.
"""

import numpy as np

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.elementary import cosine_of_turns, sine_of_turns
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.operands import panel_start
from fastbp.cpu.kernels.shares import larger, smaller
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ZERO, section
from fastbp.cpu.kernels.vectors import whole_size
from fastbp.cpu.records import (
    BLOCK_ROWS,
    EMBEDDING_BIASES,
    EMBEDDING_SIZE,
    EMBEDDING_WEIGHTS,
    LANES,
    N_INPUTS,
    N_PANELS,
    PHASES,
    WEIGHTS,
    WIDTH,
)
from fastbp.embedding import FREQUENCIES, NUMBERS, TURN


@kernel
def column(memory, workspace, number, count):
    """Room for a feature (0) or one of its numbers (from 1 on), of `count` rows."""
    return section(workspace.columns, number * memory.capacity, count)


@kernel
def whole_vectors(layer, count):
    """A number of rows, rounded up to whole vectors."""
    return (count + layer[LANES] - 1) // layer[LANES] * layer[LANES]


@kernel
def place_of_unit(memory, layer, unit):
    """Where a unit's outputs, or deltas, start; those of the rows are `WIDTH` apart."""
    panel = unit // layer[WIDTH]
    return panel_start(memory, layer, panel) + unit - panel * layer[WIDTH]


@kernel
def embed(parameters, x, first, second, third):
    """Compute a feature's numbers, V cos(2πwx + b) + c."""
    real = type(x[0])
    for i in range(whole_size(x)):
        first[i] = parameters[EMBEDDING_BIASES]
        second[i] = parameters[EMBEDDING_BIASES + 1]
        third[i] = parameters[EMBEDDING_BIASES + 2]
    for k in range(FREQUENCIES):
        frequency, phase_ = parameters[k], parameters[PHASES + k] * real(1 / TURN)
        a = parameters[EMBEDDING_WEIGHTS + k]
        b = parameters[EMBEDDING_WEIGHTS + FREQUENCIES + k]
        c = parameters[EMBEDDING_WEIGHTS + 2 * FREQUENCIES + k]
        for i in range(whole_size(x)):
            cosine = cosine_of_turns(frequency * x[i] + phase_)
            first[i] += a * cosine
            second[i] += b * cosine
            third[i] += c * cosine


@kernel
def pass_features(memory, workspace, layer, row, n_rows):
    """Copy the features of some rows to the units after all numbers."""
    width, before = layer[WIDTH], NUMBERS * memory.n_embedded
    for panel in range(before // width, layer[N_PANELS]):
        first = larger(panel * width, before)
        last = smaller((panel + 1) * width, before + layer[N_INPUTS])
        start = panel_start(memory, layer, panel) + first - panel * width
        for i in range(row, row + n_rows):
            outputs = section(memory.activations, start + i * width, last - first)
            inputs = section(
                workspace.inputs, i * workspace.input_stride + first - before, last - first
            )
            for j in range(outputs.size):
                outputs[j] = inputs[j]


@phase
def forward_embedding(memory, workspace, tiles):
    """Compute the outputs of the embedding layer for the rows of some tiles."""
    layer, row, n_rows = layer_of(memory.layers, ZERO), tiles.row, tiles.blocks * TILE_ROWS
    count, stride = whole_vectors(layer, n_rows), workspace.input_stride
    x = column(memory, workspace, ZERO, count)
    for feature in range(memory.n_embedded):
        for i in range(n_rows):
            x[i] = workspace.inputs[(row + i) * stride + feature]
        embed(
            section(memory.weights, layer[WEIGHTS] + feature * EMBEDDING_SIZE, EMBEDDING_SIZE), x,
            column(memory, workspace, 1, count), column(memory, workspace, 2, count),
            column(memory, workspace, 3, count),
        )  # fmt: skip
        for number in range(NUMBERS):
            values = column(memory, workspace, 1 + number, count)
            start = place_of_unit(memory, layer, feature * NUMBERS + number) + row * layer[WIDTH]
            for i in range(n_rows):
                memory.activations[start + i * layer[WIDTH]] = values[i]
    pass_features(memory, workspace, layer, row, n_rows)


@kernel
def read_units(memory, workspace, layer, feature, depth):
    """Copy a feature and the deltas of its numbers of a batch into columns, and zeros after."""
    width, count = layer[WIDTH], whole_vectors(layer, depth)
    for number in range(1 + NUMBERS):
        array, unit = memory.deltas, feature * NUMBERS + number - 1
        if number == 0:
            array, unit = memory.activations, memory.n_embedded * NUMBERS + feature
        values, start = column(memory, workspace, number, count), place_of_unit(memory, layer, unit)
        for i in range(depth):
            values[i] = array[start + i * width]
        for i in range(depth, count):
            values[i] = type(values[0])(0)


@kernel
def frequency_sums(parameters, k, x, first, second, third):
    """A frequency's gradients over some rows: of itself, its phase, and its weights."""
    real = type(x[0])
    frequency, phase_ = parameters[k], parameters[PHASES + k] * real(1 / TURN)
    a, b = parameters[EMBEDDING_WEIGHTS + k], parameters[EMBEDDING_WEIGHTS + FREQUENCIES + k]
    c = parameters[EMBEDDING_WEIGHTS + 2 * FREQUENCIES + k]
    of_frequency = of_phase = of_a = of_b = of_c = real(0)
    for i in range(whole_size(x)):
        turns = frequency * x[i] + phase_
        error = a * first[i] + b * second[i] + c * third[i]
        error *= -sine_of_turns(turns)
        of_frequency += error * x[i]
        of_phase += error
        cosine = cosine_of_turns(turns)
        of_a += first[i] * cosine
        of_b += second[i] * cosine
        of_c += third[i] * cosine
    return of_frequency, of_phase, of_a, of_b, of_c


@kernel
def add_frequencies(sums, parameters, x, first, second, third):
    """Add the gradients of frequencies, phases and weights over some rows."""
    for k in range(FREQUENCIES):
        of_frequency, of_phase, of_a, of_b, of_c = frequency_sums(
            parameters, k, x, first, second, third
        )
        sums[k] += np.float64(of_frequency)
        sums[PHASES + k] += np.float64(of_phase)
        sums[EMBEDDING_WEIGHTS + k] += np.float64(of_a)
        sums[EMBEDDING_WEIGHTS + FREQUENCIES + k] += np.float64(of_b)
        sums[EMBEDDING_WEIGHTS + 2 * FREQUENCIES + k] += np.float64(of_c)


@kernel
def sum_of(values):
    """The sum of a column."""
    total = type(values[0])(0)
    for i in range(whole_size(values)):
        total += values[i]
    return total


@phase
def embedding_gradient(memory, workspace, feature, depth):
    """Compute the gradient of a feature's parameters, in `workspace.tile`.

    Sums over very many rows are of blocks, in float64.
    """
    layer, gradient, sums = layer_of(memory.layers, ZERO), workspace.tile, workspace.sums
    read_units(memory, workspace, layer, feature, depth)
    count = whole_vectors(layer, depth)
    parameters = section(memory.weights, layer[WEIGHTS] + feature * EMBEDDING_SIZE, EMBEDDING_SIZE)
    for j in range(EMBEDDING_SIZE):
        sums[j] = 0.0
    for row in range(0, count, BLOCK_ROWS):
        rows = smaller(BLOCK_ROWS, count - row)
        x = section(column(memory, workspace, ZERO, count), row, rows)
        first = section(column(memory, workspace, 1, count), row, rows)
        second = section(column(memory, workspace, 2, count), row, rows)
        third = section(column(memory, workspace, 3, count), row, rows)
        add_frequencies(sums, parameters, x, first, second, third)
        sums[EMBEDDING_BIASES] += np.float64(sum_of(first))
        sums[EMBEDDING_BIASES + 1] += np.float64(sum_of(second))
        sums[EMBEDDING_BIASES + 2] += np.float64(sum_of(third))
    for k in range(FREQUENCIES):
        sums[k] *= TURN
    for j in range(EMBEDDING_SIZE):
        gradient[j] = sums[j]
