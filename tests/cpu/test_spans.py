"""Spans and records by reference: what kernels see of the arrays that Python hands them."""

from typing import NamedTuple

import numpy as np
import pytest
from fastbp.cpu.compilation import cached_kernel, phase
from fastbp.cpu.spans import by_reference, section, span_of
from numba.core.errors import TypingError


@by_reference
class Inner(NamedTuple):
    numbers: np.ndarray
    count: int


@by_reference
class Outer(NamedTuple):
    factor: float
    inner: Inner
    results: np.ndarray


@phase
def scale(outer, numbers):
    for i in range(numbers.size):
        numbers[i] *= outer.factor


@cached_kernel
def work(outer, extra):
    """Scale all but the first number of the record, and note what was there to see."""
    inner, results = outer.inner, outer.results
    scale(outer, section(inner.numbers, 1, inner.numbers.size - 1))
    results[0], results[1] = inner.count, span_of(extra).size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_records_reach_the_arrays_themselves(dtype):
    numbers, results = np.arange(1, 6, dtype=dtype), np.zeros(2, np.int64)
    work(Outer(10.0, Inner(numbers, 7), results), np.zeros(4, np.float32))
    assert numbers.tolist() == [1, 20, 30, 40, 50]
    assert results.tolist() == [7, 4]


@pytest.mark.parametrize("numbers", [np.zeros(8)[::2], np.zeros((2, 3))])
def test_arrays_that_are_not_contiguous_are_refused(numbers):
    """A span would run over what lies between them."""
    record = Outer(1.0, Inner(numbers, 0), np.zeros(2, np.int64))
    with pytest.raises(TypingError, match="contiguous"):
        work(record, np.zeros(1))
    record = Outer(1.0, Inner(np.zeros(2), 0), np.zeros(2, np.int64))
    with pytest.raises(TypingError, match="contiguous"):
        work(record, numbers[::-1])
