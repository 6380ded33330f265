"""A mixture of Gaussians, fitted by expectation maximisation or along the gradient.

    p(x) = sum_k w_k N(x; m_k, C_k),    C_k^-1 = P_k P_k^T,    y_k = (x - m_k) P_k,
    log N(x; m_k, C_k) = log det P_k - |y_k|^2 / 2 - d/2 log 2 pi

Rows are first brought to standard coordinates, z = (x - centre) / scale in float64, so that a fit does not care where the
data lie or in what units. EM works in whitened coordinates: the statistics of a component are moments of its own y_k
under the parameters of the step before, where the component is the unit ball, however thin it is in the data's space.

Legend: n rows, d features, k components; a factor P has g = k matrices or rows, or g = 1 where components share it.
References: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm (1977); Arthur &
Vassilvitskii, k-means++ (2007).
"""
import abc
import contextlib
import dataclasses
import functools
import math
import operator
import warnings

import numpy as np

from .. import ops
from ..nn import Parameters
from ..random import Stream
from ..train import ConvergenceWarning
from .base import Capabilities, ParametricModel

THINNEST = 1e-7  # standard deviation, in units of the data's, below which a component has collapsed
EMPTY = 1e-8     # rows, below which a component has none
SHARP = 1e4      # precision factor that makes the E-step assign every row to its nearest mean
FAR = 1e100      # standard deviations, the distance at which rows farther out are assigned


# ---------------------------------------------------------------- covariances: one object per type

class Covariance(abc.ABC):
    """The form that the k covariances take, known by their precision factor P.

    shared: the axes of P along which there is one value for all; these axes have length 1 in P, and none in the public
    attributes. y is (k, n, d), weights of rows (k, n), means (k, d).
    """

    shared = ()

    def shape(self, k, d):
        """P's."""
        return tuple(1 if i in self.shared else m for i, m in enumerate(self._full_shape(k, d)))

    def pool(self, scatter, n):
        """Scatter matrices to covariances, in the form that P has; n (k,) are the rows in each component."""
        n = np.broadcast_to(n.reshape(-1, *[1] * (scatter.ndim - 1)), scatter.shape)
        return scatter.sum(axis=self.shared, keepdims=True) / n.sum(axis=self.shared, keepdims=True)

    def log_prob(self, y, factor):
        """(k, n) log-densities of whitened rows."""
        d = y.shape[-1]
        return self.log_det(factor, d)[:, None] - ops.einsum("knd,knd->kn", y, y) / 2 - d / 2 * math.log(2 * math.pi)

    def units(self, std):
        """The units (d,) to measure features of standard deviations std in; a constant one's are typical of the others'."""
        typical = std.max() * np.sqrt(np.square(std / std.max()).mean())
        return np.full_like(std, typical) if 1 in self.shared else np.where(std > 0, std, typical)

    def public(self, array):
        """An array of P's shape as the attributes show it."""
        return np.squeeze(array, axis=self.shared)

    def private(self, array):
        """The inverse of public."""
        return np.expand_dims(array, self.shared)

    @abc.abstractmethod
    def _full_shape(self, k, d):
        """P's shape with nothing shared."""

    @abc.abstractmethod
    def n_free(self, k, d):
        """How many numbers the covariances are."""

    @abc.abstractmethod
    def whiten(self, x, means, factor):
        """y = (x - m_k) P_k of x (n, d)."""

    @abc.abstractmethod
    def unwhiten(self, y, factor):
        """y P_k^-1, a deviation from the mean."""

    @abc.abstractmethod
    def log_det(self, factor, d):
        """log det P, (g,)."""

    @abc.abstractmethod
    def scatter(self, y, weights):
        """The second moments, sum_n weights_kn y_kn y_kn^T, as far as this form needs them."""

    @abc.abstractmethod
    def update(self, factor, covariance, ridge):
        """The factor of covariance + ridge, given in the coordinates that the old factor whitens; NaN if not positive."""

    @abc.abstractmethod
    def to_free(self, factor):
        """Unconstrained numbers in P's shape: what has to be positive by its logarithm. 0 is the unit covariance."""

    @abc.abstractmethod
    def from_free(self, free):
        """The inverse of to_free, differentiable."""

    @abc.abstractmethod
    def rescale(self, factor, scale):
        """The factor after the features are multiplied by scale (d,)."""

    @abc.abstractmethod
    def from_precision(self, precision):
        """P from P P^T; NaN if that is not positive."""

    @abc.abstractmethod
    def precision(self, factor):
        """P P^T."""

    @abc.abstractmethod
    def covariance(self, factor):
        """(P P^T)^-1."""


class Dense(Covariance):
    """Full matrices; P (g, d, d) is upper triangular."""

    def _full_shape(self, k, d):
        return k, d, d

    def n_free(self, k, d):
        return self.shape(k, d)[0] * d * (d + 1) // 2

    def whiten(self, x, means, factor):
        return ops.matmul(x, factor) - ops.matmul(means[:, None], factor)

    def unwhiten(self, y, factor):
        return _t(np.linalg.solve(_t(factor), _t(y)))

    def log_det(self, factor, d):
        return ops.sum(ops.log(ops.diagonal(factor, axis1=1, axis2=2)), axis=1)

    def scatter(self, y, weights):
        return _t(y * weights[:, :, None]) @ y

    def update(self, factor, covariance, ridge):
        return factor @ _t(np.linalg.inv(cholesky(covariance + ridge * (_t(factor) @ factor))))

    def to_free(self, factor):
        free, i = factor.copy(), np.arange(factor.shape[-1])
        free[:, i, i] = np.log(factor[:, i, i])
        return free

    def from_free(self, free):
        eye = np.eye(free.shape[-1])
        return ops.triu(free, 1) + eye * ops.exp(eye * free)

    def rescale(self, factor, scale):
        return factor / scale[:, None]

    def from_precision(self, precision):
        return np.flip(cholesky(np.flip(precision, axis=(1, 2))), axis=(1, 2))

    def precision(self, factor):
        return factor @ _t(factor)

    def covariance(self, factor):
        inverse = np.linalg.inv(factor)
        return _t(inverse) @ inverse


class Axes(Covariance):
    """Diagonal matrices; P (g, d) or (g, 1) holds the inverse standard deviations."""

    def _full_shape(self, k, d):
        return k, d

    def n_free(self, k, d):
        return math.prod(self.shape(k, d))

    def whiten(self, x, means, factor):
        return (x - means[:, None]) * factor[:, None]

    def unwhiten(self, y, factor):
        return y / factor[:, None]

    def log_det(self, factor, d):
        return ops.sum(ops.log(factor), axis=1) * (d / factor.shape[1])

    def scatter(self, y, weights):
        return (weights[:, None] @ (y * y))[:, 0]

    def update(self, factor, covariance, ridge):
        with np.errstate(invalid="ignore", divide="ignore"):
            return factor / np.sqrt(covariance + ridge * factor**2)

    def to_free(self, factor):
        return np.log(factor)

    def from_free(self, free):
        return ops.exp(free)

    def rescale(self, factor, scale):
        return factor / scale[:factor.shape[1]]

    def from_precision(self, precision):
        return np.sqrt(precision)

    def precision(self, factor):
        return factor**2

    def covariance(self, factor):
        return 1 / factor**2


class Full(Dense):
    """A matrix of its own for every component: covariances_ (k, d, d)."""


class Tied(Dense):
    """One matrix for all components: covariances_ (d, d)."""

    shared = (0,)


class Diag(Axes):
    """A variance per component and feature: covariances_ (k, d)."""


class Spherical(Axes):
    """A variance per component: covariances_ (k,)."""

    shared = (1,)


COVARIANCES = {"full": Full(), "tied": Tied(), "diag": Diag(), "spherical": Spherical()}


def _t(x):
    return np.swapaxes(x, -1, -2)


def cholesky(matrices):
    """Lower triangular factors (g, d, d); NaN where a matrix is not positive definite."""
    factors = np.full_like(matrices, np.nan)
    for factor, matrix in zip(factors, matrices, strict=True):
        with contextlib.suppress(np.linalg.LinAlgError):
            factor[:] = np.linalg.cholesky(matrix)
    return factors


# ---------------------------------------------------------------- expectation and maximisation

class Rows:
    """Weighted rows in standard coordinates, z = (x - centre) / scale in float64, made a few at a time."""

    def __init__(self, x, weights, centre, scale, size):
        self.x, self.weights = x, np.ones(len(x)) if weights is None else weights.astype(np.float64)
        self.centre, self.scale, self.size = centre, scale, size

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return (self.x[index] - self.centre) / self.scale

    def __iter__(self):
        for i in range(0, len(self), self.size):
            yield self[i:i + self.size], self.weights[i:i + self.size]

    def mean(self, function):
        """The weighted mean of a function of the rows."""
        return sum(w @ function(z) for z, w in self) / self.weights.sum()

    def draw(self, stream, density=1.0):
        """One row, drawn by its weight times density."""
        cumulative = np.cumsum(self.weights * density)
        return self[min(int(np.searchsorted(cumulative, stream.uniform() * cumulative[-1], side="right")), len(self) - 1)]

    def distinct(self, enough):
        """How many different rows there are, counted no further than is enough."""
        n, found = 4 * enough, 0
        while found < enough and n < 4 * len(self) + 4 * enough:
            found, n = len(np.unique(self[:n], axis=0)), 4 * n
        return found


@dataclasses.dataclass
class Statistics:
    """What the E-step gathers from rows; sums over the same parameters add.

    n (k,) rows per component, first (k, d) and second: moments of the whitened rows, nats: sum of log-densities.
    """

    n: np.ndarray
    first: np.ndarray
    second: np.ndarray
    nats: float
    weight: float

    def __add__(self, other):
        return Statistics(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def natural(covariance, params):
    """Free parameters as (log-weights (k,), means (k, d), factor)."""
    logits = params["logits"]
    return logits - ops.logsumexp(logits), params["means"], covariance.from_free(params["factor"])


def joint_log_prob(covariance, log_weights, means, factor, z):
    """log w_k N(z; m_k, C_k), (k, n), and the whitened rows it was made from."""
    y = covariance.whiten(z, means, factor)
    return log_weights[:, None] + covariance.log_prob(y, factor), y


def posterior(joint):
    """The responsibilities exp(joint - log_prob), (k, n), and the log-density they are relative to, (n,)."""
    shift = joint.max(axis=0)
    r = np.exp(joint - shift)
    total = r.sum(axis=0)
    return r / total, shift + np.log(total)


def expect(covariance, params, rows):
    """The E-step: the statistics of all rows."""
    parameters = natural(covariance, params)

    def gather(chunk):
        z, w = chunk
        joint, y = joint_log_prob(covariance, *parameters, z)
        r, nats = posterior(joint)
        r *= w
        return Statistics(r.sum(axis=1), (r[:, None] @ y)[:, 0], covariance.scatter(y, r), float(w @ nats), float(w.sum()))

    return functools.reduce(operator.add, map(gather, rows))


def maximise(covariance, params, statistics, ridge):
    """The M-step: new parameters, and which components (k,) are empty or collapsed and have none."""
    factor = covariance.from_free(params["factor"])
    n = np.maximum(statistics.n, EMPTY)
    shift = (statistics.first / n[:, None])[:, None]
    scatter = statistics.second - covariance.scatter(shift, n[:, None])
    new = covariance.update(factor, covariance.pool(scatter, n), ridge)
    size = np.abs(new).reshape(len(new), -1).max(axis=1)
    sound = size * THINNEST < 1  # false for NaN
    means = params["means"] + covariance.unwhiten(shift, factor)[:, 0]
    new[~sound] = 1
    params = Parameters({"logits": np.log(n / n.sum()), "means": means, "factor": covariance.to_free(new)})
    return params, ~sound | (statistics.n <= EMPTY)


def reseed(params, lost, rows, stream):
    """Put every lost component on a row of its own, with the data's covariance and an equal share of the weight."""
    params["logits"][lost] = -math.log(len(lost))
    params["logits"] -= float(ops.logsumexp(params["logits"]))
    for k in np.flatnonzero(lost):
        params["means"][k] = rows.draw(stream)
    factor = params["factor"]
    factor[lost.reshape(len(factor), -1).all(axis=1)] = 0


# ---------------------------------------------------------------- first means

def k_means_plus_plus(rows, k, stream):
    """Rows drawn by their squared distance to the nearest of those before: each the best of 2 + log k draws.

    Best is what leaves the smallest sum of squared distances (Arthur & Vassilvitskii, 2007, the greedy variant).
    """
    def nearest(mean):
        return np.minimum(distance, np.concatenate([np.square(z - mean).sum(axis=1) for z, _ in rows]))

    means, distance = [rows.draw(stream)], np.inf
    while len(means) < k:
        distance = nearest(means[-1])
        draws = [rows.draw(stream, distance) for _ in range(2 + int(math.log(k)))]
        means.append(min(draws, key=lambda mean: rows.weights @ nearest(mean)))
    return np.stack(means)


def k_means(rows, k, stream, max_iter=100, tol=1e-4):
    """k_means_plus_plus, then every mean moved to the centre of the rows nearest to it until they rest (Lloyd, 1982)."""
    means = k_means_plus_plus(rows, k, stream)
    for _ in range(max_iter):
        n, total = np.zeros(k), np.zeros_like(means)
        for z, w in rows:
            nearest = (np.square(means).sum(axis=1) / 2 - z @ means.T).argmin(axis=1)
            member = np.zeros((len(z), k))
            member[np.arange(len(z)), nearest] = w
            n += member.sum(axis=0)
            total += member.T @ z
        before, means = means, np.where(n[:, None] > 0, total / np.maximum(n, EMPTY)[:, None], means)
        if np.square(means - before).sum() <= tol:
            break
    return means


def random_rows(rows, k, stream):
    """Rows drawn by their weight."""
    return np.stack([rows.draw(stream) for _ in range(k)])


def random_means(rows, k, stream):
    """Normal draws with the data's mean and standard deviations."""
    return stream.normal((k, rows.x.shape[1]))


STARTS = {"kmeans": k_means, "k-means++": k_means_plus_plus, "random_from_data": random_rows, "random": random_means}


# ---------------------------------------------------------------- the model

@dataclasses.dataclass
class Attempt:
    """EM from one start: the parameters, and the mean nats under the start and after every iteration."""

    params: Parameters
    nats: list = dataclasses.field(default_factory=list)
    converged: bool = False
    reseeded: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class State:
    """An EM run at the end of an iteration: what the attempts before this one reached, the best of them, the present one."""

    stream: Stream
    attempt: Attempt | None = None
    best: Attempt | None = None
    reached: list = dataclasses.field(default_factory=list)

    def save(self):
        """(arrays, JSON-able dict) that restore() takes back."""
        attempts = {name: a for name in ("attempt", "best") if (a := getattr(self, name))}
        arrays = {f"{name}.{key}": value for name, a in attempts.items() for key, value in a.params.items()}
        rest = {name: {**vars(a), "params": list(a.params)} for name, a in attempts.items()}
        return arrays, {**rest, "stream": self.stream.state(), "reached": self.reached}

    @classmethod
    def restore(cls, arrays, rest):
        """The state that save() described."""
        attempts = {name: Attempt(**{**a, "params": Parameters({key: arrays[f"{name}.{key}"] for key in a["params"]})})
                    for name, a in rest.items() if name in ("attempt", "best")}
        return cls(stream=Stream.from_state(rest["stream"]), reached=rest["reached"], **attempts)


def _likelier(state):
    evaluated = [a for a in (state.best, state.attempt) if a and a.nats]
    return max(evaluated, key=lambda a: a.nats[-1], default=None)


class GaussianMixture(ParametricModel):
    """Mixture of Gaussians: p(x) = sum_k w_k N(x; m_k, C_k).

    n_components      k
    covariance_type   "full", "tied" (one for all), "diag" or "spherical"
    tol, max_iter     EM stops when the mean log-likelihood changes by no more than tol nats, or after max_iter iterations
    reg_covar         added to every variance of every component, relative to that feature's variance in the data (to the
                      mean variance if spherical); 0 gives the exact maximum of the likelihood
    n_init            EM runs from this many starts; the likeliest is kept
    init_params       the first means: "kmeans", "k-means++", "random_from_data" or "random"
    weights_init, means_init, precisions_init    the start, as far as it is known, shaped like the attributes
    solver            "em", or "adam": the gradient of the same likelihood, with the options of npgen.train.Options from
                      max_epochs on (reg_covar then acts on the start only)
    preprocess        None, or a map to the space that the mixture lives in (see npgen.preprocess.make)

    encode gives the responsibilities (n, k); decode gives their mean of the components' means, R m: the posterior mean
    of the component's centre, not the row. Arithmetic is float64 whatever the rows are; answers have the rows' dtype.

    Attributes, float64 and in the space of `preprocess`: weights_ (k,), means_ (k, d), covariances_, precisions_,
    precisions_cholesky_ (shapes: see Full, Tied, Diag and Spherical), converged_, n_iter_, lower_bound_ and lower_bounds_
    (mean nats after each iteration, in the data's own space), fit_report_ (constant columns, components seeded anew, the
    mean nats that each start reached). Reference: Dempster, Laird & Rubin (1977).
    """

    _capabilities = Capabilities("exact", "responsibilities of the components", invertible=False)
    _default_dtype = np.float64

    def __init__(self, n_components=1, *, covariance_type="full", tol=1e-3, reg_covar=1e-6, max_iter=100, n_init=1,
                 init_params="kmeans", weights_init=None, means_init=None, precisions_init=None, solver="em", preprocess=None,
                 max_epochs=200, batch_size=100, learning_rate=1e-2, validation_fraction=0.1, patience=20, restore_best=True,
                 callbacks=(), verbose=False, random_state=None):
        self.n_components, self.covariance_type = n_components, covariance_type
        self.solver, self.preprocess = solver, preprocess
        self.tol, self.reg_covar, self.max_iter, self.n_init = tol, reg_covar, max_iter, n_init
        self.init_params, self.weights_init = init_params, weights_init
        self.means_init, self.precisions_init = means_init, precisions_init
        self.max_epochs, self.batch_size, self.learning_rate = max_epochs, batch_size, learning_rate
        self.validation_fraction, self.patience, self.restore_best = validation_fraction, patience, restore_best
        self.callbacks, self.verbose, self.random_state = callbacks, verbose, random_state

    # ------------------------------------------------------------ fitting

    def _learn(self, x, z, log_det, weights, stream, run):
        self._check_params()
        self.covariance_type_ = self.covariance_type
        self._mean_log_det = float(np.average(log_det.astype(np.float64), weights=weights))
        with np.errstate(under="ignore", over="ignore"):
            rows = self._standardise(z, weights)
            self._check_rows(rows)
            if self.solver == "em":
                self._iterate(rows, stream, run)
            else:
                self._follow_gradient(x, rows, weights, stream, run)
        self._finish()

    def _check_params(self):
        for name in ("n_components", "max_iter", "n_init"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("tol", "reg_covar"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or a positive number, got {value!r}")
        for name, known in (("covariance_type", COVARIANCES), ("init_params", STARTS), ("solver", ("em", "adam"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        self._options()

    def _standardise(self, z, weights):
        """Set centre_ and scale_; the rows seen from there."""
        def seen_from(centre, scale):
            return Rows(z, weights, centre, scale, self._rows_per_call)

        with np.errstate(invalid="ignore"):
            origin = z[0].astype(np.float64)
            self.centre_ = origin + seen_from(origin, 1.0).mean(np.positive)
            peak = np.maximum(z.max(axis=0) - self.centre_, self.centre_ - z.min(axis=0))
            std = peak * np.sqrt(seen_from(self.centre_, np.where(peak > 0, peak, 1)).mean(np.square))
        if not std.any():
            raise ValueError("fit: all rows of X are the same, which has no density; pass rows that differ")
        if not np.isfinite(std).all():
            raise ValueError("fit: the values of X are too far apart for float64; divide X by a constant")
        self.scale_ = self._covariance.units(std)
        self.fit_report_ = {"constant_columns": np.flatnonzero(std == 0).tolist()}
        return seen_from(self.centre_, self.scale_)

    def _check_rows(self, rows):
        found = rows.distinct(self.n_components)
        if found < self.n_components:
            raise ValueError(f"fit: X has {found} different rows for n_components={self.n_components}; lower n_components")
        if self.reg_covar == 0:
            one = self._params(np.zeros((1, self.n_features_in_)), 1.0)
            if maximise(self._covariance, one, expect(self._covariance, one, rows), 0.0)[1].any():
                raise ValueError("fit: X has constant columns, or columns that depend linearly on one another, and with "
                                 "reg_covar=0 no density; drop such columns, or set reg_covar above 0")

    def _params(self, means, sharpness):
        """Components of equal weight with these means and precision factor sharpness * I, in standard coordinates."""
        unit = self._covariance.from_free(np.zeros(self._covariance.shape(*means.shape)))
        factor = self._covariance.to_free(sharpness * unit)
        return Parameters({"logits": np.zeros(len(means)), "means": means, "factor": factor})

    def _given(self):
        """What the caller gave of the start, as free parameters."""
        k, d, covariance = self.n_components, self.n_features_in_, self._covariance
        precisions_shape = covariance.public(np.empty(covariance.shape(k, d))).shape

        def standardise(means):
            return (means - self.centre_) / self.scale_

        def factorise(precisions):
            factor = covariance.from_precision(covariance.private(precisions))
            return covariance.to_free(covariance.rescale(factor, 1 / self.scale_))

        parts = (("weights_init", "logits", (k,), np.log, "positive"), ("means_init", "means", (k, d), standardise, "finite"),
                 ("precisions_init", "factor", precisions_shape, factorise, "positive definite"))
        given = {}
        for name, key, shape, to_free, what in parts:
            if getattr(self, name) is not None:
                value = np.asarray(getattr(self, name), dtype=np.float64)
                if value.shape != shape:
                    raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
                with np.errstate(invalid="ignore", divide="ignore"):
                    given[key] = to_free(value)
                if not np.isfinite(given[key]).all():
                    raise ValueError(f"{name} must be {what}, got {value.tolist()}")
        return given

    def _start(self, rows, stream):
        given = self._given()
        means = given["means"] if "means" in given else STARTS[self.init_params](rows, self.n_components, stream)
        params = self._params(means, SHARP)
        if len(given) < 3:
            params = self._step(params, expect(self._covariance, params, rows), rows, stream)[0]
        return Parameters(dict(params) | given)

    def _step(self, params, statistics, rows, stream):
        params, lost = maximise(self._covariance, params, statistics, float(self.reg_covar))
        if lost.any():
            reseed(params, lost, rows, stream)
        return params, lost

    def _iterate(self, rows, stream, run):
        from tqdm import tqdm
        before = run.read()
        state = State.restore(*before) if before else State(stream)
        with tqdm(total=self.n_init * self.max_iter, unit="iteration", disable=not self.verbose) as bar:
            def report(attempt):
                entry = {"epoch": len(attempt.nats) - 1, "train_nats": -attempt.nats[-1], "valid_nats": None}
                start = len(state.reached)
                bar.set_postfix(nats=f"{entry['train_nats']:.3f}", start=f"{start + 1}/{self.n_init}", refresh=False)
                bar.update(start * self.max_iter + entry["epoch"] - bar.n)
                for callback in self.callbacks:
                    callback(entry)
                if run.path:
                    run.write(state)

            try:
                while len(state.reached) < self.n_init:
                    state.attempt = state.attempt or Attempt(self._start(rows, state.stream))
                    self._climb(state.attempt, rows, state.stream, report)
                    state.reached.append(state.attempt.nats[-1])
                    state.best, state.attempt = _likelier(state), None
            except KeyboardInterrupt:
                if _likelier(state) is None:
                    raise
                warnings.warn("fit: interrupted; the likeliest parameters so far are kept", ConvergenceWarning, stacklevel=5)
        best = _likelier(state)
        if not best.converged and len(best.nats) > self.max_iter:
            warnings.warn(f"fit: EM has not converged after max_iter={self.max_iter} iterations; raise max_iter or tol",
                          ConvergenceWarning, stacklevel=5)
        self.params_, self.converged_, self.lower_bound_ = best.params, best.converged, best.nats[-1]
        self.history_ = [{"epoch": i, "train_nats": -nats, "valid_nats": None} for i, nats in enumerate(best.nats)][1:]
        self.n_epochs_ = len(self.history_)
        self.fit_report_ |= {"reseeded": best.reseeded, "starts": state.reached}

    def _climb(self, attempt, rows, stream, report):
        """EM iterations until the attempt has converged or has had its share."""
        statistics = expect(self._covariance, attempt.params, rows)
        attempt.nats = attempt.nats or [self._mean_nats(statistics)]
        while not attempt.converged and len(attempt.nats) <= self.max_iter:
            params, lost = self._step(attempt.params, statistics, rows, stream)
            statistics = expect(self._covariance, params, rows)
            attempt.reseeded += [{"iteration": len(attempt.nats), "component": int(k)} for k in np.flatnonzero(lost)]
            attempt.params, attempt.nats = params, [*attempt.nats, self._mean_nats(statistics)]
            attempt.converged = not lost.any() and abs(attempt.nats[-1] - attempt.nats[-2]) <= self.tol
            report(attempt)

    def _mean_nats(self, statistics):
        return statistics.nats / statistics.weight - self._log_scale + self._mean_log_det

    def _follow_gradient(self, x, rows, weights, stream, run):
        self._descend(self._start(rows, stream), x, weights, stream, run)
        self.converged_ = self.n_epochs_ < self.max_epochs
        self.lower_bound_ = self._mean_nats(expect(self._covariance, self.params_, rows))

    def _loss(self, params, z, stream):
        return -self._log_density(params, z)

    def _finish(self):
        """Set the attributes that scikit-learn has, in the units of the data."""
        log_weights, means, factor = natural(self._covariance, self.params_)
        factor = self._covariance.rescale(factor, self.scale_)
        self.weights_, self.means_ = np.exp(log_weights), self.centre_ + self.scale_ * means
        for name, value in (("precisions_cholesky_", factor), ("precisions_", self._covariance.precision(factor)),
                            ("covariances_", self._covariance.covariance(factor))):
            setattr(self, name, self._covariance.public(value))

    def fit_predict(self, X, y=None, *, sample_weight=None):
        """fit, then predict the same rows."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    @property
    def _covariance(self):
        return COVARIANCES[self.covariance_type_]

    @property
    def _rows_per_call(self):
        return min(4096, max(32, 2**19 // (self.n_components * self.n_features_in_)))

    @property
    def _log_scale(self):
        return float(np.log(self.scale_).sum())

    @property
    def n_iter_(self):
        """Iterations (epochs) that the start which was kept took."""
        return self.n_epochs_

    @property
    def lower_bounds_(self):
        """Mean nats after each iteration (epoch)."""
        return [-entry["train_nats"] for entry in self.history_]

    # ------------------------------------------------------------ queries

    @property
    def n_latent_(self):
        return len(self.weights_)

    def predict(self, X):
        """The likeliest component of every row, (n,)."""
        return self._rowwise(self._encode, self._check("predict", X)).argmax(axis=1)

    def predict_proba(self, X):
        """encode under the name that scikit-learn gives it."""
        return self._rowwise(self._encode, self._check("predict_proba", X))

    def sample(self, n_samples=1, *, rng=None, return_components=False):
        """Rows drawn from the mixture, (n_samples, d), in no order; with return_components, also the component of each.

        rng and errors: see Model.sample.
        """
        x, components = self._draw(self._draw_pairs, n_samples, rng)
        return (x, components) if return_components else x

    def aic(self, X):
        """Akaike's information criterion on X, 2 parameters - 2 log-likelihood: lower is better."""
        return -2 * self.score(X) * len(X) + 2 * self._n_parameters()

    def bic(self, X):
        """The Bayesian information criterion on X, parameters * log n - 2 log-likelihood: lower is better."""
        return -2 * self.score(X) * len(X) + self._n_parameters() * math.log(len(X))

    def _n_parameters(self):
        k, d = self.means_.shape
        return k - 1 + k * d + self._covariance.n_free(k, d)

    def _at(self, dtype):
        return self.params_  # float64 for rows of any dtype

    def _log_density(self, params, x):
        joint, _ = joint_log_prob(self._covariance, *natural(self._covariance, params), (x - self.centre_) / self.scale_)
        return ops.astype(ops.logsumexp(joint, axis=0) - self._log_scale, x.dtype)

    def _represent(self, params, x):
        z = np.clip((x - self.centre_) / self.scale_, -FAR, FAR)
        joint, _ = joint_log_prob(self._covariance, *natural(self._covariance, params), z)
        return posterior(joint)[0].T.astype(x.dtype)

    def _reconstruct(self, params, r):
        return (r @ self.means_).astype(r.dtype)

    def _draw_pairs(self, n, stream):
        x, components = self._draw_components(self.params_, n, stream)
        return self.preprocess_.inverse(x), components

    def _draw_rows(self, params, n, stream):
        return self._draw_components(params, n, stream)[0]

    def _draw_components(self, params, n, stream):
        log_weights, means, factor = natural(self._covariance, params)
        edges = np.cumsum(np.exp(log_weights))
        components = np.searchsorted(edges[:-1], stream.spawn().uniform(n) * edges[-1], side="right")
        z = stream.normal((n, means.shape[1]))
        for k in np.unique(components):
            at, own = components == k, k % len(factor)
            z[at] = means[k] + self._covariance.unwhiten(z[None, at], factor[own:own + 1])[0]
        return (self.centre_ + self.scale_ * z).astype(self.dtype_), components

    # ------------------------------------------------------------ files

    def _state(self):
        arrays, fitted = super()._state()
        fitted |= {name: getattr(self, name) for name in ("covariance_type_", "converged_", "lower_bound_", "fit_report_")}
        return arrays | {"centre_": self.centre_, "scale_": self.scale_}, fitted

    def _restore(self, arrays, fitted):
        super()._restore(arrays, fitted)
        self.centre_, self.scale_ = arrays["centre_"], arrays["scale_"]
        for name in ("covariance_type_", "converged_", "lower_bound_", "fit_report_"):
            setattr(self, name, fitted[name])
        self._finish()
