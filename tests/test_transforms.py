"""npgen.transforms: every one is a bijection, its log-dets are those of its Jacobian, and it sees what it may see.

A transform is one line of CASES. Parameters are drawn at random, within the masks, unless a law is about the first ones.
Legend: n rows, d features, w columns of context.
"""
import dataclasses
from collections.abc import Callable

import mutants
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgen import MADE, MAF, fused, priors
from npgen.engine import jacobian, vjp
from npgen.heads.normal import Normal
from npgen.masks import made_masks
from npgen.nn import MLP, MaskedMLP, beside
from npgen.random import Stream
from npgen.transforms import (
    LU,
    WEIGHTS,
    ActNorm,
    Additive,
    Affine,
    AffineCouplings,
    Autoregressive,
    BatchNorm,
    Chain,
    Columns,
    Coupling,
    Dequantize,
    Inverse,
    Log,
    Logit,
    Permute,
    Spline,
    Standardize,
    autoregressive,
)

N, D = 12, 4
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(N, D)) * [1, 2, 0.5, 1] + [0, 1, 0, -1]
UNIT, POSITIVE, COUNTS = RNG.uniform(size=(N, D)), np.exp(REAL), RNG.integers(0, 9, (N, D)).astype(float)
FAR = np.where(np.arange(N * D).reshape(N, D) == 7, -900.0, RNG.normal(size=(N, D)) + 10)  # x[1, 3]
ORDER = np.array([2, 0, 3, 1])
STEPS = np.array([[0, 2, 1, 3], [3, 1, 2, 0], [0, 1, 2, 3]])


@dataclasses.dataclass
class Case:
    """build(w) makes it for w columns of context, which it sees or not; identity: whether it is one at its first parameters."""

    build: Callable
    rows: np.ndarray = dataclasses.field(default_factory=lambda: REAL)
    context: bool = False
    identity: bool = False
    gain: float = 1.0  # of the networks' last layers; a spline of steep and flat bins has no inverse to 1e-12


CASES = {
    "identity": Case(lambda w: Chain(), identity=True),
    "standardize": Case(lambda w: Standardize()),
    "standardize, far": Case(lambda w: Standardize(), FAR),
    "logit": Case(lambda w: Logit(), UNIT),
    "log": Case(lambda w: Log(), POSITIVE),
    "dequantize": Case(lambda w: Dequantize(), COUNTS),
    "dequantize+logit": Case(lambda w: Chain([Dequantize(), Logit()]), COUNTS),
    "columns": Case(lambda w: Columns(maps=(Log(), Standardize()), columns=((3, 0), (1,))), POSITIVE),
    "actnorm": Case(lambda w: ActNorm("a", D)),
    "batchnorm": Case(lambda w: BatchNorm("b", D)),
    "permute": Case(lambda w: Permute(ORDER)),
    "lu": Case(lambda w: LU("l", D), identity=True),
    "lu, in an order": Case(lambda w: LU("l", D, ORDER)),
    "coupling, affine": Case(lambda w: Coupling("k", D, 1, (8, 7), Affine(), w), context=True, identity=True),
    "coupling, additive": Case(lambda w: Coupling("k", D, 2, (8,), Additive(), w), context=True, identity=True),
    "coupling, linear": Case(lambda w: Coupling("k", D, 3, (), Affine(), w), context=True, identity=True),
    "couplings by one kernel": Case(lambda w: AffineCouplings("f", STEPS, (2, 1, 3), (8, 6), w), context=True),
    "autoregressive, affine": Case(lambda w: Autoregressive("m", D, (9, 8), Affine(), w), context=True, identity=True),
    "autoregressive, one layer": Case(lambda w: Autoregressive("m", D, (6,), Affine(), w), context=True, identity=True),
    "autoregressive, narrow": Case(lambda w: Autoregressive("m", D, (2, 3), Affine(), w), context=True, identity=True),
    "autoregressive, additive": Case(lambda w: Autoregressive("m", D, (8,), Additive(), w), context=True, identity=True),
    "coupling, spline": Case(lambda w: Coupling("k", D, 2, (8,), Spline(bins=4, box=3.0), w), context=True, identity=True,
                             gain=0.2),
    "autoregressive, spline": Case(lambda w: Autoregressive("m", D, (8,), Spline(bins=3, box=2.0), w), context=True,
                                   identity=True, gain=0.2),
    "inverse autoregressive": Case(lambda w: Inverse(Autoregressive("m", D, (9, 8), Affine(), w)), context=True, identity=True),
    "inverse of a chain": Case(lambda w: Inverse(Chain([LU("l", D), Coupling("k", D, 2, (8,), Affine(), w)])), context=True),
    "a flow": Case(lambda w: Chain([Standardize(), ActNorm("a", D), Autoregressive("m", D, (8,), Affine(), w), Permute(ORDER),
                                    BatchNorm("b", D), Coupling("k", D, 2, (8,), Affine(), w)]), context=True),
}
def integers(name):
    return "dequantize" in name


WIDTHS = (0, 2)
ALL = [(name, w) for name, case in CASES.items() for w in (WIDTHS if case.context else (0,))]
cases = pytest.mark.parametrize(("name", "w"), ALL)
pytestmark = pytest.mark.filterwarnings("ignore:Standardize. x.1, 3. is -900")


def parts(t):
    """A transform and all that it is made of."""
    return [t, *(part for inner in t.inner for part in parts(inner))]


def networks(t):
    """(network, where its parameters begin in the array of its name) of each that a transform has."""
    found = [(part.net, 0) for part in parts(t) if hasattr(part, "net")]
    for part in parts(t):
        sizes = [2 * D + net.shapes()[net.name][0] for net in getattr(part, "nets", ())]
        found += [(net, 2 * D + sum(sizes[:k])) for k, net in enumerate(getattr(part, "nets", ()))]
    return found


def made(name, w, dtype=np.float64, first=False):
    """The transform, its parameters, rows and context."""
    case = CASES[name]
    t, x = case.build(w).fit(case.rows), case.rows.astype(dtype)
    c = np.random.default_rng(1).normal(size=(N, w)).astype(dtype) if w else None
    for net, _ in () if first else networks(t):
        net.gains[-1] = case.gain
    p = t.init(x, c, Stream(0))
    assert {k: v.shape for k, v in p.items()} == t.shapes() and all(v.dtype == dtype for v in p.values())
    if not first:
        masked, rng = {net.name for net, _ in networks(t)}, np.random.default_rng(2)
        p = {k: v if k in masked else (v + 0.3 * rng.normal(size=v.shape)).astype(dtype) for k, v in p.items()}
        for net, start in networks(t):
            for layer in range(len(net.widths) - 1):
                bias = net.layout.weight_and_bias(p[net.name][start:], layer)[1]
                bias += 0.3 * rng.normal(size=bias.shape)
    return t, p | t.statistics(p, x, c), x, c


class Given:
    """The same noise u for every cell, in a stream's place."""

    def __init__(self, u):
        self.u = u

    def uniform(self, shape, dtype, like=None):
        return np.full(shape, self.u, dtype)


@cases
def test_to_data_undoes_to_noise_and_to_noise_to_data(name, w):
    t, p, x, c = made(name, w)
    z, log_det = t.to_noise(p, x, c)
    back, opposite = t.to_data(p, z, c)
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(opposite, -log_det, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(t.data(p, z, c), back)
    if not integers(name):
        z = np.random.default_rng(3).uniform(-2.5, 2.5, x.shape)  # which Logit can make data of
        x, log_det = t.to_data(p, z, c)
        again, opposite = t.to_noise(p, x, c)
        np.testing.assert_allclose(again, z, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(opposite, -log_det, rtol=1e-11, atol=1e-11)


def slopes(f, x, h=1e-6):
    """The Jacobian (n, d, d) of each row's f(x) (n, d) by central differences: df_i / dx_j at [i, j]."""
    steps = h * (1 + np.abs(x))
    columns = [(f(x + steps * e) - f(x - steps * e)) / (2 * steps[:, [j]]) for j, e in enumerate(np.eye(D))]
    return np.stack(columns, axis=2)


@cases
def test_log_det_is_that_of_the_numerical_jacobian(name, w):
    """Of an integer the derivative is that by its noise u, which moves k + u by as much."""
    t, p, x, c = made(name, w)
    if integers(name):
        h = 1e-6
        ends = [t.to_noise(p, x, c, Given(0.5 + by))[0] for by in (h, -h)]
        log_slopes = np.log((ends[0] - ends[1]) / (2 * h)).sum(axis=1)
    else:
        log_slopes = np.linalg.slogdet(slopes(lambda x: t.to_noise(p, x, c)[0], x))[1]
    np.testing.assert_allclose(t.to_noise(p, x, c, Given(0.5))[1], log_slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "w"), [case for case in ALL if not integers(case[0])])
def test_the_engine_differentiates_both_ways(name, w):
    """A sum of what to_noise and to_data give, weighted at random: along a random direction of rows, parameters and context."""
    t, p, x, c = made(name, w)
    rng = np.random.default_rng(4)
    a, b, names = rng.normal(size=(N, D)), rng.normal(size=N), [k for k in p if not k.endswith(".statistics")]
    for way, rows in ((t.to_noise, x), (t.to_data, t.to_noise(p, x, c)[0])):
        def value(x, *rest, way=way):
            z, log_det = way(p | dict(zip(names, rest, strict=False)), x, rest[-1] if w else None)
            return np.sum(a * z) + np.sum(b * log_det)

        at = [rows, *(p[k] for k in names), *([c] if w else [])]
        for argument, g in enumerate(vjp(value, *at)[1](np.float64(1))):
            direction = rng.normal(size=g.shape) * (g != 0 if argument else 1)  # not outside of a mask
            ends = [value(*(u + h * direction if i == argument else u for i, u in enumerate(at))) for h in (1e-6, -1e-6)]
            np.testing.assert_allclose(np.sum(g * direction), (ends[0] - ends[1]) / 2e-6, rtol=2e-5, atol=2e-5)


@cases
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept_and_float32_is_close(name, w, dtype):
    t, p, x, c = made(name, w, dtype)
    z, log_det = t.to_noise(p, x, c)
    answers = [z, log_det, *t.to_data(p, z, c), t.data(p, z, c), t.log_prob(p, x, c)]
    assert all(a.dtype == dtype for a in answers)
    assert [a.shape for a in answers] == [(N, D), (N,), (N, D), (N,), (N, D), (N,)]
    if not integers(name):
        p64, c64 = {k: v.astype(np.float64) for k, v in p.items()}, None if c is None else c.astype(np.float64)
        np.testing.assert_allclose(z, t.to_noise(p64, x.astype(np.float64), c64)[0], rtol=2e-3, atol=2e-3)


@cases
def test_log_prob_is_that_of_standard_normal_noise(name, w):
    t, p, x, c = made(name, w)
    z, log_det = t.to_noise(p, x, c)
    np.testing.assert_allclose(t.log_prob(p, x, c), fused.standard_normal_log_prob(z) + log_det, rtol=1e-12, atol=1e-12)


@cases
def test_rows_have_nothing_to_do_with_one_another(name, w):
    t, p, x, c = made(name, w)
    turned = np.random.default_rng(5).permutation(N)
    for a, b in zip(t.to_noise(p, x, c), t.to_noise(p, x[turned], c if c is None else c[turned]), strict=True):
        np.testing.assert_allclose(a[turned], b, rtol=1e-13, atol=1e-13)
    for a, b in zip(t.to_noise(p, x, c), t.to_noise(p, x[:5], c if c is None else c[:5]), strict=True):
        np.testing.assert_allclose(a[:5], b, rtol=1e-13, atol=1e-13)
    assert t.to_noise(p, x[:0], c if c is None else c[:0])[0].shape == (0, D)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.context])
def test_every_feature_that_moves_sees_the_context(name):
    t, p, x, c = made(name, 2)
    moved = [np.abs(t.to_noise(p, x, c + step)[0] - t.to_noise(p, x, c)[0]).max(axis=0) for step in ([0.1, 0], [0, 0.1])]
    still = {"coupling, affine": 1, "coupling, additive": 2, "coupling, linear": 3, "coupling, spline": 2}.get(name, 0)
    if name == "inverse of a chain":
        still = 2
    assert (np.array(moved)[:, still:] > 1e-6).all()


@pytest.mark.parametrize(("name", "w"), [(name, w) for name, case in CASES.items() if case.identity
                                         for w in (WIDTHS if case.context else (0,))])
def test_it_is_the_identity_at_its_first_parameters(name, w):
    t, p, x, c = made(name, w, first=True)
    for rows, log_det in (t.to_noise(p, x, c), t.to_data(p, x, c)):
        np.testing.assert_array_equal(rows, x)
        assert not np.any(log_det)


def test_actnorm_standardises_the_rows_it_begins_with():
    t, p, x, _ = made("actnorm", 0, first=True)
    z, _ = t.to_noise(p, x)
    np.testing.assert_allclose([z.mean(axis=0), z.std(axis=0)], [np.zeros(D), np.ones(D)], atol=1e-12)
    x[:, 1] = 3.0
    z, log_det = t.to_noise(t.init(x, None, Stream(0)), x)
    assert not z[:, 1].any() and np.isfinite(log_det).all()


# ---------------------------------------------------------------- masks

@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 2**32 - 1),
       st.sampled_from([Affine, Additive]))
def test_what_the_masks_forbid_has_a_derivative_of_zero(d, hidden, w, seed, element):
    """In the order of the factorisation, whatever it is: z_i sees x_1..x_i and the context, and nothing of what comes after."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(d)
    step = Autoregressive("m", d, hidden, element(), w)
    step.net.gains[-1] = 1.0
    t = Chain([Permute(order), step, Permute(np.argsort(order))])
    x, c = rng.normal(size=d), rng.normal(size=(1, w)) if w else None
    p, place = t.init(x[None], c, Stream(seed)), np.argsort(order)
    for way in (t.to_noise, t.to_data):
        J = jacobian(lambda x, way=way: way(p, x[None], c)[0][0])(x)
        assert not J[place[:, None] < place].any() and J.diagonal().all()
    seen = jacobian(lambda x: step.net(p, beside(x[None], c))[0])(x[order])
    assert not seen.reshape(d, -1, d)[np.triu(np.ones((d, d), bool))[:, None, :].repeat(len(seen) // d, axis=1)].any()


@given(st.integers(1, 8), st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 3))
def test_every_output_of_wide_layers_sees_the_context(d, hidden, w):
    """p(x_1 | c) too, whose hidden units have degree 0; and none sees a feature that comes after it."""
    paths = np.eye(d + w, dtype=np.int64)
    for mask in made_masks(d, hidden, w):
        paths = paths @ mask
    assert (paths[d:] > 0).all() and not np.tril(paths[:d]).any()


# ---------------------------------------------------------------- one transform is another

def test_one_affine_autoregressive_step_is_made_with_a_normal_head():
    """With the same parameters, bit for bit: density, noise and samples."""
    x = np.random.default_rng(6).normal(size=(64, 5)) @ np.random.default_rng(7).normal(size=(5, 5))
    model = MADE(hidden=(16, 12), head="normal", preprocess=None, order="random", max_epochs=3, random_state=0).fit(x)
    t, p, ordered = Autoregressive("net", 5, (16, 12)), model.params_, x[:, model.order_]
    np.testing.assert_array_equal(t.log_prob(p, ordered), model.log_prob(x))
    z = Stream(3).normal((64, 5), np.float64)
    drawn = np.empty_like(z)
    drawn[:, model.order_] = t.data(p, z)
    np.testing.assert_array_equal(drawn, model.decode(z))
    np.testing.assert_allclose(t.to_noise(p, ordered)[0], model.encode(x), rtol=1e-12, atol=1e-12)


class TwoBlocks(MLP):
    """The network of a coupling that keeps n features, as a masked one: its hidden units see those, and all others see them."""

    draw, first_inputs, direct = MaskedMLP.draw, MaskedMLP.first_inputs, False

    def __init__(self, coupling, d, w):
        kept = coupling.net
        super().__init__(kept.name, (d + w, *kept.widths[1:-1], 2 * d))
        n, self.kept = coupling.n_kept, kept
        self.rows = np.concatenate([np.arange(n), np.arange(d, d + w)])
        self.columns, self.first = np.flatnonzero(np.arange(d) >= n), Affine().first(d)
        self.seen, self._made = np.ones(d, np.int64), (d, kept.widths[1:-1], w)
        self.cuts = np.array([[0] * n + [width] * (d + 1 - n) for width in kept.widths[1:-1]])

    def params(self, p):
        """The coupling's parameters where the masked network has them, and 0 elsewhere."""
        params = np.zeros(self.layout.size)
        for k in range(len(self.layout.plans)):
            (to, to_bias), (weight, bias) = (layout.weight_and_bias(a, k) for layout, a in
                                             ((self.layout, params), (self.kept.layout, p[self.name])))
            if k == len(self.layout.plans) - 1:
                outputs = (2 * self.columns[:, None] + [0, 1]).ravel()
                to[:, outputs], to_bias[outputs] = weight, bias
            else:
                to[self.rows if k == 0 else slice(None)], to_bias[:] = weight, bias
        return {self.name: params}


@pytest.mark.parametrize("w", WIDTHS)
def test_a_coupling_is_an_autoregressive_step_with_masks_of_two_blocks(w):
    """RealNVP is MAF, there and back (Papamakarios et al., 2017, section 3.4)."""
    t, p, x, c = made("coupling, affine", w)
    maf = Autoregressive("k", D, (8, 7), Affine(), w)
    maf.net = TwoBlocks(t, D, w)
    q = maf.net.params(p)
    for a, b in zip((*t.to_noise(p, x, c), *t.to_data(p, x, c)), (*maf.to_noise(q, x, c), *maf.to_data(q, x, c)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("more", [{}, {"mix": "random", "norm": "batch"}, {"mix": "lu", "norm": None}], ids=str)
@pytest.mark.parametrize("labels", [None, REAL[:, 0] > 0], ids=["alone", "context"])
def test_a_base_of_single_normals_is_a_step_more(more, labels):
    """MAF-MoG of one component is MAF, in density and draws (Papamakarios et al., 2017, section 3.3)."""
    options = {"hidden": (7, 6), "max_epochs": 3, "learning_rate": 1e-2, "random_state": 0, **more}
    base = MAF(n_layers=2, base=priors.MADE(1, (7, 6)), **options).fit(REAL, context=labels).inner()
    plain = MAF(n_layers=3, **options).fit(REAL, context=labels).inner()
    net, step, p = base.parts["base"].net, plain.parts["flow"].steps[-1].net, dict(base.params)
    params = p.pop("prior")
    p["flow.2"] = np.zeros_like(plain.params["flow.2"])
    for k in range(3):
        (to, to_bias), (weight, bias) = (each.layout.weight_and_bias(a, k) for each, a in ((step, p["flow.2"]), (net, params)))
        kept = np.arange(3 * D) % 3 > 0 if k == 2 else slice(None)  # all but the logits of the one component
        to[...], to_bias[...] = weight[..., kept], bias[kept]
    z, _ = base.enter(REAL)
    c = None if labels is None else np.stack([~labels, labels], axis=1).astype(float)
    np.testing.assert_allclose(plain.log_density(z, c, p=p), base.log_density(z, c), rtol=1e-10)
    stream = Stream(3)
    _, noise = stream.spawn(), stream.spawn()  # the first would choose between components
    rows = plain.reconstruct(noise.normal(z.shape, z.dtype), c, p=p)
    np.testing.assert_allclose(base.draw(len(z), Stream(3), c), rows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("w", WIDTHS)
def test_the_run_of_couplings_is_the_chain_of_its_parts(w):
    """ActNorm, Permute, Coupling and the halves exchanged, step by step. Its log-scales are bounded to +-3, those of an affine
    element to half its head's limit, of a raw log-variance: Normal(6) and raw values times two are the same."""
    t, p, x, c = made("couplings by one kernel", w)
    steps, q, start = [], {}, 0
    for k, (order, n, net) in enumerate(zip(t.orders, (2, 1, 3), t.nets, strict=True)):
        end = start + 2 * D + net.shapes()[t.name][0]
        norm, params = p[t.name][start:start + 2 * D], p[t.name][start + 2 * D:end].copy()
        weight, bias = net.layout.weight_and_bias(params, len(net.layout.plans) - 1)
        J = D - n
        for a in (weight, bias):  # all s, then all t, to t_1, 2 s_1, t_2, ...
            a[...] = np.stack([a[..., J:], 2 * a[..., :J]], axis=-1).reshape(a.shape)
        q |= {f"norm{k}": norm, f"net{k}": params}
        steps += [Permute(order), ActNorm(f"norm{k}", D), Coupling(f"net{k}", D, n, (8, 6), Affine(Normal(6.0)), w),
                  Permute(np.roll(np.arange(D), J))]
        start = end
    chain = Chain(steps)
    for a, b in zip((*t.to_noise(p, x, c), *t.to_data(p, x, c)), (*chain.to_noise(q, x, c), *chain.to_data(q, x, c)),
                    strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("w", WIDTHS)
def test_an_inverse_autoregressive_step_is_the_step_the_other_way_with_opposite_log_dets(w):
    t, p, x, c = made("autoregressive, affine", w)
    z, log_det = t.to_noise(p, x, c)
    y, opposite = Inverse(t).to_noise(p, z, c)
    np.testing.assert_allclose(y, x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(opposite, -log_det, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(Inverse(Inverse(t)).to_noise(p, x, c)[0], z)


@pytest.mark.parametrize("name", ["autoregressive, affine", "autoregressive, additive", "autoregressive, narrow"])
@pytest.mark.parametrize("w", WIDTHS)
def test_the_gradient_of_the_sequential_way_is_that_of_its_passes(name, w):
    """By the theorem of implicit functions, from one solution, as by the passes that the formula makes."""
    t, p, x, c = made(name, w)
    args = [x, p["m"], *([c] if w else [])]
    g = np.random.default_rng(8).normal(size=x.shape)

    def once(f):
        value, pull = vjp(lambda z, params, c=None: f(z, params, c, t), *args)
        return value, *pull(g)

    for a, b in zip(once(autoregressive._to_data), once(autoregressive._formula), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- batch normalisation

def test_a_batch_is_normalised_by_its_own_moments_until_there_are_statistics():
    t, p, x, _ = made("batchnorm", 0, first=True)
    alone = {"b": p["b"]}
    z, log_det = t.to_noise(alone, x)
    np.testing.assert_allclose([z.mean(axis=0), z.var(axis=0)], [np.zeros(D), x.var(axis=0) / (x.var(axis=0) + t.EPS)],
                               atol=1e-12)
    np.testing.assert_array_equal(t.to_noise(p, x)[0], z)  # the statistics of these rows
    np.testing.assert_allclose(t.to_noise(p, x[:3])[0], z[:3], rtol=1e-13)
    assert np.abs(t.to_noise(alone, x[:3])[0] - z[:3]).max() > 0.1
    with pytest.raises(ValueError, match="p has no 'b.statistics', without which noise has no data; add what statistics"):
        t.to_data(alone, z)


def test_a_training_steps_gradient_goes_through_the_moments_of_the_batch():
    t, p, x, _ = made("batchnorm", 0)
    value = lambda x: np.sum(np.sin(t.to_noise({"b": p["b"]}, x)[0]))  # noqa: E731
    g, direction = vjp(value, x)[1](np.float64(1))[0], np.random.default_rng(9).normal(size=x.shape)
    numeric = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(g * direction), numeric, rtol=1e-6)


def test_a_chain_finds_the_statistics_of_each_step_behind_those_before_it():
    t = Chain([BatchNorm("a", D), Permute(ORDER), BatchNorm("b", D)])
    p = t.init(REAL, None, Stream(0))
    both = p | t.statistics(p, REAL)
    np.testing.assert_allclose(both["b.statistics"][:D], 0, atol=1e-12)
    np.testing.assert_array_equal(t.to_noise(both, REAL)[0], t.to_noise(p, REAL)[0])
    stale = p | t.statistics(p, 2 * REAL[:7])  # which new ones take the place of
    np.testing.assert_array_equal(t.statistics(stale, REAL)["b.statistics"], both["b.statistics"])


def test_statistics_of_integer_weights_are_those_of_repeated_rows_in_a_step_and_in_a_query():
    t = Chain([BatchNorm("a", D), LU("l", D), BatchNorm("b", D)])
    p, weights = t.init(REAL, None, Stream(0)), np.arange(len(REAL)) % 4
    p["l"] = 0.3 * np.random.default_rng(1).normal(size=p["l"].shape)
    repeated = REAL.repeat(weights, axis=0)
    by_weight, by_copies = t.statistics(p, REAL, None, weights), t.statistics(p, repeated)
    for name, a in by_copies.items():
        np.testing.assert_allclose(by_weight[name], a, rtol=1e-9, atol=1e-12)
    assert np.abs(by_weight["a.statistics"] - t.statistics(p, REAL)["a.statistics"]).max() > 0.01
    in_step = t.to_noise(p | {WEIGHTS: weights}, REAL)
    for some, all_rows in zip(in_step, t.to_noise(p, repeated), strict=True):
        np.testing.assert_allclose(some.repeat(weights, axis=0), all_rows, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"average": 0.9}, {"restore_best": False, "patience": 99}], ids=str)
def test_held_out_rows_are_scored_by_the_statistics_of_the_rows_trained_on(options):
    model = batch_normalised(6, options)
    nats = [epoch["valid_nats"] for epoch in model.history_]
    shown = nats[-1] if "restore_best" in options else min(nats)
    np.testing.assert_allclose(model.score(FEW), -shown, rtol=1e-5)


FEW = 0.2 * np.random.default_rng(0).normal(size=(9, D)) + 0.5  # rows whose own moments are others


def batch_normalised(max_epochs, options, **more):
    model = MAF(norm="batch", n_layers=2, hidden=(8,), max_epochs=max_epochs, random_state=0, **options)
    return model.fit(np.random.default_rng(1).normal(size=(300, D)), validation_data=FEW, **more)


def test_a_run_with_statistics_goes_on_to_the_same_bits(tmp_path):
    whole, _ = batch_normalised(6, {}), batch_normalised(3, {}, checkpoint=tmp_path / "run")
    again = batch_normalised(6, {}, checkpoint=tmp_path / "run", resume=True)
    assert again.history_ == whole.history_ and again.params_.flat.tobytes() == whole.params_.flat.tobytes()


def test_it_lies_where_its_arrays_are_put():
    seen = []
    t = Chain([Permute(ORDER), Inverse(LU("l", D, ORDER)), Standardize().fit(REAL)])
    moved = t.to(lambda a: seen.append(a) or a.copy())
    assert len(seen) >= 6 and moved.steps[0].order is not ORDER


# ---------------------------------------------------------------- each law finds a mistake that is planted

MISTAKES = [  # where, what becomes what, and the law that has to find it
    ("models.flow:StackedFlow._assemble", "if k:", "if 0 < k < n:", test_a_base_of_single_normals_is_a_step_more, {}, None),
    ("lu:LU.to_data", "z - shift", "z", test_to_data_undoes_to_noise_and_to_noise_to_data, "lu", 0),
    ("permute:Permute.to_data", "self._back, self.order", "self.order, self._back",
     test_to_data_undoes_to_noise_and_to_noise_to_data, "permute", 0),
    ("base:Chain.to_data", "log_det = log_det + more", "log_det = more",
     test_to_data_undoes_to_noise_and_to_noise_to_data, "a flow", 0),
    ("standardize:Standardize.to_data", "log_det + np.sum(beyond, axis=1)", "log_det",
     test_to_data_undoes_to_noise_and_to_noise_to_data, "standardize, far", 0),
    ("logit:Logit.to_data", "-size - 2", "-size - 1", test_to_data_undoes_to_noise_and_to_noise_to_data, "logit", 0),
    ("columns:Columns.to_data", "log_det = log_det + more", "log_det = more",
     test_to_data_undoes_to_noise_and_to_noise_to_data, "columns", 0),
    ("autoregressive:Autoregressive.in_one_pass", "head.limits(1), c", "head.limits(1), 0 * c",
     test_to_data_undoes_to_noise_and_to_noise_to_data, "autoregressive, affine", 2),
    ("lu:LU.to_noise", "ops.sum(log_diagonal)", "2 * ops.sum(log_diagonal)",
     test_log_det_is_that_of_the_numerical_jacobian, "lu", 0),
    ("actnorm:ActNorm.to_noise", "- ops.sum(log_scale)", "+ ops.sum(log_scale)",
     test_log_det_is_that_of_the_numerical_jacobian, "actnorm", 0),
    ("dequantize:Dequantize.unchecked", "self._log_det", "0.0",
     test_log_det_is_that_of_the_numerical_jacobian, "dequantize", 0),
    ("standardize:Standardize._mapped",
     "np.clip(z, -limit, limit) + np.copysign(TAIL * beyond, z)",
     "np.copysign(np.minimum(size, limit) + TAIL * beyond, z)",
     test_the_engine_differentiates_both_ways, "standardize, far", 0),
    ("autoregressive:_through_itself", "d - 1", "0", test_the_engine_differentiates_both_ways, "autoregressive, affine", 0),
    ("autoregressive:_through_itself", "d - 1", "d - 2",
     test_the_gradient_of_the_sequential_way_is_that_of_its_passes, "autoregressive, affine", 0),
    ("actnorm:ActNorm.to_data", "np.zeros_like(z, shape=(len(z),))", "np.zeros(len(z))",
     test_dtypes_are_kept_and_float32_is_close, "actnorm", 0, np.float32),
    ("base:Chain.log_prob", " + log_det", "", test_log_prob_is_that_of_standard_normal_noise, "a flow", 0),
    ("actnorm:BatchNorm._of", "both is None", "True", test_rows_have_nothing_to_do_with_one_another, "batchnorm", 0),
    ("coupling:Coupling._apply", "beside(kept, c)", "beside(kept, 0 * c)",
     test_every_feature_that_moves_sees_the_context, "coupling, affine"),
    ("coupling:Coupling.__init__", "last_gain=0.0", "last_gain=0.1",
     test_it_is_the_identity_at_its_first_parameters, "coupling, affine", 0),
    ("actnorm:moments", "np.sqrt(variance)", "variance", test_actnorm_standardises_the_rows_it_begins_with),
    ("masks:made_masks", "< degrees[0]", "<= degrees[0]", test_what_the_masks_forbid_has_a_derivative_of_zero),
    ("masks:made_degrees", "0 if n_context else 1", "1", test_every_output_of_wide_layers_sees_the_context),
    ("elements:Affine.log_prob", "log_prob(x, ", "log_prob(x * (1 + 1e-15), ",
     test_one_affine_autoregressive_step_is_made_with_a_normal_head),
    ("coupling:Coupling._apply", "ops.concatenate([kept, moved]", "ops.concatenate([moved, kept]",
     test_a_coupling_is_an_autoregressive_step_with_masks_of_two_blocks, 0),
    ("coupling:AffineCouplings._step", "params[at:d + at]", "params[:d]",
     test_the_run_of_couplings_is_the_chain_of_its_parts, 2),
    ("base:Inverse.to_noise", "to_data(p, x, c)", "to_noise(p, x, c)",
     test_an_inverse_autoregressive_step_is_the_step_the_other_way_with_opposite_log_dets, 0),
    ("actnorm:BatchNorm._of", "0.5 * ops.log", "ops.log",
     test_a_batch_is_normalised_by_its_own_moments_until_there_are_statistics),
    ("actnorm:BatchNorm._of", "_moments_of(x, p.get(WEIGHTS))", "_moments_of(ops.stop_gradient(x), None)",
     test_a_training_steps_gradient_goes_through_the_moments_of_the_batch),
    ("base:Chain.statistics", "rows, c, weights", "rows, c",
     test_statistics_of_integer_weights_are_those_of_repeated_rows_in_a_step_and_in_a_query),
    ("actnorm:BatchNorm._of", "p.get(WEIGHTS)", "None",
     test_statistics_of_integer_weights_are_those_of_repeated_rows_in_a_step_and_in_a_query),
    ("base:Chain.statistics", "p |= found", "pass", test_a_chain_finds_the_statistics_of_each_step_behind_those_before_it),
    ("base:Chain.to", "step.to(place)", "step", test_it_lies_where_its_arrays_are_put),
    ("train:_Step.nats", "self.statistics_of(self.shown, trained)", "{}",
     test_held_out_rows_are_scored_by_the_statistics_of_the_rows_trained_on, {}),
]


@pytest.mark.parametrize(("where", "old", "new", "law", "args"), [(*m[:4], m[4:]) for m in MISTAKES],
                         ids=[f"{m[0]}, {m[2]}" for m in MISTAKES])
def test_a_planted_mistake_breaks_its_law(where, old, new, law, args):
    where = where if where.startswith(("masks", "models", "train")) else f"transforms.{where}"
    with mutants.Mutant(law.__name__, "", where, old, new).made(), pytest.raises(AssertionError), np.errstate(all="ignore"):
        law(*args)
