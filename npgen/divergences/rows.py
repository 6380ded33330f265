"""Distances between rows, or between what they are drawn from: by pairs, by order, by neighbours.

Legend: n, m rows, d columns, s scales.
"""
import numpy as np

from ..checks import check_widths, with_article
from ..kernels import pairwise, session, transport
from ..random import as_stream
from . import pairs
from .base import is_drawn_from, of_batches, pairs_of, rows_of

DIRECTIONS = 16  # that rows are projected to at once


def energy_distance(p, q, *, p_weights=None, q_weights=None, n_samples=2000, rng=0):
    """2 E|x - y| - E|x - x'| - E|y - y'| for x, x' ~ p and y, y' ~ q, in the rows' units; of one column 2 int (F - G)^2.

    p, q: rows (n, d), weighted by p_weights (n,), or anything with sample(n), of which n_samples rows are drawn by rng. Exact
    between rows; else an estimate without bias. Raises ValueError or TypeError for what is neither, or of another width. Takes
    n m d operations. Source: Székely & Rizzo, Energy statistics (2013).
    """
    both = rows_of("energy_distance", p, q, p_weights, q_weights, n_samples, rng)
    return _of_kernel(both, lambda x, y, w: -pairs.distances(x, y, w))


def mmd2(p, q, *, scales=None, p_weights=None, q_weights=None, n_samples=2000, rng=0):
    """E k(x, x') + E k(y, y') - 2 E k(x, y), the squared maximum mean discrepancy of Gaussian kernels.

    k(x, y) = sum_s exp(-|x - y|^2 / (2 scale_s^2))

    scales (s,): by default one, the median distance of rows of p and q. p, q, weights, n_samples, rng, errors and cost: see
    energy_distance. Source: Gretton et al., A kernel two-sample test (2012).
    """
    both = rows_of("mmd2", p, q, p_weights, q_weights, n_samples, rng)
    if scales is None:
        some = np.concatenate([rows[0][::max(1, len(rows[0]) // 200)] for rows, _ in both])
        apart = np.sqrt(np.square(some[:, None] - some).sum(axis=2))[np.triu_indices(len(some), 1)]
        scales = np.median(apart) or 1.0
    scales = np.atleast_1d(np.asarray(scales, np.float64))
    if scales.ndim != 1 or not len(scales) or not (np.isfinite(scales) & (scales > 0)).all():
        raise ValueError(f"mmd2: scales must be positive numbers, got {scales}")
    return _of_kernel(both, lambda x, y, w: pairs.gaussians(x, y, w, scales))


def _of_kernel(both, sums):
    """E k(x, x') + E k(y, y') - 2 E k(x, y), sums(x, y, w) = sum_j w_j k(x_i, y_j); a drawn row is no pair with itself."""
    (x, wx), (y, wy) = both

    def within(a, w, drawn):
        at_zero = sums(a[:1], a[:1], np.ones(1))[0]
        total, alone = w @ sums(a, a, w), at_zero * (w @ w)
        return (total - alone) / (1 - w @ w) if drawn else total

    with session():
        fixed = [None if w is None else within(rows[0], w, False) for rows, w in both]
        values = [(within(a, u, True) if wx is None else fixed[0]) + (within(b, v, True) if wy is None else fixed[1])
                  - 2 * (u @ sums(a, b, v)) for a, u, b, v in pairs_of(both)]
    return of_batches(values, wx is not None and wy is not None)


def wasserstein_1d(p, q, *, order=1, p_weights=None, q_weights=None, n_samples=20_000, rng=0):
    """(int |F^-1(t) - G^-1(t)|^order dt)^(1 / order) of distributions of one column: the Wasserstein distance, in its units.

    p, q, weights, n_samples, rng: see energy_distance; between rows exact, else an estimate, of which the mean over batches is
    too large by what rows of one batch are apart from another's. Raises ValueError for more columns, and an order below 1.
    """
    both = rows_of("wasserstein_1d", p, q, p_weights, q_weights, n_samples, rng)
    if both[0][0].shape[2] != 1:
        raise ValueError(f"wasserstein_1d: p has {both[0][0].shape[2]} columns; pass one, or ask for sliced_wasserstein")
    _check_order("wasserstein_1d", order)
    with session():
        values = [_transport(a, u, b, v, order)[0] ** (1 / order) for a, u, b, v in pairs_of(both)]
    return of_batches(values, all(w is not None for _, w in both))


def sliced_wasserstein(p, q, *, order=2, n_directions=100, p_weights=None, q_weights=None, n_samples=20_000, rng=0):
    """E_u W(<u, x>, <u, y>)^order over directions u uniform on the sphere, W the Wasserstein distance of that order: a power.

    n_directions are drawn by rng, so that it is an estimate, but of one column. p, q, weights, n_samples, errors and the bias
    of drawn rows: see wasserstein_1d. Source: Bonneel, Rabin, Peyré & Pfister, Sliced and Radon Wasserstein barycenters (2015).
    """
    (n_directions,), stream = check_widths("n_directions", (n_directions,)), as_stream(rng)
    if n_directions < 2:
        raise ValueError("sliced_wasserstein: n_directions must be at least 2, got 1, whose error cannot be told")
    both = rows_of("sliced_wasserstein", p, q, p_weights, q_weights, n_samples, stream)
    d, exact = both[0][0].shape[2], all(w is not None for _, w in both)
    _check_order("sliced_wasserstein", order)
    values = []
    for a, u, b, v in pairs_of(both):
        directions = stream.normal((d, n_directions if d > 1 else 1))
        directions /= np.sqrt(np.square(directions).sum(axis=0))
        parts = np.array_split(directions, -(-directions.shape[1] // DIRECTIONS), axis=1)
        with session():
            values.append(np.concatenate([_transport(a @ part, u, b @ part, v, order) for part in parts]))
    return of_batches(np.concatenate(values) if exact else np.mean(values, axis=1), exact and d == 1)


def _check_order(method, order):
    if not isinstance(order, (int, float)) or not 1 <= order < np.inf:
        raise ValueError(f"{method}: order must be a number of 1 or more, got {order!r}")


def _transport(x, wx, y, wy, order):
    """int |F^-1(t) - G^-1(t)|^order dt of each column of x (n, k) and y (m, k), weighted by wx (n,) and wy (m,): (k,)."""
    return transport.cost(*_in_order(x, wx), *_in_order(y, wy), order)


def _in_order(x, w):
    """The columns of x (n, k), each in ascending order, and their weights in that order: (k, n) both."""
    columns = np.ascontiguousarray(x.T)
    if (w == w[0]).all():
        return np.sort(columns, axis=1), np.full_like(columns, w[0])
    at = np.argsort(columns, axis=1)
    return np.take_along_axis(columns, at, axis=1), w[at]


def coverage(p, q, *, k=5, p_weights=None, n_samples=2000, rng=0):
    """The share of rows of p that have a row of q nearer than their k-th neighbour among the rows of p: 1 is best, 0 worst.

    p: rows (n, d), of which those by p_weights count; q: rows (m, d), or anything with sample(n), in batches. Distances are in
    the rows' units. Rows of q have no weights: one is near a row of p or is not, however much it counts, so that weights could
    only leave out those of 0. Raises ValueError unless n > k.
    Source: Naeem et al., Reliable fidelity and diversity metrics (2020).
    """
    (k,) = check_widths("k", (k,))
    if is_drawn_from(p):
        raise ValueError(f"coverage: p must be rows, got {with_article(p)}; pass p.sample(n)")
    both = rows_of("coverage", p, q, p_weights, None, n_samples, rng)
    x, w = both[0][0][0], both[0][1]
    if len(x) <= k:
        raise ValueError(f"coverage: p has {len(x)} rows, but needs more than k={k}")
    with session():
        radius = pairwise.nearest(x, x, k + 1)[:, k]  # a row itself is the 0-th
        near = [pairwise.nearest(x, y, 1)[:, 0] <= radius for y in both[1][0]]
    values = [np.sum(w * each) / np.sum(w) for each in near]  # of all it is 1 to the last digit
    return of_batches(values, both[1][1] is not None)
