"""Combinations of all parameters and kinds of data: the same bits on one thread and on a team."""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import make_constraint

from fastbp import MLPClassifier, MLPRegressor, fit_many
from fastbp.activations import HIDDEN_ACTIVATIONS
from fastbp.cpu import work
from fastbp.initialisation import INITIALISATIONS
from fastbp.losses import names_for
from fastbp.optimizers import STOCHASTIC_SOLVERS
from fastbp.parameter_groups import NAMES, PARAMETRIZATIONS
from fastbp.schedules import PLANS, SCHEDULES

N_ROWS, N_FEATURES = 41, 6


def half(progress):
    """A schedule that pickle finds."""
    return 1 - progress / 2


def one_or_a_list(values, n_hidden):
    """One value for all hidden layers, or one for each."""
    return st.one_of(values, st.lists(values, min_size=n_hidden, max_size=n_hidden))


# Parameter -> the strategy of its values, given the task and the number of hidden layers. An entry
# counts where the estimator has the parameter, and a value where its constraints accept it: what
# this version does not have yet is left out.
VALUES = {
    "activation": lambda task, n: one_or_a_list(st.sampled_from(HIDDEN_ACTIVATIONS), n),
    "solver": lambda task, n: st.sampled_from([*STOCHASTIC_SOLVERS] * 2 + ["lbfgs"]),
    "alpha": lambda task, n: st.sampled_from([0.0, 1e-4, 0.1]),
    "batch_size": lambda task, n: st.sampled_from([1, 7, 16, "auto"]),
    "learning_rate": lambda task, n: st.sampled_from([*SCHEDULES, half]),
    "learning_rate_init": lambda task, n: st.sampled_from([1e-3, 0.01, 0.03]),
    "power_t": lambda task, n: st.sampled_from([0.0, 0.5]),
    "shuffle": lambda task, n: st.booleans(),
    "tol": lambda task, n: st.sampled_from([0.0, 1e-4, 0.1]),
    "momentum": lambda task, n: st.sampled_from([0.0, 0.9]),
    "nesterovs_momentum": lambda task, n: st.booleans(),
    "early_stopping": lambda task, n: st.booleans(),
    "validation_fraction": lambda task, n: st.sampled_from([0.2, 0.4]),
    "beta_1": lambda task, n: st.sampled_from([0.0, 0.5, 0.9]),
    "beta_2": lambda task, n: st.sampled_from([0.9, 0.999]),
    "epsilon": lambda task, n: st.sampled_from([1e-8, 1e-3]),
    "n_iter_no_change": lambda task, n: st.sampled_from([1, 10, np.inf]),
    "max_fun": lambda task, n: st.sampled_from([3, 100]),
    "weight_decay": lambda task, n: st.sampled_from([0.0, 0.01]),
    "precision": lambda task, n: st.sampled_from(["auto", "float32", "float64", "bfloat16"]),
    "input_scale": lambda task, n: st.sampled_from([1.0, 0.5]),
    "loss": lambda task, n: st.sampled_from(
        names_for("regression" if task in REGRESSION else "classification")
    ),
    "out_activation": lambda task, n: st.just("auto"),
    "dropout": lambda task, n: one_or_a_list(st.sampled_from([0.0, 0.1, 0.5]), n),
    "input_dropout": lambda task, n: st.sampled_from([0.0, 0.2]),
    "max_grad_norm": lambda task, n: st.sampled_from([None, 0.1, 10.0]),
    "ema_decay": lambda task, n: st.sampled_from([None, 0.5, 0.99]),
    "weight_decay_schedule": lambda task, n: st.sampled_from([*PLANS, half]),
    "dropout_schedule": lambda task, n: st.sampled_from([*PLANS, half]),
    "drop_last": lambda task, n: st.booleans(),
    "ties": lambda task, n: st.sampled_from(["first", "last"]),
    "learning_rate_factors": lambda task, n: st.dictionaries(
        st.sampled_from(NAMES), st.sampled_from([0.1, 6.0])
    ),
    "parametrization": lambda task, n: st.sampled_from(PARAMETRIZATIONS),
    "initialization": lambda task, n: st.sampled_from([*INITIALISATIONS]),
    "scaling_layer": lambda task, n: st.booleans(),
    "parametric_activation": lambda task, n: st.booleans(),
    "numerical_embedding": lambda task, n: st.sampled_from([None, "pbld"]),
    "embedded_features": lambda task, n: st.sampled_from([None, 1, 3]),
    "warmup": lambda task, n: st.sampled_from([0.0, 0.2, 0.5]),
    "class_weight": lambda task, n: st.sampled_from(
        [None, "balanced"] + ([{0: 2.0, 1: 0.5}] if task != "multilabel" else [])
    ),
    "label_smoothing": lambda task, n: st.sampled_from([0.0, 0.1]),
    "focal_gamma": lambda task, n: st.sampled_from([0.5, 2.0]),
    "huber_delta": lambda task, n: st.sampled_from([0.5, 1.35]),
    "quantile": lambda task, n: st.sampled_from(
        [0.5, 0.1] + ([[0.1, 0.5, 0.9]] if task == "single" else [])
    ),
    "scale_targets": lambda task, n: st.booleans(),
    "clip_predictions": lambda task, n: st.booleans(),
    "missing_targets": lambda task, n: st.sampled_from(["raise", "ignore"]),
    "scoring": lambda task, n: st.sampled_from(
        [None, "loss", "r2" if task in REGRESSION else "accuracy"]
    ),
}
# What the test sets itself, or what computes nothing.
SET_HERE = {
    "hidden_layer_sizes", "max_iter", "random_state", "n_threads", "warm_start", "verbose",
    "device", "callback", "checkpoint", "checkpoint_every",
}  # fmt: skip
CLASSIFICATION, REGRESSION = ("binary", "multiclass", "multilabel"), ("single", "multi-output")
# Some values do not go with others, which is for the estimator to say.
REFUSALS = (ValueError, TypeError)


def class_of(task):
    return MLPRegressor if task in REGRESSION else MLPClassifier


@st.composite
def estimators(draw, task):
    """An estimator with a few parameters that are not the defaults."""
    estimator_class = class_of(task)
    constraints = estimator_class._parameter_constraints
    sizes = tuple(draw(st.lists(st.sampled_from([1, 3, 8, 17]), max_size=2)))
    chosen = {"hidden_layer_sizes": sizes, "max_iter": draw(st.integers(1, 4)), "random_state": 0}
    names = sorted(VALUES.keys() & constraints.keys())
    for name in draw(st.lists(st.sampled_from(names), max_size=9, unique=True)):
        value = draw(VALUES[name](task, len(sizes)))
        if any(make_constraint(each).is_satisfied_by(value) for each in constraints[name]):
            chosen[name] = value
    return estimator_class(**chosen)


@st.composite
def data_of(draw, task, estimator):
    """X, y and weights."""
    random = np.random.default_rng(draw(st.integers(0, 3)))
    X = random.normal(size=(N_ROWS, N_FEATURES)).astype(draw(st.sampled_from(["f4", "f8"])))
    score = X @ random.normal(size=(N_FEATURES, 3))
    if draw(st.booleans()):
        X[random.random(X.shape) < 0.7] = 0
        X = csr_array(X)
    y = {
        "binary": (score[:, 0] > 0).astype(int),
        "multiclass": score.argmax(axis=1),
        "multilabel": (score > 0).astype(int),
        "single": np.abs(score[:, 0]) + 0.1,
        "multi-output": np.abs(score) + 0.1,
    }[task]
    if task == "multi-output" and getattr(estimator, "missing_targets", "raise") == "ignore":
        y[random.random(y.shape) < 0.2] = np.nan
    weight = random.choice([0.0, 1.0, 2.5], size=N_ROWS, p=[0.2, 0.5, 0.3])
    return X, y, weight if draw(st.booleans()) else None


def train(estimator, X, y, weight, how):
    """Fit and perhaps go on, or the error in which that ends."""
    classes = (
        {} if y.dtype.kind == "f" else {"classes": np.arange(3 if y.ndim == 2 else y.max() + 1)}
    )
    try:
        if how == "partial_fit":
            estimator.partial_fit(X, y, weight, **classes).partial_fit(X, y, weight)
        else:
            estimator.fit(X, y, weight)
        if how == "warm_start":
            estimator.set_params(warm_start=True).fit(X, y, weight)
    except (*REFUSALS, AttributeError) as error:
        return error
    return None


def assert_same_bits(a, b, X):
    """Hold all that two models have learned and predict against each other."""
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(a, name), getattr(b, name), strict=True):
            assert one.dtype == other.dtype
            assert_array_equal(one, other)
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        assert_array_equal(getattr(a, name, None), getattr(b, name, None))
    assert_array_equal(a.predict(X), b.predict(X))
    if hasattr(a, "predict_proba"):
        assert_array_equal(a.predict_proba(X), b.predict_proba(X))


@pytest.mark.parametrize("estimator_class", [MLPClassifier, MLPRegressor])
def test_no_parameter_is_forgotten(estimator_class):
    """A new one needs values in this file's table."""
    assert {*estimator_class._parameter_constraints} <= VALUES.keys() | SET_HERE


@pytest.mark.parametrize("task", [*CLASSIFICATION, *REGRESSION])
def test_threads_pickles_and_fit_many(task, monkeypatch):
    # Teams however small the networks are.
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(work, "WORK_PER_START", 0)
    trained = []

    @settings(
        max_examples=60, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(st.data())
    def check(data):
        estimator = data.draw(estimators(task))
        X, y, weight = data.draw(data_of(task, estimator))
        how = data.draw(st.sampled_from(["fit", "fit", "warm_start", "partial_fit"]))
        alone = clone(estimator).set_params(n_threads=1)
        error = train(alone, X, y, weight, how)
        team = clone(estimator).set_params(n_threads=3)
        other = train(team, X, y, weight, how)
        assert (type(error), str(error)) == (type(other), str(other))
        trained.append(error is None)
        if error is not None:
            return
        assert_same_bits(alone, team, X)
        assert_same_bits(alone, pickle.loads(pickle.dumps(alone)), X)
        if how == "fit":
            many = fit_many([clone(team), clone(estimator)], X, y, sample_weight=weight)
            for model in many:
                assert_same_bits(alone, model, X)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        check()
    assert np.mean(trained) > 0.6  # the rest is what the estimators refuse
