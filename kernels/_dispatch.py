"""Kernel: one pure function of contiguous arrays, written once per backend; the arrays' type picks the backend."""
import contextlib
import contextvars
import re
import sys
import threading
import warnings

import numpy as np

from . import _blas, _jit
from ._cuda import KernelError, is_device_array

_forced = contextvars.ContextVar("npgen_backend", default=None)


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


class _Pool(threading.local):
    """The large arrays that empty() has handed out to this thread, by shape and dtype; None outside of recycling()."""

    arrays = None


_pool = _Pool()


@contextlib.contextmanager
def recycling():
    """Inside the block, empty() hands out arrays again that nobody refers to any more; it is all let go at the end.

    Memory fresh from the operating system costs more to touch for the first time than most kernels' work.
    """
    outermost = _pool.arrays is None
    if outermost:
        _pool.arrays = {}
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


def empty(shape, dtype):
    """np.empty for a kernel's results."""
    if _pool.arrays is None:
        return np.empty(shape, dtype)
    arrays = _pool.arrays.setdefault((shape, dtype), [])
    array = _unused(arrays, _REFERENCES)
    if array is None:
        array = np.empty(shape, dtype)
        arrays.append(array)
    return array


def _unused(arrays, references):
    """The first of the arrays to which only so many references count; None if there is none."""
    for array in arrays:
        if sys.getrefcount(array) == references:
            return array


# What _unused counts for an array that only its list has: with the loop and the call 3, and fewer from Python 3.14 on.
_REFERENCES = next(n for n in range(1, 9) if _unused([np.empty(0)], n) is not None)


class Kernel:
    """One operation with its implementations.

    signature  "x(N,K) weight(K,M) mask(K,M):bool seed": arrays with dims, names or numbers, then scalars without. An array's
               dtype is the launch's common floating dtype (float32 or float64) unless written behind a colon; those with one
               may lie on the host in a launch of device arrays.
    reference  NumPy: slower, simpler and more precise than what it judges; also the fallback
    numba      jitted implementation, or None
    cuda       callable on CuPy arrays, or None
    blas       the Numba side calls GEMM: hold BLAS to one thread while it runs
    """

    def __init__(self, name, signature, *, reference, numba=None, cuda=None, blas=False):
        self.name, self.signature = name, signature
        self.reference, self.numba, self.cuda, self.blas = reference, numba, cuda, blas
        parsed = [_parse(token) for token in re.findall(r"\w+(?:\([^)]*\))?(?::\w+)?", signature)]
        self._n_args = len(parsed)
        self._arrays = [(i, name, dims, dtype) for i, (name, dims, dtype) in enumerate(parsed) if dims is not None]
        self._numbers = {d: int(d) for _, _, dims, _ in self._arrays for d in dims if d.isdigit()}

    def __repr__(self):
        return f"<kernel {self.name}({self.signature})>"

    def __call__(self, *args):
        device = self.check(args)
        backend = "cuda" if device else _forced.get() or "numba"
        run = getattr(self, backend)
        if device and run is None:
            raise KernelError(f"kernel {self.name} has no CUDA side; pass arrays of the host")
        if backend == "numba" and not _jit.available:
            _warn_once()
            run = None
        try:
            if run is None:
                return self.reference(*args)
            if backend == "numba":
                _jit.start_threads()
                _blas.load()
                if self.blas:
                    with _blas.one_pool():
                        return run(*args)
            return run(*args)
        except SystemError as error:  # what Numba makes of a Ctrl-C that comes while it looks at the arguments
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise

    def check(self, args):
        """Whether the arrays are on the device; KernelError unless dtypes, shapes and C order are as the signature declares."""
        if len(args) != self._n_args:
            raise KernelError(f"kernel {self.name}: takes {self._n_args} arguments ({self.signature}), got {len(args)}")
        bound, common = self._numbers.copy(), None
        device = "cupy" in sys.modules and any(map(is_device_array, args))
        for i, name, dims, dtype in self._arrays:
            value = args[i]
            if not hasattr(value, "flags"):
                raise KernelError(f"kernel {self.name}: {name} must be an array, got {type(value).__name__}")
            common = common or (value.dtype if dtype is None else None)
            expected = common if dtype is None else dtype
            if value.dtype != expected or (dtype is None and value.dtype.char not in "fd"):
                raise KernelError(f"kernel {self.name}: {name} has dtype {value.dtype}, expected "
                                  f"{expected if dtype or value.dtype != expected else 'float32 or float64'}")
            shape = value.shape
            fits = len(shape) == len(dims)
            for d, n in zip(dims, shape, strict=False):
                fits = fits and bound.setdefault(d, n) == n
            if not fits:
                expected = ", ".join(f"{d}={bound[d]}" if d in bound and not d.isdigit() else d for d in dims)
                raise KernelError(f"kernel {self.name}: {name} has shape {tuple(shape)}, expected ({expected})")
            if not value.flags.c_contiguous:
                raise KernelError(f"kernel {self.name}: {name} must be C-contiguous; pass np.ascontiguousarray({name})")
            if device and dtype is None and not is_device_array(value):
                raise KernelError(f"kernel {self.name}: {name} is on the host and others are on the device; move it there")
        return device


def _parse(token):
    name, dims, dtype = re.fullmatch(r"(\w+)(?:\(([^)]*)\))?(?::(\w+))?", token).groups()
    dims = None if dims is None else tuple(d.strip() for d in dims.split(",") if d.strip())
    return name, dims, None if dtype is None else np.dtype(dtype)


def _warn_once():
    if not _warn_once.said:
        _warn_once.said = True
        warnings.warn(f"npgen runs on its slow NumPy reference kernels: {_jit.unavailable}", RuntimeWarning, stacklevel=3)


_warn_once.said = False
