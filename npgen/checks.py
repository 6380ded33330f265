"""What arguments are, checked and cleaned: rows, weights, names of columns, and the arrays that a file holds.

Errors are one sentence that names the method and the argument, what it got, and what to do. Legend: n rows, d features.
"""
import numpy as np

from .engine import Tensor
from .kernels._cuda import asnumpy, is_device_array


def check_rows(method, X, *, name="X", dtype=None, minimum=0, missing=False):
    """X as a C-contiguous array (n, d) of float32 or float64, other numbers converted to `dtype`.

    Raises TypeError for what is not numbers, ValueError for another shape, too few rows, infinities, and NaN unless it
    may stand for a missing value.
    """
    check_constant(method, X, name)
    if np.ma.is_masked(X):
        raise ValueError(f"{method}: {name} has masked values; fill them or drop their rows first")
    if hasattr(X, "toarray"):
        raise TypeError(f"{method}: {name} is a sparse {type(X).__name__}; pass {name}.toarray()")
    try:
        x = X if is_device_array(X) else np.asarray(X)
        if x.dtype == object:
            x = x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{method}: {name} must be a table of numbers, got {type(X).__name__} ({error}); "
                        "convert its columns to numbers first") from None
    if x.dtype.kind == "c":
        raise ValueError(f"{method}: Complex data not supported, {name} has dtype {x.dtype}; pass real and imaginary part as "
                         "columns of their own")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{method}: {name} must hold real numbers, got dtype {x.dtype}; convert it to float first")
    if x.ndim != 2:
        raise ValueError(f"{method}: {name} must have two dimensions, rows and features, got shape {x.shape}; "
                         "Reshape your data to (-1, 1) if it is a single feature, to (1, -1) if it is a single row")
    if x.shape[1] == 0:
        raise ValueError(f"{method}: {name} has 0 feature(s) (shape={x.shape}) while a minimum of 1 is required.")
    if x.shape[0] < minimum:
        raise ValueError(f"{method}: {name} has shape {x.shape}, n_samples={x.shape[0]}; at least {minimum} rows are needed")
    if x.dtype.kind == "f" and x.dtype.itemsize >= 4:  # of any byte order; longer ones become float64
        dtype = np.float32 if x.dtype.itemsize == 4 else np.float64
    with np.errstate(over="ignore"):  # a long double may be infinite then
        x = x.astype(dtype or np.float64, order="C", copy=False)
    size = max(1, 2**20 // x.shape[1])  # a file that is mapped into memory may be far larger than memory
    for low in range(0, len(x), size):
        wrong = np.isinf(x[low:low + size]) if missing else ~np.isfinite(x[low:low + size])
        if wrong.any():
            row, column = np.argwhere(asnumpy(wrong))[0]
            row += low
            raise ValueError(f"{method}: {name}[{row}, {column}] is {x[row, column]}; remove or fill NaN and infinities first")
    return x


def check_constant(method, X, name="X"):
    """Raise TypeError for rows inside a derivative."""
    if isinstance(X, Tensor):
        raise TypeError(f"{method}: {name} is a Tensor, but only log_prob is differentiable by its rows; call that, or pass "
                        f"{name}.value, which is a constant")


def check_number(method, n_samples):
    """The number of rows to draw, as an int. Raises ValueError unless it is a non-negative integer."""
    if isinstance(n_samples, bool) or not isinstance(n_samples, (int, np.integer)) or n_samples < 0:
        raise ValueError(f"{method}: n_samples must be a non-negative integer, got {n_samples!r}")
    return int(n_samples)


def column_names(method, X):
    """The names of the columns of a DataFrame (whatever has both `columns` and a shape) if all are strings, else None."""
    names = getattr(X, "columns", None)
    if names is None or not hasattr(X, "shape"):
        return None
    names = list(names)
    strings = [isinstance(name, str) for name in names]
    if any(strings) and not all(strings):
        raise TypeError(f"{method}: Feature names are only supported if all input features have string names, but X has "
                        f"{sorted({type(name).__name__ for name in names})} as feature name / column name types. Convert them "
                        "all to strings by using X.columns = X.columns.astype(str)")
    return [str(name) for name in names] if names and all(strings) else None


def check_weights(method, sample_weight, x):
    """Weights (n,) of x's dtype with mean 1 over the rows that count, or None. Raises ValueError."""
    if sample_weight is None:
        return None
    try:
        w = asnumpy(sample_weight)
        if w.dtype.kind == "c":
            raise TypeError
        w = w.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{method}: sample_weight must be numbers, got {type(sample_weight).__name__}") from None
    if w.shape != (len(x),):
        raise ValueError(f"{method}: sample_weight has shape {w.shape}, but X has {len(x)} rows; pass one weight per row")
    if not (np.isfinite(w).all() and (w >= 0).all()):
        i = np.argmin(np.isfinite(w) & (w >= 0))
        raise ValueError(f"{method}: sample_weight[{i}] is {w[i]:g}; weights must be finite, and 0 or more")
    if not w.any():
        raise ValueError(f"{method}: sample_weight is zero everywhere; at least one row must count")
    return (w / w[w > 0].mean()).astype(x.dtype)


def total_weight(sample_weight, x):
    """How many rows of x count, for weights that check_weights takes: their sum, as a row of weight 2 is two rows."""
    return float(len(x) if sample_weight is None else asnumpy(sample_weight).astype(np.float64).sum())


def counting(x, c, weights):
    """The rows of a weight above 0, their context or None, and their weights, None where all are equal."""
    if weights is not None and not weights.all():
        there = weights > 0
        x, c, weights = x[there], c if c is None else c[there], weights[there]
    return x, c, weights if weights is not None and np.ptp(weights) else None


def check_parameter(name, value, shape):
    """A parameter that from_parameters was given, as a finite float64 array of this shape. Raises ValueError."""
    try:
        value = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"from_parameters: {name} must be numbers of shape {shape} ({error})") from None
    if value.shape != shape or not np.isfinite(value).all():
        raise ValueError(f"from_parameters: {name} must be finite and have shape {shape}, got {value.shape}")
    return value


def check_widths(name, widths):
    """The widths as a tuple of positive ints. Raises ValueError naming the hyperparameter."""
    widths = tuple(np.atleast_1d(np.asarray(widths, dtype=object)))
    if any(isinstance(w, bool) or not isinstance(w, (int, np.integer)) or w < 1 for w in widths):
        raise ValueError(f"{name} must be made of positive integers, got {widths[0] if len(widths) == 1 else widths!r}")
    return tuple(map(int, widths))


def check_shapes(arrays, shapes):
    """Raise ValueError unless the arrays by name are floats of these shapes."""
    for name, shape in shapes.items():
        a = arrays[name]
        if a.shape != shape or a.dtype.kind != "f":
            raise ValueError(f"{name} has shape {a.shape} and dtype {a.dtype}, not floats of shape {shape}")


def check_order(order, n):
    """Raise ValueError unless the integers are 0..n - 1 in some order: kernels do not check what they index with."""
    if order.dtype != np.int64 or order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(f"the order of {n} columns holds something else")


def read_only(array):
    """The array on the host, as a view that cannot be written to: for attributes that other numbers depend on."""
    view = asnumpy(array).view()
    view.flags.writeable = False
    return view


def with_article(thing):
    """The name of a class, or that of an object's, as a sentence has it: an Autoencoder, an RBM, a MADE."""
    name = thing if isinstance(thing, str) else type(thing).__name__
    return f"{'an' if name.startswith(tuple('AEIOaeio')) or name in ('NSF', 'RBM') else 'a'} {name}"


def one_line(value):
    """repr(value) in one line, of something large the beginning."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 300 else f"{text[:300]}..."
