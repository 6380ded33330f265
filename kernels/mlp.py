"""A multilayer perceptron, masked or not, in one kernel: every layer of a few rows while they are in the cache.

    forward      h_1 = relu(x W_1 + b_1), ..., y = h_{L-1} W_L + b_L
    backward     dx and the gradient of every weight and bias, given g = dy

x (N, K), y and g (N, M), hidden (N, H): all hidden layers side by side. params (P,): weight (inputs, outputs) and bias
of every layer, one after another. widths (L + 1,): K, the hidden widths, M. One dtype, float32 or float64; any N.

A weight may be masked: the caller keeps its entries outside the mask at zero, and the gradient is zero there. The rows of
blocks (B, 5) cut the layers' columns: layer, first column, last + 1, full, end; in these columns every mask entry above
row `full` is 1 and from row `end` on is 0, so that only rows below `end` are multiplied. mask (Q,) holds the masks of the
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


def _hidden_layers(hidden, widths):
    return np.split(hidden, np.cumsum(widths[1:-2]), axis=1) if len(widths) > 2 else []


def _forward_reference(x, params, widths, blocks, pieces, mask):
    h, hidden = x.astype(np.float64), []
    for layer in range(len(widths) - 1):
        weight, bias = layer_of(params, widths, layer)
        h = h @ weight.astype(np.float64) + bias
        if layer < len(widths) - 2:
            h = np.maximum(h, 0)
            hidden.append(h)
    return h.astype(x.dtype), np.concatenate([np.empty((len(x), 0)), *hidden], axis=1).astype(x.dtype)


def _backward_reference(g, x, hidden, params, widths, blocks, pieces, mask, want_dx):
    g, below = g.astype(np.float64), [x, *_hidden_layers(hidden, widths)]
    dparams = np.zeros(params.shape)
    for layer in reversed(range(len(widths) - 1)):
        weight, bias = layer_of(params, widths, layer)
        dweight, dbias = layer_of(dparams, widths, layer)
        dweight += _masked(below[layer].T.astype(np.float64) @ g, widths, layer, blocks, mask)
        dbias += g.sum(axis=0)
        g = g @ weight.T.astype(np.float64)
        if layer:
            g = g * (below[layer] > 0)
    return (g if want_dx else np.empty((0, 0))).astype(x.dtype), dparams.astype(x.dtype)


def _masked(weight, widths, layer, blocks, mask):
    out, start = np.zeros_like(weight), sum(widths[k] * widths[k + 1] for k in range(layer))
    for _, first, last, full, end in blocks[blocks[:, 0] == layer]:
        out[:end, first:last] = weight[:end, first:last]
        if full < end:
            out[full:end, first:last] *= mask[start:start + weight.size].reshape(weight.shape)[full:end, first:last]
    return out


@jit
def panel_forward(x, params, widths, blocks, hidden, y):
    """Fill hidden and y for a panel of rows."""
    n_layers, offset, zero = len(widths) - 1, 0, x.dtype.type(0)
    layer, (weight, bias) = 0, layer_of(params, widths, 0)
    for b in range(len(blocks)):
        _, first, last, _, end = blocks[b]
        if blocks[b, 0] != layer:
            layer += 1
            offset += widths[layer]
            weight, bias = layer_of(params, widths, layer)
        below = x if layer == 0 else hidden[:, offset - widths[layer]:offset]
        out = y[:, first:last] if layer == n_layers - 1 else hidden[:, offset + first:offset + last]
        start = bias[first:last]
        for n in range(len(out)):
            for m in range(start.size):
                out[n, m] = start[m]
        if end > 0:
            gemm(1.0, below[:, :end], False, weight[:end, first:last], False, 1.0, out)
        if layer < n_layers - 1:
            for n in range(len(out)):
                for m in range(last - first):
                    out[n, m] = max(out[n, m], zero)


@jit
def panel_backward(g, params, widths, blocks, hidden, delta, dx, want_dx):
    """Fill delta, the cotangents of the hidden layers before their ReLU, and dx, for a panel of rows."""
    n_layers, zero = len(widths) - 1, g.dtype.type(0)
    offset, b = hidden.shape[1], len(blocks) - 1
    for layer in range(n_layers - 1, -1 if want_dx else 0, -1):
        weight, _ = layer_of(params, widths, layer)
        top = g if layer == n_layers - 1 else delta[:, offset:offset + widths[layer + 1]]
        out = dx if layer == 0 else delta[:, offset - widths[layer]:offset]
        offset -= widths[layer]
        out[:, :] = zero
        while b >= 0 and blocks[b, 0] == layer:
            _, first, last, _, end = blocks[b]
            if end > 0:
                gemm(1.0, top[:, first:last], False, weight[:end, first:last], True, 1.0, out[:, :end])
            b -= 1
        if layer > 0:
            below = hidden[:, offset:offset + widths[layer]]
            for n in range(len(out)):
                for k in range(widths[layer]):
                    value = out[n, k]  # read whatever it is: a branch would not vectorise
                    out[n, k] = value if below[n, k] > zero else zero


@jit
def piece_backward(piece, g, x, hidden, delta, widths, mask, dparams):
    """The gradient of one piece of a weight, and of its biases."""
    layer, first, last, full, end = piece
    weight, bias = layer_of(dparams, widths, layer)
    offset = 0
    for k in range(1, layer + 1):
        offset += widths[k]
    below = x if layer == 0 else hidden[:, offset - widths[layer]:offset]
    top = g[:, first:last] if layer == len(widths) - 2 else delta[:, offset + first:offset + last]
    gemm(1.0, below[:, :end], True, top, False, 0.0, weight[:end, first:last])
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
    for n in range(len(top)):
        for m in range(last - first):
            total[m] += top[n, m]


@jit(parallel=True)
def _forward(x, params, widths, blocks, y, hidden):
    N = len(x)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        panel_forward(x[low:high], params, widths, blocks, hidden[low:high], y[low:high])


@jit(parallel=True)
def _backward(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, delta, dx, dparams):
    N = len(x)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        panel_backward(g[low:high], params, widths, blocks, hidden[low:high], delta[low:high], dx[low:high], want_dx)
    for t in prange(len(pieces)):
        piece_backward(pieces[t], g, x, hidden, delta, widths, mask, dparams)


def _forward_numba(x, params, widths, blocks, pieces, mask):
    y, hidden = empty((len(x), widths[-1]), x.dtype), empty((len(x), widths[1:-1].sum()), x.dtype)
    _forward(x, params, widths, blocks, y, hidden)
    return y, hidden


def _backward_numba(g, x, hidden, params, widths, blocks, pieces, mask, want_dx):
    dx, dparams = empty(x.shape if want_dx else (0, 0), x.dtype), empty(params.shape, x.dtype)
    _backward(g, x, hidden, params, widths, blocks, pieces, mask, want_dx, empty(hidden.shape, x.dtype), dx, dparams)
    return dx, dparams


forward = Kernel("mlp.forward", "x(N,K) params(P) widths(W):int64 blocks(B,5):int64 pieces(T,5):int64 mask(Q)",
                 reference=_forward_reference, numba=_forward_numba, blas=True)
backward = Kernel("mlp.backward", "g(N,M) x(N,K) hidden(N,H) params(P) widths(W):int64 blocks(B,5):int64 "
                  "pieces(T,5):int64 mask(Q) want_dx", reference=_backward_reference, numba=_backward_numba, blas=True)
