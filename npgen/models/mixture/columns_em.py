"""EM's two steps for a mixture of products of columns, of which rows may miss values.

Legend: n rows, d columns, r real ones, k components.
"""
import dataclasses
import functools
import math
import operator

import numpy as np

from ... import ops
from ...heads.base import EMPTY
from ...kernels._cuda import is_device_array
from ...nn import Parameters
from .em import Statistics
from .kinds import ColumnHeads
from .starts import k_means_plus_plus

SHOWN = 2**16       # values of rows times components at once
SHOWN_THERE = 2**24  # the same on a device, where launches count
TAKEN = 2**22       # values of rows that are copied for that
DRAWS = 16          # rows that a start looks at to choose one: with 4, one of 8 classes of 24 bits is missed in 1 of 8 starts


@dataclasses.dataclass
class Products:
    """Components: log_weights (k,), and by the name of a head the outputs (k, ...) that it reads.

    floor (f,): what the M-step has added to variances, as shares of those of all rows, column by column (ColumnHeads.floors).
    """

    columns: ColumnHeads
    log_weights: np.ndarray
    outputs: dict
    floor: np.ndarray

    @classmethod
    def of(cls, columns, params, floor):
        """From free parameters."""
        logits = params["logits"]
        outputs = {name: a for name, a in params.items() if name != "logits"}
        return cls(columns, logits - ops.logsumexp(logits), outputs, floor)

    @classmethod
    def equal(cls, columns, outputs):
        """Components of equal weight with these outputs, to whose variances nothing was added."""
        some = next(iter(outputs.values()))
        k = len(some)
        log_weights = np.full_like(some, -math.log(k), shape=(k,), dtype=np.float64)
        return cls(columns, log_weights, outputs, np.zeros_like(log_weights, shape=(columns.n_floors,)))

    @classmethod
    def around(cls, columns, x, pooled):
        """Components of equal weight around each of some rows; pooled: the outputs (1, ...) of all rows as one component."""
        return cls.equal(columns, {name: head.around(view, pooled[name]) for name, head, view in columns.views(x)})

    def params(self):
        """The free parameters."""
        return Parameters({"logits": self.log_weights, **self.outputs})

    def arrays(self):
        """What the components are made of, by name."""
        return {"log_weights": self.log_weights, **self.outputs, "floor": self.floor}

    def joint(self, views):
        """log w_k p_k(x), (n, k)."""
        return self.log_weights + sum(head.log_prob_each(view, self.outputs[name]) for name, head, view in views)

    def log_prob(self, x):
        """(n,) log-densities of rows x, differentiable."""
        parts = (head.log_prob(view[:, None], self.outputs[name]) for name, head, view in self.columns.views(x))
        return ops.logsumexp(self.log_weights + sum(parts))


def at_once(x, k, columns):
    """How many of rows x (n, d) are looked at together, under k components: so many that a head has enough to do, as one looks
    after the other."""
    shown, taken = (SHOWN_THERE, SHOWN_THERE) if is_device_array(x) else (SHOWN, TAKEN)
    return max(64, min(shown // max(k, columns.widest), taken // x.shape[1]))


def apart(columns, x, weights, k, pooled, stream):
    """Components of equal weight of the rows (n, d) nearest to one of k that lie apart, and of a few as all rows are, whose
    outputs pooled are."""
    def blocks(k):
        """Of the rows, under k components at once."""
        size = at_once(x, 2 * k, columns)  # beside which there are the divergences of all rows
        return [slice(low, low + size) for low in range(0, len(x), size)]

    own = np.concatenate([sum(head.log_prob_around(view, pooled[name]) for name, head, view in columns.views(x[block]))
                          for block in blocks(DRAWS)])

    def divergences(seeds, *width, of=lambda nats: nats):
        """By how many nats each row is less likely under l components around seeds than around itself, (n, l); or what `of`
        makes of these, (n, *width), a block of rows at a time.
        """
        around, every = Products.around(columns, seeds, pooled), np.empty_like(own, shape=(len(x), *width))
        for block in blocks(len(seeds)):
            nats = own[block, None] - math.log(len(seeds)) - around.joint(columns.views(x[block]))
            every[block] = of(np.maximum(nats, 0))
        return every

    seeds = k_means_plus_plus(x, weights, k, stream, lambda _, seeds: divergences(seeds, len(seeds)), DRAWS)
    nearest = divergences(seeds, of=lambda nats: nats.argmin(axis=1))[:, None]
    few, outputs = np.ones_like(weights, shape=(k,)) * (0.1 * weights.sum() / k), {}
    all_rows = {name: each.repeat(k, axis=0) for name, each in pooled.items()}
    for name, head in columns.heads.items():
        view = x[:, columns.numbers[name]]
        moments = functools.reduce(operator.add, (  # of rows that belong to their nearest seed
            head.moments(view[b], weights[b, None] * (nearest[b] == np.arange(k, like=x)), all_rows[name]) for b in blocks(k)))
        moments = moments + head.expected_moments(all_rows[name], few, all_rows[name], 0.0)
        outputs[name] = head.maximise(moments, all_rows[name], all_rows[name], 0.0)
    return Products.equal(columns, outputs)


def expect(products, rows):
    """The E-step: the statistics of Rows."""
    size = at_once(rows.x, len(products.log_weights), products.columns)

    def gather(low):
        block = slice(low, low + size)
        x, w = rows.take(block)
        views = list(products.columns.views(x))
        joint = products.joint(views)
        log_prob = ops.logsumexp(joint)
        r = np.exp(joint - log_prob[:, None]) * w[:, None]
        moments = tuple(head.moments(view, r, products.outputs[name]) for name, head, view in views)
        return Statistics(r.sum(axis=0), moments, w @ log_prob, w.sum())

    return functools.reduce(operator.add, map(gather, range(0, max(len(rows), 1), size)))


def maximise(products, statistics, pooled, reg_covar, smoothing):
    """The M-step: new components, and which of them (k,) are empty or collapsed: these are as all rows are.

    smoothing: what is added to the counts, relative to the number of rows.
    """
    n, outputs, lost, floor = np.maximum(statistics.n, EMPTY), {}, statistics.n <= EMPTY, products.floor.copy()
    for (name, head), moments in zip(products.columns.heads.items(), statistics.moments, strict=True):
        last, of_all, own = products.outputs[name], pooled[name], products.columns.floors[name]
        if head.floored:
            floor[own] = reg_covar * head.typical_variance(moments, last, of_all)
        new = head.maximise(moments, last, of_all, head.smoothing(smoothing * statistics.weight, floor[own]))
        collapsed = np.isnan(new).any(axis=1)
        outputs[name], lost = np.where(collapsed[:, None], of_all, new), lost | collapsed
    return Products(products.columns, np.log(n / n.sum()), outputs, floor), lost


def statistics_of(products, pooled, smoothing):
    """The statistics, of weight 1, from which an M-step makes these same components."""
    n = np.exp(products.log_weights)
    moments = tuple(head.expected_moments(products.outputs[name], n, pooled[name],
                                          head.smoothing(smoothing, products.floor[products.columns.floors[name]]))
                    for name, head in products.columns.heads.items())
    return Statistics(n, moments, 0.0, 1.0)
