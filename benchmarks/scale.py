"""Where more workers stop paying: what one and two take here, a cost model fitted to it, and what that predicts up to 1,000.

    python -m benchmarks.scale [--bandwidth 1.25e9] [--latency 50e-6] [--out benchmarks/SCALE.md] [--docs README.md ...]

It writes the first page anew, and of README.md and docs/workers.md what is between their comments.
Two cores are measured, one thread each; all beyond is predicted, for a network of this bandwidth (bytes/s) and latency (s).
Constants are fitted to CPU time, which a load on the machine hardly changes; what one and two take is wall time.

    EM, an iteration    t_M + m t_block + 4/3 R t_task + ceil(log4 W) (latency + 3 S / bandwidth)
    gradient, a step    t_0 + t_row B / W + 2 (1 - 1/W) 4 P / bandwidth + 2 ceil(log2 W) latency

Legend: W workers, R runs of the blocks (tree.runs; a task of Dask each, and one more for every four sums that are added),
m the blocks of the worker that has most, where each run goes to who is free first, t_M the M-step, t_task the scheduler's time
for a task, S bytes of statistics, B rows in a batch, P parameters, t_0 what a step takes whatever the rows: the norm of the
gradient, Adam. The second is a ring's Allreduce; the bandwidth of the first is no more than what two workers of Dask add here.
"""
import argparse
import heapq
import json
import math
import os
import pickle
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

from .em_blocks import QUIET

ONE_THREAD = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
WORKERS = 1, 2, 4, 10, 30, 100, 300, 1000
ROWS, BLOCK = 100_000_000, 100_000  # of the EM that is predicted, and of a block of it
MIXTURES = [(d, k) for d in (16, 64, 256) for k in (32, 512)]
TASKS_PER_RUN = 4 / 3  # one that computes its sum, and a third of one that adds four
BUSY = (" **Others were at work on these cores**: the times of one and of two, and their ratios, are no measure; the "
        "constants, which are CPU time, are one, but for the bandwidth.")
BEGIN, END = "<!-- by python -m benchmarks.scale -->", "<!-- -->"  # around what it writes of DOCS
DOCS = [Path(__file__).parent.parent / name for name in ("README.md", "docs/workers.md")]
PARTS = 1, 4, 16  # of a batch, to which t_0 and t_row are fitted
STEPS = {"RealNVP, D = 64": 4096, "MADE 784-8,000": 1024}  # rows in a batch


class Clock:
    """A callback that knows how many seconds the quickest epoch took, but the first: (wall time, CPU time)."""

    def __init__(self):
        self.times = []

    def __call__(self, entry):
        self.times.append((time.perf_counter(), time.process_time()))

    def least(self):
        return np.diff(self.times, axis=0).min(axis=0)


# ---------------------------------------------------------------- gradient models

def model_and_rows(name, batch_size, n_steps):
    """An unfitted model of this name, one epoch of which is n_steps steps."""
    import npgen
    rng, options = np.random.default_rng(0), {"batch_size": batch_size, "validation_fraction": 0, "random_state": 0}
    if name.startswith("RealNVP"):
        x = rng.normal(size=(n_steps * batch_size, 64)).astype(np.float32)
        return npgen.RealNVP(**options), x @ rng.normal(size=(64, 64)).astype(np.float32)
    x = (rng.uniform(size=(n_steps * batch_size, 784)) < 0.3).astype(np.float32)
    return npgen.MADE(hidden=(8000,), **options), x


def steps(name, out, epochs):
    """A program of one rank or several: seconds of a step for parts of the batch, of an Allreduce, and the peak of memory."""
    from npgen import parallel
    found, batch = {"step": {}, "cpu": {}}, STEPS[name]
    for part in PARTS if parallel.n_ranks() == 1 else (1,):
        n_steps, clock = 4 * part if name.startswith("RealNVP") else part, Clock()
        model, x = model_and_rows(name, batch // part, n_steps)
        model.set_params(max_epochs=epochs, callbacks=[clock])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x)
        found["step"][batch // part], found["cpu"][batch // part] = clock.least() / n_steps
        found["parameters"] = model.n_parameters_
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if parallel.n_ranks() > 1:
        for what, n in (("latency", 1), ("allreduce", found["parameters"] + 1)):
            values, times = np.ones(n, np.float32), []
            for _ in range(20):
                begin = time.perf_counter()
                parallel.current().sum([values])
                times.append(time.perf_counter() - begin)
                values[:] = 1
            found[what] = min(times)
    if parallel.rank() == 0:
        Path(out).write_text(json.dumps(found))


def on_ranks(n, name, epochs):
    """What `steps` finds on n ranks, each bound to a core."""
    with tempfile.TemporaryDirectory() as folder:
        out, command = Path(folder) / "found", [sys.executable, "-m", "benchmarks.scale", "--steps", name, "--epochs", epochs]
        mpirun = [Path(sysconfig.get_path("scripts")) / "mpirun", "--bind-to", "core", "-n", n] if n > 1 else []
        env = os.environ | ONE_THREAD | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        subprocess.run([*map(str, mpirun), *map(str, command), "--out", str(out)], env=env, check=True, timeout=1200)
        found = json.loads(out.read_text())
    return found | {what: {int(size): seconds for size, seconds in found[what].items()} for what in ("step", "cpu")}


def gradient(name, repeats, epochs):
    """What is measured of a model on one rank and two, in turn, the least of each: and (t_0, t_row)."""
    one, two = [], []
    for _ in range(repeats):
        one.append(on_ranks(1, name, epochs))
        two.append(on_ranks(2, name, epochs))
    sizes = sorted(one[0]["step"])
    step = {size: min(each["step"][size] for each in one) for size in sizes}
    cpu = np.array([min(each["cpu"][size] for each in one) for size in sizes])
    t_row, t_0 = np.polyfit(sizes, cpu, 1, w=1 / cpu)
    return {"step": step, "t_0": max(float(t_0), 0.0), "t_row": float(t_row), "parameters": one[0]["parameters"],
            "two": min(each["step"][sizes[-1]] for each in two), "peaks": (one[0]["peak"], two[0]["peak"]),
            **{what: min(each[what] for each in two) for what in ("latency", "allreduce")}}


def step_on(found, batch, workers, bandwidth, latency):
    """Seconds of a step, by the cost model."""
    moved = 2 * (1 - 1 / workers) * 4 * found["parameters"]
    return found["t_0"] + found["t_row"] * batch / workers + moved / bandwidth + 2 * math.ceil(math.log2(workers)) * latency


# ---------------------------------------------------------------- mixtures

def iteration(x, k, iterations=3, workers=None):
    """Seconds of an iteration of EM, the least, on one thread of this process unless workers compute it: (wall, CPU) time."""
    from npgen import GaussianMixture, parallel
    d, clock = (np.load(x[0], mmap_mode="r") if isinstance(x, list) else x).shape[1], Clock()
    start = np.random.default_rng(1).normal(size=(k, d))
    model = GaussianMixture(k, weights_init=np.full(k, 1 / k), means_init=start, precisions_init=np.tile(np.eye(d), (k, 1, 1)),
                            max_iter=iterations, tol=0.0, random_state=0, callbacks=[clock])
    with warnings.catch_warnings(), workers or parallel.Serial():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        model.fit(x)
    return clock.least()


def statistics_of(n_bytes, block):
    """What takes no time, and gives so many bytes."""
    return np.zeros(n_bytes // 8)


def dask(n=400, n_bytes=4_000_000):
    """CPU seconds of scheduler and client for a task that does nothing, and bytes/s of statistics that two workers here add."""
    import dask
    import distributed

    from npgen import parallel, tree
    with dask.config.set(QUIET), mock.patch.object(tree, "LONGEST", 1), distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1") as cluster, \
            distributed.Client(cluster, set_as_default=False) as client:
        workers = parallel.Dask(client)

        def least(size, blocks):
            clock = Clock()
            for _ in range(4):
                clock(None)
                workers.sum_blocks(statistics_of, list(range(blocks)), size)
            return clock.least()

        (_, cpu), (small, _), (large, _) = least(8, n), least(8, 32), least(n_bytes, 32)
    return cpu / (n * TASKS_PER_RUN), 31 * n_bytes / max(large - small, 1e-9)


def n_bytes(d, k):
    """Bytes of a mixture's statistics: of every component a weight, a mean and a second moment, in float64."""
    return 8 * k * (1 + d + d * d)


def iteration_on(t_block, d, k, workers, t_task, bandwidth, latency, t_m=0.0):
    """Seconds of an iteration over ROWS rows, by the cost model."""
    from npgen import tree
    runs, done = tree.runs(range(ROWS // BLOCK), workers), [0] * workers  # blocks of each worker, a heap
    for _, run in runs:
        heapq.heapreplace(done, done[0] + len(run))
    return (t_m + max(done) * t_block + TASKS_PER_RUN * len(runs) * t_task
            + math.ceil(math.log(workers, 4)) * (latency + 3 * n_bytes(d, k) / bandwidth))


def counting(n):
    """n processes that know how many bytes the last sum over blocks has moved to them and back."""
    import cloudpickle  # which comes with Dask

    from npgen import parallel, tree

    class Counting(parallel.Processes):
        moved = 0

        def _results(self, compute, function, blocks, args):
            self.moved = sum(len(cloudpickle.dumps((compute, function, args, run))) for _, run in tree.runs(blocks, self.n))
            for node, parts in super()._results(compute, function, blocks, args):
                self.moved += len(pickle.dumps(parts))
                yield node, parts

    return Counting(n)


def peak(block):
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def on_files(k=32, d=16, n_files=8, rows=100_000):
    """{n: (seconds of an iteration over files, bytes moved in it, bytes that a process holds at most)}, of n processes."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{i}.npy" for i in range(n_files)]
        for i, path in enumerate(paths):
            np.save(path, np.random.default_rng(i).normal(size=(rows, d)))
        for n in (1, 2, 1, 2):
            workers = counting(n)
            seconds, moved = iteration(paths, k, 4, workers)[0], workers.moved
            found[n] = min((seconds, moved, max(workers.map_blocks(peak, list(range(8 * n))))), found.get(n, (math.inf,)))
    return found


# ---------------------------------------------------------------- the page

def seconds(t):
    return f"{t * 1e6:.0f} us" if t < 1e-3 else f"{t * 1e3:.3g} ms" if t < 1 else f"{t:.3g} s"


def table(head, rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def curve(at):
    """Seconds on 1 to 1,000 workers, and the number from which half of them are lost."""
    pays = max(w for w in range(1, 1001) if at(1) / at(w) >= w / 2)
    return [at(w) for w in WORKERS], f"{pays:,}" if pays < 1000 else "1,000 or more"


def cells(times, pays):
    return *(f"{seconds(t)} ({times[0] / t:.3g})" for t in times), pays


def summary(measured, predicted, when):
    """What DOCS say of it."""
    shown = [WORKERS.index(w) for w in (2, 10, 100, 1000)]
    head = ("speed-up predicted on", *(f"{WORKERS[i]:,}" for i in shown[:-1]), "1,000 workers", "half are lost beyond")
    rows = [(name, *(f"{times[0] / times[i]:.3g}" for i in shown), pays) for name, (times, pays) in predicted.items()]
    return f"Measured {when}: {measured}.\n\n{table(head, rows)}"


def rewritten(text, new):
    """The text of a page with what is between its comments anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no {BEGIN} and {END} after it; write both where the curve is to be")
    return f"{before}{begin}\n{new}\n{end}{after}"


def em_on_files(files):
    """The table of what on_files has found."""
    return table(("EM on 800,000 rows in files, D = 16, K = 32", "an iteration", "sent and received", "peak of a process"),
                 [(f"{n} process{'es' * (n > 1)}", seconds(t), f"{moved / 1e6:.2f} MB", f"{held / 1e6:,.0f} MB")
                  for n, (t, moved, held) in files.items()])


def page(args):
    """(SCALE.md, what DOCS say of it)."""
    import numba
    numba.set_num_threads(1)
    load = os.getloadavg()[0]
    models = {name: gradient(name, args.repeats, args.epochs) for name in STEPS}
    t_task, dask_bandwidth = dask()
    bandwidth = min(args.bandwidth, dask_bandwidth)
    blocks = {}
    for d, k in MIXTURES:
        n = max(2 * k, min(BLOCK, int(2e9 / (k * d * d))))
        some, twice = (iteration(np.random.default_rng(0).normal(size=(m, d)), k)[1] for m in (n, 2 * n))
        blocks[d, k] = max(twice - some, 0.0) * BLOCK / n, max(2 * some - twice, 0.0)
    files = on_files()
    heads = [f"{w:,}" for w in WORKERS] + ["half are lost beyond"]
    em = {(d, k): curve(lambda w, t=t, d=d, k=k, t_m=t_m: iteration_on(t, d, k, w, t_task, bandwidth, args.latency, t_m))
          for (d, k), (t, t_m) in blocks.items()}
    training = {(name, b): curve(lambda w, m=models[name], b=b: step_on(m, b, w, args.bandwidth, args.latency))
                for name, least in STEPS.items() for b in (least, 16 * least)}
    when = (f"on {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, one thread a worker; the load was {load:.1f} before it "
            f"and {os.getloadavg()[0]:.1f} at its end")
    ratios = "; ".join(f"two ranks take {m['two'] / m['step'][STEPS[name]]:.2f} of one's time for a step of {name}, "
                       f"batches of {STEPS[name]:,}" for name, m in models.items())
    of_one = files[2][0] / files[1][0]
    told = (f"{ratios}; two processes {of_one:.2f} for an iteration of EM, D = 16, K = 32; Dask's scheduler takes "
            f"{seconds(t_task)} of CPU time for a task")
    docs = summary(told, {f"EM, D = {d}, K = {k}": found for (d, k), found in em.items()}
                   | {f"{name}, batches of {b:,}": found for (name, b), found in training.items()}, when)
    measured = [(name, f"{batch:,}", f"{m['parameters']:,}", seconds(m["step"][batch]), seconds(m["two"]),
                 f"**{m['two'] / m['step'][batch]:.2f}**",
                 seconds(step_on(m, batch, 2, 4 * m["parameters"] / m["allreduce"], m["latency"])),
                 f"{4 * (m['parameters'] + 1) / 1e6:.2f} MB", seconds(m["allreduce"]),
                 " / ".join(f"{peak / 1e6:,.0f} MB" for peak in m["peaks"]))
                for name, batch in STEPS.items() for m in (models[name],)]
    scale = "\n\n".join([
        "# Past one machine: measured on two workers, predicted up to 1,000",
        f"By `python -m benchmarks.scale --repeats {args.repeats}` {when}. The least of several runs in turn."
        + BUSY * (load > 1),
        "## Measured here",
        table(("training", "batch", "parameters", "step, 1 rank", "2 ranks", "2 / 1", "by the model", "sent a step",
               "Allreduce", "peak of a rank, 1 / 2"), measured),
        f"An Allreduce of one number takes {seconds(max(m['latency'] for m in models.values()))} between two ranks of this "
        "machine. Fitted to the CPU time of batches, their fourths and sixteenths: "
        + "; ".join(f"{name} t_0 = {seconds(m['t_0'])}, t_row = {seconds(m['t_row'])}" for name, m in models.items()) + ".",
        f"{em_on_files(files)}\n\nTwo take {of_one:.2f} of one's time. Dask's scheduler takes {seconds(t_task)} of CPU time "
        f"for a task, and two of its workers add statistics at {dask_bandwidth / 1e6:,.0f} MB/s.",
        "## Predicted, not measured",
        f"For a network of {args.bandwidth / 1e9:.3g} GB/s and {seconds(args.latency)}, and cores like these: seconds, and in "
        "brackets the speed-up: " + "; ".join(" ".join(line.split()) for line in __doc__.split("\n\n")[3].splitlines()) + ". "
        + " ".join(__doc__.split("\n\n")[4].split()),
        table((f"EM, an iteration over {ROWS:,} rows", "S", "t_block", "t_M", *heads),
              [(f"D = {d}, K = {k}", f"{n_bytes(d, k) / 1e6:.3g} MB", *map(seconds, blocks[d, k]), *cells(*found))
               for (d, k), found in em.items()]),
        table(("training, a step", "batch", *heads),
              [(name, f"{b:,}", *cells(*found)) for (name, b), found in training.items()]),
        f"A block is {BLOCK:,} rows; t_block and t_M are fitted to the CPU time of two numbers of rows in memory. EM of few "
        "components is limited by the scheduler, which is asked for a task and a third a run (blocks of more rows are the "
        "remedy), of many by the sum of statistics and the M-step; training by the gradient that every step sends, and by "
        "Adam, which each rank takes over all parameters: larger batches alone make up for either.", ""])
    return scale, docs


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bandwidth", type=float, default=1.25e9)
    parser.add_argument("--latency", type=float, default=50e-6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).parent / "SCALE.md"))
    parser.add_argument("--docs", nargs="+", type=Path, default=DOCS)
    parser.add_argument("--only", default="", choices=[*STEPS, "EM"], help="measure this alone, and print what was found")
    parser.add_argument("--steps", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps:
        steps(args.steps, args.out, args.epochs)
        return
    if args.only == "EM":
        print(em_on_files(on_files()))
        return
    if args.only:
        found = gradient(args.only, args.repeats, args.epochs)
        one = found["step"][STEPS[args.only]]
        print(f"{args.only}: {seconds(one)} a step on 1 rank, {seconds(found['two'])} on 2: {found['two'] / one:.2f} of it")
        return
    scale, docs = page(args)
    Path(args.out).write_text(scale)
    for path in args.docs:
        path.write_text(rewritten(path.read_text(), docs))
    print(scale)


if __name__ == "__main__":
    main()
