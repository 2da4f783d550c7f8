"""Whether this process may use AMX, and whether it computes what is expected of it.

No CPU with AMX has run these kernels before the user's: they are compiled for it, and tested with
registers that are emulated. So a small product is compared with NumPy's before the first training.
"""

import ctypes
import errno
import os

import numpy as np

from fastbp.cpu.packing import Packed
from fastbp.cpu.records import BFLOAT16_AMX, GROUP_ROWS, SQUARE, AmxProduct, AmxScratch
from fastbp.warned import warn

# Of Linux on x86-64: the state of AMX's registers is 8 KB that no thread has until it is asked for.
_ARCH_PRCTL, _REQUEST_PERMISSION, _SQUARES_OF_NUMBERS = 158, 0x1023, 18
_DEPTH = 2 * SQUARE + 5  # in pairs: two whole squares and a part of one
_SMALL = 8  # numbers up to this are exact in bfloat16, and so are sums of their products in float32


def permission_problem():
    """Ask the system to let this process use AMX; say why it does not.

    Asked again, it answers as before. All threads may use it then, and forked children.

    Returns
    -------
    problem : str
        Empty where it does.
    """
    try:
        system_call = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError, TypeError):
        return "the system is not Linux"
    if system_call(_ARCH_PRCTL, _REQUEST_PERMISSION, _SQUARES_OF_NUMBERS) == 0:
        return ""
    number = ctypes.get_errno()
    name = errno.errorcode.get(number, number)
    return f"the system does not permit it ({name}: {os.strerror(number)})"


def make_scratch(width, zeros=np.zeros):
    """Make what one thread needs for products of panels of at most this width."""
    squares = (zeros(SQUARE * GROUP_ROWS, np.int32) for _ in range(2))
    return AmxScratch(zeros(GROUP_ROWS * width, np.float32), *squares)


def _small_product(width, n_rows):
    """The operands of a product of small integers, as a record, and the product by NumPy."""
    draw = np.random.default_rng(width)
    left, right, bias = (
        draw.integers(-_SMALL, _SMALL + 1, shape).astype(np.float32)
        for shape in ((GROUP_ROWS, 2 * _DEPTH), (2 * _DEPTH, width), width)
    )

    def pairs_of(rows):
        halves = np.ascontiguousarray(rows).view(np.uint32) >> 16
        return halves.astype(np.uint16).ravel().view(np.int32)

    by_columns = right.reshape(_DEPTH, 2, width).transpose(0, 2, 1)
    product = AmxProduct(
        pairs_of(left), pairs_of(by_columns), bias, make_scratch(width), _DEPTH, n_rows,
        int(width > SQUARE),
    )  # fmt: skip
    return product, left @ right + bias


def product_problem(multiply):
    """Compare small products with NumPy's, for every way to fill registers.

    Parameters
    ----------
    multiply : callable
        The kernel `multiply_by_amx`.

    Returns
    -------
    problem : str
        Empty where they are equal, as they must be: no rounding comes into it.
    """
    for width in (SQUARE, 2 * SQUARE):
        for n_rows in (SQUARE, GROUP_ROWS):
            product, expected = _small_product(width, n_rows)
            record = Packed(product, BFLOAT16_AMX, False)
            multiply(record.address)
            found = product.scratch.sums.reshape(GROUP_ROWS, width)[:n_rows]
            if not np.array_equal(found, expected[:n_rows]):
                return "a small product is not NumPy's"
    return ""


def problem_of(find_kernel):
    """Why AMX is not to be used; an empty string where it is. Warns of wrong products.

    Parameters
    ----------
    find_kernel : callable
        Returns the kernel `multiply_by_amx`, which is not called without permission.
    """
    problem = permission_problem()
    if problem:
        return problem
    problem = product_problem(find_kernel())
    if problem:
        warn(
            f"AMX is not to be trusted on this CPU: {problem}. Products of bfloat16 are made "
            "without it. Please report it, with what `fastbp info` prints."
        )
    return problem
