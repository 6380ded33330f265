"""The contract of every model: three queries, checked at the door, in the data's own space.

    density          log_prob(X) -> (n,) nats; score(X), its mean; of a model without one, score is minus the energy distance
    sampling         sample(n) -> (n, d)
    representation   encode(X) -> (n, l), decode(Z) -> (n, d)

Public methods check and convert; the private ones of the same name are the mathematics. A query runs in the dtype of the
rows it is given, so float64 rows are scored in float64 whatever the model was fitted on.

Legend: n rows, d features, l latent dimensions.
"""
import abc
import copy
import dataclasses

import numpy as np

from .. import parallel, transforms
from ..checks import check_constant, check_rows, check_weights, column_names, counting, total_weight, with_article
from ..engine import Tensor
from ..heads import head_for
from ..kernels import session
from ..kernels._cuda import asarray, asnumpy, is_device_array
from ..later import asked_later
from ..random import as_stream
from . import blocks
from .blocks import by_block
from .capabilities import Capabilities, check_density, only, score_by_draws, take_objective  # noqa: F401  for models
from .context import TakesContext
from .device import OnDevice
from .estimator import Estimator, Follows, clone  # noqa: F401  Follows: a word that models write with
from .files import Saved
from .inner import Inner
from .overflow import FAR, beyond_numbers, without_overflow
from .run import RunFile
from .tabular import OfTables

SLAB = 2**28  # bytes of rows that are sent to a device at once, to be taken in parts

class Model(Estimator, OnDevice, OfTables, TakesContext, Saved, abc.ABC):
    """A generative model: fit, log_prob, score, sample, encode, decode, save; its hyperparameters are fields (see Estimator).

    It is parameters p, {name: array}, in the space that preprocessing leads to; z are rows there and c the context's, (n, w)
    or None. A subclass writes, as mathematics in that space, of checked arguments,

        _learn(x, c, weights, run)      sets params_, history_ and n_epochs_ (GradientModel does)
        _log_density(p, z, c)           (n,) nats, unless capabilities say that there are none
        _draw(p, n, stream, c)          n rows
        _represent(p, z, c)             what encode gives, (n, n_latent_), and _reconstruct(p, h, c), what decode gives
        _assemble(d, w, chosen)         {name: Part}, set as self._name, for d columns, w of context and what _choose gave
        _choose(z, c, stream)           {name: value} that the data or hyperparameters decide, set as name_; files keep it
    """

    random_state: object = None
    preprocess = None
    _capabilities = None

    def __sklearn_tags__(self):
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags  # only scikit-learn calls this
        transforms = self._capabilities.representation != "none"
        return Tags(estimator_type="density_estimator", target_tags=TargetTags(required=False),
                    input_tags=InputTags(allow_nan=self.takes_missing),
                    transformer_tags=TransformerTags(preserves_dtype=["float64", "float32"]) if transforms else None)

    def __sklearn_clone__(self):
        return clone(self)

    @property
    def head_(self):
        """The likelihood head of a model that has one, else None; known once it is fitted."""
        return self._parts.get("head")

    @property
    def capabilities(self):
        """What this model's answers are (Capabilities); known once it is fitted if preprocessing has a say."""
        preprocessing, can = getattr(self, "preprocess_", None), self._capabilities
        if preprocessing is not None and not preprocessing.exact and can.density == "exact":
            can = dataclasses.replace(can, density="bound")
        fitted = can.density != "none" and self.__sklearn_is_fitted__()
        return dataclasses.replace(can, measures=tuple(self.measures_)) if fitted else can

    # ------------------------------------------------------------ fitting

    def fit(self, X, y=None, *, context=None, sample_weight=None, validation_data=None, objective=None, columns=None,
            checkpoint=None, resume=False):
        """Learn from the rows of X (n, d); returns self. y is ignored, there so that pipelines work.

        X: an array, or a DataFrame (pandas, polars, pyarrow): queries take and give such frames then. columns: of a frame, its
        npgen.data.Schema, or {name: kind} where it would be inferred otherwise. A mixture also takes rows in blocks, which
        workers read (npgen.parallel): a list of .npy or Parquet files, a folder of them, a Dask array or DataFrame.
        context (n, w): what is known beside X, of which the density is p(x | context) then: a vector of labels (n,), numbers
        (n, w), or a table of both. Labels become one-hot, numbers are standardised. For models that are trained by gradient.
        sample_weight (n,): non-negative. Equal weights are no weights, a row of weight 0 is not there, and an integer weight
        counts as so many copies of its row: in every sum over rows, not in how a gradient's batches are drawn.
        validation_data: rows (m, d), or a tuple (rows, their sample_weight) or (rows, their sample_weight or None, their
        context), for models that are trained by gradient: these stop training and choose the best epoch in place of
        validation_fraction of X, and nothing else sees them. For rows that come in groups or in an order, of which random
        ones would be no test.
        objective: the divergence between the data and the model that is minimised, "kl" by maximum likelihood. It sets the
        hyperparameter of that name, where there is one to choose; None: as that says.
        checkpoint: a path that the state of the run is written to, after an epoch at most every WRITE_EVERY seconds, and
        when the fit ends, be it by Ctrl-C or an error; with resume=True a run goes on from that file, to the same bits as
        one that never stopped.
        Raises ValueError or TypeError for data that cannot be fitted; the model is then as it was before.
        """
        if (found := blocks.in_blocks("fit", X, sample_weight)) is not None:
            return blocks.fit(self, found, columns, checkpoint, resume, context=context, validation_data=validation_data,
                              objective=objective)
        self._check_place("fit", "X", X)  # what is done once is done on the host, and then all goes to the device at once
        learner = copy.copy(self)  # a fit that fails leaves this model alone
        X = learner._take_frame(asnumpy(X) if is_device_array(X) else X, columns)
        x = check_rows("fit", X, dtype=self._default_dtype, minimum=2, missing=learner.takes_missing)
        weights, n_seen = check_weights("fit", sample_weight, x), total_weight(sample_weight, x)
        take_objective(learner, objective)
        learner.context_ = self._context_map(context, len(x), weights)
        x, c, weights = counting(x, learner._check_context("fit", context, x), weights)
        check_rows("fit", x[:2], minimum=2, missing=learner.takes_missing)
        learner.n_features_in_, learner.dtype_, learner._names = x.shape[1], x.dtype, column_names("fit", X)
        validation = None if validation_data is None else learner._check_validation(validation_data)
        with (session(), parallel.current().together(),
              RunFile(checkpoint, resume, learner, (x, c, weights), n_seen, validation) as run):
            learner.stream_ = run.stream.spawn()
            learner.preprocess_ = transforms.make(self.preprocess, x, learner._untouched).fit(x, sample_weight=weights)
            learner._learn(x, c, weights, run)
        vars(self).update(vars(learner))
        return self

    # ------------------------------------------------------------ queries

    @by_block
    def log_prob(self, X, *, context=None):
        """log p(x) of every row, (n,) nats, in the data's own space; see `capabilities` for exact, bound or estimate.

        Of rows inside a derivative of npgen.engine it is differentiable: grad(lambda X: np.sum(model.log_prob(X))).
        context: of every row, as in fit, or of one for all: then this is log p(x | context).
        It is finite, or -inf for a row so far out that the dtype of X does not hold its log-density; never NaN.
        Raises NotFittedError, and ValueError for rows of another width, NaN or infinities, and of a model without a density.
        """
        check_density(self, "log_prob")
        if isinstance(X, Tensor):
            return self._tracked_log_prob(X, context)
        return beyond_numbers(self._rowwise(self._log_prob, *self._check_both("log_prob", X, context)))

    def _tracked_log_prob(self, X, context):
        """log_prob inside a derivative: the rows are checked by their value, and noise that stands for a row is constant."""
        value = X
        while isinstance(value, Tensor):
            value = value.value
        x, c = self._check_both("log_prob", value, context)
        if np.isnan(x).any():
            raise ValueError("log_prob: X has missing values, by which there is no derivative; impute them first")
        with session(), np.errstate(over="ignore", under="ignore"):
            return self._log_prob(X, c if c is None else self._place(c))

    def _log_prob(self, x, c=None):
        return self._in_space(lambda p, z, c, log_det: self._log_density(p, z, c) + log_det, x, c)

    @only("density")
    def score_samples(self, X):
        """log_prob under the name that scikit-learn gives it."""
        self._as_in_fit("score_samples", X)
        return self.log_prob(X)

    def score(self, X, y=None, *, context=None, sample_weight=None):
        """The mean of log_prob over the rows, weighted if sample_weight (n,) is given; a float, in nats.

        Of a model without a density: minus the energy distance between the rows and rows drawn with rng=0.
        """
        check_constant("score", X)
        self._as_in_fit("score", X)
        if self._capabilities.density != "none" and (found := blocks.in_blocks("score", X, sample_weight)) is not None:
            return blocks.score(self, found)
        if self._capabilities.density == "none":
            return score_by_draws(self, *self._check_both("score", X, context), sample_weight)
        log_prob = asnumpy(self.log_prob(X, context=context))
        weights = check_weights("score", sample_weight, log_prob)
        if not len(log_prob):
            raise ValueError("score: X has no rows; pass at least one")
        if weights is not None:
            log_prob, weights = log_prob[weights > 0], weights[weights > 0]
        return float(np.average(log_prob.astype(np.float64), weights=weights))

    def sample(self, n_samples=None, *, context=None, rng=None):
        """Rows drawn from the model, (n_samples, d); n_samples is 1 unless it is given.

        context: m rows of it give one row each, (m, d), or with n_samples that many each, (m, n_samples, d), in a frame one
        below another; one alone, a label or a vector (w,), gives (n_samples, d).
        rng: None goes on with the model's own stream, so that two calls differ; an int, SeedSequence, Generator or
        npgen.random.Stream always gives the same rows. Raises ValueError for a negative n_samples.
        """
        n, c, shape = self._check_draw("sample", n_samples, context)
        x = asnumpy(self._drawn(lambda n, stream: self._sample(n, c, stream), n, rng))
        return self._tabled(x.reshape(*shape, self.n_features_in_))

    def sample_and_log_prob(self, n_samples=None, *, context=None, rng=None):
        """Rows drawn from the model and their log_prob, without its last dimension. context, rng, errors: see sample."""
        check_density(self, "sample_and_log_prob")
        n, c, shape = self._check_draw("sample_and_log_prob", n_samples, context)
        x = self._rounded(asnumpy(self._drawn(lambda n, stream: self._sample(n, c, stream), n, rng)))
        log_prob = beyond_numbers(self._rowwise(self._log_prob, self._check("log_prob", self._named(x)), c))
        return self._tabled(x.reshape(*shape, self.n_features_in_)), asnumpy(log_prob).reshape(shape)

    def _sample(self, n, c, stream):
        return self.preprocess_.data(None, self._draw(self.params_, n, stream, c))

    @by_block
    def encode(self, X, *, context=None):
        """The representation of every row, (n, l): `capabilities.representation` says what it is. Raises as log_prob does.

        It is never NaN: a number that the dtype of X does not hold is infinite, and a row too far out for float64 is taken for
        one at 1e200, in the space that preprocessing leads to.
        """
        return self._rowwise(self._encode, *self._check_both("encode", X, context))

    def _encode(self, x, c=None):
        return self._in_space(lambda p, z, c, log_det: self._represent(p, z, c), x, c, far=FAR)

    def decode(self, Z, *, context=None):
        """The row that a representation stands for, (n, d), in the data's own space; of extreme ones as encode says.

        Raises ValueError for representations of another width.
        """
        self._check_fitted("decode")
        self._check_place("decode", "Z", Z)
        z = check_rows("decode", Z, dtype=self._default_dtype, name="Z")
        if z.shape[1] != self.n_latent_:
            raise ValueError(f"decode: Z has {z.shape[1]} columns, but this model's representations have {self.n_latent_}")
        return self._rowwise(self._decode, z, self._check_context("decode", context, z))

    def _decode(self, h, c):
        def rows(h):
            return self.preprocess_.data(None, self._reconstruct(self._at(h.dtype), h, _as(c, h.dtype)))
        return without_overflow(rows, lambda h: (h,), h, far=FAR)

    def _in_space(self, function, x, c, **how):
        """function(p, z, c, log_det) of the preprocessed rows, by way of without_overflow."""
        return without_overflow(lambda z, log_det: function(self._at(z.dtype), z, _as(c, z.dtype), log_det),
                                lambda x: self.preprocess_.to_noise(None, x), x, **how)

    @only("representation")
    def transform(self, X):
        """encode under the name that scikit-learn gives it."""
        self._as_in_fit("transform", X)
        return self.encode(X)

    @only("representation")
    def fit_transform(self, X, y=None, **fit_params):
        """fit, then encode the same rows."""
        return self.fit(X, y, **fit_params).encode(X)

    @only("representation")
    def inverse_transform(self, Z):
        """decode under the name that scikit-learn gives it."""
        return self.decode(Z)

    def inner(self, dtype=None):
        """This model as mathematics (Inner), in a dtype, by default its own: parameters, parts, and what queries compute."""
        self._check_fitted("inner")
        return Inner(self, dtype or self.dtype_)

    # ------------------------------------------------------------ what a model writes

    takes_missing = False  # whether NaN stands for a missing value, or is refused
    _validates = False  # whether fit stops by rows held out
    _objectives = ("kl",)  # what fit can minimise, by name
    _untouched = False  # which columns preprocessing leaves as they are (heads.untouched)
    _default_dtype = np.float32  # of rows that are neither float32 nor float64
    _rows_per_call = 4096  # of a private method: bounds the memory of a query
    _multiple = 4  # that the rows of a query are padded to: a BLAS rounds those left over by other instructions
    _parts, _chosen = {}, {}

    n_latent_ = 0  # the width of encode's answer

    @abc.abstractmethod
    def _learn(self, x, c, weights, run):
        """Set params_, history_ and n_epochs_; x is checked, weights (n,) have mean 1 or are None; preprocess_ is fitted."""

    def _log_density(self, p, z, c=None):
        """(n,) log-density of preprocessed rows."""
        raise NotImplementedError(f"{type(self).__name__} has no _log_density")

    @abc.abstractmethod
    def _draw(self, p, n, stream, c=None):
        """n rows in the preprocessed space."""

    def _represent(self, p, z, c=None):
        """The representation of preprocessed rows."""
        raise ValueError(f"encode: {with_article(self)} has no representation")

    def _reconstruct(self, p, h, c=None):
        """The preprocessed rows that representations stand for."""
        raise ValueError(f"decode: {with_article(self)} has no representation")

    def _choose(self, z, c, stream):
        return {}

    def _resolve(self, x):
        """Hyperparameters that leave a choice to the data, as these rows decide: for fits to some of them that are compared."""
        maps, head = transforms.make(self.preprocess, x, self._untouched).fit(x), getattr(self, "head", None)
        found = None if head is None else head_for(head, maps.to_noise(None, x)[0])
        resolved = {} if found is None else {"head": found.name if found.config() == found.name else found}
        maps.hold()
        return resolved if self.preprocess is None else resolved | {"preprocess": maps}

    def _assemble(self, d, w, chosen):
        return {}

    def _build(self, chosen):
        """Take what _choose gave, and the parts that _assemble makes of it."""
        width = 0 if self.context_ is None else self.context_.width
        self._chosen = chosen
        self.install(self._assemble(self.n_features_in_, width, chosen))
        vars(self).update({f"{name}_": value for name, value in chosen.items()})

    def install(self, parts):
        """Compute with these parts, {name: Part}, from now on: for who studies a model or tests it."""
        self._parts = parts
        vars(self).update({f"_{name}": part for name, part in parts.items()})

    def _move(self):
        """Put what the mathematics uses where the model computes."""
        self.params_, self.preprocess_ = self.params_.to(self._place), self.preprocess_.to(self._place)
        self.install({name: part.to(self._place) for name, part in self._parts.items()})

    def _at(self, dtype):
        return self.params_ if self.params_.flat.dtype == dtype else self.params_.copy(dtype)

    @property
    def n_parameters_(self):
        """How many free numbers it has learned."""
        return self.params_.flat.size

    # ------------------------------------------------------------ checks

    def _check(self, method, X, name="X", missing=None):
        self._check_place(method, name, X)
        return super()._check(method, self._numbers(method, X, name), name, missing)

    def _check_validation(self, validation_data):
        """The rows and weights of validation_data, checked like X."""
        if not self._validates:
            raise ValueError(f"fit: validation_data is for models trained by gradient, but EM fits {with_article(self)} "
                             "and does not stop early; leave it out, and call score on those rows afterwards")
        several = isinstance(validation_data, tuple) and len(validation_data) in (2, 3)
        X, sample_weight, context = (*validation_data, None)[:3] if several else (validation_data, None, None)
        X = asnumpy(X) if is_device_array(X) else X
        x = Model._check(self, "fit", X, name="validation_data")
        with np.errstate(over="ignore"):
            x = check_rows("fit", x.astype(self.dtype_, copy=False), name="validation_data", minimum=1,
                           missing=self.takes_missing)
        c = self._check_context("fit: validation_data", context, x)
        return counting(x, c, check_weights("fit: validation_data", sample_weight, x))

    def _named(self, x):
        """Rows whose columns are those of the fit, under their names."""
        from ..data import Table  # import npgen stays light
        return Table(x, self._names) if self._names else x

    def _drawn(self, draw, n, rng):
        with session():
            return draw(n, self.stream_ if rng is None else as_stream(rng))

    def _rowwise(self, function, x, c=None, *, rows=None):
        rows, give = rows or self._rows_per_call, asarray if is_device_array(x) else asnumpy
        there = rows if self._device == "cpu" else rows * max(1, SLAB // max(1, rows * x[:1].nbytes))
        with session(), np.errstate(over="ignore", under="ignore", invalid="ignore"):  # see without_overflow
            answers = [give(self._of_slab(function, x[i:i + there], c if c is None else c[i:i + there], rows))
                       for i in range(0, max(len(x), 1), there)]
        return answers[0] if len(answers) == 1 else np.concatenate(answers)

    def _of_slab(self, function, x, c, rows):
        """function of rows and their context, so many at once; a device is waited for when all are on their way."""
        x, c = (a if a is None else self._place(a) for a in (x, c))

        def of(i):
            part = slice(i, i + rows)
            return function(*(a if a is None else self._filled(a[part]) for a in (x, c)))[:len(x[part])]

        if len(x) <= rows:
            return of(0)
        with asked_later() as flags:
            answers, parts = [], []  # parts: of every flag, whose it is
            for i in range(0, len(x), rows):
                answers.append(of(i))
                parts += [i] * (len(flags) - len(parts))
        wrong = asnumpy(np.stack(flags)) if flags else ()
        for i in sorted({i for i, overflown in zip(parts, wrong, strict=True) if overflown}):
            answers[i // rows] = of(i)
        return np.concatenate(answers)

    def _filled(self, x):
        """The rows, and copies of the last up to a multiple of _multiple."""
        missing = -len(x) % self._multiple
        return np.concatenate([x, x[-1:].repeat(missing, axis=0)]) if missing else x


def _as(c, dtype):
    return c if c is None else c.astype(dtype, copy=False)
