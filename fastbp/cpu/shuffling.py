"""Shuffling rows as NumPy's RandomState does, to the bit, in half the time."""

import ctypes

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.cpu.compilation import cached_kernel
from fastbp.cpu.spans import span_of

# Numbers to be shuffled in all from which the kernel is worth compiling, which takes 0.1 s.
WORTH_COMPILING = 1_000_000
FEW = 500  # below this NumPy is as fast
_CHUNK = 1024  # picks that are drawn before their rows are exchanged


@intrinsic
def _draw(typing_context, function, state):
    """Draw 32 bits: the arguments are the addresses of ``next_uint32`` and of its state."""

    def codegen(context, builder, signature, arguments):
        pointer = ir.IntType(8).as_pointer()
        draw = ir.FunctionType(ir.IntType(32), [pointer]).as_pointer()
        function, state = arguments
        state = builder.inttoptr(state, pointer)
        number = builder.call(builder.inttoptr(function, draw), [state])
        return builder.zext(number, ir.IntType(64))

    return types.int64(types.intp, types.intp), codegen


@cached_kernel
def _shuffle(rows, picks, next_uint32, state):
    """Exchange each row, from the last to the second, with one at or before it.

    Numbers of as many bits as the row's index has are drawn until one is at most the index. NumPy
    branches on this, which the processor cannot predict; here a number that is too large is simply
    overwritten by the next.
    """
    rows, picks = span_of(rows), span_of(picks)
    row = rows.size - 1
    mask = np.int64(1)
    while mask < row:
        mask = 2 * mask + 1
    while row > 0:
        first, count = row, np.int64(0)
        while row > 0 and count < picks.size:
            pick = _draw(next_uint32, state) & mask
            picks[count] = pick
            is_taken = np.int64(pick <= row)
            count += is_taken
            row -= is_taken
            mask >>= np.int64(row == mask >> 1)
        for i in range(count):
            one, other = first - i, picks[i]
            rows[one], rows[other] = rows[other], rows[one]


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
    bit_generator = random_state._bit_generator  # public only in numpy.random.Generator
    interface = bit_generator.ctypes
    next_uint32 = ctypes.cast(interface.next_uint32, ctypes.c_void_p).value
    with bit_generator.lock:
        _shuffle(rows, np.empty(_CHUNK, np.int64), next_uint32, interface.state_address)
