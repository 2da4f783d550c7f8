"""Spans: a pointer and a length, nothing else. What kernels work on instead of NumPy's arrays.

Numba's arrays are seven values, which every call passes on, and an index into them may count from
the end. A span is two, and its index is taken as it is: nothing is checked. So kernels compile
faster, and calls between them cost less.
"""

import operator

from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import (
    intrinsic,
    lower_builtin,
    make_attribute_wrapper,
    models,
    register_model,
)


class Span(types.Type):
    """Numba's type of so many numbers of one dtype that lie together."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Span({dtype})")


@register_model(Span)
class _SpanModel(models.StructModel):
    def __init__(self, manager, span):
        members = [("data", types.CPointer(span.dtype)), ("size", types.intp)]
        super().__init__(manager, span, members)


make_attribute_wrapper(Span, "size", "size")


@infer_global(operator.getitem)
class _GetNumber(AbstractTemplate):
    def generic(self, arguments, keywords):
        span, index = arguments
        if isinstance(span, Span) and isinstance(index, types.Integer):
            return signature(span.dtype, span, types.intp)


@infer_global(operator.setitem)
class _SetNumber(AbstractTemplate):
    def generic(self, arguments, keywords):
        span, index, _ = arguments
        if isinstance(span, Span) and isinstance(index, types.Integer):
            return signature(types.none, span, types.intp, span.dtype)


def address_of(context, builder, kind, span, index):
    """Pointer to number `index` of a span, or of an array, in LLVM's terms."""
    data = cgutils.create_struct_proxy(kind)(context, builder, span).data
    return builder.gep(data, [index])


@lower_builtin(operator.getitem, Span, types.intp)
def _get_number(context, builder, signature, arguments):
    return builder.load(address_of(context, builder, signature.args[0], *arguments))


@lower_builtin(operator.setitem, Span, types.intp, types.Number)
def _set_number(context, builder, signature, arguments):
    span, index, value = arguments
    builder.store(value, address_of(context, builder, signature.args[0], span, index))


@intrinsic
def section(typing_context, span, start, size):
    """So many numbers of a span from `start` on, as a span of their own."""

    def codegen(context, builder, signature, arguments):
        span, start, size = arguments
        result = cgutils.create_struct_proxy(signature.return_type)(context, builder)
        result.data = address_of(context, builder, signature.return_type, span, start)
        result.size = size
        return result._getvalue()

    return span(span, types.intp, types.intp), codegen


def _with_spans(kind):
    """The type that has spans in the places of arrays."""
    if isinstance(kind, types.Array):
        if kind.layout != "C":
            raise TypingError(f"a span's numbers lie together; those of {kind} may not")
        return Span(kind.dtype)
    if isinstance(kind, types.BaseTuple):
        return types.BaseTuple.from_types(
            [_with_spans(each) for each in kind], getattr(kind, "instance_class", None)
        )
    return kind


@intrinsic
def spans_of(typing_context, value):
    """An array as a span, or a tuple with spans in the places of its arrays, and of their tuples'.

    For kernels that Python calls. The arrays live as long as the call, and so must the spans.
    """

    def convert(context, builder, kind, value):
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, value)
            span = cgutils.create_struct_proxy(_with_spans(kind))(context, builder)
            span.data, span.size = array.data, array.nitems
            return span._getvalue()
        if isinstance(kind, types.BaseTuple):
            members = cgutils.unpack_tuple(builder, value, len(kind))
            members = [convert(context, builder, *pair) for pair in zip(kind, members, strict=True)]
            return context.make_tuple(builder, _with_spans(kind), members)
        return value

    def codegen(context, builder, signature, arguments):
        return convert(context, builder, signature.args[0], arguments[0])

    return _with_spans(value)(value), codegen
