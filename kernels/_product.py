"""Products of matrices for jitted code, of panels and tiles.

    multiply         c[:, first:last] = op(a)[row:, start:stop] op(b)[start:stop, first:last], op: as it lies, or turned
    packs            whether a product is large, so that wide parts of it are faster than narrow ones
    multiply_lines   a product of matrices of which lines of some rows lie block by block, as in flow.py
    pack             what it does to some columns of b, pack_group to those of several panels; panel_product, what it does with
                     them; pack_rows, to rows of a

a, b, c are as _tile.py takes them.

The columns of c go in panels as wide as a tile. A panel of b is packed: row beside row, and zeros where c has no more columns.
Then c is summed up a tile at a time.

Where rows and columns are many, rows of a are packed too, ROWS at most, one ROW behind the other: they go through GROUP panels,
which stay in the second cache, tile by tile, and a tile's rows stay in the first. Read where they lie, the rows of a large
matrix would drive each other out of it, as powers of two apart do. Large dense products so keep up with OpenBLAS in float32 and
float64, and none is left to it, whose sums depend on the shape.

Every value of c is a sum in the order of k, in even parts of at most DEPTH, so that a panel stays in the cache. It depends on
no other row or column, nor on how many there are, nor on threads, nor on what is packed: a row has the same bits whatever is
beside it.
Source: Goto & van de Geijn, Anatomy of high-performance matrix multiplication (2008).
"""
import numpy as np

from ._jit import jit
from ._tile import (
    DEPTH,
    ROW,
    add_lines_sums,
    add_packed_sums,
    add_sums,
    move,
    packed_products,
    panels_at_once,
    square_columns,
    square_rows,
    sum_along_lines,
    sum_lines_products,
    sum_products,
    tile_columns,
    tile_rows,
    turn,
)

ROWS = 480  # the most packed rows, a multiple of a tile's: half of the second cache, or what streams from the third
GROUP = 8  # panels that packed rows go through at a time
BLOCKS = 16  # of lines, that are packed at a time
NARROW = 8  # rows or columns, below which a product of lines is summed along them
TALL, DEEP, WIDE = 64, 200, 200  # rows, terms and columns from which on packing the rows pays


@jit
def pack(b, turned, start, first, width, panel):
    """panel[k, q] = op(b)[start + k, first + q], and 0 from q = width on."""
    columns = tile_columns(panel)
    if not turned:
        for k in range(len(panel)):
            if width == columns:
                move(b, start + k, first, panel, k)
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
def pack_group(b, turned, start, first, last, panels, depth):
    """What pack does, for every panel of the columns first..last. Of more than one, as many as are taken at once: nobody looks
    at the sums of the last, but numbers too small to be normal are slow.
    """
    columns, used = tile_columns(panels), -(-(last - first) // tile_columns(panels))
    for p in range(used):
        pack(b, turned, start, first + p * columns, min(columns, last - first - p * columns), panels[p, :depth])
    if used > 1:
        for p in range(used, -(-used // panels_at_once()) * panels_at_once()):
            panels[p, :depth] = 0


@jit
def pack_rows(a, turned, row, start, rows, depth):
    """rows[r, k] = op(a)[row + r, start + k], k < depth."""
    if not turned:
        for r in range(len(rows)):
            out, values = rows[r, :depth], a[row + r, start:start + depth]
            for k in range(depth):
                out[k] = values[k]
        return
    eights, whole = len(rows) // 8 * 8, depth // 8 * 8
    for k in range(0, whole, 8):
        for r in range(0, eights, 8):
            turn(a, start + k, row + r, rows, r, k)
    for k in range(depth):
        for r in range(eights if k < whole else 0, len(rows)):
            rows[r, k] = a[start + k, row + r]


@jit
def _store(tile, rows, onto, c, i, first, width):
    """The first rows and columns of a tile to their place in c, or added to what is there."""
    for r in range(rows):
        out, sums = c[i + r, first:first + width], tile[r]
        for q in range(width):
            out[q] = out[q] + sums[q] if onto else sums[q]


@jit
def panel_product(a, a_turned, row, start, panels, depth, onto, c, first, width, tile):
    """c[:, first:first + width] = op(a)[row:, start:start + depth] times so much of a panel, or of several taken at once, or
    += that.
    """
    if panels_at_once() > 1 and width > tile_columns(c):
        whole = width == columns_at_once(c)
        _tiles_product(a, a_turned, row, start, panels, depth, onto, whole, c, first, width, tile)
    else:
        whole = width == tile_columns(c)
        _tiles_product(a, a_turned, row, start, panels[0], depth, onto, whole, c, first, width, tile)


@jit
def _tiles_product(a, a_turned, row, start, panel, depth, onto, whole, c, first, width, tile):
    """The same, tile by tile, of a panel or of several; whole: whether width is all of their columns."""
    for i in range(0, len(c), tile_rows()):
        rows = min(tile_rows(), len(c) - i)
        if whole and rows == tile_rows() and not onto:
            sum_products(a, a_turned, row + i, rows, start, depth, panel, c, i, first)
        elif whole and rows == tile_rows():
            add_sums(a, a_turned, row + i, rows, start, depth, panel, c, i, first)
        else:
            sum_products(a, a_turned, row + i, rows, start, depth, panel, tile, 0, 0)
            _store(tile, rows, onto, c, i, first, width)


@jit
def _group_product(rows, panels, depth, onto, c, first, last, tile):
    """c[:, first:last] = rows panels, or += that, tile by tile: rows and panels as they were packed."""
    at_once = panels_at_once() * tile_columns(c)
    for i in range(0, len(c), tile_rows()):
        high = min(tile_rows(), len(c) - i)
        for j in range(first, last, at_once):
            p, width = (j - first) // tile_columns(c), min(at_once, last - j)
            if width < at_once or high < tile_rows():
                packed_products(rows, i, panels, p, depth, tile, 0, 0)
                _store(tile, high, onto, c, i, j, width)
            elif onto:
                add_packed_sums(rows, i, panels, p, depth, c, i, j)
            else:
                packed_products(rows, i, panels, p, depth, c, i, j)


@jit
def columns_at_once(like):
    """The columns of as many panels as are taken at once."""
    return panels_at_once() * tile_columns(like)


@jit
def scratch(c, depth):
    """Memory for a product of this depth: panels of a part of it, as many as are taken at once, and a tile."""
    return (np.empty((panels_at_once(), min(max(depth, 0), DEPTH), tile_columns(c)), c.dtype),
            np.empty((tile_rows(), columns_at_once(c)), c.dtype))


@jit
def part_of(depth):
    """The depth of the even parts that a product of so many terms is cut into, 0 of none."""
    return -(-depth // max(1, -(-depth // DEPTH)))


@jit
def packs(rows, depth, columns):
    """Whether a product is so large that its rows are packed."""
    return rows >= TALL and depth >= DEEP and columns >= WIDE


@jit
def _multiply_packed(a, a_turned, row, b, b_turned, start, stop, c, first, last):
    """What multiply does, by way of packed rows of a."""
    columns, step, tiles = tile_columns(c), part_of(stop - start), -(-min(ROWS, len(c)) // tile_rows())
    rows, panels = np.empty((tiles * tile_rows(), ROW), c.dtype), np.empty((GROUP, step, columns), c.dtype)
    tile = np.empty((tile_rows(), columns_at_once(c)), c.dtype)
    for low in range(0, len(c), ROWS):
        block = c[low:low + ROWS]
        for k in range(start, stop, step):
            depth = min(step, stop - k)
            pack_rows(a, a_turned, row + low, k, rows[:len(block)], depth)
            rows[len(block):, :depth] = 0  # of the last tile: what lay there may be too small for a normal number, and slow
            for j in range(first, last, GROUP * columns):
                until = min(j + GROUP * columns, last)
                pack_group(b, b_turned, k, j, until, panels, depth)
                _group_product(rows, panels, depth, k > start, block, j, until, tile)


@jit
def multiply(a, a_turned, row, b, b_turned, start, stop, c, first, last):
    """c[:, first:last] = op(a)[row:, start:stop] op(b)[start:stop, first:last], for the rows that c has; 0 for no terms."""
    if packs(len(c), stop - start, last - first):
        _multiply_packed(a, a_turned, row, b, b_turned, start, stop, c, first, last)
        return
    columns, step = columns_at_once(c), max(1, part_of(stop - start))
    panels, tile = scratch(c, stop - start)
    for j in range(first, last, columns):
        until = min(j + columns, last)
        for k in range(start, max(stop, start + 1), step):
            depth = max(0, min(step, stop - k))
            pack_group(b, b_turned, k, j, until, panels, depth)
            panel_product(a, a_turned, row, k, panels, depth, k > start, c, j, until - j, tile)


@jit
def multiply_lines(a, i, b, j, c, first, last):
    """c[r, q] = sum_{n, k} a[n, i + r, k] b[n, j + q, k], columns first <= q < last, of blocks of lines (n, lines, lanes)."""
    if min(len(c), last - first) < NARROW:
        _multiply_along_lines(a, i, b, j, c, first, last)
        return
    columns, lanes = columns_at_once(c), tile_columns(c)
    panels, tile = scratch(c, BLOCKS * lanes)
    for q in range(first, last, columns):
        width = min(columns, last - q)
        for low in range(0, max(len(a), 1), BLOCKS):
            high = min(low + BLOCKS, len(a))
            for p in range(-(-width // lanes)):
                _pack_lines(b, j + q + p * lanes, min(lanes, width - p * lanes), low, high, panels[p])
            if panels_at_once() > 1 and width > lanes:
                _lines_product(a, i, low, (high - low) * lanes, panels, width == columns, c, q, width, tile)
            else:
                _lines_product(a, i, low, (high - low) * lanes, panels[0], width == lanes, c, q, width, tile)


@jit
def _pack_lines(b, j, width, low, high, panel):
    """panel[(n - low) lanes + k, q] = b[n, j + q, k], and 0 from q = width on."""
    lanes = tile_columns(panel)
    for n in range(low, high):
        block, first, eights = b[n], (n - low) * lanes, width // 8 * 8
        for q in range(0, eights, 8):
            for k in range(0, lanes, 8):
                turn(block, j + q, k, panel, first + k, q)
        for k in range(lanes if eights < lanes else 0):
            for q in range(eights, lanes):
                panel[first + k, q] = block[j + q, k] if q < width else 0


@jit
def _lines_product(a, i, n, depth, panel, whole, c, first, width, tile):
    """c[:, first:first + width] = lines of a from block n on times a panel or several; += that from n = 1 on."""
    for r in range(0, len(c), tile_rows()):
        rows = min(tile_rows(), len(c) - r)
        if not whole or rows < tile_rows():
            sum_lines_products(a, i + r, rows, n, depth, panel, tile, 0, 0)
            _store(tile, rows, n > 0, c, r, first, width)
        elif n > 0:
            add_lines_sums(a, i + r, rows, n, depth, panel, c, r, first)
        else:
            sum_lines_products(a, i + r, rows, n, depth, panel, c, r, first)


@jit
def _multiply_along_lines(a, i, b, j, c, first, last):
    """What multiply_lines does, by dot products: of few rows or columns, a tile would be empty for the most part."""
    sums = np.empty(square_rows() * square_columns(), c.dtype)
    for r in range(0, len(c), square_rows()):
        rows = min(square_rows(), len(c) - r)
        for q in range(first, last, square_columns()):
            columns = min(square_columns(), last - q)
            sum_along_lines(a, i + r, rows, b, j + q, columns, len(a), sums)
            for p in range(rows):
                for k in range(columns):
                    c[r + p, q + k] = sums[p * square_columns() + k]
