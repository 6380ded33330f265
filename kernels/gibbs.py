"""Gibbs chains of restricted Boltzmann machines, at one inverse temperature or along a ladder of them, with their weights.

    log p*_t(v) = s(v) + ((1 - t) base + t visible) . v + sum_j log(1 + exp(t (hidden + v W)_j)),    0 <= t <= 1
    s(v)        = 0 for BERNOULLI, v in {0, 1}^V;  -|v|^2 / 2 for NORMAL, v in R^V

    step k      h_j ~ Bernoulli(sigmoid(t (hidden + v W)_j)), then with m = (1 - t) base + t (visible + W h)
                v_i ~ Bernoulli(sigmoid(m_i)) or N(m_i, 1), at t = ladder[k], k = 1..T: p*_t stays as it is
    log w       = sum_k log p*_ladder[k](v_(k-1)) - log p*_ladder[k-1](v_(k-1)): from v_0 ~ p_ladder[0] on, E[w] is the ratio
                of the normalisers, Z_ladder[T] / Z_ladder[0]. At rest, ladder = 1, 1, ..., it is 0

weight (V,H), ladder (T+1,), state v_0 (N,V); code BERNOULLI or NORMAL; visible, base (B,V), hidden (B,H): biases of all rows,
B = 1, or of each its own, B = N, as given a context of its own.
Answers: v_T (N,V), and log w (N,) in float64. The noise of row n at step k is that of the stream (key0, key1), see random.py:
for h uniforms from start_hidden + (n T + k - 1) H on, for v uniforms or normals from start_visible + (n T + k - 1) V on.

Any N, V, H, T, zero included. The arithmetic of a step is of the arrays' dtype. No bit depends on threads, nor any of a row on
the rows beside it. A unit whose probability is within rounding of its uniform may fall either way.
Numba: panels of rows, products by _tile.py. CUDA: a block of threads for a row, the same units but for sums' roundings.
Sources: Smolensky (1986); Geman & Geman (1984); Neal, Annealed importance sampling (2001); Salakhutdinov & Murray (2008).
"""
import numpy as np

from . import _cuda, random
from ._constants import BERNOULLI, NORMAL
from ._cuda import KernelError
from ._dispatch import Kernel
from ._jit import NO, YES, entry, jit, parallel
from ._math import exp, log1p
from ._tile import multiply
from .masked_matmul import _panels, _rows_of
from .random import fill_normal, fill_uniform

# --- reference -------------------------------------------------------------------------------------------------------

def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _heads(u, logits):
    """Whether each uniform is below the sigmoid of its logit."""
    with np.errstate(over="ignore"):
        return (u * (1 + np.exp(-logits)) < 1).astype(np.float64)


def _reference(weight, visible, hidden, base, ladder, state, code, key0, key1, start_hidden, start_visible):
    (N, V), H, T, dtype = state.shape, hidden.shape[1], len(ladder) - 1, state.dtype
    draw = random.normal if code == NORMAL else random.uniform
    u = random.uniform.reference(np.empty(N * T * H, dtype), key0, key1, start_hidden).reshape(N, T, H)
    noise = draw.reference(np.empty(N * T * V, dtype), key0, key1, start_visible).reshape(N, T, V)
    weight, visible, hidden, base, v = (a.astype(np.float64) for a in (weight, visible, hidden, base, state))
    log_w = np.zeros(N)
    for k, (before, t) in enumerate(zip(map(float, ladder[:-1]), map(float, ladder[1:]), strict=True)):
        a = hidden + v @ weight
        log_w += (t - before) * (v * (visible - base)).sum(axis=1) + (_softplus(t * a) - _softplus(before * a)).sum(axis=1)
        m = (1 - t) * base + t * (visible + _heads(u[:, k], t * a) @ weight.T)
        v = m + noise[:, k] if code == NORMAL else _heads(noise[:, k], m)
    return v.astype(dtype), log_w


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _draw(fill, noise, first, k, steps, key0, key1, start):
    """The noise (R, M) of a step for the rows from `first` on: in one piece if it lies so."""
    rows, size = noise.shape
    if steps == 1:
        fill(noise.reshape(rows * size), key0, key1, start + first * size)
        return
    for r in range(rows):
        fill(noise[r], key0, key1, start + ((first + r) * steps + k) * size)


@jit(fastmath={"reassoc"})  # the sum in lanes
def _rise(activation, before, t):
    """sum_j log(1 + exp(t a_j)) - log(1 + exp(before a_j))."""
    total, zero = activation.dtype.type(0), activation.dtype.type(0)
    for j in range(activation.size):
        high, low = t * activation[j], before * activation[j]
        total += max(high, zero) - max(low, zero) + (log1p(exp(-abs(high))) - log1p(exp(-abs(low))))
    return total


@jit(fastmath={"reassoc"})
def _tilt(v, visible, base):
    total = v.dtype.type(0)
    for i in range(v.size):
        total += v[i] * (visible[i] - base[i])
    return total


@jit
def _heads_into(noise, shift, slope, a, bias, out):
    """out = 1 where the uniform is below the sigmoid of shift + slope (bias + a), else 0."""
    one, zero = out.dtype.type(1), out.dtype.type(0)
    for j in range(out.size):
        out[j] = one if noise[j] * (one + exp(-(shift[j] + slope * (bias[j] + a[j])))) < one else zero


@jit
def _panel(weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible, first, v, log_w):
    """Move the rows v (R, V), from number `first` on, along the ladder."""
    (rows, V), H, T, one, own = v.shape, hidden.shape[1], ladder.size - 1, v.dtype.type(1), len(hidden) > 1
    a, h, u = np.empty((rows, H), v.dtype), np.empty((rows, H), v.dtype), np.empty((rows, H), v.dtype)
    m, noise, nothing = np.empty((rows, V), v.dtype), np.empty((rows, V), v.dtype), np.zeros(H, v.dtype)
    rest = np.empty(V, v.dtype)
    log_w[:] = 0
    for k in range(T):
        before, t = ladder[k], ladder[k + 1]
        multiply(v, NO, 0, weight, NO, 0, V, a, 0, H)
        _draw(fill_uniform, u, first, k, T, key0, key1, start_hidden)
        for r in range(rows):
            at = first + r if own else 0
            if t != before:
                for j in range(H):
                    h[r, j] = hidden[at, j] + a[r, j]
                log_w[r] += np.float64(t - before) * np.float64(_tilt(v[r], visible[at], base[at]))
                log_w[r] += np.float64(_rise(h[r], before, t))
            _heads_into(u[r], nothing, t, a[r], hidden[at], h[r])
        multiply(h, NO, 0, weight, YES, 0, H, m, 0, V)
        if code == NORMAL:
            _draw(fill_normal, noise, first, k, T, key0, key1, start_visible)
        else:
            _draw(fill_uniform, noise, first, k, T, key0, key1, start_visible)
        for r in range(rows):
            at = first + r if own else 0
            if own or r == 0:
                for i in range(V):
                    rest[i] = (one - t) * base[at, i]
            if code == NORMAL:
                for i in range(V):
                    v[r, i] = rest[i] + t * (visible[at, i] + m[r, i]) + noise[r, i]
            else:
                _heads_into(noise[r], rest, t, m[r], visible[at], v[r])


@jit
def _panel_of(p, panels, weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible, v, log_w):
    low, high = _rows_of(p, panels, len(v))
    _panel(weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible, low, v[low:high],
           log_w[low:high])


@entry
def _numba(weight, visible, hidden, base, ladder, state, code, key0, key1, start_hidden, start_visible):
    v, log_w, panels = state.copy(), np.zeros(len(state)), _panels(len(state))
    parallel(panels, _panel_of, (panels, weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible,
                                 v, log_w))
    return v, log_w


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _cuda_side(weight, visible, hidden, base, ladder, state, code, key0, key1, start_hidden, start_visible):
    (N, V), H, v = state.shape, hidden.shape[1], state.copy()
    log_w, units = _cuda.empty((N,), np.float64), _cuda.empty((N, H), state.dtype)
    turned = _cuda.asarray(weight.T)  # so that neighbouring threads read neighbouring values in both products
    _cuda.launch("gibbs", "chain", _cuda.grid(N, 1), 256, weight, turned, visible, hidden, base, ladder, v, units, log_w, N, V,
                 H, len(ladder) - 1, len(hidden) > 1, code == NORMAL, key0, key1, start_hidden, start_visible)
    return v, log_w


def _sizes(weight, visible, hidden, base, ladder, state, code, *stream):
    if code not in (BERNOULLI, NORMAL):
        raise KernelError(f"kernel gibbs.chain: code must be BERNOULLI or NORMAL, got {code!r}")
    return ("L", max(1, len(ladder))), ("B", 1, len(state))


chain = Kernel("gibbs.chain", "weight(V,H) visible(B,V) hidden(B,H) base(B,V) ladder(L) state(N,V) code key0 key1 "
               "start_hidden start_visible", reference=_reference, numba=_numba, cuda=_cuda_side, sizes=_sizes)
