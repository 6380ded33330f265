// A normal sample as a function of its mean and log-variance, and its gradient: see reparameterize.py. The bits are Numba's.
#include "_random.cuh"

__device__ __forceinline__ REAL scaled(REAL eps, REAL log_var) {
    return math::mul(eps, math::exp(math::mul((REAL)0.5, log_var)));
}

extern "C" __global__ void forward(const REAL* __restrict__ mean, const REAL* __restrict__ log_var, REAL* __restrict__ z,
                                   long long n, unsigned key0, unsigned key1, long long start,
                                   const long long* __restrict__ since) {
    stream::for_normals(n, key0, key1, start, since,
                        [=](long long i, REAL eps) { z[i] = math::add(scaled(eps, log_var[i]), mean[i]); });
}

extern "C" __global__ void backward(const REAL* __restrict__ g, const REAL* __restrict__ log_var,
                                    REAL* __restrict__ g_log_var, long long n, unsigned key0, unsigned key1, long long start,
                                    const long long* __restrict__ since) {
    stream::for_normals(n, key0, key1, start, since, [=](long long i, REAL eps) {
        g_log_var[i] = math::mul(scaled(eps, log_var[i]), math::mul((REAL)0.5, g[i]));
    });
}
