"""What training prints and warns of: scikit-learn's own words."""

import warnings

import numpy as np
import pytest
import sklearn.neural_network
import versions
from conftest import TASKS, pair

import fastbp

PLATEAU = {"tol": 0.05, "n_iter_no_change": 2, "max_iter": 60}
SAID = {
    "adam": {"solver": "adam", "max_iter": 3},
    "adam, converged": {"solver": "adam", "learning_rate": "adaptive", **PLATEAU},
    "adam, scored": {"solver": "adam", "early_stopping": True, **PLATEAU},
    "sgd": {"solver": "sgd", "max_iter": 3, "verbose": 10},
    "sgd, converged": {"solver": "sgd", **PLATEAU},
    "sgd, scored": {"solver": "sgd", "early_stopping": True, **PLATEAU},
    "sgd, adaptive": {"solver": "sgd", "learning_rate": "adaptive", **PLATEAU},
    "sgd, scored, adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "early_stopping": True,
        **PLATEAU,
    },
    "clipped": {"batch_size": 1000, "max_iter": 2},
    "lbfgs, max_iter": {"solver": "lbfgs", "max_iter": 3, "verbose": False},
    "lbfgs, max_fun": {"solver": "lbfgs", "max_fun": 5, "verbose": False},
    "silent": {"max_iter": 2, "verbose": False},
}


def said(model, train, capsys):
    """What is printed, and the warnings' classes and texts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model)
    return capsys.readouterr().out, [(w.category, str(w.message)) for w in caught]


@pytest.mark.parametrize("parameters", SAID.values(), ids=SAID)
@pytest.mark.parametrize("task", ["binary", "single", "poisson"])
def test_fit_says_what_scikit_learn_says(task, parameters, capsys):
    if parameters.get("solver") == "lbfgs":
        versions.needs("the number of iterations in what lbfgs warns of")
    ours, theirs, X, y = pair(task, **{"verbose": True} | parameters)
    printed, warned = said(ours, lambda model: model.fit(X, y), capsys)
    expected, their_warnings = said(theirs, lambda model: model.fit(X, y), capsys)
    assert printed == expected
    assert (printed != "") == bool(ours.verbose)
    assert [category for category, _ in warned] == [category for category, _ in their_warnings]
    for (_, text), (_, their_text) in zip(warned, their_warnings, strict=True):
        # Where there is something to add, it follows, so that filters match as before.
        assert text.startswith(their_text)
        assert text == their_text or "batch_size=1000, 90 rows" in text


def test_the_rate_becomes_too_small(capsys):
    """The cases above must have come to every ending."""
    printed = set()
    for name in ("sgd, adaptive", "sgd, converged", "sgd, scored"):
        model, _, X, y = pair("single", verbose=True, **SAID[name])
        out, _ = said(model, lambda model, X=X, y=y: model.fit(X, y), capsys)
        printed |= {line.split(" epochs. ")[-1].split("0.")[0] for line in out.splitlines()}
    assert {
        "Setting learning rate to ",
        "Learning rate too small. Stopping.",
        "Stopping.",
    } <= printed
    assert any(line.startswith("Validation score: ") for line in printed)


@pytest.mark.parametrize("task", ["binary", "single"])
def test_partial_fit_says_what_scikit_learn_says(task, capsys):
    def train(model):
        for _ in range(3):
            model.partial_fit(X, y, **({"classes": np.unique(y)} if task == "binary" else {}))

    ours, theirs, X, y = pair(task, verbose=True, tol=1.0, n_iter_no_change=1)
    assert said(ours, train, capsys) == said(theirs, train, capsys)


@pytest.mark.parametrize("package", [fastbp, sklearn.neural_network])
def test_interruption_is_told_in_the_same_words(package, monkeypatch):
    """The other tests of Ctrl-C match these words; here they are held against scikit-learn's."""
    name, extra, X, y = TASKS["single"]
    model = getattr(package, name)(**extra, max_iter=2)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    if package is fastbp:
        model.set_params(callback=interrupt)
    else:
        monkeypatch.setattr(model, "_backprop", interrupt, raising=False)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model.fit(X, y)


def test_lbfgs_prints_its_iterations(capsys):
    """scikit-learn hands `verbose` to SciPy, which prints nothing since 1.15."""
    model, theirs, X, y = pair("single", solver="lbfgs", max_iter=3, verbose=True)
    printed, _ = said(model, lambda model: model.fit(X, y), capsys)
    assert printed.splitlines() == [
        f"Iteration {number}, loss = {loss:.8f}"
        for number, loss in enumerate(model.loss_curve_, start=1)
    ]
    assert said(theirs, lambda model: model.fit(X, y), capsys)[0] == ""
