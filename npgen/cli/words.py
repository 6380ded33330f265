"""What the commands print: a line on stderr, a table."""
import sys

from .. import parallel


def say(*parts):
    """A line on stderr; of several ranks the first says it."""
    if parallel.rank() > 0:
        return
    print("npgen:", ": ".join(" ".join(str(part).split()) for part in parts), file=sys.stderr)


def size(n_bytes):
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def print_table(rows):
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
