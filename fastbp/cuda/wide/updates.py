"""Updates of wide nets' parameters, as kernels have them behind a gradient: device functions."""

from functools import cache

from numba import float32

from fastbp.cuda import formulas, ptx
from fastbp.cuda.task import ADAM
from fastbp.cuda.wide.batches import (
    BETA_1,
    BETA_2,
    DECAY,
    EPSILON,
    MOMENTUM,
    RATE,
    make_store,
    real_of_state,
    rows_of_step,
    sum_apart,
)
from fastbp.cuda.wide.products import inlined

AT_ONCE = 4  # rows whose weights and moments are on their way from memory at a time


@inlined
def kept(value, keep):
    """The value, or zero."""
    return value if keep else float32(0)


@inlined
def settings_of(state):
    """What the update rules take, and last the decay."""
    return (
        real_of_state(state, RATE),
        real_of_state(state, MOMENTUM),
        real_of_state(state, BETA_1),
        real_of_state(state, BETA_2),
        real_of_state(state, EPSILON),
        real_of_state(state, DECAY),
    )


@cache
def make_update(rule):
    """The device function that updates one parameter, in memory.

    Returns
    -------
    update : device function
        (state, weights, first_moment, second_moment, offset, gradient) -> the new parameter
    """
    has_second = rule == ADAM

    @inlined
    def update(state, weights, first_moment, second_moment, offset, gradient):
        second = float32(0)
        if has_second:
            second = ptx.ld_global_f32(second_moment + offset)
        rate, momentum, beta_1, beta_2, epsilon, _ = settings_of(state)
        weight, first, second = formulas.update(
            rule, ptx.ld_global_f32(weights + offset), gradient,
            ptx.ld_global_f32(first_moment + offset), second, rate, momentum, beta_1, beta_2,
            epsilon,
        )  # fmt: skip
        ptx.st_global_f32(weights + offset, weight)
        ptx.st_global_f32(first_moment + offset, first)
        if has_second:
            ptx.st_global_f32(second_moment + offset, second)
        return weight

    return update


@cache
def make_update_bias(rule):
    """The device function that updates a bias, its gradient added up from sums of rows of Δ.

    Returns
    -------
    update_bias : device function
        (state, weights, first_moment, second_moment, offset, sums, sums_pitch, rows_a_sum) -> the
        new bias; `sums` is the address of the bias's first one.
    """
    update = make_update(rule)

    @inlined
    def update_bias(
        state, weights, first_moment, second_moment, offset, sums, sums_pitch, rows_a_sum
    ):
        n_sums = (rows_of_step(state) + rows_a_sum - 1) // rows_a_sum
        gradient = sum_apart(sums, sums_pitch, n_sums)
        return update(state, weights, first_moment, second_moment, offset, gradient)

    return update_bias


@cache
def make_update_quads(precision, rule):
    """Device functions that update four neighbours in a row, of up to AT_ONCE rows at a time.

    `w`, `m` and `v` are local arrays of shape (AT_ONCE, 4) for weights and moments.

    Returns
    -------
    load : device function
        (w, m, v, i, weights, first_moment, second_moment, offset)
    change : device function
        (w, m, v, i, g, settings, weights, first_moment, second_moment, offset, rounded, column,
        left) -> the sum of the weights' squares, as they were; `g` are their gradients without
        decay, `rounded` is the row's rounded copy, and of the four `left` lie in the matrix: the
        others' weights are zero, and stay so.
    """
    has_second = rule == ADAM
    store, _, _ = make_store(precision)

    @inlined
    def load(w, m, v, i, weights, first_moment, second_moment, offset):
        w[i, 0], w[i, 1], w[i, 2], w[i, 3] = ptx.ld_global_v4_f32(weights + offset)
        m[i, 0], m[i, 1], m[i, 2], m[i, 3] = ptx.ld_global_v4_f32(first_moment + offset)
        if has_second:
            v[i, 0], v[i, 1], v[i, 2], v[i, 3] = ptx.ld_global_v4_f32(second_moment + offset)

    @inlined
    def change(
        w, m, v, i, g, settings, weights, first_moment, second_moment, offset, rounded, column, left
    ):
        rate, momentum, beta_1, beta_2, epsilon, decay = settings
        squares = float32(0)
        for c in range(4):
            squares += w[i, c] * w[i, c]
            w[i, c], m[i, c], v[i, c] = formulas.update(
                rule, w[i, c], g[c] + decay * w[i, c], m[i, c], v[i, c], rate, momentum, beta_1,
                beta_2, epsilon,
            )  # fmt: skip
            # An ε that underflows would make the padding NaN.
            w[i, c] = kept(w[i, c], left > c)
        ptx.st_global_v4_f32(weights + offset, w[i, 0], w[i, 1], w[i, 2], w[i, 3])
        ptx.st_global_v4_f32(first_moment + offset, m[i, 0], m[i, 1], m[i, 2], m[i, 3])
        if has_second:
            ptx.st_global_v4_f32(second_moment + offset, v[i, 0], v[i, 1], v[i, 2], v[i, 3])
        store(rounded, column, w[i, 0], w[i, 1], w[i, 2], w[i, 3])
        return squares

    return load, change
