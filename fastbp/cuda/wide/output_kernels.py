"""Wide nets' outputs: losses and δ from logits."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import float32, float64, int64

from fastbp.cuda import formulas, ptx
from fastbp.cuda.formulas import device_function
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.batch_kernels import (
    START,
    WEIGHT,
    make_block_sum,
    make_store,
    of_state,
    rows_of_step,
)
from fastbp.cuda.wide.operands import PADDING_ROWS

EPS = np.finfo(np.float32).eps
MOST_THREADS = 256


class Supervision(NamedTuple):
    """Where lies what outputs are compared with: addresses.

    Parameters
    ----------
    targets : int
        Classes in int32, or float32 numbers, row by row.
    sample_weight : int
        Float64, or 0 where all are one.
    order : int
        Rows of the epoch, int32.
    losses : int
        Where rows' losses go, float64.
    """

    targets: int
    sample_weight: int
    order: int
    losses: int


@device_function
def target_of(targets, index, output, n_outputs, is_class):
    """What the output of a row should be."""
    if is_class:
        return float32(1 if ptx.ld_global_u32(targets + 4 * index) == output else 0)
    return ptx.ld_global_f32(targets + 4 * (index * n_outputs + output))


@device_function
def weight_of(sample_weight, index):
    """A row's weight; all are one where there are none."""
    if sample_weight == 0:
        return float64(1)
    return ptx.ld_global_f64(sample_weight + 8 * index)


@device_function
def row_of_data(state, order, row):
    start = int64(of_state(state, START))
    return int64(ptx.ld_global_u32(order + 4 * (start + row)))


def threads_for(n_outputs):
    """Threads of a block: a power of two, a warp at least, as many as outputs if these are few."""
    threads = 32
    while threads < min(n_outputs, MOST_THREADS):
        threads *= 2
    return threads


@cache
def make_loss_kernel(precision, threads, activation, loss, is_class):
    """The kernel from logits to losses and δ: a block of `threads` a row.

    Grid: rows up to a whole tile. δ as float32 take the logits' place, and are rounded; those of
    rows after the batch's are zero.
    """
    _, _, store_one = make_store(precision)
    block_sum = make_block_sum(threads)
    is_softmax = activation == formulas.SOFTMAX

    def loss_kernel(state, layer, data):
        peaks = cuda.shared.array(threads, float32)
        rows, row, thread = rows_of_step(state), int64(cuda.blockIdx.x), cuda.threadIdx.x
        if row >= (rows + PADDING_ROWS - 1) // PADDING_ROWS * PADDING_ROWS:
            return
        source, n_outputs = layer.outputs + row * layer.outputs_pitch, layer.n_outputs
        target_row = layer.deltas + row * layer.deltas_pitch
        if row >= rows:
            for output in range(thread, n_outputs, threads):
                store_one(target_row, output, float32(0))
            return
        peak = total = float32(0)
        if is_softmax:
            peak = ptx.ld_global_f32(source)
            for output in range(thread, n_outputs, threads):
                logit = ptx.ld_global_f32(source + 4 * output)
                peak = logit if logit > peak else peak
            peaks[thread] = peak
            half = threads // 2
            while half > 0:
                cuda.syncthreads()
                if thread < half and peaks[thread + half] > peaks[thread]:
                    peaks[thread] = peaks[thread + half]
                half //= 2
            cuda.syncthreads()
            peak = peaks[0]
            part = 0.0
            for output in range(thread, n_outputs, threads):
                part += formulas.exponential(ptx.ld_global_f32(source + 4 * output) - peak)
            total = float32(block_sum(part))
            cuda.syncthreads()
        index = row_of_data(state, data.order, row)
        weight = weight_of(data.sample_weight, index)
        factor, part = float32(weight / of_state(state, WEIGHT)), 0.0
        for output in range(thread, n_outputs, threads):
            value = ptx.ld_global_f32(source + 4 * output)
            if is_softmax:
                value = formulas.exponential(value - peak) / total
            else:
                value = formulas.activate(activation, value)
            target = target_of(data.targets, index, output, n_outputs, is_class)
            delta = float32(0)
            if target == target:  # else it is missing
                part += formulas.output_loss(loss, target, value, EPS)
                delta = formulas.output_delta(loss, activation, target, value) * factor
            ptx.st_global_f32(source + 4 * output, delta)
            store_one(target_row, output, delta)
        total_loss = block_sum(part)
        if thread == 0:
            ptx.st_global_f64(data.losses + 8 * row, total_loss * weight)

    return loss_kernel
