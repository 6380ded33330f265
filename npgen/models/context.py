"""A context as numbers: labels become one-hot, numbers are standardised; and what is computed once of each.

Legend: n rows, w columns as a network sees them.
"""
import hashlib

import numpy as np

from ..checks import check_constant, check_number, one_line
from ..kernels._cuda import asnumpy


class ContextMap:
    """What the columns of a context are: {"levels": [...]} of labels, {"mean": m, "scale": s} of numbers; and names.

    A vector (n,) holds labels unless it is made of floats; of a matrix (n, w) all columns are numbers; of a table, or of an
    array of objects, those are labels that are no numbers.
    """

    def __init__(self, columns):
        self.columns = columns
        self.width = sum(len(column["levels"]) if "levels" in column else 1 for column in columns)

    @classmethod
    def of(cls, context, n, weights=None):
        """The map that these n rows of context call for; those of weight 0 do not count. Raises ValueError or TypeError."""
        columns = _columns("fit", context, None)
        if any(len(column) != n for column in columns):
            raise ValueError(f"fit: context has {len(columns[0])} rows, but X has {n}; pass one for each")
        names = [{"name": str(name)} for name in context.columns] if _is_table(context) else [{}] * len(columns)
        counted = columns if weights is None else [column[asnumpy(weights) > 0] for column in columns]
        return cls([name | _describe(column) for name, column in zip(names, counted, strict=True)])

    @property
    def names(self):
        """Of the columns, or None if the context of fit had none."""
        return [column["name"] for column in self.columns] if "name" in self.columns[0] else None

    def encode(self, method, context, dtype):
        """The context (m, w) as numbers. Raises ValueError for another width, unknown labels, NaN and infinities."""
        if context is None:
            raise ValueError(f"{method}: the model was fitted with a context of {len(self.columns)} columns; pass context=")
        columns = _columns(method, context, len(self.columns))
        if len(columns) != len(self.columns):
            raise ValueError(f"{method}: context has {len(columns)} columns, but the model was fitted with {len(self.columns)}")
        if self.names and _is_table(context) and list(map(str, context.columns)) != self.names:
            raise ValueError(f"{method}: context has columns {one_line(list(context.columns))}, but the model was fitted with "
                             f"{one_line(self.names)}; pass those, in this order")
        return np.concatenate([_encoded(method, j, *each) for j, each in enumerate(zip(columns, self.columns, strict=True))],
                              axis=1).astype(dtype)

    def is_one(self, context):
        """Whether it is one row alone, and not a list of them: a label or a number, or a vector of several columns."""
        return not hasattr(context, "columns") and np.ndim(asnumpy(context)) == (0 if len(self.columns) == 1 else 1)

    def config(self):
        """What from_config takes, for JSON."""
        return self.columns

    @classmethod
    def from_config(cls, columns):
        """The map of a file. Raises ValueError or TypeError for what is none."""
        for column in columns:
            if ("name" in column) != ("name" in columns[0]) or not isinstance(column.get("name", ""), str):
                raise ValueError(f"the context has a column named {one_line(column.get('name'))}")
            if "levels" in column and not (column["levels"] and all(isinstance(level, (str, int, float)) for level in
                                                                    column["levels"])):
                raise ValueError(f"the context has levels {one_line(column['levels'])}")
            if "levels" not in column and not (np.isfinite(float(column["mean"])) and float(column["scale"]) > 0):
                raise ValueError(f"the context has a column {one_line(column)}")
        return cls(columns)


def _is_table(context):
    return hasattr(context, "columns") and hasattr(context, "shape")


def _columns(method, context, expected):
    """The columns of a context, (n,) each; expected: how many there are to be, if that is known."""
    check_constant(method, context, "context")
    if _is_table(context):
        return [np.asarray(context[[name]])[:, 0] for name in context.columns]
    c = asnumpy(context)
    if c.ndim == 0 or c.ndim == 1 and expected not in (None, 1):
        return list(np.reshape(c, (1, -1)).T)
    if c.ndim not in (1, 2) or c.ndim == 2 and c.shape[1] == 0:
        raise ValueError(f"{method}: context has shape {c.shape}; pass labels (n,) or columns (n, w)")
    if c.ndim == 1:
        return [c]
    return [column if c.dtype.kind not in "iub" else column.astype(np.float64) for column in c.T]


def _describe(column):
    values = column
    if column.dtype.kind == "O":
        try:
            values = column.astype(np.float64)
        except (TypeError, ValueError):
            pass
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"fit: context holds {values[~np.isfinite(values)][0]}; remove or fill such values first")
        scale = float(values.std())
        return {"mean": float(values.mean()), "scale": scale if scale > 0 else 1.0}
    levels = sorted({_label(value) for value in column.tolist()}, key=lambda level: (isinstance(level, str), level))
    return {"levels": levels}


def _label(value):
    if value is None or value != value:
        raise ValueError("context holds a missing label; fill it, or drop its row")
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else int(value) if isinstance(
        value, bool) else str(value)


def _encoded(method, number, column, known):
    """A column (n,) as (n, l) one-hot, or (n, 1) standardised."""
    if "levels" in known:
        place = {level: i for i, level in enumerate(known["levels"])}
        try:
            at = [place[_label(value)] for value in column.tolist()]
        except KeyError as error:
            raise ValueError(f"{method}: context has the label {error.args[0]!r} in column {number}, but those that the model "
                             f"was fitted with are {one_line(known['levels'])}") from None
        except ValueError as error:
            raise ValueError(f"{method}: {error}") from None
        return np.eye(len(place))[at] if at else np.empty((0, len(place)))
    try:
        values = column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{method}: column {number} of context must be numbers ({error})") from None
    if not np.isfinite(values).all():
        raise ValueError(f"{method}: context holds {values[~np.isfinite(values)][0]} in column {number}; fill such values")
    return ((values - known["mean"]) / known["scale"])[:, None]


def asked(model, method, context):
    """Rows of context as numbers, (m, w); None if the model was fitted without one. Raises ValueError as queries do."""
    known = model.context_
    return known.encode(method, context, model.dtype_) if known else model._check_context(method, context, np.empty((0, 0)))


def distinct(c):
    """The contexts of rows (n, w) that differ, (w,) each on their device, with the numbers of its rows, on the host."""
    rows, of = np.unique(asnumpy(c), axis=0, return_inverse=True)
    return [(np.asarray(row, like=c), np.flatnonzero(of.ravel() == i)) for i, row in enumerate(rows)]


class OfContexts:
    """What a function gives of a context (w,), asked once for each that differs while the parameters are the same."""

    most = 10_000

    def __init__(self):
        self._found = {}

    def __call__(self, function, p, c, settings=()):
        """The answers for contexts (n, w), (n, ...) in float64; settings: what they depend on beside parameters p."""
        values = hashlib.blake2b(repr(settings).encode())
        for name in sorted(p):
            values.update(asnumpy(p[name]).tobytes())
        key, answers = (c.dtype.char, values.digest()), {}
        for each, rows in distinct(c):
            of = *key, asnumpy(each).tobytes()
            if of not in self._found:
                if len(self._found) >= self.most:
                    self._found.clear()
                self._found[of] = np.asarray(function(each), dtype=np.float64)
            answers |= dict.fromkeys(rows.tolist(), self._found[of])
        return np.array([answers[i] for i in range(len(c))])


class TakesContext:
    """A model that may have been fitted given a context."""

    context_ = None  # how it becomes numbers, if there was one
    _takes_context = False

    def _context_map(self, context, n, weights):
        """How this context of n rows becomes numbers; None without one. Raises ValueError where the model takes none."""
        if context is None:
            return None
        if not self._takes_context:
            raise ValueError(f"fit: {type(self).__name__} takes no context; fit it on all the columns"
                             + (", and call condition" if hasattr(self, "condition") else ""))
        return ContextMap.of(context, n, weights)

    def _check_context(self, method, context, x):
        """The context of rows x as numbers (n, w) of their dtype; None if the model was fitted without one."""
        if self.context_ is None:
            if context is not None:
                raise ValueError(f"{method}: this {type(self).__name__} was fitted without a context; leave it out, or fit it "
                                 "with one")
            return None
        c = self.context_.encode(method, context, x.dtype)
        if len(c) not in (1, len(x)):
            raise ValueError(f"{method}: context has {len(c)} rows for {len(x)} rows of X; pass one for each, or one for all")
        return np.ascontiguousarray(np.broadcast_to(c, (len(x), c.shape[1])))

    def _check_both(self, method, X, context):
        x = self._check(method, X)
        return x, self._check_context(method, context, x)

    def _check_draw(self, method, n_samples, context):
        """How many rows to draw, their context, and the shape that they are to have but for the columns."""
        self._check_fitted(method)
        n = check_number(method, 1 if n_samples is None else n_samples)
        c = asked(self, method, context)
        if c is None:
            return n, None, (n,)
        shape = (n,) if self.context_.is_one(context) else (len(c),) if n_samples is None else (len(c), n)
        return len(c) * n, self._place(np.repeat(c, n, axis=0)), shape
