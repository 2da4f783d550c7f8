"""The emulator finds what it promises to find, and its fragments multiply matrices."""

import numpy as np
import pytest
from emulated_ptx import EmulatedPtx, accumulator_places
from emulator import EmulationError, launch

cuda = ptx = None  # replaced at a launch


def reverse(values, barrier):
    shared = cuda.shared.array(64, np.float32)
    thread = cuda.threadIdx.x
    shared[thread] = values[thread]
    if barrier:
        cuda.syncthreads()
    values[thread] = shared[63 - thread]


def test_a_barrier_orders_a_blocks_threads():
    values = np.arange(64, dtype=np.float32)
    launch(reverse, 1, 64, (values, True), ptx=EmulatedPtx)
    np.testing.assert_array_equal(values, np.arange(64)[::-1])


@pytest.mark.parametrize("seed", [None, 0])
def test_a_missing_barrier_is_found(seed):
    with pytest.raises(EmulationError, match=r"nobody has written|no barrier"):
        launch(reverse, 1, 64, (np.zeros(64, np.float32), False), ptx=EmulatedPtx, seed=seed)


def overwritten_too_early(values):
    shared = cuda.shared.array(64, np.float32)
    thread = cuda.threadIdx.x
    for _ in range(2):
        shared[thread] = values[thread]
        cuda.syncthreads()
        values[thread] = shared[63 - thread]


def test_a_write_after_a_read_needs_a_barrier_too():
    with pytest.raises(EmulationError, match="no barrier between"):
        launch(overwritten_too_early, 1, 64, (np.zeros(64, np.float32),), ptx=EmulatedPtx)


def divergent(values):
    if cuda.threadIdx.x < 40:
        cuda.syncthreads()
    values[cuda.threadIdx.x] = 1


def test_a_deadlock_says_where_threads_wait():
    with pytest.raises(EmulationError, match=r"deadlock:\n.*syncthreads at test_emulator.py:\d+"):
        launch(divergent, 1, 64, (np.zeros(64, np.float32),), ptx=EmulatedPtx)


def outside(values):
    values[cuda.threadIdx.x + 1] = 0


def test_an_index_outside_is_found():
    with pytest.raises(EmulationError, match="outside"):
        launch(outside, 1, 8, (np.zeros(8, np.float32),), ptx=EmulatedPtx)


def staged(source, out, waits):
    shared = cuda.shared.array(64, np.float32)
    thread = cuda.threadIdx.x
    if thread < 16:
        ptx.cp_async_16(
            ptx.shared_address(shared, 4 * thread), ptx.global_address(source, 4 * thread)
        )
    ptx.cp_async_commit()
    if waits:
        ptx.cp_async_wait_0()
    cuda.syncthreads()
    out[thread] = shared[63 - thread]


def test_asynchronous_copies_arrive_only_when_waited_for():
    source, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    launch(staged, 1, 64, (source, out, True), ptx=EmulatedPtx)
    np.testing.assert_array_equal(out, source[::-1])
    with pytest.raises(EmulationError, match="may yet write"):
        launch(staged, 1, 64, (source, out, False), ptx=EmulatedPtx)


def multiply(a, b, out, rows, columns):
    """out = a bᵀ for one 16 x 16 tile of bfloat16 bits and eight columns."""
    left, right = cuda.shared.array(256, np.uint16), cuda.shared.array(128, np.uint16)
    lane = cuda.threadIdx.x
    for i in range(8):
        left[8 * lane + i] = a[8 * lane + i]
    for i in range(4):
        right[4 * lane + i] = b[4 * lane + i]
    cuda.syncthreads()
    fragment = ptx.ldmatrix_x4(ptx.shared_address(left, (lane & 15) * 16 + (lane >> 4) * 8))
    b0 = np.uint32(right[(lane >> 2) * 16 + 2 * (lane & 3)])
    b0 |= np.uint32(right[(lane >> 2) * 16 + 2 * (lane & 3) + 1]) << np.uint32(16)
    b1 = np.uint32(right[(lane >> 2) * 16 + 2 * (lane & 3) + 8])
    b1 |= np.uint32(right[(lane >> 2) * 16 + 2 * (lane & 3) + 9]) << np.uint32(16)
    zero = np.float32(0)
    results = ptx.mma_bf16(*fragment, b0, b1, zero, zero, zero, zero)
    for i in range(4):
        out[rows[lane, i] * 8 + columns[lane, i]] = results[i]


def test_fragments_multiply_matrices():
    rng = np.random.default_rng(0)
    a = rng.integers(-99, 99, (16, 16)).astype(np.float32)
    b = rng.integers(-99, 99, (8, 16)).astype(np.float32)
    bits = [(one.view(np.uint32) >> 16).astype(np.uint16).ravel() for one in (a, b)]
    out = np.zeros(128, np.float32)
    launch(multiply, 1, 32, (*bits, out, *accumulator_places()), ptx=EmulatedPtx)
    np.testing.assert_array_equal(out.reshape(16, 8), a @ b.T)
