"""Every differentiable op, one statement each: the forward function, then the derivative by each argument.

A rule reads `lambda ans, x, y: lambda g: ...`: ans is the answer, g its cotangent. `like(ans, x, f)` is the
pullback f summed back to x's shape, the transpose of broadcasting. Rules are written in ops, so that a gradient can be
differentiated again; on plain arrays every op is its NumPy function, with nothing recorded. All of this runs unchanged
on CuPy arrays: NumPy's functions dispatch on the type of the array, and so do the kernels.

To add an op:  cube = op(my_cube, lambda ans, x: lambda g: g * 3 * x**2)
Given a NumPy function, op() also makes that function work on Tensors.

Legend: n rows, d columns; i, j, k matrix indices. References for the matrix rules: Giles, Collected matrix derivative
results for forward and reverse mode AD (2008); Murray, Differentiation of the Cholesky decomposition (2016).
"""
import builtins
import functools
import inspect
import math
import string
from functools import partial

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from .engine import OVERRIDES, NoRuleError, Primitive, Selected
from .kernels import _blas
from .kernels import logsumexp as _logsumexp_kernel
from .kernels import masked_matmul as _matmul_kernel
from .kernels import reparameterize as _reparameterize_kernel
from .kernels._cuda import constant_like, is_device_array
from .kernels._cuda import special as device_special
from .masks import Plan
from .tensor import value_of


def op(forward, *rules, each=None, partly=None, name=None):
    """A differentiable op: forward(*arrays, **params), and one rule per argument (see npgen.engine.Primitive).

    partly: by_entries for an elementwise op, as every ufunc is; by_places for one that moves and adds up entries; None else.
    """
    partly = by_entries if isinstance(forward, np.ufunc) and forward.signature is None else partly
    primitive = Primitive(forward, *rules, each=each, partly=partly, name=name)
    if _is_numpy(forward):
        OVERRIDES[forward] = primitive
    return primitive


def composed(*numpy_functions):
    """Declare that the decorated function, written in ops, is what these NumPy functions do to Tensors."""
    def register(function):
        @functools.wraps(function)
        def on_tensors(*args, **params):
            try:
                return function(*args, **params)
            except TypeError as error:
                try:
                    inspect.signature(function).bind(*args, **params)
                except TypeError:
                    raise NoRuleError(f"{numpy_functions[0].__name__}: its derivative rule does not take these arguments "
                                      f"({error})") from error
                raise

        OVERRIDES.update(dict.fromkeys(numpy_functions, on_tensors))
        return function
    return register


def refused(instead, *numpy_functions):
    """Declare that these NumPy functions cannot have a derivative, and what to write instead."""
    def refusal(function):
        def refuse(*args, **params):
            raise NoRuleError(f"{function.__module__}.{function.__name__} has no derivative: {instead}")
        return refuse

    OVERRIDES.update({function: refusal(function) for function in numpy_functions})


def _is_numpy(function):
    return isinstance(function, np.ufunc) or (getattr(function, "__module__", None) or "").partition(".")[0] == "numpy"


def like(ans, x, f=lambda g: g):
    """The pullback f of an elementwise op, its result summed over the axes along which x was broadcast."""
    return f if ans.shape == x.shape else summed(x, f)


def summed(x, f):
    """The pullback f, its result summed to x's shape."""
    return partial(_sum_to, x.shape, f)


def _sum_to(shape, f, g):
    g = f(g)
    if type(g) is Selected:
        return Selected(*(_sum_to(shape, lambda g: g, part) for part in (g.value, g.used)))
    return g if g.shape == shape else _unbroadcast(g, shape) if g.dtype != bool else np.greater(_unbroadcast(g, shape), 0)


def _unbroadcast(g, shape):
    extra = np.ndim(g) - len(shape)
    stretched = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 != g.shape[extra + i])
    return reshape(sum(g, axis=stretched), shape)


def selected(g, used):
    """The cotangent g where a condition holds, zero beyond because nothing else was used; see npgen.engine.Selected."""
    return Selected(where(used, g, 0), used if np.shape(used) == g.shape else np.zeros_like(g, dtype=bool) | used)


def by_entries(pullback, g, used):
    """What the pullback of an elementwise op makes of a Selected g: zero beyond what was used, whatever is there."""
    shape, f = pullback.args if getattr(pullback, "func", None) is _sum_to else (used.shape, pullback)
    with np.errstate(all="ignore"):
        g = f(g)
        g, used = (g.value, used & g.used) if type(g) is Selected else (g, used)
        clean = type(g) is np.ndarray and not np.isnan(np.sum(g))  # zero times what is finite is zero
    return _sum_to(shape, (lambda g: Selected(g, used)) if clean else partial(selected, used=used), g)


def by_places(pullback, g, used):
    """What the pullback of an op that moves and adds up entries makes of a Selected g: it takes the mask along."""
    g, mask = pullback(g), pullback(used.astype(g.dtype))
    g, mask = (part.value if type(part) is Selected else part for part in (g, mask))
    return Selected(g, np.greater(mask, 0))


# ---------------------------------------------------------------- constants: results that carry no derivative

for _f in (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal, np.isnan, np.isfinite,
           np.isinf, np.sign, np.signbit, np.floor, np.ceil, np.rint, np.trunc, np.round, np.floor_divide, np.argmax,
           np.argmin, np.argsort, np.searchsorted, np.all, np.any, np.logical_and, np.logical_or, np.logical_not,
           np.nonzero, np.argwhere, np.flatnonzero, np.count_nonzero, np.isclose, np.allclose, np.array_equal,
           np.zeros_like, np.ones_like, np.empty_like, np.shape, np.ndim, np.size, np.result_type):
    op(_f)

stop_gradient = op(lambda x: x, name="stop_gradient")  # its value, as a constant


# ---------------------------------------------------------------- elementwise

add = op(np.add, lambda ans, x, y: like(ans, x), lambda ans, x, y: like(ans, y))
subtract = op(np.subtract, lambda ans, x, y: like(ans, x), lambda ans, x, y: like(ans, y, lambda g: -g))
multiply = op(np.multiply, lambda ans, x, y: like(ans, x, lambda g: g * y), lambda ans, x, y: like(ans, y, lambda g: g * x))
divide = op(np.true_divide, lambda ans, x, y: like(ans, x, lambda g: g / y),
            lambda ans, x, y: like(ans, y, lambda g: -g * ans / y))
power = op(np.power,
           lambda ans, x, y: like(ans, x, lambda g: g * y * power(_unless(np.equal(x, 0) & np.equal(y, 0), x, g), y - 1)),
           lambda ans, x, y: like(ans, y, lambda g: g * ans * log(_unless(np.equal(x, 0), x, g))))
remainder = op(np.remainder, lambda ans, x, y: like(ans, x),
               lambda ans, x, y: like(ans, y, lambda g: -g * np.floor_divide(x, y)))
positive = op(np.positive, lambda ans, x: lambda g: g)
copy = op(np.copy, lambda ans, x: lambda g: g, partly=by_entries)
negative = op(np.negative, lambda ans, x: lambda g: -g)
reciprocal = op(np.reciprocal, lambda ans, x: lambda g: -g * ans * ans)
absolute = op(np.absolute, lambda ans, x: (lambda g: real(g) * ratio(conj(x), ans)) if x.dtype.kind == "c" else
              lambda g: g * np.sign(x))
square = op(np.square, lambda ans, x: lambda g: 2 * g * x)
sqrt = op(np.sqrt, lambda ans, x: lambda g: g / (2 * ans))
cbrt = op(np.cbrt, lambda ans, x: lambda g: g / (3 * ans * ans))
hypot = op(np.hypot, lambda ans, x, y: like(ans, x, lambda g: g * ratio(x, ans)),
           lambda ans, x, y: like(ans, y, lambda g: g * ratio(y, ans)))
exp = op(np.exp, lambda ans, x: lambda g: g * ans)
expm1 = op(np.expm1, lambda ans, x: lambda g: g * (ans + 1))
exp2 = op(np.exp2, lambda ans, x: lambda g: g * ans * math.log(2))
log = op(np.log, lambda ans, x: lambda g: g / x)
log1p = op(np.log1p, lambda ans, x: lambda g: g / (x + 1))
log2 = op(np.log2, lambda ans, x: lambda g: g / (x * math.log(2)))
log10 = op(np.log10, lambda ans, x: lambda g: g / (x * math.log(10)))
sin = op(np.sin, lambda ans, x: lambda g: g * cos(x))
cos = op(np.cos, lambda ans, x: lambda g: -g * sin(x))
tan = op(np.tan, lambda ans, x: lambda g: g * (1 + ans * ans))
arcsin = op(np.arcsin, lambda ans, x: lambda g: g / sqrt(1 - x * x))
arccos = op(np.arccos, lambda ans, x: lambda g: -g / sqrt(1 - x * x))
arctan = op(np.arctan, lambda ans, x: lambda g: g / (1 + x * x))
arctan2 = op(np.arctan2, lambda ans, y, x: like(ans, y, lambda g: g * ratio(x, hypot(x, y)) / hypot(x, y)),
             lambda ans, y, x: like(ans, x, lambda g: -g * ratio(y, hypot(x, y)) / hypot(x, y)))
sinh = op(np.sinh, lambda ans, x: lambda g: g * cosh(x))
cosh = op(np.cosh, lambda ans, x: lambda g: g * sinh(x))
tanh = op(np.tanh, lambda ans, x: lambda g: g * (1 - ans * ans))
arcsinh = op(np.arcsinh, lambda ans, x: lambda g: g / sqrt(x * x + 1))
arccosh = op(np.arccosh, lambda ans, x: lambda g: g / sqrt(x * x - 1))
arctanh = op(np.arctanh, lambda ans, x: lambda g: g / (1 - x * x))
logaddexp = op(np.logaddexp, lambda ans, x, y: like(ans, x, lambda g: g * sigmoid(_apart(x, y))),
               lambda ans, x, y: like(ans, y, lambda g: g * sigmoid(_apart(y, x))))
maximum = op(np.maximum, lambda ans, x, y: like(ans, x, lambda g: _split_ties(x, y, np.greater, g)),  # ties share equally
             lambda ans, x, y: like(ans, y, lambda g: _split_ties(y, x, np.greater, g)))
minimum = op(np.minimum, lambda ans, x, y: like(ans, x, lambda g: _split_ties(x, y, np.less, g)),
             lambda ans, x, y: like(ans, y, lambda g: _split_ties(y, x, np.less, g)))
where = op(np.where, None, lambda ans, c, x, y: like(ans, x, lambda g: selected(g, np.logical_and(c, True))),
           lambda ans, c, x, y: like(ans, y, lambda g: selected(g, np.logical_not(c))), partly=by_entries)


# x / r for |x| <= r: 0 / 0 is 0, the smallest slope of a norm at its kink. The slope's own derivative is infinite there.
ratio = op(lambda x, r: x / (r + (r == 0)), lambda ans, x, r: like(ans, x, lambda g: g / r),
           lambda ans, x, r: like(ans, r, lambda g: -g * ans / r), partly=by_entries, name="ratio")


def _apart(x, y):
    """x - y, but 0 between equal infinities."""
    same = np.equal(x, y) & np.isinf(x)
    return where(same, 0, x) - where(same, 0, y) if np.any(same) else x - y


def _unless(condition, x, g):
    """x, but 1 where the condition holds; of g's dtype where x is a Python number."""
    one = np.ones_like(g, shape=(1,) * np.ndim(g))
    return where(condition if np.ndim(condition) else np.equal(one, condition), one, x)  # CuPy's is no number


def _split_ties(x, y, wins, g):
    won, tied = wins(x, y), np.equal(x, y)
    return Selected(g * (won.astype(g.dtype) + tied.astype(g.dtype) / 2), won | tied)


# Complex numbers on the way from real ones to real ones: the cotangent g of z is that of dL = Re(g dz).
real = op(np.real, lambda ans, x: lambda g: real(g) if g.dtype.kind == "c" else g, partly=by_entries)
imag = op(np.imag, lambda ans, x: lambda g: -1j * real(g) if x.dtype.kind == "c" else 0 * g, partly=by_entries)
conj = op(np.conj, lambda ans, x: conj)
OVERRIDES["real"] = real
relu = op(lambda x: np.maximum(x, 0), lambda ans, x: lambda g: selected(g, ans > 0), partly=by_entries, name="relu")
sigmoid = op(lambda x: np.exp(-np.maximum(-x, 0)) / (1 + np.exp(-abs(x))),  # 1 / (1 + e^-x), precise on both sides
             lambda ans, x: lambda g: g * ans * (1 - ans), partly=by_entries, name="sigmoid")
softplus = op(lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), lambda ans, x: lambda g: g * sigmoid(x),
              partly=by_entries, name="softplus")
bounded = op(lambda x, limit: limit * np.tanh(x / limit),  # x where it is small, never beyond +-limit
             lambda ans, x, limit: lambda g: g * (1 - square(ans / limit)), partly=by_entries, name="bounded")
_polygamma = op(lambda x, n: ((-1) ** (n + 1) * math.factorial(n)  # CuPy's takes no n that is a number
                              * _special(x).zeta(n + 1.0, x.astype(np.float64))).astype(x.dtype),
                lambda ans, x, n: lambda g: g * _polygamma(x, n + 1), partly=by_entries, name="polygamma")
digamma = op(lambda x: _special(x).psi(x), lambda ans, x: lambda g: g * _polygamma(x, 1), partly=by_entries, name="digamma")
gammaln = op(lambda x: _special(x).gammaln(x), lambda ans, x: lambda g: g * digamma(x), partly=by_entries, name="gammaln")
erf = op(lambda x: _special(x).erf(x), lambda ans, x: lambda g: g * exp(-x * x) * (2 / math.sqrt(math.pi)), partly=by_entries,
         name="erf")
normal_log_mass = op(lambda low, high: _log_mass(low, high),
                     lambda ans, low, high: like(ans, low, lambda g: -g * exp(-low * low / 2 - ans) / math.sqrt(2 * math.pi)),
                     lambda ans, low, high: like(ans, high, lambda g: g * exp(-high * high / 2 - ans) / math.sqrt(2 * math.pi)),
                     partly=by_entries, name="normal_log_mass")  # log P(low < z < high) of a standard normal z
OVERRIDES.update({"psi": digamma, "gammaln": gammaln, "erf": erf, "expit": sigmoid})  # SciPy's ufuncs, by name
astype = op(lambda x, dtype: x.astype(dtype), lambda ans, x, dtype: partial(_cast_back, dtype=x.dtype), partly=by_entries,
            name="astype")
OVERRIDES["astype"] = astype


def as_real(g, dtype):
    """The cotangent of an array of this dtype: its real part if that is real."""
    return real(g) if g.dtype.kind == "c" != dtype.kind else g


def _cast_back(g, dtype):
    return astype(as_real(g, dtype), dtype=dtype)


def _log_mass(low, high):
    """log(Phi(high) - Phi(low)), as precise in either tail as in the middle, for low < high; infinite ones may be 1e100."""
    special, turned = _special(low), low + high > 0
    low, high = np.where(turned, -high, low), np.where(turned, -low, high)  # the side on which Phi is small, and precise
    numbers = np.finfo(low.dtype)
    far, tiny = -math.sqrt(float(numbers.max)) / 2, float(numbers.tiny)
    low, below = np.maximum(low, far), np.maximum(np.minimum(high, 0), far)  # whose squares are numbers
    upper = special.log_ndtr(below)
    aside = upper + np.log(np.maximum(-np.expm1(special.log_ndtr(low) - upper), tiny))
    across = np.log(np.maximum(special.erf(high / math.sqrt(2)) - special.erf(low / math.sqrt(2)), tiny) / 2)
    return np.where(high > 0, across, aside)


def _special(x):
    if is_device_array(x):
        return device_special()
    _blas.load()  # before what imports scipy.linalg, so that it is npgen that chooses its kernels
    import scipy.special
    return scipy.special


@composed(np.clip)
def clip(x, a_min=None, a_max=None, *, min=None, max=None):
    """x limited to [a_min, a_max]; the gradient at a bound is shared between x and the bound."""
    a_min, a_max = min if a_min is None else a_min, max if a_max is None else a_max
    x = x if a_min is None else maximum(x, a_min)
    return x if a_max is None else minimum(x, a_max)


# ---------------------------------------------------------------- reductions

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


# ---------------------------------------------------------------- shape and indexing

def _restore(ans, x, axis=None):
    shape = x.shape
    return lambda g: reshape(g, shape)  # by position: NumPy and CuPy have other names for it


places = partial(op, partly=by_places)
reshape = places(np.reshape, lambda ans, x, shape: _restore(ans, x))
ravel = places(np.ravel, lambda ans, x: _restore(ans, x))
expand_dims = places(np.expand_dims, _restore)
squeeze = places(np.squeeze, _restore)
broadcast_to = places(np.broadcast_to, lambda ans, x, shape: like(ans, x))
transpose = places(np.transpose, lambda ans, x, axes=None:
                   partial(transpose, axes=axes and tuple(np.argsort([a % x.ndim for a in axes]))))
swapaxes = places(np.swapaxes, lambda ans, x, i, j: lambda g: swapaxes(g, i, j))
moveaxis = places(np.moveaxis, lambda ans, x, source, destination: lambda g: moveaxis(g, destination, source))
flip = places(np.flip, lambda ans, x, axis=None: lambda g: flip(g, axis))
roll = places(np.roll, lambda ans, x, shift, axis=None:
              lambda g: roll(g, tuple(-n for n in shift) if np.ndim(shift) else -shift, axis))
tril = places(np.tril, lambda ans, x, k=0: lambda g: tril(g, k))
triu = places(np.triu, lambda ans, x, k=0: lambda g: triu(g, k))
getitem = places(lambda x, index: x[index], lambda ans, x, index: partial(_select, index=index, shape=x.shape), name="getitem")
OVERRIDES["getitem"] = getitem


def _select(g, index, shape):
    return Selected(scatter(g, index, shape), partial(_mask, g, index, shape))


def _mask(g, index, shape):
    used = np.zeros_like(g, dtype=bool, shape=shape)
    used[index] = np.ones_like(g, dtype=bool)  # CuPy sends a number that is put to chosen places
    return used


def _scatter(x, index, shape):
    out = np.zeros_like(x, shape=shape or (1,)).reshape(shape)  # of no shape, (), CuPy makes one like x
    index = index if isinstance(index, tuple) else (index,)
    if any(np.ndim(i) and getattr(i, "dtype", np.dtype(int)).kind in "iu" for i in index):
        np.add.at(out, index, x)  # an index may occur more than once
    else:
        out[index] = x
    return out


scatter = places(_scatter, lambda ans, x, index, shape: lambda g: getitem(g, index), name="scatter")  # getitem's transpose


def _concatenate_rule(i, ans, *xs, axis=0):
    start, length = builtins.sum(np.shape(x)[axis] for x in xs[:i]), xs[i].shape[axis]
    index = (slice(None),) * (axis % np.ndim(ans)) + (slice(start, start + length),)
    return lambda g: getitem(g, index)


def _joined(*xs, axis=0):
    """np.concatenate(xs, axis); of more than eight CuPy sends the addresses to the device, so there eight at a time."""
    while len(xs) > 8 and is_device_array(xs[0]):
        xs = [np.concatenate(xs[i:i + 8], axis=axis) for i in range(0, len(xs), 8)]
    return np.concatenate(xs, axis=axis)


_concatenate = places(_joined, each=_concatenate_rule, name="concatenate")


@composed(np.concatenate)
def concatenate(xs, axis=0):
    """The arrays one after another along an axis that exists (of the flattened arrays if axis is None)."""
    return _concatenate(*xs, axis=axis) if axis is not None else _concatenate(*map(ravel, xs))


@composed(np.stack)
def stack(xs, axis=0):
    """The arrays one after another along a new axis."""
    return _concatenate(*(expand_dims(x, axis) for x in xs), axis=axis)


def _split_rule(tracked, ans, x, cuts, axis):
    return lambda g, out: [concatenate([g[k] if k in g else np.zeros_like(piece) for k, piece in enumerate(ans)], axis=axis)]


def _pieces(x, cuts, axis):
    before = (slice(None),) * (axis % x.ndim)
    return tuple([x[(*before, slice(a, b))] for a, b in zip((0, *cuts), (*cuts, x.shape[axis]), strict=True)])


_split = Primitive(_pieces, joint=_split_rule, name="split")


@composed(np.split)
def split(x, indices_or_sections, axis=0):
    """The pieces of x along an axis: equal ones, or cut before the given indices."""
    n, cuts = x.shape[axis], indices_or_sections
    if isinstance(cuts, int):
        if n % cuts:
            raise ValueError(f"split: an axis of length {n} cannot be cut into {cuts} equal pieces; give the indices")
        cuts = range(n // cuts, n, n // cuts)
    return list(_split(x, tuple(cuts), axis))


@composed(np.take)
def take(x, indices, axis=None):
    """x[indices] along an axis (of the flattened x if there is none)."""
    return ravel(x)[indices] if axis is None else x[(slice(None),) * (axis % x.ndim) + (indices,)]


@composed(np.take_along_axis)
def take_along_axis(x, indices, axis=-1):
    """x at indices along an axis, at the same place along the others."""
    grid = [np.arange(n).reshape((-1,) + (1,) * (x.ndim - 1 - i)) for i, n in enumerate(x.shape)]
    grid[axis] = indices
    return x[tuple(grid)]


@composed(np.sort)
def sort(x, axis=-1):
    """The entries in rising order along an axis (of the flattened x if there is none)."""
    return sort(ravel(x)) if axis is None else take_along_axis(x, np.argsort(x, axis), axis)


@composed(np.repeat)
def repeat(x, repeats, axis=None):
    """Every entry repeated along an axis (of the flattened x if there is none)."""
    return repeat(ravel(x), repeats, 0) if axis is None else take(x, np.repeat(np.arange(x.shape[axis]), repeats), axis)


@composed(np.tile)
def tile(x, reps):
    """x repeated as a whole along the last axes, reps times each."""
    reps = (reps,) if np.ndim(reps) == 0 else tuple(reps)
    x = reshape(x, (1,) * (len(reps) - np.ndim(x)) + np.shape(x))
    for axis, n in enumerate(reps, np.ndim(x) - len(reps)):
        x = concatenate([x] * n, axis) if n else take(x, np.arange(0), axis)
    return x


@composed(np.pad)
def pad(x, pad_width, mode="constant", constant_values=0):
    """x with values put before and after it along every axis: pad_width entries, a pair, or a pair each.

    mode "constant" puts one value there; "edge", "reflect", "symmetric" and "wrap" put x's own.
    """
    widths = np.broadcast_to(pad_width, (np.ndim(x), 2)).tolist()
    if mode in ("edge", "reflect", "symmetric", "wrap"):
        for axis, width in enumerate(widths):
            x = take(x, np.pad(np.arange(x.shape[axis]), width, mode), axis)
        return x
    if mode != "constant":
        raise NoRuleError("numpy.pad: a derivative exists for the modes 'constant', 'edge', 'reflect', 'symmetric' and 'wrap', "
                          f"got {mode!r}")
    inside = tuple(slice(before, before + n) for (before, _), n in zip(widths, np.shape(x), strict=True))
    shape = tuple(before + n + after for (before, after), n in zip(widths, np.shape(x), strict=True))
    return scatter(x - constant_values, inside, shape) + constant_values


@composed(np.diff)
def diff(x, n=1, axis=-1, prepend=None, append=None):
    """The n-th differences of neighbours along an axis."""
    if prepend is not None or append is not None:
        ends = [broadcast_to(end, [1 if i == axis % x.ndim else m for i, m in enumerate(x.shape)]) if np.ndim(end) == 0 else end
                for end in (prepend, append) if end is not None]
        x = concatenate([*([] if prepend is None else ends[:1]), x, *([] if append is None else ends[-1:])], axis)
    ahead, behind = ((slice(None),) * (axis % x.ndim) + (s,) for s in (slice(1, None), slice(None, -1)))
    return x if n == 0 else diff(x[ahead] - x[behind], n - 1, axis)


@composed(np.full_like)
def full_like(x, fill_value, *, shape=None):
    """An array like x, of one value."""
    return np.zeros_like(x, shape=shape) + fill_value


@composed(np.hstack)
def hstack(xs):
    """The arrays side by side: along the second axis, vectors along their only one."""
    return concatenate(xs, axis=builtins.min(np.ndim(xs[0]) - 1, 1))


@composed(np.vstack)
def vstack(xs):
    """The arrays one above the other; a vector is a row."""
    return concatenate([reshape(x, (1, -1)) if np.ndim(x) < 2 else x for x in xs])


@composed(np.column_stack)
def column_stack(xs):
    """The arrays side by side; a vector is a column."""
    return concatenate([reshape(x, (-1, 1)) if np.ndim(x) < 2 else x for x in xs], axis=1)


@composed(np.diagonal)
def diagonal(x, offset=0, axis1=0, axis2=1):
    """The entries x[i, i + offset] of two axes, as a new last axis."""
    i, j = builtins.max(-offset, 0), builtins.max(offset, 0)
    k = np.arange(builtins.min(x.shape[axis1] - i, x.shape[axis2] - j))
    rows, columns = (constant_like(index, value_of(x)) for index in (k + i, k + j))
    return moveaxis(x, (axis1, axis2), (-2, -1))[..., rows, columns]


@composed(np.diag)
def diag(x, k=0):
    """The k-th diagonal of a matrix, or the matrix with a vector on its k-th diagonal."""
    i = np.arange(x.shape[0])
    index, side = (i + builtins.max(-k, 0), i + builtins.max(k, 0)), len(i) + abs(k)
    return diagonal(x, k) if x.ndim == 2 else scatter(x, index, (side, side))


@composed(np.trace)
def trace(x, offset=0, axis1=0, axis2=1):
    """The sum of the diagonal."""
    return sum(diagonal(x, offset, axis1, axis2), axis=-1)


# ---------------------------------------------------------------- products

def _t(x):
    return swapaxes(x, -1, -2)


def _product(x, y):
    """np.matmul(x, y); of two matrices on a device by our own kernel, or cuBLAS, which a stream can capture."""
    if not is_device_array(x) or not is_device_array(y) or x.ndim != 2 or y.ndim != 2 or x.dtype != y.dtype or (
            x.dtype.char not in "fd" or x.shape[1] != len(y)):
        return np.matmul(x, y)
    plan, none = Plan.dense(*y.shape), np.zeros_like(y, shape=(y.shape[1],))
    return _matmul_kernel.forward(*_c(x, y), none, plan.mask_as(x.dtype, x), plan.blocks)


_matmul = op(_product, lambda ans, x, y: summed(x, lambda g: matmul(g, _t(y))),
             lambda ans, x, y: summed(y, lambda g: matmul(_t(x), g)), name="matmul")


@composed(np.matmul)
def matmul(x, y):
    """x @ y over the last two axes, the others broadcast; a vector is a row on the left, a column on the right."""
    if builtins.min(np.ndim(x), np.ndim(y)) == 0:
        raise ValueError(f"matmul: shapes {np.shape(x)} and {np.shape(y)} do not fit: a scalar; use *")
    if np.ndim(y) == 1:
        return squeeze(matmul(x, expand_dims(y, 1)), -1)
    if np.ndim(x) == 1:
        return squeeze(_matmul(expand_dims(x, 0), y), -2)
    return _matmul(x, y)


@composed(np.dot)
def dot(x, y):
    """The dot product of vectors, the matrix product of matrices."""
    if builtins.min(np.ndim(x), np.ndim(y)) == 0:
        return multiply(x, y)
    if np.ndim(y) > 2:
        raise NoRuleError(f"numpy.dot: a derivative exists for at most 2 axes on the right, got {np.ndim(y)}; use matmul")
    return matmul(x, y)


@composed(np.outer)
def outer(x, y):
    """x[i] y[j] of the flattened arrays."""
    return reshape(x, (-1, 1)) * reshape(y, (1, -1))


@composed(np.tensordot)
def tensordot(x, y, axes=2):
    """Sums of products over pairs of axes: the last ones of x and the first ones of y, or axes=(of x, of y)."""
    if isinstance(axes, int):
        axes = range(np.ndim(x) - axes, np.ndim(x)), range(axes)
    of_x, of_y = normalize_axis_tuple(axes[0], np.ndim(x)), normalize_axis_tuple(axes[1], np.ndim(y))
    x, y, n = moveaxis(x, of_x, range(-len(of_x), 0)), moveaxis(y, of_y, range(len(of_y))), len(of_x)
    rows, inner, columns = x.shape[:x.ndim - n], y.shape[:n], y.shape[n:]
    product = matmul(reshape(x, (math.prod(rows), math.prod(inner))), reshape(y, (math.prod(inner), math.prod(columns))))
    return reshape(product, rows + columns)


@composed(np.inner)
def inner(x, y):
    """The sum of products over the last axes."""
    return tensordot(x, y, axes=(-1, -1)) if np.ndim(x) and np.ndim(y) else multiply(x, y)


def _einsum_rule(i, ans, *operands, subscripts):
    terms, out = subscripts.split("->")
    terms, shape = terms.split(","), np.shape(operands[i])
    others = [(t, x) for j, (t, x) in enumerate(zip(terms, operands, strict=True)) if j != i]
    known = set(out).union(*(t for t, _ in others))
    kept = "".join(c for c in terms[i] if c in known)  # an index summed here alone is repeated in the gradient
    ones = tuple(n if c in known else 1 for c, n in zip(terms[i], shape, strict=True))
    reverse = ",".join([out] + [t for t, _ in others]) + "->" + kept
    return lambda g: broadcast_to(reshape(_einsum(g, *(x for _, x in others), subscripts=reverse), ones), shape)


_einsum = op(lambda *operands, subscripts: np.einsum(subscripts, *operands), each=_einsum_rule, name="einsum")


def _spelled_out(subscripts, operands):
    """The terms and the output of an einsum, with letters for ellipses and, where there is no arrow, the output."""
    inputs, arrow, out = subscripts.replace(" ", "").partition("->")
    terms, spare = inputs.split(","), [c for c in string.ascii_letters if c not in subscripts]
    if len(terms) != len(operands):
        raise ValueError(f"einsum: {subscripts!r} names {len(terms)} operands, but there are {len(operands)}")
    hidden = [np.ndim(x) - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, operands, strict=True)]
    dots = spare[:builtins.max(hidden)]
    terms = [t.replace("...", "".join(dots[len(dots) - n:])) for t, n in zip(terms, hidden, strict=True)]
    if not arrow:
        letters = "".join(terms)
        out = "".join(dots) + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    return terms, out.replace("...", "".join(dots))


@composed(np.einsum)
def einsum(subscripts, *operands, optimize=False):
    """Sums of products by index, "ij,jk->ik": also without the arrow, with an ellipsis, with an index twice in an operand."""
    if not isinstance(subscripts, str):
        raise NoRuleError("numpy.einsum: a derivative exists for subscripts in a string, such as 'ij,jk->ik'")
    terms, out = _spelled_out(subscripts, operands)
    terms, operands = list(terms), list(operands)
    for k, term in enumerate(terms):
        for c in dict.fromkeys(term):
            while term.count(c) > 1:  # the diagonal has one axis for two, the last
                i = term.index(c)
                j = term.index(c, i + 1)
                operands[k] = diagonal(operands[k], axis1=i, axis2=j)
                term = term[:i] + term[i + 1:j] + term[j + 1:] + c
        terms[k] = term
    sizes = {}
    for term, x in zip(terms, operands, strict=True):
        for c, n in zip(term, np.shape(x), strict=True):
            sizes[c] = builtins.max(sizes.get(c, 1), n)
    for k, (term, x) in enumerate(zip(terms, operands, strict=True)):  # an axis of length 1 that is broadcast is no axis
        kept = [i for i, c in enumerate(term) if np.shape(x)[i] == sizes[c]]
        terms[k] = "".join(term[i] for i in kept)
        operands[k] = reshape(x, [np.shape(x)[i] for i in kept]) if len(kept) < len(term) else x
    return _einsum(*operands, subscripts=",".join(terms) + "->" + out)


# ---------------------------------------------------------------- linear algebra, on the last two axes

def _triangular(a, b, *, lower, transpose):
    if is_device_array(b):
        a = np.tril(a) if lower else np.triu(a)
        return np.linalg.solve(_t(a) if transpose else a, b)
    _blas.load()
    from scipy.linalg import solve_triangular
    return solve_triangular(a, b, lower=lower, trans=int(transpose), check_finite=False)


def _triangular_rule_a(ans, a, b, *, lower, transpose):
    def pullback(g):
        s = _solve_triangular(a, g, lower=lower, transpose=not transpose)
        return _triangular_part(-matmul(ans, _t(s)) if transpose else -matmul(s, _t(ans)), lower)
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
        p = matmul(_t(ans), g)
        p = (tril(p) + tril(p, -1)) / 2
        s = solve_triangular(ans, _t(solve_triangular(ans, _t(p), transpose=True)), transpose=True)
        return (s + _t(s)) / 2
    return pullback


cholesky = op(np.linalg.cholesky, _cholesky_rule)
inv = op(np.linalg.inv, lambda ans, a: lambda g: -matmul(matmul(_t(ans), g), _t(ans)))
logdet = op(lambda a: np.linalg.slogdet(a)[1], lambda ans, a: lambda g: expand_dims(g, (-2, -1)) * _t(inv(a)),
            name="logdet")
_solve = op(np.linalg.solve, lambda ans, a, b: summed(a, lambda g: -matmul(_solve(_t(a), g), _t(ans))),
            lambda ans, a, b: summed(b, lambda g: _solve(_t(a), g)))


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


# ---------------------------------------------------------------- kernels

def _c(*arrays):
    return [a if a.flags.c_contiguous else a.copy() for a in arrays]


# y = x W + b with W = mask * weight; its two products are one another's transposes, so the three rules close.
_product = op(lambda x, w, b, plan: _matmul_kernel.forward(*_c(x, w, b), plan.mask_as(x.dtype, x), plan.blocks),
              lambda ans, x, w, b, plan: lambda g: _product_dx(g, w, plan),
              lambda ans, x, w, b, plan: lambda g: _product_dw(x, g, plan),
              lambda ans, x, w, b, plan: lambda g: sum(g, axis=0), name="masked_matmul")
_product_dx = op(lambda g, w, plan: _matmul_kernel.backward_x(*_c(g, w), plan.mask_as(g.dtype, g), plan.blocks),
                 lambda ans, g, w, plan: lambda h: _product(h, w, np.zeros_like(g, shape=g.shape[1:]), plan),
                 lambda ans, g, w, plan: lambda h: _product_dw(h, g, plan), name="masked_matmul.backward_x")
_product_dw = op(lambda x, g, plan: _matmul_kernel.backward_weight(*_c(x, g), plan.mask_as(x.dtype, x), plan.blocks),
                 lambda ans, x, g, plan: lambda h: _product_dx(g, h, plan),
                 lambda ans, x, g, plan: lambda h: _product(x, h, np.zeros_like(g, shape=g.shape[1:]), plan),
                 name="masked_matmul.backward_weight")


def masked_matmul(x, weight, bias, plan):
    """y = x (mask * weight) + bias, skipping the blocks that the mask empties.

    x (n, i), weight (i, j), bias (j,), plan: a npgen.masks.Plan of a mask (i, j). Raises ValueError if they do not fit.
    """
    shapes = np.shape(x), np.shape(weight), np.shape(bias)
    if len(shapes[0]) != 2 or shapes != ((shapes[0][0], plan.shape[0]), plan.shape, plan.shape[1:]):
        raise ValueError("masked_matmul: x {}, weight {}, bias {} must have shapes (n, i), (i, j), (j,), and the mask is {}"
                         .format(*shapes, plan.shape))
    return _product(x, weight, bias, plan)


def linear(x, weight, bias):
    """y = x weight + bias for x (n, i), weight (i, j), bias (j,). Raises ValueError if they do not fit."""
    return masked_matmul(x, weight, bias, Plan.dense(*np.shape(weight)))


_logsumexp = op(lambda x, w: _logsumexp_kernel.forward(*_c(x, w)),
                lambda ans, x, w: lambda g: _logsumexp_dx(g, ans, x, w),
                lambda ans, x, w: summed(w, lambda g: _logsumexp_dw(g, ans, x, w)), name="logsumexp")
_logsumexp_dx = op(lambda g, a, x, w: _logsumexp_kernel.backward(*_c(g, a, x, w)),  # g_i w_ij exp(x_ij - a_i)
                   lambda ans, g, a, x, w: lambda h: sum(h * _logsumexp_dx(np.ones_like(g), a, x, w), axis=1),
                   lambda ans, g, a, x, w: lambda h: -sum(h * ans, axis=1),
                   lambda ans, g, a, x, w: lambda h: h * ans,
                   lambda ans, g, a, x, w: summed(w, lambda h: h * _logsumexp_dw(g, a, x, w)), name="logsumexp.backward")
_logsumexp_dw = op(lambda g, a, x, w: _logsumexp_kernel.backward_weights(*_c(g, a, x, w)),  # g_i exp(x_ij - a_i)
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


_reparameterize = op(lambda m, s, *at: _reparameterize_kernel.forward(*_c(m, s), *at),
                     lambda ans, m, s, *at: lambda g: g,
                     lambda ans, m, s, *at: lambda g: _reparameterize_ds(g, s, *at), name="reparameterize")
_reparameterize_ds = op(lambda g, s, *at: _reparameterize_kernel.backward(*_c(g, s), *at),
                        lambda ans, g, s, *at: lambda h: _reparameterize_ds(h, s, *at),
                        lambda ans, g, s, *at: lambda h: h * ans / 2, name="reparameterize.backward")


def reparameterize(mean, log_var, key, start):
    """z = mean + exp(log_var / 2) * eps, eps the standard normals of the stream `key` from value `start` on.

    mean, log_var (n, d); the noise is regenerated, not stored, for the gradient (Kingma & Welling, 2014).
    """
    return _reparameterize(mean, log_var, *key, start)
