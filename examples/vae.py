"""A VAE with two latent dimensions lays handwritten digits out on a map, walks between them and fills in what is hidden.

python examples/vae.py [folder for the pictures]
"""
import sys
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from npgen import VAE, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

images, digit = data.digits()
train, test = data.train_test_split(data.binarize(images, 8))
digit, digit_test = data.train_test_split(digit)
model = VAE(n_latent=2, max_epochs=100, random_state=0).fit(train)

# The ELBO bounds log p(x) from below; more importance samples close the gap.
print(f"ELBO                           {model.elbo(test).mean():.3f} nats")
for n in (1, 10, 100, 1000):
    log_prob, error = model.importance_log_prob(test, n_importance=n)
    print(f"log p(x), {n:4} sample{'s' if n > 1 else ' '} a row      {log_prob.mean():.3f}")

# A tighter bound to follow, of several samples a row; a prior that learns where the codes are.
FREER = {"IWAE of 5 samples": {"objective": "iwae", "k": 5}, "a flow as prior": {"prior": "flow"}}
for words, options in FREER.items():
    freer = VAE(n_latent=2, max_epochs=100, random_state=0, **options).fit(train)
    print(f"log p(x), {words:20} {freer.importance_log_prob(test, n_importance=1000)[0].mean():.3f}")

# Nearest neighbours on the map: did it learn which digits look alike, though nobody told it which is which?
z, z_test = model.encode(train), model.encode(test)
nearest = np.argmin(((z_test[:, None] - z) ** 2).sum(axis=2), axis=1)
print(f"the nearest neighbour is the same digit for {np.mean(digit[nearest] == digit_test):.0%} of the held-out digits")

# The map: codes at the quantiles of the prior, each drawn as the digit that it stands for.
side = ndtri((np.arange(15) + 0.5) / 15)
codes = np.stack(np.meshgrid(side, side[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)
plot.images(folder / "vae.png", model.decode(codes), n_columns=15)
plot.latent(folder / "vae-latent.png", z_test, digit_test, title="held-out digits, posterior mean")

# Lines between digits; and the lower halves of digits, hidden: their means given the upper halves, and the digits themselves.
plot.images(folder / "vae-lines.png", model.interpolate(test[:8], test[8:16], 12).reshape(-1, 64), n_columns=12)
hidden = np.where(np.arange(64) < 32, test[:12], np.nan)
imputed = model.impute(hidden)
plot.images(folder / "vae-halves.png", np.concatenate([np.nan_to_num(hidden), imputed, test[:12]]), n_columns=12)
right = np.mean((imputed > 0.5) == test[:12], where=np.isnan(hidden))
print(f"of the pixels in hidden lower halves {right:.0%} are right; by the mean of each, "
      f"{np.mean((train.mean(axis=0) > 0.5) == test[:12], where=np.isnan(hidden)):.0%}")
print(f"\npictures: {', '.join(str(folder / f'vae{name}.png') for name in ('', '-latent', '-lines', '-halves'))}")
