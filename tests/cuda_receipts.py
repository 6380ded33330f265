"""On a machine with a GPU: verify the CUDA kernels there, and keep the receipts.

    python tests/cuda_receipts.py [--minutes M] [--plan | --stand-in]

Runs the kernels' tests on the device, captured steps beside those taken one by one, the benchmark, every public call, the
laws of every model, its moves, files and resumed fits, and NVIDIA's compute-sanitizer where it is installed; tests in several
processes where pytest-xdist is, as it is the host that keeps them waiting; writes kernels/VERIFIED.json as soon as the kernels'
tests are through (of every kernel whose own have passed, whatever others did: the hash of its .cu with all that it includes and
of its launches, its .py, _cuda.py and _cublas.py; device, driver and date), and benchmarks/CUDA.md.
It is over after M minutes: a step is cut short after its share of what is left, and what was left out is said at the end.
--plan prints what remains to be verified, in this order; --stand-in takes, on a machine without a GPU, the steps that a
stand-in for CuPy can take, and keeps no receipts.
"""
import argparse
import dataclasses
import datetime
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import refuse_another_checkout  # noqa: E402
from npgen.kernels import _cuda  # noqa: E402

RECEIPTS = ROOT / "kernels" / "VERIFIED.json"
PYTEST = sys.executable, "-m", "pytest", "-q", "--gpu"
PROCESSES = min(4, os.cpu_count()) if importlib.util.find_spec("xdist") else 1  # more would each compile every kernel
TOGETHER = PYTEST if PROCESSES == 1 else (*PYTEST, "--numprocesses", str(PROCESSES), "--dist", "worksteal")
KERNELS = "tests/test_cuda.py", "tests/test_cuda_networks.py"
TRAJECTORY = "tests/test_trajectory.py::test_the_device_agrees_with_the_reference"


@dataclasses.dataclass(frozen=True)
class Step:
    """What is run: of the time that is left it has a share, and so many seconds more before it is cut short.

    verifies: what is known when it has passed, and is not before; receipts: whether its tests are those of the kernels;
    tool: what has to be installed.
    """

    what: str
    command: tuple
    verifies: str
    share: float = 1.0
    grace: float = 0.0
    receipts: bool = False
    tool: str | None = None


STEPS = (
    Step("the kernels", (*TOGETHER, *KERNELS, TRAJECTORY, "tests/test_cublas.py"),
         "every kernel agrees with its reference, and so do large products by cuBLAS: masked ones, layers of networks, TF32 "
         "and bf16 where they are asked for", receipts=True),
    Step("captured steps", (*TOGETHER, "tests/test_graph.py"),
         "a step is one launch of a graph, chains and two players included, and a fit by graphs has the bits of one step by "
         "step", share=0.5),
    Step("the benchmark", (sys.executable, "-m", "benchmarks.cuda", "--minutes", "{minutes}"),
         "the bars: bandwidth, masked over dense products, samples over scores, wall over busy time of steps, steps and EM "
         "beside torch and JAX", share=0.5, grace=20.0),
    Step("every public call", (*TOGETHER, "--quick", "tests/test_device_mixtures.py", "tests/test_device_parts.py",
                                "tests/test_device.py"),
         "every public call of every model, every head and transform in float32 and float64, mixtures' fits and queries",
         share=0.5),
    Step("the laws of every model", (*TOGETHER, "tests/test_device_laws.py"),
         "the laws of every class, of models that are there", share=0.5),
    Step("moves, files, resume", (*TOGETHER, "tests/test_device.py"),
         "every model: fits, weights, moves, files and resumed fits across devices, no step that waits, check_generative_model",
         share=0.5),
    *(Step(tool, ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *PYTEST, *KERNELS, "-k", "33"), verifies, share,
           tool="compute-sanitizer")  # of shapes that reach over a tile
      for tool, verifies, share in (("memcheck", "no kernel reads or writes beyond an array", 0.5),
                                    ("racecheck", "no two threads of a block race", 1.0))),
)


def fingerprints():
    """{stem: the hash of its source, includes and all, and of the Python that launches it} of every .cu."""
    def text(stem):
        launches = (_cuda.FOLDER / f"{name}.py" for name in (stem, "_cuda", "_cublas"))
        return "\0".join([_cuda.source(stem), *(path.read_text(encoding="utf-8") for path in launches)])

    return {path.stem: hashlib.sha256(text(path.stem).encode()).hexdigest()[:16] for path in sorted(_cuda.FOLDER.glob("*.cu"))}


def unverified():
    """The stems whose source, as it is now, has not passed on a GPU."""
    receipts = json.loads(RECEIPTS.read_text(encoding="utf-8"))
    return [stem for stem, digest in fingerprints().items() if receipts.get(stem, {}).get("hash") != digest]


def judged(path, stems):
    """(those of the stems that have passed, those that have failed) the tests of which pytest has written a JUnit file.

    A test is of the kernels that it launches, see conftest.py. One that fails is against these and those that its name names,
    as it may have failed before a launch; if there are none, against all that the tests of its file launch.
    """
    cases = [(case, {stem for each in case.iter("property") if each.get("name") == "launches"
                     for stem in re.findall(r"\w+", each.get("value"))})
             for case in xml.etree.ElementTree.parse(path).iter("testcase")]
    passed, failed, of_file = set(), set(), {}
    for case, launched in cases:
        of_file.setdefault(case.get("classname"), set()).update(launched)
    for case, launched in cases:
        if case.find("failure") is None and case.find("error") is None:
            passed |= launched
        else:
            named = set(stems) & set(re.findall("[a-z_]+", case.get("name").removeprefix("test_")))
            failed |= launched | named or of_file[case.get("classname")]
    return passed - failed, failed


def write_receipts(passed, failed=()):
    """Say which sources have passed here and now; those that failed have no receipt any more, others keep theirs."""
    driver = _cuda.require().cuda.runtime.driverGetVersion()
    place = {"device": _cuda.devices()[0], "driver": driver, "date": datetime.date.today().isoformat()}
    before = json.loads(RECEIPTS.read_text(encoding="utf-8")) if RECEIPTS.exists() else {}
    receipts = {stem: receipt for stem, receipt in before.items() if stem not in failed}
    receipts |= {stem: {"hash": digest, **place} for stem, digest in fingerprints().items() if stem in passed}
    RECEIPTS.write_text(json.dumps(receipts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def run(step, ends, stand_in=False):
    """Take a step, or say why not: "passed", "FAILED", "cut short" or "NOT run", and more words."""
    if stand_in and "--gpu" not in step.command or stand_in and step.tool:
        return "NOT run: it needs a GPU"
    left = ends - time.monotonic()
    if step.tool and not shutil.which(step.tool):
        return f"NOT run: {step.tool} is not installed"
    if left <= 0:
        return "NOT run: the time was over"
    limit = step.share * left
    command = [word for word in step.command if not stand_in or word != "--gpu"]
    begin, words = time.monotonic(), [word.format(minutes=f"{limit / 60:.2f}") for word in command]
    with tempfile.TemporaryDirectory() as folder:
        keeps, path = step.receipts and not stand_in, Path(folder) / "junit.xml"
        words += ["--junitxml", str(path)] if keeps else []
        try:
            code = subprocess.run(words, cwd=ROOT, timeout=None if limit == math.inf else limit + step.grace).returncode
        except subprocess.TimeoutExpired:
            return f"cut short after {limit:.0f} s: the time was over"
        said = ""
        if keeps and path.exists():  # not if pytest itself broke down
            passed, failed = judged(path, fingerprints())
            write_receipts(passed, failed)
            said = f"; no receipt for {', '.join(sorted(fingerprints().keys() - passed))}" if code else ""
    return f"{'FAILED' if code else 'passed'} in {time.monotonic() - begin:.0f} s{said}"


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python tests/cuda_receipts.py", description="Verify the CUDA kernels on a GPU.")
    parser.add_argument("--minutes", metavar="M", type=float, default=math.inf, help="be over after so many minutes")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--plan", action="store_true", help="print what remains to be verified and by what, and run nothing")
    how.add_argument("--stand-in", action="store_true", help="run what a machine without a GPU can, on a stand-in for CuPy")
    options = parser.parse_args(argv)
    if options.plan:
        for step in STEPS:
            share = f"at most {step.share:.0%} of the time that is left then"
            print(f"{step.what}: {step.verifies}", " ".join(step.command), share, sep="\n    ")
        return
    refuse_another_checkout()
    ends, outcomes = time.monotonic() + 60 * options.minutes, {}
    if not options.stand_in:
        _cuda.require()
    for step in STEPS:
        print(f"--- {step.what}", flush=True)
        outcomes[step.what] = run(step, ends, options.stand_in)
        print(f"--- {step.what}: {outcomes[step.what]}", flush=True)
    print("", *(f"{what}: {words}" for what, words in outcomes.items()), sep="\n")
    if any(words.startswith("FAILED") for words in outcomes.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
