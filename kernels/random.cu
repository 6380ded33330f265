// Uniform and normal numbers from the counter-based stream: see random.py.
#include "_random.cuh"

extern "C" __global__ void uniform(REAL* __restrict__ out, long long n, unsigned key0, unsigned key1, long long start,
                                   const long long* __restrict__ since) {
    stream::for_values(n, key0, key1, start, since, [](const stream::Words& words, REAL* u) { stream::uniforms(words, u); },
                       [=](long long i, REAL u) { out[i] = u; });
}

extern "C" __global__ void normal(REAL* __restrict__ out, long long n, unsigned key0, unsigned key1, long long start,
                                  const long long* __restrict__ since) {
    stream::for_normals(n, key0, key1, start, since, [=](long long i, REAL z) { out[i] = z; });
}
