"""Vectors as values: one register each, with arithmetic, for formulas with a sample per lane.

A loop that LLVM vectorises itself comes with checks for overlapping arrays and with remainder
loops. Where everything is short and in whole vectors, these took most of the time.
"""

import operator
from functools import partial

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

from fastbp.cpu.kernels.simd import lanes, spread_number
from fastbp.cpu.kernels.spans import address_of


class Vector(types.Type):
    """Numba's type of a register full of numbers of one dtype."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.count = lanes(str(dtype))
        super().__init__(f"Vector({dtype})")

    def can_convert_from(self, typing_context, other):
        """A number converts to a vector with this number in all lanes."""
        return Conversion.safe if other == self.dtype else None


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = manager[vector.dtype].get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.count))


@lower_cast(types.Float, Vector)
def _spread(context, builder, number_type, vector_type, number):
    return spread_number(builder, number, vector_type.count)


def _lower_arithmetic(instruction, context, builder, signature, arguments):
    return getattr(builder, instruction)(*arguments)


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):

    @infer_global(_operation)
    class _Arithmetic(AbstractTemplate):
        def generic(self, arguments, keywords):
            for kind in arguments:
                if isinstance(kind, Vector):
                    return signature(kind, kind, kind)

    lower_builtin(_operation, Vector, Vector)(partial(_lower_arithmetic, _instruction))


def _pointer_to(context, builder, span_type, span, start):
    """Pointer to the vector that starts at a number of a span."""
    pointer = address_of(context, builder, span_type, span, start)
    return builder.bitcast(pointer, context.get_value_type(Vector(span_type.dtype)).as_pointer())


@intrinsic
def vector_size(typing_context, span):
    """How many of a span's numbers make one vector."""
    size = Vector(span.dtype).count
    return types.intp(span), lambda context, *_: context.get_constant(types.intp, size)


@intrinsic
def whole_size(typing_context, span):
    """The size of a span of whole vectors, such that LLVM knows that there is no remainder."""

    def codegen(context, builder, signature, arguments):
        size = cgutils.create_struct_proxy(span)(context, builder, arguments[0]).size
        return builder.and_(size, context.get_constant(types.intp, -Vector(span.dtype).count))

    return types.intp(span), codegen


@intrinsic
def spread(typing_context, span, number):
    """A vector of a span's dtype with this number in all lanes."""
    vector = Vector(span.dtype)

    def codegen(context, builder, signature, arguments):
        number = context.cast(builder, arguments[1], signature.args[1], span.dtype)
        return context.cast(builder, number, span.dtype, vector)

    return vector(span, number), codegen


@intrinsic
def load_vector(typing_context, span, start):
    """The vector of a span's numbers from `start` on."""

    def codegen(context, builder, signature, arguments):
        pointer = _pointer_to(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=span.dtype.bitwidth // 8)

    return Vector(span.dtype)(span, types.intp), codegen


@intrinsic
def store_vector(typing_context, span, start, vector):
    """Store a vector to a span, from `start` on; a single number is stored to all lanes."""

    def codegen(context, builder, signature, arguments):
        pointer = _pointer_to(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=span.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(span, types.intp, Vector(span.dtype)), codegen


def _make_selection(comparison):
    @intrinsic
    def selection(typing_context, left, right, yes, no):
        kinds = (left, right, yes, no)
        kind = next((kind for kind in kinds if isinstance(kind, Vector)), left)

        def codegen(context, builder, signature, arguments):
            left, right, yes, no = arguments
            return builder.select(builder.fcmp_ordered(comparison, left, right), yes, no)

        return kind(kind, kind, kind, kind), codegen

    return selection


# `yes` where left > right (left == right), else `no`: for numbers, or lane by lane for vectors.
where_greater = _make_selection(">")
where_equal = _make_selection("==")


@intrinsic
def power_of_two(typing_context, rounded):
    """2ⁿ for the integer n in the low bits of a number, or of every lane of a vector.

    It is 0, and infinity, for the n just below, and above, those of normal numbers.
    """
    real = rounded.dtype if isinstance(rounded, Vector) else rounded
    mantissa_bits, bias = {types.float32: (23, 127), types.float64: (52, 1023)}[real]

    def codegen(context, builder, signature, arguments):
        kind, bits = context.get_value_type(signature.return_type), ir.IntType(real.bitwidth)
        shift, one = bits(mantissa_bits), bits(bias << mantissa_bits)
        if isinstance(rounded, Vector):
            bits = ir.VectorType(bits, rounded.count)
            shift, one = (ir.Constant(bits, [each] * rounded.count) for each in (shift, one))
        shifted = builder.shl(builder.bitcast(arguments[0], bits), shift)
        return builder.bitcast(builder.add(shifted, one), kind)

    return rounded(rounded), codegen
