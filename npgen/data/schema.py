"""What the columns of a table are: inferred once, printed, put right by hand, kept as JSON; a table as numbers, and back.

    kind       what it is                       as a number
    real       a number                         itself
    integer    a whole number                   itself
    binary     one of two levels                0 or 1
    category   one of several levels            0, 1, ..., in their order
    ordered    levels whose order means something
    datetime   a date or a time                 steps after the first one
    id, text, constant    not modelled: drawn rows have a running number, nothing, or the constant there

A missing value is NaN. Legend: n rows, d columns that are modelled.
"""
import dataclasses
import datetime
import json
import math
import os
from pathlib import Path

import numpy as np

from .. import checkpoint
from . import frames
from .frames import TYPES, UNITS, Native, objects
from .table import DataError

KINDS = ("real", "integer", "binary", "category", "ordered", "datetime", "id", "text", "constant")
MODELLED = KINDS[:6]
LEVELLED = ("binary", "category", "ordered")
FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ",
           "%Y-%m-%d %H:%M")
EXACT = 2**53       # integers up to it are floats of 64 bits
ATOM = 0.1          # share of the rows from which on a value of a column that has many is named
EPOCH = datetime.datetime(1970, 1, 1)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its name, kind, what its library says of it, and of

    missing    how many rows of those it was inferred from have no value
    low, high  the smallest and the largest value; of a datetime as integers (frames.Native)
    step       the grid that all values lie on: of an integer, a datetime, and of a real column with few decimals
    levels     of a binary, categorical or ordered column, in their order
    atoms      values that many rows of a column of numbers have
    format     of dates that are text
    constant   the one value there is, None if there is none
    """

    name: str
    kind: str
    native: Native
    missing: int = 0
    low: float | None = None
    high: float | None = None
    step: float | None = None
    levels: tuple | None = None
    atoms: tuple = ()
    format: str | None = None
    constant: object = None

    def numbers(self, values, gaps):
        """(n,) float64 of the values that are there, NaN for gaps (n,). Raises DataError that names a row."""
        x, rows = np.full(len(gaps), np.nan), np.flatnonzero(~gaps)
        if self.kind in LEVELLED:
            place = {level: number for number, level in enumerate(self.levels)}
            wrong = next((i for i, value in enumerate(values) if value not in place), None)
            if wrong is not None:
                raise self._refusal(rows[wrong], values[wrong], f"none of its {len(self.levels)} levels")
            x[rows] = [place[value] for value in values]
        elif self.kind == "datetime":
            x[rows] = [(stamp - self.low) / self.step for stamp in self._stamps(values, rows)]
        else:
            wrong = next((i for i, value in enumerate(values) if isinstance(value, str)), None)
            if wrong is not None:
                raise self._refusal(rows[wrong], values[wrong], "no number")
            x[rows] = np.asarray(values, np.float64)
            if np.isinf(x).any():
                row = np.flatnonzero(np.isinf(x))[0]
                raise self._refusal(row, x[row], "no finite number")
        return x

    def _stamps(self, values, rows):
        return values.tolist() if self.format is None and all(not isinstance(value, str) for value in values[:1]) else [
            self._parsed(value, row) for value, row in zip(values, rows, strict=True)]

    def _parsed(self, text, row):
        try:
            return stamp_of(text, self.format or FORMATS[0])
        except (TypeError, ValueError):
            raise self._refusal(row, text, f"no time as {self.format or FORMATS[0]}") from None

    def _refusal(self, row, value, what):
        return DataError(f"column {self.name!r}, row {row + 1}: {value!r}"[:200] + f" is {what}; correct or remove it")

    def values(self, x):
        """The values that numbers x (n,) stand for, on the column's grid and within its bounds, and which are missing."""
        gaps = np.isnan(x)
        x = np.where(gaps, 0.0 if self.low is None or self.kind == "datetime" else self.low, x).astype(np.float64)
        if self.kind in LEVELLED:
            return objects(self.levels)[np.clip(np.rint(x), 0, len(self.levels) - 1).astype(int)], gaps
        if self.kind == "datetime":
            stamps = self.low + np.clip(np.rint(x), 0, (self.high - self.low) // self.step).astype(np.int64) * self.step
            return (stamps if self.format is None else objects([text_of(s, self.format) for s in stamps.tolist()])), gaps
        if self.kind == "integer":
            x = np.clip(self.low + np.rint((x - self.low) / self.step) * self.step, self.low, self.high)
        elif self.step is not None:
            x = np.clip(np.round(x, decimals_of(self.step)), self.low, self.high)
        return (x.astype(np.int64) if self.native.type == "integer" else x), gaps

    def unmodelled(self, n):
        """The values of n drawn rows in a column that is not modelled, and which are missing."""
        if self.kind == "id" and self.native.type in ("integer", "string", "float") and self.native.levels is None:
            numbers = np.arange(1, n + 1)
            return (numbers.astype(str).astype(object) if self.native.type == "string" else numbers), np.zeros(n, bool)
        value = self.constant if self.kind == "constant" else None
        return objects([0 if value is None and self.native.type != "string" else value] * n), np.full(n, value is None)

    def words(self):
        """What is known of it, for a table."""
        parts = []
        if self.kind in LEVELLED:
            shown = [repr(level) if isinstance(level, str) else str(level) for level in self.levels[:4]]
            parts = [f"{len(self.levels)} levels: {', '.join(shown)}{', ...' if len(self.levels) > 4 else ''}"]
        elif self.kind == "datetime":
            low, high = (text_of(stamp, self.format) if self.format else str(np.datetime64(stamp, self.native.unit))
                         for stamp in (self.low, self.high))
            parts = [f"{low} to {high}", *([f"as {self.format}"] if self.format else [])]
        elif self.kind in ("real", "integer"):
            parts = [f"{self.low:.10g} to {self.high:.10g}"]
            parts += [f"in steps of {self.step:g}"] if self.step not in (None, 1) else []
            parts += [f"often {', '.join(f'{atom:g}' for atom in self.atoms)}"] if self.atoms else []
        elif self.kind == "constant":
            parts = [repr(self.constant)[:60] if self.constant is not None else "no values"]
        if self.missing and (self.kind != "constant" or self.constant is not None):
            parts.append(f"{self.missing:,} missing")
        return ", ".join(parts)

    def config(self):
        """The column for JSON, without what is as it is by default."""
        return {field.name: dataclasses.asdict(self.native) if field.name == "native" else getattr(self, field.name)
                for field in dataclasses.fields(self) if getattr(self, field.name) != field.default}

    @classmethod
    def from_config(cls, config):
        """The column of which config() was asked. Raises ValueError, KeyError or TypeError for what is none."""
        native = dict(config["native"])
        native["levels"] = None if native["levels"] is None else tuple(native["levels"])
        column = cls(**{**config, "native": Native(**native), "atoms": tuple(config.get("atoms", ())),
                        "levels": None if config.get("levels") is None else tuple(config["levels"])})
        scalars, native = (str, int, float, bool), column.native
        sound = (isinstance(column.name, str) and column.kind in KINDS and type(column.missing) is int
                 and native.type in TYPES and isinstance(native.dtype, str) and isinstance(native.ordered, bool)
                 and all(isinstance(each, (str, type(None))) for each in (native.unit, native.zone, column.format))
                 and all(isinstance(level, scalars) for level in (column.levels or ()) + (native.levels or ()))
                 and len(set(column.levels or ())) == len(column.levels or ())
                 and all(type(atom) in (int, float) for atom in column.atoms)
                 and isinstance(column.constant, (*scalars, type(None)))
                 and (native.type != "datetime" or native.unit in UNITS))
        if sound and column.kind in LEVELLED:
            sound = bool(column.levels)
        elif sound and column.kind in MODELLED:
            sound = (type(column.low) in (int, float) and type(column.high) in (int, float) and column.low <= column.high
                     and math.isfinite(column.low) and math.isfinite(column.high)
                     and (column.step is None and column.kind == "real" or type(column.step) in (int, float)
                          and 0 < column.step < math.inf)
                     and (column.kind == "real" or {type(column.low), type(column.high), type(column.step)} == {int})
                     and (column.kind != "datetime" or (native.type == "datetime") != (column.format in FORMATS)))
        if not sound:
            raise ValueError(f"a schema has a column {config!r}"[:200])
        return column


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a table and the library it is of: Schema.infer(df) or Schema.load(path); print it to see it.

    encode(df)   (n, d) float64 of the modelled columns, NaN for what is missing
    decode(x)    the table of the same library, with all columns, dtypes and levels; encode's answer gives the same cells
    """

    library: str
    rows: int
    columns: tuple

    @classmethod
    def infer(cls, X, columns=None):
        """The schema of a DataFrame of pandas, polars or pyarrow.

        columns: {name: kind} where another kind than the one inferred is right, {name: [levels]} for an ordered column.
        Raises DataError, which names column and row, for what no kind holds, and for names and kinds that there are not.
        """
        library, asked = frames.library_of(X), dict(columns or {})
        if library is None:
            raise DataError(f"X is no DataFrame of {', '.join(frames.LIBRARIES)} whose columns have names, but a "
                            f"{type(X).__name__}; an array has no schema")
        found = [_describe(*cells, asked.pop(cells[0], None)) for cells in frames.read(X)]
        if asked:
            raise DataError(f"columns names {next(iter(asked))!r}, which is not a column; there are "
                            f"{', '.join(repr(column.name) for column in found)}"[:300])
        if not any(column.kind in MODELLED for column in found):
            raise DataError("no column is left to model: all are ids, text or constant; say what one is, columns={name: kind}")
        return cls(library, len(X), tuple(found))

    @property
    def modelled(self):
        """The columns that are modelled, a tuple (d,) of Columns."""
        return tuple(column for column in self.columns if column.kind in MODELLED)

    @property
    def names(self):
        """Of the modelled columns, a list (d,)."""
        return [column.name for column in self.modelled]

    @property
    def float32(self):
        """Whether float32 holds all its numbers, True; None: float64 does not hold more; False: it does."""
        columns = self.modelled
        if any(column.kind == "real" and column.native.dtype.lower() not in ("float32", "float", "float32[pyarrow]")
               for column in columns):
            return False
        large = any(max(abs(column.low), abs(column.high)) > 2**24 if column.kind == "integer" else
                    column.kind == "datetime" and (column.high - column.low) / column.step > 2**24 for column in columns)
        return False if large else True if any(column.kind == "real" for column in columns) else None

    def encode(self, X):
        """(n, d) float64 of a DataFrame's modelled columns, found by name, with NaN for what is missing. Raises DataError."""
        cells = {name: rest for name, *rest in frames.read(X)} if frames.library_of(X) else {}
        missing = [name for name in self.names if name not in cells]
        if missing:
            raise DataError(f"X has no column {missing[0]!r}; its columns are {', '.join(map(repr, cells))}"[:300] if cells else
                            f"X is no DataFrame of {', '.join(frames.LIBRARIES)}, but a {type(X).__name__}")
        x = np.empty((len(X), len(self.names)))
        for j, column in enumerate(self.modelled):
            _, values, gaps = cells[column.name]
            x[:, j] = column.numbers(values, gaps)
        return x

    def decode(self, x, *, index=None, only=None):
        """The table of rows x (n, d), in the library of the schema. index: of pandas' rows. only: names of columns to have."""
        x, number = np.asarray(x, np.float64), {name: j for j, name in enumerate(self.names)}
        return frames.write(self.library, {
            column.name: (column.native, *(column.values(x[:, number[column.name]]) if column.name in number else
                                           column.unmodelled(len(x))))
            for column in self.columns if only is None or column.name in only}, index)

    def of(self, numbers):
        """The schema of the modelled columns of these numbers, in this order."""
        return Schema(self.library, self.rows, tuple(self.modelled[j] for j in numbers))

    def __str__(self):
        lines = [("column", "kind", "dtype", "what is known"), *(
            (" ".join(column.name.split()), column.kind, column.native.dtype.partition("<")[0], column.words())
            for column in self.columns)]
        widths = [max(len(line[i]) for line in lines) for i in range(3)]
        return "\n".join("  ".join([*(f"{text:{width}}" for text, width in zip(line, widths, strict=False)), line[3]]).rstrip()
                         for line in lines)

    def config(self):
        """What from_config takes, for JSON."""
        return {"library": self.library, "rows": self.rows, "columns": [column.config() for column in self.columns]}

    @classmethod
    def from_config(cls, config):
        """The schema of which config() was asked. Raises ValueError for what is none."""
        try:
            schema = cls(config["library"], config["rows"], tuple(map(Column.from_config, config["columns"])))
            sound = schema.library in frames.LIBRARIES and type(schema.rows) is int and schema.modelled
        except (AttributeError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"the schema is damaged ({type(error).__name__}: {error})"[:200]) from None
        if not sound or len({column.name for column in schema.columns}) < len(schema.columns):
            raise ValueError(f"the schema is of {schema.library!r} and {len(schema.columns)} columns"[:200])
        return schema

    def save(self, path):
        """Write it as JSON, to be read and corrected by hand."""
        with checkpoint.replacing(path) as file:
            file.write((json.dumps(self.config(), indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path):
        """The schema in a file that save wrote. Raises DataError for what is none."""
        try:
            return cls.from_config(json.loads(Path(os.fspath(path)).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path} is no schema ({reason}); npgen schema DATA --out makes one"[:400]) from None


def _describe(name, native, values, gaps, asked=None):
    """The Column of these cells; asked: a kind or a list of levels that the user wants."""
    kind, levels = (asked, None) if asked is None or isinstance(asked, str) else ("ordered", tuple(asked))
    if kind is not None and kind not in KINDS:
        raise DataError(f"column {name!r}: {kind!r} is no kind of column; choose from {', '.join(KINDS)}")
    distinct = sorted(set(values.tolist()))
    form = _format_of(distinct) if native.type == "string" and kind in (None, "datetime") else None
    kind = kind or _kind(native, values, distinct, gaps, form)
    column = Column(name, kind, native, int(gaps.sum()))
    if kind in LEVELLED:
        levels = levels or native.levels or ((False, True) if native.type == "bool" else tuple(distinct))
        if kind == "binary" and len(levels) != 2:
            raise DataError(f"column {name!r} has {len(levels)} levels, a binary one has two; make it a category")
        column = dataclasses.replace(column, levels=levels)
    elif kind == "constant":
        if len(distinct) > 1:
            raise DataError(f"column {name!r} is no constant: it has {len(distinct)} values; give another kind, or id or text")
        column = dataclasses.replace(column, constant=distinct[0] if distinct else None)
    elif kind == "datetime":
        if native.type != "datetime" and form is None:
            raise DataError(f"column {name!r} holds no dates: {distinct[:1]!r}"[:200] + f"; known are {', '.join(FORMATS)}")
        stamps = distinct if form is None else sorted(stamp_of(text, form) for text in distinct)
        step = _grid(stamps)
        if (stamps[-1] - stamps[0]) // step >= EXACT:
            raise DataError(f"column {name!r} has times that are too many steps apart for floats; round them, or make it an id")
        column = dataclasses.replace(column, low=stamps[0], high=stamps[-1], step=step, format=form)
    elif kind in ("real", "integer"):
        x = column.numbers(values, gaps)
        x = x[~gaps]
        if not len(x) or native.levels is not None or kind == "integer" and not (
                np.all(x == np.floor(x)) and np.abs(x).max() < EXACT):
            raise DataError(f"column {name!r} has no values that are {kind} numbers; give another kind")
        whole = [int(value) for value in distinct] if kind == "integer" else None
        column = dataclasses.replace(column, low=whole[0] if whole else float(x.min()), high=whole[-1] if whole else
                                     float(x.max()), step=_grid(whole) if whole else _decimal_step(x, native), atoms=_atoms(x))
    if kind in MODELLED and kind not in LEVELLED:
        column.numbers(values, gaps)
    return column


def _kind(native, values, distinct, gaps, form):
    if not distinct or len(distinct) == 1 and not gaps.any() and not native.ordered:
        return "constant"
    if native.levels is not None:
        return "ordered" if native.ordered else "binary" if len(native.levels) == 2 else "category"
    if native.type in ("bool", "datetime"):
        return "binary" if native.type == "bool" else "datetime"
    if native.type == "string":
        if form:
            return "datetime"
        if len(distinct) > max(20, len(values) / 2):
            return "text" if sum(" " in text.strip() for text in values) > len(values) / 2 else "id"
        return "binary" if len(distinct) == 2 else "category"
    if set(distinct) == {0, 1}:
        return "binary"
    if native.type == "integer" or all(value == math.floor(value) for value in distinct if math.isfinite(value)) and max(
            map(abs, distinct)) < EXACT:
        if max(map(abs, distinct)) >= EXACT:
            return "id" if len(distinct) > max(20, len(values) / 2) else "category"
        consecutive = native.type == "integer" and len(values) >= 20 and not gaps.any()
        return "id" if consecutive and np.all(np.diff(values.astype(np.int64)) == 1) else "integer"
    return "real"


def _grid(distinct):
    """The largest step that these sorted integers lie on, 1 for fewer than ten of them."""
    return math.gcd(*(value - distinct[0] for value in distinct[1:])) if len(distinct) >= 10 else 1


def _decimal_step(x, native):
    """1, 0.1, ..., 1e-6 if numbers x (n,) repeat and have no more decimals than that, else None."""
    dtype = np.float32 if native.dtype.lower().startswith("float32") or native.dtype == "float" else np.float64
    for decimals in range(7):
        if len(np.unique(x)) < len(x) and np.array_equal(np.round(x, decimals).astype(dtype), x.astype(dtype)):
            return 10.0**-decimals
    return None


def decimals_of(step):
    return round(-math.log10(step))


def _atoms(x):
    """The values that at least ATOM of the numbers x (n,) are, where there are more than twenty."""
    levels, counts = np.unique(x, return_counts=True)
    many = counts >= max(2, ATOM * len(x))
    return tuple(levels[many].tolist()) if len(levels) > 20 else ()


def _format_of(texts):
    """The format that all of these texts are dates in, and are written again as they are; else None."""
    return next((form for form in FORMATS if texts and all(_is_time(text, form) for text in texts)), None)


def _is_time(text, form):
    try:
        return text_of(stamp_of(text, form), form) == text
    except (OverflowError, ValueError):
        return False


def stamp_of(text, form):
    """Seconds after 1970-01-01 of a text in this format."""
    return round((datetime.datetime.strptime(text, form) - EPOCH).total_seconds())


def text_of(stamp, form):
    """The text that stamp_of takes for these seconds."""
    moment = EPOCH + datetime.timedelta(seconds=stamp)
    return moment.strftime(form.replace("%Y", f"{moment.year:04d}"))
