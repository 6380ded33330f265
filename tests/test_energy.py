"""Residual energy models: their objectives, chains, and what importance sampling says of log Z.

A statistical test states its false alarms, at most 1e-6 by its bound or for normal means; the seeds are fixed.
"""
import functools
import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npgen
from npgen import checkpoint, data, ops
from npgen.engine import grad
from npgen.kernels import KernelError, using
from npgen.kernels import langevin as langevin_kernel
from npgen.models import VAE, EnergyModel, GaussianMixture
from npgen.models.residual import OBJECTIVES, Residual, contrast, langevin, launch_of
from npgen.random import Stream
from npgen.testing import check_generative_model

MOONS = data.moons(400)
objectives = pytest.mark.parametrize("objective", OBJECTIVES)


def normal(variance, d=1):
    """N(0, variance I), known."""
    return GaussianMixture.from_parameters([1.0], np.zeros((1, d)), [variance * np.eye(d)])


class Flat:
    """A base without a slope."""

    @staticmethod
    def log_prob(z):
        return ops.sum(0.0 * z, axis=1)


def fitted(objective="nce", x=MOONS, **options):
    base = GaussianMixture(2, tol=1e-2, random_state=0)
    return EnergyModel(**{"objective": objective, "hidden": (8,), "base": base, "max_epochs": 3, "random_state": 0,
                          "n_burn": 20, "n_importance": 2000} | options).fit(x)


# ---------------------------------------------------------------- objectives

@objectives
def test_sign_law(objective):
    """E = x^2 / 8 + a x^2 / 2, of data from N(0, 1), at a = 0: the data are narrower than the base, N(0, 4), and a is to grow.

    Of 20,000 rows, d loss / da is -.17 or less, and its standard error .01.
    """
    base, n = normal(4.0), 20_000
    z, chain = Stream(0).normal((n, 1)), 2 * Stream(1).normal((n, 1))

    def loss(a):
        def energy(x):
            return a * ops.sum(ops.square(x), axis=1) / 2
        return np.mean(OBJECTIVES[objective](energy, base, z, Stream(2), chain, 0.5))

    assert grad(loss)(np.array(0.0)) < -0.1


@pytest.mark.parametrize("objective", ["score_matching", "sliced"])
def test_score_matching_of_a_quadratic_is_the_sample_covariance(objective):
    """E = x^T A x / 2 on a flat base: no gradient at A = (X^T X / n)^-1; of the sliced one, on average over slices."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3))
    moment = x.T @ x / len(x)

    def loss(a):
        rows = np.tile(x, (1 if objective == "score_matching" else 500, 1))
        def energy(z):
            return ops.sum((z @ a) * z, axis=1) / 2
        return np.mean(OBJECTIVES[objective](energy, Flat, rows, Stream(1), None, None))

    at = np.linalg.inv(moment)
    g = grad(loss)(at)
    allowed = 1e-10 if objective == "score_matching" else 7 * 2 / math.sqrt(200 * 500)
    assert np.abs(g + g.T).max() < allowed
    away = grad(loss)(1.5 * at)
    assert np.sum(away * at) > 0.1


def test_noise_contrastive_estimation_is_blind_at_the_truth():
    """Where the base is the data's density and f is 0, the gradient vanishes: within 7 standard errors of 50,000 rows."""
    base, n = normal(1.0), 50_000
    z = Stream(0).normal((n, 1))

    def loss(ab):
        return np.mean(OBJECTIVES["nce"](lambda x: ab[0] * x[:, 0] + ab[1], base, z, Stream(1), None, None))

    assert np.abs(grad(loss)(np.zeros(2))).max() < 7 / math.sqrt(n)


# ---------------------------------------------------------------- chains

@pytest.mark.parametrize("step", [0.1, 0.5])
def test_langevin_on_a_normal_has_the_variance_of_its_step_and_mala_none_of_that(step):
    """1 / (1 - step / 2), and 1: of 100,000 chains after 100 steps, within 7 standard errors."""
    n = 100_000
    for adjusted in (False, True):
        z, taken = langevin(lambda z: -ops.sum(ops.square(z), axis=1) / 2, Stream(0).normal((n, 1)), step, 100, Stream(1),
                            adjusted)
        want = 1.0 if adjusted else 1 / (1 - step / 2)
        assert abs(z.var() - want) < 7 * want * math.sqrt(2 / n)
        assert taken == 1 if not adjusted else 0.5 < taken < 1


def test_mala_keeps_a_mixture():
    """Of 50,000 rows of a mixture, moved by 30 long steps: Kolmogorov-Smirnov's distance, alarm 1e-6."""
    target = GaussianMixture.from_parameters([0.3, 0.7], [[-1.0], [1.0]], [[[0.1]], [[0.5]]])
    z = langevin(target.log_prob, target.sample(50_000, rng=0), 0.1, 30, Stream(1), True)[0][:, 0]
    grid = np.linspace(-3, 4, 400)
    from scipy import stats
    cdf = 0.3 * stats.norm.cdf(grid, -1, math.sqrt(0.1)) + 0.7 * stats.norm.cdf(grid, 1, math.sqrt(0.5))
    apart = np.abs(np.searchsorted(np.sort(z), grid) / len(z) - cdf).max()
    assert apart < math.sqrt(math.log(2 / 1e-6) / (2 * len(z)))


def chain_inputs(seed, n, d, w, k, hidden, steps, dtype, triangular=True, shared=False, step=0.05, adjusted=True):
    rng, widths = np.random.default_rng(seed), np.array([d + w, *hidden, 1])
    n_factors = 1 if shared else k
    factor = np.eye(d) + 0.3 * np.triu(rng.normal(size=(n_factors, d, d))) if triangular else 1 + rng.random((n_factors, 1, d))
    rows, params, context = (each.astype(dtype) for each in (
        rng.normal(size=(n, d)), 0.4 * rng.normal(size=((widths[:-1] + 1) * widths[1:]).sum()), rng.normal(size=(n, w))))
    return (rows, params, widths, context, rng.normal(size=d), 1 + rng.random(d), rng.normal(size=k), rng.normal(size=(k, d)),
            factor, steps, step, adjusted, 5, 6, int(rng.integers(2**40)), int(rng.integers(2**40)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), n=st.sampled_from([0, 1, 61, 130]), d=st.sampled_from([0, 1, 2, 17]), w=st.integers(0, 2),
       k=st.integers(1, 4), hidden=st.sampled_from([(3,), (20, 9), (4, 17, 6), (5, 4, 3, 2)]), steps=st.integers(0, 4),
       triangular=st.booleans(), shared=st.booleans(), adjusted=st.booleans())
def test_chains_are_the_references(dtype, seed, n, d, w, k, hidden, steps, triangular, shared, adjusted):
    """But for rows whose uniform is within rounding of their chance: not one of float64, at most one of float32."""
    args = chain_inputs(seed, n, d, w, k, hidden, steps, dtype, triangular, shared, 0.1, adjusted)
    with using("reference"):
        want, want_taken = langevin_kernel.chain(*args)
    got, taken = langevin_kernel.chain(*args)
    assert got.dtype == dtype and got.shape == (n, d) and taken.dtype == np.float64 and taken.shape == (n,)
    loose = 1e-4 if dtype == np.float32 else 1e-11
    off = (np.abs(got - want).max(axis=1, initial=0) > loose) | (taken != want_taken)
    assert off.sum() <= (1 if dtype == np.float32 else 0)


def test_no_thread_and_no_other_row_has_a_say_in_a_chain():
    """More steps than normals of a row are drawn for at a time."""
    args = chain_inputs(0, 150, 3, 1, 2, (8, 5), 200, np.float32)
    whole = langevin_kernel.chain(*args)
    few = langevin_kernel.chain(args[0][:70].copy(), *args[1:3], args[3][:70].copy(), *args[4:])
    assert all(a.tobytes() == b[:70].tobytes() for a, b in zip(few, whole, strict=True))
    before = numba.get_num_threads()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            assert all(a.tobytes() == b.tobytes() for a, b in zip(langevin_kernel.chain(*args), whole, strict=True))
    finally:
        numba.set_num_threads(before)


class Noise:
    """What a stream gives, given."""

    def __init__(self, *arrays):
        self.arrays = list(arrays)

    def spawn(self):
        return self

    def normal(self, *shape, like):
        return self.arrays.pop(0)

    uniform = normal


@pytest.mark.parametrize("adjusted", [True, False], ids=["mala", "langevin"])
@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_the_kernels_step_is_that_of_the_chain_in_ops(covariance, adjusted):
    """Of a fitted mixture and f given a context: one step with the same noise, to rounding, and as many rows that take it."""
    x = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 2, 3] + 1
    c, base = x[:, :2] / 3, GaussianMixture(2, covariance_type=covariance, random_state=0).fit(x)
    part, key = Residual(3, (9, 6), 2), Stream(3).spawn().key
    p = {name: Stream(1).normal(shape, np.float64) for name, shape in part.shapes().items()}
    noise = (Stream(key=key).normal((200, 3), np.float64), Stream(key=key, counter=1000).uniform(200, np.float64))
    want, share = langevin(lambda z: base.log_prob(z) - part(p, z, c), x, 0.3, 1, Noise(*noise), adjusted)
    got, taken = langevin_kernel.chain(*part.launch(p, x, c), *launch_of(base), 1, 0.3, adjusted, *key, 0, 128_000)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    assert taken.mean() == share and (not adjusted or 0.1 < share < 0.95)


FLAT = np.zeros(7), np.array([1, 2, 1])  # f = 0 of a column


@pytest.mark.parametrize("step", [0.1, 0.5])
def test_the_kernels_chains_on_a_normal_have_the_variance_of_their_step_and_malas_none_of_that(step):
    """1 / (1 - step / 2), and 1: of 100,000 chains after 100 steps, within 7 standard errors."""
    n, one = 100_000, np.ones(1)
    for adjusted in (False, True):
        z, taken = langevin_kernel.chain(Stream(0).normal((n, 1)), *FLAT, np.zeros((n, 0)), 0 * one, one, 0 * one,
                                         np.zeros((1, 1)), np.ones((1, 1, 1)), 100, step, adjusted, 7, 8, 0, 2**40)
        want = 1.0 if adjusted else 1 / (1 - step / 2)
        assert abs(z.var() - want) < 7 * want * math.sqrt(2 / n)
        assert (taken == 100).all() if not adjusted else 50 < taken.mean() < 100


def test_the_kernels_mala_keeps_a_mixture_and_its_energy():
    """Of 50,000 rows of a mixture, moved by 30 long steps: Kolmogorov-Smirnov's distance, alarm 1e-6; and of N(0, 1) with an
    energy, from rows of N(0, 1) on: the variance by quadrature, within 7 standard errors.
    """
    from scipy import stats
    target = GaussianMixture.from_parameters([0.3, 0.7], [[-1.0], [1.0]], [[[0.1]], [[0.5]]])
    n, grid = 50_000, np.linspace(-4, 4, 801)
    given = *FLAT, np.zeros((n, 0)), *launch_of(target)
    z = langevin_kernel.chain(target.sample(n, rng=0), *given, 30, 0.1, True, 7, 8, 0, 2**40)[0]
    cdf = 0.3 * stats.norm.cdf(grid, -1, math.sqrt(0.1)) + 0.7 * stats.norm.cdf(grid, 1, math.sqrt(0.5))
    assert np.abs(np.searchsorted(np.sort(z[:, 0]), grid) / n - cdf).max() < math.sqrt(math.log(2 / 1e-6) / (2 * n))

    params = np.array([1.0, -1, 0, 0, 1.4, 1.4, 0])  # f = 1.4 (SiLU(z) + SiLU(-z))
    f = 1.4 * grid * np.tanh(grid / 2)
    p = np.exp(-grid**2 / 2 - f)
    given = params, FLAT[1], np.zeros((n, 0)), *launch_of(normal(1.0))
    moved = langevin_kernel.chain(Stream(0).normal((n, 1)), *given, 100, 0.2, True, 7, 8, 0, 2**40)[0]
    assert abs(moved.var() - (p * grid**2).sum() / p.sum()) < 7 * moved.var() * math.sqrt(3 / n)


def test_what_is_no_energy_is_refused_by_the_kernel():
    args = chain_inputs(0, 3, 2, 1, 2, (4,), 1, np.float64)
    for widths in ([3, 1], [2, 4, 1], [3, 4, 2]):
        with pytest.raises(KernelError, match=r"widths are .*, but z has 2 columns and context 1, and f is one number"):
            langevin_kernel.chain(*args[:2], np.array(widths), *args[3:])


@pytest.mark.parametrize("sampler", ["mala", "langevin"])
def test_a_step_beyond_numbers_is_not_taken(sampler):
    """A base far narrower than the step: what is proposed overflows in the end, and rows stay numbers."""
    args = list(chain_inputs(0, 20, 2, 0, 1, (4,), 40, np.float64, step=1e200, adjusted=sampler == "mala"))
    for backend in ("reference", "numba"):
        with using(backend):
            assert np.isfinite(langevin_kernel.chain(*args)[0]).all()


# ---------------------------------------------------------------- the model

class Still:
    """An optimiser that takes no step."""

    def init(self, flat):
        return {}

    def update(self, flat, gradient, moments, scale, clock):
        pass


def without_energy(model):
    """The model with f = 0, and what then is known of log Z."""
    model.params_.flat[:] = 0
    return model


def test_without_an_energy_it_is_its_base_bit_for_bit():
    for dtype in (np.float32, np.float64):
        model = without_energy(fitted(x=MOONS.astype(dtype), preprocess=None))
        x = MOONS.astype(dtype)
        assert model.log_prob(x).tobytes() == model.base_.log_prob(x).tobytes()
    untrained = fitted(optimizer=Still(), preprocess=None)
    assert untrained.log_z_ == 0 and untrained.log_z_error_ == 0 and untrained.effective_sample_size_ == 2000
    assert untrained.log_prob(MOONS).tobytes() == untrained.base_.log_prob(MOONS).tobytes()


@pytest.mark.parametrize("slope", [-3.0, 3.0])
def test_far_out_the_base_has_the_last_word(slope):
    """However steeply the energy falls: the density of a row vanishes, and is neither infinite nor no number."""
    model = fitted(preprocess=None)
    model.params_["f.0.weight"][...], model.params_["f.1.weight"][...] = 1, slope
    for dtype in (np.float32, np.float64):
        for far in (1e30, np.finfo(dtype).max):
            assert (model.log_prob(np.array([[far, far], [-far, far], [0, -far]], dtype)) < -1e37).all()


@objectives
def test_the_density_integrates_to_one(objective):
    """By quadrature, within 5 standard errors of log Z and the grid's .002."""
    model = fitted(objective, max_epochs=20, learning_rate=0.01, n_importance=20_000)
    axis = np.linspace(-6, 6, 400)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(model.log_prob(grid)).sum() * (axis[1] - axis[0])**2
    assert abs(math.log(total)) < 5 * model.log_z_error_ + 2e-3
    assert 0 < model.effective_sample_size_ <= 20_000 and 0.3 < model.acceptance_ <= 1
    np.testing.assert_allclose(model.log_prob(MOONS), model.base_.log_prob(model.preprocess_.to_noise(None, MOONS)[0])
                               - model.energy(MOONS) - model.log_z_ + model.preprocess_.to_noise(None, MOONS)[1], rtol=1e-9)


@objectives
def test_it_learns_what_its_base_cannot_hold(objective):
    """Two moons, of which the base is one Gaussian."""
    x = data.moons(1500)
    model = fitted(objective, x, base=GaussianMixture(1), hidden=(32, 32), max_epochs=20, learning_rate=0.01, sigma=0.2,
                   step=0.1)
    base = GaussianMixture(1).fit(x).score(x)
    assert model.score(x) > base + 0.2


def test_samples_follow_the_density():
    """20,000 rows by MALA: the mean of each column against that by quadrature, within 7 standard errors and .02."""
    model = fitted(max_epochs=30, learning_rate=0.01, hidden=(16,), n_burn=200, step=0.1, base=GaussianMixture(1))
    axis = np.linspace(-6, 6, 400)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    p = np.exp(model.log_prob(grid)) * (axis[1] - axis[0])**2
    drawn = model.sample(20_000, rng=0)
    for moment in (lambda x: x, np.square):
        values = moment(drawn)
        off = np.abs(values.mean(axis=0) - p @ moment(grid) / p.sum())
        assert (off < 7 * values.std(axis=0) / math.sqrt(20_000) + 0.02).all()


def test_the_number_of_rows_changes_no_row_of_a_sample():
    model = fitted()
    np.testing.assert_allclose(model.sample(70, rng=3)[:5], model.sample(5, rng=3), rtol=1e-9)


@pytest.mark.parametrize("objective", ["pcd", "nce", "sliced"])
def test_a_run_goes_on_with_its_chains_to_the_same_bits(objective, tmp_path):
    def die(entry):
        if entry["epoch"] == 2:
            raise InterruptedError

    build = functools.partial(EnergyModel, objective=objective, hidden=(8,), base=GaussianMixture(2, tol=1e-2), max_epochs=4,
                              random_state=0, n_importance=100)
    whole = build().fit(MOONS)
    with pytest.raises(InterruptedError):
        build(callbacks=[die]).fit(MOONS, checkpoint=tmp_path / "run")
    again = build().fit(MOONS, checkpoint=tmp_path / "run", resume=True)
    assert again.params_.flat.tobytes() == whole.params_.flat.tobytes() and again.history_ == whole.history_
    assert again.base_.log_prob(MOONS).tobytes() == whole.base_.log_prob(MOONS).tobytes()


def test_its_file_has_its_base(tmp_path):
    model = fitted()
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    assert again.log_prob(MOONS).tobytes() == model.log_prob(MOONS).tobytes() and again.normaliser == model.normaliser
    assert again.sample(5, rng=0).tobytes() == model.sample(5, rng=0).tobytes()
    assert again.encode(MOONS).shape == (400, 2)


AGES = np.tile([-1.0, 0.0, 1.0, 1.0], 100)
CONDITIONAL = npgen.MAF(n_layers=1, hidden=(8,), max_epochs=30, learning_rate=0.01, random_state=0)


@pytest.mark.parametrize("objective", ["nce", "pcd"])
@pytest.mark.parametrize("base", [GaussianMixture(1), CONDITIONAL], ids=["base given nothing", "base given it"])
def test_given_a_context_the_density_integrates_to_one(base, objective):
    """By quadrature, within 5 standard errors of each context's log Z and the grid's .002; of another's it would not."""
    x = MOONS + np.column_stack([2 * AGES, 0 * AGES])
    model = EnergyModel(hidden=(16,), base=base, objective=objective, max_epochs=20, learning_rate=0.01, random_state=0,
                        n_importance=5000).fit(x, context=AGES)
    axis = np.linspace(-8, 8, 400)
    grid, ages = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), [-1.0, 0.3, 1.0]
    known = model.log_z(ages)
    for age, (log_z, error, size) in zip(ages, known, strict=True):
        total = np.exp(model.log_prob(grid, context=age)).sum() * (axis[1] - axis[0])**2
        assert abs(math.log(total)) < 5 * error + 2e-3 and 0 < size <= 5000
        z, log_det = model.preprocess_.to_noise(None, x)
        f, c = model.energy(x, context=age), model.context_.encode("", [age], np.float64)
        its = {} if model.base_.context_ is None else {"context": np.repeat(c, len(z), axis=0)}
        np.testing.assert_allclose(model.log_prob(x, context=age), model.base_.log_prob(z, **its) - f - log_z + log_det,
                                   rtol=1e-9, atol=1e-9)
    assert np.ptp(known[:, 0]) > 0.02 and 0.3 < model.acceptance_ < 1
    assert model.score(x, context=AGES) > model.score(x, context=np.where(AGES, -AGES, 1.0)) + 0.5


def test_samples_given_a_context_move_with_it():
    x = MOONS + np.column_stack([2 * AGES, 0 * AGES])
    model = EnergyModel(hidden=(16,), base=GaussianMixture(1), max_epochs=20, learning_rate=0.01, random_state=0, step=0.1,
                        n_burn=300, n_importance=1000).fit(x, context=AGES)
    low, high = model.sample(400, context=[-1.0, 1.0], rng=0)[..., 0].mean(axis=1)
    assert 2.5 < high - low < 5.5  # 4, and what a short fit gets of it
    np.testing.assert_allclose(model.sample(70, context=1.0, rng=3)[:5], model.sample(5, context=1.0, rng=3), rtol=1e-9)


@pytest.mark.parametrize("wrong", [False, True])
def test_the_checker_holds_draws_to_the_density(monkeypatch, wrong):
    """Up to log Z's error, and where log Z is of no account without it: not draws that are a third too far out."""
    model = EnergyModel(hidden=(16,), base=GaussianMixture(1), max_epochs=20, learning_rate=0.02, random_state=0,
                        n_importance=20_000).fit(MOONS)
    laws = ["probability integral transform", "samples follow the density along slices",
            "a Metropolis step leaves samples alone"]
    if wrong:
        sample = EnergyModel.sample
        monkeypatch.setattr(EnergyModel, "sample", lambda self, n, rng: 4 / 3 * sample(self, n, rng=rng))
    report = check_generative_model(model, laws=laws, n_samples=10_000)
    assert not any(report[law].skipped for law in laws) and report.broken == (laws if wrong else [])


def test_its_file_has_its_context(tmp_path):
    model = EnergyModel(hidden=(8,), base=npgen.MAF(n_layers=1, hidden=(8,), max_epochs=1), max_epochs=1, random_state=0,
                        n_importance=500).fit(MOONS, context=AGES)
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    assert again.log_prob(MOONS, context=0.5).tobytes() == model.log_prob(MOONS, context=0.5).tobytes()
    assert again.acceptance_ == model.acceptance_ and 0.3 < model.acceptance_ <= 1
    assert again.normaliser == ("of each context its own, by importance sampling; the sampler takes "
                                f"{model.acceptance_:.0%} of its steps")
    with pytest.raises(AttributeError, match=r"each of which has its own; ask log_z\(context\)"):
        again.log_z_error_  # noqa: B018


def test_an_older_file_with_a_context_knows_no_share_of_steps(tmp_path):
    """Such files were without the parameter that has it; what else is in them is as it was."""
    model = EnergyModel(hidden=(8,), base=GaussianMixture(2, tol=1e-2), max_epochs=1, random_state=0, n_importance=500)
    model.fit(MOONS, context=AGES).save(tmp_path / "m")
    arrays, header = checkpoint.read(tmp_path / "m")
    del arrays["params.estimates"]
    header["fitted"]["params_"].remove("estimates")
    checkpoint.write(tmp_path / "m", arrays, header)
    again = npgen.load(tmp_path / "m")
    assert again.log_prob(MOONS, context=0.5).tobytes() == model.log_prob(MOONS, context=0.5).tobytes()
    assert again.sample(3, context=0.5, rng=0).tobytes() == model.sample(3, context=0.5, rng=0).tobytes()
    assert math.isnan(again.acceptance_) and again.normaliser.endswith("; the sampler takes an unknown share of its steps")
    again.save(tmp_path / "again")
    assert math.isnan(npgen.load(tmp_path / "again").acceptance_)
    with pytest.raises(npgen.LoadError, match="the parameters have shapes"):  # one without a context never was without it
        header["fitted"]["context_"] = None
        checkpoint.write(tmp_path / "m", arrays, header)
        npgen.load(tmp_path / "m")


def test_given_a_context_a_chain_is_of_its_rows_context():
    """f = a c x, at a = 0, of data N(c, 1) and chains N(-c, 1): d loss / da = E c (z - chain) = 2 E c^2 = 2, of 20,000 rows
    within 7 standard errors."""
    c, z, chain = (Stream(k).normal((20_000, 1)) for k in range(3))

    def loss(a):
        return np.mean(contrast(lambda x: (a * c * x)[:, 0], None, z + c, None, chain - c, None))

    assert abs(grad(loss)(np.array(0.0)) - 2) < 7 * math.sqrt(10 / 20_000)


def test_a_run_given_a_context_goes_on_to_the_same_bits(tmp_path):
    build = functools.partial(EnergyModel, objective="pcd", hidden=(8,), base=GaussianMixture(2, tol=1e-2), random_state=0)
    build(max_epochs=2).fit(MOONS, context=AGES, checkpoint=tmp_path / "run")
    again = build(max_epochs=4).fit(MOONS, context=AGES, checkpoint=tmp_path / "run", resume=True)
    assert again.params_.flat.tobytes() == build(max_epochs=4).fit(MOONS, context=AGES).params_.flat.tobytes()


def test_what_it_cannot_be_is_refused():
    for name, value in (("objective", "mle"), ("sampler", "hmc"), ("step", 0), ("sigma", math.nan), ("n_chains", 0),
                        ("n_steps", 1.5), ("n_burn", None), ("n_importance", "9"), ("hidden", ()), ("base", VAE()),
                        ("base", 3)):
        with pytest.raises(ValueError, match=f"{name} must"):
            fitted(**{name: value})
    with pytest.raises(npgen.NotFittedError):
        EnergyModel().log_z_  # noqa: B018
