"""GMMN: a network that makes rows of noise, fitted by a distance between the rows that it makes and the data's.

    y = net(e), e ~ N(0, I)

There is no adversary. A batch's rows are compared with as many that are drawn, by an objective of npgen.divergences; given a
context, rows have it beside them in the distance.

Legend: n rows, d features, w columns of context.
Reference: Li, Swersky & Zemel, Generative moment matching networks (2015).
"""
from ..checks import check_widths
from ..divergences.objectives import OBJECTIVES
from ..nn import MLP, beside
from .base import Capabilities, Follows
from .gradient import GradientModel


class GMMN(GradientModel):
    """Generative moment matching network: rows made of noise, by an energy, MMD or sliced Wasserstein distance; no density.

    objective      "energy", "mmd" or "sliced_wasserstein", or an object of npgen.divergences, such as MMD(scales=(0.5, 1)) or
                   SlicedWasserstein(n_directions=100)
    n_noise        numbers of noise that a row is made of
    hidden         widths of the ReLU layers
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    score is minus the energy distance between rows and draws; history_ has the losses, without what is constant in them.
    Reference: Li, Swersky & Zemel (2015).
    """

    objective: object = "energy"
    n_noise: int = 16
    hidden: tuple = (128, 128)
    batch_size: int = 200
    _capabilities = Capabilities("none", "none", invertible=False)
    _objectives = tuple(OBJECTIVES)
    _takes_context = True
    hidden_, n_noise_ = Follows(), Follows()

    def _choose(self, z, c, stream):
        (n_noise,) = check_widths("n_noise", (self.n_noise,))
        return {"hidden": check_widths("hidden", self.hidden), "n_noise": n_noise}

    def _assemble(self, d, w, chosen):
        return {"net": MLP("net", (chosen["n_noise"] + w, *chosen["hidden"], d))}

    def _draw(self, p, n, stream, c=None):
        return self._net(p, beside(stream.normal((n, self.n_noise_), p.flat.dtype, like=p.flat), c))
