"""The pooled head: a categorical one whose rare levels share a logit, as few rows say nothing of each.

    P(x_d = level) = P(its group),    P(x_d = rare level) = P(others) share(level)

Legend: n rows, d features, k components, c levels with a group of their own, e rare ones.
"""
import numpy as np

from .. import ops
from ..kernels._cuda import constant_like
from ..tensor import value_of
from .base import Family, linear, mass_of, point_of, refuse
from .categorical import Categorical


class Pooled(Family):
    """x_d one of c levels, or of e rare ones that share the last of c + 1 logits, by shares that do not depend on anything.

    levels, rare: numbers; shares (e,): of the rare ones, which add up to 1. Raises ValueError for anything else.
    """

    name, by_name, noises = "pooled", False, 2

    def __init__(self, levels, rare, shares):
        (own,), (others,) = Categorical(list(levels)).levels, Categorical(list(rare)).levels
        p = np.asarray(shares, np.float64)
        if p.shape != others.shape or not (p > 0).all() or abs(p.sum() - 1) > 1e-9 or np.isin(own, others).any():
            raise ValueError("Pooled: shares must be positive and add up to 1, one for each rare level, none of which is among "
                             f"levels, got {levels!r}, {rare!r}, {shares!r}"[:300])
        p = p[np.argsort(np.asarray(rare, np.float64))]
        self._own, self._rare, self._shares, self._c = own, others, p, len(own)
        self._all, order = np.concatenate([own, others]), np.argsort(np.concatenate([own, others]))
        self.levels = [self._all[order]]
        self._group = np.minimum(np.arange(len(order)), self._c)[order].astype(np.float64)  # of each level, in their order
        self._log_share = np.concatenate([np.zeros(self._c), np.log(p)])[order]
        self._base = Categorical(self._c + 1)

    def __repr__(self):
        return f"Pooled(levels={self._own.tolist()}, rare={self._rare.tolist()}, shares={self._shares.tolist()})"

    def _options(self):
        return {"levels": self._own.tolist(), "rare": self._rare.tolist(), "shares": self._shares.tolist()}

    @property
    def somewhere(self):
        return float(self._own[0])

    def _of(self, d):
        """The head of the groups of d features."""
        return self._base.of([0] * d)

    def place(self, x):
        """Which level each value is, counted in their order, NaN where it is missing, in x's dtype."""
        levels = np.asarray(self.levels[0].astype(x.dtype), like=x)
        at = np.minimum(np.searchsorted(levels, x), len(levels) - 1)
        return np.where(np.isnan(x), np.nan, at).astype(x.dtype)

    def group(self, x):
        """The group of each value, 0, ..., c, and the logarithm of its share there, (2, ..., d); NaN and 0 of a missing one."""
        place = self.place(x)
        gaps = np.isnan(place)
        at = np.where(gaps, 0, place).astype(np.int64)
        both = [np.where(gaps, value, np.asarray(table, like=x)[at])
                for table, value in ((self._group, np.nan), (self._log_share, 0.0))]
        return np.stack(both).astype(x.dtype)

    def log_prob(self, x, outputs):
        both = _groups(x, self)
        return self._of(x.shape[-1]).log_prob(both[0], outputs) + ops.sum(both[1], axis=-1)

    def log_probabilities(self, outputs):
        """log P(x_d = l) of all levels in their order, an array (n, c + e) for each feature."""
        d = outputs.shape[-1] // (self._c + 1)
        group, log_share = (constant_like(a, value_of(outputs)) for a in (self._group.astype(np.int64), self._log_share))
        return [part[..., group] + log_share for part in self._of(d).log_probabilities(outputs)]

    def support(self):
        return self.levels[0]

    def log_mass(self, low, high, outputs):
        return np.stack([mass_of(self.levels[0], part, *ends) for part, *ends in zip(
            self.log_probabilities(outputs), low, high, strict=True)], axis=-1)

    def sample_within(self, noise, low, high, outputs):
        return np.stack([point_of(self.levels[0], part, a, b, u) for part, a, b, u in zip(
            self.log_probabilities(outputs), low, high, np.moveaxis(noise, -1, 0), strict=True)], axis=-1)

    def noise(self, stream, shape, dtype, like=None):
        """Of each feature two uniforms, for the group and for the level in it."""
        first, second = stream.spawn(), stream.spawn()
        both = [each.uniform(shape, dtype, like=like) for each in (first, second)]
        return np.stack(both, axis=-1).reshape(*shape[:-1], 2 * shape[-1])

    def sample(self, noise, outputs):
        group = self._of(noise.shape[-1] // 2).sample(noise[..., ::2], outputs).astype(np.int64)
        edges = np.cumsum(self._shares)
        rare = np.searchsorted(constant_like(edges[:-1] / edges[-1], noise), noise[..., 1::2], side="right")
        number = np.where(group < self._c, group, self._c + rare)
        return constant_like(self._all, number)[number].astype(outputs.dtype)

    def mean(self, outputs):
        means = [np.exp(part) @ constant_like(self.levels[0], part) for part in self.log_probabilities(outputs)]
        return np.stack(means, axis=-1).astype(outputs.dtype)

    def variance(self, outputs):
        first, levels = self.mean(outputs), constant_like(self.levels[0], outputs)
        parts = zip(self.log_probabilities(outputs), np.moveaxis(first, -1, 0), strict=True)
        return np.stack([(np.exp(part) * np.square(levels - mean[..., None])).sum(axis=-1) for part, mean in parts],
                        axis=-1).astype(outputs.dtype)

    def n_outputs(self, d):
        return d * (self._c + 1)

    def first(self, d):
        return (self._c + 1) * np.arange(d + 1)

    def initial(self, x, weights=None):
        return self._of(x.shape[1]).initial(self.group(x)[0], weights)

    def of(self, features):
        return self

    def n_inputs(self, d):
        return np.full(d, self._c + 1, np.int64)

    def inputs(self, x):
        return self._of(x.shape[1]).inputs(_groups(x, self)[0])

    def check(self, x, name, columns=None, shown=None):
        place = self.place(x)
        nearest = constant_like(self.levels[0].astype(x.dtype), x)[np.where(np.isnan(place), 0, place).astype(np.int64)]
        refuse(~((nearest == x) | np.isnan(x)), x if shown is None else shown, name, columns,
               f"but its column has {len(self.levels[0])} other levels: declare them all in fit")

    def log_prob_each(self, x, outputs):
        group, log_share = self.group(x)
        return self._of(x.shape[1]).log_prob_each(group, outputs) + log_share.sum(axis=1, keepdims=True, dtype=np.float64)

    def moments(self, x, r, outputs):
        """(k, d (c + 1)): the weights of every group."""
        return self._of(x.shape[1]).moments(self.group(x)[0], r, outputs)

    def maximise(self, moments, outputs, pooled, smoothing):
        return self._of(moments.shape[1] // (self._c + 1)).maximise(moments, outputs, pooled, smoothing)

    def redundant(self, d):
        return d

    def expected_moments(self, outputs, n, pooled, smoothing):
        return self._of(outputs.shape[1] // (self._c + 1)).expected_moments(outputs, n, pooled, smoothing)

    def around(self, x, pooled):
        return self._of(x.shape[1]).around(self.group(x)[0], pooled)

    def log_prob_around(self, x, pooled):
        group, log_share = self.group(x)
        return self._of(x.shape[1]).log_prob_around(group, pooled) + log_share.sum(axis=1, dtype=np.float64)

    def guess(self, r, outputs):
        tables = [linear(r.astype(np.float64), np.exp(part).T) for part in self.log_probabilities(outputs)]
        return np.stack([constant_like(self.levels[0], r)[table.argmax(axis=1)] for table in tables], axis=1).astype(r.dtype)

    def take(self, outputs, features):
        return outputs.reshape(len(outputs), -1, self._c + 1)[:, features].reshape(len(outputs), -1)


_groups = ops.op(lambda x, head: head.group(x), name="groups of levels")  # which carry no derivative
