"""Likelihood heads against SciPy's distributions, their own samples, and finite differences."""
import math

import numpy as np
import pytest
from scipy import integrate, stats

from npgen import ops
from npgen.distributions import HEADS, Bernoulli, Normal, head_for, normal_log_prob, std
from npgen.engine import grad
from npgen.fused import standard_normal_log_prob
from npgen.random import Stream
from npgen.testing import check_grads

ALARM = 1e-6  # of a statistical test, per case
RNG = np.random.default_rng(0)
N, D = 6, 4
OUTPUTS = {"normal": RNG.normal(size=(N, 2 * D)) * 2, "bernoulli": RNG.normal(size=(N, D)) * 3}
ROWS = {"normal": RNG.normal(size=(N, D)) * 3, "bernoulli": (RNG.random((N, D)) < 0.5).astype(float)}
heads = pytest.mark.parametrize("name", HEADS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def truth(name):
    """The distribution of every feature, by SciPy."""
    outputs = OUTPUTS[name]
    if name == "bernoulli":
        return stats.bernoulli(1 / (1 + np.exp(-outputs)))
    return stats.norm(outputs[:, :D], np.sqrt(np.exp(15 * np.tanh(outputs[:, D:] / 15))))


@heads
@dtypes
def test_log_prob_and_mean_are_those_of_the_distribution(name, dtype):
    head, p = HEADS[name], truth(name)
    x, outputs = ROWS[name].astype(dtype), OUTPUTS[name].astype(dtype)
    log_prob = head.log_prob(x, outputs)
    want = (p.logpmf if name == "bernoulli" else p.logpdf)(ROWS[name]).sum(axis=1)
    assert log_prob.shape == (N,) and log_prob.dtype == head.mean(outputs).dtype == dtype
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(log_prob, want, rtol=tolerance)
    np.testing.assert_allclose(head.mean(outputs), p.mean(), rtol=tolerance, atol=tolerance)


@heads
def test_samples_are_drawn_from_the_distribution(name):
    head, n = HEADS[name], 4000
    noise = getattr(Stream(1), head.noise)((n, N, D), np.float64)
    drawn = head.sample(noise, OUTPUTS[name])
    for i in range(N):
        for j in range(D):
            p = stats.bernoulli(truth(name).mean()[i, j]) if name == "bernoulli" else stats.norm(
                truth(name).mean()[i, j], truth(name).std()[i, j])
            values = drawn[:, i, j]
            alarm = stats.binomtest(int(values.sum()), n, p.mean()).pvalue if name == "bernoulli" else stats.kstest(
                values, p.cdf).pvalue
            assert alarm > ALARM / (N * D)


@heads
@dtypes
def test_samples_keep_the_dtype_and_the_support(name, dtype):
    head = HEADS[name]
    drawn = head.sample(getattr(Stream(1), head.noise)((N, D), dtype), OUTPUTS[name].astype(dtype))
    assert drawn.dtype == dtype and drawn.shape == (N, D)
    head.check(drawn, "sample")


@heads
def test_derivatives(name):
    check_grads(lambda outputs: HEADS[name].log_prob(ROWS[name], outputs), OUTPUTS[name])
    check_grads(lambda x: HEADS[name].log_prob(x, OUTPUTS[name]), ROWS[name] + 0.1)


def test_the_normal_integrates_to_one_and_the_bernoulli_sums_to_one():
    outputs = np.array([[0.7, -1.1]])
    total = integrate.quad(lambda x: float(np.exp(Normal().log_prob(np.array([[x]]), outputs)[0])), -30, 30, points=[0.7])[0]
    assert math.isclose(total, 1, rel_tol=1e-8)
    logits = np.linspace(-40, 40, 81)[:, None]
    total = sum(np.exp(Bernoulli().log_prob(np.full((81, 1), x), logits)) for x in (0.0, 1.0))
    np.testing.assert_allclose(total, 1, rtol=1e-14)


@dtypes
def test_a_certain_bernoulli_is_finite(dtype):
    logits = np.array([[1e4, -1e4]], dtype)
    right, wrong = (Bernoulli().log_prob(np.array([x], dtype), logits)[0] for x in ([1, 0], [0, 1]))
    assert right == 0 and wrong == dtype(-2e4)
    gradient = grad(lambda z: np.sum(Bernoulli().log_prob(np.array([[0, 1]], dtype), z)))(logits)
    np.testing.assert_array_equal(gradient, [[-1, 1]])
    np.testing.assert_array_equal(Bernoulli().mean(logits), [[1, 0]])


@dtypes
def test_a_normals_log_variance_is_bounded(dtype):
    raw = np.array([[0, 0, 0, 1e30, -1e30, 0.01]], dtype)
    mean, log_var = Normal().split(raw)
    np.testing.assert_allclose(log_var, [[15, -15, 0.01]], rtol=1e-5)
    assert log_var.dtype == dtype and np.isfinite(Normal().log_prob(np.ones((1, 3), dtype), raw)).all()


def test_std_is_the_square_root_of_the_variance():
    log_var = np.array([-3.0, 0.0, 1.7])
    np.testing.assert_allclose(std(log_var) ** 2, np.exp(log_var), rtol=1e-15)
    assert std(log_var.astype(np.float32)).dtype == np.float32


def test_bounded_is_the_identity_near_zero_and_never_beyond():
    x = np.array([1e-3, -1e-3, 2.0, 50.0, -1e300])
    y = ops.bounded(x, 3.0)
    assert (np.abs(y) <= 3).all() and (np.sign(y) == np.sign(x)).all()
    np.testing.assert_allclose(y[:2], x[:2], rtol=1e-6)
    assert grad(lambda t: ops.bounded(t, 3.0))(0.0) == 1


@dtypes
def test_normal_densities(dtype):
    x, mean, log_var = (RNG.normal(size=(5, 3)).astype(dtype) for _ in range(3))
    want = stats.norm(mean.astype(float), np.exp(log_var.astype(float) / 2)).logpdf(x)
    np.testing.assert_allclose(normal_log_prob(x, mean, log_var), want, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6)
    np.testing.assert_allclose(standard_normal_log_prob(x), stats.norm.logpdf(x).sum(axis=1), rtol=1e-5)
    assert normal_log_prob(x, mean, log_var).dtype == standard_normal_log_prob(x).dtype == dtype


def test_a_head_by_name_or_by_looking():
    assert head_for("normal", None).name == "normal" and head_for("bernoulli", None).name == "bernoulli"
    assert head_for("auto", np.array([[0.0, 1.0]])).name == "bernoulli"
    assert head_for("auto", np.array([[0.0, 2.0]])).name == "normal"
    for spec in ("cauchy", None, 3):
        with pytest.raises(ValueError, match=f"head: expected 'auto' or one of normal, bernoulli, got {spec!r}"):
            head_for(spec, None)
    with pytest.raises(ValueError, match=r"fit: X\[1, 0\] is 0.5, but a Bernoulli head needs 0 or 1"):
        Bernoulli().check(np.array([[0.0], [0.5]]), "fit")
