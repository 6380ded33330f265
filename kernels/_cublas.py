"""Large dense products by cuBLAS, on the current stream, which may capture.

    add(a, b, out)      out += a b, of row-major a (N, K), b (K, M), out (N, M), or of their transposes: a.T, b.T
    product(a, b, out)  out = a b

CuPy refuses its own calls of cuBLAS while a stream captures, because cuBLAS might ask the device for memory then. It does
not where it has been given a workspace, which belongs to a handle, and which cublasSetStream takes away. So this is a
handle of our own; the library is the one that CuPy has loaded. Sums are in the arrays' own type, and so are products,
unless a block asks for less by precision(). A column-major C = A B is a row-major C^T = B^T A^T. masked_matmul.py, mlp.py
and em.py ask it, from LEAST multiply-adds on; where the library cannot be loaded, our own kernels do all.
Reference: NVIDIA, cuBLAS library, sections 2.1.2 (handles), 2.4.8 (cublasSetWorkspace), 2.7.1 (cublas<t>gemm), 2.8.12
(cublasGemmEx).
"""
import contextlib
import contextvars
import ctypes
import functools

import numpy as np

from . import _cuda
from ._cuda import DeviceError

LEAST = 2**28        # multiply-adds, below which a launch or two count
WORKSPACE = 2**25    # bytes, what NVIDIA asks for on Hopper
PLAIN, TURNED = 0, 1  # cublasOperation_t
FLOAT, DEFAULT = 0, -1  # cudaDataType: CUDA_R_32F; cublasGemmAlgo_t
COMPUTE = {"float32": None, "tf32": 77, "bf16": 75}  # cublasComputeType_t: CUBLAS_COMPUTE_32F_FAST_TF32, _16BF
_precision = contextvars.ContextVar("npgen_precision", default="float32")
_GEMM = {"f": ("cublasSgemm_v2", ctypes.c_float), "d": ("cublasDgemm_v2", ctypes.c_double)}


@contextlib.contextmanager
def precision(name):
    """Make large products of float32 on a GPU inside the block of factors rounded to "tf32" (11 bits) or "bf16" (8), sums in
    float32: quicker, and 1,000 or 10,000 times less precise. "float32" is what they are outside of it; float64 stays. Like the
    device it belongs to who computes, not to a model: no hyperparameter, and in no file.

    Raises ValueError for any other name.
    """
    if name not in COMPUTE:
        raise ValueError(f"precision: must be one of {', '.join(COMPUTE)}, got {name!r}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def asked():
    """The name of the precision that is asked for here."""
    return _precision.get()


def load():
    """The library, by ctypes; None where there is none."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # of a machine without it, each its own
        return None


def takes(n, k, m):
    """Whether a product of these sizes is one for cuBLAS."""
    return n * k * m >= LEAST and _here()[0] is not None


def _here():
    cupy = _cuda.require()
    return _opened(id(cupy), cupy.cuda.runtime.getDevice())


@functools.cache
def _opened(_, device):
    """(library, handle, workspace) on the current device."""
    library, handle = load(), ctypes.c_void_p()
    if library is None:
        return None, None, None
    _check(library.cublasCreate_v2(ctypes.byref(handle)))
    return library, handle, _cuda.empty((WORKSPACE,), np.uint8)


def _check(status):
    if status:
        raise DeviceError(f"cuda: cuBLAS answers with status {status}; look at what its cublasStatus_t says, and at nvidia-smi")


def product(a, b, out):
    """out = a b, in place; as add()."""
    if not a.shape[1]:
        out[...] = 0
    add(a, b, out, 0)


def add(a, b, out, onto=1):
    """out = a b + onto out, in place. Rows (or, turned, columns) of all three lie without gaps."""
    library, handle, workspace = _here()
    stream = ctypes.c_void_p(_cuda.require().cuda.get_current_stream().ptr)
    name, real = _GEMM[out.dtype.char]
    (n, k), m = a.shape, b.shape[1]
    if not (n and k and m):
        return
    one, beta = ctypes.byref(real(1)), ctypes.byref(real(onto))
    of_a, of_b, of_out = map(_lies, (a, b, out))
    if of_out[0] == TURNED:
        raise ValueError("cuBLAS: out must be row-major")
    _check(library.cublasSetStream_v2(handle, stream))
    _check(library.cublasSetWorkspace_v2(handle, _pointer(workspace), ctypes.c_size_t(WORKSPACE)))
    compute = COMPUTE[asked()] if out.dtype.char == "f" else None
    kind, how = ((), ()) if compute is None else ((FLOAT,), (compute, DEFAULT))
    call = getattr(library, name) if compute is None else library.cublasGemmEx
    _check(call(handle, of_b[0], of_a[0], m, n, k, one, _pointer(b), *kind, of_b[1], _pointer(a), *kind, of_a[1], beta,
                _pointer(out), *kind, of_out[1], *how))


def _pointer(a):
    return ctypes.c_void_p(a.data.ptr)


def _lies(a):
    """(whether it is turned, the leading dimension) of a (r, c) whose rows or columns lie without gaps."""
    across, along = (s // a.itemsize for s in a.strides)
    if along == 1 or a.shape[1] == 1 and across >= 1:
        return PLAIN, max(across, a.shape[1])
    if across == 1:
        return TURNED, max(along, a.shape[0])
    raise ValueError(f"cuBLAS: an array of shape {a.shape} has strides {a.strides}")
