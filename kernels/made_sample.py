"""One-pass ancestral sampling from a MADE: every unit is computed once, as soon as its inputs are complete.

    x_d = inverse CDF of p(x_d | x_1..x_{d-1}) at noise_d,   d = 1..D in the order of the factorisation

params (P,)          the flat parameters: weight (K, M) and bias (M,) of every layer, one after the other
widths (L,)          D, the hidden widths, the number of outputs
cuts (H, E)          E = D + 1; cuts[l, d] hidden units of layer l have a degree of at most d (units are sorted by degree)
first (E,)           where the outputs of each dimension begin, and where the last one's end: a Bernoulli logit each, or a
                     mean and a raw log-variance
noise (N, D)         uniforms in (0, 1) for Bernoulli outputs, standard normals for Gaussian ones
limit                0 for Bernoulli outputs, else the bound of the log-variances: log_var = limit * tanh(raw / limit)

The hidden activation is ReLU. Any N, zero included; D, H >= 1. One pass costs what scoring the rows costs; a pass per
dimension, as the reference does it, D times that. Source: Germain, Gregor, Murray & Larochelle, MADE (2015), section 4.

Numba: dimensions go in blocks. What earlier blocks contribute to a block comes from one GEMM per layer; inside the block
each new value is added to the units that see it, and a unit is activated when its last input has arrived. CUDA: the same
without the blocks, a few rows for every block of threads.
"""
import functools

import numpy as np

from . import _cuda
from ._blas import gemm
from ._dispatch import Kernel
from ._jit import NO, YES, jit, prange
from ._math import exp, tanh
from .masked_matmul import _panels, _rows_of
from .mlp import layer_of

BLOCK = 32  # dimensions


def _reference(params, widths, cuts, first, noise, limit):
    x = np.zeros(noise.shape)
    d = np.arange(1, widths[0] + 1)
    degrees = [d, *(np.searchsorted(c, np.arange(w), side="right") for c, w in zip(cuts, widths[1:-1], strict=True))]
    outputs = np.repeat(d, np.diff(first))
    masks = [a[:, None] <= b for a, b in zip(degrees, degrees[1:], strict=False)] + [degrees[-1][:, None] < outputs]
    layers = [layer_of(params, widths, k) for k in range(len(widths) - 1)]
    for j in range(len(d)):
        h = x
        for (weight, bias), mask in zip(layers[:-1], masks[:-1], strict=True):
            h = np.maximum(h @ (weight * mask) + bias, 0)
        out = h @ (layers[-1][0] * masks[-1]) + layers[-1][1]
        if limit:
            mean, raw = out[:, first[j]:first[j + 1]].T
            log_var = limit * np.tanh(raw / limit)
            x[:, j] = mean + np.exp(log_var / 2) * noise[:, j]
        else:
            with np.errstate(over="ignore"):
                x[:, j] = noise[:, j] * (1 + np.exp(-out[:, first[j]])) < 1
    return x.astype(noise.dtype)


@jit
def _add_bias_and_product(x, weight, bias, out):
    for m in range(len(out)):
        out[m, :] = bias[m]
    if len(x) > 0:
        gemm(1.0, weight, YES, x, NO, 1.0, out)


@jit
def _add_product(x, weight, out):
    """out += weight^T x for a few rows of x; for one or two, a GEMM call would cost more than its work."""
    if len(x) > 2:
        gemm(1.0, weight, YES, x, NO, 1.0, out)
        return
    for k in range(len(x)):
        values = x[k]
        for m in range(len(out)):
            sums, slope = out[m], weight[k, m]
            for n in range(sums.size):
                sums[n] += slope * values[n]


@jit
def _relu(x):
    for m in range(len(x)):
        row = x[m]
        for n in range(row.size):
            row[n] = max(row[n], x.dtype.type(0))


@jit
def _draw(outputs, noise, limit, x):
    """x (N,), given the outputs (1 or 2, N) of its dimension."""
    half, one, bound = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(limit)
    if limit > 0:
        mean, raw = outputs[0], outputs[1]
        for n in range(x.size):
            x[n] = mean[n] + exp(half * (bound * tanh(raw[n] / bound))) * noise[n]
    else:
        logit = outputs[0]
        for n in range(x.size):
            x[n] = one if noise[n] * (one + exp(-logit[n])) < one else 0


@jit
def _turn(values, out):
    for n in range(len(values)):
        for d in range(values.shape[1]):
            out[d, n] = values[n, d]


@jit
def _panel(params, widths, cuts, first, noise, limit, rows):
    """Fill the rows (N, D) of one panel; inside, a unit's values for all of them lie side by side."""
    H, (N, D) = len(cuts), noise.shape
    offsets = np.zeros(H + 1, np.intp)  # where each hidden layer's units begin in h
    for layer in range(H):
        offsets[layer + 1] = offsets[layer] + widths[layer + 1]
    h, out = np.empty((offsets[H], N), rows.dtype), np.empty((first[D], N), rows.dtype)
    x, eps = np.empty((D, N), rows.dtype), np.empty((D, N), rows.dtype)
    _turn(noise, eps)
    for low in range(0, D, BLOCK):
        high = min(low + BLOCK, D)
        # what the values before this block give to its units: everything for units that saw nothing new (degree 0)
        for layer in range(H + 1):
            weight, bias = layer_of(params, widths, layer)
            if layer == 0:
                known = x[:low]
            else:
                known = h[offsets[layer - 1]:offsets[layer - 1] + cuts[layer - 1, low]]
            if layer < H:
                a, b = 0 if low == 0 else cuts[layer, low], cuts[layer, high]
                z = h[offsets[layer] + a:offsets[layer] + b]
                _add_bias_and_product(known, weight[:len(known), a:b], bias[a:b], z)
                if low == 0:
                    _relu(z[:cuts[layer, 0]])
            else:
                a, b = first[low], first[high]
                _add_bias_and_product(known, weight[:len(known), a:b], bias[a:b], out[a:b])
        for d in range(low, high):
            _draw(out[first[d]:first[d + 1]], eps[d], limit, x[d])
            new, row = x[d:d + 1], d  # the newest values of the layer below, and their first row there
            for layer in range(H + 1):
                weight, bias = layer_of(params, widths, layer)
                seen = weight[row:row + len(new)]
                if layer < H:
                    a, b, end = cuts[layer, d], cuts[layer, d + 1], cuts[layer, high]
                    _add_product(new, seen[:, a:end], h[offsets[layer] + a:offsets[layer] + end])
                    new, row = h[offsets[layer] + a:offsets[layer] + b], a
                    _relu(new)
                else:
                    _add_product(new, seen[:, first[d + 1]:first[high]], out[first[d + 1]:first[high]])
    _turn(x.T, rows.T)


@jit(parallel=True)
def _numba(params, widths, cuts, first, noise, limit):
    N = len(noise)
    panels = _panels(N)
    x = np.empty_like(noise)
    for p in prange(panels):
        low, high = _rows_of(p, panels, N)
        _panel(params, widths, cuts, first, noise[low:high], limit, x[low:high])
    return x


@functools.lru_cache(maxsize=256)
def _sizes(widths, first, each):
    widths, first = np.frombuffer(widths, np.int64), np.frombuffer(first, np.int64)
    size = int(((widths[:-1] + 1) * widths[1:]).sum())
    sound = int((first == each * np.arange(len(first))).sum()) - 1  # dimensions
    return ("P", size), ("D", int(widths[0])), ("D", sound), ("D", widths[-1] / each)


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _cuda_side(params, widths, cuts, first, noise, limit):
    widths, (N, D) = _cuda.asnumpy(widths), noise.shape
    sizes = (widths[:-1] + 1) * widths[1:]
    layers = np.stack([np.cumsum(sizes) - sizes, widths[:-1], widths[1:]], axis=1)
    units = int(widths[1:].sum())
    x, sums = _cuda.empty((N, D), noise.dtype), _cuda.empty((N, units), noise.dtype)
    rows = -(-N // (4 * _cuda.multiprocessors())) or 1  # they have nothing to do with one another, so no bit depends on it
    _cuda.launch("made_sample", "sample", -(-N // rows), 256, params, _cuda.constant(layers), _cuda.constant(cuts),
                 _cuda.constant(first), noise, limit, x, sums, N, D, len(layers), units, rows)
    return x


sample = Kernel("made_sample.sample", "params(P) widths(L):int64 cuts(L-2,D+1):int64 first(D+1):int64 noise(N,D) limit",
                reference=_reference, numba=_numba, cuda=_cuda_side, blas=True,
                sizes=lambda params, widths, cuts, first, noise, limit:
                _sizes(_cuda.content(widths), _cuda.content(first), 1 + (limit > 0)))
