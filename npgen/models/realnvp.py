"""RealNVP: a chain of affine couplings that turns data into standard normal noise, and back, exactly.

    x_a stays, z_b = (x_b - t(x_a)) exp(-s(x_a)),    log p(x) = log N(z; 0, I) + log |det dz/dx|

Every coupling conditions on the first half of the features (a) and transforms the second (b); the halves then change
places, and after each pair of couplings the features are shuffled. A coupling first shifts and scales each
feature (ActNorm), starting from zero mean and unit variance on the training rows (Kingma & Dhariwal, 2018).

Legend: n rows, d features, s steps. Reference: Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP (2017).
"""
import numpy as np

from ..checks import check_order, check_widths
from ..priors import prior_for
from ..transforms import AffineCouplings
from .base import Follows
from .flow import BASE, NORMAL, FlowModel, base_of
from .gradient import warn_of_one_gaussian


class RealNVP(FlowModel):
    """Affine-coupling flow: log p(x) = log N(z; 0, I) + log |det dz/dx|, exact, with exact inverse and sampling.

    n_couplings    affine couplings, each of which normalises its features first (ActNorm)
    hidden         widths of the ReLU layers in each coupling's network
    base           of the noise: "normal", N(0, I); learned are "mixture", of ten diagonal normals, and "made", a MADE of
                   mixtures of ten normals with `hidden`'s layers; or a prior of npgen.priors, such as MADE(5, hidden=(64,)). A
                   learned base is fitted by objective="kl" alone
    objective      "kl", maximum likelihood; or a distance between the rows and as many draws: "energy", "mmd",
                   "sliced_wasserstein", or an object of npgen.divergences, such as MMD(scales=(0.5, 1))
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the noise z (n, d), standard normal under the model, or of the base; decode inverts it exactly.
    Attribute: orders_ (pairs, d), the features as they are shuffled before every other coupling.
    Reference: Dinh, Sohl-Dickstein & Bengio (2017).
    """

    n_couplings: int = 8
    hidden: tuple = (128, 128)
    base: object = "normal"
    hidden_, n_couplings_, orders_, base_ = Follows(), Follows(), Follows(), Follows()

    @property
    def _objectives(self):
        return FlowModel._objectives if isinstance(self.base, str) and self.base == "normal" else FlowModel._objectives[:1]

    def _choose(self, z, c, stream):
        hidden, (n,), d = check_widths("hidden", self.hidden), check_widths("n_couplings", (self.n_couplings,)), z.shape[1]
        base = prior_for(self.base, BASE, hidden, "base").config()
        if d == 1 and base == NORMAL:
            warn_of_one_gaussian(self)
        alternating, stream = np.argsort(np.arange(d) % 2, kind="stable"), stream.spawn()  # even features, then odd ones
        orders = np.stack([alternating] + [stream.permutation(d) for _ in range((n + 1) // 2 - 1)])
        return {"hidden": hidden, "n_couplings": n, "orders": orders, "base": base}

    def _assemble(self, d, w, chosen):
        orders, n = chosen["orders"], chosen["n_couplings"]
        for order in orders:
            check_order(order, d)
        if len(orders) != (n + 1) // 2:
            raise ValueError(f"{len(orders)} orders for {n} couplings")
        unchanged = np.broadcast_to(np.arange(d), orders.shape)
        each = np.stack([orders, unchanged], axis=1).reshape(-1, d)[:n]  # shuffled for every pair
        n_kept = [d // 2 if k % 2 == 0 else d - d // 2 for k in range(n)]
        return {"flow": AffineCouplings("flow", each, n_kept, chosen["hidden"], w)} | base_of(chosen, d, w)
