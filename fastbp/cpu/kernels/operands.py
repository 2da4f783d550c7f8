"""Where the left operands of a layer's products are: rows of inputs or δ, and columns of inputs."""

import numpy as np

from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.layers import layer_of
from fastbp.cpu.kernels.products import Left
from fastbp.cpu.kernels.spans import ONE, ZERO
from fastbp.cpu.records import INPUT_WIDTH, N_INPUTS, N_PANELS, UNITS, WIDTH

# More weights, or activations of a layer, than this have been evicted from the L2 cache by the time
# they are read again.
CACHED_NUMBERS = 2**18
NEVER = np.int64(2**62)  # as `last_fetch`: no panels are prefetched


@kernel
def panel_start(memory, layer, panel):
    """Where one panel of a layer's activations, or of its deltas, starts."""
    return (layer[UNITS] + panel * layer[WIDTH]) * memory.capacity


@kernel
def rows_of_panels(memory, array, layer, row):
    """Left operand: a layer's activations or deltas from `row` on, summed over the units."""
    width = layer[WIDTH]
    start = panel_start(memory, layer, ZERO) + row * width
    stride = memory.capacity * width
    last_fetch = 2 * width if layer[N_PANELS] * stride > CACHED_NUMBERS else NEVER
    return Left(array, start, width, ONE, stride, width, last_fetch)


@kernel
def rows_of_inputs(memory, workspace, index, row):
    """Left operand: the inputs of layer `index` from `row` on, summed over the inputs."""
    layer = layer_of(memory.layers, index)
    if index == 0:
        stride, length = workspace.input_stride, layer[N_INPUTS]
        return Left(workspace.inputs, row * stride, stride, ONE, ZERO, length, NEVER)
    return rows_of_panels(memory, memory.activations, layer_of(memory.layers, index - 1), row)


@kernel
def columns_of_inputs(memory, workspace, index, column, row, depth):
    """Left operand: the inputs of layer `index` from `column` on, summed over rows from `row`."""
    layer = layer_of(memory.layers, index)
    if index == 0:
        stride = workspace.input_stride
        return Left(workspace.inputs, row * stride + column, ONE, stride, ZERO, depth, NEVER)
    width = layer[INPUT_WIDTH]
    panel = column // width
    start = panel_start(memory, layer_of(memory.layers, index - 1), panel) + column - panel * width
    return Left(memory.activations, start + row * width, ONE, width, ZERO, depth, NEVER)
