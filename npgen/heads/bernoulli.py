"""The Bernoulli head: the logit of a binary feature.

Legend: n rows, d features, k components.
"""
import numpy as np

from .. import fused, ops
from ..kernels._constants import BERNOULLI
from .base import RAREST, Family, filled, linear, mass_of, point_of, refuse, totals, weigh, without

BITS = np.arange(2.0)


class Bernoulli(Family):
    """x_d in {0, 1} with P(x_d = 1) = sigmoid(logit_d); outputs are the logits."""

    name, code = "bernoulli", BERNOULLI

    def log_prob(self, x, outputs):
        return fused.bernoulli_log_prob(x, outputs)

    def sample(self, noise, outputs):
        return (noise < ops.sigmoid(outputs)).astype(outputs.dtype)

    def support(self):
        return BITS

    def log_mass(self, low, high, outputs):
        return np.stack([mass_of(BITS, part, *ends) for part, *ends in zip(self.log_probabilities(outputs), low, high,
                                                                          strict=True)], axis=-1)

    def sample_within(self, noise, low, high, outputs):
        return np.stack([point_of(BITS, part, a, b, u) for part, a, b, u in zip(
            self.log_probabilities(outputs), low, high, np.moveaxis(noise, -1, 0), strict=True)], axis=-1)

    def noise(self, stream, shape, dtype, like=None):
        return stream.uniform(shape, dtype, like=like)

    def mean(self, outputs):
        return ops.sigmoid(outputs)

    def variance(self, outputs):
        return ops.sigmoid(outputs) * ops.sigmoid(-outputs)

    def n_outputs(self, d):
        return d

    def first(self, d):
        return np.arange(d + 1)

    def log_probabilities(self, outputs):
        """log P(x_d = l), an array (n, 2) for each feature."""
        return list(np.moveaxis(-ops.softplus(np.stack([outputs, -outputs], axis=-1)), -2, 0))

    def initial(self, x, weights=None):
        seen, ones = totals(x, weights)
        return np.log(ones + 1) - np.log(seen - ones + 1)

    def of(self, features):
        return self

    def check(self, x, name, columns=None, shown=None):
        refuse(~((x == 0) | (x == 1) | np.isnan(x)), x if shown is None else shown, name, columns,
                "but a Bernoulli head needs 0 or 1: binarise the data, or use a normal head")

    def log_prob_each(self, x, outputs):
        x, missing = filled(x)
        zeros = -ops.softplus(outputs)  # log P(x = 0)
        return without(missing, linear(x, outputs) + zeros.sum(axis=1), zeros)

    def moments(self, x, r, outputs):
        """(2, k, d): weights of the values seen, and of the ones."""
        x, missing = filled(x)
        return np.stack([r.sum(axis=0)[:, None] - r[:len(missing)].T @ missing, weigh(x, r)])

    def maximise(self, moments, outputs, pooled, smoothing):
        seen, ones = moments
        return np.log(np.maximum(ones + smoothing, RAREST)) - np.log(np.maximum(seen - ones + smoothing, RAREST))

    def expected_moments(self, outputs, n, pooled, smoothing):
        seen = np.broadcast_to(n[:, None], outputs.shape)
        return np.stack([seen, ops.sigmoid(outputs) * (seen + 2 * smoothing) - smoothing])

    def around(self, x, pooled):
        share = self.mean(pooled)
        share = np.where(np.isnan(x), share, (share + x) / 2)
        return np.log(share) - np.log1p(-share)

    def log_prob_around(self, x, pooled):
        own = np.log((1 + self.mean(np.where(x == 1, pooled, -pooled))) / 2)
        return np.where(np.isnan(x), 0, own).sum(axis=1)

    def guess(self, r, outputs):
        return linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return outputs[:, features]
