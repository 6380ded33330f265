"""The table of published numbers: chosen by what training stops by, the test scored once, nothing fitted twice."""
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import npgen
from npgen import data

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import published, published_machines, published_rows, published_toys, yardsticks  # noqa: E402
from benchmarks.published import Result, Row, Work  # noqa: E402

X, VALID, TEST = (data.moons(n, seed=seed).astype(np.float32) for n, seed in ((300, 1), (100, 2), (50, 3)))
MODELS = [npgen.MADE(hidden=(8,), max_epochs=3, learning_rate=rate, random_state=0) for rate in (1e-6, 3e-2)]


def table(work, rows, out):
    published.run(rows, rows, work, out)
    return out.read_text()


def test_settings_are_chosen_by_the_rows_that_training_stops_by_and_the_test_is_scored_once(tmp_path, monkeypatch):
    scored = []
    log_prob = npgen.MADE.log_prob
    monkeypatch.setattr(npgen.MADE, "log_prob", lambda self, rows, **k: scored.append(len(rows)) or log_prob(self, rows, **k))
    row = Row("MADE", "moons", ("<=", 100.0), "", published.nll("moons", lambda: (X, VALID, TEST), *MODELS))
    text = table(Work(tmp_path / "work"), [row], tmp_path / "T.md")
    assert scored.count(len(TEST)) == 1 and "| yes |" in text
    best = npgen.MADE(**MODELS[1].get_params()).fit(X, validation_data=VALID)
    assert f"{-log_prob(best, TEST).mean():.6g}" in text and text.count("learning_rate=") == 3  # the choice, and two looked at
    text = table(Work(tmp_path / "work"), [row], tmp_path / "T.md")
    assert scored.count(len(TEST)) == 1 and "| yes |" in text  # what is done is not done again


def test_a_fit_goes_on_where_it_was_stopped_to_the_same_bits(tmp_path, monkeypatch):
    model = npgen.MADE(hidden=(8,), max_epochs=6, random_state=0)
    whole = Work(tmp_path / "whole").fit("moons", model, X, VALID)
    work, epochs, clock = Work(tmp_path / "work"), [], time.perf_counter

    def interrupted():
        epochs.append(1)
        if len(epochs) == 4:  # in the third epoch
            raise KeyboardInterrupt
        return clock()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(published.time, "perf_counter", interrupted)
        work.fit("moons", model, X, VALID)
    fit = work.fit("moons", model, X, VALID)
    np.testing.assert_array_equal(fit.model.params_.flat, whole.model.params_.flat)
    assert fit.curve == whole.curve == [entry["valid_nats"] for entry in whole.model.history_] and fit.nats == min(fit.curve)
    again = work.fit("moons", model, X, VALID)
    np.testing.assert_array_equal(again.model.log_prob(TEST), whole.model.log_prob(TEST))
    assert again.nats == fit.nats and model.callbacks == ()


def test_a_fit_without_hours_left_is_shown_by_its_curve_and_goes_on_when_told_to(tmp_path):
    row = Row("MADE", "moons", ("<=", 100.0), "1.0", published.nll("moons", lambda: (X, VALID, TEST), MODELS[1]))
    for resume, epochs in ((False, 1), (False, 1), (True, 2), (True, 3)):
        text = table(Work(tmp_path / "work", hours=1e-9, resume=resume), [row], tmp_path / "T.md")
        assert f"not done: {epochs} epochs" in text and len(json.loads(
            (tmp_path / "work" / "results.json").read_text())[row.key]["curve"]) == epochs
    assert "| yes |" in table(Work(tmp_path / "work", resume=True), [row], tmp_path / "T.md")


@pytest.mark.slow
def test_the_command_runs_by_itself_in_an_empty_folder_and_goes_on_where_it_was_killed(tmp_path):
    """On a row that needs no data: killed at its first checkpoint, it ends with the figure and the curve of one left alone."""
    pytest.importorskip("matplotlib")
    key, results = "MAF, base of MADE: NLL minus entropy | moons", []

    def start(home):
        return subprocess.Popen([sys.executable, "-m", "benchmarks.published", "--only", key], cwd=home, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    for home in (tmp_path / "whole", tmp_path / "killed"):
        shutil.copytree(Path(published.__file__).parent, home / "benchmarks",
                        ignore=shutil.ignore_patterns("PUBLISHED.md", "published", "__pycache__"))
        work = home / "build" / "published"
        if home.name == "killed":
            process = start(home)
            while process.poll() is None and not list(work.glob("*.run")):
                time.sleep(0.01)
            process.kill()
            process.communicate()
            assert process.returncode < 0 and not (work / "results.json").exists()
        process = start(home)
        out, err = process.communicate()
        assert process.returncode == 0 and out.startswith(f"{key}: 0.0"), err
        results.append(json.loads((work / "results.json").read_text())[key])
        assert len(results[-1]["curve"]) == 40 and f"| {results[-1]['figure']:.6g} ±" in (home / "benchmarks" /
                                                                                           "PUBLISHED.md").read_text()
        assert (home / "benchmarks" / "published" / "maf-base-of-made-moons.png").stat().st_size > 3000
    assert start(home).communicate()[0] == ""  # what is done is not done again
    whole, killed = ({k: v for k, v in each.items() if k != "seconds"} for each in results)
    assert whole == killed


def test_what_rows_have_in_common_is_said_once_and_why_and_the_curve_where_a_bar_is_missed(tmp_path):
    def result(figure, settings="MADE()"):
        return Result(figure, settings=settings, looked=[(settings, 2.0), ("MADE(a)", 3.0)], note="A note.", curve=[5.5, 4.5])

    figures = {"moons": 1.0, "rings": 3.0, "digits": 1.0}
    rows = [Row("MADE", name, ("<=", 2.0), "", lambda work, name=name: result(figures[name], "NSF()" if name == "digits" else
                                                                              "MADE()"), why=f"why of {name}")
            for name in figures]
    text = table(Work(tmp_path / "work"), rows, tmp_path / "T.md")
    assert "2 of 3 bars are met" in text and "**MADE: moons, rings**" in text and "**MADE: digits**" in text
    assert text.count("A note.") == text.count("`MADE(a)`: 3") == 2  # of two groups, not of three rows
    assert text.count("why of") == 1 and "why of rings" in text and text.count("epoch to epoch of 2: 5.5, 4.5") == 1


def test_without_rows_to_stop_by_the_curve_is_that_of_the_rows_fitted(tmp_path):
    fit = Work(tmp_path).fit("moons", npgen.MADE(hidden=(8,), max_epochs=3, validation_fraction=0, random_state=0), X, None)
    assert fit.curve == [entry["train_nats"] for entry in fit.model.history_] and len(fit.curve) == 3


def test_rows_that_all_move_alike_are_as_far_as_they_moved():
    """By city blocks, of k rows to each row of a test; and by squares."""
    y = np.random.default_rng(0).permutation(np.arange(20.0)).reshape(10, 2)
    x = np.repeat(y, 3, axis=0) + [0.25, -0.5]
    assert abs(published_machines.transport(np.concatenate([x, y[:2]]), y) - 0.75) < 1e-12  # two rows are left over
    assert abs(published_toys.transport(y[::-1] + [0.25, -0.5], y) - 0.3125) < 1e-12


def test_a_fifth_of_every_class_is_apart():
    y = np.repeat([0, 1, 2], [50, 20, 10])
    (x, labels), (test, of_test) = published_machines.parted(np.arange(80.0)[:, None], y, 0)
    assert sorted([*x[:, 0], *test[:, 0]]) == list(range(80))
    np.testing.assert_array_equal(np.bincount(of_test), [10, 4, 2])
    np.testing.assert_array_equal(y[x[:, 0].astype(int)], labels)


@pytest.mark.parametrize(("bar", "met"), [(("<=", 1.0), True), (("<=", 0.9), False), ((">=", 1.0), True), ((">=", 1.1), False),
                                          (None, None)])
def test_a_bar_is_met_or_not(bar, met):
    assert Result(1.0).met(bar) is met and Result(None).met(bar) is None


def test_every_row_has_a_name_of_its_own():
    assert len({row.key for row in published_rows.ROWS}) == len(published_rows.ROWS)


def test_without_the_data_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(yardsticks, "LOADER", tmp_path / "load.py")
    yardsticks.loader.cache_clear()
    with pytest.raises(SystemExit, match="NOT RUN: the published data are not there"):
        published.main(["--only", "32 masks | dna", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "T.md")])
    yardsticks.loader.cache_clear()


def test_the_network_of_asia_has_the_published_entropy():
    rows = published_rows.states(8)
    nats = yardsticks.asia_log_prob(rows)
    p = np.exp(nats)
    assert abs(p.sum() - 1) < 1e-12 and abs(-(p[p > 0] * nats[p > 0]).sum() - 2.237029) < 1e-6


def test_the_rows_of_asia_follow_its_tables():
    """Chance breaks this in one of 1e6 seeds: the share of a state is within 5.8 of its standard errors, of 256."""
    n = 50_000
    share = np.bincount((yardsticks.asia(n) @ 2 ** np.arange(8)[::-1]).astype(int), minlength=256) / n
    p = np.exp(yardsticks.asia_log_prob(published_rows.states(8)))
    assert np.all(abs(share - p) <= 5.8 * np.sqrt(p * (1 - p) / n) + 3 / n)
