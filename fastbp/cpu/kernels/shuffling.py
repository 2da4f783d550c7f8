"""The exchanges by which NumPy's RandomState shuffles rows, to the bit, in half the time."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.cpu.kernels.compilation import Exported, kernel


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


@kernel
def shuffle(call):
    """Exchange each row, from the last to the second, with one at or before it.

    Numbers of as many bits as the row's index has are drawn until one is at most the index. NumPy
    branches on this, which the processor cannot predict; here a number that is too large is simply
    overwritten by the next.
    """
    rows, picks = call.rows, call.picks
    row = rows.size - 1
    mask = np.int64(1)
    while mask < row:
        mask = 2 * mask + 1
    while row > 0:
        first, count = row, np.int64(0)
        while row > 0 and count < picks.size:
            pick = _draw(call.next_uint32, call.state) & mask
            picks[count] = pick
            is_taken = np.int64(pick <= row)
            count += is_taken
            row -= is_taken
            mask >>= np.int64(row == mask >> 1)
        for i in range(count):
            one, other = first - i, picks[i]
            rows[one], rows[other] = rows[other], rows[one]


@Exported
def shuffle_rows(call):
    """Shuffle some rows once."""
    shuffle(call)
