"""The text of a CSV file: its delimiter, its columns and its records, each with its line."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from itertools import islice

DELIMITERS = ",", ";", "\t", "|"
_NAMES_OF_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
_RECORDS_TO_LOOK_AT = 50  # for the delimiter


@dataclass(frozen=True)
class CsvText:
    """A checked CSV text: every record has as many fields as there are columns.

    Use `read_text`, which checks.

    Attributes
    ----------
    path : str
        For messages.
    text : str
    delimiter : str
    columns : tuple of str
        Names, all different; a column without a name is called after its place, "column 3".
    unnamed : frozenset of str
        Those that have got such a name.
    n_records : int
        Rows, without the header.
    """

    path: str
    text: str = field(repr=False)
    delimiter: str
    columns: tuple[str, ...]
    unnamed: frozenset[str]
    n_records: int

    def records(self):
        """Yield (line, fields) of every row, where `line` is the one that it begins on."""
        return islice(_records(self.text, self.delimiter), 1, None)

    def line_of(self, row):
        """The line, from 1, on which a row, from 0, begins.

        Parameters
        ----------
        row : int

        Returns
        -------
        line : int
        """
        return next(islice(self.records(), row, None))[0]

    @property
    def header(self):
        """The names as they stand in the file."""
        return next(_records(self.text, self.delimiter))[1]


def read_text(path, text, delimiter=None):
    """Check a CSV text.

    Parameters
    ----------
    path : str
        For messages.
    text : str
    delimiter : str, default=None
        One character; None finds out.

    Returns
    -------
    checked : CsvText

    Raises
    ------
    ValueError
        It names the line: no header, no rows, two columns of one name, a row with another number
        of fields than the header, a quote that is never closed.

    Examples
    --------
    >>> table = read_text("fruit.csv", "name;price\\napple;1,2\\npear;0,9\\n")
    >>> table.delimiter, table.columns, table.n_records
    (';', ('name', 'price'), 2)
    >>> table.line_of(1)
    3
    """
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    given, delimiter = delimiter, delimiter or _find_delimiter(text)
    n_records = -1
    try:
        for line, fields in _records(text, delimiter):
            if n_records < 0:
                header, header_line = fields, line
            elif len(fields) != len(header):
                break
            n_records += 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {_failing_line(text, delimiter)}: {error}. Is a quote never closed?"
        ) from error
    if _ends_in_quotes(text, delimiter, line):
        raise ValueError(f"{path}, line {line}: a quote opens here and is never closed")
    if len(fields) != len(header):
        how = "" if given else f" (the delimiter was taken to be a {name_of(delimiter)})"
        raise ValueError(
            f"{path}, line {line}: {len(fields)} {_plural('field', len(fields))}, where line "
            f"{header_line}, the header, has {len(header)}{how}"
        )
    columns, unnamed = _column_names(path, header, header_line)
    if not n_records:
        raise ValueError(f"{path}: there is a header on line {header_line}, but no row after it")
    return CsvText(path, text, delimiter, columns, unnamed, n_records)


def name_of(delimiter):
    """How messages call a delimiter.

    Examples
    --------
    >>> name_of("\\t"), name_of("~")
    ('tab', "'~'")
    """
    return _NAMES_OF_DELIMITERS.get(delimiter, repr(delimiter))


def _plural(noun, n):
    return noun if n == 1 else f"{noun}s"


def _records(text, delimiter):
    """Yield (line, fields); blank lines, which pandas leaves out too, are none."""
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    before = 0
    for fields in reader:
        line, before = before + 1, reader.line_num
        # A quoted empty field alone in its line is a value of a table with one column.
        if len(fields) > 1 or (fields and (fields[0].strip() or '"' in lines.last)):
            yield line, fields


class _Lines:
    """The lines of a text, whatever ends them, and the last one that was asked for."""

    def __init__(self, text):
        self._lines, self.last = io.StringIO(text, newline=""), ""

    def __iter__(self):
        return self

    def __next__(self):
        self.last = next(self._lines)
        return self.last


def _find_delimiter(text):
    """That by which most of the first records have as many fields as the header has."""

    def quality(delimiter):
        try:
            first = [*islice(_records(text, delimiter), _RECORDS_TO_LOOK_AT)]
        except csv.Error:
            return 0.0, 0
        counts = [len(fields) for _, fields in first]
        agreeing = sum(n == counts[0] for n in counts) / len(counts)
        return (agreeing if counts[0] > 1 else 0.0), counts[0]

    return max(DELIMITERS, key=quality)  # the first of equals: a comma where there is one column


def _ends_in_quotes(text, delimiter, line):
    """Whether the record that begins on a line is one whose quote is never closed."""
    lines = islice(io.StringIO(text, newline=""), line - 1, None)
    try:
        next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _failing_line(text, delimiter):
    """The line of the record that the csv module refuses, such as one with a huge field."""
    line = 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        for _ in reader:
            line = reader.line_num + 1
    except csv.Error:
        pass
    return line


def _column_names(path, header, line):
    """The names of the columns, and which of them the file does not have."""
    names = [name.strip() for name in header]
    unnamed = set()
    for index, name in enumerate(names):
        if not name:
            names[index] = f"column {index + 1}"
            unnamed.add(names[index])
    places = {}
    for index, name in enumerate(names, 1):
        if name in places:
            raise ValueError(
                f"{path}, line {line}: columns {places[name]} and {index} are both called {name!r}"
                f"{no_header_hint(names)}"
            )
        places[name] = index
    return tuple(names), frozenset(unnamed)


def no_header_hint(names):
    """What to add to a complaint about names that are numbers.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    hint : str
        Empty where one of them is no number.

    Examples
    --------
    >>> no_header_hint(["5.1", "3.5", "setosa"]), no_header_hint(["width", "height"])
    ('', '')
    >>> no_header_hint(["5.1", "3.5"])
    '. All names are numbers: does the file lack its first line, the names of the columns?'
    """
    try:
        for name in names:
            float(name.replace(",", "."))
    except ValueError:
        return ""
    return ". All names are numbers: does the file lack its first line, the names of the columns?"
