"""How an op is declared: op, composed, refused; and what rules share: the transpose of broadcasting, selected cotangents.

A rule reads `lambda ans, x, y: lambda g: ...`: ans is the answer, g its cotangent. `like(ans, x, f)` is the
pullback f summed back to x's shape, the transpose of broadcasting. Rules are written in ops, or in NumPy's functions, which
are ops on Tensors, so that a gradient can be differentiated again.
"""
import functools
import inspect
from functools import partial

import numpy as np

from ..engine import OVERRIDES, NoRuleError, Primitive, Selected


def op(forward, *rules, each=None, partly=None, name=None):
    """A differentiable op: forward(*arrays, **params), and one rule per argument (see npgen.engine.Primitive).

    partly: by_entries for an elementwise op, as every ufunc is; by_places for one that moves and adds up entries; None else.
    """
    partly = by_entries if isinstance(forward, np.ufunc) and forward.signature is None else partly
    primitive = Primitive(forward, *rules, each=each, partly=partly, name=name)
    if _is_numpy(forward):
        OVERRIDES[forward] = primitive
    return primitive


def composed(*numpy_functions):
    """Declare that the decorated function, written in ops, is what these NumPy functions do to Tensors."""
    def register(function):
        @functools.wraps(function)
        def on_tensors(*args, **params):
            try:
                return function(*args, **params)
            except TypeError as error:
                try:
                    inspect.signature(function).bind(*args, **params)
                except TypeError:
                    raise NoRuleError(f"{numpy_functions[0].__name__}: its derivative rule does not take these arguments "
                                      f"({error})") from error
                raise

        OVERRIDES.update(dict.fromkeys(numpy_functions, on_tensors))
        return function
    return register


def refused(instead, *numpy_functions):
    """Declare that these NumPy functions cannot have a derivative, and what to write instead."""
    def refusal(function):
        def refuse(*args, **params):
            raise NoRuleError(f"{function.__module__}.{function.__name__} has no derivative: {instead}")
        return refuse

    OVERRIDES.update({function: refusal(function) for function in numpy_functions})


def _is_numpy(function):
    return isinstance(function, np.ufunc) or (getattr(function, "__module__", None) or "").partition(".")[0] == "numpy"


def like(ans, x, f=lambda g: g):
    """The pullback f of an elementwise op, its result summed over the axes along which x was broadcast."""
    return f if ans.shape == x.shape else summed(x, f)


def summed(x, f):
    """The pullback f, its result summed to x's shape."""
    return partial(_sum_to, x.shape, f)


def _sum_to(shape, f, g):
    g = f(g)
    if type(g) is Selected:
        return Selected(*(_sum_to(shape, lambda g: g, part) for part in (g.value, g.used)))
    return g if g.shape == shape else _unbroadcast(g, shape) if g.dtype != bool else np.greater(_unbroadcast(g, shape), 0)


def _unbroadcast(g, shape):
    extra = np.ndim(g) - len(shape)
    stretched = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 != g.shape[extra + i])
    return np.reshape(np.sum(g, axis=stretched), shape)


def selected(g, used):
    """The cotangent g where a condition holds, zero beyond because nothing else was used; see npgen.engine.Selected."""
    return Selected(np.where(used, g, 0), used if np.shape(used) == g.shape else np.zeros_like(g, dtype=bool) | used)


def by_entries(pullback, g, used):
    """What the pullback of an elementwise op makes of a Selected g: zero beyond what was used, whatever is there."""
    shape, f = pullback.args if getattr(pullback, "func", None) is _sum_to else (used.shape, pullback)
    with np.errstate(all="ignore"):
        g = f(g)
        g, used = (g.value, used & g.used) if type(g) is Selected else (g, used)
        clean = type(g) is np.ndarray and not np.isnan(np.sum(g))  # zero times what is finite is zero
    return _sum_to(shape, (lambda g: Selected(g, used)) if clean else partial(selected, used=used), g)


def by_places(pullback, g, used):
    """What the pullback of an op that moves and adds up entries makes of a Selected g: it takes the mask along."""
    g, mask = pullback(g), pullback(used.astype(g.dtype))
    g, mask = (part.value if type(part) is Selected else part for part in (g, mask))
    return Selected(g, np.greater(mask, 0))


def contiguous(*arrays):
    """The arrays as kernels take them: C-contiguous, copied where they are not."""
    return [a if a.flags.c_contiguous else a.copy() for a in arrays]
