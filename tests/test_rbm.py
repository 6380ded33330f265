"""Restricted Boltzmann machines: the chain and the states' kernels against their references, and the laws of the machine.

A statistical test states its false alarms, at most 1e-6 by its bound; the seeds are fixed.
"""
import functools
import itertools
import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npgen
from npgen import checkpoint, data
from npgen.engine import grad
from npgen.kernels import KernelError, gibbs, gray, using
from npgen.kernels._constants import BERNOULLI, CATEGORICAL, NORMAL
from npgen.models import RBM, GaussianMixture, Mixture
from npgen.models.boltzmann import Boltzmann
from npgen.nn import Parameters
from npgen.random import Stream

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
CODES = pytest.mark.parametrize("code", [BERNOULLI, NORMAL], ids=["bernoulli", "normal"])
KEY = 0x243F6A88, 0x85A308D3
ALARM = 1e-6
OWN, ALL = 2, 0  # seeds of chain_inputs that give each row its biases, and all rows the same


def states(k):
    return np.array(list(itertools.product([0.0, 1.0], repeat=k))).reshape(-1, k)


def logsumexp(a, axis=None):
    return np.logaddexp.reduce(a, axis=axis)


def machine(seed, d=4, k=3, normal=False, scale=1.0, dtype=np.float64):
    """A machine and parameters that are nothing special, base and log_z among them."""
    rng = np.random.default_rng(seed)
    part = Boltzmann(d, k, normal)
    params = {name: scale * rng.normal(size=shape).astype(dtype) for name, shape in part.shapes().items()}
    return part, Parameters(params | {"base": rng.normal(size=d).astype(dtype)})


# ---------------------------------------------------------------- the kernels

def chain_inputs(rng, n, v, h, steps, dtype, code, ladder=None):
    own = n if rng.random() < 0.5 else 1  # biases of each row, or of all
    normal = [rng.normal(size=shape).astype(dtype) for shape in ((v, h), (own, v), (own, h), (own, v), (n, v))]
    state = normal[4] if code == NORMAL else (normal[4] > 0).astype(dtype)
    ladder = np.sort(rng.random(steps + 1)) if ladder is None else ladder
    return (normal[0] / dtype(math.sqrt(v + h + 1)), *normal[1:4], ladder.astype(dtype), state, code, *KEY,
            int(rng.integers(2**40)), int(rng.integers(2**40)))


@DTYPES
@CODES
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.sampled_from([0, 1, 5, 63, 64, 70, 131]), v=st.integers(0, 70), h=st.integers(0, 70),
       steps=st.integers(0, 3))
def test_chains_are_the_references(dtype, code, seed, n, v, h, steps):
    """But for rows of which a unit's uniform is within rounding of its probability: of 1,000 units of float32 not one."""
    args = chain_inputs(np.random.default_rng(seed), n, v, h, steps, dtype, code)
    with using("reference"):
        want, want_w = gibbs.chain(*args)
    got, got_w = gibbs.chain(*args)
    assert got.dtype == dtype and got_w.dtype == np.float64 and got.shape == (n, v) and got_w.shape == (n,)
    loose = 1e-3 if dtype == np.float32 else 1e-11
    off = np.abs(got - want).max(axis=1, initial=0) > loose
    assert off.sum() <= (1 if dtype == np.float32 else 0)
    np.testing.assert_allclose(got_w[~off], want_w[~off], rtol=loose, atol=loose)


def contrast_inputs(rng, n, v, h, steps, dtype, code):
    """As many rows as chains if each row has its biases, else some more."""
    weight, visible, hidden, _, _, state, code, *stream = chain_inputs(rng, n, v, h, steps, dtype, code)
    rows = rng.normal(size=(n if len(hidden) == n else n + 3, v)).astype(dtype)
    return weight, visible, hidden, state, rows, steps, code, *stream


@DTYPES
@CODES
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.sampled_from([0, 1, 5, 64, 70]), v=st.integers(0, 70), h=st.integers(0, 70),
       steps=st.integers(0, 2))
def test_contrast_is_the_chains_and_the_activations_of_rows(dtype, code, seed, n, v, h, steps):
    """To the bit the chains of gibbs.chain at t = 1; the activations are the reference's."""
    weight, visible, hidden, state, rows, steps, code, *stream = contrast_inputs(
        np.random.default_rng(seed), n, v, h, steps, dtype, code)
    got, a = gibbs.contrast(weight, visible, hidden, state, rows, steps, code, *stream)
    want, log_w = gibbs.chain(weight, visible, hidden, visible, np.ones(steps + 1, dtype), state, code, *stream)
    assert got.tobytes() == want.tobytes() and not log_w.any()
    u, bias = np.concatenate([rows, got]), hidden if len(hidden) == 1 else np.concatenate([hidden, hidden])
    allowed = (v + 8) * np.finfo(dtype).eps * (np.abs(bias) + np.abs(u) @ np.abs(weight))
    assert a.dtype == dtype and (np.abs(a - (bias + u.astype(float) @ weight)) <= allowed).all()
    with using("reference"):
        assert [each.shape for each in gibbs.contrast(weight, visible, hidden, state, rows, steps, code, *stream)] == [
            got.shape, a.shape]


@DTYPES
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.sampled_from([0, 1, 5, 64, 70]), v=st.integers(0, 40), h=st.integers(0, 40))
def test_centred_units_are_the_references(dtype, seed, n, v, h):
    rng = np.random.default_rng(seed)
    args = [(3 * rng.normal(size=shape)).astype(dtype) for shape in (n, (n, v), (n, h), v, h)]
    args[2][:1] *= dtype(300)  # sure of themselves
    with using("reference"):
        want = gibbs.centred(*args)
    for got, each in zip(gibbs.centred(*args), want, strict=True):
        assert got.dtype == dtype and (np.abs(got - each) <= 8 * np.finfo(dtype).eps * (np.abs(each) + 10)).all()


@pytest.mark.parametrize("seed", [OWN, ALL])
def test_no_thread_has_a_say_in_a_contrast(seed):
    args = contrast_inputs(np.random.default_rng(seed), 130, 83, 70, 2, np.float32, BERNOULLI)
    assert len(args[2]) == (130 if seed == OWN else 1)
    before, found = numba.get_num_threads(), set()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            v, a = gibbs.contrast(*args)
            units = gibbs.centred(a[:, 0].copy(), np.concatenate([args[4], v]), a, v[0].copy(), a[0].copy())
            found.add(b"".join(each.tobytes() for each in (v, a, *units)))
    finally:
        numba.set_num_threads(before)
    assert len(found) == 1


@CODES
@DTYPES
@pytest.mark.parametrize("seed", [OWN, ALL])
def test_a_chain_goes_on_to_the_same_bits_whatever_is_beside_it_and_for_any_thread_count(dtype, code, seed):
    """A row's noise is of its number and the steps of the call, not of how many rows there are."""
    args = list(chain_inputs(np.random.default_rng(seed), 300, 33, 20, 3, dtype, code))
    assert len(args[1]) == (300 if seed == OWN else 1)
    whole = gibbs.chain(*args)
    for n in (1, 7, 64, 130):
        biases = (a[:n].copy() if len(a) > 1 else a for a in args[1:4])
        part = gibbs.chain(args[0], *biases, args[4], args[5][:n].copy(), *args[6:])
        assert part[0].tobytes() == whole[0][:n].tobytes() and part[1].tobytes() == whole[1][:n].tobytes()
    before = numba.get_num_threads()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            assert gibbs.chain(*args)[0].tobytes() == whole[0].tobytes()
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("code", [BERNOULLI, NORMAL])
def test_chains_of_own_biases_are_those_alone(code):
    """To the bit: of every row, as if all rows had its biases."""
    weight, *biases, ladder, state, code, k0, k1, a, b = chain_inputs(np.random.default_rng(OWN), 9, 6, 5, 3, np.float64, code)
    v, log_w = gibbs.chain(weight, *biases, ladder, state, code, k0, k1, a, b)
    for n in range(9):
        alone, its = gibbs.chain(weight, *(each[n:n + 1].copy() for each in biases), ladder, state, code, k0, k1, a, b)
        assert alone[n].tobytes() == v[n].tobytes() and its[n] == log_w[n]


@pytest.mark.parametrize("backend", ["reference", "numba"])
@DTYPES
def test_units_whose_logits_are_extreme_are_sure(dtype, backend):
    bias = np.array([1e4, -1e4, 800, -800], dtype)
    zeros = np.zeros((5, 4), dtype)
    with using(backend):
        v, log_w = gibbs.chain(zeros[:4], bias[None], bias[None], zeros[:1], np.ones(3, dtype), zeros, BERNOULLI, *KEY, 0, 9)
    np.testing.assert_array_equal(v, np.tile([1, 0, 1, 0], (5, 1)))
    assert (log_w == 0).all()


@DTYPES
@CODES
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(0, 12), d=st.integers(0, 140))
def test_the_weights_of_all_states_are_the_references(dtype, code, seed, k, d):
    rng = np.random.default_rng(seed)
    args = (*((3 * rng.normal(size=shape)).astype(dtype) for shape in (k, d, (k, d))), code)
    with using("reference"):
        want = gray.log_weights(*args)
    got = gray.log_weights(*args)
    assert got.dtype == dtype and got.shape == (2**k,)
    largest = 1 + np.abs(args[0]).sum() + (1 + np.abs(args[1]) + np.abs(args[2]).sum(axis=0)) @ np.ones(d) * (
        1 if code == BERNOULLI else 1 + np.abs(args[2]).sum(axis=0).max(initial=0) + np.abs(args[1]).max(initial=0))
    assert (np.abs(got.astype(float) - want) <= 1024 * np.finfo(dtype).eps * largest).all()


def test_what_is_no_unit_is_refused():
    args = list(chain_inputs(np.random.default_rng(0), 3, 2, 2, 1, np.float64, BERNOULLI))
    with pytest.raises(KernelError, match="code must be BERNOULLI or NORMAL, got 2"):
        gibbs.chain(*args[:6], CATEGORICAL, *args[7:])
    weight, visible, hidden, _, _, state, _, *stream = args
    with pytest.raises(KernelError, match="gibbs.contrast: code must be BERNOULLI or NORMAL, got 2"):
        gibbs.contrast(weight, visible, hidden, state, state, 1, CATEGORICAL, *stream)
    with pytest.raises(KernelError, match="gray.log_weights: K is 25"):
        gray.log_weights(np.zeros(25), np.zeros(2), np.zeros((25, 2)), BERNOULLI)


# ---------------------------------------------------------------- laws of the machine

@pytest.mark.parametrize("seed", range(3))
def test_log_z_over_hidden_states_is_that_over_visible_ones(seed):
    part, p = machine(seed, d=5, k=4)
    v, h = states(5), states(4)
    joint = v @ p["visible"][:, None] + h @ p["hidden"] + v @ p["weight"] @ h.T
    wide = part.log_weights(p)
    turned = Boltzmann(4, 5, False), Parameters({"weight": p["weight"].T, "visible": p["hidden"], "hidden": p["visible"]})
    found = turned[0].log_weights(turned[1])
    assert part.of_hidden and not turned[0].of_hidden and math.isclose(logsumexp(wide), logsumexp(joint), rel_tol=1e-13)
    assert math.isclose(logsumexp(found), logsumexp(joint), rel_tol=1e-13)
    np.testing.assert_allclose(-part.free_energy(p, v), logsumexp(joint, axis=1), rtol=1e-12)
    sides = [logsumexp(Boltzmann(d, 3, False).log_weights(machine(seed, d, 3)[1])) for d in (3, 2)]  # by h, and by v
    for d, found in zip((3, 2), sides, strict=True):
        part, p = machine(seed, d, 3)
        assert math.isclose(found, logsumexp(-part.free_energy(p, states(d))), rel_tol=1e-13)


ADAM = {"optimizer": "adam", "learning_rate": 3e-3, "clip_norm": 100.0, "average": 0.0}  # a large step on few rows


def fitted(x, **options):
    return RBM(random_state=0, **ADAM | {"max_epochs": 3, "preprocess": None} | options).fit(x)


BITS = (data.digits()[0][:300, 20:30] > 7).astype(float)
MOONS = data.moons(300)


def test_it_is_a_mixture_of_as_many_products_of_bernoullis_as_there_are_hidden_states():
    model = fitted(BITS, n_hidden=4, learning_rate=0.05, max_epochs=20)
    part, p = model.inner().parts["machine"], model.params_
    log_weights = part.log_weights(p)
    weights = np.exp(log_weights - logsumexp(log_weights))
    h = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(float)
    twin = Mixture.from_parameters(weights / weights.sum(), "bernoulli", list(part.mean(p, h).T))
    np.testing.assert_allclose(model.log_prob(BITS), twin.log_prob(BITS), rtol=1e-9)


def test_of_normal_columns_it_is_a_tied_spherical_mixture():
    model = fitted(MOONS, n_hidden=4, learning_rate=0.05, max_epochs=20)
    part, p = model.inner().parts["machine"], model.params_
    log_weights = part.log_weights(p)
    weights = np.exp(log_weights - logsumexp(log_weights))
    h = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(float)
    scale = math.exp(p["log_var"][0] / 2)
    means = scale * (p["visible"] + h @ p["weight"].T)
    twin = GaussianMixture.from_parameters(weights / weights.sum(), means, np.tile(scale**2 * np.eye(2), (16, 1, 1)))
    far = np.concatenate([MOONS, 5 * MOONS])
    np.testing.assert_allclose(model.log_prob(far), twin.log_prob(far), rtol=1e-9)
    np.testing.assert_allclose(part.mean(p, h), means, rtol=1e-12)


def kernel_of(part, p):
    """The Gibbs kernel (2^d, 2^d) of all visible states, by enumeration."""
    v, h = states(part.d), states(part.k)
    up, down = 1 / (1 + np.exp(-(p["hidden"] + v @ p["weight"]))), 1 / (1 + np.exp(-(p["visible"] + h @ p["weight"].T)))
    to_h = np.prod(np.where(h[None] == 1, up[:, None], 1 - up[:, None]), axis=2)
    return to_h @ np.prod(np.where(v[None] == 1, down[:, None], 1 - down[:, None]), axis=2)


@pytest.mark.parametrize("seed", range(3))
def test_the_gibbs_kernel_keeps_pi_and_is_reversible(seed):
    part, p = machine(seed)
    kernel, log_pi = kernel_of(part, p), -part.free_energy(p, states(4))
    pi = np.exp(log_pi - logsumexp(log_pi))
    np.testing.assert_allclose(pi @ kernel, pi, rtol=1e-12)
    flow = pi[:, None] * kernel
    np.testing.assert_allclose(flow, flow.T, rtol=1e-10, atol=1e-16)


def test_chains_move_by_the_gibbs_kernel():
    """100,000 chains from one state, after 1 and 2 steps: frequencies of 16 states within Hoeffding's bound, alarm 1e-6."""
    part, p = machine(1)
    kernel, n = kernel_of(part, p), 100_000
    allowed = math.sqrt(math.log(2 * 32 / ALARM) / (2 * n))
    for steps in (1, 2):
        moved = part.gibbs(p, np.tile(states(4)[5], (n, 1)), np.ones(steps + 1), Stream(steps))[0]
        found = np.bincount((moved @ [8, 4, 2, 1]).astype(int), minlength=16) / n
        assert np.abs(found - np.linalg.matrix_power(kernel, steps)[5]).max() < allowed


@pytest.mark.parametrize("ladder", [[0, 1], [0, 0.3, 1], [0, 0.9, 0.2, 0.7, 1]], ids=str)
@pytest.mark.parametrize("normal", [False, True])
def test_annealed_weights_average_to_the_ratio_of_normalisers_for_any_ladder(normal, ladder):
    """E[w] = Z_1 / Z_0; 200,000 weights, within seven of their standard errors: alarm below 1e-10 were they normal."""
    part, p = machine(2, normal=normal, scale=0.4)
    base, n = p["base"], 200_000
    of_units = base**2 / 2 + math.log(2 * math.pi) / 2 if normal else np.logaddexp(0, base)
    log_z0 = part.k * math.log(2) + np.sum(of_units)
    log_w = part.gibbs(p, part.begin(base, n, Stream(3)), ladder, Stream(4))[1]
    w = np.exp(log_w + log_z0 - logsumexp(part.log_weights(p)))
    assert abs(w.mean() - 1) < 7 * w.std() / math.sqrt(n)


def test_the_bracket_holds_log_z():
    """Of 2,000 chains on a machine that mixes: both ends within .05 of log Z, which is exact."""
    for normal in (False, True):
        part, p = machine(5, d=6, k=4, normal=normal, scale=0.5)
        rows = part.begin(p["visible"], 500, Stream(0))
        low, high = part.annealed(p, rows * math.exp(p["log_var"][0] / 2) if normal else rows, 2000, 200, Stream(1))
        exact = logsumexp(part.log_weights(p))
        assert abs(low - exact) < 0.05 and abs(high - exact) < 0.05


def gradient(part, p, z, chain, seen=None, active=None):
    """The gradient by {name: array} of the mean contrast, in plain parameters unless offsets are given."""
    seen = np.zeros(part.d) if seen is None else seen
    active = np.zeros(part.k) if active is None else active
    return grad(lambda q: np.mean(part.contrast(dict(p) | q, z, chain, seen, active)))(
        {name: p[name] for name in part.shapes()})


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_of_contrastive_divergence_is_that_of_powers_of_the_kernel(steps):
    """CD-k from data v_0: E[dF/dp](v_0) - (kernel^k dF/dp)(v_0), by 200,000 chains; alarm 1e-6 by Hoeffding."""
    part, p = machine(4)
    rng, n, v = np.random.default_rng(0), 200_000, states(4)
    start = v[rng.integers(0, 16, 40)]
    chain = part.gibbs(p, np.tile(start, (n // 40, 1)), np.ones(steps + 1), Stream(steps))[0]
    found = gradient(part, p, start, chain)
    before = np.bincount((start @ [8, 4, 2, 1]).astype(int), minlength=16) / 40
    after = before @ np.linalg.matrix_power(kernel_of(part, p), steps)
    active = 1 / (1 + np.exp(-(p["hidden"] + v @ p["weight"])))
    want = {"weight": -v.T @ ((before - after)[:, None] * active), "visible": -v.T @ (before - after),
            "hidden": -active.T @ (before - after)}
    allowed = math.sqrt(2 * math.log(2 * 19 / ALARM) / n)
    for name, g in found.items():
        assert np.abs(g - want[name]).max() < allowed, name


def test_sign_law_a_step_makes_the_data_likelier_and_what_the_model_dreams_less():
    """Down the gradient at weights 0, of data (1, 1) and (0, 0): the free energy of data falls against that of the others."""
    part = Boltzmann(2, 1, False)
    p = Parameters({"weight": np.full((2, 1), 0.1), "visible": np.zeros(2), "hidden": np.zeros(1)})
    z, dreams = np.array([[1.0, 1], [0, 0]]), states(2)
    for offsets in ((None, None), (np.full(2, 0.5), np.full(1, 0.5))):
        g, q = gradient(part, p, z, dreams, *offsets), p.copy()
        for name, each in g.items():
            q[name][...] -= 0.1 * each
        before, after = (logsumexp(-part.free_energy(r, z)) - logsumexp(-part.free_energy(r, dreams)) for r in (p, q))
        assert after > before


def test_the_centred_gradient_is_that_of_centred_parameters():
    """E(v - mu, h - lam) has parameters W, b + W lam, c + W^T mu; a step along their gradient moves W, b and c as ours does."""
    part, p = machine(6)
    rng, v = np.random.default_rng(1), states(4)
    z, chain, seen, active = v[rng.integers(0, 16, 9)], v[rng.integers(0, 16, 7)], rng.random(4), rng.random(3)

    def of_centred(q):
        plain = {"weight": q["weight"], "visible": q["visible"] - q["weight"] @ active,
                 "hidden": q["hidden"] - seen @ q["weight"]}
        return np.mean(part.contrast(plain, z, chain, np.zeros(4), np.zeros(3)))

    at = {"weight": p["weight"], "visible": p["visible"] + p["weight"] @ active, "hidden": p["hidden"] + seen @ p["weight"]}
    g = grad(of_centred)(at)
    moved = {name: at[name] - g[name] for name in at}
    want = {"weight": moved["weight"], "visible": moved["visible"] - moved["weight"] @ active,
            "hidden": moved["hidden"] - seen @ moved["weight"]}
    found = gradient(part, p, z, chain, seen, active)
    for name, each in found.items():
        np.testing.assert_allclose(p[name] - each, want[name], rtol=1e-10, atol=1e-12)


def test_the_centred_gradient_forgets_which_of_0_and_1_is_which():
    """Flipping all columns flips the gradient of a machine whose units see the flipped ones, and changes nothing else."""
    part, p = machine(7)
    rng, v = np.random.default_rng(2), states(4)
    z, chain, seen, active = v[rng.integers(0, 16, 9)], v[rng.integers(0, 16, 7)], rng.random(4), rng.random(3)
    flipped = Parameters({"weight": -p["weight"], "visible": -p["visible"], "hidden": p["hidden"] + p["weight"].sum(axis=0)})
    g, other = gradient(part, p, z, chain, seen, active), gradient(part, flipped, 1 - z, 1 - chain, 1 - seen, active)
    np.testing.assert_allclose(other["weight"], -g["weight"], atol=1e-12)
    np.testing.assert_allclose(other["visible"], -g["visible"], atol=1e-12)


# ---------------------------------------------------------------- given a context

def machine_given(seed, normal=False, d=4, k=3, w=2):
    rng = np.random.default_rng(seed)
    part = Boltzmann(d, k, normal, w)
    params = {name: rng.normal(size=shape) for name, shape in part.shapes().items()}
    return part, Parameters(params | {"base": rng.normal(size=d)}), rng.normal(size=(3, w))


@pytest.mark.parametrize("seed", range(3))
def test_given_a_context_log_z_over_hidden_states_is_that_over_visible_ones(seed):
    part, p, contexts = machine_given(seed)
    v, h = states(4), states(3)
    for c in contexts:
        visible, hidden = p["visible"] + c @ p["to_visible"], p["hidden"] + c @ p["to_hidden"]
        joint = (v @ visible)[:, None] + h @ hidden + v @ p["weight"] @ h.T
        alone = part.given_one(p, c)
        np.testing.assert_allclose(alone["visible"], visible, rtol=1e-12)
        assert math.isclose(logsumexp(part.log_weights(alone)), logsumexp(joint), rel_tol=1e-13)
        given_each = part.given(p, np.tile(c, (16, 1)))
        np.testing.assert_allclose(-part.free_energy(given_each, v), logsumexp(joint, axis=1), rtol=1e-12)
        means = np.exp(joint - logsumexp(joint)) @ h  # E[h | v] P(v)
        p_v = np.exp(logsumexp(joint, axis=1) - logsumexp(joint))
        units = 1 / (1 + np.exp(-part.activation(given_each, v)))
        np.testing.assert_allclose(units * p_v[:, None], means, rtol=1e-10)


@pytest.mark.parametrize("centred", [False, True])
def test_the_gradient_given_a_context_is_that_of_powers_of_its_kernel(centred):
    """CD-2 from 40 rows of two contexts, by 200,000 chains; alarm 1e-6 by Hoeffding. Centred, the weights' gradient is that
    of centred units, and the context is centred too; what it adds to the visible ones' biases is not."""
    part, p, contexts = machine_given(5)
    rng, n, v = np.random.default_rng(0), 200_000, states(4)
    start, of = v[rng.integers(0, 16, 40)], np.arange(40) % 2
    z, c = np.tile(start, (n // 40, 1)), np.tile(contexts[of], (n // 40, 1))
    chain = part.gibbs(part.given(p, c), z, np.ones(3), Stream(2))[0]
    seen, active = (rng.random(6), rng.random(3)) if centred else (np.zeros(6), np.zeros(3))
    found = grad(lambda q: np.mean(part.contrast(dict(p) | q, z, chain, seen, active, None, c)))(
        {name: p[name] for name in part.shapes()})
    want = dict.fromkeys(part.shapes(), 0.0)
    for i in range(2):
        alone, x = part.given_one(p, contexts[i]), contexts[i]
        before = np.bincount((start[of == i] @ [8, 4, 2, 1]).astype(int), minlength=16) / 40
        less = before - before @ np.linalg.matrix_power(kernel_of(part, alone), 2)
        on = 1 / (1 + np.exp(-part.activation(alone, v)))
        dv, dh = -v.T @ less, -on.T @ less
        mixed = -v.T @ (less[:, None] * on) - np.outer(seen[:4], dh) - np.outer(dv, active)
        above = np.outer(x - seen[4:], dh)
        for name, g in {"weight": mixed, "to_hidden": above, "to_visible": np.outer(x, dv),
                        "visible": dv - mixed @ active, "hidden": dh - seen[:4] @ mixed - seen[4:] @ above}.items():
            want[name] = want[name] + g
    allowed = 12 * math.sqrt(2 * math.log(2 * 40 / ALARM) / n)  # no summand is beyond 12
    for name, g in found.items():
        assert np.abs(g - want[name]).max() < allowed, name


RNG = np.random.default_rng(0)
LABELS = np.array(["low", "high"])[(RNG.random(600) < 0.5).astype(int)]
PAIRS = (RNG.random((600, 4)) < np.where(LABELS == "high", 0.9, 0.2)[:, None]).astype(float)
PAIRS[:, 3] = np.where(LABELS == "high", PAIRS[:, 0], 1 - PAIRS[:, 0])  # what two columns have to do with each other, too
AGES = np.linspace(-1, 1, 600)


def fitted_given(x=PAIRS, context=LABELS, **options):
    return RBM(random_state=0, **ADAM | {"max_epochs": 3, "n_hidden": 5, "preprocess": None} | options).fit(x, context=context)


@pytest.mark.parametrize("n_hidden", [5, 3])  # sums over visible states, and over hidden ones
@pytest.mark.parametrize("context", [LABELS, AGES], ids=["labels", "numbers"])
def test_given_a_context_it_sums_to_one_by_enumeration(n_hidden, context):
    model = fitted_given(context=context, n_hidden=n_hidden, learning_rate=0.05, max_epochs=20)
    v, some = states(4), [context[0], context[1], context[-1]]
    rows, each = np.tile(v, (len(some), 1)), np.repeat(some, 16)
    log_prob = model.log_prob(rows, context=each).reshape(-1, 16)
    np.testing.assert_allclose(logsumexp(log_prob, axis=1), 0, atol=1e-9)
    for c, of_one in zip(some, log_prob, strict=True):
        assert model.log_prob(v, context=c).tobytes() == of_one.tobytes()
        low, high = model.log_z([c])[0]
        np.testing.assert_allclose(-model.free_energy(v, context=c) - high, of_one, rtol=1e-9)
        assert low == high
    assert model.normaliser == "of each context its own, exact"


def test_it_learns_a_density_given_a_context():
    """Within .25 nats of the rows' own frequencies given their label, which no density beats; columns apart are .4 below."""
    model = fitted_given(learning_rate=0.05, max_epochs=60, average=0.99)
    code, best = PAIRS @ [8, 4, 2, 1], 0.0
    for label in ("low", "high"):
        share = np.unique(code[LABELS == label], return_counts=True)[1]
        best += np.sum(share * np.log(share / share.sum())) / 600
    assert best - 0.25 < model.score(PAIRS, context=LABELS) <= best
    assert model.score(PAIRS, context=np.where(LABELS == "low", "high", "low")) < best - 1


def test_samples_given_a_context_follow_its_density():
    """10,000 of each of two: frequencies of 16 states within Hoeffding's bound, alarm 1e-6; annealed ones within .02 more."""
    for hidden, more in ((3, 0.0), (21, 0.02)):
        wide = np.concatenate([PAIRS, PAIRS, PAIRS, PAIRS, PAIRS, PAIRS], axis=1) if hidden > 20 else PAIRS
        model = fitted_given(wide, n_hidden=hidden, learning_rate=0.02, max_epochs=10, n_annealed=200)
        n = 10_000
        drawn = model.sample(n, context=["low", "high"], rng=0)
        for label, rows in zip(("low", "high"), drawn, strict=True):
            if more:  # of the bits that are drawn in another way: means given the hidden units' of exact chains
                part, p = model.inner().parts["machine"], model.inner().params
                c = model.context_.encode("", [label], np.float64)
                moved = part.gibbs(part.given(p, np.tile(c, (n, 1))), rows.astype(float), np.ones(50), Stream(1))[0]
                assert np.abs(moved.mean(axis=0) - rows.mean(axis=0)).max() < more + 2 * math.sqrt(
                    math.log(2 * 48 / ALARM) / (2 * n))
            else:
                found = np.bincount((rows @ [8, 4, 2, 1]).astype(int), minlength=16) / n
                p_v = np.exp(model.log_prob(states(4), context=label))
                assert np.abs(found - p_v).max() < math.sqrt(math.log(2 * 32 / ALARM) / (2 * n))
    np.testing.assert_array_equal(model.sample(70, context="low", rng=3)[:5], model.sample(5, context="low", rng=3))


def test_given_a_context_an_estimate_has_two_ends_for_each():
    wide = np.concatenate([PAIRS] * 6, axis=1)
    model = fitted_given(wide, n_hidden=21, n_annealed=200, max_epochs=10)
    ends = model.log_z(["low", "high"])
    bracket = model.log_prob_bracket(wide, context=LABELS)
    np.testing.assert_array_equal(bracket[:, 0], model.log_prob(wide, context=LABELS))
    of = (LABELS == "high").astype(int)
    np.testing.assert_allclose(bracket[:, 1] - bracket[:, 0], (ends[:, 1] - ends[:, 0])[of], atol=1e-4)
    assert model.capabilities.density == "estimate" and 0 < np.abs(np.ptp(ends, axis=1)).max() < 1


@pytest.mark.parametrize("x", [PAIRS, RNG.normal(size=(600, 2))], ids=["bernoulli", "normal"])
def test_a_run_given_a_context_goes_on_to_the_same_bits_and_its_checkpoint_is_small(x, tmp_path):
    def die(entry):
        if entry["epoch"] == 2:
            raise InterruptedError

    whole = fitted_given(x, max_epochs=5)
    with pytest.raises(InterruptedError):
        fitted_given_run = RBM(random_state=0, preprocess=None, max_epochs=5, n_hidden=5, callbacks=[die], **ADAM)
        fitted_given_run.fit(x, context=LABELS, checkpoint=tmp_path / "run")
    assert not [name for name in checkpoint.read(tmp_path / "run")[0] if "known" in name]
    again = RBM(random_state=0, preprocess=None, max_epochs=5, n_hidden=5, **ADAM)
    again.fit(x, context=LABELS, checkpoint=tmp_path / "run", resume=True)
    assert again.params_.flat.tobytes() == whole.params_.flat.tobytes() and again.history_ == whole.history_


# ---------------------------------------------------------------- the model

@functools.cache
def of_many_units():
    """One whose log Z is an estimate."""
    x = (data.digits()[0][:300] > 7).astype(np.float32)
    return RBM(n_hidden=24, n_annealed=100, max_epochs=4, random_state=0, **ADAM).fit(x), x


def test_an_estimate_says_so_with_both_ends():
    model, x = of_many_units()
    low, high = model.log_z_
    assert model.capabilities.density == "estimate" and low != high and abs(high - low) < 1
    bracket = model.log_prob_bracket(x)
    np.testing.assert_array_equal(bracket[:, 0], model.log_prob(x))
    np.testing.assert_allclose(bracket[:, 1] - bracket[:, 0], high - low, atol=1e-4)
    np.testing.assert_allclose(-model.free_energy(x) - high, model.log_prob(x), rtol=1e-5, atol=1e-4)
    assert fitted(BITS).capabilities.density == "exact" and np.ptp(fitted(BITS).log_z_) == 0
    assert RBM(n_hidden=21).capabilities.density == "estimate" and RBM(n_hidden=20).capabilities.density == "exact"


def test_annealed_samples_follow_the_density():
    """20,000 rows by annealing against exact ones, of a machine that both can be asked of: no column, nor pair of columns,
    whose mean differs by more than Hoeffding's bound, alarm 1e-6, and .01 for annealing."""
    model = fitted(BITS, n_hidden=6, learning_rate=0.05, max_epochs=20, n_annealed=200)
    part, n = model.inner().parts["machine"], 20_000
    exact = model.sample(n, rng=0)
    up = np.concatenate([np.linspace(0, 1, 201), np.ones(200)])
    p = model.params_
    drawn = part.gibbs(p, part.begin(p["base"], n, Stream(1)), up, Stream(2))[0]
    apart = np.abs(exact.T @ exact - drawn.T @ drawn) / n
    assert apart.max() < 0.01 + 2 * math.sqrt(math.log(2 * 100 / ALARM) / (2 * n))


def test_the_number_of_rows_changes_no_row_of_an_annealed_sample():
    model, _ = of_many_units()
    np.testing.assert_array_equal(model.sample(70, rng=3)[:5], model.sample(5, rng=3))


def test_constant_columns_do_not_break_it():
    x = np.column_stack([BITS, np.zeros(len(BITS)), np.ones(len(BITS))])
    model = fitted(x, n_hidden=5, max_epochs=30, learning_rate=0.02)
    assert np.isfinite(model.score(x)) and np.isfinite(model.params_.flat).all()
    drawn = model.sample(2000, rng=0)
    assert drawn[:, -2].mean() < 0.05 and drawn[:, -1].mean() > 0.95


def test_flipped_data_are_learned_as_well():
    """Centred: within .3 nats of one another, where without offsets they are further apart."""
    x = (data.digits()[0] > 7).astype(np.float32)
    scores = [fitted(rows, n_hidden=12, max_epochs=30, learning_rate=0.05, optimizer="sgd").score(rows) for rows in (x, 1 - x)]
    assert abs(scores[0] - scores[1]) < 0.3 and min(scores) > -24.3


def test_it_learns_more_than_independent_columns():
    x = (data.digits()[0] > 7).astype(np.float32)
    model = RBM(max_epochs=60, random_state=0).fit(x[:1500])
    share = (x[:1500].sum(axis=0) + 1) / 1502
    independent = np.mean(x[1500:] @ np.log(share) + (1 - x[1500:]) @ np.log1p(-share))
    assert model.score(x[1500:]) > independent + 5


def test_the_last_parameters_are_kept_where_a_contrast_decides_nothing():
    model = fitted(BITS, max_epochs=12, patience=2)
    assert model.n_epochs_ == 12 and all(e["valid_nats"] is None for e in model.history_)
    last = fitted(BITS, max_epochs=12, patience=2, restore_best=False)
    assert last.params_.flat.tobytes() == model.params_.flat.tobytes()


def test_held_out_rows_stop_it():
    model = fitted(BITS, max_epochs=5, validation_fraction=0.2)
    assert model.n_epochs_ == 5 and all(e["valid_nats"] is not None for e in model.history_)
    patient = RBM(random_state=0, **ADAM | {"learning_rate": 0.2}, max_epochs=500, patience=3, n_hidden=20)
    patient.fit(BITS[:100], validation_data=BITS[100:])
    assert patient.n_epochs_ < 500
    best = min(e["valid_nats"] for e in patient.history_)
    assert math.isclose(-patient.score(BITS[100:]), best, rel_tol=1e-6)


def test_a_run_goes_on_with_its_chains_to_the_same_bits(tmp_path):
    def die(entry):
        if entry["epoch"] == 2:
            raise InterruptedError

    for x in (BITS, MOONS):
        whole = fitted(x, max_epochs=5)
        with pytest.raises(InterruptedError):
            fitted_run = RBM(random_state=0, preprocess=None, max_epochs=5, callbacks=[die], **ADAM)
            fitted_run.fit(x, checkpoint=tmp_path / "run")
        again = RBM(random_state=0, preprocess=None, max_epochs=5, **ADAM).fit(x, checkpoint=tmp_path / "run", resume=True)
        assert again.params_.flat.tobytes() == whole.params_.flat.tobytes() and again.history_ == whole.history_
        (tmp_path / "run").unlink()


def test_what_it_cannot_be_is_refused():
    for name, value in (("visible", "poisson"), ("visible", 3), ("n_hidden", 0), ("n_chains", 0), ("n_steps", 1.5),
                        ("n_annealed", None)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            fitted(BITS, **{name: value})
    with pytest.raises(AttributeError, match=r"was fitted with a context, each of which has its own; ask log_z\(context\)"):
        fitted_given().log_z_  # noqa: B018
    with pytest.raises(ValueError, match="log_z: this RBM was fitted without a context"):
        fitted(BITS).log_z(LABELS)
    with pytest.raises(ValueError, match=r"X\[0, 1\] is .*, but a Bernoulli head needs 0 or 1"):
        fitted(np.column_stack([BITS[:, 0], 2 + BITS[:, 0]]), visible="bernoulli")
    with pytest.raises(npgen.NotFittedError, match="log_z_"):
        RBM().log_z_  # noqa: B018
