"""Players: who moves which parameters, by which loss, with what they carry; schedules, averages; and runs that go on."""
import functools
import math

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

import npgen
from npgen import MADE, MAF, VAE, RealNVP, checkpoint, train
from npgen.engine import Tensor
from npgen.kernels import adam, flow, mlp, norm
from npgen.nn import Parameters
from npgen.optim import SGD, Adam, Average, Constant, Cosine, Step
from npgen.random import Stream
from npgen.train import Batch, ConvergenceWarning, Player, State, Training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)) + [1, 2, 3]


def squares(params, batch, stream):
    return np.sum(np.square(batch.x - params["w"]), axis=1) / 2


def saddle(sign):
    """Half of min_a max_b mean (a - x) b - b^2 / 2, whose saddle is at a = mean x, b = 0."""
    def loss(params, batch, stream):
        return sign * np.sum((params["a"] - batch.x) * params["b"] - np.square(params["b"]) / 2, axis=1)
    return loss


def chain_of(params, carry, batch, stream):
    """One step of an autoregressive chain around w."""
    before = carry.get("chain", np.zeros(3))
    return {"chain": 0.5 * before + 0.5 * params["w"] + stream.normal((3,))}


def against_the_chain(params, batch, stream):
    """Rows draw w to them, the chain pushes it away: what an energy model's loss does."""
    return np.sum(np.square(batch.x - params["w"]) / 2 + 0.1 * params["w"] * batch.carry["chain"], axis=1)


W, AB = {"w": np.zeros(3)}, {"a": np.zeros(3), "b": np.ones(3), "c": np.full(2, 7.0)}
GAME = (Player(loss=saddle(1), name="low", moves=("a",), optimizer=SGD()),
        Player(loss=saddle(-1), name="high", moves=("b",), steps=2, learning_rate=0.2))
RUNS = {
    "one loss": (squares, W, {}),
    "weight decay, momentum": (squares, W, {"optimizer": SGD(0.9, decay=0.1), "weight_decay": 0.1}),
    "adamw": (squares, W, {"optimizer": "adamw"}),
    "cosine": (squares, W, {"schedule": "cosine", "warmup": 1.5}),
    "step": (squares, W, {"schedule": Step(factor=0.5, every=2)}),
    "average": (squares, W, {"average": 0.9}),
    "two players": (GAME, AB, {}),
    "two players, cosine, average": (GAME, AB, {"schedule": "cosine", "average": Average(0.5)}),
    "a chain": ((Player(loss=against_the_chain, prepare=chain_of),), W, {}),
    "a chain, average, step": ((Player(loss=against_the_chain, prepare=chain_of),), W, {"average": 0.9, "schedule": "step"}),
}
runs = pytest.mark.parametrize("name", RUNS)


def run(players, start, *, x=X, weights=None, save=None, resume=None, monitor=None, **options):
    params = Parameters({name: a.copy() for name, a in start.items()})
    options = Training(**{"learning_rate": 0.05, "max_epochs": 6, "batch_size": 10, "patience": 99} | options)
    return params, train.fit(players, params, Batch(x, weights=weights), stream=Stream(0), options=options, monitor=monitor,
                             save=save, resume=resume)


def assert_same(state, other):
    (arrays, rest), (others, other_rest) = state.save(), other.save()
    assert arrays.keys() == others.keys() and rest == other_rest
    assert all(a.tobytes() == others[name].tobytes() for name, a in arrays.items())


# ---------------------------------------------------------------- runs that go on

@runs
@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_run_goes_on_from_a_file_to_the_bits_of_one_that_never_stopped(name, k, tmp_path):
    players, start, options = RUNS[name]

    def save(state):
        if state.epoch == k:
            arrays, rest = state.save()
            checkpoint.write(tmp_path / "run", arrays, {"state": rest})

    whole, state = run(players, start, save=save, **options)
    arrays, header = checkpoint.read(tmp_path / "run")
    again, resumed = run(players, start, resume=State.restore(arrays, header["state"]), **options)
    assert again.flat.tobytes() == whole.flat.tobytes()
    assert_same(resumed, state)


@runs
def test_going_back_an_epoch_restores_all_there_is(name):
    """A NaN in the last batch of epoch 3 leaves the state as epoch 2 did, but for the stream and half the learning rates."""
    players, start, options = RUNS[name]
    steps, states = [], []

    def broken(loss):
        def as_it_was_but_once(params, batch, stream):
            if any(isinstance(a, Tensor) for a in params.values()):
                steps.append(0)
                return loss(params, batch, stream) * (math.nan if len(steps) == 3 * per_epoch else 1)
            return loss(params, batch, stream)
        return as_it_was_but_once

    players = (Player(loss=players),) if callable(players) else players
    per_epoch = 5 * sum(player.steps for player in players)
    players = [Player(**vars(player) | {"loss": broken(player.loss)}) for player in players]
    with pytest.warns(ConvergenceWarning, match="in epoch 3"):
        run(players, start, save=lambda state: states.append(state.save()), max_epochs=3, **options)
    (before, _), (after, _) = states[1:3]
    assert before.keys() == after.keys()
    clock, halved = before.pop("clock"), after.pop("clock")
    assert all(a.tobytes() == after[k].tobytes() for k, a in before.items())
    np.testing.assert_array_equal(halved, clock * [1, 0.5, 0.5, 1])


def test_a_run_whose_learning_rates_would_have_been_others_is_refused():
    def longer(max_epochs, **options):
        states = []
        run(squares, W, save=lambda s: states.append(s.save()), max_epochs=3, **options)
        return run(squares, W, resume=State.restore(*states[-1]), max_epochs=max_epochs, **options)[1]

    for options in ({"schedule": "cosine"}, {"schedule": "step"}):
        with pytest.raises(ValueError, match="the run to resume had max_epochs=3, and its learning rates went by that, but "
                                             "max_epochs is 9 now; set it back"):
            longer(9, **options)
        assert longer(3, **options).epoch == 3
    for options in ({"warmup": 2}, {"schedule": Step(every=2)}):
        assert_same(longer(6, **options), run(squares, W, max_epochs=6, **options)[1])


# ---------------------------------------------------------------- players

def test_two_players_meet_at_the_saddle():
    params, state = run(GAME, AB, max_epochs=300, batch_size=50, validation_fraction=0, restore_best=False, patience=999,
                        learning_rate=0.2, optimizer=SGD())
    np.testing.assert_allclose(params["a"], X.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(params["b"], 0, atol=1e-9)
    assert state.clock[:, 0].tolist() == [300, 600]


def test_a_player_moves_its_own_parameters_alone():
    params, _ = run(GAME, AB)
    assert (params["a"] != AB["a"]).all() and (params["b"] != AB["b"]).all() and (params["c"] == AB["c"]).all()
    for player, name in zip(GAME, "ab", strict=True):
        alone, _ = run((player,), AB, restore_best=False, weight_decay=0.1)
        assert [n for n in AB if (alone[n] != AB[n]).any()] == [name]


def test_a_players_loss_has_tensors_for_what_it_moves_alone():
    seen = set()

    def loss(params, batch, stream):
        seen.add(tuple(isinstance(params[name], Tensor) for name in "abc"))
        return saddle(1)(params, batch, stream)

    run((Player(loss=loss, moves=("b", "c")),), AB, max_epochs=1)
    assert seen == {(False, True, True), (False, False, False)}


def test_several_players_losses_are_in_history_and_the_first_decides():
    _, state = run(GAME, AB, validation_fraction=0)
    for entry in state.history:
        assert entry["losses"].keys() == {"low", "high"} and entry["train_nats"] == entry["losses"]["low"]
        assert entry["losses"]["high"] != entry["losses"]["low"]
    still = [Player(**vars(player) | {"learning_rate": 1e-300}) for player in GAME]
    losses = run(still, AB, validation_fraction=0, max_epochs=1)[1].history[0]["losses"]
    at_start = float(np.mean(saddle(1)(AB, Batch(X), None)))
    assert math.isclose(losses["low"], at_start, rel_tol=1e-12) and math.isclose(losses["high"], -at_start, rel_tol=1e-12)


def test_monitor_decides_when_to_stop_and_what_is_kept():
    def distance(params, batch, stream):
        return np.full(len(batch), np.abs(params["w"] - 0.5).max())

    params, state = run(squares, W, monitor=distance, patience=3, max_epochs=99, batch_size=50, optimizer=SGD())
    nats = [entry["valid_nats"] for entry in state.history]
    assert state.epoch == np.argmin(nats) + 4 < 99 and nats[-1] > min(nats) == np.abs(params["w"] - 0.5).max()


@pytest.mark.parametrize("players, message", [
    ((GAME[0], GAME[0]), "players must have different names, got low, low"),
    ((Player(loss=squares, moves=("a", "c")),), "a, c are no parameters that follow one another among a, b, c"),
    ((Player(loss=squares, moves=("b", "a")),), "b, a are no parameters that follow one another"),
    ((Player(loss=squares, moves=("d",)),), "d are no parameters that follow one another"),
    ((Player(loss=squares, optimizer="adagrad"),), "optimizer must be one of adam, adamw, sgd, adam0, or an object"),
])
def test_players_that_cannot_be_are_named(players, message):
    with pytest.raises(ValueError, match=message):
        run(players, AB)
    with pytest.raises(ValueError, match="Player loss: steps must be a positive integer, got 0"):
        Player(loss=squares, steps=0)


# ---------------------------------------------------------------- a step, plainly

def plain(start, rows, n_steps, rate, decay=0.0, average=None):
    """SGD on squares over all rows: (w, the average), step by step in float64."""
    w, mean = start.copy(), start.copy()
    for t in range(1, n_steps + 1):
        r = rate(t)
        w = w * (1 - r * decay)
        w = w - r * (w / (1 - r * decay) - rows.mean(axis=0))
        if average is not None:
            d = min(average, (1 + t) / (10 + t))
            mean = d * mean + (1 - d) * w
    return w, mean


whole = functools.partial(run, squares, W, batch_size=50, validation_fraction=0, optimizer=SGD(), restore_best=False)


@drawn(st.integers(1, 30), st.floats(0.0, 0.99), st.floats(0.01, 0.5))
def test_the_average_is_its_sum_and_is_what_is_validated_kept_and_restored(epochs, decay, rate):
    params, state = whole(max_epochs=epochs, learning_rate=rate, average=Average(decay))
    w, mean = plain(W["w"], X, epochs, lambda t: rate, average=decay)
    np.testing.assert_allclose(state.params, w, rtol=1e-10)
    np.testing.assert_allclose(params["w"], mean, rtol=1e-10)
    kept, state = run(squares, W, max_epochs=epochs, learning_rate=rate, average=Average(decay), batch_size=7)
    held = np.sort(Stream(0).spawn().permutation(50)[:5])
    assert math.isclose(state.best_nats, float(np.mean(squares(kept, Batch(X[held]), None))), rel_tol=1e-12)
    assert state.best.tobytes() == kept.flat.tobytes()


@drawn(st.integers(1, 20), st.sampled_from([0, 0.5, 3, 40]), st.floats(0, 0.2),
       st.sampled_from([Constant(), Cosine(), Cosine(floor=0.25), Step(), Step(factor=0.5, every=2), Step(every=1.5)]))
def test_every_step_has_the_learning_rate_of_its_schedule(epochs, warmup, decay, schedule):
    def rate(t):
        share = {Constant: lambda: 1.0, Cosine: lambda: s.floor + (1 - s.floor) * (0.5 + 0.5 * math.cos(math.pi * t / epochs)),
                 Step: lambda: s.factor**max(math.ceil(t / (s.every or epochs / 3)) - 1, 0)}
        s = schedule
        return 0.1 * share[type(s)]() * (min(t / warmup, 1) if warmup else 1)

    params, state = whole(max_epochs=epochs, learning_rate=0.1, schedule=schedule, warmup=warmup, weight_decay=decay)
    np.testing.assert_allclose([entry["learning_rate"] for entry in state.history],
                               [rate(t) for t in range(1, epochs + 1)], rtol=1e-10, atol=1e-17)
    np.testing.assert_allclose(params["w"], plain(W["w"], X, epochs, rate, decay)[0], rtol=1e-10)


@pytest.mark.parametrize("batch_size", [7, 10, 50])
def test_cosine_begins_at_1_and_ends_at_its_floor(batch_size):
    for floor in (0.0, 0.125):
        _, state = run(squares, W, schedule=Cosine(floor=floor), max_epochs=7, learning_rate=0.5, batch_size=batch_size)
        assert state.history[-1]["learning_rate"] == 0.5 * floor and state.history[0]["learning_rate"] < 0.5
    epoch = np.array([0.0, 3.5, 7, 9])
    np.testing.assert_allclose(Cosine()(epoch, 7), [1, 0.5, 0, 0], atol=1e-16)


@drawn(st.lists(st.integers(0, 4), min_size=50, max_size=50).filter(any))
def test_integer_weights_are_repeated_rows_in_the_gradient(weights):
    """A full batch's step, whose length is the gradient's; with weights (2, 1, 3) it is that of the rows repeated."""
    weights = np.array(weights, dtype=float)
    counting = weights > 0
    if counting.sum() < 2:
        return
    options = {"optimizer": SGD(), "batch_size": 999, "validation_fraction": 0, "max_epochs": 1, "learning_rate": 1.0,
               "restore_best": False}
    weighted, _ = run(squares, W, x=X[counting], weights=weights[counting], **options)
    repeated, _ = run(squares, W, x=X.repeat(weights.astype(int), axis=0), **options)
    np.testing.assert_allclose(weighted["w"], repeated["w"], rtol=1e-12)


def test_a_chain_is_moved_before_every_step_and_seen_by_the_loss():
    steps = []

    def prepare(params, carry, batch, stream):
        assert not any(isinstance(a, Tensor) for a in params.values())
        steps.append(carry["count"][0] if "count" in carry else 0)
        return {"count": np.array([steps[-1] + 1])}

    def loss(params, batch, stream):
        (seen if isinstance(params["w"], Tensor) else scored).append(int(batch.carry["count"][0]))
        return squares(params, batch, stream)

    seen, scored = [], []
    run((Player(loss=loss, prepare=prepare, steps=2),), W, max_epochs=2, batch_size=10)
    assert steps == list(range(20)) and seen == list(range(1, 21)) and scored == [10, 20]


# ---------------------------------------------------------------- models

@pytest.mark.parametrize("build", [functools.partial(VAE, n_latent=2, hidden=(8,)), functools.partial(MAF, hidden=(8,)),
                                   functools.partial(RealNVP, n_couplings=2, hidden=(8,))], ids=["vae", "maf", "realnvp"])
def test_the_networks_write_their_gradients_into_one_over_which_goes_one_launch_each(build, monkeypatch):
    launched = []

    def watch(kernel):
        def run(*args, inner=kernel.numba):
            answers = inner(*args)
            launched.append((kernel, args, answers))
            return answers
        monkeypatch.setattr(kernel, "numba", run)

    for kernel in (norm.squared, adam.step, mlp.backward, flow.backward):
        watch(kernel)
    model = build(max_epochs=2, batch_size=10, random_state=0, preprocess=None, validation_fraction=0).fit(X)
    gradients = [args[kernel is adam.step] for kernel, args, _ in launched if kernel in (norm.squared, adam.step)]
    assert [kernel for kernel, *_ in launched if kernel in (norm.squared, adam.step)] == [norm.squared, adam.step] * 10
    assert {g.size for g in gradients} == {model.params_.flat.size} and len({g.ctypes.data for g in gradients}) == 1
    made = [answers[1] for kernel, _, answers in launched if kernel in (mlp.backward, flow.backward)]
    assert len(made) >= 10 and all(np.shares_memory(dparams, gradients[0]) for dparams in made)


SETTINGS = {"schedule": Cosine(floor=0.1), "warmup": 2, "optimizer": Adam(beta1=0.8, decay=0.01), "average": Average(0.5)}


NAMES = {"schedule": "step", "optimizer": "sgd", "average": 0.9}


@pytest.mark.parametrize("settings", [SETTINGS, NAMES], ids=["objects", "names"])
def test_a_model_is_trained_saved_and_resumed_with_them(settings, tmp_path):
    def die(entry):
        if entry["epoch"] == 3:
            raise InterruptedError

    plainly = functools.partial(MADE, hidden=(8,), max_epochs=5, random_state=0, batch_size=10)
    build = functools.partial(plainly, **settings)
    model = build().fit(X)
    assert model.params_.flat.tobytes() != plainly().fit(X).params_.flat.tobytes()
    with pytest.raises(InterruptedError):
        build(callbacks=[die]).fit(X, checkpoint=tmp_path / "run")
    again = build().fit(X, checkpoint=tmp_path / "run", resume=True)
    assert again.params_.flat.tobytes() == model.params_.flat.tobytes() and again.history_ == model.history_
    with pytest.raises(ValueError, match="was written with average="):
        build(average=0).fit(X, checkpoint=tmp_path / "run", resume=True)
    model.save(tmp_path / "model")
    loaded = npgen.load(tmp_path / "model")
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert loaded.log_prob(X).tobytes() == model.log_prob(X).tobytes()


class Chained(MADE):
    """A MADE whose bias is pushed by a chain, which a second player, who moves nothing of note, does not prepare."""

    def _players(self):
        def prepare(p, carry, batch, stream):
            assert abs(batch.x.mean()) < 1  # they are standardised
            return {"chain": carry.get("chain", np.zeros(3, p["net"].dtype)) * 0.9 + stream.normal((3,), p["net"].dtype)}

        def loss(p, batch, stream):
            return self._loss(p, batch.x, stream) + 0.1 * np.sum(p["net"][:3] * batch.carry["chain"])

        return Player(loss=loss, prepare=prepare), Player(loss=loss, name="again", steps=2, optimizer="sgd")

    def _monitor(self, p, batch, stream):
        return self._loss(p, batch.x, stream) + 1000


def test_a_models_players_and_monitor_see_preprocessed_rows_and_go_on(tmp_path):
    def die(entry):
        if entry["epoch"] == 2:
            raise InterruptedError

    x = (100 + 10 * X).astype(np.float32)
    build = functools.partial(Chained, hidden=(8,), preprocess="standardize", max_epochs=4, batch_size=10, random_state=0)
    model = build().fit(x)
    with pytest.raises(InterruptedError):
        build(callbacks=[die]).fit(x, checkpoint=tmp_path / "run")
    again = build().fit(x, checkpoint=tmp_path / "run", resume=True)
    assert again.params_.flat.tobytes() == model.params_.flat.tobytes() and again.history_ == model.history_
    last = model.history_[-1]
    assert last["losses"].keys() == {"loss", "again"} and 1000 < last["valid_nats"] < 1030 > last["train_nats"] + 900


BITS = (X[:25] > 1.5).astype(float)  # with their opposites half of a column is 1: the smoothed start knows no number of rows
NORMALISED = functools.partial(MAF, norm="batch", n_layers=2)


@pytest.mark.parametrize(("x", "kind"), [(X, MADE), (np.concatenate([BITS, 1 - BITS]), MADE), (X, NORMALISED)],
                         ids=["normal", "bernoulli", "batch normalisation"])
def test_integer_weights_are_repeated_rows_in_a_models_gradient(x, kind):
    weights = np.array([2, 1, 3] * 8 + [1]).repeat(2).reshape(25, 2).T.ravel()
    build = functools.partial(kind, hidden=(8,), preprocess=None, random_state=0, max_epochs=1, batch_size=999,
                              validation_fraction=0, restore_best=False, optimizer="sgd", clip_norm=1e9)

    def moved(x, weights=None):
        start, end = (build(learning_rate=rate).fit(x, sample_weight=weights).params_.flat for rate in (1e-300, 0.1))
        return end - start

    one = moved(x, weights)
    np.testing.assert_allclose(one, moved(x.repeat(weights, axis=0)), rtol=1e-9, atol=1e-12)
    assert np.abs(one - moved(x)).max() > 1e-4


# ---------------------------------------------------------------- settings

@pytest.mark.parametrize("options, message", [
    ({"schedule": "linear"}, "schedule must be one of constant, cosine, step, or an object of npgen.optim, got 'linear'"),
    ({"schedule": 3}, "schedule must be one of"), ({"optimizer": "lion"}, "optimizer must be one of adam, adamw, sgd"),
    ({"optimizer": Average()}, "optimizer must be one of"), ({"average": 1.0}, r"Average: decay must be in \[0, 1\), got 1.0"),
    ({"average": "ema"}, "average must be 0, a decay in .0, 1. or an npgen.optim.Average, got 'ema'"),
    ({"warmup": -1}, "warmup must be 0 or a positive number, got -1")], ids=str)
def test_settings_that_cannot_be_are_refused_before_the_work(options, message):
    with pytest.raises(ValueError, match=message):
        run(lambda *_: pytest.fail("a loss was taken"), W, **options)


def test_names_are_what_they_stand_for():
    for name, value in (("adam", Adam()), ("adamw", Adam(decay=0.01)), ("sgd", SGD()), ("adam0", Adam(beta1=0.0, beta2=0.99))):
        assert run(squares, W, optimizer=name)[0].flat.tobytes() == run(squares, W, optimizer=value)[0].flat.tobytes()
    for name, value in (("constant", Constant()), ("cosine", Cosine()), ("step", Step())):
        assert run(squares, W, schedule=name)[0].flat.tobytes() == run(squares, W, schedule=value)[0].flat.tobytes()
    decayed, plain_adam = (run(squares, W, **o)[0].flat for o in ({"optimizer": "adamw"}, {"weight_decay": 0.01}))
    assert decayed.tobytes() == plain_adam.tobytes()
