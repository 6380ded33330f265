"""The CUDA kernels beside the device's own copy and cuBLAS, and npgen on the device beside torch and JAX there.

    python -m benchmarks.cuda [--minutes M] [--out FILE]

Rows are printed as they come: the kernels, then training steps and EM beside what runs at once, then two steps beside what
torch.compile makes, which takes it minutes; none begins after M minutes.

A kernel's time is the best of several calls, each waited for, with its data on the device. Training steps, MADE's samples and
EM are measured as benchmarks/speed.py does, every library in a process of its own, after a check that answers agree; there too
the rows lie on the device before the clock starts, and products of float32 are of float32, not TF32. A peer that is not
installed, or that finds no GPU, is left out, and a work that fails is named. Their wheels for GPUs: torch, 'jax[cuda13]'.

No GPU was at hand when this was written anew: npgen has run on the tests' stand-in for CuPy alone, the peers on the CPU, all
at sizes of a few values.
"""
import argparse
import importlib.util
import math
import sys
import time
from pathlib import Path

import numpy as np

from npgen.kernels import _cuda, em, logsumexp, masked_matmul, random, reparameterize
from npgen.masks import Plan

from . import speed
from .speed import Bar, Work
from .worker import Worker, n_cores

STEPS = {"MADE 784-H-784, batch 100": ("made", {"hidden": 500}, {"hidden": 4000}),
         "VAE 784-H-20-H-784, batch 128": ("vae", {"hidden": 400}, {"hidden": 3200}),
         "RealNVP D=2, couplings of H-H, batch 512": ("realnvp", {"d": 2, "hidden": (64, 64)}, {"d": 2, "hidden": (512, 512)}),
         "RealNVP D=64, couplings of H-H, batch 512": ("realnvp", {"hidden": (128, 128)}, {"hidden": (1024, 1024)})}
WORKS = {f"{name}, H={np.max(sizes['hidden'])}, step": Work(make, f"{make}_step", sizes, "cuda")
         for name, (make, *both) in STEPS.items() for sizes in both}
BARS = [Bar(work, f"{work}, against {' and '.join(against)}", limit, against) for work in WORKS
        for limit, against in ((0.5, ("torch",)), (1.0, ("torch.compile", "jax")))]
WORKS |= {"MADE 784-500-784, 100 rows sampled": Work("made", "made_sample", device="cuda"),  # these two have no bar
          "EM iteration, float64, N=10,000,000, D=16, K=32": Work("mixture", "em_on_device", {"n": 10_000_000}, "cuda")}
AT_ONCE = ("npgen", "torch", "torch, masked gradients", "jax", "jax, flat buffer", "jax, masked gradients",
           "jax, masked gradients, flat buffer")
COMPILED = tuple(list(WORKS)[:5:4])  # a step of MADE's, and of RealNVP's of two columns
OF_COPY = 0.80, ("logsumexp.forward", "random.normal", "reparameterize.forward")  # bandwidth, at least
OF_DENSE = 0.65  # time of the masked product, at most
SIZES = {"values": 2**28, "columns": 4096, "rows": 4096, "width": 8192, "mixture": (10_000_000, 16, 32)}


def seconds(call, repeats):
    """The best time of a call, its result waited for."""
    times = []
    for _ in range(repeats + 1):  # the first one compiles
        begin = time.perf_counter()
        answers = call()
        _cuda.asnumpy((answers[0] if isinstance(answers, tuple) else answers).ravel()[:1])
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def by_memory(values, columns, repeats):
    """(what, seconds, bytes moved per second over a copy's) of the kernels that memory bounds, in float32."""
    x = _cuda.zeros((values // columns, columns), np.float32)
    one, out = _cuda.asarray(np.ones((1, columns), np.float32)), _cuda.empty((values,), np.float32)
    log_var = _cuda.zeros(x.shape, np.float32)
    copy = seconds(lambda: x.copy(), repeats)
    for name, call, moved in (("copy", None, 2), ("logsumexp.forward", lambda: logsumexp.forward(x, one), 1),
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


def beside(works, rounds, budget, compiled=(), ends=math.inf):
    """({work: {variant: seconds per call}}, [words on every library left out, every work that failed or was not begun]).

    compiled: the works of which the variants of torch.compile are measured as well, after all others. No work is begun after
    `ends`, of time.monotonic().
    """
    workers, results, missing = [Worker("npgen", n_cores())], {}, []
    try:
        for library in "torch", "jax":
            if importlib.util.find_spec(library) is None:
                missing.append(f"{library} was left out: it is not installed")
                continue
            worker = Worker(library, n_cores(), XLA_PYTHON_CLIENT_PREALLOCATE="false")
            try:
                worker("reach", "cuda")
                workers.append(worker)
            except RuntimeError as error:
                worker.stop()
                missing.append(f"{library} was left out: {_last_line(error)}")
        for work, wanted in (*((work, AT_ONCE) for work in works), *((work, ()) for work in compiled)):
            if time.monotonic() > ends:
                missing.append(f"{work}{'' if wanted else ', torch.compile'} was left out: the time was over")
                continue
            try:
                results[work] = speed.measure(workers, work, rounds, budget, works, wanted)
            except (RuntimeError, AssertionError, EOFError, OSError) as error:  # the other works' figures are worth having
                missing.append(f"{work} FAILED: {_last_line(error)}")
                continue
            best = ", ".join(f"{variant} {1e3 * min(times):.3g} ms" for variant, times in results[work].items())
            print(f"{work}: {best}", flush=True)
    finally:
        for worker in workers:
            worker.stop()
    print(*missing, sep="\n", file=sys.stderr)
    return results, missing


def _last_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def report(values, columns, rows, width, mixture_sizes, repeats, works=WORKS, budget=0.2, compiled=(), ends=math.inf):
    """(the tables, as Markdown; what is missing from them); their rows are printed as they come."""
    lines = [f"# CUDA kernels on {_cuda.devices()[0]}", "", f"`python -m benchmarks.cuda`; the best of {repeats} calls.", "",
             f"| {4 * values / 1e9:.3g} GB, float32 | ms | bandwidth over a copy's | bar |", "|---|---|---|---|"]

    def row(text):
        lines.append(text)
        print(text, flush=True)

    for name, took, ratio in by_memory(values, columns, repeats):
        row(f"| {name} | {1e3 * took:.3f} | {ratio:.2f} | {f'at least {OF_COPY[0]}' if name in OF_COPY[1] else ''} |")
    lines += ["", f"| {rows} x {width} by {width} x {width} | ms | over the dense product | bar |", "|---|---|---|---|"]
    for name, took, ratio in products(rows, width, repeats):
        row(f"| {name} | {1e3 * took:.3f} | {ratio:.2f} | {f'at most {OF_DENSE}' if 'masked' in name else ''} |")
    lines += ["", "| EM | ms |", "|---|---|"]
    for name, took in mixture(*mixture_sizes, repeats):
        row(f"| {name} | {1e3 * took:.3f} |")
    results, missing = beside(works, repeats, budget, compiled, ends)
    lines += ["", "## Beside torch and JAX on the same device", "", *(f"- **{words}**" for words in missing), ""]
    lines += speed.bars_table(results, [bar for bar in BARS if bar.rivals(results.get(bar.work, ()))])
    lines += ["", *speed.times_table(results)]
    return "\n".join(lines) + "\n", missing


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description="npgen on a GPU beside its peers.")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path(__file__).with_name("CUDA.md"))
    parser.add_argument("--minutes", metavar="M", type=float, default=math.inf, help="begin nothing after so many minutes")
    options = parser.parse_args(argv)
    text, missing = report(*SIZES.values(), repeats=10, compiled=COMPILED, ends=time.monotonic() + 60 * options.minutes)
    options.out.write_text(text, encoding="utf-8")
    if any("FAILED" in words for words in missing):
        sys.exit(1)


if __name__ == "__main__":
    main()
