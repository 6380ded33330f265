"""The dense matrix products in NumPy, in a process whose OpenBLAS runs the kernels that npgen uses.

For the anatomy see with_npgen.py.
"""
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_info


def blas(owner="numpy"):
    """The BLAS of NumPy's wheel, or of SciPy's, in words."""
    return "; ".join(f"{b['internal_api']} {b['version']} {b.get('architecture', '')}, {b['num_threads']} threads"
                     for b in threadpool_info() if owner in Path(b["filepath"]).parent.name)


def facts():
    """BLAS, in words."""
    return {"dense products": f"numpy {np.__version__}, {blas()}"}


def repeat(call):
    """run(n) of a call."""
    def run(n):
        for _ in range(n):
            call()
    return run


def masked_product(problem):
    x, g, weight, bias = (problem[name] for name in ("x", "g", "weight", "bias"))
    mask = problem["mask"]

    def products():
        y = x @ weight
        y += bias
        return y, g @ weight.T, x.T @ g

    def check():
        y, dx, dw = products()
        return {"y": y, "dx": dx, "dw": dw * mask}

    yield "numpy, dense", check, repeat(products)


def product(problem):
    x, weight = problem["x"], problem["weight"]
    y, threads = np.empty((len(x), weight.shape[1]), x.dtype), ThreadpoolController()  # made once: it looks at all libraries

    def run(n):
        with threads.limit(limits=1, user_api="blas"):
            for _ in range(n):
                np.matmul(x, weight, out=y)

    yield "numpy, dense, one BLAS thread", lambda: {"y": x @ weight}, run


def _products(problem):
    """The matrix products of a training step and nothing else: what a dense step costs at least."""
    weights = [p for p in problem["params"] if p.ndim == 2]
    rng, n = np.random.default_rng(0), problem["batches"].shape[1]
    pairs = [[rng.normal(size=(n, width)).astype(w.dtype) for width in w.shape] for w in weights]

    def products():
        for i, ((x, g), w) in enumerate(zip(pairs, weights, strict=True)):
            x @ w
            x.T @ g
            if i:
                g @ w.T

    yield "numpy, products alone", dict, repeat(products)


made_step = made_mixture_step = vae_step = realnvp_step = maf_step = nsf_step = _products
