"""`pytest -m smoke`: a few tests of every part, in less than a minute."""

from pathlib import Path

import pytest

# Those of cuda are collected only where numba-cuda's simulator is asked for.
FOLDERS = [folder for folder in Path(__file__).parent.iterdir() if any(folder.glob("test_*.py"))]


@pytest.mark.smoke
@pytest.mark.parametrize("folder", [f for f in FOLDERS if f.name != "cuda"], ids=lambda f: f.name)
def test_every_part_has_its_share(folder):
    marked = [path for path in folder.glob("test_*.py") if "@pytest.mark.smoke" in path.read_text()]
    assert marked, f"no test in {folder} is marked: smoke would say nothing about it"
