"""Tables of text, dates and numbers in .csv and .parquet files, by polars, and back.

Cells of text lose the spaces around them; one that is empty or says so in another way (NA, ?, null, ...) is missing. A column
is of whole numbers, numbers or truth values if all its cells are, else of text. Rows are counted from 1 in messages.
"""
import io
import os
from pathlib import Path

from .. import checkpoint
from .source import Source
from .table import DataError
from .text import PLAIN, Text

AS_TEXT = ("category", "ordered", "id", "text")  # kinds whose cells are not to become numbers: 02134 keeps its 0
_WHOLE, _NUMBER = r"^[+-]?(0|[1-9]\d{0,17})$", r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


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
            raise DataError(f"{path} is damaged or no .parquet file ({str(error).splitlines()[0][:200]})") from None
    path = os.fspath(path)
    names, text = Source(path, dialect=dialect).names, Text(path, dialect=dialect)
    if names is None:
        raise DataError(f"{path} has no line of names; write one, by which its columns are known")
    n = text.count()
    try:
        file = path if dialect.encoding == "utf-8-sig" else io.BytesIO(_utf8(path, dialect))
        frame = pl.read_csv(file, separator=text.delimiter, has_header=False, skip_rows=text.n_skip, infer_schema=False,
                            new_columns=names, encoding="utf8", raise_if_empty=False)
    except Exception as error:
        raise DataError(f"{path} cannot be read as a table ({str(error).splitlines()[0][:200]})") from None
    if len(frame) != n:
        raise DataError(f"{path} cannot be read as a table: {n} rows by its lines, {len(frame)} by its quotes; mend these, "
                        "or remove empty lines")
    return frame.select(_typed(pl, path, frame[name].str.strip_chars(), (columns or {}).get(name), dialect) for name in names)


def _utf8(path, dialect):
    with dialect.opened(path) as file:
        return file.read().encode()


def _typed(pl, path, cells, kind, dialect):
    """A column of text as what its cells are."""
    cells = cells.set(cells.str.to_lowercase().is_in(sorted(dialect.texts | {"nan"})), None)
    seen = cells.drop_nulls()
    if isinstance(kind, (list, tuple)) or kind in AS_TEXT or not len(seen):
        return cells
    if seen.str.contains(_WHOLE).all():
        return cells.cast(pl.Int64)
    if seen.str.to_lowercase().is_in(["true", "false"]).all():
        return cells.str.to_lowercase() == "true"
    if not seen.str.contains(r"^[+-]?0\d").any():
        commas = cells.str.replace(",", ".", literal=True)  # 3,5 is a number, too
        for numbers in {None: (cells, commas), ".": (cells,), ",": (commas,)}[dialect.decimal]:
            right = numbers.str.contains(_NUMBER)
            if right.all():
                return numbers.cast(pl.Float64)
            if right.mean() > 0.5:
                row = (~right).fill_null(False).arg_max()
                raise DataError(f"{path}: row {row + 1}, column {cells.name!r} is {cells[row]!r}, not a number as most others "
                                "are; correct it, or make the column a category"[:400])
    return cells


def write_table(path, frame):
    """Write a DataFrame to a .csv or .parquet file, whole or not at all. Raises DataError for other names."""
    pl = polars(path)
    if not is_parquet(path) and Path(path).suffix.lower() != ".csv":
        raise DataError(f"{path}: a table is written to .csv or .parquet; end its name so")
    with checkpoint.replacing(path) as file:
        frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
        if is_parquet(path):
            frame.write_parquet(file)
        else:  # names on one line, where they are looked for
            frame.rename({name: " ".join(name.splitlines()) for name in frame.columns}).write_csv(file)
