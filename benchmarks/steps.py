"""Where the time of npgen's training steps goes, on this machine: kernels, NumPy's functions, and the Python around them.

    python -m benchmarks.steps [--only TEXT ...] [--steps N]

A step is recorded once and then replayed (npgen.record): every call of a replay is timed by itself, and what is left of the
same step is Python's, the timers' 0.1 microseconds a call among it. Medians over steps.
"""
import argparse
import collections
import functools
import statistics
import time

from npgen import record

from . import with_npgen
from .speed import WORKS


def caller(call):
    """(whether a recorded call is a kernel's, its name)."""
    function = call
    while isinstance(function, functools.partial):  # around it, what fills its answers or says where its draws begin
        inner = [a for a in function.args if callable(a) and function.func.__module__ == record.__name__]
        function = inner[0] if inner else function.func
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", getattr(function, "__name__", repr(function)))
    return module.startswith("npgen.kernels"), f"{module.removeprefix('npgen.')}.{name}" if module else name


def parts(work, n=200):
    """(seconds of a step, of what is Python's, {(whether a kernel, name): seconds of all such calls}) of a work, medians."""
    (_, _, run), *_ = getattr(with_npgen, WORKS[work].kind)(WORKS[work].problem())
    run(20)
    of_step, again = collections.Counter(), record.again

    def timed(name, call):
        start = time.perf_counter()
        call()
        of_step[name] += time.perf_counter() - start

    @functools.cache
    def watched(call):
        return functools.partial(timed, caller(call), call)

    steps, left, spent = [], [], collections.defaultdict(list)
    record.again = lambda calls, places: again([watched(call) for call in calls], places)
    try:
        for _ in range(n):
            of_step.clear()
            start = time.perf_counter()
            run(1)
            steps.append(time.perf_counter() - start)
            left.append(steps[-1] - of_step.total())
            for name, seconds in of_step.items():
                spent[name].append(seconds)
    finally:
        record.again = again
    return statistics.median(steps), statistics.median(left), {name: statistics.median(all_) for name, all_ in spent.items()}


def main(argv=None):
    """Measure and print a table for every work."""
    works = [work for work, each in WORKS.items() if each.kind.endswith("_step")]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description="Where the time of training steps goes.")
    parser.add_argument("--only", metavar="TEXT", nargs="+", help=f"only works that have one of these in their names: {works}")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="how many are timed (200)")
    args = parser.parse_args(argv)
    for work in works:
        if not args.only or any(text.lower() in work.lower() for text in args.only):
            step, python, spent = parts(work, args.steps)
            kernels = sum(seconds for (is_kernel, _), seconds in spent.items() if is_kernel)
            numpy = sum(spent.values()) - kernels
            print(f"\n{work}: {1e3 * step:.3f} ms, of which kernels {1e3 * kernels:.3f}, NumPy's functions {1e3 * numpy:.3f}, "
                  f"Python {1e3 * python:.3f}")
            for (_, name), seconds in sorted(spent.items(), key=lambda item: -item[1]):
                print(f"  {1e3 * seconds:.4f}  {name}")


if __name__ == "__main__":
    main()
