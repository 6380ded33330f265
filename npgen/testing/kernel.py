"""A kernel's compiled implementation against its reference."""
import numpy as np

from ..kernels import using


def check_kernel(kernel, *args, rtol=None, atol=0.0):
    """Check a kernel's Numba implementation against its reference on one launch: dtypes, shapes, and values to rtol and atol.

    rtol is 16 eps of the launch's dtype unless given; atol may be an array of the result's shape. What a kernel writes into its
    arguments is compared too, to rtol. Raises AssertionError if they differ, KernelError if the launch is refused.
    """
    results, written = zip(*(_launch(kernel, backend, args) for backend in ("reference", "numba")), strict=True)
    for pairs, absolute in ((zip(*results, strict=True), atol), (zip(*written, strict=True), 0)):
        for want, got in pairs:
            if (got.dtype, got.shape) != (want.dtype, want.shape):
                raise AssertionError(f"check_kernel: {kernel.name} gives {got.dtype} {got.shape}, its reference {want.dtype} "
                                     f"{want.shape}; mend the kernel")
            eps = np.finfo(want.dtype).eps if want.dtype.kind == "f" else 0
            close = np.isclose(got, want, rtol=16 * eps if rtol is None else rtol, atol=absolute, equal_nan=True)
            if not close.all():
                i = tuple(np.argwhere(~close)[0].tolist())
                raise AssertionError(f"check_kernel: {kernel.name} gives {got[i]} at {i}, its reference {want[i]}; "
                                     "mend the kernel")


def _launch(kernel, backend, args):
    """(results, the array arguments afterwards) of one launch on copies of the arguments."""
    args = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    with using(backend):
        out = kernel(*args)
    return out if isinstance(out, tuple) else (out,), [a for a in args if isinstance(a, np.ndarray)]
