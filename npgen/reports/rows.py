"""Rows: those of the lowest density and why, rows that are drawn, and a map of the representation.

Legend: n rows, d columns, l columns of the representation, k rows shown.
"""
import numpy as np

from ..plot import image_shape
from . import charts
from .markup import figure, join, number, short, table, tag
from .section import Section, note

TYPICAL = 1000      # rows that say how surprising a cell of a column usually is
WHY = 5             # columns that are named for a row
CELLS = 60          # of a row, at most
WIDE = 200          # columns that explain is asked for, at most
FAR = 1e6           # nats that stand for more
DRAWN = 10          # rows in the table of samples
PICTURES = 48       # images of rows, at most, and
PIXELS = 120_000    # values in them, of each of rows and samples
GRID = 32           # cells of the map, each way
MAPS = 12           # columns that the map is coloured by


def lowest(subject, k):
    """The k rows with the lowest density, and the cells that are to blame."""
    title, name = "Rows with the lowest density", "lowest"
    if not subject.has_density:
        return Section(title, name, note("This model has no density, by which a row is unlikely."))
    if not k:
        return Section(title, name, note("Not asked for."))
    order = np.argsort(subject.nats, kind="stable")[:k]
    (surprise, how), (shape, scale) = surprises(subject, order), _images(subject)
    rows, facts = [], []
    for i, each in zip(order, surprise, strict=True):
        j = [j for j in np.argsort(-np.nan_to_num(each, nan=-np.inf), kind="stable")[:WHY] if each[j] > 0]
        blame = [join(tag("a", short(subject.columns[c].name), href=f"#column-{c}"), " = ",
                      tag("b", short(subject.cell(c, subject.x[i, c]))), f" ({number(each[c], '+.2f')})") for c in j]
        cells = join(*(join(short(column.name, 24), " = ", short(subject.cell(c, subject.x[i, c]), 24), ". ")
                       for c, column in enumerate(subject.columns[:CELLS])))
        small = shape and k * len(subject.columns) <= PIXELS
        picture = tag("div", _pictures(scale(subject.x[[i]]), shape, "row"), class_="row") if small else None
        rows.append((f"{subject.of[i] + 1:,}", figure(f"lowest.{len(facts)}.1", subject.nats[i]),
                     join(*(tag("div", part) for part in blame)) or "no cell alone",
                     join(picture, tag("details", tag("summary", "the row"), cells))))
        facts.append((int(subject.of[i]), float(subject.nats[i])))
    looked = len(subject.x)
    return Section(title, name, join(
        note(f"Of {looked:,} rows{f', drawn at random from the {subject.given:,}' if looked < subject.given else ''}; counted "
             f"from 1. Behind a cell, in nats, how much more surprising it is than the column's usual one, {how}."),
        table(("row", "log p(x), nats", "why", ""), rows, class_="sort")), {"lowest": facts})


def surprises(subject, order):
    """How much more surprising the cells of rows `order` of x are than the column's median one, (k, d) nats, and by what."""
    typical = subject.some[:TYPICAL]
    both = np.concatenate([order, typical])
    nats, how = _explained(subject, both), "given other cells of the row, by the model's explain"
    if nats is None:
        how = "by how often the column has values like it in samples"
        nats = np.stack([-np.log(_share(bins(drawn), bins(x), bins.size)) for bins, drawn, x in
                         zip(subject.coarse, subject.drawn.T, subject.x[both].T, strict=True)], axis=1)
        nats[np.isnan(subject.x[both])] = np.nan
    nats = np.clip(np.where(np.isnan(nats), -FAR, nats), -FAR, FAR)  # what is missing surprises nobody
    return nats[:len(order)] - np.median(nats[len(order):], axis=0), how


def _explained(subject, both):
    """Minus what the model's explain says of these rows (k, d), None where it has none, or of too many columns."""
    if not hasattr(subject.model, "explain") or len(subject.columns) > WIDE:
        return None
    try:
        return -subject.ask("explain", subject.x[both], both)
    except ValueError:  # of several orders there is none
        return None


def _share(codes, of, size):
    """The shares of bins `of` (n,) among codes (m,), half a row added to each."""
    counts = np.bincount(codes, minlength=size) + 0.5
    return counts[of] / counts.sum()


def samples(subject):
    """Some rows that the model draws: pictures of images, else a table."""
    shape, scale = _images(subject)
    if shape:
        many = min(PICTURES, PIXELS // len(subject.columns))
        rows = subject.x[subject.some[:many]], subject.drawn[:many]
        grids = [tag("figure", _pictures(scale(each), shape, words), tag("figcaption", words))
                 for each, words in zip(rows, ("rows", "samples"), strict=True)]
        return Section("Samples", "samples", join(note("Every row is an image."), tag("div", *grids, class_="two")))
    head = [short(column.name, 24) for column in subject.columns[:CELLS // 3]]
    rows = [[short(subject.cell(j, value)) for j, value in enumerate(row[:CELLS // 3])] for row in subject.drawn[:DRAWN]]
    more = len(subject.columns) - len(head)
    return Section("Samples", "samples", join(table(head, rows), note(f"And {more:,} more columns.") if more else None))


def _images(subject):
    """The shape of the images that rows are, None if they are none, and what maps their values to 0 to 1."""
    d = len(subject.columns)
    shape = image_shape(d) if subject.names is None and 4 * d <= PIXELS else None
    low, high = (np.nanmin(subject.x), np.nanmax(subject.x)) if shape else (0, 1)
    return shape, lambda rows: (rows - low) / ((high - low) or 1)


def _pictures(rows, shape, words):
    """A grid of images, values from 0 to 1, of which grey ones are dark where the values are large."""
    height, width, *colours = shape
    side = int(np.ceil(np.sqrt(len(rows))))
    canvas = np.full((-(-len(rows) // side) * (height + 1) + 1, side * (width + 1) + 1, 3), 0.85)
    for i, row in enumerate(np.clip(np.nan_to_num(rows), 0, 1)):
        top, left = i // side * (height + 1) + 1, i % side * (width + 1) + 1
        canvas[top:top + height, left:left + width] = row.reshape(shape) if colours else 1 - row.reshape(height, width, 1)
    return charts.picture(np.rint(255 * canvas), f"{len(rows)} {words} as images", class_="heat")


def representation(subject):
    """The rows and samples on a map: the first two principal components of what encode gives."""
    title, name, what = "Map of the representation", "map", subject.model.capabilities.representation
    if what == "none":
        return Section(title, name, note("This model has no representation."))
    x = subject.x[subject.some]
    codes = [_finite(subject.ask("encode", rows, subject.some)) for rows in (x, subject.drawn)]
    if min(map(len, codes)) < 2:
        return Section(title, name, note("The representation is not finite."))
    centre = codes[0].mean(axis=0)
    spread, direction = np.linalg.eigh(np.cov((codes[0] - centre).T).reshape(len(centre), -1))
    part = spread[::-1][:2] / (spread.sum() or 1)
    planes = [(each - centre) @ direction[:, ::-1][:, :2] for each in codes]
    planes = [np.column_stack([each, np.zeros(len(each))])[:, :2] for each in planes]
    low, high = np.quantile(planes[0], [0.002, 0.998], axis=0)
    cells = [_cells(each, low, high) for each in planes]
    counts = [np.bincount(each, minlength=GRID * GRID).reshape(GRID, GRID) for each in cells]
    most = max(map(np.max, counts))
    maps = [tag("figure", charts.heat(np.sqrt(each), f"map of {words}", np.sqrt(most)), tag("figcaption", words))
            for each, words in zip(counts, ("rows", "samples"), strict=True)]
    found = [_means(subject, j, x[:, j], cells[0]) for j in subject.shown] if len(codes[0]) == len(x) else []
    best = np.sort(np.argsort([-share for _, share, _ in found], kind="stable")[:MAPS])
    coloured = [_coloured(words, mean) for mean, _, words in (found[i] for i in best)]
    shares = " and ".join(number(each, ".0%") for each in part)
    return Section(title, name, join(
        note(f"What encode gives, the {what}, in the plane of its first two principal components among the rows "
             f"({shares} of the variance): {GRID} by {GRID} cells, the darker, the more rows, by the square root."),
        tag("div", *maps, class_="two"),
        tag("h3", "The rows' map, by column"),
        note("The mean of a column's numbers in each cell, from its lowest, light, to its highest, dark; of levels how many "
             "are the most frequent one. Grey: no rows."
             + (f" The {MAPS} columns that differ most from cell to cell." if len(found) > MAPS else "")),
        tag("div", *coloured, class_="grid small")), {"variance": part.tolist()})


def _means(subject, j, x, cells):
    """The mean of column j in each cell of the map, the share of its variance between cells, and what it is the mean of."""
    column, words = subject.columns[j], short(subject.columns[j].name)
    if column.levels is not None and len(column.levels) > 2:
        top = subject.fine[j].values[np.argmax(subject.fine[j].shares(x)[:len(subject.fine[j].values)])]
        x, words = np.where(np.isnan(x), np.nan, x == top), f"{words} = {short(subject.cell(j, top), 20)}"
    there = ~np.isnan(x)
    count = np.bincount(cells[there], minlength=GRID * GRID)
    mean = np.where(count > 0, np.bincount(cells[there], x[there], GRID * GRID) / np.maximum(count, 1), np.nan)
    var = np.var(x[there]) if there.any() else 0.0
    share = 1 - np.mean((x[there] - mean[cells[there]])**2) / var if 0 < var < np.inf else 0.0
    return mean.reshape(GRID, GRID), share, words


def _coloured(words, mean):
    """A picture of the means in the cells of the map."""
    low, high = (np.nanmin(mean), np.nanmax(mean)) if not np.isnan(mean).all() else (0, 1)
    return tag("figure", charts.heat((mean - low) / ((high - low) or 1), f"{words} on the map", 1), tag("figcaption", words))


def _cells(plane, low, high):
    """The cell (n,) of each point, those beyond in the outermost; the second coordinate counts rows."""
    at = np.clip((plane - low) / np.where(high > low, high - low, 1) * GRID, 0, GRID - 1).astype(int)
    return at[:, 1] * GRID + at[:, 0]


def _finite(codes):
    return codes[np.isfinite(codes).all(axis=1)]
