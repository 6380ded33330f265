"""The kinds of columns that a Mixture has, each a head: which was asked for, its levels, and the columns that it has.

Legend: n rows, d columns, k components, c levels of one.
"""
import numpy as np

from ...checks import check_parameter, one_line
from ...heads import HEADS, Atoms, Categorical, Family, Head, from_config
from ...heads.categorical import levels_in
from ...kernels._cuda import constant_like
from ...nn import Part
from ...tensor import value_of

LEVELLED = ("bernoulli", "categorical")


def families():
    """The names of the heads that a column of a mixture can have by name alone: those with an M-step."""
    return [name for name, head in HEADS.items() if issubclass(head, Family) and head.by_name]


class ColumnHeads(Part):
    """The heads by group, and the numbers of the columns that each has; the parameters of k components.

    Columns with a head by name are one group, named so; a column with one of options is a group of its own.

    kinds: the name of each column's head (d,). levels: lists (c,), one for each column that has levels. options: {number of a
    column: Head.config()} of those that no name and no levels make.
    Raises ValueError for what a file cannot have from a fit.
    """

    def __init__(self, k, d, kinds, levels, options=()):
        options = {int(j): from_config(config) for j, config in dict(options).items()}
        named = [kind for j, kind in enumerate(kinds) if j not in options]
        if len(kinds) != d or not all(kind in families() for kind in named) or len(levels) != len(with_levels(kinds)) or \
                not all(isinstance(each, (list, tuple)) for each in levels) or not all(
                0 <= j < d and head.has_steps and head.name == kinds[j] for j, head in options.items()):
            raise ValueError(f"kinds_ {kinds} and levels_ {levels} are not of {d} columns"[:200])
        self.k, self.kinds, self.options = k, list(kinds), options
        self.levels = tuple(Categorical(list(each)).levels[0] for each in levels)
        by_column = dict(zip(with_levels(kinds), self.levels, strict=True))
        self.numbers = {name: np.flatnonzero(np.array(kinds) == name) for name in families() if name in named}
        self.heads = {name: HEADS[name].of_columns([by_column.get(j) for j in columns])
                      for name, columns in self.numbers.items()}
        self.numbers |= {f"{head.name}{j}": np.array([j]) for j, head in sorted(options.items())}
        self.heads |= {f"{head.name}{j}": head for j, head in sorted(options.items())}
        self.widest = max(map(len, self.numbers.values()))  # columns of one head
        self._places = {j: (name, i) for name, columns in self.numbers.items() for i, j in enumerate(columns.tolist())}
        self.reals = self.numbers.get("normal", np.empty(0, int))
        widths = [len(self.numbers[name]) * head.floored for name, head in self.heads.items()]
        ends = np.cumsum(widths)
        self.floors = {name: slice(int(end) - width, int(end))
                       for name, width, end in zip(self.heads, widths, ends, strict=True)}
        self.n_floors = sum(widths)

    def at(self, column):
        """The group that a column is in, and its place there."""
        return self._places[column]

    def shapes(self):
        return {"logits": (self.k,)} | {name: (self.k, width) for name, width in self.n_outputs().items()}

    def views(self, x):
        """(group, head, its columns of x (..., d)) of every head."""
        for name, head in self.heads.items():
            yield name, head, x if len(self.heads) == 1 else x[..., constant_like(self.numbers[name], value_of(x))]

    def nearer(self, x):
        """Rows whose squares overflow, at 1e150 on the same ray: responsibilities do not change from there on."""
        x, reals = x.astype(np.float64), self.reals
        x[:, reals] /= np.maximum(np.abs(x[:, reals]).max(axis=1, initial=0) / 1e150, 1)[:, None]
        return x

    def fill(self, answers, dtype):
        """Rows (..., d) from the columns of each head."""
        first = next(iter(answers.values()))
        x = np.empty_like(first, shape=(*first.shape[:-1], len(self.kinds)), dtype=dtype)
        for name, answer in answers.items():
            x[..., constant_like(self.numbers[name], x)] = answer
        return x

    def check_support(self, method, x):
        """Raise ValueError unless every value is in the support of its column's head, or missing (NaN)."""
        for name, head, view in self.views(x):
            head.check(view, method, self.numbers[name])

    def n_outputs(self):
        """How many outputs each head has, by group."""
        return {name: head.n_outputs(len(self.numbers[name])) for name, head in self.heads.items()}


def with_levels(kinds):
    """The columns that have levels."""
    return [j for j, kind in enumerate(kinds) if kind in LEVELLED]


def column_heads(heads, x):
    """What was asked for in each column: the name of a head, or a head, such as a Categorical that declares its levels."""
    d = x.shape[1]
    if isinstance(heads, str) and heads == "auto":
        return ["bernoulli" if ((c == 0) | (c == 1) | np.isnan(c)).all() else "normal" for c in x.T]
    given, heads = heads, [heads] * d if isinstance(heads, (str, Head)) else heads
    if not isinstance(heads, (list, tuple, np.ndarray)) or len(heads) != d or not all(
            isinstance(head, str) and head in families() if not isinstance(head, Head) else
            len(head.levels) == 1 if isinstance(head, Categorical) else head.has_steps and not head.by_name for head in heads):
        raise ValueError(f"heads must be 'auto', one of {', '.join(families())}, Categorical(levels) or another "
                         f"head with EM's steps, or {d} of these, got {given!r}"[:400])
    return [head if isinstance(head, Head) else str(head) for head in heads]


def with_missing(heads, x):
    """The heads, before each of a column of rows x (n, d) that misses values the state of a missing one."""
    def one(j, head):
        if isinstance(head, Atoms):
            return Atoms(head.base, head.atoms.tolist(), missing=True)
        if isinstance(head, str):
            levels = levels_of(x, j, head) if head in LEVELLED else None
            head = HEADS[head].of_columns([levels])
        return Atoms(head, missing=True)
    return [one(j, head) if gaps else head for j, (head, gaps) in enumerate(zip(heads, np.isnan(x).any(axis=0), strict=True))]


def chosen_heads(heads, x):
    """What files keep of the heads that column_heads gave, for rows x (n, d): kinds, levels and options of ColumnHeads."""
    kinds = [getattr(head, "name", head) for head in heads]
    options = {str(j): head.config() for j, head in enumerate(heads) if isinstance(head, Head) and not head.by_name}
    return {"kinds": kinds, "levels": [levels_of(x, j, heads[j]).tolist() for j in with_levels(kinds)]} | (
        {"options": options} if options else {})


def levels_of(x, column, head):
    """The levels of a column (c,): those declared, or those that are there."""
    if head == "bernoulli":
        return np.arange(2.0)
    if isinstance(head, Categorical):
        return head.levels[0]
    return levels_in(x, column)


def column_parameter(column, kind, value, k, n_levels):
    """What from_parameters was given for a column. Raises ValueError for what no column of this kind can have."""
    if kind not in ("normal", "bernoulli", "poisson", "categorical"):
        raise ValueError(f"from_parameters: heads[{column}] is {kind!r}, of which it takes no parameters; fit it to rows")
    value = check_parameter(f"parameters[{column}]", value, {"normal": (2, k), "categorical": (k, n_levels)}.get(kind, (k,)))
    sound, words = {"normal": (value[-1:] > 0, "variances above 0"),
                    "bernoulli": ((value >= 0) & (value <= 1), "probabilities, 0 to 1"),
                    "poisson": (value >= 0, "rates, 0 or more"),
                    "categorical": ((value >= 0) & (abs(value.sum(axis=-1, keepdims=True) - 1) <= 1e-6),
                                    "probabilities that add up to 1 over the levels")}[kind]
    if not sound.all():
        raise ValueError(f"from_parameters: parameters[{column}] must hold {words}, got {one_line(value)}")
    return value
