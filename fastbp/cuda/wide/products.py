"""Products of matrices on tensor cores: a block's tile of C = A B, summed in registers.

Operands are stored row by row, padded with zeros to whole tiles, in bfloat16 or as float32 rounded
to tf32. What the tiles need to know of them is whether the summed dimension k runs *along* their
rows or *across* them:

==========================  =======  =======
forward, H W                A along  B across
backward, Δ Wᵀ              A along  B along
gradient, Hᵀ Δ              A across B across
==========================  =======  =======

In steps of 128 bytes of k along a row (64 bfloat16, 32 tf32), `cp.async` brings both operands'
tiles to a ring of stages in shared memory, several steps ahead. There a tile along k has rows of
128 bytes, one across k has a row for each k. Pieces of 16 bytes are exchanged within their row (XOR
with the row's number), so that neither writing nor reading meets a bank twice.

Every step is four quarters, each a k of `mma.sync`. A quarter's fragments are read while the one
before is multiplied. Fragments (see `fastbp.cuda.ptx`) come by `ldmatrix`; it transposes bfloat16
on the way where k runs across. It cannot transpose tf32: there lanes read single numbers of B, and
of A two neighbours, which a fragment takes for its rows g and g + 8. So rows of C come in another
order, which `spread` undoes.
"""

from functools import cache
from typing import NamedTuple

from numba import float32, int64, types, uint32

from fastbp.cuda import ptx
from fastbp.cuda.toolkit import cuda, is_simulated

STEP_BYTES = 128  # of k, along a row
PIECE = 16  # bytes that one cp.async copies
ITEM_SIZES = {"bfloat16": 2, "tf32": 4, "float32": 4}  # the last by cuBLASLt only
ALIGNMENT = 128  # of the stages in shared memory
PADDING = 256  # the largest tile's side: all matrices' columns, and weights' rows
PADDING_ROWS = 128  # a batch's rows

_WAITS = {2: ptx.cp_async_wait_0, 3: ptx.cp_async_wait_1, 4: ptx.cp_async_wait_2}


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


def inlined(function):
    """Compile a device function that never becomes a call: its arrays are registers."""
    if is_simulated():  # it has no such option
        return cuda.jit(function, device=True)
    return cuda.jit(function, device=True, forceinline=True)


def _make_copy(tile, size, rows_a_pass):
    """Copy pieces to shared memory: every thread its own, as many rows apart as a pass has."""
    n_bytes = tile.threads * PIECE
    passes = size * STEP_BYTES // n_bytes

    @inlined
    def copy(shared, address, pitch):
        for i in range(passes):
            ptx.cp_async_16(shared + uint32(i * n_bytes), address + int64(i * rows_a_pass) * pitch)

    return copy


def _make_along(tile, size, read, lane):
    """An operand whose rows run along k."""

    @inlined
    def place(thread, address, pitch, first):
        row, piece = thread >> 3, thread & 7
        shared = row * STEP_BYTES + ((piece ^ (row & 7)) << 4)
        return shared, address + (first + row) * pitch + piece * PIECE

    return Side(place, _make_copy(tile, size, tile.threads // 8), lane, read, STEP_BYTES, 0)


def _make_across(tile, size, item_size, read, lane):
    """An operand whose rows run across k, each row another k."""
    pieces = size * item_size // PIECE
    is_tf32 = item_size == 4

    @inlined
    def place(thread, address, pitch, first):
        row, piece = thread // pieces, thread % pieces
        turn = (row & 3) << 1 if is_tf32 else row & 7
        shared = (row * pieces + (piece ^ turn)) << 4
        return shared, address + row * pitch + first * item_size + piece * PIECE

    copy = _make_copy(tile, size, tile.threads // pieces)
    return Side(place, copy, lane, read, 0, STEP_BYTES // item_size)


def _a_along(tile, item_size):
    fragments = tile.m_fragments

    @inlined
    def lane_start(first, lane):
        return (first + (lane & 15)) * STEP_BYTES + (((lane >> 4) ^ (lane & 7)) << 4)

    @inlined
    def read(a, buffer, start, quarter):
        start = start ^ uint32(quarter * 32)
        for i in range(fragments):
            a[buffer, i, 0], a[buffer, i, 1], a[buffer, i, 2], a[buffer, i, 3] = ptx.ldmatrix_x4(
                start + uint32(i * 16 * STEP_BYTES)
            )

    return _make_along(tile, tile.rows, read, lane_start)


def _b_along(tile, item_size):
    fragments = tile.n_fragments

    @inlined
    def lane_start(first, lane):
        row = first + (lane & 7) + ((lane >> 4) << 3)
        return row * STEP_BYTES + ((((lane >> 3) & 1) ^ (lane & 7)) << 4)

    @inlined
    def read(b, buffer, start, quarter):
        start = start ^ uint32(quarter * 32)
        for j in range(0, fragments, 2):
            b[buffer, j, 0], b[buffer, j, 1], b[buffer, j + 1, 0], b[buffer, j + 1, 1] = (
                ptx.ldmatrix_x4(start + uint32(j * 8 * STEP_BYTES))
            )

    return _make_along(tile, tile.columns, read, lane_start)


def _a_across(tile, item_size):
    row_bytes, fragments = tile.rows * item_size, tile.m_fragments

    if item_size == 2:

        @inlined
        def lane_start(first, lane):
            k, piece = (lane & 7) + ((lane >> 4) << 3), (first >> 3) + ((lane >> 3) & 1)
            return k * row_bytes + ((piece ^ (lane & 7)) << 4)

        @inlined
        def read(a, buffer, start, quarter):
            for i in range(fragments):
                a[buffer, i, 0], a[buffer, i, 1], a[buffer, i, 2], a[buffer, i, 3] = (
                    ptx.ldmatrix_x4_trans(
                        (start ^ uint32(i * 2 * PIECE)) + uint32(quarter * 16 * row_bytes)
                    )
                )

    else:

        @inlined
        def lane_start(first, lane):
            k, row = lane & 3, first + 2 * (lane >> 2)
            return k * row_bytes + (((row >> 2) ^ (k << 1)) << 4) + ((row & 3) << 2)

        @inlined
        def read(a, buffer, start, quarter):
            for i in range(fragments):
                there = (start ^ uint32((i & 1) * 64)) + uint32((i >> 1) * 128)
                for half in range(2):  # k = t, then k = t + 4
                    a[buffer, i, 2 * half], a[buffer, i, 2 * half + 1] = ptx.ld_shared_v2_u32(
                        there + uint32((quarter * 8 + half * 4) * row_bytes)
                    )

    return _make_across(tile, tile.rows, item_size, read, lane_start)


def _b_across(tile, item_size):
    row_bytes, fragments = tile.columns * item_size, tile.n_fragments

    if item_size == 2:

        @inlined
        def lane_start(first, lane):
            piece = (first >> 3) + (lane >> 4)
            return (lane & 15) * row_bytes + ((piece ^ (lane & 7)) << 4)

        @inlined
        def read(b, buffer, start, quarter):
            for j in range(0, fragments, 2):
                b[buffer, j, 0], b[buffer, j, 1], b[buffer, j + 1, 0], b[buffer, j + 1, 1] = (
                    ptx.ldmatrix_x4_trans(
                        (start ^ uint32(j * PIECE)) + uint32(quarter * 16 * row_bytes)
                    )
                )

    else:

        @inlined
        def lane_start(first, lane):
            k, column = lane & 3, first + (lane >> 2)
            return k * row_bytes + (((column >> 2) ^ (k << 1)) << 4) + ((column & 3) << 2)

        @inlined
        def read(b, buffer, start, quarter):
            for j in range(fragments):
                there = (start ^ uint32((j & 3) * 32)) + uint32((j >> 2) * 128)
                for half in range(2):  # k = t, then k = t + 4
                    b[buffer, j, half] = ptx.ld_shared_u32(
                        there + uint32((quarter * 8 + half * 4) * row_bytes)
                    )

    return _make_across(tile, tile.columns, item_size, read, lane_start)


@inlined
def stages_start():
    """Where the stages begin in this block's dynamic shared memory."""
    start = ptx.shared_address(cuda.shared.array(0, types.uint8), 0)
    return (start + uint32(ALIGNMENT - 1)) & uint32(0xFFFFFFFF - (ALIGNMENT - 1))


@cache
def make_multiply(precision, tile, a_runs_along, b_runs_along):
    """The device function that sums a tile of C.

    Parameters
    ----------
    precision : {"bfloat16", "tf32"}
    tile : Tile
    a_runs_along, b_runs_along : bool

    Returns
    -------
    multiply : device function
        (sums, a, a_pitch, first_row, b, b_pitch, first_column, n_steps): fills
        `sums[m fragment, n fragment, 4]`; addresses and pitches are in bytes. All threads of the
        block enter it together; when it returns, shared memory is free again.
    """
    item_size = ITEM_SIZES[precision]
    a_side = (_a_along if a_runs_along else _a_across)(tile, item_size)
    b_side = (_b_along if b_runs_along else _b_across)(tile, item_size)
    m_fragments, n_fragments, m_warps, stages = tile.m_fragments, tile.n_fragments, *tile[2::2]
    place_a, copy_a, lane_a, read_a, a_stride, a_rows = a_side
    place_b, copy_b, lane_b, read_b, b_stride, b_rows = b_side
    a_shape, b_shape = (2, m_fragments, 4), (2, n_fragments, 2)
    b_offset, stage_bytes = tile.rows * STEP_BYTES, (tile.rows + tile.columns) * STEP_BYTES
    ahead, end = stages - 1, stages * stage_bytes
    wait = _WAITS[stages]
    multiply_quarter = _make_multiply_quarter(precision, tile)

    @inlined
    def following(stage):
        stage = uint32(stage + stage_bytes)
        return uint32(0) if stage == end else stage

    @inlined
    def multiply(sums, a, a_pitch, first_row, b, b_pitch, first_column, n_steps):
        a_fragments = cuda.local.array(a_shape, uint32)
        b_fragments = cuda.local.array(b_shape, uint32)
        start, thread = stages_start(), cuda.threadIdx.x
        lane, warp = thread & 31, thread >> 5
        a_shared, a = place_a(thread, a, a_pitch, first_row)
        b_shared, b = place_b(thread, b, b_pitch, first_column)
        a_shared, b_shared = uint32(start + a_shared), uint32(start + b_offset + b_shared)
        m_first, n_first = warp % m_warps * 16 * m_fragments, warp // m_warps * 8 * n_fragments
        a_lane = uint32(start + lane_a(m_first, lane))
        b_lane = uint32(start + b_offset + lane_b(n_first, lane))
        a_step, b_step = a_stride + a_rows * a_pitch, b_stride + b_rows * b_pitch
        for i in range(m_fragments):
            for j in range(n_fragments):
                for c in range(4):
                    sums[i, j, c] = float32(0)
        for stage in range(ahead):
            if stage < n_steps:
                copy_a(a_shared + uint32(stage * stage_bytes), a, a_pitch)
                copy_b(b_shared + uint32(stage * stage_bytes), b, b_pitch)
                a, b = a + a_step, b + b_step
            ptx.cp_async_commit()
        wait()
        cuda.syncthreads()
        read_a(a_fragments, 0, a_lane, 0)
        read_b(b_fragments, 0, b_lane, 0)
        reading, writing = uint32(0), uint32(ahead * stage_bytes)
        for k in range(n_steps):
            for quarter in range(4):
                other = (quarter + 1) & 3
                if quarter == 3:
                    # The next stage has come, and all warps have read this one's fragments.
                    wait()
                    cuda.syncthreads()
                    if k + 1 < n_steps:  # else what is read is not used
                        reading = following(reading)
                read_a(a_fragments, other & 1, uint32(a_lane + reading), other)
                read_b(b_fragments, other & 1, uint32(b_lane + reading), other)
                if quarter == 0:
                    if k + ahead < n_steps:
                        copy_a(uint32(a_shared + writing), a, a_pitch)
                        copy_b(uint32(b_shared + writing), b, b_pitch)
                        a, b = a + a_step, b + b_step
                    ptx.cp_async_commit()
                    writing = following(writing)
                multiply_quarter(sums, a_fragments, b_fragments, quarter & 1)
        ptx.cp_async_wait_0()
        cuda.syncthreads()

    return multiply


def _make_multiply_quarter(precision, tile):
    mma = {"bfloat16": ptx.mma_bf16, "tf32": ptx.mma_tf32}[precision]
    m_fragments, n_fragments = tile.m_fragments, tile.n_fragments

    @inlined
    def multiply_quarter(sums, a, b, buffer):
        for i in range(m_fragments):
            for j in range(n_fragments):
                sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3] = mma(
                    a[buffer, i, 0],
                    a[buffer, i, 1],
                    a[buffer, i, 2],
                    a[buffer, i, 3],
                    b[buffer, j, 0],
                    b[buffer, j, 1],
                    sums[i, j, 0],
                    sums[i, j, 1],
                    sums[i, j, 2],
                    sums[i, j, 3],
                )

    return multiply_quarter


@cache
def make_spread(precision, tile, a_runs_along, b_runs_along):
    """The device function that writes a tile of C to shared memory, where all threads see it.

    Parameters are those of `make_multiply`.

    Returns
    -------
    spread : device function
        (sums) -> address of the tile in shared memory: float32, row by row, `tile.pitch` numbers
        apart. All threads of the block call it together, after `multiply`.
    """
    pitch = tile.pitch
    m_fragments, n_fragments, m_warps = tile.m_fragments, tile.n_fragments, tile.m_warps
    rows_in_pairs = precision == "tf32" and not a_runs_along

    @inlined
    def spread(sums):
        start, thread = stages_start(), cuda.threadIdx.x
        lane, warp = thread & 31, thread >> 5
        g, t = lane >> 2, lane & 3
        first_row, first = warp % m_warps * 16 * m_fragments, warp // m_warps * 8 * n_fragments
        for i in range(m_fragments):
            for half in range(2):
                row = first_row + i * 16 + (2 * g + half if rows_in_pairs else g + 8 * half)
                address = start + (row * pitch + first + 2 * t) * 4
                for j in range(n_fragments):
                    ptx.st_shared_v2_f32(
                        address + j * 32, sums[i, j, 2 * half], sums[i, j, 2 * half + 1]
                    )
        cuda.syncthreads()
        return start

    return spread
