"""Sums over all pairs of two sets of rows, of their distance or of kernels, and nearest rows, without the matrix of the pairs.

x, s (N, D), y, t (M, D), weights (M,), scales (S,), g (N,); r_ij = |x_i - y_j|.

    distance             out_i = sum_j w_j r_ij                                              (N,)
    distance_backward    dx_i = g_i sum_j w_j (x_i - y_j) / r_ij, of a pair of r = 0 nothing (N, D)
    gaussian             out_i = sum_j w_j sum_s exp(-r_ij^2 / (2 scale_s^2))                (N,)
    gaussian_backward    dx_i = -g_i sum_j w_j (x_i - y_j) sum_s exp(-r_ij^2 / (2 scale_s^2)) / scale_s^2
    stein                out_i = sum_j w_j k (s_i . t_j + rate (s_i - t_j) . (x_i - y_j) + rate D - rate^2 r_ij^2),
                         k = exp(-rate r_ij^2 / 2), and nothing of a pair whose k vanishes   (N,)
    nearest              out_i: the k smallest r_ij^2, ascending; infinite where there are fewer, or no numbers    (N, k)

The gradient by y is the same with the two sets in each other's place: distance_backward(w, y, x, g). Any N, M, D, S, zero
included. r^2 is summed in the rows' dtype: where it overflows r is infinite, and where it vanishes 0. A row's bits depend
neither on the rows beside it nor on the threads. Agreement with the reference: (80 + D) eps of the sum of the terms' sizes, a
Gaussian's taken (1 + r^2 / scale^2) times; of nearest, of each square.
Numba: rows of y lie in panels, so many as a line of the cache has values, and tiles of rows of x and of a panel are in
registers, of stein the columns of y one after another, so that a block of pairs is one loop; CUDA: a block of threads per
row, of nearest a thread.
Sources: Székely & Rizzo (2013) for energy distances; Gretton et al., A kernel two-sample test (2012); Liu, Lee & Jordan (2016)
for Stein's kernel.
"""
import numpy as np

from . import _cuda
from ._dispatch import LINE, Kernel, empty
from ._jit import entry, jit, parallel
from ._math import exp
from ._partition import n_panels
from ._tile import add_apart, sum_squares_apart, tile_rows

BLOCK = 256  # pairs at a time

# --- reference -------------------------------------------------------------------------------------------------------

def _blocks(x, y):
    """The differences (n, M, D) and distances (n, M) of some of the rows at a time, in float64."""
    rows = max(1, 2**18 // max(y.size, 1))
    with np.errstate(all="ignore"):  # infinities go where the formula takes them
        for i in range(0, len(x), rows):
            apart = x[i:i + rows, None].astype(np.float64) - y
            yield slice(i, i + rows), apart, np.sqrt(np.square(apart).sum(axis=2))


def _distance_reference(x, y, weights):
    out = np.empty(len(x), x.dtype)
    for rows, _, r in _blocks(x, y):
        out[rows] = (r * weights).sum(axis=1)
    return out


def _distance_backward_reference(g, x, y, weights):
    dx = np.empty_like(x)
    for rows, apart, r in _blocks(x, y):
        share = np.where(r == 0, 0, weights / r)
        dx[rows] = g[rows, None] * (share[:, :, None] * apart).sum(axis=1)
    return dx


def _kernels(r, scales):
    """exp(-r^2 / (2 scale^2)) of every scale, (n, M, S)."""
    return np.exp(-0.5 * np.square(r[:, :, None] / scales.astype(np.float64)))


def _gaussian_reference(x, y, weights, scales):
    out = np.empty(len(x), x.dtype)
    for rows, _, r in _blocks(x, y):
        out[rows] = (_kernels(r, scales).sum(axis=2) * weights).sum(axis=1)
    return out


def _gaussian_backward_reference(g, x, y, weights, scales):
    dx = np.empty_like(x)
    for rows, apart, r in _blocks(x, y):
        share = -weights * (_kernels(r, scales) / np.square(scales.astype(np.float64))).sum(axis=2)
        dx[rows] = g[rows, None] * (share[:, :, None] * apart).sum(axis=1)
    return dx


def _stein_reference(x, s, y, t, weights, rate):
    out, (of_x, of_y) = np.empty(len(x), x.dtype), (a.astype(np.float64) for a in (s, t))
    for rows, apart, r in _blocks(x, y):
        k, square = np.exp(-0.5 * rate * np.square(r)), np.square(r)
        across = ((of_x[rows, None] - of_y) * apart).sum(axis=2)
        with np.errstate(all="ignore"):
            u = k * (of_x[rows] @ of_y.T + rate * across + rate * x.shape[1] - rate**2 * square)
        out[rows] = (np.where(k == 0, 0, u) * weights).sum(axis=1)
    return out


def _nearest_reference(x, y, k):
    out = np.full((len(x), k), np.inf, x.dtype)
    for rows, _, r in _blocks(x, y):
        squares = np.sort(np.where(np.isnan(r), np.inf, np.square(r)), axis=1)[:, :k]
        out[rows, :squares.shape[1]] = squares
    return out


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _squares(row, columns, low, size, r):
    """r_j = |row - y_j|^2 of a block of y, of which columns (D, M) are the columns."""
    r[:size] = 0
    for d in range(row.size):
        value, column = row[d], columns[d, low:low + size]
        for j in range(size):
            apart = value - column[j]
            r[j] += apart * apart


@jit(fastmath={"reassoc"})  # the sum in lanes
def _sum(terms, size):
    total = terms.dtype.type(0)
    for j in range(size):
        total += terms[j]
    return total


@jit
def _weighted(r, weights, low, size, scales, terms):
    """terms_j = w_j r_j, or w_j sum_s exp(-r_j^2 / (2 scale_s^2)) if there are scales; r holds squares."""
    if scales is None:
        for j in range(size):
            terms[j] = weights[low + j] * np.sqrt(r[j])
        return
    terms[:size] = 0
    for s in range(scales.size):
        rate = r.dtype.type(-0.5) / (scales[s] * scales[s])
        for j in range(size):
            terms[j] += exp(rate * r[j])
    for j in range(size):
        terms[j] *= weights[low + j]


@jit
def _shares(r, weights, low, size, scales, share):
    """The factors of x_i - y_j in the gradient; r holds squares, and is written over."""
    zero = r.dtype.type(0)
    if scales is None:
        for j in range(size):
            each = weights[low + j] / np.sqrt(r[j])
            share[j] = each if r[j] != zero else zero
        return
    share[:size] = 0
    for s in range(scales.size):
        precision = r.dtype.type(1) / (scales[s] * scales[s])
        rate = r.dtype.type(-0.5) * precision
        for j in range(size):
            share[j] -= precision * exp(rate * r[j])
    for j in range(size):
        share[j] *= weights[low + j]


@jit
def _squares_of_tile(x, i, rows, y, low, size, r):
    """r[k, j] = |x_(i + k) - y_(low + j)|^2 of a tile's rows and a block of y, which lies in panels (P, D, Q)."""
    lanes = y.shape[2]
    for p in range(low // lanes, -(-(low + size) // lanes)):
        sum_squares_apart(x, False, i, rows, 0, x.shape[1], y[p], r, 0, p * lanes - low)


@jit
def _forward_panel(p, panels, x, y, weights, scales, out):
    last, M, n_rows = (p + 1) * len(x) // panels, len(weights), tile_rows()
    r, terms, totals = np.empty((n_rows, BLOCK), x.dtype), np.empty(BLOCK, x.dtype), np.empty(n_rows, np.float64)
    for i in range(p * len(x) // panels, last, n_rows):
        rows = min(n_rows, last - i)
        totals[:] = 0
        for low in range(0, M, BLOCK):
            size = min(BLOCK, M - low)
            _squares_of_tile(x, i, rows, y, low, size, r)
            for k in range(rows):
                _weighted(r[k], weights, low, size, scales, terms)
                totals[k] += _sum(terms, size)
        for k in range(rows):
            out[i + k] = totals[k]


@jit
def _backward_panel(p, panels, g, x, y, weights, scales, dx):
    last, M, D, n_rows, lanes = (p + 1) * len(x) // panels, len(weights), x.shape[1], tile_rows(), y.shape[2]
    r, share, totals = (np.empty((n_rows, BLOCK), x.dtype), np.zeros((n_rows, BLOCK), x.dtype),
                        np.empty((n_rows, D), np.float64))
    in_lines = share.reshape(n_rows, BLOCK // lanes, lanes)
    for i in range(p * len(x) // panels, last, n_rows):
        rows = min(n_rows, last - i)
        totals[:] = 0
        for low in range(0, M, BLOCK):
            size = min(BLOCK, M - low)
            _squares_of_tile(x, i, rows, y, low, size, r)
            for k in range(rows):
                _shares(r[k], weights, low, size, scales, share[k])
                share[k, size:] = 0
            for d in range(D):
                add_apart(in_lines, x, i, rows, d, y, low // lanes, -(-size // lanes), totals)
        for k in range(rows):
            for d in range(D):
                dx[i + k, d] = g[i + k] * totals[k, d]


@jit
def _stein_panel(p, panels, x, s, columns, others, weights, rate, out):
    N, M, D, zero = len(x), columns.shape[1], x.shape[1], x.dtype.type(0)
    r, terms, dot, across = (np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype),
                             np.empty(BLOCK, x.dtype))
    rate, trace, half = x.dtype.type(rate), x.dtype.type(rate * D), x.dtype.type(-0.5 * rate)
    for i in range(p * N // panels, (p + 1) * N // panels):
        total = 0.0
        for low in range(0, M, BLOCK):
            size = min(BLOCK, M - low)
            _squares(x[i], columns, low, size, r)
            dot[:size] = 0
            across[:size] = 0
            for d in range(D):
                value, slope, column, other = x[i, d], s[i, d], columns[d, low:low + size], others[d, low:low + size]
                for j in range(size):
                    dot[j] += slope * other[j]
                    across[j] += (slope - other[j]) * (value - column[j])
            for j in range(size):
                k = exp(half * r[j])
                u = k * (dot[j] + rate * across[j] + trace - rate * rate * r[j])
                terms[j] = weights[low + j] * u if k != zero else zero
            total += _sum(terms, size)
        out[i] = total


@jit
def _nearest_panel(p, panels, x, y, M, out):
    last, k, n_rows = (p + 1) * len(x) // panels, out.shape[1], tile_rows()
    r = np.empty((n_rows, BLOCK), x.dtype)
    out[p * len(x) // panels:last] = np.inf
    for i in range(p * len(x) // panels, last, n_rows):
        rows = min(n_rows, last - i)
        for low in range(0, M, BLOCK):
            size = min(BLOCK, M - low)
            _squares_of_tile(x, i, rows, y, low, size, r)
            for row in range(rows):
                found = out[i + row]
                for j in range(size):
                    if r[row, j] < found[k - 1]:
                        at = k - 1
                        while at > 0 and r[row, j] < found[at - 1]:
                            found[at] = found[at - 1]
                            at -= 1
                        found[at] = r[row, j]


@jit
def _panels_of(x, M):
    return n_panels(len(x), len(x) * M * (1 + x.shape[1] // 16))


@entry
def _forward(x, y, weights, scales, out):
    panels = _panels_of(x, len(weights))
    parallel(panels, _forward_panel, (panels, x, y, weights, scales, out))


@entry
def _backward(g, x, y, weights, scales, dx):
    panels = _panels_of(x, len(weights))
    parallel(panels, _backward_panel, (panels, g, x, y, weights, scales, dx))


@entry
def _stein(x, s, columns, others, weights, rate, out):
    panels = _panels_of(x, len(weights))
    parallel(panels, _stein_panel, (panels, x, s, columns, others, weights, rate, out))


@entry
def _nearest(x, y, M, out):
    panels = _panels_of(x, M)
    parallel(panels, _nearest_panel, (panels, x, y, M, out))


def _columns(y):
    columns = empty(y.shape[::-1], y.dtype)
    columns[...] = y.T
    return columns


def _in_panels(y):
    """Rows y (M, D) in panels (P, D, Q) of so many rows as a line of the cache has values, the last one with rows of 0."""
    lanes = LINE // y.itemsize
    whole, left = divmod(len(y), lanes)
    panels = empty((whole + (left > 0), y.shape[1], lanes), y.dtype)
    panels[:whole] = y[:whole * lanes].reshape(whole, lanes, y.shape[1]).transpose(0, 2, 1)
    if left:
        panels[whole, :, :left], panels[whole, :, left:] = y[whole * lanes:].T, 0
    return panels


def _forward_numba(x, y, weights, scales=None):
    out = empty((len(x),), x.dtype)
    _forward(x, _in_panels(y), weights, scales, out)
    return out


def _backward_numba(g, x, y, weights, scales=None):
    dx = empty(x.shape, x.dtype)
    _backward(g, x, _in_panels(y), weights, scales, dx)
    return dx


def _stein_numba(x, s, y, t, weights, rate):
    out = empty((len(x),), x.dtype)
    _stein(x, s, _columns(y), _columns(t), weights, float(rate), out)
    return out


def _nearest_numba(x, y, k):
    out = empty((len(x), k), x.dtype)
    _nearest(x, _in_panels(y), len(y), out)
    return out


# --- CUDA ------------------------------------------------------------------------------------------------------------

THREADS = 128


def _forward_cuda(x, y, weights, scales=None):
    out, (n, d) = _cuda.empty((len(x),), x.dtype), x.shape
    _cuda.launch("pairwise", "forward", _cuda.grid(n, 1), THREADS, x, y, weights, weights if scales is None else scales, out,
                 n, len(y), d, -1 if scales is None else len(scales))
    return out


def _backward_cuda(g, x, y, weights, scales=None):
    dx, (n, d) = _cuda.empty(x.shape, x.dtype), x.shape
    _cuda.launch("pairwise", "backward", _cuda.grid(n, 1), THREADS, g, x, y, weights, weights if scales is None else scales,
                 dx, n, len(y), d, -1 if scales is None else len(scales))
    return dx


def _stein_cuda(x, s, y, t, weights, rate):
    out, (n, d) = _cuda.empty((len(x),), x.dtype), x.shape
    _cuda.launch("pairwise", "stein", _cuda.grid(n, 1), THREADS, x, s, y, t, weights, out, n, len(y), d, float(rate))
    return out


def _nearest_cuda(x, y, k):
    out, (n, d) = _cuda.empty((len(x), k), x.dtype), x.shape
    _cuda.launch("pairwise", "nearest", _cuda.grid(n, THREADS), THREADS, x, y, out, n, len(y), d, k)
    return out


def _some(x, y, k):
    if k < 1:
        raise _cuda.KernelError(f"kernel pairwise.nearest: k must be at least 1, got {k!r}")
    return ()


distance = Kernel("pairwise.distance", "x(N,D) y(M,D) weights(M)",
                  reference=_distance_reference, numba=_forward_numba, cuda=_forward_cuda)
distance_backward = Kernel("pairwise.distance_backward", "g(N) x(N,D) y(M,D) weights(M)",
                           reference=_distance_backward_reference, numba=_backward_numba, cuda=_backward_cuda)
gaussian = Kernel("pairwise.gaussian", "x(N,D) y(M,D) weights(M) scales(S)",
                  reference=_gaussian_reference, numba=_forward_numba, cuda=_forward_cuda)
gaussian_backward = Kernel("pairwise.gaussian_backward", "g(N) x(N,D) y(M,D) weights(M) scales(S)",
                           reference=_gaussian_backward_reference, numba=_backward_numba, cuda=_backward_cuda)
stein = Kernel("pairwise.stein", "x(N,D) s(N,D) y(M,D) t(M,D) weights(M) rate",
               reference=_stein_reference, numba=_stein_numba, cuda=_stein_cuda)
nearest = Kernel("pairwise.nearest", "x(N,D) y(M,D) k",
                 reference=_nearest_reference, numba=_nearest_numba, cuda=_nearest_cuda, sizes=_some)
