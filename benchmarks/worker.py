"""One library in a process of its own: prepares problems, checks answers, times calls, as the parent asks over a pipe.

Libraries with thread pools in one process fight for the cores; here all but one of them wait, blocked on their pipes.
"""
import contextlib
import importlib
import os
import re
import subprocess
import sys
import time
import traceback
from multiprocessing.connection import Client, Listener
from pathlib import Path

BURST = 0.1  # seconds of calls between two looks at the clock: a fit sets up its memory once, not at every step
THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"  # read by libraries as they load


def n_cores():
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def instructions(features):
    """The widest vector instructions among an LLVM target's features, "+avx2", "-avx512f", ..., in words."""
    has = {feature[1:] for feature in features if feature[0] == "+"}
    widest = [words for name, words in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("sse2", "SSE2"),
                                        ("sve", "SVE"), ("neon", "NEON")) if name in has]
    return widest[0] if widest else "no vector instructions"


@contextlib.contextmanager
def limited(n_threads, **environment):
    """The processes started inside the block run on n_threads cores, with these variables in their environment."""
    before = dict(os.environ)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    os.environ.update({name: str(n_threads) for name in THREADS} | environment)
    if cores:
        os.sched_setaffinity(0, sorted(cores)[:n_threads])
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        os.environ.clear()
        os.environ.update(before)


class Worker:
    """The parent's end: attribute calls go to the process, and its answers or errors come back."""

    def __init__(self, library, n_threads, **environment):
        self.library = library
        with limited(n_threads, **environment), Listener() as listener:  # a fork or spawn would bring the parent's imports
            self._process = subprocess.Popen([sys.executable, "-m", __name__, library, listener.address],
                                             cwd=Path(__file__).resolve().parent.parent)
            self._pipe = listener.accept()

    def __call__(self, method, *args):
        self._pipe.send((method, args))
        answer, error = self._pipe.recv()
        if error:
            raise RuntimeError(f"in the process of {self.library}, {method} failed:\n{error}")
        return answer

    def stop(self):
        self._pipe.close()
        self._process.wait()


def _serve(pipe, library):
    try:
        server = Server(importlib.import_module(f"benchmarks.with_{library}"))
        while True:
            method, args = pipe.recv()
            try:
                pipe.send((getattr(server, method)(*args), None))
            except Exception:
                pipe.send((None, traceback.format_exc()))
    except (EOFError, KeyboardInterrupt):
        pass


class Server:
    """The process's end."""

    def __init__(self, module):
        self.module, self.runs = module, {}

    def facts(self):
        """Versions and the like, {name: words}."""
        return self.module.facts()

    def reach(self, device):
        """Raise unless the library can use this device."""
        self.module.reach(device)

    def prepare(self, kind, problem, wanted=(), check=True):
        """Build what the library has of this kind, or only the `wanted` variants; {variant: its answers, named arrays}."""
        variants = {}
        for name, answer, run in getattr(self.module, kind, lambda problem: ())(problem):
            if not wanted or name in wanted:
                variants[name] = answer, run
            if wanted and len(variants) == len(wanted):
                break  # what comes after would only take memory
        answers = {variant: answer() if check else {} for variant, (answer, _) in variants.items()}
        self.runs = {variant: (run, _calls_per_burst(run)) for variant, (_, run) in variants.items()}
        return answers

    def time(self, variant, budget):
        """Seconds per call, one value per burst of calls, for about `budget` seconds."""
        run, n = self.runs[variant]
        if n > 1:
            run(n)  # the caches and the clock rate are the other libraries' still
        seconds, end = [], time.perf_counter() + budget
        while not seconds or time.perf_counter() < end:
            seconds.append(_seconds(run, n) / n)
        return seconds

    def peak_memory(self):
        """Bytes that the process has held at most (getrusage begins with the parent's, on Linux)."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def _seconds(run, n):
    """Seconds of run(n); a run that returns a number has looked at the clock itself."""
    start = time.perf_counter()
    own = run(n)
    return time.perf_counter() - start if own is None else own


def _calls_per_burst(run):
    run(1)
    once = _seconds(run, 1)
    if once < 10 * BURST:
        once = min(once, _seconds(run, 1))
    return max(1, min(100, round(BURST / once)))


if __name__ == "__main__":
    _serve(Client(sys.argv[2]), sys.argv[1])
