"""Normal posteriors q(z | x), as an encoder's outputs give them: a draw, and the divergence from the standard normal.

    posterior             a draw of every row's normal, with its mean and log-variance
    standard_normal_kl    sum_d KL(N(mean_d, exp(log_var_d)) || N(0, 1))

Legend: n rows, d features. Reference: Kingma & Welling, Auto-encoding variational Bayes (2014), section 2.4, appendix B.
"""
import numpy as np

from . import ops
from .fused import fused
from .kernels import likelihood as _likelihood_kernel
from .kernels import reparameterize as _reparameterize_kernel
from .ops import contiguous


def _kl_backward(tracked, ans, g, mean, log_var):
    both = _likelihood_kernel.kl_backward(*contiguous(g, mean, log_var))
    return [both[i] for i in tracked]


_kl = fused("standard_normal_kl", lambda mean, log_var: ops.sum(ops.square(mean) + ops.expm1(log_var) - log_var, axis=1) / 2,
            lambda mean, log_var: _likelihood_kernel.kl_forward(*contiguous(mean, log_var)), _kl_backward)


def standard_normal_kl(mean, log_var):
    """sum_d KL(N(mean_d, exp(log_var_d)) || N(0, 1)) of every row, (n,) nats; mean, log_var (n, d)."""
    return _kl(mean, log_var)


def _posterior_formula(outputs, limit, key0, key1, start):
    mean, raw = ops.split(outputs, 2, axis=1)
    log_var = ops.bounded(raw, limit)
    return ops.reparameterize(mean, log_var, (key0, key1), start), mean, log_var


def _posterior_backward(tracked, ans, g, outputs, *rest):
    g = [np.zeros_like(a) if each is None else each for a, each in zip(ans, g, strict=True)]
    return [_reparameterize_kernel.posterior_backward(*contiguous(*g), ans[2], *rest)]


_posterior_op = fused("posterior", _posterior_formula,
                      lambda outputs, *rest: _reparameterize_kernel.posterior_forward(*contiguous(outputs), *rest),
                      _posterior_backward)


def posterior(outputs, limit, key, start):
    """z = mean + exp(log_var / 2) eps, mean and log_var, (n, d) each; eps are the normals of ops.reparameterize.

    outputs (n, 2 d): the means, then the raw log-variances, which are bounded to +-limit.
    """
    return _posterior_op(outputs, limit, *key, start)
