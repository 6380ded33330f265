"""This machine as npgen sees it: versions, BLAS, threads, caches, what would make it faster; and every kernel made ready."""
import contextlib
import inspect
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from . import fused, kernels, ops, splines
from .divergences import pairs
from .engine import vjp
from .kernels import _blas as _blas_kernel
from .kernels import _caching, _cuda, _jit, _processes, gibbs, pairwise, random, transport
from .masks import Plan
from .models import MODELS
from .parallel import n_ranks
from .version import __version__

_PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "threadpoolctl", "tqdm", "safetensors", "matplotlib")


ROWS = 256  # of data, to which a second process fits what is to be compiled


def warmup(dtype=np.float32, *, models=tuple(MODELS), processes=1):
    """Make ready the kernels for one dtype, so that no later call pauses: load them from the cache or compile, about a minute.

    models: names as on the command line; by default every one, and the kernels that no model uses.
    processes: with 2, another one compiles into the cache too, from the last kernel back.
    Raises ValueError for a dtype other than float32 or float64, or a name that is no model's.
    """
    if np.dtype(dtype).char not in "fd":
        raise ValueError(f"warmup: dtype must be float32 or float64, got {np.dtype(dtype)}")
    if unknown := set(models) - set(MODELS):
        raise ValueError(f"warmup: models must be among {', '.join(sorted(MODELS))}, got {', '.join(map(repr, unknown))}")
    if processes > 1:
        with compiling_ahead(f"import npgen; npgen.warmup({np.dtype(dtype).name!r}, models={list(models)})"):
            return warmup(dtype, models=models)
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype(dtype)
    small = {"hidden": (4,), "max_epochs": 1, "n_components": 2, "max_iter": 2}
    for cls in map(MODELS.get, models):
        takes = inspect.signature(cls).parameters
        kinds = ("full", "tied", "diag", "spherical") if "covariance_type" in takes else ()
        for kind in [{"covariance_type": kind} for kind in kinds] or [{}]:
            both = {"head", "heads", "visible"} & set(takes)  # likelihoods
            for x in [(rows > 0).astype(dtype), rows] if both else [rows]:
                model = cls(**{key: value for key, value in small.items() if key in takes}, **kind)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that so few epochs do not converge
                    model.fit(x)
                model.score(x)
                model.sample()
                if model.n_latent_:
                    model.decode(model.encode(x))
    with kernels.using("numba"):  # not by NumPy, as so few rows are drawn; some draws are in float64 in any model
        for draw in random.uniform, random.normal:
            for kind in {np.dtype(dtype), np.dtype(float)}:
                draw(np.empty(1, kind), 0, 0, 0)
    if set(models) != set(MODELS):
        return
    plan, weight = Plan(np.eye(4, 3)), rows[:4, :3].copy()
    for product, *args in ((lambda x, w, b: ops.masked_matmul(x, w, b, plan), rows, weight, weight[0]),
                           (lambda x, w: ops.logsumexp(x, weights=w), rows, np.ones_like(rows)),
                           (lambda mean, log_var: ops.reparameterize(mean, log_var, (0, 0), 0), rows, rows),
                           (fused.standard_normal_log_prob, rows),
                           (lambda x, outputs: fused.mixture_log_prob(x, outputs, 1, 3.0), rows, np.tile(rows, 3)),
                           (lambda x: pairs.gaussians(x, x[:2], np.ones(2, dtype), np.ones(1, dtype)), rows),
                           (lambda z, raw: splines.spline_to_data(z, raw, 2)[0], rows, np.tile(rows, 5)),
                           (lambda logits: fused.categorical_log_prob(np.zeros_like(rows), logits, np.arange(5)), rows)):
        answer, pull = vjp(product, *args)
        pull(answer)
    ones = np.ones_like(rows)  # divergences that have no derivative
    pairwise.nearest(rows, rows, 1)
    pairwise.stein(rows, rows, rows, rows, ones[:, 0].copy(), 1.0)
    transport.cost(rows, ones, rows, ones, 1.0)
    # of a machine too large to sum over
    gibbs.chain(ones[:4].copy(), ones[:1], ones[:1], ones[:1], ones[:2, 0].copy(), ones, 0, 0, 0, 0, 0)


@contextlib.contextmanager
def compiling_ahead(code, rows=None):
    """A block that launches the same kernels as this code. Once it has to compile one, or at once if none has ever been, a
    second process runs the code on references, which compile nothing, and then compiles what it has launched, the last first:
    the two meet halfway.

    The code finds the rows, if there are any, by np.load(sys.stdin.buffer).
    """
    started, fewer = [], contextlib.ExitStack()

    def start():
        fewer.enter_context(_jit.on_threads(_jit.get_num_threads() - 1))  # a core is the other process's
        program = f"import sys; import numpy as np; from npgen import machine\nwith machine.compiling_backwards():\n    {code}"
        with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:  # without a second process it takes longer
            if rows is not None:
                np.save(file, rows, allow_pickle=False)
                file.seek(0)
            started.append(subprocess.Popen(
                [sys.executable, "-c", program], stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=os.environ | {"NPGEN_CACHE_DIR": str(folder)}, cwd=Path(__file__).parent.parent))

    folder = _caching.cache_folder() if _jit.available and _n_cores() > 1 and n_ranks() == 1 else None
    with _processes.helped(start) if folder else contextlib.nullcontext():
        try:
            if folder and not any(file.name.endswith(".nbi") for file in folder.glob("kernels-*/*/*")):
                _processes.call_help()
            yield
        finally:
            fewer.close()
            for process in started:  # whatever it is still at is not needed
                process.kill()
                process.wait()


@contextlib.contextmanager
def compiling_backwards():
    """A block on references, and at its end what it has launched is compiled, the last first."""
    with kernels.noted() as launches:
        yield
    with kernels.using("numba"):  # what NumPy draws first, too
        for kernel, args in reversed(launches):
            kernel(*args)


def query(model, x, *, asked=False):
    """Fit a model in one pass to the first of these rows; asked, it answers queries as well."""
    x = x[:ROWS]
    model.set_params(**{name: 1 for name in ("max_epochs", "max_iter") if name in model.get_params()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one pass does not converge
        model.fit(x)
    if asked and model.capabilities.density != "none":
        model.score(x)
    if asked:
        model.sample(2)
    if asked and model.n_latent_:
        model.encode(x)


def facts():
    """Rows (name, value) of a table."""
    yield "npgen", f"{__version__} in {Path(__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform(terse=True)}"
    yield from (("", f"{name} {_version(name) or 'is not installed'}") for name in _PACKAGES)
    yield "cpu", f"{_cpu_name()}, {_n_cores()} cores for this process" + (", AVX-512" if _has_avx512() else "")
    for i, (owner, blas) in enumerate(_blas()):
        core = f", {blas['architecture']} kernels" if "architecture" in blas else ""
        yield "" if i else "blas", f"{owner}: {blas['internal_api']} {blas['version']}{core}, {blas['num_threads']} threads"
    if products := _products():
        yield "", (f"npgen's decompositions run on {products['filepath']}, its {products.get('architecture', 'own')} kernels "
                   f"chosen by {_blas_kernel.chosen_by}")
    yield "numba", f"{_numba_threads()} threads, layer {_layer()}" if _jit.available else _jit.unavailable
    yield "cache", _cache()
    yield "gpu", _gpu()


def advice():
    """One line for each thing that would make this machine faster."""
    slow = [owner for owner, blas in _blas() if blas.get("architecture") in ("Haswell", "Zen")]
    if _has_avx512() and _products().get("architecture") in ("Haswell", "Zen") and "before" in _blas_kernel.chosen_by:
        yield ("scipy.linalg, which scikit-learn imports too, was imported before npgen's first kernel, so that products "
               "run AVX2 kernels: set OPENBLAS_CORETYPE=SkylakeX before Python starts, or compute something with npgen first.")
    elif slow and _has_avx512():
        yield (f"The OpenBLAS of {' and '.join(slow)} runs AVX2 kernels, but this CPU has AVX-512: set "
               "OPENBLAS_CORETYPE=SkylakeX before Python starts.")
    if not _jit.available:
        yield f"{_jit.unavailable}; every kernel runs its slow NumPy reference. Mend the installation of numba."
        return
    if _layer() == "workqueue":
        yield "Numba's threads run on its own work queue; install tbb, or a libgomp for Numba to find."
    if _numba_threads() < _n_cores():
        yield f"Numba uses {_numba_threads()} of {_n_cores()} cores: set NUMBA_NUM_THREADS={_n_cores()}, or leave it unset."
    if _caching.cache_folder() is None:
        yield "No cache folder is writable, so every process compiles anew: set NPGEN_CACHE_DIR to a folder of your own."


def _version(package):
    import importlib.metadata
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _n_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_name():
    if not _jit.available:
        return platform.processor() or platform.machine()
    import llvmlite.binding
    return llvmlite.binding.get_host_cpu_name()


def _has_avx512():
    return _jit.available and _blas_kernel._avx512()


def _products():
    return _blas_kernel.products() if _jit.available else {}


def _blas():
    """(owner, what threadpoolctl says) of every BLAS that NumPy and SciPy bring."""
    from threadpoolctl import threadpool_info
    if _jit.available:
        _blas_kernel.load()
    for blas in threadpool_info():
        if blas["user_api"] == "blas":
            folder = Path(blas["filepath"]).parent.name  # of a wheel: numpy.libs, scipy.libs
            yield folder.removesuffix(".libs") if folder.endswith(".libs") else blas["filepath"], blas


def _numba_threads():
    import numba
    return numba.get_num_threads()


def _layer():
    """Numba's threading layer, known once its threads have started."""
    import numba
    _jit.start()
    return numba.threading_layer()


def _cache():
    if not _jit.available or (folder := _caching.cache_folder()) is None:
        return "none: no folder is writable"
    sizes = [file.stat().st_size for name in _caching.folder_names().values() for file in (folder / name).rglob("*.nbc")]
    return f"{folder} ({len(sizes)} compiled functions, {sum(sizes) / 1e6:.1f} MB)"


def _gpu():
    try:
        return f"{', '.join(_cuda.devices())}, through CuPy {_cuda.require().__version__}"
    except _cuda.DeviceError as error:
        return f"none: {str(error).removeprefix('cuda: ')}"
