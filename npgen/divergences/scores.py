"""Divergences by scores, d log q(x) / dx: the normaliser of q has no say in them.

Legend: n rows, d columns.
"""
import numpy as np

from ..checks import check_number, check_rows
from ..engine import grad
from ..kernels import pairwise, session
from ..random import as_stream
from .base import by_densities, by_place, check_names, draw, is_drawn_from, model_of, of_batches, of_means, pairs_of, rows_of

ROWS = 4096  # whose scores are computed at once


def score_of(q):
    """The function that gives d log q(x) / dx of rows (n, d): q's own score_function, or the derivative of its log_prob."""
    return getattr(q, "score_function", None) or grad(lambda x: np.sum(q.log_prob(x)))


def _scored(method, name, q, *asked):
    """A model that has a score, and whatever else is asked; of a DataFrame, its numbers. Raises TypeError for another."""
    return model_of(method, name, q, *asked, "score_function" if hasattr(q, "score_function") else "log_prob")


def _scores(q, x):
    """d log q(x) / dx of rows (n, d), in float64."""
    score = score_of(q)
    return np.concatenate([np.asarray(score(x[i:i + ROWS]), np.float64) for i in range(0, len(x), ROWS)])


@by_place()
def fisher_divergence(p, q, *, n_samples=2000, rng=0):
    """E_p|d log p(x) / dx - d log q(x) / dx|^2, an estimate by n_samples rows of p that rng draws.

    p, q: models whose log_prob is differentiable by its rows; p has sample(n). Rows have no score: of rows and a model ask
    kernel_stein_discrepancy. Raises TypeError for rows, ValueError for fewer than two samples, and what the models raise.
    Source: Hyvärinen, Estimation of non-normalized statistical models by score matching (2005).
    """
    method = "fisher_divergence"
    if check_number(method, n_samples) < 2:
        raise ValueError(f"{method}: n_samples must be at least 2, got {n_samples}")
    p, q = _scored(method, "p", p, "sample"), _scored(method, "q", q)
    check_names(method, p, q)
    x = draw(method, p, n_samples, as_stream(rng))
    return by_densities(of_means(np.square(_scores(p, x) - _scores(q, x)).sum(axis=1)), p, q)


@by_place()
def kernel_stein_discrepancy(p, q, *, scale=None, p_weights=None, n_samples=2000, rng=0):
    """E u(x, x') for x, x' ~ p, 0 where p = q: of rows p against a model q of which only the score s = d log q / dx is asked.

    u(x, y) = k [s(x) . s(y) + (s(x) - s(y)) . (x - y) / h^2 + d / h^2 - |x - y|^2 / h^4],  k = exp(-|x - y|^2 / (2 h^2))

    scale h: by default the median distance. p: rows (n, d), weighted by p_weights, for which the answer is exact if q's density
    is, or anything with sample(n). Raises TypeError for a q without a score, ValueError for a scale that is no positive number,
    and what log_prob of q raises. Sources: Liu, Lee & Jordan (2016); Chwialkowski et al. (2016).
    """
    method = "kernel_stein_discrepancy"
    q = _scored(method, "q", q)
    check_names(method, p, q)
    if scale is not None and not (isinstance(scale, (int, float, np.number)) and 0 < scale < np.inf):
        raise ValueError(f"{method}: scale must be a positive number or None, got {scale!r}")
    both = rows_of(method, p, np.zeros((1, _width(method, p))), p_weights, None, n_samples, rng)
    values, drawn = [], both[0][1] is None
    for x, w, *_ in pairs_of(both):
        if scale is None:
            some = x[::max(1, len(x) // 300)]
            apart = np.sqrt(np.square(some[:, None] - some).sum(axis=2))
            scale = np.median(apart[np.triu_indices(len(some), 1)]) if len(some) > 1 else 1.0
        s, rate = np.ascontiguousarray(_scores(q, x)), 1 / (scale or 1.0) ** 2
        with session():
            total = w @ pairwise.stein(x, s, x, s, w, rate)
        alone = w**2 @ (np.square(s).sum(axis=1) + rate * x.shape[1])
        values.append((total - alone) / (1 - w @ w) if drawn else total)
    return by_densities(of_batches(values, not drawn), q)


def _width(method, p):
    return draw(method, p, 1, as_stream(0)).shape[1] if is_drawn_from(p) else check_rows(method, p, name="p").shape[1]
