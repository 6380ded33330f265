"""What is to run on a machine with a GPU, as far as it runs without one."""
import importlib
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_receipts
import pytest
from test_benchmarks import TINY

from benchmarks import cuda, problems, speed
from benchmarks.speed import Work
from benchmarks.worker import Server

KINDS = {"made_step": "made", "vae_step": "vae", "realnvp_step": "realnvp", "made_sample": "made", "em_on_device": "mixture"}


def test_receipts_hold_for_the_source_that_passed_and_no_other(cupy, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_receipts, "RECEIPTS", tmp_path / "VERIFIED.json")
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 13000, raising=False)
    (tmp_path / "VERIFIED.json").write_text("{}")
    assert set(cuda_receipts.unverified()) == set(cuda_receipts.fingerprints()) != set()
    cuda_receipts.write_receipts(set(cuda_receipts.fingerprints()))
    assert cuda_receipts.unverified() == []
    receipt = json.loads((tmp_path / "VERIFIED.json").read_text())["flow"]
    assert set(receipt) == {"hash", "device", "driver", "date"} and receipt["device"] == "Stand-in"
    cuda_receipts.write_receipts({"mlp"}, {"flow", "em"})
    assert cuda_receipts.unverified() == ["em", "flow"]
    source = cuda_receipts._cuda.source
    with monkeypatch.context() as edited:
        edited.setattr(cuda_receipts._cuda, "source", lambda stem: source(stem).replace("struct Stairs", "struct  Stairs"))
        assert {"masked_matmul", "mlp"} <= set(cuda_receipts.unverified()) < set(cuda_receipts.fingerprints())
    kernels = shutil.copytree(cuda_receipts._cuda.FOLDER, tmp_path / "kernels")
    monkeypatch.setattr(cuda_receipts._cuda, "FOLDER", kernels)
    for edited, stale in (("gray.py", ["em", "flow", "gray"]), ("_cublas.py", sorted(cuda_receipts.fingerprints()))):
        (kernels / edited).write_text((kernels / edited).read_text() + "# edited")
        assert cuda_receipts.unverified() == stale


def junit(*cases):
    """What pytest writes of tests: (file, name, kernels that were launched, "" or what is wrong)."""
    launches = '<properties><property name="launches" value="{}"/></properties>'
    each = f'<testcase classname="{{}}" name="test_{{}}">{launches}{{}}</testcase>'
    return f"<a>{''.join(each.format(*case) for case in cases)}</a>"


PASSED = [("one", "agrees[float32-adam.step]", ["adam"], ""), ("one", "agrees[float32-norm.squared]", ["norm"], ""),
          ("other", "chains", ["gibbs", "random"], ""), ("other", "skipped", [], "<skipped/>")]


@pytest.mark.parametrize("case, failed", [
    (("one", "nothing", [], ""), set()), (("one", "others", ["random", "norm"], "<failure/>"), {"random", "norm"}),
    (("one", "agrees[float64-adam.step]", [], "<error/>"), {"adam"}), (("other", "gibbs", [], "<failure/>"), {"gibbs"}),
    (("other", "steps", [], "<failure/>"), {"gibbs", "random"})])
def test_a_test_that_fails_is_against_its_own_kernels(tmp_path, case, failed):
    (tmp_path / "junit.xml").write_text(junit(*PASSED, case))
    stems = {"adam", "norm", "gibbs", "random", "flow"}
    assert cuda_receipts.judged(tmp_path / "junit.xml", stems) == ({"adam", "norm", "gibbs", "random"} - failed, failed)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_mistake_in_one_kernel_costs_the_others_no_receipt(cupy, tmp_path, processes):
    """The kernels' own tests, of which one fails: its kernel alone is left without a receipt, in several processes too."""
    (tmp_path / "mistaken.py").write_text("""
from npgen.kernels import _cuda
right = _cuda.source
_cuda.source = lambda stem: right(stem).replace("out[0] = total", "out[0] = 2 * total") if stem == "norm" else right(stem)
""")
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "mistaken", f"-n{processes}", "tests/test_cuda.py",
                    "--junitxml", tmp_path / "junit.xml",
                    "-k", "test_agrees and float64 and (norm.squared or silu or gather)"],
                   cwd=cuda_receipts.ROOT, capture_output=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert cuda_receipts.judged(tmp_path / "junit.xml", cuda_receipts.fingerprints()) == ({"silu", "gather"}, {"norm"})


@pytest.mark.slow
def test_every_kernel_has_tests_in_the_step_that_makes_receipts(cupy, tmp_path):
    step, = (step for step in cuda_receipts.STEPS if step.receipts)
    command = [word for word in step.command if word != "--gpu"]
    subprocess.run([*command, "--quick", "--junitxml", tmp_path / "junit.xml"], cwd=cuda_receipts.ROOT, capture_output=True)
    stems = set(cuda_receipts.fingerprints())
    assert set.union(*cuda_receipts.judged(tmp_path / "junit.xml", stems)) == stems


def test_another_checkouts_kernels_are_refused_in_a_line(tmp_path):
    """An environment where one checkout is installed for editing gives them to the npgen of another."""
    for folder in "npgen", "kernels", "benchmarks", "tests":
        shutil.copytree(cuda_receipts.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "frozen"))
    (tmp_path / "sitecustomize.py").write_text(f"""
import importlib.abc, importlib.machinery, importlib.util, sys
class Editable(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "npgen.kernels":
            folder = {str(cuda_receipts.ROOT / "kernels")!r}
            return importlib.util.spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])
sys.meta_path.append(Editable())
""")
    for command in ("tests/cuda_receipts.py",), ("-m", "benchmarks.cuda"), ("-m", "benchmarks.speed"):
        result = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True,
                                env=os.environ | {"PYTHONPATH": str(tmp_path)})
        assert result.returncode and result.stderr.count("\n") == 1 and str(tmp_path / "kernels") in result.stderr
        assert result.stderr.startswith("npgen.kernels is imported from")


class InProcess:
    """benchmarks.worker.Worker without the process, whose peers take the CPU for the device."""

    device, failing = "cpu", ()

    def __init__(self, library, n_threads, **environment):
        self.library, self.server = library, Server(importlib.import_module(f"benchmarks.with_{library}"))

    def __call__(self, method, *args):
        if self.library != "npgen":
            args = [self.device if a == "cuda" else a | {"device": self.device} if isinstance(a, dict) else a for a in args]
        try:
            if args[0] in self.failing:
                raise MemoryError("out of memory")
            return getattr(self.server, method)(*args)
        except Exception as error:
            raise RuntimeError(f"in the process of {self.library}, {method} failed:\n{error}") from error

    def stop(self):
        pass


@pytest.fixture
def workers(cupy, monkeypatch):
    monkeypatch.setattr(cuda, "Worker", InProcess)
    return InProcess


@pytest.mark.long
def test_the_benchmark_runs_on_the_stand_in(cupy, workers):
    text, _ = cuda.report(48, 4, 3, 5, (20, 2, 3), repeats=1, works={}, samples=7, sizes=TINY["made"])
    assert text.count("logsumexp.forward") == 1 and "float64 masked" in text and "em.statistics, N = 20" in text
    assert "| cudaMemcpyAsync |" in text and "| 7 rows sampled |" in text


@pytest.mark.long
def test_the_command_runs_on_the_stand_in(standin, workers, monkeypatch, tmp_path, capsys):
    """All of it, of a few values: rows come most important first, torch.compile last, and of two works alone."""
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda library: None)  # no peers
    works = {name: Work(KINDS[work.kind], work.kind, TINY[KINDS[work.kind]], "cuda") for name, work in cuda.WORKS.items()
             if name in cuda.COMPILED or work.kind == "em_on_device"}
    monkeypatch.setattr(cuda, "WORKS", works)
    monkeypatch.setattr(cuda, "SIZES", {"values": 48, "columns": 4, "rows": 3, "width": 5, "mixture": (20, 2, 3)})
    monkeypatch.setattr(cuda.report, "__defaults__", (works, 0, (), math.inf, 7, TINY["made"], 3, None))
    cuda.main(["--minutes", "4", "--out", str(tmp_path / "CUDA.md")])
    said, text = capsys.readouterr().out.splitlines(), (tmp_path / "CUDA.md").read_text()
    assert all(line in text for line in said if line.startswith("|"))
    first, last = cuda.COMPILED
    begins = [f"{first}: npgen", f"{cuda.EM}: npgen", f"| {first} |", f"| {first} | adam.step |", "| cudaMemcpyAsync |",
              "| logsumexp", "| float32 masked", "| 7 rows sampled", "| em.statistics"]
    places = [next(i for i, line in enumerate(said) if line.startswith(begin)) for begin in begins]
    assert places == sorted(places)
    assert [line.partition(": ")[0] for line in said[:3] + said[-2:]] == [first, last, cuda.EM, first, last]
    assert "ended before" not in text and not (tmp_path / "CUDA.md.part").exists()
    cuda.main(["--minutes", "0", "--out", str(tmp_path / "CUDA.md")])
    assert "was left out: the time was over" in (tmp_path / "CUDA.md").read_text()


@pytest.mark.long
def test_a_step_is_taken_apart(standin):
    wall, busy, nodes, kernels = cuda.profile(Work("made", "made_step", TINY["made"], "cuda"), 3, 1)
    launches = {name: n for name, (n, _) in kernels.items()}
    assert wall > 0 and busy > 0 and all(seconds > 0 for _, seconds in kernels.values())
    assert {name.partition(".")[0] for name in launches} == {"adam", "gather", "likelihood", "mlp", "norm"}
    assert launches["adam.step"] == 1 and sum(launches.values()) < nodes


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize("kind", KINDS)
def test_peers_agree_with_npgen_on_the_stand_in(cupy, workers, monkeypatch, kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[bench]'")
    monkeypatch.setattr(torch, "compile", lambda f, **options: f)  # takes a minute
    page = cuda.Page([], None, math.inf)
    with cuda.peers(page) as found:
        cuda.beside(page, found, "it", {"it": Work(KINDS[kind], kind, TINY[KINDS[kind]], "cuda")}, 1, 0)
    assert {"npgen", "torch"} <= set(page.results["it"])
    assert cupy.traffic["reads"] and cupy.traffic["sent"]  # npgen was there


def test_why_a_step_cannot_be_taken_apart_is_said(standin, workers, monkeypatch, capsys):
    def refuse(*args):
        raise NotImplementedError("calling cuBLAS API during stream capture")

    monkeypatch.setattr(cuda.graph.Captured, "__init__", refuse)
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda library: None)
    monkeypatch.setattr(cuda, "beside", lambda *args: None)
    works = {"a step": Work("made", "made_step", TINY["made"], "cuda")}
    text, missing = cuda.report(48, 4, 3, 5, (20, 2, 3), 1, works, 0, samples=3, sizes=TINY["made"])
    assert missing[2:] == ["a step, its profile, FAILED: RuntimeError: it is not captured: NotImplementedError: calling cuBLAS "
                           "API during stream capture"] and f"- **{missing[2]}**" in text


def test_every_work_that_is_judged_has_both_bars():
    steps = {work for work in cuda.WORKS if work.endswith("step")}
    assert len(steps) == 8 and sorted(bar.work for bar in cuda.BARS) == sorted([*steps, *steps, cuda.EM])
    assert {work.kind for work in cuda.WORKS.values()} == set(KINDS) and {w.device for w in cuda.WORKS.values()} == {"cuda"}
    for work in cuda.WORKS.values():
        inspect.signature(getattr(problems, work.make)).bind(**work.sizes)
    seconds = {"npgen": [1.0], "torch": [5.0], "torch, masked gradients": [4.0], "torch.compile": [2.0], "jax": [0.5]}
    judged = {(bar.limit, bar.stretch, speed.judge(bar, seconds)[0], speed.judge(bar, seconds)[3]) for bar in cuda.BARS}
    assert judged == {(0.3, 0.15, "torch, masked gradients", 0.25), (1.3, 1.0, "jax", 2.0),
                      (0.5, 0.3, "torch, masked gradients", 0.25)}


def test_what_is_left_out_or_fails_is_said(cupy, workers, monkeypatch, capsys):
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda library: None)
    monkeypatch.setattr(InProcess, "failing", ("vae_step",))
    step, other = list(cuda.WORKS)[0], list(cuda.WORKS)[2]
    works = {step: Work("made", "made_step", TINY["made"], "cuda"), other: Work("vae", "vae_step", TINY["vae"], "cuda")}
    monkeypatch.setattr(cuda, "profile", lambda work, steps, repeats: (2.0, 1.0, 9, {"adam.step": (1, 0.5)}))
    text, missing = cuda.report(48, 4, 3, 5, (20, 2, 3), 1, works, 0, samples=3, sizes=TINY["made"])
    assert f"| {step} | 2000.000 | 1000.000 | 2.00 | 9 | at most 1.15 |\n" in text
    assert f"| {step} | adam.step | 1 | 500.0000 |\n" in text
    assert missing == ["torch was left out: it is not installed", "jax was left out: it is not installed",
                       f"{other} FAILED: out of memory"]
    said = capsys.readouterr().err
    assert all(f"- **{words}**" in text and words in said for words in missing)
    assert f"| {step} | npgen |" in text and "against torch" not in text


def test_what_is_measured_is_printed_as_it_comes_and_nothing_is_begun_when_the_time_is_over(workers, small, capsys):
    step, = small
    text, _ = cuda.report(*SMALL, works=small, compiled=small)
    assert capsys.readouterr().out.count(f"{step}: npgen ") == 2 and "ended before" not in text
    text, missing = cuda.report(*SMALL, works=small, compiled=small, ends=-1.0)
    assert "| npgen |" not in text and missing[2:] == [f"{what} was left out: the time was over" for what in (
        step, f"{step}, its profile,", "the kernels that memory bounds", "masked products", "MADE's samples", "EM's sums",
        f"{step}, torch.compile")]


SMALL = 48, 4, 3, 5, (20, 2, 3), 1  # of report


@pytest.fixture
def small(cupy, monkeypatch):
    """One step that is judged, of a few values; and no peers."""
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda library: None)
    works = {list(cuda.WORKS)[0]: Work("made", "made_step", TINY["made"], "cuda")}
    monkeypatch.setattr(cuda, "profile", lambda work, steps, repeats: (2.0, 1.0, 9, {"adam.step": (1, 0.5)}))
    monkeypatch.setattr(cuda.report, "__defaults__", (works, 0, (), math.inf, 3, TINY["made"], 3, None))
    return works


@pytest.mark.parametrize("block, says", [("by_memory", "the kernels that memory bounds"), ("products", "masked products"),
                                         ("sampling", "MADE's samples"), ("mixture", "EM's sums"),
                                         ("profile", ", its profile,"), ("beside", "")])
def test_a_block_that_fails_is_a_line_and_the_rest_goes_on(workers, small, monkeypatch, tmp_path, block, says):
    def fail(*args, **sizes):
        raise MemoryError("out of memory")

    monkeypatch.setattr(cuda, block, fail)
    out, (step,) = tmp_path / "CUDA.md", small
    text, missing = cuda.report(*SMALL, out=out)
    what = f"{step}{says}" if block in ("profile", "beside") else says
    assert missing[2:] == [f"{what} FAILED: MemoryError: out of memory"] and out.read_text() == text
    rows = {"by_memory": "| random.normal |", "products": "| float64 masked |", "sampling": "| 3 rows sampled |",
            "mixture": "| em.statistics, N = 20", "profile": "| 9 | at most 1.15 |", "beside": f"| {step} | npgen |"}
    assert {name for name, row in rows.items() if row not in text} == {block}


@pytest.mark.parametrize("block, left", [("beside", []), ("profile", ["beside"]), ("by_memory", ["beside", "profile"])])
def test_what_was_measured_before_an_end_is_on_the_page(workers, small, monkeypatch, tmp_path, block, left):
    """Where the process is killed, which a KeyboardInterrupt stands for, as it is caught nowhere."""
    def end(*args, **sizes):
        raise KeyboardInterrupt

    monkeypatch.setattr(cuda, block, end)
    out, (step,) = tmp_path / "CUDA.md", small
    with pytest.raises(KeyboardInterrupt):
        cuda.report(*SMALL, out=out)
    text, rows = out.read_text(), {"beside": f"| {step} | npgen |", "profile": "| 9 | at most 1.15 |"}
    assert [name for name, row in rows.items() if row in text] == left
    assert "The run was ended before all was measured" in text and "torch was left out: it is not installed" in text


def test_a_process_that_an_error_may_have_spoilt_is_started_anew(workers, small, monkeypatch):
    stopped = []
    monkeypatch.setattr(InProcess, "stop", lambda worker: stopped.append(worker))
    monkeypatch.setattr(InProcess, "failing", ("vae_step",))
    page = cuda.Page([], None, math.inf)
    with cuda.peers(page) as found:
        first, works = found[0], small | {"other": Work("vae", "vae_step", TINY["vae"], "cuda")}
        for name in reversed(works):
            page.take(name, lambda name=name: cuda.beside(page, found, name, works, 1, 0))
        assert stopped == [first] and found[0] is not first
    assert list(page.results) == list(small) and page.missing[2:] == ["other FAILED: out of memory"]


def test_the_receipts_leave_out_what_there_is_no_time_for(cupy, monkeypatch, tmp_path, capsys):
    ran, codes, extra = [], {}, []
    monkeypatch.setattr(cuda_receipts, "RECEIPTS", tmp_path / "VERIFIED.json")
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 13000, raising=False)

    def run(command, timeout, **options):
        if "--junitxml" in command:
            Path(command.pop()).write_text(junit(*PASSED, *extra))
            assert command.pop() == "--junitxml"
        ran.append((command, timeout))
        what = next(step.what for step in cuda_receipts.STEPS if len(step.command) == len(command) and all(
            a in (b, "{minutes}") for a, b in zip(step.command, command, strict=True))) if "--gpu" in str(command) else None
        if codes.get(what) == "slow":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, codes.get(what, 0))

    monkeypatch.setattr(cuda_receipts.subprocess, "run", run)
    monkeypatch.setattr(cuda_receipts.shutil, "which", lambda name: name)
    cuda_receipts.main(["--plan"])
    assert not ran and capsys.readouterr().out.count("of the time that is left then") == len(cuda_receipts.STEPS) == 8
    cuda_receipts.main(["--stand-in"])
    assert [command[-1] for command, _ in ran] == ["tests/test_cublas.py", "tests/test_graph.py", "tests/test_device.py",
                                                   "tests/test_device_laws.py", "tests/test_device.py"]
    assert not any("--gpu" in command for command, _ in ran)
    assert capsys.readouterr().out.splitlines()[-1] == "racecheck: NOT run: it needs a GPU"
    assert not (tmp_path / "VERIFIED.json").exists()
    ran.clear()
    cuda_receipts.main(["--minutes", "0"])
    assert not ran and capsys.readouterr().out.splitlines()[-1] == "racecheck: NOT run: the time was over"
    assert not (tmp_path / "VERIFIED.json").exists()
    codes |= {"every public call": "slow", "captured steps": 1}
    with pytest.raises(SystemExit, match="1"):
        cuda_receipts.main(["--minutes", "5"])
    assert len(ran) == 8 and (tmp_path / "VERIFIED.json").exists() and 299 < ran[0][1] <= 300
    assert 2.4 < float(ran[2][0][-1]) <= 2.5 and ran[2][1] == pytest.approx(60 * float(ran[2][0][-1]) + 20, abs=1)
    said = capsys.readouterr().out.splitlines()[-8:]
    assert said[0].startswith("the kernels: passed in") and said[1].startswith("captured steps: FAILED in")
    assert all(": passed in" in words for words in (said[2], *said[4:]))
    assert re.fullmatch("every public call: cut short after .* s: the time was over", said[3])
    codes["the kernels"], extra = 1, [("one", "agrees[float64-norm.squared]", ["norm"], "<failure/>")]
    monkeypatch.setattr(cuda_receipts.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="1"):
        cuda_receipts.main([])
    assert set(json.loads((tmp_path / "VERIFIED.json").read_text())) == {"adam", "gibbs", "random"}
    assert ran[8][1] is None and len(ran) == 8 + 6
    said = capsys.readouterr().out.splitlines()[-8:]
    assert re.fullmatch("the kernels: FAILED in .* s; no receipt for categorical, em, .*, norm, .*", said[0])
    assert said[-1] == "racecheck: NOT run: compute-sanitizer is not installed"


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_peer_without_the_device_is_left_out(cupy, workers, monkeypatch, library):
    peer = pytest.importorskip(library, reason=f"{library} is not installed: pip install -e '.[bench]'")
    if library == "torch" and peer.cuda.is_available() or library == "jax" and peer.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    monkeypatch.setattr(InProcess, "device", "cuda")
    page = cuda.Page([], None, math.inf)
    with cuda.peers(page) as found:
        assert library not in [worker.library for worker in found]
    assert any(words.startswith(f"{library} was left out") for words in page.missing)


def test_without_a_gpu_the_command_says_so():
    result = subprocess.run([sys.executable, cuda_receipts.__file__], capture_output=True, text=True,
                            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode and "cuda: CuPy" in result.stderr.splitlines()[-1]
