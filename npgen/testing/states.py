"""Laws of what a fitted model holds: queries leave it alone, its attributes are what it answers with, columns have names.

Legend: n rows, d columns.
"""
import contextlib
import copy
import importlib
import inspect

import numpy as np

from ..data import Table
from ..kernels._cuda import asnumpy
from .law import every, law
from .subject import Skip, loaded

QUERIES = {  # what is asked of a model and its rows; a query that is refused has to leave the model alone as well
    "log_prob": lambda model, x: model.log_prob(x),
    "log_prob of NaN": lambda model, x: model.log_prob(x * np.nan),
    "log_prob of infinities": lambda model, x: model.log_prob(x + np.inf),
    "log_prob of another width": lambda model, x: model.log_prob(x[:, 1:]),
    "score": lambda model, x: model.score(x),
    "score_samples": lambda model, x: model.score_samples(x),
    "sample with a seed": lambda model, x: model.sample(9, rng=1),
    "sample_and_log_prob with a seed": lambda model, x: model.sample_and_log_prob(9, rng=1),
    "encode": lambda model, x: model.encode(x),
    "decode": lambda model, x: model.decode(model.encode(x)),
    "predict": lambda model, x: model.predict(x),
    "predict a column": lambda model, x: model.predict(x, 0),
    "explain": lambda model, x: model.explain(x),
    "predict_proba": lambda model, x: model.predict_proba(x),
    "elbo": lambda model, x: model.elbo(x),
    "importance_log_prob": lambda model, x: model.importance_log_prob(x, n_importance=3),
    "free_energy": lambda model, x: model.free_energy(x),
    "aic": lambda model, x: model.aic(x),
    "bic": lambda model, x: model.bic(x),
    "impute": lambda model, x: model.impute(_holes(x)),
    "impute with a seed": lambda model, x: model.impute(_holes(x), rng=1),
    "marginal": lambda model, x: model.marginal([0]),
    "sample of a marginal": lambda model, x: model.marginal([0]).sample(9),
    "condition": lambda model, x: model.condition([0], x[0, :1]),
    "condition of rows": lambda model, x: model.condition([0], x[:, :1]),
    "sample of a condition": lambda model, x: model.condition([0], x[0, :1]).sample(9),
    "capabilities": lambda model, x: model.capabilities,
    "get_params": lambda model, x: model.get_params(),
    "repr": lambda model, x: repr(model),
    "save": lambda model, x: loaded(model),
}


def _holes(x):
    """x with a missing value in every row."""
    return np.where(np.arange(x.shape[1]) == np.arange(len(x))[:, None] % x.shape[1], np.nan, x)


def _bits(answer):
    return asnumpy(answer).tobytes()


def _twin(model):
    """A copy that shares nothing with the model."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise Skip(f"the model cannot be copied ({type(error).__name__})") from None


@law("queries change nothing")
def queries(s):
    """What a model would write to a file, its own stream included, is the same before and after every query; of a model that
    is not npgen's, what a copy would answer and draw next. Rows are not written to.

    Look for a query that draws from the model's own stream, writes to an array that it shares, or keeps something.
    """
    model, x = s.model, s.x[:8]

    def answers(model):
        return {query: _bits(answer) for query, answer in s.answers(x.copy(), model).items()}

    def state(model=model):
        if s.is_npgen:
            arrays, fitted = model.state()
            return {name: _bits(a) for name, a in arrays.items()} | {name: repr(value) for name, value in fitted.items()} | {
                "hyperparameters": repr(model.get_params()), "the model's own stream": repr(model.stream_.state())}
        twin = _twin(model)
        return answers(twin) | {"sample": _bits(twin.sample(9))}

    def by_chance(ask):
        """Whether a copy shares a stream: else, ten times of ten, it draws alike until it was asked. Chance: 4^-10."""
        for _ in range(10):
            twin = _twin(fresh)
            states = [state(twin), state(twin)]
            ask(twin, x.copy())
            if not states[0] == states[1] != state(twin):
                return True
        return False

    fresh = None if s.is_npgen else _twin(model)
    first, before, checks = answers(model), state(), []
    if state() != before:
        raise Skip("a copy of the model does not draw as the model does")
    for name, ask in QUERIES.items() if s.is_npgen else [(query, QUERIES[query]) for query in s.queries]:
        rows = x.copy()
        try:
            ask(model, rows)
        except Exception:  # refused, or there is none
            pass
        after = state()
        if after != before and not s.is_npgen and by_chance(ask):
            raise Skip("a copy of the model does not draw as the model does")
        checks += [(f"{name} changes {', '.join(key for key in before if before[key] != after.get(key))}", after == before),
                   (f"{name} writes to its rows", _bits(rows) == _bits(x))]
        before = after
    last = answers(model)
    return every(*checks, *((f"{query} of the same rows is another afterwards", last[query] == first[query]) for query in last))


def _arrays(s):
    """The public fitted arrays, and those in fitted lists: (name, place in the list or None); of npgen's, the documented."""
    model, documented = s.model, inspect.getdoc(type(s.model)) or ""
    for name in dir(model):
        if name.endswith("_") and not name.startswith("_") and (name in documented or not s.is_npgen):
            try:
                value = getattr(model, name)
            except AttributeError:  # there is none for this model
                continue
            if isinstance(value, np.ndarray):
                yield name, None
            elif isinstance(value, (list, tuple)) and value and all(isinstance(a, np.ndarray) for a in value):
                yield from ((name, i) for i in range(len(value)))


def _get(model, name, i):
    value = getattr(model, name)
    return value if i is None else value[i]


def _other(value):
    """Other numbers of the same kind: in another order, or, if that is the same or there is one only, larger by a half."""
    larger = value * 1.5 if value.dtype.kind == "f" and not np.allclose(value.sum(-1), 1) else value
    return next((new for new in (value[::-1], value[..., ::-1], larger) if not np.array_equal(new, value)), value).copy()


def _written(model, name, i, how):
    """A copy of the model with other numbers in an attribute, or None where they are refused, or do not get there."""
    twin = _twin(model)
    value = _get(twin, name, i)
    if value.ndim == 0 or not value.size or value.dtype == object or np.shares_memory(value, _get(model, name, i)):
        return None
    new = _other(value)
    try:
        if how == "written to":
            value[...] = new
        else:
            whole = new if i is None else [new if k == i else a for k, a in enumerate(getattr(twin, name))]
            setattr(twin, name, whole)
    except (ValueError, TypeError, AttributeError):
        return None
    same = _bits(_get(twin, name, i)) == _bits(_get(model, name, i))
    return None if same else twin


@law("attributes are what the model answers with")
def attributes(s):
    """A documented array refuses to be changed; or log_prob, encode, sample and the file that save writes all follow, or none
    does.

    Look for two copies of one number, of which each query reads another: what is derived from parameters is read-only.
    """
    model, x, halves = s.model, s.x[:20], []
    z = model.encode(x) if s.represents else None

    def answers(twin):
        """The bits of what it answers to rows and draws, or None where it refuses to."""
        try:
            drawn = twin.sample(20, rng=1) if s.takes_rng else twin.sample(20)
            decoded = {"decode": _bits(twin.decode(z))} if s.represents else {}
            return {query: _bits(answer) for query, answer in s.answers(x, twin).items()} | {"sample": _bits(drawn)} | decoded
        except Exception:
            return None

    before = answers(_twin(model))
    if before is None or answers(_twin(model)) != before:
        raise Skip("a copy of the model does not draw as the model does")
    for name, i in _arrays(s):
        for how in ("written to", "set"):
            twin = _written(model, name, i, how)
            after = None if twin is None else answers(twin)
            if after is None:
                continue
            follows = {query: after[query] != before[query] for query in before}
            if s.is_npgen:
                with contextlib.suppress(TypeError):  # where there are no files of such a model
                    its = answers(loaded(twin))
                    follows["the file"] = its != before if after == before else its == after
            if any(follows.values()) != all(follows[what] for what in follows if what != "decode"):
                halves.append(f"{name} can be {how}, and {' and '.join(what for what in follows if follows[what])} follows")
    if halves and not s.is_npgen:
        raise Skip(f"what others' attributes mean is theirs to say ({halves[0]})")
    return every(*((half, False) for half in halves))


def _frame(s, names, x):
    """A table of these columns: pandas' where there is pandas, else what npgen takes for one."""
    try:
        return importlib.import_module("pandas").DataFrame(x, columns=names)
    except ImportError:
        if not s.is_npgen:
            raise Skip("there is no pandas to name columns with") from None
        return Table(x, names)


def _takes_rows_alone(model, query):
    """Whether the model has such a query, which needs no more than rows: a classifier's score needs labels."""
    parameters = inspect.signature(getattr(model, query)).parameters.values() if hasattr(model, query) else ()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) == 1


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
        again = models[" of the loaded model"] = loaded(s.model)
        if list(getattr(again, "feature_names_in_", ())) != known:
            return every(("the file has other names", False))
    turned = np.roll(np.arange(s.d), 1)
    wrong = {"of other names": ([f"not {name}" for name in known], x)}
    if s.d > 1:
        wrong["in another order"] = [known[j] for j in turned], x[:, turned]
    for whose, model in models.items():
        for query in (name for name in (*s.queries, "score", "predict_proba", "elbo") if _takes_rows_alone(model, name)):
            right = _bits(getattr(model, query)(_frame(s, known, x)))
            for what, (columns, values) in wrong.items():
                try:
                    answer = _bits(getattr(model, query)(_frame(s, columns, values)))
                except (ValueError, KeyError, TypeError):
                    continue
                checks += [(f"{query}{whose} answers columns {what}", answer == right and what == "in another order")]
    return every(*checks)
