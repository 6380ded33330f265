"""Mistakes, each one edit of npgen's source, that npgen.testing.check_generative_model has to flag; and sound models.

    python tests/mutants.py               the kill table: what finds each mistake
    python tests/mutants.py --seeds 200   sound models, drawn and fitted with fresh seeds: how many are flagged

A mutant replaces a piece of text in the source of one function, which then takes the place of the old one wherever it is used.
Of a kernel, the NumPy reference is edited, and every record of that kernel runs the edited reference.
"""
import argparse
import contextlib
import dataclasses
import importlib
import inspect
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest

import npgen
from npgen import data, priors
from npgen.heads import Atoms, Grid, Mapped, MixtureOfNormals, Normal, Pooled, Scale, Tied
from npgen.kernels import Kernel
from npgen.models import (
    GAN,
    GMMN,
    MADE,
    MAF,
    NSF,
    VAE,
    Autoencoder,
    BayesClassifier,
    Diffusion,
    EnergyModel,
    FlowMatching,
    GaussianMixture,
    Mixture,
    RealNVP,
)
from npgen.priors import Flow
from npgen.testing import check_generative_model
from npgen.transforms import Chain, Dequantize, Logit


def normals(seed):
    rng = np.random.default_rng([seed, 1])
    return rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)) * [1, 20, 0.1, 3, 1] + [0, 300, 0, -7, 1]


def bits(seed):
    x = np.random.default_rng([seed, 2]).normal(size=(300, 5))
    return (x[:, :4] + x[:, [4]] > 0).astype(float)


def counts(seed):
    x = np.random.default_rng([seed, 3]).normal(size=(300, 3))
    return np.clip(np.round(2 + 1.3 * x[:, :2] + x[:, [2]]), 0, 5)


def unit(seed):
    return 1 / (1 + np.exp(-data.moons(300, seed)))


def moons(seed):
    return data.moons(300, seed)


def narrow(seed):
    """Two clusters, one a hundredth as wide as the other, far from 0."""
    x = np.random.default_rng([seed, 4]).normal(size=(800, 2))
    return x * np.where(np.arange(800) < 400, 1, 0.01)[:, None] + 1e6


def mixed(seed):
    return np.column_stack([normals(seed)[:, :2], bits(seed)[:, :1], counts(seed)[:, :1]])


def kinds(seed):
    return np.column_stack([normals(seed)[:, :1], counts(seed)[:, :1], bits(seed)[:, :1]])


def cells(seed):
    """Counts, counts with many zeros, and levels of which two are rare."""
    x, rng = counts(seed), np.random.default_rng([seed, 5])
    return np.column_stack([x[:, 0], np.where(rng.random(300) < 0.4, 0, x[:, 1]), rng.choice(4, 300, p=[0.5, 0.3, 0.12, 0.08])])


def amounts(seed):
    return np.exp(normals(seed)[:, [0, 3]] / [1, 4])


def heads_of_cells(base, low=0):
    return [Grid(base, low=low, high=5), Atoms(Grid(base, low=0), [0.0]), Pooled([0, 1], [2, 3], [0.9, 0.1])]


def tied():
    """Counts and counts with many zeros by normals that components share; levels."""
    book = [[0.0, 0.0], [2.0, 0.5], [4.0, 1.0]]
    return [Tied(Grid(Normal(limit=None), low=0, high=5), book), Atoms(Tied(Grid(Normal(limit=None), low=0), book), [0.0]),
            Pooled([0, 1], [2, 3], [0.9, 0.1])]


def named(seed):
    return data.Table(normals(seed)[:, :3], ["a", "b", "c"])


class Labelled:
    """What fits a classifier to rows that are labelled by their first column."""

    def __init__(self, *args, **options):
        self.model = BayesClassifier(*args, **options)

    def fit(self, X):
        return self.model.fit(X, np.where(X[:, 0] > 0.8, "right", "left"))


TRAINING = {"max_epochs": 15, "learning_rate": 5e-3, "batch_size": 50}
LONGER = TRAINING | {"max_epochs": 50}
MODELS = {  # name -> (the model for a seed, the rows for a seed)
    "MADE, bits": (lambda s: MADE(hidden=(12,), order=(2, 0, 3, 1), random_state=s, **TRAINING), bits),
    "MADE, real": (lambda s: MADE(hidden=(16,), order=(1, 2, 0), random_state=s, **TRAINING), lambda s: normals(s)[:, :3]),
    "MADE, moons": (lambda s: MADE(hidden=(16,), order=(1, 0), random_state=s, **TRAINING), moons),
    "MADE, mixture head": (lambda s: MADE(hidden=(16,), order=(1, 0), head=MixtureOfNormals(2), random_state=s, **TRAINING),
                           moons),
    "MADE, kinds of columns": (lambda s: MADE(hidden=(16,), order=(1, 2, 0), head=["mixture", "categorical", "bernoulli"],
                                              random_state=s, **TRAINING), kinds),
    "MADE, several orders": (lambda s: MADE(hidden=(12,), n_masks=3, direct=True, random_state=s, **TRAINING), bits),
    "MAF, real": (lambda s: MAF(n_layers=2, hidden=(12,), mix="random", random_state=s, **TRAINING), normals),
    "MAF, moons, base of MADE": (lambda s: MAF(n_layers=1, hidden=(12,), base=priors.MADE(3, (16,)), random_state=s,
                                               **TRAINING), moons),
    "NSF, moons": (lambda s: NSF(n_layers=2, hidden=(12,), random_state=s, **TRAINING), moons),
    "FlowMatching, moons": (lambda s: FlowMatching(hidden=(12,), n_steps=24, random_state=s, **TRAINING), moons),
    "Diffusion, moons": (lambda s: Diffusion(hidden=(12,), n_steps=24, random_state=s, **TRAINING), moons),
    "Diffusion, moons, wide": (lambda s: Diffusion(hidden=(12,), n_steps=24, preprocess=None, random_state=s, **TRAINING),
                               lambda s: 3 * moons(s)),
    "EnergyModel, moons": (lambda s: EnergyModel(hidden=(16, 16), base=GaussianMixture(1), n_importance=20_000, n_burn=300,
                                                 random_state=s, **LONGER | {"learning_rate": 2e-2}), moons),
    "Autoencoder, real": (lambda s: Autoencoder(n_latent=2, hidden=(12,), random_state=s, **TRAINING), normals),
    "GMMN, moons": (lambda s: GMMN(n_noise=3, hidden=(12,), random_state=s, **TRAINING), moons),
    "GAN, moons": (lambda s: GAN(n_noise=3, hidden=(12,), critic_hidden=(12,), random_state=s, **TRAINING), moons),
    "RealNVP, moons": (lambda s: RealNVP(n_couplings=4, hidden=(12,), random_state=s, **TRAINING), moons),
    "RealNVP, real": (lambda s: RealNVP(n_couplings=4, hidden=(12,), random_state=s, **TRAINING), normals),
    "RealNVP, counts": (lambda s: RealNVP(n_couplings=2, hidden=(8,), random_state=s, **TRAINING), counts),
    "RealNVP, unit square": (lambda s: RealNVP(n_couplings=2, hidden=(8,), preprocess="logit+standardize", random_state=s,
                                               **TRAINING), unit),
    "VAE, bits": (lambda s: VAE(n_latent=2, hidden=(12,), n_importance=50, random_state=s, **LONGER), bits),
    "VAE, moons": (lambda s: VAE(n_latent=2, hidden=(16,), n_importance=50, random_state=s, **LONGER), moons),
    "VAE, moons, mixture prior": (lambda s: VAE(n_latent=2, hidden=(16,), n_importance=50, prior="mixture", prior_size=3, k=3,
                                                variance="feature", objective="iwae", random_state=s, **LONGER), moons),
    "VAE, bits, flow prior": (lambda s: VAE(n_latent=2, hidden=(12,), n_importance=50, prior=Flow(2, (12,)),
                                            free_bits=0.2, random_state=s, **LONGER), bits),
    "VAE, moons, free bits": (lambda s: VAE(n_latent=2, hidden=(16,), n_importance=50, free_bits=3.0, variance="shared",
                                            random_state=s, **LONGER), moons),
    "mixture, full": (lambda s: GaussianMixture(3, random_state=s), moons),
    "mixture, tied": (lambda s: GaussianMixture(2, covariance_type="tied", random_state=s), normals),
    "mixture, diagonal": (lambda s: GaussianMixture(3, covariance_type="diag", random_state=s), lambda s: normals(s)[:, :2]),
    "mixture, counts": (lambda s: GaussianMixture(2, preprocess=Chain(steps=(Dequantize(levels=6), Logit())), random_state=s),
                        counts),
    "mixture, narrow and far": (lambda s: GaussianMixture(2, random_state=s), narrow),
    "mixture, mixed columns": (lambda s: Mixture(3, heads=["normal", "normal", "bernoulli", "categorical"], random_state=s),
                               mixed),
    "mixture, named columns": (lambda s: GaussianMixture(2, random_state=s), named),
    "mixture, kinds of counts": (lambda s: Mixture(2, heads=["poisson", "categorical"], random_state=s), counts),
    "mixture, heads of columns": (lambda s: Mixture(2, heads=heads_of_cells(Normal(limit=None)), random_state=s), cells),
    "mixture, tied heads": (lambda s: Mixture(2, heads=tied(), random_state=s), cells),
    "MADE, heads of columns": (lambda s: MADE(hidden=(12,), head=heads_of_cells(MixtureOfNormals(2)), random_state=s,
                                              **TRAINING), cells),
    "MADE, mapped": (lambda s: MADE(hidden=(12,), random_state=s, head=[Mapped(scale=Scale("log")), Mapped(scale=Scale(
        "asinh", high=2.5))], **TRAINING), amounts),
    "classifier": (lambda s: Labelled(GaussianMixture(2, random_state=s), random_state=s), moons),
    "mixture, by gradient": (lambda s: GaussianMixture(3, solver="adam", max_epochs=3, random_state=s),
                             moons),
}


@dataclasses.dataclass
class Mutant:
    """A mistake: in the source of `target` ("module:function" of npgen), `old` became `new`.

    before   the model is fitted before the mistake is made: it would not be fitted with it
    """

    name: str
    model: str
    target: str
    old: str
    new: str
    before: bool = False

    @contextlib.contextmanager
    def made(self):
        """npgen, with this mistake, inside the block."""
        module_name, _, path = self.target.partition(":")
        module = importlib.import_module(f"npgen.{module_name}")
        dir(module)  # which executes one that waits to be asked
        owner, _, name = path.rpartition(".")
        owner = getattr(module, owner) if owner else module
        original = inspect.getattr_static(owner, name)
        source = textwrap.dedent(inspect.getsource(original))
        if self.old not in source:
            raise LookupError(f"mutant {self.name!r}: {self.target} no longer has {self.old!r}; write it anew")
        scope = {}
        exec(compile(source.replace(self.old, self.new), f"<{self.name}>", "exec"), module.__dict__, scope)
        with pytest.MonkeyPatch.context() as patch:
            for place in [owner] if owner is not module else list(sys.modules.values()):
                if getattr(place, "__dict__", {}).get(name) is original:
                    patch.setattr(place, name, scope[name])
            for table in [each for each in vars(module).values() if isinstance(each, dict)]:  # of functions by name
                for key in [key for key, each in table.items() if each is original]:
                    patch.setitem(table, key, scope[name])
            for record in vars(module).values() if ".kernels." in module.__name__ else ():
                if isinstance(record, Kernel):
                    reference = scope[name] if record.reference is original else record.reference
                    patch.setattr(record, "reference", reference)
                    patch.setattr(record, "numba", reference)
            yield


M = Mutant
MUTANTS = [
    # likelihoods
    M("variance for std: encode", "MADE, moons", "heads.normal:std", "log_var / 2", "log_var"),
    M("variance for std: samples", "VAE, moons", "heads.normal:Normal.sample", "std(log_var)", "std(2 * log_var)"),
    M("variance for std: density", "MADE, moons", "kernels.likelihood:_normal_parts", "limit * bounded / 2", "limit * bounded"),
    M("missing 1/2 in the normal", "MADE, real", "kernels.likelihood:_normal_forward_reference", "-0.5 *", "-1.0 *"),
    M("log-variance not counted", "MADE, moons", "kernels.likelihood:_normal_forward_reference", "LOG_2PI + limit * bounded",
      "LOG_2PI"),
    M("sign of the log-variance", "MADE, real", "kernels.likelihood:_normal_forward_reference", "LOG_2PI + limit * bounded",
      "LOG_2PI - limit * bounded", before=True),
    M("missing 2 pi", "RealNVP, moons", "kernels.flow:_inverse_reference", "(x * x + LOG_2PI)", "(x * x)"),
    M("softplus left out", "MADE, bits", "kernels.likelihood:_bernoulli_forward_reference", "- np.log1p(odds)", ""),
    M("gradient of the Bernoulli: sign of half", "MADE, bits", "kernels.likelihood:_bernoulli_backward_reference",
      "np.where(logits > 0, 1, -1)", "1"),
    M("gradient of the normal: missing 1/std", "MADE, moons", "kernels.likelihood:_normal_backward_reference", "z / std", "z"),
    M("gradient of the normal: factor 2", "MADE, real", "kernels.likelihood:_normal_backward_reference", "-0.5 *", "-1.0 *"),
    M("gradient of the noise: sign", "RealNVP, moons", "kernels.flow:_backward_reference", "(-dz[:, :J] * moved",
      "(dz[:, :J] * moved"),
    # heads of columns
    M("grid: half of the cell", "MADE, heads of columns", "heads.grid:Grid.edges", "(-0.5, 0.5)", "(-0.25, 0.25)"),
    M("grid: a bound has an end", "mixture, heads of columns", "heads.grid:Grid.edges",
      "np.where(j <= self._open[0], -FAR, low)", "low", before=True),
    M("grid: values are rounded down", "MADE, heads of columns", "heads.grid:Grid._number", "np.rint(", "np.floor("),
    M("grid: a value counts once", "mixture, heads of columns", "heads.grid:Grid.moments", "(weights * np.where(seen, a, 0))",
      "(0 * weights + np.where(seen, a, 0))"),
    M("atoms: the rest's probability is left out", "MADE, heads of columns", "heads.atoms:Atoms.log_prob",
      "own + density, own", "density, own", before=True),
    M("atoms: the rest is no way to an atom", "mixture, heads of columns", "heads.atoms:Atoms.log_prob_each",
      "np.where(both, np.logaddexp(own, density), own)", "own"),
    M("atoms: drawn too seldom", "MADE, heads of columns", "heads.atoms:Atoms.sample", "<= noise[..., :1] *",
      "<= noise[..., :1]**2 *"),
    M("pooled: shares are not counted", "MADE, heads of columns", "heads.pooled:Pooled.log_prob",
      " + ops.sum(both[1], axis=-1)", ""),
    M("pooled: rare levels are alike", "mixture, heads of columns", "heads.pooled:Pooled.sample", "np.cumsum(self._shares)",
      "np.cumsum(0 * self._shares + 1)"),
    M("tied: weights add up to more", "mixture, tied heads", "heads.tied:Tied._weights", "np.maximum(np.exp(",
      "np.maximum(1.1 * np.exp("),
    M("tied: drawn by equal weights", "mixture, tied heads", "heads.tied:Tied.sample", "np.exp(self._log_weights(outputs))",
      "np.exp(0 * self._log_weights(outputs))"),
    M("tied: units are not counted", "mixture, tied heads", "heads.tied:Tied.log_prob_each", "+ most", ""),
    M("map: slope is not counted", "MADE, mapped", "heads.mapped:Mapped.log_prob", " + self._log_slope(x)", ""),
    M("map: unit of asinh is not counted", "MADE, mapped", "heads.scale:Scale.log_slope", "np.hypot(at, self.high - self.low)",
      "np.hypot(at / (self.high - self.low), 1.0)"),
    M("map: samples of another logarithm", "MADE, mapped", "heads.scale:Scale.to_data", "self.low + np.exp(k)",
      "self.low + np.expm1(k)"),
    # flows
    M("sign of a log-det", "RealNVP, moons", "kernels.flow:_inverse_reference", "log_det -=", "log_det +=", before=True),
    M("ActNorm's log-det dropped", "RealNVP, real", "kernels.flow:_inverse_reference", "log_scale.sum() + ", ""),
    M("coupling's log-det dropped", "RealNVP, moons", "kernels.flow:_inverse_reference", " + s.sum(axis=1)", ""),
    M("mean for sum in a log-det", "RealNVP, real", "kernels.flow:_inverse_reference", "s.sum(axis=1)", "s.mean(axis=1)"),
    M("shift not undone", "RealNVP, moons", "kernels.flow:_forward_reference", "np.exp(s) + t", "np.exp(s)"),
    M("scale not undone", "RealNVP, real", "kernels.flow:_forward_reference", "np.exp(s) + t", "np.exp(-s) + t"),
    M("stale batch-norm statistics", "RealNVP, real", "kernels.flow:_forward_reference", "a * np.exp(log_scale) + shift",
      "a * np.exp(params[D:2 * D]) + params[:D]"),
    M("permutation not inverted", "RealNVP, real", "kernels.flow:_forward_reference", "x[:, orders[step]] = ",
      "x[:, np.argsort(orders[step])] = "),
    M("steps not reversed", "RealNVP, moons", "kernels.flow:_forward_reference", "reversed(range(len(orders)))",
      "range(len(orders))"),
    M("gradient: log-det forgotten", "RealNVP, moons", "kernels.flow:_backward_reference", " - dlog_det[:, None]", ""),
    M("gradient: mean for sum over rows", "RealNVP, real", "kernels.flow:_backward_reference",
      "dshift -= (da * np.exp(-log_scale)).sum(", "dshift -= (da * np.exp(-log_scale)).mean("),
    M("gradient: log-scale's share of the log-det", "RealNVP, moons", "kernels.flow:_backward_reference",
      " + dlog_det.sum()", " + dlog_det.mean()"),
    M("gradient: through the network dropped", "RealNVP, moons", "kernels.flow:_backward_reference", " + dkept", ""),
    M("gradient: tanh of the scale forgotten", "RealNVP, real", "kernels.flow:_backward_reference",
      " * (1 - (s / limit) ** 2)", " * (1 - (s / limit))"),
    # networks and masks
    M("gradient of an unbroadcast axis", "MADE, real", "kernels.mlp:_backward_reference", "g.sum(axis=0)", "g[0]"),
    M("gradient of ReLU", "MADE, moons", "kernels.mlp:_backward_reference", "g * (below > 0)", "g"),
    M("gradient of the weights: one row short", "VAE, bits", "kernels.mlp:_backward_reference",
      "below.T.astype(np.float64) @ g", "below[1:].T.astype(np.float64) @ g[1:]"),
    M("another activation in the sampler", "MADE, moons", "kernels.made_sample:_reference",
      "np.maximum(h @ (weight * mask) + bias, 0)", "np.tanh(h @ (weight * mask) + bias)"),
    M("output sees itself", "MADE, bits", "masks:made_masks", "< degrees[0]", "<= degrees[0]"),
    M("output sees itself, real", "MADE, real", "masks:made_masks", "< degrees[0]", "<= degrees[0]"),
    M("hidden mask off by one", "MADE, bits", "masks:made_masks", "<= above[None, :]", "<= above[None, :] + 1"),
    M("order not inverted in the sampler", "MADE, real", "models.made:Order.undo", "self.inverse.take(z)", "z"),
    M("order inverted in the density", "MADE, bits", "models.made:MADE._log_density_in", "order.take(z)",
      "z[:, np.argsort(order.order)]"),
    M("order inverted in encode", "MADE, real", "models.made:MADE._represent", "order.take(z)",
      "z[:, np.argsort(order.order)]"),
    M("an order is not masked", "MADE, several orders", "nn:MaskedMLP.ordered", " * self.of(order).flat_mask(like)", ""),
    M("mean of logarithms for the logarithm of a mean", "MADE, several orders", "models.made:MADE._log_density",
      "ops.logsumexp(np.stack(each, axis=1)) - math.log(len(each))", "np.mean(np.stack(each, axis=1), axis=1)"),
    M("rows of the first order alone", "MADE, several orders", "models.made:MADE._draw", "* len(self._orders))", "* 1)"),
    M("direct: features decoded without it", "MADE, several orders", "models.made:MADE._reconstruct", "if self.direct_:",
      "if False:"),
    M("direct: an output sees itself", "MADE, several orders", "masks:made_direct", "<= np.arange(n_features)",
      "<= np.arange(1, n_features + 1)"),
    M("MAF: log-det of the steps dropped", "MAF, real", "transforms.base:Chain.log_prob", " + log_det", ""),
    M("MAF: orders are not undone", "MAF, real", "transforms.permute:Permute.to_data", "self._back", "self.order"),
    M("base: log-det of the flow dropped", "MAF, moons, base of MADE", "models.flow:FlowModel._log_density",
      "noise, c) + log_det", "noise, c)"),
    M("base: rows drawn of the standard normal", "MAF, moons, base of MADE", "models.flow:FlowModel._draw",
      "if self._base is None:", "if True:"),
    M("base: density at the data", "MAF, moons, base of MADE", "models.flow:FlowModel._log_density", "(p, noise, c)",
      "(p, z, c)"),
    M("base: dimensions apart", "MAF, moons, base of MADE", "priors:MADE.log_prob", "beside(rows, ", "beside(0 * rows, ",
      before=True),
    M("spline: another box on the way back", "NSF, moons",
      "transforms.elements:Spline.to_data", "self.box)", "1.01 * self.box)"),
    M("sampler: degrees off by one", "MADE, bits", "masks:made_cuts", 'side="right"', 'side="left"'),
    M("sampler: 1 - p for p", "MADE, bits", "kernels.made_sample:_drawn", "np.exp(-out", "np.exp(out"),
    M("sampler: variance for std", "MADE, moons", "kernels.made_sample:_drawn", "np.exp(log_var / 2)", "np.exp(log_var)"),
    M("sampler: noise off by one", "MADE, real", "kernels.made_sample:_reference", "noise[:, at[j]:at[j + 1]]",
      "noise[:, [j - 1]]"),
    M("sampler: bias of the output forgotten", "MADE, bits", "kernels.made_sample:_reference", " + layers[-1][1]", ""),
    # equations
    M("ODE: noise too wide", "FlowMatching, moons", "models.ode:ODEModel._draw", "w = stream", "w = 1.3 * stream"),
    M("ODE: the noise's density forgotten", "Diffusion, moons", "models.ode:ODEModel._solved", "standard_normal_log_prob(w) + ",
      ""),
    M("diffusion: scale forgotten in the draws", "Diffusion, moons, wide", "models.ode:ODEModel._draw",
      "self.scale_ * self._ode", "self._ode"),
    M("diffusion: scale not counted", "Diffusion, moons, wide", "models.ode:ODEModel._solved",
      " - z.shape[1] * math.log(self.scale_)", ""),
    M("diffusion: scale forgotten in encode", "Diffusion, moons, wide", "models.ode:ODEModel._represent", "z / self.scale_",
      "z"),
    M("diffusion: scale forgotten in decode", "Diffusion, moons, wide", "models.ode:ODEModel._reconstruct", "self.scale_ * ",
      ""),
    M("ODE: encode takes one step", "FlowMatching, moons", "models.ode:ODEModel._represent", "self.n_steps_, want", "1, want"),
    M("ODE: the last row not in the bound", "Diffusion, moons", "models.ode:ODEModel._bound", " - off[:, 0] / 2",
      ""),
    M("ODE: the bound's integral without its length", "Diffusion, moons", "models.ode:ODEModel._bound", "-length * np.mean",
      "-np.mean"),
    M("ODE: sign of the bound's integral", "FlowMatching, moons", "models.ode:ODEModel._bound", "-length * np.mean",
      "length * np.mean"),
    # energy models
    M("energy model: draws are the base's", "EnergyModel, moons", "models.energy:EnergyModel._draw",
      "self._chain(p, z, self.n_burn, stream, c)[0] if n else z", "z"),
    M("energy model: chains of the inverted energy", "EnergyModel, moons", "models.energy:EnergyModel._draw",
      "self._chain(p,", "self._chain({k: -v if k.startswith('f.2') else v for k, v in p.items()},"),
    M("energy model: log Z of the inverted energy", "EnergyModel, moons", "models.energy:EnergyModel._estimated", "-asnumpy(",
      "asnumpy("),
    M("energy model: inverted energy in the density", "EnergyModel, moons", "models.energy:EnergyModel._log_density",
      " - self._f(p, z, c)", " + self._f(p, z, c)", before=True),
    M("energy model: a unit's slope in the density", "EnergyModel, moons", "kernels.silu:_backward_reference", "1 + x *",
      "1 - x *", before=True),
    # no density
    M("score by draws: sign", "GMMN, moons", "models.capabilities:score_by_draws",
      "return -divergences.energy_distance(x, model", "return divergences.energy_distance(x, model"),
    M("GMMN: rows drawn again", "GMMN, moons", "models.gmmn:GMMN._draw", "like=p.flat), c))",
      "like=p.flat), c))[[i % 1000 for i in range(n)]]"),
    M("GMMN: neighbours share their noise", "GMMN, moons", "models.gmmn:GMMN._draw", "like=p.flat), c))",
      "like=p.flat), c))[[i // 2 for i in range(n)]]"),
    M("energy distance: gradient of half the pairs", "GMMN, moons", "kernels.pairwise:_distance_backward_reference",
      "np.where(r == 0, 0, weights / r)", "np.where(r < 1, 0, weights / r)"),
    M("GAN: a seed is not looked at", "GAN, moons", "models.gan:GAN._draw", "self._made(p, n, stream, c, p.flat)",
      "self._made(p, n, self.stream_, c, p.flat)"),
    M("GAN: rows drawn again", "GAN, moons", "models.gan:GAN._draw", "self._made(p, n, stream, c, p.flat)",
      "self._made(p, n, stream, c, p.flat)[[i % 1000 for i in range(n)]]"),
    M("GAN: penalties without a derivative", "GAN, moons", "models.gan:GAN._loss", "ops.square(slope)",
      "ops.square(ops.stop_gradient(slope))"),
    M("GAN: of the slope's derivative a layer's units are left out", "GAN, moons", "kernels.mlp_slope:_backward_reference",
      "below = h + c[:, None] * ", "below = c[:, None] * "),
    M("autoencoder: codes by the model's stream", "Autoencoder, real", "models.autoencoder:Autoencoder._draw", "rng=stream",
      "rng=self.stream_"),
    M("autoencoder: codes of rows with noise", "Autoencoder, real", "models.autoencoder:Autoencoder._represent",
      "beside(z, c)", "beside(z + 0.1 * self.stream_.normal(z.shape, z.dtype), c)"),
    M("autoencoder: codes of what is beside a row", "Autoencoder, real", "models.autoencoder:Autoencoder._represent",
      "beside(z, c)", "beside(z - z.mean(axis=0), c)"),
    # preprocessing
    M("standardise: log-det dropped", "MADE, real", "transforms.standardize:Standardize._mapped", "self._log_det", "0.0"),
    M("standardise: sign of the log-det", "RealNVP, real", "transforms.standardize:Standardize._mapped", "self._log_det",
      "-self._log_det"),
    M("standardise: variance in the inverse", "RealNVP, real", "transforms.standardize:Standardize.to_data", "* self.std_",
      "* self.std_ * self.std_"),
    M("standardise: mean not added back", "VAE, moons", "transforms.standardize:Standardize.to_data", "+ self.mean_",
      "+ 0.5 + 1.3 * self.mean_"),
    M("dequantise: log-det dropped", "RealNVP, counts", "transforms.dequantize:Dequantize.unchecked",
      "self._log_det", "0.0"),
    M("dequantise: rounding in the inverse", "mixture, counts", "transforms.dequantize:Dequantize.to_data", "np.floor(",
      "np.round("),
    M("dequantise: levels off by one", "RealNVP, counts", "transforms.dequantize:Dequantize.to_data", "z * levels",
      "z * (levels - 1)"),
    M("dequantise: half of the cell", "RealNVP, counts", "transforms.dequantize:Dequantize.unchecked", "room * u", "0.5 * u"),
    M("dequantise: noise is no function of the row", "RealNVP, counts", "transforms.row_noise:RowNoise.uniform", "return ",
      "return np.random.random(shape)\n    return "),
    M("logit: constant of the log-det", "RealNVP, unit square", "transforms.logit:Logit.unchecked",
      "x.shape[1] * math.log(1 - 2 * self.alpha) - ", "-"),
    M("logit: sign of the log-det", "RealNVP, counts", "transforms.logit:Logit.unchecked", "- np.sum(s + t", "+ np.sum(s + t"),
    M("logit: alpha forgotten in the inverse", "RealNVP, unit square", "transforms.logit:Logit.unclipped", " - self.alpha)",
      ")"),
    M("chain: only the last log-det", "RealNVP, unit square", "transforms.base:Chain._through", "log_det = log_det + more",
      "log_det = more"),
    M("chain: inverse in forward order", "RealNVP, unit square", "transforms.base:Chain.data", "reversed(self.steps)",
      "self.steps"),
    M("log_prob without the preprocessing", "MADE, moons", "models.base:Model._log_prob", "c) + log_det", "c)"),
    # latent variables
    M("KL: mean for sum", "VAE, moons", "kernels.likelihood:_kl_forward_reference", ".sum(axis=1)", ".mean(axis=1)",
      before=True),
    M("KL: missing 1/2", "VAE, moons", "kernels.likelihood:_kl_forward_reference", " / 2", "", before=True),
    M("KL: sign of the log-variance", "VAE, moons", "kernels.likelihood:_kl_forward_reference", "- log_var", "+ log_var",
      before=True),
    M("KL: missing 1", "VAE, moons", "kernels.likelihood:_kl_forward_reference", "np.expm1(", "np.exp(", before=True),
    M("KL: left out of the loss", "VAE, bits", "models.vae:VAE._loss", "self.beta", "0.0"),
    M("ELBO: variance for std", "VAE, moons", "models.vae:VAE.elbo", "std(log_var) * eps", "std(2 * log_var) * eps"),
    M("ELBO: preprocessing's log-det dropped", "VAE, moons", "models.vae:VAE.elbo", "- kl + log_det", "- kl"),
    M("IWAE: log S forgotten", "VAE, bits", "models.vae:VAE._importance", " - math.log(n_importance)", ""),
    M("IWAE: prior left out", "VAE, bits", "models.vae:VAE._log_weight", " + self._prior.log_prob(p, z, c)", ""),
    M("IWAE: q left out", "VAE, moons", "models.vae:VAE._log_weight", " - log_q", ""),
    M("IWAE: variance for std", "VAE, bits", "models.vae:VAE._importance", "std(log_var) * eps", "std(2 * log_var) * eps"),
    M("IWAE: preprocessing's log-det only there", "VAE, moons", "models.base:Model._log_prob",
      "c) + log_det", "c)"),
    M("samples without observation noise", "VAE, moons", "models.vae:VAE._observed", "return self._head.sample(",
      "return self._head.mean(self._decoder(p, beside(z, c))) + 0 * self._head.sample("),
    M("prior too wide", "VAE, moons", "priors:StandardNormal.sample", "return ", "return 1.5 * "),
    M("mixture prior: weights left out of the draws", "VAE, moons, mixture prior", "priors:Mixture.sample",
      "ends[:-1] < ", "ends[:-1]**3 < "),
    M("mixture prior: weights left out of the density", "VAE, moons, mixture prior", "priors:Mixture.log_prob",
      " + ops.log_softmax(logits)", "", before=True),
    M("flow prior: drawn without its flow", "VAE, bits, flow prior", "priors:Flow.sample", "return self.transform.data(p, ",
      "return (lambda z, c: z)("),
    M("learned prior: KL of the standard normal", "VAE, bits, flow prior", "models.vae:VAE._terms", "if kl is None:",
      "kl = ops.sum(ops.square(mean) + ops.exp(log_var) - 1 - log_var, axis=1) / 2\n    if False:", before=True),
    M("free bits: a ceiling", "VAE, moons, free bits", "models.vae:VAE._terms", "ops.sum(ops.maximum(", "ops.sum(np.minimum("),
    M("free bits: of the sum", "VAE, moons, free bits", "models.vae:VAE._terms",
      "ops.sum(ops.maximum(self._prior.kl_each(mean, log_var), free_bits), axis=1)", "ops.maximum(kl, free_bits)"),
    M("free bits: in the bound", "VAE, moons, free bits", "models.vae:VAE.elbo", "mean, log_var, c)",
      "mean, log_var, c, self.free_bits)"),
    M("IWAE's objective: log k forgotten", "VAE, moons, mixture prior", "models.vae:VAE._iwae", " - math.log(k)", ""),
    M("IWAE's objective: mean of the logarithms", "VAE, moons, mixture prior", "models.vae:VAE._iwae",
      "ops.logsumexp(log_w.reshape(n, k), axis=1) - math.log(k)", "ops.mean(log_w.reshape(n, k), axis=1)"),
    M("IWAE's objective: samples of other rows", "VAE, moons, mixture prior", "models.vae:VAE._iwae",
      "log_w.reshape(n, k), axis=1", "log_w.reshape(k, n), axis=0"),
    M("IWAE's objective: no gradient by q", "VAE, moons, mixture prior", "models.vae:VAE._iwae",
      "ops.sum(normal_log_prob(z, mean, log_var)", "ops.sum(normal_log_prob(z, mean, ops.stop_gradient(log_var))"),
    M("a line's ends change places", "VAE, moons", "models.vae:VAE.interpolate", "(1 - t, t)", "(t, 1 - t)"),
    M("imputed by means", "VAE, moons", "models.vae:VAE._imputed", "h if stream is not None else", "h if False else"),
    M("imputing writes over what was seen", "VAE, moons", "models.vae:VAE._imputed",
      "return np.where(missing, self.preprocess_.data(None, answer), x)", "return self.preprocess_.data(None, h + total)"),
    M("posterior: variance for std", "VAE, bits", "kernels.reparameterize:_posterior_forward_reference",
      "_scaled_noise(log_var", "_scaled_noise(2 * log_var"),
    M("posterior: gradient misses 1/2", "VAE, bits", "kernels.reparameterize:_posterior_backward_reference", " / 2 + ", " + "),
    M("posterior: gradient without the bound's slope", "VAE, bits", "kernels.reparameterize:_posterior_backward_reference",
      ") * slope", ")"),
    M("posterior: KL's gradient by the log-variance lost", "VAE, bits", "kernels.reparameterize:_posterior_backward_reference",
      " + dlog_var", ""),
    M("KL: gradient misses 1/2", "VAE, bits", "kernels.likelihood:_kl_backward_reference", " / 2", ""),
    # mixtures
    M("mixture: log-det dropped", "mixture, full", "models.mixture.covariances:Dense.log_det", "return ", "return 0 * "),
    M("mixture: sign of the log-det", "mixture, diagonal", "models.mixture.covariances:Axes.log_det", "return ", "return -"),
    M("mixture: missing 1/2", "mixture, full", "kernels.em:_expect_reference", "sum(axis=2) / 2", "sum(axis=2)"),
    M("mixture: weights left out", "mixture, full", "models.mixture.gaussian_em:Components.launch", "self.log_weights + ", ""),
    M("mixture: units forgotten", "mixture, tied", "models.mixture.gaussian:GaussianMixture._log_density",
      " - np.log(scale).sum()", ""),
    M("mixture: precision for covariance in samples", "mixture, tied", "models.mixture.covariances:Dense.unwhiten",
      "transpose(np.linalg.solve(matrices, transpose(y)))", "y @ factor", before=True),
    M("mixture: factor transposed in samples", "mixture, tied", "models.mixture.covariances:Dense.unwhiten",
      "np.broadcast_to(transpose(factor)", "np.broadcast_to(factor", before=True),
    M("mixture: component off by one", "mixture, full", "models.mixture.starts:labels_by",
      'side="right")', 'side="right") - 1'),
    M("mixture: samples ignore the weights", "mixture, diagonal", "models.mixture.starts:labels_by",
      "np.cumsum(weights)", "np.cumsum(np.ones_like(weights))"),
    M("mixture head: another component", "MADE, mixture head", "kernels.made_sample:_drawn", "edges[:, :-1] <= ",
      "edges[:, :-1] > "),
    M("mixture head: variance for std", "MADE, mixture head", "kernels.made_sample:_drawn", "np.exp(log_var / 2)",
      "np.exp(log_var)"),
    M("mixture head: weights not normalised", "MADE, mixture head", "kernels.mixture_likelihood:_parts",
      "logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))", "logits"),
    M("columns head: a column counted half", "MADE, kinds of columns", "heads.columns:Columns.log_prob", "head.log_prob(",
      "0.5 ** (head.name == 'mixture') * head.log_prob("),
    M("columns head: levels the other way round", "MADE, kinds of columns", "kernels.made_sample:_drawn",
      "            return level", "            return out.shape[1] - 1 - level"),
    M("sampler: a level enters by another number", "MADE, kinds of columns", "heads.columns:Columns.values",
      "head.values(numbers[..., _there(columns, numbers)])", "head.values(0 * numbers[..., _there(columns, numbers)])"),
    M("columns: log-variance dropped", "mixture, mixed columns", "heads.normal:Normal.log_prob_each",
      "LOG_2PI + self", "LOG_2PI + 0 * self"),
    M("columns: logits of the wrong level", "mixture, mixed columns", "heads.bernoulli:Bernoulli.sample", "noise < ",
      "noise > "),
    M("columns: factorial dropped", "mixture, kinds of counts", "heads.poisson:Poisson.log_prob_each",
      " - ops.gammaln(x + 1).sum(axis=1, keepdims=True)", ""),
    M("columns: counts are their rates", "mixture, kinds of counts", "heads.poisson:Poisson.sample",
      "_poisson_quantile(noise.astype(np.float64), ", "np.round(0 * noise + "),
    M("columns: level below", "mixture, kinds of counts", "heads.categorical:Categorical.sample", "levels[number]",
      "levels[np.maximum(number - 1, 0)]"),
    M("mixture: covariances_ transposed", "mixture, full", "models.mixture.covariances:Dense.covariance",
      "transpose(inverse) @ inverse", "inverse @ transpose(inverse)"),
    M("responsibilities not normalised", "mixture, full", "kernels.em:_expect_reference", "r / r.sum(axis=0)", "r"),
    M("M-step: means one step behind", "mixture, full", "models.mixture.gaussian_em:maximise", "components.means + ",
      "components.means - "),
    M("gradient of log-sum-exp", "mixture, by gradient", "kernels.logsumexp:_gradient_reference",
      "np.exp(entries - ans[:, None].astype(float))", "np.exp(entries - entries.max(axis=1, keepdims=True))", before=True),
    M("gradient: mean over a broadcast axis", "mixture, by gradient", "ops.rules:_unbroadcast", "sum(g, axis", "mean(g, axis",
      before=True),
    M("mixture: components reversed in encode", "mixture, full", "models.mixture.gaussian:GaussianMixture._represent",
      "self.n_latent_)), p)", "self.n_latent_)), p)[:, ::-1]"),
    M("mixture: components reversed in decode", "mixture, counts", "models.mixture.gaussian:GaussianMixture._reconstruct",
      "self.means_,", "self.means_[::-1].copy(),"),
    M("columns: responsibilities are the weights", "mixture, mixed columns", "models.mixture.columns:Mixture._represent",
      "joint = self._joint(p, x)", "joint = np.tile(np.log(self.weights_), (len(x), 1))"),
    M("features of another layer", "MADE, bits", "models.made:MADE._represent", "net.hidden(p, beside(net.inputs(x), c))",
      "net.hidden(p, 1 - x)"),
    M("features decoded in another order", "MADE, bits", "models.made:MADE._reconstruct",
      "order.undo(net.head.mean(outputs))", "net.head.mean(outputs)"),
    # columns: their levels, their names
    M("levels are not rounded", "RealNVP, counts", "transforms.dequantize:Dequantize.to_data", "np.floor(", "np.asarray("),
    M("one bit is never drawn", "mixture, mixed columns", "heads.bernoulli:Bernoulli.sample", "noise < ", "noise < 0 * "),
    M("names in any order", "mixture, named columns", "models.estimator:Estimator._check_names", "or names == known:",
      "or set(names or ()) == set(known or ()):"),
    M("names are not looked at", "mixture, named columns", "models.estimator:Estimator._check",
      "self._check_names(method, X, name)", "pass"),
    M("names not in the file", "mixture, named columns", "models.files:Saved._from_file", 'fitted["feature_names_in_"]',
      "None"),
    M("all components start as one", "mixture, narrow and far", "models.mixture.gaussian:GaussianMixture._start",
      "equal_components(self._form, means, SHARP)", "equal_components(self._form, 0 * means, SHARP)"),
    # classifiers
    M("classifier: prior left out", "classifier", "models.classifier:BayesClassifier._joint", "np.log(self.priors_) + ", ""),
    M("classifier: posterior not normalised", "classifier", "models.classifier:BayesClassifier._log_posterior",
      "joint - ops.logsumexp(joint)[:, None]", "joint"),
    M("classifier: density of the likeliest class", "classifier", "models.classifier:BayesClassifier.log_prob",
      "ops.logsumexp(self._joint(x))", "self._joint(x).max(axis=1)"),
    M("classifier: labels ignore the prior", "classifier", "models.classifier:BayesClassifier._draw_codes",
      "np.cumsum(self.priors_)", "np.cumsum(np.full(len(self.priors_), 1 / len(self.priors_)))"),
    M("classifier: rows of another class", "classifier", "models.classifier:BayesClassifier._draw_rows",
      "self.densities_[i]", "self.densities_[i - 1]"),
    M("classifier: the least likely class", "classifier", "models.classifier:BayesClassifier.predict", "argmax", "argmin"),
    M("classifier: the file has another's densities", "classifier", "models.classifier:BayesClassifier._restore",
      "from_header(arrays, f\"density.{i}.\", header) for i, header in enumerate(headers)",
      "from_header(arrays, \"density.0.\", headers[0]) for _ in headers"),
    M("classifier: the file has even priors", "classifier", "models.classifier:BayesClassifier._restore",
      'arrays["priors_"]', '0 * arrays["priors_"] + 1 / len(classes)'),
    M("classifier: float64 answers for float32 rows", "classifier", "models.classifier:BayesClassifier.log_prob",
      ".astype(x.dtype)", ""),
    M("classifier: a row depends on how many are drawn", "classifier", "models.classifier:BayesClassifier.sample",
      "streams = [stream", "stream.uniform(n_samples or 1)\n    streams = [stream"),
    M("classifier: a query draws from its stream", "classifier", "models.classifier:BayesClassifier._joint",
      "if self._is_conditional:", "self.stream_.uniform(1)\n    if self._is_conditional:"),
    # what a model holds
    M("a query draws from the model's stream", "mixture, full", "models.mixture.gaussian:GaussianMixture._represent", "return ",
      "self.stream_.uniform(1)\n    return "),
    M("imputing with a seed draws from the model's stream", "mixture, named columns",
      "models.mixture.base:MixtureModel.impute", "as_stream(rng)", "self.stream_"),
    M("sampling with a seed goes on from there", "RealNVP, moons", "models.base:Model._drawn", "as_stream(rng)",
      "vars(self).update(stream_=as_stream(rng)) or self.stream_"),
    M("a query writes to its rows", "MADE, moons", "transforms.standardize:Standardize._mapped", "(x - mean) / std",
      "np.divide(np.subtract(x, mean, out=x), std, out=x)"),
    M("a query keeps what it was asked last", "VAE, moons", "models.vae:VAE.importance_log_prob",
      "def estimate(p, z, c, log_det):", "self.n_importance = n\n    def estimate(p, z, c, log_det):"),
    M("a marginal draws from the model's stream", "mixture, diagonal", "models.mixture.base:MixtureModel._of_columns",
      "Stream(place)", "self.stream_.spawn()"),
    M("a marginal has the model's stream", "mixture, narrow and far", "models.mixture.base:MixtureModel._of_columns",
      "Stream(place)", "self.stream_"),
    M("partial_fit counts calls", "mixture, full", "models.mixture.base:MixtureModel._learn_more",
      "(n / self.n_seen_)**0.7", "self.n_batches_**-0.7"),
    M("partial_fit counts rows that weigh nothing", "mixture, tied", "checks:total_weight", "if sample_weight is None",
      "if True"),
    M("partial_fit forgets what was before", "mixture, mixed columns", "models.mixture.base:MixtureModel._learn_more",
      "self._statistics_of(components) * (1 - share)", "statistics * ((1 - share) / statistics.weight)"),
    M("attributes can be set", "mixture, full", "models.mixture.base:Follows.__set__", "raise AttributeError(",
      "vars(model)[self._name] = value\n    return\n    raise AttributeError("),
    M("attributes can be written to", "mixture, tied", "models.base:Follows.__get__", "return read_only(value)",
      "return value"),
    M("orders can be written to", "RealNVP, moons", "checks:read_only", "= False", "= True"),
    # far out
    M("what overflows is certain", "RealNVP, real", "models.overflow:without_overflow",
      "function(np.clip(z, -limit, limit), *rest).astype(answer.dtype)", "np.full_like(answer, np.inf)"),
    # randomness, files, the contract
    M("rows drawn again", "RealNVP, moons", "models.flow:FlowModel._draw", ", c)", ", c)[[i % 9000 for i in range(n)]]"),
    M("neighbours are one row", "mixture, full", "models.mixture.gaussian:GaussianMixture._draw_components",
      ".astype(self.dtype_)", "[(np.arange(n) + 1) // 2].astype(self.dtype_)"),
    M("normals too narrow", "RealNVP, moons", "kernels.random:_normal_reference", "-2 * np.log", "-1.8 * np.log"),
    M("uniforms below 1/2 only", "MADE, bits", "kernels.random:_uniform_reference", "2.0**-bits", "2.0**-(bits + 1)"),
    M("counter stands still", "RealNVP, moons", "random:Stream._advance", "self.counter += n_blocks", "n_blocks = 0"),
    M("seed ignored", "mixture, full", "models.base:Model._drawn", "self.stream_ if rng is None else as_stream(rng)",
      "self.stream_"),
    M("last batch dropped", "RealNVP, moons", "models.base:Model._rowwise", "range(0, max(len(x), 1), there)",
      "range(0, max(len(x) - len(x) % rows, 1), there)"),
    M("batch statistics in a query", "MADE, moons", "models.base:Model._log_prob", "log_det, x, c)",
      "log_det, x - x.mean(axis=0) + x[:1], c)"),
    M("float64 answers for float32 rows", "MADE, moons", "models.base:Model._log_prob", "c) + log_det",
      "c) + log_det.astype(np.float64)"),
    M("sign of score", "MADE, bits", "models.base:Model.score", "float(np.average", "float(-np.average"),
    M("file in float32", "RealNVP, real", "models.files:Saved.state", "a for name, a in self.params_.items()",
      "a.astype(np.float32) for name, a in self.params_.items()"),
    M("stream not in the file", "mixture, full", "models.files:Saved._to_file", "self.stream_.state()", "Stream(0).state()"),
]


def fit(name, seed):
    """The model of this name, fitted, and its rows."""
    build, rows = MODELS[name]
    x = rows(seed)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return build(seed).fit(x), x


def kill(mutant, seed=0):
    """The report on a model with the mistake."""
    if mutant.before:
        model, x = fit(mutant.model, seed)
    with mutant.made():
        if not mutant.before:
            model, x = fit(mutant.model, seed)
        return check_generative_model(model, x, seed=seed)


def _table():
    print(f"{'mistake':46} {'model':22} {'seconds':>7}  broken laws")
    survivors = 0
    for mutant in MUTANTS:
        begin = time.perf_counter()
        broken = kill(mutant).broken
        survivors += not broken
        print(f"{mutant.name:46} {mutant.model:22} {time.perf_counter() - begin:7.1f}  {len(broken)}: {'; '.join(broken[:2])}"
              if broken else f"{mutant.name:46} {mutant.model:22} {'':7}  SURVIVES", flush=True)
    print(f"\n{len(MUTANTS)} mistakes, {len(MUTANTS) - survivors} found.")
    return survivors


def _false_alarms(n, first):
    checked = alarms = laws = 0
    for seed in range(first, first + n):
        for name in MODELS:
            report = check_generative_model(*fit(name, seed), seed=seed)
            checked, alarms = checked + 1, alarms + (not report.passed)
            laws += sum(not finding.skipped for finding in report.findings)
            if not report.passed:
                print(f"seed {seed}, {name}: {report}")
        print(f"seeds {first}..{seed}: {checked:,} sound models, {laws:,} laws, {alarms} models flagged", flush=True)
    return alarms


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="check every model without a mistake, for N seeds")
    parser.add_argument("--first", type=int, default=1, metavar="S", help="the first of these seeds")
    args = parser.parse_args()
    print(f"npgen {npgen.__version__}")
    sys.exit(bool(_false_alarms(args.seeds, args.first) if args.seeds else _table()))
