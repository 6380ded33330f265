"""Laws of flow matching and diffusion: against closed forms, and of their solvers; each beside a mistake that it finds.

The closed forms are of a mixture of Gaussians: what F of models/ode.py is where all is known. A statistical law raises a false
alarm for fewer than one seed in a million (six standard errors of a mean of 40,000 rows or more), and the seeds are fixed.
"""
import functools
import itertools
import math

import mutants
import numpy as np
import pytest
import test_trajectory
from scipy import stats
from scipy.special import logsumexp

import npgen
from npgen import checkpoint, data, ops
from npgen.engine import grad
from npgen.models import Diffusion, FlowMatching
from npgen.models.flow_matching import paired
from npgen.models.ode import FIRST_LAYERS, TARGETS, expected
from npgen.nn import MLP
from npgen.ode import N_FEATURES, SOLVERS, integrate
from npgen.random import Stream
from npgen.testing import check_generative_model

MEANS = np.array([[1.0, -0.5], [-0.8, 0.9], [0.2, 0.1]])
STDS, WEIGHTS = np.array([0.3, 0.5, 0.2]), np.array([0.5, 0.3, 0.2])
QUICK = {"hidden": (12,), "max_epochs": 3, "batch_size": 64, "learning_rate": 3e-3, "preprocess": None, "random_state": 0}
KINDS = {"FlowMatching": FlowMatching, "Diffusion": Diffusion}
kinds = pytest.mark.parametrize("kind", KINDS)
RNG = np.random.default_rng(0)


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    k = rng.choice(3, size=n, p=WEIGHTS)
    return MEANS[k] + STDS[k, None] * rng.normal(size=(n, 2))


def log_density(x):
    square = ((x[:, None] - MEANS)**2).sum(axis=2) / STDS**2
    return logsumexp(np.log(WEIGHTS) - square / 2 - np.log(2 * np.pi * STDS**2), axis=1)


@functools.cache
def fitted(kind, n_steps=40, **more):
    return KINDS[kind](n_steps=n_steps, **QUICK | more).fit(rows(400))


class Known:
    """Stands for a fitted Trajectory: F of the mixture, by E[x | w], for w = alpha x + sigma eps in units of a scale."""

    name = "ode"

    def __init__(self, known, scale, first=0.0):
        self.path, self.rate, self.scale, self.first, self.field = known.path, known.rate, scale, first, self

    def to(self, place):
        return self

    def of(self, w, tau, means=MEANS, stds=STDS, weights=WEIGHTS):
        """E[-(alpha' x + sigma' eps) | w] = (E[x | w] - sigma' w) / sigma, as eps = (w - alpha x) / sigma."""
        alpha, sigma, _, d_sigma = self.path(np.asarray(tau, np.float64))
        alpha, sigma, d_sigma = (np.reshape(a, (-1, 1)) for a in (alpha, sigma, d_sigma))
        means, var = means / self.scale, (stds / self.scale)**2
        total = alpha**2 * var + sigma**2  # (n, 3)
        off = np.expand_dims(w, 1) - np.expand_dims(alpha, 1) * means
        r = ops.softmax(np.log(weights) - ops.sum(off**2, axis=2) / (2 * total) - np.log(total), axis=1)
        x = ops.sum(np.expand_dims(r, 2) * (means + np.expand_dims(alpha * var / total, 2) * off), axis=1)
        return (x - d_sigma * w) / np.maximum(sigma, 1e-12)

    def __call__(self, p, w, c, e):
        return self.of(w, np.arccos(np.clip(np.asarray(e, np.float64)[:, 0], -1, 1)) / np.pi)  # whose first is cos(pi tau)

    def velocity(self, p, w, contexts, shares, tau):
        return self.of(w, tau)

    def _solved(self, w, n_steps, solver, start, sign):
        alpha, beta = map(np.array, SOLVERS[solver])
        tau = np.maximum(start + sign * (np.arange(n_steps)[:, None] + alpha) / n_steps, self.first)

        def velocity(w, t, s):
            div = sum(grad(lambda w, k=k: np.sum(self.of(w, tau[t, s])[:, k]))(w)[:, k] for k in range(2))
            return self.of(w, tau[t, s]), div
        return integrate(velocity, w, sign / n_steps * self.rate(tau), alpha, beta)

    def to_noise(self, p, w, contexts, shares, n_steps, solver="rk4", want=True):
        return self._solved(w, n_steps, solver, 0.0, 1.0)

    def to_data(self, p, w, contexts, shares, n_steps, solver="rk4"):
        return self._solved(w, n_steps, solver, 1.0, -1.0)[0]


class OfMixture(Known):
    """F by the score of a GaussianMixture of npgen, of the rows with noise: its log_prob, differentiated by its engine."""

    def of(self, w, tau):
        tau = np.clip(tau, 1e-3 if self.first else 0, 1 - 1e-5)  # at the ends F is 0 / 0
        alpha, sigma, _, d_sigma = (float(a) for a in self.path(tau))
        noisy = mixture((alpha / self.scale)**2, alpha / self.scale, sigma**2)
        score = grad(lambda w: np.sum(noisy.log_prob(w)))(w)
        return ((w + sigma**2 * score) / alpha - d_sigma * w) / sigma  # Tweedie's, as in Known.of


def mixture(times=1.0, scale=1.0, more=0.0):
    """The mixture as a GaussianMixture, its means scaled, its variances some times as large and more."""
    return npgen.GaussianMixture.from_parameters(WEIGHTS, scale * MEANS, [(times * s**2 + more) * np.eye(2) for s in STDS])


def known(kind, n_steps=40, **more):
    """A model whose equation is that of the mixture."""
    model = KINDS[kind](n_steps=n_steps, **QUICK | {"max_epochs": 1} | more).fit(rows(400))
    first = 1e-3 if kind == "FlowMatching" else 0.0  # F is 0 / 0 where there is no noise
    model.install({"ode": Known(model.inner().parts["ode"], model.scale_, first)})
    return model


# ---------------------------------------------------------------- closed forms

@kinds
def test_the_equation_of_a_known_field_has_the_mixtures_density(kind):
    """And decode inverts encode, up to the solver. Of diffusion where noise is large: what is left of a mean is not."""
    model, x = known(kind, 120, **{"sigma_max": 1000.0} if kind == "Diffusion" else {}), rows(100, seed=1)
    assert abs(model.log_prob(x) - log_density(x)).max() < 5e-3
    z = model.encode(x)
    assert abs(model.decode(z) - x).max() < 5e-3


@kinds
def test_the_equation_of_a_mixtures_score_has_the_density_that_the_mixture_says(kind):
    """Two implementations judge each other: a GaussianMixture gives the score, and log_prob, and the equation connects them.

    Diffusion's prior is off by what is left of the rows at sigma_max, flow matching's first and last thousandth of the way.
    """
    model = known(kind, 60, **{"sigma_max": 1000.0} if kind == "Diffusion" else {})
    ode, x = model.inner().parts["ode"], rows(20, seed=1)
    model.install({"ode": OfMixture(ode, model.scale_, ode.first)})
    np.testing.assert_allclose(model.log_prob(x), mixture().log_prob(x), rtol=0, atol=2e-3)
    np.testing.assert_allclose(mixture().log_prob(x), log_density(x), rtol=1e-9)


@kinds
@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_least_at_the_known_field(kind, target):
    """E[(target - F*) g(w)] = 0 for any g: F* + g and F* - g lose the same, and both more than F*; of batches, too."""
    model = known(kind, target=target)
    inner, ode = model.inner(np.float64), model.inner().parts["ode"]
    batches, of = rows(40_000, seed=2).reshape(800, 50, 2), ode.of
    losses = {}
    for sign in (1, 0, -1):
        ode.of = lambda w, tau, sign=sign: of(w, tau) + sign * 0.1 * np.stack([w[:, 0], np.sin(3 * w[:, 1])], axis=1)
        losses[sign] = np.array([np.mean(inner.loss(z, Stream(k))) for k, z in enumerate(batches)])
    cross = losses[1] - losses[-1]
    assert abs(cross.mean()) < 6 * cross.std() / len(cross)**0.5
    assert losses[0].mean() < min(losses[1].mean(), losses[-1].mean())


@pytest.mark.parametrize("given", ["", "weights", "context", "weights and context"])
def test_what_a_batch_says_of_noise_is_bayes_rule_among_rows_of_the_same_context(given):
    """And a row's own where no other may have been the one; a row that counts for nothing moves none."""
    rng = np.random.default_rng(4)
    x, eps, tau = rng.normal(size=(9, 2)), rng.normal(size=(9, 2)), rng.uniform(0.05, 1, size=(9, 1))
    c = np.repeat(np.eye(3), (4, 4, 1), axis=0) if "context" in given else None
    weights = np.array([1, 2, 0.5, 0, 3, 1, 1, 1, 2]) if "weights" in given else None
    w = (1 - tau) * x + tau * eps
    p = np.exp(stats.norm.logpdf(w[:, None], (1 - tau[:, None]) * x, tau[:, None]).sum(axis=2))
    p *= 1 if c is None else c @ c.T
    p *= 1 if weights is None else weights
    p /= p.sum(axis=1, keepdims=True)
    mean, noise = expected(x, eps, 1 - tau, tau, c, weights)
    np.testing.assert_allclose(mean, p @ x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((1 - tau) * mean + tau * noise, w, rtol=1e-9)  # it is the same w
    if c is not None:
        np.testing.assert_allclose(noise[8], eps[8], rtol=1e-9)


def test_times_are_even_and_their_power_brings_them_nearer_to_data():
    """One in every n-th of (0, 1), of the power's root."""
    for power in (1.0, 1.5):
        model, seen = known("FlowMatching", time_power=power), []
        inner, ode = model.inner(np.float64), model.inner().parts["ode"]
        ode.of = lambda w, tau, seen=seen: seen.append(tau) or w
        inner.loss(rows(50), Stream(0))
        np.testing.assert_array_equal(np.floor(50 * np.sort(seen[0])**(1 / power)), np.arange(50))


@kinds
def test_a_target_of_batches_has_less_variance(kind):
    """Of gradients: those of 50 batches at the field that training begins with."""
    spread = {}
    for target in TARGETS:
        inner = fitted(kind, target=target, max_epochs=1).inner(np.float64)
        gradient = grad(lambda p, z, k, loss=inner.loss: np.mean(loss(z, Stream(k), p=p)))
        each = [gradient(inner.params, z, k)["ode"] for k, z in enumerate(rows(3200, seed=3).reshape(50, 64, 2))]
        spread[target] = np.var(each, axis=0).sum()
    assert spread["batch"] < 0.9 * spread["row"], spread


@kinds
@pytest.mark.parametrize("first_layer", FIRST_LAYERS)
def test_the_density_integrates_to_one(kind, first_layer):
    """A fitted network's, on a grid: by the midpoint rule, to what is left outside of it."""
    model, axis = fitted(kind, n_steps=20, max_epochs=40, first_layer=first_layer), np.linspace(-5, 5, 101)
    total = np.exp(model.log_prob(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))).sum() * (axis[1] - axis[0])**2
    assert abs(total - 1) < 2e-3


@kinds
def test_decode_inverts_encode_up_to_the_solver(kind):
    model, x = fitted(kind, max_epochs=40), rows(200, seed=1)
    assert abs(model.decode(model.encode(x)) - x).max() < 1e-4


def test_flow_matching_of_a_gaussian_has_the_known_velocity_and_one_euler_step_under_optimal_transport():
    """u = m + (t S - (1 - t) I) ((1 - t)^2 I + t^2 S)^-1 (x - t m), a flow to m + S^1/2 x_0; optimal transport's lines
    (m + S^1/2 z) t + (1 - t) z never cross, so that a single Euler step is exact."""
    rng = np.random.default_rng(4)
    m, root = rng.normal(size=3), rng.normal(size=(3, 3))
    root = root @ root.T / 3 + np.eye(3) / 2
    S, one, z = root @ root, np.eye(3), rng.normal(size=(50, 3))
    alpha, beta = map(np.array, SOLVERS["rk4"])
    times = (np.arange(200)[:, None] + alpha) / 200

    def velocity(x, k, s):
        t = times[k, s]
        A = (t * S - (1 - t) * one) @ np.linalg.inv((1 - t)**2 * one + t**2 * S)
        return m + (x - t * m) @ A.T, np.full(len(x), np.trace(A))

    x, log_det = integrate(velocity, z, np.full((200, 4), 1 / 200), alpha, beta)
    np.testing.assert_allclose(x, m + z @ root, rtol=0, atol=1e-8)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(root)[1], rtol=0, atol=1e-8)

    def straight(x, k, s):  # at t = 0
        return x @ (root - one) + m, np.zeros(len(x))

    np.testing.assert_allclose(integrate(straight, z, np.ones((1, 1)), *map(np.array, SOLVERS["euler"]))[0], x, atol=1e-7)


def test_a_diffusion_begins_as_the_gaussian_of_the_rows_scale():
    """F = 0: exactly N(0, scale^2 I), and its bound is that in expectation."""
    x = rows(500)
    model = Diffusion(**QUICK | {"learning_rate": 1e-30, "max_epochs": 1}).fit(x)
    want = -(x**2).sum(axis=1) / (2 * model.scale_**2) - np.log(2 * np.pi * model.scale_**2)
    assert model.scale_ == math.sqrt(np.mean(x**2)) and model.solver_error_ < 1e-12
    np.testing.assert_allclose(model.log_prob(x), want, rtol=0, atol=1e-12)
    off = model.elbo(x) - want
    assert abs(off.mean()) < 6 * off.std() / len(x)**0.5


@pytest.mark.parametrize(("sigmas", "least"), [((0.004, 20.0), 0.02), ((0.01, 40.0), 0.02), ((0.004, 1.0), 0.1), (None, 0.02)])
def test_a_true_denoisers_bound_is_its_density_for_any_schedule(sigmas, least):
    """ELBO <= log p in expectation, and equal but for the ends: where noise ends at 1, rows are not quite normal. Of diffusion,
    and of flow matching: minus log p is the integral of what a denoiser is off by, over any path."""
    model = known("FlowMatching") if sigmas is None else known("Diffusion", sigma_min=sigmas[0], sigma_max=sigmas[1])
    x = rows(20_000, seed=5)
    off = model.elbo(x) - log_density(x)
    error = 6 * off.std() / len(x)**0.5
    assert -least - error < off.mean() < error


@pytest.mark.parametrize("family", ["FlowMatching", "Diffusion"])
def test_the_checker_holds_the_bound_to_the_density(family, monkeypatch):
    """Of true denoisers: ELBO <= log p(x) is looked at, and not by a bound that is too high by what chance cannot be."""
    model, laws = known(family), ["ELBO <= log p(x)", "the ELBO is what it bounds with"]
    report = check_generative_model(model, laws=laws, n_samples=2000)
    found = report["ELBO <= log p(x)"]
    assert report.passed and not found.skipped and report[laws[1]].skipped == "its ELBO is none of importance weights"
    elbo = type(model).elbo
    monkeypatch.setattr(type(model), "elbo", lambda self, x: elbo(self, x) + 2 * found.tolerance)
    assert not check_generative_model(model, laws=laws, n_samples=2000).passed


# ---------------------------------------------------------------- solvers

@kinds
@pytest.mark.parametrize(("solver", "slope"), [("euler", 1), ("heun", 2), ("rk4", 4), ("dpm++", 2)])
def test_solvers_have_their_order(kind, slope, solver):
    """Twice the steps, and the error falls by 2^order at least; all end where many steps do."""
    counts = 16, 32, 64
    best, *drawn = (draws(kind, *each) for each in (("rk4", 512), *((solver, n) for n in counts)))
    errors = [np.sqrt(np.mean((rows - best)**2)) for rows in drawn]
    found = math.log2(errors[1] / errors[2])
    assert errors[2] < 0.1 and found > slope - 0.45, (found, errors)


def draws(kind, solver, n_steps):
    """The same rows by this solver and so many steps."""
    if solver == "dpm++":  # the fit takes no steps: its parameters are the same
        return fitted(kind, n_steps=n_steps, solver=solver, max_epochs=40).sample(200, rng=1)
    model = fitted(kind, max_epochs=40)
    inner, w = model.inner(), Stream(1).normal((200, 2))
    return model.scale_ * inner.parts["ode"].to_data(inner.params, w, w[:, :0], (1.0,), n_steps, solver)


@kinds
def test_the_solvers_error_is_by_how_much_twice_the_steps_move_log_prob(kind):
    x, held_out = rows(400), rows(50, seed=6)
    models = [KINDS[kind](n_steps=n, **QUICK).fit(x, validation_data=held_out) for n in (5, 10)]
    assert models[0].params_.flat.tobytes() == models[1].params_.flat.tobytes()
    once, twice = (model.log_prob(held_out) for model in models)
    assert math.isclose(models[0].solver_error_, abs(once - twice).max(), rel_tol=1e-9)
    rough = fitted(kind, n_steps=1, max_epochs=40)
    assert rough.solver_error_ > 1e-3 and rough.capabilities.density == "estimate"
    assert fitted(kind, n_steps=40).solver_error_ < 1e-3 and fitted(kind, n_steps=40).capabilities.density == "exact"


@kinds
def test_the_solvers_error_is_that_of_rows_at_the_rim_too(kind):
    x, held_out = rows(400), rows(900, seed=6)
    held_out = held_out[np.argsort(np.square(held_out).sum(axis=1))]
    models = [KINDS[kind](n_steps=n, **QUICK | {"max_epochs": 20}).fit(x, validation_data=held_out) for n in (5, 10)]
    once, twice = (model.log_prob(held_out[-100:]) for model in models)
    assert models[0].solver_error_ >= (1 - 1e-9) * abs(once - twice).max() > 0


@kinds
@pytest.mark.parametrize("more", [{"preprocess": None}, {"preprocess": "standardize"}])
def test_far_from_all_rows_the_model_is_a_normal_of_their_size(kind, more):
    """log_prob is finite from the rows' middle to where squares are no numbers, and beyond twice their extent that of
    N(0, rms^2 I); whatever the network is, here one whose velocity takes rows at the rim to infinity."""
    x = 3 * rows(300)
    model = KINDS[kind](**QUICK | more).fit(x)
    model.params_.flat[:] *= 20
    mean, std = (x.mean(axis=0), x.std(axis=0)) if more["preprocess"] else (np.zeros(2), np.ones(2))
    z = (x - mean) / std
    rms, along = math.sqrt(np.mean(z**2)), z / np.sqrt(np.square(z).sum(axis=1, keepdims=True))
    assert np.isfinite(model.log_prob(x)).all() and np.isfinite(model.sample(300, rng=0)).all()
    for size in (0.5, 0.9, 1, 1.1, 2, 10, 1e6, 1e100):
        z = size * abs(z).max() * 2 * along
        found = model.log_prob(z * std + mean)
        assert np.isfinite(found).all(), size
        if size >= 2:
            want = -np.square(z / rms).sum(axis=1) / 2 - 2 * math.log(rms) - math.log(2 * math.pi) - np.log(std).sum()
            np.testing.assert_allclose(found, want, rtol=1e-4)


@kinds
def test_a_file_of_an_older_fit_has_no_reach_and_a_forged_one_is_refused(kind, tmp_path):
    x = rows(60)
    KINDS[kind](**QUICK).fit(x).save(tmp_path / "m")
    arrays, header = checkpoint.read(tmp_path / "m")
    older = {name: value for name, value in header["fitted"].items() if name not in ("extent_", "first_layer_")}
    checkpoint.write(tmp_path / "older", arrays, header | {"fitted": older})
    inside = x[np.square(x).sum(axis=1) < 1]
    np.testing.assert_array_equal(npgen.load(tmp_path / "older").log_prob(inside), npgen.load(tmp_path / "m").log_prob(inside))
    for wrong in (*({"extent_": wrong} for wrong in ([], {}, [1.0], [0.0, 1.0], ["a", 1.0], [math.inf, 1.0], 3)),
                  *({"first_layer_": wrong} for wrong in ("cosine", 1, ["sine"], {}))):
        checkpoint.write(tmp_path / "forged", arrays, header | {"fitted": older | wrong})
        with pytest.raises(npgen.LoadError, match="do not make a|is not a model|JSON|forged"):
            npgen.load(tmp_path / "forged")


@kinds
def test_hyperparameters_that_cannot_be_are_refused_in_one_sentence(kind):
    x = rows(30)
    for wrong, words in (({"hidden": (4, 4, 4)}, "hidden must name two layers"), ({"solver": "rk5"}, "solver must be one of"),
                         ({"guidance": -1}, "guidance must be"), ({"drop_context": 1.0}, "drop_context must be"),
                         ({"bandwidth": 0.5}, "bandwidth must be 1 or more"), ({"bandwidth": "8"}, "bandwidth must be"),
                         ({"first_layer": "sin"}, "first_layer must be one of silu, sine, got 'sin'"),
                         ({"target": "rows"}, "target must be one of row, batch, got 'rows'"), ({"n_steps": 0}, "n_steps")):
        with pytest.raises(ValueError, match=words):
            KINDS[kind](**QUICK | wrong).fit(x)
    with pytest.raises(ValueError, match="guidance=2 needs a network that has learned to see no context"):
        KINDS[kind](**QUICK, guidance=2, drop_context=0).fit(x, context=x[:, 0])
    of_kind = {"FlowMatching": (({"coupling": "sinkhorn"}, "coupling must be"), ({"time_power": 0}, "time_power must be"),
                                ({"coupling": "ot", "target": "batch"}, "take target='row'")),
               "Diffusion": (({"sigma_min": 0}, "sigma_min must be"), ({"sigma_min": 30}, "=30 must be below"),
                             ({"p_std": 0}, "p_std"))}
    for wrong, words in of_kind[kind]:
        with pytest.raises(ValueError, match=words):
            KINDS[kind](**QUICK | wrong).fit(x)
    fitted = KINDS[kind](**QUICK).fit(x).set_params(solver="rk5")  # after the fit
    with pytest.raises(ValueError, match="solver must be one of"):
        fitted.sample(2)


# ---------------------------------------------------------------- first parameters

def first_layer(**more):
    """Weights by the row (2, 2000) and biases (2000,) that a fit begins with: its steps are too short for a digit."""
    model = FlowMatching(**QUICK | {"hidden": (2000, 2), "max_epochs": 1, "learning_rate": 1e-30} | more).fit(rows(40))
    weight, bias = MLP("ode", (2 + N_FEATURES, 2000, 2, 2)).layout.weight_and_bias(model.params_["ode"], 0)
    return weight[:2], bias


def test_with_a_bandwidth_units_look_at_rows_evenly_finer_and_bend_among_them():
    """Their weights are b^u times longer, u uniform on (0, 1), and their biases |weight| times a standard normal: by
    Kolmogorov's distance, of chance above 0.061 in two seeds of a million, of 2,000 units."""
    (plain, none), (weight, bias) = first_layer(), first_layer(bandwidth=30)
    assert not none.any() and weight.shape == plain.shape
    np.testing.assert_allclose(weight[0] / plain[0], weight[1] / plain[1])
    u = np.log(weight[0] / plain[0]) / np.log(30)
    assert stats.kstest(u, "uniform").statistic < 0.061
    assert stats.kstest(bias / np.sqrt(np.square(weight).sum(axis=0)), "norm").statistic < 0.061


# ---------------------------------------------------------------- context and coupling

@kinds
def test_guidance_is_the_unconditional_field_and_w_times_the_difference(kind):
    """One Euler step from noise moves by F_u + w (F_c - F_u): 0 ignores the context, 1 is the model given it."""
    x = rows(400)
    label = np.where(x[:, 0] > 0, "b", "a")
    model = KINDS[kind](n_steps=1, solver="euler", **QUICK | {"max_epochs": 10}).fit(x, context=label)
    drawn = {(w, c): model.set_params(guidance=w).sample(20, context=c, rng=0) for w in (0, 1, 3, 0.5) for c in "ab"}
    np.testing.assert_array_equal(drawn[0, "a"], drawn[0, "b"])
    assert abs(drawn[1, "a"] - drawn[1, "b"]).max() > 1e-2
    for w in (3, 0.5):
        want = drawn[0, "a"] + w * (drawn[1, "a"] - drawn[0, "a"])
        np.testing.assert_allclose(drawn[w, "a"], want, rtol=0, atol=1e-10)


class KnownGiven(Known):
    """F of rows given label a, label b or none: three mixtures, (means, stds, weights) of each."""

    def __init__(self, known, scale, mixtures):
        super().__init__(known, scale)
        self.mixtures, self.asked = mixtures, []

    def velocity(self, p, w, contexts, shares, tau):
        each = zip(shares, np.split(contexts[0], len(shares)), strict=True)  # one context of all rows
        F = sum(share * self.of(w, tau, *self.mixtures[int(c[:2].argmax()) if c[-1] else 2]) for share, c in each)
        self.asked.append((w, tau, F))
        return F


def guided_by(kind, guidance, mixtures, **more):
    """A model whose field is that of these mixtures, given a label of two."""
    x = rows(400)
    model = KINDS[kind](guidance=guidance, **QUICK | {"max_epochs": 1} | more).fit(x, context=np.where(x[:, 0] > 0, "b", "a"))
    model.install({"ode": KnownGiven(model.inner().parts["ode"], model.scale_, mixtures)})
    return model


@kinds
@pytest.mark.parametrize("guidance", [0, 0.5, 1, 3])
def test_guidance_is_the_power_of_what_a_row_says_of_its_context(kind, guidance):
    """The score at every level of noise is that of p(w) p(c | w)^guidance, by Bayes' rule and numbers alone."""
    means, stds, shares = MEANS[:2], STDS[:2], np.array([0.7, 0.3])
    mixtures = *((means[[k]], stds[[k]], np.ones(1)) for k in range(2)), (means, stds, shares)
    model = guided_by(kind, guidance, mixtures, n_steps=5, solver="dpm++")
    ode = model.inner().parts["ode"]

    def log_product(w, label, alpha, sigma):
        total = (alpha * stds / model.scale_)**2 + sigma**2
        off = np.expand_dims(w, 1) - alpha * means / model.scale_
        joint = np.log(shares) - np.sum(off**2, axis=2) / (2 * total) - np.log(total)
        marginal = ops.logsumexp(joint)
        return np.sum(marginal + guidance * (joint[:, label] - marginal))

    for label, name in enumerate("ab"):
        ode.asked = []
        model.sample(40, context=name, rng=0)
        assert len(ode.asked) == 5
        for w, tau, F in ode.asked:
            alpha, sigma, _, d_sigma = (float(a) for a in ode.path(tau))
            score = (alpha * (sigma * F + d_sigma * w) - w) / sigma**2  # Tweedie's, of E[x | w] = sigma F + sigma' w
            np.testing.assert_allclose(score, grad(log_product)(w, label, alpha, sigma), rtol=1e-7, atol=1e-9)


@kinds
def test_guided_rows_of_normals_are_normal(kind):
    """N(0, v I)^(1 - g) N(m, v I)^g is N(g m, v I) up to its integral, with noise or without: rows are g m + sqrt(v) noise."""
    m, std, shape = np.array([[0.6, -0.4]]), np.array([0.5]), (50, 2)
    mixtures = (m, std, np.ones(1)), (-m, std, np.ones(1)), (0 * m, std, np.ones(1))
    more = {"sigma_max": 1000.0} if kind == "Diffusion" else {}
    for guidance, (label, sign) in itertools.product((0, 0.5, 3), (("a", 1), ("b", -1))):
        model = guided_by(kind, guidance, mixtures, n_steps=100, solver="dpm++", **more)
        want = sign * guidance * m + std * Stream(0).normal(shape)
        np.testing.assert_allclose(model.sample(shape[0], context=label, rng=0), want, rtol=0, atol=0.05)


def test_pairs_are_of_least_cost_and_keep_their_context():
    rng = np.random.default_rng(7)
    eps, x = rng.normal(size=(7, 2)), rng.normal(size=(7, 2))
    cost = ((eps[None] - x[:, None])**2).sum(axis=2)
    best = min(sum(cost[i, p[i]] for i in range(7)) for p in itertools.permutations(range(7)))
    assert math.isclose(cost[np.arange(7), paired(eps, x)].sum(), best)
    eps, x, c = rng.normal(size=(150, 2)), rng.normal(size=(150, 2)), np.eye(2)[rng.integers(0, 2, 150)]
    chosen = paired(eps, x, c)
    assert sorted(chosen) == list(range(150)) and (chosen // 64 == np.arange(150) // 64).all()
    assert (c[chosen] == c).all()


@pytest.mark.slow
def test_optimal_transport_draws_in_one_step_what_independent_pairs_do_not():
    """Lines that do not cross are straight: one Euler step."""
    from scipy.optimize import linear_sum_assignment
    x, test = (data.load("eight-gaussians", n=4000, seed=seed) for seed in (0, 1))
    found = {}
    for coupling in ("independent", "ot"):
        model = FlowMatching(coupling=coupling, hidden=(64,), n_steps=1, solver="euler", max_epochs=60, learning_rate=3e-3,
                             random_state=0, batch_size=256).fit(x)
        cost = ((model.sample(500, rng=0)[:, None] - test[None, :500])**2).sum(axis=2)
        found[coupling] = math.sqrt(cost[linear_sum_assignment(cost)].mean())
    assert found["ot"] < 0.5 * found["independent"], found


# ---------------------------------------------------------------- each law beside a mistake

density = test_the_equation_of_a_known_field_has_the_mixtures_density
by_mixture = test_the_equation_of_a_mixtures_score_has_the_density_that_the_mixture_says
least = functools.partial(test_the_loss_is_least_at_the_known_field, target="row")
bayes = test_what_a_batch_says_of_noise_is_bayes_rule_among_rows_of_the_same_context
guided = test_guidance_is_the_unconditional_field_and_w_times_the_difference
powers = functools.partial(test_guidance_is_the_power_of_what_a_row_says_of_its_context, guidance=3)
normals = test_guided_rows_of_normals_are_normal
traced = test_trajectory.test_the_divergence_is_the_trace_of_the_jacobian
whole = functools.partial(test_the_density_integrates_to_one, first_layer="silu")
wide = test_with_a_bandwidth_units_look_at_rows_evenly_finer_and_bend_among_them
beyond = test_far_from_all_rows_the_model_is_a_normal_of_their_size
MISTAKES = {  # what went wrong -> where, what becomes what, and the law that has to find it
    "the target's sign": ("models.ode:ODEModel._loss", "F + d_alpha * x", "F - d_alpha * x", lambda: least("FlowMatching")),
    "variance for deviation in Bayes' rule": ("models.ode:expected", "0.5 * np.square", "1.0 * np.square", lambda: bayes("")),
    "rows of another context": ("models.ode:expected", "if c is not None", "if False", lambda: bayes("context")),
    "rows that count for nothing": ("models.ode:expected", "share *= weights", "share *= 1", lambda: bayes("weights")),
    "noise of the row, of a mean that is not": ("models.ode:expected", "eps + a * (x - mean)", "eps", lambda: bayes("")),
    "noise of another size": ("models.diffusion:Diffusion._path", "return cosine, s * cosine", "return cosine, s * s * cosine",
                              lambda: least("Diffusion")),
    "the rate of another time": ("models.diffusion:Diffusion._rate", "(1 + s * s)", "(1 + s)", lambda: density("Diffusion")),
    "variance for standard deviation": ("models.diffusion:Diffusion._scale_of",
                                        "math.sqrt(float(np.mean(np.square(z, dtype=np.float64))))",
                                        "float(np.mean(np.square(z, dtype=np.float64)))",
                                        test_a_diffusion_begins_as_the_gaussian_of_the_rows_scale),
    "the rate of another time, by a mixture": (
        "models.diffusion:Diffusion._rate", "(1 + s * s)", "(1 + s)", lambda: by_mixture("Diffusion")),
    "a mixture's derivative is a mean over a broadcast axis": (
        "ops.rules:_unbroadcast", "sum(g, axis", "mean(g, axis", lambda: by_mixture("FlowMatching")),
    "the scale is not counted": ("models.ode:ODEModel._solved", " - z.shape[1] * math.log(self.scale_)", "",
                                 test_a_diffusion_begins_as_the_gaussian_of_the_rows_scale),
    "guidance by the other convention": ("models.ode:ODEModel._contexts", "(1 - self.guidance, self.guidance)",
                                         "(-self.guidance, 1 + self.guidance)", lambda: guided("FlowMatching")),
    "guidance of what is given, by the other convention": (
        "models.ode:ODEModel._contexts", "(1 - self.guidance, self.guidance)", "(-self.guidance, 1 + self.guidance)",
        lambda: powers("Diffusion")),
    "guidance beside the whole of F_u": ("models.ode:ODEModel._contexts", "(1 - self.guidance, self.guidance)",
                                         "(1.0, self.guidance)", lambda: normals("FlowMatching")),
    "the context is not hidden from F_u": ("models.ode:ODEModel._contexts", "[np.zeros_like(seen), seen]", "[seen, seen]",
                                           lambda: guided("Diffusion")),
    "pairs of the other way round": ("models.flow_matching:paired", "(a[None, rows] - b[rows, None])",
                                     "(a[rows, None] - b[None, rows])", test_pairs_are_of_least_cost_and_keep_their_context),
    "pairs change their context": ("models.flow_matching:paired", "(APART, c, c)", "(0, c, c)",
                                   test_pairs_are_of_least_cost_and_keep_their_context),
    "the bound forgets its prior": ("models.ode:ODEModel._bound", "/ 2 - kl", "/ 2",
                                    lambda: test_a_true_denoisers_bound_is_its_density_for_any_schedule((0.004, 1.0), 0.1)),
    "the bound's prior without the data's variance": (
        "models.ode:ODEModel._bound", "* last + d * (noise - 1 - math.log(noise))", "* last / noise",
        lambda: test_a_true_denoisers_bound_is_its_density_for_any_schedule((0.004, 1.0), 0.1)),
    "the bound's weight": ("models.ode:ODEModel._bound", "alpha[..., 0]**2", "alpha[..., 0]",
                           lambda: test_a_true_denoisers_bound_is_its_density_for_any_schedule((0.004, 20.0), 0.02)),
    "flow matching: levels of the bound even in time": (
        "models.flow_matching:FlowMatching._level_time", "LEAST * np.exp(math.log(LARGEST / LEAST) * share)",
        "LEAST + (LARGEST - LEAST) * share",
        lambda: test_a_true_denoisers_bound_is_its_density_for_any_schedule(None, 0.02)),
    "flow matching: the bound begins at other noise than it says": (
        "models.flow_matching:FlowMatching._level_time", "s / (1 + s)", "s / (2 + s)",
        lambda: test_a_true_denoisers_bound_is_its_density_for_any_schedule(None, 0.02)),
    "two steps are one": ("models.ode:ODEModel._multistep", "h[k] / (2 * h[k - 1])", "h[k] / (3 * h[k - 1])",
                          lambda: test_solvers_have_their_order("Diffusion", 2, "dpm++")),
    "stages that begin where the step did": (
        "ode:integrate", "start + float(alpha[s]) * k", "start + 0 * k",
        test_flow_matching_of_a_gaussian_has_the_known_velocity_and_one_euler_step_under_optimal_transport),
    "stages without their times": ("ode:Trajectory._solved", "[:, None] + alpha)", "[:, None] + 0 * alpha)",
                                   lambda: test_solvers_have_their_order("FlowMatching", 4, "rk4")),
    "sign of the divergence": ("kernels.trajectory:_reference", "log_det += ", "log_det -= ", lambda: whole("FlowMatching")),
    "divergence without the outer slope": ("kernels.trajectory:_velocity", " * p2).sum", ").sum", lambda: whole("Diffusion")),
    "divergence of units for slopes": ("kernels.trajectory:_velocity", "((p1 @ ", "((h1 @ ", lambda: whole("Diffusion")),
    "a sine's slope is a sine": ("kernels.trajectory:_activated", "np.cos(z)", "np.sin(z)",
                                 lambda: whole("FlowMatching", first_layer="sine")),
    "waves have SiLU's slope in the formula": ("ode:Field.with_divergence", "ops.cos(sums[0]) if self.sine else ", "",
                                               lambda: traced("sine")),
    "stages all count the same": ("kernels.trajectory:_reference", "y = y + beta[s] * k", "y = y + k / len(beta)",
                                  lambda: test_solvers_have_their_order("FlowMatching", 4, "rk4")),
    "the rate is not in the divergence": ("kernels.trajectory:_reference", "beta[s] * rate[s] * div", "beta[s] * div",
                                          lambda: whole("Diffusion")),
    "rows at the rim run off": ("kernels.trajectory:_held", "inside, between = r <= reach", "inside, between = r >= 0",
                                lambda: beyond("FlowMatching", {"preprocess": None})),
    "beyond, a normal of another size": ("ode:Trajectory.rim", "d_alpha * alpha * rms**2", "d_alpha * alpha",
                                         lambda: beyond("FlowMatching", {"preprocess": None})),
    "the change of field is not in the divergence": ("kernels.trajectory:_held", "share * (div - far) + across",
                                                     "share * (div - far)", lambda: whole("FlowMatching")),
    "the error of rows in the middle alone": ("models.ode:ODEModel._conclude", "np.argsort(-np.sum", "np.argsort(np.sum",
                                              lambda: test_the_solvers_error_is_that_of_rows_at_the_rim_too("Diffusion")),
    "drawn backwards in time": ("ode:Trajectory.to_data", "False, 1.0, -1.0", "False, 0.0, -1.0",
                                lambda: test_decode_inverts_encode_up_to_the_solver("FlowMatching")),
    "bandwidths not even in their logarithm": ("ode:Field.init", "self.bandwidth ** stream", "self.bandwidth * stream", wide),
    "units bend where none looks": ("ode:Field.init", "np.sum(seen *", "np.sum(30 *", wide),
    "the error of other steps": (
        "models.ode:ODEModel._solver_error", "for k in (1, 2)", "for k in (1, 3)",
        lambda: test_the_solvers_error_is_by_how_much_twice_the_steps_move_log_prob("FlowMatching")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_law_finds_the_mistake(mistake):
    *edit, law = MISTAKES[mistake]
    fitted.cache_clear()
    law()
    fitted.cache_clear()
    with mutants.Mutant(mistake, "", *edit).made(), pytest.raises(AssertionError):
        law()
    fitted.cache_clear()
