"""Monotone rational-quadratic splines, one for every value, as fused ops: spline_to_noise, and spline_to_data, its inverse.

Legend: n rows, d features. Source: Durkan et al., Neural spline flows (2019).
"""
import numpy as np

from . import ops
from .fused import fused
from .kernels import spline as _spline_kernel
from .ops import contiguous


def _spline_bins(v, params, bins, box, of_z):
    """X, Y, width, height and both derivatives (n, d) of the bin of every value, found among the knots of z or of x."""
    raw = np.reshape(params, (*v.shape, 3 * bins - 1))
    sizes = [2 * box * (_spline_kernel.LEAST + (1 - bins * _spline_kernel.LEAST) * ops.softmax(share))
             for share in (raw[..., :bins], raw[..., bins:2 * bins])]
    starts = [np.cumsum(size, axis=-1) - size - box for size in sizes]
    one, inner = np.ones_like(raw[..., :1]), raw[..., 2 * bins:] + _spline_kernel.SHIFT
    slopes = np.concatenate([one, _spline_kernel.LEAST + ops.softplus(inner), one], axis=-1)
    number = (v[..., None] >= starts[of_z][..., 1:]).sum(axis=-1, keepdims=True)
    return [np.take_along_axis(a, number + later, axis=-1)[..., 0]
            for a, later in zip((*starts, *sizes, slopes, slopes), (0, 0, 0, 0, 0, 1), strict=True)]


def _spline_formula(v, params, bins, box, of_z):
    inside = abs(v) < box
    at = np.where(inside, v, 0.0)  # before the bin is known: no derivative takes a path that is not finite
    X, Y, w, h, d0, d1 = _spline_bins(at, params, bins, box, of_z)
    s = h / w
    if of_z:
        r = (at - Y) / h
        p = d0 * (1 - r) - d1 * r
        root = np.sqrt(p * p + 4 * s * s * r * (1 - r))
        t = np.where(p >= 0, 2 * s * r / (2 * s * r + root + p), (root - p) / (root - p + 2 * s * (1 - r)))
    else:
        t = (at - X) / w
    u = 1 - t
    den = s + (d0 + d1 - 2 * s) * t * u
    log_slope = np.where(inside, 2 * np.log(s / den) + np.log(d1 * t * t + 2 * s * t * u + d0 * u * u), 0.0)
    ans = X + w * t if of_z else Y + h * t * (s * t + d0 * u) / den
    return np.where(inside, ans, v), np.sum(-log_slope if of_z else log_slope, axis=1)


def _spline(way, of_z):
    def pull(tracked, ans, g, v, params, bins, box):
        dout, dlog_det = (np.zeros_like(a) if c is None else c for a, c in zip(ans, g, strict=True))
        backward = getattr(_spline_kernel, f"{way}_backward")
        both = backward(*contiguous(dout, dlog_det, ans[0] if of_z else v, params), bins, box, 0 in tracked, 1 in tracked)
        return [both[i] for i in tracked]

    return fused(f"spline_{way}", lambda v, params, bins, box: _spline_formula(v, params, bins, box, of_z),
                 lambda v, params, bins, box: getattr(_spline_kernel, way)(*contiguous(v, params), bins, box), pull)


_to_noise, _to_data = _spline("to_noise", False), _spline("to_data", True)


def spline_to_noise(x, params, bins=8, box=5.0):
    """Every value by a monotone rational-quadratic spline of its own inside (-box, box), and itself outside of it.

    x (n, d); params (n, d (3 bins - 1)), feature-major: raw widths, raw heights, raw derivatives at the inner knots, as
    kernels/spline.py has them; zeros make the identity. Returns z (n, d) and log |det dz/dx| (n,) in nats. Raises ValueError
    if the shapes do not fit. Source: Durkan et al. (2019), section 3.1.
    """
    return _to_noise(*_checked_spline("spline_to_noise", x, params, bins, box))


def spline_to_data(z, params, bins=8, box=5.0):
    """The inverse of spline_to_noise: x (n, d) and log |det dx/dz| (n,) in nats."""
    return _to_data(*_checked_spline("spline_to_data", z, params, bins, box))


def _checked_spline(name, v, params, bins, box):
    if v.ndim != 2 or params.shape != (len(v), v.shape[1] * (3 * bins - 1)):
        raise ValueError(f"{name}: the features have shape {v.shape} and params {params.shape}, but {bins} bins need (n, d) "
                         f"and (n, {3 * bins - 1} d)")
    if not 1 <= bins < 1 / _spline_kernel.LEAST or not 0 < box < np.inf:
        raise ValueError(f"{name}: bins must be 1 to 999 and box a positive number, got {bins} and {box}")
    return v, params, bins, box
