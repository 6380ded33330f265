"""Layouts: how the parameters of a whole network lie in one flat array, and how its kernels cut them. Pure NumPy.

    Layout        the layers of a multilayer perceptron (kernels/mlp.py)
    FlowLayout    the steps of a coupling flow (kernels/flow.py)

Legend: i inputs, j outputs, d features, s steps.
"""
import numpy as np

from .kernels._cuda import is_device_array
from .masks import Plan

PIECE_COLUMNS = 32  # of a weight's gradient: few, as the threads wait for each other after every step


class Layout:
    """How the layers of a multilayer perceptron lie in one flat array, and how their products are cut.

    widths   inputs, hidden widths, outputs
    masks    one (i, j) per layer, or None for a network without masks
    size     values in the flat array: weight (i, j), then bias (j,), layer after layer
    cut      widths, blocks and pieces as the kernels take them (kernels/mlp.py)
    """

    def __init__(self, widths, masks=None):
        self.widths = tuple(int(w) for w in widths)
        shapes = list(zip(self.widths, self.widths[1:], strict=False))
        self.plans = [Plan.dense(*shape) for shape in shapes] if masks is None else [Plan(m) for m in masks]
        if [plan.shape for plan in self.plans] != shapes:
            raise ValueError(f"Layout: masks of shapes {[plan.shape for plan in self.plans]} do not fit the layers {shapes}")
        self.starts = np.cumsum([0] + [(i + 1) * j for i, j in shapes])
        self.size = int(self.starts[-1])
        pieces = np.array([(layer, *block) for layer, plan in enumerate(self.plans) for block in plan.blocks], dtype=np.int64)
        even = _balanced(np.argsort(-(pieces[:, 2] - pieces[:, 1]) * pieces[:, 4], kind="stable"))
        self.cut = np.array(self.widths, dtype=np.int64), pieces, pieces[even]
        self._cast = {}

    def __getstate__(self):
        return self.__dict__ | {"_cast": {}}  # a model that was on a GPU is unpickled where there is none

    def mask_as(self, dtype, like=None):
        """The masks one after another as 0 and 1 of a floating dtype, on the device if `like` is there; empty without any."""
        key = dtype, is_device_array(like)
        if key not in self._cast:
            looked_at = any(plan.mask_as(dtype).size for plan in self.plans)
            parts = [plan.mask.ravel() for plan in self.plans] if looked_at else [np.zeros(0)]
            self._cast[key] = np.asarray(np.concatenate(parts).astype(dtype), like=like)
        return self._cast[key]

    def weight_and_bias(self, params, layer):
        """The weight (i, j) and bias (j,) of a layer, views of the flat array."""
        i, j = self.plans[layer].shape
        start = int(self.starts[layer])
        return params[start:start + i * j].reshape(i, j), params[start + i * j:start + (i + 1) * j]


class FlowLayout:
    """How the steps of a coupling flow lie in one flat array.

    orders   (s, d): the order in which a step takes the features that it is given
    nets     one Layout per step, of as many layers, from n_kept features to 2 (d - n_kept) outputs
    size     values in the flat array: shift (d,), log_scale (d,), then what the step's Layout has, step after step
    cut      orders, widths, blocks and pieces as the kernels take them (kernels/flow.py)
    """

    def __init__(self, orders, nets):
        self.orders, self.nets = np.ascontiguousarray(orders, dtype=np.int64), list(nets)
        d = self.orders.shape[1]
        if len(self.nets) != len(self.orders) or any(net.widths[-1] != 2 * (d - net.widths[0]) for net in self.nets):
            raise ValueError(f"FlowLayout: networks of widths {[net.widths for net in self.nets]} do not fit orders of shape "
                             f"{self.orders.shape}; each step needs one, from n_kept to 2 ({d} - n_kept)")
        self.starts = np.cumsum([0] + [2 * d + net.size for net in self.nets])
        self.size = int(self.starts[-1])
        widths = np.array([net.widths for net in self.nets], dtype=np.int64)
        blocks = [[(layer, 0, j, i, i) for layer, (i, j) in enumerate(zip(row, row[1:], strict=False))] for row in widths]
        pieces = []  # step by step, as `backward` takes them
        for s, net in enumerate(self.nets):
            of_step = [(s, layer, first, min(first + PIECE_COLUMNS, j), i, i)
                       for layer, (i, j) in enumerate(zip(net.widths, net.widths[1:], strict=False))
                       for first in range(0, j, PIECE_COLUMNS)]
            of_step.sort(key=lambda piece: -(piece[3] - piece[2]) * piece[4])
            pieces += [of_step[k] for k in _balanced(range(len(of_step)))]
        self.cut = self.orders, widths, np.array(blocks, dtype=np.int64), np.array(pieces, dtype=np.int64).reshape(-1, 6)

    def step(self, s):
        """The layout of one step by itself."""
        return FlowLayout(self.orders[s:s + 1], self.nets[s:s + 1])

    def part(self, s):
        """The slice of the flat array that holds a step."""
        return slice(int(self.starts[s]), int(self.starts[s + 1]))


def _balanced(order):
    """The items, given by falling cost, in an order whose halves cost about the same, and their halves, and so on."""
    if len(order) < 3:
        return list(order)
    first = [k for n, k in enumerate(order) if n % 4 in (0, 3)]
    return _balanced(first) + _balanced([k for n, k in enumerate(order) if n % 4 in (1, 2)])
