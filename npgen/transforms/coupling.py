"""Couplings: some features stay, and a network of them moves the others; exact both ways, in one pass each.

Legend: n rows, d features, w columns of context, s steps.
"""
import functools

import numpy as np

from .. import fused, ops
from ..layout import FlowLayout
from ..nn import MLP, beside
from .actnorm import moments
from .base import Transform


class Coupling(Transform):
    """z = [x_kept, element(x_moved; network(x_kept, c))]: the first n_kept features stay where they are, the others move.

    element: what is done to them, of npgen.transforms.elements: Affine(), Additive(), Spline(bins=8, box=5.0).
    hidden: widths of the network's ReLU layers. At its first parameters it is the identity.
    """

    def __init__(self, name, d, n_kept, hidden, element, n_context=0):
        self.n_kept, self.element = n_kept, element
        self.net = MLP(name, (n_kept + n_context, *hidden, element.n_outputs(d - n_kept)), last_gain=0.0)

    def shapes(self):
        return self.net.shapes()

    def init(self, z, c, stream, weights=None):
        return self.net.init(z, c, stream, weights)

    def _apply(self, way, p, x, c):
        kept, moved = x[:, :self.n_kept], x[:, self.n_kept:]
        moved, log_det = way(moved, self.net(p, beside(kept, c)))
        return ops.concatenate([kept, moved], axis=1), log_det

    def to_noise(self, p, x, c=None, stream=None):
        return self._apply(self.element.to_noise, p, x, c)

    def to_data(self, p, z, c=None):
        return self._apply(self.element.to_data, p, z, c)


class AffineCouplings(Transform):
    """A run of RealNVP's steps, for which there is one kernel: ActNorm, an order, an affine coupling, and the next.

    a = (x[order] - shift) exp(-log_scale), z = [(a_moved - t) exp(-s), a_kept], (s, t) = MLP(a_kept, c), s bounded to
    +-fused.COUPLING_LIMIT.

    orders (s, d): one order of the features per step; n_kept (s,): how many it keeps; hidden: widths of its network's layers.
    Its parameters are one array, `name`: shift, log_scale and the network's, step after step. To the kernel a context is
    features that every step keeps as they are.
    """

    def __init__(self, name, orders, n_kept, hidden, n_context=0):
        self.name, self.orders, self.n_context, self.d = name, orders, n_context, orders.shape[1]
        self.nets = [MLP(name, (int(n) + n_context, *hidden, 2 * (self.d - int(n))), last_gain=0.0) for n in n_kept]

    @functools.cached_property
    def layout(self):
        """How its parameters lie in their array, the context's among them (npgen.layout.FlowLayout)."""
        context = np.arange(self.d, self.d + self.n_context)
        orders = [np.insert(order, net.widths[0] - self.n_context, context)
                  for order, net in zip(self.orders, self.nets, strict=True)]
        return FlowLayout(np.stack(orders), [net.layout for net in self.nets])

    def to(self, place):
        return self  # the kernel takes its layout from the host

    def shapes(self):
        return {self.name: (sum(2 * self.d + net.shapes()[self.name][0] for net in self.nets),)}

    def init(self, z, c, stream, weights=None):
        """Parameters with which each step, given what the ones before it make of the rows, standardises and moves nothing."""
        parts, x = [], z
        for k, net in enumerate(self.nets):
            shift, log_scale = moments(x[:, self.orders[k]], weights)
            parts.append(np.concatenate([shift, log_scale, net.init(x, c, stream, weights)[self.name]]))
            x = fused.flow_inverse(beside(x, c), self._step(parts[-1], net), self.layout.step(k))[0][:, :self.d]
        return {self.name: np.concatenate(parts)}

    def _step(self, params, net):
        """The parameters of a step as the kernel has them: with 0 for the shift and the log-scale of its context."""
        if not self.n_context:
            return params
        d, at, none = self.d, net.widths[0] - self.n_context, np.zeros_like(params, shape=(self.n_context,))
        return ops.concatenate([params[:at], none, params[at:d + at], none, params[d + at:]])

    def _all(self, p):
        if not self.n_context:
            return p[self.name]
        ends = np.cumsum([2 * self.d + net.shapes()[self.name][0] for net in self.nets])
        return ops.concatenate([self._step(p[self.name][start:end], net) for start, end, net in
                                zip([0, *ends], ends, self.nets, strict=False)])

    def to_noise(self, p, x, c=None, stream=None):
        z, log_det = fused.flow_inverse(beside(x, c), self._all(p), self.layout)
        return z if c is None else z[:, :self.d], log_det

    def to_data(self, p, z, c=None):
        x, log_det = fused.flow_forward(beside(z, c), self._all(p), self.layout)
        return x if c is None else x[:, :self.d], log_det

    def log_prob(self, p, x, c=None):
        return super().log_prob(p, x, c) if self.n_context else fused.flow_log_prob(x, p[self.name], self.layout)
