"""The parser that the commands add themselves to, and the arguments that several of them take."""
import argparse
import codecs
import sys

from ..data.text import Dialect
from .words import say


class Parser(argparse.ArgumentParser):
    def error(self, message):
        say("error", f"{message} (see {self.prog} --help)")
        sys.exit(2)


DATA = """\
DATA is a built-in name or a file:
  digits            1,797 real handwritten digits, 8x8 images of integers 0..16
  moons, rings, pinwheel, checkerboard, eight-gaussians
                    2,000 points in the plane
  FILE.npy, .npz    an array (rows, columns)
  FILE.csv          numbers, with or without a header of names; also .tsv, .txt and .gz
  FILE.csv, .parquet    with npgen[tables]: text, dates and holes under names; such a table a
                    mixture and a made take for one also if it is numbers alone, in up to
                    100 columns
  ...idx3-ubyte     MNIST's format, also .gz; every image is a row
A model keeps the names of the columns that it was fitted on. Columns of later data are found
by name, in any order, and those that the model does not know are ignored, with a warning.
"""

OUT = """\
OUT ends in .npy, .npz or .csv{others}.
It is written whole or not at all: if anything goes wrong, an older file stays.
"""


def add_command(commands, command, summary, *, notes="", examples, add_help=True):
    """The parser of one command, a function of its arguments."""
    sub = commands.add_parser(
        command.__name__, help=summary, add_help=add_help, description=f"{summary[0].upper()}{summary[1:]}.",
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
    add_dialect(sub)


def add_dialect(sub):
    """How files of text are written, where it is not as their first line says."""
    sub.add_argument("--encoding", type=encoding, default="utf-8-sig", metavar="NAME", help="of a .csv: latin-1, cp1252, "
                     "utf-16, ... (default: UTF-8)")
    sub.add_argument("--separator", type=separator, metavar="MARK", help="what is between the cells of a .csv, such as '|' or "
                     "tab (default: the tab, semicolon or comma of its first line)")
    sub.add_argument("--decimal", choices=[".", ","], metavar="MARK", help="the mark of decimals in a .csv "
                     "(default: a point, or in all numbers of a column a comma); thousands may be marked with the other one")
    sub.add_argument("--na", action="append", default=[], metavar="TEXT", help="a text that stands for a missing value in a "
                     ".csv, beside empty cells, NA, ?, null and the like, such as --na=-999; can be repeated")


def dialect(args):
    """The Dialect of the files of text that a command reads."""
    return Dialect(args.encoding, args.separator, args.decimal, tuple(args.na))


def encoding(text):
    """The name of an encoding of text."""
    try:
        "".encode(text)
        return "utf-8-sig" if codecs.lookup(text).name == "utf-8" else text
    except (LookupError, UnicodeError, ValueError):
        raise argparse.ArgumentTypeError(f"must be the name of an encoding, such as latin-1, got {text!r}") from None


def separator(text):
    """One mark that may be between cells."""
    mark = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(mark) != 1 or not mark.isascii() or mark.isalnum() or mark in "\"\r\n.":
        raise argparse.ArgumentTypeError(f"must be one mark, such as ';', or tab, got {text!r}")
    return mark


def add_context(sub):
    sub.add_argument("--context", metavar="COLUMNS", help="the columns of DATA that are the model's context, names or numbers "
                     "from 1 with commas between them (default: those of the names that it was fitted with)")


def natural(text):
    """A positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)
