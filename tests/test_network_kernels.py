"""The kernels of whole networks against their references: dtypes, odd shapes, no rows, masks, extreme values."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgen import kernels
from npgen.kernels import coupling, mlp
from npgen.masks import Layout, made_masks
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
    for want_dx in (True, False):
        with kernels.using("reference"):
            dx, dparams = mlp.backward(g, x, h, params, *rest, want_dx)
            atol = tolerance(dtype, x, h, g, dx, dparams)
        check_kernel(mlp.backward, g, x, h, params, *rest, want_dx, rtol=0, atol=atol)


@DTYPES
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=ROWS, d=st.integers(1, 70), part=st.floats(0, 1), hidden=WIDTHS)
def test_coupling_agrees_with_its_reference(dtype, seed, n, d, part, hidden):
    rng = np.random.default_rng(seed)
    moved = round(part * d)
    layout = Layout((d - moved, *hidden, 2 * moved))
    params = (rng.normal(size=2 * d + layout.size) / 4).astype(dtype)
    x = rng.normal(size=(n, d)).astype(dtype)
    rest = (params, *layout.cut, 3.0)
    with kernels.using("reference"):
        answers = coupling.inverse(x, *rest)
    loose = tolerance(dtype, *answers) * max(d, *hidden, 1)
    check_kernel(coupling.inverse, x, *rest, rtol=0, atol=loose)
    check_kernel(coupling.forward, x, *rest, rtol=0, atol=loose * 10)
    dz, dlog_det = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=n).astype(dtype)
    with kernels.using("reference"):
        gradients = coupling.backward(dz, dlog_det, *(answers[i] for i in (0, 2, 3)), *rest)
    check_kernel(coupling.backward, dz, dlog_det, *(answers[i] for i in (0, 2, 3)), *rest, rtol=0,
                 atol=tolerance(dtype, *answers, *gradients) * max(d, *hidden, 1))


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
    y, h = mlp.forward(x, params, *rest)
    both = [y, *mlp.backward(y, x, h, params, *rest, True)]
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = [mlp.forward(x, params, *rest)[0], *mlp.backward(y, x, h, params, *rest, True)]
    finally:
        numba.set_num_threads(before)
    for a, b in zip(both, alone, strict=True):
        np.testing.assert_array_equal(a, b)
