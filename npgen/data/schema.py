"""What the columns of a table are: inferred once, printed, put right by hand, kept as JSON; a table as numbers, and back.

Kinds of columns, and what number stands for a cell: column.py. Legend: n rows, d columns that are modelled.
"""
import dataclasses
import functools
import json
import math
import os
from pathlib import Path

import numpy as np

from .. import checkpoint
from ..checks import with_article
from ..warn import warn
from . import dates, determined, frames, relative
from .column import KINDS, LEVELLED, MODELLED, Column
from .table import EXACT, DataError

FEW, CERTAIN = 20, 20    # rows, and nats, from which on it is no chance that numbers have few decimals
ATOM = 0.1          # share of the rows from which on a value of a column that has many is named


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

        columns: {name: kind} where another kind than the one inferred is right, {name: [levels]} for an ordered column, {name:
        ">= other"} for one that is never less than another: what is drawn is not, either.
        Raises DataError, which names column and row, for what no kind holds, and for names and kinds that there are not.
        """
        library, asked = frames.library_of(X), _asked(columns)
        if library is None:
            raise DataError(f"X is no DataFrame of {', '.join(frames.LIBRARIES)} whose columns have names, but a "
                            f"{type(X).__name__}; an array has no schema")
        read, pairs = list(frames.read(X)), {}
        for name, kind in list(asked.items()):
            if isinstance(kind, str) and kind.startswith(">="):
                pairs[name] = asked.pop(name)[2:].strip()
        found = [_describe(*cells, asked.pop(cells[0], None)) for cells in read]
        asked |= {name: None for name in pairs if name not in {column.name for column in found}}
        if asked:
            raise DataError(f"columns names {next(iter(asked))!r}, which is not a column; there are "
                            f"{', '.join(repr(column.name) for column in found)}"[:300])
        if not any(column.kind in MODELLED for column in found):
            raise DataError("no column is left to model: all are ids, text or constant; say what one is, columns={name: kind}")
        cells, chosen = [(values, gaps) for _, _, values, gaps in read], {*_asked(columns), *pairs.values()}
        clocks = relative.clocks(found, cells, chosen)
        found = determined.find(found, cells, chosen, clocks)
        found = [dataclasses.replace(column, clock=True, atoms=()) if j in clocks and column.kind in MODELLED else column
                 for j, column in enumerate(found)]
        schema = cls(library, len(X), tuple(relative.from_each_other(relative.ask(found, pairs), cells)))
        if pairs:
            schema.encode(X)  # which names a row that is less
        return schema

    @functools.cached_property
    def modelled(self):
        """The columns that are modelled, a tuple (d,) of Columns."""
        return tuple(column for column in self.columns if column.kind in MODELLED)

    @functools.cached_property
    def names(self):
        """Of the modelled columns, a list (d,)."""
        return [column.name for column in self.modelled]

    @functools.cached_property
    def _place(self):
        """{name of a modelled column: its number}."""
        return {name: j for j, name in enumerate(self.names)}

    @property
    def float32(self):
        """Whether its numbers are float32, True, or float64, or too large for float32, False; None: it has no floats."""
        columns = self.modelled
        floats = [column.native.dtype.lower() for column in columns if column.native.type == "float"]
        if any(dtype not in ("float32", "float", "float32[pyarrow]") for dtype in floats):  # pyarrow's float has 32 bits
            return False
        large = any(max(abs(column.low), abs(column.high)) > 2**24 if column.kind == "integer" else
                    column.kind == "datetime" and (column.high - column.low) / column.step > 2**24 for column in columns)
        return False if large else True if floats else None

    def lacking(self, X):
        """The first modelled columns that a DataFrame does not have, as a text; empty if it has them all."""
        there = set(frames.names_of(X))
        missing = [repr(name) for name in self.names if name not in there]
        return ", ".join([*missing[:8], *["..."] * (len(missing) > 8)])

    def encode(self, X):
        """(n, d) float64 of a DataFrame's modelled columns, found by name, with NaN for what is missing. Raises DataError."""
        cells = {name: rest for name, *rest in frames.read(X)} if frames.library_of(X) else {}
        if not cells:
            raise DataError(f"X is no DataFrame of {', '.join(frames.LIBRARIES)}, but {with_article(X)}")
        if lacking := self.lacking(X):
            raise DataError(f"X has no column {lacking}; its columns are {', '.join(map(repr, cells))}"[:400])
        return self.encode_cells(cells, len(X))

    def encode_cells(self, cells, n):
        """encode of n rows of cells {name: (Native, values, gaps)}."""
        return relative.counted(self.modelled, self._read(cells, n))

    def _read(self, cells, n):
        """The numbers (n, d) of cells {name: (Native, values, gaps)}, before any is counted from another."""
        x = np.empty((n, len(self.names)))
        for j, column in enumerate(self.modelled):
            native, values, gaps = cells[column.name]
            x[:, j] = column.numbers(column.in_units(native, values), gaps)
        numbers, columns = dict(zip(self.names, x.T, strict=True)), {column.name: column for column in self.columns}
        for column in self._determined:
            if column.name in cells:
                native, values, gaps = cells[column.name]
                determined.agree(column, columns, numbers, column.in_units(native, values), gaps)
        return x

    @property
    def _determined(self):
        return [column for column in self.columns if column.kind == "determined"]

    def _values(self, column, x):
        """The values of a column, and which are missing, in rows x (n, d), in which none is counted from another."""
        if column.name in self._place:
            return column.values(x[:, self._place[column.name]])
        if column.kind == "determined":
            columns = {name: self.modelled[self._place[name]] for name in column.by}
            return determined.derive(column, columns, {name: x[:, self._place[name]] for name in columns})
        return column.unmodelled(len(x))

    def decode(self, x, *, index=None, only=None):
        """The table of rows x (n, d), in the library of the schema. index: of pandas' rows. only: names of columns to have."""
        x = relative.absolute(self.modelled, np.asarray(x, np.float64))
        return frames.write(self.library, {column.name: (column.native, *self._values(column, x)) for column in self.columns
                                           if only is None or column.name in only}, index)

    def rounded(self, x):
        """Rows x (n, d) on the grids and within the bounds of their columns: what encode makes of decode's answer."""
        whole = relative.absolute(self.modelled, np.asarray(x, np.float64))
        whole = np.stack([column.rounded(each) for column, each in zip(self.modelled, whole.T, strict=True)], axis=1)
        return relative.counted(self.modelled, whole).astype(np.asarray(x).dtype)

    def fill(self, X, x):
        """A DataFrame with what is missing in modelled columns, and what follows from these, as rows x (n, d) have it.

        All other cells are as they were. Of two columns of which one is counted from the other, and it alone is there, the
        other is what lies the difference below it.
        """
        read, known, made = list(frames.read(X)), {each.name: each for each in (*self.modelled, *self._determined)}, {}
        seen = self._read({name: rest for name, *rest in read}, len(X))
        x = relative.absolute(self.modelled, np.asarray(x, np.float64), seen)
        for name, native, seen, gaps in read:
            cells = frames.objects([0] * len(gaps))
            if name in known and gaps.any():
                column = known[name]
                cells[:], left = self._values(column, x)
                native = native if column.levels is None else dataclasses.replace(
                    native, levels=native.levels and (*native.levels, *(set(column.levels) - set(native.levels))))
            else:
                left = gaps
            cells[~gaps] = seen
            made[name] = native, cells, left & gaps
        return frames.write(frames.library_of(X), made, getattr(X, "index", None))

    def given(self, exact, within):
        """Numbers {j: number}, NaN of what is missing, and intervals {j: (low, high)} of some columns, with differences where
        these are modelled.

        Raises DataError for a column that is counted from one which is not given, or missing where it is not.
        """
        gone = {self.names[j] for j, number in exact.items() if np.isnan(number)}
        for j, column in enumerate(self.modelled):
            if column.base in gone and j not in exact:
                raise DataError(f"column {column.name!r} is counted from {column.base!r}; where that is missing, give this one "
                                "as missing, too")
        x = np.full((1, len(self.names)), np.nan)
        x[0, list(exact)] = list(exact.values())
        for j in (*exact, *within):
            column = self.modelled[j]
            if column.base is None or np.isnan(exact.get(j, 0)) and self._place.get(column.base) in exact:
                continue
            at = relative.base_of(column, self.modelled, x)[0]
            if np.isnan(at) or j in within and column.clock:
                raise DataError(f"column {column.name!r} is counted from {column.base!r}; give a value of that, too"
                                + ", and no interval of this one" * column.clock)
            if j in within:
                within = within | {j: tuple(float(end - at) for end in within[j])}
        y = relative.counted(self.modelled, x)[0]
        return {j: float(y[j]) for j in exact}, within

    def of(self, numbers, known=None):
        """The schema of the modelled columns of these numbers, in this order, and of what follows from them, which is where
        the table has it, or behind them if their order is another.

        known (d,): values of others, NaN where there is none, from which columns may be counted.
        """
        columns = [self.modelled[j] for j in numbers]
        if known is not None:
            x = relative.absolute(self.modelled, np.asarray(known, np.float64)[None])
            there = {column.name for column in columns}
            columns = [dataclasses.replace(column, shift=float(at)) if column.base not in (None, *there) and np.isfinite(
                at := relative.base_of(column, self.modelled, x)[0]) else column for column in columns]
        names = {column.name for column in columns}
        kept = [*columns, *(each for each in self._determined if names.issuperset(each.by))]
        if list(numbers) == sorted(numbers):  # as the table has them
            order = {column.name: j for j, column in enumerate(self.columns)}
            kept.sort(key=lambda column: order[column.name])
        return Schema(self.library, self.rows, tuple(kept))

    def __str__(self):
        return self.table({})

    def table(self, more):
        """What is printed: a line for each column, and before what is known of it more, {title: {name of a column: text}}."""
        lines = [("column", "kind", "dtype", *more, "what is known"), *(
            (" ".join(column.name.split()), column.kind, column.native.dtype.partition("<")[0],
             *(texts.get(column.name, "") for texts in more.values()), column.words()) for column in self.columns)]
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)][:-1]
        return "\n".join("  ".join([*(f"{text:{width}}" for text, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
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
        relative.check(schema.modelled)
        kinds = {column.name: column for column in schema.modelled}
        for column in schema._determined:
            determined.check(column, [kinds.get(name) for name in column.by])
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


def _asked(columns):
    """{name: kind, or levels} that the user wants, of what may be anything. Raises DataError."""
    wanted = {} if columns is None else columns
    if not isinstance(wanted, dict):
        raise DataError(f"columns is {columns!r}"[:100] + "; give {name: kind}, such as {'zip': 'category'}, or a Schema")
    for name, kind in wanted.items():
        if not isinstance(kind, (str, list, tuple, type(None))):
            raise DataError(f"column {name!r}: {kind!r}"[:150] + f" is no kind of column; choose from {', '.join(KINDS)}, or "
                            "give a list of its levels in their order")
    return dict(wanted)


def _describe(name, native, values, gaps, asked=None):
    """The Column of these cells; asked: a kind or a list of levels that the user wants."""
    kind, levels = (asked, None) if asked is None or isinstance(asked, str) else ("ordered", tuple(asked))
    given = kind if dates.is_format(kind) else None
    kind = "datetime" if given else kind
    if kind is not None and kind not in KINDS:
        raise DataError(f"column {name!r}: {kind!r} is no kind of column; choose from {', '.join(KINDS)}, or the format of "
                        "dates, such as %d/%m/%Y")
    distinct = sorted(set(values.tolist()))
    form = _format_of(name, distinct, kind, given) if native.type == "string" and kind in (None, "datetime") else None
    kind = kind or _kind(native, values, distinct, gaps, form)
    column = Column(name, kind, native, int(gaps.sum()))
    if kind in LEVELLED:
        if levels is not None and any(levels.count(level) > 1 for level in levels):
            raise DataError(f"column {name!r} is given the levels {levels!r}"[:250] + ", one of them twice; name each once")
        levels = levels or native.levels or ((False, True) if native.type == "bool" else tuple(distinct))
        if kind == "binary" and len(levels) != 2:
            raise DataError(f"column {name!r} has {len(levels)} levels, a binary one has two; make it a category")
        column = dataclasses.replace(column, levels=levels)
        if not isinstance(asked, str | None):
            column.numbers(values, gaps)  # which names a cell of no level
    elif kind == "constant":
        if len(distinct) > 1:
            raise DataError(f"column {name!r} is no constant: it has {len(distinct)} values; give another kind, or id or text")
        column = dataclasses.replace(column, constant=distinct[0] if distinct else None)
    elif kind == "datetime":
        if native.type != "datetime" and form is None:
            raise DataError(f"column {name!r} holds no dates, all in one format: {distinct[:1]!r}"[:200] + f"; known are "
                            f"{dates.EXAMPLES} and others of these parts")
        stamps = distinct if form is None else sorted(dates.stamp_of(text, form) for text in distinct)
        step = _grid(stamps)
        if (stamps[-1] - stamps[0]) // step >= EXACT:
            step = math.gcd(*(stamp - stamps[0] for stamp in stamps))
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
        low, high = (whole[0], whole[-1]) if whole else (float(x.min()), float(x.max()))
        column = dataclasses.replace(column, low=low, high=high, atoms=_atoms(x), **(
            {"step": _grid(whole)} if whole else _decimals(x, native)))
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


def _decimals(x, native):
    """{"step": 1, 0.1, ..., or 1e-6} if numbers x (n,) have no more decimals than that and some repeat, {"decimals": how many}
    if none does, {} of others: a grid of which no two rows share a point is a line, whose values are rounded.

    Numbers that do not repeat have few decimals by chance where they are fewer than FEW, or so large that most floats have: the
    share of floats that lie on the grid, a float's spacing over the step, says how likely that is.
    """
    dtype = np.float32 if native.dtype.lower().startswith("float32") or native.dtype == "float" else np.float64
    x = x.astype(dtype)
    k = next((k for k in range(7) if np.array_equal(np.round(x.astype(np.float64), k).astype(dtype), x)), None)
    distinct = np.unique(x)
    if k is None or len(distinct) < len(x):
        return {} if k is None else {"step": 10.0**-k}
    shares = np.spacing(np.abs(distinct[distinct != 0])) * 10.0**k
    return {"decimals": k} if len(x) >= FEW and -np.log(np.minimum(shares, 1)).sum() > CERTAIN else {}


def _atoms(x):
    """The values that at least ATOM of the numbers x (n,) are, where there are more than twenty."""
    levels, counts = np.unique(x, return_counts=True)
    many = counts >= max(2, ATOM * len(x))
    return tuple(levels[many].tolist()) if len(levels) > 20 else ()


def _format_of(name, texts, kind, given):
    """The format that all of these texts are dates in, and are written again as they are; else None.

    given: the one that the user says. Where nothing says whether the day or the month is first, it is not guessed.
    """
    forms = dates.formats_of(texts) if given is None else ()
    if given is not None:
        wrong = next((text for text in texts if not dates.is_as(text, given)), None)
        if wrong is not None:
            raise DataError(f"column {name!r}: {wrong!r}"[:200] + f" is no time as {given}; give the format of all its cells")
        return given
    if len(forms) > 1:
        what = (f"column {name!r}: nothing says whether {texts[0]!r} is {' or '.join(forms)}; give the right one as its kind")
        if kind == "datetime":
            raise DataError(what)
        warn(f"{what}, else its cells are levels or ids")
        return None
    return forms[0] if forms else None
