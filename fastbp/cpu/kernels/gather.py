"""Reading rows of the user's arrays in place, whatever their dtype and strides."""

import numpy as np

from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.simd import prefetch, read_floats
from fastbp.cpu.kernels.spans import load_number
from fastbp.cpu.records import CACHE_LINE, DTYPES

FLOAT32, FLOAT64, BYTE, INT8, INT16, UINT16, INT32, UINT32, INT64, UINT64 = range(len(DTYPES))


@kernel
def _read_number(address, code):
    """Read one number of any dtype, as float64."""
    if code == FLOAT32:
        return np.float64(load_number(address, 0, np.float32))
    if code == FLOAT64:
        return load_number(address, 0, np.float64)
    if code == BYTE:
        return np.float64(load_number(address, 0, np.uint8))
    if code == INT8:
        return np.float64(load_number(address, 0, np.int8))
    if code == INT16:
        return np.float64(load_number(address, 0, np.int16))
    if code == UINT16:
        return np.float64(load_number(address, 0, np.uint16))
    if code == INT32:
        return np.float64(load_number(address, 0, np.int32))
    if code == UINT32:
        return np.float64(load_number(address, 0, np.uint32))
    if code == INT64:
        return np.float64(load_number(address, 0, np.int64))
    return np.float64(load_number(address, 0, np.uint64))


@phase
def _read_numbers(row, address, stride, code, scale):
    """Fill `row` with numbers of any dtype, times `scale`.

    The loop over contiguous bytes is vectorised; everything else is read one by one.
    """
    real = type(scale)
    if code == BYTE and stride == 1:
        for j in range(row.size):
            row[j] = real(load_number(address, j, np.uint8)) * scale
    else:
        for j in range(row.size):
            row[j] = real(_read_number(address + j * stride, code)) * scale


@kernel
def read_row(row, address, stride, code, scale):
    """Fill `row` with the numbers at an address, times `scale`.

    Floats are read inline: a short row takes fewer cycles than a call.
    """
    if code == FLOAT32 and stride == 4:
        read_floats(row, address, scale, np.float32)
    elif code == FLOAT64 and stride == 8:
        read_floats(row, address, scale, np.float64)
    else:
        _read_numbers(row, address, stride, code, scale)


@kernel
def gather_row(row, source, index, scale):
    """Convert row `index` of the source to the dtype of `row`, times `scale`."""
    address = source.address + index * source.row_stride
    read_row(row, address, source.column_stride, source.code, scale)


@kernel
def prefetch_row(source, index):
    """Prefetch row `index` of a source that is not in the caches, if the row is compact."""
    if source.is_far and 0 < source.column_stride <= CACHE_LINE:
        start = source.address + index * source.row_stride
        last = start + source.n_columns * source.column_stride - 1
        for address in range(start, last, CACHE_LINE):
            prefetch(address)
        prefetch(last)  # may be on one more line
