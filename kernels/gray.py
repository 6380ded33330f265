"""The log-weights of all states of a layer of binary units, the units of the layer above it summed out.

    out[s] = outer . h + sum_d A(inner_d + (h W)_d),    h_k = bit k of s,  s = 0..2^K - 1
    A(a)   = log(1 + exp(a)) for BERNOULLI units above, a^2 / 2 for NORMAL ones

outer (K,), inner (D,), weight W (K,D), code BERNOULLI or NORMAL; out (2^K,). K is at most 24; any D, zero included.
Of a restricted Boltzmann machine exp(out) are the weights of its hidden states (outer: the hidden biases), or of its visible
ones, and log sum exp(out) is log Z, but for the constant of the normal density.

Numba: states come in tasks of 2^10, and within one in the order of a Gray code: the next state differs by one unit, so that
the sums inner + h W change by one row of W, to which their roundings, 2^10 of them at most, are small. CUDA: every state by
itself. No bit depends on threads. Agreement with the reference: 2^10 eps of the largest partial sums.
Source: Gray (1953); Salakhutdinov & Murray, On the quantitative analysis of deep belief networks (2008), on exact log Z.
"""
import numpy as np

from . import _cuda
from ._constants import BERNOULLI, NORMAL
from ._cuda import KernelError
from ._dispatch import Kernel
from ._jit import entry, jit, parallel
from ._math import exp
from .likelihood import _multiplied, _sum_log1p

MOST = 24   # units: 2^24 states are 128 MB
WITHIN = 10  # units that a task goes through by itself


def _reference(outer, inner, weight, code):
    K = len(outer)
    out = np.empty(2**K, outer.dtype)
    for low in range(0, 2**K, 1024):
        s = np.arange(low, min(low + 1024, 2**K))
        h = (s[:, None] >> np.arange(K) & 1).astype(np.float64)
        a = inner.astype(np.float64) + h @ weight.astype(np.float64)
        above = a * a / 2 if code == NORMAL else np.logaddexp(0, a)
        out[s] = h @ outer.astype(np.float64) + above.sum(axis=1)
    return out


@jit(fastmath={"reassoc"})  # the sum in lanes
def _sum_squares(a):
    total = a.dtype.type(0)
    for d in range(a.size):
        total += a[d] * a[d]
    return total


@jit(fastmath={"reassoc"})
def _ramps(a, odds):
    """sum_d max(a_d, 0); fills odds with exp(-|a_d|)."""
    total, zero = a.dtype.type(0), a.dtype.type(0)
    for d in range(a.size):
        total += max(a[d], zero)
        odds[d] = exp(-abs(a[d]))
    return total


@jit
def _above(a, odds, code):
    if code == NORMAL:
        return a.dtype.type(0.5) * _sum_squares(a)
    linear = _ramps(a, odds)
    return linear + _sum_log1p(odds[:_multiplied(odds)])


@jit
def _move(a, row, sign):
    for d in range(a.size):
        a[d] += sign * row[d]


@jit
def _task(task, within, outer, inner, weight, code, out):
    """The states whose bits from `within` on are those of the task."""
    a, odds, low, one = inner.copy(), np.empty_like(inner), task << within, inner.dtype.type(1)
    total, state = inner.dtype.type(0), 0
    for k in range(within, outer.size):
        if low >> k & 1:
            total += outer[k]
            _move(a, weight[k], one)
    for step in range(1 << within):
        if step > 0:
            k = 0
            while not step >> k & 1:
                k += 1
            sign = -one if state >> k & 1 else one
            state ^= 1 << k
            total += sign * outer[k]
            _move(a, weight[k], sign)
        out[low + state] = total + _above(a, odds, code)


@entry
def _numba(outer, inner, weight, code):
    within = min(outer.size, WITHIN)
    out = np.empty(1 << outer.size, outer.dtype)
    parallel(1 << (outer.size - within), _task, (within, outer, inner, weight, code, out))
    return out


def _cuda_side(outer, inner, weight, code):
    K, out = len(outer), _cuda.empty((2**len(outer),), outer.dtype)
    _cuda.launch("gray", "log_weights", _cuda.grid(2**K, 1), 128, outer, inner, weight, out, K, len(inner), code == NORMAL)
    return out


def _sizes(outer, inner, weight, code):
    if code not in (BERNOULLI, NORMAL):
        raise KernelError(f"kernel gray.log_weights: code must be BERNOULLI or NORMAL, got {code!r}")
    return (("K", *range(MOST + 1)),)


log_weights = Kernel("gray.log_weights", "outer(K) inner(D) weight(K,D) code", reference=_reference, numba=_numba,
                     cuda=_cuda_side, sizes=_sizes)
