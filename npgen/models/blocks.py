"""Models and rows in blocks (data.blocks): fits by sums over blocks, and queries that are answered block by block.

Workers read the rows (parallel.py); here are the sums of a fit, and the answers of a query.
"""
import copy
import functools
import inspect

import numpy as np

from .. import parallel, transforms
from ..kernels import session
from .run import RunFile


def in_blocks(method, X, sample_weight=None):
    """The data.blocks.Blocks of X, or None where it is an array, a DataFrame or whatever else is there as a whole."""
    if isinstance(X, np.ndarray):
        return None
    from ..data.blocks import Blocks  # import npgen stays light
    try:
        return Blocks.of(X, sample_weight)
    except ValueError as error:
        raise type(error)(f"{method}: {error}") from None


def fit(model, blocks, columns, checkpoint, resume, **others):
    """Model.fit of rows in blocks, for which there are no others of its arguments."""
    for name, value in others.items():
        if value is not None:
            raise ValueError(f"fit: X comes in blocks, for which there is no {name}; leave it out, or pass an array")
    if not hasattr(model, "_learn_blocks"):
        raise TypeError(f"fit: X comes in blocks, of which EM alone can learn, and a {type(model).__name__} is fitted "
                        "otherwise; pass an array")
    learner = copy.copy(model)  # a fit that fails leaves this model alone
    learner.schema_ = learner._found = None

    def describe(frame):
        x = learner._take_frame(frame, columns)
        return learner.schema_, x.rows.dtype

    if columns is not None and not blocks.framed:
        raise ValueError("fit: columns say what a DataFrame has, but X is none; leave them out")
    found = blocks.look("fit", dtype=model._default_dtype, missing=model._missing, describe=describe,
                        digest=checkpoint is not None or parallel.current().size > 1)
    if found.n_counting < 2:
        raise ValueError(f"fit: X has {found.n_counting} rows of a weight above 0; at least 2 rows are needed")
    learner.n_features_in_, learner.dtype_, learner._names = found.d, found.dtype, found.names
    with (session(), parallel.current().together(),
          RunFile(checkpoint, resume, learner, (found, None, None), found.weight) as run):
        learner.stream_ = run.stream.spawn()
        learner.preprocess_ = transforms.make(None, None)
        learner._learn_blocks(found, run)
    vars(model).update(vars(learner))
    return model


def by_block(query):
    """A query of rows that takes X in blocks, too, and then gives an array of the answers for all of them."""
    @functools.wraps(query)
    def ask(self, X, *args, **kwargs):
        blocks = in_blocks(query.__name__, X)
        if blocks is None:
            return query(self, X, *args, **kwargs)
        self._check_fitted(query.__name__)
        return np.concatenate(parallel.current().map_blocks(_answer, blocks.each, _bare(self), query.__name__, args, kwargs))
    ask.__signature__ = inspect.signature(query)
    return ask


def score(model, blocks):
    """The weighted mean of log_prob over all blocks."""
    model._check_fitted("score")
    total, weight = parallel.current().sum_blocks(_score, blocks.each, _bare(model))
    if not weight:
        raise ValueError("score: X has no rows of a weight above 0; pass at least one")
    return float(total / weight)


def weight(blocks):
    """The sum of the weights of all rows."""
    return float(parallel.current().sum_blocks(_weight, blocks.each))


def _bare(model):
    """The model without what stays with whoever fits it."""
    model = copy.copy(model)
    if hasattr(model, "callbacks"):
        model.callbacks = ()
    return model


def _answer(model, name, args, kwargs, block):
    return getattr(model, name)(block.raw()[0], *args, **kwargs)


def _weights(block):
    x, weights = block.raw()
    return np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)


def _weight(block):
    return _weights(block).sum()


def _score(model, block):
    """(sum of w log p(x), sum of w)."""
    x, w = block.raw()[0], _weights(block)
    log_prob = model.log_prob(x).astype(np.float64)
    return np.array([w[w > 0] @ log_prob[w > 0], w.sum()])
