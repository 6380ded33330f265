"""The benchmark at tiny sizes: every library gives npgen's answers, and the tables say what was measured."""
import importlib
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import formulas, problems, scale, scaling, speed, steps, with_dense, with_npgen  # noqa: E402
from benchmarks.worker import instructions  # noqa: E402

TINY = {"made": {"d": 12, "hidden": 20, "batch": 8, "n_samples": 5}, "vae": {"d": 12, "hidden": 10, "latent": 3, "batch": 8},
        "made_mixture": {"d": 6, "hidden": 9, "batch": 8, "components": 3},
        "realnvp": {"d": 5, "n_couplings": 4, "hidden": (8, 8), "batch": 8, "n_rows": 30},
        "maf": {"d": 5, "n_layers": 3, "hidden": (8, 7), "batch": 8, "n_rows": 30, "n_samples": 6},
        "nsf": {"d": 5, "n_layers": 3, "hidden": (8, 7), "bins": 4, "batch": 8, "n_rows": 30},
        "diffusion": {"d": 5, "hidden": (8, 7), "batch": 8, "n_rows": 30, "n_samples": 6, "n_steps": 4},
        "gan": {"d": 5, "hidden": (8, 7), "batch": 8, "n_noise": 3},
        "rbm": {"d": 12, "hidden": 9, "batch": 8, "n_chains": 6},
        "mixture": {"n": 200, "d": 2, "k": 3},
        "logsumexp": {"n": 7, "d": 5}, "normals": {"n": 5000}, "masked_product": {"d": 12, "hidden": 20, "batch": 8},
        "product": {"n": 7, "d": 5, "m": 9}, "large_products": {"n": 7, "d": 5, "m": 9}}
PEERS = {"torch": "torch", "zuko": "zuko", "jax": "jax", "numpy": "sklearn"}


def kinds():
    return sorted({(work.kind, work.make) for work in speed.WORKS.values()})


def answers(module, kind, make):
    """{variant: answers} of one library; each run is run once."""
    given = {}
    for variant, check, run in getattr(module, kind, lambda problem: ())(getattr(problems, make)(**TINY[make])):
        if "compile" not in variant:  # takes a minute
            given[variant] = check()
            run(1)
    return given


@pytest.mark.long(but={"library": ["numpy", "dense"]})
@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize("library", [*PEERS, "dense"])
@pytest.mark.parametrize(("kind", "make"), kinds())
def test_libraries_agree(kind, make, library):
    if library in PEERS:
        pytest.importorskip(PEERS[library], reason=f"{PEERS[library]} is not installed: pip install -e '.[bench]'")
    module = with_dense if library == "dense" else importlib.import_module(f"benchmarks.with_{library}")
    speed.check(kind, answers(with_npgen, kind, make) | answers(module, kind, make))


def test_a_disagreement_is_found():
    with pytest.raises(AssertionError, match="loss of npgen and torch differ"):
        speed.check("work", {"npgen": {"loss": 1.0}, "torch": {"loss": 1.001}})


def test_every_bar_is_judged_against_its_own_peers():
    seconds = {"npgen": [2.0, 1.0, 9.0], "torch": [8.0, 4.0, 5.0], "jax": [5.0, 4.5, 4.5], "npgen, scoring the rows": [1.0]}
    bars = speed.bars("AVX2")
    steps, scoring = bars[0], bars[2]
    assert speed.judge(steps, seconds) == ("jax", 2.0, 4.5, 2.0 / 4.5, 1.0 / 4.0)
    assert speed.judge(scoring, seconds)[3] == 2.0
    table = "\n".join(speed.bars_table({"MADE step": seconds}, bars))
    assert "**0.44** | 0.25 | yes" in table and table.count("\n") == 2


def test_bars_and_curves_name_what_there_is():
    for kind in "AVX2", "AVX-512":
        assert {bar.work for bar in speed.bars(kind)} == set(speed.WORKS)
    for make, kind, parameter, values, sizes in scaling.CURVES.values():
        assert hasattr(with_npgen, kind) and len(values) > 1
        assert {parameter, *sizes} <= set(inspect.signature(getattr(problems, make)).parameters)


def test_a_report_leaves_those_of_other_kinds_of_cpu(tmp_path):
    path = tmp_path / "RESULTS.md"
    for text in "# on A\n\n## old\n", "# on B\n\n## theirs\n", "# on A\n\n## new\n":
        speed.write(path, text)
    assert path.read_text() == "# on A\n\n## new\n\n# on B\n\n## theirs\n"


def test_a_cpu_is_named_by_its_widest_instructions():
    assert instructions(["+avx", "+avx2", "+fma", "-avx512f"]) == "AVX2"
    assert instructions(["+avx2", "+avx512f"]) == "AVX-512"
    assert instructions(["+crc"]) == "no vector instructions"


def test_a_slow_variant_has_its_share_and_no_more(monkeypatch):
    """One of 3 s a call, beside one of 1 ms, in 10 rounds of 0.2 s: it takes two turns, the other ten."""
    asked, seconds = [], {"npgen": 1e-3, "slow": 3.0}

    def worker(method, *args):
        if method == "prepare":
            return {variant: {} for variant in seconds}
        asked.append(args[0])
        return [seconds[args[0]]]

    monkeypatch.setattr(speed.time, "sleep", lambda _: None)
    taken = speed.measure([worker], "normals", 10, 0.2)
    assert [len(taken[variant]) for variant in seconds] == [10, 2] and asked.count("slow") == 2


def test_parameters_that_are_kept_otherwise_find_their_places():
    params = [np.arange(6.0).reshape(2, 3), np.array([6.0, 7.0, 8.0])]

    def turned(arrays):
        weight, bias = arrays
        return [bias[::-1], weight.T[::-1]]

    back = formulas.in_place(turned(params), turned(formulas.numbered(params)))
    assert (back == np.arange(9.0)).all()


def test_ratios_read_well():
    assert [speed.ratio(r) for r in (0.65, 3, 1 / 8, 1 / 200)] == ["0.65", "3.00", "1/8", "1/200"]


def test_the_parts_of_a_step_are_kernels_and_functions():
    step, python, spent = steps.parts("RealNVP step, D=2", n=3)
    kernels = {name for is_kernel, name in spent if is_kernel}
    assert 0 < python < step and all(seconds > 0 for seconds in spent.values())
    assert {name.rpartition(".")[0] for name in kernels} == {f"kernels.{file}" for file in ("flow", "adam", "norm", "gather")}
    assert any("add" in name for is_kernel, name in spent if not is_kernel)


def test_the_cost_of_workers_is_what_was_measured_for_one_and_has_a_floor_for_many():
    found = {"t_0": 0.01, "t_row": 1e-4, "parameters": 10**6}
    assert scale.step_on(found, 1000, 1, 1e9, 1e-5) == pytest.approx(0.11)
    assert scale.step_on(found, 1000, 1000, 1e9, 1e-5) == pytest.approx(0.01 + 1e-4 + 2 * 0.999 * 4e-3 + 20e-5)
    blocks = scale.ROWS // scale.BLOCK
    assert scale.iteration_on(0.5, 2, 3, 1, 0, 1e9, 1e-5, t_m=2) == pytest.approx(2 + 0.5 * blocks, rel=0.01)  # a short run
    assert scale.iteration_on(0.5, 2, 3, blocks, 1e-3, 1e9, 1e-5) == pytest.approx(
        0.5 + 4 / 3 * 1e-3 * blocks + 5 * (1e-5 + 3 * 168e-9))
    assert scale.n_bytes(2, 3) == 168


def test_a_curve_says_from_which_number_of_workers_half_are_lost():
    """Of 1 / w + 0.012 beyond w = 1.024 / 0.012."""
    *times, pays = scale.cells(*scale.curve(lambda w: 1 / w + 0.012))
    assert (times[0], times[4], pays) == ("1.01 s (1)", "45.3 ms (22.3)", "85")
    assert scale.curve(lambda w: 1 / w)[-1] == "1,000 or more"


def test_one_command_writes_the_page_of_scale_and_the_curve_of_the_docs(tmp_path, monkeypatch):
    found = {"t_0": 0.01, "t_row": 1e-5, "parameters": 10**6, "two": 0.6, "peaks": (1e9, 1e9), "latency": 1e-5,
             "allreduce": 0.1}
    made = {"gradient": lambda name, *_: found | {"step": {scale.STEPS[name]: 1.0}}, "dask": lambda: (1e-3, 3e8),
            "iteration": lambda x, k: np.array([1.0, 1e-9 * x.size * k]),
            "on_files": lambda: {1: (1.0, 3e5, 2e8), 2: (0.55, 4e5, 2e8)}}
    for name, instead in made.items():
        monkeypatch.setattr(scale, name, instead)
    docs, out, readme = tmp_path / "workers.md", tmp_path / "SCALE.md", tmp_path / "README.md"
    readme.write_text(f"a page {scale.BEGIN}{scale.END}")
    docs.write_text((Path(scale.__file__).parent.parent / "docs/workers.md").read_text())
    before, after = docs.read_text().partition(scale.BEGIN)[0], docs.read_text().partition(scale.END)[2]
    monkeypatch.setattr("numba.set_num_threads", lambda n: None)
    monkeypatch.setattr("sys.argv", ["scale", "--out", str(out), "--docs", str(docs), str(readme)])
    scale.main()
    page = docs.read_text()
    assert page.startswith(before + scale.BEGIN) and page.endswith(scale.END + after)
    assert "two ranks take 0.60 of one's time for a step of RealNVP, D = 64, batches of 4,096; " in page
    assert readme.read_text().partition(scale.BEGIN)[2] == page.partition(scale.BEGIN)[2].partition(scale.END)[0] + scale.END
    assert "| 2 processes | 550 ms | 0.40 MB | 200 MB |" in out.read_text()
    assert "two processes 0.55 for an iteration of EM" in page and "| EM, D = 256, K = 512 |" in page
    assert "| MADE 784-8,000 | 16,384 |" in out.read_text() and "| D = 16, K = 32 |" in out.read_text()
    docs.write_text("a page")
    with pytest.raises(ValueError, match="the page has no <!-- by python -m benchmarks.scale --> and <!-- --> after it"):
        scale.main()


def test_the_readme_shows_the_curve_of_the_docs_and_calls_it_a_prediction():
    (before, curve), (_, same) = (path.read_text().partition(scale.END)[0].split(scale.BEGIN) for path in scale.DOCS)
    assert curve == same and "| EM, D = 256, K = 512 |" in curve and "| MADE 784-8,000, batches of 1,024 |" in curve
    assert "**a prediction, not a measurement**" in " ".join(before[-400:].split())


def test_steps_of_a_rank_are_timed(tmp_path, monkeypatch):
    monkeypatch.setitem(scale.STEPS, "RealNVP, D = 64", 64)
    scale.steps("RealNVP, D = 64", tmp_path / "found", 2)
    found = json.loads((tmp_path / "found").read_text())
    assert list(found["step"]) == list(found["cpu"]) == ["64", "16", "4"] and found["parameters"] > 0
    assert all(t > 0 for what in ("step", "cpu") for t in found[what].values())
