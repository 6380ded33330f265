"""Tables in .csv, .tsv and .txt files: what their first line means, and which cell is wrong.

Rows and columns are counted from 1 in messages. Legend: n rows, d columns.
"""
import csv
import gzip
import io
import re
from itertools import islice

import numpy as np

from ..warn import warn
from .table import DataError, check_finite

_MISSING = {"", "?", "-", "na", "n/a", "null", "none"}


def read_csv(path):
    delimiter, header, n_skip = _csv_layout(path)
    try:
        with _text(path) as file:
            for _ in range(n_skip):
                file.readline()
            array = np.loadtxt(file, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
    except ValueError as error:
        raise _csv_fault(path, delimiter, header, error) from None
    if header and len(header) != array.shape[1]:
        raise _csv_fault(path, delimiter, header, None)

    def place(row, column):
        line, _ = next(islice(_csv_rows(path, delimiter, header), row, None))
        return _csv_place(row, line, column, header)

    return check_finite(path, array, place), header


def _csv_layout(path):
    """The delimiter, the header's names (or None) and the number of lines before the first row."""
    with _text(path) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        number, first = next(lines, (0, ""))
        bare = re.sub(r'"[^"]*"', "", first)
        delimiter = "\t" if "\t" in bare else ";" if ";" in bare else ","
        names = next(csv.reader([first.strip("\r\n")], delimiter=delimiter), [])
        is_header = any(is_name(name) for name in names)
        if not names or is_header and next(lines, None) is None:
            raise DataError(f"{path} has {'a header but ' if names else ''}no rows")
    return delimiter, [name.strip() for name in names] if is_header else None, number if is_header else 0


def _csv_fault(path, delimiter, header, error):
    """The DataError for the first row or cell of a .csv file that does not fit."""
    width, model = (len(header), "the header") if header else (None, "row 1")
    for row, (line, fields) in enumerate(_csv_rows(path, delimiter, header)):
        width = width or len(fields)
        if len(fields) != width:
            return DataError(f"{path}: row {row + 1} (line {line}) has {len(fields)} columns, {model} has {width}; "
                             "correct or remove it")
        column = next((i for i, field in enumerate(fields) if not _is_number(field)), None)
        if column is not None:
            what = repr(fields[column][:40]) + ", not a number" if fields[column].strip() else "empty"
            place = _csv_place(row, line, column, header)
            return DataError(f"{path}: {place} is {what}; correct it, or remove the row or the column")
    return DataError(f"{path} cannot be read as numbers ({error}); write plain decimal numbers, one row to a line")


def _csv_rows(path, delimiter, header):
    """(line number, fields) of every row below the header."""
    with _text(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        rows = ((reader.line_num, fields) for fields in reader if fields)
        yield from islice(rows, 1 if header else 0, None)


def _csv_place(row, line, column, header):
    name = f" ({header[column]!r})" if header else ""
    return f"row {row + 1} (line {line}), column {column + 1}{name}"


def is_name(field):
    """Neither a number, nor a missing value, nor a misspelt number: a first row with one of these is a header."""
    return not (_is_number(field) or field.strip().lower() in _MISSING or re.match(r"\s*[\d+.-]", field))


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return field.isascii() and "_" not in field


def _text(path):
    opened = gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")
    return io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")


def header_line(path, columns):
    """The first line of a .csv file: names that _csv_layout finds again, or nothing."""
    names = [" ".join(name.splitlines()) for name in columns or ()]
    if names and not any(map(is_name, names)):
        warn(f"{path} has no header, because names that look like numbers ({', '.join(names[:3])}, ...) would be read as a "
             "row; rename the columns before fit to have one")
        return b""
    line = io.StringIO()
    quoting = csv.QUOTE_ALL if any(mark in name for name in names for mark in ";\t") else csv.QUOTE_MINIMAL
    csv.writer(line, lineterminator="\n", quoting=quoting).writerow(names)
    return line.getvalue().encode() if names else b""
