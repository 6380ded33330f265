"""Diffusion: rows that noise has been added to are denoised; the model is the probability-flow equation of that denoiser.

    x_s = x + s eps,    D(x_s) = (x_s + s F(w) sqrt(1 + s^2)) / (1 + s^2),  w = x_s / sqrt(1 + s^2),  is fitted to E[x | x_s]
    dx_s / d log s = x_s - D(x_s),  that is dw / d log s = -s / (1 + s^2) F(w)

x in units of its scale (root mean square). This is Karras et al.'s preconditioning, with w their c_in x_s and F their network:
on models/ode.py's path alpha = cos, sigma = sin of arctan s, s from sigma_min to sigma_max in equal steps of its logarithm. At
sigma_max w is taken for standard normal, x_s for N(0, (s^2 + 1) I); at sigma_min a row is scale w. With F = 0, as a fit begins,
the model is exactly N(0, scale^2 I).

Legend: n rows, d columns.
References: Karras, Aittala, Aila & Laine, Elucidating the design space of diffusion-based generative models (2022); Song et al.
(2021).
"""
import math

import numpy as np

from .base import Follows
from .ode import ODEModel


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

    @property
    def _levels(self):
        return self.sigmas_

    def _level_time(self, share):
        return share
