"""npgen score, sample and encode: a model's answers about rows.

Legend: n rows.
"""
import functools
import math

import numpy as np

from .. import data
from ..models import files
from ..random import as_stream
from .parser import DATA, OUT, add_command, add_data, add_device, add_file, natural
from .sources import FILES, TABLES, check_output, named, names_of, rows_of
from .words import bits, count, print_table

_ANSWERS = {"exact": "exact", "bound": "a lower bound", "estimate": "an estimate"}


def score(args):
    """npgen score FILE --data DATA"""
    if args.out:
        check_output(args.out, TABLES)
    model, log_prob = _answer(args, "log_prob")
    if args.out:
        data.write(args.out, log_prob)
    nats = log_prob.astype(np.float64)
    error = f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.4f}" if len(nats) > 1 else ""
    print_table([("log p(x)", f"{nats.mean():.4f}{error} nats per row, mean ± standard error"),
                  ("", f"{bits(nats.mean(), model.n_features_in_):.4f} bits per dimension"),
                  ("answer", _ANSWERS[model.capabilities.density]),
                  ("rows", f"{len(nats):,}")])


def sample(args):
    """npgen sample FILE -n N --out OUT"""
    check_output(args.out, FILES)
    model = files.load(args.file).to(args.device)
    draw = _picture(args.out, model)
    rows = model.sample(args.n, rng=as_stream(args.seed))
    draw(args.out, rows)


def encode(args):
    """npgen encode FILE --data DATA --out OUT"""
    check_output(args.out, FILES)
    _, z = _answer(args, "encode")
    if args.out.lower().endswith(".png"):
        from .. import plot
        plot.latent(args.out, z)
    else:
        data.write(args.out, z, [f"z{j}" for j in range(1, z.shape[1] + 1)])


def _answer(args, query):
    """The model in args.file, and its answer to a query about the rows of args.data."""
    model = files.load(args.file).to(args.device)
    x = rows_of(args.data, names_of(model), model.n_features_in_, args.file)
    try:
        return model, getattr(model, query)(named(model, x))
    except ValueError as error:
        raise ValueError(f"{args.data}: {error}") from None


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
    sub = add_command(commands, score, "print the mean log-likelihood of data under a model", notes=DATA, examples=[
        "npgen score digits.npgen --data test.csv",
        "npgen score digits.npgen --data test.csv --out nats.csv"])
    add_file(sub)
    add_data(sub)
    sub.add_argument("--out", metavar="OUT", help="write log p(x) of every row, in nats: .npy, .npz or .csv")
    add_device(sub)


def add_sample(commands):
    """npgen sample"""
    sub = add_command(commands, sample, "draw new rows from a model",
                      notes=OUT.format(png=", a picture if the rows are square images or\npoints in the plane"),
                      examples=["npgen sample digits.npgen -n 64 --out digits.png",
                                "npgen sample digits.npgen -n 100000 --seed 1 --out rows.npy"])
    add_file(sub)
    sub.add_argument("-n", type=natural, default=64, metavar="N", help="rows to draw (default: 64)")
    sub.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same rows (default: new rows every time)")
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write them, see below")
    add_device(sub)


def add_encode(commands):
    """npgen encode"""
    sub = add_command(commands, encode, "write the representation of every row",
                      notes=f"{DATA}\n{OUT.format(png=', a picture of the first two principal components')}\n"
                            "What the representation is depends on the model: npgen info FILE says.\n",
                      examples=["npgen encode digits.npgen --data digits --out codes.npy",
                                "npgen encode digits.npgen --data digits --out codes.png"])
    add_file(sub)
    add_data(sub)
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write them, see below")
    add_device(sub)
