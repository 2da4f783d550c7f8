"""Kernels that run as one cluster of blocks: numba-cuda compiles them, cuda.core launches them.

numba-cuda cannot launch clusters, and would compile a kernel again in every process; so the machine
code is kept in a file, as the CPU's is.
"""

import hashlib
import os
import re
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path

from fastbp.cpu.compilation import cache_folder
from fastbp.cuda.device import reporting

REGISTERS = 65_536  # of a multiprocessor
_PROBE = """.version 7.8
.target sm_90
.address_size 64
.visible .entry probe() { ret; }
"""


def largest_cluster(device):
    """Most blocks of a cluster, each with a multiprocessor to itself: 16, 8 or 1.

    More than 8 are not promised by any generation of GPUs: it depends on how many multiprocessors
    of a group are in working order.
    """
    if device.capability < (9, 0):
        return 1
    with reporting(device):
        code = link(_PROBE, device.capability, 255)
        for size in (16, 8):
            if ClusterKernel(device, code, "probe", size, 32, device.shared_memory).fits:
                return size
    return 1


class ClusterKernel:
    """A kernel as one cluster, or as several that know nothing of each other.

    Parameters
    ----------
    device : Device
    code : bytes
        Machine code (cubin).
    name : str
        The kernel's name in it.
    cluster : int
        Blocks.
    threads : int
        Of a block.
    shared_memory : int
        Bytes of dynamic shared memory a block.
    n_clusters : int, default=1
    """

    def __init__(self, device, code, name, cluster, threads, shared_memory, n_clusters=1):
        from cuda.core import LaunchConfig, ObjectCode

        self.device = device
        with reporting(device):
            self._kernel = ObjectCode.from_cubin(code).get_kernel(name)
            _set_attribute(self._kernel, "MAX_DYNAMIC_SHARED_SIZE_BYTES", shared_memory)
            if cluster > 8:
                _set_attribute(self._kernel, "NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)
            # With a cluster given, the grid counts clusters.
            self._config = LaunchConfig(
                grid=n_clusters, cluster=cluster, block=threads, shmem_size=shared_memory
            )

    @property
    def fits(self):
        """Whether the GPU can run the cluster."""
        stream, occupancy = self.device.core_stream, self._kernel.occupancy
        try:
            return occupancy.max_active_clusters(self._config, stream=stream) > 0
        except Exception as error:
            if "CLUSTER" in str(error) or "INVALID" in str(error):
                return False  # some drivers say so by an error
            raise

    def __call__(self, *arguments):
        """Launch it on the device's stream; arguments are integers of 64 bits: addresses."""
        from ctypes import c_int64

        from cuda.core import launch

        with reporting(self.device):
            launch(self.device.core_stream, self._config, self._kernel, *map(c_int64, arguments))


def _set_attribute(kernel, name, value):
    from cuda.bindings import driver
    from cuda.core import Device

    attribute = getattr(driver.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")
    (error,) = driver.cuKernelSetAttribute(attribute, value, kernel.handle, Device().device_id)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{error!s} at cuKernelSetAttribute({name}, {value})")


def compile_cluster(device, make_kernel, layout, signature):
    """Machine code of a kernel for a layout, from its file or compiled: (code, name).

    Parameters
    ----------
    device : Device
    make_kernel : callable
        Makes the kernel's Python function of the layout.
    layout : ClusterLayout or PassLayout
        `constants` are what the kernel is made of, `kernel` is its name.
    signature : tuple of numba types
    """
    from fastbp.cuda.toolkit import cuda

    name = layout.kernel
    what = repr((name, layout.constants, device.capability, _digest()))
    kind = hashlib.sha256(what.encode()).hexdigest()[:32]
    folder = cache_folder()
    path = None if folder is None else Path(folder) / f"cluster-{kind}.cubin"
    if path is None or not path.is_file():
        with reporting(device):
            text, _ = cuda.compile_ptx(make_kernel(layout), signature, cc=device.capability)
            # A name without the digest of a closure's address, so that the file tells it.
            mangled = re.search(r"\.visible \.entry (\w+)", text)[1]
            code = link(text.replace(mangled, name), device.capability, registers_for(layout.shape))
        _keep(path, code)
        return code, name
    return path.read_bytes(), name


def registers_for(shape):
    """How many registers a thread may take."""
    return min(255, REGISTERS // (32 * shape.warps))


def link(text, capability, registers):
    """Make machine code of PTX, with at most so many registers a thread."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch="sm_{}{}".format(*capability), max_register_count=registers)
    return Linker(ObjectCode.from_ptx(text.encode()), options=options).link("cubin").code


def _keep(path, code):
    """Write a file at once, or not at all: another process may do the same."""
    if path is None:
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        os.replace(temporary, path)
    except OSError:
        pass  # a folder that cannot be written to costs time only


@cache
def _digest():
    """Fingerprint of all source that a kernel is made of, and of its compiler."""
    versions = [metadata.version(package) for package in ("numba-cuda", "numba", "llvmlite")]
    digest = hashlib.sha256(" ".join(versions).encode())
    folder = Path(__file__).parents[1]
    formulas = [folder.parent / name for name in ("functions.py", "optimizers.py")]
    for path in sorted([*formulas, *folder.rglob("*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
