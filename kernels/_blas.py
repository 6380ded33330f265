"""GEMM for jitted code: SciPy's BLAS called through its address, on strided blocks, one BLAS thread per caller.

np.dot inside Numba copies a block that is not contiguous; a pointer with a leading dimension does not. Parallelism is
Numba's alone: two thread pools that alternate cost more than the products themselves.
"""
import contextlib
import os
import sys
import threading
from pathlib import Path

import numpy as np

from . import _jit

WITHOUT_PACKING = {"SkylakeX", "Cooperlake", "SapphireRapids"}  # OpenBLAS's kernels that multiply small matrices as they lie

_lock = threading.RLock()  # a fork waits for whoever has it: the new process finds no half-made setting
_every = []  # threadpoolctl's controllers of every BLAS of the process, once SciPy's, which jitted code calls, is loaded
_small_products = np.zeros(1, np.uint8)  # whether gemm cuts products into small ones; cached machine code looks it up here
chosen_by = ""  # who chose the kernels of SciPy's BLAS


def load():
    """Import SciPy's BLAS, and register its GEMM with LLVM under the names that cached machine code refers to.

    Before the first kernel of all, even one without a product: Numba itself imports SciPy's BLAS to compile or load it.
    """
    if _every or not _jit.available:
        return
    with _lock:
        if _every:
            return
        import llvmlite.binding
        from numba.extending import get_cython_function_address
        from threadpoolctl import ThreadpoolController
        with _better_kernels():
            import scipy.linalg.cython_blas  # noqa: F401
        for letter in "sd":
            address = get_cython_function_address("scipy.linalg.cython_blas", f"{letter}gemm")
            llvmlite.binding.add_symbol(f"npgen_{letter}gemm", address)
        llvmlite.binding.add_symbol("npgen_small_products", _small_products.ctypes.data)
        every = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
        _small_products[0] = _of_scipy(every).get("architecture") in WITHOUT_PACKING
        _every[:] = every


def products():
    """What threadpoolctl says of the BLAS that the kernels call."""
    load()
    return _of_scipy(_every)


def _of_scipy(every):
    """That of SciPy's wheel, or else the only one of a system whose NumPy and SciPy share it."""
    found = [lib.info() for lib in every]
    own = [info for info in found if {"scipy", "scipy.libs"} & {folder.name for folder in Path(info["filepath"]).parents}]
    return (own or found or [{}])[0]


def _better_kernels():
    """The environment in which OpenBLAS, loaded, takes the AVX-512 kernels that it does not know this CPU to have.

    It chooses once, while it is loaded; NumPy's, loaded before, shows what it would choose. NPGEN_CORETYPE names another
    core type, or "keep" for OpenBLAS's own choice. Where scipy.linalg was imported before, the choice has been made.
    """
    global chosen_by
    from threadpoolctl import threadpool_info
    wanted = os.environ.get("NPGEN_CORETYPE", "SkylakeX")
    chosen = {info.get("architecture") for info in threadpool_info() if info["internal_api"] == "openblas"}
    chosen_by = "OPENBLAS_CORETYPE" if "OPENBLAS_CORETYPE" in os.environ else "itself"
    if "scipy.linalg.cython_blas" in sys.modules:
        chosen_by += ", before npgen's first kernel"
    elif wanted != "keep" and _avx512() and chosen & {"Haswell", "Zen"}:
        chosen_by = "npgen"
        return _jit.environment(OPENBLAS_CORETYPE=wanted)
    return contextlib.nullcontext()


def _avx512():
    """Whether this CPU has the AVX-512 of OpenBLAS's kernels, and Numba is not told to do without (NUMBA_CPU_FEATURES)."""
    import llvmlite.binding
    import numba
    host = llvmlite.binding.get_host_cpu_features()
    features = numba.config.CPU_FEATURES
    told = features is None or "+avx512f" in features.split(",")
    return told and all(host.get(f"avx512{part}", False) for part in ("f", "cd", "bw", "dq", "vl"))


class _Own(threading.local):
    """How many of _OnePool's holders are this thread's."""

    holders = 0


class _OnePool:
    """A block in which every BLAS has one thread; the last to leave it puts the user's setting back."""

    holders, before = 0, ()

    def __enter__(self):
        load()
        with _lock:
            if not self.holders:
                self.before = [lib.num_threads for lib in _every]
                for lib in _every:
                    lib.set_num_threads(1)
            self.holders += 1
            _own.holders += 1

    def __exit__(self, *error):
        with _lock:
            _own.holders -= 1
            self.leave(self.holders - 1)

    def leave(self, holders):
        """Leave the block to so many."""
        if self.holders and not holders:
            for lib, n in zip(_every, self.before, strict=True):
                lib.set_num_threads(n)
        self.holders = holders


_own, _one_pool = _Own(), _OnePool()


def _forked():
    """In a forked process: threads that did not come along hold nothing. OpenBLAS ends its pool before a fork, and starts
    another when it is next asked.
    """
    _one_pool.leave(_own.holders)
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)


def one_pool():
    """Hold every BLAS to one thread inside the block, so that the kernels' threads are the only pool at work."""
    return _one_pool if _jit.available else contextlib.nullcontext()


if _jit.available:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def _gemm(typingctx, trans_a, trans_b, m, n, k, alpha, a, b, beta, c):
        """c = alpha op(a) op(b) + beta c through Fortran's xGEMM; a, b, c are 2-D with contiguous rows."""
        letter = {types.float32: "s", types.float64: "d"}[c.dtype]
        def codegen(context, builder, sig, args):
            i32, i8 = ir.IntType(32), ir.IntType(8)
            real = context.get_value_type(c.dtype)

            def by_reference(kind, value):
                slot = cgutils.alloca_once(builder, kind)
                builder.store(value, slot)
                return slot

            def matrix(typ, value):  # -> pointer to the first value, leading dimension in values
                array = context.make_array(typ)(context, builder, value)
                (n_rows, n_columns), (stride, _) = (cgutils.unpack_tuple(builder, t) for t in (array.shape, array.strides))
                single = builder.icmp_signed("==", n_rows, n_rows.type(1))  # whose stride may be anything, even 0
                ld = builder.select(single, n_columns, builder.sdiv(stride, array.itemsize))
                return array.data, builder.trunc(ld, i32)

            def letter_of(flag):  # row-major: an untransposed matrix is what Fortran reads as transposed, twice
                flag = builder.trunc(flag, ir.IntType(1)) if flag.type.width > 1 else flag
                return by_reference(i8, builder.select(flag, i8(ord("T")), i8(ord("N"))))

            (pa, lda), (pb, ldb), (pc, ldc) = (matrix(sig.args[i], args[i]) for i in (6, 7, 9))
            size = [by_reference(i32, builder.trunc(v, i32)) for v in args[2:5]]
            pointers = [letter_of(args[1]), letter_of(args[0]), size[1], size[0], size[2], by_reference(real, args[5]),
                        pb, by_reference(i32, ldb), pa, by_reference(i32, lda), by_reference(real, args[8]),
                        pc, by_reference(i32, ldc)]
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), [p.type for p in pointers]), f"npgen_{letter}gemm")
            builder.call(function, pointers)
            return context.get_dummy_value()

        sig = types.void(types.boolean, types.boolean, types.intp, types.intp, types.intp, c.dtype, a, b, c.dtype, c)
        return sig, codegen

    @intrinsic
    def _cuts(typingctx):
        """_small_products, of the process that runs: a global of Python's would be that of the process that compiled."""
        def codegen(context, builder, sig, args):
            flag = context.get_c_value(builder, ir.IntType(8), "npgen_small_products")
            return builder.icmp_unsigned("!=", builder.load(flag), ir.IntType(8)(0))
        return types.boolean(), codegen

    # With AVX-512, OpenBLAS packs nothing for a product of at most 100^3 multiplications, unless its right operand alone is
    # transposed, and so multiplies at full speed; packing for a batch of 50 rows costs a third.
    @_jit.jit
    def gemm(alpha, a, trans_a, b, trans_b, beta, c):
        """c[m,n] = alpha * op(a)[m,k] @ op(b)[k,n] + beta * c, in place; any blocks whose rows are contiguous."""
        m, n = c.shape
        k = a.shape[0] if trans_a else a.shape[1]
        if m == 0 or n == 0:
            return
        if k == 0:
            for i in range(m):
                for j in range(n):
                    c[i, j] = beta * c[i, j] if beta != 0 else 0
            return
        if (trans_b and not trans_a) or not _cuts():
            return _gemm(trans_a, trans_b, m, n, k, c.dtype.type(alpha), a, b, c.dtype.type(beta), c)
        rows, columns, depth = _cut(m, 120), _cut(n, 512 // c.itemsize), _cut(k, 64)
        for j in range(0, n, columns):
            for r in range(0, k, depth):
                for i in range(0, m, rows):
                    part = c[i:i + rows, j:j + columns]
                    left = a[r:r + depth, i:i + rows] if trans_a else a[i:i + rows, r:r + depth]
                    right = b[j:j + columns, r:r + depth] if trans_b else b[r:r + depth, j:j + columns]
                    _gemm(trans_a, trans_b, part.shape[0], part.shape[1], min(depth, k - r), c.dtype.type(alpha), left, right,
                          c.dtype.type(beta if r == 0 else 1), part)

    @_jit.jit
    def _cut(size, most):
        """The length of even parts of at most `most`, but for the last a multiple of 16 where that is possible."""
        parts = -(-size // most)
        return min(most, -(-size // (16 * parts)) * 16)
else:
    gemm = None
