"""npgen.priors: each is a density that its own samples follow, with the divergence and the gradients that it says."""
import mutants
import numpy as np
import pytest

from npgen import fused
from npgen.engine import vjp
from npgen.priors import Flow, Mixture, StandardNormal
from npgen.random import Stream
from npgen.testing import check_grads
from npgen.transforms import ActNorm, Additive, AffineCouplings, Autoregressive, Chain, Coupling, Permute

SWAP = np.array([1, 0])
CASES = {  # of 2 dimensions, for w columns of context
    "standard normal": (lambda w: StandardNormal(2), False),
    "mixture": (lambda w: Mixture("prior", 2, 3), False),
    "mixture of one": (lambda w: Mixture("prior", 2, 1), False),
    "flow, identity": (lambda w: Flow(Chain(), 2), False),
    "flow, autoregressive": (lambda w: Flow(Chain([ActNorm("a", 2), Autoregressive("m", 2, (6,), n_context=w), Permute(SWAP),
                                                   Coupling("k", 2, 1, (5,), Additive(), w)]), 2, w), True),
    "flow, couplings": (lambda w: Flow(AffineCouplings("f", np.stack([SWAP, SWAP]), (1, 1), (6,), w), 2, w), True),
}
priors = pytest.mark.parametrize(("name", "w"), [(name, w) for name, (_, sees) in CASES.items()
                                                 for w in ((0, 2) if sees else (0,))])


def made(name, w, dtype=np.float64, first=False):
    prior, stream = CASES[name][0](w), Stream(1)
    if not first and isinstance(prior, Flow):
        for step in (prior.transform, *prior.transform.inner):
            for net in (*getattr(step, "nets", ()), *([step.net] if hasattr(step, "net") else ())):
                net.gains[-1] = 0.3
    p = prior.init(np.zeros((1, 7), dtype), np.zeros((1, w), dtype) if w else None, stream)
    assert {k: v.shape for k, v in p.items()} == prior.shapes() and all(v.dtype == dtype for v in p.values())
    if not first and "prior" in p:
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


def test_a_flow_and_its_context_begin_at_the_standard_normal():
    z = np.random.default_rng(3).normal(size=(9, 2))
    for name, w in (("flow, autoregressive", 2), ("flow, couplings", 2), ("flow, couplings", 0), ("flow, identity", 0)):
        prior, p = made(name, w, first=True)
        np.testing.assert_allclose(prior.log_prob(p, z, context(w, 9)), fused.standard_normal_log_prob(z), rtol=1e-13)
    mixture, p = Mixture("prior", 2, 1), {"prior": np.zeros((1, 5))}
    np.testing.assert_allclose(mixture.log_prob(p, z), fused.standard_normal_log_prob(z), rtol=1e-13)


@pytest.mark.parametrize("name", ["flow, autoregressive", "flow, couplings"])
def test_a_flow_sees_its_context(name):
    prior, p = made(name, 2)
    z = np.random.default_rng(3).normal(size=(9, 2))
    assert (np.abs(prior.log_prob(p, z, context(2, 9)) - prior.log_prob(p, z, -context(2, 9))) > 1e-3).all()


def test_the_divergence_is_its_integral_and_its_rules_are_its_derivatives():
    mean, log_var = np.array([[0.3, -1.1]]), np.array([[-0.7, 0.4]])
    log_q = -0.5 * (np.log(2 * np.pi) + log_var + (GRID - mean)**2 / np.exp(log_var)).sum(axis=1)
    prior = StandardNormal(2)
    integral = np.sum(np.exp(log_q) * (log_q - prior.log_prob({}, GRID))) * (SIDE[1] - SIDE[0])**2
    np.testing.assert_allclose(prior.kl(mean, log_var), integral, rtol=1e-9)
    check_grads(lambda m, v: np.sum(np.sin(prior.kl(m, v))), mean, log_var, order=2)
    assert Mixture("prior", 2, 3).kl(mean, log_var) is None and Flow(Chain(), 2).kl(mean, log_var) is None


def test_components_are_drawn_by_their_weights():
    """Of 10,000 rows, 7,000 of the component of weight 0.7, within 6 standard errors. False alarms: 2e-9."""
    prior = Mixture("prior", 2, 2)
    p = {"prior": np.array([[-5, 0, 0, 0, np.log(0.3)], [5, 0, 0, 0, np.log(0.7)]])}
    share = (prior.sample(p, 10000, None, Stream(0), np.float64)[:, 0] > 0).mean()
    assert abs(share - 0.7) < 6 * np.sqrt(0.21 / 10000)


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
    ("Flow.init", "np.sqrt(z.dtype.type(self.d)) * ", "", test_a_flow_and_its_context_begin_at_the_standard_normal, ()),
    ("Flow.log_prob", "c if self.n_context", "0 * c if self.n_context", test_a_flow_sees_its_context, ("flow, couplings",)),
    ("_kl", "- 1 - log_var", "- log_var", test_the_divergence_is_its_integral_and_its_rules_are_its_derivatives, ()),
], ids=range(8))
def test_a_planted_mistake_breaks_its_law(where, old, new, law, args):
    with mutants.Mutant(law.__name__, "", f"priors:{where}", old, new).made(), pytest.raises((AssertionError, IndexError)):
        law(*args)
