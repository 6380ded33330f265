"""NSF: a stack of steps that move every feature by a monotone rational-quadratic spline, whose knots a network gives.

Legend: d features, w columns of context, k bins.
Reference: Durkan, Bekasov, Murray & Papamakarios, Neural spline flows (2019).
"""
import math

import numpy as np

from ..checks import check_widths
from ..transforms import Autoregressive, Coupling, Spline
from .base import Follows
from .flow import StackedFlow


class NSF(StackedFlow):
    """Neural spline flow: log p(x) = log N(z; 0, I) + log |det dz/dx|, exact, with exact inverse and sampling.

    coupling       whether steps are couplings, which keep half of the features and are drawn in one pass, or autoregressive,
                   which are drawn in d passes
    n_layers       steps
    hidden         widths of the ReLU layers in each step's network
    bins           of every spline, 2 or more
    box            splines act in (-box, box), in standard deviations, and are the identity outside
    norm           "actnorm", "batch" or None
    mix            the order of the features between steps: "reverse", "random", or "lu", a learned linear map
    base           of the noise: "normal"; learned are "mixture" and "made", a MADE of mixtures of ten normals; or a prior of
                   npgen.priors, such as MADE(5, hidden=(64,))
    objective      "kl", maximum likelihood; or a distance between the rows and as many draws: "energy", "mmd",
                   "sliced_wasserstein", or an object of npgen.divergences, such as MMD(scales=(0.5, 1))
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the noise z (n, d), standard normal under the model, or of the base; decode inverts it exactly.
    Attribute: orders_ (n_layers, d), the orders of the features before the steps, and of a learned base; the first is
    not used.
    Reference: Durkan et al. (2019).
    """

    coupling: bool = True
    n_layers: int = 8
    bins: int = 8
    box: float = 5.0
    mix: str = "random"
    coupling_, bins_, box_ = Follows(), Follows(), Follows()

    def _more(self):
        (bins,) = check_widths("bins", (self.bins,))
        if bins < 2:
            raise ValueError(f"bins must be 2 or more, got {bins}")
        if isinstance(self.box, bool) or not isinstance(self.box, (int, float, np.number)) or not 0 < self.box < math.inf:
            raise ValueError(f"box must be a positive number, got {self.box!r}")
        return {"coupling": bool(self.coupling), "bins": bins, "box": float(self.box)}

    def _step(self, name, d, w, chosen, k):
        spline = Spline(chosen["bins"], chosen["box"])
        if chosen["coupling"] and d > 1:
            return Coupling(name, d, d // 2, chosen["hidden"], spline, w)
        return Autoregressive(name, d, chosen["hidden"], spline, w)
