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
from ..kernels import made_sample
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
    head           "bernoulli" for data of 0 and 1, "normal" for real data, "auto" decides by looking at the data
    order          "natural", "random", or a permutation of the columns: the order of the factorisation
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the last hidden layer's features (n, l) under a Bernoulli head, and the noise
    (x_d - mean_d) / std_d (n, d), which decode inverts exactly, under a normal one.
    Attribute: order_ (d,), the columns in the order of the factorisation.
    Reference: Germain et al. (2015).
    """

    hidden: tuple = (500,)
    head: str = "auto"
    order: object = "random"
    hidden_, order_ = Follows(), Follows()

    @property
    def _capabilities(self):
        if self.head_ is not None and self.head_.name == "normal":
            return Capabilities("exact", "noise", invertible=True)
        return Capabilities("exact", "features of the last hidden layer", invertible=False)

    @property
    def _takes_bits(self):
        return self.head in ("auto", "bernoulli")

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
        return {"head": head, "order": Order(chosen["order"]), "net": MaskedMLP("net", d, chosen["hidden"], head)}

    def _log_density(self, p, z, c=None):
        x = self._order(z)
        return self._head.log_prob(x, self._net(p, x))

    def _draw(self, p, n, stream, c=None):
        return self._from_noise(p, getattr(stream, self._head.noise)((n, self.n_features_in_), p.flat.dtype, like=p.flat))

    def _from_noise(self, p, noise):
        code = made_sample.NORMAL if self._head.name == "normal" else made_sample.BERNOULLI
        return self._order.undo(self._net.draw(p, noise, code, getattr(self._head, "limit", 0.0)))

    def _represent(self, p, z, c=None):
        x = self._order(z)
        if self._head.name == "bernoulli":
            return self._net.hidden(p, x)
        mean, log_var = self._head.split(self._net(p, x))
        return (x - mean) / std(log_var)

    def _reconstruct(self, p, h, c=None):
        if self._head.name == "normal":
            return self._from_noise(p, h)
        return self._order.undo(self._head.mean(self._net.last(p, h)))
