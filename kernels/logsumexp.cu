// log of a weighted sum of exponentials along the last axis, and its gradients: see logsumexp.py. A team per row.
#include "_math.cuh"
#include "_pack.cuh"
#include "_reduce.cuh"

// total exp(shift), with a shift that is finite: the largest finite entry so far, or the lowest number.
struct Sum { REAL shift, total; };

__device__ __forceinline__ REAL lowest() { return math::real(math::bits(-math::infinity<REAL>()) - 1); }

__device__ __forceinline__ REAL entry(REAL x, REAL w) {
    return w > 0 ? x : w == 0 ? -math::infinity<REAL>() : math::infinity<REAL>() - math::infinity<REAL>();
}

__device__ __forceinline__ REAL rescaled(const Sum& sum, REAL shift) {  // infinity and NaN stay, as infinity times 0 is NaN
    return sum.total < math::infinity<REAL>() ? sum.total * exp(sum.shift - shift) : sum.total;
}

__device__ __forceinline__ Sum both(const Sum& a, const Sum& b) {
    REAL shift = a.shift > b.shift ? a.shift : b.shift;
    return {shift, rescaled(a, shift) + rescaled(b, shift)};
}

template <int V>
__device__ __forceinline__ Sum part_of_row(const REAL* x, const REAL* weights, long long d, int lane, int lanes) {
    Sum sum = {lowest(), 0};
    for (long long i = (long long)lane * V; i < d; i += (long long)lanes * V) {
        Pack<V> xs = load<V>(x + i), ws = load<V>(weights + i);
        REAL shift = sum.shift;
#pragma unroll
        for (int j = 0; j < V; ++j) {
            xs.v[j] = entry(xs.v[j], ws.v[j]);
            if (xs.v[j] > shift && xs.v[j] < math::infinity<REAL>()) shift = xs.v[j];
        }
        sum = {shift, rescaled(sum, shift)};
#pragma unroll
        for (int j = 0; j < V; ++j) sum.total += ws.v[j] * exp(xs.v[j] - shift);
    }
    return sum;
}

extern "C" __global__ void forward(const REAL* __restrict__ x, const REAL* __restrict__ weights, REAL* __restrict__ ans,
                                   long long n, long long d, long long weight_rows, int lanes) {
    bool packed = d % PACK == 0 && aligned(x) && aligned(weights);
    for_rows(n, lanes, [=](long long row, int lane, bool exists) {
        const REAL *values = x + row * d, *w = weights + (weight_rows == 1 ? 0 : row * d);
        Sum sum = {lowest(), 0};
        if (exists) sum = packed ? part_of_row<PACK>(values, w, d, lane, lanes) : part_of_row<1>(values, w, d, lane, lanes);
        sum = team_reduce(sum, lanes, both, [](const Sum& a, int step) {
            return Sum{__shfl_xor_sync(WARP, a.shift, step), __shfl_xor_sync(WARP, a.total, step)};
        });
        if (exists && lane == 0) ans[row] = sum.shift + log(sum.total);
    });
}

// The gradient with respect to x, or to every row's own weights.
extern "C" __global__ void gradient(const REAL* __restrict__ g, const REAL* __restrict__ ans, const REAL* __restrict__ x,
                                    const REAL* __restrict__ weights, REAL* __restrict__ out, long long n, long long d,
                                    long long weight_rows, bool of_weights, int lanes) {
    const REAL inf = math::infinity<REAL>();
    for_rows(n, lanes, [=](long long row, int lane, bool exists) {
        if (!exists) return;
        const REAL *values = x + row * d, *w = weights + (weight_rows == 1 ? 0 : row * d);
        REAL log_sum = ans[row], total = 0;
        if (log_sum == inf)
            for (long long i = 0; i < d; ++i) total += values[i] == inf ? w[i] : (REAL)0;
        for (long long i = lane; i < d; i += lanes) {
            REAL value = values[i], factor = of_weights ? (REAL)1 : w[i], share = 0;
            if (log_sum == inf)
                share = value == inf ? factor / total : (REAL)0;
            else if (log_sum != -inf)
                share = factor * exp((of_weights ? value : entry(value, w[i])) - log_sum);
            out[row * d + i] = g[row] * share;
        }
    });
}
