"""What a report is about: a fitted model, rows as numbers, rows that it draws, and how they are compared.

Legend: n rows, m rows drawn, d columns.
"""
import dataclasses
import functools

import numpy as np

from ..checks import check_rows, column_names, with_article
from ..data import Table, frames
from ..models.base import Model
from ..random import as_stream
from .bins import Bins, columns_of, texts
from .measures import shape_similarity

SCORED = 20_000     # rows of those given that are looked at, at most
COMPARED = 5_000    # of these, beside as many that are drawn
CELLS = 4_000_000   # that are looked at, and a quarter as many compared, but of FEWEST rows
FEWEST = 500
SHOWN = 60          # columns that have charts, at most


@dataclasses.dataclass(frozen=True)
class Half:
    """Rows (m, d) that are compared with others, and what the page calls them."""

    words: str
    rows: np.ndarray


class Subject:
    """A fitted model beside rows: x (n, d) and drawn (m, d) in float64, NaN for what is missing; columns (d,), what they are.

    of: the numbers of rows x among the `given` ones. some: the numbers of those rows x that are compared; held: rows held out.
    Raises TypeError for what is no fitted model of npgen, ValueError for rows that are not of its columns.
    """

    def __init__(self, model, X, context, holdout, seed):
        if not isinstance(model, Model):
            raise TypeError(f"report: model is {with_article(model)}; give a generative model of npgen")
        if not model.__sklearn_is_fitted__():
            raise ValueError(f"report: this {type(model).__name__} is not fitted yet; call fit(X) first")
        self.model, self.stream = model, as_stream(seed)
        self.numbers = model if model.schema_ is None else model.without_schema()
        rows = self._rows_of("X", X)
        self.given = len(rows)
        self.context = self._context_of_rows(context)
        scored, compared = (max(FEWEST, min(most, cells // rows.shape[1])) for most, cells in ((SCORED, CELLS),
                                                                                              (COMPARED, CELLS // 4)))
        self.of = np.sort(self.stream.permutation(len(rows))[:scored])
        self.x = np.asarray(rows[self.of], np.float64)
        other = None if holdout is None else self._rows_of("holdout", holdout)
        self.held = None if other is None else np.asarray(other[np.sort(self.stream.permutation(len(other))[:compared])],
                                                          np.float64)
        some = self.stream.permutation(len(self.x))[:compared]
        self.some = np.sort(some)
        self.drawn = np.asarray(self._draw(), np.float64)
        names = self.names or [f"column {j + 1}" for j in range(self.x.shape[1])]
        self.columns = columns_of(self.x, self.drawn, names) if model.schema_ is None else [
            column.difference for column in model.schema_.modelled]
        self._halve(some)

    @property
    def names(self):
        """The names of the columns that the model was fitted on, or None."""
        return None if (names := getattr(self.model, "feature_names_in_", None)) is None else list(names)

    @property
    def has_density(self):
        return self.model.capabilities.density != "none"

    @property
    def levelled(self):
        """Which of the columns (d,) have levels."""
        return np.array([column.levels is not None for column in self.columns])

    def ask(self, query, x, of=None):
        """The answer of the model's query to rows x (n, d) in float64, whose context is that of rows `of` of self.x."""
        x = x.astype(self.model.dtype_)
        context = {} if self.model.context_ is None else {"context": self.context_of(of)}
        return np.asarray(getattr(self.numbers, query)(Table(x, self.names) if self.names else x, **context), np.float64)

    def context_of(self, of):
        """The context of rows `of` of self.x."""
        if self.model.context_.is_one(self.context):
            return self.context
        return _taken(self.context, self.of[of])

    @functools.cached_property
    def nats(self):
        """log_prob of rows x (n,)."""
        return self.ask("log_prob", self.x, np.arange(len(self.x)))

    @functools.cached_property
    def similarity(self):
        """How far rows and samples agree in each column, (d,)."""
        return np.array([shape_similarity(x, y, levelled) for x, y, levelled in zip(self.x[self.some].T, self.drawn.T,
                                                                                   self.levelled, strict=True)])

    @property
    def shown(self):
        """The numbers of the columns that agree least, in their order: those that have charts."""
        return np.sort(np.argsort(np.nan_to_num(self.similarity, nan=-1), kind="stable")[:SHOWN])

    @functools.cached_property
    def fine(self):
        """Of each column Bins for a chart."""
        return [Bins(column, *pair) for column, pair in zip(self.columns, self._pairs(), strict=True)]

    @functools.cached_property
    def coarse(self):
        """Of each column Bins of about as many rows each."""
        return [Bins(column, *pair, some=12, count=10, even=False) for column, pair in zip(self.columns, self._pairs(),
                                                                                          strict=True)]

    @functools.cached_property
    def beside(self):
        """The rows drawn, which miss what the rows beside them miss if the model draws no missing cells."""
        return self.drawn if np.isnan(self.drawn).any() else np.where(np.isnan(self.x[self.some]), np.nan, self.drawn)

    def codes(self, x, numbers):
        """Rows x as the coarse bins of the columns of these numbers."""
        return np.stack([self.coarse[j](x[:, j]) for j in numbers], axis=1)

    def cell(self, j, value):
        """A cell as text."""
        return texts(self.columns[j], [value])[0]

    def _pairs(self):
        return zip(self.x[self.some].T, self.drawn.T, strict=True)

    def _rows_of(self, name, X):
        """X as numbers (n, d). Raises DataError or ValueError, which name the column."""
        model = self.model
        if model.schema_ is not None and frames.library_of(X) is not None:
            try:
                x = model.schema_.encode(X).astype(model.dtype_)
            except ValueError as error:
                raise type(error)(f"report: {'' if name == 'X' else f'{name}: '}{error}") from None
            return check_rows("report", x, name=name, minimum=2, missing=True)
        names, known = column_names("report", X), self.names
        if names and known and names != known:
            wrong = next((each for each in known if each not in names), None)
            raise ValueError(f"report: {name} has the columns {', '.join(map(repr, names))}"[:200] + ", but the model was "
                             + (f"fitted on {wrong!r} too" if wrong else "fitted on others, or in another order"))
        x = check_rows("report", X, name=name, dtype=model.dtype_, minimum=2, missing=True)
        if x.shape[1] != model.n_features_in_:
            raise ValueError(f"report: {name} has {x.shape[1]} columns, but the model was fitted on {model.n_features_in_}")
        return x

    def _context_of_rows(self, context):
        known = self.model.context_
        if known is None and context is not None:
            raise ValueError(f"report: this {type(self.model).__name__} was fitted without a context; leave it out")
        if known is not None and context is None:
            raise ValueError("report: the model was fitted with a context; pass that of the rows, context=")
        if known is not None and not known.is_one(context) and len(context) != self.given:
            raise ValueError(f"report: context has {len(context)} rows, but X has {self.given}; pass one for each, or one for "
                             "all")
        return context

    def _draw(self):
        """Rows as the tables of the model's schema have them, on their grids."""
        drawn = self._sample()
        return drawn if self.model.schema_ is None else self.model.schema_.rounded(drawn)

    def _sample(self):
        if self.model.context_ is None:
            return self.numbers.sample(len(self.some), rng=self.stream.spawn())
        many = {"n_samples": len(self.some)} if self.model.context_.is_one(self.context) else {}
        return self.numbers.sample(**many, context=self.context_of(self.some), rng=self.stream.spawn())

    def _halve(self, some):
        """Rows there are, and beside them as many that are drawn, as many others, and others whose columns are independent."""
        half = len(some) // 2
        one, other = self.x[some[:half]], self.x[some[half:2 * half]] if self.held is None else self.held[
            self.stream.permutation(len(self.held))[:half]]
        self.half, self.rest = one, self.x if self.held is not None else np.delete(self.x, some[half:2 * half], axis=0)
        half = len(other)
        drawn = self.drawn[self.stream.permutation(len(self.drawn))[:half]]
        self.holes = bool(np.isnan(other).any() and not np.isnan(drawn).any())
        drawn = np.where(np.isnan(other), np.nan, drawn) if self.holes else drawn
        independent = np.stack([column[self.stream.permutation(half)] for column in other.T], axis=1)
        self.others = {"samples": Half("rows that the model draws", drawn),
                       "real": Half("the other half of the rows" if self.held is None else "rows held out", other),
                       "independent": Half("the same, each column shuffled", independent)}


def _taken(rows, of):
    """The rows of these numbers of a DataFrame, a Table, an array or a list."""
    if hasattr(rows, "iloc"):
        return rows.iloc[of]
    if hasattr(rows, "take") and hasattr(rows, "column_names"):  # of pyarrow
        return rows.take(of)
    return rows[of] if hasattr(rows, "columns") else np.asarray(rows)[of]
