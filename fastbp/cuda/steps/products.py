"""Matrix products with fused beginnings and ends: forward, backward, and gradient with update.

A block computes one tile of the result in shared memory and registers. What is done to an element
(bias and activation, δ f′, the optimizer) happens before it is stored, so neither logits nor
gradients ever exist in memory.
"""

import numpy as np
from numba import types

from fastbp.cuda.data import DECAY, RATE, ROWS, TABLE_WIDTH, WEIGHT
from fastbp.cuda.formulas import activate, activate_backward, device_function, update
from fastbp.cuda.program import Listed
from fastbp.cuda.steps.tiles import FORMS, SINGLE_ONLY, make_collect, make_multiply, sum_of_block
from fastbp.cuda.task import ADAM, GRADIENT
from fastbp.cuda.toolkit import cuda

# Columns of a network's table, a row a layer: fan-in and fan-out; where its inputs, its outputs'
# δ and its weights start; its first tile and its tiles side by side in the update's grid.
N_INPUTS, N_OUTPUTS, INPUTS, DELTAS, WEIGHTS, FIRST_TILE, TILES_ACROSS, LAYER_WIDTH = range(8)


@device_function
def row_tile():
    """How many tiles are above the block's: they go down the grid's second and third dimension."""
    return cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y


def make_forward(form, real):
    """Build the kernel of a hidden layer, or of the logits: f(inputs · weights + bias).

    Grid: tiles across, tiles down (see `row_tile`).
    """
    multiply = make_multiply(form, real, left_by_depth=True, right_by_depth=False)
    spread, element, collect, part, size = make_collect(form, real)
    rows, columns, threads = form.rows, form.columns, form.threads
    thread_rows, thread_columns = form.thread_rows, form.thread_columns
    turns = thread_rows // form.stored_rows

    def forward(
        table, step, parameters, weights, n_inputs, n_outputs, values, inputs, outputs, activation
    ):
        if table[step * TABLE_WIDTH + WEIGHT] == 0:
            return
        n_rows = int(table[step * TABLE_WIDTH + ROWS])
        first_row, first_column = row_tile() * rows, cuda.blockIdx.x * columns
        if first_row >= n_rows:
            return
        shared = cuda.shared.array(size, real)
        sums = cuda.local.array((thread_rows, thread_columns), real)
        multiply(
            sums, values, inputs, n_inputs, n_rows, parameters, weights, n_outputs, n_outputs,
            n_inputs, first_row, first_column,
        )  # fmt: skip
        bias = weights + n_inputs * n_outputs
        for turn in range(turns):
            cuda.syncthreads()
            spread(shared, sums, turn)
            cuda.syncthreads()
            for e in range(cuda.threadIdx.x, part, threads):
                row, column = element(e, turn)
                row, column = row + first_row, column + first_column
                if row < n_rows and column < n_outputs:
                    z = collect(shared, e) + parameters[bias + column]
                    values[outputs + row * n_outputs + column] = activate(activation, z)

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

    def backward(
        table, step, parameters, weights, n_inputs, n_outputs, values, inputs, deltas,
        output_deltas, input_deltas, activation,
    ):  # fmt: skip
        if table[step * TABLE_WIDTH + WEIGHT] == 0:
            return
        n_rows = int(table[step * TABLE_WIDTH + ROWS])
        first_row, first_column = row_tile() * rows, cuda.blockIdx.x * columns
        if first_row >= n_rows:
            return
        shared = cuda.shared.array(size, real)
        sums = cuda.local.array((thread_rows, thread_columns), real)
        multiply(
            sums, deltas, output_deltas, n_outputs, n_rows, parameters, weights, n_outputs,
            n_inputs, n_outputs, first_row, first_column,
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
                    h = values[inputs + index]
                    deltas[input_deltas + index] = activate_backward(
                        activation, collect(shared, e), h
                    )

    return backward


def make_update(form, real):
    """Build the kernel of all layers' gradients, inputsᵀ · δ, and of the optimizer's step.

    The biases are the row behind a layer's last, as they lie in the flat vector; their inputs are
    ones. Each tile's ‖W‖² from before the step goes to `norms`. Grid: all layers' tiles.
    """
    multiply = make_multiply(form, real, False, False, with_ones=True)
    spread, element, collect, part, size = make_collect(form, real)
    rows, columns, threads = form.rows, form.columns, form.threads
    thread_rows, thread_columns = form.thread_rows, form.thread_columns
    turns = thread_rows // form.stored_rows

    def update_all(
        table, step, layers, n_layers, values, first_inputs, deltas, parameters, first, second,
        norms, rule, momentum, beta_1, beta_2, epsilon,
    ):  # fmt: skip
        if table[step * TABLE_WIDTH + WEIGHT] == 0:
            return
        n_rows = int(table[step * TABLE_WIDTH + ROWS])
        rate = real(table[step * TABLE_WIDTH + RATE])
        decay = real(table[step * TABLE_WIDTH + DECAY])
        block, layer = cuda.blockIdx.x, n_layers - 1
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
                    gradient, weight = collect(shared, e), parameters[index]
                    if row < n_inputs and decay > 0:
                        gradient += decay * weight
                        square += float(weight) * float(weight)
                    if rule == GRADIENT:
                        first[index] += gradient
                    else:
                        moment = second[index] if rule == ADAM else first[index]
                        weight, one, two = update(
                            rule, weight, gradient, first[index], moment, rate,
                            real(momentum), real(beta_1), real(beta_2), real(epsilon),
                        )  # fmt: skip
                        parameters[index] = weight
                        first[index] = one
                        if rule == ADAM:
                            second[index] = two
        if decay > 0:
            total = sum_of_block(squares, square)
            if cuda.threadIdx.x == 0:
                norms[step * cuda.gridDim.x + block] = total

    return update_all


def kernel(kind, form, dtype):
    """The kernel of a kind ("forward", "backward" or "update"), a form and a dtype; always the same
    object, so that it is compiled once.
    """
    return _KERNELS[kind, form, np.dtype(dtype).name]


_MAKERS = {"forward": make_forward, "backward": make_backward, "update": make_update}
_KERNELS = {
    (kind, name, real.__name__): make(form, real)
    for kind, make in _MAKERS.items()
    for name, form in FORMS.items()
    for real in (np.float32, np.float64)
    if real is np.float32 or name not in SINGLE_ONLY
}


def _signature(kind, real):
    """The types of a kernel's arguments."""
    array, integer = real[::1], types.int64
    table, layers = types.float64[::1], types.int64[:, ::1]
    if kind == "forward":
        return (table, integer, array, *(integer,) * 3, array, *(integer,) * 3)
    if kind == "backward":
        return (table, integer, array, *(integer,) * 3, array, integer, array, *(integer,) * 3)
    return (
        table, integer, layers, integer, array, integer, array, array, array, array, table, integer,
        *(types.float64,) * 4,
    )  # fmt: skip


KERNELS = {
    f"{kind} {form} {dtype}": Listed(
        function,
        _signature(kind, getattr(types, dtype)),
        FORMS[form].registers[dtype == "float64"],
    )
    for (kind, form, dtype), function in _KERNELS.items()
    if form != "toy"
}
