"""The training loop: early stop, best parameters, rollback, clipping, interruption, and runs that go on to the same bits."""
import copy
import itertools
import math
import re
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from queries import by_rows

import npgen
from npgen import checkpoint, data, train
from npgen.engine import Tensor
from npgen.kernels import _blas
from npgen.models import (
    GAN,
    GMMN,
    MADE,
    RBM,
    VAE,
    Autoencoder,
    Diffusion,
    EnergyModel,
    FlowMatching,
    GaussianMixture,
    Mixture,
    RealNVP,
    base,
)
from npgen.nn import Parameters
from npgen.optim import SGD
from npgen.random import Stream
from npgen.train import Batch, ConvergenceWarning, State, Training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)) + [1, 2, 3]
BITS = (RNG.normal(size=(60, 4)) + RNG.normal(size=(60, 1)) > 0).astype(np.float32)
REAL = RNG.normal(size=(60, 2)) * [1, 5] + [0, 30]


def squares(params, batch, stream):
    return np.sum(np.square(batch.x - params["w"]), axis=1) / 2


def run(loss=squares, x=X, *, start=0.0, context=None, weights=None, validation=None, monitor=None, resume=None, save=None,
        **options):
    params = Parameters({"w": np.full(x.shape[1], start)})
    state = train.fit(loss, params, Batch(x, context, weights), validation=validation, stream=Stream(0), monitor=monitor,
                      resume=resume, save=save, options=Training(**options))
    return params["w"], state


class Scripted:
    """squares for a step, and for each look at the validation rows the next of the given nats."""

    def __init__(self, nats, broken_steps=()):
        self.nats, self.broken, self.steps = itertools.chain(nats, itertools.repeat(99.0)), set(broken_steps), 0

    def __call__(self, params, batch, stream):
        if not isinstance(params["w"], Tensor):
            return np.full(len(batch), next(self.nats))
        self.steps += 1
        return squares(params, batch, stream) * (math.nan if self.steps in self.broken else 1)


class Recorder:
    """A callback that keeps the parameters after every epoch: it sees them through the State that save() is given."""

    def __init__(self):
        self.params, self.states = [], []

    def save(self, state):
        self.params.append(state.params.copy())
        self.states.append(copy.deepcopy(state.save()))


# ---------------------------------------------------------------- what is minimised

def test_the_mean_loss_is_minimised_weighted_or_not():
    w, _ = run(max_epochs=300, learning_rate=0.05, validation_fraction=0, patience=300, batch_size=50)
    np.testing.assert_allclose(w, X.mean(axis=0), atol=1e-3)
    weights = RNG.uniform(0, 3, 50)
    w, _ = run(weights=weights / weights.mean(), max_epochs=300, learning_rate=0.05, validation_fraction=0, patience=300,
               batch_size=50)
    np.testing.assert_allclose(w, weights @ X / weights.sum(), atol=1e-3)


@pytest.mark.parametrize("fraction, n_valid", [(0, 0), (0.1, 5), (0.5, 25), (0.999, 49)])
def test_every_row_is_trained_on_once_an_epoch_or_validated(fraction, n_valid):
    trained, validated = [], []

    def loss(params, batch, stream):
        (trained if isinstance(params["w"], Tensor) else validated).append(batch.x[:, 0].copy())
        return squares(params, batch, stream)

    run(loss, max_epochs=2, validation_fraction=fraction, batch_size=7)
    batches = len(trained) // 2
    first, second = (np.concatenate(trained[i:i + batches]) for i in (0, batches))
    assert [len(b) for b in trained[:batches]] == [7] * ((50 - n_valid) // 7) + [(50 - n_valid) % 7] * ((50 - n_valid) % 7 > 0)
    seen = np.concatenate([first, *validated[:1]])
    np.testing.assert_array_equal(np.sort(seen), np.sort(X[:, 0]))
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    assert n_valid == 49 or not np.array_equal(first, second)
    assert len(validated) == (2 if n_valid else 0) and all(np.array_equal(v, validated[0]) for v in validated)
    assert not n_valid or not np.array_equal(np.sort(validated[0]), np.sort(X[:n_valid, 0]))  # not simply the first rows


@pytest.mark.parametrize("validation", [None, Batch(X[:9], X[:9, :1] + 7)], ids=["a share held out", "rows given"])
def test_context_stays_beside_its_row_in_steps_and_in_validation(validation):
    def loss(params, batch, stream):
        seen.append((type(params["w"]), len(batch)))
        np.testing.assert_array_equal(batch.context, batch.x[:, :1] + 7)
        return squares(params, batch, stream)

    seen = []
    run(loss, context=X[:, :1] + 7, validation=validation, max_epochs=2, batch_size=7, validation_fraction=0.2)
    assert {kind for kind, _ in seen} == {Tensor, np.ndarray}


def test_a_batch_takes_rows_and_moves_with_all_that_it_has():
    one = X[:, :1].copy()
    for batch in (Batch(X), Batch(X, one), Batch(X, weights=X[:, 0]), Batch(X, one, X[:, 0])):
        assert len(batch) == 50
        for part, rows in ((batch.take(np.array([3, 1])), [3, 1]), (batch.to(lambda a: a[::-1]), slice(None, None, -1))):
            for name in ("x", "context", "weights"):
                a, b = getattr(batch, name), getattr(part, name)
                assert (a is None and b is None) or np.array_equal(b, a[rows])


def nats_without_a_step(x, weights, fraction=0.0):
    """history_[0] of an epoch that moves nothing, which its steps and the look at the validation rows have both made."""
    return run(x=x, weights=weights, max_epochs=1, learning_rate=1e-300, validation_fraction=fraction,
               batch_size=7)[1].history[0]


@drawn(st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.7]))
def test_nats_are_weighted_means_whatever_rows_are_held_out(seed, fraction):
    rng = np.random.default_rng(seed)
    weights, losses = rng.uniform(0, 1, 50)**9, np.sum(X**2, axis=1) / 2  # so uneven that the held-out rows' mean is far from 1
    entry = nats_without_a_step(X, weights / weights.mean(), fraction)
    held = Stream(0).spawn().permutation(50)[:round(50 * fraction)]  # as fit draws them
    trained = np.setdiff1d(np.arange(50), held)
    assert math.isclose(entry["train_nats"], np.average(losses[trained], weights=weights[trained]), rel_tol=1e-10)
    assert fraction == 0 or math.isclose(entry["valid_nats"], np.average(losses[held], weights=weights[held]), rel_tol=1e-10)


def test_integer_weights_are_repeated_rows_in_the_nats():
    weights = RNG.integers(0, 4, 50)
    repeated = X.repeat(weights, axis=0)
    counting = weights > 0
    weighted, plain = nats_without_a_step(X[counting], weights[counting].astype(float)), nats_without_a_step(repeated, None)
    assert math.isclose(weighted["train_nats"], plain["train_nats"], rel_tol=1e-10)
    held = Batch(X[counting], weights=weights[counting].astype(float)), Batch(repeated)
    one, other = (run(max_epochs=1, validation=rows)[1].history[0]["valid_nats"] for rows in held)
    assert math.isclose(one, other, rel_tol=1e-12)


def test_a_step_follows_the_weighted_mean_of_the_rows_trained_on():
    """A step by all rows goes to the minimum, their weighted mean, however heavy those held out are."""
    weights = RNG.uniform(0, 1, 50)**9
    w, _ = run(weights=weights / weights.mean(), optimizer=SGD(), learning_rate=1.0, batch_size=50, max_epochs=1,
               validation_fraction=0.5)
    trained = np.sort(Stream(0).spawn().permutation(50)[25:])
    np.testing.assert_allclose(w, np.average(X[trained], axis=0, weights=weights[trained]), rtol=1e-10)


def test_history_has_a_row_per_epoch():
    w, state = run(max_epochs=4, validation_fraction=0.2, learning_rate=0.01)
    assert [h["epoch"] for h in state.history] == [1, 2, 3, 4] and state.epoch == 4
    for h in state.history:
        assert h.keys() == {"epoch", "train_nats", "valid_nats", "learning_rate", "rollbacks"}
        assert h["learning_rate"] == 0.01 and h["rollbacks"] == 0
    assert state.best_nats == min(h["valid_nats"] for h in state.history)
    _, state = run(max_epochs=2, validation_fraction=0)
    assert all(h["valid_nats"] is None for h in state.history)
    one = run(max_epochs=1, validation_fraction=0, learning_rate=1e-12)[1].history[0]["train_nats"]
    assert math.isclose(one, np.mean(np.sum(X**2, axis=1) / 2), rel_tol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_few_rows_and_large_batches(n):
    w, state = run(x=X[:n], max_epochs=3, batch_size=1000, validation_fraction=0.4)
    assert np.isfinite(w).all() and state.step == 3


# ---------------------------------------------------------------- early stop

def test_early_stop_restores_the_best_epoch():
    for restore_best, epoch in ((True, 3), (False, 6)):
        recorder, nats = Recorder(), Scripted([5, 4, 3, 4, 3, 3, 1])
        w, state = run(nats, save=recorder.save, patience=3, max_epochs=50, restore_best=restore_best)
        assert state.epoch == 6 and state.best_nats == 3  # epoch 3 was the best; a tie is no progress
        np.testing.assert_array_equal(w, recorder.params[epoch - 1])


def test_progress_renews_the_patience():
    _, state = run(Scripted([5, 6, 4, 5, 3, 9, 9]), patience=2, max_epochs=50)
    assert state.epoch == 7


def test_without_validation_rows_the_training_nats_decide():
    _, state = run(validation_fraction=0, optimizer=SGD(), learning_rate=1.0, batch_size=50, patience=4, max_epochs=99)
    assert state.epoch < 99  # one step reaches the minimum, and after that the nats stay


# ---------------------------------------------------------------- divergence

@pytest.mark.parametrize("nats, broken", [([5, 4, 3], (2 * 5 + 3,)), ([5, 4, math.nan, 3], ()), ([5, 4, math.inf, 3], ())],
                         ids=["a NaN loss", "NaN validation nats", "infinite validation nats"])
def test_a_loss_that_is_not_finite_goes_back_an_epoch_with_half_the_rate(nats, broken):
    recorder, seen = Recorder(), []
    with pytest.warns(ConvergenceWarning, match="in epoch 3; went back to the last good parameters with learning_rate=0.005"):
        w, state = run(Scripted(nats, broken), save=recorder.save, callbacks=[seen.append], max_epochs=3, batch_size=10,
                       learning_rate=0.01)
    np.testing.assert_array_equal(recorder.params[2], recorder.params[1])
    assert state.rollbacks == 1 and state.learning_rate == 0.005 and state.step == 15
    told = [(h["epoch"], h["learning_rate"], h["rollbacks"]) for h in state.history]
    assert told == [(1, 0.01, 0), (2, 0.01, 0), (3, 0.005, 1)]
    assert seen == state.history  # a callback is called once per epoch
    (before, _), (after, _) = recorder.states[1:3]
    before["clock"] = before["clock"] * [1, 0.5, 0.5, 1]
    assert all(np.array_equal(before[k], after[k]) for k in before)  # the moments too


def test_an_infinite_gradient_goes_back_too():
    def loss(params, batch, stream):
        return np.sum(np.sqrt(params["w"] * (1.0 if not isinstance(params["w"], Tensor) else 0.0)) + 0 * batch.x, axis=1)

    with pytest.warns(ConvergenceWarning):
        w, state = run(loss, max_epochs=3)
    assert state.rollbacks == 10 and (w == 0).all()


@pytest.mark.parametrize("n", [2, 5])
def test_several_rollbacks_are_warned_of_once(n):
    with pytest.warns(ConvergenceWarning) as caught:
        _, state = run(Scripted([5, *[math.inf, 4] * n]), max_epochs=n + 1, learning_rate=1.0)
    assert state.epoch == n + 1 and state.rollbacks == n
    assert [str(w.message) for w in caught] == [f"fit: the loss became inf in epoch 2, the first of {n} times; went back to "
                                                f"the last good parameters with learning_rate={2.0**-n:g}"]


def test_ten_rollbacks_end_the_run_with_the_best():
    recorder = Recorder()
    with pytest.warns(ConvergenceWarning) as caught:
        w, state = run(Scripted([5, 4], range(11, 10**6)), save=recorder.save, max_epochs=99, batch_size=10, learning_rate=1.0)
    assert [str(w.message) for w in caught] == [
        "fit: the loss became nan in epoch 3, the first of 10 times; went back to the last good parameters and stopped after "
        "10 such attempts: look at the data's scale"]
    assert state.rollbacks == 10 and state.learning_rate == 2.0**-10 and state.epoch == len(state.history) == 2
    np.testing.assert_array_equal(w, recorder.params[1])


@pytest.mark.parametrize("build", [lambda **k: MADE(hidden=(8,), **k), lambda **k: RealNVP(n_couplings=2, hidden=(4,), **k),
                                   lambda **k: VAE(n_latent=2, hidden=(4,), **k)], ids=["MADE", "RealNVP", "VAE"])
def test_a_model_that_diverges_warns_and_stays_finite(build):
    with pytest.warns(ConvergenceWarning):  # and no RuntimeWarning: those are errors here
        model = build(learning_rate=1e30, max_epochs=12, random_state=0).fit(REAL.astype(np.float32))
    assert all(np.isfinite(a).all() for a in model.params_.values())
    assert not model.history_ or model.history_[-1]["rollbacks"] > 0


def test_gradients_are_clipped_by_their_norm():
    for limit, length in ((0.5, 0.5), (100.0, np.linalg.norm(X.mean(axis=0)))):
        w, _ = run(optimizer=SGD(), learning_rate=1.0, clip_norm=limit, max_epochs=1, batch_size=50, validation_fraction=0)
        assert math.isclose(np.linalg.norm(w), length, rel_tol=1e-12)
        np.testing.assert_allclose(w / length, X.mean(axis=0) / np.linalg.norm(X.mean(axis=0)), rtol=1e-12)


def test_weight_decay_shrinks_every_parameter_whatever_the_gradient():
    params = Parameters({"weight": np.full((3, 2), 2.0), "bias": np.full(2, 2.0)})
    options = Training(weight_decay=0.5, learning_rate=0.1, max_epochs=3, batch_size=10, restore_best=False)
    state = train.fit(lambda p, batch, stream: np.sum(batch.x @ p["weight"] * 0 + p["bias"] * 0, axis=1), params, Batch(X),
                      stream=Stream(0), options=options)
    np.testing.assert_allclose(params.flat, 2 * 0.95**state.step, rtol=1e-12)


@pytest.mark.parametrize("wrong, error, message", [
    ({"max_epochs": 0}, ValueError, "max_epochs must be a positive integer, got 0"),
    ({"batch_size": 2.5}, ValueError, "batch_size must be a positive integer, got 2.5"),
    ({"learning_rate": math.nan}, ValueError, "learning_rate must be a positive number, got nan"),
    ({"clip_norm": 0}, ValueError, "clip_norm must be a positive number, got 0"),
    ({"callbacks": [3]}, TypeError, r"callbacks must be a list of functions, got \[3\]")], ids=str)
def test_options_are_kept_as_they_come_and_refused_by_fit(wrong, error, message):
    options, calls = Training(**wrong), []
    with pytest.raises(error, match=message):
        train.fit(lambda *_: calls.append(0), Parameters({"w": np.zeros(3)}), Batch(X), stream=Stream(0), options=options)
    assert not calls


# ---------------------------------------------------------------- interruption

def at_epoch(k, error):
    def callback(row):
        if row["epoch"] == k:
            raise error
    return callback


def test_ctrl_c_keeps_the_best_so_far():
    recorder = Recorder()
    with pytest.warns(ConvergenceWarning, match="fit: interrupted in epoch 5; the best parameters so far are kept"):
        w, state = run(Scripted([5, 3, 4, 4]), save=recorder.save, callbacks=[at_epoch(4, KeyboardInterrupt)], max_epochs=99)
    assert state.epoch == 4
    np.testing.assert_array_equal(w, recorder.params[1])


def test_ctrl_c_in_the_middle_of_an_epoch_forgets_its_steps():
    def loss(params, batch, stream):
        if isinstance(params["w"], Tensor) and next(steps) == 13:
            raise KeyboardInterrupt
        return squares(params, batch, stream)

    for restore_best in (True, False):
        steps, recorder = itertools.count(1), Recorder()
        with pytest.warns(ConvergenceWarning, match="epoch 3"):
            w, _ = run(loss, save=recorder.save, max_epochs=99, batch_size=10, restore_best=restore_best)
        np.testing.assert_array_equal(w, recorder.params[1])


def test_ctrl_c_leaves_a_fitted_model():
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model = MADE(hidden=(8,), random_state=0, callbacks=[at_epoch(2, KeyboardInterrupt)]).fit(BITS)
    same = MADE(hidden=(8,), random_state=0, max_epochs=2).fit(BITS)
    assert model.n_epochs_ == 2 and model.history_ == same.history_
    assert model.log_prob(BITS).tobytes() == same.log_prob(BITS).tobytes()


def test_the_progress_bar_shows_the_nats(capsys):
    run(max_epochs=3, verbose=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown and "train=" in shown and "valid=" in shown and "best=" in shown
    run(max_epochs=3)
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- going on

class Killed(Exception):
    pass


MODELS = {
    "MADE": (MADE(hidden=(8,), max_epochs=5, random_state=3), BITS),
    "RealNVP": (RealNVP(n_couplings=2, hidden=(4,), max_epochs=5, random_state=3), REAL),
    "RealNVP, dequantised": (RealNVP(n_couplings=2, hidden=(4,), max_epochs=5, random_state=3), np.round(REAL)),
    "VAE": (VAE(n_latent=2, hidden=(4,), max_epochs=5, random_state=3), REAL.astype(np.float32)),
    "FlowMatching": (FlowMatching(hidden=(4,), coupling="ot", first_layer="sine", n_steps=3, max_epochs=5, random_state=3),
                     REAL),
    "Diffusion": (Diffusion(hidden=(4,), average=0.9, n_steps=3, max_epochs=5, random_state=3), REAL),
    "mixture by gradient": (GaussianMixture(2, solver="adam", max_epochs=5, random_state=3), REAL),
    "RBM": (RBM(n_hidden=3, batch_size=100, max_epochs=5, random_state=3), BITS),
    "EnergyModel": (EnergyModel(hidden=(4,), base=GaussianMixture(1), objective="pcd", n_chains=9, n_steps=2, n_burn=2,
                                n_importance=50, max_epochs=5, random_state=3), REAL),
    "Autoencoder": (Autoencoder(n_latent=2, hidden=(4,), noise=0.1, prior=GaussianMixture(1), max_epochs=5, random_state=3),
                    REAL),
    "GMMN": (GMMN(hidden=(4,), n_noise=2, average=0.9, max_epochs=5, random_state=3), REAL),
    "GAN": (GAN(hidden=(4,), critic_hidden=(3,), n_noise=2, n_critic=2, average=0.9, max_epochs=5, random_state=3), REAL),
}
models = pytest.mark.parametrize("name", MODELS)


def fresh(name, **params):
    model, x = MODELS[name]
    return type(model)(**model.get_params(deep=False) | params), x


def interrupted(name, path, k=2, weights=None, **params):
    """Fit, and die in epoch k's callback; the checkpoint is at `path`."""
    model, x = fresh(name, callbacks=[at_epoch(k, Killed)], **params)
    with pytest.raises(Killed):
        model.fit(x, checkpoint=path, sample_weight=weights)
    return x


def assert_same_run(a, b, x):
    assert a.history_ == b.history_ and a.n_epochs_ == b.n_epochs_
    assert a.params_.flat.tobytes() == b.params_.flat.tobytes()
    for (query, rows), (same, _) in zip(by_rows(a, x), by_rows(b, x), strict=True):
        assert query(rows).tobytes() == same(rows).tobytes()
    assert a.score(x) == b.score(x)
    assert a.sample(4).tobytes() == b.sample(4).tobytes()  # from the models' own streams


@pytest.mark.filterwarnings("ignore:fit. a (MADE|RealNVP) of one column")
@models
def test_any_other_error_leaves_the_model_as_it_was(name):
    model, x = fresh(name)
    before = model.fit(x).score(x)
    with pytest.raises(Killed):
        model.set_params(callbacks=[at_epoch(1, Killed)]).fit(x[::-1, :1])
    assert model.n_features_in_ == x.shape[1] and model.score(x) == before


@models
@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_resumed_run_gives_the_bits_of_one_that_never_stopped(name, k, tmp_path):
    x = interrupted(name, tmp_path / "run", k)
    again = fresh(name)[0].fit(x, checkpoint=tmp_path / "run", resume=True)
    assert_same_run(again, fresh(name)[0].fit(x), x)


@models
def test_weights_and_a_seed_that_cannot_be_repeated_survive(name, tmp_path):
    weights = RNG.uniform(1, 2, 60)
    x = interrupted(name, tmp_path / "run", weights=weights, random_state=np.random.default_rng(1))
    again = fresh(name, random_state=None)[0].fit(x, sample_weight=weights, checkpoint=tmp_path / "run", resume=True)
    assert_same_run(again, fresh(name, random_state=np.random.default_rng(1))[0].fit(x, sample_weight=weights), x)


@models
def test_a_finished_run_can_be_made_longer(name, tmp_path):
    model, x = fresh(name, max_epochs=2)
    model.fit(x, checkpoint=tmp_path / "run")
    for n in (5, 7):
        longer = fresh(name, max_epochs=n)[0].fit(x, checkpoint=tmp_path / "run", resume=True)
        assert_same_run(longer, fresh(name, max_epochs=n)[0].fit(x), x)


def test_a_run_of_an_older_format_does_not_go_on(tmp_path, monkeypatch):
    """Its parameters may lie otherwise, and it does not say how."""
    model, x = fresh("MADE", max_epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        model.fit(x, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="is of an older npgen, whose runs do not go on; fit without resume"):
        model.fit(x, checkpoint=tmp_path / "run", resume=True)


def test_resuming_a_run_that_stopped_early_changes_nothing(tmp_path):
    model, x = fresh("MADE", max_epochs=500, patience=2, learning_rate=0.1)
    model.fit(x, checkpoint=tmp_path / "run")
    again = fresh("MADE", max_epochs=500, patience=2, learning_rate=0.1)[0].fit(x, checkpoint=tmp_path / "run", resume=True)
    assert model.n_epochs_ < 500
    assert_same_run(again, model, x)


def test_a_rollback_survives_a_resume():
    def final(resume_at):
        recorder = Recorder()
        with pytest.warns(ConvergenceWarning):
            w, state = run(Scripted([5, 4, 3, 2, 1], [8]), save=recorder.save, max_epochs=4, batch_size=10)
        if resume_at:
            w, state = run(Scripted([3, 2, 1]), resume=State.restore(*recorder.states[resume_at]), max_epochs=4, batch_size=10)
        return w, state

    (w, state), (again, resumed) = final(None), final(2)
    assert w.tobytes() == again.tobytes() and state.history == resumed.history and resumed.rollbacks == 1


def test_a_state_goes_through_a_file_unchanged(tmp_path):
    _, state = run(max_epochs=3)
    arrays, rest = state.save()
    checkpoint.write(tmp_path / "state", arrays, {"state": rest})
    arrays, header = checkpoint.read(tmp_path / "state")
    again = State.restore(arrays, header["state"])
    assert again.save()[1] == rest and all(np.array_equal(again.save()[0][k], state.save()[0][k]) for k in arrays)
    assert State.restore(arrays, rest | {"interrupted": True}).save()[1] == rest  # as older ones have


def test_with_no_file_yet_resume_begins(tmp_path):
    model, x = fresh("MADE")
    assert_same_run(model.fit(x, checkpoint=tmp_path / "run", resume=True), fresh("MADE")[0].fit(x), x)
    assert (tmp_path / "run").exists()


def test_without_resume_a_run_begins_anew(tmp_path):
    x = interrupted("MADE", tmp_path / "run")
    assert_same_run(fresh("MADE")[0].fit(x, checkpoint=tmp_path / "run"), fresh("MADE")[0].fit(x), x)


# ---------------------------------------------------------------- when the state is written

def writes(monkeypatch, every, fit):
    """(how often fit writes its checkpoint, the number of epochs in the last)."""
    written, write = [], checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda path, arrays, header: written.append(header) or write(path, arrays, header))
    monkeypatch.setattr("npgen.models.run.WRITE_EVERY", every)
    fit()
    state = written[-1]["state"]
    return len(written), len(state["history"]) if "history" in state else len(state["attempt"]["nats"]) - 1


RUNS = MODELS | {"mixture by EM": (GaussianMixture(2, tol=0, max_iter=5, random_state=3), REAL),
                 "mixture of columns": (Mixture(2, tol=0, max_iter=5, random_state=3), REAL)}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("every, n_writes", [(0, 3), (math.inf, 2)])
def test_the_first_state_is_written_at_once_and_the_last_at_the_end(name, every, n_writes, tmp_path, monkeypatch):
    """Even where the run is cut off in epoch 3 of 5, by an error or by Ctrl-C; and it goes on to the bits of a whole one."""
    model, x = RUNS[name]

    def fit(error=None, **more):
        again = type(model)(**model.get_params(deep=False) | {"callbacks": [at_epoch(3, error)] if error else []})
        return again.fit(x, **more)

    def cut_off():
        with pytest.raises(Killed):
            fit(Killed, checkpoint=tmp_path / "run")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # EM is told to stop early
        assert writes(monkeypatch, every, cut_off) == (n_writes, 3)
        resumed, whole = fit(checkpoint=tmp_path / "run", resume=True), fit()
        assert resumed.params_.flat.tobytes() == whole.params_.flat.tobytes() and resumed.history_ == whole.history_
        assert writes(monkeypatch, every, lambda: fit(KeyboardInterrupt, checkpoint=tmp_path / "run")) == (n_writes, 3)
        resumed = fit(checkpoint=tmp_path / "run", resume=True)
        assert resumed.params_.flat.tobytes() == whole.params_.flat.tobytes() and resumed.history_ == whole.history_
        assert writes(monkeypatch, every, lambda: fit(checkpoint=tmp_path / "run"))[0] == (5 if every == 0 else 2)


@models
def test_ctrl_c_in_the_middle_of_an_epoch_writes_the_one_before(name, tmp_path, monkeypatch):
    """From the file the run goes on to the bits of one that never stopped: no half epoch is in it."""
    monkeypatch.setattr("npgen.models.run.WRITE_EVERY", math.inf)
    whole, x = fresh(name)[0].fit(MODELS[name][1]), MODELS[name][1]
    take, steps = train._Step.train, itertools.count(1)

    def train_step(*args):
        if next(steps) == 3:  # of one a epoch
            take(*args)
            raise KeyboardInterrupt
        return take(*args)

    with monkeypatch.context() as patch, pytest.warns(ConvergenceWarning, match="interrupted in epoch 3"):
        patch.setattr(train._Step, "train", train_step)
        fresh(name)[0].fit(x, checkpoint=tmp_path / "run")
    assert_same_run(fresh(name)[0].fit(x, checkpoint=tmp_path / "run", resume=True), whole, x)


# ---------------------------------------------------------------- rows that are given to stop by

GIVEN = {name: (model, x[:40], x[40:]) for name, (model, x) in MODELS.items()}
given = pytest.mark.parametrize("name", GIVEN)


def stopped_by(name, validation, **params):
    model, x, _ = GIVEN[name]
    return type(model)(**model.get_params(deep=False) | params).fit(x, validation_data=validation)


@given
def test_rows_given_to_stop_by_are_scored_and_never_trained_on(name):
    """Training goes as with no row held out, to the bit; statistics of preprocessing and history_ say the same."""
    _, x, valid = GIVEN[name]
    params = {"max_epochs": 4, "restore_best": False}
    model, alone = stopped_by(name, valid, **params), stopped_by(name, None, validation_fraction=0, **params)
    assert model.params_.flat.tobytes() == alone.params_.flat.tobytes()
    assert all(np.array_equal(a, alone.preprocess_.arrays()[k]) for k, a in model.preprocess_.arrays().items())
    assert [h["train_nats"] for h in model.history_] == [h["train_nats"] for h in alone.history_]
    assert stopped_by(name, valid, validation_fraction=0.5, **params).history_ == model.history_
    if not isinstance(model, VAE) and model.capabilities.density == "exact" and model.inner().by_likelihood:
        assert math.isclose(model.history_[-1]["valid_nats"], -model.score(valid), rel_tol=1e-5)
    weights = np.arange(1.0, 21)
    weighted = stopped_by(name, (valid, weights), **params)
    assert weighted.params_.flat.tobytes() == model.params_.flat.tobytes()
    if not isinstance(model, VAE) and model.capabilities.density == "exact" and model.inner().by_likelihood:
        assert math.isclose(weighted.history_[-1]["valid_nats"], -model.score(valid, sample_weight=weights), rel_tol=1e-5)


@given
def test_the_rows_given_decide_when_to_stop_and_which_epoch_is_kept(name):
    model, x, valid = GIVEN[name]
    patience = {"max_epochs": 300, "patience": 2, "learning_rate": 0.1}
    fitted = stopped_by(name, valid, **patience)
    nats = [h["valid_nats"] for h in fitted.history_]
    assert len(nats) < 300 and np.argmin(nats) == len(nats) - 3
    best = stopped_by(name, valid, **patience | {"max_epochs": len(nats) - 2, "restore_best": False})
    assert fitted.params_.flat.tobytes() == best.params_.flat.tobytes()


@given
def test_a_checkpoint_knows_the_rows_given_to_stop_by(name, tmp_path):
    model, x, valid = GIVEN[name]

    def fit(validation, error=None, **more):
        callbacks = [at_epoch(2, error)] if error else []
        return type(model)(**model.get_params(deep=False) | {"callbacks": callbacks}).fit(x, validation_data=validation, **more)

    with pytest.raises(Killed):
        fit(valid, Killed, checkpoint=tmp_path / "run")
    for other in (None, valid[::-1], valid[1:], (valid, np.arange(1, 21))):
        with pytest.raises(ValueError, match="is of other validation_data"):
            fit(other, checkpoint=tmp_path / "run", resume=True)
    assert_same_run(fit(valid, checkpoint=tmp_path / "run", resume=True), fit(valid), x)


BAD_VALIDATION = {
    "another width": (REAL[:, :1], "fit: validation_data has 1 features"),
    "one dimension": (REAL[0], "fit: validation_data must have two dimensions"),
    "NaN": (np.where(np.arange(2) == 1, np.nan, REAL), r"fit: validation_data\[0, 1\] is nan"),
    "too large for X's dtype": (np.full((2, 2), 1e300), r"fit: validation_data\[0, 0\] is inf"),
    "no rows": (REAL[:0], "fit: validation_data has shape"),
    "weights of another length": ((REAL, np.ones(3)), "fit: validation_data: sample_weight has shape"),
    "weights of zero": ((REAL, np.zeros(60)), "fit: validation_data: sample_weight is zero everywhere"),
}


@pytest.mark.parametrize("case", BAD_VALIDATION)
def test_rows_to_stop_by_are_checked_like_the_others(case):
    model = RealNVP(n_couplings=2, hidden=(4,), max_epochs=1, random_state=0).fit(REAL.astype(np.float32))
    before = model.sample(3, rng=0), vars(model).copy()
    validation, message = BAD_VALIDATION[case]
    with pytest.raises(ValueError, match=message):
        model.fit(REAL.astype(np.float32), validation_data=validation)
    assert vars(model) == before[1] and np.array_equal(model.sample(3, rng=0), before[0])


@pytest.mark.parametrize("names, words", [
    ("ba", r"Feature names must be in the same order as those of X.\nPass validation_data\[list\(X.columns\)\].\n$"),
    ("abc", r"Feature names that X has not:\n- c\nPass validation_data\[list\(X.columns\)\].\n$"),
    ("ac", r"Feature names that X has not:\n- c\nFeature names of X, yet not of validation_data:\n- b\n$")])
def test_rows_to_stop_by_with_other_names_are_refused_by_their_name(names, words):
    rows = data.Table(np.resize(REAL[:20], (20, len(names))), list(names))
    with pytest.raises(ValueError, match="^fit: the feature names of validation_data should match those of X.\n" + words):
        RealNVP(n_couplings=2, hidden=(4,), max_epochs=1).fit(data.Table(REAL, ["a", "b"]), validation_data=rows)


def test_rows_to_stop_by_that_the_space_does_not_hold_are_refused():
    with pytest.raises(ValueError, match=r"fit: validation_data: .*Bernoulli head needs 0 or 1"):
        MADE(hidden=(8,), max_epochs=1).fit(BITS, validation_data=BITS / 2)
    with pytest.raises(ValueError, match=r"fit: validation_data: Dequantize: 9.0 at .* the range that fit saw"):
        RealNVP(n_couplings=2, hidden=(4,), max_epochs=1).fit(np.arange(12).reshape(6, 2) % 7, validation_data=[[9, 9]])
    for model in (GaussianMixture(2), Mixture(2)):
        with pytest.raises(ValueError, match="fit: validation_data is for models trained by gradient, but EM fits a"):
            model.fit(REAL, validation_data=REAL)


# ---------------------------------------------------------------- memory

@pytest.mark.parametrize("build", [lambda **k: MADE(hidden=(4,), **k), lambda **k: RealNVP(n_couplings=2, hidden=(4,), **k),
                                   lambda **k: VAE(n_latent=2, hidden=(4,), **k),
                                   lambda **k: GaussianMixture(2, solver="adam", max_iter=2, **k)],
                         ids=["MADE", "RealNVP", "VAE", "mixture by gradient"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.filterwarnings("ignore:fit. hidden=.* is too narrow")
def test_training_holds_no_copy_of_all_rows(build, weighted, monkeypatch):
    monkeypatch.setattr(base, "session", _blas.one_pool)  # without memory that kernels keep to use again
    x, held = np.random.default_rng(0).normal(size=(60_000, 100)), []
    build(max_epochs=1, batch_size=1000, random_state=0).fit(x)  # compiles, and warms caches
    tracemalloc.start()
    try:
        build(max_epochs=1, batch_size=1000, random_state=0,
              callbacks=[lambda _: held.append(tracemalloc.get_traced_memory()[0])]).fit(
                  x, sample_weight=RNG.uniform(1, 2, len(x)) if weighted else None)
    finally:
        tracemalloc.stop()
    assert held[0] < 0.5 * x.nbytes


# ---------------------------------------------------------------- a checkpoint of another run

REFUSED = {
    "other rows": (lambda x: {"X": x[::-1]}, {}, "is of other rows or weights"),
    "fewer rows": (lambda x: {"X": x[:-1]}, {}, "is of other rows or weights"),
    "another dtype": (lambda x: {"X": x.astype(np.float64)}, {}, "is of other rows or weights"),
    "another shape": (lambda x: {"X": x.reshape(30, 8)}, {}, "is of other rows or weights"),
    "weights": (lambda x: {"X": x, "sample_weight": np.arange(1, 61)}, {}, "is of other rows or weights"),
    "other widths": (lambda x: {"X": x}, {"hidden": (9,)}, r"was written with hidden=\[8\], but hidden is \[9\] now"),
    "another seed": (lambda x: {"X": x}, {"random_state": 4}, "was written with random_state=3, but random_state is 4 now"),
    "another rate": (lambda x: {"X": x}, {"learning_rate": 0.1}, "learning_rate=0.001, but learning_rate is 0.1 now"),
    "another order": (lambda x: {"X": x}, {"order": np.arange(4)}, r"order='random', but order is array\(\[0, 1, 2, 3\]\) now"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_of_another_run_is_refused(case, tmp_path):
    x = interrupted("MADE", tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    arguments, params, message = REFUSED[case]
    model = fresh("MADE", **params)[0]
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(**arguments(x), checkpoint=tmp_path / "run", resume=True)
    assert str(tmp_path / "run") in str(caught.value) and (tmp_path / "run").read_bytes() == before
    with pytest.raises(npgen.NotFittedError):
        model.log_prob(x)


def test_what_may_change_between_the_parts_of_a_run(tmp_path):
    x = interrupted("MADE", tmp_path / "run")
    fresh("MADE", hidden=[np.int64(8)], verbose=0, callbacks=[print], learning_rate=np.float64(1e-3))[0].fit(
        x, checkpoint=tmp_path / "run", resume=True)


def test_files_that_no_run_goes_on_from(tmp_path):
    model, x = fresh("MADE")
    x = interrupted("MADE", tmp_path / "run")
    with pytest.raises(ValueError, match="is of a MADE"):
        VAE(max_epochs=2).fit(x, checkpoint=tmp_path / "run", resume=True)
    with pytest.raises(npgen.LoadError, match="training checkpoint"):
        npgen.load(tmp_path / "run")
    (tmp_path / "run").write_bytes((tmp_path / "run").read_bytes()[:-9])
    with pytest.raises(npgen.LoadError, match="truncated"):
        model.fit(x, checkpoint=tmp_path / "run", resume=True)
    model.fit(x).save(tmp_path / "model")
    with pytest.raises(ValueError, match="holds no training run"):
        model.fit(x, checkpoint=tmp_path / "model", resume=True)
    with pytest.raises(ValueError, match=re.escape("fit: resume=True needs checkpoint=")):
        model.fit(x, resume=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        model.fit(x, checkpoint=tmp_path / "nowhere" / "run")
