"""Blocks of lines: a line has a value of each of so many rows, a block a line for every feature of these rows.

    values_at        a part of an array as one of one dimension, grid_at of two, cube_at of three
    lines_in     of a block, all values of some lines; lines_of, of one of several blocks
    block_of         one of some blocks; blocks_of, some of those of a step
    load_rows        rows of a matrix into a block; store_rows, back
    layer_of_lines   a layer of a network, for a block or two
    set_ones         a line of ones; fold_lines, the sum of lines

A block is (lines, lanes), as many lanes as a tile of _tile.py has columns: 16 in float32, 8 in float64. Blocks lie behind one
another, contiguous, (n, lines, lanes), and those of several steps so, too, (steps, n, lines, lanes).
"""
from ._jit import YES, ZERO, available, jit
from ._product import pack
from ._tile import layer_tile, short_layer_tile, tall_rows, tile_columns, turn

if available:
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np.arrayobj import populate_array

    def _view(n_dim):
        """Values of a contiguous array, from its number `start` on, as an array of so many dimensions. A slice would count as a
        reference to the array, and reshape() ask whether it can: for a block that takes as long as the work itself. So these
        are for arrays that the caller's caller holds.
        """
        @intrinsic
        def view(typingctx, array, start, shape):
            kind = types.Array(array.dtype, n_dim, "C")

            def codegen(context, builder, signature, args):
                before, after = context.make_array(array)(context, builder, args[0]), context.make_array(kind)(context, builder)
                sizes, strides = cgutils.unpack_tuple(builder, args[2]), [before.itemsize]
                for size in sizes[:0:-1]:
                    strides.insert(0, builder.mul(strides[0], size))
                populate_array(after, builder.gep(before.data, [args[1]]), sizes, strides, before.itemsize, None)
                return after._getvalue()
            return kind(array, types.intp, types.UniTuple(types.intp, n_dim)), codegen
        return view

    values_at, grid_at, cube_at = _view(1), _view(2), _view(3)
else:
    values_at = grid_at = cube_at = None


@jit
def lines_in(block, first, last):
    """All values of some lines, one after another: every loop but those over rows is one over these."""
    return values_at(block, first * tile_columns(block), ((last - first) * tile_columns(block),))


@jit
def block_of(blocks, b):
    """One of some blocks (b, D, lanes)."""
    D, lanes = blocks.shape[1:]
    return grid_at(blocks, b * D * lanes, (D, lanes))


@jit
def lines_of(blocks, b, first, last):
    """All values of some lines of one of them."""
    D, lanes = blocks.shape[1:]
    return values_at(blocks, (b * D + first) * lanes, ((last - first) * lanes,))


@jit
def blocks_of(kept, k, b, n):
    """The blocks b..b + n - 1 of step k of what is kept (steps, blocks, lines, lanes)."""
    blocks, lines, lanes = kept.shape[1:]
    return cube_at(kept, (k * blocks + b) * lines * lanes, (n, lines, lanes))


@jit
def load_rows(values, low, block):
    """block (D, lanes) = rows low.. of values (N, D); 0 where there are no more."""
    pack(values, YES, ZERO, low, min(tile_columns(block), len(values) - low), block)


@jit
def store_rows(block, values, low):
    """Rows low.. of values (N, D) = block."""
    rows = min(tile_columns(block), len(values) - low)
    eights = values.shape[1] // 8 * 8 if rows == tile_columns(block) else 0
    for d in range(0, eights, 8):
        for n in range(0, rows, 8):
            turn(block, d, n, values, low + n, d)
    for n in range(rows):
        for d in range(eights, values.shape[1]):
            values[low + n, d] = block[d, n]


@jit
def layer_of_lines(weight, h, first, bound, out, to):
    """out[:, to + m] = max(weight[-1, m] + sum_k weight[k, m] h[:, first + k], bound), of a weight with its bias below it, for
    one block or two, h and out (b, lines, lanes). For bound (b, lines, lanes), gates in the same places as out: the sum itself,
    and 0 where they are not above 0.
    """
    depth, M = weight.shape[0] - 1, weight.shape[1]
    m = 0
    if len(h) > 1:
        rows = tall_rows() // 2
        while M - m >= rows:
            layer_tile(weight, m, rows, h, first, depth, bound, out, to)
            m += rows
        while m < M:
            short_layer_tile(weight, m, min(4, M - m), h, first, depth, bound, out, to)
            m += 4
        return
    lines, sums = block_of(h, 0), block_of(out, 0)
    while M - m >= tall_rows():
        layer_tile(weight, m, tall_rows(), lines, first, depth, bound, sums, to)
        m += tall_rows()
    while m < M:
        short_layer_tile(weight, m, min(4, M - m), lines, first, depth, bound, sums, to)
        m += 4


@jit
def set_ones(blocks, line):
    """That line of every block = 1."""
    for b in range(len(blocks)):
        values = lines_of(blocks, b, line, line + 1)
        for i in range(values.size):
            values[i] = 1


@jit
def fold_lines(block, n):
    """The sum of the first n >= 1 lines of a block, into the first, in pairs."""
    while n > 1:
        half = n // 2
        values, others = lines_in(block, 0, half), lines_in(block, n - half, n)
        for i in range(values.size):
            values[i] += others[i]
        n -= half
