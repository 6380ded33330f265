"""Decompositions of matrices and what is written with them, differentiable: eigenvalues, singular values, QR, norms, powers.

The decompositions of a matrix with equal eigenvalues or singular values are not unique. Functions of the values alone have
their right first derivative there; a gradient that comes through the vectors of equal values is refused (LinAlgError).
Unlike those in ops/linalg.py, these are not tested on CuPy arrays.

Legend: m rows, n columns, k = min(m, n). References: Giles, Collected matrix derivative results for forward and reverse
mode AD (2008); Townsend, Differentiating the singular value decomposition (2016); Golub & Pereyra, The differentiation of
pseudo-inverses (1973); Liao et al., Differentiable programming tensor networks (2019), for QR.
"""
import builtins
import functools

import numpy as np

from . import ops
from .engine import NoRuleError, Primitive
from .ops import composed, inv, matmul, op, solve_triangular, square, swapaxes, tril, where


def _t(x):
    return swapaxes(x, -1, -2)


def _diag(x):
    """x (..., k) on the diagonals of matrices (..., k, k)."""
    return x[..., None] * np.eye(x.shape[-1], dtype=x.dtype)


def _largest(x, axis):
    return ops.max(ops.absolute(x), axis=axis)


def _over_gaps(name, values, turn):
    """turn_ij / (values_j - values_i), 0 for i = j; turn is the cotangent of a rotation from vector i to j.

    Raises LinAlgError where values are equal to rounding and turn does not vanish: the limit depends on more than turn.
    """
    gap = values[..., None, :] - values[..., None]
    n = values.shape[-1]
    rounding = n * np.finfo(values.dtype).eps
    equal = np.less_equal(ops.absolute(gap), rounding * _largest(values, -1)[..., None, None])
    turned = np.greater(ops.absolute(turn), 8 * rounding * _largest(turn, (-2, -1))[..., None, None])
    if np.any(equal & turned & ~np.eye(n, dtype=bool)):
        raise np.linalg.LinAlgError(f"{name}: values are equal to rounding, so that their vectors have no derivative; use the "
                                    "values alone, or move the matrix away from the tie")
    return where(equal, 0, turn / where(equal, 1, gap))


# ---------------------------------------------------------------- eigenvalues

def _eigh_rule(tracked, ans, a, uplo):
    values, v = ans

    def pullback(g, out):
        inner = _diag(g[0]) if 0 in g else 0
        if 1 in g:
            turn = matmul(_t(v), g[1])
            inner = inner + _over_gaps("eigh", values, turn)
        s = matmul(matmul(v, inner), _t(v))
        return [(s + _t(s)) / 2]

    return pullback


_eigh = Primitive(lambda a, uplo: tuple(np.linalg.eigh(a, UPLO=uplo)), joint=_eigh_rule, name="eigh")
_EighResult = type(np.linalg.eigh(np.eye(1)))
_SVDResult = type(np.linalg.svd(np.eye(1)))
_QRResult = type(np.linalg.qr(np.eye(1)))


@composed(np.linalg.eigh)
def eigh(a, UPLO="L"):
    """Eigenvalues (..., n), rising, and eigenvectors (..., n, n) of symmetric matrices; the gradient is symmetric too."""
    return _EighResult(*_eigh(a, UPLO))


@composed(np.linalg.eigvalsh)
def eigvalsh(a, UPLO="L"):
    """The eigenvalues (..., n) of symmetric matrices, rising."""
    return _eigh(a, UPLO)[0]


# ---------------------------------------------------------------- singular values

def _svd_rule(tracked, ans, a):
    u, s, vh = ans

    def pullback(g, out):
        inner, outer = (_diag(g[1]) if 1 in g else 0), 0
        rows, columns = s[..., None], s[..., None, :]
        if 0 in g:
            turn = matmul(_t(u), g[0])
            inner = inner + _over_gaps("svd", square(s), turn - _t(turn)) * columns
            if a.shape[-2] > s.shape[-1]:
                outer = matmul((g[0] - matmul(u, turn)) / columns, vh)
        if 2 in g:
            turn = matmul(vh, _t(g[2]))
            inner = inner + rows * _over_gaps("svd", square(s), turn - _t(turn))
            if a.shape[-1] > s.shape[-1]:
                outer = outer + matmul(u, (g[2] - matmul(_t(turn), vh)) / rows)
        return [matmul(matmul(u, inner), vh) + outer]

    return pullback


_svd = Primitive(lambda a: tuple(np.linalg.svd(a, full_matrices=False)), joint=_svd_rule, name="svd")


@composed(np.linalg.svd)
def svd(a, full_matrices=True, compute_uv=True):
    """U (..., m, k), singular values (..., k), falling, and V^T (..., k, n), a = U diag(s) V^T."""
    if not compute_uv:
        return svdvals(a)
    if full_matrices and a.shape[-1] != a.shape[-2]:
        raise NoRuleError("numpy.linalg.svd: the vectors beyond the rank have no derivative; pass full_matrices=False")
    return _SVDResult(*_svd(a))


@composed(np.linalg.svdvals)
def svdvals(a):
    """The singular values (..., k), falling."""
    return _svd(a)[1]


@composed(np.linalg.cond)
def cond(a):
    """The largest over the smallest singular value."""
    s = svdvals(a)
    return s[..., 0] / s[..., -1]


# ---------------------------------------------------------------- QR, pseudo-inverse

def _qr_rule(tracked, ans, a):
    q, r = ans
    if not np.all(np.not_equal(ops.diagonal(r, axis1=-2, axis2=-1), 0)):
        raise np.linalg.LinAlgError("qr: the first columns are linearly dependent; Q and R have no derivative there, use pinv")

    def pullback(g, out):
        dq, dr = (g.get(k, np.zeros_like(part)) for k, part in enumerate(ans))
        m = matmul(r, _t(dr)) - matmul(_t(dq), q)
        sums = dq + matmul(q, tril(m) + _t(tril(m, -1)))
        return [_t(solve_triangular(r, _t(sums), lower=False))]

    return pullback


_qr = Primitive(lambda a: tuple(np.linalg.qr(a)), joint=_qr_rule, name="qr")


@composed(np.linalg.qr)
def qr(a, mode="reduced"):
    """Q (..., m, k) and R (..., k, n) of matrices of full rank; R alone with mode "r"."""
    if mode not in ("reduced", "r"):
        raise NoRuleError(f"numpy.linalg.qr: a derivative exists for mode 'reduced' and 'r', got {mode!r}")
    m = a.shape[-2]
    q, r = _qr(a[..., :m])
    r = r if a.shape[-1] <= m else ops.concatenate([r, matmul(_t(q), a[..., m:])], axis=-1)
    return r if mode == "r" else _QRResult(q, r)


def _pinv_rule(ans, a, rcond):
    def pullback(g):
        p, h = ans, _t(g)
        return matmul(h - matmul(a, matmul(p, h)), matmul(p, _t(p))) + matmul(matmul(_t(p), p), h - matmul(matmul(h, p), a)) \
            - matmul(matmul(_t(p), g), _t(p))
    return pullback


_pinv = op(lambda a, rcond: np.linalg.pinv(a, rcond=rcond), _pinv_rule, name="pinv")


@composed(np.linalg.pinv)
def pinv(a, rcond=None):
    """The Moore-Penrose inverse (..., n, m), where the rank is constant around a."""
    return _pinv(a, builtins.max(a.shape[-2:]) * float(np.finfo(a.dtype).eps) if rcond is None else rcond)


@composed(np.linalg.lstsq)
def lstsq(a, b, rcond=None):
    """Least squares: the solution of smallest norm, the sums of squared residuals, the rank, and the singular values."""
    x, s = matmul(pinv(a, rcond), b), svdvals(a)
    rank = int(np.linalg.matrix_rank(a))
    full = rank == a.shape[1] < a.shape[0]
    residuals = ops.sum(square(b - matmul(a, x)), axis=0, keepdims=np.ndim(b) == 1)
    return x, residuals if full else np.zeros_like(residuals, shape=(0,)), rank, s


# ---------------------------------------------------------------- norms

@composed(np.linalg.vector_norm)
def vector_norm(x, *, axis=None, keepdims=False, ord=2):
    """(sum |x|^ord)^(1/ord), or the extreme of |x| for ord +-inf; at a kink the gradient is the smallest one, or shared."""
    if ord == 2:
        return ops.euclidean(x, axis, keepdims)
    if ord == 0:
        return np.sum(np.not_equal(x, 0), axis=axis, keepdims=keepdims).astype(x.dtype)
    x = ops.absolute(x)
    if abs(ord) == np.inf:
        return (ops.max if ord > 0 else ops.min)(x, axis=axis, keepdims=keepdims)
    return ops.sum(x, axis=axis, keepdims=keepdims) if ord == 1 else \
        ops.power(ops.sum(ops.power(x, ord), axis=axis, keepdims=keepdims), 1 / ord)


@composed(np.linalg.matrix_norm)
def matrix_norm(x, *, keepdims=False, ord="fro"):
    """Of the last two axes: Frobenius, nuclear, spectral (2, -2), or the extreme sum of columns (1, -1) or rows (+-inf)."""
    if ord in ("fro", None):
        return ops.euclidean(x, (-2, -1), keepdims)
    if ord in ("nuc", 2, -2):
        s = svdvals(x)
        norm = ops.sum(s, axis=-1) if ord == "nuc" else s[..., 0 if ord > 0 else -1]
    elif ord in (1, -1, np.inf, -np.inf):
        norm = (ops.max if ord > 0 else ops.min)(ops.sum(ops.absolute(x), axis=-2 if abs(ord) == 1 else -1), axis=-1)
    else:
        raise ValueError(f"norm: ord must be 'fro', 'nuc', 1, -1, 2, -2, inf or -inf for matrices, got {ord!r}")
    return norm[..., None, None] if keepdims else norm


@composed(np.linalg.norm)
def norm(x, ord=None, axis=None, keepdims=False):
    """The norm of vectors or matrices along axis; the Euclidean (Frobenius) one of all entries by default.

    At 0, where it has no derivative, the gradient is the smallest one, 0.
    """
    if ord is None:
        return ops.euclidean(x, axis, keepdims)
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis)
    if len(axes) == 1:
        return vector_norm(x, axis=int(axes[0]), keepdims=keepdims, ord=ord)
    if len(axes) != 2:
        raise ValueError(f"norm: ord={ord!r} is of vectors or matrices, got {len(axes)} axes")
    axes = [a % x.ndim for a in axes]
    answer = matrix_norm(ops.moveaxis(x, axes, (-2, -1)), ord=ord)
    return ops.expand_dims(answer, tuple(axes)) if keepdims else answer


# ---------------------------------------------------------------- products of many

@composed(np.linalg.multi_dot)
def multi_dot(arrays):
    """The product of matrices, from left to right."""
    return functools.reduce(matmul, arrays)


@composed(np.linalg.matrix_power)
def matrix_power(a, n):
    """a^n by repeated squaring; of the inverse for n < 0."""
    if n < 0:
        return matrix_power(inv(a), -n)
    if n < 2:
        return a if n else np.zeros_like(a) + np.eye(a.shape[-1], dtype=a.dtype)
    half = matrix_power(matmul(a, a), n // 2)
    return matmul(half, a) if n % 2 else half
