"""Weighted rows as EM takes them, NaN where a value is missing: in standard coordinates, in blocks, by pattern.

Rows are seen in standard coordinates, z = (x - centre) / scale in float64, so that a fit does not care where the data
lie or in what units.

Legend: n rows, d features.
"""
import functools

import numpy as np

from ...kernels._cuda import asarray

BLOCK = 2**22     # values of rows that are copied at once, where they have to be
START = 2**24     # values of rows that a start looks at


def patterns(x):
    """(row numbers, columns that have a value in them) of every pattern of missing values (NaN) in x."""
    if not np.isnan(x.min(initial=0)):
        yield slice(None), None
        return
    seen = ~np.isnan(x)
    _, member = np.unique(np.packbits(seen, axis=1), axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(member.ravel()[order])) + 1):
        columns = np.flatnonzero(seen[rows[0]])
        yield rows, None if len(columns) == x.shape[1] else columns


class Rows:
    """Weighted rows, NaN where a value is missing, and the coordinates that they are seen in."""

    def __init__(self, x, weights, centre, scale, device="cpu"):
        self.x, self.weights, self.centre, self.scale, self.device = x, weights, centre, scale, device

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        """Some rows in standard coordinates; a missing value is the mean."""
        z = (self.x[index] - self.centre) / self.scale
        return np.where(np.isnan(z), 0.0, z)

    def weighted(self, index):
        """The weights of some rows."""
        return np.ones(len(self.x[index])) if self.weights is None else self.weights[index].astype(np.float64)

    @functools.cached_property
    def _on_device(self):
        return asarray(self.x), asarray(self.weighted(slice(None)))

    def there(self, index):
        """Some rows and their weights, where the kernels compute."""
        x, weights = (self.x, None) if self.device == "cpu" else self._on_device
        return x[index], self.weighted(index) if weights is None else weights[index]

    def blocks(self):
        """Slices that make up all rows."""
        size = max(1, BLOCK // max(1, self.x.shape[1]))
        return [slice(low, low + size) for low in range(0, len(self), size)]

    @functools.cached_property
    def groups(self):
        """(row numbers, columns) of rows in which the same columns have values; for columns, None where all have."""
        missing = any(np.isnan(self.x[block].min()) for block in self.blocks())
        if missing:
            return list(patterns(self.x))
        return [(block, None) for block in (self.blocks() if self.device == "cpu" else [slice(None)])]

    def mean(self, function):
        """The weighted means (d,) of a function of the columns, over the values that there are."""
        total, weight = 0.0, 0.0
        for block in self.blocks():
            w, z = self.weighted(block), (self.x[block] - self.centre) / self.scale
            seen = ~np.isnan(z)
            total, weight = total + w @ np.where(seen, function(z), 0.0), weight + w @ seen
        return total / weight

    def choose(self, stream, width):
        """The numbers (m,) of all rows, or of so many that, at `width` values each, they fit into memory.

        They come in the order of a random projection: what is drawn does not depend on the order they were given in.
        """
        enough, direction = START // width, stream.normal(self.x.shape[1])
        index = np.arange(len(self)) if len(self) <= enough else np.sort(stream.integers(len(self), enough))
        return index[np.argsort(self[index] @ direction, kind="stable")]

    def sample(self, stream):
        """Rows (m, d) in standard coordinates and their weights (m,), as they are chosen."""
        index = self.choose(stream, self.x.shape[1])
        return self[index], self.weighted(index)

    def distinct(self, enough):
        """How many different rows there are, counted no further than is enough."""
        found = np.empty((0, self.x.shape[1]))
        for low in range(0, len(self), 1024):
            found = np.unique(np.concatenate([found, self[low:low + 1024]]), axis=0)
            if len(found) >= enough:
                break
        return len(found)


def spread(x, weights, columns=None):
    """The weighted means and standard deviations (d,) of the values that the columns of x have.

    Raises ValueError for a column without values, or with values too far apart; columns are their numbers in the user's X.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        origin = np.nan_to_num(x[0].astype(np.float64))
        centre = origin + Rows(x, weights, origin, 1.0).mean(np.positive)
        peak = np.maximum(np.fmax.reduce(x) - centre, centre - np.fmin.reduce(x))
        std = peak * np.sqrt(Rows(x, weights, centre, np.where(peak > 0, peak, 1)).mean(np.square))
    for wrong, words in ((np.isnan(centre), "has no values; drop it"),
                         (~np.isfinite(std), "has values too far apart for float64; divide it by a constant")):
        if wrong.any():
            column = wrong.argmax() if columns is None else columns[wrong.argmax()]
            raise ValueError(f"fit: column {column} of X {words}")
    return centre, std
