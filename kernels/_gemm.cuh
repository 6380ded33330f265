// Products by tiles, the device counterpart of _blas.py: a block's threads share a tile of the result, and each keeps a few
// of its values in registers while the factors pass through shared memory, a slice of the depth at a time.
//
// Every value is one sum in the order of the depth; by parts, one of sums over PART of it each, be they of one block or of one
// block each (split K): no bit depends on the tile, the grid, the device's size, or on how many blocks share a depth.
#pragma once

typedef long long Index;  // sizes above 2**31 work

constexpr int THREADS = 256, BLOCKS = 8 / sizeof(REAL);  // of a block; that a multiprocessor has registers for

constexpr Index PART = 128;  // of a depth, summed by itself: see masked_matmul.split

struct Range { Index first, last; };

// What a block has to sum over: all of a depth, or part blockIdx.y of it.
__device__ __forceinline__ Range part_of(Index depth) {
    if (gridDim.y == 1) return {0, depth};
    return {min(blockIdx.y * PART, depth), min((blockIdx.y + 1) * PART, depth)};
}

template <class T, int ROWS_, int COLUMNS_, int R_, int C_> struct Tile {
    typedef T Value;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, R = R_, C = C_;
    static constexpr int DEPTH = (R * C < 32 ? 128 : 64) / sizeof(T);  // few values of a thread: deep slices, to wait less often
    static_assert(ROWS / R * (COLUMNS / C) == THREADS, "every thread has R x C values of the tile");
};

template <class T> using Large = Tile<T, 128, 64, 8, 4>;  // fewest reads of shared memory
template <class T> using Small = Tile<T, 32, 32, 2, 2>;   // more blocks, where large tiles would leave the device idle
template <class T> using Panel = Tile<T, 16, 64, 2, 2>;   // a few rows, for a block that takes them through many layers

// Where in a side of SIZE units a thread's i-th of EACH lies: in groups of up to four, which are read from shared memory at once.
template <int SIZE, int EACH> __device__ __forceinline__ int place(int thread, int i) {
    constexpr int GROUP = EACH < 4 ? EACH : 4;
    return i / GROUP * (SIZE / (EACH / GROUP)) + thread * GROUP + i % GROUP;
}

// A factor: unit u at depth d lies at values[u * stride + d] or [d * stride + u], and is what load(its address, u, d) says.
template <class T, class Load> struct Factor {
    const T* values;
    Index stride;
    Load load;
};

template <class T, class Load> __device__ __forceinline__ Factor<T, Load> factor(const T* values, Index stride, Load load) {
    return {values, stride, load};
}

template <class T> __device__ __forceinline__ auto factor(const T* values, Index stride) {
    return factor(values, stride, [](const T* at, Index, Index) { return *at; });
}

// One side's slice of the depth on its way from global memory to shared memory. ALONG_DEPTH: neighbours in memory differ in
// depth, not in the unit, and so do neighbouring threads; a thread's values differ in the other.
template <class T, int UNITS, int DEPTH, bool ALONG_DEPTH> struct Slice {
    static constexpr int ALONG = ALONG_DEPTH ? DEPTH : UNITS, ACROSS = ALONG_DEPTH ? UNITS : DEPTH;
    static constexpr int STEP = THREADS / ALONG, EACH = (ACROSS + STEP - 1) / STEP;
    static_assert(THREADS % ALONG == 0, "a thread has a place of its own in every row of memory");
    T held[EACH];

    template <class Load> __device__ __forceinline__ void fetch(Range units, Range depths, const Factor<T, Load>& from) {
        Range along = ALONG_DEPTH ? depths : units, across = ALONG_DEPTH ? units : depths;
        Index i = along.first + threadIdx.x % ALONG, j = across.first + threadIdx.x / ALONG;
        Index last = i < along.last ? min(across.last, across.first + ACROSS) : 0;
        const T* at = from.values + j * from.stride + i;
#pragma unroll
        for (int n = 0; n < EACH; ++n) {
            held[n] = j < last ? from.load(at, ALONG_DEPTH ? j : i, ALONG_DEPTH ? i : j) : (T)0;
            j += STEP;
            at += STEP * from.stride;
        }
    }

    template <int WIDTH> __device__ __forceinline__ void put(T (&shared)[DEPTH][WIDTH]) const {
        const int i = threadIdx.x % ALONG;
#pragma unroll
        for (int n = 0; n < EACH; ++n) {
            int j = threadIdx.x / ALONG + n * STEP;
            if (j < ACROSS) shared[ALONG_DEPTH ? i : j][ALONG_DEPTH ? j : i] = held[n];
        }
    }
};

// store(i, j, sum over d in depths of a[i, d] b[j, d]) for the tile of the block that begins at rows.first, columns.first.
// needed(d): whether the slice that begins at d has to be looked at. BY_PARTS: of sums over PART of the depth each.
// Every thread of the block must call it, and may read what others stored only after a barrier.
template <class Tile, bool A_ALONG_DEPTH, bool B_ALONG_DEPTH, bool BY_PARTS = false, class A, class B, class Needed,
          class Store>
__device__ __forceinline__ void product(Range rows, Range columns, Range depths, A a, B b, Needed needed, Store store) {
    typedef typename Tile::Value T;
    constexpr int R = Tile::R, C = Tile::C, DEPTH = Tile::DEPTH, PAD = 16 / sizeof(T);
    __shared__ __align__(16) T left[2][DEPTH][Tile::ROWS + PAD];
    __shared__ __align__(16) T right[2][DEPTH][Tile::COLUMNS + PAD];
    const int y = threadIdx.x / (Tile::COLUMNS / C), x = threadIdx.x % (Tile::COLUMNS / C);
    Slice<T, Tile::ROWS, DEPTH, A_ALONG_DEPTH> from_a;
    Slice<T, Tile::COLUMNS, DEPTH, B_ALONG_DEPTH> from_b;
    T part[R][C] = {}, sums[R][C] = {};  // the latter of parts that are whole

    auto next = [&](Index d) {
        while (d < depths.last && !needed(d)) d += DEPTH;
        return d;
    };
    auto fetch = [&](Index d) {
        from_a.fetch(rows, {d, depths.last}, a);
        from_b.fetch(columns, {d, depths.last}, b);
    };
    auto put = [&](int half) {
        from_a.put(left[half]);
        from_b.put(right[half]);
    };

    Index d = next(depths.first);
    if (d < depths.last) {
        fetch(d);
        put(0);
        __syncthreads();
    }
    for (int half = 0; d < depths.last; half ^= 1) {
        Index later = next(d + DEPTH);
        if (later < depths.last) fetch(later);
#pragma unroll 8
        for (int k = 0; k < DEPTH; ++k) {
            T of_a[R], of_b[C];
#pragma unroll
            for (int i = 0; i < R; ++i) of_a[i] = left[half][k][place<Tile::ROWS, R>(y, i)];
#pragma unroll
            for (int j = 0; j < C; ++j) of_b[j] = right[half][k][place<Tile::COLUMNS, C>(x, j)];
#pragma unroll
            for (int i = 0; i < R; ++i)
#pragma unroll
                for (int j = 0; j < C; ++j) part[i][j] += of_a[i] * of_b[j];
        }
        if (BY_PARTS && (later - depths.first) / PART > (d - depths.first) / PART) {
#pragma unroll
            for (int i = 0; i < R; ++i)
#pragma unroll
                for (int j = 0; j < C; ++j) {
                    sums[i][j] += part[i][j];
                    part[i][j] = 0;
                }
        }
        if (later < depths.last) put(half ^ 1);  // nobody has read that half since the last barrier
        __syncthreads();
        d = later;
    }

#pragma unroll
    for (int i = 0; i < R; ++i) {
        Index r = rows.first + place<Tile::ROWS, R>(y, i);
#pragma unroll
        for (int j = 0; j < C; ++j) {
            Index c = columns.first + place<Tile::COLUMNS, C>(x, j);
            if (r < rows.last && c < columns.last) store(r, c, BY_PARTS ? sums[i][j] + part[i][j] : part[i][j]);
        }
    }
}

// run(tile), a large one or a small one.
template <class T, class Run> __device__ __forceinline__ void by_size(bool large, Run run) {
    if (large) run(Large<T>());
    else run(Small<T>());
}

// Where a weight (K, M) is zero. bounds: of every column the row above which the mask is 1 (M,), the row from which it is 0
// (M,), and the largest of the latter in every STEP columns. Null for a weight without a mask.
struct Stairs {
    static constexpr int STEP = 8;
    const Index* bounds;
    Index K, M;

    __device__ __forceinline__ Index end(Index column) const { return bounds ? bounds[M + column] : K; }

    // The row from which on `count` columns are zero.
    __device__ __forceinline__ Index end(Index column, int count) const {
        if (!bounds) return K;
        Index largest = 0, last = min(column + count, M);
        for (Index step = column / STEP; step * STEP < last; ++step) largest = max(largest, bounds[2 * M + step]);
        return largest;
    }

    // value times the mask.
    template <class T> __device__ __forceinline__ T masked(T value, const T* mask, Index row, Index column) const {
        if (!bounds || row < bounds[column]) return value;
        return row < end(column) ? value * mask[row * M + column] : (T)0;
    }
};

// The products of a layer y = x W + b, all for one tile: x (N, K), W (K, M), g = dy (N, M).

// store(n, m, (x W)[n, m]), with the factors of x at (n, k) and of W at (m, k); over a part of K, where blocks share it.
template <class Tile, class X, class Weight, class Store>
__device__ __forceinline__ void layer_forward(Range rows, Range columns, Stairs stairs, X x, Weight weight, Store store) {
    product<Tile, true, false, true>(rows, columns, part_of(stairs.end(columns.first, Tile::COLUMNS)), x, weight,
                                     [](Index) { return true; }, store);
}

// store(n, k, (g W^T)[n, k]), with the factors of g at (n, m) and of W at (k, m); over a part of M, where blocks share it.
template <class Tile, class G, class Weight, class Store>
__device__ __forceinline__ void layer_backward(Range rows, Range columns, Stairs stairs, G g, Weight weight, Store store) {
    product<Tile, true, true, true>(rows, columns, part_of(stairs.M), g, weight,
                                    [=](Index m) { return stairs.end(m, Tile::DEPTH) > columns.first; }, store);
}

// store(k, m, (x^T g)[k, m]), the sum over some rows, with the factors of x at (k, n) and of g at (m, n).
template <class Tile, class X, class G, class Store>
__device__ __forceinline__ void layer_gradient(Range rows, Range columns, Range batch, Stairs stairs, X x, G g, Store store) {
    if (rows.first >= stairs.end(columns.first, Tile::COLUMNS) && rows.first + Tile::ROWS <= stairs.K) batch.last = batch.first;
    product<Tile, false, false>(rows, columns, batch, x, g, [](Index) { return true; }, store);
}

// store(i, the sum over the parts (count, size) of their i-th values).
template <class T, class Store> __device__ void add_up(const T* parts, Index count, Index size, Store store) {
    for (Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (Index)gridDim.x * blockDim.x) {
        T total = 0;
        for (Index p = 0; p < count; ++p) total += parts[p * size + i];
        store(i, total);
    }
}
