"""A package with shipped kernels, for the tests of those."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from fastbp.cpu import levels, libraries

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A folder with a copy of the package that has the library for this machine's CPU."""
    from fastbp.cpu.kernels import ahead

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers, of which one makes it
    package = folder / "shipping" / "fastbp"
    with open(folder / "shipping.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not package.exists():
            unused = shutil.ignore_patterns("__pycache__", "libraries")
            shutil.copytree(ROOT / "fastbp", folder / "copy", ignore=unused)
            target = folder / "copy" / "cpu" / "libraries"
            ahead.main(["--levels", levels.levels_of_machine()[0], "--folder", str(target)])
            (folder / "shipping").mkdir()
            (folder / "copy").rename(package)
    return package


@pytest.fixture
def library(package, tmp_path, monkeypatch):
    """The path of a copy of the library, where it is looked for."""
    monkeypatch.setattr(libraries, "FOLDER", tmp_path)
    path = libraries.library_path(levels.levels_of_machine()[0])
    shutil.copy(package / "cpu" / "libraries" / path.name, path)
    return path
