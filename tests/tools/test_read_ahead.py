"""MNIST read in a thread: the same data and the same errors as without it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_datasets import NAMES, idx

from fastbp import datasets


@pytest.fixture
def folder(tmp_path):
    """A folder of four sound files of three images each."""
    for key, name in NAMES.items():
        shape = (3, 28, 28) if key.startswith("X") else (3,)
        (tmp_path / name).write_bytes(idx(np.full(shape, 7, np.uint8)))
    return tmp_path


@pytest.fixture
def without_threads(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("fixture", [None, "without_threads"])
def test_the_data_are_those_of_load_mnist(folder, fixture, request):
    if fixture:
        request.getfixturevalue(fixture)
    expected, found = datasets.load_mnist(folder), datasets.ReadAhead(folder).load()
    assert type(found) is type(expected)
    assert [*found] == [*expected]
    for name in NAMES:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype


def test_an_error_is_raised_when_the_data_are_asked_for(folder):
    (folder / NAMES["y_test"]).unlink()
    reading = datasets.ReadAhead(folder)
    with pytest.raises(FileNotFoundError, match=f"no file {NAMES['y_test']}"):
        reading.load()
    with pytest.raises(ValueError, match="more than 2 items are not read"):
        datasets.ReadAhead(folder, most_images=2).load()


def test_a_download_waits_until_the_data_are_asked_for(monkeypatch, tmp_path):
    """It imports scikit-learn's data sets, which this thread may be importing, too."""
    threads = []

    def download(verbose):
        threads.append(threading.current_thread())
        raise OSError("the network is unreachable")

    monkeypatch.delenv("FASTBP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(datasets, "_download", download)
    reading = datasets.ReadAhead()
    reading._thread.join()
    assert threads == []
    with pytest.raises(ConnectionError, match="the network is unreachable"):
        reading.load()
    assert threads == [threading.main_thread()]


def test_the_thread_imports_nothing(folder):
    """Two threads that import from both ends of a circle see modules half done."""
    program = (
        "import sys; import fastbp.cli; from fastbp import datasets; before = {*sys.modules}\n"
        f"reading = datasets.ReadAhead({str(folder)!r}); reading._thread.join()\n"
        "print(*({*sys.modules} - before)); reading.load()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
