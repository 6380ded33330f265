"""RealNVP bends a normal distribution into two moons: an exact density, and a map that runs both ways.

python examples/realnvp.py [folder for the pictures]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import GaussianMixture, RealNVP, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.moons(5000, seed=0), data.moons(5000, seed=1)
model = RealNVP(n_couplings=8, hidden=(64, 64), max_epochs=100, batch_size=200, random_state=1).fit(train)
one, twenty = (GaussianMixture(k, random_state=0).fit(train) for k in (1, 20))
print(f"held-out log p(x): {model.score(test):.3f} nats   (one normal: {one.score(test):.3f}; twenty, which in two dimensions "
      f"are hard to beat: {twenty.score(test):.3f})")

# The density is a density: on a fine grid over the plane it adds up to one.
side = np.linspace(-8, 8, 401)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
print(f"its integral over the plane: {np.exp(model.log_prob(grid)).sum() * (side[1] - side[0]) ** 2:.5f}")

# encode takes data to noise, decode takes noise to data; one undoes the other, and the noise is standard normal.
noise = model.encode(test)
print(f"|decode(encode(x)) - x| <= {np.abs(model.decode(noise) - test).max():.1e}")
print(f"noise: mean {noise.mean(axis=0).round(2)}, std {noise.std(axis=0).round(2)}")

upper = np.where(test[:, 1] > 0.25, "upper half", "lower half")
plot.density(folder / "realnvp.png", model.log_prob, (-4, 4, -3, 3), title="RealNVP on two moons")
plot.points(folder / "realnvp-noise.png", noise, upper, title="the moons, encoded")
print(f"\npictures: {folder / 'realnvp.png'}, {folder / 'realnvp-noise.png'}")
