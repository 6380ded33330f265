"""One-pass ancestral sampling from a MADE: every unit is computed once, as soon as its inputs are complete.

    x_d = inverse CDF of p(x_d | x_1..x_{d-1}) at noise_d,   d = 1..D in the order of the factorisation

params (P,)          the flat parameters: weight (K, M) and bias (M,) of every layer, one after the other
widths (L,)          D, the hidden widths, the number of outputs (D Bernoulli logits, or D means then D raw log-variances)
cuts (H, E)          E = D + 1; cuts[l, d] hidden units of layer l have a degree of at most d (units are sorted by degree)
noise (N, D)         uniforms in (0, 1) for Bernoulli outputs, standard normals for Gaussian ones
limit                0 for Bernoulli outputs, else the bound of the log-variances: log_var = limit * tanh(raw / limit)

The hidden activation is ReLU. Any N, zero included; D, H >= 1. One pass costs what scoring the rows costs; a pass per
dimension, as the reference does it, D times that. Source: Germain, Gregor, Murray & Larochelle, MADE (2015), section 4.

Numba: dimensions go in blocks. What earlier blocks contribute to a block comes from one GEMM per layer; inside the block
each new value is added to the units that see it, and a unit is activated when its last input has arrived.
"""
import math

import numpy as np

from ._blas import gemm
from ._dispatch import Kernel
from ._jit import jit, prange
from .masked_matmul import _panels

BLOCK = 32  # dimensions


@jit(inline="always")
def _layer(params, widths, layer):
    start = 0
    for k in range(layer):
        start += (widths[k] + 1) * widths[k + 1]
    n_in, n_out = widths[layer], widths[layer + 1]
    weight = params[start:start + n_in * n_out].reshape(n_in, n_out)
    return weight, params[start + n_in * n_out:start + (n_in + 1) * n_out]


def _reference(params, widths, cuts, noise, limit):
    x = np.zeros(noise.shape)
    d = np.arange(1, widths[0] + 1)
    degrees = [d, *(np.searchsorted(c, np.arange(w), side="right") for c, w in zip(cuts, widths[1:-1], strict=True))]
    outputs = np.tile(d, widths[-1] // len(d))
    masks = [a[:, None] <= b for a, b in zip(degrees, degrees[1:], strict=False)] + [degrees[-1][:, None] < outputs]
    layers = [_layer(params, widths, k) for k in range(len(widths) - 1)]
    for j in range(len(d)):
        h = x
        for (weight, bias), mask in zip(layers[:-1], masks[:-1], strict=True):
            h = np.maximum(h @ (weight * mask) + bias, 0)
        out = h @ (layers[-1][0] * masks[-1]) + layers[-1][1]
        if limit:
            log_var = limit * np.tanh(out[:, len(d) + j] / limit)
            x[:, j] = out[:, j] + np.exp(log_var / 2) * noise[:, j]
        else:
            with np.errstate(over="ignore"):
                x[:, j] = noise[:, j] * (1 + np.exp(-out[:, j])) < 1
    return x.astype(noise.dtype)


@jit
def _add_bias_and_product(x, weight, bias, out):
    for n in range(out.shape[0]):
        for m in range(out.shape[1]):
            out[n, m] = bias[m]
    if x.shape[1] > 0:
        gemm(1.0, x, False, weight, False, 1.0, out)


@jit
def _add_product(x, weight, out):
    """out += x @ weight for a few columns of x; for one or two, a GEMM call would cost more than its work."""
    if x.shape[1] > 2:
        gemm(1.0, x, False, weight, False, 1.0, out)
        return
    for n in range(out.shape[0]):
        for k in range(x.shape[1]):
            value = x[n, k]
            if value != 0:
                for m in range(out.shape[1]):
                    out[n, m] += value * weight[k, m]


@jit
def _relu(x):
    for n in range(x.shape[0]):
        for m in range(x.shape[1]):
            x[n, m] = max(x[n, m], x.dtype.type(0))


@jit
def _draw(out, noise, d, D, limit, x):
    for n in range(len(x)):
        if limit > 0:
            log_var = limit * math.tanh(out[n, D + d] / limit)
            x[n, d] = out[n, d] + math.exp(log_var / 2) * noise[n, d]
        else:
            x[n, d] = 1 if noise[n, d] * (1 + math.exp(-out[n, d])) < 1 else 0


@jit
def _panel(params, widths, cuts, noise, limit, x):
    """Fill x, the rows of one panel."""
    H, D, N, heads = len(cuts), noise.shape[1], len(noise), widths[-1] // noise.shape[1]
    offsets = np.zeros(H + 1, np.intp)  # where each hidden layer's columns begin in h
    for layer in range(H):
        offsets[layer + 1] = offsets[layer] + widths[layer + 1]
    h = np.empty((N, offsets[H]), x.dtype)
    out = np.empty((N, widths[-1]), x.dtype)
    for low in range(0, D, BLOCK):
        high = min(low + BLOCK, D)
        # what the values before this block give to its units: everything for units that saw nothing new (degree 0)
        for layer in range(H + 1):
            weight, bias = _layer(params, widths, layer)
            if layer == 0:
                known, n_known = x, low
            else:
                known, n_known = h[:, offsets[layer - 1]:offsets[layer]], cuts[layer - 1, low]
            if layer < H:
                a, b = 0 if low == 0 else cuts[layer, low], cuts[layer, high]
                z = h[:, offsets[layer] + a:offsets[layer] + b]
                _add_bias_and_product(known[:, :n_known], weight[:n_known, a:b], bias[a:b], z)
                if low == 0:
                    _relu(z[:, :cuts[layer, 0]])
            else:
                for head in range(heads):
                    a, b = head * D + low, head * D + high
                    _add_bias_and_product(known[:, :n_known], weight[:n_known, a:b], bias[a:b], out[:, a:b])
        for d in range(low, high):
            _draw(out, noise, d, D, limit, x)
            new, first = x[:, d:d + 1], d  # the newest values of the layer below, and their first column there
            for layer in range(H + 1):
                weight, bias = _layer(params, widths, layer)
                rows = weight[first:first + new.shape[1]]
                if layer < H:
                    a, b, end = cuts[layer, d], cuts[layer, d + 1], cuts[layer, high]
                    _add_product(new, rows[:, a:end], h[:, offsets[layer] + a:offsets[layer] + end])
                    new, first = h[:, offsets[layer] + a:offsets[layer] + b], a
                    _relu(new)
                else:
                    for head in range(heads):
                        a, b = head * D + d + 1, head * D + high
                        _add_product(new, rows[:, a:b], out[:, a:b])


@jit(parallel=True)
def _numba(params, widths, cuts, noise, limit):
    N = len(noise)
    panels = _panels(N)
    x = np.empty_like(noise)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        _panel(params, widths, cuts, noise[low:high], limit, x[low:high])
    return x


sample = Kernel("made_sample.sample", "params(P) widths(L):int64 cuts(H,E):int64 noise(N,D) limit",
                reference=_reference, numba=_numba, blas=True)
