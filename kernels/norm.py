"""The sum of the squares of an array's values: of a gradient, before it is clipped.

    out = [sum_i x_i^2]

x (P,) float32 or float64; out (1,), an array because on a GPU its value is known there alone, and the arithmetic are float64:
no float32 overflows. 0 for no values; infinities and NaN go where the formula takes them. The sum is taken by chunks, whose
cut depends on P alone, and so do its bits. Agreement with the reference: 1e-14 of the sum.
"""
import numpy as np

from ._cuda import empty as empty_on_device
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel

CHUNK = 16384  # values per task
ALONE = 2**17  # values, below which a second thread costs more than it does


def _squared_reference(x):
    return np.square(x, dtype=np.float64).sum(keepdims=True)


@jit(fastmath={"reassoc", "contract"})  # the sum in lanes
def _sum_of_squares(x):
    total = 0.0
    for i in range(x.size):
        value = np.float64(x[i])
        total += value * value
    return total


@jit
def _sum_chunk(chunk, x, sums):
    sums[chunk] = _sum_of_squares(x[chunk * CHUNK:(chunk + 1) * CHUNK])


@entry
def _squared(x, sums, out):
    if x.size < ALONE:
        for chunk in range(sums.size):
            _sum_chunk(chunk, x, sums)
    else:
        parallel(sums.size, _sum_chunk, (x, sums))
    out[0] = 0
    for chunk in range(sums.size):
        out[0] += sums[chunk]


def _squared_numba(x):
    out, sums = empty((1,), np.float64), empty((-(-x.size // CHUNK),), np.float64)
    _squared(x, sums, out)
    return out


def _squared_cuda(x):
    sums, out = empty_on_device((-(-x.size // CHUNK),), np.float64), empty_on_device((1,), np.float64)
    launch("norm", "sum_chunks", sums.size, 256, x, sums, x.size, CHUNK)
    launch("norm", "add_up", 1, 256, sums, out, sums.size)
    return out


squared = Kernel("norm.squared", "x(P)", reference=_squared_reference, numba=_squared_numba, cuda=_squared_cuda)
