"""Monotone rational-quadratic splines with linear tails, one for every value, and the logarithm of their derivative.

    to_noise            z = spline(x) inside the box (-B, B), x outside of it;  log_det = sum_d log dz_d/dx_d
    to_data             x = spline^-1(z), with the opposite log_det
    to_noise_backward   the gradients with respect to x and the parameters, given dz and dlog_det of `to_noise` at x
    to_data_backward    those with respect to z and the parameters, given dx and dlog_det of `to_data`, at the x that it gave

x, z (N, D), log_det (N,) nats; params (N, P), P = D (3 K - 1), a feature after the other: K raw widths, K raw heights and
K - 1 raw derivatives at the inner knots. K = bins >= 1, B = box > 0; K LEAST < 1. float32 or float64; any N and D, zero too.

    width_k = 2 B (p_k + LEAST (1 - K p_k)), p = softmax(raw widths); heights alike; knots are their sums, from -B to B
    d_k = LEAST + softplus(raw derivative + SHIFT); 1 at the ends of the box

    in a bin from (X, Y), of width w, height h, slope s = h / w, and with derivatives d0, d1 at its ends:
    t = (x - X) / w,  u = 1 - t,  den = s + (d0 + d1 - 2 s) t u,  z = Y + h (s t + d0 u) t / den
    dz/dx = s^2 (d1 t^2 + 2 s t u + d0 u^2) / den^2
    back: r = (z - Y) / h,  p = d0 (1 - r) - d1 r,  v = |p| + sqrt(p^2 + 4 s^2 r (1 - r)),
          t : u = 2 s r : v where p >= 0, else v : 2 s (1 - r): the stable root of the quadratic, by sums of one sign

Raw parameters of 0 are the identity to the bit, with log_det 0. Gradients are finite everywhere, for raw values up to 1e4. The
inverse is exact to a few ulp of the box times the largest dx/dz of the bin, which can reach 1e9 where a flat bin has
steep ends. A value is computed by itself, and log_det in the order of the features: no bit depends on threads or other rows.
Source: Durkan, Bekasov, Murray & Papamakarios, Neural spline flows (2019), section 3.1; Gregory & Delbourgo (1982).

Numba: LANES values at a time, their parameters turned so that the loops run along values; every bin is looked at, none is
searched. CUDA: a thread a value, a team of threads a row.
"""
import math

import numpy as np

from . import _cuda
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel
from ._math import exp, exp_small, log, log1p, sum_in_lanes
from ._partition import n_panels

LEAST = 1e-3  # of a width and a height, as a share of the box, and of a derivative
SHIFT = math.log(math.expm1(1 - LEAST))  # LEAST + softplus(SHIFT) = 1

# --- reference -------------------------------------------------------------------------------------------------------

class _Bins:
    """The bin of every value, found among the knots of x, or of z: its knots, sizes and derivatives."""

    def __init__(self, v, params, bins, box, of_z):
        raw = params.astype(np.float64).reshape(*v.shape, 3 * bins - 1)
        self.box, self.inside = box, np.abs(v) < box
        self.v = np.where(self.inside, v, 0).astype(np.float64)
        self.shares = [self._softmax(raw[..., :bins]), self._softmax(raw[..., bins:2 * bins])]
        sizes = [2 * box * (p + LEAST * (1 - bins * p)) for p in self.shares]
        ends = np.full((*v.shape, 1), -box)
        starts = [np.concatenate([ends, np.cumsum(a, axis=-1)[..., :-1] - box], axis=-1) for a in sizes]
        self.number = (self.v[..., None] >= starts[of_z][..., 1:]).sum(axis=-1)
        self.X, self.Y, self.w, self.h = map(self._chosen, (*starts, *sizes))
        inner = raw[..., 2 * bins:] + SHIFT
        one = np.ones((*v.shape, 1))
        derivatives = np.concatenate([one, LEAST + np.logaddexp(0, inner), one], axis=-1)
        self.d0, self.d1 = self._chosen(derivatives), self._chosen(derivatives, 1)
        self.steepness = np.exp(-np.logaddexp(0, -inner))  # the derivative of softplus
        self.s = self.h / self.w

    @staticmethod
    def _softmax(raw):
        e = np.exp(raw - raw.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def _chosen(self, a, later=0):
        return np.take_along_axis(a, self.number[..., None] + later, axis=-1)[..., 0]

    def at(self, t, u):
        """Den, and the q of dz/dx = s^2 q / den^2, at a share t = 1 - u of the width."""
        return (self.s * (t * t + u * u) + (self.d0 + self.d1) * t * u,
                self.d1 * t * t + 2 * self.s * t * u + self.d0 * u * u)

    def answer(self, v, inner, log_slope):
        return (np.where(self.inside, inner.clip(-self.box, self.box), v).astype(v.dtype),
                np.where(self.inside, log_slope, 0).sum(axis=1).astype(v.dtype))


def _to_noise_reference(x, params, bins, box):
    bin = _Bins(x, params, bins, box, False)
    t = np.clip((bin.v - bin.X) / bin.w, 0, 1)
    u = 1 - t
    den, q = bin.at(t, u)
    return bin.answer(x, bin.Y + bin.h * t * (bin.s * t + bin.d0 * u) / den, np.log((bin.s / den) ** 2 * q))


def _to_data_reference(z, params, bins, box):
    bin = _Bins(z, params, bins, box, True)
    r = np.clip((bin.v - bin.Y) / bin.h, 0, 1)
    p = bin.d0 * (1 - r) - bin.d1 * r
    v = np.abs(p) + np.sqrt(p * p + 4 * bin.s**2 * r * (1 - r))
    t, u = np.where(p >= 0, [2 * bin.s * r, v], [v, 2 * bin.s * (1 - r)])
    t, u = t / (t + u), u / (t + u)
    den, q = bin.at(t, u)
    return bin.answer(z, bin.X + bin.w * t, -np.log((bin.s / den) ** 2 * q))


def _gradients(dz, dlog_det, x, params, bins, box, want_dx, want_dparams, of_inverse):
    bin = _Bins(x, params, bins, box, False)
    X, w, h, s, d0, d1 = bin.X, bin.w, bin.h, bin.s, bin.d0, bin.d1
    t = np.clip((bin.v - X) / w, 0, 1)
    u = 1 - t
    den, q = bin.at(t, u)
    share = t * (s * t + d0 * u) / den  # of the height
    slope, bend = (s / den) ** 2 * q, 2 * ((d1 * t - d0 * u + s * (u - t)) / q - (d0 + d1 - 2 * s) * (u - t) / den) / w
    dv, dlog = np.where(bin.inside, dz, 0).astype(np.float64), np.where(bin.inside, dlog_det[:, None], 0).astype(np.float64)
    if of_inverse:
        dv, dlog = (dlog * bend - dv) / slope, -dlog
    along = dv * slope + dlog * bend
    dx = np.where(bin.inside, -dv if of_inverse else along, dz)
    ds = dv * h * t * u * (d1 * t * t - d0 * u * u) / den**2 + dlog * 2 * t * u * (1 / q + (d0 + d1) / (s * den))
    dd0 = dv * h * t * u * (1 - share) / den + dlog * u * (u / q - 2 * t / den)
    dd1 = -dv * h * t * u * share / den + dlog * t * (t / q - 2 * u / den)
    dsizes = [(-along, -(along * t + ds * s / w)), (dv, dv * share + ds / w)]  # of those of the bins before, and of its own
    k, number = np.arange(bins), bin.number[..., None]
    parts = []
    for p, (before, own) in zip(bin.shares, dsizes, strict=True):
        g = np.where(k < number, before[..., None], np.where(k == number, own[..., None], 0))
        parts.append(2 * box * (1 - bins * LEAST) * p * (g - (p * g).sum(axis=-1, keepdims=True)))
    parts.append(bin.steepness * (np.where(k[1:] == number, dd0[..., None], 0) + np.where(k[:-1] == number, dd1[..., None], 0)))
    dparams = np.concatenate(parts, axis=-1).reshape(params.shape)
    nothing = np.empty((0, 0))
    return tuple(a.astype(x.dtype) for a in (dx if want_dx else nothing, dparams if want_dparams else nothing))


def _to_noise_backward_reference(dz, dlog_det, x, params, bins, box, want_dx, want_dparams):
    return _gradients(dz, dlog_det, x, params, bins, box, want_dx, want_dparams, False)


def _to_data_backward_reference(dx, dlog_det, x, params, bins, box, want_dz, want_dparams):
    return _gradients(dx, dlog_det, x, params, bins, box, want_dz, want_dparams, True)


# --- Numba -----------------------------------------------------------------------------------------------------------

LANES = 64
# What is known of LANES values, each a row of a (KNOWN, LANES) array; of raw (3 K - 1, LANES) the first 2 K become p.
(NUMBER, FROM_END, RAW_LEFT, RAW_RIGHT, OUT, LOG, LEFT, RIGHT, STEEP_LEFT, STEEP_RIGHT, AT, X_, Y_, WIDTH, HEIGHT, DOUT, DLOG,
 DX, DY, DWIDTH, DHEIGHT, DLEFT, DRIGHT, HELP, KNOWN) = range(25)
ENDS, RAW, ODDS, SLOPES, STEEP = range(5)  # the first rows in pairs: of both ends of the bin


@jit(optimised=True)
def _load(params, first, count, raw):
    """Parameters of `count` values from `first` on, turned; 0 for the lanes beyond."""
    for i in range(count):
        row = params[first + i]
        for j in range(row.size):
            raw[j, i] = row[j]
    for j in range(len(raw)):
        raw[j, count:] = 0


@jit(optimised=True)
def _store(values, first, count, out):
    for i in range(count):
        row = out[first + i]
        for j in range(row.size):
            row[j] = values[j, i]


@jit
def _fetch(values, first, count, out):
    for i in range(count):
        out[i] = values[first + i]
    out[count:] = 0


@jit(optimised=True)
def _softmax(raw, top, total):
    """Softmax along the first axis, in place."""
    lowest = raw.dtype.type(-79)  # what is below counts for nothing beside LEAST
    top[:] = raw[0]
    for k in range(1, len(raw)):
        row = raw[k]
        for i in range(LANES):  # into another array: a value that stays would be a store that is left out, by a branch
            value, highest = row[i], top[i]
            total[i] = value if value > highest else highest
        top, total = total, top
    total[:] = 0
    for k in range(len(raw)):
        row = raw[k]
        for i in range(LANES):
            value = row[i] - top[i]
            row[i] = exp_small(value if value > lowest else lowest)
        for i in range(LANES):
            total[i] += row[i]
    for k in range(len(raw)):
        row = raw[k]
        for i in range(LANES):
            row[i] /= total[i]


@jit(optimised=True)
def _count(p, at, box, number, knot):
    """How many knots, but for the first, are at or below `at`."""
    real = p.dtype.type
    bins, whole, least, one, zero = real(len(p)), real(2 * box), real(LEAST), real(1), real(0)
    number[:] = 0
    knot[:] = real(-box)
    for k in range(len(p) - 1):
        row = p[k]
        for i in range(LANES):
            knot[i] += whole * (row[i] + least * (one - bins * row[i]))
        for i in range(LANES):
            number[i] += one if at[i] >= knot[i] else zero


@jit(optimised=True)
def _pick(p, number, box, start, size):
    """Where the bin begins, and its size."""
    real = p.dtype.type
    bins, whole, least, one, zero = real(len(p)), real(2 * box), real(LEAST), real(1), real(0)
    start[:] = real(-box)
    for k in range(len(p)):
        row, this = p[k], real(k)
        for i in range(LANES):
            value = whole * (row[i] + least * (one - bins * row[i]))
            before = value if this < number[i] else zero
            start[i] += before
            size[i] = value if this == number[i] else size[i]


@jit(optimised=True)
def _derivatives(raw, number, left, right):
    """The raw ones at both ends of the bin, of (K - 1, LANES)."""
    real = raw.dtype.type
    left[:] = 0
    right[:] = 0
    for k in range(len(raw)):
        row, this, after = raw[k], real(k), real(k + 1)
        for i in range(LANES):
            value, bin = row[i], number[i]
            left[i] = value if bin == after else left[i]
            right[i] = value if bin == this else right[i]


@jit(optimised=True)
def _softplus(flat, K):
    """The derivatives for the raw ones, and theirs by these; at an end of the box 1 and 0."""
    both, real = flat.reshape((KNOWN // 2, 2 * LANES)), flat.dtype.type
    one, zero, least, shift, last = real(1), real(0), real(LEAST), real(SHIFT), real(K - 1)
    for i in range(LANES):
        both[ENDS, LANES + i] = last - both[ENDS, i]  # bins to the box's end on either side
    for i in range(2 * LANES):
        both[ODDS, i] = exp(-abs(both[RAW, i] + shift))
    for i in range(2 * LANES):
        both[STEEP, i] = log1p(both[ODDS, i])
    for i in range(2 * LANES):
        raw, odds, bins = both[RAW, i] + shift, both[ODDS, i], both[ENDS, i]
        soft, steep = least + ((raw if raw > zero else zero) + both[STEEP, i]), (one if raw > zero else odds) / (one + odds)
        both[SLOPES, i] = soft if bins > zero else one
        both[STEEP, i] = steep if bins > zero else zero


@jit
def _bins(raw, flat, K, box, of_z):
    """All that is known of the lanes' bins; of raw, the raw widths and heights become p."""
    widths, heights, known = raw[:K], raw[K:2 * K], flat.reshape((KNOWN, LANES))
    _softmax(widths, known[HELP], known[OUT])
    _softmax(heights, known[HELP], known[OUT])
    _count(heights if of_z else widths, known[AT], box, known[NUMBER], known[HELP])
    _pick(widths, known[NUMBER], box, known[X_], known[WIDTH])
    _pick(heights, known[NUMBER], box, known[Y_], known[HEIGHT])
    _derivatives(raw[2 * K:], known[NUMBER], known[RAW_LEFT], known[RAW_RIGHT])
    _softplus(flat, K)


@jit
def _enter(at, box):
    """0 in place of a value that is not in the box."""
    edge, zero = at.dtype.type(box), at.dtype.type(0)
    for i in range(LANES):
        value = at[i]
        at[i] = value if abs(value) < edge else zero


@jit
def _bow(t, u, s, d0, d1):
    """(r - t) / (t u), r the share of the height at the share t = 1 - u of the width, and den: 0 and s on a straight line."""
    left, right = d0 - s, d1 - s
    den = s + (left + right) * (t * u)
    return (left * u - right * t) / den, den


@jit
def _q(t, u, s, d0, d1):
    """d1 t^2 + 2 s t u + d0 u^2, seen from the nearer end: s on a straight line."""
    near = t < u
    a, b = (d0, d1) if near else (d1, d0)
    v, w = (t, u) if near else (u, t)
    return a + v * (w * ((s - a) + (s - a)) + v * (b - a))


@jit(optimised=True)
def _to_noise(flat, box):
    known, real = flat.reshape((KNOWN, LANES)), flat.dtype.type
    one, zero, edge = real(1), real(0), real(box)
    for i in range(LANES):
        x, X, Y, w, h = known[AT, i], known[X_, i], known[Y_, i], known[WIDTH, i], known[HEIGHT, i]
        d0, d1, s, t = known[LEFT, i], known[RIGHT, i], h / w, min((x - X) / w, one)
        u = one - t
        bow, den = _bow(t, u, s, d0, d1)
        z = x + (((Y - X) + (h - w) * t) + h * (t * u * bow))
        steep = s / den
        known[OUT, i] = min(max(z, Y), Y + h if known[FROM_END, i] > zero else edge)
        known[LOG, i] = steep * (steep * _q(t, u, s, d0, d1))
    for i in range(LANES):
        known[LOG, i] = log(known[LOG, i])


@jit(optimised=True)
def _to_data(flat, box):
    known, real = flat.reshape((KNOWN, LANES)), flat.dtype.type
    one, zero, two, edge = real(1), real(0), real(2), real(box)
    for i in range(LANES):
        z, X, Y, w, h = known[AT, i], known[X_, i], known[Y_, i], known[WIDTH, i], known[HEIGHT, i]
        d0, d1, s, r = known[LEFT, i], known[RIGHT, i], h / w, min((z - Y) / h, one)
        rest = one - r
        p, up, down = d0 * rest - d1 * r, two * s * r, two * s * rest
        v = abs(p) + np.sqrt(p * p + up * down)
        t, u = (up if p >= zero else v), (v if p >= zero else down)
        both = t + u
        t, u = t / both, u / both
        bow, den = _bow(t, u, s, d0, d1)
        x = z + (((X - Y) + (w - h) * r) - w * (t * u * bow))
        steep = s / den
        known[OUT, i] = min(max(x, X), X + w if known[FROM_END, i] > zero else edge)
        known[LOG, i] = steep * (steep * _q(t, u, s, d0, d1))
    for i in range(LANES):
        known[LOG, i] = -log(known[LOG, i])


@jit(optimised=True)
def _pull(flat, of_inverse):
    """Gradients by x, and by start, sizes and derivatives of the bin."""
    known, real = flat.reshape((KNOWN, LANES)), flat.dtype.type
    one, two = real(1), real(2)
    for i in range(LANES):
        w, h, d0, d1, dv, dlog = (known[WIDTH, i], known[HEIGHT, i], known[LEFT, i], known[RIGHT, i], known[DOUT, i],
                                  known[DLOG, i])
        s, t = h / w, min((known[AT, i] - known[X_, i]) / w, one)
        u = one - t
        bow, den = _bow(t, u, s, d0, d1)
        q, per, mix = _q(t, u, s, d0, d1), one / den, t * u
        slope = (s * per) * ((s * per) * q)
        bend = two * (((d1 - s) * t - (d0 - s) * u) / q - ((d0 - s) + (d1 - s)) * (u - t) * per) / w
        along = -dv if of_inverse else dv * slope + dlog * bend
        dv = (dlog * bend - dv) / slope if of_inverse else dv
        dlog = -dlog if of_inverse else dlog
        share, rest = t + mix * bow, u * (s * u + d1 * t) * per
        ds = dv * h * (mix * per) * ((d1 * t * t - d0 * u * u) * per) + dlog * (two * mix) * (one / q + (d0 + d1) * per / s)
        known[OUT, i] = -dv if of_inverse else along
        known[DX, i] = -along
        known[DY, i] = dv
        known[DWIDTH, i] = -(along * t + ds * (s / w))
        known[DHEIGHT, i] = dv * share + ds / w
        known[DLEFT, i] = (dv * h * (mix * per) * rest + dlog * u * (u / q - two * t * per)) * known[STEEP_LEFT, i]
        known[DRIGHT, i] = (-dv * h * (mix * per) * share + dlog * t * (t / q - two * u * per)) * known[STEEP_RIGHT, i]


@jit(optimised=True)
def _pull_sizes(p, number, box, dstart, dsize, mean):
    """The gradient by raw widths, or heights, in place of p; dstart is what the sizes of the bins before the value's have."""
    real = p.dtype.type
    factor, zero = real(2 * box * (1 - len(p) * LEAST)), real(0)
    mean[:] = zero
    for k in range(len(p)):
        row, this = p[k], real(k)
        for i in range(LANES):
            before, own = dstart[i], dsize[i]
            mean[i] += row[i] * (before if this < number[i] else own if this == number[i] else zero)
    for k in range(len(p)):
        row, this = p[k], real(k)
        for i in range(LANES):
            before, own = dstart[i], dsize[i]
            row[i] = factor * row[i] * ((before if this < number[i] else own if this == number[i] else zero) - mean[i])


@jit(optimised=True)
def _pull_derivatives(raw, number, dleft, dright):
    """The gradient by the raw derivatives, in their place."""
    real = raw.dtype.type
    zero = real(0)
    for k in range(len(raw)):
        row, this, after = raw[k], real(k), real(k + 1)
        for i in range(LANES):
            left, right = dleft[i], dright[i]
            row[i] = left if number[i] == after else right if number[i] == this else zero


@jit
def _values(v, params, K, box, of_z, first, last, ans, logs):
    """Values first..last - 1, and the logarithms of their derivatives."""
    raw, flat = np.empty((3 * K - 1, LANES), v.dtype), np.zeros(KNOWN * LANES, v.dtype)
    known, edge, zero = flat.reshape((KNOWN, LANES)), v.dtype.type(box), v.dtype.type(0)
    while first < last:
        count = min(LANES, last - first)
        _load(params, first, count, raw)
        _fetch(v, first, count, known[AT])
        _enter(known[AT], box)
        _bins(raw, flat, K, box, of_z)
        if of_z:
            _to_data(flat, box)
        else:
            _to_noise(flat, box)
        values, answers, logarithms = v[first:first + count], ans[first:first + count], logs[first:first + count]
        out, log_slope = known[OUT], known[LOG]
        for i in range(count):
            value, inner = values[i], out[i]
            answers[i] = inner if abs(value) < edge else value
        for i in range(count):
            inner = log_slope[i]
            logarithms[i] = inner if abs(values[i]) < edge else zero
        first += count


@jit
def _panel(p, panels, v, params, K, D, box, of_z, ans, logs, log_det):
    N = len(log_det)
    low, high = p * N // panels, (p + 1) * N // panels
    _values(v, params, K, box, of_z, low * D, high * D, ans, logs)
    for n in range(low, high):
        log_det[n] = sum_in_lanes(logs[n * D:(n + 1) * D])


@entry
def _apply(v, params, K, D, box, of_z, ans, logs, log_det):
    panels = n_panels(len(log_det), 3 * params.size)
    parallel(panels, _panel, (panels, v, params, K, D, box, of_z, ans, logs, log_det))


@jit
def _pull_panel(p, panels, dout, dlog_det, x, params, D, box, of_inverse, want_params, dv, dparams):
    first, last = p * len(dlog_det) // panels * D, (p + 1) * len(dlog_det) // panels * D
    K = (params.shape[1] + 1) // 3
    raw, flat = np.empty((3 * K - 1, LANES), x.dtype), np.zeros(KNOWN * LANES, x.dtype)
    known, edge, zero = flat.reshape((KNOWN, LANES)), x.dtype.type(box), x.dtype.type(0)
    while first < last:
        count = min(LANES, last - first)
        _load(params, first, count, raw)
        _fetch(x, first, count, known[AT])
        _fetch(dout, first, count, known[DOUT])
        for i in range(LANES):
            inside = abs(known[AT, i]) < edge and i < count
            known[DLOG, i] = dlog_det[(first + i) // D] if inside else zero
            known[DOUT, i] = known[DOUT, i] if inside else zero
        _enter(known[AT], box)
        _bins(raw, flat, K, box, False)
        _pull(flat, of_inverse)
        if len(dv):
            for i in range(count):
                dv[first + i] = known[OUT, i] if abs(x[first + i]) < edge else dout[first + i]
        if want_params:
            _pull_sizes(raw[:K], known[NUMBER], box, known[DX], known[DWIDTH], known[HELP])
            _pull_sizes(raw[K:2 * K], known[NUMBER], box, known[DY], known[DHEIGHT], known[HELP])
            _pull_derivatives(raw[2 * K:], known[NUMBER], known[DLEFT], known[DRIGHT])
            _store(raw, first, count, dparams)
        first += count


@entry
def _apply_pull(dout, dlog_det, x, params, D, box, of_inverse, want_params, dv, dparams):
    panels = n_panels(len(dlog_det), 5 * params.size)
    parallel(panels, _pull_panel, (panels, dout, dlog_det, x, params, D, box, of_inverse, want_params, dv, dparams))


def _numba(of_z):
    def run(v, params, bins, box):
        N, D = v.shape
        ans, logs, log_det = empty((N, D), v.dtype), empty((N * D,), v.dtype), empty((N,), v.dtype)
        _apply(v.reshape(-1), params.reshape(N * D, 3 * bins - 1), bins, D, float(box), of_z, ans.reshape(-1), logs, log_det)
        return ans, log_det
    return run


def _numba_backward(of_inverse):
    def run(dout, dlog_det, x, params, bins, box, want_dv, want_dparams):
        N, D = x.shape
        dv, dparams = (empty(a.shape if want else (0, 0), x.dtype) for a, want in ((x, want_dv), (params, want_dparams)))
        _apply_pull(dout.reshape(-1), dlog_det, x.reshape(-1), params.reshape(N * D, 3 * bins - 1), D, float(box), of_inverse,
                    bool(want_dparams), dv.reshape(-1), dparams.reshape(-1, 3 * bins - 1))
        return dv, dparams
    return run


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _cuda_side(name):
    def run(v, params, bins, box):
        (N, D), ans, log_det = v.shape, _cuda.empty(v.shape, v.dtype), _cuda.empty(v.shape[:1], v.dtype)
        blocks, threads, lanes = _cuda.teams(N, D)
        _cuda.launch("spline", name, blocks, threads, v, params, ans, log_det, N, D, bins, box, lanes)
        return ans, log_det
    return run


def _cuda_backward(of_inverse):
    def run(dout, dlog_det, x, params, bins, box, want_dv, want_dparams):
        N, D = x.shape
        dv, dparams = (_cuda.empty(a.shape if want else (0, 0), x.dtype) for a, want in ((x, want_dv), (params, want_dparams)))
        blocks = _cuda.grid(N * D, 128)
        _cuda.launch("spline", "backward", blocks, 128, dout, dlog_det, x, params, dv, dparams, N * D, D, bins, box, of_inverse,
                     bool(want_dv), bool(want_dparams))
        return dv, dparams
    return run


def _size(v, params, bins, box, *rest):
    return (("P", v.shape[1] * (3 * bins - 1)),)


to_noise = Kernel("spline.to_noise", "x(N,D) params(N,P) bins box", reference=_to_noise_reference, numba=_numba(False),
                  cuda=_cuda_side("to_noise"), sizes=_size)
to_data = Kernel("spline.to_data", "z(N,D) params(N,P) bins box", reference=_to_data_reference, numba=_numba(True),
                 cuda=_cuda_side("to_data"), sizes=_size)
to_noise_backward = Kernel(
    "spline.to_noise_backward", "dz(N,D) dlog_det(N) x(N,D) params(N,P) bins box want_dx want_dparams",
    reference=_to_noise_backward_reference, numba=_numba_backward(False), cuda=_cuda_backward(False),
    sizes=lambda dz, dlog_det, *spline: _size(*spline))
to_data_backward = Kernel(
    "spline.to_data_backward", "dx(N,D) dlog_det(N) x(N,D) params(N,P) bins box want_dz want_dparams",
    reference=_to_data_backward_reference, numba=_numba_backward(True), cuda=_cuda_backward(True),
    sizes=lambda dx, dlog_det, *spline: _size(*spline))
