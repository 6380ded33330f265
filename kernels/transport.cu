// The cost of optimal transport on a line: see transport.py. A thread for every pair of distributions.

extern "C" __global__ void cost(const REAL* __restrict__ x, const REAL* __restrict__ u, const REAL* __restrict__ y,
                                const REAL* __restrict__ v, REAL* __restrict__ out, long long K, long long N, long long M,
                                double order) {
    for (long long k = blockIdx.x * (long long)blockDim.x + threadIdx.x; k < K; k += (long long)gridDim.x * blockDim.x) {
        const REAL *values = x + k * N, *weights = u + k * N, *others = y + k * M, *shares = v + k * M;
        double whole = 0, other = 0, t = 0, total = 0;
        for (long long i = 0; i < N; ++i) whole += weights[i];
        for (long long j = 0; j < M; ++j) other += shares[j];
        long long i = 0, j = 0;
        double up = weights[0], along = shares[0];
        while (i < N && j < M) {
            const double a = i < N - 1 ? up / whole : 1, b = j < M - 1 ? along / other : 1, end = max(t, min(a, b));
            const double apart = fabs((double)values[i] - (double)others[j]);
            total += (end - t) * (order == 1 ? apart : order == 2 ? apart * apart : pow(apart, order));
            t = end;
            if (a <= end && ++i < N) up += weights[i];
            if (b <= end && ++j < M) along += shares[j];
        }
        out[k] = total;
    }
}
