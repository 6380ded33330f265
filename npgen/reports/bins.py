"""The values of a column told apart: levels, numbers that repeat, intervals; and a cell as text.

Legend: n rows, m rows drawn, d columns.
"""
import numpy as np

from ..data.column import Column
from ..data.frames import Native

SOME = 20           # values of a column, up to which each is told apart
ATOM = 0.1          # share of the rows from which on a number is


def columns_of(x, drawn, names):
    """A Column for each of the rows x (n, d), which come without a schema: whole numbers or real ones."""
    made = []
    for j, name in enumerate(names):
        values = np.concatenate([x[:, j], drawn[:, j]])
        values = values[np.isfinite(values)]
        whole = len(values) and np.all(values == np.floor(values)) and np.abs(values).max() < 2**53
        low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
        known = {"low": int(low), "high": int(high), "step": 1} if whole else {"low": float(low), "high": float(high)}
        made.append(Column(name, "integer" if whole else "real", Native("float", "float64"), int(np.isnan(x[:, j]).sum()),
                           **known))
    return tuple(made)


def texts(column, x):
    """The cells of a Column that numbers x (n,) stand for, as text; of numbers four digits that count."""
    values, gaps = column.values(np.asarray(x, np.float64))
    if column.kind == "datetime" and column.format is None:
        values = values.astype(f"M8[{column.native.unit}]")
    cells = [f"{value:.4g}" if isinstance(value, float) and column.step is None else
             f"{value:.10g}" if isinstance(value, float) else str(value) for value in values.tolist()]
    return ["missing" if gap else cell for cell, gap in zip(cells, gaps, strict=True)]


class Bins:
    """Where the values of a column fall: bins(x) (n,) is a number for each, of the values that are told apart, then of the
    intervals between edges, the first and the last of them open, then size - 1 for what is missing.

    x, drawn: rows of the column (n,), (m,). some: values are told apart if there are no more, and of levels the most frequent.
    count: intervals there are at most, of equal width or, unless even, with equally many rows.
    """

    def __init__(self, column, x, drawn, some=SOME, count=30, even=True):
        both = np.concatenate([x, drawn])
        both = both[~np.isnan(both)]
        values, repeats = np.unique(both, return_counts=True)
        kept = np.sort(np.argsort(-repeats, kind="stable")[:some if len(values) <= some else some - 1])
        if column.levels is None and len(values) > some:
            kept = np.flatnonzero(repeats >= max(2, ATOM * len(both)))
        self.values, rest = values[kept], np.repeat(np.delete(values, kept), np.delete(repeats, kept))
        self.edges = np.empty(0) if column.levels is not None or not len(rest) else _edges(column, rest, count, even)
        self.size = len(self.values) + len(self.edges) + 2
        self._column = column

    def __call__(self, x):
        codes = np.searchsorted(self.edges, x, side="right") + len(self.values)
        at = np.searchsorted(self.values, x)
        known = at < len(self.values)
        known[known] = self.values[at[known]] == x[known]
        codes[known] = at[known]
        codes[np.isnan(x)] = self.size - 1
        return codes

    @property
    def labels(self):
        """What each bin holds, in words."""
        column, step = self._column, _step(self._column)
        if column.levels is not None:
            return [*texts(column, self.values), "other levels", "missing"]
        if not len(self.edges):
            return [*texts(column, self.values), "other values", "missing"]
        low, high = texts(column, self.edges + step / 2), texts(column, self.edges - step / 2)
        between = [a if a == b else f"{a} to {b}" for a, b in zip(low[:-1], high[1:], strict=True)]
        return [*texts(column, self.values), f"up to {high[0]}", *between, f"from {low[-1]}", "missing"]

    def shares(self, x):
        """The share of each bin among those values of x (n,) that are there, (size - 1,)."""
        counts = np.bincount(self(x), minlength=self.size)[:-1]
        return counts / max(counts.sum(), 1)


def _step(column):
    """The grid that a column's numbers are on, 0 for none; dates are numbered."""
    return 1 if column.kind == "datetime" else column.step or 0


def _edges(column, rest, count, even):
    """Edges between intervals of these sorted numbers, half a step off the grid that they are on."""
    step = _step(column)
    if not even:
        edges = np.unique(np.quantile(rest, np.arange(1, count) / count))
        return np.unique(np.round(edges / step) * step + step / 2) if step else edges
    low, high = np.quantile(rest, [0.005, 0.995])
    if not low < high:
        return np.array([low + step / 2])
    if not step:
        return np.linspace(low, high, count - 1)
    width = max(1, np.ceil((high - low) / step / (count - 2))) * step
    return low - step / 2 + width * np.arange(np.floor((high - low) / width) + 2)
