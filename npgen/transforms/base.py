"""Transforms: bijections between the data's own space and the space a model works in, with their log-determinants.

    to_noise(p, x, c) -> z, log |det dz/dx|        to_data(p, z, c) -> x, log |det dx/dz|

so that log p(x) = log p_model(z) + log |det dz/dx| is a density of the data as they were given. A data map (Standardize,
Logit, ...) learns what it needs by fit, and takes no parameters; a step of a flow takes them from p at every call.

Legend: n rows, d features, w columns of context; p {name: array or Tensor}; c context (n, w) or None.
"""
import copy

import numpy as np

from .. import fused
from ..checkpoint import LoadError
from ..kernels._cuda import asnumpy
from ..later import later
from ..nn import Part

ROWS = 2**14  # at once, where a chain's steps see all rows: bounds the memory of their networks
_CLASSES, _NAMES = {}, {}  # registered transforms, by the name of their class and by their own


def _is_same(cls, other):
    """Are these one class, also where a cell or a module has run again and defined it anew?"""
    return (cls.__module__, cls.__qualname__) == (other.__module__, other.__qualname__)


class Transform(Part):
    """The contract: to_noise and to_data, each the inverse of the other; fit, for what a data map learns from rows alone.

    `_options` names its hyperparameters, `_fitted` what fit learns (with a trailing _). A data map is called with None in p's
    place. class Mine(Transform, name="mine") registers one: preprocess="mine" makes one, and a model that has one can be saved,
    and loaded where the class was defined before. Raises ValueError for a name that another transform has.
    """

    exact = True  # log_det makes the density of the data exact; if not, a lower bound
    inner = ()  # the transforms that it is made of
    _options = ()
    _fitted = ()
    _numbers = None  # of its columns in the user's table, for messages; None: 0..d - 1

    def __init_subclass__(cls, *, name=None, **rest):
        super().__init_subclass__(**rest)
        if name is None:
            return
        if not isinstance(name, str) or name == "auto" or not name or "+" in name:
            raise ValueError(f"{cls.__name__}: name is {name!r}; give a word without '+' that is not 'auto'")
        for table, key in ((_CLASSES, cls.__name__), (_NAMES, name)):
            other = table.get(key, cls)
            if not _is_same(other, cls):
                raise ValueError(f"{cls.__name__}: {key!r} is registered already, for {other.__module__}.{other.__qualname__}; "
                                 "give another name")
        _CLASSES[cls.__name__] = _NAMES[name] = cls

    def fit(self, x, sample_weight=None):
        """Learn what a data map needs from x (n, d), with row weights sample_weight (n,); return self."""
        return self

    def to_noise(self, p, x, c=None, stream=None):
        """Data -> noise: x (n, d) -> z (n, d), log |det dz/dx| (n,) in nats. `stream` feeds maps that add noise."""
        raise NotImplementedError

    def unchecked(self, p, x, c=None, stream=None):
        """to_noise, for rows that fit has seen and a training step need not look at again: a GPU would be waited for."""
        return self.to_noise(p, x, c, stream)

    def to_data(self, p, z, c=None):
        """Noise -> data: z (n, d) -> x (n, d), log |det dx/dz| (n,) in nats."""
        raise NotImplementedError

    def data(self, p, z, c=None):
        """x of to_data alone, where its log-determinant would be work of its own."""
        return self.to_data(p, z, c)[0]

    def log_prob(self, p, x, c=None):
        """log N(z; 0, I) + log |det dz/dx|, (n,) nats: the density of x if z is standard normal."""
        z, log_det = self.to_noise(p, x, c)
        return fused.standard_normal_log_prob(z) + log_det

    def statistics(self, p, x, c=None, weights=None):
        """{full name: array} that p has beside the parameters when it is a query's, of training rows x as they come here, of
        weights (n,)."""
        return {}

    def hold(self):
        """Make the ranges that fit has learned hyperparameters, on which fits to some of the rows agree then."""
        for part in self.inner:
            part.hold()

    def number(self, columns):
        """Take note that messages count its columns as these columns of the user's table."""
        self._numbers = columns

    def to(self, place):
        """The same map, its arrays where place(array) puts arrays."""
        moved = copy.copy(self)
        vars(moved).update({k: place(v) for k, v in vars(self).items() if k not in self._options and hasattr(v, "dtype")})
        return moved

    def config(self):
        """The class and hyperparameters, for JSON."""
        options = {name: getattr(self, name) for name in self._options}
        return {"class": type(self).__name__, **{k: v.tolist() if hasattr(v, "dtype") else v for k, v in options.items()}}

    def arrays(self):
        """The fitted values by name, as arrays."""
        return {name: asnumpy(getattr(self, name)) for name in self._fitted if hasattr(self, name)}

    def _restore(self, arrays):
        for name in self._fitted:
            value = arrays[name]
            setattr(self, name, value.item() if value.ndim == 0 else value)

    def _number(self, column):
        return column if self._numbers is None else self._numbers[column]

    def _require(self, x, ok, message, **of_columns):
        """Raise ValueError about the first cell that is not ok; the message may name values of its column, given (d,)."""
        if not later(ok, lambda ok: ~ok.all()) and not ok.all():
            row, column = np.argwhere(~asnumpy(ok))[0]
            number = self._number(column)
            cell = f"{x[row, column]} at x[{row}, {number}] (row {row + 1}, column {number + 1})"
            raise ValueError(message.format(cell, **{name: float(a[column]) for name, a in of_columns.items()}))

    def __getattr__(self, name):
        if name in self._fitted:
            raise AttributeError(f"{type(self).__name__} is not fitted; call fit(x) first")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._options)})"


class Chain(Transform):
    """Transforms one after the other, from data to noise; their log-determinants add. No steps: the identity.

    Chain([Logit(), Standardize()]). fit fits the data maps, each on what those before it make of the rows; init likewise.
    """

    _options = ("steps",)

    def __init__(self, steps=()):
        self.steps = steps

    @property
    def inner(self):
        return tuple(self.steps)

    @property
    def exact(self):
        return all(step.exact for step in self.steps)

    def fit(self, x, sample_weight=None):
        for step, rows in self._walk(None, x, None):
            if step.shapes():  # from here on it is parameters that learn
                break
            step.fit(rows, sample_weight)
        return self

    def shapes(self):
        return {name: shape for step in self.steps for name, shape in step.shapes().items()}

    def query_shapes(self):
        return {name: shape for step in self.steps for name, shape in step.query_shapes().items()}

    def init(self, z, c, stream, weights=None):
        p = {}
        for step, rows in self._walk(p, z, c):
            p |= step.init(rows, c, stream, weights)
        return p

    def statistics(self, p, x, c=None, weights=None):
        p, found = dict(p), {}
        for step, rows in self._walk(p, x, c):
            found |= step.statistics(p, rows, c, weights)
            p |= found
        return found

    def _walk(self, p, x, c):
        """Every step, and what those before it make of the rows, by what p has when they are asked for."""
        for i, step in enumerate(self.steps):
            if i:
                x = np.concatenate([self.steps[i - 1].to_noise(p, x[k:k + ROWS], c if c is None else c[k:k + ROWS])[0]
                                    for k in range(0, max(len(x), 1), ROWS)])
            yield step, x

    def to_noise(self, p, x, c=None, stream=None):
        x = floating(x)
        nothing = np.broadcast_to(np.zeros_like(x, shape=(1,)), (len(x),))  # takes no memory, however many rows
        return self._through("to_noise", p, x, c, stream, nothing)

    def unchecked(self, p, x, c=None, stream=None):
        return self._through("unchecked", p, x, c, stream, np.zeros_like(x, shape=(len(x),)))  # takes less time

    def _through(self, how, p, z, c, stream, log_det):
        for step in self.steps:
            z, more = getattr(step, how)(p, z, c, stream)
            log_det = log_det + more
        return z, log_det

    def number(self, columns):
        super().number(columns)
        for step in self.steps:
            step.number(columns)

    def to(self, place):
        return Chain(steps=tuple(step.to(place) for step in self.steps))

    def to_data(self, p, z, c=None):
        x = floating(z)
        log_det = np.broadcast_to(np.zeros_like(x, shape=(1,)), (len(x),))
        for step in reversed(self.steps):
            x, more = step.to_data(p, x, c)
            log_det = log_det + more
        return x, log_det

    def data(self, p, z, c=None):
        x = floating(z)
        for step in reversed(self.steps):
            x = step.data(p, x, c)
        return x

    def log_prob(self, p, x, c=None):
        if not self.steps:
            return fused.standard_normal_log_prob(x)
        z, log_det = Chain(self.steps[:-1]).to_noise(p, x, c)
        return self.steps[-1].log_prob(p, z, c) + log_det

    def config(self):
        return {"class": "Chain", "steps": [step.config() for step in self.steps]}

    def arrays(self):
        return prefixed(self.steps)

    def _restore(self, arrays):
        restore_each(self.steps, arrays)


_CLASSES["Chain"] = Chain


class Inverse(Transform):
    """A transform the other way round: to_noise is its to_data. Inverse(Autoregressive(...)) is an IAF's step."""

    def __init__(self, transform):
        self.transform, self.inner = transform, (transform,)

    def shapes(self):
        return self.transform.shapes()

    def init(self, z, c, stream, weights=None):
        return self.transform.init(z, c, stream, weights)

    def to(self, place):
        return Inverse(self.transform.to(place))

    def to_noise(self, p, x, c=None, stream=None):
        return self.transform.to_data(p, x, c)

    def to_data(self, p, z, c=None):
        return self.transform.to_noise(p, z, c)


def register(cls):
    """Take note of a class that files name and preprocess= does not."""
    _CLASSES[cls.__name__] = cls
    return cls


def named(name):
    """A transform of this name, as preprocess= has it. Raises ValueError if there is none."""
    if name not in _NAMES:
        raise ValueError(f"preprocess names {name!r}; give None, 'auto', or {', '.join(_NAMES)} joined with '+'")
    return _NAMES[name]()


def to_config(transform):
    """The transform's config(), for a file. Raises TypeError for one that from_config would not make again."""
    config, name = transform.config(), type(transform).__name__
    for part in _parts(transform):
        mine = type(part).__name__
        if not _is_same(_CLASSES.get(mine, object), type(part)):
            raise TypeError(f"preprocess: {mine} is not registered, so that a file with one could not be loaded; define it as "
                            f"class {mine}(Transform, name={mine.lower()!r})")
    try:
        _build(config)
    except Exception as error:  # whatever a constructor raises
        raise TypeError(f"preprocess: {name} cannot be made again from its config() ({error}); name its hyperparameters in "
                        "_options, and keep each as an attribute") from None
    return config


def from_config(config, arrays):
    """The transform that gave `config()` and `arrays()`; not fitted if arrays is empty.

    Raises LoadError, a ValueError, for a class that is not registered.
    """
    transform = _build(config)
    if arrays:
        transform._restore(arrays)
    return transform


def _parts(transform):
    """A transform, and all that it is made of."""
    yield transform
    for part in transform.inner:
        yield from _parts(part)


def _build(config):
    options = dict(config)
    name = options.pop("class", None)
    if name not in _CLASSES:
        raise LoadError(f"preprocess has class {str(name)[:60]!r}; known are {', '.join(_CLASSES)}; if it is one of your own, "
                        "run or import its definition, class ...(Transform, name=...), before load")
    return _CLASSES[name](**{key: _option(value) for key, value in options.items()})


def _option(value):
    """A hyperparameter as it was before JSON: the maps that a map is made of, and tuples."""
    if isinstance(value, dict) and "class" in value:
        return _build(value)
    return tuple(map(_option, value)) if isinstance(value, list) else value


def prefixed(maps):
    """The arrays of several maps, by the number of the map and their name."""
    return {f"{i}.{name}": value for i, part in enumerate(maps) for name, value in part.arrays().items()}


def restore_each(maps, arrays):
    """The inverse of prefixed."""
    for i, part in enumerate(maps):
        prefix = f"{i}."
        part._restore({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})


def floating(x, n_columns=None):
    """x (n, d) in a floating dtype. Raises ValueError for another shape."""
    x = x if hasattr(x, "dtype") else np.asarray(x)
    x = x if x.dtype.char in "fd" else x.astype(np.float64)
    if x.ndim != 2 or n_columns not in (None, x.shape[1]):
        raise ValueError(f"x has shape {x.shape}; give (n, {n_columns or 'd'})")
    return x


def finite(x):
    """x with the largest finite number in place of infinity."""
    largest = np.finfo(x.dtype).max
    return np.clip(x, -largest, largest)


def listed(columns):
    """"column 3" or "columns 3, 5, ...", for a message."""
    numbers = ", ".join(map(str, columns[:8])) + (", ..." if len(columns) > 8 else "")
    return f"column{'s' if len(columns) > 1 else ''} {numbers}"
