"""Langevin chains of a mixture of Gaussians that a network's energy corrects, with or without Metropolis and Hastings' step.

    log p*(z)   = log sum_k exp(offset_k - |y_k|^2 / 2) - f(z, c),    y_k = clip((z - centre) / scale) P_k - shift_k
    f           = SiLU layers of [z, c], then one number
    step k      y = z + step s(z) + sqrt(2 step) e,  s = grad log p*,  e ~ N(0, I);  y = z where that is not finite
    adjusted    y is taken if log u < log p*(y) - log p*(z) + |e|^2 / 2 - |z - y - step s(y)|^2 / (4 step), u ~ U(0, 1), which
                keeps p* (MALA); else always, which keeps a density near it

z (N,D). params (P,): weight (inputs, outputs) and bias of every layer, one after the other; widths (L,), L >= 3: D + W, the
hidden ones, 1. context (N,W). The mixture is that of em.py: centre, scale (D,), offset (K,), shift (K,D), factor (G,B,D).
Answers: z (N,D) after T steps, and of how many of them a row took what was proposed, (N,) in float64. The noise of row n at
step k is that of the stream (key0, key1), see random.py: e from start_normal + (n T + k) D on, u at start_uniform + n T + k.

Any N, D, W, T, zero included. The network's arithmetic is of the arrays' dtype, all else float64. No bit of a row depends on
other rows or on threads. Agreement with the reference: rounding, by which a row may fall either way whose u is that near.
Numba: panels of ROWS rows, each through all steps, products by _product.py. CUDA: a block of threads for a row.
Sources: Roberts & Tweedie, Exponential convergence of Langevin distributions and their discrete approximations (1996);
Roberts & Rosenthal, Optimal scaling of discrete approximations to Langevin diffusions (1998).
"""
import functools
import math

import numpy as np

from . import _cuda, random
from ._cuda import KernelError
from ._dispatch import Kernel
from ._jit import NO, YES, entry, jit, parallel
from ._layers import layer_of
from ._math import exp, exp_fused, log
from ._product import multiply
from .em import FAR
from .random import fill_normal, fill_uniform, spawned
from .silu import sigmoid

ROWS = 60  # of a panel: whole tiles of 6 or 10 rows
DRAWN = 512  # normals of a row that are drawn at a time


# --- reference -------------------------------------------------------------------------------------------------------

def _network(z, params, widths, context):
    """f (N,) and its slope by z (N, D)."""
    h, slopes, layers = np.concatenate([z, context], axis=1), [], len(widths) - 1
    for k in range(layers - 1):
        weight, bias = layer_of(params, widths, k)
        a = h @ weight + bias
        s = sigmoid(a)
        h = a * s
        slopes.append(s + h * (1 - s))
    weight, bias = layer_of(params, widths, layers - 1)
    f, delta = (h @ weight + bias)[:, 0], np.ones((len(z), 1)) * weight[:, 0]
    for k in range(layers - 2, -1, -1):
        delta = (delta * slopes[k]) @ layer_of(params, widths, k)[0].T
    return f, delta[:, :z.shape[1]]


def _mixture(z, centre, scale, offset, shift, factor):
    """The mixture's log-density (N,), but for a constant, and its slope (N, D)."""
    w = np.clip((z - centre) / scale, -FAR, FAR)
    y = (w * factor if factor.shape[1] == 1 else w @ factor) - shift[:, None]
    joint = offset[:, None] - np.square(y).sum(axis=2) / 2
    total = np.logaddexp.reduce(joint, axis=0)
    back = y * factor if factor.shape[1] == 1 else y @ factor.transpose(0, 2, 1)
    return total, -(np.exp(joint - total)[:, :, None] * back).sum(axis=0) / scale


def _reference(z, params, widths, context, centre, scale, offset, shift, factor, steps, step, adjusted, key0, key1,
               start_normal, start_uniform):
    (N, D), dtype = z.shape, z.dtype
    e = random.normal.reference(np.empty(N * steps * D, dtype), key0, key1, start_normal).reshape(N, steps, D).astype(float)
    u = random.uniform.reference(np.empty(N * steps, dtype), key0, key1, start_uniform).reshape(N, steps).astype(float)
    params, context, z, taken = params.astype(float), context.astype(float), z.astype(float), np.zeros(N)

    def at(z):
        (density, score), (f, slope) = _mixture(z, centre, scale, offset, shift, factor), _network(z, params, widths, context)
        return density - f, score - slope

    with np.errstate(over="ignore", invalid="ignore"):
        here, score = at(z)
        for k in range(steps):
            y = z + step * score + math.sqrt(2 * step) * e[:, k]
            y = np.where(np.isfinite(y).all(axis=1)[:, None], y, z)
            there, its = at(y)
            back = np.square(z - y - step * its).sum(axis=1) / (4 * step)
            take = np.log(u[:, k]) < there - here + np.square(e[:, k]).sum(axis=1) / 2 - back  # not where it is NaN
            take |= not adjusted
            z, score = np.where(take[:, None], y, z), np.where(take[:, None], its, score)
            here, taken = np.where(take, there, here), taken + take
    return z.astype(dtype), taken


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _energy_into(x, params, widths, h, p, delta, below, f, slope):
    """f (R,) and its slope (R, D) of rows x (R, D + W); h, p, delta, below: memory for R times all hidden units."""
    R, D, layers, one, start = len(x), slope.shape[1], len(widths) - 1, x.dtype.type(1), 0
    inputs = x
    for k in range(layers - 1):
        weight, bias = layer_of(params, widths, k)
        out = h[R * start:R * (start + widths[k + 1])].reshape((R, widths[k + 1]))
        bend = p[R * start:R * (start + widths[k + 1])].reshape((R, widths[k + 1]))
        multiply(inputs, NO, 0, weight, NO, 0, widths[k], out, 0, widths[k + 1])
        for n in range(R):
            row, its = out[n], bend[n]
            for j in range(bias.size):
                a = row[j] + bias[j]
                s = one / (one + exp_fused(-a))
                row[j] = a * s
                its[j] = s + a * s * (one - s)
        inputs, start = out, start + widths[k + 1]
    weight, bias = layer_of(params, widths, layers - 1)
    start -= widths[layers - 1]
    above = delta[:R * widths[layers - 1]].reshape((R, widths[layers - 1]))
    for n in range(R):
        total = bias[0]
        for j in range(len(weight)):
            total += inputs[n, j] * weight[j, 0]
            above[n, j] = weight[j, 0] * p[R * start + n * len(weight) + j]
        f[n] = total
    for k in range(layers - 2, 0, -1):
        weight, _ = layer_of(params, widths, k)
        start -= widths[k]
        its = (below if (layers - k) % 2 == 0 else delta)[:R * widths[k]].reshape((R, widths[k]))
        multiply(above, NO, 0, weight, YES, 0, widths[k + 1], its, 0, widths[k])
        for n in range(R):
            for j in range(widths[k]):
                its[n, j] *= p[R * start + n * widths[k] + j]
        above = its
    weight, _ = layer_of(params, widths, 0)
    multiply(above, NO, 0, weight, YES, 0, widths[1], slope, 0, D)


@jit
def _density_into(z, centre, scale, offset, shift, factor, w, y, r, score):
    """The mixture's log-density at z (D,), and its slope; w (D,), y (K, D), r (K,): memory."""
    (G, B, D), K, largest = factor.shape, len(offset), -math.inf
    for d in range(D):
        w[d] = min(max((z[d] - centre[d]) / scale[d], -FAR), FAR)
    for k in range(K):
        P, its = factor[k if G > 1 else 0], y[k]
        for d in range(D):
            its[d] = (w[d] * P[0, d] if B == 1 else 0.0) - shift[k, d]
        if B > 1:
            for i in range(D):
                row = P[i]
                for d in range(i, D):
                    its[d] += w[i] * row[d]
        r[k] = offset[k]
        for d in range(D):
            r[k] -= its[d] * its[d] / 2
        largest = max(largest, r[k])
    total = 0.0
    for k in range(K):
        r[k] = exp(r[k] - largest)
        total += r[k]
    for d in range(D):
        score[d] = 0
    for k in range(K):
        P, its, share = factor[k if G > 1 else 0], y[k], r[k] / total
        for d in range(D):
            back = its[d] * P[0, d] if B == 1 else 0.0
            if B > 1:
                for i in range(d, D):
                    back += P[d, i] * its[i]
            score[d] -= share * back
    for d in range(D):
        score[d] /= scale[d]
    return largest + log(total)


@jit
def _panel(task, z, params, widths, context, centre, scale, offset, shift, factor, steps, step, adjusted, key0, key1,
           start_normal, start_uniform, moved, taken):
    low, high = task * ROWS, min((task + 1) * ROWS, len(z))
    R, D, W, K, kind, total = high - low, z.shape[1], context.shape[1], len(offset), z.dtype, 0
    for k in range(1, len(widths) - 1):
        total += widths[k]
    x, f, slope = np.empty((R, D + W), kind), np.empty(R, kind), np.empty((R, D), kind)
    h, p = np.empty(R * total, kind), np.empty(R * total, kind)
    delta, below = np.empty(R * total, kind), np.empty(R * total, kind)
    w, y, r = np.empty(D), np.empty((K, D)), np.empty(K)
    at, here, there = np.empty((R, D)), np.empty(R), np.empty(R)
    score, its = np.empty((R, D)), np.empty((R, D))
    every, length = max(1, DRAWN // max(D, 1)), math.sqrt(2 * step)
    e, u, now = np.empty((R, every * D), kind), np.empty((R, every), kind), np.empty((R, D))
    for n in range(R):  # value by value: arrays that are assigned to arrays take seconds to compile
        for d in range(D):
            now[n, d] = at[n, d] = z[low + n, d]
        for i in range(W):
            x[n, D + i] = context[low + n, i]
    for k in range(-1, steps):
        if k >= 0:
            j = k % every
            if j == 0:
                some = min(every, steps - k)
                for n in range(R):
                    first = (low + n) * steps + k
                    fill_normal(e[n, :some * D], key0, key1, start_normal + first * D)
                    fill_uniform(u[n, :some], key0, key1, start_uniform + first)
            for n in range(R):
                finite = True
                for d in range(D):
                    at[n, d] = now[n, d] + step * score[n, d] + length * e[n, j * D + d]
                    finite = finite and abs(at[n, d]) < math.inf
                for d in range(D):
                    at[n, d] = at[n, d] if finite else now[n, d]
        for n in range(R):
            for d in range(D):
                x[n, d] = at[n, d]
        _energy_into(x, params, widths, h, p, delta, below, f, slope)
        for n in range(R):
            there[n] = _density_into(at[n], centre, scale, offset, shift, factor, w, y, r, its[n]) - f[n]
            for d in range(D):
                its[n, d] -= slope[n, d]
            take = k < 0 or not adjusted
            if not take:
                gain = there[n] - here[n]
                for d in range(D):
                    noise, back = np.float64(e[n, j * D + d]), now[n, d] - at[n, d] - step * its[n, d]
                    gain += noise * noise / 2 - back * back / (4 * step)
                take = log(np.float64(u[n, j])) < gain
            if take:
                for d in range(D):
                    now[n, d], score[n, d] = at[n, d], its[n, d]
                here[n] = there[n]
                taken[low + n] += k >= 0
    for n in range(R):
        for d in range(D):
            moved[low + n, d] = now[n, d]


@entry
def _chain(z, params, widths, context, centre, scale, offset, shift, factor, steps, step, adjusted, key0, key1, start_normal,
           start_uniform):
    moved, taken = np.empty_like(z), np.zeros(len(z))
    parallel(-(-len(z) // ROWS), _panel, (z, params, widths, context, centre, scale, offset, shift, factor, steps, step,
                                          adjusted, key0, key1, start_normal, start_uniform, moved, taken))
    return moved, taken


def _numba(*args):
    *before, steps, step, adjusted, key0, key1, start_normal, start_uniform = args
    return _chain(*before, steps, float(step), bool(adjusted), key0, key1, start_normal, start_uniform)


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _cuda_side(z, params, widths, context, centre, scale, offset, shift, factor, steps, step, adjusted, key0, key1,
               *starts):
    (N, D), widths = z.shape, [int(width) for width in _cuda.asnumpy(widths)]
    units, K = sum(widths[1:-1]), len(offset)
    moved, taken = z.copy(), _cuda.empty((N,), np.float64)
    work, reals = _cuda.empty((N, 3 * units + D), z.dtype), _cuda.empty((N, 6 * D + K * D + K + 2), np.float64)
    mixture = map(_cuda.constant, (centre, scale, offset, shift, factor))
    _cuda.launch("langevin", "chain", _cuda.grid(N, 1), 128, params, _cuda.constant(np.array(widths)), context, *mixture, moved,
                 taken, work, reals, N, D, context.shape[1], K, len(factor), factor.shape[1], len(widths) - 1, units, steps,
                 float(step), bool(adjusted), int(key0), int(key1), *spawned(key0), *starts)
    return moved, taken


@functools.lru_cache(maxsize=256)
def _sizes(widths, D, W, K):
    widths = np.frombuffer(widths, np.int64)
    if len(widths) < 3 or widths[0] != D + W or widths[-1] != 1:
        raise KernelError(f"kernel langevin.chain: widths are {widths.tolist()}, but z has {D} columns and context {W}, and f "
                          "is one number behind at least one layer")
    return ("P", int(((widths[:-1] + 1) * widths[1:]).sum())), ("G", 1, K), ("B", 1, D)


chain = Kernel("langevin.chain", "z(N,D) params(P) widths(L):int64 context(N,W) centre(D):float64 scale(D):float64 "
               "offset(K):float64 shift(K,D):float64 factor(G,B,D):float64 steps step adjusted key0 key1 start_normal "
               "start_uniform", reference=_reference, numba=_numba, cuda=_cuda_side,
               sizes=lambda z, params, widths, context, centre, scale, offset, *rest: _sizes(
                   _cuda.content(widths), z.shape[1], context.shape[1], len(offset)))
