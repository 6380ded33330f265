"""scikit-learn's conventions, without scikit-learn: hyperparameters, what is fitted, the names of columns."""
import copy
import dataclasses
import inspect
import sys

import numpy as np

from ..checks import check_rows, column_names, one_line, read_only
from ..warn import warn


class NotFittedError(ValueError, AttributeError):
    """A model was asked something before fit() or load(). What is raised is scikit-learn's error as well, if that is loaded."""

    def __new__(cls, *args):
        theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
        if theirs is not None and not issubclass(cls, theirs):
            cls = type(cls.__name__, (cls, theirs), {"__module__": cls.__module__})
        return super().__new__(cls, *args)


class Follows:
    """An attribute that follows from what was learned: arrays cannot be written to, and no other value set in its place."""

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, model, owner=None):
        if model is None:
            return self
        if self._name not in vars(model):
            raise AttributeError(f"this {type(model).__name__} has no {self._name} before it is fitted")
        value = vars(model)[self._name]
        if isinstance(value, tuple) and any(isinstance(each, np.ndarray) for each in value):
            return tuple(map(read_only, value))
        return read_only(value) if hasattr(value, "dtype") else value

    def __set__(self, model, value):
        kind = type(model).__name__
        what = f"make one that you know with {kind}.from_parameters" if hasattr(model, "from_parameters") else "fit it anew"
        raise AttributeError(f"{self._name} follows from what this {kind} has learned and cannot be set; {what}")


class Estimator:
    """Hyperparameters are fields, which a class annotates; its constructor takes them by name and does no work.

    class Mine(Estimator): width: int = 3    makes Mine(width=4), get_params, set_params and help(Mine) know width.
    """

    _names = None  # of the columns that it was fitted on

    def __init_subclass__(cls, **rest):
        super().__init_subclass__(**rest)
        own, inherited = "__init__" in vars(cls), super(cls, cls).__init__
        made = inherited is object.__init__ or getattr(inherited, "of_fields", False)  # not written by hand in a class above
        dataclasses.dataclass(kw_only=True, eq=False, repr=False, init=made)(cls)
        if made and not own:
            cls.__init__.of_fields = True
        cls.__signature__ = _own_first(cls)

    def get_params(self, deep=True):
        """The constructor's arguments, by name; deep: those of estimators among them too, as outer__inner."""
        mine = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        nested = {f"{name}__{key}": value for name, part in mine.items() if deep and hasattr(part, "get_params")
                  and not isinstance(part, type) for key, value in part.get_params().items()}
        return mine | nested

    def set_params(self, **params):
        """Set constructor arguments by name, outer__inner those of an estimator among them; returns self.

        Raises ValueError for a name there is none of.
        """
        known = self.get_params(deep=False)
        for name, value in params.items():
            outer, _, inner = name.partition("__")
            if outer not in known or inner and not hasattr(known[outer], "set_params"):
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}: choose from {', '.join(known)}")
            if inner:
                getattr(self, outer).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def __repr__(self):
        default = inspect.signature(type(self)).parameters
        changed = [f"{k}={one_line(v)}" for k, v in self.get_params(deep=False).items() if repr(v) != repr(default[k].default)]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_features_in_")

    @property
    def feature_names_in_(self):
        """The names of the columns (d,) that the model was fitted on; there are none where X had no names that are strings."""
        if self._names is None:
            raise AttributeError(f"this {type(self).__name__} was not fitted on columns with names")
        return np.array(self._names, dtype=object)

    def _check_fitted(self, method):
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"{method}: this {type(self).__name__} is not fitted yet; call fit(X) or "
                                 "npgen.load(path) first")

    def _check(self, method, X, name="X", missing=None):
        """Rows as a query takes them: of the columns of the fit, finite numbers, or missing where that is allowed."""
        self._check_fitted(method)
        self._check_names(method, X, name)
        missing = self.takes_missing if missing is None else missing
        x = check_rows(method, X, name=name, dtype=self._default_dtype, missing=missing)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(f"{method}: {name} has {x.shape[1]} features, but {type(self).__name__} is expecting "
                             f"{self.n_features_in_} features as input")
        return x

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


def clone(estimator):
    """An unfitted estimator with the same hyperparameters, on the same device, as scikit-learn's clone makes it."""
    if not hasattr(estimator, "get_params") or isinstance(estimator, type):
        return copy.deepcopy(estimator)
    made = type(estimator)(**{name: clone(value) for name, value in estimator.get_params(deep=False).items()})
    return made.to(estimator.device) if hasattr(made, "to") else made


def _own_first(cls):
    """The constructor's signature, a class's own fields before those that it inherits."""
    inherited = inspect.signature(cls.__init__).parameters
    order = [name for owner in cls.__mro__ for name in vars(owner).get("__annotations__", {}) if name in inherited]
    parameters = sorted((p for name, p in inherited.items() if name != "self"),
                        key=lambda p: (p.kind, order.index(p.name) if p.name in order else -1))
    return inspect.Signature(parameters)
