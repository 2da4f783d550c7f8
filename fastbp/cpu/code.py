"""The machine code that runs: shipped with the package, or else compiled here by numba.

The choice is made once, when this module is imported, and holds for the whole process: code for
another CPU rounds in other ways, and its memory may have another layout.
"""

import ctypes
import os
import platform
from functools import cache

import numpy as np

from fastbp.cpu import amx
from fastbp.cpu.levels import LEVELS, cpu_information
from fastbp.cpu.records import (
    AMX_SPECIALISATIONS,
    BFLOAT16_AMX,
    KERNELS,
    RANKED,
    SPECIALISATIONS,
    Specialisation,
    tile_rows,
)
from fastbp.cpu.shipped import NotShippedError, load_shipped
from fastbp.precisions import BFLOAT16
from fastbp.threads import available_threads

CHOICE = "FASTBP_KERNELS"  # the variable that names the code to run
HERE = "compiled"  # its value for numba's
# With these numba compiles for another CPU than this machine's.
_VARIABLES_OF_NUMBA = "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"


class NoKernelsError(ImportError):
    """There is no machine code that could run here."""


class CompiledHere:
    """Kernels that numba compiles on this machine.

    Parameters
    ----------
    reason : str
        Why not those that are shipped.
    """

    is_compiled_here = True

    def __init__(self, reason):
        from fastbp.cpu.kernels import jit_enabled

        with jit_enabled():
            from fastbp.cpu.kernels import amx, bfloat16, exports, kernel_cache, simd

        self._exports, self._cache = exports, kernel_cache
        self.vector_bits = simd.VECTOR_BITS
        self.has_bfloat16 = bfloat16.HAS_INSTRUCTIONS
        self.has_amx = amx.HAS_INSTRUCTIONS
        self.description = f"compiled here by numba for {simd.CPU_NAME}, since {reason}"

    @property
    def n_compiled(self):
        """Kernels that this process has compiled, since the cache did not have them."""
        return self._cache.KernelCache.n_compiled

    @property
    def cache_folder(self):
        """Where machine code is kept; None where no folder can be used."""
        return self._cache.kernel_folder()

    def warn(self):
        """Warn of a cache folder that was asked for and is not used."""
        self._cache.warn_of_refused_folders()

    def address(self, specialisation):
        """Address of a kernel's C function, which is compiled or loaded from the cache."""
        return self._exports.compiled_address(specialisation)


def choose(environment):
    """Choose the code that runs.

    Parameters
    ----------
    environment : dict of str
        The process's variables.

    Returns
    -------
    code : fastbp.cpu.shipped.Shipped or CompiledHere

    Raises
    ------
    NoKernelsError
        An ImportError; it says what to do.
    ValueError
        If the variable `CHOICE` has another value than it can have.
    """
    wish = environment.get(CHOICE, "")
    if wish not in ("", HERE, *LEVELS):
        raise ValueError(
            f"{CHOICE} must be one of {', '.join((HERE, *LEVELS))}, or not be set, got {wish!r}."
        )
    set_variables = [name for name in _VARIABLES_OF_NUMBA if environment.get(name)]
    if wish in LEVELS:
        try:
            return load_shipped([wish])
        except NotShippedError as error:
            raise NoKernelsError(f"{CHOICE}={wish}: {error}.") from None
    if wish == HERE:
        reason = f"{CHOICE}={wish} is set"
    elif set_variables:
        verb = "is" if len(set_variables) == 1 else "are"
        reason = f"{' and '.join(set_variables)} {verb} set"
    else:
        try:
            return load_shipped()
        except NotShippedError as error:
            reason = str(error)
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise NoKernelsError(_what_to_do(reason, error, wish or set_variables)) from error
    return CompiledHere(reason)


def _what_to_do(reason, error, is_asked_for):
    if is_asked_for:
        return (
            f"{reason}, which asks for kernels compiled by numba, and numba cannot be imported "
            f"({error}): pip install numba, or unset the variable."
        )
    return (
        f"fastbp has no compiled kernels that run here ({reason}), and numba, which would compile "
        f"them, cannot be imported ({error}): pip install numba."
    )


CODE = choose(os.environ)
IS_COMPILED_HERE = CODE.is_compiled_here
VECTOR_BITS = CODE.vector_bits
TILE_ROWS = tile_rows(VECTOR_BITS)


def lanes(dtype):
    """Numbers of this dtype in one vector register."""
    return VECTOR_BITS // (8 * np.dtype(dtype).itemsize)


def _check(result, function, arguments):
    if result < 0:
        raise RuntimeError("a kernel failed, which is an error in fastbp; please report it")
    return result


@cache
def address_of_kernel(name, real=None, is_sparse=False):
    """Address of a kernel's C function, which may be compiled for it; see `kernel_of`."""
    return CODE.address(Specialisation(name, real, is_sparse))


@cache
def kernel_of(name, real=None, is_sparse=False):
    """A kernel as a function of addresses, which runs without the GIL.

    Parameters
    ----------
    name : str
        One of `fastbp.cpu.records.KERNELS`.
    real : str or None, default=None
        The engine's dtype.
    is_sparse : bool, default=False

    Returns
    -------
    kernel : callable
        It takes the addresses of its records and, if it is `RANKED`, a rank.
    """
    address = address_of_kernel(name, real, is_sparse)
    n_records, n_ranks = len(KERNELS[name]), int(name in RANKED)
    kinds = [ctypes.c_void_p] * n_records + [ctypes.c_int64] * n_ranks
    kernel = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(address)
    kernel.errcheck = _check
    return kernel


@cache
def why_no_amx():
    """Why AMX does not make the products of bfloat16; an empty string where it does.

    The first call asks the system for it, and tries a small product.
    """
    if not CODE.has_amx:
        return "the kernels are not for a CPU that has it"
    return amx.problem_of(lambda: kernel_of("multiply_by_amx", BFLOAT16_AMX))


def precision_of_kernels(precision):
    """By which name the kernels that train in a precision are known: one is AMX's."""
    return BFLOAT16_AMX if precision == BFLOAT16 and not why_no_amx() else precision


def warm_up(dtypes=("float32", "float64"), everything=True):
    """Make kernels ready, so that the next fit need not compile them or load them from the cache.

    Parameters
    ----------
    dtypes : sequence of str, default=("float32", "float64")
    everything : bool, default=True
        Whether to include the kernels for sparse rows and for predictions of a few rows.

    Returns
    -------
    folder : str or None
        The cache folder; None where no folder can be written to, and where kernels are shipped.
    """
    precisions = {None, *map(precision_of_kernels, dtypes)}
    for name, real, is_sparse in (*SPECIALISATIONS, *AMX_SPECIALISATIONS):
        is_basic = not is_sparse and name != "predict_few"
        if (everything or is_basic) and real in precisions:
            kernel_of(name, real, is_sparse)
    CODE.warn()
    return CODE.cache_folder


def describe():
    """What runs on this machine: CPU, code, vector width, threads, cache folder."""
    return {
        "cpu": cpu_information("model name") or platform.processor() or platform.machine(),
        "kernels": CODE.description,
        "vector_bits": VECTOR_BITS,
        "lanes": {name: lanes(name) for name in ("float32", "float64")},
        "has_bfloat16": CODE.has_bfloat16,
        "has_amx": CODE.has_amx,
        "why_no_amx": why_no_amx(),
        "n_threads": available_threads(),
        "cache_folder": CODE.cache_folder,
    }
