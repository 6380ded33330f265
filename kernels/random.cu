// Uniform and normal numbers from the counter-based stream: see random.py.
#include "_random.cuh"

extern "C" __global__ void uniform(REAL* __restrict__ out, long long n, unsigned key0, unsigned key1, long long child,
                                   long long grandchild, const long long* __restrict__ spawned_since, long long start,
                                   const long long* __restrict__ since) {
    const stream::Key key = stream::spawned(key0, key1, child, grandchild, spawned_since);
    stream::for_values(n, key.key0, key.key1, start, since,
                       [](const stream::Words& words, REAL* u) { stream::uniforms(words, u); },
                       [=](long long i, REAL u) { out[i] = u; });
}

extern "C" __global__ void normal(REAL* __restrict__ out, long long n, unsigned key0, unsigned key1, long long child,
                                  long long grandchild, const long long* __restrict__ spawned_since, long long start,
                                  const long long* __restrict__ since) {
    const stream::Key key = stream::spawned(key0, key1, child, grandchild, spawned_since);
    stream::for_normals(n, key.key0, key.key1, start, since, [=](long long i, REAL z) { out[i] = z; });
}
