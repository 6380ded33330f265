// Langevin chains of a mixture that a network corrects: see langevin.py. A block of threads moves one row after another; its
// threads share out the units of a layer, and every sum is in the order of its terms.
#include "_random.cuh"

typedef long long Index;

struct Mixture {
    const double *centre, *scale, *offset, *shift, *factor;
    Index D, K, G, B;
};

struct Network {
    const REAL *params, *context;
    const Index* widths;
    Index D, W, layers;
};

// f of a row in *f and its slope (D,): at (D,), h and bend of all hidden units, delta as many.
__device__ void energy(const Network& net, const double* at, const REAL* context, REAL* h, REAL* bend, REAL* delta, REAL* slope,
                       REAL* f) {
    const REAL* weight = net.params;
    const REAL* inputs = nullptr;
    Index start = 0;
    for (Index k = 0; k < net.layers - 1; ++k) {
        const Index I = net.widths[k], J = net.widths[k + 1];
        for (Index j = threadIdx.x; j < J; j += blockDim.x) {
            REAL a = 0;
            for (Index i = 0; i < I; ++i)
                a += (k > 0 ? inputs[i] : i < net.D ? (REAL)at[i] : context[i - net.D]) * weight[i * J + j];
            a += weight[I * J + j];
            REAL s = (REAL)1 / ((REAL)1 + math::exp(-a));
            h[start + j] = a * s;
            bend[start + j] = s + a * s * ((REAL)1 - s);
        }
        __syncthreads();
        inputs = h + start, weight += (I + 1) * J, start += J;
    }
    const Index last = net.widths[net.layers - 1];
    start -= last;
    if (threadIdx.x == 0) {
        REAL total = weight[last];
        for (Index j = 0; j < last; ++j) total += inputs[j] * weight[j];
        *f = total;
    }
    for (Index j = threadIdx.x; j < last; j += blockDim.x) delta[start + j] = weight[j] * bend[start + j];
    __syncthreads();
    for (Index k = net.layers - 2; k >= 0; --k) {
        const Index I = net.widths[k], J = net.widths[k + 1], below = start - I;
        weight -= (I + 1) * J;
        for (Index i = threadIdx.x; i < (k > 0 ? I : net.D); i += blockDim.x) {
            REAL total = 0;
            for (Index j = 0; j < J; ++j) total += delta[start + j] * weight[i * J + j];
            if (k > 0) delta[below + i] = total * bend[below + i];
            else slope[i] = total;
        }
        start = below;
        __syncthreads();
    }
}

// The mixture's log-density at a row in *value, and its slope in score (D,): w (D,), y (K, D), r (K,).
__device__ void density(const Mixture& m, const double* at, double* w, double* y, double* r, double* score, double* value) {
    for (Index d = threadIdx.x; d < m.D; d += blockDim.x) {
        const double z = (at[d] - m.centre[d]) / m.scale[d];
        w[d] = z < -1e140 ? -1e140 : z > 1e140 ? 1e140 : z;
    }
    __syncthreads();
    for (Index i = threadIdx.x; i < m.K * m.D; i += blockDim.x) {
        const Index k = i / m.D, d = i % m.D;
        const double* P = m.factor + (m.G > 1 ? k : 0) * m.B * m.D;
        double total = m.B == 1 ? w[d] * P[d] : 0;
        for (Index j = 0; m.B > 1 && j <= d; ++j) total += w[j] * P[j * m.D + d];
        y[i] = total - m.shift[i];
    }
    __syncthreads();
    for (Index k = threadIdx.x; k < m.K; k += blockDim.x) {
        r[k] = m.offset[k];
        for (Index d = 0; d < m.D; ++d) r[k] -= y[k * m.D + d] * y[k * m.D + d] / 2;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double largest = r[0], total = 0;
        for (Index k = 1; k < m.K; ++k) largest = r[k] > largest ? r[k] : largest;
        for (Index k = 0; k < m.K; ++k) total += r[k] = math::exp(r[k] - largest);
        for (Index k = 0; k < m.K; ++k) r[k] /= total;
        *value = largest + math::log(total);
    }
    __syncthreads();
    for (Index d = threadIdx.x; d < m.D; d += blockDim.x) {
        double total = 0;
        for (Index k = 0; k < m.K; ++k) {
            const double *P = m.factor + (m.G > 1 ? k : 0) * m.B * m.D, *its = y + k * m.D;
            double back = m.B == 1 ? its[d] * P[d] : 0;
            for (Index i = d; m.B > 1 && i < m.D; ++i) back += P[d * m.D + i] * its[i];
            total -= r[k] * back;
        }
        score[d] = total / m.scale[d];
    }
    __syncthreads();
}

// z (N, D): moved in place. work (N, 3 units + D) and reals (N, 6 D + K D + K + 2): scratch.
extern "C" __global__ void chain(const REAL* __restrict__ params, const long long* __restrict__ widths,
                                 const REAL* __restrict__ context, const double* __restrict__ centre,
                                 const double* __restrict__ scale, const double* __restrict__ offset,
                                 const double* __restrict__ shift, const double* __restrict__ factor, REAL* z, double* taken,
                                 REAL* work, double* reals, long long N, long long D, long long W, long long K, long long G,
                                 long long B, long long layers, long long units, long long steps, double step, bool adjusted,
                                 unsigned key0, unsigned key1, long long child, const long long* __restrict__ since,
                                 long long start_normal, long long start_uniform) {
    const stream::Key key = stream::spawned(key0, key1, child, since);
    const Mixture mixture = {centre, scale, offset, shift, factor, D, K, G, B};
    const Network network = {params, context, widths, D, W, layers};
    const double length = math::sqrt(2 * step);
    __shared__ REAL f;
    __shared__ bool take, finite;
    __shared__ double moves;
    for (Index n = blockIdx.x; n < N; n += gridDim.x) {
        REAL *h = work + n * (3 * units + D), *bend = h + units, *delta = bend + units, *slope = delta + units;
        double *now = reals + n * (6 * D + K * D + K + 2), *at = now + D, *e = at + D, *score = e + D, *its = score + D;
        double *w = its + D, *y = w + D, *r = y + K * D, *here = r + K, *there = here + 1;
        for (Index d = threadIdx.x; d < D; d += blockDim.x) now[d] = at[d] = (double)z[n * D + d];
        if (threadIdx.x == 0) moves = 0;
        __syncthreads();
        for (Index k = -1; k < steps; ++k) {
            if (k >= 0) {
                for (Index d = threadIdx.x; d < D; d += blockDim.x) {
                    e[d] = stream::normal_at(start_normal + (n * steps + k) * D + d, key.key0, key.key1);
                    at[d] = now[d] + step * score[d] + length * e[d];
                }
                __syncthreads();
                if (threadIdx.x == 0) {
                    finite = true;
                    for (Index d = 0; d < D; ++d) finite = finite && at[d] - at[d] == 0;
                }
                __syncthreads();
                for (Index d = threadIdx.x; !finite && d < D; d += blockDim.x) at[d] = now[d];
                __syncthreads();
            }
            energy(network, at, context + n * W, h, bend, delta, slope, &f);
            density(mixture, at, w, y, r, its, there);
            for (Index d = threadIdx.x; d < D; d += blockDim.x) its[d] -= (double)slope[d];
            __syncthreads();
            if (threadIdx.x == 0) {
                *there -= (double)f;
                take = k < 0 || !adjusted;
                if (!take) {
                    double gain = *there - *here;
                    for (Index d = 0; d < D; ++d) {
                        const double back = now[d] - at[d] - step * its[d];
                        gain += e[d] * e[d] / 2 - back * back / (4 * step);
                    }
                    take = math::log((double)stream::uniform_at(start_uniform + n * steps + k, key.key0, key.key1)) < gain;
                }
                if (take) *here = *there, moves += k >= 0;
            }
            __syncthreads();
            for (Index d = threadIdx.x; take && d < D; d += blockDim.x) now[d] = at[d], score[d] = its[d];
            __syncthreads();
        }
        for (Index d = threadIdx.x; d < D; d += blockDim.x) z[n * D + d] = (REAL)now[d];
        if (threadIdx.x == 0) taken[n] = moves;
        __syncthreads();
    }
}
