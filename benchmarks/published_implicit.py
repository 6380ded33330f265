"""Rows of benchmarks/PUBLISHED.md of models without a density: the modes that a GAN finds, as PacGAN's authors count them.

Of 2,500 rows drawn, those within three standard deviations of a centre are good; a mode is found if it has a good one; reverse
KL is that of the shares of the nearest centres to equal ones, of which 2,500 rows of the data themselves have 0.005 of 25.
Means of ten draws, with their standard error. Source: Lin et al., PacGAN (2018), tables 1 and 2.
"""
import functools

import numpy as np

import npgen

from .published import Result, Row, mean

SEED = 1
ROWS_DRAWN, DRAWS = 2500, 10
CENTRES = {"25-grid": np.stack(np.meshgrid(*[np.arange(-4.0, 5, 2)] * 2), axis=-1).reshape(-1, 2),
           "8-ring": np.column_stack([f(np.arange(8) * np.pi / 4) for f in (np.cos, np.sin)])}
STD = {"25-grid": 0.05, "8-ring": 0.01}
MEASURES = "modes", "share of good rows", "reverse KL"


def rows(name, n, seed):
    """Rows (n, 2) of equal normals around the centres, float32."""
    rng = np.random.default_rng(seed)
    return (CENTRES[name][rng.integers(len(CENTRES[name]), size=n)] + STD[name] * rng.normal(size=(n, 2))).astype(np.float32)


def measure(name, y):
    """(modes, share of good rows, reverse KL) of rows y (n, 2)."""
    apart = np.sqrt(np.square(y[:, None] - CENTRES[name]).sum(axis=2))
    nearest, good = apart.argmin(axis=1), apart.min(axis=1) < 3 * STD[name]
    share = np.bincount(nearest, minlength=len(CENTRES[name])) / len(y)
    return len(set(nearest[good])), good.mean(), np.sum(share[share > 0] * np.log(share[share > 0] * len(share)))


def drawn(name, model, which):
    """The run of one measure of a model; the models of a data set are fitted once."""
    def run(work):
        fit = work.fit(name, model, rows(name, 20_000, 1), rows(name, 2_000, 2))
        found = [measure(name, fit.model.sample(ROWS_DRAWN, rng=seed))[MEASURES.index(which)] for seed in range(DRAWS)]
        return Result(*mean(found), fit.settings, [(fit.settings, fit.nats)], fit.seconds)
    return run


GAN = functools.partial(npgen.GAN, critic_hidden=(128,) * 3, n_noise=4, packing=2, r1=0.003, r2=0.003, batch_size=500,
                        learning_rate=2e-3, schedule="cosine", patience=1000, random_state=SEED)  # found on another seed
GANS = {"25-grid": GAN(max_epochs=250), "8-ring": GAN(max_epochs=150)}
PUBLISHED = {  # measure -> {data: (bar, in words)}: a GAN's, PacGAN4's of the grid and PacGAN2's of the ring
    "modes": {"25-grid": ((">=", 24.8), "17.3; 24.8"), "8-ring": ((">=", 7.9), "6.3; 7.9")},
    "share of good rows": {"25-grid": (None, "0.948; 0.936"), "8-ring": (None, "0.982; 0.956")},
    "reverse KL": {"25-grid": (("<=", 0.04), "0.70; 0.04"), "8-ring": (("<=", 0.07), "0.45; 0.07")}}

ROWS = (
    *(Row(f"GAN: {which}", name, *PUBLISHED[which][name], drawn(name, GANS[name], which))
      for name in CENTRES for which in MEASURES),
    *(Row(f"GaussianMixture({len(centres)}): {which}", name, None, "", drawn(
        name, npgen.GaussianMixture(len(centres), random_state=SEED), which))
      for name, centres in CENTRES.items() for which in MEASURES),
)
