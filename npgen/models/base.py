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
import inspect
import platform
import sys

import numpy as np

from .. import checkpoint
from ..checks import check_constant, check_rows, check_weights, column_names, counting, one_line, total_weight
from ..engine import Tensor
from ..kernels import session
from ..kernels._cuda import asarray, asnumpy, is_device_array, require
from ..random import Stream, as_stream
from ..version import __version__
from ..warn import warn
from .files import from_json, params_to_json
from .overflow import beyond_numbers
from .run import Run


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
        x, weights = counting(x, weights)
        check_rows("fit", x[:2], minimum=2, missing=self._missing)
        learner = copy.copy(self)  # a fit that fails leaves this model alone
        learner.n_features_in_, learner.dtype_, learner._names = x.shape[1], x.dtype, column_names("fit", X)
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
        check_constant("score", X)
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
        header = {"class": type(self).__name__, "params": params_to_json(self, without=("callbacks",)),
                  "fitted": fitted | {"n_features_in_": self.n_features_in_, "dtype_": self.dtype_.name,
                                      "stream_": self.stream_.state(), "feature_names_in_": self._names},
                  "versions": {"npgen": __version__, "numpy": np.__version__, "python": platform.python_version()}}
        return arrays, header

    @classmethod
    def _from_file(cls, arrays, header):
        """The model that _to_file described; `header` comes from a file and is checked by npgen.load."""
        known = inspect.signature(cls).parameters
        model = cls(**{k: from_json(v) for k, v in header["params"].items() if k in known})
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
        return counting(x, check_weights("fit: validation_data", sample_weight, x))

    def _check_names(self, method, X, name):
        """Refuse columns of other names than in fit, and warn where only one of the two had names, as scikit-learn does."""
        names, known = column_names(method, X), self._names
        if names is None and known is None or names == known:
            return
        if names is None or known is None:
            has, had = ("has", "without") if known is None else ("does not have valid", "with")
            warn(f"{name} {has} feature names, but {type(self).__name__} was fitted {had} feature names")
            return
        if name == "X":  # in scikit-learn's words
            lines = ["The feature names should match those that were passed during fit."]
            titles = "Feature names unseen at fit time", "Feature names seen at fit time, yet now missing"
            order, select = "they were in fit", "X[list(model.feature_names_in_)]"
        else:
            lines = [f"{method}: the feature names of {name} should match those of X."]
            titles = "Feature names that X has not", f"Feature names of X, yet not of {name}"
            order, select = "those of X", f"{name}[list(X.columns)]"
        for title, some in zip(titles, (set(names) - set(known), set(known) - set(names)), strict=True):
            lines += [f"{title}:", *(f"- {name}" for name in sorted(some)[:5])] if some else []
            lines += ["- ..."] if len(some) > 5 else []
        if set(names) == set(known):
            lines.append(f"Feature names must be in the same order as {order}.")
        if set(names) >= set(known):
            lines.append(f"Pass {select}.")
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
