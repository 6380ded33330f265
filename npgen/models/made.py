"""MADE: a masked autoencoder whose outputs are the conditionals of an autoregressive density.

    p(x) = prod_d p(x_d | x_1..x_{d-1}),    h_1 = relu(x W_1 + b_1), ..., outputs = h_L W + b

with every weight masked so that output d sees inputs before d only (masks.made_masks). Exact log-density in one pass;
exact samples in one pass too (kernels.made_sample).

Legend: n rows, d features, l hidden units of the last layer.
Reference: Germain, Gregor, Murray & Larochelle, MADE: Masked Autoencoder for Distribution Estimation (2015).
"""
import numpy as np

from ..checks import check_order, check_widths, one_line
from ..heads import from_config, head_for
from ..heads.normal import std
from ..masks import made_blind
from ..nn import MaskedMLP, Part
from ..warn import warn
from .base import Capabilities, Follows
from .gradient import GradientModel, warn_of_one_gaussian


class Order(Part):
    """The columns of data (n, d) in the order of a factorisation, and back."""

    def __init__(self, order):
        self.order, self.natural = order, np.array_equal(order, np.arange(len(order)))

    def to(self, place):
        moved = Order.__new__(Order)
        moved.order, moved.natural = place(self.order), self.natural
        return moved

    def __call__(self, x):
        return x if self.natural else np.take(x, self.order, axis=1)

    def undo(self, z):
        """The columns in their own order."""
        x = np.empty_like(z)
        x[:, self.order] = z
        return x


class MADE(GradientModel):
    """Masked autoencoder density: p(x) = prod_d p(x_d | x_<d), exact, with one-pass sampling.

    hidden         widths of the ReLU layers, one or more; d - 1 or wider, or some conditionals do not see every column before
                   them, of which fit warns
    head           what the columns are: "normal", "mixture" (of ten normals), "bernoulli" (0 or 1), "poisson" (counts),
                   "categorical" (whole numbers, of which those that are there are its levels), a head of npgen.heads, such as
                   MixtureOfNormals(3) or Categorical(levels), or a list of one for each column; "auto": Bernoulli for data of
                   0 and 1, normal for others
    order          "natural", "random", or a permutation of the columns: the order of the factorisation
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the noise (x_d - mean_d) / std_d (n, d), which decode inverts exactly, under a normal head, and the last hidden
    layer's features (n, l) under any other, from which decode gives the mean. Samples take one pass under a normal, mixture or
    Bernoulli head, and a pass for every column under any other. A level enters the network as the number that it is.
    Attribute: order_ (d,), the columns in the order of the factorisation.
    Reference: Germain et al. (2015).
    """

    hidden: tuple = (500,)
    head: object = "auto"
    order: object = "random"
    hidden_, order_ = Follows(), Follows()

    @property
    def _capabilities(self):
        if self.head_ is not None and self.head_.name == "normal":
            return Capabilities("exact", "noise", invertible=True)
        return Capabilities("exact", "features of the last hidden layer", invertible=False)

    @property
    def n_latent_(self):
        return self.n_features_in_ if self.head_.name == "normal" else self.hidden_[-1]

    def _choose(self, z, c, stream):
        d, head, hidden = z.shape[1], head_for(self.head, z), check_widths("hidden", self.hidden)
        order = self._choose_order(d, stream)
        if not hidden:
            raise ValueError(f"hidden must name at least one layer, got {self.hidden!r}; for example hidden=(500,)")
        if d == 1 and head.name == "normal":
            warn_of_one_gaussian(self)
        if blind := len(made_blind(d, hidden)):
            warn(f"fit: hidden={hidden} is too narrow for {blind} of the {d} conditionals to see every column before "
                 f"them; make each hidden layer at least {d - 1} wide")
        return {"head": head.config(), "hidden": hidden, "order": order}

    def _choose_order(self, d, stream):
        if isinstance(self.order, str):
            if self.order not in ("natural", "random"):
                raise ValueError(f"order must be 'natural', 'random' or a permutation, got {self.order!r}")
            return np.arange(d) if self.order == "natural" else stream.spawn().permutation(d)
        order = np.asarray(self.order)
        if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(d)):
            raise ValueError(f"order must hold every column number 0..{d - 1} once, got {one_line(self.order)}")
        return order.astype(np.int64)

    def _assemble(self, d, w, chosen):
        check_order(chosen["order"], d)
        head = from_config(chosen["head"])
        in_order = head.of(chosen["order"])
        return {"head": head, "order": Order(chosen["order"]), "in_order": in_order,
                "net": MaskedMLP("net", d, chosen["hidden"], in_order)}

    def _log_density(self, p, z, c=None):
        x = self._order(z)
        return self._in_order.log_prob(x, self._net(p, x))

    def _draw(self, p, n, stream, c=None):
        if self._head.code is not None:
            return self._from_noise(p, self._head.noise(stream, (n, self.n_features_in_), p.flat.dtype, p.flat))
        x = np.zeros_like(p.flat, shape=(-(-n // self._multiple) * self._multiple, self.n_features_in_))
        for j, (low, high) in enumerate(zip(self._net.first, self._net.first[1:], strict=False)):  # a pass for each
            one = self._in_order.of([j])
            x[:, [j]] = one.sample(one.noise(stream.spawn(), (len(x), 1), x.dtype, x), self._net(p, x)[:, low:high])
        return self._order.undo(x[:n])

    def _from_noise(self, p, noise):
        return self._order.undo(self._net.draw(p, noise, self._head.code, getattr(self._head, "limit", 0.0)))

    def _represent(self, p, z, c=None):
        x = self._order(z)
        if self._head.name != "normal":
            return self._net.hidden(p, x)
        mean, log_var = self._head.split(self._net(p, x))
        return (x - mean) / std(log_var)

    def _reconstruct(self, p, h, c=None):
        if self._head.name == "normal":
            return self._from_noise(p, h)
        return self._order.undo(self._in_order.mean(self._net.last(p, h)))
