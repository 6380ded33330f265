"""Rows from files and to files: columns found by name, outputs that can be written, before any work is done."""
import contextlib
import importlib.util
import os
from itertools import islice
from pathlib import Path

from .. import data
from ..checks import with_article
from ..models import files
from ..models.base import Model
from ..warn import warn
from ..words import count

TABLES = data.OUTPUTS
FILES = (*TABLES, ".png")


def model_in(path, device="cpu"):
    """The model in a file. Raises ValueError for a classifier, whose queries take labels, and what files.load raises."""
    model = files.load(path)
    if not isinstance(model, Model):
        raise ValueError(f"{path} holds {with_article(model)}, which the command line does not ask; use it in Python")
    return model.to(device)


def rows_of(found, known, n_columns, file, has="was fitted on", without=()):
    """The rows of a data.Source, their columns those, n_columns of names `known` or None, that `file` was fitted on, or has.

    They are found by name if both have names. without: numbers of columns that are not among them.
    """
    source, rest = found.path, [j for j in range(found.width) if j not in without]
    names = found.names and [found.names[j] for j in rest]
    if names and known:
        check_names(source, names, known, file, has)
        x = found.rows(None if found.names == known else [found.find(name) for name in known])
        warn_of_others(source, names, known, file, has)
        return x
    if len(rest) != n_columns:
        beside = " beside the context" if without else ""
        raise ValueError(f"{source} has {count(len(rest), 'column')}{beside}, but {file} {has} {n_columns}; "
                         "give data with the same columns")
    x = found.rows(rest if without else None)
    if known:
        warn(f"{source} has no names of columns; they are taken to be those that {file} {has}: {listed(known)}")
    elif names:
        warn(f"{file} has no names of columns; those of {source} are taken in their order; fit to data with names to have "
             "them compared")
    return x


def check_names(source, names, known, file, has):
    """Raise ValueError unless all known names are among those of a source."""
    missing, others = (listed(n for n in a if n not in b) for a, b in ((known, names), (names, known)))
    if missing:
        raise ValueError(f"{source} has no column {missing}, which {file} {has}"
                         + (f"; it has {others} instead" if others else "") + "; give data with the same columns")


def warn_of_others(source, names, known, file, has):
    """Warn of the names of a source that are not among those known."""
    others = listed(name for name in names if name not in known)
    if others:
        warn(f"{source}: {others} left out, because {file} {has} no column of that name")


@contextlib.contextmanager
def about(path):
    """What is refused of rows is said to be of the file, or of the argument, that they are from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def names_of(model):
    """The names of the columns that a model was fitted on, or None."""
    return list(names) if (names := getattr(model, "feature_names_in_", None)) is not None else None


def named(model, x):
    """Rows whose columns are those that the model was fitted on, under their names."""
    return data.Table(x, names_of(model)) if names_of(model) else x


def listed(names):
    """The first of some names, for a message."""
    first = [repr(name) for name in islice(names, 9)]
    return ", ".join([*first[:8], "..."] if len(first) > 8 else first)


def check_output(path, suffixes=None, inputs=()):
    """Raise before the work is done if its result could not be written, or would take the place of one of the inputs."""
    if not path:
        raise ValueError("--out is empty; give the path of a file to write")
    folder = os.path.dirname(os.path.realpath(path))
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"{path} has no known format; end its name in {', '.join(suffixes)}")
    for read in inputs:
        if read is not None and os.path.exists(path) and os.path.exists(read) and os.path.samefile(path, read):
            raise ValueError(f"--out {path} is the file that is read, and would take its place; give another path")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; give the path of a file to write")
    if not os.path.isdir(folder):
        raise ValueError(f"{path} cannot be written because the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written because the folder {folder} is read-only; give another")
    if path.lower().endswith(".png") and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{path}: pictures need matplotlib, which is not installed; pip install matplotlib")
