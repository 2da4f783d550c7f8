"""Arrays between unreadable pages: what reads or writes beyond their ends ends the process.

Run what is to be tested in a process of its own (`tests/processes.py`).
"""

import ctypes
import mmap
from functools import cache

import numpy as np

PAGE = mmap.PAGESIZE
# What fills the rest of an array's pages: NaN, or the largest number, wherever it is read.
FILLING = 0xFF
LAYOUTS = ("C", "F", "strided", "reversed", "unaligned", "rows", "columns", "window")


def is_available():
    """Whether this system can protect pages."""
    return hasattr(mmap, "PROT_READ") and hasattr(_library(), "mprotect")


@cache
def _library():
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "mprotect"):
        library.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return library


def _protect(memory, start, size, protection):
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + start
    if _library().mprotect(address, size, protection) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")


def _strides(shape, itemsize, layout):
    """Bytes from one row to the next, and from one column to the next."""
    n_rows, n_columns = shape
    return {
        "C": (n_columns * itemsize, itemsize),
        "F": (itemsize, n_rows * itemsize),
        "strided": (3 * n_columns * itemsize + itemsize, 2 * itemsize),
        "reversed": (-n_columns * itemsize, -itemsize),
        "unaligned": (n_columns * itemsize + 1, itemsize),  # as a field of records is
        "rows": (0, itemsize),  # one row, again and again
        "columns": (itemsize, 0),
        "window": (itemsize, itemsize),  # each row starts one number after the one before
    }[layout]


def guarded(values, at_end=True, layout="C", writeable=True):
    """Copy an array to pages of its own, so that one end of it touches an unreadable page.

    Parameters
    ----------
    values : array-like of one or two dimensions
    at_end : bool, default=True
        Whether its last byte, not its first one, touches the page.
    layout : str, default="C"
        Of two dimensions, one of `LAYOUTS`. Where numbers share memory, the last ones written stay.
    writeable : bool, default=True
        If false, a write ends the process, too. NumPy does not know: numba would compile its
        functions anew for read-only arrays.

    Returns
    -------
    array : ndarray
    """
    values = np.asarray(values)
    strides = (values.itemsize,)
    if values.ndim == 2:
        strides = _strides(values.shape, values.itemsize, layout)
    spans = [(n - 1) * stride for n, stride in zip(values.shape, strides, strict=True)]
    before = -sum(min(0, span) for span in spans)
    n_bytes = before + sum(max(0, span) for span in spans) + values.itemsize if values.size else 0
    size = max(1, -(-n_bytes // PAGE)) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    np.frombuffer(memory, np.uint8)[:] = FILLING
    start = PAGE + (size - n_bytes if at_end else 0) + before
    array = np.ndarray(values.shape, values.dtype, memory, start, strides)
    array[...] = values
    _protect(memory, 0, PAGE, 0)
    _protect(memory, PAGE + size, PAGE, 0)
    if not writeable:
        _protect(memory, PAGE, size, mmap.PROT_READ)
    return array


def touch(offset, at_end, writes):
    """Read, or write, the number at an offset from the end of an array that touches the page."""
    array = guarded(np.arange(5.0), at_end, writeable=False)
    number = ctypes.c_double.from_address(array.ctypes.data + 8 * (offset + 4 * at_end))
    if writes:
        number.value = 1.0
    return number.value
