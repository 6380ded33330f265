"""npgen.warmup launches every kernel, and after it none is compiled or loaded any more; cache folders; which BLAS runs."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npgen
from npgen import machine
from npgen.kernels import _blas, _jit, masked_matmul
from npgen.masks import Plan
from npgen.testing import check_kernel

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
modules = (getattr(kernels, name) for name in kernels.__all__)
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
    with pytest.raises(ValueError, match="warmup: models must be among gmm, iaf, made, maf, mixture, .*vae, got 'gan'"):
        npgen.warmup(models=["made", "gan"])


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes this version's folder, beside others that were there."""
    def make():
        _jit.cache_folder.cache_clear()
        return _jit.cache_folder()

    monkeypatch.setenv("NPGEN_CACHE_DIR", str(tmp_path))
    yield make
    _jit.cache_folder.cache_clear()


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_folders_of_older_versions_go(folder, tmp_path):
    """The last used stay, and so does what was used within weeks, what has another name, and what is not ours."""
    def left(name, used):
        (tmp_path / name / "kernels_0").mkdir(parents=True)
        (tmp_path / name / "kernels_0" / "a.nbi").write_text("x")
        os.utime(tmp_path / name, (used, used))

    old = [f"kernels-{k:016x}" for k in range(9)]
    for k, name in enumerate(old):
        left(name, 10**9 + k)
    others = ["kernels-0", "kernels", "mine", "kernels-" + "g" * 16, "xkernels-" + "0" * 16]
    for name in others:
        left(name, 10**9)
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "kept").write_text("x")
    (tmp_path / f"kernels-{99:016x}").symlink_to(tmp_path / "aside")
    (tmp_path / f"kernels-{98:016x}").write_text("a file")
    ours = folder()
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {ours.name, *old[-_jit.KEPT:], *others, "aside", f"kernels-{99:016x}", f"kernels-{98:016x}"}
    assert (tmp_path / "aside" / "kept").exists() and ours.stat().st_mtime > 10**9 + 9
    now = ours.stat().st_mtime
    for k in range(9):
        left(f"kernels-{k + 200:016x}", now - _jit.UNUSED / 2)
    assert folder() == ours and len([p for p in tmp_path.iterdir() if p.name >= "kernels-" + f"{200:016x}"]) >= 9


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_what_cannot_be_removed_stays_and_nothing_fails(folder, tmp_path, monkeypatch):
    (tmp_path / f"kernels-{1:016x}").mkdir()

    def refuse(*args, **kwargs):
        raise PermissionError(13, "refused")

    monkeypatch.setattr(_jit.os, "utime", refuse)
    assert folder().is_dir()
    assert (tmp_path / f"kernels-{1:016x}").is_dir()


# ---------------------------------------------------------------- which BLAS kernels run

BLAS = """
import sys
{before}
from npgen import machine
from npgen.kernels import _blas
from npgen.random import Stream
_blas._avx512 = lambda: {avx512}
{first}
Stream(0).normal(3)
products = _blas.products()
print(products.get("architecture"), _blas._small_products[0], _blas.chosen_by)
print(*[value for name, value in machine.facts() if "products run on" in value], *machine.advice(), sep="\\n")
"""


def blas(before="", first="", avx512=True, **env):
    code = BLAS.format(before=before, first=first, avx512=avx512)
    env = {"OPENBLAS_CORETYPE": None, "NPGEN_CORETYPE": None} | env
    said, *lines = run(code, **env).split("\n")
    core, small, chosen_by = said.split(" ", 2)
    return core, bool(int(small)), chosen_by, "\n".join(lines)


def openblas_of_scipy():
    products = _blas.products() if _jit.available else {}
    return products.get("internal_api") == "openblas" and "scipy.libs" in products["filepath"]


@pytest.mark.skipif(not openblas_of_scipy(), reason="SciPy brings no OpenBLAS of its own")
def test_it_is_the_loaded_blas_that_is_asked():
    """Stood in for AVX-512: Nehalem, SSE4, kernels that every x86 has. Who chooses, and what is said of it."""
    if _blas.products()["architecture"] not in ("Haswell", "Zen"):
        pytest.skip("OpenBLAS takes this CPU for another")
    itself = _blas.products()["architecture"]
    core, small, who, said = blas(NPGEN_CORETYPE="Nehalem")
    assert (core, small, who) == ("Nehalem", False, "npgen") and "its Nehalem kernels chosen by npgen" in said
    for before, first in ("import scipy.linalg", ""), ("import sklearn.linear_model", ""):
        core, small, who, said = blas(before, first, NPGEN_CORETYPE="Nehalem")
        assert (core, small, who) == (itself, False, "itself, before npgen's first kernel")
        assert "scipy.linalg, which scikit-learn imports too, was imported before npgen's first kernel" in said
    core, small, who, said = blas(avx512=False, NPGEN_CORETYPE="Nehalem")
    assert (core, small, who) == (itself, False, "itself") and "OPENBLAS_CORETYPE=SkylakeX before" not in said
    core, small, who, _ = blas(NPGEN_CORETYPE="keep")
    assert (core, small, who) == (itself, False, "itself")
    core, small, who, _ = blas(OPENBLAS_CORETYPE="Nehalem")
    assert (core, small, who) == ("Nehalem", False, "OPENBLAS_CORETYPE")
    for special in "from npgen import ops; ops._special(1.0)", "from npgen import ops; import numpy as np; " \
                   "ops._triangular(np.eye(2), np.ones(2), lower=True, transpose=False)":
        assert blas(first=special, NPGEN_CORETYPE="Nehalem")[2] == "npgen"  # its own import of scipy.linalg is no other's


@pytest.mark.skipif(not openblas_of_scipy(), reason="SciPy brings no OpenBLAS of its own")
def test_small_products_are_for_the_kernels_that_do_not_pack():
    """In a program that multiplies nothing, as this CPU may lack their instructions."""
    code = """
import os, numpy
from npgen.kernels import _blas
os.environ["OPENBLAS_CORETYPE"] = {core!r}
print(_blas.products()["architecture"], _blas._small_products[0])
"""
    for core in "SkylakeX", "Haswell", "Nehalem":
        assert run(code.format(core=core), OPENBLAS_CORETYPE=None) == f"{core} {int(core == 'SkylakeX')}"


@pytest.mark.skipif(not _jit.available, reason="no Numba")
def test_machine_code_asks_the_process_that_runs_it_and_either_way_is_right(monkeypatch):
    """Products cut into small ones or not, by one and the same machine code."""
    r, plan, calls = np.random.default_rng(0), Plan.dense(300, 200), []
    x, w, b = r.normal(size=(500, 300)), r.normal(size=(300, 200)), r.normal(size=200)
    before = _blas._small_products[0]
    try:
        for small in 0, 1:
            _blas._small_products[0] = small
            check_kernel(masked_matmul.forward, x, w, b, plan.mask_as(x.dtype), plan.blocks, rtol=0, atol=1e-11)
            calls.append(masked_matmul.forward(x, w, b, plan.mask_as(x.dtype), plan.blocks).tobytes())
    finally:
        _blas._small_products[0] = before
    assert calls[0] != calls[1]  # sums over the depth in other parts: that either way was taken


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
