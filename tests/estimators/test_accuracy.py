"""`score` of a classifier against scikit-learn's accuracy: the same bits, errors and warnings."""

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import small
from sklearn.metrics import accuracy_score

import fastbp.labels
from fastbp.labels import plain_accuracy

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CODES = np.random.default_rng(0).integers(0, 4, size=(2, 50))
NAMES = np.array(["ape", "bee", "cat", "dog"])


@pytest.mark.parametrize(
    "kind",
    [
        lambda codes: codes,
        lambda codes: codes.astype(np.uint8),
        lambda codes: codes.astype(np.int16) - 2,
        lambda codes: codes > 1,
        NAMES.take,
    ],
    ids=["int64", "uint8", "int16", "bool", "str"],
)
def test_plain_labels(kind):
    y, predicted = kind(CODES[0]), kind(CODES[1])
    found = plain_accuracy(y, predicted)
    assert type(found) is float
    assert found == accuracy_score(y, predicted)
    assert plain_accuracy(y, y) == 1.0


def test_kinds_that_differ_and_are_compared():
    assert plain_accuracy(CODES[0].astype(np.uint64), CODES[1] - 1) == accuracy_score(
        CODES[0].astype(np.uint64), CODES[1] - 1
    )
    assert plain_accuracy(CODES[0] > 1, CODES[1]) == accuracy_score(CODES[0] > 1, CODES[1])


@pytest.mark.parametrize(
    "y",
    [
        CODES[0].tolist(), CODES[0].astype(float), CODES[0].astype(object), CODES[0, :-1],
        CODES[0, :, None], CODES[:, :0].ravel(), pd.Series(CODES[0]), NAMES[CODES[0]],
        np.ma.array(CODES[0]), np.arange(100, 150), None,
    ],
    ids=[
        "list", "float", "object", "fewer", "column", "none", "Series", "other kind", "masked",
        "mostly different", "missing",
    ],
)  # fmt: skip
def test_what_is_left_to_scikit_learn(y):
    assert plain_accuracy(y, CODES[1]) is None
    assert plain_accuracy(CODES[1], y) is None


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_score(task, monkeypatch):
    model, X, y = small(task)
    expected = accuracy_score(y, model.fit(X, y).predict(X))
    assert model.score(X, y.tolist()) == expected
    assert model.score(X, y, np.ones(len(y))) == expected
    for wrong, message in (
        (y[:-1], "inconsistent numbers of samples"),
        (y == y[0] if task == "binary" else NAMES[np.arange(len(y)) % 4], "Mix of label input"),
    ):
        with pytest.raises(ValueError, match=message):
            model.score(X, wrong)
    monkeypatch.setattr("fastbp.classifier.imported", None)  # scikit-learn is not asked
    assert model.score(X, y) == expected


def test_an_accuracy_of_most_labels_different_is_not_computed_here():
    """Where some versions of scikit-learn warn."""
    y, predicted = np.arange(30) % 15, np.zeros(30, np.int64)
    assert plain_accuracy(y, predicted) == accuracy_score(y, predicted) == 2 / 30
    y = np.arange(30) % 16
    assert plain_accuracy(y, predicted) is None


def test_labels_of_a_vector_are_known_without_scikit_learn(monkeypatch):
    def refuse(*arguments, **named):
        raise AssertionError("asked")

    monkeypatch.setattr(fastbp.labels, "type_of_target", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for y in (CODES[0], CODES[0] > 1, NAMES[CODES[0]]):
            found = fastbp.labels.Labels.of(y)
            assert found.kind == ("binary" if y.dtype == bool else "multiclass")
            assert len(found.encode(y, np.float32)) == 50
    for y in (np.arange(30), CODES[0].astype(float), CODES[0].astype(object), CODES > 1):
        with pytest.raises(AssertionError, match="asked"):
            fastbp.labels.Labels.of(y)
