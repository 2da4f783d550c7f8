"""exp and tanh as arithmetic that loops over them turn into vector instructions.

The C library's versions are calls that keep a loop scalar. Compiled without reassociation, which
would fold the two-part constants and the rounding trick away.
"""

import math
from types import FunctionType

import numpy as np
from numba import njit, types
from numba.extending import overload

from fastbp.cpu.compilation import PART_OPTIONS, kernel

_ARITHMETIC = {"fastmath": {"contract"}, **PART_OPTIONS}


def _make_exponential(real, integer, mantissa_bits, degree, limits, ln2_parts):
    """Build the function x -> (s, p) with eˣ = s (1 + p), s a power of two and |p| < √2 − 1.

    Cody and Waite's argument reduction, x = n ln 2 + r with |r| ≤ ln 2 / 2, then the Taylor
    polynomial of eʳ − 1, whose truncation error is below rounding at the degree given.
    """
    lowest, highest = (real(limit) for limit in limits)
    log2_e = real(1 / math.log(2))
    ln2_high, ln2_low = (real(part) for part in ln2_parts)
    # Adding 1.5 · 2^mantissa rounds to an integer and leaves it in the low bits.
    rounder = real(1.5 * 2**mantissa_bits)
    shift = integer(mantissa_bits)
    bias = real(1).view(integer)
    one, zero = real(1), real(0)
    coefficients = tuple(real(1 / math.factorial(k)) for k in range(degree, 0, -1))

    @njit(**_ARITHMETIC)
    def polynomial(r):
        total = zero
        for coefficient in coefficients:
            total = total * r + coefficient
        return total * r

    @njit(**_ARITHMETIC)
    def split(x):
        x = lowest if x < lowest else (highest if x > highest else x)
        rounded = x * log2_e + rounder
        n = rounded - rounder
        r = (x - n * ln2_high) - n * ln2_low
        scale = integer((real(rounded).view(integer) << shift) + bias).view(real)
        return scale, polynomial(r)

    @njit(**_ARITHMETIC)
    def exp(x):
        scale, p = split(x)
        result = scale + scale * p
        result = zero if x < lowest else result
        return real(np.inf) if x > highest else result

    @njit(**_ARITHMETIC)
    def tanh(x):
        # expm1(2x) / (expm1(2x) + 2); tanh is 1 to rounding long before 20.
        limit = real(20)
        doubled = x + x
        doubled = limit + limit if x > limit else (-limit - limit if x < -limit else doubled)
        scale, p = split(doubled)
        expm1 = scale * p + (scale - one)
        return expm1 / (expm1 + real(2))

    return exp, tanh


_EXP32, _TANH32 = _make_exponential(
    np.float32, np.int32, 23, 7, (-87.33, 88.37), (0.693359375, -2.12194440054690583e-4)
)
_EXP64, _TANH64 = _make_exponential(
    np.float64,
    np.int64,
    52,
    13,
    (-708.3, 709.4),
    (0.693147180369123816490, 1.90821492927058770e-10),
)


def exp(x):
    """eˣ; 0 and inf beyond the range of normal numbers, NaN of NaN."""
    return math.exp(x)


def tanh(x):
    """Hyperbolic tangent."""
    return math.tanh(x)


@overload(exp, jit_options=_ARITHMETIC)
def _overload_exp(x):
    function = _EXP32 if x == types.float32 else _EXP64
    return lambda x: function(x)


@overload(tanh, jit_options=_ARITHMETIC)
def _overload_tanh(x):
    function = _TANH32 if x == types.float32 else _TANH64
    return lambda x: function(x)


def compile_formula(function, **callees):
    """Compile a scalar formula with exp and tanh that turn into vector instructions.

    `callees` are the compiled versions of the formulas that it calls.
    """
    names = {"exp": exp, "tanh": tanh}
    names = {**function.__globals__, **names, **callees}
    return kernel(FunctionType(function.__code__, names, function.__name__))
