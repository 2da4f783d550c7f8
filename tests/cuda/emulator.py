"""Runs a CUDA kernel's own Python function for a whole grid at once, without a GPU.

numba's simulator runs blocks one after the other and knows neither warps nor inline PTX.
Here every thread of every block is a Python thread; a baton goes from one to the next, and
exactly one runs at any time: every run is the same. A thread keeps the baton until it has to wait,
in the order of ranks, or in a random order with `seed`.

What a GPU would only show as wrong numbers now and then is an error here:

- a deadlock: with where every thread waits;
- a race: two threads touch one word, one of them writes, and no barrier lies between;
- a read of shared memory that nobody has written, or that an asynchronous copy may still write
  (such copies are made as late as the kernel allows);
- an index outside of an array; a warp whose lanes wait at different places of the program.

`launch` replaces the names `cuda` and `ptx` of the kernel, and of all device functions that it
calls, by `EmulatedCuda` and a namespace of intrinsics (tests/cuda/emulated_ptx.py).
"""

import random
import sys
import threading
from collections import namedtuple
from types import CellType, FunctionType, ModuleType, SimpleNamespace

import numpy as np
from numba import types

WARP = 32
WORD = 4  # bytes; the granularity at which races are seen
ALIGNMENT = 1024  # of shared arrays
WINDOW = 1 << 24  # addresses of a block's shared memory
Triple = namedtuple("Triple", "x y z")


class EmulationError(AssertionError):
    """The kernel did what a GPU would not forgive."""


class _Abandoned(BaseException):
    """Ends the other threads once one has failed."""


class Thread:
    """One CUDA thread: where it is in the grid, and what it has waited for so far."""

    def __init__(self, block, rank):
        self.block, self.rank = block, rank
        self.lane, self.warp = rank % WARP, block.warps[rank // WARP]
        self.index = _unravel(rank, block.machine.block_shape)
        self.baton = threading.Semaphore(0)
        self.waits_at = self.result = None
        self.warp_epoch = self.block_epoch = 0
        self.copies, self.groups = [], []  # asynchronous copies: not yet committed, and committed

    def now(self):
        """What an access at this moment is remembered by."""
        return self, self.warp_epoch, self.block_epoch

    def comes_after(self, access):
        """Whether a barrier lies between an earlier access and this thread's next one."""
        other, warp_epoch, block_epoch = access
        if other is self:
            return True
        if self.warp is other.warp and self.warp_epoch > warp_epoch:
            return True
        return self.block is other.block and self.block_epoch > block_epoch

    def __str__(self):
        return f"block {self.block.rank} thread {self.rank}"


class Block:
    """One block: its threads and its shared memory."""

    def __init__(self, machine, rank, n_threads, dynamic_shared_bytes):
        self.machine, self.rank = machine, rank
        self.index = _unravel(rank, machine.grid_shape)
        self.warps = [[] for _ in range(-(-n_threads // WARP))]
        self.threads = [Thread(self, number) for number in range(n_threads)]
        for thread in self.threads:
            thread.warp.append(thread)
        self.shared = {}  # address in the shared window -> Memory
        self.shared_array("dynamic", dynamic_shared_bytes)

    def shared_array(self, place, n_bytes):
        """The memory of the array that the kernel declares at a place of its program."""
        start = self.machine.shared_start(place, n_bytes)
        if start not in self.shared:
            self.shared[start] = Memory(self.machine, np.zeros(n_bytes, np.uint8), False)
        return self.shared[start]


def _unravel(rank, shape):
    return Triple(rank % shape.x, rank // shape.x % shape.y, rank // (shape.x * shape.y))


def _triple(shape):
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return Triple(*shape, *(1,) * (3 - len(shape)))


class Memory:
    """Bytes that several threads share, with the last accesses to every word."""

    def __init__(self, machine, content, initialised):
        self.machine, self.bytes = machine, content
        n_words = -(-content.size // WORD)
        self.writers, self.readers = [None] * n_words, [()] * n_words
        self.initialised = [initialised] * n_words
        self.pending = {}  # word -> the thread whose asynchronous copy is under way
        self.views, self.arrays = {}, {}

    def view(self, dtype):
        """The whole memory as numbers of one dtype."""
        if dtype not in self.views:
            stop = self.bytes.size // dtype.itemsize * dtype.itemsize
            self.views[dtype] = self.bytes[:stop].view(dtype)
        return self.views[dtype]

    def words(self, offset, size):
        if offset < 0 or offset + size > self.bytes.size or offset % size:
            raise EmulationError(
                f"{self.machine.current} accesses {size} bytes at byte {offset} of "
                f"{self.bytes.size}, at {self.machine.place()}"
            )
        return range(offset // WORD, (offset + size - 1) // WORD + 1)

    def complain(self, what, word, other):
        raise EmulationError(
            f"{self.machine.current} {what} word {word}, {other}, at {self.machine.place()}"
        )

    def note_read(self, offset, size):
        """Check that the current thread may read these bytes, and remember that it did."""
        thread = self.machine.current
        for word in self.words(offset, size):
            if word in self.pending:
                self.complain("reads", word, f"which a copy of {self.pending[word]} may yet write")
            if not self.initialised[word]:
                self.complain("reads", word, "which nobody has written")
            writer = self.writers[word]
            if writer and writer[0] is not thread and not thread.comes_after(writer):
                self.complain("reads", word, f"written by {writer[0]} with no barrier between")
            readers = self.readers[word]
            if not readers or readers[-1][0] is not thread:
                self.readers[word] = (*readers[-1:], thread.now())
            else:
                self.readers[word] = (*readers[:-1], thread.now())

    def note_write(self, offset, size):
        """Check that the current thread may write these bytes, and remember that it did."""
        thread = self.machine.current
        for word in self.words(offset, size):
            if word in self.pending:
                self.complain("writes", word, f"which a copy of {self.pending[word]} may yet write")
            writer = self.writers[word]
            if size >= WORD and writer and not thread.comes_after(writer):
                self.complain("writes", word, f"written by {writer[0]} with no barrier between")
            for reader in self.readers[word]:
                if not thread.comes_after(reader):
                    self.complain("writes", word, f"read by {reader[0]} with no barrier between")
            self.writers[word], self.readers[word] = thread.now(), ()
            self.initialised[word] = True

    def load(self, offset, dtype):
        self.note_read(offset, dtype.itemsize)
        return self.view(dtype)[offset // dtype.itemsize]

    def store(self, offset, dtype, value):
        self.note_write(offset, dtype.itemsize)
        self.view(dtype)[offset // dtype.itemsize] = value


class Array:
    """What a kernel sees of a memory: an array of one dtype, C-contiguous."""

    def __init__(self, memory, dtype, shape):
        self.memory, self.dtype, self.shape = memory, np.dtype(dtype), tuple(shape)
        self.size, self.ndim = int(np.prod(shape)), len(shape)

    def offset(self, index):
        """The byte where an element lies."""
        if not isinstance(index, tuple):
            index = (index,)
        flat = 0
        for i, n in zip(index, self.shape, strict=True):
            if not 0 <= i < n:
                place = self.memory.machine.place()
                raise EmulationError(f"index {index} is outside of {self.shape}, at {place}")
            flat = flat * n + int(i)
        return flat * self.dtype.itemsize

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        return self.memory.load(self.offset(index), self.dtype)

    def __setitem__(self, index, value):
        self.memory.store(self.offset(index), self.dtype, value)


class Machine:
    """All threads of one launch, the baton, and the places where threads wait for each other."""

    def __init__(self, grid, block, dynamic_shared_bytes=0, seed=None):
        self.grid_shape, self.block_shape = _triple(grid), _triple(block)
        self.shared_places = {}  # place of a declaration -> (address, bytes)
        n_blocks, n_threads = np.prod(self.grid_shape), np.prod(self.block_shape)
        self.blocks = [
            Block(self, rank, int(n_threads), dynamic_shared_bytes) for rank in range(n_blocks)
        ]
        self.threads = [thread for one in self.blocks for thread in one.threads]
        self.random = None if seed is None else random.Random(seed)
        self.current, self.failure, self.live = None, None, len(self.threads)
        self.runnable, self.meetings = list(self.threads), {}
        self.global_memories = {}  # address -> Memory

    # ---- addresses ------------------------------------------------------------------------------

    def add_global(self, array):
        """Take an array of the host for one on the device, at the address that it has."""
        address = array.__array_interface__["data"][0]
        if not array.flags.c_contiguous:
            raise ValueError("the emulator takes C-contiguous arrays")
        if address not in self.global_memories:
            memory = Memory(self, array.reshape(-1).view(np.uint8), True)
            self.global_memories[address] = memory
        return Array(self.global_memories[address], array.dtype, array.shape)

    def shared_start(self, place, n_bytes):
        """Where the array declared at a place lies in every block's shared window."""
        if place not in self.shared_places:
            used = sum(size for _, size in self.shared_places.values())
            size = (n_bytes // ALIGNMENT + 1) * ALIGNMENT
            self.shared_places[place] = ALIGNMENT + used, size
        return self.shared_places[place][0]

    def address(self, array, index):
        """The address of an element, counted along the array's memory."""
        block, memory = self.current.block, array.memory
        for memories in (block.shared, self.global_memories):
            for start, one in memories.items():
                if one is memory:
                    return start + int(index) * array.dtype.itemsize
        raise EmulationError(f"an array of another block, at {self.place()}")

    def resolve(self, address):
        """The memory and the byte in it that an address means."""
        address = int(address)
        memories = self.current.block.shared if address < WINDOW else self.global_memories
        for start, memory in memories.items():
            if start <= address < start + memory.bytes.size:
                return memory, address - start
        raise EmulationError(
            f"{self.current} uses address {address} where no array is, at {self.place()}"
        )

    # ---- the baton ------------------------------------------------------------------------------

    def place(self):
        """Files and lines of the kernel where the current thread is, the innermost first."""
        frame, places = sys._getframe(1), []
        while frame and frame.f_code is not Machine.run_thread.__code__:
            if "/tests/cuda/emulat" not in frame.f_code.co_filename:
                places.append(f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}")
            frame = frame.f_back
        return " in ".join(places)

    def fail(self, error):
        """End the run: every thread wakes to find that it is over."""
        if self.failure is None:
            self.failure = error
            for thread in self.threads:
                thread.baton.release()

    def hand_over(self):
        """Give the baton to the next thread that can run."""
        if self.runnable:
            number = self.random.randrange(len(self.runnable)) if self.random else 0
            self.current = self.runnable.pop(number)
            self.current.baton.release()
        elif self.live:
            self.fail(EmulationError("deadlock:\n" + self.waiting_threads()))

    def waiting_threads(self):
        places = {}
        for thread in self.threads:
            if thread.waits_at:
                places.setdefault(thread.waits_at, []).append(str(thread))
        return "\n".join(f"{place}: {', '.join(who)}" for place, who in sorted(places.items()))

    def wait(self, thread, what):
        """Pass the baton on until somebody makes this thread runnable again."""
        thread.waits_at = f"{what} at {self.place()}"
        self.hand_over()
        thread.baton.acquire()
        if self.failure:
            raise _Abandoned
        thread.waits_at = None

    def meet(self, what, group, value=None, combine=None):
        """Wait for all threads of a group; `combine` makes their results of their values."""
        thread, key = self.current, (what, id(group))
        meeting = self.meetings.setdefault(key, {})
        meeting[thread] = value, self.place()
        if len(meeting) < len(group):
            self.wait(thread, what)
            return thread.result
        del self.meetings[key]
        for warp in {id(one.warp): one.warp for one in group}.values():
            places = {meeting[one][1] for one in warp}
            if len(places) > 1:
                raise EmulationError(f"the lanes of a warp wait for {what} at {sorted(places)}")
        results = combine([meeting[one][0] for one in group]) if combine else [None] * len(group)
        for one, result in zip(group, results, strict=True):
            one.result = result
        self.runnable.extend(one for one in group if one is not thread)
        return thread.result

    # ---- a launch -------------------------------------------------------------------------------

    def run(self, function, arguments):
        """Run every thread to its end."""
        workers = [
            threading.Thread(target=self.run_thread, args=(thread, function, arguments))
            for thread in self.threads
        ]
        previous = threading.stack_size(512 * 1024)
        try:
            for worker in workers:
                worker.start()
        finally:
            threading.stack_size(previous)
        self.hand_over()
        for worker in workers:
            worker.join()
        if self.failure:
            raise self.failure

    def run_thread(self, thread, function, arguments):
        thread.baton.acquire()
        try:
            if not self.failure:
                with np.errstate(all="ignore"):
                    function(*arguments)
                if thread.copies or thread.groups:
                    raise EmulationError(f"{thread} ends with copies that it never waited for")
                self.live -= 1
                self.hand_over()
        except _Abandoned:
            pass
        except BaseException as error:
            error.add_note(f"in {thread}") if hasattr(error, "add_note") else None
            self.fail(error)


class EmulatedCuda:
    """What kernels use of `numba.cuda`."""

    def __init__(self, machine):
        self._machine = machine
        self.blockDim, self.gridDim = machine.block_shape, machine.grid_shape
        self.shared = SimpleNamespace(array=self._shared_array)
        self.local = SimpleNamespace(array=self._local_array)
        self.atomic = SimpleNamespace(add=self._atomic_add)

    threadIdx = property(lambda self: self._machine.current.index)  # noqa: N815
    blockIdx = property(lambda self: self._machine.current.block.index)  # noqa: N815
    laneid = property(lambda self: self._machine.current.lane)

    def grid(self, ndim):
        places = zip(self.blockIdx, self.blockDim, self.threadIdx, strict=True)
        index = [block * size + thread for block, size, thread in places]
        return index[0] if ndim == 1 else tuple(index[:ndim])

    def gridsize(self, ndim):
        sizes = [n * size for n, size in zip(self.gridDim, self.blockDim, strict=True)]
        return sizes[0] if ndim == 1 else tuple(sizes[:ndim])

    def syncthreads(self):
        thread = self._machine.current
        self._machine.meet("syncthreads", thread.block.threads)
        thread.block_epoch += 1

    def syncwarp(self, mask=0xFFFFFFFF):
        thread = self._machine.current
        self._machine.meet("syncwarp", thread.warp)
        thread.warp_epoch += 1

    def _shared_array(self, shape, dtype):
        machine, dtype = self._machine, _dtype_of(dtype)
        shape = (shape,) if isinstance(shape, int) else shape
        block = machine.current.block
        if shape == (0,):
            memory = block.shared_array("dynamic", 0)
            if dtype not in memory.arrays:
                memory.arrays[dtype] = Array(memory, dtype, memory.view(dtype).shape)
            return memory.arrays[dtype]
        frame = sys._getframe(1)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        return Array(block.shared_array((frame.f_code, frame.f_lasti), n_bytes), dtype, shape)

    def _local_array(self, shape, dtype):
        dtype = _dtype_of(dtype)
        array = np.empty(shape, dtype)
        array.fill(np.nan if dtype.kind == "f" else 0xA5 % (1 << 8 * dtype.itemsize - 1))
        return array

    def _atomic_add(self, array, index, value):
        memory, offset = array.memory, array.offset(index)
        view, position = memory.view(array.dtype), offset // array.dtype.itemsize
        before = view[position]
        view[position] = before + value
        return before


def _dtype_of(number):
    return np.dtype(number.name if isinstance(number, types.Number) else number)


def _replaced(value, replacements, done):
    """What a kernel sees in place of a global or captured name."""
    if isinstance(value, ModuleType):
        return replacements.get(value.__name__.rsplit(".", 1)[-1], value)
    if isinstance(value, types.Number):
        return _dtype_of(value).type  # the same, called faster
    module = getattr(value, "__module__", None) or ""
    if module == "math":  # NumPy's keep float32, and overflow to infinity as a GPU does
        return getattr(np, value.__name__, value)
    if module.startswith("fastbp.cuda.ptx"):
        return getattr(replacements["ptx"], value.__name__)
    if hasattr(value, "py_func") or hasattr(value, "fn"):
        return _emulated(value, replacements, done)
    return value


def _emulated(function, replacements, done):
    """A copy of a kernel or device function that sees the emulated names; so do its callees."""
    function = getattr(function, "py_func", None) or getattr(function, "fn", None) or function
    if function in done:
        return done[function]
    names, cells = {}, [CellType() for _ in function.__closure__ or ()]
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, tuple(cells)
    )
    done[function] = copy
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        cell.cell_contents = _replaced(original.cell_contents, replacements, done)
    for name, value in function.__globals__.items():
        known = name in replacements
        names[name] = replacements[name] if known else _replaced(value, replacements, done)
    return copy


def launch(kernel, grid, block, arguments, *, ptx, memory=(), dynamic_shared_bytes=0, seed=None):
    """Run a kernel to its end; the arrays among its arguments are changed in place.

    Parameters
    ----------
    kernel : function or numba dispatcher
    grid, block : int or tuple of int
        Blocks, and threads a block.
    arguments : sequence
        NumPy arrays (C-contiguous) and numbers.
    ptx : callable
        Makes the namespace of intrinsics for a `Machine`.
    memory : sequence of ndarray
        Further arrays, which the kernel knows by their addresses on the host.
    dynamic_shared_bytes : int, default=0
    seed : int or None, default=None
        Lets the threads run in a random order instead of that of their ranks.

    Raises
    ------
    EmulationError
        For what the module's docstring lists. Errors of the kernel itself pass through.
    """
    machine = Machine(grid, block, dynamic_shared_bytes, seed)
    replacements = {"cuda": EmulatedCuda(machine), "ptx": ptx(machine)}
    for array in memory:
        machine.add_global(array)
    seen = [machine.add_global(one) if isinstance(one, np.ndarray) else one for one in arguments]
    machine.run(_emulated(kernel, replacements, {}), seen)
