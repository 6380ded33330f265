// Log-likelihoods of rows whose features are numbers of levels, and their gradients: see categorical.py. A team per row.
#include "_reduce.cuh"

constexpr REAL LARGEST = (REAL)(sizeof(REAL) == 4 ? 0x1.fffffep125 : 0x1.fffffffffffffp1021);  // M / 4

__device__ __forceinline__ REAL clipped(REAL x) { return x < -LARGEST ? -LARGEST : x > LARGEST ? LARGEST : x; }

// A feature's level, -1 for none; its largest logit and where that is; rest: the sum of exp(logit - largest) of all others.
struct Feature {
    const REAL* logits;
    long long level, top;
    REAL peak, rest;

    __device__ __forceinline__ REAL logit(long long c) const { return clipped(logits[c]) - peak; }

    __device__ __forceinline__ Feature(const REAL* logits, long long levels, REAL x)
        : logits(logits), level(-1), top(0), peak(-LARGEST), rest(0) {
        if (x >= 0 && x < levels && x == (REAL)(long long)x) level = (long long)x;
        for (long long c = 0; c < levels; ++c) {
            if (clipped(logits[c]) > peak) {
                peak = clipped(logits[c]);
                top = c;
            }
        }
        for (long long c = 0; c < levels; ++c) rest += exp(c == top ? logit(c) - LARGEST : logit(c));
    }
};

extern "C" __global__ void forward(const REAL* __restrict__ x, const REAL* __restrict__ logits,
                                   const long long* __restrict__ first, REAL* __restrict__ ans, long long n, long long d,
                                   long long m, int lanes) {
    sum_rows(ans, n, d, lanes, 1, 0, [=](long long row, long long i) {
        REAL value = x[row * d + i];
        Feature feature(logits + row * m + first[i], first[i + 1] - first[i], value);
        if (feature.level < 0) return value != value ? (REAL)0 : (REAL)0 / (REAL)0;  // missing, or no level
        return feature.logit(feature.level) - log1p(feature.rest);
    });
}

extern "C" __global__ void backward(const REAL* __restrict__ g, const REAL* __restrict__ x, const REAL* __restrict__ logits,
                                    const long long* __restrict__ first, REAL* __restrict__ dlogits, long long n, long long d,
                                    long long m, int lanes) {
    for_entries(n, d, lanes, [=](long long row, long long i) {
        REAL value = x[row * d + i];
        long long levels = first[i + 1] - first[i];
        Feature feature(logits + row * m + first[i], levels, value);
        REAL total = 1 + feature.rest, scale = feature.level < 0 ? (REAL)0 / (REAL)0 : g[row] / total;
        for (long long c = 0; c < levels; ++c) {
            REAL odds = c == feature.top ? 1 : exp(feature.logit(c));
            REAL others = c == feature.top ? feature.rest : total - odds;
            dlogits[row * m + first[i] + c] = value != value ? 0 : c == feature.level ? scale * others : -scale * odds;
        }
    });
}
