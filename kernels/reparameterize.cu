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

// From outputs, of each row d means and then d raw log-variances; n values in all.
extern "C" __global__ void posterior_forward(const REAL* __restrict__ outputs, REAL* __restrict__ z, REAL* __restrict__ mean,
                                             REAL* __restrict__ log_var, long long n, long long d, REAL limit, unsigned key0,
                                             unsigned key1, long long start, const long long* __restrict__ since) {
    stream::for_normals(n, key0, key1, start, since, [=](long long i, REAL eps) {
        const REAL* output = outputs + i / d * d + i;
        REAL v = math::mul(limit, math::tanh(math::div(output[d], limit)));
        mean[i] = output[0], log_var[i] = v, z[i] = math::add(scaled(eps, v), output[0]);
    });
}

extern "C" __global__ void posterior_backward(const REAL* __restrict__ g, const REAL* __restrict__ dmean,
                                              const REAL* __restrict__ dlog_var, const REAL* __restrict__ log_var,
                                              REAL* __restrict__ doutputs, long long n, long long d, REAL limit, unsigned key0,
                                              unsigned key1, long long start, const long long* __restrict__ since) {
    stream::for_normals(n, key0, key1, start, since, [=](long long i, REAL eps) {
        REAL* doutput = doutputs + i / d * d + i;
        REAL bounded = math::div(log_var[i], limit);
        REAL slope = math::mul(math::sub((REAL)1, bounded), math::add((REAL)1, bounded));
        doutput[0] = math::add(g[i], dmean[i]);
        doutput[d] = math::mul(math::add(math::mul(scaled(eps, log_var[i]), math::mul((REAL)0.5, g[i])), dlog_var[i]), slope);
    });
}
