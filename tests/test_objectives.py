"""fit(objective=): the divergence between the data and the model that is minimised, one mechanism for all that draw by ops.

A statistical test says its chance of a false alarm, and the seeds are fixed.
"""
import re

import mutants
import numpy as np
import pytest

import npgen
from npgen import (
    GAN,
    GMMN,
    IAF,
    MADE,
    MAF,
    NSF,
    RBM,
    VAE,
    Autoencoder,
    Diffusion,
    EnergyModel,
    FlowMatching,
    GaussianMixture,
    Mixture,
    RealNVP,
    cli,
    data,
    engine,
)
from npgen.divergences import MMD, Energy, SlicedWasserstein, energy_distance
from npgen.models.base import Capabilities
from npgen.models.gradient import GradientModel
from npgen.nn import Part
from npgen.random import Stream
from npgen.testing import check_generative_model

RNG = np.random.default_rng(0)
MOONS = data.moons(150)
DISTANCES = "energy", "mmd", "sliced_wasserstein"
distances = pytest.mark.parametrize("distance", DISTANCES)
QUICK = {"max_epochs": 3, "batch_size": 50, "random_state": 0}
FLOWS = {"RealNVP": RealNVP(n_couplings=3, hidden=(8,), **QUICK), "MAF": MAF(n_layers=2, hidden=(8,), **QUICK),
         "IAF": IAF(n_layers=2, hidden=(8,), **QUICK), "NSF": NSF(n_layers=2, hidden=(8,), bins=3, **QUICK),
         "NSF, autoregressive": NSF(n_layers=2, hidden=(8,), bins=3, coupling=False, **QUICK)}
flows = pytest.mark.parametrize("name", FLOWS)


def flow(name="RealNVP", **options):
    return type(FLOWS[name])(**FLOWS[name].get_params() | options)


def same(a, b):
    for x, y in zip(*(model.state()[0].values() for model in (a, b)), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()
    assert a.history_ == b.history_


# ---------------------------------------------------------------- what is minimised

@pytest.mark.parametrize("model", [flow(), MADE(hidden=(8,), **QUICK), flow("MAF"), GaussianMixture(2, random_state=0)],
                         ids=lambda model: type(model).__name__)
def test_kl_is_the_likelihood_to_the_same_bits(model):
    plain, by_kl = (npgen.models.base.clone(model).fit(MOONS, **how) for how in ({}, {"objective": "kl"}))
    same(plain, by_kl) if hasattr(model, "max_epochs") and type(model) is not GaussianMixture else None
    assert plain.log_prob(MOONS).tobytes() == by_kl.log_prob(MOONS).tobytes()


class Where(Part):
    def shapes(self):
        return {"mean": (1,)}

    def init(self, z, c, stream, weights=None):
        return {"mean": np.zeros(1, z.dtype)}


class Location(GradientModel):
    """N(mean, 1), of one parameter."""

    objective: object = "energy"
    preprocess: object = None
    learning_rate: float = 0.05
    _capabilities = Capabilities("none", "none", invertible=False)
    _objectives = DISTANCES

    def _assemble(self, d, w, chosen):
        return {"where": Where()}

    def _draw(self, p, n, stream, c=None):
        return p["mean"] + stream.normal((n, 1), p.flat.dtype, like=p.flat)


def located(x, distance="energy", **how):
    model = Location(objective=distance, max_epochs=40, validation_fraction=0, schedule="cosine", random_state=0)
    return model.fit(x, **how).params_["mean"][0]


@distances
def test_of_one_parameter_it_finds_the_mean(distance):
    """2,000 rows: the minimiser is off by less than 1.5 / sqrt(2000), and Adam's noise by as much; 6 of these: below 1e-8."""
    x = RNG.normal(size=(2000, 1)) + 1.7
    assert abs(located(x, distance) - 1.7) < 6 * 1.5 * np.sqrt(2 / 2000)


@distances
def test_weights_count_rows(distance):
    """Of rows at -1 and at 2, N(m, 1) lies nearer to those that weigh nine times as much, whatever the distance."""
    x = np.where(np.arange(600) % 2, 2.0, -1.0)[:, None] + 0.3 * RNG.normal(size=(600, 1))
    left, right = (located(x, distance, sample_weight=np.where((np.arange(600) % 2 == 1) == side, 9.0, 1.0))
                   for side in (False, True))
    assert left < 0.2 < 0.8 < right


@pytest.mark.long(but={"name": ["RealNVP", "NSF"], "distance": ["energy"]})
@distances
@flows
def test_the_gradient_is_that_of_finite_differences(name, distance):
    model = flow(name, objective=distance).fit(MOONS)
    inner, z = model.inner(np.float64), RNG.normal(size=(20, 2))

    def loss(p):
        return np.mean(inner.loss(z, Stream(1), p=p))

    gradient, step = engine.grad(loss)(dict(inner.params)), 1e-6
    for key, g in gradient.items():
        move = RNG.normal(size=g.shape) * (g != 0)  # of a masked weight there is no gradient
        up, down = (loss(dict(inner.params) | {key: inner.params[key] + s * move}) for s in (step, -step))
        assert np.sum(g * move) == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.long(but={"distance": ["energy"]})
@distances
def test_a_flow_that_draws_near_the_rows_has_a_density_still(distance):
    """60 epochs by a distance bring 2,000 draws to less than half as far as one; the density is exact, and laws hold."""
    x = data.moons(1000)
    wide = {"n_couplings": 6, "hidden": (32,), "learning_rate": 5e-3, "batch_size": 200, "patience": 60, "objective": distance}
    model, first = (flow(max_epochs=epochs, **wide).fit(x) for epochs in (60, 1))
    far, near = (energy_distance(x, m.sample(2000, rng=0)).value for m in (first, model))
    assert near < 0.5 * far
    report = check_generative_model(model, MOONS)
    assert report.passed, str(report)
    assert model.capabilities.density == "exact" and not model.inner().by_likelihood


def test_rows_held_out_stop_it_by_the_same_distance():
    held = data.moons(80, 1)
    model = flow(objective="energy", max_epochs=12, learning_rate=1e-2).fit(MOONS, validation_data=held)
    inner = model.inner()
    loss = np.mean(inner.loss(inner.enter(held)[0], Stream(0)), dtype=np.float64)
    assert min(entry["valid_nats"] for entry in model.history_) == pytest.approx(loss, rel=1e-5)


# ---------------------------------------------------------------- who can minimise what

OF = {  # model -> what it can be fitted by
    MADE(): ["kl"], RealNVP(): ["kl", *DISTANCES], IAF(): ["kl", *DISTANCES], MAF(): ["kl", *DISTANCES],
    NSF(): ["kl", *DISTANCES], MAF(norm="batch"): ["kl"], IAF(base="mixture"): ["kl"],
    RealNVP(base="made"): ["kl"], GMMN(): [*DISTANCES],
    GAN(): ["adversarial"], VAE(): ["elbo", "iwae"], EnergyModel(): ["nce", "pcd", "score_matching", "sliced", "dsm"],
    RBM(): ["pcd"], Autoencoder(): ["squared_error"], FlowMatching(): ["flow_matching"], Diffusion(): ["denoising"],
    GaussianMixture(): ["kl"], Mixture(): ["kl"]}


@pytest.mark.parametrize("model", OF, ids=lambda model: type(model).__name__)
def test_what_a_model_cannot_minimise_is_refused_in_one_sentence_which_names_what_it_can(model):
    known = {name for names in OF.values() for name in names} | {Energy(), MMD(), SlicedWasserstein()}
    for objective in (*known, "mle", 3, ["kl"], True):
        if getattr(objective, "name", objective) in OF[model]:
            continue
        can = " or ".join(map(repr, OF[model]))
        with pytest.raises(ValueError, match=f"^fit: objective must be {can} for an? {type(model).__name__}, got") as caught:
            model.fit(MOONS, objective=objective)
        assert "\n" not in str(caught.value)
        assert repr(model) == repr(type(model)(**model.get_params())) and not hasattr(model, "n_features_in_")


def test_what_a_model_minimises_has_a_name():
    """fit takes it, and it changes nothing."""
    for make in (lambda: RBM(n_hidden=3, **QUICK), lambda: Autoencoder(n_latent=1, hidden=(4,), **QUICK),
                 lambda: FlowMatching(hidden=(4,), n_steps=4, **QUICK), lambda: Diffusion(hidden=(4,), n_steps=4, **QUICK),
                 lambda: VAE(n_latent=1, hidden=(4,), **QUICK), lambda: GMMN(hidden=(4,), **QUICK)):
        model = make()
        same(make().fit(MOONS), make().fit(MOONS, objective=OF[next(each for each in OF if type(each) is type(model))][0]))


@pytest.mark.parametrize("value", ["MMD(scales=())", "MMD(scales=(0.0,))", "MMD(scales=(-1.0,))", "MMD(scales='wide')",
                                   "MMD(scales=None)", "SlicedWasserstein(0)", "SlicedWasserstein(2.5)"])
def test_an_objective_that_cannot_be_is_named(value):
    with pytest.raises(ValueError, match=re.escape(value.partition("(")[0])) as caught:
        eval(value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the contract

def test_fit_sets_the_hyperparameter(tmp_path):
    """So that files, runs and clones know it; a fit that fails leaves it alone."""
    model = flow()
    with pytest.raises(ValueError, match="X.0, 0. is nan"):
        model.fit(np.full((5, 2), np.nan), objective="energy")
    assert model.objective == "kl"
    same(model.fit(MOONS, objective="mmd"), flow(objective="mmd").fit(MOONS))
    assert model.get_params()["objective"] == "mmd" and "objective='mmd'" in repr(model)
    assert npgen.models.base.clone(model).objective == "mmd"


@pytest.mark.parametrize("objective", [*DISTANCES, MMD(scales=(0.5, 2)), SlicedWasserstein(n_directions=7)], ids=repr)
def test_files_and_runs_hold_it(objective, tmp_path):
    def stop(entry):
        if entry["epoch"] == 2:
            raise RuntimeError("stop")

    weights, run = RNG.uniform(0.5, 2, len(MOONS)), {"checkpoint": tmp_path / "run"}
    whole = flow().fit(MOONS, sample_weight=weights, objective=objective)
    with pytest.raises(RuntimeError, match="stop"):
        flow(callbacks=(stop,)).fit(MOONS, sample_weight=weights, objective=objective, **run)
    with pytest.raises(ValueError, match="was written with objective=.*, but objective is 'kl' now; set it back"):
        flow().fit(MOONS, sample_weight=weights, resume=True, **run)
    same(flow().fit(MOONS, sample_weight=weights, objective=objective, resume=True, **run), whole)
    whole.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    assert again.objective == objective and repr(again) == repr(whole) and not again.inner().by_likelihood
    same(again, whole)


@distances
def test_a_recorded_step_has_the_bits_of_one_that_is_not(distance, monkeypatch):
    recorded = flow(objective=distance).fit(MOONS)
    monkeypatch.setattr("npgen.train._Step.train", lambda self, state, rows: self.take(state, rows))
    same(flow(objective=distance).fit(MOONS), recorded)


def test_given_a_context_it_draws_what_belongs_to_it():
    labels = RNG.integers(0, 2, 300)
    x = labels[:, None] * 6.0 + RNG.normal(size=(300, 2))
    model = flow(max_epochs=60, learning_rate=5e-3).fit(x, context=labels, objective="energy")
    for label in (0, 1):
        assert abs(model.sample(200, context=label, rng=0).mean() - 6 * label) < 1.5


@distances
def test_on_the_device_it_is_the_same_model(cupy, distance):
    host, device = (flow(objective=distance, max_epochs=2).to(where).fit(MOONS[:60]) for where in ("cpu", "cuda"))
    assert (host.device, device.device) == ("cpu", "cuda")
    np.testing.assert_allclose(device.sample(9, rng=0), host.sample(9, rng=0), rtol=5e-3, atol=5e-3)


def test_the_command_line_takes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "realnvp", "--data", "moons", "--epochs", "2", "--set", "hidden=8", "--set", "n_couplings=2"]
    assert cli.main([*fit, "--out", "m", "--set", "objective=energy"]) == 0
    shown = capsys.readouterr().out
    assert "loss " in shown and npgen.load("m").objective == "energy"
    assert cli.main([*fit, "--out", "n", "--set", "objective=MMD(scales=(0.5, 1))"]) == 0
    assert npgen.load("n").objective == MMD((0.5, 1.0))
    assert cli.main([*fit, "--out", "n", "--set", "objective=elbo"]) == 2
    error = capsys.readouterr().err
    assert "objective must be 'kl' or 'energy' or 'mmd' or 'sliced_wasserstein' for a RealNVP, got 'elbo'" in error
    assert cli.main(["fit", "vae", "--data", "moons", "--out", "v", "--set", "objective=energy"]) == 2
    assert "'elbo' or 'iwae'" in capsys.readouterr().err
    for argv in (["info", "m"], ["score", "m", "--data", "moons"], ["sample", "m", "-n", "5", "--out", "s.csv"]):
        assert cli.main(argv) == 0, argv


def fitted_by_energy():
    """Draws of a flow fitted by the energy distance are not those of one fitted by likelihood."""
    a, b = (flow().fit(MOONS, objective=objective).sample(9, rng=0) for objective in ("kl", "energy"))
    assert (a != b).any()


MUTANTS = {
    "the objective is not looked at": ("models.capabilities:take_objective", "model.objective = chosen", "pass",
                                       fitted_by_energy),
    "away from the rows": ("models.gradient:GradientModel._loss", "return self._distance(", "return -self._distance(",
                           lambda: test_of_one_parameter_it_finds_the_mean("energy")),
    "draws have no gradient": ("models.gradient:GradientModel._loss", "beside(self._draw(Moved(p), len(z), stream, c), c)",
                               "ops.stop_gradient(beside(self._draw(Moved(p), len(z), stream, c), c))",
                               lambda: test_of_one_parameter_it_finds_the_mean("mmd")),
    "sliced: weights do not come": ("models.gradient:follower", "batch.context, batch.weights)", "batch.context)",
                                    lambda: test_weights_count_rows("sliced_wasserstein")),
    "a distance has nats": ("models.gradient:descend", 'and getattr(model, "_likelihood", True)', "",
                            test_rows_held_out_stop_it_by_the_same_distance),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = MUTANTS[name]
    with mutants.Mutant(name, "", where, old, new).made(), pytest.raises(AssertionError):
        law()
