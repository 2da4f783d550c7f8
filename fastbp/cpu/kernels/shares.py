"""How the tiles of a layer are shared out to a team, by their cost."""

from typing import NamedTuple

from fastbp.cpu.kernels.compilation import kernel
from fastbp.cpu.kernels.simd import TILE_ROWS
from fastbp.cpu.kernels.spans import ZERO
from fastbp.cpu.records import LANES, N_OUTPUTS, N_PANELS, WIDTH

# Of a tile of two vectors, and of a tile of one, which waits longer for its loads.
WIDE_COST, NARROW_COST = 4, 3


@kernel
def share(count, rank, size):
    """One thread's part of `count` items, as (first, last + 1)."""
    return count * rank // size, count * (rank + 1) // size


class Tiles(NamedTuple):
    """The tiles of a layer's panels that one thread computes, counted panel by panel."""

    first: int
    last: int  # one past the last
    blocks: int  # tiles of a panel
    row: int  # where the first tile of a panel starts


@kernel
def first_tile_after(cost, n_wide):
    """The first tile that starts at or past this cost of the tiles before it."""
    if cost < n_wide * WIDE_COST:
        return (cost + WIDE_COST - 1) // WIDE_COST
    return n_wide + (cost - n_wide * WIDE_COST + NARROW_COST - 1) // NARROW_COST


@kernel
def all_rows(layer, blocks, rank, size):
    """A thread's share of all tiles of a layer, `blocks` in each panel, by their cost.

    A last panel may be only one vector wide.
    """
    is_narrow = layer[N_OUTPUTS] - (layer[N_PANELS] - 1) * layer[WIDTH] <= layer[LANES]
    n_wide = (layer[N_PANELS] - is_narrow) * blocks
    cost = n_wide * WIDE_COST + is_narrow * blocks * NARROW_COST
    start, stop = share(cost, rank, size)
    return Tiles(first_tile_after(start, n_wide), first_tile_after(stop, n_wide), blocks, ZERO)


@kernel
def some_rows(layer, first, last):
    """The tiles of all panels of a layer, for the rows from `first` to `last`."""
    blocks = (last - first + TILE_ROWS - 1) // TILE_ROWS
    return Tiles(ZERO, layer[N_PANELS] * blocks, blocks, first)


@kernel
def tile_at(tiles, item):
    """Panel and first row of tile number `item`."""
    panel = item // tiles.blocks
    return panel, tiles.row + (item - panel * tiles.blocks) * TILE_ROWS


@kernel
def end_of_rows(tiles):
    """One past the last row of each panel's tiles."""
    return tiles.row + tiles.blocks * TILE_ROWS


@kernel
def smaller(a, b):
    return a if a < b else b


@kernel
def larger(a, b):
    return a if a > b else b


@kernel
def round_to_tile(rows):
    """The number of rows rounded up to whole tiles, as batches are stored."""
    return (rows + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
