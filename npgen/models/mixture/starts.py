"""Draws by weight, and where EM begins: rows drawn by weight or distance to those before, centres by k-means, normal draws.

Legend: n rows, d features, k components. Reference: Arthur & Vassilvitskii, k-means++ (2007).
"""
import math

import numpy as np

from ...heads.base import EMPTY
from ...kernels._cuda import constant_like
from .rows import BLOCK


def draws(z, weights, n, stream):
    """n rows, drawn by their weight, with replacement."""
    cumulative = np.cumsum(weights)
    place = np.stack([stream.uniform(like=z) for _ in range(n)]) * cumulative[-1]
    return z[np.minimum(np.searchsorted(cumulative, place, side="right"), len(z) - 1)]


def draw(z, weights, stream):
    """One row, drawn by its weight."""
    return draws(z, weights, 1, stream)[0]


def draw_each(r, stream):
    """A component for every row, drawn by its responsibilities r (n, k)."""
    edges = np.cumsum(r, axis=1, dtype=np.float64)
    return (edges[:, :-1] <= stream.uniform((len(r), 1), like=r) * edges[:, -1:]).sum(axis=1)


def labels_by(weights, n, stream, like=None):
    """n components, drawn by weights (k,), where `like` is."""
    edges = np.cumsum(weights)
    at = stream.spawn().uniform(n, like=like) * edges[-1]
    return np.searchsorted(constant_like(edges[:-1], at), at, side="right")


def squared_distances(z, means):
    """Of every row to each of l means, (n, l)."""
    return np.stack([np.square(z - mean).sum(axis=1) for mean in means], axis=1)


def k_means_plus_plus(z, weights, k, stream, distances=squared_distances, n_draws=None):
    """Rows drawn by their distance to the nearest of those before: each the best of n_draws, or of 2 + log k draws.

    Best is what leaves the smallest sum of distances (Arthur & Vassilvitskii, 2007, the greedy variant). distances(z, means)
    may be of another divergence than the squared distance (Nock, Luosto & Kivinen, Mixed Bregman clustering, 2008).
    """
    means, n_draws = [draw(z, weights, stream)], n_draws or 2 + int(math.log(k))
    nearest = distances(z, np.stack(means))[:, 0]
    while len(means) < k:
        drawn = draws(z, weights * nearest, n_draws, stream)
        left = distances(z, drawn)
        np.minimum(nearest[:, None], left, out=left)
        best = (weights @ left).argmin()
        means, nearest, left = [*means, np.take(drawn, best, axis=0)], np.take(left, best, axis=1), None
    return np.stack(means)


def k_means(z, weights, k, stream, max_iter=100, tol=1e-4):
    """k_means_plus_plus, then every mean moved to the centre of the rows nearest to it until they rest (Lloyd, 1982)."""
    means, size = k_means_plus_plus(z, weights, k, stream), max(1, BLOCK // k)
    for _ in range(max_iter):
        n, total = np.zeros_like(means, shape=(k,)), np.zeros_like(means)
        for low in range(0, len(z), size):
            rows = z[low:low + size]
            nearest = (np.square(means).sum(axis=1) / 2 - rows @ means.T).argmin(axis=1)
            member = np.zeros_like(means, shape=(len(rows), k))
            member[np.arange(len(rows), like=z), nearest] = weights[low:low + size]
            n, total = n + member.sum(axis=0), total + member.T @ rows
        before, means = means, np.where(n[:, None] > 0, total / np.maximum(n, EMPTY)[:, None], means)
        if np.square(means - before).sum() <= tol:
            break
    return means


def random_rows(z, weights, k, stream):
    """Rows drawn by their weight."""
    return draws(z, weights, k, stream)


def random_means(z, weights, k, stream):
    """Normal draws with the data's mean and standard deviations."""
    return stream.normal((k, z.shape[1]), like=z)


STARTS = {"kmeans": k_means, "k-means++": k_means_plus_plus, "random_from_data": random_rows, "random": random_means}
