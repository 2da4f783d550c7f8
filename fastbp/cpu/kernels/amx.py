"""Vector IR: sums of products by AMX, whose registers hold squares of numbers.

A square has 16 rows of 16 float32, or of 16 pairs of bfloat16. One instruction (`tdpbf16ps`) adds
the product of two squares of pairs to a square of float32. Where the CPU that numba compiles for
lacks it, the same loads, products and stores are emulated in memory: only to be tested, for the
register tiles are faster then. No CPU with AMX has run this code yet.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbp.cpu.kernels.bfloat16 import multiply_add_pairs
from fastbp.cpu.kernels.register_tiles import left_parts
from fastbp.cpu.kernels.simd import FEATURES, VECTOR_BITS, Vectors, keep_rolled
from fastbp.cpu.kernels.spans import Span, address_of
from fastbp.cpu.records import SQUARE

_BYTE, _INT64 = ir.IntType(8), ir.IntType(64)
_POINTER = _BYTE.as_pointer()
_SUMS, _PAIRS = Span(types.float32), Span(types.int32)

HAS_INSTRUCTIONS = VECTOR_BITS == 512 and {"+amx-tile", "+amx-bf16"} <= FEATURES

_ROW_BYTES = 4 * SQUARE
_N_REGISTERS = 8
# What `ldtilecfg` reads: palette 1; for each register the bytes of a row, and the rows.
_CONFIGURATION = (
    bytes([1]).ljust(16, b"\0")
    + (_ROW_BYTES.to_bytes(2, "little") * _N_REGISTERS).ljust(32, b"\0")
    + bytes([SQUARE] * _N_REGISTERS).ljust(16, b"\0")
)


class _Registers:
    """Those of AMX, by their numbers. A stride is that of rows, in numbers of four bytes."""

    def __init__(self, builder):
        self.builder = builder

    def _call(self, name, *arguments):
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        name = f"llvm.x86.{name}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        self.builder.call(function, arguments)

    def _move(self, name, register, pointer, stride):
        pointer = self.builder.bitcast(pointer, _POINTER)
        stride = self.builder.mul(stride, _INT64(4))
        self._call(name, _BYTE(register), pointer, stride)

    def load(self, register, pointer, stride):
        self._move("tileloadd64", register, pointer, stride)

    def store(self, register, pointer, stride):
        self._move("tilestored64", register, pointer, stride)

    def multiply_add(self, sums, left, right):
        self._call("tdpbf16ps", *map(_BYTE, (sums, left, right)))

    def configure(self):
        content = cgutils.global_constant(
            self.builder, "fastbp.squares", cgutils.make_bytearray(_CONFIGURATION)
        )
        self._call("ldtilecfg", self.builder.bitcast(content, _POINTER))

    def release(self):
        self._call("tilerelease")


class _EmulatedRegisters:
    """The same in memory, with a vector for each row of a square."""

    def __init__(self, builder):
        self.builder, self._registers = builder, {}
        self._sums, self._pairs = Vectors(builder, _SUMS), Vectors(builder, _PAIRS)

    def _rows_of(self, register):
        if register not in self._registers:
            kind = ir.ArrayType(self._pairs.type, SQUARE)
            self._registers[register] = cgutils.alloca_once(self.builder, kind)
        return self._registers[register]

    def _row(self, register, row, vectors):
        """Pointer to a row of a register, as a vector of sums or of pairs."""
        pointer = self.builder.gep(self._rows_of(register), [_INT64(0), row])
        return self.builder.bitcast(pointer, vectors.type.as_pointer())

    def load(self, register, pointer, stride):
        builder = self.builder
        pointer = builder.bitcast(pointer, self._pairs.type.element.as_pointer())
        with cgutils.for_range(builder, _INT64(SQUARE)) as loop:
            values = self._pairs.load(pointer, builder.mul(loop.index, stride))
            builder.store(values, self._row(register, loop.index, self._pairs))

    def store(self, register, pointer, stride):
        builder = self.builder
        pointer = builder.bitcast(pointer, self._pairs.type.element.as_pointer())
        with cgutils.for_range(builder, _INT64(SQUARE)) as loop:
            values = builder.load(self._row(register, loop.index, self._pairs))
            self._pairs.store(values, pointer, builder.mul(loop.index, stride))

    def multiply_add(self, sums, left, right):
        builder, pairs = self.builder, self._pairs
        with cgutils.for_range(builder, _INT64(SQUARE)) as row:
            place = self._row(sums, row.index, self._sums)
            factors = builder.bitcast(
                self._row(left, row.index, pairs), pairs.type.element.as_pointer()
            )
            with cgutils.for_range(builder, _INT64(SQUARE)) as step:
                factor = pairs.broadcast(factors, step.index)
                column = builder.load(self._row(right, step.index, pairs))
                total = multiply_add_pairs(self._sums, factor, column, builder.load(place))
                builder.store(total, place)

    def configure(self):
        pass

    def release(self):
        pass


_RegistersHere = _Registers if HAS_INSTRUCTIONS else _EmulatedRegisters


def _make_switch(method):
    """Build the intrinsic for what a thread does before products or after; nothing for None."""

    @intrinsic
    def switch(typing_context, amx):
        def codegen(context, builder, signature, arguments):
            if amx != types.none:
                method(_RegistersHere(builder))
            return context.get_dummy_value()

        return types.void(amx), codegen

    return switch


# Around all products of a thread. In between, only this code uses the registers.
begin_squares = _make_switch(_RegistersHere.configure)
end_squares = _make_switch(_RegistersHere.release)


@intrinsic
def copy_first(typing_context, out, out_start, source, start, count):
    """Copy the first `count` numbers of a vector, which may be all or none, and zeros after them.

    Nothing else is read.
    """
    index = types.intp
    signature = types.void(out, index, source, index, index)

    def codegen(context, builder, signature, arguments):
        out = address_of(context, builder, signature.args[0], *arguments[:2])
        source = address_of(context, builder, signature.args[2], *arguments[2:4])
        vectors = Vectors(builder, signature.args[0])
        lanes = ir.Constant(ir.VectorType(_INT64, vectors.count), list(range(vectors.count)))
        mask = builder.icmp_signed("<", lanes, vectors.spread(arguments[4]))
        vectors.store(vectors.load_some(source, vectors.type, mask), out, _INT64(0))
        return context.get_dummy_value()

    return signature, codegen


class _Product:
    """Where the operands of a group's product are, step by step.

    The steps that do not fill a square are the last one, whose operands are in the scratch.
    """

    def __init__(self, context, builder, signature, arguments):
        sums_type, _, left_type, right_type, _, _, scratch_type = signature.args
        sums, self.width, left, right, right_start, depth, scratch = arguments
        self.builder = builder
        self.sums = address_of(context, builder, sums_type, sums, _INT64(0))
        self._right = address_of(context, builder, right_type, right, right_start)
        self._left, fields = left_parts(context, builder, left_type, left)
        self._row_stride = fields["row_stride"]
        fills_panel = builder.icmp_signed("==", fields["panel_length"], _INT64(SQUARE))
        self._left_step = builder.select(fills_panel, fields["panel_stride"], _INT64(SQUARE))
        shift = _INT64(SQUARE.bit_length() - 1)
        self._n_whole = builder.lshr(depth, shift)
        self.n_steps = builder.lshr(builder.add(depth, _INT64(SQUARE - 1)), shift)
        names = scratch_type.dtype.fields
        self._last_left, self._last_right = (
            self._start_of(context, scratch_type, scratch, names.index(name))
            for name in ("left", "right")
        )

    def _start_of(self, context, scratch_type, scratch, at):
        span = self.builder.load(cgutils.gep_inbounds(self.builder, scratch, 0, at))
        return address_of(context, self.builder, scratch_type.dtype[at], span, _INT64(0))

    def operands(self, step):
        """Pointers to both operands of a step, and the stride of the left one's rows."""
        builder = self.builder
        left = builder.gep(self._left, [builder.mul(step, self._left_step)])
        right_step = builder.mul(self.width, _INT64(SQUARE))
        right = builder.gep(self._right, [builder.mul(step, right_step)])
        is_whole = builder.icmp_signed("<", step, self._n_whole)
        return (
            builder.select(is_whole, left, self._last_left),
            builder.select(is_whole, right, self._last_right),
            builder.select(is_whole, self._row_stride, _INT64(SQUARE)),
        )

    def square(self, pointer, row, column, stride):
        """Pointer to the square at a row and column of squares."""
        offset = self.builder.mul(stride, _INT64(row * SQUARE))
        return self.builder.gep(pointer, [self.builder.add(offset, _INT64(column * SQUARE))])


def _make_product(n_rows, n_columns):
    """Build the intrinsic for a product of so many squares of rows and of columns."""
    squares = [(row, column) for row in range(n_rows) for column in range(n_columns)]
    lefts = range(len(squares), len(squares) + n_rows)
    rights = range(len(squares) + n_rows, len(squares) + n_rows + n_columns)

    @intrinsic
    def add_product(typing_context, sums, width, left, right, right_start, depth, scratch):
        index = types.intp
        signature = types.void(sums, index, left, right, index, index, scratch)

        def codegen(context, builder, signature, arguments):
            product = _Product(context, builder, signature, arguments)
            registers, width = _RegistersHere(builder), product.width
            places = [product.square(product.sums, *each, width) for each in squares]
            for number, place in enumerate(places):
                registers.load(number, place, width)
            with cgutils.for_range(builder, product.n_steps) as loop:
                keep_rolled(builder)
                left, right, stride = product.operands(loop.index)
                for row, number in enumerate(lefts):
                    registers.load(number, product.square(left, row, 0, stride), stride)
                for column, number in enumerate(rights):
                    registers.load(number, product.square(right, 0, column, width), width)
                for number, (row, column) in enumerate(squares):
                    registers.multiply_add(number, lefts[row], rights[column])
            for number, place in enumerate(places):
                registers.store(number, place, width)
            return context.get_dummy_value()

        return signature, codegen

    return add_product


# sums[i, j] += Σₖ left[i, k] · right[k, j], for one or two squares of rows i and of columns j, and
# `depth` pairs k. The rows of `sums` and `right` are `width` apart. The left operand is a
# `fastbp.cpu.kernels.products.Left`, whose pairs of a row are neighbours, at least those of a step.
# The last step's operands are in the scratch, if it is not of 16 pairs.
add_square = _make_product(1, 1)
add_high = _make_product(2, 1)
add_wide = _make_product(1, 2)
add_four = _make_product(2, 2)
