"""log of a weighted sum of exponentials along the last axis, its gradient the softmax; defined everywhere.

x (N, D), weights (W, D) with W = 1 (the same for every row; ones for a plain logsumexp) or W = N.

    forward            ans_i = log sum_j w_ij exp(x_ij)                                   (N,)
    backward           g_i w_ij exp(x_ij - ans_i), the gradient with respect to x         (N, D)
    backward_weights   g_i exp(x_ij - ans_i), the gradient with respect to row i's w      (N, D)

No term, because D = 0 or every x is -inf or every w is 0: ans = -inf and both gradients are 0. A weight of 0 drops its
entry, whatever its x. Entries of +inf: ans = +inf, the gradient is shared among them by weight, the rest get 0. A NaN
in x, or a weight that is NaN or negative: value and gradients are NaN in that row alone. Weights are finite.
Rows are independent, so the bits are the same for any thread count. Between CPUs whose vectors differ in length, or of which
one has no fused multiply-add, a sum may differ in its last bits. Agreement with the reference: (8 + D) eps of max(1, |ans|),
by far not reached.
A Zen 4 core takes 0.17 (rows of 4,096) or 0.26 ns (of 32) for a value of float32 in its cache: 0.14 of that is exp, eight
multiply-adds at 94 % of the core's rate; and 0.03 for reading it from the last cache.
Reference: Blanchard, Higham & Higham (2021), Accurately computing log-sum-exp and softmax.
"""
import numpy as np

from . import _cuda
from ._dispatch import Kernel
from ._jit import available, entry, jit, parallel
from ._math import exp_fused, exp_small_fused, from_order, log, order
from ._tile import tile_columns

PIECE = 4096    # values of a task, which the first cache holds
SERIAL = 65536  # values up to which waking other threads would cost more than it saves
MODERATE = 2**16  # what a weight may be, or one over it, for sums that neither overflow nor vanish

# --- reference -------------------------------------------------------------------------------------------------------

def _entries(x, weights):
    x, w = x.astype(float), np.broadcast_to(weights, x.shape).astype(float)
    return np.where(w > 0, x, np.where(w == 0, -np.inf, np.nan)), w


def _forward_reference(x, weights):
    entries, w = _entries(x, weights)
    shift = entries.max(axis=1, initial=-np.inf)
    shift = np.where(np.isfinite(shift), shift, 0)
    with np.errstate(divide="ignore", over="ignore"):
        return (shift + np.log((w * np.exp(entries - shift[:, None])).sum(axis=1))).astype(x.dtype)


def _gradient_reference(g, ans, x, entries, w, factor):
    """g factor exp(entries - ans), with the rows of infinite ans replaced by their limits."""
    infinite = (entries == np.inf) & (ans == np.inf)[:, None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        regular = factor * np.exp(entries - ans[:, None].astype(float))
        shared = factor / (w * infinite).sum(axis=1, keepdims=True)
        share = np.where(np.isinf(ans)[:, None], np.where(infinite, shared, 0), regular)
        return (g[:, None] * share).astype(x.dtype)


def _backward_reference(g, ans, x, weights):
    entries, w = _entries(x, weights)
    return _gradient_reference(g, ans, x, entries, w, w)


def _backward_weights_reference(g, ans, x, weights):
    entries, w = _entries(x, weights)
    return _gradient_reference(g, ans, x, np.where(w == 0, x, entries), w, 1.0)


# --- Numba -----------------------------------------------------------------------------------------------------------
#
# Eight rows at a time, in the vectors of _tile.py: their largest entries, then sums of exp(x - largest) while they are in the
# first cache. What every row has summed up in its lanes is turned, and added up for eight rows at once.

EXP2 = {  # 2^f - 1 over f for |f| <= 1/2, highest power first, by least relative errors of 2^f: 1e-7 and 2e-16
    32: (1.326472731307149e-3, 9.671512991189957e-3, 5.550721660256386e-2, 0.24022243916988373, 0.6931470036506653),
    64: (7.038183984213144e-9, 1.020832310754906e-7, 1.321565356842034e-6, 1.525265942713770e-5, 1.540352999429998e-4,
         1.333355822580122e-3, 9.618129107983095e-3, 5.550410866448181e-2, 0.2402265069590910, 0.6931471805599492)}
LOWEST = -80.0  # what less counts as: its exp is nothing beside exp(0), and no subnormal number, which would take long

if available:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    from ._tile import LINE, SIZE, _everywhere, _Matrix, _multiply_add, _turned

    def _constant(vector, value):
        return ir.Constant(vector, [value] * vector.count)

    def _exp(builder, x, onto, weight=None):
        """onto + weight exp(x) for x <= 0: 2^n 2^f, of which the sum is taken with the power of two."""
        bits = 32 if x.type.element == ir.FloatType() else 64
        mantissa, whole = (23, ir.VectorType(ir.IntType(32), x.type.count)) if bits == 32 else (52, ir.VectorType(SIZE, 8))
        lowest, log2e, round_off, one = (_constant(x.type, v) for v in (
            LOWEST, 1 / np.log(2) if bits == 64 else float(np.float32(1 / np.log(2))), 1.5 * 2**mantissa, 1.0))
        x = builder.select(builder.fcmp_ordered(">", lowest, x), lowest, x)
        shifted = _multiply_add(builder, x, log2e, round_off)
        f = _multiply_add(builder, x, log2e, builder.fneg(builder.fsub(shifted, round_off)))
        y, *coefficients = (_constant(x.type, float(np.float32(v)) if bits == 32 else v) for v in EXP2[bits])
        for c in (*coefficients, one):
            y = _multiply_add(builder, y, f, c)
        power = builder.shl(builder.bitcast(shifted, whole), _constant(whole, mantissa))
        power = builder.bitcast(builder.add(power, builder.bitcast(one, whole)), x.type)
        return _multiply_add(builder, y, power if weight is None else builder.fmul(power, weight), onto)

    def _of_eight_rows(builder, X, i, n, D, start, step, join):
        """join of all lanes of step(r, j, x[i + r, j:], of what was before), from a start, a vector, for r < n <= 8."""
        vector, lanes = start.type, start.type.count
        eight, places = ir.VectorType(X.real, 8), ir.VectorType(SIZE, lanes)
        total, parts = cgutils.alloca_once(builder, vector), cgutils.alloca_once(builder, eight, size=8)
        rest = builder.and_(D, SIZE(lanes - 1))
        overlap = builder.sub(D, SIZE(lanes))  # where the last vector begins, whose first entries are not new
        old = builder.icmp_signed("<", ir.Constant(places, list(range(lanes))),
                                  _everywhere(builder, builder.sub(SIZE(lanes), rest), places))
        for r in range(8):
            builder.store(_constant(eight, 0.0), builder.gep(parts, [SIZE(r)]))
        with cgutils.for_range(builder, n) as loop:
            r, row = loop.index, builder.add(i, loop.index)
            builder.store(start, total)
            with cgutils.for_range_slice(builder, SIZE(0), builder.sub(D, rest), SIZE(lanes)) as (j, _):
                builder.store(step(r, j, X.load(X.at(row, j), vector), builder.load(total)), total)
            with builder.if_then(builder.icmp_signed("!=", rest, SIZE(0))):
                x = builder.select(old, _constant(vector, -np.inf), X.load(X.at(row, overlap), vector))
                builder.store(step(r, overlap, x, builder.load(total)), total)
            part = builder.load(total)
            if lanes > 8:
                part = join(*(builder.shuffle_vector(part, part, ir.Constant(ir.VectorType(ir.IntType(32), 8), list(half)))
                              for half in (range(8), range(8, 16))))
            builder.store(part, builder.gep(parts, [r]))
        columns = _turned(builder, [builder.load(builder.gep(parts, [SIZE(r)])) for r in range(8)])
        while len(columns) > 1:
            columns = [join(a, b) for a, b in zip(columns[::2], columns[1::2], strict=True)]
        return columns[0]

    def _sums(x, largest, out, weights=None):
        def codegen(context, builder, sig, args):
            X, L, S = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3, 4))
            W = _Matrix(context, builder, sig.args[5], args[5]) if weights else None
            vector, i = ir.VectorType(X.real, LINE // X.itemsize), args[1]

            def step(r, j, x, total):
                x = builder.fsub(x, _everywhere(builder, L.load(L.at(SIZE(0), builder.add(i, r)), X.real), vector))
                return _exp(builder, x, total, W.load(W.at(SIZE(0), j), vector) if weights else None)

            D = _columns(builder, x, args[0], context)
            S.store(_of_eight_rows(builder, X, i, args[2], D, _constant(vector, 0.0), step, builder.fadd), S.at(SIZE(0), i))
            return context.get_dummy_value()
        return types.void(x, types.intp, types.intp, largest, out, *([weights] if weights else [])), codegen

    def _columns(builder, array, value, context):
        return cgutils.unpack_tuple(builder, context.make_array(array)(context, builder, value).shape)[1]

    @intrinsic
    def _largest(typingctx, x, i, n, out):
        """out[0, i + r] = max_j x[i + r, j] for r < n <= 8, of those that are not NaN."""
        def codegen(context, builder, sig, args):
            X, S = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3))
            vector = ir.VectorType(X.real, LINE // X.itemsize)

            def join(a, b):
                return builder.select(builder.fcmp_ordered(">", a, b), a, b)

            D = _columns(builder, x, args[0], context)
            S.store(_of_eight_rows(builder, X, args[1], args[2], D, _constant(vector, -np.inf),
                                   lambda r, j, x, most: join(x, most), join), S.at(SIZE(0), args[1]))
            return context.get_dummy_value()
        return types.void(x, types.intp, types.intp, out), codegen

    @intrinsic
    def _sum_exp(typingctx, x, i, n, largest, out):
        """out[0, i + r] = sum_j exp(x[i + r, j] - largest[0, i + r]) for r < n <= 8."""
        return _sums(x, largest, out)

    @intrinsic
    def _sum_weighted(typingctx, x, i, n, largest, out, weights):
        """The same with weights[0, j]."""
        return _sums(x, largest, out, weights)
else:
    _largest = _sum_exp = _sum_weighted = None


@jit
def _entry(x, w, inf):
    return x if w > 0 else (-inf if w == 0 else inf - inf)


@jit(fastmath={"reassoc"})  # lets the sum, and nothing else, be taken in lanes
def _sum(x):
    total = x.dtype.type(0)
    for j in range(x.size):
        total += x[j]
    return total


@jit
def _of_any(x, w):
    """The log-sum of a row of which anything may be infinite, NaN or weighted by 0 or less."""
    terms, inf, greatest = np.empty_like(x), x.dtype.type(np.inf), order(x.dtype.type(-np.inf))
    for j in range(x.size):
        terms[j] = _entry(x[j], w[j], inf)
    for j in range(x.size):
        greatest = max(greatest, order(terms[j]))
    largest = from_order(greatest)
    shift = largest if abs(largest) < inf else x.dtype.type(0)
    for j in range(x.size):
        terms[j] = w[j] * exp_fused(terms[j] - shift)
    return shift + log(_sum(terms))


@jit
def _usual(weights):
    """0 for weights of which some are not the same for all rows or far from 1, 1 if all are 1, else 2."""
    if len(weights) != 1:
        return 0
    kind = 1
    for w in weights[0]:
        if not 1 / MODERATE < w < MODERATE:
            return 0
        if w != 1:
            kind = 2
    return kind


@jit
def _log_sums(x, weights, kind, largest, sums):
    """Of rows as wide as a vector or wider: their largest entries, and the sums of exp(x - largest), both (1, rows + 7)."""
    eights = len(x) // 8 * 8
    for i in range(0, eights, 8):
        _largest(x, i, 8, largest)
    for i in range(eights, len(x)):
        _largest(x, i, 1, largest)
    if kind == 1:
        for i in range(0, eights, 8):
            _sum_exp(x, i, 8, largest, sums)
        for i in range(eights, len(x)):
            _sum_exp(x, i, 1, largest, sums)
    else:
        for i in range(0, eights, 8):
            _sum_weighted(x, i, 8, largest, sums, weights)
        for i in range(eights, len(x)):
            _sum_weighted(x, i, 1, largest, sums, weights)


@jit
def _turn_few(x, turned):
    for j in range(len(turned)):
        entries = turned[j]
        for i in range(len(x)):
            entries[i] = x[i, j]


@jit
def _log_sums_of_few(turned, weights, largest, other):
    """Of rows with few entries, turned: the same (rows,), in one of two arrays each."""
    lowest = turned.dtype.type(LOWEST)
    largest[:] = turned.dtype.type(-np.inf)
    for j in range(len(turned)):
        entries = turned[j]
        for i in range(entries.size):  # into another array: a value that stays would be a store that is left out, by a branch
            value, most = entries[i], largest[i]
            other[i] = value if value > most else most
        largest, other = other, largest
    other[:] = 0
    for j in range(len(turned)):
        entries, w = turned[j], weights[0, j]
        for i in range(entries.size):
            less = entries[i] - largest[i]
            entries[i] = w * exp_small_fused(lowest if less < lowest else less)  # NaN stays
        for i in range(entries.size):
            other[i] += entries[i]
    return largest, other


@jit
def _add_logs(largest, sums, out):
    for i in range(out.size):
        out[i] = largest[i] + log(sums[i])


@jit
def _forward_piece(piece, rows, x, weights, kind, ans):
    first, last, inf = piece * rows, min((piece + 1) * rows, len(x)), x.dtype.type(np.inf)
    part, found = x[first:last], ans[first:last]
    if kind == 0:
        found[:] = inf
    else:
        n = len(part) + 7
        largest, sums = np.empty((1, n), x.dtype), np.empty((1, n), x.dtype)  # not one array: LLVM sees two
        if x.shape[1] < tile_columns(x):
            turned = np.empty(part.shape[::-1], x.dtype)
            _turn_few(part, turned)
            tops, totals = _log_sums_of_few(turned, weights, largest[0, :len(part)], sums[0, :len(part)])
            _add_logs(tops, totals, found)
        else:
            _log_sums(part, weights, kind, largest, sums)
            _add_logs(largest[0], sums[0], found)
    for i in range(found.size):
        if not abs(found[i]) < inf:
            found[i] = _of_any(part[i], weights[(first + i) % len(weights)])


@entry
def _forward(x, weights):
    ans, kind, rows = np.empty(len(x), x.dtype), _usual(weights), max(1, PIECE // max(1, x.shape[1]))
    pieces = -(-len(x) // rows)
    if x.size < SERIAL:
        for piece in range(pieces):
            _forward_piece(piece, rows, x, weights, kind, ans)
    else:
        parallel(pieces, _forward_piece, (rows, x, weights, kind, ans))
    return ans


@jit
def _repeated(x, weights):
    """As many copies of weights that all rows share as a piece has rows, at least one row."""
    tiled = np.empty((max(1, min(len(x), PIECE // max(1, x.shape[1]))), x.shape[1]), x.dtype)
    if len(weights) == 1:
        for i in range(len(tiled)):
            for j in range(x.shape[1]):
                tiled[i, j] = weights[0, j]
    return tiled


@jit
def _piece(x, weights, tiled, piece):
    """The rows of a piece, (first, last + 1), and their values and weights one after another: long loops are fast."""
    low, high = piece * len(tiled), min((piece + 1) * len(tiled), len(x))
    size = (high - low) * x.shape[1]
    w = tiled[:high - low] if len(weights) == 1 else weights[low:high]
    return low, high, x[low:high].reshape(size), w.reshape(size)


@jit
def _share_infinite(out, g, x, w, of_weights):
    total, inf = x.dtype.type(0), x.dtype.type(np.inf)
    for j in range(x.size):
        total += w[j] if x[j] == inf else 0
    for j in range(x.size):
        out[j] = (g if of_weights else g * w[j]) / total if x[j] == inf else 0


@jit
def _gradient_piece(piece, g, ans, x, weights, tiled, of_weights, out):
    low, high, x, w = _piece(x, weights, tiled, piece)
    out, d, inf = out[low:high].reshape(x.size), tiled.shape[1], x.dtype.type(np.inf)
    for k in range(x.size):
        out[k] = x[k] if of_weights else _entry(x[k], w[k], inf)
    for i in range(high - low):
        row, log_sum = out[i * d:(i + 1) * d], ans[low + i]
        for j in range(d):
            row[j] -= log_sum
    for k in range(x.size):
        out[k] = exp_fused(out[k]) * (1 if of_weights else w[k])
    for i in range(high - low):
        part, cotangent = slice(i * d, (i + 1) * d), g[low + i]
        row = out[part]
        if ans[low + i] == inf:
            _share_infinite(row, cotangent, x[part], w[part], of_weights)
        elif ans[low + i] == -inf:
            row[:] = 0
        else:
            for j in range(d):
                row[j] *= cotangent


@entry
def _gradient(g, ans, x, weights, of_weights):
    out, tiled = np.empty_like(x), _repeated(x, weights)
    pieces = -(-len(x) // len(tiled))
    if x.size < SERIAL:
        for piece in range(pieces):
            _gradient_piece(piece, g, ans, x, weights, tiled, of_weights, out)
    else:
        parallel(pieces, _gradient_piece, (g, ans, x, weights, tiled, of_weights, out))
    return out


def _backward(g, ans, x, weights):
    return _gradient(g, ans, x, weights, False)


def _backward_weights(g, ans, x, weights):
    return _gradient(g, ans, x, weights, True)


# --- CUDA ------------------------------------------------------------------------------------------------------------

def _forward_cuda(x, weights):
    (n, d), ans = x.shape, _cuda.empty(len(x), x.dtype)
    blocks, threads, lanes = _cuda.teams(n, d)
    _cuda.launch("logsumexp", "forward", blocks, threads, x, weights, ans, n, d, len(weights), lanes)
    return ans


def _gradient_cuda(of_weights):
    def run(g, ans, x, weights):
        (n, d), out = x.shape, _cuda.empty(x.shape, x.dtype)
        blocks, threads, lanes = _cuda.teams(n, d)
        _cuda.launch("logsumexp", "gradient", blocks, threads, g, ans, x, weights, out, n, d, len(weights), of_weights, lanes)
        return out
    return run


forward = Kernel("logsumexp.forward", "x(N,D) weights(N|1,D)", reference=_forward_reference, numba=_forward, cuda=_forward_cuda)
backward = Kernel("logsumexp.backward", "g(N) ans(N) x(N,D) weights(N|1,D)",
                  reference=_backward_reference, numba=_backward, cuda=_gradient_cuda(False))
backward_weights = Kernel("logsumexp.backward_weights", "g(N) ans(N) x(N,D) weights(N|1,D)",
                          reference=_backward_weights_reference, numba=_backward_weights, cuda=_gradient_cuda(True))
