// The log-weights of all states of a layer of binary units: see gray.py. A block of threads for a state, one after another.
#include "_math.cuh"
#include "_reduce.cuh"

extern "C" __global__ void log_weights(const REAL* __restrict__ outer, const REAL* __restrict__ inner,
                                       const REAL* __restrict__ weight, REAL* __restrict__ out, long long K, long long D,
                                       bool normal) {
    for (long long s = blockIdx.x; s < (1LL << K); s += gridDim.x) {
        REAL total = 0;
        for (long long k = threadIdx.x; k < K; k += blockDim.x) total += s >> k & 1 ? outer[k] : (REAL)0;
        for (long long d = threadIdx.x; d < D; d += blockDim.x) {
            REAL a = inner[d];
            for (long long k = 0; k < K; ++k)
                if (s >> k & 1) a += weight[k * D + d];
            total += normal ? a * a / 2 : (a > 0 ? a : (REAL)0) + math::log1p(math::exp(a > 0 ? -a : a));
        }
        total = block_sum(total);
        if (threadIdx.x == 0) out[s] = total;
    }
}
