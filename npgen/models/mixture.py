"""A mixture of Gaussians, fitted by expectation maximisation or along the gradient, with or without missing values.

    p(x) = sum_k w_k N(x; m_k, C_k)

Legend: n rows, d features, k components, o columns with values. The forms of C are in covariances.py, EM in em.py.
"""
import copy
import dataclasses

import numpy as np

from .. import ops
from ..engine import Tensor
from ..kernels import em, session
from ..random import as_stream
from .base import check_rows, check_weights
from .covariances import COVARIANCES
from .em import BLOCK, SHARP, STARTS, Components, Rows, alike, expect, maximise, patterns, remember, reseed
from .mixture_model import MixtureModel

FITTED = "covariance_type_", "converged_", "lower_bound_", "fit_report_", "n_batches_"


@dataclasses.dataclass(frozen=True)
class Conditionals:
    """n mixtures of m columns: weights (n, k), means (n, k, m), covariances (k, m, m), which all n have in common."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def mean(self):
        """(n, m)."""
        return np.einsum("nk,nkm->nm", self.weights, self.means)

    @property
    def covariance(self):
        """(n, m, m): that within the components, and that between them."""
        apart = self.means - self.mean[:, None]
        between = np.swapaxes(apart * self.weights[:, :, None], 1, 2) @ apart
        return np.tensordot(self.weights, self.covariances, 1) + between


class GaussianMixture(MixtureModel):
    """Mixture of Gaussians: p(x) = sum_k w_k N(x; m_k, C_k).

    n_components      k
    covariance_type   "full", "tied" (one for all), "diag" or "spherical"
    tol, max_iter     EM stops when the mean log-likelihood changes by no more than tol nats, or after max_iter iterations
    reg_covar         added to every variance of every component, relative to that feature's variance in the data (to the
                      mean variance if spherical); 0 gives the exact maximum of the likelihood
    n_init            EM runs from this many starts; the likeliest is kept
    init_params       the first means: "kmeans", "k-means++", "random_from_data" or "random"
    weights_init, means_init, precisions_init    the start, as far as it is known, shaped like the attributes
    warm_start        fit begins where the fit before has ended, if it was of as many components and columns; n_init is then 1
    solver            "em", or "adam": the gradient of the same likelihood, with the options of npgen.train.Options from
                      max_epochs on (reg_covar then acts on the start only)
    preprocess        None, or a map to the space that the mixture lives in (see npgen.preprocess.make)
    verbose           show a progress bar, moved every verbose_interval iterations

    encode gives the responsibilities (n, k); decode gives their mean of the components' means, R m: the posterior mean
    of the component's centre, not the row. Arithmetic is float64 whatever the rows are; answers have the rows' dtype.

    Attributes, float64 and in the space of `preprocess`: weights_ (k,), means_ (k, d), covariances_, precisions_,
    precisions_cholesky_ (shapes: see Full, Tied, Diag and Spherical), converged_, n_iter_, lower_bound_ and lower_bounds_
    (mean nats after each iteration, in the data's own space), fit_report_ (constant columns, components seeded anew, the
    mean nats that each start reached). Reference: Dempster, Laird & Rubin (1977).
    """

    def __init__(self, n_components=1, *, covariance_type="full", tol=1e-3, reg_covar=1e-6, max_iter=100, n_init=1,
                 init_params="kmeans", weights_init=None, means_init=None, precisions_init=None, warm_start=False, solver="em",
                 preprocess=None,
                 max_epochs=200, batch_size=100, learning_rate=1e-2, validation_fraction=0.1, patience=20, restore_best=True,
                 callbacks=(), verbose=False, verbose_interval=10, random_state=None):
        self.n_components, self.covariance_type = n_components, covariance_type
        self.solver, self.preprocess = solver, preprocess
        self.tol, self.reg_covar, self.max_iter, self.n_init = tol, reg_covar, max_iter, n_init
        self.init_params, self.weights_init = init_params, weights_init
        self.means_init, self.precisions_init = means_init, precisions_init
        self.max_epochs, self.batch_size, self.learning_rate = max_epochs, batch_size, learning_rate
        self.validation_fraction, self.patience, self.restore_best = validation_fraction, patience, restore_best
        self.warm_start, self.callbacks, self.random_state = warm_start, callbacks, random_state
        self.verbose, self.verbose_interval = verbose, verbose_interval

    # ------------------------------------------------------------ fitting

    def _learn(self, x, z, log_det, weights, stream, run):
        self._check_params()
        self._warm = self._last() if self.warm_start else {}
        self.covariance_type_, self.n_batches_ = self.covariance_type, 1
        self._mean_log_det = float(np.average(log_det, weights=weights)) if self.preprocess else 0.0
        with np.errstate(under="ignore", over="ignore"):
            rows = self._standardise(z, weights)
            self._check_rows(rows)
            if self.solver == "em":
                self.params_ = self._iterate(rows, stream, run).params()
            else:
                self._follow_gradient(x, rows, weights, stream, run)
        self._finish()

    def _check_params(self):
        self._check_counts()
        for name, known in (("covariance_type", COVARIANCES), ("init_params", STARTS), ("solver", ("em", "adam"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def _standardise(self, z, weights):
        """Set centre_ and scale_; the rows seen from there."""
        with np.errstate(invalid="ignore", divide="ignore"):
            origin = np.where(np.isnan(z[0]), 0, z[0]).astype(np.float64)
            self.centre_ = origin + Rows(z, weights, origin, 1.0).mean(np.positive)
            peak = np.maximum(np.fmax.reduce(z) - self.centre_, self.centre_ - np.fmin.reduce(z))
            std = peak * np.sqrt(Rows(z, weights, self.centre_, np.where(peak > 0, peak, 1)).mean(np.square))
        if np.isnan(self.centre_).any():
            raise ValueError(f"fit: column {np.isnan(self.centre_).argmax()} of X has no values; drop it")
        if not std.any():
            raise ValueError("fit: all rows of X are the same, which has no density; pass rows that differ")
        if not np.isfinite(std).all():
            raise ValueError("fit: the values of X are too far apart for float64; divide X by a constant")
        self.scale_ = self._form.units(std)
        self.fit_report_ = {"constant_columns": np.flatnonzero(std == 0).tolist()}
        return Rows(z, weights, self.centre_, self.scale_)

    def _check_rows(self, rows):
        found = rows.distinct(self.n_components)
        if found < self.n_components:
            raise ValueError(f"fit: X has {found} different rows for n_components={self.n_components}; lower n_components")
        if self.reg_covar == 0:
            one = alike(self._form, np.zeros((1, self.n_features_in_)), 1.0)
            if maximise(one, expect(one, rows), 0.0)[1].any():
                raise ValueError("fit: X has constant columns, or columns that depend linearly on one another, and with "
                                 "reg_covar=0 no density; drop such columns, or set reg_covar above 0")

    def _given(self):
        """What the caller gave of the start: attributes of Components."""
        k, d, form = self.n_components, self.n_features_in_, self._form
        precisions_shape = form.public(np.empty(form.shape(k, d))).shape

        def standardise(means):
            return (means - self.centre_) / self.scale_

        def factorise(precisions):
            return form.rescale(form.from_precision(form.private(precisions)), 1 / self.scale_)

        parts = (("weights_init", "log_weights", (k,), lambda weights: np.log(weights / weights.sum()), "positive"),
                 ("means_init", "means", (k, d), standardise, "finite"),
                 ("precisions_init", "factor", precisions_shape, factorise, "positive definite"))
        given = {}
        for name, key, shape, inside, what in parts:
            value = self._warm.get(name, getattr(self, name))
            if value is not None:
                value = np.asarray(value, dtype=np.float64)
                if value.shape != shape:
                    raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
                with np.errstate(invalid="ignore", divide="ignore"):
                    given[key] = inside(value)
                if not np.isfinite(given[key]).all():
                    raise ValueError(f"{name} must be {what}, got {value.tolist()}")
        return given

    def _last(self):
        """The start that the fit before has left, if it is of the same form."""
        k, d = getattr(self, "means_", np.empty((0, 0))).shape
        if (k, d) != (self.n_components, self.n_features_in_) or self.covariance_type_ != self.covariance_type:
            return {}
        return {"weights_init": self.weights_, "means_init": self.means_, "precisions_init": self.precisions_}

    def _start(self, rows, stream):
        given, first_means = self._given(), STARTS[self.init_params]
        means = given["means"] if "means" in given else first_means(*rows.sample(stream), self.n_components, stream)
        start = alike(self._form, means, SHARP)
        if len(given) < 3:
            start = self._step(start, expect(start, rows), rows, stream)[0]
        return dataclasses.replace(start, **given)

    def _expect(self, components, rows):
        return expect(components, rows)

    def _restore_components(self, arrays):
        return Components(self._form, **arrays)

    def _step(self, components, statistics, rows, stream, seeded=True):
        components, lost = maximise(components, statistics, float(self.reg_covar))
        lost &= seeded
        if lost.any():
            reseed(components, lost, rows, stream)
        return components, lost

    def _follow_gradient(self, x, rows, weights, stream, run):
        self._descend(self._start(rows, stream).params(), x, weights, stream, run)
        self.converged_ = self.n_epochs_ < self.max_epochs
        self.lower_bound_ = self._mean_nats(expect(self._components(self.params_), rows))

    def _loss(self, params, z, stream):
        return -self._log_density(params, z)

    def _finish(self):
        """Set the attributes that scikit-learn has, in the units of the data."""
        components = self._components(self.params_)
        factor = self._form.rescale(components.factor, self.scale_)
        self.weights_, self.means_ = np.exp(components.log_weights), self.centre_ + self.scale_ * components.means
        for name, value in (("precisions_cholesky_", factor), ("precisions_", self._form.precision(factor)),
                            ("covariances_", self._form.covariance(factor))):
            setattr(self, name, self._form.public(value))

    def partial_fit(self, X, y=None, *, sample_weight=None):
        """One step of stepwise EM on more rows, with the statistics s of those before fading; the first call is fit(X).

            s <- (1 - g) s + g s(X), g = t^-0.7 in the t-th call

        sample_weight, errors: see fit; a batch needs one row, the first n_components different ones. reg_covar stays
        relative to the variances of the first. Reference: Cappe & Moulines, On-line EM for latent data models (2009).
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, sample_weight=sample_weight)
        x = self._check("partial_fit", X)
        weights = check_weights("partial_fit", sample_weight, x)
        if not len(x):
            raise ValueError("partial_fit: X has no rows; pass at least one")
        learner = copy.copy(self)
        with session(), np.errstate(under="ignore", over="ignore"):
            learner._learn_more(x, weights)
        vars(self).update(vars(learner))
        return self

    def _learn_more(self, x, weights):
        z, log_det = self.preprocess_.forward(x, self.stream_)
        self._mean_log_det = float(np.average(log_det, weights=weights))
        rows, components = Rows(z, weights, self.centre_, self.scale_), self._components(self.params_)
        statistics = expect(components, rows)
        self.n_batches_ += 1
        share = self.n_batches_**-0.7
        blend = remember(components, float(self.reg_covar)) * (1 - share) + statistics * (share / statistics.weight)
        components, lost = self._step(components, blend, rows, self.stream_)
        self.params_, self.lower_bound_ = components.params(), self._mean_nats(statistics)
        reseeded = [{"batch": self.n_batches_, "component": int(k)} for k in np.flatnonzero(lost)]
        self.fit_report_ = self.fit_report_ | {"reseeded": self.fit_report_.get("reseeded", []) + reseeded}
        self._finish()

    @property
    def _form(self):
        return COVARIANCES[self.covariance_type_]

    def _components(self, params):
        return Components.of(self._form, params)

    @property
    def _rows_per_call(self):
        return max(1, BLOCK // self.n_features_in_)

    @property
    def _missing(self):
        return self.preprocess is None and self.solver == "em"

    # ------------------------------------------------------------ queries

    def _n_parameters(self):
        k, d = self.means_.shape
        return k - 1 + k * d + self._form.n_free(k, d)

    def _log_density(self, params, x):
        if any(isinstance(value, Tensor) for value in (x, *params.values())):
            log_prob = self._components(params).log_prob((x - self.centre_) / self.scale_)
            return ops.astype(log_prob - np.log(self.scale_).sum(), x.dtype)

        def log_prob(x, centre, scale, *launch):
            return em.log_prob(x, centre, scale, *launch) - np.log(scale).sum()

        return self._by_pattern(log_prob, x, np.empty(len(x)), params).astype(x.dtype)

    def _represent(self, params, x):
        return self._by_pattern(em.posterior, x, np.empty((len(x), self.n_latent_), x.dtype), params)

    def _by_pattern(self, kernel, x, answer, params):
        """Fill in the kernel's answer to rows, by the columns that have a value in them."""
        components = self._components(params)
        for rows, columns in patterns(x):
            seen, at = (components, slice(None)) if columns is None else (components.marginal(columns)[0], columns)
            answer[rows] = kernel(np.ascontiguousarray(x[rows][:, at]), self.centre_[at], self.scale_[at], *seen.launch())
        return answer

    def _reconstruct(self, params, r):
        return (r @ self.means_).astype(r.dtype)

    def _draw_components(self, params, n, stream):
        mixture = self._components(params)
        edges = np.cumsum(np.exp(mixture.log_weights))
        components = np.searchsorted(edges[:-1], stream.spawn().uniform(n) * edges[-1], side="right")
        z = stream.normal((n, mixture.means.shape[1]))
        for k in np.unique(components):
            at, own = components == k, k % len(mixture.factor)
            z[at] = mixture.means[k] + self._form.unwhiten(z[None, at], mixture.factor[own:own + 1])[0]
        return (self.centre_ + self.scale_ * z).astype(self.dtype_), components

    # ------------------------------------------------------------ some of the columns

    def impute(self, X, *, rng=None):
        """X (n, d) with every missing value (NaN) replaced by its mean given the row's other values, or by a draw.

            E[x_m | x_o] = sum_k r_k(x_o) (m_k,m + C_k,mo C_k,oo^-1 (x_o - m_k,o))

        rng: None for the mean; an int, SeedSequence, Generator or npgen.random.Stream for draws from p(x_m | x_o).
        Raises NotFittedError, and ValueError for rows of another width or infinities.
        """
        stream = None if rng is None else as_stream(rng)
        rows = max(64, BLOCK // (self.n_features_in_ * self.n_latent_))
        return self._rowwise(lambda x: self._impute(x, stream), self._check("impute", X), rows)

    def _impute(self, x, stream):
        components, full = self._components(self.params_), x.copy()
        r = self._represent(self.params_, x.astype(np.float64))
        for rows, columns in patterns(x):
            if columns is None:
                continue
            z = (x[rows][:, columns] - self.centre_[columns]) / self.scale_[columns]
            if stream is None:
                z = np.einsum("nk,knd->nd", r[rows], components.complete(z, columns))
            else:
                edges = np.cumsum(r[rows], axis=1)
                drawn = (edges < stream.uniform((len(z), 1)) * edges[:, -1:]).sum(axis=1)
                z = components.complete(z, columns, stream.normal((len(z), x.shape[1])))[drawn, np.arange(len(z))]
            full[rows] = np.where(np.isnan(x[rows]), self.centre_ + self.scale_ * z, x[rows])
        return full

    def marginal(self, columns):
        """The mixture of some columns (o,) alone, as a fitted GaussianMixture.

        Raises ValueError for columns that X does not have, or twice.
        """
        columns, _ = self._columns("marginal", columns)
        return self._derive(self._components(self.params_).marginal(columns)[0], columns)

    def condition(self, columns, values):
        """The mixture of the other columns, in their order, given values of some columns.

            p(x_m | x_o) = sum_k r_k(x_o) N(x_m; m_k,m + C_k,mo C_k,oo^-1 (x_o - m_k,o), C_k,mm - C_k,mo C_k,oo^-1 C_k,om)

        values (o,): a fitted GaussianMixture. values (n, o): the Conditionals of n rows at once; its mean is a regression.
        Raises ValueError for columns that X does not have, or twice, or all of them, and for values of another shape, NaN or
        infinities.
        """
        columns, others = self._columns("condition", columns)
        if not len(others):
            raise ValueError("condition: columns are all there are; leave at least one to be conditioned")
        x = check_rows("condition", np.atleast_2d(values), name="values", dtype=np.float64).astype(np.float64)
        if x.shape[1] != len(columns) or np.ndim(values) not in (1, 2):
            raise ValueError(f"condition: values have shape {np.shape(values)}; pass ({len(columns)},) or (n, {len(columns)})")
        components, at = self._components(self.params_), (self.centre_[columns], self.scale_[columns])
        with session():
            r = em.posterior(x, *at, *components.marginal(columns)[0].launch())
        means = components.complete((x - at[0]) / at[1], columns)[:, :, others]
        factor = components.conditional(others)
        if np.ndim(values) == 1:
            log_weights = np.log(np.maximum(r[0], np.finfo(float).tiny))
            return self._derive(Components(self._form, log_weights, means[:, 0], factor), others)
        covariance = self._form.matrices(self._form.covariance(self._form.rescale(factor, self.scale_[others])), len(others))
        dense = covariance if covariance.shape[1] > 1 else covariance * np.eye(len(others))
        means = np.swapaxes(self.centre_[others] + self.scale_[others] * means, 0, 1)
        return Conditionals(r, means, np.broadcast_to(dense, (len(components.means), *dense.shape[1:])))

    def _columns(self, method, columns):
        self._check_fitted(method)
        if self.preprocess is not None:
            raise ValueError(f"{method}: this mixture lives behind preprocess={self.preprocess!r}; fit one without")
        d, given = self.n_features_in_, np.atleast_1d(columns)
        if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given) or not ((-d <= given) & (given < d)).all():
            raise ValueError(f"{method}: columns must be numbers of the {d} columns, got {columns!r}")
        if len(set(given % d)) < len(given):
            raise ValueError(f"{method}: columns must differ, got {columns!r}")
        return given % d, np.setdiff1d(np.arange(d), given % d)

    def _derive(self, components, columns):
        model = copy.copy(self)
        model.n_features_in_, model.params_, model.stream_ = len(columns), components.params(), self.stream_.spawn()
        model.centre_, model.scale_ = self.centre_[columns], self.scale_[columns]
        model._finish()
        return model

    # ------------------------------------------------------------ files

    def _state(self):
        arrays, fitted = super()._state()
        fitted |= {name: getattr(self, name) for name in FITTED}
        return arrays | {"centre_": self.centre_, "scale_": self.scale_}, fitted

    def _restore(self, arrays, fitted):
        super()._restore(arrays, fitted)
        self.centre_, self.scale_ = arrays["centre_"], arrays["scale_"]
        for name in FITTED:
            setattr(self, name, fitted[name])
        self._finish()
