"""A multilayer perceptron, masked or not, in one kernel: every layer, forward and backward.

    forward      h_1 = relu(x W_1 + b_1), ..., y = h_{L-1} W_L + b_L
    backward     dx and the gradient of every weight and bias, given g = dy; each empty if it is not wanted

x (N, K), y and g (N, M). hidden (Q,): the hidden layers (N, h), one after another. params (P,): weight (inputs, outputs) and
bias of every layer, likewise. widths (L + 1,): K, the hidden widths, M. One dtype, float32 or float64; any N.

A weight may be masked: the caller keeps its entries outside the mask at zero, and the gradient is zero there. The rows of
blocks (B, 5) cut the layers' columns: layer, first column, last + 1, full, end; in these columns every mask entry above
row `full` is 1 and from row `end` on is 0, so that only rows below `end` are multiplied. mask (R,) holds the masks of the
layers one after another; only rows full..end of a block look at it, and it may be empty where none does. pieces (T, 5) is
a finer cut of the same kind, for the gradients of the weights.

Numba: the products of _product.py. A batch goes through the layers one by one, their columns spread over the threads; one of
many rows, or with little to do, in panels of rows, each through all layers. Then the gradients, piece by piece. Large layers
without a mask, and their gradients, go in wide parts (large_parts), whose rows _product.py packs. Every value is a sum in a
fixed order, the same for either, so that no bit depends on the number of threads, and none of a row on other rows.
CUDA: a launch per layer, tiles as in masked_matmul.py, another where blocks share the depth of a tile, and one for all
gradients of weights; large layers, and then all of these gradients, by cuBLAS. Source: the chain rule; masks as in Germain
et al. (2015).
"""
import functools
import math
import typing

import numpy as np

from . import _cublas, _cuda
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import NO, YES, ZERO, entry, get_num_threads, jit, parallel
from ._layers import (
    UNITS,
    cut_gradient,
    cut_units,
    dense_layer,
    even_task,
    even_tasks,
    first_block,
    layer_of,
    layer_of_hidden,
    layer_share,
    layer_tasks,
    network_panels,
)
from ._partition import COLUMNS, part_of_large
from ._product import multiply
from .masked_matmul import THREADS, _steps, add_up, bounds, parts, split, tiles


def _forward_reference(x, params, widths, blocks, pieces, mask):
    h, hidden = x.astype(np.float64), [np.empty(0)]
    for layer in range(len(widths) - 1):
        weight, bias = layer_of(params, widths, layer)
        h = h @ weight.astype(np.float64) + bias
        if layer < len(widths) - 2:
            h = np.maximum(h, 0)
            hidden.append(h.ravel())
    return h.astype(x.dtype), np.concatenate(hidden).astype(x.dtype)


def _backward_reference(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, want_dparams):
    g = g.astype(np.float64)
    dparams = np.zeros(params.shape)
    for layer in reversed(range(len(widths) - 1)):
        below = layer_of_hidden(hidden, widths, layer) if layer else x
        weight, bias = layer_of(params, widths, layer)
        dweight, dbias = layer_of(dparams, widths, layer)
        dweight += masked(below.T.astype(np.float64) @ g, widths, layer, blocks, mask)
        dbias += g.sum(axis=0)
        g = g @ weight.T.astype(np.float64)
        if layer:
            g = g * (below > 0)
    return (g if want_dx else np.empty((0, 0))).astype(x.dtype), (dparams if want_dparams else np.empty(0)).astype(x.dtype)


def masked(weight, widths, layer, blocks, mask):
    out, start = np.zeros_like(weight), sum(widths[k] * widths[k + 1] for k in range(layer))
    for _, first, last, full, end in blocks[blocks[:, 0] == layer]:
        out[:end, first:last] = weight[:end, first:last]
        if full < end:
            out[full:end, first:last] *= mask[start:start + weight.size].reshape(weight.shape)[full:end, first:last]
    return out


@jit
def _alike(blocks, b):
    """The number after those of the blocks from b on that lie side by side and see the same inputs, COLUMNS wide at most."""
    to = b + 1
    while (to < len(blocks) and blocks[to, 0] == blocks[b, 0] and blocks[to, 1] == blocks[to - 1, 2]
           and blocks[to, 4] == blocks[b, 4] and blocks[to, 2] - blocks[b, 1] <= COLUMNS):
        to += 1
    return to


@jit
def _panel_forward(x, params, widths, blocks, low, hidden, y):
    """Fill what blocks tell of y, and of rows low.. of hidden, for a panel of rows."""
    last_layer, high, zero = len(widths) - 2, low + len(x), x.dtype.type(0)
    b = 0
    while b < len(blocks):
        (layer, first, _, _, end), to = blocks[b], _alike(blocks, b)
        last, b = blocks[to - 1, 2], to
        weight, bias = layer_of(params, widths, layer)
        below = x if layer == 0 else layer_of_hidden(hidden, widths, layer)[low:high]
        above = y if layer == last_layer else layer_of_hidden(hidden, widths, layer + 1)[low:high]
        multiply(below, NO, ZERO, weight, NO, ZERO, end, above, first, last)
        shift = bias[first:last]
        for n in range(len(above)):
            out = above[n, first:last]  # a row by itself is contiguous for the compiler too: the loop vectorises
            if layer == last_layer:
                for m in range(out.size):
                    out[m] += shift[m]
            else:
                for m in range(out.size):
                    out[m] = max(out[m] + shift[m], zero)


@jit
def _seen(blocks, layer, unit):
    """Of a layer's outputs, the first and the last + 1 of those that see this input or one after it."""
    start, stop = ZERO, ZERO
    for b in range(len(blocks)):
        if blocks[b, 0] == layer and blocks[b, 4] > unit:
            start = blocks[b, 1] if stop == 0 else min(start, blocks[b, 1])
            stop = max(stop, blocks[b, 2])
    return start, stop


@jit
def _panel_backward(g, params, widths, blocks, layer, first, last, low, hidden, delta, dx):
    """Fill the cotangents of units first..last - 1 of a layer's inputs, for a panel of rows: columns of dx, or of rows low.. of
    delta, those of a hidden layer before its ReLU.
    """
    last_layer, high, zero = len(widths) - 2, low + len(g), g.dtype.type(0)
    weight, _ = layer_of(params, widths, layer)
    above = g if layer == last_layer else layer_of_hidden(delta, widths, layer + 1)[low:high]
    out = dx if layer == 0 else layer_of_hidden(delta, widths, layer)[low:high]
    until = first
    while until < last:
        unit, until = until, min(until + UNITS, last)
        start, stop = _seen(blocks, layer, unit)
        while until < min(last, unit + COLUMNS) and _seen(blocks, layer, until) == (start, stop):
            until = min(until + UNITS, last)
        multiply(above, NO, ZERO, weight, YES, start, stop, out, unit, until)
        if layer > 0:
            below = layer_of_hidden(hidden, widths, layer)[low:high]
            for n in range(len(out)):
                row, active = out[n, unit:until], below[n, unit:until]
                for k in range(row.size):
                    value = row[k]  # read whatever it is: a branch would not vectorise
                    row[k] = value if active[k] > zero else zero


@jit
def piece_backward(piece, g, x, hidden, delta, widths, mask, dparams):
    """The gradient of one piece of a weight down to its `end`, and of its biases."""
    layer, first, last, full, end = piece
    weight, bias = layer_of(dparams, widths, layer)
    below = x if layer == 0 else layer_of_hidden(hidden, widths, layer)
    above = g if layer == len(widths) - 2 else layer_of_hidden(delta, widths, layer + 1)
    multiply(below, YES, ZERO, above, NO, ZERO, len(above), weight[:end], first, last)
    if full < end:
        start = 0
        for k in range(layer):
            start += widths[k] * widths[k + 1]
        masks = mask[start:start + weight.size].reshape(weight.shape)
        for k in range(full, end):
            edge, seen = weight[k, first:last], masks[k, first:last]
            for m in range(edge.size):
                edge[m] *= seen[m]
    _sum_rows(above, first, last, bias)


@jit
def _clear_task(t, parts, widths, blocks, dparams):
    """Zeros below the `end` of every block, in a part of every weight's rows: row by row, as they lie in memory."""
    for layer in range(len(widths) - 1):
        if dense_layer(blocks, widths, layer):
            continue
        weight, _ = layer_of(dparams, widths, layer)
        start, stop = first_block(blocks, layer), first_block(blocks, layer + 1)
        for k in range(t * len(weight) // parts, (t + 1) * len(weight) // parts):
            for b in range(start, stop):
                if blocks[b, 4] <= k:
                    weight[k, blocks[b, 1]:blocks[b, 2]] = 0


@jit
def clear(widths, blocks, dparams):
    """The same in all of every weight's rows, if any has a mask."""
    parts = 0
    for layer in range(len(widths) - 1):
        parts = parts if dense_layer(blocks, widths, layer) else 16
    parallel(parts, _clear_task, (parts, widths, blocks, dparams))


@jit
def _sum_rows(above, first, last, bias):
    """bias[first:last] = the sum of the rows above."""
    total = bias[first:last]
    total[:] = 0
    for n in range(len(above)):
        row = above[n, first:last]
        for m in range(row.size):
            total[m] += row[m]


@jit
def _forward_task(t, stage, panels, threads, x, params, widths, blocks, y, hidden):
    """Task t of a stage: all layers of a panel of rows, or, of a part of the rows, blocks of the layer that the stage is."""
    N = len(x)
    part, parts, b, to = (t, panels, 0, len(blocks)) if panels else layer_share(t, stage, N, widths, blocks, threads)
    low, high = part * N // parts, (part + 1) * N // parts
    _panel_forward(x[low:high], params, widths, blocks[b:to], low, hidden, y[low:high])


@entry
def _forward(threads, x, params, widths, blocks, y, hidden):
    N, panels = len(x), network_panels(len(x), params.size, threads)
    for stage in range(1 if panels else len(widths) - 1):
        tasks = panels if panels else layer_tasks(stage, N, widths, blocks, threads)
        parallel(tasks, _forward_task, (stage, panels, threads, x, params, widths, blocks, y, hidden))


@jit
def _backward_task(t, layer, panels, threads, g, x, hidden, params, widths, blocks, want_dx, delta, dx):
    """Task t: all layers for a panel of rows, or some units of what is below one layer, for a part of the rows."""
    N, lowest = len(x), 0 if want_dx else 1
    parts, units = cut_units(layer, N, widths, blocks, threads)
    part, parts, group = (t, panels, 0) if panels else even_task(t, N, parts, -(-widths[layer] // units))
    low, high = part * N // parts, (part + 1) * N // parts
    if panels:
        for k in range(len(widths) - 2, lowest - 1, -1):
            _panel_backward(g[low:high], params, widths, blocks, k, ZERO, widths[k], low, hidden, delta, dx[low:high])
    else:
        unit = group * units
        _panel_backward(g[low:high], params, widths, blocks, layer, unit, min(unit + units, widths[layer]), low, hidden, delta,
                        dx[low:high])


@jit
def _gradient_task(t, g, x, hidden, delta, widths, blocks, threads, pieces, mask, dparams):
    if cut_gradient(pieces[t, 0], len(x), widths, blocks, threads)[0] == 0:
        piece_backward(pieces[t], g, x, hidden, delta, widths, mask, dparams)


@jit
def _large_gradient_task(t, layer, rows, columns, g, x, hidden, delta, widths, dparams):
    """A part of the gradient of a large layer's weight; the part of the first rows takes those of the biases too."""
    weight, bias = layer_of(dparams, widths, layer)
    below = x if layer == 0 else layer_of_hidden(hidden, widths, layer)
    above = g if layer == len(widths) - 2 else layer_of_hidden(delta, widths, layer + 1)
    low, high, first, last = part_of_large(t, len(weight), weight.shape[1], rows, columns)
    multiply(below, YES, low, above, NO, ZERO, len(above), weight[low:high], first, last)
    if low == 0:
        _sum_rows(above, first, last, bias)


@jit
def _gradients(threads, g, x, hidden, delta, widths, blocks, pieces, mask, dparams):
    for layer in range(len(widths) - 1):
        rows, columns = cut_gradient(layer, len(x), widths, blocks, threads)
        parallel(rows * columns, _large_gradient_task, (layer, rows, columns, g, x, hidden, delta, widths, dparams))
    clear(widths, blocks, dparams)
    parallel(len(pieces), _gradient_task, (g, x, hidden, delta, widths, blocks, threads, pieces, mask, dparams))


@entry
def backward_into(threads, g, x, hidden, params, widths, blocks, pieces, mask, want_dx, delta, dx, dparams):
    N, panels, lowest, layer = len(x), network_panels(len(x), params.size, threads), 0 if want_dx else 1, len(widths) - 2
    while layer >= lowest:
        parts, units = cut_units(layer, N, widths, blocks, threads)
        tasks = panels if panels else even_tasks(N, parts, -(-widths[layer] // units))
        parallel(tasks, _backward_task, (layer, panels, threads, g, x, hidden, params, widths, blocks, want_dx, delta, dx))
        layer = -1 if panels else layer - 1
    if dparams.size:
        _gradients(threads, g, x, hidden, delta, widths, blocks, pieces, mask, dparams)


def _forward_numba(x, params, widths, blocks, pieces, mask):
    y, hidden = empty((len(x), widths[-1]), x.dtype), empty((len(x) * widths[1:-1].sum(),), x.dtype)
    _forward(get_num_threads(), x, params, widths, blocks, y, hidden)
    return y, hidden


def _backward_numba(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, want_dparams):
    dx, dparams = empty(x.shape if want_dx else (0, 0), x.dtype), empty(params.shape if want_dparams else (0,), x.dtype)
    delta = empty(hidden.shape, x.dtype)
    backward_into(get_num_threads(), g, x, hidden, params, widths, blocks, pieces, mask, want_dx, delta, dx, dparams)
    return dx, dparams


# --- CUDA ------------------------------------------------------------------------------------------------------------

class _Layer(typing.NamedTuple):
    """A layer's inputs and outputs, and what comes before it: in params, bounds, mask, and the units below it in hidden."""

    K: int
    M: int
    start: int
    bounds: int
    mask: int
    hidden: int


def pairs(layers):
    """Every layer with the one above it, or None."""
    return zip(layers, [*layers[1:], None], strict=True)


@functools.lru_cache(maxsize=256)
def plan(widths, blocks):
    """The layers; the bounds of all of them, as Stairs of _gemm.cuh takes them; the jobs of mlp.cu. Arguments are bytes."""
    widths, blocks = np.frombuffer(widths, np.int64), np.frombuffer(blocks, np.int64).reshape(-1, 5)
    stairs = [bounds(blocks[blocks[:, 0] == layer, 1:], M) for layer, M in enumerate(widths[1:])]
    K, M = widths[:-1], widths[1:]
    sizes = (K + 1) * M, [len(b) for b in stairs], K * M, [0, *K[1:]]
    before = [np.cumsum(size) - size for size in sizes]
    layers = [_Layer(*map(int, layer)) for layer in zip(K, M, *before, strict=True)]
    jobs = [(n > 0, layer.hidden, 0, layer.K, layer.K, upper is not None, upper.hidden if upper else 0, 0, layer.M, layer.M,
             layer.start, layer.bounds, layer.mask) for n, (layer, upper) in enumerate(pairs(layers))]
    return layers, np.concatenate(stairs), np.array(jobs, dtype=np.int64)


@functools.lru_cache(maxsize=256)
def _blocks_of(blocks, layer):
    blocks = np.frombuffer(blocks, np.int64).reshape(-1, 5)
    return blocks[blocks[:, 0] == layer, 1:].tobytes()


def _dense_steps(blocks, layer, columns, masked=True):
    """The columns of a layer, some at once, and the row from which on its weight is zero there: see masked_matmul._steps."""
    return _steps(_blocks_of(_cuda.content(blocks), layer), columns, masked)


def _as_rows(values, N, width):
    """(N, width) of a layer's values, if they are not yet."""
    return values if values.ndim == 2 else values[:N * width].reshape(N, width)


def _gradients_cublas(x, hidden, g, delta, widths, blocks, mask, layers, size):
    """dparams (size,), layer by layer."""
    dparams = _cuda.zeros((size,), g.dtype)
    for n, (layer, upper) in enumerate(pairs(layers)):
        below = layer_of_hidden(hidden, widths, n) if n else x
        above = g if upper is None else layer_of_hidden(delta, widths, n + 1)
        dweight, dbias = layer_of(dparams, widths, n)
        for first, last, end in _dense_steps(blocks, n, layer.M, mask.size > 0):
            _cublas.add(below[:, :end].T, above[:, first:last], dweight[:end, first:last])
        if mask.size:
            dweight *= mask[layer.mask:layer.mask + layer.K * layer.M].reshape(layer.K, layer.M)
        dbias[...] = above.sum(axis=0)
    return dparams


def weight_gradients(x, hidden, g, delta, mask, stairs, jobs, N, size):
    """dparams (size,) of the layers that jobs tell of: see mlp.cu."""
    (count, large), n_parts = tiles(*zip((jobs[:, 4] + 1).tolist(), jobs[:, 9].tolist(), strict=True)), parts(N, size)
    dparams = _cuda.empty((n_parts, size), g.dtype)
    launch("mlp", "gradients", (count, len(jobs), n_parts), THREADS, x, hidden, g, delta, mask, _cuda.constant(stairs),
           _cuda.constant(jobs), dparams, N, size, large)
    return add_up(dparams)


def shared(out, shape, depth):
    """(blocks, whether their tiles are large, where they store a product): out, or parts (n, size) where they share a depth."""
    count, large = tiles(shape)
    n = split(count, large, depth)
    return (count, n), large, out if n == 1 else _cuda.empty((n, math.prod(shape)), out.dtype)


def join(stored, hidden, out, relu):
    """What shared left to do for a cotangent or a tangent."""
    if stored is not out:
        launch("mlp", "backward_of", _cuda.grid(stored.shape[1], THREADS), THREADS, stored, hidden, out, *stored.shape, relu)


def _forward_cuda(x, params, widths, blocks, pieces, mask):
    layers, stairs, _ = plan(_cuda.content(widths), _cuda.content(blocks))
    N, below = len(x), x
    y, hidden = _cuda.empty((N, layers[-1].M), x.dtype), _cuda.empty((N * sum(layer.K for layer in layers[1:]),), x.dtype)
    for n, (layer, upper) in enumerate(pairs(layers)):
        above = y if upper is None else hidden[N * upper.hidden:]
        if _cublas.takes(N, layer.K, layer.M):
            (weight, bias), rows, out = layer_of(params, widths, n), _as_rows(below, N, layer.K), _as_rows(above, N, layer.M)
            out[...] = bias
            for first, last, end in _dense_steps(blocks, n, layer.M):
                _cublas.add(rows[:, :end], weight[:end, first:last], out[:, first:last])
            below = out if upper is None else np.maximum(out, 0, out=out)
            continue
        count, large, stored = shared(above, (N, layer.M), layer.K)
        launch("mlp", "forward", count, THREADS, below, params, _cuda.constant(stairs), stored, N, layer.K, layer.M,
               layer.start, layer.bounds, upper is not None, large)
        if stored is not above:
            bias = params[layer.start + layer.K * layer.M:]
            launch("mlp", "forward_of", _cuda.grid(N * layer.M, THREADS), THREADS, stored, bias, above, *stored.shape, layer.M,
                   upper is not None)
        below = above
    return y, hidden


def _backward_cuda(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, want_dparams):
    layers, stairs, jobs = plan(_cuda.content(widths), _cuda.content(blocks))
    dx, delta = cotangents(g, hidden, params, widths, blocks, want_dx)
    if not want_dparams:
        return dx, _cuda.empty((0,), x.dtype)
    if any(_cublas.takes(len(x), layer.K, layer.M) for layer in layers):
        return dx, _gradients_cublas(x, hidden, g, delta, widths, blocks, mask, layers, params.size)
    return dx, weight_gradients(x, hidden, g, delta, mask, stairs, jobs, len(x), params.size)


def cotangents(g, hidden, params, widths, blocks, want_dx):
    """dx, if it is wanted, and delta."""
    layers, stairs, _ = plan(_cuda.content(widths), _cuda.content(blocks))
    N, above, delta = len(g), g, _cuda.empty(hidden.shape, g.dtype)
    dx = _cuda.empty((N, layers[0].K) if want_dx else (0, 0), g.dtype)
    for n in range(len(layers) - 1, -1 if want_dx else 0, -1):
        layer = layers[n]
        below = delta[N * layer.hidden:] if n else dx
        if _cublas.takes(N, layer.M, layer.K):
            weight, rows, out = layer_of(params, widths, n)[0], _as_rows(above, N, layer.M), _as_rows(below, N, layer.K)
            out[...] = 0
            for first, last, end in _dense_steps(blocks, n, layer.M):
                _cublas.add(rows[:, first:last], weight[:end, first:last].T, out[:, :end])
            if n:
                out[...] = np.where(_as_rows(hidden[N * layer.hidden:], N, layer.K) > 0, out, 0)
            above = out
            continue
        count, large, stored = shared(below, (N, layer.K), layer.M)
        launch("mlp", "backward", count, THREADS, above, params, _cuda.constant(stairs), hidden[N * layer.hidden:], stored, N,
               layer.K, layer.M, layer.start, layer.bounds, n > 0, large)
        join(stored, hidden[N * layer.hidden:], below, n > 0)
        above = below
    return dx, delta


@functools.lru_cache(maxsize=256)
def sizes_of(widths):
    widths = np.frombuffer(widths, np.int64)
    size, units = int(((widths[:-1] + 1) * widths[1:]).sum()), int(widths[1:-1].sum())
    return ("P", size), ("K", int(widths[0])), ("R", 0, int((widths[:-1] * widths[1:]).sum())), ("M", int(widths[-1])), units


def of_backward(g, x, hidden, params, widths, *rest):
    *sizes, units = sizes_of(_cuda.content(widths))
    return *sizes, ("Q", len(x) * units)


forward = Kernel("mlp.forward", "x(N,K) params(P) widths(W):int64 blocks(B,5):int64 pieces(T,5):int64 mask(R)",
                 reference=_forward_reference, numba=_forward_numba, cuda=_forward_cuda,
                 sizes=lambda x, params, widths, *rest: sizes_of(_cuda.content(widths))[:3])
backward = Kernel("mlp.backward", "g(N,M) x(N,K) hidden(Q) params(P) widths(W):int64 blocks(B,5):int64 "
                  "pieces(T,5):int64 mask(R) want_dx want_dparams", reference=_backward_reference, numba=_backward_numba,
                  cuda=_backward_cuda, sizes=of_backward)
