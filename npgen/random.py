"""Random numbers for the library: one counter-based stream, the same draws for any batch size, thread count and device.

A stream is a key and a counter; drawing takes the next whole blocks (256 float32 or 128 float64 values each) and moves
the counter past them, so that a stream's whole state is three integers. There is no global state.
Reference: Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
"""
import hashlib
import math
import numbers
import typing

import numpy as np

from .kernels import random as _kernel
from .kernels._cuda import asnumpy


def as_stream(rng=None):
    """The stream for what users pass as `rng`.

    None gives a fresh stream from the operating system's entropy; a non-negative int or a SeedSequence the same one
    every time; a Generator or RandomState is advanced to draw a key; a Stream is returned as it is.
    Raises TypeError for anything else, ValueError for a negative int.
    """
    return rng if isinstance(rng, Stream) else Stream(rng)


def row_streams(x):
    """A stream for each of the rows x (n, d), keyed by a hash of the row, which is taken on the host.

    It depends neither on a row's place, nor on the rows beside it, nor on their dtype.
    """
    for row in asnumpy(x).astype(np.float64) + 0.0:  # + 0.0 makes -0 and 0 the same
        yield Stream(key=np.frombuffer(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), dtype=np.uint32))


def row_normals(x, shape):
    """Standard normals (n, *shape) that are a function of the rows x (n, d): each is of its row's own stream."""
    noise = np.empty((len(x), *shape), x.dtype)
    for stream, out in zip(row_streams(x), noise, strict=True):
        out[...] = stream.normal(shape, x.dtype)
    return np.asarray(noise, like=x)


class Share(typing.NamedTuple):
    """n rows of a batch of `total`, from number `first` on; counts: False for one that stands in where there is none."""

    first: int
    n: int
    total: int
    counts: bool = True


class Stream:
    """A stream of random numbers: the same seed gives the same draws.

    seed     None (the operating system's entropy), a non-negative int, a SeedSequence or a Generator
    key      instead of a seed, two 32-bit integers; counter is then the first block of the stream to use
    share    None, or the Share of a batch that is drawn for, by a process that has no more of it: the first dimension of
             arrays drawn is of its n rows then, and they are what these rows have among the draws for the whole batch
    """

    share = None

    def __init__(self, seed=None, *, key=None, counter=0):
        self.key = tuple(map(int, _key_of(seed) if key is None else key))
        self.counter = int(counter)

    def __repr__(self):
        return f"Stream(key={self.key}, counter={self.counter})"

    def normal(self, shape=(), dtype=np.float64, like=None):
        """Standard normals of this shape, float32 or float64; drawn on the device, to the same bits, if `like` is there."""
        return self._draw(_kernel.normal, shape, dtype, like)

    def uniform(self, shape=(), dtype=np.float64, like=None):
        """Uniforms strictly inside (0, 1) of this shape, float32 or float64; drawn on the device if `like` is there."""
        return self._draw(_kernel.uniform, shape, dtype, like)

    def integers(self, n, size=()):
        """Integers uniform on 0, ..., n - 1, without bias."""
        return self._generator().integers(n, size=size)

    def permutation(self, n):
        """The integers 0, ..., n - 1 in a random order."""
        return self._generator().permutation(n)

    def choose(self, n):
        """One of 0, ..., n - 1."""
        return int(self.permutation(n)[0])

    def spawn(self):
        """A new stream, independent of what this one draws from now on."""
        block = np.uint64(self._advance(1) * _kernel.LANES)
        zero, half = np.uint64(0), np.uint64(32)
        words = _kernel.philox(block & np.uint64(2**32 - 1), block >> half, zero, zero, *map(np.uint64, self.key))
        spawned = Stream(key=words[:2])
        spawned.share = self.share
        return spawned

    def share_of(self, n):
        """The Share that n rows are."""
        return Share(0, n, n) if self.share is None else self.share

    def reserve(self, n_values, dtype):
        """(key, start) of the next n_values values, for a kernel that draws them itself: as if they had been drawn."""
        dtype = np.dtype(dtype)
        if dtype.char not in "fd":
            raise TypeError(f"dtype must be float32 or float64, got {dtype}")
        per_block, before = _kernel.values_per_block(dtype), 0
        if self.share is not None:
            each, rest = divmod(n_values, self.share.n)
            if rest:
                raise ValueError(f"{n_values} values are not as many for each of the {self.share.n} rows of a share")
            before, n_values = self.share.first * each, self.share.total * each
        return self.key, self._advance(-(-n_values // per_block)) * per_block + before

    def state(self):
        """The stream as a dict of ints; from_state continues it."""
        return {"key0": self.key[0], "key1": self.key[1], "counter": self.counter}

    @classmethod
    def from_state(cls, state):
        """The stream that state() was taken from, at the same place."""
        return cls(key=(state["key0"], state["key1"]), counter=state["counter"])

    def _advance(self, n_blocks):
        self.counter += n_blocks
        return self.counter - n_blocks

    def _draw(self, kernel, shape, dtype, like):
        shape = (shape,) if isinstance(shape, numbers.Integral) else tuple(shape)
        if self.share is not None and shape[:1] != (self.share.n,):
            raise ValueError(f"a draw of shape {shape} is not one for each of the {self.share.n} rows of a share")
        key, start = self.reserve(math.prod(shape), dtype)
        return kernel(np.empty(math.prod(shape), dtype, like=like), *key, start).reshape(shape)

    def _generator(self):
        """NumPy's algorithms for integers, on Philox4x64 keyed by this stream's key and next block."""
        return np.random.Generator(np.random.Philox(key=self.key[0] | self.key[1] << 32 | self._advance(1) << 64))


def _key_of(seed):
    if isinstance(seed, np.random.Generator):
        return seed.integers(2**32, size=2, dtype=np.uint64)
    if isinstance(seed, np.random.RandomState):  # as scikit-learn's users pass it
        return seed.randint(2**32, size=2, dtype=np.uint64)
    if isinstance(seed, numbers.Integral) and not isinstance(seed, bool | np.bool_):
        if seed < 0:
            raise ValueError(f"rng: a seed must not be negative, got {seed}; pass a non-negative int")
        seed = int(seed)
    elif seed is not None and not isinstance(seed, np.random.SeedSequence):
        raise TypeError(f"rng must be None, a non-negative int, a SeedSequence, a Generator or a Stream, got {seed!r}")
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return sequence.generate_state(2)
