"""Arrays put together, taken apart, turned and filled."""
import builtins

import numpy as np

from .. import ops
from ..ops import composed

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
