"""RBM: a restricted Boltzmann machine, an undirected model of binary or real columns with one layer of binary hidden units.

    p(v, h) = exp(-E(v, h)) / Z,    E(v, h) = s(v) - b . v - c . h - v W h,    h in {0, 1}^k
    F(v)    = -log sum_h exp(-E(v, h)) = s(v) - b . v - sum_j log(1 + exp(c_j + (v W)_j)),    log p(v) = -F(v) - log Z
    s(v)    = 0 for Bernoulli v; |v|^2 / 2 for normal v, of rows z = v exp(log_var / 2), one log-variance for all columns

Trained by persistent contrastive divergence: the gradient of F(data) - F(chain), chains of p moved by a few Gibbs steps before
each step, in centred parameters, E of v - mu and h - lam, whose gradient forgets which of 0 and 1 is which.

Legend: n rows, d features, k hidden units, m chains.
References: Smolensky (1986); Tieleman, Training restricted Boltzmann machines using approximations to the likelihood gradient
(2008); Montavon & Mueller, Deep Boltzmann machines and the centering trick (2012); Melchior, Fischer & Wiskott, How to center
deep Boltzmann machines (2016); Salakhutdinov & Murray, On the quantitative analysis of deep belief networks (2008); Burda,
Grosse & Salakhutdinov, Accurate and conservative estimates of MRF log-likelihood using reverse annealing (2015).
"""
import math

import numpy as np

from .. import fused, ops
from ..checks import check_widths, read_only
from ..engine import Primitive
from ..fused import LOG_2PI
from ..heads import from_config, head_for, untouched
from ..heads.normal import mean_and_variance
from ..kernels import gibbs, gray, likelihood, masked_matmul
from ..kernels._constants import BERNOULLI, NORMAL
from ..kernels._cuda import asnumpy, is_device_array
from ..kernels._dispatch import placing
from ..masks import Plan
from ..nn import Part
from ..ops import _c
from ..random import Stream
from ..train import Player
from .base import Capabilities, Follows
from .gradient import GradientModel
from .overflow import beyond_numbers

EXACT = 20      # units, of the smaller layer, whose states are summed over
SLIDE = 0.01    # of the offsets, per step
APART = 2**61   # in a stream, from what draws the hidden units to what draws the visible ones, however many rows there are
VISIBLE = "auto", "bernoulli", "normal"


def _energies(u, weight, visible, hidden, seen, active, known):
    a = ops.linear(u[len(known):], weight, hidden)
    a = np.concatenate([known, a]) if len(known) else a
    return fused.bernoulli_log_prob(np.zeros_like(a), a) - u @ visible, a


def _centred_gradient(tracked, ans, u, weight, visible, hidden, seen, active, known):
    a, plan = ans[1], Plan.dense(*weight.shape)

    def pull(g, out):
        g, places = *_c(g[0]), dict(zip(tracked, out, strict=True))
        on = likelihood.bernoulli_backward(g, np.zeros_like(a), a)  # -g sigmoid(a)
        with placing([places[1]] if places.get(1) is not None else []):
            centred = masked_matmul.backward_weight(u - seen, on + g[:, None] * active, plan.mask_as(a.dtype, a), plan.blocks)
        found = {1: centred, 2: -(g @ u) - centred @ active, 3: on.sum(axis=0) - seen @ centred}
        if 0 in tracked:
            found[0] = masked_matmul.backward_x(on, weight, plan.mask_as(a.dtype, a), plan.blocks) - g[:, None] * visible
        return [found[i] for i in tracked]
    return pull


# Free energies (n,) of rows u (n, d), but for s(u), and activations (n, k), of which the first rows' are known already. The
# gradient is that of centred parameters, as the steps along it change these ones, if the energies' cotangents sum to zero: then
# it is the product of centred units. It has no derivative of its own.
_energies_centred = Primitive(_energies, joint=_centred_gradient, name="energies_centred")


class Boltzmann(Part):
    """The machine of d visible and k hidden units: parameters weight (d, k), visible (d,), hidden (k,), and log_var (1,) of a
    normal layer; and what queries know beside them, base (d,), biases of units that are independent, and log_z (2,).

    u are rows (n, d) of the visible layer, of which a normal one has variance 1 given h.
    """

    def __init__(self, d, k, normal):
        self.d, self.k, self.normal, self.code = d, k, normal, NORMAL if normal else BERNOULLI

    def shapes(self):
        more = {"log_var": (1,)} if self.normal else {}
        return {"weight": (self.d, self.k), "visible": (self.d,), "hidden": (self.k,)} | more

    def query_shapes(self):
        return self.shapes() | {"base": (self.d,), "log_z": (2,)}

    def init(self, z, c, stream, weights=None):
        weight = 0.01 * stream.normal((self.d, self.k), z.dtype)
        first = {"weight": weight, "visible": self.independent(z, weights)}
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

    def activation(self, p, u):
        """The logits of the hidden units, (n, k)."""
        return ops.linear(u, p["weight"], p["hidden"])

    def mean(self, p, h):
        """E[z | h], (n, d)."""
        outputs = ops.linear(h, np.transpose(p["weight"]), p["visible"])
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

    def contrast(self, p, z, chain, seen, active, known=None):
        """F(z) - mean F(chain), (n,), of rows z and chains (m, d) that are rows u; seen (d,), active (k,): the offsets.

        known: the activations of rows z, (n, k), if somebody has computed them.
        """
        known = np.zeros_like(chain, shape=(0, self.k)) if known is None else known
        u = ops.concatenate([self.scaled(p, z), chain])
        energies = _energies_centred(u, p["weight"], p["visible"], p["hidden"], seen, active, known)[0]
        energies = energies + ops.sum(ops.square(u), axis=1) / 2 if self.normal else energies
        contrast = energies[:len(z)] - ops.sum(energies[len(z):]) / len(chain)
        return contrast + self.d / 2 * p["log_var"] if self.normal else contrast

    def begin(self, biases, m, stream):
        """m rows u of independent units with these biases."""
        stream = stream.spawn()
        if self.normal:
            return biases + stream.normal((m, self.d), biases.dtype, like=biases)
        return (stream.uniform((m, self.d), biases.dtype, like=biases) < ops.sigmoid(biases)).astype(biases.dtype)

    def gibbs(self, p, u, ladder, stream):
        """Rows u, moved along a ladder of inverse temperatures (kernels/gibbs.py), and their log-weights (n,)."""
        key, like = stream.spawn().key, p["weight"]
        base = p.get("base", p["visible"])
        if not is_device_array(ladder):
            ladder = np.asarray(np.asarray(ladder, dtype=like.dtype), like=like)
        return gibbs.chain(like, p["visible"], p["hidden"], base, ladder, u, self.code, *key, 0, APART)

    def log_weights(self, p):
        """log sum_v or sum_h exp(-E) of every state of the other layer, (2^k,) or (2^d,), in float64; and whether it is h's."""
        weight, visible, hidden = (np.ascontiguousarray(asnumpy(p[name]), dtype=np.float64)
                                   for name in ("weight", "visible", "hidden"))
        if self.normal or self.k <= self.d:
            constant = self.d / 2 * LOG_2PI if self.normal else 0.0
            return gray.log_weights(hidden, visible, np.ascontiguousarray(weight.T), self.code) + constant, True
        return gray.log_weights(visible, hidden, weight, BERNOULLI), False

    @property
    def few(self):
        """Whether one layer has few enough states to sum over."""
        return self.k <= EXACT or not self.normal and self.d <= EXACT

    def annealed(self, p, z, m, n_steps, stream):
        """log Z (2,) by annealed importance sampling and by its reverse, of m chains and n_steps temperatures.

        E[exp] of the first is Z, so that it is too small on average; of minus the second 1 / Z, so that it is too large, if its
        chains, which begin at rows z and make n_steps Gibbs steps, have come to rest: a bracket.
        """
        ladder, base = np.linspace(0, 1, n_steps + 1), p["base"].astype(np.float64)
        above = ops.square(base) / 2 + LOG_2PI / 2 if self.normal else ops.softplus(base)
        log_z = self.k * math.log(2) + float(np.sum(above))
        up = self.gibbs(p, self.begin(p["base"], m, stream), ladder, stream)[1]
        u = self.scaled(p, z)[np.asarray(np.arange(m) % len(z), like=z)]
        down = self.gibbs(p, self.gibbs(p, u, np.ones(n_steps + 1), stream)[0], ladder[::-1].copy(), stream)[1]
        return log_z + np.array([1, -1]) * [float(ops.logsumexp(w)) - math.log(m) for w in (up, down)]


class RBM(GradientModel):
    """Restricted Boltzmann machine; log_prob is exact where one layer has at most 20 units, else an estimate.

    n_hidden       hidden units
    visible        what the columns are: "bernoulli" (0 or 1), "normal", with one variance for all; "auto": Bernoulli for data
                   of 0 and 1, normal for others
    n_chains       Gibbs chains that are kept from step to step
    n_steps        Gibbs steps of each before every step of training
    n_annealed     inverse temperatures of annealed importance sampling, and Gibbs steps behind a sample, where neither is exact
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    Its loss, F(data) - F(chains), says nothing of how well it fits: it is trained for max_epochs, unless rows are held out to
    stop by, whose log_prob decides. Where no sum over states gives log Z, it lies between the answers of annealed importance
    sampling and its reverse, of n_chains chains (log_z_); log_prob is computed with the second, the cautious one, and
    log_prob_bracket with both. Samples are exact then too, or else annealed from independent columns in n_annealed Gibbs steps,
    and n_annealed more at the end.
    encode gives the probabilities of the hidden units (n, k); decode the mean of x given h.
    Attribute: log_z_ (2,), log Z from below and from above, equal where it is exact.
    Reference: Montavon & Mueller (2012).
    """

    n_hidden: int = 16
    visible: str = "auto"
    n_chains: int = 100
    n_steps: int = 1
    n_annealed: int = 1000
    max_epochs: int = 100
    learning_rate: float = 3e-3
    validation_fraction: float = 0.0
    _objectives = ("pcd",)
    n_hidden_ = Follows()

    @property
    def _capabilities(self):
        n_hidden = getattr(self, "n_hidden_", self.n_hidden)
        few = self._machine.few if "machine" in self._parts else isinstance(n_hidden, int) and n_hidden <= EXACT
        return Capabilities("exact" if few else "estimate", "probabilities of the hidden units", invertible=False)

    @property
    def _untouched(self):
        return self.visible == "bernoulli" or untouched(self.visible)

    @property
    def n_latent_(self):
        return self.n_hidden_

    @property
    def log_z_(self):
        """log Z (2,): from below and from above, of rows where preprocessing leads to."""
        self._check_fitted("log_z_")
        return read_only(self.params_["log_z"])

    @property
    def normaliser(self):
        """What is known of log Z, in words."""
        low, high = self.log_z_
        return f"{high:.4f}, exact" if self._machine.few else (
            f"from {low:.4f} to {high:.4f}, by annealed importance sampling and its reverse; log p(x) is by the second, and up "
            f"to {high - low:.4f} more")

    def _choose(self, z, c, stream):
        if not isinstance(self.visible, str) or self.visible not in VISIBLE:
            raise ValueError(f"visible must be one of {', '.join(VISIBLE)}, got {self.visible!r}")
        (n_hidden,) = check_widths("n_hidden", (self.n_hidden,))
        for name in ("n_chains", "n_steps", "n_annealed"):
            check_widths(name, (getattr(self, name),))
        return {"n_hidden": n_hidden, "head": head_for(self.visible, z).config()}

    def _assemble(self, d, w, chosen):
        head = from_config(chosen["head"])
        if head.name not in VISIBLE:
            raise ValueError(f"an RBM has no {head.name} columns")
        return {"head": head, "machine": Boltzmann(d, chosen["n_hidden"], head.name == "normal")}

    def _players(self):
        return Player(loss=self._contrast, prepare=self._advance),

    def _contrast(self, p, batch, stream):
        carry = batch.carry
        return self._machine.contrast(p, batch.x, carry["chain"], carry["seen"], carry["active"], carry["known"])

    def _advance(self, p, carry, batch, stream):
        """The chains after n_steps more Gibbs steps; the offsets, which follow the units' means over rows; what is known."""
        machine = self._machine
        if "chain" not in carry:
            seen = machine.mean(p | ({"log_var": 0 * p["log_var"]} if machine.normal else {}), np.zeros_like(p["hidden"])[None])
            carry = {"chain": machine.begin(p["visible"], self.n_chains, stream), "seen": seen[0],
                     "active": ops.sigmoid(machine.activation(p, seen))[0]}
        u = machine.scaled(p, batch.x)
        known = machine.activation(p, u)
        active = ops.sigmoid(known)
        chain = machine.gibbs(p, carry["chain"], np.ones_like(p["weight"], shape=self.n_steps + 1), stream)[0]
        return {"chain": chain, "known": known} | {name: carry[name] + SLIDE * (units.mean(axis=0) - carry[name])
                                   for name, units in (("seen", u), ("active", active))}

    def _monitor(self, p, batch, stream):
        return -self._log_density(p, batch.x)

    def _statistics(self, p, z, c=None, weights=None):
        machine, p = self._machine, dict(p)
        p["base"] = machine.independent(machine.scaled(p, z))
        if machine.few:
            log_z = np.full(2, ops.logsumexp(machine.log_weights(p)[0]))
        else:
            log_z = machine.annealed(p, z, self.n_chains, self.n_annealed, Stream(0))
        return {"base": p["base"], "log_z": np.asarray(log_z.astype(z.dtype), like=z)}

    def _log_density(self, p, z, c=None):
        return -self._machine.free_energy(p, z) - p["log_z"][1]

    def _draw(self, p, n, stream, c=None):
        machine, like = self._machine, p["weight"]
        choice, noise = stream.spawn(), stream.spawn()
        if not machine.few:
            up = np.linspace(0, 1, self.n_annealed + 1)
            u = machine.gibbs(p, machine.begin(p["base"], n, choice), np.concatenate([up, np.ones(self.n_annealed)]), noise)[0]
            return u * np.exp(p["log_var"] / 2) if machine.normal else u
        log_weights, of_hidden = machine.log_weights(p)
        ends = np.cumsum(np.exp(log_weights - log_weights.max()))
        states = np.searchsorted(ends, choice.uniform(n, np.float64) * ends[-1], side="right").clip(max=len(ends) - 1)
        size = machine.k if of_hidden else machine.d
        units = np.asarray((states[:, None] >> np.arange(size) & 1).astype(like.dtype), like=like)
        if not of_hidden:
            return units
        mean = machine.mean(p, units)
        if machine.normal:
            return mean + np.exp(p["log_var"] / 2) * noise.normal(mean.shape, like.dtype, like=like)
        return (noise.uniform(mean.shape, like.dtype, like=like) < mean).astype(like.dtype)

    def _represent(self, p, z, c=None):
        return ops.sigmoid(self._machine.activation(p, self._machine.scaled(p, z)))

    def _reconstruct(self, p, h, c=None):
        return self._machine.mean(p, h)

    def free_energy(self, X):
        """F(x) of every row, (n,) nats, in the data's own space: log_prob(X) = -F(X) - log_z_[1]. Raises as log_prob does."""
        def minus(x, c=None):
            return self._in_space(lambda p, z, c, log_det: log_det - self._machine.free_energy(p, z), x, c)

        return -beyond_numbers(self._rowwise(minus, self._check("free_energy", X)))

    def log_prob_bracket(self, X):
        """log p(x) of every row by the larger and by the smaller log Z of log_z_: (n, 2) nats, the first what log_prob gives.

        Both are the same where log Z is exact. Raises as log_prob does.
        """
        log_prob = self.log_prob(X)
        low, high = self.log_z_.astype(log_prob.dtype)
        return np.stack([log_prob, log_prob + (high - low)], axis=1)
