"""Grids that are cut at their bounds, and draws that keep to the values that were seen."""
import datetime
import warnings

import mutants
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

import npgen
from npgen import MADE, Mixture
from npgen.heads import Atoms, Grid, Mapped, MixtureOfNormals, Normal, Scale, from_config
from npgen.random import Stream
from npgen.testing import check_grads

ALARM = 1e-6  # of a statistical test, per case
LINE, PEAKS = Normal(limit=None), MixtureOfNormals(2)
WIDE, LOG = Scale("linear", 4.0, 2.0), Scale("log", 1.0, 0.7, -1.0)
CUT = {"below": Grid(LINE, low=0, scale=WIDE, ends="cut"), "above": Grid(LINE, 0.5, high=6.0, scale=WIDE, ends="cut"),
       "on both sides": Grid(LINE, low=0, high=9, scale=WIDE, ends="cut"),
       "a logarithm": Grid(LINE, low=0, scale=LOG, ends="cut"),
       "peaks below": Grid(PEAKS, low=0, scale=WIDE, ends="cut"),
       "peaks on both sides": Grid(PEAKS, low=0, high=9, scale=WIDE, ends="cut")}
NORMALS = [name for name in CUT if "peaks" not in name]
cases, normals = pytest.mark.parametrize("name", CUT), pytest.mark.parametrize("name", NORMALS)


def outputs_of(head, n=6, seed=0, far=1.0):
    """Outputs (n, j) float64, of which some means lie beyond the ends."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(n, head.n_outputs(1))) * 0.8
    means = slice(2, 4) if head.base is PEAKS else slice(0, 1)
    outputs[:, means] *= 4 * far
    return np.minimum(outputs, 1) if head.scale is LOG else outputs  # of which all values can be listed


def values_of(head):
    """All values that have a mass above rounding, (c, 1)."""
    first = 0 if head.low is not None else -300
    last = round(head.high / head.step) if head.high is not None else 40_000 if head.scale is LOG else 400
    return (head.step * np.arange(first, last + 1))[:, None]


def reference(head, outputs):
    """log P (n, c) of values_of, the slow way: differences of SciPy's log_ndtr, on the side of the tail, over all of them."""
    x = values_of(head)[:, 0]
    edges = np.append(x - head.step / 2, x[-1] + head.step / 2)
    y = np.log(edges - head.scale.low) if head.scale is LOG else edges
    y = (y - head.scale.centre) / head.scale.width
    y[0], y[-1] = y[0] if head.low is not None else -np.inf, y[-1] if head.high is not None else np.inf
    log_weights, mean, log_var = (a[:, 0] for a in head.base.components(outputs))
    z = (y - mean[..., None]) / np.exp(log_var / 2)[..., None]
    up = z[..., :-1] > 0
    high, low = np.where(up, -z[..., :-1], z[..., 1:]), np.where(up, -z[..., 1:], z[..., :-1])
    top = special.log_ndtr(high)
    with np.errstate(divide="ignore"):
        each = log_weights[..., None] + top + np.log(-np.expm1(special.log_ndtr(low) - top))
    total = special.logsumexp(each, axis=1)
    return total - special.logsumexp(total, axis=-1, keepdims=True)


# ---------------------------------------------------------------- density

@cases
@pytest.mark.parametrize("far", [1.0, 12.0])
def test_masses_are_those_of_what_lies_inside(name, far):
    head = CUT[name]
    outputs, x = outputs_of(head, far=far), values_of(head)
    want = reference(head, outputs)
    found = np.stack([head.log_prob(x, row[None].repeat(len(x), axis=0)) for row in outputs])
    likely = want > -300
    likely[:, -1] &= head.high is not None  # which has all beyond it here
    np.testing.assert_allclose(found[likely], want[likely], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-9)
    mean = np.exp(want) @ x[:, 0]
    variance = np.array([p @ np.square(x[:, 0] - m) for p, m in zip(np.exp(want), mean, strict=True)])
    if head.scale is not LOG:  # of which cells stand for several
        np.testing.assert_allclose(head.mean(outputs)[:, 0], mean, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(head.variance(outputs)[:, 0], variance, rtol=1e-6, atol=1e-9)
    some = (x[:, 0] >= 0.7) & (x[:, 0] <= 4.2)
    np.testing.assert_allclose(head.log_mass(np.array([0.7]), np.array([4.2]), outputs)[:, 0],
                               special.logsumexp(want[:, some], axis=1), rtol=1e-8, atol=1e-8)
    whole = head.log_mass(np.array([-np.inf]), np.array([np.inf]), outputs)
    np.testing.assert_allclose(whole, 0, atol=1e-9)


@cases
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_is_that_of_finite_differences(name, dtype):
    head = CUT[name]
    outputs = outputs_of(head).astype(dtype)
    x = values_of(head)[[0, 1, 3, 5, 8, 9]].astype(dtype)
    assert head.log_prob(x, outputs).dtype == dtype
    if dtype == np.float64:
        check_grads(lambda o: head.log_prob(x, o), outputs)
        below = np.array(head.log_prob(x, outputs - 1e-5)), np.array(head.log_prob(x, outputs + 1e-5))
        assert np.isfinite(below).all()


@normals
def test_rows_under_components_are_what_a_row_is(name):
    head = CUT[name]
    outputs, x = outputs_of(head), values_of(head)[:8]
    found = head.log_prob_each(x, outputs)
    np.testing.assert_allclose(found, head.log_prob(x[:, None], outputs), rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(head.log_prob_each(np.array([[np.nan]]), outputs), 0)
    pooled = outputs[:1] * [0.1, 1]
    around = head.around(x, pooled)
    np.testing.assert_allclose(head.log_prob_around(x, pooled), np.diag(head.log_prob_each(x, around)), rtol=1e-9, atol=1e-9)


def test_a_file_of_before_means_what_it_did():
    """A grid that says nothing of its ends is open, to the bit, in its density, its moments and its draws."""
    config = {"head": "grid", "base": {"head": "normal", "limit": None}, "scale": list(WIDE.config()), "low": 0, "high": 9}
    head, outputs, x = from_config(config), outputs_of(CUT["below"]), np.arange(10.0)[:, None]
    assert head.ends == "open" and head.span is None and head.config() == config
    y = (np.arange(11) - 0.5 - WIDE.centre) / WIDE.width
    y[0], y[-1] = -1e100, 1e100
    for row in outputs:
        want = LINE.log_cell(y[:-1, None], y[1:, None], row[None].repeat(10, axis=0))[:, 0]
        np.testing.assert_array_equal(head.log_prob(x, row[None].repeat(10, axis=0)), want)
    assert head.moments(x, np.ones((10, 6)), outputs)[0].tolist() == [[10.0]] * 6
    noise = head.noise(Stream(0), (6, 1), np.float64)
    want = np.clip(np.rint(WIDE.to_data(LINE.sample(noise, outputs))), 0, 9)
    np.testing.assert_array_equal(head.sample(noise, outputs), want)
    with_all = Grid(LINE, low=0, high=9, scale=WIDE, ends="cut", span=(1, 7))
    assert from_config(with_all.config()).config() == with_all.config() and with_all.config()["ends"] == "cut"
    mapped = Mapped(LINE, LOG, span=(1.0, 7.0))
    assert from_config(mapped.config()).config() == mapped.config() and "span" not in Mapped(LINE, LOG).config()


@pytest.mark.parametrize("wrong", [{"ends": "shut"}, {"span": (3, 1)}, {"span": 3}, {"span": (0, np.inf)}, {"span": "ab"}])
def test_what_are_no_ends_and_no_span_is_one_line(wrong):
    with pytest.raises(ValueError, match=f"^Grid: {next(iter(wrong))} must be .*, got ") as caught:
        Grid(LINE, **wrong)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- EM

DRAWS = {"geometric": lambda rng, n: rng.geometric(0.05, n) - 1.0, "uniform": lambda rng, n: rng.integers(0, 30, n),
         "counts": lambda rng, n: rng.poisson(3, n), "heavy": lambda rng, n: np.floor(rng.pareto(1.5, n) * 5),
         "half a normal": lambda rng, n: np.floor(np.abs(rng.normal(size=n)) * 3)}


@settings(max_examples=25)
@given(what=st.sampled_from(list(DRAWS)), both=st.booleans(), k=st.integers(1, 3), holes=st.sampled_from([0, 0.2]),
       seed=st.integers(0, 10**6))
@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_em_never_decreases(what, both, k, holes, seed):
    """Weighted rows with holes; also where the likeliest mean lies infinitely far outside."""
    rng = np.random.default_rng(seed)
    x = DRAWS[what](rng, 150).astype(float)[:, None]
    x, high = (np.minimum(x, 29), 29) if both else (x, None)
    x = np.where(rng.random(x.shape) < holes, np.nan, x)
    x[0] = 0
    head = Grid(LINE, low=0, high=high, scale=Scale("linear", 5.0, 10.0), ends="cut")
    model = Mixture(k, heads=[head, "normal"], reg_covar=0, smoothing=0, tol=1e-7, max_iter=150, random_state=seed)
    rows, weights = np.column_stack([x, rng.normal(size=150)]), rng.random(150)
    model.fit(rows, sample_weight=weights)
    if not model.fit_report_["reseeded"]:
        assert np.diff(model.lower_bounds_).min(initial=0) >= -1e-9
    assert model.lower_bound_ == pytest.approx(model.score(rows, sample_weight=weights), abs=1e-9)
    assert np.isfinite(model.log_prob(rows)).all() and np.isfinite(model.sample(50, rng=0)).all()


@normals
def test_one_cut_normal_is_fitted_by_its_exact_likelihood(name):
    head, rng = CUT[name], np.random.default_rng(3)
    values = values_of(head)[:, 0]
    values = values[:10] if head.low is not None else values[-10:]
    x = rng.choice(values, 400, p=stats.binom.pmf(np.arange(10), 9, 0.3))[:, None]
    model = Mixture(1, heads=[head], tol=0.0, max_iter=3000, smoothing=0, reg_covar=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", npgen.ConvergenceWarning)
        model.fit(x)
    best = optimize.minimize(lambda o: -head.log_prob(x, np.tile(o, (len(x), 1))).sum(), [0.0, 0.0], tol=1e-12)
    assert model.score(x) == pytest.approx(-best.fun / len(x), abs=1e-8)


@normals
@pytest.mark.parametrize("smoothing", [0, 0.01])
def test_a_step_from_what_is_expected_moves_nothing(name, smoothing):
    """Moments of rows as the components have them are those that expected_moments says, and give the components back."""
    head, n = CUT[name], np.array([0.5, 0.3, 0.2])
    outputs, pooled = outputs_of(head, 3, seed=2), np.array([[0.3, 0.4]])
    moments = head.expected_moments(outputs, n, pooled, smoothing)
    np.testing.assert_allclose(head.maximise(moments, outputs, pooled, smoothing), outputs, rtol=1e-9, atol=1e-9)
    if not smoothing:
        x, p = values_of(head), np.exp(reference(head, outputs))
        np.testing.assert_allclose(head.moments(x, n * p.T, outputs), moments, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- draws

SPANS = {name: head for name, head in CUT.items()} | {
    "a span": Grid(LINE, scale=WIDE, span=(1.0, 7.0)), "peaks in a span": Grid(PEAKS, scale=WIDE, span=(1.0, 7.0)),
    "cut, in a span": Grid(LINE, low=0, scale=WIDE, ends="cut", span=(0.0, 7.0)),
    "open, in a span": Grid(LINE, low=0, scale=WIDE, span=(0.0, 7.0))}


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("far", [1.0, 12.0])
def test_draws_have_the_frequencies_of_what_lies_inside(name, far):
    """Pearson's chi-square of 20,000 draws of each of 6 outputs; all that lie beyond the span are none."""
    head, n = SPANS[name], 20_000
    outputs = outputs_of(head, far=far)
    x = values_of(head)
    noise = head.noise(Stream(4), (n, 1), np.float64)
    for row in outputs:
        drawn = head.sample(noise, row[None])[:, 0]
        inside = x[:, 0] == x[:, 0] if head.span is None else (head.span[0] <= x[:, 0]) & (x[:, 0] <= head.span[1])
        log_p = head.log_prob(x[inside], row[None].repeat(inside.sum(), axis=0))
        p, counts = np.exp(log_p - special.logsumexp(log_p)), (drawn[:, None] == x[inside, 0]).sum(axis=0)
        assert counts.sum() == n
        often = n * p >= 5
        p, counts = (np.append(a[often], a[~often].sum()) for a in (p, counts))
        kept = p * n > 1
        assert counts[~kept].sum() < 12
        if kept.sum() > 1:
            assert stats.chisquare(counts[kept], counts[kept].sum() * p[kept] / p[kept].sum()).pvalue > ALARM / 6
        assert head.sample(noise[:9], row[None])[:, 0].tolist() == drawn[:9].tolist()  # whatever rows are beside a row


@pytest.mark.parametrize("base", [LINE, PEAKS], ids=["normal", "peaks"])
@pytest.mark.parametrize("scale", [Scale(), LOG], ids=["linear", "log"])
def test_draws_of_a_density_keep_to_their_span(base, scale):
    """They are its draws that lie in it: Kolmogorov's test."""
    free, head = Mapped(base, scale), Mapped(base, scale, span=(0.5, 2.0))
    for row in outputs_of(free, 3, far=0.3):
        drawn = head.sample(head.noise(Stream(1), (4000, 1), np.float64), row[None])[:, 0]
        assert drawn.min() >= 0.5 and drawn.max() <= 2

        def cdf(t, row=row[None]):
            parts = [np.exp(free.log_mass(np.array([0.5]), np.array([end]), row))[0, 0] for end in (*t, 2.0)]
            return np.array(parts[:-1]) / parts[-1]
        assert stats.kstest(drawn, cdf).pvalue > ALARM / 3
        u = Stream(2).uniform((4000, 1))
        within = head.sample_within(u, np.array([1.5]), np.array([np.inf]), row[None].repeat(4000, axis=0))
        assert within.min() >= 1.5 and within.max() <= 2 and (within == 2).mean() < 0.01


def test_draws_behind_atoms_keep_to_the_span():
    head = Atoms(Grid(LINE, scale=WIDE, span=(1.0, 7.0)), [20.0], missing=True)
    outputs = np.array([[1.0, 0, 0, 0.5, 1]])
    drawn = head.sample(head.noise(Stream(0), (3000, 1), np.float64), outputs)
    assert set(drawn[~np.isnan(drawn)].tolist()) == {1.0, 2, 3, 4, 5, 6, 7, 20} and np.isnan(drawn).any()
    far = head.sample_within(Stream(1).uniform((200, 1)), np.array([9.0]), np.array([11.0]), outputs.repeat(200, axis=0))
    assert set(far[:, 0].tolist()) <= {9.0, 10.0, 11.0}  # asked for, where no draw gets


# ---------------------------------------------------------------- tables

def frame(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    first = datetime.date(2020, 1, 1)
    days = [first + datetime.timedelta(int(k)) for k in rng.integers(0, 1000, n)]
    return pl.DataFrame({"number": rng.integers(0, 1000, n), "far": rng.integers(5000, 6000, n), "day": days,
                         "tenth": np.round(rng.uniform(3, 103, n), 1), "fine": 10**9 + rng.integers(0, 2**28, n),
                         "x": rng.normal(size=n)})


@pytest.fixture(scope="module", params=["Mixture", "MADE"])
def fitted(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Mixture(6, max_iter=60, random_state=0) if request.param == "Mixture" else MADE(
            hidden=(16,), order="any", max_epochs=4, random_state=0)
        return model.fit(frame())


def no_spikes(drawn, columns=("number", "far", "tenth", "fine", "day"), most=0.005):
    """Of uniform columns no end has more than 0.5 % of the rows, where it has 0.1 %; nor does a row lie beyond it."""
    seen, n = frame(), len(drawn)
    for name in columns:
        ends = seen[name].min(), seen[name].max()
        assert ends[0] <= drawn[name].min() and drawn[name].max() <= ends[1]
        for end in ends:
            assert (drawn[name] == end).sum() < most * n, name


def test_the_ends_of_a_table_have_no_spikes(fitted, tmp_path):
    drawn = fitted.sample(20_000, rng=0)
    no_spikes(drawn)
    no_spikes(fitted.sample(4000, rng=1, given={"x": 0.3}) if isinstance(fitted, Mixture) else
              fitted.condition({"x": 0.3}).sample(4000, rng=1))
    some = {"number": (900, None), "far": (None, 5100), "day": (datetime.date(2020, 2, 1), None)}
    for name, interval in some.items() if isinstance(fitted, Mixture) else ():
        no_spikes(fitted.sample(4000, rng=2, given={name: interval}), (name,), most=0.03)
    gaps = frame(2000, 5).with_columns(pl.lit(None, dtype=pl.Int64).alias("number"))
    no_spikes(fitted.impute(gaps, rng=3), ("number",), most=0.01)
    fitted.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(again.log_prob(frame()), fitted.log_prob(frame()))
    assert again.sample(50, rng=3).equals(fitted.sample(50, rng=3))


def test_the_density_ends_where_the_kind_does_and_not_where_rows_do(fitted):
    """Rows below 0 are refused, rows beyond the largest are odd; over all that may be it adds up to one."""
    if isinstance(fitted, Mixture):
        alone = fitted.marginal(["number"])
        p = np.exp(alone.log_prob(pl.DataFrame({"number": np.arange(20_000)})))
        assert p.sum() == pytest.approx(1, abs=1e-9) and p[0] < 0.002 and 0 < p[1500] < p[500]
    row = frame(1).with_columns(number=pl.lit(1500), far=pl.lit(4000))
    assert np.isfinite(fitted.log_prob(row)).all()
    with pytest.raises(ValueError, match="column 'number' is -1 in row 1, but its column has steps of 1 from 0"):
        fitted.log_prob(row.with_columns(number=pl.lit(-1)))


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_ordered_levels_and_times_of_day():
    """Levels are open at both ends, as an ordered probit is; a time of day is cut where the day begins and ends."""
    rng = np.random.default_rng(0)
    order = ["low", "middle", "high"]
    minutes = rng.integers(0, 1440, 3000)
    rows = pl.DataFrame({"grade": [order[i] for i in rng.integers(0, 3, 3000)], "time": minutes // 60 * 100 + minutes % 60})
    model = Mixture(1, random_state=0).fit(rows, columns={"grade": order})
    grade, time = (model.inner().parts["columns"].options[j] for j in range(2))
    assert (grade.ends, grade.span, time.ends, time.low, time.high) == ("open", None, "cut", 0, 1439)
    p = np.exp(model.marginal(["time"]).log_prob(pl.DataFrame({"time": np.sort(rows["time"].unique())})))
    assert p[[0, -1]].max() < 0.001 and abs(p.sum() * 1440 / len(p) - 1) < 0.05
    drawn = model.sample(20_000, rng=0)
    assert max((drawn["time"] == end).mean() for end in (0, 2359)) < 0.002 and set(drawn["grade"]) == set(order)


# ---------------------------------------------------------------- mistakes that these laws find

def masses(name="below"):
    test_masses_are_those_of_what_lies_inside(name, 1.0)


def draws(name):
    test_draws_have_the_frequencies_of_what_lies_inside(name, 1.0)


LAWS = {  # what went wrong -> where, what becomes what, and the law that has to find it
    "Z forgotten": ("heads.grid:Grid.log_prob", "log_p - self._log_inside(whole) if self._cut else log_p", "log_p", masses),
    "Z forgotten under components": (
        "heads.grid:Grid.log_prob_each", "log_p - self._inside(own)[0][:, 0] if self._cut else log_p", "log_p",
        lambda: test_rows_under_components_are_what_a_row_is("below")),
    "Z forgotten around a row": ("heads.grid:Grid.log_prob_around", "if self._cut:", "if False:",
                                 lambda: test_rows_under_components_are_what_a_row_is("below")),
    "Z forgotten of an interval": ("heads.grid:Grid.log_mass", "log_p - self._log_inside(outputs) if self._cut else log_p",
                                   "log_p", masses),
    "Z forgotten in a mean": (
        "heads.grid:Grid._moments", "log_weights - self._log_inside(outputs)[..., None] if self._cut else log_weights",
        "log_weights", masses),
    "Z of the middle of the first cell": ("heads.grid:Grid._log_inside", "constant_like(self._outer, value_of(outputs))",
                                          "self._outer + np.array([[0.25], [0]])", masses),
    "the last cell goes on": ("heads.grid:Grid.edges", "self._open[1]", "self._ends[1]", lambda: masses("above")),
    "a normal far outside has no cells": ("heads.grid:Grid._cells", "np.hypot(8.5, np.maximum(a / spread, 0))", "8.5",
                                          lambda: test_masses_are_those_of_what_lies_inside("below", 12.0)),
    "the rows outside are not missed": ("heads.grid:Grid.moments", "if self._cut:", "if False:",
                                        lambda: test_one_cut_normal_is_fitted_by_its_exact_likelihood("below")),
    "the rows outside lie inside": ("heads.grid:Grid.moments", "-inside[0], rows - inside[1]", "inside[0], rows - inside[1]",
                                    lambda: test_a_step_from_what_is_expected_moves_nothing("below", 0)),
    "n rows stand for n": ("heads.grid:Grid.expected_moments", "n[:, None] * self._inside(outputs)[3] if self._cut else", "",
                           lambda: test_a_step_from_what_is_expected_moves_nothing("below", 0)),
    "draws are clipped": (
        "heads.latent:Latent.sample", "sample_between(noise.astype(np.float64), low, high,", "sample(noise.astype(np.float64),",
        lambda: draws("a span")),
    "draws of peaks by their weight": ("heads.mixture:MixtureOfNormals._between", "log_weights + ops.normal_log_mass",
                                       "log_weights + 0 * ops.normal_log_mass", lambda: draws("peaks in a span")),
    "draws between the middles of the last cells": (
        "heads.latent:Latent.sample", "constant_like(self._reach, noise)", "self._reach + np.array([[0.25], [-0.25]])",
        lambda: draws("a span")),
    "draws within an interval leave the span": (
        "heads.mapped:Mapped.sample_within", "self._reached(low, high)", "low, high",
        lambda: test_draws_of_a_density_keep_to_their_span(LINE, LOG)),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = LAWS[name]
    with mutants.Mutant(name, "", where, old, new).made(), np.errstate(all="ignore"), pytest.raises(AssertionError):
        law()
