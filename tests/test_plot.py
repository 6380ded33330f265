"""plot.py: the right pixels, whole files, and nobody else's matplotlib settings touched."""
import os
import subprocess
import sys

import numpy as np
import pytest

from npgen import data, plot

matplotlib = pytest.importorskip("matplotlib")
image = pytest.importorskip("matplotlib.image")

X, Y = data.digits()
HISTORY = [{"epoch": i + 1, "train_nats": 2.0 - 0.1 * i, "valid_nats": None, "learning_rate": 1e-3} for i in range(5)]
PICTURES = {
    "images": lambda path: plot.images(path, X[:10]),
    "points": lambda path: plot.points(path, data.load("moons", n=50)),
    "points, labels": lambda path: plot.points(path, X[:50, 20:22], labels=Y[:50].astype(str), title="digits"),
    "latent 1": lambda path: plot.latent(path, X[:50, 20:21]),
    "latent 1, labels": lambda path: plot.latent(path, X[:50, 20:21], labels=Y[:50].astype(str)),
    "latent 2": lambda path: plot.latent(path, X[:50, 20:22]),
    "latent 64, labels": lambda path: plot.latent(path, X[:50], labels=Y[:50]),
    "latent constant": lambda path: plot.latent(path, np.ones((5, 3))),
    "density": lambda path: plot.density(path, lambda x: -0.5 * (x**2).sum(axis=1), (-3, 3, -2, 2)),
    "history": lambda path: plot.history(path, HISTORY),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_a_png_with_something_on_it(tmp_path, name):
    path = tmp_path / "x.png"
    PICTURES[name](path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and os.listdir(tmp_path) == ["x.png"]
    picture = image.imread(path)
    assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.01


def test_image_grid_has_the_pixels_of_the_rows(tmp_path):
    plot.images(tmp_path / "x.png", X[:7], n_columns=3)
    picture = image.imread(tmp_path / "x.png")[..., 0]
    pixel = 800 // (3 * 8)
    gap = 8 * pixel // 16
    assert picture.shape == (3 * 8 * pixel + 4 * gap,) * 2
    for i in range(7):
        for corner in (0, pixel - 1):
            at = [gap + k * (8 * pixel + gap) + pixel * np.arange(8) + corner for k in divmod(i, 3)]
            np.testing.assert_allclose(picture[np.ix_(*at)], 1 - X[i].reshape(8, 8) / 16, atol=1 / 255)


def test_colour_images_keep_their_colours(tmp_path):
    row = np.zeros((4, 4, 3))
    row[:2, :, 0], row[2:, :, 2] = 1, 1
    plot.images(tmp_path / "x.png", row.reshape(1, -1))
    picture = image.imread(tmp_path / "x.png")[..., :3]
    height, width = picture.shape[:2]
    assert picture[height // 4, width // 2].tolist() == [1, 0, 0]
    assert picture[3 * height // 4, width // 2].tolist() == [0, 0, 1]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_images_of_odd_values_do_not_fail(tmp_path, value):
    plot.images(tmp_path / "x.png", np.full((3, 16), value))


@pytest.mark.parametrize("n_columns, shape", [(64, (8, 8)), (784, (28, 28)), (3072, (32, 32, 3)), (2, None), (4, None),
                                              (65, None), (48, (4, 4, 3))])
def test_image_shape(n_columns, shape):
    assert plot.image_shape(n_columns) == shape


@pytest.mark.parametrize("draw, message", [
    (lambda p: plot.images(p, np.zeros((2, 5))), r"rows has 5 columns, which are no square image; give shape="),
    (lambda p: plot.images(p, np.zeros((2, 5)), shape=(2, 2)), r"do not make images of shape \(2, 2\)"),
    (lambda p: plot.images(p, np.zeros(4)), r"rows has shape \(4,\); give images as rows"),
    (lambda p: plot.points(p, np.zeros((2, 3))), r"x has shape \(2, 3\); points are drawn for \(n, 2\)"),
    (lambda p: plot.latent(p, np.zeros(3)), r"z has shape \(3,\); give codes"),
], ids=["columns", "shape", "vector", "3-d", "codes"])
def test_wrong_shapes_are_named(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "x.png")
    assert os.listdir(tmp_path) == []


def test_without_matplotlib_one_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in PICTURES.values():
        with pytest.raises(ImportError, match=r"need matplotlib, which is not installed; pip install matplotlib"):
            draw(tmp_path / "x.png")
    assert os.listdir(tmp_path) == []


def test_settings_and_backend_stay_as_they_were(tmp_path):
    before = dict(matplotlib.rcParams)
    for name in ("images", "latent 64, labels", "density"):
        PICTURES[name](tmp_path / "x.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.long
def test_importing_plot_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    code = ("import sys; from npgen import plot; assert 'matplotlib' not in sys.modules; "
            f"plot.points({str(tmp_path / 'x.png')!r}, [[0, 1], [1, 0]]); "
            "assert 'matplotlib.pyplot' not in sys.modules")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        plot.images(path, X[:4])
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.png"]


def test_another_process_draws_the_same_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for draw in (lambda picture, *args, **params: picture(*args, **params)), None:
        with plot.beside() as beside:
            folder = "here" if draw else "there"
            os.mkdir(folder)
            draw = draw or beside
            draw(plot.images, f"{folder}/images.png", X[:10])
            draw(plot.latent, f"{folder}/latent.png", X[:50], Y[:50], title="digits")
    for name in "images.png", "latent.png":
        np.testing.assert_array_equal(image.imread(f"here/{name}"), image.imread(f"there/{name}"))


def test_a_picture_that_another_process_cannot_draw_is_an_error_here(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="a picture could not be drawn, as its process says above"), plot.beside() as draw:
        draw(plot.images, tmp_path / "a.png", X[0])
    assert "give images as rows" in capfd.readouterr().err
    with pytest.raises(KeyError), plot.beside() as draw:  # whatever ends the block ends it
        draw(plot.images, tmp_path / "b.png", X[:10])
        raise KeyError
