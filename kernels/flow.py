"""A flow of coupling steps: each puts the features in order, scales them, and moves some by a network of the others.

    inverse     data -> noise, every step     a = (x[order] - shift) exp(-log_scale);  (raw, t) = mlp(a_kept)
                                              s = limit tanh(raw / limit);  z = [(a_moved - t) exp(-s), a_kept]
                                              log_det -= sum_d log_scale_d + sum_j s_j
                and, from the last z,         log_prob = sum_d log N(z_d; 0, 1) + log_det
    forward     noise -> data, the inverse of that from the last step to the first, with the opposite log_det
    backward    dx and the gradient of every parameter, given dz and dlog_det of `inverse`; empty if it is not wanted

x, z (N, D), log_det and log_prob (N,) nats, S steps. a_kept are the first D - J features of a,
J the number that moves, half of the outputs of the step's network; it may differ between steps. limit < 80.
orders (S, D), widths (S, L + 1), blocks (S, L, 5); pieces (T, 6), a step before what mlp.py has; no mask here.
params (P,): for every step shift (D,), log_scale (D,), then the mlp's.
between (S, B, X, A), what the steps make of x, outputs (S, B, O, A), s and t in the first 2 J lines of each, and hidden (S, B,
H, A), the units of a network, are what `backward` needs: lines of A rows, 16 in float32 and 8 in float64, for all features of B
blocks. Behind x, and behind each hidden layer, there is a line of ones, so that the gradient of a bias is one of a weight. X, O
and H are odd, so that a feature's lines do not drive each other out of a cache. Told not to keep them, `inverse` leaves them
empty. float32 or float64; any N; D >= 1, J >= 0.
Sources: Dinh, Sohl-Dickstein & Bengio, Real NVP (2017), section 3; Kingma & Dhariwal, Glow (2018), section 3.1.

Numba: a panel of rows goes through all steps while it is in the cache, by blocks of as many rows as a tile of _tile.py has
columns, one or two at once. A block is what is called a panel there, a line of the rows' values for every feature: a layer is
one product, of which nothing is packed, and every other loop runs over whole lines. `backward` does so for no more steps than
are worth it, then computes the gradients of these steps' weights, piece by piece, while the cotangents are near, and goes on.
The sums of a row depend on no other; those over rows on the number of rows alone.
CUDA: a panel a block; between is (S, N, D) there, outputs (S, N, O), and a hidden layer (N, h), whatever their shapes say:
nobody else reads them, and none of these is larger.
"""
import functools

import numpy as np

from . import _cuda, mlp
from ._constants import LOG_2PI
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import NO, YES, ZERO, entry, jit, jitable, parallel
from ._layers import layer_start
from ._lines import (
    block_of,
    blocks_of,
    fold_lines,
    grid_at,
    layer_of_lines,
    lines_in,
    lines_of,
    load_rows,
    set_ones,
    store_rows,
)
from ._math import exp, exp_small_fused, fused, sum_in_lanes, tanh_fused
from ._product import multiply_lines, pack_rows
from ._tile import blocks_at_once, move, normalize, restore, scale, tile_columns


@jitable
def step_of(params, widths, step, D):
    """Shift (D,), log_scale (D,) and the network's parameters of a step, views of params."""
    start = 0
    for k in range(step):
        start += 2 * D + layer_start(widths[k], widths.shape[1] - 1)
    end = start + 2 * D + layer_start(widths[step], widths.shape[1] - 1)
    return params[start:start + D], params[start + D:start + 2 * D], params[start + 2 * D:end]


def _kept_blocks(N, dtype):
    """Blocks of N rows, and rows of a block."""
    A = 64 // np.dtype(dtype).itemsize
    return -(-N // A), A


@jitable
def _units(widths):
    """The lines of a network's hidden layers, with a line of ones behind each."""
    return widths[1:-1].sum() + len(widths) - 2


# --- reference -------------------------------------------------------------------------------------------------------

def _in_lines(values, dtype):
    """Rows (N, X) as they are kept, (B, X', A)."""
    N, X = values.shape
    B, A = _kept_blocks(N, dtype)
    kept = np.zeros((B * A, X | 1), dtype)
    kept[:N, :X] = values
    return kept.reshape(B, A, X | 1).transpose(0, 2, 1)


def _in_rows(kept, N, X):
    """Rows (N, X) of which _in_lines makes these."""
    B, lines, A = kept.shape
    return kept.transpose(0, 2, 1).reshape(B * A, lines)[:N, :X]


def _network(kept, net, widths, blocks, limit):
    outputs, hidden = mlp.forward.reference(kept, net, widths, blocks, blocks, np.zeros(0))
    raw, t = np.split(outputs, 2, axis=1)
    layers = np.split(hidden, len(kept) * np.cumsum(widths[1:-1]))
    ones, units = np.ones((len(kept), 1)), []
    for h, width in zip(layers, widths[1:-1], strict=False):
        units += [h.reshape(len(kept), width), ones]
    return limit * np.tanh(raw / limit), t, np.concatenate([kept[:, :0], *units], axis=1)


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
        outputs = np.zeros((N, widths[:, -1].max()))
        outputs[:, :widths[step, -1]] = np.concatenate([s, t], axis=1)
        for values, value in zip(kept, (np.concatenate([x, np.ones((N, 1))], axis=1), outputs, hidden), strict=True):
            values.append(_in_lines(value, dtype))
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


def _backward_reference(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit, want_dparams):
    (N, D), dtype, dparams = dz.shape, dz.dtype, np.zeros(params.shape)
    dlog_det, between, outputs, hidden, params = (v.astype(np.float64) for v in (dlog_det, between, outputs, hidden, params))
    for step in reversed(range(len(orders))):
        shift, log_scale, net = step_of(params, widths, step, D)
        dshift, dlog_scale, dnet = step_of(dparams, widths, step, D)
        J = D - widths[step, 0]
        s, t = np.split(_in_rows(outputs[step], N, 2 * J), 2, axis=1)
        moved, kept = np.split(_in_rows(between[step], N, D), [J], axis=1)
        ends = np.cumsum(widths[step, 1:-1] + 1)
        layers = [h[:, :-1] for h in np.split(_in_rows(hidden[step], N, ends[-1] if ends.size else 0), ends, axis=1)[:-1]]
        da_moved = dz[:, :J] * np.exp(-s)
        draw = (-dz[:, :J] * moved - dlog_det[:, None]) * (1 - (s / limit) ** 2)
        dkept, dnet[:] = mlp.backward.reference(
            np.concatenate([draw, -da_moved], axis=1), kept, np.concatenate([np.empty(0), *(h.ravel() for h in layers)]), net,
            widths[step], blocks[step], blocks[step], np.zeros(0), True, True)
        da = np.concatenate([dz[:, J:] + dkept, da_moved], axis=1)
        a = np.concatenate([kept, moved * np.exp(s) + t], axis=1)
        dz = np.empty_like(da)
        dz[:, orders[step]] = da * np.exp(-log_scale)
        dshift -= (da * np.exp(-log_scale)).sum(axis=0)
        dlog_scale -= (da * a).sum(axis=0) + dlog_det.sum()
    return dz.astype(dtype, order="C"), (dparams if want_dparams else np.empty(0)).astype(dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

WORK = 2**24  # products of a row and a parameter, from which on steps are worth parallel regions of their own


@jitable
def _cut(N):
    """The number of panels of a batch: of about 128 rows, an even number of them from 64 rows on."""
    return 1 if N < 64 else 2 * -(-N // 256)


@jit
def _blocks(p, N, lanes):
    """The first row of panel p, and the number of its blocks; panels differ by 16 rows at most."""
    panels, sixteens = _cut(N), -(-N // 16)
    low, high = p * sixteens // panels * 16, min((p + 1) * sixteens // panels * 16, N)
    return low, -(-(high - low) // lanes)


@jit
def _weight_of(net, widths, layer):
    """A layer's weight and below it its bias (inputs + 1, outputs), a view of net: the bias is the weight of a line of ones."""
    return grid_at(net, layer_start(widths, layer), (widths[layer] + 1, widths[layer + 1]))


@jit
def _turned_of(turned, widths, layer):
    """A layer's weight turned and below it a bias of zeros (outputs + 1, inputs), a view of what _turn_weights fills."""
    start = 0
    for k in range(layer):
        start += (widths[k + 1] + 1) * widths[k]
    return grid_at(turned, start, (widths[layer + 1] + 1, widths[layer]))


@jit
def _turn_weights(k, params, widths, D, turned):
    """Task k of the turning: the weights of step k, once for all rows, so that `backward` multiplies by them as they lie."""
    net = step_of(params, widths, k, D)[2]
    for layer in range(widths.shape[1] - 1):
        out, (n_in, n_out) = _turned_of(turned[k], widths[k], layer), widths[k, layer:layer + 2]
        pack_rows(_weight_of(net, widths[k], layer), YES, ZERO, ZERO, out[:n_out], n_in)
        out[n_out] = 0


@jit
def _outputs(z, first, net, widths, limit, units, st):
    """st = s and t of the network, and units = its hidden layers and ones behind each, for the features of some blocks from the
    first kept one on.
    """
    limit, zero, none, last, h, to = z.dtype.type(limit), z.dtype.type(0), z.dtype.type(-np.inf), len(widths) - 2, z, 0
    for layer in range(last):
        layer_of_lines(_weight_of(net, widths, layer), h, first, zero, units, to)
        h, first, to = units, to, to + widths[layer + 1] + 1
        set_ones(units, to - 1)
    layer_of_lines(_weight_of(net, widths, last), h, first, none, st, ZERO)
    steepness = z.dtype.type(1) / limit
    for b in range(len(z)):
        s = lines_of(st, b, 0, widths[-1] // 2)
        for i in range(s.size):
            s[i] = limit * tanh_fused(s[i] * steepness)


@jit
def _factors(log_scale, inverse, factors):
    """factors = exp(-log_scale) or exp(log_scale)."""
    for d in range(factors.size):
        factors[d] = exp(-log_scale[d] if inverse else log_scale[d])


@jit
def _inverse_blocks(x, shift, factors, net, order, widths, limit, units, z, st, sums):
    """A step for one block of rows or two, (b, D, lanes): fills units, z and st, and adds s to sums."""
    D, J = len(order), widths[-1] // 2
    K = D - J
    for b in range(len(x)):
        before, after = block_of(x, b), block_of(z, b)
        for d in range(D):
            normalize(before, order[d], d, shift, factors, after, J + d if d < K else d - K)
    _outputs(z, J, net, widths, limit, units, st)
    for b in range(len(x)):
        moved, s, t, total = lines_of(z, b, 0, J), lines_of(st, b, 0, J), lines_of(st, b, J, 2 * J), lines_of(sums, b, 0, J)
        for i in range(s.size):
            moved[i] = (moved[i] - t[i]) * exp_small_fused(-s[i])
            total[i] += s[i]


@jit
def _forward_blocks(z, shift, factors, net, order, widths, limit, units, st, x, sums):
    """The inverse of that. It uses z up."""
    D, J = len(order), widths[-1] // 2
    K = D - J
    _outputs(z, J, net, widths, limit, units, st)
    for b in range(len(z)):
        before, after = block_of(z, b), block_of(x, b)
        moved, s, t, total = lines_in(before, 0, J), lines_of(st, b, 0, J), lines_of(st, b, J, 2 * J), lines_of(sums, b, 0, J)
        for i in range(s.size):
            moved[i] = fused(moved[i], exp_small_fused(s[i]), t[i])
            total[i] += s[i]
        for d in range(D):
            restore(before, J + d if d < K else d - K, d, shift, factors, after, order[d])


@jit
def _backward_start(dz, of_rows, z, st, order, widths, limit, g, da, dnorm):
    """The first part of a step for a block: fills g, the cotangent of the network's outputs, and that of what moves in da."""
    D, J, real = len(order), widths[-1] // 2, dz.dtype.type
    one, steepness, K = real(1), real(1 / limit**2), D - J
    s, t, moved, dmoved, of_row = (lines_in(st, 0, J), lines_in(st, J, 2 * J), lines_in(z, 0, J), lines_in(dz, 0, J),
                                   lines_in(of_rows, 0, J))
    draw, dt, da_moved, dscale = lines_in(g, 0, J), lines_in(g, J, 2 * J), lines_in(da, K, D), lines_in(dnorm, D + K, 2 * D)
    for i in range(s.size):
        draw[i] = (-dmoved[i] * moved[i] - of_row[i]) * (one - s[i] * s[i] * steepness)
        da_moved[i] = dmoved[i] * exp_small_fused(-s[i])
        dt[i] = -da_moved[i]
        dscale[i] -= dmoved[i] * moved[i] + da_moved[i] * t[i]


@jit
def _backward_end(dz, z, through, factors, order, J, da, dx, dnorm):
    """The last part: with what comes through the network, fills dx."""
    D = len(order)
    K = D - J
    from_net, kept, dkept = lines_in(through, 0, K), lines_in(z, J, D), lines_in(dz, J, D)
    da_kept, dscale = lines_in(da, 0, K), lines_in(dnorm, D, D + K)
    for i in range(from_net.size):
        da_kept[i] = from_net[i] + dkept[i]
        dscale[i] -= da_kept[i] * kept[i]
    for d in range(D):
        scale(da, d, d, factors, factors, da, d)
    values, dshift = lines_in(da, 0, D), lines_in(dnorm, 0, D)
    for i in range(values.size):
        dshift[i] -= values[i]
    for d in range(D):
        move(da, d, 0, dx, order[d])


@jit
def _backward_blocks(dz, of_rows, z, st, units, factors, turned, order, widths, limit, g, delta, da, through, dx, dnorm):
    """A step for one block of rows or two, (b, D, lanes): fills dx, g (the cotangent of the network's outputs) and delta (that
    of its units), and adds the rows' shares of dshift and dlog_scale to dnorm (2 D, lanes), those of dlog_det left out.
    """
    none = dz.dtype.type(-np.inf)
    for b in range(len(dz)):
        _backward_start(block_of(dz, b), block_of(of_rows, b), block_of(z, b), block_of(st, b), order, widths, limit,
                        block_of(g, b), block_of(da, b), dnorm)
    above, first, to = g, ZERO, _units(widths)
    for layer in range(len(widths) - 2, 0, -1):
        to -= widths[layer] + 1
        layer_of_lines(_turned_of(turned, widths, layer), above, first, units, delta, to)
        above, first = delta, to
    layer_of_lines(_turned_of(turned, widths, 0), above, first, none, through, ZERO)
    for b in range(len(dz)):
        _backward_end(block_of(dz, b), block_of(z, b), block_of(through, b), factors, order, widths[-1] // 2, block_of(da, b),
                      block_of(dx, b), dnorm)


@jit
def _scratch(widths, D, like):
    """Units, outputs and features of the blocks that go at once, one step of what is kept, and the factors of a step."""
    n, lanes, hidden, outputs = blocks_at_once(), tile_columns(like), 0, 0
    for step in range(len(widths)):
        hidden, outputs = max(hidden, _units(widths[step])), max(outputs, widths[step, -1])
    return (np.empty((1, n, hidden | 1, lanes), like.dtype), np.empty((1, n, outputs | 1, lanes), like.dtype),
            np.empty((1, n, D | 1, lanes), like.dtype), np.empty(D, like.dtype))


@jit
def _inverse_panel(p, x, params, orders, widths, limit, keep, z, log_det, log_prob, between, outputs, hidden):
    """Task p of inverse: every step for a panel of rows, and of each step every block."""
    (N, D), S, lanes = x.shape, len(orders), tile_columns(x)
    low, blocks = _blocks(p, N, lanes)
    units, of_net, _, factors = _scratch(widths, D, x)
    states, first = np.empty((2, blocks, D, lanes), x.dtype), low // lanes
    sums, scales = np.zeros((1, blocks, D, lanes), x.dtype), x.dtype.type(0)
    for b in range(blocks):
        block = states[1, b]
        load_rows(x, low + b * lanes, block)
        for d in range(D):  # rows beyond the last are like it, so that they are finite if it is
            for n in range(N - low - b * lanes, lanes):
                block[d, n] = block[d, N - low - b * lanes - 1]
    for k in range(S):
        shift, log_scale, net = step_of(params, widths, k, D)
        _factors(log_scale, YES, factors)
        scales += sum_in_lanes(log_scale)
        for b in range(0, blocks, blocks_at_once()):
            n = min(blocks_at_once(), blocks - b)
            before = blocks_of(states, (k + 1) % 2, b, n)
            if keep:
                before = blocks_of(between, k - 1, first + b, n) if k > 0 else before
                after, st, h = (blocks_of(between, k, first + b, n), blocks_of(outputs, k, first + b, n),
                                blocks_of(hidden, k, first + b, n))
            else:
                after, st, h = blocks_of(states, k % 2, b, n), blocks_of(of_net, 0, 0, n), blocks_of(units, 0, 0, n)
            _inverse_blocks(before, shift, factors, net, orders[k], widths[k], limit, h, after, st, blocks_of(sums, 0, b, n))
            if keep:
                set_ones(after, D)
    half, constant = x.dtype.type(0.5), x.dtype.type(D * LOG_2PI / 2)
    for b in range(blocks):
        noise, squared, total, at = states[(S + 1) % 2, b], states[S % 2, b], sums[0, b], low + b * lanes
        noise = between[S - 1, first + b, :D] if keep else noise
        store_rows(noise, z, at)
        values, squares = lines_in(noise, 0, D), lines_in(squared, 0, D)
        for i in range(squares.size):
            squares[i] = values[i] * half * values[i]
        fold_lines(squared, D)
        fold_lines(total, D)
        for n in range(min(lanes, N - at)):
            log_det[at + n] = -(scales + total[0, n])
            log_prob[at + n] = -(scales + total[0, n]) - (constant + squared[0, n])


@entry
def _inverse(x, params, orders, widths, limit, keep, z, log_det, log_prob, between, outputs, hidden):
    parallel(_cut(len(x)), _inverse_panel,
             (x, params, orders, widths, limit, keep, z, log_det, log_prob, between, outputs, hidden))


@jit
def _forward_panel(p, z, params, orders, widths, limit, x, log_det):
    (N, D), S, lanes = z.shape, len(orders), tile_columns(z)
    low, blocks = _blocks(p, N, lanes)
    (units, of_net, _, factors), states = _scratch(widths, D, z), np.empty((2, blocks, D, lanes), z.dtype)
    sums, scales = np.zeros((1, blocks, D, lanes), z.dtype), z.dtype.type(0)
    for b in range(blocks):
        load_rows(z, low + b * lanes, states[S % 2, b])
    for k in range(S - 1, -1, -1):
        shift, log_scale, net = step_of(params, widths, k, D)
        _factors(log_scale, NO, factors)
        scales += sum_in_lanes(log_scale)
        for b in range(0, blocks, blocks_at_once()):
            n = min(blocks_at_once(), blocks - b)
            _forward_blocks(blocks_of(states, (k + 1) % 2, b, n), shift, factors, net, orders[k], widths[k], limit,
                            blocks_of(units, 0, 0, n), blocks_of(of_net, 0, 0, n), blocks_of(states, k % 2, b, n),
                            blocks_of(sums, 0, b, n))
    for b in range(blocks):
        at = low + b * lanes
        store_rows(states[0, b], x, at)
        fold_lines(sums[0, b], D)
        for n in range(min(lanes, N - at)):
            log_det[at + n] = scales + sums[0, b, 0, n]


@entry
def _forward(z, params, orders, widths, limit, x, log_det):
    parallel(_cut(len(z)), _forward_panel, (z, params, orders, widths, limit, x, log_det))


@jit
def _backward_panel(p, first, last, dz, dlog_det, between, outputs, hidden, params, turned, orders, widths, limit, want, g,
                    delta, dx, dnorm):
    """Task p of backward: the cotangents of a panel of rows through steps first..last - 1, from dz or from what dx holds, and
    its dshift and dlog_scale of each of them, dnorm[:, p].
    """
    (N, D), lanes = dz.shape, tile_columns(dz)
    low, blocks = _blocks(p, N, lanes)
    (units, of_net, through, factors), states = _scratch(widths, D, dz), np.empty((2, blocks, D, lanes), dz.dtype)
    of_rows = np.zeros((1, blocks, D, lanes), dz.dtype)  # dlog_det, in every line
    da, sums, start = np.empty((1, blocks_at_once(), D, lanes), dz.dtype), np.empty((2 * D, lanes), dz.dtype), low // lanes
    for b in range(blocks):
        at = low + b * lanes
        if last == len(orders):
            load_rows(dz, at, states[last % 2, b])
        else:
            load_rows(dx, at, states[last % 2, b])
        for d in range(D):
            for n in range(min(lanes, N - at)):
                of_rows[0, b, d, n] = dlog_det[at + n]
    for k in range(last - 1, first - 1, -1):
        _, log_scale, _ = step_of(params, widths, k, D)
        _factors(log_scale, YES, factors)
        sums[:] = 0
        for b in range(0, blocks, blocks_at_once()):
            n, at = min(blocks_at_once(), blocks - b), start + b
            if want:
                of_outputs, of_units = blocks_of(g, k - first, at, n), blocks_of(delta, k - first, at, n)
            else:
                of_outputs, of_units = blocks_of(of_net, 0, 0, n), blocks_of(units, 0, 0, n)
            _backward_blocks(blocks_of(states, (k + 1) % 2, b, n), blocks_of(of_rows, 0, b, n), blocks_of(between, k, at, n),
                             blocks_of(outputs, k, at, n), blocks_of(hidden, k, at, n), factors, turned[k], orders[k],
                             widths[k], limit, of_outputs, of_units, blocks_of(da, 0, 0, n), blocks_of(through, 0, 0, n),
                             blocks_of(states, k % 2, b, n), sums)
        if want:
            total = sum_in_lanes(dlog_det[low:min(low + blocks * lanes, N)])
            for d in range(D):
                dnorm[k, p, d], dnorm[k, p, D + d] = sum_in_lanes(sums[d]), sum_in_lanes(sums[D + d]) - total
    for b in range(blocks):
        store_rows(states[first % 2, b], dx, low + b * lanes)


@jit
def _piece(t, pieces, lowest, between, hidden, g, delta, widths, D, dparams):
    """Task t of the gradients: some columns of a weight, and of its bias. g and delta are of the steps from `lowest` on."""
    k, layer, first, last = pieces[t, 0], pieces[t, 1], pieces[t, 2], pieces[t, 3]
    weight, blocks, to = _weight_of(step_of(dparams, widths, k, D)[2], widths[k], layer), between.shape[1], 0
    for below in range(1, layer):
        to += widths[k, below] + 1
    below = blocks_of(between, k, 0, blocks) if layer == 0 else blocks_of(hidden, k, 0, blocks)
    at, to = (D - widths[k, 0], 0) if layer == 0 else (to, to + widths[k, layer] + 1)
    above, to = (blocks_of(g, k - lowest, 0, blocks), 0) if layer == widths.shape[1] - 2 else (
        blocks_of(delta, k - lowest, 0, blocks), to)
    multiply_lines(below, at, above, to, weight, first, last)


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


@entry
def _backward(dz, dlog_det, between, outputs, hidden, params, orders, widths, pieces, limit, want, g, delta, dx, dparams):
    panels, last, stop = _cut(len(dz)), len(orders), len(pieces)
    dnorm = np.empty((len(orders), panels, 2 * dz.shape[1]), dz.dtype)
    size = 0
    for layer in range(widths.shape[1] - 1):
        size += (widths[:, layer + 1].max() + 1) * widths[:, layer].max()
    turned = np.empty((len(orders), size), dz.dtype)
    parallel(len(orders), _turn_weights, (params, widths, dz.shape[1], turned))
    while last > 0:
        first = max(last - len(g), 0) if want else 0
        parallel(panels, _backward_panel, (first, last, dz, dlog_det, between, outputs, hidden, params, turned, orders, widths,
                                           limit, want, g, delta, dx, dnorm))
        if want:
            start = stop
            while start > 0 and pieces[start - 1, 0] >= first:
                start -= 1
            parallel(stop - start, _piece, (pieces[start:stop], first, between, hidden, g, delta, widths, dz.shape[1], dparams))
            stop = start
        last = first
    if want:
        _add_up(dnorm, widths, dparams)


def _kept_shapes(N, D, orders, widths, dtype):
    """Shapes of a step of between, outputs and hidden."""
    (blocks, lanes), (_, _, outputs, units) = _kept_blocks(N, dtype), _sizes(_cuda.content(widths), *orders.shape)
    return [(blocks, lines | 1, lanes) for lines in (D + 1, outputs, units)]


def _inverse_numba(x, params, orders, widths, blocks, pieces, limit, keep):
    (N, D), dtype, S = x.shape, x.dtype, len(orders) if keep else 0
    z, log_det, log_prob = empty((N, D), dtype), empty((N,), dtype), empty((N,), dtype)
    kept = [empty((S, *shape), dtype) for shape in _kept_shapes(N, D, orders, widths, dtype)]
    _inverse(x, params, orders, widths, limit, keep, z, log_det, log_prob, *kept)
    return z, log_det, log_prob, *kept


def _forward_numba(z, params, orders, widths, blocks, pieces, limit):
    x, log_det = empty(z.shape, z.dtype), empty(z.shape[:1], z.dtype)
    _forward(z, params, orders, widths, limit, x, log_det)
    return x, log_det


def _backward_numba(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit, want_dparams):
    dx, dtype, S = empty(dz.shape, dz.dtype), dz.dtype, len(orders)
    together = min(S, 1 + WORK * S // max(len(dz) * params.size, 1)) if want_dparams else 0  # steps whose cotangents are kept
    g, delta = empty((together, *outputs.shape[1:]), dtype), empty((together, *hidden.shape[1:]), dtype)
    dparams = empty(params.shape if want_dparams else (0,), dtype)
    _backward(dz, dlog_det, between, outputs, hidden, params, orders, widths, pieces, limit, want_dparams, g, delta, dx,
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
    between, outputs, hidden = (_cuda.empty((S if keep else steps, *shape), dtype) for steps, shape in zip(
        (2, 1, 1), _kept_shapes(N, D, orders, widths, dtype), strict=True))
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


def _backward_cuda(dz, dlog_det, between, outputs, hidden, params, orders, widths, blocks, pieces, limit, want_dparams):
    plan, (D, S, L, width, Q), jobs = _plan(_cuda.content(orders), _cuda.content(widths), len(orders))
    N, dtype = len(dz), dz.dtype
    dx, g, delta = (_cuda.empty(shape, dtype) for shape in ((N, D), (S, N, width + 2 * D), (S, N, Q)))
    scratch = [_cuda.empty((size,), dtype) for size in (2 * N * D, N * D)]
    launch("flow", "backward", -(-N // ROWS), mlp.THREADS, dz, dlog_det, between, outputs, hidden, params,
           _cuda.constant(orders), _cuda.constant(plan), limit, g, delta, dx, *scratch, N, D, S, L, width, Q)
    nothing = _cuda.empty((0,), dtype)
    if not want_dparams:
        return dx, nothing
    return dx, mlp.weight_gradients(between, hidden, g, delta, nothing, np.zeros(0, np.int64), jobs, N, params.size)


@functools.lru_cache(maxsize=256)
def _sizes(widths, S, D):
    """(the length of params, features that a step of these widths has, outputs, lines of hidden units)."""
    widths = np.frombuffer(widths, np.int64).reshape(S, -1)
    features = widths[:, 0] + widths[:, -1] / 2
    return (int(2 * D * S + ((widths[:, :-1] + 1) * widths[:, 1:]).sum()), features[np.argmax(features != D)],
            int(widths[:, -1].max()), int(_units(widths[0])))


def _of_params(x, params, orders, widths, *rest):
    size, features, _, _ = _sizes(_cuda.content(widths), *orders.shape)
    return ("P", size), ("D", features)


def _of_kept(x, params, orders, widths, *rest):
    of_states, of_outputs, of_units = _kept_shapes(*x.shape, orders, widths, x.dtype)
    return *zip("BXA", of_states, strict=True), ("O", of_outputs[1]), ("H", of_units[1])


_FLOW = "params(P) orders(S,D):int64 widths(S,W):int64 blocks(S,W-1,5):int64 pieces(T,6):int64 limit"
inverse = Kernel("flow.inverse", f"x(N,D) {_FLOW} keep", reference=_inverse_reference, numba=_inverse_numba,
                 cuda=_inverse_cuda, sizes=_of_params)
forward = Kernel("flow.forward", f"z(N,D) {_FLOW}", reference=_forward_reference, numba=_forward_numba,
                 cuda=_forward_cuda, sizes=_of_params)
backward = Kernel("flow.backward", "dz(N,D) dlog_det(N) between(S,B,X,A) outputs(S,B,O,A) hidden(S,B,H,A) "
                  f"{_FLOW} want_dparams", reference=_backward_reference, numba=_backward_numba, cuda=_backward_cuda,
                  sizes=lambda dz, dlog_det, between, outputs, hidden, *flow: _of_params(dz, *flow) + _of_kept(dz, *flow))
