"""A normal sample as a function of its mean and log-variance, the noise drawn inside and drawn again in the backward.

mean, log_var, z, g (N, D); eps_ij is the normal at value start + i D + j of the stream (key0, key1), see random.py.

    forward     z = mean + exp(log_var / 2) eps
    backward    g_log_var = g eps exp(log_var / 2) / 2, the gradient with respect to log_var; that of mean is g itself

exp overflows to inf where log_var exceeds 177 in float32, 1419 in float64. The bits do not depend on threads, and CUDA's are
Numba's. Agreement with the reference: 8 eps of |mean| + exp(log_var / 2) |eps|.
Reference: Kingma & Welling (2014), section 2.4.
"""
import numpy as np

from . import _cuda, random
from ._dispatch import Kernel
from ._jit import entry, jit, parallel
from ._math import exp, exp_small, order
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


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _on_device(name):
    def run(first, log_var, key0, key1, start):
        out, n = _cuda.empty(first.shape, first.dtype), first.size
        blocks = _cuda.grid(counters(n, first.dtype, start), 256)
        _cuda.launch("reparameterize", name, blocks, 256, first, log_var, out, n, key0, key1, int(start), since(start))
        return out
    return run


forward = Kernel("reparameterize.forward", "mean(N,D) log_var(N,D) key0 key1 start",
                 reference=_forward_reference, numba=_forward, cuda=_on_device("forward"))
backward = Kernel("reparameterize.backward", "g(N,D) log_var(N,D) key0 key1 start",
                  reference=_backward_reference, numba=_backward, cuda=_on_device("backward"))
