"""Rows of a matrix by their numbers: the batch of a training step.

    out_n = x[index_n]

x (R, D); index (N,), numbers in 0..R-1, which the compiled sides do not check; out (N, D), exact. Any N, zero included, and D.
On the host NumPy copies few values, which asks for nothing to be compiled, and the threads many: the others are awake then when
the step's first product asks for them.
"""
import numpy as np

from ._cuda import asarray, grid, launch
from ._cuda import empty as empty_on_device
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel

ALONE = 2**15  # values, below which NumPy copies them
PARTS = 16


def _rows_reference(x, index):
    return x[index]


@jit
def _part(t, x, index, out):
    N = len(index)
    for n in range(t * N // PARTS, (t + 1) * N // PARTS):
        row, copy = x[index[n]], out[n]
        for d in range(row.size):
            copy[d] = row[d]


@entry
def _rows(x, index, out):
    parallel(PARTS, _part, (x, index, out))


def _rows_numba(x, index):
    out = empty((len(index), x.shape[1]), x.dtype)
    if out.size < ALONE:
        return np.take(x, index, axis=0, out=out, mode="clip")  # into `out` itself
    _rows(x, index, out)
    return out


def _rows_cuda(x, index):
    out = empty_on_device((len(index), x.shape[1]), x.dtype)
    launch("gather", "rows", grid(out.size, 256), 256, x, asarray(index), out, len(index), x.shape[1])
    return out


rows = Kernel("gather.rows", "x(R,D) index(N):int64", reference=_rows_reference, numba=_rows_numba, cuda=_rows_cuda)
