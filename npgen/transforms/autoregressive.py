"""Autoregressive steps: every feature is moved by a masked network of those before it.

    z_d = element(x_d; outputs_d(x_1..x_{d-1}, c))

to_noise takes one pass. So does to_data where the element is affine (kernels.made_sample), as many as there are features
otherwise. A stack of them is a MAF (or an autoregressive NSF); Inverse(...) of each is an IAF, which draws fast and scores by
to_data: with a gradient, by the theorem of implicit functions.

Legend: n rows, d features, w columns of context, l hidden layers.
References: Papamakarios, Pavlakou & Murray, Masked autoregressive flow (2017); Kingma et al., Improved variational inference
with inverse autoregressive flow (2016).
"""

from ..engine import vjp
from ..fused import fused
from ..kernels import made_sample
from ..nn import MaskedMLP, beside
from .base import Transform
from .elements import Affine


class Autoregressive(Transform):
    """z_d = element(x_d; network_d(x_<d, c)), the features in their own order (Permute gives them another).

    element: of npgen.transforms.elements: Affine(), Additive(), Spline(bins=8, box=5.0). hidden: widths of the network's ReLU
    layers, one or more. At its first parameters it is the identity. One alone with Affine() is MADE with a normal head.
    """

    def __init__(self, name, d, hidden, element=None, n_context=0):
        self.d, self.element = d, Affine() if element is None else element
        self.net = MaskedMLP(name, d, hidden, self.element, n_context)

    def shapes(self):
        return self.net.shapes()

    def init(self, z, c, stream, weights=None):
        return self.net.init(z, c, stream, weights)

    def to_noise(self, p, x, c=None, stream=None):
        return self.element.to_noise(x, self.net(p, beside(x, c)))

    def log_prob(self, p, x, c=None):
        return self.element.log_prob(x, self.net(p, beside(x, c)))

    def data(self, p, z, c=None):
        return _to_data(z, p[self.net.name], c, self)

    def to_data(self, p, z, c=None):
        x = self.data(p, z, c)
        return x, self.element.to_data(z, self.net(p, beside(x, c)))[1]

    def given(self, x, z, params, c):
        """to_data if the network saw x: the x that it leaves as it is is that of z."""
        return self.element.to_data(z, self.net({self.net.name: params}, beside(x, c)))[0]

    def in_one_pass(self, z, params, c):
        """to_data of an affine element."""
        return self.net.draw({self.net.name: params}, z, made_sample.NORMAL, self.element.head.limits(1), c)


def _formula(z, params, c, step):
    """Each pass makes one more feature right."""
    x = z
    for _ in range(step.d):
        x = step.given(x, z, params, c)
    return x


def _forward(z, params, c, step):
    return step.in_one_pass(z, params, c) if isinstance(step.element, Affine) else _formula(z, params, c, step)


def _through_itself(g, pull, d):
    """(1 - J^T)^-1 g = g + J^T g + ...: the d-th power of J is 0, as it is triangular with 0 on the diagonal."""
    total = g
    for _ in range(d - 1):
        total = g + pull(total)[0]
    return total


def _backward(tracked, x, g, z, params, c, step):
    """x = given(x, z, params, c), so dx = (1 - J)^-1 dgiven, J its derivative by the x that the network sees."""
    total = _through_itself(g, vjp(lambda x: step.given(x, z, params, c), x)[1], step.d)
    args = [z, params, c]

    def of_tracked(*values):
        chosen = list(args)
        for i, value in zip(tracked, values, strict=True):
            chosen[i] = value
        return step.given(x, *chosen)

    return list(vjp(of_tracked, *(args[i] for i in tracked))[1](total))


_to_data = fused("autoregressive_to_data", _formula, _forward, _backward)
