"""Sums, means and products, also of the entries that are not NaN; order statistics; covariances."""
import builtins

import numpy as np

from .. import ops
from ..engine import NoRuleError, Tensor
from ..ops import composed


def _without_nan(x, filler):
    """x with a filler for NaN, which takes no gradient."""
    return ops.where(np.isnan(x), filler, x)


@composed(np.nansum)
def nansum(x, axis=None, keepdims=False):
    """The sum of the entries that are not NaN."""
    return ops.sum(_without_nan(x, 0), axis=axis, keepdims=keepdims)


@composed(np.nanprod)
def nanprod(x, axis=None, keepdims=False):
    """The product of the entries that are not NaN."""
    return ops.prod(_without_nan(x, 1), axis=axis, keepdims=keepdims)


def _numbers(x, axis, keepdims=True):
    """How many entries are not NaN, in x's dtype."""
    return np.sum(~np.isnan(x), axis=axis, keepdims=keepdims).astype(x.dtype)


@composed(np.nanmean)
def nanmean(x, axis=None, keepdims=False):
    """The mean of the entries that are not NaN."""
    return nansum(x, axis, keepdims) / _numbers(x, axis, keepdims)


def _nan_centred(x, axis):
    return _without_nan(x - nanmean(x, axis, keepdims=True), 0)


@composed(np.nanvar)
def nanvar(x, axis=None, ddof=0, keepdims=False):
    """The variance of the entries that are not NaN."""
    return ops.sum(ops.square(_nan_centred(x, axis)), axis=axis, keepdims=keepdims) / (_numbers(x, axis, keepdims) - ddof)


@composed(np.nanstd)
def nanstd(x, axis=None, ddof=0, keepdims=False):
    """The standard deviation of the entries that are not NaN."""
    return ops.euclidean(_nan_centred(x, axis), axis, keepdims) / np.sqrt(_numbers(x, axis, keepdims) - ddof)


@composed(np.nanmax)
def nanmax(x, axis=None, keepdims=False):
    """The largest of the entries that are not NaN; NaN where there is none."""
    most = ops.max(_without_nan(x, -np.inf), axis=axis, keepdims=keepdims)
    return ops.where(np.isnan(x).all(axis=axis, keepdims=keepdims), np.nan, most)


@composed(np.nanmin)
def nanmin(x, axis=None, keepdims=False):
    """The smallest of the entries that are not NaN; NaN where there is none."""
    return -nanmax(-x, axis, keepdims)


@composed(np.average)
def average(x, axis=None, weights=None, returned=False, *, keepdims=False):
    """The mean, weighted by weights of x's shape, or of the length of the one axis."""
    if weights is None:
        mean = ops.mean(x, axis=axis, keepdims=keepdims)
        total = np.zeros_like(mean) + np.size(x) / builtins.max(np.size(mean), 1)
    else:
        if np.shape(weights) != np.shape(x):
            if axis is None or np.ndim(weights) != 1 or np.ndim(axis):
                raise TypeError("average: weights of another shape than x need one axis, which they are the length of")
            weights = ops.reshape(np.asarray(weights) if isinstance(weights, list) else weights,
                                  [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
            weights = ops.broadcast_to(weights, np.shape(x))
        total = ops.sum(weights, axis=axis, keepdims=keepdims)
        mean = ops.sum(x * weights, axis=axis, keepdims=keepdims) / total
    return (mean, ops.broadcast_to(total, np.shape(mean))) if returned else mean


@composed(np.ptp)
def ptp(x, axis=None, keepdims=False):
    """The largest entry minus the smallest."""
    return ops.max(x, axis=axis, keepdims=keepdims) - ops.min(x, axis=axis, keepdims=keepdims)


@composed(np.cumulative_sum)
def cumulative_sum(x, axis=None):
    """cumsum along the only axis, or along the one that is named."""
    return ops.cumsum(x, axis)


@composed(np.cumprod, np.cumulative_prod)
def cumprod(x, axis=None):
    """The products of the entries so far, by doubling, so that a zero among them does no harm to the derivative."""
    if axis is None:
        return cumprod(ops.ravel(x), 0)
    x, step = ops.moveaxis(x, axis, 0), 1
    while step < len(x):
        x, step = ops.concatenate([x[:step], x[step:] * x[:-step]]), 2 * step
    return ops.moveaxis(x, 0, axis)


nancumsum = composed(np.nancumsum)(lambda x, axis=None: ops.cumsum(_without_nan(x, 0), axis))
nancumprod = composed(np.nancumprod)(lambda x, axis=None: cumprod(_without_nan(x, 1), axis))


@composed(np.quantile)
def quantile(x, q, axis=None, *, method="linear", keepdims=False):
    """The quantiles q, constants, between neighbours in order as NumPy's method has it; NaN where an entry is NaN.

    Among equal entries, the gradient goes to those that a stable sort puts there.
    """
    if isinstance(q, Tensor):
        raise NoRuleError("numpy.quantile: there is no derivative rule for q; pass it as a plain array")
    missing = np.isnan(x).any(axis=axis)
    x, kept = ops.lined_up(x, axis)
    at = np.quantile(np.arange(len(x), dtype=float), q, method=method)  # where q lies among the ranks, every method's answer
    low = np.floor(at).astype(int)
    share = (at - low).astype(x.dtype).reshape(np.shape(at) + (1,) * (x.ndim - 1))
    ranked = ops.sort(x, axis=0)
    between = ranked[low] + (ranked[np.minimum(low + 1, len(x) - 1)] - ranked[low]) * share if np.any(share) else ranked[low]
    answer = ops.where(missing, np.nan, between)
    return ops.reshape(answer, np.shape(at) + kept) if keepdims else answer


@composed(np.percentile)
def percentile(x, q, axis=None, *, method="linear", keepdims=False):
    """The quantiles q / 100."""
    return quantile(x, q if isinstance(q, Tensor) else np.true_divide(q, 100), axis, method=method, keepdims=keepdims)


@composed(np.median)
def median(x, axis=None, *, keepdims=False):
    """The middle entry in order, or the mean of the two in the middle."""
    return quantile(x, 0.5, axis, keepdims=keepdims)


@composed(np.partition)
def partition(x, kth, axis=-1):
    """The entries with the kth in its place in order, smaller ones before it."""
    return partition(ops.ravel(x), kth, 0) if axis is None else ops.take_along_axis(x, np.argpartition(x, kth, axis), axis)


@composed(np.cov)
def cov(m, y=None, rowvar=True, bias=False, ddof=None):
    """The covariances of the rows (of the columns if not rowvar)."""
    x = ops.reshape(m, (1, -1)) if m.ndim < 2 else m if rowvar else ops.transpose(m)
    if y is not None:
        y = ops.reshape(y, (1, -1)) if y.ndim < 2 else y if rowvar else ops.transpose(y)
        x = ops.concatenate([x, y])
    centred = x - ops.mean(x, axis=1, keepdims=True)
    free = x.shape[1] - ((not bias) if ddof is None else ddof)
    return ops.squeeze(ops.matmul(centred, ops.conj(ops.transpose(centred)))) / free


@composed(np.corrcoef)
def corrcoef(x, y=None, rowvar=True):
    """The correlations of the rows (of the columns if not rowvar)."""
    c = cov(x, y, rowvar)
    if c.ndim == 0:
        return c / c
    std = ops.sqrt(ops.diagonal(c))
    return c / std[:, None] / std[None, :]


@composed(np.bincount)
def bincount(x, weights=None, minlength=0):
    """The sum of the weights of every integer in x."""
    if isinstance(x, Tensor) or weights is None:
        raise NoRuleError("numpy.bincount: a derivative exists by the weights alone; pass integers x as a plain array")
    return ops.scatter(weights, (np.asarray(x),), (builtins.max(int(np.max(x, initial=-1)) + 1, minlength),))
