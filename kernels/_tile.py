"""Products of matrices for jitted code: a micro-kernel that keeps a tile of the result in the registers of the CPU.

    multiply         c[:, first:last] = op(a)[row:, start:stop] op(b)[start:stop, first:last], op: as it lies, or turned
    pack             what it does to some columns of b; panel_product, what it does with them
    add_products     a tile of a product added to what c holds, for whoever keeps panels and results himself

a, b, c are 2-D with contiguous rows, of one dtype, float32 or float64. Whoever wants some columns, or rows from another on,
says so by numbers, and not by a view, so that one function is compiled for all.

The columns of c go in panels of 64 bytes, 16 float32 or 8 float64. A panel of b is packed: row beside row, and zeros where c
has no more columns. Then a tile of so many rows of c as registers hold is summed up at a time: a value of a, handed to all
lanes of a vector, times a row of the panel, is added to a row of the tile. LLVM makes of these vectors what the CPU has:
AVX-512, AVX2 or NEON. At 6 rows of two registers, or 10 of one, a core does nothing else than multiply and add.

Every value of c is a sum in the order of k, in even parts of at most DEPTH, so that a panel stays in the cache. It depends on
no other row or column, nor on how many there are, nor on threads: a row has the same bits whatever is beside it.
Source: Goto & van de Geijn, Anatomy of high-performance matrix multiplication (2008).
"""
import numpy as np

from ._jit import available, jit

DEPTH = 400  # the most rows of a panel: 25 KiB

if available:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    LINE, SIZE = 64, ir.IntType(64)  # bytes of a row of a panel: a line of the cache, and a register of AVX-512

    def _rows(context):
        """Rows of a tile, for what Numba compiles for: one of the machine's registers per row, or two, and some to spare."""
        return 10 if "+avx512f" in context.codegen().magic_tuple()[2].split(",") else 6

    @intrinsic
    def tile_rows(typingctx):
        """The rows of a tile, a constant for the compiler."""
        return types.intp(), lambda context, builder, sig, args: SIZE(_rows(context))

    @intrinsic
    def tile_columns(typingctx, like):
        """The columns of a tile of an array's dtype, a constant for the compiler."""
        return types.intp(like), lambda context, builder, sig, args: SIZE(LINE // (like.dtype.bitwidth // 8))

    class _Matrix:
        """An array's address and strides, in bytes, and vectors at an address."""

        def __init__(self, context, builder, array, value):
            struct = context.make_array(array)(context, builder, value)
            self.builder, self.real = builder, context.get_value_type(array.dtype)
            self.address = builder.ptrtoint(struct.data, SIZE)
            self.strides = cgutils.unpack_tuple(builder, struct.strides)
            self.itemsize = array.dtype.bitwidth // 8

        def at(self, row, column):
            """The address of an entry."""
            parts = [self.builder.mul(n, stride) for n, stride in zip((row, column), self.strides, strict=True)]
            return self.builder.add(self.address, self.builder.add(*parts))

        def load(self, address, kind):
            value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
            value.align = self.itemsize
            return value

        def store(self, value, address):
            self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = self.itemsize

    def _tile(onto, a, panel, c):
        """The signature and the code of what sums a tile up, from 0 or onto what c holds."""
        def codegen(context, builder, sig, args):
            turned, i, rows, start, depth, ci, cj = (args[n] for n in (1, 2, 3, 4, 5, 8, 9))
            A, B, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 6, 7))
            n_rows, lanes = _rows(context), LINE // C.itemsize
            vector = ir.VectorType(C.real, lanes)
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3),
                f"llvm.fmuladd.v{lanes}{'f32' if C.itemsize == 4 else 'f64'}")
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            nothing, starts = ir.Constant(vector, ir.Undefined), [ir.Constant(vector, [0.0] * lanes)] * n_rows
            turned = builder.trunc(turned, ir.IntType(1)) if turned.type.width > 1 else turned
            along_rows, along_k = (builder.select(turned, A.strides[1 - n], A.strides[n]) for n in (0, 1))
            first = builder.add(A.address, builder.add(builder.mul(i, along_rows), builder.mul(start, along_k)))
            last, row_starts = builder.sub(rows, SIZE(1)), []
            for r in range(n_rows):
                row = builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last)
                row_starts.append(builder.add(first, builder.mul(row, along_rows)))
            places = [C.at(builder.add(ci, SIZE(r)), cj) for r in range(n_rows)]
            if onto:
                starts = [C.load(place, vector) for place in places]

            before, loop, end = builder.block, builder.append_basic_block("k"), builder.append_basic_block("sums")
            builder.cbranch(builder.icmp_signed(">", depth, SIZE(0)), loop, end)

            builder.position_at_end(loop)
            k, shift, at = (builder.phi(SIZE) for _ in range(3))  # the number, the bytes into a row of a, the row of the panel
            sums = [builder.phi(vector) for _ in range(n_rows)]
            of_panel, more = B.load(at, vector), []
            for row, total in zip(row_starts, sums, strict=True):
                value = builder.insert_element(nothing, A.load(builder.add(row, shift), A.real), ir.IntType(32)(0))
                more.append(builder.call(multiply_add, [builder.shuffle_vector(value, nothing, everywhere), of_panel, total]))
            following = builder.add(k, SIZE(1)), builder.add(shift, along_k), builder.add(at, SIZE(LINE))
            builder.cbranch(builder.icmp_signed("<", following[0], depth), loop, end)
            for phi, begin, then in zip((k, shift, at, *sums), (SIZE(0), SIZE(0), B.address, *starts),
                                        (*following, *more), strict=True):
                phi.add_incoming(begin, before)
                phi.add_incoming(then, loop)

            builder.position_at_end(end)
            results = [builder.phi(vector) for _ in range(n_rows)]
            for result, begin, then in zip(results, starts, more, strict=True):
                result.add_incoming(begin, before)
                result.add_incoming(then, loop)
            for result, place in zip(results, places, strict=True):
                C.store(result, place)
            return context.get_dummy_value()

        sig = types.void(a, types.boolean, types.intp, types.intp, types.intp, types.intp, panel, c, types.intp, types.intp)
        return sig, codegen

    @intrinsic
    def _sum_products(typingctx, a, turned, i, rows, start, depth, panel, c, ci, cj):
        """c[ci + r, cj + q] = sum_k op(a)[i + r, start + k] panel[k, q] for all rows r of a tile, and all its columns q.

        Where a has fewer rows, the last of them is taken again and again.
        """
        return _tile(False, a, panel, c)

    @intrinsic
    def add_products(typingctx, a, turned, i, rows, start, depth, panel, c, ci, cj):
        """The same added to c, product by product."""
        return _tile(True, a, panel, c)

    @intrinsic
    def _move(typingctx, a, i, j, out, oi):
        """out[oi, :] = a[i, j:], a line."""
        def codegen(context, builder, sig, args):
            A, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3))
            C.store(A.load(A.at(args[1], args[2]), ir.VectorType(C.real, LINE // C.itemsize)), C.at(args[4], SIZE(0)))
            return context.get_dummy_value()
        return types.void(a, types.intp, types.intp, out, types.intp), codegen

    PAIRS = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]  # the lanes of two vectors, interleaved one by one,
    FOURS = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]  # two by two,
    EIGHTS = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]  # and four by four: shuffles that AVX has

    @intrinsic
    def _turn(typingctx, a, i, j, out, oi, oj):
        """out[oi + q, oj + p] = a[i + p, j + q] for p, q < 8, in registers."""
        def codegen(context, builder, sig, args):
            A, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3))
            vector = ir.VectorType(C.real, 8)
            at, rows = A.at(args[1], args[2]), []
            for _ in range(8):
                rows.append(A.load(at, vector))
                at = builder.add(at, A.strides[0])
            for lanes, apart in (PAIRS, 1), (FOURS, 2), (EIGHTS, 4):
                mixed = [None] * 8
                for p in range(8):
                    if not p & apart:
                        mixed[p], mixed[p + apart] = (builder.shuffle_vector(
                            rows[p], rows[p + apart], ir.Constant(ir.VectorType(ir.IntType(32), 8), order)) for order in lanes)
                rows = mixed
            to = C.at(args[4], args[5])
            for p in range(8):
                C.store(rows[(p & 4) | (p & 1) << 1 | (p & 2) >> 1], to)
                to = builder.add(to, C.strides[0])
            return context.get_dummy_value()
        return types.void(a, types.intp, types.intp, out, types.intp, types.intp), codegen
else:
    tile_rows = tile_columns = add_products = None


@jit
def pack(b, turned, start, first, width, panel):
    """panel[k, q] = op(b)[start + k, first + q], and 0 from q = width on."""
    columns = tile_columns(panel)
    if not turned:
        for k in range(len(panel)):
            if width == columns:
                _move(b, start + k, first, panel, k)
            else:
                for q in range(columns):
                    panel[k, q] = b[start + k, first + q] if q < width else 0
        return
    eights = len(panel) // 8 * 8 if width == columns else 0
    for k in range(0, eights, 8):
        for q in range(0, columns, 8):
            _turn(b, first + q, start + k, panel, k, q)
    for k in range(eights, len(panel)):
        for q in range(columns):
            panel[k, q] = b[first + q, start + k] if q < width else 0


@jit
def panel_product(a, a_turned, row, start, panel, onto, c, first, width, tile):
    """c[:, first:first + width] = op(a)[row:, start:] panel, or += that."""
    at_once, whole = tile_rows(), width == tile_columns(panel)
    for i in range(0, len(c), at_once):
        rows = min(at_once, len(c) - i)
        if whole and rows == at_once and not onto:
            _sum_products(a, a_turned, row + i, rows, start, len(panel), panel, c, i, first)
        else:
            _sum_products(a, a_turned, row + i, rows, start, len(panel), panel, tile, 0, 0)
            for r in range(rows):
                out, sums = c[i + r, first:first + width], tile[r]
                for q in range(width):
                    out[q] = out[q] + sums[q] if onto else sums[q]


@jit
def scratch(c, depth):
    """Memory for a product of this depth: a panel of a part of it, and a tile."""
    columns = tile_columns(c)
    return np.empty((min(max(depth, 0), DEPTH), columns), c.dtype), np.empty((tile_rows(), columns), c.dtype)


@jit
def part_of(depth):
    """The depth of the even parts that a product of so many terms is cut into, 0 of none."""
    return -(-depth // max(1, -(-depth // DEPTH)))


@jit
def multiply(a, a_turned, row, b, b_turned, start, stop, c, first, last):
    """c[:, first:last] = op(a)[row:, start:stop] op(b)[start:stop, first:last], for the rows that c has; 0 for no terms."""
    columns, step = tile_columns(c), max(1, part_of(stop - start))
    panel, tile = scratch(c, stop - start)
    for j in range(first, last, columns):
        width = min(columns, last - j)
        for k in range(start, max(stop, start + 1), step):
            part = panel[:max(0, min(step, stop - k))]
            pack(b, b_turned, k, j, width, part)
            panel_product(a, a_turned, row, k, part, k > start, c, j, width, tile)
