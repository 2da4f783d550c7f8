"""What follows a product where cuBLASLt has computed it: activations, their slopes, the update.

A block goes over COLUMNS columns, a lane four of them, a warp a row at a time: so whole lines are
read and written. Rows behind the batch's are left alone, columns behind the matrix's are made zero.
"""

from functools import cache

from numba import float32, float64, int64

from fastbp.cuda import formulas, ptx
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.batches import make_block_sum, make_store, rows_of_step
from fastbp.cuda.wide.updates import (
    AT_ONCE,
    kept,
    make_update_bias,
    make_update_quads,
    settings_of,
)

QUADS, TURNS = 32, 8
THREADS, COLUMNS = QUADS * TURNS, 4 * QUADS
BLOCK_ROWS = TURNS * AT_ONCE  # of a block that activates or updates
ROWS_A_SUM = 2 * BLOCK_ROWS


@cache
def make_activate(precision, activation):
    """The kernel f(Z), in place. Grid: (groups of COLUMNS columns, groups of BLOCK_ROWS rows)."""
    store, load, _ = make_store(precision)

    def activate(state, values, pitch, n_columns):
        thread, rows = cuda.threadIdx.x, rows_of_step(state)
        column = cuda.blockIdx.x * COLUMNS + 4 * (thread % QUADS)
        first_row = int64(cuda.blockIdx.y) * BLOCK_ROWS + thread // QUADS
        left = n_columns - column
        z = cuda.local.array((AT_ONCE, 4), float32)
        for i in range(AT_ONCE):
            row = first_row + i * TURNS
            if row < rows:
                z[i, 0], z[i, 1], z[i, 2], z[i, 3] = load(values + row * pitch, column)
        for i in range(AT_ONCE):
            row = first_row + i * TURNS
            if row < rows:
                for c in range(4):
                    z[i, c] = kept(formulas.activate(activation, z[i, c]), left > c)
                store(values + row * pitch, column, z[i, 0], z[i, 1], z[i, 2], z[i, 3])

    return activate


@cache
def make_slopes(precision, activation):
    """The kernel Δ ⊙ f′(H), in place, and its sums over ROWS_A_SUM rows.

    Both matrices lie alike. Grid: (groups of COLUMNS columns, groups of ROWS_A_SUM rows).
    """
    store, load, _ = make_store(precision)

    def slopes(state, deltas, values, pitch, n_columns, sums_of_rows, sums_pitch):
        parts = cuda.shared.array((TURNS, COLUMNS), float32)
        thread, rows = cuda.threadIdx.x, rows_of_step(state)
        first_row, first_column = int64(cuda.blockIdx.y) * ROWS_A_SUM, cuda.blockIdx.x * COLUMNS
        if first_row >= rows:
            return
        quad, turn = thread % QUADS, thread // QUADS
        column = first_column + 4 * quad
        left, s = n_columns - column, cuda.local.array(4, float32)
        d = cuda.local.array((AT_ONCE, 4), float32)
        h = cuda.local.array((AT_ONCE, 4), float32)
        for c in range(4):
            s[c] = float32(0)
        for first in range(first_row + turn, first_row + ROWS_A_SUM, BLOCK_ROWS):
            for i in range(AT_ONCE):
                row = first + i * TURNS
                if row < rows:
                    d[i, 0], d[i, 1], d[i, 2], d[i, 3] = load(deltas + row * pitch, column)
                    h[i, 0], h[i, 1], h[i, 2], h[i, 3] = load(values + row * pitch, column)
            for i in range(AT_ONCE):
                row = first + i * TURNS
                if row < rows:
                    for c in range(4):
                        delta = formulas.activate_backward(activation, d[i, c], h[i, c])
                        d[i, c] = kept(delta, left > c)
                        s[c] += d[i, c]
                    store(deltas + row * pitch, column, d[i, 0], d[i, 1], d[i, 2], d[i, 3])
        for c in range(4):
            parts[turn, 4 * quad + c] = s[c]
        cuda.syncthreads()
        if thread < COLUMNS:
            total = float32(0)
            for other in range(TURNS):
                total += parts[other, thread]
            target = sums_of_rows + cuda.blockIdx.y * sums_pitch
            ptx.st_global_f32(target + (first_column + thread) * 4, total)

    return slopes


@cache
def make_update_weights(precision, rule, rounds_biases):
    """The kernel that updates weights and biases by a gradient that lies in memory.

    As the end of `fastbp.cuda.wide.layers.make_gradient`; with `rounds_biases`, the new biases are
    rounded to `biases` too. Grid: (groups of COLUMNS columns, groups of BLOCK_ROWS rows).
    """
    _, _, store_one = make_store(precision)
    block_sum, update_bias = make_block_sum(THREADS), make_update_bias(rule)
    load_quad, change_quad = make_update_quads(precision, rule)

    def update_weights(
        state, gradient, gradient_pitch, weights, first_moment, second_moment, weights_pitch,
        rounded, rounded_pitch, n_rows, n_columns, sums_of_rows, sums_pitch, rows_a_sum, biases,
        penalties,
    ):  # fmt: skip
        if rows_of_step(state) == 0:
            return
        thread, first_column = cuda.threadIdx.x, cuda.blockIdx.x * COLUMNS
        column = first_column + 4 * (thread % QUADS)
        first_row = int64(cuda.blockIdx.y) * BLOCK_ROWS + thread // QUADS
        settings, left, squares = settings_of(state), n_columns - column, float32(0)
        g, quad = cuda.local.array((AT_ONCE, 4), float32), cuda.local.array(4, float32)
        w = cuda.local.array((AT_ONCE, 4), float32)
        m = cuda.local.array((AT_ONCE, 4), float32)
        v = cuda.local.array((AT_ONCE, 4), float32)
        for i in range(AT_ONCE):
            row = first_row + i * TURNS
            if row < n_rows:
                g[i, 0], g[i, 1], g[i, 2], g[i, 3] = ptx.ld_global_v4_f32(
                    gradient + row * gradient_pitch + column * 4
                )
                offset = row * weights_pitch + column * 4
                load_quad(w, m, v, i, weights, first_moment, second_moment, offset)
        for i in range(AT_ONCE):
            row = first_row + i * TURNS
            if row < n_rows:
                for c in range(4):
                    quad[c] = g[i, c]
                squares += change_quad(
                    w, m, v, i, quad, settings, weights, first_moment, second_moment,
                    row * weights_pitch + column * 4, rounded + row * rounded_pitch, column, left,
                )  # fmt: skip
        total = block_sum(float64(squares))
        if thread == 0:
            block = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x
            ptx.st_global_f64(penalties + 8 * block, total)
        column = first_column + thread
        if cuda.blockIdx.y == 0 and thread < COLUMNS and column < n_columns:
            bias = update_bias(
                state, weights, first_moment, second_moment, n_rows * weights_pitch + column * 4,
                sums_of_rows + column * 4, sums_pitch, rows_a_sum,
            )  # fmt: skip
            if rounds_biases:
                store_one(biases, column, bias)

    return update_weights
