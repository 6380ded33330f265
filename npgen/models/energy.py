"""EnergyModel: a fitted density, corrected by a network's energy.

    p(x) = base(x) exp(-f(x)) / Z,    Z = E_base[exp(-f)],    s(x) = grad log base(x) - grad f(x), the score

An objective is a function (f, base, z, stream, chain, sigma) -> (n,) losses of rows z, whose gradient by what f depends on is
followed: f gives (n,) energies of rows, base has log_prob and sample, chain (m, d) are rows of p, or nearly.

    nce              softplus(f(z)) + softplus(-f(y)), y ~ base: which is data and which is noise, Z being 1
    pcd              f(z) - mean f(chain)
    score_matching   |s|^2 / 2 + div s, but for the base's divergence, which is constant; exact, in d backward passes
    sliced           |s|^2 / 2 + v . (ds/dz) v, v ~ N(0, I), likewise
    dsm              sigma^2 |s(z + sigma e) + e / sigma|^2 / 2, e ~ N(0, I): of the data with noise

Given a context c, f sees it beside the row, and so does the base if it can; Z is one for every c.

Legend: n rows, d features, m chains, w columns of context.
References: Gutmann & Hyvarinen, Noise-contrastive estimation (2010); Tieleman (2008); Hyvarinen, Estimation of non-normalized
statistical models by score matching (2005); Song et al., Sliced score matching (2019); Vincent, A connection between score
matching and denoising autoencoders (2011); Roberts & Tweedie, Exponential convergence of Langevin distributions (1996).
"""
import math

import numpy as np

from .. import fused, ops
from ..checks import check_widths, one_line
from ..engine import grad, vjp
from ..kernels import session
from ..kernels._cuda import asnumpy, is_device_array
from ..nn import Part, beside
from ..random import Stream
from ..train import Player
from .base import Capabilities, Follows, Model, clone
from .context import OfContexts, asked
from .gradient import GradientModel
from .mixture import GaussianMixture

SAMPLERS = "mala", "langevin"
CANDIDATES = 32  # rows of the base that a chain given a context may begin at


# ---------------------------------------------------------------- objectives

def nce(f, base, z, stream, chain, sigma):
    y = np.asarray(base.sample(len(z), rng=stream.spawn()).astype(z.dtype), like=z)
    return ops.softplus(f(z)) + ops.softplus(-f(y))


def pcd(f, base, z, stream, chain, sigma):
    return f(z) - ops.sum(f(chain)) / len(chain)


def _slope(f, z):
    """grad f, (n, d)."""
    return grad(lambda x: ops.sum(f(x)))(z)


def _score(f, base, z):
    return _slope(base.log_prob, z) - _slope(f, z)


def _bend(f, z, v):
    """v . (Hessian of f) v of every row, (n,)."""
    return ops.sum(_slope(lambda x: ops.sum(v * _slope(f, x), axis=1), z) * v, axis=1)


def score_matching(f, base, z, stream, chain, sigma):
    half = ops.sum(ops.square(_score(f, base, z)), axis=1) / 2
    for axis in np.eye(z.shape[1], dtype=z.dtype):
        half = half - _bend(f, z, np.asarray(np.tile(axis, (len(z), 1)), like=z))
    return half


def sliced(f, base, z, stream, chain, sigma):
    v = stream.spawn().normal(z.shape, z.dtype, like=z)
    return ops.sum(ops.square(_score(f, base, z)), axis=1) / 2 - _bend(f, z, v)


def dsm(f, base, z, stream, chain, sigma):
    noise = stream.spawn().normal(z.shape, z.dtype, like=z)
    return ops.sum(ops.square(sigma * _score(f, base, z + sigma * noise) + noise), axis=1) / 2


OBJECTIVES = {each.__name__: each for each in (nce, pcd, score_matching, sliced, dsm)}


# ---------------------------------------------------------------- chains

def langevin(log_density, z, step, n_steps, stream, adjusted):
    """Rows z (n, d) after so many steps z + step s(z) + sqrt(2 step) e, e ~ N(0, I), and the share of steps that were taken.

    adjusted: a step is taken with the probability of Metropolis and Hastings (MALA), which keeps p as it is; else always, which
    keeps a density near it: of N(0, 1), one of variance 1 / (1 - step / 2). log_density: (n,) of rows, but for a constant.
    A row's draws are its own, however many rows there are.
    """
    def at(z):
        value, pull = vjp(log_density, z)
        return value, pull(np.ones_like(value))[0]

    (here, score), taken = at(z), 0.0
    for _ in range(n_steps):
        noise = stream.spawn().normal(z.shape, z.dtype, like=z)
        y = z + step * score + math.sqrt(2 * step) * noise
        y = np.where(np.isfinite(y).all(axis=1)[:, None], y, z)  # a step beyond numbers is not taken
        there, its = at(y)
        if not adjusted:
            z, score, taken = y, its, taken + 1
            continue
        back = np.sum(np.square(z - y - step * its), axis=1) / (4 * step)
        u = stream.spawn().uniform(len(z), z.dtype, like=z)
        accept = np.log(u) < there - here + np.sum(np.square(noise), axis=1) / 2 - back  # not where it is NaN
        z, score = np.where(accept[:, None], y, z), np.where(accept[:, None], its, score)
        here, taken = np.where(accept, there, here), taken + float(accept.mean())
    return z, taken / n_steps


# What the base says of rows on a device, which it computes on the host, as a mixture's derivatives are.
_from_host = ops.op(lambda z, base: np.asarray(base.log_prob(asnumpy(z)), like=z),
                    lambda ans, z, base: lambda g: g[:, None] * np.asarray(_slope(base.log_prob, asnumpy(z)), like=z),
                    name="base")


class OnHost:
    """A base for rows on a device."""

    def __init__(self, base):
        self.base, self.sample = base, base.sample

    def log_prob(self, z):
        return _from_host(z, self.base)


class Given:
    """A base given a context of each row, (n, w)."""

    def __init__(self, base, c):
        self.base, self.c = base, c

    def log_prob(self, z):
        return self.base.log_prob(z, context=self.c)

    def sample(self, n, rng):
        return self.base.sample(context=self.c, rng=rng)


class Residual(Part):
    """f: layers of these widths with x sigmoid(x) behind them, which is smooth, then one number; at first f is zero.

    What queries know beside its parameters, `estimates` (4,), unless there are w columns of context, each with its own: log Z,
    its standard error, the effective sample size, and the share of chains' steps that are taken.
    """

    def __init__(self, d, hidden, w=0):
        self.widths, self.w, self.estimates_of = (d + w, *hidden, 1), w, OfContexts()

    def shapes(self):
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        return {f"f.{k}.{name}": shape for k, (i, j) in enumerate(pairs)
                for name, shape in (("weight", (i, j)), ("bias", (j,)))}

    def query_shapes(self):
        return self.shapes() | ({} if self.w else {"estimates": (4,)})

    def init(self, z, c, stream, weights=None):
        first = {name: np.zeros(shape, z.dtype) for name, shape in self.shapes().items()}
        for k, i in enumerate(self.widths[:-2]):
            first[f"f.{k}.weight"] = stream.normal((i, self.widths[k + 1]), z.dtype) * z.dtype.type(math.sqrt(2 / i))
            first[f"f.{k}.bias"] = stream.normal(self.widths[k + 1], z.dtype)  # so that units bend at different places
        return first

    def __call__(self, p, x, c=None):
        x, last = beside(x, c), len(self.widths) - 2
        for k in range(last + 1):
            x = ops.linear(x, p[f"f.{k}.weight"], p[f"f.{k}.bias"])
            x = fused.silu(x) if k < last else x
        return x[:, 0]


class EnergyModel(GradientModel):
    """Residual energy model, p(x) = base(x) exp(-f(x)) / Z; log_prob is an estimate, as log Z is, by importance sampling.

    hidden         widths of f's smooth layers
    base           an unfitted model of npgen whose density is exact; it is fitted first, in the space that preprocess leads to;
                   the noise of "nce" and chains at their start are its rows. None: a GaussianMixture of 5 components, fewer
                   for few rows
    objective      "nce", noise-contrastive estimation; "pcd", persistent contrastive divergence; "score_matching", exact, in d
                   passes; "sliced" score matching; "dsm", denoising score matching, of the data with noise of std sigma
    sigma          of "dsm", in the space that preprocess leads to
    sampler        "mala", or "langevin", without the accept-reject step and so biased by the size of the steps
    step           of both: z + step * score + sqrt(2 step) * noise
    n_chains       chains that "pcd" keeps from step to step
    n_steps        steps of each before every step of training
    n_burn         steps behind a sample, from the base's on
    n_importance   rows of the base behind log Z
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    Held-out rows stop it by log_prob. encode and decode are the base's. Given a context, the base is given it too where its
    kind takes one, and log Z is of each context: n_importance rows for every one that is asked about, which is dear where all
    rows have others. "pcd" has none: its chains are of one density from step to step. A sample's chain begins at one of 32 rows
    of the base then, drawn by exp(-f).
    Attributes: base_, the fitted base; log_z_, its standard error log_z_error_, effective_sample_size_, of n_importance, and
    acceptance_, the share of the sampler's steps that are taken; log_z(context) has these of a context's.
    References: Gutmann & Hyvarinen (2010); Deng et al., Residual energy-based models (2020).
    """

    hidden: tuple = (64, 64)
    base: object = None
    objective: str = "nce"
    sigma: float = 0.1
    sampler: str = "mala"
    step: float = 0.05
    n_chains: int = 100
    n_steps: int = 10
    n_burn: int = 200
    n_importance: int = 10_000
    max_epochs: int = 100
    learning_rate: float = 5e-3
    _objectives = tuple(OBJECTIVES)
    _models = ("base_",)
    _takes_context = True
    hidden_ = Follows()

    @property
    def _capabilities(self):
        base = vars(self).get("base_")
        return Capabilities("estimate", "the base's" if base is None else f"the base's: {base.capabilities.representation}",
                            invertible=base is not None and base.capabilities.invertible)

    @property
    def n_latent_(self):
        return self.base_.n_latent_

    @property
    def normaliser(self):
        """What is known of log Z, in words."""
        if self.context_ is not None:
            return "of each context its own, by importance sampling"
        return (f"{self.log_z_:.4f} ± {self.log_z_error_:.4f}, by importance sampling, effective sample size "
                f"{self.effective_sample_size_:,.0f}; the sampler takes {self.acceptance_:.0%} of its steps")

    def _estimate(self, i):
        self._check_fitted("log_z_")
        if self.context_ is not None:
            raise AttributeError("log_z_: this EnergyModel was fitted with a context, each of which has its own; ask "
                                 "log_z(context)")
        return float(self.params_["estimates"][i])

    log_z_ = property(lambda self: self._estimate(0), doc="log Z.")
    log_z_error_ = property(lambda self: self._estimate(1), doc="Its standard error.")
    effective_sample_size_ = property(lambda self: self._estimate(2), doc="(sum w)^2 / sum w^2 of the importance weights.")
    acceptance_ = property(lambda self: self._estimate(3), doc="The share of the sampler's steps that are taken.")

    # ------------------------------------------------------------ fitting

    def _first(self, x, c, weights, stream):
        self._check_options()
        if c is not None and self.objective == "pcd":
            raise ValueError("fit: objective 'pcd' takes no context, as its chains are of one density from step to step; use "
                             "'nce', 'score_matching', 'sliced' or 'dsm'")
        z = self.preprocess_.to_noise(None, x, stream=stream)[0]
        base = GaussianMixture(max(1, min(5, len(z) // 10))) if self.base is None else clone(self.base)
        if getattr(base, "random_state", 0) is None:
            base.random_state = int(stream.integers(2**31))
        self.base_ = base.to("cpu").fit(z, sample_weight=weights, context=c if base._takes_context else None)
        return super()._first(x, c, weights, stream)

    def _check_options(self):
        if not isinstance(self.sampler, str) or self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        for name in ("sigma", "step"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        for name in ("n_chains", "n_steps", "n_burn", "n_importance"):
            check_widths(name, (getattr(self, name),))
        check_base(self.base)

    def _choose(self, z, c, stream):
        hidden = check_widths("hidden", self.hidden)
        if not hidden:
            raise ValueError(f"hidden must name at least one layer, got {self.hidden!r}; for example hidden=(64, 64)")
        return {"hidden": hidden}

    def _assemble(self, d, w, chosen):
        return {"f": Residual(d, chosen["hidden"], w)}

    def _players(self):
        objective = OBJECTIVES[self.objective]

        def loss(p, batch, stream):
            c, chain = batch.context, (batch.carry or {}).get("chain")
            return objective(lambda x: self._f(p, x, c), self._base_given(c), batch.x, stream, chain, self.sigma)

        return Player(loss=loss, prepare=self._advance if self.objective == "pcd" else None),

    def _advance(self, p, carry, batch, stream):
        """The chains, n_steps of the sampler further; at first they are rows of the base."""
        z = carry["chain"] if "chain" in carry else self._of_base(self.n_chains, stream, batch.x)
        return {"chain": self._chain(p, z, self.n_steps, stream)[0]}

    def _monitor(self, p, batch, stream):
        return -self._log_density(p, batch.x, batch.context)

    def _statistics(self, p, z, c=None, weights=None):
        stream = Stream(0)
        y = self._of_base(self.n_importance, stream, z)
        taken = self._chain(p, y[:self.n_chains], self.n_steps, stream)[1]
        return {"estimates": np.asarray(np.array([*self._estimated(p, y), taken], z.dtype), like=z)}

    def _estimated(self, p, y, c=None):
        """log Z, its standard error and the effective sample size, of rows y of the base and their context."""
        log_w = -asnumpy(self._f(p, y, c)).astype(np.float64)
        w = np.exp(log_w - log_w.max())
        return log_w.max() + np.log(w.mean()), w.std() / w.mean() / math.sqrt(len(w)), w.sum()**2 / np.square(w).sum()

    def _estimates(self, p, c):
        """estimates, (4,), or the first three of every row's context, (n, 3)."""
        if c is None:
            return p["estimates"]
        n = self.n_importance

        def given(one):
            each = np.zeros_like(c, shape=(n, c.shape[1])) + one
            return self._estimated(p, self._of_base(n, Stream(0), c, each), each)
        return np.asarray(self._f.estimates_of(given, p, c, n).reshape(-1, 3).astype(c.dtype), like=c)

    def _base_given(self, c):
        """The base for rows where the model computes, given their context (n, w) or None."""
        base = self.base_ if c is None or self.base_.context_ is None else Given(self.base_, asnumpy(c))
        return OnHost(base) if is_device_array(self.params_.flat) else base

    # ------------------------------------------------------------ queries

    def _of_base(self, n, stream, like, c=None):
        return np.asarray(self._base_given(c).sample(n, rng=stream.spawn()).astype(like.dtype), like=like)

    def _chain(self, p, z, n_steps, stream, c=None):
        p = {name: ops.stop_gradient(p[name]) for name in self._f.shapes()}
        base = self._base_given(c)
        return langevin(lambda z: base.log_prob(z) - self._f(p, z, c), z, self.step, n_steps, stream, self.sampler == "mala")

    def _log_density(self, p, z, c=None):
        return self._base_given(c).log_prob(z) - self._f(p, z, c) - self._estimates(p, c)[..., 0]

    def _draw(self, p, n, stream, c=None):
        z = self._of_base(n, stream, p["f.0.bias"]) if c is None or not n else self._likely(p, n, stream, c)
        return self._chain(p, z, self.n_burn, stream, c)[0] if n else z

    def _likely(self, p, n, stream, c):
        """A row for each context (n, w): of CANDIDATES rows of the base one by its share of their exp(-f).

        A chain seldom goes from mode to mode, and which of the base's are p's is the context's to say.
        """
        each = c[np.asarray(np.repeat(np.arange(n), CANDIDATES), like=c)]
        y = self._of_base(n * CANDIDATES, stream, c, each)
        u = stream.spawn().uniform((n, CANDIDATES), np.float64)
        gumbel = -np.log(-np.log(np.maximum(u, 1e-300)))
        best = np.argmax(gumbel - asnumpy(self._f(p, y, each)).reshape(n, CANDIDATES), axis=1)
        return y[np.asarray(np.arange(n) * CANDIDATES + best, like=y)]

    def _represent(self, p, z, c=None):
        return np.asarray(self.base_.encode(asnumpy(z), **self._given(c)), like=z)

    def _reconstruct(self, p, h, c=None):
        return np.asarray(self.base_.decode(asnumpy(h), **self._given(c)), like=h)

    def _given(self, c):
        return {} if c is None or self.base_.context_ is None else {"context": asnumpy(c)}

    def energy(self, X, *, context=None):
        """f(x) of every row, (n,): log_prob(X) is the base's, less f(x) and log_z_. Raises as log_prob does."""
        def of_rows(x, c=None):
            return self._in_space(lambda p, z, c, log_det: self._f(p, z, c), x, c)

        return self._rowwise(of_rows, *self._check_both("energy", X, context))

    def log_z(self, context=None):
        """log Z, its standard error and effective sample size, of every row of context (m, w), (m, 3); (1, 3) without one.

        Raises NotFittedError, and ValueError for another context than fit had.
        """
        self._check_fitted("log_z")
        c = asked(self, "log_z", context)
        with session():
            return asnumpy(self._estimates(self.params_, c if c is None else self._place(c))[..., :3]).reshape(-1, 3)

    def _finish(self):
        check_base(self.base_)
        mine, its = (0 if each is None else each.width for each in (self.context_, self.base_.context_))
        if self.base_.n_features_in_ != self.n_features_in_ or its != mine * self.base_._takes_context:
            raise ValueError("the base is of other columns, or of another context")


def check_base(base):
    """Raise ValueError unless it is None or a model whose density is exact."""
    if base is not None and (not isinstance(base, Model) or base.capabilities.density != "exact"):
        raise ValueError("base must be an unfitted model of npgen whose density is exact, such as GaussianMixture(5), got "
                         f"{one_line(base)}")
