"""log of a weighted sum of exponentials along the last axis, its gradient the softmax; defined everywhere.

x (N, D), weights (W, D) with W = 1 (the same for every row; ones for a plain logsumexp) or W = N.

    forward            ans_i = log sum_j w_ij exp(x_ij)                                   (N,)
    backward           g_i w_ij exp(x_ij - ans_i), the gradient with respect to x         (N, D)
    backward_weights   g_i exp(x_ij - ans_i), the gradient with respect to row i's w      (N, D)

No term, because D = 0 or every x is -inf or every w is 0: ans = -inf and both gradients are 0. A weight of 0 drops its
entry, whatever its x. Entries of +inf: ans = +inf, the gradient is shared among them by weight, the rest get 0. A NaN
in x, or a weight that is NaN or negative: value and gradients are NaN in that row alone. Weights are finite.
Rows are independent, so the bits are the same for any thread count (between CPUs whose vectors differ in length, a sum
may differ in its last bits). Agreement with the reference: (8 + D) eps of max(1, |ans|), by far not reached.
Reference: Blanchard, Higham & Higham (2021), Accurately computing log-sum-exp and softmax.
"""
import numpy as np

from ._dispatch import Kernel
from ._jit import jit, prange
from ._math import exp, from_order, log, order

ROWS = 64  # rows per task

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
def _shift(x, w, inf):
    """The largest entry, or 0 where that is infinite or NaN."""
    largest = order(-inf)
    for j in range(x.size):
        largest = max(largest, order(_entry(x[j], w[j], inf)))
    shift = from_order(largest)
    return shift if abs(shift) < inf else x.dtype.type(0)


@jit(fastmath={"reassoc"})  # lets the sum, and nothing else, be taken in lanes
def _sum(x, w, shift, inf):
    total = x.dtype.type(0)
    for j in range(x.size):
        total += w[j] * exp(_entry(x[j], w[j], inf) - shift)
    return total


@jit(parallel=True)
def _forward(x, weights):
    n, inf = len(x), x.dtype.type(np.inf)
    ans = np.empty(n, x.dtype)
    for chunk in prange(-(-n // ROWS)):
        low = chunk * ROWS
        sums, shifts = np.empty(min(ROWS, n - low), x.dtype), ans[low:low + ROWS]
        for i in range(sums.size):
            row, w = x[low + i], weights[(low + i) % len(weights)]
            shifts[i] = _shift(row, w, inf)
            sums[i] = _sum(row, w, shifts[i], inf)
        for i in range(sums.size):
            shifts[i] += log(sums[i])
    return ans


@jit
def _share_infinite(out, g, x, w, of_weights, inf):
    total = x.dtype.type(0)
    for j in range(x.size):
        total += w[j] if x[j] == inf else 0
    for j in range(x.size):
        out[j] = (g if of_weights else g * w[j]) / total if x[j] == inf else 0


@jit(parallel=True)
def _gradient(g, ans, x, weights, of_weights):
    out, inf = np.empty_like(x), x.dtype.type(np.inf)
    for i in prange(len(x)):
        row, w, to = x[i], weights[i % len(weights)], out[i]
        if ans[i] == inf:
            _share_infinite(to, g[i], row, w, of_weights, inf)
        elif ans[i] == -inf:
            to[:] = 0
        elif of_weights:
            for j in range(row.size):
                to[j] = g[i] * exp(row[j] - ans[i])
        else:
            for j in range(row.size):
                to[j] = g[i] * (w[j] * exp(_entry(row[j], w[j], inf) - ans[i]))
    return out


def _backward(g, ans, x, weights):
    return _gradient(g, ans, x, weights, False)


def _backward_weights(g, ans, x, weights):
    return _gradient(g, ans, x, weights, True)


forward = Kernel("logsumexp.forward", "x(N,D) weights(W,D)", reference=_forward_reference, numba=_forward)
backward = Kernel("logsumexp.backward", "g(N) ans(N) x(N,D) weights(W,D)",
                  reference=_backward_reference, numba=_backward)
backward_weights = Kernel("logsumexp.backward_weights", "g(N) ans(N) x(N,D) weights(W,D)",
                          reference=_backward_weights_reference, numba=_backward_weights)
