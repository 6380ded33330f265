"""The run of a fit: its random numbers, and the file that it is written to and goes on from."""
import hashlib
import math
import os
import time

import numpy as np

from .. import checkpoint, parallel
from ..checks import one_line, with_article
from ..random import Stream, as_stream
from .files import params_to_json, same

WRITE_EVERY = 5.0  # seconds, at least, between two writes of a run's state


class RunFile:
    """What a fit begins with, or goes on from, and where it writes; the file knows the data and hyperparameters it is of.

    stream      the random numbers of the fit; those that the run in the file began with, if it goes on from one
    data        (rows, context or None, weights or None) that the run is of
    n_seen      how many rows there are, or the sum of their weights
    validation  (rows, context or None, weights or None) that fit was given to stop by, or None
    As a context manager it writes, at the end, the last state that it was given. Of several ranks the first reads and writes.
    """

    def __init__(self, path, resume, model, data, n_seen, validation=None):
        self.path, self.n_seen, self.validation, self._before = path, n_seen, validation, None
        self._last, self._due = None, -math.inf  # a state that is not written yet, and when the next is
        if resume and path is None:
            raise ValueError("fit: resume=True needs checkpoint=, the file to go on from")
        workers = parallel.current()
        try:
            self.stream = workers.once(lambda: as_stream(model.random_state))
        except (TypeError, ValueError) as error:
            raise type(error)(f"random_state: {error}") from None
        if workers.size > 1:
            workers.agree("fit: the data", (_digest(*data), validation and _digest(*validation)))
            workers.agree("fit: the hyperparameters", (type(model).__name__, params_to_json(
                model, without=("random_state", "callbacks", "verbose"))))
        self._writes = workers.rank == 0
        if path is None:
            return
        self._header = {"class": "checkpoint", "model": type(model).__name__, "data": _digest(*data),
                        "validation": validation and _digest(*validation),
                        "params": params_to_json(model, without=("max_epochs", "max_iter", "callbacks", "verbose")),
                        "stream": self.stream.state()}
        if before := workers.once(lambda: resume and os.path.exists(path) and checkpoint.read_any(path)):
            arrays, header, number = before
            self._check(header)
            if number < checkpoint.FORMAT:
                raise ValueError(f"fit: the checkpoint {path} is of an older npgen, whose runs do not go on; fit without "
                                 "resume")
            self.stream, self._header["stream"] = Stream.from_state(header["stream"]), header["stream"]
            self._before = arrays, header["state"]

    def _check(self, header):
        for key, wrong in (("class", "holds no training run"), ("model", f"is of {with_article(str(header.get('model')))}"),
                           ("data", "is of other rows or weights"), ("validation", "is of other validation_data")):
            if header.get(key) != self._header[key]:
                raise ValueError(f"fit: the checkpoint {self.path} {wrong}; pass what it was written with, or fit without "
                                 "resume")
        for name, value in self._header["params"].items():
            before = header["params"].get(name)
            if not same(value, before):
                raise ValueError(f"fit: the checkpoint {self.path} was written with {name}={one_line(before)}, but {name} is "
                                 f"{one_line(value)} now; set it back, or fit without resume")

    def read(self):
        """(arrays, dict) as last written, or None where there is nothing to go on from."""
        return self._before

    def write(self, state):
        """Replace the file by what state.save() gives, unless that was done less than WRITE_EVERY seconds ago."""
        if self.path is not None and self._writes:
            self._last = state.save()
            if time.monotonic() >= self._due:
                self._write()

    def _write(self):
        arrays, rest = self._last
        checkpoint.write(self.path, arrays, self._header | {"state": rest})
        self._last, self._due = None, time.monotonic() + WRITE_EVERY

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._last is not None:
            self._write()


def _digest(x, c, weights):
    """A hash of rows, and of their context and weights, or None."""
    if hasattr(x, "digest"):  # of rows in blocks, who read them took it
        return x.digest
    digest = hashlib.sha256(f"{x.shape} {x.dtype} {weights is None}".encode())
    for array in (x, weights, c):
        digest.update(b"" if array is None else array.view(np.uint8))
    return digest.hexdigest()
