"""Questions about tables: why a row is odd, what a column is given the rest, rows under conditions, imputations."""
import datetime
import functools
import math

import mpmath
import mutants
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import npgen
from npgen import cli, data
from npgen.heads import Atoms, Bernoulli, Categorical, Grid, Mapped, MixtureOfNormals, Normal, Poisson, Pooled, Scale, Tied

pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
pytest.importorskip("narwhals")
pytestmark = [pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column", "ignore:fit. hidden")]

N = 300
RNG = np.random.default_rng(5)
GROUP = RNG.integers(0, 3, N)
CELLS = {"city": [("Rome", "Paris", "<Bern>")[g if RNG.uniform() < 0.8 else 0] for g in GROUP],
         "sex": [("F", "M")[int(RNG.uniform() < 0.2 + 0.3 * g)] for g in GROUP],
         "age": (20 + 8 * GROUP + RNG.integers(0, 9, N)).tolist(),
         "income": (10.0 * GROUP + RNG.normal(size=N)).tolist()}
LIBRARIES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
FALSE_ALARM = 1e-7  # of one comparison of a frequency with a probability


@functools.cache
def mixture(library="polars"):
    return npgen.Mixture(3, random_state=0, max_iter=30).fit(LIBRARIES[library](CELLS))


@functools.cache
def gaussian():
    frame = pl.DataFrame({name: CELLS[name] for name in ("income", "age")})
    return npgen.GaussianMixture(2, random_state=0).fit(frame.with_columns(pl.col("age") + 0.25 * pl.col("income").sin()))


@functools.cache
def made(library="polars", columns=("city", "sex", "age"), **options):
    frame = LIBRARIES[library]({name: CELLS[name] for name in columns})
    return npgen.MADE(hidden=(16,), max_epochs=3, random_state=0, **options).fit(frame)


@functools.cache
def dated():
    days = pl.lit(datetime.date(2024, 1, 1)) + pl.duration(days=pl.int_range(40))
    return npgen.Mixture(2, random_state=0, max_iter=5).fit(frame_of(["sex"]).with_columns(day=days, year=2024))


def frame_of(columns, n=40):
    return pl.DataFrame({name: CELLS[name][:n] for name in columns})


def allowed(n, comparisons=1):
    """By how much a frequency of n draws may differ from its probability, Hoeffding's bound."""
    return math.sqrt(math.log(2 * comparisons / FALSE_ALARM) / (2 * n))


# ---------------------------------------------------------------- heads: mass of an interval

NORMAL = Normal(limit=None)
LOG = Scale("log", 1.0, 0.7, -0.5, 1.0)
HEADS = {  # a head of one feature and its outputs (2, j), for two components
    "normal": (NORMAL, np.array([[0.3, 0.1], [-2.0, -3.0]])),
    "mixture of normals": (MixtureOfNormals(3), np.array([[0.3, 0, 1, 0.1, 3, 6, -1, 0, 1],
                                                          [2, 0, 0, -50, 2, 7.6, 0, -3, -3.0]])),
    "bernoulli": (Bernoulli(), np.array([[0.3], [-30.0]])),
    "categorical": (Categorical([1.0, 2.0, 5.0]), np.array([[0.3, 0, -1], [-2.0, -50, 0]])),
    "poisson": (Poisson(), np.array([[0.3], [4.0]])),
    "pooled": (Pooled([1.0, 4.0, 9.0], [2.0, 3.0], [0.25, 0.75]), np.array([[0.3, 0, 1, 0.5], [-2.0, -50, 0, 1]])),
    "mapped": (Mapped(NORMAL, LOG), np.array([[0.3, 0.1], [1.0, -3.0]])),
    "grid": (Grid(NORMAL, 0.5, 0.25, 0.25, 8.25, Scale("linear", 2.0, 2.0)), np.array([[0.3, 0.1], [9.0, -3.0]])),
    "grid behind a map": (Grid(NORMAL, scale=LOG), np.array([[0.3, 0.1], [1.0, -3.0]])),
    "tied grid": (Tied(Grid(NORMAL, 0.5, 0.25, 0.25, 8.25, Scale("linear", 2.0, 2.0), "cut"), [[0.3, 0.1], [2, -3], [9, -1]]),
                  np.array([[0.3, 0.1, 2], [0, -3, -50.0]])),
    "tied": (Tied(Mapped(NORMAL, LOG), [[0.3, 0.1], [1, -3]]), np.array([[0.3, 0.1], [-50, 0.0]])),
    "atoms of what is tied": (Atoms(Tied(Mapped(NORMAL, LOG), [[0.3, 0.1], [1, -3]]), [0.0, 3.0]),
                              np.array([[0, 1, 0.5, 0.3, 0.1], [0, -40, 0, 1, -3]])),
    "atoms of a grid": (Atoms(Grid(NORMAL, scale=LOG), [2.0, 7.0], missing=True), np.array([[0, 1, 0.5, 2, 0.3, 0.1],
                                                                                       [0, -40, 0, 0, 1.0, -3.0]])),
    "atoms of a density": (Atoms(Mapped(NORMAL, LOG), [0.0, 3.0]), np.array([[0, 1, 0.5, 0.3, 0.1], [0, -40, 0, 1, -3]]))}
POINTS = {"bernoulli": np.arange(2.0), "categorical": np.array([1.0, 2, 5]), "poisson": np.arange(400.0), "pooled":
          np.array([1.0, 2, 3, 4, 9]), "grid": np.arange(0.25, 8.5, 0.5), "tied grid": np.arange(0.25, 8.5, 0.5),
          "grid behind a map": np.arange(0, 3000.0),
          "atoms of a grid": np.arange(0, 3000.0)}


@given(low=st.floats(-50, 50), width=st.floats(1e-9, 60), open_end=st.sampled_from(["", "low", "high", "both"]))
@settings(max_examples=40, deadline=None)
def test_the_mass_of_an_interval_of_a_normal_is_precise_in_the_tails(low, width, open_end):
    ends = [-math.inf if open_end in ("low", "both") else low, math.inf if open_end in ("high", "both") else low + width]
    mean, log_var = HEADS["normal"][1].T
    found = NORMAL.log_mass(np.array(ends[:1]), np.array(ends[1:]), HEADS["normal"][1])[:, 0]
    with mpmath.workdps(60):
        for k in range(2):
            a, b = ((mpmath.mpf(end) - mpmath.mpf(mean[k])) / mpmath.exp(mpmath.mpf(log_var[k]) / 2) for end in ends)
            a, b = (-b, -a) if a > 0 else (a, b)
            mass = (mpmath.erfc(-b / mpmath.sqrt(2)) - mpmath.erfc(-a / mpmath.sqrt(2))) / 2
            rounding = 1e-14 * max(map(abs, (*[end for end in (low, low + width)], 1))) / width + 1e-13  # of the ends
            scale = float(max(1, *(abs(end) for end in (a, b) if mpmath.isfinite(end)), 1))**2
            assert abs(found[k] - float(mpmath.log(mass))) <= scale * 1e-13 + 4 * scale * rounding


@pytest.mark.parametrize("name", POINTS)
@example(low=1.0, width=1.0)  # ends that are values themselves
@given(low=st.integers(-4, 24).map(lambda k: k / 2), width=st.integers(0, 24).map(lambda k: k / 2))
@settings(max_examples=40, deadline=None)
def test_the_mass_of_an_interval_is_the_sum_over_its_values(name, low, width):
    head, outputs = HEADS[name]
    points = POINTS[name]
    with np.errstate(divide="ignore"):
        each = np.stack([head.log_prob(points[:, None], outputs[[k]].repeat(len(points), axis=0)) for k in range(2)])
        inside = (points >= low) & (points <= low + width)
        expected = np.logaddexp.reduce(each[:, inside], axis=1)
    found = head.log_mass(np.array([low]), np.array([low + width]), outputs)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mixture of normals", "mapped", "tied", "atoms of a density", "atoms of what is tied"])
def test_the_mass_of_an_interval_is_the_integral_over_it_and_its_atoms(name):
    head, outputs = HEADS[name]
    for low, high in ((-0.25, 1.0), (0.0, 3.0), (2.0, 9.0), (-np.inf, 0.5), (4.0, np.inf)):
        floor = -70 if name == "mixture of normals" else -0.5 + 1e-9
        grid = np.linspace(max(low, floor), min(high, 3000), 400_001)[:, None] + 1e-11
        for k in range(2):
            density = np.exp(head.log_prob(grid, outputs[[k]].repeat(len(grid), axis=0)))
            mass = np.trapezoid(density, grid[:, 0])
            for atom in getattr(head, "atoms", ()):
                mass += np.exp(head.log_prob(np.array([[atom]]), outputs[[k]])[0]) * (low <= atom <= high)
            found = np.exp(head.log_mass(np.array([low]), np.array([high]), outputs)[k, 0])
            assert abs(found - mass) < 2e-3 * max(mass, 1e-3), (low, high, k)


@pytest.mark.parametrize("name", HEADS)
def test_draws_within_an_interval_lie_in_it_by_their_mass(name):
    """20,000 draws; a false alarm in 1e7 runs at most for each of four intervals."""
    head, outputs = HEADS[name]
    n, ends = 20_000, {"normal": (1.5, 4.0), "bernoulli": (0.5, 2), "pooled": (1.5, 4.5)}.get(name, (1.5, 7.5))
    u, low, high = npgen.random.Stream(3).uniform((n, 1)), np.array(ends[:1]), np.array(ends[1:])
    for k in range(2):
        x = head.sample_within(u, low, high, np.repeat(outputs[[k]], n, axis=0))
        assert x.shape == (n, 1) and (x >= low).all() and (x <= high).all()
        middle = np.array([np.mean(ends)])
        share = np.exp(head.log_mass(low, middle, outputs) - head.log_mass(low, high, outputs))[k, 0]
        assert abs((x <= middle).mean() - share) < allowed(n, 2)


# ---------------------------------------------------------------- explain

def test_what_a_mixture_explains_is_the_probability_of_a_cell_given_the_rest():
    model, frame = mixture(), frame_of(CELLS)
    why = model.explain(frame)
    assert why.columns == list(CELLS) and set(why.dtypes) == {pl.Float64}
    for name in ("city", "sex", "age"):
        levels = model.schema_.columns[model.schema_.names.index(name)].levels or range(20, 45)
        joint = np.stack([model.log_prob(frame.with_columns(pl.lit(level).alias(name))) for level in levels])
        own = np.array([list(levels).index(value) for value in frame[name]])
        expected = joint[own, np.arange(len(own))] - np.logaddexp.reduce(joint)
        np.testing.assert_allclose(why[name].to_numpy(), expected, rtol=1e-9, atol=1e-9)
    grid = np.linspace(-30, 60, 4001)
    for i in range(3):
        row = frame[i]
        rows = pl.concat([row.drop("income")] * len(grid)).with_columns(income=pl.Series(grid)).select(frame.columns)
        density = np.exp(model.log_prob(rows))
        expected = model.log_prob(row)[0] - math.log(np.trapezoid(density, grid))
        assert abs(why["income"][i] - expected) < 1e-6


def test_what_a_gaussian_mixture_explains_are_quotients_of_its_marginals():
    model = gaussian()
    x = model.sample(30, rng=0)
    why = model.explain(x)
    for name, other in (("income", "age"), ("age", "income")):
        expected = model.log_prob(x) - model.marginal([other]).log_prob(x.select(other))
        np.testing.assert_allclose(why[name].to_numpy(), expected, rtol=1e-9, atol=1e-9)
    x = x.with_columns(age=pl.when(pl.int_range(30) > 5).then(pl.col("age")))
    why = model.explain(x)
    assert why["age"].null_count() == 6 and why["income"].null_count() == 0
    expected = model.marginal(["income"]).log_prob(x.select("income"))[:6]  # what misses is marginalised
    np.testing.assert_allclose(why["income"].to_numpy()[:6], expected, rtol=1e-9)


@pytest.mark.parametrize("columns", [("city", "sex", "age"), tuple(CELLS)])
@pytest.mark.parametrize("order", ["random", "any"])
def test_what_a_made_explains_adds_up_and_sees_the_columns_before_alone(columns, order):
    model, frame = made(columns=columns, order=order), frame_of(columns)
    why = model.explain(frame).to_numpy()
    np.testing.assert_allclose(why.sum(axis=1), model.log_prob(frame), rtol=2e-5, atol=2e-5)
    for s, j in enumerate(model.order_):
        other = frame.with_columns(frame[columns[j]].reverse())
        assert np.array_equal(model.explain(other).to_numpy()[:, model.order_[:s]], why[:, model.order_[:s]])
    x = model.schema_.encode(frame)
    in_double = model.without_schema()
    rows = data.Table(x, model.schema_.names)
    np.testing.assert_allclose(in_double.explain(rows).sum(axis=1), in_double.log_prob(rows), rtol=1e-12, atol=1e-12)


def test_what_a_made_of_numbers_explains_adds_up():
    x = data.moons(300)
    for maps in ("standardize", "auto", None):
        model = npgen.MADE(hidden=(16,), max_epochs=1, preprocess=maps, random_state=0).fit(x)
        np.testing.assert_allclose(model.explain(x).sum(axis=1), model.log_prob(x), rtol=1e-4, atol=1e-4)


def test_what_a_made_of_a_context_explains_adds_up():
    x, labels = data.digits()
    model = npgen.MADE(hidden=(16,), max_epochs=1, random_state=0).fit(x[:300, :10], context=labels[:300])
    why = model.explain(x[:9, :10], context=labels[:9])
    np.testing.assert_allclose(why.sum(axis=1), model.log_prob(x[:9, :10], context=labels[:9]), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("make", [mixture, made])
def test_answers_are_frames_of_the_library_that_asks(library, make):
    model = make(library)
    names = list(model.feature_names_in_)
    frame = LIBRARIES[library]({name: CELLS[name][:5] for name in names})
    frame = frame.set_axis(list("abcde")) if library == "pandas" else frame
    for answer, columns in ((model.explain(frame), names), (model.predict(frame, "city"), ["<Bern>", "Paris", "Rome"])):
        assert type(answer) is type(frame) and list(answer.columns if library != "pyarrow" else answer.column_names) == columns
        assert library != "pandas" or list(answer.index) == list("abcde")
    assert isinstance(model.explain(data.Table(model.schema_.encode(frame), names)), np.ndarray)


# ---------------------------------------------------------------- predict

@pytest.mark.parametrize("make", [mixture, made])
@pytest.mark.parametrize("name", ["city", "sex", "age"])
def test_a_predicted_column_is_the_density_normalised_over_its_levels(make, name):
    model = make()
    frame = frame_of(model.feature_names_in_)
    p = model.predict(frame.drop(name), name)
    column = model.schema_.columns[model.schema_.names.index(name)]
    levels = column.levels or range(column.low, column.high + 1)
    assert p.columns == [str(level) for level in levels]
    joint = np.exp([model.log_prob(frame.with_columns(pl.lit(level).alias(name))).astype(float) for level in levels]).T
    np.testing.assert_allclose(p.to_numpy(), joint / joint.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)
    x = model.schema_.encode(frame)
    j = model.schema_.names.index(name)
    x[:, j] = x[0, j]
    np.testing.assert_allclose(model.without_schema().predict(x.astype(model.dtype_), j), p.to_numpy(), rtol=1e-5, atol=1e-6)


def moments(model, row, name, grid):
    rows = pl.concat([row.drop(name)] * len(grid)).with_columns(pl.Series(name, grid)).select(row.columns)
    density = np.exp(model.log_prob(rows))
    density /= np.trapezoid(density, grid)
    mean = np.trapezoid(density * grid, grid)
    return mean, math.sqrt(np.trapezoid(density * (grid - mean)**2, grid))


@pytest.mark.parametrize("make", [mixture, gaussian])
def test_a_predicted_number_is_a_mean_and_a_standard_deviation(make):
    model = make()
    frame = model.sample(4, rng=0).select(model.schema_.names)
    p = model.predict(frame, "income")
    assert p.columns == ["mean", "std"]
    for i in range(4):
        expected = moments(model, frame[i], "income", np.linspace(-30, 60, 6001))
        np.testing.assert_allclose(p.row(i), expected, rtol=1e-4, atol=1e-4)
    one, grid = model.marginal(["income"]), np.linspace(-30, 60, 6001)
    density = np.exp(one.log_prob(pl.DataFrame({"income": grid})))
    mean = np.trapezoid(density * grid, grid)
    std = math.sqrt(np.trapezoid(density * np.square(grid - mean), grid))
    np.testing.assert_allclose(one.predict(frame, "income").to_numpy(), np.tile([mean, std], (4, 1)), rtol=1e-4)
    other = next(name for name in model.schema_.names if name != "income")
    gone = frame.with_columns(pl.lit(None, frame[other].dtype).alias(other))  # a missing value is marginalised
    rest = model.marginal([name for name in model.schema_.names if name != other])
    np.testing.assert_allclose(model.predict(gone, "income").to_numpy(),
                               rest.predict(frame.drop(other), "income").to_numpy(), rtol=1e-9)


def test_of_one_column_a_prediction_is_its_marginal():
    model = mixture().marginal(["city"])
    assert np.allclose(model.predict(frame_of(["city"], 2), "city").to_numpy(), np.exp(model.log_prob(
        pl.DataFrame({"city": ["<Bern>", "Paris", "Rome"]}))))
    assert model.marginal(["city"]).explain(frame_of(["city"], 4))["city"].to_numpy().tobytes() == model.log_prob(
        frame_of(["city"], 4)).tobytes()


# ---------------------------------------------------------------- conditions

def test_an_interval_is_the_sum_over_its_values():
    model, rest = mixture(), frame_of(["city", "income"])
    of_sex = model.marginal(["sex", "age"])
    ages = range(25, 33)
    weight = np.array([of_sex.log_prob(pl.DataFrame({"sex": ["F"], "age": [age]}))[0] for age in ages])
    each = np.stack([model.condition({"sex": "F", "age": age}).log_prob(rest) for age in ages])
    expected = np.logaddexp.reduce(each + weight[:, None]) - np.logaddexp.reduce(weight)
    for ends in ((25, 32), (24.5, 32.9)):
        np.testing.assert_allclose(model.condition({"sex": "F", "age": ends}).log_prob(rest), expected, rtol=1e-9)
    everything = model.condition({"age": (None, None)}).log_prob(frame_of(["city", "sex", "income"]))
    np.testing.assert_allclose(everything, model.marginal(["city", "sex", "income"]).log_prob(
        frame_of(["city", "sex", "income"])), rtol=1e-9)


def test_an_interval_of_a_real_column_is_the_integral_over_it():
    model, rest = mixture(), frame_of(["city", "sex"], 9)
    grid = np.linspace(9.0, 12.0, 1001)
    rows = pl.concat([rest.slice(i, 1) for i in range(9) for _ in grid]).with_columns(income=pl.Series(np.tile(grid, 9)))
    joint = np.exp(model.marginal(["city", "sex", "income"]).log_prob(rows)).reshape(9, -1)
    mass = np.trapezoid(np.exp(model.marginal(["income"]).log_prob(pl.DataFrame({"income": grid}))), grid)
    expected = np.log(np.trapezoid(joint, grid) / mass)
    given = model.condition({"income": (9.0, 12.0)}).marginal(["city", "sex"])
    np.testing.assert_allclose(given.log_prob(rest), expected, rtol=1e-6)
    assert np.isfinite(model.condition({"income": (1e4, None)}).marginal(["city", "sex"]).log_prob(rest)).all()
    assert (model.sample(9, given={"income": (1e4, 2e4)}, rng=0)["income"] >= 1e4).all()


@pytest.mark.parametrize("known", [{"city": "Rome"}, {"age": (25, 32)}, {"sex": "F", "income": (9.0, 12.0)}])
def test_rows_under_a_condition_have_all_columns_and_its_law(known):
    """20,000 rows; a false alarm in 1e7 runs at most for each of the levels compared."""
    model, n = mixture(), 20_000
    rows = model.sample(n, given=known, rng=1)
    assert rows.schema == model.sample(1, rng=0).schema and len(rows) == n
    for name, value in known.items():
        ends = value if isinstance(value, tuple) else (value, value)
        assert (rows[name] >= ends[0]).all() and (rows[name] <= ends[1]).all()
    rest = model.condition(known)
    name = "sex" if "city" in known else "city"
    levels = sorted(set(CELLS[name]))
    p = np.exp(rest.marginal([name]).log_prob(pl.DataFrame({name: levels})))
    for level, share in zip(levels, p, strict=True):
        assert abs((rows[name] == level).mean() - share) < allowed(n, 3)
    if "age" in known:
        below = np.exp(model.marginal(["age"]).log_prob(pl.DataFrame({"age": list(range(25, 33))})))
        assert abs((rows["age"] <= 27).mean() - below[:3].sum() / below.sum()) < allowed(n)
    assert rows.equals(model.sample(n, given=known, rng=1)) and not rows.equals(model.sample(n, given=known, rng=2))


def test_rows_of_a_made_and_of_gaussians_under_a_condition():
    model = made(order="any")
    rows = model.sample(4000, given={"city": "Rome"}, rng=0)
    assert rows.columns == ["city", "sex", "age"] and set(rows["city"]) == {"Rome"}
    assert rows.drop("city").equals(model.condition({"city": "Rome"}).sample(4000, rng=0))
    model = gaussian()
    rows = model.sample(5000, given={"income": 10.0}, rng=0)
    assert set(rows["income"]) == {10.0}
    mean, std = (float(a.squeeze()) for a in (model.predict(pl.DataFrame({"income": [10.0]}), "age").to_numpy().T))
    assert abs(rows["age"].mean() - mean) < 6 * std / math.sqrt(5000)  # six standard errors: false alarms below 1e-8


@functools.cache
def made_of_intervals(order="any"):
    """Of two columns with levels, and two of numbers, all of which depend on each other."""
    frame = frame_of(CELLS, N)
    more = 0.5 * frame["income"].to_numpy() + np.random.default_rng(6).normal(size=N)
    frame = frame.with_columns(height=pl.Series(more)).select("income", "age", "height", "city")
    return npgen.MADE(hidden=(32,), max_epochs=100, learning_rate=0.01, direct=True, order=order, random_state=0).fit(frame)


def made_above_zero():
    frame = pl.DataFrame({"income": np.exp(2 * np.array(CELLS["income"]) / 10), "city": CELLS["city"]})
    return npgen.MADE(hidden=(8,), max_epochs=1, order="any", random_state=0).fit(frame)


def joint_and_ways(model, names, rows):
    """log p of rows, and of their first columns, which have these names, in an order that has these first; (2, n)."""
    first = [model.schema_.names.index(name) for name in names]
    order = np.array([*first, *(j for j in np.atleast_2d(model.order_)[0] if j not in first)])
    x, inner, s = model.schema_.encode(rows.select(model.schema_.names))[:, order], model.inner(np.float64), len(first)
    net = inner.parts["net"].of(order)
    outputs = net(inner.parts["net"].ordered(inner.params, order), net.inputs(x))
    return np.stack([net.head.log_prob(x, outputs), net.head.of(np.arange(s)).log_prob(x[:, :s], outputs[:, :net.first[s]])])


def crossed(columns):
    """A frame of all combinations of values, those of the last name running fastest."""
    grid = np.meshgrid(*(np.arange(len(values)) for values in columns.values()), indexing="ij")
    return pl.DataFrame({name: np.array(values)[at.ravel()] for (name, values), at in zip(columns.items(), grid, strict=True)})


def middles(low, high, n=40):
    return low + (np.arange(n) + 0.5) * (high - low) / n


LEVELS = {"age": list(range(20, 45)), "city": ["<Bern>", "Paris", "Rome"]}
INTERVALS = {  # an order, what is given, its first columns with the values that they go through; what log_prob and sample are
    "levels": ("any", {"age": (25, 32)}, {"age": range(25, 33)}, "exact", "exact"),
    "levels, given values": ("any", {"income": 10.0, "age": (None, 30), "height": 5.0}, {
        "income": [10.0], "height": [5.0], "age": range(20, 31)}, "exact", "exact"),
    "a number, given a value": ("any", {"income": (9.0, 12.0), "height": 7.0}, {"height": [7.0], "income": middles(9, 12)},
                                "estimate", "exact"),
    "a number, given levels": ("any", {"height": (4.0, 6.0), "age": (25, 32)}, {"age": range(25, 33), "height": middles(4, 6)},
                               "estimate", "exact"),
    "two numbers": ("any", {"income": (-3.0, 25.0), "height": (4.0, 6.0)}, {
        "income": middles(-3, 25, 160), "height": middles(4, 6, 20)}, "estimate", "estimate"),
    "a number before levels": ("natural", {"income": (-3.0, 25.0), "age": (25, 32)}, {
        "income": middles(-3, 25, 160), "age": range(25, 33)}, "estimate", "estimate"),
    "a number before a value": ("natural", {"income": (9.0, 12.0), "age": 35, "height": (4.0, 6.0)}, {
        "income": middles(9, 12), "age": [35], "height": middles(4, 6)}, "estimate", "estimate")}


@pytest.mark.filterwarnings("ignore:condition. intervals")
@pytest.mark.parametrize("case", INTERVALS)
def test_a_made_given_intervals_is_the_sum_or_the_integral_over_them(case):
    """20,000 rows: shares below the middle of what is given, and of the levels of the other columns; a false alarm in 1e7 runs.

    An estimate is of 1,024 points, beside an integral by 40 to 3,200 cells: for both a hundredth is allowed, and for log_prob
    0.03 nats, or 0.1 where rows are of few of the points.
    """
    order, known, values, density, sampling = INTERVALS[case]
    model, n = made_of_intervals(order), 20_000
    given, ways, others = model.condition(known), crossed(values), [name for name in model.schema_.names if name not in known]
    assert (given.density, given.sampling) == (density, sampling)
    rest = crossed({name: LEVELS.get(name, [5.0, 6.0]) for name in others})
    joint, log_way = joint_and_ways(model, values, rest.join(ways, how="cross", maintain_order="left_right"))
    joint, total = joint.reshape(len(rest), -1), np.logaddexp.reduce(log_way[:len(ways)])
    expected = np.logaddexp.reduce(joint, axis=1) - total
    tolerance = 1e-9 if density == "exact" else {"exact": 0.03, "estimate": 0.1}[sampling]
    np.testing.assert_allclose(given.log_prob(rest), expected, atol=tolerance)
    rows, off = model.sample(n, given=known, rng=1), allowed(n, 50) + 0.01 * (density == "estimate")
    assert rows.schema == model.sample(1, rng=0).schema and rows.equals(model.sample(n, given=known, rng=1))
    assert rows[:50].equals(model.sample(50, given=known, rng=1)) and given.sample(9, rng=1).columns == others
    for name, points in values.items():
        low, high = known[name] if isinstance(known[name], tuple) else (known[name], known[name])
        assert (rows[name] <= high).all() and (low is None or (rows[name] >= low).all())
        middle = np.mean(points)
        below = np.exp(np.logaddexp.reduce(log_way[:len(ways)][(ways[name] < middle).to_numpy()]) - total)
        assert abs((rows[name] < middle).mean() - below) < off, name
    for name in [name for name in others if set(others) <= set(LEVELS)]:
        for level in LEVELS[name]:
            p = np.exp(expected[(rest[name] == level).to_numpy()]).sum()
            assert abs((rows[name] == level).mean() - p) < off, (name, level)


def test_a_made_says_what_intervals_it_only_estimates():
    with pytest.warns(UserWarning, match="condition: intervals of 'income', 'height' together are an estimate, by 1024"):
        made_of_intervals().condition({"income": (9.0, 12.0), "height": (6.0, 9.0)})
    assert "(9.0, 12.0)" in repr(made_of_intervals().condition({"income": (9.0, 12.0), "age": 25}))


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("known", [{}, {"z": 0.5}])
def test_gaussians_are_drawn_within_an_interval_by_the_integral_over_it(form, known):
    """20,000 rows, shares below a value of the interval's column and of another; a false alarm in 1e7 runs for each at most."""
    rng, n = np.random.default_rng(0), 20_000
    rows = rng.normal(size=(600, 3)) @ [[1, 0.8, 0.3], [0, 0.6, -0.5], [0, 0, 1]] + 3 * (rng.uniform(size=(600, 1)) < 0.4)
    model = npgen.GaussianMixture(2, covariance_type=form, random_state=0).fit(pl.DataFrame(rows, schema=["x", "y", "z"]))
    drawn = model.sample(n, given={"x": (1.0, 3.0), **known}, rng=1)
    assert drawn["x"].is_between(1.0, 3.0).all() and all((drawn[name] == value).all() for name, value in known.items())
    axes = np.linspace(1, 3, 202)[:-1] + 1 / 201, np.linspace(-8, 12, 400)
    x, y = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    p = np.exp(model.marginal(["x", "y", *known]).log_prob(pl.DataFrame({"x": x, "y": y, **known})))
    for name, values, edge in (("x", x, 1 + 2 * 80 / 201), ("y", y, 1.5 + 20 / 399 * 0.5)):
        assert abs((drawn[name] < edge).mean() - p[values < edge].sum() / p.sum()) < allowed(n) + 0.003  # a cell of y
    assert set(model.sample(9, given={"x": (2.0, 2.0), **known}, rng=0)["x"]) == {2.0}
    far = model.sample(9, given={"x": (50.0, None), **known}, rng=0)["x"]
    assert (far >= 50).all() and far.is_finite().all()


def test_times_and_ordered_levels_are_given_as_they_are():
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=i * 7 % 60) for i in range(60)]
    zone = datetime.timezone(datetime.timedelta(hours=2))
    for library, frame in {"polars": pl.DataFrame({"day": days}), "pandas": pd.DataFrame({"day": pd.to_datetime(days)}), "zone":
                           pl.DataFrame({"day": days}).with_columns(pl.col("day").cast(pl.Datetime("ms")).dt.replace_time_zone(
                               "Europe/Berlin"))}.items():
        cells = {"size": [("S", "M", "L")[i % 3] for i in range(60)], "x": [float(i * 3 % 17) + 0.125 for i in range(60)]}
        more = (pd.DataFrame if library == "pandas" else pl.DataFrame)(cells)
        frame = pd.concat([frame, more], axis=1) if library == "pandas" else pl.concat([frame, more], how="horizontal")
        model = npgen.Mixture(2, random_state=0, max_iter=5).fit(frame, columns={"size": ["S", "M", "L"]})
        values = [datetime.date(2024, 1, 15), datetime.datetime(2024, 1, 15), "2024-01-15", np.datetime64("2024-01-15")]
        values += [datetime.datetime(2024, 1, 15, 1, tzinfo=zone)] if library == "zone" else []
        values += [pd.Timestamp("2024-01-15")] if library == "pandas" else []
        whole = [model.sample(3, given={"day": value}, rng=0) for value in values]
        assert all(rows.equals(whole[0]) for rows in whole)
        assert str(whole[0]["day"][0])[:10] == "2024-01-15"
        rows = model.sample(200, given={"day": ("2024-01-10", datetime.date(2024, 1, 12)), "size": ("M", "L")}, rng=0)
        assert {str(day)[:10] for day in rows["day"]} == {"2024-01-10", "2024-01-11", "2024-01-12"}
        assert set(rows["size"]) == {"M", "L"}


# ---------------------------------------------------------------- imputations

def test_multiple_imputations_are_draws_given_what_is_seen():
    """2,000 copies of three rows in two tables; Hoeffding's bound for nine levels."""
    model, n = mixture(), 2000
    frame = pl.concat([frame_of(CELLS, 3)] * n).with_columns(city=pl.lit(None, pl.String))
    first, second = model.impute(frame, n=2)
    assert all(one.drop("city").equals(frame.drop("city")) for one in (first, second)) and not first.equals(second)
    drawn = np.array([one["city"].to_list() for one in (first, second)]).reshape(2 * n, 3)
    p = model.predict(frame[:3], "city")
    for level in p.columns:
        assert np.all(np.abs((drawn == level).mean(axis=0) - p[level].to_numpy()) < allowed(2 * n, 9))
    assert all(one.equals(other) for one, other in zip(model.impute(frame, n=2, rng=0), (first, second), strict=True))
    holes = frame_of(["city", "sex", "age"], 4).with_columns(age=pl.lit(None, pl.Int64))
    tables = made(order="any").impute(holes, n=3, rng=1)
    assert len({tuple(one["age"]) for one in tables}) > 1 and all(one["age"].null_count() == 0 for one in tables)
    x = data.Table(model.schema_.encode(frame[:3]), model.schema_.names)
    assert [one.shape for one in model.without_schema().impute(x, n=2)] == [(3, 4)] * 2


# ---------------------------------------------------------------- what is refused

def last_column_given():
    model = made()
    name = str(model.feature_names_in_[model.order_[-1]])
    return model.sample(given={name: CELLS[name][0]})


REFUSED = {  # a call -> what the one line says
    "explain of several orders": (lambda: made(n_masks=2).explain(frame_of(["city", "sex", "age"])),
                                  "explain: the density is the mean of those of 2 orders"),
    "explain, another level": (lambda: mixture().explain(frame_of(CELLS).with_columns(city=pl.lit("Oslo"))),
                               "explain: column 'city', row 1: 'Oslo' is none of its 3 levels"),
    "predict no column": (lambda: mixture().predict(frame_of(CELLS), "town"), "predict: there is no column 'town'"),
    "predict two columns": (lambda: mixture().predict(frame_of(CELLS), ["city", "sex"]), "predict: one column is asked"),
    "predict two columns of a MADE": (lambda: made().predict(frame_of(CELLS), ["city", "sex"]), "predict: one column is asked"),
    "predict without the others": (lambda: mixture().predict(frame_of(["sex"]), "city"), "predict: X has no column 'age'"),
    "predict, another type": (lambda: mixture().predict(frame_of(CELLS).with_columns(age=pl.lit("old")), "city"),
                              "predict: column 'age', row 1: 'old' is no number"),
    "predict a number by enumeration": (lambda: made(columns=tuple(CELLS)).predict(frame_of(CELLS), "income"),
                                        "predict: column 'income' has no levels to go through"),
    "an interval of a category": (lambda: mixture().condition({"city": ("Paris", "Rome")}),
                                  "condition: column 'city': ('Paris', 'Rome') is an interval, but its levels have no order"),
    "an empty interval": (lambda: mixture().condition({"age": (30, 20)}), "condition: column 'age': (30, 20) is an empty"),
    "an interval beyond": (lambda: mixture().condition({"age": (90, 99)}), "condition: column 'age': (90, 99) has no value"),
    "an interval of Gaussians": (lambda: gaussian().condition({"age": (20, 30)}), "condition: column 'age' is given an int"),
    "two intervals of Gaussians": (lambda: gaussian().sample(given={"age": (20, 30), "income": (0, 9)}),
                                   "sample: 2 intervals are given"),
    "given behind a map": (lambda: npgen.GaussianMixture(2, preprocess="log", random_state=0).fit(
        frame_of(["age"], 99).with_columns(x=1.5 + pl.col("age").sin())).sample(given={"age": (20, 30)}),
        "sample: this mixture lives behind preprocess='log'"),
    "an interval of a MADE behind others": (lambda: made_of_intervals("natural").condition({"age": (2, 30)}),
                                            "condition: columns ['age'] do not come first in the order"),
    "an interval of a MADE behind a map": (lambda: made(columns=("income", "age"), head="normal").condition({"income": (2, 3)}),
                                           "condition: this MADE lives behind preprocess='auto', which intervals do not go"),
    "an interval of a MADE without mass": (lambda: made_above_zero().condition({"income": (-5.0, -1.0)}),
                                           "condition: these values of 'income' have no probability"),
    "all intervals of a MADE": (lambda: made(order="any").condition({"age": (20, 30), "city": "Rome", "sex": "F"}),
                                "condition: columns must not be all there are"),
    "everything is given": (lambda: mixture().condition({"city": "Rome", "sex": "F", "age": (20, 30), "income": (0, 1)}),
                            "condition: columns are all there are"),
    "nothing is given": (lambda: mixture().condition({}), "condition: nothing is given"),
    "a list for a level": (lambda: mixture().condition({"city": ["Rome"]}), "condition: column 'city': ['Rome'] is no value"),
    "None for a level": (lambda: mixture().condition({"city": None}), "condition: column 'city': None is no value of it"),
    "None for a number": (lambda: mixture().sample(given={"income": None}), "sample: column 'income': None is no value of it"),
    "a word for a number": (lambda: mixture().sample(given={"income": "rich"}), "sample: column 'income', row 1: 'rich' is no"),
    "an unknown level": (lambda: mixture().sample(given={"sex": "X"}), "sample: column 'sex', row 1: 'X' is none of its 2"),
    "no such column": (lambda: mixture().sample(given={"zip": 1}), "sample: there is no column 'zip'"),
    "a number that none is drawn as": (lambda: mixture().sample(given={"age": 99}), "sample: column 'age': 99 is no value of"),
    "a number below": (lambda: made(order="any").condition({"age": -1}), "condition: column 'age': -1 is no value of it (20"),
    "a day that none is drawn as": (lambda: dated().sample(given={"day": "2025-01-01"}),
                                    "sample: column 'day': '2025-01-01' is no value of it (2024-01-01 to"),
    "a constant": (lambda: dated().sample(given={"year": 2024}), "sample: column 'year', constant, is not modelled; there are"),
    "names without values": (lambda: mixture().sample(given=["sex"]), "sample: give {name: value}, or numbers of columns and"),
    "names without values, of a MADE": (lambda: made().condition(["sex"]), "condition: give {name: value}, or numbers of col"),
    "a column that comes last": (last_column_given, "condition: columns"),
    "given of an array": (lambda: npgen.Mixture().fit(np.eye(9)).sample(given={"a": 1}), "sample: {name: value} is for models"),
    "a negative number of tables": (lambda: mixture().impute(frame_of(CELLS), n=-1), "impute: n"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_question_that_has_no_answer_is_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value), str(caught.value)


# ---------------------------------------------------------------- the command line

def npgen_says(line, capsys, status=0):
    assert cli.main(line.split()) == status, (line, capsys.readouterr())
    return capsys.readouterr().out if status == 0 else capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_questions_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame(CELLS).with_columns(
        day=pl.lit(datetime.date(2024, 1, 1)) + pl.duration(days=pl.int_range(N) * 7 % 60),
        age=pl.when(pl.int_range(N) % 9 > 0).then(pl.col("age")))
    frame.write_parquet("people.parquet")
    npgen_says("fit mixture --data people.parquet --out m --set n_components=3 --quiet", capsys)
    model = npgen.load("m")
    said = npgen_says("explain m --data people.parquet --out why.parquet", capsys)
    assert pl.read_parquet("why.parquet").equals(model.explain(frame)) and said.count("\n") == 6 and "in row" in said
    npgen_says("sample m --given day=2024-01-10..2024-01-12 --given age=..30 --given sex=F -n 50 --seed 1 --out rows.parquet",
               capsys)
    rows = pl.read_parquet("rows.parquet")
    assert rows.schema == frame.schema and (rows["age"] <= 30).all() and set(rows["sex"]) == {"F"}
    assert rows["day"].is_between(datetime.date(2024, 1, 10), datetime.date(2024, 1, 12)).all()
    npgen_says("sample m --given day=2024-01-10 -n 5 --seed 1 --out rows.csv", capsys)
    assert set(pl.read_csv("rows.csv")["day"]) == {"2024-01-10"}
    npgen_says("impute m --data people.parquet -n 3 --seed 4 --out several.parquet", capsys)
    several = pl.read_parquet("several.parquet")
    assert several.columns == ["imputation", *frame.columns] and several["imputation"].to_list() == [1] * N + [2] * N + [3] * N
    assert several["age"].null_count() == 0
    np.save("x.npy", np.where(np.arange(60) % 7 == 0, np.nan, np.arange(60.0)**1.5).reshape(20, 3))
    npgen_says("fit gmm --data x.npy --out g --set preprocess=None --quiet", capsys)
    npgen_says("impute g --data x.npy -n 2 --out two.npy", capsys)
    assert np.load("two.npy").shape == (40, 4)
    npgen_says("explain g --data x.npy --out why.csv", capsys)
    npgen_says("fit vae --data moons --out v --epochs 1 --quiet", capsys)
    frame.with_columns(imputation=1, log_prob=2).write_parquet("both.parquet")
    npgen_says("fit mixture --data both.parquet --column imputation=real --column log_prob=real --out b --quiet", capsys)
    for line, words in {"sample m --given day=soon --out o.csv": "--given day=soon: 'soon' is no value of 'day' (2024-01-01 to",
                        "sample m --given age=30..x --out o.csv": "--given age=30..x: '30..x' is no value of 'age'",
                        "sample m --given city=Oslo..Rome --out o.csv": "--given city=Oslo..Rome: 'Oslo..Rome' is no value",
                        "sample m --given age=40..30 --out o.csv": "column 'age': (40.0, 30.0) is an empty interval",
                        "impute b --data both.parquet -n 2 --out o.csv": "-n: the table has a column 'imputation'",
                        "score b --data both.parquet --out o.csv": "both.parquet has a column 'log_prob'",
                        "explain v --data moons --out o.csv": "v holds a VAE, which has no explain; mixtures and MA"}.items():
        err = npgen_says(line, capsys, status=2)
        assert words in err and err.count("\n") == 1, err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("o.")]


# ---------------------------------------------------------------- mistakes that these laws find

LAWS = {  # what went wrong -> where, what becomes what, and the law that has to find it
    "mass: variance for std": ("heads.normal:Normal.log_cell", "/ std(log_var), (high", "/ std(2 * log_var), (high",
                               test_the_mass_of_an_interval_of_a_normal_is_precise_in_the_tails),
    "mass: half a cell": ("heads.grid:Grid._within", "self.edges(value)[i]", "self.latent(value)",
                          lambda: test_the_mass_of_an_interval_is_the_sum_over_its_values("grid behind a map")),
    "mass: without its atoms": ("heads.atoms:Atoms._mass", "np.where(inside, log_p[..., 1:1 + len(self.atoms)], -np.inf)",
                                "np.where(inside, log_p[..., 1:1 + len(self.atoms)] - 9, -np.inf)",
                                lambda: test_the_mass_of_an_interval_is_the_integral_over_it_and_its_atoms(
                                    "atoms of a density")),
    "mass: of equal weights": ("heads.tied:Tied._masses", "return self._log_weights(", "return 0 * self._log_weights(",
                               lambda: test_the_mass_of_an_interval_is_the_sum_over_its_values("tied grid")),
    "draws within: what is left of a uniform": ("heads.tied:Tied.sample_within", "(at - before)", "at",
                                                lambda: test_draws_within_an_interval_lie_in_it_by_their_mass("tied")),
    "draws within: the tail is not turned": ("heads.normal:normal_between", "np.where(turned, -high, low)", "low",
                                             lambda: test_draws_within_an_interval_lie_in_it_by_their_mass("normal")),
    "draws within: another state": ("heads.atoms:Atoms.sample_within", "np.array([np.nan, *self.atoms])[state]",
                                    "np.array([np.nan, *self.atoms])[np.maximum(state - 1, 0)]",
                                    lambda: test_draws_within_an_interval_lie_in_it_by_their_mass("atoms of a density")),
    "mass: an end is left out": ("heads.base:mass_of", "(points <= high)", "(points < high)",
                                 lambda: test_the_mass_of_an_interval_is_the_sum_over_its_values("categorical")),
    "draws within: turned back wrongly": ("heads.normal:normal_between", "np.where(turned, -z, z)", "z",
                                          lambda: test_draws_within_an_interval_lie_in_it_by_their_mass("normal")),
    "draws within: by number, not by mass": ("heads.base:point_of", "np.exp(log_p[..., inside])",
                                             "np.exp(0 * log_p[..., inside])",
                                             lambda: test_draws_within_an_interval_lie_in_it_by_their_mass("poisson")),
    "an interval leaves the weights": ("models.mixture.questions:OfColumns._log_mass", "return head", "return 0 * head",
                                       test_an_interval_is_the_sum_over_its_values),
    "an interval forgets the values": ("models.mixture.questions:Questions._log_weights_given", "if len(columns):", "if False:",
                                       test_an_interval_is_the_sum_over_its_values),
    "rows under a condition: of the wrong weights": (
        "models.mixture.questions:OfColumns._drawn_given", 'self._log_weights_given("sample", columns, values, within)',
        "np.log(self.weights_)", lambda: test_rows_under_a_condition_have_all_columns_and_its_law({"age": (25, 32)})),
    "draws of Gaussians within: the interval leaves the weights": (
        "models.mixture.gaussian:GaussianMixture._drawn_within", "+ head.log_mass(low, high, outputs)[:, 0]", "",
        lambda: test_gaussians_are_drawn_within_an_interval_by_the_integral_over_it("full", {})),
    "draws of Gaussians within: the values leave the weights": (
        "models.mixture.gaussian:GaussianMixture._drawn_within",
        'self._log_weights_at("sample", columns, values) if len(columns) else np.log(self.weights_)', "np.log(self.weights_)",
        lambda: test_gaussians_are_drawn_within_an_interval_by_the_integral_over_it("full", {"z": 0.5})),
    "draws of Gaussians within: variance for log": (
        "models.mixture.gaussian:GaussianMixture._drawn_within", "np.log(covariances[:, 0])", "covariances[:, 0]",
        lambda: test_gaussians_are_drawn_within_an_interval_by_the_integral_over_it("full", {"z": 0.5})),
    "a MADE's interval: levels by number, not by mass": (
        "models.conditional:Within._walk", "log_p += heads[t].log_prob(x[:, [t]], outputs)", "pass",
        lambda: test_a_made_given_intervals_is_the_sum_or_the_integral_over_them("levels")),
    "a MADE's interval: its mass leaves the weights": (
        "models.conditional:Within._walk", "log_p += heads[t].log_mass(low, high, outputs)[:, 0]", "pass",
        lambda: test_a_made_given_intervals_is_the_sum_or_the_integral_over_them("a number, given levels")),
    "a MADE's interval: drawn without it": (
        "models.conditional:Within._walk", "sample_within(both[:, [s + t]], low, high, outputs)",
        "sample_within(both[:, [s + t]], low - np.inf, high + np.inf, outputs)",
        lambda: test_a_made_given_intervals_is_the_sum_or_the_integral_over_them("a number, given a value")),
    "a MADE's interval: ways by chance alone": (
        "models.conditional:Within.rows", "np.exp(self._log_weights)", "np.exp(0 * self._log_weights)",
        lambda: test_a_made_given_intervals_is_the_sum_or_the_integral_over_them("two numbers")),
    "a MADE's interval: numbers before levels": (
        "models.made:MADE._within", "[*columns, *levels, *(j for j in within if j not in levels)]",
        "[*columns, *(j for j in within if j not in levels), *levels]",
        lambda: test_a_made_given_intervals_is_the_sum_or_the_integral_over_them("a number, given levels")),
    "a MADE's interval: rows are of all ways alike": (
        "models.conditional:Within.log_prob", "+ self._log_weights", "- np.log(len(self._ways))",
        lambda: test_a_made_given_intervals_is_the_sum_or_the_integral_over_them("levels")),
    "a component's uniform, used twice": (
        "heads.mixture:MixtureOfNormals._between", "(at - before) / (last - before)", "noise[..., None]",
        lambda: test_draws_within_an_interval_lie_in_it_by_their_mass("mixture of normals")),
    "a component by its weight, not its mass": (
        "heads.mixture:MixtureOfNormals._between", "log_weights + ops.normal_log_mass",
        "log_weights + 0 * ops.normal_log_mass",
        lambda: test_draws_within_an_interval_lie_in_it_by_their_mass("mixture of normals")),
    "explain: the whole for the rest": ("models.mixture.questions:Questions.explain", "whole - rest", "whole",
                                        test_what_a_mixture_explains_is_the_probability_of_a_cell_given_the_rest),
    "explain: a column beside": ("models.mixture.questions:Questions.explain", "answer[:, j]", "answer[:, j - 1]",
                                 test_what_a_mixture_explains_is_the_probability_of_a_cell_given_the_rest),
    "explain: the map's slope forgotten": ("models.conditional:Conditions._shares", " + np.log(np.abs(slopes))", "",
                                           test_what_a_made_of_numbers_explains_adds_up),
    "explain: columns in the order": ("models.conditional:Conditions._shares", "order.undo(", "(",
                                      lambda: test_what_a_made_explains_adds_up_and_sees_the_columns_before_alone(
                                          ("city", "sex", "age"), "random")),
    "predict: by the weights": ("models.mixture.questions:OfColumns._predicted", "rest._rowwise(rest._encode, x)",
                                "np.tile(self.weights_, (len(x), 1))",
                                lambda: test_a_predicted_column_is_the_density_normalised_over_its_levels(mixture, "city")),
    "predict: spread within alone": ("models.mixture.questions:OfColumns._predicted", "np.square(means - mean[:, None])",
                                     "0 * np.square(means - mean[:, None])",
                                     lambda: test_a_predicted_number_is_a_mean_and_a_standard_deviation(mixture)),
    "predict: not normalised": ("models.conditional:Conditions._predicted", "ops.log_softmax(", "(",
                                lambda: test_a_predicted_column_is_the_density_normalised_over_its_levels(made, "city")),
    "imputations: all the same": ("models.tabular:OfTables._imputations", "rng=stream.spawn()", "rng=0",
                                  test_multiple_imputations_are_draws_given_what_is_seen),
}


@pytest.mark.filterwarnings("ignore:condition. intervals")
@pytest.mark.parametrize("name", LAWS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = LAWS[name]
    with mutants.Mutant(name, "", where, old, new).made(), np.errstate(all="ignore"), \
            pytest.raises((AssertionError, ExceptionGroup)):
        law()
