"""Ordinary differential equations whose velocity is a network: what carries data to noise and back, with its log-determinant.

    dw/dtau = rate(tau) F(w, c; tau),    tau from 0 (data) to 1 (noise)
    log |det dw(1)/dw(0)| = integral of rate div F,    div F = p_2^T [W_2 * (W_1 W_3)^T] p_1

F is a network of two hidden layers with a smooth activation, f and p = f', which makes its divergence one product more, exact
in any number of dimensions. Farther out than rows that it was fitted to, it is no more than what its units happen to be there,
linear, and of slopes by which rows run off beyond all numbers: there F goes over to that of a normal distribution (the rim of
kernels/trajectory.py), to which no row is too far out. SOLVERS are explicit Runge-Kutta methods in fixed steps: (alpha, beta)
as kernels/trajectory.py has them, where alpha are also the times of the stages.

Legend: n rows, d columns, w columns of context, e features of time, t steps, s stages, g contexts of guidance.
References: Chen et al., Neural ordinary differential equations (2018); Grathwohl et al., FFJORD (2019); Tancik et al., Fourier
features let networks learn high frequency functions in low dimensional domains (2020), on bandwidths; Sitzmann et al., Implicit
neural representations with periodic activation functions (2020), on first layers of sin.
"""
import math

import numpy as np

from . import fused, ops
from .kernels import trajectory as _kernel
from .nn import MLP, Part
from .ops import contiguous
from .tensor import value_of

SOLVERS = {"euler": ([0], [1]), "heun": ([0, 1], [1 / 2, 1 / 2]), "rk4": ([0, 1 / 2, 1 / 2, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6])}
N_FEATURES = 8  # of time
BEYOND = 4.0  # what a norm of noise exceeds sqrt(d) by in fewer than one row of a million


def features(tau):
    """cos(k pi tau), k = 1..N_FEATURES, (..., e): what the network sees of time."""
    frequencies = math.pi * np.arange(1, N_FEATURES + 1, dtype=np.float64, like=tau)  # made where tau lies
    return np.cos(np.expand_dims(tau, -1) * frequencies.astype(tau.dtype))


class Field(Part):
    """The network F(w, c; tau) of d outputs, parameters `name`: two hidden layers, and a last one that begins at 0.

    Its units are of SiLU; where first_layer is "sine", those of the first layer are of sin: Fourier features whose frequencies
    are learned.

    bandwidth: above 1, units of the first layer begin with weights of w that are 1 to bandwidth times larger, evenly in their
    logarithm, and bend (of sin: are 0) where a row from N(0, I) lies; a network learns what is finer than its units' bends
    last, or not at all.
    """

    def __init__(self, name, d, n_context, hidden, bandwidth=1.0, first_layer="silu"):
        self.name, self.d, self.n_context, self.bandwidth, self.sine = name, d, n_context, bandwidth, first_layer == "sine"
        self.net = MLP(name, (d + n_context + N_FEATURES, *hidden, d), last_gain=0.0)

    @property
    def layout(self):
        return self.net.layout

    def shapes(self):
        return self.net.shapes()

    def init(self, z, c, stream, weights=None):
        params = self.net.init(z, c, stream, weights)
        if self.bandwidth > 1:
            weight, bias = self.layout.weight_and_bias(params[self.name], 0)
            seen = weight[:self.d]
            seen *= (self.bandwidth ** stream.uniform(bias.shape)).astype(z.dtype)
            bias -= np.sum(seen * stream.normal(seen.shape, z.dtype), axis=0)
        return params

    def __call__(self, p, w, c, e):
        """F (n, d) at rows w (n, d), their context c (n, n_context) and features of their times e (n, e)."""
        return self._layers(p[self.name], w, c, e)[0]

    def _layers(self, params, w, c, e):
        """F, and the sums that enter both activations."""
        h, sums, layers = ops.concatenate([w, c, e], axis=1), [], fused.layers(params, self.layout)
        for layer, plan in enumerate(self.layout.plans):
            z = ops.masked_matmul(h, *layers[2 * layer:2 * layer + 2], plan)
            h = ops.sin(z) if self.sine and layer == 0 else fused.silu(z) if layer < 2 else z
            sums.append(z)
        return h, sums[:2]

    def with_divergence(self, params, w, c, e):
        """F (n, d) and its divergence by w, (n,)."""
        F, sums = self._layers(params, w, c, e)
        p1, p2 = ops.cos(sums[0]) if self.sine else _slope(sums[0]), _slope(sums[1])
        first, second, third = (self.layout.weight_and_bias(params, layer)[0] for layer in range(3))
        return F, ops.sum((p1 @ (second * np.transpose(third @ first[:self.d]))) * p2, axis=1)


def _slope(z):
    """The derivative of SiLU."""
    s = ops.sigmoid(z)
    return s * (1 + z * (1 - s))


def integrate(velocity, w, rates, alpha, beta):
    """(w, log_det) after the steps of rates (t, s), for velocity(w, t, s) -> F (n, d), div F (n,): differentiable."""
    log_det = 0.0
    for t, rate in enumerate(rates):
        start, k = w, 0.0
        for s in range(len(alpha)):
            F, div = velocity(start + float(alpha[s]) * k, t, s)
            k = float(rate[s]) * F
            w, log_det = w + float(beta[s]) * k, log_det + float(beta[s] * rate[s]) * div
    return w, log_det


def held(F, div, w, rim):
    """F (n, d) and its divergence (n, 1) at rows w within reach, slope w and its beyond, as kernels/trajectory.py has it.

    rim (2,) or (n, 2): reach and slope, of all rows or of each.
    """
    reach, slope = (np.reshape(rim[..., i], (-1, 1)) for i in range(2))
    last = (1 + _kernel.BAND) * reach
    r = ops.sqrt(np.clip(ops.sum(ops.square(w), axis=1, keepdims=True), reach**2, last**2))
    u, out, far, near = (r / reach - 1) / _kernel.BAND, slope * w, slope * w.shape[1], value_of(r) < last
    share, bend = 1 - u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3), -140 * (u * (1 - u))**3 / (_kernel.BAND * reach)
    across = ops.sum(np.where(near, F - out, 0.0) * w, axis=1, keepdims=True) / r
    return np.where(near, out + share * (F - out), out), np.where(near, far + share * (div - far) + bend * across, far)


def _solve_formula(w, params, field, contexts, shares, at, rim, rates, alpha, beta, want):
    at, there = (np.asarray(a.astype(w.dtype), like=value_of(w)) for a in (at, rim))

    def velocity(w, t, s):
        F, div = 0.0, 0.0
        for g, share in enumerate(shares):
            c = contexts[:, g * field.n_context:(g + 1) * field.n_context]
            e = np.broadcast_to(at[t, s], (len(w), N_FEATURES))
            one, more = field.with_divergence(params, w, c, e)
            F, div = F + float(share) * one, div + float(share) * more
        if rim[t, s, 0] < math.inf:
            F, div = held(F, div[:, None], w, there[t, s])
            div = div[:, 0]
        return F, div if want else 0 * div
    return integrate(velocity, w, rates, alpha, beta)


def _solve_forward(w, params, field, contexts, shares, at, rim, rates, alpha, beta, want):
    return _kernel.solve(*contiguous(w, params), field.layout.cut[0], *contiguous(contexts), shares, at, rim, rates, alpha,
                         beta, want, field.sine)


_solve = fused.fused("trajectory", _solve_formula, _solve_forward, lambda *args: None)


class Trajectory(Part):
    """The equation of a field F: rows go to their noise, and noise to its row.

    path and rate, functions of tau: alpha, sigma and their derivatives (models/ode.py), and the rate.
    contexts (n, g n_context) and shares (g,): F = sum_g share_g F(w, c_g; tau), as guidance has it.
    extent: the largest norm and the root mean square of the rows at tau = 0 that it is fitted to; None: F is its network's.
    """

    def __init__(self, name, d, n_context, hidden, path, rate, extent=None, bandwidth=1.0, first_layer="silu"):
        self.field = Field(name, d, n_context, hidden, bandwidth, first_layer)
        self.path, self.rate, self.extent = path, rate, extent

    def shapes(self):
        return self.field.shapes()

    def init(self, z, c, stream, weights=None):
        return self.field.init(z, c, stream, weights)

    def rim(self, tau):
        """Of times tau, how far out the network is F, and by which slope a row goes on beyond: (..., 2).

        The norm of the largest row with noise at right angles; and the field of rows from N(0, rms^2 I).
        """
        if self.extent is None:
            return np.stack([np.full_like(tau, math.inf), np.zeros_like(tau)], axis=-1)
        (largest, rms), (alpha, sigma, d_alpha, d_sigma) = self.extent, self.path(tau)
        slope = -(d_alpha * alpha * rms**2 + d_sigma * sigma) / ((alpha * rms)**2 + sigma**2)
        reach = np.sqrt((alpha * largest)**2 + (sigma * (math.sqrt(self.field.d) + BEYOND))**2)
        return np.stack([reach, slope], axis=-1)

    def velocity(self, p, w, contexts, shares, tau):
        """F (n, d) at rows w, at the times of each (n,), or at one."""
        e = features(np.asarray(tau, dtype=w.dtype, like=w))
        e = np.broadcast_to(e, (len(w), e.shape[-1]))
        F = sum(share * self.field(p, w, c, e) for share, c in
                zip(shares, np.split(contexts, len(shares), axis=1), strict=True))
        return F if self.extent is None else held(F, 0.0, w, self.rim(np.asarray(tau, dtype=w.dtype, like=w)))[0]

    def to_noise(self, p, w, contexts, shares, n_steps, solver="rk4", want=True):
        """w at tau = 1 for rows w at tau = 0, (n, d), and log |det| (n,), nats; 0 unless it is wanted."""
        return self._solved(p, w, contexts, shares, n_steps, solver, want, 0.0, 1.0)

    def to_data(self, p, w, contexts, shares, n_steps, solver="rk4"):
        """w at tau = 0 for rows w at tau = 1, (n, d)."""
        return self._solved(p, w, contexts, shares, n_steps, solver, False, 1.0, -1.0)[0]

    def _solved(self, p, w, contexts, shares, n_steps, solver, want, start, sign):
        alpha, beta = (np.array(a, np.float64) for a in SOLVERS[solver])
        tau = start + sign * (np.arange(n_steps)[:, None] + alpha) / n_steps
        rates = sign / n_steps * self.rate(tau)
        return _solve(w, p[self.field.name], self.field, contexts, np.array(shares, np.float64), features(tau), self.rim(tau),
                      rates, alpha, beta, want)
