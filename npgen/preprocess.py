"""Invertible maps between the data's own space and the space a model works in, with their log-determinants.

Every map is one object: fit(x), forward(x) -> (z, log_det), inverse(z) -> x, so that

    log p(x) = log p_model(z) + log_det,    log_det = log |det dz/dx|

is always a density of the data as they were given. Floating dtypes are kept; other dtypes become float64.

Legend: n rows, d columns.
"""
import copy
import functools
import math
import warnings

import numpy as np

from .checkpoint import LoadError
from .kernels._cuda import asnumpy

_MANY_LEVELS = 65536
_CLASSES, _NAMES = {}, {}  # registered maps, by the name of their class and by their own


def _is_same(cls, other):
    """Are these one class, also where a cell or a module has run again and defined it anew?"""
    return (cls.__module__, cls.__qualname__) == (other.__module__, other.__qualname__)


class Preprocessor:
    """The contract of a map. `_options` names its hyperparameters, `_fitted` what fit learns (with a trailing _).

    class Mine(Preprocessor, name="mine") registers a map: preprocess="mine" makes one, and a model that has one can be saved,
    and loaded where the class was defined before. Raises ValueError for a name that another map has.
    """

    exact = True  # log_det makes the density of the data exact; if not, a lower bound
    _options = ()
    _fitted = ()

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
        """Learn what the map needs from x (n, d), with row weights sample_weight (n,); return self."""
        raise NotImplementedError

    def forward(self, x, stream=None):
        """Map data to model space: x (n, d) -> z (n, d), log_det (n,) in nats. `stream` feeds maps that add noise."""
        raise NotImplementedError

    def unchecked(self, x, stream=None):
        """forward, for rows that fit has seen and a training step need not look at again: a GPU would be waited for."""
        return self.forward(x, stream)

    def inverse(self, z):
        """Map model space to data: z (n, d) -> x (n, d)."""
        raise NotImplementedError

    def to(self, place):
        """The same map, its arrays where place(array) puts arrays."""
        moved = copy.copy(self)
        vars(moved).update({k: place(v) for k, v in vars(self).items() if k in self._fitted and hasattr(v, "dtype")})
        return moved

    def config(self):
        """The class and hyperparameters, for JSON."""
        return {"class": type(self).__name__, **{name: getattr(self, name) for name in self._options}}

    def arrays(self):
        """The fitted values by name, as arrays."""
        return {name: asnumpy(getattr(self, name)) for name in self._fitted if hasattr(self, name)}

    def _restore(self, arrays):
        for name in self._fitted:
            value = arrays[name]
            setattr(self, name, value.item() if value.ndim == 0 else value)

    def __getattr__(self, name):
        if name in self._fitted:
            raise AttributeError(f"{type(self).__name__} is not fitted; call fit(x) first")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._options)})"


class Standardize(Preprocessor, name="standardize"):
    """Centre every column and divide it by its standard deviation.

    z = (x - mean) / std,    log_det = -sum_d log std_d

    Columns that do not vary keep scale 1; `constant_` lists them and `fit` warns.
    """

    _fitted = ("mean_", "std_", "constant_")

    def fit(self, x, sample_weight=None):
        x = _floating(x)
        weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        weight = weight / weight.sum()
        mean = weight @ x
        std = np.sqrt(weight @ (x - mean) ** 2)
        constant = (np.ptp(x[weight > 0], axis=0) == 0) | (std == 0)
        self.mean_, self.std_ = mean.astype(x.dtype), np.where(constant, 1, std).astype(x.dtype)
        self.constant_ = np.flatnonzero(constant)
        vars(self).pop("_log_det", None)
        if constant.any():
            warnings.warn(f"Standardize: x does not vary in columns {_first_few(self.constant_)} (counted from 0), "
                          "which keep scale 1; a density is unbounded there, so leave them out", stacklevel=2)
        return self

    @functools.cached_property
    def _log_det(self):
        return -float(np.log(asnumpy(self.std_), dtype=np.float64).sum())

    def forward(self, x, stream=None):
        x = _floating(x, len(self.mean_))
        mean, std = (a.astype(x.dtype, copy=False) for a in (self.mean_, self.std_))
        return (x - mean) / std, np.full_like(x, self._log_det, shape=(len(x),))

    def inverse(self, z):
        z = _floating(z, len(self.mean_))
        return z * self.std_.astype(z.dtype, copy=False) + self.mean_.astype(z.dtype, copy=False)


class Dequantize(Preprocessor, name="dequantize"):
    """Spread integers evenly over the unit cells they stand for, and scale them into (0, 1).

    z = (k - low + u) / levels,  u uniform on (0, 1),    log_det = -d log(levels)

    The log density of z is one draw of an unbiased estimate of a lower bound on log P(k) (Theis, van den Oord and
    Bethge 2016). Given a stream, u is drawn from it, fresh at each call (training). Without one, u is a hash of
    the row's own integers: the same row has the same noise, so log_prob is a function of the row, whatever the order
    or batches. `inverse` rounds down and clips to the range.

    levels  number of integer values; 256 means 0..255. None takes the range from the data

    Fitted: low_ (the smallest integer) and levels_. The noise stays 2 levels eps inside its cell, so that no rounding
    moves a value to the next one. Raises ValueError for values that are no integers or out of range.
    """

    exact = False
    _options = ("levels",)
    _fitted = ("low_", "levels_", "n_columns_")

    def __init__(self, *, levels=None):
        self.levels = levels

    def fit(self, x, sample_weight=None):
        x = _floating(x)
        _require(x, x == np.floor(x), "Dequantize: {} is not an integer; use 'standardize' for real numbers")
        self.low_ = int(x.min()) if self.levels is None else 0
        self.levels_ = int(x.max()) - self.low_ + 1 if self.levels is None else int(self.levels)
        self.n_columns_ = x.shape[1]
        self._margin(x.dtype)
        self._check(x)
        return self

    def forward(self, x, stream=None):
        return self.unchecked(self._check(_floating(x, self.n_columns_)), stream)

    def unchecked(self, x, stream=None):
        k = x - self.low_
        u = _hashed_uniform(k).astype(x.dtype) if stream is None else stream.uniform(x.shape, x.dtype, like=x)
        margin = self._margin(x.dtype)
        z = (k + (margin + (1 - 2 * margin) * u)) / self.levels_
        return z, np.full_like(x, -self.n_columns_ * math.log(self.levels_), shape=(len(x),))

    def inverse(self, z):
        z = _floating(z, self.n_columns_)
        return np.clip(np.floor(z * self.levels_), 0, self.levels_ - 1) + self.low_

    def _margin(self, dtype):
        margin = 2 * self.levels_ * float(np.finfo(dtype).eps)
        if not 0 < margin < 0.25:
            raise ValueError(f"Dequantize: {self.levels_} levels cannot be told apart in {dtype}; use 'standardize'")
        return margin

    def _check(self, x):
        high = self.low_ + self.levels_ - 1
        inside = (x == np.floor(x)) & (x >= self.low_) & (x <= high)
        _require(x, inside, f"Dequantize: {{}} is not an integer in {self.low_}..{high}, the range that fit saw; "
                            "correct it, or set the range with Dequantize(levels=)")
        return x


class Logit(Preprocessor, name="logit"):
    """Stretch (0, 1) over the real line, keeping alpha away from both ends.

    s = alpha + (1 - 2 alpha) x,  z = log s - log(1 - s),    log_det = sum_d log(1 - 2 alpha) - log s_d - log(1 - s_d)

    alpha  0 <= alpha < 1/2. With alpha > 0 the ends 0 and 1 are allowed (Dinh, Sohl-Dickstein and Bengio 2017)

    Raises ValueError for values outside the open interval that the map can take.
    """

    _options = ("alpha",)
    _fitted = ("n_columns_",)

    def __init__(self, *, alpha=0.05):
        self.alpha = alpha

    def fit(self, x, sample_weight=None):
        if not 0 <= self.alpha < 0.5:
            raise ValueError(f"Logit: alpha is {self.alpha}; give 0 <= alpha < 0.5")
        self.n_columns_ = _floating(x).shape[1]
        self.forward(x)
        return self

    def forward(self, x, stream=None):
        x = _floating(x, self.n_columns_)
        s, t = self._squeezed(x)
        _require(x, (s > 0) & (t > 0), f"Logit: {{}} is out of range for alpha={self.alpha}; scale x into (0, 1)")
        return self.unchecked(x)

    def unchecked(self, x, stream=None):
        s, t = map(np.log, self._squeezed(x))
        return s - t, x.shape[1] * math.log(1 - 2 * self.alpha) - np.sum(s + t, axis=1)

    def _squeezed(self, x):
        """s, and 1 - s without its rounding error."""
        return self.alpha + (1 - 2 * self.alpha) * x, self.alpha + (1 - 2 * self.alpha) * (1 - x)

    def inverse(self, z):
        z = _floating(z, self.n_columns_)
        e = np.exp(-np.abs(z))
        return (np.where(z >= 0, 1, e) / (1 + e) - self.alpha) / (1 - 2 * self.alpha)


class Chain(Preprocessor):
    """Maps one after the other, from data to model; their log-determinants add. No steps: the identity."""

    _options = ("steps",)

    def __init__(self, *, steps=()):
        self.steps = steps

    @property
    def exact(self):
        return all(step.exact for step in self.steps)

    def fit(self, x, sample_weight=None):
        for i, step in enumerate(self.steps):
            x = x if i == 0 else self.steps[i - 1].forward(x)[0]
            step.fit(x, sample_weight)
        return self

    def forward(self, x, stream=None):
        x = _floating(x)
        nothing = np.broadcast_to(np.zeros_like(x, shape=(1,)), (len(x),))  # takes no memory, however many rows
        return self._through(x, nothing, stream, "forward")

    def unchecked(self, x, stream=None):
        return self._through(x, np.zeros_like(x, shape=(len(x),)), stream, "unchecked")  # takes less time

    def _through(self, z, log_det, stream, how):
        for step in self.steps:
            z, more = getattr(step, how)(z, stream)
            log_det = log_det + more
        return z, log_det

    def to(self, place):
        return Chain(steps=tuple(step.to(place) for step in self.steps))

    def inverse(self, z):
        x = _floating(z)
        for step in reversed(self.steps):
            x = step.inverse(x)
        return x

    def config(self):
        return {"class": "Chain", "steps": [step.config() for step in self.steps]}

    def arrays(self):
        return {f"{i}.{name}": value for i, step in enumerate(self.steps) for name, value in step.arrays().items()}

    def _restore(self, arrays):
        for i, step in enumerate(self.steps):
            prefix = f"{i}."
            step._restore({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})


_CLASSES["Chain"] = Chain


def to_config(preprocessor):
    """The preprocessor's config(), for a file. Raises TypeError for one that from_config would not make again."""
    config, name = preprocessor.config(), type(preprocessor).__name__
    for part in _parts(preprocessor):
        mine = type(part).__name__
        if not _is_same(_CLASSES.get(mine, object), type(part)):
            raise TypeError(f"preprocess: {mine} is not registered, so that a file with one could not be loaded; define it as "
                            f"class {mine}(Preprocessor, name={mine.lower()!r})")
    try:
        _build(config)
    except Exception as error:  # whatever a constructor raises
        raise TypeError(f"preprocess: {name} cannot be made again from its config() ({error}); name its hyperparameters in "
                        "_options, and keep each as an attribute") from None
    return config


def from_config(config, arrays):
    """The preprocessor that gave `config()` and `arrays()`; not fitted if arrays is empty.

    Raises LoadError, a ValueError, for a class that is not registered.
    """
    preprocessor = _build(config)
    if arrays:
        preprocessor._restore(arrays)
    return preprocessor


def make(spec, x):
    """An unfitted preprocessor for `spec`.

    spec  None              the identity
          "dequantize+logit", "standardize", ...    names joined with +, first to last
          an object         a copy of it
          "auto"            looks at x (n, d): only 0 and 1 -> the identity; other integers of 3 to 65,536 levels ->
                            "dequantize+logit"; anything else -> "standardize"

    Raises ValueError for a name that does not exist, TypeError for anything else.
    """
    if isinstance(spec, Preprocessor):
        return copy.deepcopy(spec)
    if spec == "auto":
        spec = _choose(np.asarray(x))
    if spec is None:
        return Chain()
    if not isinstance(spec, str):
        raise TypeError(f"preprocess is {spec!r}; give None, a name such as 'auto', or a Preprocessor")
    unknown = [name for name in spec.split("+") if name not in _NAMES]
    if unknown:
        raise ValueError(f"preprocess names {unknown[0]!r}; give None, 'auto', or {', '.join(_NAMES)} joined with '+'")
    steps = [_NAMES[name]() for name in spec.split("+")]
    return steps[0] if len(steps) == 1 else Chain(steps=tuple(steps))


def _choose(x):
    levels = 0 if x.dtype.kind == "f" and not np.all(x == np.floor(x)) else float(x.max()) - float(x.min()) + 1
    if levels and x.min() >= 0 and x.max() <= 1:
        return None
    return "dequantize+logit" if 2 < levels <= _MANY_LEVELS else "standardize"


def _parts(preprocessor):
    """A map, and all that it is made of."""
    yield preprocessor
    for step in preprocessor.steps if isinstance(preprocessor, Chain) else ():
        yield from _parts(step)


def _build(config):
    options = dict(config)
    name = options.pop("class", None)
    if name not in _CLASSES:
        raise LoadError(f"preprocess has class {str(name)[:60]!r}; known are {', '.join(_CLASSES)}; if it is one of your own, "
                        "run or import its definition, class ...(Preprocessor, name=...), before load")
    if name == "Chain":
        options["steps"] = tuple(_build(step) for step in options["steps"])
    return _CLASSES[name](**options)


def _floating(x, n_columns=None):
    x = x if hasattr(x, "dtype") else np.asarray(x)
    x = x if x.dtype.char in "fd" else x.astype(np.float64)
    if x.ndim != 2 or n_columns not in (None, x.shape[1]):
        raise ValueError(f"x has shape {x.shape}; give (n, {n_columns or 'd'})")
    return x


def _require(x, ok, message):
    if not ok.all():
        row, column = np.argwhere(~asnumpy(ok))[0]
        raise ValueError(message.format(f"{x[row, column]} at x[{row}, {column}] (row {row + 1}, column {column + 1})"))


def _first_few(columns):
    return ", ".join(map(str, columns[:8])) + (", ..." if len(columns) > 8 else "")


def _mix(h):
    """Scramble 64-bit words: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def _hashed_uniform(k):
    """Uniforms in [0, 1) from the integers k >= 0 (n, d), each a hash of its whole row and its column."""
    column = np.arange(1, k.shape[1] + 1, dtype=np.uint64, like=k) * np.uint64(0x9E3779B97F4A7C15)
    row = _mix(k.astype(np.uint64) + column).sum(axis=1, dtype=np.uint64, keepdims=True)
    return (_mix(_mix(row) + column) >> np.uint64(11)) * 2.0**-53
