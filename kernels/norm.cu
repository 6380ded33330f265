// Sums of squares in two launches: see norm.py. A block per chunk, then one block over their sums.
#include "_reduce.cuh"

extern "C" __global__ void sum_chunks(const REAL* __restrict__ x, double* __restrict__ sums, long long P, long long chunk) {
    long long low = blockIdx.x * chunk, high = low + chunk < P ? low + chunk : P;
    double total = 0;
    for (long long i = low + threadIdx.x; i < high; i += blockDim.x) total += (double)x[i] * (double)x[i];
    total = block_sum(total);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

extern "C" __global__ void add_up(const double* __restrict__ sums, double* __restrict__ out, long long n) {
    double total = 0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) total += sums[i];
    total = block_sum(total);
    if (threadIdx.x == 0) out[0] = total;
}
