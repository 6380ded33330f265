"""A network that turns noise into rows, and a critic that it has to deceive: what each loss finds, and what the critic sees.

python examples/gan.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import GAN, data, plot
from npgen.divergences import energy_distance

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.load("eight-gaussians", n=4000, seed=0), data.load("eight-gaussians", n=2000, seed=1)
print(f"energy distance between rows and as many others: {float(energy_distance(test, train[:2000])):.4f}")
models = {}
for loss in ("relativistic", "nonsaturating", "reverse_kl"):
    models[loss] = GAN(loss=loss, n_noise=4, learning_rate=1e-3, max_epochs=60, random_state=0).fit(train)
    print(f"fitted by {loss:14}: {-models[loss].score(test):.4f} from its samples to held-out rows")

model = models["relativistic"]
print(f"\nthe critic of held-out rows, of samples, of the middle: {model.critic(test).mean():.2f}, "
      f"{model.critic(model.sample(2000, rng=0)).mean():.2f}, {model.critic(np.zeros((1, 2)))[0]:.2f}")
plot.points(folder / "gan.png", model.sample(3000, rng=0), title="samples of a GAN")
print(f"\npicture: {folder / 'gan.png'}")
