"""scikit-learn as the oracle: the same seed in float64 must give the same training, to rounding."""

import numpy as np
import pytest
import sklearn.neural_network
import versions
from conftest import TASKS, pair
from scipy.sparse import coo_array, csc_matrix, csr_array

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TOLERANCE = 1e-7
SOLVERS = {
    "sgd": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.02},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
}


def difference(ours, theirs):
    """The largest difference relative to the largest value."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def assert_same(ours, theirs, *, losses=True):
    """Hold weights, losses, scores and counts against scikit-learn's."""
    for a, b in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        assert difference(a, b) <= TOLERANCE
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours._no_improvement_count == theirs._no_improvement_count
    for name in ("loss_curve_", "loss_", "best_loss_") if losses else ():
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a is None and b is None) or np.allclose(a, b, rtol=TOLERANCE, atol=0)
    if theirs.validation_scores_ is not None:
        assert ours.validation_scores_ == pytest.approx(theirs.validation_scores_, rel=TOLERANCE)
        assert ours.best_validation_score_ == max(ours.validation_scores_)
    else:
        assert ours.validation_scores_ is None
        assert ours.best_validation_score_ is None


@pytest.mark.smoke
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_twenty_epochs(task, solver, activation):
    ours, theirs, X, y = pair(task, activation=activation, alpha=0.01, **SOLVERS[solver])
    assert_same(ours.fit(X, y), theirs.fit(X, y))
    method = "predict_proba" if hasattr(theirs, "predict_proba") else "predict"
    np.testing.assert_allclose(
        getattr(ours, method)(X), getattr(theirs, method)(X), rtol=1e-6, atol=1e-12
    )
    np.testing.assert_array_equal(ours.predict(X) == y, theirs.predict(X) == y)


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden_layer_sizes": (), "activation": "logistic"},
        {"hidden_layer_sizes": 9, "shuffle": False},
        {"hidden_layer_sizes": [3, 4, 5, 2]},
        {"batch_size": "auto", "random_state": np.random.RandomState},
        {"batch_size": 1, "max_iter": 3},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 2},
        {"solver": "sgd", "tol": 0.1, "n_iter_no_change": 3, "max_iter": 200},
        {"solver": "sgd", "momentum": 1.0, "nesterovs_momentum": False},
        {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 1e-2, "tol": 0.05, "max_iter": 200},
        {"n_iter_no_change": np.inf, "tol": 1e3},
        # The loss stays as it is: not worse by tol, so that training goes on.
        {"learning_rate_init": 1e-300, "tol": 0.0, "n_iter_no_change": 1, "shuffle": False},
        {"learning_rate_init": 1e-300, "tol": 0.0, "n_iter_no_change": 1, "early_stopping": True},
        {"early_stopping": True, "max_iter": 60, "validation_fraction": 0.3},
        {"early_stopping": True, "solver": "sgd", "learning_rate": "adaptive", "max_iter": 100},
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["binary", "single"])
def test_parameters(task, parameters):
    ours, theirs, X, y = pair(task, **parameters)
    if parameters.get("random_state"):
        ours.random_state, theirs.random_state = np.random.RandomState(5), np.random.RandomState(5)
    assert_same(ours.fit(X, y), theirs.fit(X, y))
    if "learning_rate" in parameters:
        assert ours._optimizer.learning_rate == theirs._optimizer.learning_rate


@pytest.mark.smoke
@pytest.mark.parametrize("task", TASKS)
def test_early_stopping(task):
    """The rows held out are scikit-learn's; once those of several classes were in proportion."""
    ours, theirs, X, y = pair(task, early_stopping=True, max_iter=15, validation_fraction=0.25)
    assert_same(ours.fit(X, y), theirs.fit(X, y))


@pytest.mark.parametrize("rare", [0, 44, 89])
def test_early_stopping_with_a_class_of_one_row(rare):
    """Once this raised: a class with a single row cannot be held out in proportion."""
    ours, theirs, X, y = pair("multiclass", early_stopping=True, validation_fraction=0.25)
    y = np.where(np.arange(len(y)) == rare, 9, y)
    assert_same(ours.fit(X, y), theirs.fit(X, y))
    np.testing.assert_array_equal(ours.classes_, [1, 3, 5, 9])


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("task", ["binary", "multilabel", "multi-output", "poisson"])
def test_sample_weight(task, early_stopping):
    versions.needs("sample weights of MLPs")
    ours, theirs, X, y = pair(task, early_stopping=early_stopping, alpha=0.5)
    weight = np.random.default_rng(1).integers(1, 5, len(X)) / 2
    ours.fit(X, y, weight), theirs.fit(X, y, weight)
    # scikit-learn averages the batches' losses by their rows; one batch makes both the same.
    assert_same(ours, theirs, losses=False)
    n_train = len(X) - len(X) // 10 * early_stopping
    ours, theirs, X, y = pair(task, early_stopping=early_stopping, batch_size=n_train, alpha=0.5)
    assert_same(ours.fit(X, y, weight), theirs.fit(X, y, weight))


@pytest.mark.smoke
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_partial_fit(task, solver):
    ours, theirs, X, y = pair(task, **SOLVERS[solver], learning_rate="invscaling")
    for model in (ours, theirs):
        first = {"classes": np.unique(y)} if task in ("binary", "multiclass") else {}
        if task == "multilabel":
            first = {"classes": [0, 1, 2]}
        for start in (0, 30, 60, 0, 30, 60):
            rows = slice(start, start + 30)
            model.partial_fit(X[rows], y[rows], **first)
            first = {}
    assert_same(ours, theirs)


@pytest.mark.parametrize("task", TASKS)
def test_partial_fit_goes_on_from_fit(task):
    ours, theirs, X, y = pair(task, max_iter=5)
    for model in (ours, theirs):
        model.fit(X, y).partial_fit(X, y).partial_fit(X, y)
    assert_same(ours, theirs)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", TASKS)
def test_warm_start(task, solver):
    ours, theirs, X, y = pair(task, solver=solver, max_iter=4, warm_start=True)
    for model in (ours, theirs):
        model.fit(X, y).fit(X, y).set_params(max_iter=7).fit(X, y)
    assert_same(ours, theirs)


@pytest.mark.smoke
@pytest.mark.parametrize("container", [csr_array, csc_matrix, coo_array])
@pytest.mark.parametrize("task", ["multiclass", "multi-output"])
def test_sparse(task, container):
    ours, theirs, X, y = pair(task)
    X = container(np.where(np.abs(X) > 0.7, X, 0))
    assert_same(ours.fit(X, y), theirs.fit(X, y))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_lbfgs(task, weighted):
    if weighted:
        versions.needs("sample weights of MLPs")
    # Later on rounding decides which way the iterates take.
    ours, theirs, X, y = pair(task, solver="lbfgs", max_iter=50, activation="tanh", alpha=1.0)
    weight = [np.random.default_rng(1).integers(1, 5, len(X)) / 2] if weighted else []
    ours.fit(X, y, *weight), theirs.fit(X, y, *weight)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-6)
    assert ours.loss_curve_[-1] == pytest.approx(ours.loss_, rel=1e-12)
    assert ours.best_loss_ == min(ours.loss_curve_)
    assert len(ours.loss_curve_) == ours.n_iter_


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.longdouble, ">f8", ">i4", np.uint8, bool, object]
)
@pytest.mark.parametrize("task", ["binary", "multi-output"])
def test_dtypes(task, dtype):
    ours, theirs, X, y = pair(task, max_iter=5)
    X = np.abs(np.round(X)).astype(dtype)
    y = y.astype(np.float32) if dtype is np.float32 and task == "multi-output" else y
    ours.fit(X, y), theirs.fit(X, y)
    assert ours.coefs_[0].dtype == theirs.coefs_[0].dtype
    for a, b in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert difference(a, b) <= (1e-4 if dtype is np.float32 else TOLERANCE)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ["relu", "logistic"])
@pytest.mark.parametrize("task", TASKS)
def test_initial_weights(task, activation, dtype):
    """To the bit: draws in float64, cast, that the first step leaves as they are."""
    still = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1}
    ours, theirs, X, y = pair(task, activation=activation, **still)
    ours.fit(X.astype(dtype), y), theirs.fit(X.astype(dtype), y)
    for a, b in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_loss_of_saturated_outputs(task, dtype):
    """Probabilities of 0 and 1 count as the dtype's eps and what is left of 1."""
    still = {"solver": "sgd", "learning_rate_init": 1e-30, "max_iter": 1, "warm_start": True}
    ours, theirs, X, y = pair(task, alpha=0.0, **still)
    for model in (ours, theirs):
        model.fit(X.astype(dtype), y)
        model.coefs_[-1] *= dtype(1e6)
        model.fit(X.astype(dtype), y)
    assert 1 < theirs.loss_ < 100
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-4 if dtype is np.float32 else 1e-9)


def test_early_stopping_leaves_the_last_loss_and_no_best_weights_without():
    """The weights restored are those of the best score, the loss is that of the last epoch."""
    found = []
    for early_stopping in (True, False):
        ours, theirs, X, y = pair("single", early_stopping=early_stopping, max_iter=40)
        for model in (ours, theirs):
            model.set_params(learning_rate_init=0.3).fit(X, y)
        assert_same(ours, theirs)
        assert ours.loss_ == ours.loss_curve_[-1] > min(ours.loss_curve_)
        found.append(ours)
    scored, unscored = found
    assert scored.best_loss_ is None
    assert unscored.best_loss_ == min(unscored.loss_curve_)
    assert np.argmax(scored.validation_scores_) < len(scored.validation_scores_) - 1


def test_poisson_with_several_outputs():
    """The loss is summed over the outputs; once it was their mean, as of squared errors."""
    versions.needs("the Poisson loss of MLPs")
    random = np.random.RandomState(0)
    X = random.randn(40, 4)
    y = random.poisson(np.exp(X[:, :3] / 3))
    given = dict(loss="poisson", hidden_layer_sizes=(5,), max_iter=12, random_state=0)
    ours = fastbp.MLPRegressor(**given).fit(X, y)
    theirs = sklearn.neural_network.MLPRegressor(**given).fit(X, y)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-9)
    again = fastbp.MLPRegressor.from_sklearn(theirs).partial_fit(X, y)
    assert again.loss_ == pytest.approx(theirs.partial_fit(X, y).loss_, rel=1e-9)
