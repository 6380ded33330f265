"""Data in and out: the embedded digits, toy densities, readers that say which cell is wrong, an atomic writer.

Readers never unpickle, and check the sizes that a file declares against the bytes it has before they allocate.
Rows and columns are counted from 1 in messages. Legend: n rows, d columns.
"""
from pathlib import Path

import numpy as np

from .. import checkpoint
from .schema import Schema
from .source import Source
from .table import DataError, Table
from .text import header_line
from .toys import BUILT_IN, TOYS, checkerboard, digits, eight_gaussians, moons, pinwheel, rings

__all__ = ["BUILT_IN", "DataError", "OUTPUTS", "Schema", "Source", "TOYS", "Table", "binarize", "checkerboard", "digits",
           "eight_gaussians", "load", "load_table", "moons", "pinwheel", "rings", "train_test_split", "write"]

OUTPUTS = (".npy", ".npz", ".csv")


def load(source, *, n=None, seed=0):
    """The rows of a built-in data set or of a file: (n, d), numbers as they are stored.

    source  a built-in name: digits, moons, rings, pinwheel, checkerboard, eight-gaussians; or a path:
            .npy (memory-mapped); .npz (its only array, or the one named x, X or data); .csv, .tsv, .txt (comma,
            semicolon or tab, with or without a header; also .gz); MNIST's idx (also .gz; images become rows)
    n       rows: the first n of the digits or a file, default all; how many to draw of a toy density, default 2,000
    seed    of a toy density

    Raises DataError for names and files that do not exist, damaged files, cells that are no finite numbers.
    """
    return Source(source, n=n, seed=seed).rows()


def load_table(source, *, n=None, seed=0, columns=None):
    """The Table of a built-in data set or of a file: what load gives, and the names of the columns if the file has them.

    columns: the names, or the numbers from 0, of those to give, in this order; default all. Others in a .csv may be text.
    Names are the header of a .csv, .tsv or .txt, the fields of a structured .npy, the array `columns` (d,) of an .npz. A first
    row is a header if anything in it is a word: not a number, a missing value, or what begins as a number does.

    Raises DataError as load does, for columns of the same name or names of another number, and for columns there are not.
    """
    source = Source(source, n=n, seed=seed)
    names = source.names
    columns = None if columns is None else [source.find(column) for column in columns]
    return Table(source.rows(columns), names if columns is None or names is None else [names[j] for j in columns])


def train_test_split(x, test_fraction=0.2, seed=0):
    """Two random disjoint parts of the rows: (train, test).

    The split depends on len(x) and the seed only, so the labels of x split alike in a second call.
    """
    n_test = round(len(x) * test_fraction)
    if not 0 < n_test < len(x):
        raise ValueError(f"test_fraction {test_fraction} of {len(x)} rows leaves an empty part; give both some rows")
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order[n_test:]], x[order[:n_test]]


def binarize(x, threshold):
    """1 where x >= threshold, else 0, in the dtype of x."""
    return (x >= threshold).astype(x.dtype)


def write(path, array, columns=None):
    """Write array (n, d), or (n,) as one column, to a .npy, .npz (named x) or .csv file, atomically.

    Numbers in .csv have as many digits as it takes to read the same ones back. columns: names (d,), written as the header of
    a .csv and the array `columns` of an .npz; a .npy file has no place for them.

    Raises DataError for other names and shapes. Warns where names look like numbers and a header would be read as a row.
    """
    suffix = Path(path).suffix.lower()
    array = np.asarray(array)
    if suffix not in OUTPUTS:
        raise DataError(f"{path} has no known format; end its name in {', '.join(OUTPUTS)}")
    if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {array.dtype} of shape {array.shape} cannot be written; give numbers (n, d)")
    with checkpoint.replacing(path) as file:
        if suffix == ".npy":
            np.save(file, array, allow_pickle=False)
        elif suffix == ".npz":
            np.savez_compressed(file, x=array, **({} if columns is None else {"columns": np.array(columns, str)}))
        else:
            file.write(header_line(path, columns))
            rows = array.astype(np.uint8) if array.dtype == bool else array
            rows = rows[:, None] if array.ndim == 1 else rows
            file.writelines((",".join(map(str, row)) + "\n").encode() for row in rows)
