"""Nothing is lost: runs that are killed, disks that fill up, read-only folders, Ctrl-C, a shared cache, no Numba, NaN."""
import contextlib
import errno
import itertools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from npgen import checkpoint, cli, data, kernels
from npgen.models import MADE, VAE, GaussianMixture, Mixture, RealNVP
from npgen.train import ConvergenceWarning

ROOT = Path(__file__).resolve().parent.parent
MOONS = data.moons(80)
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def run(code, *args, timeout=900, **env):
    """The output of a Python program in a process of its own, with one thread so that it can fork."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"} | env
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], env=env, capture_output=True,
                            text=True, timeout=timeout)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


FORKED = """
import json, os, random, signal, sys, time, warnings
import npgen
from npgen import cli, data
from npgen.kernels import using
from npgen.models import MADE, VAE, GaussianMixture, RealNVP

folder, n, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background does not have it
rng = random.Random(seed)
x = data.moons(80)
models = [lambda: MADE(hidden=(32,), max_epochs=25, patience=99, random_state=1),
          lambda: RealNVP(n_couplings=2, hidden=(16,), max_epochs=25, patience=99, random_state=1),
          lambda: VAE(n_latent=2, hidden=(16,), max_epochs=25, patience=99, random_state=1),
          lambda: GaussianMixture(5, tol=0, max_iter=25, random_state=1)]

def forked(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        warnings.simplefilter("ignore")
        with using("reference"):  # its kernels start no threads and compile nothing
            status = work()
        os._exit(status or 0)
    except KeyboardInterrupt:  # before or after the work itself
        os._exit(77)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\\n")
        sys.stderr.flush()
        os._exit(99)
"""


@posix
@pytest.mark.long
def test_three_hundred_kills(tmp_path):
    """After every SIGKILL the file is absent or whole and never an older one; the run ends with the bits of one left alone."""
    out = run(FORKED + """
    from npgen import checkpoint
    from npgen.models import run
    run.WRITE_EVERY = 0  # after every epoch
    def whole(build):
        with warnings.catch_warnings(), using("reference"):
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            model = build().fit(x, checkpoint=os.path.join(folder, "alone"))
            return model.params_.flat.tobytes(), time.perf_counter() - start
    alone, pauses = zip(*(whole(build) for build in models))
    pauses = list(pauses)
    kills, finished, seen, number = 0, 0, set(), 0
    while kills < n:
        k = number % len(models)
        number += 1
        path, final, last = os.path.join(folder, "run"), os.path.join(folder, "final"), -1
        def work():
            models[k]().fit(x, checkpoint=path, resume=True).save(final)
        for attempt in range(200):  # the later ones live longer: a run may need more to be read back than to be done
            pid = forked(work)
            time.sleep(rng.random() * pauses[k] * 1.1**attempt)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.path.exists(path):
                arrays, header = checkpoint.read(path)  # raises if it is not whole
                state = header["state"]
                epoch = len(state["history"]) if "history" in state else len((state.get("attempt") or {"nats": []})["nats"])
                assert "history" not in state or epoch >= last, (epoch, last)
                last = epoch
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break
            kills += 1
            seen.add((k, last))
        else:
            raise AssertionError(f"run {k} was killed 200 times and never ended")
        if attempt == 0:  # whatever else the machine did when the pause was measured
            pauses[k] /= 2
        assert npgen.load(final).params_.flat.tobytes() == alone[k], "other bits"
        finished += 1
        for name in os.listdir(folder):
            if name.endswith(".tmp") or name in ("run", "final"):
                os.remove(os.path.join(folder, name))
    print(json.dumps([kills, finished, len(seen)]))
    """.replace("\n    ", "\n"), tmp_path, 300, 0)
    kills, finished, places = json.loads(out)
    assert kills >= 300 and finished >= 4 and places > 20, out


@posix
@pytest.mark.long
def test_ctrl_c_at_any_moment_of_the_command(tmp_path):
    """Status 130 with one line, or 0 if it was done before; never a traceback; a file that is there is whole."""
    out = run(FORKED + """
    os.chdir(folder)
    def work():
        sys.stderr = open("err", "w")
        sys.stdout = open(os.devnull, "w")
        status = cli.main("fit made --data moons --out m --set hidden=8 --epochs 12 --quiet".split())
        sys.stderr.flush()
        return status
    def alone():
        start = time.perf_counter()
        assert os.waitpid(forked(work), 0)[1] == 0
        return time.perf_counter() - start
    seconds = min(alone() for _ in range(3))  # on this machine, as busy as it is
    statuses = []
    for i in range(n):
        for name in ("m", "m.checkpoint", "err"):
            if os.path.exists(name):
                os.remove(name)
        pid = forked(work)
        time.sleep(rng.random() * seconds)
        os.kill(pid, signal.SIGINT)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        text = open("err").read() if os.path.exists("err") else ""
        assert status in (0, 77, 130, -2), (status, text)
        assert "Traceback" not in text and (status != 130 or text.count("npgen: interrupted") == 1), text
        for name in ("m", "m.checkpoint"):
            if os.path.exists(name):
                npgen.checkpoint.read(name)
        assert not [name for name in os.listdir() if name.endswith(".tmp")]
        statuses.append(status)
    print(json.dumps(statuses))
    """.replace("\n    ", "\n"), tmp_path, 60, 1)
    statuses = json.loads(out)
    assert statuses.count(130) > 5, statuses


def _caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), None, ValueError(), _caused(SystemError(), KeyboardInterrupt())])
def test_ctrl_c_while_numba_looks_at_the_arguments(cause):
    """Numba then answers with a SystemError, or several, caused by the KeyboardInterrupt; with any other cause it is one."""
    def numba(x):
        raise SystemError("returned a result with an exception set") from cause
    kernel = kernels.Kernel("named", "x(N)", reference=numba, numba=numba)
    interrupted = isinstance(cause, KeyboardInterrupt) or isinstance(getattr(cause, "__cause__", None), KeyboardInterrupt)
    for backend in ("numba", "reference"):
        with kernels.using(backend), pytest.raises(KeyboardInterrupt if interrupted else SystemError):
            kernel(np.zeros(1))


@posix
@pytest.mark.long
def test_ctrl_c_while_a_kernel_compiles():
    """It is heard when the compilation is over: LLVM frees what an exception left half made, and the process dies of it."""
    out = run("""
    import os, signal
    import numpy as np
    from numba.core import codegen
    from npgen import kernels
    from npgen.kernels import _caching, _jit
    _caching.cache_folder = lambda: None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background leaves it ignored
    finalize, when = codegen.JITCodeLibrary.finalize, []
    def interrupted(library):
        when.append("sent")
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):
            pass
        when.append("went on")
        return finalize(library)
    codegen.JITCodeLibrary.finalize = interrupted
    @_jit.jit
    def helper(x):
        return x + 1
    @_jit.entry
    def compiled(x):
        return helper(x)
    kernel = kernels.Kernel("named", "x(N)", reference=compiled, numba=compiled)
    try:
        kernel(np.zeros(3))
    except KeyboardInterrupt:
        when.append("heard")
    codegen.JITCodeLibrary.finalize = finalize
    before = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(when[:2], when.count("heard"), when[-1], before, kernel(np.zeros(2)).tolist())
    """)
    assert out.strip() == "['sent', 'went on'] 1 heard True [1.0, 1.0]", out


def test_references_run_no_machine_code():
    """They judge it; and what is to run without Numba, as after a fork, is not to compile."""
    run("""
    import warnings
    from numba.core.dispatcher import Dispatcher
    from npgen import data, kernels, models
    def compile(dispatcher, signature):
        raise AssertionError(f"{dispatcher.py_func.__qualname__} is compiled")
    Dispatcher.compile = compile
    warnings.simplefilter("ignore")
    x = data.moons(60)
    with kernels.using("reference"):
        for cls in models.MODELS.values():
            for rows in (x, (x > 0) * 1.0):
                model = cls(**({"max_epochs": 1} if "max_epochs" in cls().get_params() else {"max_iter": 1})).fit(rows)
                model.score(rows), model.sample(3)
                if model.n_latent_:
                    model.decode(model.encode(rows))
    """)


# ---------------------------------------------------------------- disks

class Disk:
    """Every call that writes, counted; the one with the number `fails` fails, a write after half of its bytes."""

    def __init__(self, patch, fails, code):
        self.calls, self.fails, self.code = [], fails, code
        patch.setattr("builtins.open", self.open)
        for name in ("fsync", "replace"):
            patch.setattr(os, name, self.counted(name, getattr(os, name)))

    def counted(self, name, function):
        def call(*args):
            self.calls.append(name)
            if len(self.calls) == self.fails:
                raise OSError(self.code, os.strerror(self.code), "disk")
            return function(*args)
        return call

    def open(self, path, mode="r", *args, **kwargs):
        file = io_open(path, mode, *args, **kwargs)
        return Writing(self, file) if "x" in mode else file


io_open = open


class Writing:
    def __init__(self, disk, file):
        self.disk, self.file = disk, file

    def write(self, chunk):
        self.disk.calls.append("write")
        if len(self.disk.calls) == self.disk.fails:
            self.file.write(bytes(chunk)[:len(bytes(chunk)) // 2])
            raise OSError(self.disk.code, os.strerror(self.disk.code), "disk")
        return self.file.write(chunk)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()


WRITERS = {
    "checkpoint": lambda path: checkpoint.write(path, {"w": np.arange(500.0)}, {"a": 1}),
    "model": lambda path: GaussianMixture(random_state=0).fit(MOONS).save(path),
    "csv": lambda path: data.write(path, MOONS[:5]),
    "npy": lambda path: data.write(path, MOONS),
    "npz": lambda path: data.write(path, MOONS),
    "training": lambda path: MADE(hidden=(4,), max_epochs=3, random_state=0).fit(MOONS, checkpoint=path),
}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=["disk full", "disk broken", "quota"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_fails_at_any_write(writer, code, tmp_path, monkeypatch):
    """The file is the old or the new one, whole; nothing else is left; the error is the disk's."""
    path = tmp_path / f"file.{writer}"
    WRITERS[writer](path)
    good, k, failed = path.read_bytes(), 0, 0
    while True:
        k += 1
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            disk = Disk(patch, k, code)
            try:
                WRITERS[writer](path)
            except OSError as error:
                assert error.errno == code
                failed += 1
        if k > len(disk.calls):
            break
        assert path.read_bytes() == b"old" or writer == "training" and checkpoint.read(path) or path.read_bytes() == good
        assert os.listdir(tmp_path) == [path.name]
    assert failed >= 3 and path.read_bytes() == good


@posix
def test_a_file_size_limit_cuts_writes_anywhere(tmp_path):
    """The kernel's own short writes: under RLIMIT_FSIZE a write stops in the middle of the file."""
    out = run("""
    import json, os, resource, signal, sys
    from npgen import checkpoint
    import numpy as np
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path, failed = os.path.join(sys.argv[1], "x"), 0
    checkpoint.write(path, {"w": np.zeros(3)}, {})
    old = open(path, "rb").read()
    for size in range(0, 9000, 117):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            checkpoint.write(path, {"w": np.arange(1000.0)}, {})
        except OSError:
            failed += 1
            assert open(path, "rb").read() == old
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert os.listdir(sys.argv[1]) == ["x"]
    print(json.dumps([failed, len(checkpoint.read(path)[0]["w"])]))
    """, tmp_path)
    failed, length = json.loads(out)
    assert failed > 60 and length == 1000


def test_a_disk_that_fails_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for k in range(1, 99):
        with monkeypatch.context() as patch:
            disk = Disk(patch, k, errno.ENOSPC)
            status = cli.main("fit made --data moons --out m --set hidden=4 --epochs 2 --quiet".split())
        if len(disk.calls) < k:
            break
        out, err = capsys.readouterr()
        if status == 0:  # a folder's fsync, once the file is in place
            assert disk.calls[k - 1] == "fsync" and os.listdir() == ["m"]
        else:
            assert status == 2 and not out and err == f"npgen: error: disk: {os.strerror(errno.ENOSPC)}\n"
            assert set(os.listdir()) <= {"m.checkpoint"}
        for name in os.listdir():
            checkpoint.read(name)
            os.remove(name)
    assert k > 10


@pytest.mark.parametrize("folder", ["/proc", "/sys", "folder"])
def test_a_folder_that_cannot_be_written(folder, tmp_path, monkeypatch, capsys):
    if folder == "folder":
        if not hasattr(os, "getuid") or os.getuid() == 0:
            pytest.skip("root may write anywhere")
        folder = tmp_path / "folder"
        folder.mkdir(mode=0o500)
    elif not os.path.isdir(folder):
        pytest.skip(f"there is no {folder}")
    model = GaussianMixture(random_state=0).fit(MOONS)
    before = model.log_prob(MOONS)
    for call in (lambda: model.save(f"{folder}/m"), lambda: model.fit(MOONS, checkpoint=f"{folder}/run"),
                 lambda: data.write(f"{folder}/x.npy", MOONS)):
        with pytest.raises(OSError):
            call()
    assert np.array_equal(model.log_prob(MOONS), before)
    assert cli.main(["fit", "gmm", "--data", "moons", "--out", f"{folder}/m"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("npgen: error: ") and err.count("\n") == 1 and str(folder) in err


# ---------------------------------------------------------------- Numba and its cache

FIT = """
import sys, warnings
import numpy as np
import npgen
from npgen import data
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    model = npgen.RealNVP(n_couplings=2, hidden=(4,), max_epochs=2, random_state=0).fit(data.moons(60))
    nats = model.score(data.moons(60))
print(repr(round(nats, 9)), [str(w.message) for w in seen], npgen.kernels._caching.cache_folder())
"""


@pytest.mark.slow
def test_two_processes_compile_into_one_cache(tmp_path):
    """Both give the same bits, and so does a third that reads what they wrote."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "NPGEN_CACHE_DIR": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", FIT], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    found = [process.communicate(timeout=900) for process in both]
    assert [process.returncode for process in both] == [0, 0], found
    third = run(FIT, NPGEN_CACHE_DIR=str(tmp_path))
    assert found[0][0] == found[1][0] == third and str(tmp_path) in third


@pytest.mark.slow
def test_without_a_writable_cache_it_compiles_and_says_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file")  # no folder can be made below a file
    no_temporary_folder = f"import tempfile; tempfile.tempdir = {nowhere!r}\n"  # TMPDIR alone would fall back to /tmp
    out = run(no_temporary_folder + FIT, NPGEN_CACHE_DIR=nowhere, XDG_CACHE_HOME=nowhere, HOME=nowhere)
    assert out.rstrip().endswith("None") and "[]" in out
    assert os.listdir(tmp_path) == ["file"]


BROKEN = {"absent": "raise ModuleNotFoundError(\"No module named 'numba'\")",
          "broken": "raise OSError('libllvm: wrong ELF class')",
          "too old": "raise ImportError('Numba needs NumPy 2.3 or less')"}


@pytest.mark.parametrize("how", BROKEN)
def test_without_numba_it_is_slow_and_says_so_once(how, tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(BROKEN[how])
    out = run(FIT, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    nats, _, rest = out.partition(" ")
    with kernels.using("reference"):
        model = RealNVP(n_couplings=2, hidden=(4,), max_epochs=2, random_state=0).fit(data.moons(60))
        assert abs(float(nats) - model.score(data.moons(60))) < 1e-6
    assert rest.count("slow NumPy reference kernels: Numba cannot be imported") == 1


# ---------------------------------------------------------------- NaN

QUICKLY = {"max_epochs": 4, "batch_size": 16, "random_state": 0}
TRAINED = {  # a model, rows, the kernels that take part in a step, the gathering of its batch first
    "MADE": (MADE(hidden=(6,), **QUICKLY), MOONS, "gather.rows mlp.forward mlp.backward adam.step likelihood.normal_forward "
             "likelihood.normal_backward"),
    "MADE, bits": (MADE(hidden=(6,), **QUICKLY), (MOONS > 0.25).astype(float), "likelihood.bernoulli_forward "
                   "likelihood.bernoulli_backward"),
    "RealNVP": (RealNVP(n_couplings=2, hidden=(4,), **QUICKLY), MOONS, "gather.rows flow.inverse flow.backward adam.step"),
    "VAE": (VAE(n_latent=2, hidden=(4,), **QUICKLY), MOONS, "gather.rows mlp.forward mlp.backward adam.step "
            "likelihood.normal_forward likelihood.normal_backward likelihood.kl_forward likelihood.kl_backward "
            "reparameterize.posterior_forward reparameterize.posterior_backward"),
}


def record_of(name):
    module, _, record = name.partition(".")
    return getattr(getattr(kernels, module), record)


def poisoned(record, call, which, monkeypatch):
    """Put a NaN into one of the arrays that a kernel answers, or else may write, on its call of this number.

    Returns a list of how many such arrays every call had.
    """
    calls, original = [], record.numba or record.reference

    def run(*args):
        ans = original(*args)
        outputs = ans if isinstance(ans, tuple) else (ans,)
        arrays = [a for a in outputs if isinstance(a, np.ndarray) and a.size and a.dtype.kind == "f"]
        arrays = arrays or [a for a in args if isinstance(a, np.ndarray) and a.flags.writeable]
        calls.append(len(arrays))
        if len(calls) == call and which < len(arrays):
            arrays[which].reshape(-1)[arrays[which].size // 2] = np.nan
        return ans

    monkeypatch.setattr(record, "numba", run)
    return calls


@pytest.mark.long(but={"validation": [0.2], "name": ["MADE, bits"]})
@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("name, kernel", [(n, k) for n, (_, _, names) in TRAINED.items() for k in names.split()])
@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_a_nan_in_any_array_of_a_training_step(name, kernel, validation, monkeypatch):
    """The epoch is taken back, or the value is not used: the model that is left is finite, and has learned."""
    model, x, _ = TRAINED[name]
    params, trained = model.get_params() | {"validation_fraction": validation}, 0
    sound = type(model)(**params).fit(x)
    for call in (1, 2, 5, 8, 13):
        which, n_arrays = 0, 1
        while which < n_arrays:
            with monkeypatch.context() as patch:
                calls = poisoned(record_of(kernel), call, which, patch)
                which += 1
                try:
                    left = type(model)(**params).fit(x)
                except ValueError as error:  # what the first parameters are made of
                    assert str(error) == "fit: the first parameters are not finite; look at the scale of X"
                    continue
            n_arrays, trained = calls[call - 1], trained + 1
            where = f"call {call}, array {which} of {n_arrays}"
            assert np.isfinite(left.params_.flat).all() and np.isfinite(left.log_prob(x)).all(), where
            assert left.score(x) > sound.score(x) - 0.25 * abs(sound.score(x)), where
            assert all(np.isfinite(entry["train_nats"]) for entry in left.history_), where
    assert trained >= 3


@pytest.mark.parametrize("moment", ["m", "v", "params"])
def test_a_nan_in_the_optimiser_at_the_last_step_of_an_epoch(moment, monkeypatch):
    """Nothing was scored with it, so that only the end of the epoch can find it."""
    record, original = kernels.adam.step, kernels.adam.step.numba
    steps = []

    def step(param, grad, m, v, *rest):
        answer = original(param, grad, m, v, *rest)
        steps.append(moment)
        if len(steps) == 10:  # of 5 a epoch
            {"params": param, "m": m, "v": v}[moment][3] = np.nan
        return answer

    monkeypatch.setattr(record, "numba", step)
    model = MADE(hidden=(6,), max_epochs=4, batch_size=16, validation_fraction=0, random_state=0)
    with pytest.warns(ConvergenceWarning, match="in epoch 2; went back to the last good parameters"):
        model.fit(MOONS)
    assert model.history_[-1]["rollbacks"] == 1 and model.n_epochs_ == 4 and np.isfinite(model.log_prob(MOONS)).all()


class Fault:
    """Raises at the k-th line that is run in functions of these names."""

    def __init__(self, k, error, names):
        self.k, self.error, self.names, self.lines = k, error, names, 0

    def __call__(self, frame, event, arg):
        return self.line if frame.f_code.co_name in self.names and "npgen" in frame.f_code.co_filename else None

    def line(self, frame, event, arg):
        self.lines += event == "line"
        if event == "line" and self.lines == self.k:
            raise self.error
        return self.line

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *exc):
        sys.settrace(self.before)


MIXTURES = {"full": lambda: GaussianMixture(3, tol=0, max_iter=4, random_state=0),
            "diag": lambda: GaussianMixture(3, tol=0, max_iter=4, covariance_type="diag", random_state=0),
            "columns": lambda: Mixture(3, tol=0, max_iter=4, random_state=0)}


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.filterwarnings("ignore")
def test_ctrl_c_at_any_line_of_em_keeps_what_belongs_together(kind):
    names, ended = {"_climb", "_maximise", "_expect", "expect", "maximise"}, 0
    for k in itertools.count(1, 3):
        model, fault = MIXTURES[kind](), Fault(k, KeyboardInterrupt, names)
        try:
            with fault:
                model.fit(MOONS)
        except KeyboardInterrupt:  # before EM has a likelihood, or after it has ended
            assert not hasattr(model, "lower_bound_")
            continue
        ended += 1
        assert model.lower_bound_ == pytest.approx(model.score(MOONS), rel=1e-12)
        assert model.lower_bounds_[-1:] in ([], [model.lower_bound_])
        if fault.lines < k:
            break
    assert ended > 20


@pytest.mark.parametrize("kind", [*MIXTURES, "counts"])
@pytest.mark.filterwarnings("ignore")
def test_a_partial_fit_that_fails_anywhere_changes_nothing(kind):
    x = np.round(2 + 3 * np.abs(MOONS)) if kind == "counts" else MOONS
    model = GaussianMixture(2, preprocess="dequantize", random_state=0) if kind == "counts" else MIXTURES[kind]()
    model.fit(x)

    def state():
        arrays, fitted = model.state()
        return {name: np.asarray(a).tobytes() for name, a in arrays.items()}, json.dumps([fitted, model.stream_.state()])

    before, failed = state(), 0
    for k in itertools.count(1, 2):
        with contextlib.suppress(RuntimeError):
            with Fault(k, RuntimeError, {"_learn_more", "_prepare_rows", "_maximise", "_expect", "expect", "maximise", "reseed",
                                         "draw", "_statistics_of", "statistics_of", "_keep", "_finish", "around"}):
                model.partial_fit(x[:5])
            break
        assert state() == before
        failed += 1
    assert failed > 20 and state() != before


@pytest.mark.parametrize("kernel", ["em.statistics"])
@pytest.mark.parametrize("call", [1, 2, 3, 5])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.filterwarnings("ignore")
def test_a_nan_in_em(kernel, call, which, monkeypatch):
    with monkeypatch.context() as patch:
        calls = poisoned(record_of(kernel), call, which, patch)
        try:
            model = GaussianMixture(3, tol=0, max_iter=8, random_state=0).fit(MOONS)
        except ValueError as error:
            assert "\n" not in str(error)
            return
    assert np.isfinite(model.log_prob(MOONS)).all() and calls[call - 1] > which




# ---------------------------------------------------------------- a fit that fails

class Broken(Exception):
    pass


def broken(record, call, monkeypatch):
    """Raise on this call of a kernel, after its work is done; returns a list as long as there were calls."""
    calls, original = [], record.numba or record.reference

    def run(*args):
        ans = original(*args)
        calls.append(None)
        if len(calls) == call:
            raise Broken
        return ans

    monkeypatch.setattr(record, "numba", run)
    return calls


def bits(value):
    """What a model is made of, arrays as bytes."""
    if isinstance(value, dict):
        return {name: bits(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return bits(vars(value)) if hasattr(value, "__dict__") else repr(value)


LEFT_ALONE = TRAINED | {
    "VAE, levels": (VAE(n_latent=2, hidden=(4,), **QUICKLY), np.clip(np.round(3 * MOONS), -1, 1), "gather.rows random.normal"),
    "mixture by gradient": (GaussianMixture(2, solver="adam", **QUICKLY), MOONS, "gather.rows adam.step em.statistics")}


@pytest.mark.parametrize("name, kernel", [(n, k) for n, (_, _, names) in LEFT_ALONE.items() for k in names.split()])
def test_an_error_anywhere_in_a_fit_leaves_the_model_as_it_was(name, kernel, monkeypatch, tmp_path):
    """Whichever call of a kernel fails, the first ones and later ones: every attribute keeps its bits, the stream too."""
    model, x, _ = LEFT_ALONE[name]
    model = type(model)(**model.get_params()).fit(x)
    model.log_prob(x), model.encode(x)  # whatever a query keeps is there now
    before = bits(vars(model))
    for call in (1, 2, 3, 7, 12):
        with monkeypatch.context() as patch:
            calls = broken(record_of(kernel), call, patch)
            try:
                model.fit(x[::2], validation_data=x[1::2], checkpoint=tmp_path / "run")
            except Broken:
                assert bits(vars(model)) == before, f"call {call} of {len(calls)}"
                continue
        assert len(calls) < call
        break
    assert call > 1
