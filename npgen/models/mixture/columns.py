"""A mixture whose components take the columns as independent, each of its own kind: real, binary, counts or categorical.

    p(x) = sum_k w_k prod_j p_kj(x_j),    p_kj by a head of npgen.heads

A missing value (NaN) is left out of the product, which is to marginalise it.

Legend: n rows, d columns, k components, r real columns, q the others, c levels of one.
Reference: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm (1977).
"""
import dataclasses
import math

import numpy as np

from ... import ops
from ...checks import check_shapes, one_line
from ...engine import Tensor
from ...heads import Categorical, Normal
from ...heads.normal import THINNEST, interleaved, std
from ...kernels._cuda import asnumpy, constant_like
from ...tensor import value_of
from ...train import ConvergenceWarning
from ...transforms import warn_of_atoms
from ...warn import warn
from ..base import Follows
from ..overflow import nan_later
from .base import ALONE, MixtureModel
from .columns_em import DRAWS, SHOWN, SHOWN_THERE, Products, apart, expect, maximise, statistics_of
from .covariances import COVARIANCES
from .kinds import ColumnHeads, chosen_heads, column_heads, column_parameter, levels_of, with_levels, with_missing
from .questions import OfColumns
from .rows import BlockedRows, Rows, constants, placed, spread
from .starts import labels_by, random_rows

SHARED, PER_SHARED = 40, 25  # normals that components share in a column, at most, and rows for each


class Mixture(OfColumns, MixtureModel):
    """Mixture of products of columns: p(x) = sum_k w_k prod_j p_kj(x_j); the columns may be of different kinds.

    n_components      k
    heads             what the columns are: "normal", "bernoulli" (0 or 1), "poisson" (counts), "categorical" (whole numbers,
                      of which those that are there are its levels), or npgen.heads.Categorical(levels), which
                      declares them: a list of numbers, or how many they are, 0, 1, ..., c - 1; one head for all columns, a
                      list of one for each, or "auto": Bernoulli where a column holds 0 and 1 only, normal otherwise, and of a
                      DataFrame what each column calls for (models/choice.py): also Grid, Mapped, Atoms, Pooled and Tied of
                      npgen.heads, which may be given, too, of Normal(limit=None)
    numbers           what "auto" makes of a DataFrame's numbers: "normal", a component has one place in each column, or "tied",
                      any shape there, by up to 40 normals that all components share: likelier rows, but vaguer clusters
    tol, max_iter     EM stops when the mean log-likelihood changes by no more than tol nats, or after max_iter iterations
    reg_covar         added to every variance, relative to that column's variance within the components (the geometric mean
                      of theirs by weight), so that it does not grow with the distance between them
    smoothing         added to the counts of 0 and of 1 in every component, relative to the number of rows, 2 / c of it to that
                      of each of c levels, twice it, shared as all rows are, to those of tied normals, and all of it to the
                      sum of Poisson counts; 0 gives the exact maximum
    n_init            EM runs from this many starts; the likeliest is kept
    init_params       the first components: "k-means++", of the rows nearest to rows that lie apart in the heads' own
                      divergences, or "random_from_data", around rows drawn at random

    missing           "marginalise", or "model": whether a value is missing is a state of its column, where some are in fit, and
                      log_prob is that of what is seen and of what is not, log p(x_seen, m); impute takes it for a value that
                      could have been seen

    A missing value is NaN, and counts for nothing unless it is modelled; a level that was neither there nor declared is
    refused. encode gives the responsibilities (n, k); decode, of each column under their average: the mean, P(x = 1), or the
    likeliest level.
    Arithmetic is float64, but for products of bits with what they count, which are of the rows' dtype.

    Attributes: weights_ (k,), means_ and variances_ (k, r) of the normal columns, rates_ of the Poisson ones, levels_ and
    probabilities_, arrays (c,) and (k, c) per column that has levels; kinds_ (d,), converged_, n_iter_, lower_bound_,
    lower_bounds_ and fit_report_ as GaussianMixture has them, this with the mean nats that one_component alone reaches.
    Reference: Dempster, Laird & Rubin (1977); for the start, Nock, Luosto & Kivinen, Mixed Bregman clustering (2008).
    """

    heads: object = "auto"
    numbers: str = "normal"
    smoothing: float = 2e-6
    init_params: str = "k-means++"
    missing: str = "marginalise"
    variances_, probabilities_, rates_, levels_ = Follows(), Follows(), Follows(), Follows()
    preprocess = None
    takes_missing = holds_levels = True
    _line = Normal(limit=None)

    @classmethod
    def from_parameters(cls, weights, heads, parameters, *, feature_names=None, dtype=np.float64, **options):
        """The mixture with these weights (k,) and, of each column, a head and its parameters, as if it were fitted.

        heads: as the constructor takes them, but "auto"; the levels of "categorical" are 0, 1, ..., c - 1.
        parameters, one for each column: (means (k,), variances (k,)) of a normal one, P(x = 1) (k,) of a Bernoulli one, rates
        (k,) of a Poisson one, P(x = level) (k, c) of a categorical one.
        feature_names: of the columns (d,). dtype: of its samples. options: the constructor's. partial_fit goes on as after one
        batch. lower_bound_ is NaN.
        Raises ValueError for other shapes, weights or probabilities that do not add up to 1, and numbers that none can be.
        """
        k, d = np.size(weights), len(parameters)
        if isinstance(heads, str) and heads == "auto":
            raise ValueError("from_parameters: heads must say what each column is, got 'auto'")
        model = cls(k, heads=heads, **options)
        model._check_counts("tol", "reg_covar", "smoothing")
        weights, heads = model._init_known(weights, k, d, feature_names, dtype), column_heads(model.heads, np.empty((0, d)))
        kinds = [getattr(head, "name", head) for head in heads]
        widths = {j: np.atleast_1d(parameters[j]).shape[-1] for j in with_levels(kinds)}
        levels = [levels_of(np.arange(c)[:, None], 0, heads[j]).tolist() for j, c in widths.items()]
        model._build({"n_components": k, "kinds": kinds, "levels": levels})
        widths, outputs, pooled = dict(zip(widths, map(len, levels), strict=True)), {}, {}
        for name, head in model._columns.heads.items():
            given = [column_parameter(j, name, parameters[j], k, widths.get(j)) for j in model._columns.numbers[name]]
            if name == "normal":
                mean, variance = np.stack(given, axis=-1)
                centre = weights @ mean
                outputs[name] = interleaved(mean, np.log(variance))
                pooled[name] = interleaved(centre, np.log(weights @ (variance + np.square(mean - centre))))[None]
                continue
            moments = np.concatenate(given, axis=1) if name == "categorical" else \
                np.stack([np.ones((k, len(given))), np.stack(given, axis=1)])  # of one row under each component
            outputs[name] = head.maximise(moments, None, None, 0.0)
            of_all = np.expand_dims(np.tensordot(weights, moments, (0, -2)), -2)
            pooled[name] = head.maximise(of_all, None, None, 0.1)
        model._keep(dataclasses.replace(Products.equal(model._columns, outputs), log_weights=np.log(weights)), pooled=pooled)
        return model

    # ------------------------------------------------------------ fitting

    def _normals(self, n):
        return max(2, min(SHARED, n // PER_SHARED)) if self.numbers == "tied" else 0

    def _learn(self, x, c, weights, run):
        self._learn_rows(Rows(x, weights), run, lambda: self._check_support("fit", x))

    def _learn_blocks(self, blocks, run):
        self._learn_rows(BlockedRows(blocks), run, lambda: blocks.check(self._columns.check_support))

    def _learn_rows(self, rows, run, check_support):
        self._check_counts("tol", "reg_covar", "smoothing")
        if self.init_params not in ("k-means++", "random_from_data"):
            raise ValueError(f"init_params must be k-means++ or random_from_data, got {one_line(self.init_params)}")
        values = rows.values()  # rows of all values that there are, as far as heads depend on them
        self._refuse(np.isnan(values).all(axis=0), "has no values; drop it")
        if self.missing not in ("marginalise", "model"):
            raise ValueError(f"missing must be marginalise or model, got {one_line(self.missing)}")
        if self.numbers not in ("normal", "tied") or self.numbers == "tied" and self._asked is self.heads:
            raise ValueError("numbers must be normal, or tied where X is a DataFrame and heads 'auto', got "
                             f"{one_line(self.numbers)}")
        heads, self.n_batches_, self.n_seen_ = column_heads(self._asked, values), 1, run.n_seen
        heads = with_missing(heads, values) if self.missing == "model" else heads
        self._build({"n_components": int(self.n_components), **chosen_heads(heads, values)})
        check_support()
        reals, some = self._columns.reals, rows.evenly()
        warn_of_atoms("fit", some[:, reals], some[:, reals], reals)
        with np.errstate(under="ignore", over="ignore"):
            self._pool(rows)
            rows = rows.seen_from(*self._coordinates()).on(self.device)
            one = self.fit_report_["one_component"] = self._nats_of_one(rows)
            self._keep(self._iterate(rows, run))
        if self.n_components > 1 and self.lower_bound_ <= one + self.tol:  # where EM rests, whatever the data
            warn(f"fit: {self.n_components} components are no likelier than one; raise n_init, or lower n_components",
                 ConvergenceWarning)

    @property
    def _asked(self):
        """heads, but "auto" of a DataFrame as its schema says."""
        auto = isinstance(self.heads, str) and self.heads == "auto"
        return self._found if auto and self._found is not None else self.heads

    def _nats_of_one(self, rows):
        """The mean nats that one component reaches."""
        one = placed(rows.place, Products.equal(self._columns, self.pooled_))
        one = self._maximise(one, self._expect(one, rows))[0]
        return self._read(self._expect(one, rows))[0]

    def _on_floor(self, components):
        if "normal" not in self._columns.heads:
            return []
        head, reals = self._columns.heads["normal"], self._columns.reals
        share = components.floor[self._columns.floors["normal"]] * np.exp(
            head.split(self.pooled_["normal"])[1] - head.split(components.outputs["normal"])[1])
        varied = ~np.isin(reals, self.fit_report_["constant_columns"])
        return np.flatnonzero((share > ALONE)[:, varied].any(axis=1)).tolist()

    def _refuse(self, wrong, words):
        if wrong.any():
            raise ValueError(f"fit: column {wrong.argmax()} of X {words}")

    def _assemble(self, d, w, chosen):
        options = chosen.get("options", ())  # which not all files have
        return {"columns": ColumnHeads(chosen["n_components"], d, chosen["kinds"], chosen["levels"], options)}

    def _resolve(self, x):
        return {"heads": [Categorical(levels_of(x, j, head)) if head == "categorical" else head
                          for j, head in enumerate(column_heads(self._asked, x))]}

    def _check_support(self, method, x):
        with self._naming_columns(method):
            self._columns.check_support(method, x)

    def _pool(self, rows):
        """Set pooled_, the outputs (1, ...) of all rows as one component."""
        reals, (some, weights) = self._columns.reals, rows.few()
        centre, deviations = spread(rows.of(reals), reals) if len(reals) else (np.empty(0), np.empty(0))
        thin = np.isin(np.arange(rows.d), reals[(deviations > 0) & (deviations < np.finfo(float).tiny / THINNEST)])
        self._refuse(thin, "has values too close together for float64; multiply it by a constant")
        self.fit_report_ = {"constant_columns": reals[deviations == 0].tolist()}
        if self.reg_covar == 0 and not deviations.all():
            raise ValueError(f"fit: column {reals[deviations.argmin()]} of X is constant, and with reg_covar=0 has no density; "
                             "drop it, or set reg_covar above 0")
        units = COVARIANCES["diag"].units(deviations) if deviations.any() else np.ones(len(reals))
        pooled = {name: interleaved(centre, 2 * np.log(units))[None] if name == "normal" else
                  head.initial(view, weights)[None] if not head.by_name else np.zeros((1, head.n_outputs(view.shape[1])))
                  for name, head, view in self._columns.views(some)}
        self._build(self._chosen | {"pooled": pooled})
        statistics = self._expect(Products.equal(self._columns, pooled), rows.seen_from(*self._coordinates()))
        for (name, head), moments in zip(self._columns.heads.items(), statistics.moments, strict=True):
            if name != "normal" and head.by_name:
                pooled[name] = head.maximise(moments, pooled[name], None, 0.1 * statistics.weight)

    def _prepare_rows(self, x, weights):
        return Rows(x, weights, *self._coordinates())

    def _coordinates(self):
        """The centre (d,) and scale (d,) that normal columns are seen in."""
        centre, scale = np.zeros(self.n_features_in_), np.ones(self.n_features_in_)
        if "normal" in self._columns.heads:
            reals, (mean, log_var) = self._columns.reals, self._columns.heads["normal"].split(self.pooled_["normal"][0])
            centre[reals], scale[reals] = mean, std(log_var)
        return centre, scale

    def _start(self, rows, stream):
        """Components of equal weight: around random rows, or each of the rows nearest to one of k that lie apart, and of a few
        as all rows are.
        """
        k = self.n_components
        x, weights = rows.choose(stream, max(rows.d, k, DRAWS))
        pooled = self._pooled(weights)
        if self.init_params == "random_from_data":
            return Products.around(self._columns, random_rows(x, weights, k, stream), pooled)
        return apart(self._columns, x, weights, k, pooled, stream)

    def _expect(self, components, rows):
        return rows.sum(expect, components)

    def _maximise(self, components, statistics):
        pooled = self._pooled(components.log_weights)
        return maximise(components, statistics, pooled, float(self.reg_covar), float(self.smoothing))

    def _reseed(self, components, lost, rows, stream):
        seeds, numbers = random_rows(*rows.choose(stream, rows.d), np.count_nonzero(lost), stream), np.flatnonzero(lost)
        around = Products.around(self._columns, seeds, self._pooled(components.log_weights)).outputs
        outputs, log_weights = {name: a.copy() for name, a in components.outputs.items()}, components.log_weights.copy()
        for i, k in enumerate(numbers):
            log_weights[k] = -math.log(len(lost))
            for name, output in outputs.items():
                output[k] = around[name][i]
        return dataclasses.replace(components, log_weights=log_weights - ops.logsumexp(log_weights), outputs=outputs)

    def _pooled(self, like):
        """pooled_, where `like` is."""
        return {name: constant_like(outputs, like) for name, outputs in self.pooled_.items()}

    def _statistics_of(self, components):
        return statistics_of(components, self._pooled(components.log_weights), float(self.smoothing))

    def _restore_components(self, arrays):
        return Products(self._columns, arrays["log_weights"], {name: arrays[name] for name in self._columns.heads},
                        arrays["floor"])

    def _components(self, params):
        return Products.of(self._columns, params, self.floor_)

    def _finish(self):
        check_shapes(self.pooled_, {name: (1, width) for name, width in self._columns.n_outputs().items()})
        check_shapes({"floor_": self.floor_}, {"floor_": (self._columns.n_floors,)})
        components, empty, tables = self._components(self.params_), np.empty((len(self.params_["logits"]), 0)), {}
        vars(self).update(weights_=np.exp(components.log_weights), means_=empty, variances_=empty, rates_=empty,
                          kinds_=self._columns.kinds, levels_=self._columns.levels)
        for name, head in self._columns.heads.items():
            outputs = components.outputs[name]
            if name == "normal":
                vars(self).update(means_=head.mean(outputs), variances_=head.variance(outputs))
            elif name == "poisson":
                vars(self)["rates_"] = head.mean(outputs)
            elif with_levels([name]):
                parts = head.log_probabilities(outputs)
                tables |= {j: np.exp(part) for j, part in zip(self._columns.numbers[name], parts, strict=True)}
        vars(self)["probabilities_"] = tuple(tables[j] for j in sorted(tables))

    # ------------------------------------------------------------ queries

    @property
    def n_parameters_(self):
        k, outputs = len(self.weights_), sum(self.params_[name].size for name in self._columns.heads)
        redundant = sum(head.redundant(len(self._columns.numbers[name])) for name, head in self._columns.heads.items())
        return k - 1 + outputs - k * redundant  # of levels one follows from the others

    @property
    def _rows_per_call(self):
        return max(64, (SHOWN_THERE if self.device == "cuda" else SHOWN) // max(self.n_latent_, self.n_features_in_))

    def _check(self, method, X, name="X", missing=None):
        x = super()._check(method, X, name, missing)
        self._check_support(method, x)
        return x

    def _loss(self, p, z, stream, c=None):
        return -self._log_density(p, z)

    def _log_density(self, p, x, c=None):
        if any(isinstance(value, Tensor) for value in (x, *p.values())):
            return ops.astype(constants(self._components(p), value_of(x)).log_prob(x), x.dtype)
        return ops.logsumexp(self._joint(p, x)).astype(x.dtype)

    def _represent(self, p, x, c=None, more=0.0):
        """more: what is added to log w_k p_k(x)."""
        joint = self._joint(p, x) + more
        r = _shares(joint)  # NaN of rows that are under no component
        if not nan_later(r) and (far := joint.max(axis=1) == -np.inf).any():
            joint[far] = self._joint(p, np.asarray(self._columns.nearer(asnumpy(x[far])), like=x))
            r = _shares(joint)
        return r.astype(x.dtype)

    def _joint(self, p, x):
        """log w_k p_k(x), (n, k)."""
        return constants(self._components(p), x).joint(self._columns.views(x))

    def _reconstruct(self, p, r, c=None):
        heads = self._columns.heads
        return self._columns.fill({name: head.guess(r, constant_like(p[name], r)) for name, head in heads.items()}, r.dtype)

    def _draw_components(self, params, n, stream):
        components = labels_by(self.weights_, n, stream)
        return self._draw_from(params, components, stream, self.dtype_), components

    def _draw_from(self, params, components, stream, dtype, seen=False):
        """A row from each of these components, which the host knows; seen: of which no value is missing."""
        def rows(name, head):
            head, shape = head.seen() if seen else head, (len(components), len(self._columns.numbers[name]))
            noise = head.noise(stream.spawn(), shape, np.float64, like=self._here)
            x = noise if head.noises == 1 else np.empty_like(noise, shape=shape)  # in its place: 10,000 columns are much memory
            for k, at in members:
                x[at] = head.sample(noise[at], self._place(params[name][k:k + 1]))
            return x

        order = np.argsort(components, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(components[order])) + 1)
        members = [(components[at[0]], self._place(at)) for at in groups if len(at)]
        return self._columns.fill({name: rows(name, head) for name, head in self._columns.heads.items()}, dtype)

    # ------------------------------------------------------------ some of the columns

    def _marginal(self, columns):
        return self._derive(np.log(self.weights_), columns)

    def _conditional(self, columns, others, log_weights, x):
        return self._derive(log_weights, others)

    def _conditional_moments(self, columns, others, x):
        heads, p = self._columns.heads, self.params_
        means = self._columns.fill({name: head.mean(p[name]) for name, head in heads.items()}, np.float64)[:, others]
        variances = self._columns.fill({name: head.variance(p[name]) for name, head in heads.items()}, np.float64)[:, others]
        return np.broadcast_to(means, (len(x), *means.shape)), variances[:, :, None] * np.eye(len(others))

    def _derive(self, log_weights, columns):
        model, own = self._of_columns(columns), self._columns
        levels = dict(zip(with_levels(self.kinds_), self.levels_, strict=True))
        model.heads = [own.options[j] if j in own.options else Categorical(levels[j]) if self.kinds_[j] == "categorical" else
                       self.kinds_[j] for j in columns]
        model._build({"n_components": len(self.weights_), **chosen_heads(model.heads, np.empty((0, len(columns))))})
        found, floors = {}, []
        for name, head in model._columns.heads.items():
            groups, places = zip(*(own.at(columns[j]) for j in model._columns.numbers[name]), strict=True)
            found[name] = groups[0], list(places)  # columns of one group there are of one here
            floors += (own.floors[groups[0]].start + np.array(places)).tolist() if head.floored else []

        def taken(outputs):
            return {name: own.heads[group].take(outputs[group], places) for name, (group, places) in found.items()}

        model._keep(Products(model._columns, log_weights, taken(self.params_), self.floor_[floors]), pooled=taken(self.pooled_))
        return model


def _shares(joint):
    """Responsibilities (n, k), of logarithms that may be so large that the one of their sum is the largest of them."""
    with np.errstate(invalid="ignore"):
        return ops.softmax(joint - joint.max(axis=1, keepdims=True))
