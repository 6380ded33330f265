"""Trajectories of an ordinary differential equation whose velocity is a network, and the log-determinant of where they lead.

    dx/dt = F(x, c; e(t)),    N = sum_g share_g net(x, c_g, e),    net = W_3 f_2(W_2 f_1(W_1 [x, c, e] + b_1) + b_2) + b_3
    F = a N + (1 - a) slope x,    a(|x|) = 1 up to reach, 0 from 1.25 reach on, a polynomial of degree 7 in |x| in between

    k_s = rate_ts F(x_t + alpha_s k_{s-1}; e_ts),    x_{t+1} = x_t + sum_s beta_s k_s
    log_det = sum_t sum_s beta_s rate_ts div F,    div net = p_2^T [W_2 * (W_1 W_3)^T] p_1,    p_l = f_l'
    div F = a div N + (1 - a) slope D + a' (N - slope x) . x / |x|

x (N, D). params (P,): weight (inputs, outputs) and bias of the three layers, one after the other; widths (4,): D + W + E, both
hidden widths, D. context (N, C): rows c_g (N, W) beside one another, C = G W, and shares (G,), what each is worth. features
(T, S, E), rim (T, S, 2) and rates (T, S): of every stage of every step; rim holds reach > 0, infinite where there is none, and
slope, by which a row goes on that is far from all that the network knows; a rate has the step's length in it. alpha and beta
(S,): an explicit Runge-Kutta method whose stages see the one before. Any N, T, W, E, zero included. f_2
is SiLU, and so is f_1 unless sine is true: then it is sin.

y (N, D) is where x leads, log_det (N,), nats, the integral of the divergence by the same stages: log |det dy/dx| up to the
solver's error. It is exact, one product more than the velocity, and not computed (0) unless it is wanted.

Numba: panels of ROWS rows, each through all steps while it is in the cache; the weights are packed once, by _product.py. No
bit of a row depends on other rows or on threads. CUDA: a few rows for every block of threads, a thread for every unit.
Agreement with the reference: rounding, which a trajectory amplifies as it does its start.
Source: Chen et al., Neural ordinary differential equations (2018); the divergence is the chain rule.
"""
import functools
import math

import numpy as np

from . import _cuda
from ._cuda import KernelError
from ._dispatch import Kernel, empty
from ._jit import NO, entry, jit, parallel
from ._layers import layer_of
from ._math import exp_fused, turn
from ._product import columns_at_once, multiply, pack_group, panel_product, part_of
from ._tile import panels_at_once, tile_columns, tile_rows
from .silu import sigmoid

ROWS = 60  # of a panel: whole tiles of 6 or 10 rows
PER_RADIAN = 1 / (2 * math.pi)  # turns
BAND = 0.25  # of reach, within which F goes over from the network's to the slope's


# --- reference -------------------------------------------------------------------------------------------------------

def _activated(z, sine=False):
    """f(z) and f'(z)."""
    if sine:
        return np.sin(z), np.cos(z)
    s = sigmoid(z)
    return z * s, s * (1 + z * (1 - s))


def _velocity(y, layers, context, shares, features, sine):
    """F (N, D) and its divergence (N,)."""
    (w1, b1), (w2, b2), (w3, b3) = layers
    F, div = np.zeros(y.shape), np.zeros(len(y))
    for share, c in zip(shares, np.split(context, len(shares), axis=1), strict=True):
        inputs = np.concatenate([y, c, np.broadcast_to(features, (len(y), len(features)))], axis=1)
        h1, p1 = _activated(inputs @ w1 + b1, sine)
        h2, p2 = _activated(h1 @ w2 + b2)
        F += share * (h2 @ w3 + b3)
        div += share * ((p1 @ (w2 * (w3 @ w1[:y.shape[1]]).T)) * p2).sum(axis=1)
    return F, div


def _held(F, div, y, reach, slope):
    """The network's F (N, D) and div (N,) at rows y within reach, and the slope's beyond."""
    r, out = np.sqrt(np.square(y).sum(axis=1)), slope * y
    u = np.clip((r / reach - 1) / BAND, 0, 1)
    share, bend = 1 - u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3), -140 * (u * (1 - u))**3 / (BAND * reach)
    across = bend * ((F - out) * y).sum(axis=1) / np.where(r > 0, r, 1)
    inside, between = r <= reach, u < 1
    F = np.where(inside[:, None], F, np.where(between[:, None], out + share[:, None] * (F - out), out))
    far = slope * y.shape[1]
    return F, np.where(inside, div, np.where(between, far + share * (div - far) + across, far))


def _reference(x, params, widths, context, shares, features, rim, rates, alpha, beta, want_log_det, sine):
    layers = [layer_of(params.astype(np.float64), widths, k) for k in range(3)]
    y, log_det = x.astype(np.float64), np.zeros(len(x))
    with np.errstate(over="ignore", invalid="ignore"):
        for e, edge, rate in zip(features, rim, rates, strict=True):
            start, k = y, 0.0
            for s in range(len(alpha)):
                at = start + alpha[s] * k
                F, div = _held(*_velocity(at, layers, context, shares, e[s], sine), at, *edge[s])
                k = rate[s] * F
                y = y + beta[s] * k
                log_det += beta[s] * rate[s] * div * want_log_det
    return y.astype(x.dtype), log_det.astype(x.dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _packed(b):
    """The panels of b (K, M) that panel_product takes, for every part of its depth: (parts, panels, depth, columns)."""
    (K, M), step = b.shape, max(1, part_of(len(b)))
    groups = -(-M // columns_at_once(b))
    out = np.empty((-(-K // step), groups * panels_at_once(), step, tile_columns(b)), b.dtype)
    for k in range(len(out)):
        pack_group(b, NO, k * step, 0, M, out[k], min(step, K - k * step))
    return out


@jit
def _product(a, packed, c, tile):
    """c = a b, of b packed."""
    at_once, (K, M), step = columns_at_once(c), (a.shape[1], c.shape[1]), packed.shape[2]
    for j in range(0, M, at_once):
        for k in range(len(packed)):
            panels = packed[k, j // tile_columns(c):]
            panel_product(a, NO, 0, k * step, panels, min(step, K - k * step), k > 0, c, j, min(at_once, M - j), tile)


@jit
def _wave(row, shift, slope, want):
    """row = sin(z) and slope = cos(z) of z = row + shift."""
    per_radian = row.dtype.type(PER_RADIAN)
    for i in range(row.size):
        u = (row[i] + shift[i]) * per_radian
        c, s = turn(u - math.floor(u))
        row[i] = s
        if want:
            slope[i] = c


@jit
def _activate(h, given, shift, p, want, sine):
    """h = f(z) and p = f'(z) of z = h + given + shift; given: one row for every row of h, or none."""
    one = h.dtype.type(1)
    for n in range(len(h)):
        row, slope = h[n], p[n]
        if given.size > 0:
            more = given[n]
            for i in range(row.size):
                row[i] += more[i]
        if sine:
            _wave(row, shift, slope, want)
        elif want:
            for i in range(row.size):
                z = row[i] + shift[i]
                s = one / (one + exp_fused(-z))
                f = z * s
                row[i], slope[i] = f, s + f * (one - s)
        else:
            for i in range(row.size):
                z = row[i] + shift[i]
                row[i] = z / (one + exp_fused(-z))


@jit(fastmath={"reassoc"})  # lets the sum be taken in lanes
def _inner(a, b):
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@jit
def _hold(F, div, y, reach, slope):
    """F (D,), the network's at a row y, as it is beyond reach; and its divergence."""
    one, r = y.dtype.type(1), math.sqrt(_inner(y, y))
    if not r > reach:
        return div
    u = min((r / reach - one) / y.dtype.type(BAND), one)
    if not u < one:
        for d in range(y.size):
            F[d] = slope * y[d]
        return slope * y.dtype.type(y.size)
    a, b, c, e = y.dtype.type(35), y.dtype.type(84), y.dtype.type(70), y.dtype.type(20)
    share = one - u * u * u * u * (a - u * (b - u * (c - e * u)))
    both, across = u * (one - u), y.dtype.type(0)
    for d in range(y.size):
        out = slope * y[d]
        off = F[d] - out
        across += off * y[d]
        F[d] = out + share * off
    far = slope * y.dtype.type(y.size)
    return far + share * (div - far) - y.dtype.type(140) * both * both * both / (y.dtype.type(BAND) * reach) * across / r


@jit
def _panel(task, x, context, shares, shifts, given_weight, w1, w2, w3, both, b2, b3, rim, rates, alpha, beta, want, sine, y,
           log_det):
    """All steps of a panel of rows; given_weight (W, H): the context's part of the first layer; both: of the divergence."""
    low, high = task * ROWS, min((task + 1) * ROWS, len(x))
    R, D, W, H, J, kind = high - low, x.shape[1], len(given_weight), given_weight.shape[1], b2.size, x.dtype
    here, total, tile = y[low:high], log_det[low:high], np.empty((tile_rows(), columns_at_once(x)), kind)
    h1, p1 = np.empty((R, H), kind), np.empty((R, H), kind)
    h2, p2, q = np.empty((R, J), kind), np.empty((R, J), kind), np.empty((R, J), kind)
    start, at, k, F, v = (np.empty((R, D), kind), np.empty((R, D), kind), np.empty((R, D), kind), np.empty((R, D), kind),
                          np.empty((R, D), kind))
    div, given = np.empty(R, kind), np.empty((len(shares), R, H if W > 0 else 0), kind)
    here[:] = x[low:high]
    total[:] = 0
    for g in range(len(shares) if W > 0 else 0):
        multiply(context[low:high, g * W:(g + 1) * W], NO, 0, given_weight, NO, 0, W, given[g], 0, H)
    for t in range(len(rates)):
        start[:] = here
        for s in range(alpha.size):
            share_of_k, rate, weight = kind.type(alpha[s]), kind.type(rates[t, s]), kind.type(beta[s])
            for n in range(R):
                a, b, c = at[n], start[n], k[n]
                for d in range(D):
                    a[d] = b[d] + share_of_k * c[d] if s > 0 else b[d]
            for g in range(len(shares)):
                share = kind.type(shares[g])
                _product(at, w1, h1, tile)
                _activate(h1, given[g], shifts[t, s], p1, want, sine)
                _product(h1, w2, h2, tile)
                _activate(h2, given[0, :, :0], b2, p2, want, False)
                _product(h2, w3, v, tile)
                if want:
                    _product(p1, both, q, tile)
                for n in range(R):
                    a, b = F[n], v[n]
                    for d in range(D):
                        more = share * (b[d] + b3[d])
                        a[d] = a[d] + more if g > 0 else more
                    if want:
                        more = share * _inner(q[n], p2[n])
                        div[n] = div[n] + more if g > 0 else more
            for n in range(R):
                div[n] = _hold(F[n], div[n], at[n], kind.type(rim[t, s, 0]), kind.type(rim[t, s, 1]))
                a, b, c = here[n], k[n], F[n]
                for d in range(D):
                    b[d] = rate * c[d]
                    a[d] += weight * b[d]
                if want:
                    total[n] += weight * rate * div[n]


@entry
def _solve(x, params, widths, context, shares, features, rim, rates, alpha, beta, want, sine, y, log_det):
    (T, S, E), D, H = features.shape, x.shape[1], widths[1]
    (first, b1), (second, b2) = layer_of(params, widths, 0), layer_of(params, widths, 1)
    third, b3 = layer_of(params, widths, 2)
    shifts, inputs = np.empty((T, S, H), x.dtype), len(first) - E  # what time gives to the first layer
    for t in range(T):
        for s in range(S):
            shifts[t, s] = b1
            for e in range(E):
                value, row, out = x.dtype.type(features[t, s, e]), first[inputs + e], shifts[t, s]
                for h in range(H):
                    out[h] += value * row[h]
    both = np.empty((H if want else 0, widths[2]), x.dtype)
    if want:
        turned = np.empty((widths[2], H), x.dtype)  # W_3 W_1, (J, H)
        multiply(third, NO, 0, first[:D], NO, 0, D, turned, 0, H)
        for h in range(H):
            for j in range(widths[2]):
                both[h, j] = second[h, j] * turned[j, h]
    parallel(-(-len(x) // ROWS), _panel,
             (x, context, shares, shifts, first[D:inputs], _packed(first[:D]), _packed(second), _packed(third), _packed(both),
              b2, b3, rim, rates, alpha, beta, want, sine, y, log_det))


def _numba(x, params, widths, context, shares, features, rim, rates, alpha, beta, want_log_det, sine):
    y, log_det = empty(x.shape, x.dtype), empty((len(x),), x.dtype)
    _solve(x, params, widths, context, shares, features, rim, rates, alpha, beta, bool(want_log_det), bool(sine), y, log_det)
    return y, log_det


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _cuda_side(x, params, widths, context, shares, features, rim, rates, alpha, beta, want_log_det, sine):
    _, H, J, D = map(int, _cuda.asnumpy(widths))
    N, (T, S, E) = len(x), features.shape
    y, log_det, work = (_cuda.empty(shape, x.dtype) for shape in (x.shape, (N,), (N, 3 * D + 2 * H + 2 * J + 2)))
    both = _cuda.empty((H, J) if want_log_det else (0, 0), x.dtype)
    if want_log_det:
        _cuda.launch("trajectory", "of_divergence", _cuda.grid(both.size, 256), 256, params, both, len(params), D, H, J)
    tables = map(_cuda.constant, (shares, features, rim, rates, alpha, beta))
    _cuda.launch("trajectory", "solve", -(-N // 4), 256, x, params, context, *tables, both, y, log_det, work, N, D, H, J,
                 context.shape[1] // len(shares), len(shares), T, S, E, bool(want_log_det), bool(sine))
    return y, log_det


@functools.lru_cache(maxsize=256)
def _sizes(widths, D, C, G, E):
    widths = np.frombuffer(widths, np.int64)
    if G < 1 or C % G or widths[0] != D + C // G + E or widths[3] != D:
        raise KernelError(f"kernel trajectory.solve: widths are {widths.tolist()}, but x has {D} columns, context {C} for {G} "
                          f"shares, and features {E}")
    return (("P", int(((widths[:-1] + 1) * widths[1:]).sum())),)


solve = Kernel("trajectory.solve", "x(N,D) params(P) widths(4):int64 context(N,C) shares(G):float64 features(T,S,E):float64 "
               "rim(T,S,2):float64 rates(T,S):float64 alpha(S):float64 beta(S):float64 want_log_det sine",
               reference=_reference, numba=_numba, cuda=_cuda_side,
               sizes=lambda x, params, widths, context, shares, features, *rest: _sizes(
                   _cuda.content(widths), x.shape[1], context.shape[1], len(shares), features.shape[2]))
