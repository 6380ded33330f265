// Ancestral samples of a MADE in one pass: see made_sample.py. A block draws a few rows, one dimension after another: a new value
// is added to every unit that sees it, and a unit is activated, and added to those that see it, when its last input has arrived.
#include "_math.cuh"

typedef REAL real;
typedef long long Index;

constexpr Index BERNOULLI = 0, NORMAL = 1, CATEGORICAL = 2;

// The number of the level that u draws, of n with these logits.
__device__ __forceinline__ Index level_of(const real* logits, Index n, real u) {
    real peak = logits[0], total = 0, below = 0;
    for (Index c = 1; c < n; ++c) peak = logits[c] > peak ? logits[c] : peak;
    for (Index c = 0; c < n; ++c) total += math::exp(logits[c] - peak);
    Index level = 0;
    for (Index c = 0; c < n - 1; ++c) {
        below += math::exp(logits[c] - peak);
        level += below <= u * total;
    }
    return level;
}

// What a dimension's n outputs make of its noise.
__device__ __forceinline__ real drawn(const real* out, Index n, Index code, const real* noise, real limit) {
    if (code == BERNOULLI) return noise[0] * ((real)1 + math::exp(-out[0])) < (real)1 ? (real)1 : (real)0;
    if (code == CATEGORICAL) return (real)level_of(out, n, noise[0]);
    real mean = out[0], raw = out[1], eps = noise[0];
    if (code != NORMAL) {
        Index c = level_of(out, n / 3, noise[0]);
        mean = out[n / 3 + c];
        raw = out[2 * (n / 3) + c];
        eps = noise[1];
    }
    real log_var = limit < math::infinity<real>() ? limit * math::tanh(raw / limit) : raw;
    return mean + math::exp(log_var / (real)2) * eps;
}

// seen (N, I): the network's inputs; sums (N, U): the hidden layers' units, then the outputs, on their way to their values; scratch.
// layers (L, 3): where a layer's weight begins in params, its inputs, its outputs. cuts (L - 1, D + 1). The others: (D + 1).
extern "C" __global__ void sample(const REAL* __restrict__ params, const long long* __restrict__ layers,
                                  const long long* __restrict__ cuts, const long long* __restrict__ first_input,
                                  const long long* __restrict__ first_output, const long long* __restrict__ codes,
                                  const REAL* __restrict__ direct, const REAL* __restrict__ context,
                                  const REAL* __restrict__ known, const REAL* __restrict__ noise,
                                  const REAL* __restrict__ limits, REAL* x, REAL* seen, REAL* sums, long long N, long long D,
                                  long long L, long long U, long long noises, long long S, bool has_direct, long long rows) {
    const Index first_row = blockIdx.x * rows, last_row = min(N, first_row + rows);
    const Index inputs = layers[1], outputs = layers[3 * L - 1], before_outputs = U - outputs, given = first_input[D];

    Index place = 0, used = 0;  // of a row's noise
    for (Index layer = 0; layer < L; ++layer) {
        Index K = layers[3 * layer + 1], M = layers[3 * layer + 2];
        const real* bias = params + layers[3 * layer] + K * M;
        for (Index n = first_row; n < last_row; ++n)
            for (Index m = threadIdx.x; m < M; m += blockDim.x) sums[n * U + place + m] = bias[m];
        place += M;
    }
    for (Index n = first_row; n < last_row; ++n)
        for (Index k = given + threadIdx.x; k < inputs; k += blockDim.x)
            seen[n * inputs + k] = context[n * (inputs - given) + k - given];
    __syncthreads();

    for (Index d = -1; d < D; ++d) {  // -1: the context, and the units that see no dimension
        const Index own = d < 0 ? given : first_input[d], end = d < 0 ? inputs : first_input[d + 1];
        if (d >= 0) {
            for (Index n = first_row + threadIdx.x; n < last_row; n += blockDim.x) {
                const real* out = sums + n * U + before_outputs + first_output[d];
                real value = d < S ? known[n * S + d] : drawn(out, first_output[d + 1] - first_output[d], codes[d],
                                                              noise + n * noises + used, limits[d]);
                x[n * D + d] = value;
                for (Index k = own; k < end; ++k)
                    seen[n * inputs + k] = codes[d] == CATEGORICAL ? (real)(value == (real)(k - own)) : value;
            }
            used += codes[d] > CATEGORICAL ? 2 : 1;
            __syncthreads();
        }
        // new: the columns first..last - 1 of a (N, stride) array, which are inputs of the layer
        const real* below = seen;
        Index first = own, last = end, stride = inputs;
        place = 0;
        for (Index layer = 0; layer < L; ++layer) {
            Index M = layers[3 * layer + 2];
            const real* weight = params + layers[3 * layer];
            bool hidden = layer < L - 1;
            // Units from `seeing` on see the new values; before `done` no more come.
            Index seeing = d < 0 ? 0 : hidden ? cuts[layer * (D + 1) + d] : first_output[d + 1];
            Index done = hidden ? cuts[layer * (D + 1) + d + 1] : 0;
            for (Index m = seeing + threadIdx.x; m < M; m += blockDim.x) {
                for (Index n = first_row; n < last_row; ++n) {
                    real total = sums[n * U + place + m];
                    for (Index k = first; k < last; ++k) total += below[n * stride + k] * weight[k * M + m];
                    if (!hidden && has_direct)
                        for (Index k = own; k < end; ++k) total += seen[n * inputs + k] * direct[k * M + m];
                    sums[n * U + place + m] = m < done && total < (real)0 ? (real)0 : total;
                }
            }
            __syncthreads();
            below = sums + place;
            stride = U;
            first = seeing;
            last = done;
            place += M;
        }
    }
}
