// Products with a masked weight: see masked_matmul.py. A block makes one tile of the result, and looks at no slice of the
// depth that the staircase empties there; where several share the depth, y and dx (parts, ...) are sums that `add` adds up.
#include "_gemm.cuh"

typedef REAL real;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
forward(const REAL* __restrict__ x, const REAL* __restrict__ weight, const REAL* __restrict__ bias,
        const REAL* __restrict__ mask, const long long* __restrict__ bounds, REAL* __restrict__ y, long long N, long long K,
        long long M, bool large) {
    Stairs stairs{bounds, K, M};
    by_size<real>(large, [=](auto tile) {
        Index down = (N + tile.ROWS - 1) / tile.ROWS, across = (M + tile.COLUMNS - 1) / tile.COLUMNS;
        Index row = blockIdx.x % down * tile.ROWS, column = (across - 1 - blockIdx.x / down) * tile.COLUMNS;  // the most work first
        layer_forward<decltype(tile)>({row, N}, {column, M}, stairs, factor(x, K),
                                      factor(weight, M, [=](const real* at, Index m, Index k) {
                                          return stairs.masked(*at, mask, k, m);
                                      }),
                                      [=](Index n, Index m, real value) {
                                          y[(blockIdx.y * N + n) * M + m] = gridDim.y > 1 ? value : value + bias[m];
                                      });
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
backward_x(const REAL* __restrict__ g, const REAL* __restrict__ weight, const REAL* __restrict__ mask,
           const long long* __restrict__ bounds, REAL* __restrict__ dx, long long N, long long K, long long M, bool large) {
    Stairs stairs{bounds, K, M};
    by_size<real>(large, [=](auto tile) {
        Index down = (N + tile.ROWS - 1) / tile.ROWS;
        Index row = blockIdx.x % down * tile.ROWS, column = blockIdx.x / down * tile.COLUMNS;
        layer_backward<decltype(tile)>({row, N}, {column, K}, stairs, factor(g, M),
                                       factor(weight, M, [=](const real* at, Index k, Index m) {
                                           return stairs.masked(*at, mask, k, m);
                                       }),
                                       [=](Index n, Index k, real value) { dx[(blockIdx.y * N + n) * K + k] = value; });
    });
}

// Part blockIdx.y of the rows into part blockIdx.y of dw.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
backward_weight(const REAL* __restrict__ x, const REAL* __restrict__ g, const REAL* __restrict__ mask,
                const long long* __restrict__ bounds, REAL* __restrict__ dw, long long N, long long K, long long M, bool large) {
    Stairs stairs{bounds, K, M};
    Range batch{blockIdx.y * N / gridDim.y, (blockIdx.y + 1) * N / gridDim.y};
    real* out = dw + blockIdx.y * K * M;
    by_size<real>(large, [=](auto tile) {
        Index down = (K + tile.ROWS - 1) / tile.ROWS;
        Index row = blockIdx.x % down * tile.ROWS, column = blockIdx.x / down * tile.COLUMNS;
        layer_gradient<decltype(tile)>({row, K}, {column, M}, batch, stairs, factor(x, K), factor(g, M),
                                       [=](Index k, Index m, real value) {
                                           out[k * M + m] = stairs.masked(value, mask, k, m);
                                       });
    });
}

// The sum of the parts (count, size), and in every row of M values a bias, if there are any.
extern "C" __global__ void add(const REAL* __restrict__ parts, const REAL* __restrict__ bias, REAL* __restrict__ out,
                               long long count, long long size, long long M) {
    add_up(parts, count, size, [=](Index i, real total) { out[i] = M ? total + bias[i % M] : total; });
}
