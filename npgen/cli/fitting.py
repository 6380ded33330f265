"""npgen fit, and how the arguments name a model and its settings; npgen check, which can fit one first."""
import argparse
import contextlib
import inspect
import os
import re
import sys
import textwrap
import time

import numpy as np

from .. import data, parallel
from ..data.blocks import is_blocks
from ..data.reading import is_parquet
from ..data.table import TextError
from ..data.text import PLAIN
from ..machine import ROWS, compiling_ahead
from ..models import MODELS, files
from ..train import Training
from ..words import count, describe, passes, training
from . import contexts
from .interrupts import ctrl_c
from .parser import DATA, add_command, add_data, add_device, add_dialect, dialect, natural
from .settings import value_of
from .sources import about, check_output, named, names_of, rows_of
from .tables import add_column, frame_in, infer, overrides, rows_for
from .words import print_table, say

COLUMNS = 60  # of which fit prints what they are taken for
OWN_FLAGS = {"max_epochs": "--epochs", "max_iter": "--epochs", "random_state": "--seed", "verbose": "--quiet",
             "verbose_interval": None, "callbacks": None}  # not for --set; of those without a flag, for Python alone


def fit(args):
    """npgen fit MODEL --data DATA --out FILE"""
    model = build(args).to(args.device)
    check_output(args.out, inputs=(args.data, args.valid, args.schema))
    partial = f"{args.out}.checkpoint"
    if os.path.exists(partial) and not args.resume:
        raise ValueError(f"{partial} is there from a run that did not finish; go on from it with --resume, or delete it")
    kinds = overrides(args.column) if args.column else None
    schema = None if args.schema is None else data.Schema.load(args.schema)
    if schema is not None:
        kinds = {column.name: "text" for column in schema.columns if column.native.type == "string"}
    blocks = is_blocks(args.data)
    table = not blocks and args.context is None and (model.holds_levels or kinds is not None or is_parquet(args.data))
    frame = frame_in(args.data, kinds, dialect(args), _preprocessed(args)) if table else None
    if kinds is not None and frame is None and not blocks:
        raise ValueError(f"--{'column' if args.column else 'schema'} says what the columns of a table are, but {args.data} is "
                         + ("fitted as an array where there is a --context" if args.context else "none") + "; leave it out")
    if blocks:
        x, context, columns, valid = args.data, args.context, schema or kinds, args.valid
    elif frame is not None:
        x, context, columns = frame, None, schema or infer(args.data, frame, kinds)
        valid = args.valid and rows_for(columns, args.valid, dialect(args), args.data, "has")
    else:
        try:
            (x, context), columns = training_rows(args.data, args.context, model.takes_missing, dialect(args)), None
        except TextError as error:
            beside = "" if model.holds_levels else ", or fit a mixture or a made, which model texts"
            raise ValueError(f"{error}{beside}") from None
        valid = None if args.valid is None else _validation(args, x, context)
    alone = args.workers is None and not blocks and frame is None and context is None
    ahead = compiling_ahead(_first_pass(args), x.rows[:ROWS]) if alone else contextlib.nullcontext()
    begin = time.perf_counter()
    with ctrl_c() as pressed, ahead if args.workers is None else parallel.Processes(args.workers):
        try:
            model.fit(x, context=context, validation_data=valid, columns=columns, checkpoint=partial, resume=args.resume)
        except ValueError as error:
            raise ValueError(_placed(args, str(error))) from None
    seconds = time.perf_counter() - begin
    if pressed and not os.path.exists(partial):  # not one epoch is done: there is nothing to keep
        raise KeyboardInterrupt
    if parallel.rank() > 0:
        return
    model.save(args.out)
    if not args.quiet:
        if frame is not None:
            print(f"{_first_lines(columns, args.data)}\n")
        dtype = model.dtype_ if blocks or frame is not None else x.rows.dtype
        n, d = (int(model.n_seen_), model.n_features_in_) if blocks else x.shape
        print(f"{args.data}: {count(n, 'row')}, {count(d, 'column')} ({dtype})"
              + (f", context: {contexts.words(model)}" if context else ""))
        print_table([("model", describe(model)), *not_modelled(model.schema_), *training(model, x),
                     ("seconds", f"{seconds:.1f}"), ("file", args.out)])
    if pressed:
        say("interrupted", f"{args.out} holds the best so far; go on with --resume from {partial}")
        return 130
    with contextlib.suppress(FileNotFoundError):
        os.remove(partial)


def _placed(args, error):
    """What fit refuses, behind the file that it is about, if it is a cell or a column of one."""
    subject = re.match(r"fit: (X|column|validation_data)\b", error)
    return f"{args.valid if subject[1] == 'validation_data' else args.data}: {error}" if subject else error


def _first_lines(schema, path):
    """The schema of the table in a file, of the first COLUMNS columns."""
    lines = str(schema).splitlines()
    more = len(lines) - 1 - COLUMNS
    return "\n".join([*lines[:1 + COLUMNS], *([f"and {count(more, 'more column')}: npgen schema {path}"] if more > 0 else [])])


def not_modelled(schema):
    """The line on the columns that a model of a table leaves out, where there are any."""
    left = [f"{column.name} ({column.kind})" for column in schema.columns if column not in schema.modelled] if schema else []
    if left:
        yield "not modelled", ", ".join(left[:8]) + (f", and {len(left) - 8} more" if left[8:] else "")


def _first_pass(args):
    """Python that fits this model to rows in one pass."""
    plain = {name: value for name, value in vars(args).items() if not callable(value)}
    return ("from argparse import Namespace; from npgen.cli import fitting; "
            f"machine.query(fitting.build(Namespace(**{plain})), np.load(sys.stdin.buffer))")


def check(args):
    """npgen check FILE|MODEL"""
    from ..testing import check_generative_model
    if args.model in MODELS and not os.path.exists(args.model):
        source = args.data or "moons"
        model = build(args)
        table = model.holds_levels and args.context is None
        x = frame_in(source, None, dialect(args), _preprocessed(args)) if table else None
        x, context = (x, None) if x is not None else training_rows(source, args.context, model.takes_missing, dialect(args))
        model.fit(x, context=context)
        x = named(model, x.rows) if isinstance(x, data.Table) else x
        print(f"{describe(model)}, fitted to {source} in {count(model.n_epochs_, passes(model))}\n")
    else:
        model = files.load(args.model)
        x = context = None
        if args.data is not None and getattr(model, "schema_", None) is not None and model.context_ is None:
            x = rows_for(model.schema_, args.data, dialect(args), args.model)
        elif args.data is not None:
            found = data.Source(args.data, dialect=dialect(args))
            context, without = contexts.of(model, found, args.model, args.context)
            x = named(model, rows_of(found, names_of(model), model.n_features_in_, args.model, without=without))
        elif args.context is not None or model.context_:
            raise ValueError(f"{args.model} was fitted with a context; give rows that have it, --data DATA" if model.context_
                             else f"--context {args.context}: {args.model} was fitted without a context; leave it out")
    with about(args.data) if args.data else contextlib.nullcontext():
        report = check_generative_model(model, None if x is None else x[:2000], seed=args.seed, n_samples=args.samples,
                                        context=None if context is None else context[:2000])
    print(report)
    return 0 if report.passed else 1


def _preprocessed(args):
    """Whether a preprocessing is asked for, which is one of arrays."""
    return any(setting.startswith("preprocess=") for setting in args.set)


def build(args):
    """The unfitted model that the arguments of `npgen fit` describe."""
    cls = MODELS[args.model]
    defaults = _defaults(cls)
    settable = [name for name in defaults if name not in OWN_FLAGS]
    model = cls(random_state=args.seed, verbose=not args.quiet and sys.stderr.isatty())
    if args.epochs is not None:
        model.set_params(**{name: args.epochs for name in ("max_epochs", "max_iter") if name in defaults})
    if "preprocess" in defaults and not (args.data and is_blocks(args.data)):  # rows in blocks are taken as they are
        model.set_params(preprocess=defaults["preprocess"])
    for setting in args.set:
        name, equals, text = setting.partition("=")
        if not equals or name not in settable:
            own = f"{OWN_FLAGS[name]} sets {name}; " if name in defaults and OWN_FLAGS.get(name) else ""
            raise ValueError(f"--set {setting}: {own}give key=value, the key one of {', '.join(settable)}")
        value = value_of(cls, name, text, setting)
        several = isinstance(defaults[name], tuple) and not isinstance(value, (tuple, list, str))
        model.set_params(**{name: (value,) if several else value})
    return model


def _defaults(cls):
    """A model's hyperparameters and their defaults, but that preprocessing is what the rows call for: integers in a file have a
    density only once they are spread over their cells."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    return defaults | ({"preprocess": "auto"} if "preprocess" in defaults else {})


def training_rows(source, context=None, missing=False, dialect=PLAIN):
    """The Table of a source to fit a model to, and that of the columns that a --context names, or None."""
    found = data.Source(source, missing=missing, dialect=dialect)
    known = [] if context is None else contexts.chosen(found, context)
    rest = [j for j in range(found.width) if j not in known]
    table = data.Table(found.rows(rest if known else None), found.names and [found.names[j] for j in rest])
    x = table.rows
    if len(x) < 2:
        raise ValueError(f"{source} has one row; a model needs at least two, and many more to be of use")
    constant = np.flatnonzero(np.all(x == x[:1], axis=0))
    if constant.size and x.dtype.kind == "f" and not np.array_equal(x, np.floor(x)):
        j = constant[0]
        name = f" ({table.columns[j]!r})" if table.columns else ""
        raise ValueError(f"{source}: column {rest[j] + 1}{name} is {x[0, j]:g} in every row; remove it, because a density is "
                         "unbounded where nothing varies")
    return table, contexts.table(found, known) if known else None


def _validation(args, x, context):
    """The rows of --valid, of the columns of --data, as fit takes them."""
    found = data.Source(args.valid, missing=build(args).takes_missing, dialect=dialect(args))
    numbers = () if context is None else contexts.chosen(found, args.context)
    rows = data.Table(rows_of(found, x.columns, x.shape[1], args.data, "has", numbers), x.columns)
    return rows if context is None else (rows, None, contexts.table(found, numbers, context.columns, [
        {"levels": [value]} for value in context.rows[0]]))


def _models():
    """A line or two on every model: the first sentence of its help."""
    return "\n".join(_entry(name, inspect.getdoc(cls).partition("\n\n")[0]) for name, cls in sorted(MODELS.items()))


def meanings(cls):
    """{name of a setting: what it means} of a model, as its docstring has it, or that of what it inherits."""
    found = {}
    for one in (Training, *reversed(cls.__mro__)):
        text = inspect.cleandoc(one.__dict__.get("__doc__") or "")
        for names, meaning in re.findall(r"^(\w+(?:, \w+)*)  +(.*(?:\n +.*)*)", text, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def settings(cls):
    """What --set takes of a model, with defaults and meanings."""
    known, margin = meanings(cls), " " * 6
    return "\n".join(f"  {name}={default!r}\n{textwrap.fill(known[name], 96, initial_indent=margin, subsequent_indent=margin)}"
                     for name, default in _defaults(cls).items() if name not in OWN_FLAGS)


class Help(argparse.Action):
    """--help, and of a MODEL that stands before it its settings."""

    def __init__(self, option_strings, dest, **options):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        name = getattr(namespace, "model", None)
        if name in MODELS:
            cls = MODELS[name]
            summary = textwrap.fill(inspect.getdoc(cls).partition("\n\n")[0], 98)
            parser.epilog = f"{summary}\n\nSettings of {name} for --set, with their defaults:\n{settings(cls)}"
        parser.print_help()
        parser.exit()


def _entry(name, text):
    return textwrap.fill(text, 86, initial_indent=f"  {name:8} ", subsequent_indent=" " * 11, break_on_hyphens=False)


def add_fit(commands):
    """npgen fit"""
    sub = add_command(commands, fit, "fit a model to data and save it", add_help=False, examples=[
        "npgen fit made --data digits --out digits.npgen",
        "npgen fit gmm --data faithful.csv --out faithful.npgen --set n_components=2",
        "npgen fit gmm --data 'rows/*.npy' --out large.npgen --workers 2",
        "npgen fit vae --data train-images-idx3-ubyte.gz --out mnist.npgen --epochs 50 --set hidden=400,200"],
        notes=f"""\
MODEL is one of
{_models()}
Empty cells and NaN are missing values to mixture, and to gmm with --set preprocess=None; the
others refuse them.
These two also fit rows that do not fit into memory: DATA is then a folder, or a pattern in
quotes, of .npy or .parquet files, read a block at a time, and taken as they are.
Integers, but 0 and 1 and what a mixture of columns takes as they are, are spread over their
cells by preprocess='auto', and their density is a lower bound then.

{DATA}
While it fits, FILE.checkpoint keeps the state, some seconds old at most. Ctrl-C ends the run
with the best so far in FILE and status 130; --resume goes on from the checkpoint, to
the same bits as a run that never stopped (same data, seed and settings).
Under mpirun -n N, N processes share every step of a model that follows a gradient: N changes
the model by rounding alone, and a run goes on with any N. Where steps cannot be shared, a
warning says so.

npgen fit MODEL --help has the settings of MODEL for --set, what they mean and their defaults.
""")
    sub.add_argument("-h", "--help", action=Help, help="show this message, or that of a MODEL named before it, and exit")
    sub.add_argument("model", metavar="MODEL", choices=sorted(MODELS), help=", ".join(sorted(MODELS)))
    add_data(sub)
    add_column(sub)
    sub.add_argument("--schema", metavar="FILE", help="what the columns are, as npgen schema --out wrote it")
    sub.add_argument("--context", metavar="COLUMNS", help="columns of DATA, names or numbers from 1 with commas between them, "
                     "that the others are modelled given; text and whole numbers are labels, numbers with a point are not")
    sub.add_argument("--valid", metavar="DATA", help="rows to stop by and never train on, in place of a random tenth of DATA; "
                     "not for gmm, unless --set solver=adam")
    sub.add_argument("--out", required=True, metavar="FILE", help="where to save the fitted model")
    sub.add_argument("--epochs", type=int, metavar="N", help="at most so many passes over the data (default: the model's)")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed gives the same model (default: 0)")
    sub.add_argument("--set", action="append", default=[], metavar="key=value", help="change a setting, see npgen fit MODEL "
                     "--help; a model, prior or head by its constructor, 'base=GaussianMixture(5)'; can be repeated")
    sub.add_argument("--resume", action="store_true", help="go on from FILE.checkpoint if there is one")
    sub.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    sub.add_argument("--workers", type=natural, metavar="N", help="so many processes read DATA that is several files and "
                     "compute on it, to the same bits (default: this one, or what mpirun has started)")
    add_device(sub)


def add_check(commands):
    """npgen check"""
    sub = add_command(commands, check, "check the mathematics of a model: densities, samples, derivatives, files", notes=f"""\
Runs the laws that the model promises and prints one line for each: what was measured, what is
allowed, and the smallest error it is sure to find. Status 1 if a law is broken.

{DATA}""", examples=["npgen check digits.npgen --data digits", "npgen check realnvp", "npgen check gmm --set n_components=3"])
    sub.add_argument("model", metavar="FILE|MODEL", help=f"a fitted model, or one to fit first: {', '.join(sorted(MODELS))}")
    sub.add_argument("--data", metavar="DATA", help="rows to look at (default: drawn from FILE; moons for a MODEL)")
    add_dialect(sub)
    sub.add_argument("--context", metavar="COLUMNS", help="the columns of DATA that are the context, as for npgen fit; laws "
                     "are run given three different rows of it, at most (default: those that FILE was fitted with)")
    sub.add_argument("--samples", type=natural, metavar="N", help="rows that the statistical laws look at, at least 100: fewer "
                     "take less time, and find larger errors alone (default: 20,000)")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the check and of the fit (default: 0)")
    sub.add_argument("--epochs", type=int, default=20, metavar="N", help="of the fit (default: 20)")
    sub.add_argument("--set", action="append", default=[], metavar="key=value", help="as for npgen fit; can be repeated")
    sub.set_defaults(quiet=True)
