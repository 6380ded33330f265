"""What one core multiplies and adds: in a product by npgen's micro-kernel; at most, in a loop that stays in registers."""
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgen.kernels._jit import NO, ZERO
from npgen.kernels._product import multiply

CHAINS = 12  # vectors that are added to in turn: more than a core has multiply-adds on their way, fewer than its registers


def _lanes(context, real):
    """Numbers in a register of what Numba compiles for."""
    return (64 if "+avx512f" in context.codegen().magic_tuple()[2].split(",") else 32) // (real.bitwidth // 8)


@intrinsic
def per_round(typingctx, like):
    """How many multiply-adds a round of `multiply_adds` makes."""
    return types.intp(like), lambda context, builder, sig, args: ir.IntType(64)(CHAINS * _lanes(context, like.dtype))


@intrinsic
def _rounds(typingctx, out, n):
    """out[0] = the sum of all lanes of all chains, each n times x = x / 2 + 1 / 2, from 0."""
    def codegen(context, builder, sig, args):
        real, lanes = context.get_value_type(out.dtype), _lanes(context, out.dtype)
        vector, size = ir.VectorType(real, lanes), ir.IntType(64)
        multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3),
                                                      f"llvm.fmuladd.v{lanes}f{out.dtype.bitwidth}")
        half = ir.Constant(vector, [0.5] * lanes)
        before, loop, end = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("end")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, chains = builder.phi(size), [builder.phi(vector) for _ in range(CHAINS)]
        more, following = [builder.call(multiply_add, [x, half, half]) for x in chains], builder.add(k, size(1))
        builder.cbranch(builder.icmp_signed("<", following, args[1]), loop, end)
        for phi, begin, then in zip((k, *chains), (size(0), *[ir.Constant(vector, [0.0] * lanes)] * CHAINS), (following, *more),
                                    strict=True):
            phi.add_incoming(begin, before)
            phi.add_incoming(then, loop)
        builder.position_at_end(end)
        total = more[0]
        for x in more[1:]:
            total = builder.fadd(total, x)
        value = builder.extract_element(total, ir.IntType(32)(0))
        for lane in range(1, lanes):
            value = builder.fadd(value, builder.extract_element(total, ir.IntType(32)(lane)))
        builder.store(value, context.make_array(out)(context, builder, args[0]).data)
        return context.get_dummy_value()
    return types.void(out, types.intp), codegen


@numba.njit
def multiply_adds(out, n):
    """At least n multiply-adds of out's dtype, in registers; out[0] is what comes of them."""
    _rounds(out, -(-n // per_round(out)))


@numba.njit
def matmul(x, weight, y):
    """y = x weight, on one core."""
    multiply(x, NO, ZERO, weight, NO, ZERO, len(weight), y, ZERO, y.shape[1])
