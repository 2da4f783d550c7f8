"""Where the operands of a layer's products are: weights, rows of inputs or δ, columns of inputs.

Where products are in bfloat16, the elements of all operands are pairs of numbers.
"""

import numpy as np

from fastbp.cpu.kernels.bfloat16 import make_choice, numbers_in
from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.layers import layer_of, weight_panel, weights_of
from fastbp.cpu.kernels.products import Left
from fastbp.cpu.kernels.spans import ONE, ZERO
from fastbp.cpu.records import BIAS_ROW, INPUT_WIDTH, N_INPUTS, N_PANELS, PAIRS, UNITS, WIDTH

# More weights, or activations of a layer, than this have been evicted from the L2 cache by the time
# they are read again.
CACHED_NUMBERS = 2**18
NEVER = np.int64(2**62)  # as `last_fetch`: no panels are prefetched


@kernel
def panel_start(memory, layer, panel):
    """Where one panel of a layer's activations, or of its deltas, starts."""
    return (layer[UNITS] + panel * layer[WIDTH]) * memory.capacity


@kernel
def steps_of(array, depth):
    """Steps of a sum over `depth` numbers, of which the elements of an operand hold one or two."""
    held = numbers_in(array)
    return (depth + held - 1) // held


_weights, _transposed = make_choice("weights"), make_choice("transposed")
_inputs_by_rows = make_choice("inputs_by_rows")
_inputs_by_columns = make_choice("inputs_by_columns")
_outputs_by_rows = make_choice("outputs_by_rows")
_outputs_by_columns = make_choice("outputs_by_columns")
_deltas_by_rows, _deltas_by_columns = (
    make_choice("deltas_by_rows"),
    make_choice("deltas_by_columns"),
)


@kernel
def weights_to_multiply(memory, index):
    """Right operand: the weights of layer `index`."""
    return _weights(memory.pairs, weights_of(memory, index))


@kernel
def panel_to_multiply(layer, panel, pairs):
    """Where a panel of that operand starts."""
    if pairs is None:
        return weight_panel(layer, panel)
    return layer[PAIRS] + panel * (layer[BIAS_ROW] // 2) * layer[WIDTH]


@kernel
def transposed_weights(workspace):
    """Right operand: a transposed panel of weights."""
    return _transposed(workspace.pairs, workspace.transposed)


@kernel
def inputs_by_columns(workspace):
    """Left operand: the gathered inputs, for a sum over rows."""
    return _inputs_by_columns(workspace.pairs, workspace.inputs)


@kernel
def outputs_by_columns(memory):
    """Left operand: all layers' outputs, for a sum over rows."""
    return _outputs_by_columns(memory.pairs, memory.activations)


@kernel
def deltas_by_rows(memory):
    """Left operand: the deltas, for a sum over units."""
    return _deltas_by_rows(memory.pairs, memory.deltas)


@kernel
def deltas_to_sum(memory, layer, panel, row):
    """Right operand of a sum over rows from `row` on: a panel's deltas, and where they start."""
    deltas = _deltas_by_columns(memory.pairs, memory.deltas)
    return deltas, (panel_start(memory, layer, panel) + row * layer[WIDTH]) // numbers_in(deltas)


@kernel
def rows_of_panels(memory, array, layer, row):
    """Left operand: a layer's activations or deltas from `row` on, summed over the units."""
    width, capacity = layer[WIDTH] // numbers_in(array), memory.capacity
    start = panel_start(memory, layer, ZERO) // numbers_in(array) + row * width
    stride = capacity * width
    last_fetch = 2 * width if layer[N_PANELS] * stride > CACHED_NUMBERS else NEVER
    return Left(array, start, width, ONE, stride, width, last_fetch)


@kernel
def rows_of_inputs(memory, workspace, index, row):
    """Left operand: the inputs of layer `index` from `row` on, summed over the inputs."""
    if index == 0:
        array, layer = (
            _inputs_by_rows(workspace.pairs, workspace.inputs),
            layer_of(memory.layers, index),
        )
        stride = workspace.input_stride // numbers_in(array)
        length = steps_of(array, layer[N_INPUTS])
        return Left(array, row * stride, stride, ONE, ZERO, length, NEVER)
    array = _outputs_by_rows(memory.pairs, memory.activations)
    return rows_of_panels(memory, array, layer_of(memory.layers, index - 1), row)


@kernel
def columns_of_inputs(memory, workspace, index, column, row, depth):
    """Left operand: the inputs of layer `index` from `column` on, summed over rows from `row`."""
    layer = layer_of(memory.layers, index)
    if index == 0:
        array, stride = inputs_by_columns(workspace), workspace.input_stride
        start = row // numbers_in(array) * stride + column
        return Left(array, start, ONE, stride, ZERO, steps_of(array, depth), NEVER)
    array, width = outputs_by_columns(memory), layer[INPUT_WIDTH]
    panel = column // width
    start = panel_start(memory, layer_of(memory.layers, index - 1), panel) + row * width
    start = start // numbers_in(array) + column - panel * width
    return Left(array, start, ONE, width, ZERO, steps_of(array, depth), NEVER)
