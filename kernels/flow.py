"""A flow of coupling steps: each puts the features in order, scales them, and moves some by a network of the others.

    inverse     data -> noise, every step     a = (x[order] - shift) exp(-log_scale);  (raw, t) = mlp(a_kept)
                                              s = limit tanh(raw / limit);  z = [(a_moved - t) exp(-s), a_kept]
                                              log_det -= sum_d log_scale_d + sum_j s_j
                and, from the last z,         log_prob = sum_d log N(z_d; 0, 1) + log_det
    forward     noise -> data, the inverse of that from the last step to the first, with the opposite log_det
    backward    dx and the gradient of every parameter, given dz and dlog_det of `inverse`

x, z (N, D), log_det and log_prob (N,) nats, S steps. a_kept are the first D - J features of a,
J the number that moves, half of the outputs of the step's network; it may differ between steps.
orders (S, D), widths (S, L + 1), blocks (S, L, 5); pieces (T, 6), a step before what mlp.py has; no mask here.
params (P,): for every step shift (D,), log_scale (D,), then the mlp's.
between (S, D, N), what the steps make of x, outputs (S, O, N), s and t in the first 2 J rows of each, and hidden (S, Q), see
mlp.py, are what `backward` needs; told not to keep them, `inverse` leaves them empty. A feature's values lie side by side in
them, so that every loop over rows is as long for two features as for many. float32 or float64; any N; D >= 1, J >= 0.
Sources: Dinh, Sohl-Dickstein & Bengio, Real NVP (2017), section 3; Kingma & Dhariwal, Glow (2018), section 3.1.

Numba: all steps of a panel of rows while it is in the cache, then the weights' gradients, as in mlp.py. CUDA likewise, a panel
a block; between is (S, N, D) there, outputs (S, N, O), and a hidden layer (N, h), whatever their shapes say: nobody else
reads them.
"""
import functools

import numpy as np

from . import _cuda, _math, mlp
from ._constants import LOG_2PI
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import YES, ZERO, entry, get_num_threads, get_thread_id, jit, jitable, parallel
from .mlp import _sum, layer_start, panel_backward, panel_forward, piece_backward


@jitable
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
        outputs = np.zeros((widths[:, -1].max(), N))
        outputs[:widths[step, -1]] = np.concatenate([s, t], axis=1).T
        for values, value in zip(kept, (x.T, outputs, hidden), strict=True):
            values.append(value)
    kept = [np.stack(values)[:len(orders) if keep else 0] for values in kept]
    log_prob = log_det - 0.5 * (x * x + LOG_2PI).sum(axis=1)
    return tuple(v.astype(dtype, order="C") for v in (x, log_det, log_prob, *kept))


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


def _backward_reference(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit):
    D, dtype, dparams = dz.shape[1], dz.dtype, np.zeros(params.shape)
    dlog_det, between, outputs, hidden, params = (v.astype(np.float64) for v in (dlog_det, between, outputs, hidden, params))
    for step in reversed(range(len(orders))):
        shift, log_scale, net = step_of(params, widths, step, D)
        dshift, dlog_scale, dnet = step_of(dparams, widths, step, D)
        J = D - widths[step, 0]
        s, t, moved, kept = outputs[step, :J].T, outputs[step, J:2 * J].T, between[step, :J].T, between[step, J:].T
        da_moved = dz[:, :J] * np.exp(-s)
        draw = (-dz[:, :J] * moved - dlog_det[:, None]) * (1 - (s / limit) ** 2)
        dkept, dnet[:] = mlp.backward.reference(np.concatenate([draw, -da_moved], axis=1), kept, hidden[step], net,
                                                widths[step], blocks[step], blocks[step], np.zeros(0), True, True)
        da = np.concatenate([dz[:, J:] + dkept, da_moved], axis=1)
        a = np.concatenate([kept, moved * np.exp(s) + t], axis=1)
        dz = np.empty_like(da)
        dz[:, orders[step]] = da * np.exp(-log_scale)
        dshift -= (da * np.exp(-log_scale)).sum(axis=0)
        dlog_scale -= (da * a).sum(axis=0) + dlog_det.sum()
    return dz.astype(dtype, order="C"), dparams.astype(dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jitable
def _cut(N):
    """The number of panels of a batch and their rows: at most 128, a multiple of 16 but for the last; two from 64 rows on."""
    panels = max(-(-N // 128), 1 if N < 64 else 2)
    return panels, -(-N // (16 * panels)) * 16


@jit
def _carve(scratch, n, D, outputs, units):
    """The states before and after a step (2, D, n), two of a network's outputs (2, outputs, n), and its hidden layers."""
    a, b = 2 * D * n, 2 * (D + outputs) * n
    return scratch[:a].reshape((2, D, n)), scratch[a:b].reshape((2, outputs, n)), scratch[b:b + units * n]


@jit
def _turn(values, out):
    for n in range(len(values)):
        for d in range(values.shape[1]):
            out[d, n] = values[n, d]


@jit
def _copy(panel, out, low):
    """Into columns low.. of out; the steps themselves have contiguous panels, for the sake of GEMM and the cache."""
    for d in range(len(panel)):
        for n in range(panel.shape[1]):
            out[d, low + n] = panel[d, n]


@jit
def _fetch(values, low, panel):
    for d in range(len(panel)):
        for n in range(panel.shape[1]):
            panel[d, n] = values[d, low + n]


@jit
def _bound(raw, limit):
    """limit tanh(raw / limit), in place."""
    limit = raw.dtype.type(limit)
    for n in range(raw.size):
        raw[n] = limit * _math.tanh(raw[n] / limit)


@jit
def _log_prob(z, log_det, log_prob):
    half, constant = z.dtype.type(0.5), z.dtype.type(len(z) * LOG_2PI / 2)
    log_prob[:] = constant
    for d in range(len(z)):
        values = z[d]
        for n in range(values.size):
            log_prob[n] += half * values[n] * values[n]
    for n in range(log_prob.size):
        log_prob[n] = log_det[n] - log_prob[n]


@jit
def _step_inverse(x, params, order, widths, blocks, limit, low, z, log_det, outputs, hidden):
    """A step for a panel of rows: fills z, outputs, rows low.. of hidden, and subtracts from log_det."""
    (shift, log_scale, net), J = params, widths[-1] // 2
    kept = len(x) - J
    for d in range(len(x)):
        before, after, centre, scale = x[order[d]], z[J + d if d < kept else d - kept], shift[d], _math.exp(-log_scale[d])
        for n in range(after.size):
            after[n] = (before[n] - centre) * scale
    panel_forward(z[J:], net, widths, blocks, low, hidden, outputs, YES)
    for j in range(J):
        s, t, moved = outputs[j], outputs[J + j], z[j]
        _bound(s, limit)
        for n in range(s.size):
            log_det[n] -= s[n]
            moved[n] = (moved[n] - t[n]) * _math.exp(-s[n])
    log_det -= _sum(log_scale)


@jit
def _step_forward(z, params, order, widths, blocks, limit, x, log_det, outputs, hidden):
    (shift, log_scale, net), J = params, widths[-1] // 2
    kept = len(z) - J
    panel_forward(z[J:], net, widths, blocks, ZERO, hidden, outputs, YES)
    for d in range(len(x)):
        before, after, centre, scale = z[J + d if d < kept else d - kept], x[order[d]], shift[d], _math.exp(log_scale[d])
        if d < kept:
            for n in range(after.size):
                after[n] = before[n] * scale + centre
        else:
            s, t = outputs[d - kept], outputs[J + d - kept]
            _bound(s, limit)
            for n in range(after.size):
                log_det[n] += s[n]
                after[n] = (before[n] * _math.exp(s[n]) + t[n]) * scale + centre
    log_det += _sum(log_scale)


@jit
def _step_backward(dz, dlog_det, z, outputs, params, order, widths, blocks, limit, low, hidden, g, delta, dx, dkept, dnorm):
    """Fills dx, g (the cotangent of the network's outputs), rows low.. of delta, and this panel's dshift and dlog_scale."""
    (_, log_scale, net), J, real = params, widths[-1] // 2, dz.dtype.type
    D, one, steepness = len(dz), real(1), real(1 / limit**2)
    kept, shrink, term = D - J, np.empty(dz.shape[1], dz.dtype), np.empty(dz.shape[1], dz.dtype)
    for j in range(J):
        s, t, z_j, dz_j, draw, dt = outputs[j], outputs[J + j], z[j], dz[j], g[j], g[J + j]
        for n in range(s.size):
            shrink[n] = _math.exp(-s[n])
        for n in range(s.size):
            draw[n] = (-dz_j[n] * z_j[n] - dlog_det[n]) * (one - s[n] * s[n] * steepness)
            dt[n] = -dz_j[n] * shrink[n]
            term[n] = dt[n] * (z_j[n] / shrink[n] + t[n])
        dnorm[D + kept + j] = _sum(term)
    for layer in range(len(widths) - 2, -1, -1):
        panel_backward(g, net, widths, blocks, layer, ZERO, widths[layer], low, hidden, delta, dkept, YES)
    for d in range(D):
        after, scale = dx[order[d]], _math.exp(-log_scale[d])
        if d < kept:
            network, dz_d, z_d = dkept[d], dz[J + d], z[J + d]
            for n in range(after.size):
                da = network[n] + dz_d[n]
                term[n] = da * z_d[n]
                after[n] = da * scale
            dnorm[D + d] = -_sum(term)
        else:
            dt = g[J + d - kept]
            for n in range(after.size):
                after[n] = -dt[n] * scale
        dnorm[d] = -_sum(after)
    of_rows = _sum(dlog_det)
    for d in range(D):
        dnorm[D + d] -= of_rows


@jit
def _add_up(dnorm, widths, dparams):
    """dshift and dlog_scale of every step, from those of its panels."""
    D = dnorm.shape[2] // 2
    for k in range(len(dnorm)):
        dshift, dlog_scale, _ = step_of(dparams, widths, k, D)
        dshift[:] = 0
        dlog_scale[:] = 0
        for p in range(dnorm.shape[1]):
            for d in range(D):
                dshift[d] += dnorm[k, p, d]
                dlog_scale[d] += dnorm[k, p, D + d]


@jit
def _inverse_panel(p, x, params, orders, widths, blocks, limit, keep, scratch, z, log_det, log_prob, between, outputs, hidden):
    """Task p of inverse: every step for a panel of rows."""
    (N, D), S, width, rows = x.shape, len(orders), outputs.shape[1], _cut(len(x))[1]
    low, high = min(p * rows, N), min((p + 1) * rows, N)
    states, of_net, units = _carve(scratch[get_thread_id()], high - low, D, width, 0 if keep else widths[0, 1:-1].sum())
    of_rows = log_det[low:high]
    of_rows[:] = 0
    _turn(x[low:high], states[1])
    for k in range(S):
        after, st = states[k % 2], of_net[0, :widths[k, -1]]
        _step_inverse(states[(k + 1) % 2], step_of(params, widths, k, D), orders[k], widths[k], blocks[k], limit,
                      low if keep else 0, after, of_rows, st, hidden[k] if keep else units)
        if keep:
            _copy(after, between[k], low)
            _copy(st, outputs[k], low)
    _log_prob(states[(S + 1) % 2], of_rows, log_prob[low:high])
    _turn(states[(S + 1) % 2].T, z[low:high].T)


@entry
def _inverse(x, params, orders, widths, blocks, limit, keep, scratch, z, log_det, log_prob, between, outputs, hidden):
    parallel(_cut(len(x))[0], _inverse_panel,
             (x, params, orders, widths, blocks, limit, keep, scratch, z, log_det, log_prob, between, outputs, hidden))


@jit
def _forward_panel(p, z, params, orders, widths, width, blocks, limit, scratch, x, log_det):
    (N, D), S, rows = z.shape, len(orders), _cut(len(z))[1]
    low, high = min(p * rows, N), min((p + 1) * rows, N)
    states, of_net, units = _carve(scratch[get_thread_id()], high - low, D, width, widths[0, 1:-1].sum())
    of_rows = log_det[low:high]
    of_rows[:] = 0
    _turn(z[low:high], states[S % 2])
    for i in range(S):
        k = S - 1 - i
        _step_forward(states[(k + 1) % 2], step_of(params, widths, k, D), orders[k], widths[k], blocks[k], limit,
                      states[k % 2], of_rows, of_net[0, :widths[k, -1]], units)
    _turn(states[0].T, x[low:high].T)


@entry
def _forward(z, params, orders, widths, width, blocks, limit, scratch, x, log_det):
    parallel(_cut(len(z))[0], _forward_panel, (z, params, orders, widths, width, blocks, limit, scratch, x, log_det))


@jit
def _backward_panel(p, dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, limit, scratch, g, delta, dx,
                    dnorm):
    (N, D), S, width, rows = dz.shape, len(orders), outputs.shape[1], _cut(len(dz))[1]
    low, high = min(p * rows, N), min((p + 1) * rows, N)
    cotangents, of_net, rest = _carve(scratch[get_thread_id()], high - low, D, width, 2 * D)
    z, dkept = rest.reshape((2, D, high - low))[0], rest.reshape((2, D, high - low))[1]
    _turn(dz[low:high], cotangents[S % 2])
    for i in range(S):
        k = S - 1 - i
        st, g_net = of_net[0, :widths[k, -1]], of_net[1, :widths[k, -1]]
        _fetch(between[k], low, z)
        _fetch(outputs[k], low, st)
        _step_backward(cotangents[(k + 1) % 2], dlog_det[low:high], z, st, step_of(params, widths, k, D), orders[k],
                       widths[k], blocks[k], limit, low, hidden[k], g_net, delta[k], cotangents[k % 2],
                       dkept[:widths[k, 0]], dnorm[k, p])
        _copy(g_net, g[k], low)
    _turn(cotangents[0].T, dx[low:high].T)


@jit
def _gradients_piece(t, pieces, between, hidden, g, delta, widths, dparams):
    k, D = pieces[t, 0], between.shape[1]
    piece_backward(pieces[t, 1:], g[k, :widths[k, -1]], between[k, D - widths[k, 0]:], hidden[k], delta[k], widths[k],
                   np.empty(0, g.dtype), step_of(dparams, widths, k, D)[2], YES)


@entry
def _backward(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit, scratch, g, delta, dx,
              dparams):
    panels, _ = _cut(len(dz))
    dnorm = np.empty((len(orders), panels, 2 * dz.shape[1]), dz.dtype)
    parallel(panels, _backward_panel, (dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, limit, scratch,
                                       g, delta, dx, dnorm))
    parallel(len(pieces), _gradients_piece, (pieces, between, hidden, g, delta, widths, dparams))
    _add_up(dnorm, widths, dparams)


def _scratch(N, widths, D, dtype):
    """Memory for a panel on every thread: more would not stay in the cache, and less would be fetched anew for every panel."""
    size = 2 * (D + widths[:, -1].max()) + max(widths[0, 1:-1].sum(), 2 * D)
    return empty((get_num_threads(), size * _cut(N)[1]), dtype)


def _inverse_numba(x, params, orders, widths, blocks, pieces, limit, keep):
    (N, D), dtype, S = x.shape, x.dtype, len(orders) if keep else 0
    z, log_det, log_prob = empty((N, D), dtype), empty((N,), dtype), empty((N,), dtype)
    between, outputs = empty((S, D, N), dtype), empty((S, widths[:, -1].max(), N), dtype)
    hidden = empty((S, N * widths[0, 1:-1].sum()), dtype)
    _inverse(x, params, orders, widths, blocks, limit, keep, _scratch(N, widths, D, dtype), z, log_det, log_prob, between,
             outputs, hidden)
    return z, log_det, log_prob, between, outputs, hidden


def _forward_numba(z, params, orders, widths, blocks, pieces, limit):
    x, log_det = empty(z.shape, z.dtype), empty(z.shape[:1], z.dtype)
    _forward(z, params, orders, widths, widths[:, -1].max(), blocks, limit, _scratch(len(z), widths, z.shape[1], z.dtype), x,
             log_det)
    return x, log_det


def _backward_numba(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit):
    dx, dparams, dtype = empty(dz.shape, dz.dtype), empty(params.shape, dz.dtype), dz.dtype
    _backward(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit,
              _scratch(len(dz), widths, dz.shape[1], dtype), empty(outputs.shape, dtype), empty(hidden.shape, dtype), dx,
              dparams)
    return dx, dparams


# --- CUDA ------------------------------------------------------------------------------------------------------------

ROWS = 16  # of a panel


@functools.lru_cache(maxsize=64)
def _plan(orders, widths, S):
    """flow.cu's plan, its D, S, L, width, Q, and mlp.cu's jobs for the gradients. The arrays are bytes."""
    orders, widths = (np.frombuffer(a, np.int64).reshape(S, -1) for a in (orders, widths))
    (D, L), width, Q = (orders.shape[1], widths.shape[1] - 1), int(widths[:, -1].max()), int(widths[0, 1:-1].sum())
    plan, jobs, start, stride = [], [], 0, width + 2 * D
    for step, row in enumerate(widths.tolist()):
        plan.append([start, *row])
        jobs.append([False, 0, 0, 0, 0, False, step * stride, width, stride, 2 * D, start, -1, 0])  # shift, log_scale: a bias
        start += 2 * D
        before = step * Q
        for layer, (K, M) in enumerate(zip(row, row[1:], strict=False)):
            below = [True, before, 0, K] if layer else [False, step * D, D - K, D]
            before += K if layer else 0
            above = [True, before, 0, M] if layer < L - 1 else [False, step * stride, 0, stride]
            jobs.append([*below, K, *above, M, start, -1, 0])
            start += (K + 1) * M
    return np.array(plan, dtype=np.int64), (D, S, L, width, Q), np.array(jobs, dtype=np.int64)


def _inverse_cuda(x, params, orders, widths, blocks, pieces, limit, keep):
    plan, (D, S, L, width, Q), _ = _plan(_cuda.content(orders), _cuda.content(widths), len(orders))
    N, dtype = len(x), x.dtype
    z, log_det, log_prob = _cuda.empty((N, D), dtype), _cuda.empty((N,), dtype), _cuda.empty((N,), dtype)
    between, outputs, hidden = (_cuda.empty(shape, dtype) for shape in (
        (S if keep else 2, D, N), (S if keep else 1, width, N), (S if keep else 1, N * Q)))
    launch("flow", "inverse", -(-N // ROWS), mlp.THREADS, x, params, _cuda.constant(orders), _cuda.constant(plan), limit, keep,
           z, log_det, log_prob, between, outputs, hidden, N, D, S, L, width, Q)
    kept = S if keep else 0
    return z, log_det, log_prob, between[:kept], outputs[:kept], hidden[:kept]


def _forward_cuda(z, params, orders, widths, blocks, pieces, limit):
    plan, (D, S, L, width, Q), _ = _plan(_cuda.content(orders), _cuda.content(widths), len(orders))
    N, dtype = len(z), z.dtype
    x, log_det = _cuda.empty((N, D), dtype), _cuda.empty((N,), dtype)
    scratch = [_cuda.empty((size,), dtype) for size in (2 * N * D, N * width, N * Q)]
    launch("flow", "forward", -(-N // ROWS), mlp.THREADS, z, params, _cuda.constant(orders), _cuda.constant(plan), limit, x,
           log_det, *scratch, N, D, S, L, width, Q)
    return x, log_det


def _backward_cuda(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit):
    plan, (D, S, L, width, Q), jobs = _plan(_cuda.content(orders), _cuda.content(widths), len(orders))
    N, dtype = len(dz), dz.dtype
    dx, g, delta = _cuda.empty((N, D), dtype), _cuda.empty((S, N, width + 2 * D), dtype), _cuda.empty(hidden.shape, dtype)
    scratch = [_cuda.empty((size,), dtype) for size in (2 * N * D, N * D)]
    launch("flow", "backward", -(-N // ROWS), mlp.THREADS, dz, dlog_det, between, outputs, hidden, params,
           _cuda.constant(orders), _cuda.constant(plan), limit, g, delta, dx, *scratch, N, D, S, L, width, Q)
    nothing = _cuda.empty((0,), dtype)
    return dx, mlp.weight_gradients(between, hidden, g, delta, nothing, np.zeros(0, np.int64), jobs, N, params.size)


@functools.lru_cache(maxsize=256)
def _sizes(widths, S, D):
    """(the length of params, features that a step of these widths has, rows of outputs, hidden units)."""
    widths = np.frombuffer(widths, np.int64).reshape(S, -1)
    features = widths[:, 0] + widths[:, -1] / 2
    return (int(2 * D * S + ((widths[:, :-1] + 1) * widths[:, 1:]).sum()), features[np.argmax(features != D)],
            int(widths[:, -1].max()), int(widths[0, 1:-1].sum()))


def _of_params(x, params, orders, widths, *rest):
    size, features, _, _ = _sizes(_cuda.content(widths), *orders.shape)
    return ("P", size), ("D", features)


def _of_kept(x, params, orders, widths, *rest):
    _, _, outputs, units = _sizes(_cuda.content(widths), *orders.shape)
    return ("O", outputs), ("Q", len(x) * units)


_FLOW = "params(P) orders(S,D):int64 widths(S,W):int64 blocks(S,W-1,5):int64 pieces(T,6):int64 limit"
inverse = Kernel("flow.inverse", f"x(N,D) {_FLOW} keep", reference=_inverse_reference, numba=_inverse_numba,
                 cuda=_inverse_cuda, blas=True, sizes=_of_params)
forward = Kernel("flow.forward", f"z(N,D) {_FLOW}", reference=_forward_reference, numba=_forward_numba,
                 cuda=_forward_cuda, blas=True, sizes=_of_params)
backward = Kernel("flow.backward", f"dz(N,D) dlog_det(N) between(S,D,N) outputs(S,O,N) hidden(S,Q) {_FLOW}",
                  reference=_backward_reference, numba=_backward_numba, cuda=_backward_cuda, blas=True,
                  sizes=lambda dz, dlog_det, between, outputs, hidden, *flow: _of_params(dz, *flow) + _of_kept(dz, *flow))
