"""Tables in files: what is read, what is written, and where an error says that it is."""

import codecs
import csv
import gzip
import io
import re
import sys

import numpy as np
import pytest

from fastbp.table_commands.columns import read_for_model, read_for_training
from fastbp.table_commands.files import Reading, read_table, write_table
from fastbp.table_commands.text import read_text

pandas = pytest.importorskip("pandas")

KINDS = {"n": "numerical", "c": "categorical", "d": "datetime", "b": "boolean"}


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def message(read, path, *arguments):
    """That of the error, of which each must begin with the file."""
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}") as raised:
        read(path, *arguments)
    text = str(raised.value)
    assert "\n" not in text
    return text.removeprefix(str(path)).lstrip(":, ")


# ---- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiter_and_line_ends_are_found_out(file, delimiter, end):
    rows = ["name,size,x.y", "big box,1.5,3", '"a,b;c",2,', " pear , -1e3,4"]
    fields = csv.reader(rows, skipinitialspace=True)
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows(fields)
    table = read_table(file(out.getvalue()))
    assert table.text.delimiter == delimiter
    assert table.frame.columns.tolist() == ["name", "size", "x.y"]
    assert table.frame["name"].tolist() == ["big box", "a,b;c", "pear "]
    assert table.frame["size"].tolist() == [1.5, 2.0, -1000.0]
    np.testing.assert_array_equal(table.frame["x.y"], [3, np.nan, 4])


def test_random_tables_are_read_back_each_row_with_its_line(file):
    rng = np.random.default_rng(0)
    pieces = ["a", "Ä", ",", ";", '"', "\n", "\r\n", " ", "1", "-2.5", "", "x y", "\t", "NA"]
    for trial in range(60):
        n_columns, n_rows = rng.integers(2, 5), rng.integers(1, 12)
        header = [f"c{index}" for index in range(n_columns)]
        rows, lines, out = [], [], io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        for _ in range(n_rows):
            row = ["".join(rng.choice(pieces, rng.integers(0, 4))).lstrip(" ") for _ in header]
            # Lines as the csv module counts them.
            lines.append(1 + len(io.StringIO(out.getvalue(), newline="").readlines()))
            writer.writerow(row)
            rows.append(row)
        path = file(out.getvalue(), f"{trial}.csv")
        table = read_table(path, Reading(delimiter=","), dict.fromkeys(header, "str"))
        assert [fields for _, fields in table.text.records()] == rows
        assert [table.text.line_of(row) for row in range(n_rows)] == lines
        expected = pandas.DataFrame(rows, columns=header)
        expected = expected.where(~expected.isin(["", "NA"]))
        got = table.frame.astype(object)
        pandas.testing.assert_frame_equal(got, expected.astype(object), check_dtype=False)


def test_spaces_after_delimiters_are_none_of_the_values(file):
    table = read_table(file('name, size\n"a, b", 1\nc, "2"\n d , 3\n'))
    assert table.frame.to_dict("list") == {"name": ["a, b", "c", "d "], "size": [1, 2, 3]}
    assert [fields[0] for _, fields in table.text.records()] == ["a, b", "c", "d "]
    table = read_table(file('size, name\n1, "a, b"\n'))
    assert table.frame.to_dict("list") == {"size": [1], "name": ["a, b"]}


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("ä;b\nö;1\n".encode(), None),
        (codecs.BOM_UTF8 + "ä;b\nö;1\n".encode(), None),
        ("ä;b\nö;1\n".encode("utf-16"), None),
        ("ä;b\nö;1\n".encode("cp1252"), "cp1252"),
    ],
)
def test_encodings_and_marks(file, content, encoding):
    table = read_table(file(content), Reading(encoding=encoding))
    assert table.frame.to_dict("list") == {"ä": ["ö"], "b": [1]}


def test_decimal_comma_and_missing_values_of_ones_own(file):
    path = file("a;b\n1,5;?\n-2,25;3\n")
    frame = read_table(path, Reading(decimal=",", missing=("?",))).frame
    assert frame["a"].tolist() == [1.5, -2.25]
    np.testing.assert_array_equal(frame["b"], [np.nan, 3])


def test_gzip_is_known_by_its_content(file):
    packed = gzip.compress(b"a,b\n1,2\n")
    for name in ("data.csv.gz", "data.csv", "noname"):
        assert read_table(file(packed, name)).frame.to_dict("list") == {"a": [1], "b": [2]}


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2\n")))
    table = read_table("-")
    assert table.frame.to_dict("list") == {"a": [1], "b": [2]}
    assert table.place(0, "b") == "standard input, line 2, column 'b'"


def test_parquet(file):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from datetime import date
    from decimal import Decimal

    columns = {
        "n": arrow.array([1.5, None, 3.0]),
        "c": arrow.array(["x", None, "y"]),
        "d": arrow.array([Decimal("1.25"), None, Decimal("3.00")]),
        "when": arrow.array([date(2026, 1, 31), None, date(2026, 2, 1)]),
    }
    for name, pack in (
        ("data.parquet", bytes),
        ("data", bytes),
        ("data.parquet.gz", gzip.compress),
    ):
        content = io.BytesIO()
        parquet.write_table(arrow.table(columns), content)
        table = read_table(file(pack(content.getvalue()), name))
        np.testing.assert_array_equal(table.frame["n"], [1.5, np.nan, 3])
        np.testing.assert_array_equal(table.frame["d"], [1.25, np.nan, 3])
        assert table.frame["c"].isna().tolist() == [False, True, False]
        assert table.frame["when"].dtype.kind == "M"
        assert table.place(2, "n").endswith(", row 3, column 'n'")


def test_named_index_of_pandas_is_a_column_and_another_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1, 2]}, index=pandas.Index([7, 9], name="key"))
    frame.to_parquet(tmp_path / "named.parquet")
    assert read_table(tmp_path / "named.parquet").frame.to_dict("list") == {
        "key": [7, 9],
        "a": [1, 2],
    }
    frame = pandas.DataFrame({"a": [1, 2]}, index=[7, 9])
    frame.to_parquet(tmp_path / "other.parquet")
    assert read_table(tmp_path / "other.parquet").frame.index.tolist() == [0, 1]


# ---- bad files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("a,b\n\n", "there is a header on line 1, but no row after it"),
        ("a,b\n1,2\n\n3\n", "line 4: 1 field, where line 1, the header, has 2 (the delimiter"),
        ("\na,b\n1,2,3\n", "line 3: 3 fields, where line 2, the header, has 2"),
        ('a,b\n"x\ny",2\n3\n', "line 4: 1 field"),
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3: a quote opens here and is never closed"),
        ('a,b\n1,2\n3,"4', "line 3: a quote opens here and is never closed"),
        ('a,b\n1,2\n3,"4\n5,6,7\n', "line 3: a quote opens here and is never closed"),
        ("a,b\n1,2\n" + "x" * 200_000 + ",2\n", "line 3: field larger than field limit"),
        ("a,b,a\n1,2,3\n", "line 1: columns 1 and 3 are both called 'a'"),
        ("5,2,5\n1,2,3\n", "does the file lack its first line"),
        (b"a,b\n1,2\n1,\xfc\n", "line 3, byte 3: 0xfc is not UTF-8 (invalid start byte)"),
        (b"a,b\r\n1,2\r\n\xfc,2\r\n", "line 3, byte 1: 0xfc is not UTF-8"),
        (b"a,b\r1,2\r\xfc,2\r", "line 3, byte 1: 0xfc is not UTF-8"),
        (b"a,b\n1,\x002\n", "line 2: a zero byte; this is no text file"),
        (codecs.BOM_UTF16_LE + b"a", "UTF-16"),
        (
            gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9],
            "is truncated: its gzip data end too early",
        ),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:10] + b"\xff" * 20, "is damaged: "),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"PAR1rest", "is truncated: a Parquet file ends with the letters PAR1"),
        (b"PK\x03\x04rest", "workbook of Excel"),
        (b"BZh9rest", "compressed by bzip2"),
    ],
)
def test_bad_content(file, content, expected):
    assert expected in message(read_table, file(content))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data.parquet", "is not a Parquet file, whatever its name says"),
        ("data.csv.gz", "is not a gzip file, whatever its name says"),
    ],
)
def test_names_that_promise_something_else(file, name, expected):
    assert expected in message(read_table, file("a,b\n1,2\n", name))


def test_damaged_parquet(file):
    pytest.importorskip("pyarrow")
    assert "is damaged" in message(read_table, file(b"PAR1" + b"\x00" * 40 + b"PAR1"))


def test_parquet_with_two_columns_of_one_name(file):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = io.BytesIO()
    parquet.write_table(arrow.table([[1], [2]], names=["a", "a"]), content)
    assert "2 columns are called 'a'" in message(read_table, file(content.getvalue()))


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("package", "content"), [("pandas", b"a\n1\n"), ("pyarrow.parquet", b"PAR1........PAR1")]
)
def test_packages_that_are_not_installed(file, monkeypatch, package, content):
    from fastbp.late import imported

    imported.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    try:
        with pytest.raises(ImportError, match=r"not installed: pip install 'fastbp\[tables\]'"):
            read_table(file(content))
    finally:
        imported.cache_clear()


# ---- for training -----------------------------------------------------------------------------


def test_columns_that_only_name_the_rows_are_left_out_or_told(file):
    table, notes = read_for_training(file(",a,\n0,5,\n1,6,\n2,9,\n"))
    assert table.frame.to_dict("list") == {"a": [5, 6, 9]}
    assert [name for name, _ in notes] == ["column 1", "column 3"]
    # One that says something stays.
    table, notes = read_for_training(file(",a\n3,5\n3,6\n"))
    assert table.frame.to_dict("list") == {"column 1": [3, 3], "a": [5, 6]}
    assert notes == []
    table, notes = read_for_training(file("id,a\n1,5\n2,6\n3,8\n"))
    assert "id" in table.frame
    assert notes == [("id", "column 'id' only numbers the rows: --drop 'id' leaves it out")]


def test_numbers_that_are_categories(file):
    table, _ = read_for_training(file("zip,a\n01234,1\n,2\n"), categorical=["zip"])
    assert table.frame["zip"][0] == "01234"
    assert table.frame["zip"].isna().tolist() == [False, True]
    expected = "has no column 'zap'; did you mean 'zip'?"
    assert message(read_for_training, file("zip,a\n1,1\n"), None, ["zap"]) == expected


def test_text_that_may_be_meant_as_numbers_is_told(file):
    path = file("a,b,c\n1,x,3\n2,y,4\n?,1,5\n3,z,6\n4,z,7\n5,z,7\n")
    table, ((_, note),) = read_for_training(path)
    assert note.startswith(f"{path}, line 4, column 'a': '?' is no number, so")
    assert note.endswith("--missing '?'")
    assert table.frame["a"].tolist() == ["1", "2", "?", "3", "4", "5"]
    _, ((_, note),) = read_for_training(file("a;b\n1,5;1\n2,5;2\n"))
    assert note.endswith("numbers with ',' as decimal point: --decimal ,")


@pytest.mark.filterwarnings("ignore:Column .day. is taken as categories")
def test_text_of_too_many_values_is_told_but_dates_are_not(file):
    many = "".join(f"n{i},{i % 28 + 1}.1.{1000 + i},{1700 + i}-01-31\n" for i in range(300))
    _, notes = read_for_training(file("name,day,date\n" + many))
    assert [name for name, _ in notes] == ["name", "day"]
    assert notes[0][1].endswith("most frequent are told apart; --drop 'name' leaves it out")
    assert notes[1][1].endswith("dates must be written as 2026-01-31, not as '1.1.1000'")


def test_cells_of_several_values_are_refused(file):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = io.BytesIO()
    parquet.write_table(arrow.table({"a": [1, 2], "b": [[1], [2, 3]]}), content)
    path = file(content.getvalue())
    expected = "Column 'b' holds values of type"
    assert expected in message(read_for_training, path)
    assert expected in message(read_for_model, path, {"b": "categorical"})
    assert "is no number" in message(read_for_model, path, {"b": "numerical"})
    table, _ = read_for_training(path, drop=["b"])
    assert table.frame.to_dict("list") == {"a": [1, 2]}


def test_infinity_is_refused_with_its_place(file):
    expected = "line 3, column 'b': inf is infinite (and 1 more such value)"
    assert expected in message(read_for_training, file("a,b\n1,2\n1,inf\n1,\n1,-inf\n"))


# ---- for a model ------------------------------------------------------------------------------


def test_columns_hold_what_they_held_in_training(file):
    content = "more,n,c,d,b\nx,1,1,2026-01-31,true\ny,,,,\nz,-2.5,01,2026-02-01 10:30,0\n"
    frame = read_for_model(file(content), KINDS).frame
    np.testing.assert_array_equal(frame["n"], [1, np.nan, -2.5])
    assert frame["c"].tolist()[::2] == ["1", "01"]
    assert frame["d"].tolist()[::2] == ["2026-01-31", "2026-02-01 10:30"]
    assert frame["b"].tolist()[::2] == [True, False]
    assert frame.isna().sum().to_dict() == {"more": 0, "n": 1, "c": 1, "d": 1, "b": 1}
    content = "n,c,d,b\n,,,\n,,,\n"
    assert read_for_model(file(content), KINDS).frame.isna().all(axis=None)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("x,c,,", "line 4, column 'n': 'x' is no number, which the model expects"),
        ("inf,c,,", "line 4, column 'n': inf is infinite"),
        ('"1,5",c,,', "line 4, column 'n': '1,5' is no number"),
        ("1,c,31.01.2026,", "line 4, column 'd': '31.01.2026' is no date such as 2026-01-31"),
        ("1,c,2026-02-30,", "line 4, column 'd': '2026-02-30' is no date"),
        ("1,c,,2", "line 4, column 'b': '2' is no truth (true or false)"),
    ],
)
def test_values_of_another_kind(file, row, expected):
    content = f'n,c,d,b\n1,"a\nb",2026-01-31,True\n{row}\n'
    assert expected in message(read_for_model, file(content), KINDS)


def test_truths_are_no_numbers(file):
    expected = "line 2, column 'n': 'True' is no number, which the model expects in this column"
    text = message(read_for_model, file("n\nTrue\nFalse\n"), {"n": "numerical"})
    assert text == f"{expected} (and 1 more such value)"


def test_decimal_comma_in_errors(file):
    reading = Reading(decimal=",", delimiter=";")
    path = file("n;m\n1,5;2\nx,5;3\n")
    assert "line 3, column 'n': 'x,5'" in message(read_for_model, path, {"n": "numerical"}, reading)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Price,size", "has no column 'price'; did you mean 'Price'?"),
        ("prise,size", "has no column 'price'; did you mean 'prise'?"),
        ("a,b", "has no column 'price'; there are 'a', 'b'"),
        ("a b c", "has no column 'price'; there are 'a b c'. Is --delimiter needed?"),
        ("1,2", "does the file lack its first line"),
    ],
)
def test_missing_columns(file, header, expected):
    values = ",".join("1" for _ in header.split(","))
    path = file(f"{header}\n{values}\n")
    assert expected in message(read_for_model, path, {"price": "numerical"})


# ---- writing ----------------------------------------------------------------------------------

ORIGINAL = 'id,text,x\n007,"a, ""b""",1.50\n008,,1e3\n\n009,"two\nlines",\n'
ADDED = {
    "prediction": pandas.Series(["u", "v", "w"]),
    "probability": pandas.Series(np.array([0.1, 0.25, 1e-9], np.float32)),
}
WRITTEN = (
    'id,text,x,prediction,probability\n007,"a, ""b""",1.50,u,0.1\n008,,1e3,v,0.25\n'
    '009,"two\nlines",,w,1e-09\n'
)


def test_values_are_written_as_they_stood(file, tmp_path, capsys):
    table = read_table(file(ORIGINAL))
    write_table(None, table, ADDED)
    assert capsys.readouterr().out == WRITTEN
    write_table(tmp_path / "out.csv", table, ADDED)
    assert (tmp_path / "out.csv").read_text() == WRITTEN
    write_table(tmp_path / "out.csv.gz", table, ADDED)
    assert gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode() == WRITTEN


def test_delimiter_decimal_point_and_mark_are_kept(file, tmp_path):
    table = read_table(file("\ufeffa;b\n1,5;x\n"), Reading(decimal=","))
    write_table(tmp_path / "out.csv", table, {"p": pandas.Series([0.25])})
    assert (tmp_path / "out.csv").read_text() == "\ufeffa;b;p\n1,5;x;0,25\n"


def test_parquet_is_written(file, tmp_path):
    pytest.importorskip("pyarrow")
    table = read_table(file(ORIGINAL))
    write_table(tmp_path / "out.parquet", table, ADDED)
    back = read_table(tmp_path / "out.parquet")
    assert back.frame.columns.tolist() == ["id", "text", "x", "prediction", "probability"]
    assert back.frame["x"].tolist()[:2] == [1.5, 1000.0]
    write_table(tmp_path / "out.csv", back, {"more": pandas.Series([1, 2, 3])})
    expected = pandas.concat([back.frame, pandas.Series([1, 2, 3], name="more")], axis=1)
    pandas.testing.assert_frame_equal(
        pandas.read_csv(tmp_path / "out.csv"), expected, check_dtype=False, rtol=1e-6
    )


def test_text_of_a_single_column_may_be_empty():
    table = read_text("x", 'a\n1\n""\n\n \n2\n')
    assert [fields for _, fields in table.records()] == [["1"], [""], ["2"]]
    assert [table.line_of(row) for row in range(3)] == [2, 3, 6]
