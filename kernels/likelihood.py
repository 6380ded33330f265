"""Log-likelihoods of rows under the outputs of a network, a divergence of such outputs, and their gradients.

    bernoulli_forward           sum_d x_d l_d - log(1 + exp(l_d))                                       (N,) nats
    bernoulli_backward          g (x - sigmoid(l)), the gradient with respect to the logits l           (N, D)
    normal_forward              sum_d log N(x_d; m_d, exp(v_d)),  v = limit tanh(raw / limit)           (N,) nats
    normal_backward             g (x - m) exp(-v),  g ((x - m)^2 exp(-v) - 1) / 2 dv/draw               (N, 2D)
    standard_normal_forward     sum_d log N(z_d; 0, 1)                                                  (N,) nats
    standard_normal_backward    -g z                                                                    (N, D)
    kl_forward                  sum_d KL(N(m_d, exp(v_d)) || N(0, 1)) = sum_d (m_d^2 + exp(v_d) - 1 - v_d) / 2    (N,) nats
    kl_backward                 g m,  g (exp(v) - 1) / 2                                                (2, N, D)

x, z, m, v, logits (N, D), g (N,), outputs (N, 2D): of every feature the mean m, then the raw log-variance raw; limit > 0. All
of one dtype, float32 or float64. Any N and D, zero included. x in the Bernoulli is in [0, 1].

A logit that is sure and right loses no digit, neither in its likelihood, which is near 0, nor in its gradient; at +-inf
these are the limits: log-likelihood 0 where x is the outcome that is certain, else -inf.
Rows are independent, so the bits are the same for any thread count. Between CPUs whose vectors differ in length, or of which
one has no fused multiply-add, the last bits may differ. Agreement with the reference: (16 + D / 16) eps of the sum of the
terms' sizes; normal: (20 + 4 limit + D / 16) eps, as exp(-v) carries the rounding of v; by far not reached.
Source: Kingma & Welling, Auto-encoding variational Bayes (2014), appendix C.
"""
import numpy as np

from . import _cuda
from ._constants import LOG_2PI
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel
from ._math import exp_fused, log1p, tanh_fused
from ._partition import n_panels

# --- reference -------------------------------------------------------------------------------------------------------

def _bernoulli_parts(x, logits):
    """x less the likelier outcome, and the odds of the other one."""
    return x - (logits > 0).astype(float), np.exp(-np.abs(logits.astype(float)))


def _bernoulli_forward_reference(x, logits):
    miss, odds = _bernoulli_parts(x, logits)
    with np.errstate(invalid="ignore", over="ignore"):
        return (np.where(miss == 0, 0, miss * logits) - np.log1p(odds)).sum(axis=1).astype(x.dtype)


def _bernoulli_backward_reference(g, x, logits):
    miss, odds = _bernoulli_parts(x, logits)
    return (g[:, None] * (miss + np.where(logits > 0, 1, -1) * odds / (1 + odds))).astype(x.dtype)


def _normal_parts(x, outputs, limit):
    """The distance from the mean in standard deviations, the standard deviation, and tanh(raw / limit)."""
    mean, raw = outputs[:, ::2].astype(float), outputs[:, 1::2].astype(float)
    bounded = np.tanh(raw / limit)
    std = np.exp(limit * bounded / 2)
    return (x - mean) / std, std, bounded


def _normal_forward_reference(x, outputs, limit):
    with np.errstate(over="ignore", invalid="ignore"):
        z, _, bounded = _normal_parts(x, outputs, limit)
        return (-0.5 * (LOG_2PI + limit * bounded + z * z).sum(axis=1)).astype(x.dtype)


def _normal_backward_reference(g, x, outputs, limit):
    with np.errstate(over="ignore", invalid="ignore"):
        z, std, bounded = _normal_parts(x, outputs, limit)
        parts = z / std, -0.5 * (1 - z * z) * (1 - bounded * bounded)
        return (g[:, None] * np.stack(parts, axis=2).reshape(outputs.shape)).astype(x.dtype)


def _standard_normal_forward_reference(z):
    with np.errstate(over="ignore"):
        return (-0.5 * (np.square(z, dtype=float) + LOG_2PI).sum(axis=1)).astype(z.dtype)


def _standard_normal_backward_reference(g, z):
    return -g[:, None] * z


def _kl_forward_reference(mean, log_var):
    with np.errstate(over="ignore", invalid="ignore"):
        return (np.square(mean, dtype=float) + np.expm1(log_var.astype(float)) - log_var).sum(axis=1).astype(mean.dtype) / 2


def _kl_backward_reference(g, mean, log_var):
    with np.errstate(over="ignore", invalid="ignore"):
        return (g[:, None] * np.stack([mean, np.expm1(log_var.astype(float)) / 2])).astype(mean.dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit(fastmath={"reassoc"})  # lets the sum, and nothing else, be taken in lanes
def _misses(x, logits, odds):
    """The part of a row's log-likelihood that is linear in the logits; fills odds."""
    total, zero, one = x.dtype.type(0), x.dtype.type(0), x.dtype.type(1)
    for d in range(x.size):
        miss = x[d] - (one if logits[d] > zero else zero)
        total += miss * logits[d] if miss != zero else zero
        odds[d] = exp_fused(-abs(logits[d]))
    return total


@jit
def _multiplied(odds):
    """Multiply the factors 1 + odds by one another, at most 64 each; how many are left.

    As odds, a + b + ab, in which a small one is not lost beside the 1: then a logarithm costs next to nothing.
    """
    size, factors = odds.size, 1
    while size > 64 and factors < 64:
        half = (size + 1) // 2
        for d in range(size // 2):
            odds[d] += odds[half + d] + odds[d] * odds[half + d]
        size, factors = half, 2 * factors
    return size


@jit(fastmath={"reassoc"})
def _sum_log1p(odds):
    total = odds.dtype.type(0)
    for d in range(odds.size):
        total += log1p(odds[d])
    return total


@jit
def _bernoulli_panel(p, panels, x, logits, ans):
    N, odds = len(x), np.empty(x.shape[1], x.dtype)
    for n in range(p * N // panels, (p + 1) * N // panels):
        linear = _misses(x[n], logits[n], odds)
        ans[n] = linear - _sum_log1p(odds[:_multiplied(odds)])


@entry
def _bernoulli_forward(x, logits, ans):
    panels = n_panels(len(x), 2 * x.size)
    parallel(panels, _bernoulli_panel, (panels, x, logits, ans))


@jit
def _bernoulli_backward_panel(p, panels, g, x, logits, dlogits):
    (N, D), zero, one = x.shape, x.dtype.type(0), x.dtype.type(1)
    for n in range(p * N // panels, (p + 1) * N // panels):
        for d in range(D):
            odds = exp_fused(-abs(logits[n, d]))
            other = odds / (one + odds)
            dlogits[n, d] = g[n] * ((x[n, d] - one) + other if logits[n, d] > zero else x[n, d] - other)


@entry
def _bernoulli_backward(g, x, logits, dlogits):
    panels = n_panels(len(x), 2 * x.size)
    parallel(panels, _bernoulli_backward_panel, (panels, g, x, logits, dlogits))


@jit(fastmath={"reassoc"})
def _sum_normal(x, mean, log_var):
    total, half = x.dtype.type(0), x.dtype.type(0.5)
    for d in range(x.size):
        z = (x[d] - mean[d]) * exp_fused(-half * log_var[d])
        total += log_var[d] + z * z
    return total


@jit
def _normal_panel(p, panels, x, outputs, limit, ans):
    (N, D), real = x.shape, x.dtype.type
    limit, half, constant = real(limit), real(0.5), real(D * LOG_2PI)
    mean, log_var = np.empty(D, x.dtype), np.empty(D, x.dtype)
    for n in range(p * N // panels, (p + 1) * N // panels):
        for d in range(D):
            mean[d] = outputs[n, 2 * d]
            log_var[d] = limit * tanh_fused(outputs[n, 2 * d + 1] / limit)
        ans[n] = -half * (_sum_normal(x[n], mean, log_var) + constant)


@entry
def _normal_forward(x, outputs, limit, ans):
    panels = n_panels(len(x), 4 * x.size)
    parallel(panels, _normal_panel, (panels, x, outputs, limit, ans))


@jit
def _normal_backward_panel(p, panels, g, x, outputs, limit, doutputs):
    (N, D), real = x.shape, x.dtype.type
    limit, half, one = real(limit), real(0.5), real(1)
    mean, raw = np.empty(D, x.dtype), np.empty(D, x.dtype)  # then their gradients: side by side they are faster
    for n in range(p * N // panels, (p + 1) * N // panels):
        for d in range(D):
            mean[d] = outputs[n, 2 * d]
            raw[d] = outputs[n, 2 * d + 1]
        for d in range(D):  # in two loops, as one long chain of operations would wait for its own results
            raw[d] = tanh_fused(raw[d] / limit)
        for d in range(D):
            bounded = raw[d]
            inverse_std = exp_fused(-half * limit * bounded)
            z = (x[n, d] - mean[d]) * inverse_std
            mean[d] = g[n] * z * inverse_std
            slope = (one - bounded) * (one + bounded)
            raw[d] = half * g[n] * (z * (z * slope) - slope)
        for d in range(D):
            doutputs[n, 2 * d] = mean[d]
            doutputs[n, 2 * d + 1] = raw[d]


@entry
def _normal_backward(g, x, outputs, limit, doutputs):
    panels = n_panels(len(x), 4 * x.size)
    parallel(panels, _normal_backward_panel, (panels, g, x, outputs, limit, doutputs))


@jit(fastmath={"reassoc"})
def _sum_squares(z):
    total = z.dtype.type(0)
    for d in range(z.size):
        total += z[d] * z[d]
    return total


@jit
def _standard_normal_panel(p, panels, z, ans):
    (N, D), real = z.shape, z.dtype.type
    half, constant = real(0.5), real(D * LOG_2PI)
    for n in range(p * N // panels, (p + 1) * N // panels):
        ans[n] = -half * (_sum_squares(z[n]) + constant)


@entry
def _standard_normal_forward(z, ans):
    panels = n_panels(len(z), 2 * z.size)
    parallel(panels, _standard_normal_panel, (panels, z, ans))


@jit
def _standard_normal_backward_panel(p, panels, g, z, dz):
    N, D = z.shape
    for n in range(p * N // panels, (p + 1) * N // panels):
        for d in range(D):
            dz[n, d] = -g[n] * z[n, d]


@entry
def _standard_normal_backward(g, z, dz):
    panels = n_panels(len(z), 2 * z.size)
    parallel(panels, _standard_normal_backward_panel, (panels, g, z, dz))


@jit(fastmath={"reassoc"})
def _sum_kl(mean, log_var):
    total, one = mean.dtype.type(0), mean.dtype.type(1)
    for d in range(mean.size):
        total += mean[d] * mean[d] + (exp_fused(log_var[d]) - one - log_var[d])
    return total


@jit
def _kl_panel(p, panels, mean, log_var, ans):
    N, half = len(mean), mean.dtype.type(0.5)
    for n in range(p * N // panels, (p + 1) * N // panels):
        ans[n] = half * _sum_kl(mean[n], log_var[n])


@entry
def _kl_forward(mean, log_var, ans):
    panels = n_panels(len(mean), 2 * mean.size)
    parallel(panels, _kl_panel, (panels, mean, log_var, ans))


@jit
def _kl_backward_panel(p, panels, g, mean, log_var, both):
    (N, D), half, one = mean.shape, mean.dtype.type(0.5), mean.dtype.type(1)
    for n in range(p * N // panels, (p + 1) * N // panels):
        for d in range(D):
            both[0, n, d] = g[n] * mean[n, d]
            both[1, n, d] = half * g[n] * (exp_fused(log_var[n, d]) - one)


@entry
def _kl_backward(g, mean, log_var, both):
    panels = n_panels(len(mean), 2 * mean.size)
    parallel(panels, _kl_backward_panel, (panels, g, mean, log_var, both))


def _filling(function, shape):
    """A launch of a jitted function that fills its last argument, an array of the given shape."""
    def run(*args):
        out = empty(shape(*args), args[0].dtype)
        function(*args, out)
        return out
    return run


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _on_device(name, shape):
    def run(*args):
        arrays, numbers = [a for a in args if hasattr(a, "shape")], [a for a in args if not hasattr(a, "shape")]
        out, (n, d) = _cuda.empty(shape(*args), args[0].dtype), arrays[-1].shape
        d //= 1 + name.startswith("normal")
        blocks, threads, lanes = _cuda.teams(n, d)
        _cuda.launch("likelihood", name, blocks, threads, *arrays, out, n, d, *numbers, lanes)
        return out
    return run


def _sides(name, function, shape):
    return {"numba": _filling(function, shape), "cuda": _on_device(name, shape)}


bernoulli_forward = Kernel(
    "likelihood.bernoulli_forward", "x(N,D) logits(N,D)", reference=_bernoulli_forward_reference,
    **_sides("bernoulli_forward", _bernoulli_forward, lambda x, logits: x.shape[:1]))
bernoulli_backward = Kernel(
    "likelihood.bernoulli_backward", "g(N) x(N,D) logits(N,D)", reference=_bernoulli_backward_reference,
    **_sides("bernoulli_backward", _bernoulli_backward, lambda g, x, logits: x.shape))
normal_forward = Kernel(
    "likelihood.normal_forward", "x(N,D) outputs(N,2D) limit", reference=_normal_forward_reference,
    **_sides("normal_forward", _normal_forward, lambda x, outputs, limit: x.shape[:1]))
normal_backward = Kernel(
    "likelihood.normal_backward", "g(N) x(N,D) outputs(N,2D) limit", reference=_normal_backward_reference,
    **_sides("normal_backward", _normal_backward, lambda g, x, outputs, limit: outputs.shape))
standard_normal_forward = Kernel(
    "likelihood.standard_normal_forward", "z(N,D)", reference=_standard_normal_forward_reference,
    **_sides("standard_normal_forward", _standard_normal_forward, lambda z: z.shape[:1]))
standard_normal_backward = Kernel(
    "likelihood.standard_normal_backward", "g(N) z(N,D)", reference=_standard_normal_backward_reference,
    **_sides("standard_normal_backward", _standard_normal_backward, lambda g, z: z.shape))
kl_forward = Kernel(
    "likelihood.kl_forward", "mean(N,D) log_var(N,D)", reference=_kl_forward_reference,
    **_sides("kl_forward", _kl_forward, lambda mean, log_var: mean.shape[:1]))
kl_backward = Kernel(
    "likelihood.kl_backward", "g(N) mean(N,D) log_var(N,D)", reference=_kl_backward_reference,
    **_sides("kl_backward", _kl_backward, lambda g, mean, log_var: (2, *mean.shape)))
