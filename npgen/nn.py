"""Parameters and networks: a network is a name and sizes; its numbers live in one flat buffer that the optimiser steps.

    Parameters      {name: view of one flat buffer}
    Part            whatever has parameters
    MLP             a multilayer perceptron, masked or not
    MaskedMLP       a masked autoencoder

Legend: n rows, i inputs, j outputs, h hidden units. A network is called with the parameters, as net(params, x): params are
arrays when a model is queried and Tensors while it is fitted.
"""
import copy
import functools
import math

import numpy as np

from . import fused, ops
from .kernels import aligned, made_sample
from .kernels._cuda import constant_like, is_device_array
from .layout import Layout
from .masks import Plan, made_cuts, made_direct, made_masks, places
from .ops import contiguous
from .tensor import value_of

FEW = 8           # of so many values one that is not 0: those are added alone


class Parameters(dict):
    """Named arrays that are views of one flat buffer, `flat`, at its slices `parts`: writing to either writes to both."""

    def __init__(self, arrays, dtype=None):
        arrays = {name: a if hasattr(a, "dtype") else np.asarray(a) for name, a in arrays.items()}
        ends = np.cumsum([a.size for a in arrays.values()])
        self.parts = {name: slice(int(end) - a.size, int(end)) for (name, a), end in zip(arrays.items(), ends, strict=True)}
        flat = np.concatenate([a.ravel() for a in arrays.values()])
        self.flat = aligned(flat.astype(dtype or np.result_type(*arrays.values()), copy=False))
        super().__init__({name: self.flat[part].reshape(arrays[name].shape) for name, part in self.parts.items()})

    def span(self, names):
        """The slice of `flat` that these fill. Raises ValueError unless they are there, one after the other."""
        order = list(self)
        first = order.index(names[0]) if names and names[0] in self else 0
        if not names or list(names) != order[first:first + len(names)]:
            raise ValueError(f"{', '.join(names)} are no parameters that follow one another among {', '.join(order)}")
        return slice(self.parts[names[0]].start, self.parts[names[-1]].stop)

    def __reduce__(self):
        return Parameters, (dict(self),)  # what is copied or unpickled are views of a buffer of their own

    def over(self, flat):
        """The same names and shapes over another flat buffer."""
        other = Parameters.__new__(Parameters)
        other.parts, other.flat = self.parts, flat
        other.update({name: flat[part].reshape(self[name].shape) for name, part in self.parts.items()})
        return other

    def copy(self, dtype=None):
        """The same parameters in a buffer of their own, in another dtype if one is given."""
        return Parameters(self, dtype or self.flat.dtype)

    def to(self, place):
        """The same parameters in a buffer that lies where place(array) puts arrays."""
        return Parameters({name: place(a) for name, a in self.items()}, self.flat.dtype)


class Part:
    """Whatever has parameters, which are called by full names: it knows their shapes and first values, and holds none itself.

    A subclass that has parameters writes shapes and init, and one that has constant arrays writes to.
    """

    def shapes(self):
        """{name: shape} of its parameters: of integers alone, so that a file is held against it before anything is made."""
        return {}

    def init(self, z, c, stream, weights=None):
        """First parameters {name: array} of z's dtype, for rows z (n, d), their context c (n, w) or None, and weights (n,)."""
        return {}

    def query_shapes(self):
        """{name: shape} of what a query's parameters have: those that were learned, and statistics of the training rows."""
        return self.shapes()

    def to(self, place):
        """The same part, its constant arrays where place(array) puts arrays."""
        return self


class MLP(Part):
    """Linear layers of the given widths with a ReLU between them, masked if there are masks (i, j), one per layer.

    Its parameters are one array, `name`: weight and bias of every layer. Weights are drawn from N(0, gain^2 / fan_in), fan_in
    the inputs that the mask leaves, gain sqrt(2) before a ReLU (He et al., 2015) and `last_gain` at the end; biases are zero.
    head: the likelihood head (npgen.heads) that reads the outputs, if one does. The last layer's weights are zero then and its
    bias is Head.initial, so that training begins at the rows' marginals, each column by itself: on few rows of many columns
    what outputs of N(0, 1) say of a column is never quite unlearned. On 500 rows of 500 columns of words the density of a held
    out row is 10 of 188 nats better, and of all gains (1, 0.3, 0.1, 0) the least was best, or as good, on every table tried.
    """

    def __init__(self, name, widths, masks=None, *, last_gain=1.0, head=None):
        self.name, self.widths, self._masks, self.head = name, tuple(widths), masks, head
        self.gains = [math.sqrt(2)] * (len(widths) - 2) + [last_gain if head is None else 0.0]

    def masks(self):
        """The masks (i, j) of its layers, or None."""
        return self._masks

    @functools.cached_property
    def layout(self):
        """How its parameters lie in their array (npgen.layout.Layout)."""
        return Layout(self.widths, self.masks())

    def shapes(self):
        if any(type(width) is not int or width < 0 for width in self.widths):
            raise ValueError(f"a network has widths {self.widths}"[:200])
        return {self.name: (sum((i + 1) * j for i, j in zip(self.widths, self.widths[1:], strict=False)),)}

    def init(self, z, c, stream, weights=None):
        params = np.zeros(self.layout.size, z.dtype)
        for layer in range(len(self.gains)):
            self.layout.weight_and_bias(params, layer)[0][...] = self._first_weight(layer, z, stream)
        if self.head is not None:
            self.last_layer({self.name: params})[1][...] = self.head.initial(z, weights)
        return {self.name: params}

    def _first_weight(self, layer, z, stream):
        plan, gain = self.layout.plans[layer], self.gains[layer]
        scale = (gain / np.sqrt(np.maximum(plan.mask.sum(axis=0), 1))).astype(z.dtype)
        return stream.normal(plan.shape, z.dtype) * plan.mask * scale

    def __call__(self, params, x):
        return fused.mlp(x, params[self.name], self.layout)[0]

    def with_slope(self, params, x):
        """The output (n, 1) of a network of one, and its derivative by the inputs (n, i)."""
        return fused.mlp_with_slope(x, params[self.name], self.layout)

    def hidden(self, params, x):
        """The last hidden layer (n, h)."""
        units = self.layout.widths[-2]
        return fused.mlp(x, params[self.name], self.layout)[1][-len(x) * units:].reshape(len(x), units)

    def last(self, params, h):
        """The outputs (n, j), given the last hidden layer."""
        return ops.masked_matmul(h, *self.last_layer(params), self.layout.plans[-1])

    def last_layer(self, params):
        """The weight (h, j) and bias (j,) of the last layer, views of the parameters."""
        return self.layout.weight_and_bias(params[self.name], len(self.gains) - 1)


def beside(x, c):
    """The inputs of a network that sees rows x (n, d) and their context c (n, w), or None: (n, d + w)."""
    return x if c is None else ops.concatenate([x, c], axis=1)


class MaskedMLP(MLP):
    """A masked autoencoder of d features (masks.made_masks): what the head reads of a feature sees the features before it only.

    hidden: widths of its layers; head: a likelihood head, or an element of npgen.transforms; order: in which the network has
    the head's columns, None as they are; n_context: columns of context behind the features, which all outputs see. direct:
    outputs see the inputs before them directly too, by a matrix `name.direct`, zero at first. free: the network serves any
    order of the features: its weights have them in their own order, no mask is on them, and `ordered` puts them into an order
    and masks them.
    """

    def __init__(self, name, d, hidden, head, n_context=0, *, order=None, direct=False, free=False):
        head = head if order is None else head.of(order)
        self.seen = head.n_inputs(d) if hasattr(head, "n_inputs") else np.ones(d, np.int64)  # inputs of each feature
        super().__init__(name, (int(self.seen.sum()) + n_context, *hidden, head.n_outputs(d)), head=head)
        self._made, self.order, self.direct, self.free = (d, tuple(hidden), n_context), order, direct, free
        self._flat_masks = {}

    def __getstate__(self):
        return self.__dict__ | {"_flat_masks": {}}

    def inputs(self, x):
        """What the network sees of rows x (n, d): the features, of levels an indicator each."""
        return self.head.inputs(x) if hasattr(self.head, "inputs") else x

    @functools.cached_property
    def first_inputs(self):
        """Where the inputs of each feature begin, and where the last one's end, (d + 1,)."""
        return np.cumsum(np.concatenate([[0], self.seen]))

    @functools.cached_property
    def first(self):
        """Where the outputs of each feature begin, and where the last one's end, (d + 1,)."""
        return self.head.first(self._made[0])

    @property
    def _inputs_each(self):
        """How many inputs each feature has, and each column of context."""
        return np.concatenate([self.seen, np.ones(self._made[2], np.int64)])

    def masks(self):
        first, *inner, last = made_masks(*self._made)
        return [np.repeat(first, self._inputs_each, axis=0), *inner, np.repeat(last, np.diff(self.first), axis=1)]

    @functools.cached_property
    def direct_plan(self):
        """The plan of the matrix from inputs to outputs."""
        d, _, n_context = self._made
        mask = made_direct(d, n_context)
        return Plan(np.repeat(np.repeat(mask, np.diff(self.first), axis=1), self._inputs_each, axis=0))

    @functools.cached_property
    def cuts(self):
        """masks.made_cuts of its hidden layers."""
        return made_cuts(*self._made)

    def shapes(self):
        more = {f"{self.name}.direct": (self.widths[0], self.widths[-1])} if self.direct else {}
        return super().shapes() | more

    def init(self, z, c, stream, weights=None):
        more = {f"{self.name}.direct": np.zeros((self.widths[0], self.widths[-1]), z.dtype)} if self.direct else {}
        return super().init(z if self.order is None else z[:, self.order], c, stream, weights) | more

    def _first_weight(self, layer, z, stream):
        if not self.free or layer:
            return super()._first_weight(layer, z, stream)
        plan = self.layout.plans[0]
        inputs = max(plan.mask.sum(axis=0).mean(), 1)  # what an order leaves of them, on average
        return stream.normal(plan.shape, z.dtype) * z.dtype.type(self.gains[0] / math.sqrt(inputs))

    def __call__(self, p, x):
        outputs = super().__call__(p, x)
        return outputs + self.skip(p, x) if self.direct else outputs

    def skip(self, p, x):
        """What the inputs give to the outputs directly, (n, j)."""
        weight = p[f"{self.name}.direct"]
        return ops.masked_matmul(x, weight, np.zeros_like(weight, shape=(self.widths[-1],)), self.direct_plan)

    # orders of the features

    def of(self, order):
        """The network of features in this order, for parameters that `ordered` gives."""
        head = self.head.of(order) if self.free else self.head
        d, hidden, n_context = self._made
        return self if head is self.head else MaskedMLP(self.name, d, hidden, head, n_context, direct=self.direct)

    def seen_alone(self):
        """The network whose head draws no missing value."""
        if not np.any(getattr(self.head, "missing", False)):
            return self
        other = copy.copy(self)
        other.head = self.head.seen()
        return other

    def ordered(self, p, order):
        """The parameters of a free network for features in this order, masked; of another network, its own."""
        if not self.free:
            return p
        like, n_features = value_of(p[self.name]), int(self.seen.sum())
        rows = np.concatenate([places(self.first_inputs, order), n_features + np.arange(self._made[2])])
        columns = places(self.first, order)
        found = {self.name: _shuffled(p[self.name], rows, columns, self.layout) * self.of(order).flat_mask(like)}
        if self.direct:
            found[f"{self.name}.direct"] = np.take(np.take(p[f"{self.name}.direct"], constant_like(rows, like), axis=0),
                                                   constant_like(columns, like), axis=1)
        return found

    def flat_mask(self, like):
        """The masks of all weights, and ones for biases, as they lie in the flat array; of its dtype, and where it lies."""
        key = like.dtype, is_device_array(like)
        if key not in self._flat_masks:
            flat = np.ones(self.layout.size, like.dtype)
            for layer, plan in enumerate(self.layout.plans):
                self.layout.weight_and_bias(flat, layer)[0][...] = plan.mask
            self._flat_masks[key] = np.asarray(flat, like=like)
        return self._flat_masks[key]

    def draw(self, p, noise, codes, limits=math.inf, c=None, known=None):
        """The rows (n, d) that noise makes of the outputs, given their first columns, in one pass: kernels/made_sample.py."""
        d, none = self._made[0], np.zeros_like(noise, shape=(len(noise), 0))
        direct = p[f"{self.name}.direct"] if self.direct else np.zeros_like(noise, shape=(0, 0))
        limits = constant_like(np.broadcast_to(limits, d).astype(noise.dtype), noise)
        return made_sample.sample(*contiguous(p[self.name]), self.layout.cut[0], self.cuts, self.first_inputs, self.first,
                                  np.broadcast_to(codes, d).astype(np.int64), *contiguous(direct, none if c is None else c,
                                                                        none if known is None else known, noise), limits)

    @functools.cached_property
    def _codes(self):
        """How the kernel draws each feature, (d,); None where it does not know a head."""
        codes = self.head.codes(self._made[0])
        return None if None in codes else np.array(codes, dtype=np.int64)

    def sample(self, p, noise, c=None, known=None):
        """The rows (n, d), in the network's order, that a head's noise stands for, given context and first columns (n, s)."""
        head, d, s = self.head, self._made[0], 0 if known is None else known.shape[1]
        if self._codes is None:
            return self._sample_apart(p, noise, c, known if s else noise[:, :0])
        known = head.of(np.arange(s)).numbers(known) if s else None
        return head.values(self.draw(p, noise, self._codes, head.limits(d), c, known))

    def _sample_apart(self, p, noise, c, known):
        """sample for heads that the kernel does not know, by its steps: a complete unit is added to those that see it."""
        head, d, last = self.head, self._made[0], len(self.gains) - 1
        x, inputs, noises = np.zeros_like(noise, shape=(len(noise), d)), self.first_inputs, head.first_noise(d)
        weights, biases = zip(*(self.layout.weight_and_bias(p[self.name], k) for k in range(last + 1)), strict=True)
        sums = [np.zeros_like(noise, shape=(len(noise), len(bias))) + bias for bias in biases]
        x[:, :known.shape[1]], c = known, noise[:, :0] if c is None else c
        for j in range(-1, d):  # -1: the context, and the units that see no column
            if j >= known.shape[1]:
                own = noise[:, noises[j]:noises[j + 1]]
                x[:, j] = head.of([j]).sample(own, sums[last][:, self.first[j]:self.first[j + 1]])[:, 0]
            new, at = (c, inputs[d]) if j < 0 else (head.of([j]).inputs(x[:, [j]]), inputs[j])
            if self.direct:
                _add(new, p[f"{self.name}.direct"][at:], sums[last], 0 if j < 0 else self.first[j + 1])
            for layer in range(last + 1):
                see = 0 if j < 0 else self.cuts[layer, j] if layer < last else self.first[j + 1]
                _add(new, weights[layer][at:], sums[layer], see)
                if layer < last:
                    new, at = np.maximum(sums[layer][:, see:self.cuts[layer, j + 1]], 0), see
        return x


def _add(values, weight, sums, see):
    """sums += values weight, from the output `see` on: by rows of the weight, so that a row's bits depend on no other row."""
    for k in range(values.shape[1]):
        (rows,) = np.nonzero(values[:, k])
        rows = rows if len(rows) < len(values) / FEW else slice(None)  # of a level's indicator most are 0
        sums[rows, see:] += values[rows, k][:, None] * weight[k, see:]


def _shuffle(flat, rows, columns, layout):
    """The parameters of a network whose inputs come in the order `rows`, and outputs in the order `columns`."""
    out, last = flat.copy(), len(layout.plans) - 1
    rows, columns = (constant_like(a, flat) for a in (rows, columns))
    layout.weight_and_bias(out, 0)[0][...] = layout.weight_and_bias(flat, 0)[0][rows]
    for new, old in zip(layout.weight_and_bias(out, last), layout.weight_and_bias(flat, last), strict=True):
        new[...] = old[..., columns]
    return out


_shuffled = ops.op(_shuffle, lambda ans, flat, rows, columns, layout:
                   lambda g: _shuffled(g, np.argsort(rows), np.argsort(columns), layout), name="shuffled")
