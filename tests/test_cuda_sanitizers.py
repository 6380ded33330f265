"""The CUDA sources under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and mistakes planted in them.

A launch is recorded as it runs in the emulator and run again in a program built with a sanitizer, where every array has
memory of its own.
"""
import re

import cuda_emulator
import numpy as np
import pytest
import test_cuda
import test_cuda_networks as networks
import test_trajectory
from test_kernels import CASES

from npgen.kernels import (
    _cuda,
    adam,
    categorical,
    gather,
    likelihood,
    logsumexp,
    masked_matmul,
    mixture_likelihood,
    norm,
    random,
    trajectory,
)

pytestmark = [pytest.mark.long,
              pytest.mark.skipif(cuda_emulator.COMPILER is None, reason="no g++: the CUDA sources were NOT run")]
DTYPES = np.float32, np.float64


def launched(cupy, kernel, shape, dtype):
    return test_cuda.on_device(cupy, kernel, CASES[kernel][0](np.random.default_rng(0), *shape, dtype))


def rows_and_sums(cupy, monkeypatch, shapes, dtypes):
    for kernel in CASES:
        for shape in shapes:
            for dtype in dtypes:
                launched(cupy, kernel, shape, dtype)


def products(cupy, monkeypatch, sizes, dtypes):
    for dtype in dtypes:
        n, k, m = sizes[-1]
        for large in (False, True):
            for size in sizes:
                networks.test_masked_matmul(cupy, monkeypatch, *size, "staircase", dtype, large)
            networks.test_mlp(cupy, monkeypatch, n, (k, m, k), True, dtype, large)
        networks.test_mlp(cupy, monkeypatch, 3, (2, 130, 2), False, dtype, False)  # of blocks that share a depth
        networks.test_flow(cupy, monkeypatch, n, 3, (1, 2), (k,), dtype)
        networks.test_made_sample(cupy, n, 5, (k,), 2, True, 0, dtype)
        networks.test_em(cupy, monkeypatch, n, 3, 2, False, False, dtype)
        networks.test_em(cupy, monkeypatch, n, 3, 2, True, True, dtype)


def chains(cupy, monkeypatch, sizes, dtypes):
    n, k, m = sizes[-1]
    for dtype in dtypes:
        for code in 0, 1:
            networks.test_gibbs(cupy, n, k, m, 2, code, dtype)
            networks.test_gray(cupy, 3, m, code, dtype)
        networks.test_langevin(cupy, n, k, 1, (m, 3), True, False, True, dtype)
        for want in True, False:
            test_cuda.on_device(cupy, trajectory.solve, test_trajectory.launch(0, n, 3, (k, m), 2, 2, 3, 1, dtype, want=want))


@pytest.mark.parametrize("sanitizer, run, sizes, dtypes", [
    ("address", rows_and_sums, test_cuda.SHAPES, DTYPES),
    ("address", products, [(0, 3, 5), (5, 130, 70), (33, 17, 31)], DTYPES),
    ("thread", rows_and_sums, [(2, 70)], DTYPES[:1]), ("thread", products, [(33, 3, 5)], DTYPES[:1]),
    ("address", chains, [(33, 17, 31)], DTYPES), ("thread", chains, [(5, 3, 5)], DTYPES[:1])])
def test_no_sanitizer_reports_anything(cupy, monkeypatch, sanitizer, run, sizes, dtypes):
    with cuda_emulator.record() as recorded:
        run(cupy, monkeypatch, sizes, dtypes)
    assert cuda_emulator.replay(recorded, sanitizer) == ""


def test_every_entry_point_is_among_those_runs(cupy, monkeypatch):
    with cuda_emulator.record() as recorded:
        rows_and_sums(cupy, monkeypatch, [(2, 70)], DTYPES[:1])
        products(cupy, monkeypatch, [(33, 3, 5)], DTYPES[:1])
        chains(cupy, monkeypatch, [(5, 3, 5)], DTYPES[:1])
    run = {(code, name) for code, _, name, *_ in recorded}
    stems = [path.stem for path in _cuda.FOLDER.glob("*.cu")]
    assert not {(stem, name) for stem in stems for name in _cuda.signatures(stem) if (_cuda.source(stem), name) not in run}


# --- planted mistakes: the source, the edit, how it shows ------------------------------------------------------------

LONG = (3, 5000)  # a block to a row
PLANTED = {
    "missing barrier before others' sums are read": (
        logsumexp.forward, LONG, "parts[threadIdx.x / 32] = value;\n        __syncthreads();",
        "parts[threadIdx.x / 32] = value;", "result thread"),
    "missing barrier before the next row's sums": (
        logsumexp.forward, LONG, "__syncthreads();  // of an earlier call some may still be reading", "", "thread"),
    "a row that does not exist leaves before the shuffle": (
        logsumexp.forward, (3, 5), "Sum sum = {lowest(), 0};\n        if (exists)", "if (!exists) return;\n        Sum sum =",
        "result"),
    "one step of the shuffles too few": (
        likelihood.bernoulli_forward, (7, 64), "step > 0; step /= 2) value =", "step > 1; step /= 2) value =", "result"),
    "wrong stride": (logsumexp.forward, (7, 63), "i += (long long)lanes * V", "i += 32ll * V", "result"),
    "wrong stride of the stream": (random.normal, (7, 64), "(c / LANES * EACH + j)", "(c / LANES + j)", "result"),
    "wrong stride of rows": (logsumexp.backward, (7, 64), "out[row * d + i] =", "out[row * (d + 1) + i] =", "address"),
    "one row too many": (logsumexp.forward, (7, 64), "% lanes, row < n);", "% lanes, row <= n);", "address"),
    "one value too many": (
        likelihood.bernoulli_backward, (7, 64), "i < d; i += lanes) use", "i <= d; i += lanes) use", "address"),
    "a component beyond its mixture": (
        mixture_likelihood.backward, (7, 64), "c = 0; c < components;", "c = 0; c <= components;", "address"),
    "logits not shifted in a mixture": (mixture_likelihood.forward, (7, 64), "LARGEST) - top; }", "LARGEST); }", "result"),
    "a mixture's share of x not divided": (mixture_likelihood.backward, (7, 64), "- mixture.peak) / mixture.sum",
                                           "- mixture.peak)", "result"),
    "a level beyond its feature": (categorical.backward, (70, 64), "x < levels && ", "", "result"),
    "a missing level counted": (categorical.backward, (7, 64), "value != value ? 0 :", "", "result"),
    "no end of the stream": (random.uniform, (7, 64), "if (0 <= i && i < n) use", "if (0 <= i) use", "address"),
    "one pack too many": (adam.step, (7, 64), "i < packed;", "i <= packed;", "address"),
    "packs that are not aligned": (logsumexp.forward, (7, 65), "d % PACK == 0 && aligned", "aligned", "address"),
    "rows beyond the array": (gather.rows, (7, 64), "index[i / D] * D", "(index[i / D] + N) * D", "address"),
    "a sum across blocks that is not atomic": (
        norm.squared, (40, 1000), "sums[blockIdx.x] = total", "sums[0] += total", "thread"),
    "missing barrier between slices": (
        masked_matmul.forward, (5, 70), "        __syncthreads();\n        d = later;", "        d = later;", "result thread"),
    "a slice put where others still read": (
        masked_matmul.forward, (5, 70), "put(half ^ 1);", "put(half);", "result thread"),
    "no bound of the tile's rows": (masked_matmul.forward, (5, 70), "r < rows.last && c", "c", "address"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_found(cupy, monkeypatch, name):
    kernel, shape, old, new, shown = PLANTED[name]
    stem = kernel.name.split(".")[0]
    source = _cuda.source(stem)
    edited = source.replace(old, new)
    assert edited != source
    with cuda_emulator.record() as recorded:
        want = launched(cupy, kernel, shape, np.float32)
    if "result" in shown:
        monkeypatch.setattr(_cuda, "source", lambda stem: edited)
        _cuda._module.cache_clear()
        wrong = False
        for schedule in range(4):
            try:
                args = CASES[kernel][0](np.random.default_rng(0), *shape, np.float32)
                got = test_cuda.on_device(cupy, kernel, args, schedule)
                wrong |= any(a.tobytes() != b.tobytes() for a, b in zip(got, want, strict=True))
            except cuda_emulator.EmulatorError:
                wrong = True
        _cuda._module.cache_clear()
        assert wrong
    one_block = "earlier call" in old  # which then takes all rows
    planted = [(edited, options, entry, (1,) if one_block else grid, *rest)
               for code, options, entry, grid, *rest in recorded]
    for sanitizer, report in (("address", "AddressSanitizer|runtime error"), ("thread", "ThreadSanitizer: data race")):
        if sanitizer in shown:
            assert re.search(report, cuda_emulator.replay(planted, sanitizer))


# --- the emulator itself ---------------------------------------------------------------------------------------------

SMALL = {  # a kernel of one array x (64,) of zeros, on two blocks of 32 threads: what is wrong with it
    "atomicAdd(x, 1);": "",
    "x[0] += 1;": "data race",
    "x[blockIdx.x] = 1;": "data race",
    "if (threadIdx.x == 0) x[blockIdx.x] = 1;": "",
    "__shared__ int s[32]; s[threadIdx.x] = 1; __syncwarp(); x[32 * blockIdx.x + threadIdx.x] = s[31 - threadIdx.x];": "",
    "__shared__ int s[32]; s[threadIdx.x] = __shfl_sync(-1, 1, 0); atomicAdd(x, s[31 - threadIdx.x]);": "data race",
    "if (threadIdx.x < 16) __syncthreads();": "waits at __syncthreads",
    "if (threadIdx.x < 16) __shfl_xor_sync(0xffffffff, 1, 1);": "waits at __shfl_xor_sync",
    "if (threadIdx.x < 16) __ballot_sync(0xffff, 1);": "",
    "if (threadIdx.x < 16) __shfl_sync(0xffff, 1, 20);": "reads a lane that its mask leaves out",
    "__shfl_sync(0xfffffffe, 1, 1);": "a mask that leaves it out",
}


@pytest.mark.parametrize("body", SMALL)
def test_the_emulator_tells_right_from_wrong(body):
    code = f'extern "C" __global__ void probe(int* x) {{ {body} }}'
    x = np.zeros(64, np.int32)
    with cuda_emulator.record() as recorded:
        launch = cuda_emulator.RawModule(code=code).get_function("probe")
        if SMALL[body] in ("", "data race"):
            launch((2,), (32,), (x,))
        else:
            with pytest.raises(cuda_emulator.EmulatorError, match=SMALL[body]):
                launch((2,), (32,), (x,))
            return
    report = cuda_emulator.replay(recorded, "thread")
    assert SMALL[body] in report and bool(SMALL[body]) == bool(report)


def test_shared_memory_is_not_what_the_block_before_left():
    code = 'extern "C" __global__ void probe(float* x) { __shared__ float s; x[blockIdx.x] = s; s = 1; }'
    x = np.zeros(3, np.float32)
    cuda_emulator.RawModule(code=code).get_function("probe")((3,), (1,), (x,))
    assert np.isnan(x).all()
