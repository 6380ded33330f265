"""What a mixture says of single columns: their share of a row's density, what one of them is given the rest, intervals.

Legend: n rows, d features, k components, c levels, j a column, -j all others.
"""
import numpy as np

from ... import ops
from ...checks import check_rows
from ...heads import has_missing
from ...heads.base import RAREST
from ...kernels._cuda import asnumpy
from ..blocks import by_block
from .conditionals import Conditionals
from .rows import patterns
from .starts import draw_each, labels_by


class Questions:
    """explain, predict a column, and what condition and sample have in common; a subclass writes

    _log_mass(j, low, high)             log P_k(low <= x_j <= high), (k,)
    _drawn_given(x, columns, values, within, stream)    rows x (n, d) with what is NaN drawn, some columns in intervals
    _predicted(rest, x, j)              (names, numbers (n, c)) of column j, from rows x of the other columns and their mixture
    """

    def explain(self, X):
        """How likely each cell of a row is, given all its other cells, (n, d) nats; of a frame, a frame.

            log p(x_j | x_-j) = log p(x) - log p(x_-j)

        The cells that make a row odd have the lowest. These are no shares that add up to log p(x): two columns that say the
        same both have a high one. A missing cell has none (NaN), unless that is modelled; a row that has no density has -inf
        in the columns that are to blame, or in all where no single one is. Raises as log_prob does.
        """
        x = self._check("explain", X)
        every = self._columns_of("explain", np.arange(self.n_features_in_))[0]
        whole, answer = self._rowwise(self._log_prob, x).astype(np.float64), np.empty(x.shape)
        for j in every:
            rest, others = 0.0, np.delete(every, j)
            if len(others):
                model = self._marginal(others)
                rest = model._rowwise(model._log_prob, x[:, others])
            with np.errstate(invalid="ignore"):
                answer[:, j] = whole - rest
        answer[np.isnan(answer)] = -np.inf
        return self._framed(X, self._names, np.where(np.isnan(x) & ~self._missing_modelled(), np.nan, answer))

    @by_block
    def predict(self, X, column=None):
        """The likeliest component of every row, (n,); with a column, a name or number, what it is given the others.

            P(x_j = l | x_-j) = sum_k r_k(x_-j) P_k(x_j = l), (n, c) of its levels;
            of a column of numbers the mean and the standard deviation of p(x_j | x_-j), (n, 2)

        X: its own values of that column do not matter, and a frame need not have it; other missing values are marginalised. Of
        a frame the answer is a frame, its columns named by the levels, or "mean" and "std". Raises ValueError for a column
        that there is not, and as log_prob does.
        """
        if column is None:
            self._as_in_fit("predict", X)
            return self._rowwise(self._encode, self._check("predict", X)).argmax(axis=1)
        asked, others = self._columns_of("predict", column)
        j = self._only(asked, column)
        column = None if self.schema_ is None else self.schema_.modelled[j]
        if column is not None and (column.kind == "datetime" or column.clock or column.base is not None):
            what = "holds times" if column.base is None else f"is counted from {column.base!r}"
            raise ValueError(f"predict: column {self._names[j]!r} {what}, by which it has neither levels nor a mean that is a "
                             "number; impute gives its mean, and condition or impute with rng draws")
        x = self._besides("predict", X, others)
        rest = self._marginal(others) if len(others) else None
        x = np.empty((len(x), 0)) if rest is None else rest._check("predict", x)
        return self._framed(X, *self._predicted(rest, x, j))

    def _predicted(self, rest, x, j):
        mean, variance, others = np.empty(len(x)), np.empty(len(x)), np.delete(np.arange(self.n_features_in_), j)
        for rows, columns in patterns(x):
            seen = others if columns is None else others[columns]
            both = self._marginal(np.sort([*seen, j]))
            at, values = np.arange(len(seen) + 1) != np.searchsorted(seen, j), x[rows]
            values = values if columns is None else values[:, columns]
            if len(seen):
                found = both.condition(np.flatnonzero(at), values.astype(np.float64))
            else:
                found = Conditionals(np.tile(self.weights_, (len(values), 1)),
                                     *both._conditional_moments(np.empty(0, int), np.zeros(1, int), values))
            mean[rows], variance[rows] = found.mean[:, 0], found.covariance[:, 0, 0]
        return ["mean", "std"], np.stack([mean, np.sqrt(variance)], axis=1)

    # ------------------------------------------------------------ intervals

    def _log_mass(self, j, low, high):
        raise ValueError(f"column {self._names[j]!r} is given an interval, under which the components of a "
                         f"{type(self).__name__} are none of its kind any more; give a value, draw with sample(given=...), or "
                         "fit a Mixture")

    def _log_weights_given(self, method, columns, values, within):
        """Of the components, (k,), given the values of some columns and the intervals of others. Raises ValueError."""
        try:
            log_weights = np.log(self.weights_) + sum(self._log_mass(j, *ends) for j, ends in within.items())
        except ValueError as error:
            raise ValueError(f"{method}: {error}") from None
        if len(columns):
            log_weights = log_weights - np.log(self.weights_) + self._log_weights_at(method, columns, values)
        total = float(ops.logsumexp(log_weights))
        if not total > -np.inf:
            names = ", ".join(repr(self._names[j]) for j in within)
            raise ValueError(f"{method}: no component gives these values of {names} a probability that is a number; widen the "
                             "interval")
        return np.maximum(log_weights - total, np.log(np.finfo(float).tiny))

    def _log_weights_at(self, method, columns, values):
        """Of the components, (k,), given the values (o,) of some columns."""
        seen, x = self._marginal(np.asarray(columns)), self._values(method, np.asarray(columns), values)
        seen._check_support(method, x)
        return np.log(np.maximum(seen._rowwise(seen._encode, x)[0], np.finfo(float).tiny))

    def _values(self, method, columns, values):
        """Values of some columns (n, o), NaN where one is missing and that is a state of its column. Raises ValueError."""
        modelled = self._missing_modelled()[columns]
        x = check_rows(method, np.atleast_2d(asnumpy(values)), name="values", dtype=np.float64, missing=bool(modelled.any()))
        if x.shape[1] != len(columns) or np.ndim(values) not in (1, 2):
            raise ValueError(f"{method}: values have shape {np.shape(values)}; pass ({len(columns)},) or (n, {len(columns)})")
        if (wrong := np.isnan(x) & ~modelled).any():
            row, j = np.argwhere(wrong)[0]
            raise ValueError(f"{method}: values[{row}, {j}] is nan, but no row of fit missed column {columns[j]}; give a value")
        return x.astype(np.float64)

    def _condition_within(self, columns, values, within):
        """condition, where some columns are given intervals, {number: (low, high)}."""
        others = np.setdiff1d(np.arange(self.n_features_in_), [*columns, *within])
        if not len(others):
            raise ValueError("condition: columns are all there are; leave at least one to be conditioned")
        log_weights = self._log_weights_given("condition", columns, values, within)
        columns = np.asarray(columns, int)
        model = self._conditional(columns, others, log_weights, np.reshape(values, (1, -1)))
        return self._counted_from(model, columns, others, values)

    def _sample_given(self, given, n, stream):
        """n rows (n, d) given the values, or intervals, of some columns."""
        columns, values, within = given
        self._columns_of("sample", [*columns, *within])  # which refuses a map in front of the mixture
        x = np.full((n, self.n_features_in_), np.nan)
        x[:, columns] = values
        self._check_support("sample", x[:1])
        x = self._drawn_given(x, columns, values, within, stream).astype(self.dtype_)
        x[:, columns] = values  # of which one may be missing
        return x

    def _drawn_given(self, x, columns, values, within, stream):
        self._log_weights_given("sample", columns, values, within)  # which refuses intervals
        return self._completed(x, stream)


class OfColumns(Questions):
    """The same of a mixture whose components take the columns as independent."""

    def _alone(self, j):
        """The head of a column and its outputs under each component."""
        group, place = self._columns.at(j)
        return self._columns.heads[group].of([place]), self._columns.heads[group].take(self.params_[group], [place])

    def _missing_modelled(self):
        return np.array([has_missing(self._alone(j)[0]) for j in range(self.n_features_in_)])

    def _log_mass(self, j, low, high):
        head, outputs = self._alone(j)
        return head.log_mass(np.array([low]), np.array([high]), outputs)[:, 0]

    def _drawn_given(self, x, columns, values, within, stream):
        components = labels_by(np.exp(self._log_weights_given("sample", columns, values, within)), len(x), stream)
        drawn = asnumpy(self._draw_from(self.params_, components, stream, np.float64))
        for j, (low, high) in within.items():
            head, outputs = self._alone(j)
            noise = stream.spawn().uniform((len(x), 1))
            drawn[:, [j]] = head.sample_within(noise, np.array([low]), np.array([high]), outputs[components])
        return np.where(np.isnan(x), drawn, x)

    def _impute(self, x, stream):
        p = self.params_
        r = self._represent(p, x, more=self._could_be_seen(x))
        if stream is not None:
            full = self._draw_from(p, asnumpy(draw_each(r, stream)), stream, x.dtype, seen=True)
            return np.where(np.isnan(x), full, x)
        full = self._reconstruct(p, r)
        for j, column in enumerate(self.schema_.modelled if self.schema_ else ()):
            if column.kind == "integer" and column.base is None and not column.clock:  # whose levels, if any, are numbers
                head, outputs = self._alone(j)
                full[:, j] = column.rounded(r @ np.asarray(head.mean(outputs)[:, 0], like=r))
        return np.where(np.isnan(x), full, x)

    def _could_be_seen(self, x):
        """log P_k(seen) - log P_k(missing) of the missing values of rows x: added to log p_k, it takes them for seen ones."""
        more = 0.0
        for j in np.flatnonzero(self._missing_modelled()):
            head, outputs = self._alone(j)
            gone = head.log_prob_each(np.full((1, 1), np.nan, x.dtype), outputs)
            odds = np.asarray(np.log(np.maximum(-np.expm1(gone), RAREST)) - gone, like=x)
            more = more + np.where(np.isnan(x[:, [j]]), odds, 0)
        return more

    def _predicted(self, rest, x, j):
        head, outputs = self._alone(j)
        r = np.tile(self.weights_, (len(x), 1)) if rest is None else rest._rowwise(rest._encode, x).astype(np.float64)
        values = head.support()
        if values is not None:
            p = r @ np.exp(head.log_prob_each(values[:, None], outputs)).T
            return self._level_names(j, values), p / p.sum(axis=1, keepdims=True)
        if has_missing(head):  # given that it is there
            r = r * -np.expm1(head.log_prob_each(np.full((1, 1), np.nan), outputs))
            r = r / r.sum(axis=1, keepdims=True)
        means, variances = head.mean(outputs)[:, 0], head.variance(outputs)[:, 0]
        mean = r @ means
        between = np.einsum("nk,nk->n", r, np.square(means - mean[:, None]))
        return ["mean", "std"], np.stack([mean, np.sqrt(r @ variances + between)], axis=1)
