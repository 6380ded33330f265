"""The derivatives of a function against finite differences."""
import numpy as np

from ..engine import map_arrays, vjp

STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))  # step and weight: the error is O(step^4)


def check_grads(f, *args, order=2, rtol=1e-6, atol=1e-8, step=1e-4):
    """Check every derivative of f(*args) up to an order, in float64: <v, vjp(w)> = <w, df/dv> for random v and w.

    One number is compared per order, whatever the shapes; df/dv comes from central differences with an error of O(step^4).
    args are arrays or nested dicts, lists and tuples of them, away from kinks by a few steps; f returns one array.
    Raises AssertionError if the two sides differ by more than atol + rtol * the larger one.
    """
    _check_grads(f, map_arrays(lambda a: np.array(a, dtype=np.float64), args), 1, order, rtol, atol, step)


def _check_grads(f, args, order, highest, rtol, atol, step):
    rng = np.random.default_rng(order)
    v = map_arrays(lambda a: rng.normal(size=a.shape), args)
    value, pull = vjp(f, *args)
    w = rng.normal(size=np.shape(value))
    differences = sum(c * np.asarray(f(*map_arrays(lambda a, d, k=k: a + k * step * d, args, v))) for k, c in STENCIL) / step
    want = np.sum(w * differences)
    got = sum(np.sum(a * b) for a, b in zip(_leaves(v), _leaves(pull(w)), strict=True))
    if not np.isclose(got, want, rtol=rtol, atol=atol):
        raise AssertionError(f"check_grads: at order {order}, <v, vjp(w)> is {got}, but finite differences give {want}; "
                             "mend the derivative")
    if order < highest:
        def derivative(w, *args):
            return np.concatenate([np.ravel(g) for g in _leaves(vjp(f, *args)[1](w))])

        _check_grads(derivative, (w, *args), order + 1, highest, rtol, atol, step)


def _leaves(tree):
    found = []
    map_arrays(found.append, tree)
    return found
