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
import itertools

import numpy as np

OVERRIDES = {}  # NumPy function -> the callable that handles Tensors; filled by ops.py and by users' own ops
_levels = itertools.count(1)


class NoRuleError(NotImplementedError):
    """A NumPy function without a derivative rule met a Tensor."""


class Node:
    """One recorded step: its parents on the same level, and the pullback to each."""

    __slots__ = ("parents", "pullbacks")

    def __init__(self, parents=(), pullbacks=()):
        self.parents, self.pullbacks = parents, pullbacks


class Primitive:
    """A function with derivative rules, one per positional argument.

    A rule is staged: rule(ans, *args, **params) returns the pullback g -> gradient, which holds on to nothing but what
    it uses. `each` replaces the rules where the number of arguments varies: each(i, ans, *args, **params).
    A Primitive without rules gives constants: the result is a plain array.
    """

    def __init__(self, forward, *rules, each=None, name=None):
        self.forward, self.rules, self.each = forward, rules, each
        self.__name__ = self.name = name or getattr(forward, "__name__", repr(forward))

    def __repr__(self):
        return f"<op {self.name}>"

    def __call__(self, *args, **params):
        level = max([a.level for a in args if isinstance(a, Tensor)], default=0)
        if not level:
            try:
                return self.forward(*args, **params)
            except ValueError as error:
                shapes = " and ".join(str(a.shape) for a in args if hasattr(a, "shape"))
                raise ValueError(f"{self.name}: shapes {shapes} do not fit: {error}") from None
        tracked = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.level == level]
        values = [a.value if isinstance(a, Tensor) and a.level == level else a for a in args]
        ans = self(*values, **params)
        if not (self.rules or self.each):
            return ans
        pullbacks = tuple(self._rule(i)(ans, *values, **params) for i in tracked)
        return Tensor(ans, Node(tuple(args[i].node for i in tracked), pullbacks), level)

    def _rule(self, i):
        if self.each:
            return lambda *args, **params: self.each(i, *args, **params)
        if i >= len(self.rules) or self.rules[i] is None:
            raise NoRuleError(f"{self.name}: there is no derivative rule for argument {i}; pass it as a plain array")
        return self.rules[i]


class Tensor:
    """An array inside a derivative: `value` underneath, `node` on the tape of `level`. Immutable; use it like an array."""

    __slots__ = ("value", "node", "level")
    __array_priority__ = 1000
    __hash__ = object.__hash__

    def __init__(self, value, node, level):
        self.value, self.node, self.level = value, node, level

    def __array_ufunc__(self, ufunc, method, *inputs, **params):
        if method != "__call__":
            raise _no_rule(ufunc, f".{method}")
        if params.pop("out", None) is not None:
            raise TypeError(f"numpy.{ufunc.__name__}: out= cannot be used inside a derivative; use the returned value")
        return _lookup(ufunc)(*inputs, **params)

    def __array_function__(self, function, types, args, params):
        return _lookup(function)(*args, **params)

    def __array__(self, *args, **kwargs):
        raise TypeError("a Tensor cannot become a plain array inside a derivative: write it with NumPy functions, "
                        "or take .value, which is a constant")

    def __setitem__(self, index, value):
        raise TypeError("a Tensor cannot be assigned to: build the result with np.where, np.concatenate or np.stack")

    def __getitem__(self, index):
        return OVERRIDES["getitem"](self, index)

    def __repr__(self):
        return f"Tensor({self.value!r})"

    def __len__(self):
        return len(self.value)

    def __bool__(self):
        return bool(self.value)

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: np.transpose(self))

    def astype(self, dtype):
        return OVERRIDES["astype"](self, dtype)

    def reshape(self, *shape):
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)


def _operator(ufunc, swap=False):
    return (lambda a, b: OVERRIDES[ufunc](b, a)) if swap else (lambda *args: OVERRIDES[ufunc](*args))


for _name, _ufunc in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
                      "pow": np.power, "matmul": np.matmul}.items():
    setattr(Tensor, f"__{_name}__", _operator(_ufunc))
    setattr(Tensor, f"__r{_name}__", _operator(_ufunc, swap=True))
for _name, _ufunc in {"neg": np.negative, "abs": np.absolute, "lt": np.less, "le": np.less_equal, "gt": np.greater,
                      "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal}.items():
    setattr(Tensor, f"__{_name}__", _operator(_ufunc))
for _name in ("sum", "mean", "var", "std", "prod", "max", "min", "argmax", "argmin", "cumsum", "ravel", "squeeze",
              "transpose", "swapaxes", "diagonal", "trace", "dot", "clip", "round", "all", "any"):
    setattr(Tensor, _name, lambda self, *args, _f=getattr(np, _name), **params: _f(self, *args, **params))


def _lookup(function):
    try:
        return OVERRIDES[function]
    except KeyError:
        raise _no_rule(function) from None


def _no_rule(function, method=""):
    module = getattr(function, "__module__", None) or "numpy"
    name = f"{module}.{function.__name__}{method}"
    return NoRuleError(f"{name} has no derivative rule: add one with "
                       f"npgen.ops.op({name}, lambda ans, x: lambda g: <gradient>), or apply it to .value as a constant")


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
        if not node.parents:
            leaves[node] = g
        for parent, pullback in zip(node.parents, node.pullbacks, strict=True):
            contribution = pullback(g)
            if parent not in cotangents:
                cotangents[parent] = contribution
            elif parent in owned and not isinstance(contribution, Tensor):
                cotangents[parent] += contribution
            else:  # the first contribution may be another node's array: never add into that
                cotangents[parent] = cotangents[parent] + contribution
                if isinstance(cotangents[parent], np.ndarray):
                    owned.add(parent)
            uses[parent] -= 1
            if not uses[parent]:
                ready.append(parent)
        if not retain:
            node.parents = node.pullbacks = ()
    return leaves


def _map(f, *trees):
    """Apply f to the arrays of nested dicts, lists and tuples that share one structure."""
    tree = trees[0]
    if isinstance(tree, dict):
        return {key: _map(f, *(t[key] for t in trees)) for key in tree}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(f, *items) for items in zip(*trees, strict=True))
    return f(*trees)


def _trace(name, f, args, argnums):
    """Run f with the chosen arguments as new leaves -> (output on this level or a constant, level, the leaves)."""
    level = next(_levels)

    def leaf(x):
        x = x if hasattr(x, "dtype") else np.asarray(x)
        if x.dtype.kind != "f":
            raise TypeError(f"{name}: cannot differentiate with respect to an array of dtype {x.dtype}; "
                            "pass floating-point values, for example x.astype(float)")
        return Tensor(x, Node(), level)

    for i in argnums:
        if not -len(args) <= i < len(args):
            raise ValueError(f"{name}: argnum is {i}, but the function was called with {len(args)} positional argument(s)")
    args, leaves = list(args), []
    for i in argnums:
        args[i] = _map(leaf, args[i])
        leaves.append(args[i])
    return f(*args), level, leaves


def _peel(out, level):
    return out.value if isinstance(out, Tensor) and out.level == level else out


def _pull(out, level, leaves, g, retain=False):
    found = backward(out.node, g, retain=retain) if isinstance(out, Tensor) and out.level == level else {}

    def gradient(leaf):
        d = found.get(leaf.node)
        if d is None:
            return np.zeros_like(leaf.value)
        return d if d.dtype == leaf.dtype else OVERRIDES["astype"](d, leaf.dtype)

    return [_map(gradient, tree) for tree in leaves]


def value_and_grad(f, argnum=0):
    """The function (*args) -> (f(*args), df/dargs[argnum]) of a scalar-valued f; argnum is an int or a tuple of them.

    Raises TypeError for an argument that is not floating-point, ValueError if f does not return a scalar.
    """
    argnums = (argnum,) if isinstance(argnum, int) else tuple(argnum)

    def run(*args):
        out, level, leaves = _trace("grad", f, args, argnums)
        value = _peel(out, level)
        shape = getattr(value, "shape", ())
        if shape != ():
            raise ValueError(f"grad: the function returned an array of shape {shape}, not a scalar; "
                             "sum it, or use vjp or jacobian")
        gradients = _pull(out, level, leaves, np.ones_like(value))
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
            raise ValueError(f"vjp: the cotangent has shape {np.shape(g)}, but the function returned shape {np.shape(value)}")
        return tuple(_pull(out, level, leaves, g, retain=True))

    return value, pull


def jacobian(f, argnum=0):
    """The function (*args) -> J, J[o, i] = df_o / dx_i, of shape f's output shape + x's shape, x = args[argnum].

    Raises TypeError for an argument that is not floating-point.
    """
    def run(*args):
        i = argnum % len(args) if args else argnum
        value, pull = vjp(lambda x: f(*args[:i], x, *args[i + 1:]), args[i])
        shape, n = np.shape(value), int(np.prod(np.shape(value), dtype=int))
        basis = np.eye(n, dtype=value.dtype).reshape((n, *shape))
        rows = [pull(e)[0] for e in basis]
        x_shape = np.shape(args[i])
        return np.reshape(np.stack(rows), shape + x_shape) if rows else np.zeros(shape + x_shape, value.dtype)

    return run


def hvp(f, x, v):
    """The Hessian of a scalar-valued f at x times v, by reverse over reverse; v has x's structure and shapes.

    Raises as grad does.
    """
    def directional(x):
        terms = []
        _map(lambda d, u: terms.append(np.sum(d * u)), grad(f)(x), v)
        return sum(terms[1:], terms[0])

    return grad(directional)(x)
