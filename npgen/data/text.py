"""Tables in .csv, .tsv and .txt files: what their first line means, and which cell is wrong.

Rows and columns are counted from 1 in messages. Legend: n rows, d columns.
"""
import csv
import dataclasses
import functools
import gzip
import io
import re
from itertools import islice

import numpy as np

from ..warn import warn
from .table import DataError, TextError, check_finite

MISSING = {"", "?", "-", "na", "n/a", "null", "none"}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a file of text is written: its encoding, what is between its cells, the mark of decimals, and which texts stand for a
    missing value, beside MISSING. None: as the file has it; of numbers a point or, in all cells of a column, a comma.
    """

    encoding: str = "utf-8-sig"
    separator: str | None = None
    decimal: str | None = None
    missing: tuple = ()

    @functools.cached_property
    def texts(self):
        """All texts, in lower case, that stand for a missing value."""
        return MISSING | {text.strip().lower() for text in self.missing}

    def opened(self, path):
        """The text of a file, which may be packed."""
        file = gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")
        return io.TextIOWrapper(file, encoding=self.encoding, newline="")

    def is_missing(self, field):
        return field.strip().lower() in self.texts

    def plain(self, field):
        """A cell whose decimals, if it has any, are behind a point."""
        return field.replace(",", ".") if self.decimal == "," else field

    def number(self, field):
        """The number in a cell. Raises ValueError where there is none."""
        return float(self.plain(field))

    def number_or_nan(self, field):
        """The number in a cell, or NaN for a missing one."""
        return float("nan") if self.is_missing(field) else self.number(field)


PLAIN = Dialect()


class Text:
    """A .csv, .tsv or .txt file: the names of its columns or None, their number, and its rows, read when they are asked for.

    n_skip: lines before the first row. missing: whether a cell that is empty, or says so in another way (NA, ?, null, ...), is
    NaN; else it is refused.
    """

    def __init__(self, path, missing=False, dialect=PLAIN):
        self.path, self._missing, self._dialect = path, missing, dialect
        with dialect.opened(path) as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            number, first = next(lines, (0, ""))
            bare = re.sub(r'"[^"]*"', "", first)
            self.delimiter = dialect.separator or ("\t" if "\t" in bare else ";" if ";" in bare else ",")
            fields = next(csv.reader([first.strip("\r\n")], delimiter=self.delimiter), [])
            is_header = any(is_name(dialect.plain(field)) and not dialect.is_missing(field) for field in fields)
            if not fields or is_header and next(lines, None) is None:
                raise DataError(f"{path} has {'a header but ' if fields else ''}no rows")
        self.names, self.width = [field.strip() for field in fields] if is_header else None, len(fields)
        self.n_skip = number if is_header else 0

    def rows(self, columns=None):
        """The numbers in these columns, or in all: (n, d). Raises DataError that names the first cell that is none."""
        try:
            with self._dialect.opened(self.path) as file:
                for _ in range(self.n_skip):
                    file.readline()
                array = np.loadtxt(file, delimiter=self.delimiter, comments=None, quotechar='"', ndmin=2, usecols=columns,
                                   encoding=None, converters=self._dialect.number_or_nan if self._missing else
                                   self._dialect.number if self._dialect.decimal == "," else None)
        except ValueError as error:
            raise self._fault(columns, error) from None
        if columns is None and self.width != array.shape[1] or columns is not None and any(
                len(fields) != self.width for _, fields in self._lines()):
            raise self._fault(columns, None)

        def place(row, column):
            line, _ = next(islice(self._lines(), row, None))
            return self._place(row, line, column if columns is None else columns[column])

        return check_finite(self.path, array, place, self._missing)

    def column(self, j):
        """One column (n,): integers, floats or, if its cells are no numbers, strings. Raises DataError for an empty cell."""
        cells = []
        for row, (line, fields) in enumerate(self._lines()):
            if len(fields) != self.width or not fields[j].strip():
                raise self._fault([j], None) if len(fields) != self.width else DataError(
                    f"{self.path}: {self._place(row, line, j)} is empty; fill it in or remove the row")
            cells.append(self._dialect.plain(fields[j].strip()))
        if not all(map(_is_number, cells)):
            return np.array(cells)
        if all(re.fullmatch(r"[+-]?\d{1,18}", cell) for cell in cells):
            return np.array(cells).astype(np.int64)
        return self.rows([j])[:, 0]

    def count(self):
        """How many rows there are. Raises DataError unless all have as many cells as the first line, in UTF-8."""
        n = 0
        try:
            for n, (line, fields) in enumerate(self._lines(), 1):  # noqa: B007
                if len(fields) != self.width:
                    raise self._fault([], None)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: row {n + 1} or one soon after it is no {encoding_of(self._dialect)} "
                            f"({error.reason}); write the file as UTF-8, or name its encoding, --encoding") from None
        return n

    def _lines(self):
        """(line number, fields) of every row below the header."""
        with self._dialect.opened(self.path) as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            rows = ((reader.line_num, fields) for fields in reader if fields)
            yield from islice(rows, 1 if self.names else 0, None)

    def _fault(self, columns, error):
        """The DataError for the first row, or cell of these columns, that does not fit."""
        model = "the header" if self.names else "row 1"
        for row, (line, fields) in enumerate(self._lines()):
            if len(fields) != self.width:
                return DataError(f"{self.path}: row {row + 1} (line {line}) has {len(fields)} columns, {model} has "
                                 f"{self.width}; correct or remove it")
            column = next((j for j in (range(self.width) if columns is None else columns) if not (
                _is_number(self._dialect.plain(fields[j])) or self._missing and self._dialect.is_missing(fields[j]))), None)
            if column is not None:
                what, kind = (repr(fields[column][:40]) + ", not a number", TextError) if fields[column].strip() else (
                    "empty", DataError)
                return kind(f"{self.path}: {self._place(row, line, column)} is {what}; correct it, or remove the row or the "
                            "column")
        return DataError(f"{self.path} cannot be read as numbers ({error}); write plain decimal numbers, one row to a line")

    def _place(self, row, line, column):
        name = f" ({self.names[column]!r})" if self.names else ""
        return f"row {row + 1} (line {line}), column {column + 1}{name}"


def is_name(field):
    """Neither a number, nor a missing value, nor a misspelt number: a first row with one of these is a header."""
    return not (_is_number(field) or _is_missing(field) or re.match(r"\s*[\d+.-]", field))


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return field.isascii() and "_" not in field


def _is_missing(field):
    return field.strip().lower() in MISSING


def encoding_of(dialect):
    """The name of its encoding, in words."""
    return "UTF-8" if dialect.encoding == "utf-8-sig" else dialect.encoding


def header_line(path, columns):
    """The first line of a .csv file: names that Text finds again, or nothing."""
    names = [" ".join(name.splitlines()) for name in columns or ()]
    if names and not any(map(is_name, names)):
        warn(f"{path} has no header, because names that look like numbers ({', '.join(names[:3])}, ...) would be read as a "
             "row; rename the columns before fit to have one")
        return b""
    line = io.StringIO()
    quoting = csv.QUOTE_ALL if any(mark in name for name in names for mark in ";\t") else csv.QUOTE_MINIMAL
    csv.writer(line, lineterminator="\n", quoting=quoting).writerow(names)
    return line.getvalue().encode() if names else b""
