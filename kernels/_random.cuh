// The counter-based stream of random.py, the same bits: a thread per counter, which makes the values at offsets
// (c & 63) + 0, 64, ... of block c >> 6.
#pragma once
#include "_math.cuh"

namespace stream {

constexpr int LANES = 64, EACH = 16 / sizeof(REAL);  // counters of a block, and values that each makes

struct Words { unsigned w[4]; };

__device__ __forceinline__ Words philox(unsigned long long counter, unsigned key0, unsigned key1) {
    unsigned c0 = (unsigned)counter, c1 = (unsigned)(counter >> 32), c2 = 0, c3 = 0;
#pragma unroll
    for (int i = 0; i < 10; ++i) {
        unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ key0, c1 = low1, c2 = high0 ^ c3 ^ key1, c3 = low0;
        key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

__device__ __forceinline__ unsigned long long joined(unsigned low, unsigned high) {
    return (unsigned long long)high << 32 | low;
}

__device__ __forceinline__ void uniforms(const Words& words, float* u) {
#pragma unroll
    for (int j = 0; j < 4; ++j) u[j] = math::mul(math::add((float)(int)(words.w[j] >> 9), 0.5f), 0x1p-23f);
}

__device__ __forceinline__ void uniforms(const Words& words, double* u) {
#pragma unroll
    for (int j = 0; j < 2; ++j)
        u[j] = math::mul(math::add((double)(long long)(joined(words.w[2 * j], words.w[2 * j + 1]) >> 12), 0.5), 0x1p-52);
}

// r cos(2 pi a) and r sin(2 pi a), r = sqrt(-2 log u).
template <class T> __device__ __forceinline__ void box_muller(T u, T a, T& first, T& second) {
    T radius = math::sqrt(math::mul((T)-2, math::log(u))), cosine, sine;
    math::turn(a, cosine, sine);
    first = math::mul(radius, cosine), second = math::mul(radius, sine);
}

__device__ __forceinline__ void normals(const Words& words, float* z) {
#pragma unroll
    for (int j = 0; j < 4; j += 2)
        box_muller(math::mul(math::add((float)(int)(words.w[j] >> 1), 0.5f), 0x1p-31f),
                   math::mul((float)(int)(words.w[j + 1] >> 8), 0x1p-24f), z[j], z[j + 1]);
}

__device__ __forceinline__ void normals(const Words& words, double* z) {
    unsigned long long radius = joined(words.w[0], words.w[1]) >> 11, angle = joined(words.w[2], words.w[3]) >> 11;
    box_muller(math::mul(math::add((double)(long long)radius, 0.5), 0x1p-53), math::mul((double)(long long)angle, 0x1p-53),
               z[0], z[1]);
}

// use(i, value i + start of the stream) for every i below n, the counters shared out among the threads of the grid; start
// counts from block *since on, which lies on the device: a captured launch is made again at another place of the stream.
template <class Draw, class Use>
__device__ __forceinline__ void for_values(long long n, unsigned key0, unsigned key1, long long start, const long long* since,
                                           Draw draw, Use use) {
    constexpr int BLOCK = LANES * EACH;
    start += *since * BLOCK;
    long long end = (start + n + BLOCK - 1) / BLOCK * LANES, stride = (long long)gridDim.x * blockDim.x;
    for (long long c = start / BLOCK * LANES + (long long)blockIdx.x * blockDim.x + threadIdx.x; c < end; c += stride) {
        REAL values[EACH];
        draw(philox(c, key0, key1), values);
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            long long i = (c / LANES * EACH + j) * LANES + c % LANES - start;
            if (0 <= i && i < n) use(i, values[j]);
        }
    }
}

template <class Use>
__device__ __forceinline__ void for_normals(long long n, unsigned key0, unsigned key1, long long start, const long long* since,
                                            Use use) {
    for_values(n, key0, key1, start, since, [](const Words& words, REAL* z) { normals(words, z); }, use);
}

struct Key { unsigned key0, key1; };

// The key of the stream that this one has spawned at block child + *since; its own where child is negative.
__device__ __forceinline__ Key spawned(unsigned key0, unsigned key1, long long child, const long long* since) {
    if (child < 0) return {key0, key1};
    Words words = philox((child + *since) * LANES, key0, key1);
    return {words.w[0], words.w[1]};
}

// That of the one which that one in turn has spawned at its block grandchild, unless that is negative.
__device__ __forceinline__ Key spawned(unsigned key0, unsigned key1, long long child, long long grandchild,
                                       const long long* since) {
    const long long none = 0;
    const Key key = spawned(key0, key1, child, since);
    return spawned(key.key0, key.key1, grandchild, &none);
}

// The value `at` of the stream, by itself.
template <class Draw>
__device__ __forceinline__ REAL value_at(long long at, unsigned key0, unsigned key1, Draw draw) {
    constexpr int BLOCK = LANES * EACH;
    REAL values[EACH], value = 0;
    draw(philox(at / BLOCK * LANES + at % LANES, key0, key1), values);
    int place = (int)(at % BLOCK) / LANES;
#pragma unroll
    for (int j = 0; j < EACH; ++j) value = j == place ? values[j] : value;
    return value;
}

__device__ __forceinline__ REAL uniform_at(long long at, unsigned key0, unsigned key1) {
    return value_at(at, key0, key1, [](const Words& words, REAL* u) { uniforms(words, u); });
}

__device__ __forceinline__ REAL normal_at(long long at, unsigned key0, unsigned key1) {
    return value_at(at, key0, key1, [](const Words& words, REAL* z) { normals(words, z); });
}

}  // namespace stream
