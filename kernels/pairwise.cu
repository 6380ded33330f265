// Sums over pairs of rows and their gradients: see pairwise.py. A block of threads per row; S < 0: the distance.
#include "_math.cuh"
#include "_reduce.cuh"

__device__ __forceinline__ REAL squares(const REAL* x, const REAL* y, long long D) {
    REAL r = 0;
    for (long long d = 0; d < D; ++d) r += (x[d] - y[d]) * (x[d] - y[d]);
    return r;
}

extern "C" __global__ void forward(const REAL* __restrict__ x, const REAL* __restrict__ y, const REAL* __restrict__ weights,
                                   const REAL* __restrict__ scales, REAL* __restrict__ out, long long N, long long M,
                                   long long D, long long S) {
    for (long long i = blockIdx.x; i < N; i += gridDim.x) {
        double total = 0;
        for (long long j = threadIdx.x; j < M; j += blockDim.x) {
            REAL r = squares(x + i * D, y + j * D, D), term = 0;
            if (S < 0) term = math::sqrt(r);
            for (long long s = 0; s < S; ++s) term += math::exp((REAL)-0.5 / (scales[s] * scales[s]) * r);
            total += weights[j] * term;
        }
        total = block_sum(total);
        if (threadIdx.x == 0) out[i] = total;
    }
}

extern "C" __global__ void backward(const REAL* __restrict__ g, const REAL* __restrict__ x, const REAL* __restrict__ y,
                                    const REAL* __restrict__ weights, const REAL* __restrict__ scales, REAL* __restrict__ dx,
                                    long long N, long long M, long long D, long long S) {
    __shared__ REAL shares[128];  // of as many pairs as there are threads
    for (long long i = blockIdx.x; i < N; i += gridDim.x) {
        for (long long d = threadIdx.x; d < D; d += blockDim.x) dx[i * D + d] = 0;
        for (long long low = 0; low < M; low += blockDim.x) {
            long long j = low + threadIdx.x, size = min((long long)blockDim.x, M - low);
            if (j < M) {
                REAL r = squares(x + i * D, y + j * D, D), share = 0;
                if (S < 0 && (r > 0 || r != r)) share = 1 / math::sqrt(r);
                for (long long s = 0; s < S; ++s) {
                    REAL precision = 1 / (scales[s] * scales[s]);
                    share -= precision * math::exp((REAL)-0.5 * precision * r);
                }
                shares[threadIdx.x] = weights[j] * share;
            }
            __syncthreads();
            for (long long d = threadIdx.x; d < D; d += blockDim.x) {
                REAL total = 0;
                for (long long k = 0; k < size; ++k) total += shares[k] * (x[i * D + d] - y[(low + k) * D + d]);
                dx[i * D + d] += total;
            }
            __syncthreads();
        }
        for (long long d = threadIdx.x; d < D; d += blockDim.x) dx[i * D + d] *= g[i];
    }
}

extern "C" __global__ void stein(const REAL* __restrict__ x, const REAL* __restrict__ s, const REAL* __restrict__ y,
                                 const REAL* __restrict__ t, const REAL* __restrict__ weights, REAL* __restrict__ out, long long N,
                                 long long M, long long D, double slope) {
    const REAL rate = (REAL)slope, trace = (REAL)(slope * D), half = (REAL)(-0.5 * slope);
    for (long long i = blockIdx.x; i < N; i += gridDim.x) {
        double total = 0;
        for (long long j = threadIdx.x; j < M; j += blockDim.x) {
            REAL r = squares(x + i * D, y + j * D, D), dot = 0, across = 0, k = math::exp(half * r);
            for (long long d = 0; d < D; ++d) {
                dot += s[i * D + d] * t[j * D + d];
                across += (s[i * D + d] - t[j * D + d]) * (x[i * D + d] - y[j * D + d]);
            }
            if (k != 0) total += weights[j] * (k * (dot + rate * across + trace - rate * rate * r));
        }
        total = block_sum(total);
        if (threadIdx.x == 0) out[i] = total;
    }
}

extern "C" __global__ void nearest(const REAL* __restrict__ x, const REAL* __restrict__ y, REAL* __restrict__ out, long long N,
                                   long long M, long long D, long long k) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < N; i += (long long)gridDim.x * blockDim.x) {
        REAL* found = out + i * k;
        for (long long j = 0; j < k; ++j) found[j] = (REAL)__longlong_as_double(0x7ff0000000000000LL);
        for (long long j = 0; j < M; ++j) {
            const REAL r = squares(x + i * D, y + j * D, D);
            if (!(r < found[k - 1])) continue;
            long long at = k - 1;
            for (; at > 0 && r < found[at - 1]; --at) found[at] = found[at - 1];
            found[at] = r;
        }
    }
}
