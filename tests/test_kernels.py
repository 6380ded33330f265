"""Every kernel agrees with its reference, gives the same bits for any thread count, and refuses what it cannot take."""
import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from npgen import kernels
from npgen.kernels import (
    _dispatch,
    _math,
    adam,
    categorical,
    em,
    flow,
    gather,
    gibbs,
    gray,
    langevin,
    likelihood,
    logsumexp,
    made_sample,
    masked_matmul,
    mixture_likelihood,
    mlp,
    mlp_slope,
    norm,
    pairwise,
    random,
    reparameterize,
    silu,
    spline,
    trajectory,
    transport,
)
from npgen.layout import FlowLayout, Layout
from npgen.masks import Plan

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
BACKENDS = pytest.mark.parametrize("backend", ["reference", "numba"])
INF, NAN = np.inf, np.nan
KEY = 0x243F6A88, 0x85A308D3


# --- cases: the arguments of a launch, and how far each result may be from the reference's ---------------------------

def floats(rng, shape, dtype, extreme=()):
    """Normals of widely varying size, a tenth of them replaced by the extreme values."""
    x = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, size=shape)
    if len(extreme):
        x = np.where(rng.random(shape) < 0.1, rng.choice(extreme, size=shape), x)
    return x.astype(dtype)


def logsumexp_inputs(rng, n, d, dtype):
    x = floats(rng, (n, d), dtype, [0, 1e30, -1e30, np.inf, -np.inf, np.nan])
    x[rng.random(n) < 0.1] = -np.inf
    weights = np.abs(floats(rng, (n if rng.random() < 0.5 else 1, d), dtype, [0, 0, 0, -1, np.nan]))
    return x, np.ones((1, d), dtype) if rng.random() < 0.3 else weights


def logsumexp_backward_inputs(rng, n, d, dtype):
    x, weights = logsumexp_inputs(rng, n, d, dtype)
    return floats(rng, n, dtype), logsumexp.forward.reference(x, weights), x, weights


def logsumexp_bound(eps, want, x, weights):
    return [(8 + x.shape[1]) * eps * np.maximum(1, np.abs(want[0]))]


def logsumexp_backward_bound(eps, want, g, ans, x, weights):
    distance = np.where(np.isfinite(ans[:, None]), x - ans[:, None], 0)
    overflows = distance > np.log(np.finfo(x.dtype).max)  # entries that a zero weight drops, far above the rest
    return [np.where(overflows, np.inf, (8 + np.abs(distance)) * eps * np.abs(want[0]))]


def reparameterize_inputs(rng, n, d, dtype):
    return floats(rng, (n, d), dtype), floats(rng, (n, d), dtype).clip(-300, 170), *KEY, int(rng.integers(1000))


def reparameterize_bound(eps, want, first, log_var, *stream):
    return [8 * eps * (np.abs(want[0]) + np.abs(first))]


def posterior_inputs(rng, n, d, dtype):
    return floats(rng, (n, 2 * d), dtype), float(rng.choice([15, 3])), *KEY, int(rng.integers(1000))


def posterior_bound(eps, want, outputs, limit, *stream):
    z, mean, log_var = (np.abs(a.astype(float)) for a in want)
    return [(8 + 2 * limit) * eps * (z + 2 * mean), 0.0, 8 * eps * log_var]


def posterior_backward_inputs(rng, n, d, dtype):
    limit = float(rng.choice([15, 3]))
    g, dmean, dlog_var = (floats(rng, (n, d), dtype) for _ in range(3))
    return g, dmean, dlog_var, (limit * np.tanh(floats(rng, (n, d), dtype))).astype(dtype), limit, *KEY, int(rng.integers(1000))


def posterior_backward_bound(eps, want, g, dmean, dlog_var, log_var, limit, *stream):
    noise = np.abs(reparameterize.backward.reference(g, log_var, *stream).astype(float))
    return [8 * eps * np.concatenate([np.abs(g) + np.abs(dmean), (noise + np.abs(dlog_var))], axis=1)]


def kl_inputs(rng, n, d, dtype):
    return (sometimes(rng, floats(rng, (n, d), dtype), floats(rng, (n, d), dtype, [0, 1e18, INF, -INF, NAN])),
            floats(rng, (n, d), dtype).clip(-300, 80))


def kl_bound(eps, want, mean, log_var):
    mean, log_var = mean.astype(float), log_var.astype(float)
    return [(16 + mean.shape[1] / 16) * eps * (np.square(mean) + np.exp(log_var) + 1 + np.abs(log_var)).sum(axis=1)]


def kl_backward_bound(eps, want, g, mean, log_var):
    g = np.abs(g[:, None].astype(float))
    return [8 * eps * np.stack([np.abs(want[0][0]), g * (np.exp(log_var.astype(float)) + 1)])]


def random_inputs(rng, n, d, dtype):
    return np.empty(n * d, dtype), *KEY, int(rng.integers(2**40))


def squared_inputs(rng, n, d, dtype):
    return (floats(rng, n * d, dtype, [0, 1e25] if rng.random() < 0.5 else [INF, NAN]),)


def pairwise_inputs(backward, gaussian):
    def inputs(rng, n, d, dtype):
        m = int(rng.integers(0, 300))
        extreme = [0, INF, -INF, NAN] if rng.random() < 0.2 else [0]
        x, y = (sometimes(rng, floats(rng, (k, d), dtype), floats(rng, (k, d), dtype, extreme)) for k in (n, m))
        if n and m:
            y[rng.random(m) < 0.1] = x[0]
        scales = (np.abs(floats(rng, int(rng.integers(0, 4)), dtype)) + dtype(0.01),) if gaussian else ()
        return *((floats(rng, n, dtype),) if backward else ()), x, y, floats(rng, m, dtype), *scales
    return inputs


def pairwise_bound(backward, gaussian):
    def bound(eps, want, *args):
        g, args = (args[0], args[1:]) if backward else (1.0, args)
        x, y, weights, *scales = args
        apart = x[:, None].astype(float) - y
        r = np.sqrt(np.square(apart).sum(axis=2))
        size = r[:, :, None] if not gaussian else np.exp(-0.5 * (r[:, :, None] / scales[0].astype(float)) ** 2) * (
            1 + (r[:, :, None] / scales[0]) ** 2) / (scales[0].astype(float) ** 2 if backward else 1)
        if backward and not gaussian:
            size = np.where(size > 0, 1 / size, 0)
        size = (80 + x.shape[1]) * eps * np.abs(weights) * size.sum(axis=2)
        return [np.abs(g)[:, None] * (size[:, :, None] * np.abs(apart)).sum(axis=1) if backward else size.sum(axis=1)]
    return bound


def stein_inputs(rng, n, d, dtype):
    x, y, weights = pairwise_inputs(False, False)(rng, n, d, dtype)
    return x, floats(rng, x.shape, dtype), y, floats(rng, y.shape, dtype), weights, float(10 ** rng.uniform(-3, 1))


def stein_bound(eps, want, x, s, y, t, weights, rate):
    apart = np.abs(x[:, None].astype(float) - y)
    square, (s, t) = np.square(apart).sum(axis=2), (np.abs(a).astype(float) for a in (s, t))
    size = s @ t.T + rate * ((s[:, None] + t) * apart).sum(axis=2) + rate * x.shape[1] + rate**2 * square
    k = np.exp(-0.5 * rate * square)
    off, tiny = (80 + x.shape[1]) * eps * (1 + rate * square), np.finfo(x.dtype).tiny
    each = np.where(k > 0, off * k * size, 0) + np.where(k < 1e3 * tiny, tiny * size, 0)
    return [(np.abs(weights) * each).sum(axis=1)]


def nearest_inputs(rng, n, d, dtype):
    return *pairwise_inputs(False, False)(rng, n, d, dtype)[:2], int(rng.integers(1, 9))


def transport_inputs(rng, n, d, dtype):
    n, m = 1 + n % 40, int(rng.integers(1, 300))
    values = (np.sort(floats(rng, (n, k), dtype, [0, 1.5]), axis=1) for k in (d + 1, m))
    weights = (np.abs(floats(rng, (n, k), dtype, [0] if rng.random() < 0.5 else [1])) + (np.arange(k) == 0) for k in (d + 1, m))
    (x, y), (u, v) = values, weights
    return x, u.astype(dtype), y, v.astype(dtype), float(rng.choice([1, 2, 1.5, 3]))


def transport_bound(eps, want, x, u, y, v, order):
    most = np.abs(x.astype(float)[:, [0, 0, -1, -1]] - y[:, [0, -1, 0, -1]]).max(axis=1) ** order
    return [4 * eps * want[0] + (x.shape[1] + y.shape[1]) ** 2 * 2.0**-53 * most]


def rows_inputs(rng, n, d, dtype):
    return floats(rng, (7, d), dtype, [INF, NAN, 0]), rng.integers(0, 7, n)


def adam_inputs(rng, n, d, dtype):
    param, grad, m, v = (floats(rng, n * d, dtype, [0]) for _ in range(4))
    scale = rng.choice([1, 0.01, np.nan, np.inf], p=[0.4, 0.4, 0.1, 0.1])
    return param, grad, m, np.abs(v), np.full(1, scale, dtype), np.array([rng.integers(1, 10000), 1e-3]), 0.9, 0.999, 1e-8


def adam_bound(eps, want, param, grad, m, v, scale, clock, beta1, beta2, floor):
    step, lr = clock
    if not np.isfinite(scale):
        return [0 * param] * 4  # nothing changes
    parts = np.abs(m) + np.abs(scale * grad)
    rate = lr / (1 - beta1**step) / (np.sqrt(want[3] / (1 - beta2**step)) + floor)
    return [8 * eps * (np.abs(param) + rate * parts), 0 * grad, 4 * eps * parts, 4 * eps * want[3]]


def staircase(rng, k, m):
    return Plan(np.sort(rng.integers(0, 9, k))[:, None] <= np.sort(rng.integers(0, 9, m)) if rng.random() < 0.5
                else rng.random((k, m)) < 0.5)


def matmul_inputs(make):
    def inputs(rng, n, k, dtype):
        m = int(rng.integers(1, 150))
        plan = staircase(rng, max(k, 1), m)
        arrays = {"x": (n, max(k, 1)), "g": (n, m), "weight": (max(k, 1), m), "bias": (m,)}
        return *(rng.normal(size=arrays[name]).astype(dtype) for name in make), plan.mask_as(dtype), plan.blocks
    return inputs


def matmul_bound(eps, want, first, *rest):
    return [8 * (10 + sum(first.shape)) * eps]


def outcomes(rng, n, d, dtype):
    return (rng.random((n, d)) if rng.random() < 0.3 else rng.integers(0, 2, (n, d))).astype(dtype)


def sometimes(rng, common, rare):
    """Rows of one array, a tenth of them replaced by rows of the other."""
    return np.where(rng.random((len(common), 1)) < 0.1, rare, common)


def bernoulli_inputs(rng, n, d, dtype):
    extreme = floats(rng, (n, d), dtype, [0, 1e30, -1e30, INF, -INF, NAN][:rng.integers(1, 7)])
    return outcomes(rng, n, d, dtype), sometimes(rng, floats(rng, (n, d), dtype), extreme)


def bernoulli_bound(eps, want, x, logits):
    return [(16 + x.shape[1] / 16) * eps * np.abs(want[0])]  # all terms have one sign


def bernoulli_backward_bound(eps, want, g, x, logits):
    odds = np.exp(-np.abs(logits.astype(float)))
    return [8 * eps * np.abs(g[:, None]) * (np.abs(x - (logits > 0)) + odds)]


def normal_inputs(rng, n, d, dtype):
    mean, raw = (sometimes(rng, floats(rng, (n, d), dtype), floats(rng, (n, d), dtype, extreme[:rng.integers(1, 5)]))
                 for extreme in ([0, 1e9, -1e9, NAN], [0, INF, -INF, NAN]))
    return floats(rng, (n, d), dtype), np.stack([mean, raw], axis=2).reshape(n, 2 * d), float(rng.choice([15, 3]))


def normal_parts(x, outputs, limit):
    mean, raw = np.moveaxis(outputs.astype(float).reshape(*x.shape, 2), 2, 0)
    slope = np.tanh(raw / limit)
    return (x - mean) ** 2 * np.exp(-limit * slope), limit * slope, 1 - slope**2


def normal_bound(eps, want, x, outputs, limit):
    squares, log_var, _ = normal_parts(x, outputs, limit)
    parts = (2 + squares + np.abs(log_var)).sum(axis=1)
    return [(20 + 4 * limit + x.shape[1] / 16) * eps * parts]


def normal_backward_bound(eps, want, g, x, outputs, limit):
    squares, _, slope = normal_parts(x, outputs, limit)
    raw_part = np.abs(g[:, None]) * (1 + squares) * ((20 + 4 * limit) * slope + 8)
    return [eps * np.stack([(20 + 4 * limit) * np.abs(want[0][:, ::2]), raw_part], axis=2).reshape(outputs.shape)]


def standard_normal_inputs(rng, n, d, dtype):
    return (sometimes(rng, floats(rng, (n, d), dtype), floats(rng, (n, d), dtype, [0, 1e18, INF, -INF, NAN])),)


def mixture_inputs(rng, n, d, dtype):
    components = int(rng.integers(1, 5))
    shape, extremes = (n, d * components), ([0, 1e30, -1e30, INF, -INF, NAN], [0, 1e9, -1e9, 1e25, NAN], [0, INF, -INF, NAN])
    parts = [sometimes(rng, floats(rng, shape, dtype), floats(rng, shape, dtype, extreme[:rng.integers(1, len(extreme) + 1)]))
             for extreme in extremes]
    outputs = np.stack([part.reshape(n, d, components) for part in parts], axis=2).reshape(n, 3 * d * components)
    return floats(rng, (n, d), dtype), outputs, components, float(rng.choice([15, 3]))


def mixture_errors(eps, x, outputs, components, limit):
    """How far each component's log-density, and the feature's, may be off; and the parts of the gradients."""
    log_weights, joint, z, std, bounded = mixture_likelihood._parts(x, outputs, components, limit)
    below = log_weights - log_weights.max(axis=2, keepdims=True, initial=-INF)
    error = (20 + 4 * limit + x.shape[1] / 16) * eps * (2 + np.abs(below) + limit * np.abs(bounded) + z * z)
    close = joint + error >= (joint - error).max(axis=2, keepdims=True, initial=-INF)
    of_feature = np.where(close, error, 0).max(axis=2, initial=0)
    return log_weights, joint, z, std, bounded, error, of_feature


def mixture_bound(eps, want, *args):
    return [mixture_errors(eps, *args)[-1].sum(axis=1)]


def mixture_backward_bound(eps, want, g, x, outputs, components, limit):
    log_weights, joint, z, std, bounded, error, of_feature = mixture_errors(eps, x, outputs, components, limit)
    (r, _), rounding = mixture_likelihood._shares(joint), (20 + 4 * limit) * eps
    share = np.minimum(1, r * np.expm1(error + of_feature[:, :, None]))
    share = np.where(np.isnan(share), 1, share)
    weight = (8 - log_weights) * np.exp(log_weights)
    slope = 1 - bounded**2
    allowed = np.stack([share + 8 * eps * (r + weight), np.abs(z / std) * (share + rounding * r),
                        (1 + z * z) * (share * (slope + 8 * eps) + r * (rounding * slope + 8 * eps))], axis=2)
    allowed *= np.abs(g[:, None, None, None])
    of_x = allowed[:, :, 1].sum(axis=2) + 8 * eps * np.abs(want[0].reshape(allowed.shape)[:, :, 1]).sum(axis=2)
    return [allowed.reshape(outputs.shape), of_x]


def categorical_inputs(rng, n, d, dtype):
    counts = rng.integers(0 if rng.random() < 0.2 else 1, 7, d)
    x = np.floor(rng.random((n, d)) * counts)
    x[rng.random((n, d)) < 0.1] = NAN
    x = sometimes(rng, x, np.where(rng.random((n, d)) < 0.1, rng.choice([-1, 0.5, 7, INF, 1e30], size=(n, d)), x))
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    extreme = floats(rng, (n, first[-1]), dtype, [0, 1e30, -1e30, INF, -INF, NAN][:rng.integers(1, 7)])
    return x.astype(dtype), sometimes(rng, floats(rng, (n, first[-1]), dtype), extreme), first


def categorical_errors(eps, x, logits, first):
    """Of every feature: how large its terms are, what its sum of odds loses, that sum; and of every logit its odds' size."""
    clipped, terms, losses, rests = categorical._clipped(logits), *np.zeros((3, *x.shape))
    sizes, tops = np.zeros(logits.shape), np.zeros(x.shape)
    for d, (low, high) in enumerate(zip(first, first[1:], strict=False)):
        if low < high:
            odds, rests[:, d], top, level, missing, of_level = categorical._feature(x[:, d], clipped[:, low:high])
            below = clipped[:, low:high] - clipped[:, low:high].max(axis=1, keepdims=True)
            sizes[:, low:high] = (1 - below) * np.exp(below)
            losses[:, d] = np.where(odds > 0, sizes[:, low:high], 0).sum(axis=1)
            terms[:, d], tops[:, d] = np.where(missing, 0, np.abs(of_level) + losses[:, d]), level == top
    return terms, losses, rests, sizes, tops, (16 + x.shape[1] / 16 + max(np.diff(first), default=0)) * eps


def categorical_bound(eps, want, *args):
    terms, *_, eps = categorical_errors(eps, *args)
    return [eps * terms.sum(axis=1)]


def categorical_backward_bound(eps, want, g, x, logits, first):
    _, losses, rests, sizes, tops, eps = categorical_errors(eps, x, logits, first)
    counts = np.diff(first)
    loss, rest, top = (np.repeat(a, counts, axis=1) for a in (losses, rests, tops))
    chosen = np.repeat(x, counts, axis=1) == np.arange(first[-1]) - np.repeat(first[:-1], counts)
    size = np.where(chosen, np.where(top == 1, loss, 1 + loss), sizes * (1 + loss))
    return [eps * np.abs(g[:, None]) * size / (1 + rest)]


def spline_inputs(rng, n, d, dtype):
    """Raw parameters that saturate, and values at knots, at the ends of the box and beside them."""
    n = min(n, 1 + 2000 // max(d, 1))  # the bounds look at many values near each
    bins, box = int(rng.integers(1, 10)), float(rng.choice([5, 1.5]))
    raw = sometimes(rng, floats(rng, (n, d * (3 * bins - 1)), dtype).clip(-9, 9),
                    floats(rng, (n, d * (3 * bins - 1)), dtype, [0, 50, -50, 1e4, -1e4])).astype(dtype)
    ends = dtype(box) * np.array([1, -1], dtype)
    ends = np.concatenate([ends, np.nextafter(ends, dtype(0)), np.nextafter(ends, 2 * ends)])
    x = rng.uniform(-1.1 * box, 1.1 * box, (n, d))
    x = np.where(rng.random((n, d)) < 0.2, rng.choice([*ends, 0, INF, -INF, NAN], (n, d)), x)
    if rng.random() < 0.3:
        knots = np.where(rng.random((n, d)) < 0.5, spline._Bins(x, raw, bins, box, False).X, x)
        x = np.where(rng.random((n, d)) < 0.3, knots, x)
    return x.astype(dtype), raw, bins, box


def spline_backward_inputs(rng, n, d, dtype):
    x, *rest = spline_inputs(rng, n, d, dtype)
    return floats(rng, x.shape, dtype), floats(rng, len(x), dtype), x, *rest, True, True


def nearby(v, params, bins, box, of_z, eps):
    """Values that differ from v by what the roundings of the knots are worth; both sides of a knot among them."""
    bin, reach = spline._Bins(v, params, bins, box, of_z), 8 * (bins + 4) * eps * box
    first, size = (bin.Y, bin.h) if of_z else (bin.X, bin.w)
    near = [v + share * reach for share in (-1, -0.5, -0.1, 0, 0.1, 0.5, 1)]
    near += [v + np.clip(knot + side - v, -reach, reach) for knot in (first, first + size)
             for side in (0, -reach / 2, -reach / 20, -4e-15, 4e-15, reach / 20, reach / 2)]
    return [np.where(bin.inside, a, v).clip(-box, box) for a in near]


def by_value(v, params, bins):
    """The values as rows of one feature, 0 for those that are not finite, and their parameters, in float64."""
    return np.where(np.isfinite(v), v, 0).astype(float).reshape(-1, 1), params.astype(float).reshape(v.size, 3 * bins - 1)


def span(answers):
    return np.max(answers, axis=0) - np.min(answers, axis=0)


def spline_bound(reference, of_z):
    def bound(eps, want, v, params, bins, box):
        n, d = v.shape
        each, raw = by_value(v, params, bins)
        answers = [reference(a, raw, bins, box) for a in nearby(each, raw, bins, box, of_z, eps)]
        ans, log = (span([a[i].reshape(n, d) for a in answers]) for i in (0, 1))
        sizes = np.max([np.abs(a[1].reshape(n, d)) for a in answers], axis=0)
        return [ans + 16 * eps * box, (log + (64 + d / 16) * eps * (1 + sizes)).sum(axis=1)]
    return bound


def spline_terms(dout, dlog_det, x, params, bins, box, of_inverse):
    """The sizes of the terms of the gradients: by the value (N, D), and by the value's parameters (N, D, 3 K - 1)."""
    bin = spline._Bins(x, params, bins, box, False)
    t, s, w, h, d0, d1 = np.clip((bin.v - bin.X) / bin.w, 0, 1), bin.s, bin.w, bin.h, bin.d0, bin.d1
    u, (den, q) = 1 - t, bin.at(t, 1 - t)
    slope, bend = (s / den) ** 2 * q, 2 * ((d1 * t + d0 * u + s) / q + (d0 + d1 + 2 * s) / den) / w
    dv, dlog = np.abs(dout).astype(float), np.abs(dlog_det)[:, None].astype(float)
    dv = (dlog * bend + dv) / slope if of_inverse else dv
    along = dv * slope + dlog * bend
    ds = dv * h * t * u * (d1 * t * t + d0 * u * u) / den**2 + dlog * 2 * t * u * (1 / q + (d0 + d1) / (s * den))
    of_derivatives = dv * h * t * u / den + dlog * (u * u / q + t * t / q + 4 * t * u / den)
    parts = [2 * box * (along + ds * s / w), 2 * box * (dv + ds / w)]
    parts = [a[..., None] * (p + 1e-18) for a, p in zip(parts, bin.shares, strict=True)]  # kernels have no p below e^-79
    return (dv if of_inverse else along), np.concatenate([*parts, of_derivatives[..., None] * bin.steepness], axis=-1)


def spline_backward_bound(reference, of_inverse):
    def bound(eps, want, dout, dlog_det, x, params, bins, box, *wants):
        n, d = x.shape
        each, raw = by_value(x, params, bins)
        args = dout.astype(float).reshape(-1, 1), np.repeat(dlog_det.astype(float), d)
        near = nearby(each, raw, bins, box, False, eps)
        answers = [reference(*args, a, raw, bins, box, True, True) for a in near]
        terms = [spline_terms(*args, a, raw, bins, box, of_inverse) for a in near]
        spans, sizes = map(span, zip(*answers, strict=True)), (np.max(of, axis=0) for of in zip(*terms, strict=True))
        return [2 * a.reshape(v.shape) + 64 * eps * size.reshape(v.shape)
                for a, size, v in zip(spans, sizes, (x, params), strict=True)]
    return bound


def with_cotangent(inputs):
    def both(rng, n, d, dtype):
        return floats(rng, n, dtype), *inputs(rng, n, d, dtype)
    return both


def silu_inputs(rng, n, d, dtype):
    return (floats(rng, n * d, dtype, [0, 1e30, -1e30, 700, -700]),)


def silu_bound(eps, want, x):
    return [np.where(overflows(x), 1, 4 * eps) * np.abs(want[0])]


def overflows(x):
    """Whether exp(-x) is more than the dtype holds, or close to it."""
    return -x > np.log(np.finfo(x.dtype).max) - 1


def silu_backward_bound(eps, want, g, x):
    return [np.where(overflows(x), 1, 6 * eps) * np.abs(g) * silu.sigmoid(x) * (1 + np.abs(x))]


CASES = {
    likelihood.bernoulli_forward: (bernoulli_inputs, bernoulli_bound),
    likelihood.bernoulli_backward: (with_cotangent(bernoulli_inputs), bernoulli_backward_bound),
    likelihood.normal_forward: (normal_inputs, normal_bound),
    likelihood.normal_backward: (with_cotangent(normal_inputs), normal_backward_bound),
    likelihood.standard_normal_forward: (standard_normal_inputs,
                                         lambda eps, want, z: [(16 + z.shape[1] / 16) * eps * np.abs(want[0])]),
    likelihood.standard_normal_backward: (with_cotangent(standard_normal_inputs), lambda eps, want, g, z: [0.0]),
    likelihood.kl_forward: (kl_inputs, kl_bound),
    likelihood.kl_backward: (with_cotangent(kl_inputs), kl_backward_bound),
    mixture_likelihood.forward: (mixture_inputs, mixture_bound),
    mixture_likelihood.backward: (with_cotangent(mixture_inputs), mixture_backward_bound),
    categorical.forward: (categorical_inputs, categorical_bound),
    categorical.backward: (with_cotangent(categorical_inputs), categorical_backward_bound),
    logsumexp.forward: (logsumexp_inputs, logsumexp_bound),
    logsumexp.backward: (logsumexp_backward_inputs, logsumexp_backward_bound),
    logsumexp.backward_weights: (logsumexp_backward_inputs, logsumexp_backward_bound),
    spline.to_noise: (spline_inputs, spline_bound(spline.to_noise.reference, False)),
    spline.to_data: (spline_inputs, spline_bound(spline.to_data.reference, True)),
    spline.to_noise_backward: (spline_backward_inputs, spline_backward_bound(spline.to_noise_backward.reference, False)),
    spline.to_data_backward: (spline_backward_inputs, spline_backward_bound(spline.to_data_backward.reference, True)),
    reparameterize.forward: (reparameterize_inputs, reparameterize_bound),
    reparameterize.backward: (reparameterize_inputs, reparameterize_bound),
    reparameterize.posterior_forward: (posterior_inputs, posterior_bound),
    reparameterize.posterior_backward: (posterior_backward_inputs, posterior_backward_bound),
    random.uniform: (random_inputs, lambda eps, want, *args: [0.0]),
    random.normal: (random_inputs, lambda eps, want, *args: [4 * np.spacing(np.abs(want[0]))]),
    silu.forward: (silu_inputs, silu_bound),
    silu.backward: (lambda rng, n, d, dtype: (floats(rng, n * d, dtype), *silu_inputs(rng, n, d, dtype)), silu_backward_bound),
    adam.step: (adam_inputs, adam_bound),
    norm.squared: (squared_inputs, lambda eps, want, x: [1e-14 * want[0]]),
    pairwise.distance: (pairwise_inputs(False, False), pairwise_bound(False, False)),
    pairwise.distance_backward: (pairwise_inputs(True, False), pairwise_bound(True, False)),
    pairwise.gaussian: (pairwise_inputs(False, True), pairwise_bound(False, True)),
    pairwise.gaussian_backward: (pairwise_inputs(True, True), pairwise_bound(True, True)),
    pairwise.stein: (stein_inputs, stein_bound),
    pairwise.nearest: (nearest_inputs, lambda eps, want, x, y, k: [(80 + x.shape[1]) * eps * np.nan_to_num(want[0], posinf=0)]),
    transport.cost: (transport_inputs, transport_bound),
    gather.rows: (rows_inputs, lambda eps, want, x, index: [0.0]),
    masked_matmul.forward: (matmul_inputs(["x", "weight", "bias"]), matmul_bound),
    masked_matmul.backward_x: (matmul_inputs(["g", "weight"]), matmul_bound),
    masked_matmul.backward_weight: (matmul_inputs(["x", "g"]), matmul_bound),
}
JUDGED_ELSEWHERE = {"em.log_prob", "em.posterior", "em.statistics",  # in test_em_kernels
                    "gibbs.chain", "gibbs.contrast", "gibbs.centred", "gray.log_weights",  # in test_rbm
                    "langevin.chain",  # in test_energy
                    "made_sample.sample",  # against the naive sampler; the others in test_network_kernels
                    "mlp.forward", "mlp.backward", "mlp_slope.forward", "mlp_slope.backward",
                    "flow.inverse", "flow.forward", "flow.backward",
                    "trajectory.solve"}  # in test_trajectory
KERNELS = pytest.mark.parametrize("kernel", CASES, ids=lambda kernel: kernel.name)


def results(kernel, backend, args):
    """What a launch returns, and for the kernel that works in place all its arrays."""
    args = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    with kernels.using(backend):
        ans = kernel(*args)
    return args[:4] if kernel is adam.step else ans if isinstance(ans, tuple) else [ans]


# --- laws ------------------------------------------------------------------------------------------------------------

def test_every_kernel_has_a_case():
    modules = [m for m in map(vars(kernels).get, kernels.__all__) if dir(m)]  # which executes them
    found = {k.name for module in modules for k in vars(module).values() if isinstance(k, kernels.Kernel)}
    assert found == {k.name for k in CASES} | JUDGED_ELSEWHERE


@pytest.mark.long(but={"dtype": [np.float32]})
@KERNELS
@DTYPES
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 150), d=st.integers(0, 70))
def test_agrees_with_the_reference(kernel, dtype, seed, n, d):
    inputs, bound = CASES[kernel]
    args = inputs(np.random.default_rng(seed), n, d, dtype)
    want = results(kernel, "reference", args)
    with np.errstate(all="ignore"):
        bounds = bound(np.finfo(dtype).eps, want, *args)
        for got, expected, allowed in zip(results(kernel, "numba", args), want, bounds, strict=True):
            assert got.dtype == expected.dtype == (np.float64 if kernel is norm.squared else dtype)
            assert got.shape == expected.shape
            close = np.abs(got.astype(float) - expected) <= allowed + np.finfo(dtype).tiny
            assert (close | (got == expected) | (np.isnan(got) & np.isnan(expected))).all()


@KERNELS
@DTYPES
@pytest.mark.parametrize("shape", [(1, 5000), (3000, 3), (300, 257)], ids=str)
def test_same_bits_for_any_thread_count(kernel, dtype, shape):
    args = CASES[kernel][0](np.random.default_rng(0), *shape, dtype)
    before = numba.get_num_threads()
    try:
        answers = []
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            answers.append(b"".join(a.tobytes() for a in results(kernel, "numba", args)))
    finally:
        numba.set_num_threads(before)
    assert len(set(answers)) == 1


@pytest.mark.parametrize("width", [4, 4000])  # of large arrays, which begin at a line of the cache
def test_memory_is_handed_out_again_only_when_nobody_has_it(width):
    with _dispatch.recycling():
        first, second = (_dispatch.empty((10, width), np.float64) for _ in range(2))
        assert width < 4000 or first.ctypes.data % 64 == second.ctypes.data % 64 == 0
        view = second[2:4]
        at = first.ctypes.data
        del first, second
        third, fourth = (_dispatch.empty((10, width), np.float64) for _ in range(2))
        assert third.ctypes.data == at
        assert not np.shares_memory(third, fourth) and not np.shares_memory(view, fourth)


@given(sizes=st.lists(st.integers(1, 40), min_size=30, max_size=60))
@settings(max_examples=20)
def test_memory_held_for_nobody_is_bounded(sizes):
    """Arrays of ever other sizes: for nobody no more is held than the bound, or than has been in use at once."""
    unit, in_use, most = _dispatch.SPARE // 20, [], 0
    with _dispatch.recycling():
        for size in sizes:
            before, in_use = in_use, [_dispatch.empty((size, unit // 8), np.float64), _dispatch.empty((size, unit), np.uint8)]
            most = max(most, sum(a.nbytes for a in before + in_use))
            held = [a for alike in _dispatch._pool.arrays.values() for a in alike]
            assert sum(a.nbytes for a in held) <= 2 * max(most, _dispatch.SPARE)
            assert sum(a.nbytes + _dispatch.OVERHEAD for a in held) == _dispatch._pool.held
            del held, before


def test_a_step_of_any_size_finds_its_memory_again():
    """Phases that use and let go of much more than the bound take no new memory when they come again."""
    def step():
        places = []
        for phase in range(4):
            large = [_dispatch.empty((k + 1, _dispatch.SPARE), np.uint8) for k in range(4)]
            places += [a.ctypes.data for a in large if phase in (0, 3)]
            later = [_dispatch.empty((5 + phase, _dispatch.SPARE), np.uint8)]
            places += [a.ctypes.data for a in later]
            del large, later
        return places

    with _dispatch.recycling():
        step()
        assert step() == step()


@BACKENDS
def test_adam_only_reads_the_gradient_and_returns_param(backend):
    param, grad, m, v, *scalars = adam_inputs(np.random.default_rng(0), 5, 7, np.float32)
    before = grad.copy()
    with kernels.using(backend):
        assert adam.step(param, grad, m, v, *scalars) is param or backend == "numba"
    np.testing.assert_array_equal(grad, before)


@BACKENDS
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_adam_refuses_a_step_whose_scale_is_not_finite(backend, scale):
    param, grad, m, v, _, *scalars = adam_inputs(np.random.default_rng(0), 5, 7, np.float32)
    before = [a.copy() for a in (param, m, v)]
    with kernels.using(backend):
        adam.step(param, grad, m, v, np.full(1, scale, np.float32), *scalars)
    assert [a.tobytes() for a in (param, m, v)] == [a.tobytes() for a in before]


def test_a_number_among_the_dims_is_the_length():
    param, grad, m, v, _, *scalars = adam_inputs(np.random.default_rng(0), 5, 7, np.float32)
    with pytest.raises(kernels.KernelError, match=r"clip_scale has shape \(2,\), expected \(1\)"):
        adam.step(param, grad, m, v, np.ones(2, np.float32), *scalars)


# --- derivatives -----------------------------------------------------------------------------------------------------

def slope(f, x, direction, h=1e-6):
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


@BACKENDS
def test_logsumexp_gradients_are_its_derivatives(backend):
    rng = np.random.default_rng(0)
    x, weights, g, dx, dw = rng.normal(size=(6, 5)), rng.random((6, 5)), *rng.normal(size=(3, 6, 5))
    g = g[:, 0].copy()
    with kernels.using(backend):
        ans = logsumexp.forward(x, weights)
        for got, want in (
                (logsumexp.backward(g, ans, x, weights) * dx, slope(lambda x: logsumexp.forward(x, weights), x, dx)),
                (logsumexp.backward_weights(g, ans, x, weights) * dw,
                 slope(lambda w: logsumexp.forward(x, w), weights, dw))):
            np.testing.assert_allclose(got.sum(axis=1), g * want, rtol=1e-7, atol=1e-8)


@DTYPES
def test_many_rows_are_gathered_as_few_are(dtype):
    x, index = np.random.default_rng(0).normal(size=(300, 257)).astype(dtype), np.random.default_rng(1).integers(0, 300, 131)
    assert len(index) * x.shape[1] > gather.ALONE
    np.testing.assert_array_equal(gather.rows(x, index), x[index])


@BACKENDS
def test_reparameterize_backward_is_the_derivative_with_the_same_noise(backend):
    mean, log_var, g, direction = np.random.default_rng(0).normal(size=(4, 30, 7))
    with kernels.using(backend):
        got = reparameterize.backward(g, log_var, *KEY, 99)
        want = g * slope(lambda lv: reparameterize.forward(mean, lv, *KEY, 99), log_var, direction)
    np.testing.assert_allclose(got * direction, want, rtol=1e-6, atol=1e-8)


@BACKENDS
@DTYPES
def test_reparameterize_noise_is_the_stream(backend, dtype):
    zeros = np.zeros((30, 40), dtype)
    with kernels.using(backend):
        np.testing.assert_array_equal(reparameterize.forward(zeros, zeros, *KEY, 777).ravel(),
                                      random.normal(np.empty(1200, dtype), *KEY, 777))


@DTYPES
@pytest.mark.parametrize("kernel", [reparameterize.forward, reparameterize.backward], ids=["forward", "backward"])
def test_reparameterize_entries_have_the_same_bits_beside_one_of_a_large_log_variance(kernel, dtype):
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=(2, 30, 40)).astype(dtype)
    log_var[:9] *= 50
    want, others = kernel(mean, log_var, *KEY, 5), np.ones((30, 40), bool)
    for large in (161, -500, np.nan):
        log_var[20, 3], others[20, 3] = large, False
        np.testing.assert_array_equal(kernel(mean, log_var, *KEY, 5)[others], want[others])


@BACKENDS
def test_likelihood_gradients_are_the_derivatives(backend):
    rng = np.random.default_rng(0)
    g, x, logits = rng.normal(size=6), rng.random((6, 5)), 3 * rng.normal(size=(6, 5))
    outputs, direction = rng.normal(size=(2, 6, 10))
    with kernels.using(backend):
        for gradient, f, at in (
                (likelihood.bernoulli_backward(g, x, logits), lambda v: likelihood.bernoulli_forward(x, v), logits),
                (likelihood.normal_backward(g, x, outputs, 2), lambda v: likelihood.normal_forward(x, v, 2), outputs),
                (likelihood.standard_normal_backward(g, logits), likelihood.standard_normal_forward, logits),
                (likelihood.kl_backward(g, logits, x)[0], lambda v: likelihood.kl_forward(v, x), logits),
                (likelihood.kl_backward(g, logits, x)[1], lambda v: likelihood.kl_forward(logits, v), x)):
            along = direction[:, :at.shape[1]].copy()
            np.testing.assert_allclose((gradient * along).sum(axis=1), g * slope(f, at, along), rtol=1e-7, atol=1e-8)


# --- the values of the likelihoods -----------------------------------------------------------------------------------

@BACKENDS
@DTYPES
@pytest.mark.parametrize("d", [1, 64, 65, 784, 20000])
def test_likelihoods_are_the_densities(backend, dtype, d):
    rng = np.random.default_rng(d)
    x, logits, outputs = rng.integers(0, 2, (7, d)), 5 * rng.normal(size=(7, d)), rng.normal(size=(7, 2 * d))
    z, mean, log_var = rng.normal(size=(7, d)), outputs[:, ::2], 15 * np.tanh(outputs[:, 1::2] / 15)
    with kernels.using(backend):
        got = (likelihood.bernoulli_forward(x.astype(dtype), logits.astype(dtype)),
               likelihood.normal_forward(z.astype(dtype), outputs.astype(dtype), 15.0),
               likelihood.standard_normal_forward(z.astype(dtype)))
    want = (-np.logaddexp(0, np.where(x, -logits, logits)), stats.norm.logpdf(z, mean, np.exp(log_var / 2)),
            stats.norm.logpdf(z))
    for one, many in zip(got, want, strict=True):
        np.testing.assert_allclose(one, many.sum(axis=1), rtol=16 * np.finfo(dtype).eps)


SURE = {  # x, logit -> log-likelihood, gradient
    "right": (1, 20, -np.log1p(np.exp(-20)), np.exp(-20) / (1 + np.exp(-20))),
    "right, of 0": (0, -20, -np.log1p(np.exp(-20)), -np.exp(-20) / (1 + np.exp(-20))),
    "wrong": (0, 80, -80, -1), "wrong, of 1": (1, -80, -80, 1),
    "huge": (1, 1e30, 0, 0), "huge and wrong": (0, 1e30, -1e30, -1),
    "certain": (1, INF, 0, 0), "certain, of 0": (0, -INF, 0, 0),
    "certain and wrong": (0, INF, -INF, -1), "certain and wrong, of 1": (1, -INF, -INF, 1),
    "certain of a half": (0.5, INF, -INF, -0.5),
    "NaN": (1, NAN, NAN, NAN), "NaN in x": (NAN, 1, NAN, NAN),
}


@BACKENDS
@DTYPES
@pytest.mark.parametrize("case", SURE)
@pytest.mark.parametrize("d", [1, 9000])
def test_bernoulli_of_a_sure_logit(backend, dtype, case, d):
    x, logit, value, gradient = SURE[case]
    xs, logits, g = np.full((2, d), x, dtype), np.full((2, d), logit, dtype), np.ones(2, dtype)
    xs[0], logits[0] = 0, 0
    with kernels.using(backend):
        values, gradients = likelihood.bernoulli_forward(xs, logits), likelihood.bernoulli_backward(g, xs, logits)
    np.testing.assert_allclose(values, [-d * np.log(2), d * value], rtol=1e-5)
    np.testing.assert_allclose(gradients, [[-0.5] * d, [gradient] * d], rtol=1e-6)


# --- the edges of logsumexp ------------------------------------------------------------------------------------------

EDGES = {  # x, weights -> value, gradient of x, gradient of weights
    "all -inf": ([-INF, -INF], [1, 1], -INF, [0, 0], [0, 0]),
    "some -inf": ([-INF, 0], [1, 1], 0, [0, 1], [0, 1]),
    "one +inf": ([0, INF], [1, 1], INF, [0, 1], [0, 1]),
    "two +inf": ([INF, INF, 5], [1, 1, 1], INF, [0.5, 0.5, 0], [0.5, 0.5, 0]),
    "two +inf, weighted": ([INF, INF], [1, 3], INF, [0.25, 0.75], [0.25, 0.25]),
    "both infinities": ([INF, -INF], [1, 1], INF, [1, 0], [1, 0]),
    "empty axis": ([], [], -INF, [], []),
    "one entry": ([-1e4], [1], -1e4, [1], [1]),
    "zero weights": ([1, 2], [0, 0], -INF, [0, 0], [0, 0]),
    "zero weight drops": ([0, 3], [1, 0], 0, [1, 0], [1, np.exp(3)]),
    "zero weight drops +inf": ([0, INF], [1, 0], 0, [1, 0], [1, INF]),
    "zero weight drops NaN": ([0, NAN], [1, 0], 0, [1, 0], [1, NAN]),
    "NaN": ([0, NAN], [1, 1], NAN, [NAN, NAN], [NAN, NAN]),
    "NaN beside +inf": ([INF, NAN], [1, 1], NAN, [NAN, NAN], [NAN, NAN]),
    "negative weight": ([0, 0], [2, -1], NAN, [NAN, NAN], [NAN, NAN]),
    "huge": ([1e38, 1e38], [1, 1], 1e38, [1, 1], [1, 1]),  # 1e38 + log 2 is 1e38
}


@BACKENDS
@DTYPES
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("sign_of_nan", [1, -1], ids=["nan", "-nan"])
def test_logsumexp_is_defined_everywhere(backend, dtype, edge, sign_of_nan):
    x, weights, value, grad_x, grad_weights = (np.array(v, dtype) for v in EDGES[edge])
    rows = np.stack([0 * np.ones_like(x), np.where(np.isnan(x), np.copysign(NAN, sign_of_nan), x).astype(dtype)])
    both = np.stack([np.ones_like(weights), weights])
    with kernels.using(backend):
        ans = logsumexp.forward(rows, both)
        g = np.ones(2, dtype)
        grads = logsumexp.backward(g, ans, rows, both), logsumexp.backward_weights(g, ans, rows, both)
    np.testing.assert_allclose(ans[1], value, rtol=1e-6)
    np.testing.assert_allclose(grads[0][1], grad_x, rtol=1e-6)
    np.testing.assert_allclose(grads[1][1], grad_weights, rtol=1e-6)
    np.testing.assert_allclose(ans[0], np.log(len(x)) if len(x) else -INF, rtol=1e-6)  # the row beside is untouched
    np.testing.assert_allclose(grads[0][0], np.full(len(x), 1 / max(1, len(x))), rtol=1e-6)


@DTYPES
@pytest.mark.parametrize("d", [1, 3, 32, 5000])
def test_logsumexp_of_a_row_does_not_depend_on_its_neighbours(dtype, d):
    """Bit for bit, whether the row is one of few or of many, the others near 0, far away or not finite."""
    rng = np.random.default_rng(0)
    rows, far = rng.normal(size=(2, 100_000 // d, d))
    x = np.concatenate([rows, np.where(rng.random(far.shape) < 0.1, -INF, 1000 * far), rows]).astype(dtype)
    for weights in np.ones((1, d), dtype), rng.uniform(0, 2, (1, d)).astype(dtype):
        ans = logsumexp.forward(x, weights)
        np.testing.assert_array_equal(ans[:len(rows)], ans[-len(rows):])
        few = slice(len(rows) - 2, len(rows) + 2)
        np.testing.assert_array_equal(ans[few], logsumexp.forward(x[few], weights))


@DTYPES
@pytest.mark.parametrize("d", [3, 16, 40])
@pytest.mark.parametrize("n", [1, 9])
def test_logsumexp_of_rows_with_the_same_weights_is_defined_everywhere(dtype, d, n):
    """Whether a row is one of eight that are taken together or not, and wherever in it an odd value is."""
    rng = np.random.default_rng(0)
    for weights in np.ones((1, d), dtype), rng.uniform(0.5, 2, (1, d)).astype(dtype):
        for odd in (NAN, -NAN, INF, -INF, 1e30, -1e30, -70, -90):
            for where in range(d):
                x = rng.normal(size=(n, d)).astype(dtype)
                x[n // 2, where] = odd
                np.testing.assert_allclose(logsumexp.forward(x, weights), logsumexp.forward.reference(x, weights), rtol=1e-5,
                                           atol=1e-6)
            x[n // 2] = odd
            np.testing.assert_allclose(logsumexp.forward(x, weights), logsumexp.forward.reference(x, weights), rtol=1e-5,
                                       atol=1e-6)


# --- elementwise functions -------------------------------------------------------------------------------------------

def looped(function):
    """A jitted loop that applies a function from one array to another."""
    function = numba.njit(function)

    @numba.njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])
    return loop


def applied(f, x):
    out = np.empty_like(x)
    f(x, out)
    return out


def spread(dtype, low, high):
    """Values from low to high, around 0 and 1, of every order of magnitude, and the ends."""
    rng = np.random.default_rng(0)
    magnitudes = np.exp(rng.uniform(np.log(np.finfo(dtype).smallest_subnormal), np.log(np.finfo(dtype).max), 2000))
    x = [rng.uniform(low, high, 2000), rng.uniform(-1, 1, 2000), 1 + rng.normal(size=500) / 99, [low, high],
         magnitudes * rng.choice([-1, 1], 2000)]
    x = np.concatenate(x).astype(dtype)
    return x[(low <= x) & (x <= high)]


SINGLE, DOUBLE = np.finfo(np.float32), np.finfo(np.float64)
ELEMENTWISE = {  # a jitted loop, the exact function, the accuracy in ulp, the range in float32 and in float64
    "exp": (looped(lambda x: _math.exp(x)), mpmath.exp, 1.5, (-104, 88.7), (-745, 709.7)),
    "exp_small": (looped(lambda x: _math.exp_small(x)), mpmath.exp, 1.5, (-80, 80), (-80, 80)),
    "exp_fused": (looped(lambda x: _math.exp_fused(x)), mpmath.exp, 1.5, (-104, 88.7), (-745, 709.7)),
    "exp_small_fused": (looped(lambda x: _math.exp_small_fused(x)), mpmath.exp, 1.5, (-80, 80), (-80, 80)),
    "log": (looped(lambda x: _math.log(x)), mpmath.log, 1,
            (SINGLE.smallest_subnormal, SINGLE.max), (DOUBLE.smallest_subnormal, DOUBLE.max)),
    "log1p": (looped(lambda x: _math.log1p(x)), mpmath.log1p, 1,
              (SINGLE.epsneg - 1, SINGLE.max), (DOUBLE.epsneg - 1, DOUBLE.max)),
    "tanh": (looped(lambda x: _math.tanh(x)), mpmath.tanh, 1.5, (-11, 11), (-22, 22)),
    "tanh_fused": (looped(lambda x: _math.tanh_fused(x)), mpmath.tanh, 1.5, (-11, 11), (-22, 22)),
    "cos": (looped(lambda x: _math.turn(x)[0]), lambda u: mpmath.cospi(2 * u), 2.5, (-1, 1), (-1, 1)),
    "sin": (looped(lambda x: _math.turn(x)[1]), lambda u: mpmath.sinpi(2 * u), 2.5, (-1, 1), (-1, 1)),
}


@pytest.mark.long(but={"dtype": [np.float32]})
@DTYPES
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_accuracy_in_ulp(name, dtype):
    f, exact, ulp, *ranges = ELEMENTWISE[name]
    x = spread(dtype, *ranges[dtype is np.float64])
    with mpmath.workprec(120):
        for got, value in zip(applied(f, x), x, strict=True):
            want = exact(mpmath.mpf(float(value)))
            assert abs(float(got) - want) <= ulp * float(np.spacing(dtype(abs(float(want))))), value


@pytest.mark.long(but={"dtype": [np.float32]})
@DTYPES
@pytest.mark.parametrize("name, x, want", [
    *((name, x, want) for name in ("exp", "exp_fused") for x, want in (
        ([0, -0.0, INF, -INF, 1e30, -1e30], [1, 1, INF, 0, INF, 0]), ([NAN, -NAN], [NAN, NAN]))),
    ("log", [1, 0, -0.0, INF], [0, -INF, -INF, INF]), ("log", [NAN, -NAN, -1, -INF], [NAN] * 4),
    ("log1p", [0, -0.0, -1, INF], [0, -0.0, -INF, INF]), ("log1p", [NAN, -NAN, -1.001, -INF], [NAN] * 4),
    *((name, x, want) for name in ("tanh", "tanh_fused") for x, want in (
        ([0, -0.0, INF, -INF, 1e30, -1e30], [0, -0.0, 1, -1, 1, -1]), ([NAN, -NAN], [NAN, NAN]))),
    ("cos", [0, 0.25, 0.5, 0.75, 1], [1, 0, -1, 0, 1]), ("sin", [0, 0.25, 0.5, 0.75, 1], [0, 1, 0, -1, 0])])
def test_elementwise_edges(name, x, want, dtype):
    got, want = applied(ELEMENTWISE[name][0], np.array(x, dtype)), np.array(want, dtype)
    np.testing.assert_array_equal(got, want)
    if name in ("log1p", "tanh", "tanh_fused"):
        np.testing.assert_array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))


@DTYPES
def test_order_is_the_order_of_the_numbers(dtype):
    x = np.sort(np.append(spread(dtype, -100, 100), [INF, -INF]).astype(dtype))
    order = numba.njit(lambda v: _math.order(v))
    codes = [order(v) for v in x]
    assert codes == sorted(codes)
    np.testing.assert_array_equal(applied(looped(lambda v: _math.from_order(_math.order(v))), x), x)


# --- launch checks ---------------------------------------------------------------------------------------------------

F = np.zeros((4, 3), np.float32)
BAD_LAUNCHES = {
    "number of arguments": ((F,), r"takes 2 arguments .*got 1"),
    "not an array": (([[0.0]], F), r"x must be an array, got list"),
    "integers": ((F.astype(int), F), r"x has dtype int64, expected float32 or float64"),
    "half": ((F.astype(np.float16), F), r"x has dtype float16, expected float32 or float64"),
    "mixed dtypes": ((F, F.astype(float)), r"weights has dtype float64, expected float32"),
    "mismatched dim": ((F, F[:, :2].copy()), r"weights has shape \(4, 2\), expected \(N\|1=4\|1, D=3\)"),
    "one of several": ((F, F[:2].copy()), r"weights has shape \(2, 3\), expected \(N\|1=4\|1, D=3\)"),
    "number of dims": ((F[0], F), r"x has shape \(3,\), expected \(N, D\)"),
    "Fortran order": ((np.asfortranarray(F), F), r"x must be C-contiguous; pass np.ascontiguousarray\(x\)"),
    "a view with strides": ((F[::2], F), r"x must be C-contiguous"),
}


@BACKENDS
@pytest.mark.parametrize("launch", BAD_LAUNCHES)
def test_a_wrong_launch_is_refused(backend, launch):
    args, message = BAD_LAUNCHES[launch]
    with kernels.using(backend), pytest.raises(kernels.KernelError, match="kernel logsumexp.forward: " + message):
        logsumexp.forward(*args)


def whole_launches(dtype):
    """(kernel, arguments) of every kernel, no two of its sizes the same."""
    rng = np.random.default_rng(0)
    yield from ((kernel, inputs(rng, 6, 5, dtype)) for kernel, (inputs, _) in CASES.items())
    yield from launches_of_networks(dtype)


def launches_of_networks(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4)).astype(dtype)
    *_, w = em_launch = rng.normal(size=6), np.zeros(4), np.ones(4), np.zeros(3), np.zeros((3, 4)), np.ones((3, 4, 4))
    for factor in w, w[:1], w[:, :1].copy(), w[:1, :1].copy():
        parameters = (*em_launch[1:-1], factor)
        yield from ((em.log_prob, (x, *parameters)), (em.posterior, (x, *parameters)),
                    (em.statistics, (x, em_launch[0], *parameters)))
    layout = Layout((4, 9, 8, 7))
    params, rest = np.zeros(layout.size, dtype), (*layout.cut, np.zeros(0, dtype))
    yield mlp.forward, (x, params, *rest)
    y, hidden = mlp.forward.reference(x, params, *rest)
    yield mlp.backward, (y, x, hidden, params, *rest, True, True)
    _, delta = mlp_slope.forward.reference(y, hidden, params, *rest)
    yield from ((mlp_slope.forward, (y, hidden, params, *rest)),
                (mlp_slope.backward, (x, y[:, 0].copy(), x, y, hidden, delta, params, *rest, True)))
    chain = FlowLayout([np.arange(4)] * 3, [Layout((3, 9, 8, 2)), Layout((1, 9, 8, 6)), Layout((2, 9, 8, 4))])
    flows = (np.zeros(chain.size, dtype), *chain.cut, 3.0)
    yield from ((flow.inverse, (x, *flows, True)), (flow.forward, (x, *flows)))
    z, log_det, _, *kept = flow.inverse.reference(x, *flows, True)
    yield flow.backward, (z, log_det, *(a.astype(dtype) for a in kept), *flows, True)
    first, one_hot = np.array([0, 1, 3, 6, 12]), np.array([0, 1, 2, 5, 6])  # a dimension of each head
    made = Layout((8, 9, 7, 12))
    for own in 1, 6:
        yield gibbs.chain, (x[:4].copy(), *np.zeros((3, own, 4), dtype), np.ones(3, dtype), x[:, :4].copy(), 0, 1, 2, 0, 0)
        yield gibbs.contrast, (x[:4].copy(), *np.zeros((2, own, 4), dtype), x, x, 1, 0, 1, 2, 0, 0)
    yield gibbs.centred, (x[:, 0].copy(), x, x[:, :3].copy(), x[0], x[0, :3].copy())
    yield gray.log_weights, (x[0, :3].copy(), x[0].copy(), x[:3].copy(), 0)
    for direct in np.zeros((0, 0), dtype), np.zeros((8, 12), dtype):
        yield made_sample.sample, (np.zeros(made.size, dtype), np.array(made.widths), np.tile(np.arange(5), (2, 1)), one_hot,
                                   first, np.arange(4), direct, x[:, :2].copy(), x[:, :1].copy(), np.zeros((6, 5), dtype),
                                   np.full(4, 3.0, dtype))
    f, n_factors = Layout((4 + 2, 5, 1)), np.ones((3, 1, 4))
    for factor in np.ones((3, 4, 4)), np.ones((1, 4, 4)), n_factors, n_factors[:1].copy():
        yield langevin.chain, (x, np.zeros(f.size, dtype), f.cut[0], x[:, :2].copy(), np.zeros(4), np.ones(4), np.zeros(3),
                               np.zeros((3, 4)), factor, 2, 0.1, True, 1, 2, 0, 0)
    net = Layout((4 + 1 + 5, 9, 8, 4))
    yield trajectory.solve, (x, np.zeros(net.size, dtype), net.cut[0], x[:, :2].copy(), np.ones(2), np.ones((7, 3, 5)),
                             np.ones((7, 3, 2)), np.ones((7, 3)), np.ones(3), np.ones(3), True, False)


# Dims that no other argument has a say in: more rows, or more parts of a plan, make another launch that is sound.
FREE = {"gather.rows": "RDN", "random.uniform": "N", "random.normal": "N", "norm.squared": "P", "logsumexp.forward": "N",
        "pairwise.distance": "N", "pairwise.gaussian": "NS", "pairwise.gaussian_backward": "S", "pairwise.nearest": "NM",
        "likelihood.standard_normal_forward": "ND", "likelihood.standard_normal_backward": "D",
        "reparameterize.posterior_forward": "N", "em.log_prob": "N",
        "em.posterior": "N", "masked_matmul.forward": "NB", "masked_matmul.backward_x": "NB",
        "masked_matmul.backward_weight": "B", "mlp.forward": "NBT", "mlp.backward": "BT",
        "mlp_slope.forward": "BT", "mlp_slope.backward": "BT", "flow.inverse": "NT",
        "flow.forward": "NT", "flow.backward": "T", "made_sample.sample": "S", "gibbs.chain": "NL", "gibbs.contrast": "NR",
        "silu.forward": "Q"}


@DTYPES
def test_an_array_that_is_too_long_or_too_short_is_refused(dtype):
    """Every dim of every array of every kernel, one longer and one shorter."""
    seen, accepted = set(), set()
    for kernel, args in whole_launches(dtype):
        assert kernel.check(args) is False
        seen.add(kernel.name)
        for i, _, _, dims, _ in kernel._arrays:
            for axis, change in ((a, c) for a in range(len(dims)) for c in (1, -1) if args[i].shape[a] + c >= 0):
                shape = list(args[i].shape)
                shape[axis] += change
                wrong = [*args[:i], np.zeros(shape, args[i].dtype), *args[i + 1:]]
                try:
                    kernel.check(wrong)
                except kernels.KernelError:
                    continue
                accepted.add((kernel.name, dims[axis]))
    modules = [m for m in map(vars(kernels).get, kernels.__all__) if dir(m)]  # which executes them
    assert seen == {k.name for module in modules for k in vars(module).values() if isinstance(k, kernels.Kernel)}
    assert accepted == {(name, dim) for name, dims in FREE.items() for dim in dims}


def test_a_dim_that_names_no_other_is_refused_when_the_kernel_is_made():
    for signature in ("x(2Y)", "x(N) y(N*2)", "x(N,)y(M-)", "x(N|)", "y(D+1,D-1)"):
        with pytest.raises(ValueError, match="Kernel"):
            kernels.Kernel("k", signature, reference=None)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be 'reference' or 'numba', got 'torch'"), kernels.using("torch"):
        pass
