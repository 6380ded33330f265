"""A multilayer perceptron, masked or not, in one kernel: every layer of a few rows while they are in the cache.

    forward      h_1 = relu(x W_1 + b_1), ..., y = h_{L-1} W_L + b_L
    backward     dx and the gradient of every weight and bias, given g = dy

x (N, K), y and g (N, M). hidden (Q,): the hidden layers (N, h), one after another. params (P,): weight (inputs, outputs) and
bias of every layer, likewise. widths (L + 1,): K, the hidden widths, M. One dtype, float32 or float64; any N.

A weight may be masked: the caller keeps its entries outside the mask at zero, and the gradient is zero there. The rows of
blocks (B, 5) cut the layers' columns: layer, first column, last + 1, full, end; in these columns every mask entry above
row `full` is 1 and from row `end` on is 0, so that only rows below `end` are multiplied. mask (R,) holds the masks of the
layers one after another; only rows full..end of a block look at it, and it may be empty where none does. pieces (T, 5) is
a finer cut of the same kind, for the gradients of the weights.

Numba: two parallel regions, one over panels of rows, one over pieces of weights, GEMM on one BLAS thread inside. The cuts
depend on shapes alone, so no bit depends on the number of threads. CUDA: a launch per layer, tiles as in masked_matmul.py, and
one for all gradients of weights. Source: the chain rule; masks as in Germain et al. (2015).
"""
import functools
import typing

import numpy as np

from . import _cuda
from ._blas import gemm
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import NO, YES, ZERO, jit, jitable, prange
from .masked_matmul import THREADS, _panels, _rows_of, add_up, bounds, parts, tiles


@jitable
def layer_start(widths, layer):
    """Where a layer's weight begins in params."""
    start = 0
    for k in range(layer):
        start += (widths[k] + 1) * widths[k + 1]
    return start


@jitable
def layer_of(params, widths, layer):
    """The weight (inputs, outputs) and bias of a layer, views of params."""
    start, n_in, n_out = layer_start(widths, layer), widths[layer], widths[layer + 1]
    end = start + n_in * n_out
    return params[start:end].reshape((n_in, n_out)), params[end:end + n_out]


@jitable
def layer_of_hidden(hidden, widths, layer):
    """The values (N, h) of a hidden layer, a view of hidden; the first has number 1."""
    before, total = 0, 0
    for k in range(1, len(widths) - 1):
        before += widths[k] if k < layer else 0
        total += widths[k]
    N = hidden.size // total
    return hidden[N * before:N * (before + widths[layer])].reshape((N, widths[layer]))


def _forward_reference(x, params, widths, blocks, pieces, mask):
    h, hidden = x.astype(np.float64), [np.empty(0)]
    for layer in range(len(widths) - 1):
        weight, bias = layer_of(params, widths, layer)
        h = h @ weight.astype(np.float64) + bias
        if layer < len(widths) - 2:
            h = np.maximum(h, 0)
            hidden.append(h.ravel())
    return h.astype(x.dtype), np.concatenate(hidden).astype(x.dtype)


def _backward_reference(g, x, hidden, params, widths, blocks, pieces, mask, want_dx):
    g = g.astype(np.float64)
    dparams = np.zeros(params.shape)
    for layer in reversed(range(len(widths) - 1)):
        below = layer_of_hidden(hidden, widths, layer) if layer else x
        weight, bias = layer_of(params, widths, layer)
        dweight, dbias = layer_of(dparams, widths, layer)
        dweight += _masked(below.T.astype(np.float64) @ g, widths, layer, blocks, mask)
        dbias += g.sum(axis=0)
        g = g @ weight.T.astype(np.float64)
        if layer:
            g = g * (below > 0)
    return (g if want_dx else np.empty((0, 0))).astype(x.dtype), dparams.astype(x.dtype)


def _masked(weight, widths, layer, blocks, mask):
    out, start = np.zeros_like(weight), sum(widths[k] * widths[k + 1] for k in range(layer))
    for _, first, last, full, end in blocks[blocks[:, 0] == layer]:
        out[:end, first:last] = weight[:end, first:last]
        if full < end:
            out[full:end, first:last] *= mask[start:start + weight.size].reshape(weight.shape)[full:end, first:last]
    return out


@jit
def _units(a, turned, first, last):
    """Some units of a (N, units), or of a (units, N) if turned."""
    return a[first:last] if turned else a[:, first:last]


@jit
def _multiply(a, a_turned, b, b_turned, beta, c, c_turned):
    """c = a b + beta c, where each may be stored turned."""
    if c_turned:
        gemm(1.0, b, not b_turned, a, not a_turned, beta, c)
    else:
        gemm(1.0, a, a_turned, b, b_turned, beta, c)


@jit
def panel_forward(x, params, widths, blocks, low, hidden, y, turned):
    """Fill y, and rows low.. of hidden, for a panel of rows; turned: x and y are (K, N) and (M, N)."""
    last_layer, high, zero = len(widths) - 2, low + (x.shape[1] if turned else x.shape[0]), x.dtype.type(0)
    for b in range(len(blocks)):
        layer, first, last, _, end = blocks[b]
        weight, bias = layer_of(params, widths, layer)
        below = x if layer == 0 else layer_of_hidden(hidden, widths, layer)[low:high]
        above = y if layer == last_layer else layer_of_hidden(hidden, widths, layer + 1)[low:high]
        below_turned, above_turned = turned and layer == 0, turned and layer == last_layer
        _multiply(_units(below, below_turned, ZERO, end), below_turned, weight[:end, first:last], NO, 0.0,
                  _units(above, above_turned, first, last), above_turned)
        shift = bias[first:last]
        for n in range(shift.size if above_turned else len(above)):
            if above_turned:
                out, value = above[first + n], shift[n]
                for i in range(out.size):
                    out[i] += value
            elif layer == last_layer:
                out = above[n, first:last]  # a row by itself is contiguous for the compiler too: the loop vectorises
                for m in range(out.size):
                    out[m] += shift[m]
            else:
                out = above[n, first:last]
                for m in range(out.size):
                    out[m] = max(out[m] + shift[m], zero)


@jit
def panel_backward(g, params, widths, blocks, low, hidden, delta, dx, want_dx, turned):
    """Fill dx, and rows low.. of delta, the cotangents of the hidden layers before their ReLU, for a panel of rows."""
    last_layer, high, zero = len(widths) - 2, low + (g.shape[1] if turned else g.shape[0]), g.dtype.type(0)
    b = len(blocks) - 1
    for layer in range(last_layer, -1 if want_dx else 0, -1):
        weight, _ = layer_of(params, widths, layer)
        above = g if layer == last_layer else layer_of_hidden(delta, widths, layer + 1)[low:high]
        out = dx if layer == 0 else layer_of_hidden(delta, widths, layer)[low:high]
        above_turned, out_turned = turned and layer == last_layer, turned and layer == 0
        for n in range(len(out)):
            out[n, :] = zero
        while b >= 0 and blocks[b, 0] == layer:
            _, first, last, _, end = blocks[b]
            _multiply(_units(above, above_turned, first, last), above_turned, weight[:end, first:last], YES, 1.0,
                      _units(out, out_turned, ZERO, end), out_turned)
            b -= 1
        if layer > 0:
            below = layer_of_hidden(hidden, widths, layer)[low:high]
            for n in range(len(out)):
                row, active = out[n], below[n]
                for k in range(row.size):
                    value = row[k]  # read whatever it is: a branch would not vectorise
                    row[k] = value if active[k] > zero else zero


@jit
def piece_backward(piece, g, x, hidden, delta, widths, mask, dparams, turned):
    """The gradient of one piece of a weight, and of its biases."""
    layer, first, last, full, end = piece
    last_layer = len(widths) - 2
    weight, bias = layer_of(dparams, widths, layer)
    below = x if layer == 0 else layer_of_hidden(hidden, widths, layer)
    above = g if layer == last_layer else layer_of_hidden(delta, widths, layer + 1)
    below_turned, above_turned = turned and layer == 0, turned and layer == last_layer
    _multiply(_units(below, below_turned, ZERO, end), not below_turned, _units(above, above_turned, first, last), above_turned,
              0.0, weight[:end, first:last], NO)
    if full < end:
        start = 0
        for k in range(layer):
            start += widths[k] * widths[k + 1]
        masks = mask[start:start + weight.size].reshape(weight.shape)
        for k in range(full, end):
            edge, seen = weight[k, first:last], masks[k, first:last]
            for m in range(edge.size):
                edge[m] *= seen[m]
    weight[end:, first:last] = 0
    total = bias[first:last]
    total[:] = 0
    if above_turned:
        for m in range(total.size):
            total[m] += _sum(above[first + m])
    else:
        for n in range(len(above)):
            row = above[n, first:last]
            for m in range(row.size):
                total[m] += row[m]


@jit(fastmath={"reassoc"})  # lets the sum be taken in lanes
def _sum(values):
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


@jit(parallel=True)
def _forward(x, params, widths, blocks, y, hidden):
    N = len(x)
    panels = _panels(N)
    for p in prange(panels):
        low, high = _rows_of(p, panels, N)
        panel_forward(x[low:high], params, widths, blocks, low, hidden, y[low:high], NO)


@jit(parallel=True)
def _backward(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, delta, dx, dparams):
    N = len(x)
    panels = _panels(N)
    for p in prange(panels):
        low, high = _rows_of(p, panels, N)
        panel_backward(g[low:high], params, widths, blocks, low, hidden, delta, dx[low:high], want_dx, NO)
    for t in prange(len(pieces)):
        piece_backward(pieces[t], g, x, hidden, delta, widths, mask, dparams, NO)


def _forward_numba(x, params, widths, blocks, pieces, mask):
    y, hidden = empty((len(x), widths[-1]), x.dtype), empty((len(x) * widths[1:-1].sum(),), x.dtype)
    _forward(x, params, widths, blocks, y, hidden)
    return y, hidden


def _backward_numba(g, x, hidden, params, widths, blocks, pieces, mask, want_dx):
    dx, dparams = empty(x.shape if want_dx else (0, 0), x.dtype), empty(params.shape, x.dtype)
    _backward(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, empty(hidden.shape, x.dtype), dx, dparams)
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


def _pairs(layers):
    """Every layer with the one above it, or None."""
    return zip(layers, [*layers[1:], None], strict=True)


@functools.lru_cache(maxsize=256)
def _plan(widths, blocks):
    """The layers; the bounds of all of them, as Stairs of _gemm.cuh takes them; the jobs of mlp.cu. Arguments are bytes."""
    widths, blocks = np.frombuffer(widths, np.int64), np.frombuffer(blocks, np.int64).reshape(-1, 5)
    stairs = [bounds(blocks[blocks[:, 0] == layer, 1:], M) for layer, M in enumerate(widths[1:])]
    K, M = widths[:-1], widths[1:]
    sizes = (K + 1) * M, [len(b) for b in stairs], K * M, [0, *K[1:]]
    before = [np.cumsum(size) - size for size in sizes]
    layers = [_Layer(*map(int, layer)) for layer in zip(K, M, *before, strict=True)]
    jobs = [(n > 0, layer.hidden, 0, layer.K, layer.K, upper is not None, upper.hidden if upper else 0, 0, layer.M, layer.M,
             layer.start, layer.bounds, layer.mask) for n, (layer, upper) in enumerate(_pairs(layers))]
    return layers, np.concatenate(stairs), np.array(jobs, dtype=np.int64)


def weight_gradients(x, hidden, g, delta, mask, stairs, jobs, N, size):
    """dparams (size,) of the layers that jobs tell of: see mlp.cu."""
    (count, large), n_parts = tiles(*zip((jobs[:, 4] + 1).tolist(), jobs[:, 9].tolist(), strict=True)), parts(N, size)
    dparams = _cuda.empty((n_parts, size), g.dtype)
    launch("mlp", "gradients", (count, len(jobs), n_parts), THREADS, x, hidden, g, delta, mask, _cuda.constant(stairs),
           _cuda.constant(jobs), dparams, N, size, large)
    return add_up(dparams)


def _forward_cuda(x, params, widths, blocks, pieces, mask):
    layers, stairs, _ = _plan(_cuda.content(widths), _cuda.content(blocks))
    N, below = len(x), x
    y, hidden = _cuda.empty((N, layers[-1].M), x.dtype), _cuda.empty((N * sum(layer.K for layer in layers[1:]),), x.dtype)
    for layer, upper in _pairs(layers):
        above = y if upper is None else hidden[N * upper.hidden:]
        count, large = tiles((N, layer.M))
        launch("mlp", "forward", count, THREADS, below, params, _cuda.constant(stairs), above, N, layer.K, layer.M, layer.start,
               layer.bounds, upper is not None, large)
        below = above
    return y, hidden


def _backward_cuda(g, x, hidden, params, widths, blocks, pieces, mask, want_dx):
    layers, stairs, jobs = _plan(_cuda.content(widths), _cuda.content(blocks))
    N, above, delta = len(x), g, _cuda.empty(hidden.shape, x.dtype)
    dx = _cuda.empty(x.shape if want_dx else (0, 0), x.dtype)
    for n in range(len(layers) - 1, -1 if want_dx else 0, -1):
        layer = layers[n]
        below = delta[N * layer.hidden:] if n else dx
        count, large = tiles((N, layer.K))
        launch("mlp", "backward", count, THREADS, above, params, _cuda.constant(stairs), hidden[N * layer.hidden:], below, N,
               layer.K, layer.M, layer.start, layer.bounds, n > 0, large)
        above = below
    return dx, weight_gradients(x, hidden, g, delta, mask, stairs, jobs, N, params.size)


@functools.lru_cache(maxsize=256)
def _sizes(widths):
    widths = np.frombuffer(widths, np.int64)
    size, units = int(((widths[:-1] + 1) * widths[1:]).sum()), int(widths[1:-1].sum())
    return ("P", size), ("K", int(widths[0])), ("R", 0, int((widths[:-1] * widths[1:]).sum())), ("M", int(widths[-1])), units


def _of_backward(g, x, hidden, params, widths, *rest):
    *sizes, units = _sizes(_cuda.content(widths))
    return *sizes, ("Q", len(x) * units)


forward = Kernel("mlp.forward", "x(N,K) params(P) widths(W):int64 blocks(B,5):int64 pieces(T,5):int64 mask(R)",
                 reference=_forward_reference, numba=_forward_numba, cuda=_forward_cuda, blas=True,
                 sizes=lambda x, params, widths, *rest: _sizes(_cuda.content(widths))[:3])
backward = Kernel("mlp.backward", "g(N,M) x(N,K) hidden(Q) params(P) widths(W):int64 blocks(B,5):int64 "
                  "pieces(T,5):int64 mask(R) want_dx", reference=_backward_reference, numba=_backward_numba,
                  cuda=_backward_cuda, blas=True, sizes=_of_backward)
