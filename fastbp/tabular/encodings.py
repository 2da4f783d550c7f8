"""What becomes of a column: one record for each kind of column, plain enough to be exported.

A record holds what was learned from its column in `fit`, and where its outputs stand in the encoded
matrix. Its fields are strings, numbers and tuples of them, so that they can be written to a file,
or built into a graph of another runtime. The outputs of a record, by its kind:

- "numerical": the number, or `median` where it is missing;
- "datetime": seconds since 1970, then sine and cosine of 2π times the place in each of `cycles`;
  where the moment is missing, `medians`;
- "boolean": 1 or -1, or 0 where it is missing;
- "categorical": if `two_valued`, -1 for the first of `categories` and 1 for the second, else for
  each of them 1 where it is; 0 for whatever else. Values are compared as `columns.as_text` writes
  them: whole numbers without a point, so that a column of numbers can be compared as numbers;
- "empty": none.

Where `indicator` is not None, that output is 1 where the value is missing and 0 elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastbp.tabular.columns import places_of

# Seconds in a cycle, and how a moment's place in it is found, from 0 to 1.
_DAY = 86400.0


def median(values):
    """The median of finite numbers, however large.

    Parameters
    ----------
    values : ndarray of shape (n,)

    Returns
    -------
    median : float
        0 where there are none.
    """
    if not len(values):
        return 0.0
    # The mean of the middle two would overflow; a power of two changes no digits.
    return float(4 * np.median(values * 0.25))


@dataclass(frozen=True)
class Encoding:
    """What all records have in common.

    Attributes
    ----------
    kind : str
        "numerical", "datetime", "boolean", "categorical" or "empty".
    position : int
        The column's in X.
    outputs : tuple of int
        The columns of the encoded matrix that it gives, but for the indicator.
    indicator : int or None
        The column of the encoded matrix that is 1 where the value is missing and 0 elsewhere.
    """

    # Of the class, unless a record says otherwise: no annotation, no field.
    kind = None
    n_numbers = n_signs = n_one_hot = 0
    has_missing = False

    position: int
    outputs: tuple = ()
    indicator: int | None = None


@dataclass(frozen=True)
class EmptyEncoding(Encoding):
    """A column without any value in fit: it gives nothing, whatever it holds later."""

    kind = "empty"

    @classmethod
    def fitted(cls, position, column):
        """Learn nothing."""
        return cls(position)

    def output_names(self, name):
        """Names of the outputs of a column of that name."""
        return []

    def encode(self, column, encoded):
        """Write nothing."""


@dataclass(frozen=True)
class NumericalEncoding(Encoding):
    """Numbers as they are, the missing ones replaced by the median.

    Attributes
    ----------
    median : float
        That of the values that are not missing.
    has_missing : bool
        Whether some were missing in fit.
    """

    kind = "numerical"
    n_numbers = 1

    median: float = 0.0
    has_missing: bool = False

    @classmethod
    def fitted(cls, position, column):
        """Learn from a column."""
        numbers = column.numbers()
        missing = np.isnan(numbers)
        has_missing = bool(missing.any())
        present = numbers[~missing] if has_missing else numbers
        return cls(position, median=median(present), has_missing=has_missing)

    def output_names(self, name):
        """Names of the outputs of a column of that name."""
        return [name]

    def encode(self, column, encoded):
        """Write a column's outputs into the encoded matrix."""
        numbers = column.numbers()
        missing = np.isnan(numbers)
        if self.indicator is not None:
            encoded[:, self.indicator] = missing
        np.copyto(encoded[:, self.outputs[0]], np.where(missing, self.median, numbers))


# ---- dates ----------------------------------------------------------------------------------


def _place_in_day(moments):
    return (moments - moments.astype("datetime64[D]")) / np.timedelta64(1, "D")


def _place_in_week(moments):
    days = moments.astype("datetime64[D]").astype(np.int64)
    return ((days + 3) % 7 + _place_in_day(moments)) / 7  # the first of January 1970: a Thursday


def _place_in_year(moments):
    years = moments.astype("datetime64[Y]")
    starts, ends = years.astype(moments.dtype), (years + 1).astype(moments.dtype)
    return (moments - starts) / (ends - starts)


CYCLES = {
    "year": (365.2425 * _DAY, _place_in_year),
    "week": (7 * _DAY, _place_in_week),
    "day": (_DAY, _place_in_day),
}


@dataclass(frozen=True)
class DatetimeEncoding(Encoding):
    """Seconds since 1970, and sine and cosine of the places in the cycles of year, week and day.

    Attributes
    ----------
    cycles : tuple of str
        Which of "year", "week" and "day": those that the column runs through in fit and in which
        it varies. Within one cycle, its place says no more than the seconds do.
    medians : tuple of float
        That of each output, which stands for missing values.
    has_missing : bool
        Whether some were missing in fit.
    """

    kind = "datetime"

    cycles: tuple = ()
    medians: tuple = ()
    has_missing: bool = False

    @property
    def n_numbers(self):
        """Number of outputs."""
        return 1 + 2 * len(self.cycles)

    @classmethod
    def fitted(cls, position, column):
        """Learn from a column."""
        moments = _microseconds(column.moments())
        missing = np.isnat(moments)
        present = moments[~missing]
        span = (present.max() - present.min()) / np.timedelta64(1, "s") if len(present) else 0.0
        cycles = []
        for cycle, (length, place) in CYCLES.items():
            # Less than a part in 300, about a day in a year: 31 December of a leap year.
            if span > length and np.ptp(place(present)) > 1 / 300:
                cycles.append(cycle)
        medians = [median(numbers) for numbers in _numbers(present, cycles)]
        return cls(
            position,
            cycles=tuple(cycles),
            medians=tuple(medians),
            has_missing=bool(missing.any()),
        )

    def output_names(self, name):
        """Names of the outputs of a column of that name."""
        parts = [f"{name}_{cycle}_{part}" for cycle in self.cycles for part in ("sin", "cos")]
        return [name, *parts]

    def encode(self, column, encoded):
        """Write a column's outputs into the encoded matrix."""
        moments = _microseconds(column.moments())
        missing = np.isnat(moments)
        if self.indicator is not None:
            encoded[:, self.indicator] = missing
        moments = np.where(missing, np.datetime64(0, "us"), moments)
        parts = zip(self.outputs, self.medians, _numbers(moments, self.cycles), strict=True)
        for output, fill, numbers in parts:
            encoded[:, output] = np.where(missing, fill, numbers)


def _microseconds(moments):
    return moments.astype("datetime64[us]")


def _numbers(moments, cycles):
    yield moments.astype(np.int64) / 1e6
    for cycle in cycles:
        angle = 2 * np.pi * CYCLES[cycle][1](moments)
        yield np.sin(angle)
        yield np.cos(angle)


# ---- booleans and categories ----------------------------------------------------------------


@dataclass(frozen=True)
class BooleanEncoding(Encoding):
    """True as 1, False as -1, a missing value as 0."""

    kind = "boolean"
    n_signs = 1

    @classmethod
    def fitted(cls, position, column):
        """Learn from a column, which is only to find out that it can be read."""
        column.signs()
        return cls(position)

    def output_names(self, name):
        """Names of the outputs of a column of that name."""
        return [name]

    def encode(self, column, encoded):
        """Write a column's outputs into the encoded matrix."""
        encoded[:, self.outputs[0]] = column.signs()


@dataclass(frozen=True)
class CategoricalEncoding(Encoding):
    """A column for each category, 1 where it is; of two categories one column of -1 and 1.

    Missing values, and categories that have no column, give zeros.

    Attributes
    ----------
    categories : tuple of str
        As texts; numbers in the order of their values, then the other texts. Of more than
        `max_categories` the most frequent, without those that were seen only once.
    two_valued : bool
        Whether there were exactly two in fit, which share one output: -1 and 1.
    """

    kind = "categorical"

    categories: tuple = ()
    two_valued: bool = False

    @property
    def n_signs(self):
        """Number of outputs of -1 and 1."""
        return int(self.two_valued)

    @property
    def n_one_hot(self):
        """Number of outputs of 0 and 1."""
        return 0 if self.two_valued else len(self.categories)

    @classmethod
    def fitted(cls, position, column, max_categories):
        """Learn from a column."""
        codes, texts = column.categories()
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
        found = np.flatnonzero(counts)
        two_valued = len(found) == 2
        if len(found) > max_categories and not two_valued:
            found = _most_frequent(found, counts, texts, max_categories)
        categories = sorted((texts[number] for number in found), key=_order)
        return cls(position, categories=tuple(categories), two_valued=two_valued)

    def output_names(self, name):
        """Names of the outputs of a column of that name."""
        return [f"{name}_{category}" for category in self.categories[int(self.two_valued) :]]

    def encode(self, column, encoded):
        """Write a column's outputs into the encoded matrix: zeros, in Fortran's order."""
        codes, texts = column.categories()
        known = {category: number for number, category in enumerate(self.categories)}
        numbers = places_of(texts, known)[codes]
        if self.two_valued:
            encoded[:, self.outputs[0]] = np.array([-1.0, 1.0, 0.0])[numbers]
        elif self.outputs:
            rows = np.flatnonzero(numbers >= 0)
            in_one_row = encoded.T.reshape(-1)  # a view, of one column behind the other
            in_one_row[(self.outputs[0] + numbers[rows]) * len(encoded) + rows] = 1.0


def _most_frequent(found, counts, texts, number):
    """At most so many categories, none that was seen only once: of equally frequent the first."""
    found = found[counts[found] > 1]
    if len(found) <= number:
        return found
    least = np.partition(counts[found], -number)[-number]
    more = found[counts[found] > least]
    equal = sorted(found[counts[found] == least], key=lambda place: _order(texts[place]))
    return [*more, *equal[: number - len(more)]]


def _order(text):
    """Numbers by value, before texts by the alphabet."""
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    return (0, number, text) if np.isfinite(number) else (1, 0.0, text)


# By their kinds.
ENCODINGS = {
    record.kind: record
    for record in (
        BooleanEncoding,
        CategoricalEncoding,
        DatetimeEncoding,
        EmptyEncoding,
        NumericalEncoding,
    )
}


# ---- the layout of the encoded matrix -------------------------------------------------------


def placed(encodings):
    """Give every record its columns of the encoded matrix.

    Numbers come first, then the indicators of missing ones, what is -1 or 1, and one-hot columns.

    Parameters
    ----------
    encodings : list of Encoding

    Returns
    -------
    encodings : list of Encoding
    n_outputs : int
    """
    taken, outputs, indicators = 0, {}, {}

    def take(number):
        nonlocal taken
        taken += number
        return tuple(range(taken - number, taken))

    for encoding in encodings:
        outputs[encoding.position] = take(encoding.n_numbers)
    for encoding in encodings:
        if encoding.has_missing:
            (indicators[encoding.position],) = take(1)
    for encoding in encodings:
        outputs[encoding.position] += take(encoding.n_signs)
    for encoding in encodings:
        outputs[encoding.position] += take(encoding.n_one_hot)
    encodings = [
        replace(e, outputs=outputs[e.position], indicator=indicators.get(e.position))
        for e in encodings
    ]
    return encodings, taken
