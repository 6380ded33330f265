"""Log-likelihoods of rows whose features are numbers of levels, by logits from a network, and their gradients.

    forward     sum_d l_d[x_d] - log sum_c exp(l_d[c])                                              (N,) nats
    backward    g (1 at x_d, else 0, less softmax(l_d)), the gradient with respect to the logits l  (N, M)

first (D+1,): the logits of feature d are columns first[d]..first[d+1] - 1 of the logits (N, M), which no two features share.
x (N, D): the number of a level, 0, 1, ..., or NaN for a missing one, which adds nothing. x, logits, g (N,) are of one dtype,
float32 or float64. Any N and D, zero included.

A logit that is sure and right loses no digit, neither in its likelihood, which is near 0, nor in its gradient. Logits beyond
+-M / 4 count as that, M the largest number: so do those of -inf. An x that is no number of a level makes its row's
log-likelihood NaN, and its feature's gradient; so does a NaN in the logits.
Rows are independent, so the bits are the same for any thread count (between CPUs whose vectors differ in length, a sum
may differ in its last bits). Agreement with the reference: (16 + D / 16 + the most levels) eps of the sum of the terms' sizes.
"""
import functools

import numpy as np

from . import _cuda
from ._cuda import KernelError
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel
from ._math import exp, log1p
from ._partition import n_panels

# --- reference -------------------------------------------------------------------------------------------------------

def _clipped(logits):
    most = float(np.finfo(logits.dtype).max) / 4
    return logits.astype(float).clip(-most, most)


def _feature(x, logits):
    """Of one feature: softmax's numerators, 0 for the largest, (N, C), their sum and the column of the largest; its level, or
    -1, where it is known, and where that is missing, (N,); the logit of that level less the largest.
    """
    levels, rows = logits.shape[1], np.arange(len(x))
    missing, known = np.isnan(x), (x >= 0) & (x < levels) & (x == np.floor(x))
    level, top = np.where(known, x, -1).astype(int), logits.argmax(axis=1)
    shifted = logits - logits[rows, top, None]
    odds = np.exp(shifted)
    odds[rows, top] *= 0
    return odds, odds.sum(axis=1), top, level, missing, np.where(known, shifted[rows, level], np.nan)


def _forward_reference(x, logits, first):
    ans, clipped = np.zeros(len(x)), _clipped(logits)
    with np.errstate(over="ignore"):
        for d, (low, high) in enumerate(zip(first, first[1:], strict=False)):
            if low == high:
                ans += np.where(np.isnan(x[:, d]), 0, np.nan)
            else:
                _, rest, _, _, missing, of_level = _feature(x[:, d], clipped[:, low:high])
                ans += np.where(missing, 0, of_level - np.log1p(rest))
        return ans.astype(x.dtype)


def _backward_reference(g, x, logits, first):
    dlogits, clipped, rows = np.zeros(logits.shape), _clipped(logits), np.arange(len(x))
    for d, (low, high) in enumerate(zip(first, first[1:], strict=False)):
        if low < high:
            odds, rest, top, level, missing, of_level = _feature(x[:, d], clipped[:, low:high])
            others = np.where(level == top, rest, 1 + rest - odds[rows, level])
            odds[rows, top] = 1
            odds[rows, level] = -others
            wrong = np.where(np.isnan(of_level), np.nan, 1)
            dlogits[:, low:high] = np.where(missing, 0, -g * wrong / (1 + rest))[:, None] * odds
            dlogits[missing, low:high] = 0
    return dlogits.astype(x.dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _clip(logit, largest):
    logit = -largest if logit < -largest else logit
    return largest if logit > largest else logit


@jit
def _column(x, low, high):
    """Where the logit of a level is, or -1."""
    if x >= 0 and x < high - low:
        level = np.int64(x)
        return low + level if level == x else -1
    return -1


@jit
def _odds(logits, first, largest, odds, peaks, tops, rests):
    """exp(l - the feature's largest) (M,), 0 for the largest itself; the largest (D,), their columns and the sums."""
    for d in range(rests.size):
        peak, top = -largest, first[d]
        for k in range(first[d], first[d + 1]):
            odds[k] = _clip(logits[k], largest)
            if odds[k] > peak:
                peak, top = odds[k], k
        for k in range(first[d], first[d + 1]):
            odds[k] -= peak
        if top < first[d + 1]:
            odds[top] -= largest
        peaks[d], tops[d] = peak, top
    for k in range(odds.size):
        odds[k] = exp(odds[k])
    for d in range(rests.size):
        total = odds.dtype.type(0)
        for k in range(first[d], first[d + 1]):
            total += odds[k]
        rests[d] = total


@jit(fastmath={"reassoc"})  # lets the sum, and nothing else, be taken in lanes
def _sum(terms, rests):
    total = terms.dtype.type(0)
    for d in range(terms.size):
        total += terms[d] - log1p(rests[d])
    return total


@jit
def _forward_panel(p, panels, x, logits, first, largest, ans):
    (N, D), M, real = x.shape, logits.shape[1], x.dtype.type
    largest = real(largest)
    odds, peaks, tops, rests = np.empty(M, x.dtype), np.empty(D, x.dtype), np.empty(D, np.int64), np.empty(D, x.dtype)
    for n in range(p * N // panels, (p + 1) * N // panels):
        _odds(logits[n], first, largest, odds, peaks, tops, rests)
        for d in range(D):
            k = _column(x[n, d], first[d], first[d + 1])
            if k >= 0:
                peaks[d] = _clip(logits[n, k], largest) - peaks[d]
            else:  # missing, or no level
                peaks[d], rests[d] = real(0) if x[n, d] != x[n, d] else real(np.nan), real(0)
        ans[n] = _sum(peaks, rests)


@entry
def _forward(x, logits, first, largest, ans):
    panels = n_panels(len(x), 2 * logits.size)
    parallel(panels, _forward_panel, (panels, x, logits, first, largest, ans))


@jit
def _backward_panel(p, panels, g, x, logits, first, largest, dlogits):
    (N, D), real = x.shape, x.dtype.type
    largest = real(largest)
    peaks, tops, rests = np.empty(D, x.dtype), np.empty(D, np.int64), np.empty(D, x.dtype)
    for n in range(p * N // panels, (p + 1) * N // panels):
        odds = dlogits[n]
        _odds(logits[n], first, largest, odds, peaks, tops, rests)
        for d in range(D):
            k, top, rest = _column(x[n, d], first[d], first[d + 1]), tops[d], rests[d]
            if k >= 0:
                scale = g[n] / (real(1) + rest)
                others = rest if k == top else real(1) + rest - odds[k]
                odds[top] = real(1)
                for j in range(first[d], first[d + 1]):
                    odds[j] *= -scale
                odds[k] = scale * others
            else:
                odds[first[d]:first[d + 1]] = real(0) if x[n, d] != x[n, d] else real(np.nan)


@entry
def _backward(g, x, logits, first, largest, dlogits):
    panels = n_panels(len(x), 2 * logits.size)
    parallel(panels, _backward_panel, (panels, g, x, logits, first, largest, dlogits))


def _largest(x):
    return float(np.finfo(x.dtype).max) / 4


def _forward_numba(x, logits, first):
    ans = empty(len(x), x.dtype)
    _forward(x, logits, first, _largest(x), ans)
    return ans


def _backward_numba(g, x, logits, first):
    dlogits = empty(logits.shape, x.dtype)
    _backward(g, x, logits, first, _largest(x), dlogits)
    return dlogits


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _forward_cuda(x, logits, first):
    (n, d), m, ans = x.shape, logits.shape[1], _cuda.empty(len(x), x.dtype)
    blocks, threads, lanes = _cuda.teams(n, d)
    _cuda.launch("categorical", "forward", blocks, threads, x, logits, _cuda.constant(first), ans, n, d, m, lanes)
    return ans


def _backward_cuda(g, x, logits, first):
    (n, d), m, dlogits = x.shape, logits.shape[1], _cuda.empty(logits.shape, x.dtype)
    blocks, threads, lanes = _cuda.teams(n, d)
    _cuda.launch("categorical", "backward", blocks, threads, g, x, logits, _cuda.constant(first), dlogits, n, d, m, lanes)
    return dlogits


@functools.lru_cache(maxsize=256)
def _size(first):
    first = np.frombuffer(first, np.int64)
    if not len(first) or first[0] != 0 or np.any(np.diff(first) < 0):
        raise KernelError("kernel categorical: first must be 0, then where each next feature's logits begin, and their number")
    return [("M", int(first[-1]))]


forward = Kernel("categorical.forward", "x(N,D) logits(N,M) first(D+1):int64", reference=_forward_reference,
                 numba=_forward_numba, cuda=_forward_cuda, sizes=lambda x, logits, first: _size(_cuda.content(first)))
backward = Kernel("categorical.backward", "g(N) x(N,D) logits(N,M) first(D+1):int64", reference=_backward_reference,
                  numba=_backward_numba, cuda=_backward_cuda, sizes=lambda g, x, logits, first: _size(_cuda.content(first)))
