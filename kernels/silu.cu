// SiLU and its gradient, entry by entry: see silu.py.
#include "_math.cuh"

extern "C" __global__ void forward(const REAL* __restrict__ x, REAL* __restrict__ y, long long n) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
        y[i] = x[i] / ((REAL)1 + math::exp(-x[i]));
}

extern "C" __global__ void backward(const REAL* __restrict__ g, const REAL* __restrict__ x, REAL* __restrict__ out,
                                    long long n) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
        REAL s = (REAL)1 / ((REAL)1 + math::exp(-x[i]));
        out[i] = g[i] * (s * ((REAL)1 + x[i] * ((REAL)1 - s)));
    }
}
