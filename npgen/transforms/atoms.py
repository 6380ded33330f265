"""A warning of columns that no continuous density can hold.

Legend: n rows, d columns.
"""
import numpy as np

from ..warn import warn
from .base import listed

_MANY_ROWS = 20  # that have one value: an atom


def warn_of_atoms(method, x, z, columns=None):
    """Warn, once, of columns of x (n, d) that are no continuous variables, where a continuous density is fitted to z (n, d).

    A value is an atom if 20 rows or more have it, and ten times as many as have any of the five nearest other values on either
    side; or if its column has no more than 5 values. Numbers drawn from a density, rounded to a grid or not, have none: if it
    changes by no more than a factor of three between neighbours on the grid, five counts are all below a tenth of a count of
    20 with a probability under 1e-7. Of more than 20,000 rows, as many evenly spaced ones are looked at. Also named are columns
    whose numbers are no finer than a quarter of their standard deviation, or than 1 where all are the same.
    `columns` are x's numbers in the user's table.
    """
    atoms, coarse = {}, {}
    step = -(-len(x) // 20_000)
    for j in range(x.shape[1]):
        some = np.sort(x[::step, j][~np.isnan(z[::step, j])])
        seen = np.sort(z[::step, j][~np.isnan(z[::step, j])])
        if len(seen) < _MANY_ROWS:
            continue
        number, size = j if columns is None else int(columns[j]), float(np.spacing(np.abs(some[len(some) // 2])))
        if size > (some.std(dtype=np.float64) / 4 if some[0] < some[-1] else 0.5):
            coarse[number] = size
        elif seen[0] < seen[-1] and (seen[_MANY_ROWS - 1:] == seen[:1 - _MANY_ROWS]).any():
            values, counts = np.unique(seen, return_counts=True)
            near = np.lib.stride_tricks.sliding_window_view(np.pad(counts, 5), 11)
            lonely = counts >= np.where(len(values) > 5, 10, 0) * np.delete(near, 5, axis=1).max(axis=1)
            counts = np.where(lonely, counts, 0)
            if counts.max() >= _MANY_ROWS:
                at = z[:, j] == values[counts.argmax()]
                atoms[number] = x[at.argmax(), j], at.mean()
    if atoms:
        (column, (value, share)), *_ = atoms.items()
        warn(f"{method}: column {column} of X is {value:g} in {100 * share:.2g} % of the rows, which no continuous density can "
             f"hold ({listed(list(atoms))}, counted from 0): log_prob has no upper bound there; take a Mixture with other "
             "heads, spread integers by preprocess='dequantize+logit', or drop such columns")
    if coarse:
        (column, size), *_ = coarse.items()
        warn(f"{method}: column {column} of X comes in steps of {size:g}, as {x.dtype} does there, which are wide for its "
             f"spread ({listed(list(coarse))}, counted from 0): subtract an offset before X is {x.dtype}"
             + (", or pass float64" if x.dtype == np.float32 else ""))
