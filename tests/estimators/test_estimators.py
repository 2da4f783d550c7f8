"""The estimators' own behaviour: scikit-learn's contract, and where fastbp does better."""

import _thread
import inspect
import queue
import re
import warnings

import joblib
import naive
import numpy as np
import pytest
import sklearn.neural_network
import versions
from conftest import TASKS, small, weights
from scipy.sparse import csr_array, csr_matrix, issparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.metrics import accuracy_score, r2_score

import fastbp
from fastbp.cpu.engine import Engine
from fastbp.data import Data
from fastbp.training import EpochReport, hold_out

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# ---- scikit-learn's contract --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_signatures_are_scikit_learns(name):
    if name == "MLPRegressor":
        versions.needs("the Poisson loss of MLPs")
    signature = inspect.signature(getattr(fastbp, name))
    ours = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    theirs = list(inspect.signature(getattr(sklearn.neural_network, name)).parameters.values())
    assert ours[: len(theirs)] == theirs
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


@pytest.mark.smoke
@pytest.mark.parametrize("task", TASKS)
def test_cpu_engine_and_oracle_agree(task, spied_engine):
    ours, X, y = small(task, max_iter=30)
    ours.fit(X, y)
    made = spied_engine[-1]
    fast = Engine(made.network, made.dtype)
    fast.load_parameters(made.parameters)
    np.testing.assert_allclose(fast.predict(Data(X)), made.predict(Data(X)), rtol=1e-10, atol=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize("task", TASKS)
def test_weighted_fits_are_the_oracles(task, request):
    """Also where scikit-learn's own MLPs take no sample weights and have no Poisson loss."""
    model, X, y = small(task)
    weight = np.random.default_rng(1).integers(0, 5, len(X)) / 2
    fast = clone(model).fit(X, y, weight)
    assert not request.getfixturevalue("spied_engine")
    slow = clone(model).fit(X, y, weight)
    np.testing.assert_allclose(weights(fast), weights(slow), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fast.loss_curve_, slow.loss_curve_, rtol=1e-9)
    assert not np.allclose(weights(fast), weights(model.fit(X, y)))


def test_feature_names_and_columns_of_labels():
    pd = pytest.importorskip("pandas")
    model, X, y = small("single")
    frame = pd.DataFrame(X, columns=list("abcde"))
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model.fit(frame, y[:, None])
    assert list(model.feature_names_in_) == list("abcde")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.predict(frame).shape == y.shape
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("edcba")])


def test_plain_rows_are_checked_where_there_is_something_to_say():
    """Predictions skip scikit-learn's checks for plain arrays; these are not, or not quite."""
    pd = pytest.importorskip("pandas")
    model, X, y = small("single")
    expected = model.fit(X, y).predict(X)
    wide, not_finite, infinite = X[:, :4], X.copy(), X.copy()
    not_finite[3, 2], infinite[1, 0] = np.nan, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows, says in [
            (wide, "4 features"),
            (X[0], "1D array"),
            (X[:0], "0 sample"),
            (not_finite, "NaN"),
            (infinite, "infinity"),
            (X.astype(complex), "Complex"),
        ]:
            with pytest.raises(ValueError, match=says):
                model.predict(rows)
        with pytest.raises(TypeError, match="matrix is not supported"):
            model.predict(X.view(np.matrix))
        large = np.full((2, 5), np.finfo(float).max / 2)  # their sum is not finite
        with pytest.raises(ValueError, match="the outputs are not finite"):  # but X is
            model.predict(large)
        np.testing.assert_array_equal(model.predict(X.tolist()), expected)
    with pytest.warns(UserWarning, match="X has feature names, but MLPRegressor was fitted"):
        model.predict(pd.DataFrame(X, columns=list("abcde")))
    model.fit(pd.DataFrame(X, columns=list("abcde")), y)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPRegressor"):
        np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize(
    "labels",
    [[False, True], ["b", "a"], [2.0, -1.0], ["x", "yy", "z"], [7], np.array([3, 9], ">i4")],
)
def test_labels_come_back(labels):
    model, X, _ = small("binary", max_iter=60, early_stopping=len(labels) > 1)
    y = np.resize(labels, len(X))
    X = X + 3 * np.arange(len(X))[:, None] % len(labels)
    model.fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    assert model.predict(X).dtype == model.classes_.dtype
    assert set(model.predict(X)) <= set(labels)
    assert model.predict_proba(X).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["U4", object, "int8", "category", "string", "boolean"])
def test_labels_have_scikit_learns_dtype(kind):
    X = TASKS["binary"][2]
    labels = np.resize([1, 0] if kind in ("int8", "boolean") else ["ab", "c"], len(X))
    if kind in ("category", "string", "boolean"):
        y = pytest.importorskip("pandas").Series(labels).astype(kind)
    else:
        y = labels.astype(kind)
    found = []
    for package in (fastbp, sklearn.neural_network):
        try:
            found.append(package.MLPClassifier((3,), max_iter=2).fit(X, y).predict(X).dtype)
        except Exception as error:
            found.append(type(error))
    assert found[0] == found[1]


def test_sparse_indicators_come_back_sparse():
    model, X, y = small("multilabel", max_iter=60)
    dense = model.fit(X, y).predict(X)
    assert dense.dtype == int
    given = model.fit(csr_array(X), csr_matrix(y)).predict(X)
    assert issparse(given)
    np.testing.assert_array_equal(given.toarray(), dense)


def test_read_only_strided_and_memory_mapped(tmp_path):
    model, X, y = small("multiclass")
    expected = model.fit(X, y).predict_proba(X)
    joblib.dump(X, tmp_path / "X")
    wide = np.zeros((len(X) * 2, X.shape[1] * 3))
    wide[::2, ::3] = X
    for same in (np.asfortranarray(X), joblib.load(tmp_path / "X", mmap_mode="r"), wide[::2, ::3]):
        np.testing.assert_array_equal(model.fit(same, y).predict_proba(same), expected)


def sparse_forms(X):
    """The same matrix in forms that SciPy lets pass, and as it should be."""
    X = csr_matrix(X)
    strided = csr_matrix((np.repeat(X.data, 2)[::2], np.repeat(X.indices, 2)[::2], X.indptr))
    assert {array.strides[0] for array in (strided.data, strided.indices)} == {16, 8}
    wide_starts, wide_indices = X.copy(), X.copy()
    wide_starts.indptr = X.indptr.astype(np.int64)
    wide_indices.indices = X.indices.astype(np.int64)
    return X, strided, wide_starts, wide_indices


def test_sparse_arrays_of_any_stride_and_index_dtype():
    model, X, y = small("multiclass")
    good, *others = sparse_forms(np.where(X > 0, X, 0))
    expected = model.fit(good, y).predict_proba(good)
    for same in others:
        arrays = same.data, same.indices, same.indptr
        np.testing.assert_array_equal(model.fit(same, y).predict_proba(same), expected)
        now = same.data, same.indices, same.indptr
        assert all(a is b for a, b in zip(arrays, now, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
def test_interrupted_training_leaves_a_usable_model(weighted):
    def interrupt(report):
        if report.n_iter == 3:
            raise KeyboardInterrupt

    for solver in ("sgd", "adam", "lbfgs"):
        model, X, y = small("multiclass", solver=solver, callback=interrupt, max_iter=9)
        with pytest.warns(UserWarning, match="interrupted by user") as caught:
            model.fit(X, y, np.ones(len(X)) if weighted else None)
        assert caught[0].filename == __file__
        assert model.n_iter_ == 3
        assert model.loss_ == model.loss_curve_[-1]
        stopped, _, _ = small("multiclass", solver=solver, max_iter=3)
        np.testing.assert_array_equal(weights(model), weights(stopped.fit(X, y)))


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_convergence_warning(solver):
    model, X, y = small("single", solver=solver)
    with pytest.warns(ConvergenceWarning, match=r"\(5\)|max_iter=5") as caught:
        model.fit(X, y)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(tol=10.0, max_iter=50).fit(X, y)
        model.partial_fit(X, y) if solver != "lbfgs" else None


def test_warnings_where_the_caller_has_no_name():
    model, X, y = small("single")
    with pytest.warns(ConvergenceWarning, match="hasn't converged"):
        exec("fit(X, y)", {"fit": model.fit, "X": X, "y": y})
    outcome = queue.Queue()
    model.set_params(batch_size=1000, callback=lambda report: outcome.put(report) or True)

    def fit_as_outermost_frame():
        _thread.start_new_thread(model.fit, (X, y))
        return outcome.get(timeout=60)

    with pytest.warns(UserWarning, match="batch_size=1000"):
        assert fit_as_outermost_frame().n_iter == 1


# ---- fastbp's own parameters --------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_callback(solver, early_stopping, capsys):
    reports = []

    def stop(report):
        reports.append(report)
        if len(reports) == 4:
            report.stop()
        return True  # which does not count

    model, X, y = small(
        "single", solver=solver, early_stopping=early_stopping, callback=stop, verbose=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(max_iter=30).fit(X, y)
    held_out = early_stopping and solver != "lbfgs"
    assert all(isinstance(report, EpochReport) for report in reports)
    assert [report.n_iter for report in reports] == [1, 2, 3, 4]
    assert [report.loss for report in reports] == model.loss_curve_
    assert [r.validation_score for r in reports] == (model.validation_scores_ or [None] * 4)
    assert {report.n_samples for report in reports} == {81 if held_out else 90}
    assert all(report.seconds >= 0 for report in reports)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"Iteration 1, loss = {model.loss_curve_[0]:.8f}"
    assert len(printed) == (8 if held_out else 4)


def test_verbose_tells_why_it_stops(capsys):
    model, X, y = small("single", solver="sgd", learning_rate="adaptive", tol=1.0, max_iter=200)
    model.set_params(n_iter_no_change=1, verbose=2).fit(X, y)
    printed = capsys.readouterr().out
    assert "Setting learning rate to 0.000200" in printed
    assert re.search(
        r"Training loss did not improve more than tol=1\.0+ .* Stopping\.$", printed.strip()
    )


@pytest.mark.parametrize("task", TASKS)
def test_input_scale_trains_integers_as_they_are(task, spied_engine):
    model, X, y = small(task, input_scale=1 / 16)
    numbers = np.clip(np.round(X * 16 + 64), 0, 255).astype(np.uint8)
    model.fit(numbers, y)
    assert np.shares_memory(spied_engine[-1].data.X, numbers)
    assert spied_engine[-1].dtype == np.float64
    scaled, _, _ = small(task)
    scaled.fit(numbers / 16, y)
    np.testing.assert_allclose(weights(model), weights(scaled), rtol=1e-12)
    np.testing.assert_allclose(model.predict(numbers) == y, scaled.predict(numbers / 16) == y)


def test_input_scale_on_the_cpu_engine():
    model, X, y = small("multiclass", input_scale=1 / 16)
    numbers = np.round(X * 16).astype(np.int16)
    scaled, _, _ = small("multiclass")
    np.testing.assert_allclose(
        model.fit(numbers, y).predict_proba(numbers),
        scaled.fit(numbers / 16, y).predict_proba(numbers / 16),
        rtol=1e-10,
    )


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("convert", [np.asarray, csr_array, np.asfortranarray])
def test_rows_are_never_copied(convert, early_stopping, spied_engine):
    model, X, y = small("multiclass", early_stopping=early_stopping)
    X = convert(X.round().astype(np.int8))
    model.fit(X, y)
    seen = spied_engine[-1].data.X
    assert np.shares_memory(*(x.data if issparse(x) else x for x in (seen, X)))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_precision(task, solver):
    """scikit-learn's lbfgs always makes float64 weights, a float64 y makes its deltas float64."""
    model, X, y = small(task, solver=solver)
    for precision, given, expected in [
        *([("bfloat16", np.float64, np.float32)] if solver != "lbfgs" else []),
        ("auto", np.float32, np.float32),
        ("auto", np.float64, np.float64),
        ("auto", np.int8, np.float64),
        ("float32", np.float64, np.float32),
        ("float64", np.float32, np.float64),
    ]:
        model.set_params(precision=precision).fit(X.astype(given), y)
        assert {a.dtype for a in [*model.coefs_, *model.intercepts_]} == {np.dtype(expected)}
        outputs = getattr(model, "predict_proba", model.predict)(X.astype(given))
        assert outputs.dtype == expected
    model.set_params(precision="auto", warm_start=True).fit(X.astype(np.float32), y)
    assert model.coefs_[0].dtype == np.float64


@pytest.mark.parametrize(
    ("activation", "same"),
    [("sigmoid", ("logistic", "logistic")), (("tanh", "sigmoid"), ["tanh", "logistic"])],
)
def test_activation_for_each_layer(activation, same):
    model, X, y = small("multiclass", hidden_layer_sizes=(5, 4), activation=activation)
    model.fit(X, y)
    again = clone(model).set_params(activation=same).fit(X, y)
    np.testing.assert_array_equal(weights(model), weights(again))
    z = np.tanh if same[0] == "tanh" else naive.expit
    hidden = naive.expit(
        z(X @ model.coefs_[0] + model.intercepts_[0]) @ model.coefs_[1] + model.intercepts_[1]
    )
    expected = naive.activate("softmax", hidden @ model.coefs_[2] + model.intercepts_[2])
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-9)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_classifier_on_squared_error(task, solver):
    model, X, y = small(task, loss="squared_error", solver=solver, max_iter=100, alpha=0.0)
    model.fit(X, y)
    assert model.out_activation_ == "logistic"
    assert model.score(X, y) > 0.7
    outputs = naive.expit(
        np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0) @ model.coefs_[1]
        + model.intercepts_[1]
    )
    proba = model.predict_proba(X)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), proba, rtol=1e-6)
    if task == "multilabel":
        np.testing.assert_allclose(proba, outputs, rtol=1e-9)
        one_hot = y
    else:
        assert proba.sum(axis=1) == pytest.approx(1)
        shares = outputs if task == "multiclass" else np.hstack([1 - outputs, outputs])
        shares = shares / shares.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(proba, shares, rtol=1e-6, atol=1e-12)
        one_hot = (y[:, None] == model.classes_).astype(int)[:, -model.n_outputs_ :]
    if solver == "lbfgs":
        assert model.loss_ == pytest.approx(((one_hot - outputs) ** 2).sum(axis=1).mean() / 2)


def test_changed_weights_count():
    model, X, y = small("single", max_iter=1)
    model.fit(X, y)
    model.coefs_[0][...] = 0
    model.intercepts_ = [np.zeros(6).tolist(), np.array([3])]
    np.testing.assert_array_equal(model.predict(X), 3)
    model.set_params(warm_start=True, learning_rate_init=1e-12)
    for train in (model.fit, model.partial_fit):
        np.testing.assert_allclose(train(X, y).predict(X), 3, atol=1e-6)
    model.set_params(activation="tanh", hidden_layer_sizes=3)  # for the next fit
    np.testing.assert_allclose(model.predict(X), 3, atol=1e-6)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "single", "multi-output"])
def test_validation_scores_are_those_of_score(task):
    model, X, y = small(task, early_stopping=True, max_iter=1, solver="sgd")
    random = np.random.RandomState(0)
    model.fit(X, y)
    random.uniform(size=weights(model).size)
    labels = y if task == "binary" else None
    _, rows = hold_out(len(X), 0.1, random, labels)
    score = r2_score if model.__class__ is fastbp.MLPRegressor else accuracy_score
    assert model.validation_scores_ == [pytest.approx(score(y[rows], model.predict(X[rows])))]


@pytest.mark.smoke
@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_do_not_change_results(n_threads):
    model, X, y = small("multiclass", hidden_layer_sizes=(200, 100), batch_size=90)
    expected = weights(model.fit(X, y))
    np.testing.assert_array_equal(
        weights(model.set_params(n_threads=n_threads).fit(X, y)), expected
    )
