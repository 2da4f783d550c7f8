"""A column of a table: what it holds, and its values as numbers, dates or categories."""

import re
import sys
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import repeat
from numbers import Integral, Real

import numpy as np

from fastbp.warned import warn

# Cells that are no single values.
_NESTED = (list, tuple, dict, set, frozenset, np.ndarray)

_NUMBERS = (Real, Decimal, np.bool_)
_DURATIONS = (timedelta, np.timedelta64)
_DATES = (date, np.datetime64)

# Dates as ISO 8601 writes them, the only form that cannot be mistaken for another.
_FIRST_TEXTS = 20  # of a column, by most of which it seems to hold dates or not
_LIKE_A_DATE = re.compile(r"\d{4}-\d\d|\d{4}/\d\d?/\d\d?|\d\d?[./-]\d\d?[./-]\d{4}")
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
        """Whether all texts are dates; warn if they seem to be meant as such, and are not.

        Nearly always the first ones tell that they are not.
        """
        texts = [text for text in self.distinct().values[:_FIRST_TEXTS] if isinstance(text, str)]
        alike = sum(bool(_LIKE_A_DATE.match(text)) for text in texts)
        if 2 * alike <= len(texts):
            return False
        texts = [text for text in self.distinct().values if isinstance(text, str)]
        wrong = [text for text in texts if np.isnat(_moment(text))]
        if wrong and len(texts) > 1:
            warn(
                f"Column {self.name} is taken as categories: its texts look like dates, but "
                f"{len(wrong)} of {len(texts)} different ones are none in the form 2024-12-31, "
                f"such as {wrong[0]!r}. pandas.to_datetime reads other forms; "
                "categorical_features names columns that are meant as categories."
            )
        return not wrong

    def distinct(self):
        """The same column in the form with codes."""
        if self.codes is not None:
            return self
        if self.values.dtype.kind != "O":
            values, codes = np.unique(self.values, return_inverse=True)
            return Column(self.name, values.astype(object), codes)
        types = {*map(type, self.values)}
        refuse_nested(types, self.name)
        listed = self.values.tolist()
        if types & {bool, np.bool_} and not _all(types, (bool, np.bool_, type(None))):
            # True equals 1: whichever came first would stand for both.
            listed = [str(v) if isinstance(v, bool | np.bool_) else v for v in listed]
        try:
            positions = {value: position for position, value in enumerate(dict.fromkeys(listed))}
        except TypeError as error:
            raise TypeError(
                f"Column {self.name} holds a value that is no category: {error}."
            ) from None
        codes = np.fromiter(map(positions.__getitem__, listed), np.intp, len(listed))
        return Column(self.name, objects_of(list(positions)), codes)

    def categories(self):
        """What each row says, as texts, so that 1, 1.0 and "1" are the same category.

        A file may hold numbers in one part and, because of a single text, all texts in another.

        Returns
        -------
        codes : ndarray of int of shape (n_rows,)
            Positions in `texts`; -1 is a missing value.
        texts : list of str
            All different. Some may occur in no row.
        """
        column = self.distinct()
        values = column.values.tolist()
        if {*map(type, values)} == {str} and len({*values}) == len(values):
            return column.codes, values
        texts = [None if is_missing(value) else as_text(value) for value in values]
        positions = {}
        for text in texts:
            if text is not None:
                positions.setdefault(text, len(positions))
        return places_of(texts, positions)[column.codes], [*positions]

    def numbers(self, expected="numbers"):
        """The rows as float64, with NaN for what is missing; durations in seconds.

        Parameters
        ----------
        expected : str, default="numbers"
            What a message is to ask for.

        Returns
        -------
        numbers : ndarray of shape (n_rows,)

        Raises
        ------
        ValueError
            If some are no numbers, or infinite.
        """
        if self.codes is not None:
            numbers = np.append(Column(self.name, self.values).numbers(expected), np.nan)
            return numbers[self.codes]
        kind = self.values.dtype.kind
        if kind == "m":
            numbers = _seconds(self.values)
        elif kind in "biuf":
            numbers = self.values.astype(np.float64)
        elif kind == "O":
            numbers = self._numbers_of_objects(expected)
        else:
            raise self._unexpected(expected, self.values[0])
        if np.isinf(numbers).any():
            raise ValueError(
                "Input X contains infinity or a value too large for dtype('float64'), "
                f"in column {self.name}. Missing values may be NaN or None."
            )
        return numbers

    def _numbers_of_objects(self, expected):
        refuse_nested({*map(type, self.values)}, self.name)
        numbers, present = np.full(len(self.values), np.nan), ~missing_among(self.values)
        values = self.values[present]
        types = {*map(type, values)}
        if not _all(types, (*_NUMBERS, *_DURATIONS, time)):
            wrong = next(v for v in values if not isinstance(v, (*_NUMBERS, *_DURATIONS, time)))
            raise self._unexpected(expected, wrong)
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
        numbers = self.numbers("booleans")
        wrong = ~((numbers == 0) | (numbers == 1) | np.isnan(numbers))
        if wrong.any():
            raise self._unexpected("booleans", self.values[wrong.argmax()])
        return np.nan_to_num(2 * numbers - 1)

    def moments(self):
        """The rows as datetime64 in their own clock, with NaT for what is missing.

        Raises
        ------
        ValueError
            If some are no dates.
        """
        if self.codes is not None or self.values.dtype.kind == "O":
            column = self.distinct()
            moments = np.array([self._moment(v) for v in column.values], "datetime64[us]")
            return np.append(moments, np.datetime64("NaT"))[column.codes]
        if self.values.dtype.kind == "M":
            return self.values
        if np.isnan(self.numbers("dates")).all():
            return np.full(len(self.values), np.datetime64("NaT", "us"))
        raise self._unexpected("dates", self.values[0])

    def _moment(self, value):
        if is_missing(value):
            return np.datetime64("NaT", "us")
        moment = _moment(value) if isinstance(value, (str, *_DATES)) else np.datetime64("NaT")
        if np.isnat(moment):
            is_text = isinstance(value, str)
            raise self._unexpected("dates such as 2024-12-31" if is_text else "dates", value)
        return moment

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
        return str(int(number)) if abs(number) < 2**53 and number == int(number) else str(number)
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


def objects_of(values):
    """An array of Python objects, whatever they are."""
    return np.fromiter(values, object, len(values))


def places_of(texts, positions):
    """Where texts stand, with a last entry for the code -1.

    Parameters
    ----------
    texts : list of str or None
    positions : dict of str to int

    Returns
    -------
    places : ndarray of int of shape (n_texts + 1,)
        -1 is a text that stands nowhere.
    """
    places = np.full(len(texts) + 1, -1)
    places[:-1] = [*map(positions.get, texts, repeat(-1))]
    return places
