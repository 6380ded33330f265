"""Parameters and layers: a layer is its names and sizes; its numbers live in one flat buffer that the optimiser steps.

    Parameters      {name: view of one flat buffer}
    Linear, MLP     x W + b, and a stack of them
    MaskedLinear    x (mask * W) + b

Legend: n rows, i inputs, j outputs. A layer is called with the parameters, as layer(params, x): params are arrays when a
model is queried and Tensors while it is fitted.
"""
import math

import numpy as np

from . import ops
from .masks import Plan


class Parameters(dict):
    """Named arrays that are views of one flat buffer, `flat`: writing to either writes to both."""

    def __init__(self, arrays, dtype=None):
        arrays = {name: np.asarray(a) for name, a in arrays.items()}
        dtype = np.dtype(dtype or np.result_type(*arrays.values()))
        self.flat = self._flatten(arrays, np.empty(sum(a.size for a in arrays.values()), dtype))
        super().__init__(self._views(arrays, self.flat))

    def __reduce__(self):
        return Parameters, (dict(self),)  # what is copied or unpickled are views of a buffer of their own

    @staticmethod
    def _flatten(arrays, out):
        start = 0
        for a in arrays.values():
            out[start:start + a.size] = a.ravel()
            start += a.size
        return out

    @staticmethod
    def _views(arrays, flat):
        start = 0
        for name, a in arrays.items():
            yield name, flat[start:start + a.size].reshape(a.shape)
            start += a.size

    def flatten(self, arrays, out=None):
        """Arrays of the same names and shapes (gradients, say) in the order of the flat buffer."""
        return self._flatten({name: arrays[name] for name in self}, np.empty_like(self.flat) if out is None else out)

    def copy(self, dtype=None):
        """The same parameters in a buffer of their own, in another dtype if one is given."""
        return Parameters(self, dtype or self.flat.dtype)


class Linear:
    """y = x W + b, W (i, j) drawn from N(0, gain^2 / i), b = 0 (He et al., 2015: gain sqrt(2) before a ReLU)."""

    def __init__(self, name, n_inputs, n_outputs, *, gain=1.0):
        self.weight, self.bias, self.shape, self.gain = f"{name}.weight", f"{name}.bias", (n_inputs, n_outputs), gain

    def init(self, stream, dtype):
        """Fresh parameters, by name."""
        scale = self.gain / math.sqrt(max(1, self.shape[0]))
        return {self.weight: stream.normal(self.shape, dtype) * scale, self.bias: np.zeros(self.shape[1], dtype)}

    def __call__(self, params, x):
        return ops.linear(x, params[self.weight], params[self.bias])


class MaskedLinear(Linear):
    """y = x (mask * W) + b; W is drawn for the number of inputs that the mask leaves each output, and stays masked."""

    def __init__(self, name, mask, *, gain=1.0):
        super().__init__(name, *mask.shape, gain=gain)
        self.plan = Plan(mask)

    def init(self, stream, dtype):
        fan_in = np.maximum(self.plan.mask.sum(axis=0), 1)
        scale = (self.gain / np.sqrt(fan_in)).astype(dtype)
        weight = stream.normal(self.shape, dtype) * scale * self.plan.mask
        return {self.weight: weight, self.bias: np.zeros(self.shape[1], dtype)}

    def __call__(self, params, x):
        return ops.masked_matmul(x, params[self.weight], params[self.bias], self.plan)


class MLP:
    """Linear layers of the given sizes with a ReLU between them; none after the last, whose gain is `last_gain`."""

    def __init__(self, name, sizes, *, last_gain=1.0):
        gains = [math.sqrt(2)] * (len(sizes) - 2) + [last_gain]
        self.layers = [Linear(f"{name}.{k}", a, b, gain=gain)
                       for k, (a, b, gain) in enumerate(zip(sizes, sizes[1:], gains, strict=False))]

    def init(self, stream, dtype):
        """Fresh parameters of every layer, by name."""
        return {name: array for layer in self.layers for name, array in layer.init(stream, dtype).items()}

    def __call__(self, params, x):
        for layer in self.layers[:-1]:
            x = ops.relu(layer(params, x))
        return self.layers[-1](params, x)
