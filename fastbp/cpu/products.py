"""One tile of a product, left · right + bias, for each kind of left operand: dense, listed, sparse.

All of them add up in the same order, so that sums have the same bits.
"""

from typing import NamedTuple

import numpy as np

from fastbp.cpu.compilation import inlined, kernel
from fastbp.cpu.layout import LANES, N_OUTPUTS, WIDTH
from fastbp.cpu.register_tiles import (
    narrow_listed_tile,
    narrow_sum,
    narrow_tile,
    wide_listed_tile,
    wide_sum,
    wide_tile,
)
from fastbp.cpu.simd import TILE_ROWS
from fastbp.cpu.zeros import first_step


class Left(NamedTuple):
    """Left operand of a product: where a tile's element (row, depth) is."""

    array: np.ndarray
    start: int
    row_stride: int
    depth_stride: int
    panel_stride: int
    panel_length: int
    last_fetch: int  # how many steps are left when panels are not fetched ahead any more


@inlined
def multiply(out, start, layer, panel, left, right, right_start, depth, bias, bias_start):
    """Compute one tile of a panel of `layer`: left · right + bias; the padding is left alone."""
    width = layer[WIDTH]
    if layer[N_OUTPUTS] - panel * width > layer[LANES]:
        wide_tile(out, start, width, left, right, right_start, bias, bias_start, depth)
    else:
        narrow_tile(out, start, width, left, right, right_start, bias, bias_start, depth)


@kernel
def multiply_listed(out, start, layer, panel, left, right, right_start, steps, tile, bias,
                    bias_start):  # fmt: skip
    """Compute one tile of a panel of `layer`, left · right + bias, by the steps of `tile` only."""
    width = layer[WIDTH]
    if layer[N_OUTPUTS] - panel * width > layer[LANES]:
        wide_listed_tile(
            out, start, width, left, right, right_start, bias, bias_start, steps.numbers,
            first_step(steps, tile), steps.counts[tile],
        )  # fmt: skip
    else:
        narrow_listed_tile(
            out, start, width, left, right, right_start, bias, bias_start, steps.numbers,
            first_step(steps, tile), steps.counts[tile],
        )  # fmt: skip


@kernel
def multiply_lines(out, start, layer, panel, lines, line, right, right_start, bias, bias_start):
    """Compute one tile of a panel of `layer`: entries · right + bias, from a line on."""
    width = layer[WIDTH]
    is_wide = layer[N_OUTPUTS] - panel * width > layer[LANES]
    for i in range(TILE_ROWS):
        first, last = lines.starts[line + i], lines.starts[line + i + 1]
        if is_wide:
            wide_sum(
                out, start + i * width, lines.values, lines.indices, first, last, right,
                right_start, width, bias, bias_start,
            )  # fmt: skip
        else:
            narrow_sum(
                out, start + i * width, lines.values, lines.indices, first, last, right,
                right_start, width, bias, bias_start,
            )  # fmt: skip
