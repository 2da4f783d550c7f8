"""Where scikit-learn 1.9.1 errs: what it does, and that fastbp does better."""

import copy
import io
import pickle

import joblib
import numpy as np
import pytest
from conftest import small, weights
from sklearn.base import clone

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.smoke
def test_warm_start_keeps_best_weights_apart():
    """scikit-learn updates its best weights in place and restores the wrong ones."""
    model, X, y = small("single", early_stopping=True, warm_start=True, max_iter=30)
    model.fit(X, y)
    best, score = weights(model), model.best_validation_score_
    model.set_params(learning_rate_init=1.0, max_iter=5).fit(X, y)
    assert max(model.validation_scores_[-5:]) < score
    assert model.best_validation_score_ == score
    np.testing.assert_array_equal(weights(model), best)


@pytest.mark.parametrize("task", ["binary", "multiclass", "single"])
def test_warm_start_holds_out_the_same_rows(task, spied_engine):
    """scikit-learn draws other rows even with an int seed, so that it validates on seen ones."""
    model, X, y = small(task, early_stopping=True, warm_start=True)
    for _ in range(3):
        model.fit(X, y)
    model = pickle.loads(pickle.dumps(model)).fit(X, y)
    trained = [set(order) for engine in spied_engine for order in engine.orders]
    assert len(trained) == 20
    assert all(rows == trained[0] and len(rows) == 81 for rows in trained)


def test_warm_start_judges_on_the_rows_at_hand():
    model, X, y = small("single", early_stopping=True, warm_start=True, max_iter=40)
    model.fit(X, y)
    model.set_params(max_iter=1, learning_rate_init=1e-12).fit(X, y + 100)
    assert model.best_validation_score_ < -10


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_layer_sizes": (7,)},
        {"hidden_layer_sizes": (6, 6), "activation": "relu"},
        {"activation": "tanh"},
        {"loss": "squared_error"},
    ],
)
def test_warm_start_with_another_network_raises(changed):
    """scikit-learn goes on with the layers that it has, under another activation if need be."""
    model, X, y = small("multiclass", warm_start=True)
    before = weights(model.fit(X, y))
    model.set_params(**changed)
    with pytest.raises(ValueError, match=r"fitted with (layer_sizes|hidden_act|output_act|loss)"):
        model.fit(X, y)
    np.testing.assert_array_equal(weights(model), before)
    assert len(model.set_params(warm_start=False).fit(X, y).loss_curve_) == 5


@pytest.mark.parametrize("early_stopping", [False, True])
def test_refit_after_convergence_trains_again(early_stopping):
    """scikit-learn stops after one epoch, its counter still being full."""
    model, X, y = small("binary", warm_start=True, tol=0.5, n_iter_no_change=4, max_iter=99)
    model.set_params(early_stopping=early_stopping)
    for _ in range(2):
        model.fit(X, y)
        assert model._no_improvement_count == 5
        assert 5 <= model.n_iter_ < 99
    assert len(model.loss_curve_) > model.n_iter_


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_batch_without_weight_is_skipped(solver):
    """scikit-learn divides by zero."""
    model, X, y = small("multiclass", solver=solver, shuffle=False, batch_size=30)
    weight = np.repeat([1.0, 0.0, 2.0], 30)
    model.fit(X, y, weight)
    kept = weight > 0
    again = clone(model).fit(X[kept], y[kept], weight[kept])
    np.testing.assert_allclose(weights(model), weights(again), rtol=1e-12)
    assert model.loss_curve_ == pytest.approx(again.loss_curve_)


def test_loss_curve_is_weighted_by_sample_weight():
    """scikit-learn weighs the batches by their rows."""
    model, X, y = small("single", shuffle=False, batch_size=45, max_iter=1, alpha=0.0)
    model.set_params(solver="sgd", learning_rate_init=1e-12)
    weight = np.repeat([1.0, 3.0], 45)
    model.fit(X, y, weight)
    loss = np.average((model.predict(X) - y) ** 2 / 2, weights=weight)
    assert model.loss_ == pytest.approx(loss, rel=1e-6)


def test_log_probabilities_are_finite():
    """scikit-learn takes the logarithm of a probability that has become 0. Here none does."""
    for task in ("binary", "multiclass", "multilabel"):
        for loss in ("log_loss", "squared_error"):
            model, X, y = small(task, loss=loss)
            model.fit(X, y)
            model.coefs_[-1] *= 1e4
            log_proba = model.predict_log_proba(X)
            smallest = model.predict_proba(X).min()
            assert smallest == np.finfo(float).tiny or loss == "squared_error"
            assert np.isfinite(log_proba).all()
            assert (log_proba <= 0).all()
            if task != "multilabel":
                logits = np.log(np.exp(log_proba).sum(axis=1))
                np.testing.assert_allclose(logits, 0, atol=1e-9)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_pickles_hold_the_weights_once(solver):
    """scikit-learn's hold them up to four times."""
    model, X, y = small("multiclass", hidden_layer_sizes=(300, 100), max_iter=1, solver=solver)
    model.fit(X, y)
    size = weights(model).nbytes * (1 + {"lbfgs": 0, "sgd": 1, "adam": 2}[solver])
    assert size < len(pickle.dumps(model)) < size + 15_000


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
def test_partial_fit_goes_on_from_a_pickle(solver, how):
    model, X, y = small("multiclass", solver=solver)
    model.partial_fit(X, y, classes=np.unique(y)).partial_fit(X, y)
    if how == "pickle":
        loaded = pickle.loads(pickle.dumps(model))
    elif how == "deepcopy":
        loaded = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        joblib.dump(model, file)
        file.seek(0)
        loaded = joblib.load(file)
    np.testing.assert_array_equal(
        weights(model.partial_fit(X, y)), weights(loaded.partial_fit(X, y))
    )
    assert model.loss_curve_ == loaded.loss_curve_


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_partial_fit_goes_on_from_fit_in_a_copy(solver):
    """Pickles once left the optimizer out after `fit`, and copies trained another model."""
    model, X, y = small("multiclass", solver=solver)
    copied = copy.deepcopy(model.fit(X, y))
    loaded = pickle.loads(pickle.dumps(model))
    assert not np.shares_memory(copied._optimizer.moments[0], model._optimizer.moments[0])
    expected = weights(model.partial_fit(X, y))
    for each in (copied, loaded):
        np.testing.assert_array_equal(weights(each.partial_fit(X, y)), expected)
        assert each._optimizer.step == 36


def test_partial_fit_follows_changed_parameters():
    """scikit-learn's optimizer stays as the first call made it."""
    model, X, y = small("single", learning_rate_init=1e-12)
    before = weights(model.partial_fit(X, y))
    model.set_params(learning_rate_init=0.1).partial_fit(X, y)
    assert np.abs(weights(model) - before).max() > 0.05
    assert model._optimizer.step == 12
    model.set_params(solver="sgd").partial_fit(X, y)
    assert (model._optimizer.solver, model._optimizer.step) == ("sgd", 6)


def test_partial_fit_with_warm_start_takes_any_of_the_classes():
    """scikit-learn wants every class in every batch, whatever its documentation says."""
    model, X, y = small("multiclass", warm_start=True)
    model.partial_fit(X, y, classes=np.unique(y))
    model.partial_fit(X[y == 1], y[y == 1])
    assert list(model.classes_) == [1, 3, 5]


def test_diverged_moments_are_forgotten():
    """In scikit-learn training cannot go on from the weights that early stopping restored."""
    model, X, y = small("single", solver="sgd", activation="identity", early_stopping=True)
    model.set_params(batch_size="auto")
    with pytest.warns(UserWarning, match="loss became"):
        model.set_params(learning_rate_init=1e6, max_iter=300).fit(X, y)
    model.set_params(early_stopping=False, learning_rate_init=1e-9).partial_fit(X, y)
    assert np.isfinite(weights(model)).all()
    assert model._optimizer.step == 1


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_training_leaves_arrays_that_were_handed_out(solver):
    """scikit-learn updates them in place, and so the copies of a list that people keep."""
    model, X, y = small("single", solver=solver, warm_start=True)
    handed_out = list(model.fit(X, y).coefs_)
    values = [w.copy() for w in handed_out]
    for train in (model.partial_fit, model.fit):
        train(X, y)
        for w, value, now in zip(handed_out, values, model.coefs_, strict=True):
            np.testing.assert_array_equal(w, value)
            assert not np.array_equal(now, value)


def test_perfect_loss_stays_the_best():
    model, X, y = small("single", warm_start=True, alpha=0.0)
    model.fit(X, y).set_params(max_iter=1)
    model.best_loss_ = 0.0
    assert model.fit(X, y).best_loss_ == 0.0
