"""Wide nets' last layer where it has few outputs (`MOST_OUTPUTS`): logits to δ, and its update.

They would leave a tile of the products all but empty. These kernels share the inner dimension, or
the batch, out over warps and blocks and add up the parts in a fixed order.
"""

from functools import cache
from typing import NamedTuple

from numba import float32, float64, int64, uint32

from fastbp.cuda import formulas, ptx
from fastbp.cuda.formulas import device_function
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.batch_kernels import (
    DECAY,
    THREADS,
    WEIGHT,
    make_block_sum,
    make_store,
    of_state,
    real_of_state,
    rows_of_step,
    sum_apart,
)
from fastbp.cuda.wide.operands import ITEM_SIZES, PADDING_ROWS
from fastbp.cuda.wide.output_kernels import EPS, row_of_data, target_of, weight_of
from fastbp.cuda.wide.weight_updates import make_update

MOST_OUTPUTS = 32
HEAD_ROWS = 16  # of a block
UNIT_BYTES = 64  # of the inner dimension, two `mma` long
UNITS_AT_ONCE = 2  # of a warp
GRADIENT_ROWS = 64  # of the batch, a block
GRADIENT_THREADS = 128  # each four units
AT_ONCE = 4  # rows of them on their way; divides GRADIENT_ROWS
_WARPS = THREADS // 32


class Head(NamedTuple):
    """Where the matrices of a last layer with few outputs lie, besides those of all layers.

    Parameters
    ----------
    transposed, transposed_pitch : int
        The weights transposed, an operand.
    deltas : int
        Float32; a row has the outputs' number, rounded up to a multiple of eight.
    parts, part_size : int
        Parts of the gradient: the first's address and their size in bytes.
    """

    transposed: int
    transposed_pitch: int
    deltas: int
    parts: int
    part_size: int


@cache
def _make_logits(precision, n_padded):
    """The device function that multiplies HEAD_ROWS rows by few columns.

    Registers are filled straight from memory: which k an `mma` takes for which of its own does not
    matter as long as A and B agree, so every lane takes 16 bytes in a row. Warp w does every
    eighth unit and writes `parts[w]`.
    """
    mma = ptx.mma_bf16 if precision == "bfloat16" else ptx.mma_tf32
    n_fragments = n_padded // 8

    @device_function
    def logits(parts, inputs, inputs_pitch, weights, weights_pitch, n_units):
        sums = cuda.local.array((n_fragments, 4), float32)
        a = cuda.local.array((UNITS_AT_ONCE, 8), uint32)
        b = cuda.local.array((UNITS_AT_ONCE, n_fragments, 4), uint32)
        for j in range(n_fragments):
            for c in range(4):
                sums[j, c] = float32(0)
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        g, t = lane >> 2, lane & 3
        upper = inputs + g * inputs_pitch + t * 16
        lower = upper + 8 * inputs_pitch
        weights = weights + g * weights_pitch + t * 16
        for first in range(warp, n_units, _WARPS * UNITS_AT_ONCE):
            for i in range(UNITS_AT_ONCE):
                offset = (first + i * _WARPS) * UNIT_BYTES
                for c in range(8):
                    a[i, c] = uint32(0)
                for j in range(n_fragments):
                    for c in range(4):
                        b[i, j, c] = uint32(0)
                if first + i * _WARPS < n_units:
                    a[i, 0], a[i, 2], a[i, 4], a[i, 6] = ptx.ld_global_v4_u32(upper + offset)
                    a[i, 1], a[i, 3], a[i, 5], a[i, 7] = ptx.ld_global_v4_u32(lower + offset)
                    for j in range(n_fragments):
                        b[i, j, 0], b[i, j, 1], b[i, j, 2], b[i, j, 3] = ptx.ld_global_v4_u32(
                            weights + 8 * j * weights_pitch + offset
                        )
            for i in range(UNITS_AT_ONCE):
                for j in range(n_fragments):
                    for half in range(2):
                        sums[j, 0], sums[j, 1], sums[j, 2], sums[j, 3] = mma(
                            a[i, 4 * half], a[i, 4 * half + 1], a[i, 4 * half + 2],
                            a[i, 4 * half + 3], b[i, j, 2 * half], b[i, j, 2 * half + 1],
                            sums[j, 0], sums[j, 1], sums[j, 2], sums[j, 3],
                        )  # fmt: skip
        for j in range(n_fragments):
            parts[warp, g, 8 * j + 2 * t] = sums[j, 0]
            parts[warp, g, 8 * j + 2 * t + 1] = sums[j, 1]
            parts[warp, g + 8, 8 * j + 2 * t] = sums[j, 2]
            parts[warp, g + 8, 8 * j + 2 * t + 1] = sums[j, 3]

    return logits


def _make_values(n_outputs, activation):
    """The device function that activates logits; softmax is not yet divided by its sum."""
    is_softmax, n_values = activation == formulas.SOFTMAX, HEAD_ROWS * n_outputs

    @device_function
    def compute_values(logits, values):
        for i in range(cuda.threadIdx.x, n_values, THREADS):
            row, output = i // n_outputs, i % n_outputs
            if is_softmax:
                peak = logits[row, 0]
                for other in range(1, n_outputs):
                    peak = logits[row, other] if logits[row, other] > peak else peak
                values[row, output] = formulas.exponential(logits[row, output] - peak)
            else:
                values[row, output] = formulas.activate(activation, logits[row, output])

    return compute_values


def _make_share_and_delta(n_outputs, activation, loss, is_class):
    """The device function from values to one output's share of its row's loss, and its δ."""
    is_softmax = activation == formulas.SOFTMAX

    @device_function
    def share_and_delta(state, data, index, values, row, output):
        value = values[row, output]
        if is_softmax:
            total = float32(0)
            for other in range(n_outputs):
                total += values[row, other]
            value = value / total
        target = target_of(data.targets, index, output, n_outputs, is_class)
        share = formulas.output_loss(loss, activation, target, value, EPS)
        weight = weight_of(data.sample_weight, index) / of_state(state, WEIGHT)
        return share, formulas.output_delta(loss, activation, target, value) * float32(weight)

    return share_and_delta


def _make_block_loss(n_outputs):
    """The device function that sums a block's rows' losses, by their shares and weights."""

    @device_function
    def block_loss(state, data, shares, first_row, rows):
        row_losses = cuda.shared.array(HEAD_ROWS, float64)
        thread = cuda.threadIdx.x
        if thread < HEAD_ROWS:
            total = float32(0)
            for output in range(n_outputs):
                total += shares[thread, output]
            row_losses[thread] = 0.0
            if first_row + thread < rows:
                index = row_of_data(state, data.order, first_row + thread)
                row_losses[thread] = total * weight_of(data.sample_weight, index)
        cuda.syncthreads()
        if thread == 0:
            total = 0.0
            for row in range(HEAD_ROWS):
                total += row_losses[row]
            ptx.st_global_f64(data.losses + 8 * cuda.blockIdx.x, total)

    return block_loss


@cache
def make_head(precision, n_outputs, activation, loss, is_class):
    """The kernel from the last hidden layer's values to losses and δ, for few outputs.

    Grid: blocks of HEAD_ROWS rows, up to a whole tile. The δ of rows after the batch's are zero.
    """
    n_padded, item_size = (n_outputs + 7) // 8 * 8, ITEM_SIZES[precision]
    parts_shape, shape = (_WARPS, HEAD_ROWS, n_padded), (HEAD_ROWS, n_padded)
    compute_logits = _make_logits(precision, n_padded)
    compute_values = _make_values(n_outputs, activation)
    share_and_delta = _make_share_and_delta(n_outputs, activation, loss, is_class)
    block_loss, (_, _, store_one) = _make_block_loss(n_outputs), make_store(precision)
    n_values = HEAD_ROWS * n_outputs

    def head(state, layer, places, data):
        parts = cuda.shared.array(parts_shape, float32)
        logits, values = cuda.shared.array(shape, float32), cuda.shared.array(shape, float32)
        rows, thread = rows_of_step(state), cuda.threadIdx.x
        first_row = int64(cuda.blockIdx.x) * HEAD_ROWS
        if first_row >= (rows + PADDING_ROWS - 1) // PADDING_ROWS * PADDING_ROWS:
            return
        compute_logits(
            parts, layer.inputs + first_row * layer.inputs_pitch, layer.inputs_pitch,
            places.transposed, places.transposed_pitch,
            (layer.n_inputs * item_size + UNIT_BYTES - 1) // UNIT_BYTES,
        )  # fmt: skip
        cuda.syncthreads()
        bias = layer.weights + layer.n_inputs * layer.weights_pitch
        for i in range(thread, n_values, THREADS):
            row, output = i // n_outputs, i % n_outputs
            total = ptx.ld_global_f32(bias + 4 * output)
            for warp in range(_WARPS):
                total += parts[warp, row, output]
            logits[row, output] = total
        cuda.syncthreads()
        compute_values(logits, values)
        cuda.syncthreads()
        for i in range(thread, n_values, THREADS):
            row, output = i // n_outputs, i % n_outputs
            delta = share = float32(0)
            if first_row + row < rows:
                index = row_of_data(state, data.order, first_row + row)
                share, delta = share_and_delta(state, data, index, values, row, output)
            logits[row, output] = share
            place = ((first_row + row) * n_padded + output) * 4
            ptx.st_global_f32(places.deltas + place, delta)
            store_one(layer.deltas + (first_row + row) * layer.deltas_pitch, output, delta)
        cuda.syncthreads()
        block_loss(state, data, logits, first_row, rows)

    return head


@cache
def make_head_gradient(precision, n_outputs):
    """The kernel that computes Hᵀ Δ for few outputs, in parts of GRADIENT_ROWS rows of the batch.

    A part is a matrix of float32 with a row a unit, and one row more: the sums of Δ. Grid: (groups
    of 4 · GRADIENT_THREADS units, parts).
    """
    n_padded = (n_outputs + 7) // 8 * 8
    _, load, _ = make_store(precision)
    shape, sums_shape = (GRADIENT_ROWS, n_padded), (4, n_padded)

    def head_gradient(state, layer, places):
        shared = cuda.shared.array(shape, float32)
        sums = cuda.local.array(sums_shape, float32)
        h = cuda.local.array((AT_ONCE, 4), float32)
        first_row, thread = int64(cuda.blockIdx.y) * GRADIENT_ROWS, cuda.threadIdx.x
        n_units = layer.n_inputs
        n_rows = min(int64(GRADIENT_ROWS), rows_of_step(state) - first_row)
        if n_rows <= 0:
            return
        for i in range(thread, GRADIENT_ROWS * n_padded, GRADIENT_THREADS):
            row, output = i // n_padded, i % n_padded
            delta = float32(0)
            if row < n_rows and output < n_outputs:
                delta = ptx.ld_global_f32(places.deltas + (first_row * n_padded + i) * 4)
            shared[row, output] = delta
        cuda.syncthreads()
        part = places.parts + cuda.blockIdx.y * places.part_size
        if cuda.blockIdx.x == 0 and thread < n_outputs:
            total = float32(0)
            for row in range(n_rows):
                total += shared[row, thread]
            ptx.st_global_f32(part + (n_units * n_padded + thread) * 4, total)
        unit = (int64(cuda.blockIdx.x) * GRADIENT_THREADS + thread) * 4
        if unit >= n_units:
            return
        for u in range(4):
            for output in range(n_padded):
                sums[u, output] = float32(0)
        source = layer.inputs + first_row * layer.inputs_pitch
        for group in range(0, n_rows, AT_ONCE):
            for i in range(AT_ONCE):  # rows after the batch's have δ of zero
                there = source + (group + i) * layer.inputs_pitch
                h[i, 0], h[i, 1], h[i, 2], h[i, 3] = load(there, unit)
            for i in range(AT_ONCE):
                for output in range(n_padded):
                    delta = shared[group + i, output]
                    for u in range(4):
                        sums[u, output] += h[i, u] * delta
        for u in range(4):
            if unit + u < n_units:
                for output in range(n_padded):
                    address = part + ((unit + u) * n_padded + output) * 4
                    ptx.st_global_f32(address, sums[u, output])

    return head_gradient


@cache
def make_head_update(precision, n_outputs, rule):
    """The kernel that adds up the parts of the gradient and updates weights and biases.

    Grid: blocks of THREADS numbers of a part. The new weights are rounded as they lie, and
    transposed.
    """
    n_padded = (n_outputs + 7) // 8 * 8
    _, _, store_one = make_store(precision)
    block_sum, update_one = make_block_sum(THREADS), make_update(rule)

    def head_update(state, layer, places):
        rows, n_units = rows_of_step(state), layer.n_inputs
        if rows == 0:
            return
        i = int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        unit, output = i // n_padded, i % n_padded
        square = 0.0
        if unit <= n_units and output < n_outputs:
            n_parts = (rows + GRADIENT_ROWS - 1) // GRADIENT_ROWS
            gradient = sum_apart(places.parts + i * 4, places.part_size, n_parts)
            offset = unit * layer.weights_pitch + output * 4
            if unit < n_units:
                weight = ptx.ld_global_f32(layer.weights + offset)
                square = float64(weight) * float64(weight)
                gradient += real_of_state(state, DECAY) * weight
            weight = update_one(state, layer, offset, gradient)
            if unit < n_units:
                store_one(layer.rounded + unit * layer.rounded_pitch, output, weight)
                store_one(places.transposed + output * places.transposed_pitch, unit, weight)
        total = block_sum(square)
        if cuda.threadIdx.x == 0:
            ptx.st_global_f64(layer.penalties + 8 * cuda.blockIdx.x, total)

    return head_update
