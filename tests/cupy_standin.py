"""A stand-in for CuPy on a machine without a GPU: its arrays on NumPy's, its kernels through the emulator.

    with installed() as cupy:                    `import cupy` gives the stand-in
        with cupy.forbidden("reads"): ...        AssertionError where a value would come back from the device

It is no more lenient than CuPy 14: what is not in its tables does not exist, arguments have CuPy's names, arrays of the host
and the device do not mix, and a result is a device array, of no dimension where NumPy would give a number.
test_cupy_standin.py holds the tables against CuPy itself where that is installed. `traffic` counts what crosses: calls that
read values back, which wait for the device, and bytes sent to it.

A stream captures as CUDA's does: what it sees is not done, but for shapes, and graph.launch() does it, on the same memory and
with the same numbers. While it captures, nothing crosses, memory comes from a pool that has been asked for as much before, and
CUDA's libraries are not called: CuPy refuses cuBLAS and cuSOLVER there, and Thrust, which sorts, waits.

Its ndarray is no subclass of NumPy's, because np.asarray would look into one without asking.
"""
import collections
import contextlib
import functools
import inspect
import operator
import sys
import time
import types

import cuda_emulator
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

# cupy.<function>, its parameters in CuPy's names; of the creating ones, and of those that give no array, see below
FUNCTIONS = """
reshape(a, newshape, order='C', *, copy=None)
ravel(a, order='C')
expand_dims(a, axis)
squeeze(a, axis=None)
broadcast_to(array, shape)
transpose(a, axes=None)
swapaxes(a, axis1, axis2)
moveaxis(a, source, destination)
flip(a, axis=None)
roll(a, shift, axis=None)
tril(m, k=0)
triu(m, k=0)
concatenate(tup, axis=0, out=None, *, dtype=None, casting='same_kind')
stack(tup, axis=0, out=None, *, dtype=None, casting='same_kind')
hstack(tup, *, dtype=None, casting='same_kind')
vstack(tup, *, dtype=None, casting='same_kind')
column_stack(tup)
split(ary, indices_or_sections, axis=0)
tile(A, reps)
pad(array, pad_width, mode='constant', **kwargs)
diff(a, n=1, axis=-1, prepend=None, append=None)
diagonal(a, offset=0, axis1=0, axis2=1)
diag(v, k=0)
trace(a, offset=0, axis1=0, axis2=1, dtype=None, out=None)
take_along_axis(a, indices, axis)
take(a, indices, axis=None, out=None)
repeat(a, repeats, axis=None)
where(condition, x=None, y=None)
clip(a, a_min, a_max, out=None)
copy(a, order='K')
copyto(dst, src, casting='same_kind', where=None)
round(a, decimals=0, out=None)
sum(a, axis=None, dtype=None, out=None, keepdims=False)
mean(a, axis=None, dtype=None, out=None, keepdims=False)
var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
max(a, axis=None, out=None, keepdims=False)
min(a, axis=None, out=None, keepdims=False)
prod(a, axis=None, dtype=None, out=None, keepdims=False)
all(a, axis=None, out=None, keepdims=False)
any(a, axis=None, out=None, keepdims=False)
cumsum(a, axis=None, dtype=None, out=None)
argmax(a, axis=None, dtype=None, out=None, keepdims=False)
argmin(a, axis=None, dtype=None, out=None, keepdims=False)
argsort(a, axis=-1, kind=None)
sort(a, axis=-1, kind=None)
searchsorted(a, v, side='left', sorter=None)
count_nonzero(a, axis=None)
isclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False)
allclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False)
array_equal(a1, a2, equal_nan=False)
dot(a, b, out=None)
vdot(a, b)
inner(a, b)
outer(a, b, out=None)
tensordot(a, b, axes=2)
einsum(*operands, **kwargs)
zeros_like(a, dtype=None, order='K', subok=None, shape=None)
ones_like(a, dtype=None, order='K', subok=None, shape=None)
empty_like(prototype, dtype=None, order='K', subok=None, shape=None)
full_like(a, fill_value, dtype=None, order='K', subok=None, shape=None)
linalg.cholesky(a)
linalg.det(a)
linalg.norm(x, ord=None, axis=None, keepdims=False)
linalg.inv(a)
linalg.qr(a, mode='reduced')
linalg.solve(a, b)
linalg.slogdet(a)
"""
READING = """
nonzero(a)
argwhere(a)
flatnonzero(a)
"""
CREATING = """
zeros(shape, dtype=float, order='C')
ones(shape, dtype=float, order='C')
full(shape, fill_value, dtype=None, order='C')
arange(start, stop=None, step=1, dtype=None)
eye(N, M=None, k=0, dtype=float, order='C')
"""
PLAIN = """
shape(a)
ndim(a)
size(a, axis=None)
iscomplexobj(x)
result_type(*arrays_and_dtypes)
"""
UFUNCS = """
add subtract multiply true_divide divide floor_divide power remainder negative positive absolute square sqrt cbrt reciprocal
exp exp2 expm1 log log1p log2 log10 logaddexp sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh arcsinh arccosh arctanh
hypot maximum minimum fmax fmin sign signbit floor ceil rint trunc isnan isfinite isinf less less_equal greater greater_equal
equal not_equal logical_and logical_or logical_not invert bitwise_and bitwise_or bitwise_xor right_shift left_shift matmul
copysign
""".split()
SPECIAL = ["erf", "expit", "gammaln", "log_ndtr", "ndtr", "ndtri", "pdtr", "psi", "zeta"]
BLAS = "dot", "vdot", "inner", "tensordot", "matmul"
LIBRARIES = {"cuBLAS": BLAS, "Thrust": ("sort", "argsort"),
             "cuSOLVER": tuple(f"linalg.{name}" for name in ("cholesky", "det", "inv", "qr", "solve", "slogdet"))}
METHODS = """
astype(dtype, order='K', casting=None, subok=None, copy=True)
view(dtype=None, array_class=None)
reshape(*shape, order='C')
transpose(*axes)
ravel(order='C')
copy(order='C')
squeeze(axis=None)
swapaxes(axis1, axis2)
take(indices, axis=None, out=None)
repeat(repeats, axis=None)
dot(b, out=None)
prod(axis=None, dtype=None, out=None, keepdims=False)
var(axis=None, dtype=None, out=None, ddof=0, keepdims=False)
sum(axis=None, dtype=None, out=None, keepdims=False)
mean(axis=None, dtype=None, out=None, keepdims=False)
std(axis=None, dtype=None, out=None, ddof=0, keepdims=False)
max(axis=None, out=None, keepdims=False)
min(axis=None, out=None, keepdims=False)
all(axis=None, out=None, keepdims=False)
any(axis=None, out=None, keepdims=False)
argmax(axis=None, out=None, dtype=None, keepdims=False)
argmin(axis=None, out=None, dtype=None, keepdims=False)
"""
ATTRIBUTES = ["shape", "ndim", "size", "dtype", "itemsize", "nbytes", "strides"]
FLAGS = "c_contiguous", "f_contiguous", "owndata", "fnc", "forc"
JOINING = "concatenate", "stack", "hstack", "vstack", "column_stack"
SCALARS = bool, int, float, complex, np.generic
UFUNC_PARAMETERS = {"out", "dtype", "casting"}  # of cupy.ufunc.__call__

FREE = [2**34]  # bytes that a device has left
traffic = {"reads": 0, "sent": 0}
_forbidden = set()


def _crossed(direction, amount=1):
    if _capturing is not None:
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: data crosses ({direction}) while a stream captures")
    assert direction not in _forbidden, f"data crosses between host and device ({direction}) where that is forbidden"
    traffic[direction] += amount


@contextlib.contextmanager
def forbidden(*directions):
    """AssertionError inside the block for what crosses in these directions, "reads" and "sent"."""
    added = set(directions) - _forbidden
    _forbidden.update(added)
    try:
        yield
    finally:
        _forbidden.difference_update(added)


class CUDARuntimeError(RuntimeError):
    """What CuPy raises without a driver."""


# ---------------------------------------------------------------- streams, graphs, memory

_tick, _used = [0], {}  # how many calls there were, and of memory that copies write the last of them that used it
_capturing = _pool = None  # the Graph that is made of what is done, and the MemoryPool that memory comes from


def _arrays(tree):
    """The NumPy arrays in nested tuples, lists and dicts."""
    if isinstance(tree, (tuple, list, dict)):
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from _arrays(each)
    elif isinstance(tree, np.ndarray):
        yield tree


def _done(run, *args, **params):
    """run(*args, **params), of NumPy's arrays; scalars as arrays of no dimension."""
    _tick[0] += 1
    for a in _arrays((args, params)) if _used else ():
        if (root := _root(a).ctypes.data) in _used:
            _used[root] = _tick[0]
    if _capturing is not None:
        _capturing._see((args, params))
    answers = run(*args, **params)
    if not isinstance(answers, (list, tuple)):
        answers = np.asarray(answers) if isinstance(answers, np.generic) else answers
    if _capturing is not None:
        _capturing._add(run, args, params, answers)
    return answers


def _root(a):
    """The array that owns its memory."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


class Graph:
    """cupy.cuda.Graph."""

    def __init__(self):
        self._calls, self._made, self._before = [], {}, {}

    def _see(self, args):
        """Remember what these arrays hold: to capture a launch is not to do it."""
        for a in _arrays(args):
            a = _root(a)
            if id(a) not in self._made and a.flags.writeable:
                self._before.setdefault(id(a), (a, a.copy()))

    def _add(self, run, args, params, answers):
        new = [a for a in _arrays(answers) if not any(np.may_share_memory(a, b) for b in _arrays((args, params)))]
        self._made.update({id(a): a for a in new})
        self._calls.append((run, args, params, answers, {id(a) for a in new}))

    def _undo(self):
        for a, before in self._before.values():
            a[...] = before
        for a in self._made.values():
            a[...] = np.nan if a.dtype.kind == "f" else 1
        self._before.clear()

    def debug_dot_str(self, flags=0):
        return "\n".join(f'"graph_1_node_{i}"[label="{i}"];' for i in range(len(self._calls)))

    def launch(self, stream=None):
        for run, args, params, answers, new in self._calls:
            again = run(*args, **params)
            for a, b in zip(answers, again, strict=True) if isinstance(again, (list, tuple)) else [(answers, again)]:
                if id(a) in new:
                    a[...] = b


class Event:
    """cupy.cuda.Event: a time on the host's clock, and a place in what its stream has to do."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.seconds, self.on, self.copies, self.tick = None, None, 0, 0

    def record(self, stream=None):
        self.seconds, self.on, self.tick = time.perf_counter(), stream or Stream._current, _tick[0]
        self.copies = self.on.made + len(self.on.copies)

    def synchronize(self):
        Stream._current.synchronize()
        self._reached()
        if self.on is not None:
            self.on.known = max(self.on.known, self.copies)

    def _reached(self):
        if self.on is not None:
            self.on._copy(self.copies)


def get_elapsed_time(start_event, end_event):
    """cupy.cuda.get_elapsed_time, in ms."""
    return max(1e3 * (end_event.seconds - start_event.seconds), 1e-6)


class Stream:
    """cupy.cuda.Stream: what kernels do is done at once, copies on another stream as late as events allow.

    A copy may not write what a kernel has used and no event that the stream has waited for says that it is through with, nor
    read pinned memory of which a copy was made that the host has not waited for.
    """

    _every = {}

    def __init__(self, null=False, non_blocking=False, ptds=False, *, priority=None):
        self._non_blocking, self._outer, self.ptr = non_blocking, [], 0 if null else id(self)
        self.copies, self.made, self.waited, self.known, self.sources = [], 0, 0, 0, {}
        self._every[self.ptr] = self

    def wait_event(self, event):
        event._reached()
        self.waited = max(self.waited, event.tick)

    def _copy(self, until):
        while self.made < until:
            self.copies.pop(0)()
            self.made += 1

    def __enter__(self):
        self._outer.append(Stream._current)
        Stream._current = self
        return self

    def __exit__(self, *error):
        Stream._current = self._outer.pop()

    def synchronize(self):
        if _capturing is not None:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: a wait while a stream captures")
        self.known = self.made + len(self.copies)
        self._copy(self.known)
        if self is not Stream._current:
            _used.clear()

    def begin_capture(self, mode=None):
        global _capturing
        if not self._non_blocking or Stream._current is not self or _capturing is not None:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: what captures is non-blocking and the current stream")
        _capturing = Graph()

    def end_capture(self):
        global _capturing
        graph, _capturing = _capturing, None
        graph._undo()
        return graph


Stream.null = Stream._current = Stream(null=True)


class Pinned(np.ndarray):
    """What cupy.cuda.alloc_pinned_memory gives."""

    ptr = property(lambda self: self.ctypes.data)


def alloc_pinned_memory(size):
    """cupy.cuda.alloc_pinned_memory."""
    memory = np.full(size, 255, np.uint8).view(Pinned)
    _Pointer.arrays[memory.ptr] = memory
    return memory


class MemoryPool:
    """cupy.cuda.MemoryPool: how much of each size it was asked for."""

    def __init__(self, allocator=None):
        self._asked, self._captured = collections.Counter(), collections.Counter()

    def malloc(self, size):
        size = -(-size // 512)
        counted = self._asked if _capturing is None else self._captured
        counted[size] += 1
        if self._captured[size] > self._asked[size]:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: memory of the device's own while a stream captures")


@contextlib.contextmanager
def using_allocator(allocator=None):
    """cupy.cuda.using_allocator."""
    global _pool
    before, _pool = _pool, allocator
    try:
        yield
    finally:
        _pool = before


class ndarray(NDArrayOperatorsMixin):
    """cupy.ndarray: `_host` is the NumPy array that plays the device's memory."""

    __array_priority__ = 100
    __module__ = "cupy"
    device = types.SimpleNamespace(id=0)

    def __init__(self, host):
        self._host = host
        if (_pool or _capturing) and getattr(host, "base", 0) is None:
            (_pool or MemoryPool().malloc)(host.nbytes)

    # what NumPy asks

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. "
                        "Please use `.get()` to construct a NumPy array explicitly.")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **params):
        if method == "at":
            inputs = inputs[0], ndarray(_index(inputs[1])), *inputs[2:]
        if any(not isinstance(a, (ndarray, np.ndarray, *SCALARS)) for a in inputs):
            return NotImplemented  # a Tensor's turn
        if set(params) - UFUNC_PARAMETERS:
            raise TypeError(f"Wrong arguments {params}")
        if ufunc.__name__ in SPECIAL:
            return getattr(sys.modules["cupyx.scipy.special"], ufunc.__name__)(*inputs)
        if ufunc.__name__ not in UFUNCS or method not in ("__call__", "at") or (method == "at" and ufunc is not np.add):
            return NotImplemented
        if out is not None:
            params["out"] = _bare(out)
        _no_library(ufunc.__name__, inputs)
        return _wrap(_done(getattr(ufunc, method), *_bare(inputs), **params), out)

    def __array_function__(self, function, kinds, args, params):
        name = ".".join([*function.__module__.split(".")[1:], function.__name__])
        if not set(kinds) <= {ndarray, np.ndarray} or name not in _functions:
            return NotImplemented
        return _functions[name](*args, **params)

    # reading back

    def get(self):
        _crossed("reads")
        return self._host.copy()

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, spec):
        return format(self.get(), spec)

    def __reduce__(self):
        return array, (self.get(),)

    # a container

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return ndarray(_done(operator.getitem, self._host, _index(index)))

    def __setitem__(self, index, value):
        if isinstance(value, (np.ndarray, list, tuple)):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        index = _index(index)
        if not isinstance(value, ndarray) and any(isinstance(i, np.ndarray) for i in index):
            _crossed("sent", np.asarray(value).nbytes)  # a number where others are scattered
        by_numbers = isinstance(index[0], np.ndarray) and index[0].dtype.kind in "iu"
        _done(_scatter if by_numbers else operator.setitem, self._host, index, _bare(value))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    T = property(lambda self: ndarray(self._host.T))
    data = property(lambda self: _Pointer(self._host))
    base = property(lambda self: None if self._host.base is None else _covered(self._host.base))
    flags = property(lambda self: types.SimpleNamespace(**{name: getattr(self._host.flags, name) for name in FLAGS}))


def _scatter(host, index, value):
    """host[index] = value, by numbers of rows; like take, CuPy begins anew behind the last, and raises nothing."""
    host[(index[0] % len(host), *index[1:])] = value


class _Pointer:
    """cupy.cuda.MemoryPointer; who reads or writes there is found out by the arrays whose address was asked for."""

    arrays = {}

    def __init__(self, host):
        self.ptr = host.ctypes.data
        self.arrays[self.ptr] = host


class Cublas:
    """What kernels/_cublas.py asks of cuBLAS, column-major as it is, within the memory of the arrays that it is given.

    A call while a stream captures needs a workspace, which a change of the stream takes away.
    """

    UNSUPPORTED = 15  # CUBLAS_STATUS_NOT_SUPPORTED

    def __init__(self):
        self.stream, self.workspace, self.calls = 0, None, 0

    def cublasCreate_v2(self, handle):
        handle._obj.value = 1
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self.stream, self.workspace = stream.value or 0, None
        return 0

    def cublasSetWorkspace_v2(self, handle, workspace, size):
        self.workspace = workspace.value if size.value <= _Pointer.arrays[workspace.value].nbytes else None
        return 0

    def _gemm(self, real, handle, turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, drop=0):
        if self.stream != Stream._current.ptr or _capturing is not None and self.workspace is None:
            return self.UNSUPPORTED

        def run(a, b, c):
            left = matrix(a, k, m, lda).T if turn_a else matrix(a, m, k, lda)
            right = matrix(b, n, k, ldb).T if turn_b else matrix(b, k, n, ldb)
            left, right = (rounded(x) if drop else x for x in (left, right))
            out = matrix(c, m, n, ldc)
            before = beta._obj.value * out if beta._obj.value else 0  # where beta is 0, C need not be numbers
            out[...] = alpha._obj.value * (left @ right) + before

        def rounded(x):
            return ((x.view(np.uint32) + np.uint32(1 << drop - 1)) >> np.uint32(drop) << np.uint32(drop)).view(np.float32)

        def matrix(x, rows, columns, leading):
            """The (rows, columns) of a column-major matrix that begins where x does."""
            root = _root(x)
            end = root.ctypes.data + root.nbytes
            assert x.dtype == real and leading >= rows, f"{rows} rows, {leading} apart"
            assert x.ctypes.data + ((columns - 1) * leading + rows) * x.itemsize <= end, "cuBLAS reads beyond an array"
            return np.lib.stride_tricks.as_strided(x, (rows, columns), (x.itemsize, leading * x.itemsize))

        self.calls += 1
        _done(run, *(_Pointer.arrays[x.value] for x in (a, b, c)))
        return 0

    def cublasGemmEx(self, handle, turn_a, turn_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc,
                     compute, algorithm):
        """Of float32 (CUDA_R_32F) in CUBLAS_COMPUTE_32F_FAST_16BF and _TF32 alone: factors keep their upper bits."""
        bits = {75: 16, 77: 13}.get(compute)
        if (type_a, type_b, type_c) != (0, 0, 0) or bits is None or algorithm != -1:
            return self.UNSUPPORTED
        return self._gemm(np.float32, handle, turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, drop=bits)

    def cublasSgemm_v2(self, *args):
        return self._gemm(np.float32, *args)

    def cublasDgemm_v2(self, *args):
        return self._gemm(np.float64, *args)


def _covered(host):
    """A cover for memory that is there."""
    array = object.__new__(ndarray)
    array._host = host
    return array


def _bare(x):
    """What NumPy gets for an argument: device arrays without their cover; TypeError for arrays of the host."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {np.ndarray}")
    return type(x)(_bare(a) for a in x) if type(x) in (list, tuple) else x


def _index(index):
    """An index for NumPy; like CuPy it sends one from the host, and has to wait for the number of rows of a mask."""
    def one(i):
        if isinstance(i, ndarray):
            if i.dtype == bool and i.size:
                _crossed("reads")
            return i._host
        if isinstance(i, (np.ndarray, list)):
            _crossed("sent", np.asarray(i).nbytes)
        return i
    parts = tuple(map(one, index if isinstance(index, tuple) else (index,)))
    return parts if any(i is Ellipsis for i in parts) else (*parts, Ellipsis)  # which gives an array, never a number


def _wrap(x, out=None):
    """A result of NumPy's as CuPy gives it."""
    if out is not None:
        return out[0]
    if isinstance(x, (np.ndarray, *SCALARS)):
        return ndarray(np.asarray(x))
    return list(map(_wrap, x)) if isinstance(x, (list, tuple)) else x


def signatures(table):
    """(name, inspect.Signature) of each line."""
    for line in table.split("\n")[1:-1]:
        name, parameters = line[:-1].split("(", 1)
        yield name, inspect.signature(eval(f"lambda {parameters}: None"))


def _called(signature, args, params):
    """The arguments as given, checked against CuPy's names and put into NumPy's."""
    bound = signature.bind(*args, **params)
    return bound.args, {{"newshape": "shape"}.get(name, name): value for name, value in bound.kwargs.items()}


def _function(name, signature, make=_wrap, bare=_bare):
    run = functools.reduce(getattr, name.split("."), np)

    def call(*args, **params):
        args, params = _called(signature, args, params)
        if name == "take":  # its indices may come from the host
            args = args[0], ndarray(_index(args[1])[0]), *args[2:]
            params["mode"] = "wrap"  # as CuPy does
        if name.endswith("_like") and not params.get("shape"):  # "shape if shape else a.shape": 0 and () are no shapes
            params.pop("shape", None)
        _refuse(name, *args, **params)
        _no_library(name, args)
        if name in JOINING and len(args[0]) > 8 and len({a.dtype for a in args[0] if isinstance(a, ndarray)}) == 1:
            _crossed("sent", 8 * len(args[0]))  # _routines_manipulation.pyx: one kernel, which is told all addresses
        params = {key: bare(value) for key, value in params.items()}
        return make(_done(_quiet(run) if name in LIBRARIES["cuSOLVER"] else run, *bare(args), **params))
    return call


def _refuse(name, x, *args, **params):
    """What CuPy does not take: repeats on the device, a shape that is a number, order "K", a condition that is no array."""
    given = [*args, *params.values()]
    if name == "where" and not hasattr(x, "astype"):
        raise AttributeError(f"{type(x).__name__!r} object has no attribute 'astype'")
    if name in ("sort", "argsort") and params.get("kind", args[1] if args[1:] else None) not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")
    if name == "repeat" and any(isinstance(a, ndarray) for a in given):
        raise ValueError("cupy.ndaray cannot be specified as `repeats` argument.")
    if name == "broadcast_to" and not hasattr(given[0], "__len__"):
        raise TypeError(f"object of type {type(given[0]).__name__!r} has no len()")
    if name == "linalg.solve" and given[0].ndim > 1 and x.shape[:-1] != given[0].shape[:-1]:
        raise ValueError("a must have (..., M, M) shape and b must have (..., M, K) for multidimensional b")
    if name == "ravel" and "K" in given:
        raise NotImplementedError("ravel with order='K' not yet implemented.")


def _no_library(name, args):
    """NotImplementedError, as CuPy's, for what a library of CUDA's would do, or wait for, while a stream captures."""
    if _capturing is None:
        return
    if name == "einsum":  # a product where operands share an index that is summed over
        terms, _, out = args[0].replace(" ", "").partition("->")
        found = collections.Counter(c for term in terms.split(",") for c in set(term) - set(out))
        name = "matmul" if max(found.values(), default=0) > 1 else name
    whole = name in BLAS and not any(a.dtype.kind == "f" for a in args if isinstance(a, ndarray))  # a kernel of CuPy's
    for library, names in LIBRARIES.items():
        if name in names and not whole:
            raise NotImplementedError(f"calling {library} API during stream capture is currently unsupported")


def _quiet(run):
    """What cuSOLVER cannot do it says to nobody, unless it is asked to (cupyx.errstate); its results are what they are: of a
    matrix that has no factors those that it was at.
    """
    def call(*args, **params):
        try:
            return run(*args, **params)
        except np.linalg.LinAlgError as error:
            if str(error) not in ("Singular matrix", "Matrix is not positive definite"):
                raise
            if run is np.linalg.cholesky:
                return np.stack([call(a) for a in args[0]]) if args[0].ndim > 2 else np.tril(args[0])
            return np.full_like(args[-1], np.nan)
    return call


def _reading(x):
    _crossed("reads")
    return _wrap(x)


def _method(name, signature):
    def call(self, *args, **params):
        args, params = _called(signature, args, params)
        if name == "astype":
            params = {key: value for key, value in params.items() if value is not None}
        _refuse(name, self, *args, **params)
        _no_library(name, (self, *args))
        return _wrap(_done(getattr(np.ndarray, name), self._host, *_bare(args), **params))
    return call


def array(obj, dtype=None, copy=True, order="K"):
    """cupy.array: the one way in."""
    if isinstance(obj, ndarray):
        return ndarray(_done(np.array, obj._host, dtype, copy=copy or None, order=order))
    obj = np.array(obj, dtype, order=order)
    _crossed("sent", obj.nbytes)
    return ndarray(obj)


def asarray(a, dtype=None, order=None):
    """cupy.asarray."""
    return array(a, dtype, False, order or "K")


def ascontiguousarray(a, dtype=None):
    """cupy.ascontiguousarray, of device arrays alone."""
    if not isinstance(a, ndarray):
        raise TypeError(f"Argument 'a' has incorrect type (expected cupy.ndarray, got {type(a).__name__})")
    return ndarray(_done(np.ascontiguousarray, a._host, dtype))


def asnumpy(a):
    """cupy.asnumpy: the one way out."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    """cupy.empty, of NaN or ones, so that what nobody has written is seen."""
    return ndarray(_done(np.full, shape, np.nan if np.dtype(dtype).kind == "f" else 1, dtype, order))


class RawModule:
    """cupy.RawModule, through the emulator."""

    def __init__(self, *, code=None, options=()):
        self._module = cuda_emulator.RawModule(code=code, options=options)

    def get_function(self, name):
        launch = self._module.get_function(name)

        def call(grid, block, args, *, shared_mem=0):
            if {type(grid), type(block), type(args)} != {tuple}:
                raise TypeError("grid, block and args must be tuples")
            _done(launch, grid, block, _bare(args), shared_mem=shared_mem)
        return call


def _special(name):
    def call(*args):
        import scipy.special
        return _wrap(_done(getattr(scipy.special, name), *_bare(args)))
    return call


_functions = {name: _function(name, signature) for name, signature in signatures(FUNCTIONS)}
_functions |= {name: _function(name, signature, _reading) for name, signature in signatures(READING)}
_functions |= {name: _function(name, signature) for name, signature in signatures(CREATING)}
_functions |= {name: _function(name, signature, lambda x: x) for name, signature in signatures(PLAIN)}
_functions |= {f.__name__: f for f in (array, asarray, ascontiguousarray, empty)}
for _name, _signature in signatures(METHODS):
    setattr(ndarray, _name, _method(_name, _signature))
for _name in ATTRIBUTES:
    setattr(ndarray, _name, property(lambda self, name=_name: getattr(self._host, name)))


def _modules(devices, error):
    """The modules by name; `error` is raised where CuPy looks for devices."""
    def count():
        if error is not None:
            raise error
        return devices

    def copy(dst, src, size, kind, stream):
        source, target = (_Pointer.arrays[ptr].view(np.uint8).reshape(-1) for ptr in (src, dst))
        if kind == runtime.memcpyDeviceToDevice:
            return _done(operator.setitem, target, slice(size), source[:size])
        _crossed("sent", size)
        on, memory = Stream._every[stream], _root(target).ctypes.data
        if on is Stream._current:
            return operator.setitem(target, slice(size), source[:size])
        if _used.setdefault(memory, 0) > on.waited:
            raise AssertionError("a copy writes what kernels may still be reading")
        if on.sources.get(src, 0) > on.known:
            raise AssertionError("pinned memory is filled that may still be copied")
        on.sources[src] = on.made + len(on.copies) + 1
        on.copies.append(lambda: operator.setitem(target, slice(size), source[:size]))

    runtime = types.SimpleNamespace(getDeviceCount=count, getDevice=lambda: 0, CUDARuntimeError=CUDARuntimeError,
                                    memcpyAsync=copy, memcpyHostToDevice=1, memcpyDeviceToDevice=3,
                                    memGetInfo=lambda: (FREE[0], FREE[0]),
                                    getDeviceProperties=lambda i: {"name": b"Stand-in"})
    Device = type("Device", (), {"attributes": {"MultiProcessorCount": 3}, "id": 0})
    cupy, cupyx = types.ModuleType("cupy"), types.ModuleType("cupyx")
    linalg = types.SimpleNamespace(**{name[7:]: f for name, f in _functions.items() if name.startswith("linalg.")})
    vars(cupy).update({name: f for name, f in _functions.items() if "." not in name}, ndarray=ndarray, linalg=linalg,
                      asnumpy=asnumpy, RawModule=RawModule, __version__="stand-in", traffic=traffic, forbidden=forbidden,
                      cuda=types.SimpleNamespace(runtime=runtime, Device=Device, Stream=Stream, MemoryPool=MemoryPool,
                                                 using_allocator=using_allocator, Graph=Graph, Event=Event,
                                                 get_elapsed_time=get_elapsed_time, alloc_pinned_memory=alloc_pinned_memory,
                                                 get_current_stream=lambda: Stream._current))
    cupyx.scipy = types.ModuleType("cupyx.scipy")
    cupyx.scipy.special = types.ModuleType("cupyx.scipy.special")
    vars(cupyx.scipy.special).update({name: _special(name) for name in SPECIAL})
    return {"cupy": cupy, "cupyx": cupyx, "cupyx.scipy": cupyx.scipy, "cupyx.scipy.special": cupyx.scipy.special}


@contextlib.contextmanager
def installed(devices=1, error=None):
    """The stand-in as the module cupy, on a machine with so many devices; its cuBLAS as the one that is loaded."""
    from npgen.kernels import _cublas, _cuda

    modules, load = _modules(devices, error), _cublas.load
    _cublas.load = Cublas
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    traffic.update(reads=0, sent=0)
    _cuda._module.cache_clear()
    try:
        yield modules["cupy"]
    finally:
        _cuda._module.cache_clear()
        _cublas._opened.cache_clear()
        _cublas.load = load
        _Pointer.arrays.clear()
        _used.clear()
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
