"""Rows that are drawn in place of rows there are: do they agree, can they be told apart, are they copies?

Legend: n, m rows, d columns, k features.
"""
import numpy as np

from . import charts
from .bins import Bins, columns_of
from .markup import figure, join, table, tag
from .measures import classifier_auc, copies, nearest, pair_similarity, shape_similarity
from .section import Section, note

FEWEST = 20         # rows that are compared
FEATURES = 600      # of the classifier, at most


def synthetic(subject):
    """Shapes, pairs, a classifier, copies and distances of samples, of rows there are and of independent columns."""
    title, name = "Rows drawn in place of rows", "synthetic"
    half = subject.half
    if len(subject.others["real"].rows) < FEWEST:
        return Section(title, name, note(f"Too few rows to compare: {len(subject.others['real'].rows)} beside {len(half)}."))
    numbers = subject.shown
    sizes, features = [subject.coarse[j].size for j in numbers], Features(subject)
    codes, facts, far, error = subject.codes(half, numbers), {}, {}, 0.0
    for key, other in subject.others.items():
        y = other.rows
        shapes = [shape_similarity(a, b, levelled) for a, b, levelled in zip(half.T, y.T, subject.levelled, strict=True)]
        told, error = classifier_auc(features(half), features(y), subject.stream)
        far[key] = nearest(y, subject.rest, subject.levelled)
        facts[key] = {"shapes": float(np.nanmean(shapes)), "pairs": pair_similarity(codes, subject.codes(y, numbers), sizes),
                      "auc": told, "copies": float(copies(y, subject.rest).mean()), "nearest": float(np.median(far[key])),
                      "closest": float(np.quantile(far[key], 0.05))}
    rows = [(tag("td", other.words), *(figure(f"{key}.{what}", value, ".2%" if what == "copies" else ".3f")
                                       for what, value in facts[key].items())) for key, other in subject.others.items()]
    whole = np.concatenate([far[key] for key in ("real", "samples")])[:, None]
    bins = Bins(columns_of(whole, whole, ["distance"])[0], far["real"], far["samples"], some=1, count=40)
    shares, labels = {subject.others[key].words: bins.shares(far[key]) for key in ("real", "samples")}, bins.labels[:-1]
    there = np.add(*shares.values()) > 0
    labels, shares = [label for label, each in zip(labels, there, strict=True) if each], {
        key: each[there] for key, each in shares.items()}
    body = join(
        table(("beside rows", "shapes", "pairs", "classifier's AUC", "copies", "nearest, median", "nearest, 5%"), rows),
        tag("ul", *(tag("li", text) for text in _notes(subject, features, error) if text)),
        tag("figure", charts.legend(shares), charts.bars(labels, shares, wide=True),
            tag("figcaption", "distance from the nearest row, in intervals"), class_="broad"))
    return Section(title, name, body, facts | {"auc_error": error})


def _notes(subject, features, error):
    """What the figures are, and what they do not say."""
    return (
        f"{len(subject.half):,} rows beside {len(subject.others['real'].rows):,} of each line. No model does better than rows "
        "there are; one that knows of no dependence is as good as independent columns.",
        "Shapes and pairs: the mean agreement of columns, and of the tables of shares of pairs of columns, in some ten bins "
        "each; 1 is the same.",
        f"Classifier: {features.words} AUC 0.5 is a coin, with a standard error of {error:.3f}; 1 tells every row. It is asked "
        "about rows that it was not fitted to. Where it fails, a stronger one may not.",
        f"Copies: the part of the rows that are, cell by cell, among {len(subject.rest):,} rows there are. Nearest: how far "
        "the nearest of these is, the root of a sum over columns: of numbers the difference over the standard deviation, "
        "squared, and 1 where levels differ. Samples much nearer than other rows repeat what the model was fitted to; samples "
        "that are not say nothing of the privacy of who is in the rows.",
        subject.holes and "The model draws no missing cells; its samples miss here what the rows beside them miss.",
        "The rows held out were given beside the others." if subject.held is not None else
        "If the model was fitted to all of these rows, the other half is no test of it: give rows that it has not seen as "
        "holdout.")


class Features:
    """Rows as the classifier sees them, (n, k): numbers within three quartiles of the median, and which bin a cell is in."""

    def __init__(self, subject):
        self._bins, self._levelled = subject.coarse, subject.levelled
        self._columns = np.arange(len(subject.columns))
        self._in_bins = sum(bins.size for bins in self._bins) <= FEATURES
        if not self._in_bins:
            self._columns = np.unique(np.linspace(0, len(self._columns) - 1, min(len(self._columns), FEATURES)).astype(int))
        some = subject.x[subject.some][:, self._columns]
        some = np.where(np.isnan(some).all(axis=0), 0, some)
        self._low, self._middle, self._high = np.nanquantile(some, [0.25, 0.5, 0.75], axis=0)

    @property
    def words(self):
        what = "numbers and bins" if self._in_bins else f"the numbers in {len(self._columns)} columns"
        return f"a network of one hidden layer, fitted by Adam to {what} of half of the rows."

    def __call__(self, x):
        z = (x[:, self._columns] - self._middle) / np.where(self._high > self._low, self._high - self._low, 1)
        z = np.clip(np.nan_to_num(z), -3, 3)[:, ~self._levelled[self._columns] if self._in_bins else slice(None)]
        if not self._in_bins:
            return z
        return np.concatenate([z, *(np.eye(bins.size)[bins(column)] for bins, column in zip(self._bins, x.T, strict=True))],
                              axis=1)
