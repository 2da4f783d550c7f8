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


def _make_product(n_rows, n_columns):
    """Build the intrinsic for a product of so many squares of rows and of columns."""

    @intrinsic
    def product(typing_context, sums, sums_start, width, left, left_start, row_stride, left_step,
                right, right_start, n_steps):  # fmt: skip
        index = types.intp
        signature = types.void(sums, index, index, left, index, index, index, right, index, index)

        def codegen(context, builder, signature, arguments):
            sums, left, right = (
                address_of(context, builder, signature.args[at], *arguments[at : at + 2])
                for at in (0, 3, 7)
            )
            width, row_stride, left_step, n_steps = (arguments[at] for at in (2, 5, 6, 9))
            registers = _RegistersHere(builder)
            right_step = builder.mul(width, _INT64(SQUARE))

            def place(pointer, row, stride, column):
                offset = builder.mul(stride, _INT64(row * SQUARE))
                return builder.gep(pointer, [builder.add(offset, _INT64(column * SQUARE))])

            squares = {
                (row, column): row * n_columns + column
                for row in range(n_rows)
                for column in range(n_columns)
            }
            lefts = [len(squares) + row for row in range(n_rows)]
            rights = [len(squares) + n_rows + column for column in range(n_columns)]
            for (row, column), square in squares.items():
                registers.load(square, place(sums, row, width, column), width)
            with cgutils.for_range(builder, n_steps) as loop:
                keep_rolled(builder)
                of_left = builder.gep(left, [builder.mul(loop.index, left_step)])
                of_right = builder.gep(right, [builder.mul(loop.index, right_step)])
                for row, square in enumerate(lefts):
                    registers.load(square, place(of_left, row, row_stride, 0), row_stride)
                for column, square in enumerate(rights):
                    registers.load(square, place(of_right, 0, width, column), width)
                for (row, column), square in squares.items():
                    registers.multiply_add(square, lefts[row], rights[column])
            for (row, column), square in squares.items():
                registers.store(square, place(sums, row, width, column), width)
            return context.get_dummy_value()

        return signature, codegen

    return product


# sums[i, j] += Σₖ left[i, k] · right[k, j], for one or two squares of rows i and of columns j. Both
# operands are of pairs of bfloat16, of which a step takes 16: those of the left one's rows are
# neighbours, `left_step` is from one step's to the next, and its rows are `row_stride` apart. The
# rows of `sums` and `right` are `width` apart.
add_square = _make_product(1, 1)
add_high = _make_product(2, 1)
add_wide = _make_product(1, 2)
add_four = _make_product(2, 2)
