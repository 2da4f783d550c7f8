"""Rows of Parquet files, and the flat file that they are decoded into."""

import gc
import os
import pickle
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import weights

from fastbp import MLPClassifier, MLPRegressor, sources

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:buffer=.* holds .* blocks"),
]
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0, "shuffle": False}


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        random.normal(size=(2500, 4)).astype(np.float32), columns=["a", "b", "c", "d"]
    )
    table["kind"] = np.array(["low", "high"])[(table.a > table.b).astype(int)]
    table["price"] = table.a - table.c
    table["weight"] = random.integers(1, 4, 2500)
    return table


@pytest.fixture
def folder(table, tmp_path):
    """The table in three files of several row groups."""
    for part, first in enumerate((0, 1000, 1700)):
        end = (1000, 1700, 2500)[part]
        table[first:end].to_parquet(tmp_path / f"part-{part}.parquet", row_group_size=300)
    return tmp_path


def open_source(folder, target="kind", columns=("a", "b", "c", "d"), buffer="8kB", **named):
    return sources.from_parquet(folder / "*.parquet", target, columns, buffer=buffer, **named)


@pytest.mark.parametrize("buffer", ["8kB", "1MB"])
def test_a_model_is_that_of_the_table(folder, table, buffer):
    X, y = table[["a", "b", "c", "d"]], table.kind
    expected = MLPClassifier(**QUICK).fit(X, y)
    source = open_source(folder, buffer=buffer)
    model = MLPClassifier(**QUICK).fit(source)
    assert np.array_equal(weights(model), weights(expected))
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert np.array_equal(model.predict(source), expected.predict(X))
    assert np.array_equal(model.predict(X), expected.predict(X))  # and no warning about names
    assert model.score(source) == expected.score(X, y)


def test_numbers_and_weights_are_columns_too(folder, table):
    source = open_source(folder, ["price", "a"], ["b", "c", "d"], sample_weight="weight")
    assert source.dtype == np.float32
    X, y = table[["b", "c", "d"]].to_numpy(), table[["price", "a"]].to_numpy()
    expected = MLPRegressor(**QUICK).fit(X, y, table.weight)
    assert np.array_equal(weights(MLPRegressor(**QUICK).fit(source)), weights(expected))


def test_all_other_columns_are_taken_if_none_are_named(folder):
    with pytest.raises(TypeError, match="has large_string in its column 'kind', not numbers"):
        sources.from_parquet(folder / "*.parquet", "price", sample_weight="weight")
    source = sources.from_parquet(str(folder / "*.parquet"), "kind", sample_weight="weight")
    assert source.feature_names.tolist() == ["a", "b", "c", "d", "price"]
    assert source.shape == (2500, 5)
    mixed = sources.from_parquet([folder / "part-1.parquet"], "kind", ["a", "weight"])
    assert (mixed.dtype, mixed.shape) == (np.float64, (700, 2))
    whole = sources.from_parquet(folder, "kind", ["a"])
    assert whole.shape == (2500, 1)
    half = sources.from_parquet(folder / "part-1.parquet", None, ["a"], dtype=np.float16)
    assert half.file.dtype == np.float16
    assert half.y is None


def test_a_cache_is_used_again_until_the_files_change(folder, table, tmp_path, monkeypatch):
    from fastbp.sources.parquet import Columns

    decoded, decode = [], Columns.decode
    monkeypatch.setattr(
        Columns, "decode", lambda self, file: decoded.append(1) or decode(self, file)
    )
    cache = tmp_path / "x.rows"
    first = open_source(folder, cache=cache)
    again = open_source(folder, cache=cache)
    assert len(decoded) == 1
    X = table[["a", "b", "c", "d"]].to_numpy()
    assert np.array_equal(again.load(), X)
    assert np.array_equal(np.load(cache), X)  # a .npy file like others
    table[:500].to_parquet(folder / "part-0.parquet")
    fewer = open_source(folder, cache=cache)
    assert len(decoded) == 2
    assert fewer.shape[0] == 2000
    with pytest.raises(ValueError, match="changed since the source was made"):
        MLPClassifier(**QUICK).fit(first)
    open_source(folder, columns=["b", "a"], cache=cache)
    assert len(decoded) == 3


def test_another_file_is_not_replaced_by_a_cache(folder, tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros(200))
    with pytest.raises(ValueError, match="is another file than a cache of from_parquet"):
        open_source(folder, cache=tmp_path / "mine.npy")
    assert np.load(tmp_path / "mine.npy").size == 200


def test_a_failed_decoding_leaves_no_file(folder, table, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    table.loc[2400, "b"] = np.inf
    table[1700:].to_parquet(folder / "part-2.parquet")
    descriptors = len(os.listdir("/proc/self/fd"))
    for cache in (tmp_path / "x.rows", None):
        with pytest.raises(ValueError, match=r"part-2\.parquet contains inf in row 2400, column 1"):
            open_source(folder, cache=cache)
    assert not (tmp_path / "x.rows").exists()
    assert os.listdir(tmp_path / "temporary") == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_temporary_file_has_no_name_and_ends_with_the_source(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    source = open_source(folder)
    assert os.listdir(tmp_path / "temporary") == []
    MLPClassifier(**QUICK).fit(source)
    del source
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_source_that_is_collected_closes_its_file_without_a_warning(folder):
    """Python warned of an unclosed file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(folder)
        del source
        gc.collect()
    assert [each for each in caught if each.category is ResourceWarning] == []


@pytest.mark.parametrize("damage", ["foreign", "cut off", "page"])
def test_errors_of_damaged_files_name_them(folder, damage):
    """Those of pyarrow do not say which of many files it is."""
    path = folder / "part-1.parquet"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "foreign": b"a,b\n1,2\n" * 100,
            "cut off": whole[:-100],
            "page": whole[:4] + bytes([255]) * 3000 + whole[3004:],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"part-1\.parquet is no Parquet file, or damaged: "):
        open_source(folder)


def test_a_source_with_a_cache_can_be_sent_to_another_process(folder, tmp_path):
    source = open_source(folder, cache=tmp_path / "x.rows")
    sent = pickle.loads(pickle.dumps(source))
    expected = MLPClassifier(**QUICK).fit(source)
    assert np.array_equal(weights(MLPClassifier(**QUICK).fit(sent)), weights(expected))
    with pytest.raises(TypeError, match="Give from_parquet a cache"):
        pickle.dumps(open_source(folder))


def test_what_is_missing_is_said(folder, table):
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*none-.*'"):
        sources.from_parquet(folder / "none-*.parquet", "kind")
    with pytest.raises(ValueError, match=r"part-0\.parquet must have one column 'cost'"):
        open_source(folder, "cost")
    table.loc[1200, "c"] = None
    table[1000:1700].to_parquet(folder / "part-1.parquet")
    with pytest.raises(ValueError, match=r"part-1\.parquet has 1 missing values in its column 'c'"):
        open_source(folder)
    table.loc[2000, "kind"] = None
    table[1700:].to_parquet(folder / "part-2.parquet")
    with pytest.raises(ValueError, match=r"1 missing values in its column 'kind'"):
        open_source(folder)


def test_columns_in_another_order_are_refused_by_a_model(folder):
    model = MLPClassifier(**QUICK).fit(open_source(folder))
    with pytest.raises(ValueError, match="The columns of the source must be those of training"):
        model.predict(open_source(folder, columns=("b", "a", "c", "d")))


def test_without_pyarrow_it_says_what_to_install(folder, monkeypatch):
    from fastbp.late import imported

    imported.cache_clear()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[parquet\]'"):
        open_source(folder)


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 0.7), ("uint8", -1.0), ("int8", 300.0)])
def test_numbers_that_a_dtype_cannot_hold_are_refused(tmp_path, dtype, value):
    """They were cut off, or wrapped around."""
    pd.DataFrame({"a": [1.0, 2.0, value], "y": [0, 1, 0]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=f"dtype='{dtype}' cannot hold {value}.*'a', row 2"):
        sources.from_parquet(tmp_path / "t.parquet", "y", dtype=dtype)
