"""Questions to models of tables: columns by name, conditions, what is given as missing; files, and errors that name a cell."""
import numpy as np
import pytest

pd, pl = (pytest.importorskip(name) for name in ("pandas", "polars"))
pytest.importorskip("pyarrow")

from test_tables import BASE, CELLS, LIBRARIES, N, holes, made, mixture, npgen_says, rows_of  # noqa: E402

import npgen  # noqa: E402
from npgen import cli, data  # noqa: E402


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [mixture, lambda: made(order="any")])
def test_columns_are_found_by_name_in_every_query(make):
    """In any order, others left out; those that are missing are named in one line."""
    frame = pd.DataFrame({name: CELLS[name] for name in ("sex", "income", "city", "age")})
    model = make().fit(frame)
    other = frame[["age", "city", "income", "sex"]].assign(more=1)
    holes_in = other.assign(age=other["age"].where(other["age"] > 40))
    for query in (model.log_prob, model.encode, model.score, model.score_samples, lambda X: model.predict(X, "city")):
        assert np.array_equal(query(frame), query(other))
    if make is mixture:
        assert np.array_equal(model.explain(frame), model.explain(other))
    full = model.impute(holes_in)
    assert list(full.columns) == list(holes_in.columns) and full["age"].notna().all() and (full["more"] == 1).all()
    for query in (model.log_prob, model.encode, model.score, model.impute, lambda X: model.predict(X, "city")):
        with pytest.raises(ValueError, match="X has no column 'sex', 'age'") as caught:
            query(frame[["city", "income"]])
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="^fit: validation_data: X has no column 'sex'"):
        made().fit(frame, validation_data=frame.drop(columns="sex"))


@pytest.mark.filterwarnings("ignore")
def test_real_numbers_alone_are_found_by_name_but_by_the_methods_that_scikit_learn_checks():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"])
    model = npgen.GaussianMixture(2, random_state=0).fit(frame)
    other = frame[["b", "a"]].assign(c=0.0)
    for query in (model.log_prob, model.encode, model.explain, lambda X: model.predict(X, "a")):
        assert np.array_equal(query(frame), query(other))
    assert model.impute(other).equals(other)
    for query in (model.score_samples, model.score, model.transform, model.predict, model.predict_proba):
        with pytest.raises(ValueError, match="Feature names unseen at fit time:\n- c\n"):
            query(other)


@pytest.mark.filterwarnings("ignore")
def test_a_condition_leaves_the_columns_in_the_order_of_the_table():
    rng = np.random.default_rng(0)
    b, c = rng.integers(0, 100, 300), rng.integers(0, 50, 300)
    frame = pl.DataFrame({"b": b, "sex": rng.choice(["F", "M"], 300), "c": c, "a": b + c, "x": rng.normal(size=300)})
    model = mixture().fit(frame)
    assert model.schema_.columns[3].kind == "determined"
    assert model.condition({"sex": "F"}).sample(2).columns == ["b", "c", "a", "x"]
    assert model.condition({"sex": "F", "x": (0, None)}).sample(2).columns == ["b", "c", "a"]
    assert made(order="any").fit(frame).condition({"sex": "F"}).sample(2).columns == ["b", "c", "a", "x"]
    assert model.marginal(["c", "x", "b"]).sample(2).columns == ["c", "x", "b", "a"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_mixture_of_missing_states_is_conditioned_on_what_is_missing(library):
    """Exactly: p(rest | x is missing) = p(rest, x is missing) / p(x is missing)."""
    cells = holes({name: CELLS[name] for name in ("sex", "income", "city", "age")}, every=3)
    frame = LIBRARIES[library](cells)
    model = npgen.Mixture(3, missing="model", random_state=0, max_iter=20).fit(frame)
    schema, rest = model.schema_, ["sex", "city", "age"]
    x = schema.encode(frame)
    x[:, 1] = np.nan
    numbers = model.without_schema()
    right = numbers.log_prob(data.Table(x, schema.names)) - numbers.marginal([1]).log_prob(data.Table(x[:, [1]], ["income"]))
    for gap in (None, float("nan"), np.float64("nan"), pd.NA, pd.NaT):
        given = model.condition({"income": gap})
        np.testing.assert_allclose(given.log_prob(frame), right, rtol=1e-10)
        assert list(given.schema_.names) == rest
    np.testing.assert_array_equal(numbers.condition([1], [np.nan]).log_prob(data.Table(x[:, [0, 2, 3]], rest)),
                                  given.log_prob(frame))
    with_level = model.condition({"income": None, "city": "Rome"})
    assert np.isfinite(with_level.log_prob(frame)).all()
    rows = rows_of(model.sample(40, given={"income": None, "age": (20, 40)}, rng=0))
    assert all(row["income"] is None or row["income"] != row["income"] for row in rows)
    assert all(20 <= row["age"] <= 40 for row in rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_made_is_conditioned_on_what_is_missing(library):
    """Where it comes first p(rest | x is missing) is log_prob less x's share of it, and rows drawn given it follow that."""
    cells = {name: CELLS[name] for name in ("income", "age", "city", "sex")}
    cells = holes(cells, every=3) | {"age": holes({"age": CELLS["age"]}, every=2)["age"], "sex": CELLS["sex"]}
    frame = LIBRARIES[library](cells)
    model = made(order="natural").fit(frame)
    schema, numbers = model.schema_, model.without_schema()
    x = schema.encode(frame)
    x[:, 0] = np.nan
    whole = data.Table(x, schema.names)
    given = model.condition({"income": None})
    right = numbers.log_prob(whole) - numbers.explain(whole)[:, 0]
    assert np.isnan(x[:, 1]).any()
    np.testing.assert_allclose(given.log_prob(frame), right, rtol=1e-9)
    np.testing.assert_allclose(numbers.condition([0], [np.nan]).log_prob(x[:, 1:]), right, rtol=1e-9)
    drawn = numbers.condition([0], [np.nan]).sample(4000, rng=0)
    row = np.flatnonzero(np.isnan(x[:, 1]))[0]
    p, n = float(np.exp(numbers.explain(whole)[row, 1])), len(drawn)
    assert 0.05 < p < 0.95 and abs(np.isnan(drawn[:, 0]).mean() - p) < 5 * (p * (1 - p) / n)**0.5
    assert list(dict(rows_of(given.sample(2, rng=0))[0])) == ["age", "city", "sex"]
    both = made(order="any").fit(frame)
    for known in ({"income": None}, {"income": None, "city": "Rome", "age": (20, 40)}):
        rows = rows_of(both.sample(40, given=known, rng=0))
        assert all(row["income"] is None or row["income"] != row["income"] for row in rows)
    assert all(20 <= row["age"] <= 40 and row["city"] == "Rome" for row in rows)
    inside = both.condition({"income": None, "age": (20, 40)})
    assert np.isfinite(inside.log_prob(frame)).all()
    with pytest.raises(ValueError, match=r"condition: values\[0, 1\] is nan, but no row of fit missed that column; remove"):
        both.without_schema().condition([0, 3], [np.nan, np.nan])
    with pytest.raises(ValueError, match=r"log_prob: X\[0, 2\] is nan, but no row of fit missed that column; remove or"):
        numbers.condition([0], [np.nan]).log_prob(np.array([[30.0, 0.0, np.nan]]))


@pytest.mark.filterwarnings("ignore")
def test_missing_is_no_condition_where_it_is_marginalised(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame(holes({name: CELLS[name] for name in ("sex", "income", "age")}) | {"city": CELLS["city"]})
    states = npgen.Mixture(2, missing="model", random_state=0, max_iter=5).fit(frame)
    for model, column in ((mixture().fit(frame), "income"), (made(order="any").fit(frame), "city"), (states, "city")):
        for ask in (lambda given, model=model: model.condition(given), lambda given, model=model: model.sample(2, given=given)):
            with pytest.raises(ValueError, match=f": column '{column}': None is no value of it, and this M.* cannot be ") as e:
                ask({column: None})
            assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"condition: values\[0, 0\] is nan, but no row of fit missed column 3; give a value"):
        states.without_schema().condition([3, 1], [np.nan, np.nan])
    with pytest.raises(ValueError, match=r"condition: values\[0, 0\] is nan"):
        mixture().fit(frame).without_schema().condition([1], [np.nan])
    states.save("m")
    npgen_says("sample m --given income= --given sex=F -n 5 --seed 0 --out o.csv", capsys)
    rows = pl.read_csv("o.csv")
    assert rows["income"].null_count() == 5 and set(rows["sex"]) == {"F"}
    assert "--given city=: sample: column 'city': None is" in npgen_says("sample m --given city= --out o.csv", capsys, status=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("missing", ["marginalise", "model"])
def test_a_hole_is_filled_in_as_what_could_have_been_seen(missing):
    """With the likeliest level, and of whole numbers the mean, of p(cell | the seen cells), by log_prob of all that it may be;
    not given that the cell is missing, however much that says."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 600)
    city = np.where(rng.random(600) < 0.8, kind, rng.integers(0, 3, 600))
    size = np.where(rng.random(600) < 0.7, 1 + 5 * kind, rng.integers(0, 8, 600))
    gone = rng.random((2, 600)) < np.where(kind == 1, 0.6, 0.02)  # nearly all that miss are of kind 1
    frame = pl.DataFrame({"city": np.array(["Rome", "Paris", "Bern"])[city], "size": size,
                          "y": kind + rng.normal(size=600)}).with_columns(
        city=pl.when(pl.Series(~gone[0])).then("city"), size=pl.when(pl.Series(~gone[1])).then("size"))
    model = npgen.Mixture(2, missing=missing, random_state=0).fit(frame)
    names, holes_in = model.schema_.columns[0].levels, frame.filter(pl.col("city").is_null() | pl.col("size").is_null())
    every = [(level, number) for level in names for number in range(8)]
    full = model.impute(holes_in)
    joint = np.stack([model.log_prob(holes_in.with_columns(city=pl.col("city").fill_null(level), size=pl.col(
        "size").fill_null(number))) for level, number in every], axis=1)  # a seen cell is in each of them
    p = np.exp(joint - joint.max(axis=1, keepdims=True)).reshape(-1, len(names), 8)
    p /= p.sum(axis=(1, 2), keepdims=True)
    likeliest = [cell or names[i] for cell, i in zip(holes_in["city"], p.sum(axis=2).argmax(axis=1), strict=True)]
    means = [number if cell is None else cell for cell, number in zip(
        holes_in["size"], np.rint(p.sum(axis=1) @ np.arange(8)).astype(int).tolist(), strict=True)]
    assert full["city"].to_list() == likeliest and full["size"].to_list() == means
    drawn = model.impute(holes_in[[0] * 4000], rng=0)
    row = holes_in.row(0, named=True)
    for name, right in (("city", dict(zip(names, p[0].sum(axis=1), strict=True))), ("size", dict(enumerate(p[0].sum(axis=0))))):
        for value, q in right.items() if row[name] is None else ():
            assert abs((drawn[name] == value).mean() - q) < 5 * (q * (1 - q) / 4000)**0.5 + 1e-9


@pytest.mark.filterwarnings("ignore")
def test_a_column_that_is_counted_from_a_missing_one_is_given_as_missing_too():
    rng = np.random.default_rng(0)
    begin = rng.integers(0, 1000, 300).astype(float)
    frame = pd.DataFrame({"begin": begin, "end": begin + rng.integers(0, 90, 300), "sex": rng.choice(["F", "M"], 300)})
    frame.loc[::4, ["begin", "end"]] = np.nan
    model = npgen.Mixture(2, missing="model", random_state=0, max_iter=5).fit(frame, columns={"end": ">= begin"})
    with pytest.raises(ValueError, match="condition: column 'end' is counted from 'begin'; where that is missing, give"):
        model.condition({"begin": None})
    assert list(model.condition({"begin": None, "end": None}).sample(3).columns) == ["sex"]
    assert model.sample(5, given={"begin": None, "end": None})[["begin", "end"]].isna().all().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["mixture", "made"])
def test_numbers_under_names_in_a_csv_are_a_table(model, tmp_path, capsys, monkeypatch):
    """As in Python: integers on their grids, columns that follow derived, a table in and a table out."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    b, c = rng.integers(0, 100, 200), rng.integers(0, 50, 200)
    frame = pl.DataFrame({"b": b, "c": c, "a": b + c, "x": rng.normal(size=200)})
    frame.write_csv("x.csv")
    options = "--set order=any --epochs 2" if model == "made" else "--set n_components=2 --epochs 5"
    said = npgen_says(f"fit {model} --data x.csv --valid x.csv --out m {options}" if model == "made" else
                      f"fit {model} --data x.csv --out m {options}", capsys)
    assert "a       determined  Int64    is b + c\n" in said and said.index("is b + c") < said.index("200 rows, 4 columns")
    fitted = npgen.load("m")
    assert [column.kind for column in fitted.schema_.columns] == ["integer", "integer", "determined", "real"]
    npgen_says("score m --data x.csv --out s.csv", capsys)
    scores = pl.read_csv("s.csv")
    assert scores.drop("log_prob").equals(frame) and np.allclose(scores["log_prob"], fitted.log_prob(frame))
    there = pl.int_range(200) % 3 > 0
    frame.with_columns(a=pl.when(there).then("a"), b=pl.when(there).then("b")).write_csv("holes.csv")
    npgen_says("impute m --data holes.csv --seed 0 --out w.csv", capsys)
    whole = pl.read_csv("w.csv")
    assert whole.dtypes == frame.dtypes and whole["b"].null_count() == 0 and (whole["a"] == whole["b"] + whole["c"]).all()
    npgen_says("sample m --given b=20..30 -n 20 --seed 0 --out o.csv", capsys)
    rows = pl.read_csv("o.csv")
    assert rows.dtypes == frame.dtypes and rows["b"].is_between(20, 30).all() and (rows["a"] == rows["b"] + rows["c"]).all()
    npgen_says("report m --data x.csv --out r.html", capsys)
    npgen_says("check m --data x.csv --samples 200", capsys)
    np.save("bare.npy", frame.drop("a").to_numpy())
    npgen_says("score m --data bare.npy --out s.npy", capsys)
    assert np.allclose(np.load("s.npy"), scores["log_prob"])
    frame[["x", "c", "b"]].with_columns(more=pl.lit(1)).write_csv("y.csv")
    assert cli.main(["score", "m", "--data", "y.csv", "--out", "s.csv"]) == 0
    assert "y.csv: 'more' left out, because m was fitted on no column of that name" in capsys.readouterr().err
    assert np.allclose(pl.read_csv("s.csv")["log_prob"], scores["log_prob"])


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_table_stays_an_array(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 9, (60, 2))
    np.save("x.npy", x)
    np.savetxt("bare.csv", x, "%d", ",")
    pl.DataFrame(x, schema=["a", "b"]).write_csv("x.csv")
    pl.DataFrame(np.tile(x, (1, 51)), schema=[f"p{j}" for j in range(102)]).write_csv("wide.csv")
    for line in ("fit mixture --data x.npy", "fit mixture --data bare.csv", "fit gmm --data x.csv", "fit vae --data x.csv",
                 "fit made --data x.csv --set preprocess=dequantize+standardize", "fit mixture --data wide.csv"):
        said = npgen_says(f"{line} --out m --epochs 2", capsys)
        assert npgen.load("m").schema_ is None and "kind" not in said
    npgen_says("fit mixture --data wide.csv --column p0=category --epochs 1 --out m --quiet", capsys)
    assert npgen.load("m").schema_ is not None
    for line, words in {
            "fit mixture --data x.npy --column a=real --out o": "--column says what the columns of a table are, but",
            "fit made --data x.csv --context a --column b=real --out o": "x.csv is fitted as an array where there",
            }.items():
        assert words in npgen_says(line, capsys, status=2)


@pytest.mark.filterwarnings("ignore")
def test_fit_prints_the_schema_of_the_first_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({f"c{j}": np.arange(30) * 7 % 10 + j for j in range(70)}).write_csv("d.csv")
    said = npgen_says("fit mixture --data d.csv --out m --set n_components=1 --epochs 2", capsys)
    assert said.startswith("column  kind") and "\nand 10 more columns: npgen schema d.csv\n\n" in said
    assert npgen_says("fit mixture --data d.csv --out m --set n_components=1 --epochs 2 --quiet", capsys) == ""


@pytest.mark.filterwarnings("ignore")
def test_an_error_about_a_cell_names_file_row_and_column(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame({"city": CELLS["city"], "age": CELLS["age"], "size": ["S", "M", "L", "M"] * (N // 4)})
    frame.write_csv("d.csv")
    npgen_says("fit mixture --data d.csv --out m --quiet --epochs 2", capsys)
    npgen_says("schema d.csv --out s.json", capsys)
    frame.with_columns(city=pl.when(pl.int_range(N) == 6).then(pl.lit("Madrid")).otherwise("city")).write_csv("e.csv")
    frame.with_columns(age=pl.when(pl.int_range(N) == 6).then(144).otherwise("age")).write_csv("old.csv")
    frame.drop("city").write_csv("less.csv")
    pl.DataFrame({"x": [1e300, -1e300] * 20, "s": ["u", "v", "u", "u"] * 10}).write_csv("far.csv")
    for line, words in {
            "score m --data e.csv": "e.csv: log_prob: column 'city', row 7: 'Madrid' is none of",
            "impute m --data e.csv --out o.csv": "e.csv: impute: column 'city', row 7: 'Madrid' is none of",
            "explain m --data e.csv --out o.csv": "e.csv: explain: column 'city', row 7: 'Madrid' is none of",
            "encode m --data e.csv --out o.csv": "e.csv: encode: column 'city', row 7: 'Madrid' is none of",
            "report m --data e.csv --out o.html": "e.csv: report: column 'city', row 7: 'Madrid' is none of",
            "report m --data d.csv --holdout e.csv --out o.html": "e.csv: report: holdout: column 'city', row 7: 'Madrid' is",
            "check m --data e.csv": "e.csv: column 'city', row 7: 'Madrid' is none of",
            "score m --data old.csv": "old.csv: log_prob: column 'age' is 144 in row 7",
            "fit mixture --data less.csv --schema s.json --out o": "less.csv: fit: X has no column 'city'; its columns are",
            "fit mixture --data e.csv --schema s.json --out o": "e.csv: fit: column 'city', row 7: 'Madrid' is none of",
            "fit mixture --data far.csv --out o": "far.csv: fit: column 'x' has values too far apart",
            "fit made --data d.csv --valid e.csv --out o": "e.csv: fit: validation_data: column 'city', row 7: 'Madrid'",
            "fit made --data d.csv --valid less.csv --out o": "less.csv has no column 'city', which d.csv has",
            "sample m --given age=40..30 --out o.csv": "--given age=40..30: sample: column 'age': (40.0, 30.0) is an empty",
            "schema d.csv --column size=S<M": "d.csv: column 'size', row 3: 'L' is none of its 2 levels",
            "schema d.csv --column size=S<M<L<M": "d.csv: column 'size' is given the levels ('S', 'M', 'L', 'M'), one of them",
            }.items():
        err = npgen_says(line, capsys, status=2)
        assert err.startswith(f"npgen: error: {words}") and err.count("\n") == 1, err
    assert not {"o", "o.csv", "o.html"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["mixture", "made"])
def test_a_file_with_values_that_no_row_of_fit_had_is_scored_with_unseen(model, tmp_path, capsys, monkeypatch):
    """Their log p(x) is -inf, in explain that of the cells to blame, and all other rows are as they are without them."""
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame({name: CELLS[name] for name in ("city", "age", "income", "visits")}).filter(pl.col("city") != " ?")
    n = len(frame)
    frame.write_csv("d.csv")
    npgen_says(f"fit {model} --data d.csv --out m --quiet --epochs 2", capsys)
    at = pl.int_range(n)
    frame.with_columns(city=pl.when(at.is_in([6, 9])).then(pl.lit("Madrid")).otherwise("city"),
                       age=pl.when(at.is_in([9, 11])).then(144).otherwise("age")).write_csv("e.csv")
    wrong, rest = np.isin(np.arange(n), [6, 9, 11]), frame.filter(~at.is_in([6, 9, 11]))
    fitted = npgen.load("m")
    known = fitted.in_support(pl.read_csv("e.csv"))
    assert np.argwhere(~known).tolist() == [[6, 0], [9, 0], [9, 1], [11, 1]] and fitted.in_support(frame).all()
    for line in ("score m --data e.csv", "explain m --data e.csv --out o.csv", "report m --data e.csv --out o.html"):
        err = npgen_says(line, capsys, status=2)
        assert err.endswith("or leave out such rows, --unseen\n") and err.count("\n") == 1, err
    assert cli.main(["score", "m", "--data", "e.csv", "--unseen", "--out", "s.csv"]) == 0
    said = capsys.readouterr()
    assert "e.csv: 3 rows have values that no row of fit had: 'Madrid' in column 'city' of row 7, 'Madrid' in" in said.err
    assert f"{n}, of which 3 have log p(x) = -inf" in said.out and f"{fitted.log_prob(rest).mean():.4f} ±" in said.out
    scores = pl.read_csv("s.csv")
    assert (scores["log_prob"].to_numpy()[wrong] == -np.inf).all() and scores.drop("log_prob").equals(pl.read_csv("e.csv"))
    np.testing.assert_allclose(scores["log_prob"].to_numpy()[~wrong], fitted.log_prob(rest))
    assert cli.main(["explain", "m", "--data", "e.csv", "--unseen", "--out", "o.csv"]) == 0
    shares = pl.read_csv("o.csv").to_numpy()
    np.testing.assert_allclose(shares[~wrong], fitted.explain(rest).to_numpy())
    assert (shares[~known] == -np.inf).all() and np.isnan(shares[wrong][known[wrong]]).all()
    assert cli.main(["report", "m", "--data", "e.csv", "--holdout", "e.csv", "--unseen", "--out", "o.html"]) == 0
    frame.with_columns(city=pl.lit("Madrid")).write_csv("none.csv")
    for line in ("score m --data none.csv --unseen", "report m --data none.csv --unseen --out p.html"):
        assert "--unseen: none.csv has no row left" in npgen_says(line, capsys, status=2)
    np.save("x.npy", np.random.default_rng(0).normal(size=(9, 4)))
    npgen_says("fit gmm --data x.npy --out g --set n_components=1 --quiet", capsys)
    assert "--unseen: g or x.npy is no table" in npgen_says("score g --data x.npy --unseen", capsys, status=2)
    with pytest.raises(ValueError, match="in_support: X has no column 'city'"):
        fitted.in_support(frame.drop("city"))
    with pytest.raises(ValueError, match="in_support: X has 9 columns, but fit had"):
        fitted.in_support(np.ones((3, 9)))


@pytest.mark.parametrize("columns", ["s", ["s"], {"s": 3}, {"s": {}}, 7, [("s", "real")]])
def test_columns_that_are_no_kinds_by_name_are_one_sentence(columns):
    with pytest.raises(ValueError, match=r"^fit: column(s is .*; give \{name: kind\}| 's': .* is no kind of column; choose)"):
        mixture().fit(pd.DataFrame(BASE).assign(s=1), columns=columns)
    with pytest.raises(ValueError, match="'u'.* is no.*column|column 's' is given the levels"):
        data.Schema.infer(pd.DataFrame({"s": ["u", "v"]}), {"s": ["u", "u"]} if isinstance(columns, dict) else {"u": "real"})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [mixture, made, lambda: npgen.RealNVP(hidden=(8,), n_couplings=2, max_epochs=2)])
def test_money_of_which_no_two_amounts_are_the_same_is_drawn_and_filled_in_with_its_decimals(make):
    """While its density is that of a line, in the column's unit: nothing is refused for having more decimals."""
    rng = np.random.default_rng(0)
    cents = rng.permutation(1_000_000)[:300]
    frame = pd.DataFrame({"money": cents / 100, "x": rng.normal(size=300)})
    model = make().fit(frame)
    money, x = model.schema_.columns
    assert (money.decimals, money.step, x.decimals) == (2, None, None) and money.words().endswith(" with 2 decimals")
    assert data.Schema.from_config(model.schema_.config()) == model.schema_
    drawn = model.sample(200, rng=0)["money"]
    assert (drawn == drawn.round(2)).all() and drawn.nunique() > 190
    assert np.isfinite(model.log_prob(frame.assign(money=frame["money"] + 0.001))).all()
    assert model.measures_[0] == "length"
    if make is not mixture:
        return
    hole = frame.assign(money=frame["money"].where(frame.index % 5 > 0))
    for full in (model.impute(hole), model.impute(hole, rng=0)):
        assert (full["money"] == full["money"].round(2)).all()
    assert model.condition({"money": 12.345}).score(frame[["x"]]) < 0
    twice = mixture().fit(pd.concat([frame, frame[:1]]))
    assert twice.measures_[0] == "counting"


FINE = {  # numbers, none of which repeats -> the decimals that they are taken to have
    "money": (lambda rng: rng.permutation(100_000)[:40] / 100, 2),
    "six decimals": (lambda rng: rng.permutation(10**6)[:40] / 10**6, 6),
    "few rows": (lambda rng: rng.permutation(100_000)[:19] / 100, None),
    "any": (lambda rng: rng.normal(size=40), None),
    "halves and any": (lambda rng: np.append(np.arange(39) / 2, np.pi), None),
    "so large that floats have no more decimals": (lambda rng: rng.permutation(2**20)[:40] / 2**20 + 2.0**40, None),
    "float32": (lambda rng: (rng.permutation(100_000)[:40] / 100).astype(np.float32), 2),
    "float32 that has no more": (lambda rng: (rng.uniform(1, 2, 40) * 2**18).astype(np.float32), None),
}


@pytest.mark.parametrize("case", FINE)
def test_decimals_are_those_of_the_data_unless_by_chance(case):
    make, decimals = FINE[case]
    found = data.Schema.infer(pd.DataFrame({"x": make(np.random.default_rng(0))})).columns[0]
    assert found.kind == "real" and found.decimals == decimals and found.step is None
