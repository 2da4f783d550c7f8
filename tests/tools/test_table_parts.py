"""What the commands for tables are made of: targets, held-out rows, importances, model files."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.inspection import permutation_importance

import fastbp
from fastbp import container
from fastbp.table_commands import models, report
from fastbp.table_commands.files import read_table
from fastbp.table_commands.targets import hold_out, read_target

pandas = pytest.importorskip("pandas")


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        (["a", "b", "a"], "classification", ["a", "a", "b"]),
        (["True", "False", ""], "classification", ["False", "True"]),
        ([*range(10)] * 2, "classification", [*range(10)] * 2),
        ([1, 2, "", 1, 2], "classification", [1, 1, 2, 2]),
        ([1, 2, "", 1], "regression", None),
        ([*range(11)] * 9, "regression", None),
        ([0.5, 1, 2], "regression", None),
    ],
)
def test_task_by_the_target(tmp_path, values, task, labels):
    path = tmp_path / "data.csv"
    path.write_text("x,y\n" + "".join(f"1,{value}\n" for value in values))
    target = read_target(read_table(path), "y")
    assert target.task == task
    assert target.values.dtype.kind == ("f" if labels is None else np.array(labels).dtype.kind)
    if labels is not None:
        assert np.sort(target.values).tolist() == sorted(labels)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["", ""], "no row has a value"), ([3, 3], "all rows have the same value 3 in the column")],
)
def test_targets_without_anything_to_learn(tmp_path, values, expected):
    path = tmp_path / "data.csv"
    path.write_text("x,y\n" + "".join(f"1,{value}\n" for value in values))
    with pytest.raises(ValueError, match=expected):
        read_target(read_table(path), "y")


@pytest.mark.parametrize("counts", [[60, 40], [95, 5], [97, 1, 2], [1] * 30 + [10]])
def test_held_out_rows(tmp_path, counts):
    labels = np.repeat([f"c{index}" for index in range(len(counts))], counts)
    path = tmp_path / "data.csv"
    path.write_text("y,x\n" + "".join(f"{label},1\n" for label in labels))
    target = read_target(read_table(path), "y")
    train, held_out = hold_out(target, 0.2, 0)
    assert sorted([*train, *held_out]) == [*range(len(labels))]
    assert len(held_out) == round(0.2 * len(labels))
    assert {*labels[train]} == {*labels}
    if len(counts) == 2:
        assert (labels[held_out] == "c1").sum() == counts[1] / 5
    assert not np.array_equal(held_out, hold_out(target, 0.2, 1)[1])


def test_importances_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    X = pandas.DataFrame({"noise": rng.normal(size=240), "size": rng.normal(50, 12, 240)})
    X["town"] = rng.choice(["Ulm", "Bonn", "Deutz"], 240)
    y = (3 * X["size"] + 40 * (X["town"] == "Ulm")).to_numpy()
    model = fastbp.TabularMLPRegressor(max_iter=10, random_state=0).fit(X, y)
    found = report.importances(model, X, y, seed=2)
    expected = permutation_importance(model, X, y, n_repeats=5, random_state=2)
    order = [X.columns.get_loc(name) for name in found.names]
    np.testing.assert_array_equal(found.means, expected.importances_mean[order])
    assert (np.diff(found.means) <= 0).all()
    assert found.names == ["size", "town", "noise"]


def test_importances_take_a_bounded_time():
    class Counting(RegressorMixin, BaseEstimator):
        rows = columns = 0

        def fit(self, X, y):
            return self

        def predict(self, X):
            self.rows, self.columns = self.rows + len(X), self.columns + X.shape[1]
            return np.zeros(len(X))

    for n_rows, n_columns in ((20_000, 3), (6000, 150), (500, 700)):
        model = Counting()
        X = pandas.DataFrame(np.zeros((n_rows, n_columns)))
        found = report.importances(model, X, np.arange(n_rows), 0)
        assert len(found.names) == n_columns
        assert model.rows <= 1.1e6
        assert model.columns <= 5.1e5
    X = pandas.DataFrame(np.zeros((9, 708)))
    assert report.importances(Counting(), X, np.arange(9), 0) is None


def test_target_is_in_the_file_beside_the_model(tmp_path):
    X = pandas.DataFrame({"a": np.arange(40.0), "b": 1})
    model = fastbp.TabularMLPRegressor(max_iter=2, random_state=0).fit(X, X["a"])
    models.save(model, tmp_path / "model", 'the "target" ü')
    loaded, target = models.load(tmp_path / "model")
    assert target == 'the "target" ü'
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert models.kinds_of(loaded) == {"a": "numerical", "b": "numerical"}
    # As every safetensors file, it holds its arrays at places that are multiples of 8.
    assert int.from_bytes((tmp_path / "model").read_bytes()[:8], "little") % 8 == 0
    model.save(tmp_path / "other")
    assert models.load(tmp_path / "other")[1] is None
    arrays, description = container.read(tmp_path / "other")
    again, also = container.read(tmp_path / "model")
    assert description == also
    assert arrays.keys() == again.keys()
    models.save(model, tmp_path / "model", "a")
    with pytest.raises(ValueError, match="damaged: it cannot have the target 'a'"):
        models.load(tmp_path / "model")
