"""How rows and columns are cut among threads: panels of rows, parts of products.

A cut follows from shapes alone, or, of what has the same bits in any cut, from the number of threads too.
"""
from ._jit import jit
from ._product import ROWS, TALL, packs

COLUMNS = 512  # of a part of a large product, at most
WAKING = 2**15  # nanoseconds, about, of waking another thread


@jit
def n_panels(n, work):
    """How many row panels a batch of n is cut into: two from 64 rows on, then a power of two up to 16, of 128 rows or more.

    A GEMM packs the whole weight for every panel, so that narrow ones are slow; but two threads need two. work: the
    nanoseconds that one thread takes, about; where they are few, it is done before another one is awake.
    """
    count = 1 if n < 64 or work < WAKING else 2
    while 1 < count < 16 and n >= 256 * count:
        count *= 2
    return count


@jit
def rows_of(p, panels, n):
    """The first row of panel p, and the last + 1: cut at multiples of 4, as a BLAS takes rows beyond by other instructions."""
    fours = (n + 3) // 4
    return p * fours // panels * 4, min((p + 1) * fours // panels * 4, n)


@jit
def evenly(i, n):
    """0, n-1, 1, n-2, ...: blocks of a staircase in an order that gives neighbouring threads equal work."""
    return i // 2 if i % 2 == 0 else n - 1 - i // 2


@jit
def row_parts(N, columns):
    """In how many parts the rows of a product go, so that a part stays in the cache, and there are parts for many threads."""
    return max(-(-N // 128), min(-(-N // 32), -(-8 // max(columns, 1))))


@jit
def large_parts(rows, depth, columns, threads):
    """In how many parts the rows of a large product go, as many for every thread, and in how many its columns; else 0, 0."""
    if not packs(rows // 4, depth, columns):
        return 0, 0
    return min(-(-rows // TALL), threads * -(-rows // (threads * ROWS))), -(-columns // COLUMNS)


@jit
def part_of_large(t, N, M, rows, columns):
    """The first and last + 1 of the rows, and of the columns, of part t of a large product."""
    i, j = t // columns, t % columns
    return i * N // rows, (i + 1) * N // rows, j * COLUMNS, min((j + 1) * COLUMNS, M)
