"""One tile of a product, left · right + bias, for each kind of left operand: dense, listed, sparse.

All of them sum in the same order, so that results have the same bits.
"""

from typing import NamedTuple

import numpy as np

from fastbp.cpu.kernels.compilation import inlined, kernel
from fastbp.cpu.kernels.register_tiles import (
    narrow_listed_tile,
    narrow_sum,
    narrow_tile,
    wide_listed_tile,
    wide_sum,
    wide_tile,
)
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.vectors import spread, store_vector
from fastbp.cpu.records import LANES, N_OUTPUTS, WIDTH


class Left(NamedTuple):
    """Left operand of a product: where element (row, depth) of a tile is stored."""

    array: np.ndarray
    start: int
    row_stride: int
    depth_stride: int
    panel_stride: int
    panel_length: int
    last_fetch: int  # with at most this many steps left, no more panels are prefetched


@inlined
def multiply(out, start, layer, panel, left, right, right_start, depth, bias, bias_start):
    """Compute one tile of a panel of `layer`, left · right + bias; padding is not written."""
    width = layer[WIDTH]
    if layer[N_OUTPUTS] - panel * width > layer[LANES]:
        wide_tile(out, start, width, left, right, right_start, bias, bias_start, depth)
    else:
        narrow_tile(out, start, width, left, right, right_start, bias, bias_start, depth)


@kernel
def multiply_listed(out, start, layer, panel, left, right, right_start, numbers, first_step,
                    n_steps, bias, bias_start):  # fmt: skip
    """Compute one tile of a panel of `layer`, left · right + bias, by the listed steps only."""
    width = layer[WIDTH]
    if layer[N_OUTPUTS] - panel * width > layer[LANES]:
        wide_listed_tile(
            out, start, width, left, right, right_start, bias, bias_start, numbers, first_step,
            n_steps,
        )  # fmt: skip
    else:
        narrow_listed_tile(
            out, start, width, left, right, right_start, bias, bias_start, numbers, first_step,
            n_steps,
        )  # fmt: skip


@inlined
def multiply_line(out, start, is_wide, lines, first, last, right, right_start, width, bias,
                  bias_start):  # fmt: skip
    """Compute one row of a tile, entries from `first` to `last` · right + bias."""
    if is_wide:
        wide_sum(
            out, start, lines.values, lines.indices, first, last, right, right_start, width, bias,
            bias_start,
        )  # fmt: skip
    else:
        narrow_sum(
            out, start, lines.values, lines.indices, first, last, right, right_start, width, bias,
            bias_start,
        )  # fmt: skip


@kernel
def multiply_lines(out, start, layer, panel, lines, line, right, right_start, bias, bias_start):
    """Compute one tile of a panel of `layer`, entries · right + bias, from `line` on."""
    width = layer[WIDTH]
    is_wide = layer[N_OUTPUTS] - panel * width > layer[LANES]
    for i in range(TILE_ROWS):
        first, last = lines.starts[line + i], lines.starts[line + i + 1]
        multiply_line(
            out, start + i * width, is_wide, lines, first, last, right, right_start, width, bias,
            bias_start,
        )  # fmt: skip


@kernel
def clear_padding(tile, layer, panel):
    """Zero the padding of a tile whose panel is one vector wide: the product does not write it."""
    width, lanes = layer[WIDTH], layer[LANES]
    if layer[N_OUTPUTS] - panel * width <= lanes < width:
        for row in range(TILE_ROWS):
            store_vector(tile, row * width + lanes, spread(tile, 0))
