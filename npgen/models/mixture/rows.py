"""Weighted rows as EM takes them, NaN where a value is missing: in standard coordinates, in blocks, by pattern.

Rows are seen in standard coordinates, z = (x - centre) / scale in float64, so that a fit does not care where the data
lie or in what units. They are an array, or blocks that workers read; what a fit asks of them are functions of rows, summed over
the blocks in a binary tree (tree.py), and a few rows. So a fit has the same bits wherever its rows are.

on("cuda") has functions of rows computed on a device, where pieces of an array stay, if they fit there, and are sent one after
the other (kernels/_pinned.py), if they do not. What is computed from them, components and statistics, is there too.

Legend: n rows, d features.
"""
import abc
import dataclasses
import functools

import numpy as np

from ... import parallel
from ...kernels import _pinned
from ...kernels._cuda import asarray, asnumpy, constant_like, is_device_array
from ...tree import tree_sum

BLOCK = 2**22     # values of rows that are copied at once, where they have to be
START = 2**24     # values of rows that a start looks at
FEW = 2**12       # levels of a column of rows in blocks


def placed(place, tree):
    """place of every array in nested tuples, dicts and dataclasses, such as components and statistics."""
    if isinstance(tree, tuple):
        return tuple(placed(place, each) for each in tree)
    if isinstance(tree, dict):
        return {name: placed(place, each) for name, each in tree.items()}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return dataclasses.replace(tree, **{field.name: placed(place, getattr(tree, field.name))
                                            for field in dataclasses.fields(tree)})
    return place(tree) if isinstance(tree, np.ndarray) or is_device_array(tree) else tree


def patterns(x):
    """(row numbers, columns that have a value in them) of every pattern of missing values (NaN) in x; on the host."""
    if not (np.isnan(x).any() if is_device_array(x) else np.isnan(x.min(initial=0))):
        yield slice(None), None
        return
    seen = ~asnumpy(np.isnan(x))
    _, member = np.unique(np.packbits(seen, axis=1), axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(member.ravel()[order])) + 1):
        columns = np.flatnonzero(seen[rows[0]])
        yield rows, None if len(columns) == x.shape[1] else columns


def constants(tree, like):
    """The same, its arrays as constants where `like` is."""
    return placed(functools.partial(constant_like, like=like), tree)


class AnyRows(abc.ABC):
    """Weighted rows, NaN where a value is missing, and the coordinates that they are seen in, wherever they are."""

    @abc.abstractmethod
    def __len__(self):
        """How many rows have a weight above 0."""

    @abc.abstractmethod
    def sum(self, function, *args):
        """The sum of function(*args, rows) over the Rows of all blocks; function is one of a module."""

    @abc.abstractmethod
    def map(self, function, *args):
        """A list of its answers for the Rows of all blocks."""

    @abc.abstractmethod
    def each(self, function, *args):
        """The same, each computed when it is asked for."""

    @abc.abstractmethod
    def take(self, index):
        """The rows (m, d) of these numbers, which ascend, and their weights."""

    @abc.abstractmethod
    def on(self, device):
        """The same rows, computed with on "cpu" or "cuda"."""

    @abc.abstractmethod
    def seen_from(self, centre, scale):
        """The same rows in other coordinates."""

    @abc.abstractmethod
    def place(self, array):
        """The array, where an M-step computes: on the device where the rows are all there, and else on the host."""

    @abc.abstractmethod
    def few(self):
        """Rows (m, d) and their weights or None: all, or where they are in blocks evenly spaced ones that fit into memory."""

    @abc.abstractmethod
    def values(self):
        """Rows (m, d) of all values of every column, but of a column that has many in blocks FEW of each of these."""

    @abc.abstractmethod
    def of(self, columns):
        """The same rows of some columns."""

    def evenly(self, n=20_000):
        """Rows (m, d), evenly spaced ones where there are more than n."""
        return self.take(np.arange(0, len(self), -(-len(self) // n)))[0]

    def standard(self, x):
        """Rows x (m, d) in standard coordinates; a missing value is the mean."""
        z = (x - self.centre) / self.scale
        return np.where(np.isnan(z), 0.0, z)

    def mean(self, function):
        """The weighted means (d,) of a function of the columns, over the values that there are."""
        total, weight = self.sum(_totals, function)
        return total / weight

    def choose(self, stream, width):
        """All rows (m, d), or so many that, at `width` values each, they fit into memory, and their weights.

        They come in the order of a random projection: what is drawn does not depend on the order they were given in.
        """
        enough, direction = START // width, stream.normal(self.d)
        index = np.arange(len(self)) if len(self) <= enough else np.sort(stream.integers(len(self), enough))
        x, weights, direction = map(self.place, (*self.take(index), direction))
        order = np.argsort(self.standard(x) @ direction, kind="stable")
        return x[order], weights[order]

    def sample(self, stream):
        """Rows (m, d) in standard coordinates and their weights (m,), as they are chosen."""
        x, weights = self.choose(stream, self.d)
        return self.standard(x), weights

    def distinct(self, enough):
        """How many different rows there are, counted no further than is enough."""
        found = np.empty((0, self.d))
        for some in self.each(_different, enough):
            found = np.unique(np.concatenate([found, some]), axis=0)
            if len(found) >= enough:
                break
        return len(found)


class Rows(AnyRows):
    """Rows x (n, d), their weights (n,) or None, on the host or a device. size: rows of a piece.

    centre, scale: where they lie that compute. groups: [(row numbers, columns)] of rows in which the same columns have values;
    for columns, None where all have.
    """

    def __init__(self, x, weights, centre=0.0, scale=1.0, size=None, device="cpu", groups=None):
        self.x, self.weights, self.centre, self.scale, self.device = x, weights, centre, scale, device
        self.size = size or max(1, BLOCK // max(1, x.shape[1]))
        if groups is not None:
            self.groups = groups

    def on(self, device):
        centre, scale = (self.centre, self.scale) if device == "cpu" else map(asarray, (self.centre, self.scale))
        return Rows(self.x, self.weights, centre, scale, self.size, device)

    def __len__(self):
        return len(self.x)

    @property
    def d(self):
        return self.x.shape[1]

    def seen_from(self, centre, scale):
        return Rows(self.x, self.weights, centre, scale, self.size)

    def of(self, columns):
        return Rows(self.x[:, columns], self.weights, size=self.size)

    def weighted(self, index):
        """The weights of some rows."""
        if self.weights is None:
            return np.ones_like(self.x, shape=self.x[index].shape[:1], dtype=np.float64)
        return self.weights[index].astype(np.float64)

    def take(self, index):
        return self.x[index], self.weighted(index)

    def place(self, array):
        return array if self.device == "cpu" else asarray(array)

    def evenly(self, n=20_000):
        return self.x[::-(-len(self) // n)]

    def few(self):
        return self.x, self.weights

    def values(self):
        return self.x

    @functools.cached_property
    def pieces(self):
        """Rows of each piece, which make up all, on the host."""
        parts = [slice(low, low + self.size) for low in range(0, max(len(self), 1), self.size)]
        return [Rows(self.x[part], None if self.weights is None else self.weights[part], self.centre, self.scale)
                for part in parts]

    @functools.cached_property
    def _stay(self):
        """The pieces on the device, where they stay; None if they do not fit."""
        if not _pinned.fits(self.x.nbytes + (0 if self.weights is None else self.weights.nbytes)):
            return None
        return [piece._sent(*map(asarray, piece.arrays)) for piece in self.pieces]

    @property
    def arrays(self):
        """What a device is sent of them."""
        return (self.x,) if self.weights is None else (self.x, self.weights)

    def _sent(self, x, weights=None):
        """This piece, now that its arrays are on the device."""
        return Rows(x, weights, self.centre, self.scale, groups=[tuple(
            asarray(at) if isinstance(at, np.ndarray) else at for at in group) for group in self.groups])

    def _where_computed(self):
        """Every piece, where functions of it are computed."""
        if self.device == "cpu":
            return self.pieces
        if self._stay is not None:
            return self._stay
        sent = _pinned.streamed([piece.arrays for piece in self.pieces])
        return (piece._sent(*arrays) for piece, arrays in zip(self.pieces, sent, strict=True))

    def sum(self, function, *args):
        return tree_sum(self.each(function, *args), len(self.pieces))

    def map(self, function, *args):
        return list(self.each(function, *args))

    def each(self, function, *args):
        return (function(*args, piece) for piece in self._where_computed())

    @functools.cached_property
    def groups(self):
        return list(patterns(self.x))


class BlockedRows(AnyRows):
    """Rows in blocks (data.blocks), which workers read, a block at a time."""

    def __init__(self, blocks, device="cpu", columns=None, centre=0.0, scale=1.0):
        self.blocks, self.device, self.columns, self.centre, self.scale = blocks, device, columns, centre, scale

    def __len__(self):
        return self.blocks.n_counting

    @property
    def d(self):
        return self.blocks.d if self.columns is None else len(self.columns)

    def seen_from(self, centre, scale):
        return BlockedRows(self.blocks, self.device, self.columns, centre, scale)

    def on(self, device):
        return BlockedRows(self.blocks, device, self.columns, self.centre, self.scale)

    def of(self, columns):
        return BlockedRows(self.blocks, self.device, columns)

    def sum(self, function, *args):
        return parallel.current().sum_blocks(_sum, self.blocks.each, function, args, self._view)

    def map(self, function, *args):
        return parallel.current().map_blocks(_answer, self.blocks.each, function, args, self._view)

    def each(self, function, *args):
        for block in self.blocks.each:
            yield from parallel.current().map_blocks(_answer, [block], function, args, self._view)

    def take(self, index):
        parts = parallel.current().map_blocks(_taken, self.blocks.each, index, self._view)
        return tuple(np.concatenate(each) for each in zip(*parts, strict=True))

    def place(self, array):
        return array

    def few(self):
        return self.take(np.arange(0, len(self), -(-len(self) * self.d // START)))

    def values(self):
        each = [np.unique(np.concatenate(values)) for values in zip(*self.map(_values), strict=True)]
        gaps = np.any(self.map(_gaps), axis=0)
        table = np.full((max(map(len, each)) + 1, self.d), np.nan)
        for j, values in enumerate(each):
            table[:len(values), j] = values
            table[len(values):, j] = np.nan if gaps[j] else values[:1]
        return table

    @property
    def _view(self):
        return self.columns, self.centre, self.scale, self.device


def _read(block, columns, *view):
    """The Rows of a block."""
    x, weights = block.read()
    rows = Rows(x, weights, *view)
    return rows if columns is None else Rows(x[:, columns], weights, *view, rows.size)


def _sum(function, args, view, block):
    *view, device = view
    rows = _read(block, *view).on(device)
    with np.errstate(all="ignore"):
        return placed(asnumpy, rows.sum(function, *placed(rows.place, args)))


def _answer(function, args, view, block):
    with np.errstate(all="ignore"):
        return function(*args, _read(block, *view[:-1]))


def _taken(index, view, block):
    """The rows of a block whose numbers among all are in index, and their weights."""
    rows = _read(block, *view[:-1])
    ends = np.searchsorted(index, [block.low, block.low + len(rows)])
    return rows.take(index[slice(*ends)] - block.low)


def _totals(function, rows):
    """The sums (2, d) of w function(z), and of w, over the values that there are."""
    w, z = rows.weighted(slice(None)), (rows.x - rows.centre) / rows.scale
    seen = ~np.isnan(z)
    return np.stack([w @ np.where(seen, function(z), 0.0), w @ seen])


def _ends(rows):
    """The smallest and the largest value (2, d) of each column; NaN where it has none."""
    if not len(rows):
        return np.full((2, rows.d), np.nan)
    return np.stack([np.fmin.reduce(rows.x), np.fmax.reduce(rows.x)])


def _values(rows):
    """The values (v,) of every column, the first FEW where there are more."""
    return [np.unique(column[~np.isnan(column)])[:FEW] for column in rows.x.T]


def _gaps(rows):
    """Whether each column (d,) misses a value."""
    return np.isnan(rows.x).any(axis=0)


def _different(enough, rows):
    """Rows (m, d) that differ, up to so many or some more."""
    found = np.empty((0, rows.d))
    for low in range(0, len(rows), 1024):
        found = np.unique(np.concatenate([found, rows.standard(rows.x[low:low + 1024])]), axis=0)
        if len(found) >= enough:
            break
    return found


def spread(rows, columns=None):
    """The weighted means and standard deviations (d,) of the values that the columns of rows have.

    Raises ValueError for a column without values, or with values too far apart; columns are their numbers in the user's X.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        origin = np.nan_to_num(rows.take(np.array([0]))[0][0].astype(np.float64))
        centre = origin + rows.seen_from(origin, 1.0).mean(np.positive)
        ends = np.stack(rows.map(_ends))
        low, high = np.fmin.reduce(ends[:, 0]), np.fmax.reduce(ends[:, 1])
        peak = np.maximum(high - centre, centre - low)
        std = peak * np.sqrt(rows.seen_from(centre, np.where(peak > 0, peak, 1)).mean(np.square))
    for wrong, words in ((np.isnan(centre), "has no values; drop it"),
                         (~np.isfinite(std), "has values too far apart for float64; divide it by a constant")):
        if wrong.any():
            column = wrong.argmax() if columns is None else columns[wrong.argmax()]
            raise ValueError(f"fit: column {column} of X {words}")
    return centre, std
