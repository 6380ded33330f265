"""npgen.kernels: the compiled hot paths, each with a slower and more precise NumPy reference beside it.

Anatomy of a kernel file: contract (formula, shapes, dtypes, edge cases, source) -> NumPy reference -> Numba ->
record. The .cu of the same stem holds the CUDA side, forward then backward. The records are named for what they
compute (`forward`, `backward`), and are called as `masked_matmul.forward(x, weight, ...)`.

    logsumexp        log of a (weighted) sum of exponentials along the last axis
    masked_matmul    x @ (mask * weight) + bias; staircase masks skip the blocks outside the staircase
    mlp              every layer of a multilayer perceptron, masked or not
    mlp_slope        its gradient by its inputs, and the gradient of that
    flow             every step of a coupling flow, its networks included
    spline           monotone rational-quadratic splines, both ways, with their gradients
    likelihood       log-likelihoods of rows, Bernoulli and normal, with their gradients
    categorical      the same of features with levels
    mixture_likelihood  the same of features that are mixtures of normals
    reparameterize   mean + exp(log_var / 2) * eps, eps drawn inside and regenerated in the backward
    random           Philox4x32-10 uniforms and normals, addressed by counter
    em               the E-step of a mixture of Gaussians: densities, responsibilities, statistics
    gather           rows of a matrix by their numbers: a batch
    made_sample      ancestral samples of a MADE in one pass
    gibbs            chains of restricted Boltzmann machines, at one temperature or annealed, with importance weights
    gray             the weights of all states of a restricted Boltzmann machine's layer
    langevin         chains of a mixture that a network's energy corrects, Metropolis and Hastings' or not
    pairwise         sums over the pairs of two sets of rows: of distances, of kernels; nearest rows
    transport        the cost of optimal transport on a line
    norm             the sum of squares of a gradient
    silu             the smooth activation, with its gradient
    trajectory       the solution of an ODE whose velocity is a network, with its log-determinant
    adam             one Adam step on a flat parameter buffer

Every kernel runs in a process forked after the first one too, to the same bits, on one thread: those of Numba do not come
along. Give it threads by starting it otherwise, as in multiprocessing.get_context("forkserver").

    _dispatch        Kernel: which implementation runs, and the launch checks
    _cuda            CuPy: CUDA sources compiled, launches checked; _cublas: large products, precision() of which
    _gemm.cuh        what the CUDA sources share: products by tiles; _random.cuh, _reduce.cuh and _pack.cuh likewise
    _tile            tiles and lines in the registers of a CPU; _product: the products of matrices that they make up
    _layers          where a network's layers lie, and how they are cut among threads; _partition: how any product is
    _math            exp, log, tanh and their kin in polynomials; _math.cuh has the same bits
    _jit             Numba: what compiles a function, its threads; _compilers: how; _caching: where it is kept; _processes:
                     of several, which compiles
    _later           what imports Numba is executed when it is first asked for something
    _blas            NumPy's and SciPy's BLAS: its instructions, and one thread while kernels run
"""
if __name__ != "npgen.kernels":  # a PyPI package named `kernels` exists: never stand in for it
    raise ImportError("this folder is npgen.kernels: write `from npgen import kernels`")

from . import _later  # noqa: F401  first: it puts the kernels' modules here, to be executed later
from ._cublas import precision
from ._cuda import DeviceError
from ._dispatch import Kernel, KernelError, aligned, noted, session, using

__all__ = ["DeviceError", "Kernel", "KernelError", "adam", "aligned", "categorical", "em", "flow", "gather", "gibbs", "gray",
           "langevin", "likelihood", "logsumexp", "made_sample", "masked_matmul", "mixture_likelihood", "mlp",
           "mlp_slope", "norm", "noted", "pairwise", "precision", "random", "reparameterize", "session", "silu", "spline",
           "trajectory", "transport", "using"]
