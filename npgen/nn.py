"""Parameters and networks: a network is a name and sizes; its numbers live in one flat buffer that the optimiser steps.

    Parameters      {name: view of one flat buffer}
    MLP             a multilayer perceptron, masked or not

Legend: n rows, i inputs, j outputs, h hidden units. A network is called with the parameters, as net(params, x): params are
arrays when a model is queried and Tensors while it is fitted.
"""
import math

import numpy as np

from . import fused, ops
from .layout import Layout


class Parameters(dict):
    """Named arrays that are views of one flat buffer, `flat`, at its slices `parts`: writing to either writes to both."""

    def __init__(self, arrays, dtype=None):
        arrays = {name: a if hasattr(a, "dtype") else np.asarray(a) for name, a in arrays.items()}
        ends = np.cumsum([a.size for a in arrays.values()])
        self.parts = {name: slice(int(end) - a.size, int(end)) for (name, a), end in zip(arrays.items(), ends, strict=True)}
        self.flat = np.concatenate([a.ravel() for a in arrays.values()]).astype(dtype or np.result_type(*arrays.values()))
        super().__init__({name: self.flat[part].reshape(arrays[name].shape) for name, part in self.parts.items()})

    def __reduce__(self):
        return Parameters, (dict(self),)  # what is copied or unpickled are views of a buffer of their own

    def copy(self, dtype=None):
        """The same parameters in a buffer of their own, in another dtype if one is given."""
        return Parameters(self, dtype or self.flat.dtype)

    def to(self, place):
        """The same parameters in a buffer that lies where place(array) puts arrays."""
        return Parameters({name: place(a) for name, a in self.items()}, self.flat.dtype)


class MLP:
    """Linear layers of the given widths with a ReLU between them, masked if there are masks (i, j), one per layer.

    Its parameters are one array, `name`: weight and bias of every layer. Weights are drawn from N(0, gain^2 / fan_in), fan_in
    the inputs that the mask leaves, gain sqrt(2) before a ReLU (He et al., 2015) and `last_gain` at the end; biases are zero.
    head: the likelihood head (npgen.heads) that reads the outputs, if one does; it has an order for their draws.
    """

    def __init__(self, name, widths, masks=None, *, last_gain=1.0, head=None):
        self.name, self.layout, self.head = name, Layout(widths, masks), head
        self.gains = [math.sqrt(2)] * (len(widths) - 2) + [last_gain]

    def init(self, stream, dtype):
        """Fresh parameters, by name."""
        params = np.zeros(self.layout.size, dtype)
        for layer, (plan, gain) in enumerate(zip(self.layout.plans, self.gains, strict=True)):
            weight, _ = self.layout.weight_and_bias(params, layer)
            scale = gain / np.sqrt(np.maximum(plan.mask.sum(axis=0), 1))
            drawn = stream.normal(plan.shape, dtype)
            if self.head is not None and layer == len(self.gains) - 1:
                drawn = drawn[:, self.head.drawn(plan.shape[1])]
            weight[...] = drawn * plan.mask * scale.astype(dtype)
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
