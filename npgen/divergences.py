"""Distances between distributions, each a set of rows with weights, or a model that rows are drawn from.

    energy_distance    2 E|x - y| - E|x - x'| - E|y - y'|: 0 where p = q, and there alone (Székely & Rizzo, 2013)

Rows stand for the distribution that has these rows, by their weights; between two such the value is exact. Of a model, rows
are drawn, in BATCHES that are independent of one another; the value is the mean over them, without bias, and an estimate.

Legend: n, m rows, d columns.
"""
import dataclasses
import math

import numpy as np

from .checks import check_number, check_rows, check_weights
from .random import as_stream

BATCHES = 10
BLOCK = 2**18  # differences at once


@dataclasses.dataclass(frozen=True)
class Divergence:
    """value, and how far it may be off: kind is "exact", or "estimate", of which standard_error is the standard error."""

    value: float
    standard_error: float | None = None

    @property
    def kind(self):
        return "exact" if self.standard_error is None else "estimate"

    def __float__(self):
        return self.value


def energy_distance(p, q, *, p_weights=None, q_weights=None, n_samples=2000, rng=0):
    """2 E|x - y| - E|x - x'| - E|y - y'| for x, x' ~ p and y, y' ~ q, in the rows' units; of one column 2 int (F - G)^2.

    p, q: rows (n, d), weighted by p_weights (n,), or anything with sample(n), of which n_samples rows are drawn by rng. Raises
    ValueError or TypeError for what is neither, or of another width. Time is n m d. Reference: Székely & Rizzo (2013).
    """
    (x, wx), (y, wy) = _both("energy_distance", p, q, p_weights, q_weights, n_samples, rng)
    within = [_mean_distance(a, w, a, w, distinct=w is None) for a, w in ((x, wx), (y, wy))]
    return _of_batches(2 * _mean_distance(x, wx, y, wy) - within[0] - within[1], wx, wy)


def _both(method, p, q, p_weights, q_weights, n_samples, rng):
    """Of p and q: rows in batches (b, n, d) in float64, and their weights (n,), of sum 1; None of rows that are drawn."""
    if check_number(method, n_samples) < 2 * BATCHES:
        raise ValueError(f"{method}: n_samples must be at least {2 * BATCHES}, got {n_samples}")
    stream, found = as_stream(rng), []
    for name, rows, weights in (("p", p, p_weights), ("q", q, q_weights)):
        if hasattr(rows, "sample") and not hasattr(rows, "dtype") and not hasattr(rows, "columns"):
            if weights is not None:
                raise ValueError(f"{method}: {name}_weights are of rows, but {name} is a {type(rows).__name__}; leave them out")
            size = n_samples // BATCHES
            drawn = np.asarray(rows.sample(size * BATCHES, rng=stream), dtype=np.float64)
            found.append((drawn.reshape(BATCHES, size, -1), None))
        else:
            x = check_rows(method, rows, name=name, minimum=1).astype(np.float64)
            w = check_weights(method, weights, x)
            found.append((x[None], np.full(len(x), 1 / len(x)) if w is None else w / w.sum()))
    if found[0][0].shape[2] != found[1][0].shape[2]:
        raise ValueError(f"{method}: p has {found[0][0].shape[2]} columns, but q has {found[1][0].shape[2]}")
    return found


def _of_batches(values, *weights):
    """The Divergence of a value for every batch; of a single value, if all that there is are rows."""
    if all(w is not None for w in weights):
        return Divergence(float(values[0]))
    return Divergence(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(BATCHES))


def _mean_distance(x, wx, y, wy, distinct=False):
    """The weighted mean of |x_i - y_j| in every batch, (b,); distinct: without the pairs of i = j."""
    means = np.zeros(max(len(x), len(y)))
    for k in range(len(means)):
        a, b = x[k % len(x)], y[k % len(y)]
        rows = max(1, BLOCK // b.size)
        u, v = (np.full(len(each), 1 / len(each)) if w is None else w for each, w in ((a, wx), (b, wy)))
        for i in range(0, len(a), rows):
            means[k] += u[i:i + rows] @ np.sqrt(np.square(a[i:i + rows, None] - b).sum(axis=2)) @ v
        means[k] *= len(a) / (len(a) - 1) if distinct else 1
    return means
