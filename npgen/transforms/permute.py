"""Permute: the features in another order.

Legend: n rows, d features.
"""
import numpy as np

from .base import Transform


class Permute(Transform):
    """z_k = x_order[k], of volume 1. order (d,) holds every column number once: Permute(np.arange(d)[::-1]) reverses."""

    def __init__(self, order):
        self.order, self._back = order, np.argsort(order)

    def to_noise(self, p, x, c=None, stream=None):
        return np.take(x, self.order, axis=1), np.zeros_like(x, shape=(len(x),))

    def to_data(self, p, z, c=None):
        return np.take(z, self._back, axis=1), np.zeros_like(z, shape=(len(z),))
