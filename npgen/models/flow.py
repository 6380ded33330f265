"""Flows: densities of data that an invertible map turns into standard normal noise.

    log p(x) = log N(z; 0, I) + log |det dz/dx|,    z = flow(x)

Legend: n rows, d features, w columns of context, s steps.
Reference: Papamakarios et al., Normalizing flows for probabilistic modeling and inference (2021).
"""
import abc

import numpy as np

from ..checks import check_order, check_widths, one_line
from ..transforms import LU, ActNorm, BatchNorm, Chain, Permute
from .base import Capabilities, Follows
from .gradient import GradientModel, warn_of_one_gaussian

NORMS = {"actnorm": ActNorm, "batch": BatchNorm}
MIXES = "reverse", "random", "lu"


class FlowModel(GradientModel):
    """A flow: its _assemble gives {"flow": a transform}, and that is all that a subclass has to write.

    encode gives the noise z (n, d), standard normal under the model; decode inverts it exactly.
    """

    _capabilities = Capabilities("exact", "noise", invertible=True)
    _takes_context = True

    @property
    def n_latent_(self):
        return self.n_features_in_

    def _statistics(self, p, z, c=None, weights=None):
        return self._flow.statistics(p, z, c, weights)

    def _log_density(self, p, z, c=None):
        return self._flow.log_prob(p, z, c)

    def _draw(self, p, n, stream, c=None):
        return self._flow.data(p, stream.normal((n, self.n_features_in_), p.flat.dtype, like=p.flat), c)

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

    A subclass writes _step(name, d, w, chosen, k), the k-th step, and gives in _more() what else that needs.
    """

    n_layers: int = 5
    hidden: tuple = (128, 128)
    norm: str = "actnorm"
    mix: str = "reverse"
    _affine = False  # whether steps move each feature by a mean and a scale
    n_layers_, hidden_, norm_, mix_, orders_ = Follows(), Follows(), Follows(), Follows(), Follows()

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
        if d == 1 and self._affine:
            warn_of_one_gaussian(self)
        stream = stream.spawn()
        reverse = np.arange(d)[::-1].astype(np.int64)
        orders = np.stack([reverse if self.mix == "reverse" else stream.permutation(d) for _ in range(n)])
        return {"n_layers": n, "hidden": hidden, "norm": self.norm, "mix": self.mix, "orders": orders} | self._more()

    def _assemble(self, d, w, chosen):
        n, orders, norm = chosen["n_layers"], chosen["orders"], chosen["norm"]
        if orders.shape != (n, d):
            raise ValueError(f"orders of shape {orders.shape} for {n} steps of {d} features")
        for order in orders:
            check_order(order, d)
        steps = []
        for k in range(n):
            if k:  # the first step has the columns in the order in which they come
                steps.append(LU(f"flow.{k}.mix", d, orders[k]) if chosen["mix"] == "lu" else Permute(orders[k]))
            steps += [NORMS[norm](f"flow.{k}.norm", d)] if norm is not None else []
            steps.append(self._step(f"flow.{k}", d, w, chosen, k))
        return {"flow": Chain(tuple(steps))}
