"""Rows of benchmarks/PUBLISHED.md: densities of two columns whose entropy is known, so that nats less it are KL(data || model).

Sources: Dinh et al., RealNVP (2017); Papamakarios et al., MAF (2017); Durkan et al., NSF (2019); Lipman et al., Flow matching
(2023); Tong et al., Minibatch optimal transport (2024); Karras et al., EDM (2022).
"""
import functools
import time

import numpy as np

import npgen
from npgen import data, priors
from npgen.models.estimator import clone

from .published import Result, Row, mean

SEED = 0
ENTROPY = {"eight-gaussians": (2.144717, 0.02), "moons": (2.393879, 0.02), "rings": (2.845351, 0.05),
           "checkerboard": (3.465736, 0.10)}  # exact, and the bar of what is above it
STEPS = {"batch_size": 512, "schedule": "cosine", "average": 0.995, "random_state": SEED}
EQUATION = {"batch_size": 1024, "schedule": "cosine", "average": 0.999, "restore_best": False, "patience": 1000,
            "random_state": SEED}  # a squared error says little of which epoch is best
MATCHING = functools.partial(npgen.FlowMatching, hidden=(128, 128), learning_rate=4e-3, **EQUATION)
MODELS = {
    "NSF": npgen.NSF(n_layers=4, hidden=(64, 64), coupling=False, bins=16, max_epochs=40, learning_rate=3e-3, **STEPS),
    "MAF": npgen.MAF(n_layers=16, hidden=(64, 64), mix="lu", max_epochs=60, learning_rate=2e-3, **STEPS),
    "MAF, base of MADE": npgen.MAF(n_layers=2, hidden=(64, 64), base="made", max_epochs=40, learning_rate=3e-3, **STEPS),
    "RealNVP": npgen.RealNVP(n_couplings=32, hidden=(64, 64), max_epochs=60, learning_rate=2e-3, **STEPS),
    "FlowMatching": MATCHING(max_epochs=900, n_steps=60),
    "Diffusion": npgen.Diffusion(hidden=(128, 128), learning_rate=5e-3, max_epochs=900, n_steps=60, **EQUATION)}
# Chosen on rows of other seeds, by their KL divergence: of narrow rings and edges, and of pieces that lie apart. Flow matching
# of eight-gaussians there: 0.100 after 80 epochs as in MODELS; 0.029 after 40 of sines of bandwidth 3 and targets of batches
# (0.031 with a time_power of 1.5).
SINES = {"first_layer": "sine", "bandwidth": 12.0, "batch_size": 512, "learning_rate": 8e-3}
BATCHES = {"target": "batch", "hidden": (256, 128)}
OVER_MADE = {"base": priors.MADE(20, (128, 128)), "max_epochs": 40, "learning_rate": 4e-3}
LOOKED = {  # what else is looked at, of a model and data; its settings for all are {}
    ("FlowMatching", "eight-gaussians"): (SINES | BATCHES | {"bandwidth": 3.0, "max_epochs": 240, "n_steps": 60},),
    ("FlowMatching", "rings"): (SINES | BATCHES | {"max_epochs": 200, "time_power": 1.5, "n_steps": 50},),
    ("FlowMatching", "checkerboard"): (SINES | {"max_epochs": 350},),
    ("Diffusion", "rings"): (SINES | BATCHES | {"max_epochs": 220, "p_mean": -1.0, "n_steps": 120},),
    ("Diffusion", "checkerboard"): (SINES | {"max_epochs": 250, "p_mean": -1.0},),
    ("RealNVP", "eight-gaussians"): (OVER_MADE | {"n_couplings": 8},), ("RealNVP", "rings"): (OVER_MADE | {"n_couplings": 8},),
    ("MAF", "eight-gaussians"): (OVER_MADE | {"n_layers": 8, "mix": "reverse"},),
    ("MAF", "rings"): (OVER_MADE | {"n_layers": 8, "mix": "reverse", "max_epochs": 60},),
    ("MAF", "checkerboard"): ({"max_epochs": 90},)}


def rows(name, seed, n):
    return data.load(name, n=n, seed=seed).astype(np.float32)


def small(picture):
    """Keep a picture at half its size, in 128 colours: some 20 KB."""
    from PIL import Image  # matplotlib needs it too
    image = Image.open(picture).convert("RGB")
    image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    image.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(picture, optimize=True)


def divergence(name, model):
    """Nats of 100,000 fresh rows less the entropy: the KL divergence, estimated; a picture beside it."""
    def run(work):
        x, valid, test = (rows(name, seed, n) for seed, n in ((1, 50_000), (2, 5_000), (3, 100_000)))
        models = [clone(MODELS[model]).set_params(**more) for more in LOOKED.get((model, name), ({},))]
        fit, looked, seconds = work.best(name, models, x, valid)
        nats, error = mean(-fit.model.log_prob(test))
        picture = work.pictures / f"{model.lower().replace(', ', '-').replace(' ', '-')}-{name}.png"
        picture.parent.mkdir(exist_ok=True)
        from npgen import plot
        low, high = x.min(axis=0), x.max(axis=0)
        plot.density(picture, fit.model.log_prob, (low[0], high[0], low[1], high[1]), title=f"{model}, {name}", n_cells=200)
        small(picture)
        moved = getattr(fit.model, "solver_error_", None)
        return Result(nats - ENTROPY[name][0], error, fit.settings, looked, seconds, curve=fit.curve,
                      note=f"![density]({work.pictures.name}/{picture.name})"
                      + ("" if moved is None else f" Twice the steps move log p of a row by {moved:.1g} at most."))
    return run


# --- straight lines --------------------------------------------------------------------------------------------------

STRAIGHT, GIVEN = MATCHING(coupling="ot", max_epochs=40, n_steps=1, solver="euler"), MATCHING(coupling="ot", max_epochs=40)
DRAWN = 2000  # rows between which transport is solved


def transport(x, y):
    """The squared Wasserstein distance W2^2 between rows x and y, of as many rows."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist
    costs = cdist(x, y, "sqeuclidean")
    return float(costs[linear_sum_assignment(costs)].mean())


def one_step(work):
    """W2^2 of draws by one Euler step to rows of moons; beside it that of rows to other rows, below which none comes."""
    x, valid, test, others = (rows("moons", seed, n) for seed, n in ((1, 50_000), (2, 5_000), (3, DRAWN), (4, DRAWN)))
    fit = work.fit("moons", STRAIGHT, x, valid)
    found = transport(fit.model.sample(DRAWN, rng=SEED), test)
    return Result(found, None, fit.settings, [], fit.seconds, note=f"Rows to other rows: {transport(others, test):.3g}.")


def given(work):
    """The mean over the eight normals of W2^2 of draws given which of them it is, to rows of it."""
    def number(x):
        return np.round(np.arctan2(x[:, 1], x[:, 0]) / (np.pi / 4)).astype(int) % 8
    x, valid, test = (rows("eight-gaussians", seed, n) for seed, n in ((1, 50_000), (2, 5_000), (3, 8 * 500)))
    begin = time.perf_counter()
    model = clone(GIVEN).fit(x, context=number(x), validation_data=(valid, None, number(valid)))
    seconds, found = time.perf_counter() - begin, []
    for k in range(8):
        of_k = test[number(test) == k]
        found.append(transport(model.sample(len(of_k), context=k, rng=SEED), of_k))
    return Result(*mean(found), repr(GIVEN), [], seconds)


# --- the table -------------------------------------------------------------------------------------------------------

ROWS = (
    *(Row(f"{model}: NLL minus entropy", name, ("<=", bar) if model != "MAF, base of MADE" else None, f"entropy {entropy}",
          divergence(name, model)) for model in MODELS for name, (entropy, bar) in ENTROPY.items()),
    Row("FlowMatching by optimal transport, one Euler step: W2^2", "moons", ("<=", 0.15), "", one_step),
    Row("FlowMatching by optimal transport, given the normal: W2^2", "eight-gaussians", ("<=", 0.05), "", given),
)
