"""Dates and times as text: in all formats in and out as they were; those of other tables come back from a .csv as they are."""
import datetime
import zoneinfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npgen
from npgen import cli
from npgen.data import DataError, Schema, dates

pl = pytest.importorskip("polars")
pd = pytest.importorskip("pandas")
pytest.importorskip("narwhals")

MARKS = st.sampled_from("-/.")
FORMS = st.builds(
    lambda order, mark, padded, between, hour, fraction, offset: (
        order.replace("/", mark).replace("%", "%" if padded else "%-").replace("%-Y", "%Y")
        + (f"{between}{hour}:%M{fraction}{offset}" if between else "")),
    st.sampled_from(["%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y"]), MARKS, st.booleans(), st.sampled_from(["", " ", "T"]),
    st.sampled_from(["%H", "%-H"]),
    st.sampled_from(["", ":%S", ":%S%.1f", ":%S%.3f", ":%S%.6f", ":%S%.9f", ":%S%.f", ":%S%.06f"]),
    st.sampled_from(["", "Z", "+02:00", "-0930", "+05", " +01:00", "Z|1000000+01:00", "-03|-4000000-02|86400000-03"]))
MICROSECOND = datetime.timedelta(microseconds=1)
SECONDS = st.integers(-60 * 365 * 86400, 200 * 365 * 86400)


@settings(max_examples=500, deadline=None)
@given(FORMS, st.lists(st.tuples(SECONDS, st.integers(0, 10**9 - 1)), min_size=1, max_size=9))
def test_a_time_is_a_text_is_a_time(form, moments):
    assert dates.is_format(form)
    per_second = dates.ticks(form)
    stamps = [second * per_second + part * per_second // 10**9 for second, part in moments]
    if ":%S" not in form:
        stamps = [stamp // 60 * 60 for stamp in stamps] if "%M" in form else [stamp // 86400 * 86400 for stamp in stamps]
    texts = [dates.text_of(stamp, form) for stamp in stamps]
    assert [dates.stamp_of(text, form) for text in texts] == stamps and all(dates.is_as(text, form) for text in texts)
    found = dates.formats_of(texts)
    assert all(dates.is_as(text, each) for text in texts for each in found)
    span = max(stamps) - min(stamps)
    if span < 2**53 and "." not in form[:6]:  # a dotted month may be a day
        assert any([dates.stamp_of(text, each) * per_second for text in texts] == [
            stamp * dates.ticks(each) for stamp in stamps] for each in found)


@pytest.mark.parametrize("text", ["2020-02-30", "2020-13-01", "2016-12-31 23:59:60", "2020-01-01 24:00", "2020-01-01 10:60", "",
                                  "1/2/20", "2020-01/02", "2020-01-01x", " 2020-01-01", "20200101", "２０２０-01-01", "12:30",
                                  "2020-1-01", "0000-01-01", "31/12-2020", "2020-01-01 10"])
def test_what_is_no_time_has_no_format(text):
    assert dates.formats_of([text]) == ()


@pytest.mark.parametrize("form", [None, 3, "", "%Y", "%Y-%m", "%H:%M", "%Y-%m/%d", "%d.%m.%Y %H", "%Y-%m-%d %H:%M%.f",
                                  "%y-%m-%d", "%Y-%m-%d %H:%M:%S%.00f", "%Y-%m-%dZ", "{0}%Y-%m-%d", "%Y-%m-%d %H:%M|7+01"])
def test_what_is_no_format(form):
    assert not dates.is_format(form)


COLUMNS = {  # cells, which are there again and again -> their format; None: levels or ids
    ("2020-01-31", "2021-02-01"): "%Y-%m-%d", ("2020/01/31", "2021/02/01"): "%Y/%m/%d",
    ("1.2.2020", "31.12.2020"): "%-d.%-m.%Y",
    ("01.02.2020", "03.04.2020"): "%d.%m.%Y", ("01.31.2020", "03.04.2020"): "%m.%d.%Y",  # with points the day is first
    ("31/12/2020", "01/02/2020"): "%d/%m/%Y", ("12/31/2020", "01/02/2020"): "%m/%d/%Y", ("1/2/2020", "3/14/2020"): "%-m/%-d/%Y",
    ("31-12-2020", "01-02-2020"): "%d-%m-%Y", ("31/12/2020 9:05", "01/02/2020 19:05"): "%d/%m/%Y %-H:%M",
    ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"): "%Y-%m-%dT%H:%M:%SZ",
    ("2020-01-01 00:00:00+0200", "2020-01-02 00:00:00+0200"): "%Y-%m-%d %H:%M:%S+0200",
    ("2020-01-01 00:00:00.123", "2020-01-02 00:00:00.000"): "%Y-%m-%d %H:%M:%S%.3f",
    ("2020-01-01 00:00:00.5", "2020-01-02 00:00:00"): "%Y-%m-%d %H:%M:%S%.f",
    ("2020-01-01 00:00:00", "2020-01-02 00:00:00.500000"): "%Y-%m-%d %H:%M:%S%.06f",
    ("2020-01-01T00:00:00.000000+0000", "2020-01-02T00:00:00.250000+0000"): "%Y-%m-%dT%H:%M:%S%.6f+0000",
    ("2020-01-01T00:00:00+01:00", "2020-06-01T00:00:00+02:00"): "%Y-%m-%dT%H:%M:%S+01:00|1590962400+02:00",
    ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00+02:00", "2020-01-03T00:00:00Z"): None,
    ("2020-01-01", "2020-01-01 10:00"): None,
    ("1/13/2020", "13/1/2020"): None, ("2020-02-30", "2020-01-01"): None}


@pytest.mark.parametrize("cells", COLUMNS, ids=" ".join)
def test_a_column_of_texts_is_one_of_times(cells):
    frame = pl.DataFrame({"t": [*cells, None] * 8, "x": [i * i % 7 + 0.5 for i in range(8 * len(cells) + 8)]})
    schema = Schema.infer(frame)
    column = schema.columns[0]
    assert column.format == COLUMNS[cells] and (column.kind == "datetime") == (column.format is not None)
    assert Schema.from_config(schema.config()) == schema
    assert schema.decode(schema.encode(frame)).select("t").equals(frame.select("t"))


def test_days_and_months_are_not_guessed(tmp_path, capsys, monkeypatch):
    """Neither 03/04 nor 04/03 is wrong: the column is no date until it is said which it is."""
    frame = pl.DataFrame({"d": [f"{1 + i % 12:02d}/{1 + i * 5 % 12:02d}/2020" for i in range(40)],
                          "x": [i * i % 7 + 0.5 for i in range(40)]})
    with pytest.warns(UserWarning, match="column 'd': nothing says whether '01/01/2020' is %d/%m/%Y or %m/%d/%Y; give the"):
        schema = Schema.infer(frame)
    assert schema.columns[0].kind == "category" and schema.decode(schema.encode(frame)).equals(frame)
    with pytest.raises(DataError, match="column 'd': nothing says whether .* give the right one as its kind"):
        Schema.infer(frame, {"d": "datetime"})
    for form, second in (("%d/%m/%Y", "2020-06-02"), ("%m/%d/%Y", "2020-02-06")):
        schema = Schema.infer(frame, {"d": form})
        assert schema.columns[0].kind == "datetime" and schema.columns[0].format == form
        assert schema.decode(schema.encode(frame)).equals(frame)
        assert schema.columns[0].number(second) == schema.columns[0].number(frame["d"][1]) == schema.encode(frame)[1, 0]
    with pytest.raises(DataError, match=r"column 'd': '01/01/2020' is no time as %d.%m.%Y; give the format of all its cells"):
        Schema.infer(frame, {"d": "%d.%m.%Y"})
    monkeypatch.chdir(tmp_path)
    frame.write_csv("d.csv")
    assert cli.main("schema d.csv --column d=%d/%m/%Y".split()) == 0
    assert "as %d/%m/%Y" in capsys.readouterr().out
    assert cli.main("schema d.csv --column d=%d/%m/%y".split()) == 2
    assert "NAME=%d/%m/%Y or another format of dates" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
@pytest.mark.parametrize("digits", [0, 6])
def test_clocks_that_change_in_summer(zone, digits):
    """Local times with their offsets are moments, come out as they were, and drawn ones have the offset of their season."""
    zone, rng = zoneinfo.ZoneInfo(zone), np.random.default_rng(0)
    times = [datetime.datetime.fromtimestamp(int(second), zone).replace(microsecond=int(part) * (digits > 0))
             for second, part in zip(rng.integers(1_400_000_000, 1_700_000_000, 500), rng.integers(1, 10**6, 500), strict=True)]
    frame = pl.DataFrame({"t": [time.isoformat() for time in times], "x": rng.normal(size=500)})
    schema = Schema.infer(frame)
    column = schema.columns[0]
    assert column.kind == "datetime" and "as %Y-%m-%dT%H:%M:%S" in column.words() and "|" not in column.words()
    assert Schema.from_config(schema.config()) == schema and schema.decode(schema.encode(frame)).equals(frame)
    assert [dates.stamp_of(text, column.format) for text in frame["t"]] == [
        round(time.timestamp()) if not digits else (time - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // MICROSECOND
        for time in times]
    drawn = npgen.Mixture(2, random_state=0, max_iter=5).fit(frame).sample(300, rng=0)["t"]
    read = [datetime.datetime.fromisoformat(text) for text in drawn]
    assert np.mean([time.utcoffset() == time.astimezone(zone).utcoffset() for time in read]) > 0.9  # a change is known to days
    noon = datetime.datetime(2020, 7, 1, 12)
    assert column.number(noon) == column.number(noon.replace(tzinfo=zone)) == column.number(
        noon.replace(tzinfo=zone).astimezone(datetime.UTC).isoformat())


def test_other_offsets_are_the_same_moments():
    """A schema of winter's times reads those of summer, and conditions that are given as ISO 8601."""
    frame = pl.DataFrame({"t": [f"2020-01-{d:02d}T12:00:00+01:00" for d in range(1, 20)], "x": range(19)})
    column = Schema.infer(frame).columns[0]
    assert column.number("2020-01-02T13:00:00+02:00") == column.number("2020-01-02T12:00:00+01:00") == 1
    assert column.number("2020-01-02T11:00:00Z") == column.number("2020-01-02 12:00") == 1
    assert column.number(datetime.datetime(2020, 1, 2, 11, tzinfo=datetime.UTC)) == 1
    naive = Schema.infer(pl.DataFrame({"t": [f"{d:02d}/01/2020" for d in range(1, 20)], "x": range(19)})).columns[0]
    assert naive.number("2020-01-02") == naive.number(datetime.date(2020, 1, 2)) == 1
    with pytest.raises(DataError, match="is no value of it"):
        naive.number("2020-01-02T00:00:00Z")


def moments(unit, zone):
    stamps = pl.Series([1_583_000_000_000 + i * i * 3_600_250 for i in range(40)])  # milliseconds; over a change of clocks
    times = stamps.cast(pl.Datetime("ms")).dt.cast_time_unit(unit)
    return times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone) if zone else times


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["ms", "us", "ns", "D"])
def test_times_of_parquet_are_the_same_times_in_a_csv(unit, zone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    t = moments("us", None).cast(pl.Date) if unit == "D" else moments(unit, zone)
    frame = pl.DataFrame({"t": t, "x": [i * i % 7 + 0.5 for i in range(40)], "c": ["u", "v"] * 20})
    frame.write_parquet("d.parquet")

    def says(line):
        assert cli.main(line.split()) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    says("fit mixture --data d.parquet --out m --quiet --epochs 3")
    for suffix in ("csv", "parquet"):
        says(f"sample m -n 30 --seed 1 --out rows.{suffix}")
        says(f"score m --data rows.{suffix} --out {suffix}-scores.parquet")
    rows = pl.read_parquet("rows.parquet")
    first, second = map(pl.read_parquet, ("csv-scores.parquet", "parquet-scores.parquet"))
    assert first.equals(second) and first["t"].dtype == frame["t"].dtype
    schema = Schema.infer(npgen.data.reading.read_table("rows.csv"))
    assert schema.columns[0].kind == "datetime"
    stamps = (rows["t"].cast(pl.Datetime("us")) if unit == "D" else rows["t"]).to_physical().to_list()
    form = schema.columns[0].format
    per = {"ms": 10**3, "us": 10**6, "ns": 10**9, "D": 10**6}[unit]
    read = [dates.stamp_of(text, form) for text in pl.read_csv("rows.csv", infer_schema=False)["t"]]
    assert [stamp * per for stamp in read] == [stamp * dates.ticks(form) for stamp in stamps]
    (tmp_path / "holes.csv").write_text("".join(  # what is missing is filled in, with what is there
        line if i % 3 else "," + line.partition(",")[2] for i, line in enumerate(open("rows.csv").readlines(), -1)))
    says("impute m --data holes.csv --out whole.parquet")
    whole = pl.read_parquet("whole.parquet")
    there = np.arange(30) % 3 > 0
    assert whole["t"].null_count() == 0 and whole.filter(there).equals(rows.filter(there))
    says("fit mixture --data rows.csv --out m2 --quiet --epochs 3")
    says("sample m2 -n 9 --out again.csv")
    for text in pl.read_csv("again.csv", infer_schema=False)["t"]:
        assert dates.is_as(text, form)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("other", ["s", "ms", "us", "ns"])
def test_the_same_times_in_another_unit_are_the_same_numbers(unit, other):
    made = pd.DataFrame({"t": pd.Series(np.array([f"2020-01-{d:02d}" for d in range(1, 21)], f"M8[{unit}]")), "x": range(20)})
    schema = Schema.infer(made)
    assert np.array_equal(schema.encode(made.astype({"t": f"datetime64[{other}]"})), schema.encode(made))
    if unit == "s" != other:
        late = made.astype({"t": f"datetime64[{other}]"}).assign(t=lambda frame: frame["t"] + np.timedelta64(1, other))
        with pytest.raises(DataError, match=f"column 't' has times in {other} that are no whole number of s"):
            schema.encode(late)


@pytest.mark.parametrize(("cells", "words"), [
    (["2020-01-01T10:00:00+02:00", "x"], "'x'"), (["2020-01-01T00:00:00Z", "2020-01-01T00:00:00"], "'2020-01-01T00:00:00'")])
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_time_of_a_column_of_times_is_one_line(cells, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"t": moments("us", "UTC"), "x": range(40)}).write_parquet("d.parquet")
    assert cli.main("fit mixture --data d.parquet --out m --quiet --epochs 2".split()) == 0
    pl.DataFrame({"t": cells, "x": [1, 2]}).write_csv("d.csv")
    capsys.readouterr()
    assert cli.main("score m --data d.csv".split()) == 2
    err = capsys.readouterr().err
    assert f"d.csv: column 't', row 2: {words} is no time as %Y-%m-%dT%H:%M:%SZ; correct or remove it" in err
    assert err.count("\n") == 1
