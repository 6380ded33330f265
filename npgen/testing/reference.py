"""A density that is known to be one, near a model's rows: what importance sampling and Metropolis steps set out from.

Legend: n rows, d columns.
"""
import math

import numpy as np

from .. import ops
from ..fused import LOG_2PI


class Reference:
    """A density known to be one: kernels of equal weight about 500 rows of the pilot.

    A kernel is a normal in the real columns, with the rows' covariance times a squared bandwidth (Silverman, 1986); in a
    column of whole numbers it keeps the row's value with probability 0.8, else draws any that the pilot has there.
    """

    KEEP = 0.8

    def __init__(self, pilot):
        self.rows, d = pilot[:500], pilot.shape[1]
        whole = ((pilot == np.round(pilot)) & (np.abs(pilot) < 2**53)).all(axis=0)
        self.levels = {j: np.unique(pilot[:, j]) for j in np.flatnonzero(whole)}
        self.real = np.flatnonzero(~whole)
        d = len(self.real)
        if d:
            real = pilot[:, self.real]
            covariance = np.atleast_2d(np.cov(real.T)) + np.diag(1e-12 * real.var(axis=0) + 1e-300)
            self.factor = np.linalg.cholesky(covariance) * (4 / (d + 2) / len(self.rows)) ** (1 / (d + 4))

    def sample(self, n, rng):
        """n rows."""
        x = self.rows[rng.integers(len(self.rows), size=n)]
        if len(self.real):
            x[:, self.real] += rng.normal(size=(n, len(self.real))) @ self.factor.T
        for j, levels in self.levels.items():
            x[:, j] = np.where(rng.random(n) < self.KEEP, x[:, j], rng.choice(levels, n))
        return x

    def log_prob(self, x):
        """(n,) nats."""
        joint = np.full((len(x), len(self.rows)), -math.log(len(self.rows)))
        if d := len(self.real):
            middle = self.rows[0, self.real]
            y, centres = (np.linalg.solve(self.factor, (rows[:, self.real] - middle).T).T for rows in (x, self.rows))
            squares = np.square(y).sum(axis=1)[:, None] - 2 * y @ centres.T + np.square(centres).sum(axis=1)
            joint -= 0.5 * np.maximum(squares, 0) + d / 2 * LOG_2PI + np.log(np.diag(self.factor)).sum()
        for j, levels in self.levels.items():
            spread = (1 - self.KEEP) / len(levels)
            joint += np.where(x[:, [j]] == self.rows[:, j], math.log(self.KEEP + spread), math.log(spread))
            joint[~np.isin(x[:, j], levels)] = -np.inf
        return ops.logsumexp(joint)

    def step(self, x, rng):
        """A symmetric step from every row: all real columns, and one of the others."""
        y, n = x.copy(), len(x)
        if len(self.real):
            sizes = rng.choice([0.3, 1.0, 4.0], size=(n, 1))
            y[:, self.real] += sizes * rng.normal(size=(n, len(self.real))) @ self.factor.T
        if self.levels:
            moved = rng.choice(list(self.levels), n)
            for j, levels in self.levels.items():
                free = (moved == j) & np.isin(x[:, j], levels)  # a step there must have a step back
                y[free, j] = rng.choice(levels, free.sum())
        return y
