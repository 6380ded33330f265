"""A built-in data set or a file, of which as much is read as is asked for.

Legend: n rows, d columns.
"""
import contextlib
import functools
import gzip
import os
import zlib

import numpy as np

from .binary import read_idx, read_npy, read_npz
from .table import DataError
from .text import PLAIN, Text, encoding_of
from .toys import BUILT_IN, TOYS, digits


class Source:
    """A built-in data set or a file; n and seed as npgen.data.load takes them. missing: whether cells may be (NaN).
    dialect: of a file of text.

    width   the number of its columns, d
    names   of its columns (d,), or None

    Raises DataError for what does not exist or is damaged, and names for two that are the same or for too few of them.
    """

    def __init__(self, source, *, n=None, seed=0, missing=False, dialect=PLAIN):
        self.path, self._n, self._dialect = os.fspath(source), n, dialect
        if n is not None and n < 1:
            raise DataError(f"n is {n}; ask for at least one row")
        if self.path in TOYS:
            self._read = _Whole(TOYS[self.path](2000 if n is None else n, seed), None)
        elif self.path == "digits":
            self._read = _Whole(digits()[0], None)
        else:
            with reading(self.path, dialect):
                self._read = _reader(self.path, dialect)(self.path, missing)
        self.width = self._read.width

    @functools.cached_property
    def names(self):
        names = self._read.names
        if names and len(names) != self.width:
            raise DataError(f"{self.path} has {len(names)} names for {self.width} columns; give every column one")
        first = {}
        for j, name in enumerate(names or (), 1):
            if first.setdefault(name, j) != j:
                raise DataError(f"{self.path}: columns {first[name]} and {j} are both named {name!r}; give each a name of its "
                                "own")
        return names

    def find(self, column):
        """The number from 0 of a column, given its name or that number. Raises DataError."""
        if isinstance(column, str) and column in (self.names or ()):
            return self.names.index(column)
        if isinstance(column, (int, np.integer)) and 0 <= column < self.width:
            return int(column)
        raise DataError(f"{self.path} has no column {column!r}; it has {', '.join(map(repr, self.names or ()))}"[:300]
                        if self.names else f"{self.path} has no column {column!r}; it has {self.width} without names")

    def rows(self, columns=None):
        """The numbers (n, d) in the columns of these numbers, in this order, or in all; others in a .csv may be text."""
        with reading(self.path, self._dialect):
            return self._first(self._read.rows(columns))

    def column(self, j):
        """One column (n,): integers if all its cells are whole numbers, floats if they are numbers, else strings."""
        with reading(self.path, self._dialect):
            return self._first(self._read.column(j))

    def _first(self, array):
        if self._n is not None and self._n > len(array):
            raise DataError(f"{self.path} has {len(array)} rows; ask for no more than that (n is {self._n})")
        return array[:self._n]


@contextlib.contextmanager
def reading(path, dialect=PLAIN):
    """Whatever a parser raises, the file is at fault: DataError that names it."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except UnicodeDecodeError as error:
        where = f"byte 0x{error.object[error.start]:02x}{_line_of(path, dialect.encoding)}"
        raise DataError(f"{path} is no {encoding_of(dialect)} text ({where}); save it as UTF-8, or name its encoding, "
                        "--encoding") from None
    except UnicodeError as error:
        raise DataError(f"{path} is no {encoding_of(dialect)} text ({error}); save it as UTF-8, or name its encoding, "
                        "--encoding") from None
    except Exception as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{path} is damaged or not what its name says ({reason}); use another copy") from None


def _line_of(path, encoding):
    """" in line 7", the first of a file that is not in this encoding; nothing where none is, or it is damaged further on."""
    number = 0
    try:
        with (gzip.open if path.lower().endswith(".gz") else open)(path, "rb") as file:
            for line in file:
                number += 1
                line.decode(encoding)
    except UnicodeDecodeError:
        return f" in line {number}"
    except (OSError, EOFError, zlib.error):
        pass
    return ""


class _Whole:
    """An array (n, d), read as a whole, and the names of its columns or None."""

    def __init__(self, array, names):
        self._array, self.names, self.width = array, names, array.shape[1]

    def rows(self, columns):
        return self._array if columns is None else self._array[:, columns]

    def column(self, j):
        return self._array[:, j]


def _reader(path, dialect):
    """What reads a file of this kind: a function of the path, and of whether cells may be missing."""
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file, nor built-in data of that name; built in are {', '.join(BUILT_IN)}")
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a file; give the path of one")
    name = os.path.basename(path).lower().removesuffix(".gz")
    suffix = os.path.splitext(name)[1]
    if suffix in (".npy", ".npz") and path.lower().endswith(".gz"):
        raise DataError(f"{path}: unpack it first; only .csv and idx files are read through gzip")
    read = (read_npy if suffix == ".npy" else read_npz if suffix == ".npz" else
            Text if suffix in (".csv", ".tsv", ".txt") else read_idx if "idx" in name else None)
    if read is None:
        raise DataError(f"{path} has no known format; give a .npy, .npz, .csv or idx file")
    if os.path.getsize(path) == 0:
        raise DataError(f"{path} is empty")
    return functools.partial(Text, dialect=dialect) if read is Text else lambda path, missing: _Whole(*read(path, missing))
