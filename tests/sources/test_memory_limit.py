"""A fit from a file takes no more memory than its buffers, held to by a limit of addresses."""

import sys

import pytest

from benchmarks.scale import memory

BUFFER = 2**22


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS"
)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """600 MB of rows, labels of 12 MB: the limit of addresses is far below X."""
    added = memory.bytes_of_fit(tmp_path, 1_500_000, 100, BUFFER, beyond=140 * memory.MEGABYTE)
    assert added is not None
    _, resident = added
    # Two buffers, the labels, their classes in a byte each, and what sorting them takes.
    assert resident < 2 * BUFFER + 12_000_000 + 50 * memory.MEGABYTE


def test_nor_with_the_rows_of_a_buffer(tmp_path):
    """Of 8 bytes each, eight million would fit: places and targets would take 400 MB."""
    added = memory.bytes_of_fit(tmp_path, 9_000_000, 2, beyond=140 * memory.MEGABYTE)
    assert added is not None
