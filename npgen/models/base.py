"""The contract of every model: three queries, checked at the door, in the data's own space.

    density          log_prob(X) -> (n,) nats; score(X), its mean
    sampling         sample(n) -> (n, d)
    representation   encode(X) -> (n, l), decode(Z) -> (n, d)

Public methods check and convert; the private ones of the same name are the mathematics. A query runs in the dtype of the
rows it is given, so float64 rows are scored in float64 whatever the model was fitted on.

Legend: n rows, d features, l latent dimensions.
"""
import abc
import copy
import dataclasses
import hashlib
import inspect
import math
import os
import platform
import sys
import time

import numpy as np

from .. import checkpoint, preprocess, train
from ..checkpoint import LoadError
from ..distributions import Categorical
from ..engine import Tensor
from ..kernels import session
from ..kernels._cuda import asarray, asnumpy, is_device_array, require
from ..nn import Parameters
from ..random import Stream, as_stream
from ..version import __version__
from ..warn import warn


class NotFittedError(ValueError, AttributeError):
    """A model was asked something before fit() or load(). What is raised is scikit-learn's error as well, if that is loaded."""

    def __new__(cls, *args):
        theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
        if theirs is not None and not issubclass(cls, theirs):
            cls = type(cls.__name__, (cls, theirs), {"__module__": cls.__module__})
        return super().__new__(cls, *args)


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a model's answers are.

    density         "exact", "bound" (a lower bound on the log-density) or "estimate"
    representation  what encode returns, in words
    invertible      decode(encode(X)) == X
    """

    density: str
    representation: str
    invertible: bool


class Model(abc.ABC):
    """A generative model: fit, log_prob, score, sample, encode, decode, save.

    A constructor takes keyword-only hyperparameters and does no work; what fit learns ends in an underscore. A subclass
    writes _capabilities, n_latent_, _fit, _log_prob, _sample, _encode, _decode, _move, _state and _restore.
    """

    _capabilities: Capabilities

    # ------------------------------------------------------------ hyperparameters

    def get_params(self, deep=True):
        """The constructor's arguments, by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params):
        """Set constructor arguments by name; returns self. Raises ValueError for a name there is none of."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}: choose from {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self):
        default = inspect.signature(type(self)).parameters
        changed = [f"{k}={one_line(v)}" for k, v in self.get_params().items() if repr(v) != repr(default[k].default)]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self):
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags  # only scikit-learn calls this
        return Tags(estimator_type="density_estimator", target_tags=TargetTags(required=False),
                    input_tags=InputTags(allow_nan=self._missing),
                    transformer_tags=TransformerTags(preserves_dtype=["float64", "float32"]))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_features_in_")

    @property
    def feature_names_in_(self):
        """The names of the columns (d,) that the model was fitted on; there are none where X had no names that are strings."""
        if self._names is None:
            raise AttributeError(f"this {type(self).__name__} was not fitted on columns with names")
        return np.array(self._names, dtype=object)

    @property
    def capabilities(self):
        """What this model's answers are (Capabilities); known once it is fitted if preprocessing has a say."""
        preprocessing = getattr(self, "preprocess_", None)
        if preprocessing is not None and not preprocessing.exact and self._capabilities.density == "exact":
            return dataclasses.replace(self._capabilities, density="bound")
        return self._capabilities

    # ------------------------------------------------------------ where it computes

    @property
    def device(self):
        """Where this model computes: "cpu", or "cuda" after to("cuda")."""
        return self._device

    def to(self, device):
        """Go on to compute on "cuda", an NVIDIA GPU through CuPy, or on "cpu"; returns self.

        On "cuda", NumPy arrays in give NumPy arrays out, and CuPy arrays in CuPy arrays out; sample() gives NumPy arrays.
        Fitted attributes are NumPy arrays on both, except params_ and preprocess_. It may be called before fit or after.
        Raises ValueError for another name, npgen.kernels.DeviceError where CuPy, a driver or a device is missing; the model is
        then as it was before, and so it is where a device has too little memory.
        """
        if device not in ("cpu", "cuda"):
            raise ValueError(f"to: device must be 'cpu' or 'cuda', got {device!r}")
        if device == "cuda":
            require()
        moved = copy.copy(self)  # a move that fails, for want of memory, leaves this model where it was
        moved._device = device
        if self.__sklearn_is_fitted__():
            moved._move()
        vars(self).update(vars(moved))
        return self

    def __sklearn_clone__(self):
        from sklearn.base import clone  # only scikit-learn calls this
        return type(self)(**{k: clone(v, safe=False) for k, v in self.get_params(deep=False).items()}).to(self.device)

    def _place(self, array):
        """The array, where this model computes."""
        return asarray(array) if self._device == "cuda" else asnumpy(array)

    def _check_place(self, method, name, X):
        if self._device == "cpu" and is_device_array(X):
            raise TypeError(f"{method}: {name} is on the GPU, but this {type(self).__name__} is on the CPU; move the "
                            f"model there with to('cuda'), or pass {name}.get()")

    # ------------------------------------------------------------ fitting

    def fit(self, X, y=None, *, sample_weight=None, validation_data=None, checkpoint=None, resume=False):
        """Learn from the rows of X (n, d); returns self. y is ignored, there so that pipelines work.

        sample_weight (n,): non-negative. Equal weights are no weights, a row of weight 0 is not there, and an integer weight
        counts as so many copies of its row: in every sum over rows, not in how a gradient's batches are drawn.
        validation_data: rows (m, d), or a tuple (rows, their sample_weight), for models that are trained by gradient: these
        stop training and choose the best epoch in place of validation_fraction of X, and nothing else sees them. For rows
        that come in groups or in an order, of which random ones would be no test.
        checkpoint: a path that the state of the run is written to, after an epoch at most every WRITE_EVERY seconds, and
        when the fit ends, be it by Ctrl-C or an error; with resume=True a run goes on from that file, to the same bits as
        one that never stopped.
        Raises ValueError or TypeError for data that cannot be fitted; the model is then as it was before.
        """
        self._check_place("fit", "X", X)  # what is done once is done on the host, and then all goes to the device at once
        X = asnumpy(X) if is_device_array(X) else X
        x = check_rows("fit", X, dtype=self._default_dtype, minimum=2, missing=self._missing)
        weights, n_seen = check_weights("fit", sample_weight, x), total_weight(sample_weight, x)
        x, weights = _counting(x, weights)
        check_rows("fit", x[:2], minimum=2, missing=self._missing)
        learner = copy.copy(self)  # a fit that fails leaves this model alone
        learner.n_features_in_, learner.dtype_, learner._names = x.shape[1], x.dtype, _column_names("fit", X)
        validation = None if validation_data is None else learner._check_validation(validation_data)
        with session(), Run(checkpoint, resume, self, x, weights, n_seen, validation) as run:
            learner._fit(x, weights, run)
        vars(self).update(vars(learner))
        return self

    # ------------------------------------------------------------ queries

    def log_prob(self, X):
        """log p(x) of every row, (n,) nats, in the data's own space; see `capabilities` for exact, bound or estimate.

        Of rows inside a derivative of npgen.engine it is differentiable: grad(lambda X: np.sum(model.log_prob(X))).
        It is finite, or -inf for a row so far out that the dtype of X does not hold its log-density; never NaN.
        Raises NotFittedError, and ValueError for rows of another width, NaN or infinities.
        """
        if isinstance(X, Tensor):
            return self._tracked_log_prob(X)
        return beyond_numbers(self._rowwise(self._log_prob, self._check("log_prob", X)))

    def _tracked_log_prob(self, X):
        """log_prob inside a derivative: the rows are checked by their value, and noise that stands for a row is constant."""
        value = X
        while isinstance(value, Tensor):
            value = value.value
        if np.isnan(self._check("log_prob", value)).any():
            raise ValueError("log_prob: X has missing values, by which there is no derivative; impute them first")
        with session(), np.errstate(over="ignore", under="ignore"):
            return self._log_prob(X)

    def score_samples(self, X):
        """log_prob under the name that scikit-learn gives it."""
        return self.log_prob(X)

    def score(self, X, y=None, *, sample_weight=None):
        """The mean of log_prob over the rows, weighted if sample_weight (n,) is given; a float, in nats."""
        log_prob = asnumpy(self.log_prob(X))
        weights = check_weights("score", sample_weight, log_prob)
        if not len(log_prob):
            raise ValueError("score: X has no rows; pass at least one")
        if weights is not None:
            log_prob, weights = log_prob[weights > 0], weights[weights > 0]
        return float(np.average(log_prob.astype(np.float64), weights=weights))

    def sample(self, n_samples=1, *, rng=None):
        """Rows drawn from the model, (n_samples, d).

        rng: None goes on with the model's own stream, so that two calls differ; an int, SeedSequence, Generator or
        npgen.random.Stream always gives the same rows. Raises ValueError for a negative n_samples.
        """
        return asnumpy(self._draw(self._sample, n_samples, rng))

    def sample_and_log_prob(self, n_samples=1, *, rng=None):
        """Rows drawn from the model, (n_samples, d), and their log_prob, (n_samples,). rng, errors: see sample."""
        x = self.sample(n_samples, rng=rng)
        return x, self.log_prob(self._named(x))

    def encode(self, X):
        """The representation of every row, (n, l): `capabilities.representation` says what it is. Raises as log_prob does.

        It is never NaN: a number that the dtype of X does not hold is infinite, and a row too far out for float64 is taken for
        one at 1e200, in the space that preprocessing leads to.
        """
        return self._rowwise(self._encode, self._check("encode", X))

    def decode(self, Z):
        """The row that a representation stands for, (n, d), in the data's own space; of extreme ones as encode says.

        Raises ValueError for representations of another width.
        """
        self._check_fitted("decode")
        self._check_place("decode", "Z", Z)
        z = check_rows("decode", Z, dtype=self._default_dtype, name="Z")
        if z.shape[1] != self.n_latent_:
            raise ValueError(f"decode: Z has {z.shape[1]} columns, but this model's representations have {self.n_latent_}")
        return self._rowwise(self._decode, z)

    def transform(self, X):
        """encode under the name that scikit-learn gives it."""
        return self.encode(X)

    def fit_transform(self, X, y=None, **fit_params):
        """fit, then encode the same rows."""
        return self.fit(X, y, **fit_params).encode(X)

    def inverse_transform(self, Z):
        """decode under the name that scikit-learn gives it."""
        return self.decode(Z)

    # ------------------------------------------------------------ files

    def save(self, path):
        """Write the fitted model to one safetensors file; an older file there survives if the write fails.

        Raises NotFittedError, and OSError where the file cannot be written.
        """
        checkpoint.write(path, *self._to_file("save"))

    def _to_file(self, name):
        from . import CLASSES
        self._check_fitted(name)
        mine = type(self).__name__
        if CLASSES.get(mine) is not type(self):
            raise TypeError(f"{name}: {mine} is a class of your own, which load does not know; register it, here and before "
                            f"load: npgen.models.CLASSES[{mine!r}] = {mine}")
        arrays, fitted = self._state()
        header = {"class": type(self).__name__, "params": _params_to_json(self, without=("callbacks",)),
                  "fitted": fitted | {"n_features_in_": self.n_features_in_, "dtype_": self.dtype_.name,
                                      "stream_": self.stream_.state(), "feature_names_in_": self._names},
                  "versions": {"npgen": __version__, "numpy": np.__version__, "python": platform.python_version()}}
        return arrays, header

    @classmethod
    def _from_file(cls, arrays, header):
        """The model that _to_file described; `header` comes from a file and is checked by npgen.load."""
        known = inspect.signature(cls).parameters
        model = cls(**{k: _from_json(v) for k, v in header["params"].items() if k in known})
        fitted = header["fitted"]
        if type(fitted["n_features_in_"]) is not int or fitted["dtype_"] not in ("float32", "float64"):
            raise ValueError(f"n_features_in_ is {fitted['n_features_in_']!r}, dtype_ {fitted['dtype_']!r}")
        model.n_features_in_, model.dtype_ = fitted["n_features_in_"], np.dtype(fitted["dtype_"])
        model.stream_, model._names = Stream.from_state(fitted["stream_"]), fitted["feature_names_in_"]
        if model._names is not None and [type(name) for name in model._names] != [str] * model.n_features_in_:
            raise ValueError(f"feature_names_in_ are no names of {model.n_features_in_} columns")
        model._restore(arrays, fitted)
        return model

    # ------------------------------------------------------------ what a model writes

    random_state = None
    _names = None  # of the columns that the model was fitted on
    _device = "cpu"
    _missing = False  # whether NaN stands for a missing value, or is refused
    _validates = False  # whether fit stops by rows held out
    _default_dtype = np.float32  # of rows that are neither float32 nor float64
    _rows_per_call = 4096  # of a private method: bounds the memory of a query
    _multiple = 4  # that the rows of a query are padded to: a BLAS rounds those left over by other instructions

    @property
    @abc.abstractmethod
    def n_latent_(self):
        """The width of encode's answer."""

    @abc.abstractmethod
    def _fit(self, x, weights, run):
        """Set the fitted attributes, `stream_` among them; x is checked, weights (n,) have mean 1 or are None."""

    @abc.abstractmethod
    def _log_prob(self, x):
        """(n,) nats of checked rows."""

    @abc.abstractmethod
    def _sample(self, n, stream):
        """n rows in the data's own space."""

    @abc.abstractmethod
    def _encode(self, x):
        """(n, l) for checked rows."""

    @abc.abstractmethod
    def _decode(self, z):
        """(n, d) for checked representations."""

    @abc.abstractmethod
    def _move(self):
        """Put what the mathematics uses where the model computes."""

    @abc.abstractmethod
    def _state(self):
        """What fit learned, as (arrays by name, JSON-able dict)."""

    @abc.abstractmethod
    def _restore(self, arrays, fitted):
        """Take back what _state gave."""

    # ------------------------------------------------------------ checks

    def _check_fitted(self, method):
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"{method}: this {type(self).__name__} is not fitted yet; call fit(X) or "
                                 "npgen.load(path) first")

    def _check(self, method, X, name="X"):
        self._check_fitted(method)
        self._check_names(method, X, name)
        self._check_place(method, name, X)
        x = check_rows(method, X, name=name, dtype=self._default_dtype, missing=self._missing)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(f"{method}: {name} has {x.shape[1]} features, but {type(self).__name__} is expecting "
                             f"{self.n_features_in_} features as input")
        return x

    def _check_validation(self, validation_data):
        """The rows and weights of validation_data, checked like X."""
        if not self._validates:
            raise ValueError(f"fit: validation_data is for models trained by gradient, but EM fits a {type(self).__name__} "
                             "and does not stop early; leave it out, and call score on those rows afterwards")
        X, sample_weight = validation_data if isinstance(validation_data, tuple) and len(validation_data) == 2 else \
            (validation_data, None)
        X = asnumpy(X) if is_device_array(X) else X
        x = Model._check(self, "fit", X, name="validation_data")
        with np.errstate(over="ignore"):
            x = check_rows("fit", x.astype(self.dtype_, copy=False), name="validation_data", minimum=1, missing=self._missing)
        return _counting(x, check_weights("fit: validation_data", sample_weight, x))

    def _check_names(self, method, X, name):
        """Refuse columns of other names than in fit, and warn where only one of the two had names, as scikit-learn does."""
        names, known = _column_names(method, X), self._names
        if names is None and known is None or names == known:
            return
        if names is None or known is None:
            has, had = ("has", "without") if known is None else ("does not have valid", "with")
            warn(f"{name} {has} feature names, but {type(self).__name__} was fitted {had} feature names")
            return
        lines = ["The feature names should match those that were passed during fit."]
        for title, some in (("Feature names unseen at fit time", set(names) - set(known)),
                            ("Feature names seen at fit time, yet now missing", set(known) - set(names))):
            lines += [f"{title}:", *(f"- {name}" for name in sorted(some)[:5])] if some else []
            lines += ["- ..."] if len(some) > 5 else []
        if set(names) == set(known):
            lines.append("Feature names must be in the same order as they were in fit.")
        if set(names) >= set(known):
            lines.append("Pass X[list(model.feature_names_in_)].")
        raise ValueError("\n".join(lines) + "\n")

    def _named(self, x):
        """Rows whose columns are those of the fit, under their names."""
        from ..data import Table  # import npgen stays light
        return Table(x, self._names) if self._names else x

    def _draw(self, draw, n_samples, rng):
        self._check_fitted("sample")
        if isinstance(n_samples, bool) or not isinstance(n_samples, (int, np.integer)) or n_samples < 0:
            raise ValueError(f"sample: n_samples must be a non-negative integer, got {n_samples!r}")
        with session():
            return draw(int(n_samples), self.stream_ if rng is None else as_stream(rng))

    def _rowwise(self, function, x, rows=None):
        rows, give = rows or self._rows_per_call, asarray if is_device_array(x) else asnumpy
        answers = []
        with session(), np.errstate(over="ignore", under="ignore", invalid="ignore"):  # see without_overflow
            for i in range(0, max(len(x), 1), rows):
                part = x[i:i + rows]
                answer = function(self._place(self._filled(part)))
                answers.append(give(answer[:len(part)]))
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    def _filled(self, x):
        """The rows, and copies of the last up to a multiple of _multiple."""
        missing = -len(x) % self._multiple
        return np.concatenate([x, x[-1:].repeat(missing, axis=0)]) if missing else x


class ParametricModel(Model):
    """A model that is its parameters, in a space that preprocessing leads to.

    A subclass writes, in that space, _learn, _loss (nats per row, to be minimised), _log_density, _draw_rows, _represent
    and _reconstruct. `params` are Tensors in a training step and arrays in a query.
    """

    preprocess = "auto"
    head_ = None  # the likelihood head of a model that has one
    _takes_bits = False  # whether the density may be one of 0 and 1, as hyperparameters stand

    @abc.abstractmethod
    def _learn(self, x, weights, run):
        """Set params_, history_ and n_epochs_; preprocess_ is fitted."""

    @abc.abstractmethod
    def _loss(self, params, z, stream):
        """(n,) nats per preprocessed row."""

    @abc.abstractmethod
    def _log_density(self, params, z):
        """(n,) log-density of preprocessed rows."""

    @abc.abstractmethod
    def _draw_rows(self, params, n, stream):
        """n rows in the preprocessed space."""

    @abc.abstractmethod
    def _represent(self, params, z):
        """The representation of preprocessed rows."""

    @abc.abstractmethod
    def _reconstruct(self, params, h):
        """The preprocessed rows that representations stand for."""

    def _fit(self, x, weights, run):
        self.stream_ = run.stream.spawn()
        self.preprocess_ = preprocess.make(self.preprocess, x, self._takes_bits).fit(x, sample_weight=weights)
        self._learn(x, weights, run)

    def _options(self):
        names = {field.name for field in dataclasses.fields(train.Options)}
        return train.Options(**{k: v for k, v in self.get_params().items() if k in names})

    def _move(self):
        self.params_, self.preprocess_ = self.params_.to(self._place), self.preprocess_.to(self._place)

    def _descend(self, params, x, weights, run):
        """Follow the gradient of the loss from `params` on."""
        self.params_ = params
        self._move()

        def loss(params, rows, stream):
            z, log_det = self.preprocess_.unchecked(rows, stream)
            return self._loss(params, z, stream) - log_det

        before, validation = run.read(), self._check_space(run.validation)
        x, weights, *validation = (a if a is None else self._place(a) for a in (x, weights, *validation))
        state = train.fit(loss, self.params_, x, weights=weights, validation=tuple(validation), stream=run.stream,
                          options=self._options(), resume=before and train.State.restore(*before, like=x), save=run.write)
        self.history_, self.n_epochs_ = state.history, state.epoch

    def _check_space(self, validation):
        """validation_data, () if there are none. Raises ValueError for rows that preprocessing cannot take."""
        if validation is None:
            return ()
        try:
            self._check_head("fit", validation[0], self.preprocess_.to(asnumpy).forward(validation[0])[0])
        except ValueError as error:
            raise ValueError(f"fit: validation_data: {error}") from None
        return validation

    def _check(self, method, X):
        x = super()._check(method, X)
        if self.head_ is not None and self.head_.discrete:
            maps = self.preprocess_ if is_device_array(x) else self.preprocess_.to(asnumpy)
            self._check_head(method, x, maps.forward(x)[0])
        return x

    def _check_head(self, method, x, z):
        """Raise ValueError, naming a cell of x, unless the head can take z, what preprocessing makes of the rows x."""
        if self.head_ is not None:
            self.head_.check(z, method, shown=x)

    def _n_parameters(self):
        return self.params_.flat.size

    def _at(self, dtype):
        return self.params_ if self.params_.flat.dtype == dtype else self.params_.copy(dtype)

    def _log_prob(self, x):
        return self._in_space(lambda params, z, log_det: self._log_density(params, z) + log_det, x)

    def _in_space(self, function, x, **how):
        """function(params, z, log_det) of the preprocessed rows, by way of without_overflow."""
        return without_overflow(lambda z, log_det: function(self._at(z.dtype), z, log_det), self.preprocess_.forward, x, **how)

    def _sample(self, n, stream):
        return self.preprocess_.inverse(self._draw_rows(self.params_, n, stream))

    def _encode(self, x):
        return self._in_space(lambda params, z, log_det: self._represent(params, z), x, far=FAR)

    def _decode(self, h):
        return without_overflow(lambda h: self.preprocess_.inverse(self._reconstruct(self._at(h.dtype), h)), lambda h: (h,), h,
                                far=FAR)

    def _state(self):
        arrays = {f"params.{name}": a for name, a in self.params_.items()}
        arrays |= {f"preprocess.{name}": a for name, a in self.preprocess_.arrays().items()}
        config = preprocess.to_config(self.preprocess_)
        return arrays, {"preprocess_": config, "params_": list(self.params_), "history_": self.history_}

    def _restore(self, arrays, fitted):
        def named(prefix):
            return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
        self.preprocess_ = preprocess.from_config(fitted["preprocess_"], named("preprocess."))
        params = named("params.")  # a file sorts its arrays; the flat buffer has an order of its own
        self.params_, self.history_ = Parameters({name: params[name] for name in fitted["params_"]}), fitted["history_"]
        self.n_epochs_ = len(self.history_)
        if self.params_.flat.dtype.char not in "fd" or not all(np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("the parameters are not finite floats")
        if np.shape(self.preprocess_.forward(np.ones((0, self.n_features_in_)))[0]) != (0, self.n_features_in_):
            raise ValueError(f"the preprocessing is not of {self.n_features_in_} columns")


class GradientModel(ParametricModel):
    """A model fitted by following the gradient of its loss from fresh parameters on.

    A subclass writes what ParametricModel asks for but _learn, and _build (its layers) and _init (their first parameters);
    what its layers depend on beside the parameters goes into a file by _state, and comes back by _restore.
    """

    @abc.abstractmethod
    def _build(self, z):
        """Set the layers and what depends on the data's kind; z are the preprocessed rows."""

    @abc.abstractmethod
    def _init(self, z, stream):
        """The first parameters, {name: array} of z's dtype; z are the preprocessed rows."""

    _validates = True

    def _learn(self, x, weights, run):
        self._options()  # refuses what it must before the work starts
        self._descend(self._first(x, run.stream), x, weights, run)

    def _first(self, x, stream):
        """The layers built, and their first parameters; all rows in the preprocessed space take memory here only."""
        z = self.preprocess_.forward(x, stream)[0]
        self._build(z)
        self._check_head("fit", x, z)
        if self.head_ is None or not self.head_.discrete:
            preprocess.warn_of_atoms("fit", x, z)
        return Parameters(self._init(z, stream), x.dtype)


WRITE_EVERY = 5.0  # seconds, at least, between two writes of a run's state


class Run:
    """What a fit begins with, or goes on from, and where it writes; the file knows the data and hyperparameters it is of.

    stream      the random numbers of the fit; those that the run in the file began with, if it goes on from one
    n_seen      how many rows there are, or the sum of their weights
    validation  (rows, weights or None) that fit was given to stop by, or None
    As a context manager it writes, at the end, the last state that it was given.
    """

    def __init__(self, path, resume, model, x, weights, n_seen, validation=None):
        self.path, self.n_seen, self.validation, self._before = path, n_seen, validation, None
        self._last, self._due = None, -math.inf  # a state that is not written yet, and when the next is
        if resume and path is None:
            raise ValueError("fit: resume=True needs checkpoint=, the file to go on from")
        try:
            self.stream = as_stream(model.random_state)
        except (TypeError, ValueError) as error:
            raise type(error)(f"random_state: {error}") from None
        if path is None:
            return
        self._header = {"class": "checkpoint", "model": type(model).__name__, "data": _digest(x, weights),
                        "validation": validation and _digest(*validation),
                        "params": _params_to_json(model, without=("max_epochs", "max_iter", "callbacks", "verbose")),
                        "stream": self.stream.state()}
        if resume and os.path.exists(path):
            arrays, header = checkpoint.read(path)
            self._check(header)
            self.stream, self._header["stream"] = Stream.from_state(header["stream"]), header["stream"]
            self._before = arrays, header["state"]

    def _check(self, header):
        for key, wrong in (("class", "holds no training run"), ("model", f"is of a {header.get('model')}"),
                           ("data", "is of other rows or weights"), ("validation", "is of other validation_data")):
            if header.get(key) != self._header[key]:
                raise ValueError(f"fit: the checkpoint {self.path} {wrong}; pass what it was written with, or fit without "
                                 "resume")
        for name, value in self._header["params"].items():
            before = header["params"].get(name)
            if not _same(value, before):
                raise ValueError(f"fit: the checkpoint {self.path} was written with {name}={one_line(before)}, but {name} is "
                                 f"{one_line(value)} now; set it back, or fit without resume")

    def read(self):
        """(arrays, dict) as last written, or None where there is nothing to go on from."""
        return self._before

    def write(self, state):
        """Replace the file by what state.save() gives, unless that was done less than WRITE_EVERY seconds ago."""
        if self.path is not None:
            self._last = state.save()
            if time.monotonic() >= self._due:
                self._write()

    def _write(self):
        arrays, rest = self._last
        checkpoint.write(self.path, arrays, self._header | {"state": rest})
        self._last, self._due = None, time.monotonic() + WRITE_EVERY

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._last is not None:
            self._write()


def _digest(x, weights):
    """A hash of rows and their weights, or None."""
    digest = hashlib.sha256(f"{x.shape} {x.dtype} {weights is None}".encode())
    digest.update(x.view(np.uint8))
    digest.update(b"" if weights is None else weights.view(np.uint8))
    return digest.hexdigest()


FAR = 1e200, 1e100, 1e50, 1e25  # linear maps of such values stay within float64; the square of the first does not


def without_overflow(function, enter, x, *, far=FAR[:1], of=slice(None)):
    """function(*enter(x)), (n,) or (n, m); of rows of which it is NaN, in its columns `of`, that in float64.

    Parameters and rows are finite, so NaN is inf - inf or 0 inf: something overflowed. Numbers that float32 holds do not
    overflow in float64. Where float64 rows do, the first that enter(x) answers is cut to the first of +-far that is in range:
    there a network is as good as linear, and only directions are left of it.
    """
    def overflown(answer):
        return np.isnan(answer if answer.ndim == 1 else answer[:, of])

    answer = function(*enter(x))
    if not answer.size or not np.isnan(answer.min()) or not overflown(answer).any():
        return answer
    z, *rest = enter(x.astype(np.float64))
    for limit in far:
        again = function(np.clip(z, -limit, limit), *rest).astype(answer.dtype)
        wrong = overflown(answer).reshape(len(x), -1).any(axis=1)
        answer = np.where(wrong if answer.ndim == 1 else wrong[:, None], again, answer)
        if not overflown(answer).any():
            break
    return answer


def check_rows(method, X, *, name="X", dtype=None, minimum=0, missing=False):
    """X as a C-contiguous array (n, d) of float32 or float64, other numbers converted to `dtype`.

    Raises TypeError for what is not numbers, ValueError for another shape, too few rows, infinities, and NaN unless it
    may stand for a missing value.
    """
    if np.ma.is_masked(X):
        raise ValueError(f"{method}: {name} has masked values; fill them or drop their rows first")
    if hasattr(X, "toarray"):
        raise TypeError(f"{method}: {name} is a sparse {type(X).__name__}; pass {name}.toarray()")
    try:
        x = X if is_device_array(X) else np.asarray(X)
        if x.dtype == object:
            x = x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{method}: {name} must be a table of numbers, got {type(X).__name__} ({error}); "
                        "convert its columns to numbers first") from None
    if x.dtype.kind == "c":
        raise ValueError(f"{method}: Complex data not supported, {name} has dtype {x.dtype}; pass real and imaginary part as "
                         "columns of their own")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{method}: {name} must hold real numbers, got dtype {x.dtype}; convert it to float first")
    if x.ndim != 2:
        raise ValueError(f"{method}: {name} must have two dimensions, rows and features, got shape {x.shape}; "
                         "Reshape your data to (-1, 1) if it is a single feature, to (1, -1) if it is a single row")
    if x.shape[1] == 0:
        raise ValueError(f"{method}: {name} has 0 feature(s) (shape={x.shape}) while a minimum of 1 is required.")
    if x.shape[0] < minimum:
        raise ValueError(f"{method}: {name} has shape {x.shape}, n_samples={x.shape[0]}; at least {minimum} rows are needed")
    if x.dtype.kind == "f" and x.dtype.itemsize >= 4:  # of any byte order; longer ones become float64
        dtype = np.float32 if x.dtype.itemsize == 4 else np.float64
    with np.errstate(over="ignore"):  # a long double may be infinite then
        x = x.astype(dtype or np.float64, order="C", copy=False)
    size = max(1, 2**20 // x.shape[1])  # a file that is mapped into memory may be far larger than memory
    for low in range(0, len(x), size):
        wrong = np.isinf(x[low:low + size]) if missing else ~np.isfinite(x[low:low + size])
        if wrong.any():
            row, column = np.argwhere(asnumpy(wrong))[0]
            row += low
            raise ValueError(f"{method}: {name}[{row}, {column}] is {x[row, column]}; remove or fill such values first")
    return x


def _column_names(method, X):
    """The names of the columns of a DataFrame (whatever has both `columns` and a shape) if all are strings, else None."""
    names = getattr(X, "columns", None)
    if names is None or not hasattr(X, "shape"):
        return None
    names = list(names)
    strings = [isinstance(name, str) for name in names]
    if any(strings) and not all(strings):
        raise TypeError(f"{method}: Feature names are only supported if all input features have string names, but X has "
                        f"{sorted({type(name).__name__ for name in names})} as feature name / column name types. Convert them "
                        "all to strings by using X.columns = X.columns.astype(str)")
    return [str(name) for name in names] if names and all(strings) else None


def check_widths(name, widths):
    """The widths as a tuple of positive ints. Raises ValueError naming the hyperparameter."""
    widths = tuple(np.atleast_1d(np.asarray(widths, dtype=object)))
    if any(isinstance(w, bool) or not isinstance(w, (int, np.integer)) or w < 1 for w in widths):
        raise ValueError(f"{name} must be made of positive integers, got {widths[0] if len(widths) == 1 else widths!r}")
    return tuple(map(int, widths))


def check_size(params, *networks):
    """Raise ValueError unless a flat array is as long as networks of these widths need, before anything so large is made."""
    widths = [w for network in networks for w in network]
    if any(type(w) is not int or w < 0 for w in widths):
        raise ValueError(f"a network has widths {widths}"[:200])
    need = sum((i + 1) * j for network in networks for i, j in zip(network, network[1:], strict=False))
    if params.shape != (need,):
        raise ValueError(f"parameters of shape {params.shape} for networks that have {need}")


def check_shapes(arrays, shapes):
    """Raise ValueError unless the arrays by name are floats of these shapes."""
    for name, shape in shapes.items():
        a = arrays[name]
        if a.shape != shape or a.dtype.kind != "f":
            raise ValueError(f"{name} has shape {a.shape} and dtype {a.dtype}, not floats of shape {shape}")


def check_order(order, n):
    """Raise ValueError unless the integers are 0..n - 1 in some order: kernels do not check what they index with."""
    if order.dtype != np.int64 or order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(f"the order of {n} columns holds something else")


def beyond_numbers(log_prob):
    """Nats with -inf for NaN, which of finite rows comes of numbers that overflow, far out, where a density vanishes.

    A network is piecewise linear and the scales are bounded, so that x grows no faster than linearly with a flow's or a VAE's
    noise: log p <= a - b |x|^2, which underflows where |x| passes 1e154, long before linear maps overflow at 1e308. MADE's mean
    of a column may follow the columns before it as closely; but a float64 beyond 1e290 is only known to 1e274, and that is
    further from any mean than a square holds.
    """
    log_prob[log_prob != log_prob] = -np.inf
    return log_prob


def read_only(array):
    """The array on the host, as a view that cannot be written to: for attributes that other numbers depend on."""
    view = asnumpy(array).view()
    view.flags.writeable = False
    return view


def check_weights(method, sample_weight, x):
    """Weights (n,) of x's dtype with mean 1 over the rows that count, or None. Raises ValueError."""
    if sample_weight is None:
        return None
    try:
        w = asnumpy(sample_weight)
        if w.dtype.kind == "c":
            raise TypeError
        w = w.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{method}: sample_weight must be numbers, got {type(sample_weight).__name__}") from None
    if w.shape != (len(x),):
        raise ValueError(f"{method}: sample_weight has shape {w.shape}, but X has {len(x)} rows; pass one weight per row")
    if not (np.isfinite(w).all() and (w >= 0).all()):
        i = np.argmin(np.isfinite(w) & (w >= 0))
        raise ValueError(f"{method}: sample_weight[{i}] is {w[i]:g}; weights must be finite, and 0 or more")
    if not w.any():
        raise ValueError(f"{method}: sample_weight is zero everywhere; at least one row must count")
    return (w / w[w > 0].mean()).astype(x.dtype)


def total_weight(sample_weight, x):
    """How many rows of x count, for weights that check_weights takes: their sum, as a row of weight 2 is two rows."""
    return float(len(x) if sample_weight is None else asnumpy(sample_weight).astype(np.float64).sum())


def warn_of_one_gaussian(model):
    """Warn that a model of one column has one peak, whatever the data's."""
    warn(f"fit: a {type(model).__name__} of one column is one Gaussian behind its preprocessing, however many peaks the data "
         "have; for more than one use GaussianMixture(n_components=...)")


def _counting(x, weights):
    """The rows of a weight above 0, and their weights, None where all are equal."""
    if weights is not None and not weights.all():
        x, weights = x[weights > 0], weights[weights > 0]
    return x, weights if weights is not None and np.ptp(weights) else None


def _params_to_json(model, without):
    """The hyperparameters by name, for JSON; a random_state that is no number is not kept."""
    params = {k: v for k, v in model.get_params().items() if k not in without}
    if not isinstance(model.random_state, (int, np.integer)):
        params["random_state"] = None
    return {k: _to_json(k, v) for k, v in params.items()}


def _to_json(name, value):
    if isinstance(value, preprocess.Preprocessor):
        return {"preprocess": preprocess.to_config(value)}
    if isinstance(value, Categorical):
        return {"levels": value.levels[0].tolist()}
    if isinstance(value, np.generic):
        return value.item()
    array = _numbers(value)
    if array is not None:
        return array
    if isinstance(value, (np.ndarray, list, tuple)):
        return [_to_json(name, v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"save: parameter {name}={value!r} cannot be written to a file; use numbers, strings or lists")


def _numbers(value):
    """What is an array, or holds more numbers than JSON is made for, as an array that a file can hold; else None."""
    is_array = hasattr(value, "__array__")
    if not is_array and not isinstance(value, (list, tuple)):
        return None
    try:
        array = asnumpy(value)
        if array.dtype.kind == "O" or array.dtype == np.longdouble:
            array = array.astype(np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" and (is_array or array.size > 1000) else None


def _same(a, b):
    """Are hyperparameters equal, as a file keeps them? Numbers count, not their dtype or order in memory."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return a == b


def one_line(value):
    """repr(value) in one line, of something large the beginning."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _from_json(value):
    if isinstance(value, dict):
        return Categorical(value["levels"]) if "levels" in value else preprocess.from_config(value["preprocess"], {})
    return tuple(_from_json(v) for v in value) if isinstance(value, list) else value


def load(path):
    """The model in a file that save() wrote; nothing in the file is executed, evaluated or imported by name.

    Raises LoadError if the file is missing, truncated, altered or not a model of npgen.
    """
    from . import CLASSES
    arrays, header = checkpoint.read(path)
    name = header.get("class")
    if not isinstance(name, str) or name not in CLASSES:
        kind = "a training checkpoint: fit with resume=True" if str(name) == "checkpoint" else "of an unknown class"
        raise LoadError(f"{path}: holds {one_line(name)}, {kind}; models are {', '.join(CLASSES)}")
    try:
        return CLASSES[name]._from_file(arrays, header)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None
    except Exception as error:  # whatever a forged file leads to
        reason = " ".join(str(error).split())
        raise LoadError(f"{path}: the header and the arrays do not make a {name} "
                        f"({type(error).__name__}: {reason}); fit and save it again") from None
