"""`python -m benchmarks.scale` says what must be and what was measured, line by line."""

import re

import pytest

from benchmarks.scale.__main__ import main


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:buffer=.* holds .* blocks")
def test_every_line_has_a_bound_and_a_figure(tmp_path, capsys):
    main(["speed", "accuracy", "--rows", "6000", "--epochs", "2", "--folder", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| what | must be | measured | met? |"
    assert len(lines) == 2 + 6 + 2
    for line in lines[2:]:
        assert re.fullmatch(r"\| .+ \| [≤≥] [\d.]+ \| -?[\d.]+ \| (yes|\*\*no\*\*) \|", line), line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["spede"])
    assert "are not among the studies" in capsys.readouterr().err
