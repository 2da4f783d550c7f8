"""Vector IR: vectors of the CPU's width, transposes, prefetches, and reading of rows of floats.

The width is that of the CPU that numba compiles for, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES
may change.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastbp.cpu.kernels.spans import address_of
from fastbp.cpu.records import CACHE_LINE, TILE_VECTORS, tile_rows

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


_, CPU_NAME, _features = cpu_target.target_context.codegen().magic_tuple()
FEATURES = frozenset(_features.split(","))


def _vector_bits():
    """Bits of the widest registers worth using: 512, 256 or 128."""
    if "+avx512f" in FEATURES:
        return 512
    return 256 if {"+avx", "+avx2"} & FEATURES else 128


VECTOR_BITS = _vector_bits()
TILE_ROWS = tile_rows(VECTOR_BITS)


def lanes(dtype):
    """Numbers of this dtype in one vector register."""
    return VECTOR_BITS // (8 * np.dtype(dtype).itemsize)


def spread_number(builder, scalar, count):
    """A vector of `count` lanes that all hold the same number."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, count), None))


class Vectors:
    """Builds loads, stores and arithmetic on vectors of a span type's numbers."""

    def __init__(self, builder, span_type):
        element, suffix = {
            types.float32: (ir.FloatType(), "f32"),
            types.float64: (ir.DoubleType(), "f64"),
            types.int32: (_INT32, "i32"),
        }[span_type.dtype]
        self.builder = builder
        self.bytes = span_type.dtype.bitwidth // 8
        self.count = VECTOR_BITS // span_type.dtype.bitwidth
        self.type = ir.VectorType(element, self.count)
        self._fmuladd = f"llvm.fmuladd.v{self.count}{suffix}"

    def _address(self, pointer, offset):
        pointer = self.builder.gep(pointer, [offset])
        return self.builder.bitcast(pointer, self.type.as_pointer())

    def offsets(self, n_vectors):
        """The offsets at which `n_vectors` neighbouring vectors start."""
        return [_INT64(v * self.count) for v in range(n_vectors)]

    def load(self, pointer, offset):
        return self.builder.load(self._address(pointer, offset), align=self.bytes)

    def store(self, value, pointer, offset):
        self.builder.store(value, self._address(pointer, offset), align=self.bytes)

    def broadcast(self, pointer, offset):
        return self.spread(self.builder.load(self.builder.gep(pointer, [offset])))

    def spread(self, scalar):
        """The same number in all lanes."""
        return spread_number(self.builder, scalar, self.count)

    def load_some(self, pointer, kind, mask):
        """Load a vector of type `kind`: the lanes in the mask, and zeros in the others."""
        suffix = {ir.FloatType(): "f32", ir.DoubleType(): "f64", _INT32: "i32"}[kind.element]
        function = ir.FunctionType(kind, [kind.as_pointer(), _INT32, mask.type, kind])
        function = cgutils.get_or_insert_function(
            self.builder.module, function, f"llvm.masked.load.v{self.count}{suffix}.p0"
        )
        pointer = self.builder.bitcast(pointer, kind.as_pointer())
        zeros = ir.Constant(kind, None)
        return self.builder.call(function, [pointer, _INT32(1), mask, zeros])

    def store_some(self, value, pointer, mask):
        """Store the lanes of a vector that are in the mask."""
        kind, suffix = value.type, self._fmuladd.rpartition(".")[2]
        function = ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), _INT32, mask.type])
        function = cgutils.get_or_insert_function(
            self.builder.module, function, f"llvm.masked.store.{suffix}.p0"
        )
        pointer = self.builder.bitcast(pointer, kind.as_pointer())
        self.builder.call(function, [value, pointer, _INT32(self.bytes), mask])

    def shuffle(self, left, right, mask):
        mask = ir.Constant(ir.VectorType(_INT32, self.count), mask)
        return self.builder.shuffle_vector(left, right, mask)

    def multiply_add(self, left, right, accumulator):
        # fmuladd, not fma: on a CPU without FMA the latter is a library call for every lane.
        signature = ir.FunctionType(self.type, [self.type] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, signature, self._fmuladd)
        return self.builder.call(function, [left, right, accumulator])


def keep_rolled(builder):
    """Keep LLVM from unrolling the loop around here: unrolled, a tile needs too many registers.

    What is convergent must not come to depend on another condition, and an unrolled loop's surplus
    steps do.
    """
    kind = ir.FunctionType(ir.VoidType(), [])
    builder.asm(kind, "", "", [], side_effect=True).attributes.add("convergent")


def fetch_line(builder, pointer, level):
    """Prefetch the cache line of a pointer into the cache of this level."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, locality, data = _INT32(0), _INT32(4 - level), _INT32(1)
    builder.call(function, [builder.bitcast(pointer, _BYTES), read, locality, data])


TILE_BYTES = TILE_ROWS * TILE_VECTORS * VECTOR_BITS // 8


def fetch_tile(builder, pointer, size=TILE_BYTES):
    """Prefetch the tile of a panel that starts at a pointer into the L1 cache."""
    start = builder.bitcast(pointer, _BYTES)
    for offset in range(0, size, CACHE_LINE):
        fetch_line(builder, builder.gep(start, [_INT64(offset)]), 1)


def transpose_vectors(vectors, rows):
    """Transpose a square, given as a vector for each row: swap the blocks off the diagonal."""
    n, rows, size = vectors.count, list(rows), 1
    while size < n:
        upper = [c if not c & size else n + c - size for c in range(n)]
        lower = [c + size if not c & size else n + c for c in range(n)]
        for i in (i for i in range(n) if not i & size):
            pair = rows[i], rows[i + size]
            rows[i] = vectors.shuffle(*pair, upper)
            rows[i + size] = vectors.shuffle(*pair, lower)
        size *= 2
    return rows


@intrinsic
def transpose_square(
    typing_context, out, out_start, out_stride, source, source_start, source_stride
):
    """Transpose a square with as many rows and columns as a vector has lanes, in registers."""
    index = types.intp
    signature = types.void(out, index, index, source, index, index)

    def codegen(context, builder, signature, arguments):
        out_start, out_stride, source_start, source_stride = (arguments[at] for at in (1, 2, 4, 5))
        out = address_of(context, builder, signature.args[0], arguments[0], out_start)
        source = address_of(context, builder, signature.args[3], arguments[3], source_start)
        vectors = Vectors(builder, signature.args[0])
        n = vectors.count
        rows = [vectors.load(source, builder.mul(_INT64(i), source_stride)) for i in range(n)]
        for i, row in enumerate(transpose_vectors(vectors, rows)):
            vectors.store(row, out, builder.mul(_INT64(i), out_stride))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def prefetch(typing_context, address):
    """Prefetch the cache line at an integer address into the second-level cache."""

    def codegen(context, builder, signature, arguments):
        fetch_line(builder, builder.inttoptr(arguments[0], _BYTES), 2)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def prefetch_tile(typing_context, array, start):
    """Prefetch the tile that starts at a number of an array into the first-level cache."""

    def codegen(context, builder, signature, arguments):
        pointer = address_of(context, builder, signature.args[0], arguments[0], arguments[1])
        fetch_tile(builder, pointer)
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def read_floats(typing_context, row, address, scale, dtype):
    """Fill `row` with numbers of a float `dtype` from an address, times `scale`.

    The rest after whole vectors takes masked ones: nothing else is read or written.
    """
    signature = types.void(row, types.intp, row.dtype, dtype)

    def codegen(context, builder, signature, arguments):
        row_type, source_type = signature.args[0], signature.args[3].dtype
        vectors = Vectors(builder, row_type)
        n = vectors.count
        source_vector = ir.VectorType(context.get_data_type(source_type), n)
        out = address_of(context, builder, row_type, arguments[0], _INT64(0))
        source = builder.inttoptr(arguments[1], source_vector.element.as_pointer())
        size = cgutils.create_struct_proxy(row_type)(context, builder, arguments[0]).size
        scales = vectors.spread(arguments[2])
        left_over = builder.and_(size, _INT64(n - 1))
        whole = builder.sub(size, left_over)

        def scaled(numbers):
            if source_type.bitwidth < row_type.dtype.bitwidth:
                numbers = builder.fpext(numbers, vectors.type)
            elif source_type.bitwidth > row_type.dtype.bitwidth:
                numbers = builder.fptrunc(numbers, vectors.type)
            return builder.fmul(numbers, scales)

        with cgutils.for_range_slice(builder, _INT64(0), whole, _INT64(n)) as (start, _):
            keep_rolled(builder)
            start_of = builder.bitcast(builder.gep(source, [start]), source_vector.as_pointer())
            numbers = builder.load(start_of, align=source_type.bitwidth // 8)
            vectors.store(scaled(numbers), out, start)
        with builder.if_then(builder.icmp_signed(">", left_over, _INT64(0))):
            lanes = ir.Constant(ir.VectorType(_INT64, n), list(range(n)))
            mask = builder.icmp_signed("<", lanes, vectors.spread(left_over))
            numbers = vectors.load_some(builder.gep(source, [whole]), source_vector, mask)
            vectors.store_some(scaled(numbers), builder.gep(out, [whole]), mask)
        return context.get_dummy_value()

    return signature, codegen
