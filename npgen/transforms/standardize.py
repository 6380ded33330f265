"""Standardize: columns of mean 0 and standard deviation 1, whatever lies far out.

Legend: n rows, d columns.
"""
import functools
import math

import numpy as np

from ..kernels._cuda import asnumpy
from ..warn import warn
from .base import Transform, finite, floating, listed

FAR = 50.0    # robust standard deviations from the median, from which on a column is mapped by a logarithm far out
LIMIT = 5.0   # where that begins, in the same unit
TAIL = 0.1    # its scale: a value 1e6 units out is mapped to 6.6, where a Gaussian still lets it be one row among others


class Standardize(Transform, name="standardize"):
    """Centre every column and divide it by its standard deviation.

    z = (x - mean) / std,    log_det = -sum_d log std_d

    A column with values far from the rest, more than 50 robust standard deviations (the quartiles' distance / 1.349) from
    the median, would be squeezed by them to a point. Its median and robust standard deviation take the place of mean and
    std, and beyond 5 of these the map goes on as a logarithm, with the same slope:

    z = sign(y) (5 + t log(1 + (|y| - 5) / t)) for y = (x - mean) / std and |y| > 5;    t = 0.1

    so short that no value, however far out, has a say of more than a few rows' in a fit or in where it stops.
    `far_` lists these columns; fit warns, as it does of columns that do not vary, which keep scale 1 and are listed in
    `constant_`.
    """

    _fitted = ("mean_", "std_", "constant_", "far_")

    def fit(self, x, sample_weight=None):
        x = floating(x)
        weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        weight = weight / weight.sum()
        mean, there = weight @ x, x[weight > 0] if not weight.all() else x
        with np.errstate(over="ignore"):
            std = np.sqrt(weight @ (x - mean) ** 2)
            largest = np.where(np.isfinite(std), 1, np.abs(x).max(axis=0))  # by which the squares do not overflow
            std = std if np.isfinite(std).all() else largest * np.sqrt(weight @ (x / largest - mean / largest) ** 2)
            quartiles = np.array([_quartiles(column, None if sample_weight is None else weight) for column in x.T])
            median, robust = quartiles[:, 1], (quartiles[:, 2] - quartiles[:, 0]) / 1.349
            distance = np.maximum(median - there.min(axis=0), there.max(axis=0) - median)
            far = (robust > 0) & (distance / FAR > robust)
        constant = (np.ptp(there, axis=0) == 0) | (std == 0)
        self.mean_, self.std_ = (np.where(far, a, b).astype(x.dtype) for a, b in ((median, mean), (robust, std)))
        self.std_[constant] = 1
        self.constant_, self.far_ = np.flatnonzero(constant), np.flatnonzero(far)
        for name in ("_log_det", "_limit"):
            vars(self).pop(name, None)
        if constant.any():
            columns = listed([self._number(j) for j in self.constant_])
            warn(f"Standardize: x does not vary in {columns} (counted from 0), where scale 1 stays and a density is unbounded; "
                 "leave such columns out")
        if far.any():
            columns, j = [self._number(j) for j in self.far_], self.far_[0]
            row = np.where(weight > 0, np.abs(x[:, j] - median[j]), 0).argmax()
            warn(f"Standardize: x[{row}, {columns[0]}] is {x[row, j]:g}, {distance[j] / robust[j]:.2g} robust standard "
                 f"deviations from the median; that far out, a logarithm maps {listed(columns)} (counted from 0); where such "
                 "values stand for missing ones, fill them or drop their rows")
        return self

    @functools.cached_property
    def _log_det(self):
        return -float(np.log(asnumpy(self.std_), dtype=np.float64).sum())

    @functools.cached_property
    def _limit(self):
        """Where the logarithm begins, (d,)."""
        limit = np.full_like(self.mean_, np.inf)
        limit[self.far_] = LIMIT
        return limit

    def to_noise(self, p, x, c=None, stream=None):
        return self._mapped(floating(x, len(self.mean_)), finite)

    def unchecked(self, p, x, c=None, stream=None):
        return self._mapped(x, lambda z: z)

    def _mapped(self, x, bounded):
        mean, std = (a.astype(x.dtype, copy=False) for a in (self.mean_, self.std_))
        z, log_det = bounded((x - mean) / std), np.full_like(x, self._log_det, shape=(len(x),))
        if self.far_.size:
            size, limit = np.abs(z), self._limit.astype(x.dtype, copy=False)
            beyond = np.log(np.maximum(size - limit, 0) + TAIL) - math.log(TAIL)  # log(1 + u / t): this does not overflow
            z, log_det = np.clip(z, -limit, limit) + np.copysign(TAIL * beyond, z), log_det - np.sum(beyond, axis=1)
        return z, log_det

    def to_data(self, p, z, c=None):
        z = floating(z, len(self.mean_))
        log_det = np.full_like(z, -self._log_det, shape=(len(z),))
        if self.far_.size:
            size, limit = np.abs(z), self._limit.astype(z.dtype, copy=False)
            beyond = np.maximum(size - limit, 0) / TAIL
            z = np.clip(z, -limit, limit) + np.copysign(TAIL * np.expm1(beyond), z)
            log_det = finite(log_det + np.sum(beyond, axis=1))
        return finite(z * self.std_.astype(z.dtype, copy=False) + self.mean_.astype(z.dtype, copy=False)), log_det

    def _restore(self, arrays):
        super()._restore({"far_": np.empty(0, np.int64), **arrays})  # a file of before has none


def _quartiles(x, weight=None):
    """The values (3,) of x (n,) up to which a quarter, half and three quarters of the weight lie."""
    parts = np.array([0.25, 0.5, 0.75])
    if weight is None:
        at = np.ceil(parts * len(x)).astype(int) - 1
        return np.partition(x, at)[at].astype(np.float64)
    order = np.argsort(x)
    below = np.cumsum(weight[order])
    return x[order[np.searchsorted(below, parts * (1 - 1e-12) * below[-1])]].astype(np.float64)
