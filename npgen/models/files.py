"""A model's file: its hyperparameters as JSON and arrays, and load, which makes the model again."""
import inspect
import platform

import numpy as np

from .. import checkpoint, optim, priors, transforms
from ..checkpoint import LoadError
from ..checks import one_line, with_article
from ..divergences import objectives
from ..heads import Head, from_config
from ..kernels._cuda import asnumpy
from ..nn import Parameters
from ..random import Stream
from ..version import __version__
from .context import ContextMap
from .older import completed, upgrade


class Saved:
    """A model that save writes to one file, and load reads: its hyperparameters, params_, preprocess_ and what fit decided."""

    _keeps = {}  # fitted attributes, beside those that _choose gave, that go into a file: name -> its types
    schema_ = None  # of the DataFrame that it was fitted on
    submodels = ()  # fitted attributes that are models of npgen, name_ of the hyperparameter name: their files are in this one
    has_file = True  # whether all that it is made of can be in a file

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
        arrays, fitted = self.state()
        header = {"class": type(self).__name__, "params": params_to_json(self, without=("callbacks",)),
                  "fitted": fitted | {"n_features_in_": self.n_features_in_, "dtype_": self.dtype_.name,
                                      "stream_": self.stream_.state(), "feature_names_in_": self._names}
                  | ({} if self.schema_ is None else {"schema_": self.schema_.config()}),
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
        if fitted.get("schema_") is not None:
            from ..data import Schema  # import npgen stays light
            model.schema_ = Schema.from_config(fitted["schema_"])
            if model.schema_.names != model._names:
                raise ValueError(f"the schema is not of the columns {one_line(model._names)}")
        model._restore(completed(cls.__name__, arrays, fitted), fitted)
        return model

    def state(self):
        """What fit learned, as save writes it: arrays by name, and what JSON can hold, by name."""
        self._check_fitted("state")
        arrays = {f"params.{name}": a for name, a in self.params_.items()}
        arrays |= {f"preprocess.{name}": a for name, a in self.preprocess_.arrays().items()}
        fitted = {"preprocess_": transforms.to_config(self.preprocess_), "params_": list(self.params_),
                  "history_": self.history_, "context_": self.context_ and self.context_.config()}
        kept = {f"{name}_": value for name, value in self._chosen.items()} | {name: getattr(self, name) for name in self._keeps}
        for name, value in kept.items():
            if isinstance(value, dict) and value and all(hasattr(a, "dtype") for a in value.values()):
                arrays |= {f"{name.removesuffix('_')}.{key}": a for key, a in value.items()}
            else:
                (arrays if hasattr(value, "dtype") else fitted)[name] = value
        for name in self.submodels:
            its, fitted[name] = getattr(self, name)._to_file("save")
            arrays |= {f"{name.removesuffix('_')}.{key}": a for key, a in its.items()}
        return arrays, fitted

    def _restore(self, arrays, fitted):
        """Take back what state gave, and make the parts again."""
        def named(prefix):
            return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
        for name in self.submodels:
            prefix = f"{name.removesuffix('_')}."
            setattr(self, name, from_header(arrays, prefix, fitted[name]))
            arrays = {k: a for k, a in arrays.items() if not k.startswith(prefix)}
        fitted = {k: v for k, v in fitted.items() if k not in self.submodels}
        self.preprocess_ = transforms.from_config(fitted["preprocess_"], named("preprocess."))
        params = named("params.")  # a file sorts its arrays; the flat buffer has an order of its own
        self.params_, self.history_ = Parameters({name: params[name] for name in fitted["params_"]}), fitted["history_"]
        self.n_epochs_ = len(self.history_)
        if self.params_.flat.dtype.char not in "fd" or not all(np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("the parameters are not finite floats")
        if np.shape(self.preprocess_.to_noise(None, np.ones((0, self.n_features_in_)))[0]) != (0, self.n_features_in_):
            raise ValueError(f"the preprocessing is not of {self.n_features_in_} columns")
        if fitted.get("context_") is not None:
            self.context_ = ContextMap.from_config(fitted["context_"])
        self._rebuild(arrays, fitted)
        for name, types in self._keeps.items():
            value = fitted.get(name)
            if type(value) not in types:
                raise ValueError(f"{name} is {value!r}"[:200])
            setattr(self, name, value)
        self._finish()

    def _finish(self):
        """Set the attributes that follow from params_."""

    def _rebuild(self, arrays, fitted):
        """Make the parts again from what _choose gave, which must be of the parameters' shapes."""
        others = ("preprocess_", "params_", "history_", "context_", "n_features_in_", "dtype_", "stream_", "feature_names_in_",
                  "schema_")
        chosen = {k.removesuffix("_"): v for k, v in {**fitted, **arrays}.items()
                  if k.endswith("_") and "." not in k and k not in (*others, *self._keeps)}
        for outer, inner in (name.split(".", 1) for name in arrays if "." in name):
            if outer not in ("params", "preprocess", "header"):
                chosen.setdefault(outer, {})[inner] = arrays[f"{outer}.{inner}"]
        self._build({k: tuple(v) if isinstance(v, list) else v for k, v in chosen.items()})
        expected = {name: shape for part in self._parts.values() for name, shape in part.query_shapes().items()}
        found = {name: a.shape for name, a in self.params_.items()}
        if found != expected:
            raise ValueError(f"the parameters have shapes {found}, not {expected}"[:300])


def load(path):
    """The model in a file that save() wrote; nothing in the file is executed, evaluated or imported by name.

    Raises LoadError if the file is missing, truncated, altered or not a model of npgen.
    """
    from . import CLASSES
    arrays, header, number = checkpoint.read_any(path)
    name = header.get("class")
    if not isinstance(name, str) or name not in CLASSES:
        kind = "a training checkpoint: fit with resume=True" if str(name) == "checkpoint" else "of an unknown class"
        raise LoadError(f"{path}: holds {one_line(name)}, {kind}; models are {', '.join(CLASSES)}")
    try:
        return CLASSES[name]._from_file(arrays if number == checkpoint.FORMAT else upgrade(arrays, header), header)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None
    except Exception as error:  # whatever a forged file leads to
        reason = " ".join(str(error).split())
        raise LoadError(f"{path}: the header and the arrays do not make {with_article(name)} "
                        f"({type(error).__name__}: {reason}); fit and save it again") from None


def from_header(arrays, prefix, header):
    """The model whose file is part of another's, its arrays under names that begin so. Raises ValueError for no model."""
    from . import CLASSES
    if header["class"] not in CLASSES:
        raise ValueError(f"{one_line(header['class'])} is no model")
    own = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    return CLASSES[header["class"]]._from_file(own, header)


def params_to_json(model, without):
    """The hyperparameters by name, for JSON; a random_state that is no number is not kept."""
    params = {k: v for k, v in model.get_params(deep=False).items() if k not in without}
    if not isinstance(model.random_state, (int, np.integer)):
        params["random_state"] = None
    return {k: _to_json(k, v) for k, v in params.items()}


def _to_json(name, value):
    if isinstance(value, transforms.Transform):
        return {"preprocess": transforms.to_config(value)}
    if isinstance(value, optim.VALUES):
        return optim.to_config(value)
    if isinstance(value, (priors.Prior, objectives.Objective)):
        return value.config()
    if isinstance(value, Saved):
        return {"model": type(value).__name__, "params": params_to_json(value, without=("callbacks",))}
    if isinstance(value, Head):
        config = value.config()
        return config if isinstance(config, dict) else {"head": config}
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


def from_json(value):
    if isinstance(value, dict) and "model" in value:
        from . import CLASSES
        return CLASSES[value["model"]](**{k: from_json(v) for k, v in value["params"].items()})
    if isinstance(value, dict):
        if "optim" in value:
            return optim.from_config(value)
        if "prior" in value or "objective" in value:
            return (priors if "prior" in value else objectives).from_config(value)
        return transforms.from_config(value["preprocess"], {}) if "preprocess" in value else \
            from_config({"head": "categorical"} | value)  # of which older files have the levels alone
    return tuple(from_json(v) for v in value) if isinstance(value, list) else value


def same(a, b):
    """Are hyperparameters equal, as a file keeps them? Numbers count, not their dtype or order in memory."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return a == b
