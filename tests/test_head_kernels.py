"""The kernels of heads: mixtures of normals and levels are the densities that they name, with their derivatives, everywhere."""
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from test_kernels import BACKENDS, DTYPES, INF, NAN, slope

from npgen import kernels
from npgen.kernels import KernelError, categorical, likelihood, mixture_likelihood

LIMIT = 3.0


def outputs_of(logits, means, raws):
    """The outputs (n, 3DC) of parts (n, D, C)."""
    return np.stack([logits, means, raws], axis=2).reshape(len(logits), -1)


# --- mixtures of normals ---------------------------------------------------------------------------------------------

@BACKENDS
@DTYPES
@pytest.mark.parametrize("d, components", [(1, 1), (5, 2), (63, 3), (64, 10), (65, 1), (784, 4)])
def test_a_mixture_is_the_density(backend, dtype, d, components):
    rng = np.random.default_rng(d)
    x, (logits, means, raws) = rng.normal(size=(7, d)), 2 * rng.normal(size=(3, 7, d, components))
    with kernels.using(backend):
        got = mixture_likelihood.forward(x.astype(dtype), outputs_of(logits, means, raws).astype(dtype), components, LIMIT)
    each = stats.norm.logpdf(x[:, :, None], means, np.exp(LIMIT * np.tanh(raws / LIMIT) / 2))
    want = special.logsumexp(special.log_softmax(logits, axis=2) + each, axis=2)
    np.testing.assert_allclose(got, want.sum(axis=1), rtol=32 * np.finfo(dtype).eps)


def exact(x, logits, means, raws, limit):
    """log p of one feature, the gradient of its outputs and of x, in 80 digits."""
    def mpf(value):
        return mpmath.mpf(float(value))

    with mpmath.workdps(80):
        x, limit, *parts = mpf(x), mpf(limit), *([mpf(v) for v in p] for p in (logits, means, raws))
        bounded = [mpmath.tanh(v / limit) for v in parts[2]]
        std = [mpmath.exp(limit * b / 2) for b in bounded]
        z = [(x - m) / s for m, s in zip(parts[1], std, strict=True)]
        odds = [mpmath.exp(v) for v in parts[0]]
        joint = [w / s * mpmath.exp(-q * q / 2) / mpmath.sqrt(2 * mpmath.pi) for w, s, q in zip(odds, std, z, strict=True)]
        r, weights = ([v / mpmath.fsum(many) for v in many] for many in (joint, odds))
        dmean = [a * q / s for a, q, s in zip(r, z, std, strict=True)]
        draw = [a * (q * q - 1) / 2 * (1 - b * b) for a, q, b in zip(r, z, bounded, strict=True)]
        value = mpmath.log(mpmath.fsum(joint)) - mpmath.log(mpmath.fsum(odds))
        dlogit = [a - w for a, w in zip(r, weights, strict=True)]
        return [float(v) for v in (value, *dlogit, *dmean, *draw, -mpmath.fsum(dmean))]


HOSTILE = {  # x, logits, means, raw log-variances
    "equal components": (0.3, [0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]),
    "x far from all": (1e4, [0, 1], [0, 3], [0, 0]),
    "x far, equally": (0, [1, 1], [-1e4, 1e4], [0, 0]),
    "one logit tiny": (0, [-1e30, 0], [0, 5], [0, 0]),
    "large logits": (0.5, [3e4, 3e4 + 2], [0, 1], [0, -1]),
    "far and improbable": (8, [0, -50], [0, 8], [0, 0]),
    "widths far apart": (2, [0, 0], [0, 0], [1e9, -1e9]),
    "one component": (2, [7], [0], [-1]),
    "narrow and near": (1e-3, [0, 0], [0, 1], [-1e9, 0]),
}


@BACKENDS
@DTYPES
@pytest.mark.parametrize("case", HOSTILE)
def test_a_mixture_of_hostile_outputs(backend, dtype, case):
    x, *parts = HOSTILE[case]
    x, parts = dtype(x), [np.array(p, dtype) for p in parts]
    components = len(parts[0])
    value, *gradients = exact(x, *parts, 15.0)
    rows, outputs = np.full((2, 1), x), np.tile(np.concatenate(parts), (2, 1))
    rows[0], outputs[0] = 0, 0
    with kernels.using(backend):
        got = mixture_likelihood.forward(rows, outputs, components, 15.0)
        doutputs, dx = mixture_likelihood.backward(np.ones(2, dtype), rows, outputs, components, 15.0)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(got, [-0.5 * np.log(2 * np.pi), value], rtol=32 * eps)
    np.testing.assert_allclose([*doutputs[1], dx[1, 0]], gradients, rtol=500 * eps, atol=8 * eps)


@BACKENDS
@DTYPES
@pytest.mark.parametrize("far", [1e17, 1e30, -3e38, INF, -INF])
def test_a_mixture_far_beyond_the_numbers(backend, dtype, far):
    """All components out of reach share x, and no gradient is NaN; so do components whose every logit is infinite."""
    x = np.array([[far], [0], [0], [0]], dtype)
    outputs = np.zeros((4, 6), dtype)
    outputs[1, :2], outputs[2, :2], outputs[3, :2] = -INF, INF, [-INF, INF]
    outputs[1:, 2] = 1
    with kernels.using(backend):
        value = mixture_likelihood.forward(x, outputs, 2, 15.0)
        doutputs, dx = mixture_likelihood.backward(np.ones(4, dtype), x, outputs, 2, 15.0)
    assert np.isfinite(value).all() and value[0] < -1e30 and np.isfinite(doutputs).all() and np.isfinite(dx).all()
    share = 1 / (1 + np.exp([-0.5, 0.5]))
    np.testing.assert_allclose(doutputs[1:, :2], [share[::-1] - 0.5, share[::-1] - 0.5, [0, 0]], rtol=1e-5, atol=1e-6)
    half = np.log((1 + np.exp(-0.5)) / 2)
    np.testing.assert_allclose(value[1:], np.array([half, half, 0]) - np.log(2 * np.pi) / 2, rtol=1e-6)
    np.testing.assert_allclose(doutputs[0, :2], 0, atol=1e-7)
    np.testing.assert_allclose(dx[0], -2 * doutputs[0, 2])


@BACKENDS
@DTYPES
@pytest.mark.parametrize("place", range(7))
def test_a_nan_stays_in_its_row_and_its_feature(backend, dtype, place):
    rng = np.random.default_rng(0)
    x, outputs = rng.normal(size=(3, 3)).astype(dtype), rng.normal(size=(3, 18)).astype(dtype)
    if place == 6:
        x[1, 1] = NAN
    else:
        outputs[1, 6 + place] = NAN
    with kernels.using(backend):
        value = mixture_likelihood.forward(x, outputs, 2, LIMIT)
        doutputs, dx = mixture_likelihood.backward(np.ones(3, dtype), x, outputs, 2, LIMIT)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False])
    np.testing.assert_array_equal(np.isnan(dx), np.eye(3)[1][:, None] * np.eye(3)[1] == 1)
    np.testing.assert_array_equal(np.isnan(doutputs).reshape(3, 3, 6).any(axis=2), np.isnan(dx))
    assert np.isnan(doutputs[1, 6:8]).all()


@BACKENDS
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 70), components=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_a_mixture_does_not_know_the_order_of_its_components_nor_a_shift_of_its_logits(backend, seed, d, components):
    rng = np.random.default_rng(seed)
    x, parts = rng.normal(size=(2, d)), 3 * rng.normal(size=(3, 2, d, components))
    order = rng.permutation(components)
    shifted = parts[:, :, :, order] + np.array([1, 0, 0])[:, None, None, None] * rng.normal(size=(2, d, 1))
    twice, g = np.concatenate([parts, parts], axis=3), np.ones(2)  # each component two times
    with kernels.using(backend):
        want, (doutputs, dx) = (f(x, outputs_of(*parts), components, LIMIT) for f in
                                (mixture_likelihood.forward, lambda *a: mixture_likelihood.backward(g, *a)))
        for other, c in (shifted, components), (twice, 2 * components):
            np.testing.assert_allclose(mixture_likelihood.forward(x, outputs_of(*other), c, LIMIT), want, rtol=1e-12)
            again = mixture_likelihood.backward(g, x, outputs_of(*other), c, LIMIT)
            np.testing.assert_allclose(again[1], dx, rtol=1e-9, atol=1e-9)
    halves = again[0].reshape(2, d, 3, 2, components)
    np.testing.assert_allclose(halves.sum(axis=3), doutputs.reshape(2, d, 3, components), rtol=1e-9, atol=1e-9)


@BACKENDS
def test_the_gradients_of_a_mixture_are_its_derivatives(backend):
    rng = np.random.default_rng(0)
    x, outputs, g, direction = rng.normal(size=(6, 5)), rng.normal(size=(6, 45)), rng.normal(size=6), rng.normal(size=(6, 45))
    with kernels.using(backend):
        doutputs, dx = mixture_likelihood.backward(g, x, outputs, 3, LIMIT)
        for gradient, f, at in ((doutputs, lambda v: mixture_likelihood.forward(x, v, 3, LIMIT), outputs),
                                (dx, lambda v: mixture_likelihood.forward(v, outputs, 3, LIMIT), x)):
            along = direction[:, :at.shape[1]].copy()
            np.testing.assert_allclose((gradient * along).sum(axis=1), g * slope(f, at, along), rtol=1e-6, atol=1e-8)


@BACKENDS
def test_a_mixture_integrates_to_one(backend):
    grid = np.linspace(-60, 60, 40001)[:, None]
    outputs = np.tile(np.concatenate([[0, 1, -2], [-3, 0, 7], [2, -2, 0.5]]), (len(grid), 1)).astype(float)
    with kernels.using(backend):
        density = np.exp(mixture_likelihood.forward(grid, outputs, 3, LIMIT))
    np.testing.assert_allclose(np.trapezoid(density, grid[:, 0]), 1, rtol=1e-10)


# --- levels ----------------------------------------------------------------------------------------------------------

@BACKENDS
@DTYPES
def test_levels_are_the_probabilities_of_a_softmax(backend, dtype):
    rng, counts = np.random.default_rng(0), [3, 1, 200, 2]
    first = np.concatenate([[0], np.cumsum(counts)])
    logits, x = 3 * rng.normal(size=(9, first[-1])), np.floor(rng.random((9, 4)) * counts)
    x[2, 0] = x[5] = NAN
    with kernels.using(backend):
        got = categorical.forward(x.astype(dtype), logits.astype(dtype), first)
    want = np.zeros(9)
    for d, (low, high) in enumerate(zip(first, first[1:], strict=False)):
        seen = ~np.isnan(x[:, d])
        want[seen] += special.log_softmax(logits[:, low:high], axis=1)[seen, x[seen, d].astype(int)]
    np.testing.assert_allclose(got, want, rtol=64 * np.finfo(dtype).eps)
    assert got[5] == 0


@BACKENDS
@given(logits=st.lists(st.floats(-800, 800), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_the_levels_sum_to_one_and_their_gradients_to_zero(backend, logits):
    c = len(logits)
    x, first, rows = np.arange(c, dtype=float)[:, None], np.array([0, c]), np.tile(logits, (c, 1))
    with kernels.using(backend):
        np.testing.assert_allclose(np.exp(categorical.forward(x, rows, first)).sum(), 1, rtol=1e-13)
        gradient = categorical.backward(np.ones(c), x, rows, first)
    np.testing.assert_allclose(gradient, np.eye(c) - special.softmax(logits), atol=1e-14)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-14)


@BACKENDS
@DTYPES
@pytest.mark.parametrize("d", [1, 70])
def test_two_levels_are_a_bernoulli(backend, dtype, d):
    """Wherever the logit is, with all digits where it is sure and right."""
    logits = np.concatenate([np.linspace(-100, 100, 401), [1e-30, -1e-30, 1e30, -1e30]])
    for outcome in 0, 1:
        x = np.full((len(logits), d), outcome, dtype)
        one = np.repeat(logits[:, None], d, axis=1).astype(dtype)
        two = np.stack([0 * one, one], axis=2).reshape(len(x), 2 * d)
        first, g = 2 * np.arange(d + 1), np.ones(len(x), dtype)
        with kernels.using(backend):
            pairs = ((categorical.forward(x, two, first), likelihood.bernoulli_forward(x, one)),
                     (categorical.backward(g, x, two, first)[:, 1::2], likelihood.bernoulli_backward(g, x, one)))
        for got, want in pairs:
            np.testing.assert_allclose(got, want, rtol=(16 + d / 16) * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


@BACKENDS
@DTYPES
@pytest.mark.parametrize("x", [-1, 3, 0.5, INF, -INF, 1e30])
def test_no_level_is_nan_in_its_row_and_its_feature(backend, dtype, x):
    rows, first, logits = np.array([[1, 2], [1, x], [NAN, 0]], dtype), np.array([0, 2, 5]), np.ones((3, 5), dtype)
    logits[2, :2] = NAN  # of a feature that is missing
    with kernels.using(backend):
        value = categorical.forward(rows, logits, first)
        gradient = categorical.backward(np.ones(3, dtype), rows, logits, first)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradient), [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    assert (gradient[2, :2] == 0).all()


@BACKENDS
@DTYPES
def test_levels_with_infinite_logits(backend, dtype):
    x, first = np.array([[0], [1], [0], [1]], dtype), np.array([0, 3])
    logits = np.array([[0, -INF, 0], [0, -INF, 0], [-INF] * 3, [0, INF, 3]], dtype)
    with kernels.using(backend):
        value = categorical.forward(x, logits, first)
        gradient = categorical.backward(np.ones(4, dtype), x, logits, first)
    np.testing.assert_allclose(value[[0, 2, 3]], [-np.log(2), -np.log(3), 0], rtol=1e-6)
    assert -np.finfo(dtype).max <= value[1] < -1e37
    np.testing.assert_allclose(gradient, [[0.5, 0, -0.5], [-0.5, 1, -0.5], [2 / 3, -1 / 3, -1 / 3], [0, 0, 0]], rtol=1e-6)


@BACKENDS
@pytest.mark.parametrize("first", [[1, 2, 5], [0, 3, 2, 5], [0, -1, 5], [0, 6, 5]])
def test_features_that_overlap_are_refused(backend, first):
    first = np.array(first)
    with kernels.using(backend), pytest.raises(KernelError, match="first must be 0, then where each next feature's|M is 5 in"):
        categorical.forward(np.zeros((2, len(first) - 1)), np.zeros((2, 5)), first)
