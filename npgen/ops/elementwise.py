"""Ops of every entry: arithmetic, elementary and special functions, and those whose results are constants."""
import math
from functools import partial

import numpy as np

from ..engine import OVERRIDES, Selected
from ..kernels import _blas
from ..kernels import reparameterize as _reparameterize_kernel
from ..kernels._cuda import is_device_array
from ..kernels._cuda import special as device_special
from .rules import by_entries, composed, contiguous, like, op, selected

# ---------------------------------------------------------------- constants: results that carry no derivative

for _f in (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal, np.isnan, np.isfinite,
           np.isinf, np.sign, np.signbit, np.floor, np.ceil, np.rint, np.trunc, np.round, np.floor_divide, np.argmax,
           np.argmin, np.argsort, np.searchsorted, np.all, np.any, np.logical_and, np.logical_or, np.logical_not,
           np.nonzero, np.argwhere, np.flatnonzero, np.count_nonzero, np.isclose, np.allclose, np.array_equal,
           np.zeros_like, np.ones_like, np.empty_like, np.shape, np.ndim, np.size, np.result_type):
    op(_f)

stop_gradient = op(lambda x: x, name="stop_gradient")  # its value, as a constant


# ---------------------------------------------------------------- elementwise

add = op(np.add, lambda ans, x, y: like(ans, x), lambda ans, x, y: like(ans, y))
subtract = op(np.subtract, lambda ans, x, y: like(ans, x), lambda ans, x, y: like(ans, y, lambda g: -g))
multiply = op(np.multiply, lambda ans, x, y: like(ans, x, lambda g: g * y), lambda ans, x, y: like(ans, y, lambda g: g * x))
divide = op(np.true_divide, lambda ans, x, y: like(ans, x, lambda g: g / y),
            lambda ans, x, y: like(ans, y, lambda g: -g * ans / y))
power = op(np.power,
           lambda ans, x, y: like(ans, x, lambda g: g * y * power(_unless(np.equal(x, 0) & np.equal(y, 0), x, g), y - 1)),
           lambda ans, x, y: like(ans, y, lambda g: g * ans * log(_unless(np.equal(x, 0), x, g))))
remainder = op(np.remainder, lambda ans, x, y: like(ans, x),
               lambda ans, x, y: like(ans, y, lambda g: -g * np.floor_divide(x, y)))
positive = op(np.positive, lambda ans, x: lambda g: g)
copy = op(np.copy, lambda ans, x: lambda g: g, partly=by_entries)
negative = op(np.negative, lambda ans, x: lambda g: -g)
reciprocal = op(np.reciprocal, lambda ans, x: lambda g: -g * ans * ans)
absolute = op(np.absolute, lambda ans, x: (lambda g: real(g) * ratio(conj(x), ans)) if x.dtype.kind == "c" else
              lambda g: g * np.sign(x))
square = op(np.square, lambda ans, x: lambda g: 2 * g * x)
sqrt = op(np.sqrt, lambda ans, x: lambda g: g / (2 * ans))
cbrt = op(np.cbrt, lambda ans, x: lambda g: g / (3 * ans * ans))
hypot = op(np.hypot, lambda ans, x, y: like(ans, x, lambda g: g * ratio(x, ans)),
           lambda ans, x, y: like(ans, y, lambda g: g * ratio(y, ans)))
exp = op(np.exp, lambda ans, x: lambda g: g * ans)
expm1 = op(np.expm1, lambda ans, x: lambda g: g * (ans + 1))
exp2 = op(np.exp2, lambda ans, x: lambda g: g * ans * math.log(2))
log = op(np.log, lambda ans, x: lambda g: g / x)
log1p = op(np.log1p, lambda ans, x: lambda g: g / (x + 1))
log2 = op(np.log2, lambda ans, x: lambda g: g / (x * math.log(2)))
log10 = op(np.log10, lambda ans, x: lambda g: g / (x * math.log(10)))
sin = op(np.sin, lambda ans, x: lambda g: g * cos(x))
cos = op(np.cos, lambda ans, x: lambda g: -g * sin(x))
tan = op(np.tan, lambda ans, x: lambda g: g * (1 + ans * ans))
arcsin = op(np.arcsin, lambda ans, x: lambda g: g / sqrt(1 - x * x))
arccos = op(np.arccos, lambda ans, x: lambda g: -g / sqrt(1 - x * x))
arctan = op(np.arctan, lambda ans, x: lambda g: g / (1 + x * x))
arctan2 = op(np.arctan2, lambda ans, y, x: like(ans, y, lambda g: g * ratio(x, hypot(x, y)) / hypot(x, y)),
             lambda ans, y, x: like(ans, x, lambda g: -g * ratio(y, hypot(x, y)) / hypot(x, y)))
sinh = op(np.sinh, lambda ans, x: lambda g: g * cosh(x))
cosh = op(np.cosh, lambda ans, x: lambda g: g * sinh(x))
tanh = op(np.tanh, lambda ans, x: lambda g: g * (1 - ans * ans))
arcsinh = op(np.arcsinh, lambda ans, x: lambda g: g / sqrt(x * x + 1))
arccosh = op(np.arccosh, lambda ans, x: lambda g: g / sqrt(x * x - 1))
arctanh = op(np.arctanh, lambda ans, x: lambda g: g / (1 - x * x))
logaddexp = op(np.logaddexp, lambda ans, x, y: like(ans, x, lambda g: g * sigmoid(_apart(x, y))),
               lambda ans, x, y: like(ans, y, lambda g: g * sigmoid(_apart(y, x))))
maximum = op(np.maximum, lambda ans, x, y: like(ans, x, lambda g: _split_ties(x, y, np.greater, g)),  # ties share equally
             lambda ans, x, y: like(ans, y, lambda g: _split_ties(y, x, np.greater, g)))
minimum = op(np.minimum, lambda ans, x, y: like(ans, x, lambda g: _split_ties(x, y, np.less, g)),
             lambda ans, x, y: like(ans, y, lambda g: _split_ties(y, x, np.less, g)))
where = op(np.where, None, lambda ans, c, x, y: like(ans, x, lambda g: selected(g, np.logical_and(c, True))),
           lambda ans, c, x, y: like(ans, y, lambda g: selected(g, np.logical_not(c))), partly=by_entries)


# x / r for |x| <= r: 0 / 0 is 0, the smallest slope of a norm at its kink. The slope's own derivative is infinite there.
ratio = op(lambda x, r: x / (r + (r == 0)), lambda ans, x, r: like(ans, x, lambda g: g / r),
           lambda ans, x, r: like(ans, r, lambda g: -g * ans / r), partly=by_entries, name="ratio")


def _apart(x, y):
    """x - y, but 0 between equal infinities."""
    same = np.equal(x, y) & np.isinf(x)
    return where(same, 0, x) - where(same, 0, y) if is_device_array(same) or np.any(same) else x - y  # it waits for no device


def _unless(condition, x, g):
    """x, but 1 where the condition holds; of g's dtype where x is a Python number."""
    one = np.ones_like(g, shape=(1,) * np.ndim(g))
    return where(condition if np.ndim(condition) else np.equal(one, condition), one, x)  # CuPy's is no number


def _split_ties(x, y, wins, g):
    won, tied = wins(x, y), np.equal(x, y)
    return Selected(g * (won.astype(g.dtype) + tied.astype(g.dtype) / 2), won | tied)


# Complex numbers on the way from real ones to real ones: the cotangent g of z is that of dL = Re(g dz).
real = op(np.real, lambda ans, x: lambda g: real(g) if g.dtype.kind == "c" else g, partly=by_entries)
imag = op(np.imag, lambda ans, x: lambda g: -1j * real(g) if x.dtype.kind == "c" else 0 * g, partly=by_entries)
conj = op(np.conj, lambda ans, x: conj)
OVERRIDES["real"] = real
relu = op(lambda x: np.maximum(x, 0), lambda ans, x: lambda g: selected(g, ans > 0), partly=by_entries, name="relu")
sigmoid = op(lambda x: np.exp(-np.maximum(-x, 0)) / (1 + np.exp(-abs(x))),  # 1 / (1 + e^-x), precise on both sides
             lambda ans, x: lambda g: g * ans * (1 - ans), partly=by_entries, name="sigmoid")
softplus = op(lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), lambda ans, x: lambda g: g * sigmoid(x),
              partly=by_entries, name="softplus")
bounded = op(lambda x, limit: limit * np.tanh(x / limit),  # x where it is small, never beyond +-limit
             lambda ans, x, limit: lambda g: g * (1 - square(ans / limit)), partly=by_entries, name="bounded")
_polygamma = op(lambda x, n: ((-1) ** (n + 1) * math.factorial(n)  # CuPy's takes no n that is a number
                              * special(x).zeta(n + 1.0, x.astype(np.float64))).astype(x.dtype),
                lambda ans, x, n: lambda g: g * _polygamma(x, n + 1), partly=by_entries, name="polygamma")
digamma = op(lambda x: special(x).psi(x), lambda ans, x: lambda g: g * _polygamma(x, 1), partly=by_entries, name="digamma")
gammaln = op(lambda x: special(x).gammaln(x), lambda ans, x: lambda g: g * digamma(x), partly=by_entries, name="gammaln")
erf = op(lambda x: special(x).erf(x), lambda ans, x: lambda g: g * exp(-x * x) * (2 / math.sqrt(math.pi)), partly=by_entries,
         name="erf")
normal_log_mass = op(lambda low, high: _log_mass(low, high),
                     lambda ans, low, high: like(ans, low, lambda g: -g * exp(-low * low / 2 - ans) / math.sqrt(2 * math.pi)),
                     lambda ans, low, high: like(ans, high, lambda g: g * exp(-high * high / 2 - ans) / math.sqrt(2 * math.pi)),
                     partly=by_entries, name="normal_log_mass")  # log P(low < z < high) of a standard normal z
OVERRIDES.update({"psi": digamma, "gammaln": gammaln, "erf": erf, "expit": sigmoid})  # SciPy's ufuncs, by name
astype = op(lambda x, dtype: x.astype(dtype), lambda ans, x, dtype: partial(_cast_back, dtype=x.dtype), partly=by_entries,
            name="astype")
OVERRIDES["astype"] = astype


def as_real(g, dtype):
    """The cotangent of an array of this dtype: its real part if that is real."""
    return real(g) if g.dtype.kind == "c" != dtype.kind else g


def _cast_back(g, dtype):
    return astype(as_real(g, dtype), dtype=dtype)


def _log_mass(low, high):
    """log(Phi(high) - Phi(low)), as precise in either tail as in the middle, for low < high; infinite ones may be 1e100."""
    functions, turned = special(low), low + high > 0
    low, high = np.where(turned, -high, low), np.where(turned, -low, high)  # the side on which Phi is small, and precise
    numbers = np.finfo(low.dtype)
    far, tiny = -math.sqrt(float(numbers.max)) / 2, float(numbers.tiny)
    low, below = np.maximum(low, far), np.maximum(np.minimum(high, 0), far)  # whose squares are numbers
    across, deep = high > 0, below < -0.75 * math.sqrt(-2 * math.log(tiny))  # where Phi is not far from being no number

    def log(mass):
        return np.log(np.maximum(mass, tiny))

    def in_the_middle(low, high):
        return log(functions.erf(high / math.sqrt(2)) - functions.erf(low / math.sqrt(2))) - math.log(2)

    def in_the_tail(low, below):
        upper = functions.log_ndtr(below)
        return upper + log(-np.expm1(functions.log_ndtr(low) - upper))

    aside = log(functions.ndtr(below) - functions.ndtr(low))
    if is_device_array(low):  # which would have to be waited for
        return np.where(across, in_the_middle(low, high), np.where(deep, in_the_tail(low, below), aside))
    answer = np.array(aside)
    answer[across], answer[deep] = in_the_middle(low[across], high[across]), in_the_tail(low[deep], below[deep])
    return answer


def special(x):
    """The module that has SciPy's special functions of x, where it is."""
    if is_device_array(x):
        return device_special()
    _blas.load()  # before what imports scipy.linalg, so that it is npgen that chooses its kernels
    import scipy.special
    return scipy.special


@composed(np.clip)
def clip(x, a_min=None, a_max=None, *, min=None, max=None):
    """x limited to [a_min, a_max]; the gradient at a bound is shared between x and the bound."""
    a_min, a_max = min if a_min is None else a_min, max if a_max is None else a_max
    x = x if a_min is None else maximum(x, a_min)
    return x if a_max is None else minimum(x, a_max)


# ---------------------------------------------------------------- with a kernel

_reparameterize = op(lambda m, s, *at: _reparameterize_kernel.forward(*contiguous(m, s), *at),
                     lambda ans, m, s, *at: lambda g: g,
                     lambda ans, m, s, *at: lambda g: _reparameterize_ds(g, s, *at), name="reparameterize")
_reparameterize_ds = op(lambda g, s, *at: _reparameterize_kernel.backward(*contiguous(g, s), *at),
                        lambda ans, g, s, *at: lambda h: _reparameterize_ds(h, s, *at),
                        lambda ans, g, s, *at: lambda h: h * ans / 2, name="reparameterize.backward")


def reparameterize(mean, log_var, key, start):
    """z = mean + exp(log_var / 2) * eps, eps the standard normals of the stream `key` from value `start` on.

    mean, log_var (n, d); the noise is regenerated, not stored, for the gradient (Kingma & Welling, 2014).
    """
    return _reparameterize(mean, log_var, *key, start)
