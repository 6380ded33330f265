"""npgen score, explain, sample, encode and impute: a model's answers about rows.

Legend: n rows.
"""
import contextlib
import functools
import math

import numpy as np

from .. import data
from ..checks import with_article
from ..data.reading import write_table
from ..random import as_stream
from ..words import bits, count
from . import contexts, tables
from .parser import DATA, OUT, add_command, add_context, add_data, add_device, add_dialect, add_file, dialect, natural
from .sources import FILES, TABLES, about, check_output, model_in, named, names_of, rows_of
from .words import print_table

SHOWN = 100  # columns, of which explain prints a line each
_ANSWERS = {"exact": "exact", "bound": "a lower bound", "estimate": "an estimate"}


def score(args):
    """npgen score FILE --data DATA"""
    if args.out:
        check_output(args.out, (*TABLES, ".parquet"), (args.file, args.data))
    elif model_in(args.file).capabilities.density == "none":
        model, _, distance = _answer(args, "score")
        print_table([("energy distance", f"{-distance:.4f} between the rows and rows that the model draws"),
                     ("answer", f"{type(model).__name__} has no density; score is minus this distance")])
        return
    model, frame, log_prob = _answer(args, "log_prob")
    if args.out and not isinstance(frame, data.Table | np.ndarray) and args.out.lower().endswith((".csv", ".parquet")):
        if "log_prob" in frame.columns:
            raise ValueError(f"{args.data} has a column 'log_prob', which is to hold the answer; rename it")
        write_table(args.out, frame.insert_column(frame.width, type(frame[:, 0])("log_prob", log_prob)))
    elif args.out:
        data.write(args.out, log_prob)
    nats, rows = log_prob.astype(np.float64), f"{len(log_prob):,}"
    if args.unseen:
        nats = nats[nats > -np.inf]
        rows += f", of which {len(log_prob) - len(nats):,} have log p(x) = -inf, and no part in the mean"
    error = f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.4f}" if len(nats) > 1 else ""
    print_table([("log p(x)", f"{nats.mean():.4f}{error} nats per row, mean ± standard error"),
                  ("", f"{bits(nats.mean(), model.n_features_in_):.4f} bits per dimension"),
                  ("answer", _ANSWERS[model.capabilities.density]),
                  *([("log Z", model.normaliser)] if hasattr(model, "normaliser") else []),
                  ("rows", rows)])


def sample(args):
    """npgen sample FILE -n N --out OUT"""
    check_output(args.out, (*FILES, ".parquet"), (args.file, args.data))
    model = model_in(args.file, args.device)
    if model.schema_ is not None and not args.out.lower().endswith((".png", ".npy", ".npz")) and args.context is None:
        known = {"given": tables.known(model, args.file, args.given)} if args.given else {}
        if known and not hasattr(model, "condition"):
            raise ValueError(f"--given: {args.file} holds {with_article(model)}, which conditions on no columns; "
                             "mixtures and MADE do")
        with about(" ".join(f"--given {text}" for text in args.given)) if known else contextlib.nullcontext():
            rows = model.sample(args.n or 64, rng=as_stream(args.seed), **known)
        write_table(args.out, rows)
        return
    if args.given:
        raise ValueError(f"--given: {args.file} was not fitted to a table; fit a mixture or a made to a .csv with "
                         "a line of names")
    model = model.without_schema()
    draw = _picture(args.out, model)
    if args.data is None:
        context, n = contexts.values(model, args.file, args.context), args.n or 64
    else:
        context, n = contexts.of(model, data.Source(args.data, dialect=dialect(args)), args.file, args.context)[0], args.n or 1
        if context is None:
            raise ValueError(f"--data {args.data}: {args.file} was fitted without a context; leave it out")
    rows = model.sample(n, rng=as_stream(args.seed), **given(context))
    draw(args.out, rows.reshape(-1, model.n_features_in_))


def encode(args):
    """npgen encode FILE --data DATA --out OUT"""
    check_output(args.out, FILES, (args.file, args.data))
    *_, z = _answer(args, "encode")
    if args.out.lower().endswith(".png"):
        from .. import plot
        plot.latent(args.out, z)
    else:
        data.write(args.out, z, [f"z{j}" for j in range(1, z.shape[1] + 1)])


def impute(args):
    """npgen impute FILE --data DATA --out OUT"""
    check_output(args.out, (*TABLES, ".parquet"), (args.file, args.data))
    options = {} if args.seed is None else {"rng": as_stream(args.seed)}
    model, _, full = _answer(args, "impute", options | ({} if args.n is None else {"n": args.n}))
    names = names_of(model)
    if args.n is None:
        _write(args.out, full, names)
    else:
        _write(args.out, tables.stacked(full), ["imputation", *(names or _numbered(model))])


def explain(args):
    """npgen explain FILE --data DATA --out OUT"""
    check_output(args.out, (*TABLES, ".parquet"), (args.file, args.data))
    model, _, shares = _answer(args, "explain")
    _write(args.out, shares, names_of(model))
    nats = shares if isinstance(shares, np.ndarray) else shares.to_numpy()
    lines = [(" ".join(name.split()), f"{column.mean(where=~np.isnan(column)):9.4f}  {np.nanmin(column):9.4f} in row "
              f"{np.nanargmin(column) + 1}") for name, column in zip(names_of(model) or _numbered(model), nats.T, strict=True)
             if not np.isnan(column).all()]
    print_table([("column", "nats: mean, and lowest"), *lines[:SHOWN]])


def _numbered(model):
    return [f"x{j}" for j in range(1, model.n_features_in_ + 1)]


def _write(path, answer, names):
    """Write an answer: numbers under these names, or a frame, of which an array takes numbers alone."""
    if not isinstance(answer, np.ndarray) and path.lower().endswith((".npy", ".npz")):
        text = next((name for name in answer.columns if not answer[name].dtype.is_numeric()), None)
        if text is not None:
            raise ValueError(f"{path}: an array holds no {answer[text].dtype}, which column {text!r} is; end its name in .csv")
        answer, names = answer.to_numpy().astype(np.float64), answer.columns
    if isinstance(answer, np.ndarray):
        data.write(path, answer, names)
    else:
        write_table(path, answer)


def given(context):
    """The argument of a query, if there is a context."""
    return {} if context is None else {"context": context}


def _answer(args, query, options=None):
    """The model in args.file, the rows of args.data, a DataFrame, a Table or an array, and the answer to a query about them."""
    model = model_in(args.file, args.device)
    if not hasattr(model, query):
        raise ValueError(f"{args.file} holds {with_article(model)}, which has no {query}; "
                         f"{'mixtures and MADE' if query == 'explain' else 'mixtures, MADE and VAE'} have")
    if model.schema_ is not None and model.context_ is None:
        x, known = tables.rows_for(model.schema_, args.data, dialect(args), args.file), {}
    else:
        x, known = _rows_and_context(args, model, query)
    question = functools.partial(getattr(model, query), **known, **options or {})
    with about(args.data):
        return model, x, tables.ask(model, x, question, args) if hasattr(args, "unseen") else question(x)


def _rows_and_context(args, model, query):
    """The rows of args.data for a model of arrays, and {"context": theirs}, or {} without one."""
    found = data.Source(args.data, missing=model.takes_missing or query == "impute", dialect=dialect(args))
    context, without = contexts.of(model, found, args.file, args.context)
    x = rows_of(found, names_of(model), model.n_features_in_, args.file, without=without)
    return named(model, x), given(context)


def _picture(path, model):
    """The function that writes this model's rows to `path`: a table, images or points."""
    from .. import plot
    n_columns = model.n_features_in_
    if not path.lower().endswith(".png"):
        return functools.partial(data.write, columns=names_of(model))
    if n_columns == 2:
        return plot.points
    if plot.image_shape(n_columns) is None:
        raise ValueError(f"{path}: rows of {count(n_columns, 'column')} are neither images nor points; "
                         f"end its name in {', '.join(TABLES)}")
    return plot.images


def add_score(commands):
    """npgen score"""
    sub = add_command(commands, score, "print the mean log-likelihood of data, or how far a model's samples are from them",
                      notes=DATA, examples=[
        "npgen score digits.npgen --data test.csv",
        "npgen score digits.npgen --data test.csv --out nats.csv"])
    add_file(sub)
    add_data(sub)
    tables.add_unseen(sub)
    add_context(sub)
    sub.add_argument("--out", metavar="OUT", help="write log p(x) of every row, in nats: .npy, .npz or .csv; of a table, "
                     "the table and a column log_prob, also .parquet")
    add_device(sub)


def add_sample(commands):
    """npgen sample"""
    sub = add_command(commands, sample, "draw new rows from a model",
                      notes=OUT.format(others=", of a table also .parquet, or .png, a picture\n"
                                       "if the rows are square images or points in the plane"),
                      examples=["npgen sample digits.npgen -n 64 --out digits.png",
                                "npgen sample digits.npgen -n 100000 --seed 1 --out rows.npy"])
    add_file(sub)
    sub.add_argument("-n", type=natural, metavar="N", help="rows to draw (default: 64), or per row of --data (default: 1)")
    sub.add_argument("--context", metavar="NAME=VALUE,...", help="of a model with a context: the values to draw for, or with "
                     "--data the names or numbers of its columns there")
    sub.add_argument("--given", action="append", default=[], metavar="NAME=VALUE", help="of a model of a table: what is known "
                     "of a column, and the others are drawn given it; also from one value to another, age=30..40 or age=30.., "
                     "or that it is missing, age=; can be repeated")
    sub.add_argument("--data", metavar="DATA", help="rows whose context the rows are drawn for, one by one")
    add_dialect(sub)
    sub.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same rows (default: new rows every time)")
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write them, see below")
    add_device(sub)


def add_encode(commands):
    """npgen encode"""
    sub = add_command(commands, encode, "write the representation of every row",
                      notes=f"{DATA}\n{OUT.format(others=', or .png, a picture of the first two principal components')}\n"
                            "What the representation is depends on the model: npgen info FILE says.\n",
                      examples=["npgen encode digits.npgen --data digits --out codes.npy",
                                "npgen encode digits.npgen --data digits --out codes.png"])
    add_file(sub)
    add_data(sub)
    add_context(sub)
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write them, see below")
    add_device(sub)


def add_explain(commands):
    """npgen explain"""
    sub = add_command(commands, explain, "say how likely each cell of a row is: why a row is odd", notes=f"""\
Writes nats for every cell and prints the lowest of each column. Of a mixture they are those of
the cell given all other cells of its row, log p(x_j | rest); of a MADE given the columns before
it, log p(x_j | x_<j), and they add up to the row's log p(x).

{DATA}
{OUT.format(others=", of a table also .parquet")}""", examples=[
        "npgen explain people.npgen --data people.csv --out why.csv"])
    add_file(sub)
    add_data(sub)
    tables.add_unseen(sub)
    add_context(sub)
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write them, see below")
    add_device(sub)


def add_impute(commands):
    """npgen impute"""
    sub = add_command(commands, impute, "fill in what is missing", notes=f"""\
Empty cells of a .csv, NA, ? and the like, and NaN of an array are filled in given the other values
of their row: by a mixture or a VAE with the mean (of levels the likeliest), by MADE with a draw,
exact if it was fitted with --set order=any. With --seed all of them draw.

{DATA}
{OUT.format(others=", of a table also .parquet")}""", examples=[
        "npgen impute faithful.npgen --data holes.csv --out whole.csv",
        "npgen impute faithful.npgen --data holes.csv --seed 1 --out drawn.csv"])
    add_file(sub)
    add_data(sub)
    add_context(sub)
    sub.add_argument("-n", type=natural, metavar="N", help="multiple imputations: so many tables of draws, one below the "
                     "other, with their number in a first column, imputation")
    sub.add_argument("--seed", type=int, metavar="S", help="draw the values, the same for the same seed (default: see above)")
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write the rows, see below")
    add_device(sub)
