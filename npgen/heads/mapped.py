"""The mapped head: a real feature behind a monotone map, by a normal or a mixture of normals.

    p(x_d) = p_base(g(x_d)) g'(x_d)

Legend: n rows, d features.
"""
import numpy as np

from .. import ops
from ..kernels._cuda import constant_like
from .latent import NODES, Latent
from .scale import FAR

MOST = 1e290      # stands for infinity, where a multiple of it has to be a number


class Mapped(Latent):
    """x_d whose y_d = scale(x_d) has the distribution of base, Normal(limit=None) in a mixture, by default MixtureOfNormals(5).

    The density is with respect to length in the column's own unit. span: None, or the smallest and the largest value to be
    drawn. Raises ValueError for another base or scale, and a span that is none.
    """

    name, discrete, floored = "mapped", False, True

    def __init__(self, base=None, scale=None, span=None):
        super().__init__(base, scale, span)
        if span is not None:
            self._kept, self._reach = self.span, np.stack(self.ends(*np.array(self.span)[:, None]))

    def to_data(self, y):
        return self.scale.to_data(y)

    def _log_slope(self, x):
        slopes = self.scale.log_slope(x)
        return ops.sum(ops.where(np.isnan(x), 0, slopes), axis=-1)

    def log_prob(self, x, outputs):
        return self.base.log_prob(self.scale.to_latent(x), outputs) + self._log_slope(x)

    def log_mass(self, low, high, outputs):
        ends = self.ends(low, high)
        return np.where(ends[0] < ends[1], self.base.log_mass(*ends, outputs.astype(np.float64)), -np.inf)

    def sample_within(self, noise, low, high, outputs):
        low, high = self._reached(low, high)
        drawn = self.base.sample_within(noise, *self.ends(low, high), outputs.astype(np.float64))
        return np.clip(self.to_data(drawn), low, high)

    def ends(self, low, high):
        """The latent ends of an interval of values."""
        return [np.clip(self.scale.edge(np.clip(end, -MOST, MOST)), -FAR, FAR) for end in (low, high)]

    def initial(self, x, weights=None):
        return self.base.initial(self.latent(x.astype(np.float64)), weights)

    def _moments(self, outputs):
        """E[x] and E[x^2], by quadrature over each normal (n, d): Gauss and Hermite's, exact where x is a polynomial of y."""
        t, w = (constant_like(a, outputs) for a in np.polynomial.hermite_e.hermegauss(NODES))
        log_weights, mean, log_var = self.base.components(outputs.astype(np.float64))
        x = self.scale.to_data(mean[..., None] + np.exp(log_var / 2)[..., None] * t)
        with np.errstate(over="ignore"):
            return [np.sum(np.exp(log_weights) * (x**power @ (w / w.sum())), axis=-1) for power in (1, 2)]

    def mean(self, outputs):
        return self._moments(outputs)[0].astype(outputs.dtype)

    def variance(self, outputs):
        first, second = self._moments(outputs)
        return np.maximum(second - first**2, 0).astype(outputs.dtype)

    def log_prob_each(self, x, outputs):
        x = x.astype(np.float64)
        return self.base.log_prob_each(self.scale.to_latent(x), outputs) + self._log_slope(x)[:, None]

    def moments(self, x, r, outputs):
        return self.base.moments(self.scale.to_latent(x.astype(np.float64)), r, outputs)

    def typical_variance(self, moments, outputs, pooled):
        return self.base.typical_variance(moments, outputs, pooled)

    def log_prob_around(self, x, pooled):
        x = x.astype(np.float64)
        return self.base.log_prob_around(self.scale.to_latent(x), pooled) + self._log_slope(x)
