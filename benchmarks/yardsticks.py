"""The published data, read from ../shared/data beside the repository, which has none of it.

Every loader gives (rows to fit, rows to stop and choose by, rows of the test), float32. Legend: n rows, d columns.
"""
import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np

LOADER = Path(__file__).resolve().parents[2] / "shared" / "data" / "load.py"


@functools.cache
def loader():
    """The module that reads the data; SystemExit where it is not there."""
    if not LOADER.exists():
        sys.exit(f"NOT RUN: the published data are not there, for want of {LOADER}")
    spec = importlib.util.spec_from_file_location("yardsticks", LOADER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts(x):
    return tuple(x[part].astype(np.float32) for part in ("train", "valid", "test"))


def binary(name):
    """A set of 0 and 1: adult, mushrooms, dna, nltcs, plants, jester, accidents."""
    return parts(loader().binary(name))


def mnist_static():
    """MNIST as Salakhutdinov & Murray (2008) made it black and white, once and for all."""
    return parts(loader().mnist_static())


def mnist_logit():
    """MNIST in the space of Papamakarios et al. (2017): dequantised, and the logit taken."""
    return parts(loader().mnist_logit())


def mnist_black():
    """MNIST, 1 where a pixel is above 1/2: (60,000 rows to fit, 10,000 of the test)."""
    x = loader().mnist()
    return tuple((x[part] > 127).astype(np.float32) for part in ("x_train", "x_test"))


def mnist_grey():
    """MNIST, pixels from 0 to 1, the last 5,000 rows to fit to stop by."""
    x = loader().mnist()
    x, test = (x[part].astype(np.float32) / 255 for part in ("x_train", "x_test"))
    return x[:-5000], x[-5000:], test


def table(name):
    """A table of real columns (n, d) and its labels (n,): iris, wine, breast cancer, and red wine, of one class."""
    if name == "red wine":
        x = np.concatenate(loader().red_wine_fold(1))
        return x, np.zeros(len(x), np.int64)
    x = loader().table(f"sklearn_{name.replace(' ', '_')}")
    return x["x"].astype(np.float64), x["y"]


def red_wine():
    """Ten folds (rows to fit, rows of the test), as Uria et al. (2013) have them."""
    return [loader().red_wine_fold(k) for k in range(1, 11)]


def mnist_small(n):
    """The first n test digits of MNIST at the size and in the units of the 8x8 digits, from 0 to 16."""
    x = loader().mnist()["x_test"][:n].reshape(-1, 28, 28).astype(np.float32)
    x = np.pad(x, ((0, 0), (2, 2), (2, 2))).reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    return np.round(x / 255 * 16).reshape(-1, 64)


def asia(n, seed=0):
    """n rows of the Asia network of Lauritzen & Spiegelhalter (1988), (n, 8), levels 0 (no) and 1 (yes).

    Columns: visit to Asia, tuberculosis, smoking, lung cancer, bronchitis, either disease, X-ray, dyspnoea.
    """
    rng, x = np.random.default_rng(seed), np.empty((n, 8))
    for d, share in enumerate(asia_tables()):
        x[:, d] = rng.random(n) < share(x)
    return x


def asia_tables():
    """P(column = 1) of rows whose columns before it are known, one function each."""
    def by(column, yes, no):
        return lambda x: np.where(x[:, column] == 1, yes, no)
    dyspnoea = np.array([[0.1, 0.7], [0.8, 0.9]])  # by bronchitis, either
    return (lambda x: np.full(len(x), 0.01), by(0, 0.05, 0.01), lambda x: np.full(len(x), 0.5), by(2, 0.1, 0.01),
            by(2, 0.6, 0.3), lambda x: ((x[:, 1] == 1) | (x[:, 3] == 1)).astype(float), by(5, 0.98, 0.05),
            lambda x: dyspnoea[x[:, 4].astype(int), x[:, 5].astype(int)])


def asia_log_prob(x):
    """The log-probability of rows of the network, (n,) nats."""
    total = np.zeros(len(x))
    with np.errstate(divide="ignore"):
        for d, share in enumerate(asia_tables()):
            p = share(x)
            total += np.log(np.where(x[:, d] == 1, p, 1 - p))
    return total
