"""Kernels touch nothing but their arrays: every array lies between two unreadable pages.

`python -m tests.trials.guard_pages --n 5000 --seed 0` tries more.
"""

import mmap

import numpy as np
import pytest
from processes import call_alone

from tests.guard import LAYOUTS, guarded, is_available, touch
from tests.trials.guard_pages import make_case, run_cases

pytestmark = pytest.mark.skipif(not is_available(), reason="pages cannot be protected here")

CASES = 240


@pytest.mark.parametrize("at_end", [True, False])
def test_only_the_array_itself_can_be_touched(at_end):
    beyond = 1 if at_end else -1
    assert call_alone(touch, 0, at_end, False) == (4.0 if at_end else 0.0)
    for offset, write in ((beyond, False), (0, True)):
        with pytest.raises(AssertionError):
            call_alone(touch, offset, at_end, write)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_end_of_an_array_touches_the_page(layout, at_end):
    array = guarded(np.arange(12, dtype=np.int16).reshape(3, 4), at_end, layout)
    addresses = [array[i : i + 1, j : j + 1].ctypes.data for i in range(3) for j in range(4)]
    end = max(addresses) + array.itemsize if at_end else min(addresses)
    assert end % mmap.PAGESIZE == 0
    if layout in ("C", "F", "strided", "reversed", "unaligned"):
        assert np.array_equal(array, np.arange(12).reshape(3, 4))


def test_kernels_touch_only_their_arrays(tmp_path):
    """Random networks, data and batches, the engine's own arrays included."""
    note = tmp_path / "case"
    try:
        assert call_alone(run_cases, 0, 0, CASES, str(note)) == CASES
    except AssertionError as error:
        case = f"python -m tests.trials.guard_pages {note.read_text()}" if note.exists() else ""
        pytest.fail(f"{case}\n{str(error)[:3000]}")


def test_cases_are_of_every_kind():
    """What a random case says is what the cases of the suite are made of."""
    cases = [make_case(0, index) for index in range(CASES)]
    for name, count in (
        ("X", 11),
        ("layout", 10),
        ("rule", 5),
        ("output", 6),
        ("targets", 11),
        ("products", 3),
    ):
        assert len({case[name] for case in cases}) == count
