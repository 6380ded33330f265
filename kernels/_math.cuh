// exp, log, tanh and their kin with the bits of _math.py: see there for what they are, how exact, and whose.
//
// Every operation is rounded by itself, as the intrinsics with _rn are never contracted to a fused multiply-add. CuPy
// compiles with -ftz=true: subnormal float32 numbers count as zero on a GPU, and only there.
#pragma once

namespace math {

__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float div(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ float sqrt(float a) { return __fsqrt_rn(a); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double div(double a, double b) { return __ddiv_rn(a, b); }
__device__ __forceinline__ double sqrt(double a) { return __dsqrt_rn(a); }

__device__ __forceinline__ unsigned bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float real(unsigned i) { return __uint_as_float(i); }
__device__ __forceinline__ unsigned long long bits(double x) { return __double_as_longlong(x); }
__device__ __forceinline__ double real(unsigned long long i) { return __longlong_as_double(i); }

// The polynomial in x with these coefficients, highest power first.
template <class T> __device__ __forceinline__ T horner(T, T y) { return y; }
template <class T, class... Rest> __device__ __forceinline__ T horner(T x, T y, double c, Rest... rest) {
    return horner(x, add(mul(y, x), (T)c), rest...);
}
template <class T, class... Rest> __device__ __forceinline__ T polynomial(T x, double first, Rest... rest) {
    return horner(x, (T)first, rest...);
}

template <class T> struct Type;

template <> struct Type<float> {
    typedef unsigned Bits;
    typedef int Integer;
    static constexpr int mantissa = 23, bias = 127, lowest = -104, highest = 89;
    static constexpr unsigned sign = 0x80000000u, infinity = 0x7f800000u, root_half = 0x3f3504f3u;
    static constexpr double tiny = 0x1p-126, ln2_high = 6.9313812256e-1, ln2_low = 9.0580006145e-6;
    static __device__ __forceinline__ float exp(float r) {
        return polynomial(r, 1.3926183587713495e-3, 8.3631790527225774e-3, 4.1666554617204574e-2, 0.16666576989698776, 0.5);
    }
    static __device__ __forceinline__ float log(float z) {
        return polynomial(z, 0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693);
    }
    static __device__ __forceinline__ float tanh_top(float z) {
        return polynomial(z, -3.809987863490318e-3, -0.8238333531092730);
    }
    static __device__ __forceinline__ float tanh_bottom(float z) { return polynomial(z, 1., 2.471501937089779); }
    static __device__ __forceinline__ float sin(float z) {
        return polynomial(z, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1);
    }
    static __device__ __forceinline__ float cos(float z) {
        return polynomial(z, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2);
    }
};

template <> struct Type<double> {
    typedef unsigned long long Bits;
    typedef long long Integer;
    static constexpr int mantissa = 52, bias = 1023, lowest = -746, highest = 710;
    static constexpr unsigned long long sign = 0x8000000000000000u, infinity = 0x7ff0000000000000u,
                                        root_half = 0x3fe6a09e667f3bcdu;
    static constexpr double tiny = 0x1p-1022, ln2_high = 6.93147180369123816490e-1, ln2_low = 1.90821492927058770002e-10;
    static __device__ __forceinline__ double exp(double r) {
        return polynomial(r, 2.5100385495510319e-8, 2.7620088445409748e-7, 2.7557268459997065e-6, 2.4801521295954375e-5,
                          1.9841269863053617e-4, 1.3888888917213717e-3, 8.3333333333300618e-3, 4.1666666666624128e-2,
                          0.16666666666666667, 0.5);
    }
    static __device__ __forceinline__ double log(double z) {
        return polynomial(z, 1.479819860511658591e-1, 1.531383769920937332e-1, 1.818357216161805012e-1,
                          2.222219843214978396e-1, 2.857142874366239149e-1, 3.999999999940941908e-1, 6.666666666666735130e-1);
    }
    static __device__ __forceinline__ double tanh_top(double z) {
        return polynomial(z, -9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3);
    }
    static __device__ __forceinline__ double tanh_bottom(double z) {
        return polynomial(z, 1., 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3);
    }
    static __device__ __forceinline__ double sin(double z) {
        return polynomial(z, 1.58969099521155010221e-10, -2.50507602534068634195e-8, 2.75573137070700676789e-6,
                          -1.98412698298579493134e-4, 8.33333333332248946124e-3, -1.66666666666666324348e-1);
    }
    static __device__ __forceinline__ double cos(double z) {
        return polynomial(z, -1.13596475577881948265e-11, 2.08757232129817482790e-9, -2.75573143513906633035e-7,
                          2.48015872894767294178e-5, -1.38888888888741095749e-3, 4.16666666666666019037e-2);
    }
};

template <class T> __device__ __forceinline__ T infinity() { return real(Type<T>::infinity); }
template <class T> __device__ __forceinline__ T negative(T x) { return real(bits(x) ^ Type<T>::sign); }
template <class T> __device__ __forceinline__ T absolute(T x) { return real(bits(x) & ~Type<T>::sign); }

// Adding it leaves the nearest integer in the lowest bits.
template <class T> __device__ __forceinline__ T round_off() { return (T)(1.5 * (1ull << Type<T>::mantissa)); }

template <class T> __device__ __forceinline__ T power_of_two(typename Type<T>::Integer k) {
    typedef typename Type<T>::Bits Bits;
    return real(((Bits)k + Type<T>::bias) << Type<T>::mantissa);
}

// y and k of exp(x) = y 2**k.
template <class T> __device__ __forceinline__ T exp_parts(T x, typename Type<T>::Integer& k) {
    T shifted = add(mul(x, (T)1.4426950408889634), round_off<T>()), n = sub(shifted, round_off<T>());
    T r = sub(sub(x, mul(n, (T)Type<T>::ln2_high)), mul(n, (T)Type<T>::ln2_low));
    k = bits(shifted) - bits(round_off<T>());
    return add((T)1, add(r, mul(mul(r, r), Type<T>::exp(r))));
}

template <class T> __device__ __forceinline__ T exp(T x) {
    typename Type<T>::Integer k;
    x = x < (T)Type<T>::lowest ? (T)Type<T>::lowest : x;
    T y = exp_parts(x > (T)Type<T>::highest ? (T)Type<T>::highest : x, k);
    auto first = k >> 1;  // in two factors, as 2**k itself can overflow or be subnormal
    return mul(mul(y, power_of_two<T>(first)), power_of_two<T>(k - first));
}

template <class T> __device__ __forceinline__ T exp_small(T x) {
    typename Type<T>::Integer k;
    T y = exp_parts(x, k);
    return mul(y, power_of_two<T>(k));
}

// log(2**n (1 + f)) + low, for 1 + f in [sqrt(1/2), sqrt(2)] and a low far below 1, or below f.
template <class T> __device__ __forceinline__ T log_of_parts(T n, T f, T low) {
    T s = div(f, add((T)2, f)), z = mul(s, s), square = mul(mul((T)0.5, f), f);
    T rest = add(mul(s, add(square, mul(z, Type<T>::log(z)))), add(mul(n, (T)Type<T>::ln2_low), low));
    return sub(mul(n, (T)Type<T>::ln2_high), sub(sub(square, rest), f));
}

// log(x) + low.
template <class T> __device__ __forceinline__ T log_plus(T x, T low) {
    typedef typename Type<T>::Integer Integer;
    bool small = x < (T)Type<T>::tiny;
    auto i = bits(small ? mul(x, (T)(1ull << Type<T>::mantissa)) : x);
    Integer k = (Integer)(i - Type<T>::root_half) >> Type<T>::mantissa;
    T f = sub(real(i - ((typename Type<T>::Bits)k << Type<T>::mantissa)), (T)1);
    T y = log_of_parts(sub((T)k, small ? (T)Type<T>::mantissa : (T)0), f, low);
    y = x > (T)0 ? y : x == (T)0 ? -infinity<T>() : real(~(typename Type<T>::Bits)0);
    return x == infinity<T>() ? x : y;
}

template <class T> __device__ __forceinline__ T log(T x) { return log_plus(x, (T)0); }

template <class T> __device__ __forceinline__ T log1p(T x) {
    T u = add((T)1, x), y = log_plus(u, div(sub(x, sub(u, (T)1)), u));  // x - (u - 1) is what u has lost
    return x == (T)0 ? x : y;
}

template <class T> __device__ __forceinline__ T tanh(T x) {
    T a = absolute(x), z = mul(a, a), e = exp(add(a, a));
    bool near = a < (T)0.625;
    T top = mul(mul(a, z), Type<T>::tanh_top(z)), bottom = Type<T>::tanh_bottom(z);
    T y = add(near ? a : (T)1, div(near ? top : (T)-2, near ? bottom : add(e, (T)1)));
    return real(bits(y) | (bits(x) & Type<T>::sign));
}

// cos(2 pi u) and sin(2 pi u) for |u| < 1000.
template <class T> __device__ __forceinline__ void turn(T u, T& c, T& s) {
    T shifted = add(mul(u, (T)4), round_off<T>());
    unsigned quadrant = (unsigned)bits(shifted);
    T x = mul(sub(u, mul(sub(shifted, round_off<T>()), (T)0.25)), (T)6.283185307179586), z = mul(x, x);
    T sine = add(x, mul(mul(x, z), Type<T>::sin(z)));
    T cosine = sub((T)1, sub(mul((T)0.5, z), mul(mul(z, z), Type<T>::cos(z))));
    c = quadrant & 1 ? sine : cosine;
    s = quadrant & 1 ? cosine : sine;
    c = (quadrant + 1) & 2 ? negative(c) : c;
    s = quadrant & 2 ? negative(s) : s;
}

}  // namespace math
