"""The oldest supported environment: what is promised, pinned, and said to be missing there."""

import re
import tomllib
from pathlib import Path

import versions

ROOT = Path(__file__).parents[2]


def test_the_oldest_versions_that_are_promised_are_those_that_are_tested():
    """A bound could be lowered, and no test would run there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^(\S+)==(\d+\.\d+)", text, re.MULTILINE))
    promised = dict(requirement.split(">=") for requirement in project["dependencies"])
    assert {"numpy", "scikit-learn"} <= promised.keys()
    assert {name: pins[name] for name in promised} == promised


def test_nothing_is_missing_in_the_version_that_the_documentation_names():
    """There every comparison with scikit-learn must be made."""
    page = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    major, minor = re.search(r"scikit-learn\s(\d+)\.(\d+)'s", page).groups()
    assert max(versions.SINCE.values()) <= (int(major), int(minor))
