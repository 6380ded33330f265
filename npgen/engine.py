"""Reverse-mode automatic differentiation. The engine knows no op: an op is a Primitive, a value handed to it.

A Tensor is an array that remembers how it was made. Every derivative being taken has a level, inner ones a higher one.
A Primitive peels the highest level off its arguments, computes on what lies beneath, and records one Node: its parents,
and for each parent a pullback that takes the cotangent of the answer to the cotangent of that parent. What lies
beneath may be Tensors of an outer derivative, and the pullbacks are written in primitives: that is all there is to
derivatives of derivatives.

    grad(f)(x)             gradient of a scalar function
    value_and_grad(f)(x)   both, in one pass
    vjp(f, x)              value, and the pullback of cotangents
    jacobian(f)(x)         every row of the Jacobian
    hvp(f, x, v)           Hessian times a vector, without the Hessian

An argument may be an array or a dict, list or tuple of arrays; its gradient has the same structure.

Reference: Griewank & Walther, Evaluating Derivatives (2008); Maclaurin, Modeling, Inference and Optimization with
Composable Differentiable Programming (2016).
"""
import functools
import itertools

import numpy as np

from .tensor import OVERRIDES, NoRuleError, Tensor

_levels = itertools.count(1)


class Node:
    """One recorded step: its parents on the same level, and pull: the pullback to each, or one function to all of them.

    partly: what a pullback makes of a Selected cotangent, or None if it takes the numbers alone. out: of a leaf, the array
    that its gradient is written to, or None.
    """

    __slots__ = ("parents", "pull", "partly", "out")

    def __init__(self, parents=(), pull=(), partly=None, out=None):
        self.parents, self.pull, self.partly, self.out = parents, pull, partly, out


HOST = np.ndarray, np.generic


class Selected:
    """The cotangent of an answer of which some entries alone were used, as by np.where or x[index]: `used` says which.

    Beyond them it is zero because the function does not look there, and stays zero whatever the derivative is: where g
    just happens to be zero, as for the logarithm in exp(log(x)) at 0, zero times infinity is not zero. The mask is an
    array, or a function that makes it for who asks.
    """

    __slots__ = ("value", "mask")

    def __init__(self, value, mask):
        self.value, self.mask = value, mask

    used = property(lambda self: self.mask() if callable(self.mask) else self.mask)

    def __add__(self, other):
        if type(other) is not Selected:
            return self.value + other
        masks = Selected(None, self.mask), Selected(None, other.mask)
        return Selected(self.value + other.value, lambda: masks[0].used | masks[1].used)


class Pieces(dict):
    """The cotangents of some of the answers of an op that has several, by number."""

    def __add__(self, other):
        return Pieces(self | {k: self[k] + g if k in self else g for k, g in other.items()})


class Primitive:
    """A function with derivative rules, one per positional argument.

    A rule is staged: rule(ans, *args, **params) returns the pullback g -> gradient, which holds on to nothing but what
    it uses. `each` replaces the rules where the number of arguments varies: each(i, ans, *args, **params). `joint`
    replaces them where the gradients come together: joint(tracked, ans, *args, **params) returns the function
    (g, out) -> one gradient for each argument numbered in `tracked`, written to the array that `out` has for it, if it has
    one and the function cares. An op may have several answers, a tuple; its rule is joint, and its g are Pieces. A Primitive
    without rules gives constants: the result is a plain array. partly: see Node.
    """

    def __init__(self, forward, *rules, each=None, joint=None, partly=None, name=None):
        self.forward, self.rules, self.each, self.joint, self.partly = forward, rules, each, joint, partly
        self.differentiable = bool(rules or each or joint)
        self.__name__ = self.name = name or getattr(forward, "__name__", repr(forward))

    def __repr__(self):
        return f"<op {self.name}>"

    def __call__(self, *args, **params):
        level = 0
        for a in args:
            if type(a) is Tensor and a.level > level:
                level = a.level
        if level == 0:
            return self._compute(args, params)
        values = [a.value if type(a) is Tensor and a.level == level else a for a in args]
        ans = self(*values, **params)
        if not self.differentiable:
            return ans
        tracked = [i for i, a in enumerate(args) if type(a) is Tensor and a.level == level]
        if self.joint:
            pull = self.joint(tracked, ans, *values, **params)
        else:
            pull = tuple([self._pullback(i, ans, values, params) for i in tracked])
        node = Node(tuple([args[i].node for i in tracked]), pull, self.partly)
        if type(ans) is tuple:
            return tuple(Tensor(a, Node((node,), (functools.partial(_piece, k),)), level) for k, a in enumerate(ans))
        return Tensor(ans, node, level)

    def _compute(self, args, params):
        if params and any(type(p) is Tensor for p in params.values()):
            raise TypeError(f"{self.name}: an array inside a derivative was passed by keyword; pass it by position")
        try:
            return self.forward(*args, **params)
        except ValueError as error:
            if type(error) is not ValueError:  # LinAlgError says all there is to say
                raise
            shapes = " and ".join(str(a.shape) for a in args if hasattr(a, "shape"))
            raise ValueError(f"{self.name}: shapes {shapes} do not fit: {error}") from None

    def _pullback(self, i, ans, values, params):
        rule = functools.partial(self.each, i) if self.each else self.rules[i] if i < len(self.rules) else None
        if rule is None:
            raise NoRuleError(f"{self.name}: there is no derivative rule for argument {i}; pass it as a plain array")
        try:
            return rule(ans, *values, **params)
        except TypeError as error:
            raise NoRuleError(f"{self.name}: its derivative rule does not take these arguments ({error})") from error


def _piece(k, g):
    return Pieces({k: g})


def backward(root, g, *, retain=False):
    """The cotangents of every leaf under `root`, given its cotangent g: {leaf node: gradient}.

    Each node is visited once, after everything that uses it; unless `retain`, it is emptied as soon as it is done.
    """
    uses, stack = {root: 0}, [root]
    while stack:
        for parent in stack.pop().parents:
            if parent not in uses:
                uses[parent] = 0
                stack.append(parent)
            uses[parent] += 1
    cotangents, owned, leaves, ready = {root: g}, set(), {}, [root]
    while ready:
        node = ready.pop()
        g = cotangents.pop(node)
        if type(g) is Selected and (not node.partly or isinstance(mask := g.used, HOST) and mask.all()):
            g = g.value  # the entries on a GPU are not asked: it would be waited for
        if not node.parents:
            leaves[node] = g
        if type(g) is Selected:
            contributions = [node.partly(pullback, g.value, mask) for pullback in node.pull]
        else:
            contributions = node.pull(g, _outs(node, uses, cotangents)) if callable(node.pull) else (
                pullback(g) for pullback in node.pull)
        for parent, contribution in zip(node.parents, contributions, strict=True):
            if parent not in cotangents:
                cotangents[parent] = contribution
            elif type(contribution) is Selected:
                cotangents[parent] = contribution + cotangents[parent]
            elif parent in owned and not isinstance(contribution, Tensor):
                try:
                    cotangents[parent] += contribution
                except TypeError:  # a complex one, to a real one
                    cotangents[parent] = cotangents[parent] + contribution
            else:  # the first contribution may be another node's array: never add into that
                cotangents[parent] = cotangents[parent] + contribution
                if not isinstance(cotangents[parent], Tensor):
                    owned.add(parent)
            uses[parent] -= 1
            if not uses[parent]:
                ready.append(parent)
        if not retain:
            node.parents = node.pull = ()
    return leaves


def _outs(node, uses, cotangents):
    """For each parent the array that its gradient is written to, if all of that comes from this node, or None."""
    return [parent.out if uses[parent] == 1 and parent not in cotangents else None for parent in node.parents]


def map_arrays(f, *trees):
    """Apply f to the arrays of nested dicts, lists and tuples that share one structure."""
    tree = trees[0]
    if isinstance(tree, dict):
        return {key: map_arrays(f, *(t[key] for t in trees)) for key in tree}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_arrays(f, *items) for items in zip(*trees, strict=True))
    return f(*trees)


def _check_argnums(name, argnums, args):
    for i in argnums:
        if not -len(args) <= i < len(args):
            raise ValueError(f"{name}: argnum is {i}, but the function was given {len(args)} positional arguments")


def _trace(name, f, args, argnums, outs=None):
    """Run f with the chosen arguments as new leaves -> (output on this level or a constant, level, the leaves)."""
    _check_argnums(name, argnums, args)
    level = next(_levels)

    def leaf(x, out=None):
        x = x if hasattr(x, "dtype") else np.asarray(x)
        if x.dtype.kind != "f":
            raise TypeError(f"{name}: cannot differentiate with respect to an array of dtype {x.dtype}; "
                            "pass floating-point values, for example x.astype(float)")
        return Tensor(x, Node(out=out), level)

    args, leaves = list(args), []
    for k, i in enumerate(argnums):
        args[i] = map_arrays(leaf, args[i]) if outs is None else map_arrays(leaf, args[i], outs[k])
        leaves.append(args[i])
    out = f(*args)
    if not (hasattr(out, "dtype") or isinstance(out, (int, float))):
        raise TypeError(f"{name}: the function returned a {type(out).__name__}, not an array; return one array")
    if getattr(out, "dtype", np.dtype(float)).kind == "c":
        raise TypeError(f"{name}: the function returned complex numbers; return real ones, for example abs(z) or np.real(z)")
    return out, level, leaves


def _peel(out, level):
    return out.value if isinstance(out, Tensor) and out.level == level else out


def _pull(out, level, leaves, g, retain=False):
    found = backward(out.node, g, retain=retain) if isinstance(out, Tensor) and out.level == level else {}
    given = {id(g)}

    def gradient(leaf):
        d, out = found.get(leaf.node), leaf.node.out
        if d is not None and d.dtype.kind == "c":
            d = OVERRIDES["real"](d)
        if out is not None:
            if d is not out:
                out[...] = 0 if d is None else d
            return out
        if d is None:
            return np.zeros_like(leaf.value)
        if d.dtype != leaf.dtype:
            return OVERRIDES["astype"](d, leaf.dtype)
        if not isinstance(d, Tensor) and (d.base is not None or id(d) in given):  # a view, or someone else's array
            return d.copy()
        given.add(id(d))
        return d

    return [map_arrays(gradient, tree) for tree in leaves]


def value_and_grad(f, argnum=0, out=None):
    """The function (*args) -> (f(*args), df/dargs[argnum]) of a scalar-valued f; argnum is an int or a tuple of them.

    out: arrays of the gradient's structure, shapes and dtypes, which it is then written to at every call, or None.
    Raises TypeError for an argument that is not floating-point, ValueError if f does not return a scalar.
    """
    argnums = (argnum,) if isinstance(argnum, int) else tuple(argnum)
    outs = [out] if isinstance(argnum, int) and out is not None else out

    def run(*args):
        answer, level, leaves = _trace("grad", f, args, argnums, outs)
        value = _peel(answer, level)
        shape = getattr(value, "shape", ())
        if shape != ():
            raise ValueError(f"grad: the function returned an array of shape {shape}, not a scalar; "
                             "sum it, or use vjp or jacobian")
        gradients = _pull(answer, level, leaves, np.ones_like(value))
        return value, gradients[0] if isinstance(argnum, int) else tuple(gradients)

    return run


def grad(f, argnum=0):
    """The gradient of a scalar-valued f with respect to one argument (or several: argnum=(0, 2)).

    Raises as value_and_grad does.
    """
    both = value_and_grad(f, argnum)
    return lambda *args: both(*args)[1]


def vjp(f, *args):
    """f(*args), and the function g -> (g^T df/darg for every arg), g of f's output shape; callable any number of times.

    Raises TypeError for an argument that is not floating-point, ValueError for a cotangent of another shape.
    """
    out, level, leaves = _trace("vjp", f, args, range(len(args)))
    value = _peel(out, level)

    def pull(g):
        if np.shape(g) != np.shape(value):
            raise ValueError(f"vjp: the cotangent has shape {np.shape(g)}, but the function returned {np.shape(value)}")
        return tuple(_pull(out, level, leaves, g, retain=True))

    return value, pull


def jacobian(f, argnum=0):
    """The function (*args) -> J, J[o, i] = df_o / dx_i, of shape f's output shape + x's shape, x = args[argnum].

    If x is a dict, list or tuple of arrays, so is J. Raises as vjp does.
    """
    def run(*args):
        _check_argnums("jacobian", [argnum], args)
        i = argnum % len(args)
        value, pull = vjp(lambda x: f(*args[:i], x, *args[i + 1:]), args[i])
        shape, size = np.shape(value), int(np.prod(np.shape(value), dtype=int))
        basis = np.zeros_like(value, shape=(size * size,))
        basis[::size + 1] = 1
        rows = [pull(e)[0] for e in basis.reshape((size, *shape))] or [pull(np.zeros_like(value))[0]]
        return map_arrays(lambda *r: np.reshape(np.stack(r)[:size], shape + np.shape(r[0])), *rows)

    return run


def hvp(f, x, v):
    """The Hessian of a scalar-valued f at x times v, by reverse over reverse; v has x's structure and shapes.

    Raises as grad does, and ValueError if v has other shapes.
    """
    def directional(x):
        terms = []

        def multiply(d, u):
            if np.shape(d) != np.shape(u):
                raise ValueError(f"hvp: v has shape {np.shape(u)} where x has {np.shape(d)}; give v the shape of x")
            terms.append(np.sum(d * u))

        map_arrays(multiply, grad(f)(x), v)
        return sum(terms)

    return grad(directional)(x)
