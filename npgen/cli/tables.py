"""npgen schema, and tables of text, dates and numbers for the other commands: --schema and --column."""
from .. import data
from ..data.reading import read_table
from ..data.schema import KINDS, Schema
from .parser import add_command
from .sources import check_output


def schema(args):
    """npgen schema FILE"""
    if args.out:
        check_output(args.out)
    found = infer(args.file, read_table(args.file, overrides(args.column)), overrides(args.column))
    print(found)
    if args.out:
        found.save(args.out)


def infer(path, frame, columns):
    """The schema of the table in a file. Raises DataError that names the file."""
    try:
        return Schema.infer(frame, columns)
    except data.DataError as error:
        raise data.DataError(f"{path}: {error}") from None


def overrides(texts):
    """{name: kind} of --column NAME=KIND, or {name: [levels]} of NAME=low<middle<high."""
    columns = {}
    for text in texts:
        name, equals, kind = text.rpartition("=")
        if not equals or not name or "<" not in kind and kind not in KINDS:
            raise ValueError(f"--column {text}: give NAME=KIND, the kind one of {', '.join(KINDS)}, or NAME=low<middle<high")
        columns[name] = [level.strip() for level in kind.split("<")] if "<" in kind else kind
    return columns


def add_column(sub):
    sub.add_argument("--column", action="append", default=[], metavar="NAME=KIND", help="what a column is, if not what npgen "
                     f"takes it for: {', '.join(KINDS)}, or its levels in their order, size=S<M<L; can be repeated")


def add_schema(commands):
    """npgen schema"""
    sub = add_command(commands, schema, "say what the columns of a table are: kinds, levels, bounds, missing values", notes="""\
FILE is a .csv, .tsv or .txt with a line of names (also .gz), or a .parquet file; npgen[tables]
reads it. Ids, text and constants are not modelled: drawn rows have a running number, nothing,
or the constant there.
""", examples=["npgen schema people.csv", "npgen schema people.csv --column zip=category --out schema.json"])
    sub.add_argument("file", metavar="FILE", help="a table, see below")
    add_column(sub)
    sub.add_argument("--out", metavar="OUT", help="write the schema as JSON, to correct and to give to npgen fit --schema")
