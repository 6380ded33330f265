"""Models whose rows are carried to noise, and back, by an ordinary differential equation: flow matching, diffusion.

    w = alpha(tau) x + sigma(tau) eps,  x = z / scale,  eps ~ N(0, I)       tau from 0, data, to 1, noise
    F(w, c; tau) is fitted to E[-(alpha' x + sigma' eps) | w]               alpha sigma' - alpha' sigma = 1
    dw/dtau = rate(tau) F,  w(1) ~ N(0, I)    log p(z) = log N(w(1); 0, I) + log |det dw(1)/dw(0)| - d log scale

The loss is a squared error, no likelihood; but the model is its equation, solved in fixed steps, and log_prob, encode and
decode are of the same equation and steps: log_prob is that of the rows that the model draws, up to the solver's error. This is
measured when the model is fitted, by twice as many steps. Far out, where there were no rows to fit it to, F is that of rows
from N(0, rms^2 I) (see Trajectory.rim), and so is log_prob: finite, however far.

Legend: n rows, d columns, w columns of context.
References: Song et al., Score-based generative modeling through stochastic differential equations (2021), the equation; Ho &
Salimans, Classifier-free diffusion guidance (2022); Lu et al., DPM-Solver++ (2022); Xu, Tong & Jaakkola, Stable target field
for reduced variance score estimation in diffusion models (2023); Kingma, Salimans, Poole & Ho, Variational diffusion models
(2021), the bound.
"""
import abc
import math
import sys

import numpy as np

from .. import ops, train
from ..checks import check_widths, one_line
from ..fused import standard_normal_log_prob
from ..kernels._cuda import asnumpy
from ..ode import SOLVERS, Trajectory, features
from ..random import Stream, row_streams
from .base import Capabilities, Follows, _as
from .gradient import GradientModel
from .overflow import beyond_numbers

MULTISTEP = "dpm++"
FIRST_LAYERS = "silu", "sine"
TARGETS = "row", "batch"
EXACT = 1e-3  # nats by which twice the steps may move log_prob of any row
MEASURED = 256  # rows
LEVELS = 32  # of noise, for the bound of a row


class ODEModel(GradientModel):
    """A model of an equation; a subclass writes _path, _rate, _times, _levels and _level_time, and may write _noise and
    _scale_of.

    hidden         widths of the network's two SiLU layers, or one for both
    n_steps        of the solver, from data to noise or back
    solver         of sample: "rk4", "heun", "euler", or "dpm++", DPM-Solver++(2M), of one evaluation a step; log_prob, encode
                   and decode take "rk4"
    guidance       g of F = F_u + g (F_c - F_u), F_u the network that sees no context: 0 is the model given none, 1 the
                   model given its context; at every level of noise, g is the power of p(c | x_s) in p(x_s) p(c | x_s)^g
    drop_context   share of the rows whose context is hidden from the network while fitting, from which F_u is learned
    bandwidth      how much finer than otherwise the network's first units look at rows, the finest of them (ode.Field): 8 or
                   more for a few columns with edges or narrow rings; 1 for many columns
    first_layer    "silu", or "sine": units of sin, Fourier features whose frequencies are learned, and which with a bandwidth
                   of 8 see narrow rings and edges of a few columns long before SiLU does
    target         what F is fitted to: "row", -(alpha' x + sigma' eps) of the row that noise was added to, or "batch", its
                   mean over the rows of the batch by how likely each was the one: of the same expectation and less variance,
                   where a batch is dense among a few columns (Xu, Tong & Jaakkola, 2023)

    encode gives noise (n, d), standard normal under the model; decode inverts it up to the solver's error.
    solver_error_: the most nats by which twice the steps move log_prob of a row held out (of at most 256, half of which are
    those that lie farthest out).
    """

    hidden: tuple = (128, 128)
    n_steps: int = 40
    solver: str = "rk4"
    guidance: float = 1.0
    drop_context: float = 0.1
    bandwidth: float = 1.0
    first_layer: str = "silu"
    target: str = "row"
    _takes_context = True
    _likelihood = False
    _keeps = {"solver_error_": (float,)}
    hidden_, n_steps_ = Follows(), Follows()

    @property
    def _capabilities(self):
        exact = vars(self).get("solver_error_", math.inf) < EXACT
        return Capabilities("exact" if exact else "estimate", "noise, by an equation", invertible=False)

    @property
    def n_latent_(self):
        return self.n_features_in_

    # ------------------------------------------------------------ what a model writes

    @abc.abstractmethod
    def _path(self, tau):
        """alpha, sigma, alpha', sigma' at these times, derivatives by the same parameter, alpha sigma' - alpha' sigma = 1."""

    @abc.abstractmethod
    def _rate(self, tau):
        """Minus the derivative of that parameter by tau."""

    @abc.abstractmethod
    def _times(self, stream, x):
        """The times at which the loss of rows x is taken, (n,)."""

    @property
    @abc.abstractmethod
    def _levels(self):
        """The least and the largest sigma / alpha that elbo is taken between."""

    @abc.abstractmethod
    def _level_time(self, share):
        """The times whose log sigma / alpha is this share of the way from the least to the largest."""

    def _noise(self, x, stream, c):
        """The noise that belongs to rows x in the loss, (n, d)."""
        return stream.normal(x.shape, x.dtype, like=x)

    def _scale_of(self, z):
        """The scale of preprocessed rows, a float."""
        return 1.0

    # ------------------------------------------------------------ fitting

    def _check_solver(self):
        """Raise ValueError for hyperparameters that queries read too, and that may have been set since the fit."""
        if not isinstance(self.solver, str) or self.solver not in (*SOLVERS, MULTISTEP):
            raise ValueError(f"solver must be one of {', '.join((*SOLVERS, MULTISTEP))}, got {self.solver!r}")
        for name, most in (("guidance", math.inf), ("drop_context", 1)):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not 0 <= value < most:
                raise ValueError(f"{name} must be a number from 0 to below {most:g}, got {value!r}")

    def _choose(self, z, c, stream):
        hidden, (n_steps,) = check_widths("hidden", self.hidden), check_widths("n_steps", (self.n_steps,))
        hidden = hidden * 2 if len(hidden) == 1 else hidden
        if len(hidden) != 2:
            raise ValueError(f"hidden must name two layers, of which the divergence is known, or one width for both, got "
                             f"{self.hidden!r}")
        self._check_solver()
        if not isinstance(self.bandwidth, (int, float, np.number)) or not 1 <= self.bandwidth < math.inf:
            raise ValueError(f"bandwidth must be 1 or more, got {self.bandwidth!r}")
        if not isinstance(self.first_layer, str) or self.first_layer not in FIRST_LAYERS:
            raise ValueError(f"first_layer must be one of {', '.join(FIRST_LAYERS)}, got {one_line(self.first_layer)}")
        if not isinstance(self.target, str) or self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {one_line(self.target)}")
        if c is not None and self.guidance != 1 and self.drop_context == 0:
            raise ValueError(f"guidance={self.guidance!r} needs a network that has learned to see no context; take "
                             "drop_context=0.1")
        scale, squares = self._scale_of(z), np.square(z, dtype=np.float64)
        extent = math.sqrt(np.sum(squares, axis=1).max()) / scale or 1.0, math.sqrt(np.mean(squares)) / scale or 1.0
        return {"hidden": hidden, "n_steps": n_steps, "scale": scale, "extent": extent, "bandwidth": float(self.bandwidth),
                "first_layer": self.first_layer}

    def _assemble(self, d, w, chosen):
        scale, extent = chosen["scale"], chosen.get("extent")  # which files of older fits have not
        numbers, hidden = (scale, *((1.0, 1.0) if extent is None else extent)), chosen["hidden"]
        if (not all(isinstance(a, float) and 0 < a < math.inf for a in numbers) or (len(numbers), len(hidden)) != (3, 2)
                or not all(0 < a * a < math.inf for a in numbers[1:])):
            raise ValueError(f"scale {scale!r}, extent {extent!r} and hidden {chosen['hidden']!r} are of no such model")
        bandwidth, first_layer = chosen.setdefault("bandwidth", 1.0), chosen.setdefault("first_layer", FIRST_LAYERS[0])
        if first_layer not in FIRST_LAYERS:  # older files have none
            raise ValueError(f"first_layer {first_layer!r}")
        return {"ode": Trajectory("ode", d, w + 1 if w else 0, tuple(chosen["hidden"]), self._path, self._rate, extent,
                                  bandwidth, first_layer)}

    @property
    def _by_rows(self):
        return self.target == "row"

    def _players(self):
        return train.Player(loss=lambda p, batch, stream: self._loss(p, batch.x, stream, batch.context, batch.weights),
                            repeats=True, by_rows=self._by_rows),

    def _loss(self, p, z, stream, c=None, weights=None):
        x = z / self.scale_
        tau = self._times(stream, x)
        alpha, sigma, d_alpha, d_sigma = (a[:, None] for a in self._ode.path(tau))
        if c is not None:
            seen = (stream.uniform((len(z), 1), z.dtype, like=z) >= self.drop_context).astype(z.dtype)
            c = np.concatenate([c * seen, seen], axis=1)
        eps = self._noise(x, stream, c)
        F = self._ode.field(p, alpha * x + sigma * eps, x[:, :0] if c is None else c, features(tau))
        if self.target == "batch":
            x, eps = expected(x, eps, alpha, sigma, c, weights)
        return ops.sum(ops.square(F + d_alpha * x + d_sigma * eps), axis=1)

    def _conclude(self, seen, held):
        z = self.preprocess_.to(asnumpy).to_noise(None, held[0], stream=Stream(0))[0]
        far = np.argsort(-np.sum(np.square(z), axis=1), kind="stable")  # where the solver has the most to do
        rows = np.concatenate([far[:MEASURED // 2], np.sort(far[MEASURED // 2:])[:MEASURED // 2]])
        self.solver_error_ = self._solver_error(*(a if a is None else self._place(a[rows]) for a in held))

    def _solver_error(self, x, c):
        z, c = self.preprocess_.to_noise(None, x.astype(np.float64), stream=Stream(0))[0], _as(c, np.float64)
        once, twice = (self._solved(self._at(z.dtype), z, c, k * self.n_steps_) for k in (1, 2))
        with np.errstate(invalid="ignore"):
            error = float(np.max(abs(once - twice)))
        return error if math.isfinite(error) else sys.float_info.max

    # ------------------------------------------------------------ queries

    def _contexts(self, c, like):
        """What the network is given for rows `like`, (n, g (w + 1)), and what each is worth: F_u + guidance (F_c - F_u)."""
        self._check_solver()
        if c is None:
            return like[:, :0], (1.0,)
        seen = np.concatenate([c, np.ones_like(c[:, :1])], axis=1)
        if self.guidance == 1:
            return seen, (1.0,)
        return np.concatenate([np.zeros_like(seen), seen], axis=1), (1 - self.guidance, self.guidance)

    def _solved(self, p, z, c, n_steps):
        w, log_det = self._ode.to_noise(p, z / self.scale_, *self._contexts(c, z), n_steps)
        return standard_normal_log_prob(w) + log_det - z.shape[1] * math.log(self.scale_)

    def _log_density(self, p, z, c=None):
        return self._solved(p, z, c, self.n_steps_)

    def elbo(self, X, *, context=None):
        """An unbiased estimate of a lower bound on log p(x), (n,) nats, at 32 levels of noise, which are functions of the row.

        log p(x) >= -1/2 integral E|x - D(x_s)|^2 d(s^-2) + E log N(x; D(x_s), s^2 I) at the least s = sigma / alpha
                    - KL(w || N(0, I)) at the largest,    x_s = x + s eps = w / alpha,    D = sigma' w + sigma F

        It is of the stochastic equation with this denoiser, whose density is log_prob's where the denoiser is true. Raises as
        log_prob does. Source: Kingma et al. (2021), eqs. 11-13.
        """
        rows = max(self._multiple, 8192 // (LEVELS + 1) // self._multiple * self._multiple)

        def bound(p, z, c, log_det):
            return self._bound(p, z / self.scale_, c) - z.shape[1] * math.log(self.scale_) + log_det

        return beyond_numbers(self._rowwise(lambda x, c: self._in_space(bound, x, c), *self._check_both("elbo", X, context),
                                            rows=rows))

    def _bound(self, p, x, c):
        (n, d), (low, high) = x.shape, self._levels
        share, eps = np.zeros((n, LEVELS + 1), x.dtype), np.empty((n, LEVELS + 1, d), x.dtype)
        for i, stream in enumerate(row_streams(x)):
            share[i, 1:] = (np.arange(LEVELS) + stream.uniform(LEVELS)) / LEVELS  # the first is that of the least
            eps[i] = stream.normal((LEVELS + 1, d))
        share, eps = (np.asarray(a, like=x) for a in (share, eps))
        tau = self._level_time(share)
        alpha, sigma, d_alpha, d_sigma = (a[..., None] for a in self._ode.path(tau))
        w = alpha * x[:, None] + sigma * eps
        F = self._velocity(p, w.reshape(-1, d), c if c is None else np.repeat(c, LEVELS + 1, axis=0), tau.reshape(-1))
        off = np.sum(np.square(F.reshape(w.shape) + d_alpha * x[:, None] + d_sigma * eps), axis=2) * alpha[..., 0]**2
        last, noise = (float(a)**2 for a in self._ode.path(self._level_time(np.ones(())))[:2])
        kl = (np.sum(np.square(x), axis=1) * last + d * (noise - 1 - math.log(noise))) / 2
        length = math.log(high / low)
        return -length * np.mean(off[:, 1:], axis=1) - off[:, 0] / 2 - d * math.log(2 * math.pi * low**2) / 2 - kl

    def _represent(self, p, z, c=None):
        return self._ode.to_noise(p, z / self.scale_, *self._contexts(c, z), self.n_steps_, want=False)[0]

    def _reconstruct(self, p, h, c=None):
        return self.scale_ * self._ode.to_data(p, h, *self._contexts(c, h), self.n_steps_)

    def _draw(self, p, n, stream, c=None):
        w = stream.normal((n, self.n_features_in_), p.flat.dtype, like=p.flat)
        if self.solver == MULTISTEP:
            return self.scale_ * self._multistep(p, w, c)
        return self.scale_ * self._ode.to_data(p, w, *self._contexts(c, w), self.n_steps_, self.solver)

    def _velocity(self, p, w, c, tau):
        """F at the times of all rows, (n,), or at one."""
        return self._ode.velocity(p, w, *self._contexts(c, w), tau)

    def _multistep(self, p, w, c):
        """DPM-Solver++(2M), for lambda = log alpha / sigma and the row D = sigma' w + sigma F that is expected of w:

        w <- sigma_new / sigma w + alpha_new (1 - e^-h) (D + h / (2 h_before) (D - D_before)), first-order at both ends.
        """
        tau = np.linspace(1, 0, self.n_steps_ + 1)
        with np.errstate(divide="ignore"):
            alpha, sigma, _, d_sigma = self._ode.path(tau)
            h = np.diff(np.log(alpha) - np.log(sigma))
        before = None
        for k in range(self.n_steps_):
            row = float(d_sigma[k]) * w + float(sigma[k]) * self._velocity(p, w, c, tau[k])
            inside = 0 < k < self.n_steps_ - 1 and math.isfinite(h[k - 1])
            ahead = row + float(h[k] / (2 * h[k - 1])) * (row - before) if inside else row
            w = float(sigma[k + 1] / sigma[k]) * w + float(alpha[k + 1] * -math.expm1(-h[k])) * ahead
            before = row
        return w


def expected(x, eps, alpha, sigma, c=None, weights=None):
    """(E x, E eps), (n, d) both, given each w = alpha x + sigma eps and that its row is one of the batch's, x (n, d).

    P(row j | w_i) ~ weight_j N(w_i; alpha_i x_j, sigma_i^2 I), among the rows of the same context c (n, w). Every row of the
    batch was as likely to be that of w_i as its weight says: so these have the expectation of x and eps, given w, themselves.
    """
    a, share = alpha / np.maximum(sigma, 1e-6), 0.0
    for j in range(x.shape[1]):
        share -= 0.5 * np.square(eps[:, j:j + 1] + a * (x[:, j:j + 1] - x[:, j]))
    if c is not None:
        share = np.where(np.all(c[:, None] == c, axis=2), share, -1e30)
    if weights is not None:
        share = np.where(weights > 0, share, -1e30)
    share -= np.max(share, axis=1, keepdims=True)
    np.exp(share, out=share)  # in place: of rows by rows, memory is what takes the time
    if weights is not None:
        share *= weights
    total = np.maximum(np.sum(share, axis=1, keepdims=True), 1e-30)  # a row of no weight may have no other
    mean = ops.linear(share, x, np.zeros_like(x, shape=x.shape[1:])) / total
    return mean, eps + a * (x - mean)
