"""Some columns given others: what an autoregressive model says of them, exactly, in an order that has the known ones first.

Legend: n rows, d features, s columns that are known, m others.
"""
import numpy as np

from .. import ops
from ..checks import check_number, check_rows
from ..engine import grad
from ..kernels._cuda import asnumpy
from ..nn import beside
from ..random import Stream, as_stream
from .overflow import beyond_numbers, without_overflow


class Conditional:
    """p(x_m | x_s) of a model's other columns, in their order, given the values (s,) of some: log_prob(X), sample(n).

    columns, others: the numbers of the known columns, and of those that X has.
    """

    def __init__(self, model, columns, others, values, context=None):
        self.model, self.columns, self.others, self.values, self._context = model, columns, others, values, context
        self._stream = Stream(np.random.SeedSequence([*model.stream_.state().values(), *map(int, columns)]))  # its own

    def __repr__(self):
        known = ", ".join(f"{j}: {value:g}" for j, value in zip(self.columns, self.values, strict=True))
        return f"Conditional({self.model!r}, {{{known}}})"

    def log_prob(self, X):
        """log p(x_m | x_s) of every row (n, m), (n,) nats. Raises ValueError for rows of another width, NaN or infinities."""
        if self.model.schema_ is not None and hasattr(X, "columns"):
            X = self._schema.encode(X)
        x = check_rows("log_prob", X, dtype=self.model.dtype_)
        if x.shape[1] != len(self.others):
            raise ValueError(f"log_prob: X has {x.shape[1]} columns, but {len(self.others)} are left")
        whole = np.empty((len(x), len(self.columns) + len(self.others)), x.dtype)
        whole[:, self.columns], whole[:, self.others] = self.values, x
        return self.model._conditional_log_prob(whole, self.columns, self._context)

    def sample(self, n_samples=1, *, rng=None):
        """Rows of the other columns, (n_samples, m). rng, errors: see Model.sample."""
        x = self.rows(check_number("sample", n_samples), rng)[:, self.others]
        return x if self.model.schema_ is None else self._schema.decode(x)

    @property
    def _schema(self):
        """Of a frame of the other columns."""
        known = np.full(len(self.columns) + len(self.others), np.nan)
        known[self.columns] = self.values
        return self.model.schema_.of(self.others, known)

    def rows(self, n, rng=None):
        """n whole rows (n, d) as numbers, with the known values in their columns."""
        x = np.full((n, len(self.columns) + len(self.others)), np.nan, self.model.dtype_)
        x[:, self.columns] = self.values
        c, stream = self.model._check_context("sample", self._context, x), self._stream if rng is None else as_stream(rng)
        return self.model._imputed(x, c, stream)


class OfLevels:
    """A method of models of which a column has levels, or that are not fitted yet."""

    def __init__(self, method):
        self.method, self.__doc__ = method, method.__doc__

    def __get__(self, model, owner=None):
        head = None if model is None else model.head_
        if head is not None and all(each.support() is None for each in getattr(head, "heads", [head])):
            raise AttributeError(f"a {type(model).__name__} has no {self.method.__name__} where no column has levels")
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
        known, head = self._besides("predict", X, others), self.head_.of([j])
        head = head.heads[0] if head.name == "columns" else head
        levels = head.support()
        if levels is None:
            raise ValueError(f"predict: column {self._names[j] if self._names else j!r} has no levels to go through one by "
                             "one; a Mixture says what numbers are")
        x = np.insert(check_rows("predict", known, dtype=self.dtype_, missing=self._missing), j, levels[0], axis=1)
        x, c = self._check_both("predict", self._named(x), context)
        x, joint = x.copy(), []
        for level in levels:
            x[:, j] = level
            joint.append(self._rowwise(self._log_prob, x, c))
        p = np.exp(ops.log_softmax(np.stack(joint, axis=1).astype(np.float64)))
        return self._framed(X, self._level_names(j, levels), p)

    def sample(self, n_samples=None, *, context=None, given=None, rng=None):
        """Rows drawn from the model: see Model.sample.

        given: {name: value} of a model of a DataFrame: rows with these values, and the other columns drawn given them, without
        rejection, as condition says, whose errors it raises.
        """
        if given is None:
            return super().sample(n_samples, context=context, rng=rng)
        conditional = self.condition(given, context=context)
        n = check_number("sample", 1 if n_samples is None else n_samples)
        return self._tabled(conditional.rows(n, self.stream_ if rng is None else rng))


def columns_of(model, method, columns, values):
    """The numbers of some columns, of the others, and the values (s,) of the first. Raises ValueError."""
    columns, others = columns_alone(model, method, columns)
    x = check_rows(method, np.atleast_2d(asnumpy(values)), name="values", dtype=model.dtype_)
    if x.shape != (1, len(columns)) or np.ndim(values) != 1:
        raise ValueError(f"{method}: values have shape {np.shape(values)}; pass ({len(columns)},)")
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
