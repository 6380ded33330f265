"""npgen.warmup launches every kernel, and after it none is compiled or loaded any more; cache folders; which BLAS runs."""
import ast
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npgen
from npgen import data, demo, kernels, machine
from npgen.kernels import _blas, _caching, _jit, _processes
from npgen.models import MODELS

ROOT = Path(__file__).resolve().parent.parent

CODE = """
import numba, numpy as np
import npgen
from npgen import kernels

called, launch = set(), kernels.Kernel.__call__

def recorded(kernel, *args):
    called.add(kernel.name)
    return launch(kernel, *args)

kernels.Kernel.__call__ = recorded
npgen.warmup({dtype!r})
modules = [m for m in map(vars(kernels).get, kernels.__all__) if dir(m)]  # which executes them
assert called == {{k.name for module in modules for k in vars(module).values() if isinstance(k, kernels.Kernel)}}

def late(dispatcher, signature):
    raise AssertionError(f"{{dispatcher.py_func}} was made ready after the warmup")

numba.core.dispatcher.Dispatcher.compile = late
rows = np.random.default_rng(1).normal(size=(300, 7)).astype({dtype!r})
for model in (npgen.MADE(hidden=(20, 9)), npgen.VAE(hidden=(9,)), npgen.RealNVP(n_couplings=4), npgen.GaussianMixture(3)):
    for x in rows, (rows > 0).astype(rows.dtype), np.round(rows):
        if model.__class__.__name__ in ("MADE", "VAE") or x is rows:
            model.set_params(**{{k: 2 for k in ("max_epochs", "max_iter") if k in model.get_params()}})
            model.fit(x, sample_weight=np.arange(300.0))
            assert np.isfinite(model.score(x))
            model.decode(model.encode(model.sample(70)))
"""


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_after_the_warmup_nothing_is_compiled_or_loaded(dtype):
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE.format(dtype=dtype)], cwd=ROOT, capture_output=True,
                            text=True, timeout=900, env=os.environ)
    assert result.returncode == 0, result.stderr


def test_warmup_refuses_other_dtypes():
    with pytest.raises(ValueError, match="warmup: dtype must be float32 or float64, got int64"):
        npgen.warmup(np.int64)


def test_warmup_refuses_a_name_that_is_no_models():
    with pytest.raises(ValueError, match="warmup: models must be among autoencoder, diffusion, .*gmm, .*vae, got 'glow'"):
        npgen.warmup(models=["made", "glow"])


@pytest.mark.long
@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_a_warmup_in_two_processes_has_the_second_do_the_same_work(monkeypatch):
    asked = []

    @contextlib.contextmanager
    def compiling_ahead(code):
        asked.append(code)
        yield
        asked.append("ended")

    fit = npgen.GaussianMixture.fit
    monkeypatch.setattr(machine, "compiling_ahead", compiling_ahead)
    monkeypatch.setattr(npgen.GaussianMixture, "fit", lambda model, x: asked.append("fit") or fit(model, x))
    npgen.warmup(np.float64, models=["gmm"], processes=2)
    assert asked == ["import npgen; npgen.warmup('float64', models=['gmm'])", *["fit"] * 4, "ended"]


# ---------------------------------------------------------------- a second process compiles, too

CASES = {name: (settings, data.binarize(data.digits()[0], demo.INK) if space == "black/white" else data.digits()[0])
         for name, space, settings, _ in demo.CASES}


@pytest.mark.long
@pytest.mark.skipif(not _jit.available, reason="no Numba")
@pytest.mark.parametrize("name", CASES)
def test_on_references_a_model_launches_what_it_launches_compiled(name, monkeypatch):
    """So what the second process finds is what the first will need."""
    settings, x = CASES[name]
    launched, side = set(), kernels.Kernel.side

    def noted(kernel, args):
        launched.add((kernel, *(getattr(a, "dtype", type(a)) for a in args)))
        return side(kernel, args)

    monkeypatch.setattr(kernels.Kernel, "side", noted)
    machine.query(MODELS[name](random_state=0, **settings), x, asked=True)
    compiled, _ = set(launched), launched.clear()
    with kernels.noted() as found:
        machine.query(MODELS[name](random_state=0, **settings), x, asked=True)
    assert compiled <= launched and len({kernel for kernel, *_ in compiled}) > 2
    assert launched == {(kernel, *(getattr(a, "dtype", type(a)) for a in args)) for kernel, args in found}
    assert [kernel.name for kernel, _ in found][0] != [kernel.name for kernel, _ in found][-1]


TWO = """
import sys, time
import numpy as np
from pathlib import Path
from npgen import fused, machine
from npgen.kernels import likelihood, norm

machine._n_cores = lambda: {cores}
started, popen = [], machine.subprocess.Popen
machine.subprocess.Popen = lambda *args, **params: started.append(popen(*args, **params)) or started[-1]
x = np.zeros((3, 2))
with machine.compiling_ahead("from npgen import fused; fused.standard_normal_log_prob(np.load(sys.stdin.buffer))", x):
    norm.squared(np.zeros(3))
    for process in started:
        assert process.wait(600) == 0
    fused.standard_normal_log_prob(x)
own = sum(sum(f.stats.cache_misses.values()) for f in vars(likelihood).values() if hasattr(f, "stats"))
print(len(started), own > 0)
"""


@pytest.mark.skipif(not _jit._known, reason="a Numba that is not known")
@pytest.mark.parametrize("cores, said", [(2, "1 False"), (1, "0 True")])
def test_what_the_second_process_has_compiled_the_first_loads(cores, said, tmp_path):
    assert run(TWO.format(cores=cores), NPGEN_CACHE_DIR=str(tmp_path)) == said


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_a_second_process_starts_at_once_where_nothing_was_ever_compiled(folder, tmp_path, monkeypatch):
    """And later, where a kernel has to be, if something was."""
    class Process:
        def __init__(self, *args, **params):
            started.append(args)

        kill = wait = lambda self: None

    started = []
    monkeypatch.setattr(machine, "_n_cores", lambda: 2)
    monkeypatch.setattr(machine.subprocess, "Popen", Process)
    ours = folder()
    with machine.compiling_ahead("pass"):
        assert len(started) == 1
        _processes.call_help()
        assert len(started) == 1
    (min(ours) / "kernels_0").mkdir()
    (min(ours) / "kernels_0" / "a.nbi").write_text("x")
    with machine.compiling_ahead("pass"):
        assert len(started) == 1
        _processes.call_help()
        assert len(started) == 2


SAME = """
import contextlib, subprocess, sys
import numpy as np
from npgen.kernels import _processes, norm

def other():
    started.append(subprocess.Popen([sys.executable, "-c", {code!r}], stdout=subprocess.PIPE, text=True))
    with contextlib.suppress(subprocess.TimeoutExpired):
        started[0].wait({seconds})

started = []
with _processes.helped(other):
    norm.squared(np.zeros(3))
print(started[0].stdout.read())
"""

OTHER = """
import numpy as np
from npgen.kernels import _processes, norm
_processes.PATIENCE = {patience}
norm.squared(np.zeros(3))
print(sum(norm._squared.stats.cache_misses.values()))
"""


@pytest.mark.skipif(not _jit._known or sys.platform == "win32", reason="a Numba that is not known, or no locks of files")
@pytest.mark.parametrize("patience, seconds, compiled", [(600, 5, "0"), (0, 600, "1")])
def test_of_two_processes_one_compiles_a_function_and_the_other_waits(patience, seconds, compiled, tmp_path):
    """Unless that takes longer than it has patience. The first is held up, for as long as the other needs to compile."""
    assert run(SAME.format(code=OTHER.format(patience=patience), seconds=seconds), NPGEN_CACHE_DIR=str(tmp_path)) == compiled


# ---------------------------------------------------------------- the cache folder

def run(code, **env):
    """What a program prints; variables that are None are not set."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | env
    env = {name: value for name, value in env.items() if value is not None}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env=env)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip()


@pytest.mark.parametrize("mode", [0o700, 0o500])
def test_an_import_makes_no_folder(mode, tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    for folder in home, temporary:
        folder.mkdir(mode=mode)
    nowhere = {"HOME": str(home), "TMPDIR": str(temporary), "NPGEN_CACHE_DIR": None, "XDG_CACHE_HOME": None}
    run("import npgen, npgen.data, npgen.testing, npgen.machine", **nowhere)
    assert os.listdir(home) == os.listdir(temporary) == []


def sources():
    return {path.stem: path.read_text() for path in (ROOT / "kernels").glob("*.py")}


def test_what_a_kernel_file_imports_is_found():
    """As Python itself finds it; a name that is none of a file's does no harm."""
    files = sources()
    for file, text in files.items():
        lines = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
        assert all(line.level == 1 for line in lines)
        names = {name for line in lines for name in ([line.module] if line.module else [alias.name for alias in line.names])}
        assert names & files.keys() == _caching.imported(text, files.keys()), file


def test_compiled_functions_take_nothing_from_files_of_the_host():
    """Whose edits compile nothing anew."""
    def compiled(node):
        return isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(how) for how in node.decorator_list)

    found = 0
    for file, text in sources().items():
        tree = ast.parse(text)
        host = {alias.asname or alias.name for line in ast.walk(tree) if isinstance(line, ast.ImportFrom)
                for alias in line.names if line.module in _caching.ON_THE_HOST or alias.name in _caching.ON_THE_HOST}
        for function in filter(compiled, ast.walk(tree)):
            found += 1
            assert not host & {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}, (file, function.name)
    assert found > 50


def test_an_edit_renames_the_folders_of_those_that_import_the_file(tmp_path, monkeypatch):
    text = {"a": "from . import b, other\nfrom ._dispatch import Kernel", "b": "def f():\n    from .c import (\n        x)",
            "c": "x = 1", "d": "from .cc import b", "cc": "", "_dispatch": "from . import d"}

    def names(**edited):
        for file, source in (text | edited).items():
            (tmp_path / f"{file}.py").write_text(source)
        monkeypatch.setattr(_caching, "__file__", str(tmp_path / "_caching.py"))
        _caching.folder_names.cache_clear()
        return _caching.folder_names()

    before = names()
    assert before.keys() == text.keys() - {"_dispatch"}
    for file, changed in {"a": "a", "b": "ab", "c": "abc", "d": "d", "_dispatch": ""}.items():
        after = names(**{file: text[file] + "\ny = 2"})
        assert {file for file in before if after[file] != before[file]} == set(changed), file
    _caching.folder_names.cache_clear()


SCORED = """
import numpy as np
from numba.core import event
from npgen.kernels import likelihood
with event.install_recorder("numba:compile") as recorder:
    print(likelihood.bernoulli_forward(np.eye(128, 130), np.zeros((128, 130))).shape,
          sorted({e.data["dispatcher"].__name__ for _, e in recorder.buffer}))
"""


@pytest.mark.long
@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_an_edit_of_a_helper_compiles_what_imports_it_anew(tmp_path):
    """That of another file compiles nothing."""
    for package in "npgen", "npgen/kernels":  # as it is installed
        shutil.copytree(ROOT / Path(package).name, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def scored(file=None, old="", new=""):
        if file:
            path = tmp_path / "npgen" / "kernels" / file
            text = path.read_text()
            assert text.count(old) == 1
            path.write_text(text.replace(old, new))
        return run(SCORED, PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1", NPGEN_CACHE_DIR=str(tmp_path / "cache"))

    assert "bernoulli" in scored()
    assert scored() == "(128,) []"
    assert scored("mlp.py", "import functools\n", "import functools\nEDITED = 1\n") == "(128,) []"
    assert "bernoulli" in scored("_partition.py", "1 if n < 64 or", "1 if n < 65 or")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes this version's folders, beside others that were there."""
    def make():
        _caching.cache_folder.cache_clear()
        assert _caching.cache_folder() == tmp_path
        return {tmp_path / name for name in _caching.folder_names().values()}

    monkeypatch.setenv("NPGEN_CACHE_DIR", str(tmp_path))
    yield make
    _caching.cache_folder.cache_clear()


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_folders_of_older_versions_go(folder, tmp_path):
    """The last used of each file stay, and so does what was used within weeks, what has another name, and what is not ours."""
    def left(name, used):
        (tmp_path / name / "kernels_0").mkdir(parents=True)
        (tmp_path / name / "kernels_0" / "a.nbi").write_text("x")
        os.utime(tmp_path / name, (used, used))

    old = {file: [f"kernels-{file}{k:016x}" for k in range(9)] for file in ("", "mlp-", "_blas-", "gone-")}
    for names in old.values():
        for k, name in enumerate(names):
            left(name, 10**9 + k)
    others = ["kernels-0", "kernels", "mine", "mlp-" + "0" * 16, "kernels-" + "g" * 16, "xkernels-" + "0" * 16]
    for name in others:
        left(name, 10**9)
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "kept").write_text("x")
    (tmp_path / f"kernels-{99:016x}").symlink_to(tmp_path / "aside")
    (tmp_path / f"kernels-{98:016x}").write_text("a file")
    ours = folder()
    assert set(tmp_path.iterdir()) - ours == {tmp_path / name for name in [
        *(name for names in old.values() for name in names[-_caching.KEPT:]), *others, "aside", f"kernels-{99:016x}",
        f"kernels-{98:016x}"]}
    assert (tmp_path / "aside" / "kept").exists() and min(path.stat().st_mtime for path in ours) > 10**9 + 9
    now = max(path.stat().st_mtime for path in ours)
    for k in range(9):
        left(f"kernels-mlp-{k + 200:016x}", now - _caching.UNUSED / 2)
    assert folder() == ours and len([p for p in tmp_path.iterdir() if p.name >= "kernels-mlp-" + f"{200:016x}"]) >= 9


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_a_folder_of_another_user_is_left_alone(folder, tmp_path, monkeypatch):
    """Whichever of the files it is: what lies there is not loaded."""
    theirs = _caching.folder_names()["mlp"]
    monkeypatch.setattr(_caching, "_owned", lambda path: path != tmp_path / theirs)
    _caching.cache_folder.cache_clear()
    assert _caching.cache_folder() != tmp_path


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_what_cannot_be_removed_stays_and_nothing_fails(folder, tmp_path, monkeypatch):
    (tmp_path / f"kernels-{1:016x}").mkdir()

    def refuse(*args, **kwargs):
        raise PermissionError(13, "refused")

    monkeypatch.setattr(_caching.os, "utime", refuse)
    assert all(path.is_dir() for path in folder())
    assert (tmp_path / f"kernels-{1:016x}").is_dir()


# ---------------------------------------------------------------- what a first fit compiles

FIRST_FIT = """
import collections, gc
import npgen
from numba.core import event

compiled, collected = [], []

class Listener(event.Listener):
    def on_start(self, happened):
        function = happened.data["dispatcher"].py_func
        compiled.append((function.__module__, function.__qualname__, happened.data["args"]))
        collected.append(gc.isenabled())

    def on_end(self, happened):
        pass

event.register("numba:compile", Listener())
x = npgen.data.digits()[0] {of}
npgen.{model}(max_epochs=1, random_state=0).fit(x)
assert gc.isenabled() and compiled and not any(collected)
ours = collections.Counter(each for each in compiled if each[0].startswith("npgen.") and "lambda" not in each[1])
print(sorted(name for (_, name, _), times in ours.items() if times > 1),
      {{module for module, *_ in ours}} & {{"npgen.kernels.random", "npgen.kernels.gather"}})
"""


@pytest.mark.slow
@pytest.mark.skipif(not _jit.available, reason="no Numba")
@pytest.mark.parametrize("model, of, drawing", [("MADE", "> 7", set()), ("VAE", "> 7", {"npgen.kernels.random"})])
def test_a_first_fit_compiles_nothing_twice_and_no_kernel_for_its_first_weights(model, of, drawing, tmp_path):
    """A VAE has the stream's normals in a kernel of its own, drawn at every step."""
    assert run(FIRST_FIT.format(model=model, of=of), NPGEN_CACHE_DIR=str(tmp_path)) == f"[] {drawing}"


ANSWERS = """
import numpy as np
import npgen
from numba.core import event

with event.install_recorder("numba:compile") as recorder:
    x = npgen.data.moons(50).astype(np.float32)
    npgen.GaussianMixture(2, max_iter=2, random_state=0).fit(x).score(x)
    npgen.MADE(hidden=(4,), max_epochs=1, random_state=0).fit(x).sample(2)
modules = {e.data["dispatcher"].py_func.__module__ for _, e in recorder.buffer}
print({"npgen.kernels.em", "npgen.kernels.made_sample"} <= modules, modules & {"numba.cpython.unicode"})
"""


@pytest.mark.slow
@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_no_answer_compiles_texts(tmp_path):
    """What Numba says of shapes that differ takes two seconds: an array assigned to a slice, or three axes transposed."""
    assert run("import warnings; warnings.simplefilter('ignore')" + ANSWERS, NPGEN_CACHE_DIR=str(tmp_path)) == "True set()"


# ---------------------------------------------------------------- which BLAS kernels run

BLAS = """
import sys
import numpy as np
{before}
from npgen import machine
from npgen.kernels import _blas
from npgen.kernels import norm
_blas._avx512 = lambda: {avx512}
{first}
norm.squared(np.zeros(3))
products = _blas.products()
print(products.get("architecture"), _blas.chosen_by)
print(*[value for name, value in machine.facts() if "decompositions run on" in value], *machine.advice(), sep="\\n")
"""


def blas(before="", first="", avx512=True, **env):
    code = BLAS.format(before=before, first=first, avx512=avx512)
    env = {"OPENBLAS_CORETYPE": None, "NPGEN_CORETYPE": None} | env
    said, *lines = run(code, **env).split("\n")
    core, chosen_by = said.split(" ", 1)
    return core, chosen_by, "\n".join(lines)


def openblas_of_scipy():
    products = _blas.products() if _jit.available else {}
    return products.get("internal_api") == "openblas" and "scipy.libs" in products["filepath"]


@pytest.mark.skipif(not openblas_of_scipy(), reason="SciPy brings no OpenBLAS of its own")
def test_it_is_the_loaded_blas_that_is_asked():
    """Stood in for AVX-512: Nehalem, SSE4, kernels that every x86 has. Who chooses, and what is said of it."""
    if _blas.products()["architecture"] not in ("Haswell", "Zen"):
        pytest.skip("OpenBLAS takes this CPU for another")
    itself = _blas.products()["architecture"]
    core, who, said = blas(NPGEN_CORETYPE="Nehalem")
    assert (core, who) == ("Nehalem", "npgen") and "its Nehalem kernels chosen by npgen" in said
    for before, first in ("import scipy.linalg", ""), ("import sklearn.linear_model", ""):
        core, who, said = blas(before, first, NPGEN_CORETYPE="Nehalem")
        assert (core, who) == (itself, "itself, before npgen's first kernel")
        assert "scipy.linalg, which scikit-learn imports too, was imported before npgen's first kernel" in said
    core, who, said = blas(avx512=False, NPGEN_CORETYPE="Nehalem")
    assert (core, who) == (itself, "itself") and "OPENBLAS_CORETYPE=SkylakeX before" not in said
    core, who, _ = blas(NPGEN_CORETYPE="keep")
    assert (core, who) == (itself, "itself")
    core, who, _ = blas(OPENBLAS_CORETYPE="Nehalem")
    assert (core, who) == ("Nehalem", "OPENBLAS_CORETYPE")
    for special in ("from npgen.ops import elementwise; elementwise.special(1.0)",
                    "from npgen.ops import linalg; import numpy as np; "
                    "linalg._triangular(np.eye(2), np.ones(2), lower=True, transpose=False)"):
        assert blas(first=special, NPGEN_CORETYPE="Nehalem")[1] == "npgen"  # its own import of scipy.linalg is no other's


@pytest.mark.parametrize("features, has", [("+avx2,+fma,-avx512f", False), ("+avx2,+avx512f", True), (None, True)])
def test_avx512_that_numba_is_told_to_do_without_is_not_there(features, has, monkeypatch):
    numba = pytest.importorskip("numba")
    import llvmlite.binding
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features",
                        lambda: dict.fromkeys([f"avx512{part}" for part in ("f", "cd", "bw", "dq", "vl")], True))
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assert _blas._avx512() == machine._has_avx512() == has
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: {"avx512f": True})
    assert not _blas._avx512()


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_a_block_on_fewer_threads_ends_with_as_many_as_before():
    before, most = _jit.get_num_threads(), _jit.numba.config.NUMBA_NUM_THREADS
    for asked, got in ((1, 1), (0, 1), (-3, 1), (most, most), (1000, most)):
        with pytest.raises(KeyError), _jit.on_threads(asked):
            assert _jit.get_num_threads() == got
            raise KeyError
        assert _jit.get_num_threads() == before
