// Rows shared out among teams of threads: `lanes` of a warp, a power of two, or all of a block.
//
// What a team sums up, it does in an order that depends on its size alone.
#pragma once

constexpr unsigned WARP = 0xffffffff;  // all its lanes

// body(row, lane, whether there is such a row) for every row, in all threads of a block together, so that body may reduce.
template <class Body> __device__ __forceinline__ void for_rows(long long n, int lanes, Body body) {
    int teams = blockDim.x / lanes;
    for (long long first = (long long)blockIdx.x * teams; first < n; first += (long long)gridDim.x * teams) {
        long long row = first + threadIdx.x / lanes;
        body(row, (int)threadIdx.x % lanes, row < n);
    }
}

// combine of the values of a team's lanes, two at a time, in all of them; other(value, step) is that of the lane ^ step.
template <class T, class Combine, class Other>
__device__ __forceinline__ T team_reduce(T value, int lanes, Combine combine, Other other) {
    for (int step = min(lanes, 32) / 2; step > 0; step /= 2) value = combine(value, other(value, step));
    if (lanes > 32) {
        __shared__ T parts[32];
        __syncthreads();  // of an earlier call some may still be reading
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
        __syncthreads();
        value = parts[0];
        for (int i = 1; i < lanes / 32; ++i) value = combine(value, parts[i]);
    }
    return value;
}

template <class T> __device__ __forceinline__ T team_sum(T value, int lanes) {
    return team_reduce(value, lanes, [](T a, T b) { return a + b; },
                       [](T a, int step) { return __shfl_xor_sync(WARP, a, step); });
}

template <class T> __device__ __forceinline__ T warp_sum(T value) { return team_sum(value, 32); }
template <class T> __device__ __forceinline__ T block_sum(T value) { return team_sum(value, (int)blockDim.x); }

// NaN counts as the smallest.
template <class T> __device__ __forceinline__ T warp_max(T value) {
    return team_reduce(value, 32, [](T a, T b) { return a > b || b != b ? a : b; },
                       [](T a, int step) { return __shfl_xor_sync(WARP, a, step); });
}

// ans = factor * (constant + the sum of a row's terms).
template <class Term>
__device__ __forceinline__ void sum_rows(REAL* ans, long long n, long long d, int lanes, REAL factor, REAL constant,
                                         Term term) {
    for_rows(n, lanes, [=](long long row, int lane, bool exists) {
        REAL total = 0;
        for (long long i = lane; exists && i < d; i += lanes) total += term(row, i);
        total = team_sum(total, lanes);
        if (exists && lane == 0) ans[row] = factor * (total + constant);
    });
}

// use(row, i) of every value of every row.
template <class Use>
__device__ __forceinline__ void for_entries(long long n, long long d, int lanes, Use use) {
    for_rows(n, lanes, [=](long long row, int lane, bool exists) {
        for (long long i = lane; exists && i < d; i += lanes) use(row, i);
    });
}
