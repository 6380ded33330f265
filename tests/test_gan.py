"""GAN: its losses are what they are named for, both players move as theory says, it finds what it is fitted to, and it keeps
the contract.

A statistical test says its chance of a false alarm, and the seeds are fixed.
"""
import math
import pickle

import mutants
import numba
import numpy as np
import pytest
from scipy import stats

import npgen
from npgen import GAN, cli, data, divergences, engine, ops, train
from npgen.models.gan import DIVERGENCES, LOSSES, packed
from npgen.nn import Part
from npgen.random import Stream
from npgen.testing import check_generative_model

RNG = np.random.default_rng(0)
MOONS = data.moons(150)
NAMES = pytest.mark.parametrize("loss", LOSSES)
SOME = {"relativistic": {}, "packed": {"packing": 3}, "wasserstein": {"loss": "wasserstein-gp", "n_critic": 2},
        "kl": {"loss": "kl", "packing": 2}}
KINDS = pytest.mark.parametrize("kind", SOME)


def small(**options):
    return GAN(**{"hidden": (16,), "critic_hidden": (16,), "n_noise": 4, "max_epochs": 3, "batch_size": 50,
                  "learning_rate": 1e-3, "random_state": 0} | options)


def same(a, b):
    for x, y in zip(*(model.state()[0].values() for model in (a, b)), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


# ---------------------------------------------------------------- losses

@NAMES
def test_of_a_critic_that_knows_nothing_the_losses_are_those_of_a_coin(loss):
    critic, generator = LOSSES[loss]
    best = {"kl": 1.0}.get(loss, 0.0)  # what it gives where p = q: T* = 1 + log 1
    v = np.full(3, best)
    coin = {"relativistic": (math.log(2), math.log(2)), "nonsaturating": (math.log(4), math.log(2)), "kl": (0, -1),
            "reverse_kl": (0, 1)}
    wanted = coin.get(loss, (0, 0))
    np.testing.assert_allclose(critic(v, v), wanted[0], atol=1e-15)
    np.testing.assert_allclose(generator(lambda: v, v), wanted[1], atol=1e-15)


@NAMES
def test_the_sign_law(loss):
    """The critic moves up at the data and down at what is made; the generator moves what is made up the critic's slope."""
    critic, generator = LOSSES[loss]
    real, fake = RNG.normal(size=(2, 50))
    by_real, by_fake = engine.grad(lambda a, b: np.sum(critic(a, b)), (0, 1))(real, fake)
    if loss == "chi2":  # whose conjugate rises from -2 on
        fake = np.abs(fake)
        by_fake = engine.grad(lambda b: np.sum(critic(real, b)))(fake)
    assert (by_real < 0).all() and (by_fake > 0).all()
    assert (engine.grad(lambda b: np.sum(generator(lambda: real, b)))(fake) < 0).all()


def test_the_relativistic_loss_does_not_see_a_constant():
    critic, generator = LOSSES["relativistic"]
    real, fake = RNG.normal(size=(2, 50))
    np.testing.assert_allclose(critic(real + 3, fake + 3), critic(real, fake), rtol=1e-12)
    np.testing.assert_allclose(generator(lambda: real + 3, fake + 3), critic(fake, real), rtol=1e-12)


@pytest.mark.parametrize("loss", ["nonsaturating", *DIVERGENCES])
def test_the_best_critic_of_two_normals_finds_their_divergence_and_no_other_one_does(loss):
    """By quadrature: minus the critic's loss is D_f at D*, and less at any other; of "nonsaturating", 2 JS - log 4."""
    P, Q = (npgen.GaussianMixture.from_parameters([1.0], [[m]], [[[s * s]]]) for m, s in ((0.0, 1.0), (0.7, 1.2)))
    x = np.linspace(-12, 13, 20_001)[:, None]
    p, q = P.log_prob(x), Q.log_prob(x)
    t, dx = p - q, x[1, 0] - x[0, 0]
    best = {"kl": 1 + t, "chi2": 2 * np.expm1(t), "hellinger": t / 2}.get(loss, t)

    def value(v):
        real, fake = (LOSSES[loss][0](np.where(sides, v, at), np.where(sides, at, v))
                      for sides, at in ((True, 0.0), (False, 0.0)))
        none = LOSSES[loss][0](np.zeros(1), np.zeros(1))  # the loss is a term of D(x) and one of D(y)
        return -np.sum(np.exp(p) * (real - none / 2) + np.exp(q) * (fake - none / 2)) * dx

    js = float(divergences.js(P, Q))
    exact = {"kl": lambda: float(divergences.kl(P, Q)), "reverse_kl": lambda: float(divergences.reverse_kl(P, Q)),
             "chi2": lambda: float(divergences.chi2(P, Q)), "hellinger": lambda: 2 * float(divergences.hellinger(P, Q)),
             "js": lambda: 2 * js, "nonsaturating": lambda: 2 * js - math.log(4)}[loss]()
    assert value(best) == pytest.approx(exact, abs=2e-5)
    for other in (best + 0.1, best - 0.1, 0.9 * best, 1.1 * best, best + 0.1 * np.sin(x[:, 0])):
        assert value(other) < exact - 1e-4


def test_the_best_critic_of_slope_one_finds_the_wasserstein_distance_and_no_other_one_does():
    """On a line E D(x) - E D(y) is W1 for D' = sign(G - F), and less for any other D whose slope is nowhere above 1."""
    x, y = RNG.normal(size=300), 1.6 * RNG.normal(size=300) + 0.3  # whose distribution functions cross
    pooled = np.sort(np.concatenate([x, y]))
    F, G = (np.searchsorted(np.sort(rows), pooled[:-1], side="right") / 300 for rows in (x, y))

    def value(slopes):
        D = np.concatenate([[0], np.cumsum(slopes * np.diff(pooled))])
        return -np.mean(LOSSES["wasserstein-gp"][0](*(D[np.searchsorted(pooled, rows)] for rows in (x, y))))

    w1 = divergences.wasserstein_1d(x[:, None], y[:, None]).value
    assert value(np.sign(G - F)) == pytest.approx(w1, rel=1e-12)
    assert w1 == pytest.approx(stats.wasserstein_distance(x, y), rel=1e-12)
    for other in (np.ones(599), -np.ones(599), np.tanh(20 * (G - F)), *RNG.uniform(-1, 1, size=(20, 599))):
        assert value(other) < w1 - 1e-3


def test_a_critic_on_the_wrong_side_breaks_its_law(monkeypatch):
    monkeypatch.setitem(LOSSES, "wasserstein-gp", (lambda real, fake: real - fake, LOSSES["wasserstein-gp"][1]))
    with pytest.raises(AssertionError):
        test_the_best_critic_of_slope_one_finds_the_wasserstein_distance_and_no_other_one_does()


# ---------------------------------------------------------------- penalties

def losses(model, z, c=None, **settings):
    """What the critic minimises, (n,), under other settings of the penalties."""
    return model.set_params(**settings).inner(np.float64).loss(z, Stream(7), c)


@pytest.mark.parametrize("packing", [1, 3])
def test_the_penalties_of_a_linear_critic_are_its_squared_weights(packing):
    z = RNG.normal(size=(20, 2))
    for c, labels in ((None, None), (RNG.normal(size=(20, 1)), MOONS[:, :1])):
        model = small(critic_hidden=(), packing=packing).fit(MOONS, context=labels)
        weight = model.inner(np.float64).params["critic"][:2 * packing]  # of the context, which comes after, none
        none = losses(model, z, c, r1=0, r2=0)
        np.testing.assert_allclose(losses(model, z, c, r1=3, r2=0) - none, 1.5 * weight @ weight, rtol=1e-9)
        np.testing.assert_allclose(losses(model, z, c, r1=0, r2=5) - none, 2.5 * weight @ weight, rtol=1e-9)
        gp = losses(model, z, c, loss="wasserstein-gp", gp=7) - losses(model, z, c, gp=0)
        np.testing.assert_allclose(gp, 7 * (np.sqrt(weight @ weight) - 1) ** 2, rtol=1e-6)


def test_the_penalties_are_taken_where_they_are_named():
    """R1 at the data, R2 at what is made: by finite differences of critic() itself."""
    model, x = small(preprocess=None, max_epochs=10).fit(MOONS), RNG.normal(size=(30, 2))
    inner = model.inner(np.float64)
    y = inner.draw(30, Stream(7))  # the first that the loss draws, too
    none = losses(model, x, r1=0, r2=0)

    def squared_slope(rows, h=1e-7):
        return sum(((model.critic(rows + h * e) - model.critic(rows - h * e)) / (2 * h)) ** 2 for e in np.eye(2))

    np.testing.assert_allclose(losses(model, x, r1=2, r2=0) - none, squared_slope(x), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(losses(model, x, r1=0, r2=2) - none, squared_slope(y), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("packing", [1, 3])
@pytest.mark.parametrize("loss", ["relativistic", "wasserstein-gp", "hellinger"])
def test_derivatives_of_the_penalties_are_those_of_finite_differences(loss, packing):
    model = small(loss=loss, packing=packing, r1=2.0, r2=3.0, critic_hidden=(12, 9)).fit(MOONS)
    inner, z = model.inner(np.float64), RNG.normal(size=(20, 2))
    for name in ("critic", "generator"):
        gradient = engine.grad(lambda q, name=name: np.mean(inner.loss(z, Stream(1), p={**inner.params, name: q})))(
            inner.params[name])
        move, step = RNG.normal(size=gradient.shape), 1e-7
        up, down = (np.mean(inner.loss(z, Stream(1), p={**inner.params, name: inner.params[name] + s * move}))
                    for s in (step, -step))
        assert gradient @ move == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-7)


# ---------------------------------------------------------------- packs

def test_a_pack_is_a_row_and_those_that_follow_it_in_a_circle():
    rows = RNG.normal(size=(7, 2))
    packs = packed(rows, 3).reshape(7, 3, 2)
    for k in range(3):
        np.testing.assert_array_equal(packs[:, k], rows[(np.arange(7) + k) % 7])
    np.testing.assert_array_equal(packed(np.roll(rows, 2, axis=0), 3), np.roll(packed(rows, 3), 2, axis=0))
    assert packed(rows, 1) is rows and packed(None, 3) is None
    np.testing.assert_array_equal(packed(rows[:2], 5).reshape(2, 5, 2)[0], rows[[0, 1, 0, 1, 0]])


def test_the_critic_of_packs_is_asked_for_packs():
    model = small(packing=3).fit(MOONS, context=MOONS[:, :1])
    inner, x = model.inner(np.float64), MOONS[:9].astype(np.float64)
    z, c = inner.enter(x)[0], model.context_.encode("critic", x[:, :1], np.float64)
    wanted = inner.parts["critic"](inner.params, np.hstack([z.reshape(3, 6), c.reshape(3, 3)]))[:, 0]
    np.testing.assert_allclose(model.critic(x, context=x[:, :1]), wanted, rtol=1e-12)
    assert model.critic(np.tile(x, (2000, 1)), context=np.tile(x[:, :1], (2000, 1))).shape == (6000,)
    with pytest.raises(ValueError, match="critic: X has 8 rows, but the critic sees 3 beside each other; pass a multiple of 3"):
        model.critic(x[:8], context=x[:8, :1])


def players_of(model, x, **how):
    found, fit = [], train.fit

    def watch(players, *args, **more):
        found.extend(players)
        return fit(players, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "fit", watch)
        model.fit(x, **how)
    return found


def test_a_packs_weight_is_the_product_of_its_rows():
    z, w = RNG.normal(size=(12, 2)), RNG.uniform(0.5, 2, 12)
    model = small(packing=3, preprocess=None)
    for player in players_of(model, MOONS):
        p = model.inner(np.float64).params
        plain, counted = (player.loss(p, train.Batch(z, None, weights), Stream(7)) for weights in (None, w))
        np.testing.assert_allclose(counted * w, plain * w * np.roll(w, -1) * np.roll(w, -2), rtol=1e-12)


# ---------------------------------------------------------------- the two players

class Point(Part):
    """One parameter: where all rows are, or the critic's slope."""

    def __init__(self, name, start):
        self.name, self.start = name, start

    def shapes(self):
        return {self.name: (1,)}

    def init(self, z, c, stream, weights=None):
        return {self.name: np.full(1, self.start, z.dtype)}


class Place(Point):
    def __call__(self, p, e):
        return p[self.name] + 0 * e[:, :1]


class Slope(Point):
    def __call__(self, p, x):
        return p[self.name] * x

    def with_slope(self, p, x):
        return self(p, x), p[self.name] * np.ones_like(x)


class Dirac(GAN):
    """The data are at 0, what is made at theta, D(x) = psi x (Mescheder et al., 2018)."""

    start = 0.0, 0.0

    def _assemble(self, d, w, chosen):
        return {"generator": Place("generator", self.start[0]), "critic": Slope("critic", self.start[1])}


def moved(start, n_steps, rate, **settings):
    """(theta, psi) after steps of the trainer."""
    model = Dirac(optimizer="sgd", learning_rate=rate, batch_size=8, max_epochs=n_steps, average=0, validation_fraction=0,
                  restore_best=False, patience=10**6, preprocess=None, **settings)
    model.start = start
    model.fit(np.zeros((8, 1)))
    return model.params_.flat.astype(np.float64)


@pytest.mark.parametrize(("loss", "slope"), [("relativistic", 0.5), ("nonsaturating", 0.5), ("js", 0.5),
                                              ("wasserstein-gp", 1.0)])
def test_the_dirac_gan_turns_and_shrinks_as_its_eigenvalues_say(loss, slope):
    """-g/2 +- sqrt(g^2/4 - f'(0)^2), g = r1 + r2: circles without penalties, and a spiral or a fall with them."""
    for r1, r2 in [(0.0, 0.0)] if loss == "wasserstein-gp" else [(0.0, 0.0), (0.3, 0.1), (0.0, 2.0)]:
        h, settings = 1e-3, {"loss": loss, "r1": r1, "r2": r2, "gp": 0.0}
        columns = [moved(start, 1, h, **settings) / 1e-4 for start in ((1e-4, 0.0), (0.0, 1e-4))]
        flow = (np.array(columns).T - np.eye(2)) / h
        found, g = np.sort_complex(np.linalg.eigvals(flow)), r1 + r2
        wanted = np.sort_complex(-g / 2 + np.array([-1, 1]) * np.emath.sqrt(g * g / 4 - slope**2))
        np.testing.assert_allclose(found, wanted, atol=5e-3)
        assert flow[1, 0] < 0 < flow[0, 1]  # the critic learns that the data are on the other side, the generator climbs
        step = np.array([[1, 0], [-h * slope, 1 - h * g]])  # the critic first
        step = np.array([[1, h * slope], [0, 1]]) @ step
        np.testing.assert_allclose(moved((1e-4, 3e-5), 100, h, **settings), np.linalg.matrix_power(step, 100) @ [1e-4, 3e-5],
                                   rtol=1e-6)


def test_the_critic_takes_its_steps_first():
    h, start = 0.1, (1e-4, 0.0)
    theta, psi = moved(start, 1, h, n_critic=3, r1=0, r2=0)
    assert psi == pytest.approx(-3 * h / 2 * start[0], rel=1e-6) and theta == pytest.approx(start[0] + h / 2 * psi, rel=1e-9)


def test_the_mean_generator_is_the_running_mean_of_all_its_steps():
    def parameters(n_steps, **settings):
        return small(**{"max_epochs": n_steps, "average": 0, "batch_size": 999, "validation_fraction": 0, "restore_best": False,
                        "optimizer": "adam"} | settings).fit(MOONS.astype(np.float64)).params_.flat.copy()

    mean = parameters(1, learning_rate=1e-300)
    for t in range(1, 6):
        mean += (1 - min(0.6, (1 + t) / (10 + t))) * (parameters(t) - mean)
    np.testing.assert_allclose(parameters(5, average=0.6), mean, rtol=1e-12, atol=1e-15)


def test_it_stops_by_the_energy_distance_of_rows_held_out():
    x, valid = MOONS[:100].astype(np.float64), MOONS[100:].astype(np.float64)
    for c in (None, x[:, :1]):
        model = small(max_epochs=6, preprocess=None).fit(x, context=c, validation_data=valid if c is None else
                                                         (valid, None, valid[:, :1]))
        given = None if c is None else model.context_.encode("fit", valid[:, :1], np.float64)
        y = model.inner(np.float64).draw(50, Stream(0), given)
        a, b = (valid, y) if c is None else (np.hstack([valid, given]), np.hstack([y, given]))
        apart = [np.sqrt(np.square(u[:, None] - v).sum(axis=2)).sum() / n for u, v, n in ((a, b, 2500), (b, b, 50 * 49))]
        shown = [entry["valid_nats"] for entry in model.history_]
        assert min(shown) == pytest.approx(2 * apart[0] - apart[1], rel=1e-9)
        assert set(model.history_[0]["losses"]) == {"critic", "generator"}


# ---------------------------------------------------------------- it finds what it is fitted to

@pytest.mark.long(but={"loss": ["relativistic"]})
@NAMES
def test_it_finds_a_normal_and_its_correlation(loss):
    """2,000 draws: a mean is off by 0.12 standard deviations, a correlation by 0.12, in one of a million seeds at most."""
    x = RNG.normal(size=(2000, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]) * [3, 0.1] + [10, -1]
    model = GAN(loss=loss, hidden=(32,), critic_hidden=(32,), max_epochs=60, learning_rate=1e-3, n_noise=4,
                n_critic=3 if loss == "wasserstein-gp" else 1, r1=0.3, r2=0.3, gp=1.0, random_state=0).fit(x)
    y = model.sample(2000, rng=0)
    assert (np.abs(y.mean(axis=0) - x.mean(axis=0)) < 0.3 * x.std(axis=0)).all()
    assert (np.abs(np.log(y.std(axis=0) / x.std(axis=0))) < 0.3).all()
    assert abs(np.corrcoef(y.T)[0, 1] - np.corrcoef(x.T)[0, 1]) < 0.27


@KINDS
def test_given_a_context_it_draws_what_belongs_to_it(kind):
    labels = RNG.integers(0, 2, 400)
    x = labels[:, None] * 6.0 + RNG.normal(size=(400, 2))
    model = small(max_epochs=150, learning_rate=5e-3, **SOME[kind]).fit(x, context=labels)
    for label in (0, 1):
        assert abs(model.sample(200, context=label, rng=0).mean() - 6 * label) < 1.5
    assert model.score(x, context=labels) > model.score(x, context=1 - labels)


def test_weights_pull_the_fit_towards_their_rows():
    right = MOONS[:, 0] > MOONS[:, 0].mean()
    for kind in SOME.values():
        models = [small(max_epochs=150, learning_rate=3e-3, **kind).fit(MOONS, sample_weight=np.where(side, 1, 1e-2))
                  for side in (right, ~right)]
        means = [model.sample(500, rng=0)[:, 0].mean() for model in models]
        assert means[0] > means[1] + 0.5


# ---------------------------------------------------------------- the contract

@KINDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_seed_same_fit_and_the_same_bits_for_any_thread_count(kind, dtype):
    x, before, found = MOONS.astype(dtype), numba.get_num_threads(), []
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            found.append(small(**SOME[kind]).fit(x))
            found[-1].drawn = found[-1].sample(300, rng=1)
    finally:
        numba.set_num_threads(before)
    same(*found)
    assert found[0].drawn.tobytes() == found[1].drawn.tobytes() and found[0].drawn.dtype == dtype
    assert found[0].score(x) == found[1].score(x)
    other = small(random_state=1, **SOME[kind]).fit(x)
    assert other.sample(3, rng=1).tobytes() != found[0].sample(3, rng=1).tobytes()


@KINDS
def test_a_recorded_step_has_the_bits_of_one_that_is_not(kind, monkeypatch):
    became, record = [], train._Step._record

    def watched(self, key, state, rows):
        nats = record(self, key, state, rows)
        became.append(self.recorded[key] is not None)
        return nats

    weights = RNG.uniform(0.5, 2, len(MOONS))
    monkeypatch.setattr("npgen.train._Step._record", watched)
    recorded = small(**SOME[kind]).fit(MOONS, context=MOONS[:, :1], sample_weight=weights)
    assert became and all(became)
    monkeypatch.setattr("npgen.train._Step.train", lambda self, state, rows: self.take(state, rows))
    same(small(**SOME[kind]).fit(MOONS, context=MOONS[:, :1], sample_weight=weights), recorded)


@KINDS
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(kind, tmp_path):
    def stop(entry):
        if entry["epoch"] == 2:
            raise RuntimeError("stop")

    weights = RNG.uniform(0.5, 2, len(MOONS))
    how, run = {"sample_weight": weights, "context": MOONS[:, :1]}, {"checkpoint": tmp_path / "run"}
    whole = small(max_epochs=5, **SOME[kind]).fit(MOONS, **how)
    with pytest.raises(RuntimeError, match="stop"):
        small(max_epochs=5, callbacks=(stop,), **SOME[kind]).fit(MOONS, **how, **run)
    again = small(max_epochs=5, **SOME[kind]).fit(MOONS, **how, **run, resume=True)
    same(again, whole)
    assert again.history_ == whole.history_


@KINDS
def test_files_and_pickles_hold_all_of_it(kind, tmp_path):
    model = small(**SOME[kind]).fit(MOONS, context=MOONS[:, :1])
    model.save(tmp_path / "m")
    for again in (npgen.load(tmp_path / "m"), pickle.loads(pickle.dumps(model))):
        same(again, model)
        assert again.sample(5, context=[0.3], rng=1).tobytes() == model.sample(5, context=[0.3], rng=1).tobytes()
        assert again.critic(MOONS[:6], context=[0.3]).tobytes() == model.critic(MOONS[:6], context=[0.3]).tobytes()
        assert repr(again) == repr(model) and again.capabilities == model.capabilities and again.history_ == model.history_


def test_the_critic_gives_a_row_the_same_bits_whatever_rows_are_beside_it():
    model = small().fit(MOONS)
    whole = model.critic(MOONS)
    assert whole.shape == (150,) and whole.dtype == MOONS.dtype and np.isfinite(whole).all()
    np.testing.assert_array_equal(np.concatenate([model.critic(MOONS[i:i + 7]) for i in range(0, 150, 7)]), whole)
    with pytest.raises(npgen.NotFittedError, match="critic"):
        small().critic(MOONS)
    with pytest.raises(ValueError, match="critic: X has 1 features"):
        model.critic(MOONS[:, :1])


@KINDS
def test_weights_of_one_are_none_and_rows_of_weight_zero_are_not_there(kind):
    keep, more = RNG.random(len(MOONS)) < 0.7, SOME[kind]
    same(small(**more).fit(MOONS, sample_weight=np.full(len(MOONS), 3.0)), small(**more).fit(MOONS))
    same(small(**more).fit(np.where(keep[:, None], MOONS, 9), sample_weight=keep), small(**more).fit(MOONS[keep]))
    w = RNG.uniform(0.5, 2, len(MOONS))
    same(*(small(**more).fit(MOONS, sample_weight=scale * w) for scale in (1, 1024)))


@KINDS
def test_every_law_that_applies_holds(kind):
    for x in (MOONS, np.round(3 * MOONS)):
        report = check_generative_model(small(**SOME[kind]).fit(x), x)
        assert report.passed, str(report)
    labels = np.arange(150) % 2
    report = check_generative_model(small(**SOME[kind]).fit(MOONS, context=labels), MOONS, context=labels)
    assert report.passed, str(report)


@KINDS
def test_on_the_device_it_is_the_same_model(cupy, kind):
    def fitted(device):
        model = small(max_epochs=2, **SOME[kind]).to(device)
        return model.fit(MOONS[:60], sample_weight=np.arange(60) % 3 + 1.0, context=MOONS[:60, :1])

    host, device = fitted("cpu"), fitted("cuda")
    assert (host.device, device.device) == ("cpu", "cuda")
    for ask in (lambda m: m.sample(9, context=[0.5], rng=0), lambda m: m.critic(MOONS[:6], context=[0.5])):
        np.testing.assert_allclose(ask(device), ask(host), rtol=2e-3, atol=2e-3)
    assert device.score(MOONS, context=MOONS[:, :1]) == pytest.approx(host.score(MOONS, context=MOONS[:, :1]), rel=1e-2)
    before = host.sample(9, context=[0.5], rng=0)
    assert host.to("cuda").to("cpu").sample(9, context=[0.5], rng=0).tobytes() == before.tobytes()


def test_the_command_line_fits_draws_and_checks_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ("--set", "hidden=24", "--set", "loss=js", "--set", "packing=2", "--epochs", "2")
    assert cli.main(["fit", "gan", "--data", "moons", "--out", "m", *settings]) == 0
    assert "loss " in capsys.readouterr().out
    assert npgen.load("m").loss == "js"
    pytest.importorskip("matplotlib")
    for argv in (["sample", "m", "--out", "s.png"], ["sample", "m", "-n", "5", "--out", "s.csv"], ["info", "m"], ["check", "m"],
                 ["score", "m", "--data", "moons"]):
        assert cli.main(argv) == 0, argv
    assert (tmp_path / "s.png").stat().st_size > 1000


BAD = {"loss": ["hinge", None, 3, "JS"], "n_noise": [0, 1.5, None], "hidden": [(0,), "wide"], "critic_hidden": [(2.5,), None],
       "r1": [-1, np.nan, None, "much"], "r2": [np.inf, True], "gp": [-0.1], "packing": [0, 1.5, None],
       "n_critic": [0, 2.5, None]}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD.items() for value in values], ids=repr)
def test_a_hyperparameter_that_cannot_be_is_named(name, value):
    with pytest.raises((ValueError, TypeError), match=f"^{name} must be") as caught:
        small(**{name: value}).fit(MOONS)
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    """All but one check: a row drawn once by weight 2 is not drawn as two rows are."""
    check = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed").check_estimator
    drawn = {"check_sample_weight_equivalence_on_dense_data": "batches and held-out rows are drawn"}
    results = check(GAN(hidden=(8,), critic_hidden=(8,), max_epochs=2, random_state=0), on_skip=None,
                    expected_failed_checks=drawn)
    assert sum(result["status"] == "passed" for result in results) > 40


# ---------------------------------------------------------------- planted mistakes

def dirac():
    test_the_dirac_gan_turns_and_shrinks_as_its_eigenvalues_say("relativistic", 0.5)


def linear():
    test_the_penalties_of_a_linear_critic_are_its_squared_weights(1)


MUTANTS = {
    "players swapped": ("models.gan:GAN._players", 'player("critic", self._loss, self.n_critic), player("generator", '
                        'self._deception, 1)', 'player("critic", self._deception, self.n_critic), player("generator", '
                        'self._loss, 1)', dirac),
    "generator first": ("models.gan:GAN._players", 'player("critic", self._loss, self.n_critic), player("generator", '
                        'self._deception, 1)', 'player("generator", self._deception, 1), player("critic", self._loss, '
                        'self.n_critic)', test_the_critic_takes_its_steps_first),
    "one step of the critic": ("models.gan:GAN._players", "steps=int(steps)", "steps=1", test_the_critic_takes_its_steps_first),
    "critic sees data and made exchanged": ("models.gan:GAN._loss", "judged[:n], judged[n:]", "judged[n:], judged[:n]", dirac),
    "generator goes down the critic": ("models.gan:GAN._deception",
                                       "lambda: self._judged(p, x, given), self._judged(p, y, given)",
                                       "lambda: self._judged(p, y, given), self._judged(p, x, given)", dirac),
    "R1 and R2 exchanged": ("models.gan:GAN._loss", "self.r1 / 2 * squares[:n] + self.r2 / 2 * squares[n:]",
                            "self.r1 / 2 * squares[n:] + self.r2 / 2 * squares[:n]",
                            test_the_penalties_are_taken_where_they_are_named),
    "R1 not halved": ("models.gan:GAN._loss", "self.r1 / 2", "self.r1", linear),
    "R2 left out": ("models.gan:GAN._loss", " + self.r2 / 2 * squares[n:]", "", dirac),
    "slope for squared slope": ("models.gan:GAN._loss", "ops.sum(ops.square(slope)", "ops.sum(abs(slope)", linear),
    "gradient penalty around 0": ("models.gan:GAN._loss", "1e-12) - 1)", "1e-12))", linear),
    "a pack is of one row": ("models.gan:packed", "rows[k:], rows[:k]", "rows[0:], rows[:0]",
                             test_a_pack_is_a_row_and_those_that_follow_it_in_a_circle),
    "packs count by one row's weight": ("models.gan:GAN._others", "[:, 1:]", "[:, 1:2]",
                                        test_a_packs_weight_is_the_product_of_its_rows),
    "the mean lags behind": ("optim:Average.update", "np.maximum(1 - self.decay, 9 / (10 + t))", "(0 * t + 1 - self.decay)",
                             test_the_mean_generator_is_the_running_mean_of_all_its_steps),
    "it stops by the critic's loss": ("models.gan:GAN._monitor", "return pairs.energy(",
                                      "return self._loss(p, batch.x, stream, c) + 0 * pairs.energy(",
                                      test_it_stops_by_the_energy_distance_of_rows_held_out),
    "the critic does not see the context": ("models.gan:GAN._judged", "beside(packs, given)",
                                            "beside(packs, given if given is None else 0 * given)",
                                            lambda: test_given_a_context_it_draws_what_belongs_to_it("relativistic")),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = MUTANTS[name]
    with mutants.Mutant(name, "", where, old, new).made(), pytest.raises(AssertionError):
        law()


WRONG = {  # what the critic minimises in place of its loss: a conjugate that is none, or a term of another sign
    "nonsaturating": lambda real, fake: ops.softplus(-real) + ops.softplus(fake + 0.5),
    "kl": lambda real, fake: np.exp(fake) - real,
    "reverse_kl": lambda real, fake: fake + np.exp(-real),
    "chi2": lambda real, fake: fake * fake / 2 + fake - real,
    "hellinger": lambda real, fake: DIVERGENCES["hellinger"][1](2 * fake) - DIVERGENCES["hellinger"][0](real),
    "js": lambda real, fake: DIVERGENCES["js"][1](fake) + math.log(2) - DIVERGENCES["js"][0](real),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_conjugate_breaks_the_bound(name, monkeypatch):
    monkeypatch.setitem(LOSSES, name, (WRONG[name], LOSSES[name][1]))
    with pytest.raises(AssertionError):
        test_the_best_critic_of_two_normals_finds_their_divergence_and_no_other_one_does(name)


@NAMES
def test_a_critic_that_takes_one_for_the_other_breaks_the_sign_law(loss, monkeypatch):
    critic, generator = LOSSES[loss]
    monkeypatch.setitem(LOSSES, loss, (lambda real, fake: critic(fake, real), generator))
    with pytest.raises(AssertionError):
        test_the_sign_law(loss)


def test_a_loss_of_two_terms_sees_a_constant(monkeypatch):
    monkeypatch.setitem(LOSSES, "relativistic", LOSSES["nonsaturating"])
    with pytest.raises(AssertionError):
        test_the_relativistic_loss_does_not_see_a_constant()
