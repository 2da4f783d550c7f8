"""Operands of products on tensor cores: their way from global memory to a warp's fragments.

In steps of 128 bytes of k along a row (64 bfloat16, 32 tf32), `cp.async` brings an operand's tile
to a stage in shared memory. There a tile along k has rows of 128 bytes, one across k has a row for
each k. Pieces of 16 bytes are exchanged within their row (XOR with the row's number), so that
neither writing nor reading meets a bank twice.

Fragments (see `fastbp.cuda.ptx`) come by `ldmatrix`; it transposes bfloat16 on the way where k runs
across. It cannot transpose tf32: there lanes read single numbers of B, and of A two neighbours,
which a fragment takes for its rows g and g + 8. So rows of C come in another order, which
`fastbp.cuda.wide.tensor_products.make_spread` undoes.
"""

from typing import NamedTuple

from numba import int64, uint32

from fastbp.cuda import ptx
from fastbp.cuda.formulas import device_function

STEP_BYTES = 128  # of k, along a row
PIECE = 16  # bytes that one cp.async copies
ITEM_SIZES = {"bfloat16": 2, "tf32": 4}
ALIGNMENT = 128  # of the stages in shared memory
PADDING = 256  # the largest tile's side: all matrices' columns, and weights' rows
PADDING_ROWS = 128  # a batch's rows


class Tile(NamedTuple):
    """How a block and its warps divide a tile of C.

    Parameters
    ----------
    m_fragments, n_fragments : int
        Of a warp: fragments of 16 rows, even, and of 8 columns, a multiple of four.
    m_warps, n_warps : int
        Of a block.
    stages : int
        Of the ring in shared memory, two to four.
    """

    m_fragments: int
    n_fragments: int
    m_warps: int
    n_warps: int
    stages: int

    @property
    def rows(self):
        """Rows of C."""
        return 16 * self.m_fragments * self.m_warps

    @property
    def columns(self):
        """Columns of C."""
        return 8 * self.n_fragments * self.n_warps

    @property
    def threads(self):
        """Threads of a block."""
        return 32 * self.m_warps * self.n_warps

    @property
    def pitch(self):
        """Numbers from one row of C to the next where `spread` puts it, banks apart."""
        return self.columns + 8

    @property
    def shared_memory(self):
        """Bytes of dynamic shared memory."""
        ring = self.stages * (self.rows + self.columns) * STEP_BYTES
        return max(ring, self.rows * self.pitch * 4) + ALIGNMENT


class Side(NamedTuple):
    """One operand's way from global memory to fragments, as device functions.

    Parameters
    ----------
    place : device function
        (thread, address, pitch, first) -> where in a stage and from where in memory a thread
        copies its first piece.
    copy : device function
        Copy a thread's pieces of one step.
    lane : device function
        (first, lane) -> where in a stage a lane reads from, for the warp's part from `first` on.
    read : device function
        Read a quarter's fragments.
    stride : int
        Bytes of a step in memory, or 0 for that many rows: `rows` of them.
    rows : int
    """

    place: object
    copy: object
    lane: object
    read: object
    stride: int
    rows: int


def _make_copy(tile, size, rows_a_pass):
    """Copy pieces to shared memory: every thread its own, as many rows apart as a pass has."""
    n_bytes = tile.threads * PIECE
    passes = size * STEP_BYTES // n_bytes

    @device_function
    def copy(shared, address, pitch):
        for i in range(passes):
            ptx.cp_async_16(shared + uint32(i * n_bytes), address + int64(i * rows_a_pass) * pitch)

    return copy


def _make_along(tile, size, read, lane):
    """An operand whose rows run along k."""

    @device_function
    def place(thread, address, pitch, first):
        row, piece = thread >> 3, thread & 7
        shared = row * STEP_BYTES + ((piece ^ (row & 7)) << 4)
        return shared, address + (first + row) * pitch + piece * PIECE

    return Side(place, _make_copy(tile, size, tile.threads // 8), lane, read, STEP_BYTES, 0)


def _make_across(tile, size, item_size, read, lane):
    """An operand whose rows run across k, each row another k."""
    pieces = size * item_size // PIECE
    is_tf32 = item_size == 4

    @device_function
    def place(thread, address, pitch, first):
        row, piece = thread // pieces, thread % pieces
        turn = (row & 3) << 1 if is_tf32 else row & 7
        shared = (row * pieces + (piece ^ turn)) << 4
        return shared, address + row * pitch + first * item_size + piece * PIECE

    copy = _make_copy(tile, size, tile.threads // pieces)
    return Side(place, copy, lane, read, 0, STEP_BYTES // item_size)


def a_along(tile, item_size):
    fragments = tile.m_fragments

    @device_function
    def lane_start(first, lane):
        return (first + (lane & 15)) * STEP_BYTES + (((lane >> 4) ^ (lane & 7)) << 4)

    @device_function
    def read(a, buffer, start, quarter):
        start = start ^ uint32(quarter * 32)
        for i in range(fragments):
            a[buffer, i, 0], a[buffer, i, 1], a[buffer, i, 2], a[buffer, i, 3] = ptx.ldmatrix_x4(
                start + uint32(i * 16 * STEP_BYTES)
            )

    return _make_along(tile, tile.rows, read, lane_start)


def b_along(tile, item_size):
    fragments = tile.n_fragments

    @device_function
    def lane_start(first, lane):
        row = first + (lane & 7) + ((lane >> 4) << 3)
        return row * STEP_BYTES + ((((lane >> 3) & 1) ^ (lane & 7)) << 4)

    @device_function
    def read(b, buffer, start, quarter):
        start = start ^ uint32(quarter * 32)
        for j in range(0, fragments, 2):
            b[buffer, j, 0], b[buffer, j, 1], b[buffer, j + 1, 0], b[buffer, j + 1, 1] = (
                ptx.ldmatrix_x4(start + uint32(j * 8 * STEP_BYTES))
            )

    return _make_along(tile, tile.columns, read, lane_start)


def a_across(tile, item_size):
    row_bytes, fragments = tile.rows * item_size, tile.m_fragments

    if item_size == 2:

        @device_function
        def lane_start(first, lane):
            k, piece = (lane & 7) + ((lane >> 4) << 3), (first >> 3) + ((lane >> 3) & 1)
            return k * row_bytes + ((piece ^ (lane & 7)) << 4)

        @device_function
        def read(a, buffer, start, quarter):
            for i in range(fragments):
                a[buffer, i, 0], a[buffer, i, 1], a[buffer, i, 2], a[buffer, i, 3] = (
                    ptx.ldmatrix_x4_trans(
                        (start ^ uint32(i * 2 * PIECE)) + uint32(quarter * 16 * row_bytes)
                    )
                )

    else:

        @device_function
        def lane_start(first, lane):
            k, row = lane & 3, first + 2 * (lane >> 2)
            return k * row_bytes + (((row >> 2) ^ (k << 1)) << 4) + ((row & 3) << 2)

        @device_function
        def read(a, buffer, start, quarter):
            for i in range(fragments):
                there = (start ^ uint32((i & 1) * 64)) + uint32((i >> 1) * 128)
                for half in range(2):  # k = t, then k = t + 4
                    a[buffer, i, 2 * half], a[buffer, i, 2 * half + 1] = ptx.ld_shared_v2_u32(
                        there + uint32((quarter * 8 + half * 4) * row_bytes)
                    )

    return _make_across(tile, tile.rows, item_size, read, lane_start)


def b_across(tile, item_size):
    row_bytes, fragments = tile.columns * item_size, tile.n_fragments

    if item_size == 2:

        @device_function
        def lane_start(first, lane):
            piece = (first >> 3) + (lane >> 4)
            return (lane & 15) * row_bytes + ((piece ^ (lane & 7)) << 4)

        @device_function
        def read(b, buffer, start, quarter):
            for j in range(0, fragments, 2):
                b[buffer, j, 0], b[buffer, j, 1], b[buffer, j + 1, 0], b[buffer, j + 1, 1] = (
                    ptx.ldmatrix_x4_trans(
                        (start ^ uint32(j * PIECE)) + uint32(quarter * 16 * row_bytes)
                    )
                )

    else:

        @device_function
        def lane_start(first, lane):
            k, column = lane & 3, first + (lane >> 2)
            return k * row_bytes + (((column >> 2) ^ (k << 1)) << 4) + ((column & 3) << 2)

        @device_function
        def read(b, buffer, start, quarter):
            for j in range(fragments):
                there = (start ^ uint32((j & 3) * 32)) + uint32((j >> 2) * 128)
                for half in range(2):  # k = t, then k = t + 4
                    b[buffer, j, half] = ptx.ld_shared_u32(
                        there + uint32((quarter * 8 + half * 4) * row_bytes)
                    )

    return _make_across(tile, tile.columns, item_size, read, lane_start)
