"""Ops that move entries: shapes, axes, indices, pieces, what is joined and repeated; the differences of neighbours."""
import builtins
from functools import partial

import numpy as np

from ..engine import OVERRIDES, NoRuleError, Primitive, Selected
from ..kernels._cuda import constant_like, is_device_array
from ..tensor import value_of
from .rules import by_places, composed, like, op


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
