"""Logit and Log: an interval and the positive numbers, stretched over the real line.

Legend: n rows, d columns.
"""
import math

import numpy as np

from .base import Transform, finite, floating


class Logit(Transform, name="logit"):
    """Stretch (0, 1) over the real line, keeping alpha away from both ends.

    s = alpha + (1 - 2 alpha) x,  z = log s - log(1 - s),    log_det = sum_d log(1 - 2 alpha) - log s_d - log(1 - s_d)

    alpha  0 <= alpha < 1/2. With alpha > 0 the ends 0 and 1 are allowed (Dinh, Sohl-Dickstein and Bengio 2017)

    to_data never leaves [0, 1] (the numbers strictly between, with alpha = 0): what a model draws beyond the images of the
    ends, which the data do not reach with alpha > 0, becomes the end. So samples may hold a few more ends than the data,
    while the density keeps that mass beyond them, and its integral over the cube is less than 1 by as much.
    Raises ValueError for values outside the open interval that the map can take.
    """

    _options = ("alpha",)
    _fitted = ("n_columns_",)

    def __init__(self, *, alpha=0.05):
        self.alpha = alpha

    def fit(self, x, sample_weight=None):
        if not 0 <= self.alpha < 0.5:
            raise ValueError(f"Logit: alpha is {self.alpha}; give 0 <= alpha < 0.5")
        self.n_columns_ = floating(x).shape[1]
        self.to_noise(None, x)
        return self

    def to_noise(self, p, x, c=None, stream=None):
        x = floating(x, self.n_columns_)
        s, t = self._squeezed(x)
        self._require(x, (s > 0) & (t > 0), f"Logit: {{}} is out of range for alpha={self.alpha}; scale x into (0, 1)")
        return self.unchecked(p, x)

    def unchecked(self, p, x, c=None, stream=None):
        s, t = map(np.log, self._squeezed(x))
        return s - t, x.shape[1] * math.log(1 - 2 * self.alpha) - np.sum(s + t, axis=1)

    def _squeezed(self, x):
        """s, and 1 - s without its rounding error."""
        return self.alpha + (1 - 2 * self.alpha) * x, self.alpha + (1 - 2 * self.alpha) * (1 - x)

    def data(self, p, z, c=None):
        z = floating(z, self.n_columns_)
        ends = (0, 1) if self.alpha else (np.finfo(z.dtype).tiny, 1 - np.finfo(z.dtype).epsneg)
        return np.clip(self.unclipped(z), *(z.dtype.type(end) for end in ends))

    def to_data(self, p, z, c=None):
        x = self.data(p, z)
        with np.errstate(over="ignore", under="ignore"):
            size = np.abs(floating(z))
            log_det = np.sum(-size - 2 * np.log1p(np.exp(-size)), axis=1) - x.shape[1] * math.log(1 - 2 * self.alpha)
        return x, finite(log_det)

    def unclipped(self, z):
        """data without its bounds: also the numbers next to [0, 1] that a model's density reaches."""
        with np.errstate(under="ignore"):
            e = np.exp(-np.abs(z))
        return (np.where(z >= 0, 1, e) / (1 + e) - self.alpha) / (1 - 2 * self.alpha)


class Log(Transform, name="log"):
    """The natural logarithm of positive columns.

    z = log x,    log_det = -sum_d log x_d

    to_data stays within the positive finite numbers. Raises ValueError for values that are not above 0.
    """

    _fitted = ("n_columns_",)

    def fit(self, x, sample_weight=None):
        self.n_columns_ = floating(x).shape[1]
        self.to_noise(None, x)
        return self

    def to_noise(self, p, x, c=None, stream=None):
        x = floating(x, self.n_columns_)
        self._require(x, x > 0, "Log: {} is not above 0; shift or drop its column, or use 'standardize'")
        return self.unchecked(p, x)

    def unchecked(self, p, x, c=None, stream=None):
        z = np.log(x)
        return z, -np.sum(z, axis=1)

    def to_data(self, p, z, c=None):
        z = floating(z, self.n_columns_)
        with np.errstate(over="ignore", under="ignore"):
            x = np.clip(np.exp(z), np.finfo(z.dtype).smallest_subnormal, np.finfo(z.dtype).max)
            return x, finite(np.sum(z, axis=1))
