"""Likelihood heads against SciPy's distributions, their own samples, and finite differences."""
import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

from npgen import ops
from npgen.engine import grad
from npgen.fused import standard_normal_log_prob
from npgen.heads import Bernoulli, Categorical, Normal, Poisson, from_config, head_for
from npgen.heads.normal import normal_log_prob, std, typical_variance
from npgen.random import Stream
from npgen.testing import check_grads

ALARM = 1e-6  # of a statistical test, per case
RNG = np.random.default_rng(0)
N, D = 6, 4
LEVELS = 2, 3, 1, 4
OF = {"normal": Normal(), "bernoulli": Bernoulli(), "categorical": Categorical([range(c) for c in LEVELS]),
      "normal, unbounded": Normal(limit=None), "poisson": Poisson()}
OUTPUTS = {"normal": RNG.normal(size=(N, 2 * D)) * 2, "bernoulli": RNG.normal(size=(N, D)) * 3,
           "categorical": RNG.normal(size=(N, sum(LEVELS))) * 2, "normal, unbounded": RNG.normal(size=(N, 2 * D)),
           "poisson": RNG.normal(size=(N, D))}
ROWS = {"normal": RNG.normal(size=(N, D)) * 3, "bernoulli": (RNG.random((N, D)) < 0.5).astype(float),
        "categorical": np.floor(RNG.random((N, D)) * LEVELS), "normal, unbounded": RNG.normal(size=(N, D)) * 3,
        "poisson": RNG.poisson(2.0, (N, D)).astype(float)}
heads = pytest.mark.parametrize("name", OF)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def truth(name, i, j):
    """The distribution of feature j under outputs i, by SciPy."""
    outputs = OUTPUTS[name][i]
    if name == "bernoulli":
        return stats.bernoulli(1 / (1 + np.exp(-outputs[j])))
    if name == "poisson":
        return stats.poisson(np.exp(outputs[j]))
    if name == "categorical":
        p = np.exp(np.split(outputs, np.cumsum(LEVELS)[:-1])[j])
        return stats.rv_discrete(values=(np.arange(len(p)), p / p.sum()))
    mean, raw = outputs[2 * j:2 * j + 2]
    log_var = raw if "unbounded" in name else 15 * np.tanh(raw / 15)
    return stats.norm(mean, np.sqrt(np.exp(log_var)))


def each(name, ask):
    """ask(distribution, i, j) of every feature, (n, d)."""
    return np.array([[ask(truth(name, i, j), i, j) for j in range(D)] for i in range(N)])


@heads
@dtypes
def test_log_prob_and_moments_are_those_of_the_distribution(name, dtype):
    head = OF[name]
    x, outputs = ROWS[name].astype(dtype), OUTPUTS[name].astype(dtype)
    log_prob = head.log_prob(x, outputs)
    density = "logpdf" if "normal" in name else "logpmf"
    want = each(name, lambda p, i, j: getattr(p, density)(ROWS[name][i, j])).sum(axis=1)
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
    drawn = head.sample(getattr(Stream(1), head.noise)((n, N, D), np.float64), OUTPUTS[name])
    for i in range(N):
        for j in range(D):
            p, values = truth(name, i, j), drawn[:, i, j]
            if "normal" in name:
                alarms = [stats.kstest(values, p.cdf).pvalue]
            else:
                alarms = [stats.binomtest(int((values == level).sum()), n, min(p.pmf(level), 1)).pvalue for level in range(4)]
            assert min(alarms) > ALARM / (N * D * 4)


# ---------------------------------------------------------------- the components of a mixture

def holes(x):
    return np.where(np.random.default_rng(1).random(x.shape) < 0.3, np.nan, x)


@heads
@dtypes
def test_every_row_under_every_component_is_log_prob_of_the_values_seen(name, dtype):
    head, x, outputs = OF[name], ROWS[name].astype(dtype), OUTPUTS[name][:3]
    tolerance = 1e-12 if dtype == np.float64 or "normal" in name else 1e-5
    want = head.log_prob(x.astype(float)[:, None], outputs)
    np.testing.assert_allclose(head.log_prob_each(x, outputs), want, rtol=tolerance)
    x = holes(x)
    for row, answer in zip(x, head.log_prob_each(x, outputs), strict=True):
        seen = np.flatnonzero(~np.isnan(row))
        part = Categorical([range(LEVELS[j]) for j in seen]) if name == "categorical" else head
        want = part.log_prob(row[seen].astype(float), head.take(outputs, seen))
        np.testing.assert_allclose(answer, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "normal, unbounded", "poisson"])
@pytest.mark.parametrize("share", [0, 0.01])
def test_the_likeliest_outputs_have_no_slope_and_are_remembered(name, share):
    """One row of outputs per component: the gradient of the weighted log-likelihood, and of the share, is zero there."""
    head, rng = OF[name], np.random.default_rng(2)
    x = holes(head.sample(getattr(Stream(3), head.noise)((60, D), np.float64), OUTPUTS[name][:1].repeat(60, axis=0)))
    r, start, pooled = rng.random((60, 3)), OUTPUTS[name][1:4], OUTPUTS[name][4:5]
    new = head.maximise(head.moments(x, r, start), start, pooled, share)
    for moments in (head.moments(x, r, new), head.remember(new, r.sum(axis=0), pooled, share)):  # the same from any outputs
        again = head.maximise(moments, new, pooled, share)
        np.testing.assert_allclose(head.mean(again), head.mean(new), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(head.variance(again), head.variance(new), rtol=1e-9, atol=1e-12)
    if share:
        return

    def total(outputs):
        rows = [[np.sum(head_of(name, seen).log_prob(row[seen], head.take(outputs, seen)) * w) for seen in
                 [np.flatnonzero(~np.isnan(row))]] for row, w in zip(x, r, strict=True)]
        return np.sum(rows)

    slopes = [(total(new + step) - total(new - step)) / 2e-5 for step in 1e-5 * np.eye(new.size).reshape(-1, *new.shape)]
    np.testing.assert_allclose(slopes, 0, atol=1e-5)


def head_of(name, features):
    return Categorical([range(LEVELS[j]) for j in features]) if name == "categorical" else OF[name]


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
    x = holes(head.sample(getattr(Stream(4), head.noise)((20, D), np.float64), pooled.repeat(20, axis=0)))
    each, own = head.log_prob_each(x, head.around(x, pooled)), head.log_prob_around(x, pooled)
    whole = ~np.isnan(x).any(axis=1)
    np.testing.assert_allclose(np.diagonal(each)[whole], own[whole], rtol=1e-12)
    assert 0 < whole.sum() < 20 and (each <= own[:, None] + (0.1 * D if name == "poisson" else 1e-12)).all()  # of half a count
    nothing = head.around(np.full((1, D), np.nan), pooled)
    np.testing.assert_allclose(head.log_prob_each(x, nothing), head.log_prob_each(x, pooled), rtol=1e-12)


@heads
def test_guesses_and_parts(name):
    head, outputs, r = OF[name], OUTPUTS[name], np.random.default_rng(0).dirichlet(np.ones(N), 5)
    if name == "categorical":
        tables = head.log_probabilities(outputs)
        want = np.stack([(r @ np.exp(t)).argmax(axis=1) for t in tables], axis=1)
    else:
        want = r @ head.mean(outputs)
    np.testing.assert_allclose(head.guess(r, outputs), want)
    some = head_of(name, [3, 1])
    np.testing.assert_allclose(some.mean(head.take(outputs, [3, 1])), head.mean(outputs)[:, [3, 1]], rtol=1e-12)


# ---------------------------------------------------------------- supports, derivatives

@heads
@dtypes
def test_samples_keep_the_dtype_and_the_support(name, dtype):
    head = OF[name]
    drawn = head.sample(getattr(Stream(1), head.noise)((N, D), dtype), OUTPUTS[name].astype(dtype))
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
    if name != "categorical":
        check_grads(lambda x: OF[name].log_prob(x, OUTPUTS[name]), ROWS[name] + 0.1)


def test_levels_are_numbers_that_differ():
    assert [each.tolist() for each in Categorical([[3, -1, 0.5], range(2)]).levels] == [[-1, 0.5, 3], [0, 1]]
    assert repr(Categorical(2)) == repr(Categorical(np.array([1, 0]))) == "Categorical(levels=[0.0, 1.0])"
    for wrong in ([], 0, -1, True, 2.5, None, "ab", [1, 1], [0, np.nan], [0, np.inf], [[1, 2], 0], [[[1]]], ["a"]):
        with pytest.raises(ValueError, match="Categorical: levels must be numbers that differ, or how many there are, got"):
            Categorical(wrong)


def test_the_normal_integrates_to_one_and_the_bernoulli_sums_to_one():
    outputs = np.array([[0.7, -1.1]])
    total = integrate.quad(lambda x: float(np.exp(Normal().log_prob(np.array([[x]]), outputs)[0])), -30, 30, points=[0.7])[0]
    assert math.isclose(total, 1, rel_tol=1e-8)
    logits = np.linspace(-40, 40, 81)[:, None]
    total = sum(np.exp(Bernoulli().log_prob(np.full((81, 1), x), logits)) for x in (0.0, 1.0))
    np.testing.assert_allclose(total, 1, rtol=1e-14)


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
    assert head_for("normal", None).name == "normal" and head_for("bernoulli", None).name == "bernoulli"
    assert head_for("auto", np.array([[0.0, 1.0]])).name == "bernoulli"
    assert head_for("auto", np.array([[0.0, 2.0]])).name == "normal"
    for spec in ("cauchy", None, 3):
        with pytest.raises(ValueError, match=f"head: expected 'auto' or one of normal, bernoulli, got {spec!r}"):
            head_for(spec, None)
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
    np.testing.assert_array_equal(again.log_prob(ROWS[name], OUTPUTS[name]), head.log_prob(ROWS[name], OUTPUTS[name]))


def test_a_forged_head_is_refused():
    """Levels by their count are none: one line of a file would ask for any memory."""
    for wrong in ("cauchy", {"head": "cauchy"}, {"head": None}, *({"head": "categorical", "levels": levels} for levels in
                                                                 (10**15, [[0, 1], 10**15], [], "ab", None, [[]]))):
        with pytest.raises(ValueError, match="head: expected one of|levels must be numbers"):
            from_config(wrong)
    with pytest.raises(ValueError, match="is of 1 features, not of 2"):
        Categorical(3).n_outputs(2)


def test_the_variance_that_components_have_is_told_neither_by_outliers_nor_by_spikes():
    """The geometric mean by rows; components without any variance are left out, and 1, the data's, is what is left of none."""
    v, n = np.array([[1e-8], [1e-8], [1e6], [0.0]]), np.array([[1000.0], [997], [2], [1]])
    assert typical_variance(v, n)[0] == pytest.approx(1e-8 * (1e14) ** (2 / 1999), rel=1e-12)
    assert typical_variance(v[:1], n[:1])[0] == pytest.approx(1e-8, rel=1e-12)
    assert typical_variance(v[3:], n[3:])[0] == 1.0 == typical_variance(np.full((2, 1), np.nan), n[:2])[0]
