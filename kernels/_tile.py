"""Products of matrices for jitted code: a micro-kernel that keeps a tile of the result in the registers of the CPU.

    multiply         c[:, first:last] = op(a)[row:, start:stop] op(b)[start:stop, first:last], op: as it lies, or turned
    pack             what it does to some columns of b; panel_product, what it does with them
    add_products     a tile of a product added to what c holds, for whoever keeps panels and results himself
    add_few          the same of a small tile, and products_and_squares: for what is triangular or symmetric, of which every
                     eight rows or columns are multiplied no further than they go
    turn             eight rows and columns; turn_weighted, so many rows, times weights

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

    def _summed(A, row_starts, along_k, B, at, step, depth, starts):
        """starts[r] + sum_k a_rk b_k, vectors: a_rk lies k along_k bytes behind a row's start, b_k k step bytes behind `at`.
        A start that is a number is so many bytes behind row_starts[0]: one register has the address of all.
        """
        builder, vector = A.builder, starts[0].type
        before, loop, end = builder.block, builder.append_basic_block("k"), builder.append_basic_block("sums")
        builder.cbranch(builder.icmp_signed(">", depth, SIZE(0)), loop, end)

        builder.position_at_end(loop)
        k, shift, line = (builder.phi(SIZE) for _ in range(3))  # the number, the bytes into a row of a, where b_k is
        sums = [builder.phi(vector) for _ in starts]
        of_b, more, first = B.load(line, vector), [], builder.add(row_starts[0], shift)
        for row, total in zip(row_starts, sums, strict=True):
            at_row = builder.add(first, SIZE(row)) if isinstance(row, int) else builder.add(row, shift)
            value = _everywhere(builder, A.load(at_row, A.real), vector)
            more.append(_multiply_add(builder, value, of_b, total))
        following = builder.add(k, SIZE(1)), builder.add(shift, along_k), builder.add(line, step)
        builder.cbranch(builder.icmp_signed("<", following[0], depth), loop, end)
        for phi, begin, then in zip((k, shift, line, *sums), (SIZE(0), SIZE(0), at, *starts), (*following, *more), strict=True):
            phi.add_incoming(begin, before)
            phi.add_incoming(then, loop)

        builder.position_at_end(end)
        results = [builder.phi(vector) for _ in starts]
        for result, begin, then in zip(results, starts, more, strict=True):
            result.add_incoming(begin, before)
            result.add_incoming(then, loop)
        return results

    def _multiply_add(builder, a, b, c):
        """a b + c of vectors, rounded once where the CPU can."""
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fmuladd.v{a.type.count}{'f32' if a.type.element == ir.FloatType() else 'f64'}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])

    def _everywhere(builder, value, vector):
        """A value in all lanes of a vector."""
        nothing = ir.Constant(vector, ir.Undefined)
        return builder.shuffle_vector(builder.insert_element(nothing, value, ir.IntType(32)(0)), nothing,
                                      ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count))

    def _tile(onto, a, panel, c):
        """The signature and the code of what sums a tile up, from 0 or onto what c holds."""
        def codegen(context, builder, sig, args):
            turned, i, rows, start, depth, ci, cj = (args[n] for n in (1, 2, 3, 4, 5, 8, 9))
            A, B, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 6, 7))
            n_rows, lanes = _rows(context), LINE // C.itemsize
            vector = ir.VectorType(C.real, lanes)
            turned = builder.trunc(turned, ir.IntType(1)) if turned.type.width > 1 else turned
            along_rows, along_k = (builder.select(turned, A.strides[1 - n], A.strides[n]) for n in (0, 1))
            first = builder.add(A.address, builder.add(builder.mul(i, along_rows), builder.mul(start, along_k)))
            last, row_starts = builder.sub(rows, SIZE(1)), []
            for r in range(n_rows):
                row = builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last)
                row_starts.append(builder.add(first, builder.mul(row, along_rows)))
            places = [C.at(builder.add(ci, SIZE(r)), cj) for r in range(n_rows)]
            starts = [C.load(place, vector) if onto else ir.Constant(vector, [0.0] * lanes) for place in places]
            results = _summed(A, row_starts, along_k, B, B.address, SIZE(LINE), depth, starts)
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

    def _line(compute):
        """The signature and the code of what makes line oi of out from line i of a and number k of two arrays."""
        def line(typingctx, a, i, k, shift, factor, out, oi):
            def codegen(context, builder, sig, args):
                _, i, k, _, _, _, oi = args
                A, S, F, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3, 4, 5))
                vector = ir.VectorType(C.real, LINE // C.itemsize)
                s, f = (_everywhere(builder, M.load(builder.add(M.address, builder.mul(k, M.strides[0])), M.real), vector)
                        for M in (S, F))
                C.store(compute(builder, A.load(A.at(i, SIZE(0)), vector), s, f), C.at(oi, SIZE(0)))
                return context.get_dummy_value()
            return types.void(a, types.intp, types.intp, shift, factor, out, types.intp), codegen
        return line

    # out[oi] = (a[i] - shift[k]) factor[k], a line; its inverse, a[i] factor[k] + shift[k]; and a[i] factor[k]
    normalize = intrinsic(_line(lambda builder, a, shift, factor: builder.fmul(builder.fsub(a, shift), factor)))
    restore = intrinsic(_line(lambda builder, a, shift, factor: _multiply_add(builder, a, factor, shift)))
    scale = intrinsic(_line(lambda builder, a, shift, factor: builder.fmul(a, factor)))

    PAIRS = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]  # the lanes of two vectors, interleaved one by one,
    FOURS = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]  # two by two,
    EIGHTS = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]  # and four by four: shuffles that AVX has

    def _turned(builder, rows):
        """The columns of eight vectors of eight."""
        for lanes, apart in (PAIRS, 1), (FOURS, 2), (EIGHTS, 4):
            mixed = [None] * 8
            for p in range(8):
                if not p & apart:
                    mixed[p], mixed[p + apart] = (builder.shuffle_vector(
                        rows[p], rows[p + apart], ir.Constant(ir.VectorType(ir.IntType(32), 8), order)) for order in lanes)
            rows = mixed
        return [rows[(p & 4) | (p & 1) << 1 | (p & 2) >> 1] for p in range(8)]

    @intrinsic
    def turn(typingctx, a, i, j, out, oi, oj):
        """out[oi + q, oj + p] = a[i + p, j + q] for p, q < 8, in registers."""
        def codegen(context, builder, sig, args):
            A, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3))
            vector = ir.VectorType(C.real, 8)
            at, rows = A.at(args[1], args[2]), []
            for _ in range(8):
                rows.append(A.load(at, vector))
                at = builder.add(at, A.strides[0])
            to = C.at(args[4], args[5])
            for column in _turned(builder, rows):
                C.store(column, to)
                to = builder.add(to, C.strides[0])
            return context.get_dummy_value()
        return types.void(a, types.intp, types.intp, out, types.intp, types.intp), codegen

    @intrinsic
    def turn_weighted(typingctx, a, i, depth, weights, k, out, sums):
        """out[j, p] = weights[k, j] a[i + p, j] and sums[i + p, j % 8] += that, for p < 8 and j < depth, a multiple of 8."""
        def codegen(context, builder, sig, args):
            _, i, depth, _, k, _, _ = args
            A, W, C, S = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3, 5, 6))
            vector = ir.VectorType(C.real, 8)
            eight = [builder.add(i, SIZE(p)) for p in range(8)]
            totals = [cgutils.alloca_once_value(builder, S.load(S.at(row, SIZE(0)), vector)) for row in eight]
            with cgutils.for_range_slice(builder, SIZE(0), depth, SIZE(8)) as (j, _):
                weight, rows = W.load(W.at(k, j), vector), []
                for row, total in zip(eight, totals, strict=True):
                    rows.append(builder.fmul(weight, A.load(A.at(row, j), vector)))
                    builder.store(builder.fadd(builder.load(total), rows[-1]), total)
                for q, column in enumerate(_turned(builder, rows)):
                    C.store(column, C.at(builder.add(j, SIZE(q)), SIZE(0)))
            for row, total in zip(eight, totals, strict=True):
                S.store(builder.load(total), S.at(row, SIZE(0)))
            return context.get_dummy_value()
        return types.void(a, types.intp, types.intp, weights, types.intp, out, sums), codegen

    def _few(context):
        """Rows of a small tile: enough to keep a core busy, if just, and a part of 8."""
        return 8 if _rows(context) > 8 else 4

    @intrinsic
    def few_rows(typingctx):
        """The rows of a small tile, a constant for the compiler."""
        return types.intp(), lambda context, builder, sig, args: SIZE(_few(context))

    def _small_tile(A, i, B, j, depth, starts):
        """starts[r] + sum_{k < depth} a[i + r, k] b[k, j:]."""
        row_starts = [A.at(A.builder.add(i, SIZE(r)), SIZE(0)) for r in range(len(starts))]
        return _summed(A, row_starts, A.strides[1], B, B.at(SIZE(0), j), B.strides[0], depth, starts)

    @intrinsic
    def add_few(typingctx, a, i, panel, depth, c, j):
        """c[i + r, j + q] += sum_{k < depth} a[i + r, k] panel[k, q] for the rows r of a small tile, and all its columns q."""
        def codegen(context, builder, sig, args):
            _, i, _, depth, _, j = args
            A, B, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 2, 4))
            vector = ir.VectorType(C.real, LINE // C.itemsize)
            rows = [C.at(builder.add(i, SIZE(r)), j) for r in range(_few(context))]
            results = _small_tile(A, i, B, SIZE(0), depth, [C.load(row, vector) for row in rows])
            for row, result in zip(rows, results, strict=True):
                C.store(result, row)
            return context.get_dummy_value()
        return types.void(a, types.intp, panel, types.intp, c, types.intp), codegen

    def _tall(context):
        """Rows of a tall tile, whose values of a lie side by side: 16 divide the units of most layers."""
        return 16 if _rows(context) > 8 else 6

    @intrinsic
    def tall_rows(typingctx):
        """The rows of a tall tile, a constant for the compiler."""
        return types.intp(), lambda context, builder, sig, args: SIZE(_tall(context))

    def _layer(tall):
        """The code of a tile of a layer, of all the rows of a tall one or of the first of the 4 of a short one."""
        def codegen(context, builder, sig, args):
            _, i, rows, _, first, depth, floor, _ = args
            W, H, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3, 7))
            vector = ir.VectorType(C.real, LINE // C.itemsize)
            numbers, at = range(_tall(context) if tall else 4), [W.at(SIZE(0), i)]
            last = builder.sub(rows, SIZE(1))
            for r in numbers[1:]:
                within = builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last)
                at.append(r * W.itemsize if tall else builder.add(at[0], builder.mul(within, W.strides[1])))
            below = builder.mul(depth, W.strides[0])
            starts = []
            for row in at:
                place = builder.add(at[0], SIZE(row)) if isinstance(row, int) else row
                starts.append(_everywhere(builder, W.load(builder.add(place, below), W.real), vector))
            results = _summed(W, at, W.strides[0], H, H.at(first, SIZE(0)), SIZE(LINE), depth, starts)
            lowest = _everywhere(builder, floor, vector)
            for r, result in zip(numbers, results, strict=True):
                result = builder.select(builder.fcmp_ordered("<", result, lowest), lowest, result)
                C.store(result, C.at(builder.add(i, SIZE(r)), SIZE(0)))
            return context.get_dummy_value()
        return codegen

    @intrinsic
    def layer_tile(typingctx, weight, i, rows, h, first, depth, floor, out):
        """out[i + r] = max(weight[depth, i + r] + sum_{k < depth} weight[k, i + r] h[first + k], floor), lines, for the rows r
        of a tall tile; a NaN stays one.
        """
        return types.void(weight, types.intp, types.intp, h, types.intp, types.intp, weight.dtype, out), _layer(True)

    @intrinsic
    def short_layer_tile(typingctx, weight, i, rows, h, first, depth, floor, out):
        """The same for up to 4 rows; it writes 4."""
        return types.void(weight, types.intp, types.intp, h, types.intp, types.intp, weight.dtype, out), _layer(False)

    @intrinsic
    def products_and_squares(typingctx, a, i, b, j, depth, start, k, c, squares):
        """c[i + r, j + q] = start[k, i + r] + sum_{l < depth} a[i + r, l] b[l, j + q] for the rows r of a small tile, and
        squares[k, j + q] += sum_r of their squares.
        """
        def codegen(context, builder, sig, args):
            _, i, _, j, depth, _, k, _, _ = args
            A, B, S, C, Q = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 2, 5, 7, 8))
            vector = ir.VectorType(C.real, LINE // C.itemsize)
            rows = [builder.add(i, SIZE(r)) for r in range(_few(context))]
            starts = [_everywhere(builder, S.load(S.at(k, row), S.real), vector) for row in rows]
            total = Q.load(Q.at(k, j), vector)
            for row, result in zip(rows, _small_tile(A, i, B, j, depth, starts), strict=True):
                C.store(result, C.at(row, j))
                total = _multiply_add(builder, result, result, total)
            Q.store(total, Q.at(k, j))
            return context.get_dummy_value()
        return types.void(a, types.intp, b, types.intp, types.intp, start, types.intp, c, squares), codegen
else:
    tile_rows = tile_columns = few_rows = add_products = add_few = products_and_squares = turn = turn_weighted = None
    tall_rows = layer_tile = short_layer_tile = normalize = restore = scale = None
    _move = _sum_products = None


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
            turn(b, first + q, start + k, panel, k, q)
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
