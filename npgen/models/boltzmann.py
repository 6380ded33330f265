"""The restricted Boltzmann machine: energies, their centred gradient, Gibbs chains, log Z exactly or between two bounds.

    p(v, h) = exp(-E(v, h)) / Z,    E(v, h) = s(v) - b . v - c . h - v W h,    h in {0, 1}^k
    F(v)    = -log sum_h exp(-E(v, h)) = s(v) - b . v - sum_j log(1 + exp(c_j + (v W)_j)),    log p(v) = -F(v) - log Z
    s(v)    = 0 for Bernoulli v; |v|^2 / 2 for normal v, of rows z = v exp(log_var / 2), one log-variance for all columns

Given a context x the biases are b + x B and c + x C, and log Z is one for every x. Centred parameters are of E of v - mu and
h - lam, whose gradient forgets which of 0 and 1 is which.

Legend: n rows, d features, k hidden units, m chains, w columns of context.
References: Smolensky (1986); Montavon & Mueller, Deep Boltzmann machines and the centering trick (2012); Melchior, Fischer
& Wiskott, How to center deep Boltzmann machines (2016); Salakhutdinov & Murray, On the quantitative analysis of deep belief
networks (2008); Burda, Grosse & Salakhutdinov, Accurate and conservative estimates of MRF log-likelihood using reverse
annealing (2015); Taylor, Hinton & Roweis, Modeling human motion using binary latent variables (2006), on biases of a context.
"""
import math

import numpy as np

from .. import fused, ops
from ..engine import Primitive
from ..fused import LOG_2PI
from ..heads.normal import mean_and_variance
from ..kernels import gibbs, gray, likelihood, masked_matmul
from ..kernels._constants import BERNOULLI, NORMAL
from ..kernels._cuda import asnumpy, is_device_array
from ..kernels._dispatch import placing
from ..masks import Plan
from ..nn import Part, beside
from ..ops import contiguous
from ..random import Stream
from .context import OfContexts

EXACT = 20      # units, of the smaller layer, whose states are summed over
APART = 2**61   # in a stream, from what draws the hidden units to what draws the visible ones, however many rows there are


def _against(energies, n, own):
    """The energies of the first n rows, less those of the chains behind them: of a row's own, or their mean."""
    return energies[:n] - (energies[n:] if own else ops.sum(energies[n:]) / len(energies[n:]))


def _cotangents(g, m, own):
    """Those of the energies of rows, g (n,), and of the m chains behind them; their sum is 0."""
    return np.concatenate([g, -g if own else np.zeros_like(g, shape=m) - g.sum() / m])


def _contrast(u, weight, visible, hidden, seen, active, known, n, own):
    a = known if len(known) else ops.linear(u, weight, hidden)
    return _against(fused.bernoulli_log_prob(np.zeros_like(a), a) - ops.matmul(u, visible), n, own), a


def _centred_gradient(tracked, ans, u, weight, visible, hidden, seen, active, known, n, own):
    a, plan = ans[1], Plan.dense(*weight.shape)

    def pull(g, out):
        g, places = g[0], dict(zip(tracked, out, strict=True))
        g = _cotangents(g, len(u) - n, own)
        units, on = gibbs.centred(*contiguous(g, u, a, seen, active))
        with placing([places[1]] if places.get(1) is not None else []):
            centred = masked_matmul.backward_weight(units, on, plan.mask_as(a.dtype, a), plan.blocks)
        found = {1: centred, 2: -ops.matmul(g, u) - ops.matmul(centred, active),
                 3: on.sum(axis=0) - ops.matmul(seen, centred)}  # as g sums to 0
        if 0 in tracked:
            off = on - g[:, None] * active
            found[0] = masked_matmul.backward_x(off, weight, plan.mask_as(a.dtype, a), plan.blocks) - g[:, None] * visible
        return [found[i] for i in tracked]
    return pull


# Free energies of rows, but for s, less those of chains (n,), u being both, and activations, which may be known already. The
# gradient is that of centred parameters, as the steps along it change these ones: the product of centred units. It has no
# derivative of its own.
_contrast_centred = Primitive(_contrast, joint=_centred_gradient, name="contrast_centred")


class Boltzmann(Part):
    """The machine of d visible and k hidden units: parameters weight (d, k), visible (d,), hidden (k,), log_var (1,) of a
    normal layer, and to_visible (w, d), to_hidden (w, k) of a context of w columns, which biases grow by; and what queries know
    beside them, base (d,), biases of units that are independent, and log_z (2,), unless each context has its own.

    u are rows (n, d) of the visible layer, of which a normal one has variance 1 given h.
    """

    def __init__(self, d, k, normal, w=0):
        self.d, self.k, self.w, self.normal, self.code = d, k, w, normal, NORMAL if normal else BERNOULLI
        self.log_z_of = OfContexts()

    def shapes(self):
        more = {"log_var": (1,)} if self.normal else {}
        given = {"to_visible": (self.w, self.d), "to_hidden": (self.w, self.k)} if self.w else {}
        return {"weight": (self.d, self.k), "visible": (self.d,), "hidden": (self.k,)} | given | more

    def query_shapes(self):
        return self.shapes() | {"base": (self.d,)} | ({} if self.w else {"log_z": (2,)})

    def init(self, z, c, stream, weights=None):
        weight = 0.01 * stream.normal((self.d, self.k), z.dtype)
        first = {"weight": weight, "visible": self.independent(z, weights)}
        first |= {name: np.zeros(shape, z.dtype) for name, shape in self.shapes().items() if name.startswith("to_")}
        if self.normal:
            log_var = np.log(np.maximum(mean_and_variance(z, weights)[1].mean(keepdims=True), 1e-30)).astype(z.dtype)
            first |= {"visible": first["visible"] * np.exp(-log_var / 2), "log_var": log_var}
        typical = first["visible"] if self.normal else ops.sigmoid(first["visible"])
        return first | {"hidden": -typical @ weight}  # at a typical row units are on as often as off, whichever is called 1

    def independent(self, z, weights=None):
        """Biases (d,) of independent units with the means of rows z; those of 0 and 1 are smoothed by a row of each."""
        mean = z.mean(axis=0) if weights is None else np.average(z, axis=0, weights=weights).astype(z.dtype)
        return mean if self.normal else np.log(mean * len(z) + 1) - np.log((1 - mean) * len(z) + 1)

    def scaled(self, p, z):
        """Rows z as rows u."""
        return z * ops.exp(-p["log_var"] / 2) if self.normal else z

    def given(self, p, c):
        """The parameters given a context of each row (n, w), of which biases are visible (n, d) and hidden (n, k); or None."""
        if c is None:
            return p
        return {**p, **{name: ops.linear(c, p[f"to_{name}"], p[name]) for name in ("visible", "hidden")}}

    def given_one(self, p, c):
        """The parameters given one context (w,), those of a machine without."""
        return {name: a[0] if name in ("visible", "hidden") else a for name, a in self.given(p, c[None]).items()}

    def activation(self, p, u):
        """The logits of the hidden units, (n, k)."""
        return _affine(u, p["weight"], p["hidden"])

    def probabilities(self, a):
        """Of the hidden units, of their activations (n, k)."""
        return likelihood.bernoulli_backward(-np.ones_like(a[:, 0]), np.zeros_like(a), a)

    def mean(self, p, h):
        """E[z | h], (n, d)."""
        outputs = _affine(h, np.transpose(p["weight"]), p["visible"])
        return outputs * ops.exp(p["log_var"] / 2) if self.normal else ops.sigmoid(outputs)

    def energy(self, p, u):
        """The free energy of rows u, (n,)."""
        a = self.activation(p, u)
        above = fused.bernoulli_log_prob(np.zeros_like(ops.stop_gradient(a)), a)  # minus the sum of their log(1 + e^a)
        energy = above - ops.sum(u * p["visible"], axis=1)
        return energy + ops.sum(ops.square(u), axis=1) / 2 if self.normal else energy

    def free_energy(self, p, z):
        """F of rows z, (n,): log p(z) = -F(z) - log Z."""
        energy = self.energy(p, self.scaled(p, z))
        return energy + self.d / 2 * p["log_var"] if self.normal else energy

    def contrast(self, p, z, chain, seen, active, known=None, c=None):
        """F(z) - mean F(chain), (n,), of rows z and chains (m, d) that are rows u; seen (d,), active (k,): the offsets.

        known: the activations of rows z and of chains, if somebody has computed them. c: the context (n, w) of rows, each of
        which has a chain of its own then, F(z) - F(chain); hidden units see it as w more visible ones, and seen is (d + w,).
        """
        known = np.zeros_like(chain, shape=(0, self.k)) if known is None else known
        u, n, own = ops.concatenate([self.scaled(p, z), chain]), len(z), c is not None
        weight, visible, units = p["weight"], p["visible"], u
        if own:
            c = np.concatenate([c, c])
            weight, units = ops.concatenate([weight, p["to_hidden"]]), beside(u, c)
            visible = ops.concatenate([visible, np.zeros_like(c, shape=self.w)])
        contrast = _contrast_centred(units, weight, visible, p["hidden"], seen, active, known, n, own)[0]
        if own:
            contrast = contrast - _against(ops.sum(u * (c @ p["to_visible"]), axis=1), n, own)
        if self.normal:
            contrast = contrast + _against(ops.sum(ops.square(u), axis=1) / 2, n, own) + self.d / 2 * p["log_var"]
        return contrast

    def begin(self, biases, m, stream):
        """m rows u of independent units with these biases."""
        stream = stream.spawn()
        if self.normal:
            return biases + stream.normal((m, self.d), biases.dtype, like=biases)
        return (stream.uniform((m, self.d), biases.dtype, like=biases) < ops.sigmoid(biases)).astype(biases.dtype)

    def moved(self, p, u, rows, n_steps, stream):
        """Chains u after n_steps Gibbs steps, and the activations of rows, then of these chains."""
        visible, hidden = (a if a.ndim == 2 else a[None] for a in (p["visible"], p["hidden"]))
        return gibbs.contrast(p["weight"], visible, hidden, u, rows, n_steps, self.code, *stream.spawn().key, 0, APART)

    def gibbs(self, p, u, ladder, stream):
        """Rows u, moved along a ladder of inverse temperatures (kernels/gibbs.py), and their log-weights (n,)."""
        key, like = stream.spawn().key, p["weight"]
        visible, hidden = (a if a.ndim == 2 else a[None] for a in (p["visible"], p["hidden"]))
        base = visible if "base" not in p else p["base"] + np.zeros_like(visible)
        if not is_device_array(ladder):
            ladder = np.asarray(np.asarray(ladder, dtype=like.dtype), like=like)
        return gibbs.chain(like, visible, hidden, base, ladder, u, self.code, *key, 0, APART)

    def log_weights(self, p):
        """log sum_v or sum_h exp(-E) of every state of the other layer, h (2^k,) if of_hidden or v (2^d,), in float64."""
        weight, visible, hidden = (np.ascontiguousarray(asnumpy(p[name]), dtype=np.float64)
                                   for name in ("weight", "visible", "hidden"))
        if self.of_hidden:
            constant = self.d / 2 * LOG_2PI if self.normal else 0.0
            return gray.log_weights(hidden, visible, np.ascontiguousarray(weight.T), self.code) + constant
        return gray.log_weights(visible, hidden, weight, BERNOULLI)

    @property
    def few(self):
        """Whether one layer has few enough states to sum over."""
        return self.k <= EXACT or not self.normal and self.d <= EXACT

    @property
    def of_hidden(self):
        """Whether the hidden layer's states are those to sum over, of which there are fewer."""
        return self.normal or self.k <= self.d

    def log_z(self, p, z, m, n_steps):
        """log Z (2,), exact where it can be, else annealed: from below and from above."""
        return np.full(2, ops.logsumexp(self.log_weights(p))) if self.few else self.annealed(p, z, m, n_steps, Stream(0))

    def annealed(self, p, z, m, n_steps, stream):
        """log Z (2,) by annealed importance sampling and by its reverse, of m chains and n_steps temperatures.

        E[exp] of the first is Z, so that it is too small on average; of minus the second 1 / Z, so that it is too large, if its
        chains, which begin at rows z and make n_steps Gibbs steps, have come to rest: a bracket. z: None for rows that the
        first ends at.
        """
        ladder, base = np.linspace(0, 1, n_steps + 1), p["base"].astype(np.float64)
        above = ops.square(base) / 2 + LOG_2PI / 2 if self.normal else ops.softplus(base)
        log_z = self.k * math.log(2) + float(np.sum(above))
        u, up = self.gibbs(p, self.begin(p["base"], m, stream), ladder, stream)
        u = u if z is None else self.scaled(p, z)[np.asarray(np.arange(m) % len(z), like=z)]
        down = self.gibbs(p, self.gibbs(p, u, np.ones(n_steps + 1), stream)[0], ladder[::-1].copy(), stream)[1]
        return log_z + np.array([1, -1]) * [float(ops.logsumexp(w)) - math.log(m) for w in (up, down)]


def _affine(x, weight, bias):
    """x weight + bias, of all rows (j,) or of each its own (n, j)."""
    return ops.linear(x, weight, bias) if bias.ndim == 1 else ops.linear(x, weight, np.zeros_like(bias[0])) + bias
