// One Adam step in one pass over memory: see adam.py. Nothing changes where clip_scale is not finite.
#include "_math.cuh"
#include "_pack.cuh"

template <int V>
__device__ __forceinline__ void update(long long i, REAL* param, const REAL* grad, REAL* m, REAL* v, REAL scale, REAL keep_m,
                                       REAL add_m, REAL keep_v, REAL add_v, REAL rate, REAL root, REAL floor) {
    Pack<V> p = load<V>(param + i), g = load<V>(grad + i), mean = load<V>(m + i), square = load<V>(v + i);
#pragma unroll
    for (int j = 0; j < V; ++j) {
        REAL step = scale * g.v[j];
        mean.v[j] = keep_m * mean.v[j] + add_m * step;
        square.v[j] = keep_v * square.v[j] + add_v * (step * step);
        p.v[j] -= rate * mean.v[j] / (math::sqrt(square.v[j]) * root + floor);
    }
    store(param + i, p), store(m + i, mean), store(v + i, square);
}

extern "C" __global__ void step(REAL* __restrict__ param, const REAL* __restrict__ grad, REAL* __restrict__ m,
                                REAL* __restrict__ v, const REAL* __restrict__ clip_scale, const double* __restrict__ clock,
                                long long n, double beta1, double rest1, double beta2, double rest2, double eps) {
    __shared__ REAL shared_rate, shared_root;
    REAL scale = clip_scale[0];
    if (!(math::absolute(scale) < math::infinity<REAL>())) return;
    if (threadIdx.x == 0) {  // double precision takes long on some devices
        shared_rate = (REAL)(clock[1] / (1 - pow(beta1, clock[0])));
        shared_root = (REAL)(1 / sqrt(1 - pow(beta2, clock[0])));
    }
    __syncthreads();
    REAL keep_m = (REAL)beta1, add_m = (REAL)rest1, keep_v = (REAL)beta2, add_v = (REAL)rest2, floor = (REAL)eps;
    REAL rate = shared_rate, root = shared_root;
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long long)gridDim.x * blockDim.x;
    long long packed = aligned(param) && aligned(grad) && aligned(m) && aligned(v) ? n / PACK * PACK : 0;
    for (long long i = thread * PACK; i < packed; i += threads * PACK)
        update<PACK>(i, param, grad, m, v, scale, keep_m, add_m, keep_v, add_v, rate, root, floor);
    for (long long i = packed + thread; i < n; i += threads)
        update<1>(i, param, grad, m, v, scale, keep_m, add_m, keep_v, add_v, rate, root, floor);
}
