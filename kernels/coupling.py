"""One step of a coupling flow: scale every feature, move half of them by a network of the other half, change places.

    inverse (data -> noise)   a = (x - shift) exp(-log_scale);  (raw, t) = mlp(a_kept);  s = limit tanh(raw / limit)
                              z = [(a_moved - t) exp(-s), a_kept],   log_det = -sum_d log_scale_d - sum_j s_j
    forward (noise -> data)   the inverse of that, with the opposite log_det
    backward                  dx and the gradient of every parameter, given dz and dlog_det of `inverse`

x, z (N, D); log_det (N,) nats; a_kept are the first D - J features of a, J = widths[-1] / 2 the number that moves.
params (P,): shift (D,), log_scale (D,), then the mlp's (see mlp.py, also for widths, blocks and pieces; no mask here).
hidden (N, H) and outputs (N, 2 J), the network's, are kept for `backward`. float32 or float64; any N; D >= 1, J >= 1.
Sources: Dinh, Sohl-Dickstein & Bengio, Real NVP (2017), section 3; Kingma & Dhariwal, Glow (2018), section 3.1.

Numba: everything of a panel of rows while it is in the cache, then the weights' gradients, as in mlp.py.
"""
import numpy as np

from . import _math, mlp
from ._dispatch import Kernel, empty
from ._jit import jit, prange
from .masked_matmul import _panels
from .mlp import panel_backward, panel_forward, piece_backward

# --- reference -------------------------------------------------------------------------------------------------------

def _unpack(params, D):
    params = params.astype(np.float64)
    return params[:D], params[D:2 * D], params[2 * D:]


def _network(kept, params, widths, blocks, pieces, limit):
    mask = np.zeros(0)
    outputs, hidden = mlp.forward.reference(kept, params, widths, blocks, pieces, mask)
    raw, t = np.split(outputs, 2, axis=1)
    return limit * np.tanh(raw / limit), t, outputs, hidden


def _inverse_reference(x, params, widths, blocks, pieces, limit):
    shift, log_scale, net = _unpack(params, x.shape[1])
    a = (x - shift) * np.exp(-log_scale)
    n_kept = x.shape[1] - widths[-1] // 2
    s, t, outputs, hidden = _network(a[:, :n_kept], net, widths, blocks, pieces, limit)
    z = np.concatenate([(a[:, n_kept:] - t) * np.exp(-s), a[:, :n_kept]], axis=1)
    return tuple(v.astype(x.dtype) for v in (z, -log_scale.sum() - s.sum(axis=1), hidden, outputs))


def _forward_reference(z, params, widths, blocks, pieces, limit):
    shift, log_scale, net = _unpack(params, z.shape[1])
    J = widths[-1] // 2
    s, t, _, _ = _network(z[:, J:].astype(np.float64), net, widths, blocks, pieces, limit)
    a = np.concatenate([z[:, J:], z[:, :J] * np.exp(s) + t], axis=1)
    return (a * np.exp(log_scale) + shift).astype(z.dtype), (log_scale.sum() + s.sum(axis=1)).astype(z.dtype)


def _backward_reference(dz, dlog_det, z, hidden, outputs, params, widths, blocks, pieces, limit):
    shift, log_scale, net = _unpack(params, z.shape[1])
    J = widths[-1] // 2
    raw, t = np.split(outputs.astype(np.float64), 2, axis=1)
    s, moved, kept = limit * np.tanh(raw / limit), dz[:, :J].astype(np.float64), z[:, J:].astype(np.float64)
    da_moved = moved * np.exp(-s)
    draw = (-moved * z[:, :J] - dlog_det[:, None]) * (1 - (s / limit) ** 2)
    dkept, dnet = mlp.backward.reference(np.concatenate([draw, -da_moved], axis=1), kept, hidden.astype(np.float64), net,
                                         widths, blocks, pieces, np.zeros(0), True)
    da = np.concatenate([dz[:, J:] + dkept, da_moved], axis=1)
    a = np.concatenate([kept, z[:, :J] * np.exp(s) + t], axis=1)
    dx = da * np.exp(-log_scale)
    dparams = np.concatenate([-dx.sum(axis=0), -(da * a).sum(axis=0) - dlog_det.sum(dtype=np.float64), dnet])
    return dx.astype(z.dtype), dparams.astype(z.dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _bounded(raw, limit):
    return limit * _math.tanh(raw / limit)


@jit
def _panel_inverse(x, params, widths, blocks, limit, a, z, log_det, hidden, outputs):
    """A panel of rows; a is scratch (n, D)."""
    (N, D), J, real = x.shape, widths[-1] // 2, x.dtype.type
    kept, limit = D - J, real(limit)
    total = real(0)
    for d in range(D):
        total += params[D + d]
    for n in range(N):
        for d in range(D):
            a[n, d] = (x[n, d] - params[d]) * _math.exp(-params[D + d])
    panel_forward(a[:, :kept], params[2 * D:], widths, blocks, hidden, outputs)
    for n in range(N):
        sum_s = real(0)
        for j in range(J):
            s = _bounded(outputs[n, j], limit)
            sum_s += s
            z[n, j] = (a[n, kept + j] - outputs[n, J + j]) * _math.exp(-s)
        for d in range(kept):
            z[n, J + d] = a[n, d]
        log_det[n] = -total - sum_s


@jit
def _panel_forward(z, params, widths, blocks, limit, x, log_det, hidden, outputs):
    (N, D), J, real = z.shape, widths[-1] // 2, z.dtype.type
    kept, limit = D - J, real(limit)
    total = real(0)
    for d in range(D):
        total += params[D + d]
    panel_forward(z[:, J:], params[2 * D:], widths, blocks, hidden, outputs)
    for n in range(N):
        sum_s = real(0)
        for d in range(kept):
            x[n, d] = z[n, J + d]
        for j in range(J):
            s = _bounded(outputs[n, j], limit)
            sum_s += s
            x[n, kept + j] = z[n, j] * _math.exp(s) + outputs[n, J + j]
        log_det[n] = total + sum_s
    for n in range(N):
        for d in range(D):
            x[n, d] = x[n, d] * _math.exp(params[D + d]) + params[d]


@jit
def _panel_backward(dz, dlog_det, z, hidden, outputs, params, widths, blocks, limit, g, delta, dx, dnorm):
    """dx, g (the cotangent of the network's outputs), delta and this panel's share of dshift and dlog_scale, (2 D,)."""
    (N, D), J, real = z.shape, widths[-1] // 2, z.dtype.type
    kept, limit, one = D - J, real(limit), real(1)
    for n in range(N):
        for j in range(J):
            s = _bounded(outputs[n, j], limit)
            da = dz[n, j] * _math.exp(-s)
            g[n, j] = (-dz[n, j] * z[n, j] - dlog_det[n]) * (one - (s / limit) * (s / limit))
            g[n, J + j] = -da
            dx[n, kept + j] = da
    panel_backward(g, params[2 * D:], widths, blocks, hidden, delta, dx[:, :kept], True)
    dnorm[:] = 0
    for n in range(N):
        for d in range(kept):
            da = dx[n, d] + dz[n, J + d]
            dx[n, d] = da * _math.exp(-params[D + d])
            dnorm[d] -= dx[n, d]
            dnorm[D + d] -= da * z[n, J + d] + dlog_det[n]
        for j in range(J):
            d, da = kept + j, dx[n, kept + j]
            dx[n, d] = da * _math.exp(-params[D + d])
            dnorm[d] -= dx[n, d]
            a_minus_t = z[n, j] * _math.exp(_bounded(outputs[n, j], limit))
            dnorm[D + d] -= da * (a_minus_t + outputs[n, J + j]) + dlog_det[n]


@jit(parallel=True)
def _inverse(x, params, widths, blocks, limit, a, z, log_det, hidden, outputs):
    N = len(x)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        _panel_inverse(x[low:high], params, widths, blocks, limit, a[low:high], z[low:high], log_det[low:high],
                       hidden[low:high], outputs[low:high])


@jit(parallel=True)
def _forward(z, params, widths, blocks, limit, x, log_det, hidden, outputs):
    N = len(z)
    panels = _panels(N)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        _panel_forward(z[low:high], params, widths, blocks, limit, x[low:high], log_det[low:high], hidden[low:high],
                       outputs[low:high])


@jit(parallel=True)
def _backward(dz, dlog_det, z, hidden, outputs, params, widths, blocks, pieces, limit, g, delta, dx, dparams):
    (N, D), J = z.shape, widths[-1] // 2
    panels = _panels(N)
    dnorm = np.empty((panels, 2 * D), z.dtype)
    for p in prange(panels):
        low, high = p * N // panels, (p + 1) * N // panels
        _panel_backward(dz[low:high], dlog_det[low:high], z[low:high], hidden[low:high], outputs[low:high], params, widths,
                        blocks, limit, g[low:high], delta[low:high], dx[low:high], dnorm[p])
    dnet, no_mask = dparams[2 * D:], np.empty(0, z.dtype)
    for t in prange(len(pieces)):
        piece_backward(pieces[t], g, z[:, J:], hidden, delta, widths, no_mask, dnet)
    dparams[:2 * D] = dnorm[0]
    for p in range(1, panels):
        dparams[:2 * D] += dnorm[p]


def _inverse_numba(x, params, widths, blocks, pieces, limit):
    N, dtype = len(x), x.dtype
    z, log_det, outputs = empty(x.shape, dtype), empty((N,), dtype), empty((N, widths[-1]), dtype)
    hidden = empty((N, widths[1:-1].sum()), dtype)
    _inverse(x, params, widths, blocks, limit, empty(x.shape, dtype), z, log_det, hidden, outputs)
    return z, log_det, hidden, outputs


def _forward_numba(z, params, widths, blocks, pieces, limit):
    N, dtype = len(z), z.dtype
    x, log_det = empty(z.shape, dtype), empty((N,), dtype)
    _forward(z, params, widths, blocks, limit, x, log_det, empty((N, widths[1:-1].sum()), dtype), empty((N, widths[-1]), dtype))
    return x, log_det


def _backward_numba(dz, dlog_det, z, hidden, outputs, params, widths, blocks, pieces, limit):
    dx, dparams = empty(z.shape, z.dtype), empty(params.shape, z.dtype)
    _backward(dz, dlog_det, z, hidden, outputs, params, widths, blocks, pieces, limit, empty(outputs.shape, z.dtype),
              empty(hidden.shape, z.dtype), dx, dparams)
    return dx, dparams


_NET = "params(P) widths(W):int64 blocks(B,5):int64 pieces(T,5):int64 limit"
inverse = Kernel("coupling.inverse", f"x(N,D) {_NET}", reference=_inverse_reference, numba=_inverse_numba, blas=True)
forward = Kernel("coupling.forward", f"z(N,D) {_NET}", reference=_forward_reference, numba=_forward_numba, blas=True)
backward = Kernel("coupling.backward", f"dz(N,D) dlog_det(N) z(N,D) hidden(N,H) outputs(N,O) {_NET}",
                  reference=_backward_reference, numba=_backward_numba, blas=True)
