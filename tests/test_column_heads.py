"""Heads of a table's columns: grids, atoms, missing values, maps, pooled levels; alone, in a Mixture and in a MADE."""
import functools
import itertools
import json
import tracemalloc
import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

import npgen
from npgen import MADE, Mixture, ops
from npgen.heads import (
    Atoms,
    Bernoulli,
    Categorical,
    Columns,
    Grid,
    Mapped,
    MixtureOfNormals,
    Normal,
    Pooled,
    Scale,
    Tied,
    from_config,
)
from npgen.heads.grid import truncated
from npgen.random import Stream
from npgen.testing import check_generative_model, check_grads

ALARM = 1e-6  # of a statistical test, per case
SCALES = {"linear": Scale("linear", 3.0, 2.0), "log": Scale("log", 1.0, 0.7, -1.0),
          "logit": Scale("logit", 0.3, 1.2, -1.0, 21.0), "asinh": Scale("asinh", 0.1, 0.8, 2.0, 3.5)}
LINE = Normal(limit=None)
scales = pytest.mark.parametrize("kind", SCALES)


# ---------------------------------------------------------------- maps

@scales
@settings(max_examples=20)
@given(x=st.floats(-0.99, 20.99))
def test_a_scale_is_undone_and_its_slope_is_its_derivative(kind, x):
    scale, x = SCALES[kind], np.array([x])
    y = scale.to_latent(x)
    np.testing.assert_allclose(scale.to_data(y), x, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(scale.edge(x), y)
    h = 1e-6 * np.minimum(np.minimum(x + 1, 21 - x), 1)
    slope = (scale.to_latent(x + h) - scale.to_latent(x - h)) / (2 * h)
    np.testing.assert_allclose(scale.log_slope(x), np.log(slope), atol=1e-6)
    assert scale.inside(x).all() and Scale(*scale.config()) == scale


def test_what_lies_beyond_a_scale_is_infinitely_far():
    assert SCALES["log"].edge(np.array([-1.0, -5, np.nan]))[:2].tolist() == [-1e100] * 2
    assert SCALES["logit"].edge(np.array([-1.0, 21, 30])).tolist() == [-1e100, 1e100, 1e100]
    for kind, scale in SCALES.items():
        assert np.isnan(scale.edge(np.array([np.nan]))).all() and scale.kind == kind
    for wrong in (("cube",), ("log", 0.0, 0.0), ("log", 0.0, 1.0, 2.0, 1.0), ("linear", np.inf), ("linear", "0")):
        with pytest.raises(ValueError, match="Scale: expected one of linear, log, logit, asinh"):
            Scale(*wrong)


@pytest.mark.parametrize(("kind", "draw"), [
    ("linear", lambda rng: rng.normal(5, 2, 4000)), ("log", lambda rng: rng.lognormal(1, 1.2, 4000)),
    ("logit", lambda rng: 1 / (1 + np.exp(-2 * rng.normal(size=4000)))),
    ("asinh", lambda rng: np.sinh(2 * rng.normal(size=4000)))])
def test_the_likeliest_scale_is_taken(kind, draw):
    x = draw(np.random.default_rng(0))
    kinds = ("linear", "asinh", "log", "logit")[:2 + (x.min() > 0) + (0 < x.min() < x.max() < 1)]
    found = Scale.fit(x, kinds)
    assert found.kind == kind
    y = found.to_latent(x)
    assert abs(np.median(y)) < 1e-9 and 0.9 < np.diff(np.quantile(y, [0.25, 0.75]))[0] / 1.349 < 1.1


@pytest.mark.parametrize("kind", ["log", "logit", "asinh"])
@pytest.mark.parametrize("base", [LINE, MixtureOfNormals(2)], ids=["normal", "mixture"])
def test_a_mapped_density_is_that_of_the_map(kind, base):
    """It integrates to one, its moments are its integrals, and it is differentiable by outputs and rows."""
    head, rng = Mapped(base, SCALES[kind]), np.random.default_rng(1)
    outputs = rng.normal(size=(1, head.n_outputs(1))) / 2
    low, high = (float(a) for a in head.scale.to_data(np.array([-9.0, 9.0])))

    def density(x, power=0):
        return float(np.exp(head.log_prob(np.array([[x]]), outputs)[0])) * x**power

    points = head.scale.to_data(np.linspace(-8, 8, 65)).tolist()
    total, first, second = (sum(integrate.quad(density, a, b, args=(power,))[0] for a, b in itertools.pairwise(
        [low, *points, high])) for power in range(3))
    np.testing.assert_allclose([total, head.mean(outputs)[0, 0], head.variance(outputs)[0, 0]],
                               [1, first, second - first**2], rtol=1e-5)
    x = head.sample(head.noise(Stream(0), (3000, 1), np.float64), outputs)
    assert head.scale.inside(x).all()
    y = head.scale.to_latent(x)[:, 0]
    _, mean, log_var = base.components(outputs)
    w = np.exp(base.components(outputs)[0])[0, 0]
    assert stats.kstest(y, lambda t: sum(p * stats.norm.cdf(t, m, s) for p, m, s in zip(
        w, mean[0, 0], np.exp(log_var / 2)[0, 0], strict=True))).pvalue > ALARM
    rows, own = x[:5], outputs.repeat(5, axis=0)
    check_grads(lambda o: head.log_prob(rows, o), own)
    check_grads(lambda r: head.log_prob(r, own), rows)


# ---------------------------------------------------------------- grids

def test_the_mass_of_an_interval_is_precise_in_both_tails():
    """To 1e-9 of itself, against 60 digits; and its derivatives."""
    mpmath.mp.dps = 60
    for low in (-30.0, -8.0, -1.0, -1e-9, 0.0, 0.3, 5.0, 35.0):
        for width in (1e-6, 1e-3, 0.1, 1.0, 10.0):
            a, b = np.array(low), np.array(low + width)
            side = 1 if low > 0 else -1
            tails = [mpmath.erfc(side * mpmath.mpf(float(edge)) / mpmath.sqrt(2)) / 2 for edge in (a, b)]
            exact = side * (tails[0] - tails[1])
            want = float(mpmath.log(exact))
            assert abs(float(ops.normal_log_mass(a, b)) - want) < 1e-8 * max(1, abs(want)), (low, width)
            log_p, first, second = truncated(a[None], b[None])
            at_a, at_b = (mpmath.npdf(mpmath.mpf(float(edge))) / exact for edge in (a, b))
            want = [want, float(at_a - at_b), float(1 + float(a) * at_a - float(b) * at_b)]
            np.testing.assert_allclose([log_p[0], first[0], second[0]], want, rtol=1e-7, atol=1e-8)
            if width > 0.01 and abs(low) < 10:
                check_grads(ops.normal_log_mass, a, b)
    assert ops.normal_log_mass(np.array([-1e100]), np.array([1e100]))[0] == 0
    far = ops.normal_log_mass(np.array([1e8, -1e100, 40.0]), np.array([2e8, -1e90, 1e100]))
    assert np.isfinite(far).all() and far[2] == pytest.approx(stats.norm.logsf(40))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=50)
@given(low=st.floats(-60, 60), width=st.floats(-6, 1))
@example(low=-12.5, width=-4.0)  # in float32 Phi is a number there, and its difference none
def test_the_mass_of_an_interval_is_as_precise_as_its_edges(dtype, low, width):
    """To so many times what moving an edge by its rounding makes of it, wherever it lies."""
    mpmath.mp.dps = 60
    a, b = (np.array([edge], dtype) for edge in (low, low + 10**width))
    if a < b:
        ends = [mpmath.mpf(float(edge[0])) for edge in ((-b, -a) if a + b > 0 else (a, b))]
        want = float(mpmath.log((mpmath.erfc(-ends[1] / mpmath.sqrt(2)) - mpmath.erfc(-ends[0] / mpmath.sqrt(2))) / 2))
        far = max(float(np.abs(a)[0]), float(np.abs(b)[0]), 1)
        moved = far**2 / min(1, float((b - a)[0]) * far)
        assert abs(float(ops.normal_log_mass(a, b)[0]) - want) < 32 * np.finfo(dtype).eps * (1 + abs(want) + moved)


@scales
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), bounds=st.sampled_from([(0, None), (0, 20), (None, 20), (None, None)]))
def test_masses_add_up_to_one_over_the_grid(kind, dtype, seed, bounds):
    rng = np.random.default_rng(seed)
    low, high = (0, 20) if kind == "logit" else (0, bounds[1]) if kind == "log" else bounds
    head = Grid(MixtureOfNormals(2), low=low, high=high, scale=SCALES[kind])
    outputs = (rng.normal(size=(1, head.n_outputs(1))) * 0.7).astype(dtype)
    x = np.arange(-4000.0 if low is None else low, 20_001 if high is None else high + 1)[:, None].astype(dtype)
    p = np.exp(head.log_prob(x, outputs.repeat(len(x), axis=0)).astype(np.float64))
    ends = np.array([[head.scale.edge(np.array(20_000.5))]]), np.array([[1e100]])
    beyond = 0 if high is not None else np.exp(head.base.log_cell(*ends, outputs.astype(np.float64))).item()  # of a long tail
    np.testing.assert_allclose(p.sum() + beyond, 1, atol=1e-5 if dtype == np.float32 else 1e-12)
    drawn = head.sample(head.noise(Stream(seed), (200, 1), dtype), outputs)
    assert drawn.dtype == dtype
    head.check(drawn, "sample")
    for wrong in [0.5] + [-1.0] * (low == 0) + [21.0] * (high == 20):
        with pytest.raises(ValueError, match=r"score: X\[0, 3\] is .*but its column has steps of 1"):
            head.check(np.array([[wrong]], dtype), "score", [3])


def test_one_normal_on_a_grid_is_fitted_by_its_exact_likelihood():
    """EM ends where an optimiser of the sum of the log-masses does."""
    rng = np.random.default_rng(3)
    x = np.clip(np.round(rng.normal(1.2, 1.5, 300)), 0, 4)[:, None]
    head = Grid(LINE, low=0, high=4)
    model = Mixture(1, heads=[head], tol=0.0, max_iter=3000, smoothing=0, reg_covar=0).fit(x)
    best = optimize.minimize(lambda o: -head.log_prob(x, np.tile(o, (len(x), 1))).sum(), [1.0, 0.5], tol=1e-12)
    assert model.score(x) == pytest.approx(-best.fun / len(x), abs=1e-9)
    p = np.exp(model.log_prob(np.arange(5.0)[:, None]))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)


def test_a_fine_grid_is_a_density_times_the_step():
    head, line = Grid(LINE, step=1e-4), Mapped(LINE)
    outputs, x = np.array([[0.3, -0.5]]), np.round(np.random.default_rng(0).normal(size=(50, 1)), 4)
    np.testing.assert_allclose(head.log_prob_each(x, outputs), line.log_prob_each(x, outputs) + np.log(1e-4), atol=1e-6)
    coarse = Grid(LINE, step=0.5)
    np.testing.assert_allclose(coarse.log_prob_each(np.round(x * 2) / 2, outputs)[:, 0],
                               coarse.log_prob(np.round(x * 2) / 2, outputs.repeat(50, axis=0)), rtol=1e-10)


# ---------------------------------------------------------------- atoms, missing, pooled

@pytest.mark.parametrize("base", [Normal(), Mapped(MixtureOfNormals(2), SCALES["asinh"])], ids=["normal", "mapped"])
def test_atoms_beside_a_density(base):
    """The density of the rest integrates to its probability; atoms and missing have theirs, and are drawn as often."""
    head, rng = Atoms(base, [0.0, 3.0], missing=True), np.random.default_rng(2)
    outputs = rng.normal(size=(1, head.n_outputs(1))) / 2
    log_p = outputs[0, :4] - np.logaddexp.reduce(outputs[0, :4])
    own = head.log_prob(np.array([[0.0], [3.0], [np.nan]]), outputs.repeat(3, axis=0))
    np.testing.assert_allclose(own, log_p[1:], rtol=1e-12)
    total = sum(integrate.quad(lambda x: float(np.exp(head.log_prob(np.array([[x]]), outputs)[0])), a, b)[0]
                for a, b in itertools.pairwise([-200, -20, -3, -1e-9, 1e-9, 2.9999, 3.0001, 20, 200]))
    assert total == pytest.approx(np.exp(log_p[0]), abs=1e-3)
    x = head.sample(head.noise(Stream(1), (4000, 1), np.float64), outputs)[:, 0]
    for value, p in zip((0.0, 3.0, np.nan), np.exp(log_p[1:]), strict=True):
        seen = np.isnan(x) if np.isnan(value) else x == value
        assert stats.binomtest(int(seen.sum()), 4000, p).pvalue > ALARM / 3
    whole = head.seen()
    assert not np.isnan(whole.sample(whole.noise(Stream(1), (4000, 1), np.float64), outputs)).any()
    assert head.measure == "length, counting at 0, 3, missing"
    rows = np.array([[0.0], [3.0], [np.nan], [1.7], [-2.0]])
    check_grads(lambda o: head.log_prob(rows, o), outputs.repeat(5, axis=0))
    np.testing.assert_array_equal(head.inputs(rows)[:, :3], np.eye(3)[[0, 1, 2, 0, 0]] * [[1], [1], [1], [0], [0]])
    assert head.inputs(rows)[:3, 3].tolist() == [0, 0, 0] and head.inputs(rows).shape[1] == head.n_inputs(1)[0]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_state_of_a_value_is_where_its_flag_is(dtype, missing):
    head = Atoms(LINE, [-2.5, 0.0, 1e30], missing=missing)
    x = np.array([[-2.5, -3.0], [0.0, -0.0], [1e30, np.inf], [np.nan, 0.5], [1e300, -np.inf]])
    x = np.where(np.abs(x) < 1e200, x, 7).astype(dtype) if dtype == np.float32 else x
    flags, states = head.flags(x), head.states(x)
    there = flags.any(axis=-1)
    assert (states[there] == flags.argmax(axis=-1)[there]).all() and (states[~there] == flags.shape[-1]).all()
    assert there.tolist() == (~np.isnan(x) | missing).tolist()


def test_a_state_takes_no_memory_in_every_row():
    """With 600 atoms 5,000 rows of flags are 24 MB."""
    rng, n, k = np.random.default_rng(0), 5000, 3
    head, x = Atoms(Grid(LINE, low=0), 2.0 * np.arange(600)), rng.integers(0, 1800, (n, 1)).astype(float)
    r, outputs = np.full((n, k), 1 / k), 0.1 * rng.normal(size=(k, head.n_outputs(1)))
    dense = head.flags(x)[:, 0].T @ r
    head.moments(x[:9], r[:9], outputs)  # its kernels are ready
    tracemalloc.start()
    counts = head.moments(x, r, outputs).counts[:, 0]
    first = head.initial(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    np.testing.assert_array_equal(first[:601], np.log(dense.sum(axis=1).round() + 1))
    rest = r.T @ (head.states(x) == 0)
    np.testing.assert_allclose(counts.sum(axis=1), n / k)  # what the rest has of an atom's rows is its own
    assert (counts[:, 0] >= rest[:, 0] - 1e-9).all() and (counts[:, 1:] <= dense[1:].T + 1e-9).all()


def test_first_outputs_are_frequencies_means_and_variances():
    rng = np.random.default_rng(4)
    x = np.where(rng.random((400, 1)) < 0.3, 0, rng.poisson(9, (400, 1)) + 5.0)
    x[::7] = np.nan
    head = Atoms(Grid(LINE, low=0), [0.0], missing=True)
    outputs = head.initial(x)[None]
    shares = np.array([(x > 0).sum(), (x == 0).sum(), np.isnan(x).sum()]) + 1
    np.testing.assert_allclose(np.exp(outputs[0, :3]) / np.exp(outputs[0, :3]).sum(), shares / shares.sum(), rtol=1e-12)
    rest = x[x > 0]
    np.testing.assert_allclose(outputs[0, 3:], [rest.mean(), np.log(rest.var() + 1 / 12)], rtol=1e-12)
    weights = rng.integers(0, 3, 400)
    np.testing.assert_allclose(head.initial(x, weights), head.initial(x.repeat(weights, axis=0)), rtol=1e-12)
    pooled = Pooled([0, 1], [2, 3], [0.25, 0.75])
    levels = rng.integers(0, 4, (100, 1)).astype(float)
    np.testing.assert_allclose(np.exp(pooled.initial(levels)), (np.array([(levels == 0).sum(), (levels == 1).sum(), (
        levels > 1).sum()]) + 1) / 103, rtol=1e-12)


WRONG = {"atoms twice": lambda: Atoms(Normal(), [1, 1]), "an atom that is none": lambda: Atoms(Normal(), [np.nan]),
         "no state": lambda: Atoms(Normal()), "atoms of atoms": lambda: Atoms(Atoms(Normal(), [1]), [2]),
         "a text": lambda: Atoms(Normal(), "ab"), "several features": lambda: Atoms(Categorical([[0, 1], [0, 1]]), [2]),
         "no base": lambda: Grid(Bernoulli()), "no step": lambda: Grid(step=0.0), "bounds": lambda: Grid(low=3, high=1),
         "a bound that is none": lambda: Grid(low=np.inf), "no scale": lambda: Mapped(scale="log"),
         "shares": lambda: Pooled([0], [1, 2], [0.5, 0.6]), "a level twice": lambda: Pooled([0, 1], [1, 2], [0.5, 0.5]),
         "a share of none": lambda: Pooled([0], [1, 2], [1.0]), "a codebook of another width": lambda: Tied(LINE, [[1.0]]),
         "an empty codebook": lambda: Tied(LINE, []), "a codebook of NaN": lambda: Tied(LINE, [[np.nan, 0]]),
         "tied of tied": lambda: Tied(Tied(LINE, [[0, 0]]), [[1]]), "no component": lambda: Tied(Grid(), [[0] * 15]),
         "a ragged codebook": lambda: Tied(LINE, [[1, 2], [3]])}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_head_is_one_line(case):
    with pytest.raises(ValueError, match="^(Atoms|Grid|Mapped|Pooled|Tied): .*got") as caught:
        WRONG[case]()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- mixtures

HEADS = ["normal", Grid(LINE, low=0), Atoms(Grid(LINE, low=0, scale=Scale("log", 0.0, 1.0, -1.0)), [0.0, 50.0]),
         Atoms(Mapped(LINE, Scale("log")), [0.0]), Pooled([0, 1], [2, 3], [0.25, 0.75])]
BOOK = [[-1.0, 0.0], [0.5, -1.0], [2.0, 0.5]]
SHARED = [Tied(Mapped(LINE, Scale("linear", 1.0, 2.0)), BOOK),
          Tied(Grid(LINE, low=0, scale=Scale("linear", 10.0, 10.0), ends="cut"), BOOK),
          Atoms(Tied(Grid(LINE, low=0, scale=Scale("log", 0.0, 1.0, -1.0)), BOOK), [0.0, 50.0]),
          Atoms(Tied(Mapped(LINE, Scale("log")), BOOK), [0.0]), HEADS[-1]]


def rows(n=300, seed=0, missing=0.0):
    """Rows of two groups: real, counts, counts with many zeros and a ceiling, amounts with many zeros, levels of which two are
    rare."""
    rng = np.random.default_rng(seed)
    g = rng.integers(0, 2, n)
    zero, counts = rng.random((2, n)) < 0.5, np.minimum(rng.poisson(np.exp(1 + rng.normal(size=n) + g)), 50)
    x = np.column_stack([rng.normal(3 * g), rng.poisson(3 + 20 * g), np.where(zero[0], 0, counts),
                         np.where(zero[1], 0, rng.lognormal(g, 0.5)), rng.choice(4, n, p=[0.5, 0.4, 0.05, 0.05])])
    x[rng.random(x.shape) < missing] = np.nan
    return x


@functools.cache
def mixture(missing="marginalise", tied=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", npgen.ConvergenceWarning)
        return Mixture(2, heads=SHARED if tied else HEADS, missing=missing, max_iter=30, random_state=0).fit(rows(missing=0.2))


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), missing=st.sampled_from([0, 0.3]), k=st.integers(1, 3), how=st.sampled_from(["marginalise",
                                                                                                             "model"]))
@pytest.mark.parametrize("heads", [HEADS, SHARED], ids=["own", "shared"])
@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_em_never_decreases(heads, seed, missing, k, how):
    """Where values repeat they are atoms, or lie on a grid: nothing is bought by a narrow density there."""
    model = Mixture(k, heads=heads, missing=how, reg_covar=0, smoothing=0, tol=1e-6, max_iter=60, random_state=seed)
    model.fit(rows(120, seed, missing))
    if not model.fit_report_["reseeded"]:
        assert np.diff(model.lower_bounds_).min(initial=0) >= -1e-9
    assert model.lower_bound_ == pytest.approx(model.score(rows(120, seed, missing)), abs=1e-9)


@pytest.mark.parametrize("how", ["marginalise", "model"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tied", [False, True], ids=["own", "shared"])
def test_a_mixture_is_kept_and_its_parts_are_its_own(how, dtype, tied, tmp_path):
    """Saved and loaded; marginal is what is left out, condition the quotient; a step with its own statistics moves nothing."""
    model, x = mixture(how, tied), rows(60, 1).astype(dtype)
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    for query in (model.log_prob, model.encode):
        np.testing.assert_array_equal(getattr(again, query.__name__)(x), query(x))
        np.testing.assert_array_equal(query(x[7:12]), query(x)[7:12])  # whatever rows are beside a row
    np.testing.assert_array_equal(again.sample(50, rng=3), model.sample(50, rng=3))
    gaps = ", missing" * (how == "model")
    assert model.log_prob(x).dtype == dtype and model.measures_ == [
        "length" + gaps.replace(",", ", counting at"), "counting", "counting", "length, counting at 0" + gaps, "counting"]
    order = [4, 2, 0]
    some, tolerance = model.marginal(order), 1e-4 if dtype == np.float32 else 1e-9
    if how == "marginalise":
        holes = x.copy()
        holes[:, [1, 3]] = np.nan
        np.testing.assert_allclose(some.log_prob(x[:, order]), model.log_prob(holes), rtol=tolerance, atol=tolerance)
    given = model.condition(order, x[5, order])
    joint = x.copy()
    joint[:, order] = x[5, order]
    want = model.log_prob(joint) - some.log_prob(x[[5]][:, order])
    np.testing.assert_allclose(given.log_prob(x[:, [1, 3]]), want, rtol=10 * tolerance, atol=10 * tolerance)
    assert given.sample(5, rng=0).shape == (5, 2) and np.isfinite(given.log_prob(given.sample(50, rng=0))).all()
    full = model.impute(rows(60, 2, 0.3))
    assert not np.isnan(full).any() and not np.isnan(model.impute(rows(60, 2, 0.3), rng=1)).any()
    assert model.n_parameters_ == 2 * (2 + 2 + (2 + 2) + (1 + 2) + 2) + 1 + 2 * 4 * (how == "model") + 2 * (how == "model")


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_missing_is_a_state():
    """Of a table of two columns all states add up to one; a mask that says which group a row is of is found."""
    rng = np.random.default_rng(0)
    g = rng.integers(0, 2, 400)
    misses = (g == 1) & (rng.random(400) < 0.9)
    x = np.column_stack([np.where(misses, np.nan, rng.integers(0, 3, 400)), g ^ (rng.random(400) < 0.1)])
    model = Mixture(2, heads=["categorical", "bernoulli"], missing="model", random_state=0).fit(x)
    states = np.array(list(itertools.product([0, 1, 2, np.nan], [0, 1])), float)
    p = np.exp(model.log_prob(states))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    shares = np.array([np.mean([np.array_equal(row, state, equal_nan=True) for row in x]) for state in states])
    np.testing.assert_allclose(p, shares, atol=0.03)
    drawn = model.sample(4000, rng=1)
    alarms = [stats.binomtest(sum(np.array_equal(row, state, equal_nan=True) for row in drawn), 4000, q).pvalue
              for state, q in zip(states, p, strict=True)]
    assert min(alarms) > ALARM / len(states)
    without = Mixture(2, heads=["categorical", "bernoulli"], random_state=0).fit(x)
    np.testing.assert_allclose(np.exp(without.log_prob(np.array([[np.nan, 0], [np.nan, 1]]))).sum(), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="missing must be marginalise or model, got 'drop'"):
        Mixture(2, missing="drop").fit(x)


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_the_laws_hold_of_mixtures():
    model = Mixture(2, heads=HEADS[1:3] + HEADS[4:], random_state=0).fit(rows(600)[:, [1, 2, 4]])
    report = check_generative_model(model, rows(600)[:, [1, 2, 4]], n_samples=4000)
    assert report.passed, report
    shared = Mixture(2, heads=SHARED[1:3] + HEADS[4:], random_state=0).fit(rows(600)[:, [1, 2, 4]])
    report = check_generative_model(shared, rows(600)[:, [1, 2, 4]], n_samples=4000)
    assert report.passed, report
    real = Mixture(2, heads=SHARED[:1] + SHARED[3:4], random_state=0).fit(rows(600)[:, [0, 3]])
    report = check_generative_model(real, rows(600)[:, [0, 3]], n_samples=4000)
    assert report.passed, report
    real = Mixture(2, heads=HEADS[:1] + HEADS[3:4], random_state=0).fit(rows(600)[:, [0, 3]])
    report = check_generative_model(real, rows(600)[:, [0, 3]], n_samples=4000)
    assert report.passed, report


def pieces(n=2000, seed=0):
    """A frame of two groups: a real of three peaks, of which they have their own shares, a skewed amount, whole numbers."""
    rng, pd = np.random.default_rng(seed), pytest.importorskip("pandas")
    g = rng.integers(0, 2, n)
    peak = np.where(rng.random(n) < 0.2 + 0.6 * g, 0, 1 + (rng.random(n) < 0.5))
    return pd.DataFrame({"group": np.where(g, "a", "b"), "x": np.array([-4.0, 0, 6])[peak] + rng.normal(size=n),
                         "amount": np.exp(rng.normal(size=n) + g), "many": rng.poisson(np.exp(5 + 0.5 * rng.normal(size=n)))})


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_numbers_that_are_tied_have_any_shape_in_a_component():
    """Two groups with three peaks each: of two components of normals each is a group, or a peak, and rows held out are less
    likely by 0.1 nats and more. A codebook keeps what it said of values, and says the same of others and in any company."""
    train, held = pieces(), pieces(seed=1)
    nats = {numbers: Mixture(2, numbers=numbers, smoothing=1e-3, n_init=3, random_state=0).fit(train).score(held)
            for numbers in ("normal", "tied")}
    assert nats["tied"] > nats["normal"] + 0.1
    model = Mixture(2, numbers="tied", smoothing=1e-3, random_state=0).fit(train)
    assert list(model.kinds_) == ["bernoulli", "tied", "tied", "tied"] and model.n_parameters_ <= 1 + 2 * (1 + 3 * 40)
    np.testing.assert_array_equal(model.log_prob(held)[5:9], model.log_prob(held[5:9]))
    assert set(model.condition({"group": "a"}).sample(400, rng=0).columns) == {"x", "amount", "many"}
    few = Mixture(2, numbers="tied", random_state=0).fit(train[:30])
    assert np.isfinite(few.log_prob(held[held["many"].between(train["many"][:30].min(), 10**6)])).all()
    for numbers, x in ("shared", train), ("tied", train[["x", "many"]].to_numpy()):
        with pytest.raises(ValueError, match=f"^numbers must be normal, or tied where X is a DataFrame .* got '?{numbers}"):
            Mixture(2, numbers=numbers).fit(x)


def test_a_codebook_is_that_of_the_numbers_it_is_made_of():
    """What it says of the rows that made it: the density of three peaks to 0.02 nats a row, equal numbers as one, and values
    far out are as likely as all rows make them."""
    x = np.random.default_rng(0).choice([-4.0, 0, 6], 4000) + np.random.default_rng(1).normal(size=4000)
    head = Tied.fit(Mapped(LINE), x, 20)
    truth = np.logaddexp.reduce([stats.norm.logpdf(x, m) for m in (-4, 0, 6)], axis=0).mean() - np.log(3)
    found = head.log_prob(x[:, None], head.initial(x[:, None])[None]).mean()
    assert len(head.codebook) <= 21 and truth - 0.02 < found < truth + 0.02
    far = head.log_prob(np.array([[40.0], [-1e3]]), np.zeros((1, len(head.codebook))))
    assert (far > stats.norm.logpdf([40, -1e3], x.mean(), x.std()) - np.log(21) - 1e-9).all()
    one = Tied.fit(Grid(LINE), np.full(300, 7.0), 20)
    np.testing.assert_allclose(one.log_prob(np.array([[7.0]]), one.initial(np.full((300, 1), 7.0))[None]), 0, atol=0.02)
    tracemalloc.start()
    many = Tied.fit(Mapped(LINE), np.tile(x, 100), 20)  # 400,000 rows: of 20 numbers each they would take 64 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 and abs(many.log_prob(x[:, None], many.initial(x[:, None])[None]).mean() - found) < 0.02
    again = from_config(json.loads(json.dumps(head.config())))
    np.testing.assert_array_equal(again.codebook, head.codebook)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_a_step_from_its_own_statistics_moves_no_weight(smoothing):
    """Smoothing is so many rows as all rows are, twice: of 10 rows of one b_m and half a row of it, 10 + w of 11."""
    head, rng = SHARED[0], np.random.default_rng(0)
    outputs, pooled, n = rng.normal(size=(4, 6)), rng.normal(size=(1, 6)), rng.random(4) + 3
    again = head.maximise(head.expected_moments(outputs, n, pooled, smoothing), outputs, pooled, smoothing)
    np.testing.assert_allclose(np.diff(again.reshape(4, 2, 3)), np.diff(outputs.reshape(4, 2, 3)), rtol=1e-9, atol=1e-9)
    weights = np.exp(head.maximise(np.array([[10.0, 0, 0]]), outputs[:1, :3], pooled[:, :3], smoothing))[0]
    prior = np.exp(pooled[0, :3]) / np.exp(pooled[0, :3]).sum()
    np.testing.assert_allclose(weights, (np.array([10, 0, 0]) + 2 * smoothing * prior) / (10 + 2 * smoothing), atol=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), far=st.floats(-1e6, 1e6), width=st.floats(1e-6, 1e3))
def test_what_is_tied_is_as_precise_as_its_logarithms(seed, far, width):
    """EM's products beside a sum of logarithms, of values far from all of the codebook, where every density is below 1e-308,
    and of weights that nearly none have; values are kept, and asked for in parts."""
    rng = np.random.default_rng(seed)
    head = Tied(Mapped(LINE), np.column_stack([rng.normal(size=5) * 10, np.log(width) + rng.normal(size=5)]).tolist())
    x, outputs = np.append(rng.normal(size=9) * 10, far)[:, None], rng.normal(size=(3, 5)) * rng.choice([1, 300])
    basis = head.base.log_prob_each(x, head.codebook)
    logits = outputs - np.logaddexp.reduce(outputs, axis=1, keepdims=True)
    want = np.logaddexp.reduce(basis[:, None] + np.maximum(logits, np.log(1e-300)), axis=2)
    for rows in (x[:4], x, x[::-1], np.vstack([x, [[np.nan]]])):
        found = head.log_prob_each(rows, outputs)
        where = [np.flatnonzero(x[:, 0] == value)[0] for value in rows[:10, 0]]
        np.testing.assert_allclose(found[:10], want[where], rtol=1e-12, atol=1e-9)
        np.testing.assert_array_equal(found[10:], 0)
    r = rng.random((10, 3))
    post = np.exp(basis[:, None] + np.maximum(logits, np.log(1e-300)) - want[..., None])
    np.testing.assert_allclose(head.moments(x, r, outputs), np.einsum("nk,nkm->km", r, post), rtol=1e-8, atol=1e-12)


# ---------------------------------------------------------------- MADE

NET = [Atoms(Grid(MixtureOfNormals(2), low=0, high=5), [0.0], missing=True), Atoms(Categorical(3), missing=True),
       Pooled([0, 1], [2, 3], [0.25, 0.75])]
STATES = np.array(list(itertools.product([np.nan, *range(6)], [np.nan, *range(3)], range(4))), float)


def table(n=400, seed=0):
    rng = np.random.default_rng(seed)
    a = np.where(rng.random(n) < 0.3, 0, np.minimum(rng.poisson(2, n), 5)).astype(float)
    b = np.where(rng.random(n) < 0.7, np.minimum(a, 2), rng.integers(0, 3, n))
    x = np.column_stack([a, b, rng.choice(4, n, p=[0.5, 0.4, 0.05, 0.05])])
    x[rng.random(n) < 0.2, 0] = np.nan
    x[np.isnan(x[:, 0]) & (rng.random(n) < 0.8), 1] = np.nan
    return x


@functools.cache
def made(dtype="float64", order=(2, 0, 1)):
    model = MADE(hidden=(12,), head=NET, order=order, max_epochs=40, learning_rate=5e-3, random_state=0)
    return model.fit(table().astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [(2, 0, 1), "any"])
def test_the_states_of_a_made_add_up_to_one_and_are_drawn_as_often(dtype, order, tmp_path):
    model = made(dtype, order)
    p = np.exp(model.log_prob(STATES.astype(dtype)).astype(float))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5 if dtype == "float32" else 1e-10)
    drawn, n = model.sample(6000, rng=0), 6000
    assert drawn.dtype == dtype and np.isfinite(model.log_prob(drawn)).all()
    for j in range(3):
        for value in np.unique(STATES[:, j], equal_nan=True):
            at, seen = ((np.isnan(a[:, j]) if np.isnan(value) else a[:, j] == value) for a in (STATES, drawn))
            assert stats.binomtest(int(seen.sum()), n, min(p[at].sum(), 1)).pvalue > ALARM / 16
    both = np.isnan(drawn[:, :2]).all(axis=1).mean()  # which columns miss together is learned
    assert both > 0.05  # and 0.03 where they are independent
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(again.log_prob(STATES), model.log_prob(STATES))
    np.testing.assert_array_equal(again.sample(50, rng=1), model.sample(50, rng=1))
    assert model.measures_ == ["counting"] * 3


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_a_network_takes_what_is_tied_and_keeps_the_laws():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.choice([-3.0, 0, 3], 800) + rng.normal(size=800) / 2, rng.poisson(5, 800)])
    head = [Tied.fit(Mapped(LINE), x[:, 0], 12), Tied.fit(Grid(LINE, low=0, ends="cut"), x[:, 1], 8)]
    model = MADE(hidden=(16,), head=head, max_epochs=20, learning_rate=5e-3, random_state=0).fit(x)
    report = check_generative_model(model, x, n_samples=4000)
    assert report.passed, report


def test_made_given_columns_is_the_quotient_of_its_states():
    model = made()
    given = model.condition([2, 0], [1.0, 3.0])
    p = np.exp(given.log_prob(np.arange(3.0)[:, None]))
    states = np.array([[3, value, 1] for value in (0, 1, 2, np.nan)])
    joint = np.exp(model.log_prob(states))
    np.testing.assert_allclose(p, joint[:3] / joint.sum(), rtol=1e-9)
    anyway = made("float64", "any")
    x = table(100, 5)
    full, seen = anyway.impute(x, rng=0), ~np.isnan(x)
    assert not np.isnan(full).any() and np.array_equal(full[seen], x[seen]) and np.isfinite(anyway.log_prob(full)).all()
    rest = anyway.condition([2], [1.0])
    assert np.isfinite(rest.log_prob(rest.sample(200, rng=0))).all()  # also where a value that may be missing is


def test_made_learns_by_its_gradient():
    """Against finite differences, of rows in every state."""
    inner, x = made().inner(np.float64), STATES[::7][:, [2, 0, 1]]
    net, weights = inner.parts["net"], inner.params["net"]
    weights, mask = weights + 0.1 * np.random.default_rng(0).normal(size=weights.shape), net.flat_mask(weights)
    check_grads(lambda w: net.head.log_prob(x, net({"net": w * mask}, net.inputs(x))), weights)


def test_a_missing_value_where_none_was_is_refused():
    model = made()
    for call in (model.log_prob, model.encode):
        with pytest.raises(ValueError, match=r"X\[1, 2\] is nan, but no row of fit missed that column; remove or fill it"):
            call(np.array([[1.0, 1, 1], [1, 1, np.nan]]))
    with pytest.raises(ValueError, match=r"fit: X\[0, 2\] is nan, but no row of fit"):
        MADE(hidden=(4,), head=NET, max_epochs=1).fit(np.concatenate([[[1, 1, np.nan]], table()]))
    with pytest.raises(ValueError, match=r"fit: X\[0, 0\] is nan"):
        MADE(hidden=(4,), head=["normal", "normal"], max_epochs=1).fit(np.full((9, 2), np.nan))


@pytest.mark.long
def test_the_laws_hold_of_a_made():
    heads = [Atoms(Grid(MixtureOfNormals(2), low=0, high=5), [0.0]), Categorical(3), Pooled([0, 1], [2, 3], [0.25, 0.75])]
    x = table(900)
    x = x[~np.isnan(x).any(axis=1)]
    model = MADE(hidden=(12,), head=heads, max_epochs=20, learning_rate=5e-3, random_state=0).fit(x)
    report = check_generative_model(model, x, n_samples=4000)
    assert report.passed, report
    amounts = MADE(hidden=(12,), head=[Mapped(scale=Scale("log")), Mapped(scale=Scale("asinh"))], max_epochs=20,
                   learning_rate=5e-3, random_state=0).fit(np.random.default_rng(0).lognormal(size=(500, 2)) @ [[1, 1], [0, 1]])
    report = check_generative_model(amounts, n_samples=4000)
    assert report.passed, report


def test_heads_of_columns_stand_beside_one_another():
    head = Columns([*NET, *NET[:1]])
    x = np.column_stack([table(30), table(30)[:, 0]])
    outputs = np.random.default_rng(0).normal(size=(30, head.n_outputs(4)))
    parts = [one.log_prob(x[:, [j]], outputs[:, a:b]) for j, (one, a, b) in enumerate(zip(
        head.heads, head.first(4), head.first(4)[1:], strict=False))]
    np.testing.assert_allclose(head.log_prob(x, outputs), np.sum(parts, axis=0), rtol=1e-12)
    noise = head.noise(Stream(0), (500, 4), np.float64), outputs[:1].repeat(500, axis=0)
    assert head.missing.tolist() == [True, True, False, True]
    assert np.isnan(head.sample(*noise)).any(axis=0).tolist() == [True, True, False, True]
    assert not np.isnan(head.seen().sample(*noise)).any()


# ---------------------------------------------------------------- the choice

pl = pytest.importorskip("polars")
pytest.importorskip("narwhals")


def columns(n=1000):
    """Cells of every kind of column, by the head that they call for."""
    rng = np.random.default_rng(0)
    zero = rng.random((2, n)) < 0.6
    ceiling = np.minimum(rng.lognormal(7, 1.5, n).round(), 9999.0).astype(int)
    level = rng.choice(["a", "b", "c"], n).tolist()
    level[:5] = ["d", "e", "e", "f", "f"]
    return {"bernoulli": rng.choice(["x", "y"], n), "categorical": rng.integers(18, 90, n), "pooled": level,
            "grid": rng.integers(0, 10**4, n), "grid of tenths": np.round(rng.normal(20, 9, n), 1),
            "atoms, ceiling": np.where(rng.random(n) < 0.1, 9999, ceiling),
            "atoms, zeros": np.where(zero[0], 0, rng.lognormal(3, 2, n).round().astype(int)),
            "atoms, amounts": np.where(zero[1], 0, rng.lognormal(size=n)), "mapped": rng.normal(size=n),
            "mapped, log": rng.lognormal(0, 1.5, n), "mapped, logit": 1 / (1 + np.exp(-2 * rng.normal(size=n))),
            "mapped, tails": np.sinh(2.5 * rng.normal(size=n))}


@functools.cache
def fitted(model=Mixture, holes=False, **options):
    cells = columns()
    frame = pl.DataFrame(cells)
    if holes:
        frame = frame.with_columns(pl.when(pl.int_range(pl.len()) % 7 > 0).then(pl.col(name)).alias(name) for name in cells)
    options = {"n_components": 2, "max_iter": 3, "tol": 1.0} if model is Mixture else {"hidden": (32,), "max_epochs": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(random_state=0, **options).fit(frame), frame


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("model", [Mixture, MADE])
def test_each_column_has_the_head_that_it_calls_for(model, holes):
    model, frame = fitted(model, holes)
    every = model.inner().parts.get("columns")
    heads = model.head_.heads if every is None else [every.heads[every.at(j)[0]] for j in range(12)]
    by_name = dict(zip(columns(), heads, strict=True))
    for name, head in by_name.items():
        if holes and isinstance(model, MADE):
            assert head.missing and head.name == "atoms"
            head = head if len(head.atoms) else head.base
        assert head.name == name.split(",")[0].split(" ")[0], (name, head)
        kind = {"mapped, log": "log", "mapped, logit": "logit", "mapped, tails": "asinh", "mapped": "linear"}.get(name)
        assert kind is None or head.scale.kind == kind
    atoms = {name: by_name[name].atoms.tolist() for name in by_name if name.startswith("atoms")}
    assert atoms["atoms, ceiling"] == [9999] and atoms["atoms, amounts"] == [0] and 0 in atoms["atoms, zeros"]
    assert np.isfinite(model.log_prob(frame)).all()
    drawn = model.sample(300, rng=0)
    assert drawn.schema == frame.schema and np.isfinite(model.log_prob(drawn)).all()
    for name in ("grid of tenths", "atoms, ceiling"):
        x = drawn[name].drop_nulls().to_numpy()
        np.testing.assert_array_equal(x, np.round(x, 1))
    if holes and isinstance(model, MADE):
        assert 0 < drawn.null_count().sum_horizontal()[0] < 12 * 300 / 3


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_numbers_of_a_density_have_no_atoms():
    """Rounded or not, of any of these shapes: none of 60 columns of 3000 rows has one."""
    from npgen.data import Schema
    rng = np.random.default_rng(1)
    draws = {"normal": rng.normal, "exponential": rng.exponential, "uniform": rng.random, "logistic": rng.logistic}
    frame = pl.DataFrame({f"{name}{decimals}{i}": np.round(draw(size=3000) * 100, decimals) for name, draw in draws.items()
                          for decimals in (0, 1, 9) for i in range(5)})
    model = Mixture(1, max_iter=1, random_state=0).fit(frame, columns=Schema.infer(frame))
    assert not [name for name, kind in zip(frame.columns, model.kinds_, strict=True) if kind == "atoms"]


def test_values_that_people_choose_are_atoms():
    """Minutes that are mostly multiples of five, and distances between a few places, each beside values that few have."""
    rng = np.random.default_rng(2)
    minutes = rng.integers(300, 1400, 4000)
    minutes = np.where(rng.random(4000) < 0.8, minutes // 5 * 5, minutes)
    places = rng.choice(rng.integers(0, 5000, 150), 4000)
    model = Mixture(1, max_iter=2, random_state=0).fit(pl.DataFrame({"minute": minutes, "miles": places}))
    heads = model.inner().parts["columns"].options
    assert len(heads[0].atoms) > 100 and (heads[0].atoms % 5 == 0).mean() > 0.9 and len(heads[1].atoms) > 130
    x = model.sample(4000, rng=0)
    assert abs((x["minute"] % 5 == 0).mean() - (minutes % 5 == 0).mean()) < 0.1 and np.isin(x["miles"], places).mean() > 0.9


def test_rare_levels_have_their_frequency():
    model, frame = fitted()
    head = model.inner().parts["columns"].options[2]
    assert head.levels[0].tolist() == list(range(6))
    own = np.exp([model.marginal(["pooled"]).log_prob(pl.DataFrame({"pooled": [level]}))[0] for level in "abcdef"])
    np.testing.assert_allclose(own.sum(), 1, rtol=1e-9)
    np.testing.assert_allclose(own[3:] / own[3:].sum(), np.array([1.5, 2.5, 2.5]) / 6.5, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. hidden")
def test_ordered_levels_lie_on_a_grid_of_ranks():
    rng = np.random.default_rng(0)
    order = ["low", "middle", "high", "top"]
    frame = pl.DataFrame({"grade": [order[i] for i in rng.choice(4, 300, p=[0.1, 0.4, 0.4, 0.1])], "x": rng.normal(size=300)})
    for make in (lambda: Mixture(2, random_state=0), lambda: MADE(hidden=(8,), order="any", max_epochs=3, random_state=0)):
        model = make().fit(frame, columns={"grade": order})
        each = np.array([model.condition({"x": 0.3}).log_prob(pl.DataFrame({"grade": [level]}, schema={
            "grade": frame.schema["grade"]}))[0] for level in order])
        np.testing.assert_allclose(np.exp(each).sum(), 1, rtol=1e-5)
        assert set(model.sample(50, rng=0)["grade"]) <= set(order) and model.measures_ == ["counting", "length"]


HOSTILE = {"too far apart": [1e308, -1e308, 3.0] * 20, "tiny": [k * 1e-310 for k in range(60)], "two": [1.5, 2.5] * 30,
           "one and gaps": [None, 5.0] * 30, "one whole and gaps": [None, 7] * 30, "a sentinel": [-9999.0, 1.25, 0.75] * 20,
           "far integers": [2**40 + 7919 * k for k in range(60)], "one that is not 0": [0] * 59 + [1000],
           "ends of logit": [0.0, 1.0] + [k / 61.7 for k in range(58)], "millionths": [k * k * 1e-6 for k in range(60)],
           "negative": [-(1.5 ** k) for k in range(60)], "a level each": [f"l{k % 30}" for k in range(60)]}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("make", [lambda: Mixture(2, max_iter=5, random_state=0), lambda: Mixture(
    2, max_iter=5, missing="model", random_state=0), lambda: MADE(hidden=(8,), max_epochs=2, random_state=0)],
    ids=["Mixture", "Mixture with states", "MADE"])
@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column", "ignore:fit. hidden")
def test_hostile_columns_are_fitted_or_refused_in_one_line(case, make):
    frame = pl.DataFrame({"x": HOSTILE[case], "y": ["a", "b"] * 30}, strict=False)
    if case == "too far apart":
        with pytest.raises(ValueError, match="fit: column 'x' has values too far apart for float64; divide it by a constant"):
            make().fit(frame)
        return
    model = make().fit(frame)
    assert np.isfinite(model.log_prob(frame)).all() and np.isfinite(model.log_prob(model.sample(60, rng=0))).all()
    assert np.isfinite(model.encode(frame)).all()
