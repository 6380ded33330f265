"""Arithmetic with real handwritten digits: thicker, slanted or another digit is a direction of a latent space.

The mean code of thick digits less that of thin ones is a vector: added, it makes a digit thicker; taken away, thinner. So it is
in a VAE's space as in RealNVP's. Then lines between digits, single dimensions, and digits drawn given their class.

python examples/latent_arithmetic.py [folder for the pictures]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import VAE, BayesClassifier, GaussianMixture, RealNVP, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

X, labels = data.digits()
train, test = data.train_test_split(X)
digit, digit_test = data.train_test_split(labels)
MODELS = {"vae": VAE(n_latent=12, variance="feature", max_epochs=100, random_state=0).fit(train),
          "realnvp": RealNVP(max_epochs=60, random_state=0).fit(train)}
MEANS = np.stack([train[digit == k].mean(axis=0) for k in range(10)])
TYPICAL = np.argsort(np.square(test - MEANS[digit_test]).sum(axis=1))  # digits held out, those most like their class first
EACH = np.array([TYPICAL[digit_test[TYPICAL] == k][3] for k in range(10)])


def thickness(rows):
    """How much ink a digit has, as a share of what there could be."""
    return rows.mean(axis=1) / 16


def slant(rows):
    """By how many columns a digit leans to the right for each row that it rises: -cov(column, row) / var(row) of its ink."""
    ink = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-9)
    row, column = np.divmod(np.arange(64), 8)
    row, column = row - ink @ row[:, None], column - ink @ column[:, None]
    return -np.sum(ink * row * column, axis=1) / np.sum(ink * row**2, axis=1)


def direction(codes, values):
    """How the codes of a class change, on average, where a value is one standard deviation higher."""
    for k in range(10):
        codes[digit == k] -= codes[digit == k].mean(axis=0)
        values[digit == k] -= values[digit == k].mean()
    return values @ codes / (values.std() * len(values))


def picture(name, lines, n_columns=10):
    plot.images(folder / f"latent_arithmetic{name}.png", np.clip(np.concatenate(lines), 0, 16), n_columns=n_columns)


moved = {thickness: [], slant: []}
for name, model in MODELS.items():
    codes, code = model.encode(train), model.encode(test)

    # A digit of each class, thinner and thicker, leaning to the left and to the right: a line each of -3 to 3 of the vector.
    for measure, lines in moved.items():
        vector = direction(codes.copy(), measure(train))
        rows = [model.decode(code + step * vector) for step in (-3, -1.5, 0, 1.5, 3)]
        lines += [each[EACH] for each in rows]
        print(f"{name:7} {measure.__name__:9} of digits held out, moved by -3 to 3 of its vector: "
              + ", ".join(f"{measure(np.clip(each, 0, 16)).mean():.2f}" for each in rows))

    # Classes: the mean of a class less that of another is a vector too. Noughts become sixes, ones sevens, and so on.
    lines = []
    for a, b in ((0, 6), (1, 7), (3, 5)):
        vector = codes[digit == b].mean(axis=0) - codes[digit == a].mean(axis=0)
        some = code[TYPICAL[digit_test[TYPICAL] == a][:10]]
        lines += [model.decode(some + share * vector) for share in (0, 0.6, 1.2)]
    picture(f"-classes-{name}", lines)

    # Lines between two digits: straight ones, as long as noise is at each of their points.
    first, last = code[EACH], np.roll(code[EACH], -1, axis=0)
    share = np.linspace(0, 1, 10)[:, None, None]
    line = (1 - share) * first + share * last
    size = np.linalg.norm(line, axis=2, keepdims=True)
    length = (1 - share) * size[:1] + share * size[-1:]
    line = np.swapaxes(line / size * length, 0, 1).reshape(100, -1)
    picture(f"-lines-{name}", [model.decode(line)])

    # Single dimensions, those by which a three changes most: one a line.
    ends = [np.repeat(code[EACH[[3]]], model.n_latent_, axis=0) for _ in range(2)]
    for end, value in zip(ends, (-2.5, 2.5), strict=True):
        np.fill_diagonal(end, value)
    change = np.square(model.decode(ends[0]) - model.decode(ends[1])).sum(axis=1)
    line = np.repeat(code[EACH[[3]]], 60, axis=0)
    line[np.arange(60), np.repeat(np.argsort(-change)[:6], 10)] = np.tile(np.linspace(-2.5, 2.5, 10), 6)
    picture(f"-dimensions-{name}", [model.decode(line)])

    # Digits drawn given their class, one class a column: codes by a normal distribution for each class.
    classes = BayesClassifier(GaussianMixture(1, reg_covar=0.1), random_state=0).fit(codes, digit)
    picture(f"-given-{name}", [model.decode(classes.sample(y=np.tile(np.arange(10), 8), rng=0))])
picture("", moved[thickness])
picture("-slant", moved[slant])
print(f"\npictures: {folder / 'latent_arithmetic.png'}, -slant, and -classes, -lines, -dimensions and -given of each model")
