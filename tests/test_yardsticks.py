"""Published figures on published data (MADE 1x500 on the UCI and DEBD binary sets); skipped where the data is not there."""
import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from npgen.models import MADE

LOADER = Path(__file__).resolve().parents[2] / "shared" / "data" / "load.py"
pytestmark = pytest.mark.skipif(not LOADER.exists(), reason=f"THE YARDSTICKS ARE NOT CHECKED: there is no {LOADER}")


def binary(name):
    spec = importlib.util.spec_from_file_location("yardstick_data", LOADER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {part: x.astype(np.float32) for part, x in module.binary(name).items()}


def assert_sums_to_one(model):
    states = np.array(list(itertools.product([0, 1], repeat=16)), dtype=np.float64)
    assert math.isclose(math.fsum(np.exp(model.log_prob(states))), 1, abs_tol=1e-9)


def test_nltcs_quickly():
    x = binary("nltcs")
    model = MADE(hidden=(100,), max_epochs=4, random_state=0).fit(x["train"])
    assert -model.score(x["test"]) < 7.0  # independent columns: 9.23
    assert_sums_to_one(model)


@pytest.mark.slow
@pytest.mark.parametrize("name, nats", [("adult", 13.25), ("nltcs", 6.03)])
def test_made_reaches_the_published_nats(name, nats):
    x = binary(name)
    rows = np.concatenate([x["train"], x["valid"]])  # as many are held out for the early stop, drawn anew
    model = MADE(validation_fraction=len(x["valid"]) / len(rows), patience=30, weight_decay=0.1, random_state=0).fit(rows)
    print(f"{name}: {-model.score(x['test']):.4f} test nats after {model.n_epochs_} epochs")
    assert -model.score(x["test"]) <= nats
    if name == "nltcs":
        assert_sums_to_one(model)
