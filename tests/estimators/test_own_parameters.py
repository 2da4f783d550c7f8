"""Values of parameters that scikit-learn does not have: activations, update rules, schedules."""

import pickle
import warnings

import numpy as np
import pytest
from conftest import small, weights
from scipy.special import ndtr
from sklearn.base import clone

from fastbp.optimizers import STOCHASTIC_SOLVERS
from fastbp.schedules import SCHEDULES

PLANS = [name for name, schedule in SCHEDULES.items() if schedule.factor]


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


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("solver", ["adam", "adamw", "nadam", "rmsprop"])
def test_an_epsilon_below_all_numbers_of_the_dtype_is_none(solver, precision):
    """Rounded to zero it once made NaN of the padding of tiles, and of dead units: 0 / 0."""
    model, X, y = small(
        "multiclass", solver=solver, precision=precision, max_iter=4, epsilon=1e-300
    )
    model.fit(X, y)
    other = clone(model).set_params(epsilon=1e-30).fit(X, y)
    for array, same in zip(model.coefs_, other.coefs_, strict=True):
        np.testing.assert_array_equal(array, same)
    assert np.isfinite(model.loss_)


@pytest.mark.parametrize("solver", STOCHASTIC_SOLVERS)
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


@pytest.mark.parametrize("solver", [*STOCHASTIC_SOLVERS[1:]])
def test_a_factor_of_zero_changes_nothing(solver):
    model, X, y = small("single", solver=solver, learning_rate=lambda progress: progress < 0.4)
    trained = weights(model.fit(X, y))
    shorter = clone(model).set_params(learning_rate="constant", max_iter=2)
    with pytest.warns(match="Maximum iterations"):
        shorter.fit(X, y)
    np.testing.assert_array_equal(trained, weights(shorter))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_name_that_is_another_one():
    model, X, y = small("single", activation=("silu", "swish"), hidden_layer_sizes=(5, 4))
    other = clone(model).set_params(activation="swish").fit(X, y)
    np.testing.assert_array_equal(weights(model.fit(X, y)), weights(other))
    z = X @ model.coefs_[0] + model.intercepts_[0]
    z = z / (1 + np.exp(-z)) @ model.coefs_[1] + model.intercepts_[1]
    outputs = z / (1 + np.exp(-z)) @ model.coefs_[2] + model.intercepts_[2]
    np.testing.assert_allclose(model.predict(X), outputs.ravel(), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", STOCHASTIC_SOLVERS)
def test_training_goes_on_by_every_rule(solver):
    """Epochs of `partial_fit`, with a pickle between them, are those of a fit."""
    plan = dict(learning_rate="cosine", warmup=0.3, max_iter=8, shuffle=False)
    whole, X, y = small("multiclass", solver=solver, **plan)
    whole.fit(X, y)
    parts = small("multiclass", solver=solver, **plan)[0]
    for _ in range(8):
        parts.partial_fit(X, y, classes=np.unique(y))
        parts = pickle.loads(pickle.dumps(parts))
    np.testing.assert_array_equal(weights(parts), weights(whole))
    np.testing.assert_array_equal(parts._optimizer.moments, whole._optimizer.moments)
    assert parts._optimizer.step == whole._optimizer.step
    assert whole.loss_ < whole.loss_curve_[0]


STALLED = dict(tol=1e3, n_iter_no_change=2, max_iter=20)  # only the first epoch improves


@pytest.mark.parametrize("plan", [*PLANS, lambda progress: 1 - progress / 2])
def test_a_plan_is_trained_to_its_end(plan):
    """A plateau says little while the rate is still to come down: it ended a plan before."""
    model, X, y = small("single", learning_rate=plan, **STALLED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the end of the plan is no lack of convergence
        model.fit(X, y)
    assert model.n_iter_ == 20
    constant = clone(model).set_params(learning_rate="constant").fit(X, y)
    assert constant.n_iter_ == 1 + 3


@pytest.mark.parametrize("plan", PLANS)
def test_a_score_that_stalls_ends_a_plan(plan):
    model, X, y = small("single", learning_rate=plan, early_stopping=True, **STALLED)
    model.fit(X, y)
    assert model.n_iter_ == 1 + 3
    assert model.best_validation_score_ == max(model.validation_scores_)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_patience_begins_where_a_warm_up_ends(early_stopping):
    """At first the rate is almost 0, and so is what an epoch can improve."""
    model, X, y = small("single", warmup=0.5, early_stopping=early_stopping, **STALLED)
    assert model.fit(X, y).n_iter_ == 9 + 3
    assert clone(model).set_params(warmup=0.05).fit(X, y).n_iter_ == 1 + 3
    with pytest.warns(match="Maximum iterations"):  # a warm-up alone plans no end
        clone(model).set_params(warmup=0.95).fit(X, y)


@pytest.mark.parametrize("warmup", [-0.1, 1, 1.0, np.nan, "0.1", None])
def test_a_warm_up_that_makes_no_sense(warmup):
    model, X, y = small("single", warmup=warmup)
    with pytest.raises(ValueError, match="'warmup' parameter"):
        model.fit(X, y)


@pytest.mark.parametrize(
    "parameters", [{"learning_rate": name} for name in PLANS] + [{"warmup": 0.5}]
)
def test_lbfgs_has_no_rate(parameters):
    model, X, y = small("single", solver="lbfgs", max_iter=100)
    other = clone(model).set_params(**parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(weights(model.fit(X, y)), weights(other.fit(X, y)))
