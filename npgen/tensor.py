"""The Tensor: an array inside a derivative, with NumPy's functions, methods and operators. It knows no op: OVERRIDES does."""
import numpy as np

OVERRIDES = {}  # NumPy function -> the callable that handles Tensors; filled by ops/ and by users' own ops


class NoRuleError(NotImplementedError):
    """A NumPy function without a derivative rule met a Tensor."""


class Tensor:
    """An array inside a derivative: `value` underneath, `node` on the tape of `level`. Use it like an array."""

    __slots__ = ("value", "node", "level")
    __array_priority__ = 1000
    __hash__ = object.__hash__

    def __init__(self, value, node, level):
        self.value, self.node, self.level = value, node, level

    def __array_ufunc__(self, ufunc, method, *inputs, **params):
        if method != "__call__":
            if (ufunc, method) not in OVERRIDES:
                raise _no_rule(ufunc, f".{method}")
            return OVERRIDES[ufunc, method](*inputs, **params)
        if params.pop("out", None) is not None:
            raise TypeError(f"numpy.{ufunc.__name__}: out= cannot be used inside a derivative; use the returned value")
        return _lookup(ufunc)(*inputs, **params)

    def __array_function__(self, function, types, args, params):
        return _lookup(function)(*args, **params)

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "a Tensor cannot become a plain array inside a derivative: use np.stack in place of np.array([x[0], x[1]]) "
            "or of assignments, npgen.ops.logsumexp and softmax in place of SciPy's, NumPy's functions in place of "
            "math's, or take .value, which is a constant")

    __float__ = __int__ = __complex__ = __index__ = __array__

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
    mT = property(lambda self: np.matrix_transpose(self))
    real = property(lambda self: np.real(self))
    imag = property(lambda self: np.imag(self))
    flatten = property(lambda self: self.ravel)

    def astype(self, dtype):
        return OVERRIDES["astype"](self, dtype)

    def reshape(self, *shape):
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        return np.transpose(self, (axes[0] if len(axes) == 1 else axes) or None)


def value_of(a):
    """The array in a Tensor, however many derivatives it is in."""
    while isinstance(a, Tensor):
        a = a.value
    return a


def _operator(ufunc, swap=False):
    return (lambda a, b: OVERRIDES[ufunc](b, a)) if swap else (lambda *args: OVERRIDES[ufunc](*args))


def _method(function):
    return lambda self, *args, **params: function(self, *args, **params)


for _name, _ufunc in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
                      "pow": np.power, "matmul": np.matmul, "mod": np.remainder,
                      "floordiv": np.floor_divide}.items():
    setattr(Tensor, f"__{_name}__", _operator(_ufunc))
    setattr(Tensor, f"__r{_name}__", _operator(_ufunc, swap=True))
for _name, _ufunc in {"pos": np.positive, "neg": np.negative, "abs": np.absolute, "lt": np.less, "le": np.less_equal,
                      "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal}.items():
    setattr(Tensor, f"__{_name}__", _operator(_ufunc))
for _name in ("sum", "mean", "var", "std", "prod", "max", "min", "argmax", "argmin", "cumsum", "ravel", "squeeze",
              "swapaxes", "diagonal", "trace", "dot", "clip", "round", "all", "any", "copy", "repeat", "take", "cumprod",
              "argsort", "conj", "nonzero", "searchsorted"):
    setattr(Tensor, _name, _method(getattr(np, _name)))


def _lookup(function):
    for key in (function, function.__name__):  # SciPy's ufuncs go by name: to import them here would take too long
        if key in OVERRIDES:
            return OVERRIDES[key]
    raise _no_rule(function)


def _no_rule(function, method=""):
    module = getattr(function, "__module__", None) or "numpy"
    name = f"{module}.{function.__name__}{method}"
    return NoRuleError(f"{name} has no derivative rule: add one with npgen.ops.op({name}, "
                       "lambda ans, x: lambda g: <gradient>), or apply it to .value as a constant")
