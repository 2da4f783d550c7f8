"""Matrix products with fused beginnings and ends: forward, backward, and gradient with update.

A block computes one tile of the result in shared memory and registers. What is done to an element
(bias and activation, δ f′, the optimizer) happens before it is stored, so neither logits nor
gradients ever exist in memory.
"""

import numpy as np
from numba import types

from fastbp.cuda.formulas import (
    activate,
    derivative,
    device_function,
    has_second_moment,
    keeps_derivative,
    make_update,
)
from fastbp.cuda.generic.layers import Layer
from fastbp.cuda.generic.masks import drop_output, pass_back
from fastbp.cuda.generic.tiles import FORMS, SINGLE_ONLY, make_collect, make_multiply, sum_of_block
from fastbp.cuda.toolkit import cuda
from fastbp.schedules import (
    AVERAGING,
    PENALTY,
    ROWS,
    SHRINKAGE,
    TABLE_WIDTH,
    UPDATE,
    WEIGHT,
)

# Columns of the table of all layers.
N_INPUTS, N_OUTPUTS, INPUTS, DELTAS, WEIGHTS, FIRST_TILE, TILES_ACROSS = map(
    Layer._fields.index,
    ("n_inputs", "n_outputs", "inputs", "deltas", "weights", "first_tile", "tiles_across"),
)


@device_function
def row_tile():
    """How many tiles are above the block's: they go down the grid's second and third dimension."""
    return cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y


def make_forward(form, real):
    """Build the kernel of a hidden layer, or of the logits: f(inputs · weights + bias).

    Where the way back needs z, f′(z) goes to the layer's δ, which are idle; a layer without δ
    (below zero) keeps nothing.

    Grid: tiles across, tiles down (see `row_tile`).
    """
    multiply = make_multiply(form, real, left_by_depth=True, right_by_depth=False)
    spread, element, collect, part, size = make_collect(form, real)
    rows, columns, threads = form.rows, form.columns, form.threads
    thread_rows, thread_columns = form.thread_rows, form.thread_columns
    turns = thread_rows // form.stored_rows

    def forward(table, step, layer, parameters, values, deltas):
        if table[step * TABLE_WIDTH + WEIGHT] == 0:
            return
        n_rows, n_outputs = int(table[step * TABLE_WIDTH + ROWS]), layer.n_outputs
        update = int(table[step * TABLE_WIDTH + UPDATE])
        first_row, first_column = row_tile() * rows, cuda.blockIdx.x * columns
        if first_row >= n_rows:
            return
        shared = cuda.shared.array(size, real)
        sums = cuda.local.array((thread_rows, thread_columns), real)
        multiply(
            sums, values, layer.inputs, layer.n_inputs, n_rows, parameters, layer.weights,
            n_outputs, n_outputs, layer.n_inputs, first_row, first_column,
        )  # fmt: skip
        bias = layer.weights + layer.n_inputs * n_outputs
        for turn in range(turns):
            cuda.syncthreads()
            spread(shared, sums, turn)
            cuda.syncthreads()
            for e in range(cuda.threadIdx.x, part, threads):
                row, column = element(e, turn)
                row, column = row + first_row, column + first_column
                if row < n_rows and column < n_outputs:
                    z = collect(shared, e) + parameters[bias + column]
                    index = row * n_outputs + column
                    output = activate(layer.activation, z)
                    if layer.threshold > 0:
                        output, kept = drop_output(layer, z, output, row, column, update)
                        deltas[layer.deltas + index] = kept
                    elif layer.deltas >= 0 and keeps_derivative(layer.activation):
                        deltas[layer.deltas + index] = derivative(layer.activation, z)
                    values[layer.outputs + index] = output

    return forward


def make_backward(form, real):
    """Build the kernel that takes δ back through a layer: δ · weightsᵀ ⊙ f′ of its inputs.

    Grid: tiles across, tiles down (see `row_tile`).
    """
    multiply = make_multiply(form, real, left_by_depth=True, right_by_depth=True)
    spread, element, collect, part, size = make_collect(form, real)
    rows, columns, threads = form.rows, form.columns, form.threads
    thread_rows, thread_columns = form.thread_rows, form.thread_columns
    turns = thread_rows // form.stored_rows

    def backward(table, step, layer, parameters, values, deltas):
        if table[step * TABLE_WIDTH + WEIGHT] == 0:
            return
        n_rows, n_inputs = int(table[step * TABLE_WIDTH + ROWS]), layer.n_inputs
        first_row, first_column = row_tile() * rows, cuda.blockIdx.x * columns
        if first_row >= n_rows:
            return
        shared = cuda.shared.array(size, real)
        sums = cuda.local.array((thread_rows, thread_columns), real)
        multiply(
            sums, deltas, layer.deltas, layer.n_outputs, n_rows, parameters, layer.weights,
            layer.n_outputs, n_inputs, layer.n_outputs, first_row, first_column,
        )  # fmt: skip
        for turn in range(turns):
            cuda.syncthreads()
            spread(shared, sums, turn)
            cuda.syncthreads()
            for e in range(cuda.threadIdx.x, part, threads):
                row, column = element(e, turn)
                row, column = row + first_row, column + first_column
                if row < n_rows and column < n_inputs:
                    index = row * n_inputs + column
                    deltas[layer.input_deltas + index] = pass_back(
                        layer, collect(shared, e), values, deltas, index
                    )

    return backward


def _make_update_one(real):
    """Build the device function that updates one parameter by its gradient."""

    @device_function
    def number(table, start, column):
        return real(table[start + column])

    update = make_update(number)

    @device_function
    def update_one(
        table, step, rule, parameters, first, second, average, index, gradient, shrinkage
    ):
        has_second = has_second_moment(rule)
        moment = second[index] if has_second else first[index]
        weight, one, two = update(
            rule, parameters[index], gradient, first[index], moment, table, step * TABLE_WIDTH,
            shrinkage,
        )  # fmt: skip
        parameters[index] = weight
        first[index] = one
        if has_second:
            second[index] = two
        share = number(table, step * TABLE_WIDTH, AVERAGING)
        if share > 0:
            average[index] += share * (weight - average[index])

    return update_one


def make_gradient(form, real):
    """Build the kernel of all layers' gradients, inputsᵀ · δ, and of the optimizer's step.

    The biases are the row after a layer's last, as they lie in the flat vector; their inputs are
    ones. Each tile's ‖W‖² from before the step goes to `norms`. Grid: all layers' tiles.
    """
    multiply = make_multiply(form, real, False, False, with_ones=True)
    spread, element, collect, part, size = make_collect(form, real)
    update_one = _make_update_one(real)
    rows, columns, threads = form.rows, form.columns, form.threads
    thread_rows, thread_columns = form.thread_rows, form.thread_columns
    turns = thread_rows // form.stored_rows

    def update_all(
        table, step, layers, first_inputs, values, deltas, parameters, first, second, average,
        norms, rule,
    ):  # fmt: skip
        if table[step * TABLE_WIDTH + WEIGHT] == 0:
            return
        n_rows = int(table[step * TABLE_WIDTH + ROWS])
        penalty = real(table[step * TABLE_WIDTH + PENALTY])
        block, layer = cuda.blockIdx.x, layers.shape[0] - 1
        while layer > 0 and layers[layer, FIRST_TILE] > block:
            layer -= 1
        n_inputs, n_outputs = layers[layer, N_INPUTS], layers[layer, N_OUTPUTS]
        inputs = layers[layer, INPUTS] if layer > 0 else first_inputs
        tile = block - layers[layer, FIRST_TILE]
        first_row = tile // layers[layer, TILES_ACROSS] * rows
        first_column = tile % layers[layer, TILES_ACROSS] * columns
        shared = cuda.shared.array(size, real)
        squares = cuda.shared.array(threads, types.float64)
        sums = cuda.local.array((thread_rows, thread_columns), real)
        multiply(
            sums, values, inputs, n_inputs, n_inputs, deltas, layers[layer, DELTAS], n_outputs,
            n_outputs, n_rows, first_row, first_column,
        )  # fmt: skip
        square = 0.0
        for turn in range(turns):
            cuda.syncthreads()
            spread(shared, sums, turn)
            cuda.syncthreads()
            for e in range(cuda.threadIdx.x, part, threads):
                row, column = element(e, turn)
                row, column = row + first_row, column + first_column
                if row <= n_inputs and column < n_outputs:
                    index = layers[layer, WEIGHTS] + row * n_outputs + column
                    gradient, shrinkage = collect(shared, e), real(0)
                    if row < n_inputs:  # not the biases
                        shrinkage = real(table[step * TABLE_WIDTH + SHRINKAGE])
                        if penalty > 0:
                            weight = parameters[index]
                            gradient += penalty * weight
                            square += float(weight) * float(weight)
                    update_one(
                        table, step, rule, parameters, first, second, average, index, gradient,
                        shrinkage,
                    )  # fmt: skip
        if penalty > 0:
            total = sum_of_block(squares, square)
            if cuda.threadIdx.x == 0:
                norms[step * cuda.gridDim.x + block] = total

    return update_all


def kernel(kind, form, dtype):
    """The kernel of a kind ("forward", "backward" or "update"), a form and a dtype; always the same
    object, so that it is compiled once.
    """
    return KERNELS[kind, form, np.dtype(dtype).name]


_MAKERS = {"forward": make_forward, "backward": make_backward, "update": make_gradient}
KERNELS = {
    (kind, name, real.__name__): make(form, real)
    for kind, make in _MAKERS.items()
    for name, form in FORMS.items()
    for real in (np.float32, np.float64)
    if real is np.float32 or name not in SINGLE_ONLY
}
