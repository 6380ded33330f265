"""RBM: a restricted Boltzmann machine, an undirected model of binary or real columns with one layer of binary hidden units.

The machine is in boltzmann.py. It is trained by persistent contrastive divergence: the gradient of F(data) - F(chain), chains
of p moved by a few Gibbs steps before each step, in centred parameters.

Given a context the chains begin at the rows of each batch: contrastive divergence. A chain that persists would be of
p(v | context) of one context, and the next batch has others.

Legend: n rows, d features, k hidden units, m chains, w columns of context.
References: Tieleman, Training restricted Boltzmann machines using approximations to the likelihood gradient (2008); Mnih,
Larochelle & Hinton, Conditional restricted Boltzmann machines for structured output prediction (2011); Hinton, Training
products of experts by minimizing contrastive divergence (2002); boltzmann.py has those of the machine.
"""
import numpy as np

from .. import ops
from ..checks import check_widths, read_only
from ..heads import from_config, head_for, untouched
from ..kernels import session
from ..kernels._cuda import asnumpy
from ..nn import beside
from ..train import Player
from .base import Capabilities, Follows
from .boltzmann import EXACT, Boltzmann
from .context import asked, distinct
from .gradient import GradientModel
from .overflow import beyond_numbers

SLIDE = 0.01    # of the offsets, per step
VISIBLE = "auto", "bernoulli", "normal"


class RBM(GradientModel):
    """Restricted Boltzmann machine; log_prob is exact where one layer has at most 20 units, else an estimate.

    n_hidden       hidden units
    visible        what the columns are: "bernoulli" (0 or 1), "normal", with one variance for all; "auto": Bernoulli for data
                   of 0 and 1, normal for others
    n_chains       Gibbs chains that are kept from step to step; given a context each row of a batch has one that begins there
    n_steps        Gibbs steps of each before every step of training
    n_annealed     inverse temperatures of annealed importance sampling, and Gibbs steps behind a sample, where neither is exact
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    Its loss, F(data) - F(chains), says nothing of how well it fits: it is trained for max_epochs, unless rows are held out to
    stop by, whose log_prob decides. Where no sum over states gives log Z, it lies between the answers of annealed importance
    sampling and its reverse, of n_chains chains (log_z_); log_prob is computed with the second, the cautious one, and
    log_prob_bracket with both. Samples are exact then too, or else annealed from independent columns in n_annealed Gibbs steps,
    and n_annealed more at the end. Given a context, biases are linear in it, and log Z is of each context: it is computed once
    for every one that is asked about, which is dear where all rows have others.
    encode gives the probabilities of the hidden units (n, k); decode the mean of x given h.
    Attribute: log_z_ (2,), log Z from below and from above, equal where it is exact; log_z(context) of a context's.
    Reference: Montavon & Mueller (2012).
    """

    n_hidden: int = 16
    visible: str = "auto"
    n_chains: int = 100
    n_steps: int = 1
    n_annealed: int = 1000
    max_epochs: int = 100
    batch_size: int = 50  # hundreds of rows make few steps otherwise: 300 rows of 10 bits end .3 nats lower
    # Adam of 3e-3 drives the chains of 784 pixels apart (-445 nats, where -140 can be had). A plain step on centred parameters
    # does not, if it is no longer than learning_rate, as 64 normal columns need: without a limit they end at -16,500, with it
    # at -129, by Adam at -134.
    optimizer: object = "sgd"
    learning_rate: float = 0.3
    clip_norm: float = 1.0
    average: object = 0.999
    validation_fraction: float = 0.0
    _objectives = ("pcd",)
    _takes_context = True
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
        if self.context_ is not None:
            raise AttributeError("log_z_: this RBM was fitted with a context, each of which has its own; ask log_z(context)")
        return read_only(self.params_["log_z"])

    @property
    def normaliser(self):
        """What is known of log Z, in words."""
        if self.context_ is not None:
            return "of each context its own, " + (
                "exact" if self._machine.few else "by annealed importance sampling and its reverse")
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
        return {"head": head, "machine": Boltzmann(d, chosen["n_hidden"], head.name == "normal", w)}

    def _players(self):
        return Player(loss=self._contrast, prepare=self._advance, repeats=True),

    def _contrast(self, p, batch, stream):
        chain = batch.carry["chain" if batch.context is None else "_chain"]
        seen, active, known = (batch.carry[name] for name in ("seen", "active", "_known"))
        return self._machine.contrast(p, batch.x, chain, seen, active, known, batch.context)

    def _advance(self, p, carry, batch, stream):
        """The chains after n_steps more Gibbs steps; the offsets, which follow the units' means over rows; what is known."""
        machine, c = self._machine, batch.context
        if "chain" not in carry:
            seen = machine.mean(p | ({"log_var": 0 * p["log_var"]} if machine.normal else {}), np.zeros_like(p["hidden"])[None])
            carry = {"seen": seen[0] if c is None else np.concatenate([seen[0], c.mean(axis=0)]),
                     "active": ops.sigmoid(machine.activation(p, seen))[0]}
            carry |= {"chain": machine.begin(p["visible"], self.n_chains, stream)} if c is None else {}
        u, p = machine.scaled(p, batch.x), machine.given(p, c)
        chain, known = machine.moved(p, carry["chain"] if c is None else u, u, self.n_steps, stream)
        return {"chain" if c is None else "_chain": chain, "_known": known} | {
            name: carry[name] + SLIDE * (units.mean(axis=0) - carry[name])
            for name, units in (("seen", beside(u, c)), ("active", machine.probabilities(known[:len(u)])))}

    def _monitor(self, p, batch, stream):
        return -self._log_density(p, batch.x, batch.context)

    def _statistics(self, p, z, c=None, weights=None):
        machine, p = self._machine, dict(p)
        p["base"] = machine.independent(machine.scaled(p, z))
        if c is not None:
            return {"base": p["base"]}
        log_z = machine.log_z(p, z, self.n_chains, self.n_annealed)
        return {"base": p["base"], "log_z": np.asarray(log_z.astype(z.dtype), like=z)}

    def _log_z(self, p, c):
        """log Z, (2,), or (n, 2) of every row's context."""
        if c is None:
            return p["log_z"]
        machine, n_annealed = self._machine, (self.n_chains, self.n_annealed)
        found = machine.log_z_of(lambda c: machine.log_z(machine.given_one(p, c), None, *n_annealed), p, c, n_annealed)
        return np.asarray(found.reshape(-1, 2).astype(c.dtype), like=c)

    def _log_density(self, p, z, c=None):
        return -self._machine.free_energy(self._machine.given(p, c), z) - self._log_z(p, c)[..., 1]

    def _draw(self, p, n, stream, c=None):
        machine, like = self._machine, p["weight"]
        choice, noise, here = stream.spawn(), stream.spawn(), machine.given(p, c)
        if not machine.few:
            up = np.linspace(0, 1, self.n_annealed + 1)
            ladder = np.concatenate([up, np.ones(self.n_annealed)])
            u = machine.gibbs(here, machine.begin(p["base"], n, choice), ladder, noise)[0]
            return u * np.exp(p["log_var"] / 2) if machine.normal else u
        u, states = choice.uniform(n, np.float64), np.zeros(n, np.int64)
        for at, rows in [(p, slice(None))] if c is None else [
                (machine.given_one(p, each), rows) for each, rows in distinct(c)]:
            log_weights = machine.log_weights(at)
            ends = np.cumsum(np.exp(log_weights - log_weights.max()))
            states[rows] = np.searchsorted(ends, u[rows] * ends[-1], side="right").clip(max=len(ends) - 1)
        units = states[:, None] >> np.arange(machine.k if machine.of_hidden else machine.d) & 1
        units = np.asarray(units.astype(like.dtype), like=like)
        if not machine.of_hidden:
            return units
        mean = machine.mean(here, units)
        if machine.normal:
            return mean + np.exp(p["log_var"] / 2) * noise.normal(mean.shape, like.dtype, like=like)
        return (noise.uniform(mean.shape, like.dtype, like=like) < mean).astype(like.dtype)

    def _represent(self, p, z, c=None):
        machine = self._machine
        return ops.sigmoid(machine.activation(machine.given(p, c), machine.scaled(p, z)))

    def _reconstruct(self, p, h, c=None):
        return self._machine.mean(self._machine.given(p, c), h)

    def free_energy(self, X, *, context=None):
        """F(x) of every row, (n,) nats, in the data's own space: log_prob(X) = -F(X) - log_z_[1]. Raises as log_prob does."""
        def minus(x, c=None):
            machine = self._machine
            return self._in_space(lambda p, z, c, log_det: log_det - machine.free_energy(machine.given(p, c), z), x, c)

        return -beyond_numbers(self._rowwise(minus, *self._check_both("free_energy", X, context)))

    def log_z(self, context=None):
        """log Z of every row of context (m, w), from below and from above: (m, 2); (1, 2) of a machine without.

        Raises NotFittedError, and ValueError for another context than fit had.
        """
        self._check_fitted("log_z")
        c = asked(self, "log_z", context)
        with session():
            return asnumpy(self._log_z(self.params_, c if c is None else self._place(c))).reshape(-1, 2)

    def log_prob_bracket(self, X, *, context=None):
        """log p(x) of every row by the larger and by the smaller log Z, of log_z_ or its context's: (n, 2) nats, the first what
        log_prob gives.

        Both are the same where log Z is exact. Raises as log_prob does.
        """
        log_prob = self.log_prob(X, context=context)
        low, high = self.log_z_.astype(log_prob.dtype) if self.context_ is None else np.asarray(
            self.log_z(context).astype(log_prob.dtype), like=log_prob).T
        return np.stack([log_prob, log_prob + (high - low)], axis=1)
