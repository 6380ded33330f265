// The E-step of a mixture of Gaussians: see em.py. Some rows at a time pass through one kernel after another; all arithmetic is
// double, and a sum over rows is that of its parts', in their order.
#include "_gemm.cuh"
#include "_math.cuh"
#include "_reduce.cuh"

constexpr double FAR = 1e140;

// z (N, D) = clip((x - centre) / scale)
extern "C" __global__ void standardise(const REAL* __restrict__ x, const double* __restrict__ centre,
                                       const double* __restrict__ scale, double* __restrict__ z, long long N, long long D) {
    for (Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x; i < N * D; i += (Index)gridDim.x * blockDim.x) {
        double value = (x[i] - centre[i % D]) / scale[i % D];
        z[i] = value > FAR ? FAR : value < -FAR ? -FAR : value;
    }
}

// zp (N, G D) = z P_g side by side, for upper triangular P (G, D, D)
extern "C" __global__ void __launch_bounds__(THREADS)
whiten(const double* __restrict__ z, const double* __restrict__ factors, double* __restrict__ zp, long long N, long long D,
       long long G, bool large) {
    by_size<double>(large, [=](auto tile) {
        Index down = (N + tile.ROWS - 1) / tile.ROWS;
        Index row = blockIdx.x % down * tile.ROWS, column = blockIdx.x / down * tile.COLUMNS;
        Index last = min(column + tile.COLUMNS, G * D) - 1;
        Index depth = column / D == last / D ? last % D + 1 : D;  // of column d, the rows below d are zero
        product<decltype(tile), true, false>(
            {row, N}, {column, G * D}, {0, depth}, factor(z, D),
            factor(factors, D, [=](const double* at, Index c, Index) { return at[c / D * (D * D - D)]; }),
            [](Index) { return true; }, [=](Index n, Index c, double value) { zp[n * G * D + c] = value; });
    });
}

// y[n, k, d] from values: zp, or z where the factors (G, D) are diagonals.
struct Whitened {
    const double *values, *shift, *factors;
    Index D, G;
    bool diagonal;

    __device__ __forceinline__ Index stride() const { return diagonal ? D : G * D; }
    __device__ __forceinline__ const double* component(Index k) const { return values + (diagonal || G == 1 ? 0 : k * D); }
    __device__ __forceinline__ double finish(double value, Index k, Index d) const {
        if (diagonal) value *= factors[(G == 1 ? 0 : k * D) + d];
        return value - shift[k * D + d];
    }
    __device__ __forceinline__ double operator()(Index n, Index k, Index d) const {
        return finish(component(k)[n * stride() + d], k, d);
    }
};

// r (N, K) and log_prob (N,), a warp per row; `width` lanes, a power of two, share a component.
extern "C" __global__ void normalise(const double* __restrict__ values, const double* __restrict__ offset,
                                     const double* __restrict__ shift, const double* __restrict__ factors, double* r,
                                     double* __restrict__ log_prob, long long N, long long D, long long K, long long G,
                                     bool diagonal, int width) {
    Whitened y{values, shift, factors, D, G, diagonal};
    const Index lane = threadIdx.x % 32, warps = (Index)gridDim.x * blockDim.x / 32;
    for (Index n = ((Index)blockIdx.x * blockDim.x + threadIdx.x) / 32; n < N; n += warps) {
        double* joint = r + n * K;
        double largest = -math::infinity<double>(), total = 0;
        for (Index first = 0; first < K; first += 32 / width) {
            Index k = first + lane / width;
            double squares = 0;
            for (Index d = lane % width; d < D && k < K; d += width) {
                double value = y(n, k, d);
                squares += value * value;
            }
            for (int step = width / 2; step > 0; step /= 2) squares += __shfl_xor_sync(WARP, squares, step);
            if (k < K && lane % width == 0) joint[k] = offset[k] - squares / 2;
        }
        __syncwarp();
        for (Index k = lane; k < K; k += 32) largest = joint[k] > largest ? joint[k] : largest;
        largest = warp_max(largest);
        for (Index k = lane; k < K; k += 32) {
            joint[k] = math::exp(joint[k] - largest);
            total += joint[k];
        }
        total = warp_sum(total);
        for (Index k = lane; k < K; k += 32) joint[k] /= total;
        if (lane == 0) log_prob[n] = largest + math::log(total);
    }
}

// [y_k 1]^T diag(weights r_k) [y_k 1] in its upper triangle, for one tile of a component; part blockIdx.y of the rows, into or
// onto sums (parts, K, D + 1, D + 1).
extern "C" __global__ void __launch_bounds__(THREADS)
moments(const double* __restrict__ values, const double* __restrict__ weights, const double* __restrict__ shift,
        const double* __restrict__ r, double* sums, long long N, long long D, long long K, long long G, bool onto, bool large) {
    Whitened y{values, shift, nullptr, D, G, false};
    Range batch{blockIdx.y * N / gridDim.y, (blockIdx.y + 1) * N / gridDim.y};
    by_size<double>(large, [=](auto tile) {
        Index down = (D + tile.ROWS) / tile.ROWS, across = (D + tile.COLUMNS) / tile.COLUMNS;
        Index k = blockIdx.x / (down * across), place = blockIdx.x % (down * across);
        Index row = place % down * tile.ROWS, column = place / down * tile.COLUMNS;
        if (row >= column + tile.COLUMNS) return;  // below the diagonal
        double* out = sums + (blockIdx.y * K + k) * (D + 1) * (D + 1);
        product<decltype(tile), false, false>(
            {row, D + 1}, {column, D + 1}, batch,
            factor(y.component(k), y.stride(), [=](const double* at, Index i, Index n) {
                double w = weights[n] * r[n * K + k];
                return i < D ? w * y.finish(*at, k, i) : w;
            }),
            factor(y.component(k), y.stride(), [=](const double* at, Index j, Index) { return j < D ? y.finish(*at, k, j) : 1.0; }),
            [](Index) { return true; },
            [=](Index i, Index j, double value) { out[i * (D + 1) + j] = onto ? out[i * (D + 1) + j] + value : value; });
    });
}

// Part blockIdx.y of the rows: sums of weights r [y^2 y 1], into or onto sums (parts, K, 2 D + 1).
extern "C" __global__ void diagonal_moments(const double* __restrict__ z, const double* __restrict__ weights,
                                            const double* __restrict__ shift, const double* __restrict__ factors,
                                            const double* __restrict__ r, double* sums, long long N, long long D, long long K,
                                            long long G, bool onto) {
    Whitened y{z, shift, factors, D, G, true};
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x, k = i / (D + 1), d = i % (D + 1);
    if (k >= K) return;
    double second = 0, first = 0, count = 0;
    for (Index n = blockIdx.y * N / gridDim.y, last = (blockIdx.y + 1) * N / gridDim.y; n < last; ++n) {
        double w = weights[n] * r[n * K + k], value = d < D ? y(n, k, d) : 0;
        second += w * value * value;
        first += w * value;
        count += w;
    }
    double* out = sums + (blockIdx.y * K + k) * (2 * D + 1);
    if (d < D) {
        out[d] = onto ? out[d] + second : second;
        out[D + d] = onto ? out[D + d] + first : first;
    } else {
        out[2 * D] = onto ? out[2 * D] + count : count;
    }
}

// Part blockIdx.x of the rows: the sum of weights log_prob, into or onto sums (parts,).
extern "C" __global__ void nats(const double* __restrict__ weights, const double* __restrict__ log_prob, double* sums, long long N,
                                bool onto) {
    double total = 0;
    for (Index n = blockIdx.x * N / gridDim.x + threadIdx.x, last = (blockIdx.x + 1) * N / gridDim.x; n < last; n += blockDim.x)
        total += weights[n] * log_prob[n];
    total = block_sum(total);
    if (threadIdx.x == 0) sums[blockIdx.x] = onto ? sums[blockIdx.x] + total : total;
}

// The statistics from the sums of their parts: n (K,), first (K, D), second (K, B, D), nats ().
extern "C" __global__ void finish(const double* __restrict__ sums, const double* __restrict__ sums_of_nats, double* __restrict__ n,
                                  double* __restrict__ first, double* __restrict__ second, double* __restrict__ all_nats,
                                  long long parts, long long D, long long K, long long B, bool diagonal) {
    const Index size = diagonal ? 2 * D + 1 : (D + 1) * (D + 1), each = 1 + D + B * D;
    for (Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x; i <= K * each; i += (Index)gridDim.x * blockDim.x) {
        Index k = i / each, at = i % each, a = (at - 1 - D) / max(D, 1ll), b = (at - 1 - D) % max(D, 1ll);
        bool of_first = 0 < at && at <= D;
        Index from = diagonal ? (at == 0 ? 2 * D : of_first ? D + at - 1 : b)
                              : (at == 0 ? size - 1 : of_first ? at * (D + 1) - 1 : min(a, b) * (D + 1) + max(a, b));
        double total = 0;
        for (Index p = 0; p < parts; ++p) total += k == K ? sums_of_nats[p] : sums[(p * K + k) * size + from];
        double* to = k == K ? all_nats : at == 0 ? n + k : of_first ? first + k * D + at - 1 : second + k * B * D + at - 1 - D;
        *to = total;
    }
}
