"""Reading rows of the user's arrays in place, whatever their dtype and strides."""

from typing import NamedTuple

import numpy as np

from fastbp.cpu.compilation import kernel, phase
from fastbp.cpu.simd import CACHE_LINE, prefetch, read_floats
from fastbp.cpu.spans import by_reference, load_number

FLOAT32, FLOAT64, BYTE, INT8, INT16, UINT16, INT32, UINT32, INT64, UINT64 = range(10)
CODES = {
    np.dtype(dtype): code
    for dtype, code in {
        np.float32: FLOAT32,
        np.float64: FLOAT64,
        np.bool_: BYTE,
        np.uint8: BYTE,
        np.int8: INT8,
        np.int16: INT16,
        np.uint16: UINT16,
        np.int32: INT32,
        np.uint32: UINT32,
        np.int64: INT64,
        np.uint64: UINT64,
    }.items()
}
# A matrix of at most this many bytes stays in the caches and is not prefetched.
_CACHED_BYTES = 2**18


@by_reference
class Source(NamedTuple):
    """Address, dtype code and strides (bytes) of a matrix, all integers."""

    address: int
    code: int
    row_stride: int
    column_stride: int
    n_columns: int
    is_far: int  # whether it is too large to stay in the caches


def source_of(matrix):
    """Describe an ndarray of one or two dimensions for the kernels, as a `Source`.

    The caller keeps the array alive while they read it.
    """
    matrix = matrix.reshape(-1, 1) if matrix.ndim == 1 else matrix
    return Source(
        matrix.__array_interface__["data"][0],
        CODES[matrix.dtype],
        *matrix.strides,
        matrix.shape[1],
        int(matrix.nbytes > _CACHED_BYTES),
    )


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
