"""A model's file: its hyperparameters as JSON and arrays, and load, which makes the model again."""
import numpy as np

from .. import checkpoint, transforms
from ..checkpoint import LoadError
from ..checks import one_line
from ..heads import Head, from_config
from ..kernels._cuda import asnumpy
from .older import upgrade


def load(path):
    """The model in a file that save() wrote; nothing in the file is executed, evaluated or imported by name.

    Raises LoadError if the file is missing, truncated, altered or not a model of npgen.
    """
    from . import CLASSES
    arrays, header, number = checkpoint.read_any(path)
    name = header.get("class")
    if not isinstance(name, str) or name not in CLASSES:
        kind = "a training checkpoint: fit with resume=True" if str(name) == "checkpoint" else "of an unknown class"
        raise LoadError(f"{path}: holds {one_line(name)}, {kind}; models are {', '.join(CLASSES)}")
    try:
        return CLASSES[name]._from_file(arrays if number == checkpoint.FORMAT else upgrade(arrays, header), header)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None
    except Exception as error:  # whatever a forged file leads to
        reason = " ".join(str(error).split())
        raise LoadError(f"{path}: the header and the arrays do not make a {name} "
                        f"({type(error).__name__}: {reason}); fit and save it again") from None


def params_to_json(model, without):
    """The hyperparameters by name, for JSON; a random_state that is no number is not kept."""
    params = {k: v for k, v in model.get_params().items() if k not in without}
    if not isinstance(model.random_state, (int, np.integer)):
        params["random_state"] = None
    return {k: _to_json(k, v) for k, v in params.items()}


def _to_json(name, value):
    if isinstance(value, transforms.Transform):
        return {"preprocess": transforms.to_config(value)}
    if isinstance(value, Head):
        config = value.config()
        return config if isinstance(config, dict) else {"head": config}
    if isinstance(value, np.generic):
        return value.item()
    array = _numbers(value)
    if array is not None:
        return array
    if isinstance(value, (np.ndarray, list, tuple)):
        return [_to_json(name, v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"save: parameter {name}={value!r} cannot be written to a file; use numbers, strings or lists")


def _numbers(value):
    """What is an array, or holds more numbers than JSON is made for, as an array that a file can hold; else None."""
    is_array = hasattr(value, "__array__")
    if not is_array and not isinstance(value, (list, tuple)):
        return None
    try:
        array = asnumpy(value)
        if array.dtype.kind == "O" or array.dtype == np.longdouble:
            array = array.astype(np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" and (is_array or array.size > 1000) else None


def from_json(value):
    if isinstance(value, dict):
        return transforms.from_config(value["preprocess"], {}) if "preprocess" in value else \
            from_config({"head": "categorical"} | value)  # of which older files have the levels alone
    return tuple(from_json(v) for v in value) if isinstance(value, list) else value


def same(a, b):
    """Are hyperparameters equal, as a file keeps them? Numbers count, not their dtype or order in memory."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return a == b
