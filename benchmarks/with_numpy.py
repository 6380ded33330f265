"""NumPy's, SciPy's and scikit-learn's side of the benchmark. For the anatomy see with_npgen.py."""
import warnings

import numpy as np
import scipy.special
import sklearn
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from .with_dense import blas, repeat
from .worker import n_cores


def facts():
    """Versions and BLAS, in words."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {"numpy": f"{np.__version__}, its own loops with {[*simd['baseline'], *simd.get('found', ())][-1]}, {blas()}",
            "scipy": f"{scipy.__version__}, {blas('scipy')}", "scikit-learn": f"{sklearn.__version__}, on both"}


def _start(problem):
    model = GaussianMixture(len(problem["weights"]), reg_covar=0)
    model.weights_, model.means_, model.precisions_cholesky_ = problem["weights"], problem["means"], problem["precisions"]
    return model


def _iterate(model, x, n):
    for _ in range(n):
        _, log_resp = model._e_step(x)
        model._m_step(x, log_resp)


def _on_threads(call, check):
    """A variant of call(n) for each number of BLAS threads that may be the better one."""
    def on(n_threads):
        def run(n):
            with threadpool_limits(n_threads, "blas"):
                call(n)
        return run

    for n_threads in sorted({1, n_cores()}):
        yield f"scikit-learn, BLAS threads: {n_threads}", check, on(n_threads)


def em(problem):
    x = problem["x"]

    def check():
        model = _start(problem)
        _iterate(model, x, 3)
        return {"weights": model.weights_, "means": model.means_, "covariances": model.covariances_, "nats": model.score(x)}

    model = _start(problem)
    yield from _on_threads(lambda n: _iterate(model, x, n), check)


def mixture_fit(problem):
    def fit():
        model = GaussianMixture(len(problem["weights"]), weights_init=problem["weights"], means_init=problem["means"],
                                precisions_init=problem["precisions"], tol=0, reg_covar=0, max_iter=problem["iterations"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that so few iterations do not converge
            return model.fit(problem["x"])

    yield "scikit-learn", lambda: {"nats": fit().score(problem["x"])}, repeat(fit)


def em_score(problem):
    model, x = _start(problem), problem["x"]
    _iterate(model, x, 3)
    yield from _on_threads(repeat(lambda: model.score_samples(x)), lambda: {"log_prob": model.score_samples(x)})


def logsumexp(problem):
    def call():
        return scipy.special.logsumexp(problem["x"], axis=-1)

    yield "scipy", lambda: {"logsumexp": call()}, repeat(call)


def normals(problem):
    out, sfc64 = np.empty(problem["mean"].shape, np.float32), np.random.Generator(np.random.SFC64(0))
    yield "numpy SFC64, normals alone", dict, repeat(lambda: sfc64.standard_normal(dtype=np.float32, out=out))
