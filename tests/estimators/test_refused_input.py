"""What must be refused: with scikit-learn's exception type, a clear message, and no trace left."""

import pickle
import re

import numpy as np
import pytest
import sklearn.neural_network
import versions
from conftest import TASKS, make_task
from scipy.sparse import bsr_array, coo_array, csc_array, csr_array, csr_matrix
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import fastbp
from fastbp.training import NonFiniteLossError

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::RuntimeWarning"
)

X = TASKS["multiclass"][2]
Y = TASKS["multiclass"][3]
ONE_NAN = np.where(np.arange(X.size).reshape(X.shape) == 7, np.nan, X)
SMALL = {"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0}

# Parameter, value, what the message must say beside the parameter's name and the value.
PARAMETERS = [
    ("hidden_layer_sizes", (3, 0), "> 0"),
    ("hidden_layer_sizes", -2, ""),
    ("activation", "relu6", "relu"),
    ("solver", "newton", "lbfgs"),
    ("alpha", -1.0, r"range \[0.0"),
    ("batch_size", 0, r"range \[1"),
    ("learning_rate", "optimal", "adaptive"),
    ("learning_rate_init", 0.0, r"range \(0.0"),
    ("power_t", -1, ""),
    ("max_iter", 0, r"range \[1"),
    ("shuffle", "yes", "bool"),
    ("random_state", -3, ""),
    ("tol", -1e-3, ""),
    ("verbose", -1, ""),
    ("warm_start", None, ""),
    ("momentum", 1.5, r"range \[0.0, 1.0\]"),
    ("nesterovs_momentum", 3, ""),
    ("early_stopping", "no", ""),
    ("validation_fraction", 1.0, r"range \[0.0, 1.0\)"),
    ("beta_1", 1.0, r"range \[0.0, 1.0\)"),
    ("beta_2", -0.1, ""),
    ("epsilon", 0, ""),
    ("n_iter_no_change", 0, ""),
    ("max_fun", 0, ""),
    ("loss", "hinge", "squared_error"),
]
# The same for what scikit-learn does not have or takes without a word.
OWN_PARAMETERS = [
    ("hidden_layer_sizes", (2.5,), "whole numbers"),
    ("hidden_layer_sizes", ((3, 2), (1, 1)), "whole numbers"),
    ("hidden_layer_sizes", (10**30,), r"2\*\*31 - 1"),
    ("activation", "softmax", "output layer"),
    ("activation", ("softmax",), "output layer"),
    ("activation", ("relu", "tanh"), r"2 names.* 1 hidden layer\(s\)"),
    ("activation", ("relu6",), "not known"),
    ("activation", (["relu"],), "not known"),
    ("precision", "float16", "float32"),
    ("n_threads", 0, r"range \[1"),
    ("n_threads", 2.0, "int"),
    ("warmup", 1.0, r"range \[0.0, 1.0\)"),
    ("warmup", -0.1, r"range \[0.0, 1.0\)"),
    ("input_scale", 0.0, r"range \(0.0"),
    ("input_scale", np.inf, ""),
    ("precision", "tf32", "device='cuda'"),
    ("device", "gpu", "cuda"),
    ("device", None, "cpu"),
    ("callback", 3, "callable"),
]


def test_the_first_in_the_order_of_names_is_refused():
    """As of scikit-learn."""
    for method in ("fit", "partial_fit"):
        model, X, y = make_task("single", tol=-1, epsilon=0, alpha=-1, hidden_layer_sizes=(3,))
        with pytest.raises(ValueError, match="The 'alpha' parameter of MLPRegressor must be"):
            getattr(model, method)(X, y)


@pytest.mark.parametrize("estimator", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize(("name", "value", "says"), PARAMETERS + OWN_PARAMETERS)
def test_parameters(estimator, name, value, says):
    model = getattr(fastbp, estimator)(**{**SMALL, name: value})
    before = pickle.dumps(model)
    with pytest.raises(ValueError, match=re.escape(name)) as ours:
        model.fit(X, Y)
    assert re.search(says, str(ours.value))
    shown = str(value if isinstance(value, tuple) else [value]).strip("[]")
    assert shown in str(ours.value)
    assert pickle.dumps(model) == before
    if (name, value, says) in PARAMETERS and name != "loss":
        theirs = getattr(sklearn.neural_network, estimator)(**{**SMALL, name: value})
        with pytest.raises(type(ours.value)):
            theirs.fit(X, Y)


# X, y, sample_weight, part of the message.
DATA = {
    "NaN in X": (ONE_NAN, Y, None, "X contains NaN"),
    "infinity in X": (np.where(np.isnan(ONE_NAN), np.inf, X), Y, None, "X contains infinity"),
    "complex X": (X + 1j, Y, None, "Complex data"),
    "words in X": (np.full(X.shape, "a"), Y, None, ""),
    "X without columns": (X[:, :0], Y, None, "0 feature"),
    "X without rows": (X[:0], Y[:0], None, "0 sample"),
    "flat X": (X[:, 0], Y, None, "Expected 2D array"),
    "deep X": (X[:, :, None], Y, None, "dim 3"),
    "lengths": (X, Y[:-1], None, "inconsistent numbers of samples"),
    "NaN in y": (X, np.where(Y == 1, np.nan, Y), None, "y contains NaN"),
    "no y": (X, None, None, "y"),
    "deep y": (X, Y[:, None, None], None, ""),
    "short weight": (X, Y, np.ones(3), "sample_weight"),
    "deep weight": (X, Y, np.ones((len(X), 2)), "weights must be 1D"),
    "NaN weight": (X, Y, np.full(len(X), np.nan), "sample_weight contains NaN"),
    "zero weight": (X, Y, np.zeros(len(X)), "weights must contain at least one non-zero"),
}
# scikit-learn takes the first, and stumbles over the others by a bare TypeError.
OWN_DATA = {
    "words": (X, np.resize(["1", "2.5"], len(X)), None, "y must hold numbers, got dtype <U3"),
    "negative weight": (X, Y, np.where(Y == 1, -0.5, 1), "sample_weight .* -0.5 in row"),
    "mixed labels": (
        X,
        np.array([1, "a"] * 45, dtype=object),
        None,
        "y mixes labels of different kinds: 1 in row 0 and 'a' in row 1",
    ),
}
LABELS = {
    "numbers as labels": (X, Y + 0.5, None, "Unknown label type: continuous"),
    "two columns of classes": (X, np.column_stack([Y, Y]), None, ""),
}


@pytest.mark.parametrize("estimator", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("case", {**DATA, **OWN_DATA, **LABELS})
def test_data(estimator, method, case):
    if case in (*LABELS, "mixed labels") and estimator == "MLPRegressor":
        pytest.skip("such y is fine in regression")
    if case == "words" and estimator == "MLPClassifier":
        pytest.skip("such y is fine in classification")
    data, y, weight, says = {**DATA, **OWN_DATA, **LABELS}[case]
    extra = (
        {"classes": [1, 3, 5]} if (estimator, method) == ("MLPClassifier", "partial_fit") else {}
    )
    packages, kinds = [fastbp, sklearn.neural_network], []
    if weight is not None:
        extra["sample_weight"] = weight
    what = "refusal of zero weights" if case == "zero weight" else "sample weights of MLPs"
    if weight is not None and not versions.scikit_learn_has(what):
        packages = [fastbp]
    for package in packages:
        model = getattr(package, estimator)(**SMALL)
        error = None
        try:
            getattr(model, method)(data, y, **extra)
        except Exception as caught:
            error = caught
        kinds.append(type(error))
        if package is fastbp:
            assert isinstance(error, ValueError)
            assert re.search(says, str(error))
            assert not [name for name in vars(model) if name.endswith("_")]
            with pytest.raises(NotFittedError):
                model.predict(X)
    assert case in OWN_DATA or issubclass(kinds[0], kinds[-1])


# Column indices and row starts for four entries in three rows of three columns.
SPARSE = {
    "negative": ([0, -1, 2, 1], [0, 1, 2, 4], r"ind(ices|ex values) must be >= 0"),
    "too large": ([0, 1, 3, 2], [0, 1, 2, 4], r"ind(ices|ex values) must be < 3"),
    "shuffled": ([0, 1, 2, 1], [0, 3, 2, 4], "non-decreasing"),
    "beyond the end": ([0, 1, 2, 1], [0, 1, 2, 90], "index"),
    "empty at last": ([0, 1, 2, 1], [0, 3, 3, 0], "non-decreasing"),
}


@pytest.mark.parametrize("kind", [csr_array, csr_matrix, csc_array])
@pytest.mark.parametrize("case", SPARSE)
def test_invalid_sparse_matrices(case, kind):
    """scikit-learn reads and writes whatever memory their indices lead to."""
    indices, starts, says = SPARSE[case]
    bad = kind(np.eye(3))
    bad.data, bad.indices, bad.indptr = np.ones(4), np.array(indices), np.array(starts)
    model = fastbp.MLPRegressor(**SMALL)
    with pytest.raises(ValueError, match=f"X is not a valid CS. matrix: .*{says}"):
        model.fit(bad, np.arange(3.0))
    model.fit(np.eye(3), np.arange(3.0))
    with pytest.raises(ValueError, match=f"X is not a valid CS. matrix: .*{says}"):
        model.predict(bad)


@pytest.mark.parametrize(("column", "says"), [(3, "exceeds matrix dimension"), (-1, "negative")])
def test_invalid_coordinates(column, says):
    """SciPy's conversion to CSR writes to whatever memory row numbers lead to."""
    bad = coo_array(np.eye(3))
    for axis in (0, 1):
        wrong = np.array([0, 1, column], bad.coords[axis].dtype)
        bad.coords = (wrong, np.arange(3)) if axis == 0 else (np.arange(3), wrong)
        with pytest.raises(ValueError, match=f"X is not a valid COO matrix: .*{says}"):
            fastbp.MLPRegressor(**SMALL).fit(bad, np.arange(3.0))


def test_invalid_blocks():
    bad = bsr_array(np.eye(4), blocksize=(2, 2))
    bad.indices = np.array([0, 2])
    with pytest.raises(ValueError, match="X is not a valid BSR matrix: column index values"):
        fastbp.MLPRegressor(**SMALL).fit(bad, np.arange(4.0))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_poisson_and_predictions(task, solver):
    model, data, y = make_task(task, **SMALL, solver=solver)
    with pytest.raises(NotFittedError):
        model.predict(data)
    model.fit(data, y)
    for bad, says in ((data[:, :3], "X has 3 features"), (ONE_NAN, "NaN"), (data[0], "2D")):
        with pytest.raises(ValueError, match=says):
            model.predict(bad)
    if task == "poisson":
        with pytest.raises(ValueError, match="loss='poisson' needs y >= 0, got y with -1"):
            model.fit(data, -np.sign(y))


def later_calls(model, task):
    """Calls on a fitted model that must fail, with part of what they say."""
    _, _, X, y = TASKS[task]
    yield (lambda: model.set_params(hidden_layer_sizes=4).fit(X, y)), "layer_sizes=.*warm_start"
    yield (lambda: model.set_params(activation="tanh").fit(X, y)), "hidden_activations=.*tanh"
    yield (lambda: model.fit(X[:, :2], y)), "X has 2 features"
    yield (lambda: model.fit(ONE_NAN, y)), "NaN"
    yield (lambda: model.set_params(solver="sgd", learning_rate_init=1e300).fit(X, y)), "non-finite"
    yield (lambda: model.set_params(early_stopping=True).partial_fit(X, y)), "early_stopping"
    if task == "multiclass":
        yield (lambda: model.partial_fit(X, y + 1)), r"labels \[2 4 6\].*classes_ \[1 3 5\]"
        yield (lambda: model.partial_fit(X, y, classes=[1, 3])), "classes"
        yield (lambda: model.fit(X, y + 1)), "same classes .* Previously got"
        yield (lambda: model.partial_fit(X, np.eye(3)[y // 2])), "multiclass labels"
    if task == "multilabel":
        yield (lambda: model.partial_fit(X, y[:, :2])), "3 columns"
        yield (lambda: model.partial_fit(X, y[:, 0])), "multilabel labels"
    if task == "multi-output":
        yield (lambda: model.partial_fit(X, y[:, :2])), "layer_sizes"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("task", "number"),
    [
        (task, i)
        for task in ("multiclass", "multilabel", "multi-output")
        for i in range(len(list(later_calls(None, task))))
    ],
)
def test_a_failed_call_changes_nothing(task, number):
    model, data, y = make_task(task, **SMALL, warm_start=True, solver="sgd")
    model.fit(data, y).partial_fit(data, y)
    parameters, fitted = model.get_params(), pickle.dumps(vars(model))
    kept = {name: value for name, value in vars(model).items() if name not in parameters}
    call, says = list(later_calls(model, task))[number]
    with pytest.raises(ValueError, match=says):
        call()
    model.set_params(**parameters)
    assert pickle.dumps(vars(model)) == fitted
    assert all(vars(model)[name] is value for name, value in kept.items())


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_partial_fit_needs_classes(task):
    model, data, y = make_task(task, **SMALL)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(data, y)
    with pytest.raises(ValueError, match="not among classes_"):
        model.partial_fit(data, y, classes=[y[0], y[0]])
    assert not hasattr(model, "classes_")
    model.partial_fit(data, y, classes=np.unique(y)[::-1])
    np.testing.assert_array_equal(model.classes_, np.unique(y))


def test_large_batch_is_clipped_with_a_warning():
    model, data, y = make_task("single", **SMALL, batch_size=1000)
    with pytest.warns(UserWarning, match="going to be clipped: batch_size=1000, 90 rows") as caught:
        model.fit(data, y)
    assert caught[0].filename == __file__
    exact, _, _ = make_task("single", **SMALL, batch_size=90)
    np.testing.assert_array_equal(model.coefs_[0], exact.fit(data, y).coefs_[0])


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction must be > 0"),
        ({"validation_fraction": 0.01}, "validation set is too small: validation_fraction=0.01"),
    ],
)
def test_early_stopping_without_rows(parameters, says):
    model, data, y = make_task("single", **SMALL, early_stopping=True, **parameters)
    with pytest.raises(ValueError, match=says):
        model.fit(data, y)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.minimum(np.arange(90), 1), "least populated class.* only 1 member"),
        (np.minimum(np.arange(90)[::-1], 1), "least populated class.* only 1 member"),
    ],
)
def test_early_stopping_with_rare_classes(labels, says):
    model = fastbp.MLPClassifier(**SMALL, early_stopping=True)
    with pytest.raises(ValueError, match=says) as raised:
        model.fit(X, labels)
    for part in ("validation_fraction=0.1 of 90 rows", "Raise", "merge", "early_stopping=False"):
        assert part in str(raised.value)


@pytest.mark.parametrize("held_out", [False, True])
def test_early_stopping_without_weight(held_out):
    from fastbp.training import hold_out

    model, data, y = make_task("single", **{**SMALL, "random_state": np.random.RandomState(0)})
    model.random_state.uniform(size=(5 + 1) * 3 + (3 + 1) * 1)  # the initial weights
    rows = hold_out(len(data), 0.1, model.random_state)[held_out]
    weight = np.ones(len(data))
    weight[rows] = 0
    model.set_params(early_stopping=True, random_state=0)
    with pytest.raises(ValueError, match="sample_weight is zero in all rows"):
        model.fit(data, y, weight)


DIVERGING = {"solver": "sgd", "learning_rate_init": 1e6, "activation": "identity", "max_iter": 500}


@pytest.mark.parametrize("task", ["single", "multi-output", "poisson"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_nan_loss_stops_at_once(task, precision):
    """scikit-learn runs every epoch first."""
    epochs = []
    model, data, y = make_task(
        task, **{**SMALL, **DIVERGING}, precision=precision, callback=epochs.append
    )
    with pytest.raises(NonFiniteLossError, match="Solver produced non-finite") as raised:
        model.fit(data, y)
    assert isinstance(raised.value, FloatingPointError)
    assert isinstance(raised.value, ValueError)
    assert f"in epoch {len(epochs) + 1} at learning rate 1e+06" in str(raised.value)
    assert "learning_rate_init" in str(raised.value)
    assert len(epochs) < 400
    with pytest.raises(NotFittedError):
        model.predict(data)
    loaded = pickle.loads(pickle.dumps(raised.value))  # as between joblib's processes
    assert (type(loaded), str(loaded)) == (NonFiniteLossError, str(raised.value))


def test_nan_loss_with_early_stopping_restores_the_best_weights():
    """scikit-learn runs every epoch first; the weights of the best score come back in both."""
    model, data, y = make_task("single", **{**SMALL, **DIVERGING}, early_stopping=True)
    with pytest.warns(ConvergenceWarning, match="scored best are restored"):
        model.fit(data, y)
    assert model.n_iter_ < 400
    assert np.isnan(model.validation_scores_[-1])
    assert not np.isfinite(model.loss_)
    assert np.isfinite(model.predict(data)).all()
    assert model.best_validation_score_ == np.nanmax(model.validation_scores_)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_data_too_large_for_any_loss(solver):
    data = 1e308 * np.random.default_rng(0).uniform(size=(10, 2))
    model = fastbp.MLPRegressor(solver=solver, **SMALL)
    with pytest.raises(NonFiniteLossError, match="preprocessed"):
        model.fit(data, np.arange(10.0))
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize("convert", [np.asarray, csr_array])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "single"])
def test_predictions_beyond_float32(task, convert):
    """Finite numbers must not become NaN on the quiet."""
    model, data, y = make_task(task, **SMALL, precision="float32", activation="identity")
    model.fit(data, y)
    for name in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(model, name):
            with pytest.raises(ValueError, match=r"X is too large .*float32.*'float64'"):
                getattr(model, name)(convert(data * 1e200))
    model.set_params(precision="float64").fit(data, y)
    assert np.isfinite(getattr(model, "predict_proba", model.predict)(data * 1e200)).all()


@pytest.mark.parametrize("rows", [slice(None), slice(1), slice(3)])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("cause", ["huge weights", "NaN weights", "both large"])
@pytest.mark.parametrize("task", ["multiclass", "single", "multi-output"])
def test_outputs_that_are_not_finite_raise(task, cause, precision, rows):
    """A float64 model once returned NaN or infinity without a word."""
    model, data, y = make_task(task, **SMALL, precision=precision, activation="identity")
    model.fit(data, y)
    if cause == "huge weights":
        huge = np.finfo(precision).max / 10
        model.coefs_ = [np.full_like(array, huge) for array in model.coefs_]
    elif cause == "NaN weights":
        model.coefs_[-1][0, 0] = np.nan
    else:
        large = 2 * float(np.finfo(precision).max) ** 0.5
        model.coefs_ = [array * array.dtype.type(large) for array in model.coefs_]
        data = data * large
    with pytest.raises(ValueError, match=f"too large for this {precision} model, or its weights"):
        getattr(model, "predict_proba", model.predict)(data[rows])


@pytest.mark.parametrize("name", ["coefs_", "intercepts_"])
def test_weights_of_wrong_shape(name):
    model, data, y = make_task("single", **SMALL, warm_start=True)
    model.fit(data, y)
    setattr(model, name, [array[:1] for array in getattr(model, name)])
    for call in (lambda: model.predict(data), lambda: model.fit(data, y)):
        with pytest.raises(ValueError, match=f"{name} must be arrays of the shapes"):
            call()


@pytest.mark.parametrize("estimator", ["MLPClassifier", "MLPRegressor"])
def test_lbfgs_has_no_partial_fit(estimator):
    """scikit-learn's regressor has, and fits anew in it."""
    model = getattr(fastbp, estimator)(solver="lbfgs")
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        _ = model.partial_fit
