"""Files that are whole or absent: atomic writing, and the one safetensors file that holds a model.

A checkpoint is named arrays plus a JSON header, kept in the safetensors metadata together with a SHA-256 of the
whole file (the digest's own 64 digits counted as zeros). An array inside the header is a tensor too, header.0 and so on, and
{"__array__": its name} in the JSON; so is a long list of numbers, {"__list__": its name}, and of texts, {"__texts__": [of their
bytes in UTF-8, of how many each has]}. Nothing in a file is executed, evaluated or imported.

Format 3. Before were 1, whose header holds no arrays, and 2; what models have in them was laid out otherwise: models.older.
"""
import contextlib
import hashlib
import json
import os
import secrets
import shutil

import numpy as np

from .kernels._cuda import asnumpy

FORMAT = 3
LARGEST_HEADER = 2**24  # bytes: what JSON makes of a header takes up to 25 times its size
LONG = 10_000          # entries, from which on a list of numbers or texts in a header is an array
_BLANK = "0" * 64


class LoadError(ValueError):
    """A checkpoint is missing, truncated, altered, foreign, or newer than this npgen."""


def _name(path):
    """The path, which must be one: open() would take an integer for a file that is open already, and close it."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path must be the name of a file, got {path!r}")
    return path


@contextlib.contextmanager
def replacing(path):
    """Open a binary file that becomes `path` when the block ends; if anything fails, `path` stays as it was.

    The bytes go to a temporary file in the same folder, are flushed and fsynced, and the file is renamed over `path`.
    Symbolic links are followed, and an existing file's permissions are kept.

    Raises ValueError if `path` exists and is not a regular file, FileNotFoundError if its folder does not exist.
    """
    target = os.path.realpath(_name(path))
    folder = os.path.dirname(target)
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(f"{path} is not a regular file; give the path of a file to write")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path} cannot be written because the folder {folder} does not exist; make it first")
    temporary = os.path.join(folder, f".npgen-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
    with contextlib.suppress(OSError):  # the file is in place; some systems cannot fsync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write(path, arrays, header):
    """Write named arrays and a JSON header to one safetensors file, atomically.

    arrays  dict of name -> array: booleans, integers, floats up to 64 bits, any shape; dtype and shape are kept
    header  dict that JSON can hold (tuples come back as lists), up to 16 MiB of it, and arrays like these

    Raises TypeError for an array or header that the file cannot hold.
    """
    from safetensors import numpy as safetensors

    kept = {}

    def named(value):
        kept[name := f"header.{len(kept)}"] = value
        return name

    def keep(value):
        if isinstance(value, np.ndarray):
            return {"__array__": named(value)}
        if isinstance(value, dict):
            return {key: keep(each) for key, each in value.items()}
        if not isinstance(value, (list, tuple)):
            return value
        types = set(map(type, value)) if len(value) >= LONG else ()
        if types == {str}:
            each = [text.encode("utf-8", "surrogatepass") for text in value]
            counts = np.array([*map(len, each)])
            return {"__texts__": [named(np.frombuffer(b"".join(each), np.uint8)), named(counts.astype(
                np.min_scalar_type(counts.max())))]}
        if types == {float} or types == {int} and max(map(abs, value)) < 2**63:
            return {"__list__": named(np.array(value))}
        return [keep(each) for each in value]

    try:
        text = json.dumps(keep(header))
    except (TypeError, ValueError) as error:
        raise TypeError(f"header cannot be written as JSON ({error}); use plain Python values") from None
    if wrong := kept.keys() & arrays.keys():
        raise TypeError(f"arrays[{min(wrong)!r}] has the name of an array in the header; give it another")
    text = f'{{"sha256": "{_BLANK}", "format": {FORMAT}, "header": {text}}}'
    arrays = {name: np.asarray(asnumpy(value), order="C") for name, value in (arrays | kept).items()}  # strides are ignored
    for name, value in arrays.items():
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise TypeError(f"arrays[{name!r}] has dtype {value.dtype}; convert it to booleans, integers or floats")
        if name == "__metadata__":
            raise TypeError("arrays['__metadata__'] has the name that safetensors keeps for itself; give it another")
    blob = safetensors.save(arrays, {"npgen": text})
    if int.from_bytes(blob[:8], "little") > LARGEST_HEADER:
        raise TypeError(f"header takes more than {LARGEST_HEADER:,} bytes; put what is large into arrays")
    start = blob.index(_BLANK.encode())  # metadata comes first in the file, and the digest first in the metadata
    with replacing(path) as file:
        file.write(blob[:start])
        file.write(_digest(blob, start).encode())
        file.write(memoryview(blob)[start + 64:])


def read(path):
    """Read a checkpoint: (arrays, header) as they were given to `write`. Raises as read_any does."""
    return read_any(path)[:2]


def read_any(path):
    """Read a checkpoint of any format: (arrays, header) as they were given to `write`, and the number of the format.

    Raises LoadError, saying what is wrong, for a missing, empty, truncated, altered, foreign or newer file.
    """
    from safetensors import numpy as safetensors

    try:
        with open(_name(path), "rb") as file:
            blob = file.read()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a null character
        raise LoadError(f"{path!r} cannot be read: {error}") from None
    meta, text = _metadata(path, blob)
    if meta["format"] > FORMAT:
        raise LoadError(f"{path} has format {meta['format']}, this npgen reads up to {FORMAT}; upgrade npgen")
    start = blob.find(meta["sha256"].encode())
    if start < 0 or _digest(blob, start) != meta["sha256"]:
        raise LoadError(f"{path} was altered after npgen wrote it (its checksum does not match); use another copy")
    try:
        arrays = safetensors.load(blob)
    except Exception as error:  # only a forged checksum gets here: whatever the parser raises, the file is at fault
        raise LoadError(f"{path} is not a valid safetensors file ({error})") from None
    inside = meta["format"] > 1 and any(f'"{key}"' in text for key in _KEYS)
    header = _header(path, text, arrays) if inside else meta["header"]
    return {name: arrays[name] for name in sorted(arrays)}, header, meta["format"]


def _header(path, text, arrays):
    """The header in npgen's entry, with its own arrays, which are taken out of `arrays`."""
    def restore(pairs):
        table = _once(pairs)
        key = next(iter(table), None) if len(table) == 1 else None
        return _KEYS[key](table[key], arrays.pop) if key in _KEYS else table

    try:
        return json.loads(text, object_pairs_hook=restore)["header"]
    except (ValueError, TypeError, LookupError, RecursionError):  # a name that is no array's, or is there twice
        raise LoadError(f"{path} has a damaged header; use another copy") from None


def _texts(names, take):
    """The texts of which these two arrays are the bytes and how many each has."""
    letters, counts = map(take, names)
    ends = np.cumsum(counts, dtype=np.uint64).tolist()
    if letters.dtype != np.uint8 or counts.dtype.kind != "u" or ends != sorted(ends) or ends[-1:] != [len(letters)]:
        raise ValueError("the texts are damaged")
    letters = letters.tobytes()
    return [letters[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends, strict=False)]


_KEYS = {"__array__": lambda name, take: take(name), "__list__": lambda name, take: take(name).tolist(), "__texts__": _texts}


def _metadata(path, blob):
    """npgen's entry in the safetensors header, {"sha256", "format", "header"}, and its text, if the file is whole and ours."""
    if not blob:
        raise LoadError(f"{path} is empty")
    if blob[8:9] != b"{":
        raise LoadError(f"{path} is not a safetensors file; only files that model.save wrote can be read")
    head = 8 + int.from_bytes(blob[:8], "little")
    if head > len(blob):
        raise LoadError(f"{path} is truncated ({len(blob)} bytes, the header alone needs {head}); use another copy")
    if head > LARGEST_HEADER + 8:
        raise LoadError(f"{path} has a header of {head} bytes, more than any that npgen writes; use another copy")
    try:
        table = json.loads(blob[8:head], object_pairs_hook=_once)
        text = table.pop("__metadata__", {}).get("npgen")
        size = head + max((entry["data_offsets"][1] for entry in table.values()), default=0)
        meta = None if text is None else json.loads(text, object_pairs_hook=_once)
        types = None if text is None else [type(meta[key]) for key in ("sha256", "format", "header")]
        sound = text is None or (types == [str, int, dict] and meta["sha256"].isascii())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise LoadError(f"{path} has a damaged header; use another copy")
    if meta is None:
        raise LoadError(f"{path} has no npgen header; only files that model.save wrote can be read")
    if size > len(blob):
        raise LoadError(f"{path} is truncated ({len(blob)} bytes of {size}); use another copy")
    return meta, text


def _digest(blob, start):
    digest = hashlib.sha256(memoryview(blob)[:start])
    digest.update(_BLANK.encode())
    digest.update(memoryview(blob)[start + 64:])
    return digest.hexdigest()


def _once(pairs):
    """A JSON object whose names all differ: of two that are the same, one parser takes the first and another the last."""
    if len(table := dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return table
