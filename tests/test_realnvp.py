"""RealNVP: every step is invertible with the log-determinant of its Jacobian, and the whole is a density of the plane."""
import math

import numpy as np
import pytest

from npgen import data
from npgen.engine import jacobian
from npgen.fused import COUPLING_LIMIT
from npgen.models import RealNVP
from npgen.priors import Mixture
from npgen.random import Stream
from npgen.transforms import AffineCouplings

RNG = np.random.default_rng(0)


def flow(n_kept, d, hidden):
    """Steps that keep the first n_kept features of some order."""
    return AffineCouplings("flow", np.stack([RNG.permutation(d) for _ in n_kept]), n_kept, hidden), d


STEPS = {
    "2 of 5 kept": flow([2], 5, (8,)),
    "3 of 5 kept, deep": flow([3], 5, (8, 7)),
    "linear": flow([1], 3, ()),
    "nothing kept": flow([0], 1, (4,)),
    "nothing moved": flow([1], 1, (4,)),
    "three steps": flow([2, 3, 2], 5, (8,)),
}
steps = pytest.mark.parametrize("name", STEPS)


def step_and_rows(name):
    """A step with parameters away from their start, and rows."""
    step, d = STEPS[name]
    x = RNG.normal(size=(6, d)) * 2 + 1
    return step, {k: np.asarray(a + 0.5 * RNG.normal(size=a.shape)) for k, a in step.init(x, None, Stream(0)).items()}, x


@steps
def test_a_steps_two_directions_are_inverse(name):
    step, params, x = step_and_rows(name)
    z, inverse = step.to_noise(params, x)
    back, forward = step.to_data(params, z)
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(forward, -inverse, rtol=1e-12, atol=1e-12)
    there, _ = step.to_noise(params, step.to_data(params, x)[0])
    np.testing.assert_allclose(there, x, rtol=1e-10, atol=1e-10)


@steps
@pytest.mark.parametrize("direction", ["to_noise", "to_data"])
def test_a_steps_log_det_is_that_of_its_jacobian(name, direction):
    step, params, x = step_and_rows(name)
    go = getattr(step, direction)
    log_det = np.broadcast_to(go(params, x)[1], len(x))
    for row, value in zip(x, log_det, strict=True):
        j = jacobian(lambda r: go(params, r[None])[0][0])(row)
        assert math.isclose(np.linalg.slogdet(j)[1], value, rel_tol=1e-10, abs_tol=1e-10)


def test_a_flow_starts_from_zero_mean_and_unit_variance_with_the_halves_changed():
    x = RNG.normal(size=(500, 4)) * [1e-3, 1, 30, 0] + [5, 0, -100, 2]
    steps = AffineCouplings("flow", np.array([[0, 1, 2, 3]]), [1], (8,))
    z, log_det = steps.to_noise(steps.init(x, None, Stream(0)), x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(axis=0), [1, 1, 0, 1], atol=1e-9)  # a constant keeps its scale
    np.testing.assert_allclose(log_det, -np.log(x.std(axis=0)[:3]).sum(), rtol=1e-9)
    np.testing.assert_allclose(z[:, 3], (x[:, 0] - x[:, 0].mean()) / x[:, 0].std(), rtol=1e-9)


def test_a_couplings_scale_is_bounded():
    steps, x = AffineCouplings("flow", np.array([[0, 1]]), [1], ()), np.array([[1e30, 3.0], [-1e30, 3.0]])
    params = {"flow": np.array([0, 0, 0, 0, 1, 1, 1, 1.0])}
    np.testing.assert_allclose(steps.to_noise(params, x)[1], [-COUPLING_LIMIT, COUPLING_LIMIT])


@pytest.mark.filterwarnings("ignore:.*of one column is one Gaussian")
@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("n_couplings", [2, 4])
def test_every_feature_is_moved_by_one_of_two_couplings(d, n_couplings):
    model = RealNVP(n_couplings=n_couplings, hidden=(4,), max_epochs=1, random_state=0).fit(RNG.normal(size=(20, d)))
    layout, params = model.inner().parts["flow"].layout, np.zeros_like(model.params_["flow"])
    for k, net in enumerate(layout.nets):
        outputs = net.widths[-1]
        params[layout.part(k)][net.size + 2 * d - outputs:][:outputs // 2] = 0.7  # s = 0.7, t = 0, always
    params = {"flow": params}
    j = jacobian(lambda row: model.inner().represent(row[None], p=params)[0])(RNG.normal(size=d))
    s = 3 * math.tanh(0.7 / 3)
    np.testing.assert_allclose(np.sort(np.abs(j).sum(axis=0)), math.exp(-s * n_couplings / 2), rtol=1e-12)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_every_noise_depends_on_every_feature(d):
    model = RealNVP(n_couplings=6, hidden=(16,), max_epochs=1, random_state=0).fit(RNG.normal(size=(40, d)))
    params = {k: a + 0.3 * RNG.normal(size=a.shape) for k, a in model.params_.items()}
    j = [jacobian(lambda row: model.inner().represent(row[None], p=params)[0])(row) for row in RNG.normal(size=(20, d))]
    assert (np.abs(j).max(axis=0) > 1e-6).all()


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def moons(request):
    x = data.moons(1000).astype(request.param)
    return RealNVP(max_epochs=12, random_state=0).fit(x), x


def test_moons_density_integrates_to_one_over_the_plane(moons):
    model, _ = moons
    h = 0.06
    axis = np.arange(-9, 9, h) + h / 2
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = math.fsum(np.exp(model.log_prob(points))) * h * h
    assert math.isclose(total, 1, abs_tol=1e-3)


def test_moons_are_encoded_and_decoded_to_rounding(moons):
    model, x = moons
    assert np.abs(model.decode(model.encode(x)) - x).max() <= (1e-5 if x.dtype == np.float32 else 1e-10)
    noise = RNG.normal(size=(1000, 2)).astype(x.dtype)
    assert np.abs(model.encode(model.decode(noise)) - noise).max() <= (1e-3 if x.dtype == np.float32 else 1e-10)


def test_moons_are_learnt(moons):
    model, _ = moons
    held_out = data.moons(2000, seed=1).astype(model.dtype_)
    gaussian = -0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(held_out.T))[1]
    assert model.score(held_out) > gaussian + 0.25


def test_the_two_directions_of_the_model(moons):
    model, x = moons
    flow = model.inner().parts["flow"]
    z, log_det = flow.to_noise(model.params_, x[:50])
    back, forward = flow.to_data(model.params_, z)
    tolerance = 1e-4 if x.dtype == np.float32 else 1e-10
    np.testing.assert_allclose(back, x[:50], atol=tolerance)
    np.testing.assert_allclose(forward, -log_det, atol=tolerance)


def test_over_a_base_of_normals_one_column_has_two_peaks():
    """Two normals 8 standard deviations apart, where one normal is 0.7 nats off: within 0.1 of their entropy, six standard
    errors of 2,000 rows."""
    rng = np.random.default_rng(0)
    x = (4 * rng.choice([-1, 1], size=4000) + rng.normal(size=4000))[:, None]
    model = RealNVP(n_couplings=2, hidden=(4,), base=Mixture(4), max_epochs=20, learning_rate=0.03, random_state=0)
    model.fit(x[:2000])
    entropy = math.log(2) + math.log(2 * math.pi * math.e) / 2
    assert abs(model.log_prob(x[2000:]).mean() + entropy) < 0.1
    axis = np.linspace(-12, 12, 2001)
    assert np.exp(model.log_prob(axis[:, None])).sum() * (axis[1] - axis[0]) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(model.decode(model.encode(x)), x, atol=1e-5)
    assert abs(np.mean(model.sample(4000, rng=0) > 0) - 0.5) < 0.05
