"""The normal head: mean and log-variance of a real feature. And the one convention for scale, std = exp(log_var / 2).

Legend: n rows, d features, k components.
"""
import numpy as np

from .. import fused, ops
from ..fused import LOG_2PI
from ..kernels._constants import NORMAL
from ..kernels._cuda import is_device_array
from .base import EMPTY, RAREST, Family, filled, linear, totals, without

THINNEST = 1e-9   # standard deviation, in units of the data's, below which a component has collapsed


def std(log_var):
    """The standard deviation, exp(log_var / 2): the one convention for scale."""
    return ops.exp(log_var / 2)


def normal_log_prob(x, mean, log_var):
    """log N(x; mean, exp(log_var)) of every feature, in nats."""
    return -0.5 * (LOG_2PI + log_var + ops.square(x - mean) * ops.exp(-log_var))


def normal_between(log_u, low, high):
    """Standard normal z given low <= z <= high, from logarithms of uniforms, by the inverse of the logarithm of the cdf."""
    turned, total = low > 0, ops.normal_log_mass(low, high)
    z = _ndtri_exp(np.logaddexp(ops.special(low).log_ndtr(np.where(turned, -high, low)), log_u + total))
    return np.where(turned, -z, z)


def _ndtri_exp(log_p):
    """z where the logarithm of the cdf is log_p; of a device, which has no such function, to 1e-3 / |z| beyond z = -37."""
    functions = ops.special(log_p)
    if not is_device_array(log_p):
        return functions.ndtri_exp(log_p)
    far = np.maximum(-2 * log_p, 1400.0)  # z^2 + log(2 pi z^2) there, but for terms of 1 / z^2
    far = far - np.log(2 * np.pi * (far - np.log(2 * np.pi * far)))
    return np.where(log_p > -700, functions.ndtri(np.exp(np.maximum(log_p, -700.0))), -np.sqrt(far))


def mean_and_variance(x, weights):
    """Of the columns of rows x (n, d) with weights (n,) or None: (d,) float64 each, 0 and 1 of a column without values."""
    seen, total = totals(x, weights)
    n = np.maximum(seen, RAREST)
    mean = total / n
    return mean, np.where(seen > 0, totals(x, weights, lambda x: np.square(x - mean))[1] / n, 1.0)


def raw_log_var(variance, limit):
    """What a network has to say for log-variances that are bounded to +-limit, or not; beyond half of it, half of it."""
    log_var = np.log(np.maximum(variance, RAREST))
    return log_var if limit is None else limit * np.arctanh(log_var.clip(-limit / 2, limit / 2) / limit)


def interleaved(mean, log_var):
    """The outputs (..., 2 d) of a normal head: the mean (..., d) and the log-variance of every feature, side by side."""
    return np.stack([mean, log_var], axis=-1).reshape(*mean.shape[:-1], 2 * mean.shape[-1])


def typical_variance(variances, n):
    """The variance (d,) that components have within them: the geometric mean of theirs (k, d), by their rows n (k, d).

    In units of the data's variance, which it is where no component has any, that is, where all are thinner than THINNEST.
    A mean of logarithms, because neither one on outliers, however wide, nor one on two close rows is to speak for the others.
    """
    wide = variances > THINNEST**2
    n = n * wide
    return np.exp((n * np.log(np.where(wide, variances, 1.0))).sum(axis=0) / np.maximum(n.sum(axis=0), RAREST))


class Normal(Family):
    """x_d ~ N(mean_d, exp(log_var_d)); outputs are, of each feature, the mean and the raw log-variance.

    limit: the log-variances are bounded to +-limit nats, as a network's have to be; None leaves them as they are.
    """

    name, floored = "normal", True
    discrete, code, pieces = False, NORMAL, 2  # the means, then the log-variances

    def __init__(self, limit=15.0):
        self.limit = limit

    @classmethod
    def of_columns(cls, levels):
        return cls(limit=None)

    def _options(self):
        return {} if self.limit == 15.0 else {"limit": self.limit}

    def split(self, outputs):
        """The means and log-variances in outputs (n, 2 d)."""
        log_var = outputs[..., 1::2]
        return outputs[..., ::2], log_var if self.limit is None else ops.bounded(log_var, self.limit)

    def components(self, outputs):
        """The logarithms of the weights, the means and the log-variances of the normals that it is, each (..., d, 1)."""
        mean, log_var = self.split(outputs)
        return np.zeros_like(mean)[..., None], mean[..., None], log_var[..., None]

    def log_cell(self, low, high, outputs):
        """log P(low < x < high) of every feature, (..., d) nats, differentiable; edges (..., d), +-1e100 for infinite ones."""
        mean, log_var = self.split(outputs)
        return ops.normal_log_mass((low - mean) / std(log_var), (high - mean) / std(log_var))

    def log_prob(self, x, outputs):
        if self.limit is None:
            return ops.sum(normal_log_prob(x, *self.split(outputs)), axis=-1)
        return fused.normal_log_prob(x, outputs, self.limit)

    def sample(self, noise, outputs):
        mean, log_var = self.split(outputs)
        return mean + std(log_var) * noise

    def log_mass(self, low, high, outputs):
        return self.log_cell(np.clip(low, -1e100, 1e100), np.clip(high, -1e100, 1e100), outputs)

    def sample_within(self, noise, low, high, outputs):
        return self._between(np.log(noise), low, high, outputs)

    def sample_between(self, noise, low, high, outputs):
        """x (n, d) of what `sample` takes, given low <= x <= high, which are (1,) or (d,) and +-1e100 where infinite."""
        return self._between(ops.special(noise).log_ndtr(noise), low, high, outputs)

    def _between(self, log_u, low, high, outputs):
        mean, log_var = self.split(outputs)
        scale = std(log_var)
        return np.clip(mean + scale * normal_between(log_u, (low - mean) / scale, (high - mean) / scale), low, high)

    def noise(self, stream, shape, dtype, like=None):
        return stream.normal(shape, dtype, like=like)

    def mean(self, outputs):
        return self.split(outputs)[0]

    def variance(self, outputs):
        return ops.exp(self.split(outputs)[1])

    def n_outputs(self, d):
        return 2 * d

    def first(self, d):
        return 2 * np.arange(d + 1)

    def initial(self, x, weights=None):
        mean, variance = mean_and_variance(x, weights)
        return interleaved(mean, raw_log_var(variance, self.limit))

    def of(self, features):
        return self

    def check(self, x, name, columns=None, shown=None):
        pass  # every real number is in the support

    def _whitened(self, x, outputs):
        """(x - mean) / std under one component after the other, 0 where a value is missing."""
        mean, log_var = self.split(outputs)
        x = x.astype(np.float64)
        for centre, precision in zip(mean, np.exp(-log_var / 2), strict=True):
            y = (x - centre) * precision
            yield np.where(np.isnan(y), 0, y)

    def log_prob_each(self, x, outputs):
        constants, missing = (LOG_2PI + self.split(outputs)[1]) / -2, filled(x)[1]
        joint = without(missing, np.tile(constants.sum(axis=1), (len(x), 1)), constants)
        for k, y in enumerate(self._whitened(x, outputs)):
            joint[:, k] -= np.square(y).sum(axis=1) / 2
        return joint

    def moments(self, x, r, outputs):
        """(3, k, d): weights of the values seen; the first and second moments of whitened values, which do not cancel."""
        first, second = zip(*((w @ y, w @ (y * y)) for w, y in zip(r.T, self._whitened(x, outputs), strict=True)), strict=True)
        return np.stack([r.T @ ~np.isnan(x), np.stack(first), np.stack(second)])

    def maximise(self, moments, outputs, pooled, smoothing):
        (mean, log_var), all_log_var = self.split(outputs), self.split(pooled)[1]
        seen, shift, variance = self._spread(moments)
        with np.errstate(divide="ignore"):
            new = np.logaddexp(log_var + np.log(variance), np.log(smoothing) + all_log_var)
        collapsed = new < all_log_var + 2 * np.log(THINNEST)
        return interleaved(mean + shift * std(log_var), np.where(collapsed, np.nan, new))

    def _spread(self, moments):
        """Rows, mean and variance of whitened values, (k, d) each."""
        seen, first, second = moments
        seen = np.maximum(seen, EMPTY)
        shift = first / seen
        return seen, shift, np.maximum(second / seen - shift**2, 0)

    def typical_variance(self, moments, outputs, pooled):
        """That of the components with these moments under the last outputs, as shares (d,) of the pooled variances."""
        seen, _, variance = self._spread(moments)
        return typical_variance(variance * np.exp(self.split(outputs)[1] - self.split(pooled)[1]), seen)

    def expected_moments(self, outputs, n, pooled, smoothing):
        log_var, all_log_var = self.split(outputs)[1], self.split(pooled)[1]
        seen = np.broadcast_to(n[:, None], log_var.shape)
        return np.stack([seen, 0 * seen, seen * (1 - smoothing * np.exp(all_log_var - log_var))])

    def around(self, x, pooled):
        mean, log_var = self.split(pooled)
        return interleaved(np.where(np.isnan(x), mean, x), log_var.repeat(len(x), axis=0))

    def log_prob_around(self, x, pooled):
        return (LOG_2PI + self.split(pooled)[1][0]) @ np.isnan(x).T / 2 - (LOG_2PI + self.split(pooled)[1]).sum() / 2

    def guess(self, r, outputs):
        return linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return interleaved(*(part[:, features] for part in (outputs[:, ::2], outputs[:, 1::2])))
