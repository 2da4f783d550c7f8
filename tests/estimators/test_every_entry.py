"""Parameters are checked wherever they are used, not only in `fit`."""

import numpy as np
import pytest
from conftest import small, weights
from sklearn import config_context
from sklearn.utils._param_validation import InvalidParameterError

import fastbp
from fastbp import parameters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

INVALID = {
    "hidden_layer_sizes": "wide",
    "activation": "step",
    "alpha": -1,
    "batch_size": 0,
    "learning_rate": "fast",
    "learning_rate_init": -1,
    "power_t": -1,
    "max_iter": 0,
    "shuffle": "no",
    "random_state": "x",
    "tol": -1,
    "verbose": "x",
    "warm_start": 2,
    "momentum": 5,
    "nesterovs_momentum": "x",
    "validation_fraction": 1.5,
    "beta_1": 2,
    "beta_2": 1.0,
    "epsilon": -1,
    "n_iter_no_change": 0,
    "max_fun": 0,
    "loss": "hinge",
    "focal_gamma": -1,
    "label_smoothing": 1.0,
    "huber_delta": 0,
    "quantile": 1.5,
    "weight_decay": -1,
    "weight_decay_schedule": "adaptive",
    "warmup": 1.0,
    "drop_last": "yes",
    "precision": "float16",
    "dropout": 1.0,
    "input_dropout": -0.1,
    "dropout_schedule": "invscaling",
    "max_grad_norm": 0,
    "ema_decay": 1.0,
    "learning_rate_factors": {"scales": -1},
    "parametrization": "maximal_update",
    "initialization": "he",
    "scaling_layer": 2,
    "parametric_activation": "x",
    "numerical_embedding": "plr",
    "embedded_features": 0,
    "n_threads": 0,
    "input_scale": -1,
    "class_weight": "even",
    "scale_targets": 2,
    "clip_predictions": 2,
    "missing_targets": "drop",
    "device": "gpu",
    "callback": 3,
    "scoring": 3,
    "ties": "any",
    "checkpoint": 3,
    "checkpoint_every": 0,
}


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (task, name)
        for task in ("multiclass", "single")
        for name in INVALID
        if hasattr(small(task)[0], name)
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_every_entry_checks_parameters(task, method, name):
    """`partial_fit` of a fitted model once took any: with a rate of -1 it went uphill."""
    model, X, y = small(task)
    before = weights(model.fit(X, y))
    model.set_params(**{name: INVALID[name]})
    for _ in range(2):
        with pytest.raises(InvalidParameterError, match=name):
            getattr(model, method)(X, y)
    np.testing.assert_array_equal(weights(model), before)


@pytest.mark.parametrize("value", [0, -1, 1.5, "x", True, 10**9])
def test_predictions_check_the_number_of_threads(value):
    model, X, y = small("single")
    expected = model.fit(X, y).predict(X)
    model.set_params(n_threads=value)
    if value in (True, 10**9):
        np.testing.assert_array_equal(model.predict(X), expected)
    else:
        with pytest.raises(InvalidParameterError, match="n_threads"):
            model.predict(X)


def test_checks_can_be_skipped_as_in_scikit_learn():
    model, X, y = small("single", verbose=False)
    model.fit(X, y).set_params(power_t=-1)
    with config_context(skip_parameter_validation=True):
        model.partial_fit(X, y)
    with pytest.raises(InvalidParameterError, match="power_t"):
        model.partial_fit(X, y)


def test_values_that_passed_are_told_apart():
    """1 and True are equal, and -0.0 and 0.0."""
    model = fastbp.MLPRegressor(max_iter=1, shuffle=True)
    parameters.check(model)
    for name, value in (("max_iter", True), ("shuffle", 1.0), ("batch_size", False)):
        model = fastbp.MLPRegressor(**{name: value})
        try:
            model._validate_params()
        except InvalidParameterError:
            with pytest.raises(InvalidParameterError, match=name):
                parameters.check(model)
        else:
            parameters.check(model)


def test_constraints_cover_every_parameter():
    for estimator in (fastbp.MLPClassifier, fastbp.MLPRegressor):
        names = set(estimator().get_params())
        assert names == set(estimator._parameter_constraints)
        assert names - {"solver", "early_stopping", "out_activation"} <= set(INVALID)
