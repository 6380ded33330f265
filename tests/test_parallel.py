"""Workers of every kind: the bits of the sum, errors, workers that die, and waits that end."""
import contextlib
import functools
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import mutants
import numpy as np
import pytest

from npgen import parallel
from npgen.tree import LONGEST, Tree, runs, tree_sum

ROOT = Path(__file__).resolve().parent.parent
MPIRUN = Path(sysconfig.get_path("scripts")) / "mpirun"


def weigh(scale, block):
    """Numbers (3,) of which sums round."""
    return scale * np.random.default_rng(block).standard_cauchy(3)


def fail(block):
    if block == 2:
        raise ArithmeticError(f"block {block}")
    return block


def die(folder, times, block):
    """End the process at block 1, so many times."""
    done = len(list(Path(folder).iterdir()))
    if block == 1 and done < times:
        (Path(folder) / str(done)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return weigh(1.0, block)


def nap(seconds, block):
    time.sleep(seconds)
    return block


def fail_or_nap(error, block):
    """An error at block 0, but of workers that are late; all others take longer than any test."""
    if block or error is parallel.WorkersError:
        time.sleep(1000)
    raise error("of its own")


def recursive(parts):
    """The sum of parts as the definition of the tree has it: the left half is the largest power of two below their number."""
    if len(parts) == 1:
        return parts[0]
    left = 1 << (len(parts) - 1).bit_length() - 1
    return recursive(parts[:left]) + recursive(parts[left:])


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed", reason="no distributed: Dask is NOT tested")
    with forked(), distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0",
                                            host="127.0.0.1") as cluster, distributed.Client(cluster) as client:
        yield client


@contextlib.contextmanager
def forked():
    """Workers of Dask are forks of a process that has imported what they need: one is there at once, again after each kill."""
    import dask
    from distributed.utils import get_mp_context
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "npgen.models.mixture", "npgen.data.blocks", "numba"])
        yield


@functools.cache
def workers_of(kind, client):
    if kind == "Processes":
        pytest.importorskip("joblib", reason="no joblib: processes are NOT tested")
        return parallel.Processes(2)
    return parallel.Dask(client, limit=100) if kind == "Dask" else parallel.Serial()


def replace_lost(client):
    """Dask's nanny does not replace a worker that died while it started: then this does."""
    if len(client.nthreads()) < 2:
        client.cluster.scale(len(client.cluster.workers) + 2)


KINDS = pytest.mark.parametrize("kind", ["Serial", "Processes", "Dask"])


def mpi(n, code, folder, limit=100):
    """What a program on n ranks prints, and its status; it ends by itself, or the test has failed."""
    pytest.importorskip("mpi4py", reason="no mpi4py: MPI is NOT tested")
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python: MPI is NOT tested")
    program = folder / "program.py"
    program.write_text(f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
                       f"import numpy as np\nfrom npgen import parallel\nfrom test_parallel import *\n{code}\n")
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([MPIRUN, "--oversubscribe", "-n", str(n), sys.executable, "-m", "mpi4py", program], env=env,
                            capture_output=True, text=True, timeout=limit)
    return result.stdout, result


@pytest.mark.parametrize("n", [*range(1, 18), 64, 100])
def test_a_tree_adds_as_its_definition_in_any_order(n):
    parts, tree = [weigh(1.0, i) for i in range(n)], Tree(n)
    for i in np.random.default_rng(n).permutation(n):
        tree.add(parts[i], int(i))
    np.testing.assert_array_equal(tree.total(), recursive(parts))
    np.testing.assert_array_equal(tree_sum(iter(parts), n), recursive(parts))


def test_a_tree_holds_few_sums_of_many_blocks():
    tree, most = Tree(1000), 0
    for i in range(1000):
        tree.add(1, i)
        most = max(most, len(tree.nodes))
    assert tree.total() == 1000 and most <= 10


def in_runs(parts, n_workers):
    tree = Tree(len(parts))
    for node, run in runs(parts, n_workers):
        tree.add(tree_sum(run, len(run)), *node)
    return tree.total()


@pytest.mark.parametrize("n", [1, 15, 16, 33, 70, 257, 1000])
def test_runs_are_nodes_of_the_tree(n):
    parts = [weigh(1.0, i) for i in range(n)]
    for n_workers in (1, 2, 3, 40):
        sizes = [len(run) for _, run in runs(parts, n_workers)]
        assert sum(sizes) == n and sizes == sorted(sizes, reverse=True) and sizes[0] <= LONGEST
        assert sizes[-min(n, n_workers):] == [1] * min(n, n_workers)  # none waits longer than for one block
        np.testing.assert_array_equal(in_runs(parts, n_workers), recursive(parts))


@pytest.mark.parametrize(("where", "old", "new"), [
    ("tree:runs", "(low >> h, h)", "(low >> h, 0)"), ("tree:runs", "low += 1 << h", "low += 1 + h"),
    ("tree:above", "i >> height - h", "i >> 1")])
def test_runs_that_are_no_nodes_are_found(where, old, new, client):
    parts = [weigh(1.0, i) for i in range(257)]
    with mutants.Mutant("", "", where, old, new).made(), pytest.raises((AssertionError, ValueError)):
        np.testing.assert_array_equal(in_runs(parts, 2), recursive(parts))
        added = parallel.Dask(client).sum_blocks(weigh, list(range(70)), 1.0)
        np.testing.assert_array_equal(added, recursive([weigh(1.0, i) for i in range(70)]))


def test_dask_computes_the_longest_runs_first(client):
    """Dask alone takes tasks in any order: a long run that is last would keep all others waiting."""
    tasks = parallel.Dask(client)._tasks(parallel._each_of, weigh, list(range(40)), (1.0,))
    priorities = [task.dask.layers[task.key].annotations["priority"] for _, task in tasks]
    assert len(tasks) > 10 and (np.diff(priorities) < 0).all()


@KINDS
@pytest.mark.parametrize("n", [1, 2, 5, 13, 70])
def test_workers_of_every_kind_give_the_same_bits(kind, n, client):
    workers, want = workers_of(kind, client), [weigh(0.5, i) for i in range(n)]
    np.testing.assert_array_equal(workers.map_blocks(weigh, list(range(n)), 0.5), want)
    np.testing.assert_array_equal(workers.sum_blocks(weigh, list(range(n)), 0.5), recursive(want))
    assert (workers.rank, workers.size) == (0, 1) and workers.sum(want) is want


def test_ranks_give_the_same_bits(tmp_path):
    out, result = mpi(3, """
workers = parallel.current()
assert type(workers) is parallel.MPI and workers.size == parallel.n_ranks() == 3
for n in range(1, 14):
    want = [weigh(0.5, i) for i in range(n)]
    np.testing.assert_array_equal(workers.map_blocks(weigh, list(range(n)), 0.5), want)
    np.testing.assert_array_equal(workers.sum_blocks(weigh, list(range(n)), 0.5), recursive(want))
flat, count = np.full(4, workers.rank + 1.0, np.float32), np.array([workers.rank])
assert workers.sum([flat, count])[0] is flat and (flat == 6).all() and count == 3
print("well", workers.rank)""", tmp_path)
    assert sorted(out.split("\n")) == ["", "well 0", "well 1", "well 2"], result.stderr


@KINDS
def test_an_error_of_a_block_is_raised_as_it_is(kind, client):
    for method in ("map_blocks", "sum_blocks"):
        with pytest.raises(ArithmeticError, match="block 2"):
            getattr(workers_of(kind, client), method)(fail, list(range(4)))


def test_an_error_of_a_rank_is_raised_on_all(tmp_path):
    out, result = mpi(2, """
workers = parallel.current()
for method in workers.map_blocks, workers.sum_blocks:
    try:
        method(fail, list(range(4)))
    except ArithmeticError as error:
        print(workers.rank, error)
class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}{b}")
def odd(block):
    raise Odd(1, block)
try:
    workers.sum_blocks(odd, [2, 3])
except parallel.WorkersError as error:
    print(workers.rank, error)""", tmp_path)
    assert sorted(out.split("\n")) == ["", *[f"{rank} {what}" for rank in (0, 1) for what in ("Odd: 12", *["block 2"] * 2)]], \
        result.stderr


@pytest.mark.parametrize("kind", ["Processes", "Dask"])
def test_blocks_of_a_worker_that_is_killed_are_computed_anew(kind, client, tmp_path):
    want = recursive([weigh(1.0, i) for i in range(6)])
    np.testing.assert_array_equal(workers_of(kind, client).sum_blocks(die, list(range(6)), tmp_path, 2), want)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.long
@pytest.mark.parametrize("kind", ["Processes", "Dask"])
def test_a_block_that_ends_every_process_at_it_is_one_error(kind, client, tmp_path):
    with pytest.raises(parallel.WorkersError, match="ended .* more memory, or make blocks smaller"):
        workers_of(kind, client).sum_blocks(die, list(range(3)), tmp_path, 1000)
    replace_lost(client)
    np.testing.assert_array_equal(workers_of(kind, client).map_blocks(weigh, [0], 1.0), [weigh(1.0, 0)])  # they go on


def test_a_wait_for_processes_ends():
    pytest.importorskip("joblib", reason="no joblib: processes are NOT tested")
    begin = time.monotonic()
    with pytest.raises(parallel.WorkersError, match="2 processes gave no result for 0.5 seconds; allow them more by limit="):
        parallel.Processes(2, limit=0.5).sum_blocks(nap, [0, 1], 30)
    assert time.monotonic() - begin < 25


def test_what_is_left_of_a_sum_that_failed_keeps_nothing_waiting():
    """Neither the next sum, on another number of processes, nor the end of the program."""
    pytest.importorskip("joblib", reason="no joblib: processes are NOT tested")
    done = subprocess.run([sys.executable, "-c", """
from test_parallel import fail_or_nap, nap
from npgen import parallel
for n, error, limit in ((2, ArithmeticError, 1000), (1, TimeoutError, 1000), (3, parallel.WorkersError, 1)):
    try:
        parallel.Processes(n, limit=limit).sum_blocks(fail_or_nap, list(range(8)), error)
    except error as raised:
        print(raised)
    print(parallel.Processes(2).map_blocks(nap, [n], 0))
parallel.Processes(2).sum_blocks(fail_or_nap, list(range(8)), ArithmeticError)"""], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    assert done.stdout.splitlines() == ["of its own", "[2]", "of its own", "[1]", "3 processes gave no result for 1 seconds; "
                                        "allow them more by limit=, or make blocks smaller", "[3]"], done.stderr
    assert done.stderr.rstrip().endswith("ArithmeticError: of its own")


def test_a_wait_for_dask_ends(client):
    slow = parallel.Dask(client, limit=2).sum_blocks(nap, list(range(6)), 0.8)  # 2.4 s in all, but never 2 without a result
    assert slow == 15
    with pytest.raises(parallel.WorkersError, match="the Dask workers gave no result for 0.5 seconds; see whether"):
        parallel.Dask(client, limit=0.5).sum_blocks(nap, [0, 1], 3)


def test_a_wait_for_what_dask_has_computed_ends(client, monkeypatch):
    """A worker may die with a result that was there, and no other come."""
    def never(future, timeout):
        raise sys.modules["distributed"].TimeoutError

    monkeypatch.setattr("distributed.Future.result", never)
    with pytest.raises(parallel.WorkersError, match="the Dask workers gave no result for 7 seconds; see whether"):
        parallel.Dask(client, limit=7).map_blocks(weigh, [0], 1.0)


@pytest.fixture
def elsewhere():
    """A scheduler with a worker in processes of their own, and a client of it: (the process, the client)."""
    distributed = pytest.importorskip("distributed", reason="no distributed: Dask is NOT tested")
    scheduler = subprocess.Popen([sys.executable, "-c", """
import distributed, time
cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1")
print(cluster.scheduler_address, flush=True)
time.sleep(900)"""], stdout=subprocess.PIPE, text=True, process_group=0,
                                 env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    try:
        with distributed.Client(scheduler.stdout.readline().strip(), timeout=3, set_as_default=False) as client:
            assert parallel.Dask(client).map_blocks(nap, [3], 0) == [3]
            yield scheduler, client
            with contextlib.suppress(ProcessLookupError):
                os.killpg(scheduler.pid, signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(scheduler.pid, signal.SIGKILL)
        scheduler.communicate()


def test_a_dask_scheduler_that_goes_away_is_one_error(elsewhere):
    scheduler, client = elsewhere
    threading.Timer(1.0, os.killpg, (scheduler.pid, signal.SIGKILL)).start()
    with pytest.raises(parallel.WorkersError, match="the Dask scheduler has gone away; start one, and go on"):
        parallel.Dask(client).sum_blocks(nap, list(range(4)), 5)


def test_a_dask_scheduler_that_gives_no_answer_is_one_error(elsewhere):
    """While it computes, and when it is asked who its workers are."""
    scheduler, client = elsewhere
    os.kill(scheduler.pid, signal.SIGSTOP)
    for n in (1, 8):
        with pytest.raises(parallel.WorkersError, match="the Dask scheduler gave no answer for 0.5 seconds; see whether it"):
            parallel.Dask(client, limit=0.5).sum_blocks(nap, list(range(n)), 0.1)


def test_a_wait_for_a_rank_ends(tmp_path):
    out, result = mpi(2, """
import os, signal
workers = parallel.MPI(limit=1)
if workers.rank:
    time.sleep(4)
    os._exit(0)
try:
    workers.sum_blocks(weigh, [0, 1], 1.0)
except parallel.WorkersError as error:
    print(error, flush=True)
    os._exit(0)""", tmp_path)
    assert out.startswith("a rank has not come for 1 seconds; see what it is at"), result.stderr


def test_workers_are_those_of_the_innermost_block(client, monkeypatch):
    assert type(parallel.current()) is parallel.Dask and parallel.current().client is client
    with parallel.Serial() as outer:
        with workers_of("Processes", client) as inner:
            assert parallel.current() is inner
        assert parallel.current() is outer
    monkeypatch.delitem(sys.modules, "distributed")
    assert type(parallel.current()) is parallel.Serial and parallel.n_ranks() == 1


@pytest.mark.parametrize(("make", "words"), [
    (lambda: parallel.Processes(0), "Processes: n must be a positive integer, got 0"),
    (lambda: parallel.Processes(True), "Processes: n must be a positive integer, got True"),
    (lambda: parallel.Serial(limit=0), "limit must be a positive number of seconds, got 0"),
    (lambda: parallel.Serial(limit="long"), "limit must be a positive number of seconds, got 'long'")])
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(ImportError, match=r"Processes needs joblib .*; pip install 'npgen\[processes\]'"):
        parallel.Processes(2)
