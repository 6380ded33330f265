"""The training loop: early stop, best parameters, rollback, clipping, interruption, and runs that go on to the same bits."""
import copy
import itertools
import math
import re

import numpy as np
import pytest

import npgen
from npgen import checkpoint, train
from npgen.engine import Tensor
from npgen.models import MADE, VAE, GaussianMixture, RealNVP
from npgen.nn import Parameters
from npgen.optim import SGD
from npgen.random import Stream
from npgen.train import ConvergenceWarning, Options, State

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)) + [1, 2, 3]
BITS = (RNG.normal(size=(60, 4)) + RNG.normal(size=(60, 1)) > 0).astype(np.float32)
REAL = RNG.normal(size=(60, 2)) * [1, 5] + [0, 30]


def squares(params, rows, stream):
    return np.sum(np.square(rows - params["w"]), axis=1) / 2


def run(loss=squares, x=X, *, start=0.0, weights=None, optimizer=None, resume=None, save=None, **options):
    params = Parameters({"w": np.full(x.shape[1], start)})
    state = train.fit(loss, params, x, weights=weights, stream=Stream(0), optimizer=optimizer, resume=resume, save=save,
                      options=Options(**options))
    return params["w"], state


class Scripted:
    """squares for a step, and for each look at the validation rows the next of the given nats."""

    def __init__(self, nats, broken_steps=()):
        self.nats, self.broken, self.steps = itertools.chain(nats, itertools.repeat(99.0)), set(broken_steps), 0

    def __call__(self, params, rows, stream):
        if not isinstance(params["w"], Tensor):
            return np.full(len(rows), next(self.nats))
        self.steps += 1
        return squares(params, rows, stream) * (math.nan if self.steps in self.broken else 1)


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

    def loss(params, rows, stream):
        (trained if isinstance(params["w"], Tensor) else validated).append(rows[:, 0].copy())
        return squares(params, rows, stream)

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


def test_integer_weights_are_repeated_rows_in_the_nats():
    weights = RNG.integers(0, 4, 50)
    params = Parameters({"w": np.zeros(3)})
    weighted = train._Step(squares, params, X, weights / weights[weights > 0].mean(), None, Options()).nats(np.arange(50), None)
    repeated = X.repeat(weights, axis=0)
    plain = train._Step(squares, params, repeated, None, None, Options()).nats(np.arange(len(repeated)), None)
    assert math.isclose(weighted, plain, rel_tol=1e-12)


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
    assert all(np.array_equal(before[k], after[k]) for k in before)  # the moments too


def test_an_infinite_gradient_goes_back_too():
    def loss(params, rows, stream):
        return np.sum(np.sqrt(params["w"] * (1.0 if not isinstance(params["w"], Tensor) else 0.0)) + 0 * rows, axis=1)

    with pytest.warns(ConvergenceWarning):
        w, state = run(loss, max_epochs=3)
    assert state.rollbacks == 10 and (w == 0).all()


def test_ten_rollbacks_end_the_run_with_the_best():
    recorder = Recorder()
    with pytest.warns(ConvergenceWarning) as caught:
        w, state = run(Scripted([5, 4], range(11, 10**6)), save=recorder.save, max_epochs=99, batch_size=10, learning_rate=1.0)
    assert len(caught) == 10 and "stopped after ten such attempts" in str(caught[-1].message)
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
    options = Options(weight_decay=0.5, learning_rate=0.1, max_epochs=3, batch_size=10, restore_best=False)
    state = train.fit(lambda p, rows, stream: np.sum(rows @ p["weight"] * 0 + p["bias"] * 0, axis=1), params, X,
                      stream=Stream(0), options=options)
    np.testing.assert_allclose(params.flat, 2 * 0.95**state.step, rtol=1e-12)


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
    assert state.interrupted and state.epoch == 4
    np.testing.assert_array_equal(w, recorder.params[1])


def test_ctrl_c_in_the_middle_of_an_epoch_forgets_its_steps():
    def loss(params, rows, stream):
        if isinstance(params["w"], Tensor) and next(steps) == 13:
            raise KeyboardInterrupt
        return squares(params, rows, stream)

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
    "mixture by gradient": (GaussianMixture(2, solver="adam", max_epochs=5, random_state=3), REAL),
}
models = pytest.mark.parametrize("name", MODELS)


def fresh(name, **params):
    model, x = MODELS[name]
    return type(model)(**model.get_params() | params), x


def interrupted(name, path, k=2, weights=None, **params):
    """Fit, and die in epoch k's callback; the checkpoint is at `path`."""
    model, x = fresh(name, callbacks=[at_epoch(k, Killed)], **params)
    with pytest.raises(Killed):
        model.fit(x, checkpoint=path, sample_weight=weights)
    return x


def assert_same_run(a, b, x):
    assert a.history_ == b.history_ and a.n_epochs_ == b.n_epochs_
    assert a.params_.flat.tobytes() == b.params_.flat.tobytes()
    assert a.log_prob(x).tobytes() == b.log_prob(x).tobytes()
    assert a.sample(4).tobytes() == b.sample(4).tobytes()  # from the models' own streams


@models
def test_any_other_error_leaves_the_model_as_it_was(name):
    model, x = fresh(name)
    before = model.fit(x).log_prob(x)
    with pytest.raises(Killed):
        model.set_params(callbacks=[at_epoch(1, Killed)]).fit(x[::-1, :1])
    assert model.n_features_in_ == x.shape[1] and model.log_prob(x).tobytes() == before.tobytes()


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


def test_with_no_file_yet_resume_begins(tmp_path):
    model, x = fresh("MADE")
    assert_same_run(model.fit(x, checkpoint=tmp_path / "run", resume=True), fresh("MADE")[0].fit(x), x)
    assert (tmp_path / "run").exists()


def test_without_resume_a_run_begins_anew(tmp_path):
    x = interrupted("MADE", tmp_path / "run")
    assert_same_run(fresh("MADE")[0].fit(x, checkpoint=tmp_path / "run"), fresh("MADE")[0].fit(x), x)


REFUSED = {
    "other rows": (lambda x: {"X": x[::-1]}, {}, "is of other rows or weights"),
    "fewer rows": (lambda x: {"X": x[:-1]}, {}, "is of other rows or weights"),
    "another dtype": (lambda x: {"X": x.astype(np.float64)}, {}, "is of other rows or weights"),
    "another shape": (lambda x: {"X": x.reshape(30, 8)}, {}, "is of other rows or weights"),
    "weights": (lambda x: {"X": x, "sample_weight": np.arange(1, 61)}, {}, "is of other rows or weights"),
    "other widths": (lambda x: {"X": x}, {"hidden": (9,)}, r"was written with hidden=\[8\], but hidden is \[9\] now"),
    "another seed": (lambda x: {"X": x}, {"random_state": 4}, "was written with random_state=3, but random_state is 4 now"),
    "another rate": (lambda x: {"X": x}, {"learning_rate": 0.1}, "learning_rate=0.001, but learning_rate is 0.1 now"),
    "another order": (lambda x: {"X": x}, {"order": np.arange(4)}, r"order='random', but order is \[0, 1, 2, 3\] now"),
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
