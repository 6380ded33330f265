"""Large products by cuBLAS, on a stand-in that reads and writes memory as cuBLAS does; with --gpu by the library itself."""
import contextlib
import inspect

import mutants
import numpy as np
import pytest
import test_cuda_networks as networks
from test_cuda_networks import agree
from test_em_kernels import bounds, launch

from npgen import graph, ops
from npgen.kernels import _cublas, em, masked_matmul, precision
from npgen.masks import BLOCK_COLUMNS, Plan, made_masks
from npgen.nn import Parameters
from npgen.players import Player
from npgen.random import Stream
from npgen.train import Batch, Training, fit

RNG = np.random.default_rng(0)
ALIGNED = np.repeat(np.arange(4), BLOCK_COLUMNS)[None] > np.repeat(np.arange(3), 5)[:, None]  # no block has to look at it
MASKS = {"dense": np.ones((5, 37), bool), "staircase": made_masks(40, (300,))[0], "its output": made_masks(40, (300,))[1],
         "any": RNG.random((23, 70)) < 0.3, "empty": np.zeros((6, 20), bool), "aligned": ALIGNED,
         "one column": np.ones((4, 1), bool), "one row": np.ones((1, 5), bool), "no inputs": np.ones((0, 3), bool),
         "no outputs": np.ones((3, 0), bool)}
ROWS, FIRST = RNG.normal(size=(40, 23)), RNG.normal(size=(23, 70))
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture
def large(cupy, monkeypatch):
    """Every product is large, and a step may be narrow."""
    monkeypatch.setattr(_cublas, "LEAST", 0)
    monkeypatch.setattr(masked_matmul, "STEP_COLUMNS", 20)
    masked_matmul._steps.cache_clear()
    if _cublas._here()[0] is None:
        pytest.skip("cuBLAS cannot be loaded: large products were NOT made by it")
    yield cupy
    masked_matmul._steps.cache_clear()


@DTYPES
@pytest.mark.parametrize("n", [0, 1, 33])
@pytest.mark.parametrize("name", MASKS)
def test_products_agree_with_the_reference(large, name, n, dtype):
    plan = Plan(MASKS[name])
    k, m = plan.shape
    x, weight, bias, g = (RNG.normal(size=shape).astype(dtype) for shape in ((n, k), (k, m), (m,), (n, m)))
    mask, cupy, close = plan.mask_as(np.dtype(dtype)), large, 2e-5 if dtype == np.float32 else 1e-12
    for kernel, args in ((masked_matmul.forward, (x, weight, bias, mask)), (masked_matmul.backward_x, (g, weight, mask)),
                         (masked_matmul.backward_weight, (x, g, mask))):
        got = cupy.asnumpy(kernel(*map(cupy.asarray, args), plan.blocks))
        want = kernel.reference(*args, plan.blocks)
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=close, atol=close)


@DTYPES
@pytest.mark.parametrize("n, widths, made", [(0, (3, 5, 2), False), (33, (7, 5, 65, 33), False), (9, (37, 66, 130, 37), True)])
def test_layers_are_made_by_it(large, monkeypatch, n, widths, made, dtype):
    """Forward, cotangents and gradients of weights, of which those outside a mask are zero."""
    calls, add = [], _cublas.add
    monkeypatch.setattr(_cublas, "add", lambda *args: calls.append(1) or add(*args))
    networks.test_mlp(large, monkeypatch, n, widths, made, dtype, False)
    assert len(calls) >= 6 * (len(widths) - 1)
    calls.clear()
    monkeypatch.setattr(_cublas, "LEAST", n * widths[0] * widths[1] + 1)  # the first layer is small, and launched by us
    networks.test_mlp(large, monkeypatch, n, widths, made, dtype, False)
    assert bool(calls) == (n > 0)


@pytest.mark.parametrize("name, low, high", [("float32", 0, 3e-7), ("tf32", 3e-5, 1e-3), ("bf16", 5e-4, 8e-3)])
def test_less_precise_products_are_made_where_they_are_asked_for(large, name, low, high):
    """Of 64 products each, whose factors are off by 2^-24, 2^-11 or 2^-8 of their size at most: the error of a sum of normals,
    relative to the root of 64, is near a third of that, and in float64 that of float64, always."""
    x, weight = (RNG.normal(size=(64, 64)) for _ in range(2))
    plan, cupy = Plan(np.ones((64, 64), bool)), large

    def off(dtype):
        args = (cupy.asarray(a.astype(dtype)) for a in (x, weight, np.zeros(64)))
        got = cupy.asnumpy(masked_matmul.forward(*args, cupy.asarray(plan.mask_as(np.dtype(dtype))), plan.blocks))
        return np.sqrt(np.mean(np.square(got - x @ weight))) / 8

    with precision(name):
        assert low <= off(np.float32) <= high and off(np.float64) < 1e-15
    assert off(np.float32) < 3e-7


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision: must be one of float32, tf32, bf16, got 'half'"), precision("half"):
        pass


@DTYPES
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n, d, k", [(0, 3, 2), (1, 2, 1), (41, 7, 3)])
def test_em_whitens_by_it(large, monkeypatch, n, d, k, shared, dtype):
    x, weights, *parameters = launch(n, n, d, k, shared, False, dtype)
    of_row, of_sum = bounds(x, weights, *parameters)
    monkeypatch.setattr(em, "SLAB", 25 * (d + k + d * len(parameters[-1])))
    made, product = [], _cublas.product
    monkeypatch.setattr(_cublas, "product", lambda *args: made.append(1) or product(*args))
    agree(large, em.log_prob, (x, *parameters), of_row)
    agree(large, em.statistics, (x, weights, *parameters), *[of_sum] * 4)
    assert len(made) == 2 * 3 * -(-n // 25)


def test_a_staircase_is_a_few_dense_products(large):
    plan = Plan(made_masks(800, (4000,))[0])
    steps = masked_matmul._steps(plan.blocks.tobytes(), 4000, True)
    assert len(steps) <= masked_matmul.STEPS + 1 and steps[0][0] == 0 and steps[-1][1] == 4000
    assert all(a[1] == b[0] for a, b in zip(steps, steps[1:], strict=False))
    assert 0.5 < sum((last - first) * end for first, last, end in steps) / plan.mask.size < 0.57
    assert masked_matmul._steps(Plan(MASKS["aligned"]).blocks.tobytes(), 4 * BLOCK_COLUMNS, False) == [
        (i * BLOCK_COLUMNS, (i + 1) * BLOCK_COLUMNS, 5 * i) for i in range(4)]


def test_small_products_are_not_made_by_it(cupy):
    assert not _cublas.takes(100, 784, 500) and not _cublas.takes(0, 10**9, 10**9)
    assert _cublas.takes(4096, 8192, 8192) or _cublas._here()[0] is None


def test_what_does_not_lie_without_gaps_is_refused(large):
    a = large.asarray(np.ones((4, 6)))
    for args in ((a[:, ::2], a[:3], a), (a, a.T, a[::2, ::2]), (a, a.T, a[:, :4].T)):
        with pytest.raises(ValueError, match="cuBLAS: "):
            _cublas.add(*args)


def test_a_status_is_said(standin, large, monkeypatch):
    library = _cublas._here()[0]
    monkeypatch.setattr(library, "cublasDgemm_v2", lambda *args: 13)
    a = standin.asarray(np.ones((4, 4)))
    with pytest.raises(_cublas.DeviceError, match="cuBLAS answers with status 13"):
        _cublas.add(a, a, a.copy())


def test_without_the_library_our_own_kernels_do_it(standin, monkeypatch):
    monkeypatch.setattr(_cublas, "load", lambda: None)
    monkeypatch.setattr(_cublas, "LEAST", 0)
    _cublas._opened.cache_clear()
    g, weight, plan = standin.asarray(np.ones((3, 37))), standin.asarray(np.ones((5, 37))), Plan(MASKS["dense"])
    assert (masked_matmul.backward_x(g, weight, plan.mask_as(g.dtype, g), plan.blocks).get() == 37).all()


def descend(cupy, monkeypatch, by_graphs, dtype=np.float64, callbacks=()):
    x, zero, plan = cupy.asarray(ROWS.astype(dtype)), cupy.zeros(70, dtype), Plan(made_masks(23, (70,))[0])
    params = Parameters({"w": cupy.asarray(FIRST.astype(dtype))})

    def loss(p, batch, stream):
        return np.sum(np.square(ops.masked_matmul(batch.x, p["w"], zero, plan) - 1), axis=1)

    with monkeypatch.context() as patch:
        if not by_graphs:
            patch.setattr(graph, "Captured", lambda *args: 1 / 0)
        state = fit((Player(loss=loss, repeats=True),), params, Batch(x), stream=Stream(0),
                    options=Training(max_epochs=2, batch_size=10, validation_fraction=0.0, callbacks=callbacks))
    return cupy.asnumpy(params.flat).tobytes(), state.history


def in_precisions(cupy, monkeypatch, by_graphs):
    """The parameters of fits in float32, in tf32, and in tf32 from the second epoch on; then in float32 they are as before."""
    def one(*callbacks):
        return descend(cupy, monkeypatch, by_graphs, np.float32, callbacks)[0]

    plain = one()
    with precision("tf32"):
        rounded = one()
    with contextlib.ExitStack() as blocks:
        later = one(lambda row: blocks.enter_context(precision("tf32")))
    assert one() == plain
    return plain, rounded, later


def test_a_captured_step_is_of_the_precision_that_is_asked_for_when_it_is_launched(large, monkeypatch):
    captured = in_precisions(large, monkeypatch, True)
    assert captured == in_precisions(large, monkeypatch, False)
    assert large.__version__ != "stand-in" or len(set(captured)) == 3  # cuBLAS need not round the factors of small products


def test_a_graph_of_another_precision_is_found_out(standin, large, monkeypatch):
    with mutants.Mutant("", "", "graph:Places.step", ", _cublas.asked()", "").made():
        captured = in_precisions(large, monkeypatch, True)
    assert captured != in_precisions(large, monkeypatch, False)


def test_a_captured_step_makes_its_products_by_it(large, monkeypatch):
    replays, replay = [], graph.Captured.__call__
    monkeypatch.setattr(graph.Captured, "__call__", lambda self, state: replays.append(1) or replay(self, state))
    captured = descend(large, monkeypatch, True)
    assert len(replays) == 7 and captured == descend(large, monkeypatch, False) and len(replays) == 7


MISTAKES = {
    "the workspace is not said again": ("    _check(library.cublasSetWorkspace_v2(", "    (lambda *a: 0)((0,"),
    "a and b change places": ("handle, of_b[0], of_a[0], m, n, k,", "handle, of_a[0], of_b[0], m, n, k,"),
    "the width for the leading dimension": ("max(across, a.shape[1])", "a.shape[1]"),
    "another stream": ("get_current_stream().ptr", "get_current_stream().ptr + 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(standin, large, monkeypatch, name):
    source, (right, wrong) = inspect.getsource(_cublas), MISTAKES[name]
    assert source.count(right) == 1
    mistaken = vars(_cublas).copy()
    exec(compile(source.replace(right, wrong), "_cublas.py", "exec"), mistaken)
    replays, replay = [], graph.Captured.__call__
    monkeypatch.setattr(graph.Captured, "__call__", lambda self, state: replays.append(1) or replay(self, state))
    want = descend(standin, monkeypatch, True)
    mistaken["load"], n = _cublas.load, len(replays)
    monkeypatch.setattr(_cublas, "add", mistaken["add"])
    try:
        assert descend(standin, monkeypatch, True) == want and len(replays) == 2 * n
    except (AssertionError, ValueError, _cublas.DeviceError):
        return
    pytest.fail("it was not found")
