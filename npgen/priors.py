"""Priors: the distribution of a representation before a row is seen; each is a Part whose parameters a model learns.

    StandardNormal      N(0, I)
    Mixture             diagonal normals
    MADE                a dimension after the other, each a mixture of normals
    Flow                standard normal noise that couplings or autoregressive steps have moved

One is made without sizes, as Mixture(10); `of` gives the one of so many dimensions, which has

    log_prob(p, z, c)                   nats of the last axis of z (..., d), any dimensions before it
    sample(p, n, c, stream, dtype)      n rows; like: on the device, if that is there. Row i is the same whatever n is
    kl(mean, log_var)                   KL(N(mean, diag exp(log_var)) || prior), (n,) nats, or None without a closed form
    kl_each(mean, log_var)              the same of every dimension, (n, d), or None

PRIORS maps the name of a prior, on the command line and in a file, to its class.

Legend: n rows, d dimensions, k components, w columns of context; p {name: array or Tensor}; c context (n, w) or None.
References: Tomczak & Welling, VAE with a VampPrior (2018), on mixtures; Chen et al., Variational lossy autoencoder (2017), on
flows; Papamakarios et al., Masked autoregressive flow (2017), on MADE as a flow's base.
"""
import abc
import copy

import numpy as np

from . import fused, ops, posteriors
from .checks import check_widths
from .heads import MixtureOfNormals, Normal
from .nn import MaskedMLP, Part, beside
from .transforms import ActNorm, AffineCouplings, Autoregressive, Chain, Coupling, Permute, Spline

LARGEST = 1000  # normals, layers or bins: what a file asks for is made before its arrays are looked at


class Prior(Part, abc.ABC):
    """The contract: what a model asks of the distribution of its representation.

    name      what users call it
    d         dimensions, and n_context, columns of context: of what `of` gave
    """

    name: str
    d, n_context = None, 0

    def of(self, d, n_context=0):
        """This prior, of d dimensions and n_context columns of context.

        Raises ValueError where it has statistics of rows, as batch normalisation has.
        """
        bound = copy.copy(self)
        bound.d, bound.n_context = d, n_context
        bound._bind()
        if bound.query_shapes() != bound.shapes():
            raise ValueError(f"prior: {type(self).__name__} has statistics of rows, as batch normalisation has, but no rows of "
                             "data come to a prior; normalise by ActNorm, whose numbers are parameters")
        return bound

    def _bind(self):  # noqa: B027  most priors have nothing to make
        """Make what depends on d and n_context."""

    def config(self):
        """The prior as JSON, of which from_config makes it again; size is the first argument of the constructor."""
        return {"prior": self.name}

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


class StandardNormal(Prior):
    """N(0, I)."""

    name = "normal"

    def __repr__(self):
        return "StandardNormal()"

    def log_prob(self, p, z, c=None):
        return fused.standard_normal_log_prob(z)

    def sample(self, p, n, c, stream, dtype, like=None):
        return stream.normal((n, self.d), dtype, like=like)

    def kl(self, mean, log_var):
        """sum_d (mean_d^2 + exp(log_var_d) - 1 - log_var_d) / 2, (n,) nats."""
        return posteriors.standard_normal_kl(mean, log_var)

    def kl_each(self, mean, log_var):
        return (ops.square(mean) + ops.exp(log_var) - 1 - log_var) / 2


class Mixture(Prior):
    """sum_k weight_k N(mean_k, diag exp(log_var_k)), learned with the model; it sees no context.

    Its parameters are one array, "prior" (k, 2 d + 1): of every component the outputs of a normal head, then the logit of its
    weight. They begin with means drawn from N(0, I), variances of 1 and equal weights. Raises ValueError unless n_components is
    an integer from 1 to 1000.
    """

    name = "mixture"

    def __init__(self, n_components=10):
        self.n_components, self._head = _size("n_components", n_components), Normal()

    def __repr__(self):
        return f"Mixture({self.n_components})"

    def config(self):
        return {"prior": self.name, "size": self.n_components}

    def shapes(self):
        return {"prior": (self.n_components, 2 * self.d + 1)}

    def init(self, z, c, stream, weights=None):
        outputs = np.zeros((self.n_components, self.d, 2), z.dtype)
        outputs[..., 0] = stream.normal(outputs.shape[:2], z.dtype)
        return {"prior": np.concatenate([outputs.reshape(self.n_components, -1), outputs[:, 0, 1:]], axis=1)}

    def log_prob(self, p, z, c=None):
        outputs, logits = p["prior"][:, :-1], p["prior"][:, -1]
        return ops.logsumexp(self._head.log_prob(z[..., None, :], outputs) + ops.log_softmax(logits), axis=-1)

    def sample(self, p, n, c, stream, dtype, like=None):
        outputs, logits = p["prior"][:, :-1], p["prior"][:, -1]
        ends = np.cumsum(ops.softmax(logits.astype(np.float64)))
        choice, noise = stream.spawn(), stream.spawn()
        which = np.sum(ends[:-1] < choice.uniform(n, np.float64, like=like)[:, None] * ends[-1], axis=1)
        return self._head.sample(noise.normal((n, self.d), dtype, like=like), outputs[which].astype(dtype, copy=False))


class MADE(Prior):
    """prod_l p(z_l | z_1..z_{l-1}, c), of each dimension a mixture of n_components normals that one masked network gives.

    hidden: widths of the network's ReLU layers. Its first parameters are those of rows of mean 0 and variance 1. Raises
    ValueError unless n_components is an integer from 1 to 1000, hidden positive ones, at least one. Under a flow it is
    MAF-MoG's base. References: Germain et al. (2015); Papamakarios et al. (2017).
    """

    name = "made"

    def __init__(self, n_components=10, hidden=(256,)):
        self.n_components, self.hidden = _size("n_components", n_components), check_widths("hidden", hidden)
        if not self.hidden:
            raise ValueError("MADE: hidden must name at least one layer; for example hidden=(64,)")

    def __repr__(self):
        return f"MADE({self.n_components}, {self.hidden})"

    def config(self):
        return {"prior": self.name, "size": self.n_components, "hidden": list(self.hidden)}

    def _bind(self):
        self.net = MaskedMLP("prior", self.d, self.hidden, MixtureOfNormals(self.n_components), self.n_context)

    def shapes(self):
        return self.net.shapes()

    def init(self, z, c, stream, weights=None):
        return self.net.init(_of_unit_variance(self.d, z.dtype), c, stream)

    def log_prob(self, p, z, c=None):
        rows = z.reshape(-1, self.d)
        outputs = self.net(p, beside(rows, c if self.n_context else None))
        return self.net.head.log_prob(rows, outputs).reshape(z.shape[:-1])

    def sample(self, p, n, c, stream, dtype, like=None):
        noise = self.net.head.noise(stream, (n, self.d), dtype, like=like)
        return self.net.sample(p, noise, c if self.n_context else None)


class Flow(Prior):
    """Standard normal noise, moved by a learned flow that sees the context.

    n_layers   steps, each of which normalises its features first (ActNorm)
    hidden     widths of the ReLU layers in each step's network
    coupling   whether steps are couplings, which keep half of the features, or autoregressive: RealNVP or MAF
    bins       None: steps move a feature by a shift and a scale; or the bins of a monotone spline in (-5, 5), as NSF has

    The first parameters are those for rows of mean 0 and variance 1, at which a flow is near the identity. Raises ValueError
    unless n_layers is an integer from 1 to 1000, hidden positive ones, at least one where steps are autoregressive, bins None
    or one from 2 to 1000. References: Dinh et al. (2017); Papamakarios et al. (2017); Durkan et al. (2019).
    """

    name = "flow"

    def __init__(self, n_layers=10, hidden=(256,), *, coupling=True, bins=None):
        self.n_layers, self.hidden, self.coupling = _size("n_layers", n_layers), check_widths("hidden", hidden), bool(coupling)
        self.bins = None if bins is None else _size("bins", bins, 2)
        if not self.coupling and not self.hidden:
            raise ValueError("Flow: hidden must name at least one layer where coupling=False; for example hidden=(64,)")

    def __repr__(self):
        more = "" if self.coupling else ", coupling=False"
        return f"Flow({self.n_layers}, {self.hidden}{more}{'' if self.bins is None else f', bins={self.bins}'})"

    def config(self):
        more = {} if self.coupling else {"coupling": False}
        more |= {} if self.bins is None else {"bins": self.bins}
        return {"prior": self.name, "size": self.n_layers, "hidden": list(self.hidden)} | more

    def _bind(self):
        affine = self.coupling and self.bins is None  # there is one kernel for all of these
        self.transform = self._couplings() if affine else Chain(tuple(self._steps()))

    def _couplings(self):
        """RealNVP's affine couplings; every other one parts the features into those of even and of odd numbers."""
        d, each = self.d, np.arange(self.n_layers) % 2
        orders = np.stack([np.argsort(np.arange(d) % 2, kind="stable"), np.arange(d)])[each]
        return AffineCouplings("prior", orders, np.where(each, d - d // 2, d // 2).tolist(), self.hidden, self.n_context)

    def _steps(self):
        """Steps one after the other, the order of the features turned round between them."""
        d, w, element = self.d, self.n_context, None if self.bins is None else Spline(self.bins)
        for k in range(self.n_layers):
            if k:
                yield Permute(np.arange(d)[::-1])
            yield ActNorm(f"prior.{k}.norm", d)
            yield (Coupling(f"prior.{k}", d, d // 2, self.hidden, element, w) if self.coupling and d > 1
                   else Autoregressive(f"prior.{k}", d, self.hidden, element, w))

    def shapes(self):
        return self.transform.shapes()

    def init(self, z, c, stream, weights=None):
        rows = _of_unit_variance(self.d, z.dtype)
        return self.transform.init(rows, np.zeros((len(rows), self.n_context), z.dtype) if self.n_context else None, stream)

    def to(self, place):
        moved = copy.copy(self)
        moved.transform = self.transform.to(place)
        return moved

    def log_prob(self, p, z, c=None):
        return self.transform.log_prob(p, z.reshape(-1, self.d), c if self.n_context else None).reshape(z.shape[:-1])

    def sample(self, p, n, c, stream, dtype, like=None):
        return self.transform.data(p, stream.normal((n, self.d), dtype, like=like), c if self.n_context else None)


PRIORS = {prior.name: prior for prior in (StandardNormal, Mixture, MADE, Flow)}


def _of_unit_variance(d, dtype):
    """Rows (2 d, d) of mean 0 and variance 1."""
    return np.sqrt(dtype.type(d)) * np.concatenate([np.eye(d, dtype=dtype), -np.eye(d, dtype=dtype)])


def _size(name, value, least=1):
    """A hyperparameter as an int."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= LARGEST:
        raise ValueError(f"{name} must be an integer from {least} to {LARGEST}, got {value!r}"[:200])
    return int(value)


def prior_for(spec, size, hidden, what="prior"):
    """The prior that `spec` asks for: one of these objects, or a name, of this size and, of networks, these hidden layers.

    Raises ValueError, which calls it `what`, for anything else.
    """
    if isinstance(spec, Prior):
        if PRIORS.get(spec.name) is not type(spec):
            raise ValueError(f"{what}: {type(spec).__name__} is a class of your own; register it, here and before load: "
                             f"npgen.priors.PRIORS[{spec.name!r}] = {type(spec).__name__}")
        return spec
    if not isinstance(spec, str) or spec not in PRIORS:
        raise ValueError(f"{what}: expected one of {', '.join(PRIORS)}, or a prior of npgen.priors, got {spec!r}"[:200])
    return from_config({"prior": spec} | ({} if spec == "normal" else {"size": _size("prior_size", size)})
                       | ({"hidden": hidden} if spec in ("made", "flow") else {}))


def from_config(config):
    """The prior of which config() was asked. Raises ValueError or TypeError for what is none."""
    options = dict(config)
    name = options.pop("prior")
    if not isinstance(name, str) or name not in PRIORS:
        raise ValueError(f"prior: expected one of {', '.join(PRIORS)}, got {name!r}"[:200])
    size = (options.pop("size"),) if "size" in options else ()
    return PRIORS[name](*size, **options)
