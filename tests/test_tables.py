"""Models of tables: frames in, the same library's frames out, of every kind of column; arrays stay arrays."""
import datetime
import importlib.util
import sys

import numpy as np
import pytest
from test_models import CASES, FIRST, fresh

import npgen
from npgen import cli, data
from npgen.testing import check_generative_model

pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
pytest.importorskip("narwhals")

N = 200
CELLS = {
    "key": [f"k{i}" for i in range(N)], "sex": ["F", "M"] * (N // 2), "income": [20.5 + (i * 7919 % 97) / 3 for i in range(N)],
    "city": [("Rome", "Paris", "<Bern>", " ?")[i * 31 % 7 % 4] for i in range(N)], "age": [18 + i * 13 % 60 for i in range(N)],
    "joined": [datetime.date(2020, 1, 1) + datetime.timedelta(days=i * 17 % 300) for i in range(N)], "where": ["here"] * N,
    "visits": [i * i % 1000 for i in range(N)], "member": [i % 3 == 0 for i in range(N)]}
LIBRARIES = {"pandas": lambda cells: pd.DataFrame(cells).astype({"joined": "datetime64[us]"}) if "joined" in cells else
             pd.DataFrame(cells), "polars": pl.DataFrame, "pyarrow": pa.table}


def holes(cells, every=7):
    """Cells of which some miss, but for those of the key and the constant."""
    return {name: values if name in ("key", "where") else [None if (i + j) % every == 0 else value for i, value in
                                                           enumerate(values)] for j, (name, values) in enumerate(cells.items())}


def mixture():
    return npgen.Mixture(3, random_state=0, max_iter=20, tol=0.1)


def made(**options):
    return npgen.MADE(hidden=(16,), max_epochs=2, random_state=0, **options)


def rows_of(frame):
    return frame.to_pylist() if hasattr(frame, "to_pylist") else frame.to_dicts() if hasattr(frame, "to_dicts") else \
        frame.to_dict("records")


def dtypes_of(frame):
    return dict(zip(frame.schema.names, frame.schema.types, strict=True)) if isinstance(frame, pa.Table) else dict(
        frame.schema if isinstance(frame, pl.DataFrame) else frame.dtypes)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("make", [mixture, made])
@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column", "ignore:fit. hidden")
def test_a_frame_in_is_a_frame_out(library, make, tmp_path, capsys):
    frame = LIBRARIES[library](CELLS)
    model = make().fit(frame)
    assert list(model.feature_names_in_) == ["sex", "income", "city", "age", "joined", "visits", "member"]
    assert [column.kind for column in model.schema_.columns] == ["id", "binary", "real", "category", "integer", "datetime",
                                                                 "constant", "integer", "binary"]
    drawn = model.sample(20, rng=1)
    assert type(drawn) is type(frame) and dtypes_of(drawn) == dtypes_of(frame)
    for i, row in enumerate(rows_of(drawn)):
        assert row["key"] == str(i + 1) and row["where"] == "here" and row["city"] in CELLS["city"]
        assert 18 <= row["age"] <= 77 and 0 <= row["visits"] <= 998 and row["member"] in (True, False)
    log_prob = model.log_prob(frame)
    assert isinstance(log_prob, np.ndarray) and log_prob.shape == (N,) and np.isfinite(log_prob).all()
    rows, nats = model.sample_and_log_prob(9, rng=1)
    assert nats.tobytes() == model.log_prob(rows).tobytes()
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    assert again.schema_ == model.schema_ and again.log_prob(frame).tobytes() == log_prob.tobytes()
    assert rows_of(again.sample(20, rng=1)) == rows_of(drawn)
    assert cli.main(["info", str(tmp_path / "m")]) == 0
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert len(lines) == 10 and lines[4].split()[:4] == ["city", "category", lines[4].split()[2], "counting"]
    numbers = model.without_schema()
    x = data.Table(model.schema_.encode(frame).astype(model.dtype_), model.schema_.names)
    assert numbers.log_prob(x).tobytes() == log_prob.tobytes() and isinstance(numbers.sample(3), np.ndarray)
    counted = dict(zip(model.schema_.names, model.measures_, strict=True))
    assert counted["city"] == counted["age"] == counted["sex"] == "counting" and counted["income"] == "length"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column")
def test_holes_are_filled_and_all_else_is_as_it_was(library):
    cells = holes({name: CELLS[name] for name in ("key", "sex", "income", "city", "age", "where", "member")})
    frame = LIBRARIES[library](cells)
    model = mixture().fit(frame)
    for how in ({}, {"rng": 1}):
        full = model.impute(frame, **how)
        assert type(full) is type(frame) and dtypes_of(full) == dtypes_of(frame)
        for row, before in zip(rows_of(full), rows_of(frame), strict=True):
            for name, value in row.items():
                seen = before[name] is not None and before[name] == before[name]
                assert value == before[name] if seen else value is not None and value == value
    assert np.isfinite(model.log_prob(frame)).all()
    assert isinstance(model.impute(data.Table(model.schema_.encode(frame), model.schema_.names)), np.ndarray)


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column")
def test_conditions_by_name():
    frame = LIBRARIES["pandas"]({name: CELLS[name] for name in ("sex", "income", "city", "age", "joined")})
    model = mixture().fit(frame)
    given = model.condition({"sex": "F", "age": 30})
    assert list(given.feature_names_in_) == ["income", "city", "joined"] and list(given.sample(2).columns) == ["income", "city",
                                                                                                             "joined"]
    x = model.schema_.encode(frame)
    by_number = model.without_schema().condition([0, 3], x[0, [0, 3]] * 0 + [0, 30])
    assert np.array_equal(given.without_schema().sample(5, rng=0), by_number.sample(5, rng=0))
    joint = model.log_prob(frame.assign(sex="F", age=30))
    chain = given.log_prob(frame[["income", "city", "joined"]]) + model.marginal(["sex", "age"]).log_prob(
        frame[["sex", "age"]].assign(sex="F", age=30))
    np.testing.assert_allclose(joint, chain, rtol=1e-10)
    assert list(model.marginal(["age", "sex"]).sample(3).columns) == ["age", "sex"]


@pytest.mark.filterwarnings("ignore:fit. hidden")
def test_made_conditions_and_imputes_by_name():
    frame = pl.DataFrame({name: CELLS[name] for name in ("sex", "city", "age")})
    model = made(order="any").fit(frame)
    drawn = model.condition({"city": "Rome"}).sample(5, rng=0)
    assert drawn.columns == ["sex", "age"] and set(drawn["sex"]) <= {"F", "M"}
    assert np.isfinite(model.condition({"city": "Rome"}).log_prob(frame[["sex", "age"]])).all()
    full = model.impute(frame.with_columns(age=pl.when(pl.col("age") > 40).then(pl.col("age"))))
    assert full["age"].null_count() == 0 and full["sex"].equals(frame["sex"])


@pytest.mark.parametrize("case", sorted(FIRST.values()))
def test_numbers_in_a_frame_are_fitted_as_an_array_of_them(case):
    """A model without heads for columns: to the same bits; what is drawn are frames."""
    x, model = CASES[case][1], fresh(case)
    names = [f"c{j}" for j in range(x.shape[1])]
    frame = pl.DataFrame(x, schema=names)
    model.fit(frame)
    assert model.schema_ is not None and isinstance(model.sample(3, rng=0), pl.DataFrame)
    assert model.sample(3, rng=0).dtypes == frame.dtypes
    if model.schema_.names == names and all(column.kind != "integer" for column in model.schema_.columns):
        plain = fresh(case).fit(data.Table(x, names))
        if getattr(plain, "kinds_", None) == getattr(model, "kinds_", None) and repr(plain.head_) == repr(model.head_):
            assert model.without_schema().sample(3, rng=0).tobytes() == plain.sample(3, rng=0).tobytes()


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column")
def test_the_laws_hold_for_a_model_of_a_table():
    frame = pl.DataFrame({name: CELLS[name] for name in ("sex", "income", "city")})
    report = check_generative_model(mixture().fit(frame), frame, n_samples=2000)
    assert report.passed, report


BASE = {"city": CELLS["city"], "x": CELLS["income"], "n": CELLS["age"]}
NUMBERS = {"x": CELLS["income"], "n": CELLS["age"]}


def fitted(model=mixture, cells=BASE, **options):
    return model().fit(pl.DataFrame(cells), **options)


REFUSED = {  # a call -> what the one line says
    "levels where there are none": (lambda: npgen.RealNVP().fit(pl.DataFrame(BASE)),
                                    "fit: column 'city' holds levels, which a RealNVP cannot; use a Mixture or a MADE"),
    "holes where there are none": (lambda: npgen.RealNVP().fit(pl.DataFrame(holes(NUMBERS))),
                                   "fit: column 'x' misses values, which a RealNVP cannot; fill them, or use a Mixture"),
    "kinds of an array": (lambda: mixture().fit(np.ones((9, 2)), columns={"a": "real"}), "fit: columns say what a Data"),
    "a kind that is none": (lambda: fitted(columns={"n": "float"}), "fit: column 'n': 'float' is no kind"),
    "another level": (lambda: fitted().log_prob(pl.DataFrame(BASE).with_columns(city=pl.lit("Oslo"))),
                      "log_prob: column 'city', row 1: 'Oslo' is none of its 4 levels"),
    "another type": (lambda: fitted().log_prob(pl.DataFrame(BASE).with_columns(x=pl.lit("1"))),
                     "log_prob: column 'x', row 1: '1' is no number"),
    "a whole number beyond": (lambda: fitted().log_prob(pl.DataFrame(BASE).with_columns(n=pl.lit(99))),
                              "log_prob: column 'n' is 99 in row 1, a value that no row of fit had"),
    "no such column": (lambda: fitted().condition({"sex": "F"}), "condition: there is no column 'sex'; there are 'city', 'x'"),
    "no such level": (lambda: fitted().condition({"city": "Oslo"}), "condition: column 'city', row 1: 'Oslo' is none of its"),
    "a level but for a space": (lambda: fitted().condition({"city": " rome"}),
                                "condition: column 'city', row 1: ' rome' is none of its 4 levels, 'Rome' is one; correct or"),
    "names of an array": (lambda: mixture().fit(np.eye(9)).condition({"a": 1}), "condition: {name: value} is for models"),
    "no such marginal": (lambda: fitted().marginal(["y"]), "marginal: there is no column 'y'"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning", "ignore:fit. column")
def test_what_a_model_of_a_table_cannot_is_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).replace("[", ".").replace("]", ".").startswith(words) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- the command line

def npgen_says(line, capsys, status=0):
    assert cli.main(line.split()) == status, line
    return capsys.readouterr().out if status == 0 else capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_from_a_csv_with_holes_to_scores_filled_cells_and_rows_under_conditions(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = {"zip": [f"0213{i % 5}" for i in range(N)], "sex": CELLS["sex"], "age": CELLS["age"], "x": CELLS["income"]}
    frame = pl.DataFrame(holes(cells))
    frame.write_csv("people.csv")
    assert "200 rows, 4 columns" in npgen_says("fit mixture --data people.csv --out m --set n_components=3", capsys)
    assert "counting  5 levels: '02130'" in npgen_says("info m", capsys)
    model = npgen.load("m")
    assert "nats per row" in npgen_says("score m --data people.csv --out scores.csv", capsys)
    scores = pl.read_csv("scores.csv", schema_overrides={"zip": pl.String})
    assert scores.columns == [*cells, "log_prob"] and np.allclose(scores["log_prob"], model.log_prob(frame))
    npgen_says("impute m --data people.csv --out whole.parquet", capsys)
    assert pl.read_parquet("whole.parquet").equals(model.impute(frame))
    npgen_says("sample m --given sex=F --given age=30 -n 9 --seed 1 --out rows.csv", capsys)
    rows = pl.read_csv("rows.csv")
    assert rows.columns == list(cells) and set(rows["sex"]) == {"F"} and set(rows["age"]) == {30}
    npgen_says("sample m -n 9 --seed 1 --out rows.csv", capsys)
    assert pl.read_csv("rows.csv", schema_overrides={"zip": pl.String}).rows() == model.sample(9, rng=1).rows()
    npgen_says("schema people.csv --column age=category --out s.json", capsys)
    npgen_says("fit mixture --data people.csv --schema s.json --out m2 --quiet", capsys)
    assert [column.kind for column in npgen.load("m2").schema_.columns] == ["category", "binary", "category", "real"]
    npgen_says("fit gmm --data people.csv --out m3 --quiet --column zip=text --column sex=text --set preprocess=None", capsys)
    assert npgen.load("m3").schema_.names == ["age", "x"]
    for line, words in {"sample m --given sex=D --out o.csv": "--given sex=D: 'D' is no value of 'sex'",
                        "sample m --given y=1 --out o.csv": "--given y=1: give NAME=VALUE, the name one of 'zip'",
                        "sample m --given age=old --out o.csv": "--given age=old: 'old' is no value of 'age'",
                        "fit realnvp --data people.csv --out o": "people.csv: row 1 (line 2), column 1 ('zip') is",
                        "fit mixture --data people.csv --out o --column y=real": "people.csv: columns names 'y'",
                        "fit mixture --data people.csv --out o --schema people.csv": "people.csv is no schema",
                        "score m --data scores2.csv": "scores2.csv has no column 'zip', 'x', which m was fitted on"}.items():
        pl.DataFrame({"sex": ["F"], "age": [3]}).write_csv("scores2.csv")
        err = npgen_says(line, capsys, status=2)
        assert words in err and err.count("\n") == 1, err
    assert not {"o", "o.csv"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.filterwarnings("ignore")
def test_fit_says_which_columns_it_does_not_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(CELLS).write_csv("d.csv")
    assert cli.main("fit mixture --data d.csv --out m --set n_components=2 --epochs 2".split()) == 0
    assert "not modelled  key (id), where (constant)\n" in capsys.readouterr().out
    pl.DataFrame({f"k{j}": CELLS["key"] for j in range(9)} | {"age": CELLS["age"]}).write_csv("d.csv")
    assert cli.main("fit mixture --data d.csv --out m --set n_components=2 --epochs 2".split()) == 0
    assert "k7 (id), and 1 more\n" in capsys.readouterr().out
    pl.DataFrame({"age": CELLS["age"], "sex": CELLS["sex"]}).write_csv("d.csv")
    assert cli.main("fit mixture --data d.csv --out m --set n_components=2 --epochs 2".split()) == 0
    assert "not modelled" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_what_em_ends_with_is_what_the_command_line_says(tmp_path, capsys, monkeypatch):
    """The floor of a variance follows the components, so that nats may fall where a value repeats: the last ones are kept."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = np.where(rng.uniform(size=(300, 2)) < 0.9, 0, rng.exponential(1000, (300, 2)).round())
    np.save("x.npy", np.column_stack([x, rng.integers(0, 3, 300)]))
    heads = "['normal','normal','categorical']"
    said = npgen_says(f"fit mixture --data x.npy --set n_components=6 --set heads={heads} --out m", capsys)
    model = npgen.load("m")
    history = [-entry["train_nats"] for entry in model.history_]
    assert max(history) > history[-1] + 0.1  # a case in which it matters
    assert f"{model.score(np.load('x.npy')):.4f} nats per row" in said and "best" not in said


def test_without_polars_numbers_are_read_and_tables_say_what_they_need(tmp_path, capsys, monkeypatch):
    """Parquet is read where polars is; numbers in a .csv, with holes, by npgen's own reader, to the same numbers."""
    monkeypatch.chdir(tmp_path)
    x = np.round(np.random.default_rng(0).normal(size=(60, 2)), 3)
    frame = pl.DataFrame(x, schema=["a", "b"]).with_columns(b=pl.when(pl.int_range(60) % 7 > 0).then("b"))
    frame.write_csv("x.csv")
    frame.write_parquet("x.parquet")
    npgen_says("fit mixture --data x.parquet --out m.npgen --quiet", capsys)
    npgen_says("score m.npgen --data x.parquet --out with.csv", capsys)
    assert np.allclose(pl.read_csv("with.csv")["log_prob"], npgen.load("m.npgen").log_prob(frame))
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest, of=importlib.util.find_spec: None if name == "polars"
                        else of(name, *rest))
    npgen_says("fit mixture --data x.csv --out n.npgen --quiet", capsys)
    npgen_says("impute n.npgen --data x.csv --out whole.csv", capsys)
    whole = np.loadtxt("whole.csv", delimiter=",", skiprows=1)
    assert np.isfinite(whole).all() and np.array_equal(whole[:, 0], x[:, 0])
    for line in ("fit mixture --data x.parquet --out o", "schema x.csv", "score m.npgen --data x.csv --out o.csv"):
        err = npgen_says(line, capsys, status=2)
        assert "need polars; pip install 'npgen[tables]'" in err and err.count("\n") == 1
    assert not {"o", "o.csv"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [lambda: npgen.Mixture(2, random_state=0, max_iter=5),
                                  lambda: npgen.MADE(hidden=(8,), max_epochs=2, random_state=0)])
def test_a_whole_number_between_those_of_fit_has_a_probability_and_all_add_up_to_one(make):
    frame = pl.DataFrame({"k": [3, 5, 60] * 30, "s": ["u", "v", "u"] * 30})
    model = make().fit(frame)
    every = pl.DataFrame({"k": [k for k in range(3, 61) for _ in "uv"], "s": ["u", "v"] * 58})
    p = np.exp(model.log_prob(every))
    assert (p > 0).all() and abs(p.sum() - 1) < 1e-5
    with pytest.raises(ValueError, match="log_prob: column 'k' is 2 in row 1, a value that no row of fit had; leave it out"):
        model.log_prob(every[:1].with_columns(k=2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [lambda: npgen.Mixture(2, random_state=0, max_iter=5),
                                  lambda: npgen.MADE(hidden=(8,), max_epochs=1, random_state=0)])
def test_a_column_that_is_not_there_is_one_line(make):
    frame = pl.DataFrame(CELLS)
    model = make().fit(frame)
    assert model.capabilities.measures == tuple(model.measures_) and len(model.measures_) == 7
    with pytest.raises(ValueError, match="^log_prob: X has no column 'sex', which this M.* was fitted on; it has ") as caught:
        model.log_prob(frame.drop("sex"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", ["ten thousand columns", "a million levels"])
def test_wide_and_deep_tables(shape, tmp_path):
    rng = np.random.default_rng(0)
    if shape == "a million levels":
        levels = [f"l{i}" for i in range(10**6)]
        frame = pl.DataFrame({"deep": pl.Series([levels[i] for i in rng.integers(0, 10**6, 2000)], dtype=pl.Enum(levels)),
                              "x": rng.normal(size=2000)})
    else:
        frame = pl.DataFrame({f"c{j}": rng.integers(0, 5, 40) if j % 2 else [
            ("a", "b", None)[i] for i in rng.integers(0, 3, 40)] for j in range(10**4)})
    model = npgen.Mixture(2, random_state=0, max_iter=2).fit(frame)
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    if shape == "a million levels":
        assert (tmp_path / "m").stat().st_size < 20e6 and again.schema_ == model.schema_
    nats = again.log_prob(frame)
    assert np.isfinite(nats).all() and np.array_equal(nats, model.log_prob(frame))
    drawn = again.sample(3, rng=0)
    assert drawn.schema == frame.schema and drawn.equals(model.sample(3, rng=0), null_equal=True)
    assert again.impute(frame[:2]).null_count().sum_horizontal().item() == 0
