"""What is to run on a machine with a GPU, as far as it runs without one."""
import importlib
import inspect
import json
import math
import os
import re
import subprocess
import sys

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
    cuda_receipts.write_receipts()
    assert cuda_receipts.unverified() == []
    receipt = json.loads((tmp_path / "VERIFIED.json").read_text())["flow"]
    assert set(receipt) == {"hash", "device", "driver", "date"} and receipt["device"] == "Stand-in"
    source = cuda_receipts._cuda.source
    monkeypatch.setattr(cuda_receipts._cuda, "source", lambda stem: source(stem).replace("struct Stairs", "struct  Stairs"))
    assert {"masked_matmul", "mlp"} <= set(cuda_receipts.unverified()) < set(cuda_receipts.fingerprints())


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
    monkeypatch.setattr(cuda.report, "__defaults__", (works, 0, (), math.inf, 7, TINY["made"], 3))
    cuda.main(["--minutes", "4", "--out", str(tmp_path / "CUDA.md")])
    said, text = capsys.readouterr().out.splitlines(), (tmp_path / "CUDA.md").read_text()
    assert all(line in text for line in said if line.startswith("|"))
    first, last = cuda.COMPILED
    begins = ["| cudaMemcpyAsync |", "| logsumexp", "| float32 masked", "| em.statistics", "| 7 rows sampled", f"| {first} |",
              f"| {first} | adam.step |", f"{first}: npgen", f"{cuda.EM}: npgen"]
    places = [next(i for i, line in enumerate(said) if line.startswith(begin)) for begin in begins]
    assert places == sorted(places)
    assert [line.partition(": ")[0] for line in said[places[-2]:]] == [first, last, cuda.EM, first, last]
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
    results, missing = cuda.beside({"it": Work(KINDS[kind], kind, TINY[KINDS[kind]], "cuda")}, 1, 0)
    assert {"npgen", "torch"} <= set(results["it"]) and not any("FAILED" in words for words in missing)
    assert cupy.traffic["reads"] and cupy.traffic["sent"]  # npgen was there


def test_why_a_step_cannot_be_taken_apart_is_said(standin, workers, monkeypatch, capsys):
    def refuse(*args):
        raise NotImplementedError("calling cuBLAS API during stream capture")

    monkeypatch.setattr(cuda.graph.Captured, "__init__", refuse)
    monkeypatch.setattr(cuda, "beside", lambda *args: ({}, []))
    works = {"a step": Work("made", "made_step", TINY["made"], "cuda")}
    text, missing = cuda.report(48, 4, 3, 5, (20, 2, 3), 1, works, 0, samples=3, sizes=TINY["made"])
    assert missing == ["a step, its profile, FAILED: it is not captured: NotImplementedError: calling cuBLAS API during stream "
                       "capture"] and f"- **{missing[0]}**" in text


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


def test_what_is_measured_is_printed_as_it_comes_and_nothing_is_begun_when_the_time_is_over(cupy, workers, monkeypatch, capsys):
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda library: None)
    step = list(cuda.WORKS)[0]
    works = {step: Work("made", "made_step", TINY["made"], "cuda")}
    results, missing = cuda.beside(works, 1, 0, compiled=works)
    assert list(results) == [step] and capsys.readouterr().out.count(f"{step}: npgen ") == 2
    results, missing = cuda.beside(works, 1, 0, compiled=works, ends=-1.0)
    assert results == {} and missing[2:] == [f"{step} was left out: the time was over",
                                             f"{step}, torch.compile was left out: the time was over"]


def test_the_receipts_leave_out_what_there_is_no_time_for(cupy, monkeypatch, tmp_path, capsys):
    ran, codes = [], {}
    monkeypatch.setattr(cuda_receipts, "RECEIPTS", tmp_path / "VERIFIED.json")
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 13000, raising=False)

    def run(command, timeout, **options):
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
    (tmp_path / "VERIFIED.json").unlink()
    codes["the kernels"] = 1
    monkeypatch.setattr(cuda_receipts.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="1"):
        cuda_receipts.main([])
    assert not (tmp_path / "VERIFIED.json").exists() and ran[8][1] is None and len(ran) == 8 + 6
    assert capsys.readouterr().out.splitlines()[-1] == "racecheck: NOT run: compute-sanitizer is not installed"


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_peer_without_the_device_is_left_out(cupy, workers, monkeypatch, library):
    peer = pytest.importorskip(library, reason=f"{library} is not installed: pip install -e '.[bench]'")
    if library == "torch" and peer.cuda.is_available() or library == "jax" and peer.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    monkeypatch.setattr(InProcess, "device", "cuda")
    _, missing = cuda.beside({}, 1, 0)
    assert any(words.startswith(f"{library} was left out") for words in missing)


def test_without_a_gpu_the_command_says_so():
    result = subprocess.run([sys.executable, cuda_receipts.__file__], capture_output=True, text=True,
                            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode and "cuda: CuPy" in result.stderr.splitlines()[-1]
