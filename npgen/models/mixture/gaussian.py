"""A mixture of Gaussians, fitted by expectation maximisation or along the gradient, with or without missing values.

    p(x) = sum_k w_k N(x; m_k, C_k)

Legend: n rows, d features, k components, o columns with values. C's forms are in covariances.py, EM's steps in gaussian_em.py.
"""
import dataclasses

import numpy as np

from ... import ops
from ...checks import check_parameter, check_shapes, one_line
from ...engine import Tensor
from ...heads.normal import Normal, interleaved
from ...kernels import em
from ...kernels._cuda import asnumpy, is_device_array
from ...tensor import value_of
from ...transforms import warn_of_atoms
from ..base import Follows
from ..gradient import descend
from ..overflow import nan_later
from .base import ALONE, MixtureModel
from .covariances import COVARIANCES
from .gaussian_em import SHARP, Components, Gaussians, density, equal_components, expect, maximise, reseed, statistics_of
from .rows import BLOCK, BlockedRows, Rows, constants, patterns, placed, spread
from .starts import STARTS, draw_each, labels_by


class GaussianMixture(MixtureModel):
    """Mixture of Gaussians: p(x) = sum_k w_k N(x; m_k, C_k).

    n_components      k
    covariance_type   "full", "tied" (one for all), "diag" or "spherical"
    tol, max_iter     EM stops when the mean log-likelihood changes by no more than tol nats, or after max_iter iterations
    reg_covar         added to every variance of every component, relative to that feature's variance within the components
                      (the geometric mean of theirs by weight; if spherical, of their mean variances), so that it does not
                      grow with the distance between them; 0 gives the exact maximum of the likelihood
    n_init            EM runs from this many starts; the likeliest is kept
    init_params       the first means: "kmeans", "k-means++", "random_from_data" or "random"
    weights_init, means_init, precisions_init    the start, as far as it is known, shaped like the attributes
    warm_start        fit begins where the fit before has ended, if it was of as many components and columns; n_init is then 1
    solver            "em", or "adam": the gradient of the same likelihood, with the options of npgen.train.Training from
                      max_epochs on (reg_covar then acts on the start only)
    preprocess        None, or a map to the space that the mixture lives in (see npgen.transforms.make). Without one, columns of
                      integers have the density of real numbers, and fit warns where a value makes up too much of a column
    verbose           show a progress bar, moved every verbose_interval iterations

    encode gives the responsibilities (n, k); decode gives their mean of the components' means, R m: the posterior mean
    of the component's centre, not the row. Arithmetic is float64 whatever the rows are; answers have the rows' dtype.

    Attributes, float64 and in the space of `preprocess`: weights_ (k,), means_ (k, d); covariances_, precisions_ and
    precisions_cholesky_, by covariance_type (k, d, d), (d, d), (k, d) or (k,); converged_, n_iter_, lower_bound_ and
    lower_bounds_ (mean nats after each iteration, in the data's own space), fit_report_ (constant columns, components seeded
    anew, the mean nats that each start reached, on_floor: components that in some direction have less than a hundredth of
    what reg_covar has added, so that their density there says nothing of new rows).
    Reference: Dempster, Laird & Rubin (1977).
    """

    covariance_type: str = "full"
    init_params: str = "kmeans"
    weights_init: object = None
    means_init: object = None
    precisions_init: object = None
    warm_start: bool = False
    solver: str = "em"
    preprocess: object = None
    max_epochs: int = 200
    batch_size: int = 100
    learning_rate: float = 1e-2
    validation_fraction: float = 0.1
    patience: int = 20
    restore_best: bool = True
    covariances_, precisions_, precisions_cholesky_ = Follows(), Follows(), Follows()

    @classmethod
    def from_parameters(cls, weights, means, covariances, *, covariance_type="full", feature_names=None, dtype=np.float64,
                        **options):
        """The mixture with these weights (k,), means (k, d) and covariances, shaped as covariances_ is, as if it were fitted.

        feature_names: of the columns (d,). dtype: of its samples. options: the constructor's, for a fit that goes on from
        here with warm_start=True; partial_fit goes on as after one batch. lower_bound_ is NaN.
        Raises ValueError for other shapes, weights that do not add up to 1, and covariances that are not positive definite.
        """
        if np.ndim(means) != 2 or not np.size(means):
            raise ValueError(f"from_parameters: means must have shape (k, d), got {np.shape(means)}")
        (k, d), form = np.shape(means), COVARIANCES.get(covariance_type)
        model = cls(k, covariance_type=covariance_type, **options)
        model._check_params()
        if model.preprocess is not None:
            raise ValueError(f"from_parameters: preprocess must be None, got {model.preprocess!r}")
        weights, means = model._init_known(weights, k, d, feature_names, dtype), check_parameter("means", means, (k, d))
        unit = form.from_free(np.zeros(form.shape(k, d)))
        covariance = form.private(check_parameter("covariances", covariances, form.public(unit).shape))
        variances, factor = form.variances(covariance, unit), form.update(unit, covariance)
        crooked = abs(covariance - np.swapaxes(covariance, 1, 2)) if covariance.ndim == 3 else np.zeros(1)
        if not (np.isfinite(factor).all() and (variances > 0).all()) or crooked.max() > 1e-6 * abs(covariance).max():
            raise ValueError("from_parameters: covariances must be symmetric and positive definite; add to their diagonals")
        centre = weights @ means
        scale = form.units(np.sqrt(weights @ (np.square(means - centre) + variances)))
        model._keep(Components(form, np.log(weights), (means - centre) / scale, form.rescale(factor, 1 / scale), np.zeros(d)),
                    n_components=k, covariance_type=covariance_type, centre=centre, scale=scale)
        return model

    # ------------------------------------------------------------ fitting

    def _learn(self, x, c, weights, run):
        self._check_params()
        z, log_det = self.preprocess_.to_noise(None, x, stream=run.stream)
        warn_of_atoms("fit", x, z)
        self._mean_log_det = float(np.average(log_det, weights=weights)) if self.preprocess else 0.0
        with np.errstate(under="ignore", over="ignore"):
            rows = self._standardise(Rows(z, weights), run).on(self.device)
            if self.solver == "em":
                self._keep(self._iterate(rows, run))
            else:
                self._follow_gradient(x, rows, weights, run)

    def _learn_blocks(self, blocks, run):
        if self.preprocess is not None or self.solver != "em":
            raise ValueError("fit: X in blocks is for preprocess=None and solver='em'; set them so, or pass an array")
        self._check_params()
        rows = BlockedRows(blocks)
        some = rows.evenly()
        warn_of_atoms("fit", some, some)
        self._mean_log_det = 0.0
        with np.errstate(under="ignore", over="ignore"):
            self._keep(self._iterate(self._standardise(rows, run).on(self.device), run))

    def _assemble(self, d, w, chosen):
        return {"gaussians": Gaussians(chosen["n_components"], d, chosen["covariance_type"], chosen["centre"], chosen["scale"])}

    def _on_floor(self, components):
        floor = np.where(np.isin(np.arange(self.n_features_in_), self.fit_report_["constant_columns"]), 0.0, components.floor)
        own = np.broadcast_to(self._form.largest(self._form.whitened(floor, components.factor)), self.n_components)
        return np.flatnonzero(own > ALONE).tolist()

    def _check_params(self):
        self._check_counts("tol", "reg_covar")
        for name, known in (("covariance_type", COVARIANCES), ("init_params", STARTS), ("solver", ("em", "adam"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def _standardise(self, rows, run):
        """Choose centre_ and scale_; the rows in these coordinates, checked."""
        self._warm = self._last() if self.warm_start else {}
        self.n_batches_, self.n_seen_ = 1, run.n_seen
        centre, std = spread(rows)
        if not std.any():
            raise ValueError("fit: all rows of X are the same, which has no density; pass rows that differ")
        scale = COVARIANCES[self.covariance_type].units(std)
        self._build({"n_components": int(self.n_components), "covariance_type": self.covariance_type, "centre": centre,
                     "scale": scale})
        self.fit_report_ = {"constant_columns": np.flatnonzero(std == 0).tolist()}
        rows = rows.seen_from(self.centre_, self.scale_)
        self._check_rows(rows)
        return rows

    def _check_rows(self, rows):
        found = rows.distinct(self.n_components)
        if found < self.n_components:
            raise ValueError(f"fit: X has {found} different rows for n_components={self.n_components}; lower n_components")
        if self.reg_covar == 0:
            one = equal_components(self._form, np.zeros((1, self.n_features_in_)), 1.0)
            if maximise(one, rows.sum(expect, one), 0.0)[1].any():
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
                value = np.array(value, dtype=np.float64, order="C")
                if value.shape != shape:
                    raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
                with np.errstate(invalid="ignore", divide="ignore"):
                    given[key] = inside(value)
                if not np.isfinite(given[key]).all():
                    raise ValueError(f"{name} must be {what}, got {one_line(value)}")
        return given

    def _last(self):
        """The start that the fit before has left, if it is of the same form."""
        k, d = getattr(self, "means_", np.empty((0, 0))).shape
        if (k, d) != (self.n_components, self.n_features_in_) or self.covariance_type_ != self.covariance_type:
            return {}
        return {"weights_init": self.weights_, "means_init": self.means_, "precisions_init": self.precisions_}

    def _start(self, rows, stream):
        given, first_means = placed(rows.place, self._given()), STARTS[self.init_params]
        means = given["means"] if "means" in given else first_means(*rows.sample(stream), self.n_components, stream)
        start = equal_components(self._form, means, SHARP)
        if len(given) < 3:
            statistics = self._expect(start, rows)
            start, lost = self._maximise(start, statistics)
            lost = self._read(statistics, lost)[1]
            if lost.any():
                start = self._reseed(start, lost, rows, stream)
        return dataclasses.replace(start, **given)

    def _expect(self, components, rows):
        return rows.sum(expect, components)

    def _restore_components(self, arrays):
        return Components(self._form, **arrays)

    def _maximise(self, components, statistics):
        return maximise(components, statistics, float(self.reg_covar))

    def _reseed(self, components, lost, rows, stream):
        return reseed(components, lost, rows, stream)

    def _follow_gradient(self, x, rows, weights, run):
        start = placed(asnumpy, self._start(rows, run.stream))
        self._keep(dataclasses.replace(start, floor=np.zeros(self.n_features_in_)))
        device = self.device
        descend(self.to("cpu"), x, None, weights, run)
        self.to(device)
        self._finish()
        self.converged_ = self.n_epochs_ < self.max_epochs
        self.fit_report_ |= {"reseeded": [], "starts": [], "on_floor": []}  # these are EM's
        self.lower_bound_ = self._read(self._expect(placed(rows.place, self._components(self.params_)), rows))[0]

    _by_rows = True

    def _loss(self, p, z, stream, c=None):
        return -self._log_density(p, z)

    def _finish(self):
        check_shapes({"floor_": self.floor_}, {"floor_": (self.n_features_in_,)})
        components = self._components(self.params_)
        factor = self._form.rescale(components.factor, self.scale_)
        vars(self).update(weights_=np.exp(components.log_weights), means_=self.centre_ + self.scale_ * components.means)
        for name, value in (("precisions_cholesky_", factor), ("precisions_", self._form.precision(factor)),
                            ("covariances_", self._form.covariance(factor))):
            vars(self)[name] = self._form.public(value)

    def _prepare_rows(self, x, weights):
        z, log_det = self.preprocess_.to(asnumpy).to_noise(None, x, stream=self.stream_)
        self._mean_log_det = float(np.average(log_det, weights=weights)) if self.preprocess else 0.0
        return Rows(z, weights, self.centre_, self.scale_)

    def _statistics_of(self, components):
        return statistics_of(components)

    @property
    def _form(self):
        return self._gaussians.form

    def _components(self, params):
        return Components.of(self._form, params, self.floor_)

    @property
    def _rows_per_call(self):
        return max(1, BLOCK // self.n_features_in_)

    @property
    def _validates(self):
        return self.solver == "adam"

    @property
    def takes_missing(self):
        return self.preprocess is None and self.solver == "em"

    # ------------------------------------------------------------ queries

    @property
    def n_parameters_(self):
        k, d = self.means_.shape
        return k - 1 + k * d + self._form.n_free(k, d)

    def _log_density(self, p, x, c=None):
        if any(isinstance(value, Tensor) for value in (x, *p.values())):
            own, like = self._components(p), value_of(x)
            centre, scale = constants((self.centre_, self.scale_), like)
            z = (x - centre) / scale
            log_prob = density(z, *constants(own.launch(), like)) if is_device_array(like) else own.log_prob(z)
            return ops.astype(log_prob - np.log(self.scale_).sum(), x.dtype)

        def log_prob(x, centre, scale, *launch):
            return em.log_prob(x, centre, scale, *launch) - np.log(scale).sum()

        return self._by_pattern(log_prob, x, np.empty_like(x, shape=(len(x),), dtype=np.float64), p).astype(x.dtype)

    def _represent(self, p, x, c=None):
        return self._by_pattern(em.posterior, x, np.empty_like(x, shape=(len(x), self.n_latent_)), p)

    def _by_pattern(self, kernel, x, answer, params):
        """Fill in the kernel's answer to rows, by the columns that have a value in them."""
        components = self._components(params)
        for rows, columns in [(slice(None), None)] if nan_later(x) else patterns(x):
            seen, at = (components, slice(None)) if columns is None else (components.marginal(columns)[0], columns)
            part, = ops.contiguous(x[rows][:, at])
            answer[rows] = kernel(part, self.centre_[at], self.scale_[at], *seen.launch())
        return answer

    def _reconstruct(self, p, r, c=None):
        means, zeros = constants((self.means_, np.zeros(self.n_features_in_)), r)
        return ops.linear(r.astype(np.float64), means, zeros).astype(r.dtype)

    def _draw_components(self, params, n, stream):
        mixture, labels = self._components(params), labels_by(self.weights_, n, stream, self._here)
        z = stream.normal((n, mixture.means.shape[1]), like=self._here)
        if self.device == "cuda":
            z = mixture.draw(z, labels)
        else:
            for k in np.unique(labels):
                at, own = labels == k, k % len(mixture.factor)
                z[at] = mixture.means[k] + self._form.unwhiten(z[None, at], mixture.factor[own:own + 1])[0]
        centre, scale = constants((self.centre_, self.scale_), z)
        return (centre + scale * z).astype(self.dtype_), labels

    # ------------------------------------------------------------ some of the columns

    def _impute(self, x, stream):
        components, centre, scale = constants((self._components(self.params_), self.centre_, self.scale_), x)
        r, full = self._represent(self.params_, x.astype(np.float64)), x.copy()
        for rows, columns in patterns(x):
            if columns is None:
                continue
            some = x[rows]
            z = (some[:, columns] - centre[columns]) / scale[columns]
            if stream is None:
                z = np.einsum("nk,knd->nd", r[rows], components.complete(z, columns))
            else:
                drawn = draw_each(r[rows], stream)
                z = components.complete(z, columns, stream.normal(some.shape, like=x))[drawn, np.arange(len(z), like=x)]
            full[rows] = np.where(np.isnan(some), centre + scale * z, some)
        return full

    def _drawn_given(self, x, columns, values, within, stream):
        if len(within) > 1:
            raise ValueError(f"sample: {len(within)} intervals are given, whose probability under Gaussians is no sum of known "
                             "functions; give one, or fit a Mixture")
        for j, ends in within.items():
            x[:, [j]] = self._drawn_within(j, ends, columns, values, len(x), stream)
        return self._completed(x, stream)

    def _drawn_within(self, j, ends, columns, values, n, stream):
        """n values (n, 1) of column j in an interval (a, b), given the values (o,) of others: a mixture of truncated normals,

            p(x_j | x_o, a <= x_j <= b) = sum_k r_k(x_o) p_k(x_j | x_o) / sum_k r_k(x_o) P_k(a <= x_j <= b | x_o)
        """
        head, (low, high) = Normal(limit=None), np.reshape(ends, (2, 1))
        both = np.sort([*columns, j])  # and no others, which are not known
        at, own = np.searchsorted(both, np.array(columns, int)), np.searchsorted(both, [j])
        means, covariances = self._marginal(both)._conditional_moments(at, own, np.reshape(values, (1, -1)))
        outputs = interleaved(means[0], np.log(covariances[:, 0]))
        log_weights = self._log_weights_at("sample", columns, values) if len(columns) else np.log(self.weights_)
        log_weights = log_weights + head.log_mass(low, high, outputs)[:, 0]
        drawn = labels_by(np.exp(log_weights - log_weights.max()), n, stream)
        return head.sample_within(stream.spawn().uniform((n, 1)), low, high, outputs[drawn])

    def _marginal(self, columns):
        return self._derive(self._components(self.params_).marginal(columns)[0], columns)

    def _conditional(self, columns, others, log_weights, x):
        components, means = self._given_values(columns, others, x)
        return self._derive(dataclasses.replace(components, log_weights=log_weights, means=means[:, 0]), others)

    def _conditional_moments(self, columns, others, x):
        components, means = self._given_values(columns, others, x)
        factor, m = self._form.rescale(components.factor, self.scale_[others]), len(others)
        covariance = self._form.matrices(self._form.covariance(factor), m)
        dense = covariance if covariance.shape[1] > 1 else covariance * np.eye(m)
        means = np.swapaxes(self.centre_[others] + self.scale_[others] * means, 0, 1)
        return means, np.broadcast_to(dense, (means.shape[1], m, m))

    def _given_values(self, columns, others, x):
        """Components with the factor of the other columns, and their means (k, n, m), in standard coordinates."""
        components = self._components(self.params_)
        means = components.complete((x - self.centre_[columns]) / self.scale_[columns], columns)[:, :, others]
        return dataclasses.replace(components, **components.conditional(others)), means

    def _derive(self, components, columns):
        model = self._of_columns(columns)
        model._keep(components, centre=self.centre_[columns], scale=self.scale_[columns])
        return model
