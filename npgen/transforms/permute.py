"""Permute: the features in another order.

Legend: n rows, d features.
"""
import numpy as np

from ..ops import op
from .base import Transform

permuted = op(lambda x, order, back: np.take(x, order, axis=1),  # take's own rule would add up where nothing meets
              lambda ans, x, order, back: lambda g: permuted(g, back, order), name="permuted")


class Permute(Transform):
    """z_k = x_order[k], of volume 1. order (d,) holds every column number once: Permute(np.arange(d)[::-1]) reverses."""

    def __init__(self, order):
        self.order, self._back = order, np.argsort(order)

    def to_noise(self, p, x, c=None, stream=None):
        return permuted(x, self.order, self._back), np.zeros_like(x, shape=(len(x),))

    def to_data(self, p, z, c=None):
        return permuted(z, self._back, self.order), np.zeros_like(z, shape=(len(z),))
