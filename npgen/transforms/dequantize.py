"""Dequantize: integers become real numbers between 0 and 1.

Legend: n rows, d columns.
"""
import functools

import numpy as np

from .. import ops
from ..kernels._cuda import asnumpy
from .base import Transform, floating
from .row_noise import RowNoise

_PIXEL_LEVELS = 256  # up to so many levels, columns may share a range


class Dequantize(Transform, name="dequantize"):
    """Spread integers evenly over the unit cells they stand for, and scale them into (0, 1).

    z = (k - low + u) / levels,  u uniform on (0, 1),    log_det = -sum_d log levels_d

    The log density of z is one draw of an unbiased estimate of a lower bound on log P(k) (Theis, van den Oord and
    Bethge 2016). Given a stream, u is drawn from it, fresh at each call (training). Without one, u is a hash of
    the row's own integers (of the whole row, behind Columns): the same row has the same noise, so log_prob is a function
    of the row, whatever the order or batches. `to_data` rounds down and clips to the range.

    levels  number of integer values, one for all columns or (d,); 256 means 0..255. None takes each column's range from the
            data. Where more than half of the columns span half the table's range, of up to 256 levels, as pixels do, all
            have the table's range but those that often reach both their own ends (2 % of the rows, and 10)
    low     the smallest integers, where levels are given; one for all columns or (d,)

    Fitted: low_ (d,), the smallest integers, and levels_ (d,). The noise stays 2 levels eps inside its cell, so that no
    rounding moves a value to the next one. Raises ValueError for values that are no integers or out of range.
    """

    exact = False
    _options = ("levels", "low")
    _fitted = ("low_", "levels_", "n_columns_")

    def __init__(self, *, levels=None, low=0):
        self.levels, self.low = levels, low

    def fit(self, x, sample_weight=None):
        x = floating(x)
        self._require(x, x == np.floor(x), "Dequantize: {} is not an integer; use 'standardize' for real numbers")
        self.n_columns_ = x.shape[1]
        low, levels = _ranges(x) if self.levels is None else (self.low, np.asarray(self.levels, np.float64))
        for name, given in (("levels", levels), ("low", low)):
            if np.shape(given) not in ((), (self.n_columns_,)):
                raise ValueError(f"Dequantize: {name} has shape {np.shape(given)}; give one number, or one for each of "
                                 f"{self.n_columns_} columns")
        self.low_, self.levels_ = (np.broadcast_to(a, self.n_columns_).astype(np.float64) for a in (low, levels))
        for name in ("_log_det", "_counted"):
            vars(self).pop(name, None)
        self._check(x)
        return self

    def hold(self):
        self.levels, self.low = self.levels_.tolist(), self.low_.tolist()

    def to_noise(self, p, x, c=None, stream=None):
        return self.unchecked(p, self._check(floating(x, self.n_columns_)), c, stream)

    def unchecked(self, p, x, c=None, stream=None):
        low, levels = (a.astype(x.dtype, copy=False) for a in (self.low_, self.levels_))
        margin, room = (a.astype(x.dtype, copy=False) for a in (self._margin(x.dtype), 1 - 2 * self._margin(x.dtype)))
        k = x - low
        u = (RowNoise(ops.stop_gradient(k).astype(np.uint64)) if stream is None else stream).uniform(x.shape, x.dtype, like=x)
        z = (k + (margin + room * u)) / levels
        return z, np.full_like(x, self._log_det, shape=(len(x),))

    @functools.cached_property
    def _log_det(self):
        return -float(np.log(asnumpy(self.levels_)).sum())

    @functools.cached_property
    def _counted(self):
        """levels_, on the host."""
        return tuple(asnumpy(self.levels_).tolist())

    def to_data(self, p, z, c=None):
        z = floating(z, self.n_columns_)
        low, levels = (a.astype(z.dtype, copy=False) for a in (self.low_, self.levels_))
        return np.clip(np.floor(z * levels), 0, levels - 1) + low, np.full_like(z, -self._log_det, shape=(len(z),))

    def _restore(self, arrays):
        super()._restore(arrays)
        for name in ("low_", "levels_"):  # a file of before had one range for all columns
            setattr(self, name, np.broadcast_to(getattr(self, name), self.n_columns_).astype(np.float64))

    def _margin(self, dtype, levels=None):
        """How far the noise stays inside its cell, (d,)."""
        return 2 * (self.levels_ if levels is None else levels) * float(np.finfo(dtype).eps)

    def _check(self, x):
        margin, low, high = self._margin(x.dtype, np.array(self._counted)), self.low_, self.low_ + self.levels_ - 1
        if not ((0 < margin) & (margin < 0.25)).all():
            column = np.argmin((0 < margin) & (margin < 0.25))
            raise ValueError(f"Dequantize: {self._counted[column]:.0f} levels cannot be told apart in {x.dtype} (column "
                             f"{self._number(column)}); use 'standardize'")
        inside = (x == np.floor(x)) & (x >= low) & (x <= high)
        self._require(x, inside, "Dequantize: {} is not an integer in {low:.0f}..{high:.0f}, the range that fit saw; "
                      "correct it, or set the range with Dequantize(levels=)", low=low, high=high)
        return x


def _ranges(x):
    """The smallest integer and the number of levels of every column, (d,) each: Dequantize says which columns share them."""
    low, high = (asnumpy(f(axis=0)).astype(np.float64) for f in (x.min, x.max))
    least, most = low.min(), high.max()
    if most - least < _PIXEL_LEVELS and np.mean(high - low >= (most - least) / 2) > 0.5:
        often = max(10, 0.02 * len(x))
        own = (low < high) & ((x == low).sum(axis=0) >= often) & ((x == high).sum(axis=0) >= often)
        low, high = np.where(own, low, least), np.where(own, high, most)
    return low, high - low + 1
