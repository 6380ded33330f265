"""VAE: its bound and its estimate against the exact log p(x), which one latent dimension lets a quadrature compute."""
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from npgen.fused import standard_normal_log_prob
from npgen.models import VAE
from npgen.random import Stream

ALARM = 1e-6  # of a statistical test, per case
RNG = np.random.default_rng(0)
SIDE = RNG.normal(size=(300, 1))
BITS = (SIDE + 0.7 * RNG.normal(size=(300, 4)) > 0).astype(float)
REAL = np.column_stack([SIDE, SIDE**2]) + 0.2 * RNG.normal(size=(300, 2)) * [1, 30] + [0, 9]
LINE = REAL[:, :1]
DATA = {"Bernoulli": BITS, "normal": REAL, "normal, 1 feature": LINE}
cases = pytest.mark.parametrize("case", DATA)
Z, STEP = np.linspace(-12, 12, 6001, retstep=True)
_models = {}


def fitted(case):
    """A VAE of one latent dimension, its rows, and their exact log p(x)."""
    if case not in _models:
        x = DATA[case]
        model = VAE(n_latent=1, hidden=(16,), max_epochs=30, learning_rate=1e-2, random_state=0).fit(x)
        _models[case] = model, x[:40], exact(model, x[:40])
    return _models[case]


def exact(model, x):
    """log p(x) = log of the integral of N(z; 0, 1) p(x | z) over z, plus the preprocessing's log-determinant."""
    rows, log_det = model.preprocess_.to_noise(None, x)
    outputs = model._decoder(model.params_, Z[:, None])
    joint = np.stack([model.head_.log_prob(row[None], outputs) for row in rows]) + stats.norm.logpdf(Z)
    return np.logaddexp.reduce(joint, axis=1) + math.log(STEP) + log_det


def exact_elbo(model, x):
    """E_q[log p(x | z)] - KL(q || N(0, 1)), both by quadrature over z."""
    rows, log_det = model.preprocess_.to_noise(None, x)
    mean, log_var = model._posterior(model.params_, rows)
    z = mean + np.exp(log_var / 2) * Z  # q's own coordinates
    q = stats.norm.pdf(Z) * STEP
    likely = np.stack([model.head_.log_prob(row[None], model._decoder(model.params_, at[:, None]))
                       for row, at in zip(rows, z, strict=True)])
    log_ratio = stats.norm.logpdf(z) - stats.norm.logpdf(Z) + log_var / 2
    return (likely + log_ratio) @ q + log_det


@cases
def test_the_elbo_is_below_the_exact_log_prob_and_near_it(case):
    model, x, log_prob = fitted(case)
    gap = log_prob - exact_elbo(model, x)
    assert (gap > 0).all() and gap.mean() < 1


@pytest.mark.long(but={"case": ["Bernoulli"]})
@cases
def test_one_sample_elbos_are_unbiased(case):
    """Surely found: a bias of 0.3 standard deviations of one sample; of the public elbo, of 0.6 nats in the mean of 40 rows."""
    model, x, _ = fitted(case)
    rows, log_det = model.preprocess_.to_noise(None, x)
    stream = Stream(1)

    def draw(mean, log_var):
        return mean + np.exp(log_var / 2) * stream.normal(mean.shape)

    terms = (model._terms(model.params_, rows, draw) for _ in range(1500))
    drawn = np.stack([log_prob - kl + log_det for log_prob, kl in terms])
    error = drawn.std(axis=0) / math.sqrt(len(drawn))
    deviation = (drawn.mean(axis=0) - exact_elbo(model, x)) / error
    assert np.abs(deviation).max() < stats.norm.isf(ALARM / 2 / len(x))
    public = model.elbo(x)  # one of them
    assert np.abs((public - drawn.mean(axis=0)) / drawn.std(axis=0)).max() < 20
    assert abs(np.mean(public - exact_elbo(model, x))) < 0.3
    np.testing.assert_array_equal(public, model.elbo(x))
    np.testing.assert_allclose(model.elbo(x[::-1]), public[::-1], rtol=1e-9)


@pytest.mark.long(but={"case": ["Bernoulli"]})
@cases
def test_training_follows_the_same_bound(case):
    model, x, _ = fitted(case)
    rows, log_det = model.preprocess_.to_noise(None, x)
    losses = np.mean([model._loss(model.params_, rows, stream) for stream in [Stream(2)] for _ in range(1500)], axis=0)
    np.testing.assert_allclose(-losses.mean() + log_det.mean(), exact_elbo(model, x).mean(), atol=0.05)


@cases
def test_the_estimate_is_within_its_errors_of_the_exact_log_prob(case):
    model, x, log_prob = fitted(case)
    estimate, error = model.importance_log_prob(x, n_importance=2000)
    bias = 2000 * error**2 / 2 / 2000  # of the logarithm of a mean
    assert (np.abs(estimate - log_prob) < 5 * error + bias).all() and error.max() < 0.2
    np.testing.assert_allclose(model.log_prob(x), model.importance_log_prob(x)[0], rtol=1e-12)


@pytest.mark.long(but={"case": ["Bernoulli"]})
@cases
def test_the_estimate_rises_with_its_samples_up_to_the_exact_log_prob(case):
    model, x, log_prob = fitted(case)
    rows, log_det = model.preprocess_.to_noise(None, x)
    params = {k: a + 0.3 * np.sin(np.arange(a.size)).reshape(a.shape) * k.startswith("encoder")  # a bad posterior
              for k, a in model.params_.items()}
    often = np.concatenate([rows + 1e-9 * k for k in range(50)])  # every row again with noise of its own
    means = [np.mean(model._importance(params, often, s)[0]) + log_det.mean() for s in (1, 2, 8, 64)]
    assert means[0] < means[1] - 0.02 < means[2] - 0.04 and means[2] < means[3] < log_prob.mean() + 0.02


def test_one_sample_has_no_standard_error():
    model, x, _ = fitted("normal")
    estimate, error = model.importance_log_prob(x, n_importance=1)
    assert np.isnan(error).all() and np.isfinite(estimate).all()


def test_the_kl_divergence_in_closed_form_is_that_of_samples():
    """Surely found: an error of 0.08 standard deviations of log q - log p."""
    model = VAE(n_latent=3, hidden=(8,), max_epochs=10, random_state=0).fit(BITS)
    x, z_of = BITS[:10], {}

    def draw(mean, log_var):
        z_of["q"] = mean, log_var
        return mean

    kl = model._terms(model.params_, x, draw)[1]
    mean, log_var = (a[:, None] for a in z_of["q"])
    z = mean + np.exp(log_var / 2) * RNG.normal(size=(10, 20000, 3))
    ratio = stats.norm(mean, np.exp(log_var / 2)).logpdf(z).sum(axis=2) - standard_normal_log_prob(z)
    deviation = (ratio.mean(axis=1) - kl) / (ratio.std(axis=1) / math.sqrt(20000))
    assert np.abs(deviation).max() < stats.norm.isf(ALARM / 2 / 10) and (kl > 0).all()


def test_beta_weighs_the_divergence_in_the_loss_and_nowhere_else():
    models = {beta: VAE(n_latent=2, hidden=(8,), beta=beta, max_epochs=40, learning_rate=1e-2, random_state=0).fit(BITS)
              for beta in (0.0, 1.0, 30.0)}
    spread = {beta: np.abs(m.encode(BITS)).mean() for beta, m in models.items()}
    assert spread[0.0] > spread[1.0] > spread[30.0]
    for model in models.values():
        rows, keep = BITS[:20], model.beta
        at = [model._loss(model.set_params(beta=b).params_, rows, Stream(0)) for b in (0.0, 1.0, 3.0)]
        np.testing.assert_allclose(at[2] - at[0], 3 * (at[1] - at[0]), rtol=1e-9)
        bounds = [model.set_params(beta=b).elbo(rows) for b in (0.0, 3.0)]
        np.testing.assert_array_equal(*bounds)
        model.set_params(beta=keep)


def test_samples_and_estimates_follow_the_density_over_states():
    """Surely found: probabilities 9 % off (root mean square)."""
    model, _, _ = fitted("Bernoulli")
    states = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    p, n = np.exp(exact(model, states)), 20000
    assert math.isclose(p.sum(), 1, rel_tol=1e-9)
    drawn = model.sample(n, rng=1)
    counts = (drawn[:, None] == states).all(axis=2).sum(axis=0)
    assert stats.chisquare(counts, n * p).pvalue > ALARM
    np.testing.assert_allclose(np.exp(model.importance_log_prob(states, n_importance=4000)[0]).sum(), 1, atol=0.02)


def test_samples_follow_the_density_over_the_line():
    """Surely found: 8 % of the mass displaced."""
    model, _, _ = fitted("normal, 1 feature")
    line = np.linspace(LINE.min() - 15, LINE.max() + 15, 1501)
    p = np.exp(exact(model, line[:, None]))
    cdf = np.cumsum((p[1:] + p[:-1]) / 2) * (line[1] - line[0])
    assert math.isclose(cdf[-1], 1, rel_tol=1e-3)
    assert stats.kstest(model.sample(5000, rng=1)[:, 0], lambda t: np.interp(t, line[1:], cdf)).pvalue > ALARM


@cases
def test_encode_is_the_posterior_mean_and_decode_the_mean_of_x(case):
    """Surely found: a mean off by 0.08 standard deviations of x."""
    model, x, _ = fitted(case)
    rows, _ = model.preprocess_.to_noise(None, x)
    np.testing.assert_array_equal(model.encode(x), model._posterior(model.params_, rows)[0])
    z = RNG.normal(size=(5, 1))
    given = model._decoder(model.params_, z)
    noise = getattr(Stream(0), model.head_.noise)((20000, x.shape[1]), np.float64)
    for row, outputs in zip(model.decode(z), given, strict=True):
        drawn = model.preprocess_.to_data(None, model.head_.sample(noise, np.tile(outputs, (20000, 1))))[0]
        deviation = (drawn.mean(axis=0) - row) / (drawn.std(axis=0) / math.sqrt(20000) + 1e-9)
        assert np.abs(deviation).max() < stats.norm.isf(ALARM / 2 / row.size / 5)


def test_the_latent_dimension_finds_what_made_the_data():
    model, _, _ = fitted("Bernoulli")
    assert abs(stats.spearmanr(model.encode(BITS)[:, 0], SIDE[:, 0]).statistic) > 0.7


def test_a_number_of_samples_that_cannot_be_is_named():
    model, x, _ = fitted("Bernoulli")
    for n in (0, -1, 2.5, "many"):
        with pytest.raises(ValueError, match=f"n_importance must be made of positive integers, got {n!r}"):
            model.importance_log_prob(x, n_importance=n)
