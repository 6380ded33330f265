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

Numba: rows go in groups of a vector's lanes, dimensions in blocks. What earlier blocks contribute to a block is one product
per layer, of _tile.py, whose panels are the groups' values; inside the block each new value is added to the units that see it,
and a unit is activated when its last input has arrived. Every value is its bias, to which products are added one by one, so
that no bit of a row depends on other rows. CUDA: the same without the blocks, a few rows for every block of threads.
"""
import functools

import numpy as np

from . import _cuda
from ._constants import BERNOULLI, CATEGORICAL, MIXTURE, NORMAL
from ._cuda import KernelError
from ._dispatch import Kernel
from ._jit import YES, ZERO, entry, get_num_threads, jit, parallel
from ._layers import layer_of
from ._math import exp, tanh
from ._product import pack
from ._tile import add_products, tile_columns, tile_rows

BLOCK = 30  # dimensions, so that as many outputs are whole tiles, of 10 rows or of 6
TOGETHER = 8  # groups that take the weights from the cache together


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
def _begin(bias, sums, at):
    """sums[:, at:] = bias, for all groups."""
    for g in range(len(sums)):
        for m in range(bias.size):
            for q in range(tile_columns(sums)):
                sums[g, at + m, q] = bias[m]


@jit
def _add(values, weight, row, first, last, sums, at):
    """sums[:, at:] += weight[row:, first:last]^T values, for all groups. Up to a tile of units behind these become anything."""
    step, depth = tile_rows(), values.shape[1]
    for m in range(first, last if depth > 0 else first, step):
        for g in range(len(values)):
            add_products(weight, YES, m, min(step, last - m), row, depth, values[g], sums[g], at + m - first, ZERO)


@jit
def _relu(units):
    zero = units.dtype.type(0)
    for g in range(len(units)):
        for m in range(units.shape[1]):
            for q in range(tile_columns(units)):
                units[g, m, q] = max(units[g, m, q], zero)


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
    """The inputs (G, I, lanes) of a dimension, from its values (G lanes,)."""
    lanes = tile_columns(x)
    for g in range(len(columns)):
        for c in range(columns.shape[1]):
            for q in range(lanes):
                columns[g, c, q] = x[g * lanes + q] if code != CATEGORICAL else 1 if x[g * lanes + q] == c else 0


@jit
def _take(rows, at, groups):
    """groups (G, K, lanes) = columns at.. of the rows, turned; 0 in lanes without a row."""
    lanes = tile_columns(rows)
    for g in range(len(groups)):
        pack(rows, YES, at, g * lanes, min(lanes, len(rows) - g * lanes), groups[g])


@jit
def _give(values, rows, at):
    """Columns at.. of the rows = values (K, N), turned."""
    for n in range(len(rows)):
        row = rows[n]
        for k in range(len(values)):
            row[at + k] = values[k, n]


@jit
def _most(first, D):
    """The most outputs that a block has."""
    most = 0
    for low in range(0, D, BLOCK):
        most = max(most, first[min(low + BLOCK, D)] - first[low])
    return most


@jit
def _grouped(values, groups):
    """values (K, G lanes) as (G, K, lanes): to transpose three axes compiles for three seconds, this for a tenth of one."""
    lanes, (row, value) = tile_columns(values), values.strides
    return np.lib.stride_tricks.as_strided(values, (groups, len(values), lanes), (lanes * value, row, value))


@jit
def _sample(params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits, rows):
    """Fill the rows (N, D), in groups of which each has a vector for every input, unit and output."""
    H, (N, D), S, lanes = len(cuts), rows.shape, known.shape[1], tile_columns(rows)
    groups, offsets = -(-N // lanes), np.zeros(H + 1, np.intp)  # offsets: where each hidden layer's units begin in h
    for layer in range(H):
        offsets[layer + 1] = offsets[layer] + widths[layer + 1] + tile_rows()
    h, seen = np.empty((groups, offsets[H], lanes), rows.dtype)[:, 0:], np.empty((groups, widths[0], lanes), rows.dtype)
    # of a block: values of all groups lie side by side
    x, eps = np.empty((BLOCK, groups * lanes), rows.dtype), np.empty((2 * BLOCK, groups * lanes), rows.dtype)
    out = np.empty((_most(first, D) + tile_rows(), groups * lanes), rows.dtype)
    to_outputs = _grouped(out, groups)
    given, used = inputs[D], 0  # the context's first input, and the noise used
    _take(context, ZERO, seen[:, given:])
    for low in range(0, D, BLOCK):
        high = min(low + BLOCK, D)
        # what the values before this block give to its units: everything for units that saw nothing new (degree 0)
        for layer in range(H + 1):
            weight, bias = layer_of(params, widths, layer)
            if layer < H:
                a, b = 0 if low == 0 else cuts[layer, low], cuts[layer, high]
                sums, at = h, offsets[layer] + a
            else:
                a, b = first[low], first[high]
                sums, at = to_outputs, 0
            _begin(bias[a:b], sums, at)
            if layer == 0:
                _add(seen[:, :inputs[low]], weight, ZERO, a, b, sums, at)
                _add(seen[:, given:], weight, given, a, b, sums, at)
            else:
                below = offsets[layer - 1]
                _add(h[:, below:below + cuts[layer - 1, low]], weight, ZERO, a, b, sums, at)
            if layer == H and direct.size > 0:
                _add(seen[:, :inputs[low]], direct, ZERO, a, b, sums, at)
                _add(seen[:, given:], direct, given, a, b, sums, at)
            if layer < H and low == 0:
                _relu(h[:, at:at + cuts[layer, 0]])
        before, start = used, first[low]
        for d in range(low, high):
            used += 2 if codes[d] == MIXTURE else 1
        _take(noise[:, before:used], ZERO, _grouped(eps[:used - before], groups))
        _take(known[:, low:high], ZERO, _grouped(x[:max(0, min(high, S) - low)], groups))
        used = before
        for d in range(low, high):
            own, after, end = slice(inputs[d], inputs[d + 1]), first[d + 1], first[high]
            if d >= S:
                _draw(out[first[d] - start:after - start], eps[used - before:], codes[d], limits[d], x[d - low])
            _enter(x[d - low], codes[d], seen[:, own])
            used += 2 if codes[d] == MIXTURE else 1
            if direct.size > 0:
                _add(seen[:, own], direct, inputs[d], after, end, to_outputs, after - start)
            new, row = seen[:, own], inputs[d]  # the newest values of the layer below, and their first row there
            for layer in range(H + 1):
                weight, bias = layer_of(params, widths, layer)
                if layer < H:
                    a, b, at = cuts[layer, d], cuts[layer, d + 1], offsets[layer]
                    _add(new, weight, row, a, cuts[layer, high], h, at + a)
                    new, row = h[:, at + a:at + b], a
                    _relu(new)
                else:
                    _add(new, weight, row, after, end, to_outputs, after - start)
        _give(x[:high - low], rows, low)


@jit
def _sample_part(p, parts, params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits, x):
    low, high = _rows_of(p, parts, x)
    _sample(params, widths, cuts, inputs, first, codes, direct, context[low:high], known[low:high], noise[low:high], limits,
            x[low:high])


@jit
def _rows_of(p, parts, x):
    """The first row of a part, and the last + 1: whole groups, as even as they go."""
    lanes = tile_columns(x)
    groups = -(-len(x) // lanes)
    return p * groups // parts * lanes, min((p + 1) * groups // parts * lanes, len(x))


@entry
def _parts(threads, params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits):
    x = np.empty((len(noise), len(codes)), noise.dtype)
    groups = -(-len(x) // tile_columns(x))
    parts = min(groups, max(threads, -(-groups // TOGETHER)))
    parallel(parts, _sample_part, (parts, params, widths, cuts, inputs, first, codes, direct, context, known, noise, limits, x))
    return x


def _numba(*args):
    return _parts(get_num_threads(), *args)


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
                reference=_reference, numba=_numba, cuda=_cuda_side,
                sizes=lambda params, widths, cuts, inputs, first, codes, *rest:
                _sizes(*map(_cuda.content, (widths, inputs, first, codes))))
