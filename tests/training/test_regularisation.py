"""Dropout, bounded gradients and averaged weights through the estimators' calls."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.utils._param_validation import InvalidParameterError

import fastbp
from fastbp import MLPClassifier, MLPRegressor, fit_many

X, Y = make_classification(150, 9, n_classes=3, n_informative=6, random_state=0)
ALL = dict(dropout=(0.3, 0.1), input_dropout=0.1, max_grad_norm=0.5, ema_decay=0.9)
EXTRAS = {
    "dropout": dict(dropout=0.3),
    "input_dropout": dict(input_dropout=0.2),
    "max_grad_norm": dict(max_grad_norm=0.1),
    "ema_decay": dict(ema_decay=0.9),
    "all": ALL,
}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make(cls=MLPClassifier, **parameters):
    settings = dict(hidden_layer_sizes=(12, 7), batch_size=32, max_iter=4, random_state=0)
    return cls(**settings | parameters)


def assert_same(model, other):
    for one, two in zip(
        model.coefs_ + model.intercepts_, other.coefs_ + other.intercepts_, strict=True
    ):
        assert_array_equal(one, two)
    assert_array_equal(model.loss_curve_, other.loss_curve_)


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_changes_training_and_repeats(extra):
    model = make(**EXTRAS[extra]).fit(X, Y)
    assert_same(model, make(**EXTRAS[extra]).fit(X, Y))
    assert not np.array_equal(model.coefs_[0], make().fit(X, Y).coefs_[0])


@pytest.mark.parametrize("neutral", [dict(dropout=(0.0, 0.0)), dict(max_grad_norm=1e12)])
def test_what_does_nothing_changes_nothing(neutral):
    """Not even a number is drawn from the random state."""
    one, other = make(**neutral).fit(X, Y), make().fit(X, Y)
    if "dropout" in neutral:
        assert_same(one, other)
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-12)


def test_predictions_leave_nothing_out():
    model = make(dropout=0.5, input_dropout=0.5).fit(X, Y)
    plain = make(max_iter=1).fit(X, Y)
    plain.coefs_, plain.intercepts_ = model.coefs_, model.intercepts_
    assert_array_equal(model.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_partial_fits_are_the_epochs_of_a_fit(extra, copied):
    """Masks, averages and the weights behind them go on, through pickles, too."""
    whole = make(shuffle=False, max_iter=3, **EXTRAS[extra]).fit(X, Y)
    model = make(shuffle=False, **EXTRAS[extra])
    for _ in range(3):
        model = copied(model.partial_fit(X, Y, classes=[0, 1, 2]))
    assert_same(model, whole)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_file_keeps_what_training_goes_on_from(extra, tmp_path):
    model = make(**EXTRAS[extra]).fit(X, Y)
    model.save(tmp_path / "model.fastbp")
    loaded = fastbp.load(tmp_path / "model.fastbp")
    assert_same(loaded, model)
    assert_same(loaded.partial_fit(X, Y), model.partial_fit(X, Y))


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("random_state", [0, None])
def test_a_checkpoint_resumes_to_the_bit(extra, random_state, tmp_path):
    """Where nothing seeds the masks, their seed comes from the file."""
    settings = dict(EXTRAS[extra], random_state=random_state, checkpoint=tmp_path / "state")
    states = {}

    def keep(report):
        if report.n_iter == 3:  # the checkpoint of the second epoch is written
            states["half"] = (tmp_path / "state").read_bytes()

    whole = make(callback=keep, **settings).fit(X, Y)
    (tmp_path / "state").write_bytes(states["half"])
    assert_same(make(**settings).fit(X, Y, resume=True), whole)


def test_fit_many_trains_like_fit():
    models = [make(**extra, random_state=i) for i, extra in enumerate(EXTRAS.values())]
    for model in fit_many([clone(model) for model in models], X, Y, n_threads=2):
        own = make(**model.get_params()).fit(X, Y)
        assert_same(model, own)


def test_early_stopping_scores_and_keeps_the_average():
    model = make(early_stopping=True, ema_decay=0.95, max_iter=30, solver="sgd").fit(X, Y)
    assert model.best_validation_score_ == max(model.validation_scores_)
    last = make(
        early_stopping=True, ema_decay=0.95, solver="sgd",
        max_iter=int(np.argmax(model.validation_scores_)) + 1,
    ).fit(X, Y)  # fmt: skip
    for one, two in zip(model.coefs_, last.coefs_, strict=True):
        assert_array_equal(one, two)


def test_weights_that_a_user_assigns_are_what_training_goes_on_from():
    """Not the weights behind the average of those that were there."""
    model = make(ema_decay=0.9).fit(X, Y)
    model.coefs_ = [np.zeros_like(weights) for weights in model.coefs_]
    model.partial_fit(X, Y)
    assert np.abs(model.coefs_[0]).max() < 0.05


def test_an_average_can_be_switched_on_and_off_between_calls():
    model = make().fit(X, Y)
    model.set_params(ema_decay=0.999).partial_fit(X, Y)
    start = make().fit(X, Y)
    assert 0 < np.abs(model.coefs_[0] - start.coefs_[0]).max() < 1e-3
    model.set_params(ema_decay=None).partial_fit(X, Y)
    assert len(model._optimizer.moments) == 2


def test_the_first_average_is_that_of_the_first_update():
    settings = dict(batch_size=150, max_iter=1)
    assert_same(make(ema_decay=0.99, **settings).fit(X, Y), make(**settings).fit(X, Y))


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    ("parameter", "value"),
    [("dropout", 0.5), ("dropout", (0.0, 0.1)), ("input_dropout", 0.1), ("max_grad_norm", 1.0),
     ("ema_decay", 0.9)],
)  # fmt: skip
def test_lbfgs_refuses_what_it_cannot_do(cls, parameter, value):
    with pytest.raises(InvalidParameterError, match=f"{parameter}=.*lbfgs"):
        make(cls, solver="lbfgs", **{parameter: value}).fit(*load_iris(return_X_y=True))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (dict(dropout=1.0), "dropout"),
        (dict(dropout=(0.1,)), r"dropout=\(0.1,\) has 1 numbers, but .* 2 hidden"),
        (dict(dropout=(0.1, 1.0)), "dropout must be a number from 0 to 1"),
        (dict(dropout=(0.1, "0.2")), "dropout must be a number from 0 to 1"),
        (dict(dropout=[[0.1], [0.1]]), "dropout must be a number from 0 to 1"),
        (dict(input_dropout=-0.1), "input_dropout"),
        (dict(max_grad_norm=0), "max_grad_norm"),
        (dict(ema_decay=1.0), "ema_decay"),
    ],
)
def test_wrong_values_are_refused(parameters, message):
    model = make(**parameters)
    with pytest.raises(InvalidParameterError, match=message):
        model.fit(X, Y)
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize("changed", [dict(solver="sgd"), dict(hidden_layer_sizes=(12, 7))])
def test_another_solver_begins_a_new_average(changed):
    """The moments of the old one do not go on, and the average had two places among them."""
    model = make(ema_decay=0.9).fit(X, Y)
    model.set_params(**changed).partial_fit(X, Y)
    assert len(model._optimizer.moments) == model._optimizer.n_moments
    copied = pickle.loads(pickle.dumps(model)).partial_fit(X, Y)
    assert_same(copied, model.partial_fit(X, Y))
