// Gibbs chains of restricted Boltzmann machines: see gibbs.py. A block of threads moves one row after another along the ladder;
// its threads share out the hidden units, then the visible ones. What is centred are a thread's values, one after another.
#include "_random.cuh"
#include "_reduce.cuh"

__device__ __forceinline__ REAL heads(REAL u, REAL logit) { return u * ((REAL)1 + math::exp(-logit)) < (REAL)1 ? 1 : 0; }

__device__ __forceinline__ REAL softplus(REAL x) { return (x > 0 ? x : (REAL)0) + math::log1p(math::exp(x > 0 ? -x : x)); }

// turned (H, V): the weight's transpose. v (N, V): the states, moved in place; h (N, H): scratch. own: biases of each row.
extern "C" __global__ void chain(const REAL* __restrict__ weight, const REAL* __restrict__ turned,
                                 const REAL* __restrict__ shown, const REAL* __restrict__ above,
                                 const REAL* __restrict__ begin, const REAL* __restrict__ ladder, REAL* v, REAL* h,
                                 double* log_w, long long N, long long V, long long H, long long T, bool own, bool normal,
                                 unsigned key0, unsigned key1, long long child, const long long* __restrict__ since,
                                 long long start_hidden, long long start_visible) {
    const stream::Key key = stream::spawned(key0, key1, child, since);
    for (long long n = blockIdx.x; n < N; n += gridDim.x) {
        REAL *seen = v + n * V, *units = h + n * H;
        const REAL *visible = shown + (own ? n * V : 0), *base = begin + (own ? n * V : 0), *hidden = above + (own ? n * H : 0);
        double total = 0;
        for (long long k = 0; k < T; ++k) {
            REAL before = ladder[k], t = ladder[k + 1];
            if (t != before)
                for (long long i = threadIdx.x; i < V; i += blockDim.x)
                    total += (double)(t - before) * (double)(seen[i] * (visible[i] - base[i]));
            for (long long j = threadIdx.x; j < H; j += blockDim.x) {
                REAL a = 0;
                for (long long i = 0; i < V; ++i) a += seen[i] * weight[i * H + j];
                a += hidden[j];
                if (t != before) total += (double)(softplus(t * a) - softplus(before * a));
                units[j] = heads(stream::uniform_at(start_hidden + (n * T + k) * H + j, key.key0, key.key1), t * a);
            }
            __syncthreads();
            for (long long i = threadIdx.x; i < V; i += blockDim.x) {
                REAL m = 0;
                for (long long j = 0; j < H; ++j) m += units[j] * turned[j * V + i];
                m = ((REAL)1 - t) * base[i] + t * (visible[i] + m);
                long long at = start_visible + (n * T + k) * V + i;
                seen[i] = normal ? m + stream::normal_at(at, key.key0, key.key1)
                                 : heads(stream::uniform_at(at, key.key0, key.key1), m);
            }
            __syncthreads();
        }
        total = block_sum(total);
        if (threadIdx.x == 0) log_w[n] = total;
    }
}

// units (N, V) = u - seen, on (N, H) = g (active - sigmoid(a)).
extern "C" __global__ void centred(const REAL* __restrict__ g, const REAL* __restrict__ u, const REAL* __restrict__ a,
                                   const REAL* __restrict__ seen, const REAL* __restrict__ active, REAL* units, REAL* on,
                                   long long N, long long V, long long H) {
    long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
    for (long long k = first; k < N * V; k += step) units[k] = u[k] - seen[k % V];
    for (long long k = first; k < N * H; k += step) on[k] = g[k / H] * (active[k % H] - (REAL)1 / ((REAL)1 + math::exp(-a[k])));
}
