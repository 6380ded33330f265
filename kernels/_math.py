"""exp, log, tanh and their kin for jitted loops: polynomials, which vectorise where a call to libm does not.

Only additions, multiplications and divisions, each rounded, in the order written and never contracted to a fused
multiply-add: the same bits on every CPU, and on a GPU that spells them `__fadd_rn`, `__fmul_rn`, `__fdiv_rn`. Those called
fused are contracted where the CPU can, to half the instructions, for kernels that promise no bits between CPUs.

    exp(x)         every x: overflow, subnormal results, infinities and NaN included    1.5 ulp
    exp_small(x)   exp(x) for |x| < 80: the same bits in two thirds of the steps        1.5 ulp
    exp_fused(x), exp_small_fused(x)    as these, in fused multiply-adds                1.5 ulp
    log(x)         every x: log(0) = -inf, log(x < 0) = NaN, log(inf) = inf             1 ulp
    log1p(x)       log(1 + x) for every x                                               1 ulp
    tanh(x)        every x                                                              1.5 ulp
    tanh_fused(x)  every x, in fused multiply-adds                                      1.5 ulp
    turn(u)        cos(2 pi u), sin(2 pi u) for |u| < 1000                              2.5 ulp
    sum_in_lanes(v)    the sum of an array, in the order that vectorises
    order(x)       integers that sort as the numbers do, so that a maximum vectorises
                   too; NaN at either end; from_order(i) is its inverse                 exact

References: Cody & Waite (1980), exp; Sun Microsystems' fdlibm (1993), log, log1p and double sine and cosine; Moshier's
Cephes (1992), double tanh, single sine and cosine. Single tanh: a minimax fit of the same form.
"""
import numpy as np

from . import _jit
from ._jit import jit

fused = None  # for those who import it where there is no Numba

if _jit.available:
    from llvmlite.ir import FunctionType
    from numba import types
    from numba.extending import intrinsic, overload

    def _bit_cast(target_of):
        @intrinsic
        def cast(typingctx, value):
            target = target_of[value]
            return target(value), lambda context, builder, signature, args: builder.bitcast(
                args[0], context.get_value_type(target))
        return cast

    @intrinsic
    def fused(typingctx, a, b, c):
        """a b + c, rounded once where the CPU has an instruction for it, else twice."""
        def codegen(context, builder, signature, args):
            kind = args[0].type
            return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", [kind], FunctionType(kind, [kind] * 3)), args)
        return a(a, b, c), codegen

    _bits = _bit_cast({types.float32: types.int32, types.float64: types.int64})
    _real = _bit_cast({types.int32: types.float32, types.int64: types.float64})


@jit(fastmath={"reassoc"})  # lets the sum be taken in lanes
def sum_in_lanes(values):
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


@jit
def _polynomial(x, coefficients):
    """The polynomial with these coefficients, highest power first."""
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


@jit
def _polynomial_fused(x, coefficients):
    y = coefficients[0]
    for c in coefficients[1:]:
        y = fused(y, x, c)
    return y


def _functions(real, integer, mantissa, exp_range, exp_poly, ln2, log_poly, tanh_top, tanh_bottom, sin_poly, cos_poly):
    """The functions of one floating type: every constant must have that type, or Numba would compute in float64."""
    exp_poly, log_poly, tanh_top, tanh_bottom, sin_poly, cos_poly = (
        tuple(map(real, p)) for p in (exp_poly, log_poly, tanh_top, tanh_bottom, sin_poly, cos_poly))
    (lowest, highest), (ln2_high, ln2_low) = map(real, exp_range), map(real, ln2)
    exp_poly_whole = *exp_poly, real(1), real(1)
    zero, quarter, half, one, two, four, twenty, inf, nan = map(real, (0, 0.25, 0.5, 1, 2, 4, 20, np.inf, np.nan))
    log2e, tau, tiny, near_zero = map(real, (1 / np.log(2), 2 * np.pi, np.finfo(real).tiny, 0.625))
    lift, lift_bits = map(real, (2.0**mantissa, mantissa))
    round_off = real(1.5 * 2.0**mantissa)  # adding it leaves the nearest integer in the lowest bits
    bias, bits_of_round_off, bits_of_root_half = (x.view(integer) for x in (one, round_off, real(np.sqrt(0.5))))
    all_but_sign, sign_shift = integer(np.iinfo(integer).max), np.iinfo(integer).bits - 1

    @jit
    def power_of_two(k):
        return _real(integer((k << mantissa) + bias))

    @jit
    def exp_parts(x):
        """y and k of exp(x) = y 2**k."""
        shifted = x * log2e + round_off
        n = shifted - round_off
        r = (x - n * ln2_high) - n * ln2_low
        return one + (r + r * r * _polynomial(r, exp_poly)), integer(_bits(shifted) - bits_of_round_off)

    @jit
    def exp_parts_fused(x):
        shifted = fused(x, log2e, round_off)
        n = shifted - round_off
        r = fused(n, -ln2_low, fused(n, -ln2_high, x))
        return _polynomial_fused(r, exp_poly_whole), integer(_bits(shifted) - bits_of_round_off)

    def exp_of(parts):
        @jit
        def exp(x):
            x = lowest if x < lowest else x
            y, k = parts(highest if x > highest else x)
            first = k >> 1  # in two factors, as 2**k itself can overflow or be subnormal
            return y * power_of_two(first) * power_of_two(k - first)
        return exp

    exp, exp_fused = exp_of(exp_parts), exp_of(exp_parts_fused)

    @jit
    def exp_small(x):
        y, k = exp_parts(x)
        return y * power_of_two(k)

    @jit
    def exp_small_fused(x):
        y, k = exp_parts_fused(x)
        return _real(integer(_bits(y) + (k << mantissa)))  # y 2**k: one instruction less

    @jit
    def log_of_parts(n, f, low):
        """log(2**n (1 + f)) + low, for 1 + f in [sqrt(1/2), sqrt(2)] and a low far below 1, or below f."""
        s = f / (two + f)
        z = s * s
        square = half * f * f
        return n * ln2_high - ((square - (s * (square + z * _polynomial(z, log_poly)) + (n * ln2_low + low))) - f)

    @jit
    def log_plus(x, low):
        """log(x) + low."""
        small = x < tiny
        i = _bits(x * lift if small else x)
        k = integer(integer(i - bits_of_root_half) >> mantissa)
        f = _real(integer(i - (k << mantissa))) - one
        y = log_of_parts(real(k) - (lift_bits if small else zero), f, low)
        y = y if x > zero else (-inf if x == zero else nan)
        return inf if x == inf else y

    @jit
    def log(x):
        return log_plus(x, zero)

    @jit
    def log1p(x):
        u = one + x
        y = log_plus(u, (x - (u - one)) / u)  # x - (u - 1) is what u has lost
        return x if x == zero else y

    @jit
    def tanh(x):
        a = abs(x)
        z, e, near = a * a, exp(a + a), a < near_zero
        top, bottom = a * z * _polynomial(z, tanh_top), _polynomial(z, tanh_bottom)
        y = (a if near else one) + (top if near else -two) / (bottom if near else e + one)
        return _real(integer(_bits(y) | (_bits(x) & ~all_but_sign)))

    @jit
    def tanh_fused(x):
        a = abs(x)
        z, e, near = a * a, exp_small_fused(two * (twenty if a > twenty else a)), a < near_zero
        top, bottom = a * z * _polynomial_fused(z, tanh_top), _polynomial_fused(z, tanh_bottom)
        y = (a if near else one) + (top if near else -two) / (bottom if near else e + one)
        return _real(integer(_bits(y) | (_bits(x) & ~all_but_sign)))

    @jit
    def turn(u):
        shifted = u * four + round_off
        quadrant = _bits(shifted)
        x = (u - (shifted - round_off) * quarter) * tau
        z = x * x
        sine = x + x * z * _polynomial(z, sin_poly)
        cosine = one - (half * z - z * z * _polynomial(z, cos_poly))
        c, s = (sine, cosine) if quadrant & 1 != 0 else (cosine, sine)
        return (-c if (quadrant + 1) & 2 != 0 else c), (-s if quadrant & 2 != 0 else s)

    @jit
    def order(x):
        i = _bits(x)
        return integer(i ^ ((i >> sign_shift) & all_but_sign))

    @jit
    def from_order(i):
        return _real(integer(i ^ ((i >> sign_shift) & all_but_sign)))

    return {"exp": exp, "exp_small": exp_small, "exp_fused": exp_fused, "exp_small_fused": exp_small_fused, "log": log,
            "log1p": log1p, "tanh": tanh, "tanh_fused": tanh_fused, "turn": turn, "order": order, "from_order": from_order}


SINGLE = dict(  # the constants of float32
    exp_range=(-104, 89),
    exp_poly=(1.3926183587713495e-3, 8.3631790527225774e-3, 4.1666554617204574e-2, 0.16666576989698776, 0.5),
    ln2=(6.9313812256e-1, 9.0580006145e-6),
    log_poly=(0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693),
    tanh_top=(-3.809987863490318e-3, -0.8238333531092730), tanh_bottom=(1, 2.471501937089779),
    sin_poly=(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1),
    cos_poly=(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))

DOUBLE = dict(
    exp_range=(-746, 710),
    exp_poly=(2.5100385495510319e-8, 2.7620088445409748e-7, 2.7557268459997065e-6, 2.4801521295954375e-5,
              1.9841269863053617e-4, 1.3888888917213717e-3, 8.3333333333300618e-3, 4.1666666666624128e-2,
              0.16666666666666667, 0.5),
    ln2=(6.93147180369123816490e-1, 1.90821492927058770002e-10),
    log_poly=(1.479819860511658591e-1, 1.531383769920937332e-1, 1.818357216161805012e-1, 2.222219843214978396e-1,
              2.857142874366239149e-1, 3.999999999940941908e-1, 6.666666666666735130e-1),
    tanh_top=(-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3),
    tanh_bottom=(1, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3),
    sin_poly=(1.58969099521155010221e-10, -2.50507602534068634195e-8, 2.75573137070700676789e-6,
              -1.98412698298579493134e-4, 8.33333333332248946124e-3, -1.66666666666666324348e-1),
    cos_poly=(-1.13596475577881948265e-11, 2.08757232129817482790e-9, -2.75573143513906633035e-7,
              2.48015872894767294178e-5, -1.38888888888741095749e-3, 4.16666666666666019037e-2))

_single, _double = _functions(np.float32, np.int32, 23, **SINGLE), _functions(np.float64, np.int64, 52, **DOUBLE)


def by_type(single, double):
    """A function for jitted code: `single` where the first argument, number or array, has 32 bits, else `double`."""
    def function(x, *args):
        raise NotImplementedError("only for jitted code")
    if _jit.available:
        @overload(function)
        def choose(x, *args):
            chosen = single if getattr(x, "dtype", x).bitwidth == 32 else double
            return lambda x, *args: chosen(x, *args)
    return function


exp, exp_small, exp_fused, exp_small_fused, log, log1p, tanh, tanh_fused, turn, order, from_order = (
    by_type(_single[name], _double[name]) for name in _single)
