"""Tables in files, CSV and Parquet, also gzipped: read, and written with columns added.

They are read by pandas (and pyarrow), which are imported where they are needed. What pandas would
read without a word, such as a row with too few fields, is an error here that names the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import re
import sys
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastbp.files import open_regular, replacing
from fastbp.late import imported
from fastbp.table_commands.text import CsvText, read_text

if TYPE_CHECKING:
    from pandas import DataFrame

STANDARD = "-"  # as a path: standard input
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_PARQUET_NAMES = ".parquet", ".pq"
_OTHER_NAMES = ".xlsx", ".xls", ".ods", ".json", ".feather", ".arrow", ".orc", ".zip", ".fastbp"
_OTHERS = {  # first bytes -> what it is, and what to do
    b"PK\x03\x04": "a zip archive or a workbook of Excel; unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old workbook of Excel; save it as CSV",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard; unpack it",
    b"ARROW1": "an Arrow (Feather) file; save it as Parquet",
    b"\x89HDF": "an HDF5 file; save it as Parquet or CSV",
}
_NAMELESS_INDEX = re.compile(r"__index_level_\d+__")  # how pandas writes it to Parquet
_UTF_16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE


@dataclass(frozen=True)
class Reading:
    """How the text of a CSV file is read.

    Attributes
    ----------
    delimiter : str or None
        None finds out.
    decimal : str
        The decimal point.
    encoding : str or None
        None is UTF-8, or UTF-16 where a byte order mark says so.
    missing : tuple of str
        Values that are missing ones, besides those that pandas takes for it.
    """

    delimiter: str | None = None
    decimal: str = "."
    encoding: str | None = None
    missing: tuple[str, ...] = ()


@dataclass
class Table:
    """A table from a file.

    Attributes
    ----------
    path : str
        For messages.
    frame : DataFrame
    reading : Reading
    text : CsvText or None
        None of a Parquet file.
    has_mark : bool
        Whether the text begins with a byte order mark, which programs like Excel look for.
    """

    path: str
    frame: DataFrame
    reading: Reading = field(default_factory=Reading)
    text: CsvText | None = None
    has_mark: bool = False

    def place(self, row, column=None):
        """Say where a row, from 0, stands in the file.

        Parameters
        ----------
        row : int
        column : str, default=None

        Returns
        -------
        place : str
            Such as "data.csv, line 17, column 'age'".
        """
        number = f"row {row + 1}" if self.text is None else f"line {self.text.line_of(row)}"
        return f"{self.path}, {number}" + ("" if column is None else f", column {column!r}")


def import_pandas():
    """Import pandas.

    Returns
    -------
    pandas : module

    Raises
    ------
    ImportError
        It says how to install it.
    """
    return _import("pandas", "reading tables")


def _import(package, what):
    try:
        return imported(package)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {package.partition('.')[0]}, which is not installed: pip install "
            "'fastbp[tables]'"
        ) from error


# ---- read -------------------------------------------------------------------------------------


def read_table(path, reading=None, dtypes=None):
    """Read a table from a CSV or Parquet file, plain or gzipped; its content says which it is.

    Parameters
    ----------
    path : str or path-like
        "-" is standard input.
    reading : Reading, default=None
        None is `Reading()`.
    dtypes : dict, default=None
        Of columns of a CSV file; pandas infers the others.

    Returns
    -------
    table : Table

    Raises
    ------
    ValueError
        If it is no such file, damaged, or has no rows. It names the line where there is one.
    ImportError
        Without pandas, or pyarrow for Parquet.
    OSError
        The system's.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "fruit.csv")
    >>> _ = path.write_text("name;price\\napple;1,2\\npear;0,9\\n")
    >>> read_table(path, Reading(decimal=",")).frame["price"].tolist()
    [1.2, 0.9]
    """
    pandas, reading = import_pandas(), reading or Reading()
    name = "standard input" if path == STANDARD else os.fsdecode(path)
    content = _content(path, name)
    if content.startswith(_PARQUET) or _suffix(path) in _PARQUET_NAMES:
        return Table(name, _read_parquet(name, content), reading)
    for beginning, what in _OTHERS.items():
        if content.startswith(beginning):
            raise ValueError(f"{name} is no CSV or Parquet file but {what}")
    text = _decode(name, content, reading.encoding)
    del content  # large files should not be in memory twice for longer than they must
    has_mark = text.startswith("\ufeff")
    checked = read_text(name, text[has_mark:], reading.delimiter)
    dtypes = {key: value for key, value in (dtypes or {}).items() if key in checked.columns}
    try:
        frame = pandas.read_csv(
            io.StringIO(checked.text, newline=""),
            sep=checked.delimiter,
            decimal=reading.decimal,
            header=0,
            names=list(checked.columns),
            index_col=False,
            dtype=dtypes,
            na_values=list(reading.missing),
            skipinitialspace=True,
            low_memory=False,  # else a column's type may change between parts of it
        )
    except pandas.errors.ParserError as error:
        raise ValueError(f"{name}: {error}") from error
    if len(frame) != checked.n_records:  # then every line in a message would be wrong
        raise ValueError(
            f"{name}: pandas finds {len(frame)} rows, but Python's csv module {checked.n_records}"
        )
    return Table(name, frame, reading, checked, has_mark)


def _suffix(path):
    name = os.fsdecode(path).lower()
    return os.path.splitext(name.removesuffix(".gz"))[1]


def _content(path, name):
    """The bytes of a file, unpacked."""
    if path == STANDARD:
        content = sys.stdin.buffer.read()
    else:
        file, size = open_regular(path)
        with file:
            content = file.read(size)
    if not content.startswith(_GZIP):
        if os.fsdecode(path).lower().endswith(".gz"):
            raise ValueError(f"{name} is not a gzip file, whatever its name says")
    else:
        try:
            content = gzip.decompress(content)
        except EOFError as error:
            raise ValueError(f"{name} is truncated: its gzip data end too early") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{name} is damaged: {error}") from error
    if not content:
        raise ValueError(f"{name}: the file is empty")
    return content


def _decode(name, content, encoding):
    given = encoding
    if encoding is None:
        encoding = "utf-16" if content.startswith(_UTF_16) else "utf-8"
    # A mark before UTF-8 stays, as U+FEFF; the codec of UTF-16 takes it away.
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = 1 + before.count(b"\n") + before.replace(b"\r\n", b"\n").count(b"\r")
        column = error.start - max(before.rfind(b"\n"), before.rfind(b"\r"))
        hint = "" if given else "; say which encoding the file has, such as --encoding cp1252"
        raise ValueError(
            f"{name}, line {line}, byte {column}: 0x{content[error.start]:02x} is not "
            f"{encoding.upper()} ({error.reason}){hint}"
        ) from error
    except UnicodeError as error:
        raise ValueError(f"{name} is not {encoding.upper()}: {error}") from error
    if "\0" in text:
        where = text.index("\0")
        raise ValueError(
            f"{name}, line {text.count(chr(10), 0, where) + 1}: a zero byte; this is no text file"
        )
    return text


def _read_parquet(name, content):
    if not content.startswith(_PARQUET):
        raise ValueError(f"{name} is not a Parquet file, whatever its name says")
    if len(content) < 12 or not content.endswith(_PARQUET):
        raise ValueError(f"{name} is truncated: a Parquet file ends with the letters PAR1")
    parquet = _import("pyarrow.parquet", "reading Parquet files")
    arrow = imported("pyarrow")
    try:
        table = parquet.ParquetFile(arrow.BufferReader(content)).read()
        frame = _as_frame(table, arrow)
    except (arrow.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} is damaged or not a Parquet file: {reason}") from error
    for column, n in Counter(frame.columns).items():
        if n > 1:
            raise ValueError(f"{name}: {n} columns are called {column!r}")
    if not len(frame):
        raise ValueError(f"{name} has no rows")
    return frame


def _as_frame(table, arrow):
    for index, column in enumerate(table.schema):  # those that pandas knows only as objects
        if arrow.types.is_decimal(column.type):
            table = _cast(table, index, arrow.float64())
        elif arrow.types.is_date(column.type):
            table = _cast(table, index, arrow.timestamp("ms"))
    # What pandas adds to its files may contradict their columns, so it is not looked at; an index
    # without a name is no column.
    frame = table.replace_schema_metadata().to_pandas()
    return frame.loc[:, [not _NAMELESS_INDEX.fullmatch(name) for name in frame.columns]]


def _cast(table, index, dtype):
    column = table.column(index).cast(dtype)
    return table.set_column(index, table.schema.field(index).with_type(dtype), column)


# ---- write ------------------------------------------------------------------------------------


def check_name(path):
    """Refuse a name that promises another kind of file than `write_table` writes."""
    suffix = _suffix(path)
    if suffix in _OTHER_NAMES:
        raise ValueError(
            f"-o {path}: {suffix} files are not written, but CSV (.csv, .csv.gz) and Parquet "
            "(.parquet)"
        )


def write_table(path, table, added):
    """Write a table with columns added; values from a CSV file are written as they stand there.

    Parameters
    ----------
    path : str, path-like or None
        Its name says what is written: Parquet, gzipped CSV or CSV. None is CSV to standard output.
    table : Table
    added : dict of str to Series
        New columns, by name.

    Raises
    ------
    ImportError
        Without pyarrow for Parquet.
    OSError
        The system's; the file is as before.
    """
    import_pandas()
    if path is None:
        _write_csv(sys.stdout, table, added)
    elif _suffix(path) in _PARQUET_NAMES:
        _import("pyarrow.parquet", "writing Parquet files")
        content = io.BytesIO()
        table.frame.assign(**added).to_parquet(content, engine="pyarrow", index=False)
        with replacing(path) as file:
            file.write(content.getbuffer())
    else:
        with replacing(path) as file:
            if os.fsdecode(path).lower().endswith(".gz"):
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    _write_text(packed, table, added)
            else:
                _write_text(file, table, added)


def _write_text(file, table, added):
    """CSV in UTF-8, to a binary file that stays open."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    try:
        if table.has_mark:
            text.write("\ufeff")
        _write_csv(text, table, added)
    finally:
        text.detach()


def _write_csv(file, table, added):
    decimal = table.reading.decimal
    if table.text is None:
        table.frame.assign(**added).to_csv(file, index=False, decimal=decimal, lineterminator="\n")
        return
    writer = csv.writer(file, delimiter=table.text.delimiter, lineterminator="\n")
    writer.writerow([*table.text.header, *added])
    columns = [_texts(column, decimal) for column in added.values()]
    for (_, fields), *values in zip(table.text.records(), *columns, strict=True):
        writer.writerow([*fields, *values])


def _texts(column, decimal):
    """Values as text; numbers with all their digits, and no more."""
    is_float = column.dtype.kind == "f"
    texts = [str(value) for value in column.to_numpy()]
    return [text.replace(".", decimal) for text in texts] if is_float else texts
