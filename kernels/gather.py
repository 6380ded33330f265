"""Rows of a matrix by their numbers: the batch of a training step.

    out_n = x[index_n]

x (R, D); index (N,), numbers in 0..R-1, which the compiled sides do not check; out (N, D), exact. Any N, zero included, and D.
On the host NumPy copies them, a row at a time: as fast as a compiled loop, and nothing to compile.
"""
import numpy as np

from ._cuda import asarray, grid, launch
from ._cuda import empty as empty_on_device
from ._dispatch import Kernel, empty


def _rows_reference(x, index):
    return x[index]


def _rows_numba(x, index):
    return np.take(x, index, axis=0, out=empty((len(index), x.shape[1]), x.dtype), mode="clip")  # into `out` itself


def _rows_cuda(x, index):
    out = empty_on_device((len(index), x.shape[1]), x.dtype)
    launch("gather", "rows", grid(out.size, 256), 256, x, asarray(index), out, len(index), x.shape[1])
    return out


rows = Kernel("gather.rows", "x(R,D) index(N):int64", reference=_rows_reference, numba=_rows_numba, cuda=_rows_cuda)
