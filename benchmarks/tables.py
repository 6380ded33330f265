"""Models of tables beside what is below them and above them: how likely rows held out are, and what their rows look like.

    python -m benchmarks.tables --data DIR [--only adult flights] [--models Mixture TVAE] [--out FILE]

DIR holds adult.csv, flights.csv, penguins_raw.csv, seattle_weather.csv; one that is missing is said and left out. Each model
is fitted in a process of its own to the rows that are not held out: the first n // 5 of default_rng(0).permutation(n) are. What
comes of it is written to benchmarks/TABLES.md; with --only, sections of other tables stay there as they are. CTGAN and TVAE
are those of the package ctgan, which has to be installed for them (0.12.1 wants pandas below 3: an environment of its own).
Run alone, --models TVAE, they leave the other rows of a section as they are, and their rows stay when others are run.

Legend: n rows, d columns.
"""
import argparse
import itertools
import multiprocessing
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

import npgen
from npgen.data import frames
from npgen.data.reading import read_table

from .speed import machine

TABLES = ("adult", "flights", "penguins_raw", "seattle_weather")
STRINGS = "adult, its strings"
BINS = 50           # of a column of numbers, in the tree
COARSE = 10         # and where pairs of columns are compared
WARM = 500          # rows of a first fit, by which kernels are ready: time and memory of the next one are the table's
DRAWS = 5           # imputations, of which a cell is the mean or the commonest, of models that draw
SHARED = 0.01       # nats that a column of numbers shares with another one, from which on it depends on it
FOLDS = 5           # of the rows to fit, on which classifiers are tried
ALARM = 0.01        # how likely they are to find a dependence where there is none, a column
EPOCHS = 100        # of CTGAN and TVAE
SMOOTHING = {STRINGS: 2, "adult": 8, "flights": 2, "penguins_raw": 0.25, "seattle_weather": 4}  # rows added to counts in all
MORE = {"flights": 160}  # components of a Mixture whose numbers are tied


def mixture(table, n, k=None, **options):
    """A Mixture of n rows of a table. Components, SMOOTHING and starts were chosen by a fifth of the rows to fit."""
    return npgen.Mixture(k or max(16, min(40, n // 100)), smoothing=SMOOTHING[table] / n, n_init=5 if n < 1000 else 1,
                         random_state=0, max_iter=200, tol=1e-4, **options)


MODELS = {
    "Mixture": mixture,
    "Mixture, tied": lambda table, n: mixture(table, n, MORE.get(table), numbers="tied"),
    "Mixture, holes modelled": lambda table, n: mixture(table, n, missing="model"),
    "MADE": lambda table, n: npgen.MADE(hidden=(256,), direct=True, order="levels", random_state=0),
    "MADE, any order": lambda table, n: npgen.MADE(hidden=(256,), order="any", random_state=0)}


# ---------------------------------------------------------------- tables

def load(folder, name):
    """(rows to fit, rows held out) of a table, as polars frames."""
    frame = read_table(Path(folder) / f"{name.partition(',')[0]}.csv")
    if name == STRINGS:
        frame = frame.select([column for column in frame.columns if frame[column].dtype == pl.String])
    order = np.random.default_rng(0).permutation(len(frame))
    return frame[order[len(frame) // 5:]], frame[order[:len(frame) // 5]]


def codes_of(frame, like, bins):
    """Every column as numbers 0, 1, ... (n, d): levels of `like`, others -1, or its quantiles; a missing one the last."""
    columns = []
    for name in frame.columns:
        column, known = frame[name], like[name]
        if column.dtype.is_numeric():
            edges = np.unique(np.quantile(known.drop_nulls().to_numpy(), np.linspace(0, 1, bins + 1)[1:-1]))
            x = column.cast(pl.Float64).to_numpy()
            codes = np.where(np.isnan(x), len(edges) + 1, np.searchsorted(edges, x, side="right"))
        else:
            levels = {level: i for i, level in enumerate(known.drop_nulls().unique().sort())}
            codes = np.array([len(levels) if value is None else levels.get(value, -1) for value in column])
        columns.append(codes.astype(np.int64))
    return np.stack(columns, axis=1)


# ---------------------------------------------------------------- below: independent columns, a tree

class Independent:
    """Columns as if they had nothing to do with each other: each of a cell drawn from the rows."""

    def fit(self, frame):
        self.frame = frame
        return self

    def sample(self, n, rng):
        rng = np.random.default_rng(rng)
        return pl.DataFrame({name: self.frame[name][rng.integers(0, len(self.frame), n)] for name in self.frame.columns})

    def log_prob(self, frame):
        train, x = codes_of(self.frame, self.frame, BINS), codes_of(frame, self.frame, BINS)
        return sum(np.log(shares(train[:, j]))[x[:, j]] for j in range(x.shape[1]))


class Tree(Independent):
    """Chow & Liu's tree of the columns, numbers in quantiles, of which a cell is drawn; half a count more in every cell."""

    def fit(self, frame):
        super().fit(frame)
        codes = codes_of(frame, frame, BINS)
        d = codes.shape[1]
        gain = np.zeros((d, d))
        for i, j in itertools.combinations(range(d), 2):
            joint = shares(codes[:, i], codes[:, j])
            outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
            gain[i, j] = gain[j, i] = (joint * np.log(joint / outer)).sum()
        inside, self.edges = {0}, [(None, 0)]
        while len(inside) < d:
            i, j = max(((i, j) for i in inside for j in range(d) if j not in inside), key=lambda pair: gain[pair])
            inside.add(j)
            self.edges.append((i, j))
        self.codes = codes
        return self

    def _conditional(self, i, j):
        if i is None:
            return shares(self.codes[:, j])[None]
        joint = shares(self.codes[:, i], self.codes[:, j])
        return joint / joint.sum(axis=1, keepdims=True)

    def log_prob(self, frame):
        x = codes_of(frame, self.frame, BINS)
        return sum(np.log(self._conditional(i, j))[0 if i is None else x[:, i], x[:, j]] for i, j in self.edges)

    def sample(self, n, rng):
        rng, x = np.random.default_rng(rng), np.zeros((n, self.codes.shape[1]), np.int64)
        made = {}
        for i, j in self.edges:
            p = np.cumsum(self._conditional(i, j), axis=1)[np.zeros(n, int) if i is None else x[:, i]]
            x[:, j] = np.minimum((p < rng.uniform(size=(n, 1)) * p[:, -1:]).sum(axis=1), self.codes[:, j].max())
            rows = np.empty(n, np.int64)
            for code in np.unique(x[:, j]):
                at = np.flatnonzero(self.codes[:, j] == code)
                rows[x[:, j] == code] = rng.choice(at if len(at) else np.arange(len(self.codes)), (x[:, j] == code).sum())
            made[self.frame.columns[j]] = self.frame[self.frame.columns[j]][rows]
        return pl.DataFrame({name: made[name] for name in self.frame.columns})


def shares(*codes):
    """The table of shares of one or two columns, half a count more in every cell, and a row for levels never seen."""
    table = np.zeros([each.max() + 2 for each in codes])
    np.add.at(table, tuple(codes), 1)
    table += 0.5
    return table / table.sum()


class Peer:
    """A model of ctgan with its own settings but for EPOCHS, told which columns have levels. It takes no holes: a missing level
    is a level, a missing number the median."""

    def __init__(self, name):
        self.name = name

    def fit(self, frame):
        import ctgan
        import pandas as pd
        self.frame = frame.select([column.name for column in npgen.data.Schema.infer(frame).columns if column.kind not in (
            "id", "text", "constant")])
        levelled = [name for name in self.frame.columns if not self.frame[name].dtype.is_numeric()]
        filled = self.frame.with_columns(**{name: self.frame[name].fill_null(
            "missing" if name in levelled else self.frame[name].median()) for name in self.frame.columns})
        self.model = getattr(ctgan, self.name)(epochs=EPOCHS, enable_gpu=False)
        self.model.set_random_state(0)
        self.model.fit(pd.DataFrame(filled.to_dict(as_series=False)), levelled)
        return self

    def sample(self, n, rng):
        made = pl.DataFrame(self.model.sample(n).to_dict("list"))
        return made.select(pl.when(pl.col(name) != "missing").then(name).otherwise(None).alias(name) if dtype == pl.String else
                           pl.col(name).round().cast(dtype) if dtype.is_integer() else pl.col(name).cast(dtype)
                           for name, dtype in self.frame.schema.items())


PEERS = ("CTGAN", "TVAE")


def model_of(name, table, n):
    """The unfitted model of this name, for n rows of a table."""
    if name in PEERS:
        return Peer(name)
    if name in MODELS:
        return MODELS[name](table, n)
    return {"independent columns": Independent, "Chow-Liu tree": Tree}[name]()


# ---------------------------------------------------------------- what rows look like

def shapes(real, made):
    """The mean over columns of 1 - the total variation of levels, or 1 - Kolmogorov and Smirnov's distance of numbers."""
    answers = []
    for name in real.columns:
        if real[name].dtype.is_numeric():
            a, b = (np.sort(np.nan_to_num(each[name].cast(pl.Float64).fill_null(float("nan")).to_numpy(), nan=1e300))
                    for each in (real, made))
            grid = np.unique(np.concatenate([a, b]))
            answers.append(1 - np.abs(np.searchsorted(a, grid, side="right") / len(a)
                                      - np.searchsorted(b, grid, side="right") / len(b)).max())
        else:
            levels = pl.concat([real.select(name), made.select(name)])
            a, b = (np.bincount(codes_of(each.select(name), levels, COARSE)[:, 0], minlength=levels[name].n_unique() + 1)
                    / len(each) for each in (real, made))
            answers.append(1 - np.abs(a - b).sum() / 2)
    return float(np.mean(answers))


def pairs(real, made):
    """The mean over pairs of columns of 1 - the total variation of their table, numbers in tenths."""
    a, b = codes_of(real, real, COARSE), codes_of(made, real, COARSE)
    answers = []
    for i, j in itertools.combinations(range(a.shape[1]), 2):
        widths = [max(a[:, k].max(), b[:, k].max()) + 2 for k in (i, j)]
        tables = [np.bincount((x[:, i] + 1) * widths[1] + x[:, j] + 1, minlength=np.prod(widths) + widths[1] + 2) / len(x)
                  for x in (a, b)]
        answers.append(1 - np.abs(tables[0] - tables[1]).sum() / 2)
    return float(np.mean(answers))


def auc(real, made):
    """How well boosted trees tell rows that are made from real ones, on halves that they have not seen: 0.5 is not at all."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    rng, whole = np.random.default_rng(0), pl.concat([real, made])
    x = np.stack([whole[name].cast(pl.Float64).to_numpy() if whole[name].dtype.is_numeric() else frequent(whole[name])
                  for name in whole.columns], axis=1)
    levelled = [not whole[name].dtype.is_numeric() for name in whole.columns]
    y, half = np.repeat([0, 1], [len(real), len(made)]), rng.permutation(len(x)) < len(x) // 2
    answers = []
    with threadpool_limits(1):  # threads of OpenMP wait for each other where a machine is busy
        for train in (half, ~half):
            model = HistGradientBoostingClassifier(categorical_features=levelled, random_state=0).fit(x[train], y[train])
            answers.append(roc_auc_score(y[~train], model.predict_proba(x[~train])[:, 1]))
    return float(np.mean(answers))


def frequent(column):
    """The 250 most frequent levels of a column as numbers, NaN where it misses, all others as one."""
    counts = column.drop_nulls().value_counts(sort=True)[column.name].head(250)
    place = {level: i for i, level in enumerate(counts)}
    return np.array([np.nan if value is None else place.get(value, 250) for value in column], float)


def copies(rows, train):
    """The share of rows that are a row of the training table, cell by cell."""
    known = set(train.rows())
    return float(np.mean([row in known for row in rows.rows()]))


def holes_in(frame, schema, part):
    """The frame with a fifth of the modelled cells that are there taken out, and which, {name: (n,)}, so that each is in one of
    FOLDS parts; of columns that follow from others all are, as they would tell."""
    rng, names = np.random.default_rng(1), schema.names
    out = {name: rng.permutation(len(frame)) % FOLDS == part for name in names}
    holes = frame.with_columns(**{name: pl.when(~pl.Series(out[name])).then(pl.col(name)) for name in names}, **{
        column.name: pl.lit(None, frame[column.name].dtype) for column in schema.columns if column.kind == "determined"})
    return holes, {name: gone & frame[name].is_not_null().to_numpy() for name, gone in out.items()}


def each_cell_once(frame, schema, fill, like=None):
    """The frame, or one like it, with every cell as `fill` fills it in where a fifth is taken out, and which cells there are,
    {name: (n,)}."""
    whole, there = frame if like is None else like, {name: frame[name].is_not_null().to_numpy() for name in schema.names}
    for part in range(FOLDS):
        holes, out = holes_in(frame, schema, part)
        filled = fill(holes, out)
        whole = whole.with_columns(**{name: pl.when(pl.Series(gone)).then(filled[name]).otherwise(whole[name])
                                      for name, gone in out.items() if name in filled.columns})
    return whole, there


def errors(filled, frame, train, out):
    """Of the cells of each column that were taken out, {name: error}: the share of wrong levels, or the root mean square of
    numbers in standard deviations."""
    answers = {}
    for name, gone in out.items():
        if train[name].dtype.is_numeric():
            scale = max(float(train[name].std() or 0), 1e-12)
            off = (filled[name].cast(pl.Float64).to_numpy() - frame[name].cast(pl.Float64).to_numpy())[gone]
            answers[name] = float(np.sqrt(np.mean(np.square(off / scale))))
        else:
            answers[name] = float(np.mean((filled[name] != frame[name]).fill_null(True).to_numpy()[gone]))
    return answers


def numbered(frame, schema):
    """The frame with numbers, steps after the first, for times, of which an error is how far off they are."""
    known = {column.name: column for column in schema.modelled if column.kind == "datetime"}
    return frame.with_columns(**{name: pl.Series(known[name].numbers(*rest[1:])).fill_nan(None)
                                 for name, *rest in frames.read(frame) if name in known})


def combined(tables):
    """The table of the means of numbers, and of the commonest of levels, in tables (several) that are drawn."""
    first = tables[0]
    return first.with_columns(**{name: pl.mean_horizontal([table[name] for table in tables]) if first[name].dtype.is_numeric()
                                 else pl.concat_list([table[name] for table in tables]).list.eval(
        pl.element().mode(maintain_order=True)).list.first() for name in first.columns})


def dependence(train, schema):
    """{name: probability} of the columns with levels: that guesses which know nothing beat the mode as often as those of
    classifiers do that see the other columns but for a fifth of their cells.

    The sign test of the rows where one is right and the mode is wrong, or the reverse, on FOLDS of the rows to fit; twice the
    smaller probability of a forest's and, up to 64 levels, of boosted trees', which are asked where the forest finds nothing. A
    column below ALARM has a dependence to be used.
    """
    from scipy.stats import binom
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    rng, codes = np.random.default_rng(3), codes_of(train, train, 255).astype(float)
    names = schema.names
    x = np.stack([np.where(train[name].is_null().to_numpy(), np.nan, codes[:, train.columns.index(name)]) for name in names], 1)
    seen, fold, answers = np.where(rng.uniform(size=x.shape) < 0.2, np.nan, x), rng.permutation(len(x)) % FOLDS, {}
    few = np.array([column.levels is not None for column in schema.modelled]) & (np.nanmax(x, axis=0) < 255)
    for j, column in enumerate(schema.modelled):
        if column.levels is None:
            continue
        y, rest = x[:, j], np.delete(seen, j, axis=1)
        trees = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, categorical_features=np.delete(few, j),
                                               random_state=0)
        tried = [(RandomForestClassifier(20, min_samples_leaf=2, random_state=0), np.nan_to_num(rest, nan=-1))]
        tried += [(trees, rest)] if np.nanmax(y) < 64 else []
        answers[column.name] = 1.0
        for model, cells in tried:
            won = np.zeros(2)
            for f in range(FOLDS):
                fit, ask = ~np.isnan(y) & (fold != f), ~np.isnan(y) & (fold == f)
                usual = np.bincount(y[fit].astype(int)).argmax() == y[ask]
                right = model.fit(cells[fit], y[fit]).predict(cells[ask]) == y[ask]
                won += (right & ~usual).sum(), (usual & ~right).sum()
            answers[column.name] = min(answers[column.name], 2 * float(binom.sf(won[0] - 1, won.sum(), 0.5)))
            if answers[column.name] < ALARM:
                break
    return answers


def shared(frame, names):
    """{name: nats that a column shares with the one of the others that says most of it}, numbers in tenths; what chance adds,
    by the degrees of freedom, is taken off."""
    x, n = codes_of(frame.select(names), frame.select(names), COARSE), len(frame)
    answers = dict.fromkeys(names, 0.0)
    for i, j in itertools.combinations(range(len(names)), 2):
        joint = np.zeros(x.max(axis=0)[[i, j]] + 1)
        np.add.at(joint, (x[:, i], x[:, j]), 1 / n)
        joint = joint[joint.sum(axis=1) > 0][:, joint.sum(axis=0) > 0]
        outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
        chance = (joint.shape[0] - 1) * (joint.shape[1] - 1) / (2 * n)
        nats = (joint * np.log(np.where(joint > 0, joint / outer, 1))).sum() - chance
        for k in (i, j):
            answers[names[k]] = max(answers[names[k]], float(nats))
    return answers


def baselines(train, frame, schema):
    """{name: errors} of the mode and the median, and of scikit-learn's IterativeImputer on the columns of numbers."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer
    numbers = [name for name in schema.names if train[name].dtype.is_numeric()]

    def usual(holes, out):
        return holes.with_columns(**{name: pl.col(name).fill_null(
            train[name].median() if name in numbers else train[name].drop_nulls().mode().sort()[0]) for name in out})

    def matrix(rows):
        return rows.select(pl.col(numbers).cast(pl.Float64)).to_numpy()

    filled, there = each_cell_once(frame, schema, usual)
    answers = {"mode, median": errors(filled, frame, train, there)}
    if numbers:
        chained = IterativeImputer(random_state=0, max_iter=20).fit(matrix(train))
        filled, _ = each_cell_once(frame.with_columns(pl.col(numbers).cast(pl.Float64)), schema,
                                   lambda holes, out: pl.DataFrame(chained.transform(matrix(holes)), schema=numbers))
        answers["IterativeImputer"] = errors(filled, frame, train, {name: there[name] for name in numbers})
    return answers


# ---------------------------------------------------------------- a model and a table

def fit_and_ask(folder, table, name):
    """What one model makes of one table, {measure: number}, or {"refused": why}."""
    warnings.simplefilter("ignore")
    train, held = load(folder, table)
    try:
        if name in MODELS:
            first = model_of(name, table, WARM)
            first.set_params(**{each: 2 for each in ("max_epochs", "max_iter") if hasattr(first, each)}).fit(train[:WARM])
        before, begin = memory(), time.perf_counter()
        model = model_of(name, table, len(train)).fit(train)
    except (ValueError, ImportError) as error:
        return {"refused": str(error)}
    answer = {"seconds": time.perf_counter() - begin, "table MB": train.estimated_size() / 1e6}
    if name in MODELS:
        model.log_prob(train[:len(held)])
        answer["MB"] = memory("VmHWM") - before
    schema = getattr(model, "schema_", None)
    schema = schema or npgen.data.Schema.infer(pl.concat([train, held]))
    names = [column.name for column in schema.columns if column.kind not in ("id", "text", "constant")]
    made, real = model.sample(len(train) + len(held), rng=1).select(names), pl.concat([train, held]).select(names)
    fits = [held[column.name].is_in(list(column.levels)) for column in schema.modelled if column.levels is not None]
    fits += [held[column.name].is_between(column.low, column.high) for column in schema.modelled if column.kind == "integer"]
    known = held.filter(np.all([each.fill_null(True).to_numpy() for each in fits], axis=0))
    begin = time.perf_counter()
    if name in MODELS or name not in PEERS and all(not held[each].dtype.is_numeric() for each in names):
        try:
            answer["nats"] = -float(np.mean(model.log_prob(known)))
            answer["left out"] = len(held) - len(known)
            answer["rows/s"] = len(known) / (time.perf_counter() - begin)
        except ValueError as error:
            answer["nats refused"] = str(error)
    answer |= {"shapes": shapes(real, made), "pairs": pairs(real, made), "AUC": auc(real, made),
               "copies": copies(made, train.select(names)), "real copies": copies(held.select(names), train.select(names))}
    if name in MODELS and name != "MADE":
        numbers, rows = numbered(known, schema), numbered(train, schema)

        def fill(holes, out):
            tables = [model.impute(holes)] if name.startswith("Mixture") else model.impute(holes, n=DRAWS)
            return combined([numbered(each, schema) for each in tables])

        try:
            filled, there = each_cell_once(known, schema, fill, numbers)
            answer["impute"] = errors(filled, numbers, rows, there)
        except ValueError as error:
            answer["impute refused"] = str(error)
        answer["baselines"] = baselines(rows, numbers, schema)
        answer["shared"] = shared(rows, schema.names)
    return answer


def ceiling(folder, table):
    """Half of the real rows beside the other half."""
    train, held = load(folder, table)
    whole = pl.concat([train, held])
    columns = npgen.data.Schema.infer(whole).columns
    whole = whole.select([column.name for column in columns if column.kind not in ("id", "text", "constant")])
    order = np.random.default_rng(2).permutation(len(whole))
    a, b = whole[order[:len(whole) // 2]], whole[order[len(whole) // 2:]]
    return {"shapes": shapes(a, b), "pairs": pairs(a, b), "AUC": auc(a, b), "copies": copies(b, a)}


def dependence_of(folder, table):
    """dependence of the rows of a table that are fitted."""
    train = load(folder, table)[0]
    with threadpool_limits(1):
        return dependence(train, npgen.data.Schema.infer(train))


def memory(what=None):
    """What this process holds, in MB, from which on the most that it holds, VmHWM, is counted; or that. NaN but on Linux."""
    try:
        if what is None:
            Path("/proc/self/clear_refs").write_text("5")
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[what or "VmRSS"].split()[0]) * 1024 / 1e6
    except OSError:
        return float("nan")


def apart(function, *args):
    """function(*args) in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


# ---------------------------------------------------------------- the page

def number(answer, name, form):
    return form.format(answer[name]) if name in answer else ""


def section(folder, table, models):
    """The Markdown lines on one table."""
    train, held = load(folder, table)
    yield from (f"## {table}: {len(train):,} rows to fit, {len(held):,} held out, {train.width} columns", "",
                f"Run on {machine()}.", "")
    yield "| | nats a row | shapes | pairs | AUC | copies | fit, s | scored, rows/s | memory, MB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    rows = {"real half against half": apart(ceiling, folder, table)}
    for name in ("independent columns", "Chow-Liu tree", *models):
        rows[name] = apart(fit_and_ask, folder, table, name)
        print(table, name, rows[name], file=sys.stderr, flush=True)
    for name, row in rows.items():
        if "refused" in row:
            yield f"| {name} | {row['refused']} | | | | | | | |"
            continue
        yield (f"| {name} | {number(row, 'nats', '{:.3f}')} | {row['shapes']:.3f} | {row['pairs']:.3f} | {row['AUC']:.3f} | "
               f"{100 * row['copies']:.2f}% | {number(row, 'seconds', '{:.1f}')} | {number(row, 'rows/s', '{:,.0f}')} | "
               f"{number(row, 'MB', '{:.0f}')} |")
    some = next((row for row in rows.values() if "table MB" in row), {"table MB": 0, "real copies": 0})
    yield from ("", f"Of the rows held out {100 * some['real copies']:.2f}% are copies of a row to fit. The table is "
                f"{some['table MB']:.1f} MB in memory.")
    for name in (name for name in PEERS if name in models):
        yield from ("", f"{name}: run on {machine()}.")
    left = {row.get("left out", 0) for row in rows.values()}
    if max(left):
        yield f"{max(left)} rows held out have a level, or a whole number, beyond those of the rows to fit, and are not scored."
    if any("impute" in row for row in rows.values()):
        yield from imputed(rows, apart(dependence_of, folder, table))
    for name, row in rows.items():
        for key in ("nats refused", "impute refused"):
            if key in row:
                yield f"\n{name}: {row[key]}"


def imputed(rows, depends):
    """The Markdown lines on what is filled in, column by column; depends: what dependence says of the columns with levels."""
    asked = {name: row for name, row in rows.items() if "impute" in row}
    if not asked:
        return
    first = next(iter(asked.values()))
    found = {**first["baselines"], **{name: row["impute"] for name, row in asked.items()}}
    yield from ("", f"| filled in | shared nats | by chance | {' | '.join(found)} |", "|---|---|---|" + "---|" * len(found))
    for column, nats in first["shared"].items():
        cells = [f"{each[column]:.3f}" if column in each else "" for each in found.values()]
        yield f"| {column} | {nats:.3f} | {number(depends, column, '{:.1g}')} | {' | '.join(cells)} |"
    levels = [column for column in depends if depends[column] < ALARM]
    numbers = [column for column, nats in first["shared"].items() if column not in depends and nats >= SHARED]
    for name, row in asked.items():
        said = []
        for what, columns in (("columns of levels that have a dependence to be used", levels), ("columns of numbers", numbers)):
            worse = [column for column in columns if row["impute"][column] >= first["baselines"]["mode, median"][column]]
            said += [f"in {len(columns) - len(worse)} of {len(columns)} {what}{', not in ' if worse else ''}{', '.join(worse)}"]
        yield from ("", f"{name}: better than the mode and the median {'; '.join(said)}.")


def _listed(values):
    return ", ".join(map(str, values))


HEAD = f"""\
# Models of tables

Written by `python -m benchmarks.tables`, which replaces the sections of the tables that it is run on. Held out: the first
n // 5 rows of default_rng(0).permutation(n). Nats are minus the mean of log p(x), by the measure that `npgen info` prints: they
compare between models of one measure; of the tree and of independent columns where all columns are levels, with half a count
for each. Shapes: 1 - the total variation of levels, and 1 - the Kolmogorov-Smirnov distance of numbers, the mean over columns.
Pairs: 1 - the total variation of the tables of two columns, numbers in tenths. AUC: of boosted trees that tell as many drawn
rows from all real ones, on halves that they have not seen. Copies: drawn rows that are a row to fit. Fit: after one of {WARM}
rows, by which kernels are ready. Memory: the most that the process holds while it fits and scores, beyond what it held before.
Filled in: the cells of the rows held out, a random fifth of them taken out at a time, each once; the share of wrong
levels, or the root mean square of numbers in standard deviations, of the mean and the commonest of {DRAWS} draws where a
model draws. Shared nats: of a column with the one that says most of it, numbers in tenths; columns of numbers depend on
others from {SHARED} on. By chance: how likely guesses that know nothing beat the mode as classifiers do that see the other
columns, on {FOLDS} folds of the rows to fit, by a sign test (twice a forest's probability, or that of boosted trees where the
forest finds nothing); columns of levels have a dependence to be used below {ALARM}, which is also how often one that has none
would be found to. A Mixture's smoothing is {_listed(SMOOTHING.values())} rows in all, in the order of the sections: of
1/4, 1/2, 1, ..., 16 what makes a fifth of the rows to fit likeliest. Mixture, tied: numbers="tied", with
{_listed(f"{k} components on {table}" for table, k in MORE.items())}, else as the other. CTGAN and TVAE: {EPOCHS} epochs,
else as they come.
"""


def sections_of(path):
    """{table: its section} of a page."""
    text = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
    return {part.partition(":")[0]: f"## {part}".rstrip() + "\n" for part in text.split("\n## ")[1:]}


def merged(old, new, models):
    """The lines of a section (new), after a run of these models, with what the older one has of peers that were not run.

    After a run of peers alone it is the older section, with their rows.
    """
    def of(name, lines):
        return [line for line in lines if line.startswith((f"| {name} |", f"{name}: run on"))]

    peers = {name: of(name, new if name in models else old) for name in PEERS}
    whole, found = old if old and set(models) <= set(PEERS) else new, sum(peers.values(), [])
    if not found:
        return whole
    lines = [line for line in whole if line not in sum((of(name, whole) for name in PEERS), [])]
    end = lines.index("", next(i for i, line in enumerate(lines) if line.startswith("|")))
    rows = [line for line in found if line.startswith("|")]
    answer = lines[:end] + rows + [each for note in found if note not in rows for each in ("", note)] + lines[end:]
    return [line for i, line in enumerate(answer) if line or i + 1 < len(answer) and answer[i + 1]]  # one empty line at most


def main(argv=None):
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description="Models of tables.")
    parser.add_argument("--data", required=True, metavar="DIR", help="the folder of adult.csv, flights.csv, ...")
    parser.add_argument("--only", nargs="+", choices=[*TABLES, "strings"], metavar="TABLE", help="these tables")
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *PEERS], default=list(MODELS), metavar="MODEL",
                        help="these models")
    parser.add_argument("--out", metavar="FILE", default=str(Path(__file__).with_name("TABLES.md")))
    args = parser.parse_args(argv)
    wanted = args.only or ["strings", *TABLES]
    tables = [STRINGS if name == "strings" else name for name in wanted]
    there = [name for name in tables if (Path(args.data) / f"{name.partition(',')[0]}.csv").exists()]
    for name in set(tables) - set(there):
        print(f"SKIPPED: {name}.csv is not in {args.data}", file=sys.stderr)
    if not there:
        return 1
    sections = sections_of(args.out)
    for table in there:
        lines = []
        for line in section(args.data, table, args.models):
            lines.append(line)
            print(line, flush=True)
        sections[table] = "\n".join(merged(sections.get(table, "").splitlines(), lines, args.models)) + "\n"
        order = [name for name in (STRINGS, *TABLES) if name in sections]
        Path(args.out).write_text("\n".join([HEAD, *(sections[name] for name in order)]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
