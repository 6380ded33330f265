// The slope of a multilayer perceptron: see mlp_slope.py. A launch per layer, a block per tile of its result; where blocks share
// the depth of a tile, mlp.cu's `backward_of` adds up.
#include "_gemm.cuh"

typedef REAL real;

// above = below W, where `hidden` is active if the layer above is a hidden one.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
tangent(const REAL* __restrict__ below, const REAL* __restrict__ params, const long long* __restrict__ bounds,
        const REAL* __restrict__ hidden, REAL* __restrict__ above, long long N, long long K, long long M, long long start,
        long long bounds_start, bool relu, bool large) {
    Stairs stairs{bounds + bounds_start, K, M};
    const real* weight = params + start;
    by_size<real>(large, [=](auto tile) {
        Index down = (N + tile.ROWS - 1) / tile.ROWS, across = (M + tile.COLUMNS - 1) / tile.COLUMNS;
        Index row = blockIdx.x % down * tile.ROWS, column = (across - 1 - blockIdx.x / down) * tile.COLUMNS;
        layer_forward<decltype(tile)>({row, N}, {column, M}, stairs, factor(below, K), factor(weight, M),
                                      [=](Index n, Index m, real value) {
                                          above[(blockIdx.y * N + n) * M + m] =
                                              gridDim.y > 1 || !relu || hidden[n * M + m] > (real)0 ? value : (real)0;
                                      });
    });
}
