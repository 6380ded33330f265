"""f-divergences between models that have densities, all by one sum, over m = (p + q) / 2:

    D(p, q) = E_m[phi(a, b, t)],    a = p / m, b = q / m, a + b = 2, t = log(p / q)

    kl                 a log(a / b) - a + b        reverse_kl         b log(b / a) - b + a
    js                 (a log a + b log b) / 2     chi2               (a - b)^2 / b
    total_variation    |a - b| / 2                 hellinger          (sqrt(a) - sqrt(b))^2 / 2

No phi is negative: what b - a adds to KL has the mean 0, and takes noise away. The expectation is a sum over states, where they
are known, an integral on a grid in one or two dimensions, or a mean over rows of which half are drawn from either.

Legend: n rows, d columns, m states. Source: Liese & Vajda, On divergences and informations in statistics (2006).
"""
import itertools

import numpy as np

from ..checks import check_number, check_rows
from ..random import as_stream
from .base import Divergence, by_densities, by_place, check_names, draw, model_of, of_means

MOST_BITS = 12  # columns of bits whose states are gone through
GRID = {1: (4001, 2001), 2: (401, 201)}  # cells along an axis: of the answer, and of the coarser one that it is held against
MARGIN = 1.0  # of the range of rows, that a grid of even cells goes beyond it on either side
TAIL = {1: (200, 1.04), 2: (60, 1.1)}  # cells beyond that on either side, each wider than the one before it by this factor
ROUNDING = 1e-12


def _x_log_x(a, log_a):
    return np.where(a > 0, a * log_a, 0)


def kl(p, q, *, states=None, n_samples=20_000, rng=0):
    """KL(p || q) = E_p[log p(x) - log q(x)], in nats; infinite where q has no density and p has.

    p, q: models with log_prob(X) and sample(n), or anything that has both. states (m, d): all rows that can be; then the answer
    is a sum over them, and exact if the densities are; so it is of at most 12 columns of bits without them. Else it is an
    estimate: by quadrature of one or two columns of numbers, or by n_samples rows, half of them drawn from either by rng.
    Raises TypeError for rows, and what log_prob raises. Source: Kullback & Leibler (1951).
    """
    return _divergence("kl", lambda a, b, t: np.where(a > 0, a * t, 0) - a + b, p, q, states, n_samples, rng)


def reverse_kl(p, q, *, states=None, n_samples=20_000, rng=0):
    """KL(q || p), in nats: it punishes rows of q where p has none. Arguments: see kl."""
    return kl(q, p, states=states, n_samples=n_samples, rng=rng)


def js(p, q, *, states=None, n_samples=20_000, rng=0):
    """(KL(p || m) + KL(q || m)) / 2 of m = (p + q) / 2, in nats: 0 to log 2. Arguments: see kl. Source: Lin (1991)."""
    def phi(a, b, t):
        return (_x_log_x(a, np.log(2) - np.logaddexp(0, -t)) + _x_log_x(b, np.log(2) - np.logaddexp(0, t))) / 2
    return _divergence("js", phi, p, q, states, n_samples, rng)


def chi2(p, q, *, states=None, n_samples=20_000, rng=0):
    """E_q[(p / q - 1)^2], Pearson's chi-square: KL(p || q) <= log(1 + chi2). Arguments: see kl."""
    def whole(log_q, t):  # (p - q)^2 / q: in a tail where q is no number any more, p^2 / q may be a large one
        return np.exp(log_q + 2 * (np.maximum(t, 0) + np.log(-np.expm1(-np.abs(t)))))
    return _divergence("chi2", lambda a, b, t: (a - b) ** 2 / b, p, q, states, n_samples, rng, whole)


def total_variation(p, q, *, states=None, n_samples=20_000, rng=0):
    """int |p - q| / 2, 0 to 1: the largest difference that the two give to any event. Arguments: see kl."""
    return _divergence("total_variation", lambda a, b, t: np.abs(a - b) / 2, p, q, states, n_samples, rng)


def hellinger(p, q, *, states=None, n_samples=20_000, rng=0):
    """H^2 = int (sqrt(p) - sqrt(q))^2 / 2, the squared Hellinger distance, 0 to 1. Arguments: see kl."""
    return _divergence("hellinger", lambda a, b, t: (np.sqrt(a) - np.sqrt(b)) ** 2 / 2, p, q, states, n_samples, rng)


@by_place()
def _divergence(method, phi, p, q, states, n_samples, rng, whole=None):
    stream, half = as_stream(rng), check_number(method, n_samples) // 2
    if half < 10:
        raise ValueError(f"{method}: n_samples must be at least 20, got {n_samples}")
    p, q = (model_of(method, name, each, "log_prob", "sample") for name, each in (("p", p), ("q", q)))
    check_names(method, p, q)
    drawn = [draw(method, each, half, stream) for each in (p, q)]
    if drawn[0].shape != drawn[1].shape:
        raise ValueError(f"{method}: p has {drawn[0].shape[1]} columns, but q has {drawn[1].shape[1]}")
    x = np.concatenate(drawn)
    d, bits = x.shape[1], np.isin(x, (0, 1)).all()
    if states is None and bits and d <= MOST_BITS:
        states = np.array(list(itertools.product((0.0, 1.0), repeat=d)))
    if states is not None:
        value = np.sum(np.multiply(*_terms(phi, p, q, check_rows(method, states, name="states"))))
        return by_densities(Divergence(float(value)), p, q)
    if d in GRID and not (x == np.round(x)).all(axis=0).any():
        low, high = x.min(axis=0), x.max(axis=0)
        low, high = low - MARGIN * (high - low), high + MARGIN * (high - low)
        (fine, outer), (coarse, _) = (_on_grid(phi, p, q, low, high, level, whole) for level in (0, 1))
        return by_densities(Divergence(fine, abs(fine - coarse) + outer + ROUNDING * abs(fine)), p, q)
    values = _terms(phi, p, q, x)[1].reshape(2, half)
    pairs = values.mean(axis=0)  # of a row of either: fewer terms, the same mean, no noise of the shares
    return by_densities(of_means(pairs), p, q)


def _on_grid(phi, p, q, low, high, level, whole):
    """The integral on a grid, the finer or (level 1) the coarser, and how much of it lies in the outer half of the tails."""
    d = len(low)
    axes = [_cells(a, b, d, level) for a, b in zip(low, high, strict=True)]
    points, widths, outer = (np.stack(np.meshgrid(*each, indexing="ij"), axis=-1).reshape(-1, d)
                             for each in zip(*axes, strict=True))
    parts = np.array_split(points, -(-len(points) // 2**16))
    with np.errstate(over="ignore"):
        found = np.concatenate([_integrand(phi, p, q, part, whole) for part in parts]) * widths.prod(axis=1)
        return float(found.sum()), float(found[outer.any(axis=1)].sum())


def _cells(low, high, d, level):
    """Cells of one axis: their middles, widths, and whether they are of the outer half of a tail."""
    even, (n, factor) = np.linspace(low, high, GRID[d][level] + 1), TAIL[d]
    beyond = (high - low) / GRID[d][0] * np.cumsum(factor ** np.arange(1, n + 1))[level::1 + level]
    edges = np.concatenate([(low - beyond)[::-1], even, high + beyond])
    far = np.arange(len(beyond)) >= len(beyond) // 2
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges), np.concatenate([far[::-1], np.zeros(len(even) - 1, bool), far])


def _integrand(phi, p, q, x, whole):
    """m(x) phi of the rows, (n,): whole(log q, log p / q) computes it in one, if it is given."""
    with np.errstate(all="ignore"):
        if whole is None:
            m, value = _terms(phi, p, q, x)
            return np.where(m == 0, 0, m * value)
        log_p, log_q = (np.asarray(each.log_prob(x), dtype=np.float64) for each in (p, q))
        return np.where(np.isneginf(log_p) & np.isneginf(log_q) | (log_p == log_q), 0, whole(log_q, log_p - log_q))


def _terms(phi, p, q, x):
    """m(x) = (p(x) + q(x)) / 2 and phi of the rows, (n,) each; 0 where neither has a density."""
    log_p, log_q = (np.asarray(each.log_prob(x), dtype=np.float64) for each in (p, q))
    with np.errstate(all="ignore"):
        m, t = (np.exp(log_p) + np.exp(log_q)) / 2, log_p - log_q
        a, b = 2 / (1 + np.exp(-t)), 2 / (1 + np.exp(t))
        return m, np.where(np.isneginf(log_p) & np.isneginf(log_q), 0, phi(a, b, t))
