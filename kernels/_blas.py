"""The BLAS of NumPy and SciPy, which ops call and kernels do not: its instructions, and one thread while kernels run.

Two thread pools that alternate cost more than the products themselves.
"""
import contextlib
import os
import sys
import threading
from pathlib import Path

from . import _jit

_lock = threading.RLock()  # a fork waits for whoever has it: the new process finds no half-made setting
_every = []  # threadpoolctl's controllers of every BLAS of the process, once SciPy's is loaded
chosen_by = ""  # who chose the kernels of SciPy's BLAS


def load():
    """Import SciPy's BLAS.

    Before the first kernel of all: Numba itself imports it to compile or load one.
    """
    if _every or not _jit.available:
        return
    with _lock:
        if _every:
            return
        import llvmlite.binding
        from threadpoolctl import ThreadpoolController
        llvmlite.binding.initialize_native_target()  # which Numba does later than the first kernel asks for it
        llvmlite.binding.initialize_native_asmprinter()
        with _better_kernels():
            import scipy.linalg.cython_blas  # noqa: F401
        _every[:] = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]


def products():
    """What threadpoolctl says of SciPy's BLAS."""
    load()
    return _of_scipy(_every)


def _of_scipy(every):
    """That of SciPy's wheel, or else the only one of a system whose NumPy and SciPy share it."""
    found = [lib.info() for lib in every]
    own = [info for info in found if {"scipy", "scipy.libs"} & {folder.name for folder in Path(info["filepath"]).parents}]
    return (own or found or [{}])[0]


def _better_kernels():
    """The environment in which OpenBLAS, loaded, takes the AVX-512 kernels that it does not know this CPU to have.

    It chooses once, while it is loaded; NumPy's, loaded before, shows what it would choose. NPGEN_CORETYPE names another
    core type, or "keep" for OpenBLAS's own choice. Where scipy.linalg was imported before, the choice has been made.
    """
    global chosen_by
    from threadpoolctl import threadpool_info
    wanted = os.environ.get("NPGEN_CORETYPE", "SkylakeX")
    chosen = {info.get("architecture") for info in threadpool_info() if info["internal_api"] == "openblas"}
    chosen_by = "OPENBLAS_CORETYPE" if "OPENBLAS_CORETYPE" in os.environ else "itself"
    if "scipy.linalg.cython_blas" in sys.modules:
        chosen_by += ", before npgen's first kernel"
    elif wanted != "keep" and _avx512() and chosen & {"Haswell", "Zen"}:
        chosen_by = "npgen"
        return _jit.environment(OPENBLAS_CORETYPE=wanted)
    return contextlib.nullcontext()


def _avx512():
    """Whether this CPU has the AVX-512 of OpenBLAS's kernels, and Numba is not told to do without (NUMBA_CPU_FEATURES)."""
    import llvmlite.binding
    import numba
    host = llvmlite.binding.get_host_cpu_features()
    features = numba.config.CPU_FEATURES
    told = features is None or "+avx512f" in features.split(",")
    return told and all(host.get(f"avx512{part}", False) for part in ("f", "cd", "bw", "dq", "vl"))


class _Own(threading.local):
    """How many of _OnePool's holders are this thread's."""

    holders = 0


class _OnePool:
    """A block in which every BLAS has one thread; the last to leave it puts the user's setting back."""

    holders, before = 0, ()

    def __enter__(self):
        load()
        with _lock:
            if not self.holders:
                self.before = [lib.num_threads for lib in _every]
                for lib in _every:
                    lib.set_num_threads(1)
            self.holders += 1
            _own.holders += 1

    def __exit__(self, *error):
        with _lock:
            _own.holders -= 1
            self.leave(self.holders - 1)

    def leave(self, holders):
        """Leave the block to so many."""
        if self.holders and not holders:
            for lib, n in zip(_every, self.before, strict=True):
                lib.set_num_threads(n)
        self.holders = holders


_own, _one_pool = _Own(), _OnePool()


def _forked():
    """In a forked process: threads that did not come along hold nothing. OpenBLAS ends its pool before a fork, and starts
    another when it is next asked.
    """
    _one_pool.leave(_own.holders)
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)


def one_pool():
    """Hold every BLAS to one thread inside the block, so that the kernels' threads are the only pool at work."""
    return _one_pool if _jit.available else contextlib.nullcontext()
