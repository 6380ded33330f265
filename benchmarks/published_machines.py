"""Rows of benchmarks/PUBLISHED.md: Boltzmann machines and an autoencoder of MNIST, and rows that are drawn beside tables' own.

Legend: n rows, d columns, m rows of a test, s splits.
Sources: Melchior, Fischer & Wiskott, How to center deep Boltzmann machines (2016); Burda, Grosse & Salakhutdinov, Accurate and
conservative estimates of MRF log-likelihood using reverse annealing (2015); Hinton & Salakhutdinov, Reducing the dimensionality
of data with neural networks (2006); Jolicoeur-Martineau, Fatras & Kachman, Generating and imputing tabular data via diffusion
and flow-based gradient-boosted trees (2024), on W1 and coverage.
"""
import functools
import time

import numpy as np

import npgen
from npgen import data
from npgen.divergences import coverage
from npgen.models.estimator import clone

from . import yardsticks
from .published import Result, Row, mean

SEED = 0

# --- Boltzmann machines ----------------------------------------------------------------------------------------------

STEPS = {"optimizer": "sgd", "learning_rate": 0.01, "average": 0.999, "clip_norm": 100.0, "batch_size": 100,
         "random_state": SEED}
SMALL = npgen.RBM(n_hidden=16, max_epochs=50, **STEPS)
LARGE = npgen.RBM(n_hidden=500, n_annealed=5000, max_epochs=60, **STEPS)


def machine(work, flipped=False):
    """(Fit of 16 hidden units to MNIST, black where a pixel is above 1/2, or white there; log-likelihoods of the test)."""
    x, test = yardsticks.mnist_black()
    x, test = (1 - x, 1 - test) if flipped else (x, test)
    fit = work.fit("mnist-white" if flipped else "mnist-black", SMALL, x, None)
    return fit, fit.model.log_prob(test)


def of_black(work):
    fit, nats = machine(work)
    return Result(*mean(nats), fit.settings, [], fit.seconds, note=f"log Z {fit.model.normaliser}.")


def off_by_flipping(work):
    """How far the mean log-likelihood of black pixels is from that of white ones."""
    (one, nats), (other, of_white) = machine(work), machine(work, flipped=True)
    return Result(abs(float(nats.mean() - of_white.mean())), None, one.settings, [], one.seconds + other.seconds,
                  note=f"Black {nats.mean():.2f}, white {of_white.mean():.2f} nats.")


def bracket(work):
    """The log-likelihood by annealed importance sampling, which flatters, and by its reverse, which does not."""
    x, test = yardsticks.mnist_black()
    fit = work.fit("mnist-black", LARGE, x, None)
    cautious, flattering = fit.model.log_prob_bracket(test).T
    return Result(*mean(cautious), fit.settings, [], fit.seconds,
                  note=f"By AIS {flattering.mean():.2f}, by reverse AIS {cautious.mean():.2f}; log Z {fit.model.normaliser}.")


# --- an autoencoder --------------------------------------------------------------------------------------------------

CODES = 30
AUTOENCODERS = tuple(npgen.Autoencoder(n_latent=CODES, hidden=(1000, 500, 250), output="sigmoid", noise=noise, preprocess=None,
                                       schedule="cosine", average=0.999, max_epochs=150, patience=150, weight_decay=0.1,
                                       learning_rate=1.5e-3, random_state=SEED) for noise in (0.2, 0.3))


def squared_error(work):
    """The squared error of an image of the test, pixels from 0 to 1, beside that of as many principal components.

    The rows stopped by choose the noise, seen without any.
    """
    x, valid, test = yardsticks.mnist_grey()

    def errors(model, rows):
        return np.square(model.decode(model.encode(rows)) - rows).sum(axis=1)

    fits = [work.fit("mnist-grey", model, x, valid) for model in AUTOENCODERS]
    looked = [float(errors(fit.model, valid).mean()) for fit in fits]
    fit, centre = fits[np.argmin(looked)], x.mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh((x - centre).T @ (x - centre))[1][:, -CODES:]
    left = (test - centre) - (test - centre) @ axes @ axes.T
    return Result(*mean(errors(fit.model, test)), fit.settings, [(each.settings, nats) for each, nats in
                  zip(fits, looked, strict=True)], sum(each.seconds for each in fits), curve=fit.curve,
                  note=f"{CODES} principal components: {np.square(left).sum(axis=1).mean():.3f}; the rows fitted, seen without "
                       f"noise, have {errors(fit.model, x).mean():.3f}. From epoch to epoch those stopped by are seen with it.")


# --- tables ----------------------------------------------------------------------------------------------------------

TABLES = {  # W1 to rows of the test, and their coverage: Forest-Flow's, TabDDPM's, TVAE's; W1 of the rows that are fitted
    "iris": ((0.328, 0.93), (0.329, 0.92), (0.485, 0.81), 0.236), "wine": ((1.421, 0.95), (1.531, 0.91), (1.788, 0.75), 1.440),
    "breast cancer": ((1.749, 0.98), (3.438, 0.95), (2.472, 0.30), 1.853),
    "red wine": ((0.516, 0.97), (0.530, 0.98), (0.586, 0.90), 0.504)}
DRAWERS = {  # densities of a class, one of which is chosen by the log-density of rows that are held out
    "GaussianMixture": tuple(npgen.GaussianMixture(k, covariance_type=kind, reg_covar=1e-2, random_state=SEED)
                             for kind in ("full", "diag") for k in (1, 2, 4, 8)),
    "FlowMatching": (npgen.FlowMatching(coupling="ot", max_epochs=300, patience=300, average=0.99, schedule="cosine",
                                        random_state=SEED),)}
SPLITS = 3


def transport(x, y):
    """The Wasserstein distance, of city blocks, between the first k m rows x (n, d), k = n // m, and rows y (m, d)."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist
    k = len(x) // len(y)
    costs = np.repeat(cdist(x[:k * len(y)], y, "cityblock"), k, axis=1)
    return float(costs[linear_sum_assignment(costs)].mean())


def parted(x, y, seed):
    """Rows and their labels, a fifth of every class apart: ((x, y), (x, y))."""
    parts = [data.train_test_split(np.flatnonzero(y == label), 0.2, seed=seed) for label in np.unique(y)]
    return [(x[rows], y[rows]) for rows in map(np.concatenate, zip(*parts, strict=True))]


def beside(x, y):
    """Rows with the indicators of their class, of which two differ by 1, beside them, in random order."""
    both = np.hstack([x, (y[:, None] == np.unique(y)) / 2])
    return both[np.random.default_rng(SEED).permutation(len(both))]


def fitted(density, x, y):
    return npgen.BayesClassifier(clone(density), random_state=SEED).fit(x, y)


def nats_held_out(density, x, y, seed):
    fit, held_out = parted(x, y, seed)
    return -float(fitted(density, *fit).log_prob(held_out[0]).mean())


@functools.cache
def drawn(kind, name):
    """Of each split, W1 of rows drawn to the test and to those fitted, of those to the test, and coverage of the test, (s, 4);
    and the nats of what was looked at, by its settings."""
    found, looked = [], {}
    for seed in range(SPLITS):
        x, y = yardsticks.table(name)
        x = (x - x.min(axis=0)) / (x.max(axis=0) - x.min(axis=0))
        (x, y), (x_test, y_test) = parted(x, y, seed)
        best, *others = DRAWERS[kind]
        if others:
            nats = {repr(each): nats_held_out(each, x, y, seed) for each in DRAWERS[kind]}
            looked |= {settings: looked.get(settings, 0) + value / SPLITS for settings, value in nats.items()}
            best = DRAWERS[kind][int(np.argmin(list(nats.values())))]
        new, test, old = beside(fitted(best, x, y).sample(y=y, rng=SEED), y), beside(x_test, y_test), beside(x, y)
        found.append((transport(new, test), transport(new, old), transport(old, test), coverage(test, new).value))
    return np.array(found), looked


def of_table(kind, name, place):
    """W1 to the test (place 0), or its coverage (3)."""
    def run(work):
        begin = time.perf_counter()
        found, looked = drawn(kind, name)
        new, fitted, old, _ = found.mean(axis=0)
        settings = min(looked, key=looked.get) if looked else repr(DRAWERS[kind][0])
        return Result(*mean(found[:, place]), settings, list(looked.items()), time.perf_counter() - begin,
                      note=f"W1 to the test {new:.3f}, to the rows fitted {fitted:.3f}; of those to the test {old:.3f}.")
    return run


# --- the table -------------------------------------------------------------------------------------------------------

def published(name, place):
    *others, rows = TABLES[name]
    words = ", ".join(f"{model} {each[place]}" for model, each in zip(("Forest-Flow", "TabDDPM", "TVAE"), others, strict=True))
    return words if place else f"{words}; rows fitted {rows}"


ROWS = (
    Row("RBM 784-16, exact log-likelihood", "MNIST > 1/2", (">=", -142.6), "-142.56; not centred -149.05", of_black),
    Row("RBM 784-16, off by flipping black and white", "MNIST > 1/2", ("<=", 1.0), "0.47; not centred 34.31", off_by_flipping),
    Row("RBM 784-500, log-likelihood by reverse AIS", "MNIST > 1/2", None, "AIS -84.86, reverse AIS -96.61", bracket),
    Row("Autoencoder 784-1000-500-250-30, squared error", "MNIST / 255", ("<=", 3.2), "3.00; PCA 13.87", squared_error),
    *(Row(f"{kind} of each class: {words}", name, None, published(name, place), of_table(kind, name, 3 * place))
      for kind in DRAWERS for name in TABLES for place, words in enumerate(("W1 to the test", "coverage"))),
)
