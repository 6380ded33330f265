"""A product of heads over sets of columns: a table whose columns are of different kinds.

    p(x; outputs) = prod_h p_h(x of the columns of head h; their outputs)

Legend: n rows, d features, j outputs.
"""
import numpy as np

from .. import ops
from ..kernels._cuda import constant_like
from ..masks import places
from ..tensor import value_of
from .base import Head
from .categorical import Categorical


class Columns(Head):
    """The heads of a table's columns, one for each; outputs are those of the first column, then of the second, ...

    heads: of every column a head of one column, such as Normal() or Categorical(3). Raises ValueError for anything else.
    """

    name, by_name = "columns", False

    def __init__(self, heads):
        self.heads = list(heads)
        if not self.heads or not all(isinstance(head, Head) and not isinstance(head, Columns) for head in self.heads):
            raise ValueError(f"Columns: heads must be one likelihood head for each column, got {heads!r}"[:200])
        widths = [head.n_outputs(1) for head in self.heads]
        self._first = np.concatenate([[0], np.cumsum(widths)])
        self._first_noise = np.cumsum([0, *(head.noises for head in self.heads)])
        # a head, its columns, and where their outputs and their noise are
        self._parts = [(_joined([self.heads[j] for j in columns]), columns, places(self._first, columns),
                        places(self._first_noise, columns)) for columns in _alike(self.heads)]
        self.discrete, self.own_map, self.missing = (np.array([getattr(head, name) for head in self.heads])
                                                     for name in ("discrete", "own_map", "missing"))

    def __repr__(self):
        return f"Columns({self.heads})"

    def _options(self):
        return {"heads": [head.config() for head in self.heads]}

    def _views(self, outputs):
        """(head, its columns, its outputs) of every head."""
        for head, columns, at, _ in self._parts:
            yield head, columns, outputs if len(self._parts) == 1 else outputs[..., _there(at, outputs)]

    def _filled(self, answers, like):
        """(..., d) from the answers, one for the columns of each head, in the dtype of `like`."""
        answers = list(answers)
        x = np.empty_like(like, shape=(*answers[0].shape[:-1], len(self.heads)))
        for (_, columns, *_), answer in zip(self._parts, answers, strict=True):
            x[..., _there(columns, x)] = answer
        return x

    def log_prob(self, x, outputs):
        return sum(head.log_prob(x[..., _there(columns, x)], view) for head, columns, view in self._views(outputs))

    def noise(self, stream, shape, dtype, like=None):
        """That of the first column's head, then of the second's, ...; heads that are alike draw theirs together."""
        noise = np.empty((*shape[:-1], self._first_noise[-1]), dtype, like=like)
        for head, columns, _, at in self._parts:
            noise[..., _there(at, noise)] = head.noise(stream.spawn(), (*shape[:-1], len(columns)), dtype, like)
        return noise

    def sample(self, noise, outputs):
        return self._filled((head.sample(noise[..., _there(at, noise)], view) for (*_, at), (head, _, view) in
                             zip(self._parts, self._views(outputs), strict=True)), outputs)

    def first_noise(self, d):
        return self._first_noise

    def codes(self, d):
        return [head.code for head in self.heads]

    def limits(self, d):
        return np.concatenate([head.limits(1) for head in self.heads])

    def mean(self, outputs):
        return self._filled((head.mean(view) for head, _, view in self._views(outputs)), outputs)

    def variance(self, outputs):
        return self._filled((head.variance(view) for head, _, view in self._views(outputs)), outputs)

    def n_outputs(self, d):
        if d != len(self.heads):
            raise ValueError(f"head: Columns has heads of {len(self.heads)} columns, not of {d}")
        return int(self._first[-1])

    def first(self, d):
        return self._first

    def initial(self, x, weights=None):
        answer = np.empty(self._first[-1])
        for head, columns, at, _ in self._parts:
            answer[at] = head.initial(x[:, columns], weights)
        return answer

    def n_inputs(self, d):
        return np.concatenate([head.n_inputs(1) for head in self.heads])

    def inputs(self, x):
        return ops.concatenate([head.inputs(x[:, j:j + 1]) for j, head in enumerate(self.heads)], axis=1)

    def numbers(self, x):
        return self._filled((head.numbers(x[..., _there(columns, x)]) for head, columns, *_ in self._parts), x)

    def values(self, numbers):
        return self._filled((head.values(numbers[..., _there(columns, numbers)]) for head, columns, *_ in self._parts), numbers)

    def of(self, features):
        return Columns([self.heads[j] for j in features])

    def at(self, j):
        return self.heads[j]

    def smooth(self, x):
        return self._filled((head.smooth(x[..., _there(columns, x)]) for head, columns, *_ in self._parts), x)

    def seen(self):
        return Columns([head.seen() for head in self.heads])

    def check(self, x, name, columns=None, shown=None):
        for head, own, *_ in self._parts:
            numbers = own if columns is None else np.asarray(columns)[own]
            head.check(x[:, own], name, numbers, None if shown is None else shown[:, own])


def _there(numbers, x):
    """The numbers of columns where x is, and where they stay."""
    return constant_like(numbers, value_of(x))


def _alike(heads):
    """The columns of heads that are one head of several columns, a list of arrays."""
    groups = {}
    for j, head in enumerate(heads):
        groups.setdefault(type(head).__name__ if isinstance(head, Categorical) else repr(head.config()), []).append(j)
    return [np.array(columns) for columns in groups.values()]


def _joined(heads):
    """One head of the columns of heads that are alike."""
    return Categorical([head.levels[0] for head in heads]) if isinstance(heads[0], Categorical) else heads[0]
