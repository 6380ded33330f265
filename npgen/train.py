"""The training loop: minibatches, early stop, best parameters restored, divergence rolled back, resume to the same bits.

It knows no model. It is handed a loss and parameters: loss(params, batch, stream) -> (n,) nats per row, where params are
Tensors while a step is taken and arrays while the validation rows are scored.

Legend: n rows in a batch, d features, w context columns, p parameters.
"""
import contextlib
import dataclasses
import math

import numpy as np

from . import ops
from .engine import value_and_grad
from .kernels import gather, norm
from .kernels._cuda import asnumpy, is_device_array
from .optim import Adam
from .random import Stream
from .warn import warn

_ATTEMPTS = 10  # to go on from an epoch whose loss was not finite


class ConvergenceWarning(UserWarning):
    """Fitting stopped before it had converged, or had to go back because the loss was not finite."""


@dataclasses.dataclass(eq=False)
class Batch:
    """Rows x (n, d), what they are given, context (n, w) or None, and how much each counts, weights (n,) or None."""

    x: np.ndarray
    context: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self):
        return len(self.x)

    def take(self, rows):
        """The rows of these numbers, gathered where they lie."""
        context, weights = self.context, self.weights
        return Batch(gather.rows(self.x, rows), None if context is None else gather.rows(context, rows),
                     None if weights is None else weights[rows])

    def to(self, place):
        """The same rows where place(array) puts arrays."""
        return Batch(*(None if a is None else place(a) for a in (self.x, self.context, self.weights)))


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Training:
    """How to train: a model that follows a gradient inherits these, as keyword arguments of its constructor.

    max_epochs           passes over the rows, at most
    batch_size           rows per step
    learning_rate        of Adam; halved whenever the loss was not finite and training went back an epoch
    validation_fraction  share of the rows that is held out to stop by; 0 trains on all, and stops by the training loss. Of no
                         account where fit is given validation_data
    patience             epochs without a lower held-out loss, after which training stops
    restore_best         whether to end with the parameters of the best epoch, not of the last
    weight_decay         decoupled: every step takes learning_rate * weight_decay of every parameter away
    clip_norm            a gradient longer than this is scaled down to it
    callbacks            functions that are called after every epoch with its entry of history_: a dict of epoch, train_nats and
                         valid_nats (losses: minus the mean of log p or its bound), learning_rate, rollbacks
    verbose              whether to show a progress bar
    """

    max_epochs: int = 300
    batch_size: int = 100
    learning_rate: float = 1e-3
    validation_fraction: float = 0.1
    patience: int = 20
    restore_best: bool = True
    weight_decay: float = 0.0
    clip_norm: float = 100.0
    callbacks: tuple = ()
    verbose: bool = False


def check_training(options):
    """Raise ValueError, or TypeError for callbacks that are no functions, unless these can be used."""
    for name in ("max_epochs", "batch_size", "patience"):
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    for name in ("learning_rate", "clip_norm"):
        value = getattr(options, name)
        if not isinstance(value, (int, float, np.number)) or not value > 0 or not math.isfinite(value):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    if not isinstance(options.weight_decay, (int, float, np.number)) or not 0 <= options.weight_decay < math.inf:
        raise ValueError(f"weight_decay must be 0 or a positive number, got {options.weight_decay!r}")
    if not isinstance(options.callbacks, (list, tuple)) or not all(map(callable, options.callbacks)):
        raise TypeError(f"callbacks must be a list of functions, got {options.callbacks!r}")
    value = options.validation_fraction
    if not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
        raise ValueError(f"validation_fraction must be in [0, 1), got {value!r}; 0 trains on every row")


@dataclasses.dataclass
class State:
    """Everything a run needs to go on: at the end of an epoch, written to a checkpoint, and read back, it is the run."""

    params: np.ndarray                    # (p,) the flat buffer
    best: np.ndarray                      # (p,) the best so far
    moments: dict                         # the optimiser's arrays
    split: Stream                         # drew the validation rows; never advanced
    stream: Stream                        # draws the order and the noise
    learning_rate: float
    interrupted: bool = False
    epoch: int = 0
    step: int = 0
    best_nats: float = math.inf
    since_best: int = 0
    rollbacks: int = 0
    history: list = dataclasses.field(default_factory=list)  # one dict per epoch

    def save(self):
        """(arrays, JSON-able dict) that restore() takes back."""
        arrays = {"params": self.params, "best": self.best, **{f"moment.{k}": v for k, v in self.moments.items()}}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("params", "best", "moments")}
        return arrays, {**rest, "split": self.split.state(), "stream": self.stream.state(), "best_nats": repr(self.best_nats)}

    @classmethod
    def restore(cls, arrays, rest, like=None):
        """The state that save() described, its arrays on the device if `like` is there."""
        arrays = {k: np.asarray(v.copy(), like=like) for k, v in arrays.items()}
        moments = {k.removeprefix("moment."): v for k, v in arrays.items() if k.startswith("moment.")}
        rest = {**rest, "split": Stream.from_state(rest["split"]), "stream": Stream.from_state(rest["stream"]),
                "best_nats": float(rest["best_nats"])}
        return cls(params=arrays["params"], best=arrays["best"], moments=moments, **rest)


def fit(loss, params, batch, *, validation=None, stream, options=None, optimizer=None, resume=None, save=None):
    """Minimise the mean loss over the rows of a Batch; params (npgen.nn.Parameters) end at the best epoch's values.

    batch        all rows to train on; with weights the loss is the weighted mean, sum_n w_n loss_n / sum_n w_n
    validation   a Batch to stop by, or None: a share of the rows of batch
    stream       random numbers for the split, the order and the loss
    options      a Training, or whatever has its attributes, as a model that inherits it
    resume       a State to go on from; save(state) is called after every epoch, whose arrays no later epoch writes to
    It runs where batch and params lie; on a GPU no step reads a value back, and the nats of an epoch are read when it is over.
    Returns the State. Ctrl-C ends the run with the best so far; a NaN or infinite loss takes the run back to the start of
    its epoch with half the learning rate, up to ten times. Warns ConvergenceWarning in these two cases, once each.
    Raises ValueError for parameters that are not finite to begin with, and as check_training does.
    """
    options, optimizer = options or Training(), optimizer or Adam()
    check_training(options)
    state = resume or State(params.flat.copy(), params.flat.copy(), optimizer.init(params.flat), stream.spawn(), stream,
                            options.learning_rate)
    order = Stream.from_state(state.split.state()).permutation(len(batch))
    n_valid = min(int(round(len(batch) * options.validation_fraction)), len(batch) - 1) if validation is None else 0
    rows, held_out = np.sort(order[n_valid:]), (batch, np.sort(order[:n_valid]))
    if validation is not None:
        held_out = validation, np.arange(len(validation))
    held_out = held_out[0], np.asarray(held_out[1], like=batch.x)
    if batch.weights is not None:  # of mean 1 over the rows trained on: a batch's mean then estimates the weighted mean
        total = float(batch.weights[rows].sum(dtype=np.float64))
        batch = dataclasses.replace(batch, weights=batch.weights * (len(rows) / total))
    params.flat[:] = state.params
    if not np.isfinite(params.flat).all():
        raise ValueError("fit: the first parameters are not finite; look at the scale of X")
    step = _Step(loss, params, batch, optimizer, options)
    with _progress(options, state) as bar, np.errstate(all="ignore"):  # a loss that is not finite is dealt with below
        try:
            while state.epoch < options.max_epochs and state.since_best < options.patience:
                advanced = _epoch(step, state, rows, held_out)
                if save:
                    save(state)
                if advanced:
                    _report(bar, state, options)
        except KeyboardInterrupt:
            state.interrupted = True
            warn(f"fit: interrupted in epoch {state.epoch + 1}; the best parameters so far are kept", ConvergenceWarning)
    params.flat[:] = state.best if options.restore_best else state.params
    if step.rolled_back:
        n = len(step.rolled_back)
        became = step.rolled_back[0] + (f", the first of {n} times" if n > 1 else "")
        end = (f"and stopped after {_ATTEMPTS} such attempts: look at the data's scale" if state.rollbacks >= _ATTEMPTS
               else f"with learning_rate={state.learning_rate:g}")
        warn(f"fit: the loss became {became}; went back to the last good parameters {end}", ConvergenceWarning)
    return state


class _Step:
    """One optimiser step on a batch, and the nats of rows without one."""

    def __init__(self, loss, params, batch, optimizer, options):
        self.loss, self.params, self.batch = loss, params, batch  # of all rows
        self.optimizer, self.options = optimizer, options
        self.objective = value_and_grad(self._mean)
        self.rolled_back = []  # what the loss became and when, in words
        self.scale, self.on_device = np.ones_like(params.flat, shape=(1,)), is_device_array(params.flat)

    def _mean(self, params, batch, stream):
        losses = self.loss(params, batch, stream)
        return ops.mean(losses) if batch.weights is None else ops.sum(losses * batch.weights) / len(batch)

    def train(self, state, rows):
        """Take one step on the rows of these numbers; returns their mean nats, not finite if the optimiser has to refuse it."""
        value, gradients = self.objective(dict(self.params), self.batch.take(rows), state.stream)
        length = sum([norm.squared(g.ravel())[0] for g in gradients.values()])**0.5
        nats, limit = value + 0 * length, self.options.clip_norm  # 0 times what is not finite is NaN
        self.scale[0] = limit / np.maximum(length, limit) + 0 * nats
        state.step += 1
        if self.options.weight_decay:  # decoupled from the gradient (Loshchilov & Hutter, 2019)
            self.params.flat *= 1 - state.learning_rate * self.options.weight_decay
        for name, part in self.params.parts.items():
            moments = {k: v[part] for k, v in state.moments.items()}
            self.optimizer.update(self.params.flat[part], gradients[name].ravel(), moments, self.scale, state.step,
                                  state.learning_rate)
        return nats

    def nats(self, batch, rows, stream):
        """The (weighted) mean nats of some rows of a Batch, without a step."""
        sums, weights = [], batch.weights
        for part in map(batch.take, _cut(rows, 1000)):
            losses = self.loss(self.params, part, stream)
            sums.append(np.sum(losses if weights is None else losses * part.weights, dtype=np.float64))
        return float(np.sum(np.stack(sums))) / (len(rows) if weights is None else float(weights[rows].sum(dtype=np.float64)))


def _cut(rows, size):
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def _epoch(step, state, rows, held_out):
    """One pass over the rows: True, the state an epoch further; or False, back where it was with half the learning rate.

    The pass works on a copy, so that the state is one at the end of an epoch whenever an error or Ctrl-C comes.
    """
    ahead = dataclasses.replace(state, moments={k: v.copy() for k, v in state.moments.items()})
    state.stream = Stream.from_state(state.stream.state())
    order = np.asarray(rows[ahead.stream.permutation(len(rows))], like=step.batch.x)
    batches, nats = _cut(order, step.options.batch_size), []
    for batch in batches:
        nats.append(step.train(ahead, batch))
        if not step.on_device and not math.isfinite(nats[-1]):  # to look at a GPU's would be to wait for it
            break
    nats = asnumpy(np.stack(nats)).astype(np.float64)
    if not np.isfinite(nats).all():
        return _roll_back(step, state, float(nats[~np.isfinite(nats)][0]))
    train_nats = float(nats @ [len(batch) for batch in batches]) / len(rows)
    validates = len(held_out[-1]) > 0
    valid_nats = step.nats(*held_out, Stream(0)) if validates else train_nats  # the same noise every epoch
    if not math.isfinite(valid_nats):
        return _roll_back(step, state, valid_nats)
    if not all(np.isfinite(values).all() for values in (step.params.flat, *ahead.moments.values())):
        return _roll_back(step, state, math.nan)  # the last step spoiled them, and nothing was scored with them yet
    ahead.params = step.params.flat.copy()
    ahead.epoch += 1
    ahead.since_best += 1
    if valid_nats < ahead.best_nats:
        ahead.best, ahead.best_nats, ahead.since_best = ahead.params, valid_nats, 0
    ahead.history = [*state.history, {"epoch": ahead.epoch, "train_nats": train_nats,
                                      "valid_nats": valid_nats if validates else None,
                                      "learning_rate": ahead.learning_rate, "rollbacks": ahead.rollbacks}]
    vars(state).update(vars(ahead))  # in one piece: a signal comes before it or after
    return True


def _roll_back(step, state, nats):
    step.params.flat[:] = state.params
    state.stream = state.stream.spawn()  # new draws, however far it came
    state.learning_rate /= 2
    state.rollbacks += 1
    step.rolled_back.append(f"{nats} in epoch {state.epoch + 1}")
    if state.rollbacks >= _ATTEMPTS:
        state.since_best = math.inf
    return False


@contextlib.contextmanager
def _progress(options, state):
    if not options.verbose:
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
