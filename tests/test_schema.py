"""Schemas: a table as numbers and back is the same table, in every library; what a column is taken for; what is refused."""
import datetime
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgen import cli
from npgen.data import DataError, Schema, Source
from npgen.data.reading import read_table, write_table
from npgen.data.text import Dialect

pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
pytest.importorskip("narwhals")

TEXT = st.one_of(st.sampled_from([" ?", "?", "", " a", "a", "NA", "<b>&amp;", "=1+1", "a,b", "ü\n", "02134", "2020-01-01"]),
                 st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5))
MOMENTS = st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2050, 1, 1))
CELLS = {  # kind of cells -> what a value of them is
    "integers": st.integers(-2**52, 2**52), "small": st.integers(-5, 120), "bits": st.integers(0, 1), "bools": st.booleans(),
    "reals": st.floats(-1e300, 1e300), "rounded": st.integers(-999, 999).map(lambda k: k / 10),
    "texts": TEXT, "moments": MOMENTS.map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    "dates": MOMENTS.map(lambda t: t.date()), "iso": MOMENTS.map(lambda t: t.strftime("%Y-%m-%d"))}
PANDAS = {"integers": ["Int64", "int64[pyarrow]"], "small": ["Int16", "category", "object"], "bits": ["Int8"],
          "bools": ["boolean", "object"], "reals": ["float64", "Float64"], "rounded": ["float64", "float32"],
          "texts": ["str", "object", "string[python]", "category", "ordered"],
          "moments": ["datetime64[ms]", "datetime64[us]", "zone"], "iso": ["str"]}
POLARS = {"integers": [pl.Int64], "small": [pl.Int16, pl.UInt8], "bits": [pl.Int8], "bools": [pl.Boolean],
          "reals": [pl.Float64], "rounded": [pl.Float64, pl.Float32], "texts": [pl.String, pl.Categorical, pl.Enum],
          "moments": [pl.Datetime("ms"), pl.Datetime("us", "Europe/Berlin")], "dates": [pl.Date], "iso": [pl.String]}
ARROW = {"integers": [pa.int64()], "small": [pa.int16(), pa.float32()], "bits": [pa.int8()], "bools": [pa.bool_()],
         "reals": [pa.float64()], "rounded": [pa.float64()], "texts": [pa.string(), pa.large_string(), "dictionary"],
         "moments": [pa.timestamp("ms"), pa.timestamp("us", "UTC")], "dates": [pa.date32()], "iso": [pa.string()]}


def levels_of(values):
    return sorted({value for value in values if value is not None}, reverse=True) + ["unused"]


def pandas_column(values, dtype):
    if dtype == "zone":
        return pd.Series(values, dtype="datetime64[us]").dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    if dtype in ("category", "ordered"):
        there = any(value is not None for value in values)
        known = levels_of(values) if dtype == "ordered" else None if there else []  # of none, the dtype is not kept
        return pd.Series(pd.Categorical(values, categories=known, ordered=dtype == "ordered"))
    return pd.Series(values, dtype=dtype)


def polars_column(values, dtype):
    if dtype is pl.UInt8:
        values = [value and abs(value) for value in values]
    return pl.Series(values, dtype=pl.Enum(levels_of(values)) if dtype is pl.Enum else dtype, strict=False)


def arrow_column(values, dtype):
    return pa.array(values).cast(pa.string()).dictionary_encode() if dtype == "dictionary" else pa.array(values, dtype)


LIBRARIES = {"pandas": (PANDAS, pandas_column, lambda columns: pd.DataFrame(columns, index=None)),
             "polars": (POLARS, polars_column, pl.DataFrame), "pyarrow": (ARROW, arrow_column, pa.table)}


def same_tables(a, b):
    assert type(a) is type(b)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    elif isinstance(a, pl.DataFrame):
        assert a.schema == b.schema and a.equals(b)
    else:
        assert a.schema == b.schema and a.equals(b.combine_chunks())


def select(table, names):
    return table.select(names) if hasattr(table, "select") else table[names]


@st.composite
def tables(draw, library):
    dtypes, column, table = LIBRARIES[library]
    n, columns = draw(st.integers(2, 12)), {}
    for j in range(draw(st.integers(1, 4))):
        cells = draw(st.sampled_from(sorted(dtypes)))
        gaps = draw(st.booleans())
        values = draw(st.lists(st.one_of(CELLS[cells], st.none()) if gaps else CELLS[cells], min_size=n, max_size=n))
        name = draw(st.sampled_from(["a", "B b", "c/(d)", "<e>"])) + str(j)
        columns[name] = column(values, draw(st.sampled_from(dtypes[cells])))
    return table(columns)


def test_a_number_that_is_rounded_to_zero_has_no_sign():
    schema = Schema.infer(pl.DataFrame({"x": [0.0, 0.1, 0.1, 2.5], "y": [-0.5, 0.5, 0.5, -1.5]}))
    signs = np.signbit(schema.decode(np.array([[-0.04, -0.04], [-0.0, -0.0], [0.0, 0.0]])).to_numpy())
    assert signs.tolist() == [[False, False], [True, True], [False, False]]  # a zero that was there keeps its own


@pytest.mark.parametrize("library", LIBRARIES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_table_as_numbers_and_back_is_the_same_table(library, data):
    frame = data.draw(tables(library))
    try:
        schema = Schema.infer(frame)
    except DataError as error:
        assert "no column is left to model" in str(error)
        return
    assert schema.library == library and schema.rows == len(frame)
    x = schema.encode(frame)
    assert x.shape == (len(frame), len(schema.names)) and not np.isinf(x).any()
    for known in (schema, Schema.from_config(json.loads(json.dumps(schema.config())))):
        assert known == schema
        back = known.decode(x)
        same_tables(select(back, schema.names), select(frame, schema.names))
    constants = [column.name for column in schema.columns if column.kind == "constant"]
    same_tables(select(back, constants), select(frame, constants))
    assert str(schema).count("\n") == len(schema.columns)
    assert x.tobytes() == schema.encode(select(frame, schema.names[::-1])).tobytes()  # found by name


def test_the_order_of_levels_and_the_index_come_back():
    frame = pd.DataFrame({"size": pd.Categorical(["M", "S", None], ["S", "M", "L"], ordered=True), "x": [0.5, 1.25, np.nan]},
                         index=[7, "a", 3.5])
    schema = Schema.infer(frame)
    assert [column.kind for column in schema.columns] == ["ordered", "real"]
    np.testing.assert_array_equal(schema.encode(frame)[:, 0], [1, 0, np.nan])
    same_tables(schema.decode(schema.encode(frame), index=frame.index), frame)


n = np.arange(60)
KINDS = {  # cells -> the kind that they are taken for
    "real": (n * np.pi, "real"), "integer": (n * n, "integer"), "floats that are whole": (1.0 * n * n, "integer"),
    "bits": (n % 2, "binary"), "words": ([f"w{i % 7}" for i in n], "category"), "two words": (["no", "yes"] * 30, "binary"),
    "keys": ([f"k{i}" for i in n], "id"), "a running number": (n + 100, "id"), "prose": ([f"it is {i}" for i in n], "text"),
    "one value": (n * 0 + 3, "constant"), "nothing": ([None] * 60, "constant"), "beyond floats": (n // 9 + 2**60, "category"),
    "dates": ([f"2020/01/{i % 28 + 1:02d}" for i in n], "datetime"), "postcodes": ([f"0{i % 9}134" for i in n], "category"),
    "truths": (n % 3 == 0, "binary"), "no dates": ([f"2020-02-{i % 28 + 10}" for i in n], "category")}


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_column_is_taken_for_what_it_is(case, make):
    cells, kind = KINDS[case]
    values = [value.item() if hasattr(value, "item") else value for value in cells]
    frame = make({"x": values, "beside": [0.5 * i for i in range(60)]})
    schema = Schema.infer(frame)
    assert schema.columns[0].kind == kind and kind in str(schema)
    if kind == "id":
        back = make({"x": ["1", "2", "3"] if isinstance(values[0], str) else [1, 2, 3], "beside": [0.5, 1.0, 2.5]})
        same_tables(schema.decode(np.array([[0.5], [1.0], [2.5]])), back)


def test_what_is_drawn_lies_on_the_grid_and_within_the_bounds():
    frame = pl.DataFrame({"x": [i / 10 for i in range(30)] * 2, "n": list(range(0, 300, 5)),
                          "day": ["2020-01-01", "2020-01-08"] * 30, "level": ["a", "b", "c"] * 20})
    schema = Schema.infer(frame)
    assert [column.step for column in schema.columns] == [0.1, 5, 1, None]
    back = schema.decode(np.array([[0.2499, 12.6, 43000.0, 0.6], [-9.0, 9e9, -1.0, 7.0]]))
    assert back.rows() == [(0.2, 15, "2020-01-01", "b"), (0.0, 295, "2020-01-01", "c")]


def test_a_kind_may_be_put_right():
    frame = pd.DataFrame({"zip": [2134, 2139, 2134, 10001], "size": ["S", "L", "M", "S"],
                          "x": [1.5, 2.5, 3.5, 4.5], "n": [1, 2, 3, 5]})
    schema = Schema.infer(frame, {"zip": "category", "size": ["S", "M", "L"], "n": "text"})
    assert schema.columns[0].levels == (2134, 2139, 10001) and schema.columns[1].levels == ("S", "M", "L")
    assert schema.names == ["zip", "size", "x"]
    same_tables(schema.decode(schema.encode(frame))[schema.names], frame[schema.names])
    assert schema.decode(schema.encode(frame))["n"].isna().all()


BASE = pd.DataFrame({"a": ["u", "v", "u"], "x": [0.5, 1.5, 2.5], "t": ["2020-01-01", "2020-01-02", "2020-01-05"]})
REFUSED = {  # what is inferred or encoded, and what the one line says
    "an array": (lambda: Schema.infer(np.ones((3, 2))), "X is no DataFrame of pandas, polars, pyarrow"),
    "a column of pandas": (lambda: Schema.infer(BASE["x"]), "X is no DataFrame"),
    "names that are numbers": (lambda: Schema.infer(pd.DataFrame(np.ones((3, 2)))), "X is no DataFrame"),
    "an override of no column": (lambda: Schema.infer(BASE, {"y": "real"}), "columns names 'y', which is not a column"),
    "no such kind": (lambda: Schema.infer(BASE, {"x": "float"}), "column 'x': 'float' is no kind of column; choose from"),
    "text as a number": (lambda: Schema.infer(BASE, {"a": "real"}), "column 'a', row 1: 'u' is no number"),
    "fractions as integers": (lambda: Schema.infer(BASE, {"x": "integer"}), "column 'x' has no values that are integer"),
    "words as dates": (lambda: Schema.infer(BASE, {"a": "datetime"}), "column 'a' holds no dates"),
    "three levels as two": (lambda: Schema.infer(BASE, {"x": "binary"}), "column 'x' has 3 levels, a binary one has two"),
    "no constant": (lambda: Schema.infer(BASE, {"x": "constant"}), "column 'x' is no constant: it has 3 values"),
    "a level left out": (lambda: Schema.infer(BASE, {"a": ["u"]}).encode(BASE), "column 'a', row 2: 'v' is none of its 1"),
    "infinity": (lambda: Schema.infer(BASE.assign(x=[0.5, np.inf, 1.5])), "column 'x', row 2: .*inf.* is no finite number"),
    "two types": (lambda: Schema.infer(BASE.assign(a=["u", 3, None])), "column 'a' mixes .*3 .int. is number 2 of its values"),
    "lists": (lambda: Schema.infer(pl.DataFrame({"x": [[1], [2]]})), r"column 'x' holds List\(Int64\)"),
    "two names": (lambda: Schema.infer(pd.DataFrame(np.ones((3, 2)), columns=["x", "x"])), "two columns are named 'x'"),
    "nothing to model": (lambda: Schema.infer(pd.DataFrame({"x": [1, 1]})), "no column is left to model"),
    "times too far apart": (lambda: Schema.infer(pd.DataFrame({"x": pd.array(
        np.arange(10) * 2**59 + np.arange(10) % 2, "datetime64[ns]")})), "column 'x' has times that are too many steps apart"),
    "another column": (lambda: Schema.infer(BASE).encode(BASE[["a", "x"]]), "X has no column 't'; its columns are 'a'"),
    "another level": (lambda: Schema.infer(BASE).encode(BASE.assign(a=["u", "w", "u"])), "column 'a', row 2: 'w' is none of"),
    "another type": (lambda: Schema.infer(BASE).encode(BASE.assign(x=["1", "2", "3"])), "column 'x', row 1: .* is no number"),
    "another date": (lambda: Schema.infer(BASE).encode(BASE.assign(t="1.5.2020")), "column 't', row 1: '1.5.2020' is no time"),
    "an array to encode": (lambda: Schema.infer(BASE).encode(np.ones((3, 3))), "X is no DataFrame of .*, but a ndarray"),
    "no file": (lambda: Schema.load("nowhere.json"), "nowhere.json is no schema"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_schema_holds_is_one_line(case):
    call, words = REFUSED[case]
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 420


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_forged_schema_is_refused_or_is_one(data):
    """Whatever JSON holds in any place of a schema."""
    config = json.loads(json.dumps(Schema.infer(BASE).config()))
    place, junk = config, st.sampled_from([None, -1, 0.5, 10**400, "", "real", "polars", [], [[]], {}, True, float("inf")])
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(junk)
            break
        place = place[key]
    try:
        schema = Schema.from_config(config)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert isinstance(str(schema), str) and Schema.from_config(schema.config()) == schema


# ---------------------------------------------------------------- files

PEOPLE = """name,zip,sex,age,height,joined,ok,note
Ann, 02134,F,31,"1,71",2020-01-05,true,
Bob, 10001,M,?,"1,80",2020-02-05,false,NA
Cyd, 02134 ,F,40,,2020-01-07,true,
"""


def test_a_csv_is_a_table_of_what_its_cells_are(tmp_path, capsys):
    path = tmp_path / "people.csv"
    path.write_text(PEOPLE)
    frame = read_table(path)
    assert frame.dtypes == [pl.String, pl.String, pl.String, pl.Int64, pl.Float64, pl.String, pl.Boolean, pl.String]
    assert frame.rows()[1] == ("Bob", "10001", "M", None, 1.8, "2020-02-05", False, None)
    assert read_table(path, {"age": "category"})["age"].to_list() == ["31", None, "40"]
    assert cli.main(["schema", str(path), "--column", "age=category", "--out", str(tmp_path / "s.json")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[4].split()[:3] == ["age", "category", "String"] and "2 levels: '31', '40', 1 missing" in out
    assert str(Schema.load(tmp_path / "s.json")) == out.rstrip("\n")
    write_table(tmp_path / "p.parquet", frame)
    assert read_table(tmp_path / "p.parquet").equals(frame)
    write_table(tmp_path / "again.csv", frame)
    assert read_table(tmp_path / "again.csv").equals(frame)


FILES = {  # a file that is no table -> what the line says
    "ragged.csv": (b"a,b\n1,x\n2\n", r"ragged.csv: row 2 \(line 3\) has 1 columns, the header has 2"),
    "longer.csv": (b"a,b\n1,x\n2,y,z\n", r"longer.csv: row 2 \(line 3\) has 3 columns"),
    "twice.csv": (b"a,a\n1,x\n", "twice.csv: columns 1 and 2 are both named 'a'"),
    "typo.csv": (b"a,b\n1,x\n2.5,y\n3..5,z\n4,z\n", "typo.csv: row 3, column 'a' is '3..5', not a number as most others are"),
    "latin.csv": ("a,b\n1,x\n2,ü\n".encode("latin-1"), "latin.csv is no UTF-8 text .byte 0xfc in line 3."),
    "late.csv": (b"a,b\n" + 9999 * b"1,x\n" + "2,ü\n".encode("latin-1"), "late.csv is no UTF-8 text .byte 0xfc in line 10001."),
    "header.csv": (b"a,b\n", "header.csv has a header but no rows"), "empty.csv": (b"", "empty.csv is empty"),
    "nameless.csv": (b"1,2\n3,4\n", "nameless.csv has no line of names"),
    "bad.parquet": (b"PAR1 no", "bad.parquet is damaged or no .parquet file")}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_table_is_one_line(name, tmp_path, capsys):
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert cli.main(["schema", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("npgen: error: ") and err.count("\n") == 1


@pytest.mark.parametrize("more", ["--column age", "--column age=float", "--column =real", "--column nothing=real"])
def test_an_override_of_nothing_is_one_line(more, tmp_path, capsys):
    (tmp_path / "people.csv").write_text(PEOPLE)
    assert cli.main(["schema", str(tmp_path / "people.csv"), *more.split(), "--out", str(tmp_path / "s.json")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and more.split()[1].split("=")[0] in err and not (tmp_path / "s.json").exists()


# ---------------------------------------------------------------- how files of text are written

ANSWER = {"name": ["Zoë", "Jörg", "Ann", None], "height": [1.71, None, 1.8, 1.65], "age": [31, 40, None, 22]}
WRITTEN = {  # flags -> text, encoding
    ("--encoding", "latin-1", "--na=-999", "--na", "unbekannt"): (
        "name;height;age\nZoë;1,71;31\nJörg;-999;40\nAnn;1,8;-999\nunbekannt;1,65;22\n", "latin-1"),
    ("--encoding", "utf-16", "--separator", "|", "--decimal", ","): (
        "name|height|age\nZoë|1,71|31\nJörg|NA|40\nAnn|1,8|\n?|1,65|22\n", "utf-16"),
    ("--encoding", "UTF8", "--separator", "tab", "--decimal", "."): (
        "\ufeffname\theight\tage\nZoë\t1.71\t31\nJörg\t\t40\nAnn\t1.8\tnull\n\t1.65\t22\n", "utf-8"),
    ("--separator", ";", "--na", "x"): ('name;height;age\n"Zoë";1.71;31\nJörg;X;40\nAnn;1.80;x\nx;1.65;22\n', "utf-8")}


@pytest.mark.parametrize("flags", WRITTEN, ids=" ".join)
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_text_are_read_as_they_are_written(flags, packed, tmp_path, capsys):
    text, encoding = WRITTEN[flags]
    path = tmp_path / ("people.csv.gz" if packed else "people.csv")
    path.write_bytes(gzip.compress(text.encode(encoding)) if packed else text.encode(encoding))
    args = cli._parser().parse_args(["schema", str(path), *flags])
    assert read_table(path, dialect=cli.parser.dialect(args)).equals(pl.DataFrame(ANSWER), null_equal=True)
    assert cli.main(["schema", str(path), *flags]) == 0
    out = capsys.readouterr().out
    assert "1.65 to 1.8, 1 missing" in out and "22 to 40, 1 missing" in out


@pytest.mark.parametrize("decimal", [",", "."])
def test_numbers_alone_are_read_as_they_are_written(decimal, tmp_path):
    """Without polars, too: the reader of arrays."""
    x = np.array([[1.5, -2.25], [np.nan, 3.0], [4.125, 1e3]])
    path = tmp_path / "x.csv"
    path.write_bytes(("a|b é\n" + "\n".join("|".join("leer" if np.isnan(v) else str(v).replace(".", decimal) for v in row)
                                            for row in x)).encode("cp1252"))
    source = Source(path, missing=True, dialect=Dialect("cp1252", "|", decimal, ("leer",)))
    assert source.names == ["a", "b é"]
    np.testing.assert_array_equal(source.rows(), x)
    np.testing.assert_array_equal(source.column(1), x[:, 1])
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 1 \('a'\) is 'leer', not a number"):
        Source(path, dialect=Dialect("cp1252", "|", decimal)).rows()


MARKED = {  # the mark of decimals, what is between cells, and cells -> the column, or the row that is refused
    (".", ","): (['"1,234"', "567", '"-12,345,678"'], pl.Series("a", [1234, 567, -12345678])),
    (".", ";"): (["1,234.5", "567", ".25"], pl.Series("a", [1234.5, 567, 0.25])),
    (",", ";"): (["1.234,5", "567", "1.234"], pl.Series("a", [1234.5, 567, 1234])),
    (",", "tab"): (["1,25", "7", "1.25"], 3), (".", "|"): (["1.25", "7", "1,25"], 3), (".", "tab"): (["0,123", "7", "8"], 1)}


@pytest.mark.parametrize(("decimal", "separator"), MARKED)
def test_marks_of_thousands_are_read_where_that_of_decimals_is_known(decimal, separator, tmp_path):
    """By both readers: a table of text, and an array of numbers."""
    cells, right = MARKED[decimal, separator]
    dialect = Dialect(separator="\t" if separator == "tab" else separator, decimal=decimal)
    path = tmp_path / "d.csv"
    path.write_text("".join(f"{cell}{dialect.separator}{i}\n" for i, cell in zip("b012", ["a", *cells], strict=True)))
    if isinstance(right, int):
        with pytest.raises(DataError, match=f"d.csv: row {right}, column 'a' is "):
            read_table(path, dialect=dialect)
        with pytest.raises(DataError, match=rf"d.csv: row {right} .line {right + 1}., column 1 .'a'. is .*, not a number"):
            Source(path, dialect=dialect).rows()
        return
    assert read_table(path, dialect=dialect)["a"].equals(right)
    assert np.array_equal(Source(path, dialect=dialect).rows(), np.column_stack([right, range(3)]))
    assert np.array_equal(Source(path, dialect=dialect).column(0), right.to_numpy())


def test_a_number_of_thousands_of_digits_is_text(tmp_path):
    path = tmp_path / "d.csv"
    for other in ("1", "1.5"):
        path.write_text(f"a,b\n{other},2\n{5000 * '7'},3\n")
        assert read_table(path)["a"].to_list() == [other, 5000 * "7"]
        with pytest.raises(DataError, match=r"d.csv: row 2 \(line 3\), column 1 \('a'\) is inf; fill it in or remove the row"):
            Source(path).rows()
    path.write_text(f"a,b\n1,2\n{5000 * '7'},3\n")
    assert Source(path).column(0).tolist() == ["1", 5000 * "7"]


@pytest.mark.parametrize("cell", ["1587789284195746375", "-9007199254740993", "1" + 30 * "0" + "1"])
def test_an_array_holds_no_other_whole_number_than_the_file(cell, tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(f"a,b\n1,2\n9007199254740992,1e30\n{cell},3\n")
    with pytest.raises(DataError, match=rf"d.csv: row 3 .line 4., column 1 .'a'. is {cell}, a whole number that is too long"):
        Source(path).rows()
    assert Source(path).rows([1])[:, 0].tolist() == [2, 1e30, 3]
    assert list(map(str, Source(path).column(0).tolist())) == ["1", "9007199254740992", cell]
    assert list(map(str, read_table(path)["a"].to_list())) == ["1", "9007199254740992", cell]


def test_texts_keep_their_commas_and_a_hole_is_no_blank_line(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('a;b\n"Smith, J.";1,5\n"Doe, A.";2\n')
    assert Source(path, dialect=Dialect(decimal=",")).column(0).tolist() == ["Smith, J.", "Doe, A."]
    frame = pl.DataFrame({"a": [1.5, None, 2.25, None]})
    write_table(path, frame)
    assert read_table(path).equals(frame, null_equal=True)


@pytest.mark.parametrize("flags", ["--encoding base64", "--encoding nothing", "--separator ab", "--separator x", "--decimal ;",
                                   "--encoding utf-16", "--encoding ascii"])
def test_a_file_that_is_not_written_so_is_one_line(flags, tmp_path, capsys):
    path = tmp_path / "people.csv"
    path.write_text("name;height\nZoë;1,7\nAnn;1,8\n", encoding="utf-8")
    try:
        status = cli.main(["schema", str(path), *flags.split()])
    except SystemExit as stop:
        status = stop.code
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and flags.split()[0] in err


@pytest.mark.parametrize("command", ["score {m} --data {d}", "impute {m} --data {d}", "explain {m} --data {d}",
                                     "encode {m} --data {d}", "report {m} --data {d}", "fit mixture --data {d}", "schema {d}"])
@pytest.mark.parametrize("over", ["d", "m"])
def test_what_is_read_is_not_written_over(command, over, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"a": np.arange(40) % 7 / 2, "b": list("uv") * 20}).write_csv(tmp_path / "d.csv")
    assert cli.main("fit mixture --data d.csv --out m.npgen --quiet".split()) == 0
    names = {"d": "d.csv", "m": "m.npgen"}
    if over == "m" and "{m}" not in command:
        pytest.skip("it reads no model")
    before = {name: (tmp_path / name).read_bytes() for name in names.values()}
    capsys.readouterr()
    assert cli.main([*command.format(**names).split(), "--out", f"./{names[over]}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("would take its place" in err or "has no known format" in err)
    assert {name: (tmp_path / name).read_bytes() for name in names.values()} == before
    assert over == "m" or "report" in command or "would take its place" in err
