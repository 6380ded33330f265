"""Every differentiable op, one statement each: the forward function, then the derivative by each argument.

    rules         op, composed, refused: how an op is declared, and what rules share
    elementwise   add, exp, where, sigmoid, erf, clip, reparameterize, ...; functions whose results are constants
    shapes        reshape, getitem, concatenate, split, sort, pad, diff, diagonal, ...
    reductions    sum, mean, max, prod, var, trace, logsumexp, softmax, ...
    products      matmul, dot, einsum, masked_matmul, linear, ...
    linalg        solve_triangular, solve, cholesky, inv, logdet, ...

On plain arrays every op is its NumPy function, with nothing recorded. All of this runs unchanged on CuPy arrays: NumPy's
functions dispatch on the type of the array, and so do the kernels.

To add an op:  cube = op(my_cube, lambda ans, x: lambda g: g * 3 * x**2)
Given a NumPy function, op() also makes that function work on Tensors.

Legend: n rows, d columns; i, j, k matrix indices.
"""
# ruff: noqa: F401, F403  the names are public
from .elementwise import *
from .linalg import *
from .products import *
from .reductions import *
from .rules import *
from .shapes import *
