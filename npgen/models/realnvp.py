"""RealNVP: a chain of affine couplings that turns data into standard normal noise, and back, exactly.

    x_a stays, z_b = (x_b - t(x_a)) exp(-s(x_a)),    log p(x) = log N(z; 0, I) + log |det dz/dx|

Every coupling conditions on the first half of the features (a) and transforms the second (b); the halves then change
places, and after each pair of couplings the features are shuffled. A coupling first shifts and scales each
feature (ActNorm), starting from zero mean and unit variance on the training rows (Kingma & Dhariwal, 2018).

Each step has inverse_and_log_det (data -> noise) and forward_and_log_det (noise -> data), both with log_det (n,) in nats.

Legend: n rows, d features. Reference: Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP (2017).
"""
import numpy as np

from .. import fused
from ..nn import MLP
from .base import Capabilities, GradientModel, check_widths


class Coupling:
    """a = (x - shift) exp(-log_scale), z = [(a_moved - t) exp(-s), a_kept], (s, t) = MLP(a_kept), s bounded.

    Its parameters are one array, `name`: shift, log_scale, then the network's.
    """

    def __init__(self, name, n_kept, n_features, hidden):
        self.name = name
        self.net = MLP(name, (n_kept, *hidden, 2 * (n_features - n_kept)), last_gain=0.0)

    def init(self, x, stream):
        """Parameters that give a zero mean and unit variance on the rows, and z = a; a constant feature keeps its scale."""
        std = x.std(axis=0)
        log_scale = np.log(np.where(std > 1e-6 * (1 + abs(x).max(axis=0)), std, 1))
        return {self.name: np.concatenate([x.mean(axis=0), log_scale, self.net.init(stream, x.dtype)[self.name]])}

    def inverse_and_log_det(self, params, x):
        return fused.coupling_inverse(x, params[self.name], self.net.layout)

    def forward_and_log_det(self, params, z):
        return fused.coupling_forward(z, params[self.name], self.net.layout)


class Permutation:
    """z = the features of x in another order."""

    def __init__(self, order):
        self.order, self.back = order, np.argsort(order)

    def init(self, x, stream):
        """There is nothing to learn."""
        return {}

    def inverse_and_log_det(self, params, x):
        return x[:, self.order], 0.0

    def forward_and_log_det(self, params, z):
        return z[:, self.back], 0.0


class RealNVP(GradientModel):
    """Affine-coupling flow: log p(x) = log N(z; 0, I) + log |det dz/dx|, exact, with exact inverse and sampling.

    n_couplings    affine couplings, each of which normalises its features first (ActNorm)
    hidden         widths of the ReLU layers in each coupling's network
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.preprocess.make)
    max_epochs ... verbose: see npgen.train.Options; random_state: seed of everything random

    encode gives the noise z (n, d), standard normal under the model; decode inverts it exactly.
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

    def _build(self, z):
        self.hidden_ = check_widths("hidden", self.hidden)
        (self.n_couplings_,) = check_widths("n_couplings", (self.n_couplings,))
        d, pairs = z.shape[1], (self.n_couplings_ + 1) // 2
        alternating = np.argsort(np.arange(d) % 2, kind="stable")  # even features, then odd ones
        stream = self.stream_.spawn()
        self._assemble(np.stack([alternating] + [stream.permutation(d) for _ in range(pairs - 1)]))

    def _assemble(self, orders):
        d, self.orders_, self._steps = orders.shape[1], orders, []
        for k in range(self.n_couplings_):
            if k % 2 == 0:
                self._steps.append(Permutation(orders[k // 2]))
            n_kept = d // 2 if k % 2 == 0 else d - d // 2
            self._steps.append(Coupling(f"coupling{k}", n_kept, d, self.hidden_))

    def _init(self, z, stream):
        params = {}
        for step in self._steps:  # each starts from what the ones before it make of the rows
            params |= step.init(z, stream)
            z, _ = step.inverse_and_log_det(params, z)
        return params

    def inverse_and_log_det(self, params, x):
        """Preprocessed rows -> noise (n, d), and log |det dz/dx| (n,)."""
        log_det = 0.0
        for step in self._steps:
            x, change = step.inverse_and_log_det(params, x)
            log_det = log_det + change
        return x, log_det

    def forward_and_log_det(self, params, z):
        """Noise -> preprocessed rows (n, d), and log |det dx/dz| (n,)."""
        log_det = 0.0
        for step in reversed(self._steps):
            z, change = step.forward_and_log_det(params, z)
            log_det = log_det + change
        return z, log_det

    def _log_density(self, params, z):
        noise, log_det = self.inverse_and_log_det(params, z)
        return fused.standard_normal_log_prob(noise) + log_det

    def _loss(self, params, z, stream):
        return -self._log_density(params, z)

    def _draw_rows(self, params, n, stream):
        return self.forward_and_log_det(params, stream.normal((n, self.orders_.shape[1]), params.flat.dtype))[0]

    def _represent(self, params, z):
        return self.inverse_and_log_det(params, z)[0]

    def _reconstruct(self, params, h):
        return self.forward_and_log_det(params, h)[0]

    def _state(self):
        arrays, fitted = super()._state()
        return arrays | {"orders_": self.orders_}, fitted | {"hidden_": self.hidden_, "n_couplings_": self.n_couplings_}

    def _restore(self, arrays, fitted):
        super()._restore(arrays, fitted)
        self.hidden_, self.n_couplings_ = tuple(fitted["hidden_"]), fitted["n_couplings_"]
        self._assemble(arrays["orders_"])
