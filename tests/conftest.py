"""Slow tests run when asked for; every run prints the same Hypothesis examples."""
import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on a shared machine, threads that spin while they wait cost 20 times
settings.register_profile("npgen", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("npgen")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
