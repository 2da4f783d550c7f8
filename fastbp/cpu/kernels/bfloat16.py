"""Vector IR: products of bfloat16, whose numbers lie in pairs, and how pairs are made.

A pair is an int32 of two neighbours along the sum of a product, the first in the lower half. CPUs
with AVX512-BF16 multiply two pairs and add both products to a float32 in one instruction
(`vdpbf16ps`). Elsewhere the same is computed in float32, where products of bfloat16 are exact.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.kernels.simd import FEATURES, VECTOR_BITS, Vectors, transpose_vectors
from fastbp.cpu.kernels.spans import address_of

_INT64 = ir.IntType(64)
_HALVES = ir.IntType(16)
_PAIRS = ir.IntType(32)

# Only as wide as kernels' vectors: CPUs with the instructions for 128 and 256 bits have these, too.
HAS_INSTRUCTIONS = VECTOR_BITS == 512 and "+avx512bf16" in FEATURES


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not have."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, type(self))

    def __hash__(self):
        return hash(type(self))


_BFLOAT = _BFloat()


def _call(builder, name, kind, arguments):
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function, name)
    return builder.call(function, arguments)


def _same(kind, number):
    """A constant vector of one integer."""
    return ir.Constant(kind, [number] * kind.count)


def multiply_add_pairs(vectors, left, right, accumulator):
    """Σ of both products of each pair, plus an accumulator: of vectors of pairs, and of float32."""
    builder, count = vectors.builder, vectors.count
    if HAS_INSTRUCTIONS:
        numbers = ir.VectorType(_BFLOAT, 2 * count)
        pairs = [builder.bitcast(pair, numbers) for pair in (left, right)]
        name = f"llvm.x86.avx512bf16.dpbf16ps.{VECTOR_BITS}"
        return _call(builder, name, vectors.type, [accumulator, *pairs])
    first = [builder.shl(pair, _same(pair.type, 16)) for pair in (left, right)]
    second = [builder.and_(pair, _same(pair.type, 0xFFFF0000)) for pair in (left, right)]
    for factors in (first, second):
        factors = [builder.bitcast(factor, vectors.type) for factor in factors]
        accumulator = vectors.multiply_add(*factors, accumulator)
    return accumulator


def _round(vectors, numbers):
    """Numbers rounded to the nearest bfloat16, to the even one of two, as vectors of int16."""
    builder, halves = vectors.builder, ir.VectorType(_HALVES, vectors.count)
    if HAS_INSTRUCTIONS:
        kind = ir.VectorType(_BFLOAT, vectors.count)
        name = f"llvm.x86.avx512bf16.cvtneps2bf16.{VECTOR_BITS}"
        return builder.bitcast(_call(builder, name, kind, [numbers]), halves)
    kind = ir.VectorType(_PAIRS, vectors.count)
    bits = builder.bitcast(numbers, kind)
    odd = builder.and_(builder.lshr(bits, _same(kind, 16)), _same(kind, 1))
    rounded = builder.add(bits, builder.add(odd, _same(kind, 0x7FFF)))
    # Rounding up could carry out of the bits that make a NaN one.
    quiet = builder.or_(bits, _same(kind, 1 << 22))
    is_nan = builder.fcmp_unordered("uno", numbers, numbers)
    rounded = builder.select(is_nan, quiet, rounded)
    return builder.trunc(builder.lshr(rounded, _same(kind, 16)), halves)


def _pair(vectors, first, second):
    """The pairs of two vectors of numbers."""
    builder, kind = vectors.builder, ir.VectorType(_PAIRS, vectors.count)
    first, second = (builder.zext(_round(vectors, each), kind) for each in (first, second))
    return builder.or_(first, builder.shl(second, _same(kind, 16)))


def _store_pairs(builder, pairs, pointer):
    pointer = builder.bitcast(pointer, pairs.type.as_pointer())
    builder.store(pairs, pointer, align=4)


@intrinsic
def numbers_in(typing_context, span):
    """How many numbers an element of a span holds: two in a pair, or itself."""
    count = 2 if span.dtype == types.int32 else 1
    return types.intp(span), lambda context, *_: context.get_constant(types.intp, count)


def make_choice(field):
    """Build the intrinsic that takes a field of `Pairs` or `ThreadPairs`, or without them a span.

    A branch would not do: the types differ.
    """

    @intrinsic
    def choose(typing_context, pairs, numbers):
        if pairs == types.none:
            return numbers(pairs, numbers), lambda _context, _builder, _signature, values: values[1]
        at = pairs.dtype.fields.index(field)

        def codegen(context, builder, signature, arguments):
            return builder.load(cgutils.gep_inbounds(builder, arguments[0], 0, at))

        return pairs.dtype[at](pairs, numbers), codegen

    return choose


@intrinsic
def pair_neighbours(typing_context, pairs, at, numbers, start):
    """Store the pairs of a vector of neighbouring numbers, half as many, from `at` on."""
    signature = types.void(pairs, types.intp, numbers, types.intp)

    def codegen(context, builder, signature, arguments):
        out = address_of(context, builder, signature.args[0], *arguments[:2])
        source = address_of(context, builder, signature.args[2], *arguments[2:])
        vectors = Vectors(builder, signature.args[2])
        rounded = _round(vectors, vectors.load(source, _INT64(0)))
        half = ir.VectorType(_PAIRS, vectors.count // 2)
        _store_pairs(builder, builder.bitcast(rounded, half), out)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def pair_rows(typing_context, pairs, at, numbers, start, stride):
    """Store the pairs of a vector of numbers and the one a stride after it, from `at` on."""
    signature = types.void(pairs, types.intp, numbers, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        out = address_of(context, builder, signature.args[0], *arguments[:2])
        source = address_of(context, builder, signature.args[2], *arguments[2:4])
        vectors = Vectors(builder, signature.args[2])
        rows = (vectors.load(source, offset) for offset in (_INT64(0), arguments[4]))
        _store_pairs(builder, _pair(vectors, *rows), out)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def pair_rows_by_columns(typing_context, pairs, at, pair_stride, numbers, start, stride):
    """Store the four pairs of eight rows in each of a vector of columns, from `at` on.

    Those of a column are neighbours, and `pair_stride` after those of the column before. `stride`
    is that of the rows of numbers.
    """
    index = types.intp
    signature = types.void(pairs, index, index, numbers, index, index)

    def codegen(context, builder, signature, arguments):
        pair_stride, stride = arguments[2], arguments[5]
        out = address_of(context, builder, signature.args[0], *arguments[:2])
        source = address_of(context, builder, signature.args[3], *arguments[3:5])
        vectors, quarters = Vectors(builder, signature.args[3]), Vectors(builder, signature.args[0])
        rows = [vectors.load(source, builder.mul(_INT64(row), stride)) for row in range(8)]
        rows = [_pair(vectors, *rows[row : row + 2]) for row in range(0, 8, 2)]
        lanes, count = range(quarters.count), quarters.count
        for first in range(0, count, 4):  # columns that fill a vector
            both = [first + lane // 4 + count * (lane % 2) for lane in lanes]
            halves = [quarters.shuffle(*rows[at : at + 2], both) for at in (0, 2)]
            whole = quarters.shuffle(*halves, [lane + count * (lane % 4 > 1) for lane in lanes])
            for column in range(4):
                own = ir.Constant(ir.VectorType(_PAIRS, 4), [4 * column + i for i in range(4)])
                values = builder.shuffle_vector(whole, whole, own)
                place = builder.gep(out, [builder.mul(_INT64(first + column), pair_stride)])
                _store_pairs(builder, values, place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_pairs(
    typing_context, out, out_start, out_stride, source, source_start, source_stride
):
    """Pair neighbours in two vectors of as many rows as a vector has lanes, and transpose pairs."""
    index = types.intp
    signature = types.void(out, index, index, source, index, index)

    def codegen(context, builder, signature, arguments):
        out_start, out_stride, source_start, source_stride = (arguments[at] for at in (1, 2, 4, 5))
        out = address_of(context, builder, signature.args[0], arguments[0], out_start)
        source = address_of(context, builder, signature.args[3], arguments[3], source_start)
        numbers, pairs = Vectors(builder, signature.args[3]), Vectors(builder, signature.args[0])
        rows = []
        for i in range(numbers.count):
            start = builder.gep(source, [builder.mul(_INT64(i), source_stride)])
            halves = [_round(numbers, numbers.load(start, o)) for o in numbers.offsets(2)]
            both = list(range(2 * numbers.count))
            both = ir.Constant(ir.VectorType(_PAIRS, len(both)), both)
            rows.append(builder.bitcast(builder.shuffle_vector(*halves, both), pairs.type))
        for i, row in enumerate(transpose_vectors(pairs, rows)):
            pairs.store(row, out, builder.mul(_INT64(i), out_stride))
        return context.get_dummy_value()

    return signature, codegen
