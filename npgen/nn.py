"""Parameters and networks: a network is a name and sizes; its numbers live in one flat buffer that the optimiser steps.

    Parameters      {name: view of one flat buffer}
    Part            whatever has parameters
    MLP             a multilayer perceptron, masked or not
    MaskedMLP       a masked autoencoder

Legend: n rows, i inputs, j outputs, h hidden units. A network is called with the parameters, as net(params, x): params are
arrays when a model is queried and Tensors while it is fitted.
"""
import functools
import math

import numpy as np

from . import fused, ops
from .kernels import made_sample
from .layout import Layout
from .masks import made_cuts, made_masks
from .ops import _c


class Parameters(dict):
    """Named arrays that are views of one flat buffer, `flat`, at its slices `parts`: writing to either writes to both."""

    def __init__(self, arrays, dtype=None):
        arrays = {name: a if hasattr(a, "dtype") else np.asarray(a) for name, a in arrays.items()}
        ends = np.cumsum([a.size for a in arrays.values()])
        self.parts = {name: slice(int(end) - a.size, int(end)) for (name, a), end in zip(arrays.items(), ends, strict=True)}
        self.flat = np.concatenate([a.ravel() for a in arrays.values()]).astype(dtype or np.result_type(*arrays.values()))
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

    def init(self, z, c, stream):
        """First parameters {name: array} of z's dtype, for rows z (n, d) and their context c (n, w) or None."""
        return {}

    def to(self, place):
        """The same part, its constant arrays where place(array) puts arrays."""
        return self


class MLP(Part):
    """Linear layers of the given widths with a ReLU between them, masked if there are masks (i, j), one per layer.

    Its parameters are one array, `name`: weight and bias of every layer. Weights are drawn from N(0, gain^2 / fan_in), fan_in
    the inputs that the mask leaves, gain sqrt(2) before a ReLU (He et al., 2015) and `last_gain` at the end; biases are zero.
    head: the likelihood head (npgen.heads) that reads the outputs, if one does; it has an order for their draws.
    """

    def __init__(self, name, widths, masks=None, *, last_gain=1.0, head=None):
        self.name, self.widths, self._masks, self.head = name, tuple(widths), masks, head
        self.gains = [math.sqrt(2)] * (len(widths) - 2) + [last_gain]

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

    def init(self, z, c, stream):
        params = np.zeros(self.layout.size, z.dtype)
        for layer, (plan, gain) in enumerate(zip(self.layout.plans, self.gains, strict=True)):
            weight, _ = self.layout.weight_and_bias(params, layer)
            scale = gain / np.sqrt(np.maximum(plan.mask.sum(axis=0), 1))
            drawn = stream.normal(plan.shape, z.dtype)
            if self.head is not None and layer == len(self.gains) - 1:
                drawn = drawn[:, self.head.drawn(plan.shape[1])]
            weight[...] = drawn * plan.mask * scale.astype(z.dtype)
        return {self.name: params}

    def __call__(self, params, x):
        return fused.mlp(x, params[self.name], self.layout)[0]

    def hidden(self, params, x):
        """The last hidden layer (n, h)."""
        units = self.layout.widths[-2]
        return fused.mlp(x, params[self.name], self.layout)[1][-len(x) * units:].reshape(len(x), units)

    def last(self, params, h):
        """The outputs (n, j), given the last hidden layer."""
        layer = len(self.gains) - 1
        return ops.masked_matmul(h, *self.layout.weight_and_bias(params[self.name], layer), self.layout.plans[layer])


def beside(x, c):
    """The inputs of a network that sees rows x (n, d) and their context c (n, w), or None: (n, d + w)."""
    return x if c is None else ops.concatenate([x, c], axis=1)


class MaskedMLP(MLP):
    """A masked autoencoder of d features (masks.made_masks): what the head reads of a feature sees the features before it only.

    hidden: widths of its layers; head: a likelihood head, or an element of npgen.transforms; n_context: columns of context
    behind the features, which all outputs see.
    """

    def __init__(self, name, d, hidden, head, n_context=0, *, last_gain=1.0):
        super().__init__(name, (d + n_context, *hidden, head.n_outputs(d)), last_gain=last_gain, head=head)
        self._made = d, tuple(hidden), n_context

    @functools.cached_property
    def first(self):
        """Where the outputs of each feature begin, and where the last one's end, (d + 1,)."""
        return self.head.first(self._made[0])

    def masks(self):
        *inner, last = made_masks(*self._made)
        return [*inner, np.repeat(last, np.diff(self.first), axis=1)]

    @functools.cached_property
    def cuts(self):
        """masks.made_cuts of its hidden layers."""
        return made_cuts(*self._made)

    def draw(self, params, noise, code, limit=0.0, c=None):
        """The rows (n, d) that noise makes of the outputs, in one pass: kernels/made_sample.py has the noise and the code."""
        d, direct = len(self.first) - 1, np.zeros_like(noise, shape=(0, 0))
        rows = _c(np.zeros_like(noise, shape=(len(noise), 0)) if c is None else c, noise)
        return made_sample.sample(*_c(params[self.name]), self.layout.cut[0], self.cuts, np.arange(d + 1), self.first,
                                  np.full(d, code), direct, *rows, limit)
