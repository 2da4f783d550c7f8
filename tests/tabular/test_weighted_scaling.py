"""Weights of rows in the scaling of tables: NumPy's quantiles of rows that are repeated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbp.tabular import SmoothClipScaler
from fastbp.tabular.quantiles import weighted_quantiles

FRACTIONS = 0.0, 0.1, 0.25, 0.5, 0.75, 1.0
numbers = st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 6)), min_size=1, max_size=30)


@given(numbers)
def test_whole_weights_repeat_numbers(pairs):
    values, counts = np.array(pairs, np.float64).T
    expected = np.quantile(values.repeat(counts.astype(int)), FRACTIONS)
    np.testing.assert_allclose(weighted_quantiles(values, FRACTIONS, counts), expected, atol=1e-12)


@given(numbers, st.floats(1e-3, 1e3))
def test_of_other_weights_only_the_proportions_matter(pairs, factor):
    values, counts = np.array(pairs, np.float64).T
    weight = counts + 0.5
    found = weighted_quantiles(values, FRACTIONS, weight * factor)
    if not np.array_equal(weight * factor, np.rint(weight * factor)):
        expected = weighted_quantiles(values, FRACTIONS, weight)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_equal_weights_are_none():
    values = np.random.default_rng(0).normal(size=101)
    for weight in (1.0, 0.3):
        found = weighted_quantiles(values, FRACTIONS, np.full(101, weight))
        np.testing.assert_allclose(found, np.quantile(values, FRACTIONS), rtol=1e-9, atol=1e-9)


def test_the_scaler_takes_them():
    random = np.random.default_rng(0)
    X = np.c_[random.normal(size=(60, 2)), random.integers(0, 2, 60), np.full(60, 3.0)]
    weight = random.integers(0, 4, 60)
    found = SmoothClipScaler().fit(X, sample_weight=weight)
    expected = SmoothClipScaler().fit(X.repeat(weight, axis=0))
    np.testing.assert_allclose(found.medians_, expected.medians_)
    np.testing.assert_allclose(found.factors_, expected.factors_)
    assert not np.allclose(found.medians_, SmoothClipScaler().fit(X).medians_)
    with pytest.raises(ValueError, match="sample_weight must not be negative"):
        SmoothClipScaler().fit(X, sample_weight=-weight)
