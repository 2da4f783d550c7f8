"""What the columns of a file must hold: checked where an error can still name the line.

The encoding of columns is the estimators'; kinds of columns are called as there.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from fastbp.late import imported
from fastbp.table_commands.files import read_table
from fastbp.table_commands.text import no_header_hint
from fastbp.tabular.encoder import TableEncoder
from fastbp.tabular.tables import read_columns

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

MOST_CATEGORIES = TableEncoder().max_categories
_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b")
_FEW = 0.2  # share of values that are no numbers below which text is suspect


def read_for_training(path, reading=None, categorical=(), drop=()):
    """Read a table to train on.

    Columns without a name that are empty or only name the rows are left out.

    Parameters
    ----------
    path : str or path-like
    reading : Reading, default=None
    categorical : collection of str, default=()
        Columns that are categories even if they hold numbers.
    drop : collection of str, default=()
        Columns to leave out.

    Returns
    -------
    table : Table
    notes : list of (str, str)
        Names of columns, and what the user should know of them.

    Raises
    ------
    ValueError, ImportError, OSError
        As from `read_table`; or if there is no column of such a name, an infinite number, or a cell
        of a Parquet file that holds several values.
    """
    table = read_table(path, reading, dict.fromkeys(categorical, "str"))
    check_names(table, [*categorical, *drop])
    table.frame = table.frame.drop(columns=list(drop))
    notes = []
    for name in list(table.frame.columns):
        column = table.frame[name]
        if table.text is not None and name in table.text.unnamed and _says_nothing(column):
            notes.append(
                (name, f"{name} has no name and only names the rows, or is empty: left out")
            )
            table.frame = table.frame.drop(columns=name)
        elif name in categorical:
            table.frame[name] = as_text(column)
        elif _is_text(column):
            notes += [(name, text) for text in _suspicions(table, name)]
        else:
            _refuse_infinity(table, name)
            if _numbers_the_rows(column):
                text = f"column {name!r} only numbers the rows: --drop {name!r} leaves it out"
                notes.append((name, text))
    return table, notes


def read_for_model(path, kinds, reading=None, texts=()):
    """Read a table whose columns must hold what they held in training.

    Parameters
    ----------
    path : str or path-like
    kinds : dict of str to str
        Of the columns that a model needs: "numerical", "boolean", "datetime", "categorical" or
        "empty". All must be there; others may be.
    reading : Reading, default=None
    texts : collection of str, default=()
        Other columns that are text, if they are there.

    Returns
    -------
    table : Table

    Raises
    ------
    ValueError, ImportError, OSError
        As from `read_table`; or if a column is missing or holds something else, with the line of
        the first such value.
    """
    as_texts = [name for name, kind in kinds.items() if kind not in ("numerical", "empty")]
    table = read_table(path, reading, dict.fromkeys([*as_texts, *texts], "str"))
    check_names(table, kinds)
    for name, kind in kinds.items():
        table.frame[name] = _as_kind(table, name, kind)
    return table


# ---- names ------------------------------------------------------------------------------------


def check_names(table, names):
    """Check that columns are there; an error names those that are called nearly so.

    Parameters
    ----------
    table : Table
    names : collection of str

    Raises
    ------
    ValueError
    """
    found = list(table.frame.columns)
    missing = [name for name in names if name not in found]
    if not missing:
        return
    near = [each for name in missing[:3] for each in near_names(name, found)]
    what = "no column" if len(missing) == 1 else "no columns"
    hint = f"; did you mean {listed(near)}?" if near else f"; there are {listed(found)}"
    alone = len(found) == 1 and table.text is not None
    delimiter = ". Is --delimiter needed?" if alone else ""
    raise ValueError(
        f"{table.path} has {what} {listed(missing)}{hint}{delimiter}{no_header_hint(found)}"
    )


def near_names(name, names: Sequence[str]):
    """Those names that are like another one, whatever their case.

    Parameters
    ----------
    name : str
    names : list of str

    Returns
    -------
    near : list of str
        The nearest first.

    Examples
    --------
    >>> near_names("Prize", ["id", "price", "size"])
    ['price', 'size']
    """
    by_lower = {each.lower(): each for each in reversed(names)}
    return [by_lower[each] for each in get_close_matches(name.lower(), by_lower)]


def listed(names: Collection[str], most=8):
    """Names for a message, each once.

    Examples
    --------
    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    names = list(dict.fromkeys(names))
    shown, more = names[:most], len(names) - most
    return ", ".join(map(repr, shown)) + (f" and {more} more" if more > 0 else "")


# ---- values -----------------------------------------------------------------------------------


def as_text(column):
    """A column's values as text; those that are missing stay so.

    Parameters
    ----------
    column : Series

    Returns
    -------
    text : Series

    Examples
    --------
    >>> import pandas
    >>> as_text(pandas.Series([1, 2])).tolist()
    ['1', '2']
    """
    pandas = imported("pandas")
    # Before pandas 3, astype("str") made text of missing values.
    dtype = "str" if int(pandas.__version__.partition(".")[0]) >= 3 else "object"
    return column.map(str, na_action="ignore").astype(dtype)


def as_numbers(column, decimal="."):
    """A column's values as numbers; those that are none are missing.

    Parameters
    ----------
    column : Series
    decimal : str, default="."
        The decimal point.

    Returns
    -------
    numbers : Series of float64

    Examples
    --------
    >>> import pandas
    >>> as_numbers(pandas.Series(["1,5", "x"]), ",").tolist()
    [1.5, nan]
    """
    texts = as_text(column).astype("object")
    if decimal != "." and len(texts):
        texts = texts.map(lambda text: text.replace(decimal, "."), na_action="ignore")
    return imported("pandas").to_numeric(texts, errors="coerce").astype("float64")


def first_wrong(column, converted):
    """The row of the first value that a conversion has lost, and how many there are.

    Parameters
    ----------
    column, converted : Series

    Returns
    -------
    row : int or None
    n_wrong : int
    """
    wrong = np.flatnonzero((converted.isna() & column.notna()).to_numpy())
    return (wrong[0] if len(wrong) else None), len(wrong)


def and_others(n):
    """What to add to a message about the first of n such values.

    Examples
    --------
    >>> and_others(1), and_others(3)
    ('', ' (and 2 more such values)')
    """
    return "" if n == 1 else f" (and {n - 1:,} more such value{'s' if n > 2 else ''})"


def _kind_in_training(table, name):
    """What the estimators would take a column for; an error where its cells hold several values."""
    try:
        return next(read_columns(table.frame[[name]])).kind()
    except TypeError as error:
        raise ValueError(f"{table.path}: {error}") from error


def _is_text(column):
    """Whether a column holds neither numbers nor truths nor dates."""
    types = imported("pandas").api.types
    if column.dtype == object:
        return types.infer_dtype(column, skipna=True) not in ("boolean", "empty")
    return not (types.is_numeric_dtype(column) or column.dtype.kind in "mM")


def _says_nothing(column):
    """Whether a column is empty, or has another number or text in each row."""
    return column.isna().all() or (column.dtype.kind != "f" and column.is_unique)


def _numbers_the_rows(column):
    """Whether a column counts from 0 or 1 without a gap."""
    values = column.to_numpy()
    if values.dtype.kind not in "iu" or len(values) < 3 or values[0] not in (0, 1):
        return False
    return bool((np.diff(values) == 1).all())


def _refuse_infinity(table, name):
    column = table.frame[name]
    if column.dtype.kind != "f":
        return
    rows = np.flatnonzero(np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)))
    if len(rows):
        raise ValueError(
            f"{table.place(rows[0], name)}: {column.iloc[rows[0]]} is infinite"
            f"{and_others(len(rows))}; leave a value empty if it is not known"
        )


def _as_kind(table, name, kind):
    """A column as one of this kind, or an error with the place of what is not."""
    column = table.frame[name]
    if kind == "empty":
        return column
    if kind == "categorical":
        _kind_in_training(table, name)
        return column if table.text is None else as_text(column)
    if kind == "numerical":
        if column.dtype.kind in "iufm":
            _refuse_infinity(table, name)
            return column
        converted, what = as_numbers(column, table.reading.decimal), "number"
    elif kind == "datetime":
        if column.dtype.kind == "M":
            return column
        pandas = imported("pandas")
        converted = pandas.to_datetime(as_text(column), format="ISO8601", errors="coerce", utc=True)
        what = "date such as 2026-01-31"
    else:
        texts = as_text(column).astype("object").map(str.lower, na_action="ignore")
        converted, what = texts.map(_TRUTHS, na_action="ignore"), "truth (true or false)"
    row, n_wrong = first_wrong(column, converted)
    if n_wrong:
        raise ValueError(
            f"{table.place(row, name)}: {str(column.iloc[row])!r} is no {what}, which the model "
            f"expects in this column{and_others(n_wrong)}"
        )
    # The text of a date is the estimators' to read, as in training.
    return column if kind == "datetime" else converted


def _suspicions(table, name):
    """Notes on a text column that may have been meant to hold something else."""
    column, decimal = table.frame[name], table.reading.decimal
    if _kind_in_training(table, name) != "categorical":
        return []  # but dates
    n_known = column.notna().sum()
    row, n_wrong = first_wrong(column, as_numbers(column, decimal))
    if 0 < n_wrong < _FEW * n_known:
        value = str(column.iloc[row])
        return [
            f"{table.place(row, name)}: {value!r} is no number{and_others(n_wrong)}, so that this "
            f"column is taken as categories; if it stands for a missing value: --missing {value!r}"
        ]
    other = "," if decimal == "." else "."
    if n_wrong and not first_wrong(column, as_numbers(column, other))[1]:
        return [
            f"column {name!r} is taken as categories, but its values are numbers with {other!r} as "
            f"decimal point: --decimal {other}"
        ]
    n_different, example = column.nunique(), str(column.dropna().iloc[0])
    if n_different <= MOST_CATEGORIES:
        return []
    hint = f"--drop {name!r} leaves it out"
    if _DATE.match(example):
        hint = f"dates must be written as 2026-01-31, not as {example!r}"
    return [
        f"column {name!r} has {n_different:,} different texts, of which the {MOST_CATEGORIES} most "
        f"frequent are told apart; {hint}"
    ]
