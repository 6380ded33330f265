"""Models given a context: each density is one for every context, sees it, draws by it, and keeps in its file what it is."""
import functools
import itertools

import mutants
import numpy as np
import pytest

import npgen
from npgen import data, priors
from npgen.models import (
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
)
from npgen.models.context import ContextMap
from npgen.testing import check_generative_model

RNG = np.random.default_rng(0)
LABELS = np.array(["low", "high"])[(RNG.random(300) < 0.5).astype(int)]
REAL = RNG.normal(size=(300, 2)) * 0.5 + np.where(LABELS == "high", 2.0, -2.0)[:, None]
BITS = (RNG.random((300, 4)) < np.where(LABELS == "high", 0.9, 0.2)[:, None]).astype(float)
QUICK = {"max_epochs": 30, "learning_rate": 1e-2, "random_state": 0}
STACK = {"n_layers": 2, "hidden": (16,), **QUICK}
IMPLICIT = {"hidden": (16,), "n_noise": 4, **QUICK | {"max_epochs": 100}}
CASES = {
    "MADE, Bernoulli": (MADE(hidden=(16,), **QUICK), BITS),
    "MADE, Bernoulli, several orders": (MADE(hidden=(16,), n_masks=2, **QUICK), BITS),
    "MADE, normal": (MADE(hidden=(16, 8), **QUICK), REAL),
    "MADE, normal, any order, direct": (MADE(hidden=(16,), order="any", direct=True, **QUICK), REAL),
    "RealNVP": (RealNVP(n_couplings=2, hidden=(16,), **QUICK), REAL),
    "MAF": (MAF(**STACK), REAL),
    "RealNVP, base of MADE": (RealNVP(n_couplings=4, hidden=(16,), base=priors.MADE(3, (16,)), **QUICK), REAL),
    "MAF, base of MADE": (MAF(base=priors.MADE(3, (16,)), **STACK), REAL),
    "IAF": (IAF(**STACK), REAL),
    "NSF": (NSF(**STACK), REAL),
    "NSF, autoregressive": (NSF(coupling=False, **STACK), REAL),
    "FlowMatching": (FlowMatching(hidden=(16,), n_steps=8, **QUICK), REAL),
    "FlowMatching, optimal transport, guided": (FlowMatching(hidden=(16,), n_steps=8, coupling="ot", guidance=1.5, **QUICK),
                                                REAL),
    "Diffusion": (Diffusion(hidden=(16,), n_steps=12, target="batch", **QUICK), REAL),
    "VAE": (VAE(n_latent=2, hidden=(16,), n_importance=200, **QUICK), BITS),
    "RBM, Bernoulli": (RBM(n_hidden=4, **QUICK | {"learning_rate": 0.3, "max_epochs": 100}), BITS),
    "RBM, normal": (RBM(n_hidden=3, preprocess=None, **QUICK | {"learning_rate": 0.3, "max_epochs": 100}), REAL),
    "EnergyModel": (EnergyModel(hidden=(16,), base=npgen.GaussianMixture(2, random_state=0), n_burn=300, step=0.1,
                                n_importance=2000, **QUICK), REAL),
    "EnergyModel, by its chains": (EnergyModel(hidden=(16,), objective="pcd", base=npgen.GaussianMixture(2, random_state=0),
                                               n_burn=300, step=0.1, n_importance=2000, **QUICK), REAL),
    "EnergyModel, base given it": (EnergyModel(hidden=(8,), base=MAF(**STACK), n_burn=2, n_importance=1000, **QUICK), REAL),
    "GMMN": (GMMN(**IMPLICIT), REAL),
    "GMMN, by another distance": (GMMN(objective="sliced_wasserstein", **IMPLICIT), REAL),
    "GAN": (GAN(critic_hidden=(16,), **IMPLICIT), REAL),
    "Autoencoder": (Autoencoder(n_latent=1, hidden=(16,), **QUICK), REAL),
    "Autoencoder, prior of a flow": (Autoencoder(n_latent=2, hidden=(16,), prior=MAF(**STACK), **QUICK), REAL),
    "GAN, packed": (GAN(critic_hidden=(16,), packing=2, **IMPLICIT), REAL),
}
DENSE = [case for case, (model, _) in CASES.items() if model.capabilities.density != "none"]
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:fit. hidden")]
cases, dense = pytest.mark.parametrize("case", CASES), pytest.mark.parametrize("case", DENSE)


@functools.cache
def fitted(case):
    model, x = CASES[case]
    return type(model)(**model.get_params(deep=False)).fit(x, context=LABELS)


@dense
def test_it_sums_or_integrates_to_one_for_every_context(case):
    model, x = fitted(case), CASES[case][1]
    if x is BITS:
        rows, volume = np.array(list(itertools.product([0.0, 1.0], repeat=4))), 1
    else:
        axis = np.linspace(-9, 9, 721)
        rows, volume = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), (axis[1] - axis[0])**2
    for label in ("low", "high"):
        total = np.exp(model.log_prob(rows, context=label)).sum() * volume
        assert abs(total - 1) < {"exact": 1e-3, "estimate": 0.1}[model.capabilities.density], (label, total)


@cases
def test_it_sees_the_context(case):
    """Rows are likelier under their own label than under the other by far, or nearer to draws: p(x_1 | c) sees it too."""
    model, x = fitted(case), CASES[case][1]
    other = np.where(LABELS == "high", "low", "high")
    assert model.score(x, context=LABELS) - model.score(x, context=other) > (1.5 if case in DENSE else 0.3)
    first = model.sample(400, context="high", rng=0)[:, 0].mean() - model.sample(400, context="low", rng=0)[:, 0].mean()
    assert first > (0.4 if x is BITS else 3)


@cases
def test_samples_have_the_shapes_of_their_context(case):
    model, d = fitted(case), CASES[case][1].shape[1]
    assert model.sample(context="low").shape == (1, d) and model.sample(5, context="low").shape == (5, d)
    assert model.sample(context=["low", "high", "low"]).shape == (3, d)
    if case not in DENSE:
        with pytest.raises(ValueError, match="sample_and_log_prob: .* has no density"):
            model.sample_and_log_prob(4, context=["low", "high"], rng=3)
        return
    x, log_prob = model.sample_and_log_prob(4, context=["low", "high"], rng=3)
    assert x.shape == (2, 4, d) and log_prob.shape == (2, 4)
    np.testing.assert_array_equal(x, model.sample(4, context=["low", "high"], rng=3))
    np.testing.assert_allclose(log_prob[1], model.log_prob(x[1], context="high"), rtol=1e-5, atol=1e-5)


@cases
def test_one_context_is_that_of_all_rows(case):
    model, x = fitted(case), CASES[case][1][:20]
    np.testing.assert_array_equal(model.sample(20, context="low", rng=0), model.sample(context=["low"] * 20, rng=0))
    if case in DENSE:
        np.testing.assert_array_equal(model.log_prob(x, context="low"), model.log_prob(x, context=["low"] * 20))
    if model.capabilities.invertible:
        z = model.encode(x, context=LABELS[:20])
        np.testing.assert_allclose(model.decode(z, context=LABELS[:20]), x, atol=1e-6)


@cases
def test_a_file_keeps_what_the_context_is(case, tmp_path):
    model, x = fitted(case), CASES[case][1][:20]
    model.save(tmp_path / "m")
    loaded = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.sample(3, context="high", rng=0), model.sample(3, context="high", rng=0))
    assert loaded.score(x, context=LABELS[:20]) == model.score(x, context=LABELS[:20])
    for query in ["log_prob"] * (case in DENSE) + ["critic"] * hasattr(model, "critic"):
        np.testing.assert_array_equal(getattr(loaded, query)(x, context=LABELS[:20]),
                                      getattr(model, query)(x, context=LABELS[:20]))


@pytest.mark.parametrize(("context", "message"), [
    (None, "was fitted with a context of 1 columns; pass context="), ("medium", "has the label 'medium' in column 0"),
    (["low", "high"], "has 2 rows for 20 rows of X"),
    ([["low", "high"]], "context has 2 columns, but the model was fitted with 1")])
@pytest.mark.parametrize("query", ["log_prob", "score", "encode"])
def test_another_context_is_refused(query, context, message):
    with pytest.raises(ValueError, match=message):
        getattr(fitted("MADE, normal"), query)(REAL[:20], context=context)


@pytest.mark.parametrize(("model", "more"), [(GaussianMixture(), ", and call condition"),
                                             (Mixture(), ", and call condition")], ids=lambda value: type(value).__name__)
def test_a_model_to_which_a_context_means_nothing_says_so(model, more):
    name = type(model).__name__
    with pytest.raises(ValueError, match=f"^fit: {name} takes no context; fit it on all the columns{more}$"):
        model.fit(REAL, context=LABELS)
    assert not hasattr(model, "n_features_in_")


def test_models_without_a_context_refuse_one():
    with pytest.raises(ValueError, match="log_prob: this GaussianMixture was fitted without a context; leave it out"):
        npgen.GaussianMixture(random_state=0).fit(REAL).log_prob(REAL, context=LABELS)
    with pytest.raises(ValueError, match="fit: context has 299 rows, but X has 300; pass one for each"):
        MADE().fit(REAL, context=LABELS[1:])


@pytest.mark.parametrize(("context", "columns"), [
    (np.array([1, 2, 1]), [{"levels": [1, 2]}]), (np.array([True, False, True]), [{"levels": [0, 1]}]),
    (np.array(["b", "a", "b"]), [{"levels": ["a", "b"]}]), ([3, "x", 3], [{"levels": ["3", "x"]}]),
    (np.array([1.0, 3.0, 5.0]), [{"mean": 3.0, "scale": np.std([1, 3, 5])}]), (np.ones(3), [{"mean": 1.0, "scale": 1.0}]),
    (np.array([[1, 0], [3, 0], [5, 3]]), [{"mean": 3.0, "scale": np.std([1, 3, 5])},
                                          {"mean": 1.0, "scale": np.std([0, 0, 3])}]),
    (data.Table(np.array([[1.0], [3.0], [5.0]]), ["a"]), [{"name": "a", "mean": 3.0, "scale": np.std([1, 3, 5])}])])
def test_labels_and_numbers(context, columns):
    assert ContextMap.of(context, 3).columns == columns


def test_numbers_are_standardised_and_labels_indicators():
    table = np.array([[0.0, "a"], [2.0, "b"], [4.0, "a"]], dtype=object)
    found = ContextMap.of(table, 3).encode("log_prob", table, np.float64)
    np.testing.assert_allclose(found, [[-1.5**0.5, 1, 0], [0, 0, 1], [1.5**0.5, 1, 0]])


def test_a_table_goes_by_its_names():
    table = data.Table(np.arange(600.0).reshape(300, 2), ["age", "size"])
    model = MADE(hidden=(8,), max_epochs=1, random_state=0).fit(BITS, context=table)
    assert model.context_.names == ["age", "size"]
    with pytest.raises(ValueError, match="context has columns .'size', 'age'., but the model was fitted with .'age', 'size'."):
        model.log_prob(BITS, context=table[["size", "age"]])


def test_rows_of_no_weight_have_no_say_in_what_is_learned_with_a_context():
    weights = np.repeat([1.0, 0.0], [200, 100])
    some = MADE(hidden=(8,), max_epochs=2, random_state=0).fit(BITS[:200], context=LABELS[:200])
    weighted = MADE(hidden=(8,), max_epochs=2, random_state=0).fit(BITS, context=LABELS, sample_weight=weights)
    np.testing.assert_array_equal(some.log_prob(BITS, context=LABELS), weighted.log_prob(BITS, context=LABELS))


def test_a_run_of_another_context_is_not_gone_on_from(tmp_path):
    model = MADE(hidden=(8,), max_epochs=2, random_state=0)
    model.fit(BITS, context=LABELS, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="is of other rows or weights"):
        model.fit(BITS, context=LABELS[::-1], checkpoint=tmp_path / "run", resume=True)


@pytest.mark.parametrize("case", ["MADE, Bernoulli", "MADE, normal", "RealNVP", "VAE", "RBM, Bernoulli", "RBM, normal", "GMMN",
                                  "GAN"])
def test_the_checkers_laws_hold_given_each_context(case):
    report = check_generative_model(fitted(case), CASES[case][1], context=LABELS, n_samples=5000)
    assert report.passed, str(report)
    assert " given low; high: density" in str(report) or " given high; low: density" in str(report)


@pytest.mark.parametrize(("target", "old", "new", "law"), [
    ("models.made:MADE._log_density_in", "beside(net.inputs(x), c)", "beside(net.inputs(x), c[:1] + 0 * c)",
     "a row's context is its own"),
    ("models.made:MADE._from_noise", "noise, c)", "noise, 1 - c)", "samples follow the density over states"),
    ("models.made:MADE._log_density_in", "x, net(", "x[:, ::-1], net(", "samples follow the density over states")])
def test_a_mistake_about_a_context_is_found(target, old, new, law):
    with mutants.Mutant(law, "", target, old, new).made():
        report = check_generative_model(fitted("MADE, Bernoulli"), context=np.array(["low", "high"]), n_samples=5000)
    assert law in report.broken and "given " in report[law].note, str(report)


def test_a_context_that_the_checker_cannot_give_is_refused():
    with pytest.raises(ValueError, match="check_generative_model: this GaussianMixture was fitted without a context"):
        check_generative_model(npgen.GaussianMixture(random_state=0).fit(REAL), context=LABELS)
    with pytest.raises(ValueError, match="has the label 'medium' in column 0"):
        check_generative_model(fitted("MADE, normal"), context=["medium"])
    with pytest.raises(ValueError, match="was fitted with a context"):
        check_generative_model(fitted("MADE, normal"))
