"""Laws of what is descended: its gradients are its slopes, and it is minus log_prob."""
import numpy as np

from .. import engine
from ..fused import LOG_2PI
from ..random import Stream
from .law import Finding, close, law
from .subject import Skip

STEPS = 10.0 ** -np.arange(2, 12)
SLACK = 1e-5  # allowed beyond the error of a slope, which is an estimate


def _slope(f, array, move, gradient):
    """df/dt along a move, by the central difference of the best step, and how far off it may be.

    Where f bends one way, in a curve or at a ReLU's kink, its slope is between those to the left and to the right: half of what
    these differ by bounds the error. Where it bends both ways, or a step leaves the support, a shorter one tells. The shortest
    see nothing but rounding.
    """
    here = float(f(array))
    with np.errstate(invalid="ignore"):
        left, right = np.array([[float(f(array + sign * step * move)) for step in STEPS] for sign in (-1, 1)])
    slope, bend = (right - left) / (2 * STEPS), np.abs(right - 2 * here + left) / 2
    rounding = max(np.finfo(float).eps * max(abs(here), np.sum(np.abs(array * gradient))), *bend[-3:])
    error = ((bend + rounding) / STEPS)[:-1] + np.abs(np.diff(slope))
    best = np.argmin(np.where(np.isnan(error), np.inf, error))
    return slope[best], error[best]


def _compare(f, at, rng):
    """By array, in units of a derivative's usual size: how far grad(f)(at) is off, beyond the slopes' error; and that error."""
    gradient = engine.grad(f)(at)
    for name, array in at.items():
        moves = [rng.normal(size=array.shape) * (array != 0) for _ in range(5)]
        slopes, errors = np.transpose([_slope(lambda a, name=name: f(at | {name: a}), array, move, gradient[name])
                                        for move in moves])
        off = np.abs([np.sum(gradient[name] * move) for move in moves] - slopes) - errors
        yield np.array([np.max(off), np.max(errors)]) / (np.sqrt(np.mean(np.square(slopes))) + 1e-4)


def _derivatives(cases, rng):
    """The Finding that grad(f)(at) gives the slopes of f, for pairs (f, at). It catches what is wrong in all of them."""
    found = np.array([[*_compare(f, at, rng)] for f, at in cases])  # (cases, arrays, 2)
    off, error = found[..., 0].max(), found[..., 1].min(axis=0).max()
    return Finding(max(off, 0), SLACK, f"derivatives off by {100 * (SLACK + 2 * error):.2g}%")


def _places(s, k):
    """Places in parameter space: near the model's, and anywhere. What is zero, as a masked weight is, stays zero."""
    rng, params = s.generator(k), s.inner.params
    learned = {name for part in s.inner.parts.values() for name in part.shapes()}  # others are statistics of rows
    yield {name: a * (1 + 0.2 * rng.normal(size=a.shape)) if name in learned else a for name, a in params.items()}
    for _ in range(2):
        yield {name: (a != 0) * 0.7 * rng.normal(size=a.shape) if name in learned else a for name, a in params.items()}


@law("gradient by the parameters")
def gradient_of_the_loss(s):
    """The derivative of the loss along random directions of the parameters is what finite differences give.

    Look at the backward kernels: a sum over rows that is a mean, a bias without its axis, a sign, a factor 2.
    """
    if not s.is_parametric:
        raise Skip("not a model of npgen")
    z = s.inner.enter(s.x[:24])[0]

    def value(params):
        return np.mean(s.inner.loss(z, Stream(3), p=params))

    return _derivatives([(value, at) for at in _places(s, 7)], s.generator(8))


@law("gradient by the rows", of="density")
def gradient_of_the_density(s):
    """d log p(x) / dx along random directions is what finite differences give.

    Look at the backward kernels' gradient of their inputs.
    """
    if not s.is_parametric or s.support == "mixed":
        raise Skip("no derivative that npgen knows of")
    if s.density == "estimate":
        _ = s.slack  # which raises Skip
    z = s.inner.enter(s.x[:24])[0] + 1e-3

    def density(params):
        return lambda at: np.mean(s.inner.log_density(at["x"], p=params))

    return _derivatives([(density(params), {"x": z}) for params in _places(s, 9)], s.generator(10))


@law("the loss is minus log_prob", of="density")
def loss(s):
    """What fit minimises, or what stands for it where players follow other gradients, is -log p(x), or minus the bound at
    z = mean + std * eps, eps the stream's own normals: one sample's ELBO, its KL divergence in closed form if there is one, no
    less than free_bits in a dimension; or log 1/k sum_s w_s.

    Look for a term that only one of the two has: a log-determinant, a KL divergence, a mean where a sum belongs.
    """
    if not s.is_parametric:
        raise Skip("not a model of npgen")
    if s.several_orders:
        raise Skip("a step takes one order of the density's")
    if not s.inner.by_likelihood:
        raise Skip("its loss is no likelihood")
    model, inner, x = s.model, s.inner, s.drawn[:2000]
    z, log_det = inner.enter(x)
    found = log_det - inner.loss(z, Stream(s.seed))
    if not hasattr(model, "importance_log_prob"):
        return close(found, model.log_prob(x), 1e-8)
    return close(found, _bound(s.host, inner, z, s.seed) + log_det, 1e-8)


def _bound(model, inner, x, seed):
    """Of a VAE: what its objective is of preprocessed rows, (n,)."""
    k, (mean, log_var) = model.k if model.objective == "iwae" else 1, inner.posterior(x)
    x, mean, log_var = (np.repeat(a, k, axis=0) for a in (x, mean, log_var))
    eps = Stream(seed).normal(mean.shape)
    z = mean + np.exp(log_var / 2) * eps
    likely = model.head_.log_prob(x, inner.parts["decoder"](inner.params, z))
    ratio = inner.parts["prior"].log_prob(inner.params, z) + ((eps ** 2 + LOG_2PI + log_var) / 2).sum(axis=1)
    if model.objective == "iwae":
        return np.logaddexp.reduce((likely + model.beta * ratio).reshape(-1, k), axis=1) - np.log(k)
    if inner.parts["prior"].kl(mean, log_var) is None:
        return likely - model.beta * np.maximum(-ratio, model.free_bits * mean.shape[1] if model.free_bits else -np.inf)
    return likely - model.beta * np.maximum((mean ** 2 + np.exp(log_var) - 1 - log_var) / 2, model.free_bits).sum(axis=1)
