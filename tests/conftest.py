"""Slow tests run when asked for, long ones unless asked not to; every run prints the same Hypothesis examples."""
import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on a shared machine, threads that spin while they wait cost 20 times
settings.register_profile("npgen", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("npgen")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--quick", action="store_true", help="leave out the tests marked long: under two minutes")


def pytest_collection_modifyitems(config, items):
    left_out = {mark for mark, out in (("slow", not config.getoption("--slow")), ("long", config.getoption("--quick"))) if out}
    for item in items:
        if left_out & set(item.keywords):
            item.add_marker(pytest.mark.skip(reason=f"{' and '.join(left_out & set(item.keywords))}: see pytest --help"))
