"""Diffusion: rows that noise has been added to are denoised; the model is the probability-flow equation of that denoiser.

    x_s = x + s eps,    D(x_s) = (x_s + s F(w) sqrt(1 + s^2)) / (1 + s^2),  w = x_s / sqrt(1 + s^2),  is fitted to E[x | x_s]
    dx_s / d log s = x_s - D(x_s),  that is dw / d log s = -s / (1 + s^2) F(w)

x in units of its scale (root mean square). This is Karras et al.'s preconditioning, with w their c_in x_s and F their network:
on models/ode.py's path alpha = cos, sigma = sin of arctan s, s from sigma_min to sigma_max in equal steps of its logarithm. At
sigma_max w is taken for standard normal, x_s for N(0, (s^2 + 1) I); at sigma_min a row is scale w. With F = 0, as a fit begins,
the model is exactly N(0, scale^2 I).

Legend: n rows, d columns, k noise levels.
References: Karras, Aittala, Aila & Laine, Elucidating the design space of diffusion-based generative models (2022); Song et al.
(2021); Kingma, Salimans, Poole & Ho, Variational diffusion models (2021), the bound.
"""
import math

import numpy as np

from ..random import row_streams
from .base import Follows
from .ode import ODEModel
from .overflow import beyond_numbers

LEVELS = 32  # of noise, for the bound of a row


class Diffusion(ODEModel):
    """Denoising diffusion; log_prob by its probability-flow equation, exact up to the solver; elbo, a bound of its SDE's.

    sigma_min, sigma_max    least and largest noise, in units of the rows' root mean square
    p_mean, p_std  of log s while fitting, normal
    hidden         widths of the network's two SiLU layers, or one for both
    n_steps        of the solver, from data to noise or back
    solver         of sample: "rk4", "heun", "euler", or "dpm++" (see models/ode.py); log_prob, encode and decode take "rk4"
    guidance       g of F = F_u + g (F_c - F_u), F_u the network that sees no context: 0 is the model given none, 1 the
                   model given its context; at every level of noise, g is the power of p(c | x_s) in p(x_s) p(c | x_s)^g
    drop_context   share of the rows whose context is hidden from the network while fitting, from which F_u is learned
    bandwidth      how much finer than otherwise the network's first units look at rows, the finest of them: 8 or more for a
                   few columns with edges or narrow rings; 1 for many columns
    first_layer    "silu", or "sine": units of sin, Fourier features whose frequencies are learned, and which with a bandwidth
                   of 8 see narrow rings and edges of a few columns long before SiLU does (Sitzmann et al., 2020)
    target         what F is fitted to: "row", that of the row which noise was added to, or "batch", its mean over the rows of
                   the batch by how likely each was the one: less noise, where a batch is dense among a few columns
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives noise (n, d), standard normal under the model; decode inverts it up to the solver's error, solver_error_.
    Reference: Karras et al. (2022).
    """

    sigma_min: float = 0.004
    sigma_max: float = 20.0
    p_mean: float = -0.5
    p_std: float = 1.2
    _objectives = ("denoising",)
    sigmas_ = Follows()

    def _choose(self, z, c, stream):
        for name in ("sigma_min", "sigma_max", "p_mean", "p_std"):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not abs(value) < math.inf or name != "p_mean" and value <= 0:
                raise ValueError(f"{name} must be a {'' if name == 'p_mean' else 'positive '}number, got {value!r}")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min!r} must be below sigma_max={self.sigma_max!r}")
        return super()._choose(z, c, stream) | {"sigmas": (float(self.sigma_min), float(self.sigma_max))}

    def _assemble(self, d, w, chosen):
        low, high = chosen["sigmas"]
        if not 0 < low < high < math.inf:
            raise ValueError(f"sigmas {chosen['sigmas']!r}")
        return super()._assemble(d, w, chosen)

    def _scale_of(self, z):
        return math.sqrt(float(np.mean(np.square(z, dtype=np.float64)))) or 1.0

    @property
    def _range(self):
        """log sigma_min, and log sigma_max / sigma_min."""
        low, high = self.sigmas_
        return math.log(low), math.log(high / low)

    def _sigma(self, tau):
        low, length = self._range
        return np.exp(low + length * tau)

    def _path(self, tau):
        s = self._sigma(tau)
        cosine = 1 / np.sqrt(1 + s * s)
        return cosine, s * cosine, -s * cosine, cosine

    def _rate(self, tau):
        s = self._sigma(tau)
        return -self._range[1] * s / (1 + s * s)

    def _times(self, stream, x):
        low, length = self._range
        log_s = self.p_mean + self.p_std * stream.normal(len(x), x.dtype, like=x)
        return np.clip((log_s - low) / length, 0, 1)

    def elbo(self, X, *, context=None):
        """An unbiased estimate of a lower bound on log p(x), (n,) nats, at 32 levels of noise, which are functions of the row.

        log p(x) >= -1/2 integral E|x - D(x_s)|^2 d(s^-2) + E log N(x; D(x_s), s^2 I) at sigma_min - KL(x_s || prior) at the
        other end. It is of the stochastic equation with this denoiser, whose density is log_prob's where the denoiser is true.
        Raises as log_prob does. Source: Kingma et al. (2021), eqs. 11-13.
        """
        rows = max(self._multiple, 8192 // (LEVELS + 1) // self._multiple * self._multiple)

        def bound(p, z, c, log_det):
            return self._bound(p, z / self.scale_, c) - z.shape[1] * math.log(self.scale_) + log_det

        return beyond_numbers(self._rowwise(lambda x, c: self._in_space(bound, x, c), *self._check_both("elbo", X, context),
                                            rows=rows))

    def _bound(self, p, x, c):
        (n, d), (low, high), length = x.shape, self.sigmas_, self._range[1]
        tau, eps = np.zeros((n, LEVELS + 1), x.dtype), np.empty((n, LEVELS + 1, d), x.dtype)
        for i, stream in enumerate(row_streams(x)):
            tau[i, 1:] = (np.arange(LEVELS) + stream.uniform(LEVELS)) / LEVELS  # the first is that of sigma_min
            eps[i] = stream.normal((LEVELS + 1, d))
        tau, eps = (np.asarray(a, like=x) for a in (tau, eps))
        alpha, sigma, d_alpha, d_sigma = (a[..., None] for a in self._ode.path(tau))
        w = alpha * x[:, None] + sigma * eps
        F = self._velocity(p, w.reshape(-1, d), c if c is None else np.repeat(c, LEVELS + 1, axis=0), tau.reshape(-1))
        off = np.sum(np.square(F.reshape(w.shape) + d_alpha * x[:, None] + d_sigma * eps), axis=2) * alpha[..., 0]**2
        variance = high**2 + 1
        kl = (np.sum(np.square(x), axis=1) / variance + d * (high**2 / variance - 1 + math.log(variance / high**2))) / 2
        return -length * np.mean(off[:, 1:], axis=1) - off[:, 0] / 2 - d * math.log(2 * math.pi * low**2) / 2 - kl
