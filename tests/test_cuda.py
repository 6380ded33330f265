"""Every kernel's CUDA source, run on the CPU through the emulator, agrees with its reference; the random stream bit for bit.

With --gpu the same cases run on the device, in whose place there is a stand-in otherwise.
"""
from unittest import mock

import cuda_emulator
import numpy as np
import pytest
from test_kernels import CASES, DTYPES, ELEMENTWISE, KEY, applied, results

from npgen import kernels
from npgen.kernels import _cuda, logsumexp, norm, random

ON_DEVICE = pytest.mark.parametrize("kernel", [k for k in CASES if k.cuda], ids=lambda kernel: kernel.name)
SHAPES = [(0, 0), (0, 5), (3, 0), (1, 1), (2, 31), (7, 64), (33, 65), (5, 1000), (150, 3), (300, 17)]


def on_device(cupy, kernel, args, schedule=0, multiprocessors=3):
    """What a launch on copies of the arguments returns, as host arrays."""
    args = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    with cuda_emulator.scheduled(schedule), mock.patch.object(_cuda, "multiprocessors", lambda: multiprocessors):
        answers = kernel(*args)
    answers = args[:4] if kernel.name == "adam.step" else answers if isinstance(answers, tuple) else [answers]
    return [cupy.asnumpy(a) for a in answers]


@pytest.mark.long(but={"dtype": [np.float32], "shape": [(0, 5), (33, 65), (300, 17)]})
@ON_DEVICE
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(cupy, kernel, dtype, shape):
    inputs, bound = CASES[kernel]
    args = inputs(np.random.default_rng(sum(shape)), *shape, dtype)
    want = results(kernel, "reference", args)
    got = on_device(cupy, kernel, args)
    flushed = np.finfo(dtype).tiny * (1e6 if dtype is np.float32 else 1)  # what counts as zero, times a weight and a cotangent
    with np.errstate(all="ignore"):
        for one, expected, allowed in zip(got, want, bound(np.finfo(dtype).eps, want, *args), strict=True):
            assert one.dtype == expected.dtype == (np.float64 if kernel is norm.squared else dtype)
            assert one.shape == expected.shape
            close = np.abs(one.astype(float) - expected) <= allowed + flushed
            assert (close | (one == expected) | (np.isnan(one) & np.isnan(expected))).all()
    for schedule, multiprocessors in (1, 1), (2, 132):  # no bit depends on the order of threads or the size of the grid
        again = on_device(cupy, kernel, args, schedule, multiprocessors)
        assert [a.tobytes() for a in again] == [a.tobytes() for a in got]


def hostile(dtype):
    """Numbers of every kind: any bits at all, everyday sizes, and the edges of the ranges."""
    rng, bits = np.random.default_rng(0), np.dtype(dtype).itemsize * 8
    edges = [0, 1, np.inf, np.nan, np.finfo(dtype).tiny, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, 0.625, 104,
             89, 746, 710, 80, 0.5**0.5, 2**0.5 - 1, np.finfo(dtype).eps, 1 - np.finfo(dtype).epsneg, 1e30]
    edges = np.array(edges + [-e for e in edges], dtype)
    with np.errstate(all="ignore"):
        near = [np.nextafter(edges, dtype(to)) for to in (-np.inf, np.inf)]
    any_bits = rng.integers(0, 2**bits, 50000, f"u{bits // 8}").view(dtype)
    everyday = np.concatenate([rng.normal(size=20000), np.linspace(-1200, 1200, 20000)]).astype(dtype)
    return np.concatenate([edges, *near, any_bits, everyday])


def without_subnormals(x):
    """x with zeros for subnormal numbers, if they are float32: as CuPy compiles, a GPU takes them for zero."""
    subnormal = (np.abs(x) < np.finfo(x.dtype).tiny) & (x.dtype == np.float32)
    return np.where(subnormal, np.copysign(x.dtype.type(0), x), x)


@pytest.mark.skipif(cuda_emulator.COMPILER is None, reason="no g++: the CUDA sources were NOT run")
@pytest.mark.long(but={"dtype": [np.float32]})
@DTYPES
@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if not name.endswith("fused")])
def test_elementwise_functions_have_the_same_bits_on_every_device(name, dtype):
    turns = {"cos": "math::turn(x[i], y[i], unused)", "sin": "math::turn(x[i], unused, y[i])"}
    call = turns.get(name, f"y[i] = math::{name}(x[i])")
    source = (_cuda.FOLDER / "_math.cuh").read_text() + f"""
        extern "C" __global__ void probe(const REAL* x, REAL* y, long long n) {{
            long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
            REAL unused;
            if (i < n) {call};
        }}"""
    x = hostile(dtype)
    limit = {"exp_small": 80, "cos": 1000, "sin": 1000}.get(name)
    x = x[np.abs(x) < limit] if limit else x
    got = np.empty_like(x)
    module = cuda_emulator.RawModule(code=source, options=(f"-DREAL={'float' if dtype is np.float32 else 'double'}",))
    module.get_function("probe")((-(-x.size // 256),), (256,), (x, got, np.int64(x.size)))
    want = without_subnormals(applied(ELEMENTWISE[name][0], without_subnormals(x)))
    got, integers = without_subnormals(got), f"u{x.itemsize}"
    differ = (got.view(integers) != want.view(integers)) & ~(np.isnan(got) & np.isnan(want))
    assert not differ.any(), list(zip(x[differ], got[differ], want[differ], strict=True))[:5]


@DTYPES
@pytest.mark.parametrize("draw", [random.uniform, random.normal], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("n, start", [(1, 0), (1000, 0), (5, 2**32 * 64 - 2), (3000, 2**40 + 77), (100000, 3)])
def test_the_stream_has_the_same_bits_on_every_device(cupy, draw, dtype, n, start):
    host = draw(np.empty(n, dtype), *KEY, start)
    device = on_device(cupy, draw, (np.empty(n, dtype), *KEY, start))[0]
    assert host.tobytes() == device.tobytes()


# --- launches --------------------------------------------------------------------------------------------------------

def test_every_kernel_has_a_cuda_side():
    modules = [m for m in map(vars(kernels).get, kernels.__all__) if dir(m)]  # which executes them
    records = [k for module in modules for k in vars(module).values() if isinstance(k, kernels.Kernel)]
    assert records and not [k for k in records if k.cuda is None]


def test_a_kernel_without_a_cuda_side_says_so(cupy):
    kernel = kernels.Kernel("new.forward", "x(N)", reference=np.copy)
    with pytest.raises(kernels.KernelError, match="kernel new.forward has no CUDA side; pass arrays of the host"):
        kernel(cupy.zeros(3))


BAD_LAUNCHES = {  # an argument of reparameterize.cu's forward(mean, log_var, z, n, key0, key1, start, since), and why
    "on the host": (0, lambda cupy: np.zeros(8, np.float32), "mean must be an array on the device, got ndarray"),
    "no array": (1, lambda cupy: 1.0, "log_var must be an array on the device, got float"),
    "other dtype": (2, lambda cupy: cupy.zeros(8, np.float64), "z has dtype float64, expected float32"),
    "strides": (2, lambda cupy: cupy.zeros((8, 2), np.float32)[:, 0], "z must be C-contiguous"),
    "REAL": (0, lambda cupy: cupy.zeros(8, np.int64), "REAL is float32 or float64, got int64"),
    "array for a number": (3, lambda cupy: cupy.zeros(1, np.int64), r"n must be a number, got an array of shape \(1,\)"),
    "too large": (4, lambda cupy: 2**32, "key0 is 4294967296, which is no uint32"),
    "negative": (5, lambda cupy: -1, "key1 is -1, which is no uint32"),
    "no integer": (3, lambda cupy: 7.5, "n is 7.5, which is no"),
}


@pytest.mark.parametrize("case", BAD_LAUNCHES)
def test_a_wrong_launch_is_refused(cupy, case):
    position, make, message = BAD_LAUNCHES[case]
    args = [*(cupy.zeros(8, np.float32) for _ in range(3)), 8, 1, 2, 0, cupy.zeros(1, np.int64)]
    args[position] = make(cupy)
    with pytest.raises(kernels.KernelError, match=f"reparameterize.cu forward: {message}"):
        _cuda.launch("reparameterize", "forward", 1, 32, *args)


def test_a_launch_with_too_few_arguments_is_refused(cupy):
    with pytest.raises(kernels.KernelError, match="random.cu normal: takes 9 arguments, got 1"):
        _cuda.launch("random", "normal", 1, 32, cupy.zeros(8))


def test_arrays_of_host_and_device_do_not_mix(cupy):
    x = np.zeros((3, 2))
    with pytest.raises(kernels.KernelError, match="weights is on the host and others are on the device; move it there"):
        logsumexp.forward(cupy.asarray(x), x)


def test_a_grid_without_blocks_launches_nothing(cupy):
    with cuda_emulator.record() as recorded:
        assert logsumexp.forward(cupy.zeros((0, 5)), cupy.zeros((1, 5))).shape == (0,)
    assert recorded == []
