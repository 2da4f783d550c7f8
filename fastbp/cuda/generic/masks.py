"""Dropout on a GPU: the factors of `fastbp.dropout`, drawn by the same counters as on the CPU."""

import numpy as np

from fastbp.cuda.formulas import (
    activate_backward,
    compile_formula,
    derivative,
    device_function,
    keeps_derivative,
)
from fastbp.cuda.toolkit import cuda
from fastbp.dropout import GROUP_ROWS, GROUP_UNITS, HALF, counter_of, number_of, random_words
from fastbp.schedules import ROWS, TABLE_WIDTH, UPDATE

_random_words, _counter_of, _number_of = map(compile_formula, (random_words, counter_of, number_of))


@device_function
def stays(threshold, seed, number, update, row, unit):
    """Whether a number takes part in an update: one of the inputs (0), or of layer `number` - 1."""
    third, fourth = _counter_of(np.uint64(number), np.uint64(update))
    pair, group = np.uint64(unit // GROUP_UNITS), np.uint64(row // GROUP_ROWS)
    words = _random_words(pair, group, third, fourth, np.uint64(seed))
    return _number_of(words, row, unit) >= np.uint64(threshold)


@device_function
def drop_output(layer, z, h, row, column, update):
    """An output of a layer under dropout, and the f′(z) that its error comes back through."""
    real = type(h)
    kept = real(1)
    if keeps_derivative(layer.activation):
        kept = derivative(layer.activation, z)
    else:
        kept = activate_backward(layer.activation, kept, h)
    if stays(layer.threshold, layer.seed, layer.number, update, row, column):
        scale = real(HALF / (HALF - layer.threshold))
        return h * scale, kept * scale
    return h * real(0), kept * real(0)


@device_function
def pass_back(layer, error, values, deltas, place):
    """δ of one of a layer's inputs, from the error that has come back to it."""
    if layer.input_threshold > 0 or keeps_derivative(layer.input_activation):
        return error * deltas[layer.input_deltas + place]
    return activate_backward(layer.input_activation, error, values[layer.inputs + place])


def drop_inputs(window_table, batch_size, rows, n_columns, n_window_rows, threshold, seed):
    """Leave out some of the gathered inputs of a window's steps. A thread takes a number."""
    real = type(rows[0])
    scale = real(HALF / (HALF - threshold))
    for place in range(cuda.grid(1), n_window_rows * n_columns, cuda.gridsize(1)):
        row, column = place // n_columns, place % n_columns
        step, row = row // batch_size * TABLE_WIDTH, row % batch_size
        if row < int(window_table[step + ROWS]):
            update = int(window_table[step + UPDATE])
            takes_part = stays(threshold, seed, 0, update, row, column)
            rows[place] *= scale if takes_part else real(0)
