"""Spans and records by address: what kernels see of the arrays that Python hands them."""

from itertools import chain
from typing import NamedTuple

import numpy as np
import pytest
from numba.core.registry import cpu_target

from fastbp.cpu import packing, records
from fastbp.cpu.kernels.compilation import kernel, phase
from fastbp.cpu.kernels.spans import record_type, section
from fastbp.cpu.packing import Packed
from fastbp.cpu.records import Int64s, Reals, Source
from tests.cpu.callable import Callable


class Inner(NamedTuple):
    numbers: Reals
    count: int


class Outer(NamedTuple):
    factor: float
    inner: Inner
    results: Int64s
    source: Source | None


@phase
def scale(outer, numbers):
    for i in range(numbers.size):
        numbers[i] *= outer.factor


@kernel
def is_far(source):
    if source is None:
        return 0
    return source.is_far


def work(outer, extra):
    """Scale all but the first number of the record, and note what was there to see."""
    inner, results = outer.inner, outer.results
    scale(outer, section(inner.numbers, 1, inner.numbers.size - 1))
    results[0], results[1] = inner.count, extra.size
    results[1] += is_far(outer.source)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_records_reach_the_arrays_themselves(dtype, is_sparse):
    numbers, results = np.arange(1, 6, dtype=dtype), np.zeros(2, np.int64)
    source = None if is_sparse else Source(0, 1, 2, 3, 4, 5)
    Callable(work, dtype, is_sparse)(
        Outer(10.0, Inner(numbers, 7), results, source), np.zeros(4, np.float32)
    )
    assert numbers.tolist() == [1, 20, 30, 40, 50]
    assert results.tolist() == [7, 4 if is_sparse else 9]


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("record", dict.fromkeys(chain(*records.KERNELS.values())))
def test_records_have_as_many_words_for_numba_as_for_python(record, real, is_sparse):
    """A word too many in one of them would shift all that follow."""
    target = cpu_target.target_context
    value_type = target.get_value_type(record_type(record, real, is_sparse))
    _, memory = packing.packer(record, real, is_sparse)
    assert target.get_abi_sizeof(value_type) == memory._length_


@pytest.mark.parametrize(
    "numbers",
    [
        np.zeros(8)[::2],
        np.zeros((3, 2)).T,
        np.zeros(3, np.float32),
        np.zeros(3, ">f8"),
        np.arange(3),
    ],
)
def test_arrays_that_kernels_would_take_for_others_are_refused(numbers):
    """A span would run over what lies between them, or read other numbers."""
    record = Outer(1.0, Inner(numbers, 0), np.zeros(2, np.int64), None)
    with pytest.raises(TypeError, match="not contiguous"):
        Packed(record, "float64", is_sparse=True)


def test_arrays_that_must_not_be_written_have_an_address():
    numbers = np.arange(3.0)
    numbers.flags.writeable = False
    assert packing.address_of(numbers) == numbers.ctypes.data
    assert packing.address_of(np.zeros(0)) > 0
