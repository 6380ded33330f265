"""Columns that are counted from others: times of a day, b no less than a; the same cells come back, and what is drawn obeys."""
import json

import mutants
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schema import same_tables

import npgen
from npgen import cli
from npgen.data import DataError, Schema

pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))

N = 300
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


def clock(minutes, midnight=0):
    minutes = np.asarray(minutes) % 1440
    minutes = np.where((minutes == 0) & (midnight == 2400), 1440, minutes)
    return minutes // 60 * 100 + minutes % 60


def flights(seed=0, midnight=0, holes=True, n=N):
    """Planned and actual times around midnight, the delay between them, and the moment in New York."""
    rng = np.random.default_rng(seed)
    month, day, hour = rng.integers(1, 13, n), rng.integers(1, 29, n), rng.integers(5, 24, n)
    planned, delay = 60 * hour + rng.integers(0, 60, n), np.round(rng.gamma(2, 20, n)).astype(int) - 20
    actual, gone = clock(planned + delay, midnight), rng.uniform(size=n) < (0.1 if holes else 0)
    actual[0], delay[0], planned[0], gone[0] = clock(0, midnight), 30, 23 * 60 + 30, False
    hour = planned // 60
    late = gone | (rng.uniform(size=n) < (0.05 if holes else 0))
    local = pl.DataFrame({"m": month, "d": day, "h": hour}).select(
        t=pl.datetime(2013, "m", "d", "h", time_zone="America/New_York").dt.convert_time_zone("UTC"))["t"]
    return {"month": month.tolist(), "day": day.tolist(), "planned": clock(planned).tolist(),
            "actual": [None if g else int(x) for g, x in zip(gone, actual, strict=True)],
            "delay": [None if g else int(x) for g, x in zip(late, delay, strict=True)],
            "speed": [None if g else float(x) for g, x in zip(late, np.round(rng.normal(400, 30, n), 1), strict=True)],
            "moment": local.dt.strftime("%Y-%m-%dT%H:%M:%SZ").to_list()}


def spans(seed=0, kind="integer", holes=True, n=N):
    """Begin and end, the end never first: whole numbers, numbers with decimals, any numbers, days."""
    rng = np.random.default_rng(seed)
    begin, more, gone = rng.integers(0, 900, n), rng.poisson(rng.gamma(1, 300, n)), rng.uniform(size=n) < 0.1 * holes
    if kind == "date":
        days = np.datetime64("2020-01-01") + begin, np.datetime64("2020-01-01") + begin + more
        begin, end = (each.astype("M8[s]").astype(object).tolist() for each in days)
    elif kind == "real":
        begin = np.exp(begin / 300)
        begin, end = begin.tolist(), np.where(more > 5, begin * (1 + more / 77), begin).tolist()
    else:
        unit = {"integer": 1, "tenths": 10, "fives": 1}[kind]
        begin, more = (5 * begin, rng.poisson(1, n)) if kind == "fives" else (begin, more)
        begin, end = ((each / unit).tolist() if unit > 1 else each.tolist() for each in (begin, begin + more))
    return {"begin": begin, "end": [None if g else x for g, x in zip(gone, end, strict=True)]}


def schema_of(frame, columns=None):
    """The schema, by way of its JSON."""
    schema = Schema.infer(frame, columns)
    assert Schema.from_config(json.loads(json.dumps(schema.config()))) == schema
    return schema


@pytest.mark.parametrize("library", FRAMES)
@given(seed=st.integers(0, 2**32), midnight=st.sampled_from([0, 2400]), holes=st.booleans())
@settings(max_examples=6, deadline=None)
def test_times_of_a_day_are_counted_from_others_and_come_back(library, seed, midnight, holes):
    check_times(library, seed, midnight, holes)


def check_times(library="polars", seed=1, midnight=2400, holes=True):
    frame = FRAMES[library](flights(seed, midnight, holes))
    schema = schema_of(frame)
    columns = {column.name: column for column in schema.columns}
    assert columns["planned"].clock and columns["actual"].clock
    assert columns["actual"].base == "planned" and columns["planned"].base is None
    assert (columns["delay"].rule, columns["delay"].by[:2]) == ("clock", ("actual", "planned"))
    assert (columns["moment"].rule, columns["moment"].zone) == ("moment", "America/New_York")
    x = schema.encode(frame)
    same_tables(schema.decode(x), frame)
    least = columns["actual"].least
    y = x[:, schema.names.index("actual")]
    seen = ~np.isnan(y)
    assert (y[seen] >= least).all() and (y[seen] < least + 1440).all()
    delays = np.array([np.nan if d is None else d for d in flights(seed, midnight, holes)["delay"]])
    known = ~np.isnan(delays)
    assert np.array_equal(y[known], delays[known])  # minutes after it was planned
    np.testing.assert_array_equal(schema.rounded(x), x)


@pytest.mark.parametrize("kind", ["integer", "fives", "tenths", "date", "real"])
@given(seed=st.integers(0, 2**32), library=st.sampled_from(sorted(FRAMES)), holes=st.booleans())
@settings(max_examples=6, deadline=None)
def test_what_is_no_less_than_another_column_comes_back(kind, seed, library, holes):
    check_spans(kind, seed, library, holes)


def check_spans(kind="integer", seed=1, library="polars", holes=True):
    frame = FRAMES[library](spans(seed, kind, holes))
    schema = schema_of(frame, {"end": ">= begin"})
    x, again = schema.encode(frame), schema.decode(schema.encode(frame))
    assert np.nanmin(x[:, 1]) >= 0 and "no less than begin" in str(schema)
    if kind != "real":
        same_tables(again, frame)
    else:  # a sum of two floats is one to its last bit
        np.testing.assert_allclose(schema.encode(again), x, rtol=1e-12, atol=1e-12)


MODELS = {"Mixture": lambda: npgen.Mixture(4, random_state=0, max_iter=10),
          "MADE": lambda: npgen.MADE(hidden=(16,), max_epochs=2, order="any", random_state=0)}


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column", "ignore:fit. hidden")
@pytest.mark.parametrize("kind", ["integer", "fives", "tenths", "date", "real"])
@pytest.mark.parametrize("make", MODELS)
def test_what_is_drawn_and_filled_in_is_no_less(make, kind, tmp_path):
    check_no_less(make, kind, tmp_path / "m")


def check_no_less(make, kind, path):
    frame = pl.DataFrame(spans(3, kind, holes=make == "Mixture"))
    model = MODELS[make]().fit(frame, columns={"end": ">= begin"})
    model.save(path)
    model = npgen.load(path)

    def sound(rows):
        assert len(rows) and rows.select((pl.col("end") < pl.col("begin")).fill_null(False).sum()).item() == 0
        return rows

    sound(model.sample(1000, rng=0))
    shares, most = np.random.default_rng(0).uniform(size=(500, 2)), np.nanmax(model.schema_.encode(frame), axis=0)
    sound(model.schema_.decode(shares * [most[0], 3 * most[1] / 900]))  # off every grid, as means are
    some = frame["begin"][7]
    assert set(sound(model.sample(50, given={"begin": some}, rng=0))["begin"]) == {some}
    ends = model.condition({"begin": some}).sample(200, rng=0)["end"]
    assert (ends.drop_nulls() >= some).all()
    holes = frame.with_columns(begin=pl.when(pl.int_range(N) % 3 > 0).then("begin"), end=pl.when(
        pl.int_range(N) % 2 > 0).then("end"))
    for full in (model.impute(holes), model.impute(holes, rng=1)):
        assert sound(full).null_count().sum_horizontal().item() == 0
        for name in ("begin", "end"):
            seen = holes[name].is_not_null()
            assert full[name].filter(seen).equals(holes[name].filter(seen))
    with pytest.raises(DataError, match=r"column 'end', row 5: it is below 'begin', and is to be no less"):
        least = pl.lit(frame["begin"].min())
        model.log_prob(frame.with_columns(end=pl.when(pl.int_range(N) == 4).then(least).otherwise("end")))


def test_a_density_of_differences_is_one_of_the_cells():
    check_density()


def check_density():
    """Masses of all ends, given a begin, add up to one; so do those of all times of a day after another."""
    frame = pl.DataFrame(spans(4, holes=False))
    model = npgen.Mixture(3, random_state=0, max_iter=20).fit(frame, columns={"end": ">= begin"})
    begin = int(frame["begin"][0])
    ends = pl.DataFrame({"begin": [begin] * 10**5, "end": range(begin, begin + 10**5)})
    mass = np.exp(model.log_prob(ends) - model.marginal(["begin"]).log_prob(ends[:1].select("begin"))[0])
    assert abs(mass.sum() - 1) < 1e-6
    frame = pl.DataFrame(flights(5, 2400, holes=False))
    model = npgen.Mixture(3, random_state=0, max_iter=20).fit(frame.select("planned", "actual", "delay"))
    every = pl.DataFrame({"planned": [2210] * 1440, "actual": clock(np.arange(1440), 2400).tolist()})
    mass = np.exp(model.log_prob(every) - model.marginal(["planned"]).log_prob(every[:1].select("planned"))[0])
    assert abs(mass.sum() - 1) < 1e-9


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. hidden")
def test_questions_about_times_of_a_day():
    frame = pl.DataFrame(flights(6))
    model = npgen.Mixture(4, random_state=0, max_iter=10).fit(frame)
    drawn = model.sample(500, given={"planned": (2200, 2359)}, rng=0)
    assert drawn["planned"].is_between(2200, 2359).all()
    assert all(0 <= t < 2400 and t % 100 < 60 for t in (*drawn["planned"], *drawn["actual"].drop_nulls()))
    assert drawn["delay"].is_between(-200, 1300).all()
    drawn = model.sample(5, given={"planned": 2350, "actual": 10}, rng=0)
    assert set(drawn["actual"]) == {10} and set(drawn["delay"].drop_nulls()) <= {20}
    for call, words in (
            (lambda: model.sample(5, given={"actual": 10}), "sample: column 'actual' is counted from 'planned'; give a val"),
            (lambda: model.sample(5, given={"planned": 1200, "actual": (10, 20)}), "and no interval of this one"),
            (lambda: model.sample(5, given={"planned": 1275}), "sample: column 'planned', row 1: 1275 is no time of a day"),
            (lambda: model.predict(frame, "actual"), "predict: column 'actual' is counted from 'planned', by which it has"),
            (lambda: model.predict(frame, "planned"), "predict: column 'planned' holds times, by which it has neither"),
            (lambda: model.marginal(["actual"]).sample(3), "column 'actual' is counted from 'planned', which is not there"),
            (lambda: model.log_prob(frame.with_columns(planned=1299)), "log_prob: column 'planned', row 1: 1299 is no time"),
            (lambda: model.log_prob(frame.with_columns(delay=pl.col("delay") + 1)),
             r"follow from 'actual' and 'planned'.*, but -?\d+ does")):
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


CHANCE = {  # whole numbers that are no times of a day
    "up to 59": lambda rng: rng.integers(0, 60, N), "years": lambda rng: rng.integers(1950, 2025, N),
    "hundreds": lambda rng: 100 * rng.integers(0, 24, N), "halves": lambda rng: 50 * rng.integers(0, 40, N),
    "any": lambda rng: rng.integers(0, 2400, N), "both midnights": lambda rng: np.append(clock(rng.integers(0, 1440, N)), 2400)}


@pytest.mark.parametrize("name", CHANCE)
def test_other_whole_numbers_are_no_times_of_a_day(name):
    x = CHANCE[name](np.random.default_rng(0))
    x[0] = 0 if name == "both midnights" else x[0]
    assert not any(column.clock for column in Schema.infer(pl.DataFrame({"x": x})).columns)


def test_a_kind_that_is_given_keeps_a_time_of_a_day_a_number():
    frame = pl.DataFrame(flights(7))
    column = next(column for column in Schema.infer(frame, {"planned": "integer"}).columns if column.name == "planned")
    assert not column.clock and column.kind == "integer"


REFUSED = {
    "no such column": ({"end": ">= start"}, "column 'end' is to be no less than 'start', which is no other column"),
    "itself": ({"end": ">= end"}, "column 'end' is to be no less than 'end', which is no other column"),
    "another kind": ({"end": ">= day"}, "column 'end' is to be no less than 'day', integer and datetime; both must be"),
    "in a circle": ({"end": ">= begin", "begin": ">= end"}, "is to be no less than itself, by way of"),
    "of no column": ({"stop": ">= begin"}, "columns names 'stop', which is not a column"),
    "below": ({"begin": ">= end"}, r"column 'begin', row \d+: it is below 'end', and is to be no less; correct it")}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_no_less_is_one_line(case):
    columns, words = REFUSED[case]
    days = pl.Series(spans(9, "date", holes=False)["begin"]).cast(pl.Date)
    frame = pl.DataFrame(spans(8, holes=False)).with_columns(day=days)
    with pytest.raises(DataError, match=words) as caught:
        npgen.Mixture(2).fit(frame, columns=columns)
    assert "\n" not in str(caught.value)


def test_on_the_command_line(tmp_path, capsys):
    pl.DataFrame(spans(10, holes=False)).write_csv(tmp_path / "spans.csv")
    data, model = str(tmp_path / "spans.csv"), str(tmp_path / "m.npgen")
    assert cli.main(["fit", "mixture", "--data", data, "--out", model, "--column", "begin<=end", "--quiet"]) == 0
    assert cli.main(["sample", model, "-n", "300", "--seed", "0", "--out", str(tmp_path / "drawn.csv")]) == 0
    drawn = pl.read_csv(tmp_path / "drawn.csv")
    assert (drawn["end"] >= drawn["begin"]).all() and drawn["end"].max() > 900
    capsys.readouterr()
    assert cli.main(["schema", data, "--column", "begin<=end"]) == 0
    assert "no less than begin" in capsys.readouterr().out
    assert cli.main(["schema", data, "--column", "end<=begin"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_forged_column_that_is_counted_from_another_is_refused_or_is_one(data):
    frame = pl.DataFrame(flights(11))
    config = json.loads(json.dumps(Schema.infer(frame).config()))
    column = data.draw(st.sampled_from([each for each in config["columns"] if each.get("clock") or "base" in each
                                        or each.get("rule") in ("clock", "moment")]))
    key = data.draw(st.sampled_from(["base", "least", "shift", "zone", "clock", "by", "rule", "constant", "low", "high", "step",
                                     "kind", "format"]))
    column[key] = data.draw(st.sampled_from(
        [None, -1, 0, 1, 0.5, 10**12, "", "planned", "actual", "month", "UTC", "Mars", ["planned"], ["actual", "planned"],
         ["planned", "day", "month"], True, "clock", "moment", "integer", [], {}, 1441, -1440]))
    try:
        schema = Schema.from_config(config)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert isinstance(str(schema), str) and Schema.from_config(schema.config()) == schema
    try:
        assert len(schema.decode(np.full((2, len(schema.names)), 3.0))) == 2
    except DataError as error:
        assert "\n" not in str(error)


LAWS = {  # what went wrong -> where, what becomes what, and the law that has to find it
    "not around midnight": ("data.relative:_difference", "(b - a - column.least) % DAY", "(b - a - column.least)",
                            lambda path: check_times()),
    "a minute late": ("data.relative:_sum", "- column.first) % DAY", "- column.first + 1) % DAY", lambda path: check_times()),
    "midnight is 0": ("data.column:Column.values", "x // 60 * 100", "x % DAY // 60 * 100", lambda path: check_times()),
    "the other way": ("data.relative:_sum", "a + np.maximum(difference", "a - np.maximum(difference",
                      lambda path: check_spans()),
    "winter all year": ("data.determined:_in_zone", "ways = [", "ways = [-18000.0 for _ in moments] or [",
                        lambda path: check_times()),
    "another unit": ("data.relative:position", "(base.low - column.low) / column.step", "0", lambda path: check_spans("date")),
    "filled in below": ("data.relative:absolute", "rows = np.isnan(seen[:, i]) & ~np.isnan(seen[:, j])",
                        "rows = np.zeros(len(seen), bool)", lambda path: check_no_less("Mixture", "integer", path)),
    "off the grid of the base": ("data.relative:absolute", "columns[j].rounded(x[:, j] if", "(x[:, j] if",
                                 lambda path: check_no_less("Mixture", "fives", path)),
    "no bound": ("models.choice:_numeric", "bound = low if ended or", "bound = None if ended else low if",
                 lambda path: check_density()),
    "condition without its base": ("models.mixture.base:MixtureModel._counted_from", "known[columns] = values", "pass",
                                   lambda path: check_no_less("Mixture", "integer", path)),
}


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column")
@pytest.mark.parametrize("name", LAWS)
def test_a_planted_mistake_breaks_its_law(name, tmp_path):
    where, old, new, law = LAWS[name]
    with mutants.Mutant(name, "", where, old, new).made(), pytest.raises(
            (AssertionError, ValueError, ExceptionGroup, pytest.fail.Exception)):
        law(tmp_path / "m")
