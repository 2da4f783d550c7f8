"""Fitted attributes: scikit-learn's, each of them, and what assigning to them does."""

import copy
import pickle
from itertools import product

import numpy as np
import pytest
import sklearn.neural_network
import versions
from conftest import TASKS, pair, small, weights
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# What scikit-learn's lbfgs leaves out.
OF_EPOCHS = {"loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"}
OURS = {"best_iter_", "validation_loss_curve_", "validation_metrics_"}


def public(model):
    """The attributes that fit has made."""
    names = [name for name in dir(model) if name.endswith("_") and not name.startswith("_")]
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


def described(value):
    """Type, length, shape and dtype, as deep as lists go."""
    if isinstance(value, list):
        return [described(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype, value.flags.writeable
    return type(value)


def first_classes(model, y):
    """What `partial_fit` of a classifier needs at its first call."""
    if not hasattr(model, "predict_proba"):
        return {}
    return {"classes": np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])}


@pytest.mark.parametrize(
    ("how", "solver", "early_stopping"),
    [
        *product(["fit", "warm start"], ["adam", "sgd", "lbfgs"], [False, True]),
        *product(["partial_fit"], ["adam", "sgd"], [False]),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_attributes_are_scikit_learns(task, solver, early_stopping, how):
    for dtype in (np.float64, np.float32):
        models = pair(task, solver=solver, early_stopping=early_stopping, max_iter=3, tol=1e-9)[:2]
        X, y = TASKS[task][2].astype(dtype), TASKS[task][3]
        for model in models:
            if how == "partial_fit":
                model.partial_fit(X, y, **first_classes(model, y))
            model.set_params(warm_start=how == "warm start").fit(X, y)
            model.fit(X, y) if how == "warm start" else None
        ours, theirs = map(public, models)
        assert set(ours) - set(theirs) == (OURS | OF_EPOCHS if solver == "lbfgs" else OURS)
        assert set(ours) >= set(theirs)
        for name, value in theirs.items():
            if solver == "lbfgs" and dtype is np.float32 and name in ("coefs_", "intercepts_"):
                continue  # there float64: see test_precision
            if name == "classes_":  # targets are found by it
                assert not ours[name].flags.writeable
                value = np.array(value)
                value.flags.writeable = False
            if solver == "lbfgs" and name == "loss_":
                value = np.float64(value)  # float32 with some versions of SciPy
            assert described(ours[name]) == described(value), name
            if isinstance(value, int | str):
                assert ours[name] == value, name


@pytest.mark.parametrize("task", ["binary", "single"])
def test_names_and_number_of_features(task):
    pd = pytest.importorskip("pandas")
    ours, theirs, X, y = pair(task, max_iter=2)
    frame = pd.DataFrame(X, columns=list("abcde"))
    for name in ("n_features_in_", "feature_names_in_"):
        values = [getattr(model.fit(frame, y), name) for model in (ours, theirs)]
        assert described(values[0]) == described(values[1])
        np.testing.assert_array_equal(*values)
    ours.fit(X, y)
    assert not hasattr(ours, "feature_names_in_")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *product(["MLPClassifier", "MLPRegressor"], [{}, {"solver": "lbfgs"}]),
        ("MLPRegressor", {"loss": "poisson"}),
    ],
)
def test_tags_routing_and_methods_are_scikit_learns(name, parameters):
    if parameters.get("loss") == "poisson":
        versions.needs("the Poisson loss of MLPs")
    ours = getattr(fastbp, name)(**parameters)
    theirs = getattr(sklearn.neural_network, name)(**parameters)
    tags, their_tags = get_tags(ours), get_tags(theirs)
    their_tags.target_tags.positive_only = parameters.get("loss") == "poisson"
    if not versions.scikit_learn_has("a tag that MLPs take sparse X"):
        their_tags.input_tags.sparse = True
    assert tags == their_tags
    if versions.scikit_learn_has("sample weights of MLPs"):
        routing = str(ours.get_metadata_routing())
        for name_of_ours in ("resume", "X_val", "y_val", "sample_weight_val"):
            assert f"'{name_of_ours}': None" in routing
            routing = routing.replace(f", '{name_of_ours}': None", "")
        assert routing == str(theirs.get_metadata_routing())
    found, expected = ({m for m in dir(model) if m[0] != "_"} for model in (ours, theirs))
    # Its regressor has partial_fit with lbfgs too, but in 1.7, which runs all of fit.
    assert expected - found <= (
        {"partial_fit"} if theirs.solver == "lbfgs" and name == "MLPRegressor" else set()
    )


@pytest.mark.parametrize("parameters", [{"loss": "hinge"}, {"out_activation": "softmax"}])
def test_tags_do_not_check_parameters(parameters):
    """Only `fit` does, as scikit-learn asks; a search reads the tags before."""
    for loss in ("squared_error", "poisson"):
        tags = get_tags(fastbp.MLPRegressor(**{"loss": loss} | parameters))
        assert tags.target_tags.positive_only == (parameters.get("loss", loss) == "poisson")


# ---- assignment ---------------------------------------------------------------------------------


def replace_list(model):
    model.coefs_ = [w * 0.5 for w in model.coefs_]
    model.intercepts_ = [b + 0.1 for b in model.intercepts_]


def replace_entry(model):
    model.coefs_[1] = np.asfortranarray(model.coefs_[1][::-1])
    model.intercepts_[0] = np.zeros_like(model.intercepts_[0])


def change_in_place(model):
    model.coefs_[0][1:3] *= -1
    model.intercepts_[-1][...] = 0.25


def give_rows_of_another_array(model):
    wide = np.zeros((2 * len(model.coefs_[0]), 3 * model.coefs_[0].shape[1]))
    wide[::2, ::3] = -model.coefs_[0]
    model.coefs_[0] = wide[::2, ::3]


def make_read_only(model):
    model.coefs_ = [w / 2 for w in model.coefs_]
    for w in model.coefs_:
        w.flags.writeable = False


CHANGES = [
    *[replace_list, replace_entry, change_in_place],
    *[give_rows_of_another_array, make_read_only],
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "single"])
def test_assigned_weights_count_in_predictions(task, change):
    """And in a model that has been copied or pickled in between."""
    ours, theirs, X, y = pair(task, max_iter=3)
    for model in (ours, theirs):
        model.fit(X, y)
    copies = [ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    for model in (*copies, theirs):
        change(model)
    for model in copies:
        for X_ in (X, X[:1]):
            name = "predict_proba" if hasattr(model, "predict_proba") else "predict"
            expected = getattr(theirs, name)(X_)
            np.testing.assert_allclose(getattr(model, name)(X_), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("task", ["multiclass", "single"])
def test_warm_start_goes_on_from_assigned_weights(task, solver, change):
    ours, theirs, X, y = pair(task, max_iter=3, solver=solver, warm_start=True)
    for model in (ours, theirs):
        model.fit(X, y)
        change(model)
        if model is theirs:  # which updates the arrays themselves
            model.coefs_ = [w.copy() for w in model.coefs_]
        model.fit(X, y)
    np.testing.assert_allclose(weights(ours), weights(theirs), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("task", ["multiclass", "single"])
def test_partial_fit_goes_on_from_assigned_weights(task, solver, change):
    """With the optimizer's moments, which have been made for others."""
    ours, theirs, X, y = pair(task, solver=solver)
    for model in (ours, theirs):
        first = first_classes(model, y)
        model.partial_fit(X, y, **first).partial_fit(X, y)
        change(model)
        if model is theirs:  # which updates the arrays themselves
            model.coefs_ = [w.copy() for w in model.coefs_]
        model.partial_fit(X, y).partial_fit(X, y)
    np.testing.assert_allclose(weights(ours), weights(theirs), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("coefs_", lambda model: model.coefs_[:1], r"coefs_.*shapes \[\(5, 6\), \(6, 3\)\]"),
        ("coefs_", lambda model: [w.T for w in model.coefs_], r"got \[\(6, 5\), \(3, 6\)\]"),
        ("coefs_", lambda model: model.intercepts_, r"coefs_.*got \[\(6,\), \(3,\)\]"),
        ("coefs_", lambda model: [np.array("a"), np.array("b")], "coefs_"),
        ("coefs_", lambda model: [w.astype(str) for w in model.coefs_], "coefs_.*numbers"),
        ("coefs_", lambda model: [w * 1j for w in model.coefs_], "coefs_.*numbers"),
        ("intercepts_", lambda model: [b[:, None] for b in model.intercepts_], "intercepts_.*got"),
        ("intercepts_", lambda model: None, "intercepts_.*numbers, got None"),
    ],
)
def test_assigned_weights_that_make_no_sense(name, wrong, says):
    """Where scikit-learn has an error of NumPy's, or broadcasts."""
    model, X, y = small("multiclass", warm_start=True)
    model.fit(X, y)
    setattr(model, name, wrong(model))
    for call in (
        lambda: model.predict(X),
        lambda: model.fit(X, y),
        lambda: model.partial_fit(X, y),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_weights_without_a_fit_are_not_enough():
    model, X, _ = small("single")
    model.coefs_, model.intercepts_ = [np.zeros((5, 1))], [np.zeros(1)]
    with pytest.raises(NotFittedError):
        model.predict(X)
