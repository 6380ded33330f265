"""Data in and out: the embedded digits, toy densities, readers that say which cell is wrong, an atomic writer.

Readers never unpickle, and check the sizes that a file declares against the bytes it has before they allocate.
Rows and columns are counted from 1 in messages. Legend: n rows, d columns.
"""
import csv
import dataclasses
import gzip
import io
import math
import os
import re
import struct
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np

from . import checkpoint
from .warn import warn

OUTPUTS = (".npy", ".npz", ".csv")
_BLOCK = 1 << 22  # values checked at a time: keeps the temporaries of a memory-mapped file small
_DEFLATE = 1032  # the most that deflate can expand a byte
_IDX = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_MISSING = {"", "?", "-", "na", "n/a", "null", "none"}


class DataError(ValueError):
    """A data set cannot be read or written; the message names the file, row and column, and says what to do."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows (n, d) and the names of their columns, or None: a model takes it as it takes a DataFrame.

    table[["b", "a"]] has these columns, in this order; table[:10], table[[3, 1]] and table[mask] (n,) have these rows.
    """

    rows: np.ndarray
    columns: list | None

    @property
    def shape(self):
        return self.rows.shape

    def __len__(self):
        return len(self.rows)

    def __array__(self, dtype=None, copy=None):
        return self.rows.astype(dtype or self.rows.dtype, copy=bool(copy))

    def __getitem__(self, key):
        several = isinstance(key, slice) or np.ndim(key) == 1
        names = [] if isinstance(key, slice) or not several else [each for each in key if isinstance(each, str)]
        if not several or 0 < len(names) < len(key) or not set(names) <= set(self.columns or ()):
            raise KeyError(f"a Table takes a list of its columns {self.columns}, or a slice or an array of rows, "
                           f"got {key!r}"[:200])
        if names:
            return Table(self.rows[:, [self.columns.index(name) for name in names]], names)
        return Table(self.rows[key], self.columns)


def load(source, *, n=None, seed=0):
    """The rows of a built-in data set or of a file: (n, d), numbers as they are stored.

    source  a built-in name: digits, moons, rings, pinwheel, checkerboard, eight-gaussians; or a path:
            .npy (memory-mapped); .npz (its only array, or the one named x, X or data); .csv, .tsv, .txt (comma,
            semicolon or tab, with or without a header; also .gz); MNIST's idx (also .gz; images become rows)
    n       rows: the first n of the digits or a file, default all; how many to draw of a toy density, default 2,000
    seed    of a toy density

    Raises DataError for names and files that do not exist, damaged files, cells that are no finite numbers.
    """
    return _load(source, n, seed)[0]


def load_table(source, *, n=None, seed=0):
    """The Table of a built-in data set or of a file: what load gives, and the names of the columns if the file has them.

    Names are the header of a .csv, .tsv or .txt, the fields of a structured .npy, the array `columns` (d,) of an .npz. A first
    row is a header if anything in it is a word: not a number, a missing value, or what begins as a number does.

    Raises DataError as load does, and for columns of the same name or names of another number.
    """
    rows, names = _load(source, n, seed)
    if names and len(names) != rows.shape[1]:
        raise DataError(f"{source} has {len(names)} names for {rows.shape[1]} columns; give every column one")
    first = {}
    for j, name in enumerate(names or (), 1):
        if first.setdefault(name, j) != j:
            raise DataError(f"{source}: columns {first[name]} and {j} are both named {name!r}; give each a name of its own")
    return Table(rows, names)


def _load(source, n, seed):
    source = os.fspath(source)
    if n is not None and n < 1:
        raise DataError(f"n is {n}; ask for at least one row")
    if source in TOYS:
        return TOYS[source](2000 if n is None else n, seed), None
    array, names = (digits()[0], None) if source == "digits" else _read(source)
    if n is not None and n > len(array):
        raise DataError(f"{source} has {len(array)} rows; ask for no more than that (n is {n})")
    return array[:n], names


def digits():
    """The 1,797 handwritten digits of UCI's optical recognition set: X (1797, 64) float32, y (1797,) int64.

    Rows are 8x8 images; values are the integers 0..16, the count of inked pixels in a 4x4 block.
    E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    doi:10.24432/C50P49, licensed CC BY 4.0; see _assets/digits.txt.
    """
    with np.load(Path(__file__).parent / "_assets" / "digits.npz", allow_pickle=False) as file:
        return file["x"].astype(np.float32), file["y"].astype(np.int64)


def moons(n, seed=0):
    """Two interleaved half circles of radius 2 with normal noise of std 0.2: (n, 2)."""
    rng = np.random.default_rng(seed)
    angle, lower = rng.uniform(0, np.pi, n), rng.integers(0, 2, n)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 - 2 * lower[:, None]) + lower[:, None] * [1, 0.5]
    return 2 * (x - [0.5, 0.25]) + 0.2 * rng.standard_normal((n, 2))


def rings(n, seed=0):
    """Four circles of radius 0.75, 1.5, 2.25 and 3 with normal noise of std 0.1: (n, 2)."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, n), 0.75 * rng.integers(1, 5, n)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.standard_normal((n, 2))


def pinwheel(n, seed=0):
    """Five curved arms, twisted by exp(radius) / 4 (after Johnson et al. 2016): (n, 2)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2)) * [0.3, 0.1] + [1, 0]
    angle = 2 * np.pi / 5 * rng.integers(0, 5, n) + 0.25 * np.exp(x[:, 0])
    cos, sin = np.cos(angle), np.sin(angle)
    return 2 * np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=1)


def checkerboard(n, seed=0):
    """Uniform on the eight black squares, of side 2, of a 4x4 board on [-4, 4]^2; density 1/32 there: (n, 2)."""
    rng = np.random.default_rng(seed)
    column = rng.integers(0, 4, n)
    row = 2 * rng.integers(0, 2, n) + column % 2
    return 2 * (np.stack([column, row], axis=1) + rng.uniform(size=(n, 2))) - 4


def eight_gaussians(n, seed=0):
    """Eight normals of std 0.25, evenly spaced on a circle of radius 3: (n, 2)."""
    rng = np.random.default_rng(seed)
    angle = np.pi / 4 * rng.integers(0, 8, n)
    return 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.25 * rng.standard_normal((n, 2))


TOYS = {"moons": moons, "rings": rings, "pinwheel": pinwheel, "checkerboard": checkerboard,
        "eight-gaussians": eight_gaussians}
BUILT_IN = ("digits", *TOYS)


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
            file.write(_header(path, columns))
            rows = array.astype(np.uint8) if array.dtype == bool else array
            rows = rows[:, None] if array.ndim == 1 else rows
            file.writelines((",".join(map(str, row)) + "\n").encode() for row in rows)


def _header(path, columns):
    """The first line of a .csv file: names that _csv_layout finds again, or nothing."""
    names = [" ".join(name.splitlines()) for name in columns or ()]
    if names and not any(map(_is_name, names)):
        warn(f"{path} has no header, because names that look like numbers ({', '.join(names[:3])}, ...) would be read as a "
             "row; rename the columns before fit to have one")
        return b""
    line = io.StringIO()
    quoting = csv.QUOTE_ALL if any(mark in name for name in names for mark in ";\t") else csv.QUOTE_MINIMAL
    csv.writer(line, lineterminator="\n", quoting=quoting).writerow(names)
    return line.getvalue().encode() if names else b""


def _read(path):
    """The rows in a file, and the names of their columns or None."""
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file, nor built-in data of that name; built in are {', '.join(BUILT_IN)}")
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a file; give the path of one")
    name = os.path.basename(path).lower().removesuffix(".gz")
    suffix = os.path.splitext(name)[1]
    if suffix in (".npy", ".npz") and path.lower().endswith(".gz"):
        raise DataError(f"{path}: unpack it first; only .csv and idx files are read through gzip")
    read = (_read_npy if suffix == ".npy" else _read_npz if suffix == ".npz" else
            _read_csv if suffix in (".csv", ".tsv", ".txt") else _read_idx if "idx" in name else None)
    if read is None:
        raise DataError(f"{path} has no known format; give a .npy, .npz, .csv or idx file")
    if os.path.getsize(path) == 0:
        raise DataError(f"{path} is empty")
    try:
        return read(path)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever a parser raises, the file is at fault
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} is damaged or not what its name says ({reason}); use another copy") from None


def _read_npy(path):
    with open(path, "rb") as file:
        names = _check_header(path, file, os.path.getsize(path))
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _check_finite(path, _unstructured(array) if names else _native(array)), names


def _read_npz(path):
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        name = next((name for name in ("x", "X", "data") if name in entries), None)
        if name is None and len(entries) != 1:
            raise DataError(f"{path} holds {', '.join(entries) or 'nothing'}; save one, or name the one to read x")
        label, info = (f"{path}[{name}]", entries[name]) if name else (path, *entries.values())

        def size(info):
            return min(info.file_size, min(info.compress_size, os.path.getsize(path)) * _DEFLATE)

        with archive.open(info) as file:
            names = _check_header(label, file, size(info))
        with archive.open(info) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if name and not names and "columns" in entries:
            names = _read_names(archive, entries["columns"], size(entries["columns"]))
        return _check_finite(label, _unstructured(array) if array.dtype.names else _native(array)), names


def _read_names(archive, info, size):
    """The names of columns in an entry of `size` bytes, or None if that is not what it holds."""
    with archive.open(info) as file:
        shape, dtype = _declared(file)
    if dtype.kind != "U" or len(shape) != 1 or math.prod(shape) * dtype.itemsize > size:
        return None
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False).tolist()


def _unstructured(array):
    """The fields of a structured array (n,) as columns (n, d)."""
    return np.stack([_native(array[name]) for name in array.dtype.names], axis=1)


def _declared(file):
    """The shape and dtype that .npy data begin with."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _check_header(path, file, size):
    """Raise DataError unless the .npy data that begin here, of `size` bytes, hold a whole array (n, d) of numbers.

    Returns the names of the columns if it is (n,) of fields that are numbers, else None.
    """
    shape, dtype = _declared(file)
    fields = [dtype[name] for name in dtype.names or ()]
    if not all(each.kind in "biuf" for each in fields or [dtype]):
        what = "Python objects, which are never loaded" if dtype.hasobject else f"{dtype}, not numbers"
        raise DataError(f"{path} holds {what}; save an array of floats or integers")
    _check_shape(path, (*shape, len(fields)) if fields else shape)
    need, have = math.prod(shape) * dtype.itemsize, size - file.tell()
    if need > have:
        raise DataError(f"{path} is truncated: shape {shape} takes {need} bytes, it has {have}; use another copy")
    return list(dtype.names) if fields else None


def _check_shape(path, shape):
    if len(shape) != 2:
        raise DataError(f"{path} has shape {shape}; reshape it to (rows, columns)")
    if min(shape) < 1:
        raise DataError(f"{path} has shape {shape}: it needs at least one row and one column")


def _read_idx(path):
    packed = path.lower().endswith(".gz")
    with gzip.open(path) if packed else open(path, "rb") as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX:
            raise DataError(f"{path} is not an idx file: it begins with {magic.hex(' ')}; give the file as published")
        dtype, shape = np.dtype(_IDX[magic[2]]), struct.unpack(f">{magic[3]}I", file.read(4 * magic[3]))
        shape = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else shape
        _check_shape(path, shape)
        need = math.prod(shape) * dtype.itemsize
        have = os.path.getsize(path) * (_DEFLATE if packed else 1)
        values = file.read(need) if need <= have else b""
        if len(values) < need:
            raise DataError(f"{path} is truncated: shape {shape} takes {need} bytes, it has fewer; use another copy")
    return _check_finite(path, _native(np.frombuffer(values, dtype).reshape(shape))), None


def _native(array):
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_finite(path, array, place=None):
    """Return the array, or raise DataError naming its first cell that is NaN or infinite."""
    step = max(1, _BLOCK // array.shape[1])
    for start in range(0, len(array) if array.dtype.kind == "f" else 0, step):
        finite = np.isfinite(array[start:start + step])
        if not finite.all():
            row, column = np.argwhere(~finite)[0] + [start, 0]
            where = place(row, column) if place else f"row {row + 1}, column {column + 1} (x[{row}, {column}])"
            raise DataError(f"{path}: {where} is {array[row, column]}; fill it in or remove the row")
    return array


def _read_csv(path):
    delimiter, header, n_skip = _csv_layout(path)
    try:
        with _text(path) as file:
            for _ in range(n_skip):
                file.readline()
            array = np.loadtxt(file, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
    except ValueError as error:
        raise _csv_fault(path, delimiter, header, error) from None
    if header and len(header) != array.shape[1]:
        raise _csv_fault(path, delimiter, header, None)

    def place(row, column):
        line, _ = next(islice(_csv_rows(path, delimiter, header), row, None))
        return _csv_place(row, line, column, header)

    return _check_finite(path, array, place), header


def _csv_layout(path):
    """The delimiter, the header's names (or None) and the number of lines before the first row."""
    with _text(path) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        number, first = next(lines, (0, ""))
        bare = re.sub(r'"[^"]*"', "", first)
        delimiter = "\t" if "\t" in bare else ";" if ";" in bare else ","
        names = next(csv.reader([first.strip("\r\n")], delimiter=delimiter), [])
        is_header = any(_is_name(name) for name in names)
        if not names or is_header and next(lines, None) is None:
            raise DataError(f"{path} has {'a header but ' if names else ''}no rows")
    return delimiter, [name.strip() for name in names] if is_header else None, number if is_header else 0


def _csv_fault(path, delimiter, header, error):
    """The DataError for the first row or cell of a .csv file that does not fit."""
    width, model = (len(header), "the header") if header else (None, "row 1")
    for row, (line, fields) in enumerate(_csv_rows(path, delimiter, header)):
        width = width or len(fields)
        if len(fields) != width:
            return DataError(f"{path}: row {row + 1} (line {line}) has {len(fields)} columns, {model} has {width}; "
                             "correct or remove it")
        column = next((i for i, field in enumerate(fields) if not _is_number(field)), None)
        if column is not None:
            what = repr(fields[column][:40]) + ", not a number" if fields[column].strip() else "empty"
            place = _csv_place(row, line, column, header)
            return DataError(f"{path}: {place} is {what}; correct it, or remove the row or the column")
    return DataError(f"{path} cannot be read as numbers ({error}); write plain decimal numbers, one row to a line")


def _csv_rows(path, delimiter, header):
    """(line number, fields) of every row below the header."""
    with _text(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        rows = ((reader.line_num, fields) for fields in reader if fields)
        yield from islice(rows, 1 if header else 0, None)


def _csv_place(row, line, column, header):
    name = f" ({header[column]!r})" if header else ""
    return f"row {row + 1} (line {line}), column {column + 1}{name}"


def _is_name(field):
    """Neither a number, nor a missing value, nor a misspelt number: a first row with one of these is a header."""
    return not (_is_number(field) or field.strip().lower() in _MISSING or re.match(r"\s*[\d+.-]", field))


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return field.isascii() and "_" not in field


def _text(path):
    opened = gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")
    return io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")
