"""Columns of a source that are what is known beside the rows: --context.

Legend: n rows, w columns of context.
"""
import csv

import numpy as np

from .. import data
from .sources import listed


def chosen(found, text):
    """The numbers from 0 of the columns of a data.Source that a --context lists: names, or numbers from 1."""
    numbers = []
    for part in _parts(text):
        if part in (found.names or ()):
            numbers.append(found.names.index(part))
        elif part.isdecimal() and 1 <= int(part) <= found.width:
            numbers.append(int(part) - 1)
        else:
            has = f"are {listed(found.names)}" if found.names else f"have no names, but numbers, 1 to {found.width}"
            raise ValueError(f"--context {text}: {found.path} has no column {part!r}; its columns {has}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--context {text} names a column twice; name each once")
    if len(numbers) == found.width:
        raise ValueError(f"--context {text} names all columns of {found.path}; leave at least one for the model")
    return numbers


def table(found, numbers, names=None, known=None):
    """The context in these columns, under names, by default their own or their numbers from 1.

    known: what a fitted model's context is (context_.columns): labels that are text there are text here.
    """
    columns = [found.column(j) for j in numbers]
    if known:
        columns = [column.astype(str) if isinstance(each.get("levels", [0])[0], str) else column
                   for column, each in zip(columns, known, strict=True)]
    rows = np.empty((len(columns[0]), len(columns)), object)
    for k, column in enumerate(columns):
        rows[:, k] = column.tolist()
    return data.Table(rows, names or [found.names[j] if found.names else str(j + 1) for j in numbers])


def of(model, found, file, text):
    """The context of a source's rows, as a fitted model wants it, and its columns' numbers; of a model without one None and ().

    They are those that a --context names, or else those of the names that it was fitted with.
    """
    if model.context_ is None:
        if text is not None:
            raise ValueError(f"--context {text}: {file} was fitted without a context; leave it out")
        return None, ()
    names = model.context_.names
    if text is not None:
        numbers = chosen(found, text)
    elif names is None:
        raise ValueError(f"{file} was fitted with a context without names; say by --context which of {found.path} it is")
    else:
        numbers = [_find(found, name, file) for name in names]
    if len(numbers) != len(model.context_.columns):
        raise ValueError(f"--context {text}: {file} was fitted with a context of {len(model.context_.columns)} columns"
                         + (f", {listed(names)}" if names else "") + "; name as many, in this order")
    return table(found, numbers, names, model.context_.columns), numbers


def values(model, file, text):
    """The one row of context that a --context NAME=VALUE,... spells out; None for a model without one."""
    context = model.context_
    if context is None:
        if text is not None:
            raise ValueError(f"--context {text}: {file} was fitted without a context; leave it out")
        return None
    names = context.names or [str(k + 1) for k in range(len(context.columns))]
    given = dict(part.partition("=")[::2] for part in (_parts(text) if text else ()))
    if set(given) != set(names):
        raise ValueError(f"{file} was fitted with the context {listed(names)}; give its values, --context "
                         f"{','.join(f'{name}=VALUE' for name in names)}, or rows that have it, --data DATA")
    row = np.empty((1, len(names)), object)
    row[0] = [_value(name, given[name], column, file) for name, column in zip(names, context.columns, strict=True)]
    return data.Table(row, names)


def words(model):
    """What a model's context is, for a table."""
    names = model.context_.names or [f"column {k + 1}" for k in range(len(model.context_.columns))]
    return ", ".join(f"{name} ({len(column['levels'])} labels: {listed(column['levels'])})" if "levels" in column else
                     f"{name} (numbers)" for name, column in zip(names, model.context_.columns, strict=True))


def _parts(text):
    parts = [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [""])]
    if not parts or not all(parts):
        raise ValueError(f"--context {text!r} has an empty part; give names or numbers with commas between them")
    return parts


def _find(found, name, file):
    if name in (found.names or ()):
        return found.names.index(name)
    if name.isdecimal() and 1 <= int(name) <= found.width:
        return int(name) - 1
    raise ValueError(f"{found.path} has no column {name!r}, which is the context of {file}; say by --context which it is")


def _value(name, text, column, file):
    if "levels" in column:
        for level in column["levels"]:
            if text == str(level):
                return level
        raise ValueError(f"--context {name}={text}: the labels that {file} was fitted with are {listed(column['levels'])}")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--context {name}={text}: {file} was fitted with numbers there; give one") from None
