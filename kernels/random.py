"""Uniform and normal random numbers from one counter-based stream: any slice of it can be drawn again, in any order.

A key (key0, key1) names a stream, two 32-bit integers; `start` addresses a value in it. Both kernels fill `out` with
the values [start, start + N) and return it. The bits depend on nothing else: not on N, chunks, threads or machine.

Philox4x32-10 turns the counter c, as words (c mod 2**32, c div 2**32, 0, 0), into four 32-bit words. Counter c is lane
c & 63 of block c >> 6. In float32 a block holds 256 values, and the four words of a lane make the values at offsets
lane + (0, 64, 128, 192). In float64 it holds 128: words 0 and 1 (low, high) make the value at lane, words 2 and 3 that
at lane + 64.

    uniform    u = (w >> 9) 2**-23 + 2**-24, in float64 (w >> 12) 2**-52 + 2**-53: strictly inside (0, 1)
    normal     words (w, w') in pairs, first at the lower offset: r cos(2 pi a), r sin(2 pi a) with r = sqrt(-2 log u),
               float32    u = ((w >> 1) + 1/2) 2**-31,  a = (w' >> 8) 2**-24      |z| is at most 6.66
               float64    u = ((w >> 11) + 1/2) 2**-53, a = (w' >> 11) 2**-53     |z| is at most 8.65

Numba and the reference agree bit for bit in the uniforms and to 4 ulp in the normals; Numba and CUDA bit for bit in both, and
so does NumPy, step by step as in _math.py, which draws the first values of a process: compiling takes a second, they take less.
References: Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3; Box & Muller (1958).
"""
import numpy as np

from . import _cuda
from ._cuda import KernelError
from ._dispatch import Kernel, _forced
from ._jit import entry, jit, parallel
from ._math import DOUBLE, SINGLE, by_type, log, turn

LANES = 64
CHUNK = 16 * 4 * LANES  # values one thread draws at a time

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)


def values_per_block(dtype):
    """How many values of this dtype one block of 64 counters makes: 256 float32 or 128 float64."""
    return LANES * 16 // np.dtype(dtype).itemsize


def philox(c0, c1, c2, c3, key0, key1):
    """The four words of Philox4x32-10 for a counter of four 32-bit words, each a uint64 or an array of them."""
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = ((product1 >> _HIGH) ^ c1 ^ key0, product1 & _LOW,
                          (product0 >> _HIGH) ^ c3 ^ key1, product0 & _LOW)
        key0, key1 = (key0 + _WEYL[0]) & _LOW, (key1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


# --- reference -------------------------------------------------------------------------------------------------------

def _words_reference(dtype, n, key0, key1, start):
    """The words behind the values, as (blocks, words per lane, lanes), and the offset of the first value."""
    width = values_per_block(dtype)
    blocks = np.arange(start // width, -(-(start + n) // width), dtype=np.uint64)
    counter = blocks[:, None] * np.uint64(LANES) + np.arange(LANES, dtype=np.uint64)
    zero = np.zeros_like(counter)
    words = np.stack(philox(counter & _LOW, counter >> _HIGH, zero, zero, np.uint64(key0), np.uint64(key1)), axis=1)
    if dtype == np.float64:
        words = words[:, 0::2] | words[:, 1::2] << _HIGH
    return words, start % width


def _uniform_reference(out, key0, key1, start):
    words, offset = _words_reference(out.dtype, out.size, key0, key1, start)
    bits = 23 if out.dtype == np.float32 else 52
    drop = np.uint64(9 if out.dtype == np.float32 else 12)
    out[:] = (((words >> drop) + 0.5) * 2.0**-bits).ravel()[offset:offset + out.size]
    return out


def _normal_reference(out, key0, key1, start):
    words, offset = _words_reference(out.dtype, out.size, key0, key1, start)
    radius_drop, angle_drop, radius_bits, angle_bits = (1, 8, 31, 24) if out.dtype == np.float32 else (11, 11, 53, 53)
    u = ((words[:, 0::2] >> np.uint64(radius_drop)).astype(out.dtype) + out.dtype.type(0.5)).astype(float)
    radius = np.sqrt(-2 * np.log(u * 2.0**-radius_bits))
    a = (words[:, 1::2] >> np.uint64(angle_drop)) * 2.0**-angle_bits
    quadrant = np.rint(4 * a)  # taken off first, or the cosine of a rounded angle loses all its digits near its zeros
    z = radius * np.array([1, 1j, -1, -1j])[quadrant.astype(int) % 4] * np.exp(2j * np.pi * (a - quadrant / 4))
    out[:] = np.stack([z.real, z.imag], axis=2).ravel()[offset:offset + out.size]
    return out


# --- NumPy, to the bits of the compiled sides ------------------------------------------------------------------------

def _polynomial(x, coefficients):
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


def _log_by_numpy(x, signed, mantissa, ln2, poly):
    """_math.py's log, for normal x > 0."""
    bits = x.view(signed)
    k = (bits - np.sqrt(x.dtype.type(0.5)).view(signed)) >> mantissa
    n, f = k.astype(x.dtype), (bits - (k << mantissa)).view(x.dtype) - 1
    s = f / (2 + f)
    z, square = s * s, x.dtype.type(0.5) * f * f
    return n * ln2[0] - ((square - (s * (square + z * _polynomial(z, poly)) + (n * ln2[1] + 0))) - f)


def _turn_by_numpy(u, signed, mantissa, sin_poly, cos_poly):
    """_math.py's turn."""
    real = u.dtype.type
    shifted = u * 4 + real(1.5 * 2.0**mantissa)
    quadrant, x = shifted.view(signed), (u - (shifted - real(1.5 * 2.0**mantissa)) * real(0.25)) * real(2 * np.pi)
    z = x * x
    sine, cosine = x + x * z * _polynomial(z, sin_poly), 1 - (real(0.5) * z - z * z * _polynomial(z, cos_poly))
    c, s = np.where(quadrant & 1, (sine, cosine), (cosine, sine))
    return np.where((quadrant + 1) & 2, -c, c), np.where(quadrant & 2, -s, s)


def _normal_by_numpy(out, key0, key1, start):
    real, single = out.dtype.type, out.dtype == np.float32
    signed, mantissa, radius_bits, angle_bits = (np.int32, 23, 31, 24) if single else (np.int64, 52, 53, 53)
    ln2, log_poly, sin_poly, cos_poly = (tuple(map(real, (SINGLE if single else DOUBLE)[name]))
                                         for name in ("ln2", "log_poly", "sin_poly", "cos_poly"))
    words, offset = _words_reference(out.dtype, out.size, key0, key1, start)
    size = 32 if single else 64
    radius, angle = ((words[:, n::2] >> np.uint64(size - bits)).astype(signed).astype(real)
                     for n, bits in enumerate((radius_bits, angle_bits)))
    radius = np.sqrt(-2 * _log_by_numpy((radius + real(0.5)) * real(2.0**-radius_bits), signed, mantissa, ln2, log_poly))
    both = _turn_by_numpy(angle * real(2.0**-angle_bits), signed, mantissa, sin_poly, cos_poly)
    out[:] = np.stack([radius * part for part in both], axis=2).ravel()[offset:offset + out.size]
    return out


# --- Numba -----------------------------------------------------------------------------------------------------------

philox_inlined = jit(philox, inline="always")  # LLVM takes it for too long, and a loop with a call does not vectorise


@jit
def philox_block(words, block, key0, key1):
    """Fill words (4, 64) from the 64 counters of a block."""
    for lane in range(LANES):
        counter = np.uint64(block * LANES + lane)
        words[0, lane], words[1, lane], words[2, lane], words[3, lane] = philox_inlined(
            counter & _LOW, counter >> _HIGH, np.uint64(0), np.uint64(0), key0, key1)


def _fills(real, signed, uniform_bits, radius_bits, angle_bits):
    """The serial fill(out, key0, key1, start) of one floating type, for uniforms and for normals."""
    size, width = np.iinfo(signed).bits, values_per_block(real)
    unsigned = np.uint32 if size == 32 else np.uint64
    uniform_drop, radius_drop, angle_drop = (unsigned(size - bits) for bits in (uniform_bits, radius_bits, angle_bits))
    uniform_unit, radius_unit, angle_unit = (real(2.0**-bits) for bits in (uniform_bits, radius_bits, angle_bits))
    half, minus_two = real(0.5), real(-2)

    @jit
    def uniform(w, v, first, second):
        for lane in range(LANES):
            first[lane] = (real(signed(w[lane] >> uniform_drop)) + half) * uniform_unit
            second[lane] = (real(signed(v[lane] >> uniform_drop)) + half) * uniform_unit

    @jit
    def normal(w, v, first, second):
        for lane in range(LANES):
            radius = np.sqrt(minus_two * log((real(signed(w[lane] >> radius_drop)) + half) * radius_unit))
            cosine, sine = turn(real(signed(v[lane] >> angle_drop)) * angle_unit)
            first[lane], second[lane] = radius * cosine, radius * sine

    def fill_with(draw):
        @jit
        def fill_block(out, words, block, key0, key1):
            philox_block(words, block, np.uint64(key0), np.uint64(key1))
            if size == 64:
                for lane in range(LANES):
                    words[0, lane] |= words[1, lane] << _HIGH
                    words[1, lane] = words[2, lane] | words[3, lane] << _HIGH
            for j in range(0, width // LANES, 2):
                draw(words[j], words[j + 1], out[j * LANES:(j + 1) * LANES], out[(j + 1) * LANES:(j + 2) * LANES])

        @jit
        def fill(out, key0, key1, start):
            words, part = np.empty((4, LANES), unsigned), np.empty(width, out.dtype)
            for block in range(start // width, -(-(start + out.size) // width)):
                low = block * width - start
                whole = low >= 0 and low + width <= out.size
                fill_block(out[low:low + width] if whole else part, words, block, key0, key1)
                if not whole:
                    for i in range(max(low, 0), min(low + width, out.size)):
                        out[i] = part[i - low]
        return fill

    return fill_with(uniform), fill_with(normal)


_single = _fills(np.float32, np.int32, 23, 31, 24)
_double = _fills(np.float64, np.int64, 52, 53, 53)
fill_uniform, fill_normal = map(by_type, _single, _double)


@jit
def _uniform_chunk(chunk, out, key0, key1, start):
    low = chunk * CHUNK
    fill_uniform(out[low:low + CHUNK], key0, key1, start + low)


@entry
def _uniform(out, key0, key1, start):
    parallel(-(-out.size // CHUNK), _uniform_chunk, (out, key0, key1, start))
    return out


@jit
def _normal_chunk(chunk, out, key0, key1, start):
    low = chunk * CHUNK
    fill_normal(out[low:low + CHUNK], key0, key1, start + low)


@entry
def _normal(out, key0, key1, start):
    parallel(-(-out.size // CHUNK), _normal_chunk, (out, key0, key1, start))
    return out


# --- CUDA ------------------------------------------------------------------------------------------------------------

def counters(size, dtype, start):
    """How many counters make the values [start, start + size): a GPU's threads take one each."""
    width = values_per_block(dtype)
    return (-(-(start + size) // width) - start // width) * LANES if size else 0


class Place(int):
    """A place in the stream that counts from block since[0] on, which lies on the device."""

    def __new__(cls, value, since):
        place = super().__new__(cls, value)
        place.since = since
        return place


class Key(int):
    """A word of the key of a stream that another, which has this word there, spawns at block child + since[0]; since lies on
    the device. Or of the stream that this one spawns at its block grandchild."""

    def __new__(cls, value, child, since, grandchild=-1):
        key = super().__new__(cls, value)
        key.child, key.since, key.grandchild = child, since, grandchild
        return key


def spawned(key0):
    """(child, since) of a key, as _random.cuh's spawned takes them. Raises KernelError for a grandchild's."""
    child, grandchild, since = lineage(key0)
    if grandchild >= 0:
        raise KernelError("a kernel draws from a stream that one whose key lies on the device has spawned; only random's can")
    return child, since


def lineage(key0):
    """(child, grandchild, since) of a key, as _random.cuh's spawned takes them."""
    return (key0.child, key0.grandchild, key0.since) if type(key0) is Key else (-1, -1, _cuda.zero())


def since(start):
    """The device array (1,) with the block that start counts from."""
    return start.since if type(start) is Place else _cuda.zero()


def _on_device(name):
    def run(out, key0, key1, start):
        blocks = _cuda.grid(counters(out.size, out.dtype, start), 256)
        _cuda.launch("random", name, blocks, 256, out, out.size, int(key0), int(key1), *lineage(key0),
                     int(start), since(start))
        return out
    return run


FIRST, LEAST = 2**22, 2**12  # values that a process draws by NumPy, which takes some tenths of a second; what a draw counts as
_drawn = 0


def _by_numpy_first(kernel, compiled, out, key0, key1, start):
    """compiled(out, key0, key1, start), by NumPy as long as that is quicker than to compile it: the same bits."""
    global _drawn
    if _drawn >= FIRST or _forced.get():
        return compiled(out, key0, key1, start)
    _drawn += max(out.size, LEAST)
    return by_numpy[kernel](out, key0, key1, start)


uniform = Kernel("random.uniform", "out(N) key0 key1 start", reference=_uniform_reference,
                 numba=lambda *args: _by_numpy_first(uniform, _uniform, *args), cuda=_on_device("uniform"))
normal = Kernel("random.normal", "out(N) key0 key1 start", reference=_normal_reference,
                numba=lambda *args: _by_numpy_first(normal, _normal, *args), cuda=_on_device("normal"))
by_numpy = {uniform: _uniform_reference, normal: _normal_by_numpy}
