"""RealNVP: a chain of affine couplings that turns data into standard normal noise, and back, exactly.

    x_a stays, z_b = (x_b - t(x_a)) exp(-s(x_a)),    log p(x) = log N(z; 0, I) + log |det dz/dx|

Every coupling conditions on the first half of the features (a) and transforms the second (b); the halves then change
places, and after each pair of couplings the features are shuffled. A coupling first shifts and scales each
feature (ActNorm), starting from zero mean and unit variance on the training rows (Kingma & Dhariwal, 2018).

Legend: n rows, d features, s steps. Reference: Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP (2017).
"""
import numpy as np

from .. import fused
from ..checks import check_order, check_size, check_widths, read_only
from ..layout import FlowLayout
from ..nn import MLP
from .base import Capabilities
from .parametric import GradientModel, warn_of_one_gaussian


class Flow:
    """Coupling steps: a = (x[order] - shift) exp(-log_scale), z = [(a_moved - t) exp(-s), a_kept], (s, t) = MLP(a_kept).

    orders (s, d): one order of the features per step; n_kept (s,): how many it keeps; hidden: widths of its network's layers.
    Its parameters are one array, `name`: shift, log_scale and the network's, step after step.
    """

    def __init__(self, name, orders, n_kept, hidden):
        d = orders.shape[1]
        self.name, self.nets = name, [MLP(name, (n, *hidden, 2 * (d - n)), last_gain=0.0) for n in n_kept]
        self.layout = FlowLayout(orders, [net.layout for net in self.nets])

    def init(self, x, stream):
        """Parameters with which each step, given what the ones before it make of the rows, standardises and moves nothing.

        A feature that is constant keeps its scale.
        """
        parts = []
        for k, net in enumerate(self.nets):
            step = self.layout.step(k)
            ordered = x[:, step.orders[0]]
            std = ordered.std(axis=0)
            log_scale = np.log(np.where(std > 1e-6 * (1 + abs(ordered).max(axis=0)), std, 1))
            parts.append(np.concatenate([ordered.mean(axis=0), log_scale, net.init(stream, x.dtype)[self.name]]))
            x, _ = fused.flow_inverse(x, parts[-1], step)
        return {self.name: np.concatenate(parts)}

    def inverse_and_log_det(self, params, x):
        """Data -> noise (n, d), and log |det dz/dx| (n,)."""
        return fused.flow_inverse(x, params[self.name], self.layout)

    def forward_and_log_det(self, params, z):
        """Noise -> data (n, d), and log |det dx/dz| (n,)."""
        return fused.flow_forward(z, params[self.name], self.layout)


class RealNVP(GradientModel):
    """Affine-coupling flow: log p(x) = log N(z; 0, I) + log |det dz/dx|, exact, with exact inverse and sampling.

    n_couplings    affine couplings, each of which normalises its features first (ActNorm)
    hidden         widths of the ReLU layers in each coupling's network
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the noise z (n, d), standard normal under the model; decode inverts it exactly.
    Attribute: orders_ (pairs, d), the features as they are shuffled before every other coupling.
    Reference: Dinh, Sohl-Dickstein & Bengio (2017).
    """

    _capabilities = Capabilities("exact", "noise", invertible=True)

    def __init__(self, *, n_couplings=8, hidden=(128, 128), preprocess="auto", max_epochs=300, batch_size=100,
                 learning_rate=1e-3, validation_fraction=0.1, patience=20, restore_best=True, weight_decay=0.0,
                 callbacks=(), verbose=False, random_state=None):
        self.n_couplings, self.hidden, self.preprocess = n_couplings, hidden, preprocess
        self.max_epochs, self.batch_size, self.learning_rate = max_epochs, batch_size, learning_rate
        self.validation_fraction, self.patience, self.restore_best = validation_fraction, patience, restore_best
        self.weight_decay, self.callbacks, self.verbose = weight_decay, callbacks, verbose
        self.random_state = random_state

    @property
    def n_latent_(self):
        return self.n_features_in_

    @property
    def orders_(self):
        """How the features are shuffled before every other coupling, (pairs, d)."""
        return read_only(self._orders)

    def _build(self, z):
        self.hidden_ = check_widths("hidden", self.hidden)
        (self.n_couplings_,) = check_widths("n_couplings", (self.n_couplings,))
        d, pairs = z.shape[1], (self.n_couplings_ + 1) // 2
        if d == 1:
            warn_of_one_gaussian(self)
        alternating = np.argsort(np.arange(d) % 2, kind="stable")  # even features, then odd ones
        stream = self.stream_.spawn()
        self._assemble(np.stack([alternating] + [stream.permutation(d) for _ in range(pairs - 1)]))

    def _assemble(self, orders):
        self._orders, d = orders, orders.shape[1]
        unchanged = np.broadcast_to(np.arange(d), orders.shape)
        each = np.stack([orders, unchanged], axis=1).reshape(-1, d)[:self.n_couplings_]  # shuffled for every pair
        self._flow = Flow("flow", each, self._n_kept(d), self.hidden_)

    def _n_kept(self, d):
        return [d // 2 if k % 2 == 0 else d - d // 2 for k in range(self.n_couplings_)]

    def _init(self, z, stream):
        return self._flow.init(z, stream)

    def _log_density(self, params, z):
        return fused.flow_log_prob(z, params["flow"], self._flow.layout)

    def _loss(self, params, z, stream):
        return -self._log_density(params, z)

    def _draw_rows(self, params, n, stream):
        noise = stream.normal((n, self.n_features_in_), params.flat.dtype, like=params.flat)
        return self._flow.forward_and_log_det(params, noise)[0]

    def _represent(self, params, z):
        return self._flow.inverse_and_log_det(params, z)[0]

    def _reconstruct(self, params, h):
        return self._flow.forward_and_log_det(params, h)[0]

    def _state(self):
        arrays, fitted = super()._state()
        return arrays | {"orders_": self.orders_}, fitted | {"hidden_": self.hidden_, "n_couplings_": self.n_couplings_}

    def _restore(self, arrays, fitted):
        super()._restore(arrays, fitted)
        self.hidden_, self.n_couplings_ = tuple(fitted["hidden_"]), fitted["n_couplings_"]
        d, orders = self.n_features_in_, arrays["orders_"]
        for order in orders:
            check_order(order, d)
        if len(orders) != (self.n_couplings_ + 1) // 2:
            raise ValueError(f"{len(orders)} orders for {self.n_couplings_} couplings")
        networks = [(n, *self.hidden_, 2 * (d - n)) for n in self._n_kept(d)]
        check_size(self.params_["flow"], *networks, *[(0, 2 * d)] * self.n_couplings_)  # and shift and log_scale
        self._assemble(orders)
