"""npgen's speed beside torch, zuko, JAX, scikit-learn, SciPy and NumPy on this machine, in one run.

    python -m benchmarks.speed [--only TEXT ...] [--repeats N] [--threads 2 1] [--no-memory] [--out FILE]

Every library runs in a process of its own on the same problem. First they must agree: losses, gradients and answers to
1e-4, the log-likelihoods that EM reaches to 1e-9 nats per row. Then they take turns, some bursts of calls each, for
several rounds. The result is the ratio of npgen's median to the fastest peer's; seconds are shown too, but depend on
the machine and on what else it does.
"""
import argparse
import dataclasses
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from . import problems, refuse_another_checkout
from .worker import Worker

TOLERANCE = 1e-4
LIBRARIES = "npgen", "torch", "zuko", "jax", "numpy"
PEERS = "torch", "torch.compile", "jax"
FLOWS = *PEERS, "zuko"
VARIANTS = {"npgen": "npgen", "torch": "torch", "torch.compile": "torch", "jax": "jax"}  # whose memory is looked at


@dataclasses.dataclass(frozen=True)
class Work:
    """Something to time: the function of problems.py that makes it, its sizes, and the functions of with_*.py that do it."""

    make: str
    kind: str
    sizes: dict = dataclasses.field(default_factory=dict)
    device: str = "cpu"

    def problem(self):
        return getattr(problems, self.make)(**self.sizes) | {"device": self.device}


@dataclasses.dataclass(frozen=True)
class Bar:
    """npgen's median over that of the fastest of its rivals, the variants of `against`, is to be at most `limit`."""

    work: str
    text: str
    limit: float
    against: tuple
    stretch: float | None = None

    def rivals(self, variants):
        """Those of the variants, named "library" or "library, how", that count."""
        return [v for v in variants if v in self.against or v.split(",")[0] in self.against]


LARGE = "1,000 x 784 x 500", "4,096 x 1,024 x 1,024", "512 x 512 x 4,096"

WORKS = {
    "MADE step": Work("made", "made_step"),
    "MADE sample": Work("made", "made_sample"),
    "VAE step": Work("vae", "vae_step"),
    "RealNVP step, D=2": Work("realnvp", "realnvp_step", {"d": 2, "hidden": (64, 64)}),
    "RealNVP step, D=64": Work("realnvp", "realnvp_step"),
    "RealNVP log_prob": Work("realnvp", "realnvp_log_prob"),
    "RealNVP sample": Work("realnvp", "realnvp_sample"),
    "MAF step": Work("maf", "maf_step"),
    "MAF log_prob": Work("maf", "maf_log_prob"),
    "MAF sample": Work("maf", "maf_sample"),
    "NSF step": Work("nsf", "nsf_step"),
    "NSF log_prob": Work("nsf", "nsf_log_prob"),
    "MADE mixture step": Work("made_mixture", "made_mixture_step"),
    "diffusion step": Work("diffusion", "diffusion_step"),
    "diffusion sample": Work("diffusion", "diffusion_sample", {"n_steps": 18, "solver": "heun"}),
    "diffusion log_prob": Work("diffusion", "diffusion_log_prob"),
    "RBM step": Work("rbm", "rbm_step"),
    "GAN step": Work("gan", "gan_step"),
    "EM, D=16, K=32": Work("mixture", "em", {"d": 16, "k": 32}),
    "EM, D=64, K=16": Work("mixture", "em", {"d": 64, "k": 16}),
    "EM, N=500": Work("mixture", "em", {"n": 500, "d": 2, "k": 3}),
    "EM, scoring, D=16, K=32": Work("mixture", "em_score", {"d": 16, "k": 32}),
    "EM, scoring, D=64, K=16": Work("mixture", "em_score", {"d": 64, "k": 16}),
    "logsumexp, 100,000 x 32": Work("logsumexp", "logsumexp", {"n": 100_000, "d": 32}),
    "logsumexp, 1,000 x 4,096": Work("logsumexp", "logsumexp", {"n": 1_000, "d": 4_096}),
    "normals": Work("normals", "normals"),
    "masked product, batch 1,000": Work("masked_product", "masked_product", {"batch": 1000}),
    "masked product, batch 100": Work("masked_product", "masked_product", {"batch": 100}),
    **{f"large products, {size}, {dtype}": Work("large_products", "masked_product",
                                                dict(zip("ndm", map(int, size.replace(",", "").split(" x ")), strict=True))
                                                | {"dtype": dtype})
       for size in LARGE for dtype in ("float32", "float64")},
    "product, 120 x 240 x 120": Work("product", "product", {"n": 120, "d": 240, "m": 120}),
    "product, 100 x 784 x 500": Work("product", "product"),
}

def bars(kind):
    """The bars on a CPU of this kind, "AVX-512" or another, of which AVX2 is the most common."""
    def by(other, avx512):
        return avx512 if kind == "AVX-512" else other

    return [
        Bar("MADE step", "MADE 784-500-784, batch 100, training step", by(0.65, 0.50), PEERS, by(0.50, 0.40)),
        Bar("MADE sample", "MADE 784, 100 rows sampled, against one pass per dimension in torch", 1 / 200, ("torch",)),
        Bar("MADE sample", "MADE 784, 100 rows sampled, against scoring the same rows", 3, ("npgen, scoring the rows",)),
        Bar("VAE step", "VAE 784-400-20-400-784, batch 128, training step", by(0.92, 0.85), PEERS, by(0.80, 0.75)),
        Bar("RealNVP step, D=2", "RealNVP D=2, 8 couplings of 64-64, batch 512, training step", by(0.60, 0.45), PEERS,
            by(0.40, 0.35)),
        Bar("RealNVP step, D=64", "RealNVP D=64, 8 couplings of 128-128, batch 512, training step", by(0.70, 0.50), PEERS,
            by(0.55, 0.40)),
        Bar("RealNVP log_prob", "RealNVP D=64, log_prob of 10,000 rows", by(0.80, 0.60), PEERS, by(0.65, None)),
        Bar("RealNVP sample", "RealNVP D=64, sample of 10,000 rows", by(0.65, 0.60), PEERS, by(0.50, None)),
        Bar("MAF step", "MAF D=64, 5 steps of 256-256, batch 512, training step", 1.0, FLOWS, 0.60),
        Bar("MAF log_prob", "MAF D=64, log_prob of 10,000 rows", 1.0, FLOWS, 0.60),
        Bar("MAF sample", "MAF D=64, sample of 1,000 rows, against one pass per feature", 1 / 20, FLOWS),
        Bar("NSF step", "NSF D=64, 8 couplings of 128-128, 8 bins, batch 512, training step", 1.0, FLOWS, 0.60),
        Bar("NSF log_prob", "NSF D=64, log_prob of 10,000 rows", 1.0, FLOWS, 0.60),
        Bar("MADE mixture step", "MADE 784-500, mixtures of 10 normals, batch 100, training step", 1.0, PEERS),
        Bar("diffusion step", "diffusion D=64, 256-256, batch 512, training step", 1.0, PEERS, 0.60),
        Bar("diffusion sample", "diffusion D=64, 256-256, sample of 10,000 rows by 18 Heun steps", 1.0, PEERS, 0.60),
        Bar("diffusion log_prob", "diffusion D=64, 256-256, log_prob of 1,000 rows by 40 RK4 steps, exact divergence", 1.0,
            PEERS, 0.60),
        Bar("GAN step", "GAN D=64, 256-256 and 256-256, batch 512, a step of each player, with R1 and R2", 1.0, PEERS, 0.60),
        Bar("RBM step", "RBM 784-500, 100 chains, batch 100, step of PCD in centred parameters", 1.0, PEERS, 0.60),
        Bar("EM, D=16, K=32", "EM iteration, full covariance, float64, N=100,000, D=16, K=32, against scikit-learn",
            by(1 / 12, 1 / 18), ("scikit-learn",)),
        Bar("EM, D=64, K=16", "EM iteration, full covariance, float64, N=100,000, D=64, K=16, against scikit-learn",
            by(1 / 7, 1 / 11), ("scikit-learn",)),
        Bar("EM, N=500", "EM iteration, full covariance, float64, N=500, D=2, K=3, against scikit-learn", 1, ("scikit-learn",)),
        *(Bar(f"EM, scoring, {size}", f"mixture, full covariance, float64, score_samples of 100,000 rows, {size}, against "
              "scikit-learn", limit, ("scikit-learn",))
          for size, limit in (("D=16, K=32", by(1 / 8, 1 / 10)), ("D=64, K=16", by(1 / 6, 1 / 8)))),
        *(Bar(f"logsumexp, {size}", f"logsumexp over the last axis, {size}, against {' and '.join(peers)}", limit, peers)
          for size in ("100,000 x 32", "1,000 x 4,096")
          for peers, limit in ((("scipy",), 1 / 8), (("torch",), 1 / 2), (("torch.compile", "jax"), by(0.60, 0.55)))),
        Bar("normals", "reparameterised normals, 1,000,000 values, against NumPy's SFC64 normals alone", 1 / 5,
            ("numpy SFC64",)),
        Bar("normals", "reparameterised normals, 1,000,000 values, against torch's mean + std * randn", 1 / 2, ("torch",)),
        *(Bar(f"masked product, batch {n}", "masked product, sorted MADE mask 784 x 500, forward and both backward, "
              f"batch {n}, against the dense products at the same BLAS kernels", limit, ("numpy, dense",))
          for n, limit in (("1,000", 0.65), ("100", 0.75))),
        *(Bar(f"large products, {size}, {dtype}", f"large dense products, {size}, {dtype}, forward and both backward, against "
              "OpenBLAS", 1 / 0.9, ("numpy, dense",)) for size in LARGE for dtype in ("float32", "float64")),
        *(Bar(f"product, {size}", f"product by the micro-kernel, {size}, one core, against as many multiply-adds in registers",
              1 / share, ("npgen, multiply-adds in registers",))
          for size, share in (("120 x 240 x 120", by(0.95, 0.85)), ("100 x 784 x 500", by(0.75, 0.65)))),
    ]


def check(work, answers):
    """Raise AssertionError unless all variants agree on what npgen and they have both answered."""
    ours = answers["npgen"]
    for variant, theirs in answers.items():
        for name in ours.keys() & theirs.keys():
            a, b = np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)
            if name == "sample":  # a uniform next to its probability may fall on either side, and the rest of the row with it
                apart, allowed = float(np.mean((a != b).any(axis=1))), 0.02
            elif name == "nats":  # per row, of mixtures
                apart, allowed = float(abs(a - b).max()), 1e-9
            else:
                apart, allowed = float(abs(a - b).max() / abs(b).max()), TOLERANCE
            assert apart <= allowed, f"{work}: {name} of npgen and {variant} differ by {apart:.1e}, at most {allowed:g} allowed"


def measure(workers, work, rounds, budget, works=WORKS, wanted=()):
    """{variant: seconds per call, one per burst} of one work, after a check that all variants, or those wanted, agree.

    A variant whose calls are so slow that it has had all its time takes no more turns.
    """
    problem = works[work].problem()
    answers, owner = {}, {}
    for worker in workers:
        for variant, answer in worker("prepare", works[work].kind, problem, wanted).items():
            answers[variant], owner[variant] = answer, worker
    check(work, answers)
    seconds = {variant: [] for variant in owner}
    for _ in range(rounds):
        for variant, worker in owner.items():
            if sum(seconds[variant]) > 2 * rounds * budget:
                continue
            time.sleep(0.01)  # for the threads of the one before, which spin a while before they sleep
            seconds[variant] += worker("time", variant, budget)
    return seconds


def run(n_threads, works, rounds, budget):
    """({work: {variant: seconds}}, facts) with every library on n_threads threads."""
    workers = [Worker(library, n_threads) for library in LIBRARIES]
    try:
        facts = {name: words for worker in workers for name, words in worker("facts").items()}
        # the dense products are compared at the BLAS kernels that npgen uses
        dense = Worker("dense", n_threads, OPENBLAS_CORETYPE=facts.pop("core type"))
        workers.append(dense)
        facts |= dense("facts")
        results = {}
        for work in works:
            results[work] = measure(workers, work, rounds, budget)
            lines = list(bars_table({work: results[work]}, bars(facts["instructions"])))
            print(f"threads: {n_threads}", *lines[2:], sep="\n", file=sys.stderr, flush=True)
        return results, facts
    finally:
        for worker in workers:
            worker.stop()


def peak_memory(kind, problem, n_threads, variants):
    """{variant: (MiB once the library is loaded, MiB at most)} of processes that do nothing but this work.

    variants: {variant: library}; those that the library does not have are left out.
    """
    peaks = {}
    for variant, library in variants.items():
        worker = Worker(library, n_threads)
        try:
            worker("facts")
            loaded = worker("peak_memory")
            if worker("prepare", kind, problem, (variant,)):
                worker("time", variant, 0.2)
                peaks[variant] = loaded / 2**20, worker("peak_memory") / 2**20
        finally:
            worker.stop()
    return peaks


# ---------------------------------------------------------------- tables

def ratio(r):
    """0.61, or 1/12.3 where that is easier to read."""
    return f"{r:.2f}" if r > 0.22 else f"1/{1 / r:.3g}"


def milliseconds(s):
    return f"{1e3 * s:.3g}" if s < 1 else f"{1e3 * s:,.0f}"


def judge(bar, seconds):
    """(the fastest rival, npgen's median, the rival's, ratio of medians, ratio of minima) for a bar."""
    median = {variant: statistics.median(s) for variant, s in seconds.items()}
    rivals = bar.rivals(seconds)
    fastest, best = min(rivals, key=median.get), min(min(seconds[v]) for v in rivals)
    return fastest, median["npgen"], median[fastest], median["npgen"] / median[fastest], min(seconds["npgen"]) / best


def bars_table(results, bars):
    """The bars with what was measured, as Markdown lines."""
    yield "| work | bar (stretch) | ratio of medians | of minima | met | npgen, ms | fastest, ms | fastest |"
    yield "|---|---|---|---|---|---|---|---|"
    for bar in bars:
        if bar.work in results:
            fastest, ours, theirs, of_medians, of_minima = judge(bar, results[bar.work])
            limit = ratio(bar.limit) + (f" ({ratio(bar.stretch)})" if bar.stretch else "")
            met = "yes" if of_medians <= bar.limit else "**no**"
            yield (f"| {bar.text} | {limit} | **{ratio(of_medians)}** | {ratio(of_minima)} | {met} | {milliseconds(ours)} "
                   f"| {milliseconds(theirs)} | {fastest} |")


def times_table(results):
    """Medians and minima of everything, as Markdown lines."""
    yield "| work | library | median, ms | minimum, ms | median beside npgen's |"
    yield "|---|---|---|---|---|"
    for work, seconds in results.items():
        ours = statistics.median(seconds["npgen"])
        for variant, s in seconds.items():
            median = statistics.median(s)
            yield f"| {work} | {variant} | {milliseconds(median)} | {milliseconds(min(s))} | {median / ours:.2f} |"


def memory_table(peaks):
    """{work: what peak_memory says} as Markdown lines."""
    yield "| work | library | once loaded, MiB | at most, MiB | the work alone, MiB |"
    yield "|---|---|---|---|---|"
    for work, of_work in peaks.items():
        for variant, (loaded, peak) in of_work.items():
            yield f"| {work} | {variant} | {loaded:.0f} | {peak:.0f} | {peak - loaded:.0f} |"


def _commit():
    """", commit abc1234", where there is a repository."""
    if not shutil.which("git"):
        return ""
    return subprocess.run(["git", "log", "-1", "--format=, commit %h"], cwd=Path(__file__).parent, capture_output=True,
                          text=True).stdout.strip()


def machine():
    """The day, npgen's commit, the processor, its cores, the load and Python, in words."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    fields = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    name = " ".join([fields.get("model name", platform.machine()),
                     *(f"{k} {fields[k]}" for k in ("cpu family", "model") if k in fields)])
    load = f", load {os.getloadavg()[0]:.1f} before the run" if hasattr(os, "getloadavg") else ""
    return (f"{time.strftime('%Y-%m-%d')}{_commit()}; {name}, {os.cpu_count()} cores{load}; "
            f"Python {platform.python_version()}")


def report(sections, peaks, facts, rounds, where):
    """The whole Markdown text."""
    kind, cpu = facts.pop("instructions"), facts.pop("cpu")
    yield f"# npgen beside other libraries, on a CPU with {kind}: {cpu}"
    yield ""
    yield f"Written by `python -m benchmarks.speed --repeats {rounds}`. A ratio is npgen's time over the fastest peer's: small"
    yield "is fast. A bar is the ratio aimed at, a stretch what was hoped for; the medians say whether it is met. A training"
    yield "step gathers its rows and takes loss, gradient and Adam, in float32. The libraries took turns, each in a process of"
    yield f"its own, for {rounds} rounds, after a check that losses, gradients and answers agree to {TOLERANCE:g}."
    yield ""
    yield f"- {where}"
    yield from (f"- {name}: {words}" for name, words in facts.items())
    for n_threads, results in sections.items():
        yield from ("", f"## {n_threads} thread{'s' * (n_threads > 1)}", "", *bars_table(results, bars(kind)))
    if peaks:
        yield from ("", "## Peak memory of a process that does nothing else, its problem and compilation included", "",
                    *memory_table(peaks))
    for n_threads, results in sections.items():
        yield from ("", f"## All times, {n_threads} thread{'s' * (n_threads > 1)}", "", *times_table(results))


def write(path, text):
    """Write a report, and leave standing what the file has of CPUs of other kinds, each under a title of its own."""
    title = text.splitlines()[0]
    before = re.split(r"(?m)^(?=# )", path.read_text(encoding="utf-8")) if path.exists() else []
    others = [part for part in before if part.strip() and part.splitlines()[0] != title]
    path.write_text("\n".join(part.strip() + "\n" for part in [text, *others]), encoding="utf-8")


def main(argv=None):
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="npgen's speed beside its peers.")
    parser.add_argument("--only", metavar="TEXT", nargs="+",
                        help=f"only works that have one of these in their names: {'; '.join(WORKS)}")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="rounds in which the libraries take turns (10)")
    parser.add_argument("--budget", type=float, default=0.2, metavar="S", help="seconds of each library's turn (0.2)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], metavar="N", help="threads of every library (2 1)")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True,
                        help="look at the peak memory of training steps, each in processes of its own (yes)")
    parser.add_argument("--out", metavar="FILE", help="the Markdown to write, in which reports of CPUs of other kinds stay "
                        "(benchmarks/RESULTS.md, unless --only)")
    args = parser.parse_args(argv)
    works = [work for work in WORKS if not args.only or any(text.lower() in work.lower() for text in args.only)]
    if not works:
        parser.error(f"--only {' '.join(args.only)}: no work has that in its name; there are {', '.join(WORKS)}")
    refuse_another_checkout()
    sections, facts, where = {}, {}, machine()
    for n_threads in args.threads:
        sections[n_threads], own = run(n_threads, works, args.repeats, args.budget)
        facts = facts or own
    peaks = {work: peak_memory(WORKS[work].kind, WORKS[work].problem(), args.threads[0], VARIANTS)
             for work in works if args.memory and WORKS[work].kind.endswith("_step")}
    text = "\n".join(report(sections, peaks, facts, args.repeats, where)) + "\n"
    print(text)
    out = args.out or (None if args.only else Path(__file__).with_name("RESULTS.md"))
    if out:
        write(Path(out), text)


if __name__ == "__main__":
    main()
