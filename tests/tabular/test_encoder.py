"""TableEncoder: what becomes of each kind of column, whichever library the table comes from."""

import datetime
import pickle
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbp.tabular import SmoothClipScaler, TableEncoder, make_preprocessing

NAN = float("nan")
DAY = 86400.0
TOKYO = datetime.timezone(datetime.timedelta(hours=9))


def encoded(X, **parameters):
    """The encoded columns by their names."""
    encoder = TableEncoder(**parameters)
    matrix = encoder.fit_transform(X)
    return dict(zip(encoder.get_feature_names_out(), matrix.T.tolist(), strict=True))


@parametrize_with_checks([TableEncoder(), SmoothClipScaler()])
def test_scikit_learn_finds_nothing_to_complain_of(estimator, check):
    check(estimator)


# ---- numbers --------------------------------------------------------------------------------


def test_numbers_and_their_missing_ones_are_as_scikit_learn_imputes_them():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(101, 4)) * [1, 1e9, 1e-9, 1e300]
    X[generator.random(X.shape) < 0.2] = NAN
    X[:, 3] = 3 * np.nan_to_num(X[:, 3])
    test = np.full((1, 4), NAN)
    encoder = TableEncoder().fit(X)
    imputer = SimpleImputer(strategy="median", add_indicator=True).fit(X)
    np.testing.assert_array_equal(encoder.transform(X), imputer.transform(X))
    np.testing.assert_array_equal(encoder.transform(test), imputer.transform(test))
    assert encoder.n_numerical_ == 4
    assert [*encoder.get_feature_names_out()][4:] == ["x0_missing", "x1_missing", "x2_missing"]


def test_the_median_of_the_largest_numbers_is_finite():
    X = np.array([[1.7e308], [1.6e308], [NAN]])
    assert TableEncoder().fit_transform(X)[2, 0] == pytest.approx(1.65e308, rel=1e-15)


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        ([1, None, 3], [1, 2, 3]),
        ([Decimal("1.5"), None, Decimal("2.5")], [1.5, 2, 2.5]),
        ([2**53 + 1, 0, 2**62], [2.0**53, 0, 2.0**62]),
        ([10**30, NAN, 10**30], [1e30] * 3),
        ([datetime.timedelta(minutes=1), pd.NaT, datetime.timedelta(days=1)], [60, 43230, DAY]),
        ([datetime.time(1, 0, 0, 500000), None, datetime.time(3)], [3600.5, 7200.25, 10800]),
        ([np.float32(0.5), pd.NA, 2], [0.5, 1.25, 2]),
        ([True, 2, 0], [1, 2, 0]),
    ],
)
def test_objects_that_are_numbers_are_numbers(cells, numbers):
    column = np.array([*cells, None], dtype=object)[:3]
    frames = pd.DataFrame({"a": pd.Series(column, dtype=object)}), column[:, None]
    for X in frames:
        assert next(iter(encoded(X).values())) == numbers


def test_nullable_numbers_of_pandas_are_numbers():
    for dtype in ("Int64", "UInt8", "Float32"):
        X = pd.DataFrame({"a": pd.array([1, None, 3], dtype=dtype)})
        assert encoded(X) == {"a": [1, 2, 3], "a_missing": [0, 1, 0]}


def test_masked_numbers_are_missing():
    X = np.ma.masked_values([[1], [-9], [3]], -9)
    assert encoded(X) == {"x0": [1, 2, 3], "x0_missing": [0, 1, 0]}


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, 10**400, Decimal("Infinity")])
def test_infinite_numbers_are_refused_with_the_column(wrong):
    kind = float if isinstance(wrong, float) else object
    X = pd.DataFrame({"age": [1.0, 2.0], "price": np.array([1.0, wrong], dtype=kind)})
    message = r"Input X contains infinity or a value too large.*column 'price'"
    with pytest.raises(ValueError, match=message):
        TableEncoder().fit(X)
    encoder = TableEncoder().fit(X.assign(price=1.0))
    with pytest.raises(ValueError, match=message):
        encoder.transform(X)


# ---- categories -----------------------------------------------------------------------------


def test_categories_are_as_scikit_learn_encodes_them():
    generator = np.random.default_rng(1)
    X = pd.DataFrame({"a": generator.choice(["x", "y", "zü", "1"], 50)})
    X["b"] = generator.choice(["p", "q", "r"], 50)
    test = pd.DataFrame({"a": ["x", "new"], "b": [None, "r"]})
    ours = TableEncoder().fit(X)
    theirs = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(X)
    np.testing.assert_array_equal(ours.transform(X), theirs.transform(X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # unknown categories are no news
        np.testing.assert_array_equal(ours.transform(test), theirs.transform(test))
    assert [*ours.get_feature_names_out()] == [*theirs.get_feature_names_out()]


def test_two_categories_share_a_column_and_booleans_have_one():
    X = pd.DataFrame(
        {"sex": ["m", "f", None], "old": [True, None, False], "both": [True, False, True]}
    )
    encoder = TableEncoder().fit(X)
    assert [*encoder.get_feature_names_out()] == ["sex_m", "old", "both"]
    assert encoder.transform(X).tolist() == [[1, 1, 1], [-1, 0, -1], [0, -1, 1]]
    other = pd.DataFrame({"sex": ["d"], "old": [NAN], "both": [0]})
    assert encoder.transform(other).tolist() == [[0, 0, -1]]


def test_unlike_values_in_one_column_are_categories():
    cells = [1, "a", None, 2.5, True, "1", 1.0, b"a", datetime.date(2024, 1, 2), NAN]
    found = encoded(pd.DataFrame({"c": pd.Series(cells, dtype=object)}))
    assert [*found] == ["c_1", "c_2.5", "c_2024-01-02", "c_True", "c_a"]
    assert found["c_a"] == [0, 1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert found["c_1"] == [1, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert found["c_True"] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_categories_may_turn_up_as_numbers():
    """A file with a single text in a column of digits, and a part of it without."""
    train = pd.DataFrame({"zip": ["1234", "0", "77", "x"]})
    encoder = TableEncoder().fit(train)
    for cells in ([1234, 77], [1234.0, NAN], ["1234", None]):
        assert encoder.transform(pd.DataFrame({"zip": cells}))[0].tolist() == [0, 0, 1, 0]


def test_the_most_frequent_categories_get_the_columns():
    cells = ["c"] * 3 + ["a"] * 2 + ["b"] * 2 + ["d"] * 5 + ["once", "one"]
    found = encoded(pd.DataFrame({"k": cells}), max_categories=3)
    assert [*found] == ["k_a", "k_c", "k_d"]
    assert found["k_c"] == [1] * 3 + [0] * 11


def test_what_is_seen_once_gets_no_column_where_there_are_too_few():
    X = pd.DataFrame({"id": [f"id {number}" for number in range(300)], "x": range(300)})
    assert [*encoded(X)] == ["x"]
    X.loc[:1, "id"] = "id 0"
    assert [*encoded(X)] == ["x", "id_id 0"]
    assert len(encoded(X[:50])) == 50  # where there are enough, each gets one


def test_a_text_of_digits_is_no_number():
    X = np.array([["1", 1], ["20", 2], ["3", 3]], dtype=object)
    assert [*encoded(X)] == ["x1", "x0_1", "x0_3", "x0_20"]
    assert [*encoded(X[:, :1].astype(str))] == ["x0_1", "x0_3", "x0_20"]
    assert [*encoded(X.tolist())] == ["x1", "x0_1", "x0_3", "x0_20"]


@pytest.mark.parametrize("chosen", [["b"], [1], [False, True, False], np.array([1])])
def test_categorical_features_are_chosen_as_in_gradient_boosting(chosen):
    X = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [1, 2, 3, 3], "c": [True, False, True, True]})
    assert [*encoded(X, categorical_features=chosen)] == ["a", "c", "b_1", "b_2", "b_3"]
    theirs = HistGradientBoostingClassifier(categorical_features=chosen).fit(X, [0, 1, 0, 1])
    assert theirs.is_categorical_.tolist() == [False, True, False]


def test_what_gradient_boosting_takes_for_categories_by_dtype_we_do_too():
    X = pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3], "c": ["x", "y", "z"]})
    X = X.astype({"b": "category", "c": "category"})
    encoder = TableEncoder().fit(X)
    kinds = [encoding.kind for encoding in encoder.encodings_]
    chosen = make_column_selector(dtype_include="category")(X)
    assert [name for name, kind in zip(X, kinds, strict=True) if kind == "categorical"] == chosen
    assert encoder.n_numerical_ == 1


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["nope"], "the name 'nope', which is none of X's columns"),
        ([7], r"must be in \[0, n_features - 1\], got \[7\]"),
        ([-1], r"must be in \[0, n_features - 1\]"),
        ([True], r"boolean mask must have shape \(n_features,\)"),
        ([1.5], "must be an array-like of bool, int or str"),
        ([1, "c"], "the name '1'|array-like of bool"),
        (None, "Column 'c' holds something else than numbers"),
        (["a"], "Column 'c' holds something else than numbers"),
    ],
)
def test_wrong_categorical_features_are_refused(chosen, message):
    X = pd.DataFrame({"a": [1, 2, 3], "c": ["x", "y", "z"]})
    with pytest.raises(ValueError, match=message):
        TableEncoder(categorical_features=chosen).fit(X)


def test_numbers_that_are_declared_categories_are_numbers_where_others_are_chosen():
    X = pd.DataFrame({"a": pd.Categorical([1, 2, None]), "b": ["x", "y", "z"]})
    assert [*encoded(X)] == ["a_2", "b_x", "b_y", "b_z"]
    assert encoded(X, categorical_features=["b"])["a"] == [1, 2, 1.5]


def test_names_need_columns_with_names():
    with pytest.raises(ValueError, match="the columns of X have no names"):
        TableEncoder(categorical_features=["a"]).fit([[1.0], [2.0]])


@pytest.mark.parametrize(
    "wrong", [dict(categorical_features="all"), dict(max_categories=0), dict(max_categories=2.5)]
)
def test_wrong_parameters_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(InvalidParameterError, match=name):
        TableEncoder(**wrong).fit([[1.0], [2.0]])


# ---- dates ----------------------------------------------------------------------------------


def times(start, n, **step):
    start = datetime.datetime.fromisoformat(start)
    return [start + number * datetime.timedelta(**step) for number in range(n)]


def test_a_moment_is_seconds_and_its_places_in_the_cycles():
    moments = pd.Series(times("2019-12-28T05:00", 2000, hours=7))
    found = encoded(pd.DataFrame({"t": moments}))
    assert found["t"] == [moment.timestamp() for moment in moments.dt.tz_localize("UTC")]
    length = np.where(moments.dt.is_leap_year, 366, 365)
    of_day = moments.dt.hour / 24
    places = {
        "day": of_day,
        "week": (moments.dt.day_of_week + of_day) / 7,
        "year": (moments.dt.day_of_year - 1 + of_day) / length,
    }
    assert [*found] == ["t"] + [
        f"t_{c}_{p}" for c in ("year", "week", "day") for p in ("sin", "cos")
    ]
    for cycle, place in places.items():
        np.testing.assert_allclose(found[f"t_{cycle}_sin"], np.sin(2 * np.pi * place), atol=1e-9)
        np.testing.assert_allclose(found[f"t_{cycle}_cos"], np.cos(2 * np.pi * place), atol=1e-9)


@pytest.mark.parametrize(
    ("moments", "cycles"),
    [
        (times("2024-01-01", 20, hours=1), ""),
        (times("2024-01-01", 40, hours=1), "day"),
        (times("2024-01-01", 40, days=1), "week"),
        (times("2024-01-01", 40, weeks=1), ""),
        (times("2024-01-01", 90, weeks=1), "year"),
        (times("2024-01-01", 400, days=1), "year week"),
        ([datetime.datetime(year, 12, 31) for year in range(2000, 2020)], "week"),
        ([datetime.datetime(2020, 1, 1)], ""),
    ],
)
def test_a_cycle_counts_where_the_column_runs_through_it_and_varies(moments, cycles):
    encoder = TableEncoder().fit(pd.DataFrame({"t": moments}))
    assert " ".join(encoder.encodings_[0].cycles) == cycles


def test_missing_moments_become_the_median_with_an_indicator():
    X = pd.DataFrame({"t": pd.to_datetime(["2024-01-01", None, "2024-01-03", "2024-01-02"])})
    found = encoded(X)
    assert found["t"][1] == found["t"][3]
    assert found["t_missing"] == [0, 1, 0, 0]


def test_all_forms_of_a_date_are_the_same():
    moments = times("2024-01-30", 30, hours=10)
    forms = [
        pd.Series(moments),
        pd.Series(moments).astype("datetime64[s]"),
        pd.Series(moments).dt.tz_localize("Asia/Tokyo"),  # as clocks show it there
        pd.Series(moments, dtype=object),
        pd.Series([moment.replace(tzinfo=TOKYO) for moment in moments], dtype=object),
        pd.Series([np.datetime64(moment, "ms") for moment in moments], dtype=object),
        pd.Series([moment.isoformat() for moment in moments]),
        pd.Series([f"{moment:%Y-%m-%d %H:%M}" for moment in moments], dtype=object),
        pd.Series([f"{moment:%Y-%m-%dT%H:%M:%S.000}Z" for moment in moments]),
    ]
    expected = encoded(pd.DataFrame({"t": moments}))
    assert len(expected) == 5
    for form in forms:
        assert encoded(pd.DataFrame({"t": form})) == expected
    assert encoded(pl.DataFrame({"t": moments})) == expected
    assert encoded(np.array(moments, "datetime64[us]")[:, None]) == {
        name.replace("t", "x0", 1): values for name, values in expected.items()
    }


def test_periods_are_dates():
    months = pd.period_range("2023-01", periods=3, freq="M")
    assert encoded(pd.DataFrame({"m": months}))["m"] == [
        pd.Timestamp(month).timestamp() for month in ("2023-01-01", "2023-02-01", "2023-03-01")
    ]


def test_a_text_that_is_no_date_makes_categories_in_fit():
    train = pd.DataFrame({"t": ["2024-01-01", "2024-01-09", None]})
    for text in ("soon", "2024-02-30", ""):
        mixed = pd.DataFrame({"t": ["2024-01-01", "2024-01-09", text]})
        with pytest.warns(UserWarning, match="look like dates"):
            assert TableEncoder().fit(mixed).encodings_[0].kind == "categorical"
    declared = train.astype("category")
    assert TableEncoder().fit(declared).encodings_[0].kind == "categorical"


# ---- what may change between fit and transform ----------------------------------------------


def test_a_column_without_any_value_gives_nothing():
    X = pd.DataFrame({"a": [1.0, 2.0], "e": [NAN, NAN], "o": [None, None]})
    X["c"] = pd.Categorical([None, None], categories=["x", "y"])
    encoder = TableEncoder().fit(X)
    assert [*encoder.get_feature_names_out()] == ["a"]
    later = pd.DataFrame({"a": [3.0], "e": ["text"], "o": [5], "c": ["x"]})
    assert encoder.transform(later).tolist() == [[3.0]]
    with pytest.raises(ValueError, match="no column with a value"):
        TableEncoder().fit(X[["e", "o", "c"]])


def test_columns_that_are_all_missing_later():
    train = pd.DataFrame(
        {"n": [1.0, 2], "b": [True, False], "c": ["x", "y"], "t": times("2024-01-01", 2, days=1)}
    )
    encoder = TableEncoder().fit(train)
    expected = [[1.5, encoder.encodings_[3].medians[0], 0, 0]]
    for nothing in (None, NAN, pd.NA):
        later = pd.DataFrame({name: pd.Series([nothing], dtype=object) for name in train})
        assert encoder.transform(later).tolist() == expected
    assert encoder.transform(pd.DataFrame({name: [NAN] for name in train})).tolist() == expected
    assert encoder.transform(pl.DataFrame({name: [None] for name in train})).tolist() == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", "many", "Column 'n' must hold numbers, got 'many'"),
        ("b", "yes", "Column 'b' must hold booleans, got 'yes'"),
        ("b", 2, "Column 'b' must hold booleans, got 2"),
        ("t", 5.0, "Column 't' must hold dates, got 5.0"),
    ],
)
def test_another_kind_of_values_is_refused_with_the_column(name, value, message):
    train = pd.DataFrame({"n": [1.0, 2], "b": [True, False], "t": times("2024-01-01", 2, days=1)})
    encoder = TableEncoder().fit(train)
    later = train.astype(object)
    later.loc[1, name] = value
    with pytest.raises(ValueError, match=message):
        encoder.transform(later)
    with pytest.raises(ValueError, match=message.split(", got")[0]):
        encoder.transform(train.assign(**{name: [value, value]}))


def test_other_columns_are_refused_with_their_names():
    X = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    encoder = TableEncoder().fit(X)
    with pytest.raises(ValueError, match="must be in the same order"):
        encoder.transform(X[["b", "a"]])
    with pytest.raises(ValueError, match="unseen at fit time:\n- extra"):
        encoder.transform(X.assign(extra=1))
    with pytest.raises(ValueError, match="yet now missing:\n- b"):
        encoder.transform(pl.DataFrame(X[["a"]]))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        encoder.transform(X.to_numpy())
    with (
        pytest.warns(UserWarning, match="X does not have valid feature names"),
        pytest.raises(ValueError, match="X has 1 features, but TableEncoder is expecting 2"),
    ):
        encoder.transform([[1.0]])


# ---- a transformer as others ---------------------------------------------------------------


def test_without_fit_there_is_nothing():
    for call in (lambda e: e.transform([[1.0]]), lambda e: e.get_feature_names_out()):
        with pytest.raises(NotFittedError):
            call(TableEncoder())


def test_columns_come_in_their_order_and_tell_where_they_are():
    X = pd.DataFrame({"c": ["x", "y", "z"], "b": [True, False, True], "n": [1.0, None, 2.0]})
    X["two"], X["m"] = ["p", "q", "p"], [1, 2, 3]
    encoder = TableEncoder().fit(X)
    assert [*encoder.get_feature_names_out()] == [
        "n",
        "m",
        "n_missing",
        "b",
        "two_q",
        "c_x",
        "c_y",
        "c_z",
    ]
    assert encoder.n_numerical_ == 2
    where = {X.columns[e.position]: (e.kind, e.outputs, e.indicator) for e in encoder.encodings_}
    assert where == {
        "c": ("categorical", (5, 6, 7), None),
        "b": ("boolean", (3,), None),
        "n": ("numerical", (0,), 2),
        "two": ("categorical", (4,), None),
        "m": ("numerical", (1,), None),
    }
    assert encoder.encodings_[0].categories == ("x", "y", "z")
    assert encoder.encodings_[2].median == 1.5


def test_output_names_are_different():
    X = pd.DataFrame({"a": ["b", "c", "b_2"], "a_b": [1, 2, 3], "a_c": [1.0, 2, 3]})
    names = TableEncoder().fit(X).get_feature_names_out().tolist()
    assert len({*names}) == len(names) == 5
    assert names[:2] == ["a_b", "a_c"]


def test_it_is_a_transformer_as_others():
    X = pd.DataFrame({"a": [1.0, None, 3.0], "c": ["x", "y", "z"]}, index=[7, 8, 9])
    encoder = TableEncoder(["c"], max_categories=2)
    assert clone(encoder).get_params() == {"categorical_features": ["c"], "max_categories": 2}
    matrix = encoder.fit(X).transform(X)
    np.testing.assert_array_equal(clone(encoder).fit_transform(X), matrix)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(encoder)).transform(X), matrix)
    for library, kind in (("pandas", pd.DataFrame), ("polars", pl.DataFrame)):
        frame = clone(encoder).set_output(transform=library).fit_transform(X)
        assert isinstance(frame, kind)
        assert [*frame.columns] == [*encoder.get_feature_names_out()]
    assert [*TableEncoder().fit(X.to_numpy()).get_feature_names_out(["p", "q"])][:2] == [
        "p",
        "p_missing",
    ]
    nameless = TableEncoder().fit(X.set_axis([0, 1], axis=1))
    assert [*nameless.get_feature_names_out()][:2] == ["x0", "x0_missing"]


def test_preprocessing_gives_arrays_of_float32_whatever_the_configuration():
    X = pd.DataFrame({"a": [1e300, -1e300, None], "c": ["x", "y", None]})
    preprocessing = make_preprocessing(["c"], max_categories=7)
    assert preprocessing["encoder"].max_categories == 7
    with config_context(transform_output="pandas"):
        found = preprocessing.fit_transform(X)
    assert type(found) is np.ndarray
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(clone(preprocessing).fit(X).transform(X), found)
    assert [*preprocessing.get_feature_names_out()] == ["a", "a_missing", "c_y"]


@pytest.mark.parametrize("wrong", ["05.01.2020", "hello", "2020-13-01"])
def test_a_text_that_is_no_date_is_an_error(wrong):
    """It counted as missing, so that dates in another form were all alike, without a word."""
    days = pd.date_range("2020-01-01", periods=30).strftime("%Y-%m-%d")
    encoder = TableEncoder().fit(pd.DataFrame({"day": days}))
    with pytest.raises(ValueError, match=f"Column 'day' must hold dates.*got '{wrong}'"):
        encoder.transform(pd.DataFrame({"day": [wrong, "2020-01-02"]}))


@pytest.mark.parametrize(
    "texts",
    [
        ["?", *(f"2020-01-{day:02}" for day in range(1, 30))],
        [f"{day:02}.03.2021" for day in range(1, 30)],
        [f"3/{day}/2021" for day in range(1, 30)],
        [f"2021/03/{day:02}" for day in range(1, 30)],
        [f"2021-03-{day:02}T08:00:00+02:00" for day in range(1, 30)],
    ],
)
def test_texts_that_look_like_dates_and_are_none_are_warned_of(texts):
    with pytest.warns(UserWarning, match="taken as categories: its texts look like dates"):
        encoder = TableEncoder().fit(pd.DataFrame({"day": texts}))
    assert encoder.encodings_[0].kind == "categorical"
