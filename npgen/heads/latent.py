"""What heads share that look at a column through a map to the real line, where a normal or a mixture of normals lies.

What is drawn keeps to a span, where one is given, as draws of base do that lie in it. The density does not end there: a row
beyond all that were seen is to be odd, and not refused.

Legend: n rows, d features, k components.
"""
import abc
import math

import numpy as np

from .. import ops
from ..kernels._cuda import constant_like
from .base import Family, linear, refuse
from .mixture import MixtureOfNormals
from .normal import Normal
from .scale import Scale

NODES = 64        # of a quadrature


class Latent(Family, abc.ABC):
    """base: the head of y = scale(x), Normal or MixtureOfNormals, of which outputs are read; scale: a Scale; span: None, or the
    smallest and the largest value that may be drawn.

    It is a Family, a head of a mixture's components, where base is one; a network's has a limit.
    """

    by_name, own_map = False, True

    _kept, _reach = (-math.inf, math.inf), None  # the values that draws keep to, and the latent ends (2, 1) of their cells

    def __init__(self, base=None, scale=None, span=None):
        self.base, self.scale = base or MixtureOfNormals(5), scale or Scale()
        if not isinstance(self.base, (Normal, MixtureOfNormals)) or not isinstance(self.scale, Scale):
            raise ValueError(f"{type(self).__name__}: base must be a Normal or a MixtureOfNormals, and scale a Scale, got "
                             f"{base!r} and {scale!r}"[:300])
        if span is not None and not (isinstance(span, (tuple, list)) and len(span) == 2 and all(
                type(end) in (int, float) and math.isfinite(end) for end in span) and span[0] <= span[1]):
            raise ValueError(f"{type(self).__name__}: span must be None or the smallest and the largest value to be drawn, got "
                             f"{span!r}"[:300])
        self.span = None if span is None else (float(span[0]), float(span[1]))
        self.noises = self.base.noises

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self._options().items())})"

    def _options(self):
        scale = {} if self.scale == Scale() else {"scale": list(self.scale.config())}
        return {"base": self.base.config(), **scale} | ({} if self.span is None else {"span": list(self.span)})

    @property
    def has_steps(self):
        return self.base.has_steps

    @property
    def somewhere(self):
        return float(self.to_data(np.zeros(1))[0])

    @abc.abstractmethod
    def to_data(self, y):
        """Values of the column, of latent numbers."""

    def latent(self, x):
        """Latent numbers of the column's values, NaN where one is missing."""
        return self.scale.to_latent(x)

    def sample(self, noise, outputs):
        if self._reach is None:
            return self.to_data(self.base.sample(noise, outputs)).astype(outputs.dtype)
        low, high = constant_like(self._reach, noise)
        y = self.base.sample_between(noise.astype(np.float64), low, high, outputs.astype(np.float64))
        return np.clip(self.to_data(y), *self._kept).astype(outputs.dtype)

    def _reached(self, low, high):
        """An interval (d,) as far as draws go, and as it is where they do not get there."""
        ends = np.maximum(low, self._kept[0]), np.minimum(high, self._kept[1])
        return [np.where(ends[0] <= ends[1], *each) for each in zip(ends, (low, high), strict=True)]

    def noise(self, stream, shape, dtype, like=None):
        return self.base.noise(stream, shape, dtype, like)

    def n_outputs(self, d):
        return self.base.n_outputs(d)

    def first(self, d):
        return self.base.first(d)

    def of(self, features):
        return self

    def inputs(self, x):
        y = self.latent(x)
        return ops.where(np.isnan(y), 0, y)

    def check(self, x, name, columns=None, shown=None):
        refuse(~(self.scale.inside(x) | np.isnan(x)), x if shown is None else shown, name, columns,
               f"but its column lies {'above' if self.scale.kind == 'log' else 'between'} {self.scale.low:g}"
               f"{f' and {self.scale.high:g}' if self.scale.kind == 'logit' else ''}: correct it, or fit it with such rows")

    def maximise(self, moments, outputs, pooled, smoothing):
        return self.base.maximise(moments, outputs, pooled, smoothing)

    def expected_moments(self, outputs, n, pooled, smoothing):
        return self.base.expected_moments(outputs, n, pooled, smoothing)

    def around(self, x, pooled):
        return self.base.around(self.latent(x.astype(np.float64)), pooled)

    def guess(self, r, outputs):
        return linear(r.astype(np.float64), self.mean(outputs).T)

    def take(self, outputs, features):
        return self.base.take(outputs, features)
