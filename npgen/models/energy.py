"""EnergyModel: a fitted density, corrected by a network's energy.

    p(x) = base(x) exp(-f(x)) / Z,    Z = E_base[exp(-f)]

Given a context c, f sees it beside the row, and so does the base if it can; Z is one for every c. models/residual.py has f, the
objectives and the chains.

Legend: n rows, d features, w columns of context.
References: Gutmann & Hyvarinen (2010); Deng et al., Residual energy-based models (2020).
"""
import copy
import math

import numpy as np

from .. import ops
from ..checks import check_widths, one_line
from ..kernels import langevin as langevin_kernel
from ..kernels import session
from ..kernels._cuda import asnumpy, is_device_array
from ..random import Stream
from ..train import Player
from .base import Capabilities, Follows, Model, clone
from .context import asked
from .gradient import GradientModel
from .mixture import GaussianMixture
from .older import UNKNOWN
from .residual import OBJECTIVES, Given, OnHost, Residual, There, contrast, langevin, launch_of

SAMPLERS = "mala", "langevin"
APART = 2**61    # in a stream, from the normals of all steps to their uniforms, however many rows there are
CANDIDATES = 32  # rows of the base that a chain given a context may begin at


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
    n_chains       chains that "pcd" keeps from step to step; given a context it keeps none: they begin as a sample's do
    n_steps        steps of each before every step of training
    n_burn         steps behind a sample, from the base's on
    n_importance   rows of the base behind log Z
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    Held-out rows stop it by log_prob. encode and decode are the base's. Given a context, the base is given it too where its
    kind takes one, and log Z is of each context: n_importance rows for every one that is asked about, which is dear where all
    rows have others. A sample's chain begins at one of 32 rows of the base then, drawn by exp(-f), and so do the chains of
    "pcd", one for every row of a batch, as what persists would be of contexts that are gone.
    Attributes: base_, the fitted base; log_z_, its standard error log_z_error_, effective_sample_size_, of n_importance, and
    acceptance_, the share of the sampler's steps that are taken (NaN of a file that does not have it); log_z(context) has the
    first three of a context's.
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
    submodels = ("base_",)
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
        log_z = "of each context its own, by importance sampling" if self.context_ is not None else (
            f"{self.log_z_:.4f} ± {self.log_z_error_:.4f}, by importance sampling, effective sample size "
            f"{self.effective_sample_size_:,.0f}")
        taken = self.acceptance_
        return f"{log_z}; the sampler takes {f'{taken:.0%}' if taken >= 0 else 'an unknown share'} of its steps"

    def _estimate(self, i):
        self._check_fitted("log_z_")
        if self.context_ is not None and i >= 0:
            raise AttributeError("log_z_: this EnergyModel was fitted with a context, each of which has its own; ask "
                                 "log_z(context)")
        return float(self.params_["estimates"][i])

    log_z_ = property(lambda self: self._estimate(0), doc="log Z.")
    log_z_error_ = property(lambda self: self._estimate(1), doc="Its standard error.")
    effective_sample_size_ = property(lambda self: self._estimate(2), doc="(sum w)^2 / sum w^2 of the importance weights.")

    @property
    def acceptance_(self):
        """The share of the sampler's steps that are taken."""
        taken = self._estimate(-1)
        return math.nan if taken == UNKNOWN else taken

    # ------------------------------------------------------------ fitting

    def _first(self, x, c, weights, stream):
        self._check_options()
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
        objective = contrast if self.objective == "pcd" and self.context_ is not None else OBJECTIVES[self.objective]

        def loss(p, batch, stream):
            c, carry = batch.context, batch.carry or {}
            chain = carry.get("chain", carry.get("_chain"))
            return objective(lambda x: self._f(p, x, c), self._base_given(c), batch.x, stream, chain, self.sigma)

        pcd = self.objective == "pcd"
        return Player(loss=loss, prepare=self._advance if pcd else None, repeats=pcd or self.device == "cuda", by_rows=not pcd),

    def _advance(self, p, carry, batch, stream):
        """The chains, n_steps of the sampler further; at first they are rows of the base, given a context likely ones."""
        if batch.context is not None:
            z = self._likely(p, len(batch), stream, batch.context)
        else:
            z = carry["chain"] if "chain" in carry else self._of_base(self.n_chains, stream, batch.x)
        name = "chain" if batch.context is None else "_chain"
        return {name: self._chain(p, z, self.n_steps, stream, batch.context)[0]}

    def _monitor(self, p, batch, stream):
        return -self._log_density(p, batch.x, batch.context)

    def _statistics(self, p, z, c=None, weights=None):
        stream = Stream(0)
        c = c if c is None else c[:self.n_chains]
        y = self._of_base(self.n_importance if c is None else len(c), stream, z, c)
        taken = self._chain(p, y[:self.n_chains], self.n_steps, stream, c)[1]
        known = self._estimated(p, y) if c is None else ()
        return {"estimates": np.asarray(np.array([*known, float(taken)], z.dtype), like=z)}

    def _estimated(self, p, y, c=None):
        """log Z, its standard error and the effective sample size, of rows y of the base and their context."""
        log_w = -asnumpy(self._f(p, y, c)).astype(np.float64)
        w = np.exp(log_w - log_w.max())
        return log_w.max() + np.log(w.mean()), w.std() / w.mean() / math.sqrt(len(w)), w.sum()**2 / np.square(w).sum()

    def _estimates(self, p, c):
        """log Z, its standard error and the effective sample size, (3,), or of every row's context, (n, 3)."""
        if c is None:
            return p["estimates"][:3]
        n = self.n_importance

        def given(one):
            each = np.zeros_like(c, shape=(n, c.shape[1])) + one
            return self._estimated(p, self._of_base(n, Stream(0), c, each), each)
        return np.asarray(self._f.estimates_of(given, p, c, n).reshape(-1, 3).astype(c.dtype), like=c)

    def _base_given(self, c):
        """The base for rows where the model computes, given their context (n, w) or None."""
        there = is_device_array(self.params_.flat)
        if c is not None and self.base_.context_ is not None:
            given = Given(self.base_, asnumpy(c))
            return OnHost(given) if there else given
        return There(self.base_) if there else self.base_

    def _move(self):
        super()._move()
        self.base_ = copy.copy(self.base_).to(self.device)

    # ------------------------------------------------------------ queries

    def _of_base(self, n, stream, like, c=None):
        return np.asarray(self._base_given(c).sample(n, rng=stream.spawn()).astype(like.dtype), like=like)

    def _chain(self, p, z, n_steps, stream, c=None):
        """Rows z, n_steps of the sampler further, and the share of steps that were taken: in one kernel if the base is a
        mixture of Gaussians in the same space.
        """
        p = {name: ops.stop_gradient(p[name]) for name in self._f.shapes()}
        if isinstance(self.base_, GaussianMixture) and self.base_.preprocess is None:
            z, taken = langevin_kernel.chain(*self._f.launch(p, z, c), *launch_of(self.base_), n_steps, self.step,
                                             self.sampler == "mala", *stream.spawn().key, 0, APART)
            return z, taken.mean() / n_steps
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
        return np.asarray(self._base_given(c).encode(z), like=z)

    def _reconstruct(self, p, h, c=None):
        return np.asarray(self._base_given(c).decode(h), like=h)

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
            return asnumpy(self._estimates(self.params_, c if c is None else self._place(c))).reshape(-1, 3)

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
