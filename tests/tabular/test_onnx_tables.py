"""Estimators for tables as ONNX: onnxruntime's predictions from columns, and the model's."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from tables import TABLE, TARGETS, as_polars, make, outputs

pytest.importorskip("skl2onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from fastbp import TabularMLPRegressor  # noqa: E402
from fastbp.onnx import to_onnx  # noqa: E402


def session_of(exported):
    return onnxruntime.InferenceSession(
        exported.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def as_inputs(session, X):
    """The columns of a frame as the inputs, which have their order, ask for them."""
    inputs = {}
    for each, name in zip(session.get_inputs(), X.columns, strict=True):
        column = X[name]
        if "string" in each.type:
            values = column.astype(object).where(column.notna(), "").to_numpy(object)
        elif column.dtype.kind == "M":
            seconds = column.to_numpy("datetime64[us]")
            values = np.where(np.isnat(seconds), np.nan, seconds.astype(np.int64) / 1e6)
        elif column.dtype.kind == "m":
            values = column.dt.total_seconds().to_numpy()
        else:
            kind = {"double": "f8", "float": "f4", "int64": "i8", "bool": "?"}[each.type[7:-1]]
            values = column.to_numpy(kind)
        inputs[each.name] = values.reshape(-1, 1)
    return inputs


def assert_same(model, X, exported, inputs=None, rtol=1e-5):
    """Hold the exported model against the original."""
    session = session_of(exported)
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, as_inputs(session, X) if inputs is None else inputs)
    found = dict(zip(names, found, strict=True))
    expected = outputs(model, X)
    if hasattr(model, "predict_proba"):
        assert found["probabilities"].dtype == expected.dtype
        np.testing.assert_allclose(found["probabilities"], expected, rtol=rtol, atol=1e-5)
        sure = np.abs(np.sort(expected, axis=1)[:, -2:] - 0.5).min(axis=1) > 1e-5
        assert sure.sum() > len(X) / 2
        np.testing.assert_array_equal(found["label"][sure], model.predict(X)[sure])
    else:
        assert found["variable"].dtype == np.float64
        expected = expected.reshape(len(X), -1)
        np.testing.assert_allclose(found["variable"], expected, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("n_ensemble", [1, 3])
@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "booleans"])
def test_the_whole(target, preset, n_ensemble):
    model, y = make(target, preset=preset, n_ensemble=n_ensemble)
    model.fit(TABLE, y)
    exported = to_onnx(model, TABLE)
    found = {each.name: each.type[7:-1] for each in session_of(exported).get_inputs()}
    expected = {"size": "double", "colour": "string", "used": "bool", "rooms": "int64"}
    assert found == expected | {"sold": "double"}
    assert_same(model, TABLE, exported)
    new = TABLE[:40].assign(colour="violet", sold=pd.NaT)
    assert_same(model, new, exported)
    assert_same(model, TABLE[:1], exported)


def test_without_rows():
    model, y = make("single")
    exported = to_onnx(model.fit(TABLE, y))
    assert_same(model, TABLE.astype({"rooms": float}), exported)


def test_booleans_with_gaps():
    table = TABLE.assign(used=TABLE.used.astype("boolean").mask(np.arange(len(TABLE)) % 5 == 0))
    model, y = make("single")
    exported = to_onnx(model.fit(table, y), table)
    inputs = as_inputs(session_of(exported), TABLE)
    inputs["used"] = table.used.to_numpy("f8", na_value=np.nan)[:, None]
    assert_same(model, table, exported, inputs)


def test_categories_of_every_type():
    random, n_rows = np.random.default_rng(1), len(TABLE)
    table = pd.DataFrame(
        {
            "whole": random.choice([3, 10, -7, 2**40], n_rows),
            "float": random.choice([0.5, 1e-3, 7.0], n_rows),
            "boolean": random.choice([True, False], n_rows),
            "text": random.choice(["a", "2", "é", " "], n_rows),
            "two": random.choice(["yes", "no"], n_rows),
            "declared": pd.Categorical(random.choice([1, 2, 3], n_rows)),
            "only one": ["x"] * n_rows,
        }
    )
    every = [*table.columns]
    model, y = make("single", categorical_features=every)
    exported = to_onnx(model.fit(table, y), table)
    types = {each.name: each.type[7:-1] for each in session_of(exported).get_inputs()}
    assert types == {
        "whole": "int64", "float": "double", "boolean": "bool", "text": "string",
        "two": "string", "declared": "int64", "only_one": "string",
    }  # fmt: skip
    assert_same(model, table, exported)
    new = table[:30].assign(whole=5, float=np.nan, text="new", two="", declared=[9] * 30)
    new["only one"] = "y"
    assert_same(model, new, exported)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_an_array_of_numbers_is_one_input(dtype):
    random = np.random.default_rng(2)
    X = (random.normal(size=(120, 5)) * [1, 1e3, 1e-3, 1e9, 5] * 1000).astype(dtype)
    if dtype != np.int64:
        X[::7, 1] = np.nan
    X[:, 4] = X[:, 4] > 0
    model, _ = make("single", categorical_features=[4])
    y = random.normal(size=120)
    exported = to_onnx(model.fit(X, y), X)
    (given,) = session_of(exported).get_inputs()
    assert (given.name, given.shape[1]) == ("X", 5)
    assert_same(model, X, exported, {"X": X})


def test_an_array_of_one_column():
    X = np.linspace(-1, 1, 60)[:, None]
    model, _ = make("single")
    assert_same(model, X, to_onnx(model.fit(X, X[:, 0] ** 2), X), {"X": X})


def test_an_array_of_objects_has_numbered_inputs():
    X = TABLE[["size", "colour", "rooms"]].to_numpy(object)
    model, y = make("binary")
    exported = to_onnx(model.fit(X, y), X)
    session = session_of(exported)
    assert [each.name for each in session.get_inputs()] == ["x0", "x1", "x2"]
    frame = pd.DataFrame({"x0": TABLE["size"], "x1": TABLE.colour, "x2": TABLE.rooms})
    assert_same(model, X, exported, as_inputs(session, frame))


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_tables_of_other_libraries(library):
    table = as_polars(TABLE)
    if library == "pyarrow":
        pytest.importorskip("pyarrow")
        table = table.to_arrow()
    model, y = make("single")
    exported = to_onnx(model.fit(table, y), table)
    assert_same(model, TABLE.astype({"rooms": float}), exported)


def test_dates_of_all_centuries():
    """The calendar is computed in the exported model: leap years, and days before 1970."""
    days = np.arange("1599-12-25", "2405-01-10", 17, dtype="datetime64[D]")
    ends = [f"{year}-{day}" for year in range(1890, 2110) for day in ("12-31", "01-01", "03-01")]
    ends += ["2000-02-29", "2100-02-28", "1900-02-28", "2400-02-29", "1600-02-29"]
    days = np.r_[days, np.array(ends, "datetime64[D]")].astype("datetime64[us]")
    random = np.random.default_rng(3)
    moments = days + random.integers(0, 86_400_000_000, len(days)).astype("timedelta64[us]")
    moments[::50] = days[::50]
    table = pd.DataFrame({"when": moments})
    assert {moments.min() < np.datetime64("1600"), moments.max() > np.datetime64("2404")} == {True}
    phase = (moments - moments.astype("datetime64[Y]")) / np.timedelta64(365, "D")
    model = TabularMLPRegressor(max_iter=8, random_state=0).fit(table, np.sin(2 * np.pi * phase))
    assert model.preprocessing_[0].encodings_[0].cycles == ("year", "week", "day")
    exported = to_onnx(model, table)
    assert_same(model, table, exported)


def test_numbers_that_float32_cannot_tell_apart():
    X = pd.DataFrame({"x": 1e9 + np.arange(100.0)})
    y = 1e9 + np.arange(100.0)
    model, _ = make("single", max_iter=60)
    exported = to_onnx(model.fit(X, y), X)
    session = session_of(exported)
    (found,) = session.run(None, as_inputs(session, X))
    np.testing.assert_allclose(found[:, 0] - 1e9, model.predict(X) - 1e9, atol=1e-3)
    assert np.ptp(found) > 50


@pytest.mark.parametrize("labels", [[True, False], [3, 7, 9], ["a"]])
def test_other_labels(labels):
    y = np.array(labels)[np.arange(len(TABLE)) % len(labels)]
    model, _ = make("binary")
    exported = to_onnx(model.fit(TABLE, y), TABLE)
    session = session_of(exported)
    label, probabilities = session.run(None, as_inputs(session, TABLE))
    np.testing.assert_array_equal(label, model.predict(TABLE))
    np.testing.assert_allclose(probabilities, model.predict_proba(TABLE), atol=1e-5)


def test_networks_of_float64():
    model, y = make("binary", precision="float64")
    assert_same(model.fit(TABLE, y), TABLE, to_onnx(model, TABLE), rtol=1e-6)


def test_in_a_pipeline():
    model, y = make("multiclass")
    X = TABLE[["size", "rooms"]].to_numpy()
    pipeline = make_pipeline(model).fit(X, y)
    assert_same(pipeline, X, to_onnx(pipeline, X), {"X": X})


def test_other_tables_are_refused():
    model, y = make("single")
    model.fit(TABLE, y)
    with pytest.raises(ValueError, match="feature names"):
        to_onnx(model, TABLE.rename(columns={"size": "length"}))
