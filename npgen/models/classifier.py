"""A classifier made of densities, which is a generative model of rows and labels.

    p(x, y) = p(y) p(x | y),    p(y | x) = p(x, y) / p(x),    p(x) = sum_y p(x, y)

Legend: n rows, d features, m classes.
"""
import copy
import dataclasses
import inspect
import sys

import numpy as np

from .. import ops
from ..checks import check_rows, check_shapes, check_weights, column_names, counting, one_line, total_weight, with_article
from ..kernels._cuda import asnumpy, is_device_array
from ..random import as_stream
from ..warn import warn
from .estimator import Estimator, Follows, clone
from .files import Saved, from_header
from .mixture import GaussianMixture
from .mixture.tied import tie

LABELS = "biufUO"  # kinds of dtype that labels have


class BayesClassifier(Estimator, Saved):
    """Bayes' rule: p(y | x) = p(y) p(x | y) / p(x), with a density for each class, or one density given the class.

    density        an unfitted model of npgen, or anything with fit(X), log_prob(X) or score_samples(X), and sample(n)
    prior          p(y): "empirical", the shares of the classes by weight, or m probabilities in the order of classes_
    conditional    False: a copy of density is fitted to the rows of each class. True: one is fitted to all rows, with the class
                   as their context. "auto": one, of a model that takes a context
    random_state   seed of sample, and of fit where the density has none of its own

    With GaussianMixture(1, reg_covar=0) it is quadratic discriminant analysis, with covariance_type="diag" Gaussian naive
    Bayes, and with Mixture(1, heads="bernoulli") or "categorical" naive Bayes of these (smoothing=0: without a prior on the
    counts). The components of a "tied" GaussianMixture have one covariance in all classes: one component each is linear
    discriminant analysis, several are mixture discriminant analysis. What the data decide (preprocess="auto", levels of
    columns) is decided by all rows.

    Attributes: classes_ (m,), priors_ (m,), densities_, a fitted model per class, or the one given the class;
    n_features_in_, feature_names_in_.
    Reference: Hastie & Tibshirani, Discriminant analysis by Gaussian mixtures (1996).
    """

    context_ = None  # of its own: a conditional density's is the label
    density: object = dataclasses.field(kw_only=False)
    prior: object = "empirical"
    conditional: object = "auto"
    random_state: object = None
    classes_, priors_ = Follows(), Follows()

    # ------------------------------------------------------------ fitting

    def fit(self, X, y, sample_weight=None):
        """Learn from rows X (n, d) and their labels y (n,), numbers or strings; returns self.

        sample_weight (n,): see Model.fit. Raises ValueError or TypeError for data that cannot be fitted, such as a class of one
        row where each has a density of its own; the classifier is then as it was before.
        """
        self._check_params()
        X = asnumpy(X) if is_device_array(X) else X
        x = check_rows("fit", X, dtype=self._default_dtype, minimum=1, missing=self.takes_missing)
        y = check_labels("fit", y, len(x))
        total = total_weight(sample_weight, x)
        x, y, weights = counting(x, y, check_weights("fit", sample_weight, x))
        learner = copy.copy(self)
        classes, codes = np.unique(y, return_inverse=True)
        counts = np.bincount(codes, weights) * (total / len(x))
        vars(learner).update(classes_=classes, priors_=self._choose_priors(counts))
        learner.n_features_in_, learner.dtype_, learner._names = x.shape[1], x.dtype, column_names("fit", X)
        stream = as_stream(self.random_state)
        learner.stream_ = stream.spawn()
        if learner._is_conditional:
            learner.densities_ = [_fitted(self._unfitted(stream), x, weights, context=codes)]
        else:
            learner.densities_ = learner._fit_each(x, codes, weights, counts, stream)
        vars(self).update(vars(learner))
        return self

    def _fit_each(self, x, codes, weights, counts, stream):
        """A density of each class, that has so many rows, or their sum of weights."""
        resolved = getattr(self.density, "_resolve", lambda x: {})(x)
        parts, densities = [self._rows_of(i, x, codes, weights, counts[i]) for i in range(len(counts))], []
        for label, part in zip(self.classes_.tolist(), parts, strict=True):
            density = self._unfitted(stream)
            for name, value in resolved.items():
                setattr(density, name, value)
            try:
                densities.append(_fitted(density, *part))
            except ValueError as error:
                raise ValueError(f"{error} (of the rows of class {label!r})") from None
        tied = isinstance(self.density, GaussianMixture) and self.density.covariance_type == "tied"
        return tie(densities, parts) if tied else densities

    def _rows_of(self, i, x, codes, weights, count):
        """The rows of class i, and their weights: one of weight 2 is two rows."""
        rows = np.flatnonzero(codes == i)
        if len(rows) > 1:
            return x[rows], None if weights is None else weights[rows]
        if count < 2:
            raise ValueError(f"fit: class {self.classes_.tolist()[i]!r} has n_samples=1, one row, and no density is fitted to "
                             "one; give it more, leave it out, or fit one density with conditional=True")
        return x[rows].repeat(2, axis=0), np.full(2, 0.5 if weights is None else 0.5 * weights[rows[0]], x.dtype)

    def _unfitted(self, stream):
        """A copy of density, which has a seed."""
        density = clone(self.density)
        if getattr(density, "random_state", 0) is None:
            density.random_state = int(stream.integers(2**31))
        return density

    def _choose_priors(self, counts):
        if isinstance(self.prior, str):
            return counts / counts.sum()
        priors = np.asarray(self.prior, np.float64)
        if priors.shape != counts.shape or not (priors >= 0).all() or abs(priors.sum() - 1) > 1e-6:
            raise ValueError(f"prior must be 'empirical' or {len(counts)} probabilities that add up to 1, one for each class, "
                             f"got {one_line(self.prior)}")
        return priors / priors.sum()

    # ------------------------------------------------------------ queries

    def predict(self, X):
        """The likeliest class of every row, (n,)."""
        number = self._log_posterior("predict", X).argmax(axis=1)
        return self.classes_[number]

    def predict_proba(self, X):
        """p(y | x) of every row, (n, m) float64, in the order of classes_; p(y) where every class's density vanishes."""
        return np.exp(self._log_posterior("predict_proba", X))

    def predict_log_proba(self, X):
        """log p(y | x) of every row, (n, m) float64."""
        return self._log_posterior("predict_log_proba", X)

    def log_prob(self, X):
        """log p(x) of every row, (n,) nats: of the mixture of the classes, whatever the label."""
        x = self._check("log_prob", X)
        return ops.logsumexp(self._joint(x)).astype(x.dtype)

    def score(self, X, y, sample_weight=None):
        """The share of rows whose likeliest class is y, weighted if sample_weight (n,) is given."""
        predicted = self.predict(X)
        right = check_labels("score", y, len(predicted)) == predicted
        return float(np.average(right, weights=sample_weight))

    def sample(self, n_samples=None, y=None, *, rng=None, return_labels=False):
        """Rows drawn from p(x), or from p(x | y), (n_samples, d); with return_labels, also the label of each, (n_samples,).

        n_samples is 1 unless it is given. y: a label for all rows, or labels (n,) of a row each.
        rng: see Model.sample; a density that is not of npgen takes it if its sample has a parameter rng or random_state.
        Raises ValueError for a negative n_samples and for labels that are no classes.
        """
        self._check_fitted("sample")
        stream = self.stream_ if rng is None else as_stream(rng)
        streams = [stream.spawn() for _ in self.densities_]  # before all else, so that fewer rows are the first ones
        codes = self._draw_codes(n_samples, y, stream)
        x = self._draw_rows(codes, streams)
        return (x, self.classes_[codes]) if return_labels else x

    def _log_posterior(self, method, X):
        joint = self._joint(self._check(method, X))
        with np.errstate(divide="ignore"):
            joint[np.isneginf(joint).all(axis=1)] = np.log(self.priors_)
        return joint - ops.logsumexp(joint)[:, None]

    def _joint(self, x):
        """log p(x, y), (n, m) float64."""
        if self._is_conditional:
            density, = self.densities_
            columns = [density.log_prob(x, context=[i]) for i in range(len(self.classes_))]
        else:
            columns = [getattr(density, "log_prob", None) or density.score_samples for density in self.densities_]
            columns = [log_prob(x) for log_prob in columns]
        with np.errstate(divide="ignore"):
            return np.log(self.priors_) + np.stack([asnumpy(column).astype(np.float64) for column in columns], axis=1)

    def _draw_codes(self, n_samples, y, stream):
        """The numbers of the classes that rows are to be drawn from."""
        n = 1 if n_samples is None else n_samples
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise ValueError(f"sample: n_samples must be a non-negative integer, got {n_samples!r}")
        if y is None:
            edges = np.cumsum(self.priors_)
            return np.searchsorted(edges[:-1], stream.uniform(int(n)) * edges[-1], side="right")
        labels = np.full(n, y) if np.ndim(y) == 0 else check_labels("sample", y, len(y))
        if np.ndim(y) and n_samples not in (None, len(labels)):
            raise ValueError(f"sample: n_samples is {n_samples}, but y has {len(labels)} labels; leave one of them out")
        unknown = ~np.isin(labels, self.classes_)
        if unknown.any():
            raise ValueError(f"sample: y is {labels[unknown].tolist()[0]!r}, but the classes are "
                             f"{one_line(self.classes_.tolist())}")
        return np.searchsorted(self.classes_, labels)

    def _draw_rows(self, codes, streams):
        """A row of each class, (n, d), by the streams of the densities."""
        x = np.empty((len(codes), self.n_features_in_), self.dtype_)
        if self._is_conditional:
            density, = self.densities_
            return density.sample(context=codes, rng=streams[0]) if len(codes) else x
        for i in np.unique(codes):
            x[codes == i] = _drawn(self.densities_[i], np.count_nonzero(codes == i), streams[i])
        return x

    # ------------------------------------------------------------ checks

    @property
    def _is_conditional(self):
        takes_context = getattr(self.density, "_takes_context", False)
        return takes_context if isinstance(self.conditional, str) else bool(self.conditional)

    @property
    def takes_missing(self):
        return getattr(self.density, "takes_missing", False)

    @property
    def _default_dtype(self):
        return getattr(self.density, "_default_dtype", np.float64)

    def _check_params(self):
        density = self.density
        asked = [name for name in ("fit", "sample") if not callable(getattr(density, name, None))]
        if isinstance(density, type) or asked or not (hasattr(density, "log_prob") or hasattr(density, "score_samples")):
            raise TypeError("density must be a model with fit, log_prob or score_samples, and sample, got "
                            f"{one_line(density)}")
        if getattr(getattr(density, "capabilities", None), "density", "exact") == "none":
            raise ValueError(f"density must have a log_prob, which {with_article(density)} has not; choose another")
        for name, word in (("prior", "empirical"), ("conditional", "auto")):
            value = getattr(self, name)
            if isinstance(value, str) and value != word:
                raise ValueError(f"{name} must be {word!r} or given, got {value!r}")
        if self._is_conditional and not getattr(density, "_takes_context", False):
            raise ValueError(f"conditional must be False or 'auto', as {with_article(density)} takes no context")

    def __sklearn_tags__(self):
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # only scikit-learn calls this
        return Tags(estimator_type="classifier", target_tags=TargetTags(required=True), classifier_tags=ClassifierTags(),
                    input_tags=InputTags(allow_nan=self.takes_missing))

    # ------------------------------------------------------------ files

    @property
    def has_file(self):
        """Whether all densities have one."""
        return all(isinstance(density, Saved) and density.has_file for density in vars(self).get("densities_", ()))

    def state(self):
        """What fit learned, as (arrays by name, JSON-able dict): the files of its densities in one."""
        self._check_fitted("state")
        arrays, headers = {"priors_": self.priors_}, []
        for i, density in enumerate(self.densities_):
            if not isinstance(density, Saved):
                raise TypeError(f"save: {with_article(density)} is no model of npgen, and has no file")
            its, header = density._to_file("save")
            arrays |= {f"density.{i}.{name}": a for name, a in its.items()}
            headers.append(header)
        return arrays, {"classes_": self.classes_.tolist(), "labels": self.classes_.dtype.kind, "densities_": headers}

    def _restore(self, arrays, fitted):
        labels, kind, headers = fitted["classes_"], fitted["labels"], fitted["densities_"]
        classes = np.array(labels, dtype=object if kind == "O" else None)
        if kind not in LABELS or classes.dtype.kind != kind and kind != "u" or classes.ndim != 1 or not len(classes) or \
                len({type(label) for label in labels}) > 1 or not (classes[:-1] < classes[1:]).all():
            raise ValueError(f"classes_ are {one_line(labels)}")
        vars(self).update(classes_=classes, priors_=arrays["priors_"])
        check_shapes(arrays, {"priors_": classes.shape})
        if not (self.priors_ >= 0).all() or abs(self.priors_.sum() - 1) > 1e-6:
            raise ValueError(f"priors_ are {self.priors_}"[:200])
        self.densities_ = [from_header(arrays, f"density.{i}.", header) for i, header in enumerate(headers)]
        if len(headers) != (1 if self._is_conditional else len(classes)):
            raise ValueError(f"{len(headers)} densities of {len(classes)} classes")
        for density in self.densities_:
            if density.n_features_in_ != self.n_features_in_ or (density.context_ is not None) != self._is_conditional:
                raise ValueError("the densities are of other columns, or of another context")
            if self._is_conditional and density.context_.columns != [{"levels": list(range(len(classes)))}]:
                raise ValueError("the density is of other classes")


def check_labels(method, y, n):
    """The labels (n,) as an array. Raises ValueError or TypeError for what are no labels of n rows."""
    if y is None:
        raise ValueError(f"{method}: requires y to be passed, but the target y is None; pass a label for each row")
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        theirs = getattr(sys.modules.get("sklearn.exceptions"), "DataConversionWarning", UserWarning)
        warn(f"A column-vector y was passed when a 1d array was expected: {method} takes its column as labels (n,)", theirs)
        y = y[:, 0]
    if y.shape != (n,):
        raise ValueError(f"{method}: y has shape {y.shape}, but X has {n} rows; pass one label for each")
    values = y.tolist()
    if any(value is None or value != value or value in (np.inf, -np.inf) for value in values):
        raise ValueError(f"{method}: Input y contains NaN, infinity or a missing label; give those rows one, or drop them")
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        raise ValueError(f"{method}: Unknown label type: y holds {y[y != np.floor(y)][0]:g}; pass strings or whole numbers")
    if y.dtype.kind not in LABELS or y.dtype.kind == "O" and {type(value) for value in values} - {str}:
        raise TypeError(f"{method}: Unknown label type: y has dtype {y.dtype}; labels are strings, or whole numbers")
    return y


def _fitted(density, x, weights, **more):
    """The density, fitted to rows."""
    return density.fit(x, **more) if weights is None else density.fit(x, sample_weight=weights, **more)


def _drawn(density, n, stream):
    """n rows of a density, as reproducible as it can do."""
    takes, how = inspect.signature(density.sample).parameters, {}
    if "rng" in takes:
        how = {"rng": stream}
    elif "random_state" in takes:
        how = {"random_state": int(stream.integers(2**31))}
    x = density.sample(n, **how)
    return x[0] if isinstance(x, tuple) else x
