"""Ops on the last two axes: solutions of linear equations, Cholesky's factor, inverse and determinant.

References: Giles, Collected matrix derivative results for forward and reverse mode AD (2008); Murray, Differentiation of
the Cholesky decomposition (2016). Other decompositions, written in these, are in npgen.linalg.
"""
import numpy as np

from ..kernels import _blas
from ..kernels._cuda import is_device_array
from .elementwise import exp, stop_gradient
from .products import matmul, transposed
from .rules import composed, op, summed
from .shapes import expand_dims, squeeze, tril, triu


def _solution(a, b):
    """np.linalg.solve of matrices, which CuPy's does not broadcast."""
    if is_device_array(b):
        stacks = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (np.broadcast_to(x, stacks + x.shape[-2:]) for x in (a, b))
    return np.linalg.solve(a, b)


def _triangular(a, b, *, lower, transpose):
    if is_device_array(b):
        a = np.tril(a) if lower else np.triu(a)
        return _solution(transposed(a) if transpose else a, b)
    _blas.load()
    from scipy.linalg import solve_triangular
    return solve_triangular(a, b, lower=lower, trans=int(transpose), check_finite=False)


def _triangular_rule_a(ans, a, b, *, lower, transpose):
    def pullback(g):
        s = _solve_triangular(a, g, lower=lower, transpose=not transpose)
        return _triangular_part(-matmul(ans, transposed(s)) if transpose else -matmul(s, transposed(ans)), lower)
    return summed(a, pullback)


def _triangular_rule_b(ans, a, b, *, lower, transpose):
    return summed(b, lambda g: _solve_triangular(a, g, lower=lower, transpose=not transpose))


_solve_triangular = op(_triangular, _triangular_rule_a, _triangular_rule_b, name="solve_triangular")


def solve_triangular(a, b, *, lower=True, transpose=False):
    """x with a x = b (a^T x = b if transpose), a triangular; b is a vector if it has one axis, else matrices."""
    if np.ndim(b) == 1:
        return squeeze(_solve_triangular(a, expand_dims(b, 1), lower=lower, transpose=transpose), -1)
    return _solve_triangular(a, b, lower=lower, transpose=transpose)


def _triangular_part(x, lower):
    return tril(x) if lower else triu(x)


def _cholesky_rule(ans, a):
    def pullback(g):  # Murray (2016), eq. 10, symmetrised
        p = matmul(transposed(ans), g)
        p = (tril(p) + tril(p, -1)) / 2
        s = solve_triangular(ans, transposed(solve_triangular(ans, transposed(p), transpose=True)), transpose=True)
        return (s + transposed(s)) / 2
    return pullback


cholesky = op(np.linalg.cholesky, _cholesky_rule)
inv = op(np.linalg.inv, lambda ans, a: lambda g: -matmul(matmul(transposed(ans), g), transposed(ans)))
logdet = op(lambda a: np.linalg.slogdet(a)[1], lambda ans, a: lambda g: expand_dims(g, (-2, -1)) * transposed(inv(a)),
            name="logdet")
_solve = op(_solution, lambda ans, a, b: summed(a, lambda g: -matmul(_solve(transposed(a), g), transposed(ans))),
            lambda ans, a, b: summed(b, lambda g: _solve(transposed(a), g)), name="solve")


@composed(np.linalg.solve)
def solve(a, b):
    """x with a x = b; b is a vector if it has one axis, else a matrix in its last two."""
    return squeeze(_solve(a, expand_dims(b, 1)), -1) if np.ndim(b) == 1 else _solve(a, b)


@composed(np.linalg.slogdet)
def slogdet(a):
    """The sign of the determinant, a constant, and log |det a|."""
    return np.linalg.slogdet(stop_gradient(a))[0], logdet(a)


@composed(np.linalg.det)
def det(a):
    """The determinant of an invertible matrix."""
    sign, log_det = slogdet(a)
    return sign * exp(log_det)
