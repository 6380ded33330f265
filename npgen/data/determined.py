"""Columns that others determine, without exception: found, left out of the density, and derived again.

    levels    education-num is 13 wherever education is Bachelors, and what follows where it is missing is one thing, too
    =         the same numbers as another column
    + -       a sum or a difference of two columns of numbers on grids, missing where one of them is
    // %      the hours and the minutes of a clock's numbers, 1745 // 100 and 1745 % 100
    clock     the minutes from one time of a day to another, modulo a day; missing where one of these is, or a third column
    moment    the time, to its own step, of a month, a day, an hour or a time of a day, and a year, in a time zone of ZONES

A rule has to be worth more than chance makes likely: of levels, the entropy of what follows from them, over all rows, exceeds
what a table of it costs by EVIDENCE nats, and they are there in half the rows; in the others EVIDENCE rows and TEN values take
part. Tables of more than COLUMNS are not searched.

Legend: n rows, d columns.
"""
import dataclasses
import datetime
import zoneinfo

import numpy as np

from . import dates
from .column import DAY, EPOCH, LEVELLED, MODELLED, PER_SECOND, decimals_of, hour_and_minute
from .frames import objects
from .table import DataError

EVIDENCE = 20
TEN = 10
COLUMNS = 300
PROBES = 64         # rows, or pairs of them, by which nearly all rules are out before whole columns are compared
CLOCK = 100
YEARS = 1900, 2200
RULES = {"levels": (1,), "=": (1,), "//": (1,), "%": (1,), "+": (2,), "-": (2,), "clock": (2, 3),
         "moment": (3, 4)}   # and from how many columns each follows
ZONES = ("UTC", "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Sao_Paulo",
         "Europe/London", "Europe/Berlin", "Europe/Moscow", "Asia/Kolkata", "Asia/Shanghai", "Asia/Tokyo", "Australia/Sydney")
_PYTHON = {"integer": int, "float": float, "bool": bool, "string": str, "datetime": int}


def find(columns, cells, asked, times=()):
    """The Columns, of which those that follow from others are of kind "determined".

    cells: (values, gaps) of each. asked: names of columns that stay what they are. times: the numbers of those that are times
    of a day. Columns that something follows from do so,
    and of two that follow from each other the first one does.
    """
    modelled = [j for j, column in enumerate(columns) if column.kind in MODELLED]
    if not modelled or len(modelled) > COLUMNS or len(cells[0][1]) < EVIDENCE:
        return columns
    columns, kept, gone = list(columns), set(), set()
    codes = {j: _codes(*cells[j]) for j in modelled}
    followed = _followed(codes, [j for j in modelled if columns[j].kind in LEVELLED], {j: cells[j][1] for j in modelled})
    numbers, clocks = _on_one_grid(columns, cells, modelled), {}
    for i, x in ((i, columns[i].numbers(*cells[i])) for i in modelled if columns[i].kind == "integer"):
        if np.nanmin(x) >= 0 and np.nanmax(x) <= 24 * CLOCK and np.nanmax(x % CLOCK) < 60:
            clocks[i] = {"//": x // CLOCK, "%": x % CLOCK}
    for j in reversed(modelled):
        if columns[j].name in asked or j in kept:
            continue
        source = next((i for i in followed.get(j, ()) if i not in gone), None)
        if source is not None:
            rule, by, table = "levels", (source,), _table(columns[source], codes[source], *cells[source], *cells[j])
        else:
            rule, by = _of_a_clock(columns[j], cells[j], {i: clocks[i] for i in clocks.keys() - gone - {j}})
            if rule is None:
                rule, by = _arithmetic(j, {i: x for i, x in numbers.items() if i not in gone})
            if rule is None:
                rule, by = _between_times(columns[j], cells[j], {i: columns[i].numbers(*cells[i]) for i in times
                                                                 if i not in gone and i != j},
                                          {i: cells[i][1] for i in modelled if i not in gone and i != j})
            table = None
        if rule is None and columns[j].kind == "datetime":
            known = {i: dataclasses.replace(columns[i], clock=i in times) for i in modelled if i not in gone and i != j}
            columns[j], by = _moment_of(columns[j], cells[j], known, cells)
            rule = columns[j].rule
        if rule is not None:
            columns[j] = dataclasses.replace(columns[j], kind="determined", rule=rule, by=tuple(columns[i].name for i in by),
                                             table=table, atoms=(), levels=None)
            gone.add(j)
            kept |= set(by)
    return columns


def derive(column, columns, x):
    """The values of a determined column, and which are missing, from numbers x {name: (n,)} of those that it follows from."""
    by = [x[name] for name in column.by]
    gaps = np.any([np.isnan(each) for each in by], axis=0)
    if column.rule == "levels":
        last = len(column.table) - 1
        at = np.where(gaps, last, np.clip(np.rint(np.where(gaps, 0, by[0])), 0, last - 1)).astype(int)
        gaps = np.array([value is None for value in column.table])[at]
        some = next(value for value in column.table if value is not None)
        return objects([some if value is None else value for value in column.table])[at], gaps
    if column.rule == "clock":
        between = column.low + (by[0] - by[1] - column.low) % DAY
        return np.where(gaps, column.low, between).astype(np.int64 if column.native.type == "integer" else np.float64), gaps
    if column.rule == "moment":
        return _moment(column, [columns[name] for name in column.by], [np.where(gaps, 1, each) for each in by]), gaps
    first, *rest = (columns[name].values(each)[0].astype(np.float64) for name, each in zip(column.by, by, strict=True))
    values = {"=": lambda: first, "+": lambda: first + rest[0], "-": lambda: first - rest[0], "//": lambda: first // CLOCK,
              "%": lambda: first % CLOCK}[column.rule]()
    if column.step is not None and column.step < 1:
        values = np.round(values, decimals_of(column.step))
    return (values.astype(np.int64) if column.native.type == "integer" else values), gaps


def agree(column, columns, x, values, gaps):
    """Fill in the numbers x {name: (n,)} that follow from cells of a determined column where only one level, or number, does.

    Raises DataError, which names a row, where these cells are not what follows.
    """
    derived, missing = derive(column, columns, x)
    given = objects([None] * len(gaps))
    given[~gaps] = values
    for row in np.flatnonzero(~gaps & ~missing & (given != derived)):
        if not _same_float(column, given[row], derived[row]):
            value, other = (np.asarray(each).tolist() for each in (given[row], derived[row]))
            raise DataError(f"column {column.name!r}, row {row + 1}: {value!r}"[:150] + f" does not follow from "
                            f"{' and '.join(map(repr, column.by))}, but {other!r}"[:150] + " does; correct it, or fit with a "
                            "kind for the column")
    source = x[column.by[0]]
    if column.rule == "levels":
        back = {}
        for number, value in enumerate(column.table[:-1]):
            back[value] = np.nan if value in back else number
        for row in np.flatnonzero(~gaps & np.isnan(source)):
            source[row] = back.get(given[row], np.nan)
    elif column.rule == "=":
        rows = np.flatnonzero(~gaps & np.isnan(source))
        source[rows] = given[rows].astype(np.float64)


def check(column, sources):
    """Raise ValueError unless a column of a file can follow from these Columns, None where there is none."""
    sound = isinstance(column.rule, str) and len(sources) in RULES.get(column.rule, ()) and None not in sources
    if sound and column.rule == "levels":
        table, kind = column.table or (), _PYTHON[column.native.type]
        sound = (sources[0].levels is not None and len(table) == len(sources[0].levels) + 1 and set(table) != {None}
                 and all(value is None or type(value) is kind for value in table))
    elif sound and column.rule == "moment":
        year, form = column.constant, column.format
        sound = ((column.native.type == "datetime") != dates.is_format(form) and type(column.step) is int and column.step > 0
                 and all(each.kind == "integer" for each in sources) and (len(sources) == 4 or type(year) is int)
                 and (column.zone is None or column.zone in (*ZONES, column.native.zone)))
    elif sound and column.rule == "clock":
        sound = sources[0].clock and sources[1].clock and type(column.low) is int and column.native.type in ("integer", "float")
    elif sound:
        sound = column.table is None and column.native.type in ("integer", "float") and column.native.levels is None and all(
            each.kind in ("real", "integer") for each in sources) and (column.step is None or type(column.step) in (int, float))
    if not sound:
        raise ValueError(f"the schema has column {column.name!r} follow from {column.by}"[:200])


def _same_float(column, a, b):
    return column.native.type == "float" and column.native.dtype.lower() in ("float32", "float", "float32[pyarrow]") and \
        np.float32(a) == np.float32(b)


def _codes(values, gaps):
    """Of every row the number of its value (n,), of a missing one the last."""
    place = {}
    codes = np.full(len(gaps), -1, np.int32)
    codes[~gaps] = [place.setdefault(value, len(place)) for value in values.tolist()]
    codes[gaps] = len(place)
    return codes


def _followed(codes, sources, gaps):
    """{column: the columns whose levels it follows}; gaps (n,) of each."""
    found, entropies = {}, {j: _entropy(each) for j, each in codes.items()}
    for i in sources:
        order, levels = np.argsort(codes[i], kind="stable"), codes[i].max() + 1
        if 2 * gaps[i].sum() > len(order):
            continue
        same = np.flatnonzero(np.diff(codes[i][order]) == 0)
        pairs = same[np.linspace(0, len(same) - 1, min(PROBES, len(same))).astype(int)] if len(same) else same
        for j, each in codes.items():
            worth = len(order) * entropies[j] - levels * np.log(max(2, each.max() + 1))
            if j == i or worth <= EVIDENCE or not np.array_equal(each[order[pairs]], each[order[pairs + 1]]):
                continue
            first = np.empty(levels, np.int32)
            first[codes[i]] = each
            if np.array_equal(first[codes[i]], each):
                found.setdefault(j, []).append(i)
    return found


def _entropy(codes):
    counts = np.bincount(codes)
    share = counts[counts > 0] / len(codes)
    return -float(share @ np.log(share))


def _table(source, codes, values, gaps, follower, missing):
    """What follows from each level of a column, and last where it is missing; None: nothing."""
    place, last = {level: i for i, level in enumerate(source.levels)}, len(source.levels)
    of_row, given = objects([last] * len(gaps)), objects([None] * len(gaps))
    of_row[~gaps] = [place[value] for value in values.tolist()]
    given[~missing] = follower.tolist()
    table = [None] * (last + 1)
    for row in np.unique(codes, return_index=True)[1]:
        table[of_row[row]] = given[row]
    return tuple(table)


def _on_one_grid(columns, cells, modelled):
    """{column: whole numbers (n,) on one grid, NaN where they miss}, of the columns of numbers that lie on grids."""
    gridded = [j for j in modelled if columns[j].kind in ("real", "integer") and columns[j].step is not None]
    unit = min((min(1, columns[j].step) for j in gridded), default=1)
    numbers = {j: np.rint(columns[j].numbers(*cells[j]) / unit) + 0.0 for j in gridded}
    return {j: x for j, x in numbers.items() if np.nanmax(np.abs(x)) < 2**52}


def _of_a_clock(column, cells, clocks):
    """(rule, columns) by which a column is the hours or minutes of one of the clocks, or (None, ())."""
    if clocks and column.kind == "integer":
        x = column.numbers(*cells)
        if len(np.unique(x[~np.isnan(x)])) >= TEN and (~np.isnan(x)).sum() >= EVIDENCE:
            return next(((rule, (i,)) for i in sorted(clocks) for rule, value in clocks[i].items()
                         if np.array_equal(value, x, equal_nan=True)), (None, ()))
    return None, ()


def _arithmetic(j, numbers):
    """(rule, columns) by which a column's numbers follow from those of others, or (None, ())."""
    x = numbers.get(j)
    if x is None:
        return None, ()
    seen = ~np.isnan(x)
    if seen.sum() < EVIDENCE or len(np.unique(x[seen])) < TEN:
        return None, ()
    probes, others = np.flatnonzero(seen)[:PROBES], {i: y for i, y in numbers.items() if i != j}
    known = {}
    for i, y in others.items():
        known.setdefault(y[probes].tobytes(), []).append(i)
    for i in known.get(x[probes].tobytes(), ()):
        if np.array_equal(others[i], x, equal_nan=True):
            return "=", (i,)
    for i, y in others.items():
        for rule, rest in (("+", x - y), ("-", y - x)):
            for k in known.get((rest[probes] + 0.0).tobytes(), ()):
                if k != i and np.array_equal(y + numbers[k] if rule == "+" else y - numbers[k], x, equal_nan=True):
                    return rule, (i, k)
    return None, ()


def _between_times(column, cells, times, gaps):
    """(rule, columns) by which a column is the minutes between two of the times of a day (n,), or (None, ()).

    gaps: of all columns, of which a third one may say where it is missing.
    """
    if column.kind != "integer" or column.high - column.low >= DAY or len(np.unique(cells[0])) < TEN:
        return None, ()
    x, minutes = column.numbers(*cells), {i: 60 * hours + rest for i, (hours, rest) in (
        (i, hour_and_minute(y)) for i, y in times.items())}
    missing = np.isnan(x)
    for a in minutes:
        for b in minutes:
            between = column.low + (minutes[a] - minutes[b] - column.low) % DAY
            seen = ~missing & ~np.isnan(between)
            if a == b or seen.sum() < max(EVIDENCE, (~missing).sum()) or not np.array_equal(between[seen], x[seen]):
                continue
            if np.array_equal(np.isnan(between), missing):
                return "clock", (a, b)
            third = next((i for i, own in gaps.items() if np.array_equal(np.isnan(between) | own, missing)), None)
            if third is not None:
                return "clock", (a, b, third)
    return None, ()


def _moment_of(column, cells, known, all_cells):
    """(The Column, columns) by which times are those of a year, a month, a day and an hour; without a rule, ()."""
    numbers = {i: each.numbers(*all_cells[i]) for i, each in known.items() if each.kind == "integer" and each.low >= 0
               and not all_cells[i][1].any()}
    months, days, hours = ([i for i in numbers if known[i].high <= most] for most in (12, 31, 23))
    hours = [i for i in numbers if known[i].clock] + hours
    if not (months and days and hours) or len(np.unique(cells[0])) < TEN or cells[1].any():
        return column, ()
    seconds = (column.low + column.numbers(*cells) * column.step) / _per_second(column)
    for zone in dict.fromkeys([column.native.zone or "UTC", *ZONES]):
        try:
            local = _in_zone(seconds[:PROBES], zone).astype("M8[s]")
        except zoneinfo.ZoneInfoNotFoundError:
            continue
        parts = [local.astype("M8[M]").astype(int) % 12 + 1, (local.astype("M8[D]") - local.astype("M8[M]")).astype(int) + 1]
        found = [next((i for i in some if np.array_equal(numbers[i][:PROBES], part)), None) for some, part in zip(
            (months, days), parts, strict=True)]
        if None in found:
            continue
        years = np.unique(_in_zone(seconds, zone).astype("M8[s]").astype("M8[Y]").astype(int) + 1970)
        made = dataclasses.replace(column, constant=int(years[0]), zone=None if zone == "UTC" else zone, rule="moment")
        others = [()] if len(years) == 1 else [(i,) for i in numbers if known[i].low >= years[0] and known[i].high <= years[-1]]
        for hour in hours:
            for year in others:
                by = (hour, *found[::-1], *year)
                if np.array_equal(_moment(made, [known[i] for i in by], [numbers[i] for i in by]), _stamps(column, cells[0])):
                    return made, by
    return column, ()


def _moment(column, columns, by):
    """The stamps, or texts, (n,) of numbers of an hour, a day and a month, and of a year unless there is but one."""
    hour, day, month, year = (np.rint(each).astype(np.int64) for each in (*by, np.full(len(by[0]), column.constant or 0))[:4])
    month = 12 * (year.clip(*YEARS) - 1970) + month.clip(1, 12) - 1
    local = (month.astype("M8[M]").astype("M8[D]").astype(np.int64) + day.clip(1, 31) - 1) * 86400 + 60 * (
        hour if columns[0].clock else 60 * hour).clip(0, DAY)
    step = max(1, round(column.step / _per_second(column)))
    seconds = _in_zone(local // step * step, column.zone or "UTC", -1)
    if column.format is not None:
        values, place = np.unique(seconds, return_inverse=True)
        return objects([dates.text_of(second * dates.ticks(column.format), column.format) for second in values.tolist()])[place]
    return (seconds * _per_second(column)).astype(np.int64) if column.native.unit != "D" else seconds // 86400


def _stamps(column, values):
    return values if column.format is not None else values.astype(np.int64)


def _per_second(column):
    return dates.ticks(column.format) if column.format is not None else PER_SECOND.get(column.native.unit, 1 / 86400)


def _in_zone(seconds, zone, sign=1):
    """Seconds (n,) after 1970 by the clocks of a zone, of seconds UTC; sign -1: the other way."""
    if zone == "UTC":
        return seconds.astype(np.int64)
    values, place = np.unique(seconds.astype(np.int64), return_inverse=True)
    zone = zoneinfo.ZoneInfo(zone)
    begin = EPOCH.replace(tzinfo=datetime.UTC if sign > 0 else zone)
    moments = [begin + datetime.timedelta(seconds=second) for second in values.tolist()]
    ways = [(moment.astimezone(zone) if sign > 0 else moment).utcoffset().total_seconds() for moment in moments]
    return (values + sign * np.array(ways, np.int64))[place]
