"""masked_matmul and made_sample against their references: odd and empty shapes, any mask, values far apart."""
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgen.kernels import KernelError, _blas, made_sample, masked_matmul, using
from npgen.masks import Plan, made_degrees, made_masks
from npgen.testing import check_kernel

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
EDGES = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 129, 200]  # around the sizes of panels and blocks


# --- masked_matmul ---------------------------------------------------------------------------------------------------

def general(r, k, m):
    return r.random((k, m)) < r.choice([0.1, 0.5, 0.9])


def staircase(r, k, m):
    return np.sort(r.integers(0, 1 + k, k))[:, None] <= np.sort(r.integers(0, 1 + k, m))


MASKS = {"general": general, "staircase": staircase, "dense": lambda r, k, m: np.ones((k, m), bool),
         "empty": lambda r, k, m: np.zeros((k, m), bool),
         "last entry": lambda r, k, m: np.arange(k * m).reshape(k, m) == k * m - 1,
         "reversed": lambda r, k, m: staircase(r, k, m)[::-1]}


def check_products(dtype, n, k, m, kind, seed, scale=0):
    r = np.random.default_rng(seed)

    def values(*shape):
        return (r.normal(size=shape) * 10.0 ** r.uniform(-scale, scale, shape)).astype(dtype)

    x, w, b, g, plan = values(n, k), values(k, m), values(m), values(n, m), Plan(MASKS[kind](r, k, m))
    mask, eps = plan.mask_as(dtype), np.finfo(dtype).eps

    def allowed(a, b, depth):  # the classical bound of a sum of products, in any order
        return (depth + 4) * eps * (np.abs(a).astype(float) @ np.abs(b)) + np.finfo(dtype).tiny

    masked = plan.mask * w
    check_kernel(masked_matmul.forward, x, w, b, mask, plan.blocks, atol=allowed(x, masked, k) + (k + 4) * eps * np.abs(b))
    check_kernel(masked_matmul.backward_x, g, w, mask, plan.blocks, atol=allowed(g, masked.T, m))
    check_kernel(masked_matmul.backward_weight, x, g, mask, plan.blocks, atol=allowed(x.T, g, n))
    with using("numba"):
        assert not (masked_matmul.backward_weight(x, g, mask, plan.blocks) * ~plan.mask).any()
    with using("reference"):  # which is right because it is plain
        np.testing.assert_array_equal(masked_matmul.forward(x, w, b, mask, plan.blocks),
                                      (x.astype(float) @ (plan.mask * w.astype(float)) + b).astype(dtype))


@pytest.mark.long(but={"dtype": [np.float32]})
@DTYPES
@pytest.mark.parametrize("kind", MASKS)
@given(n=st.sampled_from(EDGES), k=st.sampled_from(EDGES), m=st.sampled_from(EDGES), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_products_agree_with_the_reference(dtype, kind, n, k, m, seed):
    check_products(dtype, n, k, m, kind, seed)


@DTYPES
@pytest.mark.parametrize("shape", [(0, 3, 5), (3, 0, 5), (3, 5, 0), (0, 0, 0), (1, 1, 1), (2000, 1, 1), (1, 700, 300)], ids=str)
def test_products_of_empty_and_thin_arrays(dtype, shape):
    for kind in MASKS:
        check_products(dtype, *shape, kind, 0)


@DTYPES
def test_products_of_values_far_apart(dtype):
    for seed in range(5):
        check_products(dtype, 65, 130, 70, "staircase", seed, scale=12)
        check_products(dtype, 65, 130, 70, "general", seed, scale=12)


@DTYPES
@pytest.mark.parametrize("k, m", [(20, 3), (64, 10), (130, 7)], ids=str)
def test_a_row_of_a_product_has_the_same_bits_in_any_panel(dtype, k, m):
    if dtype == np.float32 and not _blas._avx512():
        pytest.skip("without AVX-512 BLAS rounds float32 by the number of rows")
    r, plan = np.random.default_rng(0), Plan.dense(k, m)
    x, w, b = (r.normal(size=shape).astype(dtype) for shape in ((4112, k), (k, m), (m,)))

    def product(x):
        return masked_matmul.forward(x, w, b, plan.mask_as(x.dtype), plan.blocks)

    fours = np.concatenate([product(x[i:i + 4]) for i in range(0, len(x), 4)])
    for n in (4, 68, 76, 100, 516, 1036, 2052, 4108):  # in two panels to sixteen
        np.testing.assert_array_equal(product(x[:n]), fours[:n])


def test_a_wrong_launch_is_refused():
    plan, x, w, b = Plan(np.ones((3, 2), bool)), np.ones((4, 3)), np.ones((3, 2)), np.ones(2)
    with pytest.raises(KernelError, match="weight has shape"):
        masked_matmul.forward(x, w[:2], b, plan.mask_as(x.dtype), plan.blocks)
    with pytest.raises(KernelError, match="blocks has dtype float64, expected int64"):
        masked_matmul.forward(x, w, b, plan.mask_as(x.dtype), plan.blocks.astype(float))


# --- made_sample -----------------------------------------------------------------------------------------------------

class Made:
    """A MADE with random weights, unmasked ones among them, and its forward pass in plain NumPy."""

    def __init__(self, d, hidden, heads, dtype, seed, gain=1.0):
        r = np.random.default_rng(seed)
        *inner, last = made_masks(d, hidden)
        self.masks = [*inner, np.repeat(last, heads, axis=1)]
        self.layers = [((r.normal(size=m.shape) * gain / np.sqrt(max(1, len(m) / 3))).astype(dtype),
                        (r.normal(size=m.shape[1]) / 2).astype(dtype)) for m in self.masks]
        self.d, self.limit = d, 7.0 if heads == 2 else 0.0
        self.params = np.concatenate([a.ravel() for layer in self.layers for a in layer])
        self.widths = np.array([d, *hidden, heads * d], dtype=np.int64)
        degrees = made_degrees(d, hidden)[1:]
        self.first = heads * np.arange(d + 1)
        self.cuts = np.array([np.searchsorted(m, np.arange(d + 1), side="right") for m in degrees], dtype=np.int64)

    def launch(self, noise):
        return self.params, self.widths, self.cuts, self.first, noise, self.limit

    def outputs(self, x):
        for k, ((weight, bias), mask) in enumerate(zip(self.layers, self.masks, strict=True)):
            x = (np.maximum(x, 0) if k else x.astype(float)) @ (mask * weight.astype(float)) + bias
        return x

    def assert_drawn_from(self, noise, x, rtol):
        """x is the sample of the noise: the one point that its own conditionals map the noise to."""
        out = self.outputs(x)
        if self.limit:
            log_var = self.limit * np.tanh(out[:, 1::2] / self.limit)
            want = out[:, ::2] + np.exp(log_var / 2) * noise
            scale = np.maximum(1, np.abs(x).max(axis=1, keepdims=True, initial=0))
            np.testing.assert_array_less(np.abs(x - want), rtol * scale * (1 + np.exp(log_var / 2)))
        else:
            with np.errstate(over="ignore"):
                margin = noise * (1 + np.exp(-out)) - 1  # below zero: draw a one
            assert (((margin < 0) == x) | (np.abs(margin) < rtol)).all() and ((x == 0) | (x == 1)).all()


def noise_for(n, d, heads, dtype, seed):
    r = np.random.default_rng(seed + 1)
    return (r.normal(size=(n, d)) if heads == 2 else r.uniform(0.001, 0.999, size=(n, d))).astype(dtype)


@DTYPES
@pytest.mark.parametrize("heads", [1, 2], ids=["bernoulli", "normal"])
@given(n=st.sampled_from([0, 1, 2, 65, 150]), d=st.sampled_from([1, 2, 3, 7, 31, 32, 33, 65]),
       hidden=st.lists(st.integers(1, 40), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_samples_are_those_of_their_conditionals(dtype, heads, n, d, hidden, seed):
    made, noise = Made(d, hidden, heads, dtype, seed), noise_for(n, d, heads, dtype, seed)
    with using("numba"):
        x = made_sample.sample(*made.launch(noise))
    assert (x.shape, x.dtype) == (noise.shape, dtype)
    made.assert_drawn_from(noise, x, 3e-4 if dtype == np.float32 else 1e-11)
    if dtype == np.float64:
        check_kernel(made_sample.sample, *made.launch(noise), rtol=1e-6, atol=1e-6)


@DTYPES
@pytest.mark.parametrize("heads", [1, 2], ids=["bernoulli", "normal"])
def test_samples_of_a_wide_made(dtype, heads):
    made, noise = Made(130, (300, 200), heads, dtype, 0, gain=0.5), noise_for(40, 130, heads, dtype, 0)
    with using("numba"):
        made.assert_drawn_from(noise, made_sample.sample(*made.launch(noise)), 1e-3 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@DTYPES
def test_bernoulli_samples_where_the_logits_are_extreme(dtype, backend):
    made, noise = Made(5, (8,), 1, dtype, 0), noise_for(20, 5, 1, dtype, 0)
    made.layers[-1][0][...] = 0
    made.layers[-1][1][...] = [1e4, -1e4, 800, -800, 0]
    made.params = np.concatenate([a.ravel() for layer in made.layers for a in layer])
    with using(backend):
        x = made_sample.sample(*made.launch(noise))
    np.testing.assert_array_equal(x, np.column_stack([np.tile([1, 0, 1, 0], (20, 1)), noise[:, 4] < 0.5]))


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_normal_samples_where_the_log_variance_meets_its_bound(backend):
    made, noise = Made(2, (3,), 2, np.float64, 0), np.array([[1.0, 1.0], [-2.0, 3.0]])
    made.layers[-1][0][...] = 0
    made.layers[-1][1][...] = [10, 1e6, 20, -1e6]
    made.params = np.concatenate([a.ravel() for layer in made.layers for a in layer])
    with using(backend):
        x = made_sample.sample(*made.launch(noise))
    np.testing.assert_allclose(x, [10, 20] + np.exp([made.limit / 2, -made.limit / 2]) * noise)


@DTYPES
@pytest.mark.parametrize("heads", [1, 2], ids=["bernoulli", "normal"])
def test_a_row_of_a_sample_has_the_same_bits_in_any_panel(dtype, heads):
    if dtype == np.float32 and not _blas._avx512():
        pytest.skip("without AVX-512 BLAS rounds float32 by the number of rows")
    made, noise = Made(33, (20,), heads, dtype, 0), noise_for(700, 33, heads, dtype, 0)
    whole = made_sample.sample(*made.launch(noise))
    for n in (4, 68, 76, 100, 516, 692):
        np.testing.assert_array_equal(made_sample.sample(*made.launch(noise[:n].copy())), whole[:n])


@DTYPES
def test_same_samples_for_any_thread_count(dtype):
    made, noise = Made(40, (50,), 2, dtype, 0), noise_for(500, 40, 2, dtype, 0)
    before, drawn = numba.get_num_threads(), set()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            drawn.add(made_sample.sample(*made.launch(noise)).tobytes())
    finally:
        numba.set_num_threads(before)
    assert len(drawn) == 1
