"""The type hints: what a type checker tells those who use fastbp, and that none is missing."""

import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).resolve().parents[2]

# A line that must be an error names it: mypy complains of an "ignore" without need.
PROGRAM = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastbp
from fastbp import MLPClassifier, MLPRegressor, TabularMLPClassifier, TabularMLPRegressor
from fastbp import fit_many, load, sources
from fastbp.datasets import load_mnist
from fastbp.inspect import BackpropTrace, backprop_trace
from fastbp.network import Network
from fastbp.plotting import WeightsDisplay
from fastbp.training import EpochReport, NonFiniteLossError

Array = NDArray[Any]
FloatArray = NDArray[np.floating[Any]]
X = np.zeros((4, 2))
labels = ["no", "yes", "no", "yes"]


class Sparse:  # SciPy has no hints
    format = "csr"
    nnz = 3


def stop(report: EpochReport) -> None:
    if report.loss < 0.1 and (report.validation_score or 0.0) > 0.9:
        report.stop()
    assert_type(report.predict(X), Array)
    assert_type(report.predict_proba(X), FloatArray)
    assert_type(report.learning_rate, float | None)


def train() -> MLPClassifier:
    model = MLPClassifier((8, 4), ("relu", "tanh"), solver="adamw", callback=stop, batch_size=32)
    return model.fit(X, labels)


classifier = train()
assert_type(MLPClassifier().fit(X, labels), MLPClassifier)
assert_type(classifier.fit(Sparse(), labels, [1, 1, 0, 2], resume=True), MLPClassifier)
assert_type(
    classifier.fit(X, labels, X_val=X, y_val=labels, sample_weight_val=[1, 1, 0, 2]), MLPClassifier
)
MLPClassifier(scoring="roc_auc", verbose="progress")
MLPClassifier(scoring=["loss", lambda estimator, X, y: 0.5])
MLPClassifier(scoring={"area": "roc_auc"})
assert_type(classifier.set_callbacks(), MLPClassifier)
assert_type(classifier.validation_loss_curve_, list[float] | None)
assert_type(classifier.best_iter_, int)
assert_type(classifier.partial_fit(X, labels, classes=["no", "yes"]), MLPClassifier)
assert_type(classifier.predict([[1, 2.5]]), Array)
assert_type(classifier.predict_proba(X), FloatArray)
assert_type(classifier.predict_log_proba(X), FloatArray)
assert_type(classifier.score(X, labels), float)
assert_type(classifier.set_params(alpha=0.1), MLPClassifier)
assert_type(classifier.get_params(), dict[str, Any])
assert_type(classifier.coefs_, list[FloatArray])
assert_type(classifier.classes_, Array)
assert_type(classifier.loss_curve_, list[float])
assert_type(classifier.n_iter_, int)
assert_type(classifier.max_iter, int)
assert_type(MLPRegressor.from_sklearn(classifier.to_sklearn()), MLPRegressor)

regressor = MLPRegressor(
    hidden_layer_sizes=np.array([3]),
    batch_size="auto",
    learning_rate=lambda progress: 1 - progress,
    n_iter_no_change=np.inf,
    random_state=np.random.RandomState(0),
    checkpoint="state",
)
assert_type(regressor.fit(X, [1, 2, 3, 4]), MLPRegressor)
assert_type(regressor.partial_fit(X, [1, 2, 3, 4]), MLPRegressor)
assert_type(regressor.predict(X), Array)
assert_type(regressor.score(X, [1, 2, 3, 4]), float)
assert_type(fit_many([MLPRegressor(), regressor], X, [1, 2, 3, 4]), list[MLPRegressor])
fit_many([regressor], X, [1, 2, 3, 4], X_val=X, y_val=[1, 2, 3, 4])
tables = TabularMLPClassifier(preset="small", n_ensemble=2, callback=stop, time_limit=1.5)
assert_type(tables.fit(X, labels, X_val=X, y_val=labels), TabularMLPClassifier)
assert_type(tables.predict_proba(X), FloatArray)
assert_type(tables.validation_scores_, list[float] | None)
assert_type(TabularMLPRegressor().fit(X, [1, 2, 3, 4]).predict(X), Array)
assert_type(
    load("model"),
    MLPClassifier | MLPRegressor | TabularMLPClassifier | TabularMLPRegressor,
)
assert_type(backprop_trace(classifier, X, labels), BackpropTrace)
assert_type(fastbp.inspect.backprop_trace(regressor, X, [1, 2, 3, 4]).deltas, list[FloatArray])
assert_type(WeightsDisplay.from_estimator(classifier, layer=1), WeightsDisplay)
assert_type(Network((2, 1), (), "identity", "squared_error").n_parameters, int)
assert_type(fastbp.__version__, str)
rows = sources.from_npy("x.npy", "y.npy", buffer="1GB")
assert_type(rows, sources.Source)
assert_type(classifier.fit(rows), MLPClassifier)
assert_type(classifier.score(rows), float)
assert_type(sources.from_blocks(3, lambda block: (X, X), buffer=10**6), sources.Source)
load_mnist(None, verbose=True)
try:
    classifier.save("model", optimizer=False)
except NonFiniteLossError as error:
    assert_type(error, NonFiniteLossError)

MLPClassifier(slver="sgd")  # type: ignore[call-arg]
MLPClassifier((8,), "relu", "sgd")  # type: ignore[call-arg]
MLPClassifier(max_iter="all")  # type: ignore[arg-type]
MLPClassifier(device="gpu")  # type: ignore[arg-type]
MLPClassifier(scoring=3)  # type: ignore[arg-type]
MLPRegressor(precision="double")  # type: ignore[arg-type]
classifier.fit(X, labels, None, True)  # type: ignore[call-arg]
fit_many([X], X, labels)  # type: ignore[type-var]
load(3)  # type: ignore[arg-type]
fastbp.MLP  # type: ignore[attr-defined]
"""


def test_a_type_checker_knows_what_comes_back(tmp_path):
    """There were none: everything was Any, or what an editor guessed."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"),
            *("--no-incremental", "--config-file=", str(program)),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def public_functions():
    """Name -> function, of all that docs/api.md lists."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    functions = {}
    for name in re.findall(r"^\| `(fastbp(?:\.\w+)+)` \|", page, re.MULTILINE):
        found = pkgutil.resolve_name(name)
        if not inspect.isclass(found):
            functions[name] = found
            continue
        for owner in found.__mro__:
            if not owner.__module__.startswith("fastbp."):
                continue
            for attribute, value in vars(owner).items():
                value = getattr(value, "fget", value)  # of properties
                value = getattr(value, "__func__", value)  # of class methods
                value = getattr(value, "fn", value)  # scikit-learn's available_if
                is_public = not attribute.startswith("_") or attribute == "__init__"
                if is_public and inspect.isfunction(value):
                    functions[f"{name}.{attribute}"] = value
    return functions


def test_every_public_function_has_hints():
    functions = public_functions()
    assert {"fastbp.load", "fastbp.MLPClassifier.partial_fit"} <= functions.keys()
    missing = []
    for name, function in functions.items():
        signature = inspect.signature(function)
        hints = {
            each: parameter.annotation
            for each, parameter in signature.parameters.items()
            if each not in ("self", "cls")
        }
        hints["return"] = signature.return_annotation
        missing += [f"{name}: {each}" for each, hint in hints.items() if hint is signature.empty]
    assert missing == []


def test_type_checkers_are_told_that_there_are_hints():
    assert (Path(fastbp.__file__).parent / "py.typed").is_file()
