"""Held-out nats of mixtures of Bernoullis on statically binarised MNIST, 50,000 rows to fit and 10,000 held out, seed 0.

    python -m benchmarks.mnist_mixtures [K ...]        10 and 500 components unless told otherwise

60 iterations of EM from random rows, a tenth of a row added to every count. Bars: at most 166.8 nats with 10 components, 127
with 500. The rows are those of Salakhutdinov & Murray (2008), read from ../shared/data beside the repository.
"""
import argparse
import importlib.util
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from npgen import ConvergenceWarning, Mixture

LOADER = Path(__file__).resolve().parents[2] / "shared" / "data" / "load.py"
BARS = {10: 166.8, 500: 127.0}


def rows():
    """(rows to fit, rows held out), float32 of 0 and 1; SystemExit where the data are not there."""
    if not LOADER.exists():
        sys.exit(f"NOT RUN: the rows of MNIST are not there, for want of {LOADER}")
    spec = importlib.util.spec_from_file_location("yardsticks", LOADER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = module.mnist_static()
    return x["train"].astype(np.float32), x["test"].astype(np.float32)


def main(components=(10, 500)):
    """Print the held-out nats for each number of components; True if all bars are met."""
    train, test = rows()
    met = True
    print("components   nats, held out      bar   minutes")
    for k in components:
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # tol=0: as many iterations as the bars were set with
            model = Mixture(k, heads="bernoulli", max_iter=60, tol=0, init_params="random_from_data", random_state=0).fit(train)
        nats, bar = -model.score(test), BARS.get(k, np.inf)
        met &= nats <= bar
        print(f"{k:10} {nats:16.2f} {bar:8.1f} {(time.perf_counter() - begin) / 60:9.1f}", flush=True)
    return met


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mnist_mixtures", description=__doc__.partition("\n")[0])
    parser.add_argument("components", type=int, nargs="*", default=[10, 500], metavar="K", help="components (10 500)")
    sys.exit(not main(parser.parse_args().components))
