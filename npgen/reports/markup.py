"""HTML whose every text is escaped by how it is made, and numbers as a page shows them."""
import html
import math
import re

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # no signs, or turn the line
LONG = 30           # lines of a table that is folded if it has more
_VOID = ("img", "input", "meta")


class Markup(str):
    """Text that is HTML: tag and join make it, and take whatever else they are given for plain text."""


def escape(text):
    """Plain text as Markup."""
    return Markup(html.escape(_UNSEEN.sub("\ufffd", str(text)), quote=True))


def join(*parts):
    """Markup of parts, one after another: Markup as it is, lists of parts, None for nothing, all else as plain text."""
    return Markup("".join(part if isinstance(part, Markup) else "" if part is None else join(*part)
                          if isinstance(part, (list, tuple)) else escape(part) for part in parts))


def tag(name, /, *parts, **attributes):
    """The element <name attribute="value">parts</name>; of attributes that are Python's words: class_."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
                    if value is not None)
    return Markup(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(*parts)}</{name}>")


def table(head, rows, **attributes):
    """A table; cells that are Markup of <td> stay so."""
    def row(cells):
        return tag("tr", *(cell if isinstance(cell, Markup) and cell.startswith("<td") else tag("td", cell) for cell in cells))
    return tag("div", tag("table", tag("thead", tag("tr", *(tag("th", title) for title in head))),
                          tag("tbody", *map(row, rows)), **attributes), class_="wide")


def folded(summary, part, folds):
    """The part as it is, or if it folds behind a line that opens it."""
    return tag("details", tag("summary", summary), part) if folds else part


def figure(fact, value, form=".3f"):
    """A cell that shows a number of the report's facts, under its name there."""
    return tag("td", number(value, form), class_="number", data_fact=fact)


def number(value, form=".4g"):
    """A number as the page shows it, a dash for none."""
    return "–" if value is None or math.isnan(value) else format(value, form).replace("-", "−")


def short(text, most=40):
    """The beginning of a text, in one line."""
    text = " ".join(str(text)[:10 * most].split())
    return text if len(text) <= most else text[:most - 1] + "…"
