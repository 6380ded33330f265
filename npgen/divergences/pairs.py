"""Sums over pairs of rows as differentiable ops, by the kernels of kernels/pairwise.py.

Legend: n, m rows, d columns, s scales.
"""
import numpy as np

from .. import ops
from ..fused import fused
from ..kernels import pairwise as _kernel
from ..ops import contiguous


def _squares(x, y):
    return ops.sum(ops.square(x[:, None] - y), axis=2)


def _distances_formula(x, y, weights):
    r = _squares(x, y)
    return ops.sum(np.where(r == 0, 0.0, ops.sqrt(np.where(r == 0, 1.0, r))) * weights, axis=1)


def _gaussians_formula(x, y, weights, scales):
    r = _squares(x, y)
    return ops.sum(sum(ops.exp(-0.5 / scale**2 * r) for scale in scales) * weights, axis=1)


def _ops(name, formula):
    """The op of two sets of rows, (n,), and that of the pairs of one, sum_i w_i of it, whose gradient is one kernel's."""
    def forward(*args):
        return getattr(_kernel, name)(*contiguous(*args))

    def backward(*args):
        return getattr(_kernel, f"{name}_backward")(*contiguous(*args))

    def pull(tracked, ans, g, x, y, weights, *scales):
        by = [lambda: backward(g, x, y, weights, *scales), lambda: backward(weights, y, x, g, *scales),
              lambda: forward(y, x, g, *scales)]
        return [by[i]() for i in tracked] if max(tracked) < 3 else None

    def within(y, weights, *scales):
        return (weights * forward(y, y, weights, *scales)).sum()  # by @, no graph of CUDA could hold it

    def pull_within(tracked, ans, g, y, weights, *scales):
        return [backward(2 * g * weights, y, y, weights, *scales)] if tracked == [0] else None

    return fused(f"pairwise_{name}", formula, forward, pull), fused(
        f"pairwise_{name}_within", lambda y, weights, *scales: formula(y, y, weights, *scales) @ weights, within, pull_within)


(_distances, _distances_within), (_gaussians, _gaussians_within) = (
    _ops("distance", _distances_formula), _ops("gaussian", _gaussians_formula))


def distances(x, y, weights):
    """sum_j w_j |x_i - y_j| of rows x (n, d) and y (m, d), weights (m,): (n,). The derivative of 0 distances is 0."""
    return _distances(x, y, weights)


def distances_within(y, weights):
    """sum_ij w_i w_j |y_i - y_j| of rows y (m, d): a number."""
    return _distances_within(y, weights)


def energy(x, y):
    """2 E|x_i - y| - E|y - y'| of each of the rows x (n, d), for as many rows y, none a pair with itself: (n,).

    The mean is the energy distance, but for the E|x - x'| that y has no say in. Source: Szekely & Rizzo (2013).
    """
    n, each = len(x), np.full_like(x[:, 0], 1 / len(x))
    return 2 * distances(x, y, each) - distances_within(y, each) * (n / max(n - 1, 1))


def gaussians(x, y, weights, scales):
    """sum_j w_j sum_s exp(-|x_i - y_j|^2 / (2 scale_s^2)) of rows x (n, d) and y (m, d), weights (m,), scales (s,): (n,)."""
    return _gaussians(x, y, weights, scales)


def gaussians_within(y, weights, scales):
    """sum_ij w_i w_j sum_s exp(-|y_i - y_j|^2 / (2 scale_s^2)) of rows y (m, d): a number."""
    return _gaussians_within(y, weights, scales)
