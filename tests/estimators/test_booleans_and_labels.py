"""Booleans whose bytes are not 0 and 1, and labels that are missing or of several kinds."""

import numpy as np
import pandas as pd
import pytest
from conftest import weights
from scipy.sparse import coo_array, csc_array, csr_array
from sklearn.base import clone

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.RandomState(0).randn(40, 4)

# ---- booleans of other bytes than 0 and 1 -------------------------------------------------------


def odd(booleans, byte=255):
    """The same booleans, with another byte for True, as a view of a mask has them."""
    return (np.asarray(booleans).astype(np.uint8) * np.uint8(byte)).view(bool)


def odd_sparse(kind):
    def convert(booleans):
        matrix = kind(booleans)
        matrix.data = odd(matrix.data)
        return matrix

    return convert


MASK = np.random.RandomState(0).rand(60, 6) > 0.5


@pytest.mark.parametrize(
    "convert",
    [
        odd,
        lambda X: np.asfortranarray(odd(X, 2)),
        lambda X: np.repeat(odd(X), 2, 0)[::2],
        lambda X: odd(X[::-1])[::-1],
        lambda X: pd.DataFrame(odd(X)).rename(columns=str).to_numpy(),
        odd_sparse(csr_array),
        odd_sparse(csc_array),
        odd_sparse(coo_array),
    ],
)
def test_true_is_one_whatever_its_byte(convert):
    """A byte of 255 once counted as 255 in every kind of array: another model, without a word."""
    y = MASK[:, 0] * 1.0
    expected = fastbp.MLPRegressor(hidden_layer_sizes=(5,), max_iter=3, random_state=0)
    expected.fit(MASK, y)
    model = clone(expected).fit(convert(MASK), y)
    np.testing.assert_array_equal(weights(model), weights(expected))
    for rows in (MASK, MASK[:1]):
        np.testing.assert_array_equal(model.predict(convert(rows)), expected.predict(rows))


def test_true_is_one_in_targets_weights_classes_and_rows():
    given = dict(hidden_layer_sizes=(5,), max_iter=3, random_state=0)
    regressor = fastbp.MLPRegressor(**given)
    classifier = fastbp.MLPClassifier(**given)
    first, others = MASK[:, 0], MASK[:, 1:4]
    weight = MASK[:, 4]
    calls = [
        lambda f: clone(regressor).fit(MASK, f(first)),
        lambda f: clone(regressor).fit(MASK, f(others)),
        lambda f: clone(classifier).fit(MASK, f(first)),
        lambda f: clone(classifier).fit(MASK, f(others)),
        lambda f: clone(classifier).fit(MASK, first, f(weight)),
        lambda f: clone(classifier).partial_fit(MASK, f(first), classes=f([False, True])),
        lambda f: fastbp.fit_many([clone(classifier)], MASK, f(first), rows=[f(weight)])[0],
    ]
    for call in calls:
        expected, model = call(np.asarray), call(odd)
        np.testing.assert_array_equal(weights(model), weights(expected))
        if hasattr(model, "classes_"):
            assert model.classes_.tolist() == expected.classes_.tolist()
            y = first if model.classes_.dtype == bool else others
            assert model.score(odd(MASK), odd(y)) == expected.score(MASK, y)


# ---- missing and mixed labels -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (["a", None, "b", None] * 10, r"in 20 of 40 rows \(1, 3, 5, 7, 9, \.\.\.\), such as None"),
        (["a", float("nan"), "b", "a"] * 10, r"in 10 of 40 rows \(1, 5, .*such as nan"),
        (np.array(["a", None] * 20, object), "such as None"),
        (np.array([1.0, np.nan] * 20), r"NaN .* in 20 of 40 rows .*such as .*nan"),
        (pd.array(["a", pd.NA] * 20, dtype="string"), "such as <NA>"),
        (pd.Series(["a", None] * 20), "missing labels in 20 of 40 rows"),
        (pd.Categorical(["a", None] * 20), "missing labels in 20 of 40 rows"),
        (pd.array([1, pd.NA] * 20, dtype="Int64"), "missing labels in 20 of 40 rows"),
        (["a", 1] * 20, "mixes labels of different kinds: 'a' in row 0 and 1 in row 1"),
        (np.array(["a", b"a"] * 20, object), "'a' in row 0 and b'a' in row 1"),
        (np.array([1, 2.5, "x", b"y"] * 10, object), "1 in row 0 and 'x' in row 2 and b'y'"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "classes"])
def test_missing_and_mixed_labels_are_named(method, y, says):
    """NumPy's sorting once failed with an error of its own, or made strings of numbers."""
    model = fastbp.MLPClassifier((3,), max_iter=1)
    calls = {
        "fit": lambda: model.fit(X, y),
        "partial_fit": lambda: model.partial_fit(X, y, classes=["a", "b"]),
        "classes": lambda: model.partial_fit(X, np.arange(40) % 2, classes=y),
    }
    with pytest.raises(ValueError, match=says):
        calls[method]()
    assert not hasattr(model, "classes_")


@pytest.mark.parametrize("y", [[1, 2.0, True] * 14, [0, 1, np.int8(3)] * 14])
def test_numbers_of_all_kinds_go_together(y):
    fastbp.MLPClassifier((3,), max_iter=1).fit(np.ones((42, 2)), y)
