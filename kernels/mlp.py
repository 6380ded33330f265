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
depend on shapes alone, so no bit depends on the number of threads. Source: the chain rule; masks as in Germain et al. (2015).
"""
import numpy as np

from ._blas import gemm
from ._dispatch import Kernel, empty
from ._jit import jit, prange
from .masked_matmul import _panels


@jit
def layer_start(widths, layer):
    """Where a layer's weight begins in params."""
    start = 0
    for k in range(layer):
        start += (widths[k] + 1) * widths[k + 1]
    return start


@jit
def layer_of(params, widths, layer):
    """The weight (inputs, outputs) and bias of a layer, views of params."""
    start, n_in, n_out = layer_start(widths, layer), widths[layer], widths[layer + 1]
    end = start + n_in * n_out
    return params[start:end].reshape((n_in, n_out)), params[end:end + n_out]


@jit
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
def panel_forward(x, params, widths, blocks, low, hidden, y):
    """Fill y, and rows low.. of hidden, for a panel of rows."""
    last_layer, high, zero = len(widths) - 2, low + len(x), x.dtype.type(0)
    for b in range(len(blocks)):
        layer, first, last, _, end = blocks[b]
        weight, bias = layer_of(params, widths, layer)
        below = x if layer == 0 else layer_of_hidden(hidden, widths, layer)[low:high]
        above = y if layer == last_layer else layer_of_hidden(hidden, widths, layer + 1)[low:high]
        out, start = above[:, first:last], bias[first:last]
        for n in range(len(out)):
            for m in range(start.size):
                out[n, m] = start[m]
        if end > 0:
            gemm(1.0, below[:, :end], False, weight[:end, first:last], False, 1.0, out)
        if layer < last_layer:
            for n in range(len(out)):
                for m in range(start.size):
                    out[n, m] = max(out[n, m], zero)


@jit
def panel_backward(g, params, widths, blocks, low, hidden, delta, dx, want_dx):
    """Fill dx, and rows low.. of delta, the cotangents of the hidden layers before their ReLU, for a panel of rows."""
    last_layer, high, zero = len(widths) - 2, low + len(g), g.dtype.type(0)
    b = len(blocks) - 1
    for layer in range(last_layer, -1 if want_dx else 0, -1):
        weight, _ = layer_of(params, widths, layer)
        above = g if layer == last_layer else layer_of_hidden(delta, widths, layer + 1)[low:high]
        out = dx if layer == 0 else layer_of_hidden(delta, widths, layer)[low:high]
        out[:, :] = zero
        while b >= 0 and blocks[b, 0] == layer:
            _, first, last, _, end = blocks[b]
            if end > 0:
                gemm(1.0, above[:, first:last], False, weight[:end, first:last], True, 1.0, out[:, :end])
            b -= 1
        if layer > 0:
            below = layer_of_hidden(hidden, widths, layer)[low:high]
            for n in range(len(out)):
                for k in range(widths[layer]):
                    value = out[n, k]  # read whatever it is: a branch would not vectorise
                    out[n, k] = value if below[n, k] > zero else zero


@jit
def piece_backward(piece, g, x, hidden, delta, widths, mask, dparams):
    """The gradient of one piece of a weight, and of its biases."""
    layer, first, last, full, end = piece
    weight, bias = layer_of(dparams, widths, layer)
    below = x if layer == 0 else layer_of_hidden(hidden, widths, layer)
    above = (g if layer == len(widths) - 2 else layer_of_hidden(delta, widths, layer + 1))[:, first:last]
    gemm(1.0, below[:, :end], True, above, False, 0.0, weight[:end, first:last])
    if full < end:
        start = 0
        for k in range(layer):
            start += widths[k] * widths[k + 1]
        seen = mask[start:start + weight.size].reshape(weight.shape)[full:end, first:last]
        edge = weight[full:end, first:last]
        for k in range(end - full):
            for m in range(last - first):
                edge[k, m] *= seen[k, m]
    weight[end:, first:last] = 0
    total = bias[first:last]
    total[:] = 0
    for n in range(len(above)):
        for m in range(total.size):
            total[m] += above[n, m]


@jit(parallel=True)
def _forward(x, params, widths, blocks, y, hidden):
    N = len(x)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        panel_forward(x[low:high], params, widths, blocks, low, hidden, y[low:high])


@jit(parallel=True)
def _backward(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, delta, dx, dparams):
    N = len(x)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        panel_backward(g[low:high], params, widths, blocks, low, hidden, delta, dx[low:high], want_dx)
    for t in prange(len(pieces)):
        piece_backward(pieces[t], g, x, hidden, delta, widths, mask, dparams)


def _forward_numba(x, params, widths, blocks, pieces, mask):
    y, hidden = empty((len(x), widths[-1]), x.dtype), empty((len(x) * widths[1:-1].sum(),), x.dtype)
    _forward(x, params, widths, blocks, y, hidden)
    return y, hidden


def _backward_numba(g, x, hidden, params, widths, blocks, pieces, mask, want_dx):
    dx, dparams = empty(x.shape if want_dx else (0, 0), x.dtype), empty(params.shape, x.dtype)
    _backward(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, empty(hidden.shape, x.dtype), dx, dparams)
    return dx, dparams


forward = Kernel("mlp.forward", "x(N,K) params(P) widths(W):int64 blocks(B,5):int64 pieces(T,5):int64 mask(R)",
                 reference=_forward_reference, numba=_forward_numba, blas=True)
backward = Kernel("mlp.backward", "g(N,M) x(N,K) hidden(Q) params(P) widths(W):int64 blocks(B,5):int64 "
                  "pieces(T,5):int64 mask(R) want_dx", reference=_backward_reference, numba=_backward_numba, blas=True)
