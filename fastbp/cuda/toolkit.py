"""The one way to numba-cuda, and what is said where there is none or no GPU that it can use.

`from fastbp.cuda.toolkit import cuda` is the only import of it. Everything else here works without.
"""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec

import numpy as np

OLDEST_CAPABILITY = 7, 5
# The oldest driver that runs what a toolkit of a major version compiles: (release, as it says it).
_OLDEST_DRIVER = {12: ("525", 12000), 13: ("580", 13000)}
_LIBRARIES = "nvvm", "nvrtc", "nvJitLink"
_INSTALL = "pip install 'fastbp[cuda13]' (a driver from 580 on) or 'fastbp[cuda12]' (from 525 on)"
_NO_DEVICE, _OLD_DRIVER, _MISMATCH = 100, 35, 803  # the driver's error codes
_OUT_OF_MEMORY = 2


class DeviceError(RuntimeError):
    """device="cuda" cannot be used here, or is not usable any more."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The GPU's memory does not hold what a fit or a prediction needs."""


@dataclass(frozen=True)
class Findings:
    """What there is of the chain from numba-cuda to a GPU.

    Parameters
    ----------
    numba_cuda, bindings : str or None
        Versions of the packages numba-cuda and cuda-bindings; None where not installed.
    implementation : str
        "NVIDIA" where `numba.cuda` is numba-cuda's.
    missing_libraries : tuple of str
        The toolkit's libraries that cannot be loaded.
    has_driver : bool
        Whether the driver's library can be loaded.
    driver_error : int
        What initialising the driver returned; 0 is success.
    driver_version : int
        As the driver says it: 13000 is CUDA 13.0.
    gpus : tuple of (str, (int, int))
        Names and compute capabilities.
    """

    numba_cuda: str | None = None
    bindings: str | None = None
    implementation: str = "NVIDIA"
    missing_libraries: tuple = ()
    has_driver: bool = False
    driver_error: int = 0
    driver_version: int = 0
    gpus: tuple = ()


def is_simulated():
    """Whether numba's simulator stands in for a GPU: for tests, hundreds of times too slow."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def diagnose(found):
    """Say what is missing and how to get it.

    Parameters
    ----------
    found : Findings

    Returns
    -------
    problem : str or None
        None where a GPU can be used.

    Examples
    --------
    >>> print(diagnose(Findings()))
    there is no NVIDIA driver on this machine. Install one (from 580 on), or use device='cpu'.
    """
    toolkit = int((found.bindings or "13").split(".")[0])
    release, oldest = _OLDEST_DRIVER.get(toolkit, _OLDEST_DRIVER[13])
    if not found.has_driver:
        return (
            "there is no NVIDIA driver on this machine. "
            f"Install one (from {release} on), or use device='cpu'."
        )
    if 0 < found.driver_version < oldest or found.driver_error in (_OLD_DRIVER, _MISMATCH):
        less = ", or use pip install 'fastbp[cuda12]'" if toolkit > 12 else ""
        return (
            f"the NVIDIA driver (for CUDA {_dotted(found.driver_version)}) is older than the "
            f"toolkit (CUDA {toolkit}), or not the one that is loaded. Install driver {release} or "
            f"later and restart{less}."
        )
    if found.driver_error and found.driver_error != _NO_DEVICE:
        return (
            f"the NVIDIA driver does not start (CUDA error {found.driver_error}). Check "
            "nvidia-smi, restart the machine, or use device='cpu'."
        )
    if not found.gpus:
        return (
            "the NVIDIA driver sees no GPU. Check nvidia-smi, CUDA_VISIBLE_DEVICES and, in a "
            "container, that it was given one (docker run --gpus all); or use device='cpu'."
        )
    name, capability = found.gpus[0]
    if capability < OLDEST_CAPABILITY:
        return (
            f"the GPU ({name}) has compute capability {capability[0]}.{capability[1]}, but "
            f"{OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} (Turing, 2018) is the oldest that "
            "the toolkit supports. Use device='cpu'."
        )
    return _diagnose_packages(found)


def _diagnose_packages(found):
    """The same for what is installed along with fastbp."""
    if found.numba_cuda is None:
        return f"numba-cuda is not installed. Use {_INSTALL}."
    if found.implementation != "NVIDIA":
        return (
            "numba's own, deprecated CUDA target hides numba-cuda, whose .pth file Python has not "
            "run. Install fastbp and numba-cuda into one environment instead of by PYTHONPATH, "
            "or import _numba_cuda_redirector first."
        )
    if found.missing_libraries:
        return (
            f"the CUDA toolkit's {', '.join(found.missing_libraries)} cannot be loaded, and "
            f"numba-cuda alone does not bring it. Use {_INSTALL}."
        )
    return None


def _dotted(version):
    """A version as the driver says it, as people do."""
    return f"{version // 1000}.{version % 1000 // 10}"


@cache
def look_around():
    """Look for everything that `device="cuda"` needs. numba-cuda is imported only if it is there.

    Returns
    -------
    found : Findings
    """
    numba_cuda, bindings = _version("numba-cuda"), _version("cuda-bindings")
    implementation, missing = "NVIDIA", ()
    if numba_cuda is not None:
        implementation = getattr(_import_cuda(), "implementation", "Built-in")
        missing = _missing_libraries()
    driver = _load_driver()
    if driver is None:
        return Findings(numba_cuda, bindings, implementation, missing)
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_describe_gpu(driver, index) for index in range(count.value))
    return Findings(numba_cuda, bindings, implementation, missing, True, error, version.value, gpus)


def problem():
    """Why no GPU can be used here, in a sentence that ends with the remedy; None where one can."""
    return None if is_simulated() else diagnose(look_around())


def require_gpu():
    """Raise where no GPU can be used.

    Raises
    ------
    DeviceError
        With what is missing and the remedy.
    """
    reason = problem()
    if reason is not None:
        raise DeviceError(f"device='cuda' cannot be used: {reason}")


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _load_driver():
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _describe_gpu(driver, index):
    name, capability = ctypes.create_string_buffer(256), (ctypes.c_int(), ctypes.c_int())
    driver.cuDeviceGetName(name, len(name), index)
    for number, attribute in zip(capability, (75, 76), strict=True):  # major and minor
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, index)
    return name.value.decode(errors="replace"), tuple(number.value for number in capability)


def _missing_libraries():
    """The libraries that compile and link kernels, as far as they cannot be loaded."""
    from cuda import pathfinder

    missing = []
    for name in _LIBRARIES:
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except Exception:  # whatever the reason, it is not there to be used
            missing.append(name)
    return tuple(missing)


@cache
def _import_cuda():
    # numba-cuda up to 0.30.4 looks this alias up, which NumPy 2.5 has dropped.
    if not hasattr(np, "row_stack"):
        np.row_stack = np.vstack  # noqa: NPY201
    from numba import cuda

    # It warns of launches with few blocks; a small network has no use for more.
    if "NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS" not in os.environ and find_spec("numba_cuda"):
        import_module("numba.cuda.core.config").CUDA_LOW_OCCUPANCY_WARNINGS = 0
    return cuda


def __getattr__(name):
    if name != "cuda":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("numba_cuda") is None and not is_simulated():
        raise DeviceError(f"device='cuda' cannot be used: {_diagnose_packages(Findings())}")
    return _import_cuda()
