"""Laws of a density: its total is one, and samples follow it.

Legend: n rows, d columns, m states, k slices.
"""
import math

import numpy as np

from .bounds import ALARM, band, bernstein, chernoff, distance, hoeffding, pearson
from .law import SIGMAS, Finding, law
from .subject import Skip

OFTEN = 25    # rows expected in a state that counts by itself
STEEP = 0.02  # share of rows whose cell of a grid may say nothing about them
PART_ATOMS = "values of a column have a probability of their own beside a density"
ROUNDED = 0.025  # share of the rows that a rounded real number may have


@law("the density sums or integrates to one", of="density")
def total(s):
    """The sum of P(x) over all states, or the integral of p(x) dx, is one; measured is the log of it.

    Look for a missing constant (2 pi, 1/2), a log-determinant that is dropped or has the wrong sign, an output that sees
    its own input, a variance that is a standard deviation in one place only.
    """
    for way in (_quadrature, _sum_over_states):
        try:
            return way(s)
        except Skip:
            pass
    return _bridge(s)


def _sum_over_states(s):
    p, error = s.mass
    total = p.sum()
    tolerance = (1e-9 if s.support == "binary" else 1e-6) + SIGMAS * math.sqrt(np.square(error).sum())
    if s.dequantize is not None:
        tolerance = 1e-2 + 3 * error.sum()
    if not s.is_npgen and total < 1:  # there may be more states than a pilot shows
        outside = ((s.drawn < s.states[0]) | (s.drawn > s.states[-1])).any(axis=1).astype(float)
        total, tolerance = total + outside.mean(), tolerance + float(bernstein(outside))
    return Finding(abs(math.log(total)) if total > 0 else math.inf, tolerance)


def _quadrature(s):
    axes, p, coarse, steep = s.grid
    outside = np.any([(x < a[0]) | (x > a[-1]) for x, a in zip(s.drawn.T, axes, strict=True)], axis=0).astype(float)
    fine, coarser = (math.log(max(each.sum() + outside.mean(), 1e-300)) for each in (p, coarse))
    tolerance = 1e-3 + 3 * abs(fine - coarser) + float(bernstein(outside)) + s.slack
    if tolerance > (3.0 if s.slack else 0.05) or steep > STEEP:  # where log Z is an estimate, there is no other way to judge it
        return _bridge(s)
    return Finding(abs(fine), tolerance, _factor(2 * tolerance))


def _factor(nats):
    return f"a factor of {math.exp(min(nats, 700)):.3g} in the density"


def _common(s):
    """Slices and log p of rows of the model p and of the reference q, how much of each is in both, in pq / (p + q), and by how
    many nats p may be off, all rows alike."""
    slack = 0.0 if s.density == "estimate" and hasattr(s.model, "importance_log_prob") else s.slack  # which raises Skip
    if s.adds_noise:
        raise Skip("integers are spread by noise")
    if s.part_atoms:
        raise Skip(PART_ATOMS)
    x, y = s.drawn, s.reference.sample(s.n, s.generator(2))
    log_y = s.log_prob(y)
    with np.errstate(over="ignore"):
        from_q = 1 / (1 + np.exp(s.reference.log_prob(y) - log_y))
        from_p = 1 / (1 + np.exp(s.drawn_log_prob - s.reference.log_prob(x)))
    return np.column_stack([s.slices(x), s.drawn_log_prob]), np.column_stack([s.slices(y), log_y]), from_q, from_p, slack


def _bridge(s):
    """E_q[p / (p + q)] = E_p[q / (p + q)] for a density q that is known to be one (Bennett, 1976; Meng & Wong, 1996)."""
    _, _, from_q, from_p, slack = _common(s)
    a, b = from_q.mean(), from_p.mean()
    tolerance = slack + float(bernstein(from_q, 2) / max(a, 1e-300) + bernstein(from_p, 2) / max(b, 1e-300))
    if max(a, b) < 0.02:
        raise Skip("no known density is near enough")
    return Finding(abs(math.log(max(a, 1e-300) / max(b, 1e-300))), min(tolerance, 3.0), _factor(2 * tolerance))


@law("samples follow the density over states", of="density")
def frequencies(s):
    """Pearson's chi-square of the samples' frequencies f against P over all states, as its root per row: the root of
    sum_k (f_k - P_k)^2 / P_k. Rare states count as one.

    Look for an order that is not inverted, noise compared with a logit, a rounding of the wrong kind.
    """
    states, (p, error) = s.states, s.mass
    low = states.min(axis=0)
    sizes = (states.max(axis=0) - low + 1).astype(int)
    place = np.ravel_multi_index((s.drawn - low).astype(int).T, sizes, mode="clip")  # states are in the same order
    order = np.argsort(p)
    rare = max(np.count_nonzero(p * s.n < OFTEN), np.searchsorted(np.cumsum(p[order]) * s.n, OFTEN) + 1)
    found, p, error = (np.concatenate([[values[order[:rare]].sum()], values[order[rare:]]])
                       for values in (np.bincount(place, minlength=len(states)) / s.n, p, error))
    tolerance = pearson(s.n, p) + SIGMAS * math.sqrt((error ** 2 / p).sum())
    return Finding(math.sqrt(((found - p) ** 2 / p).sum()), tolerance,
                   f"probabilities {2 * tolerance:.1%} off (root mean square)")


@law("probability integral transform", of="density")
def transform(s):
    """F(x_1) and F(x_2 | x_1) of samples are uniform, F from the density on a grid (Rosenblatt, 1952).

    Look for a sampler whose scale is the variance, whose order is another, or which forgets the preprocessing; for chains that
    are too short to come from where they begin to the density.
    """
    if not s.exact_up_to_a_constant:
        raise Skip("log_prob is not exact")
    axes, p, _, steep = s.grid
    u, left = np.empty((s.n, s.d)), p
    if steep > STEEP:
        raise Skip("the density is too steep for a grid")
    if abs(p.sum() - 1) > 0.05 + math.expm1(min(s.slack, 1)):
        raise Skip("the density does not integrate to one on the grid")
    for i, axis in enumerate(axes):
        step = (axis[-1] - axis[0]) / (len(axis) - 1)  # neighbours far from 0 have lost its last digits
        if i == 0:
            mass = p.reshape(len(axis), -1).sum(axis=1)
            cumulative = np.concatenate([[0], np.cumsum(mass)]) / mass.sum()
            u[:, 0] = np.interp(s.drawn[:, 0], axis[0] - step / 2 + step * np.arange(len(axis) + 1), cumulative)
            row = np.clip(((s.drawn[:, 0] - axis[0]) / step).round().astype(int), 0, len(axis) - 1)
        else:
            cumulative = np.cumsum(left, axis=1) / np.maximum(left.sum(axis=1, keepdims=True), 1e-300)
            place = np.clip((s.drawn[:, 1] - axis[0]) / step + 0.5, 0, len(axis) - 1e-9)
            cell, part = place.astype(int), place % 1
            before = np.where(cell > 0, cumulative[row, np.maximum(cell - 1, 0)], 0)
            u[:, 1] = before + part * (cumulative[row, cell] - before)
    tolerance = band(s.n, s.d) + 0.01 * (s.d - 1)  # the grid's own error
    return Finding(distance(u).max(), tolerance, f"{2 * tolerance:.1%} of the mass displaced along an axis")


@law("samples follow the density along slices", of="density")
def slices(s):
    """Rows of the model, kept with probability q / (p + q), are spread as rows of q kept with p / (p + q), on every slice:
    both are pq / (p + q), for any density q that is known to be one (Barker, 1965). A sliced Kolmogorov-Smirnov distance. Where
    log Z is an estimate, one is a multiple of the other, which its error bounds.

    Look for what differs between sample and log_prob: scale, order, preprocessing, weights of components.
    """
    x, y, from_q, from_p, slack = _common(s)
    rng, n, overlap = s.generator(3), len(x), from_p.mean()
    tolerance = 2 * band(n, 2 * x.shape[1]) + math.expm1(min(slack, 1)) * max(overlap, from_q.mean())
    if overlap < 2 * tolerance:
        raise Skip("no known density is near enough")
    x, y = x[rng.random(n) < from_p], y[rng.random(n) < from_q]
    both = np.concatenate([x, y])
    sign = np.where(np.arange(len(both)) < len(x), 1 / n, -1 / n)
    apart = 0.0
    for values in both.T:
        order = np.argsort(values, kind="stable")
        difference = np.cumsum(sign[order])
        last = np.append(np.diff(values[order]) > 0, True)  # of equal values
        apart = max(apart, float(np.abs(difference[last]).max(initial=0)))
    return Finding(apart, tolerance, f"{min(2 * tolerance / overlap, 1):.1%} of the mass displaced along a slice")


@law("a Metropolis step leaves samples alone", of="density")
def stationary(s):
    """A sampler of p is at rest under Metropolis steps towards p: every slice goes up as often as down, because (x, x') is
    exchangeable if x ~ p and the step is reversible (Metropolis et al., 1953). It works without a normaliser and for any d.

    Look for what differs between sample and log_prob: scale, order, preprocessing, weights of components.
    """
    if not s.exact_up_to_a_constant:
        raise Skip("log_prob is not exact")
    if s.part_atoms:
        raise Skip(PART_ATOMS)
    rng, x, log_p = s.generator(4), s.drawn, s.drawn_log_prob
    for _ in range(6):
        y = s.reference.step(x, rng)
        to = s.log_prob(y)
        accept = np.log(rng.random(s.n)) < to - log_p
        x, log_p = np.where(accept[:, None], y, x), np.where(accept, to, log_p)
    moved = np.sign(np.column_stack([s.slices(x) - s.slices(s.drawn), log_p - s.drawn_log_prob]))
    tolerance = hoeffding(s.n, moved.shape[1], 2.0)
    return Finding(float(np.abs(moved.mean(axis=0)).max()), tolerance, f"a drift in {2 * tolerance:.1%} of the rows")


@law("rows are independent of those before")
def independent(s):
    """A slice of a row is above its median as often after a row above as after a row below.

    Look for noise that two rows share, and for samples sorted by component.
    """
    side = np.sign(s.slices(s.drawn) - np.median(s.slices(s.pilot), axis=0))
    half = (s.n - 1) // 2  # pairs that begin with the even rows, then pairs that begin with the odd ones
    agree = max(float(np.abs((side[i:][:2 * half:2] * side[i + 1:][:2 * half:2]).mean(axis=0)).max()) for i in (0, 1))
    chance = hoeffding(half, 3 * side.shape[1], 2.0)
    tolerance = chance + float(np.square(np.abs(side.mean(axis=0)) + chance).max())  # medians are not known exactly
    return Finding(agree, tolerance, f"a correlation of {2 * tolerance:.2f} between neighbours")


@law("no row is drawn twice")
def distinct(s):
    """Rows of real numbers differ; measured is the share of those that came before. Allowed are those that agree by chance:
    a number of one column is one of spread / (eps |x|).

    Look for a batch that is drawn again, a generator that starts anew, samples that are clipped or rounded.
    """
    if s.support != "real":
        raise Skip("samples are not real numbers")
    dtype = np.float32 if np.array_equal(s.drawn, s.drawn.astype(np.float32)) else np.float64
    spacing = np.finfo(dtype).eps * np.abs(s.drawn).max(axis=0) / s.scale[1]
    return Finding(1 - len(np.unique(s.drawn, axis=0)) / s.n, 0.005 + s.n * float(np.prod(np.minimum(spacing, 1))))


@law("values that repeat are drawn")
def atoms(s):
    """A value that more rows of X have in a column than rounded real numbers would have, samples have too, whatever the density
    is called; and if all of a column's values are such, and whole, samples are whole. Measured is the largest share of the
    rows, or of the samples, that breaks this.

    Look at the column: a continuous density there has no truth to be near to, and gains nats without end as it narrows.
    """
    if not s.has_rows:
        raise Skip("rows X are not given")
    n, worst, note = len(s.x), 0.0, ""
    unseen = 10 * math.log(s.d / (ROUNDED * ALARM)) / s.n  # drawn a tenth as often as the rows have it, it would be seen
    tolerance = max(chernoff(n, ROUNDED, n * s.d), unseen)
    for j, (column, drawn) in enumerate(zip(s.x.T, s.drawn.T, strict=True)):
        values, counts = np.unique(column.astype(getattr(s.model, "dtype_", float)), return_counts=True)
        missing = np.where(np.isin(values, drawn), 0, counts / n)
        share, value = missing.max(), values[missing.argmax()]
        broken = [(share, f"column {j}: {share:.1%} of the rows are {value:g}, no sample is")]
        if counts.min() > tolerance * n and (values == np.round(values)).all():
            share = np.mean(drawn != np.round(drawn))
            broken.append((share, f"column {j}: all rows are whole numbers, {1 - share:.1%} of the samples are"))
        worst, note = max([(worst, note), *broken])
    return Finding(float(worst), tolerance, f"a value that {tolerance:.1%} of the rows have", note)


@law("noise in the cells is a lower bound", of="density")
def dequantised(s):
    """log_prob of integers is log p(k + u) for one u in the cell: on average the mean over the cell, at most log P(k).

    Look at the noise: its range, and whether it is a function of the row.
    """
    if s.density != "bound":
        raise Skip("log_prob is no bound")
    states, (at, inside, weight, log_p) = s.states, s.spread(400_000)
    at, weight, log_p = at[inside], weight[inside], log_p[inside]
    mean = np.bincount(at, weight * log_p, len(states))
    low, high = np.full(len(states), np.inf), np.full(len(states), -np.inf)
    np.minimum.at(low, at, log_p)
    np.maximum.at(high, at, log_p)
    p = np.bincount(at, weight * np.exp(log_p), len(states))
    excess = float(p @ (s.log_prob(states) - mean))
    tolerance = math.sqrt(math.log(2 / ALARM) / 2 * np.square(1.5 * p * (high - low)).sum()) + 1e-2  # Hoeffding's bound
    return Finding(abs(excess), tolerance, f"{2 * tolerance:.2g} nats")
