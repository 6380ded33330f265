"""The mixture-of-normals head: a real feature of several peaks.

Legend: n rows, d features, c components.
References: Bishop, Mixture density networks (1994); Uria, Murray & Larochelle, RNADE (2013).
"""
import numpy as np

from .. import ops
from ..fused import mixture_log_prob
from ..kernels._constants import MIXTURE
from .base import RAREST, Head
from .normal import mean_and_variance, normal_between, raw_log_var, std


class MixtureOfNormals(Head):
    """p(x_d) = sum_c w_dc N(x_d; mean_dc, exp(log_var_dc)), w_d = softmax(logits_d).

    Outputs are, of each feature, n_components logits, as many means and as many raw log-variances, bounded to +-limit nats.
    Raises ValueError for an n_components that is no positive integer.
    """

    name, discrete, noises, code = "mixture", False, 2, MIXTURE

    def __init__(self, n_components=10, limit=15.0):
        if type(n_components) is not int or n_components < 1:
            raise ValueError(f"MixtureOfNormals: n_components must be a positive integer, got {n_components!r}"[:200])
        self.n_components, self.limit = n_components, limit

    def __repr__(self):
        return f"MixtureOfNormals({self.n_components})"

    def _options(self):
        return {"n_components": self.n_components} | ({} if self.limit == 15.0 else {"limit": self.limit})

    def split(self, outputs):
        """The logarithms of the weights, the means and the log-variances in outputs (..., j), each (..., d, c)."""
        d = outputs.shape[-1] // (3 * self.n_components)
        parts = outputs.reshape(*outputs.shape[:-1], d, 3, self.n_components)
        return ops.log_softmax(parts[..., 0, :]), parts[..., 1, :], ops.bounded(parts[..., 2, :], self.limit)

    components = split

    def log_cell(self, low, high, outputs):
        """log P(low < x < high) of every feature, (..., d) nats, differentiable; edges (..., d), +-1e100 for infinite ones."""
        log_weights, mean, log_var = self.split(outputs)
        edges = ((edge[..., None] - mean) / std(log_var) for edge in (low, high))
        return ops.logsumexp(log_weights + ops.normal_log_mass(*edges))

    def log_mass(self, low, high, outputs):
        return self.log_cell(np.clip(low, -1e100, 1e100), np.clip(high, -1e100, 1e100), outputs)

    def sample_within(self, noise, low, high, outputs):
        return self._between(noise, None, low, high, outputs)

    def sample_between(self, noise, low, high, outputs):
        """x (n, d) of what `sample` takes, given low <= x <= high, which are (1,) or (d,) and +-1e100 where infinite."""
        return self._between(noise[..., ::2], ops.special(noise).log_ndtr(noise[..., 1::2]), low, high, outputs)

    def _between(self, noise, log_u, low, high, outputs):
        """One component by its mass in the interval, then its normal there: by log_u, or what the choice leaves of noise,
        which is uniform again."""
        log_weights, mean, log_var = self.split(outputs)
        scale = std(log_var)
        ends = [(end[..., None] - mean) / scale for end in (low, high)]
        log_mass = log_weights + ops.normal_log_mass(*(np.clip(end, -1e100, 1e100) for end in ends))
        edges = np.cumsum(np.exp(log_mass - log_mass.max(axis=-1, keepdims=True)), axis=-1)
        at = noise[..., None] * edges[..., -1:]
        number = (edges[..., :-1] <= at).sum(axis=-1)[..., None]
        of_rows = [np.broadcast_to(a, np.broadcast_shapes(a.shape, number.shape)) for a in (mean, scale, *ends, edges)]
        mean, scale, *ends, last = (np.take_along_axis(a, number, axis=-1) for a in of_rows)
        if log_u is None:
            before = np.where(number > 0, np.take_along_axis(of_rows[-1], np.maximum(number - 1, 0), axis=-1), 0)
            log_u = np.log(np.clip((at - before) / (last - before), RAREST, 1))[..., 0]
        return np.clip((mean + scale * normal_between(log_u[..., None], *ends))[..., 0], low, high)

    def log_prob(self, x, outputs):
        return mixture_log_prob(x, outputs, self.n_components, self.limit)

    def noise(self, stream, shape, dtype, like=None):
        """Of each feature a uniform, which chooses the component, and a normal, (..., 2 d)."""
        first, second = stream.spawn(), stream.spawn()  # a row is the same, however many there are
        both = first.uniform(shape, dtype, like=like), second.normal(shape, dtype, like=like)
        return np.stack(both, axis=-1).reshape(*shape[:-1], 2 * shape[-1])

    def sample(self, noise, outputs):
        log_weights, mean, log_var = self.split(outputs)
        edges = np.cumsum(np.exp(log_weights), axis=-1)
        number = (edges[..., :-1] <= noise[..., ::2, None] * edges[..., -1:]).sum(axis=-1)[..., None]
        of_rows = (np.broadcast_to(a, np.broadcast_shapes(a.shape, number.shape)) for a in (mean, log_var))
        mean, log_var = (np.take_along_axis(a, number, axis=-1)[..., 0] for a in of_rows)
        return mean + std(log_var) * noise[..., 1::2]

    def mean(self, outputs):
        log_weights, mean, _ = self.split(outputs)
        return ops.sum(ops.exp(log_weights) * mean, axis=-1)

    def variance(self, outputs):
        log_weights, mean, log_var = self.split(outputs)
        spread = ops.square(mean - self.mean(outputs)[..., None])
        return ops.sum(ops.exp(log_weights) * (ops.exp(log_var) + spread), axis=-1)

    def n_outputs(self, d):
        return 3 * self.n_components * d

    def first(self, d):
        return 3 * self.n_components * np.arange(d + 1)

    def initial(self, x, weights=None):
        """Components of equal weight, evenly apart within a standard deviation, of the column's mean and variance in all."""
        mean, variance = mean_and_variance(x, weights)
        apart = (2 * np.arange(self.n_components) + 1) / self.n_components - 1
        means = mean[:, None] + np.sqrt(variance)[:, None] * apart
        within = np.broadcast_to((variance * (1 - np.square(apart).mean()))[:, None], means.shape)
        return np.stack([0 * means, means, raw_log_var(within, self.limit)], axis=1).ravel()

    def of(self, features):
        return self

    def check(self, x, name, columns=None, shown=None):
        pass  # every real number is in the support
