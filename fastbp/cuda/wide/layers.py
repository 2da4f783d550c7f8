"""Wide nets' layers: the three products on tensor cores, each with what follows it fused in.

A block computes a tile of the product (`fastbp.cuda.wide.products`), spreads it over shared
memory, and goes over it row by row, every thread four columns: so whole lines are read and written.
Grid of all three: (tiles along the columns, tiles along the rows).

Matrices are padded with zeros: those of a batch to whole tiles of rows, all to whole tiles of
columns. What is computed there is zero again, or made so.
"""

from functools import cache

from numba import float32, float64, int64

from fastbp.cuda import formulas, ptx
from fastbp.cuda.task import ADAM
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.batches import (
    BETA_1,
    BETA_2,
    DECAY,
    EPSILON,
    MOMENTUM,
    RATE,
    make_block_sum,
    make_store,
    real_of_state,
    rows_of_step,
    sum_apart,
)
from fastbp.cuda.wide.products import ITEM_SIZES, STEP_BYTES, inlined, make_multiply, make_spread

# Rows whose numbers are on their way from memory at a time. They divide every tile's.
AT_ONCE, UPDATES_AT_ONCE = 8, 4


def _parts(precision, tile, a_runs_along, b_runs_along):
    sides = precision, tile, a_runs_along, b_runs_along
    return make_multiply(*sides), make_spread(*sides), (tile.m_fragments, tile.n_fragments, 4)


@inlined
def _kept(value, keep):
    return value if keep else float32(0)


@cache
def make_forward(precision, tile, activation, rounds=True):
    """The kernel f(H W + b).

    Parameters
    ----------
    precision : {"bfloat16", "tf32"}
    tile : Tile
    activation : int
    rounds : bool, default=True
        Whether the outputs are rounded, as the next product's operand; else they are float32.
    """
    multiply, spread, shape = _parts(precision, tile, True, False)
    store, _, _ = make_store(precision)
    tile_rows, tile_columns, pitch = tile.rows, tile.columns, tile.pitch
    quads = tile_columns // 4
    rows_a_turn = tile.threads // quads

    def forward(
        state, inputs, inputs_pitch, weights, weights_pitch, n_steps, bias, outputs, outputs_pitch,
        n_columns,
    ):  # fmt: skip
        first_row, first_column = cuda.blockIdx.y * tile_rows, cuda.blockIdx.x * tile_columns
        rows = rows_of_step(state)
        if first_row >= rows:
            return
        sums = cuda.local.array(shape, float32)
        multiply(
            sums, inputs, inputs_pitch, first_row, weights, weights_pitch, first_column, n_steps
        )
        tile_start, thread = spread(sums), cuda.threadIdx.x
        column = first_column + 4 * (thread % quads)
        b0, b1, b2, b3 = ptx.ld_global_v4_f32(bias + 4 * column)
        for tile_row in range(thread // quads, tile_rows, rows_a_turn):
            row = first_row + tile_row
            z0, z1, z2, z3 = ptx.ld_shared_v4_f32(
                tile_start + (tile_row * pitch + column - first_column) * 4
            )
            left = n_columns - column if row < rows else int64(0)
            h0 = _kept(formulas.activate(activation, z0 + b0), left > 0)
            h1 = _kept(formulas.activate(activation, z1 + b1), left > 1)
            h2 = _kept(formulas.activate(activation, z2 + b2), left > 2)
            h3 = _kept(formulas.activate(activation, z3 + b3), left > 3)
            target = outputs + row * outputs_pitch
            if rounds:
                store(target, column, h0, h1, h2, h3)
            else:
                ptx.st_global_v4_f32(target + column * 4, h0, h1, h2, h3)

    return forward


@cache
def make_backward(precision, tile, activation):
    """The kernel (Δ Wᵀ) ⊙ f′(H), and the result's sums over each tile's rows.

    `activation` is that of H, whose values are read; they lie as far apart as the result.
    """
    multiply, spread, shape = _parts(precision, tile, True, True)
    store, load, _ = make_store(precision)
    tile_rows, tile_columns, pitch = tile.rows, tile.columns, tile.pitch
    quads = tile_columns // 4
    rows_a_turn = tile.threads // quads

    def backward(
        state, deltas, deltas_pitch, weights, weights_pitch, n_steps, values, outputs,
        outputs_pitch, sums_of_rows, sums_pitch,
    ):  # fmt: skip
        first_row, first_column = cuda.blockIdx.y * tile_rows, cuda.blockIdx.x * tile_columns
        if first_row >= rows_of_step(state):
            return
        sums = cuda.local.array(shape, float32)
        multiply(
            sums, deltas, deltas_pitch, first_row, weights, weights_pitch, first_column, n_steps
        )
        tile_start, thread = spread(sums), cuda.threadIdx.x
        quad, turn = thread % quads, thread // quads
        column = first_column + 4 * quad
        s0 = s1 = s2 = s3 = float32(0)
        h = cuda.local.array((AT_ONCE, 4), float32)
        for first in range(turn, tile_rows, rows_a_turn * AT_ONCE):
            for i in range(AT_ONCE):
                offset = (first_row + first + i * rows_a_turn) * outputs_pitch
                h[i, 0], h[i, 1], h[i, 2], h[i, 3] = load(values + offset, column)
            for i in range(AT_ONCE):
                tile_row = first + i * rows_a_turn
                d0, d1, d2, d3 = ptx.ld_shared_v4_f32(
                    tile_start + (tile_row * pitch + 4 * quad) * 4
                )
                d0 = formulas.activate_backward(activation, d0, h[i, 0])
                d1 = formulas.activate_backward(activation, d1, h[i, 1])
                d2 = formulas.activate_backward(activation, d2, h[i, 2])
                d3 = formulas.activate_backward(activation, d3, h[i, 3])
                s0, s1, s2, s3 = s0 + d0, s1 + d1, s2 + d2, s3 + d3
                target = outputs + (first_row + tile_row) * outputs_pitch
                store(target, column, d0, d1, d2, d3)
        cuda.syncthreads()  # the tile has been read: its place serves for the sums
        ptx.st_shared_v4_f32(tile_start + (turn * pitch + 4 * quad) * 4, s0, s1, s2, s3)
        cuda.syncthreads()
        if turn == 0:
            for other in range(1, rows_a_turn):
                t0, t1, t2, t3 = ptx.ld_shared_v4_f32(tile_start + (other * pitch + 4 * quad) * 4)
                s0, s1, s2, s3 = s0 + t0, s1 + t1, s2 + t2, s3 + t3
            target = sums_of_rows + cuda.blockIdx.y * sums_pitch + column * 4
            ptx.st_global_v4_f32(target, s0, s1, s2, s3)

    return backward


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
        weight, first, second = formulas.update(
            rule, ptx.ld_global_f32(weights + offset), gradient,
            ptx.ld_global_f32(first_moment + offset), second,
            real_of_state(state, RATE), real_of_state(state, MOMENTUM),
            real_of_state(state, BETA_1), real_of_state(state, BETA_2),
            real_of_state(state, EPSILON),
        )  # fmt: skip
        ptx.st_global_f32(weights + offset, weight)
        ptx.st_global_f32(first_moment + offset, first)
        if has_second:
            ptx.st_global_f32(second_moment + offset, second)
        return weight

    return update


@cache
def make_gradient(precision, tile, rule):
    """The kernel that computes Hᵀ Δ and updates the weights and biases with it.

    The gradient itself never exists in memory. A matrix of weights is followed by a row of biases;
    the moments lie likewise. The bias's gradient is added up from `n_sums` rows of sums of Δ, one
    for each `rows_a_sum` rows of the batch. Every block writes the sum of the squares of its
    weights, as they were, to `penalties`.
    """
    multiply, spread, shape = _parts(precision, tile, False, False)
    store, _, _ = make_store(precision)
    block_sum, update_one = make_block_sum(tile.threads), make_update(rule)
    tile_rows, tile_columns, pitch = tile.rows, tile.columns, tile.pitch
    quads, step_rows = tile_columns // 4, STEP_BYTES // ITEM_SIZES[precision]
    rows_a_turn = tile.threads // quads
    has_second = rule == ADAM

    def gradient(
        state, inputs, inputs_pitch, deltas, deltas_pitch, weights, first_moment, second_moment,
        weights_pitch, rounded, rounded_pitch, n_rows, n_columns, sums_of_rows, sums_pitch,
        rows_a_sum, penalties,
    ):  # fmt: skip
        first_row, first_column = cuda.blockIdx.y * tile_rows, cuda.blockIdx.x * tile_columns
        rows = rows_of_step(state)
        if rows == 0:
            return
        sums = cuda.local.array(shape, float32)
        n_steps = (rows + step_rows - 1) // step_rows
        multiply(sums, inputs, inputs_pitch, first_row, deltas, deltas_pitch, first_column, n_steps)
        tile_start, thread = spread(sums), cuda.threadIdx.x
        quad = thread % quads
        column = first_column + 4 * quad
        rate, momentum = real_of_state(state, RATE), real_of_state(state, MOMENTUM)
        beta_1, beta_2 = real_of_state(state, BETA_1), real_of_state(state, BETA_2)
        epsilon, decay = real_of_state(state, EPSILON), real_of_state(state, DECAY)
        squares, g = float32(0), cuda.local.array(4, float32)
        w = cuda.local.array((UPDATES_AT_ONCE, 4), float32)
        m = cuda.local.array((UPDATES_AT_ONCE, 4), float32)
        v = cuda.local.array((UPDATES_AT_ONCE, 4), float32)
        left = n_columns - column
        for first in range(thread // quads, tile_rows, rows_a_turn * UPDATES_AT_ONCE):
            for i in range(UPDATES_AT_ONCE):
                row = first_row + first + i * rows_a_turn
                if row < n_rows:
                    offset = row * weights_pitch + column * 4
                    w[i, 0], w[i, 1], w[i, 2], w[i, 3] = ptx.ld_global_v4_f32(weights + offset)
                    m[i, 0], m[i, 1], m[i, 2], m[i, 3] = ptx.ld_global_v4_f32(first_moment + offset)
                    if has_second:
                        v[i, 0], v[i, 1], v[i, 2], v[i, 3] = ptx.ld_global_v4_f32(
                            second_moment + offset
                        )
            for i in range(UPDATES_AT_ONCE):
                tile_row = first + i * rows_a_turn
                row = first_row + tile_row
                if row < n_rows:
                    offset = row * weights_pitch + column * 4
                    g[0], g[1], g[2], g[3] = ptx.ld_shared_v4_f32(
                        tile_start + (tile_row * pitch + 4 * quad) * 4
                    )
                    for c in range(4):
                        squares += w[i, c] * w[i, c]
                        w[i, c], m[i, c], v[i, c] = formulas.update(
                            rule, w[i, c], g[c] + decay * w[i, c], m[i, c], v[i, c], rate,
                            momentum, beta_1, beta_2, epsilon,
                        )  # fmt: skip
                    ptx.st_global_v4_f32(weights + offset, w[i, 0], w[i, 1], w[i, 2], w[i, 3])
                    ptx.st_global_v4_f32(first_moment + offset, m[i, 0], m[i, 1], m[i, 2], m[i, 3])
                    if has_second:
                        ptx.st_global_v4_f32(
                            second_moment + offset, v[i, 0], v[i, 1], v[i, 2], v[i, 3]
                        )
                    for c in range(4):  # an ε that underflows would make the padding NaN
                        w[i, c] = _kept(w[i, c], left > c)
                    target = rounded + row * rounded_pitch
                    store(target, column, w[i, 0], w[i, 1], w[i, 2], w[i, 3])
        total = block_sum(float64(squares))
        if thread == 0:
            block = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x
            ptx.st_global_f64(penalties + 8 * block, total)
        column = first_column + thread
        if first_row == 0 and thread < tile_columns and column < n_columns:
            n_sums = (rows + rows_a_sum - 1) // rows_a_sum
            gradient_of_bias = sum_apart(sums_of_rows + column * 4, sums_pitch, n_sums)
            offset = n_rows * weights_pitch + column * 4
            update_one(state, weights, first_moment, second_moment, offset, gradient_of_bias)

    return gradient
