"""Estimators for tables in files: the same predictions, or an error that says why not."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from tables import TABLE, TARGETS, make, outputs

import fastbp
from fastbp import TabularMLPClassifier, TabularMLPRegressor, container

each_target = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fastbp"


def copied(model, path):
    """A model saved and loaded, without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(path)
        return fastbp.load(path)


@pytest.mark.smoke
@pytest.mark.parametrize("n_ensemble", [1, 2])
@each_target
def test_round_trip(target, n_ensemble, path):
    model, y = make(target, n_ensemble=n_ensemble, n_threads=1)
    loaded = copied(model.fit(TABLE, y), path)
    assert type(loaded) is type(model)
    assert loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(outputs(loaded, TABLE), outputs(model, TABLE), strict=True)
    np.testing.assert_array_equal(loaded.predict(TABLE), model.predict(TABLE), strict=True)
    new = TABLE[:2].assign(colour="violet", rooms=np.nan, sold=pd.NaT)
    np.testing.assert_array_equal(outputs(loaded, new), outputs(model, new))
    for name in ("loss_curve_", "validation_scores_", "best_iter_", "n_iter_", "n_features_in_"):
        assert getattr(loaded, name) == getattr(model, name), name
    np.testing.assert_array_equal(loaded.feature_names_in_, model.feature_names_in_)
    assert loaded.preprocessing_[0].encodings_ == model.preprocessing_[0].encodings_
    np.testing.assert_array_equal(
        loaded.preprocessing_.get_feature_names_out(), model.preprocessing_.get_feature_names_out()
    )
    # And it trains as the original does.
    np.testing.assert_array_equal(
        outputs(loaded.fit(TABLE, y), TABLE), outputs(model.fit(TABLE, y), TABLE)
    )
    content = path.read_bytes()
    copied(loaded, path)
    assert len(path.read_bytes()) == len(content)


@pytest.mark.parametrize(
    "parameters",
    [
        {"categorical_features": ["rooms", "colour"], "n_threads": 1},
        {"categorical_features": np.array([1, 3])},
        {"categorical_features": [False, True, False, True, False], "preset": "small"},
        {"random_state": np.random.RandomState(3), "time_limit": np.float32(100)},
        {"hidden_layer_sizes": [5, 4], "precision": "float64"},
        {"hidden_layer_sizes": None, "max_iter": 1},
    ],
)
def test_parameters_are_kept(parameters, path):
    model, y = make("single", **parameters)
    loaded = copied(model.fit(TABLE, y), path)
    for name in parameters.keys() - {"random_state"}:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    np.testing.assert_array_equal(loaded.predict(TABLE), model.predict(TABLE))
    np.testing.assert_array_equal(
        loaded.fit(TABLE, y).predict(TABLE), model.fit(TABLE, y).predict(TABLE)
    )


def test_an_index_of_pandas_as_categorical_features(path):
    model, y = make("single", categorical_features=pd.Index(["rooms", "colour"]))
    loaded = copied(model.fit(TABLE, y), path)
    assert [*loaded.categorical_features] == ["rooms", "colour"]
    np.testing.assert_array_equal(loaded.predict(TABLE), model.predict(TABLE))


def test_a_table_without_names(path):
    model, y = make("binary")
    X = TABLE[["size", "rooms"]].to_numpy()
    loaded = copied(model.fit(X, y), path)
    assert not hasattr(loaded, "feature_names_in_")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_what_stays_behind_is_said(path):
    model, y = make("single", callback=print)
    model.set_params(callback=lambda report: None).fit(TABLE, y)
    model.note = "mine"
    with pytest.warns(UserWarning, match=r"Not saved with the model: callback=.*, note") as found:
        model.save(path)
    assert found[0].filename == __file__
    assert fastbp.load(path).callback is None


def test_what_cannot_be_saved(path):
    class Own(TabularMLPRegressor):
        def __init__(self):
            super().__init__(max_iter=1)

    model, y = make("single")
    with pytest.raises(NotFittedError):
        model.save(path)
    with pytest.raises(TypeError, match="a Own may hold more"):
        Own().fit(TABLE, y).save(path)
    with pytest.raises(ValueError, match="max_iter"):
        model.fit(TABLE, y).set_params(max_iter=-1).save(path)
    assert not path.exists()


def test_the_file_is_safetensors(path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model, y = make("single", n_ensemble=2)
    model.fit(TABLE, y).save(path)
    arrays = safetensors.load_file(path)
    np.testing.assert_array_equal(arrays["members.1.coefs.0"], model.estimators_[1].coefs_[0])
    np.testing.assert_array_equal(arrays["bounds"], [[y.min()], [y.max()]])


def test_skops(path):
    skops = pytest.importorskip("skops.io")
    model, y = make("multiclass", n_ensemble=2)
    skops.dump(model.fit(TABLE, y), path)
    types = skops.get_untrusted_types(file=path)
    assert all(name.startswith("fastbp.") for name in types)
    loaded = skops.load(path, trusted=types)
    np.testing.assert_array_equal(loaded.predict_proba(TABLE), model.predict_proba(TABLE))


# ---- files of strangers -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    model, y = make("single", n_ensemble=2)
    model.fit(TABLE, y).save(path)
    return container.read(path)


def change(where, value):
    """A change of the description at a place such as ("members", 0, "class")."""

    def changed(arrays, description):
        *path, last = where
        for key in path:
            description = description[key]
        if value is KeyError:
            del description[last]
        else:
            description[last] = value(description[last]) if callable(value) else value

    changed.__name__ = f"{where}"
    return changed


def change_array(name, function):
    def changed(arrays, description):
        found = function(arrays.pop(name))
        if found is not None:
            arrays[name] = found

    changed.__name__ = name
    return changed


def encoding(column, name, value):
    return change(("preprocessing", "encodings", column, name), value)


def _name_features(arrays, description):
    n_encoded = len(arrays["medians"])
    description["members"][0]["feature_names"] = [f"x{i}" for i in range(n_encoded)]


SIZE, COLOUR, USED, ROOMS, SOLD = range(5)
CHANGES = [
    change(["class"], "TabularMLPClassifier"),
    change(["class"], "MLPRegressor"),
    change(["class"], "Pipeline"),
    change(["members"], []),
    change(["members"], {}),
    change(["members"], lambda members: members[:1]),
    change(["members", 0], 3),
    change(["members", 0, "class"], "MLPClassifier"),
    change(["members", 0, "class"], "TabularMLPRegressor"),
    change(["members", 0, "version"], 99),
    change(["members", 0, "feature_names"], ["a"]),
    _name_features,
    change(["members", 1, "parameters", "checkpoint"], "/tmp/here"),
    change(["members", 1, "network", "layer_sizes", 0], 7),
    change(["parameters", "preset"], "unknown"),
    change(["parameters", "hidden_layer_sizes"], [-1]),
    change(["parameters", "callback"], "print"),
    change(["parameters", "unknown"], 3),
    change(["preprocessing"], None),
    change(["preprocessing", "encodings"], []),
    change(["preprocessing", "encodings"], lambda found: found[:-1]),
    change(["preprocessing", "encodings"], lambda found: found[::-1]),
    change(["preprocessing", "max_categories"], -1),
    change(["preprocessing", "categorical_features"], 3.5),
    change(["preprocessing", "feature_names"], ["a", "b"]),
    change(["preprocessing", "feature_names"], [1, 2, 3, 4, 5]),
    change(["preprocessing", "feature_names"], "abcde"),
    change(["preprocessing", "unknown"], 3),
    encoding(SIZE, "kind", "categorical"),
    encoding(SIZE, "kind", "unknown"),
    encoding(SIZE, "kind", []),
    encoding(SIZE, "median", "nan"),
    encoding(SIZE, "median", {"float": "nan"}),
    encoding(SIZE, "median", True),
    encoding(SIZE, "has_missing", 1),
    encoding(SIZE, "has_missing", False),
    encoding(SIZE, "position", 1),
    encoding(SIZE, "outputs", {"tuple": [3]}),
    encoding(SIZE, "outputs", 0),
    encoding(SIZE, "indicator", -1),
    encoding(SIZE, "median", KeyError),
    encoding(COLOUR, "categories", {"tuple": ["red", "red", "blue"]}),
    encoding(COLOUR, "categories", {"tuple": ["red", 3, "blue"]}),
    encoding(COLOUR, "categories", {"tuple": ["red", "blue"]}),
    encoding(COLOUR, "two_valued", True),
    encoding(SOLD, "cycles", {"tuple": ["century"]}),
    encoding(SOLD, "cycles", {"tuple": []}),
    encoding(SOLD, "medians", {"tuple": [0.0]}),
    change_array("bounds", lambda bounds: None),
    change_array("bounds", lambda bounds: bounds[::-1]),
    change_array("bounds", lambda bounds: bounds.astype(np.float32)),
    change_array("bounds", lambda bounds: bounds * np.nan),
    change_array("bounds", lambda bounds: np.repeat(bounds, 2, axis=1)),
    change_array("medians", lambda medians: medians[:-1]),
    change_array("medians", lambda medians: medians.astype(np.float32)),
    change_array("factors", lambda factors: factors * np.inf),
    change_array("factors", lambda factors: None),
    change_array("members.1.coefs.0", lambda coefs: None),
    change_array("members.1.coefs.0", lambda coefs: coefs.T),
    lambda arrays, description: arrays.update({"members.2.coefs.0": np.zeros(3)}),
]


@pytest.mark.parametrize("changed", CHANGES, ids=lambda changed: changed.__name__)
def test_whatever_a_stranger_writes_is_checked(changed, content, path):
    arrays, description = {**content[0]}, json.loads(json.dumps(content[1]))
    container.write(path, arrays, description)
    fastbp.load(path)  # what was not changed is right
    changed(arrays, description)
    container.write(path, arrays, description)
    with pytest.raises(ValueError, match="cannot be loaded"):
        fastbp.load(path)


def test_two_values_are_two(path):
    model, y = make("single")
    model.fit(TABLE.assign(colour=TABLE.colour == "red").astype({"colour": str}), y).save(path)
    arrays, description = container.read(path)
    encoding = description["preprocessing"]["encodings"][COLOUR]
    assert encoding["two_valued"]
    encoding["categories"]["tuple"].append("more")
    container.write(path, arrays, description)
    with pytest.raises(ValueError, match="column 1 must have two categories"):
        fastbp.load(path)


def test_columns_stand_in_their_order(path):
    model, y = make("single")
    empty = {"a": [None] * len(y), "b": [None] * len(y)}
    model.fit(TABLE.assign(**empty), y).save(path)
    arrays, description = container.read(path)
    description["preprocessing"]["encodings"][-1]["position"] -= 1
    container.write(path, arrays, description)
    with pytest.raises(ValueError, match="The encoding of column 6 is of column 5"):
        fastbp.load(path)


def test_labels_of_all_members_are_the_same(path):
    model, y = make("multiclass", n_ensemble=2)
    model.fit(TABLE, y).save(path)
    arrays, description = container.read(path)
    description["members"][1]["labels"]["classes"]["values"][0] = "other"
    container.write(path, arrays, description)
    with pytest.raises(ValueError, match="Member 1 has other labels"):
        fastbp.load(path)
    assert isinstance(model, TabularMLPClassifier)


def test_every_bit_counts(content, path):
    """The digest covers arrays and description."""
    container.write(path, *content)
    written = bytearray(path.read_bytes())
    for position in np.linspace(0, len(written) - 1, 40).astype(int):
        damaged = written.copy()
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError):  # noqa: PT011
            fastbp.load(path)
