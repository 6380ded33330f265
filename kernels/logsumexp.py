"""log of a weighted sum of exponentials along the last axis, its gradient the softmax; defined everywhere.

x (N, D), weights (W, D) with W = 1 (the same for every row; ones for a plain logsumexp) or W = N.

    forward            ans_i = log sum_j w_ij exp(x_ij)                                   (N,)
    backward           g_i w_ij exp(x_ij - ans_i), the gradient with respect to x         (N, D)
    backward_weights   g_i exp(x_ij - ans_i), the gradient with respect to row i's w      (N, D)

No term, because D = 0 or every x is -inf or every w is 0: ans = -inf and both gradients are 0. A weight of 0 drops its
entry, whatever its x. Entries of +inf: ans = +inf, the gradient is shared among them by weight, the rest get 0. A NaN
in x, or a weight that is NaN or negative: value and gradients are NaN in that row alone. Weights are finite.
Rows are independent, so the bits are the same for any thread count. Between CPUs whose vectors differ in length, or of which
one has no fused multiply-add, a sum may differ in its last bits. Agreement with the reference: (8 + D) eps of max(1, |ans|),
by far not reached.
A Zen 4 core with other work beside it takes 0.45 to 0.49 ns for a value of float32 in memory, and 0.35 (rows of 32) or 0.27
(of 4,096) for one in its cache: 0.18 of that is exp, which is its multiply-adds at the core's rate, 0.17 the sums of short
rows, each across a vector's lanes; reading the memory alone takes 0.06.
Reference: Blanchard, Higham & Higham (2021), Accurately computing log-sum-exp and softmax.
"""
import numpy as np

from . import _cuda
from ._dispatch import Kernel
from ._jit import entry, jit, parallel
from ._math import exp_fused, exp_small_fused, from_order, log, order

PIECE = 4096    # values worked on at a time, which the first cache holds
SERIAL = 65536  # values up to which waking other threads would cost more than it saves
TAME, MODERATE = 32, 2**16  # sums of w exp(x) neither overflow nor vanish where |x| < 32 and 2**-16 < w < 2**16

# --- reference -------------------------------------------------------------------------------------------------------

def _entries(x, weights):
    x, w = x.astype(float), np.broadcast_to(weights, x.shape).astype(float)
    return np.where(w > 0, x, np.where(w == 0, -np.inf, np.nan)), w


def _forward_reference(x, weights):
    entries, w = _entries(x, weights)
    shift = entries.max(axis=1, initial=-np.inf)
    shift = np.where(np.isfinite(shift), shift, 0)
    with np.errstate(divide="ignore", over="ignore"):
        return (shift + np.log((w * np.exp(entries - shift[:, None])).sum(axis=1))).astype(x.dtype)


def _gradient_reference(g, ans, x, entries, w, factor):
    """g factor exp(entries - ans), with the rows of infinite ans replaced by their limits."""
    infinite = (entries == np.inf) & (ans == np.inf)[:, None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        regular = factor * np.exp(entries - ans[:, None].astype(float))
        shared = factor / (w * infinite).sum(axis=1, keepdims=True)
        share = np.where(np.isinf(ans)[:, None], np.where(infinite, shared, 0), regular)
        return (g[:, None] * share).astype(x.dtype)


def _backward_reference(g, ans, x, weights):
    entries, w = _entries(x, weights)
    return _gradient_reference(g, ans, x, entries, w, w)


def _backward_weights_reference(g, ans, x, weights):
    entries, w = _entries(x, weights)
    return _gradient_reference(g, ans, x, np.where(w == 0, x, entries), w, 1.0)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _entry(x, w, inf):
    return x if w > 0 else (-inf if w == 0 else inf - inf)


@jit
def _tame(x):
    """Whether |x| < TAME everywhere."""
    greatest = order(x.dtype.type(0))
    for j in range(x.size):
        greatest = max(greatest, order(abs(x[j])))
    return greatest < order(x.dtype.type(TAME))


@jit
def _moderate(weights):
    """Whether all rows have the same weights, and none is far from 1."""
    if len(weights) != 1:
        return False
    for w in weights[0]:
        if not 1 / MODERATE < w < MODERATE:
            return False
    return True


@jit
def _shift(x, moderate):
    """What to take off the entries x: nothing where no sum can overflow or vanish, else the largest if that is finite."""
    greatest = order(x.dtype.type(-np.inf))
    for j in range(x.size):
        greatest = max(greatest, order(x[j]))
    largest = from_order(greatest)
    tame = moderate and abs(largest) < TAME and _tame(x)
    return largest if abs(largest) < x.dtype.type(np.inf) and not tame else x.dtype.type(0)


@jit(fastmath={"reassoc"})  # lets the sum, and nothing else, be taken in lanes
def _sum(x):
    total = x.dtype.type(0)
    for j in range(x.size):
        total += x[j]
    return total


@jit
def _repeated(x, weights):
    """The weights of a piece of rows that all have the same, (rows, D)."""
    n, d = x.shape
    tiled = np.empty((max(1, min(n, PIECE // max(1, d))), d), x.dtype)
    if len(weights) == 1:
        for i in range(len(tiled)):
            for j in range(d):
                tiled[i, j] = weights[0, j]
    return tiled


@jit
def _piece(x, weights, tiled, piece):
    """The rows of a piece, (first, last + 1), and their values and weights one after another: long loops are fast."""
    low, high = piece * len(tiled), min((piece + 1) * len(tiled), len(x))
    size = (high - low) * x.shape[1]
    w = tiled[:high - low] if len(weights) == 1 else weights[low:high]
    return low, high, x[low:high].reshape(size), w.reshape(size)


@jit
def _forward_piece(piece, x, weights, tiled, moderate, ans):
    low, high, x, w = _piece(x, weights, tiled, piece)
    shifts, terms, d, inf = ans[low:high], np.empty_like(x), tiled.shape[1], x.dtype.type(np.inf)
    sums = np.empty_like(shifts)
    if moderate and _tame(x):
        shifts[:] = 0
        for k in range(x.size):
            terms[k] = w[k] * exp_small_fused(x[k])
    else:
        for k in range(x.size):
            terms[k] = _entry(x[k], w[k], inf)
        for i in range(shifts.size):
            row = terms[i * d:(i + 1) * d]
            shifts[i] = _shift(row, moderate)
            for j in range(row.size):
                row[j] -= shifts[i]
        for k in range(x.size):
            terms[k] = w[k] * exp_fused(terms[k])
    for i in range(sums.size):
        sums[i] = _sum(terms[i * d:(i + 1) * d])
    for i in range(sums.size):
        shifts[i] += log(sums[i])


@entry
def _forward(x, weights):
    ans, tiled, moderate = np.empty(len(x), x.dtype), _repeated(x, weights), _moderate(weights)
    pieces = -(-len(x) // len(tiled))
    if x.size < SERIAL:
        for piece in range(pieces):
            _forward_piece(piece, x, weights, tiled, moderate, ans)
    else:
        parallel(pieces, _forward_piece, (x, weights, tiled, moderate, ans))
    return ans


@jit
def _share_infinite(out, g, x, w, of_weights):
    total, inf = x.dtype.type(0), x.dtype.type(np.inf)
    for j in range(x.size):
        total += w[j] if x[j] == inf else 0
    for j in range(x.size):
        out[j] = (g if of_weights else g * w[j]) / total if x[j] == inf else 0


@jit
def _gradient_piece(piece, g, ans, x, weights, tiled, of_weights, out):
    low, high, x, w = _piece(x, weights, tiled, piece)
    out, d, inf = out[low:high].reshape(x.size), tiled.shape[1], x.dtype.type(np.inf)
    for k in range(x.size):
        out[k] = x[k] if of_weights else _entry(x[k], w[k], inf)
    for i in range(high - low):
        row, log_sum = out[i * d:(i + 1) * d], ans[low + i]
        for j in range(d):
            row[j] -= log_sum
    for k in range(x.size):
        out[k] = exp_fused(out[k]) * (1 if of_weights else w[k])
    for i in range(high - low):
        part, cotangent = slice(i * d, (i + 1) * d), g[low + i]
        row = out[part]
        if ans[low + i] == inf:
            _share_infinite(row, cotangent, x[part], w[part], of_weights)
        elif ans[low + i] == -inf:
            row[:] = 0
        else:
            for j in range(d):
                row[j] *= cotangent


@entry
def _gradient(g, ans, x, weights, of_weights):
    out, tiled = np.empty_like(x), _repeated(x, weights)
    pieces = -(-len(x) // len(tiled))
    if x.size < SERIAL:
        for piece in range(pieces):
            _gradient_piece(piece, g, ans, x, weights, tiled, of_weights, out)
    else:
        parallel(pieces, _gradient_piece, (g, ans, x, weights, tiled, of_weights, out))
    return out


def _backward(g, ans, x, weights):
    return _gradient(g, ans, x, weights, False)


def _backward_weights(g, ans, x, weights):
    return _gradient(g, ans, x, weights, True)


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _forward_cuda(x, weights):
    (n, d), ans = x.shape, _cuda.empty(len(x), x.dtype)
    blocks, threads, lanes = _cuda.teams(n, d)
    _cuda.launch("logsumexp", "forward", blocks, threads, x, weights, ans, n, d, len(weights), lanes)
    return ans


def _gradient_cuda(of_weights):
    def run(g, ans, x, weights):
        (n, d), out = x.shape, _cuda.empty(x.shape, x.dtype)
        blocks, threads, lanes = _cuda.teams(n, d)
        _cuda.launch("logsumexp", "gradient", blocks, threads, g, ans, x, weights, out, n, d, len(weights), of_weights, lanes)
        return out
    return run


forward = Kernel("logsumexp.forward", "x(N,D) weights(N|1,D)", reference=_forward_reference, numba=_forward, cuda=_forward_cuda)
backward = Kernel("logsumexp.backward", "g(N) ans(N) x(N,D) weights(N|1,D)",
                  reference=_backward_reference, numba=_backward, cuda=_gradient_cuda(False))
backward_weights = Kernel("logsumexp.backward_weights", "g(N) ans(N) x(N,D) weights(N|1,D)",
                          reference=_backward_weights_reference, numba=_backward_weights, cuda=_gradient_cuda(True))
