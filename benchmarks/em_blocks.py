"""EM on rows that lie on disk and are more than its workers may hold: seconds of an iteration, and whether bits agree.

    python -m benchmarks.em_blocks FOLDER [--rows 10_000_000] [--columns 16] [--components 32] [--limit 600MB]

Writes the rows into FOLDER once, float64 in files of a million. Then fits the same mixture, with the same start, on one thread,
on all threads of one process, on two Dask workers of one thread each, and on two processes; iterations are timed from the
second on, of which the least is said. Peaks are of resident memory, the system's of the process that fits, Dask's of a worker.
Dask's profiler is off and its event loops tick once a second (QUIET), where all of it shares the two cores.
"""
import argparse
import os
import resource
import time
import warnings
from pathlib import Path

import numpy as np

A_FILE = 1_000_000  # rows
QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}  # else 11% of a core, now 4%


def write_rows(folder, n, d, k):
    """n rows of a mixture of k Gaussians, in files: their paths."""
    rng, paths = np.random.default_rng(0), []
    means = 3 * rng.normal(size=(k, d))
    for i in range(0, n, A_FILE):
        path = Path(folder) / f"{d}-{k}-{i // A_FILE:04}.npy"
        if not path.exists():
            own = np.random.default_rng([1, i])
            m = min(A_FILE, n - i)
            np.save(path, own.normal(size=(m, d)) + means[own.integers(0, k, m)])
        paths.append(path)
    return paths


def fit(paths, k, iterations):
    """(model, seconds of each iteration), from means that are drawn without a look at all rows."""
    from npgen import GaussianMixture
    times = []
    first = np.load(paths[0], mmap_mode="r")[:100 * k:100]
    options = {"weights_init": np.full(k, 1 / k), "means_init": first,
               "precisions_init": np.tile(np.eye(first.shape[1]), (k, 1, 1))}
    model = GaussianMixture(k, **options, max_iter=iterations, tol=0.0, random_state=0,
                            callbacks=[lambda entry: times.append(time.perf_counter())])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        model.fit(paths)
    return model, np.diff(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--components", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--limit", default="600MB", help="memory of a Dask worker")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    paths = write_rows(args.folder, args.rows, args.columns, args.components)
    size = sum(path.stat().st_size for path in paths)
    print(f"{args.rows:,} rows, {args.columns} columns, {args.components} components: {size / 1e6:,.0f} MB in {len(paths)} "
          f"files; two Dask workers of {args.limit}, one thread each", flush=True)

    import dask
    import distributed
    import numba

    from npgen import parallel
    found = {}
    with dask.config.set(QUIET), distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=args.limit, dashboard_address=":0", host="127.0.0.1") as cluster, \
            distributed.Client(cluster, set_as_default=False) as client:
        with parallel.Dask(client):
            found["2 Dask workers"] = fit(paths, args.components, args.iterations)
        peak = max(client.run(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).values())
        print(f"peak of a worker {peak / 1e3:,.0f} MB")
    with parallel.Processes(2):
        found["2 processes"] = fit(paths, args.components, args.iterations)
    with parallel.Serial():
        found[f"{numba.get_num_threads()} threads"] = fit(paths, args.components, args.iterations)
        numba.set_num_threads(1)
        found["1 thread"] = fit(paths, args.components, args.iterations)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak of the process that fits {peak / 1e3:,.0f} MB (mapped files too)")
    model, times = found["1 thread"]
    for name, (other, seconds) in found.items():
        same = all(getattr(other, key).tobytes() == getattr(model, key).tobytes()
                   for key in ("weights_", "means_", "covariances_"))
        print(f"{name:15} {min(seconds):6.2f} s an iteration, {min(seconds) / min(times):.2f} of 1 thread's, "
              f"{'the same bits' if same else 'OTHER BITS'}")


if __name__ == "__main__":
    main()
