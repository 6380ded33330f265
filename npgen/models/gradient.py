"""Models that follow the gradient of a loss, from the first parameters of their parts on.

Legend: n rows, d features; x rows in the data's own space, z where preprocessing leads, c context, p parameters by name.
"""
import dataclasses

import numpy as np

from .. import ops, train, transforms
from ..checks import with_article
from ..divergences.objectives import objective_for
from ..heads import untouched
from ..kernels._cuda import asnumpy, is_device_array
from ..nn import Parameters, beside
from ..random import Stream
from ..warn import warn
from .base import Model


class GradientModel(Model, train.Training):
    """A model fitted by following the gradient of its loss; a subclass writes what Model asks for, but _learn.

    _loss(p, z, stream, c) is the (n,) nats of preprocessed rows that training minimises: minus the log-density, unless a
    subclass says otherwise, or `objective` is a distance to rows that _draw makes of p, by ops. Within a training step p are
    Tensors, else arrays. A model that one loss does not train writes _players, and _monitor if that is not to be the first
    one's loss; all of them see a Batch of preprocessed rows.
    """

    preprocess: object = "auto"
    _validates = True
    _monitor = None  # (p, batch, stream) -> (n,), by which training stops
    _by_rows = True  # whether a row's _loss is a function of that row and of what is drawn for it alone; and its _monitor
    _statistics = None  # (p, z, c, weights) -> {name: array} of the rows trained on, if a part has query_shapes of its own

    @property
    def _untouched(self):
        return untouched(getattr(self, "head", None))

    @property
    def _distance(self):
        """The distance between rows and draws that it is fitted by, or None."""
        return objective_for(getattr(self, "objective", None))

    @property
    def _likelihood(self):
        """Whether _loss is minus the log-density, or minus a bound, in nats."""
        return self._distance is None

    def _loss(self, p, z, stream, c=None, weights=None):
        if self._distance is None:
            return -self._log_density(p, z, c)
        return self._distance(beside(z, c), beside(self._draw(Moved(p), len(z), stream, c), c), stream, weights)

    def _players(self):
        return follower(self),

    def _learn(self, x, c, weights, run):
        train.check_training(self)  # refuses what it must before the work starts
        self.params_ = self._first(x, c, weights, run.stream)
        state = descend(self, x, c, weights, run, players=self._players(), monitor=self._monitor)
        held = run.validation[:2] if run.validation is not None else (x, c)
        if run.validation is None:
            rows = train.held_out(state.split, len(x), self.validation_fraction)[1]
            held = tuple(a if a is None or not len(rows) else a[rows] for a in held)
        self._conclude((x, c, weights), held)

    def _conclude(self, seen, held):
        """What is fitted to the trained model, or measured of it: by (x, c, weights) of all rows, and (x, c) of those that it
        stopped by, or of all where there are none."""

    def _first(self, x, c, weights, stream):
        """The parts made, and their first parameters; all rows in the preprocessed space take memory here only."""
        z = self.preprocess_.to_noise(None, x, stream=stream)[0]
        self._build(self._choose(z, c, self.stream_))
        self._check_missing("fit", x)
        self._check_head("fit", x, z)
        discrete = np.broadcast_to(self.head_ is not None and self.head_.discrete, z.shape[1:])
        if self._capabilities.density == "none":
            pass  # a value may repeat where none is scored
        elif not discrete.any():
            transforms.warn_of_atoms("fit", x, z if self.head_ is None else self.head_.smooth(z))
        elif not discrete.all():
            reals = np.flatnonzero(~discrete)
            transforms.warn_of_atoms("fit", x[:, reals], self.head_.smooth(z)[:, reals], reals)
        first = {}
        for part in self._parts.values():
            first |= part.init(z, c, stream, weights)
        return Parameters(first, x.dtype)

    def _check(self, method, X, name="X", missing=None):
        x = super()._check(method, X, name, missing)
        if missing is None:
            self._check_missing(method, x)
        if self.head_ is not None and np.any(self.head_.discrete):
            maps = self.preprocess_ if is_device_array(x) else self.preprocess_.to(asnumpy)
            self._check_head(method, x, maps.to_noise(None, x)[0])
        return x

    def _check_missing(self, method, x, columns=slice(None), name="X"):
        """Raise ValueError, naming a cell, where a value of rows x of these columns is missing and that is no state of one."""
        if self.takes_missing and (wrong := asnumpy(np.isnan(x)) & ~self._missing_modelled()[columns]).any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(f"{method}: {name}[{row}, {column}] is nan, but no row of fit missed that column; remove or fill "
                             "it")

    def _missing_modelled(self):
        return np.broadcast_to(self.head_.missing, self.n_features_in_)

    def _check_head(self, method, x, z):
        """Raise ValueError, naming a cell of x, unless the head can take z, what preprocessing makes of the rows x."""
        if self.head_ is not None:
            with self._naming_columns(method):
                self.head_.check(z, method, shown=x)


class Moved(dict):
    """Parameters within a step of training, of which _draw makes rows."""

    @property
    def flat(self):
        """An array of their dtype, where they lie."""
        return ops.stop_gradient(next(iter(self.values())))


def follower(model):
    """The player that follows the gradient of a model's _loss, a function of its arguments."""
    distance = getattr(model, "_distance", None)
    if distance is None:
        return train.Player(loss=lambda p, batch, stream: model._loss(p, batch.x, stream, batch.context), repeats=True,
                            by_rows=getattr(model, "_by_rows", False))
    return train.Player(loss=lambda p, batch, stream: model._loss(p, batch.x, stream, batch.context, batch.weights),
                        repeats=distance.repeats)


def descend(model, x, c, weights, run, players=None, monitor=None):
    """Train from the model's parameters on; players (by default the follower) and monitor see preprocessed rows.

    Returns the last State. A loss in nats of a model with a density becomes one of the rows in their own space: the
    log-determinant is taken off.
    """
    dense = model._capabilities.density != "none" and getattr(model, "_likelihood", True)
    more = any(part.query_shapes() != part.shapes() for part in model._parts.values())
    model._move()

    def in_space(batch, stream):
        z, log_det = model.preprocess_.unchecked(None, batch.x, stream=stream)
        return train.Batch(z, batch.context, batch.weights, batch.carry), log_det

    def of_rows(loss):
        def nats(p, batch, stream):
            batch, log_det = in_space(batch, stream)
            if more and batch.weights is not None:  # by which a batch's own statistics count its rows
                p = {**p, transforms.WEIGHTS: batch.weights}
            return loss(p, batch, stream) - log_det if dense else loss(p, batch, stream)
        return nats

    def preparing(prepare):
        return prepare and (lambda p, carry, batch, stream: prepare(p, carry, in_space(batch, stream)[0], stream))

    def statistics(p, batch):
        seen = in_space(batch, Stream(0))[0]  # the same noise every time
        return model._statistics(p, seen.x, seen.context, seen.weights)

    players = [dataclasses.replace(player, loss=of_rows(player.loss), prepare=preparing(player.prepare))
               for player in players or (follower(model),)]
    before, validation = run.read(), _checked(model, run.validation)
    batch = train.Batch(x, c, weights).to(model._place)
    before = before and train.State.restore(*before, like=batch.x)
    state = train.fit(players, model.params_, batch, validation=validation and validation.to(model._place), stream=run.stream,
                      options=options_of(model), statistics=statistics if more else None, resume=before, save=run.write,
                      monitor=monitor and train.Player(loss=of_rows(monitor), by_rows=model._by_rows))
    if more:
        model.params_ = Parameters(dict(model.params_) | state.statistics, model.params_.flat.dtype)
    model.history_, model.n_epochs_ = state.history, state.epoch
    return state


def options_of(model):
    """The training options that are hyperparameters of the model, and the others as they are by default."""
    names = [field.name for field in dataclasses.fields(train.Training) if hasattr(model, field.name)]
    return train.Training(**{name: getattr(model, name) for name in names})


def _checked(model, validation):
    """validation_data as a Batch, or None. Raises ValueError for rows that preprocessing or the head cannot take."""
    if validation is None:
        return None
    batch = train.Batch(*validation)
    try:
        z = model.preprocess_.to(asnumpy).to_noise(None, batch.x)[0]
        if model.head_ is not None:
            model.head_.check(z, "fit", shown=batch.x)
    except ValueError as error:
        raise ValueError(f"fit: validation_data: {error}") from None
    return batch


def warn_of_one_gaussian(model):
    """Warn that a model of one column has one peak, whatever the data's."""
    warn(f"fit: {with_article(model)} of one column is one Gaussian behind its preprocessing, however many peaks the data "
         "have; for more than one use GaussianMixture(n_components=...)")
