"""A flow of coupling steps: each puts the features in order, scales them, and moves some by a network of the others.

    inverse     data -> noise, every step     a = (x[order] - shift) exp(-log_scale);  (raw, t) = mlp(a_kept)
                                              s = limit tanh(raw / limit);  z = [(a_moved - t) exp(-s), a_kept]
                                              log_det -= sum_d log_scale_d + sum_j s_j
    forward     noise -> data, the inverse of that from the last step to the first, with the opposite log_det
    backward    dx and the gradient of every parameter, given dz and dlog_det of `inverse`

x, z (N, D), log_det (N,) nats, S steps. a_kept are the first D - J features of a,
J the number that moves, half of the outputs of the step's network; it may differ between steps, O is the largest 2 J.
orders (S, D), widths (S, L + 1), blocks (S, L, 5); pieces (T, 6), a step before what mlp.py has; no mask here.
params (P,): for every step shift (D,), log_scale (D,), then the mlp's.
between (R, N, D), what all steps but the last make of x, outputs (S, N, O), s and t, and hidden (S, Q), see mlp.py, are what
`backward` needs beside z; where `inverse` is told not to keep them, they are empty. float32 or float64; any N; D >= 1, J >= 0.
Sources: Dinh, Sohl-Dickstein & Bengio, Real NVP (2017), section 3; Kingma & Dhariwal, Glow (2018), section 3.1.

Numba: all steps of a panel of rows while it is in the cache, then the weights' gradients, as in mlp.py.
"""
import numpy as np

from . import _math, mlp
from ._dispatch import Kernel, empty
from ._jit import jit, prange
from .mlp import layer_start, panel_backward, panel_forward, piece_backward


@jit
def step_of(params, widths, step, D):
    """Shift (D,), log_scale (D,) and the network's parameters of a step, views of params."""
    start = 0
    for k in range(step):
        start += 2 * D + layer_start(widths[k], widths.shape[1] - 1)
    end = start + 2 * D + layer_start(widths[step], widths.shape[1] - 1)
    return params[start:start + D], params[start + D:start + 2 * D], params[start + 2 * D:end]


# --- reference -------------------------------------------------------------------------------------------------------

def _network(kept, net, widths, blocks, limit):
    outputs, hidden = mlp.forward.reference(kept, net, widths, blocks, blocks, np.zeros(0))
    raw, t = np.split(outputs, 2, axis=1)
    return limit * np.tanh(raw / limit), t, hidden


def _inverse_reference(x, params, orders, widths, blocks, pieces, limit, keep):
    (N, D), params, dtype, x = x.shape, params.astype(np.float64), x.dtype, x.astype(np.float64)
    log_det, kept = np.zeros(N), ([], [], [])
    for step, order in enumerate(orders):
        shift, log_scale, net = step_of(params, widths, step, D)
        n_kept = widths[step, 0]
        a = (x[:, order] - shift) * np.exp(-log_scale)
        s, t, hidden = _network(a[:, :n_kept], net, widths[step], blocks[step], limit)
        x = np.concatenate([(a[:, n_kept:] - t) * np.exp(-s), a[:, :n_kept]], axis=1)
        log_det -= log_scale.sum() + s.sum(axis=1)
        spare = np.zeros((N, widths[:, -1].max() - widths[step, -1]))
        for values, value in zip(kept, (x, np.concatenate([s, t, spare], axis=1), hidden), strict=True):
            values.append(value)
    z, outputs, hidden = map(np.stack, kept)
    if not keep:
        z, outputs, hidden = z[-1:], outputs[:0], hidden[:0]
    return tuple(v.astype(dtype, order="C") for v in (x, log_det, z[:-1], outputs, hidden))


def _forward_reference(z, params, orders, widths, blocks, pieces, limit):
    (N, D), params, x = z.shape, params.astype(np.float64), z.astype(np.float64)
    log_det = np.zeros(N)
    for step in reversed(range(len(orders))):
        shift, log_scale, net = step_of(params, widths, step, D)
        J = D - widths[step, 0]
        s, t, _ = _network(x[:, J:], net, widths[step], blocks[step], limit)
        a = np.concatenate([x[:, J:], x[:, :J] * np.exp(s) + t], axis=1)
        x = np.empty_like(a)
        x[:, orders[step]] = a * np.exp(log_scale) + shift
        log_det += log_scale.sum() + s.sum(axis=1)
    return x.astype(z.dtype, order="C"), log_det.astype(z.dtype)


def _backward_reference(dz, dlog_det, z, between, outputs, hidden, params, orders, widths, blocks, pieces, limit):
    D, dtype, dparams = dz.shape[1], dz.dtype, np.zeros(params.shape)
    z = np.concatenate([between, z[None]])
    dlog_det, z, outputs, hidden, params = (v.astype(np.float64) for v in (dlog_det, z, outputs, hidden, params))
    for step in reversed(range(len(orders))):
        shift, log_scale, net = step_of(params, widths, step, D)
        dshift, dlog_scale, dnet = step_of(dparams, widths, step, D)
        J = D - widths[step, 0]
        s, t, kept, moved = outputs[step, :, :J], outputs[step, :, J:2 * J], z[step, :, J:], z[step, :, :J]
        da_moved = dz[:, :J] * np.exp(-s)
        draw = (-dz[:, :J] * moved - dlog_det[:, None]) * (1 - (s / limit) ** 2)
        dkept, dnet[:] = mlp.backward.reference(np.concatenate([draw, -da_moved], axis=1), kept, hidden[step], net,
                                                widths[step], blocks[step], blocks[step], np.zeros(0), True)
        da = np.concatenate([dz[:, J:] + dkept, da_moved], axis=1)
        a = np.concatenate([kept, moved * np.exp(s) + t], axis=1)
        dz = np.empty_like(da)
        dz[:, orders[step]] = da * np.exp(-log_scale)
        dshift -= (da * np.exp(-log_scale)).sum(axis=0)
        dlog_scale -= (da * a).sum(axis=0) + dlog_det.sum()
    return dz.astype(dtype, order="C"), dparams.astype(dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _panels(N):
    """How many panels a batch is cut into: of at most 128 rows, and from 64 rows on at least two, for two threads."""
    return max(-(-N // 128), 1 if N < 64 else 2)


@jit(fastmath={"reassoc"})  # lets the sum be taken in lanes
def _sum(values):
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


@jit
def _scale(values, factor):
    """exp(factor values)."""
    out, factor = np.empty_like(values), values.dtype.type(factor)
    for d in range(values.size):
        out[d] = _math.exp(factor * values[d])
    return out


@jit
def _network_s(outputs, limit, s):
    """s (n, J), contiguous, so that its loops are long: s = limit tanh(raw / limit)."""
    limit = outputs.dtype.type(limit)
    for n in range(len(s)):
        for j in range(s.shape[1]):
            s[n, j] = outputs[n, j]
    flat = s.reshape(s.size)
    for i in range(flat.size):
        flat[i] = limit * _math.tanh(flat[i] / limit)


@jit
def _step_inverse(x, params, order, widths, blocks, limit, low, z, log_det, outputs, hidden, s):
    """A step for a panel of rows: fills z, outputs, rows low.. of hidden, subtracts from log_det; s (n, J) is scratch."""
    (shift, log_scale, net), J, kept = params, s.shape[1], x.shape[1] - s.shape[1]
    scale, total = _scale(log_scale, -1), _sum(log_scale)
    for n in range(len(x)):
        moved_to, kept_to = z[n, :J], z[n, J:]
        for d in range(kept):
            kept_to[d] = (x[n, order[d]] - shift[d]) * scale[d]
        for j in range(J):
            moved_to[j] = (x[n, order[kept + j]] - shift[kept + j]) * scale[kept + j]
    panel_forward(z[:, J:], net, widths, blocks, low, hidden, outputs)
    _network_s(outputs, limit, s)
    for n in range(len(x)):
        log_det[n] -= total + _sum(s[n])
        for j in range(J):
            outputs[n, j] = s[n, j]
    flat = s.reshape(s.size)
    for i in range(flat.size):
        flat[i] = _math.exp(-flat[i])
    for n in range(len(x)):
        moved, t = z[n, :J], outputs[n, J:]
        for j in range(J):
            moved[j] = (moved[j] - t[j]) * s[n, j]


@jit
def _step_forward(z, params, order, widths, blocks, limit, x, log_det, outputs, hidden, s):
    (shift, log_scale, net), J, kept = params, s.shape[1], z.shape[1] - s.shape[1]
    scale, total = _scale(log_scale, 1), _sum(log_scale)
    panel_forward(z[:, J:], net, widths, blocks, 0, hidden, outputs)
    _network_s(outputs, limit, s)
    for n in range(len(z)):
        log_det[n] += total + _sum(s[n])
    flat = s.reshape(s.size)
    for i in range(flat.size):
        flat[i] = _math.exp(flat[i])
    for n in range(len(z)):
        a_kept, t = z[n, J:], outputs[n, J:]
        for d in range(kept):
            x[n, order[d]] = a_kept[d] * scale[d] + shift[d]
        for j in range(J):
            x[n, order[kept + j]] = (z[n, j] * s[n, j] + t[j]) * scale[kept + j] + shift[kept + j]


@jit
def _step_backward(dz, dlog_det, z, outputs, params, order, widths, blocks, limit, low, hidden, g, delta, dx, dkept, s, dnorm):
    """Fills dx, g (the cotangent of the network's outputs), rows low.. of delta, and this panel's dshift and dlog_scale."""
    (_, log_scale, net), J, kept, real = params, s.shape[1], dz.shape[1] - s.shape[1], dz.dtype.type
    scale, steepness, one = _scale(log_scale, -1), real(1 / limit**2), real(1)
    for n in range(len(dz)):
        for j in range(J):
            s[n, j] = -outputs[n, j]
    flat = s.reshape(s.size)
    for i in range(flat.size):
        flat[i] = _math.exp(flat[i])
    for n in range(len(dz)):
        draw, dt = g[n, :J], g[n, J:]
        for j in range(J):
            draw[j] = (-dz[n, j] * z[n, j] - dlog_det[n]) * (one - outputs[n, j] * outputs[n, j] * steepness)
            dt[j] = -dz[n, j] * s[n, j]
    panel_backward(g, net, widths, blocks, low, hidden, delta, dkept, True)
    dnorm[:] = 0
    dshift, dlog_scale = dnorm[:dz.shape[1]], dnorm[dz.shape[1]:]
    dshift_moved, dlog_scale_moved, scale_moved = dshift[kept:], dlog_scale[kept:], scale[kept:]
    da = np.empty_like(scale)
    da_moved = da[kept:]
    for n in range(len(dz)):
        dz_kept, z_kept, dt, t = dz[n, J:], z[n, J:], g[n, J:], outputs[n, J:]
        for d in range(kept):
            value = dkept[n, d] + dz_kept[d]
            dlog_scale[d] -= value * z_kept[d]
            da[d] = value * scale[d]
            dshift[d] -= da[d]
        for j in range(J):
            dlog_scale_moved[j] += dt[j] * (z[n, j] / s[n, j] + t[j])
            da_moved[j] = -dt[j] * scale_moved[j]
            dshift_moved[j] -= da_moved[j]
        for d in range(da.size):
            dx[n, order[d]] = da[d]
    dlog_scale -= _sum(dlog_det)


@jit(parallel=True)
def _inverse(x, params, orders, widths, blocks, limit, keep, z, log_det, between, outputs, hidden):
    (N, D), S = x.shape, len(orders)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        n, rows = 0 if keep else high - low, slice(low, high)
        spare = np.empty((2, n, D), x.dtype)
        spare_outputs = np.empty((n, outputs.shape[2]), x.dtype)
        spare_hidden = np.empty(n * widths[0, 1:-1].sum(), x.dtype)
        log_det[rows] = 0
        for k in range(S):
            J = D - widths[k, 0]
            before = x[rows] if k == 0 else between[k - 1, rows] if keep else spare[(k - 1) % 2]
            after = z[rows] if k == S - 1 else between[k, rows] if keep else spare[k % 2]
            _step_inverse(before, step_of(params, widths, k, D), orders[k], widths[k], blocks[k], limit, low if keep else 0,
                          after, log_det[rows], outputs[k, rows, :2 * J] if keep else spare_outputs[:, :2 * J],
                          hidden[k] if keep else spare_hidden, np.empty((high - low, J), x.dtype))


@jit(parallel=True)
def _forward(z, params, orders, widths, blocks, limit, x, log_det):
    (N, D), S = z.shape, len(orders)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        n, rows = high - low, slice(low, high)
        scratch = np.empty((2, n, D), z.dtype)
        hidden = np.empty(n * widths[0, 1:-1].sum(), z.dtype)
        log_det[rows] = 0
        for i in range(S):
            k = S - 1 - i
            J = D - widths[k, 0]
            before = z[rows] if i == 0 else scratch[(i - 1) % 2]
            after = scratch[i % 2] if k else x[rows]
            _step_forward(before, step_of(params, widths, k, D), orders[k], widths[k], blocks[k], limit, after, log_det[rows],
                          np.empty((n, 2 * J), z.dtype), hidden, np.empty((n, J), z.dtype))


@jit(parallel=True)
def _backward(dz, dlog_det, z, between, outputs, hidden, params, orders, widths, blocks, pieces, limit, g, delta, dx, dparams):
    (N, D), S = dz.shape, len(orders)
    panels = _panels(N)
    dnorm = np.empty((S, panels, 2 * D), dz.dtype)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        n, rows = high - low, slice(low, high)
        scratch, dkept = np.empty((2, n, D), dz.dtype), np.empty((n, D), dz.dtype)
        for i in range(S):
            k = S - 1 - i
            J = D - widths[k, 0]
            before = dz[rows] if i == 0 else scratch[(i - 1) % 2]
            after = scratch[i % 2] if k else dx[rows]
            _step_backward(before, dlog_det[rows], between[k, rows] if k < S - 1 else z[rows], outputs[k, rows, :2 * J],
                           step_of(params, widths, k, D), orders[k], widths[k], blocks[k], limit, low, hidden[k],
                           g[k, rows, :2 * J], delta[k], after, dkept[:, :D - J], np.empty((n, J), dz.dtype), dnorm[k, p])
    no_mask = np.empty(0, dz.dtype)
    for t in prange(len(pieces)):
        k = pieces[t, 0]
        J = D - widths[k, 0]
        z_k = between[k] if k < S - 1 else z
        piece_backward(pieces[t, 1:], g[k, :, :2 * J], z_k[:, J:], hidden[k], delta[k], widths[k], no_mask,
                       step_of(dparams, widths, k, D)[2])
    for k in range(S):
        dshift, dlog_scale, _ = step_of(dparams, widths, k, D)
        dshift[:] = 0
        dlog_scale[:] = 0
        for p in range(panels):
            dshift += dnorm[k, p, :D]
            dlog_scale += dnorm[k, p, D:]


def _inverse_numba(x, params, orders, widths, blocks, pieces, limit, keep):
    (N, D), dtype, S = x.shape, x.dtype, len(orders) if keep else 0
    z, log_det = empty((N, D), dtype), empty((N,), dtype)
    between, outputs = empty((max(S - 1, 0), N, D), dtype), empty((S, N, widths[:, -1].max()), dtype)
    hidden = empty((S, N * widths[0, 1:-1].sum()), dtype)
    _inverse(x, params, orders, widths, blocks, limit, keep, z, log_det, between, outputs, hidden)
    return z, log_det, between, outputs, hidden


def _forward_numba(z, params, orders, widths, blocks, pieces, limit):
    x, log_det = empty(z.shape, z.dtype), empty(z.shape[:1], z.dtype)
    _forward(z, params, orders, widths, blocks, limit, x, log_det)
    return x, log_det


def _backward_numba(dz, dlog_det, z, between, outputs, hidden, params, orders, widths, blocks, pieces, limit):
    dx, dparams, dtype = empty(dz.shape, dz.dtype), empty(params.shape, dz.dtype), dz.dtype
    _backward(dz, dlog_det, z, between, outputs, hidden, params, orders, widths, blocks, pieces, limit,
              empty(outputs.shape, dtype), empty(hidden.shape, dtype), dx, dparams)
    return dx, dparams


_FLOW = "params(P) orders(S,D):int64 widths(S,W):int64 blocks(S,L,5):int64 pieces(T,6):int64 limit"
inverse = Kernel("flow.inverse", f"x(N,D) {_FLOW} keep", reference=_inverse_reference, numba=_inverse_numba, blas=True)
forward = Kernel("flow.forward", f"z(N,D) {_FLOW}", reference=_forward_reference, numba=_forward_numba, blas=True)
backward = Kernel("flow.backward", f"dz(N,D) dlog_det(N) z(N,D) between(R,N,D) outputs(S,N,O) hidden(S,Q) {_FLOW}",
                  reference=_backward_reference, numba=_backward_numba, blas=True)
