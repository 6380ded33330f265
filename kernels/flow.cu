// A flow of coupling steps: see flow.py. A block takes a few rows through all steps, so that a whole pass is one launch; the
// gradients of the parameters are mlp.cu's.
//
// Here a state is (N, D), a network's outputs (N, O) and a hidden layer (N, h), row by row.
#include "_gemm.cuh"
#include "_math.cuh"
#include "_reduce.cuh"

typedef REAL real;

constexpr int ROWS = Panel<real>::ROWS, LANES = THREADS / ROWS;  // threads that share a row

// The steps: plan (S, L + 2) has for every step where its parameters begin, then its network's widths.
struct Flow {
    const real* params;
    const Index *orders, *plan;
    Index N, D, S, L, O, Q;  // rows, features, steps, layers, most outputs, hidden units

    __device__ Index width(Index step, Index layer) const { return plan[step * (L + 2) + 1 + layer]; }
    __device__ const real* shift(Index step) const { return params + plan[step * (L + 2)]; }
    __device__ const real* log_scale(Index step) const { return shift(step) + D; }
    __device__ const Index* order(Index step) const { return orders + step * D; }
    __device__ Index moved(Index step) const { return D - width(step, 0); }
};

// act(row, lane) for the rows of the panel, by the LANES threads of each.
template <class Act> __device__ __forceinline__ void each_row(Range rows, Act act) {
    Index n = rows.first + threadIdx.x / LANES;
    if (n < rows.last) act(n, threadIdx.x % LANES);
}

// The network of a step: fills the panel's rows of hidden and outputs.
__device__ void network(const Flow& flow, Index step, Range rows, const real* state, real* hidden, real* outputs) {
    const real *weight = flow.log_scale(step) + flow.D, *below = state + flow.moved(step);
    Index stride = flow.D;
    for (Index layer = 0; layer < flow.L; ++layer) {
        Index K = flow.width(step, layer), M = flow.width(step, layer + 1);
        bool last = layer == flow.L - 1;
        real* above = last ? outputs : hidden;
        Index above_stride = last ? flow.O : M;
        real least = last ? -math::infinity<real>() : (real)0;
        const real* bias = weight + K * M;
        for (Index column = 0; column < M; column += Panel<real>::COLUMNS)
            layer_forward<Panel<real>>(rows, {column, M}, {nullptr, K, M}, factor(below, stride), factor(weight, M),
                                       [=](Index n, Index m, real value) {
                                           value += bias[m];
                                           above[n * above_stride + m] = value < least ? least : value;  // a NaN stays one
                                       });
        __syncthreads();
        below = hidden;
        stride = M;
        hidden += flow.N * M;
        weight = bias + M;
    }
}

// Step s keeps its state, outputs and hidden layers in place s of between, outputs and hidden, or in the `last` of few places.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
inverse(const REAL* __restrict__ x, const REAL* __restrict__ params, const long long* __restrict__ orders,
        const long long* __restrict__ plan, double limit, bool keep, REAL* __restrict__ z, REAL* __restrict__ log_det,
        REAL* __restrict__ log_prob, REAL* between, REAL* outputs, REAL* hidden, long long N, long long D, long long S,
        long long L, long long O, long long Q) {
    Flow flow{params, orders, plan, N, D, S, L, O, Q};
    Range rows{(Index)blockIdx.x * ROWS, N};
    rows.last = min(N, rows.first + ROWS);
    const real* from = x;
    real lost = 0;  // this thread's part of -log_det
    for (Index step = 0; step < S; ++step) {
        real* to = between + (keep ? step : step % 2) * N * D;
        real* of_net = outputs + (keep ? step : 0) * N * O;
        Index J = flow.moved(step), kept = D - J;
        each_row(rows, [&](Index n, int lane) {
            for (Index d = lane; d < D; d += LANES) {
                real scale = flow.log_scale(step)[d];
                to[n * D + (d < kept ? J + d : d - kept)] =
                    (from[n * D + flow.order(step)[d]] - flow.shift(step)[d]) * math::exp(-scale);
                lost += scale;
            }
        });
        __syncthreads();
        network(flow, step, rows, to, hidden + (keep ? step : 0) * N * Q, of_net);
        each_row(rows, [&](Index n, int lane) {
            for (Index j = lane; j < J; j += LANES) {
                real s = (real)limit * math::tanh(of_net[n * O + j] / (real)limit);
                of_net[n * O + j] = s;
                to[n * D + j] = (to[n * D + j] - of_net[n * O + J + j]) * math::exp(-s);
                lost += s;
            }
        });
        __syncthreads();
        from = to;
    }
    real squares = 0;
    each_row(rows, [&](Index n, int lane) {
        for (Index d = lane; d < D; d += LANES) {
            real value = from[n * D + d];
            z[n * D + d] = value;
            squares += value * value;
        }
    });
    lost = team_sum(lost, LANES);
    squares = team_sum(squares, LANES);
    each_row(rows, [&](Index n, int lane) {
        if (lane == 0) {
            log_det[n] = -lost;
            log_prob[n] = -lost - (real)0.5 * (squares + (real)(D * 1.8378770664093454836));  // D log(2 pi)
        }
    });
}

// states (2, N, D), outputs (N, O) and hidden (N Q) are scratch.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
forward(const REAL* __restrict__ z, const REAL* __restrict__ params, const long long* __restrict__ orders,
        const long long* __restrict__ plan, double limit, REAL* __restrict__ x, REAL* __restrict__ log_det, REAL* states,
        REAL* outputs, REAL* hidden, long long N, long long D, long long S, long long L, long long O, long long Q) {
    Flow flow{params, orders, plan, N, D, S, L, O, Q};
    Range rows{(Index)blockIdx.x * ROWS, N};
    rows.last = min(N, rows.first + ROWS);
    const real* from = z;
    real gained = 0;
    for (Index step = S - 1; step >= 0; --step) {
        real* to = step == 0 ? x : states + step % 2 * N * D;
        Index J = flow.moved(step), kept = D - J;
        network(flow, step, rows, from, hidden, outputs);
        each_row(rows, [&](Index n, int lane) {
            for (Index d = lane; d < D; d += LANES) {
                real scale = flow.log_scale(step)[d], value;
                if (d < kept) {
                    value = from[n * D + J + d];
                } else {
                    Index j = d - kept;
                    real s = (real)limit * math::tanh(outputs[n * O + j] / (real)limit);
                    value = from[n * D + j] * math::exp(s) + outputs[n * O + J + j];
                    gained += s;
                }
                to[n * D + flow.order(step)[d]] = value * math::exp(scale) + flow.shift(step)[d];
                gained += scale;
            }
        });
        __syncthreads();
        from = to;
    }
    gained = team_sum(gained, LANES);
    each_row(rows, [&](Index n, int lane) {
        if (lane == 0) log_det[n] = gained;
    });
}

// Fills delta (S, N Q), the cotangents of the hidden layers before their ReLU, and g (S, N, O + 2 D): the cotangents of a
// network's outputs, then a row's share of dshift and of dlog_scale. states (2, N, D) and kept (N, D) are scratch.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
backward(const REAL* __restrict__ dz, const REAL* __restrict__ dlog_det, const REAL* __restrict__ between,
         const REAL* __restrict__ outputs, const REAL* __restrict__ hidden, const REAL* __restrict__ params,
         const long long* __restrict__ orders, const long long* __restrict__ plan, double limit, REAL* g, REAL* delta,
         REAL* __restrict__ dx, REAL* states, REAL* dkept, long long N, long long D, long long S, long long L, long long O,
         long long Q) {
    Flow flow{params, orders, plan, N, D, S, L, O, Q};
    Range rows{(Index)blockIdx.x * ROWS, N};
    rows.last = min(N, rows.first + ROWS);
    const Index stride = O + 2 * D;
    const real* from = dz;
    for (Index step = S - 1; step >= 0; --step) {
        const real *after = between + step * N * D, *of_net = outputs + step * N * O;
        real *to = step == 0 ? dx : states + step % 2 * N * D, *of_g = g + step * N * stride;
        Index J = flow.moved(step), kept = D - J;
        each_row(rows, [&](Index n, int lane) {
            for (Index j = lane; j < J; j += LANES) {
                real s = of_net[n * O + j], ratio = s / (real)limit, dz_j = from[n * D + j];
                of_g[n * stride + j] = (-dz_j * after[n * D + j] - dlog_det[n]) * ((real)1 - ratio * ratio);
                of_g[n * stride + J + j] = -dz_j * math::exp(-s);
            }
        });
        __syncthreads();

        const real *weight = flow.log_scale(step) + D, *above = of_g;
        for (Index layer = 0; layer < L; ++layer) weight += (flow.width(step, layer) + 1) * flow.width(step, layer + 1);
        Index above_stride = stride, above_units = Q;
        for (Index layer = L - 1; layer >= 0; --layer) {
            Index K = flow.width(step, layer), M = flow.width(step, layer + 1);
            weight -= (K + 1) * M;
            above_units -= layer ? K : 0;
            Index place = step * N * Q + N * above_units;  // of the layer below among the hidden ones
            const real* active = layer ? hidden + place : nullptr;
            real* below = layer ? delta + place : dkept;
            Index below_stride = layer ? K : D;
            for (Index column = 0; column < K; column += Panel<real>::COLUMNS)
                layer_backward<Panel<real>>(rows, {column, K}, {nullptr, K, M}, factor(above, above_stride), factor(weight, M),
                                            [=](Index n, Index k, real value) {
                                                bool on = !active || active[n * K + k] > (real)0;
                                                below[n * below_stride + k] = on ? value : (real)0;
                                            });
            __syncthreads();
            above = below;
            above_stride = K;
        }

        each_row(rows, [&](Index n, int lane) {
            real* norm = of_g + n * stride + O;
            for (Index d = lane; d < D; d += LANES) {
                real da, a;
                if (d < kept) {
                    da = dkept[n * D + d] + from[n * D + J + d];
                    a = after[n * D + J + d];
                } else {
                    Index j = d - kept;
                    da = -of_g[n * stride + J + j];
                    a = after[n * D + j] * math::exp(of_net[n * O + j]) + of_net[n * O + J + j];
                }
                real scaled = da * math::exp(-flow.log_scale(step)[d]);
                to[n * D + flow.order(step)[d]] = scaled;
                norm[d] = -scaled;
                norm[D + d] = -(da * a) - dlog_det[n];
            }
        });
        __syncthreads();
        from = to;
    }
}
