"""NVIDIA's compiler takes every CUDA source as CuPy hands it over, for old and new architectures: no warning, no spill."""
import re

import nvrtc
import pytest

from npgen.kernels import _cuda

pytestmark = pytest.mark.skipif(nvrtc.library() is None,
                                reason="no nvidia-cuda-nvrtc: that the CUDA sources compile was NOT tested")

STEMS = sorted(path.stem for path in _cuda.FOLDER.glob("*.cu"))
# The most that an entry point may use.
REGISTERS = {"adam": 72, "categorical": 72, "em": 192, "flow": 192, "gather": 40, "gibbs": 80, "gray": 64, "langevin": 192,
             "likelihood": 64, "logsumexp": 64, "made_sample": 96, "masked_matmul": 224, "mixture_likelihood": 80,
             "mlp": 224, "mlp_slope": 224, "norm": 40, "pairwise": 64, "random": 64, "reparameterize": 56, "silu": 48,
             "spline": 96, "trajectory": 232, "transport": 64}


@pytest.mark.long(but={"arch": ["sm_90"], "real": ["float"], "stem": ["adam", "gather", "norm", "random", "reparameterize"]})
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("arch", ["sm_75", "sm_90", "sm_120"])
def test_compiles_without_warning_or_spill(stem, real, arch):
    log = nvrtc.compiled(_cuda.source(stem), (f"-DREAL={real}",), arch)
    assert "warning" not in log, log
    found = re.findall(r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
                       r".*?Used (\d+) registers", log, re.DOTALL)
    assert {name for name, *_ in found} == set(_cuda.signatures(stem)), log
    for name, *bytes_in_memory, registers in found:
        assert bytes_in_memory == ["0"] * 3, name
        assert int(registers) <= REGISTERS[stem], f"{name}: {registers} registers"


@pytest.mark.parametrize("edit, seen", [
    (lambda s: s.replace("REAL step =", "int step ="), ""),  # compiles: nothing to see for a compiler
    (lambda s: s.replace("REAL step =", "REAL unused, step ="), "declared but never referenced"),
    (lambda s: s.replace("REAL scale = clip_scale[0];", "REAL scale = INFINITY;"), "INFINITY"),
    (lambda s: s.replace("void step(", "void __launch_bounds__(1024, 2) step("), "spill|local memory")])
def test_a_planted_fault_is_seen(edit, seen):
    source = edit(_cuda.source("adam"))
    assert source != _cuda.source("adam")
    try:
        log = nvrtc.compiled(source, ("-DREAL=double",), "sm_90")
    except RuntimeError as error:
        log = str(error)
    assert bool(seen) == bool(re.search("warning|error", log)) and re.search(seen, log), log
