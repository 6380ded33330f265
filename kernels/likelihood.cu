// Log-likelihoods of rows under the outputs of a network, and their gradients: see likelihood.py. A team per row.
#include "_math.cuh"
#include "_reduce.cuh"

constexpr double LOG_2PI = 1.8378770664093453;

extern "C" __global__ void bernoulli_forward(const REAL* __restrict__ x, const REAL* __restrict__ logits,
                                             REAL* __restrict__ ans, long long n, long long d, int lanes) {
    sum_rows(ans, n, d, lanes, 1, 0, [=](long long row, long long i) {
        REAL logit = logits[row * d + i], miss = x[row * d + i] - (logit > 0 ? 1 : 0);
        return (miss != 0 ? miss * logit : 0) - log1p(exp(-fabs(logit)));
    });
}

extern "C" __global__ void bernoulli_backward(const REAL* __restrict__ g, const REAL* __restrict__ x,
                                              const REAL* __restrict__ logits, REAL* __restrict__ dlogits, long long n,
                                              long long d, int lanes) {
    for_entries(n, d, lanes, [=](long long row, long long i) {
        REAL value = x[row * d + i], logit = logits[row * d + i], odds = exp(-fabs(logit)), other = odds / (1 + odds);
        dlogits[row * d + i] = g[row] * (logit > 0 ? (value - 1) + other : value - other);
    });
}

extern "C" __global__ void normal_forward(const REAL* __restrict__ x, const REAL* __restrict__ outputs, REAL* __restrict__ ans,
                                          long long n, long long d, REAL limit, int lanes) {
    sum_rows(ans, n, d, lanes, (REAL)-0.5, (REAL)(d * LOG_2PI), [=](long long row, long long i) {
        const REAL* output = outputs + 2 * (row * d + i);
        REAL log_var = limit * tanh(output[1] / limit);
        REAL z = (x[row * d + i] - output[0]) * exp((REAL)-0.5 * log_var);
        return log_var + z * z;
    });
}

extern "C" __global__ void normal_backward(const REAL* __restrict__ g, const REAL* __restrict__ x,
                                           const REAL* __restrict__ outputs, REAL* __restrict__ doutputs, long long n,
                                           long long d, REAL limit, int lanes) {
    for_entries(n, d, lanes, [=](long long row, long long i) {
        long long mean = 2 * (row * d + i), raw = mean + 1;
        REAL bounded = tanh(outputs[raw] / limit), inverse_std = exp((REAL)-0.5 * limit * bounded);
        REAL z = (x[row * d + i] - outputs[mean]) * inverse_std, slope = (1 - bounded) * (1 + bounded);
        doutputs[mean] = g[row] * z * inverse_std;
        doutputs[raw] = (REAL)0.5 * g[row] * (z * (z * slope) - slope);
    });
}

extern "C" __global__ void standard_normal_forward(const REAL* __restrict__ z, REAL* __restrict__ ans, long long n,
                                                   long long d, int lanes) {
    sum_rows(ans, n, d, lanes, (REAL)-0.5, (REAL)(d * LOG_2PI),
             [=](long long row, long long i) { return z[row * d + i] * z[row * d + i]; });
}

extern "C" __global__ void standard_normal_backward(const REAL* __restrict__ g, const REAL* __restrict__ z,
                                                    REAL* __restrict__ dz, long long n, long long d, int lanes) {
    for_entries(n, d, lanes, [=](long long row, long long i) { dz[row * d + i] = -g[row] * z[row * d + i]; });
}

extern "C" __global__ void kl_forward(const REAL* __restrict__ mean, const REAL* __restrict__ log_var, REAL* __restrict__ ans,
                                      long long n, long long d, int lanes) {
    sum_rows(ans, n, d, lanes, (REAL)0.5, 0, [=](long long row, long long i) {
        REAL m = mean[row * d + i], v = log_var[row * d + i];
        return m * m + (exp(v) - 1 - v);
    });
}

extern "C" __global__ void kl_backward(const REAL* __restrict__ g, const REAL* __restrict__ mean,
                                       const REAL* __restrict__ log_var, REAL* __restrict__ both, long long n, long long d,
                                       int lanes) {
    for_entries(n, d, lanes, [=](long long row, long long i) {
        both[row * d + i] = g[row] * mean[row * d + i];
        both[(n + row) * d + i] = (REAL)0.5 * g[row] * (exp(log_var[row * d + i]) - 1);
    });
}
