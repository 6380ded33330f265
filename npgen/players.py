"""Who trains: rows with what belongs to them, players that move parameters by a loss, and the step that one takes on a batch.

Legend: n rows in a batch, d features, w context columns, t steps.
"""
import collections.abc
import dataclasses

import numpy as np

from . import ops, optim
from .engine import value_and_grad
from .kernels import gather, norm
from .optim import BASE, RATE, STEP


@dataclasses.dataclass(eq=False)
class Batch:
    """Rows x (n, d), what they are given, context (n, w) or None, and how much each counts, weights (n,) or None.

    carry: what its player has prepared for it, {name: array}, in the loop.
    """

    x: np.ndarray
    context: np.ndarray | None = None
    weights: np.ndarray | None = None
    carry: dict | None = None

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


@dataclasses.dataclass(kw_only=True, eq=False)
class Player:
    """Who moves parameters: maximum likelihood is one player, a GAN two, an energy model one that prepares its chain.

    loss           loss(params, batch, stream) -> (n,) nats per row, of which the player follows the (weighted) mean
    name           in history_ and in files; no two players have the same
    moves          names of the parameters that it moves, which follow one another; None for all
    steps          that it takes with every batch
    prepare        None, or prepare(params, carry, batch, stream) -> carry before every step: {name: array} of what is kept from
                   step to step, a chain or an order, {} at first. The loss finds it in batch.carry; it is saved and goes back
                   with the parameters, but for names with _ before, which this step alone sees
    optimizer      as in Training; None for the one there
    learning_rate  as in Training; None for the one there
    repeats        whether the loss is a function of its arguments alone, so that a step may be recorded once and run again on
                   other rows (npgen.record): what it does beside, to Python's objects, is then done once. prepare has to be
                   one, too, and what it keeps must keep its names and shapes
    by_rows        whether a row's loss is a function of that row and of what is drawn for it alone, so that several processes
                   may each have a share of a batch: arrays that are drawn are of its rows then (Stream.share), and what is
                   drawn as Python's numbers is the same for all. Not with prepare
    """

    loss: collections.abc.Callable
    name: str = "loss"
    moves: tuple | None = None
    steps: int = 1
    prepare: collections.abc.Callable | None = None
    optimizer: object = None
    learning_rate: float | None = None
    repeats: bool = False
    by_rows: bool = False

    def __post_init__(self):
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"Player {self.name}: steps must be a positive integer, got {self.steps!r}")


class Move:
    """A player's step on a batch; gradient has the parameters' names, shapes and order, and room for their gradients.

    total: None, or what replaces an array by its sum over all processes, where each takes the step on a share of the batch
    """

    def __init__(self, player, params, gradient, options, total=None):
        self.player, self.params, self.options, self.limit, self.total = player, params, options, options.clip_norm, total
        self.names = tuple(params if player.moves is None else player.moves)
        span = params.span(self.names)
        self.flat, self.gradient = params.flat[span], gradient.flat[span]
        self.gradients = {name: gradient[name] for name in self.names}
        self.tick, self.all = np.asarray([1.0, 0, 0, 0], like=params.flat), self.names == tuple(params)
        self.optimizer = optim.optimizer(options.optimizer if player.optimizer is None else player.optimizer)
        self.decay = options.weight_decay + getattr(self.optimizer, "decay", 0)
        self.base = options.learning_rate if player.learning_rate is None else player.learning_rate
        self.schedule, self.epochs, self.warmup = optim.schedule(options.schedule), options.max_epochs, options.warmup
        self.scheduled = self.warmup > 0 or not isinstance(self.schedule, optim.Constant)
        self.per_epoch = player.steps  # steps, times the batches

    def _mean(self, moved, batch, stream):
        losses = self.player.loss(moved if self.all else {**self.params, **moved}, batch, stream)
        return ops.sum(losses if batch.weights is None else losses * batch.weights) / stream.share_of(len(batch)).total

    def _of_all(self, value):
        """The whole batch's mean nats, and in self.gradient theirs: the sums of what every process has of its share."""
        both = self.total(np.concatenate([self.gradient, np.reshape(value, 1)]))
        self.gradient[:] = both[:-1]
        return both[-1]

    def over(self, params, gradient):
        """The same player's step on other arrays."""
        other = Move(self.player, params, gradient, self.options, self.total)
        other.per_epoch = self.per_epoch
        return other

    def rates(self, epoch, epochs):
        """The shares of the learning rate at these times, in epochs, (t,)."""
        return self.schedule(epoch, epochs) * (np.minimum(epoch / self.warmup, 1) if self.warmup else 1)

    def __call__(self, state, clock, batch):
        """Take the step; returns the batch's mean nats, not finite if the optimiser has to refuse it."""
        player = self.player
        if player.prepare:
            prepared = player.prepare(dict(self.params), state.carry, batch, state.stream)
            for name, a in prepared.items():
                if player.repeats and name in state.carry:
                    state.carry[name][...] = a  # a step that is made again finds it in the same memory
                elif name[0] != "_":
                    state.carry[name] = a
        batch.carry = state.carry | prepared if player.prepare else state.carry
        moved = {name: self.params[name] for name in self.names}
        value, _ = value_and_grad(self._mean, out=self.gradients)(moved, batch, state.stream)
        value = value if self.total is None else self._of_all(value)
        length = np.sqrt(norm.squared(self.gradient))
        nats = value + 0 * length[0]  # 0 times what is not finite is NaN
        scale = (self.limit / np.maximum(length, self.limit) + 0 * nats).astype(self.flat.dtype)
        clock += self.tick
        if self.scheduled:
            clock[RATE:RATE + 1] = clock[BASE:BASE + 1] * self.rates(clock[STEP:STEP + 1] / self.per_epoch, self.epochs)
        if self.decay:  # decoupled from the gradient (Loshchilov & Hutter, 2019)
            self.flat *= (1 - clock[RATE:RATE + 1] * self.decay).astype(self.flat.dtype)
        self.optimizer.update(self.flat, self.gradient, state.moments[player.name], scale, clock)
        return nats
