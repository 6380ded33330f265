"""Likelihood heads: what outputs, of a network or of a mixture's components, say about each feature. One object per family.

    Normal        mean and log-variance of a real feature
    Bernoulli     logit of a binary feature
    Poisson       log-rate of a count
    Categorical   logits of a feature's levels

A network has outputs for every row, and a head turns them into the row's log-density, a sample or a mean. A mixture has
outputs for each component, and a head takes its two EM steps: it sums up what its maximum likelihood has to know.

Legend: n rows, d features, k components.
"""
import abc
import functools

import numpy as np

from . import fused, ops
from .fused import LOG_2PI
from .kernels import masked_matmul
from .kernels._cuda import asnumpy
from .masks import Plan

THINNEST = 1e-9   # standard deviation, in units of the data's, below which a component has collapsed
EMPTY = 1e-8      # rows, below which a component has none
MOST = 1e300      # a count beyond is taken to be there, so that no term of a density overflows
TABLE = 2**21     # values of rows times levels at once
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
    discrete  whether its values are countable
    """

    name: str
    noise: str
    discrete = True

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
    def check(self, x, name, columns=None, shown=None):
        """Raise ValueError unless every value is in the support, or missing (NaN).

        columns are x's numbers in the user's X; shown (n, d): the rows that x is made of, whose value the message names.
        """

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
    discrete = False

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

    def check(self, x, name, columns=None, shown=None):
        _refuse(~((x == 0) | (x == 1) | np.isnan(x)), x if shown is None else shown, name, columns,
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


class Poisson(Head):
    """x_d in {0, 1, 2, ...} with P(x_d = n) = rate_d^n exp(-rate_d) / n!; outputs are the log-rates."""

    name, noise = "poisson", "uniform"

    def log_prob(self, x, outputs):
        return ops.sum(x * outputs - ops.exp(outputs) - ops.gammaln(x + 1), axis=-1)

    def sample(self, noise, outputs):
        return _poisson_quantile(noise.astype(np.float64), np.exp(outputs.astype(np.float64))).astype(outputs.dtype)

    def mean(self, outputs):
        return ops.exp(outputs)

    def variance(self, outputs):
        return ops.exp(outputs)

    def n_outputs(self, d):
        return d

    def check(self, x, name, columns=None, shown=None):
        _refuse(~((x == np.floor(x)) & (x >= 0) | np.isnan(x)), x if shown is None else shown, name, columns,
                "but a Poisson head needs counts 0, 1, 2, ...: use a normal head for other numbers")

    def log_prob_each(self, x, outputs):
        x, missing = _filled(_count(x))
        rates = self.mean(outputs)
        joint = _linear(x, outputs) - rates.sum(axis=1) - ops.gammaln(x + 1).sum(axis=1, keepdims=True)
        return _without(missing, joint, -rates)

    def moments(self, x, r, outputs):
        """(2, k, d): weights of the values seen, and their sums."""
        x, missing = _filled(_count(x))
        return np.stack([r.sum(axis=0)[:, None] - r[:len(missing)].T @ missing, _weigh(x, r)])

    def maximise(self, moments, outputs, pooled, share):
        seen, total = moments
        return np.log(np.maximum(total + share, RAREST)) - np.log(np.maximum(seen, EMPTY))

    def remember(self, outputs, n, pooled, share):
        seen = np.broadcast_to(n[:, None], outputs.shape)
        return np.stack([seen, self.mean(outputs) * seen - share])

    def around(self, x, pooled):
        return np.where(np.isnan(x), pooled, np.log(_count(x) + 0.5))

    def log_prob_around(self, x, pooled):
        x, missing = _filled(_count(x))
        own = x * np.log(x + 0.5) - (x + 0.5) - ops.gammaln(x + 1)
        return (np.where(missing, 0, own) if len(missing) else own).sum(axis=1)

    def guess(self, r, outputs):
        return _linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return outputs[:, features]


def _count(x):
    """x in float64, where its logarithm times itself is a number."""
    return np.minimum(x.astype(np.float64), MOST)


def _poisson_quantile(u, rate):
    """The smallest count n with P(x <= n) >= u: exact below a rate of 2^20, beyond to a thousandth of a count.

    It begins with the expansion of Cornish & Fisher (1938), from which the steps up or down are few.
    """
    from scipy import special
    u, rate = np.broadcast_arrays(u, rate)
    z = special.ndtri(u)
    count = np.maximum(np.round(rate + np.sqrt(rate) * z + (z * z - 1) / 6), 0)
    for step, wrong in ((-1, lambda n, u, rate: (n > 0) & (special.pdtr(n - 1, rate) >= u)),
                        (1, lambda n, u, rate: special.pdtr(n, rate) < u)):
        at = np.nonzero(rate < 2**20)
        while len(at[0]):
            moved = wrong(count[at], u[at], rate[at])
            at = tuple(index[moved] for index in at)
            count[at] += step
    return count


class Categorical(Head):
    """x_d one of the levels of feature d, P(x_d = level_l) = softmax(logits_d)_l; outputs are the logits, feature by feature.

    levels: the numbers that a feature may be, in any order, or how many they are, 0, 1, ..., c - 1; for several features, a
    list of such lists. Raises ValueError for levels that are not finite numbers, or that are there twice.
    """

    name, noise = "categorical", "uniform"

    def __init__(self, levels):
        several = isinstance(levels, (list, tuple)) and levels and np.ndim(levels[0])
        self.levels = [_levels(each) for each in (levels if several else [levels])]
        self._counts = np.array([len(each) for each in self.levels])
        self._ends = np.cumsum(self._counts)
        self._all_levels = np.concatenate(self.levels)

    def __repr__(self):
        levels = [each.tolist() for each in self.levels]
        return f"Categorical(levels={levels[0] if len(levels) == 1 else levels})"

    def log_probabilities(self, outputs):
        """log P(x_d = l), an array (n, c_d) for each feature."""
        return [ops.log_softmax(outputs[..., end - c:end]) for end, c in zip(self._ends, self._counts, strict=True)]

    def log_prob(self, x, outputs):
        logits = self._normalised(outputs)
        rows = [np.expand_dims(axis, -1) for axis in np.ogrid[tuple(map(slice, logits.shape[:-1]))]]
        return ops.sum(ops.where(np.isnan(x), 0, logits[(*rows, _numbers(x, self))]), axis=-1)

    def sample(self, noise, outputs):
        columns = []
        for u, part, levels in zip(np.moveaxis(noise, -1, 0), self.log_probabilities(outputs), self.levels, strict=True):
            edges = np.cumsum(np.exp(part), axis=-1)
            below, u = edges[..., :-1], u[..., None] * edges[..., -1:]
            one = below.size == len(levels) - 1  # the same table for every row
            number = np.searchsorted(below.ravel(), u[..., 0], side="right") if one else (below <= u).sum(axis=-1)
            columns.append(levels[number])
        return _stack(columns, outputs)

    def mean(self, outputs):
        return _stack([np.exp(part) @ levels for part, levels in self._tables(outputs)], outputs)

    def variance(self, outputs):
        return _stack([np.einsum("...l,...l->...", np.exp(part), np.square(levels - mean[..., None])) for (part, levels), mean
                       in zip(self._tables(outputs), np.moveaxis(self.mean(outputs), -1, 0), strict=True)], outputs)

    def n_outputs(self, d):
        return int(self._ends[-1])

    def check(self, x, name, columns=None, shown=None):
        if x.dtype == np.float32 and not self._differ_in_float32:
            raise ValueError(f"{name}: some levels of X are the same in float32; pass it in float64")
        wrong = ~((self._all_levels.astype(x.dtype)[_numbers(x, self)] == x) | np.isnan(x))
        _refuse(wrong, x if shown is None else shown, name, columns,
                "but a categorical head knows {c} other levels of its column: declare them all in fit, Categorical(levels=...)",
                self._counts)

    @functools.cached_property
    def _differ_in_float32(self):
        return all(len(np.unique(each.astype(np.float32))) == len(each) for each in self.levels)

    def _tables(self, outputs):
        return zip(self.log_probabilities(outputs), self.levels, strict=True)

    def _normalised(self, outputs):
        return ops.concatenate(self.log_probabilities(outputs), axis=-1)

    def _indicators(self, x):
        """1 at the output of the level of each feature, a sparse (n, sum of c); 0 everywhere where it is missing."""
        from scipy.sparse import csr_array  # only where there are levels
        n, d = x.shape
        seen, numbers = ~np.isnan(x), _numbers(x, self)
        return csr_array((seen.ravel().astype(np.float64), numbers.ravel(), np.arange(0, n * d + 1, d)), (n, self._ends[-1]))

    def log_prob_each(self, x, outputs):
        return self._indicators(x) @ np.ascontiguousarray(self._normalised(outputs).T)

    def moments(self, x, r, outputs):
        """(k, sum of c): the weights of every level."""
        return np.ascontiguousarray((self._indicators(x).T @ r).T)

    def maximise(self, moments, outputs, pooled, share):
        return self._normalised(np.log(np.maximum(moments + share * self._portion, RAREST)))

    def remember(self, outputs, n, pooled, share):
        return np.exp(self._normalised(outputs)) * (n[:, None] + 2 * share) - share * self._portion

    @property
    def _portion(self):
        """What a level is given of a share, (sum of c,): as many rows in all as two levels, whatever their number."""
        return np.repeat(2 / self._counts, self._counts)

    def around(self, x, pooled):
        seen = np.repeat(~np.isnan(x), self._counts, axis=1)
        return np.log((np.exp(self._normalised(pooled)) + self._indicators(x).toarray()) / (1 + seen))

    def log_prob_around(self, x, pooled):
        return self._indicators(x) @ np.log((1 + np.exp(self._normalised(pooled)[0])) / 2)

    def guess(self, r, outputs):
        def likeliest(part):
            p, size = np.exp(part).T, max(64, TABLE // part.shape[1] // 64 * 64)
            return np.concatenate([_linear(r[i:i + size].astype(np.float64), p).argmax(axis=1)
                                   for i in range(0, max(len(r), 1), size)])
        return _stack([levels[likeliest(part)] for part, levels in self._tables(outputs)], r)

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


def _number_levels(x, head):
    """The number of each value's output (..., d); of a value that is none of the levels, that of another."""
    numbers = np.empty(x.shape, np.int64)
    for j, (levels, end) in enumerate(zip(head.levels, head._ends, strict=True)):
        c, column = len(levels), x[..., j]
        if levels[-1] - levels[0] == c - 1 and levels[0] == np.floor(levels[0]):  # consecutive integers
            at = np.fmin(np.fmax(column - levels[0], 0), c - 1).astype(np.int64)
        else:
            at = np.minimum(np.searchsorted(levels.astype(x.dtype), column), c - 1)
        numbers[..., j] = at + end - c
    return numbers


_numbers = ops.op(_number_levels, name="level numbers")  # which carry no derivative


def _stack(columns, like):
    """Columns (n,) as (n, d) in the dtype of `like`, whose leading dimensions are n."""
    return np.stack(columns, axis=-1).astype(like.dtype) if columns else like[..., :0]


def _refuse(wrong, x, name, columns, words, levels=None):
    if wrong.any():
        row, column = np.argwhere(asnumpy(wrong))[0]
        words = words.format(c=None if levels is None else levels[column])
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
