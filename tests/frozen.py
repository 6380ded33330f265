"""Fits of every model whose answers are frozen: `python tests/frozen.py` says which bits have changed, `--write` records them.

A change of the house leaves every bit alone, or names the ones that it changes and why. Bits depend on the machine: those
recorded hold where processor, BLAS and versions are as they were, elsewhere the answers are close. The files in format-1 were
written by the first format's own code, with the answers that it gave, and load for good: nothing writes them anew.
"""
import argparse
import functools
import warnings
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import scipy
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_info

import npgen
from npgen import data
from npgen.transforms import Chain, Dequantize, Logit, Standardize

FOLDER = Path(__file__).parent / "frozen"
RECORD, FILES = FOLDER / "answers.safetensors", FOLDER / "format-1"

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(120, 5))
BITS = (NORMAL[:, :4] + NORMAL[:, [4]] > 0).astype(float)
REAL = NORMAL @ RNG.normal(size=(5, 5)) * [1, 20, 0.1, 3, 1] + [0, 300, 0, -7, 1]
LEVELS = np.hstack([REAL[:, :2], BITS[:, :2], np.clip(np.round(1 + NORMAL[:, 2:4]), 0, 2)])
COUNTS = np.clip(np.round(4 + 2 * NORMAL[:, :3] + NORMAL[:, [3]]), 0, 9)
HOLES = np.where(RNG.random(REAL.shape) < 0.1, np.nan, REAL)
MOONS = data.moons(120)

made = functools.partial(npgen.MADE, max_epochs=3)
flow = functools.partial(npgen.RealNVP, n_couplings=3, hidden=(8,), max_epochs=3)
vae = functools.partial(npgen.VAE, n_latent=2, hidden=(8,), n_importance=20, max_epochs=3)
mixture = functools.partial(npgen.GaussianMixture, n_components=3, max_iter=8, tol=0)
columns = functools.partial(npgen.Mixture, n_components=3, max_iter=8, tol=0)
CASES = {
    "made-bernoulli": (made(hidden=(9, 7)), BITS),
    "made-bernoulli-given-order": (made(hidden=(16,), order=(2, 0, 3, 1)), BITS),
    "made-normal": (made(hidden=(16,)), REAL),
    "made-normal-raw": (made(hidden=(9, 7), preprocess=None), MOONS),
    "made-counts": (made(hidden=(16,)), COUNTS),
    "realnvp": (flow(), REAL),
    "realnvp-raw-linear": (flow(preprocess=None, hidden=()), MOONS),
    "realnvp-counts": (flow(preprocess=Chain(steps=(Dequantize(levels=10), Logit(alpha=0.01), Standardize()))), COUNTS),
    "vae-bernoulli": (vae(), BITS),
    "vae-normal": (vae(), REAL),
    "vae-counts": (vae(preprocess="dequantize+logit"), COUNTS),
    "gmm-full": (mixture(), MOONS),
    "gmm-tied": (mixture(covariance_type="tied"), REAL),
    "gmm-diag": (mixture(covariance_type="diag"), REAL),
    "gmm-spherical": (mixture(covariance_type="spherical"), REAL),
    "gmm-missing": (mixture(), HOLES),
    "gmm-counts": (mixture(preprocess="dequantize+logit"), COUNTS),
    "gmm-adam": (mixture(solver="adam", max_epochs=3), MOONS),
    "mixture-bernoulli": (columns(), BITS),
    "mixture-normal": (columns(), REAL),
    "mixture-all-heads": (columns(heads=("normal",) * 2 + ("bernoulli",) * 2 + ("categorical",) * 2), LEVELS),
}
WEIGHTS = np.linspace(0.25, 4, 120)
FITS = {f"{case} {dtype} seed {seed}{' weighted' * weighted}": (case, dtype, seed, weighted)
        for case in CASES for dtype in ("float32", "float64") for seed in (0, 1) for weighted in (False, True)}


def rows(case, dtype):
    """The rows that a case is fitted to."""
    return CASES[case][1].astype(dtype)


def fit(case, dtype, seed, weighted):
    """A case's model, fitted."""
    model = CASES[case][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few iterations do not converge
        return type(model)(**model.get_params() | {"random_state": seed}).fit(
            rows(case, dtype), sample_weight=WEIGHTS if weighted else None)


def answers(model, x):
    """What the three queries say of the first rows, and rows drawn."""
    z = model.encode(x[:8])
    return {"log_prob": model.log_prob(x[:8]), "encode": z, "decode": model.decode(z), "sample": model.sample(4, rng=0)}


def here():
    """What bits depend on."""
    cpu, features = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features()
    blas = {f"{lib['internal_api']} {lib.get('architecture')}" for lib in threadpool_info() if lib["user_api"] == "blas"}
    wide = sorted(name for name, there in features.items() if there and name.startswith(("avx", "fma", "sve", "neon")))
    versions = [f"{module.__name__} {module.__version__}" for module in (np, scipy, numba)]
    return "; ".join([*versions, cpu, " ".join(wide), *sorted(blas)])


def recorded(path):
    """{name: {query: answer}}, and the machine that they are of."""
    found = {}
    for name, answer in load_file(path).items():
        case, query = name.split(": ")
        found.setdefault(case, {})[query] = answer
    with safe_open(path, "numpy") as file:
        return found, file.metadata()["machine"]


def record(path, found):
    """Write {name: {query: answer}}, of this machine."""
    flat = {f"{name}: {query}": np.ascontiguousarray(a) for name, each in found.items() for query, a in each.items()}
    save_file(flat, path, {"machine": here()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="record today's answers")
    write = parser.parse_args().write
    before = recorded(RECORD)[0] if RECORD.exists() else {}
    found = {name: answers(fit(*each), rows(*each[:2])) for name, each in FITS.items()}
    for name, each in found.items():
        changed = [query for query, a in each.items() if name not in before or a.tobytes() != before[name][query].tobytes()]
        if changed:
            print(f"{name}: {', '.join(changed)}")
    if write:
        FOLDER.mkdir(exist_ok=True)
        record(RECORD, found)


if __name__ == "__main__":
    main()
