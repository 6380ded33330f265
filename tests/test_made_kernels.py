"""masked_matmul and made_sample against their references: odd and empty shapes, any mask, values far apart."""
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from npgen.kernels import KernelError, made_sample, masked_matmul, using
from npgen.kernels._product import ROWS, multiply
from npgen.masks import Plan, made_degrees
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
    r, plan = np.random.default_rng(0), Plan.dense(k, m)
    x, w, b = (r.normal(size=shape).astype(dtype) for shape in ((4112, k), (k, m), (m,)))

    def product(x):
        return masked_matmul.forward(x, w, b, plan.mask_as(x.dtype), plan.blocks)

    ones = np.concatenate([product(x[i:i + 1]) for i in range(len(x))])
    for n in (2, 3, 4, 5, 6, 7, 11, 13, 68, 101, 257, 516, 1035, 4108):  # tiles and parts with rows left over
        np.testing.assert_array_equal(product(x[:n]), ones[:n])


@DTYPES
@pytest.mark.parametrize("n, k, m", [(256, 200, 200), (257, 401, 513), (400, 1203, 263), (484, 409, 257), (970, 801, 250)],
                         ids=str)
def test_a_large_product_has_the_bits_of_its_rows_and_columns_by_themselves(dtype, n, k, m):
    r = np.random.default_rng(0)
    x, w, b, g = (r.normal(size=shape).astype(dtype) for shape in ((n, k), (k, m), (m,), (n, m)))

    def products(x, w, b, g):
        plan = Plan.dense(*w.shape)
        cut = plan.mask_as(x.dtype), plan.blocks
        return (masked_matmul.forward(x, w, b, *cut), masked_matmul.backward_x(g, w, *cut),
                masked_matmul.backward_weight(x, g, *cut))

    y, dx, dw = products(x, w, b, g)
    exact = x.astype(float) @ w + b, g.astype(float) @ w.T, x.T.astype(float) @ g
    for large, expected, summed in zip((y, dx, dw), exact, (k, m, n), strict=True):
        assert np.abs(large - expected).max() < 10 * summed * np.finfo(dtype).eps
    for low in range(0, n, 50):  # too few rows, or columns, to be packed
        few = slice(low, low + 50)
        small_y, small_dx, _ = products(x[few], w, b, g[few])
        np.testing.assert_array_equal(y[few], small_y)
        np.testing.assert_array_equal(dx[few], small_dx)
    for low in range(0, m, 150):
        few = slice(low, low + 150)
        narrow = (np.ascontiguousarray(a) for a in (x, w[:, few], b[few], g[:, few]))
        np.testing.assert_array_equal(dw[:, few], products(*narrow)[2])
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        for both, one in zip((y, dx, dw), products(x, w, b, g), strict=True):
            np.testing.assert_array_equal(both, one)
    finally:
        numba.set_num_threads(before)


def test_rows_beyond_those_packed_at_once_have_the_same_bits():
    @numba.njit
    def product(a, turned, b, c, last):  # of narrow columns, no row is packed
        for first in range(0, c.shape[1], last):
            multiply(a, turned, 0, b, False, 0, len(b), c, first, min(first + last, c.shape[1]))

    r, n = np.random.default_rng(0), 2 * ROWS + 13
    x, w = r.normal(size=(n, 409)), r.normal(size=(409, 210))
    for a in x, np.ascontiguousarray(x.T):
        wide, narrow = np.empty((2, n, 210))
        product(a, a is not x, w, wide, 210)
        product(a, a is not x, w, narrow, 105)
        np.testing.assert_array_equal(wide, narrow)


def test_a_wrong_launch_is_refused():
    plan, x, w, b = Plan(np.ones((3, 2), bool)), np.ones((4, 3)), np.ones((3, 2)), np.ones(2)
    with pytest.raises(KernelError, match="weight has shape"):
        masked_matmul.forward(x, w[:2], b, plan.mask_as(x.dtype), plan.blocks)
    with pytest.raises(KernelError, match="blocks has dtype float64, expected int64"):
        masked_matmul.forward(x, w, b, plan.mask_as(x.dtype), plan.blocks.astype(float))


# --- made_sample -----------------------------------------------------------------------------------------------------

class Made:
    """A MADE with random weights, unmasked ones among them, and its forward pass in plain NumPy.

    heads: 1 Bernoulli, 2 normal, or 0 for any head at every dimension, of several limits; context: columns; direct: whether
    outputs see inputs.
    """

    def __init__(self, d, hidden, heads, dtype, seed, gain=1.0, context=0, direct=False):
        r = np.random.default_rng(seed)
        self.d, self.codes = d, np.full(d, heads - 1) if heads else r.integers(0, 4, d)
        self.limits = np.where(np.arange(d) % 3 == 2, np.inf, 7.0).astype(dtype)
        each = [(1, 2, c, 3 * c)[code] for code, c in zip(self.codes, r.integers(1, 5, d), strict=True)]
        self.first = np.concatenate([[0], np.cumsum(each)])
        self.inputs = np.concatenate([[0], np.cumsum(np.where(self.codes == made_sample.CATEGORICAL, each, 1))])
        degrees = [np.concatenate([np.repeat(np.arange(1, d + 1), np.diff(self.inputs)), np.zeros(context, int)]),
                   *([np.sort(r.integers(0, d, width)) for width in hidden] if context else made_degrees(d, hidden)[1:])]
        outputs = np.repeat(np.arange(1, d + 1), each)
        self.masks = [a[:, None] <= b for a, b in zip(degrees, degrees[1:], strict=False)] + [degrees[-1][:, None] < outputs]
        self.layers = [((r.normal(size=m.shape) * gain / np.sqrt(max(1, len(m) / 3))).astype(dtype),
                        (r.normal(size=m.shape[1]) / 2).astype(dtype)) for m in self.masks]
        self.params = np.concatenate([a.ravel() for layer in self.layers for a in layer])
        self.widths = np.array([len(degrees[0]), *hidden, self.first[-1]], dtype=np.int64)
        self.cuts = np.array([np.searchsorted(m, np.arange(d + 1), side="right") for m in degrees[1:]], dtype=np.int64)
        self.skips = degrees[0][:, None] < outputs
        self.direct = (r.normal(size=self.skips.shape) * gain / d if direct else np.zeros((0, 0))).astype(dtype)
        self.context = r.normal(size=(1000, context)).astype(dtype)

    def noise(self, n, seed):
        r = np.random.default_rng(seed + 1)
        normal = np.concatenate([([0], [1], [0], [0, 1])[code] for code in self.codes])
        shape = n, len(normal)
        return np.where(normal, r.normal(size=shape), r.uniform(0.001, 0.999, size=shape)).astype(self.params.dtype)

    def launch(self, noise, known=None):
        known = noise[:, :0].copy() if known is None else known
        return (self.params, self.widths, self.cuts, self.inputs, self.first, self.codes, self.direct,
                self.context[:len(noise)].copy(), known, noise, self.limits)

    def outputs(self, x):
        columns = [x[:, [j]] == np.arange(b - a) if code == made_sample.CATEGORICAL else x[:, [j]]
                   for j, (code, a, b) in enumerate(zip(self.codes, self.inputs, self.inputs[1:], strict=False))]
        h = seen = np.concatenate([*columns, self.context[:len(x)]], axis=1).astype(float)
        for k, ((weight, bias), mask) in enumerate(zip(self.layers, self.masks, strict=True)):
            h = (np.maximum(h, 0) if k else h) @ (mask * weight.astype(float)) + bias
        return h + seen @ (self.skips * self.direct.astype(float)) if self.direct.size else h

    def assert_drawn_from(self, noise, x, rtol):
        """x is the sample of the noise: the one point that its own conditionals map the noise to."""
        out, at = self.outputs(x), 0
        scale = np.maximum(1, np.abs(x).max(axis=1, initial=0))
        for j, code in enumerate(self.codes):
            own, u, of = x[:, j], noise[:, at], out[:, self.first[j]:self.first[j + 1]]
            at += 1 + (code == made_sample.MIXTURE)
            if code == made_sample.BERNOULLI:
                with np.errstate(over="ignore"):
                    margin = u * (1 + np.exp(-of[:, 0])) - 1  # below zero: draw a one
                assert (((margin < 0) == own) | (np.abs(margin) < rtol)).all() and ((own == 0) | (own == 1)).all()
                continue
            logits = {1: np.zeros((len(x), 1)), 2: of, 3: of[:, :of.shape[1] // 3]}[code]
            edges = special.softmax(logits, axis=1).cumsum(axis=1)
            may_be = (edges + rtol >= (0 if code == made_sample.NORMAL else u[:, None]))
            may_be &= edges - special.softmax(logits, axis=1) - rtol <= (0 if code == made_sample.NORMAL else u[:, None])
            if code == made_sample.CATEGORICAL:
                assert may_be[np.arange(len(x)), own.astype(int)].all() and (own == np.floor(own)).all()
            else:
                mean, raw = (of[:, -2 * logits.shape[1]:][:, k * logits.shape[1]:][:, :logits.shape[1]] for k in (0, 1))
                limit = float(self.limits[j])
                std = np.exp((limit * np.tanh(raw / limit) if limit < np.inf else raw) / 2)
                near = np.abs(own[:, None] - mean - std * noise[:, [at - 1]]) < rtol * scale[:, None] * (1 + std)
                assert (near & may_be).any(axis=1).all()


HEADS = pytest.mark.parametrize("heads", [1, 2, 0], ids=["bernoulli", "normal", "any"])
EXTRAS = pytest.mark.parametrize("context, direct", [(0, False), (3, False), (0, True), (2, True)])


@DTYPES
@HEADS
@EXTRAS
@given(n=st.sampled_from([0, 1, 2, 65, 150]), d=st.sampled_from([1, 2, 3, 7, 31, 32, 33, 65]),
       hidden=st.lists(st.integers(1, 40), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_samples_are_those_of_their_conditionals(dtype, heads, context, direct, n, d, hidden, seed):
    made = Made(d, hidden, heads, dtype, seed, context=context, direct=direct)
    noise = made.noise(n, seed)
    with using("numba"):
        x = made_sample.sample(*made.launch(noise))
    assert (x.shape, x.dtype) == ((n, d), dtype)
    made.assert_drawn_from(noise, x, 1e-3 if dtype == np.float32 else 1e-11)
    if dtype == np.float64:
        check_kernel(made_sample.sample, *made.launch(noise), rtol=1e-6, atol=1e-6)


@DTYPES
@HEADS
@EXTRAS
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_what_is_known_is_not_drawn_and_the_rest_has_the_same_bits(dtype, heads, context, direct, backend):
    made = Made(35, (20, 12), heads, dtype, 3, context=context, direct=direct)
    noise = made.noise(9, 3)
    with using(backend):
        x = made_sample.sample(*made.launch(noise))
        for s in (1, 2, 31, 32, 34, 35):
            again = made_sample.sample(*made.launch(noise, x[:, :s].copy()))
            rounded = backend == "reference" and dtype == np.float32  # which draws in float64
            np.testing.assert_allclose(again, x, rtol=1e-4 * rounded, atol=1e-4 * rounded)
            other = np.where(np.isin(made.codes[:s], (0, 2)), 0, x[:, :s] + 1).astype(dtype)  # a 0, or the first level
            np.testing.assert_array_equal(made_sample.sample(*made.launch(noise, other))[:, :s], other)
    with pytest.raises(KernelError, match="S is 36 in"):
        made_sample.sample(*made.launch(noise, np.zeros((9, 36), dtype)))


@DTYPES
@HEADS
def test_samples_of_a_wide_made(dtype, heads):
    made = Made(130, (300, 200), heads, dtype, 0, gain=0.5, context=5, direct=True)
    noise = made.noise(40, 0)
    with using("numba"):
        made.assert_drawn_from(noise, made_sample.sample(*made.launch(noise)), 1e-3 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_samples_follow_their_context(backend):
    """A mixture of one dimension, whose weights and means are the context's alone: shares and means to 6 standard errors."""
    n, direct, rng = 20000, np.zeros((3, 6)), np.random.default_rng(0)  # inputs x, a, b: a logit 2 a, a mean 2 b
    direct[1, 0] = direct[2, 2] = 2
    context = np.repeat([[0.5, 3.0], [-0.2, -1.0]], n, axis=0)
    noise = np.stack([rng.random(2 * n), rng.normal(size=2 * n)], axis=1)
    plan = np.array([3, 1, 6]), np.array([[1, 1]]), np.array([0, 1]), np.array([0, 6]), np.array([made_sample.MIXTURE])
    with using(backend):
        x = made_sample.sample(np.zeros(3 + 1 + 6 + 6), *plan, direct, context, noise[:, :0].copy(), noise, np.full(1, 7.0))
    for drawn, (a, b) in zip(np.split(x[:, 0], 2), context[[0, -1]], strict=True):
        share = special.expit(2 * a)
        assert abs(drawn.mean() - 2 * b * share) < 6 * np.sqrt((1 + 4 * b**2 * share * (1 - share)) / n)


@pytest.mark.parametrize("code, n_inputs, n_outputs",
                         [(0, 1, 2), (1, 1, 1), (2, 1, 3), (2, 0, 0), (3, 1, 4), (3, 3, 3), (4, 1, 1)])
def test_outputs_that_do_not_fit_a_code_are_refused(code, n_inputs, n_outputs):
    params, noise = np.zeros((n_inputs + 1) * 2 + 3 * n_outputs), np.zeros((4, 1 + (code == 3)))
    with pytest.raises(KernelError, match="as many as codes say"):
        made_sample.sample(params, np.array([n_inputs, 2, n_outputs]), np.array([[0, 2]]), np.array([0, n_inputs]),
                           np.array([0, n_outputs]), np.array([code]), np.zeros((0, 0)), *np.zeros((2, 4, 0)), noise,
                           np.full(1, 3.0))


@pytest.mark.parametrize("backend", ["numba", "reference"])
@DTYPES
def test_bernoulli_samples_where_the_logits_are_extreme(dtype, backend):
    made = Made(5, (8,), 1, dtype, 0)
    noise = made.noise(20, 0)
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
    np.testing.assert_allclose(x, [10, 20] + np.exp(made.limits * [1, -1] / 2) * noise)


@DTYPES
@HEADS
def test_a_row_of_a_sample_has_the_same_bits_in_any_panel(dtype, heads):
    made = Made(33, (20,), heads, dtype, 0, context=2, direct=heads == 0)
    noise = made.noise(700, 0)
    whole = made_sample.sample(*made.launch(noise))
    for n in (1, 15, 16, 17, 68, 100, 516, 692):
        np.testing.assert_array_equal(made_sample.sample(*made.launch(noise[:n].copy())), whole[:n])


@DTYPES
@HEADS
def test_same_samples_for_any_thread_count(dtype, heads):
    made = Made(40, (50,), heads, dtype, 0, context=2, direct=heads == 0)
    noise, before, drawn = made.noise(500, 0), numba.get_num_threads(), set()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            drawn.add(made_sample.sample(*made.launch(noise)).tobytes())
    finally:
        numba.set_num_threads(before)
    assert len(drawn) == 1
