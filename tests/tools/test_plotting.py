"""Displays: what they draw, where, and what they say without matplotlib."""

import sys

import numpy as np
import pytest
from conftest import small
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier as Original
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp
from fastbp.plotting import LossCurveDisplay, WeightsDisplay

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.smoke
def test_loss_curve(plt):
    model, X, y = small("single", max_iter=7)
    display = LossCurveDisplay.from_estimator(model.fit(X, y))
    np.testing.assert_array_equal(display.line_.get_xdata(), range(1, 8))
    np.testing.assert_array_equal(display.line_.get_ydata(), model.loss_curve_)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Epoch", "Training loss")
    assert display.score_ax_ is display.score_line_ is display.ax_.get_legend() is None

    other = LossCurveDisplay.from_estimator(model, ax=display.ax_, name="again", color="red")
    assert other.ax_ is display.ax_
    assert other.figure_ is display.figure_
    assert other.line_.get_color() == "red"
    assert legend_of(display.ax_) == ["again"]


def test_loss_curve_with_validation_scores(plt):
    model, X, y = small("multiclass", max_iter=7, early_stopping=True)
    display = LossCurveDisplay.from_estimator(model.fit(X, y))
    np.testing.assert_array_equal(display.score_line_.get_ydata(), model.validation_scores_)
    assert display.score_ax_ is not display.ax_
    curve = display.validation_line_.get_ydata()
    np.testing.assert_array_equal(curve, model.validation_loss_curve_)
    assert display.validation_line_.axes is display.ax_
    assert display.ax_.get_ylabel() == "Loss"
    expected = ["training loss", "validation loss", "validation score"]
    assert legend_of(display.score_ax_) == expected
    display.plot(name="net")
    assert legend_of(display.score_ax_) == [f"net: {name}" for name in expected]
    display = LossCurveDisplay(model.loss_curve_, validation_loss_curve=curve).plot()
    assert legend_of(display.ax_) == expected[:2]
    theirs = LossCurveDisplay(model.loss_curve_, validation_scores=model.validation_scores_).plot()
    assert legend_of(theirs.score_ax_) == [expected[0], expected[2]]


def test_networks_are_found_in_pipelines_and_searches(plt):
    _, X, y = small("multiclass")
    for kind in (fastbp.MLPClassifier, Original):
        pipeline = make_pipeline(StandardScaler(), kind((4,), max_iter=3, random_state=0))
        search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-3]}, cv=2).fit(X, y)
        for fitted in (search, search.best_estimator_, search.best_estimator_[-1]):
            display = LossCurveDisplay.from_estimator(fitted)
            assert len(display.line_.get_ydata()) == 3
            assert WeightsDisplay.from_estimator(fitted).weights.shape == (5, 4)


def tile_of(display, row, column, shape):
    """One image of the mosaic, by the gaps of NaN around it."""
    mosaic = np.ma.filled(display.im_.get_array(), np.nan)
    rows = np.flatnonzero(~np.isnan(mosaic).all(axis=1)).reshape(-1, shape[0])[row]
    columns = np.flatnonzero(~np.isnan(mosaic).all(axis=0)).reshape(-1, shape[1])[column]
    return mosaic[np.ix_(rows, columns)]


def test_weights(plt):
    rng = np.random.default_rng(0)
    X, y = rng.random((60, 12)), np.resize(list("abcdefg"), 60)
    model = fastbp.MLPClassifier((), max_iter=2, random_state=0).fit(X, y)
    display = WeightsDisplay.from_estimator(model, image_shape=(3, 4))
    assert [text.get_text() for text in display.text_] == list("abcdefg")
    for unit in range(7):
        np.testing.assert_array_equal(
            tile_of(display, unit // 4, unit % 4, (3, 4)), model.coefs_[0][:, unit].reshape(3, 4)
        )
    limit = np.abs(model.coefs_[0]).max()
    assert display.im_.get_clim() == (-limit, limit)

    _, axes = plt.subplots()
    some = WeightsDisplay.from_estimator(model, units=[6, 1], ax=axes, cmap="gray")
    assert some.ax_ is axes
    assert some.im_.get_cmap().name == "gray"
    assert [text.get_text() for text in some.text_] == ["g", "b"]
    np.testing.assert_array_equal(tile_of(some, 0, 0, (12, 1))[:, 0], model.coefs_[0][:, 6])


def test_hidden_units_have_no_titles_and_make_squares(plt):
    X, y = np.random.default_rng(0).random((60, 16)), np.arange(60) % 3
    model = fastbp.MLPClassifier((3,), max_iter=2, random_state=0).fit(X, y)
    display = WeightsDisplay.from_estimator(model)
    assert display.text_ == []
    np.testing.assert_array_equal(
        tile_of(display, 0, 2, (4, 4)), model.coefs_[0][:, 2].reshape(4, 4)
    )
    with pytest.raises(ValueError, match=r"image_shape=\(3, 5\) holds 15 weights.*has 16"):
        WeightsDisplay.from_estimator(model, image_shape=(3, 5))
    assert len(plt.get_fignums()) == 1  # the failed call made none


@pytest.mark.parametrize("kind", [LossCurveDisplay, WeightsDisplay])
def test_unfitted_estimators_are_refused(kind, plt):
    pipeline = make_pipeline(StandardScaler(), fastbp.MLPRegressor())
    for unfitted in (fastbp.MLPRegressor(), pipeline):
        with pytest.raises(NotFittedError):
            kind.from_estimator(unfitted)


@pytest.mark.parametrize("kind", [LossCurveDisplay, WeightsDisplay])
def test_without_matplotlib_it_says_what_to_install(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for call in (lambda: kind.from_estimator(None), kind(np.ones((4, 1))).plot):
        with pytest.raises(ImportError, match=r"pip install 'fastbp\[plot\]'"):
            call()
