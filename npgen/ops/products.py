"""Products of vectors and matrices: matmul, einsum and their like; masked products and linear layers."""
import builtins
import math
import string

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ..engine import NoRuleError
from ..kernels import masked_matmul as _matmul_kernel
from ..kernels._cuda import is_device_array
from ..masks import Plan
from .elementwise import multiply
from .reductions import sum
from .rules import composed, contiguous, op, summed
from .shapes import broadcast_to, diagonal, expand_dims, moveaxis, reshape, squeeze, swapaxes


def transposed(x):
    """x with its last two axes exchanged."""
    return swapaxes(x, -1, -2)


def _matmul_forward(x, y):
    """np.matmul(x, y); of two matrices on a device by our own kernel, or cuBLAS, which a stream can capture."""
    if not is_device_array(x) or not is_device_array(y) or x.ndim != 2 or y.ndim != 2 or x.dtype != y.dtype or (
            x.dtype.char not in "fd" or x.shape[1] != len(y)):
        return np.matmul(x, y)
    plan, none = Plan.dense(*y.shape), np.zeros_like(y, shape=(y.shape[1],))
    return _matmul_kernel.forward(*contiguous(x, y), none, plan.mask_as(x.dtype, x), plan.blocks)


_matmul = op(_matmul_forward, lambda ans, x, y: summed(x, lambda g: matmul(g, transposed(y))),
             lambda ans, x, y: summed(y, lambda g: matmul(transposed(x), g)), name="matmul")


@composed(np.matmul)
def matmul(x, y):
    """x @ y over the last two axes, the others broadcast; a vector is a row on the left, a column on the right."""
    if builtins.min(np.ndim(x), np.ndim(y)) == 0:
        raise ValueError(f"matmul: shapes {np.shape(x)} and {np.shape(y)} do not fit: a scalar; use *")
    if np.ndim(y) == 1:
        return squeeze(matmul(x, expand_dims(y, 1)), -1)
    if np.ndim(x) == 1:
        return squeeze(_matmul(expand_dims(x, 0), y), -2)
    return _matmul(x, y)


@composed(np.dot)
def dot(x, y):
    """The dot product of vectors, the matrix product of matrices."""
    if builtins.min(np.ndim(x), np.ndim(y)) == 0:
        return multiply(x, y)
    if np.ndim(y) > 2:
        raise NoRuleError(f"numpy.dot: a derivative exists for at most 2 axes on the right, got {np.ndim(y)}; use matmul")
    return matmul(x, y)


@composed(np.outer)
def outer(x, y):
    """x[i] y[j] of the flattened arrays."""
    return reshape(x, (-1, 1)) * reshape(y, (1, -1))


@composed(np.tensordot)
def tensordot(x, y, axes=2):
    """Sums of products over pairs of axes: the last ones of x and the first ones of y, or axes=(of x, of y)."""
    if isinstance(axes, int):
        axes = range(np.ndim(x) - axes, np.ndim(x)), range(axes)
    of_x, of_y = normalize_axis_tuple(axes[0], np.ndim(x)), normalize_axis_tuple(axes[1], np.ndim(y))
    x, y, n = moveaxis(x, of_x, range(-len(of_x), 0)), moveaxis(y, of_y, range(len(of_y))), len(of_x)
    rows, inner, columns = x.shape[:x.ndim - n], y.shape[:n], y.shape[n:]
    product = matmul(reshape(x, (math.prod(rows), math.prod(inner))), reshape(y, (math.prod(inner), math.prod(columns))))
    return reshape(product, rows + columns)


@composed(np.inner)
def inner(x, y):
    """The sum of products over the last axes."""
    return tensordot(x, y, axes=(-1, -1)) if np.ndim(x) and np.ndim(y) else multiply(x, y)


def _einsum_rule(i, ans, *operands, subscripts):
    terms, out = subscripts.split("->")
    terms, shape = terms.split(","), np.shape(operands[i])
    others = [(t, x) for j, (t, x) in enumerate(zip(terms, operands, strict=True)) if j != i]
    known = set(out).union(*(t for t, _ in others))
    kept = "".join(c for c in terms[i] if c in known)  # an index summed here alone is repeated in the gradient
    ones = tuple(n if c in known else 1 for c, n in zip(terms[i], shape, strict=True))
    reverse = ",".join([out] + [t for t, _ in others]) + "->" + kept
    return lambda g: broadcast_to(reshape(_einsum(g, *(x for _, x in others), subscripts=reverse), ones), shape)


_einsum = op(lambda *operands, subscripts: np.einsum(subscripts, *operands), each=_einsum_rule, name="einsum")


def _spelled_out(subscripts, operands):
    """The terms and the output of an einsum, with letters for ellipses and, where there is no arrow, the output."""
    inputs, arrow, out = subscripts.replace(" ", "").partition("->")
    terms, spare = inputs.split(","), [c for c in string.ascii_letters if c not in subscripts]
    if len(terms) != len(operands):
        raise ValueError(f"einsum: {subscripts!r} names {len(terms)} operands, but there are {len(operands)}")
    hidden = [np.ndim(x) - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, operands, strict=True)]
    dots = spare[:builtins.max(hidden)]
    terms = [t.replace("...", "".join(dots[len(dots) - n:])) for t, n in zip(terms, hidden, strict=True)]
    if not arrow:
        letters = "".join(terms)
        out = "".join(dots) + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    return terms, out.replace("...", "".join(dots))


@composed(np.einsum)
def einsum(subscripts, *operands, optimize=False):
    """Sums of products by index, "ij,jk->ik": also without the arrow, with an ellipsis, with an index twice in an operand."""
    if not isinstance(subscripts, str):
        raise NoRuleError("numpy.einsum: a derivative exists for subscripts in a string, such as 'ij,jk->ik'")
    terms, out = _spelled_out(subscripts, operands)
    terms, operands = list(terms), list(operands)
    for k, term in enumerate(terms):
        for c in dict.fromkeys(term):
            while term.count(c) > 1:  # the diagonal has one axis for two, the last
                i = term.index(c)
                j = term.index(c, i + 1)
                operands[k] = diagonal(operands[k], axis1=i, axis2=j)
                term = term[:i] + term[i + 1:j] + term[j + 1:] + c
        terms[k] = term
    sizes = {}
    for term, x in zip(terms, operands, strict=True):
        for c, n in zip(term, np.shape(x), strict=True):
            sizes[c] = builtins.max(sizes.get(c, 1), n)
    for k, (term, x) in enumerate(zip(terms, operands, strict=True)):  # an axis of length 1 that is broadcast is no axis
        kept = [i for i, c in enumerate(term) if np.shape(x)[i] == sizes[c]]
        terms[k] = "".join(term[i] for i in kept)
        operands[k] = reshape(x, [np.shape(x)[i] for i in kept]) if len(kept) < len(term) else x
    return _einsum(*operands, subscripts=",".join(terms) + "->" + out)


# ---------------------------------------------------------------- masked

# y = x W + b with W = mask * weight; its two products are one another's transposes, so the three rules close.
_masked = op(lambda x, w, b, plan: _matmul_kernel.forward(*contiguous(x, w, b), plan.mask_as(x.dtype, x), plan.blocks),
             lambda ans, x, w, b, plan: lambda g: masked_dx(g, w, plan),
             lambda ans, x, w, b, plan: lambda g: _masked_dw(x, g, plan),
             lambda ans, x, w, b, plan: lambda g: sum(g, axis=0), name="masked_matmul")
masked_dx = op(lambda g, w, plan: _matmul_kernel.backward_x(*contiguous(g, w), plan.mask_as(g.dtype, g), plan.blocks),
               lambda ans, g, w, plan: lambda h: _masked(h, w, np.zeros_like(g, shape=g.shape[1:]), plan),
               lambda ans, g, w, plan: lambda h: _masked_dw(h, g, plan), name="masked_matmul.backward_x")
_masked_dw = op(lambda x, g, plan: _matmul_kernel.backward_weight(*contiguous(x, g), plan.mask_as(x.dtype, x), plan.blocks),
                lambda ans, x, g, plan: lambda h: masked_dx(g, h, plan),
                lambda ans, x, g, plan: lambda h: _masked(x, h, np.zeros_like(g, shape=g.shape[1:]), plan),
                name="masked_matmul.backward_weight")


def masked_matmul(x, weight, bias, plan):
    """y = x (mask * weight) + bias, skipping the blocks that the mask empties.

    x (n, i), weight (i, j), bias (j,), plan: a npgen.masks.Plan of a mask (i, j). Raises ValueError if they do not fit.
    """
    shapes = np.shape(x), np.shape(weight), np.shape(bias)
    if len(shapes[0]) != 2 or shapes != ((shapes[0][0], plan.shape[0]), plan.shape, plan.shape[1:]):
        raise ValueError("masked_matmul: x {}, weight {}, bias {} must have shapes (n, i), (i, j), (j,), and the mask is {}"
                         .format(*shapes, plan.shape))
    return _masked(x, weight, bias, plan)


def linear(x, weight, bias):
    """y = x weight + bias for x (n, i), weight (i, j), bias (j,). Raises ValueError if they do not fit."""
    return masked_matmul(x, weight, bias, Plan.dense(*np.shape(weight)))
