"""The columns of a table, whichever library it comes from.

Each reader turns one column into a `Column`; what follows from there knows no pandas, polars or
pyarrow. None of them is imported here: who has a frame has its library, too.
"""

import sys

import numpy as np
from scipy.sparse import issparse

from fastbp.late import imported
from fastbp.tabular.columns import Column, objects_of


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
        If it has not two dimensions, or two columns of one name.
    """
    if issparse(X):
        raise TypeError(
            "X is sparse, but a table must be dense. For sparse data use MLPClassifier or "
            "MLPRegressor, or pass X.toarray()."
        )
    if _library(X) is not None:
        names = _names(X)
        for name in names if len({*names}) < len(names) else ():
            if names.count(name) > 1:
                raise ValueError(
                    f"X has {names.count(name)} columns named {name!r}: rename all but one."
                )
        return X
    if hasattr(X, "collect") and hasattr(X, "collect_schema"):
        raise TypeError("X is a LazyFrame, whose rows are not at hand: pass X.collect().")
    if hasattr(X, "__arrow_c_stream__") and len(getattr(X, "shape", (0, 0))) == 2:
        return imported("pyarrow").table(X)
    if isinstance(X, np.ma.MaskedArray):
        X = X.filled(None) if X.dtype.kind == "O" else X.astype(np.float64).filled(np.nan)
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


def _names(X):
    return [*(X.column_names if _library(X) == "pyarrow" else X.columns)]


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
    TypeError
        If a column holds lists or the like.
    """
    library = _library(X)
    if library is None:
        for position in range(X.shape[1]):
            yield _from_numpy(X[:, position], str(position))
        return
    if library == "pandas":
        for name, series in X.items():
            yield _from_pandas(series, repr(name))
    else:
        read = _from_polars if library == "polars" else _from_arrow
        columns = X.get_columns() if library == "polars" else X.columns
        for name, column in zip(_names(X), columns, strict=True):
            yield read(column, repr(name))


def _from_numpy(values, name):
    if values.dtype.kind in "USV":
        values = values.astype(object)
    return Column(name, values)


def _from_pandas(series, name):
    import pandas

    dtype = series.dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return Column(name, objects_of([*dtype.categories]), series.cat.codes.to_numpy(), True)
    if isinstance(dtype, pandas.StringDtype):
        codes, distinct = pandas.factorize(series)
        return Column(name, distinct.to_numpy(dtype=object), codes)
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
        return Column(name, objects_of([False, True]), codes)
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
        return Column(name, objects_of(distinct.to_list()), codes, dtype != polars.String)
    if dtype == polars.Boolean:
        codes = series.cast(polars.Int8).fill_null(-1).to_numpy()
        return Column(name, objects_of([False, True]), codes)
    if dtype == polars.Time:
        return Column(name, series.cast(polars.Int64).cast(polars.Float64).to_numpy() / 1e9)
    if dtype == polars.Null or dtype.is_numeric():
        return Column(name, series.cast(polars.Float64).to_numpy())
    if dtype in (polars.Date, polars.Datetime, polars.Duration):
        if dtype == polars.Datetime:
            series = series.dt.replace_time_zone(None)
        kind, numpy_dtype = (
            (polars.Duration, "timedelta64[us]")
            if dtype == polars.Duration
            else (polars.Datetime, "datetime64[us]")
        )
        # The numbers behind them: to_numpy of moments crashes in polars 1.0.
        numbers = series.cast(kind("us")).cast(polars.Int64).fill_null(np.iinfo(np.int64).min)
        return Column(name, numbers.to_numpy().view(numpy_dtype))
    return Column(name, objects_of(series.to_list()))


def _from_arrow(array, name):
    import pyarrow
    from pyarrow import types

    compute = imported("pyarrow.compute")
    dtype = array.type
    declared = types.is_dictionary(dtype)
    if types.is_nested(dtype):
        raise TypeError(
            f"Column {name} is of type {dtype}; a cell must hold a single number, text, boolean or "
            "date. Make a column of each part, or drop it."
        )
    if types.is_boolean(dtype):
        codes = compute.fill_null(array.cast(pyarrow.int8()), -1).to_numpy()
        return Column(name, objects_of([False, True]), codes)
    if types.is_timestamp(dtype) and dtype.tz is not None:
        array = compute.local_timestamp(array)
    numeric = types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype)
    if numeric or types.is_null(dtype):
        return Column(name, array.cast(pyarrow.float64(), safe=False).to_numpy())
    if types.is_timestamp(dtype) or types.is_date(dtype) or types.is_duration(dtype):
        return Column(name, array.to_numpy())
    if types.is_time(dtype):
        return Column(name, objects_of(array.to_pylist()))
    encoded = array if declared else array.dictionary_encode()
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = compute.fill_null(encoded.indices.cast(pyarrow.int64()), -1).to_numpy()
    return Column(name, objects_of(encoded.dictionary.to_pylist()), codes, declared)
