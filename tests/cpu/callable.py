"""Kernels that tests and benchmarks call with arrays, records and numbers."""

import ctypes

import numpy as np
from numba import types

from fastbp.cpu.kernels.compilation import Exported
from fastbp.cpu.kernels.spans import Reference, Span, record_type
from fastbp.cpu.packing import Packed


class Callable:
    """A kernel like those of the library, which takes its arguments by address.

    Parameters
    ----------
    function : function
        Of spans, records, and numbers; it returns an int64 that is not negative, or None.
    real : str, default="float64"
        The dtype of the records' numbers.
    is_sparse : bool, default=False
    """

    def __init__(self, function, real="float64", is_sparse=False):
        self.exported, self.real, self.is_sparse = Exported(function), real, is_sparse
        self.dispatcher = self.exported.dispatcher

    def signature(self, *arguments):
        """Numba's types of such arguments."""
        return tuple(map(self._type_of, arguments))

    def _type_of(self, argument):
        if isinstance(argument, tuple):
            return Reference(record_type(type(argument), self.real, self.is_sparse))
        if isinstance(argument, np.ndarray):
            return Span(getattr(types, str(argument.dtype)))
        if isinstance(argument, (int, np.integer)):
            return types.int64
        return types.float32 if isinstance(argument, np.float32) else types.float64

    def __call__(self, *arguments):
        values, kinds, held = [], [], []
        for argument in arguments:
            if isinstance(argument, tuple):
                held.append(Packed(argument, self.real, self.is_sparse))
                values.append(held[-1].address)
                kinds.append(ctypes.c_void_p)
            elif isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous
                values += argument.__array_interface__["data"][0], argument.size
                kinds += ctypes.c_void_p, ctypes.c_int64
            elif isinstance(argument, (int, np.integer)):
                values.append(int(argument))
                kinds.append(ctypes.c_int64)
            else:
                values.append(float(argument))
                is_single = isinstance(argument, np.float32)
                kinds.append(ctypes.c_float if is_single else ctypes.c_double)
        address = self.exported.address(self.signature(*arguments))
        result = ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(address)(*values)
        assert result >= 0
        return result
