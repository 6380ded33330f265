"""Integrals, slopes and interpolation along an axis."""
import builtins

import numpy as np

from .. import ops
from ..engine import Tensor
from ..ops import composed


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
