"""Gibbs chains of restricted Boltzmann machines, at one inverse temperature or along a ladder of them, with their weights.

    chain       along a ladder, with the weights log w
    contrast    T steps at t = 1, and the activations of the rows that chains are held against, and of the chains
    centred     u - seen and g (active - sigmoid(a)), whose product is the weight's gradient of sum_n g_n F(u_n), centred

    log p*_t(v) = s(v) + ((1 - t) base + t visible) . v + sum_j log(1 + exp(t (hidden + v W)_j)),    0 <= t <= 1
    s(v)        = 0 for BERNOULLI, v in {0, 1}^V;  -|v|^2 / 2 for NORMAL, v in R^V

    step k      h_j ~ Bernoulli(sigmoid(t (hidden + v W)_j)), then with m = (1 - t) base + t (visible + W h)
                v_i ~ Bernoulli(sigmoid(m_i)) or N(m_i, 1), at t = ladder[k], k = 1..T: p*_t stays as it is
    log w       = sum_k log p*_ladder[k](v_(k-1)) - log p*_ladder[k-1](v_(k-1)): from v_0 ~ p_ladder[0] on, E[w] is the ratio
                of the normalisers, Z_ladder[T] / Z_ladder[0]. At rest, ladder = 1, 1, ..., it is 0

weight (V,H), ladder (T+1,), state v_0 (N,V); code BERNOULLI or NORMAL; visible, base (B,V), hidden (B,H): biases of all rows,
B = 1, or of each its own, B = N, as given a context of its own.
Answers: v_T (N,V), and log w (N,) in float64; of contrast v_T, and hidden + u W (R+N,H) of u = rows (R,V), then of u = v_T,
where R = N if B > 1; of centred (N,V) and (N,H), for g (N,), u (N,V), a (N,H), seen (V,), active (H,). The noise of row n at
step k is that of the stream (key0, key1), see random.py: for h uniforms from start_hidden + (n T + k - 1) H on, for v uniforms
or normals from start_visible + (n T + k - 1) V on.

Any N, V, H, T, zero included. The arithmetic of a step is of the arrays' dtype. No bit depends on threads, nor any of a row on
the rows beside it. A unit whose probability is within rounding of its uniform may fall either way.
Numba: a chain is of panels of rows that wait for nobody, contrast of panels of columns, so that the weight is packed once for
all rows; products by _product.py. CUDA: a block of threads for a row, the same units but for sums' roundings.
Sources: Smolensky (1986); Geman & Geman (1984); Neal, Annealed importance sampling (2001); Salakhutdinov & Murray (2008).
"""
import numpy as np

from . import _cuda, masked_matmul, random
from ._constants import BERNOULLI, NORMAL
from ._cuda import KernelError
from ._dispatch import Kernel, empty
from ._jit import NO, YES, entry, jit, parallel
from ._math import exp, log1p
from ._partition import WAKING, n_panels, rows_of
from ._product import columns_at_once, multiply
from .random import fill_normal, fill_uniform, spawned

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


def _contrast_reference(weight, visible, hidden, state, rows, steps, *stream):
    v, _ = _reference(weight, visible, hidden, visible, np.ones(steps + 1, state.dtype), state, *stream)
    return v, np.concatenate([hidden + u.astype(np.float64) @ weight for u in (rows, v)]).astype(state.dtype)


def _centred_reference(g, u, a, seen, active):
    return u - seen, (g[:, None] * (active - np.exp(-_softplus(-a.astype(np.float64))))).astype(u.dtype)


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
def _hidden_units(a, hidden, before, t, first, k, steps, key0, key1, start, h, u, rise):
    """h (R, H) at t of the rows from number `first` on, of v W = a; rise: what log p* grows by from `before` to t, of a."""
    rows, H = a.shape
    nothing = np.zeros(H, a.dtype)
    _draw(fill_uniform, u, first, k, steps, key0, key1, start)
    for r in range(rows):
        bias = hidden[first + r if len(hidden) > 1 else 0]
        if t != before:
            for j in range(H):
                h[r, j] = bias[j] + a[r, j]
            rise[r] += np.float64(_rise(h[r], before, t))
        _heads_into(u[r], nothing, t, a[r], bias, h[r])


@jit
def _visible_units(m, visible, base, code, t, first, k, steps, key0, key1, start, v, noise, rest):
    """v (R, V) at t of the rows from number `first` on, of W h = m."""
    (rows, V), one, own = v.shape, v.dtype.type(1), len(visible) > 1
    if code == NORMAL:
        _draw(fill_normal, noise, first, k, steps, key0, key1, start)
    else:
        _draw(fill_uniform, noise, first, k, steps, key0, key1, start)
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
def _panel(weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible, first, v, log_w):
    """Move the rows v (R, V), from number `first` on, along the ladder."""
    (rows, V), H, T, own = v.shape, hidden.shape[1], ladder.size - 1, len(hidden) > 1
    a, h, u = np.empty((rows, H), v.dtype), np.empty((rows, H), v.dtype), np.empty((rows, H), v.dtype)
    m, noise, rest = np.empty((rows, V), v.dtype), np.empty((rows, V), v.dtype), np.empty(V, v.dtype)
    log_w[:] = 0
    for k in range(T):
        before, t = ladder[k], ladder[k + 1]
        multiply(v, NO, 0, weight, NO, 0, V, a, 0, H)
        if t != before:
            for r in range(rows):
                at = first + r if own else 0
                log_w[r] += np.float64(t - before) * np.float64(_tilt(v[r], visible[at], base[at]))
        _hidden_units(a, hidden, before, t, first, k, T, key0, key1, start_hidden, h, u, log_w)
        multiply(h, NO, 0, weight, YES, 0, H, m, 0, V)
        _visible_units(m, visible, base, code, t, first, k, T, key0, key1, start_visible, v, noise, rest)


@jit
def _panel_of(p, panels, weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible, v, log_w):
    low, high = rows_of(p, panels, len(v))
    _panel(weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible, low, v[low:high],
           log_w[low:high])


@entry
def _chain(weight, visible, hidden, base, ladder, state, code, key0, key1, start_hidden, start_visible):
    v, log_w, panels = state.copy(), np.zeros(len(state)), n_panels(len(state), ladder.size * 10 * state.size)
    parallel(panels, _panel_of, (panels, weight, visible, hidden, base, ladder, code, key0, key1, start_hidden, start_visible,
                                 v, log_w))
    return v, log_w


@jit
def _columns(t, x, weight, turned, out):
    """Columns of x W, or of x W^T, as many as go at once."""
    q = columns_at_once(out)
    multiply(x, NO, 0, weight, turned, 0, x.shape[1], out, t * q, min((t + 1) * q, out.shape[1]))


@jit
def _multiply(x, weight, turned, out):
    """out = x W, or x W^T."""
    columns = -(-out.shape[1] // columns_at_once(out))
    if len(x) * weight.size < 50 * WAKING:
        for t in range(columns):
            _columns(t, x, weight, turned, out)
    else:
        parallel(columns, _columns, (x, weight, turned, out))


@jit
def _hidden_of(p, panels, a, hidden, k, steps, key0, key1, start, h, u):
    low, high = rows_of(p, panels, len(h))
    t = h.dtype.type(1)
    _hidden_units(a[low:high], hidden, t, t, low, k, steps, key0, key1, start, h[low:high], u[low:high], np.empty(0))


@jit
def _visible_of(p, panels, m, visible, code, k, steps, key0, key1, start, v, noise):
    low, high = rows_of(p, panels, len(v))
    _visible_units(m[low:high], visible, visible, code, v.dtype.type(1), low, k, steps, key0, key1, start, v[low:high],
                   noise[low:high], np.empty(v.shape[1], v.dtype))


@jit
def _biased_of(p, panels, hidden, rows, a):
    """a += hidden; of each row its own, of the first `rows` as of the others."""
    low, high = rows_of(p, panels, len(a))
    for r in range(low, high):
        bias = hidden[0 if len(hidden) == 1 else r % rows]
        for j in range(bias.size):
            a[r, j] += bias[j]


@entry
def _contrast(weight, visible, hidden, both, rows, steps, code, key0, key1, start_hidden, start_visible, a, h, u, m, noise):
    """both (R + N, V): rows, then the state, which is moved in place."""
    v = both[rows:]
    _multiply(both, weight, NO, a)
    panels, more = n_panels(len(v), v.size + h.size), n_panels(len(both), a.size)
    for k in range(steps):
        parallel(panels, _hidden_of, (panels, a[rows:], hidden, k, steps, key0, key1, start_hidden, h, u))
        _multiply(h, weight, YES, m)
        parallel(panels, _visible_of, (panels, m, visible, code, k, steps, key0, key1, start_visible, v, noise))
        _multiply(v, weight, NO, a[rows:])
    parallel(more, _biased_of, (more, hidden, rows, a))


def _contrast_numba(weight, visible, hidden, state, rows, steps, *stream):
    (R, V), N, H, dtype = rows.shape, len(state), hidden.shape[1], state.dtype
    both, a = empty((R + N, V), dtype), empty((R + N, H), dtype)
    both[:R], both[R:] = rows, state
    _contrast(weight, visible, hidden, both, R, steps, *stream, a, empty((N, H), dtype), empty((N, H), dtype),
              empty((N, V), dtype), empty((N, V), dtype))
    return both[R:], a


@jit
def _centred_of(p, panels, g, u, a, seen, active, units, on):
    one, (low, high) = u.dtype.type(1), rows_of(p, panels, len(g))
    for n in range(low, high):
        for i in range(seen.size):
            units[n, i] = u[n, i] - seen[i]
        for j in range(active.size):
            on[n, j] = g[n] * (active[j] - one / (one + exp(-a[n, j])))


@entry
def _centred(g, u, a, seen, active, units, on):
    panels = n_panels(len(g), u.size + 4 * a.size)
    parallel(panels, _centred_of, (panels, g, u, a, seen, active, units, on))


def _centred_numba(g, u, a, seen, active):
    units, on = empty(u.shape, u.dtype), empty(a.shape, a.dtype)
    _centred(g, u, a, seen, active, units, on)
    return units, on


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _chain_cuda(weight, visible, hidden, base, ladder, state, code, key0, key1, start_hidden, start_visible):
    (N, V), H, v = state.shape, hidden.shape[1], state.copy()
    log_w, units = _cuda.empty((N,), np.float64), _cuda.empty((N, H), state.dtype)
    turned = _cuda.asarray(weight.T)  # so that neighbouring threads read neighbouring values in both products
    _cuda.launch("gibbs", "chain", _cuda.grid(N, 1), 256, weight, turned, visible, hidden, base, ladder, v, units, log_w, N, V,
                 H, len(ladder) - 1, len(hidden) > 1, code == NORMAL, int(key0), int(key1), *spawned(key0),
                 start_hidden, start_visible)
    return v, log_w


def _contrast_cuda(weight, visible, hidden, state, rows, steps, *stream):
    ladder = np.ones_like(state, shape=(steps + 1,))
    v, _ = _chain_cuda(weight, visible, hidden, visible, ladder, state, *stream)
    nothing, all_of_it = np.zeros_like(hidden, shape=(0, 0)), np.array([[0, hidden.shape[1], len(weight), len(weight)]])
    a = masked_matmul.forward(np.concatenate([rows, v]), weight, np.zeros_like(hidden[0]), nothing, all_of_it)
    return v, a + (hidden if len(hidden) == 1 else np.concatenate([hidden, hidden]))


def _centred_cuda(g, u, a, seen, active):
    units, on, (V, H) = _cuda.empty(u.shape, u.dtype), _cuda.empty(a.shape, a.dtype), (len(seen), len(active))
    _cuda.launch("gibbs", "centred", _cuda.grid(units.size + on.size, 256), 256, g, u, a, seen, active, units, on, len(g), V, H)
    return units, on


def _known_code(name, code):
    if code not in (BERNOULLI, NORMAL):
        raise KernelError(f"kernel {name}: code must be BERNOULLI or NORMAL, got {code!r}")


def _chain_sizes(weight, visible, hidden, base, ladder, state, code, *stream):
    _known_code("gibbs.chain", code)
    return ("L", max(1, len(ladder))), ("B", 1, len(state))


def _contrast_sizes(weight, visible, hidden, state, rows, steps, code, *stream):
    _known_code("gibbs.contrast", code)
    return ("B", 1, len(state)), ("R", len(rows) if len(hidden) == 1 else len(state))


chain = Kernel("gibbs.chain", "weight(V,H) visible(B,V) hidden(B,H) base(B,V) ladder(L) state(N,V) code key0 key1 "
               "start_hidden start_visible", reference=_reference, numba=_chain, cuda=_chain_cuda, sizes=_chain_sizes)
contrast = Kernel("gibbs.contrast", "weight(V,H) visible(B,V) hidden(B,H) state(N,V) rows(R,V) steps code key0 key1 "
                  "start_hidden start_visible", reference=_contrast_reference, numba=_contrast_numba, cuda=_contrast_cuda,
                  sizes=_contrast_sizes)
centred = Kernel("gibbs.centred", "g(N) u(N,V) a(N,H) seen(V) active(H)", reference=_centred_reference, numba=_centred_numba,
                 cuda=_centred_cuda)
