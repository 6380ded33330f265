"""npgen schema, and tables of text, dates and numbers for the other commands: --schema, --column and --given."""
import contextlib
import importlib.util
import os

import numpy as np

from .. import data
from ..data.dates import is_format
from ..data.reading import is_parquet, is_text, read_table, with_times
from ..data.schema import KINDS, Schema
from ..warn import warn
from ..words import count
from .parser import add_command, add_dialect, dialect
from .sources import check_names, check_output, listed, rows_of, warn_of_others

SHOWN = 5   # values, of those that no row of fit had
WIDE = 100  # columns of numbers alone, beyond which a head for each is slow


def schema(args):
    """npgen schema FILE"""
    if args.out:
        check_output(args.out, inputs=(args.file,))
    found = infer(args.file, read_table(args.file, overrides(args.column), dialect(args)), overrides(args.column))
    print(found)
    if args.out:
        found.save(args.out)


def infer(path, frame, columns):
    """The schema of the table in a file. Raises DataError that names the file."""
    try:
        return Schema.infer(frame, columns)
    except data.DataError as error:
        raise data.DataError(f"{path}: {error}") from None


def is_table(path, dialect):
    """Whether a file is a table: .parquet, or text whose first line has names."""
    return is_parquet(path) or is_text(path) and os.path.isfile(path) and data.Source(path, dialect=dialect).names is not None


def frame_in(path, columns, dialect, preprocessed=False):
    """The DataFrame in a file that is a table, else None: an array. Text whose columns' kinds are not given is an array, too,
    without polars, and if it is numbers alone in more than WIDE columns, as of pictures, or for a preprocessing that is asked.
    """
    if columns is None and not is_parquet(path) and importlib.util.find_spec("polars") is None:
        return None
    if not (is_table(path, dialect) or columns is not None and is_text(path)):
        return None
    frame = read_table(path, columns, dialect)
    asked = columns is not None or is_parquet(path) or not (preprocessed or frame.width > WIDE)
    return frame if asked or not all(dtype.is_numeric() for dtype in frame.dtypes) else None


def rows_for(schema, path, dialect, file, has="was fitted on"):
    """Rows in a file, of the columns with this schema that `file` was fitted on, or has: the DataFrame of a table, or of
    numbers without names a Table, where the number of each cell is its value.
    """
    if not is_table(path, dialect) and all(_is_number(column) for column in schema.modelled):
        x = rows_of(data.Source(path, missing=True, dialect=dialect), schema.names, len(schema.names), file, has)
        return data.Table(x, schema.names)
    kinds = {column.name: "text" for column in schema.columns if column.native.type == "string"}
    frame = with_times(path, read_table(path, kinds, dialect), schema.columns)
    known = [column.name for column in schema.columns]
    check_names(path, frame.columns, schema.names, file, has)
    warn_of_others(path, frame.columns, known, file, has)
    return frame.select([name for name in known if name in frame.columns])


def _is_number(column):
    """Whether a modelled column's values are what stands for them."""
    if column.levels is not None:
        return column.levels == tuple(range(len(column.levels)))
    return column.kind != "datetime" and not column.clock and column.base is None


def known(model, file, texts):
    """{name: value} of --given NAME=VALUE."""
    columns, values = {column.name: column for column in model.schema_.modelled}, {}
    for text in texts:
        name, equals, value = text.partition("=")
        followed = {column.name: column.by for column in model.schema_.columns if column.kind == "determined"}.get(name)
        if equals and followed:
            raise ValueError(f"--given {text}: {name} follows from {' and '.join(followed)}; give that instead")
        if not equals or name not in columns:
            raise ValueError(f"--given {text}: give NAME=VALUE, the name one of {listed(columns)}, which {file} was fitted on")
        column, (low, dots, high) = columns[name], value.partition("..")
        try:
            levels = {str(level) for level in column.levels or ()}
            within = dots and value not in levels
            values[name] = (_value(column, low), _value(column, high)) if within else _value(column, value)
        except ValueError:
            raise ValueError(f"--given {text}: {value!r} is no value of {name!r} ({column.words()})"[:300]) from None
    return values


def _value(column, text):
    """The value of a column that a text stands for; None for none. Raises ValueError."""
    if column.levels is not None:
        value = {str(level): level for level in column.levels}.get(text, text)
    else:
        value = text if column.kind == "datetime" or not text else float(text)
    if text or value != text:
        column.number(value)
    return value if text else None


def ask(model, rows, question, args):
    """question(rows), which is refused where a value is one that no row of fit had; with --unseen it is asked of other rows.

    Such rows of the answer (n,) are -inf then; of one (n, d) they are -inf in the columns that are to blame, and NaN in others.
    """
    if not args.unseen:
        try:
            return question(rows)
        except ValueError as error:
            raise ValueError(with_way_out(error, model, rows)) from None
    known = known_in(model, rows, args.file, args.data)
    answer = question(rows.filter(known.all(axis=1)))
    if not np.ndim(answer):  # of a model without a density
        return answer
    full = np.full(len(rows), -np.inf) if np.ndim(answer) == 1 else np.where(known, np.nan, -np.inf)
    full[known.all(axis=1)] = answer
    return full if isinstance(answer, np.ndarray) else type(answer)(full, schema=answer.columns)


def with_way_out(error, model, *several):
    """The message of an error, and, if values of some rows are ones that no row of fit had, what can be done."""
    with contextlib.suppress(ValueError):
        if any(not model.in_support(rows).all() for rows in several if rows is not None):
            return f"{error}, or leave out such rows, --unseen"
    return str(error)


def known_in(model, rows, file, path):
    """Which cells (n, d) of a table have values that a model knows. Warns of others; raises ValueError where no row is left."""
    if model.schema_ is None or isinstance(rows, data.Table | np.ndarray):
        raise ValueError(f"--unseen: {file} or {path} is no table of named columns; leave it out")
    known = model.in_support(rows)
    wrong, cells = np.flatnonzero(~known.all(axis=1)), np.argwhere(~known)[:SHOWN].tolist()
    if len(wrong):
        said = [f"{rows[model.schema_.names[j]][i]!r} in column {model.schema_.names[j]!r} of row {i + 1}" for i, j in cells]
        warn(f"{path}: {count(len(wrong), 'row')} have values that no row of fit had: "
             f"{', '.join(said)}{', ...' if len(wrong) > SHOWN else ''}")
    if len(wrong) == len(rows):
        raise ValueError(f"--unseen: {path} has no row left; see whether it is of the table that {file} was fitted on")
    return known


def stacked(several):
    """Imputed tables, or arrays, one below the other, with their number in a first column. Raises ValueError."""
    if isinstance(several[0], np.ndarray):
        return np.concatenate([np.insert(x, 0, i, axis=1) for i, x in enumerate(several, 1)])
    if "imputation" in several[0].columns:
        raise ValueError("-n: the table has a column 'imputation', which is to hold the number of each; rename it")
    whole = several[0]
    for more in several[1:]:
        whole = whole.vstack(more)
    numbers = np.repeat(np.arange(1, len(several) + 1), len(several[0]))
    return whole.insert_column(0, type(whole[:, 0])("imputation", numbers))


def overrides(texts):
    """{name: kind} of --column NAME=KIND, {name: [levels]} of NAME=low<middle<high, {name: ">= other"} of OTHER<=NAME."""
    columns = {}
    for text in texts:
        if text.count("<=") == 1 == text.count("="):
            other, _, name = text.partition("<=")
            columns[name] = f">= {other}"
            continue
        name, equals, kind = text.rpartition("=")
        if not equals or not name or "<" not in kind and kind not in KINDS and not is_format(kind):
            raise ValueError(f"--column {text}: give NAME=KIND, the kind one of {', '.join(KINDS)}, NAME=low<middle<high, "
                             "NAME=%d/%m/%Y or another format of dates, or NAME<=OTHER")
        columns[name] = [level.strip() for level in kind.split("<")] if "<" in kind else kind
    return columns


def add_column(sub):
    sub.add_argument("--column", action="append", default=[], metavar="NAME=KIND", help="what a column is, if not what npgen "
                     f"takes it for: {', '.join(KINDS)}, or its levels in their order, size=S<M<L, or the format of its "
                     "dates, day=%%d/%%m/%%Y, or that it is never more than another, begin<=end; can be repeated")


def add_unseen(sub):
    sub.add_argument("--unseen", action="store_true", help="go on where rows of a table have a level, or a number, that no row "
                     "of fit had, and say which: their log p(x) is -inf (default: it is an error)")


def add_schema(commands):
    """npgen schema"""
    sub = add_command(commands, schema, "say what the columns of a table are: kinds, levels, bounds, missing values", notes="""\
FILE is a .csv, .tsv or .txt with a line of names (also .gz), or a .parquet file; npgen[tables]
reads it. Ids, text and constants are not modelled: drawn rows have a running number, nothing,
or the constant there.
""", examples=["npgen schema people.csv", "npgen schema people.csv --column zip=category --out schema.json"])
    sub.add_argument("file", metavar="FILE", help="a table, see below")
    add_column(sub)
    add_dialect(sub)
    sub.add_argument("--out", metavar="OUT", help="write the schema as JSON, to correct and to give to npgen fit --schema")
