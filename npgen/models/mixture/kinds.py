"""The kinds of columns that a Mixture has, each a head: which was asked for, its levels, and the columns that it has.

Legend: n rows, d columns, k components, c levels of one.
"""
import numpy as np

from ...checks import check_parameter, one_line
from ...heads import HEADS, Categorical, Family
from ...heads.categorical import levels_in
from ...nn import Part


def families():
    """The names of the heads that a column of a mixture can have: those with an M-step."""
    return [name for name, head in HEADS.items() if issubclass(head, Family)]


class ColumnHeads(Part):
    """The heads by name, and the numbers of the columns that each has; the parameters of k components.

    kinds: the name of each column's head (d,). levels: lists (c,), one for each column that has levels.
    Raises ValueError for what a file cannot have from a fit.
    """

    def __init__(self, k, d, kinds, levels):
        if len(kinds) != d or not all(kind in families() for kind in kinds) or len(levels) != len(with_levels(kinds)) or \
                not all(isinstance(each, (list, tuple)) for each in levels):
            raise ValueError(f"kinds_ {kinds} and levels_ {levels} are not of {d} columns"[:200])
        self.k, self.kinds = k, list(kinds)
        self.levels = tuple(Categorical(list(each)).levels[0] for each in levels)
        by_column = dict(zip(with_levels(kinds), self.levels, strict=True))
        self.numbers = {name: np.flatnonzero(np.array(kinds) == name) for name in families() if name in kinds}
        self.heads = {name: HEADS[name].of_columns([by_column.get(j) for j in columns])
                      for name, columns in self.numbers.items()}
        self.reals = self.numbers.get("normal", np.empty(0, int))

    def shapes(self):
        return {"logits": (self.k,)} | {name: (self.k, width) for name, width in self.n_outputs().items()}

    def views(self, x):
        """(name, head, its columns of x (..., d)) of every head."""
        for name, head in self.heads.items():
            yield name, head, x if len(self.heads) == 1 else x[..., self.numbers[name]]

    def fill(self, answers, dtype):
        """Rows (..., d) from the columns of each head."""
        x = np.empty((*next(iter(answers.values())).shape[:-1], len(self.kinds)), dtype)
        for name, answer in answers.items():
            x[..., self.numbers[name]] = answer
        return x

    def check_support(self, method, x):
        """Raise ValueError unless every value is in the support of its column's head, or missing (NaN)."""
        for name, head, view in self.views(x):
            head.check(view, method, self.numbers[name])

    def n_outputs(self):
        """How many outputs each head has, by name."""
        return {name: head.n_outputs(len(self.numbers[name])) for name, head in self.heads.items()}


def with_levels(kinds):
    """The columns that have levels."""
    return [j for j, kind in enumerate(kinds) if kind in ("bernoulli", "categorical")]


def column_heads(heads, x):
    """What was asked for in each column: the name of a head, or a Categorical that declares its levels."""
    d = x.shape[1]
    if isinstance(heads, str) and heads == "auto":
        return ["bernoulli" if ((c == 0) | (c == 1) | np.isnan(c)).all() else "normal" for c in x.T]
    given, heads = heads, [heads] * d if isinstance(heads, (str, Categorical)) else heads
    if not isinstance(heads, (list, tuple, np.ndarray)) or len(heads) != d or not all(
            len(head.levels) == 1 if isinstance(head, Categorical) else isinstance(head, str) and head in families()
            for head in heads):
        raise ValueError(f"heads must be 'auto', one of {', '.join(families())}, Categorical(levels), or {d} of these, "
                         f"got {given!r}"[:400])
    return [head if isinstance(head, Categorical) else str(head) for head in heads]


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
