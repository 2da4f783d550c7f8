"""The output layer: activation, loss and δ; for few outputs, with the products before and behind.

Sums over a row's outputs run in order, in the parameters' dtype, as on the CPU; rows' losses are
float64.
"""

import numpy as np
from numba import types

from fastbp.cuda.choice import HEAD_OUTPUTS
from fastbp.cuda.data import ROWS, TABLE_WIDTH, WEIGHT
from fastbp.cuda.formulas import (
    SOFTMAX,
    activate,
    activate_backward,
    device_function,
    exponential,
    output_delta,
    output_loss,
)
from fastbp.cuda.program import Listed
from fastbp.cuda.steps.tiles import sum_of_block
from fastbp.cuda.toolkit import cuda

JUDGE_THREADS = 256
# The fused kernel: rows a block and threads (in the simulator, few).
HEAD_ROWS, HEAD_THREADS, TOY_THREADS = 4, 256, 64
_PAIRS = HEAD_ROWS * HEAD_OUTPUTS


@device_function
def activate_row(activation, values, start, n_outputs):
    """Turn a row's logits into outputs in place; softmax is shifted by the largest logit."""
    if activation != SOFTMAX:
        for unit in range(n_outputs):
            values[start + unit] = activate(activation, values[start + unit])
        return
    largest = values[start]
    for unit in range(1, n_outputs):
        logit = values[start + unit]
        largest = logit if logit > largest else largest
    total = type(largest)(0)
    for unit in range(n_outputs):
        value = exponential(values[start + unit] - largest)
        values[start + unit] = value
        total += value
    for unit in range(n_outputs):
        values[start + unit] /= total


@device_function
def judge_row(
    activation, loss, eps, outputs, start, targets, target_start, n_outputs, factor, deltas,
    delta_start,
):  # fmt: skip
    """A row's loss from its outputs, without its weight; its δ, times `factor`, to `deltas`."""
    total = type(eps)(0)
    for unit in range(n_outputs):
        output, target = outputs[start + unit], targets[target_start + unit]
        total += output_loss(loss, activation, target, output, eps)
        delta = output_delta(loss, activation, target, output) * factor
        deltas[delta_start + unit] = delta
    return total


def make_judge(real):
    """Build the kernel that turns logits into outputs, losses and δ. A thread takes a row."""
    eps = real(np.finfo(real).eps)

    def judge(
        table, step, first_row, values, logits, n_outputs, targets, row_weights, deltas,
        output_deltas, activation, loss, loss_scale, losses,
    ):  # fmt: skip
        weight = table[step * TABLE_WIDTH + WEIGHT]
        if weight == 0:
            return
        shared = cuda.shared.array(JUDGE_THREADS, types.float64)
        row, row_loss = cuda.grid(1), 0.0
        if row < int(table[step * TABLE_WIDTH + ROWS]):
            activate_row(activation, values, logits + row * n_outputs, n_outputs)
            row_weight = row_weights[first_row + row]
            row_loss = row_weight * loss_scale * judge_row(
                activation, loss, eps, values, logits + row * n_outputs,
                targets, (first_row + row) * n_outputs, n_outputs, real(row_weight / weight),
                deltas, output_deltas + row * n_outputs,
            )  # fmt: skip
        total = sum_of_block(shared, row_loss)
        if cuda.threadIdx.x == 0:
            losses[step * cuda.gridDim.x + cuda.blockIdx.x] = total

    return judge


def make_head(real, threads):
    """Build the kernel of a layer with few outputs: product, loss, δ, and δ of the layer before.

    A block takes some rows; its threads are a number of groups of one thread for each row and
    output, which share the product's terms.
    """
    eps, zero, groups = real(np.finfo(real).eps), real(0), threads // _PAIRS

    @device_function
    def compute_logits(
        outputs, first, n_rows, parameters, weights, n_inputs, n_outputs, values, inputs
    ):
        partial = cuda.shared.array(threads, real)
        t = cuda.threadIdx.x
        group, row, unit = t // _PAIRS, t % _PAIRS // HEAD_OUTPUTS, t % HEAD_OUTPUTS
        total = zero
        if first + row < n_rows and unit < n_outputs:
            start = inputs + (first + row) * n_inputs
            for k in range(group, n_inputs, groups):
                total += values[start + k] * parameters[weights + k * n_outputs + unit]
        partial[t] = total
        cuda.syncthreads()
        if t < _PAIRS and unit < n_outputs:
            total = zero
            for part in range(groups):
                total += partial[part * _PAIRS + t]
            outputs[t] = total + parameters[weights + n_inputs * n_outputs + unit]
        cuda.syncthreads()

    @device_function
    def go_back(
        own_deltas, first, n_rows, parameters, weights, n_inputs, n_outputs, values, inputs, deltas,
        input_deltas, activation,
    ):  # fmt: skip
        sums = cuda.local.array(HEAD_ROWS, real)
        for k in range(cuda.threadIdx.x, n_inputs, threads):
            for row in range(HEAD_ROWS):
                sums[row] = zero
            for unit in range(n_outputs):
                weight = parameters[weights + k * n_outputs + unit]
                for row in range(HEAD_ROWS):  # those behind the last are garbage, and not stored
                    sums[row] += own_deltas[row * HEAD_OUTPUTS + unit] * weight
            for row in range(HEAD_ROWS):
                if first + row < n_rows:
                    index = (first + row) * n_inputs + k
                    h = values[inputs + index]
                    deltas[input_deltas + index] = activate_backward(activation, sums[row], h)

    def head(
        table, step, first_row, parameters, weights, n_inputs, n_outputs, values, inputs, targets,
        row_weights, deltas, output_deltas, input_deltas, input_activation, activation, loss,
        loss_scale, losses,
    ):  # fmt: skip
        weight = table[step * TABLE_WIDTH + WEIGHT]
        n_rows = int(table[step * TABLE_WIDTH + ROWS])
        first, t = cuda.blockIdx.x * HEAD_ROWS, cuda.threadIdx.x
        if weight == 0:
            return
        outputs = cuda.shared.array(_PAIRS, real)
        own_deltas = cuda.shared.array(_PAIRS, real)
        row_losses = cuda.shared.array(HEAD_ROWS, types.float64)
        compute_logits(
            outputs, first, n_rows, parameters, weights, n_inputs, n_outputs, values, inputs
        )
        if t < HEAD_ROWS:
            row_losses[t] = 0.0
            if first + t < n_rows:
                activate_row(activation, outputs, t * HEAD_OUTPUTS, n_outputs)
                row_weight = row_weights[first_row + first + t]
                row_losses[t] = row_weight * loss_scale * judge_row(
                    activation, loss, eps, outputs, t * HEAD_OUTPUTS, targets,
                    (first_row + first + t) * n_outputs, n_outputs, real(row_weight / weight),
                    own_deltas, t * HEAD_OUTPUTS,
                )  # fmt: skip
        cuda.syncthreads()
        if t == 0:
            total = 0.0
            for row in range(HEAD_ROWS):
                total += row_losses[row]
            losses[step * cuda.gridDim.x + cuda.blockIdx.x] = total
        row, unit = t // HEAD_OUTPUTS, t % HEAD_OUTPUTS
        if t < _PAIRS and first + row < n_rows and unit < n_outputs:
            deltas[output_deltas + (first + row) * n_outputs + unit] = own_deltas[t]
        if input_deltas >= 0:
            go_back(
                own_deltas, first, n_rows, parameters, weights, n_inputs, n_outputs, values, inputs,
                deltas, input_deltas, input_activation,
            )  # fmt: skip

    return head


def activate_rows(values, start, n_rows, n_outputs, activation):
    """Turn the logits of some rows into outputs, for predictions. A thread takes a row."""
    row = cuda.grid(1)
    if row < n_rows:
        activate_row(activation, values, start + row * n_outputs, n_outputs)


JUDGES = {name: make_judge(getattr(np, name)) for name in ("float32", "float64")}
HEADS = {
    (name, threads): make_head(getattr(np, name), threads)
    for name in ("float32", "float64")
    for threads in (HEAD_THREADS, TOY_THREADS)
}


def _list_kernels(name):
    real = getattr(types, name)
    array, table, integer = real[::1], types.float64[::1], types.int64
    judge = (
        table, integer, integer, array, integer, integer, array, table, array, *(integer,) * 3,
        types.float64, table,
    )  # fmt: skip
    head = (
        table, integer, integer, array, *(integer,) * 3, array, integer, array, table, array,
        *(integer,) * 5, types.float64, table,
    )  # fmt: skip
    return {
        f"judge {name}": Listed(JUDGES[name], judge, 80),
        f"head {name}": Listed(HEADS[name, HEAD_THREADS], head, 96),
        f"activate_rows {name}": Listed(activate_rows, (array, *(integer,) * 4), 48),
    }


KERNELS = _list_kernels("float32") | _list_kernels("float64")
