"""Columns: transforms of sets of columns, side by side.

Legend: n rows, d columns.
"""
import copy

import numpy as np

from .. import ops
from .base import Transform, floating, prefixed, register, restore_each
from .row_noise import RowNoise


@register
class Columns(Transform):
    """Maps of some columns each, side by side; columns that none has stay as they are. Their log-determinants add.

    maps     one fitted transform (Standardize, Log, ...) for each set of columns
    columns  the sets: numbers of columns of x, counted from 0, none of them twice

    Columns(maps=(Log(), Logit()), columns=((0, 2), (3,))). Raises ValueError for columns that x does not have, or twice.
    """

    _options = ("maps", "columns")
    _fitted = ("n_columns_",)

    def __init__(self, *, maps=(), columns=()):
        self.maps, self.columns = maps, columns

    @property
    def inner(self):
        return tuple(self.maps)

    @property
    def exact(self):
        return all(part.exact for part in self.maps)

    def fit(self, x, sample_weight=None):
        x = floating(x)
        self.n_columns_ = x.shape[1]
        self._arrange()
        for part, columns in zip(self.maps, self._sets, strict=True):
            part.fit(x[:, columns], sample_weight)
        return self

    def _arrange(self):
        """The sets as arrays, the columns that no map has, and the places of all columns where these stand side by side."""
        self._sets = [np.asarray(columns, np.int64).reshape(-1) for columns in self.columns]
        given, every = np.concatenate([*self._sets, np.empty(0, np.int64)]), np.arange(self.n_columns_)
        if len(self._sets) != len(self.maps) or len(set(given)) < len(given) or not np.isin(given, every).all():
            raise ValueError(f"Columns: columns are {self.columns!r}; give one set for each of {len(self.maps)} maps, of "
                             f"numbers from 0 to {self.n_columns_ - 1}, none twice")
        self._others = np.setdiff1d(every, given)
        self._places = np.argsort(np.concatenate([given, self._others]))
        self.number(self._numbers)

    def number(self, columns):
        super().number(columns)
        for part, own in zip(self.maps, self.columns, strict=True):
            part.number([int(self._number(column)) for column in own])

    def to_noise(self, p, x, c=None, stream=None):
        return self._through("to_noise", p, floating(x, self.n_columns_), c, stream)

    def unchecked(self, p, x, c=None, stream=None):
        return self._through("unchecked", p, x, c, stream)

    def _through(self, how, p, x, c, stream):
        stream, log_det = RowNoise.of(ops.stop_gradient(x)) if stream is None else stream, np.zeros_like(x, shape=(len(x),))
        parts = []
        for part, columns in zip(self.maps, self._sets, strict=True):
            z, more = getattr(part, how)(p, np.take(x, columns, axis=1), c, stream)
            parts.append(z)
            log_det = log_det + more
        return self._beside([*parts, np.take(x, self._others, axis=1)]), log_det

    def to_data(self, p, z, c=None):
        z = floating(z, self.n_columns_)
        parts, log_det = [], np.zeros_like(z, shape=(len(z),))
        for part, columns in zip(self.maps, self._sets, strict=True):
            x, more = part.to_data(p, np.take(z, columns, axis=1), c)
            parts.append(x)
            log_det = log_det + more
        return self._beside([*parts, np.take(z, self._others, axis=1)]), log_det

    def _beside(self, parts):
        return np.take(np.concatenate(parts, axis=1), self._places, axis=1)

    def to(self, place):
        moved = copy.copy(self)
        moved.maps = tuple(part.to(place) for part in self.maps)
        moved._sets, moved._others, moved._places = [place(a) for a in self._sets], place(self._others), place(self._places)
        return moved

    def config(self):
        return {"class": "Columns", "maps": [part.config() for part in self.maps],
                "columns": [[int(column) for column in columns] for columns in self.columns]}

    def arrays(self):
        return super().arrays() | prefixed(self.maps)

    def _restore(self, arrays):
        super()._restore(arrays)
        restore_each(self.maps, arrays)
        self._arrange()
