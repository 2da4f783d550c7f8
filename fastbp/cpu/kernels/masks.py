"""Dropout: factors of a batch's numbers, drawn by counters (`fastbp.dropout`) where they are used.

Nothing is kept from the forward pass but what the backward pass multiplies errors by: f′(z) times
the factor, in the layer's δ.
"""

import numpy as np

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.elementary import compile_formula
from fastbp.cpu.kernels.formulas import activate_backward
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.shares import smaller
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ZERO, section
from fastbp.cpu.kernels.vectors import whole_size
from fastbp.cpu.records import ACTIVATION, WIDTH
from fastbp.dropout import GROUP_ROWS, counter_of, random_words

INPUTS = 0  # where layers are counted: the outputs of layer i come after those before it

_random_words, _counter_of = compile_formula(random_words), compile_formula(counter_of)


@kernel
def drops(masks, layer):
    """Whether some of the inputs (0), or of the outputs of the layer before, are left out."""
    return masks.thresholds.size > 0 and masks.thresholds[layer] > 0


@kernel
def draw_factors(factors, masks, layer, unit, row, update):
    """Fill `factors` for neighbouring units from `unit` on, and the rows of a group.

    `row` is a multiple of GROUP_ROWS; each row's factors come after those of the row before.
    """
    threshold, scale = np.uint64(masks.thresholds[layer]), masks.scales[layer]
    seed, zero = np.uint64(masks.seed), type(scale)(0)
    third, fourth = _counter_of(np.uint64(layer), np.uint64(update))
    second, count = np.uint64(row // GROUP_ROWS), factors.size // GROUP_ROWS
    of_first, of_second = section(factors, ZERO, count), section(factors, count, count)
    of_third = section(factors, 2 * count, count)
    of_fourth = section(factors, 3 * count, count)
    for j in range(whole_size(of_first)):
        words = _random_words(np.uint64(unit + j), second, third, fourth, seed)
        of_first[j] = scale if words[0] >= threshold else zero
        of_second[j] = scale if words[1] >= threshold else zero
        of_third[j] = scale if words[2] >= threshold else zero
        of_fourth[j] = scale if words[3] >= threshold else zero


@kernel
def multiply_by(values, factors):
    for j in range(values.size):
        values[j] *= factors[j]


@phase
def drop_outputs(memory, workspace, index, panel, row, values, kept, update):
    """Leave out some outputs of the tile at a panel and a row, and keep f′(z) likewise.

    `values` are f(z); `kept` holds the f′(z) of activations that need z.
    """
    layer = layer_of(memory.layers, index)
    width = layer[WIDTH]
    for first in range(0, TILE_ROWS, GROUP_ROWS):
        factors = section(workspace.factors, first * width, GROUP_ROWS * width)
        draw_factors(factors, memory.masks, index + 1, panel * width, row + first, update)
    errors = section(workspace.tile, ZERO, values.size)
    for j in range(whole_size(errors)):
        errors[j] = 1
    activate_backward(layer[ACTIVATION], kept, errors, values)
    factors = section(workspace.factors, ZERO, values.size)
    multiply_by(kept, factors)
    multiply_by(values, factors)


@phase
def drop_inputs(workspace, masks, row, n_rows, n_inputs, update):
    """Leave out some of the inputs of the gathered rows from `row` on, not more than a group."""
    stride, factors = workspace.input_stride, workspace.factors
    width = factors.size // TILE_ROWS
    factors = section(factors, ZERO, GROUP_ROWS * width)
    for unit in range(0, n_inputs, width):
        draw_factors(factors, masks, INPUTS, unit, row, update)
        count = smaller(width, n_inputs - unit)
        for i in range(n_rows):
            values = section(workspace.inputs, (row + i) * stride + unit, count)
            multiply_by(values, section(factors, i * width, count))


@phase
def drop_entries(rows, masks, n_rows, update):
    """Leave out some of the inputs of sparse rows: those that `drop_inputs` would."""
    threshold, scale = np.uint64(masks.thresholds[INPUTS]), masks.scales[INPUTS]
    seed, zero = np.uint64(masks.seed), type(scale)(0)
    third, fourth = _counter_of(np.uint64(INPUTS), np.uint64(update))
    for row in range(n_rows):
        second, place = np.uint64(row // GROUP_ROWS), row % GROUP_ROWS
        for k in range(rows.starts[row], rows.starts[row + 1]):
            unit = np.uint64(rows.indices[k])
            words = _random_words(unit, second, third, fourth, seed)
            word = words[place]
            rows.values[k] *= scale if word >= threshold else zero
