"""Tables in .csv, .tsv and .txt files: what their first line means, and which cell is wrong.

Rows and columns are counted from 1 in messages. Legend: n rows, d columns.
"""
import collections
import csv
import dataclasses
import functools
import gzip
import io
import re
from itertools import islice

import numpy as np

from ..warn import warn
from .table import EXACT, DataError, TextError, check_finite

MISSING = {"", "?", "-", "na", "n/a", "null", "none"}
NUMBERS = {  # the mark of decimals -> what numbers look like, whose thousands may be marked with the other one
    mark: rf"[+-]?(([0-9]+|[1-9][0-9]{{0,2}}([{other}][0-9]{{3}})+)([{mark}][0-9]*)?|[{mark}][0-9]+)([eE][+-]?[0-9]+)?"
    for mark, other in ((".", ","), (",", "."))}
csv.field_size_limit(2**31 - 1)  # a long text is a cell as good as any


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

    def numeral(self, field):
        """The number in a cell as Python writes it, or None where there is none. If the mark of decimals is known, the other
        one may stand between thousands, 1.234,5, and nowhere else.
        """
        text = field.strip()
        if self.decimal is not None and re.search("[.,]", text):
            if not re.fullmatch(NUMBERS[self.decimal], text):
                return None
            text = text.replace("," if self.decimal == "." else ".", "").replace(",", ".")
        return text if _is_number(text) else None

    def number(self, field):
        """The number in a cell. Raises ValueError where there is none."""
        text = self.numeral(field)
        if text is None:
            raise ValueError(f"{field[:40]!r} is no number")
        return float(text)

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
            try:
                fields = next(csv.reader([first.strip("\r\n")], delimiter=self.delimiter, strict=True), [])
            except csv.Error as error:
                raise DataError(f"{path}: line {number} has a quote that is not closed there, or not where a cell ends ({error}"
                                "); mend it, and write names on one line") from None
            is_header = any(is_name(field) and not dialect.is_missing(field) for field in fields)
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
                array = np.loadtxt((line for line in file if line.strip()), delimiter=self.delimiter, comments=None,
                                   quotechar='"', ndmin=2, usecols=columns, encoding=None,
                                   converters=self._dialect.number_or_nan if self._missing else
                                   self._dialect.number if self._dialect.decimal is not None else None)
        except ValueError as error:
            raise self._fault(columns, error) from None
        if columns is None and self.width != array.shape[1] or columns is not None and any(
                len(fields) != self.width for _, fields in self._lines()):
            raise self._fault(columns, None)
        numbers = range(self.width) if columns is None else columns

        def place(row, column):
            line, _ = next(islice(self._lines(), row, None))
            return self._place(row, line, numbers[column])

        self._check_exact(check_finite(self.path, array, place, self._missing), numbers)
        return array

    def _check_exact(self, array, columns):
        """Raise DataError for a whole number that is another one as a float: an id of 19 digits would come back as that."""
        if -EXACT < np.fmin.reduce(array, axis=None) and np.fmax.reduce(array, axis=None) < EXACT:
            return
        far = (np.abs(array) >= EXACT).any(axis=1)
        for row, (line, fields) in enumerate(self._lines()):
            for x, j in zip(array[row].tolist(), columns if far[row] else (), strict=False):
                text = self._dialect.numeral(fields[j]) or ""
                if _is_whole(text) and int(text) != x:
                    raise DataError(f"{self.path}: {self._place(row, line, j)} is {text[:40]}, a whole number that is too long "
                                    "for a float of 64 bits; leave out the column, or read the file as a table of text")

    def column(self, j):
        """One column (n,): integers, floats or, if its cells are no numbers or whole ones beyond 64 bits, strings.

        Raises DataError for an empty cell.
        """
        cells = []
        for row, (line, fields) in enumerate(self._lines()):
            if len(fields) != self.width or not fields[j].strip():
                raise self._fault([j], None) if len(fields) != self.width else DataError(
                    f"{self.path}: {self._place(row, line, j)} is empty; fill it in or remove the row")
            cells.append(fields[j].strip())
        numerals = list(map(self._dialect.numeral, cells))
        if None in numerals:
            return np.array(cells)
        if not all(map(_is_whole, numerals)):
            return self.rows([j])[:, 0]
        try:
            return np.array(numerals).astype(np.int64)
        except (OverflowError, ValueError):
            return np.array(cells)

    def survey(self):
        """How many rows there are, and whether every reader finds the same ones: no line is blank or ends in a lone CR, no cell
        has a quote inside. Raises DataError unless all have as many cells as the first line.
        """
        n, plain = 0, True
        for _, fields, is_usual in self._records():
            if fields and len(fields) != self.width:
                raise self._fault([], None)
            n += bool(fields)
            plain &= is_usual and bool(fields) and '"' not in "".join(fields)
        return n, plain

    def rewritten(self):
        """The rows, without names, as the bytes of a .csv in UTF-8 in which every reader finds the same ones."""
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=self.delimiter).writerows(fields for _, fields in self._lines())
        return file.getvalue().encode()

    def _lines(self):
        """(line number, fields) of every row below the header."""
        return ((line, fields) for line, fields, _ in self._records() if fields)

    def _records(self):
        """(line number, fields, whether its end is a usual one) of every row below the header; a blank line has no fields.

        Raises DataError for a quote that is not closed.
        """
        with self._dialect.opened(self.path) as file:
            for _ in range(self.n_skip):
                file.readline()
            ends = collections.deque(maxlen=1)
            reader = csv.reader((ends.append(line[-1:]) or line for line in file), delimiter=self.delimiter, strict=True)
            row, line = 1, self.n_skip
            try:
                for fields in reader:
                    line = self.n_skip + reader.line_num
                    if self.width > 1 and len(fields) == 1 and not fields[0].strip():
                        fields = []
                    row += bool(fields)
                    yield line, fields, ends[0] != "\r"
            except csv.Error as error:
                raise DataError(f"{self.path}: row {row} (line {line + 1}) has a quote that is not closed, or not where a cell "
                                f"begins or ends ({error}); mend it") from None

    def _fault(self, columns, error):
        """The DataError for the first row, or cell of these columns, that does not fit."""
        model = "the header" if self.names else "row 1"
        for row, (line, fields) in enumerate(self._lines()):
            if len(fields) != self.width:
                return DataError(f"{self.path}: row {row + 1} (line {line}) has {len(fields)} columns, {model} has "
                                 f"{self.width}; correct or remove it")
            column = next((j for j in (range(self.width) if columns is None else columns) if not (
                self._dialect.numeral(fields[j]) is not None or self._missing and self._dialect.is_missing(fields[j]))), None)
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


def _is_whole(text):
    return re.fullmatch("[+-]?[0-9]+", text) is not None


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
