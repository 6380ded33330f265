"""Monotone maps of a column's numbers to the real line, where normals lie: y = (k(x) - centre) / width.

    linear    k(x) = x
    log       k(x) = log(x - low),                      x > low
    logit     k(x) = log(x - low) - log(high - x),      low < x < high
    asinh     k(x) = asinh((x - low) / (high - low)),   a logarithm on either side of low, linear within a unit of it

Legend: n rows.
"""
import dataclasses
import math

import numpy as np

from .. import ops

KINDS = ("linear", "log", "logit", "asinh")
BETTER = 0.05     # nats per value that a bent map has to be better than the straight one
FAR = 1e100       # stands for infinity, where its square has to be a number
TINY = 1e-300


@dataclasses.dataclass(frozen=True)
class Scale:
    """One such map. Raises ValueError for numbers that make no map."""

    kind: str = "linear"
    centre: float = 0.0
    width: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        numbers = self.centre, self.width, self.low, self.high
        if self.kind not in KINDS or not all(type(a) in (int, float) and math.isfinite(a) for a in numbers) or not (
                self.width > 0 and self.low < self.high):
            raise ValueError(f"Scale: expected one of {', '.join(KINDS)}, finite numbers, a width above 0 and low < high, got "
                             f"{self}"[:300])

    @classmethod
    def fit(cls, x, kinds=KINDS[:1], low=0.0, high=1.0):
        """The map of these kinds under which one normal gives numbers x (n,) the highest density, centred by their quartiles.

        log and logit are of low and high; asinh of the median, in units of the distance between the quartiles. A map other than
        the first has to be BETTER than it, per value.
        """
        x, found = np.asarray(x, np.float64), []
        quartiles = np.quantile(x, [0.25, 0.5, 0.75])
        unit = float(quartiles[2] - quartiles[0]) / 2 or _std(x) or 1.0
        for kind in kinds:
            ends = (float(quartiles[1]), float(quartiles[1]) + unit) if kind == "asinh" else (low, high)
            bent = cls(kind, 0.0, 1.0, *ends)
            y = bent.to_latent(x)
            first, middle, last = np.quantile(y, [0.25, 0.5, 0.75])
            fitted = cls(kind, float(middle), float(last - first) / 1.349 or _std(y) or 1.0, *ends)
            nats = bent.log_slope(x).mean() - math.log(max(_std(y), TINY))
            found.append((nats + (BETTER if kind == kinds[0] else 0), fitted))
        return max(found, key=lambda each: each[0])[1]

    def config(self):
        """The arguments of the constructor, as JSON."""
        return dataclasses.astuple(self)

    def inside(self, x):
        """Which numbers it maps."""
        if self.kind == "log":
            return x > self.low
        return (x > self.low) & (x < self.high) if self.kind == "logit" else x == x

    def to_latent(self, x):
        """y, of numbers inside."""
        if self.kind == "log":
            y = np.log(x - self.low)
        elif self.kind == "logit":
            y = np.log(x - self.low) - np.log(self.high - x)
        else:
            y = np.arcsinh((x - self.low) / (self.high - self.low)) if self.kind == "asinh" else x
        return (y - self.centre) / self.width

    def log_slope(self, x):
        """log dy/dx, of numbers inside."""
        at = x - self.low
        if self.kind == "log":
            bent = -np.log(at)
        elif self.kind == "logit":
            bent = math.log(self.high - self.low) - np.log(at) - np.log(self.high - x)
        elif self.kind == "asinh":
            bent = -np.log(np.hypot(at, self.high - self.low))
        else:
            bent = 0 * x
        return bent - math.log(self.width)

    def to_data(self, y):
        """x of latent numbers, finite."""
        most = math.log(np.finfo(y.dtype).max) - 1
        k = np.clip(self.centre + self.width * y, -most, most) if self.kind != "linear" else self.centre + self.width * y
        if self.kind == "log":
            return self.low + np.exp(k)
        if self.kind == "logit":
            return self.low + (self.high - self.low) * ops.sigmoid(k)
        return self.low + (self.high - self.low) * np.sinh(k) if self.kind == "asinh" else k

    def edge(self, x):
        """y of numbers anywhere, +-FAR beyond the ends."""
        inside = self.inside(x)
        y = self.to_latent(np.where(inside, x, (self.low + self.high) / 2 if self.kind == "logit" else self.low + 1.0))
        return np.where(inside | np.isnan(x), y + 0 * x, np.where(x <= self.low, -FAR, FAR))


def _std(x):
    """The standard deviation of numbers (n,) whose squares may be none."""
    peak = float(np.abs(x - np.median(x)).max())
    return peak * float(np.std((x - np.median(x)) / peak)) if peak > 0 else 0.0
