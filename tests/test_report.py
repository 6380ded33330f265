"""npgen.report: the figures on the page are the library's, no text of a table is markup, nothing is asked of a network."""
import base64
import functools
import html.parser
import io
import re
import types

import mutants
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import npgen
from npgen import cli, data
from npgen.models.base import Capabilities, Model
from npgen.nn import Parameters
from npgen.random import Stream
from npgen.reports import charts, columns, measures
from npgen.reports.bins import Bins, columns_of

pd, pl, pa = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))

N = 240
EVIL = ("<script>window.hacked = 1</script>", '"><img src=x onerror="window.hacked=2">',
        "</title></style><svg/onload=hacked()>", "'; alert(1); '&amp; &lt;b&gt;", "a\u202eb\x00\ud800\n\tc", "https://example.org/x.js")
CELLS = {
    "sex": ["F", "M"] * (N // 2), "income": [20.5 + (i * 7919 % 97) / 3 for i in range(N)],
    "city": [("Rome", "Paris", "Bern", "Oslo")[i * 31 % 7 % 4] for i in range(N)], "age": [18 + i * 13 % 60 for i in range(N)],
    "visits": [0 if i % 3 else i * i % 1000 for i in range(N)]}
QUIET = ("ignore::npgen.ConvergenceWarning", "ignore:fit. column", "ignore:fit. hidden")


def holes(cells):
    return {name: [None if (i * 7 + j) % 11 == 0 else value for i, value in enumerate(values)]
            for j, (name, values) in enumerate(cells.items())}


def evil():
    """A table whose names and levels are markup."""
    cells = {EVIL[0]: [EVIL[i % 5] for i in range(N)], EVIL[1]: CELLS["income"], EVIL[2]: CELLS["age"], EVIL[3]: CELLS["sex"],
             EVIL[5]: CELLS["visits"]}
    return pd.DataFrame({name: [str(v).replace("\ud800", "") if isinstance(v, str) else v for v in values]
                         for name, values in cells.items()})


def mixture():
    return npgen.Mixture(3, random_state=0, max_iter=20, tol=0.1)


MOONS = data.moons(300)
LABELS = np.arange(300) % 2
CASES = {  # a model that is not fitted, the rows, what fit and report take beside
    "frame": (mixture, pd.DataFrame(CELLS), {}),
    "frame with holes": (mixture, pl.DataFrame(holes(CELLS)), {}),
    "names that are markup": (mixture, evil(), {}),
    "MADE of a frame": (lambda: npgen.MADE(hidden=(16,), max_epochs=2, random_state=0), pa.table(CELLS), {}),
    "MADE of holes": (lambda: npgen.MADE(hidden=(16,), max_epochs=2, random_state=0), pl.DataFrame(holes(CELLS)), {}),
    "several orders": (lambda: npgen.MADE(hidden=(16,), n_masks=2, max_epochs=2, random_state=0), MOONS, {}),
    "points": (lambda: npgen.GaussianMixture(2, random_state=0), MOONS, {}),
    "squares beyond numbers": (lambda: npgen.GaussianMixture(2, random_state=0), 1e200 * MOONS, {}),
    "one column": (lambda: npgen.GaussianMixture(2, random_state=0), MOONS[:, :1], {}),
    "one component": (lambda: npgen.GaussianMixture(1, random_state=0), MOONS, {}),
    "given labels": (lambda: npgen.RealNVP(n_couplings=2, hidden=(8,), max_epochs=2, random_state=0), MOONS,
                     {"context": LABELS}),
    "no density": (lambda: npgen.GMMN(max_epochs=2, random_state=0), MOONS, {}),
    "images": (lambda: npgen.GMMN(max_epochs=1, random_state=0), data.digits()[0][:120], {}),
    "few rows": (lambda: npgen.GaussianMixture(1, covariance_type="diag", random_state=0), MOONS[:6], {}),
}
QUICK = ("frame with holes", "names that are markup", "points")
pytestmark = [pytest.mark.filterwarnings(each) for each in QUIET]


@functools.cache
def fitted(case):
    make, rows, options = CASES[case]
    with np.errstate(over="ignore"):  # as a fit to such numbers may say
        return make().fit(rows, **options)


@functools.cache
def made(case):
    return npgen.report(fitted(case), CASES[case][1], **CASES[case][2])


class Page(html.parser.HTMLParser):
    """A page's elements, what it says, and its figures; it fails where elements are not closed in their order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.figures, self.words, self.references = [], [], {}, [], set()
        self._fact = None
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        for name, value in attributes:
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in ("src", "href", "action", "data", "srcset"):
                self.references.add(value.partition(",")[0])
        if tag not in ("img", "input", "meta"):
            self.open.append(tag)
        self._fact = dict(attributes).get("data-fact")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._fact = None

    def handle_data(self, text):
        if self._fact:
            self.figures[self._fact] = text
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(text)

    @property
    def said(self):
        return " ".join(" ".join(self.words).split())


def value_of(facts, path):
    for part in path.split("."):
        facts = facts[part] if isinstance(facts, dict) and part in facts else list(
            facts.values() if isinstance(facts, dict) else facts)[int(part)]
    return facts


SECTIONS = ["fitted", "schema", "density", "samples", "columns", "pairs", "lowest", "map", "synthetic"]


@pytest.mark.long(but={"case": QUICK})
@pytest.mark.parametrize("case", CASES)
def test_the_page_is_whole_and_asks_nothing_of_a_network(case):
    report = made(case)
    page = Page(report.html)
    assert [attributes["id"] for name, attributes in page.elements if name == "section"] == SECTIONS
    assert len(report.html.encode()) < 2e6 and "anonym" not in report.html.lower()
    anchors = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert all(each == "data:image/png;base64" or each in anchors for each in page.references), page.references
    names = [name for name, _ in page.elements]
    assert names.count("script") == names.count("style") == names.count("title") - report.html.count('class="over"') == 1
    assert not {"link", "iframe", "object", "embed", "base", "form", "video", "audio"} & set(names)
    style = re.search("<style>(.*?)</style>", report.html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "http" not in style
    policy = next(a["content"] for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy


@pytest.mark.long(but={"case": QUICK})
@pytest.mark.parametrize("case", CASES)
def test_the_figures_are_the_facts(case):
    report = made(case)
    figures = Page(report.html).figures
    for path, text in figures.items():
        value = value_of(report.facts, path)
        exact = f"{100 * value:.10f}" if text.endswith("%") else f"{value:.10f}"
        shown = text.rstrip("%").replace("−", "-")
        if text == "–":
            assert np.isnan(value)
        else:
            decimals = len(shown.partition(".")[2])
            assert abs(float(shown) - float(exact)) <= 0.5000001 * 10.0**-decimals, path
    assert figures or case == "few rows"


@pytest.mark.long(but={"case": QUICK})
@pytest.mark.parametrize("case", ["frame", "frame with holes", "MADE of a frame", "points"])
def test_the_facts_are_the_librarys(case):
    model, rows, report = fitted(case), CASES[case][1], made(case)
    nats = model.log_prob(rows).astype(np.float64)
    assert report.facts["rows"] == len(nats)
    assert report.facts["log_prob"] == nats.mean()
    assert report.facts["log_prob_error"] == pytest.approx(nats.std(ddof=1) / np.sqrt(len(nats)))
    order = np.argsort(nats, kind="stable")[:10]
    assert report.facts["lowest"] == [(int(i), nats[i]) for i in order]
    assert list(report.facts["columns"]) == (["column 1", "column 2"] if case == "points" else list(CELLS))
    assert set(report.facts) >= {"samples", "real", "independent", "pairs", "variance"}
    said = Page(report.html).said
    assert f"{order[0] + 1:,}" in said and type(model).__name__ in said


@pytest.mark.long
def test_a_frame_of_any_library_gives_the_same_page():
    pages = []
    for library in (pd.DataFrame, pl.DataFrame, pa.table):
        report = npgen.report(fitted("frame"), library(CELLS))
        pages.append(report.html)
    assert len(set(pages)) == 1 and pages[0] == made("frame").html


def test_the_same_seed_gives_the_same_page_and_the_model_stays_as_it_was(tmp_path):
    make, rows, _ = CASES["points"]
    model, untouched = make().fit(rows), make().fit(rows)
    page = npgen.report(model, rows).html
    assert page == npgen.report(model, rows).html == made("points").html
    assert page != npgen.report(model, rows, seed=1).html
    assert model.sample(5).tobytes() == untouched.sample(5).tobytes()


def test_what_a_model_has_not_is_said():
    said = Page(made("no density").html).said
    assert "This model draws rows, and has no density." in said and "This model has no representation." in said
    assert "This model has no density, by which a row is unlikely." in said
    distance = -fitted("no density").score(MOONS)
    assert made("no density").facts["energy_distance"] == pytest.approx(distance, rel=1e-6)
    assert "There is one column alone." in Page(made("one column").html).said
    assert "Too few rows to compare" in Page(made("few rows").html).said


def test_images_are_pictures_and_other_samples_a_table():
    section = made("images").html.partition('<section id="samples">')[2].partition("</section>")[0]
    assert section.count("<img") == 2 and "<table" not in section
    section = made("points").html.partition('<section id="samples">')[2].partition("</section>")[0]
    assert "<table" in section and "<img" not in section


def test_rows_with_the_lowest_density_are_left_out_where_none_is_asked_for():
    report = npgen.report(fitted("points"), MOONS, n_rows=0)
    assert "lowest" not in report.facts and "Not asked for." in report.html
    assert len(npgen.report(fitted("points"), MOONS, n_rows=3).facts["lowest"]) == 3


def test_a_row_that_is_odd_in_one_column_is_found_and_the_column_is_blamed():
    x = np.random.default_rng(0).normal(size=(400, 3))
    model = npgen.GaussianMixture(1, random_state=0).fit(x)
    x[17, 1] = 9.0
    report = npgen.report(model, x)
    assert report.facts["lowest"][0][0] == 17
    row = report.html.partition('<section id="lowest">')[2].partition("<tbody>")[2].partition("</tr>")[0]
    assert re.findall("column [0-9]", row)[0] == "column 2" and "<b>9</b>" in row


@pytest.mark.parametrize("case", ["frame", "MADE of a frame"])
def test_cells_are_blamed_by_what_explain_says(case):
    model, rows = fitted(case), CASES[case][1]
    numbers = data.Table(model.schema_.encode(rows).astype(model.dtype_), model.schema_.names)
    nats = -np.asarray(model.without_schema().explain(numbers), np.float64)
    lines = made(case).html.partition('<section id="lowest">')[2].partition("<tbody>")[2].split("</tr>")
    for (i, _), line in zip(made(case).facts["lowest"], lines, strict=False):
        more = nats[i] - np.median(nats, axis=0)
        order = [j for j in np.argsort(-more, kind="stable") if more[j] > 0][:5]
        assert re.findall(r"column-[0-9]+\">(\w+)</a>", line) == [model.schema_.names[j] for j in order]
        assert re.findall(r"\(([+][0-9.]+)\)", line) == [f"{more[j]:+.2f}" for j in order]


@pytest.mark.long
def test_many_rows_and_columns_are_looked_at_in_part_and_that_is_said():
    x = np.random.default_rng(0).normal(size=(900, 1500)).astype(np.float32)
    model = npgen.GaussianMixture(1, covariance_type="diag", random_state=0).fit(x)
    report = npgen.report(model, x)
    assert len(report.html.encode()) < 2e6 and "The 60 of 1,500 columns that agree least." in report.html
    assert (report.facts["rows"], report.facts["looked_at"], report.facts["compared"]) == (900, 900, 666)
    assert len(report.facts["shown"]) == 60 and "The first 300 of 1,500." in report.html
    many = np.random.default_rng(0).normal(size=(30_000, 1))
    report = npgen.report(npgen.GaussianMixture(1, random_state=0).fit(many), many)
    assert (report.facts["rows"], report.facts["looked_at"], report.facts["compared"]) == (30_000, 20_000, 5_000)
    assert "20,000 of them, drawn at random, are looked at" in report.html


def test_names_and_levels_of_any_length_stay_small():
    long = pd.DataFrame({"n" * 100_000: ["x" * 50_000 + str(i % 40) for i in range(N)], "<" * 5000: CELLS["income"]})
    report = npgen.report(mixture().fit(long, columns={"n" * 100_000: "category"}), long)
    assert len(report.html) < 60_000


@pytest.mark.parametrize("case", ["names that are markup"])
def test_what_a_table_says_is_text(case):
    page = Page(made(case).html)
    assert EVIL[0][:39] in page.said and '"><img src=x onerror=' in page.said
    assert sum(name == "script" for name, _ in page.elements) == 1
    assert not any(char in made(case).html for char in "\u202e\x00")
    assert not any("hacked" in "".join(map(str, attributes.values())) and name not in ("figure", "svg", "div", "img")
                   for name, attributes in page.elements)


@pytest.mark.slow
def test_what_takes_most_room_is_below_two_million_bytes():
    """Quotes, which take six letters, in the names and levels of hundreds of columns; images of ten thousand pixels."""
    levels = ['"' * 38 + chr(65 + i) for i in range(25)]
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"'" * 40 + str(j): [levels[k] for k in rng.integers(0, 25, 200)] for j in range(320)})
    model = npgen.Mixture(1, random_state=0).fit(table, columns=dict.fromkeys(table, "category"))
    assert 5e5 < len(npgen.report(model, table).html.encode()) < 2e6
    noise = rng.normal(size=(300, 10_000)).astype(np.float32)
    model = npgen.GaussianMixture(1, covariance_type="diag", random_state=0).fit(noise)
    assert 5e5 < len(npgen.report(model, noise).html.encode()) < 2e6


def test_rows_held_out_are_the_other_line():
    model = fitted("points")
    report = npgen.report(model, MOONS, holdout=data.moons(200, 5))
    assert "rows held out" in report.html and report.facts["held_log_prob"] == pytest.approx(
        model.log_prob(data.moons(200, 5)).mean(), rel=1e-6)
    assert report.facts["real"]["copies"] == 0 and npgen.report(model, MOONS, holdout=MOONS).facts["real"]["copies"] == 1


@pytest.mark.parametrize(("call", "words"), [
    (lambda: npgen.report(3, MOONS), "report: model is an int; give a generative model of npgen"),
    (lambda: npgen.report(npgen.GaussianMixture(), MOONS), "report: this GaussianMixture is not fitted yet"),
    (lambda: npgen.report(fitted("points"), MOONS[:, :1]), "report: X has 1 columns, but the model was fitted on 2"),
    (lambda: npgen.report(fitted("points"), MOONS[:1]), "report: X has shape"),
    (lambda: npgen.report(fitted("points"), "moons"), "report: X must"),
    (lambda: npgen.report(fitted("points"), MOONS, n_rows=-1), "report: n_rows must be a number of rows"),
    (lambda: npgen.report(fitted("points"), MOONS, seed=-1), "a seed must not be negative"),
    (lambda: npgen.report(fitted("points"), MOONS, context=LABELS), "fitted without a context"),
    (lambda: npgen.report(fitted("given labels"), MOONS, context=LABELS[:9]), "report: context has 9 rows, but X has 300"),
    (lambda: npgen.report(fitted("given labels"), MOONS), "report: the model was fitted with a context"),
    (lambda: npgen.report(fitted("frame"), pd.DataFrame(CELLS).drop(columns="age")), "no column 'age'"),
    (lambda: npgen.report(fitted("frame"), pd.DataFrame(CELLS)[:1]), "report: X has shape (1, 5)"),
    (lambda: npgen.report(fitted("frame"), pd.DataFrame(CELLS)[:0]), "report: X has shape (0, 5)"),
    (lambda: npgen.report(fitted("points"), MOONS, holdout=MOONS[:, :1]), "report: holdout has 1 columns"),
    (lambda: npgen.report(fitted("frame"), pd.DataFrame(CELLS).assign(sex="X")), "column 'sex', row 1: 'X'"),
    (lambda: npgen.report(fitted("frame"), data.Table(MOONS, ["a", "b"])), "report: X has the columns 'a', 'b'"),
    (lambda: npgen.report(fitted("given labels"), np.where(np.arange(600).reshape(300, 2) == 7, np.nan, MOONS), context=LABELS),
     "X[3, 1] is nan"),
])
def test_what_cannot_be_reported_on_is_said_in_a_line(call, words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        call()


class Parrot(Model):
    """It draws the rows that it was fitted to."""

    _capabilities = Capabilities("none", "none", False)

    def _learn(self, x, c, weights, run):
        self._build({})
        self.params_, self.history_, self.n_epochs_ = Parameters({"rows": x}), [], 0

    def _draw(self, p, n, stream, c=None):
        return p["rows"][stream.integers(len(p["rows"]), n)]


def test_a_model_that_repeats_its_rows_is_found():
    """Of 300 rows, one column of which follows from the other; other rows are no copies, nor are independent columns."""
    x = MOONS[:, :1] * [1, 2]
    report = npgen.report(Parrot().fit(x), x, holdout=data.moons(300, 7)[:, :1] * [1, 2])
    samples, real, independent = (report.facts[key] for key in ("samples", "real", "independent"))
    assert samples["copies"] == 1 and samples["nearest"] < 1e-6 and abs(samples["auc"] - 0.5) < 6 * report.facts["auc_error"]
    assert real["copies"] == independent["copies"] == 0 and 0 < real["nearest"] < independent["nearest"]
    assert independent["shapes"] == real["shapes"] and independent["pairs"] < real["pairs"] - 0.2
    assert independent["auc"] > 0.8
    halves = npgen.report(Parrot().fit(x), x).facts  # half of what it repeats are rows that samples are compared with
    assert 0.3 < halves["samples"]["copies"] < 0.7 and halves["real"]["copies"] == 0


def pictures_in(html, section):
    """The pictures of a section, (h, w, 3) of 0 to 255."""
    image = pytest.importorskip("matplotlib.image")
    part = html.partition(f'<section id="{section}">')[2].partition("</section>")[0]
    files = (io.BytesIO(base64.b64decode(text)) for text in re.findall(r"data:image/png;base64,([^\"]+)", part))
    return [np.rint(255 * image.imread(file)[..., :3]) for file in files]


def test_images_are_those_of_the_rows():
    x = CASES["images"][1]
    rows, _ = pictures_in(made("images").html, "samples")
    assert rows.shape == (7 * 9 + 1, 7 * 9 + 1, 3)
    for i, row in enumerate(x[:48]):
        top, left = i // 7 * 9 + 1, i % 7 * 9 + 1
        np.testing.assert_array_equal(rows[top:top + 8, left:left + 8, 1], np.rint(255 * (1 - row.reshape(8, 8) / 16)))


def test_a_heat_map_has_its_first_row_at_the_bottom_and_the_largest_value_dark():
    html = f'<section id="one">{charts.heat(np.array([[0, 1, 2], [3, np.nan, 4]]), "what it shows")}</section>'
    picture, = pictures_in(html, "one")
    assert picture.shape == (2, 3, 3) and picture[0, 1].tolist() == [200] * 3
    assert picture[1, 0].tolist() == charts.LOW.tolist() and picture[0, 2].tolist() == charts.HIGH.tolist()
    assert (np.diff(picture[[1, 1, 1, 0, 0], [0, 1, 2, 0, 2], 0]) < 0).all()


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_a_png_is_read_as_what_was_written(pixels):
    image = pytest.importorskip("matplotlib.image")
    np.testing.assert_array_equal(np.rint(255 * image.imread(io.BytesIO(charts.png(pixels)))[..., :3]), pixels)


# ---------------------------------------------------------------- command line

def test_the_command_writes_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted("frame").save("m")
    pl.DataFrame(CELLS).write_csv("people.csv")
    assert cli.main(["report", "m", "--data", "people.csv", "--out", "page.html"]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == npgen.report(npgen.load("m"), pd.DataFrame(CELLS)).html
    assert f"{made('frame').facts['log_prob']:.4f}" in out and "page.html" in out
    fitted("given labels").save("c")
    np.save("x.npy", np.column_stack([MOONS, LABELS]))
    assert cli.main(["report", "c", "--data", "x.npy", "--context", "3", "--rows", "2", "--out", "c.html"]) == 0
    assert cli.main(["report", "c", "--data", "x.npy", "--context", "3", "--holdout", "x.npy", "--out", "c.html"]) == 0
    capsys.readouterr()
    (tmp_path / "old.html").write_text("old")
    for words in (["--data", "x.npy", "--out", "old.html"], ["--data", "none.csv", "--out", "old.html"],
                  ["--data", "people.csv", "--out", "old.txt"], ["--data", "people.csv", "--rows", "-1", "--out", "old.html"]):
        assert cli.main(["report", "m", *words]) == 2
        out, err = capsys.readouterr()
        assert err.startswith("npgen: error: ") and err.count("\n") == 1 and not out
    assert (tmp_path / "old.html").read_text() == "old" and not list(tmp_path.glob("*.tmp"))


# ---------------------------------------------------------------- measures

def cells(rows, columns, low=-2, high=2):
    return arrays.arrays(np.float64, st.tuples(rows, columns), elements=st.one_of(st.integers(low, high).map(float),
                                                                                  st.just(np.nan), st.just(-0.0)))


@given(arrays.arrays(np.float64, st.integers(1, 12), elements=st.integers(-2, 2).map(float)),
       arrays.arrays(np.float64, st.integers(1, 12), elements=st.integers(-2, 2).map(float)))
def test_auc_is_the_share_of_pairs_that_are_in_order(low, high):
    pairs = [1.0 if b > a else 0.5 if a == b else 0.0 for a in low for b in high]
    assert measures.auc(low, high) == pytest.approx(np.mean(pairs), abs=1e-12)


@given(arrays.arrays(np.float64, st.integers(1, 12), elements=st.integers(-2, 2).map(float)),
       arrays.arrays(np.float64, st.integers(1, 12), elements=st.integers(-2, 2).map(float)))
def test_shapes_are_the_complements_of_known_distances(x, y):
    apart = max(abs(np.mean(x <= v) - np.mean(y <= v)) for v in range(-2, 3))
    assert measures.shape_similarity(x, y, False) == pytest.approx(1 - apart, abs=1e-12)
    shares = [abs(np.mean(x == v) - np.mean(y == v)) for v in range(-2, 3)]
    assert measures.shape_similarity(x, y, True) == pytest.approx(1 - sum(shares) / 2, abs=1e-12)
    with_gaps = np.append(x, np.nan)
    assert measures.shape_similarity(with_gaps, y, True) == measures.shape_similarity(x, y, True)


@given(cells(st.integers(1, 6), st.just(2), -1, 1), cells(st.integers(1, 6), st.just(2), -1, 1))
def test_a_copy_is_a_row_that_is_there(x, of):
    def same(a, b):
        return all(p == q or np.isnan(p) and np.isnan(q) for p, q in zip(a, b, strict=True))
    assert measures.copies(x, of).tolist() == [any(same(a, b) for b in of) for a in x]


@given(cells(st.integers(1, 6), st.just(4)), cells(st.integers(1, 6), st.just(4)))
def test_nearest_is_the_smallest_distance(x, of):
    levelled = np.array([True, False, False, True])
    there = [column[~np.isnan(column)] for column in of.T]
    std = [column.std() if len(column) and column.std() > 0 else 1.0 for column in there]

    def square(a, b, j):
        if np.isnan(a) or np.isnan(b):
            mean = there[j].mean() if len(there[j]) else 0.0
            apart = 0 if levelled[j] else ((np.nan_to_num(a, nan=mean) - np.nan_to_num(b, nan=mean)) / std[j])**2
            return apart + (np.isnan(a) != np.isnan(b))
        return float(a != b) if levelled[j] else ((a - b) / std[j])**2
    expected = [min(sum(square(a[j], b[j], j) for j in range(4)) for b in of)**0.5 for a in x]
    np.testing.assert_allclose(measures.nearest(x, of, levelled), expected, atol=1e-6)


@given(cells(st.integers(1, 8), st.just(3), 0, 2), cells(st.integers(1, 8), st.just(3), 0, 2))
def test_pairs_agree_by_their_tables(a, b):
    a, b = (np.nan_to_num(each).astype(int) for each in (a, b))
    apart = [sum(abs(np.mean((a[:, i] == u) & (a[:, j] == v)) - np.mean((b[:, i] == u) & (b[:, j] == v)))
                 for u in range(3) for v in range(3)) / 2 for i in range(3) for j in range(i)]
    assert measures.pair_similarity(a, b, [3, 3, 3]) == pytest.approx(1 - np.mean(apart), abs=1e-12)


def test_association_is_none_of_independent_columns_and_the_correlation_of_normal_ones():
    """By 20,000 rows: 19,000 rows' nats of independent columns have a standard deviation below 1e-3; 0.1 is off by 5e-3 nats,
    ten of them. Of normal columns in twenty bins each the binning takes 0.02 at most; chance is below 0.01."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2))
    for correlation in (0.0, 0.3, -0.6, 0.9):
        y = correlation * x[:, 0] + np.sqrt(1 - correlation**2) * x[:, 1]
        codes = np.stack([np.searchsorted(np.quantile(each, np.arange(1, 20) / 20), each) for each in (x[:, 0], y)], axis=1)
        found = measures.associations(codes, [20, 20])
        assert found[0, 1] == found[1, 0] and found[0, 0] == 1
        assert abs(found[0, 1] - abs(correlation)) < (0.1 if correlation == 0 else 0.05)
    same = rng.integers(0, 4, 20_000)
    assert measures.association(measures.joint(same, same, (4, 4)), 20_000) == pytest.approx(np.sqrt(1 - 1 / 16), abs=0.005)


def test_a_classifier_tells_what_differs_and_nothing_else():
    """AUCs of rows that are alike lie within 0.5 ± 6 standard errors: one false alarm in 10^6 seeds."""
    rng = np.random.default_rng(0)
    for n, k in ((200, 40), (1000, 4)):
        x, y = rng.normal(size=(2, n, k))
        told, error = measures.classifier_auc(x, y, Stream(0))
        assert abs(told - 0.5) < 6 * error and error == pytest.approx(1 / np.sqrt(6 * n), rel=0.01)
    assert measures.classifier_auc(x, y + 1, Stream(0))[0] > 0.85
    y = y[:, :1] * [1, 1, 0, 0] + 0.3 * rng.normal(size=(1000, 4))   # the same single columns, one dependence
    x = np.stack([column[rng.permutation(1000)] for column in y.T], axis=1)
    assert measures.classifier_auc(x, y, Stream(0))[0] > 0.8


@given(cells(st.integers(1, 60), st.just(1), -30, 30), st.booleans(), st.integers(2, 9))
def test_every_value_is_in_one_bin_and_equal_values_in_the_same(x, even, some):
    x = x[:, 0]
    column = columns_of(x[:, None], x[:, None], ["x"])[0]
    bins = Bins(column, x, x, some=some, count=6, even=even)
    codes = bins(x)
    assert len(bins.labels) == bins.size and codes.min() >= 0 and codes.max() < bins.size
    assert (codes == bins.size - 1).tolist() == np.isnan(x).tolist()
    there = ~np.isnan(x)
    for value in np.unique(x[there]):
        assert len(set(codes[x == value])) == 1
    order = codes[there][codes[there] >= len(bins.values)]
    rest = x[there][codes[there] >= len(bins.values)]
    assert (np.diff(order[np.argsort(rest)]) >= 0).all()
    if there.any():
        assert bins.shares(x).sum() == pytest.approx(1)
    if len(np.unique(x[there])) <= some:
        assert len(set(codes[there])) == len(np.unique(x[there]))


def test_values_that_many_rows_have_stand_before_the_axis_of_the_others():
    x = np.concatenate([np.full(60, 40.0), np.arange(20), [200.0]])[:, None]
    known = columns_of(x, x, ["hours"])
    fine = (Bins(known[0], x[:, 0], x[:, 0]),)
    subject = types.SimpleNamespace(columns=known, fine=fine, x=x, some=np.arange(len(x)), drawn=x)
    page = str(columns._chart(subject, 0, 1.0))
    start = re.search(r'd="M([0-9.]+) 110H290"', page)[1]
    assert "agreement 1.000; on the left 40<" in page
    assert float(start) == pytest.approx(10 + 280 / page.count('class="over"'), abs=0.06)
    assert re.findall(r'<text x="([0-9.]+)"[^>]*>([^<]*)<', page)[:2] == [(start, "0"), ("290.0", "200")]
    assert "64 to 71: rows 0.0%" in page  # an interval without rows has its place


# ---------------------------------------------------------------- mistakes

def anew(law, *cases):
    """The law of pages that are made with the mistake."""
    made.cache_clear()
    try:
        law(*cases)
    finally:
        made.cache_clear()


LAWS = {  # what went wrong -> where, what becomes what, and the law that has to find it
    "text is markup": ("reports.markup:escape", "html.escape(", "(lambda text, quote: text)(",
                       lambda: anew(test_what_a_table_says_is_text, "names that are markup")),
    "quotes end an attribute": ("reports.markup:escape", "quote=True", "quote=False",
                                lambda: anew(test_the_page_is_whole_and_asks_nothing_of_a_network, "names that are markup")),
    "signs that turn a line": ("reports.markup:escape", '_UNSEEN.sub("\\ufffd", str(text))', "str(text)",
                               lambda: anew(test_what_a_table_says_is_text, "names that are markup")),
    "the first bar is on the axis": ("reports.charts:bars", "10 + alone * width", "10",
                                     test_values_that_many_rows_have_stand_before_the_axis_of_the_others),
    "the axis has gaps": ("reports.columns:_chart", "np.arange(between[0], between[-1] + 1)", "between",
                          test_values_that_many_rows_have_stand_before_the_axis_of_the_others),
    "names are not cut": ("reports.markup:short", "len(text) <= most", "True",
                          test_names_and_levels_of_any_length_stay_small),
    "a figure of another fact": ("reports.fitted:density", "values.mean(), \".4f\"", "values.mean() + 1e-3, \".4f\"",
                                 lambda: anew(test_the_figures_are_the_facts, "points")),
    "the highest densities": ("reports.rows:lowest", "np.argsort(subject.nats", "np.argsort(-subject.nats",
                              lambda: anew(test_the_facts_are_the_librarys, "points")),
    "rows are counted in the sample": ("reports.rows:lowest", "int(subject.of[i])", "int(i) + 1",
                                       lambda: anew(test_the_facts_are_the_librarys, "points")),
    "the least surprising column is blamed": (
        "reports.rows:lowest", "np.argsort(-np.nan_to_num(each", "np.argsort(np.nan_to_num(each",
        test_a_row_that_is_odd_in_one_column_is_found_and_the_column_is_blamed),
    "what is usual counts": ("reports.rows:surprises", " - np.median(nats[len(order):], axis=0)", "",
                             lambda: anew(test_cells_are_blamed_by_what_explain_says, "frame")),
    "a report draws from the model's stream": (
        "reports.subject:Subject._sample", "rng=self.stream.spawn()", "rng=None",
        lambda: anew(test_the_same_seed_gives_the_same_page_and_the_model_stays_as_it_was, None)),
    "copies among themselves": ("reports.synthetic:synthetic", "copies(y, subject.rest)", "copies(y, y)",
                                test_a_model_that_repeats_its_rows_is_found),
    "the other half is among the rows": ("reports.subject:Subject._halve", "np.delete(self.x, some[half:2 * half], axis=0)",
                                         "self.x", test_a_model_that_repeats_its_rows_is_found),
    "columns are shuffled together": ("reports.subject:Subject._halve", "column[self.stream.permutation(half)]", "column[::-1]",
                                      test_a_model_that_repeats_its_rows_is_found),
    "samples are other rows": ("reports.subject:Subject._halve", 'draws", drawn)', 'draws", other)',
                               test_a_model_that_repeats_its_rows_is_found),
    "a map upside down": ("reports.charts:heat", "0, 1)[::-1, :, None]", "0, 1)[:, :, None]",
                          test_a_heat_map_has_its_first_row_at_the_bottom_and_the_largest_value_dark),
    "images in negative": ("reports.rows:_pictures", "1 - row.reshape", "row.reshape",
                           lambda: anew(test_images_are_those_of_the_rows)),
    "a line without its filter": ("reports.charts:png", "np.zeros((height, 1), np.uint8)", "np.ones((height, 1), np.uint8)",
                                  test_a_png_is_read_as_what_was_written),
    "ties count for nothing": ("reports.measures:auc", 'side="right"', 'side="left"',
                               test_auc_is_the_share_of_pairs_that_are_in_order),
    "one sum of shares for two": ("reports.measures:shape_similarity", ".sum() / 2", ".sum()",
                                  test_shapes_are_the_complements_of_known_distances),
    "one side of a distance": ("reports.measures:shape_similarity", "np.abs(f - g).max()", "(f - g).max()",
                               test_shapes_are_the_complements_of_known_distances),
    "-0 is no copy of 0": ("reports.measures:_same_bits", " + 0.0", "", test_a_copy_is_a_row_that_is_there),
    "levels are numbers": ("reports.measures:nearest", "[:, ~levelled]", "", test_nearest_is_the_smallest_distance),
    "gaps are no difference": ("reports.measures:nearest", ", *np.isnan(each[:, ~levelled]).T", "",
                               test_nearest_is_the_smallest_distance),
    "chance is association": ("reports.measures:association", "nats -= ", "nats += 0 * ",
                              test_association_is_none_of_independent_columns_and_the_correlation_of_normal_ones),
    "a classifier is asked what it was fitted to": (
        "reports.measures:classifier_auc", "score(x[asked]), score(y[asked])", "score(x[fitted]), score(y[fitted])",
        test_a_classifier_tells_what_differs_and_nothing_else),
    "a classifier sees one column": ("reports.measures:_network", "z @ weight", "z[:, :1] @ weight[:1]",
                                     test_a_classifier_tells_what_differs_and_nothing_else),
    "a pair is counted twice": ("reports.measures:pair_similarity", ".sum() / 2", ".sum()", test_pairs_agree_by_their_tables),
    "gaps are values": ("reports.bins:Bins.__call__", "self.size - 1", "0",
                        test_every_value_is_in_one_bin_and_equal_values_in_the_same),
}


@pytest.mark.long
@pytest.mark.parametrize("name", LAWS)
def test_a_mistake_is_found(name):
    target, old, new, law = LAWS[name]
    with mutants.Mutant(name, "", target, old, new).made(), pytest.raises((AssertionError, ValueError, ExceptionGroup)):
        law()
