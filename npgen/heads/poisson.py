"""The Poisson head: the log-rate of a count.

Legend: n rows, d features, k components.
"""
import numpy as np

from .. import ops
from ..kernels._cuda import is_device_array
from .base import EMPTY, RAREST, Family, filled, linear, point_of, refuse, totals, weigh, without

MOST = 1e300      # a count beyond is taken to be there, so that no term of a density overflows
AROUND = 64       # counts, and more than a quantile is from where its search begins


class Poisson(Family):
    """x_d in {0, 1, 2, ...} with P(x_d = n) = rate_d^n exp(-rate_d) / n!; outputs are the log-rates."""

    name = "poisson"

    def log_prob(self, x, outputs):
        return ops.sum(x * outputs - ops.exp(outputs) - ops.gammaln(x + 1), axis=-1)

    def sample(self, noise, outputs):
        return _poisson_quantile(noise.astype(np.float64), np.exp(outputs.astype(np.float64))).astype(outputs.dtype)

    def _counts(self, low, high, rate):
        """The counts in [low, high] up to which the mass is not below e^-1000 of that of its beginning, and log p of each."""
        first = max(0, np.ceil(low))
        far = max(first, rate.max())
        counts = np.arange(first, min(np.floor(high), np.ceil(far + 60 * np.sqrt(far) + 600)) + 1)
        return counts, counts * np.log(rate)[..., None] - rate[..., None] - ops.gammaln(counts + 1)

    def log_mass(self, low, high, outputs):
        parts = zip(low, high, np.moveaxis(np.exp(outputs), -1, 0), strict=True)
        return np.stack([np.logaddexp.reduce(self._counts(a, b, rate)[1], axis=-1) for a, b, rate in parts], axis=-1)

    def sample_within(self, noise, low, high, outputs):
        parts = zip(low, high, np.moveaxis(np.exp(outputs), -1, 0), np.moveaxis(noise, -1, 0), strict=True)
        tables = [(*self._counts(a, b, rate), a, b, u) for a, b, rate, u in parts]
        return np.stack([point_of(counts, log_p - log_p.max(axis=-1, keepdims=True), a, b, u) for counts, log_p, a, b, u in
                         tables], axis=-1)

    def noise(self, stream, shape, dtype, like=None):
        return stream.uniform(shape, dtype, like=like)

    def mean(self, outputs):
        return ops.exp(outputs)

    def variance(self, outputs):
        return ops.exp(outputs)

    def n_outputs(self, d):
        return d

    def first(self, d):
        return np.arange(d + 1)

    def initial(self, x, weights=None):
        seen, total = totals(x, weights, _count)
        return np.log(total + 1) - np.log(seen + 1)

    def of(self, features):
        return self

    def check(self, x, name, columns=None, shown=None):
        refuse(~((x == np.floor(x)) & (x >= 0) | np.isnan(x)), x if shown is None else shown, name, columns,
                "but a Poisson head needs counts 0, 1, 2, ...: use a normal head for other numbers")

    def log_prob_each(self, x, outputs):
        x, missing = filled(_count(x))
        rates = self.mean(outputs)
        joint = linear(x, outputs) - rates.sum(axis=1) - ops.gammaln(x + 1).sum(axis=1, keepdims=True)
        return without(missing, joint, -rates)

    def moments(self, x, r, outputs):
        """(2, k, d): weights of the values seen, and their sums."""
        x, missing = filled(_count(x))
        return np.stack([r.sum(axis=0)[:, None] - r[:len(missing)].T @ missing, weigh(x, r)])

    def maximise(self, moments, outputs, pooled, smoothing):
        seen, total = moments
        return np.log(np.maximum(total + smoothing, RAREST)) - np.log(np.maximum(seen, EMPTY))

    def expected_moments(self, outputs, n, pooled, smoothing):
        seen = np.broadcast_to(n[:, None], outputs.shape)
        return np.stack([seen, self.mean(outputs) * seen - smoothing])

    def around(self, x, pooled):
        return np.where(np.isnan(x), pooled, np.log(_count(x) + 0.5))

    def log_prob_around(self, x, pooled):
        x, missing = filled(_count(x))
        own = x * np.log(x + 0.5) - (x + 0.5) - ops.gammaln(x + 1)
        return (np.where(missing, 0, own) if len(missing) else own).sum(axis=1)

    def guess(self, r, outputs):
        return linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return outputs[:, features]


def _count(x):
    """x in float64, where its logarithm times itself is a number."""
    return np.minimum(x.astype(np.float64), MOST)


def _poisson_quantile(u, rate):
    """The smallest count n with P(x <= n) >= u: exact below a rate of 2^20, beyond to a thousandth of a count.

    It begins with the expansion of Cornish & Fisher (1938), which is near: the host takes the few steps up or down that there
    are, of most numbers none; a device, which would have to be asked, halves the counts around it, so many times in any case.
    """
    functions = ops.special(u)
    z = functions.ndtri(u)
    near = np.maximum(np.round(rate + np.sqrt(rate) * z + (z * z - 1) / 6), 0)
    search = _halved if is_device_array(near) else _stepped
    return search(near, u, rate, functions.pdtr)


def _stepped(count, u, rate, cdf):
    u, rate = (np.broadcast_to(a, count.shape) for a in (u, rate))
    for step, wrong in ((-1, lambda n, u, rate: (n > 0) & (cdf(n - 1, rate) >= u)), (1, lambda n, u, rate: cdf(n, rate) < u)):
        at = np.nonzero(rate < 2**20)
        while len(at[0]):
            moved = wrong(count[at], u[at], rate[at])
            at = tuple(index[moved] for index in at)
            count[at] += step
    return count


def _halved(near, u, rate, cdf):
    count, more = np.maximum(near - AROUND, 0), AROUND
    while more:  # 2 `more` counts are left, from this one on
        count = count + more * (cdf(count + (more - 1), rate) < u)
        more //= 2
    return np.where(rate < 2**20, count, near)
