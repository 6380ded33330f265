"""Some columns given others: what an autoregressive model says of them, exactly, in an order that has the known ones first.

Legend: n rows, d features, s columns that are known, m others.
"""
import numpy as np

from ..checks import check_number, check_rows
from ..kernels._cuda import asnumpy
from ..random import Stream, as_stream


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
            X = self.model.schema_.of(self.others).encode(X)
        x = check_rows("log_prob", X, dtype=self.model.dtype_)
        if x.shape[1] != len(self.others):
            raise ValueError(f"log_prob: X has {x.shape[1]} columns, but {len(self.others)} are left")
        whole = np.empty((len(x), len(self.columns) + len(self.others)), x.dtype)
        whole[:, self.columns], whole[:, self.others] = self.values, x
        return self.model._conditional_log_prob(whole, self.columns, self._context)

    def sample(self, n_samples=1, *, rng=None):
        """Rows of the other columns, (n_samples, m). rng, errors: see Model.sample."""
        x = np.full((check_number("sample", n_samples), len(self.columns) + len(self.others)), np.nan, self.model.dtype_)
        x[:, self.columns] = self.values
        c, stream = self.model._check_context("sample", self._context, x), self._stream if rng is None else as_stream(rng)
        x, schema = self.model._imputed(x, c, stream)[:, self.others], self.model.schema_
        return x if schema is None else schema.of(self.others).decode(x)


def columns_of(model, method, columns, values):
    """The numbers of some columns, of the others, and the values (s,) of the first. Raises ValueError."""
    d, given = model.n_features_in_, np.atleast_1d(columns)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given) or not ((-d <= given) & (given < d)).all():
        raise ValueError(f"{method}: columns must be numbers of the {d} columns, got {columns!r}")
    if len(set(given % d)) < len(given) or len(given) == d:
        raise ValueError(f"{method}: columns must differ, and not be all there are, got {columns!r}")
    x = check_rows(method, np.atleast_2d(asnumpy(values)), name="values", dtype=model.dtype_)
    if x.shape != (1, len(given)) or np.ndim(values) != 1:
        raise ValueError(f"{method}: values have shape {np.shape(values)}; pass ({len(given)},)")
    return given % d, np.setdiff1d(np.arange(d), given % d), x[0]
