"""What is shipped: the sdist builds the wheel, the wheel runs outside the checkout, an editable install follows edits."""
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not a checkout: nothing to build")


def call(*command, cwd):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    env |= {"PIP_NO_INDEX": "1", "NPGEN_CACHE_DIR": str(cwd)}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy to build in, so that no build folder is left behind."""
    folder = tmp_path_factory.mktemp("checkout") / "npgen"
    ignore = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, folder, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """(wheel, sdist): build makes the sdist, and from that alone the wheel."""
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, checkout, cwd=out)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture
def venv(tmp_path):
    """A fresh environment that sees the dependencies installed for these tests, and no npgen."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n")  # plain paths: editable installs there stay unseen
    return python


def install(python, *what, cwd):
    options = "--quiet", "--no-deps", "--no-build-isolation"
    call(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, cwd=cwd)


@pytest.mark.long
def test_the_wheel_has_one_top_level_name_and_all_files(built):
    names = zipfile.ZipFile(built[0]).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"npgen"}
    shipped = {f"npgen/{p.relative_to(ROOT / 'npgen')}" for p in (ROOT / "npgen").rglob("*.py")}
    shipped |= {f"npgen/kernels/{p.name}" for p in (ROOT / "kernels").iterdir() if p.suffix in (".py", ".cu", ".cuh", ".json")}
    shipped |= {f"npgen/_assets/{p.name}" for p in (ROOT / "npgen" / "_assets").iterdir()}
    assert shipped <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_is_complete(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kept = ["setup.py", "pyproject.toml", "README.md", "docs/models.md", "LICENSE", "MANIFEST.in", ".ci/run"]
    kept += [str(p.relative_to(ROOT)) for folder in ("npgen", "kernels", "tests", "examples")
             for p in (ROOT / folder).rglob("*.py")]
    assert set(kept) <= names
    assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]


@pytest.mark.long
def test_a_model_is_fitted_from_the_wheel_outside_the_checkout(built, venv, tmp_path):
    install(venv, built[0], cwd=tmp_path)
    where = call(venv, "-c", "import npgen, npgen.kernels as k; print(npgen.__file__, k.__file__)", cwd=tmp_path).split()
    assert all(Path(path).is_relative_to(venv.parents[1]) for path in where)
    command = venv.with_name("npgen")
    summary = call(command, "fit", "gmm", "--data", "digits", "--out", "m.npgen", "--epochs", "20", "--set", "n_components=10",
                   "--set", "covariance_type=diag", cwd=tmp_path)
    assert "GaussianMixture" in summary and (tmp_path / "m.npgen").exists()
    assert "64" in call(command, "info", "m.npgen", cwd=tmp_path)
    refused = subprocess.run([str(venv), "-c", "import kernels"], cwd=tmp_path, capture_output=True, text=True)
    assert "ModuleNotFoundError" in refused.stderr


@pytest.mark.long
def test_an_editable_install_follows_edits(checkout, venv, tmp_path):
    install(venv, "--editable", checkout, cwd=tmp_path)
    asked = "import npgen as n, npgen.kernels as k, npgen.data as d; print(k.__file__, len(d.digits()[0]), n.__version__)"
    kernels, n, _ = call(venv, "-c", asked, cwd=tmp_path).split()
    assert Path(kernels).parent.samefile(checkout / "kernels") and n == "1797"
    (checkout / "npgen" / "version.py").write_text('__version__ = "9.9"\n')
    assert call(venv, "-c", asked, cwd=tmp_path).split()[2] == "9.9"
    assert call(venv.with_name("npgen"), "--version", cwd=tmp_path) == "npgen 9.9\n"
