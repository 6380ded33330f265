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
from ...nn import Parameters
from .em import Statistics
from .kinds import ColumnHeads

SHOWN = 2**16       # values of rows times components at once


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
        k = len(next(iter(outputs.values())))
        return cls(columns, np.full(k, -math.log(k)), outputs, np.zeros(columns.n_floors))

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


def expect(products, rows):
    """The E-step: the statistics of Rows."""
    size = max(64, SHOWN // max(len(products.log_weights), rows.x.shape[1]))

    def gather(low):
        block = slice(low, low + size)
        views, w = list(products.columns.views(rows.x[block])), rows.weighted(block)
        joint = products.joint(views)
        log_prob = ops.logsumexp(joint)
        r = np.exp(joint - log_prob[:, None]) * w[:, None]
        moments = tuple(head.moments(view, r, products.outputs[name]) for name, head, view in views)
        return Statistics(r.sum(axis=0), moments, float(w @ log_prob), float(w.sum()))

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
