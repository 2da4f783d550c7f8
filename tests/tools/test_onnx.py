"""`to_onnx`, with onnxruntime's predictions against the model's own."""

import sys

import numpy as np
import pytest
from conftest import TASKS, make_task, small
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingRegressor, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fastbp
from fastbp import HiddenFeatures, MLPClassifier, MLPRegressor
from fastbp.activations import ACTIVATIONS, HIDDEN_ACTIVATIONS
from fastbp.parameters import OUTPUT_CHOICES

skl2onnx = pytest.importorskip("skl2onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import fastbp.onnx  # noqa: E402
from fastbp.onnx import FORMULAS, to_onnx  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def run(exported, X):
    """What onnxruntime computes of rows, or of a dict of columns, by the outputs' names."""
    session = onnxruntime.InferenceSession(
        exported.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = X if isinstance(X, dict) else {session.get_inputs()[0].name: X}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def assert_same(model, X, **arguments):
    """Hold the exported model against the original, and return what onnxruntime computes."""
    exported = to_onnx(model, X, **arguments)
    found = run(exported, X)
    if hasattr(model, "predict_proba"):
        expected = model.predict_proba(X)
        assert_allclose(found["probabilities"], expected, rtol=1e-5, atol=1e-5)
        assert found["probabilities"].min() > 0
        # Within rounding of the border either label is right.
        sure = np.abs(np.sort(expected, axis=1)[:, -2:] - 0.5).min(axis=1) > 1e-5
        assert sure.sum() > len(X) / 2
        assert_array_equal(found["label"][sure], model.predict(X)[sure])
    else:
        expected = model.predict(X) if hasattr(model, "predict") else model.transform(X)
        (numbers,) = found.values()
        assert_allclose(numbers, expected.reshape(len(X), -1), rtol=1e-5, atol=1e-5)
    numbers = list(found.values())[-1]
    assert numbers.dtype == (np.float64 if X.dtype == np.float64 else np.float32)
    return found


# ---- every activation, output and type ----------------------------------------------------------


def test_every_activation_has_a_formula():
    """A new record in fastbp.activations needs one in fastbp.onnx."""
    assert {*ACTIVATIONS} <= {*FORMULAS}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_hidden_activations(activation, dtype):
    """Through steep layers, whose logits go far to both sides of zero."""
    model, X, y = make_task("multi-output", hidden_layer_sizes=(7, 4), max_iter=2, random_state=0)
    X = np.concatenate([X, 20 * X]).astype(dtype)
    model.set_params(activation=activation).fit(X, np.concatenate([y, y]))
    assert_same(model, X)
    model.coefs_ = [8 * weights for weights in model.coefs_[:2]] + [model.coefs_[2] / 64]
    found, expected = run(to_onnx(model, X), X)["variable"], model.predict(X)
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("task", TASKS)
def test_tasks(task, precision, dtype):
    model, X, y = make_task(task, max_iter=30, random_state=0, precision=precision)
    X = X.astype(dtype)
    assert_same(model.fit(X, y), X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("out_activation", sorted(OUTPUT_CHOICES))
def test_outputs_of_regressors(out_activation, dtype):
    model, X, y = small("multi-output", out_activation=out_activation, max_iter=20)
    X = X.astype(dtype)
    assert_same(model.fit(X, np.abs(y)), X)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_squared_error_of_classifiers(task):
    """With several classes probabilities are shares, which must not become 0 / 0."""
    model, X, y = small(task, loss="squared_error", activation=("gelu",), max_iter=20)
    X = X.astype(np.float32)
    assert_same(model.fit(X, y), X)
    model.intercepts_ = [model.intercepts_[0], model.intercepts_[1] - 200]
    assert_allclose(
        run(to_onnx(model, X), X)["probabilities"], model.predict_proba(X), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("opset", [11, 13, 15, 18])
def test_older_operators(opset):
    model, X, y = small("multiclass", hidden_layer_sizes=(6, 4), activation=("gelu", "tanh"))
    X = X.astype(np.float32)
    exported = to_onnx(model.fit(X, y), X, target_opset=opset)
    assert {each.domain: each.version for each in exported.opset_import}[""] == opset
    assert_same(model, X, target_opset=opset)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
def test_whole_numbers_and_their_scale(dtype):
    model, X, y = small("multiclass", input_scale=1 / 255, max_iter=20)
    X = np.clip(np.round(X * 50 + 100), 0, 255).astype(dtype)
    assert_same(model.fit(X, y), X)


def test_a_network_without_hidden_layers():
    model, X, y = small("binary", hidden_layer_sizes=())
    assert_same(model.fit(X, y), X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_targets_in_their_own_units(dtype):
    model, X, y = small("multi-output")
    X, units = X.astype(dtype), [1e-3, 5.0, 1e5]
    assert_same(model.set_params(scale_targets=True).fit(X, y * units + units), X)


@pytest.mark.parametrize("quantile", [[0.9, 0.1, 0.5], [0.5]])
def test_quantiles_do_not_cross(quantile):
    model, X, y = small("multi-output")
    model.set_params(loss="quantile", quantile=quantile, scale_targets=True, max_iter=3)
    found = assert_same(model.fit(X, y[:, 0]), X)["variable"]
    assert (np.diff(found[:, np.argsort(quantile)], axis=1) >= 0).all()


# ---- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([3, -7, 2**40], np.int64),
        ([1.0, 2.0, 3.0], np.int64),
        ([1, 2, 250], np.int64),
        (["ä", "b", "longer"], object),
        ([False, True], np.int64),
        (["no", "yes"], object),
        ([5], np.int64),
    ],
)
def test_labels(labels, dtype):
    _, X, y = small("multiclass")
    y = np.array(labels)[y % len(labels)]
    found = assert_same(small("multiclass", max_iter=20)[0].fit(X, y), X)
    assert found["label"].dtype == dtype


@pytest.mark.parametrize("labels", [[b"a", b"b"], [0.5, 1.5], np.array([0, 2**63], np.uint64)])
def test_labels_that_onnx_does_not_have(labels):
    _, X, y = small("multiclass")
    model = small("binary")[0].fit(X, y % 2 if labels[0] == 0.5 else np.array(labels)[y % 2])
    if labels[0] == 0.5:  # which can be given later alone
        model.classes_ = labels
    with pytest.raises(ValueError, match=r"whole numbers and strings as labels only.*astype\(str"):
        to_onnx(model, X)
    if labels[0] == 0.5:
        model.classes_ = model.classes_.astype(str)
        assert_same(model, X)


def test_renamed_labels_keep_their_order():
    model, X, y = small("multiclass")
    model.fit(X, y).classes_ = ["z", "a", "m"]
    assert_same(model, X)


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["zipmap", "id", "class", "pipeline", "name"])
def test_options_are_skl2onnxs(key):
    model, X, y = small("binary")
    X = X.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
    given = {
        "zipmap": {"zipmap": True},
        "id": {id(pipeline[-1]): {"zipmap": True}},
        "class": {MLPClassifier: {"zipmap": True}},
        "pipeline": {id(pipeline): {"zipmap": True}},
        "name": {"mlpclassifier__zipmap": True},
    }[key]
    found = run(to_onnx(pipeline, X, options=given), X)
    expected = pipeline.predict_proba(X)
    assert [*found] == ["output_label", "output_probability"]
    assert {*found["output_probability"][0]} == {"no", "yes"}
    assert found["output_probability"][3]["yes"] == pytest.approx(expected[3, 1], rel=1e-6)


def test_other_options():
    model, X, y = small("multiclass")
    model.fit(X, y)
    found = run(to_onnx(model, X, options={"nocl": True}), X)
    assert_array_equal(model.classes_[found["label"]], model.predict(X))
    assert found["probabilities"].shape == (len(X), 3)
    found = run(to_onnx(model, X, options={"output_class_labels": True}), X)
    assert_array_equal(found["class_labels"], model.classes_)
    found = run(to_onnx(model, X, options={"zipmap": "columns"}), X)
    assert {*found} == {"output_label", *(f"i{label}" for label in model.classes_)}
    with pytest.raises(NameError, match="raw"):
        to_onnx(model, X, options={"raw": True})
    types = [("rows", skl2onnx.common.data_types.DoubleTensorType([None, 5]))]
    exported = to_onnx(model, initial_types=types, final_types=[("l", None), ("p", None)])
    assert [*run(exported, {"rows": X})] == ["l", "p"]


# ---- around the estimators ----------------------------------------------------------------------


def test_hidden_features():
    model, X, y = small("multiclass", hidden_layer_sizes=(6, 4), activation=("gelu", "relu"))
    hidden = HiddenFeatures(model).fit(X, y)
    for layer in (-1, 0):
        found = assert_same(hidden.set_params(layer=layer), X)
        assert found["variable"].shape[1] == (4 if layer else 6)
    assert_same(make_pipeline(StandardScaler(), hidden, LogisticRegression()).fit(X, y), X)
    assert_same(make_pipeline(FeatureUnion([("h", hidden), ("s", StandardScaler())])).fit(X, y), X)


@pytest.mark.parametrize("export", [to_onnx, skl2onnx.to_onnx])
def test_tools_of_scikit_learn(export):
    """skl2onnx's own function converts them, too, once fastbp.onnx is imported."""
    X, y = small("multiclass")[1:]
    model = MLPClassifier((6,), activation="gelu", max_iter=20, random_state=0)
    regressor = MLPRegressor(hidden_layer_sizes=(6,), max_iter=20, random_state=0)
    for tool in (
        make_pipeline(StandardScaler(), model),
        GridSearchCV(make_pipeline(StandardScaler(), model), {"mlpclassifier__alpha": [1, 2]}),
        VotingClassifier(
            [("mlp", model), ("linear", LogisticRegression())],
            voting="soft",
            flatten_transform=False,
        ),
        make_pipeline(ColumnTransformer([("s", StandardScaler(), [0, 2])]), model),
    ):
        tool.fit(X, y)
        options = {"options": {"zipmap": False}} if export is skl2onnx.to_onnx else {}
        found = run(export(tool, X[:1], **options), X)
        assert_allclose(found["probabilities"], tool.predict_proba(X), rtol=1e-5, atol=1e-6)
        assert_array_equal(found["label"], tool.predict(X))
    stacking = StackingRegressor([("mlp", regressor), ("ridge", Ridge())], cv=2).fit(X, X[:, 0])
    found = run(export(stacking, X[:1]), X)["variable"].ravel()
    assert_allclose(found, stacking.predict(X), rtol=1e-5, atol=1e-6)


def test_frames_make_an_input_for_each_column():
    pandas = pytest.importorskip("pandas")
    model, X, y = small("binary")
    frame = pandas.DataFrame(X.astype(np.float32), columns=list("abcde"))
    frame["f"] = np.arange(len(X)) % 3
    columns = {name: frame[[name]].to_numpy() for name in frame}
    found = run(to_onnx(model.fit(frame, y), frame), columns)
    assert_allclose(found["probabilities"], model.predict_proba(frame), rtol=1e-5, atol=1e-6)
    frame["word"] = np.array(["left", "right"])[np.arange(len(X)) % 2]
    columns["word"] = frame[["word"]].to_numpy().astype(object)
    steps = [("n", StandardScaler(), list("abc")), ("w", OneHotEncoder(), ["word"])]
    mixed = ColumnTransformer(steps)
    pipeline = make_pipeline(mixed, model).fit(frame, y)
    columns = {name: columns[name] for name in [*"abc", "word"]}
    exported = to_onnx(pipeline, frame[[*columns]])
    assert_allclose(
        run(exported, columns)["probabilities"], pipeline.predict_proba(frame), rtol=1e-5, atol=1e-5
    )
    polars = pytest.importorskip("polars")
    same = polars.DataFrame({name: frame[name].to_numpy() for name in columns})
    again = to_onnx(pipeline, same)
    assert_array_equal(run(again, columns)["label"], run(exported, columns)["label"])


def test_sparse_rows_and_lists_say_what_the_columns_are():
    model, X, y = small("single")
    model.fit(X, y)
    expected = run(to_onnx(model, X), X)["variable"]
    for given in (csr_array(X), X.tolist()):
        assert_array_equal(run(to_onnx(model, given), X)["variable"], expected)


# ---- errors -------------------------------------------------------------------------------------


def test_what_is_refused(monkeypatch):
    model, X, y = small("single", activation="tanh")
    for unfitted in (model, HiddenFeatures(model), make_pipeline(HiddenFeatures(model))):
        with pytest.raises(NotFittedError):
            to_onnx(unfitted, X)
    model.fit(X, y)
    with pytest.raises(ValueError, match="Give X"):
        to_onnx(model)
    monkeypatch.delitem(FORMULAS, "tanh")  # as if a user had added the record
    with pytest.raises(ValueError, match=r"activation='tanh' cannot be exported.*FORMULAS\['tanh'"):
        to_onnx(model, X)
    monkeypatch.setitem(FORMULAS, "tanh", lambda node, z: node("Tanh", z))
    assert_same(model, X)


def test_without_skl2onnx(monkeypatch):
    """The module can be imported, and the error names the extra."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "skl2onnx"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    monkeypatch.delitem(sys.modules, "fastbp.onnx")
    monkeypatch.delattr(fastbp, "onnx")
    from fastbp.onnx import to_onnx as without

    with pytest.raises(ImportError, match=r"needs skl2onnx.*pip install 'fastbp\[onnx\]'"):
        without(None, None)
