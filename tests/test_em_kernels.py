"""The kernels of EM against their references, for any shape; the same bits for any thread count; rows that are far out."""
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgen.kernels import em
from npgen.testing import check_kernel

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def launch(seed, n, d, k, shared, diagonal, dtype, cond=1.0):
    """Rows of k clusters with spreads between 1 and 1/cond, and the true components in standard coordinates."""
    rng = np.random.default_rng(seed)
    centre, scale = rng.normal(size=d), np.exp(rng.normal(size=d))
    g, spread = 1 if shared else k, cond ** -rng.random((k, 1, d))
    factor = (1 / spread if diagonal else np.triu(rng.normal(size=(k, d, d)), 1) / (2 + d) + np.eye(d) / spread)[:g]
    means = rng.normal(size=(k, d))
    offset = rng.normal(size=k)
    z = means[rng.integers(0, k, n)] + rng.normal(size=(n, d)) * (1 if n == 0 else cond**-rng.random((n, 1)))
    shift = (means[:, None] * factor if diagonal else means[:, None] @ factor)[:, 0]
    return (centre + scale * z).astype(dtype), rng.random(n) * 3, centre, scale, offset, shift, np.ascontiguousarray(factor)


def bounds(x, weights, centre, scale, offset, shift, factor):
    """How far sums may be off: rounding of y is eps |z P|, of a sum its terms' sizes."""
    z = abs((x - centre) / scale)
    size = 1 + (z * abs(factor) if factor.shape[1] == 1 else z @ abs(factor)).max(axis=(0, 2), initial=0) + abs(shift).max()
    return 1e-14 * size**2, 1e-14 * (weights.sum() + 1) * (size**4).max(initial=1)


@each_dtype
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 300), d=st.integers(1, 40), k=st.integers(1, 9))
def test_kernels_agree_with_their_references(dtype, shared, diagonal, seed, n, d, k):
    x, weights, *parameters = launch(seed, n, d, k, shared, diagonal, dtype)
    of_row, of_sum = bounds(x, weights, *parameters)
    check_kernel(em.log_prob, x, *parameters, atol=of_row)
    check_kernel(em.posterior, x, *parameters, atol=(of_row + np.finfo(dtype).eps)[:, None])
    check_kernel(em.statistics, x, weights, *parameters, atol=of_sum)


@pytest.mark.parametrize("size", [(3000, 3, 4), (1000, 70, 2), (300, 16, 60), (40000, 2, 3)], ids=str)
@pytest.mark.parametrize("diagonal", [False, True])
def test_same_bits_for_any_thread_count(size, diagonal):
    x, weights, *parameters = launch(0, *size, False, diagonal, np.float64)
    before, answers = numba.get_num_threads(), []
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            sums = em.statistics(x, weights, *parameters)
            answers.append(b"".join(a.tobytes() for a in (*sums, em.log_prob(x, *parameters), em.posterior(x, *parameters))))
    finally:
        numba.set_num_threads(before)
    assert len(set(answers)) == 1
    check_kernel(em.statistics, x, weights, *parameters, atol=bounds(x, weights, *parameters)[1])  # several chunks in a task


@each_dtype
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 400), d=st.integers(1, 20), k=st.integers(1, 9), data=st.data())
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(dtype, shared, diagonal, seed, n, d, k, data):
    x, _, *parameters = launch(seed, n, d, k, shared, diagonal, dtype)
    first = data.draw(st.integers(0, n - 1))
    part = slice(first, data.draw(st.integers(first + 1, n)))
    for kernel in em.log_prob, em.posterior:
        assert kernel(x[part], *parameters).tobytes() == kernel(x, *parameters)[part].tobytes(), kernel.name


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_thin_component_keeps_its_digits(diagonal):
    """Spreads down to 1e-6 of the data's: second moments beside those of extended precision."""
    x, weights, *parameters = launch(1, 2000, 6, 4, False, diagonal, np.float64, cond=1e6)
    wide = [a.astype(np.longdouble) for a in (x, weights, *parameters)]
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("no extended precision here")
    z = (wide[0] - wide[2]) / wide[3]
    y = (z * wide[6] if diagonal else np.einsum("nd,kde->kne", z, wide[6])) - wide[5][:, None]
    joint = wide[4][:, None] - np.square(y).sum(axis=2) / 2
    r = np.exp(joint - joint.max(axis=0))
    w = wide[1] * r / r.sum(axis=0)
    second = np.einsum("kn,knd,kne->kde", w, y, y)
    want = np.diagonal(second, axis1=1, axis2=2)[:, None] if diagonal else second
    got = em.statistics(x, weights, *parameters)
    assert (abs(got[2] - want) <= 1e-9 * np.diagonal(second, axis1=1, axis2=2).max(axis=1)[:, None, None]).all()
    np.testing.assert_allclose(got[0], w.sum(axis=1).astype(float), rtol=1e-10)


@each_dtype
@pytest.mark.parametrize("far", [1e30, 1e300, -1.7e308])
def test_rows_far_out_have_responsibilities(dtype, far):
    with np.errstate(over="ignore"):
        x = np.clip(np.full((5, 3), far), np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)
    _, _, *parameters = launch(2, 5, 3, 4, False, False, np.float64)
    np.testing.assert_allclose(em.posterior(x, *parameters).sum(axis=1), 1, rtol=1e-6)
    log_prob = em.log_prob(x, *parameters)
    assert np.isfinite(log_prob).all() and (log_prob < -1e50).all()
