"""`save` and `load`: the same bits and the same training, or an error that says why not."""

import json
import os
import pickle
import warnings

import joblib
import numpy as np
import pytest
import safetensors.numpy
import skops.io
from conftest import TASKS, make_task, pair, small, weights
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp
from fastbp import container
from fastbp.saving import VERSION

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fastbp"


def outputs(model, X):
    return (model.predict_proba if hasattr(model, "predict_proba") else model.predict)(X)


def copied(model, path, **options):
    """A model saved and loaded, without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(path, **options)
        return fastbp.load(path)


def assert_same(found, expected, X):
    assert type(found) is type(expected)
    np.testing.assert_array_equal(outputs(found, X), outputs(expected, X), strict=True)
    np.testing.assert_array_equal(found.predict(X), expected.predict(X), strict=True)
    ours, theirs = found.get_params(), expected.get_params()
    if isinstance(theirs["random_state"], np.random.RandomState):
        ours, theirs = ({**each, "random_state": None} for each in (ours, theirs))
    assert repr(ours) == repr(theirs)


def assert_same_state(found, expected):
    """Everything that a fit leaves."""
    names = {*vars(expected)} - {"_model", "_optimizer", "random_state"}
    assert {*vars(found)} - {"_model", "_optimizer", "random_state"} == names
    for name in names:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if name == "_holdout_state" and theirs is not None:
            ours, theirs = [[state[0], state[1].tolist(), *state[2:]] for state in (ours, theirs)]
        assert ours == theirs or repr(ours) == repr(theirs), name
    assert weights(found).tobytes() == weights(expected).tobytes()
    ours, theirs = found._optimizer, expected._optimizer
    assert (ours is None) == (theirs is None)
    if theirs is not None:
        for name in ("solver", "learning_rate_init", "learning_rate", "step", "epochs"):
            assert getattr(ours, name) == getattr(theirs, name), name
        for one, other in zip(ours.moments, theirs.moments, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)


# ---- the same model ---------------------------------------------------------------------------

SETTINGS = {
    "adam": {},
    "sgd": dict(solver="sgd", learning_rate="adaptive", n_iter_no_change=1),
    "adamw": dict(solver="adamw", precision="float32", learning_rate="invscaling"),
    "early stopping": dict(early_stopping=True, validation_fraction=0.3),
    "lbfgs": dict(solver="lbfgs"),
    "two layers": dict(hidden_layer_sizes=[5, 4], activation=("tanh", "sigmoid"), input_scale=0.5),
    "no layer": dict(hidden_layer_sizes=(), n_iter_no_change=np.inf, n_threads=2),
    "a generator": dict(random_state=np.random.RandomState(3)),
    "NumPy's scalars": dict(alpha=np.float32(0.1), max_iter=np.int64(4), shuffle=np.bool_(False)),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("task", TASKS)
def test_round_trip(task, kind, path):
    model, X, y = small(task, **SETTINGS[kind])
    model.fit(X, y)
    loaded = copied(model, path)
    if kind != "NumPy's scalars":
        assert_same(loaded, model, X)
    assert_same_state(loaded, model)
    for each in (model, loaded):
        if model.solver == "lbfgs" or model.early_stopping:
            each.set_params(warm_start=True).fit(X, y)
        else:
            each.partial_fit(X[::2], y[::2]).partial_fit(X, y)
    assert_same_state(loaded, model)
    assert_same_state(copied(loaded, path), model)


@pytest.mark.smoke
def test_partial_fit_goes_on_to_the_bit(path):
    model, X, y = small("multiclass")
    model.partial_fit(X, y, classes=[1, 3, 5])
    loaded = copied(model, path)
    for _ in range(3):
        assert_same(loaded.partial_fit(X, y), model.partial_fit(X, y), X)


def test_without_the_optimizer(path):
    model, X, y = small("multiclass", hidden_layer_sizes=(200,))
    model.fit(X, y)
    model.save(path)
    whole = path.stat().st_size
    loaded = copied(model, path, optimizer=False)
    assert_same(loaded, model, X)
    assert loaded._optimizer is None
    n_bytes = weights(model).nbytes
    assert whole > 3 * n_bytes > 2 * path.stat().st_size
    assert path.stat().st_size < n_bytes + 6000
    loaded.partial_fit(X, y)


def test_weights_are_stored_once_and_for_everybody(path):
    model, X, y = small("multiclass", precision="float32")
    model.fit(X, y).save(path, optimizer=False)
    arrays = safetensors.numpy.load_file(path)
    names = {"coefs.0", "coefs.1", "intercepts.0", "intercepts.1"}
    assert {*arrays} == names | {"loss_curve", "classes"}
    for layer in (0, 1):
        np.testing.assert_array_equal(arrays[f"coefs.{layer}"], model.coefs_[layer], strict=True)
    header = path.read_bytes()
    header = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    described = json.loads(header["__metadata__"]["fastbp"])
    assert described["network"]["layer_sizes"] == [5, 6, 3]


def test_feature_names(path):
    pd = pytest.importorskip("pandas")
    model, X, y = small("binary")
    X = pd.DataFrame(X, columns=["a", "ü", "", "\U0001f4cf", 'with "quotes"'])
    model.fit(X, y)
    loaded = copied(model, path)
    np.testing.assert_array_equal(loaded.feature_names_in_, model.feature_names_in_, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(loaded, model, X)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(X.rename(columns={"a": "b"}))


def test_assigned_weights(path):
    """The arrays may be of any layout and type; what counts is what predictions use."""
    model, X, y = small("multiclass")
    model.fit(X, y)
    model.coefs_ = [np.asfortranarray(model.coefs_[0].astype(np.float32)), model.coefs_[1] * 2]
    model.intercepts_[1] = [1, 2, 3]
    assert_same(copied(model, path), model, X)


def test_loaded_models_are_like_others(path):
    model, X, y = small("multiclass", random_state=np.random.RandomState(0))
    loaded = copied(model.fit(X, y), path)
    assert_same(pickle.loads(pickle.dumps(loaded)), model, X)
    assert loaded.coefs_[0].flags.writeable
    np.testing.assert_allclose(loaded.to_sklearn().predict_proba(X), model.predict_proba(X))
    fitted = clone(loaded).fit(X, y)
    assert fitted.predict(X).shape == (90,)


def test_sparse_indicators(path):
    model, X, y = small("multilabel")
    model.fit(X, csr_array(y))
    loaded = copied(model, path)
    found, expected = loaded.predict(X), model.predict(X)
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())


# ---- labels -----------------------------------------------------------------------------------

CLASSES = {
    "str": np.array(["no", "yes", "Größe \U0001f4cf"]),
    "one empty": np.array(["", "a", "b"]),
    "bytes": np.array([b"a\xff", b"bc", b""]),
    "bool": np.array([False, True]),
    **{code: np.array([0, 1, 100], code) for code in "bBhHiIqQefd"},
    "extremes": np.array([-(2**63), 0, 2**63 - 1]),
    "unsigned": np.array([0, 1, 2**64 - 1], np.uint64),
    "floats": np.array([-1.5, 0.1, 1e300]),
    "objects": np.array(["a", "b", "c"], object),
    "whole numbers of any size": np.array([1, 2**70, -(2**64)], object),
    "mixed": np.array(["a", 1, b"c"], object),
    "big-endian": np.array([1, 2, 3], ">i4"),
    "wide floats": np.array([1, 2, 3], np.longdouble) / 3,
    "days": np.array(["2026-01-01", "2026-01-02", "1969-07-20"], "M8[D]"),
    "big-endian hours": np.array([1, 2, 3], ">m8[h]"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_labels_of_every_kind(kind, path):
    """They come from y, or the user renames them."""
    classes = CLASSES[kind]
    model, X, y = small("binary" if len(classes) == 2 else "multiclass")
    model.fit(X, y).classes_ = classes
    loaded = copied(model, path)
    found = loaded.classes_
    np.testing.assert_array_equal(found, classes)
    assert found.dtype == classes.dtype
    assert [*map(type, found.tolist())] == [*map(type, classes.tolist())]
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X), strict=True)


@pytest.mark.parametrize("kind", ["str", "bytes", "bool", "b", "Q", "d", "objects", "days"])
def test_training_goes_on_with_such_labels(kind, path):
    X, y = small("multiclass")[1:]
    y = CLASSES[kind][np.arange(len(y)) % len(CLASSES[kind])]
    model = fastbp.MLPClassifier((3,), max_iter=2, random_state=0).fit(X, y)
    loaded = copied(model, path)
    assert_same(loaded, model, X)
    np.testing.assert_array_equal(loaded.classes_, model.classes_, strict=True)
    assert_same(loaded.partial_fit(X, y), model.partial_fit(X, y), X)


@pytest.mark.parametrize("classes", [np.array([1j, 2, 3]), np.array([1, 2, print], object)])
def test_labels_that_cannot_be_saved(classes, path):
    model, X, y = small("multiclass")
    model.fit(X, y)
    model.classes_ = classes
    with pytest.raises(ValueError, match=r"classes_: .* cannot be stored"):
        model.save(path)
    assert not path.exists()


# ---- parameters -------------------------------------------------------------------------------


def test_a_generator_goes_on(path):
    model, X, y = small("multiclass", random_state=np.random.RandomState(3))
    loaded = copied(model.fit(X, y), path)
    assert loaded.random_state.randint(2**31, size=9).tolist() == (
        model.random_state.randint(2**31, size=9).tolist()
    )
    other = np.random.RandomState(np.random.PCG64(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's, about a state of an older kind
        with pytest.raises(ValueError, match=r"random_state cannot be saved.* got PCG64"):
            model.set_params(random_state=other).save(path)


def test_a_callback_stays_behind(path):
    model, X, y = small("multiclass", callback=print)
    model.fit(X, y).note = "mine"
    with pytest.warns(UserWarning, match=r"Not saved with the model: callback=<built-in.*>, note"):
        model.save(path)
    loaded = fastbp.load(path)
    assert loaded.callback is None
    assert_same(loaded, model.set_params(callback=None), X)


def test_a_file_does_not_choose_what_a_fit_overwrites(path, tmp_path):
    """A checkpoint's path from elsewhere might be that of any file of the user's."""
    model, X, y = small("multiclass", checkpoint=tmp_path / "state")
    model.fit(X, y).save(path)
    with pytest.warns(UserWarning, match=r"checkpoint=None, not .*state"):
        loaded = fastbp.load(path)
    assert loaded.checkpoint is None
    assert_same(loaded, model.set_params(checkpoint=None), X)


def halve(progress):
    return 1 - progress / 2


def test_a_learning_rate_function_is_refused(path):
    """Without it the loaded model would train otherwise silently."""
    model, X, y = small("multiclass", learning_rate=halve)
    with pytest.raises(ValueError, match=r"learning_rate=.*halve.* cannot be saved"):
        model.fit(X, y).save(path)
    loaded = copied(model.set_params(learning_rate="constant"), path)
    loaded.set_params(learning_rate=halve).partial_fit(X, y)
    model.set_params(learning_rate=halve).partial_fit(X, y)
    np.testing.assert_array_equal(weights(loaded), weights(model))


# ---- what cannot be saved -----------------------------------------------------------------------


class Subclass(fastbp.MLPClassifier):
    pass


def test_what_is_not_saved(path):
    X, y = small("multiclass")[1:]
    with pytest.raises(NotFittedError):
        fastbp.MLPClassifier().save(path)
    with pytest.raises(TypeError, match="a Subclass may hold more"):
        Subclass(max_iter=1).fit(X, y).save(path)
    impostor = type("MLPClassifier", (fastbp.MLPClassifier,), {})
    with pytest.raises(TypeError, match="may hold more"):
        impostor(max_iter=1).fit(X, y).save(path)
    model = fastbp.MLPClassifier(max_iter=1).fit(X, y)
    for parameter, value in {"alpha": -1, "hidden_layer_sizes": [[1]], "n_threads": 0}.items():
        with pytest.raises(ValueError, match=parameter):
            clone(model).fit(X, y).set_params(**{parameter: value}).save(path)
    assert not path.exists()


def test_attributes_that_are_missing(path):
    model, X, y = small("single")
    del model.fit(X, y).t_
    with pytest.raises(ValueError, match="without its attribute t_"):
        model.save(path)
    assert not path.exists()


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
@pytest.mark.parametrize("task", TASKS)
def test_models_of_scikit_learn(task, solver, path):
    """Those of 'lbfgs' lack some attributes."""
    _, theirs, X, y = pair(task, solver=solver)
    model = getattr(fastbp, type(theirs).__name__).from_sklearn(theirs.fit(X, y))
    loaded = copied(model, path)
    assert_same(loaded, model, X)
    assert weights(loaded).tobytes() == weights(model).tobytes()
    for name in ("loss_curve_", "validation_scores_", "best_loss_", "t_"):
        assert getattr(loaded, name, "none") == getattr(model, name, "none")


def test_errors_of_the_system(path, tmp_path):
    model, X, y = small("single")
    model.fit(X, y)
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "missing" / "file")
    for use in (model.save, fastbp.load):
        with pytest.raises(IsADirectoryError):
            use(tmp_path)
        with pytest.raises(ValueError, match="must be a regular file, but is a device"):
            use(os.devnull)
    with pytest.raises(FileNotFoundError):
        fastbp.load(path)


# ---- what is not loaded -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Arrays and description of a model with everything that a file can have."""
    path = tmp_path_factory.mktemp("saved") / "model"
    settings = dict(early_stopping=True, random_state=np.random.RandomState(0))
    model, X, y = small("multiclass", **settings)
    model.fit(X, y).save(path)
    return container.read(path)


def changed(description, *names, value):
    """A copy of nested dicts with one value changed, or left out."""
    if not names:
        return value
    copy = dict(description)
    if len(names) == 1 and value is ...:
        del copy[names[0]]
    else:
        copy[names[0]] = changed(copy.get(names[0]), *names[1:], value=value)
    return copy


FORGED = {
    ("format",): ["another", None, 1, "fastbp checkpoint", "fastbp"],
    ("version",): [0, VERSION + 1, 1.0, True, "1", None],
    ("fastbp",): [None, 1],
    ("class",): ["Pipeline", "os.system", None, ["MLPClassifier"], "MLPRegressor"],
    ("more",): [1],
    ("parameters",): [None, [], {"more": 1}, {"callback": None}],
    ("parameters", "alpha"): [-1, "x", None, [1], {"float": "nan"}, {"float": "x"}, {"x": 1}, {}],
    ("parameters", "checkpoint"): [1, ["x"], {"x": 1}],
    ("parameters", "hidden_layer_sizes"): ["x", [0], {"tuple": [1.5]}, {"tuple": "x"}, [[1], [2]]],
    ("parameters", "activation"): ["softmax", ["relu"] * 3, [["relu"]], 1, {"bytes": "relu"}],
    ("parameters", "learning_rate"): ["fast", {"function": "f"}, {}],
    ("parameters", "random_state"): [-1, "x", {"generator": 1}, {"generator": {}}],
    ("parameters", "random_state", "generator", "position"): [-1, 625, 10**6, 1.0, True, None],
    ("parameters", "random_state", "generator", "has_gauss"): [2, -1, "x"],
    ("parameters", "random_state", "generator", "cached_gaussian"): ["x", None, 10**400],
    ("parameters", "n_threads"): [0, "x", 1.5],
    ("parameters", "device"): ["tpu", 1],
    ("network",): [None, [], {}],
    ("network", "layer_sizes"): [
        [5, 6], [5, 6, 4], [6, 6, 3], [5, 6.0, 3], [5, True, 3], [], [5], "563", [5, -6, 3],
        [2**31, 6, 3], [10**30, 6, 3], [0, 6, 3], [5, 6, 3, 3], {"tuple": [5, 6, 3]},
    ],
    ("network", "hidden_activations"): [
        [], ["step"], ["relu", "relu"], "relu", [1], [["relu"]], None,
    ],
    ("network", "output_activation"): ["identity", "step", None, [1]],
    ("network", "loss"): ["squared_error", "poisson", "x", None, {"x": 1}],
    ("network", "average_outputs"): [True, 0, None, ...],
    ("network", "more"): [1],
    ("input_scale",): [0, 1, -1.0, "x", None, {"float": "inf"}, {"float": "nan"}],
    ("labels",): [None, [], {}, "x"],
    ("labels", "kind"): ["binary", "multilabel", "x", None, [1]],
    ("labels", "sparse"): [1, None, "x"],
    ("labels", "classes"): [
        {"dtype": dtype} for dtype in ("<i4", "<f8", "<U1", "O", "M8[s]", "V8", "x", None, [1])
    ] + [
        {"dtype": "<i8", "values": values}
        for values in ([], [1, 3], [1, 1, 3], [1, 3, 5, 7], [1, 3, 5.0], [1, 3, "5"], [1, 3, True],
        [1, 3, None], [1, 3, 2**63], [1, 3, {"float": "nan"}], [[1], [3], [5]], "135", None)
    ] + [[1, 3, 5], None, 1, {}],
    ("feature_names",): [[], ["a"] * 4, [1] * 5, "abcde", [["a"]] * 5, {}, [None] * 5],
    ("progress",): [None, [], {"more": 1}],
    ("progress", "loss_curve"): [1, [1.0], "x"],
    ("progress", "n_samples_seen"): [..., -1, 1.5, "x", None, True, 10**30],
    ("progress", "n_iter"): [..., -1, 1.5, "x", None, True],
    ("progress", "no_improvement_count"): [-1, 1.5, "x", None, True],
    ("progress", "loss"): [..., "x", [1], True, {"float": "x"}],
    ("progress", "best_loss"): ["x", [1], True],
    ("progress", "best_validation_score"): ["x", [1], True],
    ("holdout",): [1, "x", [1], None, {}],
    ("holdout", "position"): [-1, 625, 2**31, 1.0],
    ("optimizer",): [{}, [], "x", None],
    ("optimizer", "solver"): ["x", "sgd", "lbfgs", None, 1],
    ("optimizer", "step"): [-1, 1.5, "x", None],
    ("optimizer", "epochs"): [-1, 1.5, "x", None],
    ("optimizer", "learning_rate"): [-1, "x", None, {"float": "inf"}, {"float": "nan"}],
    ("optimizer", "learning_rate_init"): [0, -1, "x", None, [1]],
    ("optimizer", "more"): [1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "value"),
    [(names, value) for names, values in FORGED.items() for value in values],
    ids=lambda each: repr(each)[:40],
)
def test_forged_descriptions(names, value, saved, path):
    """Each is whole and has the right digest: somebody meant it."""
    arrays, description = saved
    container.write(path, arrays, changed(description, *names, value=value))
    with pytest.raises(ValueError, match=r"model\.fastbp") as caught:
        fastbp.load(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name", ["format", "version", "network", "labels", "progress", "optimizer"]
)
def test_missing_fields(name, saved, path):
    arrays, description = saved
    container.write(path, arrays, changed(description, name, value=...))
    with pytest.raises(ValueError, match=r"no model of fastbp|of the format|has no"):
        fastbp.load(path)


def test_files_of_newer_versions(saved, path):
    arrays, description = saved
    newer = {"version": VERSION + 1, "fastbp": "9.1", "more": 1}
    container.write(path, arrays, description | newer)
    with pytest.raises(ValueError, match=rf"'9.1' in version {VERSION + 1} of the format.* Update"):
        fastbp.load(path)


@pytest.mark.parametrize(
    "name", ["coefs.0", "intercepts.1", "moments.1", "random_state", "holdout"]
)
def test_forged_arrays(name, saved, path):
    arrays, description = saved
    array = arrays[name]
    forged = [array[:-1], array[None], array.astype(np.int16), array.astype(np.int64), array[:0]]
    for each in forged:
        container.write(path, arrays | {name: each}, description)
        with pytest.raises(ValueError, match=r"model\.fastbp"):
            fastbp.load(path)
    container.write(path, {k: v for k, v in arrays.items() if k != name}, description)
    with pytest.raises(ValueError, match=name):
        fastbp.load(path)
    container.write(path, arrays | {"more": array}, description)
    with pytest.raises(ValueError, match=r"arrays that do not belong to it: \['more'\]"):
        fastbp.load(path)


REGRESSOR = {
    ("targets",): [[], "x", {}, {"means": []}],
    ("targets", "means"): [..., [1.0], [1, 2], [1.0, {"float": "nan"}], "12", None, [1.0, True]],
    ("targets", "deviations"): [..., [1.0], [0.0, 1.0], [-1.0, 1.0], [1.0, "x"], None, []],
    ("targets", "is_scaled"): [..., 1, "x", None],
    ("targets", "quantiles"): [..., [0.5, 0.5], "x", 1],
    ("targets", "more"): [1],
    ("network", "loss_coefficients"): [
        [], [1.0], [1.0, -1.0], [1, 2], [1.0, "x"], [1.0, None], "12", None, 1.0, [[1.0], 2.0],
        [1.0, {"float": "inf"}], [1.0, True],
    ],
    ("network", "label_smoothing"): [0.5, 1.0, -0.1, 0, "x", None, True],
    ("network", "loss"): ["quantile", "squared_error", "focal"],
    ("parameters", "quantile"): [2, "x", {"dict": []}],
    ("parameters", "huber_delta"): [0, "x"],
}  # fmt: skip


@pytest.fixture(scope="module")
def saved_regressor(tmp_path_factory):
    """The content of a file of a regressor with units of its own."""
    path = tmp_path_factory.mktemp("saved") / "regressor.fastbp"
    X = np.random.default_rng(0).normal(size=(40, 3))
    settings = dict(scale_targets=True, max_iter=3, random_state=0)
    fastbp.MLPRegressor("huber", (4,), **settings).fit(X, X[:, :2]).save(path)
    return container.read(path)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("names", "value"),
    [(names, value) for names, values in REGRESSOR.items() for value in values],
    ids=lambda each: repr(each)[:40],
)
def test_forged_descriptions_of_regressors(names, value, saved_regressor, path):
    arrays, description = saved_regressor
    container.write(path, arrays, changed(description, *names, value=value))
    with pytest.raises(ValueError, match=r"model\.fastbp"):
        fastbp.load(path)


@pytest.mark.parametrize(
    "value",
    [
        {"dict": 1}, {"dict": [1]}, {"dict": [[1]]}, {"dict": [[1, 2, 3]]}, {"dict": {}},
        {"dict": [[[1], 2]]}, {"dict": [[1, 2], [1, 3]]}, {"dict": [[{}, 1]]}, [1, {"x": 1}],
        "even", 1, True,
    ],
)  # fmt: skip
def test_forged_class_weights(value, saved, path):
    arrays, description = saved
    forged = changed(description, "parameters", "class_weight", value=value)
    container.write(path, arrays, forged)
    with pytest.raises(ValueError, match=r"model\.fastbp"):
        fastbp.load(path)


def test_files_from_before_there_were_more_losses(saved, path):
    """What a file lacks gets its default, with which nothing was different."""
    arrays, description = saved
    parameters = dict(description["parameters"])
    for name in ("focal_gamma", "label_smoothing", "class_weight"):
        del parameters[name]
    network = dict(description["network"])
    del network["loss_coefficients"], network["label_smoothing"]
    older = {name: value for name, value in description.items() if name != "targets"}
    container.write(path, arrays, older | {"parameters": parameters, "network": network})
    loaded = fastbp.load(path)
    assert loaded._model.network.loss_coefficients == ()
    assert loaded.get_params()["focal_gamma"] == 2.0


def test_labels_that_take_more_memory_than_they_say(path, saved):
    """In an array of strings each is as long as the longest."""
    arrays, description = saved
    classes = ["a", "b", "x" * 2**25]
    labels = description["labels"] | {"classes": {"dtype": f"<U{2**25}", "values": classes}}
    forged = description | {"labels": labels}
    container.MOST_HEADER_BYTES, before = 2**27, container.MOST_HEADER_BYTES
    try:
        container.write(path, arrays, forged)
        with pytest.raises(ValueError, match=r"3 values of dtype .* take more than"):
            fastbp.load(path)
    finally:
        container.MOST_HEADER_BYTES = before


def test_other_files(path):
    model, X, y = small("single")
    for content in (b"", b"no model", pickle.dumps(model.fit(X, y))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.fastbp: not a safetensors file"):
            fastbp.load(path)
    safetensors.numpy.save_file({"coefs.0": X}, path)
    with pytest.raises(ValueError, match="no model of fastbp"):
        fastbp.load(path)


# ---- other ways to save -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "early stopping", "a generator", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_skops(task, kind, path):
    """A format for whole pipelines, without code, too: the user says which types to trust."""
    model, X, y = small(task, **SETTINGS[kind])
    model.fit(X, y)
    skops.io.dump(model, path)
    unknown = skops.io.get_untrusted_types(file=path)
    assert all(name.startswith("fastbp.") for name in unknown), unknown
    loaded = skops.io.load(path, trusted=unknown)
    assert_same(loaded, model, X)
    if kind in ("adam", "a generator"):
        assert_same(loaded.partial_fit(X, y), model.partial_fit(X, y), X)


def test_the_last_step_of_a_pipeline(path, tmp_path):
    model, X, y = make_task("multiclass", max_iter=5, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
    joblib.dump(pipeline[:-1], tmp_path / "before")
    pipeline[-1].save(path)
    again = make_pipeline(*joblib.load(tmp_path / "before"), fastbp.load(path))
    np.testing.assert_array_equal(again.predict_proba(X), pipeline.predict_proba(X))


def test_errors_quote_little_of_a_file(saved, path):
    """A forged description once came back whole, thousands of characters long."""
    arrays, description = saved
    container.write(path, arrays, description | {"input_scale": "x" * 10_000})
    with pytest.raises(ValueError, match="cannot be loaded: input_scale must be") as caught:
        fastbp.load(path)
    assert len(str(caught.value)) < 1500
