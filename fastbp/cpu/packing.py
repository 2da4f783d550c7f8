"""Records as words in memory, as kernels read them."""

import ctypes
import struct
from functools import cache
from types import NoneType
from typing import NamedTuple

import numpy as np

from fastbp.cpu.records import Placed, Span, dtype_of, fields_of


class Place(NamedTuple):
    """Where an array lies that lives longer than all records that name it."""

    address: int
    size: int


def _address_by_interface(array):
    return array.__array_interface__["data"][0]


def address_of(array):
    """Address of an array's first number.

    In NumPy's C interface it comes right after what all of Python's objects have. To read it there
    takes an eighth of the time, and the prediction of one row is little but such things.
    """
    return ctypes.c_size_t.from_address(id(array) + object.__basicsize__).value


if address_of(_probe := np.zeros(1)) != _address_by_interface(_probe):  # another Python or NumPy
    address_of = _address_by_interface


def place_of(array):
    """Where an array lies, which somebody keeps.

    Raises
    ------
    TypeError
        If something lies between its numbers.
    """
    if not array.flags.c_contiguous:
        raise TypeError("a contiguous array was expected")
    return Place(address_of(array), array.size)


_FORMATS = {int: "q", float: "d", NoneType: "q"}


class _PackerSource:
    """Python code that writes a record's words: a loop over fields would take twice as long.

    Parameters
    ----------
    record : type
    real : str or None
    is_sparse : bool
    """

    def __init__(self, record, real, is_sparse):
        self._real, self._is_sparse = real, is_sparse
        self.format, self.lines, self.words, self.checks = "=", [], [], []
        self.names = {}  # of dtypes
        self._add(record, "record")

    def _add(self, record, name):
        """Add a record that is in a variable of this name."""
        fields = [*fields_of(record, self._real, self._is_sparse)]
        names = [f"{name}_{field}" for field in record._fields]
        self.lines.append(f"{', '.join(names)}, = {name}")
        for field, variable in zip(fields, names, strict=True):
            if field in _FORMATS:
                self.format += _FORMATS[field]
                self.words.append("0" if field is NoneType else variable)
            elif issubclass(field, Placed):
                self.format += "qq"
                self.words.append(f"*{variable}")
            elif issubclass(field, Span):
                self.format += "qq"
                self.words.append(f"address_of({variable}), {variable}.size")
                dtype = np.dtype(field.dtype or dtype_of(self._real))
                self.names[dtype.name] = dtype
                self.checks.append(
                    f"{variable}.dtype == {dtype.name} and {variable}.flags.c_contiguous"
                )
            else:
                self._add(field, variable)

    def compile(self):
        """The function: it takes a record, and memory for its words."""
        names = {"pack_into": struct.Struct(self.format).pack_into, "address_of": address_of}
        names |= self.names | {"refuse": _refuse}
        lines = [
            *self.lines,
            f"if not ({' and '.join(self.checks) or True}):",
            "    refuse(record)",
        ]
        lines += [f"pack_into(memory, 0, {', '.join(self.words)})"]
        source = "\n    ".join(["def pack(record, memory):", *lines])
        # Written from the records above, never from what users give.
        exec(compile(source, "<packer>", "exec"), names)
        return names["pack"]


def _refuse(record):
    arrays = [f"{name}: {value.dtype} {value.strides}" for name, value in _arrays(record)]
    raise TypeError(
        f"an array of {type(record).__name__} has another dtype than kernels expect, or is not "
        f"contiguous: {', '.join(arrays)}"
    )


def _arrays(record):
    for name, value in record._asdict().items():
        if isinstance(value, np.ndarray):
            yield name, value
        elif hasattr(value, "_asdict"):
            yield from _arrays(value)


@cache
def packer(record, real, is_sparse):
    """The function that writes a record's words, and the ctypes type of their memory.

    Parameters
    ----------
    record : type
    real : str or None
    is_sparse : bool
    """
    source = _PackerSource(record, real, is_sparse)
    return source.compile(), ctypes.c_char * struct.calcsize(source.format)


class Packed:
    """A record as kernels read it.

    Parameters
    ----------
    record : named tuple
        One of those above. It is kept, and with it all that its words point to.
    real : str or None, default=None
        The engine's dtype; None of a record without such numbers.
    is_sparse : bool, default=False
        Whether it is for sparse rows.

    Attributes
    ----------
    address : int

    Raises
    ------
    TypeError
        If an array is not what the kernels would take it for.
    """

    __slots__ = "_memory", "address", "record"

    def __init__(self, record, real=None, is_sparse=False):
        pack, memory_type = packer(type(record), real, is_sparse)
        self.record, self._memory = record, memory_type()
        pack(record, self._memory)
        self.address = ctypes.addressof(self._memory)
