"""Products with a masked weight W = mask * weight that skip what the mask empties.

    forward           y  = x W + b
    backward_x        dx = g W^T
    backward_weight   dw = mask * (x^T g)

x (N, K), weight (K, M), bias (M,), g (N, M), all of one dtype, float32 or float64.
blocks (B, 4): a cut of the columns, each row (first, last + 1, full, end): in these columns every mask entry above row
`full` is 1 and every entry from row `end` on is 0; only rows full..end look at `mask` (K, M), which may be empty (0, 0)
where no block does. Units sorted by degree make the mask of a MADE a staircase, and half of the work goes away.
Any N, K, M, zero included. Source: Germain, Gregor, Murray & Larochelle, MADE (2015), eqs. 8 and 9.

Numba: panels of _product.py, blocks and parts of the rows in parallel; large products without a mask in larger parts of rows
and columns, which go through its packed rows. Every value is a sum in a fixed order, the same for either, so that no bit
depends on the number of threads, and none of a row on other rows.
CUDA: tiles of the result, those of dw once per part of a large batch; where tiles are few and deep, several blocks share one
(split K), to the same bits. Large products by cuBLAS, of a staircase as many dense ones as it has STEPS; there the bits of a
row may depend on how many there are.
"""
import functools

import numpy as np

from . import _cublas, _cuda
from ._cuda import launch
from ._dispatch import Kernel, empty
from ._jit import NO, YES, ZERO, entry, get_num_threads, jit, parallel
from ._partition import evenly, large_parts, part_of_large, row_parts
from ._product import columns_at_once, multiply, pack_group, panel_product, part_of, scratch
from ._tile import tile_columns


def _masked(weight, mask, blocks):
    out = np.zeros(weight.shape, dtype=np.float64)
    for first, last, full, end in blocks:
        out[:full, first:last] = weight[:full, first:last]
        if full < end:
            out[full:end, first:last] = weight[full:end, first:last] * mask[full:end, first:last]
    return out


def _forward_reference(x, weight, bias, mask, blocks):
    return (x.astype(np.float64) @ _masked(weight, mask, blocks) + bias).astype(x.dtype)


def _backward_x_reference(g, weight, mask, blocks):
    return (g.astype(np.float64) @ _masked(weight, mask, blocks).T).astype(g.dtype)


def _backward_weight_reference(x, g, mask, blocks):
    return _masked(x.astype(np.float64).T @ g, mask, blocks).astype(x.dtype)


@jit
def dense(blocks, K):
    """Whether a weight of K rows has no masked entry."""
    for b in range(len(blocks)):
        if blocks[b, 2] < K:
            return False
    return True


@jit
def _forward_part(t, rows, columns, x, weight, bias, y):
    low, high, first, last = part_of_large(t, len(y), y.shape[1], rows, columns)
    multiply(x, NO, low, weight, NO, ZERO, len(weight), y[low:high], first, last)
    _add_bias(bias, y[low:high], first, last)


@jit
def _backward_x_part(t, rows, columns, g, weight, dx):
    low, high, first, last = part_of_large(t, len(dx), dx.shape[1], rows, columns)
    multiply(g, NO, low, weight, YES, ZERO, g.shape[1], dx[low:high], first, last)


@jit
def _backward_weight_part(t, rows, columns, x, g, dw):
    low, high, first, last = part_of_large(t, len(dw), dw.shape[1], rows, columns)
    multiply(x, YES, low, g, NO, ZERO, len(x), dw[low:high], first, last)


@jit
def _add_bias(bias, y, first, last):
    shift = bias[first:last]
    for n in range(len(y)):
        row = y[n, first:last]
        for m in range(row.size):
            row[m] += shift[m]


@jit
def _forward_block(x, weight, bias, mask, block, y):
    """The columns of a block of y."""
    first, last, full, end = block
    columns, at_once, step = tile_columns(y), columns_at_once(y), max(1, part_of(end))
    panels, tile = scratch(y, end)
    for j in range(first, last, at_once):
        width = min(at_once, last - j)
        for k in range(0, max(end, 1), step):
            depth = max(0, min(step, end - k))
            pack_group(weight, NO, k, j, j + width, panels, depth)
            for r in range(max(full, k), k + depth):
                for q in range(width):
                    panels[q // columns, r - k, q % columns] *= mask[r, j + q]
            panel_product(x, NO, ZERO, k, panels, depth, k > 0, y, j, width, tile)
        _add_bias(bias, y, j, j + width)


@jit
def _forward_task(t, parts, x, weight, bias, mask, blocks, y):
    N, B = len(x), len(blocks)
    p, b = t // B, evenly(t % B, B)
    low, high = p * N // parts, (p + 1) * N // parts
    _forward_block(x[low:high], weight, bias, mask, blocks[b], y[low:high])


@entry
def _forward(threads, x, weight, bias, mask, blocks, y):
    K, M = weight.shape
    rows, columns = large_parts(len(x), K, M, threads)
    if rows and dense(blocks, K):
        parallel(rows * columns, _forward_part, (rows, columns, x, weight, bias, y))
        return
    parts = row_parts(len(x), len(blocks))
    parallel(len(blocks) * parts, _forward_task, (parts, x, weight, bias, mask, blocks, y))


def _forward_numba(x, weight, bias, mask, blocks):
    y = empty((len(x), weight.shape[1]), x.dtype)
    _forward(get_num_threads(), x, weight, bias, mask, blocks, y)
    return y


@jit
def _mask_turned(panels, start, depth, unit, width, mask, blocks):
    """Column q of the panels, k rows down, *= mask[unit + q, start + k]."""
    columns = tile_columns(panels)
    for b in range(len(blocks)):
        first, last, full, end = blocks[b]
        if full < unit + width:
            for k in range(max(0, first - start), min(depth, last - start)):
                for q in range(max(0, full - unit), width):
                    if unit + q >= end:
                        panels[q // columns, k, q % columns] = 0
                    else:
                        panels[q // columns, k, q % columns] *= mask[unit + q, start + k]


@jit
def _backward_units(g, weight, mask, blocks, unit, width, dx):
    """The columns unit..unit + width - 1 of dx, as many as go at once, from those of g that they were seen by."""
    start, stop = g.shape[1], 0
    for b in range(len(blocks)):
        if blocks[b, 3] > unit:
            start, stop = min(start, blocks[b, 0]), max(stop, blocks[b, 1])
    start = min(start, stop)
    step = max(1, part_of(stop - start))
    panels, tile = scratch(dx, stop - start)
    for k in range(start, max(stop, start + 1), step):
        depth = max(0, min(step, stop - k))
        pack_group(weight, YES, k, unit, unit + width, panels, depth)
        _mask_turned(panels, k, depth, unit, width, mask, blocks)
        panel_product(g, NO, ZERO, k, panels, depth, k > start, dx, unit, width, tile)


@jit
def _backward_x_task(t, columns, parts, g, weight, mask, blocks, dx):
    (N, K), width = dx.shape, columns_at_once(dx)
    p, unit = t // columns, evenly(t % columns, columns) * width
    low, high = p * N // parts, (p + 1) * N // parts
    _backward_units(g[low:high], weight, mask, blocks, unit, min(width, K - unit), dx[low:high])


@entry
def _backward_x(threads, g, weight, mask, blocks, dx):
    K, M = weight.shape
    rows, columns = large_parts(len(g), M, K, threads)
    if rows and dense(blocks, K):
        parallel(rows * columns, _backward_x_part, (rows, columns, g, weight, dx))
        return
    columns = -(-dx.shape[1] // columns_at_once(dx))
    parts = row_parts(len(dx), columns)
    parallel(columns * parts, _backward_x_task, (columns, parts, g, weight, mask, blocks, dx))


def _backward_x_numba(g, weight, mask, blocks):
    dx = empty((len(g), len(weight)), g.dtype)
    _backward_x(get_num_threads(), g, weight, mask, blocks, dx)
    return dx


@jit
def _backward_weight_task(t, x, g, mask, blocks, dw):
    first, last, full, end = blocks[evenly(t, len(blocks))]
    multiply(x, YES, ZERO, g, NO, ZERO, len(x), dw[:end], first, last)
    for k in range(full, len(dw)):
        row = dw[k, first:last]
        for m in range(row.size):
            row[m] = row[m] * mask[k, first + m] if k < end else 0


@entry
def _backward_weight(threads, x, g, mask, blocks, dw):
    K, M = dw.shape
    rows, columns = large_parts(K, len(x), M, threads)
    if rows and dense(blocks, K):
        parallel(rows * columns, _backward_weight_part, (rows, columns, x, g, dw))
        return
    parallel(len(blocks), _backward_weight_task, (x, g, mask, blocks, dw))


def _backward_weight_numba(x, g, mask, blocks):
    dw = empty((x.shape[1], g.shape[1]), x.dtype)
    _backward_weight(get_num_threads(), x, g, mask, blocks, dw)
    return dw


# --- CUDA ------------------------------------------------------------------------------------------------------------

THREADS = 256
STEP = 8  # columns with a bound of their own
LARGE, SMALL = (128, 64), (32, 32)  # tiles: rows and columns
FULL = 128  # large tiles that keep a device busy
SPARSE, SHARED = 256, 2048  # small tiles that do not, if each is one block's; blocks, at most, that share them
DEPTH = 128  # of a block that shares: PART of _gemm.cuh
STEPS, STEP_COLUMNS = 8, 256  # dense products that a staircase is made of, at most, and the least columns of one
PART_ROWS, PART_VALUES = 512, 2**24  # of a batch, the least that is summed by itself, and the most partial sums


def tiles(*shapes):
    """How many tiles make the largest of some results, and whether they are large ones."""
    counts = {tile: [-(-rows // tile[0]) * -(-columns // tile[1]) for rows, columns in shapes] for tile in (LARGE, SMALL)}
    large = sum(counts[LARGE]) >= FULL
    return max(counts[LARGE if large else SMALL]), large


def split(count, large, depth):
    """How many blocks share the depth of each of so many tiles: none does unless they are few, and then one for each DEPTH."""
    n = -(-depth // DEPTH)
    return n if not large and n > 1 and count < SPARSE and count * n <= SHARED else 1


def parts(rows, values):
    """In how many parts the rows of a batch are summed up, to as many values."""
    return max(1, min(rows // PART_ROWS, PART_VALUES // max(values, 1), 64))


def bounds(blocks, columns):
    """What _gemm.cuh's Stairs needs to know: full and end of every column, and the largest end of every STEP columns."""
    full, end = np.repeat(blocks[:, 2:], blocks[:, 1] - blocks[:, 0], axis=0).T
    return np.concatenate([full, end, *([np.maximum.reduceat(end, np.arange(0, columns, STEP))] if columns else [])])


@functools.lru_cache(maxsize=256)
def _bounds(blocks, columns):
    return bounds(np.frombuffer(blocks, np.int64).reshape(-1, 4), columns)


def _stairs(blocks, columns):
    return _cuda.constant(_bounds(_cuda.content(blocks), columns))


@functools.lru_cache(maxsize=256)
def _steps(blocks, columns, masked):
    """[(first, last + 1, end)] of the columns: from row `end` on the mask is 0 there; above it, unless it is masked, 1."""
    blocks = np.frombuffer(blocks, np.int64).reshape(-1, 4)
    width = max(STEP_COLUMNS, -(-columns // STEPS)) if masked else 0
    steps = []
    for first, last, _, end in blocks.tolist():
        if steps and (last - steps[-1][0] <= width or steps[-1][2] == end):
            steps[-1] = steps[-1][0], last, max(steps[-1][2], end)
        else:
            steps.append((first, last, end))
    return steps


def _dense_steps(weight, mask, blocks):
    """The weight with its mask, and its steps."""
    return (weight * mask if mask.size else weight), _steps(_cuda.content(blocks), weight.shape[1], mask.size > 0)


def _forward_cublas(x, weight, bias, mask, blocks):
    y = _cuda.empty((len(x), weight.shape[1]), x.dtype)
    y[...] = bias
    weight, steps = _dense_steps(weight, mask, blocks)
    for first, last, end in steps:
        _cublas.add(x[:, :end], weight[:end, first:last], y[:, first:last])
    return y


def _backward_x_cublas(g, weight, mask, blocks):
    dx = _cuda.zeros((len(g), len(weight)), g.dtype)
    weight, steps = _dense_steps(weight, mask, blocks)
    for first, last, end in steps:
        _cublas.add(g[:, first:last], weight[:end, first:last].T, dx[:, :end])
    return dx


def _backward_weight_cublas(x, g, mask, blocks):
    dw = _cuda.zeros((x.shape[1], g.shape[1]), x.dtype)
    for first, last, end in _steps(_cuda.content(blocks), g.shape[1], mask.size > 0):
        _cublas.add(x[:, :end].T, g[:, first:last], dw[:end, first:last])
    if mask.size:
        dw *= mask
    return dw


def _forward_cuda(x, weight, bias, mask, blocks):
    (N, K), M = x.shape, weight.shape[1]
    if _cublas.takes(N, K, M):
        return _forward_cublas(x, weight, bias, mask, blocks)
    stairs, (count, large) = _stairs(blocks, M), tiles((N, M))
    y = _cuda.empty((split(count, large, K), N, M), x.dtype)
    launch("masked_matmul", "forward", (count, len(y)), THREADS, x, weight, bias, mask, stairs, y, N, K, M, large)
    return add_up(y, bias)


def _backward_x_cuda(g, weight, mask, blocks):
    (N, M), K = g.shape, len(weight)
    if _cublas.takes(N, K, M):
        return _backward_x_cublas(g, weight, mask, blocks)
    stairs, (count, large) = _stairs(blocks, M), tiles((N, K))
    dx = _cuda.empty((split(count, large, M), N, K), g.dtype)
    launch("masked_matmul", "backward_x", (count, len(dx)), THREADS, g, weight, mask, stairs, dx, N, K, M, large)
    return add_up(dx)


def _backward_weight_cuda(x, g, mask, blocks):
    (N, K), M = x.shape, g.shape[1]
    if _cublas.takes(N, K, M):
        return _backward_weight_cublas(x, g, mask, blocks)
    n_parts, stairs, (count, large) = parts(N, K * M), _stairs(blocks, M), tiles((K, M))
    dw = _cuda.empty((n_parts, K, M), x.dtype)
    launch("masked_matmul", "backward_weight", (count, n_parts), THREADS, x, g, mask, stairs, dw, N, K, M, large)
    return add_up(dw)


def add_up(values, bias=None):
    """The sum over the first axis, and of several parts a bias, which one part has in it."""
    if len(values) == 1:
        return values[0]
    total = _cuda.empty(values.shape[1:], values.dtype)
    more, columns = (values, 0) if bias is None else (bias, len(bias))
    launch("masked_matmul", "add", _cuda.grid(total.size, THREADS), THREADS, values, more, total, len(values), total.size,
           columns)
    return total


forward = Kernel("masked_matmul.forward", "x(N,K) weight(K,M) bias(M) mask(K|0,M|0) blocks(B,4):int64",
                 reference=_forward_reference, numba=_forward_numba, cuda=_forward_cuda)
backward_x = Kernel("masked_matmul.backward_x", "g(N,M) weight(K,M) mask(K|0,M|0) blocks(B,4):int64",
                    reference=_backward_x_reference, numba=_backward_x_numba, cuda=_backward_x_cuda)
backward_weight = Kernel("masked_matmul.backward_weight", "x(N,K) g(N,M) mask(K|0,M|0) blocks(B,4):int64",
                         reference=_backward_weight_reference, numba=_backward_weight_numba, cuda=_backward_weight_cuda)
