"""Arrays in .npy, .npz and idx files: never unpickled, and never larger than the bytes that they come from allow.

Legend: n rows, d columns.
"""
import gzip
import math
import os
import struct
import zipfile

import numpy as np

from .table import DataError, check_finite

_DEFLATE = 1032  # the most that deflate can expand a byte
_IDX = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_npy(path, missing=False):
    with open(path, "rb") as file:
        names = _check_header(path, file, os.path.getsize(path))
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return check_finite(path, _unstructured(array) if names else _native(array), missing=missing), names


def read_npz(path, missing=False):
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
        return check_finite(label, _unstructured(array) if array.dtype.names else _native(array), missing=missing), names


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


def read_idx(path, missing=False):
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
    return check_finite(path, _native(np.frombuffer(values, dtype).reshape(shape))), None


def _native(array):
    return array.astype(array.dtype.newbyteorder("="), copy=False)
