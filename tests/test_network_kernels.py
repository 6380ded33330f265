"""The kernels of whole networks against their references: dtypes, odd shapes, no rows, masks, extreme values."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from npgen import kernels
from npgen.kernels import _blas, _jit, flow, masked_matmul, mlp, mlp_slope
from npgen.kernels._layers import layer_of, layer_of_hidden
from npgen.layout import FlowLayout, Layout
from npgen.masks import Plan, made_masks
from npgen.testing import check_kernel

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
ROWS = st.sampled_from([0, 1, 2, 33, 64, 130, 257])
WIDTHS = st.lists(st.sampled_from([1, 2, 7, 64, 65, 130]), min_size=0, max_size=3)
SEEDS = st.integers(0, 2**32 - 1)


def mlp_inputs(rng, dtype, n, widths, masks):
    layout = Layout(widths, masks)
    params = (rng.normal(size=layout.size) / 4).astype(dtype)
    for layer, plan in enumerate(layout.plans):
        layout.weight_and_bias(params, layer)[0][...] *= plan.mask
    x = rng.normal(size=(n, widths[0])).astype(dtype)
    x[rng.random(x.shape) < 0.05] *= 100  # outliers, or agreement means little
    return x, params, layout


def tolerance(dtype, *arrays):
    """A hundred roundings of the largest number around, per term of the longest sum."""
    return 100 * np.finfo(dtype).eps * np.prod([max(1.0, abs(a).max(initial=1)) for a in arrays])


@pytest.mark.long(but={"dtype": [np.float32]})
@DTYPES
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=ROWS, n_in=st.sampled_from([0, 1, 3, 90]), hidden=WIDTHS, n_out=st.sampled_from([0, 1, 70]),
       made=st.booleans())
def test_mlp_agrees_with_its_reference(dtype, seed, n, n_in, hidden, n_out, made):
    rng = np.random.default_rng(seed)
    made = made and n_in and hidden
    widths = (n_in, *hidden, n_in if made else n_out)
    x, params, layout = mlp_inputs(rng, dtype, n, widths, made_masks(n_in, hidden) if made else None)
    rest = (*layout.cut, layout.mask_as(np.dtype(dtype)))
    with kernels.using("reference"):
        y, h = mlp.forward(x, params, *rest)
    check_kernel(mlp.forward, x, params, *rest, rtol=0, atol=tolerance(dtype, x, h, y) * 4)
    g = rng.normal(size=y.shape).astype(dtype)
    for wanted in ((True, True), (False, True), (True, False)):
        with kernels.using("reference"):
            dx, dparams = mlp.backward(g, x, h, params, *rest, *wanted)
            atol = tolerance(dtype, x, h, g, dx, dparams)
        check_kernel(mlp.backward, g, x, h, params, *rest, *wanted, rtol=0, atol=atol)
    with kernels.using("reference"):
        s, delta = mlp_slope.forward(g, h, params, *rest)
        c, along = rng.normal(size=n).astype(dtype), rng.normal(size=x.shape).astype(dtype)
        dg, dparams = mlp_slope.backward(along, c, x, g, h, delta, params, *rest, True)
        atol = tolerance(dtype, x, h, g, s, delta, dg, dparams)
    check_kernel(mlp_slope.forward, g, h, params, *rest, rtol=0, atol=atol)
    for wanted in (True, False):
        check_kernel(mlp_slope.backward, along, c, x, g, h, delta, params, *rest, wanted, rtol=0, atol=atol)


@DTYPES
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=ROWS, d=st.integers(1, 70), parts=st.lists(st.floats(0, 1), min_size=1, max_size=3), hidden=WIDTHS)
@example(seed=0, n=33, d=5, parts=[0.5], hidden=[900])  # a sum in more than one part
def test_flow_agrees_with_its_reference(dtype, seed, n, d, parts, hidden):
    rng = np.random.default_rng(seed)
    moved = [round(part * d) for part in parts]
    layout = FlowLayout([rng.permutation(d) for _ in moved], [Layout((d - m, *hidden, 2 * m)) for m in moved])
    params = (rng.normal(size=layout.size) / 4 / max(d, 1, *hidden) ** 0.5).astype(dtype)
    x = rng.normal(size=(n, d)).astype(dtype)
    rest = (params, *layout.cut, 3.0)
    with kernels.using("reference"):
        _, _, _, *kept = answers = flow.inverse(x, *rest, True)
        for got, want in zip(flow.inverse(x, *rest, False)[:3], answers[:3], strict=True):
            np.testing.assert_array_equal(got, want)
    loose = tolerance(dtype, *answers) * max(d, *hidden, 1) * len(moved)
    used = (np.ones((len(moved), d + 1), bool), np.arange(max(moved) * 2) < 2 * np.array(moved)[:, None],
            np.ones((len(moved), sum(hidden) + len(hidden)), bool))  # the other lines are left alone
    for keep in (True, False):
        got = flow.inverse(x, *rest, keep)
        for a, want in zip(got[:3], answers[:3], strict=True):
            np.testing.assert_allclose(a, want, rtol=0, atol=loose)
        assert keep or not any(a.size for a in got[3:])
    for a, want, lines in zip(flow.inverse(x, *rest, True)[3:], kept, used, strict=True):
        assert a.shape == want.shape
        a, want = (np.swapaxes(each, 2, 3).reshape(len(moved), -1, each.shape[2])[:, :n] for each in (a, want))  # rows, lines
        np.testing.assert_allclose(np.where(lines[:, None], a[..., :lines.shape[1]], 0), want[..., :lines.shape[1]],
                                   rtol=0, atol=loose)
    check_kernel(flow.forward, x, *rest, rtol=0, atol=loose * 10)
    dz, dlog_det = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=n).astype(dtype)
    with kernels.using("reference"):
        gradients = flow.backward(dz, dlog_det, *kept, *rest, True)
    check_kernel(flow.backward, dz, dlog_det, *kept, *rest, True, rtol=0,
                 atol=tolerance(dtype, *answers, *gradients) * max(d, *hidden, 1) * len(moved))


@DTYPES
def test_what_fills_up_a_block_has_no_part_in_gradients_of_a_flow(dtype):
    """Rows so far from 0 that a row of zeros would overflow, and its infinity times a cotangent of 0 be NaN."""
    rng, d, far = np.random.default_rng(0), 3, dtype(1e30 if dtype == np.float32 else 1e300)
    layout = FlowLayout([np.arange(d)], [Layout((1, 4, 4))])
    params = (rng.normal(size=layout.size) / 4).astype(dtype)
    params[:d], params[d:2 * d] = far, -20
    x, rest = np.full((17, d), far), (params, *layout.cut, 3.0)
    z, log_det, _, *kept = flow.inverse(x, *rest, True)
    gradients = flow.backward(np.ones_like(z), np.ones_like(log_det), *kept, *rest, True)
    assert all(np.isfinite(a).all() for a in (z, *gradients))
    with kernels.using("reference"):
        want = flow.backward(np.ones_like(z), np.ones_like(log_det), *kept, *rest, True)
    for a, b in zip(gradients, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == np.float32 else 1e-12)


@DTYPES
def test_gradients_of_a_flow_are_the_same_however_many_steps_go_together(dtype, monkeypatch):
    rng, d = np.random.default_rng(0), 9
    layout = FlowLayout([rng.permutation(d) for _ in range(5)], [Layout((d - m, 40, 70, 2 * m)) for m in (4, 5, 0, 9, 2)])
    rest = ((rng.normal(size=layout.size) / 30).astype(dtype), *layout.cut, 3.0)
    x, dlog_det = rng.normal(size=(141, d)).astype(dtype), rng.normal(size=141).astype(dtype)
    z, _, _, *kept = flow.inverse(x, *rest, True)
    whole = flow.backward(z, dlog_det, *kept, *rest, True)
    for together in (1, 2, 3):
        monkeypatch.setattr(flow, "WORK", (together - 1) * len(x) * layout.size // 5 + 1)
        for got, want in zip(flow.backward(z, dlog_det, *kept, *rest, True), whole, strict=True):
            np.testing.assert_array_equal(got, want)


@DTYPES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_spoils_no_other(dtype, bad):
    x, params, layout = mlp_inputs(np.random.default_rng(0), dtype, 70, (5, 9, 3), None)
    rest = (*layout.cut, layout.mask_as(np.dtype(dtype)))
    clean = mlp.forward(x, params, *rest)[0]
    x[11] = bad
    y = mlp.forward(x, params, *rest)[0]
    others = np.arange(70) != 11
    np.testing.assert_array_equal(y[others], clean[others])


def test_the_bits_do_not_depend_on_the_threads():
    numba = pytest.importorskip("numba")
    x, params, layout = mlp_inputs(np.random.default_rng(0), np.float32, 300, (90, 130, 90), made_masks(90, (130,)))
    rest = (*layout.cut, layout.mask_as(np.dtype(np.float32)))
    chain = FlowLayout([np.arange(90)] * 2, [Layout((45, 64, 90))] * 2)
    steps = (np.linspace(-0.1, 0.1, chain.size, dtype=np.float32), *chain.cut, 3.0)

    def everything():
        y, h = mlp.forward(x, params, *rest)
        z, log_det, log_prob, *kept = flow.inverse(x, *steps, True)
        s, delta = mlp_slope.forward(y, h, params, *rest)
        return [y, *mlp.backward(y, x, h, params, *rest, True, True), s, delta,
                *mlp_slope.backward(x, y[:, 0].copy(), x, y, h, delta, params, *rest, True), z, log_det, log_prob,
                *flow.forward(x, *steps), *flow.backward(x, log_det, *kept, *steps, True)]

    both, before = everything(), numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = everything()
    finally:
        numba.set_num_threads(before)
    for a, b in zip(both, alone, strict=True):
        np.testing.assert_array_equal(a, b)


@DTYPES
def test_large_layers_have_the_bits_of_few_rows_and_few_columns(dtype):
    r, n = np.random.default_rng(0), 483
    layout = Layout((401, 300, 1030, 210))
    params, (widths, blocks, pieces) = r.normal(size=layout.size).astype(dtype), layout.cut
    rest = params, widths, blocks, pieces, np.empty(0, dtype)
    x, g = r.normal(size=(n, widths[0])).astype(dtype), r.normal(size=(n, widths[-1])).astype(dtype)
    y, hidden = mlp.forward(x, *rest)
    dx, delta = mlp_slope.forward(g, hidden, *rest)
    for low in range(0, n, 50):
        few = slice(low, low + 50)
        small_y, small_hidden = mlp.forward(x[few], *rest)
        np.testing.assert_array_equal(y[few], small_y)
        np.testing.assert_array_equal(dx[few], mlp_slope.forward(g[few], small_hidden, *rest)[0])
    _, dparams = mlp.backward(g, x, hidden, *rest, False, True)
    below = [x, *(layer_of_hidden(hidden, widths, layer) for layer in (1, 2))]
    above = [*(layer_of_hidden(delta, widths, layer) for layer in (1, 2)), g]
    for layer, (a, b) in enumerate(zip(below, above, strict=True)):
        dweight, dbias = layer_of(dparams, widths, layer)
        np.testing.assert_allclose(dbias, b.astype(float).sum(axis=0), atol=n * np.finfo(dtype).eps * np.abs(b).max())
        for low in range(0, b.shape[1], 150):
            narrow = np.ascontiguousarray(b[:, low:low + 150])
            plan = Plan.dense(a.shape[1], narrow.shape[1])
            alone = masked_matmul.backward_weight(np.ascontiguousarray(a), narrow, plan.mask_as(a.dtype), plan.blocks)
            np.testing.assert_array_equal(dweight[:, low:low + 150], alone)


@pytest.mark.skipif(not (_jit.available and _blas._avx512()), reason="OpenBLAS knows every CPU without AVX-512")
def test_products_are_fast_whichever_kernel_comes_first():
    code = ("from pathlib import Path; from threadpoolctl import threadpool_info; from npgen.random import Stream\n"
            "Stream(0).normal((3,), 'f')\n"
            "print(*[b['architecture'] for b in threadpool_info() if 'scipy.libs' in Path(b['filepath']).parts])")
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Haswell"}  # what OpenBLAS takes a CPU for that it does not know
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() in ("SkylakeX", "")  # "": a SciPy that brings no BLAS of its own


@pytest.mark.slow
@pytest.mark.skipif(not (_jit.available and _blas._avx512()), reason="without AVX-512 those tests ran so already")
def test_in_float64_a_rows_bits_are_the_same_without_avx512_too():
    tests = [Path(__file__).with_name(f"test_{name}.py") for name in ("models", "mixed", "made_kernels")]
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "NPGEN_CORETYPE": "keep"}
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k",
                    "(whatever_rows or any_panel) and not float32", *tests], env=environment, check=True)
