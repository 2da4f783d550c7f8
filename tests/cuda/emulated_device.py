"""A device that runs launches in the emulator, block by block, for programs on tensor cores.

Their blocks do not speak with each other, so one after the other gives the same result, with far
fewer Python threads at once.
"""

from types import SimpleNamespace

import emulator
import numpy as np
from emulated_ptx import EmulatedPtx

from fastbp.cuda import formulas

# Their threads never meet: they can run one after the other.
_WITHOUT_BARRIERS = (
    "gather", "round_weights", "copy_matrix", "sum_columns",
)  # fmt: skip

ALIGNMENT = 256  # of the memory that CUDA gives


class DeviceArray(np.ndarray):
    """An array on the emulated device: the host's, with a device array's address."""

    @property
    def __cuda_array_interface__(self):
        return {"data": (self.__array_interface__["data"][0], False)}


class EmulatedDevice:
    """The verbs of `fastbp.cuda.device.Device`.

    Parameters
    ----------
    shared_memory : int
        As of an H200.
    """

    n_multiprocessors, capability = 132, (9, 0)

    def __init__(self, shared_memory=232_448):
        self.shared_memory = shared_memory
        self.arrays = []
        self.launches = []

    def empty(self, shape, dtype):
        return self.upload(np.full(shape, 0x7F, dtype))

    def zeros(self, shape, dtype):
        return self.upload(np.zeros(shape, dtype))

    def upload(self, array):
        array = np.asarray(array)
        memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
        start = -memory.__array_interface__["data"][0] % ALIGNMENT
        copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        self.arrays.append(copy.view(DeviceArray))
        return self.arrays[-1]

    def write(self, target, array):
        target[: len(array)] = array

    def read(self, array):
        return np.array(array)

    def synchronize(self):
        pass

    def record(self, work):
        return work

    def allow_shared_memory(self, kernel, n_bytes):
        assert n_bytes <= self.shared_memory

    def launch(self, kernel, grid, block, *arguments, shared_memory=0):
        """Run a kernel's blocks one after the other.

        The memory is the same for all of them: what one block writes and another touches is a race.
        """
        self.launches.append(kernel.__name__)
        machine = emulator.Machine(1, block, dynamic_shared_bytes=shared_memory)
        machine.grid_shape = shape = emulator._triple(grid)
        seen = self._arguments(machine, arguments)
        function = self._function(machine, kernel)
        for rank in range(shape.x * shape.y):
            one = emulator.Block(machine, rank, block, shared_memory)
            machine.blocks, machine.threads = [one], one.threads
            machine.runnable, machine.live = list(one.threads), block
            if kernel.__name__ in _WITHOUT_BARRIERS:
                with np.errstate(all="ignore"):
                    for machine.current in one.threads:
                        function(*seen)
            else:
                machine.run(function, seen)

    def _arguments(self, machine, arguments):
        for array in self.arrays:
            if array.size:
                machine.add_global(array)
        is_array = [isinstance(one, np.ndarray) for one in arguments]
        return [
            machine.add_global(one) if array else one
            for one, array in zip(arguments, is_array, strict=True)
        ]

    def _function(self, machine, kernel):
        names, done = {"cuda": emulator.EmulatedCuda(machine), "ptx": EmulatedPtx(machine)}, {}
        names["formulas"] = SimpleNamespace(
            **{key: emulator._replaced(one, names, done) for key, one in vars(formulas).items()}
        )
        return emulator._emulated(kernel, names, done)
