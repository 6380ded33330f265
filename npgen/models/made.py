"""MADE: a masked autoencoder whose outputs are the conditionals of an autoregressive density.

    p(x) = prod_d p(x_d | x_1..x_{d-1}),    h_1 = relu(x W_1 + b_1), ..., outputs = h_L W + b (+ x A)

with every weight masked so that output d sees inputs before d only (masks.made_masks). Exact log-density in one pass;
exact samples in one pass too (kernels.made_sample). One network may serve several orders of the columns: its weights are put
into the order and masked anew, and the density is the mean of those of its orders.

Legend: n rows, d features, w columns of context, l hidden units of the last layer, m orders, s columns that are known.
References: Germain, Gregor, Murray & Larochelle, MADE: Masked Autoencoder for Distribution Estimation (2015); Uria, Murray &
Larochelle, A deep and tractable density estimator (2014), for training on every order.
"""
import functools
import math

import numpy as np

from .. import ops
from ..checks import check_order, check_widths, one_line
from ..heads import MixtureOfNormals, from_config, has_missing, head_for, untouched
from ..heads.normal import std
from ..kernels._cuda import asnumpy, is_device_array
from ..masks import made_blind
from ..nn import MaskedMLP, Part, beside
from ..random import as_stream, row_streams
from ..tensor import value_of
from ..transforms import Chain
from ..warn import warn
from .base import Capabilities, Follows
from .conditional import WAYS, Conditional, Conditions, Within, columns_of
from .gradient import GradientModel, warn_of_one_gaussian

MONITORED = 256     # rows of those held out at once, while a fit holds its gradient and what Adam has seen of it, too
UNITS = 2**20       # values of rows times units of the network at once, in a query


class Order(Part):
    """The columns of data (n, d) in the order of a factorisation, and back."""

    def __init__(self, order, here=None):
        self.order, self._here = order, order if here is None else here  # on the host, and where the model computes
        self.natural = bool((order[1:] > order[:-1]).all())

    def to(self, place):
        return Order(self.order, place(self.order))

    def _index(self, x):
        return self._here if is_device_array(self._here) == is_device_array(x) else np.asarray(self.order, like=x)

    def take(self, x):
        """The columns in this order."""
        return x if self.natural else np.take(x, self._index(value_of(x)), axis=1)

    @functools.cached_property
    def inverse(self):
        """The order that takes the columns back."""
        return Order(np.argsort(self.order), np.argsort(self._here))

    def undo(self, z):
        """The columns of take's answer in their own order."""
        return self.inverse.take(z)


class Orders(Part):
    """The orders (m, d) of the columns that a density is the mean of."""

    def __init__(self, orders):
        self._orders = [Order(order) for order in orders]

    def to(self, place):
        moved = Orders(())
        moved._orders = [order.to(place) for order in self._orders]
        return moved

    def __len__(self):
        return len(self._orders)

    def __getitem__(self, k):
        return self._orders[k]


class MADE(Conditions, GradientModel):
    """Masked autoencoder density: p(x) = prod_d p(x_d | x_<d), exact, with one-pass sampling.

    hidden         widths of the ReLU layers, one or more; d - 1 or wider, or some conditionals do not see every column before
                   them, of which fit warns
    head           what the columns are: "normal", "mixture" (of ten normals), "bernoulli" (0 or 1), "poisson" (counts),
                   "categorical" (whole numbers, of which those that are there are its levels), a head of npgen.heads, such as
                   MixtureOfNormals(3) or Categorical(levels), or a list of one for each column; "auto": Bernoulli for data of
                   0 and 1, normal for others, and of a DataFrame what each column calls for (models/choice.py): also Grid,
                   Mapped, Atoms, with a state for missing values, and Pooled of npgen.heads
    order          "natural", "random", "levels", or a permutation of the columns: the order of the factorisation; "levels":
                   those of which fewer values differ come first, so that a column of thousands of levels is predicted by the
                   others and none by it; "any": every training step draws another, so that condition and impute answer for
                   any subset of the columns
    n_masks        orders that the density is the mean of, p(x) = 1/m sum_k p_k(x), drawn once; training goes through them step
                   by step, unless order is "any"
    direct         whether outputs see the inputs before them directly, too
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the noise (x_d - mean_d) / std_d (n, d), which decode inverts exactly, under a normal head and one order, and
    else what the outputs are a linear map of: the last hidden layer's features (n, l), and with direct=True the inputs behind
    them, in the first order; from these decode gives the means of the conditionals, E[x_d | x_<d].
    Attribute: order_ (d,), or (m, d) of several, the columns in the order of the factorisation.
    Reference: Germain et al. (2015).
    """

    hidden: tuple = (500,)
    head: object = "auto"
    order: object = "random"
    n_masks: int = 1
    direct: bool = False
    _takes_context = holds_levels = _missing_states = True
    _line = MixtureOfNormals()
    hidden_, order_, any_order_, direct_ = Follows(), Follows(), Follows(), Follows()

    @property
    def _asked(self):
        """head, but "auto" of a DataFrame as its schema says."""
        auto = isinstance(self.head, str) and self.head == "auto"
        return self._found if auto and self._found is not None else self.head

    @property
    def _untouched(self):
        return untouched(self._asked)

    @property
    def takes_missing(self):
        return has_missing(self._asked) or has_missing(self.head_)

    @property
    def _capabilities(self):
        if self._gives_noise:
            return Capabilities("exact", "noise", invertible=True)
        more = ", and the inputs" if getattr(self, "direct_", self.direct) else ""
        return Capabilities("exact", f"features of the last hidden layer{more}", invertible=False)

    @property
    def _gives_noise(self):
        return self.head_ is not None and self.head_.name == "normal" and len(self._orders) == 1 and not self._parts["net"].free

    @property
    def n_latent_(self):
        if self._gives_noise:
            return self.n_features_in_
        return self.hidden_[-1] + (int(self._net.seen.sum()) if self.direct_ else 0)

    def _choose(self, z, c, stream):
        d, head, hidden = z.shape[1], head_for(self._asked, z), check_widths("hidden", self.hidden)
        order = self._choose_order(z, stream)
        if not hidden:
            raise ValueError(f"hidden must name at least one layer, got {self.hidden!r}; for example hidden=(500,)")
        if d == 1 and head.name == "normal":
            warn_of_one_gaussian(self)
        if blind := len(made_blind(d, hidden, 0 if c is None else c.shape[1])):
            warn(f"fit: hidden={hidden} is too narrow for {blind} of the {d} conditionals to see every column before "
                 f"them; make each hidden layer at least {d - 1} wide")
        return {"head": head.config(), "hidden": hidden, "order": order, "direct": bool(self.direct),
                "any_order": isinstance(self.order, str) and self.order == "any"}

    def _choose_order(self, z, stream):
        (m,), d = check_widths("n_masks", (self.n_masks,)), z.shape[1]
        if isinstance(self.order, str):
            alone = self.order in ("natural", "levels")
            if not alone and self.order not in ("random", "any") or alone and m > 1:
                raise ValueError(f"order must be 'natural' or 'levels' (of which there is one), 'random', 'any' or a "
                                 f"permutation, got {self.order!r} with n_masks={m}")
            if alone:
                few = [len(np.unique(column)) for column in asnumpy(z).T] if self.order == "levels" else np.arange(d)
                return np.argsort(few, kind="stable")
            stream = stream.spawn()
            return stream.permutation(d) if m == 1 else np.stack([stream.permutation(d) for _ in range(m)])
        order = np.asarray(self.order)
        if order.dtype.kind not in "iu" or order.shape[-1:] != (d,) or order.shape not in ((d,), (m, d)) or not np.array_equal(
                np.sort(order), np.broadcast_to(np.arange(d), order.shape)):
            raise ValueError(f"order must hold every column number 0..{d - 1} once, got {one_line(self.order)}")
        return order.astype(np.int64)

    def _assemble(self, d, w, chosen):
        orders, head = np.atleast_2d(chosen["order"]), from_config(chosen["head"])
        any_order, direct = (bool(chosen.setdefault(name, False)) for name in ("any_order", "direct"))  # older files have none
        for order in orders:
            check_order(order, d)
        free = any_order or len(orders) > 1
        net = MaskedMLP("net", d, chosen["hidden"], head, w, order=None if free else orders[0], direct=direct,
                        free=free)
        return {"head": head, "net": net, "orders": Orders(orders)}

    # ------------------------------------------------------------ density

    def _log_density_in(self, p, z, c, order):
        """(n,) nats in one order of the factorisation."""
        net, x = self._net.of(order.order), order.take(z)
        return net.head.log_prob(x, net(self._net.ordered(p, order.order), beside(net.inputs(x), c)))

    def _log_density(self, p, z, c=None):
        each = [self._log_density_in(p, z, c, order) for order in self._orders]
        return each[0] if len(each) == 1 else ops.logsumexp(np.stack(each, axis=1)) - math.log(len(each))

    def _loss(self, p, z, stream, c=None):
        if not self._net.free:
            return -self._log_density(p, z, c)
        if self.any_order_:
            return -self._log_density_in(p, z, c, Order(stream.spawn().permutation(self.n_features_in_)))
        return -self._log_density_in(p, z, c, self._orders[stream.spawn().choose(len(self._orders))])

    def _monitor(self, p, batch, stream):
        """What is held out is scored by the density, not in one order; on the host in parts, which take little memory."""
        x, c, size = batch.x, batch.context, len(batch.x) if is_device_array(batch.x) else MONITORED
        return -np.concatenate([self._log_density(p, x[i:i + size], c if c is None else c[i:i + size])
                                for i in range(0, len(x), size)])

    @property
    def _rows_per_call(self):
        if self._device != "cpu":
            return super()._rows_per_call
        units = self._net.widths[0] + sum(self.hidden_) + self._net.widths[-1]
        return min(super()._rows_per_call, max(64, UNITS // units // self._multiple * self._multiple))

    # ------------------------------------------------------------ samples

    def _noise(self, n, stream, like, order):
        """What the head of columns in this order makes n rows of."""
        return self._net.of(order.order).head.noise(stream, (n, self.n_features_in_), like.dtype, like=like)

    def _draw(self, p, n, stream, c=None):
        if len(self._orders) == 1:
            return self._from_noise(p, self._noise(n, stream, p.flat, self._orders[0]), c, self._orders[0])
        chosen = (stream.spawn().uniform(n) * len(self._orders)).astype(int)
        x = np.empty_like(p.flat, shape=(n, self.n_features_in_))
        for k, order in enumerate(self._orders):
            (rows,) = np.nonzero(np.asarray(chosen == k, like=x))
            noise = self._noise(n, stream.spawn(), x, order)[rows]  # a row is the same, however many there are
            x[rows] = self._from_noise(p, noise, None if c is None else c[rows], order)
        return x

    def _from_noise(self, p, noise, c, order):
        """The rows that noise, in the order of the factorisation, stands for."""
        return order.undo(self._net.of(order.order).sample(self._net.ordered(p, order.order), noise, c))

    # ------------------------------------------------------------ representation

    def _represent(self, p, z, c=None):
        order = self._orders[0]
        net, p, x = self._net.of(order.order), self._net.ordered(p, order.order), order.take(z)
        if not self._gives_noise:
            h = net.hidden(p, beside(net.inputs(x), c))
            return beside(h, net.inputs(x)) if self.direct_ else h
        mean, log_var = net.head.split(net(p, beside(net.inputs(x), c)))
        return (x - mean) / std(log_var)

    def _reconstruct(self, p, h, c=None):
        order = self._orders[0]
        if self._gives_noise:
            return self._from_noise(p, h, c, order)
        net, p, width = self._net.of(order.order), self._net.ordered(p, order.order), self.hidden_[-1]
        outputs = net.last(p, np.copy(h[:, :width]))
        if self.direct_:
            outputs = outputs + net.skip(p, np.copy(beside(h[:, width:], c)))
        return order.undo(net.head.mean(outputs))

    # ------------------------------------------------------------ some of the columns

    def condition(self, columns, values=None, *, context=None):
        """p(x_m | x_s) of the other columns, in their order, given the values (s,) of some: a Conditional.

        columns: numbers; or of a model of a DataFrame {name: value, or (low, high) for an interval}, None for an open end. A
        value of None, or NaN, says that it is missing, in a column that rows of fit missed.

        The columns have to come first in an order of the factorisation: in one of order_, or with order="any" in one that is
        made for them. It is the exact conditional of that order's density. That is log_prob's where order_ is one order and
        they come first in it; else log_prob is the mean of other orders' densities, which training draws near to this one, but
        whose own conditional is a sum over all values of the missing columns. Of intervals models.conditional.Within says what
        is exact, and its density and sampling are "exact" or "estimate"; order="any" has columns with levels before numbers.
        Raises ValueError where they do not come first, for columns that X does not have, or twice, and for values of another
        shape, infinities, and NaN in a column that none missed.
        """
        self._check_fitted("condition")
        columns, values, within = self._known("condition", columns, values)
        if within:
            return self._within(columns, values, within, context)
        columns, others, values = columns_of(self, "condition", columns, values)
        known = np.full((1, self.n_features_in_), np.nan, values.dtype)
        known[0, columns] = values
        self._entered("condition", known)
        return Conditional(self, columns, others, values, self._order_from("condition", columns), context)

    def _within(self, columns, values, within, context):
        """condition, where some columns are given intervals, {number: (low, high)}."""
        if self.preprocess_.inner or type(self.preprocess_) is not Chain:
            raise ValueError(f"condition: this {type(self).__name__} lives behind preprocess={self.preprocess!r}, which "
                             "intervals do not go through; fit it with head='auto', or give a value")
        others = np.setdiff1d(np.arange(self.n_features_in_), [*columns, *within])
        if not len(others):
            raise ValueError("condition: columns must not be all there are; leave at least one")
        known = np.full((1, self.n_features_in_), np.nan, self.dtype_)
        known[0, columns] = values
        self._entered("condition", known)
        levels, ways = {}, 1
        for j, (low, high) in within.items():
            points = self.head_.at(j).support()
            inside = [] if points is None else points[(low <= points) & (points <= high)]
            if points is not None and ways * len(inside) <= WAYS:
                levels[j], ways = inside, ways * len(inside)
        columns, values = np.array(columns, int), np.asarray(values, self.dtype_)
        known = [*columns, *levels, *(j for j in within if j not in levels)]
        order = self._first_in_order(known) if self.any_order_ else self._order_from("condition", known)
        return Within(self, columns, others, values, order, within, levels, context)

    def impute(self, X, *, context=None, n=None, rng=None):
        """X (n, d) with every missing value (NaN) replaced by a draw, given the row's other values.

        By the exact conditional of an order that has those columns first, which is log_prob's density or not as condition
        says. rng: None for draws by noise that is a function of the row; an int, SeedSequence, Generator or npgen.random.Stream
        for others. n: so many tables of draws, a list; rng is 0 then unless it is given.
        Raises ValueError where they do not, for rows of another width, and infinities.
        """
        if n is not None:
            return self._imputations(X, n, rng, context=context)
        x = super(GradientModel, self)._check("impute", X, missing=True)
        c = self._check_context("impute", context, x)
        return self._filled_in(X, self._imputed(x, c, None if rng is None else as_stream(rng)))

    def _entered(self, method, x):
        """Rows with missing values behind the preprocessing, on the host. Raises ValueError for what the head cannot take."""
        maps, holes = self.preprocess_.to(asnumpy), np.isnan(x)
        middle = maps.data(None, np.zeros((1, x.shape[1]), x.dtype))
        z = np.where(holes, np.nan, maps.to_noise(None, np.where(holes, middle, x))[0])
        self._check_head(method, x, z)
        return z

    def _imputed(self, x, c, stream):
        holes, full, z = np.isnan(x), x.copy(), self._entered("impute", x)
        for pattern in np.unique(holes[holes.any(axis=1)], axis=0):
            rows, known = np.flatnonzero((holes == pattern).all(axis=1)), np.flatnonzero(~pattern)
            order, s = self._order_from("impute", known), len(known)
            drawn = self._rowwise(lambda both, c, s=s, order=order: self._completed(both, c, s, order, seen=True),
                                  np.concatenate([order.take(z[rows])[:, :s], self._noises(x[rows], stream, order)], axis=1),
                                  None if c is None else c[rows])
            full[rows] = np.where(pattern, drawn, x[rows])
        return full

    def _noises(self, x, stream, order):
        """Noise for rows x, from a stream, or of each row by itself."""
        if stream is not None:
            return self._noise(len(x), stream, x, order)
        return np.concatenate([self._noise(1, own, x[:0], order) for own in row_streams(x)])

    def _completed(self, both, c, s, order, seen=False):
        """Rows in the data's space, of their first s columns in the order and noise, side by side; seen: none drawn missing."""
        known, noise, p = np.copy(both[:, :s]), np.copy(both[:, s:]), self._at(both.dtype)
        net = self._net.of(order.order)
        z = (net.seen_alone() if seen else net).sample(self._net.ordered(p, order.order), noise, c, known)
        return self.preprocess_.data(None, order.undo(z))

    def _order_from(self, method, columns):
        """An order that has these columns first."""
        for order in self._orders:
            if set(order.order[:len(columns)].tolist()) == set(np.asarray(columns).tolist()):
                return order
        if self.any_order_:
            return self._first_in_order(columns)
        shown = [self._names[j] for j in columns] if self._names else np.asarray(columns).tolist()
        raise ValueError(f"{method}: columns {one_line(shown)} do not come first in the order of this MADE's factorisation; "
                         "fit it with order='any', or with an order that begins with them")

    def _first_in_order(self, columns):
        """The order of these columns, then of the others as they come in the first one."""
        return Order(np.concatenate([columns, [j for j in self._orders[0].order if j not in columns]]).astype(np.int64))

    def _conditional_log_prob(self, x, order, s, context):
        """log p(x_m | x_s) of checked rows (n, d), given the first s columns in an order."""
        if self.preprocess_.inner or type(self.preprocess_) is not Chain:
            raise ValueError(f"log_prob: this {type(self).__name__} lives behind preprocess={self.preprocess!r}, by which some "
                             "columns have no density of their own; fit it with preprocess=None, or draw samples")

        def of_rows(x, c):
            net, p, z = self._net.of(order.order), self._net.ordered(self._at(x.dtype), order.order), order.take(x)
            outputs = net(p, beside(net.inputs(z), c))
            return net.head.of(np.arange(s, z.shape[1])).log_prob(z[:, s:], outputs[:, net.first[s]:])

        return self._rowwise(of_rows, x, self._check_context("log_prob", context, x))
