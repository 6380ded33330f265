"""Laws of what is descended: its gradients are its slopes, and it is minus log_prob."""
import numpy as np

from .. import engine
from ..random import Stream
from .law import Finding, close, law
from .subject import Skip


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
