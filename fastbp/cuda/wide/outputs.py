"""Wide nets' last layer: logits, outputs, losses, δ, and its update.

Few outputs (`MOST_OF_HEAD` at most) would leave a tile of the products all but empty. They have
kernels of their own, which share the inner dimension, or the batch, out over warps and blocks and
add up the parts in a fixed order. More outputs get their logits by the forward product and their
update by the gradient's.
"""

from functools import cache

from numba import float32, float64, int64, uint32

from fastbp.cuda import formulas, ptx
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.batches import (
    DECAY,
    START,
    THREADS,
    WEIGHT,
    make_block_sum,
    make_store,
    of_state,
    real_of_state,
    rows_of_step,
    sum_apart,
)
from fastbp.cuda.wide.products import PADDING_ROWS, inlined
from fastbp.cuda.wide.updates import make_update

MOST_OF_HEAD = 32
HEAD_ROWS = 16  # of a block
UNIT_BYTES = 64  # of the inner dimension, two `mma` long
UNITS_AT_ONCE = 2  # of a warp
GRADIENT_ROWS = 64  # of the batch, a block
GRADIENT_THREADS = 128  # each four units
AT_ONCE = 4  # rows of them on their way; divides GRADIENT_ROWS
_WARPS = THREADS // 32


@inlined
def _target(targets, index, output, n_outputs, is_class):
    """What the output of a row should be."""
    if is_class:
        return float32(1 if ptx.ld_global_u32(targets + 4 * index) == output else 0)
    return ptx.ld_global_f32(targets + 4 * (index * n_outputs + output))


@inlined
def _weight(sample_weight, index):
    """A row's weight; all are one where there are none."""
    if sample_weight == 0:
        return float64(1)
    return ptx.ld_global_f64(sample_weight + 8 * index)


@inlined
def _row_of_data(state, order, row):
    start = int64(of_state(state, START))
    return int64(ptx.ld_global_u32(order + 4 * (start + row)))


@cache
def _make_logits(precision, n_padded):
    """The device function that multiplies HEAD_ROWS rows by few columns.

    Registers are filled straight from memory: which k an `mma` takes for which of its own does not
    matter as long as A and B agree, so every lane takes 16 bytes in a row. Warp w does every
    eighth unit and writes `parts[w]`.
    """
    mma = ptx.mma_bf16 if precision == "bfloat16" else ptx.mma_tf32
    n_fragments = n_padded // 8

    @inlined
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


@cache
def make_head(precision, n_outputs, activation, loss, is_class):
    """The kernel from the last hidden layer's values to losses and δ, for few outputs.

    Grid: blocks of HEAD_ROWS rows, up to a whole tile. The δ of rows behind the batch's are zero.
    """
    n_padded = (n_outputs + 7) // 8 * 8
    parts_shape, shape = (_WARPS, HEAD_ROWS, n_padded), (HEAD_ROWS, n_padded)
    compute_logits = _make_logits(precision, n_padded)
    _, _, store_one = make_store(precision)
    is_softmax = activation == formulas.SOFTMAX
    n_values = HEAD_ROWS * n_outputs

    def head(
        state, inputs, inputs_pitch, weights, weights_pitch, n_units, bias, targets, sample_weight,
        order, loss_scale, eps, deltas, rounded, rounded_pitch, losses,
    ):  # fmt: skip
        parts = cuda.shared.array(parts_shape, float32)
        logits, values = cuda.shared.array(shape, float32), cuda.shared.array(shape, float32)
        row_losses = cuda.shared.array(HEAD_ROWS, float64)
        rows, thread = rows_of_step(state), cuda.threadIdx.x
        first_row = int64(cuda.blockIdx.x) * HEAD_ROWS
        if first_row >= (rows + PADDING_ROWS - 1) // PADDING_ROWS * PADDING_ROWS:
            return
        compute_logits(
            parts, inputs + first_row * inputs_pitch, inputs_pitch, weights, weights_pitch, n_units
        )
        cuda.syncthreads()
        for i in range(thread, n_values, THREADS):
            row, output = i // n_outputs, i % n_outputs
            total = ptx.ld_global_f32(bias + 4 * output)
            for warp in range(_WARPS):
                total += parts[warp, row, output]
            logits[row, output] = total
        cuda.syncthreads()
        for i in range(thread, n_values, THREADS):
            row, output = i // n_outputs, i % n_outputs
            if is_softmax:
                peak = logits[row, 0]
                for other in range(1, n_outputs):
                    peak = logits[row, other] if logits[row, other] > peak else peak
                values[row, output] = formulas.exponential(logits[row, output] - peak)
            else:
                values[row, output] = formulas.activate(activation, logits[row, output])
        cuda.syncthreads()
        for i in range(thread, n_values, THREADS):
            row, output = i // n_outputs, i % n_outputs
            delta = share = float32(0)
            if first_row + row < rows:
                index = _row_of_data(state, order, first_row + row)
                value = values[row, output]
                if is_softmax:
                    total = float32(0)
                    for other in range(n_outputs):
                        total += values[row, other]
                    value = value / total
                target = _target(targets, index, output, n_outputs, is_class)
                share = formulas.output_loss(loss, activation, target, value, float32(eps))
                weight = _weight(sample_weight, index) / of_state(state, WEIGHT)
                delta = formulas.output_delta(loss, activation, target, value) * float32(weight)
            logits[row, output] = share
            ptx.st_global_f32(deltas + ((first_row + row) * n_padded + output) * 4, delta)
            store_one(rounded + (first_row + row) * rounded_pitch, output, delta)
        cuda.syncthreads()
        if thread < HEAD_ROWS:
            total = float32(0)
            for output in range(n_outputs):
                total += logits[thread, output]
            row_losses[thread] = 0.0
            if first_row + thread < rows:
                index = _row_of_data(state, order, first_row + thread)
                row_losses[thread] = total * _weight(sample_weight, index) * loss_scale
        cuda.syncthreads()
        if thread == 0:
            total = 0.0
            for row in range(HEAD_ROWS):
                total += row_losses[row]
            ptx.st_global_f64(losses + 8 * cuda.blockIdx.x, total)

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

    def head_gradient(state, inputs, inputs_pitch, deltas, parts, part_size, n_units):
        shared = cuda.shared.array(shape, float32)
        sums = cuda.local.array(sums_shape, float32)
        h = cuda.local.array((AT_ONCE, 4), float32)
        first_row, thread = int64(cuda.blockIdx.y) * GRADIENT_ROWS, cuda.threadIdx.x
        n_rows = min(int64(GRADIENT_ROWS), rows_of_step(state) - first_row)
        if n_rows <= 0:
            return
        for i in range(thread, GRADIENT_ROWS * n_padded, GRADIENT_THREADS):
            row, output = i // n_padded, i % n_padded
            delta = float32(0)
            if row < n_rows and output < n_outputs:
                delta = ptx.ld_global_f32(deltas + (first_row * n_padded + i) * 4)
            shared[row, output] = delta
        cuda.syncthreads()
        part = parts + cuda.blockIdx.y * part_size
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
        source = inputs + first_row * inputs_pitch
        for group in range(0, n_rows, AT_ONCE):
            for i in range(AT_ONCE):  # rows behind the batch's have δ of zero
                h[i, 0], h[i, 1], h[i, 2], h[i, 3] = load(source + (group + i) * inputs_pitch, unit)
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

    def head_update(
        state, parts, part_size, weights, first_moment, second_moment, weights_pitch, rounded,
        rounded_pitch, transposed, transposed_pitch, n_units, penalties,
    ):  # fmt: skip
        rows = rows_of_step(state)
        if rows == 0:
            return
        i = int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        unit, output = i // n_padded, i % n_padded
        square = 0.0
        if unit <= n_units and output < n_outputs:
            n_parts = (rows + GRADIENT_ROWS - 1) // GRADIENT_ROWS
            gradient = sum_apart(parts + i * 4, part_size, n_parts)
            offset = unit * weights_pitch + output * 4
            if unit < n_units:
                weight = ptx.ld_global_f32(weights + offset)
                square = float64(weight) * float64(weight)
                gradient += real_of_state(state, DECAY) * weight
            weight = update_one(state, weights, first_moment, second_moment, offset, gradient)
            if unit < n_units:
                store_one(rounded + unit * rounded_pitch, output, weight)
                store_one(transposed + output * transposed_pitch, unit, weight)
        total = block_sum(square)
        if cuda.threadIdx.x == 0:
            ptx.st_global_f64(penalties + 8 * cuda.blockIdx.x, total)

    return head_update


@cache
def make_outputs(precision, activation, loss, is_class):
    """The kernel from logits to losses and δ, for many outputs.

    Grid: rows up to a whole tile. δ as float32 take the logits' place, and are rounded; those of
    rows behind the batch's are zero.
    """
    _, _, store_one = make_store(precision)
    block_sum = make_block_sum(THREADS)
    is_softmax = activation == formulas.SOFTMAX

    def outputs(
        state, logits, logits_pitch, n_outputs, targets, sample_weight, order, loss_scale, eps,
        rounded, rounded_pitch, losses,
    ):  # fmt: skip
        peaks = cuda.shared.array(THREADS, float32)
        rows, row, thread = rows_of_step(state), int64(cuda.blockIdx.x), cuda.threadIdx.x
        if row >= (rows + PADDING_ROWS - 1) // PADDING_ROWS * PADDING_ROWS:
            return
        source, target_row = logits + row * logits_pitch, rounded + row * rounded_pitch
        if row >= rows:
            for output in range(thread, n_outputs, THREADS):
                store_one(target_row, output, float32(0))
            return
        peak = total = float32(0)
        if is_softmax:
            peak = ptx.ld_global_f32(source)
            for output in range(thread, n_outputs, THREADS):
                logit = ptx.ld_global_f32(source + 4 * output)
                peak = logit if logit > peak else peak
            peaks[thread] = peak
            half = THREADS // 2
            while half > 0:
                cuda.syncthreads()
                if thread < half and peaks[thread + half] > peaks[thread]:
                    peaks[thread] = peaks[thread + half]
                half //= 2
            cuda.syncthreads()
            peak = peaks[0]
            part = 0.0
            for output in range(thread, n_outputs, THREADS):
                part += formulas.exponential(ptx.ld_global_f32(source + 4 * output) - peak)
            total = float32(block_sum(part))
            cuda.syncthreads()
        index = _row_of_data(state, order, row)
        weight = _weight(sample_weight, index)
        factor, part = float32(weight / of_state(state, WEIGHT)), 0.0
        for output in range(thread, n_outputs, THREADS):
            value = ptx.ld_global_f32(source + 4 * output)
            if is_softmax:
                value = formulas.exponential(value - peak) / total
            else:
                value = formulas.activate(activation, value)
            target = _target(targets, index, output, n_outputs, is_class)
            part += formulas.output_loss(loss, activation, target, value, float32(eps))
            delta = formulas.output_delta(loss, activation, target, value) * factor
            ptx.st_global_f32(source + 4 * output, delta)
            store_one(target_row, output, delta)
        total_loss = block_sum(part)
        if thread == 0:
            ptx.st_global_f64(losses + 8 * row, total_loss * weight * loss_scale)

    return outputs
