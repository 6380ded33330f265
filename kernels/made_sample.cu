// Ancestral samples of a MADE in one pass: see made_sample.py. A block draws a few rows, one dimension after another: a new value
// is added to every unit that sees it, and a unit is activated, and added to those that see it, when its last input has arrived.
#include "_math.cuh"

typedef REAL real;
typedef long long Index;

// sums (N, U): the hidden layers' units, then the outputs, on their way to their values; scratch.
// layers (L, 3): where a layer's weight begins in params, its inputs, its outputs. cuts (L - 1, D + 1). first_output (D + 1).
extern "C" __global__ void sample(const REAL* __restrict__ params, const long long* __restrict__ layers,
                                  const long long* __restrict__ cuts, const long long* __restrict__ first_output,
                                  const REAL* __restrict__ noise, double limit, REAL* x, REAL* sums, long long N,
                                  long long D, long long L, long long U, long long rows) {
    const Index first_row = blockIdx.x * rows, last_row = min(N, first_row + rows);
    const Index outputs = layers[3 * L - 1], before_outputs = U - outputs;

    Index place = 0;
    for (Index layer = 0; layer < L; ++layer) {
        Index K = layers[3 * layer + 1], M = layers[3 * layer + 2];
        const real* bias = params + layers[3 * layer] + K * M;
        for (Index n = first_row; n < last_row; ++n)
            for (Index m = threadIdx.x; m < M; m += blockDim.x) sums[n * U + place + m] = bias[m];
        place += M;
    }
    __syncthreads();

    for (Index d = -1; d < D; ++d) {  // -1: the units that see no dimension
        if (d >= 0) {
            for (Index n = first_row + threadIdx.x; n < last_row; n += blockDim.x) {
                const real *out = sums + n * U + before_outputs + first_output[d], u = noise[n * D + d];
                if (limit > 0) {
                    real log_var = (real)limit * math::tanh(out[1] / (real)limit);
                    x[n * D + d] = out[0] + math::exp(log_var / (real)2) * u;
                } else {
                    x[n * D + d] = u * ((real)1 + math::exp(-out[0])) < (real)1 ? (real)1 : (real)0;
                }
            }
            __syncthreads();
        }
        // new: the columns first..last - 1 of a (N, stride) array, which are inputs of the layer
        const real* below = x;
        Index first = d < 0 ? 0 : d, last = d + 1, stride = D;
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
