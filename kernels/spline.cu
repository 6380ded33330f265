// Monotone rational-quadratic splines: see spline.py, whose names and order of operations these are. A thread a value.
#include "_math.cuh"
#include "_reduce.cuh"

constexpr double LEAST = 1e-3, SHIFT = 0.539742417236952;  // as in spline.py

typedef REAL real;

// Softmax of raw (K,), one value at a time.
struct Softmax {
    const real* raw;
    long long K;
    real top, total;

    __device__ Softmax(const real* raw, long long K) : raw(raw), K(K), top(raw[0]), total(0) {
        for (long long k = 1; k < K; ++k) top = raw[k] > top ? raw[k] : top;
        for (long long k = 0; k < K; ++k) total += unscaled(k);
    }
    __device__ real unscaled(long long k) const {
        real value = raw[k] - top;
        return math::exp_small(value > (real)-79 ? value : (real)-79);
    }
    __device__ real operator[](long long k) const { return unscaled(k) / total; }
    __device__ real size(long long k, real box) const {
        real p = (*this)[k];
        return 2 * box * (p + (real)LEAST * (1 - K * p));
    }
};

// The derivative of the spline for a raw one, and its own.
struct Slope {
    real value = 1, steepness = 0;

    __device__ Slope() {}
    __device__ explicit Slope(real raw) {
        raw += (real)SHIFT;
        real odds = math::exp(-math::absolute(raw));
        value = (real)LEAST + ((raw > 0 ? raw : (real)0) + math::log1p(odds));
        steepness = (raw > 0 ? (real)1 : odds) / (1 + odds);
    }
};

struct Bin {
    Softmax widths, heights;
    long long K, number;
    real box, X, Y, w, h, s;
    Slope left, right;

    // The bin of `at`, which is in the box, found among the knots of z or of x.
    __device__ Bin(const real* params, long long K, real box, real at, bool of_z)
        : widths(params, K), heights(params + K, K), K(K), number(0), box(box), X(-box), Y(-box) {
        real knot = -box;
        for (long long k = 0; k < K - 1; ++k) {
            knot += of_z ? heights.size(k, box) : widths.size(k, box);
            number += at >= knot;
        }
        for (long long k = 0; k < number; ++k) {
            X += widths.size(k, box);
            Y += heights.size(k, box);
        }
        w = widths.size(number, box);
        h = heights.size(number, box);
        s = h / w;
        if (number > 0) left = Slope(params[2 * K + number - 1]);
        if (number < K - 1) right = Slope(params[2 * K + number]);
    }
    // (r - t) / (t u), r the share of the height at the share t = 1 - u of the width, and den.
    __device__ real bow(real t, real u, real& den) const {
        real before = left.value - s, after = right.value - s;
        den = s + (before + after) * (t * u);
        return (before * u - after * t) / den;
    }
    __device__ real q(real t, real u) const {
        bool near = t < u;
        real a = near ? left.value : right.value, b = near ? right.value : left.value, v = near ? t : u, w = near ? u : t;
        return a + v * (w * ((s - a) + (s - a)) + v * (b - a));
    }
    __device__ real slope(real t, real u, real den) const { return s / den * (s / den * q(t, u)); }
};

__device__ __forceinline__ real between(real value, real low, real high) {
    return value < low ? low : value > high ? high : value;
}

__device__ __forceinline__ real smaller(real a, real b) { return a < b ? a : b; }

// spline(row, i, value, answer) -> the logarithm of the derivative, for values in the box; log_det sums it up.
template <class Spline>
__device__ __forceinline__ void for_values(const real* v, const real* params, real* ans, real* log_det, long long n, long long d,
                                           long long bins, real box, int lanes, Spline spline) {
    for_rows(n, lanes, [=](long long row, int lane, bool exists) {
        real total = 0;
        for (long long i = row * d + lane; exists && i < (row + 1) * d; i += lanes) {
            real value = v[i];
            if (math::absolute(value) < box) total += spline(params + i * (3 * bins - 1), value, ans[i]);
            else ans[i] = value;
        }
        total = team_sum(total, lanes);
        if (exists && lane == 0) log_det[row] = total;
    });
}

extern "C" __global__ void to_noise(const REAL* __restrict__ x, const REAL* __restrict__ params, REAL* __restrict__ z,
                                    REAL* __restrict__ log_det, long long n, long long d, long long bins, REAL box, int lanes) {
    for_values(x, params, z, log_det, n, d, bins, box, lanes, [=](const real* own, real value, real& ans) {
        Bin bin(own, bins, box, value, false);
        real t = smaller((value - bin.X) / bin.w, 1), u = 1 - t, den, bow = bin.bow(t, u, den);
        ans = between(value + (((bin.Y - bin.X) + (bin.h - bin.w) * t) + bin.h * (t * u * bow)), bin.Y,
                      bin.number < bins - 1 ? bin.Y + bin.h : box);
        return math::log(bin.slope(t, u, den));
    });
}

extern "C" __global__ void to_data(const REAL* __restrict__ z, const REAL* __restrict__ params, REAL* __restrict__ x,
                                   REAL* __restrict__ log_det, long long n, long long d, long long bins, REAL box, int lanes) {
    for_values(z, params, x, log_det, n, d, bins, box, lanes, [=](const real* own, real value, real& ans) {
        Bin bin(own, bins, box, value, true);
        real r = smaller((value - bin.Y) / bin.h, 1), rest = 1 - r, den;
        real p = bin.left.value * rest - bin.right.value * r, up = 2 * bin.s * r, down = 2 * bin.s * rest;
        real v = math::absolute(p) + math::sqrt(p * p + up * down), t = p >= 0 ? up : v, u = p >= 0 ? v : down, both = t + u;
        t /= both;
        u /= both;
        real bow = bin.bow(t, u, den);
        ans = between(value + (((bin.X - bin.Y) + (bin.w - bin.h) * r) - bin.w * (t * u * bow)), bin.X,
                      bin.number < bins - 1 ? bin.X + bin.w : box);
        return -math::log(bin.slope(t, u, den));
    });
}

// The gradient by raw widths or heights: those of the starts of the bin and its size, through the softmax.
__device__ __forceinline__ void pull_sizes(const Softmax& p, const Bin& bin, real start, real size, real* out) {
    real mean = 0, factor = 2 * bin.box * (real)(1 - bin.K * LEAST);
    for (long long k = 0; k <= bin.number; ++k) mean += p[k] * (k < bin.number ? start : size);
    for (long long k = 0; k < bin.K; ++k)
        out[k] = factor * p[k] * ((k < bin.number ? start : k == bin.number ? size : (real)0) - mean);
}

// dout is that of z at x, or of x itself where `of_inverse`.
extern "C" __global__ void backward(const REAL* __restrict__ dout, const REAL* __restrict__ dlog_det, const REAL* __restrict__ x,
                                    const REAL* __restrict__ params, REAL* __restrict__ dv, REAL* __restrict__ dparams,
                                    long long size, long long d, long long bins, REAL box, bool of_inverse, bool want_dv,
                                    bool want_dparams) {
    long long each = 3 * bins - 1;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += (long long)gridDim.x * blockDim.x) {
        real value = x[i], dz = dout[i], dlog = dlog_det[i / d], *out = want_dparams ? dparams + i * each : nullptr;
        if (!(math::absolute(value) < box)) {
            if (want_dv) dv[i] = dz;
            for (long long k = 0; want_dparams && k < each; ++k) out[k] = 0;
            continue;
        }
        Bin bin(params + i * each, bins, box, value, false);
        real w = bin.w, h = bin.h, s = bin.s, d0 = bin.left.value, d1 = bin.right.value;
        real t = smaller((value - bin.X) / w, 1), u = 1 - t, mix = t * u, den, bow = bin.bow(t, u, den), q = bin.q(t, u);
        real per = 1 / den, slope = bin.slope(t, u, den);
        real bend = 2 * (((d1 - s) * t - (d0 - s) * u) / q - ((d0 - s) + (d1 - s)) * (u - t) * per) / w;
        real along = of_inverse ? -dz : dz * slope + dlog * bend;
        if (of_inverse) {
            dz = (dlog * bend - dz) / slope;
            dlog = -dlog;
        }
        if (want_dv) dv[i] = of_inverse ? -dz : along;
        if (!want_dparams) continue;
        real share = t + mix * bow, rest = u * (s * u + d1 * t) * per;
        real ds = dz * h * (mix * per) * ((d1 * t * t - d0 * u * u) * per) + dlog * (2 * mix) * (1 / q + (d0 + d1) * per / s);
        real dleft = (dz * h * (mix * per) * rest + dlog * u * (u / q - 2 * t * per)) * bin.left.steepness;
        real dright = (-dz * h * (mix * per) * share + dlog * t * (t / q - 2 * u * per)) * bin.right.steepness;
        pull_sizes(bin.widths, bin, -along, -(along * t + ds * (s / w)), out);
        pull_sizes(bin.heights, bin, dz, dz * share + ds / w, out + bins);
        for (long long k = 0; k < bins - 1; ++k)
            out[2 * bins + k] = k == bin.number ? dright : k == bin.number - 1 ? dleft : (real)0;
    }
}
