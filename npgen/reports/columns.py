"""Every column of the rows beside the model's, and pairs of columns.

Legend: d columns.
"""
import json

import numpy as np

from . import charts
from .bins import Bins
from .markup import LONG, figure, folded, join, number, short, table, tag
from .measures import associations, joint
from .section import Section, note
from .subject import SHOWN

LISTED = 12         # pairs of columns
PICTURES = 6        # of them, whose tables are drawn


def columns(subject):
    """A chart for each column, and how far rows and samples agree in it."""
    found, numbers, x = subject.similarity, subject.shown, subject.x[subject.some]
    rows = [(tag("td", tag("a", short(subject.columns[j].name), href=f"#column-{j}")), subject.columns[j].kind,
             figure(f"columns.{j}", found[j]), *(number(np.isnan(each[:, j]).mean(), ".1%") for each in (x, subject.drawn)))
            for j in numbers]
    body = join(
        note(f"{len(x):,} of the rows beside as many samples. Agreement: 1 is the same distribution; of levels 1 less half the "
             "sum of the differences of shares, of numbers 1 less the largest difference of the distribution functions. "
             "A number that a tenth of the rows are has a bar of its own, on the left."),
        note(f"The {SHOWN} of {len(found):,} columns that agree least.") if len(found) > SHOWN else None,
        folded(f"{len(rows)} columns", table(("column", "kind", "agreement", "missing in rows", "in samples"), rows,
                                             class_="sort"), len(rows) > LONG),
        tag("p", tag("input", id="filter", type="search", placeholder="name of a column", aria_label="name of a column"),
            class_="script"),
        charts.legend(("rows", "samples")), tag("div", *(_chart(subject, j, found[j]) for j in numbers), class_="grid"))
    names = [column.name for column in subject.columns]
    return Section("Columns, rows beside samples", "columns", body,
                   {"columns": dict(zip(names, found.tolist(), strict=True)), "shown": [names[j] for j in numbers]})


def _chart(subject, j, similarity):
    column, bins = subject.columns[j], subject.fine[j]
    shares = {"rows": bins.shares(subject.x[subject.some, j]), "samples": bins.shares(subject.drawn[:, j])}
    there, more = np.flatnonzero(shares["rows"] + shares["samples"]), ""
    if column.levels is not None and len(there) and there[-1] == len(bins.values):  # a bar of all others would dwarf the rest
        more = f", other levels: {shares['rows'][-1]:.1%} of rows, {shares['samples'][-1]:.1%} of samples"
        there = there[:-1]
    if column.kind == "category":
        there = there[np.argsort(-shares["rows"][there], kind="stable")]
    alone = 0
    if column.levels is None and len(there) and there[-1] >= len(bins.values):
        values, between = np.split(there, [np.searchsorted(there, len(bins.values))])
        alone, there = len(values), np.concatenate([values, np.arange(between[0], between[-1] + 1)])  # the axis has no gaps
    labels, shares = [bins.labels[i] for i in there], {name: each[there] for name, each in shares.items()}
    if not labels:
        chart = tag("p", "no values")
    elif column.levels is not None:
        chart = charts.levels(labels, shares)
    else:
        chart = charts.bars(labels, shares, alone=alone)
        more = f"; on the left {', '.join(labels[:alone])}" if alone else ""
    return tag("figure", tag("h3", short(column.name)), chart,
               tag("figcaption", f"{column.kind}, agreement {number(similarity, '.3f')}{more}"), id=f"column-{j}",
               data_name=short(column.name, 200).lower())


def pairs(subject):
    """How much columns say of one another, in the rows and in samples, and the pairs that differ most."""
    numbers = subject.shown
    if len(numbers) < 2:
        return Section("Pairs of columns", "pairs", note("There is one column alone."), {"pairs": []})
    x, drawn = subject.x[subject.some], subject.beside
    sizes = [subject.coarse[j].size for j in numbers]
    real, model = (associations(subject.codes(rows, numbers), sizes) for rows in (x, drawn))
    below = [(i, j) for i in range(len(numbers)) for j in range(i)]
    below.sort(key=lambda pair: -abs(real[pair] - model[pair]))
    names = [short(subject.columns[j].name) for j in numbers]
    facts = [(*(subject.columns[numbers[k]].name for k in (j, i)), float(real[i, j]), float(model[i, j]))
             for i, j in below[:LISTED]]
    rows = [(short(a), short(b), figure(f"pairs.{k}.2", p), figure(f"pairs.{k}.3", q), number(q - p, "+.3f"))
            for k, (a, b, p, q) in enumerate(facts)]
    matrices = [tag("figure", charts.heat(np.where(np.eye(len(each)), np.nan, each)[::-1], f"association, {words}", 1,
                                          data_matrix=""), tag("figcaption", words))
                for words, each in (("rows", real), ("samples", model))]
    body = join(
        note("Association: from 0, where one column says nothing of the other, up to 1; of normal columns the absolute value "
             "of their correlation. It is sqrt(1 - exp(-2 I)), I the nats that the columns share, in some ten bins of each. "
             f"In the order of the columns{', those with charts' if len(numbers) < len(subject.columns) else ''}; light is 0, "
             "dark 1."),
        tag("div", *matrices, class_="two", id="matrices", data_names=json.dumps(names),
            data_real=json.dumps(np.rint(100 * real).astype(int).ravel().tolist(), separators=(",", ":")),
            data_model=json.dumps(np.rint(100 * model).astype(int).ravel().tolist(), separators=(",", ":"))),
        tag("p", "Point at a cell, or tap it.", id="pair", class_="script", aria_live="polite"),
        tag("h3", "The pairs that differ most"),
        table(("column", "and", "rows", "samples", "difference"), rows, class_="sort"),
        tag("div", *(_tables(subject, numbers[j], numbers[i]) for i, j in below[:PICTURES]), class_="grid tables"))
    return Section("Pairs of columns", "pairs", body, {"pairs": facts})


def _tables(subject, i, j):
    """The shares of pairs of bins, as pictures."""
    bins = [Bins(subject.columns[k], subject.x[subject.some, k], subject.drawn[:, k], some=24, count=24) for k in (i, j)]
    shares = [joint(*(each(rows[:, k]) for each, k in zip(bins, (i, j), strict=True)), [each.size for each in bins])
              for rows in (subject.x[subject.some], subject.beside)]
    there = [sum(each.sum(axis=axis) for each in shares) > 0 for axis in (1, 0)]
    shares = [each[there[0]][:, there[1]] for each in shares]
    first, second = ([label for label, each in zip(every.labels, some, strict=True) if each] for every, some in
                     zip(bins, there, strict=True))
    names, most = [short(subject.columns[k].name) for k in (i, j)], max(each.max() for each in shares)
    across, up = (f"{name}: {short(labels[0], 24)} … {short(labels[-1], 24)}" for name, labels in zip(names, (first, second),
                                                                                                    strict=True))
    return tag("details", tag("summary", f"{names[0]} and {names[1]}"), tag("div", *(
        tag("figure", charts.heat(np.sqrt(each.T), f"{names[0]} and {names[1]}, {words}", np.sqrt(most)),
            tag("figcaption", words)) for words, each in zip(("rows", "samples"), shares, strict=True)), class_="two"),
        note("Across, ", across, "; upwards, ", up, ". The darker, the more rows, by the square root."), open="")
