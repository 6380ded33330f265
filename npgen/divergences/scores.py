"""Divergences by scores, d log q(x) / dx: the normaliser of q has no say in them.

Legend: n rows, d columns.
"""
import numpy as np

from ..checks import check_rows
from ..engine import grad
from ..kernels import pairwise, session
from ..random import as_stream
from .base import BATCHES, draw, of_batches, of_means, pairs_of, rows_of


def score_of(q):
    """The function that gives d log q(x) / dx of rows (n, d): q's own score_function, or the derivative of its log_prob."""
    return getattr(q, "score_function", None) or grad(lambda x: np.sum(q.log_prob(x)))


def fisher_divergence(p, q, *, n_samples=2000, rng=0):
    """E_p|d log p(x) / dx - d log q(x) / dx|^2, an estimate by n_samples rows of p that rng draws.

    p, q: models whose log_prob is differentiable by its rows; p has sample(n). Raises what they raise.
    Source: Hyvärinen, Estimation of non-normalized statistical models by score matching (2005).
    """
    x = draw("fisher_divergence", p, n_samples, as_stream(rng))
    return of_means(np.square(np.asarray(score_of(p)(x)) - np.asarray(score_of(q)(x))).sum(axis=1))


def kernel_stein_discrepancy(p, q, *, scale=None, p_weights=None, n_samples=2000, rng=0):
    """E u(x, x') for x, x' ~ p, 0 where p = q: of rows p against a model q of which only the score s = d log q / dx is asked.

    u(x, y) = k [s(x) . s(y) + (s(x) - s(y)) . (x - y) / h^2 + d / h^2 - |x - y|^2 / h^4],  k = exp(-|x - y|^2 / (2 h^2))

    scale h: by default the median distance. p: rows (n, d), weighted by p_weights, for which the answer is exact, or anything
    with sample(n). Raises what log_prob of q raises. Sources: Liu, Lee & Jordan (2016); Chwialkowski et al. (2016).
    """
    method = "kernel_stein_discrepancy"
    both = rows_of(method, p, np.zeros((1, _width(method, p))), p_weights, None, max(n_samples, 2 * BATCHES), rng)
    values, drawn = [], both[0][1] is None
    for x, w, *_ in pairs_of(both):
        if scale is None:
            some = x[::max(1, len(x) // 300)]
            apart = np.sqrt(np.square(some[:, None] - some).sum(axis=2))
            scale = np.median(apart[np.triu_indices(len(some), 1)]) if len(some) > 1 else 1.0
        s, rate = np.ascontiguousarray(score_of(q)(x), np.float64), 1 / (scale or 1.0) ** 2
        with session():
            total = w @ pairwise.stein(x, s, x, s, w, rate)
        alone = w**2 @ (np.square(s).sum(axis=1) + rate * x.shape[1])
        values.append((total - alone) / (1 - w @ w) if drawn else total)
    return of_batches(values, not drawn)


def _width(method, p):
    return draw(method, p, 1, as_stream(0)).shape[1] if hasattr(p, "sample") else check_rows(method, p, name="p").shape[1]
