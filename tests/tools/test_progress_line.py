"""verbose="progress": one line, in terminals, notebooks and files."""

import io
import re
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
from conftest import small, weights

import fastbp
from fastbp import progress_line

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as the output, with neither tqdm nor rich, and a line drawn every epoch."""
    stream = Terminal()
    # pytest replaces sys.stdout again before the test.
    monkeypatch.setattr(progress_line, "sys", SimpleNamespace(stdout=stream, modules=sys.modules))
    monkeypatch.setattr(progress_line, "find_spec", lambda name: None)
    monkeypatch.setattr(progress_line, "INTERVAL", 0.0)
    return stream


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_plain_line_is_drawn_over_itself(solver, terminal):
    model, X, y = small("binary", verbose="progress", max_iter=4, solver=solver)
    model.fit(X, y, X_val=X[:9], y_val=y[:9])
    text = terminal.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    drawn = text.strip("\r\n").split("\r")
    assert [re.search(r"(\d)/4 epochs", line)[1] for line in drawn] == ["1", "2", "3", "4", "4"]
    last = f"loss {model.loss_:.4g}, score {model.validation_scores_[-1]:.4g}, "
    assert drawn[-1].startswith(f"[{'#' * 24}] 4/4 epochs, {last}")
    assert re.search(r" rows/s, 0:0\d passed, 0:0\d left", drawn[1])
    assert all(len(line) >= len(before.rstrip()) for before, line in pairwise(drawn))


def test_short_epochs_are_not_slowed_by_the_line(terminal, monkeypatch):
    monkeypatch.setattr(progress_line, "INTERVAL", 3600.0)
    model, X, y = small("single", verbose="progress", max_iter=300, n_iter_no_change=300)
    model.fit(X, y)
    assert terminal.getvalue().count("\r") == 1  # at the end


def test_a_file_gets_one_line(capsys):
    model, X, y = small("single", verbose="progress", max_iter=300, n_iter_no_change=300)
    model.fit(X, y)
    printed = capsys.readouterr().out
    assert re.fullmatch(r"300/300 epochs, loss \S+, \S+ rows/s, 0:0\d passed\n", printed)
    assert weights(model).tolist() == weights(model.set_params(verbose=False).fit(X, y)).tolist()
    assert capsys.readouterr().out == ""


def test_the_line_ends_where_a_fit_fails(terminal):
    def callback(report):
        raise ZeroDivisionError

    model, X, y = small("single", verbose="progress", callback=callback)
    with pytest.raises(ZeroDivisionError):
        model.fit(X, y)
    assert terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize("package", ["tqdm", "rich"])
def test_packages_draw_the_line(package, terminal, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setattr(progress_line, "find_spec", lambda name: True if name == package else None)
    model, X, y = small("single", verbose="progress", max_iter=4)
    model.fit(X, y)
    assert "4/4" in terminal.getvalue()
    assert f"loss {model.loss_:.4g}" in terminal.getvalue()


def test_a_notebook_draws_by_tqdm(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    shell = type("ZMQInteractiveShell", (), {})()
    stand_in = type(sys)("IPython")
    stand_in.get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", stand_in)
    assert progress_line.is_notebook()
    line = progress_line.make_line(3, "epochs")
    assert isinstance(line.bar, tqdm.tqdm)
    line.show(3, [], ended=True)


def test_a_notebook_without_packages_gets_a_plain_line(terminal, monkeypatch):
    monkeypatch.setattr(progress_line, "is_notebook", lambda: True)
    terminal.isatty = lambda: False
    model, X, y = small("single", verbose="progress", max_iter=4)
    model.fit(X, y)
    assert terminal.getvalue().count("\r") == 5


def test_batches_make_no_lines(terminal):
    model, X, y = small("single", verbose="progress")
    for _ in range(3):
        model.partial_fit(X, y)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("draws", [False, True])
def test_fit_many_has_one_line_for_all(draws, terminal):
    if not draws:
        terminal.isatty = lambda: False
    models = [small("single", verbose="progress", random_state=i)[0] for i in range(5)]
    _, X, y = small("single")
    fastbp.fit_many([*models, small("single")[0]], X, y, n_threads=2)
    printed = terminal.getvalue()
    assert printed.count("\n") == 1
    assert re.search(r"5/5 fits, 0:0\d passed *\n$", printed)


def test_verbose_takes_no_other_word():
    model, X, y = small("single", verbose="much")
    with pytest.raises(ValueError, match="'verbose' parameter"):
        model.fit(X, y)
