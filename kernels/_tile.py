"""A tile of a product of matrices, kept in the registers of the CPU, and what else goes by vectors, for jitted code.

    sum_products     a tile of a panel of _product.py times rows as they lie, or turned; add_sums, to be added to what c holds
    packed_products  the same of packed rows and as many panels as panels_at_once says; add_packed_sums likewise
    add_products     a tile added to what c holds product by product, for whoever keeps panels and results himself
    add_few          the same of a small tile, and products_and_squares: for what is triangular or symmetric, of which every
                     eight rows or columns are multiplied no further than they go
    layer_tile       of a layer of a network, whose values lie in lines; short_layer_tile, of few of its units
    sum_lines_products   a tile of lines times a panel; add_lines_sums, to be added to what c holds; sum_along_lines, a square
                     tile of dot products of lines
    sum_squares_apart    squared distances of rows as they lie from those of a panel, in place of products
    add_apart            weighted sums of the differences
    normalize        and restore, scale: a line less a number, times another; move: a line to its place
    turn             eight rows and columns; turn_weighted, so many rows, times weights

Arrays are 2-D with contiguous rows, of one dtype, float32 or float64. Whoever wants some columns, or rows from another on,
says so by numbers, and not by a view, so that one function is compiled for all.

A tile has as many rows as registers hold, of 64 bytes, 16 float32 or 8 float64: a value of a, handed to all lanes of a vector,
times a row of the panel, is added to a row of the tile. LLVM makes of these vectors what the CPU has: AVX-512, AVX2 or NEON. At
6 rows of two registers, or 10 of one, a core that adds one vector of products in a cycle does nothing else; one that adds two
waits for loads, 11 for 10, and so takes two panels, or blocks of lines, at once.
"""
import contextlib
import functools

from ._jit import available

DEPTH = 400  # the most rows of a panel: 25 KiB
ROW = DEPTH + 16  # values from a packed row to the next

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

        def at(self, *place):
            """The address of an entry."""
            parts = [self.builder.mul(n, stride) for n, stride in zip(place, self.strides, strict=True)]
            return functools.reduce(self.builder.add, parts, self.address)

        def load(self, address, kind):
            value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
            value.align = self.itemsize
            return value

        def store(self, value, address):
            self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = self.itemsize

    def _multiply_add(builder, a, b, c):
        """a b + c of vectors, rounded once where the CPU can."""
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fmuladd.v{a.type.count}{'f32' if a.type.element == ir.FloatType() else 'f64'}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])

    def _add_square_apart(builder, a, b, c):
        """(a - b)^2 + c of vectors."""
        apart = builder.fsub(a, b)
        return _multiply_add(builder, apart, apart, c)

    def _summed(A, row_starts, along_k, B, ats, step, depth, starts, add=_multiply_add):
        """starts[r][p] + sum_k a_rk b_pk, vectors: a_rk lies k along_k bytes behind a row's start, b_pk k step bytes behind
        ats[p]. A start that is a number is so many bytes behind row_starts[0]: one register has the address of all.

        add(builder, a, b, sum): what adds to a sum, if it is not the product. along_k: the bytes, or what makes of the next k
        and how far the last one lies behind a row's start how far this one does.
        """
        builder, vector = A.builder, starts[0][0].type
        before, loop, end = builder.block, builder.append_basic_block("k"), builder.append_basic_block("sums")
        builder.cbranch(builder.icmp_signed(">", depth, SIZE(0)), loop, end)

        builder.position_at_end(loop)
        k, shift, lines = builder.phi(SIZE), builder.phi(SIZE), [builder.phi(SIZE) for _ in ats]  # the number, the bytes into
        sums = [[builder.phi(vector) for _ in row] for row in starts]                            # a row of a, where b_pk is
        of_b, more, first = [B.load(line, vector) for line in lines], [], builder.add(row_starts[0], shift)
        for row, totals in zip(row_starts, sums, strict=True):
            at_row = builder.add(first, SIZE(row)) if isinstance(row, int) else builder.add(row, shift)
            value = _everywhere(builder, A.load(at_row, A.real), vector)
            more.append([add(builder, value, b, total) for b, total in zip(of_b, totals, strict=True)])
        then = builder.add(k, SIZE(1))
        following = (then, along_k(then, shift) if callable(along_k) else builder.add(shift, along_k),
                     *(builder.add(line, step) for line in lines))
        builder.cbranch(builder.icmp_signed("<", following[0], depth), loop, end)
        for phi, begin, then in zip((k, shift, *lines, *sum(sums, [])), (SIZE(0), SIZE(0), *ats, *sum(starts, [])),
                                    (*following, *sum(more, [])), strict=True):
            phi.add_incoming(begin, before)
            phi.add_incoming(then, loop)

        builder.position_at_end(end)
        results = [[builder.phi(vector) for _ in row] for row in starts]
        for result, begin, then in zip(*(sum(table, []) for table in (results, starts, more)), strict=True):
            result.add_incoming(begin, before)
            result.add_incoming(then, loop)
        return results

    def _fetch(builder, places):
        """Have the lines at these addresses brought near to be written: a store that waits for its line makes others wait."""
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, *[number] * 3])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        for place in places:
            builder.call(prefetch, [builder.inttoptr(place, byte), number(1), number(3), number(1)])

    def _everywhere(builder, value, vector):
        """A value in all lanes of a vector."""
        nothing = ir.Constant(vector, ir.Undefined)
        return builder.shuffle_vector(builder.insert_element(nothing, value, ir.IntType(32)(0)), nothing,
                                      ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count))

    def _across(builder, vector):
        """The sum of a vector's lanes, of halves."""
        while vector.type.count > 1:
            half = vector.type.count // 2
            low, high = (builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), ir.Constant(
                ir.VectorType(ir.IntType(32), half), list(range(n, n + half)))) for n in (0, half))
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.IntType(32)(0))

    def _tile(onto, a, panel, c, add=_multiply_add):
        """The signature and the code of what sums a tile up: from 0 ("0"), from what c holds ("c"), or by itself to be added
        to that ("+"). Of a panel, or of as many of several, one after another, as are taken at once.
        """
        def codegen(context, builder, sig, args):
            turned, i, rows, start, depth, ci, cj = (args[n] for n in (1, 2, 3, 4, 5, 8, 9))
            A, B, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 6, 7))
            n_rows, lanes, numbers = _rows(context), LINE // C.itemsize, range(_panels(context) if panel.ndim == 3 else 1)
            vector = ir.VectorType(C.real, lanes)
            turned = builder.trunc(turned, ir.IntType(1)) if turned.type.width > 1 else turned
            along_rows, along_k = (builder.select(turned, A.strides[1 - n], A.strides[n]) for n in (0, 1))
            first = builder.add(A.address, builder.add(builder.mul(i, along_rows), builder.mul(start, along_k)))
            last, row_starts = builder.sub(rows, SIZE(1)), []
            for r in range(n_rows):
                row = builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last)
                row_starts.append(builder.add(first, builder.mul(row, along_rows)))
            places = [[C.at(builder.add(ci, SIZE(r)), builder.add(cj, SIZE(n * lanes))) for n in numbers]
                      for r in range(n_rows)]
            _fetch(builder, sum(places, []))
            _fetch(builder, [builder.add(row[-1], SIZE(60)) for row in places])  # a row need not begin at a line
            starts = [[C.load(place, vector) if onto == "c" else ir.Constant(vector, [0.0] * lanes) for place in row]
                      for row in places]
            of_panels = [B.at(SIZE(n), SIZE(0), SIZE(0)) for n in numbers] if panel.ndim == 3 else [B.address]
            results = _summed(A, row_starts, along_k, B, of_panels, SIZE(LINE), depth, starts, add)
            for result, place in zip(sum(results, []), sum(places, []), strict=True):
                C.store(builder.fadd(C.load(place, vector), result) if onto == "+" else result, place)
            return context.get_dummy_value()

        sig = types.void(a, types.boolean, types.intp, types.intp, types.intp, types.intp, panel, c, types.intp, types.intp)
        return sig, codegen

    @intrinsic
    def sum_products(typingctx, a, turned, i, rows, start, depth, panel, c, ci, cj):
        """c[ci + r, cj + q] = sum_k op(a)[i + r, start + k] panel[k, q] for all rows r of a tile, and all its columns q.

        Where a has fewer rows, the last of them is taken again and again. Of panels (P, depth, columns), as many are taken as
        panels_at_once() says, and so many times the columns.
        """
        return _tile("0", a, panel, c)

    @intrinsic
    def add_products(typingctx, a, turned, i, rows, start, depth, panel, c, ci, cj):
        """The same added to c, product by product."""
        return _tile("c", a, panel, c)

    @intrinsic
    def add_sums(typingctx, a, turned, i, rows, start, depth, panel, c, ci, cj):
        """The sums of sum_products added to c."""
        return _tile("+", a, panel, c)

    @intrinsic
    def sum_squares_apart(typingctx, a, turned, i, rows, start, depth, panel, c, ci, cj):
        """sum_products with (op(a)[i + r, start + k] - panel[k, q])^2 in the product's place."""
        return _tile("0", a, panel, c, _add_square_apart)

    def _of_lines(onto):
        """A tile of lines and a panel, or as many of several as are taken at once, from 0, or by itself to be added to c."""
        def tile(typingctx, a, i, rows, n, depth, panel, c, ci, cj):
            def codegen(context, builder, sig, args):
                _, i, rows, n, depth, _, _, ci, cj = args
                A, B, C = (_Matrix(context, builder, sig.args[k], args[k]) for k in (0, 5, 6))
                numbers, lanes = range(_panels(context) if panel.ndim == 3 else 1), LINE // C.itemsize
                vector, last = ir.VectorType(C.real, lanes), builder.sub(rows, SIZE(1))
                row_starts = [A.at(n, builder.add(i, builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last)),
                                   SIZE(0)) for r in range(_rows(context))]
                places = [[C.at(builder.add(ci, SIZE(r)), builder.add(cj, SIZE(p * lanes))) for p in numbers]
                          for r in range(_rows(context))]
                jump = builder.sub(A.strides[0], SIZE(LINE))

                def further(k, shift):
                    in_block = builder.icmp_signed("!=", builder.and_(k, SIZE(lanes - 1)), SIZE(0))
                    return builder.add(builder.add(shift, A.strides[2]), builder.select(in_block, SIZE(0), jump))
                of_panels = [B.at(SIZE(p), SIZE(0), SIZE(0)) for p in numbers] if panel.ndim == 3 else [B.address]
                results = _summed(A, row_starts, further, B, of_panels, SIZE(LINE), depth,
                                  [[ir.Constant(vector, [0.0] * lanes) for _ in row] for row in places])
                for result, place in zip(sum(results, []), sum(places, []), strict=True):
                    C.store(builder.fadd(C.load(place, vector), result) if onto else result, place)
                return context.get_dummy_value()
            return types.void(a, types.intp, types.intp, types.intp, types.intp, panel, c, types.intp, types.intp), codegen
        return tile

    # c[ci + r, cj + q] = sum_{k < depth} a[n + k // lanes, i + r, k % lanes] panel[k, q] for the rows r of a tile, the last of
    # so many rows again and again; or += that
    sum_lines_products, add_lines_sums = intrinsic(_of_lines(False)), intrinsic(_of_lines(True))

    @intrinsic
    def add_apart(typingctx, weights, x, i, rows, d, panels, p, n, sums):
        """sums[r, d] += sum_{l < n, q} weights[r, l, q] (x[i + r, d] - panels[p + l, d, q]) for all rows r of a tile; where x
        has fewer, the last of them is taken again and again.
        """
        def codegen(context, builder, sig, args):
            _, _, i, rows, d, _, p, n, _ = args
            W, X, B, S = (_Matrix(context, builder, sig.args[k], args[k]) for k in (0, 1, 5, 8))
            lanes, last, values, totals = LINE // X.itemsize, builder.sub(rows, SIZE(1)), [], []
            vector = ir.VectorType(X.real, lanes)
            for r in range(_rows(context)):
                row = builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last)
                values.append(_everywhere(builder, X.load(X.at(builder.add(i, row), d), X.real), vector))
                totals.append(cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * lanes)))
            with cgutils.for_range(builder, n) as loop:
                b = B.load(B.at(builder.add(p, loop.index), d, SIZE(0)), vector)
                for r, (value, total) in enumerate(zip(values, totals, strict=True)):
                    weight = W.load(W.at(SIZE(r), loop.index, SIZE(0)), vector)
                    builder.store(_multiply_add(builder, weight, builder.fsub(value, b), builder.load(total)), total)
            for r, total in enumerate(totals):
                total, place = _across(builder, builder.load(total)), S.at(SIZE(r), d)
                total = builder.fpext(total, S.real) if X.itemsize < S.itemsize else total
                S.store(builder.fadd(S.load(place, S.real), total), place)
            return context.get_dummy_value()
        return types.void(weights, x, types.intp, types.intp, types.intp, panels, types.intp, types.intp, sums), codegen

    def _panels(context):
        """Panels that a tile of packed rows takes at once: two, where a vector has a whole line, so that a value of a, once
        read, is multiplied twice.
        """
        return 2 if _rows(context) > 8 else 1

    @intrinsic
    def panels_at_once(typingctx):
        """The panels of a tile of packed rows, a constant for the compiler."""
        return types.intp(), lambda context, builder, sig, args: SIZE(_panels(context))

    def _packed(onto):
        """A tile of packed rows and as many panels as are taken at once, from 0, or by itself to be added to what c holds."""
        def tile(typingctx, rows, i, panels, p, depth, c, ci, cj):
            def codegen(context, builder, sig, args):
                _, i, _, p, depth, _, ci, cj = args
                A, B, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 2, 5))
                numbers, lanes = range(_panels(context)), LINE // C.itemsize
                vector = ir.VectorType(C.real, lanes)
                row_starts = [A.at(i, SIZE(0)), *(r * ROW * A.itemsize for r in range(1, _rows(context)))]
                places = [[C.at(builder.add(ci, SIZE(r)), builder.add(cj, SIZE(n * lanes))) for n in numbers]
                          for r in range(_rows(context))]
                results = _summed(A, row_starts, SIZE(A.itemsize), B, [B.at(builder.add(p, SIZE(n)), SIZE(0), SIZE(0))
                                  for n in numbers], SIZE(LINE), depth,
                                  [[ir.Constant(vector, [0.0] * lanes) for _ in row] for row in places])
                for result, place in zip(sum(results, []), sum(places, []), strict=True):
                    C.store(builder.fadd(C.load(place, vector), result) if onto else result, place)
                return context.get_dummy_value()
            return types.void(rows, types.intp, panels, types.intp, types.intp, c, types.intp, types.intp), codegen
        return tile

    # c[ci + r, cj + q] = sum_{k < depth} rows[i + r, k] panels[p, k, q], q through the panels from p on; or += that
    packed_products, add_packed_sums = intrinsic(_packed(False)), intrinsic(_packed(True))

    @intrinsic
    def move(typingctx, a, i, j, out, oi):
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
        sums = _summed(A, row_starts, A.strides[1], B, [B.at(SIZE(0), j)], B.strides[0], depth, [[start] for start in starts])
        return [result for result, in sums]

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

    def _blocks(context):
        """Blocks of lines that a tile of a layer takes at once, of half the rows if two: a weight, once read, goes for both."""
        return _panels(context)

    @intrinsic
    def blocks_at_once(typingctx):
        """The blocks of a tile of a layer, a constant for the compiler."""
        return types.intp(), lambda context, builder, sig, args: SIZE(_blocks(context))

    def _layer(tall):
        """The signature and the code of a tile of a layer, of all the rows of a tall one or of up to 4 of a short one."""
        def tile(typingctx, weight, i, rows, h, first, depth, bound, out, to):
            def codegen(context, builder, sig, args):
                _, i, rows, _, first, depth, bound, _, to = args
                W, H, C = (_Matrix(context, builder, sig.args[n], args[n]) for n in (0, 3, 7))
                blocks = [(SIZE(b),) for b in range(2)] if sig.args[3].ndim == 3 else [()]
                vector = ir.VectorType(C.real, LINE // C.itemsize)
                numbers, at = range(_tall(context) // len(blocks) if tall else 4), [W.at(SIZE(0), i)]
                last = builder.sub(rows, SIZE(1))
                for r in numbers[1:]:
                    within = builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last)
                    at.append(r * W.itemsize if tall else builder.add(at[0], builder.mul(within, W.strides[1])))
                below = builder.mul(depth, W.strides[0])
                starts = []
                for row in at:
                    place = builder.add(at[0], SIZE(row)) if isinstance(row, int) else row
                    starts.append([_everywhere(builder, W.load(builder.add(place, below), W.real), vector)] * len(blocks))
                results = _summed(W, at, W.strides[0], H, [H.at(*block, first, SIZE(0)) for block in blocks], SIZE(LINE), depth,
                                  starts)
                gates = _Matrix(context, builder, sig.args[6], bound) if isinstance(sig.args[6], types.Array) else None
                lowest = ir.Constant(vector, [0.0] * vector.count) if gates else _everywhere(builder, bound, vector)
                line = builder.add(to, i)
                for r, of_blocks in zip(numbers, results, strict=True):
                    there = builder.icmp_signed("<=", SIZE(r), last)
                    with contextlib.nullcontext() if tall else builder.if_then(there):
                        for block, result in zip(blocks, of_blocks, strict=True):
                            place = *block, builder.add(line, SIZE(r)), SIZE(0)
                            if gates:
                                gate = gates.load(gates.at(*(block or [SIZE(0)]), *place[-2:]), vector)
                                open_ = builder.fcmp_ordered(">", gate, lowest)
                                result = builder.select(open_, result, lowest)
                            else:
                                result = builder.select(builder.fcmp_ordered("<", result, lowest), lowest, result)
                            C.store(result, C.at(*place))
                return context.get_dummy_value()
            bound = bound if isinstance(bound, types.Array) else weight.dtype
            return types.void(weight, types.intp, types.intp, h, types.intp, types.intp, bound, out, types.intp), codegen
        return intrinsic(tile)

    # out[to + i + r] = max(weight[depth, i + r] + sum_{k < depth} weight[k, i + r] h[first + k], bound), lines, for the rows r
    # of a tall tile, or up to 4 of a short one; a NaN stays one. For a bound (b, lines, lanes), gates: the sum itself, 0 where
    # bound[:, to + i + r] is not above 0. For h, out (2, lines, lanes), two blocks, so in both, a tall tile for half the rows.
    layer_tile, short_layer_tile = _layer(True), _layer(False)

    def _square(context):
        """Rows and columns of a square tile, and the bytes of its vectors."""
        return (4, 4, 64) if _rows(context) > 8 else (4, 2, 32)

    @intrinsic
    def square_rows(typingctx):
        """The rows of a square tile, a constant for the compiler."""
        return types.intp(), lambda context, builder, sig, args: SIZE(_square(context)[0])

    @intrinsic
    def square_columns(typingctx):
        """Its columns."""
        return types.intp(), lambda context, builder, sig, args: SIZE(_square(context)[1])

    def _sums_of(builder, vectors):
        """The sum of every vector's lanes, side by side in as few vectors."""
        lanes = size = vectors[0].type.count
        while size > 1:
            halves = [[n for n in range(2 * lanes) if n % size // (size // 2) == half] for half in range(2)]
            vectors = [builder.fadd(*(builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), lanes), half))
                                      for half in halves)) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
            size //= 2
        return vectors

    @intrinsic
    def sum_along_lines(typingctx, a, i, rows, b, j, columns, n, sums):
        """sums[r, q] = sum_{m < n, k} a[m, i + r, k] b[m, j + q, k], for the rows and columns of a square tile; where there are
        fewer, the last is taken again and again.
        """
        def codegen(context, builder, sig, args):
            _, i, rows, _, j, columns, n, _ = args
            A, B, S = (_Matrix(context, builder, sig.args[k], args[k]) for k in (0, 3, 7))
            n_rows, n_columns, width = _square(context)
            vector, lines = ir.VectorType(S.real, width // S.itemsize), []
            for first, size, there in (i, n_rows, rows), (j, n_columns, columns):
                last = builder.sub(there, SIZE(1))
                lines.append([builder.add(first, builder.select(builder.icmp_signed("<", SIZE(r), last), SIZE(r), last))
                              for r in range(size)])
            totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * vector.count))
                      for _ in range(n_rows * n_columns)]
            with cgutils.for_range(builder, n) as loop:
                for part in range(0, LINE, width):
                    of_a, of_b = ([M.load(builder.add(M.at(loop.index, line, SIZE(0)), SIZE(part)), vector) for line in of]
                                  for M, of in zip((A, B), lines, strict=True))
                    for k, total in enumerate(totals):
                        more = _multiply_add(builder, of_a[k // n_columns], of_b[k % n_columns], builder.load(total))
                        builder.store(more, total)
            for k, total in enumerate(_sums_of(builder, [builder.load(total) for total in totals])):
                S.store(total, builder.add(S.address, SIZE(k * width)))
            return context.get_dummy_value()
        return types.void(a, types.intp, types.intp, b, types.intp, types.intp, types.intp, sums), codegen

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
    tall_rows = blocks_at_once = layer_tile = short_layer_tile = normalize = restore = scale = None
    square_rows = square_columns = sum_along_lines = sum_lines_products = add_lines_sums = None
    move = sum_products = add_sums = packed_products = add_packed_sums = panels_at_once = None
    sum_squares_apart = add_apart = None
