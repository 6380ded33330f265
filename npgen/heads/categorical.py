"""The categorical head: logits of a feature's levels.

Legend: n rows, d features, k components, c levels of a feature.
"""
import functools

import numpy as np

from .. import ops
from ..fused import categorical_log_prob
from ..kernels._constants import CATEGORICAL
from ..kernels._cuda import constant_like, is_device_array
from .base import RAREST, Family, linear, mass_of, point_of, refuse

TABLE = 2**21     # values of rows times levels at once


class Categorical(Family):
    """x_d one of the levels of feature d, P(x_d = level_l) = softmax(logits_d)_l; outputs are the logits, feature by feature.

    levels: the numbers that a feature may be, in any order, or how many they are, 0, 1, ..., c - 1; for several features, a
    list of such lists. Raises ValueError for levels that are not finite numbers, or that are there twice.
    """

    name, code = "categorical", CATEGORICAL

    def __init__(self, levels):
        several = isinstance(levels, (list, tuple)) and levels and np.ndim(levels[0])
        self.levels = [_levels(each) for each in (levels if several else [levels])]
        self._counts = np.array([len(each) for each in self.levels])
        self._ends = np.cumsum(self._counts)
        self._all_levels, self._lowest = np.concatenate(self.levels), np.array([each[0] for each in self.levels])
        self._scattered = [j for j, each in enumerate(self.levels)  # no consecutive integers, which their numbers follow from
                           if each[-1] - each[0] != len(each) - 1 or each[0] != np.floor(each[0])]

    @classmethod
    def of_columns(cls, levels):
        return cls(levels)

    def __repr__(self):
        return f"Categorical(levels={self._options()['levels']})"

    def _options(self):
        levels = [each.tolist() for each in self.levels]
        return {"levels": levels[0] if len(levels) == 1 else levels}

    @property
    def somewhere(self):
        return float(self.levels[0][0])

    def redundant(self, d):
        return d

    def log_probabilities(self, outputs):
        """log P(x_d = l), an array (n, c_d) for each feature."""
        return [ops.log_softmax(outputs[..., end - c:end]) for end, c in zip(self._ends, self._counts, strict=True)]

    def log_prob(self, x, outputs):
        return categorical_log_prob(_numbers(x, self), outputs, self.first(len(self.levels)))

    def sample(self, noise, outputs):
        columns = []
        for u, (part, levels) in zip(np.moveaxis(noise, -1, 0), self._tables(outputs), strict=True):
            edges = np.cumsum(np.exp(part), axis=-1)
            below, u = edges[..., :-1], u[..., None] * edges[..., -1:]
            one = below.size == len(levels) - 1  # the same table for every row
            number = np.searchsorted(below.ravel(), u[..., 0], side="right") if one else (below <= u).sum(axis=-1)
            columns.append(levels[number])
        return stack(columns, outputs)

    def support(self):
        return self.levels[0]

    def log_mass(self, low, high, outputs):
        return np.stack([mass_of(levels, part, *ends) for (part, levels), *ends in zip(self._tables(outputs), low, high,
                                                                                       strict=True)], axis=-1)

    def sample_within(self, noise, low, high, outputs):
        return np.stack([point_of(levels, part, a, b, u) for (part, levels), a, b, u in zip(
            self._tables(outputs), low, high, np.moveaxis(noise, -1, 0), strict=True)], axis=-1)

    def noise(self, stream, shape, dtype, like=None):
        return stream.uniform(shape, dtype, like=like)

    def mean(self, outputs):
        return stack([np.exp(part) @ levels for part, levels in self._tables(outputs)], outputs)

    def variance(self, outputs):
        return stack([np.einsum("...l,...l->...", np.exp(part), np.square(levels - mean[..., None])) for (part, levels), mean
                       in zip(self._tables(outputs), np.moveaxis(self.mean(outputs), -1, 0), strict=True)], outputs)

    def n_outputs(self, d):
        if d != len(self.levels):
            raise ValueError(f"head: {self} is of {len(self.levels)} features, not of {d}")
        return int(self._ends[-1])

    def first(self, d):
        return np.concatenate([[0], self._ends])

    def initial(self, x, weights=None):
        r = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
        return self._normalised(np.log(self.moments(x, r[:, None], None)[0] + 1))

    def n_inputs(self, d):
        return self._counts.astype(np.int64)

    def inputs(self, x):
        return _indicated(x, self)

    def numbers(self, x):
        return _number_levels(x, self)

    def values(self, numbers):
        return stack([levels[column] for levels, column in zip(self.levels, numbers.astype(np.int64).T, strict=True)], numbers)

    def of(self, features):
        return Categorical([self.levels[j] for j in features])

    def check(self, x, name, columns=None, shown=None):
        if x.dtype == np.float32 and not self._differ_in_float32:
            raise ValueError(f"{name}: some levels of X are the same in float32; pass it in float64")
        nearest = np.take(constant_like(self._all_levels, x), self._places(x))
        wrong = ~((nearest == x) | np.isnan(x))
        refuse(wrong, x if shown is None else shown, name, columns,
                "but a categorical head knows {c} other levels of its column: declare them all in fit, Categorical(levels=...)",
                self._counts)

    @functools.cached_property
    def _differ_in_float32(self):
        return all(len(np.unique(each.astype(np.float32))) == len(each) for each in self.levels)

    def _tables(self, outputs):
        return zip(self.log_probabilities(outputs), (constant_like(levels, outputs) for levels in self.levels), strict=True)

    def _normalised(self, outputs):
        return ops.concatenate(self.log_probabilities(outputs), axis=-1)

    def _places(self, x):
        """The output of each value's level (..., d)."""
        numbers = _numbers(x, self)
        return np.asarray(self._ends - self._counts, like=x) + np.where(np.isnan(numbers), 0, numbers).astype(np.int64)

    def _indicators(self, x):
        """1 at the output of the level of each feature, (n, sum of c), sparse on the host; 0 everywhere where it is missing."""
        if is_device_array(x):  # where sums of scattered values would come in any order
            return _indicate_levels(x.astype(np.float64), self)
        from scipy.sparse import csr_array  # only where there are levels
        n, d = x.shape
        seen, numbers = ~np.isnan(x), self._places(x)
        return csr_array((seen.ravel().astype(np.float64), numbers.ravel(), np.arange(0, n * d + 1, d)), (n, self._ends[-1]))

    def log_prob_each(self, x, outputs):
        return self._indicators(x) @ ops.contiguous(self._normalised(outputs).T)[0]

    def moments(self, x, r, outputs):
        """(k, sum of c): the weights of every level."""
        return ops.contiguous((self._indicators(x).T @ r).T)[0]

    def maximise(self, moments, outputs, pooled, smoothing):
        return self._normalised(np.log(np.maximum(moments + smoothing * self._portion(moments), RAREST)))

    def expected_moments(self, outputs, n, pooled, smoothing):
        return np.exp(self._normalised(outputs)) * (n[:, None] + 2 * smoothing) - smoothing * self._portion(outputs)

    def _portion(self, like):
        """What a level is given of a share, (sum of c,): as many rows in all as two levels, whatever their number."""
        return constant_like(np.repeat(2 / self._counts, self._counts), like)

    def around(self, x, pooled):
        feature = constant_like(np.repeat(np.arange(len(self._counts)), self._counts), x)  # of each output
        seen = np.take(~np.isnan(x), feature, axis=1)
        return np.log((np.exp(self._normalised(pooled)) + _indicate_levels(x.astype(np.float64), self)) / (1 + seen))

    def log_prob_around(self, x, pooled):
        return self._indicators(x) @ np.log((1 + np.exp(self._normalised(pooled)[0])) / 2)

    def guess(self, r, outputs):
        def likeliest(part):
            p, size = np.exp(part).T, max(64, TABLE // part.shape[1] // 64 * 64)
            return np.concatenate([linear(r[i:i + size].astype(np.float64), p).argmax(axis=1)
                                   for i in range(0, max(len(r), 1), size)])
        return stack([levels[likeliest(part)] for part, levels in self._tables(outputs)], r)

    def take(self, outputs, features):
        return np.concatenate([outputs[:, self._ends[j] - self._counts[j]:self._ends[j]] for j in features], axis=1)


def _levels(given):
    """The levels of a feature, sorted, (c,) float64."""
    try:
        one = not isinstance(given, (bool, np.bool_)) and isinstance(given, (int, np.integer))
        levels = np.arange(given, dtype=np.float64) if one else np.unique(np.asarray(given, dtype=np.float64))
        if np.ndim(given) == (not one) and levels.size == (given if one else len(given)) > 0 and np.isfinite(levels).all():
            return levels
    except (TypeError, ValueError):
        pass
    raise ValueError(f"Categorical: levels must be numbers that differ, or how many there are, got {given!r}"[:200])


def levels_in(x, column):
    """The levels (c,) that are in a column of rows x (n, d). Raises ValueError unless they are whole numbers."""
    levels = np.unique(x[:, column]).astype(np.float64)
    levels = levels[~np.isnan(levels)]
    for broken in levels[levels != np.floor(levels)][:1]:
        raise ValueError(f"fit: column {column} of X holds {broken:g}, but the levels of a categorical head are whole "
                         "numbers; declare others, Categorical(levels=...), or use a normal head")
    return levels


def _number_levels(x, head):
    """The number of each value's level, 0, 1, ... (..., d) in x's dtype; NaN where it is missing, another's if it is none."""
    low, last = (constant_like(a, x) for a in (head._lowest, head._counts - 1))
    numbers = np.floor(np.minimum(np.maximum(x - low, 0), last)).astype(x.dtype)
    for j in head._scattered:
        levels, column = head.levels[j], x[..., j]
        at = np.minimum(np.searchsorted(constant_like(levels.astype(x.dtype), x), column), len(levels) - 1)
        numbers[..., j] = np.where(np.isnan(column), np.nan, at)
    return numbers


def _indicate_levels(x, head):
    """1 at each value's output (n, sum of c), 0 elsewhere, and where it is missing."""
    indicators = np.zeros_like(x, shape=(len(x), int(head._ends[-1])))
    first, missing = constant_like(head._ends - head._counts, x), np.isnan(x)
    at = np.where(missing, 0, _number_levels(x, head)) + first
    indicators[np.arange(len(x), like=x)[:, None], at.astype(np.int64)] = np.where(missing, 0, np.ones_like(x))
    return indicators


_indicated = ops.op(_indicate_levels, name="level indicators")
_numbers = ops.op(_number_levels, name="level numbers")  # which carry no derivative


def stack(columns, like):
    """Columns (n,) as (n, d) in the dtype of `like`, whose leading dimensions are n."""
    return np.stack(columns, axis=-1).astype(like.dtype) if columns else like[..., :0]
