"""Copies of estimators by pickle, joblib, deepcopy and clone: unfitted, half-trained, fitted.

Run as a program with `PYTHONPATH=.:tests`, it writes the pickles that
`test_pickles_of_old_versions` reads from then on.
"""

import copy
import io
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
from conftest import TASKS, make_task, small, weights
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PICKLES = Path(__file__).parents[1] / "data"
FIRST_CALL = {"binary": ["no", "yes"], "multiclass": [1, 3, 5], "multilabel": [0, 1, 2]}


def by_joblib(model, **options):
    """Write a model to a file in memory, or a given one, and read it."""
    file = options.pop("file", None) or io.BytesIO()
    joblib.dump(model, file)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return joblib.load(file, **options)


COPIES = {
    **{
        f"pickle {protocol}": lambda m, protocol=protocol: pickle.loads(pickle.dumps(m, protocol))
        for protocol in (2, 4, 5)
    },
    "joblib": by_joblib,
    "deepcopy": copy.deepcopy,
}


def begin(task, **parameters):
    """A model after two partial fits."""
    model, X, y = small(task, **parameters)
    first = {"classes": FIRST_CALL[task]} if task in FIRST_CALL else {}
    return model.partial_fit(X, y, **first).partial_fit(X[::2], y[::2]), X, y


def outputs(model, X):
    return getattr(model, "predict_proba", model.predict)(X)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("estimator", ["MLPClassifier", "MLPRegressor"])
def test_unfitted(estimator, how):
    model = getattr(fastbp, estimator)(
        hidden_layer_sizes=[3, 4], activation=("tanh", "relu"), solver="sgd", input_scale=0.5
    )
    copied = COPIES[how](model)
    assert copied.get_params() == model.get_params()
    assert vars(copied).keys() == vars(model).keys()
    with pytest.raises(NotFittedError):
        copied.predict(np.zeros((1, 2)))


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_fitted(task, solver, how):
    model, X, y = small(task, solver=solver, early_stopping=True)
    copied = COPIES[how](model.fit(X, y))
    for name in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(model, name):
            np.testing.assert_array_equal(getattr(copied, name)(X), getattr(model, name)(X))
    for name in dir(model):
        if name.endswith("_") and not name.startswith("_") and hasattr(model, name):
            np.testing.assert_equal(getattr(copied, name), getattr(model, name))
    for each in (model, copied):
        each.set_params(warm_start=True).fit(X, y)
    np.testing.assert_array_equal(weights(copied), weights(model))
    assert copied.validation_scores_ == model.validation_scores_


@pytest.mark.smoke
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", TASKS)
def test_half_trained(task, solver, precision, how):
    model, X, y = begin(
        task, solver=solver, precision=precision, learning_rate="adaptive", n_iter_no_change=1
    )
    model.set_params(random_state=np.random.RandomState(3))
    copied = COPIES[how](model)
    np.testing.assert_array_equal(outputs(copied, X), outputs(model, X))
    for rows in (slice(None, None, 3), slice(1, None, 2), slice(None)):
        for each in (model, copied):
            each.partial_fit(X[rows], y[rows])
        np.testing.assert_array_equal(weights(copied), weights(model))
    assert copied.loss_curve_ == model.loss_curve_
    assert vars(copied).keys() == vars(model).keys()


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_memory_mapped(tmp_path, solver):
    """Weights in read-only files, as joblib hands them to its processes."""
    model, X, y = small("multiclass", solver=solver)
    model.fit(X, y)
    if solver == "adam":
        model.partial_fit(X, y)
    mapped = by_joblib(model, file=tmp_path / "model", mmap_mode="r")
    assert isinstance(mapped.coefs_[0], np.memmap)
    np.testing.assert_array_equal(mapped.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(mapped.to_sklearn().coefs_[0], model.coefs_[0])
    for each in (model, mapped):
        each.partial_fit(X, y) if solver == "adam" else each.set_params(warm_start=True).fit(X, y)
    np.testing.assert_array_equal(weights(mapped), weights(model))


@pytest.mark.parametrize("prepare", ["unfitted", "fitted", "half-trained"])
def test_clones_are_unfitted(prepare):
    model, X, y = begin("multiclass") if prepare == "half-trained" else small("multiclass")
    if prepare == "fitted":
        model.fit(X, y)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert vars(copied).keys() == model.get_params().keys()
    fresh, _, _ = small("multiclass")
    np.testing.assert_array_equal(weights(copied.fit(X, y)), weights(fresh.fit(X, y)))


@pytest.mark.parametrize("how", ["pickle", "joblib"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("parameters", "partial", "limit"),
    [
        ({"solver": "adam"}, False, 3.1),
        ({"solver": "adam", "early_stopping": True}, False, 3.1),
        ({"solver": "sgd"}, False, 2.1),
        ({"solver": "lbfgs"}, False, 1.1),
        ({"solver": "sgd"}, True, 2.1),
        ({"solver": "adam"}, True, 3.1),
    ],
)
def test_size(parameters, partial, limit, precision, how):
    """scikit-learn's pickles are four times the weights."""
    model = fastbp.MLPClassifier((128,), max_iter=1, precision=precision, **parameters)
    X, y = np.random.default_rng(0).random((200, 784)), np.arange(200) % 10
    model.fit(X, y)
    if partial:
        model.partial_fit(X, y)
    file = io.BytesIO()
    (pickle if how == "pickle" else joblib).dump(model, file)
    assert weights(model).itemsize == np.dtype(precision).itemsize
    assert limit - 0.1 < file.tell() / weights(model).nbytes < limit


# ---- pickles of old versions --------------------------------------------------------------------

CASES = {
    "binary": dict(solver="adam", early_stopping=True, precision="float32"),
    "multiclass": dict(solver="sgd", activation=("tanh", "sigmoid"), hidden_layer_sizes=(6, 4)),
    "multilabel": dict(solver="lbfgs", loss="squared_error"),
    "single": dict(solver="lbfgs", input_scale=0.5),
    "multi-output": dict(solver="adam", precision="float32"),
    "poisson": dict(solver="sgd", learning_rate="invscaling"),
}
HALF_TRAINED = ("multiclass", "multi-output", "poisson")


def make_pickles():
    """Models in every state, what they predict, and what becomes of those half trained."""
    kept = {}
    for task, parameters in CASES.items():
        model, X, y = (
            begin(task, **parameters) if task in HALF_TRAINED else small(task, **parameters)
        )
        if task not in HALF_TRAINED:
            model.fit(X, y)
        kept[task] = {"model": copy.deepcopy(model), "X": X, "y": y, "outputs": outputs(model, X)}
        if task in HALF_TRAINED:
            kept[task]["next"] = outputs(model.partial_fit(X, y), X)
    kept["unfitted"] = {"model": make_task("binary", alpha=0.5)[0]}
    return kept


@pytest.mark.parametrize("task", CASES)
@pytest.mark.parametrize("path", sorted(PICKLES.glob("*.pickle")), ids=lambda path: path.stem)
def test_pickles_of_old_versions(path, task):
    """Those of 0.1.0 are from before the parameter `out_activation`."""
    kept = pickle.loads(path.read_bytes())
    assert kept["unfitted"]["model"].alpha == 0.5
    model, X, y = (kept[task][name] for name in ("model", "X", "y"))
    single = model.coefs_[0].dtype == np.float32  # and another CPU may round otherwise
    close = dict(rtol=1e-4, atol=1e-5) if single else dict(rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(outputs(model, X), kept[task]["outputs"], **close)
    assert model.predict(X).shape == y.shape
    if "next" in kept[task]:
        model.partial_fit(X, y)
        np.testing.assert_allclose(outputs(model, X), kept[task]["next"], **close)
    model.set_params(warm_start=True).fit(X, y)
    clone(model).fit(X, y)


def test_this_version_has_left_pickles():
    assert (PICKLES / f"models-{fastbp.__version__}.pickle").exists()


if __name__ == "__main__":
    (PICKLES / f"models-{fastbp.__version__}.pickle").write_bytes(pickle.dumps(make_pickles(), 5))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_pickle_from_before_there_were_more_losses():
    """Its records lack fields, which have their defaults in the class."""
    model, X, y = small("multi-output")
    model.fit(X, y)
    state = model.__getstate__()
    network, record = state["_model"].network, state["_model"]
    older_network, older = object.__new__(type(network)), object.__new__(type(record))
    vars(older_network).update(vars(network))
    del vars(older_network)["loss_coefficients"], vars(older_network)["label_smoothing"]
    vars(older).update(record.__getstate__(), network=older_network)
    del vars(older)["targets"]
    for name in ("huber_delta", "quantile", "scale_targets", "missing_targets"):
        del state[name]
    restored = object.__new__(type(model))
    restored.__setstate__(state | {"_model": older})
    restored = pickle.loads(pickle.dumps(restored))
    assert restored.get_params() == model.get_params()
    assert restored._model.network == network
    np.testing.assert_array_equal(restored.predict(X), model.predict(X))
    np.testing.assert_array_equal(
        weights(restored.partial_fit(X, y)), weights(model.partial_fit(X, y))
    )
