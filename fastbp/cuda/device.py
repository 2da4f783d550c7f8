"""Memory, launches and graphs on one GPU: the thin layer between programs and CUDA libraries.

Everything runs on one stream of its own, which does not wait for the default stream: fits
side by side in Python threads do not disturb each other, not even while one records a graph.
"""

from contextlib import contextmanager
from functools import cache

import numpy as np

from fastbp.cuda.toolkit import DeviceError, DeviceMemoryError, is_simulated, require_gpu

_GIB = 2**30
_KEPT_BYTES = 2**16  # a larger host array is waited for instead of copied and kept


@contextmanager
def reporting(device=None):
    """Turn errors of the CUDA libraries into `DeviceError`, with the remedy."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if "OUT_OF_MEMORY" in text:
            size = f" of {device.memory / _GIB:.1f} GiB" if device is not None else ""
            raise DeviceMemoryError(
                f"device='cuda': the GPU's memory{size} is full. Lower batch_size, use "
                "precision='float32', end other programs on the GPU (nvidia-smi lists them), or "
                "use device='cpu'."
            ) from error
        if "before forking" in text:
            raise DeviceError(
                "device='cuda': this process was forked from one that has used the GPU, and CUDA "
                "does not outlive a fork. Start it by multiprocessing's 'spawn' or joblib's loky, "
                "or use device='cpu'."
            ) from error
        if "CUDA_ERROR" in text:
            raise DeviceError(
                f"device='cuda': the GPU failed and is lost to this process ({text}). Nothing of "
                "this call is kept. Restart Python; if it happens again, see nvidia-smi and the "
                "system's log, or use device='cpu'."
            ) from error
        raise


class Device:
    """The first GPU that CUDA shows, and a stream on it.

    Attributes
    ----------
    stream : object
        numba's; kernels, copies and graphs all go there.
    name : str
    capability : (int, int)
        Compute capability.
    n_multiprocessors : int
    shared_memory : int
        Bytes that a block may have at most, after `allow_shared_memory`.
    multiprocessor_memory : int
        Bytes of shared memory of a multiprocessor, which its blocks divide.
    memory : int
        Bytes of the GPU's memory.

    Raises
    ------
    DeviceError
        Where there is no usable GPU.
    """

    def __init__(self):
        require_gpu()
        from fastbp.cuda.toolkit import cuda

        self._cuda, self._kept = cuda, []  # host arrays that may still be read
        if is_simulated():
            self.stream, self._core_stream = 0, None
            self.name, self.capability, self.n_multiprocessors = "simulator", (8, 0), 4
            self.shared_memory, self.memory = 48 * 1024, _GIB
            self.multiprocessor_memory = 2 * self.shared_memory
            return
        with reporting():
            from cuda.core import Device as CoreDevice

            found = cuda.get_current_device()  # numba makes the primary context
            core = CoreDevice(found.id)
            core.set_current()
            self._core_stream = core.create_stream()  # does not wait for the default stream
            self.stream = cuda.external_stream(int(self._core_stream.handle))
            self.name = core.name
            self.capability = tuple(found.compute_capability)
            self.n_multiprocessors = found.MULTIPROCESSOR_COUNT
            self.shared_memory = found.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            self.multiprocessor_memory = found.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            self.memory = cuda.current_context().get_memory_info().total

    # ---- memory -------------------------------------------------------------------------------

    def empty(self, shape, dtype):
        """An array on the device, its contents undefined."""
        with reporting(self):
            return self._cuda.device_array(shape, dtype)

    def zeros(self, shape, dtype):
        """An array of zeros on the device."""
        return self.upload(np.zeros(shape, dtype))

    def upload(self, array):
        """A copy of a host array on the device, C-contiguous; the host array may change after."""
        with reporting(self), self._lent(array) as lent:
            return self._cuda.to_device(lent, stream=self.stream)

    def write(self, target, array):
        """Overwrite a device array, or its beginning, by a host array, which may change after."""
        with reporting(self), self._lent(np.asarray(array, target.dtype)) as lent:
            target[: len(lent)].copy_to_device(lent, stream=self.stream)

    @contextmanager
    def _lent(self, array):
        """A host array for a copy, which CUDA may read later than the call returns."""
        if array.nbytes <= _KEPT_BYTES:
            lent = np.array(array, order="C")
            self._kept.append(lent)
            yield lent
        else:
            yield np.ascontiguousarray(array)
            self.synchronize()

    def read(self, array):
        """A copy of a device array on the host. Waits until all work has been done."""
        with reporting(self):
            host = array.copy_to_host(stream=self.stream)
            self.synchronize()
        return host

    def synchronize(self):
        """Wait until all work has been done."""
        with reporting(self):
            (self._cuda if self._core_stream is None else self.stream).synchronize()
        self._kept.clear()

    # ---- launches -----------------------------------------------------------------------------

    def launch(self, kernel, grid, block, *arguments, shared_memory=0):
        """Launch a kernel of `cuda.jit`; inside `record`, into the graph."""
        with reporting(self):
            kernel[grid, block, self.stream, shared_memory](*arguments)

    def record(self, work):
        """Make a graph of the launches that `work()` makes.

        Every kernel in it must have been launched before, since nothing may be compiled or
        allocated meanwhile; so `work` runs twice, the first time in earnest.

        Returns
        -------
        replay : callable
            Launches them all at once. In the simulator, `work` itself.
        """
        if self._core_stream is None:
            return work
        with reporting(self):
            builder = self._core_stream.create_graph_builder()
            try:
                builder.begin_building()
                work()
                builder.end_building()
            except BaseException:  # Ctrl-C too: a stream that goes on recording does nothing else
                builder.close()
                raise
            graph = builder.complete()
            graph.upload(self._core_stream)
        return _Replay(self, graph)

    def allow_shared_memory(self, kernel, n_bytes):
        """Let a compiled kernel have more than 48 KB of dynamic shared memory a block.

        The kernel must have been compiled: by a launch, or by `kernel.compile(signature)`.
        """
        if self._core_stream is None:
            return
        from cuda.bindings import driver

        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        with reporting(self):
            index = self._cuda.get_current_device().id
            for compiled in kernel.overloads.values():
                handle = compiled._codelibrary.get_cufunc().kernel.handle
                (error,) = driver.cuKernelSetAttribute(attribute, n_bytes, handle, index)
                if error != driver.CUresult.CUDA_SUCCESS:
                    raise RuntimeError(f"{error!s} at cuKernelSetAttribute({n_bytes})")


class _Replay:
    """A recorded graph, launched by a call."""

    def __init__(self, device, graph):
        self._device, self._graph = device, graph

    def __call__(self):
        with reporting(self._device):
            self._graph.launch(self._device._core_stream)


def address_of(array):
    """Where an array starts on the device."""
    return array.__cuda_array_interface__["data"][0]


@cache
def compiled(kernel):
    """A kernel of a registry as `cuda.jit` makes it: lazily, for the arguments that it meets."""
    from fastbp.cuda.toolkit import cuda

    return cuda.jit(kernel)
