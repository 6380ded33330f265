"""How far chance may take a mean, a frequency or an empirical distribution function from what it stands for.

Every bound holds for every sample size and every distribution, so that a false-alarm rate is a theorem, not an asymptotic
statement:

    band        P(sup_t |F_n(t) - F(t)| > sqrt(log(2 / a) / 2n)) <= a        (Dvoretzky, Kiefer & Wolfowitz; Massart, 1990)
    bernstein   P(|mean - E| > sqrt(2 var log(4 / a) / n) + 7 r log(4 / a) / 3(n - 1)) <= a, values in a range r
                                                                             (Maurer & Pontil, 2009)
    hoeffding   P(|mean - E| > r sqrt(log(2 / a) / 2n)) <= a                 (Hoeffding, 1963)
    chernoff    P(f > g) <= a, f the frequency of an event of probability p, g the solution of n KL(g || p) = log(1 / a)
                                                                             (Chernoff, 1952)
    pearson     P(z > c + sqrt(2 log(1 / a) (1 + 2 b c) / n) + b log(1 / a) / 3n) <= a, z^2 = sum_k (f_k - P_k)^2 / P_k for
                frequencies f of m states, c = sqrt((m - 1) / n) >= E z, b = sqrt(1 / min P - 1)
                                                                             (Bousquet, 2002, of the norm of a mean)

Legend: n rows, m states, k slices.
"""
import math

import numpy as np

ALARM = 1e-6  # how often a law that holds may be reported as broken


def band(n, k=1):
    """How far k empirical distribution functions of n rows each may be from the true ones."""
    return math.sqrt(math.log(2 * k / ALARM) / (2 * n))


def hoeffding(n, k=1, width=1.0):
    """How far k means of n values in a range of this width may be from their expectations."""
    return width * math.sqrt(math.log(2 * k / ALARM) / (2 * n))


def bernstein(values, k=1, width=1.0):
    """The same, from the values themselves (..., n): sharper where they vary little."""
    n, log = values.shape[-1], math.log(4 * k / ALARM)
    return np.sqrt(2 * values.var(axis=-1, ddof=1) * log / n) + 7 * width * log / (3 * (n - 1))


def chernoff(n, p, k=1):
    """How large the frequencies in n rows of k events may be, each of probability p at most."""
    g = np.linspace(p, 1, 100_001)[1:-1]
    divergence = g * np.log(g / p) + (1 - g) * np.log((1 - g) / (1 - p))
    return float(np.append(g, 1)[np.searchsorted(n * divergence, math.log(k / ALARM))])


def pearson(n, p):
    """How large the root of Pearson's chi-square per row may be, for the frequencies of states with probabilities p."""
    log, expected, bound = math.log(1 / ALARM), math.sqrt((len(p) - 1) / n), math.sqrt(max(1 / p.min() - 1, 0))
    return expected + math.sqrt(2 * log * (1 + 2 * bound * expected) / n) + bound * log / (3 * n)


def distance(u):
    """sup_t |F_n(t) - t| of the columns of u (n, k), which are uniform on (0, 1) if all is well: (k,)."""
    n, u = len(u), np.sort(u, axis=0)
    step = np.arange(n + 1)[:, None] / n
    return np.maximum(np.abs(step[1:] - u), np.abs(u - step[:-1])).max(axis=0)


def gap(a, b):
    """sup_t |F(t) - G(t)| of the empirical distribution functions of two samples, (n,) and (m,)."""
    t = np.concatenate([a, b])
    return np.abs(np.subtract(*(np.searchsorted(np.sort(x), t, side="right") / len(x) for x in (a, b)))).max()
