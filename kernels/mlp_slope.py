"""The slope of a multilayer perceptron, its gradient by the inputs, and the gradient of what is made of slopes, in one kernel.

    forward      s, the dx of mlp.py's backward, with delta (Q,), the cotangents of the hidden layers before their ReLU, as
                 hidden has them
    backward     of sum(h * s) + sum_n c_n g_n . y_n, by g of the first alone, dg = t_L, and by every weight and bias:
                 t_1 = (h W_1) [h_1 > 0], ..., t_L = t_{L-1} W_L;  dW_l = (t_{l-1} + c h_{l-1})^T delta_l,  db_l = c^T delta_l
                 (t_0 = h, h_0 = x, delta_L = g): a value's gradient beside its slope's costs no product more. dg is empty
                 unless it is wanted

x, s and h (N, K), y and g (N, M), c (N,); the others as in mlp.py, whose way back, cuts and gradients of weights these take.
Source: the chain rule.
"""
import numpy as np

from . import _cuda, mlp
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import NO, ZERO, entry, get_num_threads, jit, parallel
from ._layers import layer_of, layer_of_hidden, layer_share, layer_tasks, network_panels
from ._product import multiply


def _forward_reference(g, hidden, params, widths, blocks, pieces, mask):
    g, delta = g.astype(np.float64), [np.empty(0)]
    for layer in reversed(range(len(widths) - 1)):
        g = g @ layer_of(params, widths, layer)[0].T.astype(np.float64)
        if layer:
            g = g * (layer_of_hidden(hidden, widths, layer) > 0)
            delta.insert(1, g.ravel())
    return g.astype(hidden.dtype), np.concatenate(delta).astype(hidden.dtype)


def _backward_reference(h, c, x, g, hidden, delta, params, widths, blocks, pieces, mask, want_dg):
    h, dparams, last = h.astype(np.float64), np.zeros(params.shape), len(widths) - 2
    for layer in range(last + 1):
        above = (layer_of_hidden(delta, widths, layer + 1) if layer < last else g).astype(np.float64)
        dweight, dbias = layer_of(dparams, widths, layer)
        below = h + c[:, None] * (layer_of_hidden(hidden, widths, layer) if layer else x)
        dweight += mlp.masked(below.T @ above, widths, layer, blocks, mask)
        dbias += c @ above
        h = h @ layer_of(params, widths, layer)[0].astype(np.float64)
        if layer < last:
            h = h * (layer_of_hidden(hidden, widths, layer + 1) > 0)
    return (h if want_dg else np.empty((0, 0))).astype(g.dtype), dparams.astype(g.dtype)


@jit
def _panel_tangent(h, params, widths, blocks, low, hidden, t, y):
    """Fill what blocks tell of y, and of rows low.. of t, the tangents of the hidden layers along h, for a panel of rows."""
    last_layer, high, zero = len(widths) - 2, low + len(h), h.dtype.type(0)
    for b in range(len(blocks)):
        layer, first, last, _, end = blocks[b]
        weight, _ = layer_of(params, widths, layer)
        below = h if layer == 0 else layer_of_hidden(t, widths, layer)[low:high]
        if layer == last_layer and y.size == 0:  # it is not wanted
            continue
        above = y if layer == last_layer else layer_of_hidden(t, widths, layer + 1)[low:high]
        multiply(below, NO, ZERO, weight, NO, ZERO, end, above, first, last)
        if layer < last_layer:
            units = layer_of_hidden(hidden, widths, layer + 1)[low:high]
            for n in range(len(above)):
                row, active = above[n, first:last], units[n, first:last]
                for m in range(row.size):
                    value = row[m]
                    row[m] = value if active[m] > zero else zero


@jit
def _tangent_task(k, stage, panels, threads, h, params, widths, blocks, hidden, t, y):
    """Task k of a stage, as in mlp.py's forward."""
    N = len(h)
    part, parts, b, to = (k, panels, 0, len(blocks)) if panels else layer_share(k, stage, N, widths, blocks, threads)
    low, high = part * N // parts, (part + 1) * N // parts
    _panel_tangent(h[low:high], params, widths, blocks[b:to], low, hidden, t, y[low:high] if y.size else y)


@jit
def _mix_task(k, parts, h, c, x, hidden, widths, t, below):
    """A part of the rows of t + c hidden, in t's place, and of h + c x."""
    low, high = k * len(h) // parts, (k + 1) * len(h) // parts
    for n in range(low, high):
        out, a, b, share = below[n], h[n], x[n], c[n]
        for i in range(out.size):
            out[i] = a[i] + share * b[i]
        for layer in range(1, len(widths) - 1):
            row, units = layer_of_hidden(t, widths, layer)[n], layer_of_hidden(hidden, widths, layer)[n]
            for i in range(row.size):
                row[i] += share * units[i]


@jit
def _weights_task(k, below, c, t, g, delta, widths, pieces, mask, dparams):
    layer, first, last, _, _ = pieces[k]
    mlp.piece_backward(pieces[k], g, below, t, delta, widths, mask, dparams)
    total = layer_of(dparams, widths, layer)[1][first:last]
    total[:] = 0
    above = g if layer == len(widths) - 2 else layer_of_hidden(delta, widths, layer + 1)
    for n in range(len(above)):
        row, share = above[n, first:last], c[n]
        for m in range(row.size):
            total[m] += share * row[m]


@entry
def _backward(threads, h, c, x, g, hidden, delta, params, widths, blocks, pieces, mask, t, below, dg, dparams):
    N, panels = len(h), network_panels(len(h), params.size, threads)
    for stage in range(1 if panels else len(widths) - 1):
        tasks = panels if panels else layer_tasks(stage, N, widths, blocks, threads)
        parallel(tasks, _tangent_task, (stage, panels, threads, h, params, widths, blocks, hidden, t, dg))
    parallel(16, _mix_task, (16, h, c, x, hidden, widths, t, below))
    mlp.clear(widths, blocks, dparams)
    parallel(len(pieces), _weights_task, (below, c, t, g, delta, widths, pieces, mask, dparams))


def _forward_numba(g, hidden, params, widths, blocks, pieces, mask):
    dx, delta = empty((len(g), widths[0]), g.dtype), empty(hidden.shape, g.dtype)
    mlp.backward_into(get_num_threads(), g, dx, hidden, params, widths, blocks, pieces, mask, True, delta, dx,
                      empty((0,), g.dtype))
    return dx, delta


def _backward_numba(h, c, x, g, hidden, delta, params, widths, blocks, pieces, mask, want_dg):
    dparams, t, below = (empty(a.shape, g.dtype) for a in (params, hidden, x))
    dg = empty(g.shape if want_dg else (0, 0), g.dtype)
    _backward(get_num_threads(), h, c, x, g, hidden, delta, params, widths, blocks, pieces, mask, t, below, dg, dparams)
    return dg, dparams


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _forward_cuda(g, hidden, params, widths, blocks, pieces, mask):
    return mlp.cotangents(g, hidden, params, widths, blocks, True)


def _backward_cuda(h, c, x, g, hidden, delta, params, widths, blocks, pieces, mask, want_dg):
    layers, stairs, jobs = mlp.plan(_cuda.content(widths), _cuda.content(blocks))
    N, below, t = len(h), h, _cuda.empty(hidden.shape, g.dtype)
    dg = _cuda.empty(g.shape if want_dg else (0, 0), g.dtype)
    for layer, upper in list(mlp.pairs(layers))[:None if want_dg else -1]:
        before = 0 if upper is None else N * upper.hidden
        above = dg if upper is None else t[before:]
        count, large, stored = mlp.shared(above, (N, layer.M), layer.K)
        launch("mlp_slope", "tangent", count, mlp.THREADS, below, params, _cuda.constant(stairs), hidden[before:], stored, N,
               layer.K, layer.M, layer.start, layer.bounds, upper is not None, large)
        mlp.join(stored, hidden[before:], above, upper is not None)
        below = above
    for layer in layers[1:]:
        rows = slice(N * layer.hidden, N * (layer.hidden + layer.K))
        t[rows] += (c[:, None] * hidden[rows].reshape(N, layer.K)).ravel()
    dparams = mlp.weight_gradients(h + c[:, None] * x, t, g, delta, mask, stairs, jobs, N, params.size)
    for layer, upper in mlp.pairs(layers):
        above = g if upper is None else delta[N * upper.hidden:N * (upper.hidden + upper.K)].reshape(N, layer.M)
        end = layer.start + (layer.K + 1) * layer.M
        dparams[end - layer.M:end] = (c[:, None] * above).sum(axis=0)
    return dg, dparams


def _of_forward(g, hidden, params, widths, *rest):
    *sizes, units = mlp.sizes_of(_cuda.content(widths))
    return *(size for size in sizes if size[0] != "K"), ("Q", len(g) * units)


forward = Kernel("mlp_slope.forward", "g(N,M) hidden(Q) params(P) widths(W):int64 blocks(B,5):int64 pieces(T,5):int64 mask(R)",
                 reference=_forward_reference, numba=_forward_numba, cuda=_forward_cuda, sizes=_of_forward)
backward = Kernel("mlp_slope.backward", "h(N,K) c(N) x(N,K) g(N,M) hidden(Q) delta(Q) params(P) widths(W):int64 "
                  "blocks(B,5):int64 pieces(T,5):int64 mask(R) want_dg", reference=_backward_reference, numba=_backward_numba,
                  cuda=_backward_cuda,
                  sizes=lambda h, c, x, g, hidden, delta, *rest: mlp.of_backward(g, h, hidden, *rest))
