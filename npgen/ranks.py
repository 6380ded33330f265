"""Ranks: processes that mpirun has started, which all run the same program and tell one another what they have.

A rank that fails alone would leave the others waiting for it: here it ends them all, after it has said why. One that waits in
vain for as long as `limit` does, too.
"""
import contextlib
import hashlib
import os
import sys
import threading
import time

import numpy as np

from .kernels import _blas, _jit

GRACE = 10.0  # seconds that a rank which has failed waits for the others to fail, too, before it ends them


class WorkersError(RuntimeError):
    """Workers died, ran out of memory, or did not answer, and what they were to do cannot be done without them."""


class Ranks:
    """What the ranks of an mpi4py communicator tell one another; limit: seconds that one waits for the others."""

    limit = 3600.0

    def __init__(self, mpi, comm):
        self._mpi, self.comm, self.rank, self.size = mpi, comm, comm.Get_rank(), comm.Get_size()
        self._since = None  # when this one began to wait for the others
        if self.size > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        self._aside = self._waiting(comm.Dup)  # where ranks say how they ended
        if self.size > 1:
            _share_cores(self._waiting(comm.Split_type, mpi.COMM_TYPE_SHARED).Get_size())
            before = sys.excepthook
            sys.excepthook = lambda *error: (before(*error), comm.Abort(1))  # else MPI waits for the others, at exit

    def sum(self, arrays):
        for array in arrays:
            self._waiting(self.comm.Allreduce, self._mpi.IN_PLACE, array)
        return arrays

    def once(self, compute):
        given, error = None, None
        if self.rank == 0:
            try:
                given = compute()
            except Exception as raised:
                error = self._sendable(raised)
        given, error = self._waiting(self.comm.bcast, (given, error))
        if error is not None:
            raise error
        return given

    def agree(self, what, value):
        if len(set(self._waiting(self.comm.allgather, digest(value)))) > 1:
            raise ValueError(f"{what} must be the same on all of {self.size} ranks, and are not; for a fit of each rank's own, "
                             "call it inside `with npgen.parallel.Serial():`")
        return value

    @contextlib.contextmanager
    def together(self):
        error = None
        try:
            yield
        except BaseException as raised:
            error = raised
        failed = self._failed(error)
        if error is not None:
            raise error
        if failed:
            raise WorkersError(f"rank {failed[0]} has failed, and says why")

    def _failed(self, error):
        """The ranks on which a block has failed.

        Where it has on this one and others do not come for GRACE seconds, they wait for it in the middle of the block: all end.
        """
        mine, everyones, since = np.array([error is not None]), np.zeros(self.size, bool), time.monotonic()
        request, limit = self._aside.Iallgather(mine, everyones), self.limit if error is None else min(GRACE, self.limit)
        while not request.Test():
            time.sleep(min(1e-2, (time.monotonic() - since) / 10))
            if time.monotonic() - since > limit:
                self._end(f"waited {limit:g} seconds for the others" if error is None else str(error) or type(error).__name__)
        return np.flatnonzero(everyones).tolist()

    def _waiting(self, collective, *args):
        """collective(*args), to which every rank has to come: within the limit, or _watch ends all.

        A thread that watches, for a collective that is asked for again and again until it is done costs its latency each step.
        """
        self._since = time.monotonic()
        answer = collective(*args)
        self._since = None
        return answer

    def _watch(self):
        while True:
            time.sleep(min(1.0, self.limit / 4))
            since = self._since
            if since is not None and time.monotonic() - since > self.limit:
                self._end(f"waited {self.limit:g} seconds for the others")

    def _end(self, why):
        print(f"npgen: error: rank {self.rank} of {self.size}: {why}; all ranks end", file=sys.stderr, flush=True)
        self.comm.Abort(2)

    def _sendable(self, error):
        """The error, or where that cannot be sent, what it says."""
        try:
            self._mpi.pickle.loads(self._mpi.pickle.dumps(error))
            return error
        except Exception:
            return WorkersError(f"{type(error).__name__}: {error}")


def digest(value):
    """A hash of an array, or of the repr of anything else."""
    return hashlib.blake2b(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()).digest()


def _share_cores(n):
    """As many threads as each of n processes has cores of this machine, unless they are bound to some, or told how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if _jit.available and cores == os.cpu_count() and "NUMBA_NUM_THREADS" not in os.environ:
        import numba
        _blas.load()
        _jit.start()
        numba.set_num_threads(max(1, cores // n))
