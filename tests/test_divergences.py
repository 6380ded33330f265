"""Distances between distributions against closed forms, SciPy and one another.

A statistical test allows seven standard errors (2.6e-12 of a normal, 1e-6 of a mean of ten batches would need nine: 12 there).
"""
import math
import tracemalloc

import mutants
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_kernels import DTYPES

from npgen import Mixture, data, divergences, kernels, random
from npgen.divergences import pairs
from npgen.models import GaussianMixture
from npgen.models.base import Capabilities
from npgen.testing import check_grads

RNG = np.random.default_rng(0)
SIGMAS = 7
F_DIVERGENCES = "kl", "reverse_kl", "js", "chi2", "total_variation", "hellinger"
OF_BATCHES = 12  # Student's t of 9 degrees of freedom beyond: 8e-7


def normal(mean, variance=1.0):
    """The model of N(mean, variance I)."""
    mean = np.atleast_1d(np.asarray(mean, float))
    return GaussianMixture.from_parameters([1.0], [mean], [variance * np.eye(len(mean))])


def near(found, want, sigmas=SIGMAS):
    assert found.kind == "estimate" and abs(found.value - want) <= sigmas * found.standard_error + 1e-12, (found, want)
    assert found.standard_error < 0.2 * abs(want) + 0.05, "an error so large finds nothing"


# ---------------------------------------------------------------- densities

def normal_truths(m, v):
    """Divergences of N(0, 1) and N(m, v)."""
    def kl(m, v, w):  # KL(N(., w) || N(., v))
        return (w / v - 1 + m * m / v - math.log(w / v)) / 2
    h2 = 1 - math.sqrt(2 * math.sqrt(v) / (1 + v)) * math.exp(-m * m / (4 * (1 + v)))
    return {"kl": kl(m, v, 1), "reverse_kl": kl(m, 1, v), "hellinger": h2}


@pytest.mark.parametrize("m, v", [(0.0, 1.0), (0.7, 1.0), (-1.0, 2.5), (2.0, 0.6)])
def test_quadrature_gives_the_closed_forms_of_normals(m, v):
    p, q = normal(0), normal(m, v)
    truths = normal_truths(m, v)
    if v >= 1:
        truths["chi2"] = v / math.sqrt(2 * v - 1) * math.exp(m * m / (2 * v - 1)) - 1 if v != 1 else math.expm1(m * m)
    if v == 1:
        truths["total_variation"] = 2 * stats.norm.cdf(abs(m) / 2) - 1
    for name, want in truths.items():
        found = getattr(divergences, name)(p, q)
        assert found.kind == "estimate" and found.value == pytest.approx(want, abs=2e-5), name
        assert abs(found.value - want) < 10 * found.standard_error + 1e-4


@pytest.mark.parametrize("m, s, most", [(4.5, 1.0, 1e-9), (0.0, 1.3, 1e-9), (2.0, 1.3, 1e-4), (0.0, 1.41, 0.1),
                                        (0.0, 1.414, 1), (0.0, 1.4142, 5)])
@pytest.mark.parametrize("d", [1, 2])
def test_chi2_of_a_heavy_tail_is_as_far_off_as_it_says(m, s, most, d):
    """Of N(m, s^2) and N(0, 1), exp(m^2 / (2 - s^2)) / (s sqrt(2 - s^2)) - 1, most of which lies beyond all rows."""
    def normal(mean, std):
        return GaussianMixture.from_parameters([1.0], [[mean, 0.0][:d]], [np.diag([std**2, 1.0][:d])])

    found = divergences.chi2(normal(m, s), normal(0.0, 1.0))
    true = math.exp(m**2 / (2 - s**2)) / (s * math.sqrt(2 - s**2)) - 1
    assert abs(found.value - true) <= found.standard_error and found.standard_error < 10**(d - 1) * most * true
    assert not divergences.chi2(normal(0.0, 2.0), normal(0.0, 1.0)).standard_error < 1e300  # it is infinite


def test_two_columns_by_quadrature_and_three_by_samples():
    m = np.array([0.6, -0.3])
    assert divergences.kl(normal([0, 0]), normal(m)).value == pytest.approx(m @ m / 2, abs=1e-4)
    m = np.array([0.6, -0.3, 0.4])
    near(divergences.kl(normal([0, 0, 0]), normal(m)), m @ m / 2)
    near(divergences.reverse_kl(normal([0, 0, 0]), normal(m, 2.0)), (3 * (2 - 1) + m @ m - 3 * math.log(2)) / 2)
    near(divergences.hellinger(normal([0, 0, 0]), normal(m)), -math.expm1(-m @ m / 8))
    near(divergences.chi2(normal([0, 0, 0]), normal(m)), math.expm1(m @ m))
    near(divergences.total_variation(normal([0, 0, 0]), normal(m)), 2 * stats.norm.cdf(np.sqrt(m @ m) / 2) - 1)


class Bits:
    """Independent bits of probabilities t."""

    def __init__(self, t):
        self.t = np.asarray(t)

    def log_prob(self, x):
        with np.errstate(divide="ignore"):
            return np.where(x == 1, np.log(self.t), np.log(1 - self.t)).sum(axis=1)

    def sample(self, n, rng=None):
        return (random.as_stream(rng).uniform((n, len(self.t))) < self.t).astype(float)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0.02, 0.98), st.floats(0.02, 0.98)), min_size=1, max_size=4))
def test_over_states_they_are_exact_and_obey_the_inequalities(pairs_of_bits):
    a, b = np.transpose(pairs_of_bits)
    p, q = Bits(a), Bits(b)
    d = {name: getattr(divergences, name)(p, q) for name in F_DIVERGENCES}
    assert all(each.kind == "exact" for each in d.values())
    d = {name: each.value for name, each in d.items()}
    assert d["kl"] == pytest.approx((a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).sum(), abs=1e-12)
    assert d["reverse_kl"] == pytest.approx(divergences.kl(q, p).value, abs=1e-12)
    assert d["chi2"] == pytest.approx(np.prod(a * a / b + (1 - a) ** 2 / (1 - b)) - 1, rel=1e-9, abs=1e-12)
    assert d["hellinger"] == pytest.approx(1 - np.prod(np.sqrt(a * b) + np.sqrt((1 - a) * (1 - b))), abs=1e-12)
    slack = 1e-12
    assert d["total_variation"] <= math.sqrt(d["kl"] / 2) + slack  # Pinsker
    assert d["hellinger"] <= d["total_variation"] + slack and d["total_variation"] <= math.sqrt(2 * d["hellinger"]) + slack
    assert d["kl"] <= math.log1p(d["chi2"]) + slack
    assert -slack <= d["js"] <= math.log(2) + slack and d["js"] <= d["total_variation"] * math.log(2) + slack
    # exact sums agree with an independent one
    states = np.array(np.meshgrid(*[[0.0, 1.0]] * len(a))).reshape(len(a), -1).T
    u, v = np.exp(p.log_prob(states)), np.exp(q.log_prob(states))
    assert d["total_variation"] == pytest.approx(np.abs(u - v).sum() / 2, abs=1e-12)
    m = (u + v) / 2
    assert d["js"] == pytest.approx((u @ np.log(u / m) + v @ np.log(v / m)) / 2, abs=1e-12)


def test_a_density_that_vanishes_where_the_other_does_not():
    p, q = Bits([1.0]), Bits([0.5])
    assert divergences.kl(p, q).value == pytest.approx(math.log(2)) and divergences.kl(q, p).value == math.inf
    assert divergences.js(p, Bits([0.0])).value == pytest.approx(math.log(2))
    for distance in (divergences.total_variation, divergences.hellinger):
        assert distance(p, Bits([0.0])).value == pytest.approx(1, abs=1e-12)


def test_states_that_are_given_and_models_that_are_fitted():
    x = data.moons(400).round()
    model = Mixture(2, heads=["categorical", "categorical"], random_state=0).fit(x)
    other = Mixture(1, heads=["categorical", "categorical"], random_state=0).fit(x)
    axes = [np.unique(column) for column in x.T]
    states = np.array(np.meshgrid(*axes)).reshape(2, -1).T
    found = divergences.kl(model, other, states=states)
    p, q = np.exp(model.log_prob(states)), np.exp(other.log_prob(states))
    assert found.kind == "exact" and found.value == pytest.approx(p @ np.log(p / q), rel=1e-9) and found.value > 0


class Rough:
    """A model whose density is an estimate."""

    capabilities = Capabilities("estimate", "none", invertible=False)

    def __init__(self, model):
        self.log_prob, self.sample = model.log_prob, model.sample


def test_of_a_density_that_is_an_estimate_the_error_is_unknown():
    """By states, by quadrature, by samples, by scores; and values are those of the density that it takes for its own."""
    of_bits, x = (Bits([0.3, 0.4]), Bits([0.5, 0.4])), RNG.normal(size=(50, 2))
    for f, p, q in ((divergences.kl, *of_bits), (divergences.js, normal(0), normal(1)),
                    (divergences.kl, normal([0, 0, 0]), normal([1, 0, 0])),
                    (divergences.kernel_stein_discrepancy, x, normal([0, 0])),
                    (divergences.fisher_divergence, normal([0, 0]), normal([1, 0]))):
        sure, rough = f(p, q), f(p, Rough(q))
        assert rough.value == sure.value and rough.kind == "estimate" and math.isnan(rough.standard_error), f


def test_frames_are_their_numbers():
    """Rows, and models that were fitted to them."""
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    x, y = RNG.normal(size=(60, 2)), RNG.normal(size=(50, 2)) + 0.5
    frames = [pd.DataFrame(rows, columns=["a", "b"]) for rows in (x, y)]
    fits = [[GaussianMixture(1, random_state=0).fit(rows) for rows in both] for both in ((x, y), frames)]
    for name in ("energy_distance", "mmd2", "sliced_wasserstein", "coverage"):
        ask = getattr(divergences, name)
        assert ask(*frames) == ask(x, y) and ask(frames[0], fits[1][1]) == ask(x, fits[0][1]), name
    for name in (*F_DIVERGENCES, "fisher_divergence"):
        ask = getattr(divergences, name)
        assert ask(*fits[1]).value == pytest.approx(ask(*fits[0]).value, rel=1e-9), name
    found, want = (divergences.kernel_stein_discrepancy(*both) for both in ((frames[0], fits[1][0]), (x, fits[0][0])))
    assert found.value == pytest.approx(want.value, rel=1e-9)
    other = frames[0][["b", "a"]]
    for ask in (lambda: divergences.energy_distance(other, frames[1]), lambda: divergences.coverage(other, fits[1][0]),
                lambda: divergences.kernel_stein_discrepancy(other, fits[1][0]),
                lambda: divergences.kl(GaussianMixture(1).fit(other), fits[1][1]),
                lambda: divergences.fisher_divergence(GaussianMixture(1).fit(other), fits[1][1])):
        with pytest.raises(ValueError, match=r"p has columns \['b', 'a'\], but q has \['a', 'b'\]; pass both in one order"):
            ask()


# ---------------------------------------------------------------- rows

@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_of_one_column_they_are_scipys(seed, n, m, weighted):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n).round(1), 2 * rng.normal(size=m).round(1) + 1
    u, v = (rng.random(n) + 0.1, rng.random(m) + 0.1) if weighted else (None, None)
    p, q, how = x[:, None], y[:, None], {"p_weights": u, "q_weights": v}
    w1 = divergences.wasserstein_1d(p, q, **how)
    assert w1.kind == "exact" and w1.value == pytest.approx(stats.wasserstein_distance(x, y, u, v), rel=1e-9, abs=1e-12)
    energy = divergences.energy_distance(p, q, **how)
    assert energy.kind == "exact"
    assert energy.value == pytest.approx(stats.energy_distance(x, y, u, v) ** 2, rel=1e-9, abs=1e-9)
    assert divergences.sliced_wasserstein(p, q, order=1, **how).value == pytest.approx(w1.value, rel=1e-9, abs=1e-12)


def test_wasserstein_of_more_mass_is_of_repeated_rows():
    x, y, w = RNG.normal(size=(20, 3)), RNG.normal(size=(30, 3)), RNG.integers(1, 4, 20)
    repeated = np.repeat(x, w, axis=0)
    for distance in (divergences.energy_distance, divergences.sliced_wasserstein, divergences.mmd2):
        how = {"scales": 1.3} if distance is divergences.mmd2 else {}
        assert distance(x, y, p_weights=w, **how).value == pytest.approx(distance(repeated, y, **how).value, rel=1e-9)
        assert distance(x, x, **how).value == pytest.approx(0, abs=1e-12) and distance(x, x + 1, **how).value > 0.01


@pytest.mark.parametrize("d", [2, 5])
def test_of_normals_they_have_closed_forms(d):
    m, scale = np.linspace(0.5, 1.5, d), 1.7
    p, q = normal(np.zeros(d)), normal(m)
    c = (scale**2 / (scale**2 + 2)) ** (d / 2)
    near(divergences.mmd2(p, q, scales=scale), 2 * c * -math.expm1(-m @ m / (2 * (scale**2 + 2))), OF_BATCHES)
    near(divergences.mmd2(p, p, scales=scale), 0.0, OF_BATCHES)
    far = divergences.energy_distance(p, normal(100 * m))
    apart = 2 * math.gamma((d + 1) / 2) / math.gamma(d / 2)  # E|x - x'|
    assert far.value == pytest.approx(200 * np.sqrt(m @ m) - 2 * apart, rel=0.01)
    near(divergences.energy_distance(p, p), 0.0, OF_BATCHES)
    drawn = divergences.sliced_wasserstein(p, q, n_directions=50)
    assert abs(drawn.value - m @ m / d) < OF_BATCHES * drawn.standard_error + 0.05 and drawn.standard_error < 0.1


def test_sliced_wasserstein_of_rows_that_are_moved():
    """By a vector m every slice is moved by <u, m>, whose mean square is |m|^2 / d."""
    x, m = RNG.normal(size=(50, 5)), np.array([1.0, 2.0, -1.0, 0.5, 0.0])
    near(divergences.sliced_wasserstein(x, x + m, n_directions=5000), m @ m / 5)


def test_a_drawn_row_is_no_pair_with_itself():
    class Known:
        def sample(self, n, rng=None):
            return np.resize(y, (n, 2))

    x, y = RNG.normal(size=(7, 2)), RNG.normal(size=(20, 2))
    for distance, k, at_zero in (
            (divergences.energy_distance, lambda r: -r, 0.0),
            (lambda *both, **how: divergences.mmd2(*both, scales=[0.5, 2.0], **how),
             lambda r: np.exp(-2 * r * r) + np.exp(-r * r / 8), 2.0)):
        of_x, of_y, across = (k(np.sqrt(np.square(a[:, None] - b).sum(axis=2))) for a, b in ((x, x), (y, y), (x, y)))
        want = of_x.mean() + (of_y.sum() - 20 * at_zero) / (20 * 19) - 2 * across.mean()
        found = distance(x, Known(), n_samples=200)
        assert found.value == pytest.approx(want, rel=1e-9) and found.kind == "estimate"


DENSITIES = "Stein", "Fisher", "KL"  # whose memory is the mixture's


def test_memory_is_like_rows_not_like_pairs_and_bits_do_not_depend_on_threads():
    """Of 6,000 and 5,000 rows less than 4 MB, where a matrix of the pairs would take 240."""
    x, y, q = RNG.normal(size=(6000, 3)), RNG.normal(size=(5000, 3)) + 0.3, normal([0, 0, 0])
    asked = {"energy": lambda: divergences.energy_distance(x, y), "mmd": lambda: divergences.mmd2(x, y, scales=1),
             "sliced": lambda: divergences.sliced_wasserstein(x, y, n_directions=20),
             "one column": lambda: divergences.wasserstein_1d(x[:, :1], y[:, :1]),
             "coverage": lambda: divergences.coverage(x, y),
             "Stein": lambda: divergences.kernel_stein_discrepancy(x, q),
             "Fisher": lambda: divergences.fisher_divergence(q, q, n_samples=6000), "KL": lambda: divergences.kl(q, q)}
    before = numba.get_num_threads()
    for name, ask in asked.items():
        whole = ask()
        tracemalloc.start()
        try:
            numba.set_num_threads(1)
            assert ask() == whole, name
            assert tracemalloc.get_traced_memory()[1] < (8e6 if name in DENSITIES else 4e6), name
        finally:
            numba.set_num_threads(before)
            tracemalloc.stop()


def test_coverage_is_one_of_the_rows_themselves_and_falls_as_they_go():
    x = RNG.normal(size=(200, 2))
    assert divergences.coverage(x, x).value == pytest.approx(1, abs=1e-12) and divergences.coverage(x, x + 50).value == 0
    half = np.where(np.arange(200) < 100, 0.0, 100.0)[:, None] + x
    assert divergences.coverage(half, x).value == pytest.approx(0.5, abs=0.1)
    assert divergences.coverage(half, x, p_weights=np.arange(200) < 100).value > 0.9
    r = np.sqrt(np.square(x[:, None] - x).sum(axis=2))
    y = RNG.normal(size=(100, 2)) * 2
    want = np.mean(np.sqrt(np.square(x[:, None] - y).sum(axis=2)).min(axis=1) <= np.sort(r, axis=1)[:, 3])
    assert divergences.coverage(x, y, k=3).value == pytest.approx(want)
    assert divergences.coverage(x, normal([0, 0])).value > 0.9


# ---------------------------------------------------------------- scores

def test_fisher_divergence_of_normals():
    near(divergences.fisher_divergence(normal([0, 0]), normal([1.0, -0.5], 2.0)), (2 * 0.25) + 1.25 / 4)
    assert divergences.fisher_divergence(normal([0, 0]), normal([0, 0])).value < 1e-20


def test_scores_in_parts_are_those_of_all_rows():
    """More rows than are taken at once: between N(0, 1) and N(m, v) the mean of ((m - x) / v + x)^2 over the rows drawn."""
    p, q, n = normal(0), normal(0.7, 2.0), 10_000
    x = p.sample(n, rng=0)[:, 0].astype(np.float64)
    found = divergences.fisher_divergence(p, q, n_samples=n, rng=0)
    assert found.value == pytest.approx(np.mean(((0.7 - x) / 2 + x) ** 2), rel=1e-9)


def test_stein_discrepancy_is_zero_of_the_models_own_rows_alone():
    """Stein's identity: E_p u(x, x') = 0 where p = q; by pairs of the formula, of rows with weights too."""
    q = GaussianMixture.from_parameters([0.4, 0.6], [[0.0, 0.0], [2.0, 1.0]], np.stack([np.eye(2), np.eye(2) / 2 + 0.1]))
    near(divergences.kernel_stein_discrepancy(q, q, n_samples=4000), 0.0, OF_BATCHES)
    moved = divergences.kernel_stein_discrepancy(q.sample(500, rng=0) + 0.5, q)
    assert moved.kind == "exact" and moved.value > 0.1
    other = normal([0.3, 0.0])
    found = divergences.kernel_stein_discrepancy(other, normal([0, 0]), scale=1.0, n_samples=8000)
    near(found, 0.09 * 1 / (1 + 2) ** 1, OF_BATCHES)  # |m|^2 E k, for scores that differ by m everywhere
    x, w, h = RNG.normal(size=(6, 2)), RNG.random(6), 0.8
    s, u = -x, np.empty((6, 6))
    for i in range(6):
        for j in range(6):
            apart = x[i] - x[j]
            k = np.exp(-apart @ apart / (2 * h * h))
            u[i, j] = k * (s[i] @ s[j] + (s[i] - s[j]) @ apart / h**2 + 2 / h**2 - apart @ apart / h**4)
    w = w / w.sum()
    got = divergences.kernel_stein_discrepancy(x, normal([0, 0]), scale=h, p_weights=w).value
    assert got == pytest.approx(w @ u @ w, rel=1e-6)


# ---------------------------------------------------------------- as objectives, by pairs

@DTYPES
def test_sums_over_pairs_have_the_derivatives_of_their_formulas(dtype):
    x, y, w, scales = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3)), RNG.random(4), np.array([0.7, 2.0])
    y[1] = x[2] + 0.3
    for f in (pairs.distances, lambda x, y, w: pairs.gaussians(x, y, w, scales)):
        check_grads(f, x, y, w, order=2)
    for f in (pairs.distances_within, lambda y, w: pairs.gaussians_within(y, w, scales)):
        check_grads(f, y, w, order=2)
        check_grads(lambda y, f=f: f(y, w), y, order=1)  # by the kernel
    for op, args, more in ((pairs.distances, (x, y, w), ()), (pairs.gaussians, (x, y, w), (scales.astype(dtype),)),
                           (pairs.distances_within, (y, w), ()), (pairs.gaussians_within, (y, w), (scales.astype(dtype),))):
        args = *(a.astype(dtype) for a in args), *more
        with kernels.using("reference"):
            want = op(*args)
        np.testing.assert_allclose(op(*args), want, rtol=1e-5)


# ---------------------------------------------------------------- what is refused

BAD = {
    "widths": (lambda: divergences.energy_distance(np.zeros((3, 2)), np.zeros((3, 1))), "p has 2 columns, but q has 1"),
    "weights of a model": (lambda: divergences.mmd2(normal(0), np.zeros((3, 1)), p_weights=[1]), "p_weights are of rows"),
    "scales": (lambda: divergences.mmd2(np.zeros((3, 2)), np.ones((3, 2)), scales=0), "scales must be positive"),
    "columns": (lambda: divergences.wasserstein_1d(np.zeros((3, 2)), np.zeros((3, 2))), "pass one, or ask for sliced"),
    "order": (lambda: divergences.sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 2)), order=0.5), "order must be"),
    "n_samples": (lambda: divergences.mmd2(normal(0), normal(0), n_samples=5), "n_samples must be at least 20, got 5"),
    "k": (lambda: divergences.coverage(np.zeros((3, 2)), np.zeros((3, 2))), "p has 3 rows, but needs more than k=5"),
    "a model for rows": (lambda: divergences.coverage(normal(0), np.zeros((3, 1))), "p must be rows"),
    "widths of models": (lambda: divergences.kl(normal(0), normal([0, 0])), "p has 1 columns, but q has 2"),
    "samples of a score": (lambda: divergences.fisher_divergence(normal(0), normal(0), n_samples=1),
                           "n_samples must be at least 2"),
    "a scale": (lambda: divergences.kernel_stein_discrepancy(np.ones((9, 1)), normal(0), scale=-1), "scale must be a positive"),
    "no rows": (lambda: divergences.energy_distance(np.zeros((0, 2)), np.zeros((3, 2))), "at least 1 rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_named(name):
    ask, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [np.zeros((30, 1)), [[0.0], [1.0]], data.Table(np.zeros((30, 1)), ["a"])],
                         ids=lambda rows: type(rows).__name__)
def test_rows_are_no_model(rows):
    """What asks for a density or a score says so, of either side."""
    for name in (*F_DIVERGENCES, "fisher_divergence", "kernel_stein_discrepancy"):
        for both in ((rows, normal(0)),) * (name != "kernel_stein_discrepancy") + ((normal(0), rows),):
            with pytest.raises(TypeError, match="^[a-z0-9_]+: [pq] must be a model with .*log_prob.*, got a") as caught:
                getattr(divergences, name)(*both)
            assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- mistakes that the laws find

def states_law():
    test_over_states_they_are_exact_and_obey_the_inequalities.hypothesis.inner_test([(0.3, 0.6), (0.9, 0.4)])


def scipy_law():
    test_of_one_column_they_are_scipys.hypothesis.inner_test(3, 12, 17, True)


def fails_without_an_error(law):
    """What should have been refused was not."""
    try:
        law()
    except pytest.fail.Exception:
        raise AssertionError from None


heavy_law = test_chi2_of_a_heavy_tail_is_as_far_off_as_it_says
MUTANTS = {
    "KL upside down": ("divergences.densities:kl", "a * t, 0)", "-a * t, 0)", states_law),
    "KL of the other way": ("divergences.densities:reverse_kl", "kl(q, p", "kl(p, q", states_law),
    "chi-square by p": ("divergences.densities:chi2", "(a - b) ** 2 / b", "(a - b) ** 2 / a", states_law),
    "total variation without its half": ("divergences.densities:total_variation", "np.abs(a - b) / 2", "np.abs(a - b)",
                                         states_law),
    "Hellinger: no root": ("divergences.densities:hellinger", "(np.sqrt(a) - np.sqrt(b))", "(a - b)", states_law),
    "JS of p alone": ("divergences.densities:js", "_x_log_x(b, np.log(2) - np.logaddexp(0, t))",
                      "_x_log_x(a, np.log(2) - np.logaddexp(0, -t))", states_law),
    "a grid whose cells have no size": ("divergences.densities:_on_grid", "* widths.prod(axis=1)", "",
                                        lambda: test_quadrature_gives_the_closed_forms_of_normals(0.7, 1.0)),
    "a grid without tails": ("divergences.densities:_cells", "beyond = ", "beyond = 0 *",
                             lambda: heavy_law(2.0, 1.3, 1e-4, 1)),
    "tails of the width of the range": ("divergences.densities:_cells", "factor ** np.arange(1, n + 1)", "np.ones(n)",
                                        lambda: heavy_law(0.0, 1.41, 0.1, 1)),
    "what lies outside is no error": ("divergences.densities:_divergence", "abs(fine - coarse) + outer", "abs(fine - coarse)",
                                      lambda: heavy_law(0.0, 1.4142, 5, 1)),
    "energy distance: sign": ("divergences.rows:energy_distance", "-pairs.distances", "pairs.distances", scipy_law),
    "energy distance: cross term once": ("divergences.rows:_of_kernel", "- 2 * (u", "- (u", scipy_law),
    "MMD: kernels twice as wide": ("divergences.rows:mmd2", "gaussians(x, y, w, scales)", "gaussians(x, y, w, 2 * scales)",
                                   lambda: test_of_normals_they_have_closed_forms(2)),
    "drawn rows are pairs with themselves": ("divergences.rows:_of_kernel", "if drawn else total", "if False else total",
                                             test_a_drawn_row_is_no_pair_with_itself),
    "Wasserstein: weights are not looked at": ("divergences.rows:_in_order", "axis=1), w[at]", "axis=1), 0 * w[at] + 1",
                                               scipy_law),
    "sliced: directions of no length": ("divergences.rows:sliced_wasserstein",
                                        "directions /= np.sqrt(np.square(directions).sum(axis=0))", "pass",
                                        test_sliced_wasserstein_of_rows_that_are_moved),
    "a row is its own first neighbour": ("divergences.rows:coverage", "k + 1)[:, k]", "k)[:, k - 1]",
                                         test_coverage_is_one_of_the_rows_themselves_and_falls_as_they_go),
    "nearest: another order": ("kernels.pairwise:_nearest_reference", "squares = np.sort(", "squares = (lambda a, axis: a)(",
                               test_coverage_is_one_of_the_rows_themselves_and_falls_as_they_go),
    "transport: the weights of one for both": ("kernels.transport:_reference", "for w in (u, v)", "for w in (u, 0 * v + 1)",
                                               scipy_law),
    "Stein kernel without its trace": ("kernels.pairwise:_stein_reference", "rate * x.shape[1] - rate**2 * square", "0",
                                       test_stein_discrepancy_is_zero_of_the_models_own_rows_alone),
    "Stein kernel: sign of the score": ("divergences.scores:score_of", "grad(lambda x: np.sum(", "grad(lambda x: -np.sum(",
                                        test_stein_discrepancy_is_zero_of_the_models_own_rows_alone),
    "names of columns are not looked at": ("divergences.base:check_names", "known[0] != known[1]", "False",
                                           lambda: fails_without_an_error(test_frames_are_their_numbers)),
    "an estimate is sure of itself": ("divergences.base:by_densities", "found if exact else", "found if True else",
                                      test_of_a_density_that_is_an_estimate_the_error_is_unknown),
    "scores of the first rows alone": ("divergences.scores:_scores", "x[i:i + ROWS]", "x[:ROWS][:len(x) - i]",
                                       lambda: test_scores_in_parts_are_those_of_all_rows()),
    "Fisher divergence without the square": ("divergences.scores:fisher_divergence", "np.square(", "np.abs(",
                                             test_fisher_divergence_of_normals),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = MUTANTS[name]
    with mutants.Mutant(name, "", where, old, new).made(), np.errstate(all="ignore"), pytest.raises(AssertionError):
        law()


@pytest.mark.parametrize("n", [7, 49, 500, 1797])
def test_coverage_of_all_and_of_none_is_exact(n):
    """1, not .9999999999999973, and 0; with weights, too, of which some are 0."""
    x, weights = np.random.default_rng(n).normal(size=(n, 2)), np.random.default_rng(1).random(n) * (np.arange(n) % 5 > 0)
    for p_weights in None, weights:
        assert divergences.coverage(x, x, p_weights=p_weights).value == 1
        assert divergences.coverage(x, x + 1e3, p_weights=p_weights).value == 0
