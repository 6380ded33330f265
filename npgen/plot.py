"""Pictures as PNG files: image grids, points, latent spaces, densities in the plane, training histories.

matplotlib is imported inside, and only its object interface is used: no backend is chosen, no global state touched.
Files are written atomically. Legend: n rows, d columns.
"""
import contextlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from . import checkpoint

_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
_PICTURE = 800  # width that grids of small images are enlarged to, in pixels


def images(path, rows, shape=None, n_columns=None):
    """A grid of images, one per row, dark where the values are large; colours as they are.

    rows       (n, d)
    shape      (height, width) or (height, width, 3); default: a square, d = side^2 or 3 side^2
    n_columns  images in a line of the grid; default about sqrt(n)

    Raises ValueError where d is no such square and no shape is given.
    """
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"rows has shape {rows.shape}; give images as rows (n, d)")
    shape = image_shape(rows.shape[1]) if shape is None else tuple(shape)
    if shape is None or math.prod(shape) != rows.shape[1]:
        what = "are no square image" if shape is None else f"do not make images of shape {shape}"
        raise ValueError(f"rows has {rows.shape[1]} columns, which {what}; give shape=(height, width)")
    n_columns = n_columns or math.ceil(math.sqrt(len(rows)))
    rows = np.where(np.isfinite(rows), rows, 0)
    low, high = rows.min(), rows.max()
    values = ((rows - low) / ((high - low) or 1)).reshape(-1, *shape)
    values = 1 - values[..., None].repeat(3, axis=-1) if len(shape) == 2 else values
    enlarge = max(1, _PICTURE // (n_columns * shape[1]))
    values = values.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    gap = max(1, values.shape[2] // 16)
    height, width = values.shape[1] + gap, values.shape[2] + gap
    n_lines = math.ceil(len(rows) / n_columns)
    canvas = np.full((n_lines * height + gap, n_columns * width + gap, 3), 0.85)
    for i, value in enumerate(values):
        top, left = i // n_columns * height + gap, i % n_columns * width + gap
        canvas[top:top + value.shape[0], left:left + value.shape[1]] = value
    _matplotlib()
    from matplotlib.image import imsave
    _save(path, lambda file: imsave(file, canvas, format="png"))


def image_shape(n_columns):
    """(side, side) or (side, side, 3) if d = n_columns is such a product, at least 4x4, else None."""
    for channels in ((), (3,)):
        side = math.isqrt(n_columns // math.prod(channels))
        if side >= 4 and side * side * math.prod(channels) == n_columns:
            return side, side, *channels
    return None


def points(path, x, labels=None, title=None):
    """The points x (n, 2) in the plane, coloured by labels (n,) if given."""
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x has shape {x.shape}; points are drawn for (n, 2)")
    figure, axes = _figure(title)
    _scatter(axes, x, labels)
    axes.set_aspect("equal", adjustable="datalim")
    _save(path, figure.savefig)


def latent(path, z, labels=None, title=None):
    """Codes z (n, L) in the plane of their first two principal components, coloured by labels (n,) if given."""
    z = np.asarray(z, np.float64)
    if z.ndim != 2:
        raise ValueError(f"z has shape {z.shape}; give codes (n, L)")
    figure, axes = _figure(title)
    if z.shape[1] > 2:
        z = z - z.mean(axis=0)
        variance, direction = np.linalg.eigh(z.T @ z)
        share = variance[:-3:-1] / (variance.sum() or 1)
        z = z @ direction[:, :-3:-1]
        axes.set_xlabel(f"principal component 1 ({share[0]:.0%} of variance)")
        axes.set_ylabel(f"principal component 2 ({share[1]:.0%})")
    elif z.shape[1] == 1:
        line = np.zeros(len(z)) if labels is None else np.unique(labels, return_inverse=True)[1]
        z = np.column_stack([z, line])
    _scatter(axes, z, labels)
    _save(path, figure.savefig)


def density(path, log_prob, bounds, title=None, n_cells=300):
    """The density exp(log_prob) over a rectangle of the plane.

    log_prob  (m, 2) -> (m,) nats, such as a model's method
    bounds    (x_low, x_high, y_low, y_high)
    """
    x_low, x_high, y_low, y_high = bounds
    x = x_low + (x_high - x_low) * (np.arange(n_cells) + 0.5) / n_cells
    y = y_low + (y_high - y_low) * (np.arange(n_cells) + 0.5) / n_cells
    cells = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    figure, axes = _figure(title)
    picture = axes.imshow(np.exp(np.asarray(log_prob(cells))).reshape(n_cells, n_cells), extent=bounds, origin="lower",
                          cmap="magma", interpolation="bilinear")
    figure.colorbar(picture, ax=axes, label="density", shrink=0.8)
    _save(path, figure.savefig)


def history(path, history, title=None):
    """The loss in nats over the epochs: history is a model's history_, a list of dicts with "epoch" and values named *_nats."""
    figure, axes = _figure(title, size=(6.4, 4.2))
    epoch = [entry["epoch"] for entry in history]
    for i, name in enumerate(name for name in history[0] if name.endswith("_nats")):
        nats = np.array([entry[name] for entry in history], np.float64)
        if np.isfinite(nats).any():
            axes.plot(epoch, nats, label=name.removesuffix("_nats"), color=_COLORS[i], linewidth=1.6)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(path, figure.savefig)


def selection(path, table, title=None):
    """The criteria of mixtures over their numbers of components: table is the list that npgen.select_n_components gives."""
    figure, axes = _figure(title, size=(6.4, 4.2))
    k = [entry["n_components"] for entry in table]
    for i, name in enumerate(name for name in table[0] if name not in ("n_components", "nats")):
        values = [entry[name] for entry in table]
        axes.plot(k, values, label=name, color=_COLORS[i], marker="o", markersize=4, linewidth=1.6)
        axes.plot(k[int(np.argmin(values))], min(values), marker="o", markersize=10, fillstyle="none", color=_COLORS[i])
    axes.set_xlabel("components")
    axes.set_ylabel("criterion, smaller is better")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(path, figure.savefig)


@contextlib.contextmanager
def beside():
    """A block in which draw(picture, path, *arrays, **params) has another process draw it: draw(plot.images, "a.png", rows).

    matplotlib takes as long as a small model's fit. Raises RuntimeError at the end where a picture could not be drawn.
    """
    program = "import sys; from npgen import plot; plot.draw_all(sys.stdin.buffer)"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, cwd=Path(__file__).parent.parent,
                               start_new_session=True)  # which Ctrl-C ends by way of this process

    def draw(picture, path, *arrays, **params):
        np.savez(file := io.BytesIO(), *arrays)
        asked = json.dumps([picture.__name__, os.path.abspath(path), params, file.tell()])
        with contextlib.suppress(BrokenPipeError):  # of a process that has failed, and said why
            process.stdin.write(asked.encode() + b"\n" + file.getvalue())
            process.stdin.flush()

    try:
        yield draw
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if process.wait():
            raise RuntimeError("a picture could not be drawn, as its process says above")
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def draw_all(file):
    """Draw what beside() has written to a file, until it ends."""
    for asked in iter(file.readline, b""):
        picture, path, params, size = json.loads(asked)
        with np.load(io.BytesIO(file.read(size))) as arrays:
            globals()[picture](path, *arrays.values(), **params)


def _scatter(axes, x, labels):
    size, alpha = (6, 0.35) if len(x) > 3000 else (12, 0.7)
    if labels is None:
        axes.scatter(*x.T, s=size, alpha=alpha, color=_COLORS[0], linewidths=0)
        return
    labels = np.asarray(labels)
    for i, label in enumerate(np.unique(labels)):
        axes.scatter(*x[labels == label].T, s=size, alpha=alpha, color=_COLORS[i % 10], linewidths=0, label=str(label))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)


def _figure(title, size=(6, 5)):
    _matplotlib()
    from matplotlib.figure import Figure
    figure = Figure(size, dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title or "")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(path, draw):
    picture = io.BytesIO()
    draw(picture)
    with checkpoint.replacing(path) as file:
        file.write(picture.getvalue())


def _matplotlib():
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("pictures need matplotlib, which is not installed; pip install matplotlib") from None
