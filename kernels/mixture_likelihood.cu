// Log-likelihoods of rows whose features are mixtures of normals, and their gradients: see mixture_likelihood.py. A team per row.
#include "_reduce.cuh"

constexpr double LOG_2PI = 1.8378770664093453;
constexpr REAL LARGEST = (REAL)(sizeof(REAL) == 4 ? 0x1.fffffep125 : 0x1.fffffffffffffp1021);  // M / 4
constexpr REAL FARTHEST = (REAL)(sizeof(REAL) == 4 ? 0x1.fffffep61 : 0x1.fffffffffffffp509);   // sqrt(M) / 4

__device__ __forceinline__ REAL clipped(REAL x, REAL limit) { return x < -limit ? -limit : x > limit ? limit : x; }

// A feature's outputs: components logits, means and raw log-variances; limit bounds the log-variances.
struct Mixture {
    const REAL *logits, *means, *raws;
    long long components;
    REAL x, limit, top, peak, total, sum;

    __device__ __forceinline__ REAL logit(long long c) const { return clipped(logits[c], LARGEST) - top; }

    __device__ __forceinline__ REAL log_density(long long c, REAL& z, REAL& inverse_std, REAL& bounded) const {
        bounded = tanh(raws[c] / limit);
        inverse_std = exp((REAL)-0.5 * limit * bounded);
        z = clipped((x - means[c]) * inverse_std, FARTHEST);
        return logit(c) - (REAL)0.5 * (limit * bounded + z * z);
    }

    // top, peak: the largest logit and log-density; total, sum: of their exponentials, less these.
    __device__ __forceinline__ Mixture(const REAL* outputs, long long n, REAL x, REAL limit)
        : logits(outputs), means(outputs + n), raws(outputs + 2 * n), components(n), x(x), limit(limit), top(-LARGEST),
          peak(-4 * LARGEST), total(0), sum(0) {
        REAL z, inverse_std, bounded;
        for (long long c = 0; c < n; ++c) top = clipped(logits[c], LARGEST) > top ? clipped(logits[c], LARGEST) : top;
        for (long long c = 0; c < n; ++c) {
            REAL value = log_density(c, z, inverse_std, bounded);
            peak = value > peak ? value : peak;
            total += exp(logit(c));
        }
        for (long long c = 0; c < n; ++c) sum += exp(log_density(c, z, inverse_std, bounded) - peak);
    }
};

extern "C" __global__ void forward(const REAL* __restrict__ x, const REAL* __restrict__ outputs, REAL* __restrict__ ans,
                                   long long n, long long d, long long components, REAL limit, int lanes) {
    sum_rows(ans, n, d, lanes, 1, (REAL)(-0.5 * d * LOG_2PI), [=](long long row, long long i) {
        Mixture mixture(outputs + (row * d + i) * 3 * components, components, x[row * d + i], limit);
        return mixture.peak + (log(mixture.sum) - log(mixture.total));
    });
}

extern "C" __global__ void backward(const REAL* __restrict__ g, const REAL* __restrict__ x, const REAL* __restrict__ outputs,
                                    REAL* __restrict__ doutputs, REAL* __restrict__ dx, long long n, long long d,
                                    long long components, REAL limit, int lanes) {
    for_entries(n, d, lanes, [=](long long row, long long i) {
        long long first = (row * d + i) * 3 * components;
        Mixture mixture(outputs + first, components, x[row * d + i], limit);
        REAL of_x = 0, z, inverse_std, bounded;
        for (long long c = 0; c < components; ++c) {
            REAL share = g[row] * (exp(mixture.log_density(c, z, inverse_std, bounded) - mixture.peak) / mixture.sum);
            REAL slope = (1 - bounded) * (1 + bounded), of_mean = share * z * inverse_std;
            doutputs[first + c] = share - g[row] * (exp(mixture.logit(c)) / mixture.total);
            doutputs[first + components + c] = of_mean;
            doutputs[first + 2 * components + c] = (REAL)0.5 * share * (z * (z * slope) - slope);
            of_x -= of_mean;
        }
        dx[row * d + i] = of_x;
    });
}
