"""A normal sample as a function of its mean and log-variance, the noise drawn inside and drawn again in the backward.

mean, log_var, z, g (N, D); eps_ij is the normal at value start + i D + j of the stream (key0, key1), see random.py.

    forward     z = mean + exp(log_var / 2) eps
    backward    g_log_var = g eps exp(log_var / 2) / 2, the gradient with respect to log_var; that of mean is g itself

The same of a network's outputs (N, 2D), the means and then the raw log-variances of every row, as an encoder gives them:

    posterior_forward     mean, log_var = limit tanh(raw / limit), and z as above
    posterior_backward    the gradient with respect to outputs, given g = dz and what else is known of mean's and log_var's,
                          dmean and dlog_var: g + dmean,  (g_log_var + dlog_var) (1 - (log_var / limit)^2)

exp overflows to inf where log_var exceeds 177 in float32, 1419 in float64. The bits do not depend on threads, and CUDA's are
Numba's. Agreement with the reference: 8 eps of |mean| + exp(log_var / 2) |eps|; of a posterior, which carries the rounding of
log_var, (16 + 4 limit) eps of the sizes of the terms.
Reference: Kingma & Welling (2014), section 2.4.
"""
import numpy as np

from . import _cuda, random
from ._dispatch import Kernel, empty
from ._jit import entry, jit, parallel
from ._math import exp, exp_small, order, tanh
from .random import CHUNK, counters, fill_normal, since

SMALL = 160  # log-variances that exp_small takes the half of, to exp's bits

# --- reference -------------------------------------------------------------------------------------------------------

def _scaled_noise(log_var, key0, key1, start):
    eps = random.normal.reference(np.empty(log_var.size, log_var.dtype), key0, key1, start).reshape(log_var.shape)
    with np.errstate(over="ignore"):
        return np.exp(log_var.astype(float) / 2) * eps


def _forward_reference(mean, log_var, key0, key1, start):
    with np.errstate(over="ignore"):
        return (mean + _scaled_noise(log_var, key0, key1, start)).astype(mean.dtype)


def _backward_reference(g, log_var, key0, key1, start):
    with np.errstate(over="ignore"):
        return (g * _scaled_noise(log_var, key0, key1, start) / 2).astype(g.dtype)


def _posterior_forward_reference(outputs, limit, key0, key1, start):
    mean, raw = np.split(outputs, 2, axis=1)
    log_var = (limit * np.tanh(raw.astype(float) / limit)).astype(outputs.dtype)
    return (mean + _scaled_noise(log_var, key0, key1, start)).astype(outputs.dtype), mean.copy(), log_var


def _posterior_backward_reference(g, dmean, dlog_var, log_var, limit, key0, key1, start):
    g, slope = g.astype(float), 1 - (log_var.astype(float) / limit) ** 2
    draw = (g * _scaled_noise(log_var, key0, key1, start) / 2 + dlog_var) * slope
    return np.concatenate([g + dmean, draw], axis=1).astype(log_var.dtype)


# --- Numba -----------------------------------------------------------------------------------------------------------

@jit
def _small(log_var):
    """Whether |log_var| < SMALL everywhere."""
    greatest = order(log_var.dtype.type(0))
    for i in range(log_var.size):
        greatest = max(greatest, order(abs(log_var[i])))
    return greatest < order(log_var.dtype.type(SMALL))


@jit
def _scaled_noise_into(out, log_var, key0, key1, start, half):
    """out = exp(log_var / 2) eps for one chunk."""
    fill_normal(out, key0, key1, start)
    if _small(log_var):
        for i in range(out.size):
            out[i] *= exp_small(half * log_var[i])
    else:
        for i in range(out.size):
            out[i] *= exp(half * log_var[i])


@jit
def _forward_chunk(chunk, mean, log_var, key0, key1, start, z):
    low, high, half = chunk * CHUNK, (chunk + 1) * CHUNK, mean.dtype.type(0.5)
    out, center = z[low:high], mean[low:high]
    _scaled_noise_into(out, log_var[low:high], key0, key1, start + low, half)
    for i in range(out.size):
        out[i] += center[i]


@entry
def _forward(mean, log_var, key0, key1, start):
    z, size = np.empty_like(mean), mean.size
    parallel(-(-size // CHUNK), _forward_chunk,
             (mean.reshape(size), log_var.reshape(size), key0, key1, start, z.reshape(size)))
    return z


@jit
def _backward_chunk(chunk, g, log_var, key0, key1, start, g_log_var):
    low, high, half = chunk * CHUNK, (chunk + 1) * CHUNK, g.dtype.type(0.5)
    out, cotangent = g_log_var[low:high], g[low:high]
    _scaled_noise_into(out, log_var[low:high], key0, key1, start + low, half)
    for i in range(out.size):
        out[i] *= half * cotangent[i]


@entry
def _backward(g, log_var, key0, key1, start):
    g_log_var, size = np.empty_like(g), g.size
    parallel(-(-size // CHUNK), _backward_chunk,
             (g.reshape(size), log_var.reshape(size), key0, key1, start, g_log_var.reshape(size)))
    return g_log_var


@jit
def _tasks(N, D):
    """In how many parts N rows go, of about a chunk each."""
    return -(-N // max(1, CHUNK // max(D, 1)))


@jit
def _part(t, N, D):
    """The rows of part t, first and last + 1, and where their values begin and end."""
    tasks = _tasks(N, D)
    low, high = t * N // tasks, (t + 1) * N // tasks
    return low, high, low * D, high * D


@jit
def _posterior_forward_task(t, outputs, limit, key0, key1, start, z, mean, log_var):
    (N, D), size, real = z.shape, z.size, z.dtype.type
    low, high, first, last = _part(t, N, D)
    for n in range(low, high):
        for d in range(D):
            mean[n, d], log_var[n, d] = outputs[n, d], outputs[n, D + d]
    out, center, v = z.reshape(size)[first:last], mean.reshape(size)[first:last], log_var.reshape(size)[first:last]
    for i in range(v.size):
        v[i] = real(limit) * tanh(v[i] / real(limit))
    _scaled_noise_into(out, v, key0, key1, start + first, real(0.5))
    for i in range(out.size):
        out[i] += center[i]


@entry
def _posterior_forward(outputs, limit, key0, key1, start, z, mean, log_var):
    parallel(_tasks(*z.shape), _posterior_forward_task, (outputs, limit, key0, key1, start, z, mean, log_var))


@jit
def _posterior_backward_task(t, g, dmean, dlog_var, log_var, limit, key0, key1, start, doutputs):
    (N, D), size, real = g.shape, g.size, g.dtype.type
    low, high, first, last = _part(t, N, D)
    half, one, out = real(0.5), real(1), np.empty(last - first, g.dtype)
    cotangent, own, v = g.reshape(size)[first:last], dlog_var.reshape(size)[first:last], log_var.reshape(size)[first:last]
    _scaled_noise_into(out, v, key0, key1, start + first, half)
    for i in range(out.size):
        bounded = v[i] / real(limit)
        out[i] = (out[i] * (half * cotangent[i]) + own[i]) * ((one - bounded) * (one + bounded))
    for n in range(low, high):
        for d in range(D):
            doutputs[n, d] = g[n, d] + dmean[n, d]
            doutputs[n, D + d] = out[(n - low) * D + d]


@entry
def _posterior_backward(g, dmean, dlog_var, log_var, limit, key0, key1, start, doutputs):
    parallel(_tasks(*g.shape), _posterior_backward_task,
             (g, dmean, dlog_var, log_var, limit, key0, key1, start, doutputs))


def _posterior_forward_numba(outputs, *rest):
    answers = *(empty((len(outputs), outputs.shape[1] // 2), outputs.dtype) for _ in range(3)),
    _posterior_forward(outputs, *rest, *answers)
    return answers


def _posterior_backward_numba(g, *rest):
    doutputs = empty((len(g), 2 * g.shape[1]), g.dtype)
    _posterior_backward(g, *rest, doutputs)
    return doutputs


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _on_device(name):
    def run(first, log_var, key0, key1, start):
        out, n = _cuda.empty(first.shape, first.dtype), first.size
        blocks = _cuda.grid(counters(n, first.dtype, start), 256)
        _cuda.launch("reparameterize", name, blocks, 256, first, log_var, out, n, key0, key1, int(start), since(start))
        return out
    return run


def _posterior_on_device(name, arrays, answers, limit, key0, key1, start):
    n, d = answers[-1].shape if name == "posterior_forward" else arrays[0].shape
    blocks = _cuda.grid(counters(n * d, arrays[0].dtype, start), 256)
    _cuda.launch("reparameterize", name, blocks, 256, *arrays, *answers, n * d, d, limit, key0, key1, int(start), since(start))


def _posterior_forward_cuda(outputs, *rest):
    answers = *(_cuda.empty((len(outputs), outputs.shape[1] // 2), outputs.dtype) for _ in range(3)),
    _posterior_on_device("posterior_forward", (outputs,), answers, *rest)
    return answers


def _posterior_backward_cuda(g, dmean, dlog_var, log_var, *rest):
    doutputs = _cuda.empty((len(g), 2 * g.shape[1]), g.dtype)
    _posterior_on_device("posterior_backward", (g, dmean, dlog_var, log_var), (doutputs,), *rest)
    return doutputs


forward = Kernel("reparameterize.forward", "mean(N,D) log_var(N,D) key0 key1 start",
                 reference=_forward_reference, numba=_forward, cuda=_on_device("forward"))
backward = Kernel("reparameterize.backward", "g(N,D) log_var(N,D) key0 key1 start",
                  reference=_backward_reference, numba=_backward, cuda=_on_device("backward"))
posterior_forward = Kernel("reparameterize.posterior_forward", "outputs(N,E) limit key0 key1 start",
                           reference=_posterior_forward_reference, numba=_posterior_forward_numba,
                           cuda=_posterior_forward_cuda, sizes=lambda outputs, *rest: [("E", outputs.shape[1] // 2 * 2)])
posterior_backward = Kernel("reparameterize.posterior_backward",
                            "g(N,D) dmean(N,D) dlog_var(N,D) log_var(N,D) limit key0 key1 start",
                            reference=_posterior_backward_reference, numba=_posterior_backward_numba,
                            cuda=_posterior_backward_cuda)
