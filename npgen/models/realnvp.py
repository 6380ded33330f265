"""RealNVP: a chain of affine couplings that turns data into standard normal noise, and back, exactly.

    x_a stays, z_b = (x_b - t(x_a)) exp(-s(x_a)),    log p(x) = log N(z; 0, I) + log |det dz/dx|

Every coupling conditions on the first half of the features (a) and transforms the second (b); the halves then change
places, and after each pair of couplings the features are shuffled. A coupling first shifts and scales each
feature (ActNorm), starting from zero mean and unit variance on the training rows (Kingma & Dhariwal, 2018).

Legend: n rows, d features, s steps. Reference: Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP (2017).
"""
import functools

import numpy as np

from .. import fused
from ..checks import check_order, check_widths
from ..layout import FlowLayout
from ..nn import MLP, Part
from .base import Follows
from .flow import FlowModel
from .gradient import warn_of_one_gaussian


class Flow(Part):
    """Coupling steps: a = (x[order] - shift) exp(-log_scale), z = [(a_moved - t) exp(-s), a_kept], (s, t) = MLP(a_kept).

    orders (s, d): one order of the features per step; n_kept (s,): how many it keeps; hidden: widths of its network's layers.
    Its parameters are one array, `name`: shift, log_scale and the network's, step after step.
    """

    def __init__(self, name, orders, n_kept, hidden):
        d = orders.shape[1]
        self.name, self.orders = name, orders
        self.nets = [MLP(name, (int(n), *hidden, 2 * (d - int(n))), last_gain=0.0) for n in n_kept]

    @functools.cached_property
    def layout(self):
        """How its parameters lie in their array (npgen.layout.FlowLayout)."""
        return FlowLayout(self.orders, [net.layout for net in self.nets])

    def shapes(self):
        return {self.name: (sum(2 * self.orders.shape[1] + net.shapes()[self.name][0] for net in self.nets),)}

    def init(self, z, c, stream):
        """Parameters with which each step, given what the ones before it make of the rows, standardises and moves nothing.

        A feature that is constant keeps its scale.
        """
        parts, x = [], z
        for k, net in enumerate(self.nets):
            step = self.layout.step(k)
            ordered = x[:, step.orders[0]]
            std = ordered.std(axis=0)
            log_scale = np.log(np.where(std > 1e-6 * (1 + abs(ordered).max(axis=0)), std, 1))
            parts.append(np.concatenate([ordered.mean(axis=0), log_scale, net.init(x, c, stream)[self.name]]))
            x, _ = fused.flow_inverse(x, parts[-1], step)
        return {self.name: np.concatenate(parts)}

    def to_noise(self, p, x, c=None):
        """Data -> noise (n, d), and log |det dz/dx| (n,)."""
        return fused.flow_inverse(x, p[self.name], self.layout)

    def to_data(self, p, z, c=None):
        """Noise -> data (n, d), and log |det dx/dz| (n,)."""
        return fused.flow_forward(z, p[self.name], self.layout)

    def log_prob(self, p, x, c=None):
        """log N(z; 0, I) + log |det dz/dx| (n,)."""
        return fused.flow_log_prob(x, p[self.name], self.layout)


class RealNVP(FlowModel):
    """Affine-coupling flow: log p(x) = log N(z; 0, I) + log |det dz/dx|, exact, with exact inverse and sampling.

    n_couplings    affine couplings, each of which normalises its features first (ActNorm)
    hidden         widths of the ReLU layers in each coupling's network
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the noise z (n, d), standard normal under the model; decode inverts it exactly.
    Attribute: orders_ (pairs, d), the features as they are shuffled before every other coupling.
    Reference: Dinh, Sohl-Dickstein & Bengio (2017).
    """

    n_couplings: int = 8
    hidden: tuple = (128, 128)
    hidden_, n_couplings_, orders_ = Follows(), Follows(), Follows()

    def _choose(self, z, c, stream):
        hidden, (n,), d = check_widths("hidden", self.hidden), check_widths("n_couplings", (self.n_couplings,)), z.shape[1]
        if d == 1:
            warn_of_one_gaussian(self)
        alternating, stream = np.argsort(np.arange(d) % 2, kind="stable"), stream.spawn()  # even features, then odd ones
        orders = np.stack([alternating] + [stream.permutation(d) for _ in range((n + 1) // 2 - 1)])
        return {"hidden": hidden, "n_couplings": n, "orders": orders}

    def _assemble(self, d, w, chosen):
        orders, n = chosen["orders"], chosen["n_couplings"]
        for order in orders:
            check_order(order, d)
        if len(orders) != (n + 1) // 2:
            raise ValueError(f"{len(orders)} orders for {n} couplings")
        unchanged = np.broadcast_to(np.arange(d), orders.shape)
        each = np.stack([orders, unchanged], axis=1).reshape(-1, d)[:n]  # shuffled for every pair
        return {"flow": Flow("flow", each, [d // 2 if k % 2 == 0 else d - d // 2 for k in range(n)], chosen["hidden"])}
