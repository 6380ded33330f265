"""An autoencoder squeezes digits into eight numbers; a density of these codes makes it a model that draws.

python examples/autoencoder.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import Autoencoder, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

images, _ = data.digits()
train, test = (part.astype(np.float32) for part in data.train_test_split(images, 0.2, seed=0))
model = Autoencoder(n_latent=8, hidden=(256,), preprocess=None, max_epochs=100, random_state=0).fit(train)

# Principal components are the best linear codes of as many numbers.
centre = train.mean(axis=0)
directions = np.linalg.svd(train - centre, full_matrices=False)[2][:8]
linear = centre + (test - centre) @ directions.T @ directions
back = model.decode(model.encode(test))
for name, rows in (("eight principal components", linear), ("autoencoder of eight codes", back)):
    print(f"{name}: squared error {np.square(rows - test).sum(axis=1).mean():6.1f} per digit")

# Codes drawn from a normal distribution lie where no digit's does; those of a mixture fitted to the codes do not.
codes = model.encode(train)
blind = model.decode(np.random.default_rng(0).normal(size=(20, 8)) * codes.std(axis=0) + codes.mean(axis=0))
pictures = np.concatenate([test[:20], back[:20], blind, model.sample(20, rng=0)])
plot.images(folder / "autoencoder.png", np.clip(pictures, 0, 16), n_columns=20)
print(f"\npicture: {folder / 'autoencoder.png'}\n  digits, what comes back, codes drawn at random, samples")
