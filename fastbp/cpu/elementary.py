"""exp, tanh and log as arithmetic that loops over them turn into vector instructions.

The C library's versions are calls that keep a loop scalar. Compiled without reassociation, which
would fold the two-part constants and the rounding trick away.
"""

import math
from types import FunctionType

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from fastbp.cpu.compilation import PART_OPTIONS, kernel

_ARITHMETIC = {"fastmath": {"contract"}, **PART_OPTIONS}


@intrinsic
def reinterpret(typing_context, value, dtype):
    """The number of another type that has the same bits."""
    signature = dtype.dtype(value, dtype)

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return signature, codegen


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
    zero, one, two, limit, infinity = map(real, (0, 1, 2, 40, math.inf))
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
        scale = reinterpret(integer((reinterpret(rounded, integer) << shift) + bias), real)
        return scale, polynomial(r)

    def exp(x):
        scale, p = split(x)
        result = scale + scale * p
        result = zero if x < lowest else result
        return infinity if x > highest else result

    def tanh(x):
        # expm1(2x) / (expm1(2x) + 2); tanh is 1 to rounding long before 20.
        doubled = x + x
        doubled = limit if doubled > limit else (-limit if doubled < -limit else doubled)
        scale, p = split(doubled)
        expm1 = scale * p + (scale - one)
        return expm1 / (expm1 + two)

    return exp, tanh


def _make_logarithm(real, integer, mantissa_bits, degree, ln2_parts):
    """Build the function x -> ln x.

    With x = 2ⁿ m, m in [√½, √2), and s = (m - 1) / (m + 1):
    ln x = n ln 2 + 2 s (1 + s²/3 + s⁴/5 …),
    whose truncation error is below rounding at the degree given.
    """
    ln2_high, ln2_low = (real(part) for part in ln2_parts)
    zero, quarter, one, two = map(real, (0, 0.25, 1, 2))
    infinity, nan = real(math.inf), real(math.nan)
    smallest, shift = np.finfo(real).smallest_normal, integer(mantissa_bits)
    mantissa = integer(2**mantissa_bits - 1)
    root = real(math.sqrt(0.5)).view(integer)
    offset = integer(one.view(integer) - root)
    bias = integer(one.view(integer) >> shift)
    enlarged, enlarged_by = real(2.0 ** (mantissa_bits + 2)), real(mantissa_bits + 2)
    coefficients = tuple(real(1 / (2 * k + 1)) for k in range(degree, 0, -1))

    @njit(**_ARITHMETIC)
    def series(square):
        total = zero
        for coefficient in coefficients:
            total = total * square + coefficient
        return total * square

    def log(x):
        is_subnormal = x < smallest
        bits = reinterpret(x * enlarged if is_subnormal else x, integer) + offset
        n = real((bits >> shift) - bias) - (enlarged_by if is_subnormal else zero)
        f = reinterpret(integer((bits & mantissa) + root), real) - one
        doubled = (f + f) / (f + two)
        log_m = doubled + doubled * series(doubled * doubled * quarter)
        result = n * ln2_high + (log_m + n * ln2_low)
        result = result if x < infinity else x
        return result if x > zero else (-infinity if x == zero else nan)

    return log


_LN2_SINGLE = 0.693359375, -2.12194440054690583e-4
_LN2_DOUBLE = 0.693147180369123816490, 1.90821492927058770e-10
_SINGLE = (
    *_make_exponential(np.float32, np.int32, 23, 7, (-87.33, 88.37), _LN2_SINGLE),
    _make_logarithm(np.float32, np.int32, 23, 5, _LN2_SINGLE),
)
_DOUBLE = (
    *_make_exponential(np.float64, np.int64, 52, 13, (-708.3, 709.4), _LN2_DOUBLE),
    _make_logarithm(np.float64, np.int64, 52, 11, _LN2_DOUBLE),
)


def exp(x):
    """eˣ; NaN of NaN. 0 or inf from 0.4 before the smallest or largest normal number on."""
    return math.exp(x)


def tanh(x):
    """Hyperbolic tangent."""
    return math.tanh(x)


def log(x):
    """Natural logarithm; -inf of 0, NaN of negative numbers and of NaN."""
    return math.log(x)


@overload(exp, jit_options=_ARITHMETIC)
def _overload_exp(x):
    return (_SINGLE if x == types.float32 else _DOUBLE)[0]


@overload(tanh, jit_options=_ARITHMETIC)
def _overload_tanh(x):
    return (_SINGLE if x == types.float32 else _DOUBLE)[1]


@overload(log, jit_options=_ARITHMETIC)
def _overload_log(x):
    return (_SINGLE if x == types.float32 else _DOUBLE)[2]


def compile_formula(function, **callees):
    """Compile a scalar formula with exp, tanh and log that turn into vector instructions.

    `callees` are the compiled versions of the formulas that it calls.
    """
    names = {"exp": exp, "tanh": tanh, "log": log}
    names = {**function.__globals__, **names, **callees}
    return kernel(FunctionType(function.__code__, names, function.__name__))
