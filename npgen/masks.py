"""Masks: which inputs a unit may see. Pure NumPy.

    made_masks       degrees -> the masks of a masked autoencoder (Germain et al., 2015)
    Plan             a mask and the blocks of it that have to be multiplied
    Layout           the layers of a multilayer perceptron in one flat array

Legend: i inputs (rows of a mask), j outputs (columns).
"""
import functools

import numpy as np

BLOCK_COLUMNS = 64  # narrower blocks follow a staircase more closely, wider ones multiply faster; GEMM likes multiples of 16


class Plan:
    """A mask (i, j) and how a product with it is cut: columns in blocks, each with the rows it needs.

    blocks (b, 4): first column, last column + 1, rows above which every entry is 1, rows from which every entry is 0.
    Only the rows in between have to look at the mask. Units sorted by degree give a staircase: about half the work.
    """

    def __init__(self, mask):
        self.mask = np.ascontiguousarray(mask, dtype=bool)
        if self.mask.ndim != 2:
            raise ValueError(f"Plan: mask must have two dimensions, got shape {self.mask.shape}; give one row per input")
        self.shape = self.mask.shape
        edges = [*range(0, max(self.shape[1], 1), BLOCK_COLUMNS), self.shape[1]]
        rows = []
        for a, b in zip(edges, edges[1:], strict=False):
            block = self.mask[:, a:b]
            holes, seen = np.flatnonzero(~block.all(axis=1)), np.flatnonzero(block.any(axis=1))
            rows.append((a, b, holes[0] if len(holes) else self.shape[0], seen[-1] + 1 if len(seen) else 0))
        self.blocks = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self._cast = {}

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def dense(n_inputs, n_outputs):
        """The plan of a product without a mask."""
        return Plan(np.ones((n_inputs, n_outputs), dtype=bool))

    def mask_as(self, dtype):
        """The mask as 0 and 1 of a floating dtype; empty where no block has to look at it."""
        if dtype not in self._cast:
            partial = np.any(self.blocks[:, 2] < self.blocks[:, 3])
            self._cast[dtype] = self.mask.astype(dtype) if partial else np.zeros((0, 0), dtype)
        return self._cast[dtype]


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
        whole = np.array([(layer, 0, j, i, i) for layer, (i, j) in enumerate(shapes)], dtype=np.int64)
        even = _balanced(np.argsort(-(pieces[:, 2] - pieces[:, 1]) * pieces[:, 4], kind="stable"))
        self.cut = np.array(self.widths, dtype=np.int64), whole if masks is None else pieces, pieces[even]
        self._cast = {}

    def mask_as(self, dtype):
        """The masks one after another as 0 and 1 of a floating dtype; empty where there are none."""
        if dtype not in self._cast:
            looked_at = any(plan.mask_as(dtype).size for plan in self.plans)
            parts = [plan.mask.ravel() for plan in self.plans] if looked_at else [np.zeros(0)]
            self._cast[dtype] = np.concatenate(parts).astype(dtype)
        return self._cast[dtype]

    def weight_and_bias(self, params, layer):
        """The weight (i, j) and bias (j,) of a layer, views of the flat array."""
        i, j = self.plans[layer].shape
        start = int(self.starts[layer])
        return params[start:start + i * j].reshape(i, j), params[start + i * j:start + (i + 1) * j]


def _balanced(order):
    """The items, given by falling cost, in an order whose halves cost about the same, and their halves, and so on."""
    if len(order) < 3:
        return list(order)
    first = [k for n, k in enumerate(order) if n % 4 in (0, 3)]
    return _balanced(first) + _balanced([k for n, k in enumerate(order) if n % 4 in (1, 2)])


def made_degrees(n_features, hidden):
    """Degrees 1..n of the inputs, then per hidden layer degrees 0..n-1 as even as can be, sorted.

    A hidden unit of degree m may see inputs 1..m; sorted degrees make every mask a staircase. Degree 0 (a unit that sees
    nothing) only occurs where n = 1.
    """
    lowest, highest = min(1, n_features - 1), n_features - 1
    layers = [np.floor(np.linspace(lowest, highest + 1, width, endpoint=False)).astype(np.int64).clip(lowest, highest)
              for width in hidden]
    return [np.arange(1, n_features + 1), *layers]


def made_masks(n_features, hidden):
    """The masks (i, j) of every layer of a MADE: hidden ones mask[i, j] = degree_i <= degree_j, the output one <.

    Inputs are in the order of the factorisation: output d depends on inputs 1..d-1 only (Germain et al., 2015, eqs. 8, 9).
    """
    degrees = made_degrees(n_features, hidden)
    inner = [below[:, None] <= above[None, :] for below, above in zip(degrees, degrees[1:], strict=False)]
    return [*inner, degrees[-1][:, None] < degrees[0][None, :]]
