"""Workers: what computes a function of blocks of rows, somewhere, and adds up what it gives, to the same bits anywhere.

    Serial       this process, with all its threads
    Processes    several processes on this machine, started anew by joblib's loky
    Dask         the workers of a distributed.Client
    MPI          the ranks that mpirun has started, each of which runs the whole program

The unit of work is a module-level function of (parameters, block). What it gives is added in a binary tree over the blocks'
numbers, ((0 + 1) + (2 + 3)) + ..., which knows nothing of workers: neither how many they are, nor which of them was quicker,
nor one that died, changes a bit. No wait is without a limit.
"""
import abc
import contextlib
import contextvars
import functools
import importlib
import os
import queue
import sys
import time

from .kernels import _jit, session
from .ranks import Ranks, WorkersError
from .tree import CLIMB, Tree, above, added, runs, tree_sum

LIMIT = 3600.0  # seconds without one more result, after which workers are given up
ATTEMPTS = 3    # at a block, before its error is that of the whole
LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # where mpirun says how many ranks there are
OWNER = "NPGEN_RANK"  # where the process is named that is a rank: those that it starts find mpirun's words, too, and are none
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Workers(abc.ABC):
    """Workers of one kind; inside `with workers:` they compute what is fitted and asked.

    rank, size: of the processes that all run this same program, which one this is, and how many they are: 0 of 1 but for MPI.
    limit: seconds without one more result, after which WorkersError is raised.
    """

    rank, size = 0, 1
    apart = True  # whether blocks are sent to other processes than the one that asks

    def __init__(self, *, limit=LIMIT):
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
            raise ValueError(f"limit must be a positive number of seconds, got {limit!r}")
        self.limit = limit

    def sum(self, arrays):
        """The arrays, each of which is now, in place, its sum over all ranks: to the same bits on each of them."""
        return arrays

    def once(self, compute):
        """What compute() gives on rank 0, which alone calls it, on every rank; its error is everyone's."""
        return compute()

    def agree(self, what, value):
        """The value. Raises ValueError, on every rank, unless it is the same on all: an array, or of the same repr."""
        return value

    def together(self):
        """A block that all ranks run: where it fails on one, all end, and that one says why."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def map_blocks(self, function, blocks, *args):
        """[function(*args, block) for block in blocks], of which the workers compute each."""

    @abc.abstractmethod
    def sum_blocks(self, function, blocks, *args):
        """The sum of function(*args, block) over one block or more, as a Tree adds them."""

    def __enter__(self):
        self._token = _current.set(self)
        return self

    def __exit__(self, *_):
        _current.reset(self._token)


class Serial(Workers):
    """This process."""

    apart = False

    def map_blocks(self, function, blocks, *args):
        return [_in_session(function, args, block) for block in blocks]

    def sum_blocks(self, function, blocks, *args):
        return tree_sum((_in_session(function, args, block) for block in blocks), len(blocks))


class Processes(Workers):
    """n processes on this machine, of one thread each; they end some minutes after they were last asked. Needs joblib.

    Blocks of a process that dies are computed anew, ATTEMPTS times at most.
    """

    def __init__(self, n, *, limit=LIMIT):
        super().__init__(limit=limit)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"Processes: n must be a positive integer, got {n!r}")
        self.n, self._joblib = n, _needed("joblib", "Processes", "processes")

    def map_blocks(self, function, blocks, *args):
        return [part for _, parts in self._results(_each_of, function, blocks, args) for part in parts]

    def sum_blocks(self, function, blocks, *args):
        return added(len(blocks), *zip(*self._results(_sum_of, function, blocks, args), strict=True))

    def _results(self, compute, function, blocks, args):
        """(its node, compute(function, args, run)) of every run of blocks, in their order."""
        from concurrent.futures.process import BrokenProcessPool
        todo, done, failures = runs(blocks, self.n), 0, 0
        while done < len(todo):
            executor = self._joblib.externals.loky.get_reusable_executor(self.n, timeout=300, env=dict.fromkeys(THREADS, "1"))
            try:
                futures = [(node, executor.submit(compute, function, args, run)) for node, run in todo[done:]]
                for node, future in futures:
                    parts = future.result(self.limit)
                    yield node, parts
                    done, failures = done + 1, 0
            except BrokenProcessPool:
                failures += 1
                if failures == ATTEMPTS:
                    (i, h), _ = todo[done]
                    raise WorkersError(f"block {i << h} or one beside it has ended the process at it {ATTEMPTS} "
                                       "times; give it more memory, or make blocks smaller") from None
            except BaseException as error:
                late = isinstance(error, TimeoutError) and not future.done()
                with contextlib.suppress(AttributeError, queue.Empty):  # loky's thread would look for what shutdown takes away
                    while True:
                        executor._work_ids.get_nowait()
                executor.shutdown(kill_workers=True)  # else the next fit waits for what they are at, and the program's end does
                if late:
                    raise WorkersError(f"{self.n} processes gave no result for {self.limit:g} seconds; allow them more by "
                                       "limit=, or make blocks smaller") from None
                raise


class Dask(Workers):
    """The workers of a distributed.Client, by default of the one that this process made last. Needs distributed.

    Dask computes anew what a worker had computed that died, and what it was at.
    """

    def __init__(self, client=None, *, limit=LIMIT):
        super().__init__(limit=limit)
        self._distributed = _needed("distributed", "Dask", "dask")
        try:
            self.client = client or self._distributed.default_client()
        except ValueError:
            raise ValueError("Dask: there is no distributed.Client; make one, or pass it") from None

    def map_blocks(self, function, blocks, *args):
        with self._errors():
            tasks = [task for _, task in self._tasks(_each_of, function, blocks, args)]
            return [part for parts in self._results(tasks) for part in parts]

    def sum_blocks(self, function, blocks, *args):
        from dask import delayed
        with self._errors():
            nodes, height = self._tasks(_sum_of, function, blocks, args), 0
            while len(nodes) > 1:
                groups, height = {}, height + CLIMB
                for node, task in nodes:
                    groups.setdefault(above(node, height), []).append((node, task))
                nodes = [(node, each[0][1] if len(each) == 1 else delayed(added)(len(blocks), *zip(*each, strict=True)))
                         for node, each in groups.items()]
            return self._results([nodes[0][1]])[0]

    def _tasks(self, compute, function, blocks, args):
        """[(its node, a task)] of each run of blocks. A task of its own has the parameters: they are sent once, and a copy
        that is lost is made anew.

        A block of Dask's own is a run, whose task has it as an argument; any other is a part of the task's function.
        """
        from dask import annotate, delayed
        parameters = delayed(args, traverse=False)
        if hasattr(blocks[0], "lazy"):
            return [((i, 0), delayed(functools.partial(compute, function))(parameters, [block.lazy()]))
                    for i, block in enumerate(blocks)]
        tasks = []
        for i, (node, run) in enumerate(runs(blocks, self._n_threads(blocks))):
            with annotate(priority=-i):  # the longest first; Dask would take any
                tasks.append((node, delayed(functools.partial(compute, function, blocks=run), traverse=False)(parameters)))
        return tasks

    def _n_threads(self, blocks):
        """Of all workers; 1 where every run has one block, whatever they have."""
        return 1 if len(blocks) < 4 else sum(self._asked(self.client.scheduler.ncores).values()) or 1

    def _asked(self, question):
        """What the scheduler answers."""
        try:
            return self.client.sync(question, workers=None, callback_timeout=self.limit)
        except TimeoutError:
            raise WorkersError(f"the Dask scheduler gave no answer for {self.limit:g} seconds; see whether it still runs, or "
                               "allow it more by limit=") from None

    @contextlib.contextmanager
    def _errors(self):
        """Errors of Dask's own as WorkersError."""
        try:
            yield
        except self._distributed.KilledWorker:
            raise WorkersError(f"a block has ended {ATTEMPTS} Dask workers or more that were at it; give them more memory, or "
                               "make blocks smaller") from None
        except Exception as error:
            lost = self._distributed.client.FutureCancelledError, self._distributed.comm.CommClosedError
            if isinstance(error, lost) or self.client.status != "running":
                raise WorkersError("the Dask scheduler has gone away; start one, and go on from the checkpoint") from None
            raise

    def _results(self, tasks):
        with self.client.as_current():  # whatever other clients there are
            futures = self.client.compute(tasks, retries=ATTEMPTS - 1)
            self._wait(futures)
            try:
                return [future.result(timeout=self.limit) for future in futures]  # again, where a worker has died with one
            except self._distributed.TimeoutError:
                if any(future.status == "error" for future in futures):  # the function's own
                    raise
                raise self._late() from None

    def _wait(self, futures):
        """Return once all are done; raise WorkersError where the tasks at work have been the same for too long."""
        at_work, since, pause = None, time.monotonic(), min(5.0, self.limit / 4)
        while True:
            with contextlib.suppress(TimeoutError):
                self._distributed.wait(futures, timeout=pause)
                return
            now = self._asked(self.client.scheduler.processing)
            if now != at_work:
                at_work, since = now, time.monotonic()
            elif time.monotonic() - since > self.limit:
                raise self._late()

    def _late(self):
        return WorkersError(f"the Dask workers gave no result for {self.limit:g} seconds; see whether there are any, or allow "
                            "them more by limit=")


class MPI(Ranks, Workers):
    """The ranks of an mpi4py communicator, by default all that mpirun has started. Needs mpi4py.

    Every rank runs the same program, computes its share of the blocks, and has the answer. An error on one is raised on all.
    """

    apart = False

    def __init__(self, comm=None, *, limit=LIMIT):
        Workers.__init__(self, limit=limit)
        mpi = _needed("mpi4py.MPI", "MPI", "mpi")
        Ranks.__init__(self, mpi, comm or mpi.COMM_WORLD)

    def map_blocks(self, function, blocks, *args):
        parts = self._everyones(lambda: [_in_session(function, args, blocks[i]) for i in self._share(blocks)])
        return [part for each in parts for part in each]

    def sum_blocks(self, function, blocks, *args):
        def mine():
            tree = Tree(len(blocks))
            for i in self._share(blocks):
                tree.add(_in_session(function, args, blocks[i]), i)
            return tree.nodes

        tree = Tree(len(blocks))
        for nodes in self._everyones(mine):
            for (h, i), part in nodes.items():
                tree.add(part, i, h)
        return tree.total()

    def _share(self, blocks):
        """The numbers of this rank's blocks: neighbours, of which most are siblings."""
        return range(len(blocks) * self.rank // self.size, len(blocks) * (self.rank + 1) // self.size)

    def _everyones(self, compute):
        """What compute() gives on each rank; an error of one is everyone's."""
        given, error = None, None
        try:
            given = compute()
        except Exception as raised:
            error = self._sendable(raised)
        self.meet()
        given, errors = zip(*self._waiting(self.comm.allgather, (given, error)), strict=True)
        for error in errors:
            if error is not None:
                raise error
        return given

    def meet(self):
        """Wait until every rank is here; raise WorkersError where one does not come."""
        request, since = self.comm.Ibarrier(), time.monotonic()
        while not request.Test():
            time.sleep(min(1e-3, (time.monotonic() - since) / 10))
            if time.monotonic() - since > self.limit:
                raise WorkersError(f"a rank has not come for {self.limit:g} seconds; see what it is at, or allow it more by "
                                   "limit=")


_current = contextvars.ContextVar("workers", default=None)


def current():
    """The workers of the innermost `with` block; else the ranks under mpirun, a Dask client's where there is one, or Serial."""
    if (given := _current.get()) is not None:
        return given
    if n_ranks() > 1:
        return _ranks()
    if "distributed" in sys.modules:
        with contextlib.suppress(ValueError):
            return Dask()
    return Serial()


def n_ranks():
    """How many ranks mpirun has started, this one among them; 1 without it, and in a process that a rank has started."""
    if os.environ.get(OWNER, str(os.getpid())) != str(os.getpid()):
        return 1
    return max(int(size) for name in LAUNCHERS if (size := os.environ.get(name, "1")).isdigit())


def rank():
    """Which of the ranks this process is, of which the first alone prints and saves; 0 without mpirun."""
    try:
        return current().rank if n_ranks() > 1 else 0
    except ImportError:
        return 0


@functools.cache
def _ranks():
    os.environ[OWNER] = str(os.getpid())
    return MPI()


def _needed(module, who, extra):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who} needs {module.partition('.')[0]} ({error}); pip install 'npgen[{extra}]'") from None


def _in_session(function, args, block):
    with session():
        return function(*args, block)


def _each_of(function, args, blocks):
    """A list of what the function gives for each block of a run."""
    return [on_one_thread(function, args, block) for block in blocks]


def _sum_of(function, args, blocks):
    """The sum over a run."""
    return tree_sum((on_one_thread(function, args, block) for block in blocks), len(blocks))


def on_one_thread(function, args, block):
    """function(*args, block) where other workers have the other cores."""
    with _jit.on_threads(1):
        return _in_session(function, args, block)
