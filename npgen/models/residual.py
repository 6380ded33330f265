"""What an energy model is made of: its network, objectives that it is fitted by, Langevin chains, and its base given a context.

    s(x) = grad log base(x) - grad f(x), the score of p(x) = base(x) exp(-f(x)) / Z

An objective is a function (f, base, z, stream, chain, sigma) -> (n,) losses of rows z, whose gradient by what f depends on is
followed: f gives (n,) energies of rows, base has log_prob and sample, chain (m, d) are rows of p, or nearly.

    nce              softplus(f(z)) + softplus(-f(y)), y ~ base: which is data and which is noise, Z being 1
    pcd              f(z) - mean f(chain); given a context f(z) - f(chain), a row's chain being of its context
    score_matching   |s|^2 / 2 + div s, but for the base's divergence, which is constant; exact, in d backward passes
    sliced           |s|^2 / 2 + v . (ds/dz) v, v ~ N(0, I), likewise
    dsm              sigma^2 |s(z + sigma e) + e / sigma|^2 / 2, e ~ N(0, I): of the data with noise

Legend: n rows, d features, m chains, w columns of context.
References: Gutmann & Hyvarinen, Noise-contrastive estimation (2010); Tieleman (2008); Hyvarinen, Estimation of non-normalized
statistical models by score matching (2005); Song et al., Sliced score matching (2019); Vincent, A connection between score
matching and denoising autoencoders (2011); Roberts & Tweedie, Exponential convergence of Langevin distributions (1996).
"""
import math

import numpy as np

from .. import fused, ops
from ..engine import grad, vjp
from ..kernels._cuda import asnumpy, constant_like
from ..nn import Part, beside
from .context import OfContexts

FAR = 1e25  # f is the same beyond: as good as linear, it is nothing beside -|x|^2, of which numbers end before they do of f

# ---------------------------------------------------------------- objectives

def nce(f, base, z, stream, chain, sigma):
    y = np.asarray(base.sample(len(z), rng=stream.spawn()).astype(z.dtype), like=z)
    return ops.softplus(f(z)) + ops.softplus(-f(y))


def pcd(f, base, z, stream, chain, sigma):
    return f(z) - ops.sum(f(chain)) / len(chain)


def contrast(f, base, z, stream, chain, sigma):
    """pcd of rows that each have a chain of their own."""
    return f(z) - f(chain)


def _slope(f, z):
    """grad f, (n, d)."""
    return grad(lambda x: ops.sum(f(x)))(z)


def _score(f, base, z):
    return _slope(base.log_prob, z) - _slope(f, z)


def _bend(f, z, v):
    """v . (Hessian of f) v of every row, (n,)."""
    return ops.sum(_slope(lambda x: ops.sum(v * _slope(f, x), axis=1), z) * v, axis=1)


def score_matching(f, base, z, stream, chain, sigma):
    half = ops.sum(ops.square(_score(f, base, z)), axis=1) / 2
    for axis in np.eye(z.shape[1], dtype=z.dtype):
        half = half - _bend(f, z, constant_like(np.tile(axis, (len(z), 1)), z))
    return half


def sliced(f, base, z, stream, chain, sigma):
    v = stream.spawn().normal(z.shape, z.dtype, like=z)
    return ops.sum(ops.square(_score(f, base, z)), axis=1) / 2 - _bend(f, z, v)


def dsm(f, base, z, stream, chain, sigma):
    noise = stream.spawn().normal(z.shape, z.dtype, like=z)
    return ops.sum(ops.square(sigma * _score(f, base, z + sigma * noise) + noise), axis=1) / 2


OBJECTIVES = {each.__name__: each for each in (nce, pcd, score_matching, sliced, dsm)}


# ---------------------------------------------------------------- chains

def langevin(log_density, z, step, n_steps, stream, adjusted):
    """Rows z (n, d) after so many steps z + step s(z) + sqrt(2 step) e, e ~ N(0, I), and the share of steps that were taken.

    adjusted: a step is taken with the probability of Metropolis and Hastings (MALA), which keeps p as it is; else always, which
    keeps a density near it: of N(0, 1), one of variance 1 / (1 - step / 2). log_density: (n,) of rows, but for a constant.
    A row's draws are its own, however many rows there are.
    """
    def at(z):
        value, pull = vjp(log_density, z)
        return value, pull(np.ones_like(value))[0]

    (here, score), taken = at(z), 0.0
    for _ in range(n_steps):
        noise = stream.spawn().normal(z.shape, z.dtype, like=z)
        y = z + step * score + math.sqrt(2 * step) * noise
        y = np.where(np.isfinite(y).all(axis=1)[:, None], y, z)  # a step beyond numbers is not taken
        there, its = at(y)
        if not adjusted:
            z, score, taken = y, its, taken + 1
            continue
        back = np.sum(np.square(z - y - step * its), axis=1) / (4 * step)
        u = stream.spawn().uniform(len(z), z.dtype, like=z)
        accept = np.log(u) < there - here + np.sum(np.square(noise), axis=1) / 2 - back  # not where it is NaN
        z, score = np.where(accept[:, None], y, z), np.where(accept[:, None], its, score)
        here, taken = np.where(accept, there, here), taken + accept.mean()
    return z, taken / n_steps


def launch_of(mixture):
    """What the kernel of chains needs to know of a fitted GaussianMixture: centre, scale, and of its components."""
    return mixture.centre_, mixture.scale_, *mixture._components(mixture.params_).launch()


# What a base with a context says of rows on a device, which it is asked on the host.
_from_host = ops.op(lambda z, base: np.asarray(base.log_prob(asnumpy(z)), like=z),
                    lambda ans, z, base: lambda g: g[:, None] * np.asarray(_slope(base.log_prob, asnumpy(z)), like=z),
                    name="base")


class OnHost:
    """A base given a context, for rows on a device."""

    def __init__(self, base):
        self.base, self.sample = base, base.sample

    def log_prob(self, z):
        return _from_host(z, self.base)

    def encode(self, z):
        return self.base.encode(asnumpy(z))

    def decode(self, h):
        return self.base.decode(asnumpy(h))


class There:
    """A base that computes on a device, as mathematics: rows stay there, and nobody waits for them."""

    def __init__(self, base):
        self.base = base

    def log_prob(self, z):
        x, log_det = self.base.preprocess_.unchecked(None, z)
        return self.base.inner(z.dtype).log_density(x) + log_det

    def sample(self, n, rng):
        inner = self.base.inner()
        return inner.leave(inner.draw(n, rng))

    def encode(self, z):
        return self.base.inner(z.dtype).represent(self.base.preprocess_.unchecked(None, z)[0])

    def decode(self, h):
        inner = self.base.inner(h.dtype)
        return inner.leave(inner.reconstruct(h))


class Given:
    """A base given a context of each row, (n, w)."""

    def __init__(self, base, c):
        self.base, self.c = base, c

    def log_prob(self, z):
        return self.base.log_prob(z, context=self.c)

    def sample(self, n, rng):
        return self.base.sample(context=self.c, rng=rng)

    def encode(self, z):
        return self.base.encode(z, context=self.c)

    def decode(self, h):
        return self.base.decode(h, context=self.c)


class Residual(Part):
    """f: layers of these widths with x sigmoid(x) behind them, which is smooth, then one number; at first f is zero.

    What queries know beside its parameters, `estimates` (4,): log Z, its standard error, the effective sample size, and the
    share of chains' steps that are taken; (1,) of w columns of context, that share, as each context has its own log Z.
    """

    def __init__(self, d, hidden, w=0):
        self.widths, self.w, self.estimates_of = (d + w, *hidden, 1), w, OfContexts()

    def shapes(self):
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        return {f"f.{k}.{name}": shape for k, (i, j) in enumerate(pairs)
                for name, shape in (("weight", (i, j)), ("bias", (j,)))}

    def query_shapes(self):
        return self.shapes() | {"estimates": (1 if self.w else 4,)}

    def init(self, z, c, stream, weights=None):
        first = {name: np.zeros(shape, z.dtype) for name, shape in self.shapes().items()}
        for k, i in enumerate(self.widths[:-2]):
            first[f"f.{k}.weight"] = stream.normal((i, self.widths[k + 1]), z.dtype) * z.dtype.type(math.sqrt(2 / i))
            first[f"f.{k}.bias"] = stream.normal(self.widths[k + 1], z.dtype)  # so that units bend at different places
        return first

    def launch(self, p, x, c=None):
        """What a kernel needs to know: rows, all parameters, the layers' widths, the context of the rows."""
        flat = np.concatenate([p[name].ravel() for name in self.shapes()])
        x, flat, c = ops.contiguous(x, flat, np.zeros_like(x, shape=(len(x), 0)) if c is None else c)
        return x, flat, np.array(self.widths), c

    def __call__(self, p, x, c=None):
        x, last = beside(np.clip(x, -FAR, FAR), c), len(self.widths) - 2
        for k in range(last + 1):
            x = ops.linear(x, p[f"f.{k}.weight"], p[f"f.{k}.bias"])
            x = fused.silu(x) if k < last else x
        return x[:, 0]
