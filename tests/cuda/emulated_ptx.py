"""The intrinsics of fastbp/cuda/ptx.py for the emulator: what the PTX manual says of them.

Those that a warp executes together go through `collective`: they wait for all 32 lanes, and their
combining function sees the arguments of every lane. Fragment layouts are written down here from the
PTX ISA, apart from the kernels: which lane holds which element of a matrix.
"""

import numpy as np
from emulator import WARP, EmulationError

LANES = np.arange(WARP)
GROUP, MEMBER = LANES >> 2, LANES & 3  # "groupID" and "threadID_in_group" of the manual


def bits_to_float(bits):
    """The float32 of 32 bits."""
    return np.asarray(bits, np.uint32).view(np.float32)


def unpack_bfloat16(registers):
    """Two bfloat16 of every register, the lower half first, as float32: one more axis."""
    registers = np.asarray(registers, np.uint32)
    return bits_to_float(np.stack([registers << np.uint32(16), registers & 0xFFFF0000], -1))


def from_fragments(registers, rows, columns, shape):
    """The matrix of which every lane holds the elements at its own rows and columns."""
    matrix = np.full(shape, np.nan, registers.dtype)
    matrix[rows, columns] = registers
    return matrix


def _pair(first):
    """Columns of two neighbours in one register."""
    return np.stack([first, first + 1], -1)


def accumulator_places():
    """Rows and columns of c0 ... c3 in a 16 x 8 accumulator: arrays of shape (32, 4)."""
    rows = np.stack([GROUP, GROUP, GROUP + 8, GROUP + 8], -1)
    columns = np.stack([2 * MEMBER, 2 * MEMBER + 1] * 2, -1)
    return rows, columns


def mma_bfloat16(lanes):
    """mma.sync.m16n8k16.row.col.f32.bf16.bf16.f32; arguments a0-a3, b0, b1, c0-c3 of each lane."""
    a = unpack_bfloat16([lane[0:4] for lane in lanes])  # lane, register, half
    b = unpack_bfloat16([lane[4:6] for lane in lanes])
    a_rows = np.stack([GROUP, GROUP + 8] * 2, -1)[:, :, None]
    a_columns = np.stack([_pair(2 * MEMBER + shift) for shift in (0, 0, 8, 8)], 1)
    b_rows = np.stack([_pair(2 * MEMBER + shift) for shift in (0, 8)], 1)
    left = from_fragments(a, np.broadcast_to(a_rows, a.shape), a_columns, (16, 16))
    right = from_fragments(b, b_rows, np.broadcast_to(GROUP[:, None, None], b.shape), (16, 8))
    return _accumulate(left, right, [lane[6:10] for lane in lanes])


def mma_tensorfloat32(lanes):
    """mma.sync.m16n8k8.row.col.f32.tf32.tf32.f32; the 13 lowest bits of a and b are ignored."""
    kept = np.uint32(0xFFFFE000)
    a = bits_to_float(np.asarray([lane[0:4] for lane in lanes], np.uint32) & kept)
    b = bits_to_float(np.asarray([lane[4:6] for lane in lanes], np.uint32) & kept)
    a_rows, a_columns = (
        np.stack([GROUP, GROUP + 8] * 2, -1), np.stack([MEMBER, MEMBER, MEMBER + 4, MEMBER + 4], -1)
    )  # fmt: skip
    left = from_fragments(a, a_rows, a_columns, (16, 8))
    b_rows = np.stack([MEMBER, MEMBER + 4], -1)
    right = from_fragments(b, b_rows, np.stack([GROUP, GROUP], -1), (8, 8))
    return _accumulate(left, right, [lane[6:10] for lane in lanes])


def _accumulate(left, right, c):
    """a b + c in float64, rounded once, as the lanes' four numbers."""
    rows, columns = accumulator_places()
    product = left.astype(np.float64) @ right.astype(np.float64)
    d = (product[rows, columns] + np.asarray(c, np.float64)).astype(np.float32)
    return [tuple(d[lane]) for lane in range(WARP)]


_DTYPES = {
    "u16": np.uint16,
    "u32": np.uint32,
    "f32": np.float32,
    "f64": np.float64,
    "s64": np.int64,
}


class EmulatedPtx:
    """One machine's intrinsics, by the names of `fastbp.cuda.ptx`.

    What is not here, such as conversions of numbers, is that module's own Python.
    """

    def __init__(self, machine):
        self.machine = machine
        for kind, dtype in _DTYPES.items():
            self._add_accesses(kind, np.dtype(dtype))

    def __getattr__(self, name):
        from fastbp.cuda import ptx  # here, so that this module can be imported without numba-cuda

        intrinsic = getattr(ptx, name)
        return getattr(intrinsic, "in_python", intrinsic)

    def collective(self, what, combine, arguments):
        """Meet the other lanes of the warp; `combine` makes 32 results of 32 lanes' arguments."""
        warp = self.machine.current.warp
        if len(warp) != WARP:
            raise EmulationError(f"{what} in a warp of {len(warp)} lanes")
        return self.machine.meet(what, warp, arguments, combine)

    # ---- loads and stores -----------------------------------------------------------------------

    def _add_accesses(self, kind, dtype):
        """ld and st of one kind of number: global and shared; scalars, pairs and fours."""
        for space in ("global", "shared"):
            for vector, n in (("", 1), ("v2_", 2), ("v4_", 4)):

                def load(address, n=n):
                    values = self._load(address, dtype, n)
                    return values[0] if n == 1 else tuple(values)

                def store(address, *values, n=n):
                    assert len(values) == n
                    self._store(address, dtype, values)

                setattr(self, f"ld_{space}_{vector}{kind}", load)
                setattr(self, f"st_{space}_{vector}{kind}", store)

    def _load(self, address, dtype, n):
        memory, offset = self.machine.resolve(address)
        memory.note_read(offset, n * dtype.itemsize)
        first = offset // dtype.itemsize
        return memory.view(dtype)[first : first + n].copy()

    def _store(self, address, dtype, values):
        memory, offset = self.machine.resolve(address)
        memory.note_write(offset, len(values) * dtype.itemsize)
        first = offset // dtype.itemsize
        memory.view(dtype)[first : first + len(values)] = values

    def global_address(self, array, index):
        return self.machine.address(array, index)

    shared_address = global_address

    # ---- asynchronous copies --------------------------------------------------------------------

    def copy_async(self, shared, address, n_bytes):
        """cp.async: the bytes arrive when their group is waited for, not earlier."""
        memory, start = self.machine.resolve(shared)
        source, first = self.machine.resolve(address)
        source.words(first, n_bytes)  # is it inside, is it aligned
        memory.note_write(start, n_bytes)
        thread = self.machine.current
        memory.pending.update(dict.fromkeys(memory.words(start, n_bytes), thread))
        thread.copies.append((memory, start, n_bytes, source, first))

    def cp_async_4(self, shared, address):
        self.copy_async(shared, address, 4)

    def cp_async_16(self, shared, address):
        self.copy_async(shared, address, 16)

    def cp_async_commit(self):
        thread = self.machine.current
        thread.groups.append(thread.copies)
        thread.copies = []

    def wait_for_copies(self, n_groups):
        """cp.async.wait_group: all but the last `n_groups` are complete."""
        thread = self.machine.current
        while len(thread.groups) > n_groups:
            for memory, start, n_bytes, source, first in thread.groups.pop(0):
                for word in memory.words(start, n_bytes):
                    del memory.pending[word]
                source.note_read(first, n_bytes)
                memory.bytes[start : start + n_bytes] = source.bytes[first : first + n_bytes]
                memory.note_write(start, n_bytes)

    def cp_async_wait_0(self):
        self.wait_for_copies(0)

    def cp_async_wait_1(self):
        self.wait_for_copies(1)

    def cp_async_wait_2(self):
        self.wait_for_copies(2)

    # ---- warps ----------------------------------------------------------------------------------

    def mma_bf16(self, *arguments):
        return self.collective("mma_bf16", mma_bfloat16, arguments)

    def mma_tf32(self, *arguments):
        return self.collective("mma_tf32", mma_tensorfloat32, arguments)

    def load_matrices(self, address, transposed):
        """ldmatrix.x4: lane l has the address of row l % 8 of matrix l // 8."""
        place = self.machine.resolve(address)
        place[0].note_read(place[1], 16)

        def combine(places):
            rows = [memory.bytes[start : start + 16].view(np.uint16) for memory, start in places]
            matrices = np.stack(rows).reshape(4, 8, 8)
            if transposed:
                matrices = matrices.transpose(0, 2, 1)
            halves = matrices[:, GROUP[:, None], _pair(2 * MEMBER)].astype(np.uint32)
            registers = halves[..., 0] | halves[..., 1] << np.uint32(16)  # matrix, lane
            return [tuple(registers[:, lane]) for lane in range(WARP)]

        return self.collective("ldmatrix", combine, place)

    def ldmatrix_x4(self, address):
        return self.load_matrices(address, False)

    def ldmatrix_x4_trans(self, address):
        return self.load_matrices(address, True)
