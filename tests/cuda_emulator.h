// CUDA on a CPU, to run the kernels' own sources: one fiber per thread of a block, switched only where CUDA threads meet.
//
// The blocks of a grid run one after another, a block's threads in turns until each has reached a barrier, a warp's
// shuffle or ballot, or its end; blocks and turns in the order that a schedule picks. Who waits for a thread that never
// comes, as it has ended or waits elsewhere, is an error. Shared memory is filled with NaN before every block.
// Where REAL is float, subnormal numbers count as zero on an x86 CPU, as CuPy has it by -ftz=true.
// Built for ThreadSanitizer, every block has a system thread and every CUDA thread is a thread to it: only barriers and
// __syncwarp order them. Left out: textures, half types, tensor cores, asynchronous copies, cooperative groups.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#define PER_BLOCK thread_local
#define UNSEEN __attribute__((noinline, no_sanitize("thread")))
extern "C" void *__tsan_create_fiber(unsigned), *__tsan_get_current_fiber();
extern "C" void __tsan_destroy_fiber(void*), __tsan_switch_to_fiber(void*, unsigned);
extern "C" void __tsan_acquire(void*), __tsan_release(void*);
#elif defined(__SANITIZE_ADDRESS__)
#define PER_BLOCK
#define UNSEEN __attribute__((noinline, no_sanitize("address", "undefined")))
extern "C" void __sanitizer_start_switch_fiber(void**, const void*, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
#else
#define PER_BLOCK
#define UNSEEN __attribute__((noinline))
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static PER_BLOCK
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// ---------------------------------------------------------------- vectors

#define VECTORS(type, name, align2, align4)                                                                     \
    struct alignas(align2) name##2 { type x, y; };                                                              \
    struct name##3 { type x, y, z; };                                                                           \
    struct alignas(align4) name##4 { type x, y, z, w; };                                                        \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                            \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                 \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(int, int, 8, 16)
VECTORS(unsigned, uint, 8, 16)
VECTORS(float, float, 8, 16)
VECTORS(double, double, 16, 16)
VECTORS(long long, longlong, 16, 16)
VECTORS(unsigned long long, ulonglong, 16, 16)
typedef uint3 dim3;

// Initialised, so that they lie outside .bss, which holds the kernel's shared memory alone.
static PER_BLOCK uint3 threadIdx = {1, 1, 1}, blockIdx = {1, 1, 1};
static PER_BLOCK dim3 blockDim = {1, 1, 1}, gridDim = {1, 1, 1};
static const int warpSize = 32;

// ---------------------------------------------------------------- blocks and threads

struct Launch { unsigned grid[3], block[3], shared, schedule, flush; };

namespace emulator {

const size_t STACK = 1 << 17;

struct Context {
    void* jump[5];
    bool started;
    char* stack;  // of a fiber, else null
    ucontext_t start;
#if defined(__SANITIZE_THREAD__)
    void* tsan;
#elif defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    void* fake;
#endif
};

struct Fiber {
    Context context;
    uint3 index;
    bool done;
    const char* at;  // what it waits for, or null
    unsigned mask;
    int from;  // the lane whose value it wants
    unsigned turn;
    unsigned char sent[16], got[16];
};

class Block;
static PER_BLOCK Block* volatile current = (Block*)1;

UNSEEN static void jump(Context& to);

class Block {
  public:
    Block(const Launch& launch, void (*kernel)(void**), void** args) : launch(launch), kernel(kernel), args(args) {
        n = launch.block[0] * launch.block[1] * launch.block[2];
        fibers = (Fiber*)map(n * sizeof(Fiber));
        stacks = (char*)map(n * STACK);
        order = (unsigned*)map(n * sizeof(unsigned));
        dynamic = launch.shared;
        if (dynamic && posix_memalign(&shared, 128, dynamic)) abort();
        for (unsigned i = 0; i < n; ++i) {
            Fiber& f = fibers[i];
            f.index = {i % launch.block[0], i / launch.block[0] % launch.block[1], i / launch.block[0] / launch.block[1]};
            f.context.stack = stacks + i * STACK;
            order[i] = launch.schedule == 1 ? n - 1 - i : i;
        }
    }
    ~Block() {
        munmap(fibers, n * sizeof(Fiber));
        munmap(stacks, n * STACK);
        munmap(order, n * sizeof(unsigned));
        free(shared);
    }
    UNSEEN void run(uint3 index, unsigned long long seed);
#if defined(__SANITIZE_THREAD__)
    std::vector<void*> unended() const {
        std::vector<void*> all;
        for (unsigned i = 0; i < n; ++i) all.push_back(fibers[i].context.tsan);
        return all;
    }
#endif

    // What a thread calls: wait until all of a block, or all lanes in the mask, are here.
    UNSEEN int barrier(const char* at, int value);
    UNSEEN void warp(const char* at, unsigned mask, int from, const void* value, void* got, size_t size);
    UNSEEN void fail(const char* what);
    unsigned lane() const { return self % 32; }

    Launch launch;
    void (*kernel)(void**);
    void** args;
    unsigned n, self, arrived, dynamic;
    int total;
    Fiber* fibers;
    char* stacks;
    unsigned* order;
    Context scheduler;
    void* shared = nullptr;
    char meeting[3];  // addresses by which ThreadSanitizer knows the barriers, taken in turns, and the block's end
    unsigned turn = 0;
    char error[256] = "";

  private:
    UNSEEN static void* map(size_t size) {
        void* memory = mmap(nullptr, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) abort();
        return memory;
    }
    UNSEEN void wait(Fiber& f, const char* at);
    UNSEEN static void body();
};

UNSEEN static void enter(Context& self) {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self.fake, &bottom, &size);
    if (self.stack) current->scheduler.bottom = bottom, current->scheduler.size = size;
#else
    (void)self;
#endif
}

UNSEEN static void jump(Context& to) {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.tsan, 1);
#endif
    if (to.started) __builtin_longjmp(to.jump, 1);
    to.started = true;
    setcontext(&to.start);
}

UNSEEN static void switch_to(Context& self, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&self.fake, to.stack ? to.stack : to.bottom, to.stack ? STACK : to.size);
#endif
    if (__builtin_setjmp(self.jump) == 0) jump(to);
    enter(self);
}

void Block::body() {
    Block& b = *current;
    Fiber& f = b.fibers[b.self];
    enter(f.context);
    for (;;) {
        b.kernel(b.args);
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&b.meeting[2]);
#endif
        f.done = true;
        switch_to(f.context, b.scheduler);
    }
}

void Block::run(uint3 index, unsigned long long seed) {
    current = this;
    blockIdx = index;
    blockDim = {launch.block[0], launch.block[1], launch.block[2]};
    gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
    for (volatile unsigned char *p = (unsigned char*)shared, *end = p + dynamic; p < end; ++p) *p = 0xff;
    scheduler.started = true, scheduler.stack = nullptr;
#if defined(__SANITIZE_THREAD__)
    scheduler.tsan = __tsan_get_current_fiber();
#endif
    arrived = 0, total = 0;
    for (unsigned i = 0; i < n; ++i) {
        Fiber& f = fibers[i];
        f.done = false, f.at = nullptr;
#if defined(__SANITIZE_THREAD__)
        f.context.tsan = __tsan_create_fiber(0);
#endif
        if (!f.context.started) {
            getcontext(&f.context.start);
            f.context.start.uc_stack.ss_sp = f.context.stack;
            f.context.start.uc_stack.ss_size = STACK;
            makecontext(&f.context.start, body, 0);
        }
    }
    for (unsigned left = n; left && !*error;) {
        bool moved = false;
        for (unsigned i = 0; i < n && launch.schedule >= 2; ++i) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            std::swap(order[i], order[i + (seed >> 33) % (n - i)]);
        }
        for (unsigned i = 0; i < n && !*error; ++i) {
            Fiber& f = fibers[order[i]];
            if (f.done || f.at) continue;
            self = order[i], threadIdx = f.index, moved = true;
            switch_to(scheduler, f.context);
            left -= f.done;
        }
        for (unsigned i = 0; !moved && !*error && i < n; ++i)
            if (!fibers[i].done)
                snprintf(error, sizeof error,
                         "block (%u, %u, %u): thread (%u, %u, %u) waits at %s for a thread that does not come",
                         index.x, index.y, index.z, fibers[i].index.x, fibers[i].index.y, fibers[i].index.z, fibers[i].at);
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&meeting[2]);
#endif
}

void Block::wait(Fiber& f, const char* at) {
    f.at = at;
    switch_to(f.context, scheduler);
}

int Block::barrier(const char* at, int value) {
    Fiber& f = fibers[self];
    char* place = &meeting[turn % 2];
    (void)place;
#if defined(__SANITIZE_THREAD__)
    __tsan_release(place);
#endif
    total += value;
    if (++arrived < n) {
        wait(f, at);
    } else {
        for (unsigned i = 0; i < n; ++i)
            if (fibers[i].at == at) fibers[i].at = nullptr, fibers[i].from = total;
            else fibers[i].from = total;
        arrived = 0, total = 0, ++turn;
        for (unsigned i = 0; i < n; ++i)
            if (fibers[i].at) fail("threads wait at different barriers");
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(place);
#endif
    return f.from;
}

void Block::warp(const char* at, unsigned mask, int from, const void* value, void* got, size_t size) {
    Fiber &f = fibers[self], *lanes = fibers + self / 32 * 32;
    if (!(mask >> lane() & 1)) fail("a thread calls a warp function with a mask that leaves it out");
    if (from < 0 || from > 31 || !(mask >> from & 1)) fail("a shuffle reads a lane that its mask leaves out");
    for (int i = 0; i < 32; ++i)
        if ((mask >> i & 1) && self / 32 * 32 + i >= n) fail("a mask names a lane beyond the block");
    memcpy(f.sent, value, size);
    f.mask = mask, f.from = from;
    f.at = at;
    bool all = true;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) all = all && lanes[i].at == at && lanes[i].mask == mask;
    if (!all) {
        wait(f, at);
    } else {
        for (int i = 0; i < 32; ++i)
            if (mask >> i & 1) memcpy(lanes[i].got, lanes[lanes[i].from].sent, 16), lanes[i].at = nullptr;
    }
    memcpy(got, f.got, size);
}

void Block::fail(const char* what) {
    snprintf(error, sizeof error, "block (%u, %u, %u), thread (%u, %u, %u): %s", blockIdx.x, blockIdx.y, blockIdx.z,
             threadIdx.x, threadIdx.y, threadIdx.z, what);
    for (;;) switch_to(fibers[self].context, scheduler);
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*(std::remove_cv_t<A>*)args[I]...);
}

template <class... A>
void call(void (*kernel)(A...), void** args) {
    call(kernel, args, std::index_sequence_for<A...>());
}

extern "C" __attribute__((visibility("hidden"))) char __bss_start, _end;

// Runs a grid; what went wrong, or null.
inline const char* launch(const Launch& launch, void (*kernel)(void**), void** args) {
    static char error[256] = "none";
    std::vector<uint3> blocks;
    for (unsigned z = 0; z < launch.grid[2]; ++z)
        for (unsigned y = 0; y < launch.grid[1]; ++y)
            for (unsigned x = 0; x < launch.grid[0]; ++x) blocks.push_back({x, y, z});
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    if (launch.flush) _mm_setcsr(before | 0x8040);  // what the threads of a block inherit
#endif
    unsigned long long seed = launch.schedule;
    for (size_t i = 0, n = blocks.size(); launch.schedule && i < n; ++i) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(blocks[i], blocks[launch.schedule == 1 ? (i < n / 2 ? n - 1 - i : i) : i + (seed >> 33) % (n - i)]);
    }
#if defined(__SANITIZE_THREAD__)
    // A fiber ends after all blocks have: a later fiber may take its number, and two fibers of one number cannot race.
    std::vector<std::vector<void*>> unended(blocks.size());
    std::vector<std::thread> threads;
    strcpy(error, "");
    for (size_t i = 0; i < blocks.size(); ++i)
        threads.emplace_back([&, i] {
            Block block(launch, kernel, args);
            block.run(blocks[i], launch.schedule);
            unended[i] = block.unended();
            if (*block.error) fprintf(stderr, "%s\n", block.error), abort();
        });
    for (std::thread& thread : threads) thread.join();
    for (auto& all : unended)
        for (void* fiber : all) __tsan_destroy_fiber(fiber);
#else
    Block block(launch, kernel, args);
    for (size_t i = 0; i < blocks.size() && !*block.error; ++i) {
#ifndef EMULATOR_MAIN
        for (volatile char* p = &__bss_start; p < &_end; ++p) *p = (char)0xff;
#endif
        block.run(blocks[i], launch.schedule + i);
    }
    strcpy(error, block.error);
#endif
#if defined(__SSE2__)
    _mm_setcsr(before);
#endif
    return *error ? error : nullptr;
}

template <class T>
T exchange(const char* at, unsigned mask, int from, T value) {
    static_assert(sizeof(T) <= 16, "a value of a shuffle");
    current->warp(at, mask, from, &value, &value, sizeof value);
    return value;
}

inline int source(int width, int lane) {  // a lane of this thread's group, or itself where that is outside
    int self = current->lane(), first = self / width * width;
    return first <= lane && lane < first + width ? lane : self;
}

}  // namespace emulator

// ---------------------------------------------------------------- where threads meet

inline void __syncthreads() { emulator::current->barrier("__syncthreads", 0); }
inline int __syncthreads_count(int value) { return emulator::current->barrier("__syncthreads_count", !!value); }
inline int __syncthreads_or(int value) { return __syncthreads_count(value) > 0; }
inline int __syncthreads_and(int value) { return __syncthreads_count(!value) == 0; }

inline void __syncwarp(unsigned mask = 0xffffffff) {
    int nothing = 0;
    emulator::Block& block = *emulator::current;
#if defined(__SANITIZE_THREAD__)
    char* place = (char*)&block.fibers[block.self / 32 * 32] + block.fibers[block.self].turn++ % 2;
    __tsan_release(place);
#endif
    block.warp("__syncwarp", mask, block.lane(), &nothing, &nothing, sizeof nothing);
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(place);
#endif
}

template <class T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    int self = emulator::current->lane();
    return emulator::exchange("__shfl_sync", mask, self / width * width + (lane & (width - 1)), value);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int from = emulator::source(width, (int)emulator::current->lane() - (int)delta);
    return emulator::exchange("__shfl_up_sync", mask, from, value);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int from = emulator::source(width, (int)emulator::current->lane() + (int)delta);
    return emulator::exchange("__shfl_down_sync", mask, from, value);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = (int)emulator::current->lane() ^ bits, self = emulator::current->lane();
    return emulator::exchange("__shfl_xor_sync", mask, lane < self / width * width + width ? lane : self, value);
}
inline unsigned __ballot_sync(unsigned mask, int value) {
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) votes |= (unsigned)emulator::exchange("__ballot_sync", mask, i, (int)!!value) << i;
    return votes;
}
inline int __any_sync(unsigned mask, int value) { return __ballot_sync(mask, value) != 0; }
inline int __all_sync(unsigned mask, int value) { return __ballot_sync(mask, value) == mask; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---------------------------------------------------------------- atomics

template <class T, class F> T emulated_atomic(T* address, F change) {
    typedef std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long> Bits;
    Bits before = __atomic_load_n((Bits*)address, __ATOMIC_RELAXED), after;
    T old, changed;
    do {
        memcpy(&old, &before, sizeof old);
        changed = change(old);
        memcpy(&after, &changed, sizeof after);
    } while (!__atomic_compare_exchange_n((Bits*)address, &before, after, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return old;
}
#define ATOMIC(name, result)                                                                     \
    template <class T> T name(T* address, std::common_type_t<T> value) {                         \
        return emulated_atomic(address, [&](T old) -> T { return result; });                     \
    }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicSub, old - value)
ATOMIC(atomicExch, ((void)old, value))
ATOMIC(atomicMin, old < value ? old : value)
ATOMIC(atomicMax, old > value ? old : value)
ATOMIC(atomicAnd, old & value)
ATOMIC(atomicOr, old | value)
ATOMIC(atomicXor, old ^ value)
template <class T> T atomicCAS(T* address, std::common_type_t<T> compare, std::common_type_t<T> value) {
    return emulated_atomic(address, [&](T old) -> T { return old == compare ? value : old; });
}

// ---------------------------------------------------------------- arithmetic

template <class T> T min(T a, T b) { return b < a || a != a ? b : a; }
template <class T> T max(T a, T b) { return a < b || a != a ? b : a; }

#define ROUNDED(prefix, type, suffix)                                                            \
    inline type __##prefix##add_rn(type a, type b) { return a + b; }                             \
    inline type __##prefix##sub_rn(type a, type b) { return a - b; }                             \
    inline type __##prefix##mul_rn(type a, type b) { return a * b; }                             \
    inline type __##prefix##div_rn(type a, type b) { return a / b; }                             \
    inline type __##prefix##sqrt_rn(type a) { return sqrt(a); }
ROUNDED(f, float, f)
ROUNDED(d, double, )
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
template <class T> T rsqrt(T x) { return 1 / sqrt(x); }

template <class To, class From> To emulated_cast(From value) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
inline int __float_as_int(float x) { return emulated_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated_cast<unsigned>(x); }
inline float __int_as_float(int x) { return emulated_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated_cast<float>(x); }
inline long long __double_as_longlong(double x) { return emulated_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_cast<double>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> void __stcs(T* address, T value) { *address = value; }
template <class T> void __stcg(T* address, T value) { *address = value; }

// ---------------------------------------------------------------- a program that replays recorded launches, for sanitizers

#ifdef EMULATOR_MAIN
struct Entry { const char* name; void (*kernel)(void**); };
extern const Entry entries[];

// A file of launches: name, Launch, number of arguments, and of each its size and bytes. Every array has memory of its own.
int main(int, char** argv) {
    FILE* file = fopen(argv[1], "rb");
    char name[64];
    for (Launch launch; fread(name, 64, 1, file) == 1;) {
        unsigned count;
        if (fread(&launch, sizeof launch, 1, file) != 1 || fread(&count, sizeof count, 1, file) != 1) return 2;
        std::vector<void*> values(count), args(count), owned;
        for (unsigned i = 0; i < count; ++i) {
            long long head[2];  // is an array, bytes
            if (fread(head, sizeof head, 1, file) != 1) return 2;
            void* memory = nullptr;
            if (posix_memalign(&memory, 256, head[1] ? head[1] : 1)) return 2;
            if (head[1] && fread(memory, head[1], 1, file) != 1) return 2;
            owned.push_back(memory);
            values[i] = memory;
            args[i] = head[0] ? (void*)&values[i] : memory;
        }
        for (const Entry* entry = entries; entry->name; ++entry)
            if (!strcmp(entry->name, name))
                if (const char* error = emulator::launch(launch, entry->kernel, args.data())) {
                    fprintf(stderr, "%s: %s\n", name, error);
                    return 1;
                }
        for (void* memory : owned) free(memory);
    }
    return 0;
}
#endif
