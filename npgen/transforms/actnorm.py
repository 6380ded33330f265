"""Normalisation of every feature by itself: ActNorm, with learned numbers; BatchNorm, with those of the rows.

Legend: n rows, d features.
"""
import numpy as np

from .. import ops
from ..heads.normal import mean_and_variance
from .base import Transform


class ActNorm(Transform):
    """z = (x - shift) exp(-log_scale); the first parameters standardise the rows that come to it (Kingma & Dhariwal, 2018).

    A feature that is constant keeps its scale. Its parameters are one array, `name` (2 d,): shift, then log_scale.
    """

    def __init__(self, name, d):
        self.name, self.d = name, d

    def shapes(self):
        return {self.name: (2 * self.d,)}

    def init(self, z, c, stream, weights=None):
        return {self.name: np.concatenate(moments(z, weights))}

    def to_noise(self, p, x, c=None, stream=None):
        shift, log_scale = p[self.name][:self.d], p[self.name][self.d:]
        return (x - shift) * ops.exp(-log_scale), np.zeros_like(x, shape=(len(x),)) - ops.sum(log_scale)

    def to_data(self, p, z, c=None):
        shift, log_scale = p[self.name][:self.d], p[self.name][self.d:]
        return z * ops.exp(log_scale) + shift, np.zeros_like(z, shape=(len(z),)) + ops.sum(log_scale)


def moments(x, weights=None):
    """The mean (d,) of rows, and the logarithm of their standard deviation, 0 where they are all but constant; of x's dtype."""
    mean, variance = mean_and_variance(x, weights)
    std = np.sqrt(variance)
    return mean.astype(x.dtype), np.log(np.where(std > 1e-6 * (1 + abs(x).max(axis=0)), std, 1)).astype(x.dtype)


WEIGHTS = "rows.weights"  # in p, beside the parameters: of the rows of a training step, (n,), where they have any


def _moments_of(x, weights):
    """Mean and variance (d,) of rows of weights (n,), if there are any; differentiable."""
    if weights is None:
        return ops.mean(x, axis=0), ops.var(x, axis=0)
    share = (weights / np.sum(weights))[:, None]
    mean = ops.sum(x * share, axis=0)
    return mean, ops.sum(ops.square(x - mean) * share, axis=0)


class BatchNorm(Transform):
    """z = (x - mean) exp(log_gain) / sqrt(variance + EPS) + shift, mean and variance those of rows (Papamakarios et al., 2017).

    In a training step they are the batch's own, by the weights p[WEIGHTS] of its rows if they have any, and the gradient goes
    through them. Where rows are scored, those held out after each epoch and those of a query, they are those of all rows
    trained on: `statistics` finds them, in a pass over them, and p has them under `name.statistics` (2 d,), mean, then
    variance. They are no parameters, as no gradient moves them; and no attribute, as a transform holds no numbers of its own
    and a file keeps what p has. So a step is called with the parameters alone, and a query with both.

    Its parameters are one array, `name` (2 d,), 0 at first: shift, then log_gain.
    """

    EPS = 1e-5

    def __init__(self, name, d):
        self.name, self.d, self._key = name, d, f"{name}.statistics"

    def shapes(self):
        return {self.name: (2 * self.d,)}

    def init(self, z, c, stream, weights=None):
        return {self.name: np.zeros(2 * self.d, z.dtype)}

    def query_shapes(self):
        return self.shapes() | {self._key: (2 * self.d,)}

    def statistics(self, p, x, c=None, weights=None):
        return {self._key: np.concatenate(_moments_of(x, weights))}

    def _of(self, p, x):
        """mean, log_scale and shift (d,)."""
        shift, log_gain = p[self.name][:self.d], p[self.name][self.d:]
        both = p.get(self._key)
        mean, variance = _moments_of(x, p.get(WEIGHTS)) if both is None else (both[:self.d], both[self.d:])
        return mean, 0.5 * ops.log(variance + self.EPS) - log_gain, shift

    def to_noise(self, p, x, c=None, stream=None):
        mean, log_scale, shift = self._of(p, x)
        return (x - mean) * ops.exp(-log_scale) + shift, np.zeros_like(x, shape=(len(x),)) - ops.sum(log_scale)

    def to_data(self, p, z, c=None):
        if self._key not in p:
            raise ValueError(f"BatchNorm: p has no {self._key!r}, without which noise has no data; add what statistics() gives")
        mean, log_scale, shift = self._of(p, z)
        return (z - shift) * ops.exp(log_scale) + mean, np.zeros_like(z, shape=(len(z),)) + ops.sum(log_scale)
