"""A step recorded once and run again: the same bits as steps that are taken one by one, or no recording."""
import gc
import weakref

import numpy as np
import pytest

from npgen import IAF, MADE, MAF, NSF, VAE, Diffusion, FlowMatching, GaussianMixture, RealNVP, train
from npgen.engine import Tensor
from npgen.heads import MixtureOfNormals
from npgen.nn import Parameters
from npgen.optim import SGD, Adam, Cosine
from npgen.random import Stream
from npgen.record import Recorded, Recording, Unrecordable
from npgen.train import Batch, Player, Training

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(56, 3)) @ RNG.normal(size=(3, 3)) + 1
BITS = (REAL > 1).astype(float)
COUNTS = np.clip(np.round(2 + REAL), 0, 4)
LABELS, WEIGHTS = np.where(REAL[:, 0] > 1, "high", "low"), np.linspace(0.5, 2, 56)
SMALL = {"hidden": (6,), "max_epochs": 3, "batch_size": 12, "random_state": 0}  # batches of 12 rows, then of 2
MODELS = {  # name -> the model, its rows
    "MADE, bits": (MADE(**SMALL), BITS),
    "MADE, natural order": (MADE(order="natural", **SMALL), REAL),
    "MADE, mixture, direct": (MADE(head=MixtureOfNormals(2), direct=True, **SMALL), REAL),
    "MADE, counts": (MADE(head="poisson", **SMALL), COUNTS),
    "VAE, bits": (VAE(n_latent=2, n_importance=9, **SMALL), BITS),
    "VAE, counts": (VAE(n_latent=2, n_importance=9, preprocess="dequantize+logit", **SMALL), COUNTS),
    "VAE, variance": (VAE(n_latent=2, n_importance=9, variance="shared", **SMALL), REAL),
    "VAE, free bits": (VAE(n_latent=2, n_importance=9, free_bits=0.1, **SMALL), REAL),
    "VAE, iwae, mixture": (VAE(n_latent=2, n_importance=9, objective="iwae", k=3, prior="mixture", **SMALL), REAL),
    "VAE, flow": (VAE(n_latent=2, n_importance=9, prior="flow", **SMALL), BITS),
    "RealNVP": (RealNVP(n_couplings=2, **SMALL), REAL),
    "RealNVP, counts": (RealNVP(n_couplings=2, preprocess="dequantize+logit+standardize", **SMALL), COUNTS),
    "MAF": (MAF(n_layers=2, **SMALL), REAL),
    "MAF, base of MADE": (MAF(n_layers=2, base="made", **SMALL), REAL),
    "IAF": (IAF(n_layers=2, **SMALL), REAL),
    "NSF": (NSF(n_layers=2, **SMALL), REAL),
    "NSF, couplings": (NSF(n_layers=2, coupling=True, **SMALL), REAL),
    "FlowMatching": (FlowMatching(n_steps=3, **SMALL | {"hidden": (6, 5)}), REAL),
    "FlowMatching, a batch's targets": (FlowMatching(n_steps=3, target="batch", time_power=1.5, **SMALL | {"hidden": (6, 5)}),
                                        REAL),
    "Diffusion": (Diffusion(n_steps=3, **SMALL), REAL),
    "mixture by gradient": (GaussianMixture(2, solver="adam", max_epochs=3, batch_size=12, random_state=0), REAL[:, :2]),
    "settings": (MADE(optimizer=SGD(0.9, decay=0.1), schedule="cosine", warmup=1, average=0.9, clip_norm=0.1, **SMALL), REAL),
    "MADE, levels": (MADE(head="categorical", **SMALL), COUNTS),
}
ONE_BY_ONE = {
    "FlowMatching, optimal transport": (FlowMatching(coupling="ot", n_steps=3, **SMALL | {"hidden": (6, 5)}), REAL),  # assigns
    "MADE, orders": (MADE(order="any", **SMALL), REAL),  # draws an order
    "MADE, masks": (MADE(n_masks=3, **SMALL), BITS),
}


@pytest.fixture
def recordings(monkeypatch):
    """What became of every step that was recorded."""
    found, inner = [], train._Step._record

    def watched(self, key, state, rows):
        nats = inner(self, key, state, rows)
        found.append(self.recorded[key] is not None)
        return nats

    monkeypatch.setattr(train._Step, "_record", watched)
    return found


def fitted(model, x, one_by_one=False, **given):
    with pytest.MonkeyPatch.context() as patch:
        if one_by_one:
            patch.setattr(train._Step, "train", train._Step.take)
        return type(model)(**model.get_params()).fit(x, **given)


def assert_same(model, other):
    assert model.params_.flat.tobytes() == other.params_.flat.tobytes()
    assert model.history_ == other.history_ and model.stream_.state() == other.stream_.state()


@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["rows", "weights", "context"])
@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_fit_has_the_bits_of_one_taken_step_by_step(name, given, dtype, recordings):
    model, x = MODELS[name]
    if given == "context" and isinstance(model, GaussianMixture):
        pytest.skip("it takes no context")
    more = {"rows": {}, "weights": {"sample_weight": WEIGHTS}, "context": {"context": LABELS}}[given]
    recorded = fitted(model, x.astype(dtype), **more)
    assert recordings == [True, True]  # of 12 rows and of 2
    assert_same(recorded, fitted(model, x.astype(dtype), one_by_one=True, **more))


@pytest.mark.filterwarnings("ignore:fit")
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_step_that_goes_by_values_is_not_recorded(name, recordings):
    model, x = ONE_BY_ONE[name]
    assert_same(fitted(model, x), fitted(model, x, one_by_one=True))
    assert recordings == [False, False]


def test_a_run_that_went_back_is_recorded_anew(recordings):
    """With half the learning rate and another stream."""
    model = RealNVP(n_couplings=2, preprocess="dequantize+logit+standardize", learning_rate=1e3, **SMALL | {"max_epochs": 6})
    with pytest.warns(train.ConvergenceWarning):
        recorded = fitted(model, COUNTS)
    assert recorded.history_[-1]["rollbacks"] > 1 and len(recordings) > 3 and all(recordings)
    with pytest.warns(train.ConvergenceWarning):
        assert_same(recorded, fitted(model, COUNTS, one_by_one=True))


# ---------------------------------------------------------------- players

def squares(params, batch, stream):
    return np.sum(np.square(batch.x - params["w"]), axis=1) / 2


def run(players, start, **options):
    """The parameters, and the states after every epoch, read at the end."""
    params, states = Parameters({name: a.copy() for name, a in start.items()}), []
    options = Training(**{"learning_rate": 0.05, "max_epochs": 3, "batch_size": 10} | options)
    train.fit(players, params, Batch(REAL), stream=Stream(0), options=options, save=lambda state: states.append(state.save()))
    return params.flat.tobytes(), [({name: a.tobytes() for name, a in arrays.items()}, rest) for arrays, rest in states]


@pytest.mark.parametrize("options", [{}, {"average": 0.9}, {"schedule": Cosine(), "optimizer": Adam(decay=0.1)},
                                     {"optimizer": SGD(0.9)}], ids=["plain", "average", "schedule", "sgd"])
def test_players_who_take_turns_are_recorded(options, recordings):
    def game(repeats):
        low = Player(loss=lambda p, batch, stream: np.sum((p["a"] - batch.x) * p["b"], axis=1), name="low", moves=("a",),
                     steps=2)
        high = Player(loss=lambda p, batch, stream: np.sum(np.square(p["b"]) - (p["a"] - batch.x) * p["b"], axis=1),
                      name="high", moves=("b",), optimizer=SGD())
        return [Player(**vars(player) | {"repeats": repeats}) for player in (low, high)]

    start = {"a": np.zeros(3), "b": np.ones(3)}
    assert run(game(True), start, **options) == run(game(False), start, **options)
    assert recordings == [True] * len(recordings) and recordings


def test_players_go_back_to_where_they_were():
    def steep(params, batch, stream):
        return np.sum(np.exp(params["w"]) - batch.x * params["w"], axis=1)

    options = {"learning_rate": 3000.0, "clip_norm": 1e300, "max_epochs": 4}
    with pytest.warns(train.ConvergenceWarning):
        one_by_one = run((Player(loss=steep),), {"w": np.zeros(3)}, **options)
    with pytest.warns(train.ConvergenceWarning):
        assert run((Player(loss=steep, repeats=True),), {"w": np.zeros(3)}, **options) == one_by_one
    last = one_by_one[1][-1][1]
    assert last["rollbacks"] > 0 and last["epoch"] == 4


def test_a_loss_that_is_no_function_of_its_arguments_is_called_at_every_step():
    calls = []

    def loss(params, batch, stream):
        calls.extend([len(batch)] * isinstance(params["w"], Tensor))
        return squares(params, batch, stream)

    run((Player(loss=loss),), {"w": np.zeros(3)})
    assert calls == [10, 10, 10, 10, 10] * 3
    calls.clear()
    run((Player(loss=loss, repeats=True),), {"w": np.zeros(3)})
    assert calls == [10]


LOOKING = {
    "a branch": lambda a, batch, stream: a if a.sum() > 0 else -a,
    "float": lambda a, batch, stream: a * float(np.mean(batch.x)),
    "a mask": lambda a, batch, stream: a + np.sum(batch.x[batch.x[:, 0] > 0]),
    "asarray": lambda a, batch, stream: a + np.asarray(batch.x).sum(axis=1),
    "a function": lambda a, batch, stream: a + len(np.unique(batch.x)),
    "nonzero": lambda a, batch, stream: a + len(np.where(batch.x[:, 0] > 0)[0]),
    "numbers": lambda a, batch, stream: a + stream.permutation(len(batch)),
    "another stream": lambda a, batch, stream: a + stream.spawn().normal(len(batch)),
    "an error that is heard": lambda a, batch, stream: a + heard(batch),
    "an array of its own": lambda a, batch, stream: a + added(np.ones(len(batch)), batch.x[:, 0]),
    "an attribute": lambda a, batch, stream: a + batch.x.tobytes()[0],
}


def heard(batch):
    try:
        return float(batch.x[0, 0])
    except Exception:
        return 3.0


@pytest.mark.parametrize("name", LOOKING)
def test_a_loss_that_looks_at_values_is_taken_step_by_step(name, recordings):
    def loss(params, batch, stream):
        return LOOKING[name](squares(params, batch, stream), batch, stream)

    start = {"w": np.zeros(3)}
    assert run((Player(loss=loss, repeats=True),), start) == run((Player(loss=loss),), start)
    assert recordings == [False] * len(recordings) and recordings


def test_a_step_that_cannot_be_recorded_at_its_end_is_undone(recordings):
    class Looking(Adam):
        def update(self, flat, gradient, moments, scale, clock):
            super().update(flat, gradient, moments, scale, clock)
            float(scale[0])

    start = {"w": np.zeros(3)}
    assert run((Player(loss=squares, repeats=True, optimizer=Looking()),), start) == run((Player(loss=squares),), start)
    assert recordings == [False]


def test_an_error_in_a_step_that_is_recorded_is_an_error():
    calls = []

    def loss(params, batch, stream):
        calls.append(0)
        if len(calls) == 1:
            raise MemoryError
        return squares(params, batch, stream)

    with pytest.raises(MemoryError):
        run((Player(loss=loss, repeats=True),), {"w": np.zeros(3)})


# ---------------------------------------------------------------- recordings

X, Y = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
STEPS = {
    "operators": lambda x, y, stream: (x + 2 * y - y / 3) ** 2,
    "in place": lambda x, y, stream: added(x.copy(), y),
    "an argument in place": lambda x, y, stream: added(x, y),
    "views": lambda x, y, stream: x[1:].T[:, ::2] + y.reshape(3, 4)[:, 2:] + np.broadcast_to(x[0, 1], (3, 1)),
    "rows by number": lambda x, y, stream: x[[2, 0]] * np.take(y, np.array([1, 3]), 0) + np.take(y, np.array([-1]), axis=0),
    "values set": lambda x, y, stream: filled(np.zeros_like(x), y),
    "reductions": lambda x, y, stream: np.sum(x) + np.max(y, axis=0) + x.mean(axis=0, keepdims=True) + np.cumsum(y, axis=1),
    "where, concatenate": lambda x, y, stream: np.where(x > y, np.concatenate([x[:2], y[:2]]), np.full_like(y, 3)),
    "pieces": lambda x, y, stream: np.split(x, [1], axis=1)[1] * np.stack([y[:, 0]] * 2, axis=1),
    "a reshape that copies": lambda x, y, stream: x.T.reshape(4, 3) + np.ravel(y, order="F").reshape(4, 3),
    "draws": lambda x, y, stream: x + stream.normal((4, 3)) + stream.uniform((4, 3), like=y) + stream.normal((4, 3)),
    "numbers": lambda x, y, stream: x.astype(np.float32) + y[0, 0] * y[-1].sum(),
}


def added(a, b):
    a += b
    a *= 2
    return a


def filled(a, b):
    a[1:, 0] = b[1:, 1]
    a[0] += b[0]
    return a


@pytest.mark.parametrize("name", STEPS)
def test_a_replay_is_the_step(name):
    step, x, y, stream = STEPS[name], X.copy(), Y.copy(), Stream(5)
    recording = Recording(stream)
    with recording:
        answer = step(recording.array(x), recording.array(y), recording.stream)
    assert recording.sound and type(answer) is Recorded
    ordinary = Stream(5)
    np.testing.assert_array_equal(answer.value, step(X.copy(), Y.copy(), ordinary))
    stream.counter = ordinary.counter
    for k in range(3):
        x[...], y[...] = X * k + 1, Y - k
        wanted, changed = step(x.copy(), y, ordinary), x.copy()
        step(changed, y, Stream(0))
        recording.replay(stream)
        assert answer.value.tobytes() == wanted.tobytes() and answer.dtype == wanted.dtype
        assert x.tobytes() == changed.tobytes() and stream.counter == ordinary.counter


def test_what_a_recording_refuses_it_says():
    recording = Recording(Stream(0))
    a = recording.array(X)
    for look in (bool, float, np.asarray, lambda a: a[a > 0], np.unique, np.nonzero, lambda a: a.tolist(),
                 lambda a: recording.stream.integers(3)):
        recording.sound = True
        with pytest.raises(Unrecordable):
            look(a)
        assert not recording.sound
    with pytest.raises(Unrecordable, match="it keeps more than"):
        np.zeros_like(recording.array(np.zeros(1)), shape=(2**26,))


class Silent(MADE):
    """A model whose loss is called from Python once per size of a batch."""

    calls = 0

    def _loss(self, p, z, stream, c=None):
        type(self).calls += isinstance(p["net"], Tensor)
        return super()._loss(p, z, stream, c)


def test_a_models_steps_are_recorded_once_and_forgotten_after_the_fit(monkeypatch):
    kept, inner = [], Recording.__init__
    monkeypatch.setattr(Recording, "__init__", lambda self, stream: kept.append(weakref.ref(self)) or inner(self, stream))
    gc.collect()
    gc.disable()
    try:
        Silent(**SMALL | {"max_epochs": 9}).fit(BITS)
    finally:
        gc.enable()
    assert Silent.calls == 2 and [ref() for ref in kept] == [None, None]  # of 12 rows and of 2
