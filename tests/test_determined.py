"""Columns that follow from others: found without exception, left out of the density, derived again to the same cells."""
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

N = 240
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


def cells_of(seed, holes=True, breaks=None, row=None):
    """A table in which seven columns follow from others; breaks: one that does not in this row."""
    rng = np.random.default_rng(seed)
    level, start, length = rng.integers(0, 9, N), rng.integers(0, 200, N), rng.integers(0, 60, N)
    clock, price, fee = rng.integers(0, 24, N) * 100 + rng.integers(0, 60, N), rng.integers(0, 999, N), rng.integers(0, 99, N)
    gap, other = rng.uniform(size=(2, N)) < (0.1 if holes else 0)
    cells = {
        "degree": [None if g else f"d{i}" for i, g in zip(level, gap, strict=True)],
        "years": [7 if g else [9, 13, 16, 9, 5, 11, 12, 1, 2][i] for i, g in zip(level, gap, strict=True)],
        "group": [None if g or i == 4 else "<a>" if i % 2 else "b" for i, g in zip(level, gap, strict=True)],
        "start": start.tolist(), "length": [None if g else int(x) for x, g in zip(length, other, strict=True)],
        "price": (price / 10).tolist(), "fee": (fee / 10).tolist(), "net": ((price - fee) / 10).tolist(),
        "clock": clock.tolist(), "hour": (clock // 100).tolist(), "minute": (clock % 100).tolist(),
        "free": rng.integers(0, 500, N).tolist()}
    cells["end"] = [None if b is None else a + b for a, b in zip(cells["start"], cells["length"], strict=True)]
    cells["again"] = list(cells["free"])
    if breaks:
        cells[breaks][row] = {"group": "c"}.get(breaks, 3)
    return cells


RULES = {"years": ("levels", ("degree",)), "group": ("levels", ("degree",)), "net": ("-", ("price", "fee")),
         "hour": ("//", ("clock",)), "minute": ("%", ("clock",)), "end": ("+", ("start", "length")), "again": ("=", ("free",))}


def rules_of(schema):
    return {column.name: (column.rule, column.by) for column in schema.columns if column.kind == "determined"}


@pytest.mark.parametrize("library", FRAMES)
@given(seed=st.integers(0, 2**32), holes=st.booleans())
@settings(max_examples=8, deadline=None)
def test_what_follows_is_found_and_derived_again_to_the_same_cells(library, seed, holes):
    check_found_and_derived(FRAMES[library](cells_of(seed, holes)))


def check_found_and_derived(frame):
    schema = Schema.infer(frame)
    assert rules_of(schema) == RULES
    for known in (schema, Schema.from_config(json.loads(json.dumps(schema.config())))):
        assert known == schema
        x = known.encode(frame)
        assert x.shape == (N, 7)
        same_tables(known.decode(x), frame)
    lines = {line.split()[0]: line for line in str(schema).splitlines()}
    assert "determined" in lines["years"] and "follows from degree" in lines["years"]
    assert "is start + length" in lines["end"] and "is price - fee" in lines["net"] and "is clock // 100" in lines["hour"]


@pytest.mark.parametrize("name", RULES)
def test_one_row_that_does_not_follow_is_enough(name):
    for row in (17, 101, 102, 103, 200):
        found = rules_of(Schema.infer(pl.DataFrame(cells_of(1, breaks=name, row=row))))
        assert name not in found and found.items() <= RULES.items() and len(found) >= len(RULES) - 1


def test_what_something_follows_from_is_modelled():
    """Fine levels determine those in the middle, and these the coarse ones: these stay, as the coarse ones follow from them."""
    fine = np.random.default_rng(0).integers(0, 12, N)
    frame = pl.DataFrame({"middle": [f"m{i // 2}" for i in fine], "fine": [f"f{i}" for i in fine],
                          "coarse": [f"c{i // 4}" for i in fine]})
    schema = Schema.infer(frame)
    assert rules_of(schema) == {"coarse": ("levels", ("middle",))}
    same_tables(schema.decode(schema.encode(frame)), frame)


@given(seed=st.integers(0, 2**32), n=st.integers(20, 300), levels=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_what_is_independent_does_not_follow(seed, n, levels):
    """Of a rule that is worth 20 nats by chance there is less than one in e^20 for each of 60 pairs and examples: 1e-5."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({f"c{j}": [f"l{i}" for i in rng.integers(0, levels, n)] for j in range(4)} | {
        f"n{j}": rng.integers(0, 40 + 300 * j, n) for j in range(4)} | {
        f"rare{j}": np.where(rng.uniform(size=n) < 0.03, "yes", "no") for j in range(2)})
    assert not rules_of(Schema.infer(frame))


def test_nothing_follows_from_a_column_that_misses_in_most_rows():
    """A remark that is there in a fifth of the rows, and what it says: all others could say it without one."""
    remark = np.where(np.arange(N) % 5 > 0, None, [f"r{i}" for i in np.random.default_rng(4).integers(0, 4, N)])
    complete = ["no" if text in ("r0", "r1", "r2") else "yes" for text in remark]
    frame = pl.DataFrame({"remark": remark.tolist(), "complete": complete})
    assert not rules_of(Schema.infer(frame))
    frame = frame.with_columns(pl.col("remark").fill_null("none"))
    assert rules_of(Schema.infer(frame)) == {"complete": ("levels", ("remark",))}


def test_a_kind_that_is_asked_for_stays():
    frame = pl.DataFrame(cells_of(2))
    found = rules_of(Schema.infer(frame, {"years": "integer", "end": "real"}))
    assert "years" not in found and "end" not in found and found["hour"] == RULES["hour"]


def small():
    cells = cells_of(3, holes=False)
    return pl.DataFrame({name: cells[name] for name in ("degree", "years", "group", "start", "length", "end")})


def test_cells_that_contradict_are_named_and_those_that_say_more_are_used():
    frame = small()
    schema, x = Schema.infer(frame), Schema.infer(frame).encode(frame)
    with pytest.raises(DataError, match=r"column 'years', row 6: 99 does not follow from 'degree', but \d+ does; correct it"):
        schema.encode(frame.with_columns(years=pl.when(pl.int_range(N) == 5).then(99).otherwise(pl.col("years"))))
    assert np.array_equal(schema.encode(frame.drop("years", "group", "end")), x)
    assert np.array_equal(schema.encode(frame.with_columns(years=None)), x)
    back = schema.encode(frame.with_columns(degree=pl.lit(None, pl.String)))
    unique = ~np.isin(frame["years"].to_numpy(), [9])  # two degrees take 9 years
    assert np.array_equal(back[unique], x[unique]) and np.isnan(back[~unique, 0]).all()


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column", "ignore:fit. hidden")
@pytest.mark.parametrize("make", [lambda: npgen.Mixture(2, random_state=0, max_iter=5),
                                  lambda: npgen.MADE(hidden=(8,), max_epochs=1, order="any", random_state=0)])
def test_models_draw_and_fill_what_follows(make, tmp_path):
    frame = small()
    model = make().fit(frame)
    assert list(model.feature_names_in_) == ["degree", "start", "length"]
    model.save(tmp_path / "m")
    model = npgen.load(tmp_path / "m")
    table = dict(zip(frame["degree"], frame["years"], strict=True))
    for rows in (model.sample(200, rng=0), model.sample(50, given={"degree": "d3"}, rng=0)):
        assert rows.schema == frame.schema and [table[d] for d in rows["degree"]] == rows["years"].to_list()
        assert (rows["start"] + rows["length"]).equals(rows["end"].alias("start"))
    holes = frame.with_columns(degree=pl.when(pl.int_range(N) % 3 > 0).then(pl.col("degree")), years=pl.lit(None, pl.Int64))
    full = model.impute(holes, rng=0)
    assert [table[d] for d in full["degree"]] == full["years"].to_list() and full["degree"].null_count() == 0
    assert full.filter(pl.col("degree") != "d4").null_count().sum_horizontal()[0] == 0  # from which no group follows
    assert model.condition({"start": 7}).sample(3, rng=0).columns == ["degree", "years", "group", "length"]
    with pytest.raises(ValueError, match="^condition: column 'end' follows from 'start' and 'length'; give that instead$"):
        model.condition({"end": 3})


def test_the_command_line_says_what_follows(tmp_path, capsys):
    small().write_csv(tmp_path / "people.csv")
    assert cli.main(["schema", str(tmp_path / "people.csv"), "--out", str(tmp_path / "s.json")]) == 0
    out = capsys.readouterr().out
    assert "follows from degree" in out and str(Schema.load(tmp_path / "s.json")) == out.rstrip("\n")
    assert cli.main(["schema", str(tmp_path / "people.csv"), "--column", "years=integer"]) == 0
    assert out.count("follows") - 1 == capsys.readouterr().out.count("follows")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_forged_rule_is_refused_or_is_one(data):
    """Whatever JSON holds in any place of a determined column: then the schema decodes."""
    config = json.loads(json.dumps(Schema.infer(small()).config()))
    column = data.draw(st.sampled_from([each for each in config["columns"] if each["kind"] == "determined"]))
    key = data.draw(st.sampled_from(["rule", "by", "table", "kind", "step", "levels"]))
    junk = st.sampled_from([None, -1, 0.5, "", "=", "+", "levels", [], ["start"], ["degree"], ["start", "length"], ["nothing"],
                            [[1], 2], {}, True, ["years"], [1] * 10, ["d1"] * 10, [None] * 10])
    column[key] = data.draw(junk)
    try:
        schema = Schema.from_config(config)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert isinstance(str(schema), str) and Schema.from_config(schema.config()) == schema
    assert len(schema.decode(np.full((2, len(schema.names)), np.nan))) == 2


LAWS = {  # what went wrong -> where, what becomes what, and the law that has to find it
    "follows but for one row": ("data.determined:_followed", "np.array_equal(first[codes[i]], each)",
                                "(first[codes[i]] == each).mean() > 0.99",
                                lambda: test_one_row_that_does_not_follow_is_enough("group")),
    "a sum but for one row": ("data.determined:_arithmetic", "np.array_equal(y + numbers[k] if",
                              "np.array_equal(x if", lambda: test_one_row_that_does_not_follow_is_enough("end")),
    "whatever agrees follows": ("data.determined:_followed", "worth <= EVIDENCE", "False",
                                test_what_is_independent_does_not_follow),
    "levels of another row": ("data.determined:derive", "np.rint(np.where(gaps, 0, by[0])), 0, last - 1)",
                              "np.rint(np.where(gaps, 0, by[0])) + 1, 0, last - 1)",
                              lambda: check_found_and_derived(pl.DataFrame(cells_of(5)))),
    "a difference the other way round": ("data.determined:derive", "first - rest[0]", "rest[0] - first",
                                         lambda: check_found_and_derived(pl.DataFrame(cells_of(5)))),
    "two levels for one": ("data.determined:agree", "np.nan if value in back else number", "number",
                           test_cells_that_contradict_are_named_and_those_that_say_more_are_used),
    "contradictions are let pass": ("data.determined:agree", "np.flatnonzero(~gaps & ~missing & (given != derived))", "[]",
                                    test_cells_that_contradict_are_named_and_those_that_say_more_are_used),
    "a hole says it all": ("data.determined:_followed", "2 * gaps[i].sum() > len(order)", "False",
                           test_nothing_follows_from_a_column_that_misses_in_most_rows),
    "what follows from nothing": ("data.determined:find", "or j in kept", "", test_what_something_follows_from_is_modelled),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = LAWS[name]
    with mutants.Mutant(name, "", where, old, new).made(), \
            pytest.raises((AssertionError, ValueError, ExceptionGroup, pytest.fail.Exception)):
        law()
