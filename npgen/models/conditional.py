"""Some columns given others: what an autoregressive model says of them, exactly, in an order that has the known ones first.

Legend: n rows, d features, s columns that are known, m others.
"""
import numpy as np

from .. import ops
from ..checks import check_number, check_rows, with_article
from ..engine import grad
from ..kernels._cuda import asnumpy
from ..nn import beside
from ..random import Stream, as_stream
from ..warn import warn
from .overflow import beyond_numbers, without_overflow

WAYS = 1024       # of columns to lie in their intervals, that are gone through


class Conditional:
    """p(x_m | x_s) of a model's other columns, in their order, given the values (s,) of some: log_prob(X), sample(n).

    columns, others: the numbers of the known columns, and of those that X has; order: one that has the known ones first.
    """

    density = sampling = "exact"

    def __init__(self, model, columns, others, values, order, context=None):
        self.model, self.columns, self.others, self.values, self.order = model, columns, others, values, order
        self._context = context
        self._stream = Stream(np.random.SeedSequence([*model.stream_.state().values(), *map(int, columns)]))  # its own

    def __repr__(self):
        known = ", ".join(f"{j}: {value:g}" for j, value in zip(self.columns, self.values, strict=True))
        return f"Conditional({self.model!r}, {{{known}}})"

    def log_prob(self, X):
        """log p(x_m | x_s) of every row (n, m), (n,) nats. Raises ValueError for rows of another width, NaN or infinities."""
        x = self._checked(X)
        whole = np.empty((len(x), self.model.n_features_in_), x.dtype)
        whole[:, self.columns], whole[:, self.others] = self.values, x
        return self.model._conditional_log_prob(whole, self.order, len(self.columns), self._context)

    def _checked(self, X):
        """Rows (n, m) of the other columns as numbers."""
        if self.model.schema_ is not None and hasattr(X, "columns"):
            try:
                X = self._schema.encode(X)
            except ValueError as error:
                raise type(error)(f"log_prob: {error}") from None
        x = check_rows("log_prob", X, dtype=self.model.dtype_, missing=self.model.takes_missing)
        if x.shape[1] != len(self.others):
            raise ValueError(f"log_prob: X has {x.shape[1]} columns, but {len(self.others)} are left")
        self.model._check_missing("log_prob", x, self.others)
        return x

    def sample(self, n_samples=1, *, rng=None):
        """Rows of the other columns, (n_samples, m). rng, errors: see Model.sample."""
        x = self.rows(check_number("sample", n_samples), rng)[:, self.others]
        return x if self.model.schema_ is None else self._schema.decode(x)

    @property
    def _known(self):
        """(1, d): the values, NaN where one is missing, and in other columns."""
        known = np.full((1, self.model.n_features_in_), np.nan, self.model.dtype_)
        known[0, self.columns] = self.values
        return known

    @property
    def _schema(self):
        """Of a frame of the other columns."""
        return self.model.schema_.of(self.others, self._known[0])

    def rows(self, n, rng=None):
        """n whole rows (n, d) as numbers, with the known values in their columns."""
        x = self._known.repeat(n, axis=0)
        c, stream = self.model._check_context("sample", self._context, x), self._stream if rng is None else as_stream(rng)
        z = self.order.take(self.model._entered("sample", x))[:, :len(self.columns)]
        return self._drawn(z, c, stream)

    def _drawn(self, z, c, stream):
        """Whole rows, of their first columns in the order."""
        model, s = self.model, z.shape[1]
        noise = model._noise(len(z), stream, z, self.order)
        x = model._rowwise(lambda both, c: model._completed(both, c, s, self.order),
                           np.concatenate([z, noise], axis=1), c)
        x[:, self.columns] = self.values
        return x


class Within(Conditional):
    """p(x_m | x_s, low <= x_b <= high) of a model's other columns, given values (s,) of some and intervals of others.

        p(x_m | x_s, low <= x_b <= high) = sum_w p(w | x_s) p(x_m | x_s, x_b = w) / sum_w p(w | x_s)

    over ways w of the columns b to lie in their intervals. Those that have levels are gone through level by level, up to WAYS
    in all. Others are drawn within their intervals, one after the other, at WAYS points of a lattice, and a way counts by the
    mass that every interval has given those before it, and by the density of values behind them.

    within      {number: (low, high)}
    density     what log_prob is: "exact" where all of b are gone through, else "estimate"
    sampling    "exact" where at most one of b is not, and comes last of all that is known, as a way's weight does not depend
                on where that one lies: it is drawn anew for every row. Else "estimate": rows share the WAYS points.
    Raises ValueError where the intervals have no probability, and for a context of several rows.
    """

    def __init__(self, model, columns, others, values, order, within, levels, context=None):
        super().__init__(model, columns, others, values, order, context)
        self.within, self._first = within, order.order[:len(columns) + len(within)]
        self._open = [t for t, j in enumerate(self._first) if j in within and j not in levels]
        self.density = "estimate" if self._open else "exact"
        self._fresh = bool(self._open) and self._open[-1] == len(self._first) - 1
        self.sampling = "exact" if not self._open or self._fresh and len(self._open) == 1 else "estimate"
        ways = np.stack([np.ravel(a) for a in np.meshgrid(np.zeros(1), *levels.values())], axis=1)[:, 1:]
        points = lattice(max(1, WAYS // len(ways)) if self._open else 1, len(self._open))
        z = self._known.astype(np.float64).repeat(len(ways) * len(points), axis=0)
        z[:, list(levels)] = ways.repeat(len(points), axis=0)
        z, u = z[:, self._first], np.zeros((len(z), len(self._first)))
        u[:, self._open] = np.tile(points, (len(ways), 1))
        c = model._check_context("condition", context, self._known)
        walked = model._rowwise(self._walk, np.concatenate([z, u], axis=1), None if c is None else c.repeat(len(z), axis=0))
        self._ways, log_p = walked[:, :-1], walked[:, -1]
        total = float(ops.logsumexp(log_p))
        if not total > -np.inf:
            known = ", ".join(repr(model._names[j]) for j in within)
            raise ValueError(f"condition: these values of {known} have no probability that is a number; widen the interval")
        self._log_weights = log_p - total
        if self.sampling == "estimate":
            known = ", ".join(repr(model._names[j]) for j in self._first[self._open])
            count = np.exp(-ops.logsumexp(2 * self._log_weights))
            warn(f"condition: intervals of {known} together are an estimate, by {len(z)} weighted points that count like "
                 f"{count:.0f}; one interval of a number, last in the order, is exact")

    def __repr__(self):
        return f"{super().__repr__()[:-2]}, {self.within}}})"

    def _walk(self, both, c, start=0):
        """The first columns of rows, NaN where one is to be drawn in its interval, beside uniforms, (n, 2 s): to the whole
        ones, and the logarithm of the intervals' masses and of the values' densities from column `start` on, (n, s + 1)."""
        model, order, s = self.model, self.order.order, len(self._first)
        net, both, log_p = model._net.of(order), asnumpy(both), np.zeros(len(both))
        heads, p = [net.head.at(t) for t in range(len(order))], model._net.ordered(model._at(both.dtype), order)
        x = np.tile(np.array([head.somewhere for head in heads], both.dtype), (len(both), 1))
        there = ~np.isin(np.arange(s), self._open) | ~np.isnan(both[:, :s])  # what is given as missing stays NaN
        x[:, :s] = np.where(there, both[:, :s], x[:, :s])
        for t in range(start, s):
            outputs = asnumpy(net(p, beside(net.inputs(model._place(x)), c))[:, net.first[t]:net.first[t + 1]])
            if t not in self._open:
                log_p += heads[t].log_prob(x[:, [t]], outputs)
                continue
            low, high = np.array(self.within[self._first[t]])[:, None]
            with np.errstate(divide="ignore", invalid="ignore"):  # of a mass of 0, whose way has no weight
                log_p += heads[t].log_mass(low, high, outputs)[:, 0]
                drawn = heads[t].sample_within(both[:, [s + t]], low, high, outputs)
            x[:, [t]] = np.where(np.isnan(drawn), x[:, [t]], drawn)
        return np.concatenate([x[:, :s], log_p[:, None]], axis=1)

    def log_prob(self, X):
        x, s, answers = self._checked(X), len(self._first), []
        size = max(1, 2**15 // len(self._ways))
        for i in range(0, max(len(x), 1), size):
            whole = np.empty((len(x[i:i + size]), len(self._ways), self.model.n_features_in_), x.dtype)
            whole[..., self._first], whole[..., self.others] = self._ways, x[i:i + size, None]
            each = self.model._conditional_log_prob(whole.reshape(-1, whole.shape[-1]), self.order, s, self._context)
            answers.append(ops.logsumexp(each.reshape(whole.shape[:2]) + self._log_weights, axis=1))
        return np.concatenate(answers)

    def rows(self, n, rng=None):
        model, stream = self.model, self._stream if rng is None else as_stream(rng)
        edges = np.cumsum(np.exp(self._log_weights))
        z = self._ways[np.searchsorted(edges[:-1], stream.spawn().uniform(n) * edges[-1], side="right")]
        c = model._check_context("sample", self._context, z)
        if self._fresh:
            z[:, -1], last = np.nan, z.shape[1] - 1
            noise = stream.spawn().uniform((n, 1)).repeat(z.shape[1], axis=1)
            z = model._rowwise(lambda both, c: self._walk(both, c, last), np.concatenate([z, noise], axis=1), c)[:, :-1]
        return self._drawn(z.astype(model.dtype_), c, stream)


def lattice(n, d):
    """n points (n, d) that fill the unit cube evenly: midpoints, then multiples of the powers of 1/x, x^d = x + 1, modulo 1.

    Reference: Roberts, The unreasonable effectiveness of quasirandom sequences (2018).
    """
    root, steps = 2.0, np.arange(n)[:, None]
    for _ in range(64):
        root = (1 + root)**(1 / max(d, 2))
    return np.concatenate([(steps + 0.5) / n, (0.5 + steps * root**-np.arange(1.0, d)) % 1], axis=1)[:, :d]


class OfLevels:
    """A method of models of which a column has levels, or that are not fitted yet."""

    def __init__(self, method):
        self.method, self.__doc__ = method, method.__doc__

    def __get__(self, model, owner=None):
        head = None if model is None else model.head_
        if head is not None and all(each.support() is None for each in getattr(head, "heads", [head])):
            raise AttributeError(f"{with_article(model)} has no {self.method.__name__} where no column has levels")
        return self.method.__get__(model, owner)


class Conditions:
    """What MADE says of columns by themselves: their share of log_prob, what one is given all others, rows given some."""

    def explain(self, X, *, context=None):
        """What each column adds to log_prob of a row, (n, d) nats; of a frame, a frame.

            log p(x) = sum_j log p(x_j | x_<j),    x_<j those before j in order_

        A column that follows from later ones has no share for that: order_ says which were known. Behind a preprocessing that
        spreads whole numbers over their cells it is the same sum of the bound.
        Raises ValueError where the density is the mean of those of several orders, of which no column has a share, and as
        log_prob does.
        """
        self._check_fitted("explain")
        if len(self._orders) > 1:
            raise ValueError(f"explain: the density is the mean of those of {len(self._orders)} orders, of which no column has "
                             "a share; fit it with n_masks=1")
        shares = self._rowwise(self._shares, *self._check_both("explain", X, context))
        return self._framed(X, self._names, beyond_numbers(shares.astype(np.float64)))

    def _shares(self, x, c):
        """(n, d): of every column its log-density where the network is, and the logarithm of the derivative of its map."""
        order, slopes = self._orders[0], grad(lambda x: np.sum(self.preprocess_.to_noise(None, x)[0]))(x)

        def of_columns(z, _):
            net, p, z = self._net.of(order.order), self._net.ordered(self._at(z.dtype), order.order), order.take(z)
            outputs, first = net(p, beside(net.inputs(z), c if c is None else c.astype(z.dtype))), net.first
            return order.undo(np.stack([net.head.of([s]).log_prob(z[:, [s]], outputs[:, first[s]:first[s + 1]])
                                        for s in range(z.shape[1])], axis=1))

        return without_overflow(of_columns, lambda x: self.preprocess_.to_noise(None, x), x) + np.log(np.abs(slopes))

    @OfLevels
    def predict(self, X, column=None, *, context=None):
        """What a column, a name or number, is given all others of its row, (n, c) of its levels; of a frame, a frame.

            P(x_j = l | x_-j) = p(x_j = l, x_-j) / sum_m p(x_j = m, x_-j)

        by log_prob of every row with every level there, whatever the order. X: its own values of that column do not matter, and
        a frame need not have it. The columns of a frame are named by the levels.
        A fitted model none of whose columns has levels has no predict, by which scikit-learn knows what it is.
        Raises ValueError for a column that there is not, or has no levels, and as log_prob does.
        """
        self._check_fitted("predict")
        if column is None:
            raise ValueError("predict: column says of which column, a name or number; give one")
        return self._predicted(X, column, context)

    def _predicted(self, X, column, context):
        asked, others = columns_alone(self, "predict", self._numbers_of("predict", column))
        j = self._only(asked, column)
        known, levels = self._besides("predict", X, others), self.head_.at(j).support()
        if levels is None:
            raise ValueError(f"predict: column {self._names[j] if self._names else j!r} has no levels to go through one by "
                             "one; a Mixture says what numbers are")
        x = np.insert(check_rows("predict", known, dtype=self.dtype_, missing=self.takes_missing), j, levels[0], axis=1)
        x, c = self._check_both("predict", self._named(x), context)
        x, joint = x.copy(), []
        for level in levels:
            x[:, j] = level
            joint.append(self._rowwise(self._log_prob, x, c))
        p = np.exp(ops.log_softmax(np.stack(joint, axis=1).astype(np.float64)))
        return self._framed(X, self._level_names(j, levels), p)

    def sample(self, n_samples=None, *, context=None, given=None, rng=None):
        """Rows drawn from the model: see Model.sample.

        given: {name: value, or (low, high)} of a model of a DataFrame: rows with these values, or in these intervals, and the
        other columns drawn given them, without rejection, as condition says, whose errors it raises.
        """
        if given is None:
            return super().sample(n_samples, context=context, rng=rng)
        conditional = self.condition(given, context=context)
        n = check_number("sample", 1 if n_samples is None else n_samples)
        return self._tabled(conditional.rows(n, self.stream_ if rng is None else rng))


def columns_of(model, method, columns, values):
    """The numbers of some columns, of the others, and the values (s,) of the first. Raises ValueError."""
    columns, others = columns_alone(model, method, columns)
    x = check_rows(method, np.atleast_2d(asnumpy(values)), name="values", dtype=model.dtype_, missing=model.takes_missing)
    if x.shape != (1, len(columns)) or np.ndim(values) != 1:
        raise ValueError(f"{method}: values have shape {np.shape(values)}; pass ({len(columns)},)")
    model._check_missing(method, x, columns, "values")
    if not len(others):
        raise ValueError(f"{method}: columns must not be all there are; leave at least one")
    return columns, others, x[0]


def columns_alone(model, method, columns):
    """The numbers of some columns, and of all others. Raises ValueError."""
    d, given = model.n_features_in_, np.atleast_1d(columns)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given) or not ((-d <= given) & (given < d)).all():
        raise ValueError(f"{method}: columns must be numbers of the {d} columns, got {columns!r}")
    if len(set(given % d)) < len(given):
        raise ValueError(f"{method}: columns must differ, got {columns!r}")
    return given % d, np.setdiff1d(np.arange(d), given % d)
