"""Zeros in dense rows: tiles of the first layer make no step at which their left operand is zero.

Images have empty margins, one-hot columns are nearly empty: a third of MNIST's 19 % that are not
zero would be worth it. A tile multiplies several rows at once, or a gradient's several columns, so
it leaves a step out if all of these are zero there. What is left out would have added nothing, so
results are the same to the bit, unless weights are infinite: zero times those is NaN.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse

from fastbp.cpu.compilation import kernel, phase
from fastbp.cpu.layout import LANES, N_OUTPUTS, WIDTH, aligned_zeros, round_up
from fastbp.cpu.simd import (
    TILE_ROWS,
    append_positions,
    find_occupied,
    narrow_listed_tile,
    wide_listed_tile,
)

# To look at a number takes as long as so many multiply-adds.
LOOK_WORK = 16
FEWEST_FEATURES, MOST_SAMPLES = 32, 64


class Steps(NamedTuple):
    """The steps of all tiles of one batch: first those of its rows, then those of its columns."""

    counts: np.ndarray  # of every tile, int64; none if all steps are made
    numbers: np.ndarray  # int32: columns for a tile of rows, rows for a tile of columns
    n_rows: int  # in whole tiles, like the next
    n_columns: int


def make_steps(rows, n_features, learns=True):
    """Make room for the steps of a batch of up to so many rows."""
    rows, columns = round_up(rows, TILE_ROWS), round_up(n_features, TILE_ROWS)
    tiles = rows // TILE_ROWS + (columns // TILE_ROWS if learns else 0)
    numbers = rows // TILE_ROWS * columns + (columns // TILE_ROWS * rows if learns else 0)
    return Steps(aligned_zeros(tiles, np.int64), aligned_zeros(numbers, np.int32), rows, columns)


def no_steps():
    """What says that no step is left out."""
    return Steps(np.zeros(0, np.int64), np.zeros(0, np.int32), 0, 0)


def is_worth_a_look(X, order, units, passes):
    """Whether to leave steps out saves more than finding them costs, judged by a few of the rows.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    order : ndarray of shape (n_rows,)
        The rows to be worked on.
    units : float
        Of the first layer, for each thread.
    passes : int
        Products with the rows: one for outputs, another for the gradient.
    """
    n_rows = min(MOST_SAMPLES, len(order) // 16) // TILE_ROWS * TILE_ROWS
    if n_rows == 0 or X.shape[1] < FEWEST_FEATURES or passes * units < LOOK_WORK:
        return False
    samples = X[order[np.linspace(0, len(order) - 1, n_rows).astype(np.int64)]]
    samples = samples.toarray() if issparse(samples) else samples
    occupied = (samples.reshape(-1, TILE_ROWS, X.shape[1]) != 0).any(axis=1)
    return bool((1 - occupied.mean()) * passes * units > LOOK_WORK)


@kernel
def column_tile(steps, column):
    """The number of the tile that starts at a column."""
    return (steps.n_rows + column) // TILE_ROWS


@kernel
def first_step(steps, tile):
    """Where the steps of a tile start."""
    row_tiles = steps.n_rows // TILE_ROWS
    if tile < row_tiles:
        return tile * steps.n_columns
    return row_tiles * steps.n_columns + (tile - row_tiles) * steps.n_rows


@phase
def find_steps(steps, inputs, stride, tile, rows):
    """Find the steps of one tile of a batch's rows, and what it adds to those of the columns.

    The tiles come in order, `rows` are the batch's; behind the last are an earlier batch's.
    """
    row, all_bits = tile * TILE_ROWS, 2**TILE_ROWS - 1
    valid = all_bits if rows - row >= TILE_ROWS else (1 << (rows - row)) - 1
    if tile == 0:
        for index in range(column_tile(steps, 0), steps.counts.size):
            steps.counts[index] = 0
    end = first_step(steps, tile)
    for column in range(0, steps.n_columns, TILE_ROWS):
        occupied = find_occupied(inputs, row * stride + column, stride)
        if occupied == 0:
            continue
        end = append_positions(steps.numbers, end, column, occupied & all_bits)
        index = column_tile(steps, column)
        if index < steps.counts.size:
            first, bits = first_step(steps, index), occupied >> TILE_ROWS & valid
            stop = append_positions(steps.numbers, first + steps.counts[index], row, bits)
            steps.counts[index] = stop - first
    steps.counts[tile] = end - first_step(steps, tile)


@kernel
def multiply_listed(out, start, layer, panel, left, right, right_start, steps, tile, bias,
                    bias_start):  # fmt: skip
    """Compute one tile of a panel of `layer`, left · right + bias, by the steps of `tile` only."""
    width = layer[WIDTH]
    if layer[N_OUTPUTS] - panel * width > layer[LANES]:
        wide_listed_tile(
            out, start, width, left.array, left.start, left.row_stride, left.depth_stride, right,
            right_start, width, steps.numbers, first_step(steps, tile), steps.counts[tile], bias,
            bias_start,
        )  # fmt: skip
    else:
        narrow_listed_tile(
            out, start, width, left.array, left.start, left.row_stride, left.depth_stride, right,
            right_start, width, steps.numbers, first_step(steps, tile), steps.counts[tile], bias,
            bias_start,
        )  # fmt: skip
