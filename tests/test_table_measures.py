"""What benchmarks/tables.py measures with: densities that add up, samples that follow them, distances whose ends are known."""
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
pl = pytest.importorskip("polars")

from benchmarks import tables  # noqa: E402
from npgen.data import Schema  # noqa: E402

RNG = np.random.default_rng(0)
N = 600
A = RNG.integers(0, 3, N)
B = (A + (RNG.uniform(size=N) < 0.2)) % 3
C = (B + RNG.integers(0, 2, N)) % 3
FRAME = pl.DataFrame({name: [f"{name}{i}" if i < 2 or name != "b" else None for i in codes] for name, codes in
                      {"a": A, "b": B, "c": C}.items()})
EVERY = pl.DataFrame([dict(zip("abc", row, strict=True)) for row in itertools.product(*(
    FRAME[name].unique().sort().to_list() for name in "abc"))], schema=FRAME.schema)


@pytest.mark.parametrize("model", [tables.Independent, tables.Tree])
def test_a_floor_is_a_density_of_its_rows_and_draws_them(model):
    """20,000 rows, 27 cells; Hoeffding: a false alarm in 1e7 runs at most. Levels that no row has keep a little mass."""
    fitted, n = model().fit(FRAME), 20_000
    p = np.exp(fitted.log_prob(EVERY))
    assert 0.99 < p.sum() < 1
    made = fitted.sample(n, 0)
    share = EVERY.join(made.group_by(FRAME.columns).len(), on=FRAME.columns, how="left", nulls_equal=True,
                       maintain_order="left")["len"].fill_null(0).to_numpy() / n
    assert np.abs(share - p / p.sum()).max() < math.sqrt(math.log(54 / 1e-7) / (2 * n)) + 0.01  # half a count per level


def test_a_tree_is_likelier_than_independent_columns_and_finds_the_chain():
    tree = tables.Tree().fit(FRAME)
    assert {frozenset(edge) for edge in tree.edges[1:]} == {frozenset((0, 1)), frozenset((1, 2))}
    assert tree.log_prob(FRAME).mean() > tables.Independent().fit(FRAME).log_prob(FRAME).mean() + 0.3


def test_numbers_are_drawn_from_their_rows():
    frame = pl.DataFrame({"x": [None if i % 9 == 0 else i**2 for i in range(200)], "s": ["u", "v"] * 100})
    made = tables.Tree().fit(frame).sample(500, 1)
    assert set(made["x"]) <= set(frame["x"]) and made["x"].null_count() > 0 and made.schema == frame.schema


def test_measures_of_the_same_rows_and_of_others():
    frame = FRAME.with_columns(x=pl.Series(RNG.normal(size=N)))
    assert tables.shapes(frame, frame) == tables.pairs(frame, frame) == tables.copies(frame, frame) == 1
    other = frame.with_columns(a=pl.col("a") + "!", x=pl.col("x") + 100)
    assert tables.shapes(frame.select("a", "x"), other.select("a", "x")) < 1e-12
    assert tables.copies(other, frame) == 0 and tables.copies(pl.concat([frame, other]), frame) == 0.5
    pytest.importorskip("sklearn")
    assert tables.auc(frame, other) == 1


def test_holes_hide_what_follows_and_errors_are_of_them_alone():
    frame = FRAME.select("a", "c").with_columns(n=pl.Series(A * 7 % 5), x=pl.Series(RNG.normal(size=N)))
    schema = Schema.infer(frame)
    holes, out = tables.holes_in(frame, schema, 3)
    assert schema.names == ["a", "c", "x"] and holes["n"].null_count() == N
    assert all(0.1 < gone.mean() < 0.3 and holes[name].is_null().to_numpy()[gone].all() for name, gone in out.items())
    assert tables.errors(frame, frame, frame, out) == {"a": 0, "c": 0, "x": 0}
    wrong = frame.with_columns(a=pl.lit("nothing"), x=pl.col("x") + 2 * frame["x"].std())
    found = tables.errors(wrong, frame, frame, out)
    assert found["a"] == 1 and found["c"] == 0 and abs(found["x"] - 2) < 1e-9
    filled, there = tables.each_cell_once(frame, schema, lambda holes, out: wrong.select("a", "x"))  # no cell is left as it was
    assert filled["a"].to_list() == ["nothing"] * N and filled["c"].to_list() == frame["c"].to_list()
    np.testing.assert_array_equal(filled["x"], wrong["x"])
    assert all(each.all() for name, each in there.items() if name != "c")


def test_draws_are_combined_to_the_commonest_and_the_mean():
    draws = [pl.DataFrame({"s": ["u", v], "x": [1, x]}) for v, x in (("u", 0), ("v", 3), ("v", 6))]
    assert tables.combined(draws).rows() == [("u", 1.0), ("v", 3.0)]


def test_shared_nats_are_those_of_the_column_that_says_most():
    """Of independent columns none, but for chance, of which three times its standard deviation, 3 / n, is allowed."""
    frame = FRAME.with_columns(copy=pl.col("a"), free=pl.Series(RNG.integers(0, 3, N)))
    found = tables.shared(frame, frame.columns)
    share = np.bincount(A) / N
    assert abs(found["a"] + share @ np.log(share) + 4 / (2 * N)) < 1e-9 and found["copy"] == found["a"]
    assert found["b"] > 0.3 and abs(found["free"]) < 0.02


def test_a_dependence_is_found_where_classifiers_use_it_and_not_where_there_is_none():
    """Of columns without one each is found to have it once in 1 / ALARM times at most: of 3 fixed ones none is."""
    pytest.importorskip("sklearn")
    free = {f"free{i}": pl.Series([f"v{k}" for k in np.random.default_rng(i).permutation(np.minimum(B * 2, 2 + C))])
            for i in range(3)}
    frame = FRAME.with_columns(**free)
    with tables.threadpool_limits(1):
        found = tables.dependence(frame, Schema.infer(frame))
    assert max(found[name] for name in "ab") < 1e-9
    assert min(found[name] for name in free) >= tables.ALARM


def test_a_page_says_which_columns_of_levels_depend_and_who_beats_the_mode_there():
    row = {"baselines": {"mode, median": {"a": 0.5, "b": 0.5, "x": 1.0}}, "shared": {"a": 0.3, "b": 0.3, "x": 0.2},
           "impute": {"a": 0.5, "b": 0.6, "x": 0.8}}
    lines = list(tables.imputed({"M": row, "floor": {}}, {"a": 1e-9, "b": 0.2}))
    assert "| b | 0.300 | 0.2 | 0.500 | 0.600 |" in lines and "| x | 0.200 |  | 1.000 | 0.800 |" in lines
    assert lines[-1] == ("M: better than the mode and the median in 0 of 1 columns of levels that have a dependence to be "
                         "used, not in a; in 1 of 1 columns of numbers.")


def test_a_page_keeps_the_sections_of_other_tables(tmp_path, monkeypatch):
    page = tmp_path / "T.md"
    page.write_text("# Models\n\n## adult: 3 rows\n\nkept\n\n## flights: 4 rows\n\noutdated\n")
    (tmp_path / "flights.csv").write_text("a\n")
    monkeypatch.setattr(tables, "section", lambda folder, table, models: iter([f"## {table}: 5 rows", "", "new"]))
    assert tables.main(["--data", str(tmp_path), "--only", "flights", "--out", str(page)]) == 0
    assert list(tables.sections_of(page)) == ["adult", "flights"]
    text = page.read_text()
    assert text.startswith("# Models of tables") and "kept" in text and "new" in text and "outdated" not in text


OLD = """## t: 9 rows

Run on Monday.

| | nats |
|---|---|
| Mixture | 2 |
| TVAE | 7 |

TVAE: run on Monday.

The table is small.

| filled in | Mixture |
|---|---|
| a | 1 |"""


def test_rows_of_peers_stay_where_others_are_run_and_others_where_peers_are():
    new = OLD.replace("Monday", "Friday").replace("2", "3")
    new = new.replace("| TVAE | 7 |\n", "").replace("TVAE: run on Friday.\n\n", "")
    assert tables.merged([], new.splitlines(), ["Mixture"]) == new.splitlines()
    both = "\n".join(tables.merged(OLD.splitlines(), new.splitlines(), ["Mixture"]))
    assert both == OLD.replace("Run on Monday", "Run on Friday").replace("2", "3")
    peers = ["## t: 9 rows", "", "Run on Friday.", "", "| | nats |", "|---|---|", "| tree | 4 |", "| CTGAN | 8 |", "",
             "CTGAN: run on Friday.", "", "The table is small."]
    more = "\n".join(tables.merged(OLD.splitlines(), peers, ["CTGAN"]))
    assert more == OLD.replace("| TVAE", "| CTGAN | 8 |\n| TVAE").replace("TVAE:", "CTGAN: run on Friday.\n\nTVAE:")
    for name, section in tables.sections_of(Path(tables.__file__).with_name("TABLES.md")).items():
        lines = section.splitlines()
        bare = [line for line in lines if "TVAE" not in line and "CTGAN" not in line]
        assert tables.merged(lines, bare, list(tables.MODELS)) == lines, name
