"""Rows and the names of their columns.

Legend: n rows, d columns.
"""
import dataclasses

import numpy as np

EXACT = 2**53       # integers up to it are floats of 64 bits
_BLOCK = 1 << 22  # values checked at a time: keeps the temporaries of a memory-mapped file small


class DataError(ValueError):
    """A data set cannot be read or written; the message names the file, row and column, and says what to do."""


class TextError(DataError):
    """A cell of a file holds text, where it is read as numbers."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows (n, d) and the names of their columns, or None: a model takes it as it takes a DataFrame.

    table[["b", "a"]] has these columns, in this order; table[:10], table[[3, 1]] and table[mask] (n,) have these rows;
    table["b"] is that column (n,), of a dtype of its own if rows are an array of objects.
    """

    rows: np.ndarray
    columns: list | None

    @property
    def shape(self):
        return self.rows.shape

    def __len__(self):
        return len(self.rows)

    def __array__(self, dtype=None, copy=None):
        return self.rows.astype(dtype or self.rows.dtype, copy=bool(copy))

    def __getitem__(self, key):
        if isinstance(key, str) and key in (self.columns or ()):
            column = self.rows[:, self.columns.index(key)]
            return np.array(column.tolist()) if column.dtype == object else column
        several = isinstance(key, slice) or np.ndim(key) == 1
        names = [] if isinstance(key, slice) or not several else [each for each in key if isinstance(each, str)]
        if not several or 0 < len(names) < len(key) or not set(names) <= set(self.columns or ()):
            raise KeyError(f"a Table takes one or a list of its columns {self.columns}, or a slice or an array of rows, "
                           f"got {key!r}"[:200])
        if names:
            return Table(self.rows[:, [self.columns.index(name) for name in names]], names)
        return Table(self.rows[key], self.columns)


def check_finite(path, array, place=None, missing=False):
    """Return the array, or raise DataError naming its first cell that is infinite, or NaN unless it may be missing."""
    step = max(1, _BLOCK // array.shape[1])
    for start in range(0, len(array) if array.dtype.kind == "f" else 0, step):
        finite = np.isfinite(array[start:start + step])
        if missing:
            finite |= np.isnan(array[start:start + step])
        if not finite.all():
            row, column = np.argwhere(~finite)[0] + [start, 0]
            where = place(row, column) if place else f"row {row + 1}, column {column + 1} (x[{row}, {column}])"
            raise DataError(f"{path}: {where} is {array[row, column]}; fill it in or remove the row")
    return array
