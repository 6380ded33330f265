"""npgen.warmup: it launches every kernel, and after it none is compiled or loaded any more."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npgen

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
    with pytest.raises(ValueError, match="warmup: models must be among gmm, made, realnvp, vae, got 'gan'"):
        npgen.warmup(models=["made", "gan"])
