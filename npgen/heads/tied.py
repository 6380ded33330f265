"""The tied head: a feature of any shape, by normals that all components of a mixture share, and each weighs by itself.

    p(x_d) = sum_m w_dm b_m(x_d),    w_d = softmax(logits_d)

The b_m, the codebook, stay as they are: to a component, a column of numbers is one of levels without hard edges. EM knows
exactly what it has to: which share of each row is of which b_m.

Legend: n rows, d features, k components, m distributions of the codebook, b outputs of base.
References: Huang & Jack, Semi-continuous hidden Markov models for speech signals (1989); Bellegarda & Nahamoo, Tied mixture
continuous parameter modeling for speech recognition (1990).
"""
import functools

import numpy as np

from .. import ops
from ..kernels._cuda import constant_like, is_device_array
from ..tensor import value_of
from .base import RAREST, Family, Head, choice_and_noise, linear

STEPS = 20        # of EM, by which a codebook is made
EVEN = 8          # rows, at least, of which a distribution of the codebook is made
MADE_OF = 2**14   # rows, at most, as each has m numbers then
KEPT = 2048       # values, of which a table is kept
THIN = 1e-4       # of the variance of all, that those of a density have at least


class Tied(Family):
    """x_d of one of m distributions of base; outputs are, of each feature, m logits.

    base: a head of one feature that is a component of mixtures. codebook: m outputs (b,) of it. The density is with respect to
    what base's is. Raises ValueError for another base, and for a codebook of other widths or of what is no number.
    """

    name, by_name = "tied", False

    def __init__(self, base, codebook):
        try:
            book = np.array(codebook, np.float64)
            sound = (isinstance(base, Head) and base.has_steps and not isinstance(base, Tied) and not base.missing
                     and book.ndim == 2 and book.shape[1] == base.n_outputs(1) and len(book) > 0 and np.isfinite(book).all())
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError("Tied: expected a head of one feature that is a component of mixtures, and outputs of it, got "
                             f"{base!r}, {codebook!r}"[:300])
        self.base, self.codebook, self._m = base, book, len(book)
        self.discrete, self.own_map, self.noises = base.discrete, base.own_map, 1 + base.noises
        self._table = None

    @classmethod
    def fit(cls, base, x, m):
        """The head whose codebook has up to m distributions of numbers x (n,), and one of all of them: x in its order, or
        MADE_OF evenly among it, in equal parts, then STEPS of EM of a mixture of their own."""
        x, of_all = np.sort(x)[:, None], base.initial(x[:, None])[None]
        x = x if len(x) <= MADE_OF else x[np.linspace(0, len(x) - 1, MADE_OF).astype(int)]
        parts = np.array_split(np.arange(len(x)), max(1, min(m, len(x) // EVEN)))
        r = np.zeros((len(x), len(parts)))
        for k, part in enumerate(parts):
            r[part, k] = 1
        values, place = np.unique(x[:, 0], return_inverse=True)
        r = np.stack([np.bincount(place, column, len(values)) for column in r.T], axis=1)
        rows, last = r.sum(axis=1), np.repeat(of_all, len(parts), axis=0)
        for _ in range(STEPS):
            floor = base.smoothing(0.0, np.full(1, THIN))
            new = base.maximise(base.moments(values[:, None], r, last), last, of_all, floor)
            last = np.where(np.isnan(new).any(axis=1, keepdims=True), last, new)
            joint = base.log_prob_each(values[:, None], last) + np.log(np.maximum(r.sum(axis=0), RAREST))
            r = ops.softmax(joint) * rows[:, None]
        kept = r.sum(axis=0) > 1
        return cls(base, np.unique(np.concatenate([last[kept], of_all]), axis=0).tolist())

    def __repr__(self):
        return f"Tied({self.base!r}, {self._m} of them)"

    def _options(self):
        return {"base": self.base.config(), "codebook": self.codebook.tolist()}

    @property
    def somewhere(self):
        return self.base.somewhere

    @property
    def measure(self):
        return self.base.measure

    def _log_weights(self, outputs):
        """The logarithms of the weights in outputs (..., d m), (..., d, m)."""
        return ops.log_softmax(outputs.reshape(*outputs.shape[:-1], outputs.shape[-1] // self._m, self._m))

    def _book(self, like):
        return constant_like(self.codebook.astype(like.dtype), value_of(like))

    def log_prob(self, x, outputs):
        log_weights, book = self._log_weights(outputs), self._book(outputs)
        total = 0.0
        for j in range(x.shape[-1]):
            total = total + ops.logsumexp(log_weights[..., j, :] + self.base.log_prob(x[..., None, j:j + 1], book))
        return total

    def support(self):
        return self.base.support()

    def _masses(self, low, high, outputs):
        """log of the weight of each b_m times its mass in an interval, (..., d, m)."""
        own = [self.base.log_mass(low[[j]], high[[j]], self.codebook)[:, 0] for j in range(len(low))]
        return self._log_weights(outputs.astype(np.float64)) + np.stack(own)

    def log_mass(self, low, high, outputs):
        return np.logaddexp.reduce(self._masses(low, high, outputs), axis=-1)

    def sample_within(self, noise, low, high, outputs):
        log_p = self._masses(low, high, outputs)
        edges = np.cumsum(np.exp(log_p - log_p.max(axis=-1, keepdims=True)), axis=-1)
        at = noise[..., None] * edges[..., -1:]
        number = (edges[..., :-1] <= at).sum(axis=-1)[..., None]
        before, after = (np.take_along_axis(np.broadcast_to(a, (*number.shape[:-1], self._m)), number, axis=-1)
                         for a in (edges - np.diff(edges, axis=-1, prepend=0), edges))
        rest = np.clip((at - before) / np.maximum(after - before, RAREST), RAREST, 1)[..., 0]  # a uniform again
        return np.concatenate([self.base.sample_within(rest[..., [j]], low[[j]], high[[j]], self.codebook[number[..., j, 0]])
                               for j in range(len(low))], axis=-1)

    def noise(self, stream, shape, dtype, like=None):
        """Of each feature a uniform, which chooses one of the codebook, then the noise of base."""
        return choice_and_noise(self.base, stream, shape, dtype, like)

    def sample(self, noise, outputs):
        noise = noise.reshape(*noise.shape[:-1], noise.shape[-1] // self.noises, self.noises)
        edges = np.cumsum(np.exp(self._log_weights(outputs)), axis=-1)
        number = (edges[..., :-1] <= noise[..., :1] * edges[..., -1:]).sum(axis=-1)
        return self.base.sample(noise[..., 1:], self._book(outputs)[number])[..., 0].astype(outputs.dtype)

    @functools.cached_property
    def _moments(self):
        """The mean and the variance of each b_m, (m,)."""
        return self.base.mean(self.codebook)[:, 0], self.base.variance(self.codebook)[:, 0]

    def mean(self, outputs):
        weights = np.exp(self._log_weights(outputs))
        return (weights @ constant_like(self._moments[0], weights)).astype(outputs.dtype)

    def variance(self, outputs):
        weights, (means, variances) = np.exp(self._log_weights(outputs)), self._moments
        apart = np.square(constant_like(means, weights) - self.mean(outputs)[..., None]) + constant_like(variances, weights)
        return (weights * apart).sum(axis=-1).astype(outputs.dtype)

    def n_outputs(self, d):
        return d * self._m

    def first(self, d):
        return self._m * np.arange(d + 1)

    def initial(self, x, weights=None):
        """The shares of rows that each b_m has, after STEPS of EM from equal ones, each seen once more than it was."""
        w, answers = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64), []
        for column in x.T:
            values, place = np.unique(column[~np.isnan(column)], return_inverse=True)
            rows, outputs = np.bincount(place, w[~np.isnan(column)], len(values))[:, None], np.zeros((1, self._m))
            for _ in range(STEPS):
                counts = self.moments(values[:, None], rows, outputs)
                outputs = np.log(counts + 1)
            answers.append(ops.log_softmax(outputs)[0])
        return np.concatenate(answers)

    def of(self, features):
        return self

    def n_inputs(self, d):
        return self.base.n_inputs(d)

    def inputs(self, x):
        return self.base.inputs(x)

    def smooth(self, x):
        return self.base.smooth(x)

    def check(self, x, name, columns=None, shown=None):
        self.base.of([0] * x.shape[1]).check(x, name, columns, shown)

    # ------------------------------------------------------------ EM

    def _each(self, x):
        """Of each feature: b_m of every row (n, m), in units of the largest, the logarithm of that, what is there (n, 1)."""
        for column in x.T:
            yield *self._known(column), ~np.isnan(column)[:, None]

    def _known(self, column):
        """b_m of every value (n, m) and the logarithm of their unit (n, 1), from a table of as many values as were asked for
        before, up to KEPT: every step of EM asks for the same ones, and the codebook stays."""
        if is_device_array(column):
            return self._measured(column)
        kept = self._table if self._table is not None and self._table[0].dtype == column.dtype else self._of(column[:1])
        at = np.searchsorted(kept[0][:-1], column)
        new = ~((kept[0][at] == column) | np.isnan(column) & np.isnan(kept[0][at]))
        if new.any():
            fresh = np.unique(np.concatenate([kept[0], column[new]]))
            if len(fresh) > KEPT:
                return self._measured(column)
            self._table = kept = self._of(fresh)  # in one step, as other threads read it
            at = np.searchsorted(kept[0][:-1], column)
        return kept[1][at], kept[2][at]

    def _of(self, values):
        return values, *self._measured(values)

    def _measured(self, column):
        log_b = self.base.log_prob_each(column[:, None], constant_like(self.codebook, column))
        most = log_b.max(axis=1, keepdims=True)
        return np.exp(np.where(most > -np.inf, log_b - np.where(most > -np.inf, most, 0), 0)), most

    def _weights(self, outputs):
        """w (k, d, m), above 0."""
        return np.maximum(np.exp(self._log_weights(outputs)), RAREST)

    def log_prob_each(self, x, outputs):
        joint, weights = 0.0, self._weights(outputs)
        for j, (b, most, seen) in enumerate(self._each(x)):
            joint = joint + np.where(seen, np.log(linear(b, weights[:, j])) + most, 0.0)
        return joint

    def moments(self, x, r, outputs):
        """(k, d m): the weights of the rows that each b_m has."""
        counts, weights = [], self._weights(outputs)
        for j, (b, _, seen) in enumerate(self._each(x)):
            counts.append(weights[:, j] * ((np.where(seen, r, 0) / linear(b, weights[:, j])).T @ b))
        return np.concatenate(counts, axis=1)

    def maximise(self, moments, outputs, pooled, smoothing):
        return self._joined(ops.log_softmax(np.log(np.maximum(self._parted(moments) + self._prior(pooled, smoothing), RAREST))))

    def expected_moments(self, outputs, n, pooled, smoothing):
        counts = np.exp(self._log_weights(outputs)) * (n[:, None, None] + 2 * smoothing)
        return self._joined(counts - self._prior(pooled, smoothing))

    def _prior(self, pooled, rows):
        """Of a share, as many rows in all as a categorical head has, as all rows are."""
        return 0.0 if pooled is None else 2 * rows * np.exp(self._log_weights(pooled))

    def _parted(self, outputs):
        return outputs.reshape(len(outputs), outputs.shape[1] // self._m, self._m)

    def _joined(self, parts):
        return parts.reshape(len(parts), parts.shape[1] * parts.shape[2])

    def redundant(self, d):
        return d

    def _own(self, x, pooled):
        """Of each feature: w (n, m) of the component around each row, b_m, the logarithm of its unit and what is there."""
        for j, (b, most, seen) in enumerate(self._each(x)):
            all_rows = self._weights(pooled)[0, j]
            own = b * all_rows
            yield np.where(seen, (all_rows + own / own.sum(axis=1, keepdims=True)) / 2, all_rows), b, most, seen

    def around(self, x, pooled):
        return np.concatenate([np.log(np.maximum(own, RAREST)) for own, *_ in self._own(x, pooled)], axis=1)

    def log_prob_around(self, x, pooled):
        return sum(np.where(seen, np.log((own * b).sum(axis=1, keepdims=True)) + most, 0.0)[:, 0]
                   for own, b, most, seen in self._own(x, pooled))

    def guess(self, r, outputs):
        return linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return self._joined(self._parted(outputs)[:, features])
