"""Dates and times as text: the format that all cells of a column are written in, and such a text as a number and back.

A format is that of strftime, of fewer parts:

    %Y-%m-%d  %d.%m.%Y  %m/%d/%Y    the date, in either order, with one of these marks; %-d and %-m are written without a zero
    %H:%M  %H:%M:%S                 behind a space or a T; %-H likewise
    %.3f  %.f  %.06f                a fraction of the second: of 3 digits, of as few as it needs, of 6 unless it is zero
    Z  +02:00  +0200  +02           the offset from UTC that texts have, itself; where it changes, as from winter to summer,
                                    +01:00|1585443600+02:00, the second after 1970 from which on it is another

A number, a stamp, is how many seconds a text is after 1970-01-01, UTC if it has an offset, or how many of their `ticks`.
"""
import bisect
import datetime
import functools
import itertools
import math
import re

from .table import EXACT

EXAMPLES = "%Y-%m-%d, %d/%m/%Y, %Y-%m-%d %H:%M:%S, %Y-%m-%dT%H:%M:%S%.3fZ"
SEASON = 28 * 86400  # seconds that an offset holds: texts of many places, whose offsets take turns, are not of one clock
_FIRST = datetime.date(1970, 1, 1).toordinal()
_OFFSET = r" ?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
_FORM = re.compile(r"(?:%Y([-/.])%-?m\1%-?d|%-?d([-/.])%-?m\2%Y|%-?m([-/.])%-?d\3%Y)"
                   rf"(?:[ T]%-?H:%M(?::%S(?P<f>%\.(?:0?[1-9])?f)?)?(?P<z>{_OFFSET}(?:\|-?[0-9]{{1,12}}{_OFFSET})*)?)?")
_TEXT = re.compile(r"(?:(?P<year>[0-9]{4})([-/.])[0-9]{1,2}\2[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\3[0-9]{4})"
                   r"(?:(?P<between>[ T])[0-9]{1,2}:[0-9]{2}(?P<s>:[0-9]{2}(?:\.(?P<f>[0-9]{1,9}))?)?"
                   rf"(?P<z>{_OFFSET})?)?")
_PART = re.compile("%(-?)([YmdHMS])")


def is_format(form):
    return isinstance(form, str) and _FORM.fullmatch(form) is not None


@functools.lru_cache(256)
def _parts(form):
    """How a format is read, an expression; how it is written, a template; ticks a second; digits of a fraction; its offsets,
    the seconds from which on they are others, and how these are written.
    """
    known = _FORM.fullmatch(form)
    of, offset = known["f"], known["z"]
    bare = form.removesuffix(offset or "").replace(of or "\0", "")
    digits = of and of[2:-1]            # "3", "" or "06"
    count = int(digits or 6) if of else 0
    width = {"Y": 4}
    read = _PART.sub(lambda part: f"(?P<{part[2]}>[0-9]{{{'1,2' if part[1] else width.get(part[2], 2)}}})",
                     bare.replace(".", r"\."))
    if of:
        read += rf"\.(?P<f>[0-9]{{{count}}})" if digits[:1] not in ("", "0") else rf"(?:\.(?P<f>[0-9]{{1,{count}}}))?"
    read += rf"(?P<z>{_OFFSET})" if offset else ""
    write = _PART.sub(lambda part: f"{{{part[2]}}}" if part[1] else f"{{{part[2]}:0{width.get(part[2], 2)}d}}", bare)
    first, *others = (offset or "").split("|")
    others = [re.fullmatch(f"(-?[0-9]+)({_OFFSET})", other).groups() for other in others]
    marks = (first, *(mark for _, mark in others))
    return (re.compile(read), write + "{f}{z}", 10**count, digits, tuple(map(_seconds, marks)),
            tuple(int(second) for second, _ in others), marks)


def _seconds(offset):
    """Of an offset such as +02:00."""
    digits = re.sub("[^0-9]", "", offset)
    return (-60 if "-" in offset else 60) * (60 * int(digits[:2] or 0) + int(digits[2:] or 0))


def ticks(form):
    """How many a second has in the stamps of this format."""
    return _parts(form)[2]


def offset_at(second, form):
    """How many seconds the texts of this format are before UTC at that second, 0 without an offset."""
    *_, offsets, changes, _ = _parts(form)
    return offsets[bisect.bisect_right(changes, second)]


def shown(form):
    """The format without the changes of its offset, which may be many."""
    return form.partition("|")[0]


def has_offset(form):
    return _FORM.fullmatch(form)["z"] is not None


def stamp_of(text, form):
    """The stamp of a text in this format; its offset may be another. Raises ValueError."""
    read, _, per_second, *_ = _parts(form)
    found = read.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time as {form}")
    part = found.groupdict()
    day = datetime.date(int(part["Y"]), int(part["m"]), int(part["d"])).toordinal() - _FIRST
    clock = datetime.time(int(part.get("H") or 0), int(part.get("M") or 0), int(part.get("S") or 0))
    seconds = 86400 * day + 3600 * clock.hour + 60 * clock.minute + clock.second - _seconds(part.get("z") or "")
    fraction = part.get("f") or ""
    return seconds * per_second + int(fraction or 0) * per_second // 10**len(fraction)


def is_as(text, form):
    """Whether a text is a time in this format, and is written again as it is."""
    try:
        return text_of(stamp_of(text, form), form) == text
    except (OverflowError, ValueError):
        return False


def is_in(text, form):
    """Whether stamp_of takes this text."""
    try:
        stamp_of(text, form)
    except ValueError:
        return False
    return True


def text_of(stamp, form):
    """The text that stamp_of takes for this number."""
    _, write, per_second, digits, offsets, changes, marks = _parts(form)
    seconds, fraction = divmod(stamp, per_second)
    now = bisect.bisect_right(changes, seconds)
    day, second = divmod(seconds + offsets[now], 86400)
    date, f = datetime.date.fromordinal(day + _FIRST), ""
    if digits is not None and (fraction or digits[:1] not in ("", "0")):
        f = f".{fraction:0{len(str(per_second)) - 1}d}"
        f = f if digits else f.rstrip("0")
    return write.format(Y=date.year, m=date.month, d=date.day, H=second // 3600, M=second // 60 % 60, S=second % 60, f=f,
                        z=marks[now])


def formats_of(texts):
    """The formats that all of these texts are times in and are written again as they are: none, one, or two where nothing says
    whether the day or the month is first. With points between them, 05.06.2020, the day is.
    """
    known = _TEXT.fullmatch(texts[0]) if texts else None
    if known is None:
        return ()
    mark = known[2] or known[3]
    orders = ["%Y{0}%m{0}%d"] if known["year"] else ["%d{0}%m{0}%Y", "%m{0}%d{0}%Y"]
    found = [next((form for written in _written(order.format(mark), known) for form in (written, _changing(texts, written))
                   if form and _fits(texts, form)), None) for order in orders]
    found = [form for form in found if form]
    return tuple(found[:1] if mark == "." else found)


def _written(date, known):
    """The formats of this order that a text may be in, given its parts."""
    between, z, k = known["between"], known["z"] or "", len(known["f"] or "")
    fractions = ("",) if not known["s"] else (f"%.{k}f", "%.f", f"%.0{k}f") if k else ("", "%.f", "%.06f")
    for day in (date, date.replace("%m", "%-m").replace("%d", "%-d")):
        for hour in ("%H", "%-H") if between else ("",):
            for fraction in fractions:
                yield day + (f"{between}{hour}:%M{':%S' if known['s'] else ''}{fraction}{z}" if between else "")


def _changing(texts, form):
    """The format with the changes of the offset that texts have in time, None if there are none or one is soon taken back."""
    if not has_offset(form):
        return None
    try:
        stamps = sorted((stamp_of(text, form) // ticks(form), re.search(f"{_OFFSET}$", text)[0]) for text in texts)
    except ValueError:
        return None
    changes = [new for old, new in itertools.pairwise(stamps) if new[1] != old[1]]
    if not changes or any(later - former < SEASON for (former, _), (later, _) in itertools.pairwise(changes)):
        return None
    bare = form[:-len(_FORM.fullmatch(form)["z"])]
    return "|".join([bare + stamps[0][1], *(f"{second}{mark}" for second, mark in changes)])


def _fits(texts, form):
    if not all(is_as(text, form) for text in texts):
        return False
    stamps = [stamp_of(text, form) for text in texts]
    low, high = min(stamps), max(stamps)
    step = math.gcd(*(stamp - low for stamp in stamps)) or 1
    return (high - low) // step < EXACT and -2**63 <= low and high < 2**63
