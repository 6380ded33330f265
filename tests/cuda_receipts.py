"""On a machine with a GPU: verify the CUDA kernels there, and keep the receipts.

    python tests/cuda_receipts.py [--minutes M] [--plan]

Runs the kernels' tests on the device, captured steps beside those taken one by one, the benchmark, every public call, the laws
of every model, and NVIDIA's compute-sanitizer where it is installed; writes kernels/VERIFIED.json (of every .cu the hash of its
source, device, driver and date of its last pass), as soon as the kernels have passed, and benchmarks/CUDA.md. It is over after
M minutes: a step is cut short after its share of what is left, and what was left out is said at the end. --plan prints all.
"""
import argparse
import dataclasses
import datetime
import hashlib
import json
import math
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
KERNELS = *PYTEST, "tests/test_cuda.py", "tests/test_cuda_networks.py", "tests/test_cublas.py"
CHECKED = *KERNELS[:-1], "-k", "33"  # shapes that reach over a tile


@dataclasses.dataclass(frozen=True)
class Step:
    """What is run: of the time that is left it has a share, and so many seconds more before it is cut short.

    receipts: whether the kernels have passed with it; tool: what has to be installed.
    """

    what: str
    command: tuple
    share: float = 1.0
    grace: float = 0.0
    receipts: bool = False
    tool: str | None = None


STEPS = (
    Step("the kernels", KERNELS, receipts=True),
    Step("captured steps", (*PYTEST, "tests/test_graph.py"), share=0.5),
    Step("the benchmark", (sys.executable, "-m", "benchmarks.cuda", "--minutes", "{minutes}"), share=0.5, grace=20.0),
    Step("every public call", (*PYTEST, "--quick", "tests/test_device_mixtures.py", "tests/test_device.py"), share=0.5),
    Step("the laws of every model", (*PYTEST, "tests/test_device_laws.py"), share=0.5),
    *(Step(tool, ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *CHECKED), share, tool="compute-sanitizer")
      for tool, share in (("memcheck", 0.5), ("racecheck", 1.0))),
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


def run(step, ends):
    """Take a step, or say why not: "passed", "FAILED", "cut short" or "NOT run", and more words."""
    left = ends - time.monotonic()
    if step.tool and not shutil.which(step.tool):
        return f"NOT run: {step.tool} is not installed"
    if left <= 0:
        return "NOT run: the time was over"
    limit = step.share * left
    begin, words = time.monotonic(), [word.format(minutes=f"{limit / 60:.2f}") for word in step.command]
    try:
        code = subprocess.run(words, cwd=ROOT, timeout=None if limit == math.inf else limit + step.grace).returncode
    except subprocess.TimeoutExpired:
        return f"cut short after {limit:.0f} s: the time was over"
    if code == 0 and step.receipts:
        write_receipts()
    return f"{'FAILED' if code else 'passed'} in {time.monotonic() - begin:.0f} s"


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python tests/cuda_receipts.py", description="Verify the CUDA kernels on a GPU.")
    parser.add_argument("--minutes", metavar="M", type=float, default=math.inf, help="be over after so many minutes")
    parser.add_argument("--plan", action="store_true", help="print what would be run, in order, and run nothing")
    options = parser.parse_args(argv)
    if options.plan:
        for step in STEPS:
            print(f"{step.what}: {' '.join(step.command)}\n    at most {step.share:.0%} of the time that is left then")
        return
    ends, outcomes = time.monotonic() + 60 * options.minutes, {}
    _cuda.require()
    for step in STEPS:
        print(f"--- {step.what}", flush=True)
        outcomes[step.what] = run(step, ends)
        print(f"--- {step.what}: {outcomes[step.what]}", flush=True)
    print("", *(f"{what}: {words}" for what, words in outcomes.items()), sep="\n")
    if any(words.startswith("FAILED") for words in outcomes.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
