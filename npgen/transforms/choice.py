"""Which transform the data's own space needs: by name, or by a look at the data.

Legend: n rows, d columns.
"""
import copy

import numpy as np

from .base import Chain, Transform, named
from .columns import Columns
from .standardize import Standardize

_MANY_LEVELS = 65536


def make(spec, x, untouched=False):
    """An unfitted transform for `spec`, for rows x (n, d) of a model that may have to have them as they are.

    spec  None              the identity
          "dequantize+logit", "log+standardize", ...    names joined with +, first to last: standardize, dequantize, logit, log
          an object         a copy of it
          "auto"            looks at every column: integers of up to 65,536 levels -> "dequantize+logit", those that do not
                            vary only where all columns are integers; anything else -> "standardize"
    untouched   columns that "auto" leaves as they are: all or none, or (d,) bool; "bits": all, if they are 0 and 1

    Raises ValueError for a name that does not exist, TypeError for anything else.
    """
    if isinstance(spec, Transform):
        return copy.deepcopy(spec)
    if spec == "auto":
        return _but(np.asarray(x), untouched)
    if spec is None:
        return Chain()
    if not isinstance(spec, str):
        raise TypeError(f"preprocess is {spec!r}; give None, a name such as 'auto', or a Transform")
    steps = [named(name) for name in spec.split("+")]
    return steps[0] if len(steps) == 1 else Chain(steps=tuple(steps))


def _but(x, untouched):
    """The choice for all columns but those that stay as they are."""
    if isinstance(untouched, str):
        untouched = np.all((x == 0) | (x == 1))
    stay = np.array(untouched, bool)
    if stay.size not in (1, x.shape[1]):
        stay = np.array(False)  # heads of other columns, which the model refuses
    rest = np.flatnonzero(np.broadcast_to(~stay, x.shape[1]))
    if len(rest) in (0, x.shape[1]):
        return _choose(x) if len(rest) else Chain()
    return Columns(maps=(_choose(x[:, rest]),), columns=(tuple(rest.tolist()),))


def _choose(x):
    low, high = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
    whole = np.array([bool((column == np.floor(column)).all()) for column in x.T])
    if x.dtype.kind == "f":  # beyond these all numbers are integers
        whole &= np.maximum(np.abs(low), np.abs(high)) * np.finfo(x.dtype).eps < 1
    integers = whole & (high - low < _MANY_LEVELS)
    if not (integers.all() and (low < high).any()):
        integers &= low < high
    if integers.all() or not integers.any():
        return make("dequantize+logit" if integers.all() else "standardize", x)
    return Columns(maps=(make("dequantize+logit", x), Standardize()),
                   columns=tuple(tuple(np.flatnonzero(which).tolist()) for which in (integers, ~integers)))
