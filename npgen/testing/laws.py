"""The laws of a generative model, each a few lines: what it says, what it measured, what it allows.

A law is a function of a Subject. It returns a Finding, or raises Skip where the model does not promise what the law is
about. The first paragraph of its docstring states it; the second, for whoever sees it broken, says where to look.

Legend: n rows, d columns, m states, k slices or components, l latent dimensions.
"""
import copy
import dataclasses
import math
import os
import tempfile

import numpy as np

from .. import engine
from ..models.base import load
from ..preprocess import Preprocessor
from ..random import Stream
from .subject import ALARM, MANY_STATES, Skip, band, bernstein, distance, hoeffding

LAWS = {}  # name -> law, in the order in which they are run
LOG_2PI = math.log(2 * math.pi)
SIGMAS = 7  # standard errors allowed to a mean whose terms have no bound: the normal tail beyond is 3e-12


@dataclasses.dataclass
class Finding:
    """A law holds if measured <= tolerance.

    catches   of a law about random rows: the smallest error that it is sure to find
    note      what went wrong, where numbers do not say it
    """

    measured: float
    tolerance: float
    catches: str = ""
    note: str = ""
    law: str = ""
    skipped: str = ""

    @property
    def passed(self):
        """True also for a law that was skipped."""
        return bool(self.skipped) or bool(self.measured <= self.tolerance)


def law(name):
    """Enter the decorated function into LAWS."""
    def enter(function):
        LAWS[name] = function
        return function
    return enter


def every(*checks):
    """The Finding of (description, truth) pairs: how many are false, and which is the first."""
    broken = [what for what, holds in checks if not holds]
    return Finding(len(broken), 0, note=broken[0] if broken else "")


def close(a, b, rtol, note=""):
    """The Finding that |a - b| <= rtol (1 + |b|) everywhere, as the largest |a - b| / (1 + |b|)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(a == b, 0, np.abs(a - b) / (1 + np.abs(b)))
    return Finding(float(np.max(error, initial=0)), rtol, note=note)  # NaN is no smaller than any tolerance


# ---------------------------------------------------------------- the contract

@law("shapes and dtypes")
def shapes(s):
    """log_prob gives (n,), sample (n, d), encode (n, l), decode (n, d); float32 rows get float32 answers.

    Look for a Python float that became np.float64, and for a squeezed axis.
    """
    model, checks = s.model, []
    for dtype in (np.float32, np.float64) if s.is_npgen else (np.float64,):
        x = s.x[:5].astype(dtype)
        p, none = model.log_prob(x), model.log_prob(x[:0]) if s.is_npgen else np.zeros(0, dtype)
        checks += [(f"log_prob of {dtype.__name__} rows has dtype {p.dtype}", p.dtype == dtype),
                   (f"log_prob of {x.shape} rows has shape {p.shape}", p.shape == (len(x),)),
                   (f"log_prob of no rows has shape {none.shape}", none.shape == (0,) and none.dtype == dtype)]
        if s.is_npgen:
            z = model.encode(x)
            back = model.decode(z)
            checks += [(f"encode gives {z.dtype} {z.shape}", (z.dtype, z.shape) == (dtype, (len(x), model.n_latent_))),
                       (f"decode gives {back.dtype} {back.shape}", (back.dtype, back.shape) == (dtype, x.shape))]
    for n in (1, 7):
        rows = model.sample(n)
        checks += [(f"sample({n}) has shape {np.shape(rows)}", np.shape(rows) == (n, s.d))]
        if s.is_npgen:
            checks += [(f"sample gives {rows.dtype}, but the model is {model.dtype_}", rows.dtype == model.dtype_)]
    return every(*checks)


@law("log_prob is finite")
def finite(s):
    """log p(x) is finite for rows drawn from the model; rows far out are improbable, not NaN.

    Look for an exponential that overflows, or for 0 times infinity.
    """
    x = s.drawn[:2000]
    p = np.asarray(s.model.log_prob(x))
    inside = np.isfinite(p)
    checks = [(f"log_prob of drawn row {np.argmin(inside)} is {p[np.argmin(inside)]}", inside.all())]
    if s.support == "real" and s.density == "exact":
        far = s.log_prob(x[:1] + s.scale[1] * 10.0 ** np.array([[3], [6], [9], [12]]))
        checks += [(f"log_prob of rows far out is {far}", not np.isnan(far).any() and (far < p[0]).all())]
    return every(*checks)


@law("a row's answer is its own")
def rows_alone(s):
    """log_prob (and encode) of a row does not depend on the rows beside it, nor on their order.

    Look for statistics of the batch that are used in a query, for noise that is numbered by place, for a wrong last batch.
    """
    x = s.drawn[:4500 if s.density == "exact" else 300]
    found = [(query, np.asarray(getattr(s.model, query)(x), np.float64)) for query in ("log_prob", "encode")
             if query == "log_prob" or s.is_npgen]
    worst = Finding(0.0, 1e-8)
    for query, whole in found:
        ask = getattr(s.model, query)
        parts = np.concatenate([ask(x[i:i + 97]) for i in range(0, len(x), 97)])
        for what, other in (("split", parts), ("reversed", np.asarray(ask(x[::-1]))[::-1]), ("alone", None)):
            other = np.concatenate([ask(x[i:i + 1]) for i in range(3)]) if other is None else other
            finding = close(other, whole[:len(other)], 1e-8, f"{query} of the rows {what}")
            worst = finding if not finding.measured <= worst.measured else worst
    return worst


@law("a seed decides the rows")
def seeds(s):
    """The same rng gives the same rows, another one others; without rng, two calls differ; fewer rows are the first ones.

    Look for a generator that is made anew in every call, or shared by two draws.
    """
    if not s._takes_rng:
        raise Skip("sample takes no rng")

    def draw(n, rng):
        return np.asarray(s.model.sample(n, rng=rng), np.float64)

    many, few = draw(300, 5), draw(40, 5)
    first = not s.is_npgen or np.allclose(few, many[:40], rtol=1e-4, atol=1e-4 * s.scale[1])
    return every(("the same seed gave other rows", np.array_equal(many, draw(300, 5))),
                 ("another seed gave the same rows", not np.array_equal(many, draw(300, 6))),
                 ("two calls without a seed gave the same rows", not np.array_equal(draw(300, None), draw(300, None))),
                 ("40 rows are not the first of 300", first))


@law("any number of threads")
def threads(s):
    """log_prob, encode and sample give the same bits with one thread as with all of them.

    Look for a sum whose partition follows the number of threads.
    """
    if not s.is_npgen:
        raise Skip("not a model of npgen")
    from ..kernels._jit import numba
    if numba is None or numba.config.NUMBA_NUM_THREADS < 2:
        raise Skip("there is one thread only")
    x = s.drawn[:4200 if s.density == "exact" else 300].astype(np.float32)
    before, found = numba.get_num_threads(), []
    try:
        for n in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(n)
            found.append([s.model.log_prob(x), s.model.encode(x), s.model.sample(1000, rng=0)])
    finally:
        numba.set_num_threads(before)
    return every(*((f"{query} depends on the number of threads", a.tobytes() == b.tobytes())
                   for query, a, b in zip(("log_prob", "encode", "sample"), *found, strict=True)))


@law("save, then load")
def files(s):
    """load(save(model)) answers every query with the same bits, and draws on from the same place.

    Look for an array that is not in the file, or is there in another dtype.
    """
    if not s.is_npgen:
        raise Skip("not a model of npgen")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.npgen")
        state = s.model.stream_.state()
        s.model.save(path)
        again = load(path)

    def answers(model):
        z = model.encode(s.x[:20])
        return {"log_prob": model.log_prob(s.x[:20]), "encode": z, "decode": model.decode(z), "sample": model.sample(9, rng=3)}

    mine, its = answers(s.model), answers(again)
    return every(*((f"{query} differs", mine[query].tobytes() == its[query].tobytes()) for query in mine),
                 ("the loaded model's own stream is at another place", again.stream_.state() == state))


@law("score is the mean of log_prob")
def score(s):
    """score(X) = mean of log_prob(X); score_samples is log_prob.

    Look for a sum, a sign, or a mean over columns as well.
    """
    if not s.is_npgen:
        raise Skip("not a model of npgen")
    x = s.x[:100]
    found = close(s.model.score(x), np.mean(s.model.log_prob(x)), 1e-9, "score")
    other = close(s.model.score_samples(x), s.model.log_prob(x), 0.0, "score_samples")
    return found if other.passed else other


# ---------------------------------------------------------------- a density

@law("the density sums or integrates to one")
def total(s):
    """The sum of P(x) over all states, or the integral of p(x) dx, is one; measured is the log of it.

    Look for a missing constant (2 pi, 1/2), a log-determinant that is dropped or has the wrong sign, an output that sees
    its own input, a variance that is a standard deviation in one place only.
    """
    if s.support == "real" and s.d <= 2 and s.density == "exact":
        return _quadrature(s)
    if s.support in ("real", "mixed") or s.support == "binary" and 2 ** s.d > MANY_STATES:
        return _bridge(s)
    return _sum_over_states(s)


def _sum_over_states(s):
    p, error = s.mass
    total = p.sum()
    tolerance = (1e-9 if s.support == "binary" else 1e-6) + SIGMAS * math.sqrt(np.square(error).sum())
    if s.dequantize is not None:
        tolerance = 1e-2 + 3 * error.sum()
    return Finding(abs(math.log(total)) if total > 0 else math.inf, tolerance)


def _quadrature(s):
    axes, p, coarse = s.grid
    outside = np.any([(x < a[0]) | (x > a[-1]) for x, a in zip(s.drawn.T, axes, strict=True)], axis=0).astype(float)
    tolerance = 1e-3 + 3 * abs(p.sum() - coarse.sum()) + float(bernstein(outside))
    if tolerance > 0.05:
        return _bridge(s)
    return Finding(abs(math.log(max(p.sum() + outside.mean(), 1e-300))), tolerance, _factor(2 * tolerance))


def _factor(nats):
    return f"a factor of {math.exp(nats):.3g} in the density"


def _common(s):
    """Slices and log p of rows of the model p and of the reference q, and how much of each is in both, in pq / (p + q)."""
    if s.density not in ("exact", "estimate"):
        raise Skip("log_prob is a bound")
    if s.dequantize is not None:
        raise Skip("integers are spread by noise")
    x, y = s.drawn, s.reference.sample(s.n, s.generator(2))
    log_y = s.log_prob(y)
    with np.errstate(over="ignore"):
        from_q = 1 / (1 + np.exp(s.reference.log_prob(y) - log_y))
        from_p = 1 / (1 + np.exp(s.drawn_log_prob - s.reference.log_prob(x)))
    return np.column_stack([s.slices(x), s.drawn_log_prob]), np.column_stack([s.slices(y), log_y]), from_q, from_p


def _bridge(s):
    """E_q[p / (p + q)] = E_p[q / (p + q)] for a density q that is known to be one (Bennett, 1976; Meng & Wong, 1996)."""
    _, _, from_q, from_p = _common(s)
    a, b = from_q.mean(), from_p.mean()
    tolerance = float(bernstein(from_q, 2) / max(a, 1e-300) + bernstein(from_p, 2) / max(b, 1e-300))
    if max(a, b) < 0.02:
        raise Skip("no known density is near enough")
    return Finding(abs(math.log(max(a, 1e-300) / max(b, 1e-300))), min(tolerance, 3.0), _factor(2 * tolerance))


@law("samples follow the density over states")
def frequencies(s):
    """Total variation between the frequencies of samples and P over all states: sum |n_k / n - P_k| / 2.

    Look for an order that is not inverted, noise compared with a logit, a rounding of the wrong kind.
    """
    states, (p, error) = s.states, s.mass
    low = states.min(axis=0)
    sizes = (states.max(axis=0) - low + 1).astype(int)
    place = np.ravel_multi_index((s.drawn - low).astype(int).T, sizes, mode="clip")
    counts = np.bincount(place, minlength=len(states)) / s.n  # states are in the same order
    expected = 0.5 * np.sqrt(np.clip(p * (1 - p), 0, None) / s.n).sum()  # or less; a row moves it by 1 / n (McDiarmid, 1989)
    tolerance = expected + math.sqrt(math.log(1 / ALARM) / (2 * s.n)) + SIGMAS * 0.5 * float(np.sum(error))
    return Finding(0.5 * np.abs(counts - p).sum(), tolerance, f"{2 * tolerance:.1%} of the mass in the wrong states")


@law("probability integral transform")
def transform(s):
    """F(x_1) and F(x_2 | x_1) of samples are uniform, F from the density on a grid (Rosenblatt, 1952).

    Look for a sampler whose scale is the variance, whose order is another, or which forgets the preprocessing.
    """
    axes, p, _ = s.grid
    u, left = np.empty((s.n, s.d)), p
    if abs(p.sum() - 1) > 0.05:
        raise Skip("the density does not integrate to one on the grid")
    for i, axis in enumerate(axes):
        step = axis[1] - axis[0]
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


@law("samples follow the density along slices")
def slices(s):
    """Rows of the model, kept with probability q / (p + q), are spread as rows of q kept with p / (p + q), on every slice:
    both are pq / (p + q), for any density q that is known to be one (Barker, 1965). A sliced Kolmogorov-Smirnov distance.

    Look for what differs between sample and log_prob: scale, order, preprocessing, weights of components.
    """
    x, y, from_q, from_p = _common(s)
    rng, n = s.generator(3), len(x)
    x, y = x[rng.random(n) < from_p], y[rng.random(n) < from_q]
    both = np.concatenate([x, y])
    sign = np.where(np.arange(len(both)) < len(x), 1 / n, -1 / n)
    k = both.shape[1]
    apart = 0.0
    for values in both.T:
        order = np.argsort(values, kind="stable")
        difference = np.cumsum(sign[order])
        last = np.append(np.diff(values[order]) > 0, True)  # of equal values
        apart = max(apart, float(np.abs(difference[last]).max(initial=0)))
    tolerance, overlap = 2 * band(n, 2 * k), max(from_p.mean(), 1e-9)
    if overlap < 2 * tolerance:
        raise Skip("no known density is near enough")
    return Finding(apart, tolerance, f"{min(2 * tolerance / overlap, 1):.1%} of the mass displaced along a slice")


@law("a Metropolis step leaves samples alone")
def stationary(s):
    """A sampler of p is at rest under Metropolis steps towards p: every slice goes up as often as down, because (x, x') is
    exchangeable if x ~ p and the step is reversible (Metropolis et al., 1953). It works without a normaliser and for any d.

    Look for what differs between sample and log_prob: scale, order, preprocessing, weights of components.
    """
    if s.density != "exact":
        raise Skip("log_prob is not exact")
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
    pairs = side[:s.n // 2 * 2].reshape(s.n // 2, 2, -1)
    chance = hoeffding(s.n // 2, 2 * side.shape[1], 2.0)
    tolerance = chance + float(np.square(np.abs(side.mean(axis=0)) + chance).max())  # medians are not known exactly
    agree = np.abs((pairs[:, 0] * pairs[:, 1]).mean(axis=0)).max()
    return Finding(float(agree), tolerance, f"a correlation of {2 * tolerance:.2f} between neighbours")


# ---------------------------------------------------------------- a change of variables

def _noise(s):
    if s.representation != "noise":
        raise Skip("encode does not give noise")


@law("the noise of samples is standard normal")
def noise(s):
    """encode(sample) ~ N(0, I): Phi(z_i) and Phi of random directions are uniform (Cramér & Wold, 1936).

    Look for a decoder that is not the inverse of the encoder: order, scale, a stale copy of a statistic.
    """
    _noise(s)
    if s.dequantize is not None:
        raise Skip("integers are spread by noise")
    from scipy.special import ndtr
    z = np.asarray(s.model.encode(s.drawn), np.float64)
    directions = s.generator(5).normal(size=(s.d, 16))
    z = np.hstack([z, z @ (directions / np.linalg.norm(directions, axis=0))])
    tolerance = band(s.n, z.shape[1])
    return Finding(float(distance(ndtr(z)).max()), tolerance, f"{2 * tolerance:.1%} of the mass displaced along a direction")


@law("decode inverts encode")
def inverse(s):
    """decode(encode(x)) = x in float64, relative to the spread of each column; exact for integers.

    Look for a step that is not undone, is undone in the wrong order, or with another parameter.
    """
    if not s.invertible:
        raise Skip("the model does not promise it")
    x = s.x[:200]
    error = np.abs(np.asarray(s.model.decode(s.model.encode(x)), np.float64) - x) / (s.scale[1] + np.abs(x) * 1e-3)
    return Finding(float(error.max()), 1e-9 if s.dequantize is None else 0.0)


@law("log_prob counts every change of variables")
def change_of_variables(s):
    """log p(x) = log N(encode(x); 0, I) + log |det d encode / dx|, derivatives by central differences, in the data's space.

    Look at the log-determinant: its sign, a term that is missing, the preprocessing's part. (Three rows in four decide,
    because a step may cross a kink of the network.)
    """
    _noise(s)
    if s.dequantize is not None:
        raise Skip("integers are spread by noise")
    x, step = s.x[:20], 1e-6 * s.scale[1]
    moves = np.eye(s.d) * step
    above, below = (np.asarray(s.model.encode((x[:, None] + sign * moves).reshape(-1, s.d))).reshape(-1, s.d, s.d)
                    for sign in (1, -1))
    log_det = np.linalg.slogdet((above - below) / (2 * step[:, None]))[1]
    z = np.asarray(s.model.encode(x), np.float64)
    error = np.abs(s.log_prob(x) - log_det + 0.5 * (z ** 2 + LOG_2PI).sum(axis=1))
    return Finding(float(np.quantile(error, 0.75)), 1e-4 * s.d)


@law("log-det is that of the Jacobian")
def jacobian(s):
    """log p(z) = log N(e(z); 0, I) + log |det de/dz|, derivatives by npgen.engine, in the preprocessed space.

    Look at the log-determinant that the model adds up, and at the derivative rules of what it is made of.
    """
    _noise(s)
    if not s.is_parametric:
        raise Skip("not a model of npgen")
    params = s.model._at(np.dtype(np.float64))
    worst = 0.0
    for row in s.model.preprocess_.forward(s.x[:4])[0]:
        jacobian = engine.jacobian(lambda r: s.model._represent(params, r[None])[0])(row)
        z = s.model._represent(params, row[None])
        want = np.linalg.slogdet(jacobian)[1] - 0.5 * np.sum(z ** 2 + LOG_2PI)
        worst = max(worst, abs(float(s.model._log_density(params, row[None])[0] - want)))
    return Finding(worst, 1e-8 * s.d)


@law("autoregressive pattern")
def pattern(s):
    """The conditional of x_i depends on the columns before it in the order, and on none after.

    Look at the masks: < where they need <=, degrees that are off by one, an order that is not inverted.
    """
    if not hasattr(s.model, "order_"):
        raise Skip("not an autoregressive model")
    model, order = s.model, s.model.order_
    params = model._at(np.dtype(np.float64))
    z = model.preprocess_.forward(s.x[:20])[0][:, order]
    other = z + s.generator(6).normal(size=z.shape)
    worst = 0.0
    base = model._net(params, z).reshape(len(z), -1, s.d)
    for i in range(s.d):
        changed = model._net(params, np.concatenate([z[:, :i], other[:, i:]], axis=1)).reshape(len(z), -1, s.d)
        worst = max(worst, float(np.abs(changed - base)[:, :, :i + 1].max()))
    return Finding(worst, 1e-9)


# ---------------------------------------------------------------- gradients

def _slopes(f, at, moves, step):
    """df/dt along every move, by central differences."""
    def value(move, sign):
        return float(f(engine.map_arrays(lambda a, v: a + sign * step * v, at, move)))
    return np.array([(value(move, 1) - value(move, -1)) / (2 * step) for move in moves])


def _compare(f, at, rng, step=1e-7):
    """The error of grad(f)(at) along five directions, in units of a derivative's usual size: its median, the worst array's."""
    gradient = engine.grad(f)(at)
    worst = 0.0
    for name in at:
        moves = [{k: rng.normal(size=a.shape) * (a != 0) * (k == name) for k, a in at.items()} for _ in range(5)]
        got = np.array([np.sum(gradient[name] * move[name]) for move in moves])
        slopes = _slopes(f, at, moves, step)
        usual = np.sqrt(np.mean(np.square(slopes))) + 1e-3 * np.sqrt(np.sum(np.square(gradient[name]))) + 1e-4
        worst = max(worst, float(np.median(np.abs(got - slopes)) / usual))
    return worst


def _places(s, k):
    """Places in parameter space: near the model's, and anywhere. What is zero, as a masked weight is, stays zero."""
    rng, params = s.generator(k), s.model._at(np.dtype(np.float64))
    yield {name: a * (1 + 0.2 * rng.normal(size=a.shape)) for name, a in params.items()}
    for _ in range(2):
        yield {name: (a != 0) * 0.7 * rng.normal(size=a.shape) for name, a in params.items()}


@law("gradient by the parameters")
def gradient_of_the_loss(s):
    """The derivative of the loss along random directions of the parameters is what finite differences give.

    Look at the backward kernels: a sum over rows that is a mean, a bias without its axis, a sign, a factor 2.
    """
    if not s.is_parametric:
        raise Skip("not a model of npgen")
    z = s.model.preprocess_.forward(s.x[:24])[0]
    rng = s.generator(8)
    return Finding(max(_compare(lambda p: np.mean(s.model._loss(p, z, Stream(3))), at, rng) for at in _places(s, 7)), 1e-3)


@law("gradient by the rows")
def gradient_of_the_density(s):
    """d log p(x) / dx along random directions is what finite differences give.

    Look at the backward kernels' gradient of their inputs.
    """
    if not s.is_parametric or s.density == "estimate" or s.support == "mixed":
        raise Skip("log_prob is an estimate" if s.density == "estimate" else "no derivative that npgen knows of")
    z, rng = {"x": s.model.preprocess_.forward(s.x[:24])[0] + 1e-3}, s.generator(10)

    def error(params):
        return _compare(lambda at: np.mean(s.model._log_density(params, at["x"])), z, rng)

    return Finding(max(map(error, _places(s, 9))), 1e-3)


@law("the loss is minus log_prob")
def loss(s):
    """What fit minimises is -log p(x), or minus the one-sample bound at z = mean + std * eps, eps the stream's own normals.

    Look for a term that only one of the two has: a log-determinant, a KL divergence, a mean where a sum belongs.
    """
    if not s.is_parametric:
        raise Skip("not a model of npgen")
    model, x = s.model, s.drawn[:2000]
    z, log_det = model.preprocess_.forward(x)
    params = model._at(np.dtype(np.float64))
    found = log_det - model._loss(params, z, Stream(s.seed))
    if s.density != "estimate":
        return close(found, model.log_prob(x), 1e-8)
    eps = Stream(s.seed).normal((len(z), model.n_latent_))
    log_prob, kl = model._terms(params, z, lambda mean, log_var: mean + np.exp(log_var / 2) * eps)
    return close(found, log_prob - model.beta * kl + log_det, 1e-8)


def _mean_zero(values):
    """The Finding that the expectation is 0, from the mean and its standard error."""
    error = values.std(ddof=1) / math.sqrt(len(values)) + 1e-12
    return Finding(abs(float(values.mean())), SIGMAS * error, f"{2 * SIGMAS * error:.2g} nats")


# ---------------------------------------------------------------- latent variables

class _Unchecked:
    """A likelihood head that takes any row."""

    def __init__(self, head):
        self._head = head

    def check(self, x, name):
        pass

    def __getattr__(self, name):
        return getattr(self._head, name)


def _bounds(s):
    """The model and 2,000 rows that all differ, as noise that is a function of the row needs: bits are moved by 1e-9."""
    if not hasattr(s.model, "elbo"):
        raise Skip("not a model with an ELBO")
    x, model = s.drawn[:2000], copy.copy(s.model)
    if s.support != "binary":
        return model, np.unique(x, axis=0)
    model.head_ = _Unchecked(model.head_)
    return model, np.abs(x - 1e-9 * s.generator(11).random(x.shape))


@law("the ELBO is what it bounds with")
def elbo(s):
    """E[elbo] = E_q[log p(x, z) - log q(z | x)]: the KL divergence in closed form against one importance sample per row.

    Look at the KL divergence: a mean over the latent dimensions, a missing 1/2, the sign of the log-variance.
    """
    model, x = _bounds(s)
    return _mean_zero(model.elbo(x) - model.importance_log_prob(x, n_importance=1)[0])


@law("ELBO <= IWAE <= log p(x)")
def ordered(s):
    """In expectation elbo <= IWAE_1 <= IWAE_8 <= IWAE_64 <= log p(x) (Burda et al., 2016), log p(x) by quadrature where l <= 2.

    Look for log S that is not subtracted, a prior or a q that is left out. Measured is the largest fall.
    """
    model, x = _bounds(s)
    levels = [model.elbo(x), *(model.importance_log_prob(x, n_importance=k)[0] for k in (1, 8, 64))]
    falls = [lower - upper for lower, upper in zip(levels, levels[1:], strict=False)]
    if model.n_latent_ <= 2:
        falls.append(levels[-1][:200] - s.log_prob(np.round(x[:200]) if s.support == "binary" else x[:200]))
    errors = [SIGMAS * fall.std(ddof=1) / math.sqrt(len(fall)) + 1e-9 for fall in falls]
    over = [fall.mean() / error for fall, error in zip(falls, errors, strict=True)]
    i = int(np.argmax(over))
    return Finding(float(falls[i].mean()), float(errors[i]), f"{2 * max(errors):.2g} nats")


@law("importance sampling estimates p(x)")
def importance(s):
    """The mean of exp(IWAE - log p(x)) is one, log p(x) by quadrature over one or two latent dimensions.

    Look at the weights p(x, z) / q(z | x): every term once, with the right sign.
    """
    model, x = _bounds(s)
    x = x[:100]
    log_prob, error = model.importance_log_prob(x, n_importance=2000)
    sure = error < 0.05  # few weights decide elsewhere, and the standard error is none
    if sure.sum() < 20:
        raise Skip("the weights vary too much")
    ratio = np.exp(log_prob - s.log_prob(np.round(x) if s.support == "binary" else x))[sure] - 1
    tolerance = SIGMAS * math.sqrt(np.square(error[sure]).sum()) / sure.sum() + 1e-3
    return Finding(abs(float(ratio.mean())), tolerance, f"{2 * tolerance:.2g} nats")


@law("noise in the cells is a lower bound")
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


# ---------------------------------------------------------------- mixtures

def _mixture(s):
    """log w_k N(x; m_k, C_k) of drawn rows from the attributes that scikit-learn's mixtures have too, (n, k)."""
    model, names = s.model, ("weights_", "means_", "covariances_")
    model = getattr(model, "model", model)
    if not all(hasattr(model, name) for name in names):
        raise Skip("not a mixture of Gaussians")
    if isinstance(getattr(model, "preprocess", None), (str, Preprocessor)):
        raise Skip("the mixture is in a preprocessed space")
    x, (weights, means, c) = s.drawn[:300], (np.asarray(getattr(model, name), np.float64) for name in names)
    k, d = means.shape
    kind = getattr(model, "covariance_type_", model.covariance_type)
    c = {"full": lambda: c, "tied": lambda: np.broadcast_to(c, (k, d, d)), "diag": lambda: c[:, :, None] * np.eye(d),
         "spherical": lambda: c[:, None, None] * np.eye(d)}[kind]()
    away = x[:, None] - means
    squares = np.einsum("nkd,kde,nke->nk", away, np.linalg.inv(c), away)
    return x, np.log(weights) - 0.5 * (squares + np.linalg.slogdet(c)[1] + d * LOG_2PI)


@law("a mixture is its attributes")
def mixture(s):
    """log p(x) = log sum_k w_k N(x; m_k, C_k), from weights_, means_ and covariances_.

    Look at the log-determinant of the factor, the weights, and the units of what fit standardised.
    """
    x, joint = _mixture(s)
    return close(s.log_prob(x), np.logaddexp.reduce(joint, axis=1), 1e-6)


@law("responsibilities are posterior probabilities")
def responsibilities(s):
    """predict_proba(x)_k = w_k N(x; m_k, C_k) / p(x).

    Look at what it is normalised over, and at the weights.
    """
    x, joint = _mixture(s)
    predict = getattr(getattr(s.model, "model", s.model), "predict_proba", None)
    if predict is None:
        raise Skip("no predict_proba")
    return close(predict(x), np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)), 1e-6)


@law("EM never loses likelihood")
def monotone(s):
    """lower_bounds_ never falls (Dempster, Laird & Rubin, 1977), but for what reg_covar adds and for components seeded anew.

    Look at the M-step: weights, the centre of the second moments, the order of updates.
    """
    model = s.model
    if not hasattr(model, "lower_bounds_") or getattr(model, "solver", "em") != "em" or model.fit_report_["reseeded"]:
        raise Skip("not fitted by EM alone")
    bounds = np.array(model.lower_bounds_)
    fall = float(np.max(bounds[:-1] - bounds[1:], initial=0))
    return Finding(fall, 1e-9 + 10 * model.reg_covar * s.d)
