"""The benchmarks: no figure may claim more than was measured."""

import pytest

from benchmarks.figures import compare
from benchmarks.race import Entry


@pytest.mark.parametrize(
    ("remarks", "seconds", "met"),
    [
        ({}, 1.0, True),
        ({}, 3.0, False),
        ({"JAX": "not installed"}, 1.0, None),
        ({"JAX": "failed: exit status 1", "PyTorch": "computes something else"}, 1.0, None),
        ({"JAX": "not installed"}, 3.0, False),
        ({"JAX": "x", "PyTorch": "y", "scikit-learn": "z"}, 1.0, None),
        ({"fastbp": "failed: exit status 1"}, 1.0, False),
    ],
)
def test_a_race_is_only_won_against_every_peer(remarks, seconds, met):
    entries = [
        Entry(name, remarks.get(name, ""), 1.0, [seconds if name == "fastbp" else 2.0], [0.5])
        for name in ("fastbp", "JAX", "PyTorch", "scikit-learn")
    ]
    figure = compare("an epoch", 1.5, *entries)
    assert figure.met is met
    named = [part for item in remarks.items() for part in item if part != "fastbp"]
    assert all(part in figure.measured for part in named)
