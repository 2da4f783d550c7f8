"""What TableEncoder reads, from every library, and what it refuses to."""

import datetime
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array

from fastbp.tabular import TableEncoder


def table(n=200):
    """All kinds of columns, with and without missing values, as Python objects."""
    generator = np.random.default_rng(2)

    def some(values):
        return [
            None if missing else v
            for v, missing in zip(values, generator.random(n) < 0.1, strict=True)
        ]

    moments = [
        datetime.datetime(2021, 1, 1) + datetime.timedelta(minutes=int(m))
        for m in generator.integers(0, 10**6, n)
    ]
    full = {
        "whole": generator.integers(0, 2**60, n).tolist(),
        "number": generator.normal(size=n).tolist(),
        "boolean": (generator.random(n) < 0.5).tolist(),
        "text": generator.choice(["a", "b", "ü, «quoted»", ""], n).tolist(),
        "binary": generator.choice(["m", "f"], n).tolist(),
        "moment": moments,
        "day": [moment.date() for moment in moments],
        "duration": [datetime.timedelta(seconds=int(s)) for s in generator.integers(0, 999, n)],
        "clock": [moment.time() for moment in moments],
        "decimal": [Decimal(int(c)).scaleb(-2) for c in generator.integers(0, 999, n)],
        "written": [str(moment.date()) for moment in moments],
    }
    gaps = {f"{name}_gaps": some(values) for name, values in full.items()}
    return full | gaps | {"constant": [7.0] * n, "nothing": [None] * n}


def forms_of(data):
    """A table in the forms of all libraries, declared categories among them."""
    polars = pl.DataFrame(data)
    declared = polars.with_columns(
        pl.col("text", "text_gaps").cast(pl.Categorical),
        pl.col("binary", "binary_gaps").cast(pl.Enum(["unused", "m", "f"])),
        pl.col("moment", "moment_gaps").dt.replace_time_zone("America/Lima"),
    )
    yield polars
    yield declared
    yield pd.DataFrame(data)
    yield pd.DataFrame(data, dtype=object)
    yield pd.DataFrame(data).convert_dtypes()
    yield pd.DataFrame(data).astype({"text": "category", "binary_gaps": "category"})
    try:
        import pyarrow
    except ImportError:
        return
    yield polars.to_arrow()
    yield declared.to_arrow()
    yield polars.to_arrow().to_pandas(types_mapper=pd.ArrowDtype)
    yield declared.to_arrow().to_pandas()
    yield pyarrow.Table.from_batches(polars.to_arrow().to_batches(max_chunksize=50))
    yield polars.to_arrow().combine_chunks().to_batches()[0]


def test_parts_of_an_arrow_table_may_number_the_categories_differently():
    pyarrow = pytest.importorskip("pyarrow")
    parts = [pyarrow.array(list(letters)).dictionary_encode() for letters in ("abc", "ca", "d")]
    X = pyarrow.table({"c": pyarrow.chunked_array(parts)})
    assert TableEncoder().fit_transform(X).argmax(axis=1).tolist() == [0, 1, 2, 2, 0, 3]


def test_all_libraries_give_the_same_numbers():
    data = table()
    forms = [*forms_of(data)]
    array = np.array([*data.values()], dtype=object).T
    expected = TableEncoder().fit(array).transform(array)
    encoders = [TableEncoder().fit(form) for form in forms]
    names = encoders[0].get_feature_names_out()
    for encoder, form in zip(encoders, forms, strict=True):
        assert encoder.get_feature_names_out().tolist() == names.tolist()
        np.testing.assert_allclose(encoder.transform(form), expected, rtol=1e-14, atol=1e-14)
    for form in forms:  # and of a model from one library they take the others' rows
        np.testing.assert_allclose(encoders[0].transform(form), expected, rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(encoders[3].transform(form), expected, rtol=1e-14, atol=1e-14)


# ---- what is no table -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "kind", "message"),
    [
        (csr_array([[1.0]]), TypeError, "X is sparse.*MLPClassifier"),
        (pl.LazyFrame({"a": [1]}), TypeError, r"LazyFrame.*collect\(\)"),
        ([1.0, 2.0], ValueError, "Expected 2D array, got 1D array instead"),
        (pd.Series([1.0, 2.0]), ValueError, "Expected 2D array, got 1D array instead"),
        (pl.Series([1.0, 2.0]), ValueError, "Expected 2D array, got 1D array instead"),
        (np.zeros((2, 2, 2)), ValueError, "Expected 2D array, got 3D array instead"),
        (np.array([[1j]]), ValueError, "Complex data not supported"),
        (pd.DataFrame({"a": [1j, None]}, dtype=object), ValueError, "Complex.*column 'a'"),
        (pd.DataFrame({"a": []}), ValueError, r"0 sample\(s\) \(shape=\(0, 1\)\)"),
        (pd.DataFrame(index=[1, 2]), ValueError, r"0 feature\(s\) \(shape=\(2, 0\)\)"),
        (np.zeros((0, 3)), ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\)"),
        (pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]), ValueError, "2 columns named 'a'"),
        (pd.DataFrame({"a": [[1], None]}), TypeError, "Column 'a' holds values of type list"),
        (pd.DataFrame({"a": [{}, None]}), TypeError, "Column 'a' holds values of type dict"),
        (pd.DataFrame({"a": ["x", ("x",)]}), TypeError, "Column 'a' holds values of type tuple"),
        (pl.DataFrame({"a": [[1], [2]]}), TypeError, r"Column 'a' is of type List\(Int64\)"),
        (pl.DataFrame({"a": [{"b": 1}]}), TypeError, "Column 'a' is of type Struct"),
        (pd.DataFrame({"a": [1], 5: [2]}), TypeError, "all input features have string names"),
    ],
)
def test_what_is_no_table_is_refused_and_changes_nothing(X, kind, message):
    encoder = TableEncoder().fit([[1.0, "a"], [2.0, "b"]])
    before = pickle.dumps(encoder)
    with pytest.raises(kind, match=message):
        encoder.fit(X)
    assert pickle.dumps(encoder) == before


def test_nested_values_are_refused_later_too():
    encoder = TableEncoder().fit(pd.DataFrame({"n": [1.0, 2], "c": ["x", "y"]}))
    for later in ({"n": [[1], 2], "c": ["x", "y"]}, {"n": [1, 2], "c": ["x", ["y"]]}):
        with pytest.raises(TypeError, match="of type list"):
            encoder.transform(pd.DataFrame(later))
