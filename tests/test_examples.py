"""Every example runs and reaches what it shows."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_mnist_example_on_the_bundled_digits(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FASTBP_DATA", str(tmp_path / "nowhere"))
    accuracy = runpy.run_path(str(EXAMPLES / "mnist.py"))["main"]()
    printed = capsys.readouterr().out
    assert "bundled digits" in printed
    assert "epoch 8: loss" in printed
    assert accuracy > 0.85
