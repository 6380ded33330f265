"""How npgen's cost grows, beside torch, JAX and scikit-learn: seconds against size, and peak memory, as plots.

    python -m benchmarks.scaling [--only TEXT] [--threads 2 1] [--out FOLDER]

Every curve changes one size of one work of speed.py and shows the fastest of some calls. The exponent p of cost ~ size^p
over its last stretch is printed: one that is above npgen's peers' is a surprise. Compiled torch is left out, which would
compile anew for every size.
"""
import argparse
import math
import time
from pathlib import Path

from . import problems
from .speed import LIBRARIES, milliseconds, peak_memory
from .worker import Worker

VARIANTS = {"npgen": "npgen", "torch": "torch", "jax": "jax", "scikit-learn, BLAS threads: 1": "numpy",
            "scikit-learn, BLAS threads: 2": "numpy", "scipy": "numpy"}
COLOURS = {variant: f"C{i}" for i, variant in enumerate(VARIANTS)}

CURVES = {  # name: (maker in problems.py, kind, the size that changes, its values, the other sizes)
    "MADE step, batch": ("made", "made_step", "batch", (10, 30, 100, 300, 1000), {}),
    "MADE step, width": ("made", "made_step", "hidden", (125, 250, 500, 1000, 2000), {}),
    "MADE step, dimension": ("made", "made_step", "d", (49, 196, 784, 3136), {}),
    "MADE sample, rows": ("made", "made_sample", "n_samples", (10, 100, 1000), {"d": 196}),
    "RealNVP step, batch": ("realnvp", "realnvp_step", "batch", (32, 128, 512, 2048), {}),
    "RealNVP step, depth": ("realnvp", "realnvp_step", "n_couplings", (2, 4, 8, 16, 32), {}),
    "RealNVP step, dimension": ("realnvp", "realnvp_step", "d", (2, 8, 32, 128), {}),
    "EM, rows": ("mixture", "em", "n", (10_000, 30_000, 100_000), {"d": 16, "k": 16}),
    "EM, components": ("mixture", "em", "k", (4, 8, 16, 32), {"n": 30_000, "d": 16}),
    "EM, dimension": ("mixture", "em", "d", (4, 8, 16, 32, 64), {"n": 30_000, "k": 8}),
    "logsumexp, columns": ("logsumexp", "logsumexp", "d", (4, 32, 256, 2048), {"n": 10_000}),
}


def curve(name, n_threads, rounds=3, budget=0.1):
    """{variant: (sizes, least seconds)} of one curve."""
    make, kind, parameter, values, sizes = CURVES[name]
    workers, points = [Worker(library, n_threads) for library in LIBRARIES], {}
    for value in values:
        problem = getattr(problems, make)(**sizes | {parameter: value})
        owner = {variant: worker for worker in workers for variant in worker("prepare", kind, problem, tuple(VARIANTS), False)}
        seconds = {variant: [] for variant in owner}
        for _ in range(rounds):
            for variant, worker in owner.items():
                time.sleep(0.01)
                seconds[variant] += worker("time", variant, budget)
        for variant, s in seconds.items():
            points.setdefault(variant, ([], []))
            points[variant][0].append(value)
            points[variant][1].append(min(s))
    for worker in workers:
        worker.stop()
    return points


def memory(name, n_threads, variants):
    """{variant: (MiB once it is loaded, MiB at most)} at the largest size of a curve."""
    make, kind, parameter, values, sizes = CURVES[name]
    problem = getattr(problems, make)(**sizes | {parameter: values[-1]})
    return peak_memory(kind, problem, n_threads, {variant: VARIANTS[variant] for variant in variants})


def exponent(sizes, seconds):
    """p of seconds ~ size^p over the last two points."""
    return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])


def draw(name, sections, peaks, path):
    """One panel per number of threads, with one scale, and one of the memory at the largest size: its bars are the legend."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter
    figure = Figure(figsize=(4 * len(sections) + 4, 3.5), layout="constrained")
    figure.suptitle(name)
    *panels, last = figure.subplots(1, len(sections) + 1)
    for panel in panels[1:]:
        panel.sharey(panels[0])  # before anything is drawn, so that the scale fits all
    for panel, (n_threads, points) in zip(panels, sections.items(), strict=True):
        for variant, (sizes, seconds) in points.items():
            panel.loglog(sizes, [1e3 * s for s in seconds], "o-", label=variant, color=COLOURS[variant], markersize=4,
                         linewidth=2.5 if variant == "npgen" else 1)
        panel.set(title=f"{n_threads} thread{'s' * (n_threads > 1)}", xlabel=name.split(", ")[-1], ylabel="milliseconds")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.set_xticks([], minor=True)
        panel.yaxis.set_major_formatter("{x:,g}")
        panel.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        panel.grid(alpha=0.3)
    for variant, (loaded, peak) in reversed(peaks.items()):
        label = variant.replace(", ", ",\n")
        last.barh(label, loaded, color=COLOURS[variant])
        last.barh(label, peak - loaded, left=loaded, color=COLOURS[variant], alpha=0.4)
    last.set(title=f"peak memory, {name.split(', ')[-1]} {sizes[-1]:,}", xlabel="MiB: once loaded, and the work")
    figure.savefig(path, dpi=120)


def main(argv=None):
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="How cost grows, beside the peers.")
    parser.add_argument("--only", default="", metavar="TEXT", help=f"only curves with TEXT in their name: {'; '.join(CURVES)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], metavar="N", help="threads of every library (2 1)")
    parser.add_argument("--out", default=Path(__file__).with_name("scaling"), type=Path, metavar="FOLDER",
                        help="where the plots go (benchmarks/scaling)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in CURVES:
        if args.only.lower() not in name.lower():
            continue
        sections = {n_threads: curve(name, n_threads) for n_threads in args.threads}
        peaks = memory(name, max(args.threads), sections[args.threads[0]])
        for n_threads, points in sections.items():
            for variant, (sizes, seconds) in points.items():
                shown = ", ".join(f"{size}: {milliseconds(s)}" for size, s in zip(sizes, seconds, strict=True))
                print(f"{name}; threads: {n_threads}; {variant}: {shown} ms; exponent {exponent(sizes, seconds):.2f}")
        print(f"{name}; MiB:", ", ".join(f"{library} {a:.0f} -> {b:.0f}" for library, (a, b) in peaks.items()), flush=True)
        draw(name, sections, peaks, args.out / f"{name.lower().replace(', ', '-').replace(' ', '-')}.png")


if __name__ == "__main__":
    main()
