"""NumPy functions that are written in ops, a few statements each, and those that have no derivative: what to write instead.

    sums and order      average, median, quantile, nan*, cumprod, cov, trapezoid, gradient, interp, ...
    shapes              append, rot90, meshgrid, select, insert, kron, ...
    Fourier transforms  fft, rfft, ..., of real arrays through complex ones and back

What they do to Tensors is registered when npgen is imported; on arrays NumPy's own functions stay as they are. Unlike those
in ops, they are not tested on CuPy arrays.
"""
import builtins
import functools
import math
from functools import partial

import numpy as np

from . import ops
from .engine import OVERRIDES, NoRuleError, Tensor
from .ops import composed, op, refused

# ---------------------------------------------------------------- constants

for _f in (np.nanargmax, np.nanargmin, np.argpartition, np.lexsort, np.digitize, np.heaviside, np.fix, np.around, np.spacing,
           np.isreal, np.iscomplex, np.isrealobj, np.iscomplexobj, np.isin, np.isposinf, np.isneginf, np.logical_xor,
           np.array_equiv, np.linalg.matrix_rank, np.tril_indices_from, np.triu_indices_from, np.diag_indices_from,
           np.common_type, np.may_share_memory, np.shares_memory, np.can_cast, np.min_scalar_type):
    op(_f)


# ---------------------------------------------------------------- elementwise

fabs = composed(np.fabs)(lambda x: ops.absolute(x))
float_power = composed(np.float_power)(lambda x, y: ops.power(x, y))
radians = composed(np.radians, np.deg2rad)(lambda x: x * (math.pi / 180))
degrees = composed(np.degrees, np.rad2deg)(lambda x: x * (180 / math.pi))
logaddexp2 = composed(np.logaddexp2)(lambda x, y: ops.logaddexp(x * math.log(2), y * math.log(2)) / math.log(2))
copysign = composed(np.copysign)(lambda x, y: ops.absolute(x) * (1 - 2 * np.signbit(y).astype(x.dtype)))
ldexp = composed(np.ldexp)(lambda x, n: x * np.exp2(n).astype(x.dtype))
divmod_ = composed(np.divmod)(lambda x, y: (np.floor_divide(x, y), ops.remainder(x, y)))
modf = composed(np.modf)(lambda x: (x - np.trunc(x), np.trunc(x)))
angle = composed(np.angle)(lambda z, deg=False: ops.arctan2(ops.imag(z), ops.real(z)) * (180 / math.pi if deg else 1))
fmod = op(np.fmod, lambda ans, x, y: ops.like(ans, x), lambda ans, x, y: ops.like(ans, y, lambda g: -g * np.trunc(x / y)))


@composed(np.fmax)
def fmax(x, y):
    """The larger one; the other one where one is NaN."""
    return ops.where(np.isnan(x), y, ops.where(np.isnan(y), x, ops.maximum(x, y)))


@composed(np.fmin)
def fmin(x, y):
    """The smaller one; the other one where one is NaN."""
    return ops.where(np.isnan(x), y, ops.where(np.isnan(y), x, ops.minimum(x, y)))


def _bessel(n, x):
    """The spherical Bessel function j_n."""
    from scipy.special import spherical_jn
    return spherical_jn(n, x).astype(x.dtype)


def _bessel_rule(ans, x, n):  # no division by x, so that 0 is a point like any other
    return lambda g: g * ((n * _spherical(x, n - 1) if n else 0) - (n + 1) * _spherical(x, n + 1)) / (2 * n + 1)


_spherical = op(lambda x, n: _bessel(n, x), _bessel_rule, name="spherical_jn")
sinc = op(np.sinc, lambda ans, x: lambda g: g * -math.pi * _spherical(math.pi * x, 1))


@composed(np.nan_to_num)
def nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None):
    """x with numbers for NaN and infinities; the largest there are by default. The gradient there is 0."""
    most = float(np.finfo(x.dtype).max)
    x = ops.where(np.isnan(x), nan, x)
    x = ops.where(np.isposinf(x), most if posinf is None else posinf, x)
    return ops.where(np.isneginf(x), -most if neginf is None else neginf, x)


@composed(np.select)
def select(condlist, choicelist, default=0):
    """The first choice whose condition holds, by entry."""
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        default = ops.where(condition, choice, default)
    return default


@composed(np.choose)
def choose(a, choices):
    """choices[a], by entry."""
    return select([np.equal(a, i) for i in range(len(choices))], choices)


@composed(np.unwrap)
def unwrap(p, discont=None, axis=-1, *, period=2 * math.pi):
    """Angles without the jumps of a period, which are constants."""
    return p + np.unwrap(_constant(p), discont, axis, period=period) - _constant(p)


@composed(np.polyval)
def polyval(p, x):
    """p[0] x^(n-1) + ... + p[n-1], by Horner's rule."""
    return functools.reduce(lambda total, c: total * x + c, [p[i] for i in range(len(p))], np.zeros_like(x))


@composed(np.vander)
def vander(x, N=None, increasing=False):
    """The powers of x (n,) side by side, (n, N)."""
    powers = range(len(x) if N is None else N)
    return ops.stack([x**k for k in (powers if increasing else reversed(powers))], axis=1)


def _constant(x):
    """The array that a Tensor of any level stands for."""
    while isinstance(x, Tensor):
        x = x.value
    return x


OVERRIDES.update({np.amax: OVERRIDES[np.max], np.amin: OVERRIDES[np.min]})
composed(np.astype)(lambda x, dtype: ops.astype(x, dtype))


# ---------------------------------------------------------------- sums, order

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


# ---------------------------------------------------------------- calculus

def _along(axis, index):
    return (slice(None),) * axis + (index,)


@composed(np.trapezoid)
def trapezoid(y, x=None, dx=1.0, axis=-1):
    """The integral of y over x, or over points dx apart, by the trapezoidal rule."""
    y = ops.moveaxis(y, axis, -1)
    if x is not None and np.ndim(x) > 1:
        x = ops.moveaxis(x, axis, -1)
    widths = dx if x is None else ops.diff(x if hasattr(x, "dtype") else np.asarray(x))
    return ops.sum((y[..., 1:] + y[..., :-1]) * widths, axis=-1) / 2


def _slope(f, x, axis, edge_order):
    """df/dx by central differences, one-sided at both ends; x is a distance or coordinates."""
    f, n = ops.moveaxis(f, axis, -1), f.shape[axis]
    if n < edge_order + 1:
        raise ValueError(f"gradient: axis {axis} has {n} points; edge_order={edge_order} needs {edge_order + 1}")
    if np.ndim(x) == 0:
        h = np.ones(n - 1, f.dtype) * x
    else:
        h = ops.diff(x if hasattr(x, "dtype") else np.asarray(x, f.dtype))
    steps = (f[..., 1:] - f[..., :-1]) / h
    behind, ahead = h[:-1], h[1:]
    inner = (steps[..., :-1] * ahead + steps[..., 1:] * behind) / (behind + ahead)
    first, last = steps[..., :1], steps[..., -1:]
    if edge_order == 2:
        first = first - (steps[..., 1:2] - first) * (h[:1] / (h[:1] + h[1:2]))
        last = last + (last - steps[..., -2:-1]) * (h[-1:] / (h[-1:] + h[-2:-1]))
    return ops.moveaxis(ops.concatenate([first, inner, last], axis=-1), -1, axis)


@composed(np.gradient)
def gradient(f, *varargs, axis=None, edge_order=1):
    """Central differences along every axis, or those named; varargs: a distance, or one, or coordinates, for each axis."""
    axes = [a % f.ndim for a in (range(f.ndim) if axis is None else np.atleast_1d(axis))]
    spacings = list(varargs) or [1.0]
    spacings = spacings * len(axes) if len(spacings) == 1 and np.ndim(spacings[0]) == 0 else spacings
    if len(spacings) != len(axes):
        raise TypeError(f"gradient: {len(varargs)} spacings for {len(axes)} axes; pass one, or one for each")
    slopes = tuple(_slope(f, x, a, edge_order) for a, x in zip(axes, spacings, strict=True))
    return slopes[0] if len(slopes) == 1 else slopes


@composed(np.interp)
def interp(x, xp, fp, left=None, right=None):
    """Linear interpolation of fp at xp, rising; at a knot, the slope by x is that on its right."""
    xp, fp = (a if hasattr(a, "dtype") else np.asarray(a, float) for a in (xp, fp))
    x = x if hasattr(x, "dtype") else np.asarray(x, float)
    low = np.clip(np.searchsorted(xp, x, side="right") - 1, 0, builtins.max(len(xp) - 2, 0))
    high = np.minimum(low + 1, len(xp) - 1)
    width = xp[high] - xp[low]
    inside = fp[low] + (fp[high] - fp[low]) * ((x - xp[low]) / ops.where(np.equal(width, 0), 1, width))
    return ops.where(np.less(x, xp[0]), fp[0] if left is None else left,
                     ops.where(np.greater(x, xp[-1]), fp[-1] if right is None else right, inside))


@composed(np.ediff1d)
def ediff1d(x, to_end=None, to_begin=None):
    """The differences of neighbours in the flattened array, between to_begin and to_end."""
    parts = [part if isinstance(part, Tensor) else np.asarray(part, x.dtype) for part in
             (to_begin, ops.diff(ops.ravel(x)), to_end) if part is not None]
    return ops.concatenate([ops.ravel(part) for part in parts])


# ---------------------------------------------------------------- products

# The full convolution sum_k a_k v_{n-k}; its transposes are convolutions with the other sequence turned round.
_convolve = op(lambda a, v: np.convolve(a, v), lambda ans, a, v: lambda g: _valid(g, v, len(a)),
               lambda ans, a, v: lambda g: _valid(g, a, len(v)), name="convolve")


def _valid(g, v, n):
    return _convolve(g, ops.flip(v))[len(v) - 1:len(v) - 1 + n]


@composed(np.convolve)
def convolve(a, v, mode="full"):
    """sum_k a_k v_{n-k} of two sequences; mode "same" and "valid" as NumPy has them."""
    a, v = (b if hasattr(b, "dtype") else np.asarray(b, float) for b in (a, v))
    short, long = sorted((len(a), len(v)))
    start, n = {"full": (0, short + long - 1), "same": ((short - 1) // 2, long), "valid": (short - 1, long - short + 1)}[mode]
    return _convolve(a, v)[start:start + n]


@composed(np.correlate)
def correlate(a, v, mode="valid"):
    """sum_k a_{n+k} conj(v_k) of two sequences."""
    a, v = (b if hasattr(b, "dtype") else np.asarray(b, float) for b in (a, v))
    if len(a) < len(v):
        return ops.flip(convolve(ops.conj(v), ops.flip(a), mode))
    return convolve(a, ops.flip(ops.conj(v)), mode)


@composed(np.vdot)
def vdot(x, y):
    """The sum of conj(x) y over all entries."""
    return ops.sum(ops.conj(ops.ravel(x)) * ops.ravel(y))


@composed(np.vecdot)
def vecdot(x, y, axis=-1):
    """The sums of conj(x) y along an axis."""
    return ops.sum(ops.conj(x) * y, axis=axis)


if hasattr(np, "matvec"):  # from NumPy 2.2 on
    matvec = composed(np.matvec)(lambda a, x: ops.squeeze(ops.matmul(a, ops.expand_dims(x, -1)), -1))
    vecmat = composed(np.vecmat)(lambda x, a: ops.squeeze(ops.matmul(ops.expand_dims(ops.conj(x), -2), a), -2))
OVERRIDES.update({np.linalg.matmul: OVERRIDES[np.matmul], np.linalg.tensordot: OVERRIDES[np.tensordot],
                  np.linalg.vecdot: OVERRIDES[np.vecdot], np.linalg.outer: OVERRIDES[np.outer]})
composed(np.linalg.diagonal)(lambda x, offset=0: ops.diagonal(x, offset, -2, -1))
composed(np.linalg.trace)(lambda x, offset=0: ops.trace(x, offset, -2, -1))


@composed(np.kron)
def kron(a, b):
    """Every entry of a times the whole of b."""
    n = builtins.max(np.ndim(a), np.ndim(b))
    of_a, of_b = ((1,) * (n - np.ndim(x)) + np.shape(x) for x in (a, b))
    a = ops.reshape(a, [m for k in of_a for m in (k, 1)])
    b = ops.reshape(b, [m for k in of_b for m in (1, k)])
    return ops.reshape(a * b, [k * m for k, m in zip(of_a, of_b, strict=True)])


@composed(np.cross, np.linalg.cross)
def cross(a, b, axisa=-1, axisb=-1, axisc=-1, axis=None):
    """The vector product of vectors of length 3."""
    axisa, axisb, axisc = (axisa, axisb, axisc) if axis is None else (axis,) * 3
    a, b = ops.moveaxis(a, axisa, -1), ops.moveaxis(b, axisb, -1)
    if (a.shape[-1], b.shape[-1]) != (3, 3):
        raise ValueError(f"cross: vectors must have length 3, got {a.shape[-1]} and {b.shape[-1]}; append a zero to those of 2")
    after, before = [1, 2, 0], [2, 0, 1]
    return ops.moveaxis(a[..., after] * b[..., before] - a[..., before] * b[..., after], -1, axisc)


# What a ufunc's methods do: np.add.reduce(x) is np.sum(x, axis=0).
for _ufunc, _total, _running in ((np.add, ops.sum, ops.cumsum), (np.multiply, ops.prod, cumprod), (np.maximum, ops.max, None),
                                 (np.minimum, ops.min, None)):
    OVERRIDES[_ufunc, "reduce"] = lambda x, axis=0, keepdims=False, f=_total: f(x, axis=axis, keepdims=keepdims)
    if _running:
        OVERRIDES[_ufunc, "accumulate"] = lambda x, axis=0, f=_running: f(x, axis)
for _ufunc in (np.add, np.subtract, np.multiply, np.true_divide, np.maximum, np.minimum, np.power, np.hypot):
    OVERRIDES[_ufunc, "outer"] = lambda x, y, f=OVERRIDES[_ufunc]: f(
        ops.reshape(x, np.shape(x) + (1,) * np.ndim(y)), ops.reshape(y, (1,) * np.ndim(x) + np.shape(y)))


# ---------------------------------------------------------------- shapes

fliplr = composed(np.fliplr)(lambda x: ops.flip(x, 1))
flipud = composed(np.flipud)(lambda x: ops.flip(x, 0))
matrix_transpose = composed(np.matrix_transpose, np.linalg.matrix_transpose)(lambda x: ops.swapaxes(x, -1, -2))
append = composed(np.append)(lambda x, values, axis=None: ops.concatenate([x, values], axis))
atleast_1d = composed(np.atleast_1d)(lambda *xs: _each(lambda x: x if np.ndim(x) else ops.reshape(x, (1,)), xs))
atleast_2d = composed(np.atleast_2d)(lambda *xs: _each(lambda x: x if np.ndim(x) > 1 else ops.reshape(x, (1, -1)), xs))
atleast_3d = composed(np.atleast_3d)(lambda *xs: _each(
    lambda x: x if np.ndim(x) > 2 else ops.expand_dims(x, -1) if np.ndim(x) == 2 else ops.reshape(x, (1, -1, 1)), xs))
dstack = composed(np.dstack)(lambda xs: ops.concatenate([atleast_3d(x) for x in xs], axis=2))
broadcast_arrays = composed(np.broadcast_arrays)(
    lambda *xs: tuple(ops.broadcast_to(x, np.broadcast_shapes(*map(np.shape, xs))) for x in xs))
unstack = composed(np.unstack)(lambda x, axis=0: tuple(ops.take(x, i, axis) for i in range(x.shape[axis])))
compress = composed(np.compress)(lambda condition, x, axis=None: ops.take(x, np.flatnonzero(condition), axis))
extract = composed(np.extract)(lambda condition, x: ops.ravel(x)[np.flatnonzero(condition)])
delete = composed(np.delete)(lambda x, obj, axis=None: ops.take(
    x, np.delete(np.arange(np.size(x) if axis is None else x.shape[axis]), obj), axis))
resize = composed(np.resize)(lambda x, shape: ops.reshape(ops.ravel(x)[np.resize(np.arange(np.size(x)), shape)], shape))
rollaxis = composed(np.rollaxis)(lambda x, axis, start=0: ops.moveaxis(
    x, axis, start % (x.ndim + 1) - (axis % x.ndim < start % (x.ndim + 1))))
diagflat = composed(np.diagflat)(lambda x, k=0: ops.diag(ops.ravel(x), k))


def _each(f, xs):
    return f(xs[0]) if len(xs) == 1 else tuple(f(x) for x in xs)


@composed(np.insert)
def insert(x, obj, values, axis=None):
    """x with values put in before the indices obj along an axis (of the flattened x if there is none)."""
    if axis is None:
        x, axis = ops.ravel(x), 0
    axis, n = axis % x.ndim, x.shape[axis]
    many = builtins.max(np.size(obj), 1 if np.ndim(obj) or np.ndim(values) < x.ndim else np.shape(values)[axis])
    if np.ndim(obj) == 0 and x.ndim == 1:
        many = builtins.max(np.size(values), 1)
    shape = tuple(many if i == axis else m for i, m in enumerate(x.shape))
    values = values if hasattr(values, "dtype") else np.asarray(values, x.dtype)
    values = ops.broadcast_to(values if np.ndim(obj) or values.ndim in (0, x.ndim) else ops.expand_dims(values, axis), shape)
    order = np.insert(np.arange(n), obj, np.arange(n, n + many))
    return ops.take(ops.concatenate([x, values], axis), order, axis)


@composed(np.rot90)
def rot90(x, k=1, axes=(0, 1)):
    """x turned k times by 90 degrees, from the first of the axes towards the second."""
    for _ in range(k % 4):
        x = ops.flip(ops.swapaxes(x, *axes), axes[0])
    return x


@composed(np.meshgrid)
def meshgrid(*xs, copy=True, sparse=False, indexing="xy"):
    """The coordinates of a grid, an array for every axis."""
    n = len(xs)
    grids = [ops.reshape(x, (1,) * i + (-1,) + (1,) * (n - 1 - i)) for i, x in enumerate(xs)]
    grids = [ops.swapaxes(x, 0, 1) for x in grids] if indexing == "xy" and n > 1 else grids
    return tuple(grids) if sparse else broadcast_arrays(*grids)


@composed(np.array_split)
def array_split(x, indices_or_sections, axis=0):
    """The pieces of x along an axis, whose lengths differ by 1 at most; or cut before the given indices."""
    n, cuts = x.shape[axis], indices_or_sections
    if isinstance(cuts, (int, np.integer)):
        cuts = np.cumsum([n // cuts + (i < n % cuts) for i in range(cuts - 1)]).tolist()
    return ops.split(x, cuts, axis)


hsplit = composed(np.hsplit)(lambda x, cuts: ops.split(x, cuts, builtins.min(x.ndim - 1, 1)))
vsplit = composed(np.vsplit)(lambda x, cuts: ops.split(x, cuts, 0))
dsplit = composed(np.dsplit)(lambda x, cuts: ops.split(x, cuts, 2))


@composed(np.block)
def block(arrays):
    """Arrays put together from nested lists of blocks: the innermost lists along the last axis."""
    def depth(a):
        return 1 + depth(a[0]) if isinstance(a, list) else 0

    def leaves(a):
        return [x for part in a for x in leaves(part)] if isinstance(a, list) else [a]

    n = builtins.max(depth(arrays), *[np.ndim(x) for x in leaves(arrays)])

    def join(a, level):
        if not isinstance(a, list):
            return ops.reshape(a, (1,) * (n - np.ndim(a)) + np.shape(a))
        return ops.concatenate([join(part, level - 1) for part in a], axis=-level)

    return join(arrays, depth(arrays))


@composed(np.linspace)
def linspace(start, stop, num=50, endpoint=True, *, axis=0):
    """num numbers from start to stop, evenly apart."""
    start, stop = (x if hasattr(x, "dtype") else np.asarray(x, float) for x in (start, stop))
    shares = np.arange(num) / builtins.max(num - 1 if endpoint else num, 1)
    shares = shares.reshape((-1,) + (1,) * builtins.max(start.ndim, stop.ndim)).astype(np.result_type(start.dtype, stop.dtype))
    return ops.moveaxis(start + (stop - start) * shares, 0, axis)


@composed(np.logspace)
def logspace(start, stop, num=50, endpoint=True, base=10.0, *, axis=0):
    """base to the power of linspace."""
    return ops.power(base, linspace(start, stop, num, endpoint, axis=axis))


@composed(np.geomspace)
def geomspace(start, stop, num=50, endpoint=True, *, axis=0):
    """num positive numbers from start to stop, in even ratios."""
    return ops.exp(linspace(ops.log(start), ops.log(stop), num, endpoint, axis=axis))


# ---------------------------------------------------------------- Fourier transforms

# Along one axis; both are symmetric matrices. The cotangent of a real array is real.
_fft = op(lambda x, axis: np.fft.fft(x, axis=axis),
          lambda ans, x, axis: partial(_transposed, _fft, axis, x.dtype), name="fft")
_ifft = op(lambda x, axis: np.fft.ifft(x, axis=axis),
           lambda ans, x, axis: partial(_transposed, _ifft, axis, x.dtype), name="ifft")


def _transposed(transform, axis, dtype, g):
    return ops.as_real(transform(g, axis), dtype)


def _of_length(x, n, axis):
    """x cut, or filled with zeros, to length n."""
    more = n - x.shape[axis]
    if more > 0:
        return ops.pad(x, [(0, more if i == axis % x.ndim else 0) for i in range(x.ndim)])
    return x[_along(axis % x.ndim, slice(n))] if more else x


def _factor(norm, n, inverse):
    """What an unnormalised sum, or an inverse with 1/n, is multiplied by."""
    if norm not in (None, "backward", "ortho", "forward"):
        raise ValueError(f"fft: norm must be 'backward', 'ortho' or 'forward', got {norm!r}")
    power = {"ortho": -0.5, "forward": -1.0}.get(norm, 0.0)
    return float(n) ** (-power if inverse else power)


@composed(np.fft.fft)
def fft(a, n=None, axis=-1, norm=None):
    """sum_j a_j exp(-2 pi i jk / n) along an axis."""
    a = a if n is None else _of_length(a, n, axis)
    return _fft(a, axis) * _factor(norm, a.shape[axis], False)


@composed(np.fft.ifft)
def ifft(a, n=None, axis=-1, norm=None):
    """The inverse of fft."""
    a = a if n is None else _of_length(a, n, axis)
    return _ifft(a, axis) * _factor(norm, a.shape[axis], True)


@composed(np.fft.rfft)
def rfft(a, n=None, axis=-1, norm=None):
    """fft of real numbers, its first n // 2 + 1 frequencies."""
    n = a.shape[axis] if n is None else n
    return fft(a, n, axis, norm)[_along(axis % a.ndim, slice(n // 2 + 1))]


@composed(np.fft.irfft)
def irfft(a, n=None, axis=-1, norm=None):
    """The inverse of rfft, n real numbers."""
    n = 2 * (a.shape[axis] - 1) if n is None else n
    k = np.arange(n // 2 + 1)
    twice = np.where((k == 0) | (2 * k == n), 1, 2).reshape([-1 if i == axis % a.ndim else 1 for i in range(a.ndim)])
    return ops.real(ifft(_of_length(a, n // 2 + 1, axis) * twice.astype(ops.real(_constant(a)).dtype), n, axis, norm))


@composed(np.fft.hfft)
def hfft(a, n=None, axis=-1, norm=None):
    """n real frequencies of a signal whose other half is the conjugate of a."""
    n = 2 * (a.shape[axis] - 1) if n is None else n
    other = {"forward": "backward", "ortho": "ortho"}.get(norm, "forward")
    return irfft(ops.conj(a), n, axis, other)


@composed(np.fft.ihfft)
def ihfft(a, n=None, axis=-1, norm=None):
    """The inverse of hfft."""
    other = {"forward": "backward", "ortho": "ortho"}.get(norm, "forward")
    return ops.conj(rfft(a, n, axis, other))


def _over_axes(one, default=None, last=None):
    """A transform over several axes: `last` along the last of them, `one` along the others; a real inverse ends with it."""
    def transform(a, s=None, axes=default, norm=None):
        axes = range(-(a.ndim if s is None else len(s)), 0) if axes is None else axes
        lengths = [None] * len(axes) if s is None else list(s)
        steps = [(one, axis, n) for axis, n in zip(axes, lengths, strict=True)]
        if last:
            steps[-1] = (last, *steps[-1][1:])
            steps = steps if last is irfft else steps[::-1]
        for step, axis, n in steps:
            a = step(a, n, axis, norm)
        return a
    return transform


for _name, _one, _last in (("fft", fft, None), ("ifft", ifft, None), ("rfft", fft, rfft), ("irfft", ifft, irfft)):
    for _suffix, _axes in (("2", (-2, -1)), ("n", None)):
        composed(getattr(np.fft, _name + _suffix))(_over_axes(_one, _axes, _last))


def _shift(x, axes, half):
    axes = tuple(range(x.ndim)) if axes is None else (axes,) if np.ndim(axes) == 0 else tuple(axes)
    return ops.roll(x, tuple(half(x.shape[a]) for a in axes), axes)


fftshift = composed(np.fft.fftshift)(lambda x, axes=None: _shift(x, axes, lambda n: n // 2))
ifftshift = composed(np.fft.ifftshift)(lambda x, axes=None: _shift(x, axes, lambda n: -(n // 2)))


# ---------------------------------------------------------------- no derivative: what to write instead

refused("eigenvalues of a general matrix may be complex; use numpy.linalg.eigh or eigvalsh of a symmetric one",
        np.linalg.eig, np.linalg.eigvals, np.roots, np.poly)
refused("an array of a derivative cannot be changed in place; build the result with np.where, np.concatenate, np.stack or "
        "npgen.ops.scatter", np.put, np.place, np.putmask, np.copyto, np.put_along_axis, np.fill_diagonal)
refused("select the entries first, x[~np.isnan(x)], and use the function without nan", np.nanmedian, np.nanquantile,
        np.nanpercentile)
refused("write it with np.where, or np.select for several conditions", np.piecewise)
refused("write it for the whole array with NumPy functions", np.apply_along_axis, np.apply_over_axes)
refused("the counts do not move with x; take x.value for constants, or a smooth kernel such as np.exp", np.histogram,
        np.histogram2d, np.histogramdd, np.histogram_bin_edges)
refused("which entries are equal does not move with x; sort with np.sort, or take x.value for constants", np.unique,
        np.unique_all, np.unique_counts, np.unique_inverse, np.unique_values, np.intersect1d, np.union1d, np.setdiff1d,
        np.setxor1d, np.trim_zeros)
refused("use npgen.ops.matmul and np.linalg.lstsq, or np.linalg.solve of np.vander", np.polyfit)
refused("reshape the operands and use np.linalg.solve or np.linalg.inv", np.linalg.tensorsolve, np.linalg.tensorinv)
refused("take x.value, which is a constant", np.save, np.savez, np.savez_compressed, np.savetxt, np.array2string, np.array_repr,
        np.array_str)
