// Trajectories of a network's velocity, with their log-determinants: see trajectory.py. A block takes a few rows through all
// steps, a thread for every unit of a layer; every sum is in the order of its terms.
#include "_math.cuh"

typedef REAL real;
typedef long long Index;

constexpr Index ROWS = 4;  // of a block

__device__ __forceinline__ real silu(real z, real* slope) {
    real s = (real)1 / ((real)1 + math::exp(-z)), f = z * s;
    *slope = s + f * ((real)1 - s);
    return f;
}

__device__ __forceinline__ real wave(real z, real* slope) {
    real u = z * (real)0.15915494309189535, f;  // turns
    math::turn(u - floor(u), *slope, f);
    return f;
}

// W_2 * (W_1 W_3)^T, (H, J), of the first D rows of W_1.
extern "C" __global__ void of_divergence(const REAL* __restrict__ params, REAL* __restrict__ both, long long P, long long D,
                                         long long H, long long J) {
    const Index after = J * D + D;  // the last layer's parameters
    const real* third = params + P - after;
    const real* second = third - (H + 1) * J;
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < H * J; i += (Index)gridDim.x * blockDim.x) {
        Index h = i / J, j = i % J;
        real total = 0;
        for (Index d = 0; d < D; ++d) total += third[j * D + d] * params[d * H + h];
        both[i] = second[i] * total;
    }
}

// The network's F (D,) and its divergence at a row, as they are beyond reach: share and bend of trajectory.py's _held, by which
// F is slope x + share (F - slope x). 1 within reach.
__device__ __forceinline__ real share_of(const real* x, const real* F, Index D, real reach, real slope, real* div) {
    real r = 0, across = 0;
    for (Index d = 0; d < D; ++d) r += x[d] * x[d];
    r = math::sqrt(r);
    if (!(r > reach)) return 1;
    const real u = (r / reach - (real)1) / (real)0.25, far = slope * (real)D;
    if (!(u < (real)1)) {
        *div = far;
        return 0;
    }
    const real share = (real)1 - u * u * u * u * ((real)35 - u * ((real)84 - u * ((real)70 - (real)20 * u)));
    const real both = u * ((real)1 - u);
    for (Index d = 0; d < D; ++d) across += (F[d] - slope * x[d]) * x[d];
    *div = far + share * (*div - far) - (real)140 * both * both * both / ((real)0.25 * reach) * across / r;
    return share;
}

// work (N, 3 D + 2 H + 2 J + 2): where a stage is, its F and then k, where the step began; h_1, p_1, h_2, what its units add to
// the divergence; that, and the network's share in F.
extern "C" __global__ void solve(const REAL* __restrict__ x, const REAL* __restrict__ params, const REAL* __restrict__ context,
                                 const double* __restrict__ shares, const double* __restrict__ features,
                                 const double* __restrict__ rim, const double* __restrict__ rates,
                                 const double* __restrict__ alpha, const double* __restrict__ beta, const REAL* __restrict__ both, REAL* y, REAL* log_det,
                                 REAL* work, long long N, long long D, long long H, long long J, long long W, long long G,
                                 long long T, long long S, long long E, bool want,
                                 bool sine) {
    const Index first = blockIdx.x * ROWS, last = min(N, first + ROWS), width = 3 * D + 2 * H + 2 * J + 2, I = D + W + E;
    const real *b1 = params + I * H, *second = b1 + H, *b2 = second + H * J, *third = b2 + J, *b3 = third + J * D;
    for (Index i = first * D + threadIdx.x; i < last * D; i += blockDim.x) y[i] = x[i];
    for (Index n = first + threadIdx.x; n < last; n += blockDim.x) log_det[n] = 0;
    __syncthreads();
    for (Index t = 0; t < T; ++t) {
        for (Index s = 0; s < S; ++s) {
            const double* e = features + (t * S + s) * E;
            const real rate = (real)rates[t * S + s], weight = (real)beta[s], lead = (real)alpha[s];
            // A step starts where y is at its first stage, which is kept.
            for (Index n = first; n < last; ++n) {
                real* at = work + n * width;
                for (Index d = threadIdx.x; d < D; d += blockDim.x) {
                    if (s == 0) at[2 * D + d] = y[n * D + d];
                    at[d] = s == 0 ? y[n * D + d] : at[2 * D + d] + lead * at[D + d];
                }
            }
            __syncthreads();
            for (Index g = 0; g < G; ++g) {
                const real share = (real)shares[g];
                for (Index h = threadIdx.x; h < H; h += blockDim.x) {
                    for (Index n = first; n < last; ++n) {
                        real *at = work + n * width, *h1 = at + 3 * D, total = b1[h];
                        for (Index k = 0; k < E; ++k) total += (real)e[k] * params[(D + W + k) * H + h];
                        for (Index w = 0; w < W; ++w) total += context[(n * G + g) * W + w] * params[(D + w) * H + h];
                        for (Index d = 0; d < D; ++d) total += at[d] * params[d * H + h];
                        h1[h] = sine ? wave(total, h1 + H + h) : silu(total, h1 + H + h);
                    }
                }
                __syncthreads();
                for (Index j = threadIdx.x; j < J; j += blockDim.x) {
                    for (Index n = first; n < last; ++n) {
                        real *h1 = work + n * width + 3 * D, *h2 = h1 + 2 * H, total = b2[j], slope, q = 0;
                        for (Index h = 0; h < H; ++h) total += h1[h] * second[h * J + j];
                        h2[j] = silu(total, &slope);
                        if (want)
                            for (Index h = 0; h < H; ++h) q += h1[H + h] * both[h * J + j];
                        h2[J + j] = q * slope;  // what the unit adds to the divergence
                    }
                }
                __syncthreads();
                for (Index n = first; n < last; ++n) {
                    real *at = work + n * width, *h2 = at + 3 * D + 2 * H;
                    for (Index d = threadIdx.x; d < D; d += blockDim.x) {
                        real total = b3[d];
                        for (Index j = 0; j < J; ++j) total += h2[j] * third[j * D + d];
                        at[D + d] = g == 0 ? share * total : at[D + d] + share * total;
                    }
                }
                for (Index n = first + threadIdx.x; n < last; n += blockDim.x) {
                    real *row = work + n * width, *q = row + 3 * D + 2 * H + J, div = 0;
                    for (Index j = 0; want && j < J; ++j) div += q[j];
                    row[width - 2] = g == 0 ? share * div : row[width - 2] + share * div;
                }
                __syncthreads();
            }
            const real reach = (real)rim[2 * (t * S + s)], slope = (real)rim[2 * (t * S + s) + 1];
            for (Index n = first + threadIdx.x; n < last; n += blockDim.x) {
                real* at = work + n * width;
                at[width - 1] = share_of(at, at + D, D, reach, slope, at + width - 2);
                if (want) log_det[n] += weight * rate * at[width - 2];
            }
            __syncthreads();
            for (Index n = first; n < last; ++n) {
                real *at = work + n * width, part = at[width - 1];
                for (Index d = threadIdx.x; d < D; d += blockDim.x) {
                    const real out = slope * at[d], F = part == (real)1 ? at[D + d] : part == (real)0 ? out
                                                      : out + part * (at[D + d] - out);
                    at[D + d] = rate * F;
                    y[n * D + d] += weight * rate * F;
                }
            }
            __syncthreads();
        }
    }
}
