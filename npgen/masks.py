"""Masks: which inputs a unit may see. Pure NumPy.

    made_masks       degrees -> the masks of a masked autoencoder (Germain et al., 2015)
    made_direct     the mask of connections that pass the hidden layers by
    made_cuts       where the units of a layer begin that see one feature more
    made_blind       the outputs of one that is too narrow to see all that it might
    places           where the columns of some features lie among all of them
    Plan             a mask and the blocks of it that have to be multiplied

Legend: i inputs (rows of a mask), j outputs (columns).
"""
import functools

import numpy as np

from .kernels._cuda import is_device_array

BLOCK_COLUMNS = 32  # two panels of float32 in kernels/_tile.py, which go at once where registers are many


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

    def __getstate__(self):
        return self.__dict__ | {"_cast": {}}  # a model that was on a GPU is unpickled where there is none

    def mask_as(self, dtype, like=None):
        """The mask as 0 and 1 of a floating dtype, on the device if `like` is there; empty where no block has to look at it."""
        key = dtype, is_device_array(like)
        if key not in self._cast:
            partial = np.any(self.blocks[:, 2] < self.blocks[:, 3])
            self._cast[key] = np.asarray(self.mask.astype(dtype) if partial else np.zeros((0, 0), dtype), like=like)
        return self._cast[key]


def places(first, features):
    """The numbers from first[j] to first[j + 1] for every one of these features j, in their order."""
    return np.concatenate([np.arange(first[j], first[j + 1]) for j in features])


def made_degrees(n_features, hidden, n_context=0):
    """Degrees 1..n of the features and 0 of their context, the inputs; then per hidden layer 0..n-1 as even as can be, sorted.

    A hidden unit of degree m may see features 1..m and the context; sorted degrees make every mask a staircase. Degree 0 (a
    unit that sees the context alone, or nothing) only occurs where there is a context, or n = 1.
    """
    lowest, highest = min(0 if n_context else 1, n_features - 1), n_features - 1
    layers = [np.floor(np.linspace(lowest, highest + 1, width, endpoint=False)).astype(np.int64).clip(lowest, highest)
              for width in hidden]
    return [np.concatenate([np.arange(1, n_features + 1), np.zeros(n_context, np.int64)]), *layers]


def made_masks(n_features, hidden, n_context=0):
    """The masks (i, j) of every layer of a MADE: hidden ones mask[i, j] = degree_i <= degree_j, the output one <.

    Inputs are in the order of the factorisation, and the context after them: output d depends on features 1..d-1 and the
    context only (Germain et al., 2015, eqs. 8, 9).
    """
    degrees = made_degrees(n_features, hidden, n_context)
    inner = [below[:, None] <= above[None, :] for below, above in zip(degrees, degrees[1:], strict=False)]
    return [*inner, degrees[-1][:, None] < degrees[0][None, :n_features]]


def made_direct(n_features, n_context=0):
    """The mask (i, n) of connections straight from inputs to outputs: output d sees features 1..d-1 and the context."""
    degrees = made_degrees(n_features, (), n_context)[0]
    return degrees[:, None] <= np.arange(n_features)


def made_cuts(n_features, hidden, n_context=0):
    """How many units of every hidden layer see no more than the first 0, 1, ..., n features, (layers, n + 1)."""
    return np.array([np.searchsorted(degrees, np.arange(n_features + 1), side="right")
                     for degrees in made_degrees(n_features, hidden, n_context)[1:]], dtype=np.int64)


def made_blind(n_features, hidden, n_context=0):
    """The outputs (b,) of a MADE, numbered from 0, that do not see every input before them, as no chain of units leads there.

    Output d sees inputs 1..m, m the highest degree below d in the first hidden layer from which degrees that do not fall lead
    on to d. There are none where every hidden layer is n_features - 1 wide.
    """
    before = highest = np.arange(n_features)
    for degrees in reversed(made_degrees(n_features, hidden, n_context)[1:]):
        at = np.searchsorted(degrees, highest, side="right")
        highest = np.where(at > 0, degrees[at - 1], 0)
    return np.flatnonzero(highest < before)
