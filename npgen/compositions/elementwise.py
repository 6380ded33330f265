"""Functions of every entry, written in ops; and those that are constants, because they move in steps."""
import functools
import math

import numpy as np

from .. import ops
from ..engine import OVERRIDES, Tensor
from ..ops import composed, op

for _f in (np.nanargmax, np.nanargmin, np.argpartition, np.lexsort, np.digitize, np.heaviside, np.fix, np.around, np.spacing,
           np.isreal, np.iscomplex, np.isrealobj, np.iscomplexobj, np.isin, np.isposinf, np.isneginf, np.logical_xor,
           np.array_equiv, np.linalg.matrix_rank, np.tril_indices_from, np.triu_indices_from, np.diag_indices_from,
           np.common_type, np.may_share_memory, np.shares_memory, np.can_cast, np.min_scalar_type):
    op(_f)


fabs = composed(np.fabs)(lambda x: ops.absolute(x))
float_power = composed(np.float_power)(lambda x, y: ops.power(x, y))
radians = composed(np.radians, np.deg2rad)(lambda x: x * (math.pi / 180))
degrees = composed(np.degrees, np.rad2deg)(lambda x: x * (180 / math.pi))
logaddexp2 = composed(np.logaddexp2)(lambda x, y: ops.logaddexp(x * math.log(2), y * math.log(2)) / math.log(2))
copysign = composed(np.copysign)(lambda x, y: ops.absolute(x) * (1 - 2 * np.signbit(y).astype(x.dtype)))
ldexp = composed(np.ldexp)(lambda x, n: x * np.exp2(n).astype(x.dtype))
divmod_ = composed(np.divmod)(lambda x, y: (np.floor_divide(x, y), ops.remainder(x, y)))
modf = composed(np.modf)(lambda x: (x - np.trunc(x), np.trunc(x)))
angle = composed(np.angle)(lambda z, deg=False: ops.arctan2(ops.imag(z), ops.real(z)) * (180 / math.pi if deg else 1))
fmod = op(np.fmod, lambda ans, x, y: ops.like(ans, x), lambda ans, x, y: ops.like(ans, y, lambda g: -g * np.trunc(x / y)))


@composed(np.fmax)
def fmax(x, y):
    """The larger one; the other one where one is NaN."""
    return ops.where(np.isnan(x), y, ops.where(np.isnan(y), x, ops.maximum(x, y)))


@composed(np.fmin)
def fmin(x, y):
    """The smaller one; the other one where one is NaN."""
    return ops.where(np.isnan(x), y, ops.where(np.isnan(y), x, ops.minimum(x, y)))


def _bessel(n, x):
    """The spherical Bessel function j_n."""
    from scipy.special import spherical_jn
    return spherical_jn(n, x).astype(x.dtype)


def _bessel_rule(ans, x, n):  # no division by x, so that 0 is a point like any other
    return lambda g: g * ((n * _spherical(x, n - 1) if n else 0) - (n + 1) * _spherical(x, n + 1)) / (2 * n + 1)


_spherical = op(lambda x, n: _bessel(n, x), _bessel_rule, name="spherical_jn")
sinc = op(np.sinc, lambda ans, x: lambda g: g * -math.pi * _spherical(math.pi * x, 1))


@composed(np.nan_to_num)
def nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None):
    """x with numbers for NaN and infinities; the largest there are by default. The gradient there is 0."""
    most = float(np.finfo(x.dtype).max)
    x = ops.where(np.isnan(x), nan, x)
    x = ops.where(np.isposinf(x), most if posinf is None else posinf, x)
    return ops.where(np.isneginf(x), -most if neginf is None else neginf, x)


@composed(np.select)
def select(condlist, choicelist, default=0):
    """The first choice whose condition holds, by entry."""
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        default = ops.where(condition, choice, default)
    return default


@composed(np.choose)
def choose(a, choices):
    """choices[a], by entry."""
    return select([np.equal(a, i) for i in range(len(choices))], choices)


@composed(np.unwrap)
def unwrap(p, discont=None, axis=-1, *, period=2 * math.pi):
    """Angles without the jumps of a period, which are constants."""
    return p + np.unwrap(constant(p), discont, axis, period=period) - constant(p)


@composed(np.polyval)
def polyval(p, x):
    """p[0] x^(n-1) + ... + p[n-1], by Horner's rule."""
    return functools.reduce(lambda total, c: total * x + c, [p[i] for i in range(len(p))], np.zeros_like(x))


@composed(np.vander)
def vander(x, N=None, increasing=False):
    """The powers of x (n,) side by side, (n, N)."""
    powers = range(len(x) if N is None else N)
    return ops.stack([x**k for k in (powers if increasing else reversed(powers))], axis=1)


def constant(x):
    """The array that a Tensor of any level stands for."""
    while isinstance(x, Tensor):
        x = x.value
    return x


OVERRIDES.update({np.amax: OVERRIDES[np.max], np.amin: OVERRIDES[np.min]})
composed(np.astype)(lambda x, dtype: ops.astype(x, dtype))
