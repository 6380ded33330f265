"""Ops along axes: sums, means, extremes, lengths, products; log-sum-exp and softmax."""
import builtins
import math

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ..kernels import logsumexp as _logsumexp_kernel
from .elementwise import absolute, conj, exp, ratio, real, square
from .rules import by_places, composed, contiguous, op, selected, summed
from .shapes import broadcast_to, concatenate, diagonal, flip, moveaxis, reshape


def spread(x, axis):
    """The pullback of a sum of x over axis: g, with the reduced axes put back, repeated to x's shape."""
    shape, n = np.shape(x), np.ndim(x)
    if axis is None:
        return lambda g: broadcast_to(g, shape)
    reduced = [a % n for a in np.atleast_1d(axis)]
    kept = tuple(1 if i in reduced else length for i, length in enumerate(shape))
    return lambda g: broadcast_to(reshape(g, kept), shape)


def _extremum(ans, x, axis):
    back = spread(x, axis)
    hit = (np.equal(x, back(ans)) | np.isnan(x)).astype(x.dtype)
    return lambda g: selected(back(g) * (hit / np.sum(hit, axis=axis, keepdims=True)), hit > 0)  # ties share equally


def _mean_rule(ans, x, axis=None, keepdims=False):
    back, n = spread(x, axis), x.size / builtins.max(ans.size, 1)
    return lambda g: back(g / n)


def _euclidean_rule(ans, x, axis=None, keepdims=False):
    back = spread(x, axis)
    if x.dtype.kind == "c":
        return lambda g: back(real(g)) * ratio(conj(x), back(ans))
    return lambda g: back(g) * ratio(x, back(ans))


def _cumsum_rule(ans, x, axis=None):
    shape = x.shape
    return lambda g: reshape(flip(cumsum(flip(g, axis), axis), axis), shape)


sum = op(np.sum, lambda ans, x, axis=None, keepdims=False: spread(x, axis), partly=by_places)
mean = op(np.mean, _mean_rule, partly=by_places)
max = op(np.max, lambda ans, x, axis=None, keepdims=False: _extremum(ans, x, axis))
min = op(np.min, lambda ans, x, axis=None, keepdims=False: _extremum(ans, x, axis))
cumsum = op(np.cumsum, _cumsum_rule, partly=by_places)
euclidean = op(lambda x, axis=None, keepdims=False: np.sqrt(np.sum(np.square(np.abs(x)), axis=axis, keepdims=keepdims)),
               _euclidean_rule, name="euclidean")  # the length of x along axis


def lined_up(x, axis):
    """x with the axes of a reduction as one, its first; and x's shape with 1 for each of them."""
    axes = normalize_axis_tuple(range(np.ndim(x)) if axis is None else axis, np.ndim(x))
    kept = tuple(1 if i in axes else n for i, n in enumerate(np.shape(x)))
    x = moveaxis(x, axes, range(len(axes)))
    return reshape(x, (math.prod(x.shape[:len(axes)]), *x.shape[len(axes):])), kept


@composed(np.prod)
def prod(x, axis=None, keepdims=False):
    """The product of the entries, by halves, so that a zero among them does no harm to the derivative."""
    x, kept = lined_up(x, axis)
    while len(x) > 1:
        half = len(x) // 2
        x = concatenate([x[:half] * x[half:2 * half], x[2 * half:]])
    x = x[0] if len(x) else np.ones_like(x, shape=(1, *x.shape[1:]))[0]
    return reshape(x, kept) if keepdims else x


@composed(np.var)
def var(x, axis=None, ddof=0, keepdims=False):
    """The mean squared distance from the mean: sum |x - mean(x)|^2 / (n - ddof)."""
    centred = x - mean(x, axis=axis, keepdims=True)
    total = sum(square(absolute(centred) if x.dtype.kind == "c" else centred), axis=axis, keepdims=keepdims)
    return total / (x.size / builtins.max(total.size, 1) - ddof)


@composed(np.std)
def std(x, axis=None, ddof=0, keepdims=False):
    """The square root of var; of equal entries it is 0, and its gradient the smallest there, 0."""
    length = euclidean(x - mean(x, axis=axis, keepdims=True), axis, keepdims)
    return length / builtins.max(x.size / builtins.max(length.size, 1) - ddof, 0)**0.5


@composed(np.trace)
def trace(x, offset=0, axis1=0, axis2=1):
    """The sum of the diagonal."""
    return sum(diagonal(x, offset, axis1, axis2), axis=-1)


# ---------------------------------------------------------------- log-sum-exp

_logsumexp = op(lambda x, w: _logsumexp_kernel.forward(*contiguous(x, w)),
                lambda ans, x, w: lambda g: _logsumexp_dx(g, ans, x, w),
                lambda ans, x, w: summed(w, lambda g: _logsumexp_dw(g, ans, x, w)), name="logsumexp")
_logsumexp_dx = op(lambda g, a, x, w: _logsumexp_kernel.backward(*contiguous(g, a, x, w)),  # g_i w_ij exp(x_ij - a_i)
                   lambda ans, g, a, x, w: lambda h: sum(h * _logsumexp_dx(np.ones_like(g), a, x, w), axis=1),
                   lambda ans, g, a, x, w: lambda h: -sum(h * ans, axis=1),
                   lambda ans, g, a, x, w: lambda h: h * ans,
                   lambda ans, g, a, x, w: summed(w, lambda h: h * _logsumexp_dw(g, a, x, w)), name="logsumexp.backward")
_logsumexp_dw = op(lambda g, a, x, w: _logsumexp_kernel.backward_weights(*contiguous(g, a, x, w)),  # g_i exp(x_ij - a_i)
                   lambda ans, g, a, x, w: lambda h: sum(h * _logsumexp_dw(np.ones_like(g), a, x, w), axis=1),
                   lambda ans, g, a, x, w: lambda h: -sum(h * ans, axis=1),
                   lambda ans, g, a, x, w: lambda h: h * ans,
                   lambda ans, g, a, x, w: lambda h: np.zeros_like(w), name="logsumexp.backward_weights")


def logsumexp(x, axis=-1, weights=None, keepdims=False):
    """log sum_j w_j exp(x_j) along an axis (an int, several, or None for all), without overflow; w = 1 by default.

    Defined everywhere: all -inf or an empty axis give -inf with gradient 0, +inf gives +inf with its gradient there.
    weights (broadcast against x) must not be negative; a zero drops its entry. Integers are taken as float64.
    """
    x = x if hasattr(x, "dtype") else np.asarray(x)
    x = x if x.dtype.char in "fd" else x.astype(float)
    n, axes = np.ndim(x), normalize_axis_tuple(range(np.ndim(x)) if axis is None else axis, np.ndim(x))
    last = tuple(range(n - len(axes), n))
    kept = tuple(m for i, m in enumerate(np.shape(x)) if i not in axes)
    flat_shape = math.prod(kept), math.prod(np.shape(x)[i] for i in axes)

    def rows(a):
        return reshape(moveaxis(a, axes, last), flat_shape)

    if weights is None:
        w = np.ones_like(x, shape=(1, flat_shape[1]))
    else:
        w = weights if hasattr(weights, "dtype") else np.asarray(weights)
        w = rows(broadcast_to(w if w.dtype == x.dtype else w.astype(x.dtype), np.shape(x)))
    ans = _logsumexp(rows(x), w)
    return reshape(ans, tuple(1 if i in axes else m for i, m in enumerate(np.shape(x))) if keepdims else kept)


def log_softmax(x, axis=-1):
    """log of exp(x) / sum exp(x) along an axis (an int, several, or None for all)."""
    return x - logsumexp(x, axis=axis, keepdims=True)


def softmax(x, axis=-1):
    """exp(x) / sum exp(x) along an axis (an int, several, or None for all)."""
    return exp(log_softmax(x, axis))
