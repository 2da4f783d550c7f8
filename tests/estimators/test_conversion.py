"""To scikit-learn and back: the same predictions, and training that goes on as if nothing was."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import sklearn.neural_network
import versions
from conftest import TASKS, make_task, needs_a_counterpart, small, weights
from scipy.sparse import csr_matrix, issparse
from sklearn.exceptions import NotFittedError
from sklearn.neural_network._base import ACTIVATIONS as THEIR_ACTIVATIONS
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp
from fastbp import conversion
from fastbp.training import hold_out

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SOLVERS = {
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "plain": {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1},
    "adam": {"solver": "adam", "learning_rate_init": 0.01, "beta_2": 0.9, "epsilon": 1e-4},
    "early": {"solver": "adam", "early_stopping": True},
    "lbfgs": {"solver": "lbfgs"},
}
ATTRIBUTES = (
    "loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_",
    "n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "classes_",
)  # fmt: skip


def sklearn_task(name, **parameters):
    """The same as `small`, with scikit-learn's estimator."""
    needs_a_counterpart(name, **parameters)
    ours, X, y = small(name, **parameters)
    theirs = getattr(sklearn.neural_network, type(ours).__name__)
    given = {key: value for key, value in ours.get_params().items() if key in theirs().get_params()}
    return theirs(**given), X, y


def outputs(model, X):
    """All that a model predicts of X, as numbers."""
    found = getattr(model, "predict_proba", model.predict)(X)
    return np.asarray(found, dtype=float)


def assert_same_model(a, b, X, rtol=1e-9):
    """Hold predictions, attributes and common parameters of two models against each other."""
    np.testing.assert_allclose(outputs(a, X), outputs(b, X), rtol=rtol, atol=rtol / 100)
    if hasattr(a, "classes_"):
        np.testing.assert_array_equal(a.predict(X), b.predict(X))
        assert a.predict(X).dtype == b.predict(X).dtype
    for name in ATTRIBUTES:
        if hasattr(a, name) and hasattr(b, name):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert [w.dtype for w in a.coefs_] == [w.dtype for w in b.coefs_]
    common = a.get_params().keys() & b.get_params().keys()
    assert len(common) >= 23
    assert {name: a.get_params()[name] for name in common} == {
        name: b.get_params()[name] for name in common
    }


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_there_and_back(task, solver, dtype):
    needs_a_counterpart(task)
    model, X, y = small(task, hidden_layer_sizes=(6, 4), **SOLVERS[solver])
    X = X.astype(dtype)
    theirs = model.fit(X, y).to_sklearn()
    assert type(theirs) is getattr(sklearn.neural_network, type(model).__name__)
    assert_same_model(model, theirs, X, 1e-9 if dtype == np.float64 else 1e-5)
    back = model.from_sklearn(theirs)
    assert type(back) is type(model)
    assert_same_model(model, back, X, 0)
    np.testing.assert_array_equal(weights(model), weights(back))


@pytest.mark.smoke
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_back_and_there(task, solver):
    theirs, X, y = sklearn_task(task, **SOLVERS[solver])
    model = getattr(fastbp, type(theirs).__name__).from_sklearn(theirs.fit(X, y))
    assert_same_model(theirs, model, X)
    assert_same_model(theirs, pickle.loads(pickle.dumps(model)), X)
    if solver != "lbfgs":
        assert_same_model(theirs, model.to_sklearn(), X)


def train_further(model, X, y, how):
    """A few more epochs, each on other rows."""
    for start in range(3):
        if how == "partial_fit":
            model.partial_fit(X[start::2], y[start::2])
        else:
            model.set_params(warm_start=True).fit(X, y)


@pytest.mark.parametrize("how", ["partial_fit", "warm start"])
@pytest.mark.parametrize("solver", ["sgd", "plain", "invscaling", "adaptive", "adam"])
@pytest.mark.parametrize("task", TASKS)
def test_training_goes_on(task, solver, how):
    """Forgetting moments, steps, rates, counters or the random state would show."""
    needs_a_counterpart(task)
    parameters = {**SOLVERS[solver], "random_state": np.random.RandomState(7), "max_iter": 4}
    if how == "warm start":
        parameters["n_iter_no_change"] = np.inf
    ours, X, y = small(task, **parameters)
    first = {"classes": np.unique(y)} if task in ("binary", "multiclass") else {}
    first = {"classes": [0, 1, 2]} if task == "multilabel" else first
    ours.partial_fit(X, y, **first).partial_fit(X, y)
    theirs = ours.to_sklearn()
    again = ours.from_sklearn(theirs)
    for model in (ours, theirs, again):
        train_further(model, X, y, how)
    for model in (theirs, again):
        np.testing.assert_allclose(weights(model), weights(ours), rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(model.loss_curve_, ours.loss_curve_, rtol=1e-8)
        assert model.t_ == ours.t_
        if how == "partial_fit":  # scikit-learn's warm starts never reset it
            assert model._no_improvement_count == ours._no_improvement_count
        assert model.best_loss_ == pytest.approx(ours.best_loss_, rel=1e-8)
    if ours.solver == "sgd":
        assert theirs._optimizer.learning_rate == ours._optimizer.learning_rate


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_training_that_scikit_learn_began_goes_on(solver):
    theirs, X, y = sklearn_task("multiclass", **SOLVERS[solver])
    ours = fastbp.MLPClassifier.from_sklearn(theirs.fit(X, y))
    ours = pickle.loads(pickle.dumps(ours))
    for _ in range(3):
        theirs.partial_fit(X, y)
        ours.partial_fit(X, y)
    np.testing.assert_allclose(weights(ours), weights(theirs), rtol=1e-7, atol=1e-10)


def test_partial_fit_follows_parameters_changed_before_the_conversion():
    ours, X, y = small("single", solver="adam")
    ours.fit(X, y).set_params(learning_rate_init=0.1, beta_1=0.5)
    theirs = ours.to_sklearn()
    np.testing.assert_allclose(
        weights(theirs.partial_fit(X, y)), weights(ours.partial_fit(X, y)), rtol=1e-9
    )
    ours.set_params(solver="sgd")
    assert not hasattr(ours.to_sklearn(), "_optimizer")  # Adam's is of no use to it


@pytest.mark.parametrize("task", ["binary", "single"])
def test_early_stopping_goes_on_with_the_same_rows(task, spied_engine):
    theirs, X, y = sklearn_task(task, early_stopping=True, random_state=5)
    ours = getattr(fastbp, type(theirs).__name__).from_sklearn(theirs.fit(X, y))
    random_state = np.random.RandomState(5)
    random_state.uniform(size=weights(theirs).size)  # the initial weights
    train, _ = hold_out(len(X), 0.1, random_state, y if task == "binary" else None)
    ours.set_params(warm_start=True).fit(X, y)
    assert set(spied_engine[-1].orders[0]) == set(train)
    again = ours.to_sklearn().set_params(warm_start=True, max_iter=1, learning_rate_init=1e-12)
    best = again.best_validation_score_
    assert again.fit(X, y).validation_scores_[:-1] == ours.validation_scores_
    assert again.best_validation_score_ >= best


@pytest.mark.parametrize("direction", ["to_sklearn", "from_sklearn"])
def test_nothing_is_shared(direction):
    ours, X, y = small("multiclass", random_state=np.random.RandomState(0))
    given = ours.fit(X, y)
    if direction == "from_sklearn":
        given = ours.to_sklearn()
    before = pickle.dumps(vars(copy.deepcopy(given)))
    made = given.to_sklearn() if given is ours else ours.from_sklearn(given)
    made.partial_fit(X, y)
    for array in made.coefs_ + made.intercepts_:
        array[...] = 7
    made.loss_curve_.append(7)
    made.classes_ = made.classes_[::-1].copy()
    assert pickle.dumps(vars(copy.deepcopy(given))) == before


def labelled_tasks():
    """Labels whose encoding has a twist: y, whether predictions come back sparse."""
    X = TASKS["binary"][2]
    yield "one class", X, np.full(len(X), "only"), False
    yield "strings", X, np.resize(["b", "a", "ccc"], len(X)), False
    yield "booleans", X, X[:, 0] > 0, False
    yield "sparse indicators", X, csr_matrix(TASKS["multilabel"][3]), True


@pytest.mark.parametrize("case", list(labelled_tasks()), ids=lambda case: case[0])
def test_labels_keep_their_encoding(case):
    _, X, y, sparse = case
    ours = fastbp.MLPClassifier((4,), max_iter=9, random_state=0).fit(X, y)
    theirs = ours.to_sklearn()
    reference = sklearn.neural_network.MLPClassifier((4,), max_iter=1).fit(X, y)
    for name in ("classes_", "y_type_", "sparse_input_"):
        np.testing.assert_array_equal(
            getattr(theirs._label_binarizer, name), getattr(reference._label_binarizer, name)
        )
    expected = ours.predict(X)
    for model in (theirs, ours.from_sklearn(theirs)):
        found = model.predict(X)
        assert issparse(found) == issparse(expected) == sparse
        assert (found != expected).sum() == 0
        model.partial_fit(X, y)


def test_feature_names_and_changed_weights():
    pd = pytest.importorskip("pandas")
    ours, X, y = small("single")
    frame = pd.DataFrame(X, columns=list("abcde"))
    ours.fit(frame, y)
    ours.coefs_[0] = ours.coefs_[0].tolist()
    ours.intercepts_[-1][...] = 3
    theirs = ours.to_sklearn()
    for model in (theirs, ours.from_sklearn(theirs)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(model.predict(frame), ours.predict(frame), rtol=1e-9)
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(frame[list("edcba")])


@pytest.mark.parametrize(
    ("given", "expected"),
    [("sigmoid", "logistic"), (("tanh", "tanh"), "tanh"), (["sigmoid", "logistic"], "logistic")],
)
def test_activations_under_scikit_learns_name(given, expected):
    ours, X, y = small("single", hidden_layer_sizes=(4, 3), activation=given)
    theirs = ours.fit(X, y).to_sklearn()
    assert theirs.activation == expected
    np.testing.assert_allclose(theirs.predict(X), ours.predict(X), rtol=1e-9)
    ours.set_params(activation="identity")  # for the next fit, not for this model
    np.testing.assert_allclose(ours.to_sklearn().predict(X), ours.predict(X), rtol=1e-9)


@pytest.mark.parametrize("activation", ["sigmoid", (), "tanh"])
def test_without_hidden_layers(activation):
    ours, X, y = small("multiclass", hidden_layer_sizes=(), activation=activation)
    theirs = ours.fit(X, y).to_sklearn()
    np.testing.assert_allclose(theirs.predict_proba(X), ours.predict_proba(X), rtol=1e-9)
    refitted = copy.deepcopy(theirs).fit(X, y)  # the initial weights depend on the activation
    np.testing.assert_allclose(weights(refitted), weights(theirs), rtol=1e-7)


@pytest.mark.parametrize("task", TASKS)
def test_input_scale_becomes_part_of_the_weights(task):
    needs_a_counterpart(task)
    ours, X, y = small(task, input_scale=1 / 16, solver="sgd")
    numbers = np.round(X * 16).astype(np.int16)
    with pytest.warns(UserWarning, match=r"no input_scale=0\.0625.*another way") as caught:
        theirs = ours.fit(numbers, y).to_sklearn()
    assert caught[0].filename == __file__
    np.testing.assert_allclose(outputs(theirs, numbers), outputs(ours, numbers), rtol=1e-9)
    np.testing.assert_array_equal(theirs.coefs_[0], ours.coefs_[0] / 16)
    assert not hasattr(theirs, "_optimizer")
    theirs.partial_fit(numbers, y)


@pytest.mark.parametrize(
    ("task", "parameters", "says"),
    [
        ("binary", {"loss": "squared_error"}, "loss='squared_error' in classification"),
        ("multilabel", {"loss": "squared_error"}, "loss='squared_error' in classification"),
        ("single", {"out_activation": "tanh"}, "out_activation='tanh' in regression"),
        ("multi-output", {"out_activation": "sigmoid"}, "out_activation='logistic' in regression"),
        ("multi-output", {"out_activation": "relu"}, "out_activation='relu' in regression"),
        ("single", {"out_activation": "exp"}, "out_activation='exp' in regression"),
    ],
)
def test_what_scikit_learn_predicts_but_does_not_train(task, parameters, says):
    if parameters.get("out_activation") == "exp":  # that of the Poisson loss
        versions.needs("the Poisson loss of MLPs")
    ours, X, y = small(task, **parameters)
    with pytest.warns(UserWarning, match=f"scikit-learn has no {says}"):
        theirs = ours.fit(X, y).to_sklearn()
    np.testing.assert_allclose(outputs(theirs, X), outputs(ours, X), rtol=1e-9)
    assert not hasattr(theirs, "_optimizer")


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"loss": "squared_error"}, "loss='squared_error' with several classes"),
        ({"activation": ("tanh", "relu")}, r"activation=\('tanh', 'relu'\) cannot be converted"),
        ({"activation": "gelu"}, r"activation='gelu' cannot be converted.*only \['identity'"),
    ],
)
def test_what_scikit_learn_cannot_predict(parameters, says):
    ours, X, y = small("multiclass", hidden_layer_sizes=(4, 3), **parameters)
    with pytest.raises(ValueError, match=says + r".*use fastbp\.onnx\.to_onnx"):
        ours.fit(X, y).to_sklearn()


def test_parameters_that_scikit_learn_lacks_are_named(monkeypatch):
    """A new one is, too, without being listed anywhere."""
    needless = conversion._NO_LOSS - {"weight_decay"}
    monkeypatch.setattr(conversion, "_NO_LOSS", needless)
    ours, X, y = small("multiclass", weight_decay=0.5)
    with pytest.warns(UserWarning, match=r"scikit-learn has no weight_decay=0\.5: the predictions"):
        theirs = ours.fit(X, y).to_sklearn()
    np.testing.assert_allclose(outputs(theirs, X), outputs(ours, X), rtol=1e-9)
    assert not hasattr(theirs, "_optimizer")
    for default in (0.01, np.float64(0.01)):
        assert hasattr(ours.set_params(weight_decay=default).to_sklearn(), "_optimizer")


def test_units_of_targets_become_part_of_the_weights():
    ours, X, y = small("multi-output", scale_targets=True)
    ours.fit(X, y * [2.0, 1.0, 0.5] + [-1.0, 0.0, 3.0])
    with pytest.warns(UserWarning, match="scale_targets=True"):
        theirs = ours.to_sklearn()
    np.testing.assert_allclose(theirs.predict(X), ours.predict(X), rtol=1e-9)
    logistic = small("multi-output", scale_targets=True, out_activation="tanh")[0].fit(X, y)
    with pytest.raises(ValueError, match=r"out_activation='tanh' cannot be converted"):
        logistic.to_sklearn()


def test_sorted_quantiles_cannot_be_converted():
    ours, X, y = small("multi-output", loss="quantile", quantile=[0.1, 0.9])
    with pytest.raises(ValueError, match=r"quantile=\[0.1, 0.9\] cannot be converted"):
        ours.fit(X, y[:, 0]).to_sklearn()


@pytest.mark.parametrize(
    ("task", "extra"), [("poisson", {}), ("single", {"out_activation": "exp"})]
)
def test_what_older_versions_of_scikit_learn_cannot_predict(task, extra, monkeypatch):
    """A model with outputs by "exp" was converted, and its predictions failed."""
    older = {*THEIR_ACTIVATIONS} - {"exp"}
    monkeypatch.setattr(conversion, "_their_activations", lambda: older)
    model, X, y = small(task, **extra)
    with pytest.raises(ValueError, match=r"out_activation='exp'.*cannot be converted.*1\.7"):
        model.fit(X, y).to_sklearn()


def test_only_fitted_models_of_the_same_kind():
    for name in ("MLPClassifier", "MLPRegressor"):
        model = getattr(fastbp, name)()
        with pytest.raises(NotFittedError):
            model.to_sklearn()
        with pytest.raises(NotFittedError):
            model.from_sklearn(getattr(sklearn.neural_network, name)())
    regressor, X, y = sklearn_task("single")
    for wrong in (regressor.fit(X, y), fastbp.MLPClassifier(), None):
        with pytest.raises(TypeError, match=r"must be a sklearn.neural_network.MLPClassifier, got"):
            fastbp.MLPClassifier.from_sklearn(wrong)


# ---- exporters ----------------------------------------------------------------------------------


def run_onnx(model, X):
    """Export a scikit-learn model to ONNX and run that; the outputs by name."""
    onnxruntime = pytest.importorskip("onnxruntime")
    skl2onnx = pytest.importorskip("skl2onnx")
    options = {"zipmap": False} if hasattr(model, "predict_proba") else {}
    exported = skl2onnx.to_onnx(model, X[:1], options=options).SerializeToString()
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: X}), strict=True))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "single", "multi-output"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_onnx(task, precision):
    ours, X, y = make_task(task, max_iter=30, random_state=0, precision=precision)
    X = X.astype(np.float32)
    found = run_onnx(ours.fit(X, y).to_sklearn(), X)
    if hasattr(ours, "predict_proba"):
        np.testing.assert_allclose(found["probabilities"], outputs(ours, X), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found["label"], ours.predict(X))
    else:
        np.testing.assert_allclose(
            np.ravel(found["variable"]), outputs(ours, X).ravel(), rtol=1e-4, atol=1e-5
        )


def test_onnx_of_a_pipeline_on_bytes():
    ours, X, y = make_task("multiclass", max_iter=30, random_state=0, input_scale=1 / 255)
    pixels = np.clip(np.round(X * 50 + 128), 0, 255).astype(np.float32)
    with pytest.warns(UserWarning, match="input_scale"):
        found = run_onnx(ours.fit(pixels, y).to_sklearn(), pixels)
    np.testing.assert_allclose(found["probabilities"], outputs(ours, pixels), rtol=1e-4)
    pipeline = make_pipeline(StandardScaler(), ours.set_params(input_scale=1.0)).fit(pixels, y)
    pipeline.steps[-1] = ("classifier", pipeline[-1].to_sklearn())
    found = run_onnx(pipeline, pixels)
    np.testing.assert_array_equal(found["label"], pipeline.predict(pixels))


def test_an_activation_that_no_layer_applies_is_no_obstacle():
    """gelu without hidden layers came out as a name that scikit-learn does not know."""
    model, X, y = small("multiclass", hidden_layer_sizes=(), activation="gelu")
    theirs = model.fit(X, y).to_sklearn()
    np.testing.assert_allclose(theirs.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_renamed_classes_keep_their_order(task):
    """The converted model once had the names sorted, and so other labels."""
    model, X, y = small(task)
    model.fit(X, y)
    model.classes_ = model.classes_[::-1].copy()
    theirs = model.to_sklearn()
    np.testing.assert_array_equal(theirs.predict(X), model.predict(X))
    np.testing.assert_array_equal(theirs.classes_, model.classes_)
    again = fastbp.MLPClassifier.from_sklearn(theirs)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_allclose(
        weights(theirs.partial_fit(X, y)), weights(model.partial_fit(X, y)), rtol=1e-9
    )


def test_parameters_are_checked():
    """A beta_1 of 1 divided by zero."""
    model, X, y = small("single")
    model.fit(X, y).set_params(beta_1=1.0)
    with pytest.raises(ValueError, match="beta_1"):
        model.to_sklearn()


def test_there_and_back_with_lbfgs():
    """scikit-learn's lbfgs leaves no validation scores, which the way back asked for."""
    model, X, y = small("single", solver="lbfgs")
    theirs = model.fit(X, y).to_sklearn()
    for name in ("validation_scores_", "loss_curve_", "best_loss_"):
        vars(theirs).pop(name, None)
    again = fastbp.MLPRegressor.from_sklearn(theirs).to_sklearn()
    np.testing.assert_array_equal(again.predict(X), theirs.predict(X))
