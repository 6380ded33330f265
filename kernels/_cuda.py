"""CUDA for the kernels, the only importer of CuPy: sources compiled once per floating type, launches that are checked.

A source is kernels/<stem>.cu with the .cuh files that it includes put in their place: one text, so that neither CuPy's cache,
which does not look into included files, nor a record of what was verified can miss an edit. Its entry points are declared

    extern "C" __global__ void name(const REAL* x, REAL* y, long long n)

with pointers to REAL, float, double, int, long long, unsigned or bool, and numbers of those types. CuPy itself checks no
argument of a launch: a Python float would go as a double into a float's place, and a view would lose its strides.
"""
import functools
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
_DTYPES = {"float": np.float32, "double": np.float64, "int": np.int32, "unsigned": np.uint32, "bool": np.bool_,
           "long long": np.int64, "unsigned long long": np.uint64}


class KernelError(TypeError):
    """A kernel was launched with an array of the wrong shape, dtype or memory layout."""


class DeviceError(RuntimeError):
    """CuPy, a driver or a device is missing."""


def is_device_array(x):
    """Whether x is a CuPy array; imports nothing."""
    return "cupy" in sys.modules and type(x).__module__.partition(".")[0] == "cupy"


def require():
    """The module cupy. Raises DeviceError, which says what to do, where it is missing or finds no device."""
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        raise DeviceError("cuda: CuPy is not installed; pip install 'cupy-cuda13x[ctk]>=14', or cuda12x for an older driver")
    try:
        import cupy
    except Exception as error:  # a broken installation raises what it likes
        raise DeviceError(f"cuda: CuPy cannot be imported ({type(error).__name__}: {error}); install it anew") from error
    try:
        found = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"cuda: CuPy finds no usable driver ({error}); look at what nvidia-smi says") from error
    if not found:
        raise DeviceError("cuda: CuPy finds no device; look at what nvidia-smi and CUDA_VISIBLE_DEVICES say")
    return cupy


def devices():
    """The names of the devices."""
    runtime = require().cuda.runtime
    return [runtime.getDeviceProperties(i)["name"].decode() for i in range(runtime.getDeviceCount())]


def multiprocessors():
    """How many multiprocessors the current device has."""
    return _multiprocessors(require().cuda.runtime.getDevice())


@functools.cache
def _multiprocessors(device):  # the current one; CuPy would ask for every attribute at every launch
    return require().cuda.Device().attributes["MultiProcessorCount"]


def special():
    """The module that has scipy.special's functions for device arrays."""
    require()
    import cupyx.scipy.special
    return cupyx.scipy.special


def empty(shape, dtype):
    """np.empty on the device."""
    return require().empty(shape, dtype)


def zeros(shape, dtype):
    """np.zeros on the device."""
    return require().zeros(shape, dtype)


def asarray(x):
    """x on the device, C-contiguous; itself if it is there already."""
    return require().asarray(x, order="C")


def asnumpy(x):
    """x on the host."""
    return require().asnumpy(x) if is_device_array(x) else np.asarray(x)


def content(x):
    """The bytes of an array, by which what is computed from a plan can be kept; free of any wait where it is on the host."""
    return asnumpy(x).tobytes()


def constant(x):
    """A host array on the current device, where it is kept: for plans, which are small and the same at every step."""
    cupy = require()
    return _constant(id(cupy), cupy.cuda.runtime.getDevice(), content(x), x.dtype.str, x.shape)


def constant_like(x, like):
    """A host array as a constant where `like` is."""
    return constant(x) if is_device_array(like) else x


def zero():
    """An int64 0, (1,), on the current device, where it is kept; nothing is sent for it."""
    cupy = require()
    return _zero(id(cupy), cupy.cuda.runtime.getDevice())


@functools.cache
def _zero(_, device):
    return zeros((1,), np.int64)


def forget_constants():
    """Constants that are asked for from now on are sent anew."""
    _constant.cache_clear()


@functools.lru_cache(maxsize=256)
def _constant(_, device, content, dtype, shape):
    return asarray(np.frombuffer(content, dtype).reshape(shape))


def grid(n, threads):
    """How many blocks share n items, `threads` at a time, in a loop: enough to fill the device, and none for no items."""
    return min(-(-n // threads), 16 * multiprocessors())


def teams(n, d):
    """(blocks, 256, lanes): a grid for n rows of d values, `lanes` threads to a row, see _reduce.cuh."""
    lanes = 256 if d > 4096 else min(32, 1 << max(0, (d - 1) // 4).bit_length())
    return grid(n, 256 // lanes), 256, lanes


@functools.cache
def source(stem):
    """The text of kernels/<stem>.cu, its includes in their place, every one once."""
    seen = set()

    def read(file):
        def include(match):
            name = match[1]
            if name in seen:
                return ""
            seen.add(name)
            line = match.string[:match.start()].count("\n") + 2
            return f'#line 1 "{name}"\n{read(name)}#line {line} "{file}"'
        return re.sub(r'^#include "(\w+\.cuh)"$', include, (FOLDER / file).read_text(encoding="utf-8"), flags=re.MULTILINE)

    return f'#line 1 "{stem}.cu"\n{read(stem + ".cu")}'


@functools.cache
def signatures(stem):
    """{name: [(C type, is a pointer, name of the parameter)]} of the entry points of a source."""
    found = {}
    for name, declared in re.findall(r'extern "C" __global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\(([^)]*)\)',
                                     source(stem)):
        found[name] = []
        for parameter in declared.split(","):
            ctype, star, argument = re.fullmatch(
                r"\s*(?:const )?([\w ]+?)(\*)?\s*(?:const )?(?:__restrict__ )?(\w+)\s*", parameter).groups()
            found[name].append((ctype.strip(), star is not None, argument))
    return found


@functools.cache
def _module(stem, real, device):
    return require().RawModule(code=source(stem), options=("-std=c++17", f"-DREAL={real}"))


def launch(stem, name, blocks, threads, *args):
    """Run an entry point of kernels/<stem>.cu on the current stream, on a grid of `blocks` of `threads` each.

    blocks, threads   an int, or a tuple of up to three; a grid without blocks runs nothing
    args              as the C signature has them: C-contiguous arrays of the current device, and numbers
    REAL is the type of the first array that is declared with it. Raises KernelError for an argument that does not fit.
    """
    cupy, declared, whole = require(), signatures(stem)[name], f"{stem}.cu {name}"
    blocks, threads = (tuple(n) if isinstance(n, tuple) else (n,) for n in (blocks, threads))
    if len(args) != len(declared):
        raise KernelError(f"{whole}: takes {len(declared)} arguments, got {len(args)}")
    real = next((a.dtype for a, (ctype, pointer, _) in zip(args, declared, strict=True)
                 if pointer and ctype == "REAL" and is_device_array(a)), np.dtype(np.float64))
    if real.char not in "fd":
        raise KernelError(f"{whole}: REAL is float32 or float64, got {real}")
    device, checked = cupy.cuda.runtime.getDevice(), []
    for value, (ctype, pointer, argument) in zip(args, declared, strict=True):
        dtype = real if ctype == "REAL" else np.dtype(_DTYPES[ctype])
        checked.append(_array(whole, argument, value, dtype, device) if pointer else _number(whole, argument, value, dtype))
    if 0 not in blocks:
        kernel = _module(stem, "float" if real == np.float32 else "double", device).get_function(name)
        kernel(blocks, threads, tuple(checked))


def _array(kernel, name, value, dtype, device):
    if not is_device_array(value):
        raise KernelError(f"{kernel}: {name} must be an array on the device, got {type(value).__name__}; move it there")
    if value.dtype != dtype:
        raise KernelError(f"{kernel}: {name} has dtype {value.dtype}, expected {dtype}")
    if not value.flags.c_contiguous:
        raise KernelError(f"{kernel}: {name} must be C-contiguous; pass cupy.ascontiguousarray({name})")
    if value.device.id != device:
        raise KernelError(f"{kernel}: {name} is on device {value.device.id}, but device {device} is the current one")
    return value


def _number(kernel, name, value, dtype):
    if getattr(value, "ndim", 0) or is_device_array(value):
        raise KernelError(f"{kernel}: {name} must be a number, got an array of shape {value.shape}")
    if hasattr(value, "since"):  # kernels.random.Place
        raise KernelError(f"{kernel}: {name} counts from a block that lies on the device; hand that over too")
    if dtype.kind != "f":
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not low <= value <= high or value != int(value):
            raise KernelError(f"{kernel}: {name} is {value}, which is no {dtype}")
    return dtype.type(value)
