"""MADE of several orders of its columns, or of any: each is a density, conditionals are exact, nothing is seen too early."""
import functools
import itertools
import math

import numpy as np
import pytest

import npgen
from npgen.engine import jacobian
from npgen.heads import Bernoulli, Categorical, Columns, MixtureOfNormals, Normal, Poisson
from npgen.models import MADE
from npgen.models.made import Order
from npgen.nn import MaskedMLP, beside
from npgen.random import Stream

RNG = np.random.default_rng(0)
D = 5
BITS = (RNG.normal(size=(500, D)) + RNG.normal(size=(500, 1)) > 0).astype(float)
LEVELS = np.stack([RNG.integers(0, k, 500) for k in (3, 2, 4)], axis=1).astype(float)
LEVELS[:, 2] = (LEVELS[:, 0] + RNG.integers(0, 2, 500)) % 4
STATES = np.array(list(itertools.product([0.0, 1.0], repeat=D)))
ORDERS = np.array(list(itertools.permutations(range(D))))
QUICK = {"hidden": (24,), "max_epochs": 10, "random_state": 0}
CASES = {"several": {"n_masks": 3}, "any": {"order": "any"}, "any, several": {"order": "any", "n_masks": 4},
         "several, direct": {"n_masks": 2, "direct": True},
         "any, deep, direct": {"order": "any", "direct": True, "hidden": (16, 12)},
         "given": {"order": ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0)), "n_masks": 2}}
cases = pytest.mark.parametrize("case", CASES)
pytestmark = [pytest.mark.filterwarnings("ignore:fit. hidden")]


@functools.cache
def fitted(case, context=False):
    labels = (BITS.sum(axis=1) > D / 2).astype(int) if context else None
    return MADE(**QUICK | CASES[case]).fit(BITS, context=labels)


@cases
def test_the_density_sums_to_one_and_is_the_mean_of_those_of_its_orders(case):
    model = fitted(case)
    each = np.stack([model.inner(np.float64).log_density_in(order, STATES) for order in np.atleast_2d(model.order_)])
    np.testing.assert_allclose(np.exp(each).sum(axis=1), 1, rtol=1e-10)
    np.testing.assert_allclose(model.log_prob(STATES), np.logaddexp.reduce(each) - math.log(len(each)), rtol=1e-10)


@pytest.mark.parametrize("case", ["any", "any, deep, direct"])
def test_every_order_is_a_density_and_the_conditional_of_any_subset_is_that_of_its_order(case):
    model = fitted(case)
    inner = model.inner(np.float64)
    for order in ORDERS[::7]:
        assert abs(np.exp(inner.log_density_in(order, STATES)).sum() - 1) < 1e-10
    for s in range(1, D):
        for columns in itertools.combinations(range(D), s):
            values = BITS[3, list(columns)]
            given = model.condition(list(columns), values)
            rest = np.array(list(itertools.product([0.0, 1.0], repeat=D - s)))
            found = given.log_prob(rest)
            own = [order for order in np.atleast_2d(model.order_) if set(order[:s]) == set(columns)]
            made = [*columns, *(j for j in np.atleast_2d(model.order_)[0] if j not in columns)]  # those known first
            joint = inner.log_density_in(own[0] if own else np.array(made), STATES)
            joint = joint[(STATES[:, list(columns)] == values).all(axis=1)]
            np.testing.assert_allclose(found, joint - np.logaddexp.reduce(joint), atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"order": "any"}, {"order": "any", "n_masks": 2}], ids=str)
def test_a_conditional_is_that_of_log_prob_where_one_order_has_the_columns_first_and_only_there(options):
    model = MADE(**QUICK | options).fit(BITS)
    first, alone = np.atleast_2d(model.order_)[0], model.order_.ndim == 1
    for s in range(1, D):
        for columns in {tuple(first[:s][::-1]), *((tuple(first[-s:]),) if "order" in options else ())}:
            known = BITS[3, list(columns)]
            joint = model.log_prob(STATES[(STATES[:, list(columns)] == known).all(axis=1)])
            found = model.condition(list(columns), known).log_prob(np.array(list(itertools.product([0.0, 1.0], repeat=D - s))))
            same = np.allclose(found, joint - np.logaddexp.reduce(joint), atol=1e-10)
            assert same == (alone and set(columns) == set(first[:s]))


@pytest.mark.long
@cases
def test_samples_follow_the_density(case):
    """Chance breaks this in one of 1e6 seeds: the share of a state is within 5.6 of its standard errors, of 32."""
    model, n = fitted(case), 100_000
    drawn = model.sample(n, rng=1) @ 2 ** np.arange(D)[::-1]
    share, p = np.bincount(drawn.astype(int), minlength=2**D) / n, np.exp(model.log_prob(STATES))
    assert np.all(abs(share - p) < 5.6 * np.sqrt(p * (1 - p) / n) + 2 / n)


@pytest.mark.long
def test_imputed_draws_follow_the_conditional():
    """Chance breaks this in one of 1e6 seeds: as above, of 4 states."""
    model, n = fitted("any"), 40_000
    x = np.tile(BITS[3], (n, 1))
    x[:, [1, 4]] = np.nan
    full = model.impute(x, rng=0)
    np.testing.assert_array_equal(full[:, [0, 2, 3]], np.tile(BITS[3, [0, 2, 3]], (n, 1)))
    share = np.bincount((full[:, 1] * 2 + full[:, 4]).astype(int), minlength=4) / n
    p = np.exp(model.condition([0, 2, 3], BITS[3, [0, 2, 3]]).log_prob(np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]])))
    assert np.all(abs(share - p) < 5.3 * np.sqrt(p * (1 - p) / n) + 2 / n)
    np.testing.assert_array_equal(model.impute(x[:9]), model.impute(x[:9]))  # without rng: a function of the row


@cases
@pytest.mark.parametrize("context", [False, True])
def test_nothing_is_seen_too_early_in_any_order(case, context):
    """The Jacobian of the outputs is zero, to the bit, by every input that comes no earlier; the context is seen by all."""
    model = fitted(case, context)
    inner, w = model.inner(np.float64), 2 if context else 0
    params = {name: a + 0.3 * RNG.normal(size=a.shape) for name, a in inner.params.items()}
    for order in np.atleast_2d(model.order_):
        net, p = inner.parts["net"].of(order), inner.parts["net"].ordered(params, order)
        seen = [jacobian(lambda x, net=net, p=p: net(p, x[None])[0])(row) != 0 for row in RNG.normal(size=(8, D + w))]
        seen = np.any(seen, axis=0)  # units that one row leaves at rest move by another
        assert not seen[:, :D][~np.tri(D, k=-1, dtype=bool)].any()
        assert not w or seen[:, D:].any(axis=1).all()


class Own(Normal):
    """A head of the user's, which the sampler's kernel does not know."""

    name, code = "own", None


HEADS = {"normal": Normal(), "unbounded": Normal(limit=None), "bernoulli": Bernoulli(), "poisson": Poisson(),
         "categorical": Categorical([[2, 7, 9], [0, 1], [0.5, 3, 4, 5], [1]]), "mixture": MixtureOfNormals(3), "own": Own(),
         "columns": Columns([Normal(limit=2.0), Categorical([3, 5]), MixtureOfNormals(2), Normal()]),
         "columns, poisson": Columns([Poisson(), Categorical([3, 5, 6]), MixtureOfNormals(2, limit=3.0), Poisson()])}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("context, direct", [(0, False), (2, False), (2, True), (0, True)])
@pytest.mark.parametrize("hidden", [(9,), (7, 12)], ids=str)
def test_one_pass_draws_what_a_pass_for_each_column_draws(head, free, context, direct, hidden):
    """And some of its columns given, the others are the same to the bit."""
    rng, order, n = np.random.default_rng(1), np.array([2, 0, 3, 1]), 25
    net = MaskedMLP("net", 4, hidden, HEADS[head] if free else HEADS[head].of(order), context, direct=direct, free=free)
    p = {name: rng.normal(size=shape) * 0.5 for name, shape in net.shapes().items()}
    p["net"] *= 1 if free else net.flat_mask(p["net"])
    one, p = net.of(order), net.ordered(p, order)
    c = rng.normal(size=(n, context)) if context else None
    noise = one.head.noise(Stream(0), (n, 4), np.float64)
    x = np.zeros((n, 4))
    for j in range(4):
        x[:, j] = one.head.sample(noise, one(p, beside(one.inputs(x), c)))[:, j]
    drawn = one.sample(p, noise, c)
    np.testing.assert_allclose(drawn, x, rtol=1e-9, atol=1e-9)
    for s in range(5):
        np.testing.assert_array_equal(one.sample(p, noise, c, drawn[:, :s].copy()), drawn)
    if direct:
        p = p | {"net.direct": -9 * p["net.direct"]}
        with np.errstate(over="ignore", invalid="ignore"):
            assert (one.sample(p, noise, c) != drawn).any()


@pytest.mark.parametrize("head", ["columns", "columns, poisson"])
def test_no_sample_of_a_table_runs_the_network_for_each_column(head, monkeypatch):
    model = MADE(head=HEADS[head], order="any", **QUICK).fit(HEADS[head].sample(
        HEADS[head].noise(Stream(1), (200, 4), np.float64), RNG.normal(size=(200, HEADS[head].n_outputs(4)))))
    holes = model.sample(20, rng=0)
    holes[::2, 1], holes[1::2, [0, 2]] = np.nan, np.nan
    monkeypatch.setattr(MaskedMLP, "__call__", None)
    assert np.isfinite(model.impute(holes, rng=0)).all()
    assert np.isfinite(model.condition([1], holes[1, [1]]).sample(5, rng=0)).all()


def test_levels_of_unequal_number_in_several_orders():
    model = MADE(head="categorical", n_masks=3, **QUICK).fit(LEVELS)
    states = np.array(list(itertools.product(range(3), range(2), range(4))), float)
    assert abs(np.exp(model.log_prob(states)).sum() - 1) < 1e-10
    drawn = model.sample(500, rng=0)
    assert np.isfinite(model.log_prob(drawn)).all() and set(drawn[:, 2]) <= {0, 1, 2, 3}


@pytest.mark.parametrize("head, x", [("bernoulli", BITS), ("categorical", LEVELS), ("normal", BITS)])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("context", [False, True])
def test_decode_gives_the_means_of_what_the_density_is_made_of(head, x, direct, context):
    c = np.arange(len(x)) % 2 if context else None
    model = MADE(head=head, direct=direct, n_masks=2, **QUICK).fit(x, context=c)
    order, whole, params = Order(model.order_[0]), model.inner(np.float64).parts["net"], model.inner(np.float64).params
    net, p = whole.of(order.order), whole.ordered(params, order.order)
    z = model.preprocess_.to_noise(None, x)[0]
    numbers = None if c is None else np.eye(2)[c]
    mean = order.undo(net.head.mean(net(p, beside(net.inputs(order.take(z)), numbers))))
    decoded = model.decode(model.encode(x, context=c), context=c)
    np.testing.assert_allclose(decoded, model.preprocess_.data(None, mean), atol=1e-9)
    assert model.encode(x, context=c).shape[1] == model.n_latent_ == 24 + direct * int(net.seen.sum())
    assert ("inputs" in model.capabilities.representation) == direct


def test_columns_that_do_not_come_first_are_refused():
    model = MADE(order=(2, 0, 1, 3, 4), **QUICK).fit(BITS)
    model.condition([0, 2], [1.0, 0.0])
    with pytest.raises(ValueError, match="condition: columns .1. do not come first in the order of this MADE's factorisation; "
                                         "fit it with order='any'"):
        model.condition([1], [1.0])
    for order, message in (((0, 0, 1, 2, 3), "every column number 0..4 once"), ("backwards", "got 'backwards' with n_masks=1")):
        with pytest.raises(ValueError, match=message):
            MADE(order=order).fit(BITS)
    with pytest.raises(ValueError, match="got 'natural' with n_masks=2"):
        MADE(order="natural", n_masks=2).fit(BITS)


def test_known_values_are_checked():
    model = fitted("any")
    with pytest.raises(ValueError, match=r"condition: X\[0, 1\] is 0.5, but a Bernoulli head needs 0 or 1"):
        model.condition([1], [0.5])
    with pytest.raises(ValueError, match=r"impute: X\[0, 2\] is 0.5, but a Bernoulli head needs 0 or 1"):
        model.impute(np.array([[np.nan, 1, 0.5, 0, 0]]))
    for n in (-1, 2.5, True):
        with pytest.raises(ValueError, match=f"sample: n_samples must be a non-negative integer, got {n}"):
            model.condition([1], [1.0]).sample(n)


def test_a_file_keeps_the_orders(tmp_path):
    model = fitted("any, several")
    model.save(tmp_path / "m")
    loaded = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.order_, model.order_)
    np.testing.assert_array_equal(loaded.log_prob(STATES), model.log_prob(STATES))
    np.testing.assert_array_equal(loaded.condition([3], [1.0]).sample(9, rng=0), model.condition([3], [1.0]).sample(9, rng=0))
