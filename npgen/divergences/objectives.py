"""Divergences as objectives: losses of a batch of rows x beside rows y that are drawn, differentiable by y.

    energy               2 E|x - y| - E|y - y'|, energy_distance but for E|x - x'|
    mmd                  E k(y, y') - 2 E k(x, y), mmd2 but for E k(x, x');  k(x, y) = sum_s exp(-|x - y|^2 / (2 scale_s^2))
    sliced_wasserstein   E_u W_2(<u, x>, <u, y>)^2 over directions u that are drawn anew at every step

What the rows are apart from one another is left out, as it is constant. No drawn row is a pair with itself, so that gradients
of the first two have no bias. Other divergences are objectives elsewhere, of the models that they can be of:

    kl                                    where there is a log-density: minus its mean, but for the data's entropy
    kl, reverse_kl, chi2, hellinger, js   of a GAN, its loss: bounds that are tight for the best critic
    fisher_divergence                     score matching, which asks for a score without kinks: of an EnergyModel
    wasserstein_1d                        sliced_wasserstein of one column
    total_variation, coverage             none: the best critic of one is a step, sign(p - q) / 2, and the other counts rows
    kernel_stein_discrepancy              none: what q has where no rows are it does not see, so that a flow fitted by it puts
                                          its mass there (Gorham & Mackey, 2017); of a score on a base there is score matching

Legend: n rows, d columns, s scales, l directions.
Sources: Székely & Rizzo, Energy statistics (2013); Dziugaite, Roy & Ghahramani, Training generative neural networks via
maximum mean discrepancy optimization (2015); Deshpande, Zhang & Schwing, Generative modeling using the sliced Wasserstein
distance (2018); Gorham & Mackey, Measuring sample quality with kernels (2017).
"""
import abc
import dataclasses

import numpy as np

from .. import ops
from ..checks import check_widths, one_line
from ..kernels._cuda import constant_like
from . import pairs


class Objective(abc.ABC):
    """A distance of rows to draws: objective(x, y, stream, weights) -> (n,), whose mean by the weights (n,) of x is minimised.

    repeats: whether a step may be recorded (npgen.players.Player)
    """

    name = None
    repeats = True

    @abc.abstractmethod
    def __call__(self, x, y, stream, weights=None):
        """The loss of every row of x (n, d) beside as many draws y, (n,)."""

    def config(self):
        """The objective as JSON, of which from_config makes it again."""
        return {"objective": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


@dataclasses.dataclass(frozen=True)
class Energy(Objective):
    """The energy distance."""

    name = "energy"

    def __call__(self, x, y, stream, weights=None):
        return pairs.energy(x, y)


@dataclasses.dataclass(frozen=True)
class MMD(Objective):
    """The squared maximum mean discrepancy of Gaussian kernels; scales: their standard deviations, times the root of d."""

    scales: tuple = (0.25, 0.5, 1.0, 2.0)
    name = "mmd"

    def __post_init__(self):
        scales = np.atleast_1d(self.scales)
        if scales.dtype.kind not in "fi" or scales.ndim != 1 or not len(scales) or not ((scales > 0) & (scales < np.inf)).all():
            raise ValueError(f"MMD: scales must be positive numbers, got {one_line(self.scales)}")
        object.__setattr__(self, "scales", tuple(map(float, scales)))

    def __call__(self, x, y, stream, weights=None):
        each = np.full_like(x[:, 0], 1 / len(x))
        scales = constant_like((np.array(self.scales) * np.sqrt(x.shape[1])).astype(x.dtype), x)
        within = (pairs.gaussians_within(y, each, scales) * len(x) - len(scales)) / max(len(x) - 1, 1)
        return within - 2 * pairs.gaussians(x, y, each, scales)


@dataclasses.dataclass(frozen=True)
class SlicedWasserstein(Objective):
    """The sliced Wasserstein distance of order 2, squared, of n_directions.

    Row j of the draws in order stands for the j-th n-th of the rows, by their weights; all rows have the same loss then.
    """

    n_directions: int = 50
    name = "sliced_wasserstein"
    repeats = False

    def __post_init__(self):
        check_widths("SlicedWasserstein: n_directions", (self.n_directions,))

    def __call__(self, x, y, stream, weights=None):
        n, d = x.shape
        directions = stream.normal((d, self.n_directions), x.dtype, like=x)
        directions = directions / np.sqrt(np.sum(directions * directions, axis=0))
        along, mean = x @ directions, 1.0
        order = np.argsort(along, axis=0)
        if weights is not None:
            ends, mean = np.cumsum(weights[order].astype(np.float64), axis=0), np.mean(weights)
            each = np.arange(self.n_directions, like=ends)[:, None]  # one direction behind the other, in one search
            middle = (np.arange(n, like=ends) + 0.5) / n
            at = np.searchsorted(np.ravel((ends / ends[-1]).T + each), np.ravel(middle + each)).reshape(-1, n) - n * each
            order = np.take_along_axis(order, np.minimum(at, n - 1).T, axis=0)
        apart = np.sort(y @ directions, axis=0) - np.take_along_axis(along, order, axis=0)
        each = ops.mean(ops.square(apart), axis=1)
        return each if weights is None else ops.mean(each) / mean * np.ones_like(x[:, 0])


OBJECTIVES = {each.name: each for each in (Energy, MMD, SlicedWasserstein)}


def objective_for(spec):
    """The Objective of a name or the Objective itself; None of any other, such as "kl", which draws nothing."""
    return spec if isinstance(spec, Objective) else OBJECTIVES[spec]() if isinstance(spec, str) and spec in OBJECTIVES else None


def from_config(config):
    """The objective that config() described; a file may be forged: KeyError, TypeError or ValueError where there is none."""
    return OBJECTIVES[config["objective"]](**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()
                                              if k != "objective"})
