"""Kernel: one pure function of contiguous arrays, written once per backend; the arrays' type picks the backend."""
import contextlib
import contextvars
import functools
import itertools
import math
import re
import sys
import threading
import warnings

import numpy as np

from . import _blas, _jit
from ._cuda import KernelError, is_device_array

_forced = contextvars.ContextVar("npgen_backend", default=None)
_noted = contextvars.ContextVar("npgen_noted", default=None)


@contextlib.contextmanager
def using(backend):
    """Run every kernel called on host arrays inside the block on one backend: "reference" (NumPy) or "numba".

    Raises ValueError for any other name.
    """
    if backend not in ("reference", "numba"):
        raise ValueError(f"using: backend must be 'reference' or 'numba', got {backend!r}")
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


@contextlib.contextmanager
def noted():
    """Inside the block every kernel runs on its reference, and is put down: yields a list of (kernel, arguments), of those
    launches of a kernel for which the same machine code is run the first, in their order, with copies of the arrays.
    """
    launches = {}
    token, listed = _noted.set(launches), []
    try:
        with using("reference"):
            yield listed
    finally:
        _noted.reset(token)
        listed += launches.values()


def _note(kernel, args, launches):
    key = kernel.name, *(getattr(a, "dtype", type(a)) for a in args)
    if key not in launches:
        launches[key] = kernel, tuple(a.copy() if isinstance(a, np.ndarray) else a for a in args)


class _Alike(list):
    """Arrays of one shape and dtype; `asked` counts on at every one handed out."""


class _Pool(threading.local):
    """The arrays that empty() has handed out to this thread, by shape and dtype; None outside of recycling().

    held, most    bytes of them all, and the most that have been in use at once, as far as is known
    places        arrays that are handed out before all others
    recording     what writes down the kernels that run and the arrays that are handed out (npgen.record), or None
    """

    arrays, held, most, places, recording = None, 0, 0, (), None


_pool, _asked = _Pool(), itertools.count()
SPARE = 2**28  # bytes that a thread holds for nobody, or as many as have been in use at once


@contextlib.contextmanager
def recycling():
    """Inside the block, empty() hands out arrays again that nobody refers to any more; it is all let go at the end.

    Memory fresh from the operating system costs more to touch for the first time than most kernels' work. What is held for
    nobody is bounded: shapes that were not asked for since go first.
    """
    outermost = _pool.arrays is None
    if outermost:
        _pool.arrays, _pool.held, _pool.most = {}, 0, 0
    try:
        yield
    finally:
        if outermost:
            _pool.arrays = None


@contextlib.contextmanager
def session():
    """What a public call runs in: the kernels' threads the only pool at work, and memory recycled."""
    with _blas.one_pool(), recycling():
        yield


class placing:
    """A block in which empty() hands out these arrays, each once, where shape and dtype are asked for."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __enter__(self):
        self.before, _pool.places = _pool.places, self.arrays

    def __exit__(self, *error):
        _pool.places = self.before


class recorded_by:
    """A block in which recording.kernel(kernel, args) runs every kernel, and empty() hands out recording.place(array)."""

    def __init__(self, recording):
        self.recording = recording

    def __enter__(self):
        self.before, _pool.recording = _pool.recording, self.recording

    def __exit__(self, *error):
        _pool.recording = self.before


def again(calls, places):
    """Make these calls, which find in empty() what was handed out when they were recorded."""
    places = list(places)
    with _blas.one_pool(), placing(places):
        _heard(_make, calls)
    if places:
        raise RuntimeError("a kernel asked for other memory than when it was recorded")


def _make(calls):
    for call in calls:
        call()


LINE, PAGE = 64, 4096  # bytes of a line of the cache, and of what the CPU tells addresses of loads and stores apart by


class _Memory(np.ndarray):
    """What arrays lie in. Of another class than theirs, so that a view refers to its array, not past it to the memory."""


def _at_line(shape, dtype):
    """np.empty, of what is large at a line of the cache, and every array at another place of a page.

    Adam is 2 to 3 times as slow where vectors lie across lines.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes < PAGE:
        return np.empty(shape, dtype)
    memory = _Memory(nbytes + 2 * PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE + 17 * LINE * next(_asked) % PAGE
    return np.ndarray(shape, dtype, memory, start)


def aligned(array):
    """A copy of an array, for whoever reads or writes it at every step: one of the host begins at a line of the cache."""
    if is_device_array(array):
        return array.copy()
    copy = _at_line(array.shape, array.dtype)
    copy[...] = array
    return copy


def empty(shape, dtype):
    """np.empty for a kernel's results."""
    shape = shape if type(shape) is tuple else (shape,)
    array = _place(shape, dtype) if _pool.places else None
    array = _recycled(shape, dtype) if array is None else array
    return array if _pool.recording is None else _pool.recording.place(array)


def _place(shape, dtype):
    for k, array in enumerate(_pool.places):
        if array.shape == shape and array.dtype == dtype:
            return _pool.places.pop(k)
    return None


def _recycled(shape, dtype):
    if _pool.arrays is None:
        return _at_line(shape, dtype)
    alike = _pool.arrays.get((shape, dtype))
    if alike is None:
        alike = _pool.arrays[shape, dtype] = _Alike()
    alike.asked = next(_asked)
    unused = _unused(alike, _REFERENCES, 1)
    if unused:
        return unused[0]
    array = _at_line(shape, dtype)
    alike.append(array)
    _pool.held += array.nbytes + OVERHEAD
    if _pool.held > SPARE:
        _let_go(_pool)
    return array


def _let_go(pool):
    """Let go of what nobody has, of shapes that were asked for longest ago first, until no more is left than may be held."""
    unused = {key: _unused(alike, _REFERENCES, len(alike)) for key, alike in pool.arrays.items()}
    spare = sum(array.nbytes + OVERHEAD for arrays in unused.values() for array in arrays)
    pool.most = max(pool.most, pool.held - spare)
    for key in sorted(unused, key=lambda key: pool.arrays[key].asked):
        for array in unused[key]:
            if spare <= max(SPARE, pool.most):
                return
            pool.arrays[key][:] = [kept for kept in pool.arrays[key] if kept is not array]
            spare, pool.held = spare - array.nbytes - OVERHEAD, pool.held - array.nbytes - OVERHEAD
        if not pool.arrays[key]:
            del pool.arrays[key]


def _unused(arrays, references, most):
    """At most so many of the arrays to which only `references` references count."""
    unused = []
    for array in arrays:
        if sys.getrefcount(array) == references:
            unused.append(array)
            if len(unused) == most:
                break
    return unused


# What _unused counts for an array that only its list has: with the loop and the call 3, and fewer from Python 3.14 on.
_REFERENCES = next(n for n in range(1, 9) if _unused([np.empty(0)], n, 1))
OVERHEAD = 512  # bytes, about, of an array's own and of what is kept about it


class Kernel:
    """One operation with its implementations.

    signature  "x(N,K) weight(K,M) out(N,2M|0):float64 seed": arrays with dims, then scalars without. A dim is a name, a number,
               a size in terms of a name that stands alone in another place ("2M", "M+1"), or any of several ("M|1"). An array's
               dtype is the launch's common floating dtype (float32 or float64) unless written behind a colon; those with one
               may lie on the host in a launch of device arrays.
    sizes      a function of the arguments that gives (dim, size, ...), the sizes that it may have, for each dim that the values
               of arrays have a say in; or None
    reference  NumPy: slower, simpler and more precise than what it judges; also the fallback
    numba      jitted implementation, or None
    cuda       callable on CuPy arrays, or None
    """

    def __init__(self, name, signature, *, reference, numba=None, cuda=None, sizes=None):
        self.name, self.signature = name, signature
        self.reference, self.numba, self.cuda, self.sizes = reference, numba, cuda, sizes
        parsed = [_parse(token) for token in re.findall(r"\w+(?:\([^)]*\))?(?::\w+)?", signature)]
        self._n_args = len(parsed)
        declared = [(i, name, dims, dtype) for i, (name, dims, dtype) in enumerate(parsed) if dims is not None]
        self._arrays = [(i, name, tuple(d if d.isidentifier() or d.isdigit() else None for d in dims), dims, dtype)
                        for i, name, dims, dtype in declared]
        self._numbers = {d: int(d) for _, _, plain, _, _ in self._arrays for d in plain if d and d.isdigit()}
        self._derived = [(i, name, axis, dims, _sizes(dims[axis])) for i, name, plain, dims, _ in self._arrays
                         for axis, d in enumerate(plain) if d is None]
        names = {d for _, _, plain, _, _ in self._arrays for d in plain}
        if unknown := {d for *_, axis, dims, _ in self._derived for d in re.findall(r"[A-Za-z]\w*", dims[axis])} - names:
            raise ValueError(f"Kernel {name}: no array of {signature} has the dims {', '.join(sorted(unknown))} by themselves")

    def __repr__(self):
        return f"<kernel {self.name}({self.signature})>"

    def __call__(self, *args):
        if _pool.recording is not None:
            return _pool.recording.kernel(self, args)
        return self.run(self.side(args), args)

    def run(self, side, args):
        """side(*args); a Ctrl-C that comes meanwhile is one."""
        return _heard(side, *args)

    def side(self, args):
        """The implementation that these arguments, which are checked, take."""
        device = self.check(args)
        backend = "cuda" if device else _forced.get() or "numba"
        run = getattr(self, backend)
        if device and run is None:
            raise KernelError(f"kernel {self.name} has no CUDA side; pass arrays of the host")
        if (launches := _noted.get()) is not None:
            _note(self, args, launches)
        if backend == "numba" and not _jit.available:
            _warn_once()
            run = None
        if run is None:
            return self.reference
        if backend == "numba":
            _blas.load()
            _jit.start()
        return run

    def check(self, args):
        """Whether the arrays are on the device; KernelError unless dtypes, shapes and C order are as the signature declares."""
        if len(args) != self._n_args:
            raise KernelError(f"kernel {self.name}: takes {self._n_args} arguments ({self.signature}), got {len(args)}")
        bound, common = self._numbers.copy(), None
        device = "cupy" in sys.modules and any(map(is_device_array, args))
        for i, name, plain, dims, dtype in self._arrays:
            value = args[i]
            if not hasattr(value, "flags"):
                raise KernelError(f"kernel {self.name}: {name} must be an array, got {type(value).__name__}")
            found, expected = value.dtype, common if dtype is None else dtype
            if expected is None:
                if found.char not in "fd":
                    raise KernelError(f"kernel {self.name}: {name} has dtype {found}, expected float32 or float64")
                common = found
            elif found is not expected and found != expected:
                raise KernelError(f"kernel {self.name}: {name} has dtype {found}, expected {expected}")
            shape = value.shape
            fits = len(shape) == len(plain)
            for d, n in zip(plain, shape, strict=False):
                fits = fits and (d is None or bound.setdefault(d, n) == n)
            if not fits:
                raise self._misfit(name, shape, dims, bound)
            if not value.flags.c_contiguous:
                raise KernelError(f"kernel {self.name}: {name} must be C-contiguous; pass np.ascontiguousarray({name})")
            if device and dtype is None and not is_device_array(value):
                raise KernelError(f"kernel {self.name}: {name} is on the host and others are on the device; move it there")
        for i, name, axis, dims, sizes in self._derived:
            if args[i].shape[axis] not in sizes(bound):
                raise self._misfit(name, args[i].shape, dims, bound)
        if self.sizes is not None:
            for dim, *sizes in self.sizes(*args):
                if bound[dim] not in sizes:
                    raise KernelError(f"kernel {self.name}: {dim} is {bound[dim]} in {self.signature}, but the values of other "
                                      f"arguments make it {' or '.join(map(str, sizes))}")
        return device

    def _misfit(self, name, shape, dims, bound):
        known = [d if d.isdigit() or not set(re.findall(r"[A-Za-z]\w*", d)) <= set(bound) else
                 f"{d}={'|'.join(map(str, _sizes(d)(bound)))}" for d in dims]
        return KernelError(f"kernel {self.name}: {name} has shape {tuple(shape)}, expected ({', '.join(known)})")


def _heard(run, *args):
    """run(*args), but for a Ctrl-C that comes while Numba looks at the arguments, of which it makes a SystemError."""
    try:
        return run(*args)
    except SystemError as error:
        cause = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            cause = cause.__cause__ or cause.__context__
        raise


@functools.cache
def _sizes(dim):
    """A function of the bound dims: the sizes that a dim such as "D", "2D", "D+1" or "D|1" may have."""
    if not all(re.fullmatch(r"\d+|\d*[A-Za-z]\w*([+-]\d+)?", size) for size in dim.split("|")):
        raise ValueError(f"Kernel: {dim} is no dim; write 'D', '2D', 'D+1', 'D-1', '5', or several with '|' between them")
    size = re.sub(r"(\d*)([A-Za-z]\w*)", lambda m: f"{m[1] or 1} * bound[{m[2]!r}]", dim)
    return eval(f"lambda bound: ({size.replace('|', ', ')},)")


def _parse(token):
    name, dims, dtype = re.fullmatch(r"(\w+)(?:\(([^)]*)\))?(?::(\w+))?", token).groups()
    dims = None if dims is None else tuple(d.strip() for d in dims.split(",") if d.strip())
    return name, dims, None if dtype is None else np.dtype(dtype)


def _warn_once():
    if not _warn_once.said:
        _warn_once.said = True
        warnings.warn(f"npgen runs on its slow NumPy reference kernels: {_jit.unavailable}", RuntimeWarning, stacklevel=3)


_warn_once.said = False
