"""`search_many`: the results of scikit-learn's searches, to the bit."""

import os
import re
import signal
import sys
import warnings
from functools import partial
from threading import Event, get_ident

import numpy as np
import pandas as pd
import pytest
from conftest import TASKS
from scipy.sparse import csr_array
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    ShuffleSplit,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp
from fastbp import MLPClassifier, MLPRegressor, evaluations, side_by_side
from fastbp.model_selection import search_many

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GRID = {"hidden_layer_sizes": [(5,), (9, 4)], "alpha": [1e-4, 1.0], "solver": ["adam", "lbfgs"]}
X, Y = TASKS["multiclass"][2:]
CLASSIFIER = MLPClassifier((5,), max_iter=4, random_state=0)


def assert_same(found, expected):
    """That two searches have found the same to the bit, in all but the time."""
    assert type(found) is type(expected)
    assert [*found.cv_results_] == [*expected.cv_results_]
    for name, values in expected.cv_results_.items():
        if not name.endswith("_time"):
            np.testing.assert_array_equal(found.cv_results_[name], values, err_msg=name)
        else:
            assert (found.cv_results_[name] >= 0).all()
    for name in ("best_index_", "best_score_", "multimetric_", "n_splits_"):
        values = (repr(getattr(each, name, None)) for each in (found, expected))
        assert len({*values}) == 1, name
    assert hasattr(found, "best_estimator_") == hasattr(expected, "best_estimator_")
    if hasattr(found, "best_estimator_"):
        names = [re.sub("0x[0-9A-F]+", "", str(each.best_estimator_)) for each in (found, expected)]
        assert names[0] == names[1]
    assert found.get_params(deep=False).keys() == expected.get_params(deep=False).keys()


@pytest.fixture
def alone(monkeypatch):
    """The evaluations that were not trained together with others."""
    found, run = [], evaluations.Evaluation.run_alone
    monkeypatch.setattr(
        evaluations.Evaluation, "run_alone", lambda self: (found.append(self), run(self))
    )
    return found


@pytest.mark.smoke
@pytest.mark.parametrize("n_threads", [None, 1, 3])
@pytest.mark.parametrize("task", ["binary", "multiclass", "single"])
def test_a_grid(task, n_threads, alone):
    estimator, _, X, y = TASKS[task]
    model = getattr(fastbp, estimator)(hidden_layer_sizes=(5,), max_iter=4, random_state=0)
    expected = GridSearchCV(model, GRID, return_train_score=True).fit(X, y)
    found = search_many(model, GRID, X, y, return_train_score=True, n_threads=n_threads)
    assert_same(found, expected)
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    assert (found.cv_results_["mean_fit_time"] > 1e-5).all()
    assert not alone
    assert_same(clone(found).fit(X, y), clone(expected).fit(X, y))  # an ordinary search


@pytest.mark.parametrize(
    "kind",
    [np.asfortranarray, csr_array, pd.DataFrame, np.ndarray.tolist],
    ids=lambda k: k.__name__,
)
def test_kinds_of_data(kind, alone):
    grid = {"alpha": [0, 1.0], "early_stopping": [False, True]}
    found = search_many(CLASSIFIER, grid, kind(X), Y, cv=3)
    assert_same(found, GridSearchCV(CLASSIFIER, grid, cv=3).fit(kind(X), Y))
    assert not alone


def test_random_candidates():
    choices = {"alpha": loguniform(1e-5, 1), "hidden_layer_sizes": [(3,), (4,)]}
    found = search_many(CLASSIFIER, choices, X, Y, n_iter=4, random_state=1, cv=2)
    search = RandomizedSearchCV(CLASSIFIER, choices, n_iter=4, random_state=1, cv=2)
    assert_same(found, search.fit(X, Y))
    assert len(search_many(CLASSIFIER, choices, X, Y, cv=2).cv_results_["params"]) == 10
    several = [{"alpha": [1, 2, 3]}, {"max_iter": [1, 2]}]
    found = search_many(CLASSIFIER, several, X, Y, n_iter=3, random_state=1, cv=2)
    search = RandomizedSearchCV(CLASSIFIER, several, n_iter=3, random_state=1, cv=2)
    assert_same(found, search.fit(X, Y))


@pytest.mark.parametrize(
    "options", [True, {"factor": 2}, {"resource": "max_iter", "max_resources": 9}], ids=str
)
def test_halving(options):
    given = {} if options is True else options
    grid = {"alpha": [1e-4, 0.1, 1.0, 3.0], "learning_rate_init": [0.1, 0.01]}
    found = search_many(CLASSIFIER, grid, X, Y, halving=options, cv=2, random_state=0)
    search = HalvingGridSearchCV(
        CLASSIFIER, grid, cv=2, random_state=0, return_train_score=False, **given
    )
    assert_same(found, search.fit(X, Y))
    assert found.n_resources_ == search.n_resources_
    choices = {"alpha": loguniform(1e-5, 1)}
    found = search_many(CLASSIFIER, choices, X, Y, n_iter=5, halving=options, cv=2, random_state=0)
    search = HalvingRandomSearchCV(
        CLASSIFIER, choices, n_candidates=5, cv=2, random_state=0, return_train_score=False, **given
    )
    assert_same(found, search.fit(X, Y))


def test_several_metrics_and_choices_of_the_best():
    def least_alpha(results):
        return int(np.argmin(results["param_alpha"]))

    grid = {"alpha": [1.0, 1e-4]}
    for options in (
        {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"},
        {"scoring": {"a": make_scorer(accuracy_score)}, "refit": False},
        {"scoring": lambda m, X, y: {"n": m.n_iter_, "s": m.score(X, y)}, "refit": "n"},
        {"scoring": "f1_macro", "refit": least_alpha},
        {"scoring": "accuracy", "refit": False},
    ):
        found = search_many(CLASSIFIER, grid, X, Y, **options)
        assert_same(found, GridSearchCV(CLASSIFIER, grid, **options).fit(X, Y))


def test_weights_groups_and_splits():
    weight, groups = np.linspace(0, 2, len(Y)), np.arange(len(Y)) % 7
    grid = {"alpha": [1e-4, 1.0]}
    found = search_many(
        CLASSIFIER, grid, X, Y, cv=GroupKFold(3), sample_weight=weight, groups=groups
    )
    expected = GridSearchCV(CLASSIFIER, grid, cv=GroupKFold(3))
    assert_same(found, expected.fit(X, Y, sample_weight=weight, groups=groups))
    loss = {"cv": GroupKFold(3), "groups": groups, "scoring": "neg_log_loss"}
    plain = search_many(CLASSIFIER, grid, X, Y, **loss)
    found = search_many(CLASSIFIER, grid, X, Y, **loss, sample_weight=weight)
    assert (plain.cv_results_["mean_test_score"] != found.cv_results_["mean_test_score"]).all()

    splits = ShuffleSplit(3, random_state=np.random.RandomState(0))  # draws anew at each split
    found = search_many(CLASSIFIER, grid, X, Y, cv=clone(splits, safe=False))
    assert_same(found, GridSearchCV(CLASSIFIER, grid, cv=splits).fit(X, Y))
    masks = [(np.arange(len(Y)) % 3 > 0, np.arange(len(Y)) % 3 == 0)] * 2
    assert_same(
        search_many(CLASSIFIER, grid, X, Y, cv=masks),
        GridSearchCV(CLASSIFIER, grid, cv=masks).fit(X, Y),
    )


def test_validation_rows_are_shared_and_a_random_state_is_copied():
    grid = {"alpha": [1e-4, 1.0]}
    model = clone(CLASSIFIER).set_params(early_stopping=True, max_iter=9)
    found = search_many(model, grid, X, Y, X_val=X[:30], y_val=Y[:30])
    assert_same(found, GridSearchCV(model, grid).fit(X, Y, X_val=X[:30], y_val=Y[:30]))
    source, other = np.random.RandomState(3), np.random.RandomState(3)
    found = search_many(clone(CLASSIFIER).set_params(random_state=source), grid, X, Y)
    model = clone(CLASSIFIER).set_params(random_state=other)
    assert_same(found, GridSearchCV(model, grid).fit(X, Y))
    assert source.randint(1000) == other.randint(1000)


# ---- pipelines ----------------------------------------------------------------------------------


class Counted(TransformerMixin, BaseEstimator):
    """Takes away the mean of the rows that it has seen."""

    fits = ()

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y):
        type(self).fits += ((self.factor, len(X)),)
        self.mean_ = np.mean(X, axis=0) * self.factor
        return self

    def transform(self, X):
        return X - self.mean_


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_pipeline_whose_transformers_are_fitted_once(n_threads, alone):
    pipeline = Pipeline([("mean", Counted()), ("scale", StandardScaler()), ("net", CLASSIFIER)])
    grid = {"mean__factor": [0.5, 2.0], "net__alpha": [1e-4, 0.1, 1.0]}
    expected = GridSearchCV(pipeline, grid, cv=3).fit(X, Y)
    Counted.fits = ()
    found = search_many(pipeline, grid, X, Y, cv=3, n_threads=n_threads)
    assert_same(found, expected)
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    rows = [2 * len(X) // 3] * 6
    assert sorted(Counted.fits[:-1]) == sorted(zip([0.5] * 3 + [2.0] * 3, rows, strict=True))
    assert not alone


def test_pipelines_of_all_kinds(alone):
    weight = np.linspace(0, 2, len(Y))
    for pipeline, grid, fit_params in (
        (make_pipeline(CLASSIFIER), {"mlpclassifier__alpha": [0, 1]}, {}),
        (
            make_pipeline(StandardScaler(), CLASSIFIER),
            {"standardscaler": [StandardScaler(with_mean=False), "passthrough"]},
            {"mlpclassifier__sample_weight": weight},
        ),
        (
            make_pipeline(
                ColumnTransformer([("a", StandardScaler(), [0, 1])], n_jobs=2), CLASSIFIER
            ),
            {"mlpclassifier__alpha": [0, 1]},
            {},
        ),
    ):
        found = search_many(pipeline, grid, X, Y, cv=3, return_train_score=True, **fit_params)
        search = GridSearchCV(pipeline, grid, cv=3, return_train_score=True)
        assert_same(found, search.fit(X, Y, **fit_params))
    assert not alone


def test_what_is_no_network_is_fitted_all_the_same(alone):
    pipeline = Pipeline([("scale", StandardScaler()), ("net", CLASSIFIER)])
    grid = {"net": [CLASSIFIER, LogisticRegression()]}
    found = search_many(pipeline, grid, X, Y, cv=3)
    assert_same(found, GridSearchCV(pipeline, grid, cv=3).fit(X, Y))
    assert len(alone) == 3
    weights = {"scale__sample_weight": np.linspace(0, 2, len(Y))}
    found = search_many(pipeline, {"net__alpha": [0, 1]}, X, Y, cv=3, **weights)
    search = GridSearchCV(pipeline, {"net__alpha": [0, 1]}, cv=3)
    assert_same(found, search.fit(X, Y, **weights))
    assert len(alone) == 3 + 6


# ---- failures -----------------------------------------------------------------------------------


def both(*arguments, **options):
    """Warnings and outcome of both searches."""
    outcomes = []
    search = partial(GridSearchCV, return_train_score=True)
    for run in (
        lambda e, g, X, y, **o: search(e, g, **o).fit(X, y),
        partial(search_many, return_train_score=True),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                outcomes.append(run(*arguments, **options))
            except Exception as error:
                outcomes.append(error)
        kinds = sorted({each.category.__name__ for each in caught} - {"ConvergenceWarning"})
        outcomes.append(kinds)
    return outcomes


@pytest.mark.parametrize("score", [np.nan, -3.0])
def test_some_fits_fail(score):
    grid = [
        {"alpha": [1e-4, -1.0]},  # of a parameter
        {"solver": ["sgd"], "learning_rate_init": [1e30], "precision": ["float32"]},  # of the loss
        {"hidden_layer_sizes": [(0,)]},
    ]
    model = MLPRegressor(hidden_layer_sizes=(5,), max_iter=4, random_state=0)
    X, y = TASKS["single"][2:4]
    expected, there, found, here = both(model, grid, X, y, error_score=score)
    assert_same(found, expected)
    assert there == here
    assert "FitFailedWarning" in here
    assert (found.cv_results_["mean_test_score"][1:] == score).all() or np.isnan(score)


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ({"alpha": [-1.0]}, {}),
        ({"alpha": [1e-4, -1.0]}, {"error_score": "raise"}),
        ({"alphabet": [1]}, {}),
        ({"alpha": [1]}, {"scoring": "no such"}),
        ({"alpha": [1]}, {"scoring": ["accuracy", "f1_macro"]}),
        ({"alpha": [1]}, {"cv": 1000}),
        ({"alpha": 1}, {}),
        ({"alpha": [1]}, {"error_score": "nan"}),
    ],
    ids=str,
)
def test_errors_are_scikit_learns(grid, options):
    expected, _, found, _ = both(CLASSIFIER, grid, X, Y, **options)
    assert isinstance(expected, Exception)
    assert type(found) is type(expected)
    assert str(found).splitlines()[0] == str(expected).splitlines()[0]


@pytest.mark.parametrize("choices", ["text", 1, ["alpha"], None], ids=str)
def test_a_grid_that_is_none_is_refused_by_its_name(choices):
    """It was an AttributeError."""
    with pytest.raises(TypeError, match="grid_or_distributions must be a dict of parameters"):
        search_many(CLASSIFIER, choices, X, Y)


def test_rows_that_only_some_fits_see(alone):
    damaged = X.copy()
    damaged[3, 1] = np.nan
    expected, there, found, here = both(CLASSIFIER, {"alpha": [1e-4, 1]}, damaged, Y, refit=False)
    assert_same(found, expected)
    assert there == here == ["FitFailedWarning", "UserWarning"]
    assert len(alone) == 10


def test_a_scorer_that_fails():
    def fails(model, X, y):
        if model.alpha == 1:
            raise RuntimeError("mine")
        return model.score(X, y)

    expected, there, found, here = both(CLASSIFIER, {"alpha": [1e-4, 1]}, X, Y, scoring=fails)
    assert_same(found, expected)
    assert there == here == ["UserWarning"]
    with pytest.raises(RuntimeError, match="mine"):
        search_many(CLASSIFIER, {"alpha": [1]}, X, Y, scoring=fails, error_score="raise")


@pytest.mark.parametrize("scoring", [None, "neg_log_loss", ["accuracy", "f1_macro"]], ids=str)
def test_results_are_those_of_scikit_learns_function(scoring, monkeypatch):
    """Which is asked where there is more to do than to score."""
    asked, found, function = [], [], evaluations.fit_and_score
    monkeypatch.setattr(
        evaluations,
        "fit_and_score",
        lambda *given, **named: (asked.append(1), function(*given, **named))[1],
    )
    results_of = evaluations.results_of
    monkeypatch.setattr(
        evaluations, "results_of", lambda each: found.append(results_of(each)) or found[-1]
    )

    def search(rows, **options):
        search_many(CLASSIFIER, {"alpha": [1e-4, 1]}, rows, Y, scoring=scoring, refit=False, cv=3)

    search(X)
    assert not asked
    search(X.tolist())
    assert len(asked) == 6
    for plain, other in zip(*found, strict=True):
        assert [*plain] == [*other]
        for name, value in plain.items():
            assert type(value) is type(other[name])
            assert value == other[name] or name.endswith("_time")
    search_many(CLASSIFIER, {"alpha": [1]}, X, Y, return_train_score=True, refit=False, cv=3)
    assert len(asked) == 9


def test_rows_to_score_that_are_not_there():
    splits = [(np.arange(9), np.array([3, len(X)]))]
    with pytest.raises(IndexError, match="out of bounds"):
        search_many(CLASSIFIER, {"alpha": [1]}, X, Y, cv=splits)
    with pytest.raises(IndexError, match="out of bounds"):
        GridSearchCV(CLASSIFIER, {"alpha": [1]}, cv=splits).fit(X, Y)


def test_transformers_that_fail():
    pipeline = Pipeline([("mean", Counted()), ("net", CLASSIFIER)])
    expected, there, found, here = both(pipeline, {"mean__factor": [1.0, "a"]}, X, Y, cv=3)
    assert_same(found, expected)
    assert there == here == ["FitFailedWarning", "UserWarning"]


def test_warnings_made_errors_are_failures():
    grid = {"solver": ["lbfgs", "adam"], "max_iter": [400, 2]}
    model = MLPClassifier((5,), alpha=10.0, random_state=0)
    X, y = TASKS["binary"][2:4]
    results = []
    for run in (
        lambda: GridSearchCV(model, grid).fit(X, y),
        lambda: search_many(model, grid, X, y),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            results.append(run())
    assert_same(*results[::-1])
    assert np.isnan(results[0].cv_results_["mean_test_score"]).sum() in (1, 2, 3)


def test_all_that_a_gpu_trains_fail_with_it(monkeypatch):
    def fail(members, device_shuffle):
        for member in members:
            member.fail(RuntimeError("out of memory"))

    monkeypatch.setattr(side_by_side, "_is_for_gpu", lambda estimator: estimator.alpha > 0)
    monkeypatch.setattr(side_by_side, "_train_on_gpu", fail)
    with pytest.warns(FitFailedWarning, match="out of memory"):
        found = search_many(CLASSIFIER, {"alpha": [0.1, 0.0]}, X, Y, cv=2)
    scores = found.cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [True, False]


@pytest.mark.skipif(os.name == "nt", reason="there are no signals to a thread on Windows")
def test_ctrl_c_ends_the_search():
    seen, never = [], Event()

    def interrupt(report):
        seen.append(report)
        if len(seen) == 3:
            # To this thread: it may be any, and the main one slept on until all fits had ended.
            signal.pthread_kill(get_ident(), signal.SIGINT)
            for _ in range(3000):  # until the main thread has passed it on
                never.wait(0.01)

    model = clone(CLASSIFIER).set_params(callback=interrupt, max_iter=400, tol=0)
    with pytest.raises(KeyboardInterrupt):
        search_many(model, {"alpha": [1e-4, 1.0]}, X, Y, n_threads=1)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), make_pipeline(CLASSIFIER, StandardScaler()), StandardScaler, "mlp"],
    ids=lambda each: (
        each if isinstance(each, str) else getattr(each, "__name__", type(each).__name__)
    ),
)
def test_other_estimators_are_refused(estimator):
    with pytest.raises(TypeError, match="estimator must be an MLPClassifier or MLPRegressor"):
        search_many(estimator, {}, X, Y)


def test_arguments_that_make_no_sense():
    with pytest.raises(TypeError, match="halving must be True, False or a dict"):
        search_many(CLASSIFIER, {"alpha": [1]}, X, Y, halving=3)
    with pytest.raises(ValueError, match="n_threads must be None or a whole number"):
        search_many(CLASSIFIER, {"alpha": [1]}, X, Y, n_threads=0)


def test_a_client_that_is_none_needs_no_dask(monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    with pytest.raises(TypeError, match=r"client must be a dask\.distributed\.Client"):
        search_many(CLASSIFIER, {"alpha": [1]}, X, Y, client="127.0.0.1:8786")
