"""The intrinsics of fastbp/cuda/ptx.py for the emulator: what the PTX manual says of them.

Those that a warp executes together go through `collective`: they wait for all 32 lanes, and their
combining function sees the arguments of every lane. Fragment layouts are written down here from the
PTX ISA, apart from the kernels: which lane holds which element of a matrix.
"""

import numpy as np
from emulator import WARP, Address, Array, EmulationError

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


class EmulatedPtx:
    """One machine's intrinsics. A subclass adds its own, or gives them other names."""

    def __init__(self, machine):
        self.machine = machine

    def collective(self, what, combine, arguments):
        """Meet the other lanes of the warp; `combine` makes 32 results of 32 lanes' arguments."""
        warp = self.machine.current.warp
        if len(warp) != WARP:
            raise EmulationError(f"{what} in a warp of {len(warp)} lanes")
        return self.machine.meet(what, warp, arguments, combine)

    # ---- addresses and asynchronous copies ------------------------------------------------------

    def shared_address(self, array, index):
        """The address of an element of a one-dimensional shared array."""
        return Address(array.memory, int(index) * array.dtype.itemsize)

    def copy_async(self, destination, array, index, n_bytes):
        """cp.async of 4, 8 or 16 bytes; they arrive when the group is waited for, not earlier."""
        source = Address(array.memory, int(index) * array.dtype.itemsize)
        for address in (destination, source):
            address.memory.words(address.offset, n_bytes)  # is it inside, is it aligned
        thread, memory = self.machine.current, destination.memory
        memory.note_write(destination.offset, n_bytes)
        memory.pending.update(dict.fromkeys(memory.words(destination.offset, n_bytes), thread))
        thread.copies.append((destination, source, n_bytes))

    def copy_async_16(self, destination, array, index):
        self.copy_async(destination, array, index, 16)

    def copy_async_4(self, destination, array, index):
        self.copy_async(destination, array, index, 4)

    def commit_copies(self):
        """cp.async.commit_group: the copies so far become one group."""
        thread = self.machine.current
        thread.groups.append(thread.copies)
        thread.copies = []

    def wait_for_copies(self, n_groups):
        """cp.async.wait_group: all but the last so many groups are complete."""
        thread = self.machine.current
        while len(thread.groups) > n_groups:
            for destination, source, n_bytes in thread.groups.pop(0):
                memory, start = destination.memory, destination.offset
                for word in memory.words(start, n_bytes):
                    del memory.pending[word]
                source.memory.note_read(source.offset, n_bytes)
                stop = source.offset + n_bytes
                memory.bytes[start : start + n_bytes] = source.memory.bytes[source.offset : stop]
                memory.note_write(start, n_bytes)

    # ---- warps ----------------------------------------------------------------------------------

    def mma_bfloat16(self, *arguments):
        return self.collective("mma bf16", mma_bfloat16, arguments)

    def mma_tensorfloat32(self, *arguments):
        return self.collective("mma tf32", mma_tensorfloat32, arguments)

    def load_matrices(self, address, count, transposed):
        """ldmatrix of 1, 2 or 4 matrices: lane l has the address of row l % 8 of matrix l // 8."""
        if self.machine.current.lane < 8 * count:
            address.memory.note_read(address.offset, 16)

        def combine(addresses):
            rows = [
                one.memory.bytes[one.offset : one.offset + 16].view(np.uint16)
                for one in addresses[: 8 * count]
            ]
            matrices = np.stack(rows).reshape(count, 8, 8)
            if transposed:
                matrices = matrices.transpose(0, 2, 1)
            halves = matrices[:, GROUP[:, None], _pair(2 * MEMBER)].astype(np.uint32)
            registers = halves[..., 0] | halves[..., 1] << np.uint32(16)  # matrix, lane
            return [tuple(registers[:, lane]) for lane in range(WARP)]

        return self.collective("ldmatrix", combine, address)

    def load_matrices_4(self, address):
        return self.load_matrices(address, 4, False)

    def load_matrices_4_transposed(self, address):
        return self.load_matrices(address, 4, True)

    def shuffle_xor(self, value, mask):
        """shfl.sync.bfly: the value of the lane whose number differs in the mask's bits."""
        lane = self.machine.current.lane

        def combine(values):
            return [values[other ^ mask] for other in range(WARP)]

        assert lane < WARP
        return self.collective(f"shuffle {mask}", combine, value)

    # ---- clusters -------------------------------------------------------------------------------

    def cluster_arrive(self):
        """barrier.cluster.arrive.release: what this thread wrote is there for those that wait."""
        thread, machine = self.machine.current, self.machine
        cluster = thread.block.cluster
        if thread.arrivals != thread.cluster_epoch:
            raise EmulationError(f"{thread} arrives twice, at {machine.place()}")
        thread.arrivals += 1
        while len(cluster.arrived) <= thread.arrivals:
            cluster.arrived.append(0)
        cluster.arrived[thread.arrivals] += 1
        if cluster.arrived[thread.arrivals] == len(cluster.threads):
            machine.runnable.extend(cluster.waiting)
            cluster.waiting = []

    def cluster_wait(self):
        """barrier.cluster.wait.acquire: until all threads of the cluster have arrived."""
        thread, machine = self.machine.current, self.machine
        cluster = thread.block.cluster
        if thread.arrivals != thread.cluster_epoch + 1:
            raise EmulationError(f"{thread} waits before it arrives, at {machine.place()}")
        if cluster.arrived[thread.arrivals] < len(cluster.threads):
            cluster.waiting.append(thread)
            machine.wait(thread, "cluster_wait")
        thread.cluster_epoch += 1

    def peer_address(self, address, rank):
        """mapa: the same place in the shared memory of another block of the cluster."""
        block = self.machine.current.block
        own = [place for place, memory in block.shared.items() if memory is address.memory]
        if not own or not 0 <= rank < len(block.cluster.blocks):
            raise EmulationError(f"no such place in block {rank}, at {self.machine.place()}")
        peer = block.cluster.blocks[rank]
        if own[0] not in peer.shared:
            raise EmulationError(f"block {rank} may not have started yet, {self.machine.place()}")
        return Address(peer.shared[own[0]], address.offset)

    def load_peer_float32(self, address):
        """ld.shared::cluster.f32"""
        return address.memory.load(address.offset, np.dtype(np.float32))

    def store_peer_float32(self, address, value):
        """st.shared::cluster.f32"""
        address.memory.store(address.offset, np.dtype(np.float32), value)

    # ---- vectors and bits -----------------------------------------------------------------------

    def load_float32x4(self, address):
        """ld.shared.v4.f32"""
        address.memory.note_read(address.offset, 16)
        return tuple(Array(address.memory, np.float32, (4,)).memory.view(np.dtype(np.float32))[
            address.offset // 4 : address.offset // 4 + 4
        ])  # fmt: skip

    def float_to_bits(self, value):
        return np.float32(value).view(np.uint32)

    def bits_to_float(self, bits):
        return np.uint32(bits).view(np.float32)
