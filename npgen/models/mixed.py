"""A mixture whose components take the columns as independent, each of its own kind: real, binary or categorical.

    p(x) = sum_k w_k prod_j p_kj(x_j),    p_kj normal, Bernoulli or a table of probabilities

A column of levels 0, ..., c - 1 counts as c - 1 indicators t of the levels above 0, so that with tables p

    log p_kj(x_j) = sum_l t_l log(p_kjl / p_kj0) + log p_kj0

which is one product of matrices for all rows, columns and components; a missing value (NaN) is left out of it.

Legend: n rows, d columns, k components, r real columns, q the others, f indicators, l levels of all q together.
Reference: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm (1977).
"""
import dataclasses
import functools
import math
import operator

import numpy as np

from .. import ops
from ..distributions import HEADS
from ..kernels import masked_matmul
from ..masks import Plan
from ..nn import Parameters
from .covariances import LOG_2PI
from .em import EMPTY, THINNEST, Rows, draw
from .mixture_model import MixtureModel

SHOWN = 2**21  # values of rows times components at once
KINDS = "normal", "bernoulli", "categorical"


@dataclasses.dataclass
class Products:
    """log_weights (k,); means and precision factors (k, r) in standard coordinates; tables (k, l) of log-probabilities."""

    log_weights: np.ndarray
    means: np.ndarray
    factor: np.ndarray
    tables: np.ndarray

    def arrays(self):
        """What the components are made of, by name."""
        return vars(self)


@dataclasses.dataclass
class Counts:
    """The statistics of rows, which add: rows n (k,); seen (k, r), first and second (k, r), the whitened moments of the
    reals; unseen (k, q) and ones (k, f) of the indicators; the sum of log-densities, the sum of weights.
    """

    n: np.ndarray
    seen: np.ndarray
    first: np.ndarray
    second: np.ndarray
    unseen: np.ndarray
    ones: np.ndarray
    nats: float
    weight: float

    def __add__(self, other):
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


class Columns:
    """Which columns are real and which have levels 0, ..., c - 1, and the units of the reals."""

    def __init__(self, kinds, levels, centre, scale):
        self.kinds, self.levels, self.centre, self.scale = list(kinds), np.asarray(levels, int), centre, scale
        self.reals = np.flatnonzero([kind == "normal" for kind in kinds])
        self.others = np.flatnonzero([kind != "normal" for kind in kinds])
        self.starts = np.cumsum(self.levels) - self.levels  # of the columns' tables, side by side
        self.owner = np.repeat(np.arange(len(self.levels)), self.levels - 1)  # of the indicators: the column, the level
        self.level = np.concatenate([np.arange(1, c) for c in self.levels] or [np.empty(0, int)])

    def standard(self, x):
        """The real columns in standard coordinates, (n, r) float64."""
        return (x[:, self.reals] - self.centre) / self.scale

    def indicators(self, x):
        """(n, f) in x's dtype; no level where the value is missing."""
        if not len(self.reals) and (self.levels == 2).all() and not self.unseen(x).size:
            return x
        return (np.take(x, self.others[self.owner], axis=1) == self.level).astype(x.dtype)

    def unseen(self, x):
        """Which values of the other columns are missing, (n, q), or (0, q) if none is."""
        return np.isnan(x[:, self.others] if np.isnan(x.min(initial=0)) else np.empty((0, len(self.others))))

    def joint(self, components, x):
        """log w_k p_k(x), (n, k) float64, in the units of the data."""
        tables, base = components.tables, components.tables[:, self.starts]
        t = (tables[:, self.starts[self.owner] + self.level] - base[:, self.owner]).T.astype(x.dtype)
        joint = ops.linear(self.indicators(x), np.ascontiguousarray(t), base.sum(axis=1).astype(x.dtype)).astype(np.float64)
        unseen = self.unseen(x)
        if len(unseen):
            joint -= unseen @ base.T
        z = self.standard(x)
        seen = ~np.isnan(z)
        joint += seen @ (np.log(components.factor) - LOG_2PI / 2 - np.log(self.scale)).T
        for k, (mean, factor) in enumerate(zip(components.means, components.factor, strict=True)):
            joint[:, k] -= np.square(np.where(seen, (z - mean) * factor, 0)).sum(axis=1) / 2
        return joint + components.log_weights

    def count(self, components, x, weights):
        """The statistics of some rows."""
        joint = self.joint(components, x)
        log_prob = ops.logsumexp(joint)
        r = np.exp(joint - log_prob[:, None]) * weights[:, None]
        z, unseen, plan = self.standard(x), self.unseen(x), Plan.dense(len(self.owner), len(components.means))
        seen = ~np.isnan(z)
        y = [np.where(seen, (z - m) * p, 0) for m, p in zip(components.means, components.factor, strict=True)]
        ones = masked_matmul.backward_weight(self.indicators(x), r.astype(x.dtype), plan.mask_as(x.dtype), plan.blocks)
        return Counts(r.sum(axis=0), r.T @ seen, np.stack([w @ a for w, a in zip(r.T, y, strict=True)]),
                      np.stack([w @ (a * a) for w, a in zip(r.T, y, strict=True)]), r[:len(unseen)].T @ unseen,
                      ones.T.astype(np.float64), float(weights @ log_prob), float(weights.sum()))

    def maximise(self, components, counts, ridge, smoothing):
        """New components, and which (k,) are empty or collapsed."""
        n, seen = np.maximum(counts.n, EMPTY), np.maximum(counts.seen, EMPTY)
        shift = counts.first / seen
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = components.factor / np.sqrt(counts.second / seen - shift**2 + ridge * components.factor**2)
        sound = (factor * THINNEST < 1).all(axis=1)  # false for NaN
        factor[~sound] = 1
        tables = np.empty_like(components.tables)
        tables[:, self.starts[self.owner] + self.level] = counts.ones
        rest = np.stack([counts.ones[:, self.owner == j].sum(axis=1) for j in range(len(self.levels))], axis=1) \
            if len(self.levels) else counts.unseen
        tables[:, self.starts] = np.maximum(n[:, None] - counts.unseen - rest, 0)
        tables += smoothing * counts.weight
        total = np.add.reduceat(tables, self.starts, axis=1) if len(self.levels) else tables
        tables = np.log(np.maximum(tables / np.maximum(np.repeat(total, self.levels, axis=1), EMPTY), 1e-300))
        means = components.means + shift / components.factor
        return Products(np.log(n / n.sum()), means, factor, tables), ~sound | (counts.n <= EMPTY)


class Mixture(MixtureModel):
    """Mixture of products of columns: p(x) = sum_k w_k prod_j p_kj(x_j); the columns may be of different kinds.

    n_components      k
    heads             what the columns are: "normal", "bernoulli" (0 or 1), "categorical" (0, 1, ..., c - 1); one name for
                      all, a list of one for each, or "auto": Bernoulli where a column holds 0 and 1 only, normal otherwise
    tol, max_iter     EM stops when the mean log-likelihood changes by no more than tol nats, or after max_iter iterations
    reg_covar         added to every variance, relative to that column's variance in the data
    smoothing         added to the count of every level in every component, relative to the number of rows; 0 gives the
                      exact maximum of the likelihood
    n_init            EM runs from this many starts; the likeliest is kept

    A missing value is NaN, and counts for nothing. encode gives the responsibilities (n, k); decode, of each column under
    their average: the mean, P(x = 1), or the likeliest level. Attributes: weights_ (k,), means_ and variances_ (k, r) of the
    normal columns, probabilities_, an array (k, c) per other column; kinds_, levels_ (q,), converged_, n_iter_,
    lower_bound_ and fit_report_ as GaussianMixture has them.
    """

    preprocess = None
    _missing = True

    def __init__(self, n_components=1, *, heads="auto", tol=1e-3, reg_covar=1e-6, smoothing=2e-6, max_iter=100, n_init=1,
                 callbacks=(), verbose=False, verbose_interval=10, random_state=None):
        self.n_components, self.heads, self.tol, self.reg_covar = n_components, heads, tol, reg_covar
        self.smoothing, self.max_iter, self.n_init, self.callbacks = smoothing, max_iter, n_init, callbacks
        self.verbose, self.verbose_interval, self.random_state = verbose, verbose_interval, random_state

    # ------------------------------------------------------------ fitting

    def _learn(self, x, z, log_det, weights, stream, run):
        self._check_counts()
        if not 0 <= self.smoothing < math.inf:
            raise ValueError(f"smoothing must be 0 or a positive number, got {self.smoothing!r}")
        self._mean_log_det, self.fit_report_ = 0.0, {}
        self.kinds_ = self._kinds(x)
        others = [j for j, kind in enumerate(self.kinds_) if kind != "normal"]
        self._check_levels(x, "fit", [np.inf] * len(others))
        self.levels_ = [2 if self.kinds_[j] == "bernoulli" else int(np.nanmax(x[:, j])) + 1 for j in others]
        self._columns = Columns(self.kinds_, self.levels_, None, None)
        reals = Rows(np.ascontiguousarray(x[:, self._columns.reals]), weights, 0.0, 1.0)
        with np.errstate(invalid="ignore", divide="ignore", under="ignore", over="ignore"):
            self.centre_ = reals.mean(np.positive) + 0.0 * self._columns.reals
            reals = Rows(reals.x, weights, self.centre_, 1.0)
            std = np.sqrt(reals.mean(np.square)) + 0.0 * self._columns.reals
        if not np.isfinite(std).all():
            raise ValueError("fit: a column of X has no values, or values too far apart for float64; drop it, or rescale it")
        self.scale_ = np.where(std > 0, std, 1.0)
        self._columns = Columns(self.kinds_, self.levels_, self.centre_, self.scale_)
        with np.errstate(under="ignore"):
            best = self._iterate(Rows(x, weights, 0.0, 1.0), stream, run)
        self.params_ = Parameters(best.arrays())
        self._finish()

    def _kinds(self, x):
        d = x.shape[1]
        if isinstance(self.heads, str) and self.heads == "auto":
            return ["bernoulli" if ((c == 0) | (c == 1) | np.isnan(c)).all() else "normal" for c in x.T]
        kinds = [self.heads] * d if isinstance(self.heads, str) else list(self.heads)
        if len(kinds) != d or not set(kinds) <= set(KINDS):
            raise ValueError(f"heads must be 'auto', one of {', '.join(KINDS)}, or {d} of these, got {self.heads!r}")
        return kinds

    def _check_levels(self, x, method, levels):
        others = [j for j, kind in enumerate(self.kinds_) if kind != "normal"]
        for j, c in zip(others, levels, strict=True):
            seen = x[:, j][~np.isnan(x[:, j])]
            if self.kinds_[j] == "bernoulli":
                HEADS["bernoulli"].check(seen[:, None], f"{method}: column {j}")
            elif not len(seen) or (seen != np.floor(seen)).any() or seen.min() < 0 or seen.max() >= min(c, 1e6):
                raise ValueError(f"{method}: column {j} of X must hold levels 0, 1, ...{'' if c == np.inf else f', {c - 1}'}; "
                                 "number its categories so")

    def _start(self, rows, stream):
        z, weights = rows.sample(stream)  # a missing value counts as 0 here: its column then starts as one of many
        return self._at_rows(np.stack([draw(z, weights, stream) for _ in range(self.n_components)]), rows)

    def _at_rows(self, x, rows):
        """Components of equal weight, each half of all rows' distribution and half at a row x (k, d) of its own."""
        columns, k = self._columns, len(x)
        pooled = Products(np.zeros(1), np.zeros((1, len(columns.reals))), np.ones((1, len(columns.reals))),
                          np.zeros((1, sum(columns.levels))))
        counts = self._expect(pooled, rows)
        tables = np.exp(columns.maximise(pooled, counts, 1.0, 0.1)[0].tables).repeat(k, axis=0)
        for j, (start, column) in enumerate(zip(columns.starts, columns.others, strict=True)):
            tables[np.arange(k), start + np.clip(x[:, column], 0, columns.levels[j] - 1).astype(int)] += 1
        means, uniform = columns.standard(x) / 2, np.full(k, -math.log(k))
        return Products(uniform, means, np.ones_like(means), np.log(tables / 2))

    def _expect(self, components, rows):
        size = max(64, SHOWN // max(len(components.means), rows.x.shape[1]))

        def count(low):
            block = slice(low, low + size)
            return self._columns.count(components, np.ascontiguousarray(rows.x[block]), rows.weighted(block))
        return functools.reduce(operator.add, map(count, range(0, len(rows), size)))

    def _step(self, components, statistics, rows, stream, seeded=True):
        new, lost = self._columns.maximise(components, statistics, float(self.reg_covar), float(self.smoothing))
        lost &= seeded
        if lost.any():
            seeds = self._start(rows, stream)
            for name, array in new.arrays().items():
                array[lost] = getattr(seeds, name)[lost]
            new.log_weights -= float(ops.logsumexp(new.log_weights))
        return new, lost

    def _restore_components(self, arrays):
        return Products(**arrays)

    def _finish(self):
        params = self._restore_components(self.params_)
        self.weights_, self.means_ = np.exp(params.log_weights), self.centre_ + self.scale_ * params.means
        self.variances_ = (self.scale_ / params.factor) ** 2
        self.probabilities_ = np.split(np.exp(params.tables), self._columns.starts[1:], axis=1) if self.levels_ else []

    # ------------------------------------------------------------ queries

    def _n_parameters(self):
        k, r = self.means_.shape
        return k - 1 + 2 * k * r + k * len(self._columns.owner)

    @property
    def _rows_per_call(self):
        return max(64, SHOWN // max(self.n_latent_, self.n_features_in_))

    def _check(self, method, X):
        x = super()._check(method, X)
        self._check_levels(x, method, self.levels_)
        return x

    def _loss(self, params, z, stream):
        raise NotImplementedError("Mixture is fitted by EM")

    def _log_density(self, params, x):
        return ops.logsumexp(self._columns.joint(self._restore_components(params), x)).astype(x.dtype)

    def _represent(self, params, x):
        return ops.softmax(self._columns.joint(self._restore_components(params), x)).astype(x.dtype)

    def _reconstruct(self, params, r):
        x = np.empty((len(r), self.n_features_in_), r.dtype)
        x[:, self._columns.reals] = r @ self.means_
        for j, p in zip(self._columns.others, self.probabilities_, strict=True):
            p = r @ p
            x[:, j] = p[:, 1] if self.kinds_[j] == "bernoulli" else p.argmax(axis=1)
        return x

    def _draw_components(self, params, n, stream):
        edges = np.cumsum(self.weights_)
        components = np.searchsorted(edges[:-1], stream.spawn().uniform(n) * edges[-1], side="right")
        uniform, noise = stream.spawn().uniform((n, self.n_features_in_)), stream.normal((n, self.n_features_in_))
        x, reals = np.empty((n, self.n_features_in_), self.dtype_), self._columns.reals
        x[:, reals] = self.means_[components] + np.sqrt(self.variances_)[components] * noise[:, reals]
        for j, p in zip(self._columns.others, self.probabilities_, strict=True):
            edges = np.cumsum(p, axis=1)[components]
            x[:, j] = (edges[:, :-1] <= uniform[:, [j]] * edges[:, -1:]).sum(axis=1)
        return x, components

    # ------------------------------------------------------------ files

    def _state(self):
        arrays, fitted = super()._state()
        names = "kinds_", "levels_", "converged_", "lower_bound_", "fit_report_"
        return arrays | {"centre_": self.centre_, "scale_": self.scale_}, fitted | {name: getattr(self, name) for name in names}

    def _restore(self, arrays, fitted):
        super()._restore(arrays, fitted)
        for name in ("kinds_", "levels_", "converged_", "lower_bound_", "fit_report_"):
            setattr(self, name, fitted[name])
        self.centre_, self.scale_ = arrays["centre_"], arrays["scale_"]
        self._columns = Columns(self.kinds_, self.levels_, self.centre_, self.scale_)
        self._finish()
