"""Autoencoder: linear ones are known in closed form, rows come through the density of the codes, and it keeps the contract."""
import pickle

import mutants
import numba
import numpy as np
import pytest

import npgen
from npgen import MADE, Autoencoder, GaussianMixture, LoadError, RealNVP, checkpoint, cli, data
from npgen.nn import MLP
from npgen.testing import check_generative_model

RNG = np.random.default_rng(0)
MOONS = data.moons(150)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
pytestmark = pytest.mark.filterwarnings("ignore:fit. in some direction components")


def small(**options):
    return Autoencoder(**{"n_latent": 2, "hidden": (16,), "max_epochs": 3, "batch_size": 50, "random_state": 0} | options)


def same(a, b):
    mine, its = a.state()[0], b.state()[0]
    assert mine.keys() == its.keys()
    for name, x in mine.items():
        assert x.dtype == its[name].dtype and x.tobytes() == its[name].tobytes(), name


def rows(n=1000):
    """Rows of four columns, of mean 0 and known covariance."""
    x = RNG.normal(size=(n, 4)) * [3, 2, 1, 0.5] @ np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    return x - x.mean(axis=0)


def linear(x, context=None, **options):
    return Autoencoder(**{"hidden": (), "preprocess": None, "max_epochs": 150, "learning_rate": 0.02, "schedule": "cosine",
                          "validation_fraction": 0, "patience": 150, "random_state": 0} | options).fit(x, context=context)


# ---------------------------------------------------------------- what linear ones are

def test_a_linear_one_is_principal_component_analysis():
    """Its loss is the sum of the discarded eigenvalues, and it projects on the others' eigenvectors."""
    x = rows()
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    model = linear(x, n_latent=2)
    back = model.decode(model.encode(x))
    assert np.mean(np.square(x - back).sum(axis=1)) == pytest.approx(values[:2].sum(), rel=2e-3)
    np.testing.assert_allclose(back, x @ vectors[:, 2:] @ vectors[:, 2:].T, atol=0.15)
    assert model.history_[-1]["train_nats"] == pytest.approx(values[:2].sum(), rel=5e-2)


def test_a_linear_denoising_one_is_wieners_filter():
    x, noise = rows(4000), 1.5
    covariance = x.T @ x / len(x)
    model = linear(x, n_latent=4, noise=noise, max_epochs=100, batch_size=400)
    unit = np.eye(4)
    gain = model.decode(model.encode(unit)) - model.decode(model.encode(0 * unit))
    np.testing.assert_allclose(gain, np.linalg.solve(covariance + noise**2 * unit, covariance), atol=0.06)


def test_given_a_context_a_linear_one_is_principal_component_analysis_of_what_that_leaves():
    """Of what is left of the rows after regression on the context it discards the least eigenvalues."""
    c, left = RNG.normal(size=(1000, 2)), rows()
    x = left + c @ [[2.0, 0, 1, -1], [0, 3.0, 0, 1]]
    beside = np.hstack([c, np.ones((1000, 1))])
    left = x - beside @ np.linalg.lstsq(beside, x, rcond=None)[0]
    model = linear(x, n_latent=2, context=c, prior=MADE(hidden=(8,), max_epochs=2))
    back = model.decode(model.encode(x, context=c), context=c)
    lost, of_rows = (np.linalg.eigvalsh(np.cov(each.T, bias=True))[:2].sum() for each in (left, x))
    assert np.mean(np.square(x - back).sum(axis=1)) == pytest.approx(lost, rel=0.03) and lost < 0.5 * of_rows


def test_given_a_context_codes_are_drawn_by_it():
    """Of codes that spread ten times as wide given one label; standard deviations of 500 draws, off by a factor of 2."""
    labels = np.arange(600) % 2
    x = RNG.normal(size=(600, 2)) * [3, 0.3] * np.where(labels, 0.1, 1)[:, None]
    model = small(n_latent=1, hidden=(), max_epochs=10).fit(x, context=labels)
    for label in (0, 1):
        codes = model.encode(x[labels == label], context=label)
        drawn = model.prior_.sample(context=np.tile(np.eye(2)[label], (500, 1)), rng=0)
        assert 0.5 < drawn.std() / codes.std() < 2
        np.testing.assert_array_equal(model.sample(500, context=label, rng=0), model.decode(drawn, context=label))


def test_a_prior_that_takes_no_context_is_refused_given_one():
    with pytest.raises(ValueError, match="^prior must take a context, as codes may depend on it, and a GaussianM"):
        small(prior=GaussianMixture(2)).fit(MOONS, context=MOONS[:, 0] > 0)


def test_samples_come_through_the_density_of_the_codes():
    """Of a linear one whose codes are normal they have the rows' covariance; 4,000 draws, 7 standard errors: below 1e-9."""
    x = rows(2000)
    model = linear(x, n_latent=4, max_epochs=60, prior=GaussianMixture(1))
    y = model.sample(4000, rng=0)
    scale = np.sqrt(np.outer(*[np.var(x, axis=0)] * 2) + np.cov(x.T) ** 2)
    assert (np.abs(np.cov(y.T) - np.cov(x.T)) < 7 * scale / np.sqrt(4000) + 0.02).all()
    drawn = model.prior_.sample(9, rng=3)
    np.testing.assert_array_equal(model.sample(9, rng=3), model.decode(drawn))
    np.testing.assert_allclose(model.prior_.means_[0], model.encode(x).mean(axis=0), atol=1e-6)


def test_weights_are_those_of_the_codes_too():
    x, w = rows(300), RNG.integers(1, 4, 300)
    model = linear(x, n_latent=4, max_epochs=5, prior=GaussianMixture(1), patience=5)
    weighted = Autoencoder(**model.get_params(deep=False)).fit(x, sample_weight=w)
    np.testing.assert_allclose(weighted.prior_.means_[0], np.average(weighted.encode(x), axis=0, weights=w), atol=1e-6)


def test_a_sigmoid_is_the_last_step_of_the_loss_of_decode_and_of_samples():
    """Of linear layers: sigmoid(W_2 (W_1 x + b_1) + b_2), worked out by hand from the parameters."""
    x = 1 / (1 + np.exp(-2 * rows(300)))
    model = linear(x, n_latent=2, output="sigmoid", max_epochs=100)
    nets = MLP("encoder", (4, 2)), MLP("decoder", (2, 4))
    (w1, b1), (w2, b2) = (net.layout.weight_and_bias(model.params_[net.name], 0) for net in nets)

    def decoded(h):
        return 1 / (1 + np.exp(-(h @ w2 + b2)))

    np.testing.assert_allclose(model.decode(model.encode(x)), decoded(x @ w1 + b1), rtol=1e-12)
    np.testing.assert_allclose(model.sample(9, rng=3), decoded(model.prior_.sample(9, rng=3)), rtol=1e-12)
    loss = linear(x, n_latent=2, output="sigmoid", max_epochs=1, learning_rate=1e-300).history_[0]["train_nats"]
    first = linear(x, n_latent=2, output="sigmoid", max_epochs=1, learning_rate=1e-300)
    assert loss == pytest.approx(np.square(x - first.decode(first.encode(x))).sum(axis=1).mean(), rel=1e-12)
    assert np.square(x - model.decode(model.encode(x))).sum(axis=1).mean() < loss / 2


def test_an_older_file_has_no_sigmoid(tmp_path):
    model = small().fit(MOONS)
    model.save(tmp_path / "m")
    arrays, header = checkpoint.read(tmp_path / "m")
    header["fitted"].pop("output_"), header["params"].pop("output")
    checkpoint.write(tmp_path / "m", arrays, header)
    again = npgen.load(tmp_path / "m")
    assert again.output_ == "linear" and again.sample(5, rng=1).tobytes() == model.sample(5, rng=1).tobytes()


# ---------------------------------------------------------------- the contract

@DTYPES
def test_same_seed_same_fit_and_the_same_bits_for_any_thread_count(dtype):
    x, before, found = MOONS.astype(dtype), numba.get_num_threads(), []
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            found.append(small(noise=0.1).fit(x))
    finally:
        numba.set_num_threads(before)
    same(*found)
    a, b = found
    for one, other in ((a.encode(x), b.encode(x)), (a.sample(5, rng=0), b.sample(5, rng=0)), (a.decode(a.encode(x)),) * 2):
        assert one.tobytes() == other.tobytes() and one.dtype == dtype


@pytest.mark.parametrize("given", [{}, {"context": MOONS[:, 0] > 0}], ids=["alone", "given a context"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(given, tmp_path):
    def stop(entry):
        if entry["epoch"] == 2:
            raise RuntimeError("stop")

    whole = small(noise=0.1).fit(MOONS, **given)
    with pytest.raises(RuntimeError, match="stop"):
        small(noise=0.1, callbacks=(stop,)).fit(MOONS, checkpoint=tmp_path / "run", **given)
    again = small(noise=0.1).fit(MOONS, checkpoint=tmp_path / "run", resume=True, **given)
    same(again, whole)
    assert again.history_ == whole.history_


@pytest.mark.parametrize("prior", [None, GaussianMixture(2, covariance_type="diag"),
                                   RealNVP(n_couplings=2, hidden=(4,), max_epochs=2)], ids=["none", "mixture", "flow"])
def test_files_and_pickles_hold_the_density_too(prior, tmp_path):
    model = small(prior=prior).fit(MOONS)
    model.save(tmp_path / "m")
    for again in (npgen.load(tmp_path / "m"), pickle.loads(pickle.dumps(model))):
        same(again, model)
        assert again.sample(5, rng=1).tobytes() == model.sample(5, rng=1).tobytes() and repr(again) == repr(model)
    assert prior is None or not hasattr(prior, "n_features_in_"), "a fit leaves the prior that it is given alone"
    if prior is not None:
        assert model.get_params()["prior__random_state"] is None


def test_a_forged_density_is_refused(tmp_path):
    model, other = small().fit(MOONS), small(n_latent=1).fit(MOONS)
    model.save(tmp_path / "m")
    arrays, header = checkpoint.read(tmp_path / "m")
    its, fitted = other.state()
    forged = {name: a for name, a in arrays.items() if not name.startswith("prior.")}
    forged |= {name: a for name, a in its.items() if name.startswith("prior.")}
    checkpoint.write(tmp_path / "m", forged, header | {"fitted": header["fitted"] | {"prior_": fitted["prior_"]}})
    with pytest.raises(LoadError, match="the density is not of the codes"):
        npgen.load(tmp_path / "m")


@pytest.mark.parametrize("x", [MOONS, np.round(3 * MOONS)], ids=["real", "integers"])
def test_every_law_that_applies_holds(x):
    report = check_generative_model(small(noise=0.2).fit(x), x)
    assert report.passed, str(report)


@pytest.mark.parametrize("given", [{}, {"context": MOONS[:, 0] > 0}], ids=["alone", "given a context"])
def test_on_the_device_it_is_the_same_model(cupy, given):
    host, device = (small(noise=0.1).to(where).fit(MOONS, **given) for where in ("cpu", "cuda"))
    assert (host.device, device.device) == ("cpu", "cuda")
    np.testing.assert_allclose(device.encode(MOONS, **given), host.encode(MOONS, **given), rtol=2e-3, atol=2e-3)
    one = {name: c[:1] for name, c in given.items()}
    drawn = [host.to(where).sample(9, rng=0, **one) for where in ("cuda", "cpu")]
    np.testing.assert_allclose(*drawn, rtol=1e-5, atol=1e-6)
    assert np.isfinite(device.score(MOONS, **given))


def test_the_command_line_fits_draws_and_checks_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ("--set", "hidden=16", "--set", "n_latent=2", "--epochs", "2")
    assert cli.main(["fit", "autoencoder", "--data", "moons", "--out", "m", *settings]) == 0
    assert "loss " in capsys.readouterr().out
    for argv in (["sample", "m", "-n", "5", "--out", "s.csv"], ["encode", "m", "--data", "moons", "--out", "z.npy"],
                 ["info", "m"], ["check", "m"], ["score", "m", "--data", "moons"]):
        assert cli.main(argv) == 0, argv


BAD = {"n_latent": [0, 1.5, None], "hidden": [(0,), "wide"], "noise": [-1, np.nan, "much", None], "prior": ["normal", 3],
       "output": ["tanh", None, "sigmoid"]}  # MOONS are not from 0 to 1


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD.items() for value in values], ids=repr)
def test_a_hyperparameter_that_cannot_be_is_named(name, value):
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        small(**{name: value}).fit(MOONS)
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    """All but one check: a row drawn once by weight 2 is not drawn as two rows are."""
    check = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed").check_estimator
    drawn = {"check_sample_weight_equivalence_on_dense_data": "batches and held-out rows are drawn"}
    results = check(Autoencoder(n_latent=2, hidden=(8,), max_epochs=2, random_state=0), on_skip=None,
                    expected_failed_checks=drawn)
    assert sum(result["status"] == "passed" for result in results) > 40


of_what_is_left = test_given_a_context_a_linear_one_is_principal_component_analysis_of_what_that_leaves
MUTANTS = {
    "noise in what is to be given back": ("models.autoencoder:Autoencoder._loss", "z - self._reconstruct",
                                          "seen - self._reconstruct", test_a_linear_denoising_one_is_wieners_filter),
    "variance for the standard deviation": ("models.autoencoder:Autoencoder._loss", "self.noise * stream",
                                            "self.noise**2 * stream", test_a_linear_denoising_one_is_wieners_filter),
    "mean for sum of squares": ("models.autoencoder:Autoencoder._loss", "ops.sum(", "ops.mean(",
                                test_a_linear_one_is_principal_component_analysis),
    "no sigmoid behind the decoder": ("models.autoencoder:Autoencoder._reconstruct", "self.output_", "'linear'",
                                      test_a_sigmoid_is_the_last_step_of_the_loss_of_decode_and_of_samples),
    "codes at random": ("models.autoencoder:Autoencoder._draw", "self.prior_.sample(n, rng=stream)",
                        "stream.normal((n, self.n_latent_))", test_samples_come_through_the_density_of_the_codes),
    "the decoder sees no context": ("models.autoencoder:Autoencoder._reconstruct", "beside(h, c)",
                                    "beside(h, c if c is None else 0 * c)", of_what_is_left),
    "codes of no context": ("models.autoencoder:Autoencoder._fit_prior", "context=c", "context=c if c is None else 0 * c",
                            test_given_a_context_codes_are_drawn_by_it),
    "codes of another row's context": ("models.autoencoder:Autoencoder._draw", "context=asnumpy(c)", "context=asnumpy(1 - c)",
                                       test_given_a_context_codes_are_drawn_by_it),
    "weights are not those of the codes": ("models.autoencoder:Autoencoder._fit_prior", "sample_weight=weights",
                                           "sample_weight=None", test_weights_are_those_of_the_codes_too),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = MUTANTS[name]
    with mutants.Mutant(name, "", where, old, new).made(), pytest.raises(AssertionError):
        law()
