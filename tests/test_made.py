"""MADE: forbidden derivatives are zero, allowed ones are there, and one-pass samples are those of a pass per feature."""
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy import stats

import npgen
from npgen import kernels
from npgen.engine import jacobian
from npgen.heads import Categorical, MixtureOfNormals
from npgen.models import MADE, VAE
from npgen.models.made import UNITS

RNG = np.random.default_rng(0)
BITS = (RNG.random((80, 6)) < np.linspace(0.1, 0.9, 6)).astype(float)  # every column has a mean of its own
REAL = RNG.normal(size=(80, 6)) @ RNG.normal(size=(6, 6)) + np.arange(6)
ORDERS = {"natural": "natural", "random": "random", "reversed": [5, 4, 3, 2, 1, 0], "given": (3, 0, 5, 1, 4, 2)}
WIDTHS = {"one layer": (40,), "deep": (30, 35, 32), "narrow": (3, 2)}
orders = pytest.mark.parametrize("order", ORDERS)
widths = pytest.mark.parametrize("hidden", WIDTHS)
rows = pytest.mark.parametrize("x", [BITS, REAL], ids=["Bernoulli", "normal"])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
pytestmark = [pytest.mark.filterwarnings(f"ignore:.*{words}") for words in (
    "too narrow for", "of one column is one Gaussian")]  # the laws hold of such networks too, which is the point here


def made(order, hidden, x):
    """A fitted model whose parameters were then moved, so that none is zero but those that are masked."""
    model = MADE(order=ORDERS.get(order, order), hidden=WIDTHS.get(hidden, hidden), max_epochs=1, random_state=0).fit(x)
    layout = model.inner().parts["net"].layout
    for k, plan in enumerate(layout.plans):
        weight, bias = layout.weight_and_bias(model.params_["net"], k)
        weight += 0.3 * RNG.normal(size=weight.shape).astype(x.dtype) * plan.mask
        bias += 0.3 * RNG.normal(size=bias.shape).astype(x.dtype)
    return model


def conditionals(model, z):
    """The parameters of p(x_d | x_<d) for every feature d, in the data's columns, (n, parameters, d)."""
    outputs = model.inner().parts["net"](model.params_, z[:, model.order_])
    return np.swapaxes(np.reshape(outputs, (len(z), len(model.order_), -1)), 1, 2)[:, :, np.argsort(model.order_)]


@rows
@orders
@widths
def test_a_conditional_depends_on_earlier_features_only_and_on_all_of_them(x, order, hidden):
    model, place = made(order, hidden, x), np.empty(6, int)
    place[model.order_] = np.arange(6)  # where each column stands in the factorisation
    z = model.preprocess_.to_noise(None, x)[0][:10]
    j = np.stack([jacobian(lambda row: conditionals(model, row[None])[0])(row) for row in z])
    forbidden = place[:, None] <= place[None, :]  # itself, and those after it
    assert not j[:, :, forbidden].any()  # exactly zero
    if hidden != "narrow":
        assert (np.abs(j).max(axis=0)[:, ~forbidden] > 1e-6).all()
    each = [model.head_.log_prob(z[:, [i]], conditionals(model, z)[:, :, i]) for i in range(6)]
    np.testing.assert_allclose(np.sum(each, axis=0), model.inner(np.float64).log_density(z), rtol=1e-12)


KINDS = ["mixture", "categorical", "bernoulli", "poisson", Categorical([0.5, 3, -1])]


@pytest.mark.parametrize("head", ["mixture", "poisson", "categorical", MixtureOfNormals(2), KINDS], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_head(head, dtype, tmp_path):
    """Answers alike when it is loaded again; samples are in the support, and columns of levels stay as they are."""
    rng = np.random.default_rng(3)
    x = np.stack([rng.normal(size=80), rng.integers(0, 3, 80), rng.integers(0, 2, 80), rng.poisson(2.0, 80),
                  rng.choice([0.5, 3, -1], 80)], axis=1).astype(dtype)
    x = x if head is KINDS else x[:, 1:4]
    for model in (MADE(hidden=(9,), head=head, max_epochs=2, random_state=0),
                  VAE(n_latent=2, hidden=(9,), head=head, n_importance=5, max_epochs=2, random_state=0)):
        model.fit(x)
        model.save(tmp_path / "model")
        again = npgen.load(tmp_path / "model")
        drawn = model.sample(32, rng=1)
        assert drawn.shape == (32, x.shape[1]) and drawn.dtype == dtype and np.isfinite(model.log_prob(x)).all()
        for ask in ("log_prob", "encode"):
            assert getattr(again, ask)(x).tobytes() == getattr(model, ask)(x).tobytes()
        assert again.sample(32, rng=1).tobytes() == drawn.tobytes()
        np.testing.assert_allclose(model.sample(48, rng=1)[:32], drawn, rtol=1e-4, atol=1e-5)  # more rows begin with the same
        model.head_.check(model.preprocess_.to_noise(None, drawn)[0], "sample")
        discrete = np.broadcast_to(model.head_.discrete, x.shape[1])
        np.testing.assert_array_equal(model.preprocess_.to_noise(None, x)[0][:, discrete], x[:, discrete])
        assert np.shape(model.decode(model.encode(x))) == x.shape
        if discrete.any():
            with pytest.raises(ValueError, match="but a .* head"):
                model.log_prob(x + np.where(discrete, 0.25, 0).astype(dtype))


@rows
@orders
@widths
def test_sampling_in_one_pass_is_sampling_in_a_pass_per_feature(x, order, hidden):
    model = made(order, hidden, x)
    noise = RNG.random((200, 6)) if x is BITS else RNG.normal(size=(200, 6))
    naive, net = np.zeros((200, 6)), model.inner().parts["net"]
    for i, column in enumerate(model.order_):
        outputs = net(model.params_, naive[:, model.order_])
        naive[:, column] = model.head_.sample(noise, outputs)[:, i]
    drawn = net.sample(model.params_, noise)[:, np.argsort(model.order_)]
    np.testing.assert_allclose(drawn, naive, rtol=1e-9, atol=1e-9)
    if x is REAL:
        np.testing.assert_allclose(model.inner(np.float64).represent(naive), noise, rtol=1e-9, atol=1e-9)


@rows
@orders
@widths
@dtypes
def test_the_compiled_sampler_is_the_reference(x, order, hidden, dtype):
    model = made(order, hidden, x.astype(dtype))
    drawn = model.sample(300, rng=1)
    with kernels.using("reference"):
        naive = model.sample(300, rng=1)
    assert drawn.dtype == naive.dtype == dtype
    if x is BITS:
        assert np.array_equal(drawn, naive)
    else:
        near = 1e-4 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(drawn, naive, rtol=near, atol=near)


@pytest.mark.parametrize("d, hidden", [(1, (3,)), (2, (1,)), (31, (64,)), (33, (7, 90)), (100, (150,))], ids=str)
def test_samplers_agree_for_any_number_of_features(d, hidden):
    for x in ((RNG.random((20, d)) < 0.5).astype(float), RNG.normal(size=(20, d))):
        model = made("random", hidden, x)
        with kernels.using("reference"):
            naive = model.sample(50, rng=2)
        np.testing.assert_allclose(model.sample(50, rng=2), naive, rtol=1e-8, atol=1e-8)


@orders
def test_columns_come_back_in_the_datas_order(order):
    bits = MADE(hidden=(20,), order=ORDERS[order], max_epochs=60, learning_rate=0.01, random_state=0).fit(np.tile(BITS, (5, 1)))
    drawn = bits.sample(4000, rng=1)
    np.testing.assert_allclose(drawn.mean(axis=0), BITS.mean(axis=0), atol=0.12)
    features = bits.encode(BITS)
    assert features.shape == (80, 20) and (features >= 0).all()
    decoded = bits.decode(features)
    assert ((decoded > 0) & (decoded < 1)).all()
    np.testing.assert_allclose(decoded.mean(axis=0), BITS.mean(axis=0), atol=0.12)
    likely = np.sum(BITS * np.log(decoded) + (1 - BITS) * np.log1p(-decoded), axis=1)
    np.testing.assert_allclose(likely, bits.log_prob(BITS), rtol=1e-9)  # decode gives the conditionals' probabilities


def test_no_hidden_layer_is_refused():
    with pytest.raises(ValueError, match="hidden must name at least one layer, got \\(\\)"):
        MADE(hidden=()).fit(np.eye(3))


def test_the_order_is_kept():
    for name, order in ORDERS.items():
        model = MADE(hidden=(4,), order=order, max_epochs=1, random_state=0).fit(BITS)
        assert sorted(model.order_) == list(range(6))
        if name != "random":
            assert list(model.order_) == (list(range(6)) if name == "natural" else list(order))
    random = [tuple(MADE(hidden=(4,), max_epochs=1, random_state=s).fit(BITS).order_) for s in range(5)]
    assert len(set(random)) > 1


def test_columns_of_few_values_come_first_if_asked():
    x = np.stack([np.arange(40) % k for k in (7, 2, 40, 3, 7)], axis=1).astype(float)
    model = MADE(hidden=(4,), head="categorical", order="levels", max_epochs=1, random_state=0).fit(x)
    assert model.order_.tolist() == [1, 3, 0, 4, 2]


def test_a_dependence_that_no_independent_model_sees_is_learnt():
    two = RNG.integers(0, 2, (400, 2))
    x = np.column_stack([two, two[:, 0] ^ two[:, 1]]).astype(np.float32)
    model = MADE(hidden=(32,), max_epochs=200, learning_rate=0.02, random_state=0).fit(x)
    assert model.score(x) > -2 * math.log(2) - 0.1  # 3 log 2 without the dependence
    drawn = model.sample(500, rng=0).astype(int)
    assert np.mean(drawn[:, 0] ^ drawn[:, 1] == drawn[:, 2]) > 0.95


def test_a_chain_of_normals_is_learnt():
    noise = RNG.normal(size=(1000, 2))
    x = np.column_stack([noise[:, 0], 0.5 * noise[:, 0] ** 2 + 0.1 * noise[:, 1]])
    model = MADE(hidden=(64,), order="natural", max_epochs=80, learning_rate=5e-3, random_state=0).fit(x)
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e) + math.log(0.1)
    assert -model.score(x) < entropy + 0.35
    z = model.encode(x)
    assert abs(stats.spearmanr(z[:, 0] ** 2, z[:, 1]).statistic) < 0.2


TABLE = {"city": [("Rome", "Paris", "Bern")[i * 7 % 5 % 3] for i in range(203)], "age": [18 + i * 13 % 60 for i in range(203)],
         "wage": [0.0 if i % 3 else i * i % 1000 / 7 for i in range(203)]}


def test_rows_are_scored_to_the_same_bits_however_many_there_are_at_once(monkeypatch):
    polars = pytest.importorskip("polars")
    answers = []
    for monitored, units in ((8, 1), (4096, 2**40)):
        monkeypatch.setattr("npgen.models.made.MONITORED", monitored)
        monkeypatch.setattr("npgen.models.made.UNITS", units)
        model = MADE(hidden=(30,), direct=True, max_epochs=3, validation_fraction=0.3, random_state=0)
        with warnings.catch_warnings(action="ignore"):
            model.fit(polars.DataFrame(TABLE))
        answers.append((model.history_, model.log_prob(polars.DataFrame(TABLE)).tobytes()))
    assert answers[0] == answers[1]


def test_the_memory_of_a_query_does_not_grow_with_the_network():
    x = (np.random.default_rng(0).random((4096, 20)) < 0.5).astype(np.float32)
    model = MADE(hidden=(4000,), max_epochs=1, random_state=0).fit(x[:100])
    model.log_prob(x[:64])
    tracemalloc.start()
    model.log_prob(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 4 * UNITS < 4 * 4096 * 4000


@pytest.mark.slow
def test_drawing_takes_at_most_three_times_as_long_as_scoring():
    import time
    x = (RNG.random((1000, 64)) < 0.3).astype(np.float32)
    model = MADE(max_epochs=2, random_state=0).fit(x)

    def seconds(f):
        start = time.perf_counter()
        f()
        return time.perf_counter() - start

    pairs = [(seconds(lambda: model.sample(1000, rng=0)), seconds(lambda: model.log_prob(x))) for _ in range(100)]
    drawing, scoring = np.min(pairs, axis=0)  # in turn, so that a busy moment meets both
    assert drawing <= 3 * scoring
