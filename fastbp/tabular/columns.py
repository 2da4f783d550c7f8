"""The columns of a table, whichever library it comes from, as numpy arrays.

Each reader below turns one column into a `Column`; what follows from there knows no pandas, polars
or pyarrow. None of them is imported here: who has a frame has its library, too.
"""

import re
import sys
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse

# Cells that are no single values.
_NESTED = (list, tuple, dict, set, frozenset, np.ndarray)

_NUMBERS = (Real, Decimal, np.bool_)
_DURATIONS = (timedelta, np.timedelta64)
_DATES = (date, np.datetime64)

# Dates as ISO 8601 writes them, the only form that cannot be mistaken for another.
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?Z?)?")


@dataclass(frozen=True, eq=False)
class Column:
    """A column in one of two forms: a value for each row, or distinct values and their places.

    Attributes
    ----------
    name : str
        How messages call it.
    values : ndarray
        Numbers, booleans, datetime64, timedelta64 or Python objects: those of the rows, or where
        there are `codes` the distinct ones.
    codes : ndarray of int or None
        For each row the position in `values`; -1 is a missing value.
    declared : bool
        Whether the table says that these are categories.
    """

    name: str
    values: np.ndarray
    codes: np.ndarray | None = None
    declared: bool = False

    def kind(self):
        """What the column holds, by its dtype or its Python objects.

        Returns
        -------
        kind : {"numerical", "boolean", "datetime", "categorical", "empty"}
            "empty" is a column without a single value.
        """
        if self.codes is not None and not (self.codes >= 0).any():
            return "empty"
        if self.declared:
            return "categorical"
        kind = self.values.dtype.kind
        if kind == "O":
            return self._kind_of_objects()
        if kind == "b":
            return "boolean"
        empty = kind in "fmM" and (self.values != self.values).all()
        return "empty" if empty else "datetime" if kind == "M" else "numerical"

    def _kind_of_objects(self):
        types = {*map(type, self.values)}
        refuse_nested(types, self.name)
        if not types <= {str, type(None)}:
            types = {*map(type, self.values[~missing_among(self.values)])}
        types.discard(type(None))
        if not types:
            return "empty"
        if _all(types, str):
            return "datetime" if self._holds_dates() else "categorical"
        if _all(types, (bool, np.bool_)):
            return "boolean"
        if _all(types, complex):
            raise ValueError(f"Complex data not supported: column {self.name} holds some.")
        if _all(types, _NUMBERS) or _all(types, _DURATIONS) or _all(types, time):
            return "numerical"
        return "datetime" if _all(types, _DATES) else "categorical"

    def _holds_dates(self):
        """Whether all texts are dates. Nearly always the first one tells that they are not."""
        if not _DATE.fullmatch(next(filter(None, self.values), "")):
            return False
        moments = [_moment(text) for text in self.distinct().values if text is not None]
        return not np.isnat(moments).any()

    def distinct(self):
        """The same column in the form with codes."""
        if self.codes is not None:
            return self
        if self.values.dtype.kind != "O":
            values, codes = np.unique(self.values, return_inverse=True)
            return Column(self.name, values.astype(object), codes)
        refuse_nested({*map(type, self.values)}, self.name)
        listed = self.values.tolist()
        try:
            positions = {value: position for position, value in enumerate(dict.fromkeys(listed))}
        except TypeError as error:
            raise TypeError(
                f"Column {self.name} holds a value that is no category: {error}."
            ) from None
        codes = np.fromiter(map(positions.__getitem__, listed), np.intp, len(listed))
        return Column(self.name, _objects(list(positions)), codes)

    def categories(self):
        """What each row says, as texts, so that 1, 1.0 and "1" are the same category.

        A file may hold numbers in one part and, because of a single text, all texts in another.

        Returns
        -------
        codes : ndarray of int of shape (n_rows,)
            Positions in `texts`; -1 is a missing value.
        texts : list of str or None
            None is a missing value, too.
        """
        column = self.distinct()
        values = column.values.tolist()
        if {*map(type, values)} == {str}:
            return column.codes, values
        return column.codes, [None if is_missing(value) else as_text(value) for value in values]

    def numbers(self):
        """The rows as float64, with NaN for what is missing; durations in seconds.

        Raises
        ------
        ValueError
            If some are no numbers, or infinite.
        """
        if self.codes is not None:
            numbers = np.append(Column(self.name, self.values).numbers(), np.nan)
            return numbers[self.codes]
        kind = self.values.dtype.kind
        if kind == "m":
            numbers = _seconds(self.values)
        elif kind in "biuf":
            numbers = self.values.astype(np.float64)
        elif kind == "O":
            numbers = self._numbers_of_objects()
        else:
            raise self._unexpected("numbers", self.values[0])
        if np.isinf(numbers).any():
            raise ValueError(
                "Input X contains infinity or a value too large for dtype('float64'), "
                f"in column {self.name}. Missing values may be NaN or None."
            )
        return numbers

    def _numbers_of_objects(self):
        refuse_nested({*map(type, self.values)}, self.name)
        numbers, present = np.full(len(self.values), np.nan), ~missing_among(self.values)
        values = self.values[present]
        types = {*map(type, values)}
        if not _all(types, (*_NUMBERS, *_DURATIONS, time)):
            wrong = next(v for v in values if not isinstance(v, (*_NUMBERS, *_DURATIONS, time)))
            raise self._unexpected("numbers", wrong)
        if any(issubclass(kind, (*_DURATIONS, time)) for kind in types):
            values = [_number(value) for value in values]
        try:
            numbers[present] = [*values]
        except OverflowError:
            numbers[present] = np.inf
        return numbers

    def signs(self):
        """The rows' booleans as 1 and -1 in float64, with 0 for what is missing.

        Raises
        ------
        ValueError
            If some are neither True nor False, nor 1 nor 0.
        """
        if self.codes is not None:
            return np.append(Column(self.name, self.values).signs(), 0.0)[self.codes]
        if self.values.dtype.kind == "b":
            return np.where(self.values, 1.0, -1.0)
        numbers = self.numbers()
        wrong = ~((numbers == 0) | (numbers == 1) | np.isnan(numbers))
        if wrong.any():
            raise self._unexpected("booleans", self.values[wrong.argmax()])
        return np.nan_to_num(2 * numbers - 1)

    def moments(self):
        """The rows as datetime64 in their own clock, with NaT for what is missing.

        Raises
        ------
        ValueError
            If some are no dates. A text that is none counts as missing, like an unknown category.
        """
        if self.codes is not None or self.values.dtype.kind == "O":
            column = self.distinct()
            moments = np.array([self._moment(v) for v in column.values], "datetime64[us]")
            return np.append(moments, np.datetime64("NaT"))[column.codes]
        if self.values.dtype.kind == "M":
            return self.values
        if np.isnan(self.numbers()).all():
            return np.full(len(self.values), np.datetime64("NaT", "us"))
        raise self._unexpected("dates", self.values[0])

    def _moment(self, value):
        if isinstance(value, (str, *_DATES)) or is_missing(value):
            return _moment(value)
        raise self._unexpected("dates", value)

    def _unexpected(self, expected, value):
        return ValueError(
            f"Column {self.name} must hold {expected}, got {value!r}. A column of categories is "
            "to be named in categorical_features, or to have been one in fit."
        )


# ---- single values --------------------------------------------------------------------------


def _all(types, which):
    return all(issubclass(kind, which) for kind in types)


def refuse_nested(types, name):
    """Refuse cells that hold several values.

    Parameters
    ----------
    types : set of type
    name : str
        The column's.

    Raises
    ------
    TypeError
        Naming the column.
    """
    for kind in types:
        if issubclass(kind, _NESTED):
            raise TypeError(
                f"Column {name} holds values of type {kind.__name__}; a cell must hold a single "
                "number, text, boolean or date. Make a column of each part, or drop it."
            )


def is_missing(value):
    """Whether a value is None, NaN, NaT or pandas.NA, none of which equals itself."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ArithmeticError):
        return True


def missing_among(objects):
    """Which of an array of Python objects are missing."""
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        return pandas.isna(objects)
    return np.fromiter(map(is_missing, objects), bool, len(objects))


def as_text(value):
    """How a category is written; numbers that are equal are written alike."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        number = float(value) if isinstance(value, Decimal) else value
        return str(int(number)) if float(number).is_integer() else str(number)
    return str(value)


def _number(value):
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, np.timedelta64):
        return float(_seconds(np.array([value]))[0])
    if isinstance(value, time):
        return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond * 1e-6
    return float(value)


def _moment(value):
    """A date as datetime64, or NaT if it is none."""
    if is_missing(value):
        return np.datetime64("NaT", "us")
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None)
    elif isinstance(value, str):
        value = value.rstrip("Z") if _DATE.fullmatch(value) else "NaT"
    try:
        return np.datetime64(value).astype("datetime64[us]")
    except ValueError:
        return np.datetime64("NaT", "us")


def _seconds(durations):
    missing = np.isnat(durations)
    unit = durations.dtype
    seconds = durations.astype(np.int64) * (np.ones(1, unit) / np.timedelta64(1, "s"))
    return np.where(missing, np.nan, seconds)


def _objects(values):
    """An array of Python objects, whatever they are."""
    objects = np.empty(len(values), object)
    objects[:] = values
    return objects


# ---- tables ---------------------------------------------------------------------------------


def as_table(X):
    """A table whose columns can be read.

    Parameters
    ----------
    X : DataFrame, pyarrow.Table or array-like of shape (n_rows, n_columns)

    Returns
    -------
    X : pandas.DataFrame, polars.DataFrame, pyarrow.Table or ndarray
        As it came, unless that was a list or something else that can be turned into one of these.

    Raises
    ------
    TypeError
        If X is sparse or lazy.
    ValueError
        If it has not two dimensions.
    """
    if issparse(X):
        raise TypeError(
            "X is sparse, but a table must be dense. For sparse data use MLPClassifier or "
            "MLPRegressor, or pass X.toarray()."
        )
    if _library(X) is not None:
        return X
    if hasattr(X, "collect") and hasattr(X, "collect_schema"):
        raise TypeError("X is a LazyFrame, whose rows are not at hand: pass X.collect().")
    if hasattr(X, "__arrow_c_stream__") and not hasattr(X, "__array__"):
        from pyarrow import table

        return table(X)
    array = np.asarray(X)
    if not isinstance(X, np.ndarray) and array.dtype.kind in "US":
        array = np.array(X, dtype=object)  # numbers beside texts stay numbers
    if array.dtype.kind == "c":
        raise ValueError("Complex data not supported: X must hold real numbers.")
    if array.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {array.ndim}D array instead, of shape {array.shape}. "
            "Reshape your data: array.reshape(-1, 1) makes a table of one column, "
            "array.reshape(1, -1) one of a single row."
        )
    return array


def _library(X):
    """Which of the frame libraries X is of."""
    for name, kind in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table")):
        module = sys.modules.get(name)
        if module is not None and isinstance(X, getattr(module, kind)):
            return name
    return None


def read_columns(X):
    """Read the columns of a table one by one.

    Parameters
    ----------
    X : pandas.DataFrame, polars.DataFrame, pyarrow.Table or ndarray
        As from `as_table`.

    Yields
    ------
    column : Column

    Raises
    ------
    ValueError
        If two columns have one name.
    TypeError
        If a column holds lists or the like.
    """
    library = _library(X)
    if library is None:
        for position in range(X.shape[1]):
            yield _from_numpy(X[:, position], str(position))
        return
    names = [*(X.column_names if library == "pyarrow" else X.columns)]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"X has {names.count(twice)} columns named {twice!r}: rename all but one.")
    if library == "pandas":
        for name, series in X.items():
            yield _from_pandas(series, repr(name))
    else:
        read = _from_polars if library == "polars" else _from_arrow
        columns = X.get_columns() if library == "polars" else X.columns
        for name, column in zip(names, columns, strict=True):
            yield read(column, repr(name))


def _from_numpy(values, name):
    if values.dtype.kind in "USV":
        values = values.astype(object)
    return Column(name, values)


def _from_pandas(series, name):
    import pandas

    dtype = series.dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return Column(name, _objects([*dtype.categories]), series.cat.codes.to_numpy(), True)
    if isinstance(dtype, pandas.StringDtype):
        codes, distinct = pandas.factorize(series)
        return Column(name, _objects([*distinct]), codes)
    if isinstance(dtype, pandas.ArrowDtype):
        return _from_arrow(series.array.__arrow_array__(), name)
    if isinstance(dtype, pandas.DatetimeTZDtype):
        return Column(name, series.dt.tz_localize(None).to_numpy())
    if isinstance(dtype, pandas.PeriodDtype):
        return Column(name, series.dt.to_timestamp().to_numpy())
    if isinstance(dtype, pandas.SparseDtype):
        return _from_numpy(np.asarray(series), name)
    if isinstance(dtype, np.dtype):
        return _from_numpy(series.to_numpy(), name)
    if dtype.kind == "b":
        codes = series.to_numpy(dtype=np.int8, na_value=-1)
        return Column(name, _objects([False, True]), codes)
    if dtype.kind in "iuf":
        return Column(name, series.to_numpy(dtype=np.float64, na_value=np.nan))
    return Column(name, series.to_numpy(dtype=object))


def _from_polars(series, name):
    import polars

    dtype = series.dtype
    if dtype.is_nested():
        raise TypeError(
            f"Column {name} is of type {dtype}; a cell must hold a single number, text, boolean or "
            "date. Make a column of each part, or drop it."
        )
    if dtype in (polars.String, polars.Categorical, polars.Enum):
        texts = series.cast(polars.String)
        distinct = texts.drop_nulls().unique().sort()
        # The rank among the distinct values is the position in their order.
        codes = (texts.rank("dense").cast(polars.Int64) - 1).fill_null(-1).to_numpy()
        return Column(name, _objects(distinct.to_list()), codes, dtype != polars.String)
    if dtype == polars.Boolean:
        codes = series.cast(polars.Int8).fill_null(-1).to_numpy()
        return Column(name, _objects([False, True]), codes)
    if dtype == polars.Time:
        return Column(name, series.cast(polars.Int64).cast(polars.Float64).to_numpy() / 1e9)
    if dtype == polars.Null or dtype.is_numeric():
        return Column(name, series.cast(polars.Float64).to_numpy())
    if dtype == polars.Datetime:
        series = series.dt.replace_time_zone(None)
    return _from_numpy(
        series.to_numpy() if dtype.is_temporal() else _objects(series.to_list()), name
    )


def _from_arrow(array, name):
    import pyarrow
    from pyarrow import compute, types

    dtype = array.type
    declared = types.is_dictionary(dtype)
    if types.is_nested(dtype):
        raise TypeError(
            f"Column {name} is of type {dtype}; a cell must hold a single number, text, boolean or "
            "date. Make a column of each part, or drop it."
        )
    if types.is_boolean(dtype):
        codes = compute.fill_null(array.cast(pyarrow.int8()), -1).to_numpy()
        return Column(name, _objects([False, True]), codes)
    if types.is_timestamp(dtype) and dtype.tz is not None:
        array = compute.local_timestamp(array)
    numeric = types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype)
    if numeric or types.is_null(dtype):
        return Column(name, array.cast(pyarrow.float64(), safe=False).to_numpy())
    if types.is_timestamp(dtype) or types.is_date(dtype) or types.is_duration(dtype):
        return Column(name, array.to_numpy())
    if types.is_time(dtype):
        return Column(name, _objects(array.to_pylist()))
    encoded = array if declared else array.dictionary_encode()
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    codes = compute.fill_null(encoded.indices.cast(pyarrow.int64()), -1).to_numpy()
    return Column(name, _objects(encoded.dictionary.to_pylist()), codes, declared)
