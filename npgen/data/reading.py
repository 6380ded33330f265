"""Tables of text, dates and numbers in .csv and .parquet files, by polars, and back.

Cells of text lose the spaces around them; one that is empty or says so in another way (NA, ?, null, ...) is missing. A column
is of whole numbers, numbers or truth values if all its cells are, else of text, and of text if its whole numbers are too long
for their type to hold them exactly. Rows are counted from 1 in messages.
"""
import dataclasses
import io
import os
from pathlib import Path

import numpy as np

from .. import checkpoint
from . import frames
from .source import Source, reading
from .table import DataError
from .text import NUMBERS, PLAIN, Text

AS_TEXT = ("category", "ordered", "id", "text")  # kinds whose cells are not to become numbers: 02134 keeps its 0
_WHOLE, _NUMBER = "^[+-]?(0|[1-9][0-9]*)$", "^[+-]?([0-9]+{0}?[0-9]*|{0}[0-9]+)([eE][+-]?[0-9]+)?$"


def polars(path):
    """The module, which whoever reads or writes tables has installed. Raises DataError that says how."""
    try:
        import polars
    except ImportError:
        raise DataError(f"{path}: tables with text and .parquet files need polars; pip install 'npgen[tables]'") from None
    return polars


def is_parquet(path):
    return Path(path).suffix.lower() in (".parquet", ".pq")


def is_text(path):
    return Path(str(path).lower().removesuffix(".gz")).suffix in (".csv", ".tsv", ".txt")


def read_table(path, columns=None, dialect=PLAIN):
    """The polars DataFrame in a .csv, .tsv, .txt (also .gz) or .parquet file; columns {name: kind}: what Schema.infer takes.
    dialect: of a file of text.

    Raises DataError that names file, row and column: for lines of another length, two columns of a name, and for a cell that
    is no number in a column of numbers.
    """
    pl = polars(path)
    if is_parquet(path):
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file")
        try:
            return pl.read_parquet(path)
        except Exception as error:  # whatever a parser raises, the file is at fault
            raise DataError(f"{path} is damaged or no .parquet file ({str(error).partition(chr(10))[0][:200]})") from None
    path = os.fspath(path)
    names = Source(path, dialect=dialect).names
    if names is None:
        raise DataError(f"{path} has no line of names; write one, by which its columns are known")
    with reading(path, dialect):
        text = Text(path, dialect=dialect)
        n, plain = text.survey()
        plain &= dialect.encoding == "utf-8-sig"  # else polars would not find the rows that there are
        frame = pl.read_csv(path if plain else io.BytesIO(text.rewritten()), separator=text.delimiter, has_header=False,
                            skip_rows=text.n_skip if plain else 0, infer_schema=False, new_columns=names, encoding="utf8",
                            raise_if_empty=False)
    if len(frame) != n:
        raise DataError(f"{path} cannot be read as a table: {n} rows by its lines, {len(frame)} by its quotes; mend these")
    return frame.select(_typed(pl, path, frame[name].str.strip_chars(), (columns or {}).get(name), dialect) for name in names)


def _typed(pl, path, cells, kind, dialect):
    """A column of text as what its cells are."""
    cells = cells.set(cells.str.to_lowercase().is_in(sorted(dialect.texts | {"nan"})), None)
    seen = cells.drop_nulls()
    if isinstance(kind, (list, tuple)) or kind in AS_TEXT or not len(seen):
        return cells
    if seen.str.to_lowercase().is_in(["true", "false"]).all():
        return cells.str.to_lowercase() == "true"
    if seen.str.contains("^[+-]?0[0-9]").any():
        return cells
    numerals, right = _numerals(path, cells, seen, dialect.decimal)
    if right.all():
        return _exact(pl, cells, numerals)
    if right.mean() > 0.5:
        row = (~right).fill_null(False).arg_max()
        raise DataError(f"{path}: row {row + 1}, column {cells.name!r} is {cells[row]!r}, not a number as most others are; "
                        "correct it, or make the column a category"[:400])
    return cells


def _numerals(path, cells, seen, decimal):
    """The cells with points before decimals, and which of them are numbers. Raises DataError where thousands may be marked."""
    if decimal is not None:
        return _pointed(cells, decimal), cells.str.contains(f"^{NUMBERS[decimal]}$")
    points = cells.str.contains(_NUMBER.format("[.]"))
    if points.all() or not seen.str.contains(",", literal=True).any():
        return cells, points
    commas = cells.str.contains(_NUMBER.format("[,]"))
    for mark, right in ((".", points), (",", commas)):  # 1,234 may be 1234; 1.234,5 is a number if the comma is of decimals
        if seen.str.contains(f"^{NUMBERS[mark]}$").all() and not right.all():
            row = cells.str.contains(",", literal=True).fill_null(False).arg_max()
            raise DataError(f"{path}: row {row + 1}, column {cells.name!r} is {cells[row]!r}"[:300] + ", where a mark may be "
                            "of thousands or of decimals; say which is of decimals, --decimal . or --decimal ',', or that "
                            "these are no numbers, --column NAME=category")
    return (_pointed(cells, ","), commas) if commas.mean() > points.mean() else (cells, points)


def _pointed(cells, decimal):
    """Numbers with points before decimals, and no mark between thousands."""
    return cells.str.replace_all("," if decimal == "." else ".", "", literal=True).str.replace(",", ".", literal=True)


def _exact(pl, cells, numerals):
    """Numbers of a type that holds them all: whole ones of 64 bits, or floats; the cells as they are if none does."""
    if numerals.drop_nulls().str.contains(_WHOLE).all():
        for dtype in (pl.Int64, pl.UInt64):
            whole = numerals.cast(dtype, strict=False)
            if whole.null_count() == numerals.null_count():
                return whole
        return cells
    long = numerals.filter(numerals.str.contains("^[+-]?[0-9]{16,}$").fill_null(False))
    exact = all(len(text) < 310 and int(text) == float(text) for text in long)  # beyond, floats are infinite
    return numerals.cast(pl.Float64) if exact else cells


def with_times(path, frame, columns):
    """The DataFrame of a file of text with times where these Columns, of a table that was no text, have them.

    Raises DataError for a text that is none.
    """
    for column in columns:
        if column.native.type == "datetime" and column.name in frame.columns and str(frame[column.name].dtype) == "String":
            gaps, native = frame[column.name].is_null().to_numpy(), column.native
            if native.unit == "s":  # which polars has not
                native = dataclasses.replace(native, unit="ms")
            stamps = np.zeros(len(gaps), np.int64)
            try:
                stamps[~gaps] = dataclasses.replace(column, native=native).stamps(frame[column.name].to_numpy()[~gaps],
                                                                                  np.flatnonzero(~gaps))
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
            frame = frame.with_columns(frames.write("polars", {column.name: (native, stamps, gaps)})[column.name])
    return frame


def write_table(path, frame):
    """Write a DataFrame to a .csv or .parquet file, whole or not at all. Raises DataError for other names."""
    pl = polars(path)
    if not is_parquet(path) and Path(path).suffix.lower() != ".csv":
        raise DataError(f"{path}: a table is written to .csv or .parquet; end its name so")
    with checkpoint.replacing(path) as file:
        frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
        if is_parquet(path):
            frame.write_parquet(file)
        else:  # names on one line, where they are looked for; times in UTC, with one offset; a hole that is no blank line
            digits = {"ms": 3, "us": 6, "ns": 9}
            frame = frame.with_columns(
                column.dt.convert_time_zone("UTC").dt.to_string(f"%Y-%m-%dT%H:%M:%S%.{digits[column.dtype.time_unit]}fZ")
                for column in frame if getattr(column.dtype, "time_zone", None))
            frame.rename({name: " ".join(name.splitlines()) for name in frame.columns}).write_csv(
                file, quote_style="always" if frame.width == 1 and frame.null_count().item() else "necessary")
