"""NumPy functions that are written in ops, a few statements each, and those that have no derivative: what to write instead.

    elementwise   fmax, nan_to_num, select, polyval, unwrap, ...; functions that move in steps, which are constants
    reductions    average, median, quantile, nan*, cumprod, cov, ...
    calculus      trapezoid, gradient, interp, ...
    products      convolve, vdot, kron, cross, ...; np.add.reduce and the like
    shapes        append, rot90, meshgrid, insert, block, linspace, ...
    fourier       fft, rfft, ..., of real arrays through complex ones and back
    refused       what has no derivative

What they do to Tensors is registered when npgen is imported; on arrays NumPy's own functions stay as they are. Unlike those
in ops, they are not tested on CuPy arrays.
"""
# ruff: noqa: F401, F403  the names are public, and the modules are there for what they register
from . import refused
from .calculus import *
from .elementwise import *
from .fourier import *
from .products import *
from .reductions import *
from .shapes import *
