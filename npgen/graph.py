"""A training step on a device, captured once as one CUDA graph: a launch instead of one for each kernel, and no Python between.

    places = Places(like)
    order = places.begin(rows, counter)                                        # an epoch
    nats = places.step(take, state, order[:size], size, changing)              # its steps

A graph makes the launches that it saw, on the same memory and with the same numbers. So what changes from step to step lies on
the device and moves on by itself: the clock (npgen.optim), and Places, from which rows are gathered and random numbers drawn.
Memory comes from a pool of the graph's own, which nobody else is given any of; the losses of an epoch's steps go into a ring.
A launch is of one step, however small: before the next the host has 3 us of Python to do, and the driver's part, while a step
of the smallest MADE is some 30 kernels, each of which takes a device longer than a microsecond: it does not wait for the host.
Where the host chooses what a step does, as which of its orders a MADE takes, every choice has a graph of its own: the host
draws it, from where the stream is, before it launches.
It is to a device what npgen.record is to the host, and asks the same of a step: that it is a function of arrays.

What is not captured is taken step by step, to the same bits:
- EnergyModel by noise on a base whose draws the host groups, as a Mixture; given a context, by chains, which begin at rows that
  the host chooses, or on a base that is given it, too, which is asked there;
- MADE of any order, which the host draws for every step, or of several and columns of several kinds, whose heads it orders;
- FlowMatching(coupling="ot"): SciPy pairs noise and rows on the host;
- objective="sliced_wasserstein": CuPy sorts by Thrust, which waits;
- GaussianMixture(solver="adam"): all but an E-step's sums is computed on the host;
- the short batch that ends an epoch, and the first step of a run whose players prepare something, as the RBM's chains.

Legend: n rows, s rows in a batch, k players' steps for a batch, b batches.
Reference: NVIDIA, CUDA C++ programming guide, CUDA graphs: stream capture.
"""
import dataclasses

import numpy as np

from .engine import map_arrays
from .kernels import _cublas, _cuda
from .kernels import random as _kernel
from .random import Stream
from .record import Unrecordable

MOST = 64  # graphs of a fit: what else could be captured is taken step by step
ROW, BLOCK, TURN = range(3)  # of where an epoch is: its first row in the order, the stream's block, the number of the batch


class Places:
    """Where the steps of an epoch are: order (n,) of the rows, and where (3,), on the device as `like` is."""

    def __init__(self, like):
        self.order, self.where, self.like = None, np.zeros_like(like, shape=(3,), dtype=np.int64), like
        self.turn = 0  # where[TURN], which the host knows, too
        self.captured = {}  # graphs by rows' number, stream, precision, and what the host has chosen
        self.choices = {}  # by all but the last, where that is drawn
        self.why = None  # in words, no graph could be made when it was last tried

    def begin(self, rows, counter):
        """An epoch over rows of these numbers, (n,) on the host, whose draws begin at this block; the same numbers there."""
        order, self.turn = np.asarray(rows, like=self.like), 0
        if self.order is None:
            self.order = order
        else:
            self.order[...] = order
        self.where[...] = np.asarray(np.array([0, counter, 0]), like=self.like)
        return self.order

    def forget(self):
        """Every graph: what they change lies elsewhere now."""
        self.captured.clear()
        self.choices.clear()

    def step(self, take, state, rows, size, changing):
        """take(state, rows), by a graph where it is of `size` rows, the next of the epoch, and can be captured.

        changing: arrays, in tuples and dicts, that the step changes; they are as they were where it is taken the ordinary way.
        """
        alike = len(rows), state.stream.key, _cublas.asked()
        key = *alike, *(chosen(state.stream, *choice) for choice in self.choices.get(alike, ()))
        if key in self.captured or len(self.captured) == MOST:
            graph = self.captured.get(key)
            return graph(state) if graph else self._without(alike, take, state, rows)
        graph = self._capture(take, state, len(rows), size, (*changing, self.where))
        if graph:
            self.choices[alike] = [choice for choice, _ in graph.chosen]
            key = *alike, *(which for _, which in graph.chosen)
        self.captured[key] = graph
        return graph.nats() if graph else self._without(alike, take, state, rows)

    def _without(self, alike, take, state, rows):
        """take(state, rows), where the next step may be by a graph if some that are alike have been."""
        return self.passing(take, state, rows) if alike in self.choices else take(state, rows)

    def passing(self, take, state, rows):
        """take(state, rows), one after the other; the next step may be by a graph."""
        before, nats = state.stream.counter, take(state, rows)
        moved = np.array([len(rows), state.stream.counter - before, 1])
        self.where[...] = self.where + np.asarray(moved, like=self.where)
        self.turn += 1
        return nats

    def _capture(self, take, state, n, size, changing):
        if self.order is None or n < min(size, len(self.order)):  # the short one that ends an epoch
            return None
        before = map_arrays(lambda a: a.copy(), changing)
        try:
            return Captured(take, state, n, self)
        except Exception as error:  # what is wrong with the step itself is told of when it is taken
            self.why = f"because of {type(error).__name__}: {error}".partition("\n")[0]
            map_arrays(np.copyto, changing, before)
            return None


def chosen(stream, block, n):
    """What a stream that this one spawns so many blocks on chooses of n."""
    return Stream(key=stream.key, counter=stream.counter + block).spawn().choose(n)


class Captured:
    """take(state, rows) -> k nats, on the next s rows of the order: taken once when it is made, and at every call.

    Raises whatever the step raises where it does what cannot be captured: where it draws numbers on the host, reads a value or
    sends one, asks a library of CUDA's. It may have changed the state's arrays by then.
    """

    def __init__(self, take, state, size, places):
        cupy = _cuda.require()
        self.take, self.places, self.steps = take, places, np.asarray(np.arange(size), like=places.like)
        self.ring = None
        self.pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
        _cuda.forget_constants()  # those that the step asks for come from the pool, where they stay
        cupy.cuda.get_current_stream().synchronize()
        with cupy.cuda.using_allocator(self.pool.malloc), stream:
            self.blocks = self._run(state)  # compiles what there is to compile, and fills the pool
            stream.begin_capture()
            try:
                self._run(state)
            finally:
                self.graph = stream.end_capture()
        stream.synchronize()
        self._moved(state)

    def __call__(self, state):
        """The nats of the next step, k arrays of no dimension, which are there until the epoch is over."""
        self.graph.launch()
        return self._moved(state)

    def nats(self):
        """Those of the last step."""
        return [self.ring[self.places.turn - 1, j] for j in range(self.ring.shape[1])]

    def _moved(self, state):
        state.stream.counter += self.blocks
        self.places.turn += 1
        return self.nats()

    def _run(self, state):
        """The step, on the device alone; how many blocks of the stream it took."""
        order, where = self.places.order, self.places.where
        stream = _Stream(state.stream, where[BLOCK:BLOCK + 1])
        nats = self.take(dataclasses.replace(state, stream=stream), np.take(order, where[ROW:ROW + 1] + self.steps))
        nats = np.concatenate([np.stack(nats[i:i + 8]) for i in range(0, len(nats), 8)])  # CuPy is sent more by the host
        if self.ring is None:
            self.ring = np.zeros_like(nats, shape=(-(-len(order) // len(self.steps)), len(nats)))
        self.ring[where[TURN:TURN + 1]] = nats[None]
        where += _cuda.constant(np.array([len(self.steps), stream.counter, 1]))
        self.chosen = stream.chosen
        return stream.counter


class _There(Stream):
    """A stream of which numbers can be drawn on the device alone."""

    def _draw(self, kernel, shape, dtype, like):
        if not _cuda.is_device_array(like):
            raise Unrecordable("a draw of numbers on the host")
        return super()._draw(kernel, shape, dtype, like)

    def _generator(self):
        raise Unrecordable("a draw of Python's numbers")


class _Stream(_There):
    """The stream from block since[0] on, which lies on the device; chosen: [((block, n), what the host has chosen of n)]."""

    def __init__(self, stream, since):
        super().__init__(key=stream.key)
        self._host, self._since, self.chosen = stream, since, []

    def reserve(self, n_values, dtype):
        key, start = super().reserve(n_values, dtype)
        return key, _kernel.Place(start, self._since)

    def spawn(self):
        child = self._advance(1)
        return _Spawned((_kernel.Key(word, child, self._since) for word in self.key), self)

    def choose_of(self, block, n):
        """What the stream that is spawned at this block chooses of n."""
        self.chosen.append(((block, n), chosen(self._host, block, n)))
        return self.chosen[-1][1]


class _Spawned(_There):
    """A stream whose key is made on the device, by kernels that can. by: the _Stream that has spawned it, if it was one."""

    def __init__(self, key, by=None):
        super().__init__(key=(0, 0))
        self.key, self._by = tuple(key), by

    def choose(self, n):
        if self._by is None or self._advance(1):  # it would not be the first that it draws
            raise Unrecordable("a choice that is not of a stream's own child")
        return self._by.choose_of(self.key[0].child, n)

    def spawn(self):
        if self._by is None:
            raise Unrecordable("a stream of a stream of a stream whose key lies on the device")
        grandchild = self._advance(1)
        return _Spawned(_kernel.Key(word, word.child, word.since, grandchild) for word in self.key)
