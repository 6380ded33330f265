"""One-pass ancestral sampling from a MADE: every unit is computed once, as soon as its inputs are complete.

    x_d = inverse CDF of p(x_d | x_1..x_{d-1}) at noise_d,   d = 1..D in the order of the factorisation

params (P,)          the flat parameters: weight (K, M) and bias (M,) of every layer, one after the other
widths (L,)          inputs, the hidden widths, outputs
cuts (H, E)          E = D + 1; cuts[l, d] hidden units of layer l have a degree of at most d (units are sorted by degree)
inputs, first (E,)   where the inputs and the outputs of each dimension begin, and where the last one's end
codes (D,)           what a dimension's outputs are, and what it enters the network as:
    BERNOULLI        a logit; x, 0 or 1
    NORMAL           a mean and a raw log-variance; x
    CATEGORICAL      logits, of levels 0, 1, ...; as many columns, 1 at the level, else 0
    MIXTURE          of C normals: C logits, C means, C raw log-variances; x
direct (K, M)        the weight of connections from all inputs to all outputs, or (0, 0)
context (N, W)       what is known of a row from the start: the last W inputs, of degree 0
known (N, S)         the first S dimensions of x, S <= D, which are not drawn
noise (N, U)         of each dimension a uniform in (0, 1), of a NORMAL a standard normal, of a MIXTURE one after the other
limits (D,)          the bounds of the log-variances: log_var = limit * tanh(raw / limit), or raw where it is infinite

x is (N, D): known, then what is drawn given it, to the same bits as if known had been drawn, too. A level, or component, is the
first whose cumulative probability is above the uniform. Entries of a weight where a mask would be 0 are not looked at.

The hidden activation is ReLU. Any N, zero included; D >= 1. One pass costs what scoring the rows costs; a pass per
dimension, as the reference does it, D times that. Source: Germain, Gregor, Murray & Larochelle, MADE (2015), section 4.

Numba: dimensions go in blocks. What earlier blocks contribute to a block comes from one GEMM per layer; inside the block
each new value is added to the units that see it, and a unit is activated when its last input has arrived. CUDA: the same
without the blocks, a few rows for every block of threads.
"""
import functools

import numpy as np

from . import _cuda
from ._blas import gemm
from ._constants import BERNOULLI, CATEGORICAL, MIXTURE, NORMAL
from ._cuda import KernelError
from ._dispatch import Kernel
from ._jit import NO, YES, entry, jit, parallel
from ._math import exp, tanh
from .masked_matmul import _panels, _rows_of
from .mlp import layer_of

BLOCK = 32  # dimensions


def _drawn(out, noise, code, limit):
    """x (N,) of one dimension, of its outputs (N, J) and its noise (N, 1 or 2)."""
    if code == BERNOULLI:
        with np.errstate(over="ignore"):
            return noise[:, 0] * (1 + np.exp(-out[:, 0])) < 1
    if code == NORMAL:
        mean, raw = out.T
    else:
        logits = out if code == CATEGORICAL else out[:, :out.shape[1] // 3]
        edges = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
        level = (edges[:, :-1] <= noise[:, :1] * edges[:, -1:]).sum(axis=1)
        if code == CATEGORICAL:
            return level
        mean, raw = (out[np.arange(len(out)), k * logits.shape[1] + level] for k in (1, 2))
    log_var = limit * np.tanh(raw / limit) if limit < np.inf else raw
    return mean + np.exp(log_var / 2) * noise[:, -1]


def _reference(params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits):
    D, at = len(codes), np.cumsum([0, *(1 + (codes == MIXTURE))])
    d = np.arange(1, D + 1)
    degrees = [np.concatenate([np.repeat(d, np.diff(inputs)), np.zeros(context.shape[1], int)]),
               *(np.searchsorted(c, np.arange(w), side="right") for c, w in zip(cuts, widths[1:-1], strict=True))]
    outputs = np.repeat(d, np.diff(first))
    masks = [a[:, None] <= b for a, b in zip(degrees, degrees[1:], strict=False)] + [degrees[-1][:, None] < outputs]
    layers = [layer_of(params, widths, k) for k in range(len(widths) - 1)]
    skip = direct * (degrees[0][:, None] < outputs) if direct.size else np.zeros((widths[0], widths[-1]))
    x, seen = np.zeros((len(noise), D)), np.zeros((len(noise), widths[0]))
    seen[:, inputs[-1]:] = context
    for j in range(D):
        h = seen
        for (weight, bias), mask in zip(layers[:-1], masks[:-1], strict=True):
            h = np.maximum(h @ (weight * mask) + bias, 0)
        out = h @ (layers[-1][0] * masks[-1]) + seen @ skip + layers[-1][1]
        drawn = _drawn(out[:, first[j]:first[j + 1]], noise[:, at[j]:at[j + 1]], codes[j], limits[j])
        x[:, j] = known[:, j] if j < known.shape[1] else drawn
        if codes[j] == CATEGORICAL:
            seen[:, inputs[j]:inputs[j + 1]] = x[:, j, None] == np.arange(inputs[j + 1] - inputs[j])
        else:
            seen[:, inputs[j]] = x[:, j]
    return x.astype(noise.dtype)


@jit
def _fill(bias, out):
    for m in range(len(out)):
        out[m, :] = bias[m]


@jit
def _add_known(x, weight, out):
    """out += weight^T x."""
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
def _draw_level(logits, noise, x):
    """x (N,), the number of a level with these logits (C, N), which become cumulative odds."""
    one, last, peaks = x.dtype.type(1), len(logits) - 1, logits[0].copy()
    x[:] = 0
    for c in range(1, len(logits)):
        for n in range(x.size):
            peaks[n] = logits[c, n] if logits[c, n] > peaks[n] else peaks[n]
    for c in range(len(logits)):
        odds = logits[c]
        for n in range(x.size):
            odds[n] = exp(odds[n] - peaks[n])
        if c > 0:
            for n in range(x.size):
                odds[n] += logits[c - 1, n]
    for c in range(last):
        for n in range(x.size):
            x[n] += one if logits[c, n] <= noise[n] * logits[last, n] else 0


@jit
def _bounded(raw, limit):
    return limit * tanh(raw / limit) if limit < np.inf else raw


@jit
def _draw(outputs, noise, code, limit, x):
    """x (N,), given the outputs (J, N) of its dimension, and its noise (1 or 2, N)."""
    half, one = x.dtype.type(0.5), x.dtype.type(1)
    if code == BERNOULLI:
        logit, u = outputs[0], noise[0]
        for n in range(x.size):
            x[n] = one if u[n] * (one + exp(-logit[n])) < one else 0
    elif code == NORMAL:
        mean, raw, eps = outputs[0], outputs[1], noise[0]
        for n in range(x.size):
            x[n] = mean[n] + exp(half * _bounded(raw[n], limit)) * eps[n]
    elif code == CATEGORICAL:
        _draw_level(outputs, noise[0], x)
    else:
        components, eps = len(outputs) // 3, noise[1]
        _draw_level(outputs[:components], noise[0], x)
        for n in range(x.size):
            c = components + int(x[n])
            x[n] = outputs[c, n] + exp(half * _bounded(outputs[components + c, n], limit)) * eps[n]


@jit
def _enter(x, code, columns):
    """The inputs (I, N) of a dimension, from its values."""
    if code == CATEGORICAL:
        for c in range(len(columns)):
            for n in range(x.size):
                columns[c, n] = 1 if x[n] == c else 0
    else:
        columns[0, :] = x


@jit
def _turn(values, out):
    for n in range(len(values)):
        for d in range(values.shape[1]):
            out[d, n] = values[n, d]


@jit
def _panel(params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits, rows):
    """Fill the rows (N, D) of one panel; inside, a unit's values for all of them lie side by side."""
    H, (N, D) = len(cuts), rows.shape
    offsets = np.zeros(H + 1, np.intp)  # where each hidden layer's units begin in h
    for layer in range(H):
        offsets[layer + 1] = offsets[layer] + widths[layer + 1]
    h, out = np.empty((offsets[H], N), rows.dtype), np.empty((first[D], N), rows.dtype)
    x, seen, eps = np.empty((D, N), rows.dtype), np.empty((widths[0], N), rows.dtype), np.empty(noise.T.shape, rows.dtype)
    _turn(noise, eps)
    given, drawn = inputs[D], 0  # the context's first input, and the noise used
    _turn(context, seen[given:])
    _turn(known, x)
    for low in range(0, D, BLOCK):
        high = min(low + BLOCK, D)
        # what the values before this block give to its units: everything for units that saw nothing new (degree 0)
        for layer in range(H + 1):
            weight, bias = layer_of(params, widths, layer)
            if layer < H:
                a, b = 0 if low == 0 else cuts[layer, low], cuts[layer, high]
                z = h[offsets[layer] + a:offsets[layer] + b]
            else:
                a, b = first[low], first[high]
                z = out[a:b]
            _fill(bias[a:b], z)
            if layer == 0:
                _add_known(seen[:inputs[low]], weight[:inputs[low], a:b], z)
                _add_known(seen[given:], weight[given:, a:b], z)
            else:
                below = h[offsets[layer - 1]:offsets[layer - 1] + cuts[layer - 1, low]]
                _add_known(below, weight[:len(below), a:b], z)
            if layer == H and direct.size > 0:
                _add_known(seen[:inputs[low]], direct[:inputs[low], a:b], z)
                _add_known(seen[given:], direct[given:, a:b], z)
            if layer < H and low == 0:
                _relu(z[:cuts[layer, 0]])
        for d in range(low, high):
            own, later = slice(inputs[d], inputs[d + 1]), slice(first[d + 1], first[high])
            if d >= known.shape[1]:
                _draw(out[first[d]:first[d + 1]], eps[drawn:drawn + 2], codes[d], limits[d], x[d])
            _enter(x[d], codes[d], seen[own])
            drawn += 2 if codes[d] == MIXTURE else 1
            if direct.size > 0:
                _add_product(seen[own], direct[own, later], out[later])
            new, row = seen[own], inputs[d]  # the newest values of the layer below, and their first row there
            for layer in range(H + 1):
                weight, bias = layer_of(params, widths, layer)
                seeing = weight[row:row + len(new)]
                if layer < H:
                    a, b, end = cuts[layer, d], cuts[layer, d + 1], cuts[layer, high]
                    _add_product(new, seeing[:, a:end], h[offsets[layer] + a:offsets[layer] + end])
                    new, row = h[offsets[layer] + a:offsets[layer] + b], a
                    _relu(new)
                else:
                    _add_product(new, seeing[:, later], out[later])
    _turn(x.T, rows.T)


@jit
def _panel_of(p, panels, params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits, x):
    low, high = _rows_of(p, panels, len(noise))
    _panel(params, widths, cuts, inputs, first, codes, direct, context[low:high], known[low:high], noise[low:high], limits,
           x[low:high])


@entry
def _numba(params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits):
    panels, x = _panels(len(noise)), np.empty((len(noise), len(codes)), noise.dtype)
    parallel(panels, _panel_of, (panels, params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits, x))
    return x


@functools.lru_cache(maxsize=256)
def _sizes(*plan):
    widths, inputs, first, codes = (np.frombuffer(each, np.int64) for each in plan)
    n_inputs, n_outputs, levels = np.diff(inputs), np.diff(first), codes == CATEGORICAL
    fit = np.select([codes == BERNOULLI, codes == NORMAL, levels, codes == MIXTURE],
                    [n_outputs == 1, n_outputs == 2, n_outputs > 0, (n_outputs > 0) & (n_outputs % 3 == 0)], False)
    fit &= n_inputs == np.where(levels, n_outputs, 1)
    if inputs[0] or first[0] or first[-1] != widths[-1] or not fit.all():
        raise KernelError("kernel made_sample.sample: inputs and first must be 0, then where each next dimension's inputs and "
                          "outputs begin, as many as codes say")
    size = int(((widths[:-1] + 1) * widths[1:]).sum())
    return (("P", size), ("W", int(widths[0] - inputs[-1])), ("U", len(codes) + int((codes == MIXTURE).sum())),
            ("K", 0, int(widths[0])), ("M", 0, int(widths[-1])), ("S", *range(len(codes) + 1)))


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _cuda_side(params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits):
    widths, N, D = _cuda.asnumpy(widths), len(noise), len(codes)
    sizes = (widths[:-1] + 1) * widths[1:]
    layers = np.stack([np.cumsum(sizes) - sizes, widths[:-1], widths[1:]], axis=1)
    units = int(widths[1:].sum())
    x, seen, sums = (_cuda.empty((N, size), noise.dtype) for size in (D, int(widths[0]), units))
    rows = -(-N // (4 * _cuda.multiprocessors())) or 1  # they have nothing to do with one another, so no bit depends on it
    plans = map(_cuda.constant, (layers, cuts, inputs, first, codes))
    _cuda.launch("made_sample", "sample", -(-N // rows), 256, params, *plans, direct, context, known, noise, limits, x,
                 seen, sums, N, D, len(layers), units, noise.shape[1], known.shape[1], direct.size > 0, rows)
    return x


sample = Kernel("made_sample.sample", "params(P) widths(L):int64 cuts(L-2,D+1):int64 inputs(D+1):int64 first(D+1):int64 "
                "codes(D):int64 direct(K,M) context(N,W) known(N,S) noise(N,U) limits(D)",
                reference=_reference, numba=_numba, cuda=_cuda_side, blas=True,
                sizes=lambda params, widths, cuts, inputs, first, codes, *rest:
                _sizes(*map(_cuda.content, (widths, inputs, first, codes))))
