"""Columns that are counted from others: the difference takes the column's place among the numbers.

    b = a + difference,    difference >= least

A column that is asked to be no less than another is so by construction, least = 0. Of times of a day (1745 for 17:45, as
minutes) one is counted from another where that says more of it, or the time between them is a column, too; it goes on after
midnight, b = a + difference modulo a day, of which differences from least to least + a day - 1 are all there are. Given a, b
and the difference follow from each other, so that the probability of a row is the same, and a density in b's unit, too.

Legend: n rows, d columns that are modelled.
"""
import dataclasses

import numpy as np

from . import dates
from .column import DAY, decimals_of, hour_and_minute
from .table import DataError

HOURS, MINUTES = 5, 20  # that differ, in what are times of a day: by chance so many remainders are below 60 once in 100,000
BETTER = 0.5        # nats a row that a time of a day is likelier counted from another


# ---------------------------------------------------------------- numbers

def counted(columns, x):
    """Numbers x (n, d) of the columns (d,) with differences in place of those that are counted from another.

    Raises DataError that names the row where one is below least, or its base is none of the columns.
    """
    y = x
    for j, column in enumerate(columns):
        if column.least is not None:
            y = x.copy() if y is x else y
            y[:, j] = _difference(column, x[:, j], base_of(column, columns, x))
            below = np.flatnonzero(y[:, j] < column.least)
            if len(below):
                raise DataError(f"column {column.name!r}, row {below[0] + 1}: it is below {column.base!r}, and is to be no "
                                "less; correct it, or fit without that")
    return y


def absolute(columns, y, seen=None):
    """What counted gives y (n, d) of, on the columns' grids; those that are seen (n, d), NaN others, as they are.

    Where a column is seen and its base is not, the base is what lies the difference below.
    """
    order = _in_order(columns)
    if not order:
        return y if seen is None else np.where(np.isnan(seen), y, seen)
    place = {column.name: j for j, column in enumerate(columns)}
    seen = np.full(y.shape, np.nan) if seen is None else seen.copy()
    for j in reversed(order):
        column, i = columns[j], place.get(columns[j].base)
        if i is not None:
            rows = np.isnan(seen[:, i]) & ~np.isnan(seen[:, j])
            seen[rows, i] = _below(column, columns[i], seen[rows, j], y[rows, j])
    x = np.where(np.isnan(seen), y, seen)
    for j in (*(j for j in range(len(columns)) if j not in order), *order):
        x[:, j] = columns[j].rounded(x[:, j] if j not in order else np.where(
            np.isnan(seen[:, j]), _sum(columns[j], base_of(columns[j], columns, x), y[:, j]), seen[:, j]))
    return x


def _in_order(columns):
    """The numbers of the columns that are counted from others, each behind its base."""
    order, rest = [], [j for j, column in enumerate(columns) if column.least is not None]
    done = {column.name for column in columns if column.least is None}
    while rest:
        ready = [j for j in rest if columns[j].base in done or columns[j].shift is not None]
        if not ready:
            raise _without(columns[rest[0]])
        order += ready
        done |= {columns[j].name for j in ready}
        rest = [j for j in rest if j not in ready]
    return order


def _without(column):
    return DataError(f"column {column.name!r} is counted from {column.base!r}, which is not there; take that, too")


def base_of(column, columns, x):
    """Where the base of a column lies, in its units, (n,)."""
    if column.shift is not None:
        return np.full(len(x), column.shift)
    j = next((j for j, each in enumerate(columns) if each.name == column.base), None)
    if j is None:
        raise _without(column)
    return position(column, columns[j], x[:, j])


def position(column, base, a):
    """Numbers a (n,) of its base in the units of a column."""
    if column.kind != "datetime":
        return a
    return a * (base.step / column.step) + (base.low - column.low) / column.step


def _below(column, base, b, difference):
    """The numbers of the base, the difference below b."""
    if column.clock:
        return base.first + (b - difference - base.first) % DAY
    a = b - difference
    if column.kind == "datetime":
        return np.floor((a - (base.low - column.low) / column.step) * (column.step / base.step))
    return a if base.step is None else base.low + np.floor(np.round((a - base.low) / base.step, 6)) * base.step


def _difference(column, b, a):
    if column.clock:
        return column.least + (b - a - column.least) % DAY
    return np.round(b - a, decimals_of(column.step)) if column.kind == "real" and column.step is not None else b - a


def _sum(column, a, difference):
    if column.clock:
        return column.first + (a + np.rint(difference) - column.first) % DAY
    return a + np.maximum(difference, column.least)


def check(columns):
    """Raise ValueError unless each of the Columns of a file can be counted from its base, if that is there."""
    named = {column.name: column for column in columns}
    for column in columns:
        base, walked = named.get(column.base), {column.name}
        sound = base is None or base.kind == column.kind and base.clock == column.clock
        while sound and base is not None:
            sound = base.name not in walked
            walked.add(base.name)
            base = named.get(base.base)
        if not sound:
            raise ValueError(f"the schema has column {column.name!r} counted from {column.base!r}"[:200])


# ---------------------------------------------------------------- what is asked, what is found

def _clock(column):
    """What the stamps of a column of times count, and from where."""
    form = column.format
    return column.native.unit, column.native.zone, form and (dates.ticks(form), dates.has_offset(form))


def ask(columns, pairs):
    """The Columns, of which some are to be no less than others, {name: name of the base}. Raises DataError."""
    place = {column.name: j for j, column in enumerate(columns)}
    columns = list(columns)
    for name, base in pairs.items():
        b, a = columns[place[name]], columns[place[base]] if base in place else None
        alike = a is not None and a.kind == b.kind and b.kind in ("real", "integer", "datetime")
        if name == base or not alike or b.kind == "datetime" and _clock(a) != _clock(b):
            what = f"{b.kind} and {a.kind}" if a is not None and name != base else "which is no other column"
            raise DataError(f"column {name!r} is to be no less than {base!r}, {what}; both must be integers, reals or times of "
                            "one kind")
        step = b.step
        if b.kind == "real" and b.step is not None:
            step = None if a.step is None else min(a.step, b.step)
        elif b.kind != "real":
            step = int(np.gcd.reduce([a.step, b.step, abs(a.low - b.low)]))
        columns[place[name]] = dataclasses.replace(b, base=base, least=0, step=step, high=max(a.high, b.high), atoms=())
    named = {column.name for column in columns if column.least is None}
    for name in pairs:
        walked, at = set(), name
        while at not in named:
            if at in walked:
                raise DataError(f"column {name!r} is to be no less than itself, by way of {columns[place[name]].base!r}; leave "
                                "one of these out")
            walked.add(at)
            at = columns[place[at]].base
    return columns


def clocks(columns, cells, asked):
    """The numbers of the columns of whole numbers that are times of a day, as 1745 is 17:45."""
    found = []
    for j, column in enumerate(columns):
        if column.kind == "integer" and column.name not in asked and 0 <= column.low and column.high <= 2400:
            x = np.unique(np.asarray(cells[j][0], np.int64))
            hours, minutes = hour_and_minute(x)
            if minutes.max() < 60 and not {0, 2400} <= set(x.tolist()) and len(np.unique(hours)) >= HOURS and len(
                    np.unique(minutes)) >= MINUTES:
                found.append(j)
    return found


def from_each_other(columns, cells):
    """The Columns, of which times of a day are counted from others, without holes, where they are likelier so.

    First of all where the minutes between two of them are a column that follows.
    """
    columns, found, pairs = list(columns), [], {column.by[:2] for column in columns if column.rule == "clock"}
    times = {j: column.numbers(*cells[j]) for j, column in enumerate(columns) if column.clock}
    for i, a in times.items():
        for j, b in times.items():
            if i != j and not np.isnan(a).any():
                both, own = (_entropy(y[~np.isnan(y)]) for y in ((b - a) % DAY, b))
                found.append((own - both + DAY * ((columns[j].name, columns[i].name) in pairs), j, i))
    for gain, j, i in sorted(found, key=lambda each: (-each[0], each[1:])):
        if gain > BETTER and columns[j].least is None and j not in _above(columns, i):
            difference = (times[j] - times[i]) % DAY
            columns[j] = dataclasses.replace(columns[j], base=columns[i].name, least=_gap(difference), atoms=())
            between = columns[j].name, columns[i].name
            columns = [dataclasses.replace(column, low=columns[j].least) if column.by[:2] == between and column.rule == "clock"
                       else column for column in columns]
    return columns


def _above(columns, i):
    """The numbers of the columns that a column is counted from, and its own."""
    place, found = {column.name: j for j, column in enumerate(columns)}, [i]
    while columns[found[-1]].base is not None:
        found.append(place[columns[found[-1]].base])
    return found


def _gap(difference):
    """In the middle of the longest time between differences that there are, from which on they are counted: 0 or below."""
    values = np.unique(difference[~np.isnan(difference)]).astype(int)
    wide = np.diff([*values, values[0] + DAY])
    start = int(values[wide.argmax()] + (wide.max() + 1) // 2) % DAY
    return start - DAY if start else 0


def _entropy(x):
    share = np.unique(x, return_counts=True)[1] / max(1, len(x))
    return -float(share @ np.log(share))
