"""Expectation maximisation for a mixture of Gaussians: the rows as it sees them, its two steps, its starts.

    p(z) = sum_k w_k N(z; m_k, C_k),    C_k^-1 = P_k P_k^T,    y_k = (z - m_k) P_k

Rows are seen in standard coordinates, z = (x - centre) / scale in float64, so that a fit does not care where the data
lie or in what units. The statistics of a component are moments of its own y_k under the parameters of the step before,
where the component is the unit ball, however thin it is in z. A row of which only z F^T is seen, for the columns of an
orthonormal frame F, has E[y | y F] = y F F^T, and covariance 1 - F F^T: so missing values cost no approximation.

Legend: n rows, d features, k components. References: Dempster, Laird & Rubin, Maximum likelihood from incomplete data
via the EM algorithm (1977); Ghahramani & Jordan, Supervised learning from incomplete data via an EM approach (1994);
Arthur & Vassilvitskii, k-means++ (2007).
"""
import dataclasses
import functools
import math
import operator

import numpy as np

from .. import ops
from ..fused import LOG_2PI
from ..heads.base import EMPTY
from ..heads.normal import THINNEST, typical_variance
from ..kernels import em
from ..kernels._cuda import asarray, asnumpy
from ..nn import Parameters
from .covariances import Covariance, transpose

SHARP = 1e4       # precision factor that makes the E-step assign every row to its nearest mean
BLOCK = 2**22     # values of rows that are copied at once, where they have to be
START = 2**24     # values of rows that a start looks at


# ---------------------------------------------------------------- components

@dataclasses.dataclass
class Components:
    """Weighted Gaussians: log_weights (k,), means (k, d), and the precision factor that `form` reads.

    floor (d,): the variances that the M-step has added to those of the rows.
    """

    form: Covariance
    log_weights: np.ndarray
    means: np.ndarray
    factor: np.ndarray
    floor: np.ndarray

    @classmethod
    def of(cls, form, params, floor):
        """From free parameters."""
        logits = params["logits"]
        return cls(form, logits - ops.logsumexp(logits), params["means"], form.from_free(params["factor"]), floor)

    def params(self):
        """The free parameters."""
        return Parameters({"logits": self.log_weights, "means": self.means, "factor": self.form.to_free(self.factor)})

    def log_prob(self, z):
        """(n,) log-densities of rows z, differentiable."""
        return ops.logsumexp(self.log_weights[:, None] + self.form.log_prob(z, self.means, self.factor), axis=0)

    def arrays(self):
        """What the components are made of, by name."""
        return {"log_weights": self.log_weights, "means": self.means, "factor": self.factor, "floor": self.floor}

    def launch(self):
        """What a kernel of kernels.em needs to know of the components."""
        d = self.means.shape[1]
        offset = self.log_weights + self.form.log_det(self.factor, d) - d / 2 * LOG_2PI
        shift = self.form.apply(self.means[:, None], self.factor)[:, 0]
        return offset, shift, np.ascontiguousarray(self.form.matrices(self.factor, d))

    def marginal(self, columns):
        """The components of some columns, and the frame (g, d, o) in which they see y."""
        factor, frame = self.form.marginal(self.factor, columns, self.means.shape[1])
        means = np.ascontiguousarray(self.means[:, columns])
        return Components(self.form, self.log_weights, means, factor, self.floor[columns]), frame

    def conditional(self, columns):
        """The factor and the floor of some columns, given all others."""
        return {"factor": self.form.conditional(self.factor, columns), "floor": self.floor[columns]}

    def complete(self, z, columns, noise=None):
        """Rows of which z (n, o) is seen, completed under each component, (k, n, d): by E[z], or a draw from normals (n, d)."""
        seen, frame = self.marginal(columns)
        y = self.form.apply(z - seen.means[:, None], seen.factor) @ transpose(frame)
        if noise is not None:
            y += noise - noise @ frame @ transpose(frame)
        return self.means[:, None] + self.form.unwhiten(y, self.factor)


# ---------------------------------------------------------------- rows

def patterns(x):
    """(row numbers, columns that have a value in them) of every pattern of missing values (NaN) in x."""
    if not np.isnan(x.min(initial=0)):
        yield slice(None), None
        return
    seen = ~np.isnan(x)
    _, member = np.unique(np.packbits(seen, axis=1), axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(member.ravel()[order])) + 1):
        columns = np.flatnonzero(seen[rows[0]])
        yield rows, None if len(columns) == x.shape[1] else columns


class Rows:
    """Weighted rows, NaN where a value is missing, and the coordinates that they are seen in."""

    def __init__(self, x, weights, centre, scale, device="cpu"):
        self.x, self.weights, self.centre, self.scale, self.device = x, weights, centre, scale, device

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        """Some rows in standard coordinates; a missing value is the mean."""
        z = (self.x[index] - self.centre) / self.scale
        return np.where(np.isnan(z), 0.0, z)

    def weighted(self, index):
        """The weights of some rows."""
        return np.ones(len(self.x[index])) if self.weights is None else self.weights[index].astype(np.float64)

    @functools.cached_property
    def _on_device(self):
        return asarray(self.x), asarray(self.weighted(slice(None)))

    def there(self, index):
        """Some rows and their weights, where the kernels compute."""
        x, weights = (self.x, None) if self.device == "cpu" else self._on_device
        return x[index], self.weighted(index) if weights is None else weights[index]

    def blocks(self):
        """Slices that make up all rows."""
        size = max(1, BLOCK // max(1, self.x.shape[1]))
        return [slice(low, low + size) for low in range(0, len(self), size)]

    @functools.cached_property
    def groups(self):
        """(row numbers, columns) of rows in which the same columns have values; for columns, None where all have."""
        missing = any(np.isnan(self.x[block].min()) for block in self.blocks())
        if missing:
            return list(patterns(self.x))
        return [(block, None) for block in (self.blocks() if self.device == "cpu" else [slice(None)])]

    def mean(self, function):
        """The weighted means (d,) of a function of the columns, over the values that there are."""
        total, weight = 0.0, 0.0
        for block in self.blocks():
            w, z = self.weighted(block), (self.x[block] - self.centre) / self.scale
            seen = ~np.isnan(z)
            total, weight = total + w @ np.where(seen, function(z), 0.0), weight + w @ seen
        return total / weight

    def choose(self, stream, width):
        """The numbers (m,) of all rows, or of so many that, at `width` values each, they fit into memory.

        They come in the order of a random projection: what is drawn does not depend on the order they were given in.
        """
        enough, direction = START // width, stream.normal(self.x.shape[1])
        index = np.arange(len(self)) if len(self) <= enough else np.sort(stream.integers(len(self), enough))
        return index[np.argsort(self[index] @ direction, kind="stable")]

    def sample(self, stream):
        """Rows (m, d) in standard coordinates and their weights (m,), as they are chosen."""
        index = self.choose(stream, self.x.shape[1])
        return self[index], self.weighted(index)

    def distinct(self, enough):
        """How many different rows there are, counted no further than is enough."""
        found = np.empty((0, self.x.shape[1]))
        for low in range(0, len(self), 1024):
            found = np.unique(np.concatenate([found, self[low:low + 1024]]), axis=0)
            if len(found) >= enough:
                break
        return len(found)


def spread(x, weights, columns=None):
    """The weighted means and standard deviations (d,) of the values that the columns of x have.

    Raises ValueError for a column without values, or with values too far apart; columns are their numbers in the user's X.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        origin = np.nan_to_num(x[0].astype(np.float64))
        centre = origin + Rows(x, weights, origin, 1.0).mean(np.positive)
        peak = np.maximum(np.fmax.reduce(x) - centre, centre - np.fmin.reduce(x))
        std = peak * np.sqrt(Rows(x, weights, centre, np.where(peak > 0, peak, 1)).mean(np.square))
    for wrong, words in ((np.isnan(centre), "has no values; drop it"),
                         (~np.isfinite(std), "has values too far apart for float64; divide it by a constant")):
        if wrong.any():
            column = wrong.argmax() if columns is None else columns[wrong.argmax()]
            raise ValueError(f"fit: column {column} of X {words}")
    return centre, std


# ---------------------------------------------------------------- expectation and maximisation

@dataclasses.dataclass
class Statistics:
    """What an M-step has to know of rows: those of rows seen with the same parameters add, in any grouping.

    n (k,) rows per component; moments: arrays (k, ...), of Gaussians the first (k, d) and second of the whitened rows, else
    one for each head; nats: the sum of the rows' log-densities, in the units of the data; weight: how many rows there were.
    """

    n: np.ndarray
    moments: tuple
    nats: float
    weight: float

    def __add__(self, other):
        moments = tuple(a + b for a, b in zip(self.moments, other.moments, strict=True))
        return Statistics(self.n + other.n, moments, self.nats + other.nats, self.weight + other.weight)

    def __mul__(self, factor):
        return Statistics(self.n * factor, tuple(a * factor for a in self.moments), self.nats * factor, self.weight * factor)


def expect(components, rows):
    """The E-step: the statistics of all rows."""
    form, launch = components.form, components.launch()

    def statistics(*args):
        return map(asnumpy, em.statistics(*args))

    def gather(index, columns):
        x, w = rows.there(index)
        if columns is None:
            scale = rows.scale
            n, first, second, nats = statistics(*ops._c(x), w, rows.centre, scale, *launch)
        else:
            (seen, frame), scale = components.marginal(columns), rows.scale[columns]
            n, first, second, nats = statistics(*ops._c(x[:, columns]), w, rows.centre[columns], scale, *seen.launch())
            unseen = form.moments(np.eye(frame.shape[1]) - frame @ transpose(frame))
            first, second = (first[:, None] @ transpose(frame))[:, 0], form.rotate(second, frame) + n[:, None, None] * unseen
        weight = float(w.sum())
        return Statistics(n, (first, second), float(nats - weight * np.log(scale).sum()), weight)

    return functools.reduce(operator.add, (gather(*group) for group in rows.groups))


def maximise(components, statistics, reg_covar):
    """The M-step: new components, and which of them (k,) are empty or collapsed and have no parameters.

    C_k = S_k + reg_covar diag(v), of the rows' covariances S_k and the variances v that are typical within the components.
    """
    form, n, (first, second) = components.form, np.maximum(statistics.n, EMPTY), statistics.moments
    shift = first / n[:, None]
    second = second - n[:, None, None] * form.outer(shift)
    covariance, floor = form.pool(second, n), np.zeros(first.shape[1])
    if reg_covar > 0:
        variances = form.variances(covariance, components.factor)
        floor += reg_covar * typical_variance(variances, n[:, None] if len(variances) > 1 else n.sum())
        covariance = covariance + form.whitened(floor, components.factor)
    factor = form.update(components.factor, covariance)
    size = np.abs(factor).reshape(len(factor), -1).max(axis=1)
    sound = size * THINNEST < 1  # false for NaN
    factor[~sound] = form.from_free(np.zeros(factor.shape[1:])[None])
    means = components.means + form.unwhiten(shift[:, None], components.factor)[:, 0]
    return Components(form, np.log(n / n.sum()), means, factor, floor), ~sound | (statistics.n <= EMPTY)


def remember(components):
    """The statistics, of weight 1, from which an M-step makes these same components."""
    form, (k, d), n = components.form, components.means.shape, np.exp(components.log_weights)
    second = form.moments(np.eye(d)[None]) - form.matrices(form.whitened(components.floor, components.factor), d)
    return Statistics(n, (np.zeros((k, d)), n[:, None, None] * second), 0.0, 1.0)


def reseed(components, lost, rows, stream):
    """Put every lost component on a row of its own, with the data's covariance and an equal share of the weight."""
    components.log_weights[lost] = -math.log(len(lost))
    components.log_weights -= float(ops.logsumexp(components.log_weights))
    z, weights = rows.sample(stream)
    for k in np.flatnonzero(lost):
        components.means[k] = draw(z, weights, stream)
    lost = lost.reshape(len(components.factor), -1).all(axis=1)
    components.factor[lost] = components.form.from_free(np.zeros(components.factor.shape[1:])[None])


def alike(form, means, sharpness):
    """Components of equal weight with these means and precision factor sharpness * 1."""
    factor = form.from_free(np.zeros(form.shape(*means.shape)))
    return Components(form, np.full(len(means), -math.log(len(means))), means, sharpness * factor, np.zeros(means.shape[1]))


# ---------------------------------------------------------------- first means

def draw(z, weights, stream):
    """One row, drawn by its weight."""
    cumulative = np.cumsum(weights)
    return z[min(int(np.searchsorted(cumulative, stream.uniform() * cumulative[-1], side="right")), len(z) - 1)]


def squared_distances(z, means):
    """Of every row to each of l means, (n, l)."""
    return np.stack([np.square(z - mean).sum(axis=1) for mean in means], axis=1)


def k_means_plus_plus(z, weights, k, stream, distances=squared_distances, n_draws=None):
    """Rows drawn by their distance to the nearest of those before: each the best of n_draws, or of 2 + log k draws.

    Best is what leaves the smallest sum of distances (Arthur & Vassilvitskii, 2007, the greedy variant). distances(z, means)
    may be of another divergence than the squared distance (Nock, Luosto & Kivinen, Mixed Bregman clustering, 2008).
    """
    means, n_draws = [draw(z, weights, stream)], n_draws or 2 + int(math.log(k))
    nearest = distances(z, np.stack(means))[:, 0]
    while len(means) < k:
        draws = np.stack([draw(z, weights * nearest, stream) for _ in range(n_draws)])
        left = np.minimum(nearest[:, None], distances(z, draws))
        best = (weights @ left).argmin()
        means, nearest = [*means, draws[best]], left[:, best].copy()
    return np.stack(means)


def k_means(z, weights, k, stream, max_iter=100, tol=1e-4):
    """k_means_plus_plus, then every mean moved to the centre of the rows nearest to it until they rest (Lloyd, 1982)."""
    means, size = k_means_plus_plus(z, weights, k, stream), max(1, BLOCK // k)
    for _ in range(max_iter):
        n, total = np.zeros(k), np.zeros_like(means)
        for low in range(0, len(z), size):
            rows = z[low:low + size]
            nearest = (np.square(means).sum(axis=1) / 2 - rows @ means.T).argmin(axis=1)
            member = np.zeros((len(rows), k))
            member[np.arange(len(rows)), nearest] = weights[low:low + size]
            n, total = n + member.sum(axis=0), total + member.T @ rows
        before, means = means, np.where(n[:, None] > 0, total / np.maximum(n, EMPTY)[:, None], means)
        if np.square(means - before).sum() <= tol:
            break
    return means


def random_rows(z, weights, k, stream):
    """Rows drawn by their weight."""
    return np.stack([draw(z, weights, stream) for _ in range(k)])


def random_means(z, weights, k, stream):
    """Normal draws with the data's mean and standard deviations."""
    return stream.normal((k, z.shape[1]))


STARTS = {"kmeans": k_means, "k-means++": k_means_plus_plus, "random_from_data": random_rows, "random": random_means}
