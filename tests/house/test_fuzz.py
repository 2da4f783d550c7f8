"""The fuzz program finds bugs that are planted into fastbp, and nothing where there are none."""

import os
import threading

import numpy as np
import pytest

import fastbp
from fastbp import MLPClassifier, MLPRegressor
from fastbp.base import BaseMLP
from fastbp.cpu.engine import Engine
from fastbp.labels import Labels
from fastbp.optimizers import Optimizer
from tests.fuzz.oracles import Finding
from tests.fuzz.runner import Unusable, run_script
from tests.fuzz.scripts import draw_script
from tests.fuzz.shrink import describe
from tests.fuzz.workers import Worker, run_alone

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PLANTS = {}  # the finding's key -> what plants its bug


def plants(key):
    """Register a function as what plants a bug."""
    return lambda plant: PLANTS.setdefault(key, plant)


def wrap(monkeypatch, owner, name, change):
    """Let a method's result pass through `change(result, self, *arguments)`."""
    method = getattr(owner, name)

    def wrapped(self, *arguments, **named):
        return change(method(self, *arguments, **named), self, *arguments)

    monkeypatch.setattr(owner, name, wrapped)


@plants("error of another type")
def raise_for_one_row(monkeypatch):
    def change(outputs, engine, data, *_):
        return outputs if data.n_samples > 1 else {}["row"]

    wrap(monkeypatch, Engine, "predict", change)


@plants("changed the estimator")
def forget_to_undo(monkeypatch):
    fit = BaseMLP._fit

    def leaving(self, *arguments, **named):
        try:
            return fit(self, *arguments, **named)
        except ValueError:
            self.t_ = -1
            raise

    monkeypatch.setattr(BaseMLP, "_fit", leaving)


@plants("changed its arguments")
def scale_in_place(monkeypatch):
    predict = MLPRegressor.predict

    def scaling(self, X):
        result = predict(self, X)
        if isinstance(X, np.ndarray) and X.flags.writeable and X.dtype == float:
            X *= 2
        return result

    monkeypatch.setattr(MLPRegressor, "predict", scaling)


@plants("not what the weights say")
def reverse_labels(monkeypatch):
    wrap(monkeypatch, Labels, "decode", lambda labels, self, outputs: labels[::-1])


@plants("rows differ")
def round_single_rows(monkeypatch):
    def change(outputs, engine, data, *_):
        return outputs * (1 + 1e-15) if data.n_samples == 1 else outputs

    wrap(monkeypatch, Engine, "predict", change)


@plants("twin threads")
def depend_on_threads(monkeypatch):
    def change(outputs, engine, *_):
        return outputs * (1 + 1e-15) if engine.n_threads == 3 else outputs

    wrap(monkeypatch, Engine, "predict", change)


@plants("twin pickle")
def forget_the_optimizer(monkeypatch):
    def change(state, self):
        return {**state, "_optimizer": None}

    wrap(monkeypatch, BaseMLP, "__getstate__", change)
    monkeypatch.setattr(BaseMLP, "__setstate__", lambda self, state: vars(self).update(state))


@plants("twin many")
def seed_otherwise(monkeypatch):
    fit_many = fastbp.fit_many

    def seeding(estimators, *arguments, **named):
        for estimator in estimators:
            estimator.set_params(alpha=estimator.alpha * 1.5 + 1e-3)
        return fit_many(estimators, *arguments, **named)

    monkeypatch.setattr(fastbp, "fit_many", seeding)


@plants("twin their fit")
def learn_faster(monkeypatch):
    def change(result, optimizer, *_):
        optimizer.learning_rate *= 1.0001

    wrap(monkeypatch, Optimizer, "reset", change)


@plants("prediction in a callback")
def predict_with_other_weights(monkeypatch):
    fit = MLPClassifier.fit

    def doubling(self, *arguments, **named):
        before = getattr(self, "coefs_", None)
        if before is not None:
            self.coefs_ = [2 * array for array in before]
        try:
            return fit(self, *arguments, **named)
        except BaseException:
            self.coefs_ = before
            raise

    monkeypatch.setattr(MLPClassifier, "fit", doubling)


def findings(numbers, seed=0):
    """What sequences find in this process."""
    for number in numbers:
        script = draw_script(seed, number)
        try:
            finding = run_script(script)
        except Unusable:
            continue
        if finding is not None:
            yield script, finding


@pytest.mark.parametrize("key", PLANTS)
def test_planted_bugs_are_found(key, monkeypatch):
    PLANTS[key](monkeypatch)
    found = (finding.key for _, finding in findings(range(600), seed=7))
    assert any(each.startswith(key) for each in found)


def test_findings_come_with_a_script_that_shows_them(monkeypatch):
    """It runs by itself, and is what a person would write."""
    raise_for_one_row(monkeypatch)
    # In the second call, so that the first one has not been refused.
    script, finding = next(found for found in findings(range(1000)) if found[1].call == 1)
    text = describe(0, 0, script, finding)
    with pytest.raises(KeyError, match="row"):
        exec(compile(text, "<script>", "exec"), {"__name__": "script"})


def test_sequences_depend_on_seed_and_number_alone():
    assert draw_script(3, 4) == draw_script(3, 4)
    assert len({draw_script(seed, number).text() for seed in "ab" for number in range(50)}) == 100


# ---- in processes -------------------------------------------------------------------------------


def crash():
    """Plant a crash into this process."""
    MLPClassifier.partial_fit = lambda *_, **__: os.abort()


def hang():
    """Plant a deadlock into this process."""
    MLPClassifier.partial_fit = lambda *_, **__: threading.Event().wait()


@pytest.mark.parametrize(("oracle", "prepare"), [("crash", crash), ("hang", hang)])
def test_crashes_and_hangs_are_findings(oracle, prepare):
    """The process is replaced, and the next script finds another."""
    numbers = (n for n in range(1000) if "model.partial_fit" in draw_script(0, n).calls[0].source)
    scripts = (draw_script(0, number) for number in numbers)
    script = next(each for each in scripts if each.estimator == "MLPClassifier")
    worker = Worker(seconds=2, prepare=prepare)
    try:
        finding = run_alone(worker, script)
        assert isinstance(finding, Finding)
        assert finding.oracle == oracle
        assert finding.call == 0
        assert run_alone(worker, script).oracle == oracle
    finally:
        worker.close()
