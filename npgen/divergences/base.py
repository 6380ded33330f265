"""What a divergence gives, and what it takes: rows with weights, or whatever rows are drawn from.

Rows stand for the distribution that has these rows, by their weights. Of whatever has sample(n), such as a model, rows are
drawn in BATCHES that are independent of one another; an answer is the mean over them, and their spread its standard error.

Legend: b batches, n rows, d columns.
"""
import contextlib
import dataclasses
import math
import warnings

import numpy as np

from ..checks import check_number, check_rows, check_weights, one_line, with_article
from ..random import as_stream

BATCHES = 10


@dataclasses.dataclass(frozen=True)
class Divergence:
    """value; kind, "exact" or "estimate"; standard_error of an estimate: of a grid, how far a coarser one is off and
    what lies in its outermost cells; NaN where it is unknown, as where a density is itself an estimate or a bound."""

    value: float
    standard_error: float | None = None

    @property
    def kind(self):
        return "exact" if self.standard_error is None else "estimate"

    def __float__(self):
        return self.value


def is_drawn_from(p):
    """Whether p is no rows, but has a sample."""
    return callable(getattr(p, "sample", None)) and not hasattr(p, "dtype") and not hasattr(p, "columns")


@contextlib.contextmanager
def by_place():
    """Columns go by their places: models that know names of theirs need not warn of rows that have none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have valid feature names")
        yield


def check_names(method, p, q):
    """Raise ValueError for frames or models of frames whose columns have other names, or another order."""
    known = [getattr(each, "feature_names_in_" if is_drawn_from(each) else "columns", None) for each in (p, q)]
    known = [[] if names is None else list(names) for names in known]
    if all(names and all(isinstance(name, str) for name in names) for names in known) and known[0] != known[1]:
        raise ValueError(f"{method}: p has columns {one_line(known[0])}, but q has {one_line(known[1])}; pass both in one "
                         "order")


def model_of(method, name, p, *asked):
    """p, a model that has all these methods; of a DataFrame, its numbers. Raises TypeError for rows, and what has them not."""
    if hasattr(p, "dtype") or hasattr(p, "columns") or not all(callable(getattr(p, each, None)) for each in asked):
        raise TypeError(f"{method}: {name} must be a model with {' and '.join(asked)}, got {with_article(p)}; fit one to "
                        "the rows, or ask for a distance between rows, such as energy_distance")
    return p.without_schema() if hasattr(p, "without_schema") else p


def by_densities(found, *models):
    """A Divergence that was found by the densities of models: of unknown error where one is an estimate or a bound."""
    exact = all(getattr(getattr(each, "capabilities", None), "density", "exact") == "exact" for each in models)
    return found if exact else Divergence(found.value, math.nan)


def draw(method, p, n, stream):
    """n rows (n, d) of p in float64."""
    p = p.without_schema() if hasattr(p, "without_schema") else p
    x = np.asarray(p.sample(n, rng=stream), dtype=np.float64)
    if x.ndim != 2 or len(x) != n:
        raise ValueError(f"{method}: sample({n}) of {with_article(p)} has shape {x.shape}, not ({n}, d)")
    return x


def rows_of(method, p, q, p_weights, q_weights, n_samples, rng):
    """Of p and of q: rows in batches (b, n, d) in float64, and their weights (n,), of sum 1; None of rows that are drawn."""
    stream, found = as_stream(rng), []
    check_names(method, p, q)
    if check_number(method, n_samples) < 2 * BATCHES:
        raise ValueError(f"{method}: n_samples must be at least {2 * BATCHES}, got {n_samples}")
    for name, rows, weights in (("p", p, p_weights), ("q", q, q_weights)):
        if is_drawn_from(rows):
            if weights is not None:
                raise ValueError(f"{method}: {name}_weights are of rows, but {name} is {with_article(rows)}; leave them out")
            size = n_samples // BATCHES
            drawn = draw(method, rows, size * BATCHES, stream)
            found.append((drawn.reshape(BATCHES, size, -1), None))
        else:
            x = check_rows(method, rows, name=name, minimum=1).astype(np.float64)
            w = check_weights(method, weights, x)
            found.append((x[None], np.full(len(x), 1 / len(x)) if w is None else w / w.sum()))
    if found[0][0].shape[2] != found[1][0].shape[2]:
        raise ValueError(f"{method}: p has {found[0][0].shape[2]} columns, but q has {found[1][0].shape[2]}")
    return found


def pairs_of(both):
    """(x, its weights, y, its weights) of every batch."""
    (x, wx), (y, wy) = both
    for k in range(max(len(x), len(y))):
        a, b = x[k % len(x)], y[k % len(y)]
        yield a, np.full(len(a), 1 / len(a)) if wx is None else wx, b, np.full(len(b), 1 / len(b)) if wy is None else wy


def of_batches(values, exact):
    """The Divergence of the values of batches: exact, if that is so, of the only one."""
    values = np.asarray(values, dtype=np.float64)
    return Divergence(float(values[0])) if exact else of_means(values)


def of_means(values):
    """The Divergence that is the mean of independent values (n,), with its standard error."""
    return Divergence(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)))
