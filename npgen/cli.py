"""The command `npgen`: fit, score, sample, encode, check, info, config, warmup, demo.

A command is one function; it checks where it is to write before it works, and imports what only it needs. Whatever the
user can put right is one line on stderr and exit status 2; Ctrl-C is status 130.

Legend: n rows, d columns.
"""
import argparse
import ast
import contextlib
import functools
import importlib.util
import inspect
import math
import os
import signal
import sys
import textwrap
import threading
import time
import warnings
from itertools import islice
from pathlib import Path

import numpy as np

from . import checkpoint, data
from .checks import one_line
from .kernels import DeviceError
from .models import MODELS
from .models.files import load
from .random import as_stream
from .transforms import Chain, Columns
from .version import __version__
from .warn import warn

_OWN_FLAGS = ("max_epochs", "max_iter", "random_state", "verbose", "verbose_interval", "callbacks")  # not for --set
_DEFAULTS = {"gmm": {"preprocess": "auto"}}  # integers get a density only once they are spread over their cells
_ANSWERS = {"exact": "exact", "bound": "a lower bound", "estimate": "an estimate"}
_TABLES = data.OUTPUTS
_FILES = (*_TABLES, ".png")


def main(argv=None):
    """Run one command; returns the exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait take a shared machine hostage
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: _say("warning", message)
        try:
            return args.command(args) or 0
        except KeyboardInterrupt:
            _say("interrupted")
            return 130
        except BrokenPipeError:  # the reader of a pipe went away: npgen info FILE | head -1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (OSError, ValueError, TypeError, ImportError, MemoryError, DeviceError) as error:
            named = isinstance(error, OSError) and error.strerror and error.filename
            _say("error", f"{error.filename}: {error.strerror}" if named else str(error) or type(error).__name__)
            return 2
        except RuntimeError as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):  # so Python passes on a Ctrl-C while it makes a class
                raise
            _say("interrupted")
            return 130


def _say(*parts):
    print("npgen:", ": ".join(" ".join(str(part).split()) for part in parts), file=sys.stderr)


# ---------------------------------------------------------------- commands


def fit(args):
    """npgen fit MODEL --data DATA --out FILE"""
    model = _build(args).to(args.device)
    _check_output(args.out)
    partial = f"{args.out}.checkpoint"
    if os.path.exists(partial) and not args.resume:
        raise ValueError(f"{partial} is there from a run that did not finish; go on from it with --resume, or delete it")
    x = _training_rows(args.data)
    valid = args.valid
    if valid is not None:
        valid = data.Table(_rows(valid, x.columns, x.shape[1], args.data, "has"), x.columns)
    begin = time.perf_counter()
    with _ctrl_c() as pressed:
        model.fit(x, validation_data=valid, checkpoint=partial, resume=args.resume)
    seconds = time.perf_counter() - begin
    if pressed and not os.path.exists(partial):  # not one epoch is done: there is nothing to keep
        raise KeyboardInterrupt
    model.save(args.out)
    if not args.quiet:
        print(f"{args.data}: {_count(len(x), 'row')}, {_count(x.shape[1], 'column')} ({x.rows.dtype})")
        _print_table([("model", _describe(model)), *_training(model, x), ("seconds", f"{seconds:.1f}"), ("file", args.out)])
    if pressed:
        _say("interrupted", f"{args.out} holds the best so far; go on with --resume from {partial}")
        return 130
    with contextlib.suppress(FileNotFoundError):
        os.remove(partial)


def score(args):
    """npgen score FILE --data DATA"""
    if args.out:
        _check_output(args.out, _TABLES)
    model, log_prob = _answer(args, "log_prob")
    if args.out:
        data.write(args.out, log_prob)
    nats = log_prob.astype(np.float64)
    error = f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.4f}" if len(nats) > 1 else ""
    _print_table([("log p(x)", f"{nats.mean():.4f}{error} nats per row, mean ± standard error"),
                  ("", f"{_bits(nats.mean(), model.n_features_in_):.4f} bits per dimension"),
                  ("answer", _ANSWERS[model.capabilities.density]),
                  ("rows", f"{len(nats):,}")])


def sample(args):
    """npgen sample FILE -n N --out OUT"""
    _check_output(args.out, _FILES)
    model = load(args.file).to(args.device)
    draw = _picture(args.out, model)
    rows = model.sample(args.n, rng=as_stream(args.seed))
    draw(args.out, rows)


def encode(args):
    """npgen encode FILE --data DATA --out OUT"""
    _check_output(args.out, _FILES)
    _, z = _answer(args, "encode")
    if args.out.lower().endswith(".png"):
        from . import plot
        plot.latent(args.out, z)
    else:
        data.write(args.out, z)


def check(args):
    """npgen check FILE|MODEL"""
    from .testing import check_generative_model
    if args.model in MODELS and not os.path.exists(args.model):
        source = args.data or "moons"
        x = _training_rows(source)
        model = _build(args).fit(x)
        x = x.rows
        print(f"{_describe(model)}, fitted to {source} in {_count(model.n_epochs_, _passes(model))}\n")
    else:
        model = load(args.model)
        x = None if args.data is None else _rows(args.data, model._names, model.n_features_in_, args.model)
    report = check_generative_model(model, None if x is None else model._named(x[:2000]), seed=args.seed)
    print(report)
    return 0 if report.passed else 1


def info(args):
    """npgen info FILE"""
    model = load(args.file)
    header = checkpoint.read(args.file)[1]
    can = model.capabilities
    _print_table([
        ("model", _describe(model)),
        ("columns", f"{model.n_features_in_} ({model.dtype_.name})"),
        *zip(["names"] + [""] * model.n_features_in_, textwrap.wrap(", ".join(model._names or []), 86), strict=False),
        ("density", can.density),
        ("representation", f"{can.representation}, {_count(model.n_latent_, 'column')}"
                           + (", invertible" if can.invertible else "")),
        ("parameters", f"{model._n_parameters():,}"),
        ("settings", ", ".join(f"{name}={one_line(value)}" for name, value in model.get_params().items()
                               if name not in ("callbacks", "verbose"))),
        *_training(model),
        ("written by", ", ".join(f"{name} {version}" for name, version in header["versions"].items())),
        ("file", f"{args.file}, {_size(os.path.getsize(args.file))}")])


def config(args):
    """npgen config"""
    from . import machine
    _print_table(machine.facts())
    print()
    advice = list(machine.advice())
    print("What would make this machine faster:" if advice else "Nothing found that would make this machine faster.")
    for line in advice:
        print(f"  - {line}")


def warmup(args):
    """npgen warmup"""
    from . import machine
    machine.warmup(models=args.models or tuple(MODELS))


def demo(args):
    """npgen demo"""
    from . import demo
    demo.run(args.out, quick=args.quick, seed=args.seed)


# ---------------------------------------------------------------- the parts of a command


def _build(args):
    """The unfitted model that the arguments of `npgen fit` describe."""
    cls = MODELS[args.model]
    defaults = {k: p.default for k, p in inspect.signature(cls).parameters.items()}
    settable = [name for name in defaults if name not in _OWN_FLAGS]
    model = cls(random_state=args.seed, verbose=not args.quiet and sys.stderr.isatty())
    if args.epochs is not None:
        model.set_params(**{name: args.epochs for name in ("max_epochs", "max_iter") if name in defaults})
    model.set_params(**_DEFAULTS.get(args.model, {}))
    for setting in args.set:
        name, equals, text = setting.partition("=")
        if not equals or name not in settable:
            raise ValueError(f"--set {setting}: give key=value, the key one of {', '.join(settable)}")
        value = _literal(text)
        several = isinstance(defaults[name], tuple) and not isinstance(value, (tuple, list, str))
        model.set_params(**{name: (value,) if several else value})
    return model


def _literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _training_rows(source):
    table = data.load_table(source)
    x = table.rows
    if len(x) < 2:
        raise ValueError(f"{source} has one row; a model needs at least two, and many more to be of use")
    constant = np.flatnonzero(np.all(x == x[:1], axis=0))
    if constant.size and x.dtype.kind == "f" and not np.array_equal(x, np.floor(x)):
        j = constant[0]
        name = f" ({table.columns[j]!r})" if table.columns else ""
        raise ValueError(f"{source}: column {j + 1}{name} is {x[0, j]:g} in every row; remove it, because a density is "
                         "unbounded where nothing varies")
    return table


def _answer(args, query):
    """The model in args.file, and its answer to a query about the rows of args.data."""
    model = load(args.file).to(args.device)
    x = _rows(args.data, model._names, model.n_features_in_, args.file)
    try:
        return model, getattr(model, query)(model._named(x))
    except ValueError as error:
        raise ValueError(f"{args.data}: {error}") from None


def _rows(source, known, n_columns, file, has="was fitted on"):
    """The rows of a source, their columns those, n_columns of names `known` or None, that `file` was fitted on, or has: found
    by name if both have names."""
    table = data.load_table(source)
    if table.columns and known:
        missing, others = (_listed(n for n in a if n not in b) for a, b in ((known, table.columns), (table.columns, known)))
        if missing:
            raise ValueError(f"{source} has no column {missing}, which {file} {has}"
                             + (f"; it has {others} instead" if others else "") + "; give data with the same columns")
        if others:
            warn(f"{source}: {others} left out, because {file} {has} no column of that name")
        return (table if table.columns == known else table[known]).rows
    if table.shape[1] != n_columns:
        raise ValueError(f"{source} has {_count(table.shape[1], 'column')}, but {file} {has} {n_columns}; "
                         "give data with the same columns")
    if known:
        warn(f"{source} has no names of columns; they are taken to be those that {file} {has}: {_listed(known)}")
    elif table.columns:
        warn(f"{file} has no names of columns; those of {source} are taken in their order; fit to data with names to have "
             "them compared")
    return table.rows


def _listed(names):
    """The first of some names, for a message."""
    first = [repr(name) for name in islice(names, 9)]
    return ", ".join([*first[:8], "..."] if len(first) > 8 else first)


def _check_output(path, suffixes=None):
    """Raise before the work is done if its result could not be written."""
    if not path:
        raise ValueError("--out is empty; give the path of a file to write")
    folder = os.path.dirname(os.path.realpath(path))
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"{path} has no known format; end its name in {', '.join(suffixes)}")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; give the path of a file to write")
    if not os.path.isdir(folder):
        raise ValueError(f"{path} cannot be written because the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written because the folder {folder} is read-only; give another")
    if path.lower().endswith(".png") and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{path}: pictures need matplotlib, which is not installed; pip install matplotlib")


def _picture(path, model):
    """The function that writes this model's rows to `path`: a table, images or points."""
    from . import plot
    n_columns = model.n_features_in_
    if not path.lower().endswith(".png"):
        return functools.partial(data.write, columns=model._names)
    if n_columns == 2:
        return plot.points
    if plot.image_shape(n_columns) is None:
        raise ValueError(f"{path}: rows of {_count(n_columns, 'column')} are neither images nor points; "
                         f"end its name in {', '.join(_TABLES)}")
    return plot.images


@contextlib.contextmanager
def _ctrl_c():
    """A list that is no longer empty once Ctrl-C was pressed: a fit ends early then, and returns."""
    pressed, again = [], []

    def press(*_):
        pressed.append(True)
        raise KeyboardInterrupt

    def lost(unraisable):  # it came inside a callback of compiled code, which cannot pass it on
        if unraisable.exc_type is not KeyboardInterrupt:
            return hook(unraisable)
        again.append(threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]))
        again[-1].start()

    before, hook = signal.signal(signal.SIGINT, press), sys.unraisablehook
    sys.unraisablehook = lost
    try:
        yield pressed
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- words


def _describe(model):
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


def _training(model, x=None):
    """Rows of a table: how long the model was fitted, and to what."""
    history, d = getattr(model, "history_", None), model.n_features_in_
    if history:
        best = min(history, key=lambda e: e["train_nats"] if e["valid_nats"] is None else e["valid_nats"])
        yield f"{_passes(model)}s", f"{history[-1]['epoch']}, best {best['epoch']}"
        for name, part in (("train_nats", "fitted"), ("valid_nats", "held out")):
            if best[name] is not None:
                yield part, f"{-best[name]:.4f} nats per row, {_bits(-best[name], d):.4f} bits per dimension"
    elif x is not None:
        nats = model.score(x)
        yield "fitted", f"{nats:.4f} nats per row, {_bits(nats, d):.4f} bits per dimension"


def _passes(model):
    return "iteration" if hasattr(model, "n_iter_") else "epoch"


def _bits(nats, n_columns):
    return -nats / (n_columns * math.log(2))


def _count(n, noun):
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _size(n_bytes):
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def _print_table(rows):
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


# ---------------------------------------------------------------- the parser


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        _say("error", f"{message} (see {self.prog} --help)")
        sys.exit(2)


_DATA = """\
DATA is a built-in name or a file:
  digits            1,797 real handwritten digits, 8x8 images of integers 0..16
  moons, rings, pinwheel, checkerboard, eight-gaussians
                    2,000 points in the plane
  FILE.npy, .npz    an array (rows, columns)
  FILE.csv          numbers, with or without a header of names; also .tsv, .txt and .gz
  ...idx3-ubyte     MNIST's format, also .gz; every image is a row
A model keeps the names of the columns that it was fitted on. Columns of later data are found
by name, in any order, and those that the model does not know are ignored, with a warning.
"""

_OUT = """\
OUT ends in .npy, .npz, .csv or .png{png}.
It is written whole or not at all: if anything goes wrong, an older file stays.
"""


def _parser():
    parser = _Parser(
        prog="npgen", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Generative models on a plain CPU: fit one to data, then score, sample and embed.",
        epilog="""\
start here:
  npgen demo
  npgen fit made --data digits --out digits.npgen
  npgen sample digits.npgen -n 64 --out samples.png
  npgen score digits.npgen --data digits

npgen COMMAND --help explains a command.""")
    parser.add_argument("--version", action="version", version=f"npgen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(command, summary, *, notes="", examples):
        sub = commands.add_parser(
            command.__name__, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="\n".join([notes, "examples:", *(f"  {line}" for line in examples)]))
        sub.set_defaults(command=command)
        return sub

    def add_file(sub):
        sub.add_argument("file", metavar="FILE", help="a fitted model, as npgen fit or model.save wrote it")

    def add_device(sub):
        sub.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")

    def add_data(sub):
        sub.add_argument("--data", required=True, metavar="DATA", help="built-in data or a file, see below")

    sub = add(fit, "fit a model to data and save it", examples=[
        "npgen fit made --data digits --out digits.npgen",
        "npgen fit gmm --data faithful.csv --out faithful.npgen --set n_components=2",
        "npgen fit vae --data train-images-idx3-ubyte.gz --out mnist.npgen --epochs 50 --set hidden=400,200"],
        notes=f"""\
MODEL is one of
  gmm      mixture of Gaussians: exact density (of integers a lower bound), clusters; in seconds
  made     masked autoencoder: exact density (of integers, but 0 and 1, a lower bound)
  realnvp  normalising flow: exactly invertible, exact density (of integers a lower bound)
  vae      variational autoencoder: density bounded and estimated, compact codes

{_DATA}
While it fits, FILE.checkpoint keeps the state, some seconds old at most. Ctrl-C ends the run
with the best so far in FILE and status 130; --resume goes on from the checkpoint, to
the same bits as a run that never stopped (same data, seed and settings).

Settings for --set, with their defaults:
{_settings()}
""")
    sub.add_argument("model", metavar="MODEL", choices=sorted(MODELS), help=", ".join(sorted(MODELS)))
    add_data(sub)
    sub.add_argument("--valid", metavar="DATA", help="rows to stop by and never train on, in place of a random tenth of DATA; "
                     "not for gmm, unless --set solver=adam")
    sub.add_argument("--out", required=True, metavar="FILE", help="where to save the fitted model")
    sub.add_argument("--epochs", type=int, metavar="N", help="at most so many passes over the data (default: the model's)")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed gives the same model (default: 0)")
    sub.add_argument("--set", action="append", default=[], metavar="key=value", help="change a setting; can be repeated")
    sub.add_argument("--resume", action="store_true", help="go on from FILE.checkpoint if there is one")
    sub.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    add_device(sub)

    sub = add(score, "print the mean log-likelihood of data under a model", notes=_DATA, examples=[
        "npgen score digits.npgen --data test.csv",
        "npgen score digits.npgen --data test.csv --out nats.csv"])
    add_file(sub)
    add_data(sub)
    sub.add_argument("--out", metavar="OUT", help="write log p(x) of every row, in nats: .npy, .npz or .csv")
    add_device(sub)

    sub = add(sample, "draw new rows from a model",
              notes=_OUT.format(png=", a picture if the rows are square images or\npoints in the plane"),
              examples=["npgen sample digits.npgen -n 64 --out digits.png",
                        "npgen sample digits.npgen -n 100000 --seed 1 --out rows.npy"])
    add_file(sub)
    sub.add_argument("-n", type=_natural, default=64, metavar="N", help="rows to draw (default: 64)")
    sub.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same rows (default: new rows every time)")
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write them, see below")
    add_device(sub)

    sub = add(encode, "write the representation of every row",
              notes=f"{_DATA}\n{_OUT.format(png=', a picture of the first two principal components')}\n"
                    "What the representation is depends on the model: npgen info FILE says.\n",
              examples=["npgen encode digits.npgen --data digits --out codes.npy",
                        "npgen encode digits.npgen --data digits --out codes.png"])
    add_file(sub)
    add_data(sub)
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write them, see below")
    add_device(sub)

    sub = add(check, "check the mathematics of a model: densities, samples, derivatives, files", notes=f"""\
Runs the laws that the model promises and prints one line for each: what was measured, what is
allowed, and the smallest error it is sure to find. Status 1 if a law is broken.

{_DATA}""", examples=["npgen check digits.npgen --data digits", "npgen check realnvp", "npgen check gmm --set n_components=3"])
    sub.add_argument("model", metavar="FILE|MODEL", help=f"a fitted model, or one to fit first: {', '.join(sorted(MODELS))}")
    sub.add_argument("--data", metavar="DATA", help="rows to look at (default: drawn from FILE; moons for a MODEL)")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the check and of the fit (default: 0)")
    sub.add_argument("--epochs", type=int, default=20, metavar="N", help="of the fit (default: 20)")
    sub.add_argument("--set", action="append", default=[], metavar="key=value", help="as for npgen fit; can be repeated")
    sub.set_defaults(quiet=True)

    sub = add(info, "say what a model file holds", examples=["npgen info digits.npgen"])
    add_file(sub)

    add(config, "show versions, BLAS, threads, caches, and what would make this machine faster", examples=["npgen config"])

    sub = add(warmup, "make every kernel ready, which takes a good minute once, so that no later command pauses for it",
              examples=["npgen warmup", "npgen warmup made vae"])
    sub.add_argument("models", metavar="MODEL", nargs="*", help=f"of which models (default: all): {', '.join(sorted(MODELS))}")

    sub = add(demo, "fit four models to handwritten digits; print a table, draw pictures",
              examples=["npgen demo", "npgen demo --out pictures --seed 1"])
    sub.add_argument("--out", default="npgen-demo", metavar="FOLDER", help="folder for the pictures (default: npgen-demo)")
    sub.add_argument("--quick", action="store_true", help="a few epochs only: does everything work here?")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the split and the models (default: 0)")
    return parser


def _natural(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def _settings():
    lines = []
    for name, cls in sorted(MODELS.items()):
        defaults = {k: p.default for k, p in inspect.signature(cls).parameters.items()} | _DEFAULTS.get(name, {})
        settings = [f"{k}={value!r}" for k, value in defaults.items() if k not in _OWN_FLAGS]
        lines.append(textwrap.fill(" ".join(settings), 86, initial_indent=f"  {name:8} ", subsequent_indent=" " * 11))
    return "\n".join(lines)
