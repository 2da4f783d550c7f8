"""Reading rows of the user's arrays where they lie: any dtype, any strides, dense or CSR."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse

from fastbp.cpu.compilation import kernel
from fastbp.cpu.simd import load_number, prefetch, section

FLOAT32, FLOAT64, BYTE, INT8, INT16, UINT16, INT32, UINT32, INT64, UINT64 = range(10)
_CODES = {
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
_ABSENT = -1
_CACHE_LINE = 64


class Source(NamedTuple):
    """Addresses, dtype codes and strides (bytes) of a matrix; all of it integers."""

    address: int
    code: int
    row_stride: int
    column_stride: int
    n_columns: int
    # CSR only: the addresses of column indices and row starts, and whether they have 64 bits.
    indices: int = 0
    row_starts: int = 0
    wide_indices: int = _ABSENT


def source_of(matrix):
    """Describe an ndarray of one or two dimensions or a CSR matrix for the kernels.

    The caller keeps the matrix alive while kernels read it.
    """
    if issparse(matrix):
        indices, row_starts = matrix.indices, matrix.indptr
        return Source(
            matrix.data.ctypes.data, _CODES[matrix.dtype], 0, matrix.dtype.itemsize,
            matrix.shape[1], indices.ctypes.data, row_starts.ctypes.data,
            int(indices.dtype.itemsize == 8),
        )  # fmt: skip
    matrix = matrix.reshape(-1, 1) if matrix.ndim == 1 else matrix
    return Source(
        matrix.__array_interface__["data"][0],
        _CODES[matrix.dtype],
        *matrix.strides,
        matrix.shape[1],
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


@kernel
def _read_row(row, address, stride, code, scale):
    """Fill `row` with as many numbers from an address, times `scale`.

    Contiguous bytes and floats take vector instructions, everything else goes one by one.
    """
    real = type(scale)
    if code == FLOAT32 and stride == 4:
        for j in range(row.size):
            row[j] = real(load_number(address, j, np.float32)) * scale
    elif code == FLOAT64 and stride == 8:
        for j in range(row.size):
            row[j] = real(load_number(address, j, np.float64)) * scale
    elif code == BYTE and stride == 1:
        for j in range(row.size):
            row[j] = real(load_number(address, j, np.uint8)) * scale
    else:
        for j in range(row.size):
            row[j] = real(_read_number(address + j * stride, code)) * scale


@kernel
def _read_index(address, position, wide):
    if wide:
        return load_number(address, position, np.int64)
    return np.int64(load_number(address, position, np.int32))


@kernel
def _read_sparse_row(row, buffer, source, index, scale):
    """Fill `row` with a CSR row, times `scale`; duplicate entries add up."""
    for j in range(row.size):
        row[j] = 0
    start = _read_index(source.row_starts, index, source.wide_indices)
    stop = _read_index(source.row_starts, index + 1, source.wide_indices)
    itemsize = source.column_stride
    for first in range(start, stop, buffer.size):
        left = stop - first
        part = section(buffer, 0, left if left < buffer.size else buffer.size)
        _read_row(part, source.address + first * itemsize, itemsize, source.code, scale)
        for k in range(part.size):
            row[_read_index(source.indices, first + k, source.wide_indices)] += part[k]


@kernel
def gather_row(row, buffer, source, index, scale):
    """Convert row `index` of the source to the dtype of `row`, times `scale`.

    `buffer` is working space of the same dtype, for sparse rows.
    """
    if source.wide_indices >= 0:
        _read_sparse_row(row, buffer, source, index, scale)
    else:
        address = source.address + index * source.row_stride
        _read_row(row, address, source.column_stride, source.code, scale)


@kernel
def prefetch_row(source, index):
    """Have row `index` of the source fetched into the cache, if it is dense and lies together."""
    if source.wide_indices < 0 and 0 < source.column_stride <= _CACHE_LINE:
        start = source.address + index * source.row_stride
        for offset in range(0, source.n_columns * source.column_stride, _CACHE_LINE):
            prefetch(start + offset)
