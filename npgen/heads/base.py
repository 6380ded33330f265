"""What outputs say about each feature: the base classes of likelihood heads, and what the heads share.

A network has outputs for every row, and a head turns them into the row's log-density, a sample or a mean. A mixture has
outputs for each component, and a family takes its two EM steps: it sums up what its maximum likelihood has to know.

Legend: n rows, d features, k components.
"""
import abc

import numpy as np

from .. import ops
from ..checks import with_article
from ..kernels import masked_matmul
from ..kernels._cuda import asnumpy, is_device_array
from ..masks import Plan
from ..nn import Part

EMPTY = 1e-8      # rows, below which a component has none
RAREST = 1e-300   # rows that are counted where there are none, so that every logarithm is finite
BLOCK = 2**15     # values at once


class Head(Part, abc.ABC):
    """Distributions of independent features, known by their outputs: those of the first feature, then of the second, ...

    name      what users call it
    discrete  whether its values are countable; an array (d,) where it has columns of both kinds
    noises    how many numbers sample takes for a feature, where all its features are of one kind
    code      how kernels/made_sample.py draws it, or None
    limit     nats that log-variances are bounded to, or None
    pieces    of how many arrays beside one another its outputs were, in files of formats 1 and 2
    by_name   whether users can ask for it by its name alone
    missing   whether a missing value, NaN, is a state of its own; an array (d,) where it is in some columns
    somewhere a value in the support
    own_map   whether it maps a real feature itself, so that nothing has to before
    """

    name: str
    discrete, noises, code, limit = True, 1, None, None
    pieces, by_name, missing, somewhere, own_map = 1, True, False, 0.0, False
    has_steps = False  # whether it is a component of mixtures, with EM's steps

    @abc.abstractmethod
    def log_prob(self, x, outputs):
        """sum_d log p(x_d; outputs), (n,) nats, differentiable; the leading dimensions of x and outputs broadcast."""

    @abc.abstractmethod
    def sample(self, noise, outputs):
        """x (n, d) from noise, as `noise` draws it."""

    @abc.abstractmethod
    def noise(self, stream, shape, dtype, like=None):
        """What sample makes rows of this shape (..., d) of, (..., m): drawn from a stream, on the device if `like` is there."""

    def first_noise(self, d):
        """Where the noise of each of d features begins, and that of the last one ends, (d + 1,)."""
        return self.noises * np.arange(d + 1)

    def codes(self, d):
        """The code of each of d features."""
        return [self.code] * d

    def limits(self, d):
        """The limit of each of d features, (d,), infinite where there is none."""
        return np.full(d, np.inf if self.limit is None else self.limit)

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
    def first(self, d):
        """Where the outputs of each of d features begin, and those of the last one end, (d + 1,) int64."""

    def drawn(self, j):
        """Which of j outputs each one was in files of formats 1 and 2, (j,)."""
        return np.arange(j).reshape(self.pieces, -1).T.ravel()

    @abc.abstractmethod
    def initial(self, x, weights=None):
        """The outputs (j,) float64 that say of a column what it is by itself in rows x (n, d): its mean and variance, or the
        frequencies of its levels, each seen once more than it was. weights (n,); a missing value, NaN, is left out.
        """

    def support(self):
        """All values (c,) that one feature may have, None where they are too many to be listed."""

    def log_mass(self, low, high, outputs):
        """log P(low <= x <= high), (..., d) nats, of numbers low and high (d,), which may be infinite."""
        raise ValueError(f"{with_article(self.name)} head answers no intervals; give a value")

    def sample_within(self, noise, low, high, outputs):
        """x (n, d) given low <= x <= high, from uniforms (n, d); the interval has a probability above 0."""
        raise ValueError(f"{with_article(self.name)} head answers no intervals; give a value")

    @abc.abstractmethod
    def of(self, features):
        """The head of some features, in this order."""

    def at(self, j):
        """The head of feature j alone."""
        return self.of([j])

    def n_inputs(self, d):
        """How many inputs of a network each of d features is, (d,)."""
        return np.ones(d, np.int64)

    def inputs(self, x):
        """Rows x (n, d) as a network sees them: levels as indicators, all others as they are."""
        return x

    def numbers(self, x):
        """Rows x (n, d) with a level's number, 0, 1, ..., in its place."""
        return x

    def values(self, numbers):
        """The rows (n, d) of which `numbers` gives these."""
        return numbers

    @property
    def measure(self):
        """What the density of a feature is with respect to, in words."""
        return "counting" if self.discrete else "length"

    def smooth(self, x):
        """Rows x (n, d) with NaN for what has a probability of its own, where the head has a density for the rest."""
        return x

    def seen(self):
        """The head given that no value is missing."""
        return self

    @abc.abstractmethod
    def check(self, x, name, columns=None, shown=None):
        """Raise ValueError unless every value is in the support, or missing (NaN).

        columns are x's numbers in the user's X; shown (n, d): the rows that x is made of, whose value the message names.
        """

    def config(self):
        """The head as JSON, of which heads.from_config makes it again: its name, {"head": name, ...} where it has options."""
        options = self._options()
        return {"head": self.name, **options} if options else self.name

    def _options(self):
        """What the constructor was given that is not its default."""
        return {}


class Family(Head):
    """A head of the components of a mixture: it has an M-step. A missing value is NaN, and left out.

    floored   whether what maximise adds are shares of the pooled variances, as of a Normal, and not rows
    """

    has_steps, floored = True, False

    @classmethod
    def of_columns(cls, levels):
        """The head of so many columns, of which those that have levels (c,) have these, and the others None."""
        return cls()

    @abc.abstractmethod
    def log_prob_each(self, x, outputs):
        """log_prob of every row under each component, (n, k) float64."""

    @abc.abstractmethod
    def moments(self, x, r, outputs):
        """What maximise has to know of rows of which r (n, k) belong to the components with these outputs; sums over rows."""

    @abc.abstractmethod
    def maximise(self, moments, outputs, pooled, smoothing):
        """The likeliest outputs, from moments under the last ones; NaN where a component has collapsed.

        pooled: the outputs of all rows as one component. smoothing: what keeps the likeliest from extremes, for a Normal the
        shares (d,) of the pooled variances that are added, else a number of rows that is added to every count.
        """

    def smoothing(self, rows, floor):
        """What maximise takes as smoothing, where so many rows are added to counts, and these shares (d,) to variances."""
        return floor if self.floored else rows

    def redundant(self, d):
        """How many outputs of d features follow from the others."""
        return 0

    @abc.abstractmethod
    def expected_moments(self, outputs, n, pooled, smoothing):
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


class Unsupported(ValueError):
    """A value that a head cannot have drawn: where it is, in words why, and whether it is none of some levels."""

    def __init__(self, name, row, column, value, words, of_levels):
        super().__init__(f"{name}: X[{row}, {column}] is {value:g}, {words}")
        self.row, self.column, self.value, self.words, self.of_levels = row, column, value, words, of_levels


def refuse(wrong, x, name, columns, words, levels=None):
    """Raise Unsupported, in these words, for the first value (n, d) that is wrong; {c} in them is how many levels it has."""
    if wrong.any():
        row, column = np.argwhere(asnumpy(wrong))[0]
        words = words.format(c=None if levels is None else levels[column])
        raise Unsupported(name, row, column if columns is None else columns[column], x[row, column], words,
                          levels is not None)


def mass_of(points, log_p, low, high):
    """The logarithm of the sum of p over the points (c,) in [low, high], (...), from log p (..., c)."""
    inside = np.exp(log_p[..., (low <= points) & (points <= high)])
    with np.errstate(divide="ignore"):
        return np.log(inside.sum(axis=-1))


def point_of(points, log_p, low, high, noise):
    """One of the points (c,) in [low, high] by their p, from log p (..., c) and uniforms (...)."""
    inside = (low <= points) & (points <= high)
    edges = np.cumsum(np.exp(log_p[..., inside]), axis=-1)
    return points[inside][(edges[..., :-1] <= noise[..., None] * edges[..., -1:]).sum(axis=-1)]


def choice_and_noise(base, stream, shape, dtype, like=None):
    """Of each feature a uniform, which chooses, then the noise of a head of what is chosen, (..., d (1 + noises))."""
    first, second = stream.spawn(), stream.spawn()  # a row is the same, however many there are
    which = first.uniform(shape, dtype, like=like)
    rest = base.noise(second, shape, dtype, like).reshape(*shape, base.noises)
    return np.concatenate([which[..., None], rest], axis=-1).reshape(*shape[:-1], shape[-1] * (1 + base.noises))


def totals(x, weights, of=np.asarray):
    """Sums over rows x (n, d) of the weights of what is there, and of weights times of(x), (d,) float64 each.

    By blocks that a cache holds: as many numbers of float64 as there are values take longer to write.
    """
    weights = None if weights is None else np.asarray(weights, np.float64)[:, None]
    answer, rows = np.zeros((2, x.shape[1])), max(1, BLOCK // max(1, x.shape[1]))
    for i in range(0, len(x), rows):
        values, w = of(x[i:i + rows].astype(np.float64)), None if weights is None else weights[i:i + rows]
        total = (values if w is None else values * w).sum(axis=0)
        if np.isnan(total).any():  # there may be missing values, of which most blocks have none
            seen = ~np.isnan(values) * (np.ones((len(values), 1)) if w is None else w)
            answer += seen.sum(axis=0), (seen * np.where(seen, values, 0)).sum(axis=0)
        else:  # to the same bits
            answer[0] += len(values) if w is None else np.repeat(w, x.shape[1], axis=1).sum(axis=0)
            answer[1] += total
    return answer


def filled(x):
    """x with 0 for what is missing, and what is: (n, d), or (0, d) if nothing is."""
    missing = np.isnan(x if is_device_array(x) or np.isnan(x.min(initial=0)) else x[:0])  # which waits for no device
    return np.where(missing, 0, x) if len(missing) else x, missing


def without(missing, joint, features):
    """joint (n, k) float64 without the features (k, d) that a row does not have."""
    return joint - linear(missing.astype(np.float64), features) if len(missing) else joint


def linear(x, outputs):
    """x outputs^T (n, k), multiplied in x's dtype, by a kernel: in NumPy's product a row's bits depend on the other rows."""
    weight, = ops.contiguous(outputs.T.astype(x.dtype))
    return ops.linear(x, weight, np.zeros_like(weight, shape=(len(outputs),))).astype(np.float64)


def weigh(x, r):
    """r^T x (k, d), multiplied in x's dtype."""
    plan = Plan.dense(x.shape[1], r.shape[1])
    x, r = ops.contiguous(x, r.astype(x.dtype))
    return masked_matmul.backward_weight(x, r, plan.mask_as(x.dtype, x), plan.blocks).T.astype(np.float64)
