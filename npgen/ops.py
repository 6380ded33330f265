"""Every differentiable op, one statement each: the forward function, then the derivative by each argument.

A rule reads `lambda ans, x, y: lambda g: ...`: ans is the answer, g its cotangent. `like(x, f)` is the pullback f
summed back to x's shape, the transpose of broadcasting. Rules are written in ops, so that a gradient can be
differentiated again; on plain arrays every op is its NumPy function, with nothing recorded. All of this runs unchanged
on CuPy arrays: NumPy's functions dispatch on the type of the array, and so do the kernels.

To add an op:  cube = op(my_cube, lambda ans, x: lambda g: g * 3 * x**2)
Given a NumPy function, op() also makes that function work on Tensors.

Legend: n rows, d columns; i, j, k matrix indices. References for the matrix rules: Giles, Collected matrix derivative
results for forward and reverse mode AD (2008); Murray, Differentiation of the Cholesky decomposition (2016).
"""
import builtins
import math

import numpy as np

from .engine import OVERRIDES, NoRuleError, Primitive, Tensor
from .kernels import logsumexp as _logsumexp_kernel
from .kernels import masked_matmul as _matmul_kernel
from .kernels import reparameterize as _reparameterize_kernel
from .masks import Plan


def op(forward, *rules, each=None, name=None):
    """A differentiable op: forward(*arrays, **params), and one rule per argument (see npgen.engine.Primitive)."""
    primitive = Primitive(forward, *rules, each=each, name=name)
    if _is_numpy(forward):
        OVERRIDES[forward] = primitive
    return primitive


def composed(*numpy_functions):
    """Declare that the decorated function, written in ops, is what these NumPy functions do to Tensors."""
    def register(function):
        OVERRIDES.update(dict.fromkeys(numpy_functions, function))
        return function
    return register


def _is_numpy(function):
    return isinstance(function, np.ufunc) or (getattr(function, "__module__", None) or "").partition(".")[0] == "numpy"


def like(x, f=lambda g: g):
    """The pullback f, its result summed over the axes along which x was broadcast."""
    shape = np.shape(x)

    def pullback(g):
        g = f(g)
        extra = np.ndim(g) - len(shape)
        stretched = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 != g.shape[extra + i])
        return reshape(sum(g, axis=stretched), shape) if stretched else g

    return pullback


# ---------------------------------------------------------------- constants: results that carry no derivative

for _f in (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal, np.isnan, np.isfinite, np.isinf,
           np.sign, np.floor, np.ceil, np.rint, np.trunc, np.round, np.argmax, np.argmin, np.argsort, np.all, np.any,
           np.zeros_like, np.ones_like, np.full_like, np.shape, np.ndim, np.size, np.logical_and, np.logical_or,
           np.logical_not, np.signbit, np.count_nonzero, np.nonzero, np.searchsorted, np.isclose, np.allclose,
           np.result_type, np.array_equal):
    op(_f)

stop_gradient = op(lambda x: x, name="stop_gradient")  # its value, as a constant


# ---------------------------------------------------------------- elementwise

add = op(np.add, lambda ans, x, y: like(x), lambda ans, x, y: like(y))
subtract = op(np.subtract, lambda ans, x, y: like(x), lambda ans, x, y: like(y, lambda g: -g))
multiply = op(np.multiply, lambda ans, x, y: like(x, lambda g: g * y), lambda ans, x, y: like(y, lambda g: g * x))
divide = op(np.true_divide, lambda ans, x, y: like(x, lambda g: g / y), lambda ans, x, y: like(y, lambda g: -g * ans / y))
power = op(np.power,
           lambda ans, x, y: like(x, lambda g: g * y * np.power(x, where(np.equal(y, 0), 1, y - 1))),
           lambda ans, x, y: like(y, lambda g: g * ans * log(where(np.equal(x, 0), 1, x))))
negative = op(np.negative, lambda ans, x: lambda g: -g)
reciprocal = op(np.reciprocal, lambda ans, x: lambda g: -g * ans * ans)
absolute = op(np.absolute, lambda ans, x: lambda g: g * np.sign(x))
square = op(np.square, lambda ans, x: lambda g: 2 * g * x)
sqrt = op(np.sqrt, lambda ans, x: lambda g: g / (2 * ans))
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
arctan2 = op(np.arctan2, lambda ans, y, x: like(y, lambda g: g * x / (x * x + y * y)),
             lambda ans, y, x: like(x, lambda g: -g * y / (x * x + y * y)))
sinh = op(np.sinh, lambda ans, x: lambda g: g * cosh(x))
cosh = op(np.cosh, lambda ans, x: lambda g: g * sinh(x))
tanh = op(np.tanh, lambda ans, x: lambda g: g * (1 - ans * ans))
arcsinh = op(np.arcsinh, lambda ans, x: lambda g: g / sqrt(x * x + 1))
arccosh = op(np.arccosh, lambda ans, x: lambda g: g / sqrt(x * x - 1))
arctanh = op(np.arctanh, lambda ans, x: lambda g: g / (1 - x * x))
logaddexp = op(np.logaddexp, lambda ans, x, y: like(x, lambda g: g * sigmoid(x - y)),
               lambda ans, x, y: like(y, lambda g: g * sigmoid(y - x)))
maximum = op(np.maximum, lambda ans, x, y: like(x, lambda g: g * _share(x, y, np.greater, g)),  # ties share equally
             lambda ans, x, y: like(y, lambda g: g * _share(y, x, np.greater, g)))
minimum = op(np.minimum, lambda ans, x, y: like(x, lambda g: g * _share(x, y, np.less, g)),
             lambda ans, x, y: like(y, lambda g: g * _share(y, x, np.less, g)))
where = op(np.where, None, lambda ans, c, x, y: like(x, lambda g: g * c), lambda ans, c, x, y: like(y, lambda g: g * (1 - c)))


def _share(x, y, wins, g):
    return (np.asarray(wins(x, y), g.dtype) + np.asarray(np.equal(x, y), g.dtype) / 2)


relu = op(lambda x: np.maximum(x, 0), lambda ans, x: lambda g: g * (ans > 0), name="relu")
sigmoid = op(lambda x: np.exp(-np.maximum(-x, 0)) / (1 + np.exp(-abs(x))), lambda ans, x: lambda g: g * ans * (1 - ans),
             name="sigmoid")  # 1 / (1 + e^-x), to full relative precision on both sides
softplus = op(lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), lambda ans, x: lambda g: g * sigmoid(x), name="softplus")
astype = op(lambda x, dtype: x.astype(dtype), lambda ans, x, dtype: lambda g, to=x.dtype: astype(g, to), name="astype")
OVERRIDES.update({"astype": astype, np.astype: astype})


@composed(np.clip)
def clip(x, a_min=None, a_max=None):
    """x limited to [a_min, a_max]; the gradient at a bound is shared between x and the bound."""
    x = x if a_min is None else maximum(x, a_min)
    return x if a_max is None else minimum(x, a_max)


# ---------------------------------------------------------------- reductions

def spread(x, axis):
    """The pullback of a sum of x over axis: g, with the reduced axes put back, repeated to x's shape."""
    shape, n = np.shape(x), np.ndim(x)
    reduced = range(n) if axis is None else [a % n for a in np.atleast_1d(axis)]
    kept = tuple(1 if i in reduced else length for i, length in enumerate(shape))
    return lambda g: broadcast_to(reshape(g, kept), shape)


def _extremum(ans, x, axis):
    back = spread(x, axis)
    hit = np.equal(x, back(ans)).astype(x.dtype)
    return lambda g: back(g) * (hit / np.sum(hit, axis=axis, keepdims=True))  # ties share equally


sum = op(np.sum, lambda ans, x, axis=None, keepdims=False: spread(x, axis))
mean = op(np.mean, lambda ans, x, axis=None, keepdims=False:
          lambda g, back=spread(x, axis), n=x.size / builtins.max(ans.size, 1): back(g / n))
max = op(np.max, lambda ans, x, axis=None, keepdims=False: _extremum(ans, x, axis))
min = op(np.min, lambda ans, x, axis=None, keepdims=False: _extremum(ans, x, axis))
cumsum = op(np.cumsum, lambda ans, x, axis=None:
            lambda g, s=np.shape(x): reshape(flip(cumsum(flip(g, axis), axis), axis), s))


@composed(np.var)
def var(x, axis=None, ddof=0, keepdims=False):
    """The mean squared distance from the mean: sum (x - mean(x))^2 / (n - ddof)."""
    centred = x - mean(x, axis=axis, keepdims=True)
    total = sum(square(centred), axis=axis, keepdims=keepdims)
    return total / (x.size / builtins.max(total.size, 1) - ddof)


@composed(np.std)
def std(x, axis=None, ddof=0, keepdims=False):
    """The square root of var."""
    return sqrt(var(x, axis=axis, ddof=ddof, keepdims=keepdims))


# ---------------------------------------------------------------- shape and indexing

def _restore(ans, x, *args, **params):
    return lambda g, shape=np.shape(x): reshape(g, shape)


reshape = op(np.reshape, _restore)
ravel = op(np.ravel, _restore)
expand_dims = op(np.expand_dims, _restore)
squeeze = op(np.squeeze, _restore)
broadcast_to = op(np.broadcast_to, lambda ans, x, shape: like(x))
transpose = op(np.transpose, lambda ans, x, axes=None:
               lambda g, n=np.ndim(x): transpose(g, axes and tuple(np.argsort([a % n for a in axes]))))
swapaxes = op(np.swapaxes, lambda ans, x, i, j: lambda g: swapaxes(g, i, j))
moveaxis = op(np.moveaxis, lambda ans, x, source, destination: lambda g: moveaxis(g, destination, source))
flip = op(np.flip, lambda ans, x, axis=None: lambda g: flip(g, axis))
roll = op(np.roll, lambda ans, x, shift, axis=None: lambda g: roll(g, np.negative(shift), axis))
tril = op(np.tril, lambda ans, x, k=0: lambda g: tril(g, k))
triu = op(np.triu, lambda ans, x, k=0: lambda g: triu(g, k))
getitem = op(lambda x, index: x[index], lambda ans, x, index: lambda g, shape=np.shape(x): scatter(g, index, shape),
             name="getitem")
OVERRIDES["getitem"] = getitem


def _scatter(x, index, shape):
    out = np.zeros_like(x, shape=shape)
    basic = all(i is None or i is Ellipsis or isinstance(i, (int, slice, np.integer))
                for i in (index if isinstance(index, tuple) else (index,)))
    if basic:
        out[index] = x
    else:
        np.add.at(out, index, x)  # an index may occur more than once
    return out


scatter = op(_scatter, lambda ans, x, index, shape: lambda g: getitem(g, index), name="scatter")  # getitem's transpose


def _concatenate_rule(i, ans, *xs, axis=0):
    start, length = builtins.sum(x.shape[axis] for x in xs[:i]), xs[i].shape[axis]
    index = (slice(None),) * (axis % np.ndim(ans)) + (slice(start, start + length),)
    return lambda g: getitem(g, index)


_concatenate = op(lambda *xs, axis=0: np.concatenate(xs, axis=axis), each=_concatenate_rule, name="concatenate")


@composed(np.concatenate)
def concatenate(xs, axis=0):
    """The arrays one after another along an axis that exists."""
    return _concatenate(*xs, axis=axis)


@composed(np.stack)
def stack(xs, axis=0):
    """The arrays one after another along a new axis."""
    return _concatenate(*(expand_dims(x, axis) for x in xs), axis=axis)


@composed(np.split)
def split(x, indices_or_sections, axis=0):
    """The pieces of x along an axis: equal ones, or cut before the given indices."""
    n, cuts = x.shape[axis], indices_or_sections
    if isinstance(cuts, int):
        if n % cuts:
            raise ValueError(f"split: an axis of length {n} cannot be cut into {cuts} equal pieces; give the indices")
        cuts = range(n // cuts, n, n // cuts)
    bounds, before = [0, *cuts, n], (slice(None),) * (axis % x.ndim)
    return [x[(*before, slice(a, b))] for a, b in zip(bounds, bounds[1:], strict=False)]


@composed(np.take)
def take(x, indices, axis=None):
    """x[indices] along an axis (of the flattened x if there is none)."""
    return ravel(x)[indices] if axis is None else x[(slice(None),) * (axis % x.ndim) + (indices,)]


@composed(np.diagonal)
def diagonal(x, offset=0, axis1=0, axis2=1):
    """The diagonal of two axes, as a new last axis; only offset 0."""
    if offset:
        raise NoRuleError(f"numpy.diagonal: a derivative exists for offset 0 only, got offset={offset}; index instead")
    i = np.arange(builtins.min(x.shape[axis1], x.shape[axis2]))
    return moveaxis(x, (axis1, axis2), (-2, -1))[..., i, i]


@composed(np.diag)
def diag(x, k=0):
    """The diagonal of a matrix, or the diagonal matrix of a vector; only k = 0."""
    if k:
        raise NoRuleError(f"numpy.diag: a derivative exists for k 0 only, got k={k}; index instead")
    i = np.arange(x.shape[0])
    return diagonal(x) if x.ndim == 2 else scatter(x, (i, i), (len(i), len(i)))


@composed(np.trace)
def trace(x, offset=0, axis1=0, axis2=1):
    """The sum of the diagonal."""
    return sum(diagonal(x, offset, axis1, axis2), axis=-1)


# ---------------------------------------------------------------- products

def _t(x):
    return swapaxes(x, -1, -2)


_matmul = op(lambda x, y: np.matmul(x, y), lambda ans, x, y: like(x, lambda g: matmul(g, _t(y))),
             lambda ans, x, y: like(y, lambda g: matmul(_t(x), g)), name="matmul")


@composed(np.matmul)
def matmul(x, y):
    """x @ y: matrix products over the last two axes, the others broadcast; a vector is a row (left) or column (right)."""
    if builtins.min(np.ndim(x), np.ndim(y)) == 0:
        raise ValueError(f"matmul: shapes {np.shape(x)} and {np.shape(y)} do not fit: a scalar cannot be a factor; use *")
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
        raise NoRuleError(f"numpy.dot: a derivative exists for up to two dimensions on the right, got {np.ndim(y)}; use matmul")
    return matmul(x, y)


@composed(np.outer)
def outer(x, y):
    """x[i] y[j] of the flattened arrays."""
    return reshape(x, (-1, 1)) * reshape(y, (1, -1))


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


@composed(np.einsum)
def einsum(subscripts, *operands):
    """Sums of products by index, in the explicit form "ij,jk->ik"; no ellipsis, no index twice in one operand."""
    subscripts = subscripts.replace(" ", "")
    if "->" not in subscripts or "." in subscripts or any(len(set(t)) < len(t) for t in subscripts.split("->")[0].split(",")):
        raise NoRuleError(f"numpy.einsum: a derivative exists for the explicit form 'ij,jk->ik', with no ellipsis and no index "
                          f"twice in an operand; got {subscripts!r}")
    return _einsum(*operands, subscripts=subscripts)


# ---------------------------------------------------------------- linear algebra, on the last two axes

def _solve_triangular(a, b, *, lower=True, transpose=False):
    from scipy.linalg import solve_triangular
    return solve_triangular(a, b, lower=lower, trans=int(transpose), check_finite=False)


solve_triangular = op(  # x with a x = b (a^T x = b if transpose), a triangular, b of at least two axes
    _solve_triangular,
    lambda ans, a, b, lower=True, transpose=False: lambda g: _triangular_part(
        -(lambda s: matmul(ans, _t(s)) if transpose else matmul(s, _t(ans)))(
            solve_triangular(a, g, lower=lower, transpose=not transpose)), lower),
    lambda ans, a, b, lower=True, transpose=False: lambda g: solve_triangular(a, g, lower=lower, transpose=not transpose),
    name="solve_triangular")


def _triangular_part(x, lower):
    return tril(x) if lower else triu(x)


def _cholesky_rule(ans, a):
    def pullback(g):  # Murray (2016), eq. 10, symmetrised
        p = tril(matmul(_t(ans), g))
        p = p - np.eye(a.shape[-1], dtype=a.dtype) * p / 2
        s = solve_triangular(ans, _t(solve_triangular(ans, _t(p), transpose=True)), transpose=True)
        return (s + _t(s)) / 2
    return pullback


cholesky = op(np.linalg.cholesky, _cholesky_rule)
inv = op(np.linalg.inv, lambda ans, a: lambda g: -matmul(matmul(_t(ans), g), _t(ans)))
logdet = op(lambda a: np.linalg.slogdet(a)[1], lambda ans, a: lambda g: g[..., None, None] * _t(inv(a)), name="logdet")
_solve = op(np.linalg.solve, lambda ans, a, b: like(a, lambda g: -matmul(_solve(_t(a), g), _t(ans))),
            lambda ans, a, b: like(b, lambda g: _solve(_t(a), g)))


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


@composed(np.linalg.norm)
def norm(x, ord=None, axis=None, keepdims=False):
    """The Euclidean norm (Frobenius for a matrix)."""
    if ord not in (None, 2) or (ord == 2 and axis is None and np.ndim(x) > 1):
        raise NoRuleError(f"numpy.linalg.norm: a derivative exists for the Euclidean norm only, got ord={ord!r}; write it out")
    return sqrt(sum(square(x), axis=axis, keepdims=keepdims))


# ---------------------------------------------------------------- kernels

def _c(*arrays):
    return [np.ascontiguousarray(a) for a in arrays]


# y = x W + b with W = mask * weight; its two products are one another's transposes, so the three rules close.
_product = op(lambda x, w, b, plan: _matmul_kernel.forward(*_c(x, w, b), plan.mask_as(x.dtype), plan.blocks),
              lambda ans, x, w, b, plan: lambda g: _product_dx(g, w, plan),
              lambda ans, x, w, b, plan: lambda g: _product_dw(x, g, plan),
              lambda ans, x, w, b, plan: lambda g: sum(g, axis=0), name="masked_matmul")
_product_dx = op(lambda g, w, plan: _matmul_kernel.backward_x(*_c(g, w), plan.mask_as(g.dtype), plan.blocks),
                 lambda ans, g, w, plan: lambda h: _product(h, w, np.zeros_like(g, shape=g.shape[1:]), plan),
                 lambda ans, g, w, plan: lambda h: _product_dw(h, g, plan), name="masked_matmul.backward_x")
_product_dw = op(lambda x, g, plan: _matmul_kernel.backward_weight(*_c(x, g), plan.mask_as(x.dtype), plan.blocks),
                 lambda ans, x, g, plan: lambda h: _product_dx(g, h, plan),
                 lambda ans, x, g, plan: lambda h: _product(x, h, np.zeros_like(g, shape=g.shape[1:]), plan),
                 name="masked_matmul.backward_weight")


def masked_matmul(x, weight, bias, plan):
    """y = x (mask * weight) + bias, skipping the blocks that the mask empties.

    x (n, i), weight (i, j), bias (j,), plan: a npgen.masks.Plan of an (i, j) mask. Raises ValueError if they do not fit.
    """
    shapes = np.shape(x), np.shape(weight), np.shape(bias), plan.shape
    if len(shapes[0]) != 2 or shapes[1] != plan.shape or shapes[0][1] != plan.shape[0] or shapes[2] != plan.shape[1:]:
        raise ValueError("masked_matmul: x {}, weight {}, bias {} and mask {} must have shapes (n, i), (i, j), (j,) and (i, j)"
                         .format(*shapes))
    return _product(x, weight, bias, plan)


def linear(x, weight, bias):
    """y = x weight + bias for x (n, i), weight (i, j), bias (j,). Raises ValueError if they do not fit."""
    return masked_matmul(x, weight, bias, Plan.dense(*np.shape(weight)))


_logsumexp = op(lambda x, w: _logsumexp_kernel.forward(*_c(x, w)),
                lambda ans, x, w: lambda g: _logsumexp_dx(g, ans, x, w),
                lambda ans, x, w: like(w, lambda g: _logsumexp_dw(g, ans, x, w)), name="logsumexp")
_logsumexp_dx = op(lambda g, a, x, w: _logsumexp_kernel.backward(*_c(g, a, x, w)),  # g_i w_ij exp(x_ij - a_i)
                   lambda ans, g, a, x, w: lambda h: sum(h * _logsumexp_dx(np.ones_like(g), a, x, w), axis=1),
                   lambda ans, g, a, x, w: lambda h: -sum(h * ans, axis=1),
                   lambda ans, g, a, x, w: lambda h: h * ans,
                   lambda ans, g, a, x, w: like(w, lambda h: h * _logsumexp_dw(g, a, x, w)), name="logsumexp.backward")
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
    x = x if isinstance(x, Tensor) or np.asarray(x).dtype.char in "fd" else np.asarray(x, dtype=float)
    n, axes = np.ndim(x), tuple(range(np.ndim(x))) if axis is None else tuple(a % np.ndim(x) for a in np.atleast_1d(axis))
    last = tuple(range(n - len(axes), n))

    kept = tuple(m for i, m in enumerate(np.shape(x)) if i not in axes)
    flat_shape = math.prod(kept), math.prod(np.shape(x)[i] for i in axes)

    def rows(a):
        return reshape(moveaxis(a, axes, last), flat_shape)

    w = np.ones((1, flat_shape[1]), x.dtype) if weights is None else rows(broadcast_to(weights, np.shape(x)))
    ans = _logsumexp(rows(x), w)
    return reshape(ans, tuple(1 if i in axes else m for i, m in enumerate(np.shape(x))) if keepdims else kept)


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
