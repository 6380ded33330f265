"""SiLU, the smooth activation of networks whose derivatives count, and its gradient.

    forward     y = x s(x), s(x) = 1 / (1 + exp(-x))
    backward    g s(x) (1 + x (1 - s(x)))

x, g (Q,); any Q, zero included; each entry by itself: no bit depends on threads or on other entries. Agreement with the
reference: 4 eps of |x| s(x), and 6 eps of |g| s(x) (1 + |x|), where exp(-x) is a number; beyond, they are 0. x is
finite.
Source: Hendrycks & Gimpel, Gaussian error linear units (2016); Elfwing, Uchibe & Doya (2018).
"""
import numpy as np

from . import _cuda
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel
from ._math import exp_fused

CHUNK = 2**14  # entries that a thread takes at a time


def sigmoid(x):
    """1 / (1 + exp(-x)) in float64, precise on both sides."""
    x = x.astype(np.float64)
    return np.exp(-np.maximum(-x, 0)) / (1 + np.exp(-abs(x)))


def _forward_reference(x):
    return (x * sigmoid(x)).astype(x.dtype)


def _backward_reference(g, x):
    s = sigmoid(x)
    return (g * s * (1 + x * (1 - s))).astype(x.dtype)


@jit
def _forward_chunk(chunk, x, y):
    a, b, one = x[chunk * CHUNK:(chunk + 1) * CHUNK], y[chunk * CHUNK:(chunk + 1) * CHUNK], x.dtype.type(1)
    for i in range(a.size):
        b[i] = a[i] / (one + exp_fused(-a[i]))


@jit
def _backward_chunk(chunk, g, x, out):
    low, high, one = chunk * CHUNK, (chunk + 1) * CHUNK, x.dtype.type(1)
    a, b, c = x[low:high], g[low:high], out[low:high]
    for i in range(a.size):
        s = one / (one + exp_fused(-a[i]))
        c[i] = b[i] * (s * (one + a[i] * (one - s)))


@entry
def _forward(x, y):
    parallel(-(-x.size // CHUNK), _forward_chunk, (x, y))


@entry
def _backward(g, x, out):
    parallel(-(-x.size // CHUNK), _backward_chunk, (g, x, out))


def _forward_numba(x):
    y = empty(x.shape, x.dtype)
    _forward(x, y)
    return y


def _backward_numba(g, x):
    out = empty(x.shape, x.dtype)
    _backward(g, x, out)
    return out


def _on_device(name):
    def run(*args):
        out = _cuda.empty(args[0].shape, args[0].dtype)
        _cuda.launch("silu", name, _cuda.grid(out.size, 256), 256, *args, out, out.size)
        return out
    return run


forward = Kernel("silu.forward", "x(Q)", reference=_forward_reference, numba=_forward_numba, cuda=_on_device("forward"))
backward = Kernel("silu.backward", "g(Q) x(Q)", reference=_backward_reference, numba=_backward_numba,
                  cuda=_on_device("backward"))
