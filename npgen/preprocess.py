"""Invertible maps between the data's own space and the space a model works in, with their log-determinants.

Every map is one object: fit(x), forward(x) -> (z, log_det), inverse(z) -> x, so that

    log p(x) = log p_model(z) + log_det,    log_det = log |det dz/dx|

is always a density of the data as they were given. Floating dtypes are kept; other dtypes become float64. What would
overflow becomes the largest finite number.

Legend: n rows, d columns.
"""
import copy
import functools
import math

import numpy as np

from . import ops
from .checkpoint import LoadError
from .kernels._cuda import asnumpy
from .warn import warn

_MANY_LEVELS = 65536
FAR = 50.0    # robust standard deviations from the median, from which on a column is mapped by a logarithm far out
LIMIT = 5.0   # where that begins, in the same unit
TAIL = 0.1    # its scale: a value 1e6 units out is mapped to 6.6, where a Gaussian still lets it be one row among others
_MANY_ROWS = 20  # that have one value: an atom
_PIXEL_LEVELS = 256  # up to so many levels, columns may share a range
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
        if not ok.all():
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


class Standardize(Preprocessor, name="standardize"):
    """Centre every column and divide it by its standard deviation.

    z = (x - mean) / std,    log_det = -sum_d log std_d

    A column with values far from the rest, more than 50 robust standard deviations (the quartiles' distance / 1.349) from
    the median, would be squeezed by them to a point. Its median and robust standard deviation take the place of mean and
    std, and beyond 5 of these the map goes on as a logarithm, with the same slope:

    z = sign(y) (5 + t log(1 + (|y| - 5) / t)) for y = (x - mean) / std and |y| > 5;    t = 0.1

    so short that no value, however far out, has a say of more than a few rows' in a fit or in where it stops.
    `far_` lists these columns; fit warns, as it does of columns that do not vary, which keep scale 1 and are listed in
    `constant_`.
    """

    _fitted = ("mean_", "std_", "constant_", "far_")

    def fit(self, x, sample_weight=None):
        x = _floating(x)
        weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        weight = weight / weight.sum()
        mean, there = weight @ x, x[weight > 0] if not weight.all() else x
        with np.errstate(over="ignore"):
            std = np.sqrt(weight @ (x - mean) ** 2)
            largest = np.where(np.isfinite(std), 1, np.abs(x).max(axis=0))  # by which the squares do not overflow
            std = std if np.isfinite(std).all() else largest * np.sqrt(weight @ (x / largest - mean / largest) ** 2)
            quartiles = np.array([_quartiles(column, None if sample_weight is None else weight) for column in x.T])
            median, robust = quartiles[:, 1], (quartiles[:, 2] - quartiles[:, 0]) / 1.349
            distance = np.maximum(median - there.min(axis=0), there.max(axis=0) - median)
            far = (robust > 0) & (distance / FAR > robust)
        constant = (np.ptp(there, axis=0) == 0) | (std == 0)
        self.mean_, self.std_ = (np.where(far, a, b).astype(x.dtype) for a, b in ((median, mean), (robust, std)))
        self.std_[constant] = 1
        self.constant_, self.far_ = np.flatnonzero(constant), np.flatnonzero(far)
        for name in ("_log_det", "_limit"):
            vars(self).pop(name, None)
        if constant.any():
            columns = _listed([self._number(j) for j in self.constant_])
            warn(f"Standardize: x does not vary in {columns} (counted from 0), where scale 1 stays and a density is unbounded; "
                 "leave such columns out")
        if far.any():
            columns, j = [self._number(j) for j in self.far_], self.far_[0]
            row = np.where(weight > 0, np.abs(x[:, j] - median[j]), 0).argmax()
            warn(f"Standardize: x[{row}, {columns[0]}] is {x[row, j]:g}, {distance[j] / robust[j]:.2g} robust standard "
                 f"deviations from the median; that far out, a logarithm maps {_listed(columns)} (counted from 0); where such "
                 "values stand for missing ones, fill them or drop their rows")
        return self

    @functools.cached_property
    def _log_det(self):
        return -float(np.log(asnumpy(self.std_), dtype=np.float64).sum())

    @functools.cached_property
    def _limit(self):
        """Where the logarithm begins, (d,)."""
        limit = np.full_like(self.mean_, np.inf)
        limit[self.far_] = LIMIT
        return limit

    def forward(self, x, stream=None):
        return self._mapped(_floating(x, len(self.mean_)), _finite)

    def unchecked(self, x, stream=None):
        return self._mapped(x, lambda z: z)

    def _mapped(self, x, bounded):
        mean, std = (a.astype(x.dtype, copy=False) for a in (self.mean_, self.std_))
        z, log_det = bounded((x - mean) / std), np.full_like(x, self._log_det, shape=(len(x),))
        if self.far_.size:
            size, limit = np.abs(z), self._limit.astype(x.dtype, copy=False)
            beyond = np.log(np.maximum(size - limit, 0) + TAIL) - math.log(TAIL)  # log(1 + u / t): this does not overflow
            z, log_det = np.copysign(np.minimum(size, limit) + TAIL * beyond, z), log_det - np.sum(beyond, axis=1)
        return z, log_det

    def inverse(self, z):
        z = _floating(z, len(self.mean_))
        if self.far_.size:
            size, limit = np.abs(z), self._limit.astype(z.dtype, copy=False)
            z = np.copysign(np.minimum(size, limit) + TAIL * np.expm1(np.maximum(size - limit, 0) / TAIL), z)
        return _finite(z * self.std_.astype(z.dtype, copy=False) + self.mean_.astype(z.dtype, copy=False))

    def _restore(self, arrays):
        super()._restore({"far_": np.empty(0, np.int64), **arrays})  # a file of before has none


class Dequantize(Preprocessor, name="dequantize"):
    """Spread integers evenly over the unit cells they stand for, and scale them into (0, 1).

    z = (k - low + u) / levels,  u uniform on (0, 1),    log_det = -sum_d log levels_d

    The log density of z is one draw of an unbiased estimate of a lower bound on log P(k) (Theis, van den Oord and
    Bethge 2016). Given a stream, u is drawn from it, fresh at each call (training). Without one, u is a hash of
    the row's own integers (of the whole row, behind Columns): the same row has the same noise, so log_prob is a function
    of the row, whatever the order or batches. `inverse` rounds down and clips to the range.

    levels  number of integer values, one for all columns or (d,); 256 means 0..255. None takes each column's range from the
            data. Where more than half of the columns span half the table's range, of up to 256 levels, as pixels do, all
            have the table's range but those that often reach both their own ends (2 % of the rows, and 10)

    Fitted: low_ (d,), the smallest integers, and levels_ (d,). The noise stays 2 levels eps inside its cell, so that no
    rounding moves a value to the next one. Raises ValueError for values that are no integers or out of range.
    """

    exact = False
    _options = ("levels",)
    _fitted = ("low_", "levels_", "n_columns_")

    def __init__(self, *, levels=None):
        self.levels = levels

    def fit(self, x, sample_weight=None):
        x = _floating(x)
        self._require(x, x == np.floor(x), "Dequantize: {} is not an integer; use 'standardize' for real numbers")
        self.n_columns_ = x.shape[1]
        low, levels = _ranges(x) if self.levels is None else (0.0, np.asarray(self.levels, np.float64))
        if np.shape(levels) not in ((), (self.n_columns_,)):
            raise ValueError(f"Dequantize: levels has shape {levels.shape}; give one number, or one for each of "
                             f"{self.n_columns_} columns")
        self.low_, self.levels_ = (np.broadcast_to(a, self.n_columns_).astype(np.float64) for a in (low, levels))
        vars(self).pop("_log_det", None)
        self._check(x)
        return self

    def forward(self, x, stream=None):
        return self.unchecked(self._check(_floating(x, self.n_columns_)), stream)

    def unchecked(self, x, stream=None):
        low, levels = (a.astype(x.dtype, copy=False) for a in (self.low_, self.levels_))
        margin, room = (a.astype(x.dtype, copy=False) for a in (self._margin(x.dtype), 1 - 2 * self._margin(x.dtype)))
        k = x - low
        u = (_RowNoise(ops.stop_gradient(k).astype(np.uint64)) if stream is None else stream).uniform(x.shape, x.dtype, like=x)
        z = (k + (margin + room * u)) / levels
        return z, np.full_like(x, self._log_det, shape=(len(x),))

    @functools.cached_property
    def _log_det(self):
        return -float(np.log(asnumpy(self.levels_)).sum())

    def inverse(self, z):
        z = _floating(z, self.n_columns_)
        low, levels = (a.astype(z.dtype, copy=False) for a in (self.low_, self.levels_))
        return np.clip(np.floor(z * levels), 0, levels - 1) + low

    def _restore(self, arrays):
        super()._restore(arrays)
        for name in ("low_", "levels_"):  # a file of before had one range for all columns
            setattr(self, name, np.broadcast_to(getattr(self, name), self.n_columns_).astype(np.float64))

    def _margin(self, dtype):
        """How far the noise stays inside its cell, (d,)."""
        return 2 * self.levels_ * float(np.finfo(dtype).eps)

    def _check(self, x):
        margin, low, high = asnumpy(self._margin(x.dtype)), self.low_, self.low_ + self.levels_ - 1
        if not ((0 < margin) & (margin < 0.25)).all():
            column = np.argmin((0 < margin) & (margin < 0.25))
            raise ValueError(f"Dequantize: {self.levels_[column]:.0f} levels cannot be told apart in {x.dtype} (column "
                             f"{self._number(column)}); use 'standardize'")
        inside = (x == np.floor(x)) & (x >= low) & (x <= high)
        self._require(x, inside, "Dequantize: {} is not an integer in {low:.0f}..{high:.0f}, the range that fit saw; "
                      "correct it, or set the range with Dequantize(levels=)", low=low, high=high)
        return x


class Logit(Preprocessor, name="logit"):
    """Stretch (0, 1) over the real line, keeping alpha away from both ends.

    s = alpha + (1 - 2 alpha) x,  z = log s - log(1 - s),    log_det = sum_d log(1 - 2 alpha) - log s_d - log(1 - s_d)

    alpha  0 <= alpha < 1/2. With alpha > 0 the ends 0 and 1 are allowed (Dinh, Sohl-Dickstein and Bengio 2017)

    inverse never leaves [0, 1] (the numbers strictly between, with alpha = 0): what a model draws beyond the images of the
    ends, which the data do not reach with alpha > 0, becomes the end. So samples may hold a few more ends than the data,
    while the density keeps that mass beyond them, and its integral over the cube is less than 1 by as much.
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
        self._require(x, (s > 0) & (t > 0), f"Logit: {{}} is out of range for alpha={self.alpha}; scale x into (0, 1)")
        return self.unchecked(x)

    def unchecked(self, x, stream=None):
        s, t = map(np.log, self._squeezed(x))
        return s - t, x.shape[1] * math.log(1 - 2 * self.alpha) - np.sum(s + t, axis=1)

    def _squeezed(self, x):
        """s, and 1 - s without its rounding error."""
        return self.alpha + (1 - 2 * self.alpha) * x, self.alpha + (1 - 2 * self.alpha) * (1 - x)

    def inverse(self, z):
        z = _floating(z, self.n_columns_)
        ends = (0, 1) if self.alpha else (np.finfo(z.dtype).tiny, 1 - np.finfo(z.dtype).epsneg)
        return np.clip(self.unclipped(z), *(z.dtype.type(end) for end in ends))

    def unclipped(self, z):
        """inverse without its bounds: also the numbers next to [0, 1] that a model's density reaches."""
        with np.errstate(under="ignore"):
            e = np.exp(-np.abs(z))
        return (np.where(z >= 0, 1, e) / (1 + e) - self.alpha) / (1 - 2 * self.alpha)


class Log(Preprocessor, name="log"):
    """The natural logarithm of positive columns.

    z = log x,    log_det = -sum_d log x_d

    inverse stays within the positive finite numbers. Raises ValueError for values that are not above 0.
    """

    _fitted = ("n_columns_",)

    def fit(self, x, sample_weight=None):
        self.n_columns_ = _floating(x).shape[1]
        self.forward(x)
        return self

    def forward(self, x, stream=None):
        x = _floating(x, self.n_columns_)
        self._require(x, x > 0, "Log: {} is not above 0; shift or drop its column, or use 'standardize'")
        return self.unchecked(x)

    def unchecked(self, x, stream=None):
        z = np.log(x)
        return z, -np.sum(z, axis=1)

    def inverse(self, z):
        z = _floating(z, self.n_columns_)
        with np.errstate(over="ignore", under="ignore"):
            return np.clip(np.exp(z), np.finfo(z.dtype).smallest_subnormal, np.finfo(z.dtype).max)


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

    def number(self, columns):
        super().number(columns)
        for step in self.steps:
            step.number(columns)

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
        return _prefixed(self.steps)

    def _restore(self, arrays):
        _restore_each(self.steps, arrays)


class Columns(Preprocessor):
    """Maps of some columns each, side by side; columns that none has stay as they are. Their log-determinants add.

    maps     one Preprocessor for each set of columns
    columns  the sets: numbers of columns of x, counted from 0, none of them twice

    Columns(maps=(Log(), Logit()), columns=((0, 2), (3,))). Raises ValueError for columns that x does not have, or twice.
    """

    _options = ("maps", "columns")
    _fitted = ("n_columns_",)

    def __init__(self, *, maps=(), columns=()):
        self.maps, self.columns = maps, columns

    @property
    def exact(self):
        return all(part.exact for part in self.maps)

    def fit(self, x, sample_weight=None):
        x = _floating(x)
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

    def forward(self, x, stream=None):
        return self._through(_floating(x, self.n_columns_), stream, "forward")

    def unchecked(self, x, stream=None):
        return self._through(x, stream, "unchecked")

    def _through(self, x, stream, how):
        stream, log_det = _RowNoise.of(ops.stop_gradient(x)) if stream is None else stream, np.zeros_like(x, shape=(len(x),))
        parts = []
        for part, columns in zip(self.maps, self._sets, strict=True):
            z, more = getattr(part, how)(np.take(x, columns, axis=1), stream)
            parts.append(z)
            log_det = log_det + more
        return self._beside([*parts, np.take(x, self._others, axis=1)]), log_det

    def inverse(self, z):
        z = _floating(z, self.n_columns_)
        parts = [part.inverse(np.take(z, columns, axis=1)) for part, columns in zip(self.maps, self._sets, strict=True)]
        return self._beside([*parts, np.take(z, self._others, axis=1)])

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
        return super().arrays() | _prefixed(self.maps)

    def _restore(self, arrays):
        super()._restore(arrays)
        _restore_each(self.maps, arrays)
        self._arrange()


_CLASSES |= {"Chain": Chain, "Columns": Columns}


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


def make(spec, x, discrete=False):
    """An unfitted preprocessor for `spec`, for rows x (n, d) of a model whose density may be of 0 and 1 (discrete) or not.

    spec  None              the identity
          "dequantize+logit", "log+standardize", ...    names joined with +, first to last: standardize, dequantize, logit, log
          an object         a copy of it
          "auto"            looks at every column: integers of up to 65,536 levels -> "dequantize+logit", those that do not
                            vary only where all columns are integers; anything else -> "standardize". Where all are 0 or 1
                            and the model is discrete -> the identity

    Raises ValueError for a name that does not exist, TypeError for anything else.
    """
    if isinstance(spec, Preprocessor):
        return copy.deepcopy(spec)
    if spec == "auto":
        return _choose(np.asarray(x), discrete)
    if spec is None:
        return Chain()
    if not isinstance(spec, str):
        raise TypeError(f"preprocess is {spec!r}; give None, a name such as 'auto', or a Preprocessor")
    unknown = [name for name in spec.split("+") if name not in _NAMES]
    if unknown:
        raise ValueError(f"preprocess names {unknown[0]!r}; give None, 'auto', or {', '.join(_NAMES)} joined with '+'")
    steps = [_NAMES[name]() for name in spec.split("+")]
    return steps[0] if len(steps) == 1 else Chain(steps=tuple(steps))


def _choose(x, discrete):
    if discrete and np.all((x == 0) | (x == 1)):
        return Chain()
    low, high = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
    whole = np.array([bool((column == np.floor(column)).all()) for column in x.T])
    if x.dtype.kind == "f":  # beyond these all numbers are integers
        whole &= np.maximum(np.abs(low), np.abs(high)) * np.finfo(x.dtype).eps < 1
    integers = whole & (high - low < _MANY_LEVELS)
    if not (integers.all() and (low < high).any()):
        integers &= low < high
    if integers.all() or not integers.any():
        return make("dequantize+logit" if integers.all() else "standardize", x)
    return Columns(maps=(make("dequantize+logit", x), Standardize()),
                   columns=tuple(tuple(np.flatnonzero(which).tolist()) for which in (integers, ~integers)))


def _parts(preprocessor):
    """A map, and all that it is made of."""
    yield preprocessor
    inner = {Chain: "steps", Columns: "maps"}
    for part in next((getattr(preprocessor, inner[cls]) for cls in inner if isinstance(preprocessor, cls)), ()):
        yield from _parts(part)


def _build(config):
    options = dict(config)
    name = options.pop("class", None)
    if name not in _CLASSES:
        raise LoadError(f"preprocess has class {str(name)[:60]!r}; known are {', '.join(_CLASSES)}; if it is one of your own, "
                        "run or import its definition, class ...(Preprocessor, name=...), before load")
    return _CLASSES[name](**{key: _option(value) for key, value in options.items()})


def _option(value):
    """A hyperparameter as it was before JSON: the maps that a map is made of, and tuples."""
    if isinstance(value, dict) and "class" in value:
        return _build(value)
    return tuple(map(_option, value)) if isinstance(value, list) else value


def _prefixed(maps):
    """The arrays of several maps, by the number of the map and their name."""
    return {f"{i}.{name}": value for i, part in enumerate(maps) for name, value in part.arrays().items()}


def _restore_each(maps, arrays):
    for i, part in enumerate(maps):
        prefix = f"{i}."
        part._restore({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})


def _floating(x, n_columns=None):
    x = x if hasattr(x, "dtype") else np.asarray(x)
    x = x if x.dtype.char in "fd" else x.astype(np.float64)
    if x.ndim != 2 or n_columns not in (None, x.shape[1]):
        raise ValueError(f"x has shape {x.shape}; give (n, {n_columns or 'd'})")
    return x


def _finite(x):
    """x with the largest finite number in place of infinity."""
    largest = np.finfo(x.dtype).max
    return np.clip(x, -largest, largest)


def _quartiles(x, weight=None):
    """The values (3,) of x (n,) up to which a quarter, half and three quarters of the weight lie."""
    parts = np.array([0.25, 0.5, 0.75])
    if weight is None:
        at = np.ceil(parts * len(x)).astype(int) - 1
        return np.partition(x, at)[at].astype(np.float64)
    order = np.argsort(x)
    below = np.cumsum(weight[order])
    return x[order[np.searchsorted(below, parts * (1 - 1e-12) * below[-1])]].astype(np.float64)


def warn_of_atoms(method, x, z, columns=None):
    """Warn, once, of columns of x (n, d) that are no continuous variables, where a continuous density is fitted to z (n, d).

    A value is an atom if 20 rows or more have it, and ten times as many as have any of the five nearest other values on either
    side; or if its column has no more than 5 values. Numbers drawn from a density, rounded to a grid or not, have none: if it
    changes by no more than a factor of three between neighbours on the grid, five counts are all below a tenth of a count of
    20 with a probability under 1e-7. Of more than 20,000 rows, as many evenly spaced ones are looked at. Also named are columns
    whose numbers are no finer than a quarter of their standard deviation, or than 1 where all are the same.
    `columns` are x's numbers in the user's table.
    """
    atoms, coarse = {}, {}
    step = -(-len(x) // 20_000)
    for j in range(x.shape[1]):
        some = np.sort(x[::step, j][~np.isnan(z[::step, j])])
        seen = np.sort(z[::step, j][~np.isnan(z[::step, j])])
        if len(seen) < _MANY_ROWS:
            continue
        number, size = j if columns is None else int(columns[j]), float(np.spacing(np.abs(some[len(some) // 2])))
        if size > (some.std(dtype=np.float64) / 4 if some[0] < some[-1] else 0.5):
            coarse[number] = size
        elif seen[0] < seen[-1] and (seen[_MANY_ROWS - 1:] == seen[:1 - _MANY_ROWS]).any():
            values, counts = np.unique(seen, return_counts=True)
            near = np.lib.stride_tricks.sliding_window_view(np.pad(counts, 5), 11)
            lonely = counts >= np.where(len(values) > 5, 10, 0) * np.delete(near, 5, axis=1).max(axis=1)
            counts = np.where(lonely, counts, 0)
            if counts.max() >= _MANY_ROWS:
                at = z[:, j] == values[counts.argmax()]
                atoms[number] = x[at.argmax(), j], at.mean()
    if atoms:
        (column, (value, share)), *_ = atoms.items()
        warn(f"{method}: column {column} of X is {value:g} in {100 * share:.2g} % of the rows, which no continuous density can "
             f"hold ({_listed(list(atoms))}, counted from 0): log_prob has no upper bound there; take a Mixture with other "
             "heads, spread integers by preprocess='dequantize+logit', or drop such columns")
    if coarse:
        (column, size), *_ = coarse.items()
        warn(f"{method}: column {column} of X comes in steps of {size:g}, as {x.dtype} does there, which are wide for its "
             f"spread ({_listed(list(coarse))}, counted from 0): subtract an offset before X is {x.dtype}"
             + (", or pass float64" if x.dtype == np.float32 else ""))


def _listed(columns):
    """"column 3" or "columns 3, 5, ...", for a message."""
    numbers = ", ".join(map(str, columns[:8])) + (", ..." if len(columns) > 8 else "")
    return f"column{'s' if len(columns) > 1 else ''} {numbers}"


def _ranges(x):
    """The smallest integer and the number of levels of every column, (d,) each: Dequantize says which columns share them."""
    low, high = (asnumpy(f(axis=0)).astype(np.float64) for f in (x.min, x.max))
    least, most = low.min(), high.max()
    if most - least < _PIXEL_LEVELS and np.mean(high - low >= (most - least) / 2) > 0.5:
        often = max(10, 0.02 * len(x))
        own = (low < high) & ((x == low).sum(axis=0) >= often) & ((x == high).sum(axis=0) >= often)
        low, high = np.where(own, low, least), np.where(own, high, most)
    return low, high - low + 1


def _mix(h):
    """Scramble 64-bit words: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


class _RowNoise:
    """In a stream's place: uniforms that are a function of each row of words (n, m), unsigned 64-bit integers."""

    def __init__(self, words):
        self._row, self._n_drawn = _mix(words + self._columns(0, words.shape[1], words)), 0
        self._row = _mix(self._row.sum(axis=1, dtype=np.uint64, keepdims=True))

    @classmethod
    def of(cls, x):
        """Of rows of any numbers: float64 and float32 rows that round to the same float32 have the same noise."""
        with np.errstate(over="ignore"):
            return cls((x.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64))  # -0 is 0

    def uniform(self, shape, dtype, like=None):
        """(n, d) in [0, 1), each a hash of its whole row and of how many columns were drawn before it."""
        column = self._columns(self._n_drawn, shape[1], self._row)
        self._n_drawn += shape[1]
        return ((_mix(self._row + column) >> np.uint64(11)) * 2.0**-53).astype(dtype)

    @staticmethod
    def _columns(start, n, like):
        return np.arange(start + 1, start + n + 1, dtype=np.uint64, like=like) * np.uint64(0x9E3779B97F4A7C15)
