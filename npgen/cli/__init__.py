"""The command `npgen`: fit, score, explain, sample, encode, impute, report, check, schema, info, config, warmup, demo.

A command is one function; it checks where it is to write before it works, and imports what only it needs. Whatever the
user can put right is one line on stderr and exit status 2; Ctrl-C is status 130.

    fitting   fit, check                    parser    how a command says what it takes
    queries   score, explain, sample, ...   sources   rows and columns of files
    tables    schema                        words     what is printed; interrupts  Ctrl-C
    reporting report                        about     info, config, warmup, demo
"""
import argparse
import contextlib
import os
import sys
import warnings

from .. import parallel
from ..kernels import DeviceError
from ..version import __version__
from . import about, fitting, queries, reporting, tables
from .interrupts import ctrl_c
from .parser import Parser
from .words import say


def main(argv=None):
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say("warning", message)
        try:
            with ctrl_c(), _ranks(args):
                return args.command(args) or 0
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        except BrokenPipeError:  # the reader of a pipe went away: npgen info FILE | head -1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (OSError, ValueError, TypeError, ImportError, MemoryError, DeviceError, parallel.WorkersError) as error:
            named = isinstance(error, OSError) and error.strerror and error.filename
            say("error", f"{error.filename}: {error.strerror}" if named else str(error) or type(error).__name__)
            return 2
        except RuntimeError as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):  # so Python passes on a Ctrl-C while it makes a class
                raise
            say("interrupted")
            return 130


@contextlib.contextmanager
def _ranks(args):
    """Where mpirun has started several of this command: a fit is shared by them, and the first prints, warns and saves."""
    if parallel.n_ranks() == 1:
        yield
        return
    with parallel.current().together():
        if args.command is not fitting.fit:
            raise ValueError(f"mpirun has started {parallel.n_ranks()} of this command, which share a fit alone; run one")
        yield


def _parser():
    parser = Parser(
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
    for add in (fitting.add_fit, queries.add_score, queries.add_explain, queries.add_sample, queries.add_encode,
                queries.add_impute, reporting.add_report, fitting.add_check, tables.add_schema, about.add_to):
        add(commands)
    return parser
