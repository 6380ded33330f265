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

SHOWN = 2**16       # values of rows times components at once
SHOWN_THERE = 2**24  # the same on a device, where launches count
TAKEN = 2**22       # values of rows that are copied for that


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
