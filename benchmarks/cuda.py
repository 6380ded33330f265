"""The CUDA kernels beside the device's own copy and cuBLAS, and npgen on the device beside torch and JAX there.

    python -m benchmarks.cuda [--minutes M] [--out FILE]

Rows are printed as they come, and the page is written anew with each: training steps and EM beside what runs at once, then
what steps consist of, the kernels, MADE's samples, at last two steps beside what torch.compile makes, which takes it minutes.
What fails becomes a line of the page, and the rest goes on; nothing begins after M minutes.

A kernel's time is the best of several calls, between two CUDA events, with its data on the device; a copy's is that of
cudaMemcpyAsync. Of a captured step: the wall time with all of fit's Python; the busy time, of graphs launched one behind the
other; how many nodes its graph has; and of every kernel of ours the time of 20 launches in one graph, over 20. Training steps
and EM are measured as benchmarks/speed.py does, every library in a process of its own, after a check that answers agree; there
too the rows lie on the device before the clock starts, and products of float32 are of float32, not TF32. A peer that is not
installed, or that finds no GPU, is left out. Their wheels for GPUs: torch, 'jax[cuda13]'.

No GPU was at hand when this was written anew: npgen has run on the tests' stand-in for CuPy alone, the peers on the CPU, all
at sizes of a few values.
"""
import argparse
import collections
import contextlib
import importlib.util
import math
import os
import re
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np

from npgen import graph
from npgen.kernels import _cuda, em, logsumexp, masked_matmul, random, reparameterize
from npgen.masks import Plan

from . import problems, refuse_another_checkout, speed, with_npgen
from .speed import Bar, Work
from .worker import Worker, n_cores

STEPS = {"MADE 784-H-784, batch 100": ("made", {"hidden": 500}, {"hidden": 4000}),
         "VAE 784-H-20-H-784, batch 128": ("vae", {"hidden": 400}, {"hidden": 3200}),
         "RealNVP D=2, couplings of H-H, batch 512": ("realnvp", {"d": 2, "hidden": (64, 64)}, {"d": 2, "hidden": (512, 512)}),
         "RealNVP D=64, couplings of H-H, batch 512": ("realnvp", {"hidden": (128, 128)}, {"hidden": (1024, 1024)})}
WORKS = {f"{name}, H={np.max(sizes['hidden'])}, step": Work(make, f"{make}_step", sizes, "cuda")
         for name, (make, *both) in STEPS.items() for sizes in both}
BARS = [Bar(work, f"{work}, against {against}", limit, (against,), stretch) for work in WORKS
        for limit, stretch, against in ((0.3, 0.15, "torch"), (1.3, 1.0, "jax"))]
EM = "EM iteration, float64, N=10,000,000, D=16, K=32"
WORKS |= {EM: Work("mixture", "em_on_device", {"n": 10_000_000}, "cuda"),
          "MADE 784-500-784, 100 rows sampled": Work("made", "made_sample", device="cuda")}  # which has no bar
BARS.append(Bar(EM, f"{EM}, against torch", 0.5, ("torch",), 0.3))
AT_ONCE = ("npgen", "torch", "torch, masked gradients", "jax", "jax, flat buffer", "jax, masked gradients",
           "jax, masked gradients, flat buffer")
COMPILED = tuple(list(WORKS)[:5:4])  # a step of MADE's, and of RealNVP's of two columns
OF_COPY = 0.75, ("logsumexp.forward", "random.normal", "reparameterize.forward")  # bandwidth, at least
OF_DENSE = 0.65  # time of the masked product, at most
OF_BUSY = 1.15   # wall time of a step over its busy time, at most
OF_SCORING = 3   # time of MADE's samples over that of scoring them, at most
TOGETHER = 20    # launches of a kernel that are timed as one
SIZES = {"values": 2**28, "columns": 4096, "rows": 4096, "width": 8192, "mixture": (10_000_000, 16, 32)}


def seconds(call, repeats):
    """The best time of a call on the device, between two events."""
    cuda, times = _cuda.require().cuda, []
    for _ in range(repeats + 1):  # the first one compiles
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(cuda.get_elapsed_time(begin, end) / 1e3)
    return min(times[1:])


def copied(x, out):
    """x to out, as many bytes, by the device itself."""
    cuda = _cuda.require().cuda
    here, there = (a.data.ptr for a in (x, out))
    cuda.runtime.memcpyAsync(there, here, x.nbytes, cuda.runtime.memcpyDeviceToDevice, cuda.get_current_stream().ptr)


def by_memory(values, columns, repeats):
    """(what, seconds, bytes moved per second over a copy's) of the kernels that memory bounds, in float32."""
    x = _cuda.zeros((values // columns, columns), np.float32)
    one, out = _cuda.asarray(np.ones((1, columns), np.float32)), _cuda.empty((values,), np.float32)
    log_var = _cuda.zeros(x.shape, np.float32)
    copy = seconds(lambda: copied(x, out), repeats)
    for name, call, moved in (("cudaMemcpyAsync", None, 2), ("logsumexp.forward", lambda: logsumexp.forward(x, one), 1),
                              ("random.normal", lambda: random.normal(out, 1, 2, 0), 1),
                              ("reparameterize.forward", lambda: reparameterize.forward(x, log_var, 1, 2, 0), 3)):
        took = seconds(call, repeats) if call else copy
        yield name, took, moved * x.nbytes / took / (2 * x.nbytes / copy)


def products(rows, width, repeats):
    """(what, seconds, over the dense product's) of the product with a triangular mask and cuBLAS, float32 and float64."""
    plan = Plan(np.arange(width)[:, None] <= np.arange(width))
    for dtype in np.float32, np.float64:
        x, weight, bias = (_cuda.zeros(shape, dtype) for shape in ((rows, width), (width, width), (width,)))
        mask = _cuda.asarray(plan.mask_as(np.dtype(dtype)))
        dense = seconds(lambda x=x, weight=weight: x @ weight, repeats)
        args = x, weight, bias, mask, plan.blocks
        masked = seconds(lambda args=args: masked_matmul.forward(*args), repeats)
        yield f"{x.dtype} dense, cuBLAS", dense, 1.0
        yield f"{x.dtype} masked", masked, masked / dense


def mixture(n, d, k, repeats):
    """(what, seconds) of an EM iteration's sums, full covariances, float32 rows."""
    rng = np.random.default_rng(0)
    arrays = (np.zeros(d), np.ones(d), np.full(k, -np.log(k)), rng.normal(size=(k, d)), np.tile(np.eye(d), (k, 1, 1)))
    x = random.normal(_cuda.empty((n * d,), np.float32), 1, 2, 0).reshape(n, d)
    weights, parameters = _cuda.asarray(np.ones(n)), [_cuda.asarray(a) for a in arrays]
    yield f"em.statistics, N = {n:,}, D = {d}, K = {k}", seconds(lambda: em.statistics(x, weights, *parameters), repeats)


class _Captured(graph.Captured):
    """One that is remembered, with the state that it was made of."""

    made = []

    def __init__(self, take, state, size, places):
        try:
            super().__init__(take, state, size, places)
        except Exception as error:
            type(self).why = f"{type(error).__name__}: {error}"
            raise
        self.state = state
        self.made.append(self)


class _Seen:
    """A module whose launches are noted: (name, launch)."""

    def __init__(self, stem, module, seen):
        self.stem, self.module, self.seen = stem, module, seen

    def get_function(self, name):
        kernel = self.module.get_function(name)

        def launch(*args):
            self.seen.append((f"{self.stem}.{name}", lambda: kernel(*args)))
            kernel(*args)
        return launch


def profile(work, steps, repeats):
    """What a training step consists of: (seconds of it, busy ones, nodes of its graph, {kernel: (launches, seconds)})."""
    cupy, seen, module = _cuda.require(), [], _cuda._module
    _Captured.made.clear()
    _Captured.why = "no step was long enough"
    with mock.patch.object(graph, "Captured", _Captured):
        (_, _, run), = getattr(with_npgen, work.kind)(work.problem())
        run(2)
    if not _Captured.made:
        raise RuntimeError(f"it is not captured: {_Captured.why}")
    step, walls = _Captured.made.pop(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        run(steps)
        walls.append((time.perf_counter() - begin) / steps)
    n = min(steps, len(step.places.order) // len(step.steps))

    def one_behind_the_other():
        for _ in range(n):
            step.graph.launch()

    def busy(call):
        def from_the_first_row():
            step.places.where[...] = 0
            call()
        return seconds(from_the_first_row, repeats)

    nodes = len(set(re.findall(r'"graph_\d+_node_\d+"', step.graph.debug_dot_str())))
    of_step = busy(one_behind_the_other) / n
    with mock.patch.object(_cuda, "_module", lambda stem, *key: _Seen(stem, module(stem, *key), seen)):
        step.places.where[...] = 0
        step._run(step.state)
    kernels, stream = collections.defaultdict(lambda: (0, 0.0)), cupy.cuda.Stream(non_blocking=True)
    for name, launch in seen:
        with stream:
            stream.begin_capture()
            for _ in range(TOGETHER):
                launch()
            together = stream.end_capture()
        launches, took = kernels[name]
        kernels[name] = launches + 1, took + seconds(together.launch, repeats) / TOGETHER
    return min(walls), of_step, nodes, dict(kernels)


def sampling(n, repeats, **sizes):
    """(seconds of n rows that MADE 784-500 draws, of scoring them)."""
    model = with_npgen._made(problems.made(**sizes) | {"device": "cuda"})
    x = _cuda.asarray(model.sample(n, rng=0))
    return seconds(lambda: model.sample(n, rng=0), repeats), seconds(lambda: model.log_prob(x), repeats)


class Page:
    """What was measured, as Markdown: printed as it comes, and written with every row, so that no end loses what is before it.

    results  {work: {variant: seconds per call}}; missing: a line on everything that failed, was not begun, or has no library
    """

    def __init__(self, title, out, ends):
        self.title, self.out, self.ends = title, out, ends
        self.results, self.missing, self.tables, self.whole = {}, [], [], False

    def table(self, *head):
        """The function that adds a row to a table of this head, which is shown once it has one."""
        rows = []
        self.tables.append((head, rows))

        def add(row):
            rows.append(row)
            print(row, flush=True)
            self.write()
        return add

    def miss(self, words):
        """Say what is missing."""
        self.missing.append(words)
        print(words, file=sys.stderr, flush=True)
        self.write()

    def take(self, what, measure):
        """Measure this, unless the time is over; if it fails, a line says so, and the rest goes on."""
        if time.monotonic() > self.ends:
            self.miss(f"{what} was left out: the time was over")
            return
        try:
            measure()
        except Exception as error:  # whatever it is, the rest is worth having
            self.miss(f"{what} FAILED: {_named(error)}")

    def text(self):
        """All of it, as far as it has come."""
        lines = [*self.title, "", *(f"- **{words}**" for words in self.missing)]
        lines += [] if self.whole else ["- **The run was ended before all was measured.**"]
        lines += ["", "## Beside torch and JAX on the same device", ""]
        lines += speed.bars_table(self.results, [bar for bar in BARS if bar.rivals(self.results.get(bar.work, ()))])
        lines += ["", *speed.times_table(self.results), "", "## Alone"]
        lines += [line for head, rows in self.tables if rows for line in ("", *head, *rows)]
        return "\n".join(lines) + "\n"

    def write(self):
        """Put it into the file, whole or not at all."""
        if self.out is not None:
            part = self.out.with_name(f"{self.out.name}.part")
            part.write_text(self.text(), encoding="utf-8")
            os.replace(part, self.out)


def _named(error):
    """An error in a line: the last, if it comes from another process with its traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1] if len(lines) > 1 else ": ".join([type(error).__name__, *lines])


@contextlib.contextmanager
def peers(page):
    """The processes of npgen and of every library that is installed and reaches the device; the page names the others."""
    workers = [Worker("npgen", n_cores())]
    try:
        for library in "torch", "jax":
            if importlib.util.find_spec(library) is None:
                page.miss(f"{library} was left out: it is not installed")
                continue
            worker = Worker(library, n_cores(), XLA_PYTHON_CLIENT_PREALLOCATE="false")
            try:
                worker("reach", "cuda")
                workers.append(worker)
            except Exception as error:
                worker.stop()
                page.miss(f"{library} was left out: {_named(error)}")
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def beside(page, workers, work, works, rounds, budget, wanted=AT_ONCE):
    """Measure one work in all these processes: its variants that are wanted, or all."""
    try:
        measured = speed.measure(workers, work, rounds, budget, works, wanted)
    except Exception:
        workers[0].stop()  # some errors of a device stay with their process
        workers[0] = Worker("npgen", n_cores())
        raise
    page.results[work] = measured
    print(f"{work}: " + ", ".join(f"{variant} {1e3 * min(times):.3g} ms" for variant, times in measured.items()), flush=True)
    page.write()


def report(values, columns, rows, width, mixture_sizes, repeats, works=WORKS, budget=0.2, compiled=(), ends=math.inf,
           samples=10_000, sizes=None, steps=200, out=None):
    """(the page, as Markdown; what is missing from it), which is written to `out` as it grows.

    compiled: the works of which the variants of torch.compile are measured as well, after all else. Nothing is begun after
    `ends`, of time.monotonic().
    """
    page = Page([f"# CUDA kernels on {_cuda.devices()[0]}", "", f"`python -m benchmarks.cuda`; the best of {repeats} calls."],
                out, ends)
    step = page.table("| step | wall, ms | busy, ms | wall over busy | nodes of its graph | bar |", "|---|---|---|---|---|---|")
    part = page.table("| of a step | kernel | launches | ms |", "|---|---|---|---|")
    moved = page.table(f"| {4 * values / 1e9:.3g} GB, float32 | ms | bandwidth over a copy's | bar |", "|---|---|---|---|")
    product = page.table(f"| {rows} x {width} by {width} x {width} | ms | over the dense product | bar |", "|---|---|---|---|")
    drawing = page.table("| MADE 784-500 | ms | over scoring them | bar |", "|---|---|---|---|")
    sums = page.table("| EM | ms |", "|---|---|")

    def taken_apart(name, work):
        wall, busy, nodes, kernels = profile(work, steps, min(repeats, 3))
        step(f"| {name} | {1e3 * wall:.3f} | {1e3 * busy:.3f} | {wall / busy:.2f} | {nodes} | at most {OF_BUSY} |")
        for kernel, (launches, took) in kernels.items():
            part(f"| {name} | {kernel} | {launches} | {1e3 * took:.4f} |")

    def memory():
        for name, took, ratio in by_memory(values, columns, repeats):
            moved(f"| {name} | {1e3 * took:.3f} | {ratio:.2f} | {f'at least {OF_COPY[0]}' if name in OF_COPY[1] else ''} |")

    def multiplied():
        for name, took, ratio in products(rows, width, repeats):
            product(f"| {name} | {1e3 * took:.3f} | {ratio:.2f} | {f'at most {OF_DENSE}' if 'masked' in name else ''} |")

    def sampled():
        drawn, scored = sampling(samples, repeats, **(sizes or {}))
        drawing(f"| {samples:,} rows sampled | {1e3 * drawn:.3f} | {drawn / scored:.2f} | at most {OF_SCORING} |")

    def summed():
        for name, took in mixture(*mixture_sizes, repeats):
            sums(f"| {name} | {1e3 * took:.3f} |")

    page.write()
    with peers(page) as workers:
        for name in works:
            page.take(name, lambda name=name: beside(page, workers, name, works, repeats, budget))
        for name in works:
            if name.endswith("step"):
                page.take(f"{name}, its profile,", lambda name=name: taken_apart(name, works[name]))
        for what, measure in (("the kernels that memory bounds", memory), ("masked products", multiplied),
                              ("MADE's samples", sampled), ("EM's sums", summed)):
            page.take(what, measure)
        for name in compiled:
            page.take(f"{name}, torch.compile", lambda name=name: beside(page, workers, name, works, repeats, budget, ()))
    page.whole = True
    page.write()
    return page.text(), page.missing


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description="npgen on a GPU beside its peers.")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path(__file__).with_name("CUDA.md"))
    parser.add_argument("--minutes", metavar="M", type=float, default=math.inf, help="begin nothing after so many minutes")
    options = parser.parse_args(argv)
    refuse_another_checkout()
    _, missing = report(*SIZES.values(), repeats=10, compiled=COMPILED, ends=time.monotonic() + 60 * options.minutes,
                        out=options.out)
    if any("FAILED" in words for words in missing):
        sys.exit(1)


if __name__ == "__main__":
    main()
