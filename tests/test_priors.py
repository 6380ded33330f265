"""npgen.priors: each is a density that its own samples follow, with the divergence and the gradients that it says."""
import mutants
import numpy as np
import pytest

from npgen import fused
from npgen.engine import vjp
from npgen.priors import MADE, Flow, Mixture, Prior, StandardNormal, from_config
from npgen.random import Stream
from npgen.testing import check_grads
from npgen.transforms import BatchNorm

CASES = {  # whether they see a context
    "standard normal": (StandardNormal(), False),
    "mixture": (Mixture(3), False),
    "mixture of one": (Mixture(1), False),
    "MADE": (MADE(3, (6,)), True),
    "MADE of one, deep": (MADE(1, (6, 5)), True),
    "flow, autoregressive": (Flow(2, (6,), coupling=False), True),
    "flow, autoregressive splines": (Flow(2, (5,), coupling=False, bins=3), True),
    "flow, couplings": (Flow(2, (6,)), True),
    "flow, couplings of splines": (Flow(3, (5,), bins=3), True),
}
FLOWS = [name for name in CASES if name.startswith("flow")]
SEEING = [name for name, (_, sees) in CASES.items() if sees]
priors = pytest.mark.parametrize(("name", "w"), [(name, w) for name, (_, sees) in CASES.items()
                                                 for w in ((0, 2) if sees else (0,))])


def made(name, w, dtype=np.float64, first=False):
    prior, stream = CASES[name][0].of(2, w), Stream(1)
    if not first and isinstance(prior, Flow):
        for step in (prior.transform, *prior.transform.inner):
            for net in (*getattr(step, "nets", ()), *([step.net] if hasattr(step, "net") else ())):
                net.gains[-1] = 0.3
    if not first and isinstance(prior, MADE):
        prior.net.gains[-1] = 0.3
    p = prior.init(np.zeros((1, 7), dtype), np.zeros((1, w), dtype) if w else None, stream)
    assert {k: v.shape for k, v in p.items()} == prior.shapes() and all(v.dtype == dtype for v in p.values())
    if not first and isinstance(prior, Mixture):
        p["prior"] += 0.5 * stream.normal(p["prior"].shape, dtype)
    return prior, p


def context(w, n, dtype=np.float64):
    return np.repeat(np.array([[0.7, -0.4]], dtype), n, axis=0) if w else None


SIDE = np.linspace(-12, 12, 481)
GRID = np.stack(np.meshgrid(SIDE, SIDE, indexing="ij"), axis=-1).reshape(-1, 2)


@priors
def test_it_integrates_to_one_and_its_samples_have_its_entropy(name, w):
    """20,000 rows: the mean of their log_prob is minus the entropy, within 6 standard errors. False alarms: 2e-9."""
    prior, p = made(name, w)
    log_prob = prior.log_prob(p, GRID, context(w, len(GRID)))
    mass = np.exp(log_prob) * (SIDE[1] - SIDE[0])**2
    np.testing.assert_allclose(mass.sum(), 1, atol=1e-4)
    drawn = prior.sample(p, 20000, context(w, 20000), Stream(5), np.float64)
    scores = prior.log_prob(p, drawn, context(w, 20000))
    assert abs(scores.mean() - mass @ log_prob) < 6 * scores.std() / np.sqrt(20000) + 1e-4
    for moment in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z[:, 0] * z[:, 1], lambda z: z[:, 0]**2):
        assert abs(moment(drawn).mean() - mass @ moment(GRID)) < 6 * moment(drawn).std() / np.sqrt(20000) + 1e-3


@priors
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept_and_the_same_seed_draws_the_same_rows(name, w, dtype):
    prior, p = made(name, w, dtype)
    z, again = (prior.sample(p, 5, context(w, 5, dtype), Stream(3), dtype) for _ in range(2))
    assert z.dtype == prior.log_prob(p, z, context(w, 5, dtype)).dtype == dtype and z.shape == (5, 2)
    np.testing.assert_array_equal(z, again)


@priors
def test_gradients_are_those_of_finite_differences(name, w):
    prior, p = made(name, w)
    names, rng = list(p), np.random.default_rng(2)
    at, weight = [rng.normal(size=(6, 2)), *p.values()], rng.normal(size=6)

    def value(z, *values):
        return np.sum(weight * prior.log_prob(dict(zip(names, values, strict=True)), z, context(w, 6)))

    for i, g in enumerate(vjp(value, *at)[1](np.float64(1))):
        direction = rng.normal(size=g.shape) * (g != 0 if i else 1)  # not outside of a mask
        ends = [value(*(a + h * direction if j == i else a for j, a in enumerate(at))) for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(np.sum(g * direction), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_a_flow_and_a_made_of_one_begin_at_the_standard_normal():
    z = np.random.default_rng(3).normal(size=(9, 2))
    for name, w in [(name, w) for name in FLOWS for w in (0, 2)]:
        prior, p = made(name, w, first=True)
        np.testing.assert_allclose(prior.log_prob(p, z, context(w, 9)), fused.standard_normal_log_prob(z), rtol=1e-13)
    for w in (0, 2):
        one, p = made("MADE of one, deep", w, first=True)
        np.testing.assert_allclose(one.log_prob(p, z, context(w, 9)), fused.standard_normal_log_prob(z), rtol=1e-13)
    mixture, p = Mixture(1).of(2), {"prior": np.zeros((1, 5))}
    np.testing.assert_allclose(mixture.log_prob(p, z), fused.standard_normal_log_prob(z), rtol=1e-13)


@pytest.mark.parametrize("name", ["flow, couplings", "flow, couplings of splines"])
def test_both_features_move(name):
    prior, p = made(name, 0)
    z = np.random.default_rng(3).normal(size=(9, 2))
    assert (np.abs(prior.transform.to_noise(p, z)[0] - z) > 1e-9).all()


@pytest.mark.parametrize("name", SEEING)
def test_what_takes_a_context_sees_it(name):
    prior, p = made(name, 2)
    z = np.random.default_rng(3).normal(size=(9, 2))
    assert (np.abs(prior.log_prob(p, z, context(2, 9)) - prior.log_prob(p, z, -context(2, 9))) > 1e-3).all()


def test_the_divergence_is_its_integral_and_its_rules_are_its_derivatives():
    mean, log_var = np.array([[0.3, -1.1]]), np.array([[-0.7, 0.4]])
    log_q = -0.5 * (np.log(2 * np.pi) + log_var + (GRID - mean)**2 / np.exp(log_var)).sum(axis=1)
    prior = StandardNormal().of(2)
    integral = np.sum(np.exp(log_q) * (log_q - prior.log_prob({}, GRID))) * (SIDE[1] - SIDE[0])**2
    np.testing.assert_allclose(prior.kl(mean, log_var), integral, rtol=1e-9)
    check_grads(lambda m, v: np.sum(np.sin(prior.kl(m, v))), mean, log_var, order=2)
    assert all(learned.of(2).kl(mean, log_var) is None for learned in (Mixture(3), MADE(), Flow()))


def test_components_are_drawn_by_their_weights():
    """Of 10,000 rows, 7,000 of the component of weight 0.7, within 6 standard errors. False alarms: 2e-9."""
    prior = Mixture(2).of(2)
    p = {"prior": np.array([[-5, 0, 0, 0, np.log(0.3)], [5, 0, 0, 0, np.log(0.7)]])}
    share = (prior.sample(p, 10000, None, Stream(0), np.float64)[:, 0] > 0).mean()
    assert abs(share - 0.7) < 6 * np.sqrt(0.21 / 10000)


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_config_and_its_repr(name):
    prior = CASES[name][0]
    for again in (from_config(prior.config()), eval(repr(prior))):
        assert repr(again) == repr(prior) and again.of(2, 1).shapes() == prior.of(2, 1).shapes() and prior.d is None


class Normalised(Prior):
    """Noise that a batch normalisation has moved."""

    name = "normalised"

    def _bind(self):
        self.norm = BatchNorm("prior", self.d)

    def shapes(self):
        return self.norm.shapes()

    def query_shapes(self):
        return self.norm.query_shapes()

    def log_prob(self, p, z, c=None):
        return self.norm.log_prob(p, z)

    def sample(self, p, n, c, stream, dtype, like=None):
        return self.norm.data(p, stream.normal((n, self.d), dtype))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Mixture(0), "n_components must be an integer from 1 to 1000, got 0"),
    (lambda: Flow(2.5), "n_layers must be an integer from 1 to 1000, got 2.5"),
    (lambda: Flow(bins=1), "bins must be an integer from 2 to 1000, got 1"),
    (lambda: MADE(0), "n_components must be an integer from 1 to 1000, got 0"),
    (lambda: MADE(3, ()), "MADE: hidden must name at least one layer"),
    (lambda: Flow(hidden=(0,)), "hidden must be made of positive integers, got 0"),
    (lambda: Flow(hidden=(), coupling=False), "Flow: hidden must name at least one layer where coupling=False"),
    (lambda: Normalised().of(2), "prior: Normalised has statistics of rows, as batch normalisation has")])
def test_what_cannot_be_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(("where", "old", "new", "law", "args"), [
    ("StandardNormal.sample", "return ", "return 1.1 * ", test_it_integrates_to_one_and_its_samples_have_its_entropy,
     ("standard normal", 0)),
    ("Mixture.log_prob", " + ops.log_softmax(logits)", "", test_it_integrates_to_one_and_its_samples_have_its_entropy,
     ("mixture", 0)),
    ("Mixture.sample", "ops.softmax(", "ops.softmax(0 * ", test_components_are_drawn_by_their_weights, ()),
    ("Mixture.log_prob", "z[..., None, :]", "ops.stop_gradient(z)[..., None, :]",
     test_gradients_are_those_of_finite_differences, ("mixture", 0)),
    ("Mixture.sample", "astype(dtype, copy=False)", "astype(np.float64)",
     test_dtypes_are_kept_and_the_same_seed_draws_the_same_rows, ("mixture", 0, np.float32)),
    ("_of_unit_variance", "np.sqrt(dtype.type(d)) * ", "", test_a_flow_and_a_made_of_one_begin_at_the_standard_normal, ()),
    ("Flow.log_prob", "c if self.n_context", "0 * c if self.n_context", test_what_takes_a_context_sees_it,
     ("flow, couplings",)),
    ("Flow._steps", "np.arange(d)[::-1]", "np.arange(d)", test_both_features_move, ("flow, couplings of splines",)),
    ("Flow.config", "self.bins is None", "True", test_it_is_its_config_and_its_repr, ("flow, couplings of splines",)),
    ("MADE.log_prob", "self.net(p, beside(rows", "self.net(p, beside(0 * rows",
     test_it_integrates_to_one_and_its_samples_have_its_entropy, ("MADE", 0)),
    ("MADE.sample", "c if self.n_context", "0 * c if self.n_context",
     test_it_integrates_to_one_and_its_samples_have_its_entropy, ("MADE", 2)),
    ("MADE.init", "_of_unit_variance(self.d, z.dtype)", "2 * _of_unit_variance(self.d, z.dtype)",
     test_a_flow_and_a_made_of_one_begin_at_the_standard_normal, ()),
    ("MADE.config", '"hidden": list(self.hidden)', '"hidden": [7]', test_it_is_its_config_and_its_repr, ("MADE",)),
    ("StandardNormal.kl", "standard_normal_kl(mean, ", "standard_normal_kl(0 * mean, ",
     test_the_divergence_is_its_integral_and_its_rules_are_its_derivatives, ()),
], ids=range(14))
def test_a_planted_mistake_breaks_its_law(where, old, new, law, args):
    with mutants.Mutant(law.__name__, "", f"priors:{where}", old, new).made(), pytest.raises((AssertionError, IndexError)):
        law(*args)
