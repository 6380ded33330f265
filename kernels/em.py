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
nothing cancels. Rows are taken a few at a time, transposed, while they are in the cache; the columns of a triangular
factor in strips, each times the rows that it has. The partition depends on shapes alone, and so do the bits of the
sums, not on the number of threads. Agreement with the reference: sums to 1e-13 of the sum of their terms' sizes, per
unit of max |z P|.
Reference: Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
"""
import numpy as np

from . import _cuda
from ._blas import gemm
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import NO, YES, entry, jit, jitable, parallel
from ._math import exp, log
from .masked_matmul import THREADS, tiles

FAR = 1e140
STRIP = 16  # columns of a factor, multiplied at once
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

@jitable
def _rows_at_once(K, D):
    return max(32, min(256, CHUNK // (K * max(D, 1)) // 16 * 16))


@jit
def _standardise(x, centre, scale, z):
    """z (D, R) from rows x (R, D)."""
    D, R = z.shape
    for d in range(D):
        middle, unit = centre[d], scale[d]
        for r in range(R):
            z[d, r] = (x[r, d] - middle) / unit
        for r in range(R):
            z[d, r] = min(max(z[d, r], -FAR), FAR)


@jit
def _whiten(z, factor, y):
    """y (D, R) = P^T z."""
    D, R = z.shape
    if len(factor) == 1:
        for d in range(D):
            p = factor[0, d]
            for r in range(R):
                y[d, r] = z[d, r] * p
        return
    for low in range(0, D, STRIP):
        high = min(low + STRIP, D)
        gemm(1.0, factor[:high, low:high], YES, z[:high], NO, 0.0, y[low:high])


@jit(fastmath={"contract"})
def _distance(y, shift, offset, joint):
    """Take shift from y; joint = offset - |y|^2 / 2."""
    D, R = y.shape
    for r in range(R):
        joint[r] = 0
    for d in range(D):
        c = shift[d]
        for r in range(R):
            v = y[d, r] - c
            y[d, r] = v
            joint[r] += v * v
    for r in range(R):
        joint[r] = offset - joint[r] / 2


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
            joint[k, r] = exp(joint[k, r] - log_prob[r])
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
def _expect(x, centre, scale, offset, shift, factor, y, r, log_prob):
    """Fill r (K, R) with the responsibilities and log_prob (R,), for rows x (R, D); y[k] (D, R), or y[0] if that is all."""
    z = np.empty(y.shape[1:])
    _standardise(x, centre, scale, z)
    for k in range(len(offset)):
        to = y[k % len(y)]
        _whiten(z, factor[k % len(factor)], to)
        _distance(to, shift[k], offset[k], r[k])
    _normalise(r, log_prob)


@jit
def _log_prob_chunk(chunk, rows, x, centre, scale, offset, shift, factor, log_prob):
    part = x[chunk * rows:(chunk + 1) * rows]
    y, r = np.empty((1, x.shape[1], len(part))), np.empty((len(offset), len(part)))
    _expect(part, centre, scale, offset, shift, factor, y, r, log_prob[chunk * rows:(chunk + 1) * rows])


@entry
def _log_prob(x, centre, scale, offset, shift, factor):
    (N, D), log_prob = x.shape, np.empty(len(x))
    rows = _rows_at_once(len(offset), D)
    parallel(-(-N // rows), _log_prob_chunk, (rows, x, centre, scale, offset, shift, factor, log_prob))
    return log_prob


@jit
def _posterior_chunk(chunk, rows, x, centre, scale, offset, shift, factor, posterior):
    part, K = x[chunk * rows:(chunk + 1) * rows], len(offset)
    y, r = np.empty((1, x.shape[1], len(part))), np.empty((K, len(part)))
    _expect(part, centre, scale, offset, shift, factor, y, r, np.empty(len(part)))
    for i in range(len(part)):
        for k in range(K):
            posterior[chunk * rows + i, k] = r[k, i]


@entry
def _posterior(x, centre, scale, offset, shift, factor):
    (N, D), K = x.shape, len(offset)
    rows, posterior = _rows_at_once(K, D), np.empty((N, K), x.dtype)
    parallel(-(-N // rows), _posterior_chunk, (rows, x, centre, scale, offset, shift, factor, posterior))
    return posterior


@jit(fastmath={"reassoc", "contract"})
def _weigh(r, weights):
    """r *= weights; the sum."""
    total = 0.0
    for i in range(r.size):
        r[i] *= weights[i]
        total += r[i]
    return total


@jit(fastmath={"reassoc", "contract"})
def _dot(x, y):
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@jit(fastmath={"reassoc", "contract"})
def _first_moments(y, r, ry, first):
    """ry (D, R) = r y; first += its sums."""
    D, R = y.shape
    for d in range(D):
        total = 0.0
        for i in range(R):
            v = r[i] * y[d, i]
            ry[d, i] = v
            total += v
        first[d] += total


@jit(fastmath={"reassoc", "contract"})
def _squares(ry, y, second):
    D, R = y.shape
    for d in range(D):
        total = 0.0
        for i in range(R):
            total += ry[d, i] * y[d, i]
        second[d] += total


@jit
def _products(ry, y, second):
    """second += ry y^T, its upper triangle at least."""
    D = len(y)
    for low in range(0, D, STRIP):
        high = min(low + STRIP, D)
        gemm(1.0, ry[low:high], NO, y[low:], YES, 1.0, second[low:high, low:])


@jit
def _sum_up(t, x, weights, centre, scale, offset, shift, factor, n, first, second, nats):
    """Task t: the statistics of its share of the chunks."""
    (N, D), K = x.shape, len(offset)
    rows = _rows_at_once(K, D)
    chunks = -(-N // rows)
    n[t], first[t], second[t], nats[t] = 0, 0, 0, 0
    y, r, ry, log_prob = np.empty((K, D, rows)), np.empty((K, rows)), np.empty((D, rows)), np.empty(rows)
    for chunk in range(t * chunks // len(nats), (t + 1) * chunks // len(nats)):
        w = weights[chunk * rows:(chunk + 1) * rows]
        if w.size < rows:  # the last
            y, r, ry, log_prob = np.empty((K, D, w.size)), np.empty((K, w.size)), np.empty((D, w.size)), np.empty(w.size)
        _expect(x[chunk * rows:(chunk + 1) * rows], centre, scale, offset, shift, factor, y, r, log_prob)
        nats[t] += _dot(w, log_prob)
        for k in range(K):
            n[t, k] += _weigh(r[k], w)
            _first_moments(y[k], r[k], ry, first[t, k])
            if factor.shape[1] == 1:
                _squares(ry, y[k], second[t, k, 0])
            else:
                _products(ry, y[k], second[t, k])


@entry
def _statistics(alone, x, weights, centre, scale, offset, shift, factor, n, first, second, nats):
    if alone:
        for t in range(len(nats)):
            _sum_up(t, x, weights, centre, scale, offset, shift, factor, n, first, second, nats)
    else:
        parallel(len(nats), _sum_up, (x, weights, centre, scale, offset, shift, factor, n, first, second, nats))


def _statistics_numba(x, weights, centre, scale, offset, shift, factor):
    (N, D), (K, B) = x.shape, (len(offset), factor.shape[1])
    tasks = max(1, min(TASKS, SUMS // max(1, K * B * D), -(-N // _rows_at_once(K, D))))
    n, first, second, nats = (empty((tasks, *shape), np.float64) for shape in ((K,), (K, D), (K, B, D), ()))
    _statistics(N * K * (B * D + 16) < ALONE, x, weights, centre, scale, offset, shift, factor, n, first, second, nats)
    second = second.sum(axis=0)
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
        self.x, self.parameters = x, [_cuda.asarray(a) for a in (centre, scale, offset, shift, factor)]
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
            if not self.diagonal:
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
                  cuda=_log_prob_cuda, blas=True)
posterior = Kernel("em.posterior", f"x(N,D) {_PARAMETERS}", reference=_posterior_reference, numba=_posterior,
                   cuda=_posterior_cuda, blas=True)
statistics = Kernel("em.statistics", f"x(N,D) weights(N):float64 {_PARAMETERS}", reference=_statistics_reference,
                    numba=_statistics_numba, cuda=_statistics_cuda, blas=True)
