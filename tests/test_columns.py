"""Columns of every kind in every model: 0 and 1 beside real numbers, outliers, atoms, heads behind maps of one's own."""
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npgen
from npgen.models import MADE, VAE, GaussianMixture, Mixture, RealNVP
from npgen.transforms import Chain, Standardize, Transform, warn_of_atoms

RNG = np.random.default_rng(0)
N = 2000
SHORT = {"max_epochs": 40, "random_state": 0}
MODELS = {"MADE": lambda **options: MADE(hidden=(50,), **SHORT | options),
          "RealNVP": lambda **options: RealNVP(n_couplings=4, hidden=(32,), **SHORT | options),
          "VAE": lambda **options: VAE(n_latent=2, hidden=(50,), **SHORT | options)}
models = pytest.mark.parametrize("name", MODELS)
SWITCH = np.column_stack([RNG.random(N) < 0.5, RNG.normal(size=N)]).astype(float)
LATENT = RNG.random(N) < 0.5
BITS = (RNG.random((N, 4)) < np.where(LATENT[:, None], 0.9, 0.1)).astype(float)
TWO = RNG.normal(size=(2 * N, 2))


def entropy(x):
    counts = np.unique(x, axis=0, return_counts=True)[1] / len(x)
    return -counts @ np.log(counts)


@pytest.mark.long
@models
def test_a_column_of_0_and_1_beside_a_real_one_has_a_bound(name):
    """log p = log 1/2 + log N: -2.11 nats. 1,000 samples; shares within 0.08, five standard errors: false alarms 6e-7."""
    model, truth = MODELS[name]().fit(SWITCH), -np.log(2) - 0.5 * np.log(2 * np.pi) - 0.5 * np.mean(SWITCH[:, 1]**2)
    assert model.capabilities.density == ("estimate" if name == "VAE" else "bound")
    assert truth - 0.3 < model.score(SWITCH) < truth + 0.02
    first = model.sample(1000, rng=1)[:, 0]
    assert set(first) == {0, 1} and abs(first.mean() - SWITCH[:, 0].mean()) < 0.08
    assert not np.isin(model.sample(1000, rng=1)[:, 1], (0, 1)).any()
    np.testing.assert_array_equal(model.log_prob(SWITCH[::-1])[::-1], model.log_prob(SWITCH))


@pytest.mark.long
@models
def test_bits_are_taken_as_they_are_where_a_head_can(name):
    model = MODELS[name](max_epochs=60).fit(BITS)
    density = {"MADE": "exact", "RealNVP": "bound", "VAE": "estimate"}[name]
    assert model.capabilities.density == density and np.isin(model.sample(50, rng=0), (0, 1)).all()
    assert model.score(BITS) < -entropy(BITS) + (0 if density == "bound" else 1e-3)
    assert model.score(BITS) > -entropy(BITS) - 0.6
    if name != "RealNVP":
        assert MODELS[name](head="normal", max_epochs=1).fit(BITS).preprocess_.exact is False


@pytest.mark.long
@models
@pytest.mark.parametrize("value", [-9999, -999999, 1e6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_outlier_ruins_nothing(name, value, dtype):
    x = TWO[:N].astype(dtype)
    x[17, 0] = value
    message = rf"^Standardize: x\[17, 0\] is {re.escape(f'{value:g}')}, .* maps column 0 \(counted"
    with pytest.warns(UserWarning, match=message) as said:
        model = MODELS[name](max_epochs=30).fit(x)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    clean = MODELS[name](max_epochs=30).fit(TWO[:N].astype(dtype))
    assert abs(model.score(TWO[N:]) - clean.score(TWO[N:])) < 0.05 and clean.score(TWO[N:]) > -2.9
    quartiles = np.quantile(model.sample(20000, rng=1)[:, 0], [0.25, 0.75])
    assert np.abs(quartiles - [-0.67, 0.67]).max() < 0.1
    assert np.isfinite(model.log_prob(x)).all() and model.preprocess_.far_.tolist() == [0]


@pytest.mark.filterwarnings("ignore:Standardize")
def test_an_outlier_that_is_held_out_does_not_say_when_to_stop():
    """Among 200 rows held out, one of a hundred nats ends training in its first epoch, which costs 0.12 nats here."""
    rng = np.random.default_rng(3)
    x, new = rng.normal(size=(2000, 2)), rng.normal(size=(1000, 2))
    clean = MADE(random_state=0).fit(x).score(new)
    x[5, 0] = 1e6
    assert abs(MADE(random_state=0).fit(x).score(new) - clean) < 0.05


@pytest.mark.filterwarnings("ignore:Standardize")
@given(st.floats(50, 1e9), st.sampled_from([-1, 1]))
def test_a_value_however_far_out_is_one_row_among_others(distance, sign):
    x = np.append(TWO[:200, 0], sign * distance * 100)[:, None]
    p = Standardize().fit(x)
    z, log_det = p.to_noise(None, x)
    assert p.far_.tolist() == [0] and np.abs(z).max() < 8
    np.testing.assert_allclose(p.to_data(None, z)[0], x, rtol=1e-9)
    step = 1e-6 * abs(x[-1:])
    slope = (p.to_noise(None, x[-1:] + step)[0] - p.to_noise(None, x[-1:] - step)[0])[0, 0] / (2 * step[0, 0])
    np.testing.assert_allclose(log_det[-1], np.log(slope), atol=1e-4)


def test_columns_without_outliers_keep_mean_and_std():
    p = Standardize().fit(TWO)
    assert p.mean_.tobytes() == (np.ones(len(TWO)) / len(TWO) @ TWO).tobytes() and not p.far_.size


@pytest.mark.parametrize("draw", ["standard_cauchy", "lognormal"])
def test_a_heavy_tail_keeps_its_density(draw):
    """The map is monotone and its log-det is exact, so that the density behind it is one of x: it integrates to 1."""
    x = getattr(np.random.default_rng(1), draw)(**{"size": (2000, 1)} | ({"sigma": 2.0} if draw == "lognormal" else {}))
    with pytest.warns(UserWarning, match="robust standard deviations from the median"):
        p = Standardize().fit(x)
    z = np.linspace(-12, 12, 200_001)[:, None]
    y = p.to_data(None, z)[0]
    back, log_det = p.to_noise(None, y)
    np.testing.assert_allclose(back, z, atol=1e-9)
    assert (np.diff(y[:, 0]) > 0).all()
    density = np.exp(-0.5 * np.log(2 * np.pi) - 0.5 * back[:, 0]**2 + log_det)
    assert abs(np.trapezoid(density, y[:, 0]) - 1) < 1e-4


CONTINUOUS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "gamma": lambda rng, n: rng.gamma(0.5, size=n),
    "student": lambda rng, n: rng.standard_t(3, size=n),
    "two groups": lambda rng, n: np.where(rng.random(n) < 0.5, 0.3 * rng.normal(size=n), 5 + rng.normal(size=n)),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("grid", [0, 0.01, 0.1])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_no_atom_is_seen_in_a_continuous_column(name, grid, dtype):
    for n in (2, 30, 150, 3000, 50_000):
        x = CONTINUOUS[name](np.random.default_rng(n), n)[:, None]
        x = (np.round(x / grid) * grid if grid else x).astype(dtype)
        warn_of_atoms("fit", x, x)
    warn_of_atoms("fit", np.full((100, 1), 0.3), np.full((100, 1), 0.3))  # Standardize reports it


def test_measured_data_have_no_atoms():
    datasets = pytest.importorskip("sklearn.datasets")
    for name in ("iris", "wine", "breast_cancer", "linnerud"):
        x = getattr(datasets, f"load_{name}")().data
        warn_of_atoms("fit", x, x)


def inflated(x):
    return np.where(np.arange(len(x)) % 5 < 2, 0, np.abs(x))


ATOMS = {
    "zero-inflated": (inflated, r"column 1 of X is 0 in 40 % of the rows"),
    "floor and ceiling": (lambda x: np.clip(x, -1, 1.5), r"column 1 of X is -1 in 1\d % of the rows"),
    "two values": (lambda x: np.where(x > 0.5, 0.5, 1.25), r"column 1 of X is 1.25 in [67]\d % of the rows"),
    "a sentinel": (lambda x: np.where(np.arange(len(x)) % 50 == 3, -99.5, x), r"column 1 of X is -99.5 in 2 % of the rows"),
}
CONTINUOUS_MODELS = {
    "MADE": lambda: MADE(hidden=(8,), max_epochs=1, random_state=0),
    "VAE": lambda: VAE(hidden=(8,), max_epochs=1, random_state=0),
    "RealNVP": lambda: RealNVP(n_couplings=2, hidden=(8,), max_epochs=1, random_state=0),
    "GaussianMixture": lambda: GaussianMixture(random_state=0), "Mixture": lambda: Mixture(heads="normal", random_state=0),
}


@pytest.mark.parametrize("kind", ATOMS)
@pytest.mark.parametrize("name", CONTINUOUS_MODELS)
@pytest.mark.filterwarnings("ignore:Standardize")
def test_atoms_are_named_in_one_line(name, kind):
    make, message = ATOMS[kind]
    x = np.column_stack([RNG.normal(size=1000), make(RNG.normal(size=1000)), RNG.normal(size=1000)])
    with pytest.warns(UserWarning, match=rf"^fit: {message}, .*\(column 1, counted from 0\).*dequantize\+logit") as said:
        CONTINUOUS_MODELS[name]().fit(x)
    lines = [str(w.message) for w in said if "no continuous" in str(w.message)]
    assert len(lines) == 1 and "\n" not in lines[0] and len(lines[0]) < 400


def test_where_a_head_holds_the_column_nothing_is_said():
    bit = RNG.random(500) < 0.3
    x = np.column_stack([bit, RNG.normal(size=500) + 3 * bit]).astype(float)
    Mixture(2, random_state=0).fit(x)
    MADE(hidden=(8,), max_epochs=1, random_state=0).fit(BITS)
    GaussianMixture(2, preprocess="auto", random_state=0).fit(x)


@pytest.mark.parametrize("name", CONTINUOUS_MODELS)
def test_float32_steps_are_named(name):
    for scale in (1, 5):  # at 1, all numbers are the same
        x = (RNG.normal(size=(500, 2)) * scale + [0, 1e8]).astype(np.float32)
        message = r"^fit: column 1 of X comes in steps of 8, as float32 does there, .* or pass float64"
        with warnings.catch_warnings(), pytest.warns(UserWarning, match=message):
            warnings.filterwarnings("ignore", "Standardize: x does not vary")
            CONTINUOUS_MODELS[name]().fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CONTINUOUS_MODELS[name]().fit((RNG.normal(size=(500, 2)) + [0, 1e5]).astype(np.float32))


def test_a_float32_sentinel_leaves_the_other_rows_apart():
    x = RNG.normal(size=(2000, 1)).astype(np.float32)
    x[3] = 1e30
    with pytest.warns(UserWarning, match=r"x\[3, 0\] is 1e\+30"):
        z = Standardize().fit(x).to_noise(None, x)[0]
    assert len(np.unique(z)) > 1990 and np.isfinite(z).all()


class Threshold(Transform, name="threshold"):
    """0 up to half of `top`, 1 above; as if each were one state."""

    _options = ("top",)

    def __init__(self, *, top=255):
        self.top = top

    def fit(self, x, sample_weight=None):
        return self

    def to_noise(self, p, x, c=None, stream=None):
        return (2 * x > self.top).astype(x.dtype), np.zeros_like(x, shape=(len(x),))

    def to_data(self, p, z, c=None):
        return self.top * z, np.zeros_like(z, shape=(len(z),))


class Scale(Threshold, name="scale"):
    """x / top, and nothing else: what is neither 0 nor top is no bit."""

    def to_noise(self, p, x, c=None, stream=None):
        return x / self.top, np.zeros_like(x, shape=(len(x),))


@pytest.mark.parametrize("spec", ["threshold", Chain(steps=(Scale(),)), Scale(top=255)], ids=repr)
@pytest.mark.parametrize("name", ["MADE", "VAE"])
def test_a_head_checks_the_rows_it_sees(name, spec, tmp_path):
    x = 255 * BITS[:300].astype(np.float32)
    model = MODELS[name](max_epochs=2, preprocess=spec).fit(x)
    assert model.head_.name == "bernoulli"
    plain = MODELS[name](max_epochs=2).fit(BITS[:300].astype(np.float32))
    model.save(tmp_path / "m")
    for each in (model, npgen.load(tmp_path / "m")):
        np.testing.assert_array_equal(each.log_prob(x), plain.log_prob(x / 255))
        np.testing.assert_array_equal(each.encode(x), plain.encode(x / 255))
        assert each.score(x) == plain.score(x / 255) and np.isin(each.sample(20, rng=0), (0, 255)).all()
        assert each.decode(each.encode(x)).shape == x.shape
        if name == "VAE":
            np.testing.assert_array_equal(each.elbo(x), plain.elbo(x / 255))
    if "Scale" in repr(spec):
        x[4, 2] = 100
        for ask in (model.log_prob, model.encode, model.score, model.set_params(head="bernoulli").fit):
            with pytest.raises(ValueError, match=r"X\[4, 2\] is 100, but a Bernoulli head needs 0 or 1"):
                ask(x)
