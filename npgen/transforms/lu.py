"""LU: an invertible linear layer whose determinant is a product of d numbers.

Legend: n rows, d features.
"""
import numpy as np

from .. import ops
from ..kernels._cuda import constant_like
from ..tensor import value_of
from .base import Transform
from .permute import permuted


class LU(Transform):
    """z = L U x[order] + shift, L lower triangular with ones on its diagonal, U upper with exp(log_diagonal) on its own.

    log |det dz/dx| = sum_d log_diagonal_d. order (d,) is a fixed permutation, None the natural one; the first parameters, 0,
    are no more than that. They are one array, `name` (d + 1, d): L below the diagonal, U above it, log_diagonal on it; shift.
    Reference: Kingma & Dhariwal, Glow (2018), section 3.2; Durkan et al., Neural spline flows (2019).
    """

    def __init__(self, name, d, order=None):
        self.name, self.d = name, d
        self.order = np.arange(d) if order is None else order
        self._back = np.argsort(self.order)

    def shapes(self):
        return {self.name: (self.d + 1, self.d)}

    def init(self, z, c, stream, weights=None):
        return {self.name: np.zeros((self.d + 1, self.d), z.dtype)}

    def _of(self, p):
        """L and U (d, d), log_diagonal and shift (d,)."""
        both, shift = p[self.name][:self.d], p[self.name][self.d]
        one, log_diagonal = constant_like(np.eye(self.d, dtype=both.dtype), value_of(shift)), ops.diagonal(both)
        return ops.tril(both, -1) + one, ops.triu(both, 1) + one * ops.exp(log_diagonal), log_diagonal, shift

    def to_noise(self, p, x, c=None, stream=None):
        lower, upper, log_diagonal, shift = self._of(p)
        z = ops.matmul(ops.matmul(permuted(x, self.order, self._back), ops.transpose(upper)), ops.transpose(lower)) + shift
        return z, np.zeros_like(x, shape=(len(x),)) + ops.sum(log_diagonal)

    def to_data(self, p, z, c=None):
        lower, upper, log_diagonal, shift = self._of(p)
        x = ops.solve_triangular(upper, ops.solve_triangular(lower, ops.transpose(z - shift)), lower=False)
        return permuted(ops.transpose(x), self._back, self.order), np.zeros_like(z, shape=(len(z),)) - ops.sum(log_diagonal)
