"""Captured steps: a fit on a device by graphs has the bits of one whose steps are taken one by one; a step is one launch."""
import contextlib
import inspect
import operator
import re
import warnings

import cupy_standin
import mutants
import numpy as np
import pytest

import npgen
from npgen import graph, train
from npgen.nn import Parameters
from npgen.players import Player
from npgen.random import Stream
from npgen.train import Batch, ConvergenceWarning, Training

RNG = np.random.default_rng(0)
BITS = (RNG.normal(size=(40, 5)) + RNG.normal(size=(40, 1)) > 0).astype(np.float32)
REAL = (RNG.normal(size=(40, 3)) * [1, 5, 2] + [0, 30, 1]).astype(np.float32)
MODELS = {
    "MADE": (npgen.MADE(hidden=(6,)), BITS),
    "MADE, cosine, decay, mean": (npgen.MADE(hidden=(6,), schedule="cosine", warmup=1, weight_decay=0.1, average=0.9), REAL),
    "VAE": (npgen.VAE(n_latent=2, hidden=(6,), n_importance=5), BITS),
    "RealNVP": (npgen.RealNVP(n_couplings=2, hidden=(6,)), np.round(REAL)),
    "NSF": (npgen.NSF(n_layers=2, hidden=(6,), bins=4), REAL),
    "Autoencoder": (npgen.Autoencoder(n_latent=2, hidden=(6,), noise=0.1), REAL),
    "FlowMatching": (npgen.FlowMatching(hidden=(6,), n_steps=3), REAL),
    "Diffusion": (npgen.Diffusion(hidden=(6,), n_steps=3), REAL),
    "Diffusion, a batch's targets": (npgen.Diffusion(hidden=(6,), n_steps=3, target="batch"), REAL),
    "GAN": (npgen.GAN(n_noise=2, hidden=(6,), critic_hidden=(6,), r1=0.1, r2=0.1), REAL),
    "GMMN": (npgen.GMMN(n_noise=2, hidden=(6,)), REAL),
    "GMMN, MMD": (npgen.GMMN(n_noise=2, hidden=(6,), objective="mmd"), REAL),
    "RealNVP, MMD": (npgen.RealNVP(n_couplings=2, hidden=(6,), objective="mmd"), REAL),
    "MAF": (npgen.MAF(n_layers=2, hidden=(6,), base="made", mix="random"), REAL),
    "IAF": (npgen.IAF(n_layers=2, hidden=(6,)), REAL),
    "MADE, normals": (npgen.MADE(hidden=(6,), head="mixture"), REAL),
    "VAE, flow prior, iwae": (npgen.VAE(n_latent=2, hidden=(6,), n_importance=5, prior="flow", prior_size=2, objective="iwae"),
                              BITS),
    "GAN, packs": (npgen.GAN(loss="wasserstein-gp", packing=2, n_critic=2, n_noise=2, hidden=(6,), critic_hidden=(6,)), REAL),
}
ENERGY = {"hidden": (6,), "n_steps": 2, "n_burn": 3, "n_importance": 50}
FLOW = npgen.RealNVP(n_couplings=2, hidden=(6,), max_epochs=1)
WIDE = np.column_stack([REAL, BITS, REAL, np.round(REAL)])
MODELS |= {  # of more than eight columns or players' steps, which CuPy joins in another way, and with products of its own
    "MADE, heads": (npgen.MADE(hidden=(13,), head=["normal"] * 3 + ["bernoulli", "categorical"] * 2 + ["poisson"]
                               + ["mixture"] * 6),
                    np.abs(WIDE)),
    "MAF, LU": (npgen.MAF(n_layers=2, hidden=(6,), mix="lu"), WIDE),
    "GAN, ten steps": (npgen.GAN(n_critic=10, n_noise=2, hidden=(6,), critic_hidden=(6,)), REAL),
}
MODELS |= {  # whose base is asked there
    "EnergyModel": (npgen.EnergyModel(**ENERGY), REAL),
    "EnergyModel, sixteen columns": (npgen.EnergyModel(**ENERGY), WIDE),
    "EnergyModel, diagonal base": (npgen.EnergyModel(**ENERGY, base=npgen.GaussianMixture(2, covariance_type="diag")), REAL),
    "EnergyModel, tied base": (npgen.EnergyModel(**ENERGY, base=npgen.GaussianMixture(3, covariance_type="tied")), REAL),
    "EnergyModel, scores": (npgen.EnergyModel(**ENERGY, objective="score_matching"), REAL),
    "EnergyModel, slices": (npgen.EnergyModel(**ENERGY, objective="sliced"), REAL.astype(np.float64)),
    "EnergyModel, scores of noisy rows": (npgen.EnergyModel(**ENERGY, objective="dsm"), REAL),
    "EnergyModel on a flow": (npgen.EnergyModel(**ENERGY, base=FLOW), REAL),
    "EnergyModel on a flow, scores": (npgen.EnergyModel(**ENERGY, base=FLOW, objective="dsm"), REAL),
}
CHAINS = {  # whose first step begins them
    "RBM": (npgen.RBM(n_hidden=4), BITS),
    "RBM, normal": (npgen.RBM(n_hidden=4, n_steps=2, n_chains=7), REAL.astype(np.float64)),
    "EnergyModel, its chains": (npgen.EnergyModel(hidden=(6,), objective="pcd", n_chains=9, n_steps=2, n_burn=3,
                                                  n_importance=50), REAL),
    "EnergyModel on a flow, its chains": (npgen.EnergyModel(**ENERGY, base=FLOW, objective="pcd", n_chains=9), REAL),
}
MODELS |= CHAINS
ONE_BY_ONE = {  # what is not captured, and what of it is in the way
    "EnergyModel on a Mixture": (npgen.EnergyModel(**ENERGY, base=npgen.Mixture(2)), REAL, "a draw of numbers on the host"),
    "MADE, any order": (npgen.MADE(hidden=(6,), order="any"), REAL, "a draw of Python's numbers"),
    "FlowMatching, optimal transport": (npgen.FlowMatching(hidden=(6,), n_steps=3, coupling="ot"), REAL, "data crosses .reads"),
    "GMMN, sliced": (npgen.GMMN(n_noise=2, hidden=(6,), objective="sliced_wasserstein"), REAL, "does not repeat"),
    "GaussianMixture, by gradient": (npgen.GaussianMixture(2, solver="adam"), REAL, "on the host"),
}
STEPS = {"max_epochs": 2, "batch_size": 11, "validation_fraction": 0.1, "random_state": 0}  # 3 steps of 11 rows, one of 3
FULL = 3


@contextlib.contextmanager
def unconverged():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def fitted(name, **params):
    model, x = MODELS[name]
    with unconverged():
        return type(model)(**model.get_params(deep=False) | STEPS | params).to("cuda").fit(x)


def one_by_one(monkeypatch):
    def refuse(*args):
        raise RuntimeError("no graphs")
    monkeypatch.setattr(graph, "Captured", refuse)


def bits(model):
    return model.to("cpu").params_.flat.tobytes(), model.history_


@pytest.fixture
def launches(cupy, monkeypatch):
    """What was asked for: {"graphs": launches of graphs, "others": [every other function, which CuPy itself does not tell]}."""
    seen, launch, done = {"graphs": 0, "others": []}, cupy_standin.Graph.launch, cupy_standin._done
    if cupy.__version__ != "stand-in":
        replay = graph.Captured.__call__

        def replayed(self, state):
            seen["graphs"] += 1
            return replay(self, state)

        monkeypatch.setattr(graph.Captured, "__call__", replayed)
        return seen

    def counted(self, stream=None):
        seen["graphs"] += 1
        launch(self, stream)

    def other(run, *args, **params):
        if run is not operator.getitem:
            seen["others"].append(run)
        return done(run, *args, **params)

    monkeypatch.setattr(cupy_standin.Graph, "launch", counted)
    monkeypatch.setattr(cupy_standin, "_done", other)
    return seen


@pytest.mark.long(but={"name": ["MADE", "Diffusion"]})
@pytest.mark.parametrize("name", MODELS)
def test_a_fit_by_graphs_has_the_bits_of_one_step_by_step(cupy, launches, name, monkeypatch):
    captured = bits(fitted(name))
    expected = 2 * FULL - 1 - (name in CHAINS)  # the first is taken, and captured
    assert launches["graphs"] == expected
    one_by_one(monkeypatch)
    assert bits(fitted(name)) == captured and launches["graphs"] == expected


def test_every_choice_of_the_host_has_a_graph_of_its_own(cupy, launches, monkeypatch):
    """Which of its orders a MADE takes: a step is by a graph but for the first of each, and of those that are too many."""
    def fitted(**more):
        before = launches["graphs"]
        with unconverged():
            model = npgen.MADE(hidden=(6,), n_masks=3, **STEPS | {"max_epochs": 6}).to("cuda").fit(BITS)
        return bits(model), launches["graphs"] - before

    captured, by_graphs = fitted()
    assert by_graphs == 6 * FULL - 3
    with monkeypatch.context() as patch:
        patch.setattr(graph, "MOST", 2)
        some, fewer = fitted()
    with mutants.Mutant("another order", "", "graph:chosen", ".choose(n)", ".choose(n) * 0").made():
        assert fitted()[0] != captured
    one_by_one(monkeypatch)
    assert fitted() == (captured, 0) and some == captured and 0 < fewer < by_graphs


@pytest.mark.parametrize("objective", ["nce", "sliced", "pcd"])
def test_an_energy_given_a_context_is_captured_but_for_its_chains(cupy, launches, monkeypatch, objective):
    model, labels, answers = npgen.EnergyModel(**ENERGY, objective=objective, **STEPS), np.arange(len(REAL)) % 3, []
    for each in range(2):
        if each:
            one_by_one(monkeypatch)
        with unconverged(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fit: no step was captured")
            answers.append(bits(type(model)(**model.get_params(deep=False)).to("cuda").fit(REAL, context=labels)))
    assert answers[0] == answers[1] and launches["graphs"] == (0 if objective == "pcd" else 2 * FULL - 1)


@pytest.mark.long(but={"name": ["EnergyModel on a Mixture", "MADE, any order"]})
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_why_a_model_is_taken_step_by_step(standin, launches, monkeypatch, name):
    """graph.py says so; the day that one of them is captured, it belongs to MODELS."""
    model, x, expected = ONE_BY_ONE[name]
    take, why = train._Step.train, set()

    def taken(self, state, rows):
        nats = take(self, state, rows)
        why.add(self.places.why if self.places else "on the host" if not self.on_device else
                "does not repeat")
        return nats

    monkeypatch.setattr(train._Step, "train", taken)
    known = model.get_params(deep=False)
    with unconverged(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        type(model)(**known | {k: v for k, v in STEPS.items() if k in known}).to("cuda").fit(x)
    if expected != "on the host":
        because = "since the host has a part" if expected == "does not repeat" else f"because of .*{expected}"
        assert sum(bool(re.match(f"fit: no step was captured as a CUDA graph, {because}", str(w.message))) for w in said) == 1
    assert launches["graphs"] == 0 and why and all(re.search(expected, words) for words in why)


def loss(params, batch, stream):
    noise = stream.normal(batch.x.shape, batch.x.dtype, like=batch.x)
    return np.sum(np.square(batch.x + 0.1 * noise - params["w"]), axis=1) / 2


def descend(x, *players, weights=None, **options):
    params = Parameters({"w": np.zeros_like(x, shape=(3,))})
    players = players or (Player(loss=loss, repeats=True),)
    with unconverged():
        state = train.fit(players, params, Batch(x, weights=weights), stream=Stream(0),
                          options=Training(**{"max_epochs": 3, "batch_size": 8, "validation_fraction": 0.0} | options))
    return params, state


def test_a_step_is_one_launch(standin, launches, monkeypatch):
    """Nothing else is asked of the device between the launches of an epoch."""
    x, per_step = standin.asarray(REAL), []
    replay = graph.Captured.__call__

    def watched(self, state):
        before = launches["graphs"], len(launches["others"])
        nats = replay(self, state)
        per_step.append((launches["graphs"] - before[0], len(launches["others"]) - before[1]))
        return nats

    monkeypatch.setattr(graph.Captured, "__call__", watched)
    descend(x)
    assert per_step == [(1, 0)] * (3 * 5 - 1)


@pytest.mark.parametrize("options", [{"average": 0.9}, {"schedule": "cosine", "warmup": 1.0}, {"optimizer": "sgd"},
                                     {"weight_decay": 0.1, "clip_norm": 0.01}, {"batch_size": 100}, {"batch_size": 7}], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loop_by_graphs_is_that_step_by_step(cupy, monkeypatch, options, weighted):
    x, answers = cupy.asarray(REAL), []
    weights = cupy.asarray(np.linspace(0.5, 1.5, len(REAL))) if weighted else None
    for each in range(2):
        if each:
            one_by_one(monkeypatch)
        params, state = descend(x, weights=weights, **options)
        answers.append((cupy.asnumpy(params.flat).tobytes(), state.history, state.stream.state(), state.step,
                        cupy.asnumpy(state.clock).tobytes()))
    assert answers[0] == answers[1]


def test_two_players_by_one_graph(cupy, launches, monkeypatch):
    def players():
        return (Player(loss=lambda p, b, s: np.square(b.x[:, 0] - p["u"][0] * p["w"][0]), name="u", moves=("u",), repeats=True),
                Player(loss=lambda p, b, s: -np.square(b.x[:, 1] - p["w"][0]) / 100, name="w", moves=("w",), steps=2,
                       repeats=True))

    x, answers = cupy.asarray(REAL), []
    for each in range(2):
        if each:
            one_by_one(monkeypatch)
        params = Parameters({"u": np.zeros_like(x, shape=(2,)), "w": np.ones_like(x, shape=(3,))})
        with unconverged():
            state = train.fit(players(), params, Batch(x), stream=Stream(0),
                              options=Training(max_epochs=3, batch_size=10, validation_fraction=0.0))
        answers.append((cupy.asnumpy(params.flat).tobytes(), state.history))
    assert answers[0] == answers[1] and launches["graphs"] == 3 * 4 - 1


def test_after_a_loss_that_is_not_finite_the_epoch_is_captured_anew(cupy, launches, monkeypatch):
    """The learning rate, on the device, is halved; the stream is another, and so is its graph."""
    def diverging(params, batch, stream):
        return loss(params, batch, stream) * np.exp(np.square(params["w"][0]) * 1e3)

    x, answers = cupy.asarray(REAL), []
    for each in range(2):
        if each:
            one_by_one(monkeypatch)
        params, state = descend(x, Player(loss=diverging, repeats=True), learning_rate=0.4)
        answers.append((cupy.asnumpy(params.flat).tobytes(), state.history, state.rollbacks, state.stream.state()))
    assert answers[0] == answers[1] and state.rollbacks > 0 and launches["graphs"] > 5


@pytest.mark.long(but={"name": ["MADE"]})
@pytest.mark.parametrize("name", ["MADE", "MADE, cosine, decay, mean", "GAN", "RBM"])
def test_a_run_goes_on_by_graphs_or_step_by_step(cupy, tmp_path, monkeypatch, name):
    def stop(row):
        if row["epoch"] == 2:
            raise RuntimeError("stop")

    (model, x), whole, file = MODELS[name], bits(fitted(name, max_epochs=4)), tmp_path / "run"
    for ways in ("graphs", "graphs"), ("graphs", "steps"), ("steps", "graphs"):
        for way, more in zip(ways, ({"callbacks": [stop]}, {}), strict=True):
            again = type(model)(**model.get_params(deep=False) | STEPS | {"max_epochs": 4} | more).to("cuda")
            with monkeypatch.context() as patch, unconverged():
                if way == "steps":
                    one_by_one(patch)
                with pytest.raises(RuntimeError, match="stop") if more else contextlib.nullcontext():
                    again.fit(x, checkpoint=file, resume=not more)
        assert bits(again) == whole
        file.unlink()


def test_it_stops_early_in_the_same_epoch(cupy, launches, monkeypatch):
    x, answers = cupy.asarray(REAL), []
    for each in range(2):
        if each:
            one_by_one(monkeypatch)
        params, state = descend(x, learning_rate=0.5, validation_fraction=0.3, patience=2, max_epochs=40)
        assert state.since_best == 2 and 3 <= state.epoch < 40
        answers.append((cupy.asnumpy(params.flat).tobytes(), cupy.asnumpy(state.best).tobytes(), state.history, state.epoch))
    assert answers[0] == answers[1] and launches["graphs"] == 3 * answers[0][-1] - 1  # of 28 rows, and a short batch of 4


@pytest.mark.parametrize("spoil", [
    lambda p, b, s: loss(p, b, s) * (2.0 if float(b.x[0, 0]) > 1e9 else 1.0),  # reads a value
    lambda p, b, s: loss(p, b, s) + np.asarray(np.zeros(len(b.x), np.float32), like=b.x),  # sends one
    lambda p, b, s: loss(p, b, s) * float(s.integers(2, 4)[0])], ids=["reads", "sends", "draws on the host"])
def test_what_cannot_be_captured_is_taken_step_by_step(cupy, launches, monkeypatch, spoil):
    x = cupy.asarray(REAL)
    params, state = descend(x, Player(loss=spoil, repeats=True))
    assert launches["graphs"] == 0
    one_by_one(monkeypatch)
    other, state_other = descend(x, Player(loss=spoil, repeats=True))
    assert cupy.asnumpy(params.flat).tobytes() == cupy.asnumpy(other.flat).tobytes()
    assert state.history == state_other.history and state.stream.state() == state_other.stream.state()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stream_whose_key_lies_on_the_device_draws_what_the_host_does(cupy, dtype):
    """What a step draws, of what its stream has spawned and of what that has; a kernel that knows no grandchildren refuses."""
    host, there = Stream(4), graph._Stream(Stream(4), cupy.asarray(np.array([7])))
    host.counter, like = 7, cupy.asarray(np.zeros(1))
    for _ in range(2):
        one, its = host.spawn(), there.spawn()
        for stream, other in ((one.spawn(), its.spawn()), (one, its)):
            for draw in ("normal", "uniform"):
                got = cupy.asnumpy(getattr(other, draw)((3, 200), dtype, like=like))
                assert got.tobytes() == getattr(stream, draw)((3, 200), dtype).tobytes()
    assert host.counter == there.counter + 7
    grandchild = there.spawn().spawn()
    for ask in (grandchild.spawn, lambda: there.spawn().uniform(3), lambda: there.spawn().integers(3)):
        with pytest.raises(npgen.record.Unrecordable):
            ask()
    with pytest.raises(npgen.kernels.KernelError, match="only random's can"):
        npgen.kernels.random.spawned(grandchild.key[0])


def test_a_place_that_a_kernel_does_not_know_is_refused(cupy):
    out = cupy.asarray(np.zeros(3))
    place = npgen.kernels.random.Place(128, cupy.asarray(np.array([2])))
    one, other = (npgen.kernels.random.normal(out.copy(), 1, 2, start) for start in (place, 128 * 3))
    assert cupy.asnumpy(one).tobytes() == cupy.asnumpy(other).tobytes()
    with pytest.raises(npgen.kernels.KernelError, match="n counts from a block that lies on the device"):
        npgen.kernels._cuda.launch("random", "normal", 1, 256, out, place, 1, 2, -1, -1, place.since, 0, place.since)


# ---------------------------------------------------------------- that these tests can fail

def test_a_number_of_the_host_that_changes_is_seen(cupy, monkeypatch):
    """A graph has the numbers of its capture: a loss that is no function of its arguments has other bits by graphs."""
    def counting():
        calls = []

        def of(params, batch, stream):
            calls.append(1)
            return loss(params, batch, stream) * len(calls)
        return Player(loss=of, repeats=True)

    x = cupy.asarray(REAL)
    captured, _ = descend(x, counting())
    one_by_one(monkeypatch)
    assert cupy.asnumpy(captured.flat).tobytes() != cupy.asnumpy(descend(x, counting())[0].flat).tobytes()


MISTAKES = {
    "the stream stands still": ("where += ", "where[:1] += "),
    "the rows stay the same": ("np.array([len(self.steps), stream.counter, 1])", "np.array([0, stream.counter, 1])"),
    "every step's nats in one place": ("stream.counter, 1])", "stream.counter, 0])"),
    "the host's stream is behind": ("state.stream.counter += self.blocks", "state.stream.counter += 0"),
    "the memory of others": ("cupy.cuda.using_allocator(self.pool.malloc), stream", "stream"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(standin, launches, monkeypatch, name):
    source, (right, wrong) = inspect.getsource(graph), MISTAKES[name]
    assert source.count(right) == 1
    mistaken = type(graph)("npgen.graph")
    mistaken.__package__ = "npgen"
    exec(compile(source.replace(right, wrong), "graph.py", "exec"), vars(mistaken))
    x = standin.asarray(REAL)
    params, state = descend(x)
    monkeypatch.setattr(train, "Places", mistaken.Places)
    before = launches["graphs"]
    try:
        other, state_other = descend(x)
    except Exception:
        return
    assert launches["graphs"] == before or params.flat.get().tobytes() != other.flat.get().tobytes() \
        or state.history != state_other.history or state.stream.state() != state_other.stream.state()


OF_RUNS = {
    "draws of graphs are forgotten where a run goes on": ("graph:Captured._moved", "+= self.blocks", "+= 0"),
    "the first nats of an epoch for all": ("graph:Captured.nats", "self.places.turn - 1", "0"),
}


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_mistake_in_a_run_is_found(standin, launches, tmp_path, monkeypatch, name):
    with mutants.Mutant(name, "", *OF_RUNS[name]).made(), pytest.raises(AssertionError):
        if "nats" in name:
            test_it_stops_early_in_the_same_epoch(standin, launches, monkeypatch)
        else:
            test_a_run_goes_on_by_graphs_or_step_by_step(standin, tmp_path, monkeypatch, "GAN")


OF_CHAINS = {  # where a step has to go on from the one before
    "a chain moves by the noise of the step that was captured": ("graph:_Stream.spawn", "child, self._since",
                                                                  "child, 0 * self._since"),
    "the step that begins a chain is not counted": ("graph:Places.passing", "self.where + ", "self.where + 0 * "),
    "a chain is kept where the next step does not look": ("players:Move.__call__", "state.carry[name][...] = a",
                                                          "state.carry[name] = a"),
}


@pytest.mark.parametrize("name", OF_CHAINS)
def test_a_mistake_in_a_chain_is_found(standin, launches, monkeypatch, name):
    with mutants.Mutant(name, "", *OF_CHAINS[name]).made():
        captured = bits(fitted("RBM"))
    assert launches["graphs"]
    one_by_one(monkeypatch)
    assert bits(fitted("RBM")) != captured


# ---------------------------------------------------------------- the stand-in's streams

@pytest.fixture
def capturing(standin):
    cupy, pool, stream = standin, standin.cuda.MemoryPool(), standin.cuda.Stream(non_blocking=True)

    @contextlib.contextmanager
    def block(warm=lambda: None):
        with cupy.cuda.using_allocator(pool.malloc), stream:
            warm()
            stream.begin_capture()
            graphs = []
            try:
                yield graphs
            finally:
                graphs.append(stream.end_capture())
    return block


def test_the_stand_in_does_what_was_captured_when_it_is_launched(cupy, capturing):
    x, y = cupy.asarray(np.arange(3.0)), cupy.asarray(np.zeros(3))

    def step():
        y[...] = np.exp(x) + y
        x[:1] += 1

    with capturing(step) as graphs:
        step()
    np.testing.assert_array_equal(cupy.asnumpy(x), [1, 1, 2])  # of the first, which was no capture
    for _ in range(2):
        graphs[0].launch()
    np.testing.assert_allclose(cupy.asnumpy(x), [3, 1, 2])
    np.testing.assert_allclose(cupy.asnumpy(y), [1 + np.e + np.e**2, 3 * np.e, 3 * np.e**2])


LIBRARIES = {
    "a product": lambda x: x @ x, "dot": lambda x: np.dot(x, x), "a method's": lambda x: x.dot(x),
    "tensordot": lambda x: np.tensordot(x, x, 1), "einsum": lambda x: np.einsum("ij,kj->ik", x, x),
    "cholesky": np.linalg.cholesky, "inv": np.linalg.inv, "solve": lambda x: np.linalg.solve(x, x),
    "slogdet": np.linalg.slogdet, "sort": np.sort, "argsort": np.argsort,
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_stand_in_calls_no_library_in_a_capture(cupy, capturing, name):
    x = cupy.asarray(np.diag([1.0, 2, 3]))
    with pytest.raises(NotImplementedError, match="during stream capture is currently unsupported"), \
            capturing(lambda: LIBRARIES[name](x)):
        LIBRARIES[name](x)


def test_the_stand_in_captures_products_that_no_library_makes(cupy, capturing):
    x, n = cupy.asarray(np.diag([1.0, 2, 3])), cupy.asarray(np.arange(3))

    def step():
        return np.einsum("ij->j", x), np.einsum("ij,kl->ijkl", x, x), np.outer(x, x), np.dot(n, n)

    with capturing(step) as graphs:
        step()
    assert graphs


@pytest.mark.parametrize("step", [lambda cupy, x: float(x[0]), lambda cupy, x: cupy.asarray(np.ones(2)), lambda cupy, x: x + 1,
                                  lambda cupy, x: x[x > 0], lambda cupy, x: cupy.cuda.get_current_stream().synchronize()],
                         ids=["reads", "sends", "asks for memory", "counts", "waits"])
def test_the_stand_in_refuses_in_a_capture(cupy, capturing, step):
    x = cupy.asarray(np.arange(3.0))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCapture"), capturing():
        step(cupy, x)
    assert cupy.asnumpy(x).tolist() == [0, 1, 2]  # and goes on
