"""Elementary functions as plain arithmetic, for loops that LLVM vectorises.

A loop that calls the C library's versions stays scalar. These are compiled without reassociation,
which would fold away the two-part constants and the rounding trick.
"""

import math
from functools import cache, reduce

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import erfcx

from fastbp.cpu.kernels.compilation import PART_OPTIONS, inlined
from fastbp.cpu.kernels.vectors import power_of_two, where_greater
from fastbp.embedding import TURN
from fastbp.switches import bind

# Inlined by force: LLVM itself would rather call what is long and comes twice in a loop.
_ARITHMETIC = {"fastmath": {"contract"}, **PART_OPTIONS, "forceinline": True}


@intrinsic
def reinterpret(typing_context, value, dtype):
    """The number of type `dtype` that has the same bits as `value`."""
    signature = dtype.dtype(value, dtype)

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return signature, codegen


def _economised(taylor, first, last, degree):
    """Coefficients, highest power first, of a near-minimax polynomial over [first, last].

    Lanczos's economisation: the Taylor series is rewritten as a Chebyshev series and truncated.
    """
    series = Polynomial(taylor).convert(kind=Chebyshev, domain=(first, last))
    return series.truncate(degree + 1).convert(kind=Polynomial).coef[::-1]


def _compile_polynomial(real, coefficients):
    """Compile Horner's rule for these coefficients, highest power first.

    It is written out, as LLVM unrolls no loop of twenty steps, nor vectorises one around it.
    """
    names = {f"c{i}": real(coefficient) for i, coefficient in enumerate(coefficients)}
    rule = reduce(lambda total, name: f"({total}) * x + {name}", names)
    exec(f"def polynomial(x):\n    return {rule}", names)
    return njit(**_ARITHMETIC)(names["polynomial"])


def _make_exponential(real, degree, ln2_parts):
    """Build eˣ, eˣ − 1 and tanh x.

    Cody and Waite's argument reduction, x = n ln 2 + r with |r| ≤ ln 2 / 2, then eˣ = 2ⁿ (1 + r q),
    where the polynomial q of the given degree approximates (eʳ − 1) / r to within rounding.
    """
    log2_e = real(1 / math.log(2))
    ln2_high, ln2_low = (real(part) for part in ln2_parts)
    # Adding 1.5 · 2^mantissa rounds to an integer and leaves it in the low bits.
    rounder = real(1.5 * 2 ** np.finfo(real).nmant)
    # The bounds of x at which the bits of 2ⁿ become those of 0 and of infinity.
    largest_n = 2 ** (np.finfo(real).nexp - 1)
    lowest, highest = real((1.1 - largest_n) / log2_e), real((largest_n - 0.4) / log2_e)
    largest, infinity = real((largest_n - 0.51) / log2_e), real(math.inf)  # beyond that 2ⁿ is ∞
    one, two, limit = map(real, (1, 2, 40))
    half, taylor = math.log(2) / 2, [1 / math.factorial(k) for k in range(1, degree + 6)]
    series = _compile_polynomial(real, _economised(taylor, -half, half, degree))

    @njit(**_ARITHMETIC)
    def clamp(x, lowest, highest):
        # In this order each is one min or max instruction on most processors, and NaN stays.
        x = where_greater(x, highest, highest, x)
        return where_greater(lowest, x, lowest, x)

    @njit(**_ARITHMETIC)
    def split(x):
        """Return 2ⁿ, r and q(r)."""
        rounded = x * log2_e + rounder
        n = rounded - rounder
        r = (x - n * ln2_high) - n * ln2_low
        return power_of_two(rounded), r, series(r)

    def exp(x):
        scale, r, q = split(clamp(x, lowest, highest))
        return scale * (q * r + one)

    def expm1(x):
        scale, r, q = split(clamp(x, lowest, largest))
        return where_greater(x, largest, infinity, scale * (q * r) + (scale - one))

    def tanh(x):
        # expm1(2x) / (expm1(2x) + 2); tanh is 1 to rounding long before 20.
        scale, r, q = split(clamp(x + x, -limit, limit))
        expm1 = scale * (q * r) + (scale - one)
        return expm1 / (expm1 + two)

    return exp, expm1, tanh


def _make_logarithm(real, integer, mantissa_bits, degree, ln2_parts):
    """Build ln x and ln(1 + x).

    With x = 2ⁿ m, m in [√½, √2), and s = (m - 1) / (m + 1):
    ln x = n ln 2 + 2 s (1 + s² (1/3 + s²/5 …)), where a polynomial of the given degree approximates
    the series to within rounding. What rounding 1 + x takes away comes back to m - 1.
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
    largest_rest = real(2.0**mantissa_bits)  # up to which some of x is lost in 1 + x
    largest_square = ((math.sqrt(2) - 1) / (math.sqrt(2) + 1)) ** 2
    taylor = [1 / (2 * k + 1) for k in range(1, degree + 6)]
    series = _compile_polynomial(real, _economised(taylor, 0, largest_square, degree))

    # Results are cast to `integer` each time: numba's sums of int32 are int64, half as many in a
    # vector.

    @njit(**_ARITHMETIC)
    def split(x):
        """Return n and m - 1."""
        bits = integer(reinterpret(x, integer) + offset)
        n = integer((bits >> shift) - bias)
        return n, reinterpret(integer((bits & mantissa) + root), real) - one

    @njit(**_ARITHMETIC)
    def join(n, f, x):
        """Return ln x from n and f = m - 1."""
        doubled = (f + f) / (f + two)
        square = doubled * doubled * quarter
        log_m = doubled + doubled * (square * series(square))
        result = n * ln2_high + (log_m + n * ln2_low)
        result = result if x < infinity else x
        return result if x > zero else (-infinity if x == zero else nan)

    def log(x):
        is_subnormal = x < smallest  # where the processor does not flush them
        n, f = split(x * enlarged if is_subnormal else x)
        return join(real(n) - (enlarged_by if is_subnormal else zero), f, x)

    def log1p(x):
        total = one + x
        n, f = split(total)
        rest = (x - (total - one)) * reinterpret(integer(integer(bias - n) << shift), real)
        return join(real(n), f + (rest if x < largest_rest else zero), total)

    return log, log1p


def _make_complementary_error(real, degree, largest):
    """Build the function x -> erfc x.

    For x >= 0 it is exp(−x²) erfcx x, and (1 + 2x) erfcx x is smooth in t = (x − 2) / (x + 2): a
    Chebyshev series in t of the given degree is right to rounding (M. M. Shepherd and
    J. G. Laframboise, 1981). Beyond `largest` it underflows.
    """
    zero, one, two, largest = map(real, (0, 1, 2, largest))

    def smooth(t):
        x = 2 * (1 + t) / (1 - t)
        return (1 + 2 * x) * erfcx(x)

    series = Chebyshev.interpolate(smooth, degree).convert(kind=Polynomial).coef[::-1]
    series = _compile_polynomial(real, series)

    def erfc(x):
        size = where_greater(zero, x, -x, x)
        size = where_greater(size, largest, largest, size)
        tail = exp(-x * x) * series((size - two) / (size + two)) / (one + two * size)
        return where_greater(zero, x, two - tail, tail)

    return erfc


def _make_circular(real, degree):
    """Build x -> sin 2πx and x -> cos 2πx.

    Whole turns are taken away without rounding; the rest is folded to a quarter turn on both sides
    of zero, where sin 2πs is s times a polynomial of the given degree in s².
    """
    zero, quarter, half = map(real, (0, 0.25, 0.5))
    rounder, largest = (
        real(1.5 * 2 ** np.finfo(real).nmant),
        real(2.0 ** (np.finfo(real).nmant - 1)),
    )
    taylor = [
        (-1) ** k * TURN ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(degree + 6)
    ]
    series = _compile_polynomial(real, _economised(taylor, 0, 1 / 16, degree))

    @njit(**_ARITHMETIC)
    def rest_of(x):
        rest = x - ((x + rounder) - rounder)
        # Beyond this there are but whole numbers.
        rest = where_greater(x, largest, zero, rest)
        return where_greater(-largest, x, zero, rest)

    def sine(x):
        rest = rest_of(x)
        size = where_greater(zero, rest, -rest, rest)
        folded = where_greater(size, quarter, half - size, size)
        value = folded * series(folded * folded)
        return where_greater(zero, rest, -value, value)

    def cosine(x):
        rest = rest_of(x)
        folded = quarter - where_greater(zero, rest, -rest, rest)
        return folded * series(folded * folded)

    return sine, cosine


_LN2_SINGLE = 0.693359375, -2.12194440054690583e-4
_LN2_DOUBLE = 0.693147180369123816490, 1.90821492927058770e-10
_SINGLE = (
    *_make_exponential(np.float32, 5, _LN2_SINGLE),
    *_make_logarithm(np.float32, np.int32, 23, 2, _LN2_SINGLE),
    _make_complementary_error(np.float32, 10, 10.5),
    *_make_circular(np.float32, 5),
)
_DOUBLE = (
    *_make_exponential(np.float64, 10, _LN2_DOUBLE),
    *_make_logarithm(np.float64, np.int64, 52, 6, _LN2_DOUBLE),
    _make_complementary_error(np.float64, 22, 27.5),
    *_make_circular(np.float64, 9),
)


def exp(x):
    """eˣ. Infinite from e^−0.4 times the largest number on, 0 where it is subnormal; keeps NaN."""
    return math.exp(x)


def expm1(x):
    """eˣ − 1, also next to 0. Infinite from e^−0.4 times the largest number on; keeps NaN."""
    return math.expm1(x)


def tanh(x):
    """Hyperbolic tangent; keeps NaN."""
    return math.tanh(x)


def log(x):
    """Natural logarithm: −∞ for 0, as which kernels take subnormal numbers; keeps NaN.

    NaN for negative numbers.
    """
    return math.log(x)


def log1p(x):
    """ln(1 + x), also next to 0: −∞ for −1, NaN below; keeps NaN."""
    return math.log1p(x)


def erfc(x):
    """The complementary error function, 1 − erf x; keeps NaN."""
    return math.erfc(x)


def sine_of_turns(x):
    """sin 2πx, for x up to 2²² in float32 and 2⁵¹ in float64, and 0 beyond; keeps NaN."""
    return math.sin(TURN * x)


def cosine_of_turns(x):
    """cos 2πx, likewise, and 1 beyond."""
    return math.cos(TURN * x)


def _functions_of(x):
    """The functions above, in their order, for numba's type of a number or a vector."""
    return _SINGLE if getattr(x, "dtype", x) == types.float32 else _DOUBLE


@overload(exp, jit_options=_ARITHMETIC)
def _overload_exp(x):
    return _functions_of(x)[0]


@overload(expm1, jit_options=_ARITHMETIC)
def _overload_expm1(x):
    return _functions_of(x)[1]


@overload(tanh, jit_options=_ARITHMETIC)
def _overload_tanh(x):
    return _functions_of(x)[2]


@overload(log, jit_options=_ARITHMETIC)
def _overload_log(x):
    return _functions_of(x)[3]


@overload(log1p, jit_options=_ARITHMETIC)
def _overload_log1p(x):
    return _functions_of(x)[4]


@overload(erfc, jit_options=_ARITHMETIC)
def _overload_erfc(x):
    return _functions_of(x)[5]


@overload(sine_of_turns, jit_options=_ARITHMETIC)
def _overload_sine(x):
    return _functions_of(x)[6]


@overload(cosine_of_turns, jit_options=_ARITHMETIC)
def _overload_cosine(x):
    return _functions_of(x)[7]


@cache
def compile_formula(function):
    """Compile a scalar formula, and those that it calls, with the functions above for `math`'s."""
    names = {function.__name__: function for function in (exp, expm1, tanh, log, log1p, erfc)}
    return inlined(bind(function, names, compile_formula))
