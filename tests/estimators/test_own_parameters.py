"""Values of parameters that scikit-learn does not have: gelu, AdamW, functions as schedules."""

import warnings

import numpy as np
import pytest
from conftest import small, weights
from scipy.special import ndtr
from sklearn.base import clone

STOCHASTIC = ["sgd", "adam", "adamw"]


def initial(model, X, y):
    """The weights that a fit starts from: a learning rate this small does not move them."""
    return clone(model).set_params(learning_rate_init=1e-300, max_iter=1).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_gelu_is_the_exact_one():
    model, X, y = small("single", activation="gelu")
    model.fit(X, y)
    z = X @ model.coefs_[0] + model.intercepts_[0]
    outputs = (z * ndtr(z)) @ model.coefs_[1] + model.intercepts_[1]
    np.testing.assert_allclose(model.predict(X), outputs.ravel(), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weight_decay_is_apart_from_the_gradient_and_spares_biases():
    """Adam's step does not depend on the weights' size otherwise, as it would with alpha."""
    model, X, y = small("single", max_iter=1, batch_size=90, epsilon=1e-30, alpha=0.0)
    adam = clone(model).set_params(solver="adam").fit(X, y)
    adamw = clone(model).set_params(solver="adamw", weight_decay=0.5).fit(X, y)
    start = initial(model, X, y)
    for before, without, decayed in zip(start.coefs_, adam.coefs_, adamw.coefs_, strict=True):
        expected = without - model.learning_rate_init * 0.5 * before
        np.testing.assert_allclose(decayed, expected, rtol=1e-9)
    for without, decayed in zip(adam.intercepts_, adamw.intercepts_, strict=True):
        np.testing.assert_allclose(decayed, without, rtol=1e-9)


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_learning_rate_takes_a_function_of_progress(solver):
    asked = []

    def halves(progress):
        asked.append(progress.copy())
        return np.full(progress.shape, 0.5)

    model, X, y = small("single", solver=solver, learning_rate=halves)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # training ends as planned, which is no lack of convergence
        model.fit(X, y)
    batches = -(-90 // 16)
    assert [len(progress) for progress in asked] == [batches] * 5
    np.testing.assert_allclose(np.concatenate(asked), np.arange(5 * batches) / (5 * batches))
    constant = clone(model).set_params(learning_rate="constant", learning_rate_init=0.0005)
    with pytest.warns(match="Maximum iterations"):
        constant.fit(X, y)
    np.testing.assert_array_equal(weights(model), weights(constant))


@pytest.mark.parametrize("solver", ["adam", "adamw"])
def test_a_factor_of_zero_changes_nothing(solver):
    model, X, y = small("single", solver=solver, learning_rate=lambda progress: progress < 0.4)
    trained = weights(model.fit(X, y))
    shorter = clone(model).set_params(learning_rate="constant", max_iter=2)
    with pytest.warns(match="Maximum iterations"):
        shorter.fit(X, y)
    np.testing.assert_array_equal(trained, weights(shorter))
