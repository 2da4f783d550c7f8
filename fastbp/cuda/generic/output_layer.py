"""The output layer: activation, loss and δ; for few outputs, with the products before and after.

Sums over a row's outputs run in order, in the parameters' dtype, as on the CPU; rows' losses are
float64. A network's factor of the loss comes in where a window's losses are added up.
"""

import numpy as np
from numba import types

from fastbp.cuda.formulas import (
    SOFTMAX,
    activate,
    any_output_error,
    any_output_loss,
    couples_outputs,
    delta_of_error,
    device_function,
    exponential,
)
from fastbp.cuda.generic.masks import pass_back
from fastbp.cuda.generic.tiles import sum_of_block
from fastbp.cuda.toolkit import cuda
from fastbp.schedules import ROWS, TABLE_WIDTH, WEIGHT

LOSS_THREADS = 256
# The fused kernel: outputs at most, rows a block, and threads (in the simulator, few).
HEAD_OUTPUTS, HEAD_ROWS, HEAD_THREADS, TOY_THREADS = 16, 4, 256, 64
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
def row_loss_and_delta(
    activation, loss, eps, outputs, start, targets, target_start, n_outputs, factor, deltas,
    delta_start,
):  # fmt: skip
    """A row's loss from its outputs, without its weight; its δ, times `factor`, to `deltas`.

    `targets` begins with the loss's coefficients. A target that is NaN is missing: it leaves loss
    and δ.
    """
    total, pull = type(eps)(0), type(eps)(0)
    is_coupled = couples_outputs(loss, activation)
    for unit in range(n_outputs):
        output, target, coefficient = (
            outputs[start + unit], targets[target_start + unit], targets[unit],
        )  # fmt: skip
        error = type(eps)(0)
        if target == target:
            total += any_output_loss(loss, target, output, eps, coefficient)
            error = any_output_error(loss, target, output, eps, coefficient)
        if is_coupled:
            pull += error
        else:
            error = delta_of_error(loss, activation, error, output) * factor
        deltas[delta_start + unit] = error
    if is_coupled:
        for unit in range(n_outputs):
            error = deltas[delta_start + unit] - outputs[start + unit] * pull
            deltas[delta_start + unit] = error * factor
    return total


def make_loss_kernel(real):
    """Build the kernel that turns logits into outputs, losses and δ. A thread takes a row."""
    eps = real(np.finfo(real).eps)

    def loss_kernel(
        table, step, first_row, layer, values, targets, row_weights, deltas, loss, losses
    ):
        weight = table[step * TABLE_WIDTH + WEIGHT]
        if weight == 0:
            return
        shared = cuda.shared.array(LOSS_THREADS, types.float64)
        row, row_loss, n_outputs = cuda.grid(1), 0.0, layer.n_outputs
        if row < int(table[step * TABLE_WIDTH + ROWS]):
            logits = layer.outputs + row * n_outputs
            activate_row(layer.activation, values, logits, n_outputs)
            row_weight = row_weights[first_row + row]
            row_loss = row_weight * row_loss_and_delta(
                layer.activation, loss, eps, values, logits, targets,
                (first_row + row + 1) * n_outputs, n_outputs, real(row_weight / weight), deltas,
                layer.deltas + row * n_outputs,
            )  # fmt: skip
        total = sum_of_block(shared, row_loss)
        if cuda.threadIdx.x == 0:
            losses[step * cuda.gridDim.x + cuda.blockIdx.x] = total

    return loss_kernel


def _make_logits(real, threads):
    """Build the device function that multiplies a block's rows by the weights of few outputs.

    A block's threads are a number of groups of one thread for each row and output, which share the
    product's terms.
    """
    zero, groups = real(0), threads // _PAIRS

    @device_function
    def compute_logits(outputs, first, n_rows, layer, parameters, values):
        partial = cuda.shared.array(threads, real)
        t = cuda.threadIdx.x
        group, row, unit = t // _PAIRS, t % _PAIRS // HEAD_OUTPUTS, t % HEAD_OUTPUTS
        n_inputs, n_outputs = layer.n_inputs, layer.n_outputs
        total = zero
        if first + row < n_rows and unit < n_outputs:
            start = layer.inputs + (first + row) * n_inputs
            for k in range(group, n_inputs, groups):
                total += values[start + k] * parameters[layer.weights + k * n_outputs + unit]
        partial[t] = total
        cuda.syncthreads()
        if t < _PAIRS and unit < n_outputs:
            total = zero
            for part in range(groups):
                total += partial[part * _PAIRS + t]
            outputs[t] = total + parameters[layer.weights + n_inputs * n_outputs + unit]
        cuda.syncthreads()

    return compute_logits


def _make_head_backward(real, threads):
    """Build the device function that takes a block's δ back through a layer with few outputs."""
    zero = real(0)

    @device_function
    def head_backward(own_deltas, first, n_rows, layer, parameters, values, deltas):
        sums = cuda.local.array(HEAD_ROWS, real)
        n_inputs, n_outputs = layer.n_inputs, layer.n_outputs
        for k in range(cuda.threadIdx.x, n_inputs, threads):
            for row in range(HEAD_ROWS):
                sums[row] = zero
            for unit in range(n_outputs):
                weight = parameters[layer.weights + k * n_outputs + unit]
                for row in range(HEAD_ROWS):  # those after the last are garbage, and not stored
                    sums[row] += own_deltas[row * HEAD_OUTPUTS + unit] * weight
            for row in range(HEAD_ROWS):
                if first + row < n_rows:
                    index = (first + row) * n_inputs + k
                    deltas[layer.input_deltas + index] = pass_back(
                        layer, sums[row], values, deltas, index
                    )

    return head_backward


def make_head(real, threads):
    """Build the kernel of a layer with few outputs: product, loss, δ, and δ of the layer before.

    A block takes HEAD_ROWS rows.
    """
    eps = real(np.finfo(real).eps)
    compute_logits, head_backward = _make_logits(real, threads), _make_head_backward(real, threads)

    def head(
        table, step, first_row, layer, parameters, values, targets, row_weights, deltas, loss,
        losses,
    ):  # fmt: skip
        weight = table[step * TABLE_WIDTH + WEIGHT]
        n_rows, n_outputs = int(table[step * TABLE_WIDTH + ROWS]), layer.n_outputs
        first, t = cuda.blockIdx.x * HEAD_ROWS, cuda.threadIdx.x
        if weight == 0:
            return
        outputs = cuda.shared.array(_PAIRS, real)
        own_deltas = cuda.shared.array(_PAIRS, real)
        row_losses = cuda.shared.array(HEAD_ROWS, types.float64)
        compute_logits(outputs, first, n_rows, layer, parameters, values)
        if t < HEAD_ROWS:
            row_losses[t] = 0.0
            if first + t < n_rows:
                activate_row(layer.activation, outputs, t * HEAD_OUTPUTS, n_outputs)
                row_weight = row_weights[first_row + first + t]
                row_losses[t] = row_weight * row_loss_and_delta(
                    layer.activation, loss, eps, outputs, t * HEAD_OUTPUTS, targets,
                    (first_row + first + t + 1) * n_outputs, n_outputs, real(row_weight / weight),
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
            deltas[layer.deltas + (first + row) * n_outputs + unit] = own_deltas[t]
        if layer.input_deltas >= 0:
            head_backward(own_deltas, first, n_rows, layer, parameters, values, deltas)

    return head


def activate_rows(values, start, n_rows, n_outputs, activation):
    """Turn the logits of some rows into outputs, for predictions. A thread takes a row."""
    row = cuda.grid(1)
    if row < n_rows:
        activate_row(activation, values, start + row * n_outputs, n_outputs)


LOSS_KERNELS = {name: make_loss_kernel(getattr(np, name)) for name in ("float32", "float64")}
HEADS = {
    (name, threads): make_head(getattr(np, name), threads)
    for name in ("float32", "float64")
    for threads in (HEAD_THREADS, TOY_THREADS)
}
