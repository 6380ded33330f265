"""Flows: densities of data that an invertible map turns into noise of a base distribution, most often the standard normal.

    log p(x) = log base(z) + log |det dz/dx|,    z = flow(x)

Legend: n rows, d features, w columns of context, s steps.
Reference: Papamakarios et al., Normalizing flows for probabilistic modeling and inference (2021).
"""
import abc

import numpy as np

from ..checks import check_order, check_widths, one_line
from ..divergences.objectives import OBJECTIVES
from ..priors import from_config, prior_for
from ..transforms import LU, ActNorm, BatchNorm, Chain, Permute
from .base import Capabilities, Follows
from .gradient import GradientModel, warn_of_one_gaussian

NORMS = {"actnorm": ActNorm, "batch": BatchNorm}
MIXES = "reverse", "random", "lu"
NORMAL = {"prior": "normal"}
BASE = 10  # normals, or couplings, of a base that is asked for by its name


def base_of(chosen, d, w):
    """{"base": the learned base of a fit}, or {} for N(0, I); older files have none."""
    config = chosen.setdefault("base", NORMAL)
    return {} if config == NORMAL else {"base": from_config(config).of(d, w)}


class FlowModel(GradientModel):
    """A flow: its _assemble gives {"flow": a transform}, and that is all that a subclass has to write.

    With {"base": a prior of npgen.priors} beside it, noise is of that, and not of the standard normal.
    encode gives the noise z (n, d), of the base under the model; decode inverts it exactly.
    """

    objective: object = "kl"
    _base = None
    _objectives = ("kl", *OBJECTIVES)
    _takes_context = True

    @property
    def _capabilities(self):
        return Capabilities("exact", "noise" if self._base is None else "noise of the base", invertible=True)

    @property
    def n_latent_(self):
        return self.n_features_in_

    def _statistics(self, p, z, c=None, weights=None):
        return self._flow.statistics(p, z, c, weights)

    def _log_density(self, p, z, c=None):
        if self._base is None:
            return self._flow.log_prob(p, z, c)
        noise, log_det = self._flow.to_noise(p, z, c)
        return self._base.log_prob(p, noise, c) + log_det

    def _draw(self, p, n, stream, c=None):
        if self._base is None:
            return self._flow.data(p, stream.normal((n, self.n_features_in_), p.flat.dtype, like=p.flat), c)
        return self._flow.data(p, self._base.sample(p, n, c, stream, p.flat.dtype, like=p.flat), c)

    def _represent(self, p, z, c=None):
        return self._flow.to_noise(p, z, c)[0]

    def _reconstruct(self, p, h, c=None):
        return self._flow.data(p, h, c)


class StackedFlow(FlowModel):
    """A flow of steps of one kind, each of which normalises its features first, with the features mixed between them.

    n_layers       steps
    hidden         widths of the ReLU layers in each step's network
    norm           "actnorm" (Kingma & Dhariwal, 2018), "batch" (batch normalisation; rows are scored by the moments of all rows
                   trained on, which a pass over them finds after each epoch) or None
    mix            what comes between steps: "reverse" turns the order of the features round, "random" draws orders, "lu" is a
                   learned linear map behind a drawn order (Kingma & Dhariwal, 2018)
    base           of the noise: "normal", N(0, I); learned are "mixture", of ten diagonal normals, and "made", a MADE of
                   mixtures of ten normals with `hidden`'s layers (MAF-MoG of Papamakarios et al., 2017); or a prior of
                   npgen.priors, such as MADE(5, hidden=(64,)). What comes between steps comes before a learned base, too

    With norm="batch" or a learned base it is fitted by objective="kl" alone: draws have no batch to take moments of, and those
    of that base no gradient. A subclass writes _step(name, d, w, chosen, k), the k-th step, and gives in _more() what else that
    needs.
    """

    n_layers: int = 5
    hidden: tuple = (128, 128)
    norm: str = "actnorm"
    mix: str = "reverse"
    base: object = "normal"
    _affine = False  # whether steps move each feature by a mean and a scale
    n_layers_, hidden_, norm_, mix_, base_, orders_ = Follows(), Follows(), Follows(), Follows(), Follows(), Follows()

    @property
    def _by_rows(self):
        return self.norm != "batch"

    @property
    def _objectives(self):
        moved = self.norm != "batch" and isinstance(self.base, str) and self.base == "normal"
        return FlowModel._objectives if moved else FlowModel._objectives[:1]

    @abc.abstractmethod
    def _step(self, name, d, w, chosen, k):
        """The k-th step, a transform of d features."""

    def _more(self):
        """{name: value} of hyperparameters that steps need, checked."""
        return {}

    def _choose(self, z, c, stream):
        d, (n,), hidden = z.shape[1], check_widths("n_layers", (self.n_layers,)), check_widths("hidden", self.hidden)
        for name, known in (("norm", (*NORMS, None)), ("mix", MIXES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {one_line(getattr(self, name))}")
        if not hidden:
            raise ValueError(f"hidden must name at least one layer, got {self.hidden!r}; for example hidden=(128, 128)")
        base = prior_for(self.base, BASE, hidden, "base").config()
        if d == 1 and self._affine and base == NORMAL:
            warn_of_one_gaussian(self)
        stream = stream.spawn()
        reverse = np.arange(d)[::-1].astype(np.int64)
        orders = np.stack([reverse if self.mix == "reverse" else stream.permutation(d) for _ in range(n + (base != NORMAL))])
        return {"n_layers": n, "hidden": hidden, "norm": self.norm, "mix": self.mix, "base": base,
                "orders": orders} | self._more()

    def _assemble(self, d, w, chosen):
        n, orders, norm, base = chosen["n_layers"], chosen["orders"], chosen["norm"], base_of(chosen, d, w)
        learned = len(base)
        if orders.shape != (n + learned, d):
            raise ValueError(f"orders of shape {orders.shape} for {n} steps of {d} features")
        for order in orders:
            check_order(order, d)
        steps = []
        for k in range(n + learned):
            if k:  # the first step has the columns in the order in which they come
                steps.append(LU(f"flow.{k}.mix", d, orders[k]) if chosen["mix"] == "lu" else Permute(orders[k]))
            steps += [NORMS[norm](f"flow.{k}.norm", d)] if norm is not None else []
            steps += [self._step(f"flow.{k}", d, w, chosen, k)] if k < n else []
        return {"flow": Chain(tuple(steps))} | base
