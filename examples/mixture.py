"""A mixture of Bernoullis learns black and white digits, and fills in the half of a digit that it cannot see.

python examples/mixture.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import Mixture, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

images, _ = data.digits()
train, test = data.train_test_split(data.binarize(images, 8))
some, others = data.train_test_split(train, seed=1)  # to choose by: what is chosen on test would be too good on test

# Each component is a digit's shape: 64 probabilities of ink.
print("components   nats, held out")
held_out = {}
for k in (1, 10, 30, 60):
    held_out[k] = Mixture(k, heads="bernoulli", smoothing=1e-3, max_iter=500, random_state=0).fit(some).score(others)
    print(f"{k:10} {held_out[k]:16.2f}")
best = Mixture(max(held_out, key=held_out.get), heads="bernoulli", smoothing=1e-3, max_iter=500, random_state=0).fit(train)
print(f"\n{best.n_components} components, fitted to all but the test digits, give those {best.score(test):.2f} nats")

# A missing value is NaN, and counts for nothing: the upper half decides which components are likely, and they the rest.
rows = test[:20]
seen = rows.astype(float)
seen[:, 32:] = np.nan
guess = best.decode(best.encode(seen))
right = np.mean((guess[:, 32:] > 0.5) == rows[:, 32:])
most = np.mean((train[:, 32:].mean(axis=0) > 0.5) == rows[:, 32:])
print(f"\nlower halves of 20 digits: {right:.1%} of pixels right, {most:.1%} by each pixel's commoner colour")

filled = np.where(np.isnan(seen), guess, rows)
plot.images(folder / "mixture.png", np.concatenate([rows, np.where(np.isnan(seen), 0.5, seen), filled]), n_columns=20)
print(f"\npicture: {folder / 'mixture.png'}\n  digits; what the mixture sees of them; what it makes of that")
