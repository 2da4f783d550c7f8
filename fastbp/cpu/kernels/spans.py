"""Spans, a pointer and a length each, what kernels work on instead of arrays; and their records.

A numba array is seven values, which every call passes on, and its indices may count from the end. A
span is two values, and its indices are neither checked nor wrapped around: kernels compile faster,
and calls between them cost less.
"""

import operator
from types import NoneType

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)
from numba.extending import (
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    make_attribute_wrapper,
    models,
    register_model,
)

from fastbp.cpu import records
from fastbp.cpu.records import dtype_of, fields_of

# Indices with a type of their own: literals would give each tuple that holds them another type, and
# every combination would be compiled anew.
ZERO, ONE = np.int64(0), np.int64(1)


class Span(types.Type):
    """Numba's type of a contiguous run of numbers of one dtype."""

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
    """LLVM pointer to number `index` of a span or an array; `kind` is its numba type."""
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
    """A part of a span, `size` numbers from `start` on, as a span of its own."""

    def codegen(context, builder, signature, arguments):
        span, start, size = arguments
        result = cgutils.create_struct_proxy(signature.return_type)(context, builder)
        result.data = address_of(context, builder, signature.return_type, span, start)
        result.size = size
        return result._getvalue()

    return span(span, types.intp, types.intp), codegen


@intrinsic
def load_number(typing_context, address, index, dtype):
    """Read element `index` of the array of `dtype` that starts at an integer address."""
    signature = dtype.dtype(types.intp, types.intp, dtype)

    def codegen(context, builder, signature, arguments):
        element = context.get_data_type(signature.return_type)
        pointer = builder.inttoptr(arguments[0], element.as_pointer())
        value = builder.load(builder.gep(pointer, [arguments[1]]), align=1)
        return context.data_model_manager[signature.return_type].from_data(builder, value)

    return signature, codegen


# ---- records ------------------------------------------------------------------------------------


class Reference(types.CPointer):
    """Numba's type of a record that is passed by its address.

    Passed by value, a hundred fields went through the stack and took a tenth of a small batch's
    time.
    """


register_model(Reference)(models.PointerModel)


@infer_getattr
class _ReferenceFields(AttributeTemplate):
    key = Reference

    def generic_resolve(self, reference, name):
        if name in reference.dtype.fields:
            field = reference.dtype[reference.dtype.fields.index(name)]
            return Reference(field) if isinstance(field, types.BaseNamedTuple) else field


@lower_getattr_generic(Reference)
def _get_field(context, builder, kind, reference, name):
    at = kind.dtype.fields.index(name)
    field = cgutils.gep_inbounds(builder, reference, 0, at)
    return field if isinstance(kind.dtype[at], types.BaseNamedTuple) else builder.load(field)


_NUMBERS = {int: types.int64, float: types.float64, NoneType: types.none}


def record_type(record, real, is_sparse=False):
    """Numba's type of a record, from its annotations.

    Parameters
    ----------
    record : type
        A named tuple of `fastbp.cpu.records`.
    real : str
        The engine's dtype.
    is_sparse : bool, default=False

    Returns
    -------
    kind : numba type
        Each of its members takes as many words as `fastbp.cpu.packing.Packed` writes.
    """
    members = []
    for field in fields_of(record, real, is_sparse):
        if field in _NUMBERS:
            members.append(_NUMBERS[field])
        elif issubclass(field, records.Span):
            members.append(Span(getattr(types, field.dtype or dtype_of(real))))
        else:
            members.append(record_type(field, real, is_sparse))
    return types.BaseTuple.from_types(members, record)
