"""Memory and threads that cannot be had: an error of the system's, and nothing half done."""

import copy
import pickle

import numpy as np
import pytest
from conftest import small, weights
from sklearn.base import clone

from fastbp.cpu import engine as cpu_engine
from fastbp.cpu import layout, predicting, team, work, workspace

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Failing:
    """A function that raises at its n-th call, and works before and after."""

    def __init__(self, function, error):
        self.function, self.error = function, error
        self.calls, self.fails_at = 0, 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.calls == self.fails_at:
            raise self.error
        return self.function(*arguments, **named)


def state_of(model):
    return pickle.dumps(copy.deepcopy(vars(model)))


def try_every_call(failing, call, model, error):
    """Let the first, second … call of a function fail, until none fails any more."""
    before = state_of(model)
    while True:
        failing.calls, failing.fails_at = 0, failing.fails_at + 1
        attempt = copy.deepcopy(model)
        try:
            call(attempt)
        except error:
            assert state_of(attempt) == before
            call(attempt)  # and the next one goes well
            yield attempt
        else:
            assert failing.calls < failing.fails_at
            assert failing.fails_at > 1
            yield attempt
            return


CALLS = {
    "fit": lambda model, X, y: model.fit(X, y),
    "partial_fit": lambda model, X, y: model.partial_fit(X, y),
    "predict": lambda model, X, y: model.predict(X),
    "predict a row": lambda model, X, y: model.predict(X[:1]),
}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", CALLS)
def test_the_nth_allocation_fails(name, solver, monkeypatch):
    if name == "partial_fit" and solver == "lbfgs":
        pytest.skip("there is none")
    model, X, y = small("multiclass", solver=solver, max_iter=2)
    if name == "predict":
        monkeypatch.setattr(predicting, "FEW_BYTES", 0)  # tiles, for so little work, too
    model.fit(X, y)
    expected = copy.deepcopy(model)
    found = CALLS[name](expected, X, y)
    failing = Failing(layout.aligned_zeros, MemoryError("no memory"))
    for module in (cpu_engine, predicting, workspace):
        monkeypatch.setattr(module, "aligned_zeros", failing)
    if name == "predict a row":
        failing.fails_at = 10**9  # it allocates nothing of the engine's
        np.testing.assert_array_equal(CALLS[name](model, X, y), found)
        return
    for each in try_every_call(failing, lambda m: CALLS[name](m, X, y), model, MemoryError):
        np.testing.assert_array_equal(weights(each), weights(expected))


@pytest.mark.parametrize("name", ["fit", "partial_fit", "predict"])
def test_the_nth_thread_does_not_start(name, monkeypatch):
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(work, "WORK_PER_START", 0)
    model, X, y = small("multiclass", n_threads=3, max_iter=2, hidden_layer_sizes=(40,))
    X, y = np.repeat(X, 10, 0), np.repeat(y, 10)
    model.fit(X, y)
    expected = clone(model).fit(X, y)
    CALLS[name](expected, X, y)
    failing = Failing(team.start_new_thread, RuntimeError("can't start new thread"))
    monkeypatch.setattr(team, "start_new_thread", failing)
    for each in try_every_call(failing, lambda m: CALLS[name](m, X, y), model, RuntimeError):
        np.testing.assert_array_equal(weights(each), weights(expected))
