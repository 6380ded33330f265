"""What a model's answers are, what one without a density is asked in place of it, and what a model can be fitted by.

Legend: n rows, d features, w columns of context.
"""
import collections
import dataclasses

import numpy as np

from .. import divergences
from ..checks import check_weights, one_line, with_article
from ..kernels._cuda import asnumpy


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a model's answers are.

    density         "exact", "bound" (a lower bound on the log-density), "estimate", or "none": there is no log_prob, and score
                    is minus an energy distance
    representation  what encode returns, in words, or "none"
    invertible      decode(encode(X)) == X
    measures        once it is fitted, what the density of each column is with respect to, (d,) texts, as measures_ has them
    """

    density: str
    representation: str
    invertible: bool
    measures: tuple = ()

    def __str__(self):
        counted = collections.Counter(self.measures)
        measures = ", ".join(f"{name} ({n} of {len(self.measures)} columns)" for name, n in counted.items())
        return f"density: {self.density}" + (f", with respect to {measures}" if measures else "") + (
            f"; representation: {self.representation}; invertible: {'yes' if self.invertible else 'no'}")


class Only:
    """A method of models that have a density or a representation alone: by methods, scikit-learn knows what an estimator is."""

    def __init__(self, method, of):
        self.method, self.of, self.__doc__ = method, of, method.__doc__

    def __get__(self, model, owner=None):
        if model is not None and getattr(model._capabilities, self.of) == "none":
            raise AttributeError(f"{with_article(model)} has no {self.method.__name__}, as it has no {self.of}")
        return self.method.__get__(model, owner)


def only(of):
    """The decorator of methods of models that have a "density", or a "representation"."""
    return lambda method: Only(method, of)


def check_density(model, method):
    """Raise ValueError for a model that has no density, and NotFittedError as other queries do."""
    model._check_fitted(method)
    if model._capabilities.density == "none":
        asked = "sample, encode and decode" if model.n_latent_ else "sample"
        raise ValueError(f"{method}: {type(model).__name__} has no density; ask for {asked}, or for score(X), "
                         "minus the energy distance between X and its samples")


def score_by_draws(model, x, c, sample_weight):
    """Minus the energy distance between rows x and what the model draws with rng=0.

    Given a context, a row is drawn for each, and both have their context (n, w), as numbers, beside them.
    """
    x = asnumpy(x)
    if not len(x):
        raise ValueError("score: X has no rows; pass at least one")
    weights = check_weights("score", sample_weight, x)
    if c is None:
        return -divergences.energy_distance(x, model, p_weights=weights).value
    y = asnumpy(model._drawn(lambda n, stream: model._sample(n, model._place(c), stream), len(x), 0))
    x, y = (np.hstack([rows, asnumpy(c)]) for rows in (x, y))
    return -divergences.energy_distance(x, y, p_weights=weights, q_weights=weights).value


def take_objective(model, objective):
    """Fit this model by an objective, or by its hyperparameter's; ValueError, which names those it can, for another."""
    chosen = getattr(model, "objective", model._objectives[0]) if objective is None else objective
    if not isinstance(getattr(chosen, "name", chosen), str) or getattr(chosen, "name", chosen) not in model._objectives:
        raise ValueError(f"fit: objective must be {' or '.join(map(repr, model._objectives))} for {with_article(model)}, "
                         f"got {one_line(chosen)}")
    if hasattr(model, "objective"):
        model.objective = chosen
