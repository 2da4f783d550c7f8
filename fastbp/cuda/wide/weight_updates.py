"""Optimizer updates of wide nets' parameters: device functions for kernels that have a gradient."""

from functools import cache

from numba import float32

from fastbp.cuda import ptx
from fastbp.cuda.formulas import device_function, make_update
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.batch_kernels import (
    STEP,
    make_store,
    real_of_state,
    rows_of_step,
    sum_apart,
)
from fastbp.optimizers import code_of
from fastbp.schedules import PENALTY, SHRINKAGE, TABLE_WIDTH

AT_ONCE = 4  # rows whose weights and moments are on their way from memory at a time


@device_function
def zero_unless(condition, value):
    """The value where the condition holds, else zero."""
    return value if condition else float32(0)


@device_function
def read_step(state, step):
    """Bring the step's row of the step table to a local array."""
    for column in range(TABLE_WIDTH):
        step[column] = real_of_state(state, STEP + column)


@device_function
def number(step, start, column):
    """A number of the step's row."""
    return step[column]


update = make_update(number)


@cache
def make_update_bias(rule):
    """The device function that updates a bias, its gradient added up from sums of rows of Δ.

    Returns
    -------
    update_bias : device function
        (state, layer, column)
    """
    code, has_second = code_of(rule), rule.n_moments > 1

    @device_function
    def update_bias(state, layer, column):
        n_sums = (rows_of_step(state) + layer.rows_a_sum - 1) // layer.rows_a_sum
        gradient = sum_apart(layer.sums + column * 4, layer.sums_pitch, n_sums)
        offset = layer.n_inputs * layer.weights_pitch + column * 4
        second = float32(0)
        if has_second:
            second = ptx.ld_global_f32(layer.second_moment + offset)
        step = cuda.local.array(TABLE_WIDTH, float32)
        read_step(state, step)
        weight, first, second = update(
            code, ptx.ld_global_f32(layer.weights + offset), gradient,
            ptx.ld_global_f32(layer.first_moment + offset), second, step, 0, float32(0),
        )  # fmt: skip
        ptx.st_global_f32(layer.weights + offset, weight)
        ptx.st_global_f32(layer.first_moment + offset, first)
        if has_second:
            ptx.st_global_f32(layer.second_moment + offset, second)

    return update_bias


@cache
def make_update_quads(precision, rule):
    """Device functions that update four neighbours in a row, of up to AT_ONCE rows at a time.

    `w`, `m` and `v` are local arrays of shape (AT_ONCE, 4) for weights and moments.

    Returns
    -------
    load : device function
        (w, m, v, i, layer, row, column)
    change : device function
        (w, m, v, i, g, step, layer, row, column) -> the sum of the weights' squares, as they
        were; `g` are their gradients without penalty. Weights past the matrix's last column are
        zero, and stay zero.
    """
    code, has_second = code_of(rule), rule.n_moments > 1
    store, _, _ = make_store(precision)

    @device_function
    def load(w, m, v, i, layer, row, column):
        offset = row * layer.weights_pitch + column * 4
        w[i, 0], w[i, 1], w[i, 2], w[i, 3] = ptx.ld_global_v4_f32(layer.weights + offset)
        m[i, 0], m[i, 1], m[i, 2], m[i, 3] = ptx.ld_global_v4_f32(layer.first_moment + offset)
        if has_second:
            v[i, 0], v[i, 1], v[i, 2], v[i, 3] = ptx.ld_global_v4_f32(layer.second_moment + offset)

    @device_function
    def change(w, m, v, i, g, step, layer, row, column):
        penalty, shrinkage = step[PENALTY], step[SHRINKAGE]
        offset, left = row * layer.weights_pitch + column * 4, layer.n_outputs - column
        squares = float32(0)
        for c in range(4):
            squares += w[i, c] * w[i, c]
            w[i, c], m[i, c], v[i, c] = update(
                code, w[i, c], g[c] + penalty * w[i, c], m[i, c], v[i, c], step, 0, shrinkage
            )
            # An ε that underflows would make the padding NaN.
            w[i, c] = zero_unless(left > c, w[i, c])
        ptx.st_global_v4_f32(layer.weights + offset, w[i, 0], w[i, 1], w[i, 2], w[i, 3])
        ptx.st_global_v4_f32(layer.first_moment + offset, m[i, 0], m[i, 1], m[i, 2], m[i, 3])
        if has_second:
            ptx.st_global_v4_f32(layer.second_moment + offset, v[i, 0], v[i, 1], v[i, 2], v[i, 3])
        store(layer.rounded + row * layer.rounded_pitch, column, w[i, 0], w[i, 1], w[i, 2], w[i, 3])
        return squares

    return load, change
