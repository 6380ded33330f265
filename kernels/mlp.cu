// A multilayer perceptron: see mlp.py. A launch per layer, a block per tile of its result; the gradients of all weights and
// biases are one launch. Where blocks share the depth of a tile, each stores a part, and `forward_of` or `backward_of` adds up.
#include "_gemm.cuh"
#include "_math.cuh"

typedef REAL real;

// value, or its ReLU; a NaN stays one.
__device__ __forceinline__ real bounded(real value, bool relu) { return relu && value < (real)0 ? (real)0 : value; }

// above = below W + b, or its ReLU. The parameters of the layer begin at `start`.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
forward(const REAL* __restrict__ below, const REAL* __restrict__ params, const long long* __restrict__ bounds,
        REAL* __restrict__ above, long long N, long long K, long long M, long long start, long long bounds_start, bool relu,
        bool large) {
    Stairs stairs{bounds + bounds_start, K, M};
    const real *weight = params + start, *bias = weight + K * M;
    by_size<real>(large, [=](auto tile) {
        Index down = (N + tile.ROWS - 1) / tile.ROWS, across = (M + tile.COLUMNS - 1) / tile.COLUMNS;
        Index row = blockIdx.x % down * tile.ROWS, column = (across - 1 - blockIdx.x / down) * tile.COLUMNS;  // the most work first
        layer_forward<decltype(tile)>({row, N}, {column, M}, stairs, factor(below, K), factor(weight, M),
                                      [=](Index n, Index m, real value) {
                                          above[(blockIdx.y * N + n) * M + m] =
                                              gridDim.y > 1 ? value : bounded(value + bias[m], relu);
                                      });
    });
}

// above = the sum of `parts` (count, N M) + b, or its ReLU: what `forward` leaves to do where blocks share K.
extern "C" __global__ void forward_of(const REAL* __restrict__ parts, const REAL* __restrict__ bias, REAL* __restrict__ above,
                                      long long count, long long size, long long M, bool relu) {
    add_up(parts, count, size, [=](Index i, real total) { above[i] = bounded(total + bias[i % M], relu); });
}

// out = the sum of `parts` (count, size), where `hidden` is active: what `backward`, and mlp_slope.cu's `tangent`, leave to do.
extern "C" __global__ void backward_of(const REAL* __restrict__ parts, const REAL* __restrict__ hidden, REAL* __restrict__ out,
                                       long long count, long long size, bool relu) {
    add_up(parts, count, size, [=](Index i, real total) { out[i] = !relu || hidden[i] > (real)0 ? total : (real)0; });
}

// below = above W^T, where `hidden` is active if the layer below is a hidden one.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
backward(const REAL* __restrict__ above, const REAL* __restrict__ params, const long long* __restrict__ bounds,
         const REAL* __restrict__ hidden, REAL* __restrict__ below, long long N, long long K, long long M, long long start,
         long long bounds_start, bool relu, bool large) {
    Stairs stairs{bounds + bounds_start, K, M};
    const real* weight = params + start;
    by_size<real>(large, [=](auto tile) {
        Index down = (N + tile.ROWS - 1) / tile.ROWS;
        Index row = blockIdx.x % down * tile.ROWS, column = blockIdx.x / down * tile.COLUMNS;
        layer_backward<decltype(tile)>({row, N}, {column, K}, stairs, factor(above, M), factor(weight, M),
                                       [=](Index n, Index k, real value) {
                                           below[(blockIdx.y * N + n) * K + k] =
                                               gridDim.y > 1 || !relu || hidden[n * K + k] > (real)0 ? value : (real)0;
                                       });
    });
}

// The gradient of the layer y = x W + b: where x and g = dy lie, and where dW, db go.
struct Job {
    Index x_is_hidden, x_before, x_first, x_stride, K;  // row n of x: x_first values into row n of a (N, x_stride) array, ...
    Index g_is_delta, g_before, g_first, g_stride, M;   // ... which has N x_before values before it in x, or in hidden
    Index out, bounds, mask;                            // where the layer begins in each; bounds < 0: no mask
};

// Job blockIdx.y, part blockIdx.z of the rows into part blockIdx.z of dparams (parts, size).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
gradients(const REAL* __restrict__ x, const REAL* __restrict__ hidden, const REAL* __restrict__ g,
          const REAL* __restrict__ delta, const REAL* __restrict__ mask, const long long* __restrict__ bounds,
          const long long* __restrict__ jobs, REAL* __restrict__ dparams, long long N, long long size, bool large) {
    Job job = ((const Job*)jobs)[blockIdx.y];
    Stairs stairs{job.bounds < 0 ? nullptr : bounds + job.bounds, job.K, job.M};
    Range batch{blockIdx.z * N / gridDim.z, (blockIdx.z + 1) * N / gridDim.z};
    const real* of_x = (job.x_is_hidden ? hidden : x) + N * job.x_before + job.x_first;
    const real* of_g = (job.g_is_delta ? delta : g) + N * job.g_before + job.g_first;
    const real* masks = mask + job.mask;
    real* out = dparams + blockIdx.z * size + job.out;
    Index inputs = job.K, columns = job.M, x_stride = job.x_stride, g_stride = job.g_stride;
    by_size<real>(large, [=](auto tile) {
        Index down = (inputs + tile.ROWS) / tile.ROWS;
        Index row = blockIdx.x % down * tile.ROWS, column = blockIdx.x / down * tile.COLUMNS;
        if (column >= columns) return;  // another job has more tiles
        layer_gradient<decltype(tile)>({row, inputs + 1}, {column, columns}, batch, stairs,
                                       factor(of_x, x_stride, [=](const real* at, Index k, Index) {
                                           return k < inputs ? *at : (real)1;  // a last column of ones: db
                                       }),
                                       factor(of_g, g_stride), [=](Index k, Index m, real value) {
                                           out[k * columns + m] = k < inputs ? stairs.masked(value, masks, k, m) : value;
                                       });
    });
}
