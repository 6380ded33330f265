"""What makes a model of rows one of a DataFrame: its schema, by which frames become numbers at the door and are made again.

Legend: n rows, d columns that are modelled.
"""
import contextlib
import copy

import numpy as np

from .. import heads
from ..checks import check_number, check_rows, one_line, with_article
from ..kernels._cuda import asnumpy
from ..random import as_stream
from ..transforms import Columns
from .choice import head_of


class OfTables:
    """A model that was fitted on a DataFrame has its Schema, schema_: it takes such frames, and gives them."""

    schema_ = None  # None: it was fitted on an array
    holds_levels = False  # whether a column may have levels that are no numbers
    _line = None  # the head of a continuous column, if each column has a head that the schema chooses
    _missing_states = False  # whether that a value is missing is a state
    _found = None  # the heads that it chose, a list (d,), while a model is fitted

    def _normals(self, n):
        """How many normals a column of numbers has that all components of a mixture share, of n rows; 0: there are none."""
        return 0

    def without_schema(self):
        """This model as one of the numbers that schema_.encode gives: arrays in, arrays out."""
        model = copy.copy(self)
        model.schema_ = None
        return model

    def _take_frame(self, X, columns):
        """X as fit learns from it, a frame as its numbers under the names of their columns; sets schema_."""
        from ..data import DataError, Schema, frames  # import npgen stays light
        self.schema_ = self._found = None
        if frames.library_of(X) is None:
            if columns is not None:
                raise ValueError(f"fit: columns say what a DataFrame has, but X is {with_article(X)}; leave them out")
            return X
        try:
            schema = columns if isinstance(columns, Schema) else Schema.infer(X, columns)
            self.schema_ = schema
            x = self._encoded(X)
        except DataError as error:
            raise DataError(f"fit: {error}") from None
        if self._line is not None:
            normals = self._normals(len(x.rows))
            self._found = [head_of(column, cells.astype(np.float64), self._line, self._missing_states, normals)
                           for column, cells in zip(schema.modelled, x.rows.T, strict=True)]
        for column, missing in zip(schema.modelled, np.isnan(x.rows).any(axis=0), strict=True):
            name = with_article(self)
            if not self.holds_levels and column.levels is not None and any(isinstance(level, str) for level in column.levels):
                raise ValueError(f"fit: column {column.name!r} holds levels, which {name} cannot; use a Mixture or a MADE, "
                                 "or leave it out")
            if missing and not self.takes_missing:
                raise ValueError(f"fit: column {column.name!r} misses values, which {name} cannot; fill them, or use a "
                                 "Mixture")
        return x

    def _encoded(self, X):
        """A frame as a Table of numbers, in a dtype that holds them."""
        from ..data import Table
        dtype = {True: np.float32, False: np.float64, None: self._default_dtype}[self.schema_.float32]
        return Table(self.schema_.encode(X).astype(dtype, copy=False), self.schema_.names)

    def _numbers(self, method, X, name="X"):
        """What a query is asked about, a frame as its numbers."""
        from ..data import DataError, frames
        if self.schema_ is None or frames.library_of(X) is None:
            return X
        where = method if name == "X" else f"{method}: {name}"
        lacking = self.schema_.lacking(X)
        if lacking:
            raise ValueError(f"{where}: X has no column {lacking}, which this {type(self).__name__} was fitted on; it has "
                             f"{', '.join(map(repr, frames.names_of(X)))}"[:400])
        try:
            return self._encoded(X)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    def in_support(self, X):
        """Whether each cell of a DataFrame, or an array, has a value that the model knows, or none, (n, d) bool of the modelled
        columns.

        A row with another one, such as a level that no row of fit had, has log p(x) = -inf, and is refused by name in queries.
        Raises NotFittedError, and ValueError for cells of another type and for other columns than those of fit.
        """
        self._check_fitted("in_support")
        from ..data import DataError, frames
        schema = self.schema_
        if schema is None or frames.library_of(X) is None:
            x = asnumpy(check_rows("in_support", X, dtype=self.dtype_, missing=True))
            if x.shape[1] != self.n_features_in_:
                raise ValueError(f"in_support: X has {x.shape[1]} columns, but fit had {self.n_features_in_}; pass those")
            return self._in_heads(x, range(x.shape[1]), np.ones(x.shape, bool))
        if lacking := schema.lacking(X):
            raise ValueError(f"in_support: X has no column {lacking}, which this {type(self).__name__} was fitted on")
        cells, known = {name: rest for name, *rest in frames.read(X)}, np.ones((len(X), len(schema.names)), bool)
        for j, column in enumerate(schema.modelled):
            if column.levels is not None:
                (native, values, gaps), levels = cells[column.name], set(column.levels)
                known[~gaps, j] = [value in levels for value in values.tolist()]
                cells[column.name] = native, values[known[~gaps, j]], gaps | ~known[:, j]
        try:
            x = schema.encode_cells(cells, len(X)).astype(self.dtype_)
        except DataError as error:
            raise DataError(f"in_support: {error}") from None
        return self._in_heads(x, [j for j, column in enumerate(schema.modelled) if column.levels is None], known)

    def _in_heads(self, x, columns, known):
        """known (n, d), in which these columns say of rows x (n, d) whether their heads take the values."""
        for j in columns:
            if (head := self._head_of(j)) is not None:
                values, places = np.unique(x[:, j], return_inverse=True)
                known[:, j] = _taken(head, values[:, None])[places]
        return known

    def _head_of(self, j):
        """The head of a column, None without one."""
        if "columns" in self._parts:
            group, place = self._parts["columns"].at(j)
            return self._parts["columns"].heads[group].of([place])
        return self.head_.at(j) if isinstance(self.head_, heads.Columns) else self.head_

    def _as_in_fit(self, method, X):
        """Refuse a frame of other columns than those of fit, or in another order, in scikit-learn's words, which its
        check_estimator wants of the methods that it knows; but only where all are real numbers, as it has them."""
        if self.schema_ is not None and all(column.kind == "real" for column in self.schema_.columns):
            self._check_names(method, X, "X")

    @contextlib.contextmanager
    def _naming_columns(self, method):
        """A value that a head refuses is said to be of a column's name, where a schema has it, and in its words."""
        try:
            yield
        except heads.Unsupported as error:
            if self.schema_ is None:
                raise
            column = self.schema_.modelled[int(error.column)]
            words = ("a value that no row of fit had; leave it out, or fit with rows that have it, or with columns="
                     f"{{{column.name!r}: 'real'}}") if error.of_levels and column.levels is None else error.words
            raise ValueError(f"{method}: column {column.name!r} is {error.value:g} in row {error.row + 1}, {words}") from None

    def _tabled(self, x):
        """Rows (..., d) as a frame of the library that the model was fitted on; as they are if it was fitted on an array."""
        return x if self.schema_ is None else self.schema_.decode(asnumpy(x).reshape(-1, x.shape[-1]))

    def _rounded(self, x):
        """Rows (n, d) as a frame has them, on the grids of its columns."""
        return x if self.schema_ is None else self.schema_.rounded(x)

    def _filled_in(self, X, x):
        """X with its missing values as they are in rows x (n, d): of the kind that X is."""
        from ..data import frames
        return x if self.schema_ is None or frames.library_of(X) is None else self.schema_.fill(X, asnumpy(x))

    def _known(self, method, columns, values):
        """(columns, values, {column: (low, high)}) as numbers of what {name: value, or (low, high)} says is known; NaN is
        a value that is known to be missing.

        What is given as numbers of columns and their values already is as it is.
        """
        if not isinstance(columns, dict):
            if values is None:
                raise ValueError(f"{method}: give {{name: value}}, or numbers of columns and their values, got "
                                 f"{one_line(columns)}")
            return columns, values, {}
        from ..data import DataError
        if self.schema_ is None or values is not None:
            raise ValueError(f"{method}: {{name: value}} is for models fitted on a DataFrame, and has the values; this one "
                             "takes numbers of columns, and values")
        if not columns:
            raise ValueError(f"{method}: nothing is given; give {{name: value}} of at least one column")
        exact, within = {}, {}
        try:
            for j, value in zip(self._numbers_of(method, list(columns)), columns.values(), strict=True):
                column = self.schema_.modelled[j]
                if _is_gap(value):
                    if not self._missing_modelled()[j]:
                        raise DataError(f"column {column.name!r}: {value} is no value of it, and this {type(self).__name__} "
                                        "cannot be given that it is missing; give a value, or fit a MADE, or a "
                                        "Mixture(missing='model'), to rows of which some miss it")
                    exact[j] = np.nan
                elif isinstance(value, (tuple, list)) and len(value) == 2:
                    within[j] = column.interval(*value)
                else:
                    exact[j] = column.given(value)
            exact, within = self.schema_.given(exact, within)
        except DataError as error:
            raise DataError(f"{method}: {error}") from None
        return list(exact), np.array(list(exact.values()), self.dtype_), within

    def _missing_modelled(self):
        """Of which columns it can be given that a value is missing, (d,)."""
        return np.zeros(self.n_features_in_, bool)

    def _numbers_of(self, method, columns):
        """The numbers of columns that are given by name; others as they are."""
        several = [columns] if isinstance(columns, str) else columns
        if not isinstance(several, (list, tuple)) or not all(isinstance(name, str) for name in several):
            return columns
        for name in several:
            if name not in (self._names or ()):
                column = {each.name: each for each in (self.schema_.columns if self.schema_ else ())}.get(name)
                if column is not None and column.by:
                    raise ValueError(f"{method}: column {name!r} follows from {' and '.join(map(repr, column.by))}; give that "
                                     "instead"[:300])
                known = ", ".join(map(repr, self._names or ()))
                what = f"there is no column {name!r}" if column is None else f"column {name!r}, {column.kind}, is not modelled"
                raise ValueError(f"{method}: {what}; there are {known}"[:300])
        return [self._names.index(name) for name in several]

    def _only(self, numbers, asked):
        """The number of the one column that predict is asked about. Raises ValueError for several."""
        if len(numbers) != 1:
            raise ValueError(f"predict: one column is asked about at a time, got {asked!r}"[:200])
        return int(numbers[0])

    def _besides(self, method, X, others):
        """The numbers of some columns of X: of a frame, which need not have any other, as a Table."""
        from ..data import DataError, Table, frames
        if self.schema_ is None or frames.library_of(X) is None:
            x = asnumpy(X.rows if isinstance(X, Table) else X)
            if x.ndim != 2 or x.shape[1] != self.n_features_in_:
                raise ValueError(f"{method}: X has shape {x.shape}; pass (n, {self.n_features_in_})")
            return Table(x[:, others], self._names and [self._names[j] for j in others])
        try:
            schema = self.schema_.of(others)
            return Table(schema.encode(X).astype(self.dtype_), schema.names)
        except DataError as error:
            raise DataError(f"{method}: {error}") from None

    def _framed(self, X, names, x):
        """Numbers x (n, m), if X is a frame as one of its library under these names."""
        from ..data import frames
        library = None if self.schema_ is None else frames.library_of(X)
        return x if library is None else frames.numbers(library, names, x, getattr(X, "index", None))

    def _level_names(self, j, numbers):
        """The names of the levels of a column that these numbers (c,) stand for."""
        return [str(value) for value in (numbers if self.schema_ is None else
                                         self.schema_.modelled[j].values(np.asarray(numbers, np.float64))[0].tolist())]

    def _imputations(self, X, n, rng, **options):
        """n tables in which what is missing is drawn."""
        stream = as_stream(0 if rng is None else rng)
        return [self.impute(X, rng=stream.spawn(), **options) for _ in range(check_number("impute", n))]

    @property
    def measures_(self):
        """What the density of each column is with respect to, (d,) texts: "counting" of levels and of values on a grid,
        "length" in the column's unit, or "length, counting at ..." some values, or where one is missing."""
        self._check_fitted("measures_")
        d = self.n_features_in_
        each, spread = [self._head_of(j) for j in range(d)], _spread(self.preprocess_, d)
        return ["counting" if spread[j] else "length" if head is None else head.measure for j, head in enumerate(each)]


def _taken(head, x):
    """Which of values x (n, 1) a head takes, (n,): it is asked about halves, until they are taken, or one value."""
    try:
        head.check(x, "in_support")
    except heads.Unsupported:
        if len(x) == 1:
            return np.zeros(1, bool)
        return np.concatenate([_taken(head, half) for half in np.array_split(x, 2)])
    return np.ones(len(x), bool)


def _is_gap(value):
    """Whether a value says that there is none: None, NaN, or pandas' NA and NaT."""
    return value is None or isinstance(value, float) and value != value or type(value).__name__ in ("NAType", "NaTType")


def _spread(maps, d):
    """Which of d columns preprocessing spreads over the cells of a grid, (d,) bool."""
    if not isinstance(maps, Columns):
        return np.full(d, not maps.exact)
    spread = np.zeros(d, bool)
    for part, own in zip(maps.maps, maps.columns, strict=True):
        spread[list(own)] = _spread(part, len(own))
    return spread
