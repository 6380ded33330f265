"""Expectation maximisation from several starts, for components of any kind, and its state, from which a run goes on.

A model says how to start, to expect and to maximise (base.MixtureModel); what an M-step has to know of rows are sums. On a
device, rows, components and statistics stay there, and an iteration waits for what MixtureModel._read reads of it, once.

Legend: k components.
Reference: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm (1977).
"""
import contextlib
import dataclasses

import numpy as np

from ...kernels._cuda import asnumpy
from ...random import Stream
from ...train import ConvergenceWarning
from ...warn import warn
from .rows import placed

MOST_SEEDINGS = 5   # of a component in one attempt: one that dies again after that is one too many, and stays empty


@dataclasses.dataclass
class Statistics:
    """What an M-step has to know of rows: those of rows seen with the same parameters add, in any grouping.

    n (k,) rows per component; moments: arrays (k, ...), of Gaussians the first (k, d) and second of the whitened rows, else
    one for each head; nats: the sum of the rows' log-densities, in the units of the data; weight: how many rows there were.
    """

    n: np.ndarray
    moments: tuple
    nats: float
    weight: float

    def __add__(self, other):
        moments = tuple(a + b for a, b in zip(self.moments, other.moments, strict=True))
        return Statistics(self.n + other.n, moments, self.nats + other.nats, self.weight + other.weight)

    def __mul__(self, factor):
        return Statistics(self.n * factor, tuple(a * factor for a in self.moments), self.nats * factor, self.weight * factor)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """EM from one start: the components, and the mean nats under the start and after every iteration.

    An iteration makes a new one, so that an interrupt finds components and likelihood that belong together.
    """

    components: object
    nats: list = dataclasses.field(default_factory=list)
    converged: bool = False
    reseeded: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class State:
    """An EM run at the end of an iteration: what the attempts before this one reached, the best of them, the present one."""

    stream: Stream
    attempt: Attempt | None = None
    best: Attempt | None = None
    reached: list = dataclasses.field(default_factory=list)

    def save(self):
        """(arrays, JSON-able dict) that restore() takes back."""
        attempts = {name: a for name in ("attempt", "best") if (a := getattr(self, name))}
        arrays = {f"{name}.{key}": asnumpy(value) for name, a in attempts.items()
                  for key, value in a.components.arrays().items()}
        rest = {name: {key: value for key, value in vars(a).items() if key != "components"} for name, a in attempts.items()}
        return arrays, {**rest, "stream": self.stream.state(), "reached": [*self.reached]}

    @classmethod
    def restore(cls, make, arrays, rest):
        """The state that save() described; make turns arrays by name into components again."""
        def of(name):
            return {key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")}
        attempts = {name: Attempt(make(of(name)), **rest[name]) for name in ("attempt", "best") if name in rest}
        return cls(stream=Stream.from_state(rest["stream"]), reached=rest["reached"], **attempts)

    def likelier(self):
        """The likeliest attempt so far."""
        evaluated = [a for a in (self.best, self.attempt) if a and a.nats]
        return max(evaluated, key=lambda a: a.nats[-1], default=None)


def iterate(model, rows, run, n_init):
    """The likeliest attempt of n_init starts, and the mean nats that each of them reached."""
    before = run.read()
    state = State.restore(lambda arrays: placed(rows.place, model._restore_components(arrays)), *before) if before else \
        State(run.stream)
    with _progress(model, n_init * model.max_iter) as bar:
        def report(attempt):
            entry = {"epoch": len(attempt.nats) - 1, "train_nats": -attempt.nats[-1], "valid_nats": None}
            start = len(state.reached)
            if bar is not None:
                bar.set_postfix(nats=f"{entry['train_nats']:.3f}", start=f"{start + 1}/{n_init}", refresh=False)
                bar.update(start * model.max_iter + entry["epoch"] - bar.n)
            run.write(state)
            for callback in model.callbacks:
                callback(entry)

        try:
            while len(state.reached) < n_init:
                state.attempt = state.attempt or Attempt(model._start(rows, state.stream))
                _climb(model, state, rows, report)
                state.reached.append(state.attempt.nats[-1])
                state.best, state.attempt = state.likelier(), None
        except KeyboardInterrupt:
            if state.likelier() is None:
                raise
            warn("fit: interrupted; the likeliest parameters so far are kept", ConvergenceWarning)
    best = state.likelier()
    return dataclasses.replace(best, components=placed(asnumpy, best.components)), state.reached


def _climb(model, state, rows, report):
    """EM iterations until the attempt has converged or has had its share."""
    attempt = state.attempt
    statistics = model._expect(attempt.components, rows)
    state.attempt = attempt = dataclasses.replace(attempt, nats=attempt.nats or [model._read(statistics)[0]])
    while not attempt.converged and len(attempt.nats) <= model.max_iter:
        seedings = np.bincount([entry["component"] for entry in attempt.reseeded], minlength=model.n_components)
        components, lost = model._maximise(attempt.components, statistics)
        statistics = model._expect(components, rows)
        nats, lost = model._read(statistics, lost)
        lost &= seedings < MOST_SEEDINGS
        if lost.any():
            components = model._reseed(components, lost, rows, state.stream)
            statistics = model._expect(components, rows)
            nats = model._read(statistics)[0]
        reseeded = [{"iteration": len(attempt.nats), "component": int(k)} for k in np.flatnonzero(lost)]
        converged = not lost.any() and abs(nats - attempt.nats[-1]) <= model.tol
        state.attempt = attempt = Attempt(components, [*attempt.nats, nats], converged, attempt.reseeded + reseeded)
        report(attempt)


def _progress(model, total):
    if not model.verbose:  # not a disabled bar: even that starts a thread, and takes a lock that forked processes share
        return contextlib.nullcontext()
    from tqdm import tqdm
    return tqdm(total=total, unit="iteration", miniters=model.verbose_interval)
