"""A hundred hostile tables: each is one line that names file, row or column, or a result; nothing that was there is lost.

What is accepted goes from a file through a schema, a fit, scores and filled cells, and its cells come out as they went in.
"""
import csv
import datetime
import decimal
import gzip
import hashlib
import io
import re

import numpy as np
import pytest
from test_schema import same_tables

import npgen
from npgen import cli
from npgen.data import DataError, Schema
from npgen.data.reading import read_table

pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
pytest.importorskip("narwhals")
pytestmark = pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. ", "ignore::UserWarning")


def lines(*cells, header="a,b", n=12):
    """A .csv whose rows are these, again and again."""
    return "\n".join([header, *(cells[i % len(cells)] for i in range(n))]).encode() + b"\n"


def parquet(**columns):
    file = io.BytesIO()
    pl.DataFrame(columns).write_parquet(file)
    return file.getvalue()


def levels(c):
    """A column of c levels that are there three times each."""
    return b"a,b\n" + b"".join(b"k%d,%d\n" % (i % c, i % 7) for i in range(3 * c))


def columns(d):
    other = ",".join("xyz"[i % 3] if i % 50 == 0 else str(i % 5) for i in range(d))
    return lines(",".join(str(i % 7 + 0.5) for i in range(d)), other, header=",".join(f"c{i}" for i in range(d)))


PACKED = gzip.compress(b"a,b\n" + b"".join(b"%d,%s\n" % (i, hashlib.sha256(b"%d" % i).hexdigest().encode())
                                           for i in range(500)))
UTC, DAY = datetime.UTC, datetime.date(2020, 1, 1)
TWELVE = range(12)
FRACTIONS = [i / 3 for i in TWELVE]
FILES = {  # a file -> its bytes, and the words of the one line, or None: it is a table
    # no table at all
    "empty.csv": (b"", "empty.csv is empty"),
    "blank.csv": (b"\n\n \n", "blank.csv has no rows"),
    "header.csv": (b"a,b\n", "header.csv has a header but no rows"),
    "header-and-blanks.csv": (b"a,b\n\n\n", "header-and-blanks.csv has a header but no rows"),
    "one-row.csv": (b"a,b\n1.5,x\n", "one-row.csv"),
    "numbers.csv": (b"1,2\n3,4\n", "numbers.csv"),
    "short.csv": (lines("1,x", "2,y", "3"), r"short.csv: row 3 \(line 4\) has 1 columns, the header has 2"),
    "long.csv": (lines("1,x", "2,y", "3,z,w"), r"long.csv: row 3 \(line 4\) has 3 columns, the header has 2"),
    "trailing-comma.csv": (lines("1,x,", "2,y,"), r"trailing-comma.csv: row 1 \(line 2\) has 3 columns"),
    "twice.csv": (lines("1,2", header="a,a"), "twice.csv: columns 1 and 2 are both named 'a'"),
    "twice-by-spaces.csv": (lines("1,2", header="a, a "), "twice-by-spaces.csv: columns 1 and 2 are both named 'a'"),
    "no-names.csv": (lines("1,x", header=","), "no-names.csv"),
    "pipes.csv": (lines("1|x", "2|y", "3|z", header="a|b"), None),
    "folder.csv": (None, "folder.csv"),
    "comment.csv": (b"# made by hand\n" + lines("1,x", "2,y"), "comment.csv: row 1 .line 2. has 2 columns, the header has 1"),
    # bytes
    "latin.csv": (lines("1,x", "2,y").replace(b"x", "ü".encode("latin-1")), "latin.csv is no UTF-8 text .byte 0xfc in line 2."),
    "utf16.csv": ("a,b\n1,x\n2,y\n".encode("utf-16"), "utf16.csv is no UTF-8 text .byte 0xff in line 1."),
    "bom.csv": (b"\xef\xbb\xbf" + lines("1.5,x", "2,y", "3.25,x"), None),
    "nul.csv": (lines("1.5,x\0", "2,y", "3.25,z"), None),
    "carriage.csv": (lines("1.5,x", "2,y", "3,x").replace(b"\n", b"\r\n"), None),
    "old-mac.csv": (lines("1.5,x", "2,y", "3,x").replace(b"\n", b"\r"), None),
    "not-gzip.csv.gz": (lines("1,x"), "not-gzip.csv.gz is damaged"),
    "cut.csv.gz": (PACKED[:-200], "cut.csv.gz is damaged or not what its name says .Compressed file ended"),
    "cut-at-once.csv.gz": (PACKED[:40], "cut-at-once.csv.gz is damaged"),
    "cut-at-the-end.csv.gz": (PACKED[:-4], "cut-at-the-end.csv.gz is damaged"),
    "another-sum.csv.gz": (PACKED[:-8] + bytes(8), "another-sum.csv.gz is damaged .* .CRC check failed"),
    "zeros-within.csv.gz": (PACKED[:6000] + bytes(99) + PACKED[6099:], "zeros-within.csv.gz"),
    "junk-behind.csv.gz": (PACKED + b"junk", "junk-behind.csv.gz is damaged"),
    "whole.csv.gz": (gzip.compress(lines("1.5,x", "2,y", "3.25,x")), None),
    "quote.csv": (lines('1,"x', "2,y"), r"quote.csv: row 1 \(line 2\) has a quote that is not closed, or"),
    "quote-further-on.csv": (lines("1,x", '"2,y', "3,z", n=6), r"quote-further-on.csv: row 2 \(line 3\) has a quote that"),
    "quote-at-the-end.csv": (lines("1,x", '2,"y'), r"quote-at-the-end.csv: row 2 \(line 3\) has a quote that is not closed"),
    "quote-and-more.csv": (lines("1,x", '2,"y"z'), r"quote-and-more.csv: row 2 \(line 3\) has a quote that is"),
    "quote-in-the-names.csv": (lines("1,x", header='"a,b'), "quote-in-the-names.csv: line 1 has a quote that is not closed"),
    "inches.csv": (lines('1.5,5" disk', '2,3.5" disk', "3,none"), None),
    "quotes-across-cells.csv": (lines('x"y,z"w,1', "2,u,2.5", '"a ""b""",v,3', header="a,b,c"), None),
    "blank-lines-at-the-end.csv": (lines("1.5,x", "2,y", "3,z") + b"\n\n \n", None),
    "blank-lines-within.csv": (lines("1.5,x", "", "3,z", " ", "4,x"), None),
    "blank-lines-around-the-names.csv": (b"\n\n" + lines("", "1.5,x", "2,y", "3,z"), None),
    "one-carriage.csv": (lines("1.5,x", "2,y\r3,z", "4,x"), None),
    "one-carriage-too-many.csv": (lines("1.5,x", "2,y\r3", "4,x"), r"one-carriage-too-many.csv: row 3 .* has 1 columns"),
    "carriage-in-a-cell.csv": (lines('1.5,"x\ry"', "2,z", "3.25,z"), None),
    "newline-in-a-cell.csv": (lines('1.5,"x\ny"', "2,z", "3.25,z"), None),
    "separators.tsv": (lines("1.5\tx", "2\ty", "3.25\tx", header="a\tb"), None),
    "semicolons.csv": (lines("1,5;x", "2,25;y", "3;y", header="a;b"), None),
    # names
    "html.csv": (lines("1.5,x", "2,y", "3,x", header="<script>alert(1)</script>,b&"), None),
    "newline-in-a-name.csv": (lines("1.5,x", "2,y", header='"a\nb",c'), "newline-in-a-name.csv"),
    "quotes-in-a-name.csv": (lines("1.5,x", "2,y", "3,x", header='"a ""quoted"" name","b, c"'), None),
    "emoji.csv": (lines("1.5,x", "2,😀", "3,\u202eabc", header="𝒳,שם"), None),
    "long-name.csv": (lines("1.5,x", "2,y", "3,x", header="a" * 10_000 + ",b"), None),
    "sql.csv": (lines("1.5,x", "2,y", "3,x", header="a'; DROP TABLE b;--,b"), "sql.csv"),
    "keywords.csv": (lines("1.5,x", "2,y", "3,x", header="class,None"), None),
    # cells
    "formulas.csv": (lines("1.5,=1+1", "2,+cmd|'/C calc'!A0", "3,@SUM(A1)", "4.5,-2+3"), None),
    "markup.csv": (lines("1.5,<img src=x onerror=alert(1)>", "2,&lt;", "3,]]>"), None),
    "long-cells.csv": (lines("1.5," + "x" * 100_000, "2," + "y" * 100_000, "3,z"), None),
    "spaces.csv": (lines("1.5, x ", " 2 ,x", "3.25,\ty", "4,y"), None),
    "missing-words.csv": (lines("1.5,x", "NA,?", "null,n/a", "2.5,y", "NaN,-", "None, "), None),
    "all-missing.csv": (lines("NA,", "?,null"), "all-missing.csv: no column is left to model"),
    "one-level.csv": (lines("x,y"), "one-level.csv: no column is left to model"),
    "one-level-and-holes.csv": (lines("x,1.5", ",2.5", "x,3", "x,4"), None),
    "one-missing-column.csv": (lines("1.5,", "2,", "3.25,"), None),
    "mostly-numbers.csv": (lines("1.5,x", "2,x", "3..5,y", "4,y"), "mostly-numbers.csv: row 3, column 'a' is '3..5', not a n"),
    "half-numbers.csv": (lines("1.5,x", "two,x", "3,y", "four,y"), None),
    "infinite.csv": (lines("1.5,x", "inf,x", "3,y", "4,x"), "infinite.csv: row 2, column 'a' is 'inf', not a number"),
    "overflow.csv": (lines("1.5,x", "1e999,x", "3,y"), "overflow.csv: column 'a', row 2: .*inf.* is no finite number"),
    "tiny.csv": (lines("1.5,x", "1e-320,x", "3e-310,y"), None),
    "far-apart.csv": (lines("1e300,x", "-1e300,x", "0,y"), "column 'a' has values too far apart for float64; divide it"),
    "negative-zero.csv": (lines("-0.0,x", "0.5,x", "1.25,y"), None),
    "leading-zeros.csv": (lines("02134,1.5", "00501,2", "10001,3.5"), None),
    "hexadecimal.csv": (lines("0x10,1.5", "0x1F,2", "0x20,3"), None),
    "underscores.csv": (lines("1_000,1.5", "2_000,2", "3_000,3"), None),
    "longer-cells.csv": (lines("1.5," + "x" * 200_000, "2," + "y" * 131_073, "3,z"), None),
    "thousands.csv": (lines('"1,000",x', '"2,000",y', '"3,500",y'), "thousands.csv: row 1, column 'a' is '1,000', where"),
    "thousands-and-less.csv": (lines("567,x", '"1,234",x', "8,y"), "less.csv: row 2, column 'a' is '1,234', where a"),
    "millions.csv": (lines('"1,234,567",x', '"2,500",y', "3,y"), "millions.csv: row 1, column 'a' is '1,234,567', where"),
    "thousands-and-cents.csv": (lines('"1,234.50",x', "2.25,y", "3,y"), "cents.csv: row 1, column 'a' is '1,234.50', wh"),
    "points-of-thousands.csv": (lines("1.234,5;x", "2;y", "3;y", header="a;b"), "points-of-thousands.csv: row 1, column 'a'"),
    "two-marks.csv": (lines("1,5;x", "2.25;y", "3;y", header="a;b"), "two-marks.csv: row 1, column 'a' is '1,5', not a num"),
    "percent.csv": (lines("10%,x", "20%,y", "30%,y"), None),
    "money.csv": (lines("$1.50,x", "$2,y", "€3,y"), None),
    "beyond-floats.csv": (lines("9007199254740993,1.5", "9007199254740995,2", "9007199254740993,3"), None),
    "beyond-64-bits.csv": (lines("123456789012345678901234567890,1.5", "1,2.5", "2,1"), None),
    "nineteen-digits.csv": (b"a,b\n" + b"".join(b"%d,%d.5\n" % (1587789284195746375 + 7 * i, i % 7) for i in range(60)), None),
    "nineteen-digits-twice.csv": (lines("1587789284195746375,1.5", "-1587789284195746377,2.5", "2,1"), None),
    "twenty-digits.csv": (b"a,b\n" + b"".join(b"%d,%d.5\n" % (2**64 - 9 * i - 1, i % 7) for i in range(60)), None),
    "thirty-digits.csv": (b"a,b\n" + b"".join(b"%d,%d.5\n" % (10**29 + 7 * i, i % 7) for i in range(60)), None),
    "long-and-real.csv": (lines("9007199254740993,x", "1.5,y", "2,y"), None),
    "numbers-and-long-keys.csv": (b"a,b,c\n" + b"".join(b"%d,%d.5,%d\n" % (2**60 + i, i % 7, i % 3) for i in range(60)), None),
    "booleans.csv": (lines("true,1.5", "FALSE,2", "True,3", "false,2.5"), None),
    "booleans-and-numbers.csv": (lines("true,1.5", "0,2", "1,3", "false,2.5"), None),
    "yes-and-no.csv": (lines("yes,1.5", "no,2", "Yes,3"), None),
    "last-day.csv": (lines("9999-12-31,1.5", "0001-01-01,2", "2020-02-29,3"), None),
    "no-such-day.csv": (lines("2020-02-30,1.5", "2020-01-01,2", "2020-01-02,3"), None),
    "two-formats.csv": (lines("2020-01-01,1.5", "02.01.2020,2", "2020-01-05,3"), None),
    "day-first.csv": (lines("13/12/2020,1.5", "01/02/2021,2", "05/06/2021,3"), None),
    "month-first.csv": (lines("12/13/2020 9:05,1.5", "01/02/2021 10:15,2", "05/06/2021 0:00,3"), None),
    "day-or-month-first.csv": (lines("12/12/2020,1.5", "01/02/2021,2", "05/06/2021,3"), None),
    "offset.csv": (lines("2020-01-01T05:30:00+0530,1.5", "2020-01-02T00:00:00+0530,2", "2020-01-05T00:00:00+0530,3"), None),
    "milliseconds.csv": (lines("2020-01-01 00:00:00.123,1.5", "2020-01-02 00:00:00.500,2", "2020-01-02 00:00:01.000,3"), None),
    "fractions.csv": (lines("2020-01-01 00:00:00.123,1.5", "2020-01-02 00:00:00.5,2", "2020-01-02 00:00:01,3"), None),
    "nanoseconds.csv": (lines("2020-01-01T00:00:00.000000123Z,1.5", "2020-01-01T00:00:00.000000000Z,2"), None),
    "two-digit-years.csv": (lines("01/02/20,1.5", "03/04/21,2", "05/06/22,3"), None),
    "zones.csv": (lines("2020-01-01T00:00:00Z,1.5", "2020-01-01T00:00:00+02:00,2", "2020-01-02T00:00:00Z,3"), None),
    "leap-second.csv": (lines("2016-12-31T23:59:60Z,1.5", "2017-01-01T00:00:00Z,2", "2017-01-02T00:00:00Z,3"), None),
    "many-levels.csv": (levels(2000), None), "a-hundred-thousand-levels.csv": (levels(100_000), None),
    "many-keys.csv": (b"a,b\n" + b"".join(b"k%d,%d\n" % (i, i % 7) for i in range(20_000)), None),
    "many-columns.csv": (columns(300), None),
    "names-that-are-answers.csv": (lines("1.5,x", "2,y", "3,x", header="log_prob,imputation"), "log_prob"),
    # parquet
    "no.parquet": (b"PAR1 no", "no.parquet is damaged or no .parquet file"),
    "csv.parquet": (lines("1,x"), "csv.parquet is damaged or no .parquet file"),
    "cut.parquet": (parquet(a=FRACTIONS)[:-20], "cut.parquet is damaged or no .parquet file"),
    "no-rows.parquet": (parquet(a=pl.Series([], dtype=pl.Float64), b=pl.Series([], dtype=pl.String)), "no-rows.parquet"),
    "no-columns.parquet": (parquet(), "no-columns.parquet"),
    "lists.parquet": (parquet(a=FRACTIONS, b=[[i] for i in TWELVE]), "lists.parquet: column 'b' holds List"),
    "structs.parquet": (parquet(a=FRACTIONS, b=[{"c": i} for i in TWELVE]), "structs.parquet: column 'b' holds Struct"),
    "bytes.parquet": (parquet(a=FRACTIONS, b=[b"x"] * 12), "bytes.parquet: column 'b' holds Binary"),
    "decimals.parquet": (parquet(a=FRACTIONS, b=[decimal.Decimal(i) / 4 for i in TWELVE]), "decimals.parquet: column 'b' hol"),
    "durations.parquet": (parquet(a=FRACTIONS, b=[datetime.timedelta(i) for i in TWELVE]), "durations.parquet: column 'b' hol"),
    "clock.parquet": (parquet(a=FRACTIONS, b=[datetime.time(i) for i in TWELVE]), "clock.parquet: column 'b' holds Time"),
    "nan-and-null.parquet": (parquet(a=[0.5, float("nan"), None, 2.5] * 3, b=["x", None, "y", "z"] * 3), None),
    "infinity.parquet": (parquet(a=[0.5, float("inf"), 1, 2] * 3), "infinity.parquet: column 'a', row 2: .*inf.* is no finite"),
    "unsigned.parquet": (parquet(a=FRACTIONS, b=pl.Series([2**64 - 1 - i % 3 for i in TWELVE], dtype=pl.UInt64)), None),
    "small.parquet": (parquet(a=FRACTIONS, b=pl.Series([i - 6 for i in TWELVE], dtype=pl.Int8)), None),
    "days.parquet": (parquet(a=FRACTIONS, b=[DAY + datetime.timedelta(i * i) for i in TWELVE]), None),
    "far-days.parquet": (parquet(a=FRACTIONS, b=[datetime.date(1 + 800 * i, 1, 1) for i in TWELVE]), None),
    "moments.parquet": (parquet(a=FRACTIONS, b=[datetime.datetime(2020, 1, 1, i, tzinfo=UTC) for i in TWELVE]), None),
    "enums.parquet": (parquet(a=FRACTIONS, b=pl.Series(["x", "y", None, "x"] * 3, dtype=pl.Enum(["y", "x", "unused"]))), None),
    "nulls.parquet": (parquet(a=FRACTIONS, b=[None] * 12), None),
    "empty-name.parquet": (parquet(**{"": FRACTIONS, "b": ["x", "y", "z"] * 4}), None),
    "newline-name.parquet": (parquet(**{"a\nb": FRACTIONS, "<b>": ["x", "y", "z"] * 4}), None),
}


def write(folder, name):
    content = FILES[name][0]
    (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)


def says(line, capsys):
    """The status of a command, what it printed, and its errors without warnings."""
    status = cli.main(line)
    out, err = capsys.readouterr()
    return status, out, [each for each in err.splitlines() if not each.startswith("npgen: warning")]


def missing_is_null(frame):
    """The frame with null for NaN and NA: what misses is one thing, and comes out as one."""
    if isinstance(frame, pl.DataFrame):
        return frame.with_columns(pl.selectors.float().fill_nan(None))
    if isinstance(frame, pd.DataFrame):
        return frame.assign(**{name: column.where(column.notna(), None) for name, column in frame.items() if
                               str(column.dtype) == "object"})
    return frame


def records(path):
    """The cells of a .csv by Python's reader alone."""
    text = (gzip.open if str(path).endswith(".gz") else open)(path, "rb").read().decode("utf-8-sig")
    first = text.lstrip().splitlines()[0]
    mark = "\t" if "\t" in first else ";" if ";" in first else ","
    cells = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    return mark, [[cell.strip() for cell in row] for row in cells if "".join(row).strip() or len(row) > 1]


def says_the_same(before, after, mark):
    """Whether a cell came out as it went in: the same text, truth value or number, to its last digit."""
    if before == after or before.lower() in ("true", "false") and before.lower() == after:
        return True
    try:
        return decimal.Decimal(before.replace(",", ".") if mark == ";" else before) == decimal.Decimal(after)
    except decimal.InvalidOperation:
        return False


def same_cells(before, after):
    """By the text of two files: all cells that are there are as they were."""
    (mark, old), (_, new) = records(before), records(after)
    assert len(old) == len(new) and [" ".join(name.split()) for name in old[0]] == [" ".join(name.split()) for name in new[0]]
    for row, (ours, theirs) in enumerate(zip(old[1:], new[1:], strict=True), 1):
        for name, a, b in zip(old[0], ours, theirs, strict=True):
            missing = a.lower() in ("", "?", "-", "na", "n/a", "null", "none", "nan")
            assert missing or says_the_same(a, b, mark), f"row {row}, column {name[:40]!r}: {a[:60]!r} came out as {b[:60]!r}"


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name == "a-hundred-thousand-levels.csv" else ())
                                  for name in FILES])
def test_a_file_is_a_table_or_one_line_and_nothing_is_lost(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, name)
    for file in ("model", "scores.csv", "whole.csv"):
        (tmp_path / file).write_bytes(b"older")
    commands = (["schema", name], ["fit", "mixture", "--data", name, "--out", "model", "--quiet", "--epochs", "2"],
                ["score", "model", "--data", name, "--out", "scores.csv"],
                ["impute", "model", "--data", name, "--out", "whole.csv"])
    words = FILES[name][1]
    for command in commands:
        status, out, err = says(command, capsys)
        if status:
            assert words is not None, err
            assert status == 2 and len(err) == 1 and len(err[0]) < 700 and not out, (err, out)
            assert re.search(words, err[0]), err[0]
            assert command[0] == "schema" or (tmp_path / {"fit": "model"}.get(command[0], command[-1])).read_bytes() == b"older"
            return
    assert words is None, "a table that was to be refused"
    frame, model = read_table(name), npgen.load("model")
    schema = model.schema_ or Schema.infer(frame)
    same_tables(schema.decode(schema.encode(frame)).select(schema.names), missing_is_null(frame).select(schema.names))
    if not name.endswith(".parquet"):
        same_cells(name, "whole.csv")
    if model.schema_ is None:  # numbers alone, which are read as an array
        whole = np.loadtxt("whole.csv", delimiter=",", skiprows=1, ndmin=2)
        x = schema.encode(frame)
        assert np.array_equal(whole[~np.isnan(x)], x[~np.isnan(x)]) and np.isfinite(whole).all()
        return
    texts = {column.name: "text" for column in schema.columns if column.native.type == "string"}
    whole, scores = read_table("whole.csv", texts), read_table("scores.csv", texts)
    assert whole.columns == [" ".join(name.splitlines()) for name in frame.columns]
    assert scores.columns == [*whole.columns, "log_prob"]
    whole.columns = frame.columns
    assert (scores["log_prob"].cast(pl.Float64) > -np.inf).all()
    for column in frame.columns:
        seen = frame[column].is_not_null() & (frame[column].is_not_nan() if frame[column].dtype.is_float() else True)
        before, after = (each[column].filter(seen) for each in (frame, whole))
        if before.dtype == after.dtype:
            assert after.equals(before, null_equal=True)
        if column in schema.names:
            assert whole[column].null_count() == 0


def object_column(*values):
    return pd.DataFrame({"x": FRACTIONS, "o": pd.Series([values[i % len(values)] for i in TWELVE], dtype=object)})


MIXED = {  # a frame -> the words of the one line, or None: it is a table
    "objects of two types": (lambda: object_column("a", 1), "column 'o' mixes or holds"),
    "objects of dicts": (lambda: object_column({"a": 1}, {"b": 2}), "column 'o' mixes or holds"),
    "bytes": (lambda: object_column(b"x", b"y"), "column 'o'"),
    "decimals": (lambda: object_column(decimal.Decimal(1), decimal.Decimal(2)), "column 'o'"),
    "dates as objects": (lambda: object_column(DAY, datetime.date(2021, 1, 1), datetime.date(2021, 5, 1)), "column 'o'"),
    "truth values and None": (lambda: object_column(True, False, None), None),
    "texts and NaN": (lambda: object_column("a", "b", np.nan), None),
    "texts and NA": (lambda: object_column("a", "b", pd.NA), None),
    "whole numbers and a gap": (lambda: pd.DataFrame({"x": FRACTIONS, "n": pd.array([1, None, 5, 9] * 3, "Int64")}), None),
    "small numbers and a gap": (lambda: pd.DataFrame({"x": FRACTIONS, "n": pd.array([1, None, 5, 9] * 3, "UInt8")}), None),
    "beyond 2^53": (lambda: pd.DataFrame({"x": FRACTIONS, "n": pd.array([2**60, None, 2**60 + 1, 2**60] * 3, "Int64")}), None),
    "beyond 2^53, as floats": (lambda: pd.DataFrame({"x": FRACTIONS, "n": [2.0**60, 2.0**61, 2.0**60 + 256, 1.0] * 3}), None),
    "pyarrow's in pandas": (lambda: pd.DataFrame({"x": FRACTIONS, "n": pd.array([1, None, 3, 4] * 3, "int64[pyarrow]")}), None),
    "a level that misses": (lambda: pd.DataFrame({"x": FRACTIONS, "n": pd.Categorical(["a", None, "b", "a"] * 3)}), None),
    "levels that are numbers": (lambda: pd.DataFrame({"x": FRACTIONS, "n": pd.Categorical([3, 1, 2, 1] * 3)}), None),
    "levels of two types": (lambda: pd.DataFrame({"x": FRACTIONS, "n": pd.Categorical([3, "a", 2, 1] * 3)}), "column 'n'"),
    "zones": (lambda: pd.DataFrame({"x": FRACTIONS, "t": pd.date_range("2020-03-28", periods=12, freq="6h",
                                                                       tz="Europe/Berlin")}), None),
    "two zones": (lambda: object_column(pd.Timestamp("2020-01-01", tz="UTC"), pd.Timestamp("2020-01-01", tz="Asia/Tokyo")),
                  "column 'o'"),
    "nanoseconds": (lambda: pd.DataFrame({"x": FRACTIONS, "t": pd.to_datetime([10**18 + i * i for i in TWELVE])}), None),
    "periods": (lambda: pd.DataFrame({"x": FRACTIONS, "t": pd.period_range("2020-01", periods=12, freq="M")}), "column 't'"),
    "intervals": (lambda: pd.DataFrame({"x": FRACTIONS, "t": pd.interval_range(0, 12)}), "column 't'"),
    "sparse": (lambda: pd.DataFrame({"x": FRACTIONS, "s": pd.arrays.SparseArray([0, 1.5, 0, 3] * 3)}), "column 's'"),
    "complex": (lambda: pd.DataFrame({"x": FRACTIONS, "z": np.arange(12) * 1j}), "column 'z'"),
    "names that are numbers": (lambda: pd.DataFrame(np.ones((12, 2))), "X is no DataFrame .* whose columns have names"),
    "names of two levels": (lambda: pd.DataFrame(np.ones((12, 2)), columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
                            "X is no DataFrame"),
    "two of a name": (lambda: pd.DataFrame(np.ones((12, 2)), columns=["a", "a"]), "two columns are named 'a'"),
    "no rows": (lambda: pd.DataFrame({"a": np.empty(0), "b": np.empty(0, object)}), "no column is left to model"),
    "no columns": (lambda: pd.DataFrame(index=range(12)), "X is no DataFrame"),
    "infinite": (lambda: pd.DataFrame({"x": [0.5, np.inf, 1] * 4}), "column 'x', row 2: .*inf.* is no finite number"),
    "an index of its own": (lambda: pd.DataFrame({"x": FRACTIONS, "n": ["a", "b", "c"] * 4}, index=list("abcdefghijkl")), None),
    "an index that repeats": (lambda: pd.DataFrame({"x": FRACTIONS, "n": ["a", "b", None] * 4}, index=[0] * 12), None),
    "nothing at all": (lambda: pl.DataFrame({"x": FRACTIONS, "n": [None] * 12}), None),
    "Python's objects in polars": (lambda: pl.DataFrame({"x": FRACTIONS, "o": pl.Series([object()] * 12, dtype=pl.Object)}),
                                   "column 'o'"),
    "NaN and null": (lambda: pl.DataFrame({"x": [0.5, None, float("nan"), 2.25] * 3, "n": ["a", "b", "c"] * 4}), None),
    "a lazy frame": (lambda: pl.LazyFrame({"x": FRACTIONS}), "X is no DataFrame"),
    "a column alone": (lambda: pl.Series(FRACTIONS), "X is no DataFrame"),
    "in chunks": (lambda: pa.concat_tables([pa.table({"x": FRACTIONS, "n": ["a", "b", None] * 4})] * 2), None),
    "pyarrow's two of a name": (lambda: pa.table([pa.array(FRACTIONS)] * 2, names=["x", "x"]), "two columns are named 'x'"),
    "pyarrow's maps": (lambda: pa.table({"x": FRACTIONS, "m": pa.array([[("k", 1)]] * 12, pa.map_(pa.string(), pa.int64()))}),
                       "column 'm'"),
    "pyarrow's decimals": (lambda: pa.table({"x": FRACTIONS, "d": pa.array(map(decimal.Decimal, TWELVE))}), "column 'd'"),
    "half floats": (lambda: pd.DataFrame({"x": np.arange(12, dtype=np.float16) / 4, "n": ["a", "b", "c"] * 4}), None),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_frame_is_a_table_or_one_line(name):
    make, words = MIXED[name]
    frame = make()
    if words is not None:
        with pytest.raises(DataError, match=words) as caught:
            Schema.infer(frame)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 420
        return
    schema = Schema.infer(frame)
    x = schema.encode(frame)
    back, own = schema.decode(x, index=getattr(frame, "index", None)), frame.select(schema.names) if hasattr(
        frame, "select") else frame[schema.names]
    same_tables(back.select(schema.names) if hasattr(back, "select") else back[schema.names], missing_is_null(own))
    model = npgen.Mixture(1, max_iter=2, random_state=0).fit(frame)
    assert np.isfinite(model.log_prob(frame)).all() and len(model.sample(3, rng=0)) == 3
    assert type(model.impute(frame)) is type(frame)
