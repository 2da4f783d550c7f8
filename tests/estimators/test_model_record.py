"""What a prediction needs is one record: refits and damaged pickles never mix two."""

import copy
import dataclasses
import pickle
import threading
import warnings

import numpy as np
import pytest
from conftest import TASKS, small, weights
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import fastbp
from fastbp.labels import Labels
from fastbp.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def answers(model, X):
    return np.asarray(getattr(model, "predict_proba", model.predict)(X))


# ---- refits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [2, 900])
@pytest.mark.parametrize("convert", [np.asarray, csr_array])
@pytest.mark.parametrize("task", ["multiclass", "single"])
def test_a_callback_of_a_refit_predicts_with_the_old_model(task, convert, n_features):
    """X was once checked against the new fit's width and computed with the old weights: a crash."""
    model, X, y = small(task)
    expected = answers(model.fit(X, y), convert(X))
    other, seen = np.resize(X, (len(X), n_features)), []

    def callback(report):
        seen.append(answers(model, convert(X)))
        with pytest.raises(ValueError, match=rf"X has {n_features} features, but .* 5 features"):
            model.predict(convert(other))
        assert model.n_features_in_ == 5

    model.set_params(callback=callback).fit(convert(other), y)
    assert len(seen) == 5
    for found in seen:
        np.testing.assert_array_equal(found, expected)
    assert model.n_features_in_ == n_features


def test_a_callback_of_a_refit_sees_the_old_labels():
    """The old network's outputs once got the new fit's labels."""
    model, X, y = small("multiclass")
    expected, seen = model.fit(X, y).predict(X), []
    model.set_params(callback=lambda report: seen.append((model.predict(X), model.classes_)))
    model.fit(X, np.array(["a", "b", "c", "d"]).take(np.arange(len(X)) % 4))
    for found, classes in seen:
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(classes, [1, 3, 5])
    assert model.classes_.tolist() == ["a", "b", "c", "d"]


def test_a_callback_of_a_refit_sees_the_old_input_scale():
    model, X, y = small("single", input_scale=0.5)
    expected, seen = model.fit(X, y).predict(X), []
    model.set_params(input_scale=2.0, callback=lambda report: seen.append(model.predict(X)))
    model.fit(X, y)
    np.testing.assert_array_equal(seen, [expected] * 5)
    assert (model.predict(X) != expected).any()


def test_threads_that_predict_during_refits_see_whole_models():
    """They once saw a width, labels and weights of different fits, and outside of X."""
    rng = np.random.RandomState(0)
    data = [
        (rng.randn(40, 3), np.arange(40) % 2),
        (rng.randn(40, 70), np.array(list("abcd")).take(np.arange(40) % 4)),
    ]
    model = fastbp.MLPClassifier((5,), max_iter=1, random_state=0)
    expected = [clone(model).fit(X, y).predict(X[:9]) for X, y in data]
    model.fit(*data[0])
    ended, wrong = threading.Event(), []

    def predict():
        while not ended.is_set():
            for (X, _), right in zip(data, expected, strict=True):
                try:
                    found = model.predict(X[:9])
                except ValueError as error:
                    if "features" not in str(error):
                        wrong.append(error)
                else:
                    if not np.array_equal(found, right):
                        wrong.append(found)

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        X, y = data[turn % 2]
        model.fit(X, y)
        with pytest.raises(ValueError, match="y has labels"):  # emptied the estimator for a moment
            model.partial_fit(X, np.full(len(X), y.dtype.type(7)))
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- attributes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [3, 100_000])
def test_the_number_of_features_is_the_first_layers(n_features):
    """An assigned one once decided how far kernels read."""
    model, X, y = small("multiclass")
    model.fit(X, y)
    with pytest.raises(ValueError, match=rf"n_features_in_ must be 5.*got {n_features}"):
        model.n_features_in_ = n_features
    model.n_features_in_ = 5
    with pytest.raises(ValueError, match="expecting 5 features"):
        model.predict(X[:, :3])


@pytest.mark.parametrize("name", ["n_layers_", "n_outputs_", "out_activation_"])
def test_what_follows_from_the_weights_cannot_be_assigned(name):
    model, X, y = small("single")
    value = getattr(model.fit(X, y), name)
    with pytest.raises(AttributeError, match=name):
        setattr(model, name, value)


def test_feature_names_can_be_assigned():
    model, X, y = small("single")
    model.fit(X, y)
    for wrong in (list("abcd"), [1, 2, 3, 4, 5], "abcde"):
        with pytest.raises(ValueError, match="feature_names_in_ must be"):
            model.feature_names_in_ = wrong
    model.feature_names_in_ = list("abcde")
    assert model.feature_names_in_.tolist() == list("abcde")
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)


@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_classes_cannot_change_in_place(loss):
    """Reversed in place they once led to wrong targets, and outside of the targets' array."""
    model, X, y = small("multiclass", loss=loss)
    model.fit(X, y)
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match="read-only"):
            each.classes_[:] = each.classes_[::-1].copy()


def test_classes_can_be_renamed():
    model, X, y = small("multiclass")
    before = model.fit(X, y).predict(X)
    model.classes_ = np.array(["z", "y", "x"])
    names = np.array(["z", "y", "x"])[(before - 1) // 2]
    np.testing.assert_array_equal(model.predict(X), names)
    expected = small("multiclass")[0].fit(X, y).partial_fit(X, y)
    renamed = np.array(["z", "y", "x"])[(y - 1) // 2]
    model.partial_fit(X, renamed, classes=["x", "y", "z"])
    np.testing.assert_array_equal(weights(model), weights(expected))
    model.set_params(warm_start=True).fit(X, renamed)
    for wrong, says in (
        (["a", "b"], "must have 3 labels"),
        (list("aab"), "must be different"),
        ([["a"], ["b"], ["c"]], "must be an array of labels"),
    ):
        with pytest.raises(ValueError, match=says):
            model.classes_ = wrong
    with pytest.raises(ValueError, match="y has labels"):
        model.partial_fit(X, y)


# ---- states -------------------------------------------------------------------------------------


def forge(model, **changes):
    """A state as a damaged pickle might hold it."""
    state = model.__getstate__()
    record = state["_model"]
    for name, value in changes.items():
        where, _, attribute = name.partition("__")
        if where == "network":
            record = dataclasses.replace(
                record, network=dataclasses.replace(record.network, **{attribute: value})
            )
        elif where == "labels":
            record = dataclasses.replace(
                record, labels=dataclasses.replace(record.labels, **{attribute: value})
            )
        elif where == "model":
            record = dataclasses.replace(record, **{attribute: value})
        elif where == "optimizer":
            state["_optimizer"] = copy.deepcopy(state["_optimizer"])
            setattr(state["_optimizer"], attribute, value)
        else:
            state[attribute or where] = value
    state["_model"] = record
    return state


FORGED = {
    "far wider input": dict(network__layer_sizes=(500_000, 6, 3)),
    "zero units": dict(network__layer_sizes=(5, 0, 3)),
    "negative units": dict(network__layer_sizes=(5, -6, 3)),
    "no layers": dict(network__layer_sizes=(5,)),
    "sizes are floats": dict(network__layer_sizes=(5.0, 6.0, 3.0)),
    "sizes are a list": dict(network__layer_sizes=[5, 6, 3]),
    "huge": dict(network__layer_sizes=(5, 2**40, 3)),
    "unknown activation": dict(network__hidden_activations=("swish",)),
    "too many activations": dict(network__hidden_activations=("relu", "relu")),
    "unknown output": dict(network__output_activation="step"),
    "unknown loss": dict(network__loss="hinge"),
    "loss without outputs": dict(network__output_activation="exp"),
    "no network": dict(model__network=None),
    "no weights": dict(model__coefs=None),
    "other shapes": dict(model__coefs=[np.ones((5, 6)), np.ones((6, 4))]),
    "text as weights": dict(model__coefs=["a", "b"]),
    "no labels": dict(model__labels=None),
    "labels of another kind": dict(labels__kind="binary"),
    "unknown labels": dict(labels__kind="ordinal"),
    "too few classes": dict(labels__classes=np.arange(2)),
    "classes are a list": dict(labels__classes=[1, 3, 5]),
    "too few names": dict(model__feature_names=np.array(list("abc"), object)),
    "scale of zero": dict(model__input_scale=0.0),
    "scale is text": dict(model__input_scale="1"),
    "model is a dict": dict(_model={}),
    "short moments": dict(optimizer__moments=[np.zeros(3), np.zeros(3)]),
    "too few moments": dict(optimizer__moments=[]),
    "moments are objects": dict(optimizer__moments=[np.zeros(57, object)] * 2),
    "negative step": dict(optimizer__step=-1),
    "step is text": dict(optimizer__step="x"),
    "rate is NaN": dict(optimizer__learning_rate=np.nan),
    "unknown rule": dict(optimizer__solver="sag"),
    "optimizer is a dict": dict(_optimizer={}),
    "rows seen are text": dict(t_="x"),
    "negative count": dict(_no_improvement_count=-2),
    "curve is a number": dict(loss_curve_=3.0),
    "best loss is text": dict(best_loss_="low"),
    "no random state": dict(_holdout_state=("MT19937", 3)),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_damaged_state_is_refused(case):
    """Layer sizes of a forged pickle once decided how far kernels read."""
    model, X, y = small("multiclass")
    model.fit(X, y)
    state = model.__getstate__()
    if case == "model is a dict":
        state["_model"] = {}
    else:
        state = forge(model, **FORGED[case])
    fresh = clone(model)
    with pytest.raises(ValueError, match=r"state of MLPClassifier, written by .* is damaged"):
        fresh.__setstate__(state)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


def test_a_state_without_damage_is_taken():
    model, X, y = small("multiclass")
    fresh = clone(model.fit(X, y))
    fresh.__setstate__(forge(model))
    np.testing.assert_array_equal(fresh.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("version", [3, 99, 0, "2", None])
def test_a_state_of_another_version_says_so(version):
    model, X, y = small("single")
    state = model.fit(X, y).__getstate__() | {"_state_version": version, "_fastbp_version": "7.0"}
    with pytest.raises(ValueError, match=f"by fastbp 7.0 in state version {version!r}; fastbp"):
        clone(model).__setstate__(state)


def test_a_state_of_another_library_says_so():
    model, X, y = small("multiclass")
    theirs = model.fit(X, y).to_sklearn().__getstate__()
    with pytest.raises(ValueError, match="from_sklearn"):
        clone(model).__setstate__(theirs)
    for state in ([], None, {1: 2}):
        with pytest.raises(ValueError, match="damaged"):
            clone(model).__setstate__(state)
    regressor = small("single")[0].fit(*TASKS["single"][2:])
    with pytest.raises(ValueError, match="MLPClassifier cannot have the labels None"):
        clone(model).__setstate__(regressor.__getstate__())


@pytest.mark.parametrize(
    ("name", "value"),
    [("t_", "x"), ("loss_curve_", 3), ("_no_improvement_count", -1), ("_optimizer", {})],
)
def test_attributes_that_make_no_sense_stop_training(name, value):
    model, X, y = small("multiclass")
    setattr(model.fit(X, y), name, value)
    before = weights(model)
    with pytest.raises(ValueError, match="optimizer" if name == "_optimizer" else name):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(weights(model), before)


def test_a_network_changed_in_place_is_not_run():
    model, X, y = small("multiclass")
    model.fit(X, y)
    object.__setattr__(model._model.network, "layer_sizes", (500_000, 6, 3))
    for rows in (X, np.zeros((2, 500_000))):
        with pytest.raises(ValueError, match="coefs_ must be arrays of the shapes"):
            model.predict(rows)


def test_a_record_changed_by_force_is_not_used():
    """Other labels once gave probabilities that do not sum to 1, and errors of NumPy's."""
    for wrong, says in (
        ({"labels": None}, "classifier|labels"),
        ({"network": None}, "network must be"),
        ({"feature_names": ["a"]}, "feature_names_in_ must be"),
        ({"input_scale": -1.0}, "input_scale must be"),
    ):
        model, X, y = small("multiclass")
        model.fit(X, y).predict(X)
        vars(model)["_model"] = dataclasses.replace(model._model, **wrong)
        if "labels" in wrong:
            vars(model)["_model"] = dataclasses.replace(
                model._model, labels=Labels("binary", np.array([1, 3]))
            )
        for name, given in (("predict", (X,)), ("predict_proba", (X,)), ("partial_fit", (X, y))):
            with pytest.raises(ValueError, match=says):
                getattr(model, name)(*given)
    vars(model)["_model"] = {}
    with pytest.raises(ValueError, match="is damaged"):
        model.predict(X)


def _exchange(model, index, change):
    model.coefs_[index] = change(model.coefs_[index])


WEIGHT_CHANGES = {
    "a number": lambda model: model.coefs_[0].__setitem__((0, 0), 3.0),
    "an array": lambda model: _exchange(model, 0, lambda array: array[::-1].copy()),
    "a view of another": lambda model: _exchange(model, 0, lambda array: array[::-1]),
    "float32": lambda model: _exchange(model, 1, lambda array: array.astype(np.float32)),
    "the intercepts": lambda model: model.intercepts_.__setitem__(0, np.ones(4)),
    "strides": lambda model: setattr(model.coefs_[1], "strides", model.coefs_[1].strides[::-1]),
}


@pytest.mark.filterwarnings("ignore:Setting the strides:DeprecationWarning")
@pytest.mark.parametrize("change", WEIGHT_CHANGES)
def test_weights_that_change_after_a_prediction_count(change):
    """Where the vector behind the weights is remembered, it must still be the one behind them."""
    model, X, y = small("multiclass")
    # Strides of a square matrix, so that the shape stays.
    units = 3 if change == "strides" else 4
    model.set_params(hidden_layer_sizes=(units,)).fit(X, y)
    before = answers(model, X)
    WEIGHT_CHANGES[change](model)
    fresh = small("multiclass")[0].set_params(hidden_layer_sizes=model.hidden_layer_sizes)
    fresh.fit(X, y)
    fresh.coefs_ = [np.array(array) for array in model.coefs_]
    fresh.intercepts_ = [np.array(array) for array in model.intercepts_]
    found = answers(model, X)
    np.testing.assert_array_equal(found, answers(fresh, X))
    if change != "float32":
        assert not np.array_equal(found, before)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize("shape", [(2, 10), (4, 5)])
def test_weights_of_another_shape_after_a_prediction_are_refused(shape):
    model, X, y = small("multiclass")
    model.set_params(hidden_layer_sizes=(4,)).fit(X, y).predict(X)
    assert model.coefs_[0].shape == (5, 4)
    model.coefs_[0].shape = shape
    with pytest.raises(ValueError, match=r"coefs_ must be arrays of the shapes"):
        model.predict(X)


def test_networks_say_what_is_wrong():
    good = Network((2, 3, 1), ("relu",), "identity", "squared_error")
    good.check()
    for name, value in (("average_outputs", 1), ("loss", 3), ("hidden_activations", "relu")):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(good, **{name: value}).check()


def test_labels_say_what_is_wrong():
    network = Network((2, 1), (), "logistic", "log_loss")
    Labels("binary", np.array(["a", "b"])).check(network)
    with pytest.raises(ValueError, match="sparse"):
        Labels("binary", np.array(["a", "b"]), "no").check(network)
    with pytest.raises(ValueError, match="classes_ must be finite numbers or other labels"):
        Labels("binary", np.array([-np.inf, 1.0])).check(network)
    with pytest.raises(ValueError, match="outputs of softmax or logistic"):
        Labels("multiclass", np.arange(3)).check(Network((2, 3), (), "identity", "squared_error"))


# ---- callbacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("value", [True, 7, "text", np.ones(3), [0]])
def test_what_a_callback_returns_does_not_count(value, solver):
    """tqdm's `update` returns True now and then, and once ended training without a word."""
    expected, X, y = small("single", solver=solver)
    expected.fit(X, y)
    model = clone(expected).set_params(callback=lambda report: value).fit(X, y)
    assert model.n_iter_ == expected.n_iter_ > 1
    np.testing.assert_array_equal(weights(model), weights(expected))


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, SystemExit, StopIteration])
@pytest.mark.parametrize("how", ["first fit", "refit", "partial_fit"])
def test_an_error_in_a_callback_changes_nothing(how, error, solver, early_stopping):
    model, X, y = small("single", solver=solver, early_stopping=early_stopping)
    if how == "partial_fit" and (solver == "lbfgs" or early_stopping):
        pytest.skip("there is none")
    if how != "first fit":
        model.fit(X, y)

    def callback(report):
        if report.n_iter == (1 if how == "partial_fit" else 2):
            raise error("mine")

    model.set_params(callback=callback)
    before = pickle.dumps(vars(copy.deepcopy(model)) | {"callback": None})
    expected = RuntimeError if error is StopIteration else error
    with pytest.raises(expected, match="mine" if error is not StopIteration else r"stop\(\)"):
        model.partial_fit(X, y) if how == "partial_fit" else model.fit(X, y)
    assert pickle.dumps(vars(copy.deepcopy(model)) | {"callback": None}) == before


class Collector:
    """A callback that can be pickled, and refers to its model."""

    def __init__(self):
        self.losses, self.model = [], None

    def __call__(self, report):
        self.losses.append(report.loss)


def test_a_callback_that_cannot_be_pickled_stays_behind(tmp_path):
    """The pickle once failed, and joblib left a file of two bytes."""
    model, X, y = small("single")
    with open(tmp_path / "log", "w") as log:
        for callback in (lambda report: None, log.write, lambda report: log.write("x")):
            model.set_params(callback=None).fit(X, y).set_params(callback=callback)
            with pytest.warns(UserWarning, match="callback=.* cannot be pickled .*callback=None"):
                loaded = pickle.loads(pickle.dumps(model))
            assert loaded.callback is None
            np.testing.assert_array_equal(weights(loaded), weights(model))
            assert copy.copy(model).callback is callback
            assert copy.deepcopy(model).callback is callback
            assert clone(model).callback is callback
            assert model.callback is callback


def test_a_callback_that_can_be_pickled_comes_along():
    collector = Collector()
    model, X, y = small("single", callback=collector)
    collector.model = model.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = pickle.loads(pickle.dumps(model))
    assert loaded.callback.losses == model.loss_curve_
    assert loaded.callback.model is loaded


def test_random_generators_are_still_cloned():
    """As scikit-learn's clone does with all parameters but the callback."""
    model = fastbp.MLPRegressor(random_state=np.random.RandomState(0), callback=print)
    copied = clone(model)
    assert copied.random_state is not model.random_state
    assert copied.callback is print


def test_a_learning_rate_function_that_was_replaced_is_not_pickled():
    """The optimizer kept it, and the pickle failed."""
    model, X, y = small("single", learning_rate=lambda progress: 1 - progress)
    model.fit(X, y).set_params(learning_rate="constant")
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        weights(loaded.partial_fit(X, y)), weights(model.partial_fit(X, y))
    )


def test_a_parameter_that_is_missing_is_named():
    model, X, y = small("single")
    del model.fit(X, y).alpha
    with pytest.raises(AttributeError, match="alpha"):
        model.partial_fit(X, y)


class Narrow(fastbp.MLPRegressor):
    """A subclass with a single parameter."""

    def __init__(self, width=3):
        self.width = width
        super().__init__(hidden_layer_sizes=(width,), max_iter=2, random_state=0)


def test_subclasses_may_have_fewer_parameters():
    _, X, y = small("single")
    model = Narrow(4).fit(X, y)
    copied = clone(model)
    assert copied.get_params() == {"width": 4}
    np.testing.assert_array_equal(weights(copied.fit(X, y)), weights(model))
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        weights(loaded.partial_fit(X, y)), weights(copied.partial_fit(X, y))
    )
