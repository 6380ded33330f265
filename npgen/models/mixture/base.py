"""What mixtures of every kind share: fits by EM, whole or batch by batch, and queries by component and of some columns.

Legend: n rows, d features, k components, o columns that have values, m others. EM's steps are the model's own: how to
start, to expect, to maximise.
"""
import abc
import copy
import dataclasses
import math

import numpy as np

from ... import train, transforms
from ...checks import check_number, check_parameter, check_weights, one_line, total_weight
from ...kernels import session
from ...kernels._cuda import asnumpy
from ...random import Stream, as_stream
from ...train import ConvergenceWarning
from ...warn import warn
from ..base import Capabilities, Follows, Model
from ..blocks import by_block, in_blocks, weight
from ..gradient import options_of
from . import em
from .conditionals import Conditionals
from .questions import Questions
from .rows import placed

ALONE = 0.99        # share of a variance that reg_covar has added, from which on rows have no say
RIDGE = 0.01        # reg_covar, from which on it is one that is meant: new rows keep a density
IMPUTED = 2**22     # values of rows times components, completed at once


class MixtureModel(Questions, Model):
    """p(x) = sum_k w_k p_k(x), fitted by EM from n_init starts; encode gives the responsibilities p(k | x).

    A subclass writes _prepare_rows, _start, _maximise, _reseed, _statistics_of, _restore_components, _components, _finish,
    _draw_components, _impute, _marginal, _conditional, _conditional_moments, n_parameters_, and what Model asks for.
    components.arrays() are what a run keeps of them, components.params() what the model does.
    """

    n_components: int = dataclasses.field(default=1, kw_only=False)
    tol: float = 1e-3
    reg_covar: float = 1e-6
    max_iter: int = 100
    n_init: int = 1
    callbacks: tuple = ()
    verbose: bool = False
    verbose_interval: int = 10
    weights_, means_ = Follows(), Follows()
    _capabilities = Capabilities("exact", "responsibilities of the components", invertible=False)
    _default_dtype = np.float64
    _warm = {}
    _mean_log_det = 0.0  # of preprocessing
    _keeps = {"converged_": (bool,), "lower_bound_": (float,), "fit_report_": (dict,), "n_batches_": (int,),
              "n_seen_": (float, type(None))}

    @abc.abstractmethod
    def _learn_blocks(self, blocks, run):
        """_learn of rows in data.blocks.Blocks."""

    @abc.abstractmethod
    def _prepare_rows(self, x, weights):
        """Rows as EM takes them."""

    @abc.abstractmethod
    def _start(self, rows, stream):
        """Components to begin with."""

    @abc.abstractmethod
    def _expect(self, components, rows):
        """The E-step: the statistics of all rows, as em.Statistics."""

    @abc.abstractmethod
    def _maximise(self, components, statistics):
        """The M-step: new components, and which of them (k,) are lost, empty or collapsed."""

    @abc.abstractmethod
    def _reseed(self, components, lost, rows, stream):
        """Components of which those that are lost (k,) begin anew."""

    @abc.abstractmethod
    def _statistics_of(self, components):
        """The statistics, of weight 1, from which an M-step makes these same components."""

    @abc.abstractmethod
    def _restore_components(self, arrays):
        """Components from their arrays by name."""

    @abc.abstractmethod
    def _components(self, params):
        """Components from free parameters."""

    @abc.abstractmethod
    def _draw_components(self, params, n, stream):
        """n rows in the mixture's space and the component of each."""

    @abc.abstractmethod
    def _impute(self, x, stream):
        """Rows with every missing value replaced by its mean, or from a stream by a draw."""

    @abc.abstractmethod
    def _marginal(self, columns):
        """The mixture of some columns."""

    @abc.abstractmethod
    def _conditional(self, columns, others, log_weights, x):
        """The mixture of the others, given values x (1, o) of some columns, under which the components have these weights."""

    @abc.abstractmethod
    def _conditional_moments(self, columns, others, x):
        """The components' means (n, k, m) and covariances (k, m, m) of the others, given values x (n, o) of some columns."""

    @property
    @abc.abstractmethod
    def n_parameters_(self):
        """How many numbers the mixture is."""

    @abc.abstractmethod
    def _on_floor(self, components):
        """The components of which ALONE of the variance is reg_covar's, in a direction (a column) that is not constant."""

    def _check_support(self, method, x):
        """Raise ValueError for rows that the components cannot have drawn."""

    def _check_counts(self, *shares):
        for name, least, words in (("n_components", 1, "a"), ("max_iter", 0, "0 or a"), ("n_init", 1, "a")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} must be {words} positive integer, got {value!r}")
        for name in shares:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or a positive number, got {value!r}")
        train.check_training(options_of(self))  # refuses callbacks that it cannot call

    def _init_known(self, weights, k, d, feature_names, dtype):
        """Set what every fitted mixture has, for one of k components and d columns that is given; its weights, checked."""
        if np.dtype(dtype).char not in "fd":
            raise ValueError(f"from_parameters: dtype must be float32 or float64, got {dtype!r}")
        weights = check_parameter("weights", weights, (k,))
        if not (weights > 0).all() or abs(weights.sum() - 1) > 1e-6:
            raise ValueError(f"from_parameters: weights must be positive and add up to 1, got {one_line(weights)}")
        names = None if feature_names is None else [str(name) for name in feature_names]
        if names is not None and len(names) != d:
            raise ValueError(f"from_parameters: feature_names must be {d} names, got {len(names)}")
        self.n_features_in_, self.dtype_, self._names = d, np.dtype(dtype), names
        self.stream_, self.preprocess_ = as_stream(self.random_state).spawn(), transforms.make(None, None)
        self.converged_, self.lower_bound_, self.n_batches_, self.n_seen_ = True, math.nan, 1, None
        self.history_, self.n_epochs_ = [], 0
        self.fit_report_ = {"constant_columns": [], "reseeded": [], "starts": [], "on_floor": []}
        return weights / weights.sum()

    def _iterate(self, rows, run):
        """The likeliest components that EM reaches from n_init starts."""
        best, reached = em.iterate(self, rows, run, 1 if self._warm else self.n_init)
        if not best.converged and len(best.nats) > self.max_iter:
            warn(f"fit: EM has not converged after max_iter={self.max_iter} iterations; raise max_iter or tol",
                 ConvergenceWarning)
        self.converged_, self.lower_bound_ = best.converged, best.nats[-1]
        self.history_ = [{"epoch": i, "train_nats": -nats, "valid_nats": None} for i, nats in enumerate(best.nats)][1:]
        self.n_epochs_ = len(self.history_)
        on_floor = self._on_floor(best.components)
        self.fit_report_ |= {"reseeded": best.reseeded, "starts": reached, "on_floor": on_floor}
        if on_floor and self.reg_covar < RIDGE:
            warn(f"fit: in some direction components {one_line(on_floor)} rest on reg_covar alone, and say nothing of new "
                 "rows; raise it, lower n_components, fit more rows, or take a simpler form of component",
                 ConvergenceWarning)
        return best.components

    def _keep(self, components, **chosen):
        """Take these components as what was learned, and what was chosen anew."""
        self.params_ = components.params()
        self._build(self._chosen | chosen | {"floor": components.floor})
        self._finish()
        self._move()

    def _read(self, statistics, lost=()):
        """The mean nats, and which components are lost (k,) bool, on the host: all that it is told of an iteration."""
        mean = np.reshape(statistics.nats / statistics.weight, (1,))
        read = asnumpy(np.concatenate([mean, lost.astype(np.float64)]) if len(lost) else mean)
        return float(read[0]) + self._mean_log_det, read[1:] > 0

    def fit_predict(self, X, y=None, *, sample_weight=None):
        """fit, then predict the same rows."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def partial_fit(self, X, y=None, *, sample_weight=None):
        """One step of stepwise EM on more rows, with the statistics s of those before fading; the first call is fit(X).

            s <- (1 - g) s + g s(X), g = (w / W)^0.7

        w is the number of rows in X, or the sum of their weights, and W that of all rows so far with these, n_seen_: for
        batches of one size g = t^-0.7 in the t-th call. After a file that does not know W, the calls before are of this size.
        sample_weight, errors: see fit; a batch needs one row, the first two, and of a GaussianMixture n_components different
        ones. A call that fails changes nothing.
        Reference: Cappe & Moulines, On-line EM for latent data models (2009).
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, sample_weight=sample_weight)
        x = asnumpy(self._check("partial_fit", X))
        weights = check_weights("partial_fit", sample_weight, x)
        if not len(x):
            raise ValueError("partial_fit: X has no rows; pass at least one")
        learner = copy.copy(self)
        learner.stream_ = Stream.from_state(self.stream_.state())
        with session(), np.errstate(under="ignore", over="ignore"):
            learner._learn_more(x, weights, total_weight(sample_weight, x))
        vars(self).update(vars(learner))
        return self

    def _learn_more(self, x, weights, n):
        rows = self._prepare_rows(x, weights).on(self.device)
        components = placed(rows.place, self._components(self.params_))
        statistics = self._expect(components, rows)
        self.n_seen_ = (self.n_seen_ or n * self.n_batches_) + n
        self.n_batches_, share = self.n_batches_ + 1, (n / self.n_seen_)**0.7
        blend = self._statistics_of(components) * (1 - share) + statistics * (share / statistics.weight)
        components, lost = self._maximise(components, blend)
        self.lower_bound_, lost = self._read(statistics, lost)
        if lost.any():
            components = self._reseed(components, lost, rows, self.stream_)
        components = placed(asnumpy, components)
        self._keep(components)
        reseeded = [{"batch": self.n_batches_, "component": int(k)} for k in np.flatnonzero(lost)]
        self.fit_report_ = self.fit_report_ | {"reseeded": self.fit_report_.get("reseeded", []) + reseeded,
                                               "on_floor": self._on_floor(components)}

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

    @by_block
    def predict_proba(self, X):
        """encode under the name that scikit-learn gives it."""
        self._as_in_fit("predict_proba", X)
        return self._rowwise(self._encode, self._check("predict_proba", X))

    def sample(self, n_samples=None, *, given=None, rng=None, return_components=False):
        """Rows drawn from the mixture, (n_samples, d), in no order; with return_components, also the component of each.

        given: {name: value, (low, high) or None} of a model of a DataFrame: the rows are drawn under this condition, exactly
        and without rejection, as condition says; they have all columns. A GaussianMixture takes one interval.
        rng and errors: see Model.sample, and condition.
        """
        if given is not None:
            self._check_fitted("sample")
            n, known = check_number("sample", 1 if n_samples is None else n_samples), self._known("sample", given, None)
            return self._tabled(self._drawn(lambda n, stream: self._sample_given(known, n, stream), n, rng))
        x, components = map(asnumpy, self._drawn(self._draw_pairs, self._check_draw("sample", n_samples, None)[0], rng))
        x = self._tabled(x)
        return (x, components) if return_components else x

    def aic(self, X, *, sample_weight=None):
        """Akaike's information criterion on X, 2 parameters - 2 log-likelihood: lower is better.

        sample_weight (n,): a row of weight 2 counts as two rows, so weights that are no counts should have mean 1.
        """
        return self._deviance(X, sample_weight) + 2 * self.n_parameters_

    def bic(self, X, *, sample_weight=None):
        """The Bayesian information criterion on X, parameters * log n - 2 log-likelihood: lower is better.

        sample_weight: see aic; n is then the sum of the weights.
        """
        return self._deviance(X, sample_weight) + self.n_parameters_ * math.log(_counted(X, sample_weight))

    def _deviance(self, X, sample_weight):
        """-2 log-likelihood."""
        return -2 * self.score(X, sample_weight=sample_weight) * _counted(X, sample_weight)

    def _move(self):
        """params_ stay on the host: queries send kernels what they need of them, once, and a fit its rows (rows.py)."""
        self.preprocess_ = self.preprocess_.to(self._place)

    def _at(self, dtype):
        return self.params_  # float64 for rows of any dtype

    def _draw_pairs(self, n, stream):
        x, components = self._draw_components(self.params_, n, stream)
        return self.preprocess_.data(None, x), components

    def _draw(self, p, n, stream, c=None):
        return self._draw_components(p, n, stream)[0]

    # ------------------------------------------------------------ some of the columns

    @by_block
    def impute(self, X, *, n=None, rng=None):
        """X (n, d) with every missing value (NaN) replaced by its mean given the row's other values, or by a draw.

            E[x_m | x_o] = sum_k r_k(x_o) E_k[x_m | x_o];    of levels, the likeliest

        rng: None for the mean; an int, SeedSequence, Generator or npgen.random.Stream for draws from p(x_m | x_o).
        n: so many tables of draws, a list; rng is 0 then unless it is given.
        Raises NotFittedError, and ValueError for rows of another width or infinities.
        """
        if n is not None:
            return self._imputations(X, n, rng)
        x, stream = self._check("impute", X), None if rng is None else as_stream(rng)
        return self._filled_in(X, self._completed(x, stream))

    def _completed(self, x, stream):
        """Rows with every missing value replaced, so many at once as memory holds."""
        at_once = max(64, IMPUTED // (x.shape[1] * self.n_latent_))
        some = np.isnan(x).any(axis=1)
        if stream is None and not some.all():  # whose others have nothing to look for among many levels
            full = x.copy()
            if some.any():
                full[some] = self._completed(x[some], None)
            return full
        return self._rowwise(lambda rows, c: self._impute(rows, stream), x, rows=at_once)

    def marginal(self, columns):
        """The mixture of some columns (o,), numbers or names, alone, as a fitted model of the same class.

        Raises ValueError for columns that X does not have, or twice.
        """
        return self._marginal(self._columns_of("marginal", columns)[0])

    def condition(self, columns, values=None):
        """The mixture of the other columns, in their order, given values of some columns.

            p(x_m | x_o) = sum_k r_k(x_o) p_k(x_m | x_o)

        Of Gaussians, p_k(x_m | x_o) = N(x_m; m_k,m + C_k,mo C_k,oo^-1 (x_o - m_k,o), C_k,mm - C_k,mo C_k,oo^-1 C_k,om); of
        products of columns, p_k(x_m). values (o,): a fitted model of the same class. values (n, o): the Conditionals of n rows
        at once; its mean is a regression (of levels, that of their numbers). Of a model of a DataFrame: {name: value}, or of a
        Mixture {name: (low, high)}, both included, for

            p(x_m | x_o, a <= x_i <= b) = sum_k w_k p_k(x_o) P_k(a <= x_i <= b) p_k(x_m) / sum_k w_k p_k(x_o) P_k(a <= x_i <= b)

        Of a Mixture(missing="model") a value may be None, or NaN: it is known to be missing.
        Raises ValueError for columns that X does not have, or twice, or all of them, and for values of another shape, missing
        ones where that is not modelled, and infinities.
        """
        columns, values, within = self._known("condition", columns, values)
        if within:
            return self._condition_within(columns, values, within)
        columns, others = self._columns_of("condition", columns)
        if not len(others):
            raise ValueError("condition: columns are all there are; leave at least one to be conditioned")
        x, seen = self._values("condition", columns, values), self._marginal(columns)
        seen._check_support("condition", x)
        r = seen._rowwise(seen._encode, x)
        if np.ndim(values) == 1:
            model = self._conditional(columns, others, np.log(np.maximum(r[0], np.finfo(float).tiny)), x)
            return self._counted_from(model, columns, others, x[0])
        return Conditionals(r, *self._conditional_moments(columns, others, x))

    def _columns_of(self, method, columns):
        """The numbers of these columns, and of all others."""
        self._check_fitted(method)
        if self.preprocess is not None:
            raise ValueError(f"{method}: this mixture lives behind preprocess={self.preprocess!r}; fit one without")
        d, given = self.n_features_in_, np.atleast_1d(self._numbers_of(method, columns))
        if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given) or not ((-d <= given) & (given < d)).all():
            raise ValueError(f"{method}: columns must be numbers of the {d} columns, got {columns!r}")
        if len(set(given % d)) < len(given):
            raise ValueError(f"{method}: columns must differ, got {columns!r}")
        return given % d, np.setdiff1d(np.arange(d), given % d)

    def _counted_from(self, model, columns, others, values):
        """The mixture of the others, of which some may be counted from columns of these values (o,)."""
        if self.schema_ is not None:
            known = np.full(self.n_features_in_, np.nan)
            known[columns] = values
            model.schema_ = self.schema_.of(others, known)
        return model

    def _of_columns(self, columns):
        """A copy for the parameters of some columns, with a stream that follows from this one's place, which stays there."""
        model = copy.copy(self)
        place = np.random.SeedSequence([*self.stream_.state().values(), *map(int, columns)])
        model.n_features_in_, model.stream_ = len(columns), Stream(place)
        model._names = self._names and [self._names[j] for j in columns]
        model.schema_ = self.schema_ and self.schema_.of(columns)
        return model


def _counted(X, sample_weight):
    """How many rows X has, or the sum of their weights."""
    found = in_blocks("score", X, sample_weight)
    return total_weight(sample_weight, X) if found is None else weight(found)
