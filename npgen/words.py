"""A fitted model in words: what it is, how long it was fitted, and to what.

Legend: d columns.
"""
import math

from .transforms import Chain, Columns


def describe(model):
    head, preprocessing = getattr(model, "head_", None), getattr(model, "preprocess_", None)
    space = _maps(preprocessing) if preprocessing else "none"
    return f"{type(model).__name__}, {f'{head.name} head, ' if head else ''}preprocessing: {space}"


def _maps(preprocessing):
    """A map in words."""
    if isinstance(preprocessing, Columns):
        return " and ".join(f"{_maps(part)} of {len(columns)}" for part, columns in
                            zip(preprocessing.maps, preprocessing.columns, strict=True)) + " columns"
    if isinstance(preprocessing, Chain):
        return " + ".join(map(_maps, preprocessing.steps)) or "none"
    return type(preprocessing).__name__.lower()


def training(model, x=None):
    """Rows of a table: how long the model was fitted, and to what."""
    history, d, normalised = getattr(model, "history_", None), model.n_features_in_, not hasattr(model, "normaliser")
    if history:
        best = min(history, key=lambda e: e["train_nats"] if e["valid_nats"] is None else e["valid_nats"])
        em = "learning_rate" not in best  # which keeps what it ends with
        if em or not normalised and best["valid_nats"] is None:  # a contrast tells no epoch from another
            best = history[-1]
        yield f"{passes(model)}s", f"{history[-1]['epoch']}" + ("" if em else f", best {best['epoch']}")
        for name, part in (("train_nats", "fitted"), ("valid_nats", "held out")):
            if best[name] is not None and (model.capabilities.density == "none" or not model.inner().by_likelihood):
                yield part, f"loss {best[name]:.4f}"
            elif best[name] is not None and (normalised or name == "valid_nats"):
                yield part, f"{-best[name]:.4f} nats per row, {bits(-best[name], d):.4f} bits per dimension"
    if x is not None and not (history and normalised):
        nats = model.score(x)
        yield "fitted", f"{nats:.4f} nats per row, {bits(nats, d):.4f} bits per dimension"
    if not normalised:
        yield "log Z", model.normaliser


def passes(model):
    return "iteration" if hasattr(model, "n_iter_") else "epoch"


def bits(nats, n_columns):
    return -nats / (n_columns * math.log(2))


def count(n, noun):
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
