"""Sums over blocks in one binary tree over their numbers, ((0 + 1) + (2 + 3)) + ..., and how the blocks are shared out.

Node (i, h), number i of height h, is the sum of blocks i 2^h to (i + 1) 2^h - 1, as far as there are any.
"""
LONGEST = 16  # blocks of a run, at most
CLIMB = 2     # heights of the Tree that a task of Dask adds up: of four sums, fewer tasks than pairs would be


class Tree:
    """The sum over n blocks in a binary tree over their numbers, of parts that may come in any order.

    Held are the nodes whose siblings are not there yet: log2(n) of them while blocks come one after the other.
    """

    def __init__(self, n):
        self.n, self.nodes = n, {}

    def add(self, part, i, h=0):
        """Take the sum that is node i of height h."""
        while 1 << h < self.n:
            alone = i % 2 == 0 and (i + 1) << h >= self.n
            if not alone:
                if (h, i ^ 1) not in self.nodes:
                    break
                sibling = self.nodes.pop((h, i ^ 1))
                part = sibling + part if i % 2 else part + sibling
            h, i = h + 1, i // 2
        self.nodes[h, i] = part

    def total(self):
        (total,) = self.nodes.values()
        return total


def tree_sum(parts, n):
    """The sum of n parts, in the order of their blocks, as a Tree adds them."""
    tree = Tree(n)
    for i, part in enumerate(parts):
        tree.add(part, i)
    return tree.total()


def runs(blocks, n_workers):
    """[((i, h), blocks)]: the blocks in runs, each sent to a worker at once, and which node of the Tree a run's sum is.

    A run has at most half of a worker's share of what is left: the first are long, so that there are few, and the last are
    single blocks, so that no worker waits long for another.
    Reference: Polychronopoulos & Kuck, Guided self-scheduling (1987).
    """
    found, low = [], 0
    while low < len(blocks):
        h = 0
        while 2 << h <= min(LONGEST, (len(blocks) - low) / (2 * n_workers)):
            h += 1
        found.append(((low >> h, h), blocks[low:low + (1 << h)]))
        low += 1 << h
    return found


def above(node, height):
    """The node of this height that a node (i, h) is part of; itself where it is as high."""
    i, h = node
    return (i >> height - h, height) if h < height else node


def added(n, nodes, sums):
    """The sums at some nodes of the Tree over n blocks, added up to the one node that they make."""
    tree = Tree(n)
    for (i, h), part in zip(nodes, sums, strict=True):
        tree.add(part, i, h)
    return tree.total()
