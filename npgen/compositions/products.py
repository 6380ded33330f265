"""Products of sequences, vectors and matrices; what a ufunc's methods reduce, accumulate and outer do."""
import builtins

import numpy as np

from .. import ops
from ..engine import OVERRIDES
from ..ops import composed, op
from .reductions import cumprod

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
