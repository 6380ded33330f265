"""On a machine with a GPU: verify the CUDA kernels there, and keep the receipts.

    python tests/cuda_receipts.py [--minutes M]

Runs the kernels' tests on the device, NVIDIA's compute-sanitizer where it is installed, and the benchmark; writes
kernels/VERIFIED.json (of every .cu the hash of its source, device, driver and date of its last pass) and benchmarks/CUDA.md.
After M minutes (all) nothing else is begun, and what was left out is said. The benchmark comes before the sanitizers, which are
slow, and has half of what is left.
"""
import argparse
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
TESTS = [sys.executable, "-m", "pytest", "-q", "--gpu", "tests/test_cuda.py", "tests/test_cuda_networks.py",
         "tests/test_graph.py"]


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


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python tests/cuda_receipts.py", description="Verify the CUDA kernels on a GPU.")
    parser.add_argument("--minutes", metavar="M", type=float, default=math.inf, help="begin nothing after so many minutes")
    ends = time.monotonic() + 60 * parser.parse_args(argv).minutes
    _cuda.require()
    subprocess.run(TESTS, cwd=ROOT, check=True)
    write_receipts()
    half = (ends - time.monotonic()) / 60 / 2
    if half > 0:
        subprocess.run([sys.executable, "-m", "benchmarks.cuda", "--minutes", f"{half:.2f}"], cwd=ROOT, check=True)
    else:
        print("NOT run: the benchmark; the time was over")
    for tool in "memcheck", "racecheck":
        if not shutil.which("compute-sanitizer"):
            print(f"NOT run: {tool}; compute-sanitizer is not installed")
        elif time.monotonic() > ends:
            print(f"NOT run: {tool}; the time was over")
        else:
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *TESTS, "-k", "33"]
            subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
