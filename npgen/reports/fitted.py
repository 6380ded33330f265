"""What was fitted and how it went: the model, its curve, the schema; log-densities of rows and of what it draws."""
import math

import numpy as np

from ..words import describe, training
from . import charts
from .bins import Bins, columns_of
from .markup import LONG, figure, folded, join, short, table, tag
from .section import Section, note

LISTED = 300        # columns of the schema, at most
DENSITIES = {"exact": "log p(x) is exact.", "bound": "What stands for log p(x) is a lower bound on it.",
             "estimate": "log p(x) is estimated.", "none": "This model draws rows, and has no density."}


def fitted(subject):
    """The model in words, and its loss over the epochs."""
    model = subject.model
    rows = [("model", describe(model)), ("columns", f"{len(subject.columns):,}"), ("parameters", f"{model.n_parameters_:,}"),
            ("density", DENSITIES[model.capabilities.density]), ("representation", model.capabilities.representation),
            *training(model)]
    parts = [table(("what", "is"), [(name, tag("td", short(value, 300))) for name, value in rows])]
    if history := getattr(model, "history_", None):
        by_likelihood = model.capabilities.density != "none" and model.inner().by_likelihood
        sign, up = (-1, "nats a row") if by_likelihood else (1, "loss")
        epochs = [entry["epoch"] for entry in history]
        series = {words: (epochs, [math.nan if entry[key] is None else sign * entry[key] for entry in history])
                  for key, words in (("train_nats", "rows of the fit"), ("valid_nats", "rows held out in it"))
                  if any(entry[key] is not None for entry in history)}
        parts.append(charts.curves(series, "iteration" if hasattr(model, "n_iter_") else "epoch", up))
    return Section("What was fitted", "fitted", join(*parts), {"model": type(model).__name__})


def schema(subject):
    """The columns: kinds, what is known of them, and what the density of each is with respect to."""
    model, columns = subject.model, subject.columns
    all_columns = columns if model.schema_ is None else model.schema_.columns
    measures = dict(zip(model.schema_.names, model.measures_, strict=True)) if model.schema_ is not None else {}
    head = ("column", "kind", *(("dtype", "measure") if measures else ()), "what is known")
    rows = [(short(column.name), column.kind, *(
        (column.native.dtype.partition("<")[0], measures.get(column.name, "not modelled")) if measures else ()),
        short(column.words(), 200)) for column in all_columns[:LISTED]]
    return Section("Columns", "schema", join(
        folded(f"{len(all_columns):,} columns", table(head, rows), len(rows) > LONG),
        note("Of a measure: counting, of levels and whole numbers; length, in the column's unit.") if measures else None,
        note(f"The first {LISTED} of {len(all_columns):,}.") if len(all_columns) > LISTED else None))


def density(subject):
    """The mean log-density of the rows, and its distribution beside that of samples; of a model without one, its distance."""
    drawn, some = subject.drawn, subject.some
    if not subject.has_density:
        distance = -float(subject.ask("score", subject.x[some], some))
        return Section("Density", "density", join(
            note(DENSITIES["none"], " In its place: the energy distance between the rows and rows that it draws."),
            table(("", ""), [("energy distance", figure("energy_distance", distance, ".4f"))])), {"energy_distance": distance})
    nats = {"rows": subject.nats, "samples": subject.ask("log_prob", drawn, some)}
    if subject.held is not None and subject.model.context_ is None:
        nats["held out"] = subject.ask("log_prob", subject.held)
    facts, rows = {}, []
    for (name, values), key in zip(nats.items(), ("log_prob", "samples_log_prob", "held_log_prob"), strict=False):
        error = values.std(ddof=1) / math.sqrt(len(values))
        facts |= {key: float(values.mean()), f"{key}_error": float(error)}
        rows.append((name, f"{len(values):,}", figure(key, values.mean(), ".4f"), figure(f"{key}_error", error, ".4f")))
    finite = {name: values[np.isfinite(values)] for name, values in nats.items()}
    whole = np.concatenate(list(finite.values()))[:, None]
    bins = Bins(columns_of(whole, whole, ["log p(x)"])[0], finite["rows"], finite["samples"], some=1, count=40)
    holes = "" if np.isnan(subject.drawn).any() or not np.isnan(subject.x).any() else (
        " Of a row with missing cells it is the density of the others, which are fewer: it lies further right.")
    labels, shares = bins.labels[:-1], {name: bins.shares(values) for name, values in finite.items()}
    chart = charts.bars(labels, shares, wide=True)
    return Section("Density", "density", join(
        table(("", "rows", "mean log p(x), nats", "standard error"), rows),
        tag("figure", charts.legend(shares), chart, tag("figcaption", "log p(x), nats, in intervals"), class_="broad"),
        note(DENSITIES[subject.model.capabilities.density], " Where a model is right, the rows and what it draws have the same "
             "distribution of log p(x); rows to the left of all samples are those that it holds impossible.", holes)), facts)
