"""Wide nets' layers: the three products on tensor cores, each with what follows it fused in.

A block computes a tile of the product (`fastbp.cuda.wide.tensor_products`), spreads it over
shared memory, and goes over it row by row, every thread four columns: whole lines are read and
written. Grid of all three: (tiles along the columns, tiles along the rows).

Matrices are padded with zeros: those of a batch to whole tiles of rows, all to whole tiles of
columns. What is computed there is zero again, or made so.

Kernels take the address of the step's state and a layer's places: see `fastbp.cuda.wide.matrices`.
"""

from functools import cache

from numba import float32, float64, int64

from fastbp.cuda import formulas, ptx
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.batch_kernels import make_block_sum, make_store, rows_of_step
from fastbp.cuda.wide.operands import ITEM_SIZES, STEP_BYTES
from fastbp.cuda.wide.tensor_products import make_multiply, make_spread
from fastbp.cuda.wide.weight_updates import AT_ONCE as UPDATES_AT_ONCE
from fastbp.cuda.wide.weight_updates import (
    make_update_bias,
    make_update_quads,
    read_step,
    zero_unless,
)
from fastbp.schedules import TABLE_WIDTH

AT_ONCE = 8  # rows whose numbers are on their way from memory at a time; divides every tile's


def _parts(precision, tile, a_runs_along, b_runs_along):
    sides = precision, tile, a_runs_along, b_runs_along
    return make_multiply(*sides), make_spread(*sides), (tile.m_fragments, tile.n_fragments, 4)


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

    item_size = ITEM_SIZES[precision]

    def forward(state, layer):
        first_row, first_column = cuda.blockIdx.y * tile_rows, cuda.blockIdx.x * tile_columns
        rows = rows_of_step(state)
        if first_row >= rows:
            return
        sums = cuda.local.array(shape, float32)
        n_steps = (layer.n_inputs * item_size + STEP_BYTES - 1) // STEP_BYTES
        multiply(
            sums, layer.inputs, layer.inputs_pitch, first_row, layer.rounded, layer.rounded_pitch,
            first_column, n_steps,
        )  # fmt: skip
        tile_start, thread = spread(sums), cuda.threadIdx.x
        column = first_column + 4 * (thread % quads)
        bias = layer.weights + layer.n_inputs * layer.weights_pitch
        b0, b1, b2, b3 = ptx.ld_global_v4_f32(bias + 4 * column)
        for tile_row in range(thread // quads, tile_rows, rows_a_turn):
            row = first_row + tile_row
            z0, z1, z2, z3 = ptx.ld_shared_v4_f32(
                tile_start + (tile_row * pitch + column - first_column) * 4
            )
            left = layer.n_outputs - column if row < rows else int64(0)
            h0 = zero_unless(left > 0, formulas.activate(activation, z0 + b0))
            h1 = zero_unless(left > 1, formulas.activate(activation, z1 + b1))
            h2 = zero_unless(left > 2, formulas.activate(activation, z2 + b2))
            h3 = zero_unless(left > 3, formulas.activate(activation, z3 + b3))
            target = layer.outputs + row * layer.outputs_pitch
            if rounds:
                store(target, column, h0, h1, h2, h3)
            else:
                ptx.st_global_v4_f32(target + column * 4, h0, h1, h2, h3)

    return forward


@cache
def make_backward(precision, tile, activation):
    """The kernel (Δ Wᵀ) ⊙ f′(H), and the result's sums over each tile's rows.

    `activation` is that of H, whose values are read; its rows are as long as the result's.
    """
    multiply, spread, shape = _parts(precision, tile, True, True)
    store, load, _ = make_store(precision)
    tile_rows, tile_columns, pitch = tile.rows, tile.columns, tile.pitch
    quads = tile_columns // 4
    rows_a_turn = tile.threads // quads

    item_size = ITEM_SIZES[precision]

    def backward(state, layer):
        first_row, first_column = cuda.blockIdx.y * tile_rows, cuda.blockIdx.x * tile_columns
        if first_row >= rows_of_step(state):
            return
        sums = cuda.local.array(shape, float32)
        n_steps = (layer.n_outputs * item_size + STEP_BYTES - 1) // STEP_BYTES
        multiply(
            sums, layer.deltas, layer.deltas_pitch, first_row, layer.rounded, layer.rounded_pitch,
            first_column, n_steps,
        )  # fmt: skip
        tile_start, thread = spread(sums), cuda.threadIdx.x
        quad, turn = thread % quads, thread // quads
        column = first_column + 4 * quad
        s0 = s1 = s2 = s3 = float32(0)
        h = cuda.local.array((AT_ONCE, 4), float32)
        for first in range(turn, tile_rows, rows_a_turn * AT_ONCE):
            for i in range(AT_ONCE):
                offset = (first_row + first + i * rows_a_turn) * layer.inputs_pitch
                h[i, 0], h[i, 1], h[i, 2], h[i, 3] = load(layer.inputs + offset, column)
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
                target = layer.input_deltas + (first_row + tile_row) * layer.inputs_pitch
                store(target, column, d0, d1, d2, d3)
        cuda.syncthreads()  # the tile has been read: its place serves for the sums
        ptx.st_shared_v4_f32(tile_start + (turn * pitch + 4 * quad) * 4, s0, s1, s2, s3)
        cuda.syncthreads()
        if turn == 0:
            for other in range(1, rows_a_turn):
                t0, t1, t2, t3 = ptx.ld_shared_v4_f32(tile_start + (other * pitch + 4 * quad) * 4)
                s0, s1, s2, s3 = s0 + t0, s1 + t1, s2 + t2, s3 + t3
            target = layer.input_sums + cuda.blockIdx.y * layer.input_sums_pitch + column * 4
            ptx.st_global_v4_f32(target, s0, s1, s2, s3)

    return backward


@cache
def make_gradient(precision, tile, rule):
    """The kernel that computes Hᵀ Δ and updates the weights and biases with it.

    The gradient itself never exists in memory. A matrix of weights is followed by a row of biases;
    the moments lie likewise. The bias's gradient is added up from rows of sums of Δ, one for each
    `rows_a_sum` rows of the batch. Every block writes the sum of the squares of its
    weights, as they were, to `penalties`.
    """
    multiply, spread, shape = _parts(precision, tile, False, False)
    block_sum, update_bias = make_block_sum(tile.threads), make_update_bias(rule)
    load_quad, change_quad = make_update_quads(precision, rule)
    tile_rows, tile_columns, pitch = tile.rows, tile.columns, tile.pitch
    quads, step_rows = tile_columns // 4, STEP_BYTES // ITEM_SIZES[precision]
    rows_a_turn = tile.threads // quads

    def gradient(state, layer):
        first_row, first_column = cuda.blockIdx.y * tile_rows, cuda.blockIdx.x * tile_columns
        rows = rows_of_step(state)
        if rows == 0:
            return
        sums = cuda.local.array(shape, float32)
        n_steps = (rows + step_rows - 1) // step_rows
        multiply(
            sums, layer.inputs, layer.inputs_pitch, first_row, layer.deltas, layer.deltas_pitch,
            first_column, n_steps,
        )  # fmt: skip
        tile_start, thread = spread(sums), cuda.threadIdx.x
        quad = thread % quads
        column = first_column + 4 * quad
        squares, step = float32(0), cuda.local.array(TABLE_WIDTH, float32)
        read_step(state, step)
        g = cuda.local.array(4, float32)
        w = cuda.local.array((UPDATES_AT_ONCE, 4), float32)
        m = cuda.local.array((UPDATES_AT_ONCE, 4), float32)
        v = cuda.local.array((UPDATES_AT_ONCE, 4), float32)
        for first in range(thread // quads, tile_rows, rows_a_turn * UPDATES_AT_ONCE):
            for i in range(UPDATES_AT_ONCE):
                row = first_row + first + i * rows_a_turn
                if row < layer.n_inputs:
                    load_quad(w, m, v, i, layer, row, column)
            for i in range(UPDATES_AT_ONCE):
                tile_row = first + i * rows_a_turn
                row = first_row + tile_row
                if row < layer.n_inputs:
                    g[0], g[1], g[2], g[3] = ptx.ld_shared_v4_f32(
                        tile_start + (tile_row * pitch + 4 * quad) * 4
                    )
                    squares += change_quad(w, m, v, i, g, step, layer, row, column)
        total = block_sum(float64(squares))
        if thread == 0:
            block = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x
            ptx.st_global_f64(layer.penalties + 8 * block, total)
        column = first_column + thread
        if first_row == 0 and thread < tile_columns and column < layer.n_outputs:
            update_bias(state, layer, column)

    return gradient
