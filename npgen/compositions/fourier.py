"""Fourier transforms of real and complex arrays."""
from functools import partial

import numpy as np

from .. import ops
from ..ops import composed, op
from .elementwise import constant

# Along one axis; both are symmetric matrices. The cotangent of a real array is real.
_fft = op(lambda x, axis: np.fft.fft(x, axis=axis),
          lambda ans, x, axis: partial(_transposed, _fft, axis, x.dtype), name="fft")
_ifft = op(lambda x, axis: np.fft.ifft(x, axis=axis),
           lambda ans, x, axis: partial(_transposed, _ifft, axis, x.dtype), name="ifft")


def _transposed(transform, axis, dtype, g):
    return ops.as_real(transform(g, axis), dtype)


def _along(axis, index):
    return (slice(None),) * axis + (index,)


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
    return ops.real(ifft(_of_length(a, n // 2 + 1, axis) * twice.astype(ops.real(constant(a)).dtype), n, axis, norm))


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
