"""Priors: the distribution of a representation before a row is seen; each is a Part whose parameters a model learns.

    log_prob(p, z, c)                   nats of the last axis of z (..., d), any dimensions before it
    sample(p, n, c, stream, dtype)      n rows; like: on the device, if that is there. Row i is the same whatever n is
    kl(mean, log_var)                   KL(N(mean, diag exp(log_var)) || prior), (n,) nats, or None without a closed form
    kl_each(mean, log_var)              the same of every dimension, (n, d), or None

PRIORS maps the name of a prior, on the command line and in a file, to what makes one (from_config).

Legend: n rows, d dimensions, k components, w columns of context; p {name: array or Tensor}; c context (n, w) or None.
References: Tomczak & Welling, VAE with a VampPrior (2018), on mixtures; Chen et al., Variational lossy autoencoder (2017), on
flows.
"""
import abc

import numpy as np

from . import fused, ops
from .heads.normal import Normal
from .nn import Part
from .transforms.coupling import AffineCouplings


class Prior(Part, abc.ABC):
    """The contract: what a model asks of the distribution of its representation."""

    @abc.abstractmethod
    def log_prob(self, p, z, c=None):
        """log p(z | c), (...) nats of z (..., d); of context there is one row for every z, (m, w)."""

    @abc.abstractmethod
    def sample(self, p, n, c, stream, dtype, like=None):
        """n rows of p(z | c), (n, d)."""

    def kl(self, mean, log_var):
        """None: the divergence has no closed form, so that a model estimates it by log q(z) - log p(z)."""
        return None

    def kl_each(self, mean, log_var):
        """None, as kl."""
        return None


def _kl(mean, log_var):
    """sum_l KL(N(mean_l, exp(log_var_l)) || N(0, 1)), (n,) nats."""
    return np.sum(np.square(mean) + np.exp(log_var) - 1 - log_var, axis=1) / 2


_kl_op = ops.op(lambda mean, log_var: _kl(mean, log_var),  # by one rule each: a step has no time for eight small ops
                lambda ans, mean, log_var: lambda g: g[:, None] * mean,
                lambda ans, mean, log_var: lambda g: g[:, None] * (ops.expm1(log_var) / 2), name="kl")


class StandardNormal(Prior):
    """N(0, I)."""

    def __init__(self, d):
        self.d = d

    def log_prob(self, p, z, c=None):
        return fused.standard_normal_log_prob(z)

    def sample(self, p, n, c, stream, dtype, like=None):
        return stream.normal((n, self.d), dtype, like=like)

    def kl(self, mean, log_var):
        """sum_d (mean_d^2 + exp(log_var_d) - 1 - log_var_d) / 2, (n,) nats."""
        return _kl_op(mean, log_var)

    def kl_each(self, mean, log_var):
        return (ops.square(mean) + ops.exp(log_var) - 1 - log_var) / 2


class Mixture(Prior):
    """sum_k weight_k N(mean_k, diag exp(log_var_k)), learned with the model; it sees no context.

    Its parameters are one array, `name` (k, 2 d + 1): of every component the outputs of a normal head, then the logit of its
    weight. They begin with means drawn from N(0, I), variances of 1 and equal weights.
    """

    def __init__(self, name, d, n_components):
        self.name, self.d, self.n_components, self._head = name, d, n_components, Normal()

    def shapes(self):
        return {self.name: (self.n_components, 2 * self.d + 1)}

    def init(self, z, c, stream, weights=None):
        outputs = np.zeros((self.n_components, self.d, 2), z.dtype)
        outputs[..., 0] = stream.normal(outputs.shape[:2], z.dtype)
        return {self.name: np.concatenate([outputs.reshape(self.n_components, -1), outputs[:, 0, 1:]], axis=1)}

    def log_prob(self, p, z, c=None):
        outputs, logits = p[self.name][:, :-1], p[self.name][:, -1]
        return ops.logsumexp(self._head.log_prob(z[..., None, :], outputs) + ops.log_softmax(logits), axis=-1)

    def sample(self, p, n, c, stream, dtype, like=None):
        outputs, logits = p[self.name][:, :-1], p[self.name][:, -1]
        ends = np.cumsum(ops.softmax(logits.astype(np.float64)))
        choice, noise = stream.spawn(), stream.spawn()
        which = np.sum(ends[:-1] < choice.uniform(n, np.float64, like=like)[:, None] * ends[-1], axis=1)
        return self._head.sample(noise.normal((n, self.d), dtype, like=like), outputs[which].astype(dtype, copy=False))


class Flow(Prior):
    """Standard normal noise, mapped by a transform (npgen.transforms) of d features and w columns of context.

    The transform's first parameters are those for rows of mean 0 and variance 1, at which flows are near the identity.
    """

    def __init__(self, transform, d, n_context=0):
        self.transform, self.d, self.n_context = transform, d, n_context

    def shapes(self):
        return self.transform.shapes()

    def init(self, z, c, stream, weights=None):
        rows = np.sqrt(z.dtype.type(self.d)) * np.concatenate([np.eye(self.d, dtype=z.dtype), -np.eye(self.d, dtype=z.dtype)])
        return self.transform.init(rows, np.zeros((len(rows), self.n_context), z.dtype) if self.n_context else None, stream)

    def to(self, place):
        return Flow(self.transform.to(place), self.d, self.n_context)

    def log_prob(self, p, z, c=None):
        return self.transform.log_prob(p, z.reshape(-1, self.d), c if self.n_context else None).reshape(z.shape[:-1])

    def sample(self, p, n, c, stream, dtype, like=None):
        return self.transform.data(p, stream.normal((n, self.d), dtype, like=like), c if self.n_context else None)


def _standard_normal(d, n_context):
    return StandardNormal(d)


def _mixture(d, n_context, size):
    return Mixture("prior", d, size)


def _flow(d, n_context, size, hidden):
    """RealNVP's affine couplings; every other one parts the features into those of even and of odd numbers."""
    orders = np.stack([np.argsort(np.arange(d) % 2, kind="stable"), np.arange(d)])[np.arange(size) % 2]
    n_kept = np.where(np.arange(size) % 2, d - d // 2, d // 2).tolist()
    return Flow(AffineCouplings("prior", orders, n_kept, tuple(hidden), n_context), d, n_context)


PRIORS = {"normal": _standard_normal, "mixture": _mixture, "flow": _flow}
LARGEST = 1000  # normals or couplings: what a file asks for is made before its arrays are looked at


def from_config(config, d, n_context=0):
    """The prior of d dimensions that {"prior": name, "size": of how many parts it is, if it is learned, ...} describes.

    Raises ValueError for what is none.
    """
    options = dict(config)
    name, size = options.pop("prior"), options.get("size", 1)
    if name not in PRIORS:
        raise ValueError(f"prior: expected one of {', '.join(PRIORS)}, got {name!r}"[:200])
    if type(size) is not int or not 1 <= size <= LARGEST:
        raise ValueError(f"prior_size must be an integer from 1 to {LARGEST}, got {size!r}"[:200])
    return PRIORS[name](d, n_context, **options)
