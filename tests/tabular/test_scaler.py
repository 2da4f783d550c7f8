"""SmoothClipScaler against its formula, and scikit-learn's robust scaling."""

import numpy as np
import pytest
from sklearn.preprocessing import RobustScaler

from fastbp.tabular import SmoothClipScaler


def by_formula(X, x):
    """Robust scaling and smooth clip as the paper of RealMLP gives them, fitted on X."""
    q0, q25, q50, q75, q100 = np.quantile(X, [0, 0.25, 0.5, 0.75, 1], axis=0)
    with np.errstate(divide="ignore"):
        s = np.where(q75 > q25, 1 / (q75 - q25), np.where(q100 > q0, 2 / (q100 - q0), 0))
    z = (x - q50) * s
    return z / np.sqrt(1 + (z / 3) ** 2)


def columns(n=503):
    """Columns of many shapes: smooth, with outliers, whole, rare, of two or three values."""
    generator = np.random.default_rng(3)
    normal = generator.normal(size=n)
    rare = generator.random(n) < 0.1
    return np.array(
        [
            normal,
            1e9 + 1e3 * normal,
            generator.standard_cauchy(n),
            generator.integers(0, 4, n),
            rare,
            ~rare,
            generator.random(n) < 0.5,
            np.where(generator.random(n) < 0.25, -1, 1),
            rare * np.sign(normal),
            rare * normal,
            np.full(n, 7),
            np.zeros(n),
        ]
    ).T


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 503])
def test_the_formula(n):
    X = columns()[:n]
    rows = np.vstack([columns(), 2 * columns(), -columns()])
    scaled = SmoothClipScaler().fit(X).transform(rows)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, by_formula(X, rows), atol=1e-6)
    assert abs(scaled).max() <= 3


@pytest.mark.parametrize("n_most", range(9))
def test_columns_of_two_values_without_sorting(n_most):
    X = np.array([[-1.0]] * (8 - n_most) + [[5.0]] * n_most)
    rows = np.linspace(-9, 9, 7)[:, None]
    scaled = SmoothClipScaler().fit(X).transform(rows)
    np.testing.assert_allclose(scaled, by_formula(X, rows), atol=1e-6)


def test_the_inside_is_scikit_learns_robust_scaling():
    X = columns()[:, :4]
    ours, theirs = SmoothClipScaler().fit(X), RobustScaler().fit(X)
    np.testing.assert_allclose(ours.medians_, theirs.center_, rtol=1e-14)
    np.testing.assert_allclose(1 / ours.factors_, theirs.scale_, rtol=1e-9)


def test_float32_is_computed_in_float64():
    X = (1e6 + np.random.default_rng(4).normal(size=(99, 1))).astype(np.float32)
    scaled = SmoothClipScaler().fit(X).transform(X)
    exact = X.astype(np.float64)
    np.testing.assert_allclose(scaled, by_formula(exact, exact), atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-307, 1e-30, 1e30, 1e300, 1.79e308])
def test_numbers_of_any_size_give_the_same(scale):
    """Near the limits of float64, the differences are larger, or their inverses."""
    unit = np.array([[-1.0], [-0.5], [0.0], [0.5], [1.0]])
    expected = SmoothClipScaler().fit_transform(unit)
    with np.errstate(all="raise", under="ignore"):
        scaler = SmoothClipScaler().fit(unit * scale)
        found = scaler.transform(unit * scale)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    most = np.finfo(np.float64).max
    if scale < 1e290:  # without a warning of what the clip is for
        np.testing.assert_allclose(scaler.transform([[most], [-most]]), [[3], [-3]], atol=1e-6)


def test_subnormal_numbers_are_as_good_as_equal():
    scaled = SmoothClipScaler().fit_transform([[0.0], [5e-324], [1e-323], [1e-323]])
    assert np.isfinite(scaled).all()


def test_constant_columns_give_zeros_whatever_comes():
    scaler = SmoothClipScaler().fit([[5.0, 1e300]] * 3)
    assert scaler.transform([[7.0, -1e308], [5.0, 1e300]]).tolist() == [[0, 0], [0, 0]]


def test_order_of_memory_and_size_of_blocks_do_not_matter():
    X = np.tile(columns(), (20, 3))
    expected = SmoothClipScaler().fit(X).transform(X)
    assert expected.flags.c_contiguous
    other = SmoothClipScaler().fit(np.asfortranarray(X)).transform(np.asfortranarray(X))
    np.testing.assert_array_equal(other, expected)
    alone = [SmoothClipScaler().fit_transform(column[:, None]) for column in X.T]
    np.testing.assert_array_equal(np.hstack(alone), expected)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_failed_fit_changes_nothing(wrong):
    scaler = SmoothClipScaler().fit([[1.0], [2.0]])
    before = dict(vars(scaler))
    with pytest.raises(ValueError, match="Input X contains"):
        scaler.fit([[1.0, wrong]])
    assert vars(scaler) == before
