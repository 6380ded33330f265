"""The training loop: minibatches, early stop, best parameters restored, divergence rolled back, resume to the same bits.

It knows no model. It is handed parameters and players, each of which moves some of them down the gradient of a loss of its own:
loss(params, batch, stream) -> (n,) nats per row, where params are Tensors for what the player moves while it takes a step, and
arrays while the validation rows are scored.

Legend: n rows, p parameters.
"""
import contextlib
import copy
import dataclasses
import math

import numpy as np

from . import optim, parallel
from .engine import map_arrays
from .graph import Places
from .kernels import Kernel, aligned
from .kernels._cuda import asnumpy, is_device_array
from .optim import BASE, COUNTER, RATE, STEP
from .options import Training, check_training
from .players import Batch, Move, Player
from .random import Share, Stream
from .record import Recording, n_threads
from .warn import warn

_ATTEMPTS = 10  # to go on from an epoch whose loss was not finite


class ConvergenceWarning(UserWarning):
    """Fitting stopped before it had converged, or had to go back because the loss was not finite."""


@dataclasses.dataclass
class State:
    """Everything a run needs to go on: at the end of an epoch, written to a checkpoint, and read back, it is the run."""

    params: np.ndarray                    # (p,) the flat buffer
    best: np.ndarray                      # (p,) the best so far
    clock: np.ndarray                     # (players, 4) optim.STEP, RATE, BASE, COUNTER, where the parameters lie
    moments: dict                         # the optimisers' arrays, by player
    carry: dict                           # the players' arrays; "average" is the mean of the parameters
    split: Stream                         # drew the validation rows; never advanced
    stream: Stream                        # draws the order and the noise
    epoch: int = 0
    epochs: int | None = None             # how many there were to be
    best_nats: float = math.inf
    since_best: int = 0
    rollbacks: int = 0
    history: list = dataclasses.field(default_factory=list)  # one dict per epoch
    statistics: dict = dataclasses.field(default_factory=dict)  # of the rows trained on, at the end; they follow from the rest

    step = property(lambda self: int(self.clock[0, STEP]), doc="Steps of the first player.")
    learning_rate = property(lambda self: float(self.clock[0, RATE]), doc="Of the first player.")

    def save(self):
        """(arrays, JSON-able dict) that restore() takes back."""
        moments = {f"moment.{player}.{k}": v for player, each in self.moments.items() for k, v in each.items()}
        arrays = {"params": self.params, "best": self.best, "clock": self.clock, **moments}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)
                if f.name not in (*arrays, "moments", "carry", "statistics")}
        rest |= {"split": self.split.state(), "stream": self.stream.state(), "best_nats": repr(self.best_nats)}
        return arrays | {f"carry.{k}": v for k, v in self.carry.items()}, rest

    @classmethod
    def restore(cls, arrays, rest, like=None):
        """The state that save() described, its arrays on the device if `like` is there."""
        rest = {**rest, "split": Stream.from_state(rest["split"]), "stream": Stream.from_state(rest["stream"]),
                "best_nats": float(rest["best_nats"])}
        rest.pop("interrupted", None)  # which older checkpoints have
        kept = {"moments": {}, "carry": {}}
        for name, a in arrays.items():
            kind, _, k = name.partition(".")
            a = np.asarray(a.copy(), like=like)
            if kind == "moment":
                player, _, k = k.rpartition(".")
                kept["moments"].setdefault(player, {})[k] = a
            elif kind == "carry":
                kept["carry"][k] = a
            else:
                kept[name] = a
        return cls(**kept, **rest)


def fit(players, params, batch, *, validation=None, stream, options=None, monitor=None, statistics=None, resume=None,
        save=None):
    """Minimise the mean loss over the rows of a Batch; params (npgen.nn.Parameters) end at the best epoch's values.

    players      a loss, which moves all parameters, or several Players, who take turns at every batch
    batch        all rows to train on; with weights the loss is the weighted mean, sum_n w_n loss_n / sum_n w_n
    validation   a Batch to stop by, or None: a share of the rows of batch
    stream       random numbers for the split, the order and the loss
    options      a Training, or whatever has its attributes, as a model that inherits it
    monitor      what is scored on the rows to stop by, a function like a loss, or a Player with such a loss; None: the first
                 player. With a monitor and no such rows nothing says which epoch is best: all max_epochs are taken, and the
                 last parameters kept
    statistics   what rows are scored by beside the parameters: statistics(params, batch) -> {name: array}, of all rows that are
                 trained on, before each validation, and of the parameters that are kept (State.statistics); None: nothing
    resume       a State to go on from; save(state) is called after every epoch, whose arrays no later epoch writes to
    It runs where batch and params lie; on a GPU no step reads a value back, and the nats of an epoch are read when it is over.
    Under mpirun, or with npgen.parallel.MPI, every process has all rows, takes its share of each batch and of the rows to stop
    by, and has the sums over all of them: how many they are changes the answer by the rounding of these sums alone. Where
    players are not all by_rows each takes every step, as one process would, and one sentence warns of that. Rank 0 calls save.
    Returns the State. Ctrl-C ends the run with the best so far; a NaN or infinite loss takes the run back to the start of
    its epoch with half the learning rate, up to ten times. Warns ConvergenceWarning in these two cases, once each.
    Raises ValueError for parameters that are not finite to begin with, players that cannot be, a State whose learning rates
    would have been others, and as check_training does.
    """
    options, players = options or Training(), (Player(loss=players),) if callable(players) else tuple(players)
    check_training(options)
    workers = parallel.current()
    step = _Step(players, params, batch, options, monitor, statistics, workers)
    state = workers.once(lambda: resume or step.begin(stream))
    rows, out = held_out(state.split, len(batch), options.validation_fraction if validation is None else 0)
    scored = (batch, out) if validation is None else (validation, np.arange(len(validation)))
    scored = scored[0], np.asarray(scored[1], like=batch.x)
    step.over(rows, state)
    with _progress(options, state, workers) as bar, np.errstate(all="ignore"):  # a loss that is not finite is dealt with below
        try:
            while state.epoch < options.max_epochs and state.since_best < options.patience:
                advanced = _epoch(step, state, rows, scored)
                workers.agree("fit: the parameters after an epoch", state.params)
                if save:
                    workers.once(lambda: save(state))
                if advanced:
                    _report(bar, state, options)
        except KeyboardInterrupt:
            if workers.size > 1:  # the others go on, and wait for this one
                raise
            warn(f"fit: interrupted in epoch {state.epoch + 1}; the best parameters so far are kept", ConvergenceWarning)
    params.flat[:] = state.best if options.restore_best else state.carry.get("average", state.params)
    state.statistics = step.statistics_of(params, rows)
    if step.on_device and (why := step.places.why if step.places else "since the host has a part in each"):
        warn(f"fit: no step was captured as a CUDA graph, {why}; they are taken kernel by kernel, to the same bits but slower: "
             "docs/gpu.md says which models' are")
    if step.rolled_back:
        n = len(step.rolled_back)
        became = step.rolled_back[0] + (f", the first of {n} times" if n > 1 else "")
        end = (f"and stopped after {_ATTEMPTS} such attempts: look at the data's scale" if state.rollbacks >= _ATTEMPTS
               else f"with learning_rate={state.learning_rate:g}")
        warn(f"fit: the loss became {became}; went back to the last good parameters {end}", ConvergenceWarning)
    return state


def held_out(split, n, fraction):
    """The numbers of the rows that a fit trains on, of n, and of those that it stops by; split: State.split."""
    order, n_valid = Stream.from_state(split.state()).permutation(n), min(int(round(n * fraction)), n - 1)
    return np.sort(order[n_valid:]), np.sort(order[:n_valid])


class _Step:
    """All players' steps on a batch, and the nats of rows without one."""

    def __init__(self, players, params, batch, options, monitor=None, statistics=None, workers=None):
        self.params, self.batch, self.options = params, batch, options  # the batch of all rows
        self.gradient = params.copy()  # one for all players, each of whom fills its own
        self.on_device = is_device_array(params.flat)
        self.workers, self.total = workers, None  # what sums an array over those who have a share each
        if workers is not None and workers.size > 1:
            if all(player.by_rows and not player.prepare for player in players) and not self.on_device:
                self.total = Kernel("train.total", "values(N)", reference=lambda values: workers.sum([values])[0])
            else:
                warn(f"fit: {workers.size} processes cannot share these steps, of which each takes all; one is as quick")
        self.moves = [Move(player, params, self.gradient, options, self.total) for player in players]
        monitor = Player(loss=monitor) if callable(monitor) else monitor
        self.monitor, self.statistics, self.loss_decides = monitor or players[0], statistics, monitor is None
        self.average = optim.average(options.average)
        self.shown = params.copy() if self.average else params  # what is validated and kept
        self.repeats = all(player.repeats for player in players)
        self.prepares = any(player.prepare for player in players)
        self.work, self.recorded = None, {}  # the arrays that steps change, and recorded steps on them
        self.begun = False  # whether a step has been taken on them: the first one of a chain begins it
        self.rolled_back = []  # what the loss became and when, in words
        self.places = Places(params.flat) if self.on_device and self.repeats else None
        *self.ends, self.n_steps = np.cumsum([player.steps for player in players])  # of each player's among a batch's
        if len({player.name for player in players}) < len(players):
            raise ValueError(f"fit: players must have different names, got {', '.join(player.name for player in players)}")

    def begin(self, stream):
        """The State before the first epoch."""
        flat, split, start = self.params.flat, stream.spawn(), self.params.flat.copy()
        clock = np.asarray([[0, move.base, move.base, 0] for move in self.moves], dtype=np.float64, like=flat)
        moments = {move.player.name: move.optimizer.init(move.flat) for move in self.moves}
        return State(start, start, clock, moments, {"average": flat.copy()} if self.average else {}, split, stream)

    def over(self, rows, state):
        """Go over these rows from a State on."""
        options, done, first = self.options, np.arange(1.0, state.epoch + 1), self.moves[0]
        if state.epochs is not None and (first.rates(done, state.epochs) != first.rates(done, options.max_epochs)).any():
            raise ValueError(f"fit: the run to resume had max_epochs={state.epochs}, and its learning rates went by that, but "
                             f"max_epochs is {options.max_epochs} now; set it back, or fit without resume")
        state.epochs, weights = options.max_epochs, self.batch.weights
        for move in self.moves:
            move.per_epoch = -(-len(rows) // options.batch_size) * move.player.steps
        if weights is not None:  # of mean 1 over the rows trained on: a batch's mean then estimates the weighted mean
            total = float(weights[rows].sum(dtype=np.float64))
            self.batch = Batch(self.batch.x, self.batch.context, weights * (len(rows) / total))
        self.params.flat[:] = state.params
        if not np.isfinite(self.params.flat).all():
            raise ValueError("fit: the first parameters are not finite; look at the scale of X")

    def ahead(self, state):
        """A State whose arrays the steps may change: copies, where steps are recorded in the same memory every time."""
        arrays = {"clock": state.clock, "moments": state.moments, "carry": state.carry}
        if self.work is None or not self.repeats or self.work["carry"].keys() != state.carry.keys():
            self.work, self.recorded, self.begun = map_arrays(aligned, arrays), {}, not self.prepares
            if self.places is not None:
                self.places.forget()
        else:
            map_arrays(np.copyto, self.work, arrays)
        return dataclasses.replace(state, **self.work)

    def order(self, rows, stream):
        """The numbers of an epoch's rows, in order, where the rows lie."""
        return np.asarray(rows, like=self.batch.x) if self.places is None else self.places.begin(rows, stream.counter)

    def train(self, state, rows):
        """Every player's steps on the rows of these numbers; returns the nats of each."""
        if not self.begun:
            self.begun = True
            return self.take(state, rows) if self.places is None else self.places.passing(self.take, state, rows)
        if self.places is not None:
            return self.places.step(self.take, state, rows, self.options.batch_size, (self.params.flat, self.work))
        if self.total is not None:
            rows = self.share(rows, state.stream)
        key = len(rows), state.stream.key, state.stream.share, n_threads()
        if self.repeats and key not in self.recorded:
            return self._record(key, state, rows)
        if not self.repeats or self.recorded[key] is None:
            return self.take(state, rows)
        recording, numbers, nats = self.recorded[key]
        numbers[:] = rows
        recording.replay(state.stream)
        return [a[()] for a in nats]

    def _record(self, key, state, rows):
        """train, recorded; if it cannot be, it and all that are like it are taken the ordinary way."""
        recording, numbers, changing = Recording(state.stream), rows.copy(), (self.params.flat, self.work)
        before = map_arrays(lambda a: a.copy(), changing)
        other, on = copy.copy(self), recording.array
        other.params, gradient = (each.over(on(each.flat)) for each in (self.params, self.gradient))
        other.batch, other.moves = self.batch.to(on), [move.over(other.params, gradient) for move in self.moves]
        try:
            with recording:
                nats = other.take(dataclasses.replace(state, stream=recording.stream, **map_arrays(on, self.work)), on(numbers))
        except Exception as error:
            if recording.sound and not isinstance(error, TypeError):  # of an array that is no np.ndarray
                raise
            recording.sound = False
        if recording.sound:
            state.stream.counter += recording.blocks
            self.recorded[key] = recording, numbers, [np.asarray(recording.value(a)) for a in nats]
            return [a[()] for a in self.recorded[key][-1]]
        self.recorded[key] = None
        map_arrays(np.copyto, changing, before)
        return self.take(state, rows)

    def share(self, rows, stream):
        """This process's of a batch's rows, which the stream draws for: neighbours, of which every process has as many but one.

        Where it has none it computes one that counts nothing, so that its stream goes on as the others' do.
        """
        n, first, end = len(rows), *(len(rows) * k // self.workers.size for k in (self.workers.rank, self.workers.rank + 1))
        first = min(first, n - 1)
        stream.share = Share(first, max(end - first, 1), n, end > first)
        return rows[first:first + stream.share.n]

    @staticmethod
    def of_share(batch, rows, share):
        """The rows of these numbers."""
        batch = batch.take(rows)
        if share is not None and not share.counts:
            batch.weights = np.zeros_like(batch.x, shape=len(batch))
        return batch

    def take(self, state, rows):
        """train, one step after the other."""
        batch, nats = self.of_share(self.batch, rows, state.stream.share), []
        for k, move in enumerate(self.moves):
            for _ in range(move.player.steps):
                nats.append(move(state, state.clock[k], batch))
        if self.average:
            self.average.update(state.carry["average"], self.params.flat, state.clock[0])
        return nats

    def statistics_of(self, params, rows):
        """Of the rows of these numbers, for these parameters: {} unless there are any."""
        return self.statistics(params, self.batch.take(np.asarray(rows, like=self.batch.x))) if self.statistics else {}

    def nats(self, batch, rows, stream, carry, trained):
        """The (weighted) mean nats of some rows of a Batch, without a step; trained: the numbers of those trained on."""
        sums, weights, found = [], batch.weights, self.statistics_of(self.shown, trained)
        params = dict(self.shown) | found if found else self.shown
        shared = self.total is not None and self.monitor.by_rows
        for rows_of_part in _cut(rows, 1000):
            part = self.of_share(batch, self.share(rows_of_part, stream) if shared else rows_of_part, stream.share)
            part.carry = carry
            losses = self.monitor.loss(params, part, stream)
            sums.append(np.sum(losses if part.weights is None else losses * part.weights, dtype=np.float64))
        sums = self.total(np.stack(sums)) if shared else np.stack(sums)
        return float(np.sum(sums)) / (len(rows) if weights is None else float(weights[rows].sum(dtype=np.float64)))


def _cut(rows, size):
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def _epoch(step, state, rows, held_out):
    """One pass over the rows: True, the state an epoch further; or False, back where it was with half the learning rate.

    The pass works on a copy, so that the state is one at the end of an epoch whenever an error or Ctrl-C comes.
    """
    ahead = step.ahead(state)
    state.stream = Stream.from_state(state.stream.state())
    order = step.order(rows[ahead.stream.permutation(len(rows))], ahead.stream)
    ahead.clock[:, COUNTER] = ahead.stream.counter
    batches, nats = _cut(order, step.options.batch_size), []
    for batch in batches:
        nats += step.train(ahead, batch)
        if not step.on_device and not all(map(math.isfinite, nats[-step.n_steps:])):
            break  # a GPU's are looked at later: to do so here would be to wait for it
    nats = asnumpy(np.stack(nats)).astype(np.float64)
    if not np.isfinite(nats).all():
        return _roll_back(step, state, float(nats[~np.isfinite(nats)][0]))
    sizes, losses = [len(batch) for batch in batches], {}
    for move, each in zip(step.moves, np.split(nats.reshape(len(batches), -1), step.ends, axis=1), strict=True):
        losses[move.player.name] = float(each.mean(axis=1) @ sizes) / len(rows)
    train_nats = losses[step.moves[0].player.name]
    if step.average:
        step.shown.flat[:] = ahead.carry["average"]
    validates = len(held_out[-1]) > 0
    valid_nats = step.nats(*held_out, Stream(0), ahead.carry, rows) if validates else train_nats  # the same noise every epoch
    if not math.isfinite(valid_nats):
        return _roll_back(step, state, valid_nats)
    kept = [step.params.flat, *ahead.carry.values(), *(v for each in ahead.moments.values() for v in each.values())]
    if not all(np.isfinite(values).all() for values in kept):
        return _roll_back(step, state, math.nan)  # the last step spoiled them, and nothing was scored with them yet
    ahead.params = step.params.flat.copy()
    ahead.epoch += 1
    ahead.since_best += 1
    if valid_nats < ahead.best_nats or not (validates or step.loss_decides):
        ahead.best = step.shown.flat.copy() if step.average else ahead.params
        ahead.best_nats, ahead.since_best = valid_nats, 0
    ahead.history = [*state.history, {"epoch": ahead.epoch, "train_nats": train_nats,
                                      "valid_nats": valid_nats if validates else None,
                                      "learning_rate": ahead.learning_rate, "rollbacks": ahead.rollbacks,
                                      **({"losses": losses} if len(losses) > 1 else {})}]
    vars(state).update(vars(ahead))  # in one piece: a signal comes before it or after
    if step.repeats:  # the next epoch writes to these arrays; now that the last one's are out of memory, copy them
        vars(state).update(map_arrays(lambda a: a.copy(), step.work))
    return True


def _roll_back(step, state, nats):
    step.params.flat[:] = state.params
    state.stream = state.stream.spawn()  # new draws, however far it came
    state.clock = state.clock.copy()
    state.clock[:, RATE:BASE + 1] /= 2
    state.rollbacks += 1
    step.rolled_back.append(f"{nats} in epoch {state.epoch + 1}")
    if state.rollbacks >= _ATTEMPTS:
        state.since_best = math.inf
    return False


@contextlib.contextmanager
def _progress(options, state, workers):
    if not options.verbose or workers.rank > 0:
        yield None
        return
    from tqdm import tqdm
    with tqdm(total=options.max_epochs, initial=state.epoch, unit="epoch", leave=True) as bar:
        yield bar


def _report(bar, state, options):
    last = state.history[-1]
    if bar is not None:
        shown = {"train": f"{last['train_nats']:.3f}"}
        if last["valid_nats"] is not None:
            shown |= {"valid": f"{last['valid_nats']:.3f}", "best": f"{state.best_nats:.3f}"}
        bar.set_postfix(shown, refresh=False)
        bar.update(state.epoch - bar.n)
    for callback in options.callbacks:
        callback(last)
