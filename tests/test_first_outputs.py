"""Training begins at the marginals: whatever the head, a model of first parameters says of each column what the rows say of it.

A mixture head begins with components apart, whose mean and variance are the column's; all the other densities are known here.
"""
import mutants
import numpy as np
import pytest
from scipy import stats

from npgen.engine import grad
from npgen.heads import MixtureOfNormals
from npgen.models import MADE, VAE
from npgen.nn import Parameters, beside
from npgen.random import Stream

RNG = np.random.default_rng(0)
N, D = 90, 4
REAL = RNG.normal(size=(N, D)) @ RNG.normal(size=(D, D)) * [1, 5, 0.3, 3] + [0, 30, 0, -7]
BITS = (RNG.random((N, D)) < [0.1, 0.4, 0.8, 0.95]).astype(float)
COUNTS = RNG.poisson([1, 2, 0.4, 5], (N, D)).astype(float)
LEVELS = COUNTS.clip(0, [2, 3, 1, 4])
KINDS = np.column_stack([REAL[:, 0], BITS[:, 1], COUNTS[:, 2], LEVELS[:, 3]])
CONTEXT = RNG.normal(size=(N, 2))
WEIGHTS = RNG.integers(0, 4, N).astype(float)
pytestmark = pytest.mark.filterwarnings("ignore:.*which no continuous density can hold")  # of repeated rows


def normal(x):
    return lambda j: stats.norm(x[:, j].mean(), x[:, j].std()).logpdf


def bernoulli(x):
    return lambda j: stats.bernoulli((x[:, j].sum() + 1) / (len(x) + 2)).logpmf


def poisson(x):
    return lambda j: stats.poisson((x[:, j].sum() + 1) / (len(x) + 1)).logpmf


def categorical(x):
    def of(j):
        levels, counts = np.unique(x[:, j], return_counts=True)
        share = (counts + 1) / (counts + 1).sum()
        return lambda values: np.log(share[np.searchsorted(levels, values)])
    return of


def kinds(x):
    return lambda j: (normal, bernoulli, poisson, categorical)[j](x)(j)


HEADS = {  # name -> (head, rows, their marginals)
    "normal": ("normal", REAL, normal), "bernoulli": ("bernoulli", BITS, bernoulli), "poisson": ("poisson", COUNTS, poisson),
    "categorical": ("categorical", LEVELS, categorical), "mixture": (MixtureOfNormals(3), REAL, None),
    "columns": (["normal", "bernoulli", "poisson", "categorical"], KINDS, kinds),
}
MODELS = {
    "MADE": (MADE, {"hidden": (9, 7), "order": (2, 0, 3, 1)}), "direct": (MADE, {"hidden": (9,), "direct": True}),
    "any order": (MADE, {"hidden": (9,), "order": "any"}), "several orders": (MADE, {"hidden": (9,), "n_masks": 3}),
    "VAE": (VAE, {"hidden": (9,), "n_latent": 2}), "VAE, flow": (VAE, {"hidden": (9,), "n_latent": 2, "prior": "flow"}),
}
heads = pytest.mark.parametrize("head", HEADS)
models = pytest.mark.parametrize("model", MODELS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def first(model, head, x, *, context=None, weights=None, **more):
    """The model of first parameters, as it is before its first step: an epoch of steps of length 0 leaves it there."""
    kind, options = MODELS[model]
    fitted = kind(**options, **more, head=head, preprocess=None, max_epochs=1, random_state=0).fit(
        x, context=context, sample_weight=weights)
    found, c = {}, None if context is None else fitted.context_.encode("fit", context, x.dtype)
    rows, w = (x, None) if weights is None else (x[weights > 0], weights[weights > 0] / weights[weights > 0].mean())
    for part in fitted.inner().parts.values():
        found |= part.init(rows, c, Stream(0), w)
    fitted.params_ = Parameters(found, x.dtype)
    return fitted


def density(fitted, x):
    """log p(x), or log p(x | z) at some z, where a density is a mean over z; (n,)."""
    inner, c = fitted.inner(x.dtype), None if fitted.context_ is None else fitted.context_.encode("log_prob", CONTEXT, x.dtype)
    if isinstance(fitted, MADE):
        return inner.log_density(x, c)
    z = np.random.default_rng(1).normal(size=(len(x), fitted.n_latent_)).astype(x.dtype)
    return inner.parts["head"].log_prob(x, inner.parts["decoder"](inner.params, beside(z, c)))


def assert_marginal(fitted, head, x, rtol=1e-9):
    """log_prob is the sum of the columns' own; a mixture's is known by its mean and variance, which are theirs."""
    (own, _, truth), exact = HEADS[head], x.astype(float)
    if truth is None:
        outputs = own.initial(exact)[None]
        np.testing.assert_allclose([own.mean(outputs)[0], own.variance(outputs)[0]], [exact.mean(axis=0), exact.var(axis=0)],
                                   rtol=1e-9)
        want = own.log_prob(exact, outputs.repeat(N, axis=0))
    else:
        want = np.sum([truth(exact)(j)(exact[:, j]) for j in range(D)], axis=0)
    np.testing.assert_allclose(density(fitted, x), want, rtol=rtol, atol=10 * rtol)


@pytest.mark.long(but={"model": ["MADE", "VAE"]})
@dtypes
@heads
@models
def test_the_density_of_first_parameters_is_that_of_independent_marginals(model, head, dtype):
    x = HEADS[head][1].astype(dtype)
    assert_marginal(first(model, HEADS[head][0], x), head, x, rtol=1e-9 if dtype == np.float64 else 1e-4)


@heads
@pytest.mark.parametrize("model", ["MADE", "VAE"])
def test_a_context_says_nothing_at_first(model, head):
    assert_marginal(first(model, HEADS[head][0], HEADS[head][1], context=CONTEXT), head, HEADS[head][1])


@heads
@pytest.mark.parametrize("model", ["MADE", "any order", "VAE"])
def test_weighted_marginals_are_those_of_repeated_rows(model, head):
    """But for the one row more of every level, which is one of as many as the weights of mean 1 sum to."""
    x = HEADS[head][1]
    fitted = first(model, HEADS[head][0], x, weights=WEIGHTS)
    repeated = x.repeat(WEIGHTS.astype(int), axis=0)
    other = first(model, HEADS[head][0], repeated)
    tolerance = 1e-9 if head in ("normal", "mixture") else 0.1
    np.testing.assert_allclose(density(fitted, x), density(other, x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("variance", ["feature", "shared"])
def test_a_decoder_of_one_variance_begins_at_the_means(variance):
    x = REAL / REAL.std(axis=0)
    fitted = first("VAE", "normal", x, variance=variance)
    want = stats.norm(x.mean(axis=0), x.std(axis=0)).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(density(fitted, x), want, rtol=1e-9)


@dtypes
@heads
@pytest.mark.parametrize("model", ["MADE", "VAE"])
def test_columns_of_one_value_stay_finite(model, head, dtype):
    """p = 0, p = 1, a level alone, no spread at all."""
    x = HEADS[head][1].astype(dtype)
    x[:, :2], x[:, 2] = x[0, :2], 0
    fitted = first(model, HEADS[head][0], x)
    assert np.isfinite(fitted.log_prob(x)).all()
    p = fitted.inner(dtype)
    found = grad(lambda params: np.mean(p.loss(x, Stream(0), p=params)))(p.params)
    assert all(np.isfinite(a).all() for a in found.values())


MISTAKES = [
    ("nn:MLP.init", "self.head.initial(z, weights)", "0", "bernoulli"),
    ("nn:MLP.__init__", "else 0.0", "else 0.1", "normal"),
    ("models.made:MADE._assemble", "order=None if free else orders[0]", "order=None", "normal"),
    ("heads.bernoulli:Bernoulli.initial", "np.log(ones + 1) - np.log(seen - ones + 1)",
     "np.log(seen - ones + 1) - np.log(ones + 1)", "bernoulli"),
    ("heads.bernoulli:Bernoulli.initial", "np.log(seen - ones + 1)", "np.log(seen + 1)", "bernoulli"),
    ("heads.normal:raw_log_var", "np.log(np.maximum(variance, RAREST))", "np.log(np.maximum(variance, RAREST)) / 2", "normal"),
    ("heads.normal:raw_log_var", "limit * np.arctanh(", "limit * (", "normal"),
    ("heads.normal:mean_and_variance", "np.square(x - mean)", "np.square(x)", "normal"),
    ("heads.poisson:Poisson.initial", " - np.log(seen + 1)", "", "poisson"),
    ("heads.categorical:Categorical.initial", "[0] + 1)", "[0] + 1e-300)", "categorical"),
    ("heads.mixture:MixtureOfNormals.initial", "1 - np.square(apart).mean()", "1", "mixture"),
    ("heads.columns:Columns.initial", "x[:, columns]", "x[:, columns[::-1]][::-1] * 0", "columns"),
]


@pytest.mark.parametrize(("where", "old", "new", "head"), MISTAKES, ids=[f"{m[0]}, {m[2]}" for m in MISTAKES])
def test_a_planted_mistake_is_found(where, old, new, head):
    with mutants.Mutant(where, "", where, old, new).made(), pytest.raises(AssertionError), np.errstate(all="ignore"):
        test_the_density_of_first_parameters_is_that_of_independent_marginals("MADE", head, np.float64)
