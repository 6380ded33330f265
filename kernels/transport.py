"""The cost of optimal transport on a line, of many pairs of distributions at once.

    out_k = int_0^1 |F_k^-1(t) - G_k^-1(t)|^order dt        (K,)

F_k has the values x_k (K, N), in ascending order, by their weights u_k (K, N), of any sum; G_k y_k (K, M) and v_k (K, M).
Weights are not negative, and not all 0; order >= 1, N, M >= 1. Both distribution functions are walked along at once: N + M
steps. Sums are in float64. A pair's bits depend neither on the pairs beside it nor on the threads.
Agreement with the reference: 4 eps of the cost and (N + M)^2 2^-53 of the largest |x - y|^order.
Numba: a task for every pair; CUDA: a thread. Source: Peyre & Cuturi, Computational optimal transport (2019), section 2.6.
"""
import numpy as np

from . import _cuda
from ._cuda import KernelError
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel

# --- reference -------------------------------------------------------------------------------------------------------

def _reference(x, u, y, v, order):
    out = np.empty(len(x), x.dtype)
    for k in range(len(x)):
        ends, others = (np.cumsum(w[k].astype(np.float64)) for w in (u, v))
        ends, others = ends[:-1] / ends[-1], others[:-1] / others[-1]
        t = np.sort(np.concatenate([ends, others, [0.0, 1.0]]))
        middle = (t[1:] + t[:-1]) / 2
        apart = x[k].astype(np.float64)[np.searchsorted(ends, middle)] - y[k][np.searchsorted(others, middle)]
        out[k] = np.diff(t) @ np.abs(apart) ** order
    return out


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _pair(k, x, u, y, v, order, out):
    N, M = x.shape[1], y.shape[1]
    whole, other = 0.0, 0.0
    for i in range(N):
        whole += u[k, i]
    for j in range(M):
        other += v[k, j]
    i, j, t, total = 0, 0, 0.0, 0.0
    up, along = np.float64(u[k, 0]), np.float64(v[k, 0])
    while i < N and j < M:
        a, b = up / whole if i < N - 1 else 1.0, along / other if j < M - 1 else 1.0  # where both values end
        end = max(t, min(a, b))
        apart = abs(np.float64(x[k, i]) - np.float64(y[k, j]))
        total += (end - t) * (apart if order == 1 else apart * apart if order == 2 else apart**order)
        t = end
        if a <= end:
            i += 1
            up += u[k, i] if i < N else 0.0
        if b <= end:
            j += 1
            along += v[k, j] if j < M else 0.0
    out[k] = total


@entry
def _cost(x, u, y, v, order, out):
    parallel(len(x), _pair, (x, u, y, v, order, out))


def _numba(x, u, y, v, order):
    out = empty((len(x),), x.dtype)
    _cost(x, u, y, v, float(order), out)
    return out


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _cuda_side(x, u, y, v, order):
    out = _cuda.empty((len(x),), x.dtype)
    _cuda.launch("transport", "cost", _cuda.grid(len(x), 64), 64, x, u, y, v, out, len(x), x.shape[1],
                 y.shape[1], float(order))
    return out


def _sizes(x, u, y, v, order):
    if not (order >= 1 and x.shape[1] and y.shape[1]):
        raise KernelError(f"kernel transport.cost: order must be 1 or more, and values there, got {order!r} and "
                          f"{x.shape[1]} and {y.shape[1]} values")
    return ()


cost = Kernel("transport.cost", "x(K,N) u(K,N) y(K,M) v(K,M) order", reference=_reference, numba=_numba, cuda=_cuda_side,
              sizes=_sizes)
