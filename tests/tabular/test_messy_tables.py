"""Messy tables straight from a reader of CSV files, without a line of preprocessing."""

import io
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from tabular.messy import N_ROWS, TABLES, as_csv

from fastbp import TabularMLPClassifier, TabularMLPRegressor
from fastbp.tabular import make_preprocessing

N_TRAIN = 120


@pytest.fixture(autouse=True)
def _without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(params=TABLES, ids=lambda table: table.__name__)
def columns(request):
    return request.param(np.random.default_rng(5))


def read_pandas(text):
    return pd.read_csv(io.StringIO(text))


def read_polars(text):
    return pl.read_csv(io.StringIO(text), infer_schema_length=None, try_parse_dates=True)


def read_arrow(text):
    reader = pytest.importorskip("pyarrow.csv")
    options = reader.ConvertOptions(strings_can_be_null=True)
    parsing = reader.ParseOptions(newlines_in_values=True)
    return reader.read_csv(
        io.BytesIO(text.encode()), convert_options=options, parse_options=parsing
    )


READERS = {"pandas": read_pandas, "polars": read_polars, "pyarrow": read_arrow}


def features(columns):
    """Without the label and the target."""
    return dict([*columns.items()][2:])


@pytest.fixture(params=READERS)
def read(request):
    return READERS[request.param]


def rows_of(frame, start, stop):
    return frame.iloc[start:stop] if isinstance(frame, pd.DataFrame) else frame[start:stop]


def test_the_encoded_matrix_is_in_order(columns, read):
    X = read(as_csv(features(columns)))
    train, test = rows_of(X, 0, N_TRAIN), rows_of(X, N_TRAIN, N_ROWS)
    preprocessing = make_preprocessing(max_categories=30)
    encoded = preprocessing.fit_transform(train)
    names = preprocessing.get_feature_names_out()
    later = preprocessing.transform(test)
    assert encoded.shape == (N_TRAIN, len(names))
    assert later.shape == (N_ROWS - N_TRAIN, len(names))
    assert len({*names}) == len(names) <= 31 * len(features(columns))
    assert encoded.dtype == later.dtype == np.float32
    assert abs(encoded).max() <= 3
    assert abs(later).max() <= 3
    assert [*preprocessing.feature_names_in_] == [*features(columns)]
    # Of what varies in the table, something is left.
    varying = [name for name, values in features(columns).items() if len({*values[:N_TRAIN]}) > 1]
    assert np.ptp(encoded, axis=0).astype(bool).sum() >= len(varying) - 3


def test_the_order_of_rows_changes_nothing(columns):
    X = read_pandas(as_csv(features(columns)))
    shuffled = X.sample(frac=1, random_state=0)
    one, other = make_preprocessing().fit(X), make_preprocessing().fit(shuffled)
    assert [*one.get_feature_names_out()] == [*other.get_feature_names_out()]
    np.testing.assert_allclose(one.transform(X), other.transform(X), atol=1e-6)


def test_a_file_of_its_own_means_the_same(columns, read):
    """A part of the rows in another file: a reader finds other dtypes where less is missing."""
    whole = read(as_csv(features(columns)))
    preprocessing = make_preprocessing().fit(rows_of(whole, 0, N_TRAIN))
    expected = preprocessing.transform(whole)
    for start, stop in ((N_TRAIN, N_ROWS), (130, 140), (150, 151)):
        part = read(as_csv(features(columns), slice(start, stop)))
        np.testing.assert_allclose(preprocessing.transform(part), expected[start:stop], atol=1e-6)


def test_all_readers_give_the_same_numbers(columns):
    text = as_csv(features(columns))
    expected = None
    for read in READERS.values():
        X = read(text)
        encoded = make_preprocessing().fit_transform(X)
        expected = encoded if expected is None else expected
        np.testing.assert_allclose(encoded, expected, atol=1e-6)


@pytest.mark.parametrize("target", [0, 1], ids=["classifier", "regressor"])
def test_estimators_fit_and_predict_them_as_they_are(columns, target):
    table = read_pandas(as_csv(columns))
    y = table[[*columns][target]]
    X = table.drop(columns=[*columns][:2])
    estimator = (TabularMLPRegressor if target else TabularMLPClassifier)(
        max_iter=2, random_state=0
    )
    predicted = estimator.fit(X[:N_TRAIN], y[:N_TRAIN]).predict(X[N_TRAIN:])
    assert predicted.shape == (N_ROWS - N_TRAIN,)
    assert {*predicted} <= {*y} if target == 0 else np.isfinite(predicted).all()
