"""A report in a browser: it is read without scripts and explored with them, and what a table says is never run."""
import browser
import numpy as np
import pytest
import test_report
from test_report import CASES, EVIL, made

pytestmark = [pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason="no Chromium and chromedriver: the page was "
                                 "NOT opened; apt-get install chromium chromium-driver"), *test_report.pytestmark]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("chromium")) as session:
        yield session


def opened(session, case, folder):
    made(case).save(folder / "page.html")
    session.open(folder / "page.html")
    return session


def pixels(picture):
    """The (h, w, 3) bytes of a PNG without interlacing or alpha, its lines' filters undone."""
    matplotlib = pytest.importorskip("matplotlib.image")
    import io
    return (matplotlib.imread(io.BytesIO(picture))[..., :3] * 255).astype(np.uint8)


@pytest.mark.long(but={"case": ("frame with holes", "names that are markup")})
@pytest.mark.parametrize("case", CASES)
def test_a_page_is_shown_without_a_complaint(chromium, case, tmp_path):
    session = opened(chromium, case, tmp_path)
    assert session.log() == []
    assert session.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert session.run("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert session.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert len(session.texts("section h2")) == len(test_report.SECTIONS)
    assert len(np.unique(pixels(session.screenshot()).reshape(-1, 3), axis=0)) > 20


def test_what_a_table_says_is_never_run(chromium, tmp_path):
    session = opened(chromium, "names that are markup", tmp_path)
    assert session.run("return typeof window.hacked") == "undefined"
    assert session.run("return document.scripts.length") == 1
    assert EVIL[0] in session.texts("#schema td") and EVIL[0] in session.texts("#columns h3")
    session.run("const s = document.createElement('script'); s.textContent = 'window.hacked = 3'; document.body.append(s)")
    assert session.run("return typeof window.hacked") == "undefined"   # not even what is put there later
    assert any("Content Security Policy" in line for line in session.log())


def test_it_is_explored_by_clicks(chromium, tmp_path):
    session = opened(chromium, "frame", tmp_path)
    assert session.texts("#columns tbody td:first-child") == ["sex", "income", "city", "age", "visits"]
    session.click("#columns th", 2)
    shown = session.texts("#columns tbody td:nth-child(3)")
    assert shown == sorted(shown, key=float)
    session.click("#columns th", 2)
    assert session.texts("#columns tbody td:nth-child(3)") == shown[::-1]
    session.click("#columns th", 0)
    assert session.texts("#columns tbody td:first-child") == ["age", "city", "income", "sex", "visits"]
    session.type("#filter", "I")
    assert session.texts("#columns figure h3") == ["income", "city", "visits"]
    session.click("[data-matrix]", 1)
    said = session.texts("#pair")[0]
    assert said == "city" or "rows 0." in said and "samples 0." in said
    session.click("#lowest summary")
    assert any("income = " in text for text in session.texts("#lowest details"))
    session.click("nav a", 5)
    assert abs(session.run("return document.getElementById('pairs').getBoundingClientRect().top")) < 200
    assert session.log() == []


def test_a_matrix_says_what_is_under_the_pointer(chromium, tmp_path):
    session = opened(chromium, "frame", tmp_path)
    facts = {frozenset(pair[:2]): pair[2:] for pair in made("frame").facts["pairs"]}
    names = list(test_report.CELLS)
    for i, j in ((0, 3), (4, 1)):
        session.run("""const box = document.querySelector("[data-matrix]").getBoundingClientRect(), at = k => (k + 0.5) / 5;
            document.querySelector("[data-matrix]").dispatchEvent(new MouseEvent("mousemove", {bubbles: true,
                clientX: box.left + at(arguments[1]) * box.width, clientY: box.top + at(arguments[0]) * box.height}))""", i, j)
        real, model = facts[frozenset((names[i], names[j]))]
        assert session.texts("#pair") == [f"{names[i]} and {names[j]}: rows {real:.2f}, samples {model:.2f}"]


def test_without_scripts_all_of_it_is_there(tmp_path):
    made("frame with holes").save(tmp_path / "page.html")
    with browser.browser(tmp_path, scripts=False, width=500) as session:
        session.open(tmp_path / "page.html")
        assert not session.run("return document.documentElement.classList.contains('js')")
        assert len(session.texts("#columns figure h3")) == 5 and len(session.texts("#pairs details img")) >= 6
        assert session.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert session.texts("#filter") == [] and session.texts("#pair") == []
        assert len(session.texts("#lowest tbody tr")) == 10
