"""Expectation for a mixture of Gaussians: the rows' density, their responsibilities, the statistics of an M-step.

    z = clip((x - centre) / scale), y_k = z P_k - shift_k, joint_k = offset_k - |y_k|^2 / 2

    log_prob     log p(x) = log sum_k exp joint_k                                             (N,)
    posterior    r_k = exp(joint_k - log p(x))                                                (N, K)
    statistics   sums over the rows, with their weights w: w r_k (K,), w r_k y_k (K, D), w r_k y_k y_k^T (K, B, D),
                 and w log p(x)

x (N, D) float32 or float64, the posterior like it; all else, and all arithmetic, float64. factor (G, B, D): upper
triangular matrices P_k if B = D, or the diagonals of diagonal ones if B = 1, and then of the second moments too; G = K,
or G = 1 where the components share one. A z beyond +-FAR is taken to be there, so that no square overflows.

The moments are those of whitened rows: a component is the unit ball in its own y, however thin it is in x, so that
nothing cancels. Rows are taken a few at a time, transposed, while they are in the cache. The partition depends on shapes
alone, and so do the bits of the sums, not on the number of threads; of a row, only on itself, unless cuBLAS makes z P, as
it does of many rows on a GPU: then on how many they are, too. Agreement with the reference: sums to 1e-13 of the sum of
their terms' sizes, per unit of max |z P|.
Reference: Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
"""
import numpy as np

from . import _cublas, _cuda
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import entry, get_num_threads, jit, jitable, parallel
from ._math import exp_fused, fused, log
from ._tile import add_few, few_rows, products_and_squares, turn, turn_weighted
from .masked_matmul import THREADS, tiles

FAR = 1e140
GAP = 8  # values between rows of y: strides of a power of two would meet in one place of the cache
CHUNK = 2**16  # values of y, held at once
ALONE = 2**18  # operations, below which a second thread costs more than it does
TASKS, SUMS = 32, 2**20  # the most tasks, and values that they may sum up into, together

# --- reference -------------------------------------------------------------------------------------------------------

def _expect_reference(x, centre, scale, offset, shift, factor):
    """(log p (N,), responsibilities (K, N), y (K, N, D))."""
    z = np.clip((x.astype(float) - centre) / scale, -FAR, FAR)
    y = (z * factor if factor.shape[1] == 1 else z @ factor) - shift[:, None]
    joint = offset[:, None] - np.square(y).sum(axis=2) / 2
    largest = joint.max(axis=0)
    r = np.exp(joint - largest)
    return largest + np.log(r.sum(axis=0)), r / r.sum(axis=0), y


def _by_pieces(function, x, *parameters):
    """The results of a function of some rows at a time."""
    return [function(x[i:i + 1024], *parameters) for i in range(0, max(len(x), 1), 1024)]


def _log_prob_reference(x, *parameters):
    return np.concatenate([log_prob for log_prob, _, _ in _by_pieces(_expect_reference, x, *parameters)])


def _posterior_reference(x, *parameters):
    return np.concatenate([r.T.astype(x.dtype) for _, r, _ in _by_pieces(_expect_reference, x, *parameters)])


def _statistics_reference(x, weights, *parameters):
    def gather(rows, weights, *parameters):
        log_prob, r, y = _expect_reference(x[rows], *parameters)
        w = weights[rows] * r
        second = np.einsum("kn,knd,kne->kde", w, y, y) if parameters[-1].shape[1] > 1 else (w[:, None] @ (y * y))
        return w.sum(axis=1), (w[:, None] @ y)[:, 0], second, weights[rows] @ log_prob
    parts = _by_pieces(gather, np.arange(len(x)), weights, *parameters)
    return tuple(np.sum(part, axis=0) for part in zip(*parts, strict=True))


# --- Numba -----------------------------------------------------------------------------------------------------------
#
# Both products are those of _tile.py: eight columns of a factor meet the rows that they have, and of second moments only the
# tiles on and above the diagonal are summed up, (D^2 / 2 + 4 D) multiplications each for a row and component. A Zen 4 core is
# at 92 % of its rate in either at D = 64; a pass of statistics, all in all, at 85 % (D = 64) and 65 % (D = 16), of log_prob at
# 90 % and 70 %: the rest turns and weighs y, exponentiates, and adds up.

@jitable
def _rows_at_once(N, K, D):
    """Rows of a chunk: a multiple of 8."""
    return min(max(32, min(256, CHUNK // (K * max(D, 1)) // 16 * 16)), _eights(max(N, 1)))


@jitable
def _eights(n):
    return (n + 7) // 8 * 8


@jit
def _pack(shift, factor):
    """-shift, and the factors turned if they are triangular, in whole tiles: with zeros where there are no more of them."""
    (G, B, D), K = factor.shape, len(shift)
    start, turned = np.zeros((K, _eights(D))), np.zeros((G, _eights(D) if B > 1 else 1, D + GAP))
    for k in range(K):
        for d in range(D):
            start[k, d] = -shift[k, d]
    for g in range(G):
        for d in range(B):
            for e in range(d + 1 if B > 1 else D):
                turned[g, d, e] = factor[g, e, d] if B > 1 else factor[g, 0, e]
    return start, turned


@jit
def _memory(K, D, R):
    """For R rows: z (D, R), y (K, D, R), the responsibilities (K, R) and log p (R,)."""
    return np.empty((_eights(D), R + GAP)), np.empty((K, _eights(D), R + GAP)), np.empty((K, R)), np.empty(R)


@jit
def _standardise(x, centre, scale, R, z):
    """z (D, R) from at most R rows x; zeros where there are no more of them."""
    (N, D), rows = x.shape, np.zeros((8, len(z)))
    for n in range(0, R, 8):
        for r in range(8):
            if n + r < N:
                for d in range(D):
                    rows[r, d] = min(max((x[n + r, d] - centre[d]) / scale[d], -FAR), FAR)
            else:
                rows[r] = 0
        for d in range(0, len(z), 8):
            turn(rows, 0, d, z, d, n)


@jit
def _whiten(z, factor, start, k, y, squares):
    """y (D, R) = P^T z + start[k], and the sums of its squares, squares[k] (R,)."""
    D, R = start.shape[1], squares.shape[1]
    depth, total = factor.shape[1] - GAP, squares[k]
    total[:] = 0
    if len(factor) > 1:
        for n in range(0, R, 8):
            for i in range(0, D, few_rows()):
                products_and_squares(factor, i, z, n, min(i + few_rows(), depth), start, k, y, squares)
        return
    for d in range(depth):
        p, c = factor[0, d], start[k, d]
        for n in range(R):
            v = fused(z[d, n], p, c)
            y[d, n] = v
            total[n] = fused(v, v, total[n])


@jit
def _normalise(joint, log_prob):
    """joint (K, R) to responsibilities, and their log-sum (R,)."""
    K, R = joint.shape
    total = np.zeros(R)
    for r in range(R):
        log_prob[r] = joint[0, r]
    for k in range(K):
        for r in range(R):
            log_prob[r] = joint[k, r] if joint[k, r] > log_prob[r] else log_prob[r]
    for k in range(K):
        for r in range(R):
            joint[k, r] = exp_fused(joint[k, r] - log_prob[r])
        for r in range(R):
            total[r] += joint[k, r]
    for r in range(R):
        log_prob[r] += log(total[r])
    for r in range(R):
        total[r] = 1 / total[r]
    for k in range(K):
        for r in range(R):
            joint[k, r] *= total[r]


@jit
def _expect(x, centre, scale, offset, start, factor, z, y, r, log_prob):
    """Fill r (K, R) with the responsibilities and log_prob (R,), for at most R rows x; y[k] (D, R), or y[0] if that is all."""
    _standardise(x, centre, scale, r.shape[1], z)
    for k in range(len(offset)):
        _whiten(z, factor[k % len(factor)], start, k, y[k % len(y)], r)
        joint = r[k]
        for n in range(joint.size):
            joint[n] = offset[k] - 0.5 * joint[n]
    _normalise(r, log_prob)


@jit
def _log_prob_chunk(chunk, rows, x, centre, scale, offset, start, factor, log_prob):
    part = x[chunk * rows:(chunk + 1) * rows]
    z, y, r, found = _memory(len(offset), x.shape[1], rows)
    _expect(part, centre, scale, offset, start, factor, z, y[:1], r, found)
    for i in range(len(part)):  # to assign an array to a slice compiles, for two seconds, what it says if their shapes differ
        log_prob[chunk * rows + i] = found[i]


@entry
def _log_prob(x, centre, scale, offset, shift, factor):
    (N, D), log_prob, (start, turned) = x.shape, np.empty(len(x)), _pack(shift, factor)
    rows = _rows_at_once(N, len(offset), D)
    parallel(-(-N // rows), _log_prob_chunk, (rows, x, centre, scale, offset, start, turned, log_prob))
    return log_prob


@jit
def _posterior_chunk(chunk, rows, x, centre, scale, offset, start, factor, posterior):
    part, K = x[chunk * rows:(chunk + 1) * rows], len(offset)
    z, y, r, log_prob = _memory(K, x.shape[1], rows)
    _expect(part, centre, scale, offset, start, factor, z, y[:1], r, log_prob)
    for i in range(len(part)):
        for k in range(K):
            posterior[chunk * rows + i, k] = r[k, i]


@entry
def _posterior(x, centre, scale, offset, shift, factor):
    (N, D), K, (start, turned) = x.shape, len(offset), _pack(shift, factor)
    rows, posterior = _rows_at_once(N, K, D), np.empty((N, K), x.dtype)
    parallel(-(-N // rows), _posterior_chunk, (rows, x, centre, scale, offset, start, turned, posterior))
    return posterior


@jit(fastmath={"reassoc", "contract"})
def _weigh(r, weights):
    """r *= weights, and 0 where there are no more of them; the sum."""
    total = 0.0
    for i in range(weights.size):
        r[i] *= weights[i]
        total += r[i]
    r[weights.size:] = 0
    return total


@jit(fastmath={"reassoc", "contract"})
def _dot(x, y):
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@jit(fastmath={"reassoc", "contract"})
def _diagonal_moments(y, r, first, second):
    """first (D, 8), second (D,) += the sums of r y, in its first column, and of r y^2."""
    for d in range(second.size):
        total, squares = 0.0, 0.0
        for i in range(r.size):
            v = r[i] * y[d, i]
            total += v
            squares += v * y[d, i]
        first[d, 0] += total
        second[d] += squares


@jit
def _moments(y, r, k, panel, first, second):
    """first (D, 8) += r y, a sum for every eighth row; second (D, D) += sum r y y^T, its upper triangle at least."""
    R = r.shape[1]
    for j in range(0, len(second), 8):
        turn_weighted(y, j, R, r, k, panel, first)
        for i in range(0, j + 8, few_rows()):
            add_few(y, i, panel, R, second, j)


@jit
def _sum_up(t, x, weights, centre, scale, offset, start, factor, n, first, second, nats):
    """Task t: the statistics of its share of the chunks."""
    (N, D), K = x.shape, len(offset)
    memory = _memory(K, D, _rows_at_once(N, K, D))
    _sum_up_in(memory, t, x, weights, centre, scale, offset, start, factor, n, first, second, nats)


@jit
def _sum_up_in(memory, t, x, weights, centre, scale, offset, start, factor, n, first, second, nats):
    (N, D), K, (z, y, r, log_prob) = x.shape, len(offset), memory
    rows = len(log_prob)
    chunks = -(-N // rows)
    n[t], first[t], second[t], nats[t] = 0, 0, 0, 0
    panel, lanes = np.empty((rows, 8)), np.zeros((K, _eights(D), 8))
    for chunk in range(t * chunks // len(nats), (t + 1) * chunks // len(nats)):
        w = weights[chunk * rows:(chunk + 1) * rows]
        _expect(x[chunk * rows:(chunk + 1) * rows], centre, scale, offset, start, factor, z, y, r, log_prob)
        nats[t] += _dot(w, log_prob)
        for k in range(K):
            n[t, k] += _weigh(r[k], w)
            if factor.shape[1] == 1:
                _diagonal_moments(y[k], r[k], lanes[k], second[t, k, 0])
            else:
                _moments(y[k], r, k, panel, lanes[k], second[t, k])
    for k in range(K):
        for d in range(D):
            for q in range(8):
                first[t, k, d] += lanes[k, d, q]


@entry
def _statistics(alone, x, weights, centre, scale, offset, shift, factor, n, first, second, nats):
    (N, D), K, (start, turned) = x.shape, len(offset), _pack(shift, factor)
    if alone:  # memory of its own for each task would be new pages, where malloc gives them back at once
        memory = _memory(K, D, _rows_at_once(N, K, D))
        for t in range(len(nats)):
            _sum_up_in(memory, t, x, weights, centre, scale, offset, start, turned, n, first, second, nats)
    else:
        parallel(len(nats), _sum_up, (x, weights, centre, scale, offset, start, turned, n, first, second, nats))


def _statistics_numba(x, weights, centre, scale, offset, shift, factor):
    (N, D), (K, B) = x.shape, (len(offset), factor.shape[1])
    tasks = max(1, min(TASKS, SUMS // max(1, K * B * D), -(-N // _rows_at_once(N, K, D))))
    whole = _eights(D)
    n, first, second, nats = (empty((tasks, *shape), np.float64) for shape in (
        (K,), (K, D), (K, whole, whole) if B > 1 else (K, 1, D), ()))
    alone = get_num_threads() == 1 or N * K * (B * D + 16) < ALONE
    _statistics(alone, x, weights, centre, scale, offset, shift, factor, n, first, second, nats)
    second = second.sum(axis=0)[..., :B, :D]
    if B > 1:
        below = np.tri(D, k=-1, dtype=bool)
        second[:, below] = np.swapaxes(second, 1, 2)[:, below]
    return n.sum(axis=0), first.sum(axis=0), second, nats.sum()


# --- CUDA ------------------------------------------------------------------------------------------------------------

SLAB = 2**26  # values of y, held at once
PART_ROWS, PARTS = 256, 512  # the least rows that are summed by themselves, and the most parts


class _Slabs:
    """The rows in slabs: iterating gives (first, last + 1), once r (rows, K), log_prob (rows,) and z or z P are there."""

    def __init__(self, x, centre, scale, offset, shift, factor):
        (self.N, self.D), self.K, (self.G, self.B, _) = x.shape, len(offset), factor.shape
        self.x, self.parameters = x, [a if _cuda.is_device_array(a) else _cuda.constant(a)
                                      for a in (centre, scale, offset, shift, factor)]
        self.diagonal = self.B == 1
        columns = self.D if self.diagonal else self.G * self.D
        self.rows = min(self.N, max(1, SLAB // max(1, columns + self.D + self.K)))
        self.z, self.r, self.log_prob = (_cuda.empty((self.rows * n,), np.float64) for n in (self.D, self.K, 1))
        self.values = self.z if self.diagonal else _cuda.empty((self.rows * columns,), np.float64)

    def __iter__(self):
        centre, scale, offset, shift, factor = self.parameters
        D, K, G = self.D, self.K, self.G
        width = min(32, 2 ** max(0, D - 1).bit_length())
        for low in range(0, self.N, self.rows or 1):
            high = min(low + self.rows, self.N)
            N = high - low
            launch("em", "standardise", _cuda.grid(N * D, THREADS), THREADS, self.x[low:high], centre, scale, self.z, N, D)
            if not self.diagonal and _cublas.takes(N, D, G * D):
                _cublas.product(self.z[:N * D].reshape(N, D), np.swapaxes(factor, 0, 1).reshape(D, G * D),
                                self.values[:N * G * D].reshape(N, G * D))
            elif not self.diagonal:
                count, large = tiles((N, G * D))
                launch("em", "whiten", count, THREADS, self.z, factor, self.values, N, D, G, large)
            launch("em", "normalise", _cuda.grid(N * 32, THREADS), THREADS, self.values, offset, shift, factor, self.r,
                   self.log_prob, N, D, K, G, self.diagonal, width)
            yield low, high


def _log_prob_cuda(x, *parameters):
    slabs, log_prob = _Slabs(x, *parameters), _cuda.empty((len(x),), np.float64)
    for low, high in slabs:
        log_prob[low:high] = slabs.log_prob[:high - low]
    return log_prob


def _posterior_cuda(x, *parameters):
    slabs = _Slabs(x, *parameters)
    posterior = _cuda.empty((slabs.N, slabs.K), x.dtype)
    for low, high in slabs:
        posterior[low:high] = slabs.r[:(high - low) * slabs.K].reshape(high - low, slabs.K)
    return posterior


def _statistics_cuda(x, weights, *parameters):
    slabs, weights = _Slabs(x, *parameters), _cuda.asarray(weights)
    _, _, _, shift, factor = slabs.parameters
    D, K, B, G = slabs.D, slabs.K, slabs.B, slabs.G
    size = 2 * D + 1 if slabs.diagonal else (D + 1) ** 2
    parts = max(1, min(slabs.rows // PART_ROWS, PARTS, SLAB // (K * size)))
    sums, of_nats = _cuda.empty((parts, K, size), np.float64), _cuda.empty((parts,), np.float64)
    for low, high in slabs:
        N, w, onto = high - low, weights[low:high], low > 0
        if slabs.diagonal:
            launch("em", "diagonal_moments", (-(-K * (D + 1) // THREADS), parts), THREADS, slabs.z, w, shift, factor, slabs.r,
                   sums, N, D, K, G, onto)
        else:
            count, large = tiles((D + 1, D + 1))
            launch("em", "moments", (count * K, parts), THREADS, slabs.values, w, shift, slabs.r, sums, N, D, K, G, onto, large)
        launch("em", "nats", parts, THREADS, w, slabs.log_prob, of_nats, N, onto)
    n, first, second, nats = (_cuda.empty(shape, np.float64) for shape in ((K,), (K, D), (K, B, D), ()))
    launch("em", "finish", _cuda.grid(K * (1 + D + B * D) + 1, THREADS), THREADS, sums, of_nats, n, first, second, nats,
           parts if slabs.N else 0, D, K, B, slabs.diagonal)
    return n, first, second, nats


_PARAMETERS = "centre(D):float64 scale(D):float64 offset(K):float64 shift(K,D):float64 factor(K|1,D|1,D):float64"
log_prob = Kernel("em.log_prob", f"x(N,D) {_PARAMETERS}", reference=_log_prob_reference, numba=_log_prob,
                  cuda=_log_prob_cuda)
posterior = Kernel("em.posterior", f"x(N,D) {_PARAMETERS}", reference=_posterior_reference, numba=_posterior,
                   cuda=_posterior_cuda)
statistics = Kernel("em.statistics", f"x(N,D) weights(N):float64 {_PARAMETERS}", reference=_statistics_reference,
                    numba=_statistics_numba, cuda=_statistics_cuda)
