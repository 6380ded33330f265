"""MADE: a masked autoencoder whose outputs are the conditionals of an autoregressive density.

    p(x) = prod_d p(x_d | x_1..x_{d-1}),    h_1 = relu(x W_1 + b_1), ..., outputs = h_L W + b

with every weight masked so that output d sees inputs before d only (masks.made_masks). Exact log-density in one pass;
exact samples in one pass too (kernels.made_sample).

Legend: n rows, d features, l hidden units of the last layer.
Reference: Germain, Gregor, Murray & Larochelle, MADE: Masked Autoencoder for Distribution Estimation (2015).
"""
import numpy as np

from ..checks import check_order, check_size, check_widths, one_line, read_only
from ..heads import from_config, head_for
from ..heads.normal import std
from ..kernels import made_sample
from ..masks import made_blind, made_degrees, made_masks
from ..nn import MLP
from ..warn import warn
from .base import Capabilities
from .parametric import GradientModel, warn_of_one_gaussian


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

    def __init__(self, *, hidden=(500,), head="auto", order="random", preprocess="auto", max_epochs=300, batch_size=100,
                 learning_rate=1e-3, validation_fraction=0.1, patience=20, restore_best=True, weight_decay=0.0,
                 callbacks=(), verbose=False, random_state=None):
        self.hidden, self.head, self.order, self.preprocess = hidden, head, order, preprocess
        self.max_epochs, self.batch_size, self.learning_rate = max_epochs, batch_size, learning_rate
        self.validation_fraction, self.patience, self.restore_best = validation_fraction, patience, restore_best
        self.weight_decay, self.callbacks, self.verbose = weight_decay, callbacks, verbose
        self.random_state = random_state

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

    @property
    def order_(self):
        """The columns in the order of the factorisation, (d,)."""
        return read_only(self._order)

    def _build(self, z):
        d = z.shape[1]
        self.head_ = head_for(self.head, z)
        self._order, self.hidden_ = self._choose_order(d), check_widths("hidden", self.hidden)
        if not self.hidden_:
            raise ValueError(f"hidden must name at least one layer, got {self.hidden!r}; for example hidden=(500,)")
        self._assemble(d)
        if d == 1 and self.head_.name == "normal":
            warn_of_one_gaussian(self)
        if blind := len(made_blind(d, self.hidden_)):
            warn(f"fit: hidden={self.hidden_} is too narrow for {blind} of the {d} conditionals to see every column before "
                 f"them; make each hidden layer at least {d - 1} wide")

    def _assemble(self, d):
        hidden, self._natural = self.hidden_, np.array_equal(self.order_, np.arange(d))
        *inner, last = made_masks(d, hidden)
        self._first_outputs = self.head_.first(d)
        masks = [*inner, np.repeat(last, np.diff(self._first_outputs), axis=1)]
        self._net = MLP("net", (d, *hidden, self.head_.n_outputs(d)), masks, head=self.head_)
        degrees = made_degrees(d, hidden)[1:]
        self._cuts = np.array([np.searchsorted(m, np.arange(d + 1), side="right") for m in degrees], dtype=np.int64)

    def _choose_order(self, d):
        if isinstance(self.order, str):
            if self.order not in ("natural", "random"):
                raise ValueError(f"order must be 'natural', 'random' or a permutation, got {self.order!r}")
            return np.arange(d) if self.order == "natural" else self.stream_.spawn().permutation(d)
        order = np.asarray(self.order)
        if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(d)):
            raise ValueError(f"order must hold every column number 0..{d - 1} once, got {one_line(self.order)}")
        return order.astype(np.int64)

    def _init(self, z, stream):
        return self._net.init(stream, z.dtype)

    def _in_order(self, z):
        """The columns in the order of the factorisation."""
        return z if self._natural else np.take(z, self._order, axis=1)

    def _reordered(self, x):
        """The inverse of _in_order."""
        z = np.empty_like(x)
        z[:, self._order] = x
        return z

    def _move(self):
        super()._move()
        self._order = self._place(self._order)

    def _log_density(self, params, z):
        x = self._in_order(z)
        return self.head_.log_prob(x, self._net(params, x))

    def _loss(self, params, z, stream):
        return -self._log_density(params, z)

    def _draw_rows(self, params, n, stream):
        shape = (n, len(self._order))
        noise = getattr(stream, self.head_.noise)(shape, params.flat.dtype, like=params.flat)
        return self._from_noise(params, noise)

    def _from_noise(self, params, noise):
        limit = getattr(self.head_, "limit", 0.0)
        return self._reordered(made_sample.sample(params[self._net.name], self._net.layout.cut[0], self._cuts,
                                                  self._first_outputs, noise, limit))

    def _represent(self, params, z):
        x = self._in_order(z)
        if self.head_.name == "bernoulli":
            return self._net.hidden(params, x)
        mean, log_var = self.head_.split(self._net(params, x))
        return (x - mean) / std(log_var)

    def _reconstruct(self, params, h):
        if self.head_.name == "normal":
            return self._from_noise(params, h)
        return self._reordered(self.head_.mean(self._net.last(params, h)))

    def _state(self):
        arrays, fitted = super()._state()
        return arrays | {"order_": self.order_}, fitted | {"head_": self.head_.config(), "hidden_": self.hidden_}

    def _restore(self, arrays, fitted):
        super()._restore(arrays, fitted)
        self._order, self.hidden_, self.head_ = arrays["order_"], tuple(fitted["hidden_"]), from_config(fitted["head_"])
        d = self.n_features_in_
        check_order(self.order_, d)
        check_size(self.params_["net"], (d, *self.hidden_, self.head_.n_outputs(d)))
        self._assemble(d)
