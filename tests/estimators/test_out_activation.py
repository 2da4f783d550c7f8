"""`MLPRegressor(out_activation=)`: every choice with every solver, against the oracle."""

import re
from dataclasses import replace

import naive
import numpy as np
import pytest
from conftest import small, weights
from sklearn.exceptions import ConvergenceWarning

import fastbp
from fastbp import devices
from fastbp.activations import ALIASES
from fastbp.parameters import OUTPUT_CHOICES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CHOICES = sorted(OUTPUT_CHOICES - {"auto", *ALIASES})


def make_model(**parameters):
    """A regressor on two positive outputs, and its rows with weights, one of them zero."""
    model, X, y = small("multi-output", hidden_layer_sizes=(6, 4), activation="tanh", **parameters)
    sample_weight = np.random.default_rng(1).integers(0, 4, len(X)) / 2.0
    return model, X, y[:, :2] / 2 + 0.5, sample_weight


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_trains_as_the_oracle_does(choice, solver, monkeypatch):
    model, X, y, sample_weight = make_model(out_activation=choice, solver=solver)
    model.fit(X, y, sample_weight)
    assert model.out_activation_ == choice
    found, outputs = weights(model), model.predict(X)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "make_engine", lambda *args: naive.NaiveEngine(*args[:3]))
        model.fit(X, y, sample_weight)
        np.testing.assert_allclose(found, weights(model), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(outputs, model.predict(X), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("choice", CHOICES)
def test_lbfgs_comes_to_a_minimum(choice):
    """A wrong δ would leave a slope, or end the search early."""
    model, X, y, sample_weight = make_model(
        out_activation=choice, solver="lbfgs", max_iter=1500, tol=1e-6, alpha=0.1
    )
    model.fit(X, y, sample_weight)
    parameters = model._model.flat(np.float64)
    summed = replace(model._model.network, average_outputs=False)  # the loss whose gradient it is
    loss, slope = naive.loss_and_gradient(summed, parameters, X, y, sample_weight, 0.1)
    assert np.abs(slope).max() < 2e-3
    rng = np.random.default_rng(0)
    for _ in range(5):
        moved = parameters + rng.normal(scale=0.05, size=parameters.size)
        assert naive.loss_and_gradient(summed, moved, X, y, sample_weight, 0.1)[0] > loss


@pytest.mark.parametrize(
    ("loss", "choice", "activation"),
    [
        ("squared_error", "auto", "identity"),
        ("squared_error", "sigmoid", "logistic"),
        ("poisson", "auto", "exp"),
        ("poisson", "exp", "exp"),
    ],
)
def test_names(loss, choice, activation):
    model, X, y, _ = make_model(loss=loss, out_activation=choice)
    assert model.fit(X, y).out_activation_ == activation
    again = model.set_params(out_activation=activation)
    np.testing.assert_array_equal(weights(model), weights(again.fit(X, y)))


def test_predictions_stay_in_range():
    X, y = np.linspace(-3, 3, 60)[:, None], np.linspace(-3, 3, 60)
    for choice, low, high in [
        ("logistic", 0, 1), ("tanh", -1, 1), ("relu", 0, 9), ("exp", 0, 9), ("softplus", 0, 9),
        ("elu", -1, 9), ("selu", -1.7581, 9),
    ]:  # fmt: skip
        model = fastbp.MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", random_state=0)
        predicted = model.set_params(out_activation=choice).fit(X, y).predict(X)
        assert low <= predicted.min() < predicted.max() <= high


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"out_activation": "softmax"}, "'out_activation' parameter .* 'softmax'"),
        ({"out_activation": "logistic", "loss": "poisson"}, "'logistic' .* loss='poisson'.*'exp'"),
    ],
)
def test_choices_that_make_no_sense_are_refused(parameters, says):
    model, X, y, _ = make_model(**parameters)
    before = vars(model).copy()
    with pytest.raises(ValueError, match=re.compile(says, re.DOTALL)):
        model.fit(X, y)
    assert vars(model) == before


def test_warm_start_keeps_it():
    model, X, y, _ = make_model(out_activation="tanh", warm_start=True)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    model.set_params(out_activation="identity")
    with pytest.raises(ValueError, match=r"output_activation=tanh.*output_activation=identity"):
        model.fit(X, y)
