"""Likelihood heads: what outputs, of a network or of a mixture's components, say about each feature. One object per family.

    Normal        mean and log-variance of a real feature
    Bernoulli     logit of a binary feature
    Categorical   logits of a feature's levels 0, 1, ..., c - 1

A network has outputs for every row, and a head turns them into the row's log-density, a sample or a mean. A mixture has
outputs for each component, and a head takes its two EM steps: it sums up what its maximum likelihood has to know.

Legend: n rows, d features, k components.
"""
import abc

import numpy as np

from . import fused, ops
from .fused import LOG_2PI
from .kernels import masked_matmul
from .kernels._cuda import asnumpy
from .masks import Plan

THINNEST = 1e-9   # standard deviation, in units of the data's, below which a component has collapsed
EMPTY = 1e-8      # rows, below which a component has none
RAREST = 1e-300   # rows that are counted where there are none, so that every logarithm is finite


def std(log_var):
    """The standard deviation, exp(log_var / 2): the one convention for scale."""
    return ops.exp(log_var / 2)


def normal_log_prob(x, mean, log_var):
    """log N(x; mean, exp(log_var)) of every feature, in nats."""
    return -0.5 * (LOG_2PI + log_var + ops.square(x - mean) * ops.exp(-log_var))


def typical_variance(variances, n):
    """The variance (d,) that components have within them: the geometric mean of theirs (k, d), by their rows n (k, d).

    In units of the data's variance, which it is where no component has any, that is, where all are thinner than THINNEST.
    A mean of logarithms, because neither one on outliers, however wide, nor one on two close rows is to speak for the others.
    """
    wide = variances > THINNEST**2
    n = n * wide
    return np.exp((n * np.log(np.where(wide, variances, 1.0))).sum(axis=0) / np.maximum(n.sum(axis=0), RAREST))


class Head(abc.ABC):
    """A family of distributions of a feature, known by its outputs.

    name      what users call it
    noise     what sample is made of: the name of a method of npgen.random.Stream
    """

    name: str
    noise: str

    @abc.abstractmethod
    def log_prob(self, x, outputs):
        """sum_d log p(x_d; outputs), (n,) nats, differentiable; the leading dimensions of x and outputs broadcast."""

    @abc.abstractmethod
    def sample(self, noise, outputs):
        """x (n, d) from as much noise."""

    @abc.abstractmethod
    def mean(self, outputs):
        """E[x], (n, d)."""

    @abc.abstractmethod
    def variance(self, outputs):
        """Var[x], (n, d)."""

    @abc.abstractmethod
    def n_outputs(self, d):
        """How many outputs d features have."""

    @abc.abstractmethod
    def check(self, x, name, columns=None):
        """Raise ValueError unless every value is in the support, or missing (NaN); columns are x's numbers in the user's X."""

    # of the components of a mixture; a missing value is NaN, and left out

    @abc.abstractmethod
    def log_prob_each(self, x, outputs):
        """log_prob of every row under each component, (n, k) float64."""

    @abc.abstractmethod
    def moments(self, x, r, outputs):
        """What maximise has to know of rows of which r (n, k) belong to the components with these outputs; sums over rows."""

    @abc.abstractmethod
    def maximise(self, moments, outputs, pooled, share):
        """The likeliest outputs, from moments under the last ones; NaN where a component has collapsed.

        pooled: the outputs of all rows as one component. share: what keeps the likeliest from extremes, for a Normal the
        shares (d,) of the pooled variances that are added, else a number of rows that is added to every count.
        """

    @abc.abstractmethod
    def remember(self, outputs, n, pooled, share):
        """Moments, of n (k,) rows, from which maximise makes these same outputs."""

    @abc.abstractmethod
    def around(self, x, pooled):
        """The outputs of a component around each row, as broad as all rows or half so; as all where a value is missing."""

    @abc.abstractmethod
    def log_prob_around(self, x, pooled):
        """log_prob of every row under the component around itself, (n,), without a table of these components."""

    @abc.abstractmethod
    def guess(self, r, outputs):
        """One value for each feature under mixtures r (n, k) of the components: the mean, or the likeliest level."""

    @abc.abstractmethod
    def take(self, outputs, features):
        """The outputs of some features."""


class Normal(Head):
    """x_d ~ N(mean_d, exp(log_var_d)); outputs are the means, then the raw log-variances.

    limit: the log-variances are bounded to +-limit nats, as a network's have to be; None leaves them as they are.
    """

    name = noise = "normal"

    def __init__(self, limit=15.0):
        self.limit = limit

    def split(self, outputs):
        """The means and log-variances in outputs (n, 2 d)."""
        d = outputs.shape[-1] // 2
        log_var = outputs[..., d:]
        return outputs[..., :d], log_var if self.limit is None else ops.bounded(log_var, self.limit)

    def log_prob(self, x, outputs):
        if self.limit is None:
            return ops.sum(normal_log_prob(x, *self.split(outputs)), axis=-1)
        return fused.normal_log_prob(x, outputs, self.limit)

    def sample(self, noise, outputs):
        mean, log_var = self.split(outputs)
        return mean + std(log_var) * noise

    def mean(self, outputs):
        return self.split(outputs)[0]

    def variance(self, outputs):
        return ops.exp(self.split(outputs)[1])

    def n_outputs(self, d):
        return 2 * d

    def check(self, x, name, columns=None):
        pass  # every real number is in the support

    def _whitened(self, x, outputs):
        """(x - mean) / std under one component after the other, 0 where a value is missing."""
        mean, log_var = self.split(outputs)
        x = x.astype(np.float64)
        for centre, precision in zip(mean, np.exp(-log_var / 2), strict=True):
            y = (x - centre) * precision
            yield np.where(np.isnan(y), 0, y)

    def log_prob_each(self, x, outputs):
        constants, missing = (LOG_2PI + self.split(outputs)[1]) / -2, _filled(x)[1]
        joint = _without(missing, np.tile(constants.sum(axis=1), (len(x), 1)), constants)
        for k, y in enumerate(self._whitened(x, outputs)):
            joint[:, k] -= np.square(y).sum(axis=1) / 2
        return joint

    def moments(self, x, r, outputs):
        """(3, k, d): weights of the values seen; the first and second moments of whitened values, which do not cancel."""
        sums = [(w @ y, w @ (y * y)) for w, y in zip(r.T, self._whitened(x, outputs), strict=True)]
        return np.stack([r.T @ ~np.isnan(x), *np.swapaxes(sums, 0, 1)])

    def maximise(self, moments, outputs, pooled, share):
        (mean, log_var), all_log_var = self.split(outputs), self.split(pooled)[1]
        seen, shift, variance = self._spread(moments)
        with np.errstate(divide="ignore"):
            new = np.logaddexp(log_var + np.log(variance), np.log(share) + all_log_var)
        new[new < all_log_var + 2 * np.log(THINNEST)] = np.nan
        return np.concatenate([mean + shift * std(log_var), new], axis=1)

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

    def remember(self, outputs, n, pooled, share):
        log_var, all_log_var = self.split(outputs)[1], self.split(pooled)[1]
        seen = np.broadcast_to(n[:, None], log_var.shape)
        return np.stack([seen, 0 * seen, seen * (1 - share * np.exp(all_log_var - log_var))])

    def around(self, x, pooled):
        mean, log_var = self.split(pooled)
        return np.concatenate([np.where(np.isnan(x), mean, x), log_var.repeat(len(x), axis=0)], axis=1)

    def log_prob_around(self, x, pooled):
        return (LOG_2PI + self.split(pooled)[1][0]) @ np.isnan(x).T / 2 - (LOG_2PI + self.split(pooled)[1]).sum() / 2

    def guess(self, r, outputs):
        return _linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return np.concatenate([part[:, features] for part in np.split(outputs, 2, axis=1)], axis=1)


class Bernoulli(Head):
    """x_d in {0, 1} with P(x_d = 1) = sigmoid(logit_d); outputs are the logits."""

    name, noise = "bernoulli", "uniform"

    def log_prob(self, x, outputs):
        return fused.bernoulli_log_prob(x, outputs)

    def sample(self, noise, outputs):
        return (noise < ops.sigmoid(outputs)).astype(outputs.dtype)

    def mean(self, outputs):
        return ops.sigmoid(outputs)

    def variance(self, outputs):
        return ops.sigmoid(outputs) * ops.sigmoid(-outputs)

    def n_outputs(self, d):
        return d

    def log_probabilities(self, outputs):
        """log P(x_d = l), an array (n, 2) for each feature."""
        return list(np.moveaxis(-ops.softplus(np.stack([outputs, -outputs], axis=-1)), -2, 0))

    def check(self, x, name, columns=None):
        _refuse(~((x == 0) | (x == 1) | np.isnan(x)), x, name, columns,
                "but a Bernoulli head needs 0 or 1: binarise the data, or use a normal head")

    def log_prob_each(self, x, outputs):
        x, missing = _filled(x)
        zeros = -ops.softplus(outputs)  # log P(x = 0)
        return _without(missing, _linear(x, outputs) + zeros.sum(axis=1), zeros)

    def moments(self, x, r, outputs):
        """(2, k, d): weights of the values seen, and of the ones."""
        x, missing = _filled(x)
        return np.stack([r.sum(axis=0)[:, None] - r[:len(missing)].T @ missing, _weigh(x, r)])

    def maximise(self, moments, outputs, pooled, share):
        seen, ones = moments
        return np.log(np.maximum(ones + share, RAREST)) - np.log(np.maximum(seen - ones + share, RAREST))

    def remember(self, outputs, n, pooled, share):
        seen = np.broadcast_to(n[:, None], outputs.shape)
        return np.stack([seen, ops.sigmoid(outputs) * (seen + 2 * share) - share])

    def around(self, x, pooled):
        share = self.mean(pooled)
        share = np.where(np.isnan(x), share, (share + x) / 2)
        return np.log(share) - np.log1p(-share)

    def log_prob_around(self, x, pooled):
        own = np.log((1 + self.mean(np.where(x == 1, pooled, -pooled))) / 2)
        return np.where(np.isnan(x), 0, own).sum(axis=1)

    def guess(self, r, outputs):
        return _linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return outputs[:, features]


class Categorical(Head):
    """x_d in {0, ..., c_d - 1} with P(x_d = l) = softmax(logits_d)_l; outputs are the logits of the features side by side.

    levels: c_d of every feature.
    """

    name, noise = "categorical", "uniform"

    def __init__(self, levels):
        self.levels = [int(c) for c in levels]
        self._ends = np.cumsum(self.levels, dtype=int)
        self._owner = np.repeat(np.arange(len(self.levels)), self.levels)  # of every output: its feature, and its level
        self._level = np.arange(len(self._owner)) - np.repeat(self._ends - self.levels, self.levels)

    def log_probabilities(self, outputs):
        """log P(x_d = l), an array (n, c_d) for each feature."""
        return [ops.log_softmax(outputs[..., end - c:end]) for end, c in zip(self._ends, self.levels, strict=True)]

    def log_prob(self, x, outputs):
        return ops.sum(self._indicators(x) * self._normalised(outputs), axis=-1)

    def sample(self, noise, outputs):
        edges = [np.cumsum(np.exp(part), axis=-1) for part in self.log_probabilities(outputs)]
        return _stack([(edge[..., :-1] <= noise[..., [j]] * edge[..., -1:]).sum(axis=-1) for j, edge in enumerate(edges)],
                      outputs)

    def mean(self, outputs):
        return _stack([np.exp(part) @ np.arange(part.shape[-1]) for part in self.log_probabilities(outputs)], outputs)

    def variance(self, outputs):
        parts = self.log_probabilities(outputs)
        squares = [np.exp(part) @ np.arange(part.shape[-1])**2 for part in parts]
        return _stack(squares, outputs) - np.square(self.mean(outputs))

    def n_outputs(self, d):
        return sum(self.levels)

    def check(self, x, name, columns=None):
        _refuse(~((x == np.floor(x)) & (x >= 0) & (x < self.levels) | np.isnan(x)), x, name, columns,
                "but a categorical head needs levels 0, 1, ..., c - 1, of which its column has had {c}: number them so",
                self.levels)

    def _normalised(self, outputs):
        parts = self.log_probabilities(outputs)
        return ops.concatenate(parts, axis=-1) if parts else outputs

    def _indicators(self, x):
        """1 at the level of each feature, (n, sum of c); 0 everywhere where it is missing."""
        return (np.take(x, self._owner, axis=-1) == self._level).astype(x.dtype)

    def log_prob_each(self, x, outputs):
        return _linear(self._indicators(x), self._normalised(outputs))

    def moments(self, x, r, outputs):
        """(k, sum of c): the weights of every level."""
        return _weigh(self._indicators(x), r)

    def maximise(self, moments, outputs, pooled, share):
        return self._normalised(np.log(np.maximum(moments + share, RAREST)))

    def remember(self, outputs, n, pooled, share):
        rows = n[:, None] + share * np.repeat(self.levels, self.levels)
        return np.exp(self._normalised(outputs)) * rows - share

    def around(self, x, pooled):
        missing = np.repeat(np.isnan(x), self.levels, axis=1)
        share = np.exp(self._normalised(pooled))
        return np.log(np.where(missing, share, (share + self._indicators(x)) / 2))

    def log_prob_around(self, x, pooled):
        share = np.exp(self._normalised(pooled))[0][(self._ends - self.levels + np.nan_to_num(x)).astype(int)]
        return np.where(np.isnan(x), 0, np.log((1 + share) / 2)).sum(axis=1)

    def guess(self, r, outputs):
        probabilities = (_linear(r.astype(np.float64), np.exp(part).T) for part in self.log_probabilities(outputs))
        return _stack([each.argmax(axis=1) for each in probabilities], r)

    def take(self, outputs, features):
        return np.concatenate([outputs[:, self._owner == j] for j in features] or [outputs[:, :0]], axis=1)


def _stack(columns, like):
    """Columns (n,) as (n, d) in the dtype of `like`, whose leading dimensions are n."""
    return np.stack(columns, axis=-1).astype(like.dtype) if columns else like[..., :0]


def _refuse(wrong, x, name, columns, words, levels=None):
    if wrong.any():
        row, column = np.argwhere(asnumpy(wrong))[0]
        words = words.format(c=levels and levels[column])
        raise ValueError(f"{name}: X[{row}, {column if columns is None else columns[column]}] is {x[row, column]:g}, {words}")


def _filled(x):
    """x with 0 for what is missing, and what is: (n, d), or (0, d) if nothing is."""
    missing = np.isnan(x if np.isnan(x.min(initial=0)) else x[:0])
    return np.where(missing, 0, x) if len(missing) else x, missing


def _without(missing, joint, features):
    """joint (n, k) float64 without the features (k, d) that a row does not have."""
    return joint - _linear(missing.astype(np.float64), features) if len(missing) else joint


def _linear(x, outputs):
    """x outputs^T (n, k), multiplied in x's dtype, by a kernel: in NumPy's product a row's bits depend on the other rows."""
    weight = np.ascontiguousarray(outputs.T, dtype=x.dtype)
    return ops.linear(x, weight, np.zeros(len(outputs), x.dtype)).astype(np.float64)


def _weigh(x, r):
    """r^T x (k, d), multiplied in x's dtype."""
    plan = Plan.dense(x.shape[1], r.shape[1])
    x, r = np.ascontiguousarray(x), np.ascontiguousarray(r, dtype=x.dtype)
    return masked_matmul.backward_weight(x, r, plan.mask_as(x.dtype), plan.blocks).T.astype(np.float64)


HEADS = {head.name: head for head in (Normal(), Bernoulli())}  # of a network


def head_for(spec, x):
    """The head called `spec`; "auto" is Bernoulli for data of 0 and 1 only, Normal otherwise. Raises ValueError."""
    if spec == "auto":
        spec = "bernoulli" if np.all((x == 0) | (x == 1)) else "normal"
    if spec not in HEADS:
        raise ValueError(f"head: expected 'auto' or one of {', '.join(HEADS)}, got {spec!r}")
    return HEADS[spec]
