"""Which head each column of a table calls for, from its schema and its cells.

    binary                      Bernoulli
    category                    Categorical; of levels that fewer than RARE rows have, Pooled
    ordered                     Grid on the ranks of its levels: a normal, or several, behind thresholds an equal way apart
    integer, up to SHORT        Categorical, of all whole numbers between the smallest and the largest
    other integers, datetime,   Grid: the exact mass of each value; cut below a column that begins at 0 or 1, of a time of a
    real with few decimals      day where the day begins and ends
    real                        Mapped; of one that is no less than another, on a logarithm of what it is more
    of a Mixture whose numbers are "tied"    Tied, of normals before a Grid or a Mapped
    values that repeat unlike those beside them    Atoms, before the head of the rest
    missing values              a state of Atoms, of models that have one

A Grid and a Mapped lie behind a map of heads.scale, chosen by the density of the cells under one normal. What is drawn of a
column with steps lies between its smallest and its largest value; but for the density only ends that its kind has are any.

Legend: n rows.
"""
import numpy as np

from ..heads import Atoms, Bernoulli, Categorical, Grid, Mapped, Pooled, Scale, Tied

SHORT = 128       # points of a grid of whole numbers, up to which each is a level
FARTHEST = 1e150  # apart, beyond which squares are no numbers
FINEST = 2**24    # points, beyond which a grid is as good as a line
RARE = 5          # rows
OFTEN, LONELY = 20, 10  # rows that an atom has, and how many times as many as any value beside it
BESIDE = 5        # values on either side of one
AROUND = [side * k for k in range(1, BESIDE + 1) for side in (-1, 1)]
STEEP = 2.5       # times as many rows as beside it, which no density has
SPIKED = 0.05     # nats a row
MOST = 1024       # atoms of a column


def head_of(column, x, base, missing=False, normals=0):
    """The head, or its name, of a column (data.Column) for its cells x (n,) float64, NaN where one is missing.

    base: the head of a continuous column behind its map. missing: whether NaN is a state, where some are.
    normals: how many of base a Tied has, 0: there is none.
    """
    seen = x[~np.isnan(x)]
    head = _levelled(column, seen, base) if column.levels is not None else _numeric(column, seen, base, normals)
    if not missing or len(seen) == len(x):
        return head
    if isinstance(head, Atoms):
        return Atoms(head.base, head.atoms.tolist(), missing=True)
    return Atoms(Bernoulli() if head == "bernoulli" else head, missing=True)


def _levelled(column, seen, base):
    """Behind the outermost thresholds of an ordered probit lies all that is left: its grid is open."""
    c, counts = len(column.levels), np.bincount(seen.astype(int), minlength=len(column.levels))
    if c == 2:
        return "bernoulli"
    if column.kind == "ordered" and c > 2:
        return Grid(base, low=0, high=c - 1, scale=Scale("linear", (c - 1) / 2, c / 4))
    (rare,) = np.nonzero(counts < RARE)
    if len(rare) < 2 or len(rare) > c - 2:
        return Categorical(c)
    shares = counts[rare] + 0.5
    return Pooled(np.flatnonzero(counts >= RARE).tolist(), rare.tolist(), (shares / shares.sum()).tolist())


def _numeric(column, seen, base, normals):
    low, high, step = column.span
    if np.ptp(seen / 4) > FARTHEST:
        raise ValueError(f"fit: column {column.name!r} has values too far apart for float64; divide it by a constant")
    points = np.inf if step is None else ((seen.max() if high is None else high) - low) / step + 1
    if column.kind == "integer" and points <= SHORT:
        return Categorical([float(value) for value in range(low, int(low + (points - 1) * step) + 1, step)])
    fine, ended = points > FINEST, column.least is not None and not column.clock
    atoms = atoms_of(column, seen, None if fine else step)
    atoms = sorted({0.0, *atoms}) if fine and ended and (seen == 0).any() else atoms
    rest = seen[~np.isin(seen, atoms)]
    rest = seen if len(np.unique(rest)) < 2 else rest
    span = None if step is None or column.clock else (float(low), float(seen.max() if high is None else high))
    if fine and ended:
        some = rest[rest > 0] if len(np.unique(rest[rest > 0])) > 1 else np.array([1.0, 2.0])
        head = Mapped(base, Scale.fit(some, ("log",)), span)
    elif fine:
        scale = scale_of(rest, 0.0 if rest.min() > 0 else None, 1.0 if 0 < rest.min() < rest.max() < 1 else None)
        head = Mapped(base, scale, span)
    else:
        bound = low if ended or column.clock or column.low in (0, 1) and column.kind != "datetime" else None
        start = float(low) if column.kind == "integer" else 0.0
        scale = scale_of(rest, float(bound - step) if bound is not None else 0.0 if rest.min() > 0 else None, None)
        end = high if column.clock else None
        head = Grid(base, float(step), start, bound, end, scale, "open" if bound is None else "cut", span)
    head = Tied.fit(head, rest, normals) if normals else head
    return Atoms(head, atoms) if len(atoms) else head


def scale_of(rest, low, high):
    """The scale of these numbers (n,): log above low, if there is such an end, and logit below high."""
    kinds = ("linear", "asinh", *["log"] * (low is not None), *["logit"] * (high is not None))
    return Scale.fit(rest, kinds, *(end if mine is None else mine for end, mine in ((0.0, low), (1.0, high))))


def atoms_of(column, seen, step):
    """Values that have a probability of their own, a list: those that the schema names, and those that OFTEN rows have and
    LONELY times as many as any of the BESIDE places of the grid, or values of a column without one, on either side.

    Numbers drawn from a density that changes by no more than a factor of three from one place to the next have none: that five
    counts are all below a tenth of a count of 20 has a probability under 1e-7.

    On a grid it is all values that RARE rows have, where the column has spikes: what values that have STEEP times as many rows
    as beside them are worth, the deviance c log(c / m) - (c - m) of their count, as far as it pays for a parameter,
    log(n) / 2, adds up to SPIKED nats a row; m is the largest mean count of the nearest 2, 4, ... places. Such are times that
    people choose, distances between some places, and numbers that are names.
    """
    values, counts = np.unique(seen, return_counts=True)
    if len(values) < 2:
        return []
    if step is not None:
        place = np.rint((values - values[0]) / step)
        near = [_count_at(place, counts, place + k) for k in AROUND]
    else:
        near = [np.pad(counts, BESIDE)[BESIDE + k:][:len(counts)] for k in AROUND]
    near = np.array(near)
    own = (counts >= OFTEN) & (counts >= LONELY * near.max(axis=0)) | np.isin(values, column.atoms)
    if step is not None:
        beside = np.max([near[:k].mean(axis=0) for k in range(2, len(near) + 1, 2)], axis=0) + 1 / len(near)
        gain = counts * np.log(counts / beside) - (counts - beside) - np.log(len(seen)) / 2
        gain = np.where((counts >= RARE) & (counts > STEEP * beside), gain, 0).clip(0)
        own |= (counts >= RARE) & (gain.sum() > SPIKED * len(seen))
    own = np.flatnonzero(own)
    return values[np.sort(own[np.argsort(-counts[own], kind="stable")[:MOST]])].tolist()


def _count_at(place, counts, asked):
    """How many rows have the values at these places (u,) of a grid."""
    at = np.minimum(np.searchsorted(place, asked), len(place) - 1)
    return np.where(place[at] == asked, counts[at], 0)
