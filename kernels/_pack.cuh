// Loads and stores of 16 bytes at a time.
#pragma once

constexpr int PACK = 16 / sizeof(REAL);

template <int V> struct alignas(V * sizeof(REAL)) Pack { REAL v[V]; };

template <int V> __device__ __forceinline__ Pack<V> load(const REAL* address) { return *(const Pack<V>*)address; }
template <int V> __device__ __forceinline__ void store(REAL* address, const Pack<V>& pack) { *(Pack<V>*)address = pack; }

__device__ __forceinline__ bool aligned(const REAL* address) { return (unsigned long long)address % 16 == 0; }
