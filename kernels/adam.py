"""One Adam step on a flat parameter buffer, in one pass over memory.

param, grad, m, v (P,): param, m and v are updated IN PLACE (the one kernel that does), grad is only read, and param is
returned. clip_scale (1,) multiplies the gradient: an array, because on a GPU its value is known there alone. Where it is NaN
or infinite, the step is refused: nothing changes. clock (2,) = [t, lr] float64: the step's number, from 1 on, and
the learning rate, in an array so that a step recorded once on a GPU can be run again with others.

    g = clip_scale grad,   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    param <- param - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

NaN and infinite gradients go where the formula takes them. Elementwise, so the bits do not depend on threads.
Agreement with the reference: 4 eps of |m| + |g|, of v, and of |param| + lr. Float32 squares: |g| from 1e-22 to 1e19.
Reference: Kingma & Ba (2015), Adam: a method for stochastic optimization, algorithm 1.
"""
import numpy as np

from . import _cuda
from ._dispatch import Kernel
from ._jit import entry, jit, parallel

CHUNK = 16384  # values per task: small enough to balance, large enough to hide its start


def _step_reference(param, grad, m, v, clip_scale, clock, beta1, beta2, eps):
    t, lr = clock
    if not np.isfinite(clip_scale[0]):
        return param
    g = clip_scale.astype(float) * grad.astype(float)
    mean = beta1 * m.astype(float) + (1 - beta1) * g
    square = beta2 * v.astype(float) + (1 - beta2) * g**2
    param[:] = param - lr * (mean / (1 - beta1**t)) / (np.sqrt(square / (1 - beta2**t)) + eps)
    m[:], v[:] = mean, square
    return param


@jit
def _chunk(chunk, param, grad, m, v, scale, keep_m, add_m, keep_v, add_v, rate, root, floor):
    part = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, param.size))
    p, g, mean, square = param[part], grad[part], m[part], v[part]
    for i in range(p.size):  # from 0: with other bounds Numba allows for negative indices, and nothing vectorises
        step_i = scale * g[i]
        mean[i] = keep_m * mean[i] + add_m * step_i
        square[i] = keep_v * square[i] + add_v * (step_i * step_i)
        p[i] -= rate * mean[i] / (np.sqrt(square[i]) * root + floor)


@entry
def _step(param, grad, m, v, clip_scale, clock, beta1, beta2, eps):
    real, scale, t, lr = param.dtype.type, clip_scale[0], clock[0], clock[1]
    if np.isfinite(scale):
        parallel(-(-param.size // CHUNK), _chunk,
                 (param, grad, m, v, scale, real(beta1), real(1 - beta1), real(beta2), real(1 - beta2),
                  real(lr / (1 - beta1**t)), real(1 / np.sqrt(1 - beta2**t)), real(eps)))
    return param


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _step_cuda(param, grad, m, v, clip_scale, clock, beta1, beta2, eps):
    _cuda.launch("adam", "step", _cuda.grid(param.size, 256), 256, param, grad, m, v, clip_scale, _cuda.asarray(clock),
                 param.size, beta1, 1 - beta1, beta2, 1 - beta2, eps)
    return param


step = Kernel("adam.step", "param(P) grad(P) m(P) v(P) clip_scale(1) clock(2):float64 beta1 beta2 eps",
              reference=_step_reference, numba=_step, cuda=_step_cuda)
