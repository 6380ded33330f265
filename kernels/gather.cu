// Rows by their numbers: see gather.py. A thread per value, in a loop, so that neighbours read and write side by side.

extern "C" __global__ void rows(const REAL* __restrict__ x, const long long* __restrict__ index, REAL* __restrict__ out,
                                long long N, long long D) {
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < N * D; i += stride)
        out[i] = x[index[i / D] * D + i % D];
}
