"""Processes and threads: kernels after a fork, in pools of every kind, from several threads, on either of Numba's layers."""
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from npgen.kernels import _jit, random

ROOT = Path(__file__).resolve().parent.parent
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
LAYERS = pytest.mark.parametrize("layer", ["omp", "workqueue"])


@pytest.fixture(autouse=True)
def draws_are_by_the_kernel(monkeypatch):
    monkeypatch.setattr(random, "FIRST", 0)


WORK = """
import multiprocessing, os, sys, threading, warnings
import numpy as np
import npgen
from npgen.kernels import random
random.FIRST = 0  # no draw is by NumPy

rows = np.random.default_rng(0).normal(size=(3000, 20)).astype(np.float32)


def answers(seed):
    \"\"\"The bytes of what kernels give: without products, with them, and a fit of some steps.\"\"\"
    noise = random.normal(np.empty(100_000, np.float32), seed, 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = npgen.MADE(hidden=(30,), max_epochs=1, random_state=seed).fit(rows)
        mixture = npgen.GaussianMixture(3, max_iter=2, random_state=seed).fit(rows)
    return b"".join(np.asarray(a).tobytes() for a in (noise, made.log_prob(rows), made.sample(100), mixture.log_prob(rows)))


def failing(seed):
    answers(seed)
    raise ArithmeticError(f"{seed}")


def forked(work):
    \"\"\"What work() gives in a forked process.\"\"\"
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(write, "wb") as pipe:
                pipe.write(work())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        given = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return given
"""

FORKS = {
    "before the first kernel": "before = forked(lambda: answers(0)); assert before == answers(0)",
    "after it": "here = answers(0); assert forked(lambda: answers(0)) == here == answers(0)",
    "of a fork": "here = answers(0); assert forked(lambda: forked(lambda: answers(0))) == here",
    "of a fork, both before": "assert forked(lambda: forked(lambda: answers(0)) + answers(0)) == 2 * answers(0)",
    "after another's parallel loop": "import numba\n"
        "@numba.njit(parallel=True)\n"
        "def total(n):\n"
        "    s = 0\n"
        "    for i in numba.prange(n):\n"
        "        s += i\n"
        "    return s\n"
        "total(1000)\n"
        "there = forked(lambda: answers(0)); assert there == answers(0)",
    "while another thread draws": "here, stop = answers(0), threading.Event()\n"
        "def loop():\n"
        "    while not stop.is_set():\n"
        "        random.normal(np.empty(1_000_000, np.float32), 0, 0, 0)\n"
        "thread = threading.Thread(target=loop, daemon=True); thread.start()\n"
        "assert all(forked(lambda: answers(0)) == here for _ in range(3))\n"
        "stop.set(); thread.join()",
}
BUSY = {  # what another thread does over and over while this one forks
    "in a session": "with session(): again.set(); stop.wait()",
    "in and out of sessions": "with session(): again.set()",
    "densities": "made.log_prob(rows); again.set()",
    "EM": "npgen.GaussianMixture(3, max_iter=5, random_state=0).fit(rows); again.set()",
}
THREADS = """
from threadpoolctl import ThreadpoolController
from npgen.kernels import session
blas = ThreadpoolController().select(user_api="blas").lib_controllers
"""
POOLS = {
    "fork": "multiprocessing.get_context('fork').Pool(2)",
    "spawn": "multiprocessing.get_context('spawn').Pool(2)",
    "forkserver": "multiprocessing.get_context('forkserver').Pool(2)",
    "ProcessPoolExecutor": "concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context('fork'))",
    "loky": "joblib.externals.loky.get_reusable_executor(2)",
}


def run(folder, code, first="", **env):
    """Run WORK and more code as a program, which processes of its own can import; it ends by itself, or the test has failed."""
    program = Path(folder) / "program.py"
    program.write_text(f"{first}{WORK}\n\nif __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in code.split("\n")))
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "NUMBA_NUM_THREADS": "2"} | env
    result = subprocess.run([sys.executable, program], env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@FORK
@LAYERS
@pytest.mark.parametrize("when", FORKS)
def test_a_forked_process_gives_the_same_bits(when, layer, tmp_path):
    run(tmp_path, FORKS[when], NUMBA_THREADING_LAYER=layer)


@FORK
@LAYERS
@pytest.mark.parametrize("busy", BUSY)
def test_a_process_forked_while_another_thread_is_busy_is_as_free_as_any(busy, layer, tmp_path):
    run(tmp_path, f"""{THREADS.strip()}
def given():
    counts = [lib.num_threads for lib in blas]
    product = rows.T @ rows
    got = answers(0)
    assert counts == [lib.num_threads for lib in blas] == [3] * len(blas), counts
    return got
here, again, stop = answers(0), threading.Event(), threading.Event()
made = npgen.MADE(hidden=(30,), max_epochs=1).fit(rows)
[lib.set_num_threads(3) for lib in blas]
def loop():
    while not stop.is_set():
        {BUSY[busy]}
thread = threading.Thread(target=loop, daemon=True); thread.start()
for _ in range(4):
    again.clear() if {busy!r} != "in a session" else None
    again.wait()
    assert forked(given) == here
stop.set(); thread.join()
assert given() == here""", NUMBA_THREADING_LAYER=layer)


@FORK
def test_a_process_forked_inside_a_session_leaves_it_as_the_other_does(tmp_path):
    run(tmp_path, f"""{THREADS.strip()}
[lib.set_num_threads(3) for lib in blas]
here = answers(0)
def counts():
    return [lib.num_threads for lib in blas]
with session():
    noise = random.normal(np.empty(100_000, np.float32), 0, 0, 0)
    kept = noise.copy()
    pid = os.fork()
    assert counts() == [1] * len(blas)
    with session():
        assert answers(0) == here
    assert counts() == [1] * len(blas) and np.array_equal(noise, kept)
assert counts() == [3] * len(blas) and answers(0) == here and counts() == [3] * len(blas)
assert pid == 0 or os.waitpid(pid, 0)[1] == 0""")


@pytest.mark.long(but={"how": ["fork"]})
@FORK
@pytest.mark.parametrize("how", POOLS)
def test_a_pool_gives_the_same_bits_and_hands_on_what_is_raised(how, tmp_path):
    pytest.importorskip("joblib", reason="no joblib: loky is NOT tested")
    run(tmp_path, f"""import concurrent.futures, joblib.externals.loky
here = [answers(0), answers(1)]
with {POOLS[how]} as pool:
    assert list(pool.map(answers, [0, 1])) == here
    try:
        list(pool.map(failing, [0, 1]))
    except ArithmeticError as error:
        print(error)""")


@LAYERS
def test_two_threads_query_at_once(layer, tmp_path):
    run(tmp_path, """want, got = answers(0), {}
def query(k):
    got[k] = [answers(0) for _ in range(3)]
threads = [threading.Thread(target=query, args=(k,)) for k in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert list(got.values()) == [[want] * 3] * 3 and len(got) == 3""", NUMBA_THREADING_LAYER=layer)


@FORK
@pytest.mark.long
@LAYERS
def test_a_numba_that_is_not_known_refuses_kernels_after_a_fork_and_takes_turns(layer, tmp_path):
    unknown = "import numba; numba.version_info = (99, 0, 0)\n"
    out = run(tmp_path, """def draw():
    return random.normal(np.empty(300_000, np.float32), 0, 0, 0).tobytes()
want = draw()
def refused():
    try:
        draw()
    except RuntimeError as error:
        return str(error).encode()
print(forked(refused))
got = []
threads = [threading.Thread(target=lambda: got.extend(draw() for _ in range(20))) for _ in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert got == [want] * 60""", unknown, NUMBA_THREADING_LAYER=layer, NPGEN_CACHE_DIR=str(tmp_path))
    assert "this process was forked after the first parallel kernel; start it by" in out


@pytest.mark.skipif(not _jit._known, reason="a Numba that is not known")
def test_a_loop_runs_on_the_calling_thread_where_there_are_no_others():
    noise = random.normal(np.empty(300_000, np.float32), 1, 2, 0)
    kept = _jit._threads[0]
    try:
        _jit._threads[0] = 0
        np.testing.assert_array_equal(random.normal(np.empty_like(noise), 1, 2, 0), noise)
    finally:
        _jit._threads[0] = kept


# ---------------------------------------------------------------- the driver of parallel loops

@_jit.jit
def _counted(i, step, counts, threads):
    counts[i] += step
    threads[i] = _jit.get_thread_id()


@_jit.entry
def _count(n, counts, threads):
    _jit.parallel(n, _counted, (3, counts, threads))


@_jit.jit
def _hungry(i, most, out):
    if i == most:
        raise MemoryError
    out[i] = 1


@_jit.entry
def _feed(most, out):
    _jit.parallel(len(out), _hungry, (most, out))


@pytest.mark.skipif(not _jit.available, reason="no Numba")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 100])
def test_a_parallel_loop_runs_every_task_once(n):
    random.normal(np.empty(3), 1, 2, 0)  # which starts the threads
    counts, threads = np.zeros(n + 1), np.zeros(n + 1, np.int64)
    _count(n, counts, threads)
    assert counts[:n].tolist() == [3] * n and counts[n] == 0
    assert len(set(threads[:n].tolist())) == min(n, numba.get_num_threads())


@pytest.mark.skipif(not _jit._known, reason="a Numba that is not known")
def test_a_task_without_memory_is_an_error_of_its_loop():
    random.normal(np.empty(3), 1, 2, 0)
    out = np.zeros(50)
    with pytest.raises(MemoryError, match="in a parallel loop"):
        _feed(40, out)
    assert out[:25].all() and out[40] == 0
    _feed(-1, out)
    assert out.all()


if _jit._known:
    @numba.extending.intrinsic
    def _owner(typingctx, array):
        """The address of what counts the references to an array."""
        def codegen(context, builder, signature, args):
            shared = context.make_array(signature.args[0])(context, builder, args[0])
            return builder.ptrtoint(shared.meminfo, context.get_value_type(numba.intp))
        return numba.intp(array), codegen

    @_jit.jit
    def _owners_task(i, owners):
        owners[i] = _owner(owners)

    @_jit.entry
    def _owners(owners):
        _jit.parallel(len(owners), _owners_task, (owners,))
        return _owner(owners)


@pytest.mark.skipif(not _jit._known, reason="a Numba that is not known")
def test_threads_count_no_references_to_what_they_share():
    """A count that two threads move at every view of an array costs more than their work."""
    random.normal(np.empty(3), 1, 2, 0)
    owners = np.ones(9, np.int64)
    assert _owners(owners) and not owners.any()


@pytest.mark.skipif(not _jit._known, reason="a Numba that is not known")
def test_python_calls_entries_alone():
    """Before the others are compiled and after."""
    for _ in range(2):
        with pytest.raises(TypeError, match="_counted is compiled into compiled functions alone; .* is an @entry"):
            _counted(0, 3, np.zeros(1), np.zeros(1, np.int64))
        _count(1, np.zeros(1), np.zeros(1, np.int64))
