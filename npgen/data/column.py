"""One column of a table: its kind, what is known of it, and its cells as numbers and back.

    kind       what it is                       as a number
    real       a number                         itself
    integer    a whole number                   itself
    binary     one of two levels                0 or 1
    category   one of several levels            0, 1, ..., in their order
    ordered    levels whose order means something
    datetime   a date or a time                 steps after the first one
    id, text, constant    not modelled: drawn rows have a running number, nothing, or the constant there
    determined            not modelled: it follows from other columns (determined.py)

A missing value is NaN. Legend: n rows.
"""
import dataclasses
import datetime
import difflib
import math
import zoneinfo

import numpy as np

from . import dates
from .frames import TYPES, UNITS, Native, objects
from .table import DataError

KINDS = ("real", "integer", "binary", "category", "ordered", "datetime", "id", "text", "constant")  # and "determined"
MODELLED = KINDS[:6]
LEVELLED = ("binary", "category", "ordered")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}    # and "D", a day
DAY = 1440          # minutes
MANY = 10**4        # levels, in which the one that was meant is looked for
EPOCH, MICROSECOND = datetime.datetime(1970, 1, 1), datetime.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its name, kind, what its library says of it, and of

    missing    how many rows of those it was inferred from have no value
    low, high  the smallest and the largest value; of a datetime as integers (frames.Native)
    step       the grid that all values lie on: of an integer, a datetime, and of a real column with few decimals of which some
               repeat
    decimals   that those of another real column have, and are given
    levels     of a binary, categorical or ordered column, in their order
    atoms      values that many rows of a column of numbers have
    format     of dates that are text (dates.py)
    constant   the one value there is, None if there is none
    clock      whether its whole numbers are times of a day, 1745 for 17:45, and its number is minutes after midnight
    base, least   of a column that is counted from another one (relative.py) that one's name, and the smallest difference there
               may be; shift: where it lies, if that is known
    rule, by   of a determined one, how it follows from columns of these names; table: from which levels what does; zone: of a
               moment, the one that months, days and hours are of
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
    rule: str | None = None
    by: tuple = ()
    table: tuple | None = None
    clock: bool = False
    base: str | None = None
    least: int | None = None
    shift: float | None = None
    decimals: int | None = None
    zone: str | None = None

    @property
    def first(self):
        """The first minute of a day: 0, or 1 where midnight is 2400."""
        return 1 if self.high == 2400 else 0

    @property
    def span(self):
        """The smallest and the largest of its numbers, None without end, and the step between them, None without one."""
        if self.levels is not None:
            return 0, len(self.levels) - 1, 1
        if self.clock:
            low = self.first if self.least is None else self.least
            return low, low + DAY - 1, 1
        step = 1 if self.kind == "datetime" else self.step
        if self.least is not None:
            return self.least, None, step
        return (0, (self.high - self.low) // self.step, 1) if self.kind == "datetime" else (self.low, self.high, step)

    @property
    def difference(self):
        """A column of what it is counted from another one, if it is, else itself."""
        if self.base is None:
            return self
        low, _, step = self.span
        most = low + DAY - 1 if self.clock else self.high - self.low
        most = most // step if self.kind == "datetime" else most
        return Column(f"{self.name} after {self.base}", "real" if self.kind == "real" else "integer", Native(
            "float", "float64"), self.missing, low, max(low, most), step)

    def numbers(self, values, gaps):
        """(n,) float64 of the values that are there, NaN for gaps (n,). Raises DataError that names a row."""
        x, rows = np.full(len(gaps), np.nan), np.flatnonzero(~gaps)
        if self.kind in LEVELLED:
            place, values = {level: number for number, level in enumerate(self.levels)}, values.tolist()
            numbers = list(map(place.get, values))
            if None in numbers:
                wrong = numbers.index(None)
                near = difflib.get_close_matches(str(values[wrong])[:100], map(str, self.levels[:MANY]), 1)
                raise self._refusal(rows[wrong], values[wrong], f"none of its {len(self.levels)} levels" + "".join(
                    f", {level!r} is one" for level in near))
            x[rows] = numbers
        elif self.kind == "datetime":
            x[rows] = [(stamp - self.low) / self.step for stamp in self.stamps(values, rows)]
        else:
            texts = enumerate(values if values.dtype == object else ())
            wrong = next((i for i, value in texts if isinstance(value, str)), None)
            if wrong is not None:
                raise self._refusal(rows[wrong], values[wrong], "no number")
            x[rows] = np.asarray(values, np.float64)
            if np.isinf(x).any():
                row = np.flatnonzero(np.isinf(x))[0]
                raise self._refusal(row, float(x[row]), "no finite number")
        if self.clock:
            hours, minutes = hour_and_minute(x[rows])
            x[rows] = 60 * hours + minutes
            wrong = np.flatnonzero((minutes >= 60) | (x[rows] < self.first) | (x[rows] >= self.first + DAY))
            if len(wrong):
                raise self._refusal(rows[wrong[0]], values.tolist()[wrong[0]],
                                    f"no time of a day from {self.first} to {2400 if self.first else 2359}")
        return x

    def stamps(self, values, rows):
        """What values that are there, in these rows, are as integers: times as they are, texts as what they stand for."""
        return values.tolist() if self.format is None and all(not isinstance(value, str) for value in values[:1]) else [
            self._parsed(value, row) for value, row in zip(values, rows, strict=True)]

    def _parsed(self, text, row):
        """The stamp of a text: in the column's format, or, of a column of times, as ISO 8601."""
        iso = "%Y-%m-%dT%H:%M:%SZ" if self.native.zone else "%Y-%m-%d or %Y-%m-%dT%H:%M:%S"
        try:
            return dates.stamp_of(text, self.format) if self.format is not None else self._in_units(text)
        except (TypeError, ValueError):
            raise self._refusal(row, text, f"no time as {dates.shown(self.format or iso)}") from None

    def in_units(self, native, values):
        """Stamps (n,) of another library or unit as this column counts them. Raises DataError where that loses a part."""
        if self.native.unit is None or native.unit in (None, self.native.unit):
            return values
        ours, theirs = (PER_SECOND.get(unit, 1) for unit in (self.native.unit, native.unit))
        up, down = ours * (86400 if native.unit == "D" else 1), theirs * (86400 if self.native.unit == "D" else 1)
        common = math.gcd(up, down)
        stamps, rest = np.divmod(values * (up // common), down // common)
        if rest.any():
            raise DataError(f"column {self.name!r} has times in {native.unit} that are no whole number of {self.native.unit}, "
                            "in which the model has them; round them")
        return stamps

    def _in_units(self, text):
        """A text as ISO 8601 has it in the units of a column of times, UTC if that has a zone. Raises ValueError."""
        form = next((form for form in dates.formats_of([text]) if form.startswith("%Y")), None)
        if form is None or dates.has_offset(form) != bool(self.native.zone):
            raise ValueError(f"{text!r} is no time in the column's zone")
        per_second = 1 if self.native.unit == "D" else PER_SECOND[self.native.unit]
        day = 86400 if self.native.unit == "D" else 1
        stamp, rest = divmod(dates.stamp_of(text, form) * per_second, dates.ticks(form) * day)
        if rest:
            raise ValueError(f"{text!r} is no whole number of {self.native.unit}")
        return stamp

    def _refusal(self, row, value, what):
        return DataError(f"column {self.name!r}, row {row + 1}: {value!r}"[:200] + f" is {what}; correct or remove it")

    def number(self, value):
        """The number of one value; of a time also as a text, in the column's format or as ISO 8601. Raises DataError."""
        if self.kind == "datetime" and not (self.format is not None and isinstance(value, str) and dates.is_in(
                value, self.format)):
            value = self._stamp(value)
        elif self.kind not in LEVELLED and (isinstance(value, (bytes, complex)) or not np.isscalar(value)) or value is None:
            raise self._unanswered(value)
        try:
            return float(self.numbers(objects([value]), np.zeros(1, bool))[0])
        except (OverflowError, TypeError):  # what no level is, or a whole number beyond floats
            raise self._unanswered(value) from None

    def given(self, value):
        """The number of one value that drawn rows are to have, within their bounds. Raises DataError."""
        number = self.number(value)
        low, high, step = dataclasses.replace(self, least=None).span
        if step is not None and not low <= number <= high:
            raise self._unanswered(value)
        return number

    def _stamp(self, value):
        """A date, a time, or a text of one, as values of the column are; a time without a zone is in the column's."""
        try:
            moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
            if isinstance(moment, np.datetime64):
                moment = moment.astype("M8[us]").item()
            if not isinstance(moment, datetime.datetime):
                moment = datetime.datetime(moment.year, moment.month, moment.day)
            if self.native.zone and moment.tzinfo is None:
                moment = moment.replace(tzinfo=zoneinfo.ZoneInfo(self.native.zone))
            elif self.format is not None and moment.tzinfo is None:
                moment -= datetime.timedelta(seconds=dates.offset_at((moment - EPOCH).total_seconds(), self.format))
            elif moment.tzinfo is not None:
                if not self.native.zone and not (self.format and dates.has_offset(self.format)):
                    raise ValueError
            if moment.tzinfo is not None:
                moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
            if self.format is not None:
                return dates.text_of((moment - EPOCH) // MICROSECOND * dates.ticks(self.format) // 10**6, self.format)
            return np.datetime64(moment, "us").astype(f"M8[{self.native.unit}]").astype(np.int64).item()
        except (AttributeError, OverflowError, TypeError, ValueError):
            raise self._unanswered(value) from None

    def _unanswered(self, value):
        return DataError(f"column {self.name!r}: {value!r}"[:200] + f" is no value of it ({self.words()})"[:200])

    def interval(self, low, high):
        """The numbers from low to high, both included, as (low, high); None: without that end. Raises DataError.

        On a grid by half a step more on either side, and beyond its last values without end: what is drawn is rounded to it.
        """
        if self.kind in ("binary", "category"):
            raise DataError(f"column {self.name!r}: {(low, high)!r}"[:200] + " is an interval, but its levels have no order; "
                            "give one of them")
        a, b = -math.inf if low is None else self.number(low), math.inf if high is None else self.number(high)
        if not a <= b:
            raise DataError(f"column {self.name!r}: {(low, high)!r}"[:200] + " is an empty interval; give the lower end first")
        if self.kind == "real" and self.step is None:
            return a, b
        origin, end, step = dataclasses.replace(self, least=None).span
        last = round((end - origin) / step)
        a, b = (end if math.isinf(end) else turn(round((end - origin) / step, 6)) for turn, end in ((math.ceil, a),
                                                                                                    (math.floor, b)))
        if not max(a, 0) <= min(b, last):
            raise DataError(f"column {self.name!r}: {(low, high)!r}"[:200] + f" has no value of it ({self.words()})"[:200])
        return -math.inf if a <= 0 else origin + (a - 0.5) * step, math.inf if b >= last else origin + (b + 0.5) * step

    def rounded(self, x):
        """Numbers x (n,) on the column's grid and within its bounds."""
        if self.levels is not None or self.clock or self.kind == "datetime":
            low, high, _ = dataclasses.replace(self, least=None).span
            return np.clip(np.rint(x), low, high)
        if self.kind == "integer":
            return np.clip(self.low + np.rint((x - self.low) / self.step) * self.step, self.low, self.high)
        if self.step is None and self.decimals is None:
            return x
        y = np.round(x, self.decimals if self.step is None else decimals_of(self.step))
        y = y if self.step is None else np.clip(y, self.low, self.high)
        return np.where((y == 0) & (x != 0), 0.0, y)  # and not -0.0, unless that was there

    def values(self, x):
        """The values that numbers x (n,) stand for, on the column's grid and within its bounds, and which are missing."""
        gaps = np.isnan(x)
        x = self.rounded(np.where(gaps, 0.0 if self.low is None or self.kind == "datetime" else self.low, x).astype(np.float64))
        if self.kind in LEVELLED:
            return objects(self.levels)[x.astype(int)], gaps
        if self.kind == "datetime":
            stamps = self.low + x.astype(np.int64) * self.step
            return (stamps if self.format is None else objects(
                [dates.text_of(stamp, self.format) for stamp in stamps.tolist()])), gaps
        if self.clock:
            x = x // 60 * 100 + x % 60
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
            low, high = (dates.text_of(stamp, self.format) if self.format else str(np.datetime64(stamp, self.native.unit))
                         for stamp in (self.low, self.high))
            parts = [f"{low} to {high}", *([f"as {dates.shown(self.format)}"] if self.format else [])]
        elif self.kind in ("real", "integer"):
            parts = [f"{self.low:.10g} to {self.high:.10g}"]
            parts += [f"in steps of {self.step:g}"] if self.step not in (None, 1) else []
            parts += [f"with {self.decimals} decimals"] if self.decimals is not None else []
            parts += [f"often {', '.join(f'{atom:g}' for atom in self.atoms)}"] if self.atoms else []
            parts += ["a time of day"] if self.clock else []
        elif self.kind == "determined":
            a, b = (*self.by, "")[:2]
            parts = [{"levels": f"follows from {a}", "=": f"is {a}", "+": f"is {a} + {b}", "-": f"is {a} - {b}",
                      "//": f"is {a} // 100", "%": f"is {a} % 100", "clock": f"is minutes from {b} to {a}",
                      "moment": f"is the time of {', '.join(self.by)}{f' in {self.zone}' if self.zone else ''}"}[self.rule]]
        elif self.kind == "constant":
            parts = [repr(self.constant)[:60] if self.constant is not None else "no values"]
        if self.base is not None:
            parts.append(f"counted from {self.base}" if self.clock else f"no less than {self.base}")
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
                        "by": tuple(config.get("by", ())), **{name: None if config.get(name) is None else tuple(config[name])
                                                              for name in ("levels", "table")}})
        scalars, native = (str, int, float, bool), column.native
        sound = (isinstance(column.name, str) and column.kind in (*KINDS, "determined") and type(column.missing) is int
                 and native.type in TYPES and isinstance(native.dtype, str) and isinstance(native.ordered, bool)
                 and all(isinstance(each, (str, type(None))) for each in (native.unit, native.zone, column.format))
                 and all(isinstance(level, scalars) for level in (column.levels or ()) + (native.levels or ()))
                 and len(set(column.levels or ())) == len(column.levels or ())
                 and all(type(atom) in (int, float) for atom in column.atoms)
                 and isinstance(column.constant, (*scalars, type(None)))
                 and all(isinstance(each, (*scalars, type(None))) for each in column.table or ())
                 and (column.kind == "determined") == (column.rule is not None) and all(isinstance(n, str) for n in column.by)
                 and (native.type != "datetime" or native.unit in UNITS)
                 and type(column.clock) is bool and (not column.clock or column.kind == "integer" and 0 <= column.low
                                                     and column.high <= 2400)
                 and (column.least is None) == (column.base is None) and isinstance(column.base, (str, type(None)))
                 and (column.least is None or type(column.least) is int and -DAY < column.least <= 0
                      and (column.clock or column.least == 0) and column.kind in ("real", "integer", "datetime"))
                 and (column.shift is None or type(column.shift) in (int, float) and math.isfinite(column.shift)
                      and column.least is not None) and isinstance(column.zone, (str, type(None))))
        sound = sound and (column.decimals is None or type(column.decimals) is int and 0 <= column.decimals < 7
                           and column.kind == "real" and column.step is None)
        if sound and column.kind in LEVELLED:
            sound = bool(column.levels)
        elif sound and column.kind in MODELLED:
            sound = (type(column.low) in (int, float) and type(column.high) in (int, float) and column.low <= column.high
                     and math.isfinite(column.low) and math.isfinite(column.high)
                     and (column.step is None and column.kind == "real" or type(column.step) in (int, float)
                          and 0 < column.step < math.inf)
                     and (column.kind == "real" or {type(column.low), type(column.high), type(column.step)} == {int})
                     and (column.kind != "datetime" or (native.type == "datetime") != dates.is_format(column.format)))
        if not sound:
            raise ValueError(f"a schema has a column {config!r}"[:200])
        return column


def hour_and_minute(x):
    """Of times of a day such as 1745, (n,)."""
    return x // 100, x % 100


def decimals_of(step):
    return round(-math.log10(step))
