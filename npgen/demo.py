"""npgen demo: seven models fitted to real handwritten digits, one table of what each can answer, pictures.

Some see the digits as ink or no ink, others the grey values; nats and distances compare within one of the two spaces only.

Legend: n rows, d = 64 pixels.
"""
import importlib.util
import math
import os
import time
from contextlib import nullcontext

from . import data, plot
from .divergences import energy_distance
from .kernels._jit import on_threads
from .machine import compiling_ahead, query
from .models import MODELS
from .record import n_threads

INK = 8  # of 16: a pixel with so much is black once the digits are binarised
N_SAMPLES = 10_000
N_COMPARED = 2000

# name on the command line, data space, settings, the settings of a run that only checks that everything works
CASES = (
    ("made", "black/white", {}, {"max_epochs": 10}),
    ("vae", "black/white", {"max_epochs": 150}, {"max_epochs": 10}),
    ("autoencoder", "grey 0..16", {"max_epochs": 40}, {"max_epochs": 3}),
    ("gmmn", "grey 0..16", {"max_epochs": 100, "learning_rate": 3e-3}, {"max_epochs": 3}),
    ("gmm", "grey 0..16", {"n_components": 10, "reg_covar": 0.1, "preprocess": "dequantize+logit"}, {}),
    ("realnvp", "grey 0..16", {"patience": 8}, {"max_epochs": 3}),
    ("rbm", "black/white", {"max_epochs": 100, "batch_size": 100}, {"max_epochs": 3}),
)


def run(folder, *, quick=False, seed=0):
    """Fit the models, print the table, draw the pictures into `folder`."""
    os.makedirs(folder, exist_ok=True)
    draws = importlib.util.find_spec("matplotlib") is not None
    x, labels = data.digits()
    train, test = data.train_test_split(x, 0.2, seed)
    _, labels = data.train_test_split(labels, 0.2, seed)
    print(f"Seven models of 8x8 handwritten digits: {len(train):,} to fit, {len(test)} held out.\n")
    print(f"{'model':15} {'data space':11} {'test nats':>9} {'bits/pixel':>10} {'distance':>8}  {'density':8} {'fit, s':>6} "
          f"{'rows/s':>9}  representation")
    with (compiling_ahead("from npgen import demo; demo.query_all()"), plot.beside() if draws else nullcontext() as draw,
          on_threads(n_threads() - 1) if draws else nullcontext()):  # the pictures have the last one's core
        if draws:
            draw(plot.images, os.path.join(folder, "digits.png"), test[:100])
            draw(plot.images, os.path.join(folder, "digits-black-white.png"), data.binarize(test[:100], INK))
        _table(folder, train, test, labels, quick, seed, draw)
    print("\nblack/white: one bit per pixel, ink or none. grey 0..16: integers with uniform noise (dequantised).\n"
          "Nats of different data spaces do not compare. exact: log p(x); bound: at most log p(x);\n"
          "estimate: of log p(x), by importance sampling; none: it draws, and has no log p(x).\n"
          f"distance: the energy distance between the rows held out and {N_COMPARED:,} that are drawn.\n"
          "The first run on a machine compiles as it fits.")
    print(f"\nPictures of digits, samples and representations are in {folder}{os.sep}" if draws else
          "\nNo pictures: matplotlib is not installed (pip install matplotlib).")


def _table(folder, train, test, labels, quick, seed, draw):
    for name, space, settings, hurry in CASES:
        fit_to, held_out = (data.binarize(part, INK) if space == "black/white" else part for part in (train, test))
        model = MODELS[name](random_state=seed, **(settings | hurry if quick else settings))
        seconds, can = _seconds(model.fit, fit_to), model.capabilities
        nats = "-", "-"
        if can.density != "none":
            score = model.score(held_out)
            nats = f"{score:.2f}", f"{-score / (test.shape[1] * math.log(2)):.3f}"
        distance = energy_distance(held_out, model.sample(N_COMPARED, rng=seed)).value  # and compiles what sampling needs
        speed = N_SAMPLES / _seconds(model.sample, N_SAMPLES)
        print(f"{type(model).__name__:15} {space:11} {nats[0]:>9} {nats[1]:>10} {distance:8.3f}  {can.density:8} "
              f"{seconds:6.1f} {_rounded(speed):>9}  {can.representation.partition(' of ')[0]}", flush=True)
        if draw is not None:
            _pictures(draw, folder, name, model, held_out, labels, seed)


def query_all():
    """What launches the kernels of the demo."""
    x, _ = data.digits()
    for name, space, settings, _ in CASES:
        query(MODELS[name](random_state=0, **settings), data.binarize(x, INK) if space == "black/white" else x, asked=True)


def _pictures(draw, folder, name, model, held_out, labels, seed):
    path = os.path.join(folder, "{}-{}.png").format
    draw(plot.images, path(name, "samples"), model.sample(100, rng=seed))
    if not model.n_latent_:
        return
    what = f"{type(model).__name__}: {model.capabilities.representation}"
    draw(plot.latent, path(name, "latent"), model.encode(held_out), labels, title=what)


def _seconds(work, *args):
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def _rounded(value):
    digits = 1 - int(math.floor(math.log10(value)))
    return f"{round(value, digits):,.0f}"
