"""Numba for the kernels: a decorator that compiles once, caches safely, and does nothing where Numba is missing; its threads.

The on-disk cache lives in a folder named by a hash of every kernel source, because Numba's own cache does not see an
edit in a helper that lives in another file (numba #1833). Where no folder is writable, nothing is cached (numba #4908).
Numba numbers the files of a function's signatures, and two processes that compile different ones at the same time would
take the same number, after which one is answered with the other's machine code: here every file has a name of its own.
Cached machine code finds its callees by name, and closures that share one would be taken for one another: each is numbered.
Numba compiles the two wrappers around a parallel loop, and the loop in them, by themselves as well as in the function that
has the loop, and only ever runs the last: here the wrappers are only linked, which saves a quarter of the time.
"""
import collections
import contextlib
import hashlib
import os
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np

try:
    import numba
    from numba import get_num_threads, get_thread_id, prange
    available, unavailable = True, ""
except Exception as error:  # a broken llvmlite raises OSError, an unsupported NumPy raises ImportError
    numba, prange, get_num_threads, get_thread_id = None, range, None, None
    available, unavailable = False, f"Numba cannot be imported ({type(error).__name__}: {error})"

KNOWN = ((0, 61), (0, 68))  # the Numbas whose inside _linked_wrappers has been tested with; others compile for longer


def _source_hash():
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder():
    """The first writable of NPGEN_CACHE_DIR, the user's cache folder and the temporary folder; None if there is none."""
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA", "~\\AppData\\Local")
    elif sys.platform == "darwin":
        home = "~/Library/Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    user = getattr(os, "getuid", lambda: "user")()
    roots = [os.environ.get("NPGEN_CACHE_DIR"), os.path.join(home, "npgen"),
             os.path.join(tempfile.gettempdir(), f"npgen-{user}")]
    for root in filter(None, roots):
        folder = Path(root).expanduser().absolute() / f"kernels-{_source_hash()}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            owned = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()  # never load another user's code
            if owned:
                with tempfile.TemporaryFile(dir=folder):
                    return folder
        except OSError:
            continue
    return None


cache_folder = _cache_folder() if available else None
_named = collections.Counter()  # how many functions have this module and qualified name


@contextlib.contextmanager
def environment(**variables):
    """Environment variables for a library that reads them while it is loaded; put back as they were at the end."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def start_threads():
    """Start Numba's threads, once.

    A thread of GNU OpenMP that waits for the others spins for milliseconds by default: on a machine with other work it
    then holds the core that they need, and a kernel of 1 ms takes 30. Here it sleeps after some 50 microseconds, unless
    the user has set how to wait.
    """
    global _started
    if available and not _started:
        chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
        with contextlib.nullcontext() if chosen else environment(GOMP_SPINCOUNT="2000"):
            numba.get_num_threads()
        _started = True


_started = False


def _linked_wrappers():
    """Numba's compiler, but that the wrappers around a parallel loop are linked into the loop's function and no more."""
    from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
    from numba.core.compiler import Compiler

    class Linked(JITCodeLibrary):
        def _optimize_final_module(self):
            pass

        def _finalize_final_module(self):
            self._finalize_dynamic_globals()
            self._finalized = True

    class LinkedWrappers(Compiler):
        def compile_extra(self, function):  # runs under Numba's lock: no other thread compiles
            create = JITCPUCodegen.create_library

            def create_library(codegen, name, **options):
                wrapper = name == "parallelgufuncwrapper" or "_GufuncWrapper object" in name
                return Linked(codegen, name, **options) if wrapper else create(codegen, name, **options)

            JITCPUCodegen.create_library = create_library
            try:
                return super().compile_extra(function)
            finally:
                JITCPUCodegen.create_library = create

    return {"pipeline_class": LinkedWrappers}


_compiler = _linked_wrappers() if available and KNOWN[0] <= numba.version_info[:2] <= KNOWN[1] else {}

YES, NO, ZERO = np.bool_(True), np.bool_(False), np.int64(0)  # as arguments: for a literal, Numba compiles the callee anew


def jit(function=None, *, parallel=False, fastmath=False, inline="never"):
    """Compile with Numba in nopython mode, cached on disk; where Numba is missing, return the function as it is."""
    if function is None:
        return lambda f: jit(f, parallel=parallel, fastmath=fastmath, inline=inline)
    if not available:
        return function
    name = function.__module__, function.__qualname__
    _named[name] += 1
    function.__qualname__ += str(_named[name])
    saved = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder or "")
    try:
        compiled = numba.njit(function, parallel=parallel, fastmath=fastmath, inline=inline, error_model="numpy",
                              nogil=True, cache=cache_folder is not None, **_compiler)
    finally:
        numba.config.CACHE_DIR = saved
    if cache_folder is not None:
        with contextlib.suppress(AttributeError):  # a Numba that names its files otherwise
            compiled._cache._cache_file._data_name = lambda number: f"{function.__name__}-{uuid.uuid4().hex}.nbc"
    return compiled
