"""Optimisers against the published algorithms, written plainly in float64."""
import numpy as np
import pytest

from npgen.optim import SGD, Adam

RNG = np.random.default_rng(0)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def at(step, rate):
    """The clock of a step with this learning rate."""
    return np.array([step, rate, 0, 0.0])


def plain_adam(theta, gradients, lr, beta1, beta2, eps, scale):
    """Algorithm 1 of Kingma & Ba (2015)."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        g = scale * g
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        theta = theta - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return theta


@dtypes
@pytest.mark.parametrize("settings", [{}, {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3}, {"beta1": 0.0}, {"beta2": 0.0}], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_adam_is_the_published_algorithm(dtype, settings, scale):
    start = RNG.normal(size=300).astype(dtype)
    gradients = (RNG.normal(size=(200, 300)) * np.logspace(-4, 3, 300)).astype(dtype)
    flat, kept, optimizer = start.copy(), gradients.copy(), Adam(**settings)
    moments = optimizer.init(flat)
    for step, g in enumerate(gradients, start=1):
        optimizer.update(flat, g, moments, np.full(1, scale, dtype), at(step, 1e-2))
    o = optimizer
    want = plain_adam(start.astype(float), gradients.astype(float), 1e-2, o.beta1, o.beta2, o.eps, scale)
    np.testing.assert_allclose(flat, want, rtol=0, atol=2000 * np.finfo(dtype).eps)
    assert flat.dtype == moments["m"].dtype == moments["v"].dtype == dtype
    np.testing.assert_array_equal(gradients, kept)


@dtypes
def test_adams_first_step_is_the_rate_whatever_the_gradients_scale(dtype):
    for g in (1e-3, 1.0, 1e6):
        flat = np.zeros(4, dtype)
        optimizer = Adam()
        optimizer.update(flat, np.array([g, -g, 2 * g, g], dtype), optimizer.init(flat), np.ones(1, dtype), at(1, 0.01))
        np.testing.assert_allclose(flat, [-0.01, 0.01, -0.01, -0.01], rtol=1e-4)


@dtypes
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_its_formula(dtype, momentum):
    start, gradients = RNG.normal(size=20).astype(dtype), RNG.normal(size=(30, 20)).astype(dtype)
    flat, optimizer = start.copy(), SGD(momentum)
    moments = optimizer.init(flat)
    theta, b = start.astype(float), np.zeros(20)
    for step, g in enumerate(gradients, start=1):
        optimizer.update(flat, g, moments, np.full(1, 0.5, dtype), at(step, 0.1))
        b = momentum * b + 0.5 * g
        theta = theta - 0.1 * b
    assert flat.dtype == dtype
    np.testing.assert_allclose(flat, theta, atol=100 * np.finfo(dtype).eps)


@dtypes
@pytest.mark.parametrize("optimizer", [Adam(), SGD(0.9)], ids=["Adam", "SGD"])
@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_step_whose_scale_is_not_finite_changes_nothing(dtype, optimizer, scale):
    flat, g = RNG.normal(size=20).astype(dtype), RNG.normal(size=20).astype(dtype)
    moments = optimizer.init(flat)
    optimizer.update(flat, g, moments, np.ones(1, dtype), at(1, 0.1))
    before = [a.tobytes() for a in (flat, *moments.values())]
    with np.errstate(invalid="ignore"):
        optimizer.update(flat, g, moments, np.full(1, scale, dtype), at(2, 0.1))
    assert [a.tobytes() for a in (flat, *moments.values())] == before


@pytest.mark.parametrize("build, message", [
    (lambda: Adam(beta1=1.0), "beta1 and beta2 must be in .0, 1., got 1.0 and 0.999"),
    (lambda: Adam(beta2=-0.1), "got 0.9 and -0.1"),
    (lambda: Adam(beta1=float("nan")), "got nan"), (lambda: Adam(eps=0), "eps must be positive, got 0"),
    (lambda: SGD(momentum=1.0), "momentum must be in .0, 1., got 1.0")])
def test_settings_that_cannot_be_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
