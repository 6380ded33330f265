"""npgen's GaussianMixture beside scikit-learn's and pomegranate's: the same rows, the same start, as many iterations.

    python -m benchmarks.mixtures [--threads N] [--out FILE]

Every library fits in a process of its own. What they reach, how long they take and what they hold at most
is written to benchmarks/MIXTURES.md. A library that is not installed is left out.
"""
import argparse
import importlib.util
import statistics
import sys
from pathlib import Path

from . import problems
from .speed import machine
from .worker import Worker

SIZES = {"N=100,000, D=16, K=32": {"n": 100_000, "d": 16, "k": 32}, "N=100,000, D=64, K=16": {"n": 100_000, "d": 64, "k": 16}}
LIBRARIES = {"npgen": "npgen", "numpy": "sklearn", "pomegranate": "pomegranate"}  # worker -> the package that it needs
ITERATIONS = 3


def measure(library, problem, rounds, threads):
    """[(variant, mean nats per row, seconds per iteration, MB beyond imports)] of one library, and its facts."""
    worker = Worker(library, threads)
    try:
        before, answers = worker("peak_memory"), worker("prepare", "mixture_fit", problem)
        beyond = (worker("peak_memory") - before) / 1e6
        seconds = {variant: sum((worker("time", variant, 0.0) for _ in range(rounds)), []) for variant in answers}
        rows = [(variant, answer["nats"], statistics.median(seconds[variant]) / ITERATIONS, beyond)
                for variant, answer in answers.items()]
        return rows, worker("facts")
    finally:
        worker.stop()


def report(rounds, threads):
    """The Markdown text."""
    facts, tables = {}, []
    for size, sizes in SIZES.items():
        problem = problems.mixture(**sizes) | {"iterations": ITERATIONS}
        data = problem["x"].nbytes / 1e6
        tables += ["", f"## {size}: the rows are {data:,.0f} MB", "",
                   "| library | mean log-likelihood, nats per row | ms per iteration | beside npgen's | peak memory, MB |",
                   "|---|---|---|---|---|"]
        ours = None
        for library, package in LIBRARIES.items():
            if importlib.util.find_spec(package) is None:
                tables.append(f"| {package} | not installed | | | |")
                continue
            try:
                rows, own = measure(library, problem, rounds, threads)
            except RuntimeError as error:
                tables.append(f"| {library} | not run: {str(error).splitlines()[-1]} | | | |")
                continue
            facts |= own
            for variant, nats, seconds, memory in rows:
                ours = ours or seconds
                tables.append(f"| {variant} | {nats:.9f} | {1e3 * seconds:,.1f} | {seconds / ours:.1f} | {memory:,.0f} |")
                print(size, *tables[-1:], file=sys.stderr, flush=True)
    yield "# Mixtures of Gaussians beside other libraries"
    yield ""
    yield "Written by `python -m benchmarks.mixtures`. Full covariances, float64, no variance floor, from the same weights,"
    yield f"means and precisions; threads: {threads}. The time is that of a fit over its {ITERATIONS} iterations. Memory is"
    yield "what the process holds at most beyond its imports, the rows included (twice, as they come through a pipe)."
    yield ""
    yield f"- machine: {machine()}"
    yield from (f"- {name}: {words}" for name, words in facts.items())
    yield from tables


def main(argv=None):
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixtures", description="GaussianMixture beside its peers.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="fits that are timed (3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of every library (1)")
    parser.add_argument("--out", metavar="FILE", default=str(Path(__file__).with_name("MIXTURES.md")))
    args = parser.parse_args(argv)
    text = "\n".join(report(args.rounds, args.threads)) + "\n"
    Path(args.out).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
