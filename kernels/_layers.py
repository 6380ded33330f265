"""The layers of a multilayer perceptron: where each lies in params and hidden, and how the work on them is cut among threads.

widths, params, hidden, blocks, layers and their order: see mlp.py. Layers that have no masked entry, and are large, go in the
parts of _partition.py.
"""
from ._jit import jit, jitable
from ._partition import COLUMNS, evenly, large_parts, row_parts

UNITS = 32  # of a layer's inputs, whose cotangents are computed at once
MANY_ROWS = 1024  # of a batch that goes through all layers in panels
WORK = 2**20  # products of a row and a parameter, from which on every layer is worth a parallel region


@jitable
def layer_start(widths, layer):
    """Where a layer's weight begins in params."""
    start = 0
    for k in range(layer):
        start += (widths[k] + 1) * widths[k + 1]
    return start


@jitable
def layer_of(params, widths, layer):
    """The weight (inputs, outputs) and bias of a layer, views of params."""
    start, n_in, n_out = layer_start(widths, layer), widths[layer], widths[layer + 1]
    end = start + n_in * n_out
    return params[start:end].reshape((n_in, n_out)), params[end:end + n_out]


@jitable
def layer_of_hidden(hidden, widths, layer):
    """The values (N, h) of a hidden layer, a view of hidden; the first has number 1."""
    before, total = 0, 0
    for k in range(1, len(widths) - 1):
        before += widths[k] if k < layer else 0
        total += widths[k]
    N = hidden.size // total
    return hidden[N * before:N * (before + widths[layer])].reshape((N, widths[layer]))


@jit
def first_block(blocks, layer):
    """The number of a layer's first block."""
    b = 0
    while b < len(blocks) and blocks[b, 0] < layer:
        b += 1
    return b


@jit
def dense_layer(blocks, widths, layer):
    """Whether a layer's weight has no masked entry."""
    for b in range(len(blocks)):
        if blocks[b, 0] == layer and blocks[b, 3] < widths[layer]:
            return False
    return True


@jit
def network_panels(N, size, threads):
    """In how many panels a batch goes through all the layers at once; or none, if layers go through the threads one by one.

    A panel packs every weight anew, so that narrow ones cost; but many rows pass through the cache, and few values are not
    worth a parallel region per layer.
    """
    if N >= MANY_ROWS:
        return max(min(16, 2 * threads), -(-N // 256))
    if N * size >= WORK:
        return 0
    return 1 if N < 64 else 2


@jit
def _cut_layer(stage, N, widths, blocks, threads):
    """In how many parts the rows of a layer go, and in how many its blocks, of how many each."""
    columns = first_block(blocks, stage + 1) - first_block(blocks, stage)
    rows, wide = large_parts(N, widths[stage], widths[stage + 1], threads)
    if rows and dense_layer(blocks, widths, stage):
        return rows, wide, -(-columns // wide)
    return row_parts(N, columns), columns, 1


@jit
def even_tasks(N, parts, groups):
    """How many tasks so many parts of the rows and groups of columns are: for an even number of them, the group in the middle
    is two, of half the rows each.
    """
    return parts * groups + (1 if parts == 1 and groups % 2 == 1 and N >= 64 else 0)


@jit
def even_task(t, N, parts, groups):
    """Of task t: the part of the rows, of how many, and the group."""
    middle = groups // 2
    if even_tasks(N, parts, groups) == parts * groups:
        return t // groups, parts, evenly(t % groups, groups)
    if t == middle or t == middle + 1:
        return t - middle, 2, evenly(middle, groups)
    return 0, 1, evenly(t if t < middle else t - 1, groups)


@jit
def layer_tasks(stage, N, widths, blocks, threads):
    """How many tasks a layer is."""
    parts, groups, _ = _cut_layer(stage, N, widths, blocks, threads)
    return even_tasks(N, parts, groups)


@jit
def layer_share(t, stage, N, widths, blocks, threads):
    """Of task t of a layer: the part of the rows, of how many, and the blocks, the first and the last + 1."""
    parts, groups, each = _cut_layer(stage, N, widths, blocks, threads)
    start, stop = first_block(blocks, stage), first_block(blocks, stage + 1)
    part, parts, group = even_task(t, N, parts, groups)
    return part, parts, start + group * each, min(start + (group + 1) * each, stop)


@jit
def cut_units(layer, N, widths, blocks, threads):
    """In how many parts the rows of a layer go on the way back, and how many of its inputs are a task's."""
    rows, wide = large_parts(N, widths[layer + 1], widths[layer], threads)
    if rows and dense_layer(blocks, widths, layer):
        return rows, COLUMNS
    return row_parts(N, -(-widths[layer] // UNITS)), UNITS


@jit
def cut_gradient(layer, N, widths, blocks, threads):
    """In how many parts the rows, and the columns, of a large gradient go; 0, 0 of another, which goes piece by piece."""
    rows, wide = large_parts(widths[layer], N, widths[layer + 1], threads)
    return (rows, wide) if rows and dense_layer(blocks, widths, layer) else (0, 0)
