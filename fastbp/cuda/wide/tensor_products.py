"""Products of matrices on tensor cores: a block's tile of C = A B, summed in registers.

Operands are stored row by row, padded with zeros to whole tiles, in bfloat16 or as float32 rounded
to tf32. What the tiles need to know of them is whether the summed dimension k runs *along* their
rows or *across* them:

==========================  =======  =======
forward, H W                A along  B across
backward, Δ Wᵀ              A along  B along
gradient, Hᵀ Δ              A across B across
==========================  =======  =======

Steps of k go through a ring of stages in shared memory, several steps ahead of what is multiplied.
Every step is four quarters, each a k of `mma.sync`. A quarter's fragments are read while the one
before is multiplied. How they get there: `fastbp.cuda.wide.operands`.
"""

from functools import cache

from numba import float32, types, uint32

from fastbp.cuda import ptx
from fastbp.cuda.formulas import device_function
from fastbp.cuda.toolkit import cuda
from fastbp.cuda.wide.operands import (
    ALIGNMENT,
    ITEM_SIZES,
    STEP_BYTES,
    a_across,
    a_along,
    b_across,
    b_along,
)

_WAITS = {2: ptx.cp_async_wait_0, 3: ptx.cp_async_wait_1, 4: ptx.cp_async_wait_2}


@device_function
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
    a_side = (a_along if a_runs_along else a_across)(tile, item_size)
    b_side = (b_along if b_runs_along else b_across)(tile, item_size)
    m_fragments, n_fragments, m_warps, stages = tile.m_fragments, tile.n_fragments, *tile[2::2]
    place_a, copy_a, lane_a, read_a, a_stride, a_rows = a_side
    place_b, copy_b, lane_b, read_b, b_stride, b_rows = b_side
    a_shape, b_shape = (2, m_fragments, 4), (2, n_fragments, 2)
    b_offset, stage_bytes = tile.rows * STEP_BYTES, (tile.rows + tile.columns) * STEP_BYTES
    ahead = stages - 1
    wait, following = _WAITS[stages], _make_following(stage_bytes, stages)
    clear, multiply_quarter = _make_clear(tile), _make_multiply_quarter(precision, tile)

    @device_function
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
        clear(sums)
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


def _make_following(stage_bytes, stages):
    end = stages * stage_bytes

    @device_function
    def following(stage):
        stage = uint32(stage + stage_bytes)
        return uint32(0) if stage == end else stage

    return following


def _make_clear(tile):
    m_fragments, n_fragments = tile.m_fragments, tile.n_fragments

    @device_function
    def clear(sums):
        for i in range(m_fragments):
            for j in range(n_fragments):
                for c in range(4):
                    sums[i, j, c] = float32(0)

    return clear


def _make_multiply_quarter(precision, tile):
    mma = {"bfloat16": ptx.mma_bf16, "tf32": ptx.mma_tf32}[precision]
    m_fragments, n_fragments = tile.m_fragments, tile.n_fragments

    @device_function
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

    @device_function
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
