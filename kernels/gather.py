"""Rows of a matrix by their numbers: the batch of a training step.

    out_n = x[index_n]

x (R, D); index (N,), numbers in 0..R-1, which the compiled sides do not check; out (N, D), exact. Any N, zero included, and D.
Numba: panels of rows. The rows lie scattered in memory, for which one thread waits, and the others would fall asleep.
"""
from ._cuda import asarray, grid, launch
from ._cuda import empty as empty_on_device
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel
from .masked_matmul import _panels


def _rows_reference(x, index):
    return x[index]


@jit
def _panel(p, panels, x, index, out):
    N, D = out.shape
    for n in range(p * N // panels, (p + 1) * N // panels):
        row, copy = x[index[n]], out[n]
        for d in range(D):
            copy[d] = row[d]


@entry
def _rows(x, index, out):
    panels = _panels(len(out))
    parallel(panels, _panel, (panels, x, index, out))


def _rows_numba(x, index):
    out = empty((len(index), x.shape[1]), x.dtype)
    _rows(x, index, out)
    return out


def _rows_cuda(x, index):
    out = empty_on_device((len(index), x.shape[1]), x.dtype)
    launch("gather", "rows", grid(out.size, 256), 256, x, asarray(index), out, len(index), x.shape[1])
    return out


rows = Kernel("gather.rows", "x(R,D) index(N):int64", reference=_rows_reference, numba=_rows_numba, cuda=_rows_cuda)
