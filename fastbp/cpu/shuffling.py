"""Shuffling rows as NumPy's RandomState does, to the bit, in half the time."""

import ctypes

import numpy as np

from fastbp.cpu.code import IS_COMPILED_HERE, kernel_of
from fastbp.cpu.packing import Packed
from fastbp.cpu.records import Shuffle

# Numbers to be shuffled in all from which the kernel is worth compiling, which takes 0.1 s.
WORTH_COMPILING = 1_000_000 if IS_COMPILED_HERE else 0
FEW = 500  # below this NumPy is as fast
_CHUNK = 1024  # picks that are drawn before their rows are exchanged


def shuffle(random_state, rows, times=1):
    """Shuffle rows in place, exactly as ``random_state.shuffle(rows)`` does.

    Parameters
    ----------
    random_state : numpy.random.RandomState
        Its state afterwards is the same as after that call.
    rows : ndarray of shape (n_rows,), dtype int64 or int32, contiguous
    times : int, default=1
        Upper bound of the number of such calls, to decide whether the kernel is worth compiling.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.arange(10)
    >>> shuffle(np.random.RandomState(0), rows)
    >>> rows
    array([2, 8, 4, 9, 1, 6, 7, 3, 0, 5])
    """
    if rows.size < FEW or rows.size * times < WORTH_COMPILING:
        random_state.shuffle(rows)
        return
    wide = rows.astype(np.int64, copy=False)
    shuffle, lock = describe_shuffle(random_state, wide)
    call = Packed(shuffle)
    with lock:
        kernel_of("shuffle_rows")(call.address)
    if wide is not rows:
        rows[...] = wide


def describe_shuffle(random_state, rows):
    """A shuffle of rows for kernels, and the lock of the generator, to be held while they run.

    Parameters
    ----------
    random_state : numpy.random.RandomState
    rows : ndarray of shape (n_rows,), dtype int64, contiguous

    Returns
    -------
    shuffle : Shuffle
    lock : context manager
    """
    bit_generator = random_state._bit_generator  # public only in numpy.random.Generator
    interface = bit_generator.ctypes
    next_uint32 = ctypes.cast(interface.next_uint32, ctypes.c_void_p).value
    picks = np.empty(_CHUNK, np.int64)
    return Shuffle(rows, picks, next_uint32, interface.state_address), bit_generator.lock
