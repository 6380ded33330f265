"""Bijections of single features whose parameters are a network's outputs: what couplings and autoregressive steps do.

    to_noise(x, outputs) -> z, log |det dz/dx|        to_data(z, outputs) -> x, log |det dx/dz|

x, z (n, d), outputs (n, n_outputs d) those of the first feature, then of the second, ...; outputs of 0 are the identity.
Legend: n rows, d features, k bins.
"""
import numpy as np

from .. import fused, ops, splines
from ..heads.normal import Normal

_NORMAL = Normal()


class Element:
    """The contract; `each` is how many outputs a feature has. To a network it is what a likelihood head is."""

    each = 1

    def n_outputs(self, d):
        """How many outputs d features have."""
        return self.each * d

    def first(self, d):
        """Where the outputs of each of d features begin, and those of the last one end, (d + 1,)."""
        return self.each * np.arange(d + 1)

    def initial(self, x, weights=None):
        """The outputs (j,) of the identity, whatever the rows."""
        return np.zeros(self.n_outputs(x.shape[1]))

    def log_prob(self, x, outputs):
        """log N(z; 0, I) + log |det dz/dx|, (n,) nats."""
        z, log_det = self.to_noise(x, outputs)
        return fused.standard_normal_log_prob(z) + log_det


def _affine_formula(x, outputs, limit):
    log_var = ops.bounded(outputs[:, 1::2], limit)
    return (x - outputs[:, ::2]) * ops.exp(-0.5 * log_var), -0.5 * ops.sum(log_var, axis=1)


def _affine_forward(x, outputs, limit):
    log_var = ops.bounded(outputs[:, 1::2], limit)
    scale = np.exp(-0.5 * log_var)
    return (x - outputs[:, ::2]) * scale, -0.5 * np.sum(log_var, axis=1), log_var, scale


def _affine_backward(tracked, ans, g, x, outputs, limit):
    (z, _, log_var, scale), (dz, dlog_det, *_) = ans, g
    dx, draw = np.zeros_like(z) if dz is None else dz * scale, 0 if dz is None else dz * z
    doutputs = np.empty_like(outputs)
    doutputs[:, ::2] = -dx
    doutputs[:, 1::2] = -0.5 * (draw if dlog_det is None else draw + dlog_det[:, None]) * (1 - np.square(log_var / limit))
    return [(dx, doutputs)[i] for i in tracked]


_affine = fused.fused("affine_to_noise", _affine_formula, _affine_forward, _affine_backward)


class Affine(Element):
    """z = (x - mean) exp(-log_var / 2), the noise of a normal head; log |det dz/dx| = -1/2 sum_d log_var_d.

    head: that head, whose limit in nats the raw log-variances are bounded to, so log-scales to half of it.
    """

    each = 2

    def __init__(self, head=_NORMAL):
        self.head = head

    def to_noise(self, x, outputs):
        return _affine(x, outputs, self.head.limit)[:2]

    def to_data(self, z, outputs):
        mean, log_var = self.head.split(outputs)
        return z * ops.exp(0.5 * log_var) + mean, 0.5 * ops.sum(log_var, axis=1)

    def log_prob(self, x, outputs):
        """The head's own."""
        return self.head.log_prob(x, outputs)


class Additive(Element):
    """z = x - shift, of volume 1 (Dinh, Krueger & Bengio, NICE, 2015)."""

    def to_noise(self, x, outputs):
        return x - outputs, np.zeros_like(x, shape=(len(x),))

    def to_data(self, z, outputs):
        return z + outputs, np.zeros_like(z, shape=(len(z),))


class Spline(Element):
    """A monotone rational-quadratic spline of k bins in (-box, box), and the identity outside (splines.spline_to_noise).

    Reference: Durkan, Bekasov, Murray & Papamakarios, Neural spline flows (2019).
    """

    def __init__(self, bins=8, box=5.0):
        self.bins, self.box, self.each = bins, box, 3 * bins - 1

    def to_noise(self, x, outputs):
        return splines.spline_to_noise(x, outputs, self.bins, self.box)

    def to_data(self, z, outputs):
        return splines.spline_to_data(z, outputs, self.bins, self.box)
