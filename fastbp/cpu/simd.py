"""Vector IR: the register tiles that all matrix products are made of, transposes and prefetches.

Widths follow the CPU that numba compiles for (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES included).
"""

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastbp.cpu.spans import address_of

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
CACHE_LINE = 64  # bytes


def _vector_bits():
    """Width of the widest registers that pay: 512, 256 or 128 bits."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    if "+avx512f" in features:
        return 512
    return 256 if {"+avx", "+avx2"} & set(features) else 128


VECTOR_BITS = _vector_bits()
# Rows of a tile. AVX-512 has 32 registers for its accumulators, the others 16.
TILE_ROWS = 8 if VECTOR_BITS == 512 else 4
# Columns of a tile, in vectors.
TILE_VECTORS = 2


def lanes(dtype):
    """Numbers of this dtype in one vector register."""
    return VECTOR_BITS // (8 * np.dtype(dtype).itemsize)


class _Vectors:
    """Loads, stores and arithmetic on the vectors that fit one span type's numbers."""

    def __init__(self, builder, span_type):
        element, suffix = {
            types.float32: (ir.FloatType(), "f32"),
            types.float64: (ir.DoubleType(), "f64"),
        }[span_type.dtype]
        self.builder = builder
        self.bytes = span_type.dtype.bitwidth // 8
        self.count = VECTOR_BITS // span_type.dtype.bitwidth
        self.type = ir.VectorType(element, self.count)
        self._undefined = ir.Constant(self.type, ir.Undefined)
        self._fmuladd = f"llvm.fmuladd.v{self.count}{suffix}"

    def _address(self, pointer, offset):
        pointer = self.builder.gep(pointer, [offset])
        return self.builder.bitcast(pointer, self.type.as_pointer())

    def offsets(self, n_vectors):
        """Where so many neighbouring vectors start."""
        return [_INT64(v * self.count) for v in range(n_vectors)]

    def load(self, pointer, offset):
        return self.builder.load(self._address(pointer, offset), align=self.bytes)

    def store(self, value, pointer, offset):
        self.builder.store(value, self._address(pointer, offset), align=self.bytes)

    def broadcast(self, pointer, offset):
        return self.spread(self.builder.load(self.builder.gep(pointer, [offset])))

    def spread(self, scalar):
        """The same number in all lanes."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.count), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _INT32(0))
        return self.shuffle(first, undefined, [0] * self.count)

    def load_some(self, pointer, kind, mask):
        """A vector of that type from a pointer: the lanes in the mask, zeros in the others."""
        suffix = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}[kind.element]
        function = ir.FunctionType(kind, [kind.as_pointer(), _INT32, mask.type, kind])
        function = cgutils.get_or_insert_function(
            self.builder.module, function, f"llvm.masked.load.v{self.count}{suffix}.p0"
        )
        pointer = self.builder.bitcast(pointer, kind.as_pointer())
        zeros = ir.Constant(kind, None)
        return self.builder.call(function, [pointer, _INT32(1), mask, zeros])

    def store_some(self, value, pointer, mask):
        """The lanes in the mask of a vector, to a pointer."""
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


def _phi(builder, start, block):
    phi = builder.phi(start.type)
    phi.add_incoming(start, block)
    return phi


def _keep_rolled(builder):
    """Have LLVM leave the loop around here as it is: unrolled, a tile needs too many registers.

    What is convergent must not come to depend on another condition, and an unrolled loop's surplus
    steps do.
    """
    kind = ir.FunctionType(ir.VoidType(), [])
    builder.asm(kind, "", "", [], side_effect=True).attributes.add("convergent")


def _prefetch(builder, pointer, level):
    """Fetch the cache line of a pointer into the cache of that level."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, locality, data = _INT32(0), _INT32(4 - level), _INT32(1)
    builder.call(function, [builder.bitcast(pointer, _BYTES), read, locality, data])


def _prefetch_tile(builder, pointer):
    """Fetch as much as a tile of a panel takes into the first-level cache."""
    start = builder.bitcast(pointer, _BYTES)
    for offset in range(0, TILE_ROWS * TILE_VECTORS * VECTOR_BITS // 8, CACHE_LINE):
        _prefetch(builder, builder.gep(start, [_INT64(offset)]), 1)


def _tile_step(vectors, left, right, row_stride, accumulators):
    """One step of the inner product: every row's broadcast times the right operand's vectors."""
    builder = vectors.builder
    _keep_rolled(builder)
    columns = [vectors.load(right, offset) for offset in vectors.offsets(len(accumulators[0]))]
    updated = []
    for row, sums in enumerate(accumulators):
        value = vectors.broadcast(left, builder.mul(_INT64(row), row_stride))
        updated.append(
            [vectors.multiply_add(value, c, s) for c, s in zip(columns, sums, strict=True)]
        )
    return updated


def _tile_loops(vectors, left, right, strides, depth, sums):
    """Accumulate over `depth`, one panel of the left operand after the other.

    `strides` are the left operand's row, depth and panel strides, the panel's length, the number of
    steps that are left when no more panels are fetched ahead, and the right operand's stride.
    Returns the accumulators behind the loops.
    """
    builder = vectors.builder
    row_stride, depth_stride, panel_stride, panel_length, last_fetch, right_stride = strides
    n_rows, n_vectors = len(sums), len(sums[0])
    flat = [value for row in sums for value in row]

    def rows_of(values):
        return [values[i * n_vectors : (i + 1) * n_vectors] for i in range(n_rows)]

    entry = builder.block
    panel_block = builder.append_basic_block("panel")
    step_block = builder.append_basic_block("step")
    next_block = builder.append_basic_block("next_panel")
    done_block = builder.append_basic_block("done")
    builder.branch(panel_block)

    builder.position_at_end(panel_block)
    panel_left, panel_right = _phi(builder, left, entry), _phi(builder, right, entry)
    remaining = _phi(builder, depth, entry)
    panel_sums = [_phi(builder, value, entry) for value in flat]
    is_short = builder.icmp_signed("<", remaining, panel_length)
    steps = builder.select(is_short, remaining, panel_length)
    with builder.if_then(builder.icmp_signed(">", remaining, last_fetch)):
        _prefetch_tile(builder, builder.gep(panel_left, [builder.mul(panel_stride, _INT64(2))]))
    before_steps = builder.block
    builder.branch(step_block)

    builder.position_at_end(step_block)
    step = _phi(builder, _INT64(0), before_steps)
    step_left = _phi(builder, panel_left, before_steps)
    step_right = _phi(builder, panel_right, before_steps)
    step_sums = [_phi(builder, value, before_steps) for value in panel_sums]
    updated = _tile_step(vectors, step_left, step_right, row_stride, rows_of(step_sums))
    updated = [value for row in updated for value in row]
    next_step = builder.add(step, _INT64(1))
    next_right = builder.gep(step_right, [right_stride])
    step.add_incoming(next_step, step_block)
    step_left.add_incoming(builder.gep(step_left, [depth_stride]), step_block)
    step_right.add_incoming(next_right, step_block)
    for phi, value in zip(step_sums, updated, strict=True):
        phi.add_incoming(value, step_block)
    builder.cbranch(builder.icmp_signed("<", next_step, steps), step_block, next_block)

    builder.position_at_end(next_block)
    left_over = builder.sub(remaining, steps)
    panel_left.add_incoming(builder.gep(panel_left, [panel_stride]), next_block)
    panel_right.add_incoming(next_right, next_block)
    remaining.add_incoming(left_over, next_block)
    for phi, value in zip(panel_sums, updated, strict=True):
        phi.add_incoming(value, next_block)
    builder.cbranch(builder.icmp_signed(">", left_over, _INT64(0)), panel_block, done_block)
    builder.position_at_end(done_block)
    return rows_of(updated)


def _listed_loop(vectors, left, right, strides, steps, n_steps, sums):
    """Accumulate over the steps of a list.

    `strides` are the left operand's row and depth strides and the right operand's stride. Returns
    the accumulators behind the loop.
    """
    builder = vectors.builder
    row_stride, depth_stride, right_stride = strides
    totals = [[cgutils.alloca_once_value(builder, value) for value in row] for row in sums]
    with cgutils.for_range(builder, n_steps) as loop:
        step = builder.sext(builder.load(builder.gep(steps, [loop.index])), _INT64)
        step_left = builder.gep(left, [builder.mul(step, depth_stride)])
        step_right = builder.gep(right, [builder.mul(step, right_stride)])
        before = [[builder.load(total) for total in row] for row in totals]
        after = _tile_step(vectors, step_left, step_right, row_stride, before)
        for row, values in zip(totals, after, strict=True):
            for total, value in zip(row, values, strict=True):
                builder.store(value, total)
    return [[builder.load(total) for total in row] for row in totals]


def _generate_tile(n_rows, n_vectors, is_listed, context, builder, signature, arguments):
    """Write the code of a tile that is `n_rows` high and `n_vectors` vectors wide."""

    def pointer(at):
        return address_of(context, builder, signature.args[at], *arguments[at : at + 2])

    vectors = _Vectors(builder, signature.args[0])
    offsets = vectors.offsets(n_vectors)
    out, left, right, bias = (pointer(at) for at in (0, 3, 7, 10))
    (row_stride, depth_stride), right_stride = arguments[5:7], arguments[9]
    sums = [[vectors.load(bias, offset) for offset in offsets]] * n_rows
    if is_listed:
        strides = row_stride, depth_stride, right_stride
        sums = _listed_loop(vectors, left, right, strides, pointer(12), arguments[14], sums)
    else:
        panel_stride, panel_length, last_fetch, depth = arguments[12:]
        strides = row_stride, depth_stride, panel_stride, panel_length, last_fetch, right_stride
        sums = _tile_loops(vectors, left, right, strides, depth, sums)
    for row, values in enumerate(sums):
        row_start = builder.mul(_INT64(row), arguments[2])
        for value, offset in zip(values, offsets, strict=True):
            vectors.store(value, out, builder.add(row_start, offset))
    return context.get_dummy_value()


def _make_tile(n_rows, n_vectors):
    """Build the tile that is `n_rows` high and `n_vectors` vectors wide."""

    @intrinsic
    def tile(typing_context, out, out_start, out_stride, left, left_start, row_stride,
             depth_stride, right, right_start, right_stride, bias, bias_start, panel_stride,
             panel_length, last_fetch, depth):  # fmt: skip
        index = types.intp
        signature = types.void(
            out, index, index, left, index, index, index, right, index, index, bias, index, index,
            index, index, index,
        )  # fmt: skip
        return signature, partial(_generate_tile, n_rows, n_vectors, False)

    return tile


# out[i, j] = bias[j] + Σₖ left[i, k] · right[k, j] for one or two vectors of columns. The left
# operand lies in panels of `panel_length` steps, so that k is at
# (k // panel_length) · panel_stride + (k % panel_length) · depth_stride. `depth` must be positive.
# The tile's rows of the next but one panel are fetched as long as more than `last_fetch` steps are
# left: no hardware foresees where the next panel is.
narrow_tile = _make_tile(TILE_ROWS, 1)
wide_tile = _make_tile(TILE_ROWS, TILE_VECTORS)
narrow_row = _make_tile(1, 1)
wide_row = _make_tile(1, TILE_VECTORS)


def _make_listed_tile(n_vectors):
    """Build the tile that is `n_vectors` vectors wide and makes the steps of a list only."""

    @intrinsic
    def tile(typing_context, out, out_start, out_stride, left, left_start, row_stride,
             depth_stride, right, right_start, right_stride, bias, bias_start, steps, first_step,
             n_steps):  # fmt: skip
        index = types.intp
        signature = types.void(
            out, index, index, left, index, index, index, right, index, index, bias, index, steps,
            index, index,
        )  # fmt: skip
        return signature, partial(_generate_tile, TILE_ROWS, n_vectors, True)

    return tile


# As `narrow_tile` and `wide_tile`, k being one of the int32 numbers in `steps` after the other.
narrow_listed_tile = _make_listed_tile(1)
wide_listed_tile = _make_listed_tile(TILE_VECTORS)


def _make_sum(n_vectors):
    """Build the weighted sum of some rows that are `n_vectors` vectors wide."""

    @intrinsic
    def weighted_sum(typing_context, out, out_start, values, indices, first, last, right,
                     right_start, right_stride, bias, bias_start):  # fmt: skip
        real, index = out, types.intp
        signature = types.void(
            real, index, values, indices, index, index, right, index, index, bias, index
        )

        def codegen(context, builder, signature, arguments):
            def pointer(at, offset):
                return address_of(context, builder, signature.args[at], arguments[at], offset)

            vectors = _Vectors(builder, signature.args[0])
            out, bias = pointer(0, arguments[1]), pointer(9, arguments[10])
            values, indices = pointer(2, _INT64(0)), pointer(3, _INT64(0))
            right, (first, last, stride) = pointer(6, arguments[7]), (*arguments[4:6], arguments[8])
            offsets = vectors.offsets(n_vectors)
            sums = [
                cgutils.alloca_once_value(builder, vectors.load(bias, offset)) for offset in offsets
            ]
            with cgutils.for_range_slice(builder, first, last, _INT64(1)) as (entry, _):
                value = vectors.broadcast(values, entry)
                row = builder.mul(builder.load(builder.gep(indices, [entry])), stride)
                for total, offset in zip(sums, offsets, strict=True):
                    column = vectors.load(right, builder.add(row, offset))
                    updated = vectors.multiply_add(value, column, builder.load(total))
                    builder.store(updated, total)
            for total, offset in zip(sums, offsets, strict=True):
                vectors.store(builder.load(total), out, offset)
            return context.get_dummy_value()

        return signature, codegen

    return weighted_sum


# out[j] = bias[j] + Σₖ values[k] · right[indices[k], j] for one or two vectors of columns, k from
# `first` to `last`, one after the other as in the tiles, so that sums have the same bits.
narrow_sum = _make_sum(1)
wide_sum = _make_sum(TILE_VECTORS)


@intrinsic
def transpose_square(
    typing_context, out, out_start, out_stride, source, source_start, source_stride
):
    """Transpose a square of as many rows as a vector has lanes, in registers."""
    index = types.intp
    signature = types.void(out, index, index, source, index, index)

    def codegen(context, builder, signature, arguments):
        out_start, out_stride, source_start, source_stride = (arguments[at] for at in (1, 2, 4, 5))
        out = address_of(context, builder, signature.args[0], arguments[0], out_start)
        source = address_of(context, builder, signature.args[3], arguments[3], source_start)
        vectors = _Vectors(builder, signature.args[0])
        n = vectors.count
        rows = [vectors.load(source, builder.mul(_INT64(i), source_stride)) for i in range(n)]
        # Swap the off-diagonal blocks of ever larger squares.
        size = 1
        while size < n:
            upper = [c if not c & size else n + c - size for c in range(n)]
            lower = [c + size if not c & size else n + c for c in range(n)]
            for i in (i for i in range(n) if not i & size):
                pair = rows[i], rows[i + size]
                rows[i] = vectors.shuffle(*pair, upper)
                rows[i + size] = vectors.shuffle(*pair, lower)
            size *= 2
        for i, row in enumerate(rows):
            vectors.store(row, out, builder.mul(_INT64(i), out_stride))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def prefetch(typing_context, address):
    """Have the cache line at an integer address fetched into the second-level cache."""

    def codegen(context, builder, signature, arguments):
        _prefetch(builder, builder.inttoptr(arguments[0], _BYTES), 2)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def prefetch_tile(typing_context, array, start):
    """Have the tile that starts at a number of an array fetched into the first-level cache."""

    def codegen(context, builder, signature, arguments):
        pointer = address_of(context, builder, signature.args[0], arguments[0], arguments[1])
        _prefetch_tile(builder, pointer)
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def read_floats(typing_context, row, address, scale, dtype):
    """Fill `row` with as many numbers of a float `dtype` from an address, times `scale`.

    What is left behind whole vectors takes masked ones: nothing else is read or written.
    """
    signature = types.void(row, types.intp, row.dtype, dtype)

    def codegen(context, builder, signature, arguments):
        row_type, source_type = signature.args[0], signature.args[3].dtype
        vectors = _Vectors(builder, row_type)
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
            _keep_rolled(builder)
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
