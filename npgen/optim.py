"""Optimisers on one flat buffer, schedules of their learning rate, and the mean of what they have been through.

    Adam, SGD                  init(flat) -> moments, update(flat, gradient, moments, scale, clock), in place, value by value
    Constant, Cosine, Step     schedule(epoch, epochs) -> the share of the learning rate after so many epochs of so many
    Average                    a running mean of the parameters

Each is a value: its fields say all. A clock (4,) holds what changes from step to step, in float64: an array, so that it can
stay on a GPU, as scale (1,) does, which multiplies the gradient. Where scale is NaN or infinite the step is refused: nothing
changes.
"""
import dataclasses
import math

import numpy as np

from .kernels import adam

STEP, RATE, BASE, COUNTER = range(4)  # of a clock: steps so far, learning rate, that without a schedule, the stream's counter


def _check(name, fields, right, wanted):
    """Raise ValueError unless right(value) of each of these fields."""
    if not all(isinstance(value, (int, float, np.number)) and right(value) for value in fields.values()):
        raise ValueError(f"{name}: {' and '.join(fields)} must be {wanted}, got {' and '.join(map(repr, fields.values()))}")


@dataclasses.dataclass(frozen=True)
class Adam:
    """theta -= lr * m_hat / (sqrt(v_hat) + eps), m and v the bias-corrected running means of g and g^2.

    beta1, beta2 in [0, 1): decay per step. eps > 0. decay: every step also takes lr * decay of every parameter away, which with
    decay=0.01 is "adamw". References: Kingma & Ba, Adam (2015), algorithm 1; Loshchilov & Hutter (2019).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.0

    def __post_init__(self):
        _check("Adam", {"beta1": self.beta1, "beta2": self.beta2}, lambda b: 0 <= b < 1, "in [0, 1)")
        _check("Adam", {"eps": self.eps}, lambda eps: 0 < eps < math.inf, "positive")
        _check("Adam", {"decay": self.decay}, lambda decay: 0 <= decay < math.inf, "0 or positive")

    def init(self, flat):
        """The moments before the first step."""
        return {"m": np.zeros_like(flat), "v": np.zeros_like(flat)}

    def update(self, flat, gradient, moments, scale, clock):
        """One step, number clock[STEP] from 1 on, along scale * gradient; flat and the moments change in place."""
        adam.step(flat, gradient, moments["m"], moments["v"], scale, clock[:2], self.beta1, self.beta2, self.eps)


@dataclasses.dataclass(frozen=True)
class SGD:
    """theta -= lr * b, b = momentum * b + g; decay as Adam's."""

    momentum: float = 0.0
    decay: float = 0.0

    def __post_init__(self):
        _check("SGD", {"momentum": self.momentum}, lambda momentum: 0 <= momentum < 1, "in [0, 1)")
        _check("SGD", {"decay": self.decay}, lambda decay: 0 <= decay < math.inf, "0 or positive")

    def init(self, flat):
        """The velocity before the first step."""
        return {"b": np.zeros_like(flat)}

    def update(self, flat, gradient, moments, scale, clock):
        """One step along scale * gradient; flat and the velocity change in place."""
        b, taken, rate = moments["b"], np.isfinite(scale), clock[RATE:RATE + 1].astype(flat.dtype)
        b[:] = np.where(taken, self.momentum * b + scale * gradient, b)
        flat -= np.where(taken, rate * b, 0)


# ---------------------------------------------------------------- schedules

@dataclasses.dataclass(frozen=True)
class Constant:
    """1."""

    def __call__(self, epoch, epochs):
        return np.ones_like(epoch)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """floor + (1 - floor) (1 + cos(pi epoch / epochs)) / 2, from 1 down to floor. Reference: Loshchilov & Hutter (2017)."""

    floor: float = 0.0

    def __post_init__(self):
        _check("Cosine", {"floor": self.floor}, lambda floor: 0 <= floor <= 1, "in [0, 1]")

    def __call__(self, epoch, epochs):
        return self.floor + (1 - self.floor) * (1 + np.cos(np.pi * np.minimum(epoch / epochs, 1))) / 2


@dataclasses.dataclass(frozen=True)
class Step:
    """factor^k after k times `every` epochs; None: three stairs of a third of the epochs each."""

    factor: float = 0.1
    every: float | None = None

    def __post_init__(self):
        _check("Step", {"factor": self.factor}, lambda factor: 0 < factor <= 1, "in (0, 1]")
        if self.every is not None:
            _check("Step", {"every": self.every}, lambda every: 0 < every < math.inf, "positive")

    def __call__(self, epoch, epochs):
        return self.factor**np.maximum(np.ceil(epoch / (self.every or epochs / 3)) - 1, 0)  # a stair ends with its last epoch


@dataclasses.dataclass(frozen=True)
class Average:
    """The exponential moving average of the parameters: average += (1 - d_t) (theta_t - average), after step t = 1, 2, ...

    d_t = min(decay, (1 + t) / (10 + t)), so that where training began is soon forgotten. decay in [0, 1).
    """

    decay: float = 0.999

    def __post_init__(self):
        _check("Average", {"decay": self.decay}, lambda decay: 0 <= decay < 1, "in [0, 1)")

    def update(self, average, flat, clock):
        """One step; average changes in place."""
        t = clock[STEP:STEP + 1]
        average += np.maximum(1 - self.decay, 9 / (10 + t)).astype(flat.dtype) * (flat - average)


# ---------------------------------------------------------------- names and files

OPTIMIZERS = {"adam": Adam(), "adamw": Adam(decay=0.01), "sgd": SGD(), "adam0": Adam(beta1=0.0, beta2=0.99)}
SCHEDULES = {"constant": Constant(), "cosine": Cosine(), "step": Step()}
VALUES = Adam, SGD, Constant, Cosine, Step, Average


def optimizer(value):
    """The optimiser of this name, or that is one. Raises ValueError for anything else."""
    return _named("optimizer", value, OPTIMIZERS, lambda value: hasattr(value, "init") and hasattr(value, "update"))


def schedule(value):
    """The schedule of this name, or that is one. Raises ValueError for anything else."""
    return _named("schedule", value, SCHEDULES, callable)


def average(value):
    """An Average, that of a decay, or None for 0. Raises ValueError for anything else."""
    if value is None or isinstance(value, Average):
        return value
    if not isinstance(value, (int, float, np.number)):
        raise ValueError(f"average must be 0, a decay in (0, 1) or an npgen.optim.Average, got {value!r}")
    return Average(float(value)) if value else None


def _named(name, value, known, is_one):
    if isinstance(value, str) and value in known:
        return known[value]
    if isinstance(value, str) or not is_one(value):
        raise ValueError(f"{name} must be one of {', '.join(known)}, or an object of npgen.optim, got {value!r}")
    return value


def to_config(value):
    """A value of this module as a JSON-able dict, from which from_config makes it again."""
    return {"optim": type(value).__name__, **dataclasses.asdict(value)}


def from_config(config):
    """The value that to_config described; a file may be forged: KeyError, TypeError or ValueError where there is none."""
    return {each.__name__: each for each in VALUES}[config["optim"]](**{k: v for k, v in config.items() if k != "optim"})
