"""Models that are their parameters, in a space that preprocessing leads to; among them those that follow a gradient.

Legend: n rows, d features, l latent dimensions; x rows in the data's own space, z where preprocessing leads, h representations.
"""
import abc
import dataclasses

import numpy as np

from .. import train, transforms
from ..kernels._cuda import asnumpy, is_device_array
from ..nn import Parameters
from ..warn import warn
from .base import Model
from .overflow import FAR, without_overflow


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
        self.preprocess_ = transforms.make(self.preprocess, x, self._takes_bits).fit(x, sample_weight=weights)
        self._learn(x, weights, run)

    def _options(self):
        names = {field.name for field in dataclasses.fields(train.Training)}
        options = train.Training(**{k: v for k, v in self.get_params().items() if k in names})
        train.check_training(options)
        return options

    def _move(self):
        self.params_, self.preprocess_ = self.params_.to(self._place), self.preprocess_.to(self._place)

    def _descend(self, params, x, weights, run):
        """Follow the gradient of the loss from `params` on."""
        self.params_ = params
        self._move()

        def loss(params, batch, stream):
            z, log_det = self.preprocess_.unchecked(None, batch.x, stream=stream)
            return self._loss(params, z, stream) - log_det

        before, validation = run.read(), self._check_space(run.validation)
        validation = validation and train.Batch(validation[0], weights=validation[1]).to(self._place)
        batch = train.Batch(x, weights=weights).to(self._place)
        before = before and train.State.restore(*before, like=batch.x)
        state = train.fit(loss, self.params_, batch, validation=validation, stream=run.stream, options=self._options(),
                          resume=before, save=run.write)
        self.history_, self.n_epochs_ = state.history, state.epoch

    def _check_space(self, validation):
        """validation_data, None if there are none. Raises ValueError for rows that preprocessing cannot take."""
        if validation is None:
            return None
        try:
            self._check_head("fit", validation[0], self.preprocess_.to(asnumpy).to_noise(None, validation[0])[0])
        except ValueError as error:
            raise ValueError(f"fit: validation_data: {error}") from None
        return validation

    def _check(self, method, X):
        x = super()._check(method, X)
        if self.head_ is not None and self.head_.discrete:
            maps = self.preprocess_ if is_device_array(x) else self.preprocess_.to(asnumpy)
            self._check_head(method, x, maps.to_noise(None, x)[0])
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
        return without_overflow(lambda z, log_det: function(self._at(z.dtype), z, log_det),
                                lambda x: self.preprocess_.to_noise(None, x), x, **how)

    def _sample(self, n, stream):
        return self.preprocess_.to_data(None, self._draw_rows(self.params_, n, stream))[0]

    def _encode(self, x):
        return self._in_space(lambda params, z, log_det: self._represent(params, z), x, far=FAR)

    def _decode(self, h):
        return without_overflow(lambda h: self.preprocess_.to_data(None, self._reconstruct(self._at(h.dtype), h))[0],
                                lambda h: (h,), h, far=FAR)

    def _state(self):
        arrays = {f"params.{name}": a for name, a in self.params_.items()}
        arrays |= {f"preprocess.{name}": a for name, a in self.preprocess_.arrays().items()}
        config = transforms.to_config(self.preprocess_)
        return arrays, {"preprocess_": config, "params_": list(self.params_), "history_": self.history_}

    def _restore(self, arrays, fitted):
        def named(prefix):
            return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
        self.preprocess_ = transforms.from_config(fitted["preprocess_"], named("preprocess."))
        params = named("params.")  # a file sorts its arrays; the flat buffer has an order of its own
        self.params_, self.history_ = Parameters({name: params[name] for name in fitted["params_"]}), fitted["history_"]
        self.n_epochs_ = len(self.history_)
        if self.params_.flat.dtype.char not in "fd" or not all(np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("the parameters are not finite floats")
        if np.shape(self.preprocess_.to_noise(None, np.ones((0, self.n_features_in_)))[0]) != (0, self.n_features_in_):
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
        z = self.preprocess_.to_noise(None, x, stream=stream)[0]
        self._build(z)
        self._check_head("fit", x, z)
        if self.head_ is None or not self.head_.discrete:
            transforms.warn_of_atoms("fit", x, z)
        return Parameters(self._init(z, stream), x.dtype)


def warn_of_one_gaussian(model):
    """Warn that a model of one column has one peak, whatever the data's."""
    warn(f"fit: a {type(model).__name__} of one column is one Gaussian behind its preprocessing, however many peaks the data "
         "have; for more than one use GaussianMixture(n_components=...)")
