"""Log-likelihoods of rows whose every feature is a mixture of normals by the outputs of a network, and their gradients.

    forward     sum_d log sum_c softmax(l_d)_c N(x_d; m_dc, exp(v_dc)),  v = limit tanh(raw / limit)            (N,) nats
    backward    [g (r - softmax(l)),  g r (x - m) exp(-v),  g r ((x - m)^2 exp(-v) - 1) / 2 dv/draw]            (N, 3DC)
                and -g sum_c r (x - m) exp(-v), the gradient with respect to x; r: what a component has of x    (N, D)

x (N, D), g (N,), outputs (N, 3DC): of each feature C logits l, C means m, C raw log-variances raw; limit > 0, C >= 1. All of
one dtype, float32 or float64. Any N and D, zero included.

A logit beyond +-M / 4 counts as that, and so does a distance beyond sqrt(M) / 4 standard deviations, M the largest number: then
no gradient is NaN, even where every component is out of reach or has a logit of -inf. A NaN makes its row's log-likelihood
NaN, and its feature's gradients.
Rows are independent, so the bits are the same for any thread count (between CPUs whose vectors differ in length, a sum
may differ in its last bits). Agreement with the reference: a component's log-density, log N + l, is known to
(20 + 4 limit) eps of the sum of its terms' sizes, as exp(-v) carries the rounding of v; r is as exact as that lets it be.
Source: Bishop, Mixture density networks (1994); Uria, Murray & Larochelle, RNADE (2013).

Numba: the outputs of some features are turned, so that a component of all of them lies side by side. CUDA: a team per row.
"""
import numpy as np

from . import _cuda
from ._constants import LOG_2PI
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel
from ._math import exp, log, tanh
from ._partition import n_panels

TILE = 64  # features: what is worked on at a time stays in the first cache

# --- reference -------------------------------------------------------------------------------------------------------

def _parts(x, outputs, components, limit):
    """log softmax(l), that and the log-density of x, z = (x - m) / std, std and tanh(raw / limit), each (N, D, C)."""
    logits, means, raws = np.moveaxis(outputs.astype(float).reshape(*x.shape, 3, components), 2, 0)
    most = float(np.finfo(x.dtype).max)
    logits = logits.clip(-most / 4, most / 4)
    logits = logits - logits.max(axis=2, keepdims=True)
    log_weights = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    bounded = np.tanh(raws / limit)
    std = np.exp(limit * bounded / 2)
    z = ((x[:, :, None] - means) / std).clip(-most**0.5 / 4, most**0.5 / 4)
    return log_weights, log_weights - 0.5 * (LOG_2PI + limit * bounded + z * z), z, std, bounded


def _shares(joint):
    """exp(joint) over its sum, (N, D, C), and the logarithm of that, (N, D)."""
    peak = joint.max(axis=2, keepdims=True)
    odds = np.exp(joint - peak)
    total = odds.sum(axis=2, keepdims=True)
    return odds / total, (peak + np.log(total))[:, :, 0]


def _forward_reference(x, outputs, components, limit):
    with np.errstate(over="ignore", invalid="ignore"):
        _, joint, *_ = _parts(x, outputs, components, limit)
        return _shares(joint)[1].sum(axis=1).astype(x.dtype)


def _backward_reference(g, x, outputs, components, limit):
    with np.errstate(over="ignore", invalid="ignore"):
        log_weights, joint, z, std, bounded = _parts(x, outputs, components, limit)
        r, _ = _shares(joint)
        parts = [r - np.exp(log_weights), r * z / std, -0.5 * r * (1 - z * z) * (1 - bounded * bounded)]
        doutputs = g[:, None, None, None] * np.stack(parts, axis=2)
        return doutputs.reshape(outputs.shape).astype(x.dtype), -doutputs[:, :, 1].sum(axis=2).astype(x.dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _turn(outputs, tile):
    """The outputs (F, K) of some features -> (K, F)."""
    for f in range(len(outputs)):
        for k in range(outputs.shape[1]):
            tile[k, f] = outputs[f, k]


@jit
def _cut(space, C, F):
    """A tile (3C, F), three rows (F,), and two arrays (C, F), each contiguous."""
    arrays = space[:(5 * C + 3) * F].reshape(5 * C + 3, F)
    return (arrays[:3 * C], arrays[3 * C], arrays[3 * C + 1], arrays[3 * C + 2], arrays[3 * C + 3:4 * C + 3],
            arrays[4 * C + 3:])


@jit
def _densities(x, tile, limit, most, peaks, totals, weights, inverse_stds):
    """Make of the tile (3C, F), for every component, log softmax(l) + log N less what is common, z and tanh(raw / limit).

    peaks (F,): the largest log-density. weights (C, F), and their totals (F,): softmax's before the division.
    """
    (C, F), half, zero, quarter = weights.shape, x.dtype.type(0.5), x.dtype.type(0), x.dtype.type(0.25)
    largest, farthest = quarter * most, quarter * np.sqrt(most)
    peaks[:] = -largest
    for c in range(C):
        logits = tile[c]
        for f in range(F):
            logit = logits[f]
            logit = -largest if logit < -largest else logit
            logits[f] = largest if logit > largest else logit
        for f in range(F):
            peaks[f] = logits[f] if logits[f] > peaks[f] else peaks[f]
    totals[:] = zero
    for c in range(C):
        logits, odds = tile[c], weights[c]
        for f in range(F):
            logits[f] -= peaks[f]
        for f in range(F):
            odds[f] = exp(logits[f])
        for f in range(F):
            totals[f] += odds[f]
    peaks[:] = -most
    for c in range(C):
        joint, zs, bounded, inverse_std = tile[c], tile[C + c], tile[2 * C + c], inverse_stds[c]
        for f in range(F):  # in short loops, as a long chain of operations would wait for its own results
            bounded[f] = tanh(bounded[f] / limit)
        for f in range(F):
            inverse_std[f] = exp(-half * limit * bounded[f])
        for f in range(F):
            z = (x[f] - zs[f]) * inverse_std[f]
            z = -farthest if z < -farthest else z
            zs[f] = farthest if z > farthest else z
        for f in range(F):
            joint[f] -= half * (limit * bounded[f] + zs[f] * zs[f])
        for f in range(F):
            peaks[f] = joint[f] if joint[f] > peaks[f] else peaks[f]


@jit
def _responsibilities(joint, peaks, sums):
    """exp(joint - peaks) in joint's place (C, F), and its sums (F,)."""
    sums[:] = 0
    for c in range(len(joint)):
        row = joint[c]
        for f in range(sums.size):
            row[f] = exp(row[f] - peaks[f])
        for f in range(sums.size):
            sums[f] += row[f]


@jit
def _log_densities(peaks, sums, totals, ans):
    for f in range(ans.size):
        ans[f] = peaks[f] + (log(sums[f]) - log(totals[f]))


@jit(fastmath={"reassoc"})  # lets the sum, and nothing else, be taken in lanes
def _sum(x):
    total = x.dtype.type(0)
    for d in range(x.size):
        total += x[d]
    return total


@jit
def _gradients(g, tile, sums, totals, weights, inverse_stds, dx):
    """Make of the tile the gradients, of joint the responsibilities before their division by sums."""
    (C, F), half, one, zero = weights.shape, tile.dtype.type(0.5), tile.dtype.type(1), tile.dtype.type(0)
    for f in range(F):
        dx[f], sums[f], totals[f] = zero, g / sums[f], g / totals[f]
    for c in range(C):
        share, zs, bounded, weight, inverse_std = tile[c], tile[C + c], tile[2 * C + c], weights[c], inverse_stds[c]
        for f in range(F):
            share[f] *= sums[f]
        for f in range(F):
            slope = (one - bounded[f]) * (one + bounded[f])
            bounded[f] = half * share[f] * (zs[f] * (zs[f] * slope) - slope)
        for f in range(F):
            zs[f] *= share[f] * inverse_std[f]
        for f in range(F):
            dx[f] -= zs[f]
        for f in range(F):
            share[f] -= weight[f] * totals[f]


@jit
def _forward_panel(p, panels, x, outputs, components, limit, most, ans):
    (N, D), C, real = x.shape, components, x.dtype.type
    limit, most, constant = real(limit), real(most), real(D * LOG_2PI / 2)
    space = np.empty((5 * C + 3) * TILE, x.dtype)
    terms = np.empty(D, x.dtype)
    for n in range(p * N // panels, (p + 1) * N // panels):
        rows = outputs[n].reshape(D, 3 * C)
        for first in range(0, D, TILE):
            last = min(first + TILE, D)
            tile, peaks, totals, sums, weights, inverse_stds = _cut(space, C, last - first)
            _turn(rows[first:last], tile)
            _densities(x[n, first:last], tile, limit, most, peaks, totals, weights, inverse_stds)
            _responsibilities(tile[:C], peaks, sums)
            _log_densities(peaks, sums, totals, terms[first:last])
        ans[n] = _sum(terms) - constant


@entry
def _forward(x, outputs, components, limit, most, ans):
    panels = n_panels(len(x), outputs.size)
    parallel(panels, _forward_panel, (panels, x, outputs, components, limit, most, ans))


@jit
def _backward_panel(p, panels, g, x, outputs, components, limit, most, doutputs, dx):
    (N, D), C, real = x.shape, components, x.dtype.type
    limit, most = real(limit), real(most)
    space = np.empty((5 * C + 3) * TILE, x.dtype)
    for n in range(p * N // panels, (p + 1) * N // panels):
        rows, drows = outputs[n].reshape(D, 3 * C), doutputs[n].reshape(D, 3 * C)
        for first in range(0, D, TILE):
            last = min(first + TILE, D)
            tile, peaks, totals, sums, weights, inverse_stds = _cut(space, C, last - first)
            _turn(rows[first:last], tile)
            _densities(x[n, first:last], tile, limit, most, peaks, totals, weights, inverse_stds)
            _responsibilities(tile[:C], peaks, sums)
            _gradients(g[n], tile, sums, totals, weights, inverse_stds, dx[n, first:last])
            _turn(tile, drows[first:last])


@entry
def _backward(g, x, outputs, components, limit, most, doutputs, dx):
    panels = n_panels(len(x), outputs.size)
    parallel(panels, _backward_panel, (panels, g, x, outputs, components, limit, most, doutputs, dx))


def _forward_numba(x, outputs, components, limit):
    ans = empty(len(x), x.dtype)
    _forward(x, outputs, components, limit, float(np.finfo(x.dtype).max), ans)
    return ans


def _backward_numba(g, x, outputs, components, limit):
    doutputs, dx = empty(outputs.shape, x.dtype), empty(x.shape, x.dtype)
    _backward(g, x, outputs, components, limit, float(np.finfo(x.dtype).max), doutputs, dx)
    return doutputs, dx


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _forward_cuda(x, outputs, components, limit):
    (n, d), ans = x.shape, _cuda.empty(len(x), x.dtype)
    blocks, threads, lanes = _cuda.teams(n, d)
    _cuda.launch("mixture_likelihood", "forward", blocks, threads, x, outputs, ans, n, d, components, limit, lanes)
    return ans


def _backward_cuda(g, x, outputs, components, limit):
    (n, d), doutputs, dx = x.shape, _cuda.empty(outputs.shape, x.dtype), _cuda.empty(x.shape, x.dtype)
    blocks, threads, lanes = _cuda.teams(n, d)
    _cuda.launch("mixture_likelihood", "backward", blocks, threads, g, x, outputs, doutputs, dx, n, d, components, limit, lanes)
    return doutputs, dx


forward = Kernel("mixture_likelihood.forward", "x(N,D) outputs(N,M) components limit",
                 reference=_forward_reference, numba=_forward_numba, cuda=_forward_cuda,
                 sizes=lambda x, outputs, components, limit: [("M", 3 * components * x.shape[1])])
backward = Kernel("mixture_likelihood.backward", "g(N) x(N,D) outputs(N,M) components limit",
                  reference=_backward_reference, numba=_backward_numba, cuda=_backward_cuda,
                  sizes=lambda g, x, outputs, components, limit: [("M", 3 * components * x.shape[1])])
