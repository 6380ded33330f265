"""Rows in blocks, which workers read one at a time: a list of .npy files, a folder of Parquet files, a Dask array or DataFrame.

Files are cut into blocks of AT_ONCE values; a chunk or partition of Dask is a block. Legend: n rows, d columns.
"""
import copy
import dataclasses
import glob
import hashlib
import os
from pathlib import Path

import numpy as np

from .. import parallel
from ..checks import check_rows
from ..tree import tree_sum
from . import frames
from .reading import is_parquet, polars
from .table import DataError

AT_ONCE = 2**22   # values of a block that is cut from a file, as of one of an array (models.mixture.rows.BLOCK)
SAMPLE = 2**22    # cells that a schema is inferred from


class Block:
    """Rows that lie beside one another, and their weights (n,) or None; a subclass says in raw() how they are read.

    name: for messages; number: which of all blocks. The rest is known once Blocks.look has been through: low, how many rows
    that count come before; dtype; mean_weight of all rows that count; schema, by which cells become numbers, or None.
    """

    name, number, low, dtype, mean_weight, schema = "X", 0, 0, None, None, None

    def raw(self):
        """(rows or a DataFrame, weights or None) as they are stored."""
        raise NotImplementedError

    def numbers(self):
        """(rows as numbers, weights) of all rows."""
        x, weights = self.raw()
        return x if self.schema is None else self.schema.encode(x), weights

    def read(self):
        """Rows (m, d) of a weight above 0 and their weights (m,), of mean 1 over all blocks, or None."""
        x, weights = self.numbers()
        x = np.ascontiguousarray(x, self.dtype)
        if weights is None or self.mean_weight is None:
            return x, None
        counts = np.asarray(weights) > 0
        return x[counts], (np.asarray(weights, np.float64)[counts] / self.mean_weight).astype(self.dtype)


@dataclasses.dataclass
class InMemory(Block):
    """Rows that are there."""

    x: object
    weights: object

    def raw(self):
        return self.x, self.weights


@dataclasses.dataclass
class OfFile(Block):
    """Rows low_in to high_in - 1 of a file, and their weights: (n,), or the name of a file (all of it) that has them."""

    path: str
    low_in: int
    high_in: int
    weights: object = None

    @property
    def name(self):
        return f"{self.path}, from row {self.low_in},"

    def raw(self):
        weights = self.weights
        if isinstance(weights, str):
            weights = _array(weights)[self.low_in:self.high_in]
        if is_parquet(self.path):
            return polars(self.path).scan_parquet(self.path).slice(self.low_in, self.high_in - self.low_in).collect(), weights
        return _array(self.path)[self.low_in:self.high_in], weights


@dataclasses.dataclass
class OfDask(Block):
    """A chunk of a Dask array, or a partition of a DataFrame, and that of its weights or None: delayed objects."""

    chunk: object
    weights: object
    name: str

    def lazy(self):
        """The block in the memory of the worker that has the chunk, delayed."""
        from dask import delayed
        known = {key: getattr(self, key) for key in ("name", "number", "low", "dtype", "mean_weight", "schema")}
        return delayed(_in_memory)(self.chunk, self.weights, delayed(known, traverse=False))

    def raw(self):
        return self.lazy().compute(scheduler="synchronous").raw()


def _in_memory(x, weights, known):
    block = InMemory(x, weights)
    vars(block).update(known)
    return block


def _array(path):
    """A .npy file, mapped into memory."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if not os.path.exists(path):
            raise DataError(f"{path}: no such file") from None
        raise DataError(f"{path} is damaged or no .npy file of numbers ({str(error).partition(chr(10))[0][:200]})") from None


@dataclasses.dataclass(frozen=True)
class _Look:
    """What one look at a block finds; of weight above 0 are `counting` rows, of these the sum of weights."""

    n: int
    d: int
    dtype: np.dtype
    counting: int
    weight: float
    equal: tuple  # the smallest and the largest of these weights
    digest: bytes


class Blocks:
    """Rows in blocks: each, a list of Blocks; after look() also len(), d, dtype, names, n_counting and weight.

    Of Dask's: like, what a chunk or partition without rows is; lengths of them all, NaN where they are not known.
    """

    like = lengths = None

    def __init__(self, each, framed):
        self.each, self.framed = each, framed
        for number, block in enumerate(each):
            block.number = number

    @classmethod
    def of(cls, X, sample_weight=None):
        """The blocks of X, or None where it is nothing that comes in blocks. Raises DataError for files there are not."""
        if hasattr(X, "__dask_graph__") and hasattr(X, "to_delayed"):
            return cls._of_dask(X, sample_weight)
        paths = _files(X)
        return None if paths is None else cls._of_files(paths, sample_weight)

    @classmethod
    def _of_dask(cls, X, sample_weight):
        framed, weights = not hasattr(X, "chunks"), None
        if not framed:
            if X.ndim != 2:
                raise ValueError(f"X must have two dimensions, rows and features, got shape {X.shape}")
            X = X.rechunk({1: -1}) if X.shape[1] and X.numblocks[1] > 1 else X
        chunks = list(np.ravel(np.array(X.to_delayed(), dtype=object)))
        if sample_weight is not None:
            if not hasattr(sample_weight, "to_delayed"):
                lengths = None if framed else X.chunks[0]
                if lengths is None or np.isnan(lengths).any():
                    raise ValueError("sample_weight must be a Dask array or Series in the chunks of X, whose lengths are not "
                                     f"known, got {type(sample_weight).__name__}")
                weights = np.split(_vector(sample_weight, int(np.sum(lengths))), np.cumsum(lengths)[:-1])
            else:
                weights = list(np.ravel(np.array(sample_weight.to_delayed(), dtype=object)))
            if len(weights) != len(chunks):
                raise ValueError(f"sample_weight has {len(weights)} chunks, but X has {len(chunks)}; give it those of X")
        names = [f"X, in chunk {i}," for i in range(len(chunks))]
        found = cls([OfDask(*each) for each in zip(chunks, weights or [None] * len(chunks), names, strict=True)], framed)
        found.like = X._meta if framed else np.empty((0, X.shape[1]), X.dtype)
        found.lengths = [np.nan] * len(chunks) if framed else X.chunks[0]
        return found

    @classmethod
    def _of_files(cls, paths, sample_weight):
        lengths, framed, each = [], is_parquet(paths[0]), []
        for path in paths:
            lengths.append(_shape(path))
        n, weights = sum(n for n, _ in lengths), [None] * len(paths)
        if sample_weight is not None:
            of_weights = _files(sample_weight)
            if of_weights is None:
                ends = np.cumsum([n for n, _ in lengths])
                weights = np.split(_vector(sample_weight, n), ends[:-1])
            elif [_array(path).shape for path in of_weights] != [(n,) for n, _ in lengths]:
                raise ValueError("sample_weight must be .npy files of as many weights (n,) as those of X have rows")
            else:
                weights = of_weights
        for path, (n, d), own in zip(paths, lengths, weights, strict=True):
            size = max(1, AT_ONCE // max(1, d))
            for low in range(0, n, size):
                part = own if own is None or isinstance(own, str) else own[low:low + size]
                each.append(OfFile(path, low, min(low + size, n), part))
        if not each:
            raise DataError(f"{paths[0]} and what is with it have no rows")
        return cls(each, framed)

    def look(self, method, *, dtype, missing, digest, describe=None):
        """These blocks, whose rows were all read once and are right, and know what each has to know of all.

        describe(frame): of DataFrames, some rows of which it is given, the Schema, and the dtype of its numbers. Raises as
        checks.check_rows and check_weights do.
        """
        workers, blocks = parallel.current(), [copy.copy(block) for block in self.each]
        if self.framed:
            some = [frame for frame in workers.map_blocks(_some, blocks, SAMPLE // len(blocks)) if len(frame)]
            if not some:
                raise ValueError(f"{method}: X has no rows")
            schema, dtype = describe(frames.joined(some))
            for block in blocks:
                block.schema = schema
        looks = workers.map_blocks(_look, blocks, method, dtype, missing, digest)
        for block, look in zip(blocks, looks, strict=True):
            if look.d != looks[0].d:
                raise ValueError(f"{method}: {block.name} has {look.d} columns, but {blocks[0].name} has {looks[0].d}")
        found, low = Blocks(blocks, self.framed), 0
        found.n, found.d, found.n_counting = (sum(look.n for look in looks), looks[0].d, sum(look.counting for look in looks))
        found.dtype = np.dtype(dtype) if self.framed else max((look.dtype for look in looks if look.n), default=np.dtype(dtype),
                                                             key=lambda dtype: dtype.itemsize)
        found.names = schema.names if self.framed else None
        if not found.n_counting and found.n:
            raise ValueError(f"{method}: sample_weight is zero everywhere; at least one row must count")
        weighted = any(look.equal[0] < look.equal[1] or look.counting < look.n for look in looks) or len(
            {look.equal for look in looks if look.counting}) > 1
        found.weight = tree_sum((look.weight for look in looks), len(looks))
        for block, look in zip(blocks, looks, strict=True):
            block.low, block.dtype = low, found.dtype
            block.mean_weight = found.weight / found.n_counting if weighted else None
            low += look.counting
        found.digest = hashlib.sha256(b"".join(look.digest for look in looks)).hexdigest() if digest else None
        return found

    def __len__(self):
        return self.n

    def check(self, function):
        """function(words, x) of the rows of every block, which raises where they are wrong."""
        parallel.current().map_blocks(_check, self.each, function)


def _some(n, block):
    """Evenly spaced rows of about n cells of a frame."""
    frame = block.raw()[0]
    step = max(1, -(-len(frame) * max(1, frame.shape[1]) // max(1, n)))
    return frame[::step]


def _look(method, dtype, missing, digest, block):
    x, weights = block.numbers()
    if block.schema is not None:
        x = x.astype(dtype)
    x = check_rows(method, x, name=block.name, dtype=dtype, missing=missing)
    if weights is None:
        w = np.ones(len(x))
    else:
        w = np.asarray(weights, np.float64)
        if w.shape != (len(x),) or not (np.isfinite(w).all() and (w >= 0).all()):
            raise ValueError(f"{method}: sample_weight of {block.name} must be finite, 0 or more, and one for each of its "
                             f"{len(x)} rows")
    counting = w[w > 0]
    ends = (float(counting.min()), float(counting.max())) if len(counting) else (0.0, 0.0)
    parts = (f"{x.shape} {x.dtype} {weights is None}".encode(), x, w) if digest else ()
    found = hashlib.sha256(b"".join(hashlib.sha256(np.ascontiguousarray(part)).digest() for part in parts)).digest()
    return _Look(len(x), x.shape[1], x.dtype, len(counting), float(counting.sum()), ends, found)


def _check(function, block):
    function(f"fit: {block.name}", block.read()[0])


def _vector(weights, n):
    weights = np.asarray(weights)
    if weights.shape != (n,):
        raise ValueError(f"sample_weight has shape {weights.shape}, but X has {n} rows; pass one weight per row")
    return weights


def _files(X):
    """The paths that X names, as strings: a list of .npy or of Parquet files, a folder of them, a pattern; else None."""
    if isinstance(X, (str, os.PathLike)):
        path = os.fspath(X)
        if isinstance(path, str) and os.path.isdir(path):
            files = sorted(str(file) for file in Path(path).iterdir() if is_parquet(file) or file.suffix == ".npy")
            if not files:
                raise DataError(f"{path} is not a file, and a folder without .parquet or .npy files; give a path of some")
        elif isinstance(path, str) and is_blocks(path):
            files = sorted(glob.glob(path))
            if not files:
                raise DataError(f"{path}: there are no such files")
        else:
            return None
    elif isinstance(X, (list, tuple)) and X and all(isinstance(path, (str, os.PathLike)) for path in X):
        files = [str(os.fspath(path)) for path in X]
        if not any(is_parquet(path) or path.endswith(".npy") for path in files):
            return None
    else:
        return None
    for path in files:
        if is_parquet(path) != is_parquet(files[0]) or not (is_parquet(path) or path.endswith(".npy")):
            raise DataError(f"{path} is not of the kind of {files[0]}; give .npy files alone, or Parquet files alone")
        if not os.path.isfile(path):
            raise DataError(f"{path}: no such file")
    return [os.path.abspath(path) for path in files]


def is_blocks(path):
    """Whether a text names several files: a folder, or a pattern that is no file itself."""
    return os.path.isdir(path) or glob.has_magic(path) and not os.path.exists(path)


def _shape(path):
    """(n, d) of a file."""
    if not is_parquet(path):
        array = _array(path)
        if array.ndim != 2 or array.dtype.kind not in "biuf":
            raise DataError(f"{path} holds {array.dtype} of shape {array.shape}; save numbers (rows, columns)")
        return array.shape
    pl = polars(path)
    try:
        scan = pl.scan_parquet(path)
        return scan.select(pl.len()).collect().item(), len(scan.collect_schema())
    except Exception as error:  # whatever a parser raises, the file is at fault
        raise DataError(f"{path} is damaged or no .parquet file ({str(error).splitlines()[0][:200]})") from None
