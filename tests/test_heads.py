"""Likelihood heads against SciPy's distributions, their own samples, and finite differences."""
import functools
import json
import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from npgen import ops
from npgen.engine import grad
from npgen.fused import standard_normal_log_prob
from npgen.heads import (
    Atoms,
    Bernoulli,
    Categorical,
    Columns,
    Grid,
    Mapped,
    MixtureOfNormals,
    Normal,
    Poisson,
    Pooled,
    Scale,
    Tied,
    from_config,
    head_for,
)
from npgen.heads.base import BLOCK, totals
from npgen.heads.normal import normal_log_prob, std, typical_variance
from npgen.random import Stream
from npgen.testing import check_grads

ALARM = 1e-6  # of a statistical test, per case
RNG = np.random.default_rng(0)
N, D = 6, 4
LEVELS = 2, 3, 1, 4
OF = {"normal": Normal(), "bernoulli": Bernoulli(), "categorical": Categorical([range(c) for c in LEVELS]),
      "normal, unbounded": Normal(limit=None), "poisson": Poisson(), "mixture": MixtureOfNormals(3),
      "mixture of one": MixtureOfNormals(1, limit=5.0), "other levels": Categorical([[-1, 2], [0.5, 0, 1e6], [7], range(3, 6)]),
      "columns": Columns([MixtureOfNormals(2), Categorical([5, 7, 8]), Normal(), Categorical(2)]),
      "columns of two kinds": Columns([Bernoulli(), Poisson(), Bernoulli(), Normal()]),
      "grid": Grid(Normal(limit=None), step=0.5, start=0.25, scale=Scale("linear", 1.0, 2.0)),
      "grid of mixtures": Grid(MixtureOfNormals(2), low=0, high=9, scale=Scale("linear", 4.0, 2.0)),
      "grid behind a logarithm": Grid(Normal(limit=None), low=0, scale=Scale("log", 1.0, 0.5, -1.0)),
      "atoms": Atoms(Grid(Normal(limit=None), low=0, scale=Scale("linear", 4.0, 2.0)), [-3.0, 2.0, 5.0]),
      "pooled": Pooled([0, 2, 9], [5, 1, 7], [0.2, 0.3, 0.5]),
      "grid, cut": Grid(Normal(limit=None), low=0, scale=Scale("linear", 4.0, 2.0), ends="cut"),
      "tied": Tied(Grid(Normal(limit=None), low=0, scale=Scale("linear", 4.0, 2.0)), [[-1, 0], [0.5, -1], [2, 0.5], [9, -2]]),
      "tied normals": Tied(Mapped(Normal(limit=None), Scale("linear", 1.0, 2.0)), [[-1, 0], [0.5, -1], [2, 0.5]]),
      "grid of mixtures, cut": Grid(MixtureOfNormals(2), low=0, high=9, scale=Scale("linear", 4.0, 2.0), ends="cut")}
STATES = Grid, Atoms, Pooled
FAMILIES = [name for name, head in OF.items() if head.has_steps]
OUTPUTS = {"normal": RNG.normal(size=(N, 2 * D)) * 2, "bernoulli": RNG.normal(size=(N, D)) * 3,
           "categorical": RNG.normal(size=(N, sum(LEVELS))) * 2, "normal, unbounded": RNG.normal(size=(N, 2 * D)),
           "poisson": RNG.normal(size=(N, D)), "grid behind a logarithm": np.random.default_rng(3).normal(size=(N, 2 * D)) / 9}
OUTPUTS |= {name: RNG.normal(size=(N, OF[name].n_outputs(D))) * 1.5 for name in OF if name not in OUTPUTS}
ROWS = {name: head.sample(head.noise(Stream(9), (N, D), np.float64), OUTPUTS[name]) for name, head in OF.items()}
heads, families = pytest.mark.parametrize("name", OF), pytest.mark.parametrize("name", FAMILIES)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Mixed:
    """A mixture of normals, as SciPy's distributions are asked."""

    def __init__(self, weights, means, stds):
        self.w, self.parts = weights, [stats.norm(*each) for each in zip(means, stds, strict=True)]

    def _sum(self, of):
        return sum(w * of(part) for w, part in zip(self.w, self.parts, strict=True))

    def logpdf(self, x):
        return np.log(self._sum(lambda part: part.pdf(x)))

    def cdf(self, x):
        return self._sum(lambda part: part.cdf(x))

    def mean(self):
        return self._sum(lambda part: part.mean())

    def var(self):
        return self._sum(lambda part: part.var() + (part.mean() - self.mean()) ** 2)


class Levels:
    """Some numbers and their probabilities, as SciPy's distributions are asked."""

    def __init__(self, levels, logits):
        self.levels, self.p = levels, special.softmax(logits)

    def logpmf(self, x):
        return np.log(self.pmf(x))

    def pmf(self, x):
        return (self.p * (self.levels == x)).sum()

    def mean(self):
        return self.p @ self.levels

    def var(self):
        return self.p @ (self.levels - self.mean()) ** 2


def _normal(head, o):
    return stats.norm(o[0], np.sqrt(np.exp(o[1] if head.limit is None else head.limit * np.tanh(o[1] / head.limit))))


def _mixed(head, o):
    logits, means, raws = o.reshape(3, -1)
    return Mixed(special.softmax(logits), means, np.exp(head.limit * np.tanh(raws / head.limit) / 2))


def _rounded(head, o):
    """The masses of the cells of a grid, by differences of distribution functions, each on the side of its tail; Levels makes
    them add up to one."""
    parts = Mixed([1.0], o[:1], np.exp(o[1:] / 2)) if isinstance(head.base, Normal) else _mixed(head.base, o)
    j = np.arange(0 if head.low is not None else -400, (head.high if head.high is not None else 4000) + 1)
    values, scale = head.start + head.step * j, head.scale
    edges = np.append(values - head.step / 2, values[-1] + head.step / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        y = (np.log(edges - scale.low) if scale.kind == "log" else edges) - scale.centre
    y = y / scale.width
    y[0] = y[0] if head.low is not None and head.ends == "cut" else -np.inf
    y[-1] = y[-1] if head.high is not None and head.ends == "cut" else np.inf
    p = sum(w * np.where(y[:-1] > part.mean(), part.sf(y[:-1]) - part.sf(y[1:]), part.cdf(y[1:]) - part.cdf(y[:-1]))
            for w, part in zip(parts.w, parts.parts, strict=True))
    return Levels(values[p > 0], np.log(p[p > 0]))


def _atoms(head, o):
    rest, log_p = _rounded(head.base, o[4:]), special.log_softmax(o[:4])
    levels = np.union1d(rest.levels, head.atoms)
    p = np.zeros(len(levels))
    p[np.isin(levels, rest.levels)] = np.exp(log_p[0]) * rest.p
    p[np.isin(levels, head.atoms)] += np.exp(log_p[1:])
    return Levels(levels, np.log(p))


def _tied(head, o):
    if isinstance(head.base, Mapped):
        centre, width = head.base.scale.centre, head.base.scale.width
        return Mixed(special.softmax(o), centre + width * head.codebook[:, 0], width * np.exp(head.codebook[:, 1] / 2))
    parts = [_rounded(head.base, row) for row in head.codebook]
    levels = functools.reduce(np.union1d, [part.levels for part in parts])
    p = sum(w * np.where(np.isin(levels, part.levels), part.p[np.searchsorted(part.levels, levels).clip(0, len(part.p) - 1)], 0)
            for w, part in zip(special.softmax(o), parts, strict=True))
    return Levels(levels, np.log(p))


TRUTH = {  # the class of a head -> the distribution of one feature, by SciPy, from the head and the feature's outputs
    Normal: _normal,
    MixtureOfNormals: _mixed,
    Bernoulli: lambda head, o: stats.bernoulli(special.expit(o[0])),
    Poisson: lambda head, o: stats.poisson(np.exp(o[0])),
    Categorical: lambda head, o: Levels(head.levels[0], o),
    Grid: _rounded,
    Atoms: _atoms,
    Tied: _tied,
    Pooled: lambda head, o: Levels(np.array([0.0, 2, 9, 1, 5, 7]), np.concatenate([
        special.log_softmax(o)[:3], special.log_softmax(o)[3] + np.log([0.3, 0.2, 0.5])])),
}


def of_one(name, j):
    """The head of feature j alone."""
    return OF[name].heads[j] if isinstance(OF[name], Columns) else OF[name].of([j])


def truth(name, i, j):
    """The distribution of feature j under outputs i, by SciPy."""
    first, one = OF[name].first(D), of_one(name, j)
    return TRUTH[type(one)](one, OUTPUTS[name][i, first[j]:first[j + 1]])


def support(name, j):
    """Values that sum to one, of a feature that is discrete."""
    p = truth(name, 0, j)
    return p.levels if isinstance(p, Levels) else np.arange(min(p.support()[1] + 1.0, 400.0))


def each(name, ask):
    """ask(distribution, i, j) of every feature, (n, d)."""
    return np.array([[ask(truth(name, i, j), i, j) for j in range(D)] for i in range(N)])


def continuous(p):
    return isinstance(p, Mixed) or isinstance(p.dist if hasattr(p, "dist") else p, stats.rv_continuous)


@heads
@dtypes
def test_log_prob_and_moments_are_those_of_the_distribution(name, dtype):
    head = OF[name]
    x, outputs = ROWS[name].astype(dtype), OUTPUTS[name].astype(dtype)
    log_prob = head.log_prob(x, outputs)
    want = each(name, lambda p, i, j: (p.logpdf if continuous(p) else p.logpmf)(ROWS[name][i, j])).sum(axis=1)
    assert log_prob.shape == (N,) and log_prob.dtype == head.mean(outputs).dtype == head.variance(outputs).dtype == dtype
    assert head.n_outputs(D) == outputs.shape[1] == head.first(D)[-1] and len(head.first(D)) == D + 1
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(log_prob, want, rtol=tolerance)
    np.testing.assert_allclose(head.mean(outputs), each(name, lambda p, i, j: p.mean()), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(head.variance(outputs), each(name, lambda p, i, j: p.var()), rtol=3 * tolerance, atol=tolerance)


@heads
def test_samples_are_drawn_from_the_distribution(name):
    """Finds 10 % of the mass displaced, a probability that is 0.1 off."""
    head, n = OF[name], 4000
    drawn = head.sample(head.noise(Stream(1), (n, N, D), np.float64), OUTPUTS[name])
    for i in range(N):
        for j in range(D):
            p, values = truth(name, i, j), drawn[:, i, j]
            if continuous(p):
                alarms = [stats.kstest(values, p.cdf).pvalue]
                for moment, want in (values, p.mean()), (np.square(values - p.mean()), p.var()):  # to 6 of their errors
                    assert abs(moment.mean() - want) < 6 * moment.std() / n ** 0.5
            else:
                alarms = [stats.binomtest(int((values == level).sum()), n, min(p.pmf(level), 1)).pvalue
                          for level in sorted(support(name, j), key=lambda level, p=p: -p.pmf(level))[:4]]
            assert min(alarms) > ALARM / (N * D * 4)


@heads
def test_every_feature_integrates_or_sums_to_one(name):
    head, first = OF[name], OF[name].first(D)
    for j in range(D):
        one, outputs, p = head.of([j]), OUTPUTS[name][:2, first[j]:first[j + 1]], truth(name, 0, j)
        for row in outputs:
            if continuous(p):
                peaks = sorted(part.mean() for part in p.parts) if isinstance(p, Mixed) else row[:1]
                total = integrate.quad(lambda x, one=one, row=row: math.exp(one.log_prob(np.array([[x]]), row[None])[0]),
                                       -60, 60, limit=300, points=peaks)[0]
            else:
                values = support(name, j)[:, None]
                total = np.exp(one.log_prob(values, row[None].repeat(len(values), axis=0))).sum()
            assert math.isclose(total, 1, rel_tol=1e-7)


@heads
def test_a_row_is_the_product_of_its_features(name):
    """And the outputs from first[j] on, before first[j + 1], are all that feature j hears of."""
    head, first, x, outputs = OF[name], OF[name].first(D), ROWS[name], OUTPUTS[name]
    parts = [head.of([j]).log_prob(x[:, [j]], outputs[:, first[j]:first[j + 1]]) for j in range(D)]
    np.testing.assert_allclose(np.sum(parts, axis=0), head.log_prob(x, outputs), rtol=1e-12)
    order = [3, 0, 1]
    taken = np.concatenate([outputs[:, first[j]:first[j + 1]] for j in order], axis=1)
    some = head.of(order)
    np.testing.assert_allclose(some.log_prob(x[:, order], taken), np.sum([parts[j] for j in order], axis=0), rtol=1e-12)
    np.testing.assert_array_equal(some.mean(taken), head.mean(outputs)[:, order])
    assert some.first(3)[-1] == some.n_outputs(3) == taken.shape[1]


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_over_rows_leave_out_what_is_missing_in_any_block(d, weighted):
    rng, n = np.random.default_rng(0), 3 * (BLOCK // d) + 5
    x, w = rng.normal(size=(n, d)), rng.random(n) if weighted else None
    x[BLOCK // d + 7:BLOCK // d + 99, d - 1] = np.nan  # in the second one
    each = (np.ones(n) if w is None else w)[:, None]
    seen, total = totals(x, w)
    np.testing.assert_allclose(seen, np.sum(each * ~np.isnan(x), axis=0), rtol=1e-12)
    np.testing.assert_allclose(total, np.nansum(each * x, axis=0), rtol=1e-9, atol=1e-9)


@heads
def test_first_outputs_are_the_datas_marginals(name):
    """Means and variances, or frequencies with one more row of every level; a weight counts as so many rows, NaN not at all."""
    head, rng = OF[name], np.random.default_rng(5)
    x = head.sample(head.noise(Stream(6), (50, D), np.float64), OUTPUTS[name][:1].repeat(50, axis=0))
    weights = rng.integers(0, 4, 50)
    outputs = head.initial(x)
    np.testing.assert_allclose(head.initial(x, weights), head.initial(x.repeat(weights, axis=0)), rtol=1e-9, atol=1e-12)
    lost = np.where(np.arange(50)[:, None] % 5 == np.arange(D), np.nan, x)
    for j in range(D):
        p, one = truth(name, 0, j), of_one(name, j)
        mine = outputs[head.first(D)[j]:head.first(D)[j + 1]]
        seen = lost[~np.isnan(lost[:, j])][:, [j]]
        np.testing.assert_allclose(head.initial(lost)[head.first(D)[j]:head.first(D)[j + 1]], one.initial(seen), atol=1e-12)
        if isinstance(one, Tied):  # shares by EM: of which another step makes little, likelier than equal ones
            step = np.log(one.moments(x[:, [j]], np.ones((50, 1)), mine[None]) + 1)
            of_all, of_step, of_equal = (one.log_prob(x[:, [j]], o).sum() for o in (mine[None], step, 0 * step))
            assert abs(of_step - of_all) < 0.05 and of_all > of_equal
        elif continuous(p):
            np.testing.assert_allclose(one.mean(mine[None])[0], x[:, j].mean(), rtol=1e-9)
            np.testing.assert_allclose(one.variance(mine[None])[0], x[:, j].var(), rtol=1e-9)
        elif isinstance(one, STATES):
            pass  # in test_column_heads.py
        elif not isinstance(one, (Bernoulli, Categorical)):  # counts
            np.testing.assert_allclose(one.mean(mine[None])[0], (x[:, j].sum() + 1) / 51, rtol=1e-9)
        else:
            levels = support(name, j)
            found = np.exp(one.log_prob(levels[:, None], mine[None].repeat(len(levels), axis=0)))
            np.testing.assert_allclose(found, ((x[:, j] == levels[:, None]).sum(axis=1) + 1) / (50 + len(levels)), rtol=1e-9)


@dtypes
def test_a_mixture_of_one_is_the_normal(dtype):
    """Its density to 4 roundings of the sum of its terms' sizes."""
    rng = np.random.default_rng(7)
    x, outputs = rng.normal(size=(200, 5)).astype(dtype) * 2, rng.normal(size=(200, 5, 3)).astype(dtype) * 2
    one, normal, both = MixtureOfNormals(1), Normal(), np.ascontiguousarray(outputs[:, :, 1:]).reshape(200, 10)
    flat = outputs.reshape(200, 15)
    sizes = np.abs(normal_log_prob(x, *normal.split(both))).sum(axis=1)
    assert (np.abs(one.log_prob(x, flat) - normal.log_prob(x, both)) <= 4 * np.finfo(dtype).eps * sizes).all()
    np.testing.assert_allclose(one.mean(flat), normal.mean(both), rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(one.variance(flat), normal.variance(both), rtol=8 * np.finfo(dtype).eps)
    noise = one.noise(Stream(0), (200, 5), dtype)
    np.testing.assert_array_equal(one.sample(noise, flat), normal.sample(noise[:, 1::2], both))
    found, want = (grad(lambda o, head=head: np.sum(head.log_prob(x, o)))(o) for head, o in ((one, flat), (normal, both)))
    found = found.reshape(200, 5, 3)
    np.testing.assert_allclose(found[:, :, 1:].reshape(200, 10), want, rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-5)
    assert not found[:, :, 0].any()
    np.testing.assert_allclose(one.initial(x).reshape(5, 3)[:, 1:].ravel(), normal.initial(x), rtol=1e-12)


@dtypes
def test_two_levels_are_a_bernoulli(dtype):
    rng = np.random.default_rng(8)
    x, logits = (rng.random((100, 3)) < 0.5).astype(dtype), rng.normal(size=(100, 3)).astype(dtype) * 4
    two, bernoulli = Categorical([range(2)] * 3), Bernoulli()
    outputs, tolerance = np.stack([0 * logits, logits], axis=2).reshape(100, 6), 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(two.log_prob(x, outputs), bernoulli.log_prob(x, logits), rtol=tolerance)
    for ask in ("mean", "variance"):
        np.testing.assert_allclose(getattr(two, ask)(outputs), getattr(bernoulli, ask)(logits), rtol=100 * tolerance)
    found = grad(lambda o: np.sum(two.log_prob(x, o)))(outputs).reshape(100, 3, 2)
    want = grad(lambda o: np.sum(bernoulli.log_prob(x, o)))(logits)
    np.testing.assert_allclose(found[:, :, 1], want, rtol=1e-5, atol=tolerance)
    np.testing.assert_allclose(found[:, :, 0], -want, rtol=1e-5, atol=tolerance)
    u = Stream(1).uniform((100, 3), dtype)
    differ = two.sample(1 - u, outputs) != bernoulli.sample(u, logits)
    assert (np.abs(u - bernoulli.mean(logits))[differ] < tolerance).all()  # at the edge itself


# ---------------------------------------------------------------- the components of a mixture

def holes(x):
    return np.where(np.random.default_rng(1).random(x.shape) < 0.3, np.nan, x)


@families
@dtypes
def test_every_row_under_every_component_is_log_prob_of_the_values_seen(name, dtype):
    head, x, outputs = OF[name], ROWS[name].astype(dtype), OUTPUTS[name][:3]
    tolerance = 1e-12 if dtype == np.float64 or "normal" in name else 1e-5
    want = head.log_prob(x.astype(float)[:, None], outputs)
    np.testing.assert_allclose(head.log_prob_each(x, outputs), want, rtol=tolerance)
    x = holes(x)
    for row, answer in zip(x, head.log_prob_each(x, outputs), strict=True):
        seen = np.flatnonzero(~np.isnan(row))
        want = head.of(seen).log_prob(row[seen].astype(float), head.take(outputs, seen))
        np.testing.assert_allclose(answer, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "normal, unbounded", "poisson"])
@pytest.mark.parametrize("smoothing", [0, 0.01])
def test_the_likeliest_outputs_have_no_slope_and_give_moments(name, smoothing):
    """One row of outputs per component: the gradient of the weighted log-likelihood, and of the smoothing, is zero there."""
    head, rng = OF[name], np.random.default_rng(2)
    x = holes(head.sample(head.noise(Stream(3), (60, D), np.float64), OUTPUTS[name][:1].repeat(60, axis=0)))
    r, start, pooled = rng.random((60, 3)), OUTPUTS[name][1:4], OUTPUTS[name][4:5]
    new = head.maximise(head.moments(x, r, start), start, pooled, smoothing)
    for moments in (head.moments(x, r, new),  # the same from any outputs
                    head.expected_moments(new, r.sum(axis=0), pooled, smoothing)):
        again = head.maximise(moments, new, pooled, smoothing)
        np.testing.assert_allclose(head.mean(again), head.mean(new), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(head.variance(again), head.variance(new), rtol=1e-9, atol=1e-12)
    if smoothing:
        return

    def total(outputs):
        rows = [[np.sum(head.of(seen).log_prob(row[seen], head.take(outputs, seen)) * w) for seen in
                 [np.flatnonzero(~np.isnan(row))]] for row, w in zip(x, r, strict=True)]
        return np.sum(rows)

    slopes = [(total(new + step) - total(new - step)) / 2e-5 for step in 1e-5 * np.eye(new.size).reshape(-1, *new.shape)]
    np.testing.assert_allclose(slopes, 0, atol=1e-5)


def test_shares_of_rows_and_variances_are_added():
    ones = Bernoulli().maximise(np.array([[[8.0]], [[2.0]]]), None, None, 1.0)
    np.testing.assert_allclose(Bernoulli().mean(ones), 3 / 10)
    levels = Categorical(3)
    counts = levels.maximise(np.array([[1.0, 0.0, 4.0]]), None, None, 0.5)
    np.testing.assert_allclose(np.exp(levels.log_probabilities(counts)[0]), np.array([[1, 0, 4]]) / 6 + 1 / 18)
    head, x = Normal(limit=None), np.array([[1.0], [3.0]])
    last, pooled = np.array([[5.0, 2.0]]), np.array([[0.0, np.log(10.0)]])
    new = head.maximise(head.moments(x, np.ones((2, 1)), last), last, pooled, 0.1)
    np.testing.assert_allclose([head.mean(new), head.variance(new)], [[[2.0]], [[1.0 + 0.1 * 10]]], rtol=1e-12)
    thin = head.maximise(head.moments(x[:1], np.ones((1, 1)), last), last, pooled, 0.0)
    assert np.isnan(thin).any()


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "normal, unbounded", "poisson"])
def test_a_component_around_a_row_is_the_likeliest_of_those_around_rows(name):
    """And one around a missing value is all rows' component there."""
    head, pooled = OF[name], OUTPUTS[name][:1]
    x = holes(head.sample(head.noise(Stream(4), (20, D), np.float64), pooled.repeat(20, axis=0)))
    each, own = head.log_prob_each(x, head.around(x, pooled)), head.log_prob_around(x, pooled)
    whole, exact = ~np.isnan(x).any(axis=1), isinstance(head, (Bernoulli, Categorical, Normal))  # counts are half a count off
    np.testing.assert_allclose(np.diagonal(each)[whole], own[whole], rtol=1e-12)
    assert 0 < whole.sum() < 20 and (each <= own[:, None] + (1e-12 if exact else 0.1 * D)).all()
    nothing = head.around(np.full((1, D), np.nan), pooled)
    np.testing.assert_allclose(head.log_prob_each(x, nothing), head.log_prob_each(x, pooled), rtol=1e-12)


@families
def test_guesses_and_parts(name):
    head, outputs, r = OF[name], OUTPUTS[name], np.random.default_rng(0).dirichlet(np.ones(N), 5)
    if isinstance(head, (Categorical, Pooled)):
        tables, every = head.log_probabilities(outputs), head.levels * (D // len(head.levels))
        want = np.stack([levels[(r @ np.exp(t)).argmax(axis=1)] for t, levels in zip(tables, every, strict=True)], axis=1)
    else:
        want = r @ head.mean(outputs)
    np.testing.assert_allclose(head.guess(r, outputs), want)
    some = head.of([3, 1])
    np.testing.assert_allclose(some.mean(head.take(outputs, [3, 1])), head.mean(outputs)[:, [3, 1]], rtol=1e-12)


# ---------------------------------------------------------------- supports, derivatives

@heads
@dtypes
def test_samples_keep_the_dtype_and_the_support(name, dtype):
    head = OF[name]
    drawn = head.sample(head.noise(Stream(1), (N, D), dtype), OUTPUTS[name].astype(dtype))
    assert drawn.dtype == dtype and drawn.shape == (N, D)
    head.check(drawn, "sample")


@pytest.mark.parametrize("rate", [1e-300, 1e-3, 0.3, 4.0, 60.0, 1e3, 1e6 - 1, 2.0**20 + 1, 1e9, 1e15])
def test_counts_are_drawn_by_inversion(rate):
    """The quantile, exactly where SciPy has it; and beyond 2^20 the normal one, to three counts."""
    u = np.concatenate([Stream(0).uniform(500), [2.0**-54, 1e-300, 1 - 2.0**-53]])[:, None]
    x = Poisson().sample(u, np.log([[rate]]))
    assert (x >= 0).all() and np.isfinite(x).all() and (x == np.floor(x)).all()
    np.testing.assert_array_equal(x[:7], Poisson().sample(u[:7], np.log([[rate]])))  # whatever is beside them
    if rate < 2**20:
        rate = np.exp(np.log(rate))
        assert (stats.poisson.cdf(x, rate) >= u).all() and (stats.poisson.cdf(x - 1, rate) < u).all()
    else:
        z = (x[:500] - np.exp(np.log(rate))) / np.sqrt(rate)
        np.testing.assert_allclose(z, stats.norm.ppf(u[:500]), rtol=0, atol=3 / np.sqrt(rate) + 1e-6)


def test_counts_are_drawn_there_as_on_the_host(cupy):
    """The same counts of the smallest uniforms and the largest, too, to which no count is near where the search begins."""
    u = np.concatenate([Stream(0).uniform(200), 2.0**-np.arange(1, 54), 1 - 2.0**-np.arange(1, 54)])[:, None]
    log_rates = np.log([1e-300, 1e-12, 1e-3, 0.3, 4.0, 60.0, 1e3, 1e5, 1e6 - 1, 2.0**20 - 1, 2.0**20, 1e9])[None]
    got, want = cupy.asnumpy(Poisson().sample(*map(cupy.asarray, (u, log_rates)))), Poisson().sample(u, log_rates)
    alike = slice(None) if cupy.__version__ == "stand-in" else (u < 1 - 1e-9)[:, 0]  # beyond, a last digit is several counts
    np.testing.assert_array_equal(got[alike], want[alike])


def test_counts_of_any_size_have_a_density():
    """To 1e-9 of its terms where SciPy has it; and never NaN, up to the largest numbers."""
    x = np.array([0.0, 1, 7, 1e3, 1e6])[:, None]
    for rate in (1e-300, 0.5, 1e3, 1e6):
        want = stats.poisson.logpmf(x, rate)[:, 0]
        for answer in (Poisson().log_prob(x, np.log([[rate]])), Poisson().log_prob_each(x, np.log([[rate]]))[:, 0]):
            np.testing.assert_allclose(answer, want, rtol=1e-9, atol=1e-6)
    for dtype in (np.float32, np.float64):
        x = np.array([[np.finfo(dtype).max], [0], [np.nan]], dtype)
        each = Poisson().log_prob_each(x, np.log([[1e-300], [3.0], [1e300]]))
        assert not np.isnan(each).any() and (each[:2] <= 0).all() and (each[2] == 0).all()


@heads
def test_derivatives(name):
    check_grads(lambda outputs: OF[name].log_prob(ROWS[name], outputs), OUTPUTS[name])
    if not np.any(OF[name].discrete) or name in ("bernoulli", "poisson"):
        check_grads(lambda x: OF[name].log_prob(x, OUTPUTS[name]), ROWS[name] + 0.1)


def test_levels_are_numbers_that_differ():
    assert [each.tolist() for each in Categorical([[3, -1, 0.5], range(2)]).levels] == [[-1, 0.5, 3], [0, 1]]
    assert repr(Categorical(2)) == repr(Categorical(np.array([1, 0]))) == "Categorical(levels=[0.0, 1.0])"
    for wrong in ([], 0, -1, True, 2.5, None, "ab", [1, 1], [0, np.nan], [0, np.inf], [[1, 2], 0], [[[1]]], ["a"]):
        with pytest.raises(ValueError, match="Categorical: levels must be numbers that differ, or how many there are, got"):
            Categorical(wrong)


@dtypes
def test_a_certain_bernoulli_is_finite(dtype):
    logits = np.array([[1e4, -1e4]], dtype)
    right, wrong = (Bernoulli().log_prob(np.array([x], dtype), logits)[0] for x in ([1, 0], [0, 1]))
    assert right == 0 and wrong == dtype(-2e4)
    gradient = grad(lambda z: np.sum(Bernoulli().log_prob(np.array([[0, 1]], dtype), z)))(logits)
    np.testing.assert_array_equal(gradient, [[-1, 1]])
    np.testing.assert_array_equal(Bernoulli().mean(logits), [[1, 0]])


@dtypes
def test_a_normals_log_variance_is_bounded(dtype):
    raw = np.array([[0, 1e30, 0, -1e30, 0, 0.01]], dtype)
    mean, log_var = Normal().split(raw)
    np.testing.assert_allclose(log_var, [[15, -15, 0.01]], rtol=1e-5)
    assert log_var.dtype == dtype and np.isfinite(Normal().log_prob(np.ones((1, 3), dtype), raw)).all()


def test_std_is_the_square_root_of_the_variance():
    log_var = np.array([-3.0, 0.0, 1.7])
    np.testing.assert_allclose(std(log_var) ** 2, np.exp(log_var), rtol=1e-15)
    assert std(log_var.astype(np.float32)).dtype == np.float32


def test_bounded_is_the_identity_near_zero_and_never_beyond():
    x = np.array([1e-3, -1e-3, 2.0, 50.0, -1e300])
    y = ops.bounded(x, 3.0)
    assert (np.abs(y) <= 3).all() and (np.sign(y) == np.sign(x)).all()
    np.testing.assert_allclose(y[:2], x[:2], rtol=1e-6)
    assert grad(lambda t: ops.bounded(t, 3.0))(0.0) == 1


@dtypes
def test_normal_densities(dtype):
    x, mean, log_var = (RNG.normal(size=(5, 3)).astype(dtype) for _ in range(3))
    want = stats.norm(mean.astype(float), np.exp(log_var.astype(float) / 2)).logpdf(x)
    np.testing.assert_allclose(normal_log_prob(x, mean, log_var), want, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6)
    np.testing.assert_allclose(standard_normal_log_prob(x), stats.norm.logpdf(x).sum(axis=1), rtol=1e-5)
    assert normal_log_prob(x, mean, log_var).dtype == standard_normal_log_prob(x).dtype == dtype


def test_a_head_by_name_or_by_looking():
    x = np.array([[0.0, 1.0], [0.0, 2.0], [5.0, 1.0]])
    assert all(head_for(name, x).name == name for name in ("normal", "mixture", "bernoulli", "poisson"))
    assert head_for("auto", np.array([[0.0, 1.0]])).name == "bernoulli" and head_for("auto", x).name == "normal"
    assert head_for("categorical", x).config() == {"head": "categorical", "levels": [[0, 5], [1, 2]]}
    three = MixtureOfNormals(3)
    assert head_for(three, x) is three
    assert head_for([three, "categorical"], x).config()["heads"] == [three.config(), {"head": "categorical", "levels": [1, 2]}]
    for spec in ("cauchy", "columns", None, 3, ["normal"], [], ["normal", None], ["normal"] * 3):
        with pytest.raises(ValueError, match="head: expected 'auto', one of normal, mixture, bernoulli, poisson, categorical"):
            head_for(spec, x)
    with pytest.raises(ValueError, match="of 1 features, not of 2"):
        head_for(Categorical(2), x)
    with pytest.raises(ValueError, match="column 1 of X holds 0.5"):
        head_for("categorical", np.array([[1, 0.5]]))
    with pytest.raises(ValueError, match=r"fit: X\[1, 0\] is 0.5, but a Bernoulli head needs 0 or 1"):
        Bernoulli().check(np.array([[0.0], [0.5]]), "fit")
    for wrong in (-1, 3, 0.5, np.inf):
        with pytest.raises(ValueError, match=rf"fit: X\[1, 7\] is {wrong:g}, but a categorical head knows 3 other"):
            Categorical(3).check(np.array([[0.0], [wrong]]), "fit", [7])
    for wrong in (-1, 0.5):
        with pytest.raises(ValueError, match=rf"fit: X\[1, 7\] is {wrong:g}, but a Poisson head needs counts 0, 1, 2"):
            Poisson().check(np.array([[0.0], [wrong]]), "fit", [7])
    for head in (Normal(), Bernoulli(), Categorical(2), Poisson()):
        head.check(np.array([[np.nan], [1.0]]), "fit")


@heads
def test_a_head_is_written_as_json(name):
    """As its plain name where it has no options."""
    head, config = OF[name], json.loads(json.dumps(OF[name].config()))
    again = from_config(config)
    assert type(again) is type(head) and again.config() == config and (config == name or config["head"] == head.name)
    assert repr(again) == repr(head) or "object at" in repr(head)
    np.testing.assert_array_equal(again.log_prob(ROWS[name], OUTPUTS[name]), head.log_prob(ROWS[name], OUTPUTS[name]))


def test_a_forged_head_is_refused():
    """Levels by their count are none: one line of a file would ask for any memory."""
    levels = 10**15, [[0, 1], 10**15], [], "ab", None, [[]]
    for wrong in ("cauchy", {"head": "cauchy"}, {"head": None}, {"head": "mixture", "n_components": 2.0},
                  {"head": "mixture", "n_components": 0}, {"head": "columns", "heads": []},
                  {"head": "columns", "heads": [{"head": "columns", "heads": ["normal"]}]},
                  *({"head": "categorical", "levels": each} for each in levels),
                  *({"head": "columns", "heads": ["normal", {"head": "categorical", "levels": each}]} for each in levels)):
        with pytest.raises(ValueError, match="head: expected one of|levels must be numbers|a positive integer|heads must be"):
            from_config(wrong)
    assert from_config({"head": "mixture", "n_components": 10**15}).n_outputs(10**9) == 3 * 10**24  # nothing of that size
    with pytest.raises(ValueError, match="is of 1 features, not of 2"):
        Categorical(3).n_outputs(2)


def test_the_variance_that_components_have_is_told_neither_by_outliers_nor_by_spikes():
    """The geometric mean by rows; components without any variance are left out, and 1, the data's, is what is left of none."""
    v, n = np.array([[1e-8], [1e-8], [1e6], [0.0]]), np.array([[1000.0], [997], [2], [1]])
    assert typical_variance(v, n)[0] == pytest.approx(1e-8 * (1e14) ** (2 / 1999), rel=1e-12)
    assert typical_variance(v[:1], n[:1])[0] == pytest.approx(1e-8, rel=1e-12)
    assert typical_variance(v[3:], n[3:])[0] == 1.0 == typical_variance(np.full((2, 1), np.nan), n[:2])[0]
