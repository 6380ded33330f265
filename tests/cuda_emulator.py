"""Run CUDA sources on the CPU: built with g++ against cuda_emulator.h, launched as CuPy launches them, on NumPy arrays.

    module = RawModule(code=source, options=("-std=c++17", "-DREAL=float"))
    module.get_function(name)(grid, block, args, shared_mem=0)

A launch runs on `schedule`: 0 in order, 1 backwards, 2 and above a random order of blocks and of threads at every turn.
`record` keeps launches for replay(), which runs them again in a program that is built with sanitizers.
"""
import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("cuda_emulator.h")
COMPILER = shutil.which("g++")
FLAGS = ["-std=c++17", "-x", "c++", "-w", "-ffp-contract=off", "-fno-strict-aliasing", "-g1"]
SANITIZERS = {"address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"],
              "thread": ["-fsanitize=thread", "-O1"]}

schedule = 0
_recorded = None


class EmulatorError(RuntimeError):
    """A launch in which threads wait for one another in vain, or a source that does not compile."""


class _Launch(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint),
                ("schedule", ctypes.c_uint), ("flush", ctypes.c_uint)]


@contextlib.contextmanager
def scheduled(number):
    """Run the launches inside the block on one schedule."""
    global schedule
    before, schedule = schedule, number
    try:
        yield
    finally:
        schedule = before


@contextlib.contextmanager
def record():
    """The launches of schedule 0 inside the block, for replay(): (code, options, name, grid, block, shared, arguments)."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def _names(code):
    return re.findall(r'extern "C" __global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\(', code)


def _build(code, options, flags, tail):
    """The path of the built source; kept in a cache folder under a hash of all that goes into it."""
    if COMPILER is None:
        raise EmulatorError("the CUDA emulator needs g++")
    code = re.sub(r"extern\s+__shared__\s+((?:__align__\(\d+\)\s+)?)([\w ]+?)\s+(\w+)\[\];",
                  r"\2* const \3 = (\2*)emulator::current->shared;", code)
    code = f"{code}\n#line 1 \"tail\"\n{tail}\n"
    flags = [*FLAGS, *(o for o in options if o.startswith("-D")), *flags]
    digest = hashlib.sha256("\0".join([code, HEADER.read_text(), *flags]).encode()).hexdigest()[:24]
    root = Path(os.environ.get("NPGEN_CACHE_DIR") or Path(tempfile.gettempdir(), f"npgen-{os.getuid()}"))
    target = root / "cuda-emulator" / digest
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(f".{os.getpid()}")
        result = subprocess.run([COMPILER, *flags, "-include", HEADER, "-", "-o", made], input=code, text=True,
                                capture_output=True)
        if result.returncode:
            raise EmulatorError(result.stderr)
        made.replace(target)
    return target


class RawModule:
    """cupy.RawModule for NumPy arrays."""

    def __init__(self, *, code, options=()):
        self.code, self.options = code, tuple(options)

    @functools.cached_property
    def _library(self):
        tail = "\n".join(f'extern "C" const char* emulate_{name}(const Launch* launch, void** args)'
                         f"{{ return emulator::launch(*launch, [](void** args) {{ emulator::call({name}, args); }}, args); }}"
                         for name in _names(self.code))
        return ctypes.PyDLL(str(_build(self.code, self.options, ["-O2", "-shared", "-fPIC", "-Wl,-Bsymbolic"], tail)))

    def get_function(self, name):
        """A launcher of one entry point."""
        function = getattr(self._library, f"emulate_{name}")
        function.restype = ctypes.c_char_p

        def launch(grid, block, args, *, shared_mem=0):
            if _recorded is not None and schedule == 0:
                _recorded.append((self.code, self.options, name, grid, block, shared_mem, [a.copy() for a in args]))
            values = [np.asarray(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in args]  # an address, or a number
            pointers = (ctypes.c_void_p * len(args))(*(v.ctypes.data for v in values))
            error = function(ctypes.byref(_launch(grid, block, shared_mem, self.options)), pointers)
            if error:
                raise EmulatorError(f"{name}: {error.decode()}")
        return launch


def _launch(grid, block, shared, options):
    grid, block = ((*n, 1, 1)[:3] for n in (grid, block))
    if not (0 < np.prod(block) <= 1024 and all(0 < g < 2**31 for g in grid) and max(grid[1:]) < 65536):
        raise EmulatorError(f"no device takes a grid of {grid} blocks of {block} threads")
    return _Launch(tuple(map(int, grid)), tuple(map(int, block)), shared, schedule, "-DREAL=float" in options)


def replay(recorded, sanitizer):
    """Run recorded launches again, built with a sanitizer; what it reports, empty if nothing."""
    reports = []
    for code, options in dict.fromkeys((code, options) for code, options, *_ in recorded):
        entries = (f'{{"{name}", [](void** args) {{ emulator::call({name}, args); }}}}, ' for name in _names(code))
        tail = f"const Entry entries[] = {{{''.join(entries)}{{nullptr, nullptr}}}};"
        program = _build(code, options, [*SANITIZERS[sanitizer], "-DEMULATOR_MAIN", "-pthread"], tail)
        with tempfile.NamedTemporaryFile() as file:
            for *source, name, grid, block, shared, args in recorded:
                if tuple(source) == (code, options):
                    file.write(name.encode().ljust(64, b"\0") + bytes(_launch(grid, block, shared, options)))
                    file.write(struct.pack("I", len(args)))
                    for a in args:
                        file.write(struct.pack("qq", isinstance(a, np.ndarray), a.nbytes) + a.tobytes())
            file.flush()
            result = subprocess.run([program, file.name], capture_output=True, text=True, errors="replace", timeout=600,
                                    env=os.environ | {"TSAN_OPTIONS": "history_size=0 halt_on_error=1"})
        if result.returncode or result.stderr:
            reports.append(result.stderr or f"exit code {result.returncode}")
    return "\n".join(reports)
