"""Laws of what a fitted model holds: the names of its columns.

Legend: n rows, d columns.
"""
import importlib
import os
import tempfile

import numpy as np

from ..models.base import load
from .law import every, law
from .subject import Skip


def _saved(model):
    """The model that comes back from a file of this one."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.npgen")
        model.save(path)
        return load(path)


def _bits(answer):
    return np.ascontiguousarray(answer).tobytes()


def _frame(s, names, x):
    """A table of these columns: pandas' where there is pandas, else what npgen takes for one."""
    try:
        return importlib.import_module("pandas").DataFrame(x, columns=names)
    except ImportError:
        if not s.is_npgen:
            raise Skip("there is no pandas to name columns with") from None
        return Table(names, x)


class Table:
    """What a DataFrame is to NumPy, and no more."""

    def __init__(self, names, x):
        self.columns, self.x, self.shape = names, x, x.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype=dtype)


@law("columns go by their names")
def names(s):
    """Rows whose columns have other names than in fit are refused; in another order they are too, or give the same answers.

    Look for a query that takes a table for an array, and for names that are not in the file.
    """
    known = getattr(s.model, "feature_names_in_", None)
    if known is None:
        raise Skip("fitted on columns without names")
    known, x, checks, models = list(known), s.x[:20], [], {"": s.model}
    if s.is_npgen:
        again = models[" of the loaded model"] = _saved(s.model)
        if list(getattr(again, "feature_names_in_", ())) != known:
            return every(("the file has other names", False))
    turned = np.roll(np.arange(s.d), 1)
    wrong = {"of other names": ([f"not {name}" for name in known], x)}
    if s.d > 1:
        wrong["in another order"] = [known[j] for j in turned], x[:, turned]
    for whose, model in models.items():
        for query in (name for name in ("log_prob", "score", "encode", "predict_proba", "elbo") if hasattr(model, name)):
            right = _bits(getattr(model, query)(_frame(s, known, x)))
            for what, (columns, values) in wrong.items():
                try:
                    answer = _bits(getattr(model, query)(_frame(s, columns, values)))
                except (ValueError, KeyError, TypeError):
                    continue
                checks += [(f"{query}{whose} answers columns {what}", answer == right and what == "in another order")]
    return every(*checks)
