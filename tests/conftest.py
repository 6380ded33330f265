"""Slow tests run when asked for, long ones unless asked not to; every run prints the same Hypothesis examples."""
import os

import cuda_emulator
import cupy_standin
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on a shared machine, threads that spin while they wait cost 20 times
settings.register_profile("npgen", deadline=None, derandomize=True, print_blob=True,
                          suppress_health_check=[HealthCheck.too_slow])  # as a busy machine may be
settings.load_profile("npgen")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--gpu", action="store_true", help="run the tests of CUDA kernels on the GPU, not on a stand-in for CuPy")
    parser.addoption("--quick", action="store_true", help="leave out the tests marked long")


def is_long(item):
    """Is it marked long, and not one of the cases excepted by @pytest.mark.long(but={parameter: its quick values})?"""
    buts = [mark.kwargs.get("but") for mark in item.iter_markers("long")]
    return any(not but or any(item.callspec.params[name] not in values for name, values in but.items()) for but in buts)


def pytest_collection_modifyitems(config, items):
    quick, slow = config.getoption("--quick"), config.getoption("--slow")
    laws, left_out = {}, []
    for item in items:
        laws.setdefault(item.nodeid.partition("[")[0], []).append(item)
        if not slow and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        elif quick and is_long(item):
            left_out.append(item)
    for law, cases in laws.items():
        excepted = any(mark.kwargs for item in cases for mark in item.iter_markers("long"))
        if excepted and all(map(is_long, cases)) and not any("[" in arg for arg in config.args):  # cases chosen by name
            raise pytest.UsageError(f"{law}: @pytest.mark.long(but=...) excepts no case that there is")
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        dropped = set(left_out)
        items[:] = [item for item in items if item not in dropped]


def pytest_runtest_setup(item):
    """Every test draws what it draws alone: the generators of its module are where the module left them."""
    for rng in vars(item.module).values():
        if isinstance(rng, np.random.Generator):
            rng.bit_generator.state = STATES.setdefault(id(rng), (rng, rng.bit_generator.state))[1]


STATES = {}  # of a generator, by its id: itself, which keeps the id its own, and its first state


def pytest_terminal_summary(terminalreporter):
    import cuda_receipts
    if stems := cuda_receipts.unverified():
        terminalreporter.write_line(f"CUDA kernels NOT verified on a GPU as they are now: {', '.join(stems)}. They ran on a "
                                    "stand-in; on a machine with a GPU: python tests/cuda_receipts.py")


@pytest.fixture
def launched(request, monkeypatch):
    """The kernels that a test launches are in its JUnit report, of which cuda_receipts.py makes receipts."""
    from npgen.kernels import _cuda
    signatures, stems = _cuda.signatures, []

    def noted(stem):  # which every launch asks for, however it is imported
        stems.extend([stem] if stem not in stems else [])
        return signatures(stem)

    monkeypatch.setattr(_cuda, "signatures", noted)
    request.node.user_properties.append(("launches", stems))


@pytest.fixture
def cupy(request, launched):
    """The stand-in for CuPy, as the module cupy; with --gpu CuPy itself."""
    if request.config.getoption("--gpu"):
        from npgen.kernels import _cuda
        yield _cuda.require()
    elif cuda_emulator.COMPILER is None:
        pytest.skip("no g++: the CUDA sources were NOT run")
    else:
        with cupy_standin.installed() as module:
            yield module


@pytest.fixture
def standin(request, cupy):
    """The stand-in, for what CuPy itself does not tell: skipped with --gpu."""
    if request.config.getoption("--gpu"):
        pytest.skip("asked of the stand-in, which counts")
    return cupy
