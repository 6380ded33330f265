"""A page about a fitted model beside rows: what was fitted, columns, pairs, odd rows, a map, samples and how good they are.

    markup, charts, section, page    HTML that is escaped by how it is made, SVG and PNG, the page
    bins, measures                   values told apart, and how rows that are drawn differ from rows there are
    subject                          the rows that are compared
    fitted, columns, rows, synthetic sections of the page
"""
import dataclasses

import numpy as np

from .. import checkpoint
from . import columns, fitted, rows, synthetic
from .page import page
from .subject import Subject

__all__ = ["Report", "report"]


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """A page, one self-contained file of html, and the figures on it: facts {name: a number, or a list or dict of some}."""

    html: str
    facts: dict

    def __repr__(self):
        return f"<Report on {self.facts['rows']:,} rows, {len(self.html):,} characters of HTML; save(path) writes it>"

    def save(self, path):
        """Write the page; what is there stays until it is whole."""
        with checkpoint.replacing(path) as file:
            file.write(self.html.encode("utf-8"))


def report(model, X, *, context=None, holdout=None, n_rows=10, seed=0):
    """A Report on a fitted model beside rows X (n, d): npgen.report(model, X).save("report.html").

    What was fitted and how it went; every column, and pairs of columns, of rows beside samples; the n_rows rows with the lowest
    density, and why; a map of the representation; samples; and how well these stand for the rows, beside the two lines that
    any model lies between: half of the rows against the other half, and columns that are independent.

    X: as the model's queries take it, a DataFrame where it was fitted on one. context: that of the rows, of a model that has
    one. holdout: rows that the model has not seen, in place of half of X in what is compared. Of more than 20,000 rows as many
    are looked at, and of more than 5,000 as many compared, fewer of more than 200 columns, drawn by seed: the same seed gives
    the same page.
    Raises TypeError for what is no fitted model, ValueError for rows that are not of its columns, and as queries do.
    """
    if isinstance(n_rows, bool) or not isinstance(n_rows, int) or n_rows < 0:
        raise ValueError(f"report: n_rows must be a number of rows, 0 for none, got {n_rows!r}")
    with np.errstate(over="ignore"):  # what is beyond numbers is shown as infinite
        return _made(Subject(model, X, context, holdout, seed), n_rows)


def _made(subject, n_rows):
    sections = (fitted.fitted(subject), fitted.schema(subject), fitted.density(subject), rows.samples(subject),
                columns.columns(subject), columns.pairs(subject), rows.lowest(subject, n_rows), rows.representation(subject),
                synthetic.synthetic(subject))
    facts = {"rows": subject.given, "looked_at": len(subject.x), "compared": len(subject.some)}
    for section in sections:
        facts |= section.facts
    return Report(page(subject, sections, facts), facts)
