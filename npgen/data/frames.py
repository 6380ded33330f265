"""The columns of a DataFrame (pandas, polars, pyarrow) as cells, and back to a column of the same library and dtype.

Legend: n rows.
"""
import collections
import dataclasses
import importlib
import re

import numpy as np

from .table import DataError

LIBRARIES = ("pandas", "polars", "pyarrow")
UNITS = ("D", "s", "ms", "us", "ns")
TYPES = ("integer", "float", "bool", "string", "datetime")


@dataclasses.dataclass(frozen=True)
class Native:
    """What a library says of a column: what its values are, one of TYPES, and the name that its dtype has there.

    levels: those of a dtype that has some, in their order; ordered: whether it means something. unit, zone: of a datetime,
    which is an integer, so many units after 1970-01-01 UTC.
    """

    type: str
    dtype: str
    levels: tuple | None = None
    ordered: bool = False
    unit: str | None = None
    zone: str | None = None


def library_of(X):
    """The library of a DataFrame whose columns all have names that are strings, or None for whatever else X is."""
    library = type(X).__module__.partition(".")[0]
    if library not in LIBRARIES:  # arrays do not pay for narwhals
        return None
    import narwhals.stable.v2 as nw
    if not nw.dependencies.is_into_dataframe(X):
        return None
    names = names_of(X)
    return library if names and all(isinstance(name, str) for name in names) else None


def names_of(X):
    """The names of a DataFrame's columns."""
    return list(X.column_names if hasattr(X, "column_names") else X.columns)


def joined(several):
    """DataFrames of one library with the same columns, one below another."""
    import narwhals.stable.v2 as nw
    return nw.concat([nw.from_native(X, eager_only=True) for X in several]).to_native()


def read(X):
    """(name, Native, the values that are there, which of the n rows miss one) of every column. Raises DataError."""
    import narwhals.stable.v2 as nw
    twice = [name for name, many in collections.Counter(names_of(X)).items() if many > 1]
    if twice:
        raise DataError(f"two columns are named {twice[0]!r}; give each a name of its own")
    for series in nw.from_native(X, eager_only=True).iter_columns():
        yield series.name, *_cells(series)


def _cells(series):
    gaps, seen, dtype = np.zeros(len(series), bool), series, str(series.dtype).partition("(")[0]
    if series.null_count():
        gaps, seen = series.is_null().to_numpy().astype(bool), series.drop_nulls()
    name = _dtype_name(series.to_native())
    if series.dtype.is_float():
        values = np.asarray(seen.to_numpy(), np.float64)
        nan = np.isnan(values)
        gaps[np.flatnonzero(~gaps)[nan]] = True
        return Native("float", name), values[~nan], gaps
    if series.dtype.is_integer():
        return Native("integer", name), _integers(seen), gaps
    if dtype == "Boolean":
        return Native("bool", name), np.array(seen.to_list(), object), gaps
    if dtype == "String":
        return Native("string", name), _shared(seen.to_list()), gaps
    if dtype in ("Categorical", "Enum"):
        values = seen.to_list()
        levels = sorted(set(values)) if name == "Categorical" else series.cat.get_categories().to_list()
        kind = _type_of(series.name, levels)
        return Native(kind, name, tuple(levels), dtype == "Enum" or "ordered=1" in name), objects(values), gaps
    if dtype == "Date":
        return Native("datetime", name, unit="D"), _stamps(seen, "ms", 86_400_000), gaps
    if dtype == "Datetime":
        unit = series.dtype.time_unit
        values = _stamps(seen, "ms", 1000) if unit == "s" else _stamps(seen, unit, 1)
        return Native("datetime", name, unit=unit, zone=series.dtype.time_zone and str(series.dtype.time_zone)), values, gaps
    if gaps.all():
        return Native("string", name), objects([]), gaps
    if dtype == "Object":
        values = seen.to_list()
        return Native(_type_of(series.name, values), name), objects(values), gaps
    raise DataError(f"column {series.name!r} holds {series.dtype}, which is no number, text, level or time; convert it, or "
                    "leave it out")


def _stamps(seen, unit, divisor):
    return np.asarray(seen.dt.timestamp(unit).to_numpy(), np.int64) // divisor


def objects(values):
    """Python's values as an array (n,)."""
    cells = np.empty(len(values), object)
    cells[:] = values
    return cells


def _shared(values):
    """The same of values of one type, of which equal ones are one object: a level takes memory once, not in every row."""
    known = dict(zip(values, values, strict=True))
    return objects(list(map(known.__getitem__, values)))


def _integers(seen):
    """Whole numbers (n,) as int64, or if they may lie beyond as Python's."""
    values = seen.to_numpy()
    small = values.dtype.kind == "i" or values.dtype.kind == "u" and values.dtype.itemsize < 8
    return values.astype(np.int64, copy=False) if small else _shared(seen.to_list())


def _type_of(name, values):
    """The one type that Python's values have. Raises DataError that names the first cell of another."""
    known = {bool: "bool", int: "integer", float: "float", str: "string"}
    for i, value in enumerate(values):
        if type(value) is not type(values[0]) or type(value) not in known:
            raise DataError(f"column {name!r} mixes or holds what is no number, text or truth value: {value!r}"[:200]
                            + f" ({type(value).__name__}) is number {i + 1} of its values; make it of one type")
    return known[type(values[0])] if values else "string"


def _dtype_name(native):
    dtype = native.type if hasattr(native, "type") and not hasattr(native, "dtype") else native.dtype
    if type(dtype).__name__ == "StringDtype":
        return "str" if isinstance(dtype.na_value, float) else f"string[{dtype.storage}]"
    return str(dtype).partition("(")[0]


def write(library, columns, index=None):
    """The DataFrame with these columns, {name: (Native, values (n,), which of them are missing)}; index: of pandas' rows."""
    module = importlib.import_module(library)
    made = {name: _COLUMNS[library](module, *column) for name, column in columns.items()}
    if library == "pyarrow":
        return module.table(made)
    frame = module.DataFrame(made)
    if index is not None and library == "pandas":
        frame.index = index
    return frame


def numbers(library, names, x, index=None):
    """The DataFrame of floats x (n, d) under these names, NaN missing; index: of pandas' rows."""
    native = Native("float", {"pandas": "float64", "polars": "Float64", "pyarrow": "double"}[library])
    return write(library, {name: (native, column, np.isnan(column)) for name, column in zip(names, x.T, strict=True)}, index)


def _pandas(pd, native, values, gaps):
    if native.type == "datetime" and native.unit != "D":
        stamps = np.where(gaps, np.iinfo(np.int64).min, values).astype(np.int64).view(f"M8[{native.unit}]")
        series = pd.Series(stamps)
        series = series.dt.tz_localize("UTC").dt.tz_convert(native.zone) if native.zone else series
        return series if native.dtype.startswith("datetime64") else series.astype(native.dtype)
    if native.type == "datetime":  # of pyarrow: NumPy's have times
        return pd.Series(pd.Series(np.where(gaps, np.iinfo(np.int64).min, values).astype("M8[D]")).astype(native.dtype))
    if native.levels is not None:
        return pd.Series(pd.Categorical.from_codes(_codes(native, values, gaps), categories=list(native.levels),
                                                   ordered=native.ordered))
    if not gaps.any():
        return pd.Series(values if len(values) else [], dtype=native.dtype)
    dtype = {"bool": "boolean"}.get(native.dtype, native.dtype.replace("uint", "UInt").replace("int", "Int")
                                   if re.fullmatch(r"u?int\d+", native.dtype) else native.dtype)  # NumPy's hold no gap
    return pd.Series(_with_gaps(values, gaps), dtype=dtype)


def _polars(pl, native, values, gaps):
    cells = _with_gaps(values, gaps)
    if native.type == "datetime":
        stamps = pl.Series(cells, dtype=pl.Int64)
        return stamps.cast(pl.Int32).cast(pl.Date) if native.unit == "D" else stamps.cast(pl.Datetime(native.unit, native.zone))
    return pl.Series(cells, dtype=pl.Enum(list(native.levels)) if native.dtype == "Enum" else getattr(pl, native.dtype))


def _pyarrow(pa, native, values, gaps):
    if native.levels is not None:
        kind, codes = re.match(r"dictionary<values=(\w+), indices=(\w+)", native.dtype).groups()
        codes = pa.array(_with_gaps(_codes(native, values, gaps), gaps), pa.type_for_alias(codes))
        return pa.DictionaryArray.from_arrays(codes, pa.array(native.levels, pa.type_for_alias(kind)), ordered=native.ordered)
    cells = _with_gaps(values, gaps)
    if native.type == "datetime" and native.unit == "D":
        return pa.array(cells, pa.int32()).cast(pa.date32()).cast(pa.type_for_alias(native.dtype))
    if native.type == "datetime":
        return pa.array(cells, pa.int64()).cast(pa.timestamp(native.unit, native.zone))
    return pa.array(cells, pa.type_for_alias(native.dtype))


_COLUMNS = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}


def _with_gaps(values, gaps):
    return [None if gap else value for value, gap in zip(np.asarray(values).tolist(), gaps.tolist(), strict=True)]


def _codes(native, values, gaps):
    place = {level: code for code, level in enumerate(native.levels)}
    return np.array([-1 if gap else place[value] for value, gap in zip(np.asarray(values).tolist(), gaps, strict=True)], int)
