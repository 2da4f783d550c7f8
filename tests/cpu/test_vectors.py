"""Vectors as values, and rows of floats that do not end with a whole vector."""

import numpy as np
import pytest

from fastbp.cpu.kernels import simd, vectors
from fastbp.cpu.kernels.gather import read_row
from fastbp.cpu.kernels.spans import section
from tests.cpu.callable import Callable


@Callable
def read(row, start, size, address, stride, code, scale):
    read_row(section(row, start, size), address, stride, code, scale)


@pytest.mark.parametrize("size", [1, 4, 15, 16, 37])
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize(("code", "dtype"), [(0, np.float32), (1, np.float64)])
def test_rows_are_read_to_their_last_number_and_no_further(code, dtype, real, size):
    source = np.random.default_rng(0).normal(size=size).astype(dtype)
    row = np.full(size + 40, 7, real)
    address = source.__array_interface__["data"][0]
    read(row, 3, size, address, source.itemsize, code, real(0.5))
    np.testing.assert_array_equal(row[3 : 3 + size], source.astype(real) * real(0.5))
    assert (row[:3] == 7).all()
    assert (row[3 + size :] == 7).all()


@Callable
def combine(values, out):
    left = vectors.load_vector(values, 0)
    right = vectors.load_vector(values, vectors.vector_size(values))
    size = vectors.vector_size(values)
    vectors.store_vector(out, 0, vectors.where_greater(left, right, left, right))
    vectors.store_vector(out, size, vectors.where_equal(left, right, left - right, left * right))
    vectors.store_vector(out, 2 * size, left / right + vectors.spread(out, 2))


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_lanes_are_worked_on_one_by_one(real):
    size = simd.lanes(real)
    left, right = np.random.default_rng(0).integers(1, 4, (2, size)).astype(real)
    left[0] = np.nan
    out = np.zeros(3 * size, real)
    combine(np.concatenate([left, right]), out)
    product = np.where(left == right, left - right, left * right)
    expected = [np.where(left > right, left, right), product, left / right + real(2)]
    np.testing.assert_array_equal(out, np.concatenate(expected))
