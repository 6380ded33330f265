"""Models and rows in blocks (data.blocks): fits by sums over blocks, and queries that are answered block by block.

Workers read the rows (parallel.py); here are the sums of a fit, and the answers of a query.
"""
import copy
import functools
import inspect

import numpy as np

from .. import parallel, transforms
from ..checks import with_article
from ..kernels import session
from ..random import as_stream
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
        raise TypeError(f"fit: X comes in blocks, of which EM alone can learn, and {with_article(model)} is fitted "
                        "otherwise; pass an array")
    learner = copy.copy(model)  # a fit that fails leaves this model alone
    learner.schema_ = learner._found = None

    def describe(frame):
        x = learner._take_frame(frame, columns)
        return learner.schema_, x.rows.dtype

    if columns is not None and not blocks.framed:
        raise ValueError("fit: columns say what a DataFrame has, but X is none; leave them out")
    found = blocks.look("fit", dtype=model._default_dtype, missing=model.takes_missing, describe=describe,
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
    """A query of rows that takes X in blocks, too, and then gives the answers for all of them: an array or a DataFrame.

    Of a Dask collection they are one of Dask's, whose blocks are computed where and when they are asked for.
    """
    @functools.wraps(query)
    def ask(self, X, *args, **kwargs):
        blocks = in_blocks(query.__name__, X)
        if blocks is None or kwargs.get("n") is not None:  # so many answers, each of which is asked for
            return query(self, X, *args, **kwargs)
        self._check_fitted(query.__name__)
        if kwargs.get("rng") is not None:
            kwargs["rng"] = as_stream(kwargs["rng"]).spawn()
        how = _bare(self), query.__name__, args, kwargs
        if blocks.like is not None:
            return _lazily(blocks, how)
        from ..data import frames
        parts = parallel.current().map_blocks(_answer, blocks.each, *how)
        return frames.joined(parts) if frames.library_of(parts[0]) else np.concatenate(parts)
    ask.__signature__ = inspect.signature(query)
    return ask


def _lazily(blocks, how):
    """A Dask array or DataFrame of the answers for blocks of Dask's. A wrong question is refused at once, of no rows."""
    from dask import delayed

    from ..data import frames
    from ..data.blocks import InMemory
    empty, of_all = _answer(*how, InMemory(blocks.like, None)), delayed(how, traverse=False)
    parts = [delayed(_answer_alone)(of_all, block.lazy()) for block in blocks.each]
    if frames.library_of(empty):
        import dask.dataframe as dd
        return dd.from_delayed(parts, meta=empty, verify_meta=False)
    import dask.array as da
    return da.concatenate([da.from_delayed(part, (n, *empty.shape[1:]), meta=empty)
                           for part, n in zip(parts, blocks.lengths, strict=True)])


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
    if kwargs.get("rng") is not None:  # a stream of its own for each block
        kwargs = kwargs | {"rng": np.random.SeedSequence([*kwargs["rng"].state().values(), block.number])}
    return getattr(model, name)(block.raw()[0], *args, **kwargs)


def _answer_alone(how, block):
    return parallel.on_one_thread(_answer, how, block)


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
