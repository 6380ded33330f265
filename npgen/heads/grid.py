"""The grid head: whole numbers, times, and reals with few decimals, each with the exact mass of its cell.

    P(x_d) = F(g(x_d + h/2)) - F(g(x_d - h/2)),    F the distribution function of base, h the step of the grid

At a bound, the cell goes on without end; or the grid is cut there, and P is that of a number between its outer edges A and B:

    P(x_d) = [F(g(x_d + h/2)) - F(g(x_d - h/2))] / [F(g(B)) - F(g(A))]

EM sees what lies in the cell as missing: its moments are those of the truncated normal, so that no step loses likelihood. Of a
grid that is cut, the rows outside are missing, too: r rows in a component of which Z lies inside stand for r / Z.

Legend: n rows, d features, k components, u values that differ.
References: Dempster, Laird & Rubin (1977), sections 4.2 and 4.3, on grouped, censored and truncated data; Salimans et al.,
PixelCNN++ (2017).
"""
import math

import numpy as np

from .. import ops
from ..fused import LOG_2PI
from ..kernels._cuda import constant_like, is_device_array
from ..tensor import value_of
from .base import refuse
from .latent import Latent
from .scale import FAR

CELLS = 512       # of which a mean is made; where there are more, some stand for those beside them
NARROW = 1e-4     # standard deviations, below which a cell's mass is its density times its width
MOST = 2.0**60    # steps, which stand for infinitely many
OFF = 1e-3        # of a step, that a value may lie off the grid
LEAST = 0.25      # of a component inside, which EM takes where less is: its steps would come to nothing


class Grid(Latent):
    """x_d in start + step Z, from low to high where these are given: y_d = scale(x_d) of what was rounded has the distribution
    of base, Normal(limit=None) in a mixture, by default MixtureOfNormals(5).

    ends   "open": the cells of low and high have all that lies beyond, as levels behind thresholds do, an ordered probit;
           "cut": nothing lies beyond, and the masses of the cells add up to one without
    span   None, or the smallest and the largest value to be drawn; the density goes on

    Raises ValueError for another base or scale, a step that is not above 0, bounds in the wrong order, and other ends.
    """

    name = "grid"

    def __init__(self, base=None, step=1.0, start=0.0, low=None, high=None, scale=None, ends="open", span=None):
        super().__init__(base, scale, span)
        numbers = [a for a in (step, start, low, high) if a is not None]
        if not all(type(a) in (int, float) and math.isfinite(a) for a in numbers) or not step > 0 or (
                low is not None and high is not None and not low < high):
            raise ValueError("Grid: step must be above 0, start, low and high finite, and low < high, got "
                             f"{step!r}, {start!r}, {low!r}, {high!r}"[:200])
        if ends not in ("open", "cut"):
            raise ValueError(f"Grid: ends must be 'open' or 'cut', got {ends!r}"[:200])
        self.step, self.start, self.low, self.high, self.ends = float(step), float(start), low, high, ends
        self._ends, drawn = ([(-math.inf, math.inf)[i] if end is None else round((end - self.start) / self.step)
                              for i, end in enumerate(pair)] for pair in ((low, high), self.span or (None, None)))
        self._open = self._ends if ends == "open" else (-math.inf, math.inf)  # the values whose cells go on
        self._outer = self._around(self._ends)
        self._cut = bool(np.abs(self._outer).min() < FAR)
        drawn = [float(np.clip(end, *self._ends)) for end in drawn]
        self._kept, reach = tuple(self.start + end * self.step for end in drawn), self._around(drawn)
        self._reach = reach if np.abs(reach).min() < FAR else None

    def _around(self, ends):
        """The latent edges (2, 1) around the values of which ends are the numbers, +-FAR where they are infinite."""
        return np.array([[side * FAR if math.isinf(end) else float(self.edges(np.array(self.start + end * self.step))[i])]
                         for i, (side, end) in enumerate(zip((-1, 1), ends, strict=True))])

    def _options(self):
        defaults = {"step": 1.0, "start": 0.0, "low": None, "high": None, "ends": "open"}
        return super()._options() | {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}

    def _number(self, x):
        """Which value of the grid each is, an integer, in float64."""
        return np.rint((x.astype(np.float64) - self.start) / self.step)

    def edges(self, x):
        """The latent edges of the cells of values x (..., d), (2, ..., d) float64."""
        j = self._number(x)
        low, high = (self.scale.edge(self.start + (j + side) * self.step) for side in (-0.5, 0.5))
        return np.stack([np.where(j <= self._open[0], -FAR, low), np.where(j >= self._open[1], FAR, high)])

    def to_data(self, y):
        with np.errstate(invalid="ignore"):
            j = np.clip(self._number(self.scale.to_data(y.astype(np.float64))), *self._ends)
        return self.start + j * self.step

    def check(self, x, name, columns=None, shown=None):
        with np.errstate(invalid="ignore"):
            j, rounding = (x.astype(np.float64) - self.start) / self.step, np.finfo(x.dtype).eps * np.abs(x) / self.step
            wrong = (np.abs(j - np.rint(j)) > OFF + rounding) | (np.rint(j) < self._ends[0]) | (np.rint(j) > self._ends[1])
        bounds = "".join(f" {word} {end:g}" for word, end in (("from", self.low), ("to", self.high)) if end is not None)
        refuse(wrong, x if shown is None else shown, name, columns,
               f"but its column has steps of {self.step:g}{bounds}: round it, or fit it with such rows")
        super().check(x, name, columns, shown)

    def log_prob(self, x, outputs):
        edges, whole = _cells(x, self), ops.astype(outputs, dtype=np.float64)
        log_p = self.base.log_cell(edges[0], edges[1], whole)
        log_p = log_p - self._log_inside(whole) if self._cut else log_p
        return ops.astype(ops.sum(log_p, axis=-1), dtype=outputs.dtype)

    def _log_inside(self, outputs):
        """log P of all between the outer edges, (..., d)."""
        low, high = constant_like(self._outer, value_of(outputs))
        return self.base.log_cell(low, high, outputs)

    def support(self):
        if not np.isfinite(self._ends).all() or self._ends[1] - self._ends[0] >= CELLS:
            return None
        return self.start + np.arange(self._ends[0], self._ends[1] + 1) * self.step

    def _within(self, low, high):
        """The first and the last value in an interval (d,), and the latent edges around them."""
        ends = [most(turn(np.round((end - self.start) / self.step, 6)), last) for most, turn, end, last in (
            (np.maximum, np.ceil, low, self._ends[0]), (np.minimum, np.floor, high, self._ends[1]))]
        values = [self.start + np.clip(end, -MOST, MOST) * self.step for end in ends]
        edges = [np.where(np.isinf(end), far, self.edges(value)[i]) for i, (end, value, far) in
                 enumerate(zip(ends, values, (-FAR, FAR), strict=True))]
        return values, edges, (ends[0] <= ends[1]) & (edges[0] < edges[1])

    def log_mass(self, low, high, outputs):
        _, edges, there = self._within(low, high)
        outputs = outputs.astype(np.float64)
        log_p = self.base.log_mass(*edges, outputs)
        return np.where(there, log_p - self._log_inside(outputs) if self._cut else log_p, -np.inf)

    def sample_within(self, noise, low, high, outputs):
        values, edges, _ = self._within(*self._reached(low, high))
        return np.clip(self.to_data(self.base.sample_within(noise, *edges, outputs.astype(np.float64))), *values)

    def initial(self, x, weights=None):
        """As if values lay evenly in their cells, and nothing outside: the likeliest normal of a grid that is cut may be as
        wide as it likes, and would say nothing of where rows are."""
        x = x.astype(np.float64)
        low, high = self.edges(x)
        half = np.where(high - low < FAR / 2, (high - low) / math.sqrt(12), 0) + 0 * x
        y, twice = self.latent(x), None if weights is None else np.concatenate([weights, weights])
        return self.base.initial(np.concatenate([y - half, y + half]), twice)

    def _cells(self, mean, spread):
        """Edges and values of cells that hold all but 1e-15 of the mass of normals (..., c): (..., CELLS + 1), (..., CELLS).

        Each row's own, so that its bits depend on no other row; some are empty, and where there are more, some are several.
        A normal beyond an end at which the grid is cut, by a of its spreads, has its mass within hypot(8.5, a) of them.
        """
        low, high = self._outer[:, 0]
        with np.errstate(over="ignore"):
            below, above = (np.hypot(8.5, np.maximum(a / spread, 0)) for a in (mean - high, low - mean))
            ends = [np.clip(a, low, high) for a in ((mean - below * spread).min(axis=-1), (mean + above * spread).max(axis=-1))]
            way, steps = (constant_like(a, mean) for a in (np.linspace(0, 1, CELLS), np.arange(CELLS)))
            y = ends[0][..., None] * (1 - way) + ends[1][..., None] * way
            j = np.clip(self._number(self.scale.to_data(y)), *self._ends)
        first, last = j[..., :1], j[..., -1:] + 1
        j = np.concatenate([np.where(last - first <= CELLS, np.minimum(first + steps, last), j), last], axis=-1)
        at = self.scale.edge(self.start + (j - 0.5) * self.step)
        at = np.clip(np.where(j == first, -FAR, np.where(j == last, FAR, at)), low, high)
        return at, self.start + (j[..., :-1] + j[..., 1:] - 1) / 2 * self.step

    def _moments(self, outputs):
        """E[x] and Var[x], (n, d)."""
        outputs = outputs.astype(np.float64)
        log_weights, mean, log_var = self.base.components(outputs)
        log_weights = log_weights - self._log_inside(outputs)[..., None] if self._cut else log_weights
        mass, spread = 0, np.exp(log_var / 2)
        at, values = self._cells(mean, spread)
        for c in range(mean.shape[-1]):
            z = (at - mean[..., c:c + 1]) / spread[..., c:c + 1]
            mass = mass + np.exp(log_weights[..., c:c + 1] + ops.normal_log_mass(z[..., :-1], z[..., 1:]))
        first = (mass * values).sum(axis=-1)
        return first, (mass * np.square(values - first[..., None])).sum(axis=-1)

    def mean(self, outputs):
        return self._moments(outputs)[0].astype(outputs.dtype)

    def variance(self, outputs):
        return self._moments(outputs)[1].astype(outputs.dtype)

    # ------------------------------------------------------------ EM

    def _values(self, x, outputs):
        """Of each feature: its outputs, the edges (u, 1) of its values that differ, and which of them each row has. On a
        device, which is not to wait, rows of one value are looked at one by one.
        """
        for j, column in enumerate(x.T):
            values, place = (column, slice(None)) if is_device_array(x) else np.unique(column, return_inverse=True)
            yield j, self.base.take(outputs, [j]), self.edges(values[:, None]), place

    def log_prob_each(self, x, outputs):
        joint = np.zeros_like(outputs, shape=(len(x), len(outputs)))
        for _, own, edges, place in self._values(x, outputs):
            log_p = log_mass(*self._whitened(edges, own))
            log_p = log_p - self._inside(own)[0][:, 0] if self._cut else log_p
            joint += np.where(np.isnan(log_p), 0, log_p)[place]
        return joint

    def _whitened(self, edges, outputs):
        """Edges (u, 1) in units of each component's normal, (u, k)."""
        mean, log_var = (a[:, 0] for a in self.base.split(outputs))
        return [(a - mean) * np.exp(-log_var / 2) for a in edges]

    def _inside(self, outputs):
        """log Z of the part inside of each component's normal, and its moments, (k, d); and 1 / Z, or 1 / LEAST.

        r rows that are seen stand for r / Z, of which r (1 - Z) / Z have the moments of the normal outside: together with
        those inside they have those of all of it, 0 and 1. So the mean moves by Z times what it would alone. Where Z is below
        LEAST, it is taken for it: Fisher's scoring, by the variance inside, would move it farther still.
        """
        mean, log_var = self.base.split(outputs)
        log_z, first, second = truncated(*((a - mean) * np.exp(-log_var / 2) for a in constant_like(self._outer, outputs)))
        return log_z, first, second, np.exp(-np.maximum(log_z, math.log(LEAST)))

    def moments(self, x, r, outputs):
        """(3, k, d): weights of the values seen; the first and second moments of whitened numbers, given the cells; of a grid
        that is cut with the rows outside that these stand for."""
        sums = []
        for _, own, edges, place in self._values(x, outputs):
            weights = r if is_device_array(x) else np.stack([np.bincount(place, w, len(edges[0])) for w in r.T], axis=1)
            _, first, second = truncated(*self._whitened(edges, own))
            seen = ~np.isnan(first)
            all_rows = [np.ones_like(first), first, second]
            if self._cut:
                _, *inside, rows = (a[:, 0] for a in self._inside(own))
                all_rows = [a + b for a, b in zip(all_rows, (rows - 1, -inside[0], rows - inside[1]), strict=True)]
            sums.append(np.stack([(weights * np.where(seen, a, 0)).sum(axis=0) for a in all_rows]))
        return np.stack(sums, axis=-1)

    def maximise(self, moments, outputs, pooled, smoothing):
        return self.base.maximise(moments + self._prior(outputs, pooled, smoothing), outputs, pooled, 0.0)

    def expected_moments(self, outputs, n, pooled, smoothing):
        rows = n[:, None] * self._inside(outputs)[3] if self._cut else n[:, None]
        of_one = self.base.expected_moments(outputs, np.ones_like(n), pooled, 0.0)
        return of_one * (rows + smoothing) - self._prior(outputs, pooled, smoothing)

    def _prior(self, outputs, pooled, rows):
        """The moments of so many rows like all rows."""
        (mean, log_var), (all_mean, all_log_var) = self.base.split(outputs), self.base.split(pooled)
        shift = (all_mean - mean) * np.exp(-log_var / 2)
        return rows * np.stack([np.ones_like(mean), shift, np.square(shift) + np.exp(all_log_var - log_var)])

    def log_prob_around(self, x, pooled):
        log_var, y = self.base.split(pooled)[1][0], self.latent(x.astype(np.float64))
        log_p = log_mass(*((self.edges(x) - y) * np.exp(-log_var / 2)))
        if self._cut:
            log_p = log_p - log_mass(*((a - y) * np.exp(-log_var / 2) for a in constant_like(self._outer, y)))
        return np.where(np.isnan(log_p), 0.0, log_p).sum(axis=1)


def truncated(low, high):
    """log P(low < z < high) of a standard normal z, and its first and second moments there; NaN where an edge is."""
    low, high, wide, log_p = _narrow(low, high)
    first = (low + high) / 2
    second = np.square(first) + np.square(high - low) / 12
    return _where_wide(wide, _wide, low, high, [log_p, first, second])


def log_mass(low, high):
    """log P(low < z < high) alone."""
    low, high, wide, log_p = _narrow(low, high)
    return _where_wide(wide, lambda *ends: [ops.normal_log_mass(*ends)], low, high, [log_p])[0]


def _narrow(low, high):
    """Both ends as finite numbers, whether they are far apart, and log P where they are not: density times width."""
    low, high = np.clip(low, -FAR, FAR), np.clip(high, -FAR, FAR)
    width, middle = high - low, (low + high) / 2
    log_p = np.log(np.maximum(width, 1e-300)) - (LOG_2PI + np.square(middle)) / 2  # to 1e-9 of it
    return low, high, width * (1 + np.abs(middle)) > NARROW, log_p


def _where_wide(wide, compute, low, high, others):
    """What is computed of the intervals that are wide, and of all others what they have."""
    if is_device_array(low):  # which would have to be waited for
        return [np.where(wide, *each) for each in zip(compute(np.where(wide, low, -1.0), np.where(wide, high, 1.0)), others,
                                                      strict=True)]
    for other, value in zip(others, compute(low[wide], high[wide]), strict=True):
        other[wide] = value
    return others


def _wide(low, high):
    """truncated(low, high) of intervals that are not narrow."""
    mass = ops.normal_log_mass(low, high)
    at_low, at_high = (np.exp(-np.square(a) / 2 - LOG_2PI / 2 - mass) for a in (low, high))
    mean = np.clip(at_low - at_high, low, high)
    most = np.maximum(np.square(low), np.square(high))
    return mass, mean, np.maximum(np.minimum(1 + low * at_low - high * at_high, most), np.square(mean))


_cells = ops.op(lambda x, head: head.edges(x), name="cells of a grid")  # which carry no derivative
