"""On a machine with a GPU: verify the CUDA kernels there, and keep the receipts.

    python tests/cuda_receipts.py [--minutes M] [--plan | --stand-in]

Runs the kernels' tests on the device, captured steps beside those taken one by one, the benchmark, every public call, the
laws of every model, its moves, files and resumed fits, and NVIDIA's compute-sanitizer where it is installed; tests in several
processes where pytest-xdist is, as it is the host that keeps them waiting; writes kernels/VERIFIED.json (of every .cu the
hash of its source, device, driver and date of its last pass), as soon as the kernels have passed, and benchmarks/CUDA.md.
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
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from npgen.kernels import _cuda  # noqa: E402

RECEIPTS = ROOT / "kernels" / "VERIFIED.json"
PYTEST = sys.executable, "-m", "pytest", "-q", "--gpu"
PROCESSES = min(4, os.cpu_count()) if importlib.util.find_spec("xdist") else 1  # more would each compile every kernel
TOGETHER = PYTEST if PROCESSES == 1 else (*PYTEST, "--numprocesses", str(PROCESSES), "--dist", "worksteal")
KERNELS = "tests/test_cuda.py", "tests/test_cuda_networks.py"


@dataclasses.dataclass(frozen=True)
class Step:
    """What is run: of the time that is left it has a share, and so many seconds more before it is cut short.

    verifies: what is known when it has passed, and is not before; receipts: whether the kernels have passed with it;
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
    Step("the kernels", (*TOGETHER, *KERNELS, "tests/test_cublas.py"),
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
    """{stem: the hash of its source, includes and all} of every .cu."""
    return {path.stem: hashlib.sha256(_cuda.source(path.stem).encode()).hexdigest()[:16]
            for path in sorted(_cuda.FOLDER.glob("*.cu"))}


def unverified():
    """The stems whose source, as it is now, has not passed on a GPU."""
    receipts = json.loads(RECEIPTS.read_text(encoding="utf-8"))
    return [stem for stem, digest in fingerprints().items() if receipts.get(stem, {}).get("hash") != digest]


def write_receipts():
    """Say that every source has passed here and now."""
    driver = _cuda.require().cuda.runtime.driverGetVersion()
    place = {"device": _cuda.devices()[0], "driver": driver, "date": datetime.date.today().isoformat()}
    receipts = {stem: {"hash": digest, **place} for stem, digest in fingerprints().items()}
    RECEIPTS.write_text(json.dumps(receipts, indent=1) + "\n", encoding="utf-8")


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
    try:
        code = subprocess.run(words, cwd=ROOT, timeout=None if limit == math.inf else limit + step.grace).returncode
    except subprocess.TimeoutExpired:
        return f"cut short after {limit:.0f} s: the time was over"
    if code == 0 and step.receipts and not stand_in:
        write_receipts()
    return f"{'FAILED' if code else 'passed'} in {time.monotonic() - begin:.0f} s"


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
