"""The CUDA sides with products, through the emulator, against their references: any shape, any mask, any order of threads."""
from unittest import mock

import cuda_emulator
import numpy as np
import pytest
import test_energy
from test_em_kernels import bounds, launch
from test_made_kernels import EXTRAS, HEADS, MASKS, Made
from test_network_kernels import mlp_inputs, tolerance
from test_rbm import chain_inputs, contrast_inputs

from npgen import kernels, masks
from npgen.kernels import _cuda, em, flow, gibbs, gray, langevin, made_sample, masked_matmul, mlp, mlp_slope
from npgen.layout import FlowLayout, Layout
from npgen.masks import Plan, made_masks

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
SINGLE = {"dtype": [np.float32]}  # what is left with --quick


def on_device(cupy, kernel, args, schedule=0, multiprocessors=3):
    """What a launch on copies of the arguments returns, as host arrays; plans stay on the host."""
    args = [cupy.asarray(a) if isinstance(a, np.ndarray) and a.dtype != np.int64 else a for a in args]
    with cuda_emulator.scheduled(schedule), mock.patch.object(_cuda, "multiprocessors", lambda: multiprocessors):
        return [cupy.asnumpy(a) for a in tupled(kernel(*args))]


def tupled(answers):
    return answers if isinstance(answers, tuple) else (answers,)


def agree(cupy, kernel, args, *allowed):
    """Run a kernel in three orders of its blocks and threads: the same bits, as close to the reference as allowed.

    None: an answer for the kernel's own backward alone.
    """
    with kernels.using("reference"):
        want = tupled(kernel(*args))
    got = on_device(cupy, kernel, args)
    for one, expected, atol in zip(got, want, allowed, strict=True):
        assert one.dtype == expected.dtype and one.shape == expected.shape
        assert atol is None or np.all(np.abs(one.astype(float) - expected) <= atol), kernel.name
    for schedule, multiprocessors in (1, 1), (2, 132):
        again = on_device(cupy, kernel, args, schedule, multiprocessors)
        assert [a.tobytes() for a in again] == [a.tobytes() for a in got]
    return got


# --- masked_matmul ---------------------------------------------------------------------------------------------------

SIZES = [(0, 3, 5), (3, 0, 5), (3, 5, 0), (1, 1, 1), (33, 65, 31), (5, 130, 70), (70, 7, 129)]


@pytest.mark.long(but=SINGLE)
@pytest.mark.parametrize("large", [False, True])
@DTYPES
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("n, k, m", SIZES)
def test_masked_matmul(cupy, monkeypatch, n, k, m, kind, dtype, large):
    monkeypatch.setattr(masked_matmul, "FULL", 0 if large else 10**9)
    monkeypatch.setattr(masked_matmul, "PART_ROWS", 16)
    monkeypatch.setattr(masks, "BLOCK_COLUMNS", 5)  # narrower than a tile, and in line with nothing
    r, eps = np.random.default_rng(n), np.finfo(dtype).eps

    def values(*shape):
        return (r.normal(size=shape) * 10 ** r.uniform(-3, 3, shape)).astype(dtype)

    def allowed(a, b, depth):  # the classical bound of a sum of products, in any order
        return (depth + 4) * eps * (np.abs(a).astype(float) @ np.abs(b)) + np.finfo(dtype).tiny

    x, w, b, g, plan = values(n, k), values(k, m), values(m), values(n, m), Plan(MASKS[kind](r, k, m))
    mask, masked = plan.mask_as(dtype), plan.mask * w
    agree(cupy, masked_matmul.forward, (x, w, b, mask, plan.blocks), allowed(x, masked, k) + (k + 4) * eps * abs(b))
    agree(cupy, masked_matmul.backward_x, (g, w, mask, plan.blocks), allowed(g, masked.T, m))
    dw, = agree(cupy, masked_matmul.backward_weight, (x, g, mask, plan.blocks), allowed(x.T, g, n))
    assert not dw[~plan.mask].any()


def test_no_slice_outside_the_staircase_is_looked_at(cupy):
    k, m = np.arange(128), np.arange(96)
    plan = Plan(k[:, None] < 32 * (m // 64))  # columns 0..63 have no row, the others 32
    x, w, g = np.ones((3, 128), np.float32), np.ones((128, 96), np.float32), np.ones((3, 96), np.float32)
    mask = plan.mask_as(x.dtype)
    x[:, 32:], w[32:], w[:, :64], g[:, :64] = np.nan, np.nan, np.nan, np.nan
    y, = on_device(cupy, masked_matmul.forward, (x, w, np.zeros(96, np.float32), mask, plan.blocks))
    np.testing.assert_array_equal(y, np.broadcast_to(np.where(m < 64, 0, 32), y.shape))
    dx, = on_device(cupy, masked_matmul.backward_x, (g, w, mask, plan.blocks))
    np.testing.assert_array_equal(dx, np.broadcast_to(np.where(k < 32, 32, 0), dx.shape))
    dw, = on_device(cupy, masked_matmul.backward_weight, (x, g, mask, plan.blocks))
    np.testing.assert_array_equal(dw, np.where(plan.mask, 3, 0))


# --- split K ---------------------------------------------------------------------------------------------------------

def by_layers(cupy, made, dtype):
    """The bits of products of 33 rows, some of a depth of 300, and the grids of their launches."""
    rng, seen, launch, widths, n = np.random.default_rng(0), [], _cuda.launch, (300, 150, 20, 300), 33
    x, params, layout = mlp_inputs(rng, dtype, n, widths, made_masks(300, (150, 20)) if made else None)
    rest, plan = (*layout.cut, layout.mask_as(np.dtype(dtype))), layout.plans[0]
    g, dy, v, c = (rng.normal(size=size).astype(dtype) for size in ((n, widths[-1]), (n, 150), (n, 300), n))
    weight, mask = rng.normal(size=plan.shape).astype(dtype), plan.mask_as(np.dtype(dtype))

    def noted(stem, name, blocks, *args):
        seen.append((name, blocks))
        launch(stem, name, blocks, *args)

    with (mock.patch.object(mlp, "launch", noted), mock.patch.object(mlp_slope, "launch", noted),
          mock.patch.object(masked_matmul, "launch", noted)):
        y, h = on_device(cupy, mlp.forward, (x, params, *rest))
        dx, delta = on_device(cupy, mlp_slope.forward, (g, h, params, *rest))
        answers = [y, h, dx, delta, *on_device(cupy, mlp_slope.backward, (v, c, x, g, h, delta, params, *rest, True)),
                   *on_device(cupy, masked_matmul.forward, (x, weight, dy[0], mask, plan.blocks)),
                   *on_device(cupy, masked_matmul.backward_x, (dy, weight, mask, plan.blocks))]
    return [a.tobytes() for a in answers], seen


@pytest.mark.parametrize("made", [False, True])
@DTYPES
def test_blocks_that_share_a_depth_make_the_bits_of_one(cupy, monkeypatch, made, dtype):
    shared, grids = by_layers(cupy, made, dtype)
    assert {blocks[1] for name, blocks in grids if name in ("forward", "tangent", "backward", "backward_x")} == {1, 2, 3}
    assert {"forward_of", "backward_of", "add"} <= {name for name, _ in grids}
    monkeypatch.setattr(masked_matmul, "SPARSE", 0)
    alone, grids = by_layers(cupy, made, dtype)
    assert not {"forward_of", "backward_of"} & {name for name, _ in grids} and alone == shared
    monkeypatch.setattr(masked_matmul, "FULL", 0)
    assert by_layers(cupy, made, dtype)[0] == shared  # large tiles


def test_a_depth_is_shared_where_tiles_are_few_and_it_is_deep():
    assert [masked_matmul.split(*case) for case in ((64, False, 784), (64, False, 128), (64, True, 784), (256, False, 784),
                                                    (255, False, 1024), (255, False, 1025), (0, False, 784))] == [
        7, 1, 1, 1, 8, 1, 7]


MISTAKEN = {
    "a part ends before the next begins": ("(blockIdx.y + 1) * PART, depth", "(blockIdx.y + 1) * PART - 1, depth"),
    "a part is counted twice": ("                    part[i][j] = 0;\n", ""),
    "sums of other lengths": ("/ PART > (d - depths.first) / PART", "/ 64 > (d - depths.first) / 64"),
    "every part has the bias": ("gridDim.y > 1 ? value : bounded(value + bias[m], relu)", "bounded(value + bias[m], false)"),
    "a cotangent goes through a unit at rest": ("out[i] = !relu || hidden[i] > (real)0 ? total : (real)0", "out[i] = total"),
    "all parts in one place": ("above[(blockIdx.y * N + n) * M + m] =", "above[n * M + m] ="),
}


@pytest.mark.long(but={"name": ["every part has the bias"]})
@pytest.mark.parametrize("name", MISTAKEN)
def test_a_mistake_in_sharing_is_found(standin, monkeypatch, name):
    (right, wrong), source = MISTAKEN[name], _cuda.source
    assert right in source("mlp")
    alone, _ = by_layers(standin, False, np.float32)
    monkeypatch.setattr(_cuda, "source", lambda stem: source(stem).replace(right, wrong))
    _cuda._module.cache_clear()
    shared, _ = by_layers(standin, False, np.float32)
    monkeypatch.setattr(masked_matmul, "SPARSE", 0)
    one, _ = by_layers(standin, False, np.float32)
    _cuda._module.cache_clear()
    assert not one == shared == alone


# --- mlp -------------------------------------------------------------------------------------------------------------

NETWORKS = [(0, (3, 5, 2), False), (3, (4, 0), False), (4, (0, 3), False), (1, (1, 1), False), (33, (7, 65, 1, 33), False),
            (5, (70, 3), False), (70, (37, 66, 130, 37), True), (2, (1, 3, 1), True)]


@pytest.mark.long(but=SINGLE)
@pytest.mark.parametrize("large", [False, True])
@DTYPES
@pytest.mark.parametrize("n, widths, made", NETWORKS)
def test_mlp(cupy, monkeypatch, n, widths, made, dtype, large):
    monkeypatch.setattr(masked_matmul, "FULL", 0 if large else 10**9)
    monkeypatch.setattr(masked_matmul, "PART_ROWS", 16)
    rng = np.random.default_rng(n)
    x, params, layout = mlp_inputs(rng, dtype, n, widths, made_masks(widths[0], widths[1:-1]) if made else None)
    rest = (*layout.cut, layout.mask_as(np.dtype(dtype)))

    def allowed(kernel, *args):  # what sums of the terms' sizes, which no ReLU touches, could lose
        sizes = kernel.reference(*[abs(a) if getattr(a, "dtype", None) == dtype else a for a in args])
        return [(sum(widths) + n + 8) * np.finfo(dtype).eps * size for size in sizes]

    args = x, params, *rest
    y, h = agree(cupy, mlp.forward, args, *allowed(mlp.forward, *args))
    g = rng.normal(size=y.shape).astype(dtype)
    for wanted in ((True, True), (False, True), (True, False)):
        args = g, x, h, params, *rest, *wanted
        dx, dparams = agree(cupy, mlp.backward, args, *allowed(mlp.backward, *args))
        for layer, plan in enumerate(layout.plans if wanted[1] else ()):
            assert not layout.weight_and_bias(dparams, layer)[0][~plan.mask].any()
    args = g, h, params, *rest
    _, delta = agree(cupy, mlp_slope.forward, args, *allowed(mlp_slope.forward, *args))
    for wanted in (True, False):
        args = rng.normal(size=x.shape).astype(dtype), rng.normal(size=n).astype(dtype), x, g, h, delta, params, *rest, wanted
        _, dparams = agree(cupy, mlp_slope.backward, args, *allowed(mlp_slope.backward, *args))
        for layer, plan in enumerate(layout.plans):
            assert not layout.weight_and_bias(dparams, layer)[0][~plan.mask].any()


# --- flow ------------------------------------------------------------------------------------------------------------

FLOWS = [(0, 2, (1,), (3,)), (1, 1, (1, 0), ()), (1, 1, (0,), (2,)), (35, 2, (1, 1, 2, 0), (7, 65)), (70, 37, (18, 30), (20,)),
         (17, 5, (2, 3, 1), (1, 1, 33)), (33, 90, (80,), ())]


@pytest.mark.long(but=SINGLE)
@DTYPES
@pytest.mark.parametrize("n, d, moved, hidden", FLOWS)
def test_flow(cupy, monkeypatch, n, d, moved, hidden, dtype):
    monkeypatch.setattr(masked_matmul, "PART_ROWS", 16)
    rng = np.random.default_rng(d)
    layout = FlowLayout([rng.permutation(d) for _ in moved], [Layout((d - m, *hidden, 2 * m)) for m in moved])
    params = (rng.normal(size=layout.size) / 4 / max(d, 1, *hidden) ** 0.5).astype(dtype)
    x, rest = rng.normal(size=(n, d)).astype(dtype), (params, *layout.cut, 3.0)
    with kernels.using("reference"):
        answers = flow.inverse(x, *rest, True)
    loose = tolerance(dtype, *answers) * max(d, *hidden, 1) * len(moved)
    got = agree(cupy, flow.inverse, (x, *rest, True), loose, loose, loose, None, None, None)
    again = on_device(cupy, flow.inverse, (x, *rest, False))
    assert [a.tobytes() for a in got[:3]] == [a.tobytes() for a in again[:3]] and not any(a.size for a in again[3:])
    agree(cupy, flow.forward, (x, *rest), loose * 10, loose * 10)
    dz, dlog_det = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=n).astype(dtype)
    with kernels.using("reference"):
        want = flow.backward(dz, dlog_det, *answers[3:], *rest, True)
    loose = tolerance(dtype, *answers, *want) * max(d, *hidden, 1) * len(moved)
    for schedule in 0, 1, 2:  # the two sides keep the same values in different places
        gradients = on_device(cupy, flow.backward, (dz, dlog_det, *got[3:], *rest, True), schedule)
        for one, expected in zip(gradients, want, strict=True):
            assert one.dtype == dtype and one.shape == expected.shape
            np.testing.assert_allclose(one, expected, rtol=0, atol=loose)
        dx, nothing = on_device(cupy, flow.backward, (dz, dlog_det, *got[3:], *rest, False), schedule)
        assert dx.tobytes() == gradients[0].tobytes() and nothing.shape == (0,)


# --- made_sample -----------------------------------------------------------------------------------------------------

MADES = [(0, 2, (3,)), (1, 1, (2,)), (1, 1, (1, 2)), (7, 2, (1,)), (30, 33, (40, 300)), (5, 40, (3, 70, 9))]


@pytest.mark.long(but=SINGLE)
@DTYPES
@HEADS
@EXTRAS
@pytest.mark.parametrize("n, d, hidden", MADES)
def test_made_sample(cupy, n, d, hidden, context, direct, heads, dtype):
    made = Made(d, hidden, heads, dtype, n, gain=0.5, context=context, direct=direct)
    noise = made.noise(n, n)
    x, = on_device(cupy, made_sample.sample, made.launch(noise))
    assert (x.shape, x.dtype) == ((n, d), dtype)
    made.assert_drawn_from(noise, x, 1e-3 if dtype == np.float32 else 1e-10)
    for schedule, multiprocessors in (1, 1), (2, 132):
        known = x[:, :schedule].copy()  # what is known of a sample changes none of its bits
        again, = on_device(cupy, made_sample.sample, made.launch(noise, known), schedule, multiprocessors)
        assert again.tobytes() == x.tobytes()


@DTYPES
def test_made_sample_where_outputs_are_extreme(cupy, dtype):
    made = Made(5, (8,), 1, dtype, 0)
    noise = made.noise(20, 0)
    made.params[-5:] = [1e4, -1e4, 800, -800, 0]
    made.params[5 * 8 + 8:-5] = 0
    x, = on_device(cupy, made_sample.sample, made.launch(noise))
    np.testing.assert_array_equal(x, np.column_stack([np.tile([1, 0, 1, 0], (20, 1)), noise[:, 4] < 0.5]))
    made, noise = Made(2, (3,), 2, dtype, 0), np.array([[1, 1], [-2, 3]], dtype)
    made.params[-4:] = [10, 1e6, 20, -1e6]
    made.params[2 * 3 + 3:-4] = 0
    x, = on_device(cupy, made_sample.sample, made.launch(noise))
    np.testing.assert_allclose(x, [10, 20] + np.exp(made.limits * [1, -1] / 2) * noise, rtol=1e-5)


# --- em --------------------------------------------------------------------------------------------------------------

MIXTURES = [(0, 3, 2), (1, 1, 1), (33, 1, 40), (70, 5, 3), (41, 37, 2), (130, 16, 4)]


@pytest.mark.long(but={"dtype": [np.float32], "n": [0, 70, 41]})
@DTYPES
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("n, d, k", MIXTURES)
def test_em(cupy, monkeypatch, n, d, k, diagonal, shared, dtype):
    x, weights, *parameters = launch(n, n, d, k, shared, diagonal, dtype)
    of_row, of_sum = bounds(x, weights, *parameters)
    monkeypatch.setattr(em, "PART_ROWS", 8)
    for slab in 2**26, 25 * (d + k + d * (1 if diagonal else len(parameters[-1]))):  # all rows at once, and 25
        monkeypatch.setattr(em, "SLAB", slab)
        agree(cupy, em.log_prob, (x, *parameters), of_row)
        agree(cupy, em.posterior, (x, *parameters), (of_row + np.finfo(dtype).eps)[:, None])
        agree(cupy, em.statistics, (x, weights, *parameters), *[of_sum] * 4)


@DTYPES
@pytest.mark.parametrize("far", [1e30, 1e300, -1.7e308])
@pytest.mark.parametrize("diagonal", [False, True])
def test_em_of_rows_far_out(cupy, far, diagonal, dtype):
    with np.errstate(over="ignore"):
        x = np.clip(np.full((5, 3), far), np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)
    _, _, *parameters = launch(2, 5, 3, 4, False, diagonal, np.float64)
    r, = on_device(cupy, em.posterior, (x, *parameters))
    np.testing.assert_allclose(r.sum(axis=1), 1, rtol=1e-6)
    log_prob, = on_device(cupy, em.log_prob, (x, *parameters))
    assert np.isfinite(log_prob).all() and (log_prob < -1e50).all()


def test_em_of_rows_between_equal_components(cupy):
    x, zero = np.array([[0.0], [5.0]]), np.zeros((4, 1))
    parameters = np.zeros(1), np.ones(1), np.zeros(4), zero, np.ones((4, 1, 1))
    np.testing.assert_array_equal(on_device(cupy, em.posterior, (x, *parameters))[0], np.full((2, 4), 0.25))


# --- planted mistakes ------------------------------------------------------------------------------------------------

def product(cupy, monkeypatch):
    test_masked_matmul(cupy, monkeypatch, 33, 65, 31, "staircase", np.float32, False)
    test_masked_matmul(cupy, monkeypatch, 33, 65, 31, "last entry", np.float32, False)


def network(cupy, monkeypatch):
    test_mlp(cupy, monkeypatch, 9, (37, 66, 130, 37), True, np.float64, False)


def steps(cupy, monkeypatch):
    test_flow(cupy, monkeypatch, 35, 2, (1, 1, 2, 0), (7, 65), np.float64)


def mixture(cupy, monkeypatch):
    test_em(cupy, monkeypatch, 41, 37, 2, False, False, np.float64)


def samples(cupy, monkeypatch):
    test_made_sample(cupy, 5, 40, (3, 70, 9), 2, True, 0, np.float64)


PLANTED = {
    "no barrier before the first slice": (product, "        put(0);\n        __syncthreads();", "        put(0);"),
    "a wrong stride between a thread's values": (product, "at += STEP * from.stride", "at += STEP"),
    "the last depth is left out": (product, "held[n] = j < last ?", "held[n] = j < last - 1 ?"),
    "the staircase ends too early": (product, "stairs.end(columns.first, Tile::COLUMNS))", "stairs.end(columns.first, 1))"),
    "a tile of the staircase is skipped": (product, "Tile::DEPTH) > columns.first;", "Tile::DEPTH) > columns.first + 1;"),
    "full is one too many": (product, "row < bounds[column]) return", "row <= bounds[column]) return"),
    "a part loses a row": (product, "(blockIdx.y + 1) * N / gridDim.y}", "(blockIdx.y + 1) * N / gridDim.y - 1}"),
    "a bias whose tile has no weights is lost": (network, " && rows.first + Tile::ROWS <= stairs.K", ""),
    "a ReLU at zero lets through": (network, "hidden[n * K + k] > (real)0", "hidden[n * K + k] >= (real)0"),
    "no barrier between layers": (steps, "        __syncthreads();\n        below = hidden;", "        below = hidden;"),
    "no barrier between steps": (steps, "        __syncthreads();\n        from = to;", "        from = to;"),
    "two steps in one place": (steps, "states + step % 2 * N * D;\n        Index J", "states;\n        Index J"),
    "a triangle too short": (mixture, "last % D + 1 : D;", "last % D : D;"),
    "no __syncwarp between lanes": (mixture, "        __syncwarp();\n", ""),
    "a slab is forgotten": (mixture, "onto ? out[i * (D + 1) + j] + value : value;", "value;"),
    "an output misses the newest unit": (samples, ": first_output[d + 1];", ": first_output[d + 1] + 1;"),
    "an output does not see an input": (samples, "k = own; k < end; ++k) total", "k = own + 1; k < end; ++k) total"),
    "the context comes too late": (samples, "d < 0 ? given :", "d < 0 ? given + 1 :"),
    "a level is off by one": (samples, "(real)(k - own)", "(real)(k - own + 1)"),
    "a component takes another's mean": (samples, "out[n / 3 + c]", "out[n / 3]"),
    "the noise of a mixture is one value": (samples, "> CATEGORICAL ? 2 : 1", "> CATEGORICAL ? 1 : 1"),
    "no barrier after a draw": (samples, "2 : 1;\n            __syncthreads();", "2 : 1;"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_found(standin, monkeypatch, name):
    """In the emulator: a device that happens to run in order does not show a missing barrier."""
    run, old, new = PLANTED[name]
    source, planted = _cuda.source, []

    def edited(stem):
        planted.append(old in source(stem))
        return source(stem).replace(old, new)

    monkeypatch.setattr(_cuda, "source", edited)
    _cuda._module.cache_clear()
    try:
        with pytest.raises((AssertionError, cuda_emulator.EmulatorError)):
            run(standin, monkeypatch)
    finally:
        _cuda._module.cache_clear()
    assert any(planted)


# --- restricted Boltzmann machines -----------------------------------------------------------------------------------

@pytest.mark.long(but=SINGLE)
@DTYPES
@pytest.mark.parametrize("code", [0, 1], ids=["bernoulli", "normal"])
@pytest.mark.parametrize("n, v, h, steps", [(0, 3, 2, 1), (1, 1, 1, 0), (3, 0, 2, 2), (3, 2, 0, 2), (33, 40, 70, 2)])
def test_gibbs(cupy, n, v, h, steps, code, dtype):
    args = chain_inputs(np.random.default_rng(n), n, v, h, steps, dtype, code)
    loose = 1e-3 if dtype == np.float32 else 1e-11
    agree(cupy, gibbs.chain, args, loose, loose)
    agree(cupy, gibbs.contrast, contrast_inputs(np.random.default_rng(n), n, v, h, steps, dtype, code), loose, 10 * loose)
    rng = np.random.default_rng(n)
    agree(cupy, gibbs.centred, [rng.normal(size=shape).astype(dtype) for shape in (n, (n, v), (n, h), v, h)], loose, loose)


@pytest.mark.long(but=SINGLE)
@DTYPES
@pytest.mark.parametrize("adjusted", [True, False], ids=["mala", "langevin"])
@pytest.mark.parametrize("n, d, w, hidden, triangular, shared", [
    (0, 2, 0, (3,), True, False), (1, 1, 0, (3,), False, False), (5, 2, 2, (140, 3), True, False),
    (3, 7, 0, (3, 4, 5), True, True), (3, 7, 1, (4,), False, True)])
def test_langevin(cupy, n, d, w, hidden, triangular, shared, adjusted, dtype):
    loose = 1e-4 if dtype == np.float32 else 1e-11
    args = test_energy.chain_inputs(n, n, d, w, 3, hidden, 3, dtype, triangular, shared, 0.1, adjusted)
    agree(cupy, langevin.chain, args, loose, 0)


@pytest.mark.long(but=SINGLE)
@DTYPES
@pytest.mark.parametrize("code", [0, 1], ids=["bernoulli", "normal"])
@pytest.mark.parametrize("k, d", [(0, 3), (3, 0), (5, 300)])
def test_gray(cupy, k, d, code, dtype):
    rng = np.random.default_rng(k)
    args = (*(rng.normal(size=shape).astype(dtype) for shape in (k, d, (k, d))), code)
    agree(cupy, gray.log_weights, args, 1e-3 if dtype == np.float32 else 1e-10)
